"""Newton's method on the log-risk: the quadratic model's minimiser, a line search, and the
certificate that comes with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError

from sklearn_robust.certificates import proves_not_separable
from sklearn_robust.losses import MarginLoss
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers._risk_model import Curvature, curvature, minimise_model
from sklearn_robust.solvers.solution import Solution

_LEAST_DAMPING, _MOST_DAMPING = 1e-10, 1e4
# of the largest weighted_sum that leaves a coefficient at zero: from there on a column is in the
# Hessian
_NEAR = 0.9
_COLUMNS = 400  # of a Hessian, beside those in use
_MOST_COLUMNS = 3000
_CHEAP = 1e7  # products in a Gram matrix that cost less than one more iteration
_KEEP = 0.3  # decrease of what a step promises for which a dear Hessian is kept
_CLOSE = 0.03  # predicted_decrease decrease of the log-risk from which the weights may certify it
_MAX_REFINEMENTS = 3
_ROUNDING = 1e-14  # of a predicted_decrease
_FURTHEST = 1e3  # change of a margin in a step, beside the largest margin
_LONGEST = 1024.0  # step, of the model's
_FLAT = 1e-6  # curvature beside slope, of all samples: no step is that long
_LOPSIDED = 0.5  # difference of the classes' weights, of their sum
_FACES, _FACES_FAR = 100, 6  # to try in a model: near the minimiser, and far from it


@dataclass
class _Point:
    """A predictor of one problem and what the loss makes of it; margins and scores are those of
    signed rows, (n,).
    """

    coef: np.ndarray
    intercept: float
    scores: np.ndarray
    penalty: float
    log_risk: float
    weights: np.ndarray

    @property
    def margins(self) -> np.ndarray:
        return self.scores - self.penalty


def newton(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    *,
    max_iter: int,
    tol: float,
    certify: Callable[..., Solution],
    record: Callable[[int, np.ndarray], None],
) -> tuple[Solution | None, np.ndarray, int]:
    """Minimise the log-risk of one problem.

    Parameters
    ----------
    problem : RobustProblem
        One problem, in double arithmetic.
    loss : MarginLoss
    start : ndarray of shape (1, d)
    max_iter : int
    tol : float
        Certified gap of the risk to reach.
    certify : callable
        The solution of coefficients (1, d), with the gap that weights (1, n) prove if they are
        given.
    record : callable
        Called with the iteration and the coefficients (1, d).

    Returns
    -------
    solution : Solution or None
        It reached tol, or separates the data; None where the method stops short of both, or has too
        many columns.
    coef : ndarray of shape (1, d)
        The last iterate.
    n_iter : int
    """
    return _Newton(problem, loss, tol, certify).run(start, max_iter, record)


class _Newton:
    def __init__(
        self, problem: RobustProblem, loss: MarginLoss, tol: float, certify: Callable[..., Solution]
    ) -> None:
        self.problem, self.loss, self.tol, self.certify = problem, loss, tol, certify
        self.y, self.log_weight = problem.y[0], problem.log_weight[0]
        self.used = self.log_weight > -math.inf
        self.eps, self.norm = float(problem.radius[0]), problem.threat.dual_norm
        self.scale = (
            np.ones(problem.n_features) if problem.threat.scale is None else problem.threat.scale
        )
        # equalities, which the weights can obey up to rounding only
        self.unreached = self.eps == 0 or not self.scale.all()
        centred = problem.fit_intercept and not sparse.issparse(problem.X)
        self.centre = (
            problem.X.mean(axis=0, dtype=np.float64) if centred else np.zeros(problem.n_features)
        )
        self.most_columns = _MOST_COLUMNS
        if sparse.issparse(problem.X):  # a Hessian must not dwarf the data
            self.most_columns = min(_MOST_COLUMNS, max(_COLUMNS, int(math.sqrt(problem.X.nnz) / 2)))
        self.exact = False  # whether Gram matrices must be in double precision
        self.cautious = False  # whether curvatures must not vanish

    def run(
        self, start: np.ndarray, max_iter: int, record: Callable[[int, np.ndarray], None]
    ) -> tuple[Solution | None, np.ndarray, int]:
        at = self._start(start)
        damping, predicted_decrease, expected = _LEAST_DAMPING, math.inf, math.inf
        hessian: Curvature | None = None
        iteration = 0
        while iteration < max_iter and damping < _MOST_DAMPING and at.margins[self.used].min() <= 0:
            iteration += 1
            weighted_sum = self.problem.weighted_sum(at.weights[None])[0]
            columns = self._columns(at, weighted_sum)
            if columns is None:
                break
            if (
                hessian is None
                or predicted_decrease > _KEEP * expected
                or not self._covers(hessian, at, weighted_sum)
            ):
                hessian = curvature(
                    self.problem,
                    columns,
                    self.centre,
                    self._curvature(at),
                    at.weights,
                    weighted_sum,
                    exact=self.exact,
                )
            expected = predicted_decrease
            try:
                target, settled = self._target(
                    hessian,
                    at,
                    at.weights,
                    weighted_sum,
                    damping,
                    _FACES if predicted_decrease <= _CLOSE else _FACES_FAR,
                )
            except LinAlgError:
                self.exact, hessian, damping = True, None, max(100 * damping, 1e-6)
                continue
            predicted_decrease = float(
                at.weights @ (target.scores - at.scores)
                - at.weights.sum() * (target.penalty - at.penalty)
            )
            if settled and predicted_decrease <= _CLOSE:
                solution = self._certified(hessian, at, target, damping)
                if solution is not None:
                    record(iteration, target.coef[None])
                    return solution, target.coef[None], iteration
            moved = (
                self._search(at, target, predicted_decrease)
                if settled or predicted_decrease > _ROUNDING
                else None
            )
            if moved is None:
                if settled and predicted_decrease <= _ROUNDING:
                    break
                damping = max(100 * damping, 1e-6) if self.cautious else damping
                self.exact, self.cautious, hessian = True, True, None
                continue
            at = self._balanced(moved)
            damping = max(damping / 10, _LEAST_DAMPING)
            self.cautious &= predicted_decrease > _CLOSE
            record(iteration, at.coef[None])
        if at.margins[self.used].min() > 0:
            return self.certify(at.coef[None], near=at.intercept), at.coef[None], iteration
        return None, at.coef[None], iteration

    def _start(self, start: np.ndarray) -> _Point:
        coef = start[0]
        if coef.any():
            scores, near = self.problem.signed_scores(start), None
        else:
            share = np.exp(self.log_weight)
            up = float(share @ (self.y > 0))
            odds = math.log(up / (1 - up)) if self.problem.fit_intercept and 0 < up < 1 else 0.0
            scores, near = np.zeros((1, len(self.y))), np.array([odds])
        penalty = self.problem.penalty(start)
        now = self.problem.evaluate_scores(self.loss, scores, penalty, near=near)
        intercept = float(now.intercept[0])
        return _Point(
            coef,
            intercept,
            scores[0] + intercept * self.y,
            float(penalty[0]),
            float(now.log_risk[0]),
            now.weights[0],
        )

    def _curvature(self, at: _Point) -> np.ndarray:
        """Those of the loss, which vanish far on the wrong side: there those of a parabola of which
        a step crosses zero.
        """
        c = self.loss.curvature(at.margins, at.weights)
        if self.cautious or c.sum() <= _FLAT * at.weights.sum():
            return np.maximum(c, at.weights / (1 + np.maximum(-at.margins, 0)))
        return c

    def _columns(self, at: _Point, weighted_sum: np.ndarray) -> np.ndarray | slice | None:
        """The columns of the next Hessian; None where there are too many for one."""
        d = len(weighted_sum)
        if self.norm.p > 1 or self.eps == 0:
            return slice(None) if d <= self.most_columns else None
        size, in_use = np.abs(weighted_sum), at.coef != 0
        wanted = in_use | (size > _NEAR * self.eps * at.weights.sum() * self.scale)
        limit = max(_COLUMNS, 2 * int(in_use.sum()))
        if wanted.sum() > limit:  # those that weighted_sum most
            strength = size / np.where(self.scale > 0, self.scale, 1.0)
            order = np.argsort(np.where(in_use | (self.scale == 0), math.inf, strength))[::-1]
            wanted = np.zeros(d, dtype=bool)
            wanted[order[:limit]] = True
        if not wanted.any():  # the model is then constant, and one column will do
            wanted[0] = True
        chosen = np.flatnonzero(wanted)
        if len(chosen) > self.most_columns:
            return None
        return slice(None) if len(chosen) > 0.7 * d or d <= 100 else chosen

    def _covers(self, hessian: Curvature, at: _Point, weighted_sum: np.ndarray) -> bool:
        """Whether a Hessian is dear enough to be kept, and has every column that is in use or wants
        to be.
        """
        if len(hessian.coef) ** 2 * len(self.y) < _CHEAP:
            return False
        left_out = np.ones(len(weighted_sum), dtype=bool)
        left_out[hessian.columns] = False
        active = (at.coef != 0) | (np.abs(weighted_sum) > self.eps * at.weights.sum() * self.scale)
        return not np.any(active & left_out)

    def _target(
        self,
        hessian: Curvature,
        at: _Point,
        weights: np.ndarray,
        weighted_sum: np.ndarray,
        damping: float,
        max_faces: int,
    ) -> tuple[_Point, bool]:
        """The model's minimiser around a point, for these weights there, and whether it is exact;
        not evaluated yet.
        """
        columns = hessian.columns
        step = minimise_model(
            hessian,
            self.norm.at(columns),
            self.eps,
            at.coef[columns],
            weighted_sum[columns],
            weights.sum(),
            self.y @ weights,
            damping,
            max_faces,
        )
        coef = np.zeros_like(at.coef)
        coef[columns] = step.coef
        change = self._scores(coef - at.coef, columns) + step.intercept * self.y
        penalty = self.eps * float(self.norm.value(coef))
        return _Point(
            coef, at.intercept + step.intercept, at.scores + change, penalty, math.nan, weights
        ), step.settled

    def _scores(self, coef: np.ndarray, columns: np.ndarray | slice) -> np.ndarray:
        if (
            isinstance(columns, slice)
            or 4 * len(columns) > len(coef)
            or not sparse.issparse(self.problem.X)
        ):
            return self.problem.signed_scores(coef[None])[0]
        return self.y * (self.problem.X[:, columns] @ coef[columns])

    def _search(self, at: _Point, target: _Point, predicted_decrease: float) -> _Point | None:
        """The point towards the target, or beyond it, where the log-risk falls by enough; None if
        there is none.
        """
        if not predicted_decrease > 0:
            return None
        rounding = 8 * np.finfo(float).eps * (1 + abs(at.log_risk))
        # where one sample has all the weight the log-risk has no curvature, and the model no end
        furthest = _FURTHEST * (1 + float(np.abs(at.margins[self.used]).max()))
        change = float(np.abs(target.margins - at.margins)[self.used].max())
        first = share = furthest / change if change > furthest else 1.0
        while share > 1e-6 * first:
            found = self._between(at, target, share)
            if found.log_risk <= at.log_risk - 1e-3 * share * predicted_decrease + (
                rounding if predicted_decrease < 1e-8 else 0.0
            ):
                break
            share *= 0.5
        else:
            return None
        while (
            first <= share < _LONGEST * first
            and predicted_decrease > 0.1
            and found.margins[self.used].min() <= 0
        ):
            share *= 2  # a risk that falls without end wants longer and longer steps
            further = self._between(at, target, share)
            if further.log_risk >= found.log_risk:
                break
            found = further
        return found

    def _between(self, at: _Point, target: _Point, share: float) -> _Point:
        if share == 1:
            coef, scores, penalty = target.coef, target.scores, target.penalty
        else:
            coef = at.coef + share * (target.coef - at.coef)
            scores = at.scores + share * (target.scores - at.scores)
            penalty = self.eps * float(self.norm.value(coef))
        intercept = at.intercept + share * (target.intercept - at.intercept)
        log_risk, weights = self.loss.log_risk_and_weights(scores - penalty, self.log_weight)
        return _Point(coef, intercept, scores, penalty, float(log_risk), weights)

    def _balanced(self, at: _Point) -> _Point:
        """The point, with its best intercept where one class has most of the weight: the model
        knows little of the other.
        """
        if (
            not self.problem.fit_intercept
            or abs(self.y @ at.weights) <= _LOPSIDED * at.weights.sum()
        ):
            return at
        rise = float(
            self.loss.intercept(at.margins[None], self.y[None], self.log_weight[None], np.zeros(1))[
                0
            ]
        )
        raised = replace(at, scores=at.scores + rise * self.y, intercept=at.intercept + rise)
        return self._between(raised, raised, 1.0)

    def _certified(
        self, hessian: Curvature, at: _Point, target: _Point, damping: float
    ) -> Solution | None:
        """The target with the model's weights as its proof, if that reaches the tolerance."""
        weights = at.weights
        for _ in range(_MAX_REFINEMENTS):
            weights = weights - hessian.apply(target.margins - at.margins)
            if not np.any(weights > 0):
                return None
            weights = np.maximum(weights, 0)
            feasible = self.problem.balanced(weights[None])
            reached = self._between(at, target, 1.0)
            near = np.array([reached.log_risk])
            bound = float(self.loss.log_risk_bound(feasible, self.problem.log_weight, near)[0])
            if -math.expm1(bound - reached.log_risk) > self.tol:
                return None  # even if they were feasible
            weighted_sum = self.problem.weighted_sum(feasible)
            if self.norm.dual.value(weighted_sum)[0] <= self.eps or (
                self.unreached and proves_not_separable(self.problem, feasible)[0]
            ):
                solution = self.certify(target.coef[None], feasible, near=target.intercept)
                return solution if solution.gap[0] <= self.tol else None
            # what the Hessian's rounding has left of the violation
            at, weights = target, feasible[0]
            try:
                target, _ = self._target(hessian, target, weights, weighted_sum[0], damping, _FACES)
            except LinAlgError:
                return None
        return None
