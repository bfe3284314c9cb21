"""Solvers: the path of steepest descent, its accelerated limit, and the minimiser of the robust risk."""

from sklearn_robust.solvers._solution import Solution
from sklearn_robust.solvers.accelerated import accelerated_margin
from sklearn_robust.solvers.robust_risk import minimise_robust_risk
from sklearn_robust.solvers.steepest_descent import steepest_descent

__all__ = ["Solution", "accelerated_margin", "minimise_robust_risk", "steepest_descent"]
