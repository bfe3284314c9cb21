r"""The minimiser of the robust risk for a conic set: Newton's method, each step a cone program.

**Problem.** With :math:`\sigma` the support function of a set the robust margins are
:math:`m = Z w + y b - R t`, where :math:`t_k \ge \sigma_k(g_k w)`: a *slot* k is a set and a sign
:math:`g_k`, and :math:`R_{ik}` is the radius of sample i in it, 0 where the sample belongs to
another slot. One slot serves a symmetric set. The loss falls in its margin, so t is
:math:`\sigma(g w)` at the minimum and the objective is smooth in (w, b, t).

**Conic rows.** A set :math:`\{x : \exists s, h - E x - F s \in K\}` has :math:`\sigma(v) = \min \{h
\cdot \lambda : E^T \lambda = v, F^T \lambda = 0, \lambda \in K^*\}`, so that :math:`t \ge \sigma(g
w)` is :math:`E^T \lambda = g w`, :math:`F^T \lambda = 0`, :math:`h \cdot \lambda \le t`,
:math:`\lambda \in K^*`.

**Step.** The model of the log-risk around x = (w, b, t) has gradient :math:`-M^T a` and Hessian
:math:`M^T C M`, where :math:`M = [Z, y, -R]` and :math:`C = \mathrm{diag}(c) - \theta a a^T`. Its
minimiser over the conic rows is a cone program whose size does not depend on n.

**Certificate.** With multipliers :math:`\nu, \eta, \tau` of the three rows, :math:`u = -\nu / \tau`
is in the set by :math:`s = -\eta / \tau`. The model's weights :math:`a' = a - C \delta` at the
margins' change :math:`\delta` obey :math:`Z^T a' = \sum_k (R_k \cdot a') g_k u_k` and :math:`y
\cdot a' = 0`, both up to the error of the program; `_conic_weights` removes that error.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import sparse

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_sets import ConicSlot, Perturbation, slots_of, solve_program
from sklearn_robust.losses import MarginLoss
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import _newton_rules as rules
from sklearn_robust.solvers._conic_weights import (
    DualWeights,
    Hessian,
    MarginMap,
)
from sklearn_robust.solvers.solution import Solution, risk_gap
from sklearn_robust.threats import ConicThreat, require


def conic_newton(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    *,
    max_iter: int,
    tol: float,
    certify: Callable[..., Solution],
    record: Callable[..., None],
) -> tuple[Solution | None, np.ndarray, int]:
    """Minimise the log-risk of one problem whose threat is a `ConicThreat`.

    Parameters
    ----------
    problem : RobustProblem
        One problem, in double arithmetic, on rows with moments (`GramRows`).
    loss : MarginLoss
    start : ndarray of shape (1, d)
    max_iter : int
    tol : float
        Certified gap of the risk to reach.
    certify : callable
        The solution of coefficients (1, d), with the gap that weights (1, n) prove if they are
        given.
    record : callable
        Called with the iteration, the coefficients (1, d), and weights (1, n) where they prove a
        gap.

    Returns
    -------
    solution : Solution or None
        The predictor with the smallest certified gap, or one that separates the data; None where
        nothing is proven.
    coef : ndarray of shape (1, d)
        The last iterate.
    n_iter : int

    Raises
    ------
    ValueError
        Where the threat has no `conic`, or the rows have no moments.

    Warns
    -----
    ConvergenceWarning
        Where clarabel fails at every damping of the step.
    """
    if problem.adversary is None:
        require(problem.threat, ConicThreat, "the minimiser of the robust risk")
    return _ConicNewton(problem, loss, tol, certify).run(start, max_iter, record)


@dataclass(frozen=True)
class _Point(rules.NewtonPoint):
    """A predictor of one problem, t = sigma(g w) of each slot, and the loss at it."""

    levels: np.ndarray


@dataclass
class _Target:
    """The minimiser of a model: the point there, the margins' change, the slots' perturbations."""

    point: _Point
    change: np.ndarray
    perturbations: list[Perturbation]


@dataclass
class _Proven:
    """A predictor, and the weights that prove its gap of the risk."""

    gap: float
    coef: np.ndarray
    intercept: float
    weights: np.ndarray


class _ConicNewton:
    def __init__(
        self, problem: RobustProblem, loss: MarginLoss, tol: float, certify: Callable[..., Solution]
    ) -> None:
        self.problem, self.loss = problem, loss
        self.tol = tol
        self.certify = certify
        self.y, self.log_weight = problem.y[0], problem.log_weight[0]
        self.used = self.log_weight > -math.inf
        self.slots = slots_of(problem)
        self.map = MarginMap(problem, self.slots)
        self.program = _StepProgram(self.slots, self.map)
        self.dual = DualWeights(problem, self.slots, self.map)

    def run(
        self, start: np.ndarray, max_iter: int, record: Callable[..., None]
    ) -> tuple[Solution | None, np.ndarray, int]:
        at = self._evaluated(start[0], self.problem.signed_scores(start)[0], None)
        best: _Proven | None = None
        damping, iteration = rules.LEAST_DAMPING, 0
        while iteration < max_iter and not self._separates(at):
            iteration += 1
            hessian = self._hessian(at)
            try:
                target = self._target(hessian, at, damping)
            except SolverFailure as failure:
                damping = rules.more_damping(damping)
                if damping > rules.MOST_DAMPING:
                    self._warn(failure)
                    break
                continue
            decrease = float(at.weights @ target.change)
            if decrease <= rules.CLOSE_DECREASE:
                best = self._better(best, hessian, at, target, last=decrease <= self.tol)
                if best is not None and best.gap <= self.tol:
                    record(iteration, best.coef[None], best.weights[None])
                    break
            ahead = partial(self._between, at, target)
            first = at.first_share(target.change, self.used)
            moved = rules.line_search(at.log_risk, ahead, self._separates, decrease, first)
            if moved is None:
                if decrease <= rules.ROUNDING_DECREASE or damping > rules.MOST_DAMPING:
                    break
                damping = rules.more_damping(damping)
                continue
            at, damping = moved, rules.less_damping(damping)
            record(iteration, at.coef[None])
        return self._solution(at, best), at.coef[None], iteration

    def _solution(self, at: _Point, best: _Proven | None) -> Solution | None:
        """The best certified predictor, or one that separates the data; None without either."""
        if self._separates(at):
            return self.certify(at.coef[None], near=at.intercept)
        if best is None:
            best = self._judged(at, self.dual.mixed(at.weights))
        if best is None:
            return None
        return self.certify(best.coef[None], best.weights[None], near=best.intercept)

    @staticmethod
    def _warn(failure: SolverFailure) -> None:
        from sklearn.exceptions import ConvergenceWarning  # workers spare its memory

        warnings.warn(
            f"Newton's method on the robust risk ended early: the cone program of its step failed "
            f"at every damping ({failure}). Standardise the features, or raise tol.",
            ConvergenceWarning,
            stacklevel=2,
        )

    # points

    def _separates(self, at: _Point) -> bool:
        return at.separates(self.used)

    def _evaluated(self, coef: np.ndarray, scores: np.ndarray, near: float | None) -> _Point:
        """The point of a predictor, with its best intercept."""
        levels = np.array([slot.support(coef) for slot in self.slots])
        margins = scores
        for slot, level in zip(self.slots, levels, strict=True):
            # an infinite support takes nothing from the samples without a part in the set
            margins = margins - np.where(slot.radius > 0, level, 0.0) * slot.radius
        if not np.isfinite(levels).all():
            return _Point(coef, 0.0, scores, margins, math.inf, np.zeros_like(scores), levels)
        point = rules.evaluated(self.problem, self.loss, coef, scores, margins, near)
        return _Point(**vars(point), levels=levels)

    def _between(self, at: _Point, target: _Target, share: float) -> _Point:
        """The point at a share of the way to the target."""
        reached = target.point
        if share == 1:
            return reached
        coef = at.coef + share * (reached.coef - at.coef)
        scores = at.scores + share * (reached.scores - at.scores)
        return self._evaluated(coef, scores, at.intercept)

    # steps

    def _hessian(self, at: _Point) -> Hessian:
        a = at.weights
        c = rules.curvatures(self.loss.curvature(at.margins, a), at.margins, a)
        c = np.where(self.used, c, 0.0)
        return Hessian(c, a, rules.largest_theta(c, a), self.map.curved(c), self.map.adjoint(a))

    def _target(self, hessian: Hessian, at: _Point, damping: float) -> _Target:
        """The model's minimiser around a point, damped by a share of the Hessian's diagonal."""
        matrix = hessian.matrix
        now = self.map.coordinates(at.coef, at.intercept, at.levels)
        rules.damp(matrix, damping, np.diag(hessian.curved))
        x, perturbations = self.program.solve(matrix, -hessian.weighted_sum - matrix @ now)
        coef = self.map.coef(x)
        for slot in self.slots:
            coef = slot.in_domain(coef)
        scores = self.problem.signed_scores(coef[None])[0]
        point = self._evaluated(coef, scores, at.intercept)
        return _Target(point, self.map.forward(x - now), perturbations)

    # certificates

    def _better(
        self,
        best: _Proven | None,
        hessian: Hessian,
        at: _Point,
        target: _Target,
        *,
        last: bool,
    ) -> _Proven | None:
        """The best predictor so far, or the target where the model's weights prove a smaller gap.

        At the `last` step weights of the interior are mixed in where they prove nothing alone.
        """
        model = at.weights - hessian.apply(target.change)
        weights = self.dual.repaired(hessian, model, target.perturbations)
        if weights is None and last:
            weights = self.dual.mixed(model, target.perturbations)
        found = self._judged(target.point, weights)
        if best is None or found is None:
            return best if found is None else found
        return found if found.gap <= best.gap else best

    def _judged(self, at: _Point, weights: np.ndarray | None) -> _Proven | None:
        """A point with the gap of the risk that feasible weights prove; None without weights."""
        if weights is None:
            return None
        bound = self.loss.log_risk_bound(
            weights[None], self.log_weight[None], np.array([at.log_risk])
        )
        gap = risk_gap(float(bound[0]), at.log_risk)
        return _Proven(gap, at.coef, at.intercept, weights)


class _StepProgram:
    r"""The cone program of a step: its rows, which do not change, and its solution.

    The columns are x = (w, b, t), in the coordinates of the map of the margins, and the
    :math:`\lambda` of each slot, in the unit of t.
    """

    def __init__(self, slots: Sequence[ConicSlot], of_margins: MarginMap) -> None:
        self.n = of_margins.n_columns
        # the scales of the rows E^T lambda = g w of each slot
        self.scales = [of_margins.units / reach for reach in of_margins.reach]
        d, first_t = of_margins.n_features, self.n - len(slots)
        starts = np.cumsum([self.n, *(len(slot.rows.h) for slot in slots)]).tolist()
        self.n_columns = starts[-1]
        self.cones: list[tuple[str, int]] = []
        nothing = np.empty(0, dtype=int)
        self._entries = [(nothing, nothing, np.empty(0))]  # row, column, number
        self.equalities: list[tuple[slice, slice]] = []  # the rows of E and of F of each slot
        for slot, start, scale in zip(slots, starts, self.scales, strict=False):
            E, F = slot.rows.E.tocoo(), slot.rows.F.tocoo()
            columns = np.arange(d)
            by_lambda = E.col, E.row + start, scale[E.col] * E.data
            of_E = self._add("zero", d, by_lambda, (columns, columns, np.full(d, -slot.sign)))
            of_F = self._add("zero", F.shape[1], (F.col, F.row + start, F.data))
            self.equalities.append((of_E, of_F))
        self.levels: list[int] = []  # the row h.lambda <= t of each slot
        for k, (slot, start) in enumerate(zip(slots, starts, strict=False)):
            columns = np.append(start + np.arange(len(slot.rows.h)), first_t + k)
            entries = np.zeros(len(columns), dtype=int), columns, np.append(slot.rows.h, -1.0)
            self.levels.append(self._add("nonnegative", 1, entries).start)
        for slot, start in zip(slots, starts, strict=False):
            for kind, at in slot.rows.blocks:
                if kind != "zero":  # whose multipliers are free
                    rows = np.arange(at.stop - at.start)
                    self._add(kind, len(rows), (rows, rows + start + at.start, -np.ones(len(rows))))
        n_rows = sum(size for _, size in self.cones)
        rows, columns, data = (np.concatenate(parts) for parts in zip(*self._entries, strict=True))
        self.A = sparse.csc_array((data, (rows, columns)), shape=(n_rows, self.n_columns))
        # the upper triangle of a Hessian, column by column
        self._columns, self._rows = np.tril_indices(self.n)
        ends = np.cumsum(np.arange(1, self.n + 1))
        self._ends = np.concatenate([[0], ends, np.full(self.n_columns - self.n, ends[-1])])

    def _add(
        self, kind: str, size: int, *entries: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> slice:
        """Add rows in a cone by their entries (row, column, number), and return their place."""
        first = sum(size for _, size in self.cones)
        self._entries += [(rows + first, columns, data) for rows, columns, data in entries]
        self.cones.append((kind, size))
        return slice(first, first + size)

    def solve(
        self, hessian: np.ndarray, linear: np.ndarray
    ) -> tuple[np.ndarray, list[Perturbation]]:
        """The minimiser x of x.H x / 2 + linear.x over the conic rows, and the perturbations."""
        upper = hessian[self._rows, self._columns], self._rows, self._ends
        P = sparse.csc_array(upper, shape=(self.n_columns, self.n_columns))
        q, b = np.append(linear, np.zeros(self.n_columns - self.n)), np.zeros(self.A.shape[0])
        x, z = solve_program(P, q, self.A, b, self.cones)
        perturbations = []
        for (of_E, of_F), level, scale in zip(
            self.equalities, self.levels, self.scales, strict=True
        ):
            tau = max(float(z[level]), np.finfo(float).tiny)
            perturbations.append(Perturbation(-scale * z[of_E] / tau, -z[of_F] / tau))
        return x[: self.n], perturbations
