r"""Steepest descent in the p-norm on the robust risk: the path whose limit is the robust separator of least p-norm.

One step is :math:`w \leftarrow w - \eta \|v\|_{p^*} u`, with v the subgradient of the log-risk that is least in the dual
norm and u its steepest direction in the p-norm: p = 2 is gradient descent, p = 1 coordinate descent, p = inf sign descent
(Tsilivis et al. 2024, eq. 25 and Theorem 4.3). Working on log L changes the clock of the path, not the path, and nothing
underflows. Two rules keep the discrete path on the flow where the penalty eps ||w||_q* has kinks: v is the minimum-norm
subgradient, and no step jumps over a kink - a coordinate that would change sign stops at zero (q = inf), one that would
overtake the largest stops level with it (q = 1).
"""

from __future__ import annotations

import math
from dataclasses import fields
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._array_api import Array, namespace, to_numpy
from sklearn_robust.certificates import log_risk_bound, margin_certificate, repaired_weights
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.solvers._solution import Recorder, Solution, problem_to_numpy, stack_solutions

_GROW, _SHRINK = 1.05, 0.7  # of the adaptive step after an accepted and after a refused trial
_CHECK_EVERY = 10  # iterations between certificates
_PROVE_FIRST = 64  # iteration of the first attempt to prove that the data are not separable; later ones at its doubles
_STALLED = 1e-12  # the adaptive step, relative to the paper's, below which rounding alone refuses steps


def steepest_descent(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: LpNorm,
    *,
    step_size: float | str = "adaptive",
    max_iter: int = 50_000,
    loss_tol: float = 1e-3,
    tol: float = 1e-3,
    stop_if_not_separable: bool = False,
    coef_init: Array | None = None,
    record_every: int = 0,
    verbose: bool = False,
) -> Solution:
    r"""Follow the path of steepest descent of the robust risk.

    Parameters
    ----------
    problem : RobustProblem
        k problems; each stops on its own.
    loss : MarginLoss
    norm : LpNorm
        The geometry p.
    step_size : "adaptive", "paper" or float
        Step on the log-risk. "adaptive" backtracks: a step is accepted if it brings half of the decrease that its slope
        promises; with loss_tol = 0, where the limit itself is wanted, the fraction 1 - min(1/2, gap), gap the certified
        one: a step may waste no more than what is still open. "paper" is the constant 1/B^2, B = max |x_ij| + eps.
    max_iter : int
        Passes over the data at most.
    loss_tol : float
        A problem is done when the sum of its robust losses falls below this; 0 trains on to `tol`.
    tol : float
        A problem is done when its certified gap falls below this: of the margin where the data are robustly separable, of
        the risk where they are not.
    stop_if_not_separable : bool
        Stop a problem as soon as its data are proven not to be robustly separable: its limit, the minimiser of the risk, is
        then the same for every geometry, and `minimise_robust_risk` reaches it faster.
    coef_init : array of shape (k, d), optional
        Start; zero by default.
    record_every : int
        Record log-risk, margin, bound and gap every so many iterations; 0 records nothing.
    verbose : bool
        Print what is recorded.

    Returns
    -------
    Solution
    """
    xp = namespace(problem.y)
    k = problem.n_problems
    largest = abs(problem.X).max() if sparse.issparse(problem.X) else xp.max(xp.abs(problem.X))
    paper_step = 1 / (float(largest) + problem.threat.eps) ** 2 if float(largest) > 0 else xp.ones_like(problem.threat.eps)
    step = xp.full_like(paper_step, float(step_size)) if isinstance(step_size, Real) else paper_step
    adaptive = step_size == "adaptive"

    coef = xp.zeros_like(problem.weighted_sum(problem.y)) if coef_init is None else xp.asarray(coef_init, copy=True)
    now = problem.evaluate(loss, coef)
    pull = problem.weighted_sum(now.weights)
    run = _Run(problem, norm, loss, loss_tol, tol, stop_if_not_separable, Recorder(record_every, verbose))
    check_at = 1
    for iteration in range(1, max_iter + 1):
        mass = xp.sum(now.weights, axis=-1)
        velocity = problem.threat.dual_norm.min_norm_subgradient(coef, -pull, problem.threat.eps * mass, norm.dual)
        speed = norm.dual.value(velocity)
        direction = _steepest_direction(problem, norm, coef, pull, velocity)
        trial = _move(problem, coef, -(step * speed)[:, None] * direction)
        then = problem.evaluate(loss, trial, near=now.intercept)
        if adaptive:
            promised = xp.sum(velocity * (coef - trial), axis=-1)
            accepted = then.log_risk <= now.log_risk - run.demanded * promised
            step = xp.where(accepted, _GROW * step, _SHRINK * step)
            coef, now = _merge(xp, accepted, (trial, then), (coef, now))
        else:
            coef, now = trial, then
        pull = problem.weighted_sum(now.weights)
        if iteration < check_at and not run.any_below_loss_tol(now):
            continue
        check_at = iteration + min(_CHECK_EVERY, record_every or _CHECK_EVERY)
        stalled = (step < _STALLED * paper_step) | (speed == 0)
        running = run.check(iteration, coef, now, pull, speed, stalled)
        if running.shape[0] < coef.shape[0]:
            if running.shape[0] == 0:
                break
            problem = problem.select(running)
            coef, pull, step, paper_step = coef[running], pull[running], step[running], paper_step[running]
            now = _rows(now, running)
    return run.finish(k, coef, now, max_iter)


def _move(problem: RobustProblem, coef: Array, step: Array) -> Array:
    """coef + step, stopped at the kinks of the penalty."""
    xp = namespace(coef)
    moved = coef + step
    if problem.threat.q == math.inf:
        return xp.where(coef * moved < 0, xp.zeros_like(moved), moved)
    if problem.threat.q == 1:
        return _move_below_largest(xp, coef, moved)
    return moved


def _move_below_largest(xp: Any, coef: Array, moved: Array) -> Array:
    """No coordinate overtakes the largest within one step; those that reach it end exactly level."""
    before, after = xp.abs(coef), xp.abs(moved)
    size = xp.max(before, axis=-1, keepdims=True)
    top = before >= size * (1 - 16 * xp.finfo(coef.dtype).eps)
    level = xp.max(xp.where(top, after, xp.zeros_like(after)), axis=-1, keepdims=True)
    below = xp.where(top, xp.zeros_like(after), xp.minimum(after, xp.maximum(level, before)))
    stop = xp.maximum(level, xp.max(below, axis=-1, keepdims=True))
    near = after >= level * (1 - 64 * xp.finfo(coef.dtype).eps)
    after = xp.where(top, xp.where(near, stop, after), below)
    return xp.where(size > 0, xp.sign(moved) * after, moved)


def _steepest_direction(problem: RobustProblem, norm: LpNorm, coef: Array, pull: Array, velocity: Array) -> Array:
    """The unit vector along which the log-risk falls fastest, up to sign: the steepest direction of the velocity.

    At w = 0 with 1 < q < inf the steepest direction of the velocity is not unique for p = 1 and inf. The one that descends
    there is the gradient of the threat's norm at what the velocity lacks, delta = pull - residual.
    """
    xp = namespace(coef)
    direction = norm.steepest_direction(velocity)
    if not 1 < problem.threat.q < math.inf or 1 < norm.p < math.inf:
        return direction
    origin = xp.all(coef == 0, axis=-1)
    if not bool(xp.any(origin)):
        return direction
    first = -problem.threat.dual_norm.steepest_direction(pull + velocity)
    size = norm.value(first)[:, None]
    first = first / xp.where(size > 0, size, xp.ones_like(size))
    return xp.where(origin[:, None] & (size > 0), first, direction)


class _Run:
    """Certificates and stopping of the problems under way; a finished problem leaves the batch."""

    def __init__(
        self,
        problem: RobustProblem,
        norm: LpNorm,
        loss: MarginLoss,
        loss_tol: float,
        tol: float,
        stop_if_not_separable: bool,
        recorder: Recorder,
    ) -> None:
        xp = namespace(problem.y)
        self.problem, self.norm, self.loss, self.tol, self.recorder = problem, norm, loss, tol, recorder
        self.to_the_limit, self.stop_if_not_separable = loss_tol == 0, stop_if_not_separable
        self.log_loss_tol = math.log(loss_tol) if loss_tol > 0 else -math.inf
        self.ids = np.arange(problem.n_problems)
        self.bound = xp.full_like(problem.total_weight, math.inf)
        self.proof = xp.exp(problem.log_weight)
        self.demanded = xp.full_like(self.bound, 0.5)
        self.proof_at = xp.full_like(self.bound, tol)  # speed times size below which a proof of the risk is tried
        self.prove_next = _PROVE_FIRST  # iteration at which a proof is tried for all that do not separate
        self.finished: dict[int, Solution] = {}

    def any_below_loss_tol(self, now: Evaluation) -> bool:
        xp = namespace(now.log_risk)
        return bool(xp.any(now.log_risk + xp.log(self.problem.total_weight) < self.log_loss_tol))

    def check(self, iteration: int, coef: Array, now: Evaluation, pull: Array, speed: Array, stalled: Array) -> Array:
        """Certify, store what is finished, and return the indices of the problems that go on."""
        xp = namespace(coef)
        problem, norm = self.problem, self.norm
        size = norm.value(coef)
        margin = xp.min(now.margins, axis=-1) / xp.where(size > 0, size, xp.ones_like(size))
        mass = xp.sum(now.weights, axis=-1, keepdims=True)
        bound = norm.dual.value(problem.threat.norm.residual(pull / mass, problem.threat.eps, norm.dual))
        better = bound < self.bound
        self.bound = xp.where(better, bound, self.bound)
        self.proof = xp.where(better[:, None], now.weights, self.proof)
        gap = 1 - margin / xp.where(self.bound > 0, self.bound, xp.ones_like(bound))
        separates = (margin > 0) & (self.bound > 0)
        if self.to_the_limit:
            self.demanded = 1 - xp.where(separates, xp.clip(gap, 0.0, 0.5), xp.full_like(gap, 0.5))
        self.recorder(iteration, self.ids, log_risk=now.log_risk, margin=margin, margin_bound=self.bound, gap=gap)

        done = now.log_risk + xp.log(problem.total_weight) < self.log_loss_tol
        done = done | (separates & (gap <= self.tol))
        provable = ~separates & ~done & ((speed * size <= self.proof_at) | stalled)
        if iteration >= self.prove_next:
            self.prove_next *= 2
            provable = provable | (~separates & ~done)
        ended = stalled | done
        for i in np.flatnonzero(to_numpy(provable)).tolist():
            gap, proof = self._risk_gap(i, now)
            done[i] = gap <= self.tol
            ended[i] |= done[i] or (self.stop_if_not_separable and bool(np.isfinite(proof).all()))
            # closer next time; without any proof, only when the next round of attempts is due
            self.proof_at[i] *= 0.3 if np.isfinite(proof).all() else 0.0
        for i in np.flatnonzero(to_numpy(ended)).tolist():
            self._store(i, coef, now, iteration, converged=bool(done[i]))
        running = xp.asarray(np.flatnonzero(~to_numpy(ended)))
        if running.shape[0] < coef.shape[0]:
            self.problem, self.ids = problem.select(running), self.ids[to_numpy(running)]
            for name in ("bound", "proof", "demanded", "proof_at"):
                setattr(self, name, getattr(self, name)[running])
        return running

    def finish(self, k: int, coef: Array, now: Evaluation, max_iter: int) -> Solution:
        """All solutions in order; what is still under way has not converged."""
        for i in range(self.problem.n_problems):
            self._store(i, coef, now, max_iter, converged=False)
        return stack_solutions([self.finished[i] for i in range(k)], self.recorder.history(k))

    def _risk_gap(self, i: int, now: Evaluation) -> tuple[float, Array]:
        """The certified relative gap of the risk of problem i, inf without a proof of non-separability, and that proof."""
        one = problem_to_numpy(self.problem.select(slice(i, i + 1)))
        proof = repaired_weights(one, to_numpy(now.weights[i : i + 1]))
        excess = float(now.log_risk[i]) - log_risk_bound(one, self.loss, proof)[0]
        return float(-np.expm1(-excess)), proof

    def _store(self, i: int, coef: Array, now: Evaluation, iteration: int, *, converged: bool) -> None:
        xp = namespace(coef)
        one = self.problem.select(slice(i, i + 1))
        row = slice(i, i + 1)
        certificate = margin_certificate(one, self.norm, coef[row], now.intercept[row], self.proof[row])
        solution = Solution(
            coef=coef[row],
            intercept=now.intercept[row],
            weights=one.balanced(self.proof[row]),
            log_risk=now.log_risk[row],
            margin=certificate.margin,
            margin_bound=certificate.bound,
            gap=certificate.gap,
            separable=[True],
            converged=np.array([converged]),
            n_iter=np.array([iteration]),
        )
        if not certificate.margin[0] > 0:
            gap, proof = self._risk_gap(i, now)
            solution.separable = [None]
            if np.isfinite(proof).all():
                solution.separable = [False]
                solution.margin_bound = xp.zeros_like(solution.margin_bound)
                solution.gap = xp.full_like(solution.gap, gap)
                solution.weights = xp.asarray(proof, dtype=coef.dtype)
        self.finished[int(self.ids[i])] = solution


def _merge(xp: Any, accepted: Array, then: tuple[Array, Evaluation], now: tuple[Array, Evaluation]) -> tuple[Array, Evaluation]:
    """The accepted trials, and the old state elsewhere."""
    if bool(xp.all(accepted)):
        return then
    if not bool(xp.any(accepted)):
        return now

    def pick(a: Array, b: Array) -> Array:
        return xp.where(accepted[:, None] if a.ndim == 2 else accepted, a, b)

    names = [f.name for f in fields(Evaluation)]
    return pick(then[0], now[0]), Evaluation(*(pick(getattr(then[1], name), getattr(now[1], name)) for name in names))


def _rows(evaluation: Evaluation, rows: Array) -> Evaluation:
    return Evaluation(*(getattr(evaluation, f.name)[rows] for f in fields(Evaluation)))
