r"""The sums over samples that the minimiser of the joint risk, and its certificate, consist of.

Each function here takes the problem of some of the samples and returns what adds up over all: the
risk with its gradient, its Hessian from samples that are drawn, such samples, and sums of
weights. Sums relative to the risk have a common factor 1 / L, as in `_risk_sums`; the logistic risk
is a sum itself.

No weight is kept: a recipe (`WeightRecipe`) computes them anew from coefficients that do not
change.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._joint_flows import WeightedSums, weighted_sums
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import entropy_of_rivals, robust_margin
from sklearn_robust.losses import SummableLoss
from sklearn_robust.norms import Norm
from sklearn_robust.solvers._joint_model import (
    Direction,
    JointModel,
    RiskPoint,
    RiskWeights,
    Units,
)


@dataclass(frozen=True)
class RiskFunction:
    """The risk of any samples, in the units of all of them."""

    loss: SummableLoss
    units: Units

    def on(self, problem: JointProblem) -> JointModel:
        """The risk of the samples of a problem."""
        return JointModel(problem, self.loss, units=self.units)


@dataclass(frozen=True)
class Draw:
    """Which samples are drawn: about `most` of all, the same at every call, half of them by their
    weight at a point, half evenly; so no factor exceeds twice that of an even sample.

    `n` is the number of all samples; `log_risk` and `total`, the sum of their weights, may be
    estimates.
    """

    most: int
    n: int
    log_risk: float
    total: float

    def rows(self, model: JointModel, at: RiskWeights) -> tuple[np.ndarray, np.ndarray]:
        """Samples that are drawn from some, and the inverse of the probability of each."""
        share = math.exp(min(at.log_risk - self.log_risk, 0.0)) if model.logarithmic else 1.0
        weight = share * at.of_sample
        chance = np.minimum(0.5 * self.most * (weight / self.total + 1 / self.n), 1.0)
        # another draw for every part
        rows: Any = model.problem.rows  # arrays
        seed = zlib.crc32(np.ascontiguousarray(rows.take(np.arange(1))).tobytes())
        drawn = np.flatnonzero(np.random.default_rng(seed).random(len(chance)) < chance)
        return drawn, 1 / chance[drawn]


@dataclass(frozen=True)
class HessianSums:
    """An estimate of the Hessian of the risk from samples that are drawn.

    Attributes
    ----------
    curvature : ndarray of shape (N, N)
        That of the weighted losses; see `JointModel.hessian_estimate`.
    gradient : ndarray of shape (N,)
        That of the same samples.
    total : float
        Their weight.
    """

    curvature: np.ndarray
    gradient: np.ndarray
    total: float

    @classmethod
    def of(cls, model: JointModel, at: RiskPoint, draw: Draw) -> HessianSums:
        """That of some samples."""
        problem = model.problem
        drawn, factor = draw.rows(model, at)
        every = np.arange(problem.n_features)
        curvature = model.curvature_estimate(at, every, drawn, factor)
        assert at.weights is not None
        part = replace(
            problem, X=problem.X[drawn], y=problem.y[drawn], log_weight=problem.log_weight[drawn]
        )
        weights = factor * at.weights[:, drawn]
        gradient = JointModel(part, model.loss, units=model.units).derivatives(weights).flat()
        return cls(curvature, gradient, float(weights.sum()))

    def mixed(self, mine: float, other: HessianSums, others: float) -> HessianSums:
        """The sum, each times a factor."""
        curvature = mine * self.curvature
        curvature += other.curvature if others == 1 else others * other.curvature
        return HessianSums(
            curvature,
            mine * self.gradient + others * other.gradient,
            mine * self.total + others * other.total,
        )

    def matrix(self, *, logarithmic: bool) -> np.ndarray:
        """The Hessian of the risk, or of its logarithm, which is that of the risk of the drawn
        samples, so that it is not indefinite.
        """
        if not logarithmic or not self.total > 0:
            return self.curvature
        return self.curvature - np.outer(self.gradient, self.gradient / self.total)


@dataclass(frozen=True)
class RiskSums:
    """The risk at a point; see `RiskPoint`.

    Attributes
    ----------
    log_risk, smallest_margin : float
    gradient : Direction
    class_sums : ndarray of shape (K, K)
    relative : bool
        Whether gradient, class sums and Hessian are relative to the risk.
    hessian : HessianSums or None
    """

    log_risk: float
    smallest_margin: float
    gradient: Direction
    class_sums: np.ndarray
    relative: bool
    hessian: HessianSums | None

    def __add__(self, other: RiskSums) -> RiskSums:
        log_risk = float(np.logaddexp(self.log_risk, other.log_risk))
        mine = others = 1.0
        if self.relative:
            mine, others = math.exp(self.log_risk - log_risk), math.exp(other.log_risk - log_risk)
        hessian = None
        if self.hessian is not None and other.hessian is not None:
            hessian = self.hessian.mixed(mine, other.hessian, others)
        return RiskSums(
            log_risk,
            min(self.smallest_margin, other.smallest_margin),
            self.gradient * mine + other.gradient * others,
            mine * self.class_sums + others * other.class_sums,
            self.relative,
            hessian,
        )


@dataclass(frozen=True)
class RiskAt:
    """The function of samples that computes `RiskSums` at coefficients (K, d + 1) and norms, with
    the Hessian from samples that are drawn where that is asked for.
    """

    function: RiskFunction
    coef: np.ndarray
    pairs: np.ndarray
    draw: Draw | None = None

    def __call__(self, problem: JointProblem) -> RiskSums:
        model = self.function.on(problem)
        at = model.at(self.coef, self.pairs, hold=self.draw is not None)
        hessian = None if self.draw is None else HessianSums.of(model, at, self.draw)
        return RiskSums(
            at.log_risk, at.smallest_margin, at.gradient, at.class_sums, model.logarithmic, hessian
        )


@dataclass(frozen=True)
class WeightsAt:
    """The weights of the risk at coefficients (K, d + 1) and norms (P,), where all samples together
    have this log-risk.
    """

    function: RiskFunction
    coef: np.ndarray
    pairs: np.ndarray
    log_risk: float

    def of(self, model: JointModel) -> RiskWeights:
        """Those of some samples."""
        found = model.weights_at(self.coef, self.pairs)
        if model.logarithmic and found.weights is not None:
            share = math.exp(found.log_risk - self.log_risk)
            found.weights *= share
            found = replace(
                found, of_sample=share * found.of_sample, curvature=share * found.curvature
            )
        return found


@dataclass(frozen=True)
class DrawnSamples:
    """Some of the samples, at random, and the inverse of the probability of each.

    Attributes
    ----------
    X : ndarray or scipy.sparse array of shape (m, d)
    y, log_weight, factor : ndarray of shape (m,)
    """

    X: np.ndarray | sparse.csr_array
    y: np.ndarray
    log_weight: np.ndarray
    factor: np.ndarray

    def __add__(self, other: DrawnSamples) -> DrawnSamples:
        stack = sparse.vstack if sparse.issparse(self.X) else np.concatenate
        return DrawnSamples(
            stack([self.X, other.X]),
            np.concatenate([self.y, other.y]),
            np.concatenate([self.log_weight, other.log_weight]),
            np.concatenate([self.factor, other.factor]),
        )


@dataclass(frozen=True)
class DrawAt:
    """The function of samples that draws some of them by their weight at coefficients (K, d + 1)
    and norms (P,).
    """

    function: RiskFunction
    coef: np.ndarray
    pairs: np.ndarray
    draw: Draw

    def __call__(self, problem: JointProblem) -> DrawnSamples:
        model = self.function.on(problem)
        drawn, factor = self.draw.rows(model, model.weights_at(self.coef, self.pairs))
        return DrawnSamples(problem.X[drawn], problem.y[drawn], problem.log_weight[drawn], factor)


@dataclass(frozen=True)
class Figures:
    """The log-risk of a predictor, and its robust margin in a norm less its rounding."""

    log_risk: float
    margin: float

    def __add__(self, other: Figures) -> Figures:
        log_risk = float(np.logaddexp(self.log_risk, other.log_risk))
        return Figures(log_risk, min(self.margin, other.margin))


@dataclass(frozen=True)
class FiguresAt:
    """The function of samples that computes `Figures` of a predictor (K, d), (K,)."""

    loss: SummableLoss
    norm: Norm
    coef: np.ndarray
    intercept: np.ndarray

    def __call__(self, problem: JointProblem) -> Figures:
        now = problem.evaluate(self.loss, self.coef, self.intercept)
        margin = robust_margin(problem, self.norm, self.coef, self.intercept)
        return Figures(float(now.log_risk), margin)


# -- sums of weights


@dataclass(frozen=True)
class _Scaled:
    """Weights times a factor for each pair of the classes of a sample and a rival, (K, K)."""

    factors: np.ndarray

    def change(self, model: JointModel, weights: np.ndarray) -> None:
        """Change weights (K, m) in their place."""
        weights *= self.factors[model.problem.y].T


@dataclass(frozen=True)
class _Moved:
    """Weights after `JointModel.move_weights`."""

    theta: np.ndarray

    def change(self, model: JointModel, weights: np.ndarray) -> None:
        """Change weights (K, m) in their place."""
        model.move_weights(weights, self.theta)


@dataclass(frozen=True)
class _Cut:
    """Weights with zero for those below the least."""

    least: float

    def change(self, model: JointModel, weights: np.ndarray) -> None:
        """Change weights (K, m) in their place."""
        weights[weights < self.least] = 0.0


@dataclass(frozen=True)
class WeightRecipe:
    """Weights of the samples and their rivals: those of the risk at a point, and changes of them.

    Attributes
    ----------
    at : WeightsAt
    changes : tuple
    """

    at: WeightsAt
    changes: tuple[_Scaled | _Moved | _Cut, ...] = ()

    def scaled(self, factors: np.ndarray) -> WeightRecipe:
        """The same weights, times a factor for each pair of classes."""
        return replace(self, changes=(*self.changes, _Scaled(factors)))

    def moved(self, theta: np.ndarray) -> WeightRecipe:
        """The weights after `JointModel.move_weights`."""
        return replace(self, changes=(*self.changes, _Moved(theta)))

    def cut(self, least: float) -> WeightRecipe:
        """The weights with zero for those below the least."""
        return replace(self, changes=(*self.changes, _Cut(least)))

    def weights(self, problem: JointProblem) -> np.ndarray:
        """Those of some samples, (K, m)."""
        model = self.at.function.on(problem)
        weights = self.at.of(model).weights
        assert weights is not None
        for one in self.changes:
            one.change(model, weights)
        return weights


@dataclass(frozen=True)
class SumsOfWeights:
    """The function of samples that computes the `WeightedSums` of a recipe."""

    recipe: WeightRecipe

    def __call__(self, problem: JointProblem) -> WeightedSums:
        return weighted_sums(problem, self.recipe.weights(problem))


@dataclass(frozen=True)
class ClassSumsOfWeights:
    """The function of samples that computes the class sums (K, K) of a recipe."""

    recipe: WeightRecipe

    def __call__(self, problem: JointProblem) -> np.ndarray:
        sums: np.ndarray = problem.class_sums(self.recipe.weights(problem))
        return sums


@dataclass(frozen=True)
class DerivativesOfWeights:
    """The function of samples that computes the derivatives that the weights of a recipe make."""

    recipe: WeightRecipe

    def __call__(self, problem: JointProblem) -> Direction:
        model = self.recipe.at.function.on(problem)
        return model.derivatives(self.recipe.weights(problem))


@dataclass(frozen=True)
class PairGramOfWeights:
    """The function of samples that computes `JointModel.pair_gram` of a recipe."""

    recipe: WeightRecipe
    columns: np.ndarray

    def __call__(self, problem: JointProblem) -> np.ndarray:
        model = self.recipe.at.function.on(problem)
        return model.pair_gram(self.recipe.weights(problem), self.columns)


@dataclass(frozen=True)
class EntropySums:
    """The sums of the bound that weights prove.

    Attributes
    ----------
    dual_sum : float
        That of the loss, at a scale, with the entropy of the rivals.
    log_ratio : float
        The largest log(a_i / s_i).
    """

    dual_sum: float
    log_ratio: float

    def __add__(self, other: EntropySums) -> EntropySums:
        return EntropySums(self.dual_sum + other.dual_sum, max(self.log_ratio, other.log_ratio))


@dataclass(frozen=True)
class EntropyOfWeights:
    """The function of samples that computes `EntropySums` of a combination of recipes."""

    mixture: tuple[tuple[float, WeightRecipe], ...]
    loss: SummableLoss
    log_scale: float

    def __call__(self, problem: JointProblem) -> EntropySums:
        weights = sum(share * recipe.weights(problem) for share, recipe in self.mixture)
        of_sample, entropy = entropy_of_rivals(weights)
        used = of_sample > 0
        ratio = np.log(of_sample[used]) - problem.log_weight[used]
        dual_sum = self.loss.dual_sum(of_sample, problem.log_weight, self.log_scale)
        return EntropySums(dual_sum + entropy, float(ratio.max(initial=-math.inf)))


@dataclass(frozen=True)
class Each:
    """The function of samples that computes the sums of several functions of them, in one sweep: an
    array (r,) of records, which adds up entry by entry.
    """

    functions: tuple[Callable[[JointProblem], Any], ...]

    def __call__(self, problem: JointProblem) -> np.ndarray:
        found = np.empty(len(self.functions), dtype=object)
        for i, function in enumerate(self.functions):
            found[i] = function(problem)
        return found
