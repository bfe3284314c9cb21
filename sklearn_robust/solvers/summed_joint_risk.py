r"""The minimiser of the joint risk of several classes against an l_q ball, from sums over the
samples.

Newton's method in sweeps: a sweep brings the risk at a point, its gradient, and an estimate of its
Hessian from samples that are drawn (`_joint_sums`). The quadratic model of these has its minimiser
under the cones of the pair norms here, without a sweep (`_joint_quadratic`). No array over the
samples outlives a part of a block.

- The start is the minimiser on a few samples, which are drawn from all of them.
- A point has a Hessian of its own where the predicted decrease is large, or hardly falls; else the
  last one serves.
- Weights are tried for the lower bound, two sweeps, where the gradient alone says that they are
  feasible.

Where the interior point does not serve, L-BFGS minimises the risk in stages, a sweep for each
evaluation (`_joint_stages`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np

from sklearn_robust._joint_flows import WeightedSums
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import SummableLoss
from sklearn_robust.norms import Norm
from sklearn_robust.rows import Survey
from sklearn_robust.rows.reduction import S
from sklearn_robust.solvers import _joint_sums as sums
from sklearn_robust.solvers._joint_bounds import DualBounds, Mixture, Source
from sklearn_robust.solvers._joint_model import Direction, JointModel, RiskPoint, Units
from sklearn_robust.solvers._joint_newton import MOST_DENSE
from sklearn_robust.solvers._joint_quadratic import ModelMinimisation, QuadraticModel
from sklearn_robust.solvers._joint_risk import JointMinimisation, minimise_joint_risk
from sklearn_robust.solvers._joint_run import JointSolution, separates, size_of
from sklearn_robust.solvers.solution import Monitor, Monitoring, risk_gap
from sklearn_robust.summed import SummedJointProblem

# samples of the start for each of the K (d + 1) unknowns, and at least; its certified relative gap
_DRAWN = 32
_FEWEST = 1000
_START_TOL = 1e-2
_ROUNDS = 5  # draws of samples at most, where those that were drawn are separable
# samples for each unknown that the Hessian is estimated from, and multiplications from which there
# are fewer
_MOST_FOR_HESSIAN = 128
_MOST_WORK = 400_000_000_000
# predicted decrease, relative to the risk, and to the one before, from which the next point has a
# Hessian of its own
_FAR, _SLOW = 1e-4, 0.1
_SUFFICIENT = 1e-4  # share of the predicted decrease that a step has to reach
_HALVINGS = 30  # largest number of times that a step is halved
# predicted decrease, relative to the risk, that may be rounding; so many end the method, and after
# each the model has this factor on its share of the gap
_ROUNDING = 1e-13
_STILL, _WIDEN = 4, 2.0
# lack of room by the gradient, relative to a capacity, up to which weights are tried
_LACK = 0.02
_SPARE = 0.1  # share of the gap asked for that a step to a model's minimiser may cost
_NEARLY = 10.0  # times the gap asked for: the predicted decrease up to which weights are tried


def minimise_summed_joint_risk(
    problem: SummedJointProblem,
    loss: SummableLoss,
    *,
    tol: float = 1e-6,
    max_iter: int = 100,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    monitors: Sequence[Monitor] = (),
    record: Callable[[np.ndarray, np.ndarray, float], None] = lambda coef, intercept, log_risk: (
        None
    ),
) -> JointSolution:
    """Minimise the joint robust risk of samples known by sums, or find a predictor that separates
    the classes; see `minimise_joint_risk`.

    Parameters
    ----------
    problem : SummedJointProblem
    loss : Exponential or Logistic
    tol, max_iter, start, monitors
        As there.
    record : callable
        Called with coefficients (K, d), intercepts (K,) and the log-risk, or a bound on it from
        above, at each iteration.

    Returns
    -------
    JointSolution
        Without weights.

    Raises
    ------
    ValueError
        If the data change while they are read.
    """
    model = SummedJointModel(problem, loss)
    run = _SummedMinimisation(model, tol, Monitoring(0, monitors))
    run.record = record
    return run.run(max_iter, start)


def joint_figures(
    problem: SummedJointProblem, loss: SummableLoss, norm: Norm, coef: np.ndarray, b: np.ndarray
) -> tuple[float, float]:
    """The log-risk of a predictor (K, d), (K,), and its robust margin in a norm less its rounding,
    in one sweep.
    """
    found = problem.total_of_parts(sums.FiguresAt(loss, norm, coef, b))
    return found.log_risk, found.margin


class SummedJointModel(JointModel):
    """The risk of a joint problem as sums over its samples; see `JointModel`.

    Parameters
    ----------
    problem : SummedJointProblem
    loss : SummableLoss
    """

    def __init__(self, problem: SummedJointProblem, loss: SummableLoss) -> None:
        self.summed = problem
        units = _units_of(problem.survey, centred=problem.fit_intercept)
        super().__init__(problem.form, loss, units=units)
        self.function = sums.RiskFunction(loss, units)
        self.n_samples = int(problem.survey.counts.sum())

    def at(self, coef: np.ndarray, pairs: np.ndarray, *, hold: bool = False) -> RiskPoint:
        return self.with_hessian(coef, pairs, None)[0]

    def with_hessian(
        self, coef: np.ndarray, pairs: np.ndarray, draw: sums.Draw | None
    ) -> tuple[RiskPoint, np.ndarray | None]:
        """The risk at a point, and its Hessian where samples are drawn for it, in one sweep."""
        found = self.summed.total_of_parts(sums.RiskAt(self.function, coef, pairs, draw))
        nothing = np.empty(0)
        point = RiskPoint(
            log_risk=found.log_risk,
            weights=None,
            of_sample=nothing,
            curvature=nothing,
            smallest_margin=found.smallest_margin,
            coef=coef,
            pairs=pairs,
            value=self.value_of(found.log_risk),
            class_sums=found.class_sums,
            gradient=found.gradient,
        )
        hessian = found.hessian
        matrix = None if hessian is None else hessian.matrix(logarithmic=self.logarithmic)
        return point, matrix

    def log_risk(self, coef: np.ndarray, pairs: np.ndarray) -> float:
        return self.at(coef, pairs).log_risk

    def weights_of(self, point: RiskPoint) -> sums.WeightsAt:
        """The weights at a point."""
        return sums.WeightsAt(self.function, point.coef, point.pairs, point.log_risk)

    def draw_for_hessian(self, like: RiskPoint) -> sums.Draw:
        """The samples that the Hessian is estimated from at a point of figures like these."""
        size = like.gradient.flat().size
        most = max(_DRAWN * size, min(_MOST_FOR_HESSIAN * size, _MOST_WORK // size**2))
        return self._draw(like, most)

    def draw(self, at: RiskPoint, most: int) -> sums.DrawnSamples:
        """About so many samples, half of them by their weight at a point."""
        draw = sums.DrawAt(self.function, at.coef, at.pairs, self._draw(at, most))
        return self.summed.total_of_parts(draw)

    def _draw(self, like: RiskPoint, most: int) -> sums.Draw:
        total = float(like.class_sums.sum())
        return sums.Draw(most, self.n_samples, like.log_risk, total)


def _units_of(survey: Survey, *, centred: bool) -> Units:
    """The units of the data of a survey."""
    square = survey.square_sum / survey.n
    centre = survey.mean if centred else np.zeros(survey.n_features)
    square = max(square - float(centre @ centre), 1e-12 * square) / survey.n_features
    return Units(math.sqrt(square) if square > 0 else 1.0, centre)


def _problem_of(form: JointProblem, draws: Sequence[sums.DrawnSamples]) -> JointProblem:
    """The problem of samples that were drawn, once or several times."""
    drawn = reduce(add, draws)
    log_weight = drawn.log_weight + np.log(drawn.factor)
    log_weight -= np.logaddexp.reduce(log_weight)
    return replace(form, X=drawn.X, y=drawn.y, log_weight=log_weight)


class SummedBounds(DualBounds):
    """Lower bounds on a risk that is known by sums; weights are points, or recipes."""

    model: SummedJointModel
    lack = _LACK

    def update(self, point: RiskPoint, slopes: np.ndarray) -> None:
        self._log_scale = math.log(float(point.class_sums.sum()))
        if self.proven or self._is_feasible(point, slopes):
            super().update(point, slopes)

    def _is_feasible(self, point: RiskPoint, slopes: np.ndarray) -> bool:
        """Whether the weights at a point are feasible, or lack little, by the gradient: around the
        mean, and without the factors that balance the classes.
        """
        if not self._has_pairs:
            return True
        total = float(point.class_sums.sum())
        weighted_sum = -self.model.unit * point.gradient.coef[:, :-1] / total
        weighted_sum[:, self._free] = 0.0  # features that weights cancel when they are tried
        between = (point.class_sums + point.class_sums.T)[self.problem.pairs] / total
        sizes = np.full_like(weighted_sum, self.model.unit)
        found = WeightedSums(weighted_sum, sizes, self.problem.radius * between)
        return self._excess(found, slopes)[1] >= -self.lack

    def weights(self) -> np.ndarray:
        return np.zeros((self.problem.n_classes, 0))

    def _bounds_of(self, mixtures: list[Mixture]) -> list[float]:
        loss, scales = self.model.function.loss, [self._log_scale] * len(mixtures)
        found = self._entropies(mixtures, scales)
        # c a_i = s_i l'(mu_i) at the minimiser, and never more than s_i
        least = [min(self._log_scale, -entropy.log_ratio) for entropy in found]
        if not self.model.logarithmic and least != scales:
            scales = least
            found = self._entropies(mixtures, scales)
        return [loss.dual_bound(e.dual_sum, scale) for e, scale in zip(found, scales, strict=True)]

    def _entropies(self, mixtures: list[Mixture], scales: list[float]) -> list[sums.EntropySums]:
        """The sums that combinations of weights prove bounds by, at these log-scales, in one
        sweep.
        """
        if not mixtures:
            return []
        loss, functions = self.model.function.loss, []
        for mixture, scale in zip(mixtures, scales, strict=True):
            recipes = ((share, self._scaled_source(c.source, c.factors)) for share, c in mixture)
            functions.append(sums.EntropyOfWeights(tuple(recipes), loss, scale))
        return list(self._total(sums.Each(tuple(functions))))

    def _total(self, function: Callable[[JointProblem], S]) -> S:
        return self.model.summed.total_of_parts(function)

    def _recipe(self, source: Source) -> sums.WeightRecipe:
        if isinstance(source, RiskPoint):
            return sums.WeightRecipe(self.model.weights_of(source))
        recipe: sums.WeightRecipe = source
        return recipe

    def _scaled_source(self, source: Source, factors: np.ndarray) -> Source:
        return self._recipe(source).scaled(factors)

    def _cut(self, source: Source, share: float) -> Source:
        return source.cut(share / self.model.n_samples)

    def _class_sums(self, source: Source) -> np.ndarray:
        return self._total(sums.ClassSumsOfWeights(source))

    def _weighted_sums(self, source: Source, factors: np.ndarray) -> WeightedSums:
        return self._total(sums.SumsOfWeights(self._scaled_source(source, factors)))

    def _pair_gram(self, source: Source, columns: np.ndarray) -> np.ndarray:
        return self._total(sums.PairGramOfWeights(source, columns))

    def _derivatives(self, source: Source) -> Direction:
        return self._total(sums.DerivativesOfWeights(source))

    def _moved(self, source: Source, theta: np.ndarray) -> Source:
        return source.moved(theta)


class _SummedMinimisation(JointMinimisation):
    """One run, of samples known by sums."""

    whole: SummedJointModel
    bounds: SummedBounds
    record: Callable[[np.ndarray, np.ndarray, float], None]
    # the last point, the last Hessian, and the decrease of the risk that was predicted last
    point: RiskPoint | None = None
    hessian: np.ndarray | None = None
    predicted = math.inf

    @property
    def n_samples(self) -> int:
        return self.whole.n_samples

    def bounds_of(self, model: JointModel) -> DualBounds:
        return SummedBounds(model, self.differences)

    def ends(self, at: RiskPoint, slopes: np.ndarray) -> bool:
        self.record(*self.model.predictor(self.coef), at.log_risk)
        self.proving = self.predicted <= _NEARLY * self.tol
        # at the minimiser pairs of classes whose weight vanishes may lack room
        self.bounds.lack = _LACK if self.predicted <= _ROUNDING else 0.0
        return super().ends(at, slopes)

    def ends_descent(self, coef: np.ndarray, point: RiskPoint) -> bool:
        self.record(*self.model.predictor(coef), point.log_risk)
        return super().ends_descent(coef, point)

    def has_interior_point(self) -> bool:
        # the blocks of a Hessian with more unknowns are not known by sums
        few = self.coef.size + len(self.model.low) <= MOST_DENSE
        return few and super().has_interior_point()

    # -- the start

    def approach(self, max_iter: int) -> None:
        """The minimiser on samples that are drawn from all, again where they were separable."""
        if self.coef.any():  # a start that is given stays
            norms = self.pairs_of_whole.norms(self.coef)
            self._go_to(self.coef, norms, self._constant())
            return
        at = constant = self._constant()
        draws: list[sums.DrawnSamples] = []
        for _ in range(_ROUNDS):
            draws.append(self.whole.draw(at, max(_FEWEST, _DRAWN * self.coef.size)))
            part = _problem_of(self.problem, draws)
            if len(np.unique(part.y)) < self.problem.n_classes:
                break
            found = minimise_joint_risk(part, self.whole.loss, tol=_START_TOL)
            coef = self.whole.from_predictor(found.coef, found.intercept)
            norms = self.pairs_of_whole.norms(coef)
            at = self._go_to(coef, norms, self.whole.function.on(part).at(coef, norms))
            if separates(at) or found.separable is False:
                break
        if not at.log_risk < constant.log_risk or at is constant:
            self._go_to(constant.coef, constant.pairs, constant)

    def descend_in_stages(self, max_iter: int) -> None:
        self.approach(max_iter)
        super().descend_in_stages(max_iter)

    def _constant(self) -> RiskPoint:
        """The best intercepts of no coefficients, and the risk there."""
        weights = self.whole.summed.class_weights
        form, K = self.problem, self.problem.n_classes
        alike = replace(
            form,
            X=np.zeros((K, form.n_features)),
            y=np.arange(K),
            log_weight=np.log(weights / weights.sum()),
        )
        coef = np.zeros((K, form.n_features + 1))
        coef[:, -1] = alike.evaluate(self.whole.loss, coef[:, :-1]).intercept
        return self.whole.function.on(alike).at(coef, np.zeros(len(self.whole.low)))

    # -- Newton's method

    def minimise(self, max_iter: int) -> None:
        """Newton steps until the run ends, or no step leads on."""
        assert self.point is not None
        at, last = self.point, math.inf
        n_still = 0
        slopes = np.zeros((len(self.model.low), len(self.differences.columns)))
        while not self.ends(at, slopes) and self.n_iter < max_iter and n_still < _STILL:
            self.n_iter += 1
            assert self.hessian is not None
            model = QuadraticModel(self.model, at, self.hessian)
            found = ModelMinimisation(model, _WIDEN**n_still * self.tol)
            self.predicted = (at.value - found.end.value) / size_of(at)
            n_still += self.predicted <= _ROUNDING
            renews = self.predicted > min(_FAR, _SLOW * last)
            moved = self._step(at, found.end, renews=renews)
            if moved is None:
                return
            at, slopes = moved, found.slopes
            last = self.predicted

    def _step(self, at: RiskPoint, end: RiskPoint, *, renews: bool) -> RiskPoint | None:
        """Go to the minimiser of a model, or to where the risk decreases on the way there; None
        where it does not.
        """
        new = self._go_to(end.coef, end.pairs, end if renews else None)
        length = 1.0
        for _ in range(_HALVINGS):
            decrease = (at.value - new.value) / size_of(at)
            if decrease >= _SUFFICIENT * length * self.predicted - _SPARE * self.tol:
                return new
            length *= 0.5
            coef = at.coef + length * (end.coef - at.coef)
            new = self._go_to(coef, at.pairs + length * (end.pairs - at.pairs), at)
        self.coef, self.point = at.coef, at
        return None

    def _go_to(self, coef: np.ndarray, pairs: np.ndarray, like: RiskPoint | None) -> RiskPoint:
        """The point at coefficients and norms, in one sweep, with a new Hessian where figures like
        those there are given.
        """
        draw = None
        if like is not None and self.has_interior_point():
            draw = self.whole.draw_for_hessian(like)
        self.coef = coef
        self.point, hessian = self.whole.with_hessian(coef, pairs, draw)
        self.hessian = self.hessian if hessian is None else hessian
        return self.point

    def recedes(self) -> bool:
        return False  # that is decided from all samples in memory only

    def solution(self) -> JointSolution:
        """The predictor, the figures there, and the bound."""
        at = self.whole.at(self.coef, self.pairs_of_whole.norms(self.coef))
        self.keep(at.log_risk)
        coef = self.best[1]
        if coef is not self.coef:
            at = self.whole.at(coef, self.pairs_of_whole.norms(coef))
        W, b = self.whole.predictor(coef)
        bounds = self.bounds
        separable: bool | None = True if at.smallest_margin > 0 else None
        if separable is None and bounds.proven:
            separable = False
        log_risk, bound = at.log_risk, bounds.bound
        gap = risk_gap(bound, log_risk)
        self.report(W, b, log_risk, last=True)
        return JointSolution(W, b, bounds.weights(), log_risk, bound, gap, separable, self.n_iter)
