"""Rows in blocks as the training data of an estimator: their labels, weights and feature names."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_robust._documentation import see
from sklearn_robust.rows import BlockRows


def read_block_rows(
    estimator: Any, rows: BlockRows, y: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The labels and the weights that the rows hold, both of shape (n,).

    The number of features and their names are stored in the estimator.

    Raises
    ------
    ValueError
        If labels or weights are given beside the rows, or the estimator has a setting that needs
        the data in memory.
    """
    check_settings_of_blocks(estimator, rows, y, sample_weight)
    check_exact_in_memory(estimator, rows)
    estimator.n_features_in_ = rows.shape[1]
    vars(estimator).pop("feature_names_in_", None)
    if rows.feature_names is not None:
        estimator.feature_names_in_ = rows.feature_names
    weight = np.ones(len(rows.y)) if rows.sample_weight is None else rows.sample_weight
    if not weight.any():
        raise ValueError(f"sample_weight of {rows!r} must not be all zero.")
    return rows.y, weight


def check_settings_of_blocks(estimator: Any, rows: BlockRows, y: Any, sample_weight: Any) -> None:
    """Refuse labels and weights beside the rows, and settings that need the data in memory."""
    rows.refuse_beside(y=y, sample_weight=sample_weight)
    device = getattr(estimator, "device", None)
    if device is not None:
        raise ValueError(
            f"device={device!r} needs the data in memory, got {type(rows).__name__}. Use "
            f"device=None."
            f" {see('guide/larger_than_memory')}"
        )


def check_exact_in_memory(estimator: Any, rows: BlockRows) -> None:
    """Refuse what the exact separator of rows in blocks serves by sums only."""
    if getattr(estimator, "solver", "exact") != "exact":
        return
    several = np.count_nonzero(rows.survey.weights) > 2
    if several or estimator.scale is not None or getattr(estimator, "threat", None) is not None:
        what = "several classes" if several else "scale or threat"
        raise ValueError(
            f"The exact separator with {what} needs the data in memory, got {type(rows).__name__}. "
            f"Use RobustLinearClassifier with its default solver, which ends there, or "
            f"solver='steepest_descent' for the path to it."
            f" {see('guide/larger_than_memory')}"
        )
