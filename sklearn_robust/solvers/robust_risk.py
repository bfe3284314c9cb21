r"""The minimiser of the robust risk where the data are not robustly separable: a finite, certified solution.

The risk is convex, and smooth once the norm in it is: :math:`\|w\|_1` by splitting w = u - v with u, v >= 0 (q = inf),
:math:`\|w\|_\infty` by w = t c with |c_j| <= 1 (q = 1), and as it stands away from w = 0 otherwise. SciPy's L-BFGS-B minimises
its logarithm under these bounds; a few Newton steps on the face that it ends on give the last digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import lstsq
from scipy.optimize import OptimizeResult, minimize

from sklearn_robust._array_api import at_least_tiny
from sklearn_robust.certificates import (
    log_risk_bound,
    non_separability_slack,
    proves_not_separable,
    proves_separable,
    repaired_weights,
    robust_margin,
)
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.solvers._risk_newton import newton
from sklearn_robust.solvers._solution import Recorder, Solution, stack_solutions

_MAX_NEWTON = 100


def minimise_robust_risk(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: LpNorm,
    *,
    max_iter: int = 10_000,
    tol: float = 1e-8,
    coef_init: np.ndarray | None = None,
    proof: np.ndarray | None = None,
    record_every: int = 0,
    verbose: bool = False,
) -> Solution:
    """Minimise the robust risk of each problem; each should be known not to be robustly separable.

    Parameters
    ----------
    problem : RobustProblem
        k problems, on NumPy or scipy.sparse data.
    loss : MarginLoss
    norm : LpNorm
        Only measures the margin that is reported: the minimiser does not depend on it.
    max_iter : int
        Iterations of L-BFGS-B at most.
    tol : float
        Certified relative gap of the risk to reach.
    coef_init : ndarray of shape (k, d), optional
    proof : ndarray of shape (k, n), optional
        Weights that prove that the problems are not robustly separable: they help to certify the risk where the minimiser
        alone does not.
    record_every : int
        Record log-risk, margin, bound and the certified gap of the risk every so many iterations of L-BFGS-B; 0 records
        nothing.
    verbose : bool
        Print what is recorded.

    Returns
    -------
    Solution
        A problem that turns out to be separable has `separable` True or None and has not converged.
    """
    solutions = []
    recorder = Recorder(record_every, verbose)
    double = problem.in_double_arithmetic()  # whatever the data's type: it does not decide how exact the answer is
    for i in range(problem.n_problems):
        row = slice(i, i + 1)
        one = double.select(row)
        certify = partial(_certified, one, loss, norm, None if proof is None else proof[row], problem.y.dtype)

        def record(iteration: int, coef: np.ndarray, i: int = i, certify: Callable[..., Solution] = certify) -> None:
            if recorder.due(iteration):
                state = certify(coef)
                figures = {name: getattr(state, name) for name in ("log_risk", "margin", "margin_bound", "gap")}
                recorder(iteration, np.array([i]), **figures)

        recorder.rewind()
        start = np.zeros((1, problem.n_features)) if coef_init is None else coef_init[row].astype(np.float64)
        solutions.append(_minimise_one(one, loss, max_iter, tol, start, certify, record))
    return stack_solutions(solutions, recorder.history(problem.n_problems))


def _minimise_one(
    problem: RobustProblem,
    loss: MarginLoss,
    max_iter: int,
    tol: float,
    start: np.ndarray,
    certify: Callable[..., Solution],
    record: Callable[[int, np.ndarray], None],
) -> Solution:
    solution, n_iter = newton(
        problem, loss, start, max_iter=min(max_iter, _MAX_NEWTON), tol=tol, certify=certify, record=record
    )
    solution.converged = solution.gap <= tol
    solution.n_iter = np.array([n_iter])
    return solution


def _certified(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: LpNorm,
    proof: np.ndarray | None,
    dtype: Any,
    coef: np.ndarray,
    weights: np.ndarray | None = None,
    near: float | None = None,
) -> Solution:
    """The predictor, rounded to dtype, with its margin, and with 1 - (lower bound on the risk) / risk.

    `weights` (1, n) are dual feasible; without them those of the predictor are repaired.
    """
    coef = coef.astype(dtype).astype(np.float64)
    now = problem.evaluate(loss, coef, near=None if near is None else np.array([near]))
    size = norm.value(coef)
    smallest = np.min(now.margins, axis=-1, where=problem.log_weight > -math.inf, initial=math.inf)
    margin = np.where(size > 0, smallest / np.where(size > 0, size, 1.0), -math.inf)
    proven = weights is not None
    if weights is None and smallest[0] <= 0:
        weights = repaired_weights(problem, now.weights, proof)
        proven = bool(np.isfinite(weights).all())
    if not proven:  # no weights of a class vanish, however large the margins
        weights = problem.balanced(np.where(problem.log_weight > -math.inf, at_least_tiny(now.weights), 0.0))
    excess = now.log_risk - loss.log_risk_bound(weights, problem.log_weight, now.log_risk) if proven else np.full(1, np.inf)
    separable = False if proven else True if smallest[0] > 0 and proves_separable(problem, coef, now.intercept)[0] else None
    return Solution(
        coef=coef.astype(dtype),
        intercept=now.intercept.astype(dtype),
        weights=weights,
        log_risk=now.log_risk.astype(dtype),
        margin=margin.astype(dtype),
        margin_bound=np.full(1, 0.0 if proven else np.inf, dtype=dtype),
        gap=-np.expm1(-excess) if proven else np.full(1, np.inf),
        separable=[separable],
        converged=np.array([False]),
        n_iter=np.array([0]),
    )


def _first_step(problem: RobustProblem, loss: MarginLoss, at_origin: Evaluation) -> np.ndarray:
    """A short step down from w = 0, where the norm has no gradient."""
    pull = problem.weighted_sum(at_origin.weights)
    mass = np.sum(at_origin.weights)
    down = problem.threat.norm.residual(pull, problem.threat.eps * mass, LpNorm(2))
    step = 1.0
    while problem.evaluate(loss, step * down).log_risk[0] >= at_origin.log_risk[0] and step > 1e-12:
        step *= 0.5
    return step * down


def _lbfgs(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    max_iter: int,
    record: Callable[[int, np.ndarray], None],
) -> tuple[np.ndarray, int]:
    eps, d = problem.threat.eps, problem.n_features
    q = problem.threat.q if eps[0] > 0 else 2.0  # without an adversary the risk is smooth as it stands
    margins = np.empty(0)

    unpack: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    gradient: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    bounds: list[tuple[float, float | None]] | None
    if q == math.inf:
        x = np.concatenate([np.maximum(start[0], 0), np.maximum(-start[0], 0)])
        bounds = [(0, None)] * (2 * d)

        def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return x[None, :d] - x[None, d:], eps * np.sum(x)

        def gradient(x: np.ndarray, pull: np.ndarray, mass: float) -> np.ndarray:
            return np.concatenate([-pull, pull]) + eps * mass

    elif q == 1:
        size = np.max(np.abs(start))
        x = np.concatenate([start[0] / size, [size]])
        bounds = [(-1, 1)] * d + [(0, None)]

        def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return x[None, d] * x[None, :d], eps * x[d]

        def gradient(x: np.ndarray, pull: np.ndarray, mass: float) -> np.ndarray:
            return np.concatenate([-x[d] * pull, [-x[:d] @ pull + (eps * mass).item()]])

    else:
        x, bounds = start[0], None

        def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return x[None], problem.threat.penalty(x[None])

        def gradient(x: np.ndarray, pull: np.ndarray, mass: float) -> np.ndarray:
            return -pull + mass * problem.threat.perturbation(x[None])[0]

    def log_risk(x: np.ndarray) -> tuple[float, np.ndarray]:
        coef, penalty = unpack(x)
        nonlocal margins
        now = problem.evaluate(loss, coef, penalty=penalty)
        margins = now.margins
        pull = problem.weighted_sum(now.weights)[0]
        return float(now.log_risk[0]), gradient(x, pull, now.weights.sum())

    iteration = 0

    def after_iteration(intermediate_result: OptimizeResult) -> None:
        nonlocal iteration
        iteration += 1
        record(iteration, unpack(intermediate_result.x)[0])
        if margins.min() > 0:
            raise StopIteration  # the risk has no minimiser

    options = {"maxiter": max_iter, "maxfun": 2 * max_iter, "ftol": 1e-15, "gtol": 1e-10, "maxcor": 20}
    result = minimize(
        log_risk,
        x,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        callback=after_iteration,
        options=options,
    )
    return unpack(result.x)[0], int(result.nit)


def _newton(problem: RobustProblem, loss: MarginLoss, coef: np.ndarray) -> np.ndarray:
    """Damped Newton on the face of the penalty that coef lies on: the coordinates at its kinks stay there."""
    for _ in range(_MAX_NEWTON):
        basis, slope, bend = _face(problem, coef[0])
        now = problem.evaluate(loss, coef)
        weights, margins = now.weights[0], now.margins[0]
        rows = problem.X @ basis
        rows = problem.y[0][:, None] * (rows.toarray() if sparse.issparse(rows) else rows) - slope
        if problem.fit_intercept:
            rows = np.column_stack([rows, problem.y[0]])
        hessian = rows.T @ (loss.curvature(margins, weights)[:, None] * rows)
        f = basis.shape[1]
        hessian[:f, :f] += weights.sum() * bend
        step = basis @ lstsq(hessian, rows.T @ weights, cond=1e-14)[0][:f]
        if problem.threat.q == math.inf:  # no further than the first sign change, which leaves the face
            crossing = coef[0] * step < 0
            reach = np.min(-coef[0][crossing] / step[crossing], initial=np.inf)
            step = step * min(1.0, reach)
        moved = coef
        for _ in range(_MAX_NEWTON):
            moved = coef + step
            then = problem.evaluate(loss, moved)
            change = then.log_risk[0] - now.log_risk[0]
            rounding = 8 * np.finfo(moved.dtype).eps * (1 + abs(now.log_risk[0]))
            if change < -rounding:
                break
            # at the risk's rounding its gradient still tells better from worse
            if change <= rounding and _steepness(problem, then, basis, slope) < 0.9 * _steepness(problem, now, basis, slope):
                break
            step = 0.5 * step
        else:
            return coef
        if problem.threat.q == math.inf:
            moved[np.abs(moved) <= np.finfo(moved.dtype).eps * np.abs(coef)] = 0
        coef = moved
    return coef


def _steepness(problem: RobustProblem, now: Evaluation, basis: np.ndarray, slope: np.ndarray) -> float:
    """Norm of the gradient of the log-risk along the face."""
    return float(np.linalg.norm(problem.weighted_sum(now.weights)[0] @ basis - slope * now.weights.sum()))


def _face(problem: RobustProblem, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Basis (d, f) of the directions in which the penalty is smooth at w, its gradient (f,) and Hessian (f, f) there."""
    d, eps, r = len(w), problem.threat.eps[0], problem.threat.dual_norm.p
    if r == 1 and eps > 0:
        basis = np.eye(d)[:, w != 0]
        return basis, eps * np.sign(w[w != 0]), np.zeros((basis.shape[1],) * 2)
    if r == math.inf and eps > 0:
        tied = np.abs(w) >= np.max(np.abs(w)) * (1 - 1e-6)
        basis = np.column_stack([np.where(tied, np.sign(w), 0.0), np.eye(d)[:, ~tied]])
        slope = np.zeros(basis.shape[1])
        slope[0] = eps
        return basis, slope, np.zeros((basis.shape[1],) * 2)
    used = w != 0
    basis = np.eye(d)[:, used]
    if eps == 0:
        return basis, np.zeros(basis.shape[1]), np.zeros((basis.shape[1],) * 2)
    size = float(LpNorm(r).value(w))
    gradient = LpNorm(r).dual.steepest_direction(w)[used]
    bend = (r - 1) / size * (np.diag((np.abs(w[used]) / size) ** (r - 2)) - np.outer(gradient, gradient))
    return basis, eps * gradient, eps * bend
