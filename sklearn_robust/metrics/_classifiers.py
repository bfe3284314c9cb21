"""The affine scores by which a fitted classifier decides, through pipelines, searches and
wrappers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, singledispatch
from typing import Any

import numpy as np
from scipy.special import logit
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from sklearn_robust._documentation import see
from sklearn_robust.attacks.linear import has_coef
from sklearn_robust.losses import log_odds_slope
from sklearn_robust.metrics._transformers import Steps, coef_before, flat, transformed

_SATURATED = 30.0  # sigmoids of scores above it differ by less than 1e-13
_ThresholdClassifier = (FixedThresholdClassifier, TunedThresholdClassifierCV)


@dataclass(frozen=True)
class AffineScores:
    """Scores <coef, z> + intercept, z what the steps make of the input.

    Attributes
    ----------
    steps : list of (name, transformer)
    coef : array of shape (K, d), or (1, d) for two classes
    intercept : array of shape (K,) or (1,)
    reader : the classifier that reads z
    score_at : callable or None
        The score of the second of two classes at which its probability is the one given; None where
        it is not known.
    """

    steps: Steps
    coef: np.ndarray
    intercept: np.ndarray
    reader: Any
    score_at: Callable[[Any], Any] | None = logit


def unwrapped(estimator: BaseEstimator) -> tuple[Steps, BaseEstimator]:
    """The named transformers and the classifier behind them.

    It looks through any nest of pipelines, searches and frozen estimators.
    """
    steps: Steps = []
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            steps += flat(estimator.steps[:-1])
            estimator = estimator.steps[-1][1]
        else:
            return steps, estimator


def is_linear(classifier: BaseEstimator) -> bool:
    """Whether an unwrapped classifier has linear coefficients, or those that it wraps have."""
    if isinstance(classifier, _ThresholdClassifier):
        parts = [_thresholded(classifier)]
    elif isinstance(classifier, CalibratedClassifierCV):
        parts = [part.estimator for part in getattr(classifier, "calibrated_classifiers_", [])]
    elif isinstance(classifier, OneVsRestClassifier):
        parts = getattr(classifier, "estimators_", [])
    else:
        return has_coef(classifier)
    return len(parts) > 0 and all(is_linear(unwrapped(part)[1]) for part in parts)


def _thresholded(classifier: Any) -> BaseEstimator:
    return getattr(classifier, "estimator_", classifier.estimator)


def deciding_scores(estimator: BaseEstimator, few: Any) -> AffineScores:
    """The scores by whose largest a classifier decides; those of two classes are (0, f).

    Parameters
    ----------
    estimator : fitted classifier, pipeline or search
    few : a few rows of its input
        On which what the classifier answers is compared with the scores.

    Raises
    ------
    TypeError
        If the classifier is not known to decide by affine scores, or does not answer as they say.
    """
    steps, classifier = unwrapped(estimator)
    few = transformed(steps, few)
    scores = _scores(classifier, few)
    if isinstance(classifier, _ThresholdClassifier):
        scores = replace(scores, intercept=scores.intercept - _cut(classifier, scores, few))
    return replace(scores, steps=steps + scores.steps)


def _affine_scores(estimator: BaseEstimator, few: Any) -> AffineScores:
    """Those of `decision_function`, which knows no threshold; log-odds where it is missing."""
    steps, classifier = unwrapped(estimator)
    scores = _scores(classifier, transformed(steps, few))
    return replace(scores, steps=steps + scores.steps)


@singledispatch
def _scores(classifier: Any, few: Any) -> AffineScores:
    """The affine scores of a classifier without steps before it."""
    check_is_fitted(classifier)
    if not is_linear(classifier):
        raise TypeError(
            f"{type(classifier).__name__} is not a linear classifier: it has no coef_, intercept_ "
            "and classes_. Exact robust accuracy exists for linear classifiers, pipelines that end "
            "in one, and thresholds, calibration and one-vs-rest around them."
            f" {see('guide/metrics')}"
        )
    coef = np.atleast_2d(_dense(classifier.coef_))
    intercept = np.broadcast_to(np.asarray(classifier.intercept_, dtype=coef.dtype), (len(coef),))
    _check_size(classifier, coef, intercept)
    scores = AffineScores([], coef, intercept, classifier, _inverse_link(classifier))
    _check_scores(classifier, few, scores)
    return scores


@_scores.register(FixedThresholdClassifier)
@_scores.register(TunedThresholdClassifierCV)
def _(classifier: Any, few: Any) -> AffineScores:
    return _affine_scores(_thresholded(classifier), few)


@_scores.register
def _(classifier: CalibratedClassifierCV, few: Any) -> AffineScores:
    check_is_fitted(classifier)
    parts = classifier.calibrated_classifiers_
    if len(parts) > 1:
        raise TypeError(
            f"CalibratedClassifierCV averages the probabilities of {len(parts)} classifiers, no "
            "function of one affine score: its robustness has no closed form. Use ensemble=False."
            f" {see('guide/metrics')}"
        )
    (part,) = parts
    if part.method == "isotonic" or not hasattr(part.estimator, "decision_function"):
        raise TypeError(
            "CalibratedClassifierCV has affine scores with method='sigmoid' or 'temperature' on a "
            f"classifier with a decision_function, got method={part.method!r} on "
            f"{type(part.estimator).__name__}."
            f" {see('guide/metrics')}"
        )
    _check_classes(classifier.classes_, part)
    scores = _affine_scores(part.estimator, few)
    if part.method == "temperature":
        # softmax(beta (-f, f)) is sigmoid(2 beta f); of several classes softmax(beta f)
        slope = part.calibrators[0].beta_ * (2 if len(scores.coef) == 1 else 1)
        shift: Any = 0.0
    else:
        # sigmoid(-a f - b), one (a, b) for each class; scaling to sum 1 keeps the largest
        slope = -np.array([calibrator.a_ for calibrator in part.calibrators])
        shift = -np.array([calibrator.b_ for calibrator in part.calibrators])
    coef = np.reshape(slope, (-1, 1)) * scores.coef
    return replace(scores, coef=coef, intercept=slope * scores.intercept + shift, score_at=logit)


def _check_classes(classes: np.ndarray, part: Any) -> None:
    """The calibrated classifier must have seen the same classes."""
    seen = part.estimator.classes_
    encoded = part.method == "temperature" and np.array_equal(seen, np.arange(len(classes)))
    if not encoded and not np.array_equal(seen, classes):
        raise TypeError(
            f"CalibratedClassifierCV was fitted on the classes {classes.tolist()}, its classifier "
            f"on {seen.tolist()}: calibrate on samples of the same classes."
        )


@_scores.register
def _(classifier: OneVsRestClassifier, few: Any) -> AffineScores:
    check_is_fitted(classifier)
    if classifier.multilabel_:
        raise TypeError(
            "OneVsRestClassifier was fitted on several labels a sample: robust accuracy is of one "
            "label a sample. Score the classifier of each label, estimators_[k]."
        )
    parts = [_affine_scores(part, few) for part in classifier.estimators_]
    coef = np.concatenate([coef_before(part.steps, part.coef) for part in parts])
    if np.isnan(coef).any():
        raise TypeError(
            "OneVsRestClassifier holds encoders of categories: put them before it, as a step of "
            "the pipeline."
        )
    intercept = np.concatenate([part.intercept for part in parts])
    if any(part.steps for part in parts):  # transformers of its own for each class
        at_few = np.column_stack([_values(part, few) for part in parts])
        intercept = (at_few - numeric(few) @ coef.T).mean(axis=0)
    scores = AffineScores([], coef, intercept, classifier, parts[0].score_at)
    if hasattr(classifier, "decision_function"):
        _check_scores(classifier, few, scores)
    return scores


def _values(scores: AffineScores, X: Any) -> np.ndarray:
    """The scores of a few rows, of shape (n, K)."""
    seen = numeric(transformed(scores.steps, X))
    values: np.ndarray = seen @ scores.coef.T + scores.intercept
    return values


def _cut(classifier: Any, scores: AffineScores, few: Any) -> float:
    """The score of the second class from which a threshold classifier predicts it."""
    estimator = _thresholded(classifier)
    method = classifier.response_method
    by_probability = method != "decision_function" and hasattr(estimator, "predict_proba")
    if isinstance(classifier, TunedThresholdClassifierCV):
        check_is_fitted(classifier, "best_threshold_")
        threshold = classifier.best_threshold_
        positive = classifier._curve_scorer._get_pos_label()
    else:
        threshold = classifier.threshold
        positive = classifier.pos_label
    if threshold == "auto":
        threshold = 0.5 if by_probability else 0.0
    if by_probability:
        _check_link(estimator, scores, few)
        threshold = _score_at(threshold, scores)
    # the positive class has score f >= threshold; where it is the first, its score is -f
    first = positive is not None and positive == classifier.classes_[0]
    return -threshold if first else threshold


def _score_at(probability: float, scores: AffineScores) -> float:
    """The score from which the probability is at least the one given."""
    if probability <= 0:
        return -math.inf
    if probability > 1:
        return math.inf
    return float(scores.score_at(probability))  # type: ignore[misc]  # its link is checked


def _inverse_link(classifier: Any) -> Callable[[Any], Any] | None:
    """The score at which a linear classifier gives a probability to the second of two classes; None
    where it is not known.
    """
    # that of the fit, where the classifier is of this library
    loss: Any = getattr(classifier, "_loss", None)
    if hasattr(loss, "log_risk_and_weights"):
        slope = log_odds_slope(loss)
        return None if slope is None else partial(_scaled_logit, slope=slope)
    named = getattr(classifier, "loss", None)
    return _linear_link if isinstance(named, str) and named == "modified_huber" else logit


def _linear_link(probability: Any) -> Any:
    return 2 * probability - 1


def _scaled_logit(probability: Any, slope: float) -> Any:
    return logit(probability) / slope


def _check_link(estimator: Any, scores: AffineScores, few: Any) -> None:
    """Probabilities must be the known function of the score."""
    f = _values(scores, few)[:, 0]
    probability = np.asarray(estimator.predict_proba(few), dtype=float)[:, 1]
    inside = (probability > 1e-3) & (probability < 1 - 1e-3)
    if scores.score_at is None or not np.allclose(
        scores.score_at(probability[inside]), f[inside], rtol=1e-3, atol=1e-3
    ):
        raise TypeError(
            f"{type(estimator).__name__} does not give probabilities by a known function of its "
            "score, so a threshold on them has no closed form. Use "
            "response_method='decision_function'."
            f" {see('guide/metrics')}"
        )


def _check_size(classifier: BaseEstimator, coef: np.ndarray, intercept: np.ndarray) -> None:
    """Refuse coefficients that are no numbers, or whose scores and norms overflow."""
    name = type(classifier).__name__
    if not np.isfinite(coef).all() or np.isnan(intercept).any():
        raise ValueError(
            f"{name} must have finite coefficients, but coef_ or intercept_ holds NaN or inf. Fit "
            f"it again on scaled features, or with more regularisation."
        )
    largest = float(np.max(np.abs(coef), initial=0.0))
    if largest > math.sqrt(np.finfo(np.result_type(coef, np.float32)).max) / coef.size:
        raise ValueError(
            f"{name} has coefficients of up to {largest:.1e}, whose norms overflow. Scale coef_ "
            f"and intercept_ down by one factor: it decides as before."
        )


def _check_scores(classifier: BaseEstimator, few: Any, scores: AffineScores) -> None:
    """A classifier with a coef_ that does not score by it must not be called exact.

    Such is SVC with several classes.
    """
    values = np.asarray(classifier.decision_function(few))
    values = values.reshape(len(values), -1)
    expected = numeric(few) @ scores.coef.T + scores.intercept
    atol = 1e-6 * (1 + np.abs(expected).max())
    if values.shape != expected.shape or not np.allclose(values, expected, rtol=1e-3, atol=atol):
        raise TypeError(
            f"{type(classifier).__name__} does not score by <coef_, x> + intercept_: its "
            f"robustness is not exact here. Use a classifier whose decision_function is affine."
            f" {see('guide/metrics')}"
        )


def check_predictions(classifier: BaseEstimator, scores: np.ndarray, predicted: np.ndarray) -> None:
    """A classifier that does not predict the class of the largest score must not be called exact.

    Parameters
    ----------
    classifier : fitted classifier
    scores : array of shape (n, K)
    predicted : int array of shape (n,)

    Raises
    ------
    TypeError
        If a prediction has a lower score than another class, by more than rounding.
    """
    rows = np.arange(len(scores))
    largest = scores.max(axis=1)
    own = scores[rows, predicted]
    finite = np.isfinite(largest) & np.isfinite(own)
    size = np.abs(largest[finite]) + np.abs(own[finite])
    lower = largest[finite] - own[finite] > 1e-3 * (1 + size)
    # probabilities of large scores are equal in floating point
    saturated = np.minimum(np.abs(largest[finite]), np.abs(own[finite])) > _SATURATED
    if np.any(lower & ~saturated):
        raise TypeError(
            f"{type(classifier).__name__} does not predict the class of its largest score: its "
            f"robustness is not exact here. Set a threshold by FixedThresholdClassifier."
            f" {see('guide/metrics')}"
        )


def numeric(X: Any) -> Any:
    """An array or sparse array of floats."""
    return check_array(X, accept_sparse=("csr", "csc"), dtype=(np.float64, np.float32))


def _dense(coef: Any) -> np.ndarray:
    return np.asarray(coef.toarray() if hasattr(coef, "toarray") else coef)
