"""Networks trained against worst-case perturbations."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sklearn_robust._extras import missing
from sklearn_robust.neural_network._diagonal import RobustDiagonalNet

_HOMES = {
    "RobustMLPClassifier": "_mlp",
    "RobustNetClassifier": "_net",
    "SteepestDescent": "optim",
    "madry_cnn": "modules",
}

__all__ = [
    "RobustDiagonalNet",
    "RobustMLPClassifier",
    "RobustNetClassifier",
    "SteepestDescent",
    "madry_cnn",
]

if TYPE_CHECKING:
    from sklearn_robust.neural_network._mlp import RobustMLPClassifier
    from sklearn_robust.neural_network._net import RobustNetClassifier
    from sklearn_robust.neural_network.modules import madry_cnn
    from sklearn_robust.neural_network.optim import SteepestDescent


def __getattr__(name: str) -> Any:
    """Import torch only when a name that needs it is used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise missing(name, "torch") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
