"""Networks trained against worst-case perturbations."""

from sklearn_robust.neural_network._diagonal import RobustDiagonalNet

__all__ = ["RobustDiagonalNet"]
