r"""Minimum-norm robust separators: the exact limits of robust training.

Every answer is certified on the user's own data before it is returned: its margin is measured, and
the solver's multipliers give a bound that no other predictor can exceed. A solver's own status is
no proof.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from sklearn_robust._documentation import see
from sklearn_robust._parameters import check_exponent, check_number, check_radii
from sklearn_robust.certificates import Certified, Point, cancelling_weights, certify
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows
from sklearn_robust.separators._engine_choice import (
    DEFAULT_TOL,
    certify_point,
    certify_refined,
    maximise_margin,
)
from sklearn_robust.separators._max_margin_form import MaxMarginForm, Vector, lowers_all_alike
from sklearn_robust.separators._newton_proof import ROUNDING, cancels
from sklearn_robust.separators._worst_points import as_joint, decide_by_worst_points
from sklearn_robust.separators.conic_separator import certify_direction, maximise_conic_margin
from sklearn_robust.separators.critical_radius import fixed_features, largest_distance
from sklearn_robust.separators.joint import reachable_tol, solve_joint_separator
from sklearn_robust.separators.largest_factor import largest_factor
from sklearn_robust.separators.refinement import refined
from sklearn_robust.separators.separator import (
    NotSeparableError,
    Separator,
    check_geometry,
    needs_sums,
    read_norm,
    read_problem,
    read_problem_of_threat,
    read_threat,
    warn_of_gap,
)
from sklearn_robust.solvers import minimise_robust_risk
from sklearn_robust.threats import ConicThreat, LpBall, Threat, check_radius, is_ball, require

# Relative precision to which eps* is computed, and by which ||Z^T a||_q may exceed eps in a proof.
_TOL_EPS_STAR = 1e-9
# Radii of a path that are certified together where p = q*
_CERTIFIED_TOGETHER = 32
# Distances of the last two radii of a path up to which their line is followed
_FURTHEST = 10.0
# Solvers from whose separators refinement leads to that of the next radius of a path
_REFINED_SOLVERS = ("interior point", "refinement")
# Certified gap above which the separator of eps* is tried beside the answer of the engines.
_POOR_GAP = 0.1


def min_norm_separator(
    X: Any,
    y: Any = None,
    *,
    p: float | str,
    q: float | None = None,
    eps: float | None = None,
    fit_intercept: bool = False,
    tol: float = DEFAULT_TOL,
    scale: Any = None,
    threat: Threat | None = None,
    sample_radius: Any = None,
) -> Separator:
    r"""The robust separator of least p-norm, i.e. of largest robust margin in the p-norm.

    .. math:: \min_{w, b} \|w\|_p \quad \text{subject to} \quad y_i (\langle w, x_i \rangle + b) -
       \epsilon \|w\|_{q^*} \ge 1.

    With more than two classes, jointly,

    .. math:: \min_{W, b} \|W\|_p \quad \text{subject to} \quad \langle w_{y_i} - w_k, x_i \rangle
       + b_{y_i} - b_k - \epsilon \|w_{y_i} - w_k\|_{q^*} \ge 1 \text{ for all } k \ne y_i.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n, d), or BlockRows
        Rows in blocks are read once a round, and a few of them are kept in memory: of several
        classes, or with scales, the answer is a `SeparatorOnRows` with weights of these alone.
    y : array-like of shape (n,)
        Two or more classes; of two the greater label is the positive one. Without an intercept also
        -1 or +1 alone. None for BlockRows, which hold labels; their samples of weight zero are left
        out.
    p : float, "spectral" or "nuclear"
        Exponent of the norm to minimise, in [1, inf], or a norm of the matrix W of several classes,
        which is the 2-norm with two.
    q : float
        Exponent of the norm that bounds the perturbations, in [1, inf].
    eps : float
        Radius of the perturbations, >= 0, in the units of the features.
    fit_intercept : bool, default=False
        Whether b is free; it is not part of the norm. Otherwise b = 0. The estimators have True:
        with a free b eps* is at least as large.
    tol : float, default=1e-8
        Certified relative gap of the margin to reach; at least 1e-6 for a matrix norm of several
        classes.
    scale : array-like of shape (d,) or dict {feature name: float}, optional
        The scale s_j >= 0 of each feature: the threat is :math:`\|\delta / s\|_q \le \epsilon`, and
        the penalty :math:`\epsilon \|s w\|_{q^*}`. The adversary cannot touch a feature of scale 0.
        Features that a dict does not name have 1, as all have by default.
    threat : Threat, optional
        A set of `sklearn_robust.threats` in place of q, eps and scale: in the program
        :math:`\max_{\delta \in U} \langle -y_i w, \delta \rangle` takes the place of the penalty.
        The sets must be in cones. It is solved by a cone program.
    sample_radius : array-like of shape (n,), optional
        A factor >= 0 on the set of each sample, beside a threat.

    Returns
    -------
    Separator

    Raises
    ------
    NotSeparableError
        If no robust separator exists: eps >= eps*, up to the relative precision to which eps* is
        known.
    ValueError
        If a parameter is out of its range, y holds one class, or the squares of X's
        entries leave float64.
    RuntimeError
        If every solver failed, or they neither found a separator nor proved that there is none.

    Warns
    -----
    ConvergenceWarning
        If the certified gap is above tol. The separator is valid all the same, and its
        `relative_gap` honest.

    See Also
    --------
    max_margin : The largest eps for which a robust separator exists.

    Notes
    -----
    It is a linear program for p and q in {1, inf}, a quadratic program for p = 2 with q in {1, inf}
    or eps = 0, and otherwise a cone program. Dense data of up to 30 million entries are solved by
    this library's own methods, with HiGHS and clarabel as the fallback; `solver` of the answer
    tells which it was. Where the separator of least norm is not unique, as it can be for p in {1,
    inf}, any of them may be returned. Where p = q* the direction does not depend on eps [1]_,
    Corollary 4.5. Steepest descent in the p-norm on the exponential or logistic robust loss tends
    to this separator's direction [1]_, Theorem 4.3.

    References
    ----------
    .. [1] N. Tsilivis, N. Frank, N. Srebro, J. Kempe. The price of implicit bias in adversarially
       robust generalization.
       NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.separators import min_norm_separator
    >>> X, y = np.array([[3.0, 1.0], [-3.0, 1.0]]), np.array([1, -1])
    >>> separator = min_norm_separator(X, y, p=2, q=np.inf, eps=1.0)
    >>> separator.coef.round(6) + 0.0
    array([0.5, 0. ])
    >>> round(separator.margin, 6)
    2.0

    Three classes:

    >>> X, y = np.array([[2.0, 0.0], [0.0, 2.0], [-2.0, -2.0]]), ["a", "b", "c"]
    >>> separator = min_norm_separator(X, y, p=2, q=np.inf, eps=0.5)
    >>> separator.coef.round(3) + 0.0
    array([[ 0.625, -0.375],
           [-0.375,  0.625],
           [-0.25 , -0.25 ]])
    """
    check_geometry(p)
    if read_threat(threat, q, eps, scale) is None:
        q, eps = check_exponent(q, "q"), check_radius(eps, "eps")
        if sample_radius is not None:
            threat, scale = LpBall(q, eps, scale), None
    if threat is None:
        assert q is not None
        assert eps is not None
        if needs_sums(X, scale):
            from sklearn_robust.separators.on_rows import least_norm_of_blocks  # it uses this one

            of_blocks, tol = least_norm_of_blocks(
                X, y, p, q=q, eps=eps, fit_intercept=fit_intercept, scale=scale, tol=tol
            )
            warn_of_gap(of_blocks.relative_gap, tol)
            return of_blocks
        problem = read_problem(X, y, q, eps, fit_intercept, scale)
    else:
        problem = read_problem_of_threat(X, y, threat, fit_intercept, sample_radius)
    check_number(tol, "tol", low=0, strict=True)
    separator, tol = _solve(problem, p, tol)
    warn_of_gap(separator.relative_gap, tol)
    return separator.on(X, y, threat, sample_radius)


def separator_path(
    X: Any,
    y: Any,
    *,
    p: float | str,
    q: float,
    eps: Any,
    fit_intercept: bool = False,
    tol: float = DEFAULT_TOL,
    scale: Any = None,
) -> list[Separator]:
    r"""The robust separators of least p-norm for a sequence of radii.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n, d)
    y : array-like of shape (n,)
        Two or more classes; of two the greater label is the positive one. Without an intercept also
        -1 or +1 alone.
    p : float, "spectral" or "nuclear"
        Exponent of the norm to minimise, in [1, inf], or a norm of the matrix W of several classes,
        which is the 2-norm with two.
    q : float
        Exponent of the norm that bounds the perturbations, in [1, inf].
    eps : array-like of shape (k,)
        Radii of the perturbations, >= 0, in any order.
    fit_intercept : bool, default=False
        Whether b is free. The estimators have True.
    tol : float, default=1e-8
        Certified relative gap of each margin to reach.
    scale : array-like of shape (d,) or dict {feature name: float}, optional
        The scale s_j >= 0 of each feature: the threat is :math:`\|\delta / s\|_q \le \epsilon`, and
        the penalty :math:`\epsilon \|s w\|_{q^*}`. The adversary cannot touch a feature of scale 0.
        Features that a dict does not name have 1, as all have by default.

    Returns
    -------
    list of k Separator
        In the order of eps; the same as `min_norm_separator` at each radius.

    Raises
    ------
    NotSeparableError
        If no robust separator exists for one of the radii: choose them below eps*, the margin of
        `max_margin`.
    ValueError
        If a parameter is out of its range, or y holds one class.

    Warns
    -----
    ConvergenceWarning
        If a certified gap is above tol.

    See Also
    --------
    max_margin : eps*, below which the radii must lie.

    Notes
    -----
    Where p = q* and features have one scale, all radii have one direction, which is found once. A
    start helps where p = 2: each radius takes a few Newton steps from those before, for q = inf,
    without an intercept and with no more samples than features, on the weights, and otherwise on
    the active set. For other p each radius is solved by itself.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.separators import separator_path
    >>> X, y = np.array([[3.0, 1.0], [-3.0, 1.0]]), np.array([1, -1])
    >>> [round(separator.margin, 6) for separator in
    ...     separator_path(X, y, p=2, q=np.inf, eps=[0.0, 1.0, 2.0])]
    [3.0, 2.0, 1.0]
    """
    check_geometry(p)
    q, radii = check_exponent(q, "q"), _check_sequence_of_radii(eps)
    check_number(tol, "tol", low=0, strict=True)
    problem = read_problem(X, y, q, 0.0, fit_intercept, scale)
    path: dict[float, Separator] = {}
    for radius in sorted(set(radii)):
        if radius in path:
            continue
        if isinstance(problem, JointProblem):
            path[radius], tol = _solve(problem.at_radius(radius), p, tol)
            continue
        before = sorted(path)[-2:]
        last = [path[smaller] for smaller in before]
        at_radius = replace(problem, radius=np.array([radius]))
        found = _refined_from(at_radius, last, tol)
        if found is None:
            found, tol = _solve(at_radius, p, tol, start=_extrapolated(last, radius))
        path[radius] = found
        if len(path) == 1:
            path |= _in_the_same_direction(problem, found, radii, tol)
    warn_of_gap(max((separator.relative_gap for separator in path.values()), default=0.0), tol)
    return [path[radius].on(X, y) for radius in radii]


def _check_sequence_of_radii(eps: Any) -> list[float]:
    """Radii in an array or sequence of shape (k,); k may be 0."""
    if isinstance(eps, str) or not np.iterable(eps) or getattr(eps, "ndim", 1) != 1:
        raise ValueError(
            f"eps must be a sequence of finite numbers >= 0, of shape (k,), got {eps!r}."
        )
    radii = list(eps)
    return check_radii(radii, "eps") if radii else []


def _in_the_same_direction(
    problem: RobustProblem, first: Separator, radii: list[float], tol: float
) -> dict[float, Separator]:
    """The separators in the direction of the first one, where p = q*, of the larger radii at which
    they reach the gap.
    """
    norm, larger = LpNorm(first.p), sorted({radius for radius in radii if radius > first.eps})
    if not lowers_all_alike(problem, norm):
        return {}
    found = {}
    for start in range(0, len(larger), _CERTIFIED_TOGETHER):
        some = np.array(larger[start : start + _CERTIFIED_TOGETHER])
        copies = replace(problem.select(np.zeros(len(some), np.intp)), radius=some)
        coef, weights = (
            np.repeat(array[None], len(some), axis=0) for array in (first.coef, first.dual_coef)
        )
        answers = certify(copies, norm, coef, weights, extended=True)
        for k, radius in enumerate(some.tolist()):
            answer = answers.single(first.solver, k)
            if answer.margin > 0 and answer.gap <= tol:
                at_radius = replace(problem, radius=some[k : k + 1])
                found[radius] = Separator.of(at_radius, norm, answer, answer.gap)
    return found


def _refined_from(problem: RobustProblem, last: list[Separator], tol: float) -> Separator | None:
    """The separator by active-set refinement from the line through the last two of a path; None
    where it does not reach the gap.

    The faces of p = 2 change little from radius to radius. The engines that are as fast as a
    refinement start from weights, or need no start.
    """
    if len(last) < 2 or last[1].p != 2 or not last[1].solver.startswith(_REFINED_SOLVERS):
        return None
    norm, form = LpNorm(2), MaxMarginForm.of(problem, LpNorm(2))
    before, here = last
    radius = float(problem.radius[0])
    coef = here.coef / norm.value(here.coef)
    coef = coef + _way_ahead(last, radius) * (coef - before.coef / norm.value(before.coef))
    weights = _extrapolated(last, radius)
    assert weights is not None
    point, _ = refined(form, Point(coef, weights), tol)
    answer = certify_point(problem, norm, point, _REFINED_SOLVERS[-1])
    found = answer.margin > 0 and answer.gap <= tol
    return Separator.of(problem, norm, answer, answer.gap) if found else None


def _extrapolated(last: list[Separator], eps: float) -> Vector | None:
    """The weights along the line through the last two of a path."""
    if len(last) < 2:
        return last[0].dual_coef if last else None
    before, here = last
    way = _way_ahead(last, eps)
    return np.maximum(here.dual_coef + way * (here.dual_coef - before.dual_coef), 0)


def _way_ahead(last: list[Separator], eps: float) -> float:
    """How far a radius lies beyond the last two of a path, relative to their distance."""
    before, here = last
    return min((eps - here.eps) / (here.eps - before.eps), _FURTHEST)


def _solve(
    problem: RobustProblem | JointProblem, p: Any, tol: float, *, start: Vector | None = None
) -> tuple[Separator, float]:
    """The separator of two or several classes, and the gap that it had to reach."""
    if not isinstance(problem, JointProblem):
        norm = read_norm(p, 2)
        assert isinstance(norm, LpNorm)
        return solve_separator(problem, norm, tol, start=start), tol
    of_matrix = read_norm(p, problem.n_classes)
    found = solve_joint_separator(problem, of_matrix, tol)
    return Separator.of(problem, of_matrix, found, found.gap), reachable_tol(of_matrix, tol)


def solve_separator(
    problem: RobustProblem, norm: LpNorm, tol: float = DEFAULT_TOL, *, start: Vector | None = None
) -> Separator:
    """`min_norm_separator` of a single problem in float64; the caller judges its gap."""
    if problem.adversary is not None or not is_ball(problem.threat):
        answer = solve_conic_separator(problem, norm, tol)
        return Separator.of(problem, norm, answer, answer.gap)
    answer = maximise_margin(problem, norm, tol, start=start)
    if answer.margin <= 0 and cancels(problem, answer.weights):
        eps = float(problem.radius[0])
        raise NotSeparableError(eps, 0.0, answer.weights, problem.fit_intercept)
    # without adversary it is the largest distance in the norm p*, for which there are more methods
    if problem.radius[0] == 0 and answer.gap > tol:
        in_norm = replace(problem, threat=LpBall(norm.dual.p, 1.0))
        answer = largest_distance(in_norm, tol).merged(answer)
    if answer.margin <= 0 or answer.gap > max(tol, _POOR_GAP):
        answer = _separator_near_eps_star(problem, norm, answer, tol)
    return Separator.of(problem, norm, answer, answer.gap)


def solve_conic_separator(problem: RobustProblem, norm: LpNorm, tol: float) -> Certified:
    """The robust separator against the sets of the samples.

    Raises
    ------
    NotSeparableError
        Where the critical factor, below which there is one, is at most 1.
    RuntimeError
        Where the programs do not decide.
    """
    if problem.adversary is None and not is_ball(problem.threat):
        require(problem.threat, ConicThreat, "an exact separator")
    answer = maximise_conic_margin(problem, norm, tol)
    if answer.margin > 0:
        return answer
    unit = float(problem.radius[0])
    one = replace(problem, radius=np.ones(1))
    star = largest_factor(one, tol)
    if star.margin > unit:  # its separator is robust, if not the one of least norm
        return certify_direction(problem, norm, star.coef, answer)
    proof = star.weights
    proven = star.bound <= unit * (1 + _TOL_EPS_STAR)
    if not proven:  # worst points, or the weights at the minimiser of a risk, may prove it
        coef, weights = decide_by_worst_points(as_joint(problem))
        if coef is not None:
            found = certify_direction(problem, norm, coef[1] - coef[0], answer)
            if found.margin > 0:
                return found
        if weights is not None:
            proven, proof = True, weights.sum(axis=0)
        else:
            end = minimise_robust_risk(problem, LOSSES["exponential"], norm)
            proven, proof = end.separable[0] is False, end.weights[0]
    if proven:
        threat = type(problem.threat).__name__
        raise NotSeparableError(
            1.0, min(star.margin / unit, 1.0), proof, problem.fit_intercept, threat=threat
        )
    raise RuntimeError(
        f"The solvers neither found a robust separator for threat={problem.threat!r} nor proved "
        f"that there is none: the critical factor lies between {star.margin / unit:.8g} and "
        f"{star.bound / unit:.8g}. Scale the features to similar sizes."
        f" {see('questions', 'separable_-is-none')}"
    )


def _separator_near_eps_star(
    problem: RobustProblem, norm: LpNorm, answer: Certified, tol: float
) -> Certified:
    """A robust separator from that of eps*, where the engines found none or a poor one.

    eps* decides whether there is one.

    Raises
    ------
    NotSeparableError
    """
    eps = float(problem.radius[0])
    fixed = fixed_features(problem)
    lower, upper = 0.0, math.inf
    proof, size = answer.weights, math.inf
    # where eps* is not reached to one precision, it may be to the other
    for precision in (min(tol, _TOL_EPS_STAR), DEFAULT_TOL):
        star = largest_distance(problem, precision)
        # below eps* its separator is robust, if not the one of least norm
        point, solver = Point(star.coef, star.weights), f"{star.solver} for eps*"
        start = certify_point(problem, norm, point, solver)
        if start.margin > 0 or answer.margin > 0:
            best = start.merged(answer)
            if isinstance(problem.rows, BlockRows):
                return best
            form, point = MaxMarginForm.of(problem, norm), Point(best.coef, best.weights)
            return certify_refined(problem, norm, form, point, best.solver, tol).merged(best)
        lower, upper = max(lower, star.margin), min(upper, star.bound)
        found = [proof, star.weights, answer.weights]
        cancelling = [cancelling_weights(problem, weights, fixed) for weights in found]
        proof, size = _smallest_weighted_sum(problem, np.stack(found + cancelling))
        if size <= eps:
            raise NotSeparableError(eps, lower, proof, problem.fit_intercept)
    if size <= eps * (1 + _TOL_EPS_STAR) and lower <= eps:
        raise NotSeparableError(eps, lower, proof, problem.fit_intercept)
    raise RuntimeError(
        f"The solvers neither found a robust separator for eps={eps:.8g} nor proved that there is "
        f"none: eps* lies between {lower:.8g} and {upper:.8g} ({star.solver}). Scale the features "
        f"to similar sizes."
        f" {see('questions', 'separable_-is-none')}"
    )


def _smallest_weighted_sum(problem: RobustProblem, proofs: Vector) -> tuple[Vector, float]:
    """The weights, of shape (m, n), of least ||Z^T a||_q, and that norm.

    Each coordinate of Z^T a is known up to its own rounding: a small feature counts beside a large
    one.
    """
    rounding = ROUNDING * problem.sizes(proofs)
    weighted_sums = np.maximum(np.abs(problem.weighted_sum(proofs)) - rounding, 0)
    sizes = problem.threat.norm.value(weighted_sums)
    best = np.argmin(sizes)
    return proofs[best], float(sizes[best])
