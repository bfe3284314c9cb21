r"""The minimiser of the robust risk where the data are not robustly separable: a finite, certified
solution.

Newton's method on the log-risk comes with the weights that certify it. L-BFGS-B takes over for too
many columns, and where it stops short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sklearn_robust.certificates import over_size, repaired_weights, robust_margin
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers._risk_lbfgs import lbfgs
from sklearn_robust.solvers._risk_newton import newton
from sklearn_robust.solvers.solution import Monitor, Recorder, Solution, stack_solutions

_MAX_NEWTON = 200


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
    monitors: Sequence[Monitor] = (),
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
        Iterations at most.
    tol : float
        Certified relative gap of the risk to reach.
    coef_init : ndarray of shape (k, d), optional
        By default problems that differ in their radius alone form a path: the minimiser of each is
        where the next smaller radius starts, and the largest radius starts at zero.
    proof : ndarray of shape (k, n), optional
        Weights that prove that the problems are not robustly separable: they help to certify the
        risk where the minimiser alone does not.
    record_every : int
        Record log-risk, margin, bound and the certified gap of the risk every so many iterations; 0
        records nothing.
    monitors : sequence of Monitor, optional
        Shown predictors and figures at iterations of their choice. They change no iteration; each
        may stop the solver.

    Returns
    -------
    Solution
        A problem that turns out to be separable has `separable` True or None and has not converged.
    """
    solutions: dict[int, Solution] = {}
    recorder = Recorder(record_every, monitors)
    stopped = False
    double = (
        problem.simplified().in_double_arithmetic()
    )  # whatever the data's type: it does not decide how exact the answer is
    last: dict[int, np.ndarray] = {}  # minimiser of the same data at the radius before
    for i in np.argsort(-problem.radius, kind="stable").tolist():
        row = slice(i, i + 1)
        one = double.select(row)
        certify = partial(
            _certified, one, loss, norm, None if proof is None else proof[row], problem.y.dtype
        )
        recorder.rewind()
        data = hash((one.y.tobytes(), one.log_weight.tobytes()))
        start = (
            last.get(data, np.zeros((1, problem.n_features)))
            if coef_init is None
            else coef_init[row].astype(np.float64)
        )
        if stopped:
            solutions[i] = certify(start)
            continue
        solutions[i], stopped = _minimise_one(one, loss, max_iter, tol, start, certify, recorder, i)
        if solutions[i].separable[0] is not None:
            last[data] = solutions[i].coef.astype(np.float64)
    return stack_solutions(
        [solutions[i] for i in range(problem.n_problems)], recorder.history(problem.n_problems)
    )


class _Stopped(Exception):
    """A monitor asked to stop here."""

    def __init__(self, iteration: int, coef: np.ndarray) -> None:
        super().__init__()
        self.iteration, self.coef = iteration, coef


def _minimise_one(
    problem: RobustProblem,
    loss: MarginLoss,
    max_iter: int,
    tol: float,
    start: np.ndarray,
    certify: Callable[..., Solution],
    recorder: Recorder,
    i: int,
) -> tuple[Solution, bool]:
    """The solution of problem i, and whether a monitor has asked to stop."""

    def report(iteration: int, state: Solution, *, last: bool = False) -> bool:
        figures = {
            name: getattr(state, name) for name in ("log_risk", "margin", "margin_bound", "gap")
        }
        return recorder(iteration, np.array([i]), state.coef, state.intercept, last=last, **figures)

    def record(iteration: int, coef: np.ndarray) -> None:
        if recorder.due(iteration) and report(iteration, certify(coef)):
            raise _Stopped(iteration, coef)

    try:
        solution, coef, n_iter = _search(problem, loss, max_iter, tol, start, certify, record)
    except _Stopped as stop:
        return replace(certify(stop.coef), n_iter=np.array([stop.iteration])), True
    if solution is None:
        solution = certify(coef)
    solution.converged = solution.gap <= tol
    solution.n_iter = np.array([n_iter])
    return solution, report(n_iter, solution, last=True)


def _search(
    problem: RobustProblem,
    loss: MarginLoss,
    max_iter: int,
    tol: float,
    start: np.ndarray,
    certify: Callable[..., Solution],
    record: Callable[[int, np.ndarray], None],
) -> tuple[Solution | None, np.ndarray, int]:
    """Newton's method, and where it stops short L-BFGS-B and Newton's method again."""
    second_order = partial(newton, problem, loss, tol=tol, certify=certify)
    solution, coef, n_iter = second_order(start, max_iter=min(max_iter, _MAX_NEWTON), record=record)
    if solution is None and n_iter < max_iter:
        coef, more = lbfgs(
            problem, loss, coef, max_iter=max_iter - n_iter, record=_counted_from(n_iter, record)
        )
        n_iter += more
        solution, coef, more = second_order(
            coef, max_iter=min(max_iter - n_iter, _MAX_NEWTON), record=_counted_from(n_iter, record)
        )
        n_iter += more
    return solution, coef, n_iter


def _counted_from(
    start: int, record: Callable[[int, np.ndarray], None]
) -> Callable[[int, np.ndarray], None]:
    return lambda iteration, coef: record(start + iteration, coef)


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
    """The predictor, rounded to dtype, with its margin, and with 1 - (lower bound on the risk) /
    risk.

    `weights` (1, n) are dual feasible; without them those of the predictor are repaired.
    """
    coef = coef.astype(dtype).astype(np.float64)
    now = problem.evaluate(loss, coef, near=None if near is None else np.array([near]))
    used = np.where(problem.log_weight > -math.inf, now.margins, math.inf)
    margin = over_size(used.min(axis=-1), norm.value(coef))
    if margin[0] > 0:  # a proof of separability, if it withstands its rounding
        margin = robust_margin(problem, norm, coef, now.intercept, used)
    proven = weights is not None
    if weights is None and margin[0] <= 0:
        weights = repaired_weights(problem, now.weights, proof)
        proven = bool(np.isfinite(weights).all())
    if not proven:
        weights = problem.balanced(now.weights)
    excess = (
        now.log_risk - loss.log_risk_bound(weights, problem.log_weight, now.log_risk)
        if proven
        else np.full(1, np.inf)
    )
    separable = False if proven else True if margin[0] > 0 else None
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
