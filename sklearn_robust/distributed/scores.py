"""Scores of fitted classifiers on data that lie on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sklearn_robust.distributed.chunks import map_rows, read_chunks
from sklearn_robust.distributed.reduction import DaskReduction, current_client
from sklearn_robust.metrics import certified_radius as radius_in_memory
from sklearn_robust.metrics import make_robust_scorer
from sklearn_robust.rows import Block


def robust_accuracy_score(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    client: Any = None,
    **threat: Any,
) -> float:
    """Fraction of samples that stay correctly classified under every perturbation of the threat.

    Each chunk is scored where it lies, and two numbers of it travel.

    Parameters
    ----------
    estimator : fitted classifier
        One that `sklearn_robust.robust_accuracy_score` takes.
    X : dask array or frame, or list of row sources
        A row source has a method blocks() that yields (X, y) or (X, y, sample_weight).
    y, sample_weight : dask array or series, optional
        None for row sources, which hold labels and weights.
    client : distributed.Client, optional
        The current one by default.
    **threat
        eps, q, space, scale and threat, as in `sklearn_robust.robust_accuracy_score`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a parameter is out of its range, or all weights are zero.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from distributed import Client
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_robust import distributed
    >>> X, y = np.array([[-1.0], [-0.1], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    >>> model = LogisticRegression(C=100).fit(X, y)
    >>> X, y = da.from_array(X, chunks=2), da.from_array(y, chunks=2)
    >>> with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
    ...     distributed.robust_accuracy_score(model, X, y, eps=0.7)
    0.5
    """
    scorer = make_robust_scorer(**threat)  # refuses what is out of range
    return average_score(estimator, scorer, X, y, sample_weight, client)


def average_score(
    estimator: Any, scorer: Any, X: Any, y: Any, sample_weight: Any, client: Any
) -> float:
    """The average over all samples of a score ``scorer(estimator, X, y, sample_weight)``."""
    reduction = DaskReduction(current_client(client), read_chunks(X, y, sample_weight))
    right, total = reduction.total(_Right(estimator, scorer))
    if total == 0:
        raise ValueError("sample_weight must not be all zero. Use None for equal weights.")
    return float(right / total)


def certified_radius(estimator: Any, X: Any, y: Any = None, **options: Any) -> Any:
    """Distance of each sample to the decision boundary of a linear classifier, computed when it is
    asked for.

    Parameters
    ----------
    estimator : fitted linear classifier
    X : dask array or frame, or list of row sources
    y : dask array or series, optional
        True labels, with which distances of samples that are misclassified are negative; without
        them the distance is that of the predicted class. Row sources bring labels.
    **options
        q, space, scale and threat, as in `sklearn_robust.metrics.certified_radius`.

    Returns
    -------
    dask array of shape (n,)

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_robust import distributed
    >>> X, y = np.array([[-1.0], [1.0]]), np.array([0, 1])
    >>> model = LogisticRegression().fit(X, y)
    >>> distributed.certified_radius(model, da.from_array(X, chunks=1)).compute().round(3)
    array([1., 1.])
    """
    return map_rows(X, partial(_radii, estimator, options), np.empty(0), y)


def _radii(estimator: Any, options: dict[str, Any], block: Block) -> np.ndarray:
    """The distances of the samples of a block, with its labels where it has them."""
    y = None if block.y is None else block.labels
    return np.asarray(radius_in_memory(estimator, block.X, y, **options))


@dataclass(frozen=True)
class _Right:
    """The weight of the samples of a block that stay right, and that of all, (2,)."""

    estimator: Any
    scorer: Any

    def __call__(self, block: Block) -> np.ndarray:
        y, weight = block.labels, block.weights
        total = float(len(y) if weight is None else weight.sum())
        if total == 0:
            return np.zeros(2)
        return np.array([total * self.scorer(self.estimator, block.X, y, weight), total])
