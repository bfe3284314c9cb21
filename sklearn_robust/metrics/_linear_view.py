"""What a fitted linear classifier, alone or at the end of pipelines and searches, looks like to the adversary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils import _safe_indexing, assert_all_finite, check_array, check_consistent_length, column_or_1d, indexable
from sklearn.utils.validation import _get_feature_names, check_is_fitted

from sklearn_robust._parameters import check_choice, read_scale, refuse_lazy
from sklearn_robust.threats import LpBall

SPACES = ("model", "input")


@dataclass(frozen=True)
class LinearView:
    """Coefficients in the space where the threat lives, and the data in that space.

    Attributes
    ----------
    X : array or sparse array of shape (n, d)
    coef : array of shape (K, d), or (1, d) for two classes
    intercept : array of shape (K,) or (1,)
    classes : array of shape (K,)
    names : array of shape (d,) or None
        Of the features, where they have names.
    """

    X: Any
    coef: np.ndarray
    intercept: np.ndarray
    classes: np.ndarray
    names: Any = None

    def threat(self, q: float, eps: float, scale: Any) -> LpBall:
        """The threat in this space; the scale is an array of shape (d,), a dict by feature name, or None."""
        return LpBall(q, eps, read_scale(scale, self.coef.shape[1], self.names))

    def class_index(self, y: Any) -> np.ndarray:
        """Index of each label in `classes`; -1 for labels that the classifier has never seen, which it always gets wrong."""
        refuse_lazy(y=y)
        y = column_or_1d(y)
        check_consistent_length(self.X, y)
        assert_all_finite(y, input_name="y")
        labels, classes = y.tolist(), self.classes.tolist()
        if isinstance(labels[0], str) != isinstance(classes[0], str):
            raise ValueError(f"y must hold labels of the type that was seen in fit, such as {classes[0]!r}, got {labels[0]!r}.")
        position = {label: k for k, label in enumerate(classes)}
        return np.array([position.get(label, -1) for label in labels])

    def seen_class_index(self, y: Any) -> np.ndarray:
        """Index of each label in `classes`, where each must be one of them."""
        index = self.class_index(y)
        if np.any(index < 0):
            unseen = sorted(set(column_or_1d(y)[index < 0].tolist()), key=str)
            raise ValueError(f"y holds labels that were not seen in fit: {unseen}. Those seen are {self.classes.tolist()}.")
        return index


def is_linear(classifier: BaseEstimator) -> bool:
    """Whether the classifier, unwrapped, has linear coefficients."""
    return all(hasattr(classifier, name) for name in ("coef_", "intercept_", "classes_"))


def unwrapped(estimator: BaseEstimator) -> tuple[list[tuple[str, Any]], BaseEstimator]:
    """The named transformers and the classifier at the end, through any nest of pipelines and searches."""
    steps: list[tuple[str, Any]] = []
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            steps += _flat(estimator.steps[:-1])
            estimator = estimator.steps[-1][1]
        else:
            return steps, estimator


def _flat(steps: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The transformers that do something, with those of nested pipelines in their place."""
    for name, step in steps:
        if isinstance(step, Pipeline):
            yield from _flat(step.steps)
        elif step not in (None, "passthrough"):
            yield name, step


def transformed(steps: list[tuple[str, Any]], X: Any) -> Any:
    """What the classifier at the end sees."""
    for _, transformer in steps:
        X = transformer.transform(X)
    return X


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
    check_choice(space, "space", SPACES)
    refuse_lazy(X=X)
    steps, classifier = unwrapped(estimator)
    check_is_fitted(classifier)
    if not is_linear(classifier):
        raise TypeError(
            f"{type(classifier).__name__} is not a linear classifier: it has no coef_, intercept_ and classes_. Exact robust "
            "accuracy exists for linear classifiers and pipelines that end in one."
        )
    seen = transformed(steps, X)
    coef = np.atleast_2d(_dense(classifier.coef_))
    intercept = np.broadcast_to(np.asarray(classifier.intercept_, dtype=coef.dtype), (len(coef),))
    _check_scores(classifier, seen, coef, intercept)
    if space == "model":
        return LinearView(_numeric(seen), coef, intercept, classifier.classes_, _names(seen, [classifier]))
    for name, transformer in reversed(steps):
        coef, intercept = _pull_back(name, transformer, coef, intercept)
    return LinearView(_numeric(X), coef, intercept, classifier.classes_, _names(X, [step for _, step in steps] + [classifier]))


def _names(X: Any, readers: list[Any]) -> Any:
    """The names of the columns of X: its own, or those that the first to read it was fitted on."""
    names = _get_feature_names(X)
    return getattr(readers[0], "feature_names_in_", None) if names is None else names


def _check_scores(classifier: BaseEstimator, X: Any, coef: np.ndarray, intercept: np.ndarray) -> None:
    """A classifier with a coef_ that does not score by it (SVC with several classes) must not be called exact."""
    few = _safe_indexing(indexable(X)[0], slice(16))  # rows of an array, frame, list or sparse X alike
    scores = np.asarray(classifier.decision_function(few))
    scores = scores.reshape(len(scores), -1)
    expected = _numeric(few) @ coef.T + intercept
    if scores.shape != expected.shape or not np.allclose(scores, expected, rtol=1e-3, atol=1e-6 * (1 + np.abs(expected).max())):
        raise TypeError(
            f"{type(classifier).__name__} does not score by <coef_, x> + intercept_: its robustness is not exact here."
        )


def _pull_back(name: str, transformer: Any, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients on the input of an affine transformer, from those on its output."""
    if isinstance(transformer, FunctionTransformer) and transformer.func is None:
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
