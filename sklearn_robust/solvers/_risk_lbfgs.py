"""The minimiser of the log-risk by SciPy's L-BFGS-B, for more columns than a Hessian can hold, and
where Newton stops short.

The log-risk is smooth once the norm in it is: the l1 norm by splitting w = u - v with u, v >= 0 (q
= inf), the maximum norm by w = t c with |c_j| <= 1 (q = 1; w = t c / scale with scales), and the
others away from w = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.optimize import OptimizeResult, fmin_l_bfgs_b

from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.threats import LpBall

# columns from which the memory of L-BFGS is kept short: it holds that many predictors
_WIDE = 10_000


def _unpenalised_minimiser(problem: RobustProblem, loss: MarginLoss, max_iter: int) -> np.ndarray:
    """The minimiser over the features that the adversary cannot touch; zero where there is none."""
    coef, scale = np.zeros((1, problem.n_features)), problem.threat.scale
    if scale is not None and not scale.all():
        free = np.flatnonzero(scale == 0)
        alone = replace(problem, X=problem.X[:, free], threat=LpBall(2, 1.0), radius=np.zeros(1))
        coef[:, free], _ = _descend(
            alone, loss, np.zeros((1, len(free))), max_iter, lambda *_: None
        )
    return coef


def _first_step(problem: RobustProblem, loss: MarginLoss, unpenalised: np.ndarray) -> np.ndarray:
    """The unpenalised, where the norm has no gradient, after a short step down; the unpenalised
    itself if it is
    the minimiser.
    """
    at_unpenalised = problem.evaluate(loss, unpenalised)
    weighted_sum = problem.weighted_sum(at_unpenalised.weights)
    total_weight = np.sum(at_unpenalised.weights)
    down = problem.threat.norm.residual(weighted_sum, problem.radius * total_weight, LpNorm(2))
    down = problem.threat.reachable(down)
    step = 1 / (float(np.max(np.abs(down))) * _unit(problem) + np.finfo(float).tiny)
    while (
        down.any()
        and problem.evaluate(loss, unpenalised + step * down).log_risk[0]
        >= at_unpenalised.log_risk[0]
        and step > 0
    ):
        step *= 0.5
    return unpenalised + step * down


def lbfgs(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    *,
    max_iter: int,
    record: Callable[[int, np.ndarray], None],
) -> tuple[np.ndarray, int]:
    """Minimise the log-risk of one problem in double arithmetic, from a start of shape (1, d).

    Returns
    -------
    coef : ndarray of shape (1, d)
    n_iter : int
    """
    coef, n_iter = start, 0
    if start.any():
        coef, n_iter = _descend(problem, loss, start, max_iter, record)
    if problem.threat.dual_norm.value(coef)[0] == 0:
        # where the norm has no gradient, and the form for q = 1 is stationary; a poor start can be
        # drawn there
        unpenalised = _unpenalised_minimiser(problem, loss, max_iter)
        start = _first_step(problem, loss, unpenalised)
        if not np.array_equal(start, unpenalised):
            return _descend(problem, loss, start, max_iter, record)
        coef = unpenalised  # the minimiser
    return coef, n_iter


def _descend(
    problem: RobustProblem,
    loss: MarginLoss,
    start: np.ndarray,
    max_iter: int,
    record: Callable[[int, np.ndarray], None],
) -> tuple[np.ndarray, int]:
    unit = _unit(problem)
    eps, d, start = problem.radius / unit, problem.n_features, start * unit
    scale = problem.threat.scale
    # without an adversary the risk is smooth as it stands
    q = problem.threat.q if eps[0] > 0 else 2.0
    margins = np.empty(0)

    unpack: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    gradient: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    # the tuples are shared: they are no memory to speak of
    bounds: Sequence[tuple[float | None, float | None]] | None
    if q == math.inf:
        x = np.concatenate([np.maximum(start[0], 0), np.maximum(-start[0], 0)])
        bounds = [(0.0, None)] * (2 * d)
        weights = np.ones(1) if scale is None else np.tile(scale, 2)
        total = np.sum if scale is None else weights.dot

        def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return x[None, :d] - x[None, d:], eps * total(x)

        def gradient(x: np.ndarray, weighted_sum: np.ndarray, total_weight: float) -> np.ndarray:
            return np.concatenate([-weighted_sum, weighted_sum]) + eps * total_weight * weights

    elif q == 1:
        # the others are free: w_j = c_j
        tied = np.ones(d, dtype=bool) if scale is None else scale > 0
        units = 1.0 if scale is None else np.where(tied, scale, 1.0)
        level = np.max(tied * units * np.abs(start)) or 1.0
        x = np.append(np.where(tied, units * start[0] / level, start[0]), level)
        free: list[tuple[float | None, float | None]] = [(None, None), (-1.0, 1.0)]
        bounds = [*(free[in_ball] for in_ball in tied.tolist()), (0.0, None)]

        def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return (np.where(tied, x[d], 1.0) * x[:d] / units)[None], eps * x[d]

        def gradient(x: np.ndarray, weighted_sum: np.ndarray, total_weight: float) -> np.ndarray:
            weighted_sum = weighted_sum / units
            return np.append(
                np.where(tied, x[d], 1.0) * -weighted_sum,
                -(tied * x[:d]) @ weighted_sum + (eps * total_weight).item(),
            )

    else:
        x, bounds = start[0], None

        def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return x[None], problem.penalty(x[None] / unit)

        def gradient(x: np.ndarray, weighted_sum: np.ndarray, total_weight: float) -> np.ndarray:
            return -weighted_sum + total_weight / unit * problem.perturbation(x[None])[0]

    def log_risk(x: np.ndarray) -> tuple[float, np.ndarray]:
        coef, penalty = unpack(x)
        nonlocal margins
        now = problem.evaluate(loss, coef / unit, penalty=penalty)
        margins = now.margins
        weighted_sum = problem.weighted_sum(now.weights)[0] / unit
        return float(now.log_risk[0]), gradient(x, weighted_sum, now.weights.sum())

    iteration = 0

    def after_iteration(intermediate_result: OptimizeResult) -> None:
        nonlocal iteration
        iteration += 1
        record(iteration, unpack(intermediate_result.x)[0] / unit)
        if margins.min() > 0:
            raise StopIteration  # the risk has no minimiser

    # not by `minimize`: it makes a tuple of two numbers for every coordinate, which outweighs
    # sparse data
    x, _, result = fmin_l_bfgs_b(
        log_risk,
        x,
        bounds=bounds,
        callback=after_iteration,
        maxiter=max_iter,
        maxfun=2 * max_iter,
        factr=1e-15 / np.finfo(float).eps,
        pgtol=1e-10,
        m=20 if d <= _WIDE else 4,
    )
    return unpack(x)[0] / unit, int(result["nit"])


def _unit(problem: RobustProblem) -> float:
    """The rows' root mean square around their mean, where an intercept absorbs it: the scale on
    which coefficients are even.
    """
    X, n = problem.X, problem.X.shape[0]
    square = float(np.linalg.norm(X.data if sparse.issparse(X) else X)) ** 2 / n
    if problem.fit_intercept and not sparse.issparse(X):
        mean = X.mean(axis=0, dtype=np.float64)
        square = max(square - float(mean @ mean), 1e-12 * square)
    return math.sqrt(square) if square > 0 else 1.0
