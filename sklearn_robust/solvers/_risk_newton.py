"""Newton's method on the log-risk: minimiser of a model, line search, certificate.

It serves l_q balls, and rows with moments (`GramRows`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from scipy.linalg import LinAlgError

from sklearn_robust.certificates import cancelling_weights, proves_not_separable
from sklearn_robust.losses import MarginLoss, log_risk_and_derivatives
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import DenseRows, GramRows, SparseRows
from sklearn_robust.solvers import _newton_rules as rules
from sklearn_robust.solvers._model_minimiser import LEAST_INSET, minimise_model
from sklearn_robust.solvers._newton_columns import ColumnChoice, Trust
from sklearn_robust.solvers._newton_rules import MarginHessian
from sklearn_robust.solvers._risk_model import (
    Curvature,
    CurvatureSums,
    Gradient,
    curvature,
)
from sklearn_robust.solvers._risk_sample import EVERY, in_sample, sample_of_rows
from sklearn_robust.solvers.solution import Solution, risk_gap

# products in a Gram matrix, and features in one of all, up to which it costs less than one more
# iteration
_CHEAP_PRODUCTS = 1e7
_CHEAP_COLUMNS = 64
_LAST_DECREASE = 1e-2  # predicted decrease from which the next iteration is probably the last
# share of the tolerance that a model's weights may give up to stay inside the ball
_INSET_SHARE = 0.4
_MOST_INSET = 1e-3  # share of the radius by which they stay inside at most
# the gap that the weights of a model prove is larger than this times the square of its decrease
_LEAST_GAP = 0.3
_CENTRE_ROWS = 100  # rows, about, whose mean is near enough to that of all
# products in a least-squares problem up to which weights are moved to cancel immovable features
_MOST_PRODUCTS = 1e9


@dataclass(frozen=True)
class _Point(rules.NewtonPoint):
    """A predictor of one problem, its penalty, and the loss at it, with its curvatures (n,)."""

    penalty: float
    curvatures: np.ndarray


@dataclass(frozen=True)
class _Step:
    """The model's minimiser around a point, not evaluated yet.

    Attributes
    ----------
    target : _Point
        With the weights of the model's centre.
    change : ndarray of shape (n,)
        That of the margins.
    settled : bool
        Whether the target is the exact minimiser of the model.
    predicted_decrease : float
        The decrease of the log-risk by the gradient alone.
    """

    target: _Point
    change: np.ndarray
    settled: bool
    predicted_decrease: float


@dataclass(frozen=True)
class _Hessian:
    """The Hessian of the log-risk by the margins, and by the coefficients; whether the latter is an
    estimate from a sample of the rows.
    """

    margins: MarginHessian
    model: Curvature
    sampled: bool


def newton(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    *,
    max_iter: int,
    tol: float,
    certify: Callable[..., Solution],
    record: Callable[[int, np.ndarray], None],
    near: float | None = None,
) -> tuple[Solution | None, np.ndarray, int]:
    """Minimise the log-risk of one problem.

    Parameters
    ----------
    problem : RobustProblem
        One problem, in double arithmetic, against an l_q ball; rows without moments end it at once.
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
    near : float, optional
        A guess of the intercept at the start.

    Returns
    -------
    solution : Solution or None
        It reached tol, or separates the data; None where the method stops short of both, or has too
        many columns.
    coef : ndarray of shape (1, d)
        The last iterate.
    n_iter : int
    """
    rows = problem.rows
    if not isinstance(rows, GramRows):
        return None, start, 0
    return _Newton(problem, rows, loss, tol, certify).run(start, max_iter, record, near)


class _Newton:
    r"""Proximal Newton's method for :math:`\min_{w, b} \log L(Z w + y b - \epsilon \|w\|_{q^*})`.

    Each step :math:`(u, \beta)` solves the Newton system with the norm kept exact: it minimises

    .. math:: -a \cdot \delta + \tfrac12 \delta^T C \delta + \tfrac{\lambda}{2} u^T D u, \quad
        \delta = Z u + y \beta - \epsilon (\|w + u\|_{q^*} - \|w\|_{q^*}),

    a the weights, C their Hessian in the margins, D the diagonal of :math:`Z^T C Z` and
    :math:`\lambda` Levenberg's damping (`_risk_model`). A line search follows it. Where the step is
    short, the weights :math:`a - C \delta` of the model are dual feasible and certify the risk.

    Parameters
    ----------
    problem : RobustProblem
        One problem, in double arithmetic.
    rows : GramRows
        Its rows.
    loss : MarginLoss
    tol : float
        Certified gap of the risk to reach.
    certify : callable

    Attributes
    ----------
    y, log_weight : ndarray of shape (n,)
    used : ndarray of shape (n,), bool, or slice
        Samples of positive weight.
    eps : float
        The radius.
    factors : ndarray of shape (n,) or 1
        The factors on it of the samples.
    norm : LpNorm or WeightedNorm
        The norm in the penalty, eps times the norm of the coefficients.
    immovable : ndarray of int
        The features that the adversary cannot move: the weights must cancel them, which they can up
        to rounding only.
    choice : ColumnChoice
    hessian : _Hessian or None
        The last one; None asks for a new one.
    sample : DenseRows, SparseRows or None
        The rows of which the next Hessian is made, instead of all: those of the first one, at the
        minimiser of their risk.
    trust : Trust
    reached : tuple of _Point and _Point, or None
        The last target that was evaluated, and the point there.

    Notes
    -----
    Lee, Sun and Saunders, SIAM J. Optim. 24 (2014), for Newton's method with a norm kept exact;
    Nocedal and Wright, Numerical Optimization (2006), chapter 3 for the line search and 10.3 for
    the damping.
    """

    def __init__(
        self,
        problem: RobustProblem,
        rows: GramRows,
        loss: MarginLoss,
        tol: float,
        certify: Callable[..., Solution],
    ) -> None:
        self.problem, self.rows = problem, rows
        self.loss = loss
        self.tol = tol
        self.certify = certify
        self.y, self.log_weight = problem.y[0], problem.log_weight[0]
        used = self.log_weight > -math.inf
        self.used: np.ndarray | slice = slice(None) if used.all() else used
        d = problem.n_features
        threat = problem.threat
        self.eps = float(problem.radius[0])
        self.norm = threat.dual_norm
        self.factors: np.ndarray | float = 1.0 if problem.adversary is None else problem.factors
        self.choice = ColumnChoice.of(
            self.norm, self.eps, threat.scale, d, rows.most_gram_columns()
        )
        self.immovable = np.flatnonzero((self.choice.scale == 0) | (self.eps == 0))
        self.hessian: _Hessian | None = None
        self.sample: DenseRows | SparseRows | None = None
        self.trust = Trust()
        self.reached: tuple[_Point, _Point] | None = None

    def run(
        self,
        start: np.ndarray,
        max_iter: int,
        record: Callable[[int, np.ndarray], None],
        near: float | None,
    ) -> tuple[Solution | None, np.ndarray, int]:
        """Iterate: gradient, model, step, convergence, search."""
        at = self._start(start, near)
        if near is not None and isinstance(self.rows, DenseRows | SparseRows):
            self.sample = sample_of_rows(self.rows)
        trust = self.trust
        iteration = 0
        while iteration < max_iter and not trust.lost and not self._separates(at):
            iteration += 1
            gradient = self._gradient(at.weights, self.problem.weighted_sum(at.weights[None])[0])
            solution = self._proven(at, gradient)
            if solution is not None:
                record(iteration, at.coef[None])
                return solution, at.coef[None], iteration
            if not self._has_model(at, gradient):
                break
            step = self._step(at, gradient)
            if step is None:
                self._fail(damped=True)
                continue
            solution = self._certified(at, step)
            if solution is not None:
                record(iteration, step.target.coef[None])
                return solution, step.target.coef[None], iteration
            moved = self._search(at, step)
            if (
                moved is None
                and step.settled
                and step.predicted_decrease <= rules.ROUNDING_DECREASE
            ):
                break
            if moved is None:
                self._fail(damped=trust.cautious)
                trust.cautious = True
                continue
            at = self._with_level_classes(moved)
            trust.succeed()
            record(iteration, at.coef[None])
        if self._separates(at):
            return self.certify(at.coef[None], near=at.intercept), at.coef[None], iteration
        return None, at.coef[None], iteration

    def _start(self, start: np.ndarray, near: float | None) -> _Point:
        """The point of these coefficients (1, d) with the best intercept, or a guess of it."""
        at_zero = rules.intercept_at_zero(self.problem, self.loss)
        if at_zero is not None and not start.any():
            return self._evaluated(start[0], at_zero, at_zero * self.y)
        scores = self.problem.signed_scores(start)
        if near is None:
            penalty = self.problem.penalty(start)
            near = float(self.problem.evaluate_scores(self.loss, scores, penalty).intercept[0])
        return self._evaluated(start[0], near, scores[0] + near * self.y)

    def _evaluated(self, coef: np.ndarray, intercept: float, scores: np.ndarray) -> _Point:
        """The point of these coefficients (d,), with scores that include the intercept."""
        penalty = self.eps * float(self.norm.value(coef))
        return self._of_margins(coef, intercept, scores, scores - penalty * self.factors, penalty)

    def _of_margins(
        self,
        coef: np.ndarray,
        intercept: float,
        scores: np.ndarray,
        margins: np.ndarray,
        penalty: float,
    ) -> _Point:
        """The point of these coefficients, with its loss."""
        log_risk, weights, c = log_risk_and_derivatives(self.loss, margins, self.log_weight)
        return _Point(coef, intercept, scores, margins, float(log_risk), weights, penalty, c)

    def _separates(self, at: _Point) -> bool:
        return at.separates(self.used)

    def _fail(self, *, damped: bool) -> None:
        """Ask for a better Hessian."""
        self.hessian = None
        self.trust.fail(damped=damped)

    @cached_property
    def centre(self) -> np.ndarray:
        """About the mean of the rows, subtracted from them in Gram matrices, where an intercept
        absorbs it, (d,); zero where it is as close to the rows.
        """
        if not self.problem.fit_intercept:
            return np.zeros(len(self.choice.scale))
        if not isinstance(self.rows, DenseRows):
            return self.rows.mean()
        some = self.rows.X[:: 1 + len(self.y) // _CENTRE_ROWS]
        mean: np.ndarray = some.mean(axis=0, dtype=np.float64)
        far = np.abs(mean) > some.std(axis=0, dtype=np.float64)
        return np.where(far, mean, 0.0)

    # -- gradient and model

    def _gradient(self, weights: np.ndarray, weighted_sum: np.ndarray) -> Gradient:
        """Minus the gradient of the log-risk at weights (n,), given Z^T a."""
        total_weight = float(self.problem.attacked_weight(weights[None])[0])
        return Gradient(weighted_sum, total_weight, float(self.y @ weights))

    def _has_model(self, at: _Point, gradient: Gradient) -> bool:
        """See to a Hessian for the model at this point; False where it has too many columns."""
        columns = self.choice.chosen(at.coef, gradient)
        if columns is None:
            return False
        trust = self.trust
        if self.hessian is None or not trust.converges or not self._serves(at, gradient):
            c = rules.curvatures(at.curvatures, at.margins, at.weights, cautious=trust.cautious)
            sample, self.sample = self.sample, None
            if sample is None:
                of_rows = self.rows, self.y, self.factors, c, at.weights
                model = self._curvature(columns, gradient, *of_rows)
            else:
                model = self._sampled_curvature(columns, sample, c, at.weights)
            margins = MarginHessian(c, at.weights, model.theta)
            self.hessian = _Hessian(margins, model, sampled=sample is not None)
        trust.decrease_before = trust.decrease
        return True

    def _curvature(
        self,
        columns: np.ndarray | slice,
        gradient: Gradient,
        rows: GramRows,
        y: np.ndarray,
        r: np.ndarray | float,
        c: np.ndarray,
        a: np.ndarray,
    ) -> Curvature:
        """The Hessian by some columns, of rows with labels y, factors r, curvatures c and weights
        a, which have this gradient.
        """
        centre = self.centre[columns]
        sums = CurvatureSums.of(rows, columns, centre, y, r, c, a, exact=self.trust.exact)
        return curvature(sums, gradient, columns, centre, fit_intercept=self.problem.fit_intercept)

    def _sampled_curvature(
        self,
        columns: np.ndarray | slice,
        rows: DenseRows | SparseRows,
        c: np.ndarray,
        a: np.ndarray,
    ) -> Curvature:
        """An estimate of the Hessian from a sample of the rows, each of which stands for some."""
        y = in_sample(self.y)
        c, a = EVERY * in_sample(c), EVERY * in_sample(a)
        r = self.factors if isinstance(self.factors, float) else in_sample(self.factors)
        # its own gradient: the estimate is positive semidefinite
        weighted_sum = rows.weighted_sum((y * a)[None])[0]
        gradient = Gradient(weighted_sum, float(np.sum(r * a)), float(y @ a))
        return self._curvature(columns, gradient, rows, y, r, c, a)

    def _serves(self, at: _Point, gradient: Gradient) -> bool:
        """Whether to reuse the Hessian: it is expensive, and it covers all active columns."""
        if self.hessian is None or self.hessian.sampled or self._products < _CHEAP_PRODUCTS:
            return False
        columns = self.hessian.model.columns
        cheap = isinstance(columns, slice) and len(at.coef) <= _CHEAP_COLUMNS
        if cheap and self.trust.decrease > _LAST_DECREASE:
            return False
        return self.choice.covers(columns, at.coef, gradient)

    # -- step

    def _step(self, at: _Point, gradient: Gradient) -> _Step | None:
        """The model's minimiser around a point; None where the Hessian is not positive definite."""
        try:
            target, settled = self._target(at, gradient, self.trust.faces)
        except LinAlgError:
            return None
        change = target.margins - at.margins
        decrease = float(at.weights @ change)
        self.trust.decrease = decrease
        return _Step(target, change, settled, decrease)

    def _target(self, at: _Point, gradient: Gradient, max_faces: int) -> tuple[_Point, bool]:
        """The model's minimiser around a point, for this gradient there, and whether it is exact.

        It is not evaluated: it keeps the loss of the point.
        """
        assert self.hessian is not None
        columns = self.hessian.model.columns
        step = minimise_model(
            self.hessian.model,
            self.norm.at(columns),
            self.eps,
            at.coef[columns],
            at.penalty,
            gradient,
            self.trust.damping,
            max_faces,
            self._inset(at, gradient),
        )
        coef = np.zeros_like(at.coef)
        coef[columns] = step.coef
        # a fresh array as long as the samples takes longer than a sum over one
        scores = self.rows.scores_on(columns, coef - at.coef) + step.intercept
        scores *= self.y
        scores += at.scores
        intercept = at.intercept + step.intercept
        margins = scores - step.penalty * self.factors
        known = at.log_risk, at.weights, step.penalty, at.curvatures
        return _Point(coef, intercept, scores, margins, *known), step.settled

    def _inset(self, at: _Point, gradient: Gradient) -> float:
        r"""The share tau of the radius by which the model's weights stay inside the ball.

        A radius smaller by this share lowers the bound that they prove by :math:`\tau P` to first
        order, P the penalty times the total weight. It leaves room for the rounding of a Hessian in
        single precision, and for the error of one that is kept.
        """
        room = _INSET_SHARE * self.tol
        pressure = at.penalty * gradient.total_weight
        if self._products < _CHEAP_PRODUCTS or pressure == 0:
            return LEAST_INSET
        return min(max(LEAST_INSET, room / pressure), _MOST_INSET)

    @property
    def _products(self) -> int:
        """The products in the Gram matrix of the Hessian."""
        assert self.hessian is not None
        return len(self.hessian.model.coef) ** 2 * len(self.y)

    # -- line search

    def _search(self, at: _Point, step: _Step) -> _Point | None:
        target, decrease = step.target, step.predicted_decrease
        if not step.settled and decrease <= rules.ROUNDING_DECREASE:
            return None
        first = at.first_share(step.change, self.used)
        ahead = partial(self._between, at, target)
        return rules.line_search(at.log_risk, ahead, self._separates, decrease, first)

    def _between(self, at: _Point, target: _Point, share: float) -> _Point:
        """The point at this share of the way to the target, evaluated."""
        if share == 1:
            if self.reached is not None and self.reached[0] is target:
                return self.reached[1]
            known = target.coef, target.intercept, target.scores, target.margins, target.penalty
            self.reached = target, self._of_margins(*known)
            return self.reached[1]
        return self._evaluated(
            at.coef + share * (target.coef - at.coef),
            at.intercept + share * (target.intercept - at.intercept),
            at.scores + share * (target.scores - at.scores),
        )

    def _with_level_classes(self, at: _Point) -> _Point:
        """The point, with its best intercept where one class has most of the weight.

        The Hessian there has next to nothing of the other class.
        """
        lopsided = abs(self.y @ at.weights) > rules.LOPSIDED * at.weights.sum()
        if not self.problem.fit_intercept or not lopsided:
            return at
        rises = self.loss.intercept(
            at.margins[None], self.y[None], self.log_weight[None], np.zeros(1)
        )
        rise = float(rises[0])
        return self._evaluated(at.coef, at.intercept + rise, at.scores + rise * self.y)

    # -- convergence

    def _proven(self, at: _Point, gradient: Gradient) -> Solution | None:
        """The point, if its own weights are feasible and prove it: zero, against a large radius."""
        bound = self.eps * gradient.total_weight
        if at.penalty > 0 or not self.norm.dual.value(gradient.weighted_sum) <= bound:
            return None
        feasible = self.problem.balanced(at.weights[None])
        if not proves_not_separable(self.problem, feasible)[0]:
            return None
        solution = self.certify(at.coef[None], feasible, near=at.intercept)
        return solution if solution.gap[0] <= self.tol else None

    def _certified(self, at: _Point, step: _Step) -> Solution | None:
        """The target, if the model's weights a' = a - C delta prove it to the tolerance."""
        hessian = self.hessian
        target, change = step.target, step.change
        # the square of a decrease from far away may be out of range
        decrease = min(step.predicted_decrease, 1.0)
        close = decrease <= rules.CLOSE_DECREASE and _LEAST_GAP * decrease**2 <= self.tol
        if not step.settled or not close or hessian is None or hessian.sampled:
            return None
        for _ in range(rules.MAX_REFINEMENTS):
            weights = hessian.margins.apply(change)
            np.subtract(at.weights, weights, out=weights)
            np.maximum(weights, 0, out=weights)
            if not np.any(weights):
                return None
            reached = self._between(at, target, 1.0)
            log_risk = reached.log_risk
            gap, scale = rules.gap_near(weights, reached.weights, reached.curvatures)
            if gap > self.tol:
                return None
            near = np.array([log_risk + math.log(scale * weights.sum())])
            feasible = self._cancelled(self.problem.balanced(weights[None]))
            del weights  # as long as the samples
            bound = self.loss.log_risk_bound(feasible, self.problem.log_weight, near)
            if risk_gap(float(bound[0]), log_risk) > self.tol:
                return None  # even if they were feasible
            weighted_sum = self.problem.weighted_sum(feasible)
            if proves_not_separable(self.problem, feasible, weighted_sum=weighted_sum)[0]:
                solution = self.certify(
                    target.coef[None], feasible, near=target.intercept, bound=bound
                )
                return solution if solution.gap[0] <= self.tol else None
            # the weights exceed the ball by the rounding of the Hessian: solve again from them
            at = replace(target, weights=feasible[0])
            gradient = self._gradient(at.weights, weighted_sum[0])
            try:
                target, _ = self._target(at, gradient, rules.FACES)
            except LinAlgError:
                return None
            change = target.margins - at.margins
        return None

    def _cancelled(self, weights: np.ndarray) -> np.ndarray:
        """Feasible weights (1, n) that cancel the features which the adversary cannot move."""
        products = weights.size * len(self.immovable) ** 2
        if not 0 < products <= _MOST_PRODUCTS or proves_not_separable(self.problem, weights)[0]:
            return weights
        return cancelling_weights(self.problem, weights[0], self.immovable)[None]
