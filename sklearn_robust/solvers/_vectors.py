"""The vectors of one problem on NumPy data: where they lie, BLAS, products with the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from scipy import sparse
from scipy.linalg import get_blas_funcs

from sklearn_robust.problems import RobustProblem

_ALIGNMENT = 64  # bytes, a multiple of which is the address of each vector
# Entries of X up to which a copy of the signed rows is worth the multiplications that it saves.
_SIGNED_COPY = 2**19


def room_like(x: np.ndarray) -> np.ndarray:
    """An uninitialised array like x that begins at a multiple of 64 bytes.

    BLAS rounds a sum of absolute values by where its vector begins: the same fit could differ from
    call to call.
    """
    memory = np.empty(x.nbytes + _ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)


class Blas(NamedTuple):
    """BLAS calls, shorter than NumPy's: <x, y>, the sum of |x|, and y + a x, written into y."""

    dot: Callable[[np.ndarray, np.ndarray], float]
    size: Callable[[np.ndarray], float]
    axpy: Callable[..., np.ndarray]

    @classmethod
    def of(cls, dtype: Any) -> Self:
        """The operations on vectors of this type."""
        return cls(*get_blas_funcs(("dot", "asum", "axpy"), dtype=dtype))


@dataclass(frozen=True)
class SignedRows:
    """Products with Z = y X, written into vectors.

    Attributes
    ----------
    X : array or scipy.sparse array of shape (n, d)
    transposed : array or scipy.sparse array of shape (d, n)
    y : array of shape (n,), or (k, n) before one of k problems is chosen, or None
        None where X is a signed copy: small dense data, and labels that all problems share.
    """

    X: Any
    transposed: Any
    y: np.ndarray | None

    @classmethod
    def of(cls, problem: RobustProblem) -> Self:
        """The signed rows of k problems on NumPy or scipy.sparse data."""
        X, y = problem.X, problem.y
        if not sparse.issparse(X) and X.size <= _SIGNED_COPY and (y == y[0]).all():
            X, y = y[0][:, None] * X, None
        return cls(X, X.T, y)

    @cached_property
    def sparse(self) -> bool:
        """Whether the data are sparse."""
        return bool(sparse.issparse(self.X))

    def one(self, i: int) -> SignedRows:
        """The signed rows of one of the problems."""
        return self if self.y is None else replace(self, y=self.y[i])

    def scores(self, coef: np.ndarray, *, out: np.ndarray) -> None:
        """Z w."""
        if self.sparse:
            out[...] = self.X @ coef
        else:
            np.dot(self.X, coef, out)
        if self.y is not None:
            out *= self.y

    def weighted_sum(self, weights: np.ndarray, *, work: np.ndarray, out: np.ndarray) -> None:
        """Z^T a."""
        if self.y is not None:
            weights = np.multiply(weights, self.y, out=work)
        if self.sparse:
            out[...] = self.transposed @ weights
        else:
            np.dot(weights, self.X, out)

    def column(self, j: int) -> np.ndarray:
        """Column j of Z, of dense data."""
        column = self.transposed[j]
        return column if self.y is None else column * self.y
