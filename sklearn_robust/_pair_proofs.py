r"""Weights and perturbations of the pairs of a sample and a rival, moved to where they prove.

Weights :math:`a_{ik}`, and the weighted sums :math:`T_{lk} = \sum_i a_{ik} \delta_{ik}` of the
perturbations of the samples of class l against k, prove at a factor :math:`\varphi` on the sets
that nothing separates, and a bound on the risk, where

.. math:: R = \sum_{ik} a_{ik} (e_{y_i} - e_k) x_i^T + \sum_{lk} (e_l - e_k) T_{lk}^T = 0, \qquad
    T_{lk} \in \varphi \sum_i a_{ik} U_i.

Those of a cone program obey the first up to its error. They move by the least

.. math:: \sum_{ik} \frac{\Delta a_{ik}^2}{a_{ik}} + \sum_{lk} \Delta T_{lk} \cdot M_{lk}^{-1}
    \Delta T_{lk}

to where R is 0. M is the room that :math:`T_{lk}` has in its set, little in the directions in which
it soon leaves it. The least :math:`\varphi` that then obeys the second is the answer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import lstsq

from sklearn_robust._conic_programs import Vector
from sklearn_robust._conic_sets import TERM_ROUNDING, least_share
from sklearn_robust._pair_groups import LEAST_ROOM, BoxGroup, ConeGroup
from sklearn_robust._pair_programs import PairProgram

_ROUNDS = 6  # moves at most
# multiplications of a move at most: some ten seconds
_MOST_WORK = 50_000_000_000
_SINGULAR = 1e-12  # eigenvalue of the equations, relative to the largest, that counts as 0
_VANISHING = 1e-10  # weights, relative to the largest, that are put to 0 where a move fails


def least_multiple(program: PairProgram, weights: Vector, z: Vector) -> tuple[float, Vector]:
    """The least multiple of the sets of a program at which weights near the given ones prove that
    nothing separates, inf where none near 1 was found or this takes long; and these weights (K, n).

    Parameters
    ----------
    program : PairProgram
    weights : ndarray of shape (K, n)
        Feasible.
    z : ndarray
        The multipliers of the program, which name perturbations.
    """
    equations = program.problem.n_classes * (program.d + 1)
    inner = sum(len(group.set.inner.point) ** 3 for group in program.groups)
    if equations**3 + inner > _MOST_WORK:
        return math.inf, weights
    proof = _Proof(program, weights, z)
    for _ in range(_ROUNDS):
        proof.move()
        if proof.cancels():
            multiple = max((part.multiple() for part in proof.parts), default=math.inf)
            if multiple < math.inf:
                return multiple, proof.weights
        proof.move_inside()
    return math.inf, proof.weights


class _Proof:
    """Weights (K, n) and perturbations (K, n, d) of the samples of a program.

    R is in units (d,) of the features, with a column for the balance of the classes where the
    problem has intercepts.
    """

    def __init__(self, program: PairProgram, weights: Vector, z: Vector) -> None:
        problem = self.problem = program.problem
        self.delta = program.perturbations(z, weights)
        points = zip(program.groups, program.points(z), strict=True)
        self.parts: list[_Part] = [_InCones(group, self.delta, point) for group, point in points]
        self.parts += [_InBoxes(group, self.delta) for group in program.boxes]
        self._take(weights)
        self.X = problem.X.toarray() if sparse.issparse(problem.X) else problem.X
        self.centre = self.X.mean(axis=0) if problem.fit_intercept else np.zeros(program.d)
        self.unit = np.sqrt(np.mean((self.X - self.centre) ** 2, axis=0))
        self.unit[self.unit == 0] = 1.0

    def _take(self, weights: Vector) -> None:
        self.weights = weights
        for part in self.parts:
            part.weights = weights[part.group.high, part.group.samples]

    def _pairs(self) -> Iterator[tuple[int, int, Any, Vector]]:
        """Two classes l and k, the samples of l, and their perturbed rows against k."""
        K = self.problem.n_classes
        for low in range(K):
            at = np.flatnonzero(self.problem.y == low)
            for high in np.delete(np.arange(K), low).tolist():
                rows = (self.X[at] + self.delta[high, at] - self.centre) / self.unit
                if self.problem.fit_intercept:
                    rows = np.column_stack([rows, np.ones(len(at))])
                yield low, high, at, rows

    def _left(self) -> Vector:
        """R, (K, p)."""
        K, d = self.problem.n_classes, len(self.unit)
        left = np.zeros((K, d + self.problem.fit_intercept))
        for low, high, at, rows in self._pairs():
            part = self.weights[high, at] @ rows
            left[low] += part
            left[high] -= part
        return left

    def cancels(self) -> bool:
        """Whether R is 0 up to the rounding of its terms."""
        sizes = np.einsum("kn,knd->d", self.weights, np.abs(self.X) + np.abs(self.delta))
        if self.problem.fit_intercept:
            sizes = np.append(sizes / self.unit, 1.0)
        else:
            sizes = sizes / self.unit
        return bool(np.all(np.abs(self._left()) <= TERM_ROUNDING * sizes))

    def move(self) -> None:
        """The least move of weights and perturbations to where R is 0."""
        left = self._left()
        (K, p), d = left.shape, len(self.unit)
        H = np.zeros((K, p, K, p))

        def add(low: int, high: int, block: Vector) -> None:
            q = len(block)
            for one, other, sign in (
                (low, low, 1),
                (high, high, 1),
                (low, high, -1),
                (high, low, -1),
            ):
                H[one, :q, other, :q] += sign * block

        for low, high, at, rows in self._pairs():
            add(low, high, (rows.T * self.weights[high, at]) @ rows)
        for part in self.parts:
            add(part.group.low, part.group.high, part.metric(self.unit))
        matrix = H.reshape(K * p, K * p)
        size = np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))
        goal = -left.ravel() / size
        scaled = matrix / np.outer(size, size)
        u = lstsq(scaled, goal, cond=_SINGULAR, lapack_driver="gelsy")[0] / size
        u = u.reshape(K, p)
        weights = self.weights.copy()
        for low, high, at, rows in self._pairs():
            weights[high, at] *= np.maximum(1 + rows @ (u[low] - u[high]), 0)
        for part in self.parts:
            part.add((u[part.group.low] - u[part.group.high])[:d], self.unit)
        self._take(self.problem.balanced(weights))

    def move_inside(self) -> None:
        """Put vanishing weights to 0, and perturbations into their sets."""
        small = self.weights <= _VANISHING * self.weights.max()
        self._take(self.problem.balanced(np.where(small, 0.0, self.weights)))
        for part in self.parts:
            part.move_inside()


class _Part(ABC):
    """The perturbations (K, n, d) of one group of pairs, and the weights (m,) of these.

    T is the weighted sum of the perturbations, (d,).
    """

    group: ConeGroup | BoxGroup
    weights: Vector

    def __init__(self, delta: Vector) -> None:
        self._all = delta

    @property
    def delta(self) -> Vector:
        """The perturbations of the group, (m, d)."""
        part: Vector = self._all[self.group.high, self.group.samples]
        return part

    @delta.setter
    def delta(self, delta: Vector) -> None:
        self._all[self.group.high, self.group.samples] = delta

    @abstractmethod
    def metric(self, unit: Vector) -> Vector:
        """M in units (d,) of the features, (d, d)."""

    @abstractmethod
    def add(self, force: Vector, unit: Vector) -> None:
        """Change T, in units, by the last M times a force (d,)."""

    @abstractmethod
    def move_inside(self) -> None:
        """Move the perturbations to where a multiple of the sets holds T."""

    @abstractmethod
    def multiple(self) -> float:
        """The least multiple of the sets that holds T; in cones at least 1."""


class _InCones(_Part):
    """Multiples of a point u of one set, over its size."""

    group: ConeGroup

    def __init__(self, group: ConeGroup, delta: Vector, point: tuple[Vector, Vector]) -> None:
        super().__init__(delta)
        self.group, self.inner = group, group.set.inner
        self.u, self.s = point

    @property
    def _reach(self) -> float:
        """The weighted sum of the radii."""
        return float(self.weights @ self.group.radius)

    def metric(self, unit: Vector) -> Vector:
        self._room = self.group.set.room(self.u, self.s)[:, : len(unit)]
        reach, total = self._reach / unit, float(self.weights.sum()) or 1.0
        metric: Vector = reach[:, None] * self._room[: len(unit)] * reach / total
        return metric

    def add(self, force: Vector, unit: Vector) -> None:
        d, total = len(unit), float(self.weights.sum()) or 1.0
        step = self._room @ (force * (self._reach / unit)) / total
        u = self.u + step[:d]
        self._take(u, self.inner.with_s(u, self.s + step[d:]))

    def _take(self, u: Vector, s: Vector) -> None:
        self.u, self.s = u, s
        self.delta = np.outer(self.group.radius, u)

    def move_inside(self) -> None:
        self._take(*self.inner.moved_inside(self.u, self.s))

    def multiple(self) -> float:
        if self._reach == 0:
            return 0.0
        room = TERM_ROUNDING * float(np.max(np.abs(self.u), initial=0.0))

        def holds(share: float) -> bool:
            part, s = 1 / (1 + share), self.s
            if share > 0:  # towards 0, and the s by which that is in the set
                s = part * s + (1 - part) * self.inner.s_of_zero
            return self.inner.rows.holds(part * self.u, s, room)

        share = least_share(holds)
        return math.inf if share is None else 1 + share


class _InBoxes(_Part):
    """Points of the boxes of samples."""

    group: BoxGroup

    def __init__(self, group: BoxGroup, delta: Vector) -> None:
        super().__init__(delta)
        self.group = group
        self.lower, self.upper = group.lower, group.upper
        # a change is shared in proportion to the boxes, or alike among those without an end
        span = self.upper - self.lower
        endless = np.isinf(span)
        self.open = endless.any(axis=0)
        self.shares = np.where(self.open, endless, span)

    def _ends(self) -> tuple[Vector, Vector]:
        """The least and the largest T that the boxes allow."""
        used = self.weights > 0  # 0 times infinity is 0
        return self.weights[used] @ self.lower[used], self.weights[used] @ self.upper[used]

    def metric(self, unit: Vector) -> Vector:
        low, high = self._ends()
        closed = ~self.open & (high > low)
        theta = np.full(len(low), 0.5)
        theta[closed] = ((self.weights @ self.delta - low)[closed]) / (high - low)[closed]
        room = np.maximum(theta * (1 - theta), LEAST_ROOM) ** 2
        total = float(self.weights.sum()) or 1.0
        self._room = room * ((self.weights @ self.shares) / unit) ** 2 / total
        return np.diag(self._room)

    def add(self, force: Vector, unit: Vector) -> None:
        whole = self.weights @ self.shares
        step = np.divide(
            self._room * force * unit, whole, out=np.zeros_like(force), where=whole > 0
        )
        self.delta = self.delta + self.shares * step

    def move_inside(self) -> None:
        self.delta = np.clip(self.delta, self.lower, self.upper)

    def multiple(self) -> float:
        (low, high), delta = self._ends(), self.delta
        T = self.weights @ delta
        moved = np.abs(T) > TERM_ROUNDING * (self.weights @ np.abs(delta))
        end = np.abs(np.where(T > 0, high, low))[moved]  # -0 would make the quotient -inf
        with np.errstate(divide="ignore"):
            return float(np.max(np.abs(T[moved]) / end, initial=0.0))
