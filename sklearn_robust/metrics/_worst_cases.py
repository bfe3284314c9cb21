"""Certified radii of linear classifiers, and the samples that the adversary makes of given ones."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_robust._parameters import check_exponent
from sklearn_robust.attacks.linear import boundary_distances, worst_moves
from sklearn_robust.metrics._given_threats import check_lone_threat, given_radius
from sklearn_robust.metrics.linear_view import linear_view
from sklearn_robust.rows import BlockRows
from sklearn_robust.threats import Threat, check_sample_radius


def certified_radius(
    estimator: BaseEstimator,
    X: Any,
    y: Any = None,
    *,
    q: float = math.inf,
    space: str = "model",
    scale: Any = None,
    threat: Threat | None = None,
    clip: Any = None,
) -> np.ndarray:
    r"""l_q distance of each sample to the decision boundary of a linear classifier.

    Parameters
    ----------
    estimator : fitted linear classifier
        As in `robust_accuracy_score`.
    X : array-like or sparse array of shape (n_samples, n_features), or BlockRows
    y : array-like of shape (n_samples,), optional
        True labels: the distance is then negative where the prediction is wrong, on the boundary
        too (by the smallest number there is). By default that of the predicted class, which is
        never negative. BlockRows bring the true labels, and y is None.
    q : float, default=inf
        Exponent of the norm in which the distance is measured, in [1, inf].
    space : {"model", "input"}, default="model"
        As in `robust_accuracy_score`.
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        The distance is then measured in :math:`\|\delta / s\|_q`, as in `robust_accuracy_score`.
    threat : Threat, optional
        A set of perturbations as an object, in place of q, scale and clip. The radius is then the
        factor by which the set can grow before it changes the decision; of an `LpBall` of one
        radius, whatever it is, the distance in its norm. Limits do not grow with the set, and of
        changes that are counted, of categories or of 0 and 1, the number grows.
    clip : pair (low, high) of numbers or arrays of shape (n_features,), optional
        Limits of the data, as in `robust_accuracy_score`.

    Returns
    -------
    ndarray of shape (n_samples,)
        No perturbation of smaller norm changes the decision; inf if none at all does, as where the
        classifier uses only features of scale 0.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_robust.metrics import certified_radius
    >>> X, y = np.array([[-1.0, 0.0], [1.0, 0.0]]), [0, 1]
    >>> certified_radius(LogisticRegression().fit(X, y), X).round(3)
    array([1., 1.])
    """
    if isinstance(X, BlockRows):
        X.refuse_beside(y=y)
        options: dict[str, Any] = {"space": space, "scale": scale, "threat": threat, "clip": clip}
        radii = [
            certified_radius(estimator, block.X, block.y, q=q, **options) for block in X.blocks()
        ]
        return np.concatenate(radii)
    if threat is not None:
        check_lone_threat(threat, eps=None, q=q, scale=scale, clip=clip)
    view = linear_view(estimator, X, space)
    if threat is None:
        threat = view.ball(check_exponent(q, "q"), 1.0, scale, clip)
    else:
        threat = view.bound(threat)
    index = view.predicted if y is None else view.class_index(y)
    distances = view.figures(partial(boundary_distances, rivals=view.rivals(threat)), index)
    # the sign says what predict answers, on the boundary too
    below = -np.finfo(distances.dtype).tiny
    signed = np.where(
        index == view.predicted, np.maximum(distances, 0), np.minimum(distances, below)
    )
    return np.where(index >= 0, signed, -math.inf)


def worst_case_samples(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    *,
    eps: float | None = None,
    q: float = math.inf,
    space: str = "model",
    scale: Any = None,
    threat: Threat | None = None,
    clip: Any = None,
    sample_radius: Any = None,
) -> np.ndarray:
    """Each sample moved by the perturbation that makes its margin least, exactly.

    Parameters
    ----------
    estimator : fitted linear classifier
        As in `robust_accuracy_score`.
    X : array-like or sparse array of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
        True labels, each one of the classes of the fit.
    eps, q, scale, threat, clip, sample_radius
        As in `robust_accuracy_score`.
    space : {"model", "input"}, default="model"
        Where the perturbations live, and the samples that are returned: "model" is what the last
        step of a pipeline sees, "input" what the pipeline sees.

    Returns
    -------
    ndarray of shape (n_samples, n_features of the space)
        In the set of each sample: categories stay one-hot, 0 and 1 stay such, limits and relations
        are kept. Against a set without bound they lie far along its ray. With space="input" NaN
        stands for entries that no perturbation changes, such as missing ones and those that an
        encoder reads.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_robust.metrics import worst_case_samples
    >>> from sklearn_robust.threats import Box
    >>> X, y = np.array([[0.1, 0.0], [0.9, 1.0]]), [0, 1]
    >>> model = LogisticRegression().fit(X, y)
    >>> worst_case_samples(model, X, y, threat=Box(-0.3, 0.3, clip=(0, 1)))
    array([[0.4, 0.3],
           [0.6, 0.7]])
    """
    if threat is not None:
        check_lone_threat(threat, eps=eps, q=q, scale=scale, clip=clip)
    view = linear_view(estimator, X, space)
    if threat is None:
        threat = view.ball(check_exponent(q, "q"), given_radius(eps), scale, clip)
    else:
        threat = view.bound(threat)
    index = view.seen_class_index(y)
    rivals = view.rivals(threat, check_sample_radius(sample_radius, len(index)))
    moves = view.figures(partial(worst_moves, rivals=rivals), index)
    points = view.points
    return (points.toarray() if hasattr(points, "toarray") else points) + moves
