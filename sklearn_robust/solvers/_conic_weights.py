r"""Weights that bound the robust risk from below for conic sets, near those of a Newton step.

Perturbations :math:`u_k` in the sets of the slots k make one data set that the adversary may
choose, with the rows :math:`\tilde z_i = z_i - \sum_k R_{ik} g_k u_k`. Weights :math:`a \ge 0` with
:math:`\tilde Z^T a = 0` and :math:`y \cdot a = 0` bound the risk on it by Fenchel's dual, and so
the robust risk of every predictor.

The error of a cone program leaves :math:`u_k` next to its set and :math:`\tilde Z^T a` next to 0.
So u moves into the set, and then a by the least :math:`\sum_i \delta_i^2 / c_i` that cancels the
rows again, c the curvatures of the loss: :math:`\delta = -C \tilde M (\tilde M^T C \tilde M)^{-1}
\tilde M^T a`, with :math:`\tilde M = [\tilde Z, y]`. Where the rows are too few for that, weights
from the interior of the feasible ones are mixed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_sets import (
    ConicSlot,
    Perturbation,
    least_share,
    matched,
    prove_inseparable,
    solve_program,
)
from sklearn_robust._documentation import see
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import DenseRows, GramRows, SparseRows
from sklearn_robust.solvers._newton_rules import MarginHessian

_MAX_CONIC_REPAIRS = 12  # rounds of a repair; most weights need one or two
_EQUALITY_ROUNDS = 4  # each with the weights of the last
_MOST_CUT = 0.01  # sum of the negative weights, in a total of 1, above which a repair has failed
_NO_ROOM = 1e-9  # slack, relative to the radii, up to which no weights lie in the interior
# Share of a Gram matrix's largest diagonal entry that is added to its diagonal: its columns may
# depend on each other.
_GRAM_RIDGE = 1e-13
# Singular value, relative to the largest, up to which a condition on the weights repeats others.
_REPEATED_TERM = 1e-13


def moments_of(problem: RobustProblem) -> GramRows:
    """The rows of the problem, where they have moments."""
    if not isinstance(problem.rows, GramRows):
        raise ValueError(
            f"The minimiser of the robust risk for threat={type(problem.threat).__name__} needs "
            f"the moments of GramRows, which X={type(problem.X).__name__} does not offer: write "
            f"them, or use an LpBall."
            f" {see('extending')}"
        )
    return problem.rows


class MarginMap:
    r"""M = [Z, y, -R], the map from (w, b, t) to the margins of one problem.

    Its coordinates are (units * w, b + centre.w, reach * t), in which the columns of M are of order
    1: `units` are the root mean squares of the columns of Z around their means, `centre`, which an
    intercept absorbs, and `reach` is the largest radius in each slot.
    """

    def __init__(self, problem: RobustProblem, slots: Sequence[ConicSlot]) -> None:
        self.problem, self.y = problem, problem.y[0]
        self.rows = moments_of(problem)
        n, self.n_features = problem.X.shape
        self.centre = self.rows.mean() if problem.fit_intercept else np.zeros(self.n_features)
        self.units = np.sqrt(np.diag(self._gram(np.full(n, 1 / n))))
        self.units[self.units == 0] = float(np.max(self.units)) or 1.0
        self.reach = np.array([np.max(slot.radius) for slot in slots])
        labels = [self.y[:, None]] if problem.fit_intercept else []
        radii = [
            -slot.radius[:, None] / reach for slot, reach in zip(slots, self.reach, strict=True)
        ]
        # the columns beside those of Z
        self.side = np.hstack([np.empty((n, 0)), *labels, *radii])
        self.n_columns = self.n_features + self.side.shape[1]

    def _gram(self, c: np.ndarray) -> np.ndarray:
        """Z^T diag(c) Z of the centred rows."""
        every = slice(None)
        gram: np.ndarray = self.rows.weighted_gram(every, self.centre, c, self.y, exact=True)[0]
        return gram

    def coordinates(self, coef: np.ndarray, intercept: float, levels: np.ndarray) -> np.ndarray:
        """x of a predictor (w, b) and t, `levels`."""
        moved = [intercept + self.centre @ coef] if self.problem.fit_intercept else []
        return np.concatenate([self.units * coef, moved, self.reach * levels])

    def coef(self, x: np.ndarray) -> np.ndarray:
        """w of x."""
        return x[: self.n_features] / self.units

    def forward(self, x: np.ndarray) -> np.ndarray:
        """M x, of shape (n,)."""
        coef = self.coef(x)
        scores = self.problem.signed_scores(coef[None])[0] - (self.centre @ coef) * self.y
        return scores + self.side @ x[self.n_features :]

    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        """M^T a."""
        weighted_sum = self.problem.weighted_sum(weights[None])[0]
        centred = weighted_sum - (self.y @ weights) * self.centre
        return np.append(centred / self.units, weights @ self.side)

    def curved(self, c: np.ndarray) -> np.ndarray:
        """M^T diag(c) M."""
        gram = self._gram(c) / np.outer(self.units, self.units)
        side = self.side.T * (self.y * c)
        across = self.problem.rows.weighted_sum(side) - np.outer(side.sum(axis=1), self.centre)
        across = across / self.units
        return np.block([[gram, across.T], [across, (self.side.T * c) @ self.side]])


@dataclass(frozen=True)
class Hessian(MarginHessian):
    """The log-risk's Hessian M^T C M, C = diag(c) - theta a a^T, and its gradient -M^T a."""

    curved: np.ndarray  # M^T diag(c) M
    weighted_sum: np.ndarray  # M^T a

    @property
    def matrix(self) -> np.ndarray:
        """M^T C M, a new array."""
        matrix = self.curved - self.theta * np.outer(self.weighted_sum, self.weighted_sum)
        symmetric: np.ndarray = 0.5 * (matrix + matrix.T)
        return symmetric


class DualWeights:
    """Weights of one problem that prove a bound on its robust risk."""

    def __init__(self, problem: RobustProblem, slots: Sequence[ConicSlot], of_margins: MarginMap):
        self.problem, self.slots = problem, slots
        self.map = of_margins

    def repaired(
        self, hessian: Hessian, weights: np.ndarray, perturbations: Sequence[Perturbation]
    ) -> np.ndarray | None:
        """Feasible weights (n,) next to those of a step; None where the repair fails."""
        feasible = self._balanced(weights)
        for _ in range(_MAX_CONIC_REPAIRS):
            if feasible is None:
                return None
            perturbations = self._matched(feasible, perturbations)
            if self._hold(feasible, perturbations):
                return feasible
            perturbations = [
                Perturbation(*slot.set.moved_inside(point.u, point.s))
                for slot, point in zip(self.slots, perturbations, strict=True)
            ]
            moved = self._cancelling(hessian, feasible, perturbations)
            if -np.sum(np.minimum(moved, 0)) > _MOST_CUT:
                return None
            feasible = self._balanced(moved)
        return None

    def mixed(
        self, weights: np.ndarray, perturbations: Sequence[Perturbation] | None = None
    ) -> np.ndarray | None:
        """Weights (n,) mixed with the least share of interior ones that makes them feasible.

        The answer is None where there are no interior weights.
        """
        feasible = self._on_equalities(self._balanced(weights))
        if feasible is None or self._interior is None:
            return None
        inner, inner_points = self._interior
        points = inner_points if perturbations is None else perturbations
        shares = np.array([[slot.radius @ a for a in (feasible, inner)] for slot in self.slots])

        def mixture(share: float) -> tuple[np.ndarray, list[Perturbation]]:
            mixed = (1 - share) * feasible + share * inner
            mixed_points = []
            for point, other, (outer_part, inner_part) in zip(
                points, inner_points, shares, strict=True
            ):
                part = share * inner_part / ((1 - share) * outer_part + share * inner_part)
                u, s = (
                    (1 - part) * mine + part * theirs
                    for mine, theirs in ((point.u, other.u), (point.s, other.s))
                )
                mixed_points.append(Perturbation(u, s))
            return mixed, self._matched(mixed, mixed_points)

        share = least_share(lambda share: self._hold(*mixture(share)))
        return None if share is None else mixture(share)[0]

    def _balanced(self, weights: np.ndarray) -> np.ndarray | None:
        """The positive weights, scaled to dual feasibility; None where a class has none."""
        weights = np.maximum(weights, 0)
        if not all(weights[members[0]].any() for members in self.problem.classes):
            return None
        balanced: np.ndarray = self.problem.balanced(weights[None])[0]
        return balanced

    def _on_equalities(self, weights: np.ndarray | None) -> np.ndarray | None:
        r"""The weights, moved by the least :math:`\sum_i \delta_i^2 / a_i` to where Z^T a obeys the
        equalities of the set, such as :math:`(Z^T a)_j = 0` for a feature that cannot be moved.

        Where there are several slots their perturbations share Z^T a, and weights stay.
        """
        if weights is None or len(self.slots) != 1:
            return weights
        slot = self.slots[0]
        L, of_one = slot.set.equalities_of_x
        if not len(L):
            return weights
        # the equalities of the perturbed rows: L Z^T a = g l (R.a)
        scores = np.stack([self.problem.signed_scores(row[None])[0] for row in L])
        conditions = scores - slot.sign * np.outer(of_one, slot.radius)
        classes = np.concatenate(self.problem.classes)
        terms = np.vstack([conditions, classes])
        goal = np.append(np.zeros(len(L)), np.full(len(classes), 1 / len(classes)))
        for _ in range(_EQUALITY_ROUNDS):
            root = np.sqrt(weights)
            change = np.linalg.lstsq(terms * root, goal - terms @ weights, rcond=_REPEATED_TERM)[0]
            weights = self._balanced(weights + root * change)
            if weights is None:
                return None
        return weights

    def _matched(
        self, weights: np.ndarray, perturbations: Sequence[Perturbation]
    ) -> list[Perturbation]:
        return matched(self.problem, self.slots, weights, perturbations)

    def _hold(self, weights: np.ndarray, perturbations: Sequence[Perturbation]) -> bool:
        return prove_inseparable(self.problem, self.slots, weights, perturbations)

    def _cancelling(
        self, hessian: Hessian, weights: np.ndarray, perturbations: Sequence[Perturbation]
    ) -> np.ndarray:
        """The weights, moved by the least sum of change^2 / c to where the perturbed rows cancel.

        The perturbed rows and the labels are M T, where T takes (w, b) to (w, b, t = g u.w).
        """
        free = len(hessian.curved) - len(self.slots)
        T = np.vstack([np.eye(free), np.zeros((len(self.slots), free))])
        for row, slot, reach, point in zip(
            T[free:], self.slots, self.map.reach, perturbations, strict=True
        ):
            row[: self.map.n_features] = reach * slot.sign * point.u / self.map.units
        gram = T.T @ hessian.curved @ T
        # a ridge for columns of size 0, such as that of a feature that is 0 in all samples
        gram.flat[:: free + 1] += _GRAM_RIDGE * np.max(np.diag(gram))
        try:
            x = cho_solve(cho_factor(gram), T.T @ self.map.adjoint(weights))
        except LinAlgError:
            return weights
        return weights - hessian.c * self.map.forward(T @ x)

    @cached_property
    def _interior(self) -> tuple[np.ndarray, list[Perturbation]] | None:
        """Feasible weights of largest slack in all sets, and their perturbations, if any."""
        if not self.slots or not isinstance(self.problem.rows, (DenseRows, SparseRows)):
            return None
        try:
            weights, multiples, slack = self._deepest_weights()
        except SolverFailure:
            return None
        balanced = self._on_equalities(self._balanced(weights))
        if balanced is None or not slack > _NO_ROOM * max(np.max(s.radius) for s in self.slots):
            return None
        points, start = [], 0
        for slot in self.slots:
            share = float(slot.radius @ weights) or 1.0
            u, s = np.split(multiples[start : start + sum(slot.widths)] / share, [slot.widths[0]])
            points.append(Perturbation(u, s))
            start += sum(slot.widths)
        return balanced, points

    def _deepest_weights(self) -> tuple[np.ndarray, np.ndarray, float]:
        r"""Weights a (n,) of largest slack m, the multiples (p, r) of u and s, and m.

        The program is linear in a and :math:`(p_k, r_k) = (R_k \cdot a) (u_k, s_k)`: maximise m
        with :math:`Z^T a = \sum_k g_k p_k`, the sum of a 1, y.a = 0, a >= 0, and :math:`(R_k \cdot
        a) h_k - E_k p_k - F_k r_k - m e_k` in the cones of slot k.
        """
        problem, slots = self.problem, self.slots
        used = np.flatnonzero(problem.log_weight[0] > -math.inf)
        n, d = len(used), problem.n_features
        y = problem.y[0, used]
        Z = sparse.csr_array(problem.X[used]).multiply(y[:, None])
        sums = np.stack([np.ones(n), y] if problem.fit_intercept else [np.ones(n)])
        points = [-slot.sign * sparse.eye_array(*(d, sum(slot.widths))) for slot in slots]
        sets = [sparse.hstack([slot.rows.E, slot.rows.F]) for slot in slots]
        radii = [sparse.csr_array(-np.outer(slot.rows.h, slot.radius[used])) for slot in slots]
        axes = np.concatenate([slot.rows.axis for slot in slots])[:, None]
        A = sparse.block_array(
            [
                [Z.T, sparse.hstack(points), None],
                [sparse.csr_array(sums), None, None],
                [sparse.vstack(radii), sparse.block_diag(sets), sparse.csr_array(axes)],
                [-sparse.eye_array(n), None, None],
                [None, None, sparse.eye_array(1)],
            ]
        )
        cones = [("zero", d), ("zero", len(sums))]
        for slot in slots:
            cones += slot.rows.cones
        q, b = np.zeros(A.shape[1]), np.zeros(A.shape[0])
        q[-1], b[d] = -1.0, 1.0
        b[-1] = max(float(np.max(slot.radius)) for slot in slots)  # the slack of unbounded sets
        nothing = sparse.csc_array((len(q), len(q)))
        found, _ = solve_program(nothing, q, A, b, [*cones, ("nonnegative", n + 1)])
        weights = np.zeros(problem.y.shape[1])
        weights[used] = np.maximum(found[:n], 0)
        return weights, found[n:-1], float(found[-1])
