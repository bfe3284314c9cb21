r"""The critical factor: the largest multiple of the sets of the samples with a robust separator.

For a predictor w it is :math:`f(w) = \sup \{f : \max_b \min_i y_i (\langle w, x_i \rangle + b) - f
\pi_i(w) \ge 0\}`. By Dinkelbach's method: the predictor of largest margin at a factor has a larger
factor of its own, until there is none. The weights of a program just above it prove that.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sklearn_robust._adversaries import Boxes, Slots
from sklearn_robust._conic_sets import (
    TERM_ROUNDING,
    ConicSlot,
    Perturbation,
    least_share,
    matched,
    prove_inseparable,
    slots_of,
)
from sklearn_robust._own_sets import OwnSets
from sklearn_robust._sign_split import SplitForm
from sklearn_robust.certificates import Certified, best_intercept, cancelling_weights
from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators._joint_factor import critical_factor
from sklearn_robust.separators._worst_points import as_joint, decide_by_worst_points
from sklearn_robust.separators.conic_separator import certify_direction, on_rows, solve_on_all_rows
from sklearn_robust.threats import support

# The norm of the programs: where w is 0 its linear cones leave no part of Z^T a to it
_NORM = LpNorm(math.inf)
_MOST_RATIOS = 30  # steps of Dinkelbach's method, which converges superlinearly
_SLOW_RATIO = 0.01  # relative growth of the factor, in units of tol, up to which it ends
_LEAST_FACTOR = 1e-9  # from which it starts where nothing separates at factor 1
# relative excess over the best factor at which weights are sought that bound it
_BEYOND = (0.5e-8, 1e-6, 1e-4)
# smallest margin without adversary, relative to the largest score, and share of the largest
# coefficient, that count as 0
_TOUCHES = 1e-9
_VAST = 1e9  # factor from which the predictor may be one that the sets hardly move
_HELD = 1e-9  # share of a direction that sets may move, from rounding, where they hold it
_FACTOR_STEPS = 60  # Newton steps at most to the root that is the factor of a predictor


def largest_factor(problem: RobustProblem, tol: float) -> Certified:
    """The critical factor of one problem, whose radius counts as 1.

    Parameters
    ----------
    problem : RobustProblem
        A single one in float64, on an array.
    tol : float
        Certified relative gap of the factor to reach.

    Returns
    -------
    Certified
        `margin` and `bound` are factors: 0 where nothing separates, and inf where something does
        against every multiple. The predictor has a smallest margin of 1 without adversary.

    Raises
    ------
    RuntimeError
        If a solver failed.
    """
    used = np.flatnonzero(problem.log_weight[0] > -math.inf)
    part = on_rows(problem, used)
    if isinstance(problem.adversary, OwnSets):
        return _factor_of_own_sets(problem, part, used)
    found, bound = _at_factor(part, 1.0, tol)
    factor = 1.0
    if found.margin <= 0:
        factor, weights = _without_sets(part)
        if weights is not None:
            found, bound = replace(found, weights=weights), 0.0
        else:
            least, of_least = _at_factor(part, factor, tol)
            found, bound = (least, of_least) if least.margin > 0 else (found, min(bound, of_least))
    best = replace(found, margin=0.0, bound=bound)
    for _ in range(_MOST_RATIOS):
        if found.margin <= 0:
            break
        found = _cleared(part, found)
        ratio = _own_factor(part, found.coef)
        if _VAST < ratio < math.inf and (endless := _endless(part, found)) is not None:
            found, ratio = endless, math.inf
        best = replace(found, margin=ratio, bound=math.inf).merged(best)
        if ratio == math.inf or ratio <= factor * (1 + _SLOW_RATIO * tol):
            break
        factor = ratio
        found, bound = _at_factor(part, factor, tol)
        best = best.merged(replace(found, margin=-math.inf, bound=bound))
    if 0 < best.margin < math.inf:
        for beyond in _BEYOND:
            if best.gap <= tol:
                break
            found, bound = _at_factor(part, best.margin * (1 + beyond), tol)
            best = best.merged(replace(found, margin=-math.inf, bound=bound))
    if best.margin == 0:
        best = replace(best, coef=np.zeros_like(best.coef), intercept=0.0)
    else:
        best = _scaled(part, best)
    weights = np.zeros(problem.y.shape[1])
    weights[used] = best.weights
    return replace(best, weights=weights, solver="cone programs, largest ratio")


def _without_sets(problem: RobustProblem) -> tuple[float, np.ndarray | None]:
    """Half the factor of a predictor that separates without adversary, or the least where it is
    unknown; weights (n,) that prove that there is none.
    """
    coef, weights = decide_by_worst_points(as_joint(replace(problem, radius=np.zeros(1))))
    if weights is not None:
        return 0.0, problem.balanced(weights.sum(axis=0)[None])[0]
    factor, w = 0.0, np.zeros(problem.n_features) if coef is None else coef[1] - coef[0]
    if w.any() and np.isfinite(_terms(problem, w)[1]).all():
        factor = 0.5 * _own_factor(problem, w)
    return factor if 0 < factor < math.inf else _LEAST_FACTOR, None


def _factor_of_own_sets(problem: RobustProblem, part: RobustProblem, used: np.ndarray) -> Certified:
    """The critical factor of samples with very many sets, which are one joint problem."""
    joint = critical_factor(JointProblem.of_two_classes(part))
    weights = np.zeros(problem.y.shape[1])
    weights[used] = joint.weights.sum(axis=0)
    best = replace(joint, coef=joint.coef[1] - joint.coef[0], weights=weights)
    return _scaled(part, best) if best.margin > 0 else replace(best, intercept=0.0)


def _at_factor(problem: RobustProblem, factor: float, tol: float) -> tuple[Certified, float]:
    """The predictor of largest margin at a factor, and the factor that its weights bound."""
    at = replace(problem, radius=np.full(1, factor))
    if not isinstance(at.adversary, Boxes):
        found, points = solve_on_all_rows(at, _NORM, tol)
        slots = slots_of(at)
        found = _cancelling(at, found, _unmoved(slots, at.n_features))
        return found, factor * _least_multiple(at, slots, found.weights, points)
    form, boxes = SplitForm(at), at.adversary
    found, _ = solve_on_all_rows(form.as_problem(at), _NORM, tol)
    still = (boxes.positive == 0).all(axis=0) & (boxes.negative == 0).all(axis=0)
    found = _cancelling(at, found, np.eye(at.n_features)[still])
    bound = _least_factor_of_boxes(at, boxes, found.weights)
    return certify_direction(at, _NORM, form.coef(found.coef), found), bound


def _unmoved(slots: list[ConicSlot], d: int) -> np.ndarray:
    """Directions (m, d) along which no set moves a sample: those of features, and others."""
    if not slots:
        return np.eye(d)
    rows = [slot.set.equalities_of_x[0] for slot in slots]
    held = np.mean([np.linalg.pinv(L) @ L for L in rows], axis=0)
    still = np.diag(held) > 1 - _HELD
    held[still], held[:, still] = 0.0, 0.0
    sizes, directions = np.linalg.eigh(held)
    return np.vstack([np.eye(d)[still], directions.T[sizes > 1 - _HELD]])


def _cancelling(problem: RobustProblem, found: Certified, directions: np.ndarray) -> Certified:
    """With weights moved the little that makes the rows cancel along some directions."""
    along = replace(problem, X=problem.X @ directions.T)
    weights = cancelling_weights(along, found.weights, np.arange(len(directions)))
    return replace(found, weights=weights)


def _least_multiple(
    problem: RobustProblem,
    slots: list[ConicSlot],
    weights: np.ndarray,
    points: list[Perturbation],
) -> float:
    """The least multiple >= 1 of the sets for which weights prove that nothing separates; inf where
    there is none near 1.
    """
    points = matched(problem, slots, weights, points)

    def proves(share: float) -> bool:
        shrunk = points
        if share > 0:  # towards 0: the perturbations of the larger sets stay the same
            part = 1 / (1 + share)
            shrunk = [
                Perturbation(part * point.u, part * point.s + (1 - part) * slot.set.s_of_zero)
                for slot, point in zip(slots, points, strict=True)
            ]
        larger = [slot.times(1 + share) for slot in slots]
        return prove_inseparable(problem, larger, weights, shrunk)

    share = least_share(proves)
    return math.inf if share is None else 1 + share


def _least_factor_of_boxes(problem: RobustProblem, boxes: Boxes, weights: np.ndarray) -> float:
    """The least factor at which weights prove that nothing separates: M^T a <= 0."""
    weighted_sum = problem.weighted_sum(weights[None])[0]
    room = TERM_ROUNDING * problem.sizes(weights[None])[0]
    least = 0.0
    for sign, loss, kept in zip(
        (1.0, -1.0), (boxes.positive, boxes.negative), boxes.bounded, strict=True
    ):
        rise = sign * weighted_sum[kept]
        taken = weights @ loss[:, kept]
        open_ = rise > room[kept]
        with np.errstate(divide="ignore"):
            least = max(least, float(np.max(rise[open_] / taken[open_], initial=0.0)))
    return least


def _terms(problem: RobustProblem, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores and the penalties at factor 1 of a predictor, (1, n)."""
    scores = problem.signed_scores(coef[None])
    penalties = replace(problem, radius=np.ones(1)).penalties(coef[None])
    return scores, np.broadcast_to(penalties, scores.shape)


def _cleared(problem: RobustProblem, found: Certified) -> Certified:
    """With 0 for the coefficients that are small beside the others, where the predictor then
    separates and the sets take nothing.
    """
    sizes = problem.sizes(found.weights[None])[0] * np.abs(found.coef)
    coef = np.where(sizes > _TOUCHES * sizes.max(), found.coef, 0.0)
    scores, penalties = _terms(problem, coef)
    smallest = best_intercept(scores, problem.classes)[1][0]
    separates = smallest > _TOUCHES * np.abs(scores).max()
    return replace(found, coef=coef) if separates and not penalties.any() else found


def _own_factor(problem: RobustProblem, coef: np.ndarray) -> float:
    """f(w) of a predictor that separates: by Newton's method from above on a concave function.

    The function is the least mean, over one sample of each class, of scores - f penalties. The
    samples of largest penalties bound its root.
    """
    scores, penalties = _terms(problem, coef)
    rows = [np.flatnonzero(members[0]) for members in problem.classes]

    def mean_of_least(values: np.ndarray) -> tuple[float, float]:
        """The mean score and penalty of the sample of least value in each class."""
        places = [members[np.argmin(values[0, members])] for members in rows]
        return float(scores[0, places].mean()), float(penalties[0, places].mean())

    score, slope = mean_of_least(-penalties)
    if slope == 0:
        return math.inf
    factor = score / slope
    for _ in range(_FACTOR_STEPS):
        score, slope = mean_of_least(scores - factor * penalties)
        if slope == 0:
            break
        moved = score / slope
        if not abs(moved - factor) > 2 * np.finfo(float).eps * abs(moved):
            break
        factor = moved
    # rounding may put it above: below, the predictor separates
    return max(factor * (1 - TERM_ROUNDING), 0.0)


def _endless(problem: RobustProblem, found: Certified) -> Certified | None:
    r"""The predictor in the directions along which no set moves a sample, where it separates; what
    the sets take is then rounding of :math:`\sum_j |w_j| r_j`, with the reach :math:`r_j` of the
    sets along feature j. None where it is more, or the predictor does not separate.
    """
    adversary = problem.adversary
    if adversary is None:
        adversary = Slots.by_sample(problem.threat, np.ones(problem.y.shape[1]))
    if not isinstance(adversary, Slots):
        return None
    directions = _unmoved(slots_of(problem), problem.n_features)
    coef = (found.coef @ directions.T) @ directions
    scores, penalties = _terms(problem, coef)
    unit, sizes = np.eye(len(coef)), np.zeros(scores.shape[1])
    for slot in adversary.slots:
        reach = np.maximum(support(slot.threat, unit), support(slot.threat, -unit))
        reach = np.where((coef == 0) | np.isinf(reach), 0.0, reach)
        sizes += slot.radius * float(np.abs(coef) @ reach)
    smallest = best_intercept(scores, problem.classes)[1][0]
    separates = smallest > _TOUCHES * np.abs(scores).max()
    held = np.all(penalties[0] <= TERM_ROUNDING * sizes)
    return replace(found, coef=coef) if separates and held else None


def _scaled(problem: RobustProblem, best: Certified) -> Certified:
    """The predictor with the best intercept at its factor, scaled to a smallest margin of 1 without
    adversary; to a largest score of 1 where a sample that nobody attacks has margin 0.
    """
    scores, penalties = _terms(problem, best.coef)
    factor = best.margin if best.margin < math.inf else 0.0  # against which nothing is taken
    intercept = best_intercept(scores - factor * penalties, problem.classes)[0]
    smallest, largest = float(np.min(scores + problem.y * intercept)), float(np.max(np.abs(scores)))
    unit = smallest if smallest > _TOUCHES * largest else largest
    return replace(best, coef=best.coef / unit, intercept=float(intercept[0]) / unit)
