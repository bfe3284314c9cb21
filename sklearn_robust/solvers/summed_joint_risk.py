r"""The minimiser of the joint risk of several classes against an l_q ball, from sums over the
samples.

The method is that of `_joint_risk`; each evaluation of the risk, each product with its Hessian and
each sum of weights is one sweep over the samples (`_joint_sums`). No array over the samples
outlives a part of a block. What differs is where sweeps are dear:

- The start is the minimiser on a few samples, which are drawn from all of them.
- The Hessian is estimated from samples drawn by their weight; conjugate gradients correct it.
- Weights are tried for the lower bound where the gradient alone says that they are nearly feasible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from sklearn_robust._joint_flows import WeightedSums
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import SummableLoss
from sklearn_robust.norms import Norm
from sklearn_robust.rows import Survey
from sklearn_robust.rows.reduction import S
from sklearn_robust.solvers import _joint_sums as sums
from sklearn_robust.solvers._joint_bounds import DualBounds, Mixture, Source
from sklearn_robust.solvers._joint_model import (
    Direction,
    JointModel,
    RiskPoint,
    RiskWeights,
    Units,
)
from sklearn_robust.solvers._joint_newton import MOST_DENSE
from sklearn_robust.solvers._joint_risk import JointMinimisation, minimise_joint_risk
from sklearn_robust.solvers._joint_run import JointSolution, relative_gap
from sklearn_robust.solvers.solution import Monitor, Monitoring
from sklearn_robust.summed import SummedJointProblem

# samples for each of the K (d + 1) unknowns that the Hessian is estimated from, and that the start
# is fitted to
_DRAWN = 32
_FEWEST = 1000  # samples of the start at least
_START_TOL = 1e-2  # certified relative gap of the start, on its samples
_NEARLY = 0.02  # lack of room, relative to a capacity, up to which weights are tried for the bound


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
        found = self.summed.total_of_parts(sums.RiskAt(self.function, coef, pairs))
        nothing = np.empty(0)
        return RiskPoint(
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

    def log_risk(self, coef: np.ndarray, pairs: np.ndarray) -> float:
        return self.at(coef, pairs).log_risk

    def weights_of(self, point: RiskPoint) -> sums.WeightsAt:
        """The weights at a point."""
        return sums.WeightsAt(self.function, point.coef, point.pairs, point.log_risk)

    def curvature_product(self, at: RiskWeights, step: Direction) -> Direction:
        assert isinstance(at, RiskPoint)
        along = sums.CurvatureAlong(self.weights_of(at), step)
        return self.summed.total_of_parts(along)

    def hessian_estimate(self, at: RiskPoint, features: np.ndarray) -> np.ndarray:
        drawn = self.draw(at, _DRAWN * at.gradient.coef.size)
        model = self.function.on(_problem_of(self.problem, drawn))
        every = np.arange(len(drawn.y))
        weights = self.weights_of(at).of(model)
        matrix = model.curvature_estimate(weights, features, every, drawn.factor)
        if self.logarithmic and len(every) == self.n_samples:
            self.remove_square(matrix, at, features)
        return matrix

    def draw(self, at: RiskPoint, most: int) -> sums.DrawnSamples:
        """About so many samples, half of them by their weight at a point."""
        total = float(at.class_sums.sum())
        draw = sums.Draw(self.weights_of(at), most, self.n_samples, total)
        return self.summed.total_of_parts(draw)


def _units_of(survey: Survey, *, centred: bool) -> Units:
    """The units of the data of a survey."""
    square = survey.square_sum / survey.n
    centre = survey.mean if centred else np.zeros(survey.n_features)
    square = max(square - float(centre @ centre), 1e-12 * square) / survey.n_features
    return Units(math.sqrt(square) if square > 0 else 1.0, centre)


def _problem_of(form: JointProblem, drawn: sums.DrawnSamples) -> JointProblem:
    """The problem of samples that were drawn."""
    return replace(form, X=drawn.X, y=drawn.y, log_weight=drawn.log_weight)


class SummedBounds(DualBounds):
    """Lower bounds on a risk that is known by sums; weights are points, or recipes."""

    model: SummedJointModel

    def update(self, point: RiskPoint, slopes: np.ndarray) -> None:
        self._log_scale = math.log(float(point.class_sums.sum()))
        if self.proven or self._is_near(point, slopes):
            super().update(point, slopes)

    def _is_near(self, point: RiskPoint, slopes: np.ndarray) -> bool:
        """Whether the weights at a point are nearly feasible, by the gradient: around the mean, and
        without the factors that balance the classes.
        """
        if not self._has_pairs:
            return True
        total = float(point.class_sums.sum())
        weighted_sum = -self.model.unit * point.gradient.coef[:, :-1] / total
        weighted_sum[:, self._free] = 0.0  # features that weights cancel when they are tried
        between = (point.class_sums + point.class_sums.T)[self.problem.pairs] / total
        sizes = np.full_like(weighted_sum, self.model.unit)
        found = WeightedSums(weighted_sum, sizes, self.problem.radius * between)
        return self._excess(found, slopes)[1] >= -_NEARLY

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
    precision = 0.1  # a product is a sweep
    starts_centred = True  # at the minimiser of few samples
    record: Callable[[np.ndarray, np.ndarray, float], None]

    @property
    def n_samples(self) -> int:
        return self.whole.n_samples

    def bounds_of(self, model: JointModel) -> DualBounds:
        return SummedBounds(model, self.differences)

    def ends(self, at: RiskPoint, slopes: np.ndarray) -> bool:
        self.record(*self.model.predictor(self.coef), at.log_risk)
        return super().ends(at, slopes)

    def ends_descent(self, coef: np.ndarray, point: RiskPoint) -> bool:
        self.record(*self.model.predictor(coef), point.log_risk)
        return super().ends_descent(coef, point)

    def has_interior_point(self) -> bool:
        # the blocks of a Hessian with more unknowns are not known by sums
        few = self.coef.size + len(self.model.low) <= MOST_DENSE
        return few and super().has_interior_point()

    def approach(self, max_iter: int) -> None:
        """The minimiser on samples that are drawn from all; that of L-BFGS on all where it is none
        for all. A start that is given stays.
        """
        if self.coef.any():
            return
        self.coef[:, -1] = self._constant_intercept()
        at = self.whole.at(self.coef, np.zeros(len(self.whole.low)))
        drawn = self.whole.draw(at, max(_FEWEST, _DRAWN * self.coef.size))
        if len(np.unique(drawn.y)) == self.problem.n_classes:
            log_weight = drawn.log_weight + np.log(drawn.factor)
            log_weight -= np.logaddexp.reduce(log_weight)
            part = replace(_problem_of(self.problem, drawn), log_weight=log_weight)
            found = minimise_joint_risk(part, self.whole.loss, tol=_START_TOL)
            coef = self.whole.from_predictor(found.coef, found.intercept)
            # samples that are separable by themselves lead far off
            log_risk = self.log_risk(coef)
            if log_risk < at.log_risk:
                self.coef = coef
                self.record(found.coef, found.intercept, log_risk)
                return
        super().approach(max_iter)

    def descend_in_stages(self, max_iter: int) -> None:
        self.approach(max_iter)
        super().descend_in_stages(max_iter)

    def _constant_intercept(self) -> np.ndarray:
        """The best intercepts (K,) of no coefficients."""
        weights = self.whole.summed.class_weights
        form, K = self.problem, self.problem.n_classes
        alike = replace(
            form,
            X=np.zeros((K, form.n_features)),
            y=np.arange(K),
            log_weight=np.log(weights / weights.sum()),
        )
        intercept: np.ndarray = alike.evaluate(
            self.whole.loss, np.zeros((K, form.n_features))
        ).intercept
        return intercept

    def recedes(self) -> bool:
        return False  # that is decided from all samples in memory only

    def solution(self) -> JointSolution:
        """The predictor, the figures there, and the bound."""
        self.keep(self.log_risk(self.coef))
        log_risk, coef = self.best
        at = self.whole.at(coef, self.pairs_of_whole.norms(coef))
        W, b = self.whole.predictor(coef)
        bounds = self.bounds
        separable: bool | None = True if at.smallest_margin > 0 else None
        if separable is None and bounds.proven:
            separable = False
        log_risk, bound = at.log_risk, bounds.bound
        gap = relative_gap(log_risk, bound)
        self.report(W, b, log_risk, last=True)
        return JointSolution(W, b, bounds.weights(), log_risk, bound, gap, separable, self.n_iter)
