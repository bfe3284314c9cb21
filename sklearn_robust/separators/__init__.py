"""Exact separators: the limits of robust training, each with a certificate of its exactness."""

from sklearn_robust.separators.critical_radius import max_margin
from sklearn_robust.separators.min_norm import min_norm_separator, separator_path
from sklearn_robust.separators.separator import NotSeparableError, Separator

__all__ = ["NotSeparableError", "Separator", "max_margin", "min_norm_separator", "separator_path"]
