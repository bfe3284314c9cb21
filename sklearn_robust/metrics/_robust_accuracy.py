"""Exact robust accuracy of linear classifiers, and a scorer of one threat.

Any threat is served; networks serve l_q balls and boxes.
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

from sklearn_robust._documentation import see
from sklearn_robust._parameters import check_choice, check_exponent, refuse_lazy
from sklearn_robust.attacks.linear import unbroken
from sklearn_robust.metrics._given_threats import (
    check_lone_threat,
    given_radius,
    network_threat,
)
from sklearn_robust.metrics._slices import averaged_over_slices
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
    check_limits,
    check_radius,
    check_sample_radius,
    check_scale,
)

_ROUTED = ("sample_weight", "sample_radius")


@averaged_over_slices
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
    clip: Any = None,
    sample_radius: Any = None,
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
        The set of perturbations as an object, in place of eps, q, scale and clip: one of
        `sklearn_robust.threats`, or a set of one's own for linear classifiers, of which
        `threats.Threat` says what it needs. Networks serve LpBall and Box, with limits and by
        class.
    clip : pair (low, high) of numbers or arrays of shape (n_features,), optional
        Limits of the data: x + delta stays inside. It lives in the space of eps.
    sample_radius : array-like of shape (n_samples,), optional
        Factors >= 0 on the set of each sample, as its measurement error over eps.
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
        check_lone_threat(threat, eps=eps, q=q, scale=scale, clip=clip)
    else:
        eps = given_radius(eps)
        q = check_exponent(q, "q")
    check_choice(space, "space", SPACES)
    given = {"eps": eps, "q": q, "space": space, "scale": scale, "threat": threat, "clip": clip}
    if isinstance(X, BlockRows):
        X.refuse_beside(y=y, sample_weight=sample_weight, sample_radius=sample_radius)
        score = partial(robust_accuracy_score, estimator, attack_params=attack_params, **given)
        return X.average(score)
    refuse_lazy(X=X, y=y, sample_weight=sample_weight, sample_radius=sample_radius)
    steps, classifier = unwrapped(estimator)
    if (
        not is_linear(classifier)
        and hasattr(classifier, "robust_score")
        and (space == "model" or not steps)
    ):
        ball = network_threat(classifier, **given, sample_radius=sample_radius)
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
        threat = view.ball(q, check_radius(eps, "eps"), scale, clip)
    else:
        threat = view.bound(threat)
    robust = is_robust(view, y, threat, sample_radius)
    return float(
        np.average(
            robust, weights=_check_sample_weight(sample_weight, robust, ensure_non_negative=True)
        )
    )


def is_robust(view: LinearView, y: Any, threat: Threat, sample_radius: Any = None) -> np.ndarray:
    """Which samples stay correctly classified, of shape (n,)."""
    index = view.class_index(y)
    radius = check_sample_radius(sample_radius, len(index))
    rivals = view.rivals(threat, radius)
    held: np.ndarray = view.figures(partial(unbroken, rivals=rivals), index)
    return held & (index == view.predicted)


def make_robust_scorer(
    *,
    eps: float | None = None,
    q: float = math.inf,
    space: str = "model",
    scale: Any = None,
    threat: Threat | None = None,
    clip: Any = None,
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
    clip : pair (low, high) of numbers or arrays of shape (n_features,), optional
    attack_params : dict, optional
        See `robust_accuracy_score`.

    Returns
    -------
    callable
        With the signature (estimator, X, y, sample_weight=None, sample_radius=None).

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
        check_limits(clip)
        return RobustScorer(
            given_radius(eps),
            check_exponent(q, "q"),
            space,
            scale,
            clip=clip,
            attack_params=attack_params,
        )
    check_lone_threat(threat, eps=eps, q=q, scale=scale, clip=clip)
    return RobustScorer(None, q, space, None, threat, attack_params=attack_params)


class RobustScorer:
    """Robust accuracy under one fixed threat; made by `make_robust_scorer`."""

    def __init__(
        self,
        eps: float | None,
        q: float,
        space: str,
        scale: Any = None,
        threat: Threat | None = None,
        clip: Any = None,
        attack_params: dict[str, Any] | None = None,
    ) -> None:
        self.eps = eps
        self.q = q
        self.space = space
        self.scale = scale
        self.threat = threat
        self.clip = clip
        self.attack_params = attack_params
        self._requests: dict[str, bool | str | None] = {}

    def set_score_request(self, **requests: bool | str | None) -> RobustScorer:
        """Ask for sample weights or radii where scikit-learn's metadata routing is enabled.

        Parameters
        ----------
        **requests : bool, str or None
            `sample_weight` and `sample_radius`, as for the scorers of scikit-learn.

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
                f" {see('guide/interoperation')}"
            )
        unknown = set(requests) - set(_ROUTED)
        if unknown:
            raise TypeError(f"set_score_request asks for {_ROUTED}, got {sorted(unknown)}.")
        for name, alias in requests.items():  # refuses what is no request
            MetadataRequest(owner=self).score.add_request(param=name, alias=alias)
        self._requests.update(requests)
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """What the scorer asks of metadata routing."""
        request = MetadataRequest(owner=self)
        for name in _ROUTED:
            request.score.add_request(param=name, alias=self._requests.get(name))
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
        self,
        estimator: BaseEstimator,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        sample_radius: Any = None,
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
            clip=self.clip,
            sample_radius=sample_radius,
            attack_params=self.attack_params,
        )

    def __repr__(self) -> str:
        if self.threat is not None:
            return f"make_robust_scorer(threat={self.threat!r}, space={self.space!r})"
        rest = "".join(
            f", {name}={value!r}"
            for name in ("scale", "clip", "attack_params")
            if (value := getattr(self, name)) is not None
        )
        return f"make_robust_scorer(eps={self.eps:g}, q={self.q:g}, space={self.space!r}{rest})"
