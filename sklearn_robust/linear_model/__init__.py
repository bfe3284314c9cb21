"""Linear classifiers trained against worst-case perturbations."""

from sklearn_robust.linear_model._min_norm import MinNormRobustClassifier, NotSeparableWarning
from sklearn_robust.linear_model._robust_linear import RobustLinearClassifier

__all__ = ["MinNormRobustClassifier", "NotSeparableWarning", "RobustLinearClassifier"]
