"""The paper's theory in numbers: bounds on robust generalisation, and the mixed norm that robust
ERM minimises.
"""

from sklearn_robust.theory._generalization import (
    adversarial_rademacher_bound,
    margin_generalization_bound,
    rademacher_bound,
    robust_generalization_bound,
)
from sklearn_robust.theory._mixed_norm import mixed_norm_weight

__all__ = [
    "adversarial_rademacher_bound",
    "margin_generalization_bound",
    "mixed_norm_weight",
    "rademacher_bound",
    "robust_generalization_bound",
]
