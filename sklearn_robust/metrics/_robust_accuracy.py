"""Exact robust accuracy and certified radius of linear classifiers, and a scorer of one threat.

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

from sklearn_robust._parameters import check_choice, check_exponent, refuse_lazy
from sklearn_robust.attacks.linear import (
    boundary_distances,
    unbroken,
    worst_moves,
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
    check_is_threat,
    check_limits,
    check_radius,
    check_sample_radius,
    check_scale,
    is_ball,
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
        _check_lone_threat(threat, eps=eps, q=q, scale=scale, clip=clip)
    else:
        eps = _radius(eps)
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
        ball = _ball_of_network(classifier, **given, sample_radius=sample_radius)
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


def _radius(eps: float | None) -> float:
    """The radius that scores, of a call without a threat."""
    if eps is None:
        raise ValueError(
            "eps, the radius of the l_q ball, or threat must be given, got neither. Use eps=0 for "
            "the accuracy without an adversary."
        )
    return check_radius(eps, "eps")


def _check_lone_threat(threat: Any, *, eps: Any, q: float, scale: Any, clip: Any) -> None:
    """Refuse what is no threat, and eps, q, scale or clip beside one."""
    check_is_threat(threat)
    if eps is not None or q != math.inf or scale is not None or clip is not None:
        raise ValueError(
            f"threat takes the place of eps, q and scale, and of clip, got threat={threat!r} "
            f"beside eps={eps!r}, q={q!r}, scale={scale!r} and clip={clip!r}. Leave out one or the "
            f"others."
        )


def _ball_of_network(
    classifier: Any,
    *,
    eps: Any,
    q: float,
    space: str,
    scale: Any,
    threat: Any,
    clip: Any,
    sample_radius: Any,
) -> dict[str, Any]:
    """The threat as the score of a network takes it."""
    name = type(classifier).__name__
    if clip is not None:
        raise ValueError(
            f"clip is a parameter of {name} itself, whose score takes the limits of its fit, got "
            f"clip={clip!r}. Leave it out here."
        )
    if sample_radius is not None:
        raise ValueError(
            f"sample_radius is for linear classifiers, and the score of {name} takes one radius "
            f"for all samples. Score groups of samples of one radius with eps."
        )
    if is_ball(threat):
        eps, q, scale = threat.eps, threat.q, threat.scale
    elif threat is not None:
        return {"threat": threat}
    given = {"eps": eps, "q": q}
    # a classifier that was trained with scales is given their absence, too
    if scale is not None or hasattr(classifier, "scale_"):
        given["scale"] = scale
    return given


def is_robust(view: LinearView, y: Any, threat: Threat, sample_radius: Any = None) -> np.ndarray:
    """Which samples stay correctly classified, of shape (n,)."""
    index = view.class_index(y)
    radius = check_sample_radius(sample_radius, len(index))
    rivals = view.rivals(threat, radius)
    held: np.ndarray = view.figures(partial(unbroken, rivals=rivals), index)
    return held & (index == view.predicted)


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
        _check_lone_threat(threat, eps=None, q=q, scale=scale, clip=clip)
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
        _check_lone_threat(threat, eps=eps, q=q, scale=scale, clip=clip)
    view = linear_view(estimator, X, space)
    if threat is None:
        threat = view.ball(check_exponent(q, "q"), _radius(eps), scale, clip)
    else:
        threat = view.bound(threat)
    index = view.seen_class_index(y)
    rivals = view.rivals(threat, check_sample_radius(sample_radius, len(index)))
    moves = view.figures(partial(worst_moves, rivals=rivals), index)
    points = view.points
    return (points.toarray() if hasattr(points, "toarray") else points) + moves


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
            _radius(eps),
            check_exponent(q, "q"),
            space,
            scale,
            clip=clip,
            attack_params=attack_params,
        )
    _check_lone_threat(threat, eps=eps, q=q, scale=scale, clip=clip)
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
