"""eps*: the largest radius below which a robust separator exists, and its separator.

For l_q balls; `largest_factor` is the same for other sets.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sklearn_robust._parameters import check_exponent, check_number
from sklearn_robust.certificates import Certified, Point, cancelling_weights
from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows
from sklearn_robust.separators._engine_choice import (
    DEFAULT_TOL,
    certify_point,
    certify_refined,
    largest_sample_norm,
    maximise_margin,
)
from sklearn_robust.separators._joint_factor import critical_factor
from sklearn_robust.separators._joint_margin_form import in_float64
from sklearn_robust.separators._max_margin_form import (
    SOLVER,
    MaxMarginForm,
    SolverFailure,
    column_sizes,
    over_columns,
)
from sklearn_robust.separators._newton_proof import cancels, imbalance
from sklearn_robust.separators.joint import largest_joint_distance
from sklearn_robust.separators.largest_factor import largest_factor
from sklearn_robust.separators.linear_program import solve_linear_program
from sklearn_robust.separators.separator import (
    Separator,
    needs_sums,
    read_problem,
    read_problem_of_threat,
    read_threat,
    warn_of_gap,
)
from sklearn_robust.separators.working_sets import problem_on_rows
from sklearn_robust.threats import LpBall, Threat, is_ball, require_ball

# Size of a coordinate of Z^T a, relative to the sum of its terms' sizes, up to which weights prove
# that eps* = 0.
_TOL_PROOF = 1e-6
_LEAST_BOUND = 1e-8  # bound on the critical factor of a set that counts as 0

# Dinkelbach's method
_MAX_RATIOS = 30  # steps at most; it converges superlinearly
_SLOW_RATIO = 0.01  # relative growth of the ratio, in units of tol, up to which it ends
_MAX_RATIO_ENTRIES = 100_000  # entries of X up to which it refines the answers of other methods
# size of a coordinate of Z^T a, relative to the sum of its terms' sizes, up to which weights are
# moved to make it 0
_CANCELLING = 1e-6
# relative distance from the best ratio of the radii at which weights are sought that bound it: from
# below those of a smooth norm do to the square of the distance, from beyond all do to the distance
_NEAR_RATIO = (-1e-5, 0.5 * DEFAULT_TOL, 1e-6, 1e-4)


def max_margin(
    X: Any,
    y: Any = None,
    *,
    q: float | None = None,
    fit_intercept: bool = False,
    tol: float = DEFAULT_TOL,
    scale: Any = None,
    threat: Threat | None = None,
    sample_radius: Any = None,
) -> Separator:
    r"""The separator of largest l_q distance to its closest sample.

    .. math:: \epsilon^* = \max_{\|w\|_{q^*} \le 1, \, b} \; \min_i y_i (\langle w, x_i \rangle + b)

    is its `margin`: a robust separator against perturbations of l_q size eps exists if and only if
    eps < eps*. With more than two classes it is

    .. math:: \epsilon^* = \max_{W, b} \; \min_{i, k \ne y_i} \frac{\langle w_{y_i} - w_k, x_i
       \rangle + b_{y_i} - b_k}{\|w_{y_i} - w_k\|_{q^*}}.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n, d), or BlockRows
        Rows in blocks are read once a round, and a few of them are kept in memory: of several
        classes, or with scales, the answer is a `SeparatorOnRows` with weights of these alone.
    y : array-like of shape (n,)
        Two or more classes; of two the greater label is the positive one. Without an intercept also
        -1 or +1 alone. None for BlockRows, which hold labels; their samples of weight zero are left
        out.
    q : float
        Exponent of the distance, in [1, inf].
    fit_intercept : bool, default=False
        Whether b is free; otherwise b = 0. The estimators have True: the eps* that matters to them
        is that of a free b.
    tol : float, default=1e-8
        Certified relative gap of the margin to reach.
    scale : array-like of shape (d,) or dict {feature name: float}, optional
        The scale s_j >= 0 of each feature: the threat is :math:`\|\delta / s\|_q \le \epsilon`, and
        the penalty :math:`\epsilon \|s w\|_{q^*}`. The adversary cannot touch a feature of scale 0.
        Features that a dict does not name have 1, as all have by default.
    threat : Threat, optional
        A set of `sklearn_robust.threats` in place of q and scale. The margin is then the critical
        factor: the largest multiple of the sets of the samples below which a robust separator
        exists. Sets with limits are multiplied as they are, cut by the limits.
    sample_radius : array-like of shape (n,), optional
        A factor >= 0 on the set of each sample, beside a threat.

    Returns
    -------
    Separator
        With p = q* and eps = 0. If the data are not linearly separable its coef and margin are
        zero, and `dual_coef` proves it: :math:`Z^T a = 0` up to rounding. If features of scale 0
        alone separate them, a robust separator exists at every eps: margin and margin_bound are
        inf, coef is a separator that uses only such features, and `dual_coef` proves nothing.
        Against a threat too the smallest margin without adversary is 1; where a sample of
        sample_radius 0 has margin 0 at the critical factor, the largest score is.

    Raises
    ------
    ValueError
        If q is out of its range, or y holds one class.
    RuntimeError
        If every solver failed.

    Warns
    -----
    ConvergenceWarning
        If the certified gap is above tol. Of several classes with many samples and features the
        search ends after a bounded amount of programs; margin and margin_bound enclose eps*.

    Notes
    -----
    It is `min_norm_separator` with p = q* and eps = 0 [1]_. With scales the norm is :math:`\|s
    w\|_{q^*}`, which does not bound coefficients of features of scale 0; where there are some, and
    where features have sizes far apart, eps* is found as the largest ratio of margin and norm, by
    Dinkelbach's method. The bound then holds for weights that cancel the features of scale 0
    exactly, from which `dual_coef` differs by rounding.

    References
    ----------
    .. [1] N. Tsilivis, N. Frank, N. Srebro, J. Kempe. The price of implicit bias in adversarially
       robust generalization.
       NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.separators import max_margin
    >>> X, y = np.array([[3.0, 1.0], [-3.0, 1.0]]), np.array([1, -1])
    >>> round(max_margin(X, y, q=2).margin, 6)
    3.0
    """
    check_number(tol, "tol", low=0, strict=True)
    if read_threat(threat, q, 0.0, scale) is not None:
        of_threat = read_problem_of_threat(X, y, threat, fit_intercept, sample_radius)
        if not np.any(of_threat.radius):  # the ball {0}, in a form that has multiples
            still = LpBall(math.inf, 1.0, np.zeros(of_threat.n_features))
            of_threat = replace(of_threat, threat=still, radius=of_threat.radius + 1)
        found = _critical_factor(of_threat, tol)
        warn_of_gap(found.relative_gap, tol)
        return found.on(X, y, threat, sample_radius, is_factor=True)
    q = check_exponent(q, "q")
    if needs_sums(X, scale):
        from sklearn_robust.separators.on_rows import largest_distance_of_blocks  # it uses this one

        of_blocks = largest_distance_of_blocks(
            X, y, q=q, fit_intercept=fit_intercept, scale=scale, tol=tol
        )
        warn_of_gap(of_blocks.relative_gap, tol)
        return of_blocks
    problem = read_problem(X, y, q, 0.0, fit_intercept, scale)
    if isinstance(problem, JointProblem):
        found = farthest_joint_separator(problem, largest_joint_distance(problem, tol))
    else:
        found = farthest_separator(problem, largest_distance(problem, tol))
    warn_of_gap(found.relative_gap, tol)
    return found.on(X, y, is_factor=True)


def farthest_separator(problem: RobustProblem, answer: Certified) -> Separator:
    """`max_margin` of two classes against an l_q ball, from the answer of `largest_distance`."""
    norm, gap = LpNorm(problem.threat.q).dual, answer.gap
    if answer.margin == math.inf:
        gap = 0.0
    elif answer.margin <= 0:
        answer = replace(answer, coef=np.zeros_like(answer.coef), intercept=0.0, margin=0.0)
        size = largest_sample_norm(problem, norm)
        gap = answer.bound / max(size, answer.bound, np.finfo(np.float64).tiny)
        if imbalance(problem, answer.weights) > _TOL_PROOF:
            gap = 1.0  # one feature alone may still separate: the zero is not proven
    return Separator.of(problem, norm, answer, gap)


def _critical_factor(problem: RobustProblem | JointProblem, tol: float) -> Separator:
    """`max_margin` against a threat."""
    in_cones = problem.in_cones() if isinstance(problem, JointProblem) else None
    if in_cones is not None:
        answer = critical_factor(in_float64(in_cones))
        gap = 0.0 if answer.margin == math.inf else answer.gap
        if answer.margin == 0:
            gap = 0.0 if answer.bound == 0 else 1.0  # the zero is not proven
        return Separator.of(in_cones, LpNorm(2), answer, gap)
    if isinstance(problem, JointProblem):
        require_ball(problem.threat, "max_margin of several classes", "use q, or two classes")
        radius = problem.radius
        clean = problem.at_radius(0.0)
        found = farthest_joint_separator(clean, largest_joint_distance(clean, tol))
        return replace(
            found, margin=found.margin / radius, margin_bound=found.margin_bound / radius
        )
    unit = float(problem.radius[0])
    if problem.adversary is None and is_ball(problem.threat):
        answer = largest_distance(problem, tol)
        answer = replace(answer, margin=max(answer.margin, 0.0))
    else:
        answer = largest_factor(problem, tol)
    answer = replace(answer, margin=answer.margin / unit, bound=answer.bound / unit)
    gap = 0.0 if answer.margin in (0.0, math.inf) else answer.gap
    if answer.margin == 0 and answer.bound > _LEAST_BOUND:
        gap = 1.0  # the zero is not proven
    return Separator.of(problem, LpNorm(2), answer, gap)


def farthest_joint_separator(problem: JointProblem, answer: Certified) -> Separator:
    """`max_margin` of several classes, from the answer of `largest_joint_distance`."""
    norm, gap = LpNorm(problem.threat.q).dual, answer.gap
    if answer.margin == math.inf:
        gap = 0.0
    elif answer.margin <= 0:
        gap = 0.0 if answer.bound == 0 else 1.0
    return Separator.of(problem, norm, answer, gap)


def largest_distance(problem: RobustProblem, tol: float) -> Certified:
    """eps*, the largest ||s w||_q* margin without adversary.

    It is inf where features of scale 0 alone separate the data.
    """
    scale = require_ball(problem.threat, SOLVER).scale
    plain = _without_adversary(problem)
    if scale is not None and not scale.all():
        return _largest_distance_with_fixed_features(problem, plain, tol)
    if scale is None:
        answer = _largest_plain_distance(plain, tol)
    else:  # the same in units of the scales
        answer = _largest_plain_distance(replace(plain, X=over_columns(plain.X, scale)), tol)
        point = Point(answer.coef / scale, answer.weights)
        answer = certify_point(plain, problem.threat.dual_norm, point, answer.solver)
    in_memory = not isinstance(plain.rows, BlockRows)
    few = in_memory and math.prod(plain.X.shape) <= _MAX_RATIO_ENTRIES
    if answer.margin > 0 and answer.gap > tol and few:
        return _largest_ratio(problem, answer, tol)
    return answer


def _largest_distance_with_fixed_features(
    problem: RobustProblem, plain: RobustProblem, tol: float
) -> Certified:
    """eps* where some features have scale 0."""
    answer = _largest_plain_distance(plain, tol)
    if answer.margin <= 0:  # separable for no scale
        return answer
    fixed = fixed_features(problem)
    alone = _largest_plain_distance(replace(plain, X=plain.X[:, fixed]), tol)
    if alone.margin <= 0:
        return _largest_ratio(problem, answer, tol)
    coef = np.zeros(problem.n_features)
    coef[fixed] = alone.coef
    return replace(alone, coef=coef, margin=math.inf, bound=math.inf)


def _largest_ratio(problem: RobustProblem, start: Certified, tol: float) -> Certified:
    """eps* as the largest ratio of margin and ||s w||_q*, by Dinkelbach's method.

    It starts at a separating predictor. The predictor of largest robust margin at the ratio of the
    last one has a larger ratio, until its weights prove that none has. That margin is taken with
    every feature in its own unit and max |w_j| = 1: features of scale 0, and of sizes far apart,
    are as well behaved as others there.
    """
    units = column_sizes(problem.X, centred=problem.fit_intercept)
    scale = np.ones_like(units) if problem.threat.scale is None else problem.threat.scale
    ball = LpBall(problem.threat.q, 1.0, scale / units)
    in_units = replace(problem, X=over_columns(problem.X, units), threat=ball)

    def most_robust(eps: float) -> Certified:
        """The predictor of largest robust margin at this radius, with its certified ratio."""
        at_radius = replace(in_units, radius=np.array([eps]))
        found = maximise_margin(at_radius, LpNorm(math.inf), tol)
        point = Point(found.coef / units, found.weights)
        return _certify_ratio(problem, point, f"{found.solver}, largest ratio")

    best = _certify_ratio(problem, start, start.solver)
    for _ in range(_MAX_RATIOS):
        last = best
        best = most_robust(last.margin).merged(last)
        if best.gap <= tol or best.margin <= last.margin * (1 + _SLOW_RATIO * tol):
            break
    for distance in _NEAR_RATIO:
        if best.gap > tol:
            best = best.merged(most_robust(best.margin * (1 + distance)))
    return best


def _certify_ratio(problem: RobustProblem, point: Point, solver: str) -> Certified:
    """The certified ratio of a predictor, with the better of two weights near the given ones.

    Both weights cancel the features of scale 0; the second also the features whose coordinate of
    Z^T a is small beside its terms.
    """
    plain, norm = _without_adversary(problem), problem.threat.dual_norm
    weights = point.weights
    fixed = fixed_features(problem)
    weighted_sum = np.abs(plain.weighted_sum(weights[None])[0])
    small = np.flatnonzero(weighted_sum <= _CANCELLING * (weights @ abs(plain.X)))
    first, second = (
        certify_point(
            plain, norm, Point(point.coef, cancelling_weights(plain, weights, columns)), solver
        )
        for columns in (fixed, np.union1d(fixed, small))
    )
    return second.merged(first)


def _largest_plain_distance(plain: RobustProblem, tol: float) -> Certified:
    """The largest margin without adversary in the norm q*; a linear program decides where it is 0.

    Whether data are linearly separable does not depend on the norm, and a vertex proves that they
    are not up to rounding.
    """
    norm = LpNorm(plain.threat.q).dual
    answer = maximise_margin(plain, norm, tol)
    if answer.margin > 0 or cancels(plain, answer.weights):
        return answer
    if isinstance(plain.rows, BlockRows):
        return _proven_on_weighted_rows(plain, answer, tol)
    # with every feature in its own unit: a small one may separate what large ones do not
    X = plain.X
    units = column_sizes(X, centred=plain.fit_intercept)
    if plain.fit_intercept and not sparse.issparse(X):
        X = X - X.mean(axis=0)
    in_units = replace(plain, X=over_columns(X, units))
    try:
        vertex = solve_linear_program(MaxMarginForm.of(in_units, LpNorm(math.inf)))
    except SolverFailure:
        return answer
    vertex = Point(vertex.coef / units, vertex.weights)
    form = MaxMarginForm.of(plain, norm)
    found = certify_refined(plain, norm, form, vertex, "linear program", tol)
    best = found.merged(answer)
    if best.margin <= 0 and imbalance(plain, found.weights) < imbalance(plain, best.weights):
        best = replace(best, weights=found.weights, bound=found.bound)
    return best


def _proven_on_weighted_rows(plain: RobustProblem, answer: Certified, tol: float) -> Certified:
    """The same of rows in blocks: the rows that carry weight prove for all that nothing separates.

    They are few, and in memory.
    """
    used = np.flatnonzero(answer.weights)
    part = _largest_plain_distance(problem_on_rows(plain, used), tol)
    if part.margin > 0:
        return answer
    weights = np.zeros_like(answer.weights)
    weights[used] = part.weights
    return replace(answer, weights=weights, bound=part.bound)


def fixed_features(problem: RobustProblem) -> NDArray[np.intp]:
    """The indices of the features of scale 0."""
    scale = problem.threat.scale
    return np.empty(0, np.intp) if scale is None else np.flatnonzero(scale == 0)


def _without_adversary(problem: RobustProblem) -> RobustProblem:
    """The same problem at radius 0, without scales."""
    return replace(problem, threat=LpBall(problem.threat.q, 1.0), radius=np.zeros(1))
