"""A fitted linear classifier, alone or in pipelines and wrappers, as the adversary faces it.

`linear_view` reads off its coefficients, the data as it sees them, and the coefficients in the
space of the threat. The metrics, the linear estimators, the figures and the bounds of theory build
on it; `is_linear`, `unwrapped` and `transformed` are the questions about estimators that they ask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing, check_consistent_length, indexable
from sklearn.utils.validation import _get_feature_names, _num_samples

from sklearn_robust._documentation import see
from sklearn_robust._parameters import (
    check_choice,
    class_index,
    read_scale,
    refuse_lazy,
    seen_class_index,
)
from sklearn_robust.attacks.linear import by_blocks, class_scores, row_blocks
from sklearn_robust.attacks.rivals import Rivals
from sklearn_robust.metrics._classifiers import (
    check_predictions,
    deciding_scores,
    is_linear,
    numeric,
    unwrapped,
)
from sklearn_robust.metrics._transformers import (
    coef_before,
    missing_entries,
    numeric_columns,
    transformed,
)
from sklearn_robust.threats import (
    Box,
    Intersection,
    LpBall,
    Threat,
    bound_threat,
    is_per_sample,
    is_solid,
)

__all__ = ["SPACES", "LinearView", "is_linear", "linear_view", "transformed", "unwrapped"]

SPACES = ("model", "input")


@dataclass(frozen=True)
class LinearView:
    """A linear classifier, the data as it sees them, and what a perturbation does to its scores.

    Attributes
    ----------
    X : array or sparse array of shape (n, d)
        What the classifier sees.
    coef : array of shape (K, d), or (1, d) for two classes
    intercept : array of shape (K,) or (1,)
    classes : array of shape (K,)
    names : array of shape (m,) or None
        Names of the features in the space of the threat, where they have names.
    reached : array of shape (K, m) or (1, m)
        Coefficients of the scores as functions of a perturbation in that space, zero where it
        cannot reach; `coef` by default.
    fixed : bool array of shape (m,) or None
        Features that no perturbation changes, as those that an encoder of categories reads.
    missing : bool array of shape (n, m) or None
        Entries without a value, which no perturbation changes.
    given : array or frame of n rows, or None
        The samples in the space of the threat, where they are not X.
    predicted : int array of shape (n,) or None
        Index of the class that the classifier predicts.
    """

    X: Any
    coef: np.ndarray
    intercept: np.ndarray
    classes: np.ndarray
    names: Any = None
    reached: Any = None
    fixed: np.ndarray | None = None
    missing: np.ndarray | None = None
    given: Any = None
    predicted: Any = None

    def __post_init__(self) -> None:
        if self.reached is None:
            object.__setattr__(self, "reached", self.coef)

    def ball(self, q: float, eps: float, scale: Any, clip: Any = None) -> LpBall:
        """The l_q ball; the scale is an array of shape (m,), a dict by feature name, or None."""
        scale = read_scale(scale, self.reached.shape[1], self.names)
        return self.bound(LpBall(q, eps, scale, clip))

    def bound(self, threat: Threat) -> Any:
        """The threat on the features that the view reaches, with columns in place of names."""
        threat = bound_threat(threat, self.reached.shape[1], self.names, list(self.classes))
        if is_solid(threat):
            return threat
        if self.missing is not None:
            raise ValueError(
                f"threat={type(threat).__name__} meets entries without a value, which no "
                "perturbation changes: these are for sets that stay sets when entries are put to "
                "zero, such as LpBall and Box. Use one, or space='model'."
                f" {see('guide/metrics')}"
            )
        if self.fixed is None or not self.fixed.any():
            return threat
        # what leaves the columns as they are that an encoder of categories reads
        free = np.where(self.fixed, 0.0, np.inf)
        return Intersection([threat, Box(-free, free)])

    def rivals(self, threat: Any, sample_radius: Any = None) -> Rivals:
        """What a bound threat takes from the leads of the samples, with radii of n samples."""
        points = self.points if is_per_sample(threat) else None
        return Rivals(
            self.reached, threat, self.classes.tolist(), points, sample_radius, self.missing
        )

    @cached_property
    def points(self) -> Any:
        """The samples in the space of the threat, NaN where no perturbation changes them."""
        if self.given is None:
            return self.X
        used = np.any(self.reached != 0, axis=0)
        return numeric_columns(self.given, self.names, used)

    def figures(
        self,
        figure: Callable[[np.ndarray, np.ndarray, slice], np.ndarray],
        index: np.ndarray | None,
    ) -> np.ndarray:
        """A figure of each sample, of shape (n,), from its scores and its class; see
        `by_blocks`.
        """
        return by_blocks(figure, self.X, index, self.coef, self.intercept)

    def class_index(self, y: Any) -> np.ndarray:
        """Index of each sample's label in `classes`; -1 for labels never seen."""
        index = class_index(y, self.classes)
        check_consistent_length(self.X, index)
        return index

    def seen_class_index(self, y: Any) -> np.ndarray:
        """Index of each sample's label in `classes`, where each must be one of them."""
        index = seen_class_index(y, self.classes)
        check_consistent_length(self.X, index)
        return index


def linear_view(estimator: BaseEstimator, X: Any, space: str) -> LinearView:
    """The linear model that a classifier or pipeline is, with a threat in "model" or "input" space.

    Parameters
    ----------
    estimator : fitted linear classifier, pipeline that ends in one, search over either, or wrapper
        Known wrappers are FrozenEstimator, FixedThresholdClassifier, TunedThresholdClassifierCV,
        OneVsRestClassifier, and CalibratedClassifierCV of one classifier.
    X : array of shape (n, d)
        Input of the estimator.
    space : {"model", "input"}
        "model": the threat moves what the last step of a pipeline sees. "input": it moves what the
        pipeline sees, and the coefficients are those on its input: its transformers must be affine.

    Raises
    ------
    TypeError
        If the classifier is not linear, or a transformer between it and the threat is not known to
        be affine.
    """
    check_choice(space, "space", SPACES)
    refuse_lazy(X=X)
    rows = indexable(X)[0]
    # rows of any kind of X; scikit-learn 1.8 takes no more of them than there are
    few = _safe_indexing(rows, slice(min(16, _num_samples(rows))))
    scores = deciding_scores(estimator, few)
    steps, classifier = unwrapped(estimator)
    at_classifier = transformed(steps, X)
    seen = transformed(scores.steps[len(steps) :], at_classifier)  # behind steps in wrappers too
    if space == "model":
        names = _names(seen, scores.reader)
        reached = scores.coef
        fixed = missing = None
    else:
        names = _names(X, scores.steps[0][1] if scores.steps else scores.reader)
        reached = coef_before(scores.steps, scores.coef)
        fixed = np.isnan(reached).any(axis=0)
        reached = np.where(np.isnan(reached), 0, reached)
        missing = missing_entries(X, names, np.any(reached != 0, axis=0)) if scores.steps else None
    view = LinearView(
        X=numeric(seen),
        coef=scores.coef,
        intercept=scores.intercept,
        classes=classifier.classes_,
        names=names,
        reached=reached,
        fixed=fixed,
        missing=missing,
        given=X if space == "input" and scores.steps else None,
    )
    return replace(view, predicted=_predicted(classifier, at_classifier, view))


def _predicted(classifier: BaseEstimator, X: Any, view: LinearView) -> np.ndarray:
    """Index of the class that the classifier predicts for each row, checked against its scores."""
    rows, scored = indexable(X, view.X)
    predicted = []
    for at in row_blocks(view.X.shape[0], len(view.classes)):
        labels = classifier.predict(_safe_indexing(rows, at))
        predicted.append(class_index(labels, view.classes))
        check_predictions(
            classifier, class_scores(scored[at], view.coef, view.intercept), predicted[-1]
        )
    return np.concatenate(predicted)


def _names(X: Any, reader: Any) -> Any:
    """Names of the features in the order of the fit: those of the reader's, or else of X."""
    names = getattr(reader, "feature_names_in_", None)
    return _get_feature_names(X) if names is None else names
