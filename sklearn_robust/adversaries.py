r"""The sets of perturbations of single samples, where these do not share one symmetric set.

The robust margin of sample i is :math:`m_i = y_i (\langle w, x_i \rangle + b) - \pi_i(w)`, and its
penalty :math:`\pi_i` is a sum of support functions:

=======  ===========================================================================================
`Slots`  :math:`\pi_i(w) = \sum_k R_{ik}\, \sigma_k(g_k w)`: a *slot* k is a set and a sign
         :math:`g_k`, and :math:`R_{ik} \ge 0` the radius of sample i in it. A symmetric set with a
         radius for each sample is one slot. A set that is not symmetric is two: a sample of label y
         loses :math:`\sigma(-y w)`.
`Boxes`  :math:`\pi_i(w) = p_i \cdot w^+ + n_i \cdot w^-`: the box of each sample, as limits of the
         features make it. It is linear in the positive and the negative part of w.
=======  ===========================================================================================

Notes
-----
A. Ben-Tal, L. El Ghaoui and A. Nemirovski, Robust Optimization, Princeton University Press (2009),
chapter 1, for the support function as the worst case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sklearn_robust.threats import Threat, support, support_sizes


class Slot(NamedTuple):
    """A set, the sign of w in its support function, and the radius of each sample in it.

    Attributes
    ----------
    threat : Threat
    sign : float
        1 or -1.
    radius : ndarray of shape (n,)
        >= 0; 0 where a sample has no part of this set.
    """

    threat: Any
    sign: float
    radius: np.ndarray


@dataclass(frozen=True)
class Slots:
    """Sets that samples share in parts: of each sample the sum of its radii times the sets."""

    slots: tuple[Slot, ...]

    @classmethod
    def by_sample(cls, threat: Threat, radius: np.ndarray) -> Slots:
        """A symmetric set with a radius for each sample, (n,)."""
        return cls((Slot(threat, 1.0, radius),))

    @classmethod
    def by_class(cls, y: np.ndarray, sets: Sequence[Any], radius: np.ndarray) -> Slots:
        """The set of each of two classes, -1 and +1, None where it is 0, and radii of samples."""
        slots = []
        for label, threat in zip((-1.0, 1.0), sets, strict=True):
            part = np.where(y == label, radius, 0.0)
            if threat is not None and part.any():
                # a sample of label y loses sigma(-y w)
                slots.append(Slot(threat, 1.0 if threat.symmetric else -label, part))
        return cls(_merged(slots))

    @property
    def factors(self) -> np.ndarray | None:
        """The radius of each sample, (n,), where all share one set; None where they do not."""
        shared = len(self.slots) == 1 and self.slots[0].threat.symmetric
        return self.slots[0].radius if shared else None

    def penalties(self, coef: np.ndarray) -> np.ndarray:
        """The margin that the adversary takes from each sample: (k, d) -> (k, n)."""
        return self._summed(support, coef)

    def sizes(self, coef: np.ndarray) -> np.ndarray:
        """The sums of the sizes of the terms of `penalties`, with which its rounding scales."""
        return self._summed(support_sizes, coef)

    def _summed(self, function: Any, coef: np.ndarray) -> np.ndarray:
        total = np.zeros((len(coef), self._n_samples))
        for slot in self.slots:
            total = total + function(slot.threat, slot.sign * coef)[:, None] * slot.radius
        return total

    @property
    def _n_samples(self) -> int:
        return len(self.slots[0].radius) if self.slots else 1

    def take(self, index: np.ndarray) -> Slots:
        """Those of some samples."""
        return Slots(tuple(slot._replace(radius=slot.radius[index]) for slot in self.slots))


def _merged(slots: list[Slot]) -> tuple[Slot, ...]:
    """The slots, as one where they are of the same set and sign."""
    if len(slots) == 2 and slots[0].threat is slots[1].threat and slots[0].sign == slots[1].sign:
        return (slots[0]._replace(radius=slots[0].radius + slots[1].radius),)
    return tuple(slots)


@dataclass(frozen=True)
class Boxes:
    """The box of each sample, by what it takes from the margin.

    Attributes
    ----------
    positive, negative : ndarray of shape (n, d)
        What a sample loses for each unit of the positive part of a coefficient, and of the
        negative; >= 0, inf where the adversary can go without limit.
    """

    positive: np.ndarray
    negative: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, lower: Any, upper: Any) -> Boxes:
        """The boxes lower_i <= delta <= upper_i, (n, d) or shapes that spread to it, of labels y."""
        up, shape = (y > 0)[:, None], (len(y), np.shape(lower)[-1])
        low, high = (np.broadcast_to(bound, shape) for bound in (lower, upper))
        low = 0.0 - low
        return cls(np.where(up, low, high), np.where(up, high, low))

    factors = None

    @cached_property
    def bounded(self) -> tuple[np.ndarray, np.ndarray]:
        """The features whose coefficient may be positive, and those where it may be negative: (d,)
        masks.
        """
        positive, negative = (
            np.isfinite(part).all(axis=0) for part in (self.positive, self.negative)
        )
        return positive, negative

    @cached_property
    def _finite(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Each part with 0 for inf, and where it is inf, if anywhere."""
        finite = []
        for part in (self.positive, self.negative):
            endless = np.isinf(part)
            some = bool(endless.any())
            finite.append((np.where(endless, 0.0, part), endless) if some else (part, None))
        return finite

    def penalties(self, coef: np.ndarray) -> np.ndarray:
        """The margin that the adversary takes from each sample: (k, d) -> (k, n)."""
        total = np.zeros((len(coef), len(self.positive)))
        for sign, (loss, endless) in zip((1.0, -1.0), self._finite, strict=True):
            part = np.maximum(sign * coef, 0)
            total += part @ loss.T
            if endless is not None:
                total[(part > 0).astype(np.float64) @ endless.T > 0] = np.inf
        return total

    sizes = penalties

    def take(self, index: np.ndarray) -> Boxes:
        """Those of some samples."""
        return Boxes(self.positive[index], self.negative[index])
