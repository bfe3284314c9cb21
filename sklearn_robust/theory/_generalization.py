r"""Bounds on the robust risk of linear predictors, from Rademacher complexity (Tsilivis et al.
2024, section 3).

The class is :math:`\{x \mapsto \langle w, x\rangle : \|w\|_r \le W\}`. Its empirical Rademacher
complexity on n samples, :math:`\hat R = \tfrac1n E_\sigma \sup_w \sum_i \sigma_i \langle w,
x_i\rangle`, measures how well it fits random signs; the adversarial one, :math:`\tilde R`, puts the
worst case over :math:`\|\delta\|_q \le \epsilon` in the place of each value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import check_array, check_consistent_length

from sklearn_robust._parameters import check_exponent, check_number, refuse_lazy
from sklearn_robust.certificates import robust_margin
from sklearn_robust.metrics.linear_view import linear_view
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.threats import LpBall, check_radius

_ROWS = 4096  # rows of sparse data that are made dense at a time


def rademacher_bound(X: Any, *, r: float, radius: float = 1.0) -> float:
    r"""Upper bound on the empirical Rademacher complexity of linear predictors in an r-norm ball.

    With :math:`|X|_s = \max_i \|x_i\|_s`, r* the dual exponent and W the radius,

    =============  =====================================================
    r = 1          :math:`W |X|_\infty \sqrt{2 \log(2d) / n}`
    1 < r <= 2     :math:`W |X|_{r^*} \sqrt{(r^* - 1) / n}`
    r >= 2         :math:`W |X|_2 \, d^{1/2 - 1/r} / \sqrt n`
    =============  =====================================================

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n, d)
    r : float
        Exponent of the norm that bounds the predictors, in [1, inf].
    radius : float, default=1.0
        W.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If r is outside [1, inf], or the radius is negative.

    See Also
    --------
    adversarial_rademacher_bound : With an adversary.

    Notes
    -----
    r = 1 is Massart's lemma; 1 < r <= 2 the strong convexity of :math:`\tfrac12 \|w\|_r^2` [1]_; r
    >= 2 the case r = 2 with :math:`\|w\|_2 \le d^{1/2 - 1/r} \|w\|_r`.

    References
    ----------
    .. [1] S. Kakade, K. Sridharan, A. Tewari. On the complexity of linear prediction: risk bounds,
       margin bounds, and
       regularization. NIPS 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.theory import rademacher_bound
    >>> X = np.eye(4)
    >>> rademacher_bound(X, r=2), round(rademacher_bound(X, r=1), 4)
    (0.5, 1.0197)
    """
    r = check_exponent(r, "r")
    radius = check_radius(radius, "radius")
    X = _samples(X)
    n, d = X.shape
    if r == 1:
        return radius * _largest_norm(X, LpNorm(math.inf)) * math.sqrt(2 * math.log(2 * d) / n)
    if r <= 2:
        dual = LpNorm(r).dual
        return radius * _largest_norm(X, dual) * math.sqrt((dual.p - 1) / n)
    return radius * _largest_norm(X, LpNorm(2)) * d ** (0.5 - 1 / r) / math.sqrt(n)


def adversarial_rademacher_bound(
    X: Any, *, r: float, eps: float, q: float = math.inf, radius: float = 1.0
) -> float:
    r"""Upper bound on the adversarial Rademacher complexity of linear predictors in an r-norm ball.

    .. math:: \tilde R \;\le\; \hat R + \frac{\epsilon W}{2 \sqrt n} \max(d^{1/q^* - 1/r}, 1),

    where :math:`\tilde R = \tfrac1n E_\sigma \sup_{\|w\|_r \le W} \sum_i \sigma_i (y_i \langle w,
    x_i\rangle - \epsilon \|w\|_{q^*})`. The dimension enters where r > q*: against q = inf for
    every r but 1.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n, d)
    r : float
        Exponent of the norm that bounds the predictors, in [1, inf].
    eps : float
        Radius of the perturbations, >= 0.
    q : float, default=inf
        Exponent of the norm that bounds the perturbations, in [1, inf].
    radius : float, default=1.0
        W.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If r or q is outside [1, inf], or eps or the radius is negative.

    Notes
    -----
    Eq. 6 of [1]_, after Awasthi, Frank, Mohri (2020), with the bound of `rademacher_bound` on
    :math:`\hat R`: the adversary takes :math:`\epsilon \|w\|_{q^*}`, at most :math:`\epsilon W
    \max(d^{1/q^* - 1/r}, 1)`, and :math:`E (-\tfrac1n \sum_i \sigma_i)_+ \le 1 / (2 \sqrt n)`.

    References
    ----------
    .. [1] N. Tsilivis, N. Frank, N. Srebro, J. Kempe. The price of implicit bias in adversarially
       robust generalization.
       NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.theory import adversarial_rademacher_bound
    >>> X = np.eye(4)
    >>> adversarial_rademacher_bound(X, r=2, eps=0.5)
    0.75
    >>> adversarial_rademacher_bound(X, r=2, eps=0.5, q=2)
    0.625
    """
    clean = rademacher_bound(X, r=r, radius=radius)
    dual = LpNorm(check_exponent(q, "q")).dual
    n, d = np.shape(X)
    # the largest q*-norm of a predictor of r-norm 1
    largest = max(d ** (1 / dual.p - 1 / r), 1.0)
    return clean + check_radius(eps, "eps") * radius * largest / (2 * math.sqrt(n))


def margin_generalization_bound(
    X: Any,
    y: Any,
    predictor: Any,
    *,
    r: float,
    eps: float,
    radius: float,
    q: float = math.inf,
    rho: float = 1.0,
    delta: float = 0.05,
) -> float:
    r"""Bound on the robust risk of a linear predictor, from its margins on the sample.

    With probability 1 - delta over the sample, for every w with :math:`\|w\|_r \le W` at once,

    .. math:: P(\text{robust error}) \;\le\; \frac1n \sum_i \phi_\rho(m_i(w)) + \frac{2}{\rho}
       \tilde R
        + 3 \sqrt{\frac{\log(2/\delta)}{2n}}, \qquad \phi_\rho(m) = \min(1, \max(0, 1 - m/\rho)),

    with the robust margins :math:`m_i(w) = y_i \langle w, x_i\rangle - \epsilon \|w\|_{q^*}`.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n, d)
    y : array-like of shape (n,)
        Labels: in {-1, +1} for a vector, those of the estimator otherwise.
    predictor : array-like of shape (d,), or fitted linear classifier
        w, or a classifier of two classes without intercept; in a pipeline what its last step sees
        counts.
    r : float
        Exponent of the norm that bounds the predictors, in [1, inf].
    eps : float
        Radius of the perturbations, >= 0.
    radius : float
        W. The theorem asks for one that was chosen before the data were seen.
    q : float, default=inf
        Exponent of the norm that bounds the perturbations, in [1, inf].
    rho : float, default=1.0
        Margin below which a sample counts, likewise chosen beforehand.
    delta : float, default=0.05
        Probability with which the bound may fail.

    Returns
    -------
    float
        May exceed 1, and then says nothing.

    Raises
    ------
    ValueError
        If a parameter is out of its range, the r-norm of the predictor exceeds the radius, or it
        has an intercept.

    See Also
    --------
    robust_generalization_bound : For predictors that separate the sample robustly.

    Notes
    -----
    Theorem 3.1 of [1]_ with eq. 6 for the complexity.

    References
    ----------
    .. [1] N. Tsilivis, N. Frank, N. Srebro, J. Kempe. The price of implicit bias in adversarially
       robust generalization.
       NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust import make_teacher_classification
    >>> from sklearn_robust.theory import margin_generalization_bound
    >>> teacher = np.eye(20)[0]  # the first feature decides
    >>> X, y = make_teacher_classification(100_000, 20, teacher=teacher, random_state=0)
    >>> round(margin_generalization_bound(X, y, teacher, r=1, eps=0.01, radius=1, rho=0.5), 2)
    0.4
    """
    check_number(rho, "rho", low=0, strict=True)
    problem, coef, margins = _robust_margins(X, y, predictor, q, eps)
    size = float(LpNorm(check_exponent(r, "r")).value(coef))
    if size > radius * (1 + 1e-12):
        raise ValueError(
            f"The predictor's {r:g}-norm is {size:.6g}, above radius={radius:g}. Use a larger "
            f"radius, or scale w."
        )
    ramp = float(np.clip(1 - margins / rho, 0, 1).mean())
    complexity = adversarial_rademacher_bound(problem.X, r=r, eps=eps, q=q, radius=radius)
    return ramp + 2 / rho * complexity + _confidence(len(margins), delta)


def robust_generalization_bound(
    X: Any,
    y: Any,
    predictor: Any,
    *,
    r: float,
    eps: float,
    q: float = math.inf,
    delta: float = 0.05,
) -> float:
    r"""Bound on the robust risk of whatever separates the sample robustly with an r-norm as small
    as this predictor's.

    Scale w* to :math:`\min_i y_i \langle w^*, x_i\rangle - \epsilon \|w^*\|_{q^*} = 1`. With
    probability 1 - delta every robust separator of the sample, with margin 1 and no larger r-norm,
    has the robust risk

    .. math:: P(\text{robust error}) \;\le\; 2 \tilde R + 3 \sqrt{\frac{\log(2/\delta)}{2n}}, \qquad
       W = \|w^*\|_r,

    which against q = inf is, with :math:`t = 3 \sqrt{\log(2/\delta)/2n}`,

    =====  ========================================================================
    r = 1  :math:`2 \|w^*\|_1 (|X|_\infty \sqrt{2 \log 2d} + \epsilon/2) / \sqrt n + t`
    r = 2  :math:`2 \|w^*\|_2 (|X|_2 + \epsilon \sqrt d / 2) / \sqrt n + t`
    =====  ========================================================================

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n, d)
    y : array-like of shape (n,)
        Labels: in {-1, +1} for a vector, those of the estimator otherwise.
    predictor : array-like of shape (d,), or fitted linear classifier
        The teacher w*, on any scale, or a classifier of two classes without intercept; in a
        pipeline what its last step sees counts.
    r : float
        Exponent of the norm that bounds the predictors, in [1, inf]: p of the algorithm whose limit
        is judged.
    eps : float
        Radius of the perturbations, >= 0.
    q : float, default=inf
        Exponent of the norm that bounds the perturbations, in [1, inf].
    delta : float, default=0.05
        Probability with which the bound may fail.

    Returns
    -------
    float
        May exceed 1, and then says nothing about the risk; the order of two geometries is what it
        is for.

    Raises
    ------
    ValueError
        If a parameter is out of its range, the predictor does not separate the sample robustly, or
        it has an intercept.

    See Also
    --------
    margin_generalization_bound : For predictors that do not separate, and for a radius fixed
        beforehand.

    Notes
    -----
    Proposition 3.2 of [1]_; general r by `adversarial_rademacher_bound`. It is a statement about a
    radius W fixed before the data were seen. Here W is read off the sample, as the paper does when
    it compares regimes: of a teacher whose margin holds for the whole distribution this changes
    little, of a fitted estimator it makes a figure to compare, not a guarantee.

    References
    ----------
    .. [1] N. Tsilivis, N. Frank, N. Srebro, J. Kempe. The price of implicit bias in adversarially
       robust generalization.
       NeurIPS 2024.

    Examples
    --------
    With a very sparse teacher and dense data the bound is on the side of r = 1:

    >>> import numpy as np
    >>> from sklearn_robust import make_teacher_classification
    >>> from sklearn_robust.theory import robust_generalization_bound
    >>> teacher = np.eye(512)[0]  # the first feature decides
    >>> X, y = make_teacher_classification(64, 512, teacher=teacher, random_state=0)
    >>> l1, l2 = (robust_generalization_bound(X, y, teacher, r=r, eps=0.001) for r in (1, 2))
    >>> l1 < l2
    True
    """
    problem, coef, margins = _robust_margins(X, y, predictor, q, eps)
    margin = float(
        robust_margin(
            problem, LpNorm(check_exponent(r, "r")), coef[None], np.zeros(1), margins[None]
        )[0]
    )
    if margin <= 0:
        raise ValueError(
            f"The predictor does not separate the sample robustly with eps={eps:g}: its smallest "
            f"robust margin is {margins.min():.4g}. Use a smaller eps, or "
            "margin_generalization_bound."
        )
    complexity = adversarial_rademacher_bound(problem.X, r=r, eps=eps, q=q, radius=1 / margin)
    return 2 * complexity + _confidence(len(margins), delta)


def _confidence(n: int, delta: float) -> float:
    check_number(delta, "delta", low=0, strict=True)
    if delta >= 1:
        raise ValueError(f"delta must be a probability in (0, 1), got {delta!r}. Use delta=0.05.")
    return 3 * math.sqrt(math.log(2 / delta) / (2 * n))


def _robust_margins(
    X: Any, y: Any, predictor: Any, q: float, eps: float
) -> tuple[RobustProblem, NDArray[np.float64], NDArray[np.float64]]:
    """The samples as the predictor sees them, its coefficients, and its robust margins of shape
    (n,).
    """
    ball = LpBall(check_exponent(q, "q"), check_radius(eps, "eps"))
    refuse_lazy(X=X, y=y)
    if hasattr(predictor, "fit"):
        view = linear_view(predictor, X, "model")
        if len(view.coef) > 1 or view.intercept[0] != 0:
            raise ValueError(
                f"The bounds are for two classes and no intercept, got {len(view.classes)} classes "
                f"and intercept {view.intercept.tolist()}. Use fit_intercept=False, and two "
                "classes, or one against the rest."
            )
        X = _samples(view.X)
        coef = view.coef[0].astype(float)
        signs = 2 * view.seen_class_index(y) - 1
    else:
        X, signs = _samples(X), np.asarray(y)
        coef = check_array(predictor, ensure_2d=False, dtype=float, input_name="predictor")
        if coef.shape != (X.shape[1],):
            raise ValueError(
                f"predictor must have shape ({X.shape[1]},), one weight a feature, got "
                f"{coef.shape}."
            )
        if not np.isin(signs, [-1, 1]).all():
            raise ValueError(
                f"y must hold labels in {{-1, +1}} where the predictor is a vector, got "
                f"{np.unique(signs)}."
            )
    check_consistent_length(X, signs)
    problem = RobustProblem.from_data(X, signs, threat=ball, fit_intercept=False)
    return problem, coef, problem.margins(coef[None], np.zeros(1))[0]


def _samples(X: Any) -> Any:
    refuse_lazy(X=X)
    return check_array(X, accept_sparse=("csr",), dtype=(np.float64, np.float32))


def _largest_norm(X: Any, norm: LpNorm) -> float:
    parts = (X[i : i + _ROWS] for i in range(0, X.shape[0], _ROWS))
    return max(
        float(norm.value(part.toarray() if sparse.issparse(part) else part).max()) for part in parts
    )
