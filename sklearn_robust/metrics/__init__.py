"""Metrics: exact robust accuracy with its certificate, certified radius, and a scorer for
scikit-learn's searches.
"""

from sklearn_robust.metrics._certificate import robust_accuracy_certificate
from sklearn_robust.metrics._robust_accuracy import (
    make_robust_scorer,
    robust_accuracy_score,
)
from sklearn_robust.metrics._transformers import coef_on_input
from sklearn_robust.metrics._worst_cases import certified_radius, worst_case_samples

__all__ = [
    "certified_radius",
    "coef_on_input",
    "make_robust_scorer",
    "robust_accuracy_certificate",
    "robust_accuracy_score",
    "worst_case_samples",
]
