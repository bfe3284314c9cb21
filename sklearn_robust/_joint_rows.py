"""Labelled rows of several classes: sums over their samples, a block at a time.

Arrays over classes and samples are (K, n), as the products of `sklearn_robust.rows` are; arrays
over pairs of classes are (K(K-1)/2, ..) or symmetric (K, K).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sklearn_robust._array_api import Array, namespace, to_numpy
from sklearn_robust.problems import OnRows
from sklearn_robust.rows import ArrayRows, BlockRows, Rows, TensorRows, as_rows

# entries of an array over classes and samples, or pairs and features, that exist at a time: a
# quarter of a megabyte in float64, about a processor's cache
_JOINT_BLOCK_ENTRIES = 2**15
_ALL = slice(None)


@dataclass(frozen=True)
class LabelledRows(OnRows):
    """Rows with classes 0..K-1.

    Attributes
    ----------
    X : array or scipy.sparse array of shape (n, d), or Rows
    y : array of int of shape (n,)
    n_classes : int
    """

    X: Any
    y: Array
    n_classes: int

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The classes l < k of the K(K-1)/2 pairs."""
        low, high = np.triu_indices(self.n_classes, 1)
        return low, high

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """The samples, a block at a time: their places, and 0, 1, .. for the entries of a block."""
        xp, n = namespace(self.y), self.y.shape[0]
        length = max(1, _JOINT_BLOCK_ENTRIES // self.n_classes)
        for start in range(0, n, length):
            stop = min(start + length, n)
            yield slice(start, stop), xp.arange(stop - start, device=self.y.device)

    def row_blocks(self) -> Iterator[tuple[slice, Rows]]:
        """The samples, and their rows, a block at a time; rows that offer products only in one."""
        rows = self.rows
        if isinstance(rows, BlockRows):
            yield from rows.row_blocks()
        elif isinstance(rows, ArrayRows | TensorRows):
            for at, _ in self.blocks():
                yield at, as_rows(self.X[at])
        else:
            yield slice(0, rows.shape[0]), rows

    def scores(self, coef: Array) -> Array:
        """W X^T without the intercepts: (K, d) -> (K, n)."""
        return self.rows.scores(coef)

    def pair_blocks(self) -> Iterator[slice]:
        """The pairs, as many at a time as have an array over the features of moderate size."""
        length = max(1, _JOINT_BLOCK_ENTRIES // self.n_features)
        for start in range(0, len(self.pairs[0]), length):
            yield slice(start, start + length)

    def pair_differences(self, coef: Array, at: slice = _ALL) -> Array:
        """w_l - w_k for the pairs l < k, or a block of them: (K, d) -> (K(K-1)/2, d)."""
        low, high = self.pairs
        differences = coef[low[at]]
        differences -= coef[high[at]]
        return differences

    def symmetric(self, values: Array) -> Array:
        """The symmetric matrix, zero on its diagonal, of a value for each pair l < k: -> (K, K)."""
        xp, (low, high) = namespace(values), self.pairs
        K = self.n_classes
        matrix = xp.zeros((K, K), dtype=values.dtype, device=values.device)
        matrix[low, high] = values
        matrix[high, low] = values
        return matrix

    def weighted_sum(self, weights: Array) -> Array:
        r"""The weighted sum :math:`G = \sum_{ik} a_{ik} (e_{y_i} - e_k) x_i^T`, minus the gradient
        of the log-risk at fixed penalties: (K, n) -> (K, d).

        The entries of the weights at the true class are written to for the product, and put back.
        """
        xp = namespace(weights)
        places = xp.arange(self.y.shape[0], device=self.y.device)
        weights[self.y, places] = -xp.sum(weights, axis=0)
        try:
            return -self.rows.weighted_sum(weights)
        finally:
            weights[self.y, places] = xp.zeros_like(weights[0])

    def sizes(self, weights: Array) -> Array:
        """The sums of the sizes of the terms of `weighted_sum`, (K, n) -> (K, d): their rounding
        scales with them.
        """
        xp = namespace(weights)
        total = 0.0
        for at, rows in self.row_blocks():
            block = xp.asarray(weights[:, at], copy=True)
            places = xp.arange(block.shape[1], device=self.y.device)
            block[self.y[at], places] = xp.sum(block, axis=0)
            total = total + rows.sum_sizes(block)
        return total

    def class_sums(self, values: Array) -> Array:
        r""":math:`C_{lk} = \sum_{i: y_i = l} v_{ik}`, the sums over the samples of each class:
        (K, n) -> (K, K).
        """
        xp, K = namespace(values), self.n_classes
        sums = xp.zeros((K, K), dtype=values.dtype, device=values.device)
        for at, _ in self.blocks():
            self.add_class_sums(sums, values[:, at], at)
        return sums

    def add_class_sums(self, sums: Array, values: Array, at: slice) -> None:
        """Add the class sums of a block of samples (K, m) to others (K, K)."""
        xp = namespace(values)
        if xp is np:
            order, classes, starts = self.by_class(at)
            sums[classes] += np.add.reduceat(values.take(order, axis=1), starts, axis=1).T
        else:
            members = self.y[at] == xp.arange(self.n_classes, device=self.y.device)[:, None]
            sums += xp.astype(members, values.dtype) @ values.T

    def pair_weights(self, weights: Array) -> Array:
        r""":math:`A_{lk} = C_{lk} + C_{kl}`, the weight between two classes, symmetric: (K, n) ->
        (K, K). The derivative of the log-risk by the penalty of a pair is :math:`A_{lk}`.
        """
        sums = self.class_sums(weights)
        return sums + sums.T

    def losses(
        self, scores: Array, penalties: Array, intercept: Array, at: slice, places: Array
    ) -> Array:
        """-m_ik on a block of samples, from their scores (K, m); -inf at the true class."""
        y = self.y[at]
        losses = scores + intercept[:, None]
        losses -= losses[y, places]
        losses += self.of_samples(penalties, at)
        losses[y, places] = -math.inf
        return losses

    def of_samples(self, penalties: Array, at: slice) -> Array:
        """What is taken from the margins of a block, (K, m), of pair penalties (K, K)."""
        return penalties[:, self.y[at]]

    def by_class(self, at: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The order that sorts a block of samples by class, the classes that there are, and where
        each begins.
        """
        key = at.start, at.stop
        if key not in self._orders:
            y = to_numpy(self.y[at])
            order = np.argsort(y, kind="stable")
            classes, starts = np.unique(y[order], return_index=True)
            self._orders[key] = order, classes, starts
        return self._orders[key]

    @cached_property
    def _orders(self) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The orders of the blocks that were asked for."""
        return {}


def soft_minimum(losses: Array) -> tuple[Array, Array]:
    """The soft minimum of the margins -losses (K, m), of shape (m,), and its gradient (K, m), the
    shares of the rivals. The losses are written to.
    """
    xp = namespace(losses)
    largest = xp.max(losses, axis=0)
    losses -= largest
    shares = xp.exp(losses)
    total = xp.sum(shares, axis=0)
    shares /= total
    return -(largest + xp.log(total)), shares
