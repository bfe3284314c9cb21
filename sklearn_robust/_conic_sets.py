r"""Conic sets: rows, a point of the interior, membership in floating point; the slots of a problem;
and the cone solver.

A set is :math:`\{x : \exists s,\ h - E x - F s \in K\}`, K a product of cones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import pinv

from sklearn_robust._adversaries import Slot, Slots, with_cones
from sklearn_robust._clarabel import SolverFailure, run_clarabel
from sklearn_robust.problems import RobustProblem
from sklearn_robust.threats import support

# Gaps and residuals that clarabel is to reach, absolute and relative. It stops earlier where
# rounding ends its progress, and a certificate decides.
_PROGRAM_TOL = 1e-10
_PROGRAM_ITER = 100  # iterations of clarabel; most programs take less than 30

# Rounding of a sum at most, relative to the sum of its terms' sizes: 64 machine epsilons.
TERM_ROUNDING = 64 * float(np.finfo(np.float64).eps)
# Shares of an interior point, tried in turn until the mixture with it lies in the set.
_SHARES = [0.0, *np.geomspace(1e-13, 1.0, 40).tolist()]

# A set with its size as the unit
_NO_INTERIOR = 1e-9  # largest slack up to which the set has no interior
_TIGHT = 1e-6  # slack up to which an inequality of such a set is an equality throughout it
# singular value, relative to the largest entry, up to which an equality repeats others
_REPEATED_EQUALITY = 1e-12

_UNIT_ROWS = 512  # unit vectors that are formed at a time


def solve_program(
    P: Any, q: np.ndarray, A: Any, b: np.ndarray, cones: Sequence[tuple[str, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """The minimiser x of x.P x / 2 + q.x with b - A x in the cones, and the rows' multipliers.

    P is the upper triangle of a symmetric matrix.

    Raises
    ------
    SolverFailure
        Unless clarabel calls it solved, or almost.
    """
    x, z, status = run_clarabel(P, q, A, b, cones, _PROGRAM_TOL, max_iter=_PROGRAM_ITER)
    if status not in ("Solved", "AlmostSolved"):
        raise SolverFailure(f"clarabel: {status}")
    return x, z


def least_share(holds: Callable[[float], bool]) -> float | None:
    """The least share of an interior point that puts a mixture into a convex set; None without one.

    `holds` is the predicate whether the mixture of a share lies in the set.
    """
    if holds(0.0):
        return 0.0
    at = bisect_left(_SHARES, True, key=holds)
    return _SHARES[at] if at < len(_SHARES) else None


@dataclass(frozen=True)
class ConicRows:
    r"""The set :math:`\{x : \exists s, h - E x - F s \in K\}`.

    Attributes
    ----------
    E : scipy.sparse array of shape (m, d)
    F : scipy.sparse array of shape (m, number of s)
    h : ndarray of shape (m,)
    cones : sequence of (kind, size)
        "zero", "nonnegative" or "second_order", in the order of the rows.
    """

    E: Any
    F: Any
    h: np.ndarray
    cones: Sequence[tuple[str, int]]

    @classmethod
    def of(cls, threat: Any) -> ConicRows:
        """The rows of a `ConicThreat`."""
        E, F, h, cones = threat.conic()
        h = np.asarray(h, dtype=np.float64)
        E, F = (sparse.csr_array(matrix, dtype=np.float64) for matrix in (E, F))
        known = {kind for kind, _ in cones} <= {"zero", "nonnegative", "second_order"}
        if not known or not E.shape[0] == F.shape[0] == len(h) == sum(size for _, size in cones):
            raise ValueError(
                f"threat.conic() must return E, F, h and cones of as many rows, of the kinds "
                f"'zero', 'nonnegative' and 'second_order', got {E.shape[0]}, {F.shape[0]} and "
                f"{len(h)} rows and cones={cones!r} of threat={type(threat).__name__}."
            )
        return cls(E, F, h, list(cones))

    @cached_property
    def blocks(self) -> list[tuple[str, slice]]:
        """The cones that are not empty, and the rows in each."""
        ends = np.cumsum([size for _, size in self.cones]).tolist()
        return [
            (kind, slice(end - size, end))
            for (kind, size), end in zip(self.cones, ends, strict=True)
            if size
        ]

    @cached_property
    def sizes(self) -> tuple[Any, Any]:
        """|E| and |F|."""
        return abs(self.E), abs(self.F)

    def of_kind(self, kind: str) -> np.ndarray:
        """The rows in cones of this kind, as a mask (m,)."""
        mask = np.zeros(len(self.h), dtype=bool)
        for other, at in self.blocks:
            mask[at] = other == kind
        return mask

    @cached_property
    def axis(self) -> np.ndarray:
        """A point of the interior of the cones, (m,); 0 in equalities."""
        axis = self.of_kind("nonnegative").astype(np.float64)
        for kind, at in self.blocks:
            if kind == "second_order":
                axis[at.start] = 1.0
        return axis

    def slack(self, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        """h - E x - F s, of shape (m,)."""
        return self.h - self.E @ x - self.F @ s

    def holds(self, x: np.ndarray, s: np.ndarray, room: np.ndarray | float = 0.0) -> bool:
        """Whether a point within `room` of x is in the set by s, up to the rounding of the rows.

        `room` bounds the distance in each coordinate.
        """
        slack, (E, F) = self.slack(x, s), self.sizes
        # s, of which any value will do, is known up to the rounding of its largest entry
        of_s = np.full(len(s), np.max(np.abs(s), initial=0.0))
        spare = TERM_ROUNDING * (np.abs(self.h) + E @ np.abs(x) + F @ of_s)
        spare += E @ np.broadcast_to(room, x.shape)
        for kind, at in self.blocks:
            part, tolerance = slack[at], spare[at]
            if kind == "zero":
                held = np.all(np.abs(part) <= tolerance)
            elif kind == "nonnegative":
                held = np.all(part >= -tolerance)
            else:
                least = np.maximum(np.abs(part[1:]) - tolerance[1:], 0)
                held = np.linalg.norm(least) <= part[0] + tolerance[0]
            if not held:
                return False
        return True

    def deepest_point(self) -> tuple[np.ndarray, float]:
        """The (x, s) of largest slack in all inequalities, and that slack, which is at most 1."""
        A = sparse.hstack([self.E, self.F, sparse.csr_array(self.axis[:, None])], format="csr")
        q = np.zeros(A.shape[1])
        q[-1] = -1.0
        at_most = sparse.csr_array(([1.0], ([0], [len(q) - 1])), shape=(1, len(q)))
        found, _ = solve_program(
            sparse.csc_array((len(q), len(q))),
            q,
            sparse.vstack([A, at_most]),
            np.append(self.h, 1.0),
            [*self.cones, ("nonnegative", 1)],
        )
        return found[:-1], float(found[-1])

    def with_equalities(self, implied: np.ndarray) -> ConicRows:
        """The same set with these inequalities, and rows of whole cones, as equalities."""
        zero, plain = (implied | self.of_kind("zero")), self.of_kind("nonnegative") & ~implied
        parts = [("zero", np.flatnonzero(zero)), ("nonnegative", np.flatnonzero(plain))]
        for kind, at in self.blocks:
            if kind == "second_order" and not implied[at.start]:
                parts.append((kind, np.arange(at.start, at.stop)))
        order = np.concatenate([rows for _, rows in parts])
        cones = [(kind, len(rows)) for kind, rows in parts]
        return ConicRows(self.E[order], self.F[order], self.h[order], cones)


class InteriorSet:
    """A set over its size, with a point of its interior, towards which other points are moved.

    The size is the largest entry of h: with it as the unit, numbers are of order 1.
    Inequalities that hold with equality throughout the set, as for a feature that the adversary
    cannot move, are written as equalities: the set has an interior beside these.
    """

    def __init__(self, threat: Any) -> None:
        rows = ConicRows.of(threat)
        self.size = float(np.max(np.abs(rows.h), initial=0.0)) or 1.0
        rows = replace(rows, h=rows.h / self.size)
        try:
            point, depth = rows.deepest_point()
            reason = "they contradict each other"
        except SolverFailure as failure:
            point, depth = np.empty(0), -np.inf
            reason = str(failure)
        if depth < -_NO_INTERIOR:
            raise ValueError(
                f"threat.conic() must describe a set that holds 0, got rows without a point "
                f"({reason}) of threat={type(threat).__name__}: h - F s must be in the cones for "
                f"some s."
            )
        while depth <= _NO_INTERIOR:
            d = rows.E.shape[1]
            low = rows.slack(point[:d], point[d:]) <= _TIGHT
            implied = low & rows.of_kind("nonnegative")
            for kind, at in rows.blocks:  # a cone whose axis is 0 is the point 0
                implied[at] |= kind == "second_order" and low[at.start]
            if not implied.any():
                break
            rows = rows.with_equalities(implied)
            point, depth = rows.deepest_point()
        self.rows, self.point = rows, point
        held = np.flatnonzero(rows.of_kind("zero"))
        self.E, self.F = (matrix[held].toarray() for matrix in (rows.E, rows.F))
        self.h = rows.h[held]
        self._back = _inverse(np.hstack([self.E, self.F]))
        # the equalities of s alone, and the s of the others that keeps to them
        self._of_s = ~self.E.any(axis=1)
        alone, others = self.F[self._of_s], self.F[~self._of_s]
        self._to_s_alone = _inverse(alone)
        kept = np.eye(self.F.shape[1]) - self._to_s_alone @ alone
        self._to_s = _inverse(others @ kept, np.max(np.abs(others), initial=0.0))
        self.point = self.point + self._back @ (self.h - np.hstack([self.E, self.F]) @ self.point)

    @cached_property
    def equalities_of_x(self) -> tuple[np.ndarray, np.ndarray]:
        """L and l of the equalities L x = l that x obeys whatever s is."""
        left = np.eye(len(self.h)) - self.F @ _inverse(self.F)
        directions, sizes, _ = np.linalg.svd(left @ self.E, full_matrices=False)
        largest = np.max(np.abs(self.E), initial=0.0)
        chosen = directions[:, sizes > _REPEATED_EQUALITY * largest].T @ left
        return chosen @ self.E, chosen @ self.h

    def with_s(self, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        """The s next to the given one for which the equalities hold at x, where there is one.

        Where there is none but for the rounding of x, those of s alone hold.
        """
        alone = self._of_s
        moved: np.ndarray = s + self._to_s_alone @ (self.h[alone] - self.F[alone] @ s)
        left = self.h[~alone] - self.E[~alone] @ x - self.F[~alone] @ moved
        return moved + self._to_s @ left

    @cached_property
    def s_of_zero(self) -> np.ndarray:
        """An s by which 0 is in the set."""
        rows = self.rows
        of_s = ConicRows(sparse.csr_array((len(rows.h), 0)), rows.F, rows.h, rows.cones)
        return of_s.deepest_point()[0]

    def moved_inside(self, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearby point of the set: moved onto the equalities, then towards the interior."""
        way = np.append(x, s) - self.point
        way -= self._back @ (np.hstack([self.E, self.F]) @ way)
        room = TERM_ROUNDING * float(np.max(np.abs(x), initial=0.0))

        def moved(share: float) -> tuple[np.ndarray, np.ndarray]:
            point = self.point + (1 - share) * way
            return point[: len(x)], self.with_s(point[: len(x)], point[len(x) :])

        share = least_share(lambda share: self.rows.holds(*moved(share), room))
        return moved(1.0 if share is None else share)


def _inverse(matrix: np.ndarray, largest: float | None = None) -> np.ndarray:
    """The pseudoinverse, without singular values that are rounding beside the largest entry."""
    if largest is None:
        largest = float(np.max(np.abs(matrix), initial=0.0))
    inverse: np.ndarray = pinv(matrix, atol=_REPEATED_EQUALITY * largest, rtol=0.0)
    return inverse


@dataclass(frozen=True)
class Perturbation:
    """A point u of the set of a slot, and the s by which it is in it."""

    u: np.ndarray
    s: np.ndarray


class ConicSlot:
    """A slot of a problem on d features in cones: its set in units of its size, and so the radii,
    (n,).
    """

    def __init__(self, slot: Slot, factor: float, d: int) -> None:
        self.threat, self.sign = with_cones(slot.threat, d), slot.sign
        self.set = InteriorSet(self.threat)
        self.rows: ConicRows = self.set.rows
        self.radius = self.set.size * factor * slot.radius
        # the numbers of coordinates of u and of s
        self.widths = self.rows.E.shape[1], self.rows.F.shape[1]

    def times(self, factor: float) -> ConicSlot:
        """The slot with a factor on its radii."""
        scaled = copy(self)
        scaled.radius = factor * self.radius
        return scaled

    def support(self, coef: np.ndarray) -> float:
        """sigma(g w)."""
        return float(support(self.threat, self.sign * coef)) / self.set.size

    @cached_property
    def _signs(self) -> tuple[np.ndarray, np.ndarray]:
        """The features whose coefficient must not be positive, and not negative: along them the set
        has no end.
        """
        d = self.rows.E.shape[1]
        ends = [
            np.concatenate(
                [
                    np.isinf(support(self.threat, sign * np.eye(min(_UNIT_ROWS, d - k), d, k=k)))
                    for k in range(0, d, _UNIT_ROWS)
                ]
            )
            for sign in (1.0, -1.0)
        ]
        up, down = ends if self.sign > 0 else ends[::-1]
        return up, down

    def in_domain(self, coef: np.ndarray) -> np.ndarray:
        """The coefficients, with 0 for those of a sign at which the support is infinite."""
        up, down = self._signs
        return np.where((up & (coef > 0)) | (down & (coef < 0)), 0.0, coef)


def slots_of(problem: RobustProblem) -> list[ConicSlot]:
    """The slots of one problem in which samples have a part: one where all share a symmetric set.

    There is none where the radius is 0.
    """
    factor, adversary = float(problem.radius[0]), problem.adversary
    if adversary is None:
        adversary = Slots.by_sample(problem.threat, np.ones(problem.y.shape[1]))
    assert isinstance(adversary, Slots)
    d = problem.n_features
    used = [slot for slot in adversary.slots if factor * slot.radius.max() > 0]
    return [ConicSlot(slot, factor, d) for slot in used]


def matched(
    problem: RobustProblem,
    slots: Sequence[ConicSlot],
    weights: np.ndarray,
    perturbations: Sequence[Perturbation],
) -> list[Perturbation]:
    """The perturbations, moved alike to where the rows that they perturb cancel."""
    lack, total = _lack(problem, slots, weights, perturbations)
    moved = []
    for slot, point in zip(slots, perturbations, strict=True):
        u = point.u + slot.sign * lack / total if total > 0 else point.u
        moved.append(Perturbation(u, slot.set.with_s(u, point.s)))
    return moved


def _lack(
    problem: RobustProblem,
    slots: Sequence[ConicSlot],
    weights: np.ndarray,
    perturbations: Sequence[Perturbation],
) -> tuple[np.ndarray, float]:
    """The weighted sum of the perturbed rows, (d,), and the weighted sum of the radii."""
    lack, total = problem.weighted_sum(weights[None])[0], 0.0
    for slot, point in zip(slots, perturbations, strict=True):
        share = float(slot.radius @ weights)
        lack, total = lack - share * slot.sign * point.u, total + share
    return lack, total


def prove_inseparable(
    problem: RobustProblem,
    slots: Sequence[ConicSlot],
    weights: np.ndarray,
    perturbations: Sequence[Perturbation],
) -> bool:
    """Whether the perturbations are in their sets and the rows that they perturb cancel, both up to
    the rounding of the sum: then no predictor separates.
    """
    sizes = problem.sizes(weights[None])[0]
    for slot, point in zip(slots, perturbations, strict=True):
        sizes = sizes + float(slot.radius @ weights) * np.abs(point.u)
    rounding = TERM_ROUNDING * sizes
    lack, total = _lack(problem, slots, weights, perturbations)
    if not np.all(np.abs(lack) <= rounding):
        return False
    room = rounding / total if total > 0 else rounding
    return all(
        slot.rows.holds(point.u, point.s, room)
        for slot, point in zip(slots, perturbations, strict=True)
    )
