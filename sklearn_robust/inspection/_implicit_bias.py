"""A fitted linear classifier beside the exact minimum-norm robust separator.

The report of an l_q ball names its exponent and radius, that of another set the set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array

from sklearn_robust._parameters import check_exponent, is_training
from sklearn_robust.certificates import relative_gap, robust_margin
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import robust_margin as joint_robust_margin
from sklearn_robust.metrics.linear_view import LinearView, linear_view, unwrapped
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators import NotSeparableError, Separator, min_norm_separator
from sklearn_robust.separators.separator import check_geometry, read_norm
from sklearn_robust.threats import Threat, check_radius, is_ball


@dataclass(frozen=True)
class ImplicitBiasReport:
    """How far a direction is from the robust separator of least norm.

    Where the data are not robustly separable there is no such separator: it is then None, and the
    figures that compare with it are nan. For several classes the coefficients are W of shape (K,
    d), whose entries are one vector.

    Attributes
    ----------
    cosine : float
        Cosine between the two coefficient vectors.
    margin : float
        Smallest robust margin of the classifier over the norm of its coefficients; for several
        classes over all pairs of a sample's class and a rival.
    margin_ratio : float
        That margin over the largest possible one; 1 at the limit, negative where the data are not
        robustly separated.
    norm_ratio : float
        Norm of the classifier, scaled to a smallest robust margin of 1, over that of the separator;
        inf without a positive margin.
    dual_gap : float
        Certified relative gap 1 - margin / bound, with the bound that the separator's weights
        prove; inf for a negative margin.
    separator : Separator or None
        The exact limit, if there is one.
    p : float or {"spectral", "nuclear"}
        The norm.
    q, eps : float or None
        The threat, where it is an l_q ball.
    eps_star : float or None
        Without a separator, the radius below which there is one, or the factor on the set: 0 where
        the data are not linearly separable.
    threat : Threat or None
        The threat, where it is no l_q ball.
    """

    cosine: float
    margin: float
    margin_ratio: float
    norm_ratio: float
    dual_gap: float
    separator: Separator | None
    p: float | str
    q: float | None
    eps: float | None
    eps_star: float | None = None
    threat: Threat | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __str__(self) -> str:
        if self.separator is None and self.eps_star:
            factor = "eps < eps* =" if self.threat is None else "factors on the set <"
            return (
                f"not robustly separable, margin {self.margin:.4g}: a separator exists for "
                f"{factor} {self.eps_star:.4g}"
            )
        if self.separator is None:
            return f"not linearly separable, margin {self.margin:.4g}"
        p = self.p if isinstance(self.p, str) else f"{self.p:g}"
        if self.threat is None:
            threat = f"q={self.q:g}, eps={self.eps:g}"
        else:
            threat = f"threat={type(self.threat).__name__}"
        return (
            f"cosine {self.cosine:.4f}, margin ratio {self.margin_ratio:.4f}, norm ratio "
            f"{self.norm_ratio:.4f}, certified gap {self.dual_gap:.2e} (p={p}, {threat})"
        )


def implicit_bias_report(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    *,
    p: float | str | None = None,
    q: float | None = None,
    eps: float | None = None,
    scale: Any = "training",
    threat: Threat | None = None,
) -> ImplicitBiasReport:
    r"""Compare a fitted linear classifier with the exact minimum-norm robust separator of its
    training data.

    Steepest descent in the p-norm on the robust risk tends in direction to
    :math:`\min \|w\|_p` subject to :math:`y_i (\langle w, x_i\rangle + b) - \epsilon \|w\|_{q^*}
    \ge 1`; the report says how near it came. For several classes, jointly, the separator is
    :math:`\min \|W\|` subject to :math:`m_{ik} \ge 1` for all samples i and rivals k, with
    :math:`m_{ik} = \langle w_{y_i} - w_k, x_i\rangle + b_{y_i} - b_k - \epsilon \|w_{y_i} -
    w_k\|_{q^*}`.

    Parameters
    ----------
    estimator : fitted linear classifier, pipeline that ends in one, or search over either
        One of this library, or any linear classifier with `coef_`, `intercept_` and `classes_`. In
        a pipeline the report is on what its last step sees.
    X : array-like or sparse array of shape (n_samples, n_features)
        Training data, as the estimator was given them.
    y : array-like of shape (n_samples,)
        Labels of the training data: of every class of the estimator, and of no other.
    p : float or {"spectral", "nuclear"}, optional
        Norm of the coefficients; by default that of the estimator's fit (p = 1 for
        RobustDiagonalNet).
    q, eps : float, optional
        An l_q ball; by default the threat of the estimator's fit.
    scale : "training", None, array-like of shape (n_features,) or dict, default="training"
        How far the adversary can move each feature, in what the last step of a pipeline sees; by
        default as in training, None moves all alike.
    threat : Threat, optional
        The set of perturbations as an object, in place of q, eps and scale.

    Returns
    -------
    ImplicitBiasReport
        For data that are not robustly separable at eps, the report has no separator, and eps*
        instead.

    Raises
    ------
    ValueError
        If p, q or eps is neither given nor known from the fit, or if y does not fit the classes of
        the estimator.

    Notes
    -----
    Judge by the margin ratio first: where the separator of least norm is not unique, or nearly so,
    a direction with almost the largest margin may stand at an angle to it. The scores of several
    classes decide alike when all rows of W move by one vector, but the norm of W changes: of
    classifiers of other libraries, and of one against the rest, the norm is that of their
    coefficients as they stand.

    Examples
    --------
    >>> from sklearn_robust import RobustLinearClassifier, implicit_bias_report
    >>> from sklearn_robust import make_teacher_classification
    >>> X, y = make_teacher_classification(40, 80, random_state=0)
    >>> model = RobustLinearClassifier(p_algo=2, eps=0.1, fit_intercept=False, loss_tol=0).fit(X, y)
    >>> report = implicit_bias_report(model, X, y)
    >>> report.cosine > 0.99, report.margin_ratio > 0.99
    (True, True)
    """
    view = linear_view(estimator, X, "model")
    classifier = unwrapped(estimator)[1]
    geometry = check_geometry(_given(classifier, p, getattr(classifier, "_p", None), "p"))
    threat = _threat(view, classifier, q, eps, scale, threat)
    ball = threat if is_ball(threat) else None
    fit_intercept = has_intercept(classifier)
    index = training_index(view, y)
    X = check_array(view.X, accept_sparse=("csr",), dtype=np.float64)
    separator, eps_star = None, None
    try:
        given: dict[str, Any] = {"threat": threat}
        if ball is not None:
            given = {"q": ball.q, "eps": ball.eps, "scale": ball.scale}
        labels = view.classes[index]
        separator = min_norm_separator(X, labels, p=geometry, fit_intercept=fit_intercept, **given)
    except NotSeparableError as error:
        eps_star = error.eps_star
    margin = smallest_margin(view, X, index, geometry, threat, fit_intercept)
    return ImplicitBiasReport(
        **_figures(view.coef.astype(float), margin, separator),
        margin=margin,
        separator=separator,
        p=geometry,
        q=None if ball is None else ball.q,
        eps=None if ball is None else ball.eps,
        eps_star=eps_star,
        threat=threat if ball is None else None,
    )


def _threat(
    view: LinearView, classifier: Any, q: Any, eps: Any, scale: Any, threat: Threat | None
) -> Any:
    """The threat given, as an object or as a ball; by default that of the fit."""
    given = q is not None or eps is not None or not is_training(scale)
    if threat is not None:
        if given:
            raise ValueError(
                f"threat takes the place of q, eps and scale, got threat={threat!r} beside "
                f"q={q!r}, eps={eps!r} and scale={scale!r}. Leave out one or the others."
            )
        return view.bound(threat)
    trained = getattr(classifier, "threat_", None)
    if trained is not None and not is_ball(trained) and not given:
        return trained
    fitted = trained if is_ball(trained) else None
    fitted_q, fitted_eps = (None, None) if fitted is None else (fitted.q, fitted.eps)
    q = check_exponent(_given(classifier, q, fitted_q, "q"), "q")
    eps = check_radius(_given(classifier, eps, fitted_eps, "eps"), "eps")
    if is_training(scale):
        scale = None if fitted is None else fitted.scale
    return view.ball(q, eps, scale)


def training_index(view: LinearView, y: Any) -> np.ndarray:
    """Index of each label, where every class must have a sample."""
    index = view.seen_class_index(y)
    missing = np.setdiff1d(np.arange(len(view.classes)), index)
    if len(missing):
        raise ValueError(
            f"y has no sample of the classes {view.classes[missing].tolist()}: the report compares "
            f"with the training data."
        )
    return index


def has_intercept(classifier: Any) -> bool:
    """Whether a linear classifier fits an intercept."""
    return bool(getattr(classifier, "_fit_intercept", getattr(classifier, "fit_intercept", True)))


def smallest_margin(
    view: LinearView,
    X: Any,
    index: np.ndarray,
    p: float | str,
    threat: Any,
    fit_intercept: bool,
) -> float:
    """The smallest robust margin of the classifier over the norm of its coefficients."""
    norm = read_norm(p, len(view.classes))
    coef, intercept = view.coef.astype(float), view.intercept.astype(float)
    if len(coef) > 1:
        several = JointProblem.from_data(
            X,
            index,
            threat=threat,
            fit_intercept=fit_intercept,
            labels=view.classes.tolist(),
        )
        return joint_robust_margin(several, norm, coef, intercept)
    two = RobustProblem.from_data(
        X,
        2.0 * index - 1,
        threat=threat,
        fit_intercept=fit_intercept,
        classes=view.classes.tolist(),
    )
    return float(robust_margin(two, norm, coef, intercept)[0])


def _figures(coef: np.ndarray, margin: float, separator: Separator | None) -> dict[str, float]:
    """The figures that compare a classifier with the separator."""
    names = ("cosine", "margin_ratio", "norm_ratio", "dual_gap")
    if separator is None:
        return dict.fromkeys(names, math.nan)
    if margin == -math.inf:
        return dict(zip(names, (math.nan, -math.inf, math.inf, math.inf), strict=True))
    w, exact = coef.ravel(), separator.coef.ravel()
    return {
        "cosine": float(w @ exact / (np.linalg.norm(w) * np.linalg.norm(exact))),
        "margin_ratio": margin / separator.margin,
        "norm_ratio": separator.margin / margin if margin > 0 else math.inf,
        "dual_gap": relative_gap(margin, separator.margin_bound),
    }


def _given(estimator: BaseEstimator, value: Any, fitted: Any, name: str) -> Any:
    """The value given, or that of the fit."""
    if value is None and fitted is None:
        raise ValueError(
            f"{name} must be given: {type(estimator).__name__} knows none from its fit."
        )
    return fitted if value is None else value
