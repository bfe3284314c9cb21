"""Inspection: how far a fitted classifier is from the limit that theory predicts."""

from sklearn_robust.inspection._implicit_bias import ImplicitBiasReport, implicit_bias_report

__all__ = ["ImplicitBiasReport", "implicit_bias_report"]
