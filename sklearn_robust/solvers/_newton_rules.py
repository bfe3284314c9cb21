"""The rules that both Newton methods share: the loss's curvatures, damping, the line search."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from sklearn_robust.losses import MarginLoss, log_odds_slope
from sklearn_robust.problems import RobustProblem

# Levenberg's damping, as a share of the Hessian's diagonal
LEAST_DAMPING = 1e-10  # the first damping, and the least to which accepted steps lower it
MOST_DAMPING = 1e4  # the method ends above it
_DAMPING_AFTER_FAILURE = 1e-6  # least damping after a failed step
_DAMPING_RAISE = 100  # factor on the damping after a failed step
_DAMPING_CUT = 10  # divisor of the damping after an accepted step

# Decreases of the log-risk that a model predicts, absolute
LONG_STEP_DECREASE = 0.1  # above it the line search tries longer steps than the model's
CLOSE_DECREASE = 0.03  # up to it the model's weights may certify the risk, and exact faces pay
# below it the rounding of the log-risk hides the decrease: the line search tolerates that rounding
_HIDDEN_DECREASE = 1e-8
ROUNDING_DECREASE = 1e-14  # up to it the decrease is rounding alone, and the method ends

# The line search along the model's step
_SUFFICIENT_DECREASE = 1e-3  # share of the predicted decrease that a step must bring
_LEAST_STEP = 1e-6  # relative to the first step; the search fails below it
_MOST_STEP = 1024.0  # relative to the first step; the search doubles the step up to it
# change of a margin in the first step, relative to 1 + the largest margin
_MOST_MARGIN_CHANGE = 1e3

# Curvature over total weight, up to which a step would be too long: a larger curvature replaces it
FLAT_CURVATURE = 1e-6

# |label-weighted sum| over total weight, above which the intercept is moved by itself
LOPSIDED = 0.5
_LEAST_CURVATURE = 1e-6  # curvature over the weight that an estimated gap is divided by at least
_TINY = float(np.finfo(float).tiny)
# Faces to try in a model
FACES = 100  # near the minimiser of the risk
FACES_FAR = 4  # far from it
MAX_REFINEMENTS = 3  # solves that remove a Hessian's rounding from the weights


def intercept_at_zero(problem: RobustProblem, loss: MarginLoss) -> float | None:
    """The best intercept at w = 0: slope times it is the log-odds of the classes; None where the
    loss has no such slope.
    """
    slope = log_odds_slope(loss)
    if slope is None:
        return None
    log_weight, positive = problem.log_weight[0], problem.y[0] > 0
    alike = not log_weight.strides[0]
    up = float(positive.mean()) if alike else float(np.exp(log_weight) @ positive)
    return math.log(up / (1 - up)) / slope if problem.fit_intercept and 0 < up < 1 else 0.0


@dataclass(frozen=True)
class MarginHessian:
    """The Hessian of the log-risk by the margins, C = diag(c) - theta a a^T.

    Attributes
    ----------
    c, a : ndarray of shape (n,)
        The curvatures of the loss, and the weights.
    theta : float
        At most 1, its value for the exponential loss: the largest that leaves C positive
        semidefinite.
    """

    c: np.ndarray
    a: np.ndarray
    theta: float

    def apply(self, change: np.ndarray) -> np.ndarray:
        """C times a change of the margins."""
        moved: np.ndarray = self.c * change
        moved -= (self.theta * float(self.a @ change)) * self.a
        return moved


def largest_theta(c: np.ndarray, a: np.ndarray) -> float:
    """The theta of C = diag(c) - theta a a^T."""
    return theta_of_ratio(curvature_ratio(c, a))


def curvature_ratio(c: np.ndarray, a: np.ndarray) -> float:
    """The sum of a_i^2 / c_i."""
    return float(a.sum() if c is a else a @ (a / np.maximum(c, _TINY)))


def theta_of_ratio(ratio: float) -> float:
    """The theta of this sum over all samples."""
    return 1 / max(1.0, ratio)


@np.errstate(over="ignore", invalid="ignore")
def gap_near(weights: np.ndarray, a: np.ndarray, c: np.ndarray) -> tuple[float, float]:
    r"""The gap that feasible weights a' prove at a predictor of weights a and curvatures c, (n,),
    and the scale t at which they do: to second order, the least :math:`\tfrac12 \sum_i (t a'_i -
    a_i)^2 / c_i`. No gap where that is out of range.
    """
    c = np.maximum(c, np.maximum(_LEAST_CURVATURE * a, _TINY))
    relative = weights / c
    scale = float(relative @ a) / (float(relative @ weights) or 1.0)
    if not 0 < scale < math.inf:
        return 0.0, float(a.sum() / weights.sum())
    excess = scale * weights
    excess -= a
    return 0.5 * float(excess @ np.divide(excess, c, out=relative)), scale


def curvatures(
    c: np.ndarray, margins: np.ndarray, weights: np.ndarray, *, cautious: bool = False
) -> np.ndarray:
    """The curvatures c of the loss, (n,).

    Where they vanish, far on the wrong side, or a method is `cautious`, they are `raised`.
    """
    if cautious or c.sum() <= FLAT_CURVATURE * weights.sum():
        return raised(c, margins, weights)
    return c


def raised(c: np.ndarray, margins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Curvatures at least those of a parabola whose step just crosses zero."""
    return np.maximum(c, weights / (1 + np.maximum(-margins, 0)))


def more_damping(damping: float) -> float:
    """The damping after a failure."""
    return max(_DAMPING_RAISE * damping, _DAMPING_AFTER_FAILURE)


def less_damping(damping: float) -> float:
    """The damping after an accepted step."""
    return max(damping / _DAMPING_CUT, LEAST_DAMPING)


def damp(matrix: np.ndarray, damping: float, diagonal: np.ndarray) -> None:
    """Add a share of a diagonal to that of the matrix, which changes; of its mean where it is 0."""
    diagonal = np.maximum(diagonal, 0)
    mean = float(np.sum(diagonal)) / max(len(diagonal), 1) or 1.0
    matrix.flat[:: len(matrix) + 1] += damping * np.where(diagonal > 0, diagonal, mean)


@dataclass(frozen=True)
class NewtonPoint:
    """A predictor of one problem, and the loss at it; scores are those of the signed rows, (n,)."""

    coef: np.ndarray
    intercept: float
    scores: np.ndarray
    margins: np.ndarray
    log_risk: float
    weights: np.ndarray

    def separates(self, used: np.ndarray | slice) -> bool:
        """Whether the margins of the samples in use are positive."""
        return bool(self.margins[used].min() > 0)

    def first_share(self, change: np.ndarray, used: np.ndarray | slice) -> float:
        """The first step of a line search along this change of the margins (n,)."""
        return first_share(_largest(self.margins[used]), _largest(change[used]))


def _largest(x: np.ndarray) -> float:
    """The largest of numbers in size."""
    return max(float(x.max()), -float(x.min()))


def evaluated(
    problem: RobustProblem,
    loss: MarginLoss,
    coef: np.ndarray,
    scores: np.ndarray,
    margins: np.ndarray,
    near: float | None,
) -> NewtonPoint:
    """The point of a predictor with its best intercept, from its margins without one, (n,).

    `near` is a guess of the intercept.
    """
    guess = None if near is None else np.array([near])
    now = problem.evaluate_margins(loss, margins[None], near=guess)
    intercept, log_risk = float(now.intercept[0]), float(now.log_risk[0])
    return NewtonPoint(coef, intercept, scores, now.margins[0], log_risk, now.weights[0])


class Evaluated(Protocol):
    """A point whose risk is known."""

    @property
    def log_risk(self) -> float: ...


Point = TypeVar("Point", bound=Evaluated)


def first_share(largest_margin: float, largest_change: float) -> float:
    """The first step of a line search, as a share of the model's step.

    It is 1, or less where one sample has all the weight: the log-risk then has no curvature, and
    the model no end.

    Parameters
    ----------
    largest_margin, largest_change : float
        The largest margin in size, and the largest change of one on the whole step.
    """
    furthest = _MOST_MARGIN_CHANGE * (1 + largest_margin)
    return furthest / largest_change if largest_change > furthest else 1.0


def line_search(
    log_risk: float,
    ahead: Callable[[float], Point],
    separates: Callable[[Point], bool],
    decrease: float,
    first: float,
) -> Point | None:
    r"""The point towards the model's minimiser, or beyond, with a sufficient decrease, or None.

    It obeys :math:`\log L(t) \le \log L(0) - 10^{-3} t \Delta`, :math:`\Delta` the predicted
    decrease and t halved from the first step. A log-risk without a minimiser falls along ever
    longer steps: t is doubled as long as it falls and the data are not separated.

    Parameters
    ----------
    log_risk : float
        At the start of the step.
    ahead : callable
        The point at a share t of the way.
    separates : callable
        Whether the margins of a point are positive.
    decrease : float
        The predicted decrease.
    first : float
        The first share, of `first_share`.
    """
    if not decrease > 0:
        return None
    rounding = 8 * np.finfo(float).eps * (1 + abs(log_risk))
    granted = rounding if decrease < _HIDDEN_DECREASE else 0.0
    share = first
    found = ahead(share)
    while not found.log_risk <= log_risk - _SUFFICIENT_DECREASE * share * decrease + granted:
        share *= 0.5
        if share <= _LEAST_STEP * first:
            return None
        found = ahead(share)
    while (
        first <= share < _MOST_STEP * first
        and decrease > LONG_STEP_DECREASE
        and not separates(found)
    ):
        share *= 2
        further = ahead(share)
        if not further.log_risk < found.log_risk:
            break
        found = further
    return found
