"""Reports of measured robustness: evidence for those who decide, with what was not measured."""

from sklearn_robust.reports.report import RobustnessReport

__all__ = ["RobustnessReport"]
