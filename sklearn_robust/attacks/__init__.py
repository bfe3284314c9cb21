"""Attacks: closed form for linear models (`attacks.linear`); by gradients or scores, with torch,
for networks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sklearn_robust._extras import missing

_HOMES = {
    "apgd": "auto_pgd",
    "ensemble": "combined",
    "pgd": "gradient",
    "projected_ascent": "gradient",
    "square": "random_search",
}

__all__ = ["apgd", "ensemble", "pgd", "projected_ascent", "square"]

if TYPE_CHECKING:
    from sklearn_robust.attacks.auto_pgd import apgd
    from sklearn_robust.attacks.combined import ensemble
    from sklearn_robust.attacks.gradient import pgd, projected_ascent
    from sklearn_robust.attacks.random_search import square


def __getattr__(name: str) -> Any:
    """Import torch only when an attack that needs it is used (PEP 562)."""
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
