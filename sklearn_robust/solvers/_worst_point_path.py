r"""The path of steepest descent in the 2-norm against sets that are known by their worst points.

The negative gradient of the log-risk is :math:`\sum_i a_i y_i (x_i + \delta_i)` with
:math:`\delta_i` a worst point of the set of sample i: :math:`w \leftarrow w + \eta \sum_i a_i y_i
(x_i + \delta_i)`. At a kink of the penalty it is one of several subgradients; in the 2-norm steps
of size 1 / L go on past kinks, :math:`L = \max_i \|x_i + \delta_i\|^2`, the largest curvature of
the exponential loss. In other norms such steps stall at kinks, and there is no path here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sklearn_robust._documentation import see
from sklearn_robust.certificates import Certified, over_size, relative_gap, robust_margin
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.rows import largest_entry
from sklearn_robust.solvers._rule_path import SHRINK
from sklearn_robust.solvers.solution import Monitor, Monitoring, Solution

_NORM = LpNorm(2)
_GROWTH = 1.05  # factor on the adaptive step after an accepted trial
_SUFFICIENT = 0.5  # share of the predicted decrease that a step longer than 1 / L must bring


@dataclass(frozen=True)
class _Point:
    coef: np.ndarray  # (1, d)
    now: Evaluation
    gradient: np.ndarray  # minus that of the log-risk, (d,)
    largest: float  # the largest 2-norm of a perturbation


def follow_worst_points(
    problem: RobustProblem,
    loss: MarginLoss,
    limit: Solution,
    *,
    step_size: float | str,
    max_iter: int,
    loss_tol: float,
    tol: float,
    coef_init: np.ndarray | None = None,
    monitors: Sequence[Monitor] = (),
) -> Solution:
    """Follow the path of steepest descent in the 2-norm by worst points, of one problem whose
    samples have sets of their own.

    Parameters
    ----------
    problem : RobustProblem
        One problem, in double arithmetic, on an array.
    loss : MarginLoss
    limit : Solution
        The exact separator, whose weights prove the bound on the margin of the path.
    step_size : "adaptive", "paper" or float
        "adaptive" is 1 / L at least, and longer where that descends as far as the model predicts;
        "paper" is the constant 1 / B^2, B the largest entry of a perturbed sample.
    max_iter, loss_tol, tol, coef_init, monitors
        As in `steepest_descent`; tol is of the margin.

    Returns
    -------
    Solution
        With k = 1; its bound is that of the limit.

    Raises
    ------
    ValueError
        For sets without end.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.losses import LOSSES
    >>> from sklearn_robust.norms import LpNorm
    >>> from sklearn_robust.problems import RobustProblem
    >>> from sklearn_robust.solvers import follow_worst_points, minimise_robust_risk
    >>> from sklearn_robust.threats import Box
    >>> X, y = np.array([[2.0, 1.0], [1.0, 2.0], [-1.0, -1.0]]), np.array([1.0, 1.0, -1.0])
    >>> problem = RobustProblem.from_data(X, y, threat=Box(-0.1, 0.2), fit_intercept=True)
    >>> limit = minimise_robust_risk(problem, LOSSES["exponential"], LpNorm(2))
    >>> path = follow_worst_points(
    ...     problem, LOSSES["exponential"], limit, step_size="adaptive", max_iter=500,
    ...     loss_tol=1e-3, tol=1e-6)
    >>> path.separable, bool(path.margin[0] > 1)
    ([True], True)
    """
    path = _Path(problem, loss)
    start = np.zeros((1, problem.n_features)) if coef_init is None else coef_init
    path.require_ends()
    at = path.point(start.astype(np.float64))
    row_size = math.sqrt(float(np.max(path.row_squares)))
    done_below = math.log(loss_tol) if loss_tol > 0 else -math.inf
    done_below -= float(problem.log_total_weight[0])
    bound, monitoring = float(limit.margin_bound[0]), Monitoring(0, monitors)
    step = constant = path.constant_step(step_size, at)
    iteration, converged = 0, False
    for iteration in range(1, max_iter + 1):
        least = 1 / (row_size + at.largest) ** 2
        if constant is None:
            step = least if step is None else max(step, least)
        assert step is not None
        trial = path.point(at.coef + step * at.gradient, at.now)
        predicted = step * float(at.gradient @ at.gradient)
        if constant is not None or step <= least:
            at = trial
            step = step if constant is not None else _GROWTH * step
        elif trial.now.log_risk[0] <= at.now.log_risk[0] - _SUFFICIENT * predicted:
            at, step = trial, _GROWTH * step
        else:
            step = SHRINK * step
        margin = path.margin(at)
        converged = bool(at.now.log_risk[0] < done_below or relative_gap(margin, bound) <= tol)
        figures = {
            "log_risk": at.now.log_risk,
            "margin": np.full(1, margin),
            "margin_bound": np.full(1, bound),
            "gap": np.full(1, relative_gap(margin, bound)),
        }
        ids = np.zeros(1, dtype=int)
        last = converged or iteration == max_iter
        if monitoring(iteration, ids, at.coef, at.now.intercept, last=last, **figures) or converged:
            break
    proven = robust_margin(problem, _NORM, at.coef, at.now.intercept)
    found = Certified(
        at.coef, limit.weights, at.now.intercept, margin=proven, bound=limit.margin_bound
    )
    separable = True if proven[0] > 0 else limit.separable[0]
    return Solution.of(
        found, at.now.log_risk, separable=separable, converged=converged, n_iter=iteration
    )


class _Path:
    def __init__(self, problem: RobustProblem, loss: MarginLoss) -> None:
        assert problem.adversary is not None
        self.problem, self.loss = problem, loss
        self.sets, self.radius = problem.adversary, float(problem.radius[0])
        X = problem.X
        squares = X.multiply(X).sum(axis=1) if hasattr(X, "multiply") else (X**2).sum(axis=1)
        self.row_squares = np.asarray(squares).ravel()

    def require_ends(self) -> None:
        """Refuse sets without end, against which most predictors have infinite risk."""
        unit = np.eye(self.problem.n_features)
        if not np.isfinite(self.problem.penalties(np.vstack([unit, -unit]))).all():
            raise ValueError(
                f"The path of steepest descent needs sets with ends, got "
                f"threat={type(self.problem.threat).__name__} without one: use solver='auto' or "
                f"'exact', which compute its limit."
                f" {see('guide/solvers')}"
            )

    def point(self, coef: np.ndarray, last: Evaluation | None = None) -> _Point:
        """The loss at coefficients (1, d), and the gradient at the worst points."""
        problem = self.problem
        now = problem.evaluate(self.loss, coef, near=None if last is None else last.intercept)
        moved = self.radius * self.sets.perturbations(coef[0])
        gradient = problem.weighted_sum(now.weights)[0] - now.weights[0] @ moved
        largest = math.sqrt(float(np.max(np.sum(moved**2, axis=1))))
        return _Point(coef, now, gradient, largest)

    def margin(self, at: _Point) -> float:
        """The margin over the 2-norm, without the charge for rounding."""
        used = self.problem.log_weight > -math.inf
        smallest = np.min(np.where(used, at.now.margins, math.inf), axis=-1)
        return float(over_size(smallest, _NORM.value(at.coef))[0])

    def constant_step(self, step_size: float | str, at: _Point) -> float | None:
        """The step of all iterations; None for an adaptive one."""
        if step_size == "adaptive":
            return None
        if step_size != "paper":
            return float(step_size)
        ones = np.ones(self.problem.n_features)
        reach = max(
            float(np.max(np.abs(self.radius * self.sets.perturbations(sign * ones))))
            for sign in (1.0, -1.0)
        )
        return 1 / (float(largest_entry(self.problem.rows)) + reach) ** 2
