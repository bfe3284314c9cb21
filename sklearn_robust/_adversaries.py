r"""The sets of perturbations of single samples, where these do not share one symmetric set.

Several radii of one l_q ball, and boxes, have forms of their own; other sets are in cones.

The robust margin of sample i is :math:`m_i = y_i (\langle w, x_i \rangle + b) - \pi_i(w)`, and its
penalty :math:`\pi_i` is a sum of support functions:

=======  ===========================================================================================
`Slots`  :math:`\pi_i(w) = \sum_k R_{ik}\, \sigma_k(g_k w)`: a *slot* k is a set and a sign
         :math:`g_k`, and :math:`R_{ik} \ge 0` the radius of sample i in it. A symmetric set with a
         radius for each sample is one slot. A set that is not symmetric is two: a sample of label y
         loses :math:`\sigma(-y w)`.
`Boxes`  :math:`\pi_i(w) = p_i \cdot w^+ + n_i \cdot w^-`: the box of each sample, as limits of the
         features make it. It is linear in the positive and the negative part of w.
OwnSets  :math:`\pi_i(w) = \sigma_i(g w)`: any set of each sample (`_own_sets`), where the samples
         have so many that each as a slot would be too many.
=======  ===========================================================================================

Notes
-----
A. Ben-Tal, L. El Ghaoui and A. Nemirovski, Robust Optimization, Princeton University Press (2009),
chapter 1, for the support function as the worst case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sklearn_robust._array_api import to_numpy
from sklearn_robust._documentation import see
from sklearn_robust._own_sets import ClassSets, OwnSets
from sklearn_robust.threats import (
    Box,
    ConicThreat,
    LpBall,
    Nothing,
    Threat,
    at,
    is_ball,
    is_by_class,
    is_per_sample,
    of_class,
    offers,
    support,
    support_sizes,
    without_limits,
)

# sets of samples that differ, up to which each is a slot of the cone program of a Newton step
_MOST_SLOTS = 400


_BLOCK_ENTRIES = 2**15  # entries of rows at a time, in the processor's cache


def row_blocks(n: int, d: int) -> Iterator[slice]:
    """The rows of an array (n, d), as many at a time as the processor's cache holds."""
    size = max(1, _BLOCK_ENTRIES // max(d, 1))
    for first in range(0, n, size):
        yield slice(first, min(first + size, n))


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
    """One or more sets that samples share in parts: of each sample the sum of its radii times the
    sets.
    """

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
            if threat is not None:
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
        total = np.zeros((len(coef), len(self.slots[0].radius)))
        for slot in self.slots:
            size = function(slot.threat, slot.sign * coef)[:, None]
            # an infinite support takes nothing from the samples without a part in the set
            total += np.where(slot.radius > 0, size, 0.0) * slot.radius
        return total

    def perturbations(self, coef: np.ndarray) -> np.ndarray:
        """The worst perturbation of each sample, times minus its label: (d,) -> (n, d)."""
        total = np.zeros((len(self.slots[0].radius), len(coef)))
        for slot in self.slots:
            worst = slot.sign * slot.threat.worst(slot.sign * coef)
            total += slot.radius[:, None] * np.where(np.isfinite(worst), worst, 0.0)
        return total

    def take(self, index: np.ndarray) -> Slots:
        """Those of some samples."""
        return Slots(tuple(slot._replace(radius=slot.radius[index]) for slot in self.slots))

    def of_one_class(self) -> Slots:
        """The slots of samples of one class, which take sigma(w)."""
        slots = tuple(slot._replace(sign=1.0) for slot in self.slots)
        # one tells the number of samples, where none has a part
        return Slots(tuple(slot for slot in slots if slot.radius.any()) or slots[:1])


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
        """The boxes lower_i <= delta <= upper_i, (n, d) or (d,), of samples with labels y; arrays
        (n, d) are overwritten.
        """
        up = y > 0
        if lower.ndim == 1:
            ends = np.stack([upper, 0.0 - lower])
            return cls(ends[up.astype(int)], ends[(~up).astype(int)])
        for rows in row_blocks(*lower.shape):
            low, high = 0.0 - lower[rows], upper[rows].copy()
            lower[rows] = np.where(up[rows, None], low, high)
            upper[rows] = np.where(up[rows, None], high, low)
        return cls(lower, upper)

    factors = None

    @cached_property
    def bounded(self) -> tuple[np.ndarray, np.ndarray]:
        """The features whose coefficient may be positive, and those where it may be negative: (d,)
        masks.
        """
        positive, negative = (
            np.max(part, axis=0, initial=0.0) < math.inf for part in (self.positive, self.negative)
        )
        return positive, negative

    @cached_property
    def _finite(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Each part with 0 for inf, and where it is inf, if anywhere."""
        finite: list[tuple[np.ndarray, np.ndarray | None]] = []
        for part, bounded in zip((self.positive, self.negative), self.bounded, strict=True):
            if bounded.all():
                finite.append((part, None))
                continue
            endless = np.isinf(part)
            finite.append((np.where(endless, 0.0, part), endless))
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

    def perturbations(self, coef: np.ndarray) -> np.ndarray:
        """The worst perturbation of each sample, times minus its label: (d,) -> (n, d)."""
        worst = np.where(coef > 0, self.positive, np.where(coef < 0, -self.negative, 0.0))
        return np.where(np.isfinite(worst), worst, 0.0)

    def take(self, index: np.ndarray) -> Boxes:
        """Those of some samples."""
        return Boxes(self.positive[index], self.negative[index])


Adversary = Slots | Boxes | OwnSets


def is_shared(threat: Any) -> bool:
    """Whether all samples have the same symmetric set, and no faster form of it is known."""
    of_all = not (is_per_sample(threat) or is_by_class(threat))
    return bool(of_all and threat.symmetric and not isinstance(threat, Box))


def resolve(
    threat: Any,
    X: Any,
    y: np.ndarray,
    classes: Sequence[Any] | None,
    radius: np.ndarray | None,
    most_slots: float = math.inf,
) -> tuple[Any, Adversary | None]:
    """The threat in the form that serves it fastest, and the sets of the samples.

    A box that is symmetric becomes the l_inf ball with scales, and balls of several radii one ball
    with a radius for each sample.

    Parameters
    ----------
    threat : Threat
        Bound.
    X : array or scipy.sparse array of shape (n, d)
    y : ndarray of shape (n,)
        Labels in {-1, +1}.
    classes : sequence of two labels, or None
        What a threat by class calls the labels -1 and +1.
    radius : ndarray of shape (n,) or None
        The factor on the set of each sample; 1 where there is none.
    most_slots : float
        Sets of samples that differ, above which each sample has its own; at most `_MOST_SLOTS`.

    Returns
    -------
    threat : Threat
    adversary : Slots, Boxes, OwnSets or None
        None where all samples share the threat, which is symmetric.

    Raises
    ------
    ValueError
        Where the set of a class is not in cones.
    """
    sets = [threat, threat] if classes is None else [of_class(threat, one) for one in classes]
    if classes is None and is_by_class(threat):
        raise ValueError(
            f"threat={threat!r} is one for each class, and the classes are not known here: give "
            f"the estimator the threat, or RobustProblem.from_data the classes."
        )
    one_set = sets[0] is sets[1]
    sets = [as_ball(one) for one in sets]
    per_sample = any(is_per_sample(one) for one in sets)
    if one_set and radius is None and sets[0].symmetric and not per_sample:
        return sets[0], None
    factors = np.ones(len(y)) if radius is None else radius
    balls = _as_one_ball(sets)
    if balls is not None:
        ball, shares = balls
        unit = LpBall(ball.q, 1.0, ball.scale)
        by_class = np.where(y > 0, shares[1], shares[0])
        return ball, Slots.by_sample(unit, factors * by_class)
    boxes = _boxes(sets, X, y, radius)
    if boxes is not None:
        return threat, boxes
    if per_sample:
        return threat, _sets_of_samples(sets, X, y, factors, min(most_slots, _MOST_SLOTS))
    used = [None if _is_nothing(one) else with_cones(one, X.shape[1]) for one in sets]
    if one_set:
        used[1] = used[0]
    return threat, Slots.by_class(y, used, factors)


def _is_nothing(threat: Any) -> bool:
    return isinstance(threat, Nothing) or (is_ball(threat) and threat.eps == 0)


def as_ball(threat: Any) -> Any:
    """A symmetric box of finite bounds as the l_inf ball with their scale, no set as a ball of
    radius 0; else the threat.
    """
    if isinstance(threat, Nothing):
        return LpBall(math.inf, 0.0)
    if isinstance(threat, Box) and threat.symmetric and np.isfinite(threat.upper).all():
        return LpBall(math.inf, 1.0, threat.upper)
    return threat


def _as_one_ball(sets: Sequence[Any]) -> tuple[LpBall, list[float]] | None:
    """One ball, and the share of its radius that each class has; None where they are no balls of
    one shape.
    """
    balls = [one for one in sets if not _is_nothing(one)]
    if not balls or not all(is_ball(one) for one in balls):
        return None
    first = balls[0]
    for other in balls[1:]:
        alike = other.q == first.q and (
            other.scale is first.scale
            or (
                other.scale is not None
                and first.scale is not None
                and np.array_equal(to_numpy(other.scale), to_numpy(first.scale))
            )
        )
        if not alike:
            return None
    largest = max(balls, key=lambda ball: ball.eps)
    return largest, [0.0 if _is_nothing(one) else one.eps / largest.eps for one in sets]


def _boxes(sets: Sequence[Any], X: Any, y: np.ndarray, radius: np.ndarray | None) -> Boxes | None:
    """The boxes of the samples; None where some set is no box."""
    if sets[0] is sets[1] and not _is_nothing(sets[0]):
        found = _box_of(sets[0], X, radius)
        return None if found is None else Boxes.of(y, found.lower, found.upper)
    lower, upper = np.zeros(X.shape), np.zeros(X.shape)
    for label, threat in zip((-1.0, 1.0), sets, strict=True):
        rows = np.flatnonzero(y == label)
        if _is_nothing(threat) or not len(rows):
            continue
        found = _box_of(threat, X[rows], None if radius is None else radius[rows])
        if found is None:
            return None
        lower[rows], upper[rows] = found.lower, found.upper
    return Boxes.of(y, lower, upper)


def _box_of(threat: Any, X: Any, radius: np.ndarray | None) -> Box | None:
    """The boxes of samples, or the one of all; None where the set is no box."""
    factor = 1.0 if radius is None else radius
    if is_ball(threat) and threat.q == math.inf:
        reach = threat.eps * (
            np.ones(X.shape[1]) if threat.scale is None else to_numpy(threat.scale)
        )
        threat = Box(-reach, reach)
    found = at(threat, X, factor)
    return found if isinstance(found, Box) else None


def _sets_of_samples(
    sets: Sequence[Any], X: Any, y: np.ndarray, factors: np.ndarray, most_slots: float
) -> Slots | OwnSets:
    """The sets of samples that depend on some columns of X: a slot for each that samples have, or
    where these are many the set of each sample. Samples of factor 0 have none.
    """
    parts: list[ClassSets] = []
    for label, threat in zip((-1.0, 1.0), sets, strict=True):
        rows = np.flatnonzero((y == label) & (factors > 0))
        if isinstance(threat, LpBall) and threat.eps == 0:
            threat = without_limits(threat, X[rows])  # which refuses samples outside of them
        if _is_nothing(threat) or not len(rows):
            continue
        samples = X[rows]
        samples = samples.toarray() if hasattr(samples, "toarray") else samples
        threat = _with_scale(threat, X.shape[1])
        if not is_per_sample(threat):
            threat = with_cones(threat, X.shape[1])
        parts.append(ClassSets(threat, -label, rows, samples, factors[rows]))
    if not parts:
        return Slots.by_sample(LpBall(math.inf, 1.0, np.ones(X.shape[1])), np.zeros(len(y)))
    slots: list[Slot] = []
    for part in parts:
        if not is_per_sample(part.threat):
            radius = np.zeros(len(y))
            radius[part.rows] = part.factors
            slots.append(Slot(part.threat, part.sign, radius))
            continue
        distinct = part.distinct()
        if len(distinct) + len(slots) > most_slots:
            return OwnSets(tuple(parts), len(y))
        for threat, members in distinct:
            radius = np.zeros(len(y))
            radius[members] = 1.0
            cones = with_cones(threat, X.shape[1], part.threat)
            slots.append(Slot(cones, part.sign, radius))
    return Slots(tuple(slots))


def with_cones(threat: Any, d: int, given: Any = None) -> Any:
    """The threat where it is in cones; an l_q ball with the scale that gives it some. The one that
    was given, of which it is the set of a sample, is named otherwise.
    """
    threat = _with_scale(threat, d)
    if not offers(threat, ConicThreat):
        name = type(threat if given is None else given).__name__
        raise ValueError(
            f"Training with one set for each sample or class, or with a set that is not symmetric, "
            f"needs conic of the set, which threat={name} does not offer: use "
            f"l_q balls of q = 1, 2 or inf, boxes, budgets, ellipsoids, or sets that have it."
            f" {see('guide/adversaries')}"
        )
    return threat


def _with_scale(threat: Any, d: int) -> Any:
    """The threat, and an l_q ball with a scale, which tells it the number of features."""
    if isinstance(threat, LpBall) and threat.scale is None:
        return replace(threat, scale=np.ones(d))
    return threat
