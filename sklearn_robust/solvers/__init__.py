"""Solvers: paths of descent, their accelerated limit, and the minimiser of the robust risk."""

from sklearn_robust.solvers._joint_descent import joint_steepest_descent
from sklearn_robust.solvers._joint_diagonal import joint_diagonal_descent
from sklearn_robust.solvers._joint_limit import JointLimit, joint_limit
from sklearn_robust.solvers._joint_risk import minimise_joint_risk
from sklearn_robust.solvers._joint_run import JointSolution
from sklearn_robust.solvers._worst_point_path import follow_worst_points
from sklearn_robust.solvers.accelerated import accelerated_margin
from sklearn_robust.solvers.diagonal import diagonal_descent
from sklearn_robust.solvers.robust_risk import minimise_robust_risk
from sklearn_robust.solvers.solution import Solution
from sklearn_robust.solvers.steepest import descent_grid, steepest_descent
from sklearn_robust.solvers.summed_joint_risk import joint_figures, minimise_summed_joint_risk
from sklearn_robust.solvers.summed_risk import (
    SummedSolution,
    TooManyColumnsError,
    balanced_weighted_sum,
    log_risks_along,
    minimise_summed_risk,
    most_hessian_columns,
)

__all__ = [
    "JointLimit",
    "JointSolution",
    "Solution",
    "SummedSolution",
    "TooManyColumnsError",
    "accelerated_margin",
    "balanced_weighted_sum",
    "descent_grid",
    "diagonal_descent",
    "follow_worst_points",
    "joint_diagonal_descent",
    "joint_figures",
    "joint_limit",
    "joint_steepest_descent",
    "log_risks_along",
    "minimise_joint_risk",
    "minimise_robust_risk",
    "minimise_summed_joint_risk",
    "minimise_summed_risk",
    "most_hessian_columns",
    "steepest_descent",
]
