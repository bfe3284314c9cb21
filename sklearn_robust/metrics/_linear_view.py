"""What a fitted linear classifier, alone or at the end of a pipeline, looks like to the adversary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils.validation import check_array, check_is_fitted


@dataclass(frozen=True)
class LinearView:
    """Coefficients in the space where the threat lives, and the data in that space.

    Attributes
    ----------
    X : array or sparse array of shape (n, d)
    coef : array of shape (K, d), or (1, d) for two classes
    intercept : array of shape (K,) or (1,)
    classes : array of shape (K,)
    """

    X: Any
    coef: np.ndarray
    intercept: np.ndarray
    classes: np.ndarray

    def class_index(self, y: Any) -> np.ndarray:
        """Index of each label in `classes`; -1 for labels that the classifier has never seen, which it always gets wrong."""
        y = np.asarray(y)
        index = np.minimum(np.searchsorted(self.classes, y), len(self.classes) - 1)
        return np.where(self.classes[index] == y, index, -1)


def is_linear(estimator: BaseEstimator) -> bool:
    """Whether the (unwrapped) classifier has linear coefficients."""
    classifier = unwrapped(estimator)
    if isinstance(classifier, Pipeline):
        classifier = classifier[-1]
    return all(hasattr(classifier, name) for name in ("coef_", "intercept_", "classes_"))


def unwrapped(estimator: BaseEstimator) -> BaseEstimator:
    """The estimator that a search has chosen; the estimator itself if it is not a search."""
    while hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    return estimator


def last_step(estimator: BaseEstimator, X: Any) -> tuple[BaseEstimator, Any]:
    """The classifier of a (search over a) pipeline and what it sees of X; an estimator that is no pipeline, and X itself."""
    estimator = unwrapped(estimator)
    if not isinstance(estimator, Pipeline):
        return estimator, X
    return unwrapped(estimator[-1]), estimator[:-1].transform(X) if len(estimator) > 1 else X


def linear_view(estimator: BaseEstimator, X: Any, space: str) -> LinearView:
    """The linear model that a classifier or pipeline is, in "model" or "input" space.

    Parameters
    ----------
    estimator : fitted linear classifier, pipeline that ends in one, or search over either
    X : array of shape (n, d)
        Input of the estimator.
    space : {"model", "input"}
        "model": the threat moves what the last step of a pipeline sees. "input": it moves what the pipeline sees, and the
        coefficients are pulled back through its transformers, which must be affine.

    Raises
    ------
    TypeError
        If the classifier is not linear, or a transformer between it and the threat is not known to be affine.
    """
    if space not in ("model", "input"):
        raise ValueError(f"space must be 'model' or 'input', got {space!r}.")
    estimator = unwrapped(estimator)
    steps = list(estimator.steps[:-1]) if isinstance(estimator, Pipeline) else []
    classifier = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    check_is_fitted(classifier)
    if not is_linear(classifier):
        raise TypeError(
            f"{type(classifier).__name__} is not a linear classifier: it has no coef_, intercept_ and classes_. Exact robust "
            "accuracy exists for linear classifiers and pipelines that end in one."
        )
    transformed = estimator[:-1].transform(X) if steps else X
    coef = np.atleast_2d(_dense(classifier.coef_))
    intercept = np.broadcast_to(np.asarray(classifier.intercept_, dtype=coef.dtype), (len(coef),))
    _check_scores(classifier, transformed, coef, intercept)
    if space == "model":
        return LinearView(_numeric(transformed), coef, intercept, classifier.classes_)
    for name, transformer in reversed(steps):
        coef, intercept = _pull_back(name, transformer, coef, intercept)
    return LinearView(_numeric(X), coef, intercept, classifier.classes_)


def _check_scores(classifier: BaseEstimator, X: Any, coef: np.ndarray, intercept: np.ndarray) -> None:
    """A classifier with a coef_ that does not score by it (SVC with several classes) must not be called exact."""
    few = X[:16] if not hasattr(X, "iloc") else X.iloc[:16]
    scores = np.asarray(classifier.decision_function(few)).reshape(few.shape[0], -1)
    expected = _numeric(few) @ coef.T + intercept
    if scores.shape != expected.shape or not np.allclose(scores, expected, rtol=1e-3, atol=1e-6 * (1 + np.abs(expected).max())):
        raise TypeError(
            f"{type(classifier).__name__} does not score by <coef_, x> + intercept_: its robustness is not exact here."
        )


def _pull_back(name: str, transformer: Any, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients on the input of an affine transformer, from those on its output."""
    if transformer in (None, "passthrough"):
        return coef, intercept
    if isinstance(transformer, SelectorMixin):
        chosen = transformer.get_support()
        spread = np.zeros((len(coef), len(chosen)), dtype=coef.dtype)
        spread[:, chosen] = coef
        return spread, intercept
    if isinstance(transformer, MinMaxScaler) and not transformer.clip:
        scale, shift = transformer.scale_, transformer.min_
    elif isinstance(transformer, MaxAbsScaler) and not getattr(transformer, "clip", False):
        scale, shift = 1 / transformer.scale_, 0.0
    elif isinstance(transformer, StandardScaler):
        scale = 1 / transformer.scale_ if transformer.scale_ is not None else np.ones(coef.shape[1])
        shift = -transformer.mean_ * scale if transformer.with_mean else 0.0
    elif isinstance(transformer, RobustScaler):
        scale = 1 / transformer.scale_ if transformer.with_scaling else np.ones(coef.shape[1])
        shift = -transformer.center_ * scale if transformer.with_centering else 0.0
    else:
        raise TypeError(
            f"The step {name!r} ({type(transformer).__name__}) is not known to be affine and elementwise, so a threat on the "
            "input has no closed form behind it. Use space='model', or scale with StandardScaler, MinMaxScaler or MaxAbsScaler."
        )
    return coef * scale, intercept + coef @ np.broadcast_to(shift, coef.shape[1:])


def _numeric(X: Any) -> Any:
    return check_array(X, accept_sparse=("csr", "csc"), dtype=(np.float64, np.float32))


def _dense(coef: Any) -> np.ndarray:
    return np.asarray(coef.toarray() if hasattr(coef, "toarray") else coef)
