"""One problem or several in the same formulas: how a batch keeps its vectors and numbers, and multiplies with shared data.

The vectors of one problem are one-dimensional and its numbers are floats; those of several are rows (k, m) and columns (k, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from scipy import sparse

from sklearn_robust.problems import RobustProblem

Number = Any  # a float, or a column (k, 1) of float64

_COPY = 2**21  # entries up to which signed rows are copied: there the calls count, not the memory


class Shape(Protocol):
    """How vectors and numbers are kept."""

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

    def factor(self, number: Number) -> Number:
        """The number for arithmetic with vectors, which must not change their type."""
        ...

    def dot(self, a: np.ndarray, b: np.ndarray) -> Number:
        """Inner products of vectors."""
        ...

    def largest(self, a: np.ndarray) -> tuple[Any, Any]:
        """The place of the largest entry of each vector, as a number of each and as an index into vectors."""
        ...

    def entry(self, a: np.ndarray, at: Any) -> Number:
        """The entries at this index."""
        ...

    def put(self, a: np.ndarray, at: Any, number: Number) -> None:
        """Set the entries at this index."""
        ...

    def log(self, number: Number) -> Number: ...

    def sqrt(self, number: Number) -> Number: ...

    def all_between(self, low: float, number: Number, high: float) -> bool: ...

    def part(self, number: Number, rows: slice) -> Number:
        """The numbers of these problems."""
        ...


class One:
    """A single problem."""

    log = staticmethod(math.log)
    sqrt = staticmethod(math.sqrt)

    def vector(self, rows: np.ndarray) -> np.ndarray:
        return rows[0]

    def rows(self, vector: np.ndarray) -> np.ndarray:
        return vector[None]

    def number(self, array: np.ndarray) -> Number:
        return float(array[0])

    def array(self, number: Number) -> np.ndarray:
        return np.array([number])

    def factor(self, number: Number) -> Number:
        return number

    def dot(self, a: np.ndarray, b: np.ndarray) -> Number:
        return float(np.dot(a, b))

    def largest(self, a: np.ndarray) -> tuple[Any, Any]:
        j = a.argmax()
        return j, j

    def entry(self, a: np.ndarray, at: Any) -> Number:
        return a.item(at)

    def put(self, a: np.ndarray, at: Any, number: Number) -> None:
        a[at] = number

    def all_between(self, low: float, number: Number, high: float) -> bool:
        return low < number < high

    def part(self, number: Number, rows: slice) -> Number:
        return number


@dataclass(frozen=True)
class Several:
    """k problems on data of this type."""

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

    def factor(self, number: Number) -> Number:
        return number.astype(self.dtype, copy=False)

    def dot(self, a: np.ndarray, b: np.ndarray) -> Number:
        return np.vecdot(a, b)[:, None].astype(np.float64, copy=False)

    def largest(self, a: np.ndarray) -> tuple[Any, Any]:
        j = a.argmax(axis=1)
        return j, (np.arange(len(j)), j)

    def entry(self, a: np.ndarray, at: Any) -> Number:
        return a[at][:, None].astype(np.float64, copy=False)

    def put(self, a: np.ndarray, at: Any, number: Number) -> None:
        a[at] = number[:, 0]

    def all_between(self, low: float, number: Number, high: float) -> bool:
        return bool(((number > low) & (number < high)).all())

    def part(self, number: Number, rows: slice) -> Number:
        return number[rows]


@dataclass(frozen=True)
class SignedRows:
    """Products with Z = y X, written into arrays of vectors, for one problem or several.

    Small dense data with the same labels in every problem are signed and transposed once: one call a product, and several
    products with rows are a third faster from a contiguous transpose.

    Attributes
    ----------
    X, transposed : array of shape (n, d) and (d, n)
    y : array of shape (k, n) or None
        None where X is signed already.
    """

    X: Any
    transposed: Any
    y: np.ndarray | None

    @cached_property
    def sparse(self) -> bool:
        return bool(sparse.issparse(self.X))

    @classmethod
    def of(cls, problem: RobustProblem) -> Self:
        """Those of a problem on NumPy or scipy.sparse data."""
        X, y = problem.X, problem.y
        if sparse.issparse(X) or X.size > _COPY:
            return cls(X, X.T, y)
        if not (y == y[0]).all():
            return cls(X, np.ascontiguousarray(X.T), y)
        X = y[0][:, None] * X
        return cls(X, np.ascontiguousarray(X.T), None)

    def select(self, rows: np.ndarray) -> SignedRows:
        """Those of the problems at these indices."""
        return self if self.y is None else replace(self, y=self.y[rows])

    def scores(self, coef: np.ndarray, rows: slice, *, out: np.ndarray) -> None:
        """Z w for the problems at these rows."""
        if self.sparse:
            out[...] = (self.X @ coef.T).T
        elif coef.ndim == 1:
            np.dot(self.X, coef, out=out)
        else:
            np.matmul(coef, self.transposed, out=out)
        if self.y is not None:
            out *= self.y[0] if coef.ndim == 1 else self.y[rows]

    def pull(self, weights: np.ndarray, *, work: np.ndarray, out: np.ndarray) -> None:
        """Z^T a."""
        if self.y is not None:
            weights = np.multiply(weights, self.y[0] if weights.ndim == 1 else self.y, out=work)
        if self.sparse:
            out[...] = (self.transposed @ weights.T).T
        elif weights.ndim == 1:
            np.dot(weights, self.X, out=out)
        else:
            np.matmul(weights, self.X, out=out)

    def columns(self, j: Any, rows: slice) -> np.ndarray:
        """Column j of Z for one problem, or column j_r for each problem r, as rows."""
        columns = self.transposed[j]
        if self.y is None:
            return columns
        return columns * (self.y[0] if columns.ndim == 1 else self.y[rows])
