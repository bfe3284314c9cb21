r"""The critical factor on the sets of samples of several classes, and separators against the sets
themselves.

For a predictor W it is the largest factor at which W separates. By Dinkelbach's method: the
predictor of largest margin at a factor has a larger factor of its own, until there is none. The
weights of these programs, and of one just above the factor, bound it (`_factor_proof`).

Where nothing separates at factor 1, weights of worst points prove it (`_worst_points`), or those at
the minimiser of a risk.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sklearn_robust._conic_programs import Vector
from sklearn_robust._conic_sets import TERM_ROUNDING
from sklearn_robust._documentation import see
from sklearn_robust._pair_programs import PairProgram
from sklearn_robust.certificates import Certified
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import best_intercept, predictor
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.separators._factor_proof import least_multiple
from sklearn_robust.separators._joint_sets import TRIES, certified, maximise_margin
from sklearn_robust.separators._max_margin_form import column_sizes
from sklearn_robust.separators._worst_points import decide_by_worst_points
from sklearn_robust.separators.separator import NotSeparableError
from sklearn_robust.solvers import minimise_joint_risk

_HALVINGS = 60  # halvings of the bracket of a factor
_MOST_RATIOS = 30  # steps of Dinkelbach's method
_SLOW_RATIO = 1e-9  # relative growth of the factor up to which it ends
_LARGEST_FACTOR = 1e100  # sought at most for a predictor from which the sets take something
# size of a coefficient, relative to the largest, that counts as 0
_TOUCHES = 1e-9
_LEAST_FACTOR = 1e-9  # from which it starts where nothing separates at factor 1
# relative excess over the factor at which a proof is sought
_BEYOND = (5e-9, 1e-7, 1e-5, 1e-3, 0.1)
_NORM = LpNorm(math.inf)
_SOLVER = "cone programs, largest ratio"


def separate_against_sets(problem: JointProblem, norm: Norm, tol: float) -> Certified:
    """The robust separator of least norm against the sets of the samples.

    Parameters
    ----------
    problem : JointProblem
        In float64, on an array, with `JointSets`.
    norm : Norm
    tol : float
        Certified relative gap of the margin to reach; the caller judges it.

    Raises
    ------
    NotSeparableError
        Where worst points or the minimiser of a risk prove that nothing separates.
    RuntimeError
        If the solver failed, or neither found a separator nor proved that there is none.
    """
    answer = maximise_margin(problem, norm, tol)
    if answer.margin > 0:
        return answer
    coef, proof = decide_by_worst_points(problem)
    if coef is not None:
        found = certified(problem, norm, coef, answer)
        if found.margin > 0:
            return found
    if proof is None:
        end = minimise_joint_risk(problem, LOSSES["exponential"])
        if end.separable:  # its predictor is robust, if not the one of least norm
            return certified(problem, norm, end.coef, answer)
        if end.separable is None:
            raise RuntimeError(
                f"The solvers neither found a robust separator for threat={problem.threat!r} nor "
                f"proved that there is none. Scale the features to similar sizes."
                f" {see('questions', 'separable_-is-none')}"
            )
        proof = end.weights
    threat = type(problem.threat).__name__
    factor = min(critical_factor(problem, bounded=False).margin, 1.0)
    raise NotSeparableError(1.0, factor, proof, problem.fit_intercept, threat=threat)


def critical_factor(problem: JointProblem, *, bounded: bool = True) -> Certified:
    """The critical factor on the sets, the largest below which a robust separator exists; with a
    bound, where it is to be bounded.

    Returns
    -------
    Certified
        `margin` and `bound` are factors: 0 where nothing separates, and inf where something does
        against every multiple. The predictor has a smallest margin of 1 without adversary.
    """
    unit = float(problem.radius)
    factor = unit
    found, best = _at_factor(problem, factor, bounded)
    if found.margin <= 0:
        factor = _LEAST_FACTOR * unit
        found, least = _at_factor(problem, factor, bounded)
        best = least.merged(best)
    for _ in range(_MOST_RATIOS):
        if found.margin <= 0:
            break
        found = _cleared(problem, found)
        ratio = _own_factor(problem, found.coef)
        best = replace(best, coef=found.coef, margin=ratio).merged(best)
        if ratio == math.inf or ratio <= factor * (1 + _SLOW_RATIO):
            break
        factor = ratio
        try:
            found, proven = _at_factor(problem, factor, bounded)
        except RuntimeError:  # the answer so far has its certified gap
            break
        best = proven.merged(best)
    if best.margin == math.inf:
        return replace(best, bound=math.inf, solver=_SOLVER)
    if best.margin == 0 and best.bound <= 2 * _LEAST_FACTOR * unit:
        best = replace(best, bound=0.0)
    for beyond in _BEYOND if bounded and best.margin > 0 else ():
        if best.gap <= 2 * beyond:
            break
        tried = (1 + beyond) * best.margin
        try:
            best = _at_factor(problem, tried, bounded)[1].merged(best)
        except RuntimeError:
            continue
    coef, intercept = predictor(problem.at_radius(0.0), best.coef)
    return replace(
        best,
        coef=coef,
        intercept=intercept,
        margin=best.margin / unit,
        bound=best.bound / unit,
    )


def _at_factor(problem: JointProblem, factor: float, bounded: bool) -> tuple[Certified, Certified]:
    """The predictor of largest margin at a factor; and the bound on the critical factor that the
    weights of the program prove, with a factor of 0.
    """
    proofs: list[tuple[float, Vector]] = []

    def watch(program: PairProgram, weights: Vector, z: Vector) -> None:
        proofs.append(least_multiple(program, weights, z))

    found = maximise_margin(
        problem.at_radius(factor),
        _NORM,
        _SLOW_RATIO,
        tries=TRIES[1:2],
        watch=watch if bounded else None,
    )
    multiple, weights = min(proofs, key=lambda proof: proof[0], default=(math.inf, None))
    proven = replace(found, margin=0.0, bound=factor * multiple, solver=_SOLVER)
    if weights is not None:
        whole = np.zeros_like(found.weights)
        whole[:, problem.log_weight > -math.inf] = weights
        proven = replace(proven, weights=whole)
    return found, proven


def _cleared(problem: JointProblem, found: Certified) -> Certified:
    """With 0 for the coefficients that are small beside the others, where the predictor then
    separates and the sets take nothing.
    """
    coef = found.coef - found.coef.mean(axis=0)  # the differences alone count
    sizes = np.abs(coef).max(axis=0) * column_sizes(problem.X, centred=problem.fit_intercept)
    coef = np.where(sizes > _TOUCHES * sizes.max(), coef, 0.0)
    nothing = np.zeros((len(coef), len(problem.y)))
    if _takes_nothing(problem, coef) and _separates(problem, coef, nothing):
        return replace(found, coef=coef)
    return found


def _takes_nothing(problem: JointProblem, coef: Vector) -> bool:
    """Whether the penalties are 0, or rounding beside their terms."""
    penalties, sizes = problem.penalties(coef), problem.penalty_sizes(coef)
    return bool(np.all(penalties <= TERM_ROUNDING * sizes))


def _separates(problem: JointProblem, coef: Vector, penalties: Vector) -> bool:
    """Whether all margins of a predictor with its best intercepts are positive."""
    margins = problem.pair_margins(coef, penalties)
    return bool((best_intercept(margins)[1] if problem.fit_intercept else margins.min()) > 0)


def _own_factor(problem: JointProblem, coef: Vector) -> float:
    """The largest factor at which a predictor that separates does so with its best intercepts, by
    bisection.
    """
    if _takes_nothing(problem, coef):
        return math.inf
    of_unit = problem.at_radius(1.0).penalties(coef)

    def separates(factor: float) -> bool:
        return _separates(problem, coef, factor * of_unit)

    low, high = 0.0, 1.0
    while high < _LARGEST_FACTOR and separates(high):
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if separates(middle) else (low, middle)
    return low
