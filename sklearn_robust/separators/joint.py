r"""Exact separators of several classes against l_q balls.

.. math:: \min_{W, b} \|W\|_p \quad \text{subject to} \quad \langle w_{y_i} - w_k, x_i \rangle +
    b_{y_i} - b_k - \epsilon \|s (w_{y_i} - w_k)\|_{q^*} \ge 1 \text{ for all } i, k \ne y_i.

The programs are linear for p and q in {1, inf}, quadratic for p = 2, and otherwise over cones.
Every answer is certified on the user's own data. One that misses tol is refined by Newton's method
on the program's optimality conditions, or solved again with other settings where the cones are
neither linear nor of second order.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from sklearn_robust._documentation import see
from sklearn_robust.certificates import Certified
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import certify, feasibility
from sklearn_robust.norms import Norm, SchattenNorm
from sklearn_robust.separators._engine_choice import DEFAULT_TOL
from sklearn_robust.separators._joint_factor import separate_against_sets
from sklearn_robust.separators._joint_margin_form import (
    JointMarginForm,
    in_float64,
    on_all_samples,
)
from sklearn_robust.separators._joint_program import JointPoint, JointProgram
from sklearn_robust.separators._joint_radius import enclose_radius
from sklearn_robust.separators._joint_working_sets import points_on_sets, suits_sets
from sklearn_robust.separators._max_margin_form import SolverFailure
from sklearn_robust.separators.separator import NotSeparableError

__all__ = [
    "largest_joint_distance",
    "maximise_joint_margin",
    "reachable_tol",
    "solve_joint_separator",
]

_MAX_STEPS = 8  # Newton steps of the refinement at most
_MAX_MISSED_STEPS = 2  # consecutive steps without a smaller gap, after which it ends
_TOL_EPS_STAR = 1e-9  # relative precision to which eps* is computed
_MATRIX_TOL = 1e-6  # certified relative gap that separators of least matrix norm reach


def reachable_tol(norm: Norm, tol: float) -> float:
    """The certified relative gap to aim at for a tol: at least 1e-6 for a matrix norm."""
    return max(tol, _MATRIX_TOL) if isinstance(norm, SchattenNorm) else tol


def solve_joint_separator(problem: JointProblem, norm: Norm, tol: float = DEFAULT_TOL) -> Certified:
    """The robust separator of least norm of several classes; the caller judges its gap.

    Parameters
    ----------
    problem : JointProblem
        On NumPy or scipy.sparse data, with an l_q ball or sets of samples.
    norm : Norm
        An `LpNorm` or a `SchattenNorm` on the K d coefficients.
    tol : float, default=1e-8
        Certified relative gap of the margin to reach; at least 1e-6 for the spectral and the
        nuclear norm.

    Returns
    -------
    Certified
        Arrays (K, d), (K, n) and (K,), with a smallest robust margin of 1.

    Raises
    ------
    NotSeparableError
        If no robust separator exists, with weights (K, n) that prove it.
    RuntimeError
        If every solver failed, or they neither found a separator nor proved that there is none.
    """
    problem, tol = in_float64(problem), reachable_tol(norm, tol)
    in_cones = problem.in_cones()
    if in_cones is not None:
        return separate_against_sets(in_cones, norm, tol)
    answer = maximise_joint_margin(problem, norm, tol)
    if answer.margin > 0:
        return answer
    eps = problem.radius
    star, proof = enclose_radius(problem, min(tol, _TOL_EPS_STAR))
    found = certify(problem, norm, star.coef, answer.weights)
    if found.margin > 0:  # below eps* its separator is robust, if not the one of least norm
        return replace(found, solver=f"{star.solver} for eps*").merged(answer)
    for weights, perturbations in [proof, (answer.weights, None)]:
        given = feasibility(problem, weights, perturbations, search=True)
        if given.proven or (star.margin <= eps and eps >= star.bound * (1 - _TOL_EPS_STAR)):
            raise NotSeparableError(
                eps, star.margin, weights, problem.fit_intercept, given.perturbations
            )
    raise RuntimeError(
        f"The solvers neither found a robust separator for eps={eps:.8g} nor proved that there is "
        f"none: eps* lies between {star.margin:.8g} and {star.bound:.8g}. Scale the features to "
        f"similar sizes."
        f" {see('questions', 'separable_-is-none')}"
    )


def largest_joint_distance(problem: JointProblem, tol: float = DEFAULT_TOL) -> Certified:
    """eps* of several classes, the largest radius below which a robust separator exists.

    Parameters
    ----------
    problem : JointProblem
        On NumPy or scipy.sparse data, with an l_q ball; its radius is not read.
    tol : float, default=1e-8
        Certified relative gap of eps* to reach.

    Returns
    -------
    Certified
        margin and bound enclose eps*, and the weights (K, n) prove the bound. coef (K, d) and
        intercept (K,) have a smallest plain margin of 1; they are zero where eps* is. Margin and
        bound are inf where features of scale 0 alone separate the data.

    Raises
    ------
    RuntimeError
        If every solver failed.
    """
    return enclose_radius(problem, tol)[0]


def maximise_joint_margin(problem: JointProblem, norm: Norm, tol: float) -> Certified:
    """The predictor of largest robust margin in a norm.

    Newton steps follow the solver's answer until the gap is at most tol, or no longer falls.
    """
    form = JointMarginForm.of(problem, norm)
    on_sets = suits_sets(form)
    points = islice(
        points_on_sets(form) if on_sets else JointProgram.of(form).points(), 1 + _MAX_STEPS
    )
    best: Certified | None = None
    misses = 0
    while misses < _MAX_MISSED_STEPS:
        try:
            point = next(points, None)
        except SolverFailure as failure:
            if best is None:
                raise RuntimeError(
                    f"No solver returned an answer ({failure}). Rescale the features of X."
                ) from failure
            break
        if point is None:
            break
        last = best
        best = _certified(problem, norm, point).merged(last)
        if best.gap - best.rounding <= tol:
            break
        misses = 0 if last is None or best.gap < last.gap else misses + 1
    assert best is not None
    return best


def _certified(problem: JointProblem, norm: Norm, point: JointPoint) -> Certified:
    """A direction and weights, certified on the user's data."""
    weights = on_all_samples(problem, point.weights)
    found = certify(problem, norm, point.coef, weights, perturbations=point.perturbations)
    return replace(found, solver=point.solver)
