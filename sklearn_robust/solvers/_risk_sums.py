r"""The sums over samples that Newton's method on the log-risk, and its certificate, consist of.

A sum relative to the risk has a common factor 1 / L: with the log-risks :math:`\log L_1, \log L_2`
of two blocks, :math:`L = L_1 + L_2` and

.. math:: \sum_i a_i x_i = \tfrac{L_1}{L} \Big(\sum_{i \in 1} a_i x_i\Big) + \tfrac{L_2}{L}
   \Big(\sum_{i \in 2} a_i x_i\Big),

a the weights relative to the risk of the block, and to L on the left. So do curvatures, and
:math:`a_i^2 / c_i`. The weights themselves are never kept: each sum computes them anew from
predictors that do not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sklearn_robust.losses import SummableLoss
from sklearn_robust.solvers import _newton_rules as rules
from sklearn_robust.solvers._risk_model import CurvatureSums, Gradient
from sklearn_robust.summed import Predictor, Samples


@dataclass(frozen=True)
class LossSums:
    r"""The risk of a predictor, its gradient, and its curvature where that was asked for.

    Attributes
    ----------
    log_risk : float
    gradient : Gradient
        The sums of a, y a and Z^T a.
    curvature : CurvatureSums or None
    least_margin : float
    """

    log_risk: float
    gradient: Gradient
    curvature: CurvatureSums | None
    least_margin: float

    def __add__(self, other: LossSums) -> LossSums:
        log_risk = float(np.logaddexp(self.log_risk, other.log_risk))
        mine, others = math.exp(self.log_risk - log_risk), math.exp(other.log_risk - log_risk)
        curvature = None
        if self.curvature is not None and other.curvature is not None:
            curvature = self.curvature.mixed(mine, other.curvature, others)
        return LossSums(
            log_risk,
            self.gradient.mixed(mine, other.gradient, others),
            curvature,
            min(self.least_margin, other.least_margin),
        )


@dataclass(frozen=True)
class Moments:
    """Which Hessian `LossSums` are to have: on some columns, of rows less a centre (f,).

    `exact` asks for double precision, `cautious` for curvatures that do not vanish.
    """

    columns: np.ndarray | slice
    centre: np.ndarray
    exact: bool
    cautious: bool


def loss_sums(
    loss: SummableLoss, samples: Samples, margins: np.ndarray, moments: Moments | None
) -> LossSums:
    """The sums of some samples with these margins (m,)."""
    y = samples.y
    log_risk, a = loss.log_risk_and_weights(margins, samples.log_weight)
    curvature = None
    if moments is not None:
        c = curvatures(loss, margins, a, cautious=moments.cautious)
        columns, centre = moments.columns, moments.centre
        curvature = CurvatureSums.of(
            samples.rows, columns, centre, y, 1.0, c, a, exact=moments.exact
        )
    weighted_sum = samples.rows.weighted_sum((y * a)[None])[0]
    gradient = Gradient(weighted_sum, float(a.sum()), float(y @ a))
    return LossSums(float(log_risk), gradient, curvature, float(margins.min()))


def curvatures(
    loss: SummableLoss, margins: np.ndarray, a: np.ndarray, *, cautious: bool
) -> np.ndarray:
    """The curvatures c (m,) at weights a; raised where a method is cautious, in all blocks."""
    c = loss.curvature(margins, a)
    return rules.raised(c, margins, a) if cautious else c


@dataclass(frozen=True)
class LossAt:
    """The function of samples that computes `LossSums` at a predictor."""

    loss: SummableLoss
    at: Predictor
    moments: Moments | None

    def __call__(self, samples: Samples) -> LossSums:
        return loss_sums(self.loss, samples, samples.margins([self.at])[0], self.moments)


@dataclass(frozen=True)
class StepSums:
    """Figures at several shares of a step.

    Attributes
    ----------
    log_risks, least_margins : ndarray of shape (t,)
    largest_margin, largest_change : float
        The largest margin in size at the start, and the largest change on the whole step.
    """

    log_risks: np.ndarray
    least_margins: np.ndarray
    largest_margin: float
    largest_change: float

    def __add__(self, other: StepSums) -> StepSums:
        return StepSums(
            np.logaddexp(self.log_risks, other.log_risks),
            np.minimum(self.least_margins, other.least_margins),
            max(self.largest_margin, other.largest_margin),
            max(self.largest_change, other.largest_change),
        )


@dataclass(frozen=True)
class StepAlong:
    """The function of samples that computes `StepSums` from a start to a target.

    `penalties` (t,) are those of the predictors at the shares (t,).
    """

    loss: SummableLoss
    start: Predictor
    target: Predictor
    shares: np.ndarray
    penalties: np.ndarray

    def __call__(self, samples: Samples) -> StepSums:
        return self.along(samples, samples.margins([self.start, self.target]))

    def along(self, samples: Samples, ends: np.ndarray) -> StepSums:
        """The sums, from the margins (2, m) at both ends."""
        start, target = ends + np.array([[self.start.penalty], [self.target.penalty]])
        log_risks, least = [], []
        for share, penalty in zip(self.shares, self.penalties, strict=True):
            margins = start + share * (target - start) - penalty
            log_risks.append(self.loss.log_risk_and_weights(margins, samples.log_weight)[0])
            least.append(margins.min())
        return StepSums(
            np.array(log_risks),
            np.array(least),
            float(np.abs(ends[0]).max()),
            float(np.abs(ends[1] - ends[0]).max()),
        )


@dataclass(frozen=True)
class ModelWeights:
    r"""Weights of the samples as a recipe: those of a quadratic model of the log-risk.

    From the weights a of a predictor, the step of the model to a target, on which the margins
    change by :math:`\delta`, leads to :math:`\max(a - C \delta, 0)`, :math:`C = \operatorname{diag}
    (c) - \theta a a^T`. They are scaled by a factor in each class, and further steps go on from
    there, by the same C.

    Attributes
    ----------
    loss : SummableLoss
    start : Predictor
    log_risk : float
        At the start.
    theta : float
    cautious : bool
        Whether the curvatures c do not vanish.
    targets : tuple of Predictor
    slopes : tuple of float
        a . delta of each step.
    factors : tuple of ndarray of shape (2,)
        After each step, on the weights of the classes -1 and +1.
    """

    loss: SummableLoss
    start: Predictor
    log_risk: float
    theta: float
    cautious: bool
    targets: tuple[Predictor, ...] = ()
    slopes: tuple[float, ...] = ()
    factors: tuple[np.ndarray, ...] = ()

    def stepped(self, target: Predictor, slope: float) -> ModelWeights:
        """The weights after one more step."""
        return replace(
            self,
            targets=(*self.targets, target),
            slopes=(*self.slopes, slope),
            factors=(*self.factors, np.ones(2)),
        )

    def scaled(self, factors: np.ndarray) -> ModelWeights:
        """The same weights, times a factor in each class."""
        return replace(self, factors=(*self.factors[:-1], self.factors[-1] * factors))

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """The start and the targets."""
        return (self.start, *self.targets)

    def weights(self, samples: Samples, margins: np.ndarray) -> np.ndarray:
        """The weights (m,) of samples whose margins at the predictors are (k, m)."""
        log_risk, a = self.loss.log_risk_and_weights(margins[0], samples.log_weight)
        a = a * math.exp(log_risk - self.log_risk)
        c = curvatures(self.loss, margins[0], a, cautious=self.cautious)
        weights = a
        for k, (slope, factors) in enumerate(zip(self.slopes, self.factors, strict=True)):
            change = margins[k + 1] - margins[k]
            weights = np.maximum(weights - c * change + self.theta * slope * a, 0)
            weights = weights * np.where(samples.y > 0, factors[1], factors[0])
        return weights


@dataclass(frozen=True)
class WeightSums:
    """Sums of weights over each class.

    Attributes
    ----------
    total : ndarray of shape (2,)
        The sums of the weights of the classes -1 and +1.
    weighted_sum : ndarray of shape (2, d)
        Z^T a of each class.
    sizes : ndarray of shape (2, d)
        a |X| of each class, to which the rounding of its weighted sum is relative.
    dual_sum : float
        That of the loss, at a scale.
    log_ratio : ndarray of shape (2,)
        The largest log(a_i / s_i) of each class; -inf where it has no weight.
    """

    total: np.ndarray
    weighted_sum: np.ndarray
    sizes: np.ndarray
    dual_sum: float
    log_ratio: np.ndarray

    def __add__(self, other: WeightSums) -> WeightSums:
        return WeightSums(
            self.total + other.total,
            self.weighted_sum + other.weighted_sum,
            self.sizes + other.sizes,
            self.dual_sum + other.dual_sum,
            np.maximum(self.log_ratio, other.log_ratio),
        )


@dataclass(frozen=True)
class SumsOfWeights:
    """The function of samples that computes `WeightSums` of a model's weights."""

    model: ModelWeights
    log_scale: float

    def __call__(self, samples: Samples) -> WeightSums:
        return self.of(samples, samples.margins(self.model.predictors))

    def of(self, samples: Samples, margins: np.ndarray) -> WeightSums:
        """The sums, from the margins (k, m) at the predictors of the model."""
        weights = self.model.weights(samples, margins)
        of_class = weights * np.stack([samples.y < 0, samples.y > 0])
        used = weights > 0
        ratio = np.log(weights, out=np.full_like(weights, -math.inf), where=used)
        ratio -= samples.log_weight
        return WeightSums(
            of_class.sum(axis=1),
            samples.rows.weighted_sum(samples.y * of_class),
            samples.rows.sum_sizes(of_class),
            self.model.loss.dual_sum(weights, samples.log_weight, self.log_scale),
            np.where(of_class > 0, ratio, -math.inf).max(axis=1),
        )


@dataclass(frozen=True)
class TrialSums:
    """What a trial step brings: `loss` and `weights` are those at its target."""

    step: StepSums
    loss: LossSums
    weights: WeightSums | None

    def __add__(self, other: TrialSums) -> TrialSums:
        weights = None
        if self.weights is not None and other.weights is not None:
            weights = self.weights + other.weights
        return TrialSums(self.step + other.step, self.loss + other.loss, weights)


@dataclass(frozen=True)
class Trial:
    """The function of samples that computes `TrialSums`, of one product with X for all."""

    step: StepAlong
    moments: Moments | None
    weights: SumsOfWeights | None

    def __call__(self, samples: Samples) -> TrialSums:
        ends = samples.margins([self.step.start, self.step.target])
        return TrialSums(
            self.step.along(samples, ends),
            loss_sums(self.step.loss, samples, ends[1], self.moments),
            None if self.weights is None else self.weights.of(samples, ends),
        )


@dataclass(frozen=True)
class ProofSums:
    """The figures of a predictor, and the sum of the bound that weights prove."""

    log_risk: float
    least_margin: float
    dual_sum: float

    def __add__(self, other: ProofSums) -> ProofSums:
        return ProofSums(
            float(np.logaddexp(self.log_risk, other.log_risk)),
            min(self.least_margin, other.least_margin),
            self.dual_sum + other.dual_sum,
        )


@dataclass(frozen=True)
class Proof:
    """The function of samples that computes `ProofSums` of a predictor and a model's weights."""

    at: Predictor
    model: ModelWeights
    log_scale: float

    def __call__(self, samples: Samples) -> ProofSums:
        margins = samples.margins([self.at, *self.model.predictors])
        loss = self.model.loss
        log_risk, _ = loss.log_risk_and_weights(margins[0], samples.log_weight)
        weights = self.model.weights(samples, margins[1:])
        dual_sum = loss.dual_sum(weights, samples.log_weight, self.log_scale)
        return ProofSums(float(log_risk), float(margins[0].min()), dual_sum)
