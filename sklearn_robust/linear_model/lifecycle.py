"""How the fit of a linear estimator begins and ends: monitor, warm start, warnings, attributes.

A warning names the parameters of the estimator where the threat is an l_q ball.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_programs import ConicProgram, scaled_identity, unit_rows
from sklearn_robust._joint_flows import by_cuts, over_capacities
from sklearn_robust.callbacks import FitCallbacks
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import feasibility
from sklearn_robust.linear_model.base import store_solution
from sklearn_robust.linear_model.fitting import RISK_TOL, Fit
from sklearn_robust.linear_model.joint_fitting import JointFit
from sklearn_robust.linear_model.monitoring import FitMonitor
from sklearn_robust.linear_model.summed_fitting import SummedFit
from sklearn_robust.losses import LOSSES, MarginLoss, check_loss, is_summable
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import Solution, balanced_weighted_sum
from sklearn_robust.summed import SummedProblem
from sklearn_robust.threats import ProximalThreat, gauge, is_ball, offers, reachable, support

# halvings at most of a bracket of the radius from which on several classes are constant
_BISECTIONS = 40
_RADIUS_TOL = 1e-4  # relative width of its bracket
_MOST_ENTRIES = 5000  # pairs of classes times features of the cone program at most


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
    problem: SummedProblem,
    callbacks: FitCallbacks,
    last: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
) -> SummedFit:
    """The fit of an estimator whose samples are known by sums.

    Parameters
    ----------
    estimator : RobustLinearClassifier
    problem : SummedProblem
    callbacks : FitCallbacks
    last : tuple of coefficients (1, d), intercept (1,) and classes, or None
        Those of the last fit, to start from.
    """
    start = None
    if last is not None:
        _check_start(estimator, (1, problem.n_features), last[0].shape, last[2])
        start = last[0][0].astype(np.float64), float(last[1][0])
    coef = np.zeros((1, problem.n_features), problem.survey.dtype)
    monitor = FitMonitor(estimator, callbacks, coef, verbose=estimator.verbose)
    loss = check_loss(estimator.loss, "loss")
    assert is_summable(loss)
    return SummedFit(problem, loss, estimator.tol, monitor, start)


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


def end_fit(estimator: Any, fit: Fit | JointFit | SummedFit, solution: Solution) -> None:
    """Warn where there is reason to, store the solution, and end the callbacks."""
    if not fit.monitor.stopped:
        warn_unless_converged(estimator, solution)
        warn_if_constant(estimator, fit, solution)
    store_solution(estimator, solution)
    if fit.monitor.callbacks is not None:
        fit.monitor.callbacks.end_fit()


class ConstantClassifierWarning(UserWarning):
    """The radius is so large that the coefficients are zero: the prediction is constant."""


def constant_radii(
    problem: RobustProblem | JointProblem | SummedProblem,
    loss: MarginLoss = LOSSES["exponential"],
) -> np.ndarray:
    r"""The least radius at which w = 0 minimises the risk of each problem, of shape (k,).

    Several classes are one problem, whose radius alone depends on the loss.

    At w = 0, with the best intercept, the weights :math:`a_i` are the sample weights, each class
    scaled to sum 1/2. With :math:`g = Z^T a`, zero is in the subdifferential if and only if g is in
    the radius times the threat: for a ball if :math:`\|g\|_q \le \epsilon`. Features that the
    adversary cannot touch are left out.
    """
    if isinstance(problem, JointProblem):
        return np.full(1, _joint_constant_radius(problem, loss))
    if isinstance(problem, SummedProblem):
        weighted_sum = balanced_weighted_sum(problem)[None]
    else:
        problem = problem.in_double_arithmetic()
        weighted_sum = problem.weighted_sum(problem.class_shares())
    return gauge(problem.threat, reachable(problem.threat, weighted_sum))


def _joint_constant_radius(problem: JointProblem, loss: MarginLoss) -> float:
    r"""The least radius at which W = 0 minimises the joint risk, or a certified one just above it.

    It is the least at which the weighted sum G of the weights at W = 0 is a flow of the pairs, in
    the features that the adversary can touch: exact where cuts decide that. Otherwise a cone
    program has it for balls of moderately many features, and bisection lowers the radius of a flow
    that is known.
    """
    problem = problem.in_double_arithmetic().at_class_means()
    if is_ball(problem.threat) and problem.threat.scale is not None:
        columns = np.flatnonzero(problem.threat.scale)
        if not len(columns):
            return 0.0
        threat = replace(problem.threat, scale=problem.threat.scale[columns])
        problem = replace(problem, X=problem.X[:, columns], threat=threat)
    coef = np.zeros((problem.n_classes, problem.n_features))
    weights = problem.balanced(problem.evaluate(loss, coef).weights)
    unit = problem.at_radius(1.0)
    high = feasibility(unit, weights).ratio
    if by_cuts(problem) or not math.isfinite(high):
        return high
    low = 0.0
    if is_ball(problem.threat) and problem.n_features * len(problem.pairs[0]) <= _MOST_ENTRIES:
        low, reached = _least_flow(unit, weights)
        high = min(high, reached)
    for _ in range(_BISECTIONS):
        if high - low <= _RADIUS_TOL * high:
            break
        middle = 0.5 * (low + high)
        reached = middle * feasibility(problem.at_radius(middle), weights, search=True).ratio
        low, high = (low, reached) if reached <= middle else (middle, min(high, reached))
    return high


def _least_flow(problem: JointProblem, weights: np.ndarray) -> tuple[float, float]:
    r"""Bounds on the least radius at which G is a flow of the pairs, by a cone program.

    It is :math:`\max_W \langle G, W \rangle` subject to :math:`\sum_{l<k} A_{lk} \|w_l -
    w_k\|_{q^*} \le 1`, whose multipliers are the flow. 0 and inf where the solver fails.
    """
    K, d = problem.n_classes, problem.n_features
    low, high = problem.pairs
    G = problem.weighted_sum(weights)
    A = problem.pair_weights(weights)[low, high]
    conic = ConicProgram()
    w, tau = conic.columns.take(K * d), conic.columns.take(len(low))
    differences = unit_rows(low, K) - unit_rows(high, K)
    movable = scaled_identity(d, problem.threat.scale)
    rows = sparse.kron(differences, movable, format="csr")
    flow_of = conic.add_norms(w, rows, tau, problem.threat.dual_norm.p)
    conic.add_rows([("nonnegative", 1)], [(tau, -A[None])], np.ones(1))
    shift = sparse.kron(np.ones((1, K)), sparse.eye_array(d), format="csr")
    conic.add_rows([("zero", d)], [(w, shift)], np.zeros(d))
    conic.linear = dict(zip(range(w.start, w.stop), (-G).ravel().tolist(), strict=True))
    try:
        x, z = conic.solve(static_regularization_constant=1e-8)
    except SolverFailure:
        return 0.0, math.inf
    W = x[w].reshape(K, d)
    size = float(A @ support(problem.threat, problem.pair_differences(W)))
    least = float(np.vdot(G, W)) / size if size > 0 else 0.0
    moved = flow_of(z).reshape(len(low), -1) @ movable
    found = feasibility(problem, weights, over_capacities(moved, A))
    return max(least, 0.0), found.ratio


def warn_if_constant(estimator: Any, fit: Fit | JointFit | SummedFit, solution: Solution) -> None:
    """A ConstantClassifierWarning where all coefficients are zero because of the radius.

    It names the least radius at which they are zero.
    """
    problem = fit.problem
    ball = is_ball(problem.threat)
    if solution.coef.any() or not np.all(problem.radius > 0):
        return
    of_samples = isinstance(problem, RobustProblem) and problem.adversary is not None
    if of_samples:  # the multiple from which on that is so is not known
        warnings.warn(
            f"{type(estimator).__name__} learns nothing at threat="
            f"{type(estimator.threat_).__name__}: all coefficients are zero. Use smaller sets.",
            ConstantClassifierWarning,
            stacklevel=6,
        )
        return
    if not (ball or offers(problem.threat, ProximalThreat)):
        return  # the radius is not known
    radius = float(constant_radii(problem, fit.loss)[0])
    if np.any(problem.radius < (1 - RISK_TOL) * radius):
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
        f"are from {limit} {radius:.4g} on. {remedy}",
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
    warnings.warn(
        f"{type(estimator).__name__} stopped before it reached {goal}; certified relative gap "
        f"{solution.gap[0]:.2g}{undecided}. To mend this, {', '.join(remedies[:-1])}, or "
        f"{remedies[-1]}.",
        ConvergenceWarning,
        stacklevel=6,
    )
