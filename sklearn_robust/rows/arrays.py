"""Arrays as rows, and the questions that solvers ask of any rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import is_torch_array
from scipy import sparse

from sklearn_robust._array_api import Array, namespace
from sklearn_robust._documentation import see
from sklearn_robust._parameters import refuse_lazy
from sklearn_robust.rows.protocols import GramRows, Rows

# entries of X that are copied at a time, two megabytes in float64: about a processor's cache
_BLOCK_ENTRIES = 2**18
# the most entries of sparse rows whose absolute values are held
_ABSOLUTE_ENTRIES = 2**15
# rows of a block at least from which a Gram matrix is computed: fewer cost as much time to add
_GRAM_ROWS = 512
# products in a Gram matrix, f^2 n, from which it is computed in single precision
_SINGLE_FROM = 1e8
# columns of a Gram matrix that are always affordable, however few entries sparse data have
_FEW_COLUMNS = 400
# probes of the estimate of the mean square: its relative standard deviation is at most sqrt(2 / 16)
_PROBES = 16


@dataclass(frozen=True)
class _HeldRows:
    """Rows that one array holds: what its kinds have in common."""

    X: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.X.shape)

    @property
    def dtype(self) -> Any:
        return self.X.dtype

    @property
    def n_terms(self) -> int:
        return int(self.X.shape[1])

    @property
    def entries(self) -> Any:
        """The entries of X, without the zeros that sparse data leave out."""
        return self.X

    @cached_property
    def largest(self) -> float:
        """The largest entry in size."""
        return _largest(self.entries)

    def square_sum(self) -> float:
        """The sum of ||x_i||^2."""
        return float(np.linalg.norm(self.entries)) ** 2

    def row_blocks(self) -> Iterator[tuple[slice, Any]]:
        """All rows as one block, and where they lie."""
        yield slice(0, self.shape[0]), self


@dataclass(frozen=True)
class DenseRows(_HeldRows):
    """A NumPy array. Where X is in single precision the products go over blocks of rows in double
    precision: X is never copied whole.
    """

    X: np.ndarray

    def scores(self, coef: np.ndarray) -> np.ndarray:
        """W X^T."""
        if self.X.dtype == coef.dtype:
            return coef @ self.X.T
        return np.concatenate([coef @ block.T for _, block in self._blocks()], axis=1)

    def weighted_sum(self, weights: np.ndarray) -> np.ndarray:
        """A X."""
        if self.X.dtype == weights.dtype:
            return weights @ self.X
        return sum(weights[:, at] @ block for at, block in self._blocks())

    def score_sizes(self, coef: np.ndarray) -> np.ndarray:
        """``|W| |X|^T``."""
        if self.X.dtype == coef.dtype == np.longdouble:
            return np.abs(coef) @ np.abs(self.X).T
        return np.concatenate(
            [np.abs(coef) @ np.abs(block, out=block).T for _, block in self._blocks()], axis=1
        )

    def sum_sizes(self, weights: np.ndarray) -> np.ndarray:
        """``|A| |X|``."""
        if self.X.dtype == weights.dtype == np.longdouble:
            return np.abs(weights) @ np.abs(self.X)
        return sum(
            np.abs(weights[:, at]) @ np.abs(block, out=block) for at, block in self._blocks()
        )

    def standardised(self, *, centred: bool) -> tuple[np.ndarray, float]:
        """The rows, less their mean if that is asked for, over their root mean square; and that."""
        X = self.X - self.X.mean(axis=0) if centred else self.X
        unit = _root_mean_square(X, self.X.shape[0])
        return X / unit, unit

    def take(self, index: np.ndarray) -> np.ndarray:
        """A copy of the rows at these places."""
        return self.X[index]

    def extended(self) -> np.ndarray:
        """A copy in the longest floating point of the machine."""
        return self.X.astype(np.longdouble)

    def mean(self) -> np.ndarray:
        """The mean of the rows."""
        return self.X.mean(axis=0, dtype=np.float64)

    def most_gram_columns(self) -> int | None:
        """Any number."""
        return None

    def scores_on(self, columns: np.ndarray | slice, coef: np.ndarray) -> np.ndarray:
        """X w, by all columns: a copy of some of them takes longer."""
        return self.scores(coef[None])[0]

    def weighted_gram(
        self,
        columns: np.ndarray | slice,
        centre: np.ndarray,
        weights: np.ndarray,
        labels: np.ndarray,
        *,
        exact: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The moments, over blocks of rows; in single precision where they are many products.

        With the roots of the weights times the rows, 1 and the labels as columns, it is a product
        of a matrix with its own transpose, half of which BLAS computes.
        """
        f, n = len(centre), self.X.shape[0]
        kind = np.float64 if exact or f * f * n < _SINGLE_FROM else np.float32
        roots = np.sqrt(weights).astype(kind, copy=False)
        gram, product = np.zeros((f + 2, f + 2)), np.empty((f + 2, f + 2), kind)
        length = _block_length(f, least=_GRAM_ROWS)
        held = np.empty((min(length, n), f + 2), kind)
        centred = bool(centre.any())
        for at in slices(n, length):
            block, root = held[: at.stop - at.start], roots[at, None]
            rows, part = self.X[at, columns], block[:, :f]
            if centred:
                rows = np.subtract(rows, centre, part, dtype=kind, casting="same_kind")
            np.multiply(rows, root, part, dtype=kind, casting="same_kind")
            block[:, f] = root[:, 0]
            np.multiply(labels[at], root[:, 0], block[:, f + 1], dtype=kind, casting="same_kind")
            gram += np.matmul(block.T, block, out=product)
        return gram[:f, :f].copy(), gram[:f, f].copy(), gram[:f, f + 1].copy()

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Blocks of rows in double precision, and where each lies; a block lasts until the next."""
        n, d = self.X.shape
        length = _block_length(d)
        held = np.empty((min(length, n), d))  # fresh memory takes longer than the conversion
        for at in slices(n, length):
            block = held[: at.stop - at.start]
            block[...] = self.X[at]
            yield at, block


@dataclass(frozen=True)
class SparseRows(_HeldRows):
    """A scipy.sparse array or matrix; it is never centred, which would fill it."""

    @property
    def entries(self) -> np.ndarray:
        return self.X.data

    @cached_property
    def n_terms(self) -> int:
        """The most entries of a row."""
        return int(self.X.count_nonzero(axis=1).max())

    def scores(self, coef: np.ndarray) -> np.ndarray:
        """W X^T."""
        return np.ascontiguousarray((self.X @ coef.T).T)

    def weighted_sum(self, weights: np.ndarray) -> np.ndarray:
        """A X."""
        return np.ascontiguousarray((self.X.T @ weights.T).T)

    def score_sizes(self, coef: np.ndarray) -> np.ndarray:
        """``|W| |X|^T``."""
        sizes = np.abs(coef)
        found = np.empty((len(coef), self.X.shape[0]), np.result_type(coef, self.X))
        for at, X in self._absolute_blocks():
            found[:, at] = (X @ sizes.T).T
        return found

    def sum_sizes(self, weights: np.ndarray) -> np.ndarray:
        """``|A| |X|``."""
        sizes = np.abs(weights)
        found = np.zeros((len(weights), self.X.shape[1]), np.result_type(weights, self.X))
        for at, X in self._absolute_blocks():
            found += (X.T @ sizes[:, at].T).T
        return found

    def _absolute_blocks(self) -> Iterator[tuple[slice, Any]]:
        """Rows with the absolute values of their entries, of which no whole copy is made."""
        n, nnz = self.X.shape[0], self.X.nnz
        for at in slices(n, max(1, _ABSOLUTE_ENTRIES * n // max(1, nnz))):
            yield at, abs(self.X[at])

    def standardised(self, *, centred: bool) -> tuple[Any, float]:
        """The rows over their root mean square, and that; sparse rows are not centred."""
        unit = _root_mean_square(self.X.data, self.X.shape[0])
        return self.X / unit, unit

    def take(self, index: np.ndarray) -> np.ndarray:
        """A dense copy of the rows at these places."""
        return self.X[index].toarray()

    def extended(self) -> np.ndarray:
        """A dense copy in the longest floating point of the machine."""
        return self.X.toarray().astype(np.longdouble)

    def mean(self) -> np.ndarray:
        """Zero: sparse rows are not centred."""
        return np.zeros(self.X.shape[1])

    def most_gram_columns(self) -> int | None:
        """At most the columns whose Gram matrix has a quarter of the entries of X."""
        return most_sparse_gram_columns(self.X.nnz)

    def scores_on(self, columns: np.ndarray | slice, coef: np.ndarray) -> np.ndarray:
        """X w, by the columns alone where they are few."""
        if isinstance(columns, slice) or 4 * len(columns) > len(coef):
            return self.scores(coef[None])[0]
        return self.X[:, columns] @ coef[columns]

    def weighted_gram(
        self,
        columns: np.ndarray | slice,
        centre: np.ndarray,
        weights: np.ndarray,
        labels: np.ndarray,
        *,
        exact: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The moments, about zero."""
        X = self.X[:, columns]
        weighted = X.multiply(weights[:, None]).T.tocsr()
        gram = (weighted @ X).toarray().astype(np.float64)
        return gram, weighted @ np.ones_like(weights), weighted @ labels


ArrayRows = DenseRows | SparseRows


@dataclass(frozen=True)
class TensorRows(_HeldRows):
    """A torch tensor, on any device; products are in its own type."""

    def scores(self, coef: Array) -> Array:
        """W X^T."""
        return coef @ self.X.T

    def weighted_sum(self, weights: Array) -> Array:
        """A X."""
        return weights @ self.X

    def score_sizes(self, coef: Array) -> Array:
        """``|W| |X|^T``."""
        return abs(coef) @ abs(self.X).T

    def sum_sizes(self, weights: Array) -> Array:
        """``|A| |X|``."""
        return abs(weights) @ abs(self.X)

    def square_sum(self) -> float:
        """The sum of ||x_i||^2."""
        return float(namespace(self.X).linalg.vector_norm(self.X)) ** 2


@dataclass(frozen=True)
class _ColumnsOf:
    """Some columns of rows that offer products only."""

    whole: Rows
    columns: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.whole.shape[0], len(self.columns))

    @property
    def dtype(self) -> Any:
        return self.whole.dtype

    @property
    def n_terms(self) -> int:
        return self.whole.n_terms

    def _spread(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients of all columns, zero but on these."""
        spread = np.zeros((len(coef), self.whole.shape[1]), coef.dtype)
        spread[:, self.columns] = coef
        return spread

    def scores(self, coef: np.ndarray) -> np.ndarray:
        return self.whole.scores(self._spread(coef))

    def weighted_sum(self, weights: np.ndarray) -> np.ndarray:
        return self.whole.weighted_sum(weights)[:, self.columns]

    def score_sizes(self, coef: np.ndarray) -> np.ndarray:
        return self.whole.score_sizes(self._spread(coef))

    def sum_sizes(self, weights: np.ndarray) -> np.ndarray:
        return self.whole.sum_sizes(weights)[:, self.columns]


def most_sparse_gram_columns(n_entries: int) -> int:
    """The most columns of which a Gram matrix has a quarter of these entries of sparse data."""
    return max(_FEW_COLUMNS, int(math.sqrt(n_entries) / 2))


def on_columns(X: Any, columns: np.ndarray) -> Any:
    """These columns of an array, or of rows that offer products only."""
    rows = as_rows(X)
    if isinstance(rows, ArrayRows | TensorRows):
        return X[:, columns]
    return _ColumnsOf(rows, columns)


def as_rows(X: Any) -> Rows:
    """The products of a NumPy array, a scipy.sparse array or a torch tensor; rows of the protocol
    themselves.

    Raises
    ------
    TypeError
        If X is none of them.
    """
    if sparse.issparse(X):
        return SparseRows(X)
    if isinstance(X, np.ndarray):
        return DenseRows(X)
    if is_torch_array(X):
        return TensorRows(X)
    needed = ("shape", "dtype", "n_terms", "scores", "weighted_sum", "score_sizes", "sum_sizes")
    offered = dir(X)
    missing = [name for name in needed if name not in offered]
    if missing:
        refuse_lazy(X=X)
        raise TypeError(
            f"X must be a NumPy array, a scipy.sparse array, a torch tensor or offer the products "
            f"of sklearn_robust.rows.Rows, got {type(X).__name__} without {', '.join(missing)}."
            f" {see('extending')}"
        )
    return X


def require_array(rows: Rows, user: str) -> DenseRows | SparseRows:
    """The rows of a NumPy or scipy.sparse array, which `user` needs whole.

    Raises
    ------
    ValueError
        If the rows offer products only, or lie in a torch tensor.
    """
    if isinstance(rows, ArrayRows):
        return rows
    raise ValueError(
        f"{user} needs X as a NumPy or scipy.sparse array, got {type(rows).__name__}, which offer "
        f"products with X only: form the array, or use minimise_robust_risk or steepest_descent."
    )


def largest_entry(rows: Any) -> float:
    r"""The largest :math:`|x_{ij}|`, or a bound on it.

    Rows that do not state it are bounded by :math:`\min(\max_i \sum_j |x_{ij}|, \max_j \sum_i
    |x_{ij}|)`.
    """
    stated = getattr(rows, "largest", None)
    return float(min(_row_and_column_sums(rows)) if stated is None else stated)


def squared_norm_bound(rows: Rows) -> float:
    r"""A bound on the square of the largest singular value of X.

    It is :math:`\sum_{ij} x_{ij}^2` for arrays and rows in blocks, and :math:`\max_i \sum_j
    |x_{ij}| \cdot \max_j \sum_i |x_{ij}|` for rows that offer products only.
    """
    square_sum = getattr(rows, "square_sum", None)
    if square_sum is not None:
        return float(square_sum())
    by_row, by_column = _row_and_column_sums(rows)
    return by_row * by_column


def mean_square(rows: Rows, *, centred: bool) -> float:
    r"""The mean of :math:`\|x_i\|^2`, of dense rows around their mean if that is asked for, to some
    digits at least.

    Rows that offer products only are estimated (Hutchinson): :math:`\mathbb{E} \|X^T g\|^2 =
    \sum_i \|x_i\|^2` for random signs g, and the same around the mean for g less its mean.
    """
    n = rows.shape[0]
    square_sum = getattr(rows, "square_sum", None)
    if square_sum is not None and isinstance(rows, GramRows):
        square = float(square_sum()) / n
        mean = rows.mean() if centred else np.zeros(1)
        return max(square - float(mean @ mean), 1e-12 * square)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(_PROBES, n))
    if centred:
        signs -= signs.mean(axis=1, keepdims=True)
    return float(np.sum(rows.weighted_sum(signs) ** 2)) / (_PROBES * n)


def _row_and_column_sums(rows: Rows) -> tuple[float, float]:
    """The largest sums of |x_ij| over a row, and over a column."""
    n, d = rows.shape
    by_row = rows.score_sizes(np.ones((1, d))).max()
    by_column = rows.sum_sizes(np.ones((1, n))).max()
    return float(by_row), float(by_column)


def slices(n: int, length: int) -> Iterator[slice]:
    """Consecutive slices of so many of n rows; of fewer at the end."""
    for start in range(0, n, length):
        yield slice(start, min(start + length, n))


def _block_length(width: int, least: int = 1) -> int:
    """The rows of a block, of which `width` columns are copied; at least so many."""
    return max(least, _BLOCK_ENTRIES // max(1, width))


def _largest(entries: Array) -> float:
    """The largest of these numbers in size; 0 of none."""
    if 0 in entries.shape:
        return 0.0
    xp = namespace(entries)
    if xp is np and entries.flags.forc:  # from memory once: a block stays in the processor's cache
        flat = entries.ravel(order="K")
        blocks = [flat[at] for at in slices(len(flat), _BLOCK_ENTRIES)]
    else:
        blocks = [entries]
    return max(max(float(xp.max(block)), -float(xp.min(block))) for block in blocks)


def _root_mean_square(entries: np.ndarray, n: int) -> float:
    """The root of the mean square of n rows with these entries; 1 where all are zero."""
    size = float(np.linalg.norm(entries))
    return size / math.sqrt(n) if size > 0 else 1.0
