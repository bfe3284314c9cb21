r"""The sets of samples of which each has its own, evaluated all at once.

Categories, flips and limits give every sample a set that depends on some of its features. The
penalty of sample i is :math:`\pi_i(w) = \sigma_i(g w)`, with a sign g that all samples of a class
share; `threats.at` has the support functions of many samples in one call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sklearn_robust.threats import at, columns_of, support


class DistinctSet(NamedTuple):
    """A set, and the places of the samples that have it."""

    threat: Any
    members: np.ndarray


@dataclass(frozen=True)
class OwnSets:
    """The sets of samples, a class after the other.

    Attributes
    ----------
    parts : tuple of ClassSets
    n : int
        The number of samples.
    """

    parts: tuple[ClassSets, ...]
    n: int

    factors = None

    def penalties(self, coef: np.ndarray) -> np.ndarray:
        """The margin that the adversary takes from each sample: (k, d) -> (k, n)."""
        total = np.zeros((len(coef), self.n))
        for part in self.parts:
            for row, w in zip(total, coef, strict=True):
                row[part.rows] = support(part.sets, part.sign * w)
        return total

    sizes = penalties

    def perturbations(self, coef: np.ndarray) -> np.ndarray:
        """The worst perturbation of each sample, times minus its label: (d,) -> (n, d)."""
        total = np.zeros((self.n, len(coef)))
        for part in self.parts:
            worst = part.sign * np.asarray(part.sets.worst(part.sign * coef))
            total[part.rows] = np.where(np.isfinite(worst), worst, 0.0)
        return total

    def of_one_class(self) -> OwnSets:
        """The sets of samples of one class, which take sigma(w)."""
        return replace(self, parts=tuple(replace(part, sign=1.0) for part in self.parts))

    def take(self, index: np.ndarray) -> OwnSets:
        """Those of some samples."""
        place = np.full(self.n, -1)
        place[index] = np.arange(len(index))
        parts = (part.take(place) for part in self.parts)
        return OwnSets(tuple(part for part in parts if len(part.rows)), len(index))


@dataclass(frozen=True)
class ClassSets:
    """The sets of the samples of one class.

    Attributes
    ----------
    threat : Threat
        Bound, and of this class.
    sign : float
        1 or -1: sigma(sign w) is taken from the margin.
    rows : ndarray of shape (m,)
        The places of the samples among all.
    X : ndarray of shape (m, d)
    factors : ndarray of shape (m,)
        The factor on the set of each sample.
    """

    threat: Any
    sign: float
    rows: np.ndarray
    X: np.ndarray
    factors: np.ndarray

    @cached_property
    def sets(self) -> Any:
        """The sets of all samples."""
        return at(self.threat, self.X, self.factors)

    def distinct(self) -> list[DistinctSet]:
        """Each set that samples have, with the places of these samples among all."""
        keys = np.column_stack([self.X[:, columns_of(self.threat)], self.factors])
        _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(which, kind="stable")
        groups = np.split(self.rows[order], np.cumsum(np.bincount(which))[:-1])
        return [
            DistinctSet(at(self.threat, self.X[i], float(self.factors[i])), members)
            for i, members in zip(first, groups, strict=True)
        ]

    def take(self, place: np.ndarray) -> ClassSets:
        """Those of the samples that have a new place; -1 for the others."""
        kept = place[self.rows] >= 0
        return ClassSets(
            self.threat, self.sign, place[self.rows[kept]], self.X[kept], self.factors[kept]
        )
