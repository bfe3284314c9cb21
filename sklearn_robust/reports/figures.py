r"""Figures of classified samples as functions of their weights (..., n), for many weights at once.

Two classes have a score f. The adversary lowers the scores of the positive samples by :math:`c =
\epsilon \|s w\|_{q^*}` and raises those of the negative ones by c: that is the worst case of every
figure of two lists of scores at once, as each sample is attacked alone. The functions of
`sklearn.metrics`, with which these agree, take one vector of weights at a time.
"""

from __future__ import annotations

import numpy as np


def mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted mean; of booleans the share of the samples for which they hold."""
    figure: np.ndarray = (weight @ values) / weight.sum(axis=-1)
    return figure


def balanced_accuracy(right: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The mean over the classes that there are of the share of their samples that are right."""
    parts = [mean(right[y == k], weight[..., y == k]) for k in np.unique(y)]
    figure: np.ndarray = np.mean(parts, axis=0)
    return figure


def area_under_curve(scores: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The area under the ROC curve: how often a positive sample scores above a negative one, a tie
    counted as half.
    """
    above, below = _by_level(scores, positive, weight)
    lower = np.cumsum(below, axis=-1) - 0.5 * below
    area: np.ndarray = np.sum(above * lower, axis=-1) / (above.sum(axis=-1) * below.sum(axis=-1))
    return area


def kolmogorov_smirnov(scores: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The largest true-positive rate less the false-positive rate of a threshold."""
    above, below = _by_level(scores, positive, weight)
    misses = np.cumsum(above, axis=-1) / above.sum(axis=-1, keepdims=True)
    rejected = np.cumsum(below, axis=-1) / below.sum(axis=-1, keepdims=True)
    largest: np.ndarray = np.maximum(np.max(rejected - misses, axis=-1), 0.0)
    return largest


def _by_level(
    scores: np.ndarray, positive: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The weights of positive and of negative samples at each score, ascending."""
    order = np.argsort(scores, kind="stable")
    starts = np.unique(scores[order], return_index=True)[1]
    sums = [
        np.add.reduceat((weight * members)[..., order], starts, axis=-1)
        for members in (positive, ~positive)
    ]
    return sums[0], sums[1]
