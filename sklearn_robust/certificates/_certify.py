"""The certificates of predictors and weights, with their rounding charged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sklearn_robust._array_api import Array, namespace
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.scaled_norms import WeightedNorm
from sklearn_robust.threats import (
    Threat,
    gauge,
    has_exponent,
    inside,
    is_ball,
    reachable,
    residual,
    rounds_powers,
)

# Rounding of a dual exponent, relative: half a machine epsilon. It enters every charge for a norm.
_EXPONENT_ROUNDING = 0.5 * float(np.finfo(np.float64).eps)
# Rounding of a coordinate of Z^T a, relative to the sum of its terms' sizes: 64 machine epsilons. A
# coordinate up to this size counts as zero.
_WEIGHTED_SUM_ROUNDING = 64 * np.finfo(np.float64).eps
# Factor on the residual share of features that weights nearly cancel: it bounds the distance to
# weights that cancel these features exactly, which the bound is charged.
_CANCELLING_MOVE = 16

# Extended arithmetic, in which a certificate is computed again
_EXTENDED_FROM = 1e-10  # rounding's share of the gap, absolute, above which it pays
_MAX_EXTENDED = 1_000_000  # entries of X up to which it is cheap


@dataclass(frozen=True)
class Point:
    """Predictors and weights of k problems; of a single one the arrays lack their first axis.

    Attributes
    ----------
    coef : array of shape (k, d)
    weights : array of shape (k, n)
        Dual weights of the samples.
    intercept : array of shape (k,) or None
        None where coef is a direction only, and the best intercept is meant.
    """

    coef: Array
    weights: Array
    intercept: Array = None


@dataclass(frozen=True, kw_only=True)
class Certified(Point):
    """A point with feasible weights: the largest robust margin is between `margin` and `bound`.

    Attributes
    ----------
    margin : array of shape (k,)
        At most min_i m_i(w) / ||w||_p of the predictor in exact arithmetic; positive only if it
        separates robustly, -inf for w = 0.
    bound : array of shape (k,)
        At least D(a) of weights that rounding separates from the given ones: no predictor has a
        larger margin. Zero is a proof that the data are not robustly separable.
    rounding : array of shape (k,)
        The most that the charges add to the relative gap: no answer in this arithmetic proves a
        smaller one.
    solver : str
        The solver that found the predictor.
    """

    margin: Array
    bound: Array
    rounding: Array = 0.0
    solver: str = ""

    def __repr__(self) -> str:
        return f"Certified(margin={self.margin}, bound={self.bound}, solver={self.solver!r})"

    @cached_property
    def gap(self) -> Array:
        """Relative gap 1 - margin / bound; see `relative_gap`."""
        return relative_gap(self.margin, self.bound)

    def single(self, solver: str, index: int = 0) -> Certified:
        """The same of the problem at an index, without the first axis, and the solver's name."""
        intercept, margin, bound, rounding = (
            float(x[index]) for x in (self.intercept, self.margin, self.bound, self.rounding)
        )
        return Certified(
            self.coef[index],
            self.weights[index],
            intercept,
            margin=margin,
            bound=bound,
            rounding=rounding,
            solver=solver,
        )

    def merged(self, other: Certified | None) -> Certified:
        """The better predictor with the better proof, of a single problem."""
        if other is None:
            return self
        primal = self if self.margin >= other.margin else other
        dual = self if self.bound <= other.bound else other
        return replace(
            primal,
            weights=dual.weights,
            bound=dual.bound,
            rounding=max(self.rounding, other.rounding),
        )


def relative_gap(margin: Array, bound: Array) -> Array:
    """The relative gap 1 - margin / bound (k,), or a float for floats.

    The margin is at least (1 - gap) times the largest. The gap is 1 where the margin is 0, 0 where
    rounding puts it above the bound or both are inf, and inf where it is negative or the bound is
    0: nothing separates then.
    """
    xp = namespace(margin)
    known = (margin >= 0) & (bound > 0)
    below = known & (margin < bound)
    gap = 1 - xp.where(below, margin, 1.0) / xp.where(below, bound, 1.0)
    gap = xp.where(known, gap, math.inf)
    return float(gap) if isinstance(margin, float) else gap


def sum_rounding(n_terms: int, dtype: Any, xp: Any = np) -> float:
    r"""The rounding of a sum of products at most, relative to the sum of its terms' sizes.

    The worst case is :math:`n u` with u half the machine epsilon. From 16 terms on it is :math:`4
    \sqrt n u`, at least seven standard deviations of independent roundings. Eight more terms are
    for the norm, the scaling and the difference that follow.
    """
    return 0.5 * float(xp.finfo(dtype).eps) * (8 + min(n_terms, 4 * math.sqrt(n_terms)))


def norm_rounding(problem: RobustProblem, norm: Norm, dtype: Any, xp: Any = np) -> float:
    """The rounding of a norm or of the support function at most, relative to the terms' sizes."""
    rounding = sum_rounding(problem.n_features, dtype, xp)
    return rounding + exponent_rounding(problem.threat, norm, problem.n_features)


def exponent_rounding(threat: Threat, norm: Norm, n_terms: int) -> float:
    """The share of `norm_rounding` that rounded exponents have, for norms of so many entries."""
    if not rounds_powers(threat, norm):
        return 0.0
    # dual exponents are rounded to float64, whatever the arithmetic
    return _EXPONENT_ROUNDING * math.log2(2 * n_terms)


def best_intercept(scores: Array, classes: Sequence[Array]) -> tuple[Array, Array]:
    """The b that makes the smallest of scores + y b largest, and that smallest.

    Both have the shape (...,) for scores (..., n). b levels the two classes; it is 0 where there is
    but one.
    """
    xp = namespace(scores)
    smallest = [xp.min(xp.where(members, scores, math.inf), axis=-1) for members in classes]
    if len(smallest) == 1:
        return xp.zeros_like(smallest[0]), smallest[0]
    up, down = smallest
    return 0.5 * (down - up), 0.5 * (down + up)


def over_size(smallest: Array, size: Array) -> Array:
    """The margin in a norm: the smallest margin over the size of the predictor, -inf for w = 0."""
    xp = namespace(size)
    return xp.where(size > 0, smallest / xp.where(size > 0, size, 1.0), -math.inf)


def robust_margin(
    problem: RobustProblem,
    norm: Norm,
    coef: Array,
    intercept: Array,
    margins: Array | None = None,
) -> Array:
    """min_i m_i(w) / ||w||_p of each predictor, less its rounding, of shape (k,); -inf for w = 0.

    The `margins` (k, n) need not be computed again where they are known.
    """
    return _charged_margin(problem, norm, coef, intercept, margins)[0]


def _charged_margin(
    problem: RobustProblem,
    norm: Norm,
    coef: Array,
    intercept: Array,
    margins: Array | None = None,
) -> tuple[Array, Array]:
    """The margin of each predictor less its rounding, and the rounding."""
    xp, size = namespace(coef), norm.value(coef)
    margins = problem.margins(coef, intercept) if margins is None else margins
    charged = over_size(xp.min(margins - margin_rounding(problem, coef, intercept), axis=-1), size)
    charged = charged - norm_rounding(problem, norm, coef.dtype, xp) * xp.abs(charged)
    known = (size > 0) & xp.isfinite(charged)
    return charged, xp.where(
        known, over_size(xp.min(margins, axis=-1), size) - xp.where(known, charged, 0.0), 0.0
    )


def margin_bound(problem: RobustProblem, norm: Norm, weights: Array) -> Array:
    """D(a) (k,) plus its rounding: the dual-norm distance of Z^T a from the threat's set.

    Parameters
    ----------
    problem : RobustProblem
    norm : LpNorm
    weights : array of shape (k, n)
        Feasible, up to the rounding of their sums.
    """
    return _charged_bound(problem, norm, weights)[0]


def _charged_bound(problem: RobustProblem, norm: Norm, weights: Array) -> tuple[Array, Array]:
    r"""D(a) plus its rounding, and the share of rounding in it.

    The exact :math:`|Z^T a|` is at most the computed one plus its rounding. In a ball, D grows with
    every coordinate of it; for another set the norm of the rounding is added. The set is taken a
    little smaller than the threat's, so that the subtracted point lies in the threat's set in spite
    of rounding.
    """
    xp = namespace(weights)
    threat, dual = problem.threat, norm.dual
    of_norm = norm_rounding(problem, norm, weights.dtype, xp)
    terms = problem.sizes(weights)
    of_sum = sum_rounding(weights.shape[-1], weights.dtype, xp) * terms
    weighted_sum = problem.weighted_sum(weights)
    if is_ball(threat) and has_exponent(norm):
        weighted_sum, beyond = xp.abs(weighted_sum) + of_sum, xp.zeros_like(of_sum)
    else:
        beyond = of_sum
    if isinstance(norm, WeightedNorm):
        weighted_sum = _cancelled(weighted_sum, terms, norm.scale == 0)
        of_sum = np.where(norm.scale == 0, 0.0, of_sum)  # what cancels exactly has no rounding
    radius = problem.attacked_radius(weights) * (1 - of_norm)  # 0 where the norm has scales
    left = residual(threat, weighted_sum, radius, dual)
    if hasattr(threat, "gauge"):
        left = _given_back(threat, weighted_sum, left, radius)
    bound = (dual.value(left) + dual.value(beyond)) * (1 + of_norm)
    known = (bound > 0) & (bound < math.inf)
    share = dual.value(of_sum + 2 * of_norm * xp.abs(weighted_sum)) / xp.where(
        known, bound, xp.ones_like(bound)
    )
    return bound, xp.where(known, xp.minimum(share, xp.ones_like(share)), xp.zeros_like(share))


def _given_back(threat: Any, weighted_sum: Array, left: Array, radius: Array) -> Array:
    """The residual of the nearest point of the set, after that point is scaled into the set.

    Rounding may put the nearest point outside the set: it is then scaled by radius / gauge.
    """
    xp = namespace(left)
    taken = weighted_sum - left
    size = threat.gauge(taken)
    share = xp.where(size > radius, radius / xp.where(size > 0, size, xp.ones_like(size)), 1.0)
    share = share[:, None]
    return xp.where(share < 1, weighted_sum - share * taken, left)


def _cancelled(weighted_sum: Array, terms: Array, fixed: Array) -> Array:
    """|Z^T a| (k, d) of nearby weights that cancel the fixed features exactly.

    They are used where the given weights cancel these features up to rounding; elsewhere |Z^T a|
    stays the same.

    The weights, and so the terms of the other features, change by the largest share of a fixed
    feature's terms that remains. In floating point no weights cancel exactly, and the bound would
    be infinite.
    """
    if not fixed.any():
        return weighted_sum
    share = np.max(
        np.where(fixed, weighted_sum, 0) / np.where(terms > 0, terms, 1), axis=-1, keepdims=True
    )
    return np.where(
        share <= _WEIGHTED_SUM_ROUNDING,
        np.where(fixed, 0, weighted_sum + _CANCELLING_MOVE * share * terms),
        weighted_sum,
    )


def certify(
    problem: RobustProblem,
    norm: Norm,
    coef: Array,
    weights: Array,
    intercept: Array | None = None,
    *,
    extended: bool = False,
) -> Certified:
    """Certify predictors and weights, with all rounding charged.

    The weights are made feasible first.

    Parameters
    ----------
    problem : RobustProblem
    norm : LpNorm
        The geometry p in which the margin is measured.
    coef : array of shape (k, d)
    weights : array of shape (k, n)
        Negative ones are cut off, and the others scaled to the simplex (per class with an
        intercept).
    intercept : array of shape (k,), optional
        Without it coef is a direction: the predictor has the best intercept, and a smallest robust
        margin of 1 where that is positive.
    extended : bool, default=False
        Whether float64 data of moderate size are certified in extended arithmetic where rounding
        shows in the gap.

    Returns
    -------
    Certified
        The predictors and feasible weights that the figures belong to.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.certificates import certify
    >>> from sklearn_robust.norms import LpNorm
    >>> from sklearn_robust.problems import RobustProblem
    >>> X, y = np.array([[3.0, 1.0], [-3.0, 1.0]]), np.array([1.0, -1.0])
    >>> problem = RobustProblem.from_data(X, y, q=2, eps=1.0, fit_intercept=False)
    >>> proven = certify(
    ...     problem, LpNorm(2), coef=np.array([[1.0, 0.0]]), weights=np.array([[1.0, 1.0]])
    ... )
    >>> proven.margin.round(6), proven.bound.round(6), proven.coef
    (array([2.]), array([2.]), array([[0.5, 0. ]]))
    """
    xp = namespace(coef)
    if intercept is None:
        coef, intercept = _predictor(problem, coef)
    weights = problem.balanced(weights)
    margin, of_margin = _charged_margin(problem, norm, coef, intercept)
    bound, of_bound = _charged_bound(problem, norm, weights)
    rounding = of_margin / xp.where(bound > 0, bound, 1.0) + of_bound
    proven = Certified(coef, weights, intercept, margin=margin, bound=bound, rounding=rounding)
    if (
        not extended
        or not float(xp.max(rounding)) > _EXTENDED_FROM
        or math.prod(problem.X.shape) > _MAX_EXTENDED
        or not is_ball(problem.threat)  # another set may compute in float64
    ):
        return proven
    arrays = (array.astype(np.longdouble) for array in (coef, weights, intercept))
    finer = certify(problem.in_extended_arithmetic(), norm, *arrays)
    # in float64 the margin is rounded down and the bound up
    margin, bound, rounding = (
        figure.astype(np.float64) for figure in (finer.margin, finer.bound, finer.rounding)
    )
    bound = np.where(finer.bound > 0, np.nextafter(bound, math.inf), 0.0)
    return replace(proven, margin=np.nextafter(margin, -math.inf), bound=bound, rounding=rounding)


def _predictor(problem: RobustProblem, direction: Array) -> tuple[Array, Array]:
    """Directions (k, d) with their best intercept, scaled to a smallest robust margin of 1.

    Where that margin is not positive, or the quotient overflows, they keep their size.
    """
    xp = namespace(direction)
    margins = problem.signed_scores(direction) - problem.penalties(direction)
    intercept, smallest = best_intercept(margins, problem.classes)
    unit = xp.where(smallest > 0, smallest, 1.0)
    with np.errstate(over="ignore"):
        coef, moved = direction / unit[:, None], intercept / unit
    finite = xp.all(xp.isfinite(coef), axis=-1) & xp.isfinite(moved)
    return xp.where(finite[:, None], coef, direction), xp.where(finite, moved, intercept)


def non_separability_slack(problem: RobustProblem, weights: Array) -> Array:
    r"""radius - gauge(Z^T a) of shape (k,), for a ball :math:`\epsilon - \|Z^T a\|_q`.

    For feasible weights a value >= 0 proves that no robust separator exists.
    """
    return problem.attacked_radius(weights) - gauge(problem.threat, cleared_sum(problem, weights))


def cleared_sum(problem: RobustProblem, weights: Array) -> Array:
    """Z^T a, with zero for features that the adversary cannot touch where it is rounding."""
    weighted_sum = problem.weighted_sum(weights)
    movable = reachable(problem.threat, weighted_sum)
    if movable is weighted_sum:
        return weighted_sum
    return np.where(
        (movable != weighted_sum)
        & (np.abs(weighted_sum) <= _WEIGHTED_SUM_ROUNDING * problem.sizes(weights)),
        0.0,
        weighted_sum,
    )


def margin_rounding(problem: RobustProblem, coef: Array, intercept: Array) -> Array:
    """The rounding of each margin at most, of shape (k, n)."""
    xp = namespace(coef)
    of_sum = sum_rounding(problem.n_terms, coef.dtype, xp)
    penalty = problem.penalty_sizes(coef)
    sizes = problem.score_sizes(coef) + xp.abs(intercept)[:, None] + penalty
    of_norm = norm_rounding(problem, LpNorm(2), coef.dtype, xp) - of_sum
    # a set without end takes an infinite penalty
    return of_sum * sizes + (of_norm * penalty if of_norm > 0 else 0.0)


def proves_not_separable(
    problem: RobustProblem, weights: Array, *, weighted_sum: Array | None = None
) -> np.ndarray:
    r"""Whether feasible weights (k, n) prove that no robust separator exists: bool of shape (k,).

    They do where Z^T a is in the threat's set up to rounding, in float64: for a ball, :math:`\|Z^T
    a\|_q \le \epsilon`.

    Each coordinate of Z^T a is known up to its own rounding: a small feature counts beside a large
    one. `weighted_sum` (k, d) is Z^T a where it is known.
    """
    if weighted_sum is None:
        weighted_sum = problem.weighted_sum(weights)
    radius = problem.attacked_radius(weights)
    if np.all(inside(problem.threat, weighted_sum, radius)):
        return np.ones(len(weighted_sum), dtype=bool)
    return inside_up_to_rounding(problem.threat, weighted_sum, radius, problem.sizes(weights))


def inside_up_to_rounding(
    threat: Threat, weighted_sum: Array, radius: Array | float, sizes: Array
) -> Array:
    """Whether Z^T a (..., d) is in radius times the set up to its rounding, of shape (...).

    `sizes` (..., d) are the sums of the sizes of its terms, `a |X|`.
    """
    return inside(threat, weighted_sum, radius, _WEIGHTED_SUM_ROUNDING * sizes)


def log_risk_bound(problem: RobustProblem, loss: MarginLoss, weights: Array) -> Array:
    """A lower bound (k,) on the log-risk of every predictor, from `repaired_weights`.

    It is -inf where the weights are nan.
    """
    proven = np.isfinite(weights[:, 0])
    bound = loss.log_risk_bound(
        np.where(proven[:, None], weights, problem.class_shares()), problem.log_weight
    )
    return np.where(proven, bound, -np.inf)
