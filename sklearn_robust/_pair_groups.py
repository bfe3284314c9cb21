r"""The sets of the samples of several classes, as groups for a cone program of all pairs.

A group is a set, or the boxes of a class, two classes l and k, and the samples of class l that have
it: the pairs of these samples against k lose :math:`\sigma_i(w_k - w_l)`. Points that a program
names, up to its error, become points of the sets: by a move into the interior, or along the box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import null_space

from sklearn_robust._adversaries import Boxes, Slot, Slots, with_cones
from sklearn_robust._conic_programs import Vector
from sklearn_robust._conic_sets import InteriorSet
from sklearn_robust._joint_sets import JointSets
from sklearn_robust._own_sets import OwnSets
from sklearn_robust.joint import JointProblem
from sklearn_robust.threats import Box, support

LEAST_ROOM = 1e-4  # distance from a row, in units of the set, that a point counts to have


@dataclass(frozen=True)
class ConeGroup:
    """The pairs of class l against k whose sets are multiples of one set.

    Attributes
    ----------
    low, high : int
        l and k.
    samples : ndarray of shape (m,)
    set : HeldSet
    radius : ndarray of shape (m,)
        In units of the set.
    """

    low: int
    high: int
    samples: np.ndarray
    set: HeldSet
    radius: np.ndarray

    @property
    def directions(self) -> Vector:
        """The projection (d, d) on the directions in which the set moves a sample."""
        return self.set.directions


class HeldSet:
    """A set in cones, over its size, without the features that cannot move."""

    def __init__(self, threat: Any) -> None:
        self.threat, self.inner = threat, InteriorSet(threat)
        rows = self.inner.rows
        E, F = rows.E.tocsr(), rows.F.tocsr()
        of_one = rows.of_kind("zero") & (np.diff(E.indptr) == 1) & (np.diff(F.indptr) == 0)
        of_one &= rows.h == 0
        fixed = np.unique(E[of_one].indices)
        self.columns = np.setdiff1d(np.arange(E.shape[1]), fixed)
        # rows on fixed features alone say nothing else
        kept = np.flatnonzero(~of_one)
        self.E, self.F = E[kept][:, self.columns], F[kept]
        self.h = rows.h[kept]
        ends = np.cumsum(~of_one)
        self.cones = [
            (kind, int(ends[at.stop - 1] - (ends[at.start - 1] if at.start else 0)))
            for kind, at in rows.blocks
        ]

    @property
    def size(self) -> float:
        return self.inner.size

    @cached_property
    def endless(self) -> tuple[Vector, Vector]:
        """The features along which the set has no end, upwards and downwards."""
        unit = np.eye(self.inner.rows.E.shape[1])
        up, down = (np.isinf(support(self.threat, way * unit)) for way in (1.0, -1.0))
        return up, down

    @cached_property
    def directions(self) -> Vector:
        """The projection (d, d) on the directions in which the set moves a sample."""
        L = self.inner.equalities_of_x[0]
        projection: Vector = np.eye(L.shape[1]) - np.linalg.pinv(L) @ L
        return projection

    @cached_property
    def _inequalities(self) -> tuple[Vector, Vector]:
        """Directions (d + number of s, m) that keep the equalities, and the change of the rows
        along them.
        """
        inner = self.inner
        free = null_space(np.hstack([inner.E, inner.F]))
        rows: Vector = sparse.hstack([inner.rows.E, inner.rows.F]) @ free
        return free, rows

    def room(self, u: Vector, s: Vector) -> Vector:
        r"""How far (u, s) can move in each direction, as a matrix M: moves with :math:`x \cdot
        M^{-1} x \le 1` stay inside, but for rows nearer than the least room.

        It is the inverse of the Hessian of the barrier of the cones, plus 1 in each direction.
        """
        free, rows = self._inequalities
        slack = self.inner.rows.slack(u, s)
        hessian = np.eye(free.shape[1])
        for kind, at in self.inner.rows.blocks:
            A = rows[at]
            if kind == "nonnegative":
                A = A / np.maximum(slack[at], LEAST_ROOM)[:, None]
                hessian += A.T @ A
            elif kind == "second_order":
                x = slack[at].copy()
                x[0] = max(x[0], np.linalg.norm(x[1:]) + LEAST_ROOM)
                x[1:] *= -1
                det = float(x[0] ** 2 - x[1:] @ x[1:])
                along = x @ A
                hessian += 4 / det**2 * np.outer(along, along)
                hessian += 2 / det * (A[1:].T @ A[1:] - np.outer(A[0], A[0]))
        room: Vector = free @ np.linalg.solve(hessian, free.T)
        return room

    def point(self, u: Vector, s: Vector) -> tuple[Vector, Vector]:
        """The point of the set, over its size, near u on the columns that move, and the s by which
        it is in it.
        """
        whole = np.zeros(self.inner.rows.E.shape[1])
        whole[self.columns] = u
        return self.inner.moved_inside(whole, s)

    @cached_property
    def inside(self) -> tuple[Vector, Vector]:
        """A point of the interior, and its s."""
        d = self.inner.rows.E.shape[1]
        return self.inner.point[:d], self.inner.point[d:]


@dataclass(frozen=True)
class BoxGroup:
    """The pairs of class l against k, each with its box."""

    low: int
    high: int
    samples: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @property
    def directions(self) -> Vector:
        """The projection (d, d) on the features in which a box moves a sample."""
        return np.diag(((self.lower != 0) | (self.upper != 0)).any(axis=0).astype(np.float64))

    @cached_property
    def endless(self) -> tuple[Vector, Vector]:
        """The features in which some box has no upper, and no lower end."""
        return np.isinf(self.upper).any(axis=0), np.isinf(self.lower).any(axis=0)


def groups_of(problem: JointProblem, pairs: np.ndarray) -> Iterator[ConeGroup | BoxGroup]:
    """The groups of the pairs of a sample and a rival that a mask (n, K) names."""
    sets = problem.adversary
    assert isinstance(sets, JointSets)
    for low, (members, adversary) in enumerate(zip(sets.members, sets.adversaries, strict=True)):
        rivals = [k for k in range(problem.n_classes) if k != low]
        if isinstance(adversary, Boxes) and not _is_one_box(adversary):
            lower, upper = -problem.radius * adversary.negative, problem.radius * adversary.positive
            for high in rivals:
                kept = pairs[members, high]
                if kept.any():
                    yield BoxGroup(low, high, members[kept], lower[kept], upper[kept])
            continue
        for slot in _slots(adversary, problem.n_features):
            moving = slot.radius > 0
            if not pairs[members[moving]].any() or problem.radius == 0:
                continue
            held = HeldSet(slot.threat)
            for high in rivals:
                kept = moving & pairs[members, high]
                if kept.any():
                    radius = problem.radius * held.size * slot.radius[kept]
                    yield ConeGroup(low, high, members[kept], held, radius)


def _is_one_box(boxes: Boxes) -> bool:
    """Whether all samples have the same box, which has ends and is not {0}."""
    parts = boxes.positive, boxes.negative
    alike = all((part == part[:1]).all() and np.isfinite(part).all() for part in parts)
    return bool(alike and any(part.any() for part in parts))


def _slots(adversary: Any, d: int) -> Iterator[Slot]:
    """The distinct sets of the samples of a class."""
    if isinstance(adversary, Boxes):
        one = Box(-adversary.negative[0], adversary.positive[0])
        yield Slot(one, 1.0, np.ones(len(adversary.positive)))
    elif isinstance(adversary, Slots):
        for slot in adversary.slots:
            yield slot._replace(threat=with_cones(slot.threat, d))
    else:
        assert isinstance(adversary, OwnSets)
        for part in adversary.parts:
            for threat, members in part.distinct():
                radius = np.zeros(adversary.n)
                radius[members] = 1.0
                yield Slot(with_cones(threat, d, part.threat), 1.0, radius)


def points_of_boxes(total: Vector, weights: Vector, lower: Vector, upper: Vector) -> Vector:
    """Perturbations (m, d) in the boxes whose weighted sum is nearest to a total (d,).

    All go one share of the way from lower to upper; where some have no end these go as far as is
    needed.
    """
    low, high = (np.where(np.isinf(end), 0.0, end) for end in (lower, upper))
    up, down = (np.asarray(np.isinf(end).any(axis=0)) for end in (upper, lower))
    start, end = weights @ low, weights @ high
    share = np.divide(total - start, end - start, out=np.zeros_like(total), where=end > start)
    delta = low + np.clip(share, 0, 1) * (high - low)
    # where some have no end, all start from the other one
    for open_, base, from_base in ((up, low, start), (down & ~up, high, end)):
        at = np.flatnonzero(open_)
        rest = total[at] - from_base[at]
        rest = np.where(up[at], np.maximum(rest, 0), np.minimum(rest, 0))
        delta[:, at] = base[:, at] + far_points(rest, weights, lower[:, at], upper[:, at])
    return delta


def far_points(total: Vector, weights: Vector, lower: Vector, upper: Vector) -> Vector:
    """Perturbations (m, d) of this weighted sum (d,), alike for all who have no end in its
    direction, and 0 for the others.
    """
    able = np.where(total > 0, np.isinf(upper), np.isinf(lower))
    room = weights @ able
    step = np.divide(total, room, out=np.zeros_like(total), where=room > 0)
    return np.where(able, step, 0.0)
