r"""The sets of the samples of several classes, where these do not share one symmetric set.

The margin of sample i against the rival k is :math:`\langle w_{y_i} - w_k, x_i \rangle + b_{y_i} -
b_k - \pi_{ik}(W)`. The samples of a class have the sets of `_adversaries`, and so

.. math:: \pi_{ik}(W) = \sigma_i(w_k - w_{y_i}).

Perturbations :math:`\delta_{ik}` that are given take :math:`\pi_{ik}(W) = \langle w_k - w_{y_i},
\delta_{ik} \rangle`: the data that the adversary may choose, without adversary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_robust._adversaries import Adversary, Slots, is_shared, resolve
from sklearn_robust._own_sets import OwnSets
from sklearn_robust.threats import is_ball, of_class

_SHARED = 10  # samples of a set from which that is cheaper, evaluated once, than sets of their own


@dataclass(frozen=True)
class JointSets:
    """The sets of the samples, class by class.

    Attributes
    ----------
    members : tuple of ndarray
        The samples of each class.
    adversaries : tuple of Slots, Boxes or OwnSets
        The sets of these samples, which take sigma(w_k - w_l) in class l.
    """

    members: tuple[np.ndarray, ...]
    adversaries: tuple[Adversary, ...]

    @classmethod
    def of(
        cls, threat: Any, X: Any, y: np.ndarray, labels: Sequence[Any], radius: np.ndarray | None
    ) -> JointSets | None:
        """The sets of samples with classes y, 0..K-1; None where they share one symmetric set.

        Parameters
        ----------
        threat : Threat
            Bound.
        X : array or scipy.sparse array of shape (n, d)
        y : ndarray of int of shape (n,)
        labels : sequence
            What a threat by class calls the classes.
        radius : ndarray of shape (n,) or None
            The factor on the set of each sample.
        """
        if radius is None and (is_ball(threat) or is_shared(threat)):
            return None
        members = tuple(np.flatnonzero(y == k) for k in range(len(labels)))
        factors = np.ones(len(y)) if radius is None else radius
        return cls(
            members,
            tuple(
                _of_class(of_class(threat, label), X[rows], factors[rows])
                for label, rows in zip(labels, members, strict=True)
            ),
        )

    @classmethod
    def of_two_classes(cls, y: np.ndarray, sets: Slots | OwnSets) -> JointSets:
        """The sets of samples of two classes, 0 and 1, that were those of labels -1 and +1."""
        members = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
        return cls(members, tuple(sets.take(rows).of_one_class() for rows in members))

    def penalties(self, coef: np.ndarray) -> np.ndarray:
        """The margin that the adversary takes from each sample for each rival: (K, d) -> (K, n)."""
        return self._each(coef, "penalties")

    def sizes(self, coef: np.ndarray) -> np.ndarray:
        """The sums of the sizes of the terms of `penalties`, with which its rounding scales."""
        return self._each(coef, "sizes")

    def _each(self, coef: np.ndarray, name: str) -> np.ndarray:
        total = np.zeros((len(coef), sum(len(rows) for rows in self.members)))
        for w, rows, adversary in zip(coef, self.members, self.adversaries, strict=True):
            total[:, rows] = getattr(adversary, name)(coef - w)
        return total

    def perturbations(self, coef: np.ndarray) -> np.ndarray:
        """The worst perturbation of each sample for each rival: (K, d) -> (K, n, d)."""
        n = sum(len(rows) for rows in self.members)
        total = np.zeros((len(coef), n, coef.shape[1]))
        for w, rows, adversary in zip(coef, self.members, self.adversaries, strict=True):
            for k, rival in enumerate(coef):
                total[k, rows] = adversary.perturbations(rival - w)
        return total

    def take(self, index: np.ndarray) -> JointSets:
        """Those of some samples."""
        place = np.full(sum(len(rows) for rows in self.members), -1)
        place[index] = np.arange(len(index))
        kept = [place[rows] >= 0 for rows in self.members]
        return JointSets(
            tuple(place[rows[held]] for rows, held in zip(self.members, kept, strict=True)),
            tuple(
                adversary.take(np.flatnonzero(held))
                for adversary, held in zip(self.adversaries, kept, strict=True)
            ),
        )


@dataclass(frozen=True)
class GivenPerturbations:
    """Perturbations of the samples for each rival, (K, n, d): those that were chosen."""

    members: tuple[np.ndarray, ...]
    delta: np.ndarray

    def penalties(self, coef: np.ndarray) -> np.ndarray:
        """What they take from the margin: (K, d) -> (K, n)."""
        total = np.zeros(self.delta.shape[:2])
        for w, rows in zip(coef, self.members, strict=True):
            total[:, rows] = np.einsum("kd,kmd->km", coef - w, self.delta[:, rows])
        return total

    def sizes(self, coef: np.ndarray) -> np.ndarray:
        """The sums of the sizes of their terms."""
        total = np.zeros(self.delta.shape[:2])
        for w, rows in zip(coef, self.members, strict=True):
            total[:, rows] = np.einsum("kd,kmd->km", np.abs(coef - w), np.abs(self.delta[:, rows]))
        return total


def _of_class(threat: Any, X: Any, factors: np.ndarray) -> Adversary:
    """The sets of the samples of one class, at radius 1."""
    # as of label -1, from which a set takes sigma(w)
    n = X.shape[0]
    found, adversary = resolve(threat, X, np.full(n, -1.0), None, factors, n // _SHARED)
    assert adversary is not None  # the factors are given
    if is_ball(found) and isinstance(adversary, Slots):
        slots = (slot._replace(radius=found.eps * slot.radius) for slot in adversary.slots)
        return replace(adversary, slots=tuple(slots))
    return adversary
