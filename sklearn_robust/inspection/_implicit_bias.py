"""A fitted linear classifier beside the exact minimum-norm robust separator.

The exact separator serves l_q balls, and so does this report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array

from sklearn_robust._parameters import check_exponent, is_training
from sklearn_robust.certificates import relative_gap, robust_margin
from sklearn_robust.linear_model.base import positive_classes
from sklearn_robust.metrics.linear_view import linear_view, unwrapped
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators import NotSeparableError, Separator, min_norm_separator
from sklearn_robust.threats import check_radius, is_ball


@dataclass(frozen=True)
class ImplicitBiasReport:
    """How far one direction is from the robust separator of least p-norm.

    Where the data are not robustly separable there is no such separator: it is then None, and the
    figures that compare with it are nan.

    Attributes
    ----------
    cosine : float
        Cosine between the two coefficient vectors.
    margin : float
        Smallest robust margin of the classifier over the p-norm of its coefficients.
    margin_ratio : float
        That margin over the largest possible one; 1 at the limit, negative where the data are not
        robustly separated.
    norm_ratio : float
        p-norm of the classifier, scaled to a smallest robust margin of 1, over that of the
        separator; inf without a positive margin.
    dual_gap : float
        Certified relative gap 1 - margin / bound, with the bound that the separator's weights
        prove; inf for a negative margin.
    separator : Separator or None
        The exact limit, if there is one.
    label : object
        The class that is separated from the rest.
    eps_star : float or None
        Without a separator, the radius below which there is one: 0 where the data are not linearly
        separable.
    """

    cosine: float
    margin: float
    margin_ratio: float
    norm_ratio: float
    dual_gap: float
    separator: Separator | None
    label: Any
    eps_star: float | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __str__(self) -> str:
        if self.separator is None and self.eps_star:
            return (
                f"class {self.label} is not robustly separable from the rest, margin "
                f"{self.margin:.4g}: a separator exists for eps < eps* = {self.eps_star:.4g}"
            )
        if self.separator is None:
            return (
                f"class {self.label} is not linearly separable from the rest, margin "
                f"{self.margin:.4g}"
            )
        return (
            f"cosine {self.cosine:.4f}, margin ratio {self.margin_ratio:.4f}, norm ratio "
            f"{self.norm_ratio:.4f}, certified gap {self.dual_gap:.2e} (p={self.separator.p:g}, "
            f"q={self.separator.q:g}, eps={self.separator.eps:g})"
        )


def implicit_bias_report(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    *,
    p: float | None = None,
    q: float | None = None,
    eps: float | None = None,
    scale: Any = "training",
) -> ImplicitBiasReport | list[ImplicitBiasReport]:
    r"""Compare a fitted linear classifier with the exact minimum-norm robust separator of its
    training data.

    Steepest descent in the p-norm on the robust risk tends in direction to
    :math:`\min \|w\|_p` subject to :math:`y_i (\langle w, x_i\rangle + b) - \epsilon \|w\|_{q^*}
    \ge 1`; the report says how near it came.

    Parameters
    ----------
    estimator : fitted linear classifier, pipeline that ends in one, or search over either
        One of this library, or any linear classifier with `coef_`, `intercept_` and `classes_`. In
        a pipeline the report is on what its last step sees.
    X : array-like or sparse array of shape (n_samples, n_features)
        Training data, as the estimator was given them.
    y : array-like of shape (n_samples,)
        Labels of the training data: of every class of the estimator, and of no other.
    p, q, eps : float, optional
        Geometry and threat, an l_q ball; by default those of the estimator's fit (p = 1 for
        RobustDiagonalNet).
    scale : "training", None, array-like of shape (n_features,) or dict, default="training"
        How far the adversary can move each feature, in what the last step of a pipeline sees; by
        default as in training, None moves all alike.

    Returns
    -------
    ImplicitBiasReport, or a list with one for each class against the rest where there are several

        For data that are not robustly separable at eps, the report has no separator, and eps*
        instead.

    Raises
    ------
    ValueError
        If p, q or eps is neither given nor known from the fit, as q and eps are not of a threat
        that is no l_q ball, or if y does not fit the classes of the estimator.

    Notes
    -----
    Judge by the margin ratio first: where the separator of least norm is not unique, or nearly so,
    a direction with almost the largest margin may stand at an angle to it.

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
    trained = getattr(classifier, "threat_", None)
    fitted = trained if is_ball(trained) else None
    fitted_q, fitted_eps = (None, None) if fitted is None else (fitted.q, fitted.eps)
    norm = LpNorm(check_exponent(_given(classifier, p, getattr(classifier, "_p", None), "p"), "p"))
    q = check_exponent(_given(classifier, q, fitted_q, "q"), "q")
    eps = check_radius(_given(classifier, eps, fitted_eps, "eps"), "eps")
    if is_training(scale):
        scale = None if fitted is None else fitted.scale
    threat = view.ball(q, eps, scale)
    fit_intercept = bool(
        getattr(classifier, "_fit_intercept", getattr(classifier, "fit_intercept", True))
    )
    labels = view.classes[view.seen_class_index(y)]
    missing = np.setdiff1d(view.classes, labels)
    if len(missing):
        raise ValueError(
            f"y has no sample of the classes {missing.tolist()}: the report compares with the "
            f"training data."
        )
    data = check_array(view.X, accept_sparse=("csr",), dtype=(np.float64, np.float32))
    reports = []
    for label, coef, intercept in zip(
        positive_classes(view.classes), view.coef.astype(float), view.intercept, strict=True
    ):
        signs = np.where(labels == label, 1.0, -1.0)
        try:
            separator = min_norm_separator(
                view.X,
                signs,
                p=norm.p,
                q=threat.q,
                eps=threat.eps,
                fit_intercept=fit_intercept,
                scale=threat.scale,
            )
            eps_star = None
        except NotSeparableError as error:
            separator, eps_star = None, error.eps_star
        problem = RobustProblem.from_data(data, signs, threat=threat, fit_intercept=fit_intercept)
        at = np.array([intercept], dtype=float)
        margin = float(robust_margin(problem, norm, coef[None], at)[0])
        report = _compare(coef, margin, separator, label)
        reports.append(replace(report, eps_star=eps_star))
    return reports[0] if len(view.coef) == 1 else reports


def _compare(
    coef: np.ndarray, margin: float, separator: Separator | None, label: Any
) -> ImplicitBiasReport:
    if separator is None:
        return ImplicitBiasReport(math.nan, margin, math.nan, math.nan, math.nan, None, label)
    if margin == -math.inf:
        return ImplicitBiasReport(math.nan, margin, -math.inf, math.inf, math.inf, separator, label)
    return ImplicitBiasReport(
        cosine=float(
            coef @ separator.coef / (np.linalg.norm(coef) * np.linalg.norm(separator.coef))
        ),
        margin=margin,
        margin_ratio=margin / separator.margin,
        norm_ratio=separator.margin / margin if margin > 0 else math.inf,
        dual_gap=relative_gap(margin, separator.margin_bound),
        separator=separator,
        label=label,
    )


def _given(estimator: BaseEstimator, value: float | None, fitted: float | None, name: str) -> float:
    """The value given, or that of the fit."""
    if value is None and fitted is None:
        raise ValueError(
            f"{name} must be given: {type(estimator).__name__} knows none from its fit."
        )
    return fitted if value is None else value  # type: ignore[return-value]
