r"""Minimum-norm robust separators: the predictor that robust training with the geometry p tends to,
solved exactly.

Every answer is certified on the user's own data before it leaves: its margin is measured, and the
solver's multipliers are turned into a bound that no other predictor can exceed. What the solver
claims about itself is not used.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import _get_feature_names, check_X_y

from sklearn_robust._parameters import (
    check_choice,
    check_exponent,
    check_number,
    read_scale,
    refuse_lazy,
)
from sklearn_robust.certificates import Certified, Point, cancelling_weights
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators._engine_choice import (
    DEFAULT_TOL,
    largest_distance,
    largest_margin,
    largest_row,
    proven,
    refined_answer,
    scaled_program,
)
from sklearn_robust.separators._max_margin_form import Vector
from sklearn_robust.threats import LpBall, check_radius

# gap to which eps* is computed, and what ||Z^T a||_q may exceed eps by where eps equals eps*
_TOL_EPS_STAR = 1e-9
# size of a coordinate of Z^T a, relative to the terms that it sums, up to which eps* = 0 is proven
_TOL_PROOF = 1e-6
_ROUNDING_PROOF = 1e-12  # of a coordinate of Z^T a, relative to the terms that it sums


@dataclass(frozen=True)
class Separator:
    r"""A robust linear separator <w, x> + b, with the proof of how good it is.

    It is scaled so that its smallest robust margin is 1: among all such, w has the least p-norm, up
    to `relative_gap`.

    Attributes
    ----------
    coef : ndarray of shape (d,)
        w; zero where `max_margin` found that no separator exists.
    intercept : float
        b; 0 without an intercept.
    margin : float
        :math:`\min_i m_i(w) / \|w\|_p` less its rounding, in the units of the features: what this
        separator reaches at least.
    margin_bound : float
        D(dual_coef) plus its rounding: no predictor has a larger margin.
    relative_gap : float
        1 - margin / margin_bound. Where the margin is 0, margin_bound over the largest q-norm of a
        sample.
    dual_coef : ndarray of shape (n,)
        The weights that prove the bound: >= 0 and of sum 1, with an intercept of sum 1/2 in each
        class.
    perturbation : ndarray of shape (d,)
        The worst perturbation: x_i - y_i perturbation is where the adversary moves sample i.
    p, q, eps : float
        The norm of the margin, and the threat.
    fit_intercept : bool
    solver : str
        What the predictor came from.
    scale : ndarray of shape (d,) or None
        Of each feature; the threat is :math:`\|\delta / s\|_q \le \epsilon`.
    """

    coef: Vector
    intercept: float
    margin: float
    margin_bound: float
    relative_gap: float
    dual_coef: Vector
    perturbation: Vector
    p: float
    q: float
    eps: float
    fit_intercept: bool
    solver: str
    scale: Vector | None = None

    def __repr__(self) -> str:
        threat = f"p={self.p:g}, q={self.q:g}, eps={self.eps:.4g}"
        figures = f"margin={self.margin:.4g}, relative_gap={self.relative_gap:.2g}"
        used = f"{np.count_nonzero(self.coef)} of {len(self.coef)} features"
        rows = f"{np.count_nonzero(self.dual_coef)} of {len(self.dual_coef)} samples"
        return (
            f"Separator({threat}, fit_intercept={self.fit_intercept}, {figures}, "
            f"solver={self.solver!r}: uses {used}, {rows})"
        )


class NotSeparableError(ValueError):
    r"""No predictor classifies every sample rightly under every perturbation of size eps.

    Attributes
    ----------
    eps : float
        The radius asked for.
    eps_star : float
        The largest radius below which a robust separator exists; 0 where the data are not linearly
        separable at all.
    weights : ndarray of shape (n,)
        The proof: weights of the simplex (of equal class sums with an intercept) with :math:`\|Z^T
        a\|_q \le \epsilon`. Where eps equals eps_star, up to the relative precision of eps_star,
        and where it is 0 up to rounding.
    fit_intercept : bool
        Whether the intercept was free.
    """

    def __init__(
        self, eps: float, eps_star: float, weights: Vector, fit_intercept: bool = True
    ) -> None:
        if eps_star > 0:
            reason, remedy = (
                f"a robust separator exists only for eps < eps* = {eps_star:.8g}",
                "a smaller eps, or ",
            )
        else:
            reason, remedy = "they are not linearly separable, eps* = 0", ""
        if not fit_intercept:
            remedy += "fit_intercept=True, with which eps* may be larger, or "
        super().__init__(
            f"No linear predictor separates the classes with eps={eps:.8g}: {reason}. Use "
            f"{remedy}RobustLinearClassifier, "
            "which minimises the robust risk instead."
        )
        self.eps = eps
        self.eps_star = eps_star
        self.weights = weights
        self.fit_intercept = fit_intercept

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.eps, self.eps_star, self.weights, self.fit_intercept)


def min_norm_separator(
    X: Any,
    y: Any,
    *,
    p: float,
    q: float,
    eps: float,
    fit_intercept: bool = False,
    tol: float = DEFAULT_TOL,
    scale: Any = None,
) -> Separator:
    r"""The robust separator of least p-norm, i.e. of largest robust margin in the p-norm.

    .. math:: \min_{w, b} \|w\|_p \quad \text{subject to} \quad y_i (\langle w, x_i \rangle + b) -
    \epsilon \|w\|_{q^*} \ge 1.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n, d)
    y : array-like of shape (n,)
        Two classes; the greater label is the positive one. Without an intercept also -1 or +1
        alone.
    p : float
        Exponent of the norm to minimise, in [1, inf].
    q : float
        Exponent of the norm that bounds the perturbations, in [1, inf].
    eps : float
        Radius of the perturbations, >= 0, in the units of the features.
    fit_intercept : bool, default=False
        Whether b is free; it is not part of the norm. Otherwise b = 0. The estimators have True:
        with a free b eps* is at least as large.
    tol : float, default=1e-8
        Certified relative gap of the margin to reach.
    scale : array-like of shape (d,) or dict {feature name: float}, optional
        The scale s_j >= 0 of each feature: the threat is :math:`\|\delta / s\|_q \le \epsilon`, and
        the penalty :math:`\epsilon \|s w\|_{q^*}`. The adversary cannot touch a feature of scale 0.
        Features that a dict does not name have 1, as all have by default.

    Returns
    -------
    Separator

    Raises
    ------
    NotSeparableError
        If no robust separator exists: eps >= eps*, up to the relative precision to which eps* is
        known.
    ValueError
        If a parameter is out of its range, y does not hold two classes, or the squares of X's
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
    """
    norm = LpNorm(check_exponent(p, "p"))
    problem = _problem(X, y, check_exponent(q, "q"), check_radius(eps, "eps"), fit_intercept, scale)
    check_number(tol, "tol", low=0, strict=True)
    separator = solve_separator(problem, norm, tol)
    _warn_of_gap(separator.relative_gap, tol)
    return separator


def separator_path(
    X: Any,
    y: Any,
    *,
    p: float,
    q: float,
    eps: Any,
    fit_intercept: bool = False,
    tol: float = DEFAULT_TOL,
    scale: Any = None,
) -> list[Separator]:
    r"""The robust separators of least p-norm for a sequence of radii, each started from the one
    before.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n, d)
    y : array-like of shape (n,)
        Two classes; the greater label is the positive one. Without an intercept also -1 or +1
        alone.
    p : float
        Exponent of the norm to minimise, in [1, inf].
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
        If a parameter is out of its range, or y does not hold two classes.

    Warns
    -----
    ConvergenceWarning
        If a certified gap is above tol.

    See Also
    --------
    max_margin : eps*, below which the radii must lie.

    Notes
    -----
    A start helps where p = 2 and q = inf (or eps = 0), without an intercept and with no more
    samples than features: there each radius takes a few Newton steps from the one before. Elsewhere
    each radius is solved by itself.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.separators import separator_path
    >>> X, y = np.array([[3.0, 1.0], [-3.0, 1.0]]), np.array([1, -1])
    >>> [round(separator.margin, 6) for separator in
    ...     separator_path(X, y, p=2, q=np.inf, eps=[0.0, 1.0, 2.0])]
    [3.0, 2.0, 1.0]
    """
    norm, q = LpNorm(check_exponent(p, "p")), check_exponent(q, "q")
    radii = _check_radii(eps)
    check_number(tol, "tol", low=0, strict=True)
    problem = _problem(X, y, q, 0.0, fit_intercept, scale)
    path: dict[float, Separator] = {}
    for radius in sorted(set(radii)):
        at_radius = replace(problem, radius=np.array([radius]))
        path[radius] = solve_separator(
            at_radius, norm, tol, start=_extrapolated(list(path.values())[-2:], radius)
        )
    _warn_of_gap(max((separator.relative_gap for separator in path.values()), default=0.0), tol)
    return [path[radius] for radius in radii]


def _extrapolated(last: list[Separator], eps: float) -> Vector | None:
    """The weights along the line through the last two of a path."""
    if len(last) < 2:
        return last[0].dual_coef if last else None
    before, here = last
    share = (eps - here.eps) / (here.eps - before.eps)
    return np.maximum(here.dual_coef + share * (here.dual_coef - before.dual_coef), 0)


def solve_separator(
    problem: RobustProblem, norm: LpNorm, tol: float = DEFAULT_TOL, *, start: Vector | None = None
) -> Separator:
    """`min_norm_separator` of a single problem in float64, without its warning: the gap reached is
    for the caller to judge.
    """
    answer = largest_margin(problem, norm, tol, start=start)
    # the largest distance in the norm p*, which has more ways to be found
    if problem.radius[0] == 0 and answer.gap > tol:
        clean = replace(problem, threat=LpBall(norm.dual.p, 1.0))
        answer = largest_distance(clean, tol).merged(answer)
    if answer.margin <= 0:
        answer = _separator_near_eps_star(problem, norm, answer, tol)
    return _separator(problem, norm, answer, answer.gap)


def max_margin(
    X: Any,
    y: Any,
    *,
    q: float,
    fit_intercept: bool = False,
    tol: float = DEFAULT_TOL,
    scale: Any = None,
) -> Separator:
    r"""The separator of largest l_q distance to its closest sample.

    .. math:: \epsilon^* = \max_{\|w\|_{q^*} \le 1, \, b} \; \min_i y_i (\langle w, x_i \rangle + b)

    is its `margin`: a robust separator against perturbations of l_q size eps exists if and only if
    eps < eps*.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n, d)
    y : array-like of shape (n,)
        Two classes; the greater label is the positive one. Without an intercept also -1 or +1
        alone.
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

    Returns
    -------
    Separator
        With p = q* and eps = 0. If the data are not linearly separable its coef and margin are
        zero, and `dual_coef` proves it: :math:`Z^T a = 0` up to rounding. If features of scale 0
        alone separate them, a robust separator exists at every eps: margin and margin_bound are
        inf, coef is a separator that uses only such features, and `dual_coef` proves nothing.

    Raises
    ------
    ValueError
        If q is out of its range, or y does not hold two classes.
    RuntimeError
        If every solver failed.

    Warns
    -----
    ConvergenceWarning
        If the certified gap is above tol.

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
    problem = _problem(X, y, check_exponent(q, "q"), 0.0, fit_intercept, scale)
    norm = LpNorm(problem.threat.q).dual
    check_number(tol, "tol", low=0, strict=True)
    answer = largest_distance(problem, tol)
    gap = 0.0 if answer.margin == math.inf else answer.gap
    if answer.margin <= 0:
        answer = replace(answer, coef=np.zeros_like(answer.coef), intercept=0.0, margin=0.0)
        gap = answer.bound / max(
            largest_row(problem, norm), answer.bound, np.finfo(np.float64).tiny
        )
        weighted_sum = np.abs(problem.weighted_sum(answer.weights[None])[0])
        if np.any(weighted_sum > _TOL_PROOF * (answer.weights @ abs(problem.X))):
            gap = 1.0  # one feature alone may still separate: the zero is not proven
    _warn_of_gap(gap, tol)
    return _separator(problem, norm, answer, gap)


def _separator_near_eps_star(
    problem: RobustProblem, norm: LpNorm, answer: Certified, tol: float
) -> Certified:
    """Where the solvers found no robust separator: eps* decides whether there is one, and then
    provides one.

    Raises
    ------
    NotSeparableError
    """
    threat, eps = problem.threat, float(problem.radius[0])
    lower, upper, solver = 0.0, math.inf, ""
    untouched = np.flatnonzero(threat.scale == 0) if threat.scale is not None else np.empty(0, int)
    proof, size = answer.weights, math.inf
    # what stalls on the way to one may reach the other
    for precision in (min(tol, _TOL_EPS_STAR), DEFAULT_TOL):
        star = largest_distance(problem, precision)
        # below eps* its separator is robust, if not the one of least norm
        start = proven(problem, norm, Point(star.coef, star.weights), f"{star.solver} for eps*")
        if start.margin > 0:
            best = start.merged(answer)
            point = Point(best.coef, best.weights)
            return refined_answer(
                problem, norm, scaled_program(problem, norm), point, best.solver, tol
            ).merged(best)
        lower, upper, solver = max(lower, star.margin), min(upper, star.bound), star.solver
        found = [proof, star.weights, answer.weights]
        proofs = np.stack(
            found + [cancelling_weights(problem, weights, untouched) for weights in found]
        )
        # each coordinate of Z^T a is known up to its own rounding: a small feature is not lost
        # beside a large one
        rounding = _ROUNDING_PROOF * (proofs @ abs(problem.X))
        sizes = threat.norm.value(np.maximum(np.abs(problem.weighted_sum(proofs)) - rounding, 0))
        proof, size = proofs[np.argmin(sizes)], sizes.min()
        if size <= eps:
            raise NotSeparableError(eps, lower, proof, problem.fit_intercept)
    if size <= eps * (1 + _TOL_EPS_STAR) and lower <= eps:
        raise NotSeparableError(eps, lower, proof, problem.fit_intercept)
    raise RuntimeError(
        f"The solvers neither found a robust separator for eps={eps:.8g} nor proved that there is "
        f"none: eps* lies between "
        f"{lower:.8g} and {upper:.8g} ({solver}). Scale the features to similar sizes."
    )


def _check_radii(eps: Any) -> list[float]:
    if isinstance(eps, str) or not np.iterable(eps) or getattr(eps, "ndim", 1) != 1:
        raise ValueError(
            f"eps must be a sequence of finite numbers >= 0, of shape (k,), got {eps!r}."
        )
    return [check_radius(radius, "eps") for radius in eps]


def _problem(
    X: Any, y: Any, q: float, eps: float, fit_intercept: bool, scale: Any
) -> RobustProblem:
    refuse_lazy(X=X, y=y)
    check_choice(fit_intercept, "fit_intercept", (True, False))
    names = _get_feature_names(X)
    X, y = check_X_y(X, y, accept_sparse=("csr", "csc"), dtype=np.float64)
    X = sparse.csr_array(X) if sparse.issparse(X) else X
    scale, signs = read_scale(scale, X.shape[1], names), _signs(y, fit_intercept)
    return RobustProblem.from_data(X, signs, q=q, eps=eps, fit_intercept=fit_intercept, scale=scale)


def _signs(y: NDArray[Any], fit_intercept: bool) -> Vector:
    """Labels in {-1, +1}: the greater class is +1."""
    classes = np.unique(y)
    if len(classes) == 2:
        return np.where(y == classes[1], 1.0, -1.0)
    if len(classes) > 2:
        raise ValueError(
            f"y must hold two classes, got {len(classes)}. Separate several classes one against "
            f"the rest."
        )
    if fit_intercept:
        raise ValueError(
            f"y must hold two classes, got only {classes[0]!r}: with fit_intercept=True the "
            f"intercept alone classifies it. Use "
            "fit_intercept=False, or data of both classes."
        )
    if not np.isin(classes, [-1, 1]).all():
        raise ValueError(
            f"y holds only the class {classes[0]!r}, which tells no side of the separator. Use "
            f"labels -1 and +1, or "
            "data of both classes."
        )
    return y.astype(np.float64)


def _warn_of_gap(gap: float, tol: float) -> None:
    if gap > tol:
        warnings.warn(
            f"The separator's certified relative gap is {gap:.2g}, above tol={tol:.2g}. Scale the "
            f"features to similar sizes, "
            "move eps away from eps*, or accept a larger tol.",
            ConvergenceWarning,
            stacklevel=3,
        )


def _separator(problem: RobustProblem, norm: LpNorm, answer: Certified, gap: float) -> Separator:
    threat = problem.threat
    return Separator(
        coef=answer.coef,
        intercept=answer.intercept,
        margin=answer.margin,
        margin_bound=answer.bound,
        relative_gap=gap,
        dual_coef=answer.weights,
        perturbation=problem.perturbation(answer.coef[None])[0],
        p=norm.p,
        q=threat.q,
        eps=float(problem.radius[0]),
        fit_intercept=problem.fit_intercept,
        solver=answer.solver,
        scale=threat.scale,
    )
