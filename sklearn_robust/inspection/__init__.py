"""Inspection: pictures of robustness and of training, and how far a fitted classifier is from the
limit of theory.
"""

from sklearn_robust.inspection._convergence import ConvergenceCurve, ConvergenceDisplay
from sklearn_robust.inspection._implicit_bias import ImplicitBiasReport, implicit_bias_report
from sklearn_robust.inspection._margins import MarginReport, margin_report
from sklearn_robust.inspection._robust_accuracy import RobustAccuracyCurve, RobustAccuracyDisplay
from sklearn_robust.inspection._separator import SeparatorDisplay

__all__ = [
    "ConvergenceCurve",
    "ConvergenceDisplay",
    "ImplicitBiasReport",
    "MarginReport",
    "RobustAccuracyCurve",
    "RobustAccuracyDisplay",
    "SeparatorDisplay",
    "implicit_bias_report",
    "margin_report",
]
