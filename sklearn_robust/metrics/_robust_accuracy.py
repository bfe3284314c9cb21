"""Exact robust accuracy and certified radius of linear classifiers, and a scorer of one threat.

Any threat is served; exponent and scale are read where the threat is an l_q ball, which other
classifiers than linear ones need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import _check_sample_weight

from sklearn_robust._parameters import check_choice, check_exponent, refuse_lazy
from sklearn_robust.attacks.linear import boundary_distances, least_margins
from sklearn_robust.metrics.linear_view import (
    SPACES,
    LinearView,
    is_linear,
    linear_view,
    transformed,
    unwrapped,
)
from sklearn_robust.rows import BlockRows
from sklearn_robust.threats import (
    Threat,
    check_is_threat,
    check_radius,
    check_scale,
    radius_of,
    require_ball,
)


def robust_accuracy_score(
    estimator: BaseEstimator,
    X: Any,
    y: Any = None,
    *,
    eps: float | None = None,
    q: float = math.inf,
    sample_weight: Any = None,
    space: str = "model",
    scale: Any = None,
    threat: Threat | None = None,
    attack_params: dict[str, Any] | None = None,
) -> float:
    r"""Fraction of samples that stay correctly classified under every perturbation of the threat.

    For a linear classifier it is exact: the worst case over :math:`\|\delta\|_q \le \epsilon` has a
    closed form, for two classes and for several. For a network of this library it is its
    `robust_score`, the accuracy under an attack and so an upper bound.

    Parameters
    ----------
    estimator : fitted classifier
        One of this library, a linear classifier of scikit-learn (LogisticRegression, LinearSVC,
        SGDClassifier, RidgeClassifier, Perceptron, ...), a pipeline that ends in one, or a search
        over any of these, nested at will. Around linear classifiers FrozenEstimator,
        FixedThresholdClassifier, TunedThresholdClassifierCV and OneVsRestClassifier, and
        CalibratedClassifierCV of one classifier (ensemble=False or frozen) with method "sigmoid" or
        "temperature". Samplers of imbalanced-learn are skipped, as predict skips them.
    X : array-like or sparse array of shape (n_samples, n_features), or BlockRows
        Rows in blocks, such as `sklearn_robust.rows.NpyRows`, are scored block by block.
    y : array-like of shape (n_samples,)
        True labels; one that the classifier has never seen counts as broken. None for BlockRows,
        which hold labels and weights.
    eps : float
        Radius of the perturbation, in the units of the space it lives in; must be given, unless
        there is a threat.
    q : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf].
    sample_weight : array-like of shape (n_samples,), optional
    space : {"model", "input"}, default="model"
        Where eps lives when the estimator is a pipeline. "model": the adversary moves what the last
        step sees, for example standardised features. "input": it moves the raw input; a scaler then
        turns eps into a radius per feature. The transformers must be affine: those that
        `sklearn_robust.metrics.coef_on_input` knows. Columns that an encoder of categories reads
        are out of the adversary's reach, and so are entries without a value, which an imputer
        fills.
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        How far the adversary can move each feature, relative to the others: the threat is
        :math:`\|\delta / s\|_q \le \epsilon`, and a feature of scale 0 is out of its reach.
        Features that a dict does not name have 1, as all have by default. It lives in the space of
        eps, in the order of the columns in fit.
    threat : Threat, optional
        The set of perturbations as an object, in place of eps, q and scale: an `LpBall`, or a set
        of one's own for linear classifiers, of which `threats.Threat` says what it needs.
    attack_params : dict, optional
        Keywords of a network's `robust_score`, such as `{"attack": "ensemble", "n_restarts": 5}`.
        Linear classifiers need no attack, and none is run on them.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError
        If the classifier is not linear and has no `robust_score`, or if a transformer between it
        and the threat is not affine.
    ValueError
        If eps, q, space, scale or threat is not one of the values above, labels are missing or of
        another type than in training, or sample_weight has negative entries or only zeros.

    Notes
    -----
    Several classes: the robust margin of (x, y) is :math:`\min_{k \ne y} f_y(x) - f_k(x) - \epsilon
    \|s (w_y - w_k)\|_{q^*}`, with s = 1 where there is no scale. At eps = 0 the score is the
    accuracy: a tie is what predict makes of it. At eps > 0 a sample whose margin is exactly zero
    counts as broken.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_robust.metrics import robust_accuracy_score
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    >>> round(robust_accuracy_score(model, X, y, eps=0.0), 3)
    0.988
    >>> round(robust_accuracy_score(model, X, y, eps=0.2), 3)
    0.819
    """
    if threat is not None:
        _check_lone_threat(threat, eps=eps, q=q, scale=scale)
    else:
        eps = _radius(eps)
        q = check_exponent(q, "q")
    check_choice(space, "space", SPACES)
    if isinstance(X, BlockRows):
        X.refuse_beside(y=y, sample_weight=sample_weight)
        score = partial(
            robust_accuracy_score,
            estimator,
            eps=eps,
            q=q,
            space=space,
            scale=scale,
            threat=threat,
            attack_params=attack_params,
        )
        return X.average(score)
    refuse_lazy(X=X, y=y, sample_weight=sample_weight)
    steps, classifier = unwrapped(estimator)
    if (
        not is_linear(classifier)
        and hasattr(classifier, "robust_score")
        and (space == "model" or not steps)
    ):
        if threat is not None:
            name = type(classifier).__name__
            given = require_ball(threat, f"the score of {name}", "use an LpBall, or eps and q")
            eps = given.eps
            q, scale = given.q, given.scale
        ball = {"eps": eps, "q": q}
        # a classifier that was trained with scales is given their absence, too
        if scale is not None or hasattr(classifier, "scale_"):
            ball["scale"] = scale
        return float(
            classifier.robust_score(
                transformed(steps, X),
                y,
                sample_weight=sample_weight,
                **ball,
                **(attack_params or {}),
            )
        )
    view = linear_view(estimator, X, space)
    if threat is None:
        threat = view.ball(q, check_radius(eps, "eps"), scale)
    else:
        threat = view.check_threat(threat)
    robust = is_robust(view, y, threat)
    return float(
        np.average(
            robust, weights=_check_sample_weight(sample_weight, robust, ensure_non_negative=True)
        )
    )


def _radius(eps: float | None) -> float:
    """The radius that scores, of a call without a threat."""
    if eps is None:
        raise ValueError(
            "eps, the radius of the l_q ball, or threat must be given, got neither. Use eps=0 for "
            "the accuracy without an adversary."
        )
    return check_radius(eps, "eps")


def _check_lone_threat(threat: Any, *, eps: Any, q: float, scale: Any) -> None:
    """Refuse what is no threat, and eps, q or scale beside one."""
    check_is_threat(threat)
    if eps is not None or q != math.inf or scale is not None:
        raise ValueError(
            f"threat takes the place of eps, q and scale, got threat={threat!r} beside "
            f"eps={eps!r}, q={q!r} and scale={scale!r}. Leave out one or the others."
        )


def is_robust(view: LinearView, y: Any, threat: Threat) -> np.ndarray:
    """Which samples stay correctly classified, of shape (n,)."""
    index = view.class_index(y)
    right = index == view.predicted
    radius = radius_of(threat)
    if radius == 0:  # a tie is what predict makes of it
        return right
    return right & (view.figures(partial(least_margins, eps=radius), index, threat) > 0)


def certified_radius(
    estimator: BaseEstimator,
    X: Any,
    y: Any = None,
    *,
    q: float = math.inf,
    space: str = "model",
    scale: Any = None,
    threat: Threat | None = None,
) -> np.ndarray:
    r"""l_q distance of each sample to the decision boundary of a linear classifier.

    Parameters
    ----------
    estimator : fitted linear classifier
        As in `robust_accuracy_score`.
    X : array-like or sparse array of shape (n_samples, n_features)
    y : array-like of shape (n_samples,), optional
        True labels: the distance is then negative where the prediction is wrong, on the boundary
        too (by the smallest number there is). By default that of the predicted class, which is
        never negative.
    q : float, default=inf
        Exponent of the norm in which the distance is measured, in [1, inf].
    space : {"model", "input"}, default="model"
        As in `robust_accuracy_score`.
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        The distance is then measured in :math:`\|\delta / s\|_q`, as in `robust_accuracy_score`.
    threat : Threat, optional
        A set of perturbations as an object, in place of q and scale. The radius is then the factor
        by which the set can grow before it changes the decision; of an `LpBall`, whatever its
        radius, the distance in its norm.

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
    if threat is not None:
        _check_lone_threat(threat, eps=None, q=q, scale=scale)
    view = linear_view(estimator, X, space)
    if threat is None:
        threat = view.ball(check_exponent(q, "q"), 1.0, scale)
    else:
        threat = view.check_threat(threat)
    index = view.predicted if y is None else view.class_index(y)
    distances = view.figures(boundary_distances, index, threat)
    # the sign says what predict answers, on the boundary too
    below = -np.finfo(distances.dtype).tiny
    signed = np.where(
        index == view.predicted, np.maximum(distances, 0), np.minimum(distances, below)
    )
    return np.where(index >= 0, signed, -math.inf)


def make_robust_scorer(
    *,
    eps: float | None = None,
    q: float = math.inf,
    space: str = "model",
    scale: Any = None,
    threat: Threat | None = None,
    attack_params: dict[str, Any] | None = None,
) -> RobustScorer:
    """A scorer of robust accuracy, for `scoring=` in GridSearchCV, cross_validate and the like.

    The threat is the one named here, whatever eps the estimator was trained with: a search over the
    training eps is then scored by one and the same adversary.

    Parameters
    ----------
    eps : float
    q : float, default=inf
    space : {"model", "input"}, default="model"
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
    threat : Threat, optional
    attack_params : dict, optional
        See `robust_accuracy_score`.

    Returns
    -------
    callable
        With the signature (estimator, X, y, sample_weight=None).

    Notes
    -----
    `sklearn.callback.ScoringMonitor` takes it under a name: `ScoringMonitor(scoring={"robust":
    make_robust_scorer(eps=0.1)})`.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_robust.metrics import make_robust_scorer
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression())
    >>> grid = {"logisticregression__C": [0.01, 1.0]}
    >>> search = GridSearchCV(model, grid, scoring=make_robust_scorer(eps=0.2)).fit(X, y)
    >>> search.best_params_
    {'logisticregression__C': 0.01}
    """
    check_choice(space, "space", SPACES)
    if scale is not None:
        check_scale(list(scale.values()) if isinstance(scale, Mapping) else scale, "scale")
    if threat is None:
        return RobustScorer(
            _radius(eps), check_exponent(q, "q"), space, scale, attack_params=attack_params
        )
    _check_lone_threat(threat, eps=eps, q=q, scale=scale)
    return RobustScorer(None, q, space, None, threat, attack_params)


class RobustScorer:
    """Robust accuracy under one fixed threat; made by `make_robust_scorer`."""

    def __init__(
        self,
        eps: float | None,
        q: float,
        space: str,
        scale: Any = None,
        threat: Threat | None = None,
        attack_params: dict[str, Any] | None = None,
    ) -> None:
        self.eps = eps
        self.q = q
        self.space = space
        self.scale = scale
        self.threat = threat
        self.attack_params = attack_params
        self._sample_weight_request: bool | str | None = None

    def set_score_request(self, *, sample_weight: bool | str | None) -> RobustScorer:
        """Ask for sample weights where scikit-learn's metadata routing is enabled.

        Parameters
        ----------
        sample_weight : bool, str or None
            As for the scorers of scikit-learn.

        Returns
        -------
        RobustScorer
            This scorer.

        Raises
        ------
        RuntimeError
            Where metadata routing is not enabled: sample weights are then passed on without a
            request.
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "set_score_request needs metadata routing, which "
                "sklearn.set_config(enable_metadata_routing=True) enables. "
                "Without it no request is needed: searches pass sample_weight to this scorer."
            )
        # refuses what is no request
        MetadataRequest(owner=self).score.add_request(param="sample_weight", alias=sample_weight)
        self._sample_weight_request = sample_weight
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """What the scorer asks of metadata routing."""
        request = MetadataRequest(owner=self)
        request.score.add_request(param="sample_weight", alias=self._sample_weight_request)
        return request

    def _accept_sample_weight(self) -> bool:
        """What searches with several scorers ask."""
        return True

    @property
    def _score_func(self) -> Any:
        """What searches over the threshold alone ask: they score labels, and know no classifier."""
        raise AttributeError(
            f"{self!r} scores a classifier, and has no score of predicted labels alone, by which "
            f"TunedThresholdClassifierCV "
            "tunes. Use GridSearchCV over the threshold of FixedThresholdClassifier with this "
            "scorer."
        )

    def __call__(
        self, estimator: BaseEstimator, X: Any, y: Any, sample_weight: Any = None
    ) -> float:
        """Robust accuracy of a fitted estimator."""
        return robust_accuracy_score(
            estimator,
            X,
            y,
            eps=self.eps,
            q=self.q,
            sample_weight=sample_weight,
            space=self.space,
            scale=self.scale,
            threat=self.threat,
            attack_params=self.attack_params,
        )

    def __repr__(self) -> str:
        if self.threat is not None:
            return f"make_robust_scorer(threat={self.threat!r}, space={self.space!r})"
        rest = "".join(
            f", {name}={value!r}"
            for name, value in (("scale", self.scale), ("attack_params", self.attack_params))
            if value is not None
        )
        return f"make_robust_scorer(eps={self.eps:g}, q={self.q:g}, space={self.space!r}{rest})"
