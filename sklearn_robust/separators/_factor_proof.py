r"""The least multiple of the sets of samples at which weights prove that nothing separates.

Weights :math:`a_{ik}` of the pairs of a sample and a rival, and the weighted sums :math:`T_{lk} =
\sum_i a_{ik} \delta_{ik}` of the perturbations of the samples of class l against k, prove it at a
factor :math:`\varphi` on the sets where

.. math:: R = \sum_{ik} a_{ik} (e_{y_i} - e_k) x_i^T + \sum_{lk} (e_l - e_k) T_{lk}^T = 0, \qquad
    T_{lk} \in \varphi \sum_i a_{ik} U_i.

Those of a cone program obey the first up to its error. They move by the least

.. math:: \sum_{ik} \frac{\Delta a_{ik}^2}{a_{ik}} + \sum_{lk} \|\Delta T_{lk}\|^2_{M_{lk}^{-1}}

to where R is 0, M the square of the size of :math:`\sum_i a_{ik} U_i` over its weight, along the
directions in which it moves. The least :math:`\varphi` that then obeys the second is the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sklearn_robust._conic_programs import Vector
from sklearn_robust._conic_sets import TERM_ROUNDING, least_share
from sklearn_robust._pair_groups import BoxGroup, ConeGroup
from sklearn_robust._pair_programs import PairProgram

_ROUNDS = 6  # moves at most
_VANISHING = 1e-10  # weights, relative to the largest, that are put to 0 where a move fails
_LEAST_ROOM = 1e-3  # theta (1 - theta) at least, of a share theta of the way through a box


def least_multiple(program: PairProgram, weights: Vector, z: Vector) -> tuple[float, Vector]:
    """The least multiple of the sets of a program at which weights near the given ones prove that
    nothing separates, inf where none do near 1; and these weights.

    Parameters
    ----------
    program : PairProgram
    weights : ndarray of shape (K, n)
        Feasible.
    z : ndarray
        The multipliers of the program, which name perturbations.
    """
    proof = _Proof(program, weights, z)
    for _ in range(_ROUNDS):
        proof.move()
        if proof.cancels():
            multiple = proof.multiple()
            if multiple < math.inf:
                return multiple, proof.weights
        proof.move_inside()
    return math.inf, proof.weights


class _Proof:
    """Weights (K, n) and perturbations (K, n, d) of the samples of a program."""

    def __init__(self, program: PairProgram, weights: Vector, z: Vector) -> None:
        self.problem, self.weights = program.problem, weights
        self.delta = program.perturbations(z, weights)
        points = program.points(z)
        self.cones = [_Cone(group, *point) for group, point in zip(program.groups, points, strict=True)]
        self.boxes = [_Box(group) for group in program.boxes]
        X = self.problem.X
        self.X = X.toarray() if sparse.issparse(X) else X
        self.centre = self.X.mean(axis=0) if self.problem.fit_intercept else 0.0
        self.unit = np.sqrt(np.mean((self.X - self.centre) ** 2, axis=0))
        self.unit[self.unit == 0] = 1.0

    # -- the sum R

    def _rows(self, low: int, high: int) -> tuple[Vector, Vector]:
        """The samples of class l, and their perturbed rows against k in units, with a column for
        the intercept.
        """
        at = np.flatnonzero(self.problem.y == low)
        rows = (self.X[at] + self.delta[high, at] - self.centre) / self.unit
        if self.problem.fit_intercept:
            rows = np.column_stack([rows, np.ones(len(at))])
        return at, rows

    def _pairs(self) -> list[tuple[int, int]]:
        K = self.problem.n_classes
        return [(low, high) for low in range(K) for high in range(K) if low != high]

    def left(self) -> tuple[Vector, Vector]:
        """R in units, (K, p), and the sizes of its terms, (p,)."""
        total, sizes = 0.0, 0.0
        for low, high in self._pairs():
            at, rows = self._rows(low, high)
            if np.ndim(total) == 0:
                total = np.zeros((self.problem.n_classes, rows.shape[1]))
            a = self.weights[high, at]
            part = a @ rows
            total[low] += part
            total[high] -= part
            of_X = np.abs(self.X[at]) + np.abs(self.delta[high, at])
            sizes = sizes + a @ (of_X / self.unit)
        if self.problem.fit_intercept:
            sizes = np.append(sizes, 1.0)
        return total, sizes

    def cancels(self) -> bool:
        left, sizes = self.left()
        return bool(np.all(np.abs(left) <= TERM_ROUNDING * sizes))

    # -- moves

    def move(self) -> None:
        """The least move of weights and perturbations to where R is 0."""
        left, _ = self.left()
        K, p = left.shape
        d = self.X.shape[1]
        H = np.zeros((K, p, K, p))
        metrics = [one.metric(self.weights, self.delta) for one in self.parts]
        blocks = {}
        for low, high in self._pairs():
            at, rows = self._rows(low, high)
            blocks[low, high] = (rows.T * self.weights[high, at]) @ rows
        for one, metric in zip(self.parts, metrics, strict=True):
            of_units = metric / self.unit[:, None] / self.unit
            blocks[one.group.low, one.group.high][:d, :d] += of_units
        for (low, high), block in blocks.items():
            H[low, :, low] += block
            H[high, :, high] += block
            H[low, :, high] -= block
            H[high, :, low] -= block
        matrix = H.reshape(K * p, K * p)
        size = np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))
        u = np.linalg.lstsq(matrix / np.outer(size, size), -left.ravel() / size, rcond=1e-12)[0]
        u = (u / size).reshape(K, p)
        moved = self.weights.copy()
        for low, high in self._pairs():
            at, rows = self._rows(low, high)
            moved[high, at] *= np.maximum(1 + rows @ (u[low] - u[high]), 0)
        for one, metric in zip(self.parts, metrics, strict=True):
            along = (u[one.group.low] - u[one.group.high])[:d] / self.unit
            one.add(metric @ along, self.weights, self.delta)
        self.weights = self.problem.balanced(moved)

    @property
    def parts(self):
        return [*self.cones, *self.boxes]

    def move_inside(self) -> None:
        """Vanishing weights put to 0, and perturbations where a multiple of their sets holds them."""
        self.weights = np.where(self.weights <= _VANISHING * self.weights.max(), 0.0, self.weights)
        for one in self.parts:
            one.move_inside(self.weights, self.delta)

    def multiple(self) -> float:
        return max((one.multiple(self.weights, self.delta) for one in self.parts), default=math.inf)


@dataclass
class _Cone:
    """Perturbations of a group in cones: multiples of a point u of its set, over its size."""

    group: ConeGroup
    u: Vector
    s: Vector

    def _mass(self, weights):
        a = weights[self.group.high, self.group.samples]
        return float(a.sum()), float(a @ self.group.radius)

    def metric(self, weights, delta):
        L = self.group.set.inner.equalities_of_x[0]
        total, mass = self._mass(weights)
        moves = np.eye(len(self.u)) - np.linalg.pinv(L) @ L
        return (mass**2 / total if total > 0 else 0.0) * moves

    def add(self, change, weights, delta):
        _, mass = self._mass(weights)
        if mass > 0:
            self.u = self.u + change / mass
            self.s = self.group.set.inner.with_s(self.u, self.s)
            self._set(delta)

    def _set(self, delta):
        delta[self.group.high, self.group.samples] = np.outer(self.group.radius, self.u)

    def move_inside(self, weights, delta):
        self.u, self.s = self.group.set.inner.moved_inside(self.u, self.s)
        self._set(delta)

    def multiple(self, weights, delta):
        if self._mass(weights)[1] == 0:
            return 0.0
        inner = self.group.set.inner
        room = TERM_ROUNDING * float(np.max(np.abs(self.u), initial=0.0))

        def holds(share):
            part = 1 / (1 + share)
            s = part * self.s + (1 - part) * inner.s_of_zero if share > 0 else self.s
            return inner.rows.holds(part * self.u, s, room)

        share = least_share(holds)
        return math.inf if share is None else 1 + share


@dataclass
class _Box:
    """Perturbations of a group of boxes."""

    group: BoxGroup

    def _sums(self, weights, delta):
        """The weights of the samples, and the sums of perturbations, and lower and upper ends."""
        group = self.group
        a = weights[group.high, group.samples]
        used = a > 0  # 0 times infinity is 0
        low, high = a[used] @ group.lower[used], a[used] @ group.upper[used]
        return a, a @ delta[group.high, group.samples], low, high

    def _spans(self):
        group = self.group
        span = group.upper - group.lower
        endless = np.isinf(span).any(axis=0)
        return np.where(endless, np.where(np.isinf(span), 1.0, 0.0), span), endless

    def metric(self, weights, delta):
        a, total, low, high = self._sums(weights, delta)
        span, endless = self._spans()
        whole = a @ span
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(endless, 0.5, (total - low) / (high - low))
        share = np.where(np.isfinite(share), share, 0.5)
        room = np.maximum(share * (1 - share), _LEAST_ROOM)
        mass = float(a.sum())
        return np.diag(room * whole**2 / mass if mass > 0 else 0 * whole)

    def add(self, change, weights, delta):
        a = weights[self.group.high, self.group.samples]
        span, _ = self._spans()
        whole = a @ span
        step = np.divide(change, whole, out=np.zeros_like(change), where=whole > 0)
        delta[self.group.high, self.group.samples] += span * step

    def move_inside(self, weights, delta):
        """Where the boxes end at 0."""
        group = self.group
        part = delta[group.high, group.samples]
        part = np.where(group.lower == 0, np.maximum(part, 0), part)
        part = np.where(group.upper == 0, np.minimum(part, 0), part)
        delta[group.high, group.samples] = part

    def multiple(self, weights, delta):
        a, total, low, high = self._sums(weights, delta)
        room = TERM_ROUNDING * (a @ np.abs(delta[self.group.high, self.group.samples]))
        end = np.where(total > 0, high, -low)
        open_ = np.abs(total) > room
        with np.errstate(divide="ignore"):
            return float(np.max(np.abs(total[open_]) / end[open_], initial=0.0))
