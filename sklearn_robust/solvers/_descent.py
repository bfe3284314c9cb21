"""The loop that every path shares: propose, accept what descends enough, certify, stop each problem on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from sklearn_robust._array_api import Array, namespace, to_numpy
from sklearn_robust.certificates import log_risk_bound, margin_certificate, proves_separable, relative_gap, repaired_weights
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.solvers._solution import Recorder, Solution, problem_to_numpy, stack_solutions

_CHECK_EVERY = 10  # iterations between certificates
_PROVE_FIRST = 64  # iteration of the first attempt to prove that the data are not separable; later ones at its doubles
_STALLED = 1e-12  # the adaptive step, relative to the first, below which rounding alone refuses steps

State = tuple[Array, ...]  # the parameters of the k problems under way; the first axis of each array is the problem


class Rule(Protocol):
    """What makes one path differ from another: its parameters and its step."""

    def coef(self, state: State) -> Array:
        """The linear predictors (k, d) that the parameters stand for."""
        ...

    def propose(
        self, problem: RobustProblem, state: State, coef: Array, now: Evaluation, pull: Array, step: Array
    ) -> tuple[State, Array]:
        """The parameters after a step of this size (k,), and the subgradient (k, d) of the log-risk that it follows."""
        ...


@dataclass(frozen=True)
class Stopping:
    """When a path ends, and what it records.

    Attributes
    ----------
    max_iter : int
    loss_tol : float
        Sum of the robust losses below which a problem is done; 0 trains on to `tol`.
    tol : float
        Certified relative gap, of the margin or of the risk, below which a problem is done.
    stop_if_not_separable : bool
        End a problem at the first proof that its data are not robustly separable.
    record_every : int
    verbose : bool
    """

    max_iter: int
    loss_tol: float
    tol: float
    stop_if_not_separable: bool
    record_every: int
    verbose: bool


def descend(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: LpNorm,
    rule: Rule,
    state: State,
    step: Array,
    stopping: Stopping,
    *,
    growth: float | None,
) -> Solution:
    """Follow a rule from a state.

    Parameters
    ----------
    problem, loss
        k problems; each stops on its own.
    norm : LpNorm
        The norm in which margins and gaps are certified.
    rule : Rule
    state : tuple of arrays
        Where to start.
    step : array of shape (k,)
        First step.
    stopping : Stopping
    growth : float or None
        Factor on the step after an accepted trial; a refused one shrinks it by 0.7. A trial is accepted if it brings half
        of the decrease that its slope promises, or with loss_tol = 0, where the limit itself is wanted, the fraction
        1 - min(1/2, gap), gap the certified one: a step may waste no more than what is still open. None keeps the step
        constant and accepts every trial.

    Returns
    -------
    Solution
    """
    xp = namespace(problem.y)
    k, first_step = problem.n_problems, step
    coef = rule.coef(state)
    now = problem.evaluate(loss, coef)
    pull = problem.weighted_sum(now.weights)
    run = _Run(problem, norm, loss, stopping)
    check_at = 1
    for iteration in range(1, stopping.max_iter + 1):
        trial, velocity = rule.propose(problem, state, coef, now, pull, step)
        trial_coef = rule.coef(trial)
        then = problem.evaluate(loss, trial_coef, near=now.intercept)
        if growth is None:
            state, coef, now = trial, trial_coef, then
        else:
            promised = xp.sum(velocity * (coef - trial_coef), axis=-1)
            accepted = then.log_risk <= now.log_risk - run.demanded * promised
            step = xp.where(accepted, growth * step, 0.7 * step)
            state = tuple(_pick(xp, accepted, new, old) for new, old in zip(trial, state, strict=True))
            coef = _pick(xp, accepted, trial_coef, coef)
            now = _each(lambda new, old, accepted=accepted: _pick(xp, accepted, new, old), then, now)
        pull = problem.weighted_sum(now.weights)
        if iteration < check_at and not run.any_below_loss_tol(now):
            continue
        check_at = iteration + min(_CHECK_EVERY, stopping.record_every or _CHECK_EVERY)
        speed = norm.dual.value(velocity)
        running = run.check(iteration, coef, now, pull, speed, (step < _STALLED * first_step) | (speed == 0))
        if running.shape[0] < coef.shape[0]:
            if running.shape[0] == 0:
                break
            problem = problem.select(running)
            state = tuple(array[running] for array in state)
            coef, pull, step, first_step = coef[running], pull[running], step[running], first_step[running]
            now = _each(lambda array, running=running: array[running], now)
    return run.finish(k, coef, now, stopping.max_iter)


class _Run:
    """Certificates and stopping of the problems under way; a finished problem leaves the batch."""

    def __init__(self, problem: RobustProblem, norm: LpNorm, loss: MarginLoss, stopping: Stopping) -> None:
        xp = namespace(problem.y)
        self.problem, self.norm, self.loss = problem, norm, loss
        self.recorder = Recorder(stopping.record_every, stopping.verbose)
        self.tol, self.stop_if_not_separable = stopping.tol, stopping.stop_if_not_separable
        self.to_the_limit = stopping.loss_tol == 0
        self.log_loss_tol = -math.inf if self.to_the_limit else math.log(stopping.loss_tol)
        self.ids = np.arange(problem.n_problems)
        self.bound = xp.full_like(problem.total_weight, math.inf)
        self.proof = xp.exp(problem.log_weight)
        self.demanded = xp.full_like(self.bound, 0.5)
        self.proof_at = xp.full_like(self.bound, stopping.tol)  # speed times size below which a proof of the risk is tried
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
        gap = relative_gap(margin, self.bound)
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
        if not bool(proves_separable(one, coef[row], now.intercept[row])[0]):
            gap, proof = self._risk_gap(i, now)
            solution.separable = [None]
            if np.isfinite(proof).all():
                solution.separable = [False]
                solution.margin_bound = xp.zeros_like(solution.margin_bound)
                solution.gap = xp.full_like(solution.gap, gap)
                solution.weights = xp.asarray(proof, dtype=coef.dtype)
        self.finished[int(self.ids[i])] = solution


def _pick(xp: Any, accepted: Array, new: Array, old: Array) -> Array:
    """The new rows where the trial was accepted, the old ones elsewhere."""
    if accepted.shape[0] == 1:
        return new if bool(accepted[0]) else old
    return xp.where(accepted[:, None] if new.ndim == 2 else accepted, new, old)


def _each(function: Callable[..., Array], *evaluations: Evaluation) -> Evaluation:
    """The function of each field."""
    return Evaluation(*(function(*(getattr(e, f.name) for e in evaluations)) for f in fields(Evaluation)))
