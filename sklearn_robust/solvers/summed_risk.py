r"""The minimiser of the robust risk of two classes against an l_q ball, from sums over the samples:
Newton's method in sweeps.

A sweep is one total over all samples. It tries the step of the model and brings the Hessian and the
certificate of its end with it, so that an iteration costs one sweep where the whole step is taken.
No array over the samples outlives a block: margins and weights are computed anew from predictors.
The model, its minimiser, the damping and the line search are those of Newton's method on arrays
(`_risk_newton`), which keeps the scores of all samples between its products and so takes half as
many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import LinAlgError

from sklearn_robust._documentation import see
from sklearn_robust.certificates import over_size
from sklearn_robust.losses import Exponential, SummableLoss, log_odds_slope
from sklearn_robust.norms import Norm
from sklearn_robust.rows import Survey
from sklearn_robust.solvers import _newton_rules as rules
from sklearn_robust.solvers._model_minimiser import minimise_model
from sklearn_robust.solvers._newton_columns import ColumnChoice, Trust, most_columns
from sklearn_robust.solvers._risk_model import Curvature, Gradient, curvature
from sklearn_robust.solvers._risk_sums import (
    LossAt,
    LossSums,
    ModelWeights,
    Moments,
    StepAlong,
    StepSums,
    SumsOfWeights,
    Trial,
    WeightSums,
)
from sklearn_robust.solvers._summed_certificate import Proven, SummedCertificate
from sklearn_robust.solvers.solution import risk_gap
from sklearn_robust.summed import Predictor, SummedProblem

_MAX_ITERATIONS = 200
_HALVINGS = 4  # shares that a sweep along a step tries
# the gap that the weights of a model prove, over the square of its predicted decrease: 0.2 to 8 in
# benchmarks/cluster.py
_GAP_BY_DECREASE = 2.0


class TooManyColumnsError(ValueError):
    """The Hessian of the risk needs more columns than Newton's method computes."""


@dataclass(frozen=True)
class SummedSolution:
    """A predictor of two classes, and what is known of it.

    Attributes
    ----------
    coef : ndarray of shape (d,)
    intercept : float
    log_risk : float
    margin : float
        The least robust margin over the norm of the coefficients.
    gap : float
        The certified relative gap of the risk, 1 - (lower bound) / risk; inf where none is proven.
    separable : bool or None
        True for a predictor with positive margins, False where weights prove the opposite.
    n_iter : int
    """

    coef: np.ndarray
    intercept: float
    log_risk: float
    margin: float
    gap: float
    separable: bool | None
    n_iter: int


def minimise_summed_risk(
    problem: SummedProblem,
    loss: SummableLoss,
    norm: Norm,
    *,
    tol: float = 1e-8,
    max_iter: int = _MAX_ITERATIONS,
    start: tuple[np.ndarray, float] | None = None,
    record: Callable[[SummedSolution], bool] = lambda solution: False,
) -> SummedSolution:
    """Minimise the robust risk, or find a predictor that separates the samples robustly.

    Parameters
    ----------
    problem : SummedProblem
    loss : Exponential or Logistic, or another `SummableLoss`
    norm : LpNorm
        Only measures the margin that is reported.
    tol : float
        Certified relative gap of the risk to reach.
    max_iter : int
        Iterations at most.
    start : tuple of ndarray of shape (d,) and float, optional
        Coefficients and intercept; by default zero, and the best intercept there.
    record : callable
        Called with the predictor at the start and after each step; whether to stop there.

    Returns
    -------
    SummedSolution
        Its gap is above tol where the method stopped short.

    Raises
    ------
    TooManyColumnsError
        If the Hessian needs more columns than the method computes.
    ValueError
        If the data change while they are read.
    """
    return _SweepNewton(problem, loss, norm, tol, record).run(start, max_iter)


def most_hessian_columns(survey: Survey) -> int:
    """The columns of the largest Hessian."""
    return most_columns(survey.most_gram_columns)


def balanced_weighted_sum(problem: SummedProblem) -> np.ndarray:
    """Z^T a (d,) of the sample weights a, scaled to dual feasibility: the loss has them at w = 0
    with the best intercept.
    """
    negative, positive = problem.class_weights
    odds = math.log(positive / negative) if problem.fit_intercept else 0.0
    at = problem.predictor(np.zeros(problem.n_features), odds / 2)
    return problem.total(LossAt(Exponential(), at, None)).gradient.weighted_sum


def log_risks_along(
    problem: SummedProblem,
    loss: SummableLoss,
    coef: np.ndarray,
    intercept: float,
    shares: np.ndarray,
) -> np.ndarray:
    """The log-risks (t,) of multiples (t,) of a predictor, in one sweep."""
    target = problem.predictor(coef, intercept)
    nothing = problem.predictor(np.zeros_like(coef), 0.0)
    penalties = shares * target.penalty
    return problem.total(StepAlong(loss, nothing, target, shares, penalties)).log_risks


@dataclass(frozen=True)
class _Point:
    """A predictor, the sums at it, and how those of its curvature were taken."""

    at: Predictor
    sums: LossSums
    moments: Moments | None

    @property
    def log_risk(self) -> float:
        return self.sums.log_risk

    @property
    def least_margin(self) -> float:
        return self.sums.least_margin


@dataclass(frozen=True)
class _Share:
    """A share of a step, and the figures there."""

    share: float
    log_risk: float
    least_margin: float


@dataclass(frozen=True)
class _Step:
    """The model's minimiser around a point.

    Attributes
    ----------
    target : Predictor
    settled : bool
        Whether the target is the exact minimiser of the model.
    decrease : float
        The decrease of the log-risk by the gradient alone, a . (change of the margins).
    """

    target: Predictor
    settled: bool
    decrease: float


class _SweepNewton:
    """The loop, of one problem; see `_risk_newton` for the model."""

    def __init__(
        self,
        problem: SummedProblem,
        loss: SummableLoss,
        norm: Norm,
        tol: float,
        record: Callable[[SummedSolution], bool],
    ) -> None:
        self.problem, self.loss = problem, loss
        self.norm = norm
        self.tol, self.record = tol, record
        survey, threat = problem.survey, problem.threat
        d = survey.n_features
        self.eps = problem.radius
        self.penalty_norm = threat.dual_norm
        self.choice = ColumnChoice.of(
            self.penalty_norm, self.eps, threat.scale, d, survey.most_gram_columns
        )
        self.certificate = SummedCertificate(problem, loss)
        self.centre = survey.mean if problem.fit_intercept else np.zeros(d)
        self.trust = Trust()
        self.best: SummedSolution | None = None

    def run(self, start: tuple[np.ndarray, float] | None, max_iter: int) -> SummedSolution:
        """Iterate: model, trial step, certificate, line search."""
        now = self._start(start)
        trust = self.trust
        iteration = 0
        stopped = self.record(self._uncertified(now, iteration))
        while not (stopped or trust.lost or now.least_margin > 0) and iteration < max_iter:
            iteration += 1
            now = self._with_curvature(now)
            hessian = self._hessian(now)
            step = self._step(now, hessian)
            if step is None:
                trust.fail(damped=True)
                continue
            moved = self._try(now, hessian, step, iteration)
            if self.best is not None and self.best.gap <= self.tol:
                return self.best
            if moved is None and step.settled and step.decrease <= rules.ROUNDING_DECREASE:
                break
            if moved is None:
                trust.fail(damped=trust.cautious)
                trust.cautious = True
                continue
            now = self._with_level_classes(moved)
            trust.succeed()
            stopped = self.record(self._uncertified(now, iteration))
        return self._uncertified(now, iteration) if self.best is None else self.best

    # -- points

    def _start(self, start: tuple[np.ndarray, float] | None) -> _Point:
        """The point of the start; that of zero has the best intercept, near the log-odds."""
        d = self.problem.survey.n_features
        if start is None:
            negative, positive = self.problem.class_weights
            slope = log_odds_slope(self.loss) or 1.0
            odds = math.log(positive / negative) / slope if self.problem.fit_intercept else 0.0
            start = np.zeros(d), odds
        return self._evaluated(self.problem.predictor(*start), self._moments(slice(None)))

    def _moments(self, columns: np.ndarray | slice) -> Moments | None:
        """How to take the curvature on these columns; None where they are too many."""
        centre = self.centre[columns]
        if len(centre) > self.choice.most:
            return None
        trust = self.trust
        return Moments(columns, centre, trust.exact or trust.close, trust.cautious)

    def _evaluated(self, at: Predictor, moments: Moments | None) -> _Point:
        return _Point(at, self.problem.total(LossAt(self.loss, at, moments)), moments)

    def _with_curvature(self, now: _Point) -> _Point:
        """The point, with a curvature that covers the columns that a step can move."""
        gradient, trust = now.sums.gradient, self.trust
        columns = self.choice.chosen(now.at.coef, gradient)
        if columns is None:
            raise TooManyColumnsError(
                f"The Hessian of the risk needs more than {self.choice.most} of the "
                f"{len(now.at.coef)} columns of X. Use q_pert=numpy.inf with a larger eps, which "
                f"uses few columns, fewer features, or an array in memory."
                f" {see('guide/larger_than_memory')}"
            )
        taken = now.moments
        if (
            taken is None
            or taken.cautious < trust.cautious
            or taken.exact < trust.exact
            or not self.choice.covers(taken.columns, now.at.coef, gradient)
        ):
            taken = self._moments(columns)
            now = self._evaluated(now.at, taken)
        assert now.sums.curvature is not None
        assert taken is not None
        flat = now.sums.curvature.total <= rules.FLAT_CURVATURE * gradient.total_weight
        if flat and not taken.cautious:
            return self._evaluated(now.at, replace(taken, cautious=True))
        return now

    def _with_level_classes(self, now: _Point) -> _Point:
        """The point, with an intercept that levels the classes where one has most of the weight.

        The Hessian there has next to nothing of the other class. The intercept is the best one of
        the exponential loss.
        """
        total, label_sum = now.sums.gradient.total_weight, now.sums.gradient.label_sum
        if not self.problem.fit_intercept or abs(label_sum) <= rules.LOPSIDED * total:
            return now
        rise = 0.5 * math.log(max(total + label_sum, 1e-300) / max(total - label_sum, 1e-300))
        raised = now.at._replace(intercept=now.at.intercept + rise)
        level = self._evaluated(raised, now.moments)
        return level if level.log_risk < now.log_risk else now

    # -- model

    def _hessian(self, now: _Point) -> Curvature:
        sums, moments = now.sums, now.moments
        assert sums.curvature is not None
        assert moments is not None
        return curvature(
            sums.curvature,
            sums.gradient,
            moments.columns,
            moments.centre,
            fit_intercept=self.problem.fit_intercept,
        )

    def _step(self, now: _Point, hessian: Curvature) -> _Step | None:
        """The model's minimiser around a point; None where the Hessian is not positive definite."""
        gradient = now.sums.gradient
        try:
            target, settled = self._target(now.at, hessian, gradient, self.trust.faces)
        except LinAlgError:
            return None
        decrease = self._slope(gradient, now.at, target)
        self.trust.decrease = decrease
        return _Step(target, settled, decrease)

    def _target(
        self, at: Predictor, hessian: Curvature, gradient: Gradient, faces: int
    ) -> tuple[Predictor, bool]:
        """The model's minimiser around a predictor, for this gradient there, and whether it is
        exact.
        """
        columns = hessian.columns
        step = minimise_model(
            hessian,
            self.penalty_norm.at(columns),
            self.eps,
            at.coef[columns],
            at.penalty,
            gradient,
            self.trust.damping,
            faces,
        )
        coef = np.zeros_like(at.coef)
        coef[columns] = step.coef
        return self.problem.predictor(coef, at.intercept + step.intercept), step.settled

    @staticmethod
    def _slope(gradient: Gradient, start: Predictor, target: Predictor) -> float:
        """a . (change of the margins) from one predictor to another."""
        return gradient.slope(
            target.coef - start.coef,
            target.intercept - start.intercept,
            target.penalty - start.penalty,
        )

    # -- the sweep along a step

    def _try(self, now: _Point, hessian: Curvature, step: _Step, iteration: int) -> _Point | None:
        """The point to which the step leads; None where it leads nowhere.

        Where the model's weights prove the risk of its target, `best` is set: to the tolerance, or
        to the gap that is in reach where no decrease is left.
        """
        moments = now.moments
        assert moments is not None
        proving = step.settled and step.decrease <= rules.CLOSE_DECREASE
        model = ModelWeights(
            self.loss, now.at, now.log_risk, hessian.theta, moments.cautious
        ).stepped(step.target, step.decrease)
        weights = SumsOfWeights(model, now.log_risk) if proving else None
        shares = np.array([0.5, 2.0] if step.decrease > rules.CLOSE_DECREASE else [])
        # a Gram matrix costs many sweeps: none where the proof will end the method
        ends = proving and _GAP_BY_DECREASE * step.decrease**2 <= self.tol
        wanted = None if ends else self._moments(moments.columns)
        trial = self.problem.total(Trial(self._along(now, step, shares), wanted, weights))
        reached = _Point(step.target, trial.loss, wanted)
        if weights is not None and trial.weights is not None:
            tol = math.inf if step.decrease <= rules.ROUNDING_DECREASE else self.tol
            self._certify(now, hessian, weights, trial.weights, reached, iteration, tol=tol)
        if not step.settled and step.decrease <= rules.ROUNDING_DECREASE:
            return None
        found = self._search(now, step, reached, shares, trial.step)
        if found is None or found.share == 1:
            return None if found is None else reached
        penalty = self._penalty(now, step, found.share)
        return self._evaluated(now.at.towards(step.target, found.share, penalty), wanted)

    def _along(self, now: _Point, step: _Step, shares: np.ndarray) -> StepAlong:
        penalties = np.array([self._penalty(now, step, share) for share in shares])
        return StepAlong(self.loss, now.at, step.target, shares, penalties)

    def _penalty(self, now: _Point, step: _Step, share: float) -> float:
        coef, target = now.at.coef, step.target.coef
        return self.problem.penalty(coef + share * (target - coef))

    def _search(
        self, now: _Point, step: _Step, reached: _Point, shares: np.ndarray, figures: StepSums
    ) -> _Share | None:
        """The line search; a sweep computes several shares."""
        known = {1.0: _Share(1.0, reached.log_risk, reached.least_margin)}

        def add(shares: np.ndarray, figures: StepSums) -> None:
            rows = zip(shares, figures.log_risks, figures.least_margins, strict=True)
            known.update({row[0]: _Share(*map(float, row)) for row in rows})

        def ahead(share: float) -> _Share:
            if share not in known:
                factor = 2.0 if share > 1 else 0.5
                more = share * factor ** np.arange(_HALVINGS)
                add(more, self.problem.total(self._along(now, step, more)))
            return known[share]

        add(shares, figures)
        first = rules.first_share(figures.largest_margin, figures.largest_change)
        return rules.line_search(
            now.log_risk, ahead, lambda found: found.least_margin > 0, step.decrease, first
        )

    # -- certificate

    def _certify(
        self,
        now: _Point,
        hessian: Curvature,
        query: SumsOfWeights,
        sums: WeightSums,
        reached: _Point,
        iteration: int,
        *,
        tol: float,
    ) -> None:
        """Set `best` if the model's weights prove the risk of a target, to a gap of about tol.

        Weights that exceed the ball by the rounding of the Hessian are mended: the model is solved
        again from them.
        """
        model = query.model
        estimate = self.loss.dual_bound(sums.dual_sum, query.log_scale)
        if risk_gap(estimate, reached.log_risk) > tol:
            return
        for _ in range(rules.MAX_REFINEMENTS):
            factors = self.certificate.balancing(sums)
            if factors is None:
                return
            if self.certificate.is_feasible(sums, factors):
                self._keep(self.certificate.prove(model, sums, factors), iteration)
                return
            # feasible weights at the total of the model's
            total = float(sums.total.sum())
            label_sum = 0.0 if self.problem.fit_intercept else float(sums.total @ [-1, 1])
            gradient = Gradient(total * (factors @ sums.weighted_sum), total, label_sum)
            last = model.targets[-1]
            try:
                target, _ = self._target(last, hessian, gradient, rules.FACES)
            except LinAlgError:
                return
            model = model.scaled(total * factors).stepped(
                target, self._slope(now.sums.gradient, last, target)
            )
            sums = self.problem.total(replace(query, model=model))

    def _keep(self, proven: Proven, iteration: int) -> None:
        """Set `best` to a predictor if it is proven better."""
        if self.best is None or proven.gap < self.best.gap:
            at, sums = proven.at, proven.sums
            self.best = SummedSolution(
                at.coef.astype(self.problem.survey.dtype),
                at.intercept,
                sums.log_risk,
                self._over_size(sums.least_margin, at.coef),
                proven.gap,
                separable=False,
                n_iter=iteration,
            )

    def _uncertified(self, now: _Point, iteration: int) -> SummedSolution:
        """The predictor of a point, of which no gap is proven."""
        return SummedSolution(
            now.at.coef,
            now.at.intercept,
            now.log_risk,
            self._over_size(now.least_margin, now.at.coef),
            math.inf,
            separable=True if now.least_margin > 0 else None,
            n_iter=iteration,
        )

    def _over_size(self, least: float, coef: np.ndarray) -> float:
        return float(over_size(np.float64(least), self.norm.value(coef)))
