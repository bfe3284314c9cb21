"""Training and scores on a cluster, by dask: data that no machine has whole.

The data are a dask array, a dask frame or a list of row sources; each of their chunks stays where
it is, and only sums over it travel. It needs ``pip install "sklearn-robust[dask]"``.
"""

from sklearn_robust.distributed.reduction import DaskReduction, LostClusterError

__all__ = ["DaskReduction", "LostClusterError"]
