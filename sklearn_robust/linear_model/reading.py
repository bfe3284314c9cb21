"""Training data of a linear classifier: validated, weighted, and stated as a problem.

An estimator without a threat object attacks with an l_q ball.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from sklearn_robust._parameters import check_number, check_sample_weight, refuse_lazy
from sklearn_robust.joint import JointProblem
from sklearn_robust.linear_model.block_rows import read_block_rows
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows
from sklearn_robust.threats import (
    LpBall,
    Threat,
    bound_threat,
    check_is_threat,
    check_radius,
    check_sample_radius,
    is_ball,
)

# entries of data up to which the samples of positive weight are copied; the problem of larger data
# has the others too. At least as many as solver="auto" computes exact separators of.
_MOST_COPIED = 10_000_000


def check_radius_or_radii(eps: Any, name: str) -> None:
    """A radius >= 0, or a dict of them by class."""
    if isinstance(eps, dict):
        for label, radius in eps.items():
            check_radius(radius, f"{name}[{label!r}]")
    else:
        check_radius(eps, name)


def of_positive_weight(
    X: Any, y: np.ndarray, weight: np.ndarray
) -> tuple[Any, np.ndarray, np.ndarray]:
    """The samples of positive weight: a sample of weight zero constrains no margin."""
    used = weight > 0
    return (X, y, weight) if used.all() else (X[used], y[used], weight[used])


def _with_class_weights(
    class_weight: dict[Any, float] | str, y: np.ndarray, sample_weight: np.ndarray
) -> np.ndarray:
    """The sample weights times the weight of each sample's class, as in scikit-learn.

    "balanced" makes the classes' sums of sample weights equal.
    """
    if isinstance(class_weight, dict):
        for label, value in class_weight.items():
            check_number(value, f"class_weight[{label!r}]", low=0)
        return sample_weight * compute_sample_weight(class_weight, y)
    used = sample_weight > 0
    classes, index = np.unique(y[used], return_inverse=True)
    of_class = compute_class_weight(
        class_weight, classes=classes, y=y[used], sample_weight=sample_weight[used]
    )
    weight = np.zeros_like(sample_weight)
    weight[used] = sample_weight[used] * of_class[index]
    return weight


def weights_of_blocks(rows: BlockRows, class_weight: dict[Any, float] | str | None) -> np.ndarray:
    """The weights of rows in blocks, times those of their classes."""
    weight = np.ones(rows.shape[0]) if rows.sample_weight is None else rows.sample_weight
    return weight if class_weight is None else _with_class_weights(class_weight, rows.y, weight)


def read_problem(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    class_weight: Any = None,
    sample_radius: Any = None,
) -> RobustProblem | JointProblem:
    """Validate training data, and state their problem.

    `classes_`, `scale_`, `threat_` and the names of features are stored in the estimator.

    Returns
    -------
    RobustProblem or JointProblem
        A joint problem for more than two classes.
    """
    if isinstance(X, BlockRows) and estimator._reads_blocks:
        y, weight = read_block_rows(estimator, X, y, sample_weight)
        copied = False
    else:
        refuse_lazy(X=X, y=y, sample_weight=sample_weight)
        X, y = validate_data(estimator, X, y, accept_sparse="csr", dtype=(np.float64, np.float32))
        weight = np.broadcast_to(1.0, len(y))
        if sample_weight is not None:
            weight = check_sample_weight(sample_weight, X, dtype=np.float64)
        # the exact separators do not know samples of weight zero
        exact = getattr(estimator, "solver", "exact") == "exact"
        serves_exactly = not estimator._reads_blocks or exact
        copied = serves_exactly or X.size <= _MOST_COPIED
    check_classification_targets(y)
    threat = read_threat(estimator)
    radius = check_sample_radius(sample_radius, len(y))
    estimator._fit_intercept = estimator.fit_intercept
    if class_weight is not None:
        weight = _with_class_weights(class_weight, y, weight)
    estimator._remember(X, y, weight, radius)
    if copied:
        radius = None if radius is None else radius[weight > 0]
        X, y, weight = of_positive_weight(X, y, weight)
    used = weight > 0
    estimator.classes_, index = _classes_and_index(y if used.all() else y[used])
    if len(index) < len(y):
        index, seen = np.zeros(len(y), dtype=np.int64), index
        index[used] = seen
    require_two_classes(estimator, estimator.classes_)
    labels = estimator.classes_.tolist()
    names = getattr(estimator, "feature_names_in_", None)
    estimator.threat_ = threat = bound_threat(threat, X.shape[1], names, labels)
    estimator.scale_ = threat.scale if is_ball(threat) else None
    if len(labels) > 2:
        return JointProblem.from_data(
            X,
            index,
            threat=threat,
            fit_intercept=estimator.fit_intercept,
            sample_weight=weight,
            sample_radius=radius,
            labels=labels,
        )
    return RobustProblem.from_data(
        X,
        (2 * index - 1).astype(X.dtype),
        threat=threat,
        fit_intercept=estimator.fit_intercept,
        sample_weight=weight,
        sample_radius=radius,
        classes=labels,
    )


def _classes_and_index(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels in ascending order, and where among them each sample's is."""
    if y.dtype.kind in "biuf":
        two = np.stack([y.min(), y.max()])
        upper = y == two[1]
        if two[0] < two[1] and np.all(upper | (y == two[0])):  # no need to sort
            return two, upper.astype(np.int64)
    classes = np.unique(y)
    return classes, np.searchsorted(classes, y)


def require_two_classes(estimator: Any, classes: np.ndarray) -> None:
    """Refuse data of one class."""
    if len(classes) < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs samples of at least two classes in y, with positive "
            f"sample_weight and class_weight, got {len(classes)} class: {classes.tolist()}. The "
            "risk of one class has no minimiser: leave such data out."
        )


def read_threat(estimator: Any) -> Threat:
    """The threat of an estimator: its parameter `threat`, else the ball of its parameters."""
    threat: Threat | None = getattr(estimator, "threat", None)
    clip = getattr(estimator, "clip", None)
    if threat is None:
        scale = estimator._read_scale(estimator.scale)
        return LpBall(estimator.q_pert, estimator.eps, scale, clip)
    if estimator.scale is not None or clip is not None:
        raise ValueError(
            f"threat takes the place of q_pert, eps, scale and clip, got threat={threat!r} beside "
            f"scale={estimator.scale!r} and clip={clip!r}. Use None for them, or "
            f"LpBall(q, eps, scale, clip) as the threat."
        )
    check_is_threat(threat)
    return threat
