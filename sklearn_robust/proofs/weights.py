"""Weights as integers over a power of two, which balance the classes exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sklearn_robust.proofs.data import LabelledData

PLACES = 62  # least binary places of weights, whose sum is at most about 1
_MOST_ROUNDED = 900  # binary places that floating point scales by
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
    places: int

    @classmethod
    def of(
        cls, data: LabelledData, weights: np.ndarray, fit_intercept: bool, places: int
    ) -> ExactWeights:
        """The nearest such weights to (K, n), which may be rounded; places are `PLACES` or more.

        Pairs of classes with next to no weight have none: rounding alone would decide about them.
        """
        members = np.eye(len(data.classes))[data.y]
        sums = (weights @ members).T
        kept = sums + sums.T >= _NEGLIGIBLE * weights.sum()
        rounded = min(places, _MOST_ROUNDED)
        scaled = np.rint(np.ldexp(weights * kept[:, data.y], rounded))
        more = places - rounded
        entries = {(int(i), int(k)): int(scaled[k, i]) << more for k, i in np.argwhere(scaled > 0)}
        if fit_intercept:
            _balance(entries, data)
        return cls(data, entries, places)

    @cached_property
    def between(self) -> np.ndarray:
        r""":math:`A_{lk}`, the weight between two classes, an object array of integers (K, K)."""
        sums = _class_sums(self.entries, self.data)
        return sums + sums.T

    @cached_property
    def weighted_sum(self) -> np.ndarray:
        r""":math:`G = \sum_{ik} a_{ik} (e_{y_i} - e_k) x_i^T` in units of
        :math:`2^{-2 \, \text{places}}`, an object array of integers (K, d).
        """
        K = len(self.data.classes)
        used = sorted({i for i, _ in self.entries})
        place = {i: at for at, i in enumerate(used)}
        signed = np.zeros((K, len(used)), dtype=object)
        for (i, k), weight in self.entries.items():
            signed[self.data.y[i], place[i]] += weight
            signed[k, place[i]] -= weight
        found: np.ndarray = signed @ in_units(self.data.X[used], self.places)
        return found


def in_units(values: np.ndarray, places: int) -> np.ndarray:
    """Floats as integers in units of 2^-places, of which they are multiples."""
    ratios = (x.as_integer_ratio() for x in values.ravel().tolist())
    flat = [above << places + 1 - below.bit_length() for above, below in ratios]
    return np.array(flat, dtype=object).reshape(values.shape)


def binary_places(values: np.ndarray) -> int:
    """The least number of binary places that holds floats exactly."""
    below = (x.as_integer_ratio()[1] for x in np.asarray(values, np.float64).ravel().tolist())
    return max(below, default=1).bit_length() - 1


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
