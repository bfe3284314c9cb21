"""Weights as integers over a power of two, which balance the classes exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sklearn_robust.check import integers
from sklearn_robust.proofs.data import LabelledData

PLACES = 62  # binary places of the weights, whose sum is at most about 1
_NEGLIGIBLE = 1e-12  # share of the weight up to which a pair of classes is left out


@dataclass(frozen=True)
class ExactWeights:
    r"""Weights :math:`2^{-\text{places}} a_{ik}` of samples and rivals, and the sums that the
    checker takes.

    Attributes
    ----------
    data : LabelledData
    entries : dict of (sample, rival) to int
        Positive, and as much of each class as against it where the intercept is free.
    places : int
    """

    data: LabelledData
    entries: dict[tuple[int, int], int]
    places: int = PLACES

    @classmethod
    def of(cls, data: LabelledData, weights: np.ndarray, fit_intercept: bool) -> ExactWeights:
        """The nearest such weights to (K, n), which may be rounded.

        Pairs of classes with next to no weight have none: rounding alone would decide about them.
        """
        members = np.eye(len(data.classes))[data.y]
        sums = (weights @ members).T
        kept = sums + sums.T >= _NEGLIGIBLE * weights.sum()
        scaled = np.rint(np.ldexp(weights * kept[:, data.y], PLACES))
        entries = {(int(i), int(k)): int(scaled[k, i]) for k, i in np.argwhere(scaled > 0)}
        if fit_intercept:
            _balance(entries, data)
        return cls(data, entries)

    @cached_property
    def between(self) -> np.ndarray:
        r""":math:`A_{lk}`, the weight between two classes, an object array of integers (K, K)."""
        sums = _class_sums(self.entries, self.data)
        return sums + sums.T

    @cached_property
    def top(self) -> int:
        """The binary places of the data."""
        return integers(self.data.X.ravel().tolist())[1]

    @cached_property
    def weighted_sum(self) -> np.ndarray:
        r""":math:`G = \sum_{ik} a_{ik} (e_{y_i} - e_k) x_i^T` in units of
        :math:`2^{-(\text{places} + \text{top})}`, an object array of integers (K, d).
        """
        K, d = len(self.data.classes), self.data.X.shape[1]
        used = sorted({i for i, _ in self.entries})
        place = {i: at for at, i in enumerate(used)}
        signed = np.zeros((K, len(used)), dtype=object)
        for (i, k), weight in self.entries.items():
            signed[self.data.y[i], place[i]] += weight
            signed[k, place[i]] -= weight
        flat, own = integers(self.data.X[used].ravel().tolist())
        rows = np.array(flat, dtype=object).reshape(len(used), d)
        return (signed @ rows) * 2 ** (self.top - own)


def _class_sums(entries: dict[tuple[int, int], int], data: LabelledData) -> np.ndarray:
    """The weight of the samples of each class against each other, integers (K, K)."""
    K = len(data.classes)
    sums = np.zeros((K, K), dtype=object)
    for (i, k), weight in entries.items():
        sums[data.y[i], k] += weight
    return sums


def _balance(entries: dict[tuple[int, int], int], data: LabelledData) -> None:
    """Add to weights what makes each class weigh as much as is against it.

    A class k that lacks weight against a class l that has too much of its own gets it at the sample
    that has most of it.
    """
    sums = _class_sums(entries, data)
    surplus = sums.sum(axis=1) - sums.sum(axis=0)
    for _ in range(len(data.classes)):
        if not surplus.any():
            break
        high, low = int(np.argmax(surplus)), int(np.argmin(surplus))
        step = min(surplus[high], -surplus[low])
        samples = np.flatnonzero((data.y == low) & (data.sample_weight > 0)).tolist()
        most = max(samples, key=lambda i: entries.get((i, high), 0))
        entries[most, high] = entries.get((most, high), 0) + step
        surplus[high] -= step
        surplus[low] += step
