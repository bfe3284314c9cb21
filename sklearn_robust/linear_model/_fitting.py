"""The steps that the fits of linear predictors share: device, separability, the minimiser of the risk, warnings."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import brentq
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import Solution, accelerated_margin, minimise_robust_risk
from sklearn_robust.solvers._solution import solution_to_numpy

_SCREEN_ITERATIONS = 500  # of the search for a proof of separability, or of its opposite


def on_device(problem: RobustProblem, device: str | None) -> RobustProblem:
    """The problem as torch tensors, where a device is given."""
    if device is None:
        return problem
    if sparse.issparse(problem.X):
        raise ValueError(f"device={device!r} needs dense data, got a sparse X. Use device=None, or X.toarray().")
    import torch

    def tensor(x: np.ndarray) -> torch.Tensor:
        x = x if x.flags.writeable else x.copy()  # torch has no read-only tensors
        return torch.as_tensor(x, dtype=torch.float32 if device == "mps" else None, device=device)

    return replace(
        problem,
        X=tensor(problem.X),
        y=tensor(problem.y),
        threat=replace(problem.threat, eps=tensor(problem.threat.eps)),
        log_weight=tensor(problem.log_weight),
        total_weight=tensor(problem.total_weight),
    )


def screened(problem: RobustProblem, loss: MarginLoss) -> Solution:
    """Which problems are robustly separable, by the first proof; any geometry decides it, and this one does so fastest."""
    screen = accelerated_margin(problem, loss, LpNorm(2), max_iter=_SCREEN_ITERATIONS, tol=1 - 1e-9)
    return solution_to_numpy(screen)


def with_risk_minimisers(
    problem: RobustProblem, loss: MarginLoss, norm: LpNorm, solution: Solution, tol: float, start: np.ndarray | None = None
) -> Solution:
    """The solution with the minimiser of the risk for every problem proven not to be separable and not yet converged."""
    rows = np.flatnonzero([separable is False for separable in solution.separable] & ~solution.converged)
    if not len(rows):
        return solution
    coef_init = None if start is None else start[rows]
    minimiser = minimise_robust_risk(problem.select(rows), loss, norm, tol=min(tol, 1e-6), coef_init=coef_init)
    minimiser.converged = minimiser.gap <= tol
    return replaced(solution, rows, minimiser)


def at_loss(problem: RobustProblem, loss: MarginLoss, solution: Solution, loss_tol: float) -> Solution:
    """Separators scaled so that the sum of their robust losses is loss_tol, where steepest descent stops."""
    for i in np.flatnonzero(solution.margin > 0) if loss_tol > 0 else ():
        one = problem.select(slice(i, i + 1))
        row = slice(i, i + 1)
        margins = one.margins(solution.coef[row], solution.intercept[row])

        def excess(scale: float, one: RobustProblem = one, margins: np.ndarray = margins) -> float:
            log_risk = loss.log_risk_and_weights(scale * margins, one.log_weight)[0][0]
            return float(log_risk + np.log(one.total_weight[0]) - math.log(loss_tol))

        # exp(-scale * smallest margin) bounds every loss, so the upper end is past the root, or at it up to rounding
        upper = max(1.0, (math.log(one.total_weight[0]) - math.log(loss_tol)) / margins.min())
        scale = brentq(excess, 0.0, upper) if excess(0.0) > 0 > excess(upper) else upper
        solution.coef[row] *= scale
        solution.intercept[row] *= scale
        solution.log_risk[row] = excess(scale) + math.log(loss_tol) - np.log(one.total_weight)
    return solution


def replaced(solution: Solution, rows: np.ndarray, part: Solution) -> Solution:
    """The solution with these problems' parts in it."""
    merged = replace(solution, separable=list(solution.separable))
    for f in fields(Solution):
        if f.name == "history":
            continue
        values = list(getattr(merged, f.name))
        for i, value in zip(rows.tolist(), getattr(part, f.name), strict=True):
            values[i] = value
        setattr(merged, f.name, values if f.name == "separable" else np.array(values))
    return merged


def warn_unless_converged(estimator: Any, solution: Solution, remedy: str) -> None:
    """A ConvergenceWarning with the certified gaps that were reached."""
    late = np.flatnonzero(~solution.converged)
    if not len(late):
        return
    classes = estimator.classes_[1:] if len(solution.coef) == 1 else estimator.classes_
    reached = ", ".join(f"{classes[i]!s}: {solution.gap[i]:.2g}" for i in late)
    warnings.warn(
        f"{type(estimator).__name__} stopped before tol={estimator.tol:g} or loss_tol={estimator.loss_tol:g} were met "
        f"(max_iter={estimator.max_iter}); certified relative gap reached, by class: {reached}. {remedy}",
        ConvergenceWarning,
        stacklevel=3,
    )
