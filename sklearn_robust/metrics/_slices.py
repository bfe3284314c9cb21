"""Scores of large arrays, slice by slice: what is computed of a sample is forgotten with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing, gen_batches, indexable
from sklearn.utils.validation import _num_samples

from sklearn_robust.metrics._classifiers import is_linear, unwrapped
from sklearn_robust.rows import BlockRows

_SLICE = 2**18  # samples at a time
_OF_SAMPLES = ("y", "sample_weight", "sample_radius")  # parameters with an entry for each sample


def averaged_over_slices(score: Callable[..., float]) -> Callable[..., float]:
    """Decorate an average over samples: that of a large array, by a linear classifier, is the
    average of those of its slices.
    """

    @wraps(score)
    def sliced(estimator: Any, X: Any, y: Any = None, **options: Any) -> float:
        if not _is_large(X) or not is_linear(unwrapped(estimator)[1]):
            return score(estimator, X, y, **options)
        of_samples = {"y": y, **options}
        of_samples = {name: of_samples.get(name) for name in _OF_SAMPLES}
        X, *columns = indexable(X, *of_samples.values())
        total = total_weight = 0.0
        for at in gen_batches(_num_samples(X), _SLICE):
            part = {
                name: _safe_indexing(column, at)
                for name, column in zip(of_samples, columns, strict=True)
                if column is not None
            }
            weight = part.get("sample_weight")
            share = float(at.stop - at.start if weight is None else np.sum(weight))
            if share != 0:  # a negative weight is refused below
                total += share * score(estimator, _safe_indexing(X, at), **{**options, **part})
                total_weight += share
        if total_weight == 0:
            raise ValueError("sample_weight must not be all zero. Use None for equal weights.")
        return total / total_weight

    return sliced


def _is_large(X: Any) -> bool:
    """Whether data in memory have more samples than a slice."""
    shape: tuple[int, ...] = getattr(X, "shape", ())
    return not isinstance(X, BlockRows) and len(shape) == 2 and shape[0] > _SLICE
