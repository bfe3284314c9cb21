"""Training and scores on a cluster, by dask: data that no machine has whole.

The data are a dask array, a dask frame or a list of row sources; each of their chunks stays where
it is, and only sums over it travel. It needs ``pip install "sklearn-robust[dask]"``.
"""

import importlib
from typing import TYPE_CHECKING, Any

# The module of each public name. A worker, which needs the sums alone, imports no estimator.
_HOMES = {
    "DaskReduction": "distributed.reduction",
    "LostClusterError": "distributed.reduction",
    "RobustLinearClassifier": "distributed.robust_linear",
    "SeparatorOnRows": "separators.on_rows",
    "certified_radius": "distributed.scores",
    "max_margin": "distributed.separators",
    "min_norm_separator": "distributed.separators",
    "robust_accuracy_score": "distributed.scores",
}
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

if TYPE_CHECKING:
    from sklearn_robust.distributed.reduction import DaskReduction, LostClusterError
    from sklearn_robust.distributed.robust_linear import RobustLinearClassifier
    from sklearn_robust.distributed.scores import certified_radius, robust_accuracy_score
    from sklearn_robust.distributed.separators import max_margin, min_norm_separator
    from sklearn_robust.separators.on_rows import SeparatorOnRows


def __getattr__(name: str) -> Any:
    """Import the module of a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sklearn_robust.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
