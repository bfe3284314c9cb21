"""The steps that the fits of linear predictors share: device, separability, the minimiser of the
risk, warnings.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import fields, replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy import sparse
from scipy.optimize import brentq
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust._parameters import check_device
from sklearn_robust.certificates import proves_not_separable, relative_gap, robust_margin
from sklearn_robust.linear_model.base import positive_classes
from sklearn_robust.linear_model.monitoring import FitMonitor
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators import NotSeparableError
from sklearn_robust.separators.min_norm import solve_separator
from sklearn_robust.solvers import Solution, accelerated_margin, minimise_robust_risk
from sklearn_robust.solvers.solution import solution_to_numpy

# certified relative gap of every minimiser of the risk, unless a smaller one is asked for: so small
# that it does not show where the minimiser started, and a Newton step or two from a larger one
_RISK_TOL = 1e-9
_LARGEST_MARGIN = 1e9  # to which a separator is scaled at most, however slowly its loss falls
_SCREEN_ITERATIONS = 500  # of the search for a proof of separability, or of its opposite


def on_device(problem: RobustProblem, device: str | None) -> RobustProblem:
    """The problem as torch tensors, where a device is given."""
    check_device(device)
    if device is None:
        return problem
    if sparse.issparse(problem.X):
        raise ValueError(
            f"device={device!r} needs dense data, got a sparse X. Use device=None, or X.toarray()."
        )
    import torch

    def tensor(x: np.ndarray) -> torch.Tensor:
        x = x if x.flags.writeable else x.copy()  # torch has no read-only tensors
        return torch.as_tensor(x, dtype=torch.float32 if device == "mps" else None, device=device)

    return problem.mapped(tensor, tensor(problem.X))


def decide_separability(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: LpNorm,
    monitor: FitMonitor,
    *,
    tol: float,
) -> Solution:
    """Which problems are robustly separable, by the first proof.

    Where more rows than twice the columns make it likely that none is, the minimisers of the risk
    are sought at once: they prove it, and are then found. What is still open is searched for a
    separator, in the geometry that decides fastest.
    """
    rows = np.arange(problem.n_problems)
    if not isinstance(problem.y, np.ndarray) or problem.X.shape[0] <= 2 * problem.n_features:
        return _separator_sought(problem, loss, norm, monitor, rows)
    with monitor.solver("robust_risk", rows) as monitors:
        solution = minimise_robust_risk(
            problem, loss, norm, tol=min(tol, _RISK_TOL), monitors=monitors
        )
    solution = replace(solution, converged=solution.gap <= tol)
    undecided = np.flatnonzero([separable is None for separable in solution.separable])
    if not len(undecided) or monitor.stopped:
        return solution
    return replace_rows(
        solution, undecided, _separator_sought(problem, loss, norm, monitor, undecided)
    )


def _separator_sought(
    problem: RobustProblem, loss: MarginLoss, norm: LpNorm, monitor: FitMonitor, rows: np.ndarray
) -> Solution:
    with monitor.stage("search for a separator", rows):
        found = accelerated_margin(
            problem.select(rows), loss, LpNorm(2), max_iter=_SCREEN_ITERATIONS, tol=1 - 1e-9
        )
    solution = remeasured(solution_to_numpy(found), norm, measured_in=LpNorm(2))
    solution.converged[:] = False  # only the sign of the margin was sought
    return solution


def with_exact_separators(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: LpNorm,
    solution: Solution,
    rows: np.ndarray,
    *,
    loss_tol: float,
    tol: float,
    n_jobs: int | None = None,
) -> Solution:
    """The solution with the exact separator of these problems, or the proof that there is none.

    Where the programs fail, or end further from the limit, what the solution holds stays.
    """
    ones = [problem.select(slice(i, i + 1)) for i in rows]
    answers = Parallel(n_jobs=n_jobs)(
        delayed(_exact_separator)(one, loss, norm, tol) for one in ones
    )
    for i, one, answer in zip(rows.tolist(), ones, answers, strict=True):
        if answer is not None and not (
            answer.separable[0] and solution.separable[i] and solution.gap[i] < answer.gap[0]
        ):
            solution = replace_rows(
                solution, np.array([i]), scale_to_loss(one, loss, answer, loss_tol)
            )
    return solution


def _exact_separator(
    problem: RobustProblem, loss: MarginLoss, norm: LpNorm, tol: float
) -> Solution | None:
    """The exact separator of one problem, or the proof that there is none; None where the programs
    fail to decide.
    """
    double, dtype = problem.as_float64(), problem.y.dtype
    coef, intercept, bound, separable = np.zeros((1, problem.n_features)), np.zeros(1), 0.0, False
    try:
        found = solve_separator(double, norm)
    except NotSeparableError as error:
        weights = error.weights[None]
        if not proves_not_separable(double, weights)[0]:
            return None  # eps is eps* to the last digits
    except RuntimeError:
        return None
    else:
        # the certificate is that of the coefficients as the user sees them
        coef, intercept = (
            found.coef[None].astype(dtype).astype(float),
            np.array([found.intercept], dtype).astype(float),
        )
        weights, bound, separable = found.dual_coef[None], found.margin_bound, True
    margin_bound = np.array([bound])
    if separable and (coef[0] == found.coef).all() and intercept[0] == found.intercept:
        margin = np.array([found.margin])
    else:
        margin = robust_margin(double, norm, coef, intercept)
    gap = relative_gap(margin, margin_bound)
    return Solution(
        coef=coef.astype(dtype),
        intercept=intercept.astype(dtype),
        weights=weights,
        log_risk=loss.log_risk_and_weights(double.margins(coef, intercept), double.log_weight)[
            0
        ].astype(dtype),
        margin=margin.astype(dtype),
        margin_bound=margin_bound.astype(dtype),
        gap=gap,
        separable=[separable],
        converged=gap <= tol,
        n_iter=np.array([1]),
    )


def with_risk_minimisers(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: LpNorm,
    solution: Solution,
    rows: np.ndarray,
    monitor: FitMonitor,
    *,
    tol: float,
    start: np.ndarray | None = None,
    undecided: bool = False,
) -> Solution:
    """The solution with the minimisers of the risk of those of these problems that are found not to
    be separable.

    With `undecided` also with the predictors that the search for a minimiser ended at, where
    separability stays open or is only then found, if their risk is lower.
    """
    if not len(rows) or monitor.stopped:
        return solution
    proof = solution.weights[rows]
    with monitor.solver("robust_risk", rows) as monitors:
        minimiser = minimise_robust_risk(
            problem.select(rows),
            loss,
            norm,
            tol=min(tol, _RISK_TOL),
            coef_init=None if start is None else start[rows],
            proof=proof,
            monitors=monitors,
        )
    minimiser = replace(minimiser, converged=minimiser.gap <= tol)
    # proven not to be separable before, if not again: the proof stays
    for j in np.flatnonzero(
        [solution.separable[i] is False for i in rows] & ~np.isfinite(minimiser.gap)
    ):
        minimiser.separable[j], minimiser.margin_bound[j], minimiser.weights[j] = (
            False,
            0.0,
            proof[j],
        )
    better = np.array([flag is False for flag in minimiser.separable])
    if undecided:
        was_open = np.array([solution.separable[i] is None for i in rows])
        better |= was_open & (minimiser.log_risk < solution.log_risk[rows])
    better = np.flatnonzero(better)
    return replace_rows(solution, rows[better], minimiser.rows(better))


def remeasured(solution: Solution, norm: LpNorm, *, measured_in: LpNorm) -> Solution:
    """The same predictors with margins measured in this norm, and no longer in that one: the bounds
    on those end.
    """
    size, new_size = measured_in.value(solution.coef), norm.value(solution.coef)
    ratio = np.divide(size, new_size, out=np.ones_like(size), where=new_size > 0)
    open_ended = np.array([separable is not False for separable in solution.separable])
    return replace(
        solution,
        separable=list(solution.separable),
        margin=solution.margin * ratio,
        margin_bound=np.where(open_ended, math.inf, solution.margin_bound),
        gap=np.where(open_ended, math.inf, solution.gap),
    )


def open_problems(solution: Solution, *separable: bool | None) -> np.ndarray:
    """The problems that have not converged, and whose separability is one of these."""
    return np.flatnonzero([flag in separable for flag in solution.separable] & ~solution.converged)


def scale_to_loss(
    problem: RobustProblem, loss: MarginLoss, solution: Solution, loss_tol: float
) -> Solution:
    """Separators scaled so that the sum of their robust losses is loss_tol, where steepest descent
    stops.
    """
    for i in np.flatnonzero(solution.margin > 0) if loss_tol > 0 else ():
        one = problem.select(slice(i, i + 1))
        row = slice(i, i + 1)
        margins = one.margins(solution.coef[row], solution.intercept[row])

        def excess(scale: float, one: RobustProblem = one, margins: np.ndarray = margins) -> float:
            log_risk = loss.log_risk_and_weights(scale * margins, one.log_weight)[0][0]
            return float(log_risk + one.log_total_weight[0] - math.log(loss_tol))

        # where exp(-scale * smallest margin) bounds the loss, the upper end is past the root, or at
        # it up to rounding
        upper = max(1.0, float(one.log_total_weight[0] - math.log(loss_tol)) / margins.min())
        while excess(upper) > 1e-5 and upper * margins.min() < _LARGEST_MARGIN:
            upper *= 2
        scale = brentq(excess, 0.0, upper) if excess(0.0) > 0 > excess(upper) else upper
        solution.coef[row] *= scale
        solution.intercept[row] *= scale
        solution.log_risk[row] = excess(scale) + math.log(loss_tol) - one.log_total_weight
    return solution


def replace_rows(solution: Solution, rows: np.ndarray, part: Solution) -> Solution:
    """The solution with these problems' parts in it; what was proven about separability stays
    proven.
    """
    merged = replace(solution, separable=list(solution.separable))
    for f in fields(Solution):
        if f.name == "history":
            continue
        values = list(getattr(merged, f.name))
        for i, value in zip(rows.tolist(), getattr(part, f.name), strict=True):
            values[i] = values[i] if value is None else value
        setattr(merged, f.name, values if f.name == "separable" else np.array(values))
    return merged


class ConstantClassifierWarning(UserWarning):
    """The adversary leaves nothing to learn: the coefficients are zero, and the prediction is the
    same everywhere.
    """


def constant_radii(problem: RobustProblem) -> np.ndarray:
    r"""The least radius at which w = 0 minimises the risk of each problem, of shape (k,).

    At w = 0, with the best intercept, the weights :math:`a_i` are the sample weights, each class
    scaled to sum 1/2. With :math:`g = Z^T a`, zero is in the subdifferential if and only if
    :math:`\|g\|_q \le \epsilon`. Features that the adversary cannot touch are left out.
    """
    weighted_sum = problem.weighted_sum(problem.class_shares())
    return problem.threat.norm.value(problem.threat.reachable(weighted_sum))


def warn_if_constant(estimator: Any, problem: RobustProblem, solution: Solution) -> None:
    """A ConstantClassifierWarning where the adversary has left nothing of any class, with the
    radius that does it.
    """
    radii, eps = constant_radii(problem.in_double_arithmetic()), problem.radius
    if solution.coef.any() or not (eps > 0).all() or (eps < (1 - _RISK_TOL) * radii).any():
        return
    of_class = ""
    if len(radii) > 1:
        classes = positive_classes(estimator.classes_)
        of_class = (
            f" (by class: "
            f"{', '.join(f'{label!s} {r:.4g}' for label, r in zip(classes, radii, strict=True))})"
        )
    warnings.warn(
        f"{type(estimator).__name__} learns nothing at eps={estimator.eps:g}, "
        f"q_pert={estimator.q_pert:g}: all coefficients "
        f"are zero, as they are from the radius {radii.max():.4g}{of_class} on. Use a smaller eps; "
        f"training_radii proposes "
        "some.",
        ConstantClassifierWarning,
        stacklevel=5,
    )


def warn_unless_converged(estimator: Any, solution: Solution) -> None:
    """A ConvergenceWarning with the certified gaps that were reached, and what to do."""
    late = np.flatnonzero(~solution.converged)
    if not len(late):
        return
    classes = positive_classes(estimator.classes_)
    reached = ", ".join(
        f"{classes[i]!s}: {solution.gap[i]:.2g}"
        + (" (separability undecided)" if solution.separable[i] is None else "")
        for i in late
    )
    wanted = " or ".join(
        f"{name}={getattr(estimator, name)!r}"
        for name in ("tol", "loss_tol")
        if hasattr(estimator, name)
    )
    remedies = ["scale the features to similar sizes", "move eps", "accept a larger tol"]
    if (solution.n_iter[late] >= getattr(estimator, "max_iter", math.inf)).any():
        remedies.insert(0, f"increase max_iter={estimator.max_iter}")
    if getattr(estimator, "solver", "exact") in ("steepest_descent", "accelerated"):
        remedies.insert(0, "use solver='exact'")
    warnings.warn(
        f"{type(estimator).__name__} stopped before it reached {wanted}; certified relative gap by "
        f"class: {reached}. To "
        f"mend this, {', '.join(remedies[:-1])}, or {remedies[-1]}.",
        ConvergenceWarning,
        stacklevel=5,
    )
