"""Training and scores on a cluster, by dask: data that no machine has whole.

The data are a dask array, a dask frame or a list of row sources; each of their chunks stays where
it is, and only sums over it travel. It needs ``pip install "sklearn-robust[dask]"``.
"""

from sklearn_robust.distributed.reduction import DaskReduction, LostClusterError
from sklearn_robust.distributed.robust_linear import RobustLinearClassifier
from sklearn_robust.distributed.scores import certified_radius, robust_accuracy_score
from sklearn_robust.distributed.separators import max_margin, min_norm_separator
from sklearn_robust.separators.on_rows import SeparatorOnRows

__all__ = [
    "DaskReduction",
    "LostClusterError",
    "RobustLinearClassifier",
    "SeparatorOnRows",
    "certified_radius",
    "max_margin",
    "min_norm_separator",
    "robust_accuracy_score",
]
