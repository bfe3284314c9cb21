"""What the displays share: axes, and colours and line styles that stay apart in print and for
colour-blind readers.
"""

from __future__ import annotations

from typing import Any

from sklearn.utils._optional_dependencies import check_matplotlib_support

# Okabe and Ito
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))


def style(i: int, *, first_color: int = 0) -> dict[str, Any]:
    """Colour and line style of the i-th line."""
    return {
        "color": _COLORS[(first_color + i) % len(_COLORS)],
        "linestyle": _LINE_STYLES[i % len(_LINE_STYLES)],
    }


def axes_for(caller: str, ax: Any) -> Any:
    """The axes given, or new ones."""
    check_matplotlib_support(caller)
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]
