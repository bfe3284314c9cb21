"""How the fit of a linear estimator begins and ends: monitor, warm start, warnings, attributes.

A warning names the parameters of the estimator where the threat is an l_q ball.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust._documentation import see
from sklearn_robust.callbacks import FitCallbacks
from sklearn_robust.joint import JointProblem
from sklearn_robust.linear_model.base import store_solution
from sklearn_robust.linear_model.constant_radii import constant_radii
from sklearn_robust.linear_model.fitting import RISK_TOL, Fit
from sklearn_robust.linear_model.joint_fitting import JointFit
from sklearn_robust.linear_model.monitoring import FitMonitor
from sklearn_robust.linear_model.summed_fitting import SummedFit
from sklearn_robust.linear_model.summed_joint_fitting import SummedJointFit
from sklearn_robust.losses import MarginLoss, check_loss, is_summable
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import Solution
from sklearn_robust.summed import SummedJointProblem, SummedProblem
from sklearn_robust.threats import ProximalThreat, is_ball, offers

AnyFit = Fit | JointFit | SummedFit | SummedJointFit


def begin_fit(
    estimator: Any,
    problem: RobustProblem | JointProblem,
    callbacks: FitCallbacks | None,
    *,
    loss: str | MarginLoss,
    tol: float,
    device: str | None = None,
    verbose: int = 0,
    last: tuple[np.ndarray, np.ndarray] | None = None,
) -> Fit | JointFit:
    """The fit of an estimator that has read its data, or of a problem alone.

    Parameters
    ----------
    estimator : RobustLinearMixin or None
        None without callbacks and `verbose`.
    problem : RobustProblem or JointProblem
    callbacks : FitCallbacks or None
    loss, tol, device, verbose
        As in RobustLinearClassifier.
    last : tuple of coefficients (1, d) or (K, d) and classes, optional
        The coefficients and classes of the last fit, to start from.
    """
    start = None if last is None else _read_start(estimator, problem, *last)
    if isinstance(problem, JointProblem):
        shape: tuple[int, ...] = (1, problem.n_classes)
    else:
        shape = (problem.n_problems,)
    coef = np.zeros((*shape, problem.n_features), problem.log_weight.dtype)
    monitor = FitMonitor(estimator, callbacks, coef, verbose=verbose)
    if isinstance(problem, JointProblem):
        return JointFit.of(problem, monitor, loss=loss, tol=tol, device=device, start=start)
    return Fit.of(problem, monitor, loss=loss, tol=tol, device=device, start=start)


def begin_summed_fit(
    estimator: Any,
    problem: SummedProblem | SummedJointProblem,
    callbacks: FitCallbacks,
    *,
    loss: str | MarginLoss,
    tol: float,
    verbose: int = 0,
    last: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> SummedFit | SummedJointFit:
    """The fit of an estimator whose samples are known by sums.

    Parameters
    ----------
    estimator : RobustLinearMixin
    problem : SummedProblem or SummedJointProblem
    callbacks : FitCallbacks
    loss, tol, verbose
        As in RobustLinearClassifier.
    last : tuple of coefficients (1, d) or (K, d), intercepts (1,) or (K,) and classes, optional
        Those of the last fit, to start from.
    """
    joint, d = isinstance(problem, SummedJointProblem), problem.n_features
    shape = (len(problem.classes), d) if joint else (1, d)
    if last is not None:
        _check_start(estimator, shape, last[0].shape, last[2])
        last = last[0].astype(np.float64), last[1].astype(np.float64), last[2]
    coef = np.zeros((1, *shape) if joint else shape, problem.survey.dtype)
    monitor = FitMonitor(estimator, callbacks, coef, verbose=verbose)
    loss = check_loss(loss, "loss")
    assert is_summable(loss)
    if isinstance(problem, SummedJointProblem):
        starts = None if last is None else last[:2]
        return SummedJointFit(problem, loss, tol, monitor, starts)
    start = None if last is None else (last[0][0], float(last[1][0]))
    return SummedFit(problem, loss, tol, monitor, start)


def _read_start(
    estimator: Any,
    problem: RobustProblem | JointProblem,
    last_coef: np.ndarray,
    last_classes: np.ndarray,
) -> np.ndarray:
    """The coefficients of the last fit, where they fit these data."""
    classes = estimator.classes_
    needed = (1 if len(classes) == 2 else len(classes), problem.n_features)
    _check_start(estimator, needed, last_coef.shape, last_classes)
    return last_coef.astype(problem.log_weight.dtype)


def _check_start(
    estimator: Any, needed: tuple[int, int], shape: tuple[int, ...], last_classes: np.ndarray
) -> None:
    """Refuse coefficients of another shape, or of other classes."""
    classes = estimator.classes_
    if shape != needed or not np.array_equal(last_classes, classes):
        raise ValueError(
            f"warm_start=True needs data like those of the last fit, whose coef_ has shape "
            f"{shape} and whose classes were {last_classes.tolist()}: these need "
            f"{needed} and {classes.tolist()}. Fit with warm_start=False."
        )


def end_fit(estimator: Any, fit: AnyFit, solution: Solution) -> None:
    """Warn where there is reason to, store the solution, and end the callbacks."""
    if not fit.monitor.stopped:
        warn_unless_converged(estimator, solution)
        warn_if_constant(estimator, fit, solution)
    store_solution(estimator, solution)
    if fit.monitor.callbacks is not None:
        fit.monitor.callbacks.end_fit()


class ConstantClassifierWarning(UserWarning):
    """The radius is so large that the coefficients are zero: the prediction is constant."""


def warn_if_constant(estimator: Any, fit: AnyFit, solution: Solution) -> None:
    """A ConstantClassifierWarning where all coefficients are zero because of the radius.

    It names the least radius at which they are zero.
    """
    problem = fit.problem
    ball = is_ball(problem.threat)
    if solution.coef.any() or not np.all(problem.radius > 0):
        return
    if isinstance(problem, RobustProblem | JointProblem) and problem.adversary is not None:
        # the multiple from which on that is so is not known
        warnings.warn(
            f"{type(estimator).__name__} learns nothing at threat="
            f"{type(estimator.threat_).__name__}: all coefficients are zero. Use smaller sets. "
            f"{see('questions', 'my-classifier-predicts-one-class-only')}",
            ConstantClassifierWarning,
            stacklevel=6,
        )
        return
    if not (ball or offers(problem.threat, ProximalThreat)):
        return  # the radius is not known
    radius = float(constant_radii(problem, fit.loss)[0])
    # the gap of zero is about the square of the distance to that radius, as a share of it
    if np.any(problem.radius < (1 - RISK_TOL**0.5) * radius):
        return
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
        f"are from {limit} {radius:.4g} on. {remedy} "
        f"{see('questions', 'my-classifier-predicts-one-class-only')}",
        ConstantClassifierWarning,
        stacklevel=6,
    )


def warn_unless_converged(estimator: Any, solution: Solution) -> None:
    """A ConvergenceWarning with the certified gap that was reached, and the remedies."""
    if solution.converged.all():
        return
    undecided = " (separability undecided)" if solution.separable[0] is None else ""
    goal = " or ".join(
        f"{name}={getattr(estimator, name)!r}"
        for name in ("tol", "loss_tol")
        if hasattr(estimator, name)
    )
    remedies = ["scale the features to similar sizes", "move eps", "accept a larger tol"]
    if solution.n_iter[0] >= getattr(estimator, "max_iter", math.inf):
        remedies.insert(0, f"increase max_iter={estimator.max_iter}")
    iterative = getattr(estimator, "solver", "exact") in ("steepest_descent", "accelerated")
    if iterative and is_ball(estimator.threat_):
        remedies.insert(0, "use solver='exact'")
    unbounded = solution.separable[0] is True and solution.gap[0] == math.inf
    if unbounded and getattr(estimator, "solver", "exact") == "auto":
        remedies.insert(0, "use solver='exact', whose program may take hours")
    warnings.warn(
        f"{type(estimator).__name__} stopped before it reached {goal}; certified relative gap "
        f"{solution.gap[0]:.2g}{undecided}. To mend this, {', '.join(remedies[:-1])}, or "
        f"{remedies[-1]}. {see('questions', 'a-convergencewarning-names-a-gap-may-i-use-the-fit')}",
        ConvergenceWarning,
        stacklevel=6,
    )
