"""Rows that are read a block at a time: data that are never whole in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy import sparse
from sklearn.utils.validation import _get_feature_names

from sklearn_robust.rows.arrays import ArrayRows, DenseRows, SparseRows, most_sparse_gram_columns


class Block(NamedTuple):
    """Consecutive samples of a source.

    Attributes
    ----------
    X : array, scipy.sparse array or frame of shape (m, d)
    y : array of shape (m,)
    sample_weight : array of shape (m,) or None
    name : str
        Where the block comes from, for messages.
    """

    X: Any
    y: Any
    sample_weight: Any = None
    name: str = ""

    @property
    def rows(self) -> ArrayRows:
        """The products with X, in float32 or float64; the block has a name."""
        X = _as_floats(self)
        return SparseRows(X) if sparse.issparse(X) else DenseRows(X)


class RowSource(Protocol):
    """Data that can be read again and again, a block of samples at a time."""

    def blocks(self) -> Iterable[Any]:
        """The samples in the same order each time: a `Block`, or a tuple (X, y) or (X, y,
        sample_weight), at a time.
        """
        ...


def named_blocks(source: RowSource) -> Iterator[Block]:
    """The blocks of a source that have samples, each with a name."""
    stop = 0
    for place, item in enumerate(source.blocks()):
        block = item if isinstance(item, Block) else Block(*item)
        start, stop = stop, stop + block.X.shape[0]
        if stop > start:
            name = block.name or f"block {place} (rows {start} to {stop - 1})"
            yield block._replace(name=name)


class BlockRows:
    r"""The rows of a source, of which one block is in memory at a time.

    The source is read once when the rows are made, for labels, weights and column sums, and again
    for every product that a solver takes. Labels and weights stay in memory: n numbers each.

    Parameters
    ----------
    source : RowSource
        An object whose method `blocks()` yields (X, y) or (X, y, sample_weight), blocks of samples
        in the same order each time. All X are arrays, or all are scipy.sparse arrays, of the same
        d columns and of one type; those of frames have their columns' names. Integers become
        floating-point numbers.

    Attributes
    ----------
    shape : tuple of int
        (n, d), the numbers of samples and of features.
    dtype : dtype
        float32 or float64.
    n_terms : int
        The most entries of a row.
    y : ndarray of shape (n,)
        The labels.
    sample_weight : ndarray of shape (n,) or None
    feature_names : ndarray of shape (d,) or None
        The names of the columns, where the blocks are frames with names.
    largest : float
        The largest entry in size.

    Raises
    ------
    TypeError
        If the source has no method `blocks`.
    ValueError
        If a block does not fit the ones before it, or has entries, labels or weights that are not
        finite, when the rows are made; if the data have changed, when they are read again.

    See Also
    --------
    NpyRows : Rows in .npy files.
    ParquetRows : Rows in Parquet files.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust import RobustLinearClassifier
    >>> from sklearn_robust.rows import BlockRows
    >>> class Simulated:
    ...     def blocks(self):
    ...         for seed in range(10):
    ...             rng = np.random.default_rng(seed)
    ...             X = rng.standard_normal((1000, 5))
    ...             yield X, X[:, 0] + rng.standard_normal(1000) > 0
    >>> rows = BlockRows(Simulated())
    >>> rows.shape
    (10000, 5)
    >>> model = RobustLinearClassifier(eps=0.1, loss="logistic").fit(rows)
    >>> model.separable_, round(model.robust_score(rows), 2)
    (False, 0.72)
    """

    def __init__(self, source: Any) -> None:
        if not callable(getattr(source, "blocks", None)):
            raise TypeError(
                f"source must have a method blocks() that yields (X, y) or (X, y, sample_weight), "
                f"got {type(source).__name__}. An array in memory is passed to fit as it is."
            )
        self.source = source
        survey = _Survey()
        for block in self.blocks():
            survey.add(block)
        if survey.n == 0:
            raise ValueError(f"source must hold at least one sample, got {source!r} without any.")
        self.shape: tuple[int, int] = (survey.n, survey.n_features)
        self.dtype: Any = survey.dtype
        self.n_terms = survey.n_terms
        self.y: np.ndarray = np.concatenate(survey.labels)
        self.sample_weight: np.ndarray | None = (
            np.concatenate(survey.weights) if survey.weights else None
        )
        self.feature_names: np.ndarray | None = survey.names
        self.largest = survey.largest
        self._is_sparse = survey.is_sparse
        self._n_entries = survey.n_entries
        self._square_sum = survey.square_sum
        self._mean = survey.column_sum / survey.n

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"

    def blocks(self) -> Iterator[Block]:
        """The blocks of the source that have samples, each with a name."""
        return named_blocks(self.source)

    def map_blocks(self, function: Callable[[Any], np.ndarray]) -> np.ndarray:
        """The arrays that a function makes of the X of each block, one after the other."""
        return np.concatenate([function(block.X) for block in self.blocks()])

    def average(self, score: Callable[..., float]) -> float:
        """The average of a score of the blocks, by their weights: `score(X, y, sample_weight=)`."""
        total = total_weight = 0.0
        for block in self.blocks():
            weight = block.sample_weight
            share = float(block.X.shape[0] if weight is None else np.sum(weight))
            if share > 0:
                total += share * score(block.X, block.y, sample_weight=weight)
                total_weight += share
        if total_weight == 0:
            raise ValueError(f"sample_weight of {self!r} must not be all zero.")
        return total / total_weight

    def refuse_beside(self, **given: Any) -> None:
        """Refuse labels or weights in an argument, of those that the rows hold themselves."""
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name} must be left out where X holds labels and weights, as "
                    f"{type(self).__name__} does, got a {type(value).__name__}."
                )

    # -- the products

    def scores(self, coef: np.ndarray) -> np.ndarray:
        """W X^T."""
        return self._gathered(lambda rows: rows.scores(coef))

    def weighted_sum(self, weights: np.ndarray) -> np.ndarray:
        """A X."""
        return self._summed(lambda at, rows: rows.weighted_sum(weights[:, at]))

    def score_sizes(self, coef: np.ndarray) -> np.ndarray:
        """``|W| |X|^T``."""
        return self._gathered(lambda rows: rows.score_sizes(coef))

    def sum_sizes(self, weights: np.ndarray) -> np.ndarray:
        """``|A| |X|``."""
        return self._summed(lambda at, rows: rows.sum_sizes(weights[:, at]))

    def square_sum(self) -> float:
        """The sum of ||x_i||^2."""
        return self._square_sum

    def mean(self) -> np.ndarray:
        """The mean of the rows; zero for sparse rows, which are not centred."""
        return np.zeros_like(self._mean) if self._is_sparse else self._mean

    def take(self, index: np.ndarray) -> np.ndarray:
        """A dense copy of the rows at these places, which ascend."""
        cuts = (
            (at, rows, np.searchsorted(index, [at.start, at.stop]))
            for at, rows in self.row_blocks()
        )
        return np.concatenate([rows.take(index[slice(*cut)] - at.start) for at, rows, cut in cuts])

    def most_gram_columns(self) -> int | None:
        """Any number of dense rows; of sparse ones as many as their entries afford."""
        return most_sparse_gram_columns(self._n_entries) if self._is_sparse else None

    def scores_on(self, columns: np.ndarray | slice, coef: np.ndarray) -> np.ndarray:
        """X w, for w that is zero but on these columns."""
        return self._gathered(lambda rows: rows.scores_on(columns, coef)[None])[0]

    def weighted_gram(
        self,
        columns: np.ndarray | slice,
        centre: np.ndarray,
        weights: np.ndarray,
        labels: np.ndarray,
        *,
        exact: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The moments, summed over the blocks."""
        f = len(centre)
        gram = np.zeros((f, f))
        by_weight = np.zeros(f)
        by_label = np.zeros(f)
        for at, rows in self.row_blocks():
            part = rows.weighted_gram(columns, centre, weights[at], labels[at], exact=exact)
            gram += part[0]
            by_weight += part[1]
            by_label += part[2]
        return gram, by_weight, by_label

    def _summed(self, product: Callable[[slice, ArrayRows], np.ndarray]) -> np.ndarray:
        """The sum of a product of shape (k, d) of each block."""
        return reduce(np.add, (product(at, rows) for at, rows in self.row_blocks()))

    def _gathered(self, product: Callable[[ArrayRows], np.ndarray]) -> np.ndarray:
        """A product of shape (k, m) of each block, side by side: (k, n)."""
        out: np.ndarray | None = None
        for at, rows in self.row_blocks():
            part = product(rows)
            if out is None:
                out = np.empty((len(part), self.shape[0]), part.dtype)
            out[:, at] = part
        assert out is not None  # there is a block of at least one sample
        return out

    def row_blocks(self) -> Iterator[tuple[slice, ArrayRows]]:
        """The rows of each block, and where they lie, checked against the first reading."""
        n, d = self.shape
        stop = 0
        for block in self.blocks():
            X = _as_floats(block)
            start, stop = stop, stop + X.shape[0]
            if stop > n or X.shape[1] != d or X.dtype != self.dtype:
                raise self._changed(
                    f"{block.name} brings {stop} rows of {X.shape[1]} features in {X.dtype}"
                )
            yield slice(start, stop), SparseRows(X) if sparse.issparse(X) else DenseRows(X)
        if stop != n:
            raise self._changed(f"it ends after {stop} rows")

    def _changed(self, now: str) -> ValueError:
        n, d = self.shape
        return ValueError(
            f"{self!r} has changed: it held {n} rows of {d} features in {self.dtype}, and now "
            f"{now}. The blocks must be the same each time they are read; for other data make "
            f"{type(self).__name__} anew."
        )


class _Survey:
    """What the first reading of a source finds, block by block."""

    def __init__(self) -> None:
        self.n = self.n_features = self.n_terms = self.n_entries = 0
        self.dtype: Any = None
        self.is_sparse = False
        self.names: np.ndarray | None = None
        self.largest = self.square_sum = 0.0
        self.column_sum = np.zeros(0)
        self.labels: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []

    def add(self, block: Block) -> None:
        """Check a block against those before it, and add what it holds."""
        X = _as_floats(block)
        rows = SparseRows(X) if sparse.issparse(X) else DenseRows(X)
        _check_finite(X, block)
        names = _get_feature_names(block.X)
        if self.n == 0:
            self.n_features, self.dtype = X.shape[1], X.dtype
            self.is_sparse, self.names = isinstance(rows, SparseRows), names
            self.column_sum = np.zeros(X.shape[1])
        self._check_alike(rows, names, block)
        labels = _read_labels(block, self.labels[-1] if self.labels else None)
        weight = _read_weights(block)
        if self.n > 0 and (weight is None) != (not self.weights):
            raise ValueError(
                f"{block.name} has {'no' if weight is None else 'a'} sample_weight, unlike the "
                f"blocks before it: give all blocks weights, or none."
            )
        self.labels.append(labels)
        if weight is not None:
            self.weights.append(weight)
        self.n += X.shape[0]
        self.n_terms = max(self.n_terms, rows.n_terms)
        self.n_entries += rows.entries.size
        self.largest = max(self.largest, rows.largest)
        self.square_sum += rows.square_sum()
        ones = np.ones((1, X.shape[0]))
        self.column_sum += rows.weighted_sum(ones)[0]

    def _check_alike(self, rows: ArrayRows, names: Any, block: Block) -> None:
        """Refuse another number of columns, another type or other names than before."""
        kinds = {True: "a sparse array", False: "a dense array"}
        now = {
            "features": (rows.shape[1], self.n_features),
            "dtype": (rows.dtype, self.dtype),
            "kind": (kinds[isinstance(rows, SparseRows)], kinds[self.is_sparse]),
            "feature names": tuple(None if x is None else list(x) for x in (names, self.names)),
        }
        for what, (here, before) in now.items():
            if here != before:
                raise ValueError(
                    f"X of {block.name} must be like the blocks before it, got {what} {here} after "
                    f"{before}. Convert the data to one form, or leave the block out."
                )


def _as_floats(block: Block) -> Any:
    """The X of a block, as an array or a sparse array by rows in float32 or float64."""
    X = block.X.tocsr() if sparse.issparse(block.X) else np.asarray(block.X)
    if X.ndim != 2 or X.dtype.kind not in "biuf":
        raise ValueError(
            f"X of {block.name} must be a table of numbers, got shape {X.shape} and dtype "
            f"{X.dtype}. Encode categories and texts as numbers first."
        )
    single = np.result_type(X.dtype, np.float32) == np.float32
    return X.astype(np.float32 if single else np.float64, copy=False)


def _check_finite(X: Any, block: Block) -> None:
    """Refuse nan and infinity, with the first place of one."""
    entries = X.data if sparse.issparse(X) else X
    finite = np.isfinite(entries)
    if finite.all():
        return
    first = tuple(np.argwhere(~finite)[0])
    if sparse.issparse(X):
        row, column = np.searchsorted(X.indptr, first[0], side="right") - 1, X.indices[first[0]]
    else:
        row, column = first
    raise ValueError(
        f"X of {block.name} holds {entries[first]} in its row {row}, column {column} (counted from "
        f"0). Impute such entries, or leave the row out."
    )


def _read_labels(block: Block, before: np.ndarray | None) -> np.ndarray:
    """The labels of a block, equal ones as one object."""
    y = np.asarray(block.y)
    if y.shape != (block.X.shape[0],):
        raise ValueError(
            f"y of {block.name} must have one label for each of its {block.X.shape[0]} rows, got "
            f"shape {y.shape}."
        )
    distinct = [y[:1].tolist()[0]]
    if y.dtype == object:
        distinct = list(dict.fromkeys(y.tolist()))
        one = {label: label for label in distinct}
        y = np.array([one[label] for label in y.tolist()] + [None], dtype=object)[:-1]
    if (y.dtype.kind == "f" and not np.isfinite(y).all()) or any(
        label is None or label != label for label in distinct
    ):
        raise ValueError(f"y of {block.name} has missing labels: leave their rows out.")
    first = distinct[0] if before is None else before[:1].tolist()[0]
    for label in distinct:
        if isinstance(label, str) != isinstance(first, str):
            raise ValueError(
                f"y of {block.name} holds {label!r} beside {first!r}: use numbers alone, or texts."
            )
    return y


def _read_weights(block: Block) -> np.ndarray | None:
    """The weights of a block, finite and at least 0."""
    if block.sample_weight is None:
        return None
    weight = np.asarray(block.sample_weight)
    fits = weight.shape == (block.X.shape[0],) and weight.dtype.kind in "biuf"
    if not fits or not np.all((weight >= 0) & (weight < math.inf)):
        raise ValueError(
            f"sample_weight of {block.name} must hold a finite number >= 0 for each of its "
            f"{block.X.shape[0]} rows, got {weight!r}."
        )
    return weight.astype(np.float64)
