"""Linear classifiers trained against worst-case perturbations."""

from sklearn_robust.linear_model._cv import RobustLinearClassifierCV
from sklearn_robust.linear_model._min_norm import MinNormRobustClassifier, NotSeparableWarning
from sklearn_robust.linear_model._path import RobustLinearPath, robust_linear_path
from sklearn_robust.linear_model._radii import training_radii
from sklearn_robust.linear_model._robust_linear import RobustLinearClassifier
from sklearn_robust.linear_model.lifecycle import ConstantClassifierWarning

__all__ = [
    "ConstantClassifierWarning",
    "MinNormRobustClassifier",
    "NotSeparableWarning",
    "RobustLinearClassifier",
    "RobustLinearClassifierCV",
    "RobustLinearPath",
    "robust_linear_path",
    "training_radii",
]
