"""One problem or several in the same formulas: how a batch keeps its vectors and numbers, and
multiplies with shared data.

The vectors of one problem are one-dimensional and its numbers are floats; those of several are rows
(k, m) and columns (k, 1). A number enters arithmetic with vectors through a factor: an array of the
vectors' type, with no axes or with shape (k, 1), that is filled anew each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from scipy import sparse
from scipy.linalg import get_blas_funcs

from sklearn_robust.problems import RobustProblem

Number = Any  # a float, or a column (k, 1) of float64

_ALIGNMENT = 64  # bytes
_SIGN = 2**19  # entries up to which a signed copy is worth the calls that it saves
_TRANSPOSE = 2**21  # entries up to which several problems take a transposed copy


def room_like(x: np.ndarray) -> np.ndarray:
    """An uninitialised array like x that begins at a multiple of 64 bytes.

    BLAS rounds a sum of absolute values by where its vector begins: the same fit could differ from
    call to call.
    """
    memory = np.empty(x.nbytes + _ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)


class Shape(Protocol):
    """How vectors and numbers are kept, and the operations in which this matters."""

    def vector(self, rows: np.ndarray) -> np.ndarray:
        """From rows (k, m)."""
        ...

    def rows(self, vector: np.ndarray) -> np.ndarray:
        """To rows (k, m)."""
        ...

    def number(self, array: np.ndarray) -> Number:
        """From an array (k,)."""
        ...

    def array(self, number: Number) -> np.ndarray:
        """To an array (k,)."""
        ...

    def part(self, x: Any, rows: slice) -> Any:
        """The vectors or numbers of these problems."""
        ...

    def factor(self) -> np.ndarray:
        """Room for numbers in arithmetic with vectors."""
        ...

    def dot(self, x: np.ndarray, y: np.ndarray) -> Number:
        """Inner products."""
        ...

    def size(self, x: np.ndarray) -> Number:
        """Sums of absolute values."""
        ...

    def add(self, y: np.ndarray, number: Number, x: np.ndarray) -> None:
        """Add the multiple of x to y."""
        ...

    def largest(self, x: np.ndarray) -> tuple[Any, Any]:
        """The place of each vector's largest entry: the places, and an index of these entries."""
        ...

    def entry(self, x: np.ndarray, at: Any) -> Number:
        """The entries at an index."""
        ...

    def put(self, x: np.ndarray, at: Any, number: Number) -> None:
        """Set the entries at an index."""
        ...

    def log(self, number: Number) -> Number: ...

    def sqrt(self, number: Number) -> Number: ...

    def all_between(self, low: float, number: Number, high: float) -> bool: ...


class One:
    """A single problem on data of this type: BLAS takes less time than a call of NumPy."""

    log = staticmethod(math.log)
    sqrt = staticmethod(math.sqrt)

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.dot, self.size, self._axpy = get_blas_funcs(("dot", "asum", "axpy"), dtype=dtype)

    def vector(self, rows: np.ndarray) -> np.ndarray:
        return rows[0]

    def rows(self, vector: np.ndarray) -> np.ndarray:
        return vector[None]

    def number(self, array: np.ndarray) -> Number:
        return float(array[0])

    def array(self, number: Number) -> np.ndarray:
        return np.array([number])

    def part(self, x: Any, rows: slice) -> Any:
        return x

    def factor(self) -> np.ndarray:
        return np.empty((), self.dtype)

    def add(self, y: np.ndarray, number: Number, x: np.ndarray) -> None:
        self._axpy(x, y, a=number)

    def largest(self, x: np.ndarray) -> tuple[Any, Any]:
        j = x.argmax()
        return j, j

    def entry(self, x: np.ndarray, at: Any) -> Number:
        return x.item(at)

    def put(self, x: np.ndarray, at: Any, number: Number) -> None:
        x[at] = number

    def all_between(self, low: float, number: Number, high: float) -> bool:
        return low < number < high


@dataclass(frozen=True)
class Several:
    """k problems on data of this type."""

    k: int
    dtype: Any
    log = staticmethod(np.log)
    sqrt = staticmethod(np.sqrt)

    def vector(self, rows: np.ndarray) -> np.ndarray:
        return rows

    def rows(self, vector: np.ndarray) -> np.ndarray:
        return vector

    def number(self, array: np.ndarray) -> Number:
        return array[:, None].astype(np.float64)

    def array(self, number: Number) -> np.ndarray:
        return number[:, 0]

    def part(self, x: Any, rows: slice) -> Any:
        return x[rows]

    def factor(self) -> np.ndarray:
        return np.empty((self.k, 1), self.dtype)

    def dot(self, x: np.ndarray, y: np.ndarray) -> Number:
        return np.vecdot(x, y)[:, None].astype(np.float64, copy=False)

    def size(self, x: np.ndarray) -> Number:
        return np.abs(x).sum(axis=1, keepdims=True).astype(np.float64, copy=False)

    def add(self, y: np.ndarray, number: Number, x: np.ndarray) -> None:
        y += x * number.astype(self.dtype, copy=False)

    def largest(self, x: np.ndarray) -> tuple[Any, Any]:
        j = x.argmax(axis=1)
        return j, (np.arange(len(j)), j)

    def entry(self, x: np.ndarray, at: Any) -> Number:
        return x[at][:, None].astype(np.float64, copy=False)

    def put(self, x: np.ndarray, at: Any, number: Number) -> None:
        x[at] = number[:, 0]

    def all_between(self, low: float, number: Number, high: float) -> bool:
        return bool(((number > low) & (number < high)).all())


@dataclass(frozen=True)
class SignedRows:
    """Products with Z = y X, written into vectors of one problem or several.

    Attributes
    ----------
    X : array of shape (n, d)
    transposed : array of shape (d, n)
        A contiguous copy for several problems on small dense data: the product with the rows of
        their coefficients is a third faster.
    y : array of shape (k, n) or None
        None where X is a signed copy: small dense data, and labels that all problems share.
    """

    X: Any
    transposed: Any
    y: np.ndarray | None

    @classmethod
    def of(cls, problem: RobustProblem) -> Self:
        """Those of a problem on NumPy or scipy.sparse data."""
        X, y = problem.X, problem.y
        if sparse.issparse(X):
            return cls(X, X.T, y)
        if X.size <= _SIGN and (y == y[0]).all():
            X, y = y[0][:, None] * X, None
        transpose = problem.n_problems > 1 and X.size <= _TRANSPOSE
        return cls(X, np.ascontiguousarray(X.T) if transpose else X.T, y)

    @cached_property
    def sparse(self) -> bool:
        """Whether the data are sparse."""
        return bool(sparse.issparse(self.X))

    def select(self, rows: np.ndarray) -> SignedRows:
        """Those of the problems at these indices."""
        return self if self.y is None else replace(self, y=self.y[rows])

    def scores(self, coef: np.ndarray, rows: slice, *, out: np.ndarray) -> None:
        """Z w for the problems at these rows."""
        if self.sparse:
            out[...] = (self.X @ coef.T).T
        elif coef.ndim == 1:
            np.dot(self.X, coef, out)
        else:
            np.matmul(coef, self.transposed, out)
        if self.y is not None:
            out *= self.y[0] if coef.ndim == 1 else self.y[rows]

    def weighted_sum(self, weights: np.ndarray, *, work: np.ndarray, out: np.ndarray) -> None:
        """Z^T a."""
        if self.y is not None:
            weights = np.multiply(weights, self.y[0] if weights.ndim == 1 else self.y, out=work)
        if self.sparse:
            out[...] = (self.transposed @ weights.T).T
        elif weights.ndim == 1:
            np.dot(weights, self.X, out)
        else:
            np.matmul(weights, self.X, out)

    def columns(self, j: Any, rows: slice) -> np.ndarray:
        """Column j of Z for one problem, or column j_r for each problem r, as rows."""
        columns = self.transposed[j]
        if self.y is None:
            return columns
        return columns * (self.y[0] if columns.ndim == 1 else self.y[rows])
