"""Certificates of exact robust accuracies."""

from __future__ import annotations

import math
from typing import Any

from sklearn.base import BaseEstimator

from sklearn_robust._parameters import check_exponent, check_sample_weight
from sklearn_robust.metrics._given_threats import check_lone_threat, given_radius
from sklearn_robust.metrics.linear_view import linear_view
from sklearn_robust.proofs import Certificate, Claim, LabelledData, certify_accuracy, in_memory
from sklearn_robust.rows import BlockRows
from sklearn_robust.threats import Threat, check_sample_radius


def robust_accuracy_certificate(
    estimator: BaseEstimator,
    X: Any,
    y: Any = None,
    *,
    eps: float | None = None,
    q: float = math.inf,
    sample_weight: Any = None,
    scale: Any = None,
    threat: Threat | None = None,
    clip: Any = None,
    sample_radius: Any = None,
) -> Certificate:
    """The exact robust accuracy of a linear classifier, as a certificate that anyone can check.

    Parameters
    ----------
    estimator : fitted linear classifier
        As in `robust_accuracy_score`. Of a pipeline the certificate is about what its last step
        sees.
    X : array-like or sparse array of shape (n_samples, n_features), or BlockRows
        Rows in blocks are read into memory.
    y : array-like of shape (n_samples,)
        True labels, each one of the classifier's. None for BlockRows, which hold labels and
        weights.
    eps : float
        Radius of the perturbation; must be given, unless there is a threat.
    q : float, default=inf
        Exponent of the norm that bounds the perturbation: 1, 2 or inf.
    sample_weight : array-like of shape (n_samples,), optional
    scale, clip, sample_radius
        As in `robust_accuracy_score`.
    threat : Threat, optional
        In place of eps, q, scale and clip: an `LpBall` of q = 1, 2 or inf, a `Box` or a
        `FeatureBudget`, with limits of the data where the set is a box, and with one radius for
        each class or the classes that attack.

    Returns
    -------
    Certificate
        Its two figures differ by the rounding of one number at most, unless a margin is so near 0
        that 2^-128 does not decide it.

    Raises
    ------
    CertificateError
        Where the set cannot be written as a certificate.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import scale
    >>> from sklearn_robust.metrics import robust_accuracy_certificate
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = scale(X)
    >>> robust_accuracy_certificate(LogisticRegression().fit(X, y), X, y, eps=0.2)
    Certificate(0.8189806678 <= robust accuracy <= 0.8189806678)
    """
    if isinstance(X, BlockRows):
        X.refuse_beside(y=y, sample_weight=sample_weight)
        y, sample_weight = X.y, X.sample_weight
        X = in_memory(X)
    view = linear_view(estimator, X, "model")
    view.seen_class_index(y)
    weight = check_sample_weight(sample_weight, view.X)
    if threat is not None:
        check_lone_threat(threat, eps=eps, q=q, scale=scale, clip=clip)
        threat = view.bound(threat)
    else:
        threat = view.ball(check_exponent(q, "q"), given_radius(eps), scale, clip)
    data = LabelledData.of(view.X, y, weight, view.classes)
    radii = check_sample_radius(sample_radius, len(data.y))
    return certify_accuracy(Claim(data, threat, view.coef, view.intercept, sample_radius=radii))
