r"""The limit of the path, faster: accelerated gradient descent on the dual of the largest robust
margin.

The margin's upper bound :math:`D(a) = \min_{\|\delta\|_q \le \epsilon} \|Z^T a - \delta\|_{p^*}` is
tight at its minimiser. For 1 < p <= 2 its square is smooth in the weights a of the samples, and its
gradient holds the primal predictor: :math:`\nabla \tfrac12 D^2(a) = Z w`, with w the steepest
direction in the p-norm of what the adversary leaves of :math:`Z^T a`, scaled by D. Nesterov's
method over the simplex (two simplices, one a class, for a free intercept), with backtracking and
adaptive restart, therefore carries a certificate at every iteration: margin(w) <= gamma <= D(a).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from sklearn_robust._array_api import Array, namespace, to_numpy
from sklearn_robust.certificates import (
    best_intercept,
    certify,
    over_size,
    relative_gap,
    repaired_weights,
)
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm, shave_level
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import squared_norm_bound
from sklearn_robust.solvers.solution import (
    Monitor,
    Recorder,
    Solution,
    problem_to_numpy,
    stack_solutions,
)

# ||Z^T a||_q over eps up to which a proof of non-separability is tried from the weights
_NUDGE = 1.1
_PATIENCE = 100  # iterations after which it is tried in any case
# of the curvature estimate at each iteration, before backtracking doubles it where needed
_RELAX = 0.9


@dataclass
class _State:
    """What the method knows of each problem; the first axis is the problem."""

    weights: Array  # (k, n) on the simplex
    weighted_sum: Array  # (k, d) Z^T weights
    ahead: Array  # (k, n) extrapolated weights
    ahead_sum: Array  # (k, d)
    momentum: Array  # (k,) Nesterov's t
    curvature: Array  # (k,)
    coef: Array  # (k, d) best predictor so far
    intercept: Array  # (k,)
    margin: Array  # (k,) its margin
    proof: Array  # (k, n) best weights so far
    bound: Array  # (k,) their bound

    def rows(self, rows: Array) -> _State:
        return _State(*(getattr(self, f.name)[rows] for f in fields(self)))


def accelerated_margin(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: LpNorm,
    *,
    max_iter: int = 10_000,
    tol: float = 1e-3,
    record_every: int = 0,
    monitors: Sequence[Monitor] = (),
) -> Solution:
    """The robust separator of largest margin in the p-norm, 1 < p <= 2, to a certified relative
    gap.

    Parameters
    ----------
    problem : RobustProblem
        k problems; each stops on its own.
    loss : MarginLoss
        Only evaluated for `log_risk`: the limit is the same for every loss with an exponential
        tail.
    norm : LpNorm
        The geometry p, in (1, 2].
    max_iter : int
        Iterations at most, of two products with X each (one more where backtracking refuses a
        step).
    tol : float
        Certified relative gap of the margin to reach.
    record_every : int
        Record margin, bound and gap every so many iterations; 0 records nothing.
    monitors : sequence of Monitor, optional
        Shown predictors and figures at iterations of their choice. They change no iteration; each
        may stop the solver.

    Returns
    -------
    Solution
        Coefficients are scaled to a smallest robust margin of 1. A problem proven not to be
        robustly separable stops with `separable` False and has not converged: its risk has a
        minimiser, see `minimise_robust_risk`.

    Raises
    ------
    ValueError
        If p is not in (1, 2].
    """
    if not 1 < norm.p <= 2:
        raise ValueError(
            f"The accelerated solver needs a geometry p in (1, 2], got p={norm.p:g}. Use the "
            f"solver 'steepest_descent' for the "
            "path of this geometry, or 'exact' for its limit."
        )
    xp, problem = namespace(problem.y), problem.simplified()
    k = problem.n_problems
    ids = np.arange(k)
    finished: dict[int, Solution] = {}
    recorder = Recorder(record_every, monitors)
    state = _start(problem, norm)
    # the dual's curvature never exceeds this; beyond it nothing but rounding refuses a step
    steepest = (norm.dual.p - 1) * squared_norm_bound(problem.rows)
    prove_at = 16
    for iteration in range(1, max_iter + 1):
        state = _step(problem, norm, state, steepest)
        gap = relative_gap(state.margin, state.bound)
        hopeful = state.bound <= 0
        done = hopeful | (gap <= tol)
        inseparable = np.zeros(len(ids), dtype=bool)
        # where the bound only tends to zero, the weights need a nudge to prove it
        if iteration == prove_at:
            prove_at *= 2
            near = (state.margin <= 0) & ~done
            if iteration < _PATIENCE:
                size = problem.threat.norm.value(problem.threat.reachable(state.weighted_sum))
                near = near & (size <= _NUDGE * problem.radius)
            hopeful = hopeful | near
        for i in np.flatnonzero(to_numpy(hopeful)).tolist():
            proof = repaired_weights(_one(problem, i), to_numpy(state.weights[i : i + 1]))
            if np.isfinite(proof).all():
                state.proof[i] = xp.asarray(proof[0], dtype=state.proof.dtype)
                done[i] = inseparable[i] = True
        stopped = recorder(
            iteration,
            ids,
            state.coef,
            state.intercept,
            last=bool(xp.any(done)) or iteration == max_iter,
            margin=state.margin,
            margin_bound=state.bound,
            gap=gap,
        )
        if not bool(xp.any(done)):
            if stopped:
                break
            continue
        done = to_numpy(done)
        for i in np.flatnonzero(done).tolist():
            finished[int(ids[i])] = _solution(
                problem, loss, norm, state, i, iteration, tol, bool(inseparable[i])
            )
        running = xp.asarray(np.flatnonzero(~done))
        problem, state, ids = problem.select(running), state.rows(running), ids[~done]
        if not len(ids) or stopped:
            break
    for i in range(len(ids)):
        finished[int(ids[i])] = _solution(problem, loss, norm, state, i, iteration, tol, False)
    return stack_solutions([finished[i] for i in range(k)], recorder.history(k))


def _start(problem: RobustProblem, norm: LpNorm) -> _State:
    xp, weights = namespace(problem.y), problem.class_shares()
    weighted_sum = problem.weighted_sum(weights)
    value, _ = _half_square(problem, norm, weighted_sum)
    zero = xp.zeros_like(weighted_sum[:, 0])
    return _State(
        weights=weights,
        weighted_sum=weighted_sum,
        ahead=weights,
        ahead_sum=weighted_sum,
        momentum=zero + 1,
        curvature=zero + 1,
        coef=xp.zeros_like(weighted_sum),
        intercept=zero,
        margin=zero - math.inf,
        proof=weights,
        bound=xp.sqrt(2 * value),
    )


def _half_square(problem: RobustProblem, norm: LpNorm, weighted_sum: Array) -> tuple[Array, Array]:
    """D^2/2 of shape (k,) and its derivative by the weighted sum Z^T a, the primal predictor of
    shape (k, d).
    """
    left = problem.threat.norm.residual(weighted_sum, problem.radius, norm.dual)
    distance = norm.dual.value(left)
    return 0.5 * distance**2, distance[:, None] * norm.steepest_direction(left)


def _step(problem: RobustProblem, norm: LpNorm, state: _State, steepest: float) -> _State:
    xp = namespace(state.weights)
    value, coef = _half_square(problem, norm, state.ahead_sum)
    scores = problem.signed_scores(coef)
    intercept, smallest = best_intercept(scores, problem.classes)
    margin = over_size(smallest - problem.penalty(coef), norm.value(coef))
    better = margin > state.margin
    # the distance is a difference, and known only to the rounding of what it is a difference of
    distance = xp.sqrt(2 * value)
    rounding = (
        8 * xp.finfo(value.dtype).eps * distance * (norm.dual.value(state.ahead_sum) + distance)
    )

    curvature = _RELAX * state.curvature
    while True:
        weights = _project(problem, state.ahead - scores / curvature[:, None])
        weighted_sum = problem.weighted_sum(weights)
        new_value, _ = _half_square(problem, norm, weighted_sum)
        move = weights - state.ahead
        model = (
            value + xp.sum(scores * move, axis=-1) + 0.5 * curvature * xp.sum(move * move, axis=-1)
        )
        refused = (new_value > model + rounding) & (curvature < steepest)
        if not bool(xp.any(refused)):
            break
        curvature = xp.where(refused, 2 * curvature, curvature)
    bound = xp.sqrt(2 * new_value)
    tighter = bound < state.bound

    forward = weights - state.weights
    restart = xp.sum((state.ahead - weights) * forward, axis=-1) > 0
    momentum = xp.where(restart, xp.ones_like(state.momentum), state.momentum)
    next_momentum = 0.5 * (1 + xp.sqrt(1 + 4 * momentum**2))
    beta = ((momentum - 1) / next_momentum)[:, None]
    return _State(
        weights=weights,
        weighted_sum=weighted_sum,
        ahead=weights + beta * forward,
        ahead_sum=weighted_sum + beta * (weighted_sum - state.weighted_sum),
        momentum=next_momentum,
        curvature=curvature,
        coef=xp.where(better[:, None], coef, state.coef),
        intercept=xp.where(better, intercept, state.intercept),
        margin=xp.where(better, margin, state.margin),
        proof=xp.where(tighter[:, None], weights, state.proof),
        bound=xp.where(tighter, bound, state.bound),
    )


def _project(problem: RobustProblem, x: Array) -> Array:
    """The Euclidean projection on the feasible weights: the simplex, or a simplex of total_weight
    1/2 for
    each class.
    """
    xp = namespace(x)
    projected = zero = xp.zeros_like(x)
    for members in problem.classes:
        total = xp.ones_like(x[:, :1]) / len(problem.classes)
        level = shave_level(xp.where(members, x, -math.inf), total, 1.0)
        projected = xp.where(members, xp.maximum(x - level, zero), projected)
    return projected


def _one(problem: RobustProblem, i: int) -> RobustProblem:
    return problem_to_numpy(problem.select(slice(i, i + 1)))


def _solution(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: LpNorm,
    state: _State,
    i: int,
    iteration: int,
    tol: float,
    inseparable: bool,
) -> Solution:
    """Problem i, scaled to margin 1 and certified afresh."""
    xp = namespace(state.coef)
    one, row = problem.select(slice(i, i + 1)), slice(i, i + 1)
    proven = certify(one, norm, state.coef[row], state.proof[row])
    log_risk, _ = loss.log_risk_and_weights(
        one.margins(proven.coef, proven.intercept), one.log_weight
    )
    return Solution(
        coef=proven.coef,
        intercept=proven.intercept,
        weights=proven.weights,
        log_risk=log_risk,
        margin=proven.margin,
        margin_bound=xp.zeros_like(proven.bound) if inseparable else proven.bound,
        gap=xp.full_like(proven.gap, math.inf) if inseparable else proven.gap,
        separable=[False if inseparable else True if bool(proven.margin[0] > 0) else None],
        converged=np.array([not inseparable and bool(proven.gap[0] - proven.rounding[0] <= tol)]),
        n_iter=np.array([iteration]),
    )
