"""Exact separators: the predictors that robust training tends to, each with a certificate of how
exact it is.
"""

from sklearn_robust.separators.critical_radius import max_margin
from sklearn_robust.separators.min_norm import min_norm_separator, separator_path
from sklearn_robust.separators.separator import NotSeparableError, Separator

__all__ = ["NotSeparableError", "Separator", "max_margin", "min_norm_separator", "separator_path"]
