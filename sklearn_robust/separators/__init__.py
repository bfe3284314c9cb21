"""Exact separators: the predictors that robust training tends to, each with a certificate of how
exact it is.
"""

from sklearn_robust.separators.min_norm import (
    NotSeparableError,
    Separator,
    max_margin,
    min_norm_separator,
    separator_path,
)

__all__ = ["NotSeparableError", "Separator", "max_margin", "min_norm_separator", "separator_path"]
