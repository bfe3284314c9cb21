"""Synthetic data: linear teachers and features, dense or sparse."""

from sklearn_robust.datasets._teacher import make_teacher_classification

__all__ = ["make_teacher_classification"]
