"""How the fit of a linear estimator begins and ends: monitor, warm start, warnings, attributes.

A warning names the parameters of the estimator where the threat is an l_q ball.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust.callbacks import FitCallbacks
from sklearn_robust.linear_model.base import positive_classes, store_solution
from sklearn_robust.linear_model.fitting import RISK_TOL, Fit
from sklearn_robust.linear_model.monitoring import FitMonitor
from sklearn_robust.losses import MarginLoss
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import Solution
from sklearn_robust.threats import ProximalThreat, gauge, is_ball, offers, reachable


def begin_fit(
    estimator: Any,
    problem: RobustProblem,
    callbacks: FitCallbacks,
    *,
    loss: str | MarginLoss,
    tol: float,
    device: str | None = None,
    verbose: int = 0,
    last: tuple[np.ndarray, np.ndarray] | None = None,
) -> Fit:
    """The fit of an estimator that has read its data.

    Parameters
    ----------
    estimator : RobustLinearMixin
    problem : RobustProblem
    callbacks : FitCallbacks
    loss, tol, device, verbose
        As in RobustLinearClassifier.
    last : tuple of coefficients (k, d) and classes, optional
        The coefficients and classes of the last fit, to start from.
    """
    start = None if last is None else _read_start(estimator, problem, *last)
    classes = positive_classes(estimator.classes_)
    monitor = FitMonitor(estimator, callbacks, problem, verbose=verbose, classes=classes)
    return Fit.of(problem, monitor, loss=loss, tol=tol, device=device, start=start)


def _read_start(
    estimator: Any, problem: RobustProblem, last_coef: np.ndarray, last_classes: np.ndarray
) -> np.ndarray:
    """The coefficients of the last fit, where they fit these data."""
    needed = (problem.n_problems, problem.n_features)
    classes = estimator.classes_
    if last_coef.shape != needed or not np.array_equal(last_classes, classes):
        raise ValueError(
            f"warm_start=True needs data like those of the last fit, whose coef_ has shape "
            f"{last_coef.shape} and whose classes were {last_classes.tolist()}: these need "
            f"{needed} and {classes.tolist()}. Fit with warm_start=False."
        )
    return last_coef.astype(problem.y.dtype)


def end_fit(estimator: Any, fit: Fit, solution: Solution) -> None:
    """Warn where there is reason to, store the solution, and end the callbacks."""
    if not fit.monitor.stopped:
        warn_unless_converged(estimator, solution)
        warn_if_constant(estimator, fit.problem, solution)
    store_solution(estimator, solution)
    if fit.monitor.callbacks is not None:
        fit.monitor.callbacks.end_fit()


class ConstantClassifierWarning(UserWarning):
    """The radius is so large that the coefficients are zero: the prediction is constant."""


def constant_radii(problem: RobustProblem) -> np.ndarray:
    r"""The least radius at which w = 0 minimises the risk of each problem, of shape (k,).

    At w = 0, with the best intercept, the weights :math:`a_i` are the sample weights, each class
    scaled to sum 1/2. With :math:`g = Z^T a`, zero is in the subdifferential if and only if g is in
    the radius times the threat: for a ball if :math:`\|g\|_q \le \epsilon`. Features that the
    adversary cannot touch are left out.
    """
    weighted_sum = problem.weighted_sum(problem.class_shares())
    return gauge(problem.threat, reachable(problem.threat, weighted_sum))


def warn_if_constant(estimator: Any, problem: RobustProblem, solution: Solution) -> None:
    """A ConstantClassifierWarning where all coefficients are zero because of the radius.

    It names the least radius at which they are zero.
    """
    ball = is_ball(problem.threat)
    if solution.coef.any() or not (problem.radius > 0).all():
        return
    if not (ball or offers(problem.threat, ProximalThreat)):
        return  # the radius is not known
    radii = constant_radii(problem.in_double_arithmetic())
    if (problem.radius < (1 - RISK_TOL) * radii).any():
        return
    of_class = ""
    if len(radii) > 1:
        by_class = zip(positive_classes(estimator.classes_), radii, strict=True)
        of_class = f" (by class: {', '.join(f'{label!s} {r:.4g}' for label, r in by_class)})"
    threat = estimator.threat_
    if ball:
        where = f"eps={threat.eps:g}, q_pert={threat.q:g}"
        limit = "the radius"
        remedy = "Use a smaller eps; training_radii proposes some."
    else:
        where = f"threat={type(threat).__name__}"
        limit = "the multiple of the threat"
        remedy = "Use a smaller set."
    warnings.warn(
        f"{type(estimator).__name__} learns nothing at {where}: all coefficients are zero, as they "
        f"are from {limit} {radii.max():.4g}{of_class} on. {remedy}",
        ConstantClassifierWarning,
        stacklevel=6,
    )


def warn_unless_converged(estimator: Any, solution: Solution) -> None:
    """A ConvergenceWarning with the certified gaps that were reached, and the remedies."""
    late = np.flatnonzero(~solution.converged)
    if not len(late):
        return
    classes = positive_classes(estimator.classes_)
    reached = ", ".join(
        f"{classes[i]!s}: {solution.gap[i]:.2g}"
        + (" (separability undecided)" if solution.separable[i] is None else "")
        for i in late
    )
    goal = " or ".join(
        f"{name}={getattr(estimator, name)!r}"
        for name in ("tol", "loss_tol")
        if hasattr(estimator, name)
    )
    remedies = ["scale the features to similar sizes", "move eps", "accept a larger tol"]
    if (solution.n_iter[late] >= getattr(estimator, "max_iter", math.inf)).any():
        remedies.insert(0, f"increase max_iter={estimator.max_iter}")
    iterative = getattr(estimator, "solver", "exact") in ("steepest_descent", "accelerated")
    if iterative and is_ball(estimator.threat_):
        remedies.insert(0, "use solver='exact'")
    warnings.warn(
        f"{type(estimator).__name__} stopped before it reached {goal}; certified relative gap by "
        f"class: {reached}. To mend this, {', '.join(remedies[:-1])}, or {remedies[-1]}.",
        ConvergenceWarning,
        stacklevel=6,
    )
