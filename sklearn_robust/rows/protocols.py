"""The protocols of rows: which products solvers take of the data."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from sklearn_robust._array_api import Array


class Rows(Protocol):
    r"""Data that are seen through products only.

    The products take and return NumPy arrays, in `dtype` along a path and in float64 in the
    minimiser of the risk and in proofs; where `dtype` is float32 they may return float64
    throughout. A solver takes thousands of products: the data must not change meanwhile.

    Attributes
    ----------
    shape : tuple of int
        (n, d), the numbers of samples and of features.
    dtype : dtype
        The type of the labels, and of the predictors that solvers return.
    n_terms : int
        The most products that one score sums: the rounding of scores grows with it. Products in
        stages count the terms of all stages: :math:`A (B w)` with r columns of A has r + d.

    Notes
    -----
    Rows may also have a number `largest`, at least :math:`\max_{ij} |x_{ij}|`: the first step of a
    path is its inverse square. Without it a bound follows from `score_sizes` and `sum_sizes`.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    @property
    def n_terms(self) -> int: ...

    def scores(self, coef: Array) -> Array:
        """The scores W X^T, (k, d) -> (k, n)."""
        ...

    def weighted_sum(self, weights: Array) -> Array:
        """The weighted sums A X of the rows, (k, n) -> (k, d)."""
        ...

    def score_sizes(self, coef: Array) -> Array:
        """The sizes ``|W| |X|^T`` of the terms of `scores`, or more, (k, d) -> (k, n): the rounding
        of scores is charged in proportion to them.
        """
        ...

    def sum_sizes(self, weights: Array) -> Array:
        """The sizes ``|A| |X|`` of the terms of `weighted_sum`, or more, (k, n) -> (k, d).

        The rounding of n terms is charged in proportion to them. Products in stages with r terms
        more are charged for in full where the sizes are multiplied by 1 + r / n.
        """
        ...


@runtime_checkable
class GramRows(Protocol):
    """Rows with weighted second moments on chosen columns: what Newton's method needs."""

    def mean(self) -> np.ndarray:
        """A point (d,) near the mean of the rows that may be subtracted from them; zero where the
        rows stay as they are.
        """
        ...

    def most_gram_columns(self) -> int | None:
        """The most columns of a Gram matrix that does not outweigh the data; None: any number."""
        ...

    def scores_on(self, columns: np.ndarray | slice, coef: np.ndarray) -> np.ndarray:
        """The scores X w of shape (n,) for w of shape (d,), which is zero but on these columns."""
        ...

    def weighted_gram(
        self,
        columns: np.ndarray | slice,
        centre: np.ndarray,
        weights: np.ndarray,
        labels: np.ndarray,
        *,
        exact: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The moments R^T C R, R^T c and R^T C y of the centred rows R = X - centre on f columns.

        C = diag(c) holds the weights (n,), none below 0, y the labels (n,); the centre has shape
        (f,). They have shapes (f, f), (f,) and (f,). `exact` asks for double precision however
        long it takes.
        """
        ...
