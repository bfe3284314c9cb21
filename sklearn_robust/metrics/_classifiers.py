"""The affine scores by which a fitted classifier decides, through any nest of pipelines, searches and wrappers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch
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

from sklearn_robust.metrics._transformers import Steps, coef_before, flat, transformed

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
    score_at : callable
        The score of the second of two classes at which its probability is the one given.
    """

    steps: Steps
    coef: np.ndarray
    intercept: np.ndarray
    reader: Any
    score_at: Callable[[Any], Any] = logit


def unwrapped(estimator: BaseEstimator) -> tuple[Steps, BaseEstimator]:
    """The named transformers and the classifier at the end, through any nest of pipelines, searches and frozen estimators."""
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
    """Whether the classifier, unwrapped, has linear coefficients, or decides by those of classifiers that it wraps."""
    if isinstance(classifier, _ThresholdClassifier):
        parts = [_thresholded(classifier)]
    elif isinstance(classifier, CalibratedClassifierCV):
        parts = [part.estimator for part in getattr(classifier, "calibrated_classifiers_", [])]
    elif isinstance(classifier, OneVsRestClassifier):
        parts = getattr(classifier, "estimators_", [])
    else:
        return all(hasattr(classifier, name) for name in ("coef_", "intercept_", "classes_"))
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
    """Those of `decision_function`, which knows no threshold; or the log-odds where there are probabilities alone."""
    steps, classifier = unwrapped(estimator)
    scores = _scores(classifier, transformed(steps, few))
    return replace(scores, steps=steps + scores.steps)


@singledispatch
def _scores(classifier: Any, few: Any) -> AffineScores:
    """The affine scores of a classifier without steps before it."""
    check_is_fitted(classifier)
    if not is_linear(classifier):
        raise TypeError(
            f"{type(classifier).__name__} is not a linear classifier: it has no coef_, intercept_ and classes_. Exact robust "
            "accuracy exists for linear classifiers, pipelines that end in one, and thresholds, calibration and one-vs-rest "
            "around them."
        )
    coef = np.atleast_2d(_dense(classifier.coef_))
    intercept = np.broadcast_to(np.asarray(classifier.intercept_, dtype=coef.dtype), (len(coef),))
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
            f"CalibratedClassifierCV averages the probabilities of {len(parts)} classifiers, no function of one affine score: "
            "its robustness has no closed form. Use ensemble=False."
        )
    (part,) = parts
    if part.method == "isotonic" or not hasattr(part.estimator, "decision_function"):
        raise TypeError(
            "CalibratedClassifierCV has affine scores with method='sigmoid' or 'temperature' on a classifier with a "
            f"decision_function, got method={part.method!r} on {type(part.estimator).__name__}."
        )
    known = [classifier.classes_, np.arange(len(classifier.classes_))]  # temperature scaling encodes words before the fit
    if not any(np.array_equal(part.estimator.classes_, classes) for classes in known[: 1 + (part.method == "temperature")]):
        raise TypeError(
            f"CalibratedClassifierCV was fitted on the classes {classifier.classes_.tolist()}, its classifier on "
            f"{part.estimator.classes_.tolist()}: calibrate on samples of the same classes."
        )
    scores = _affine_scores(part.estimator, few)
    if part.method == "temperature":  # probabilities softmax(beta (-f, f)), or softmax(beta f) of several classes
        slope = part.calibrators[0].beta_ * (2 if len(scores.coef) == 1 else 1)
        return AffineScores(scores.steps, slope * scores.coef, slope * scores.intercept, scores.reader)
    # probabilities sigmoid(-a f - b), one (a, b) for each class; to scale them to sum 1 does not change which is largest
    a = np.array([calibrator.a_ for calibrator in part.calibrators])
    b = np.array([calibrator.b_ for calibrator in part.calibrators])
    return AffineScores(scores.steps, -a[:, None] * scores.coef, -a * scores.intercept - b, scores.reader)


@_scores.register
def _(classifier: OneVsRestClassifier, few: Any) -> AffineScores:
    check_is_fitted(classifier)
    if classifier.multilabel_:
        raise TypeError("OneVsRestClassifier was fitted on several labels a sample: robust accuracy is of one label a sample.")
    parts = [_affine_scores(part, few) for part in classifier.estimators_]
    coef = np.concatenate([coef_before(part.steps, part.coef) for part in parts])
    if np.isnan(coef).any():
        raise TypeError("OneVsRestClassifier holds encoders of categories: put them before it, as a step of the pipeline.")
    intercept = np.concatenate([part.intercept for part in parts])
    if any(part.steps for part in parts):  # each with transformers of its own: scores are affine in what all of them read
        at_few = np.column_stack([_values(part, few) for part in parts])
        intercept = (at_few - numeric(few) @ coef.T).mean(axis=0)
    scores = AffineScores([], coef, intercept, classifier)
    if hasattr(classifier, "decision_function"):
        _check_scores(classifier, few, scores)
    return scores


def _values(scores: AffineScores, X: Any) -> np.ndarray:
    """The scores of a few rows, of shape (n, K)."""
    values: np.ndarray = numeric(transformed(scores.steps, X)) @ scores.coef.T + scores.intercept
    return values


def _cut(classifier: Any, scores: AffineScores, few: Any) -> float:
    """The score of the second class above which a threshold classifier predicts it."""
    estimator = _thresholded(classifier)
    by_probability = classifier.response_method != "decision_function" and hasattr(estimator, "predict_proba")
    if isinstance(classifier, TunedThresholdClassifierCV):
        check_is_fitted(classifier, "best_threshold_")
        threshold = classifier.best_threshold_
        positive = classifier._curve_scorer._get_pos_label()
    else:
        threshold = (0.5 if by_probability else 0.0) if classifier.threshold == "auto" else classifier.threshold
        positive = classifier.pos_label
    if by_probability:
        _check_link(estimator, scores, few)
        # a probability is never below 0 nor above 1
        threshold = -math.inf if threshold <= 0 else math.inf if threshold > 1 else float(scores.score_at(threshold))
    # f >= threshold is the positive class; of the first class the score is -f, and 1 - p the probability at -f
    first = positive is not None and positive == classifier.classes_[0]
    return -threshold if first else threshold


def _inverse_link(classifier: Any) -> Callable[[Any], Any]:
    """The score at which a linear classifier gives a probability to the second of two classes."""
    loss = getattr(classifier, "_loss", getattr(classifier, "loss", None))  # that of the fit, where it is kept
    if loss == "modified_huber":
        return _linear_link
    return _half_logit if loss == "exponential" else logit


def _linear_link(probability: Any) -> Any:
    return 2 * probability - 1


def _half_logit(probability: Any) -> Any:
    return logit(probability) / 2


def _check_link(estimator: Any, scores: AffineScores, few: Any) -> None:
    """Probabilities must be the known function of the score."""
    f = _values(scores, few)[:, 0]
    probability = np.asarray(estimator.predict_proba(few), dtype=float)[:, 1]
    inside = (probability > 1e-3) & (probability < 1 - 1e-3)
    if not np.allclose(scores.score_at(probability[inside]), f[inside], rtol=1e-3, atol=1e-3):
        raise TypeError(
            f"{type(estimator).__name__} does not give probabilities by a known function of its score, so a threshold on them "
            "has no closed form. Use response_method='decision_function'."
        )


def _check_scores(classifier: BaseEstimator, few: Any, scores: AffineScores) -> None:
    """A classifier with a coef_ that does not score by it (SVC with several classes) must not be called exact."""
    values = np.asarray(classifier.decision_function(few))
    values = values.reshape(len(values), -1)
    expected = numeric(few) @ scores.coef.T + scores.intercept
    if values.shape != expected.shape or not np.allclose(values, expected, rtol=1e-3, atol=1e-6 * (1 + np.abs(expected).max())):
        raise TypeError(
            f"{type(classifier).__name__} does not score by <coef_, x> + intercept_: its robustness is not exact here."
        )


def numeric(X: Any) -> Any:
    """An array or sparse array of floats."""
    return check_array(X, accept_sparse=("csr", "csc"), dtype=(np.float64, np.float32))


def _dense(coef: Any) -> np.ndarray:
    return np.asarray(coef.toarray() if hasattr(coef, "toarray") else coef)
