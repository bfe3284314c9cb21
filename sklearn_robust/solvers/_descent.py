"""The loop that every path shares: move, certify now and then, stop each problem on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import numpy as np

from sklearn_robust._array_api import Array, namespace, to_numpy
from sklearn_robust.certificates import log_risk_bound, margin_certificate, proves_separable, relative_gap, repaired_weights
from sklearn_robust.losses import MarginLoss
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.solvers._geometry import Geometry
from sklearn_robust.solvers._solution import Recorder, Solution, problem_to_numpy, stack_solutions

_CHECK_EVERY = 10  # iterations between certificates at first
_CHECK_SHARE = 10  # later a tenth of the iterations so far: a path that converges slowly is certified rarely
_PROVE_FIRST = 64  # iteration of the first attempt to prove that the data are not separable; later ones at its doubles
_NUDGE = 1.1  # ||Z^T a||_q over eps up to which it is made
_PATIENCE = 4000  # iterations after which it is made in any case: it costs as much as a thousand of them
_STALLED = 1e-12  # the adaptive step, relative to the first, below which rounding alone refuses steps
SHRINK = 0.7  # of the adaptive step after a refused trial

State = tuple[Array, ...]  # the parameters of the k problems under way; the first axis of each array is the problem


@dataclass
class Iterate:
    """Where the problems under way are, for certificates: the first axis is the problem.

    Attributes
    ----------
    coef : array of shape (k, d)
    now : Evaluation
        At `coef`.
    pull : array of shape (k, d)
        Z^T a.
    speed : array of shape (k,)
        Dual norm of the last subgradient that a step followed.
    step : array of shape (k,)
        Step size, relative to the first.
    """

    coef: Array
    now: Evaluation
    pull: Array
    speed: Array
    step: Array


class Path(Protocol):
    """Problems under way."""

    problem: RobustProblem

    def advance(self) -> None:
        """One trial step of every problem, accepted if it descends enough."""
        ...

    def any_below(self, log_risk: Array) -> bool:
        """Whether the log-risk of a problem is below its entry of this array (k,)."""
        ...

    def iterate(self) -> Iterate:
        """Where the problems are."""
        ...

    def demand(self, share: Array) -> None:
        """From now on accept a trial if it brings this share (k,) of the decrease that its slope promises."""
        ...

    def select(self, rows: np.ndarray) -> Self:
        """The path of the problems at these indices."""
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


def follow(path: Path, loss: MarginLoss, geometry: Geometry, stopping: Stopping, ids: np.ndarray | None = None) -> Solution:
    """Follow a path to the end of each of its problems.

    Certificates are taken every 10 iterations at first, later every tenth of the iterations so far, and with every record.
    With loss_tol = 0, where the limit itself is wanted, a step must bring the share 1 - min(1/2, gap) of the decrease that
    its slope promises, gap the certified one: it may waste no more than what is still open. Otherwise it must bring half.

    Parameters
    ----------
    path : Path
    loss : MarginLoss
    geometry : Geometry
        The norms in which margins and gaps are certified.
    stopping : Stopping
    ids : ndarray of shape (k,), optional
        The place of each problem in the solution; their order by default.

    Returns
    -------
    Solution
    """
    k = path.problem.n_problems
    run = _Run(path.problem, geometry, loss, stopping, np.arange(k) if ids is None else ids)
    check_at = 1
    for iteration in range(1, stopping.max_iter + 1):
        path.advance()
        if iteration < check_at and not path.any_below(run.done_below):
            continue
        wait = max(_CHECK_EVERY, iteration // _CHECK_SHARE)
        check_at = iteration + min(wait, stopping.record_every or wait)
        running = run.check(iteration, path.iterate())
        if len(running) == 0:
            break
        if len(running) < path.problem.n_problems:
            path = path.select(running)
        path.demand(run.demanded)
    return run.finish(k, path.iterate() if run.ids.size else None, stopping.max_iter)


class _Run:
    """Certificates and stopping of the problems under way; a finished problem leaves the batch."""

    def __init__(
        self, problem: RobustProblem, geometry: Geometry, loss: MarginLoss, stopping: Stopping, ids: np.ndarray
    ) -> None:
        xp = namespace(problem.y)
        self.problem, self.geometry, self.loss = problem, geometry, loss
        self.recorder = Recorder(stopping.record_every, stopping.verbose)
        self.tol, self.stop_if_not_separable = stopping.tol, stopping.stop_if_not_separable
        self.to_the_limit = stopping.loss_tol == 0
        log_loss_tol = -math.inf if self.to_the_limit else math.log(stopping.loss_tol)
        self.done_below = log_loss_tol - xp.log(problem.total_weight)
        self.ids = ids
        self.bound = xp.full_like(problem.total_weight, math.inf)
        self.proof = xp.exp(problem.log_weight)
        self.demanded = xp.full_like(self.bound, 0.5)
        self.proof_at = xp.full_like(self.bound, stopping.tol)  # speed times size below which a proof of the risk is tried
        self.prove_next = _PROVE_FIRST  # iteration at which a proof is tried for all that do not separate
        self.finished: dict[int, Solution] = {}

    def check(self, iteration: int, at: Iterate) -> np.ndarray:
        """Certify, store what is finished, and return the indices of the problems that go on."""
        xp = namespace(at.coef)
        problem, geometry, now = self.problem, self.geometry, at.now
        size = geometry.size(at.coef)
        margin = xp.min(now.margins, axis=-1) / xp.where(size > 0, size, xp.ones_like(size))
        mass = xp.sum(now.weights, axis=-1, keepdims=True)
        bound = geometry.distance(problem.threat, at.pull / mass)
        better = bound < self.bound
        self.bound = xp.where(better, bound, self.bound)
        self.proof = xp.where(better[:, None], now.weights, self.proof)
        gap = relative_gap(margin, self.bound)
        separates = (margin > 0) & (self.bound > 0)
        if self.to_the_limit:
            self.demanded = 1 - xp.where(separates, xp.clip(gap, 0.0, 0.5), xp.full_like(gap, 0.5))
        self.recorder(iteration, self.ids, log_risk=now.log_risk, margin=margin, margin_bound=self.bound, gap=gap)

        stalled = (at.step < _STALLED) | (at.speed == 0)
        done = now.log_risk < self.done_below
        done = done | (separates & (gap <= self.tol))
        provable = ~separates & ~done & ((at.speed * size <= self.proof_at) | stalled)
        if iteration >= self.prove_next:
            self.prove_next *= 2
            near = problem.threat.norm.value(at.pull / mass) <= _NUDGE * problem.threat.eps
            provable = provable | (~separates & ~done & (near | (iteration > _PATIENCE)))
        ended = stalled | done
        for i in np.flatnonzero(to_numpy(provable)).tolist():
            gap, proof = self._risk_gap(i, now)
            done[i] = gap <= self.tol
            ended[i] |= done[i] or (self.stop_if_not_separable and bool(np.isfinite(proof).all()))
            # closer next time; without any proof, only when the next round of attempts is due
            self.proof_at[i] *= 0.3 if np.isfinite(proof).all() else 0.0
        for i in np.flatnonzero(to_numpy(ended)).tolist():
            self._store(i, at, iteration, converged=bool(done[i]))
        running = np.flatnonzero(~to_numpy(ended))
        if len(running) < len(self.ids):
            self.problem, self.ids, self.geometry = problem.select(running), self.ids[running], geometry.select(running)
            for name in ("bound", "proof", "demanded", "proof_at", "done_below"):
                setattr(self, name, getattr(self, name)[running])
        return running

    def finish(self, k: int, at: Iterate | None, max_iter: int) -> Solution:
        """All solutions in order; what is still under way has not converged."""
        for i in range(len(self.ids) if at is not None else 0):
            self._store(i, at, max_iter, converged=False)
        return stack_solutions([self.finished[i] for i in range(k)], self.recorder.history(k))

    def _risk_gap(self, i: int, now: Evaluation) -> tuple[float, Array]:
        """The certified relative gap of the risk of problem i, inf without a proof of non-separability, and that proof."""
        one = problem_to_numpy(self.problem.select(slice(i, i + 1)))
        proof = repaired_weights(one, to_numpy(now.weights[i : i + 1]))
        excess = float(now.log_risk[i]) - log_risk_bound(one, self.loss, proof)[0]
        return float(-np.expm1(-excess)), proof

    def _store(self, i: int, at: Iterate, iteration: int, *, converged: bool) -> None:
        xp = namespace(at.coef)
        row = slice(i, i + 1)
        one, norm = self.problem.select(row), self.geometry.norms[i]
        coef, intercept = at.coef[row], at.now.intercept[row]
        certificate = margin_certificate(one, norm, coef, intercept, self.proof[row])
        solution = Solution(
            coef=coef,
            intercept=intercept,
            weights=one.balanced(self.proof[row]),
            log_risk=at.now.log_risk[row],
            margin=certificate.margin,
            margin_bound=certificate.bound,
            gap=certificate.gap,
            separable=[True],
            converged=np.array([converged]),
            n_iter=np.array([iteration]),
        )
        if not bool(proves_separable(one, coef, intercept)[0]):
            gap, proof = self._risk_gap(i, at.now)
            solution.separable = [None]
            if np.isfinite(proof).all():
                solution.separable = [False]
                solution.margin_bound = xp.zeros_like(solution.margin_bound)
                solution.gap = xp.full_like(solution.gap, gap)
                solution.weights = xp.asarray(proof, dtype=coef.dtype)
        self.finished[int(self.ids[i])] = solution


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

    def select(self, rows: np.ndarray) -> Self:
        """The rule for the problems at these indices."""
        ...

    def speed(self, velocity: Array) -> Array:
        """The dual norm of the subgradients: (k, d) -> (k,)."""
        ...


class RulePath:
    """The path of any rule, on any arrays.

    Parameters
    ----------
    problem : RobustProblem
    loss : MarginLoss
    rule : Rule
    state : tuple of arrays
        Where to start.
    step : array of shape (k,)
        First step.
    growth : float or None
        Factor on the step after an accepted trial; a refused one shrinks it by 0.7. None keeps the step constant and accepts
        every trial.
    """

    def __init__(
        self, problem: RobustProblem, loss: MarginLoss, rule: Rule, state: State, step: Array, growth: float | None
    ) -> None:
        self.problem, self.loss, self.rule, self.growth = problem, loss, rule, growth
        self.state, self.step, self.first_step = state, step, step
        self.coef = rule.coef(state)
        self.now = problem.evaluate(loss, self.coef)
        self.pull = problem.weighted_sum(self.now.weights)
        self.velocity = namespace(step).zeros_like(self.coef)
        self.demanded = namespace(step).full_like(step, 0.5)

    def advance(self) -> None:
        """One trial step of every problem, accepted if it descends enough."""
        xp = namespace(self.coef)
        trial, self.velocity = self.rule.propose(self.problem, self.state, self.coef, self.now, self.pull, self.step)
        coef = self.rule.coef(trial)
        then = self.problem.evaluate(self.loss, coef, near=self.now.intercept)
        if self.growth is None:
            self.state, self.coef, self.now = trial, coef, then
        else:
            promised = xp.sum(self.velocity * (self.coef - coef), axis=-1)
            accepted = then.log_risk <= self.now.log_risk - self.demanded * promised
            self.step = xp.where(accepted, self.growth * self.step, SHRINK * self.step)
            self.state = tuple(_pick(xp, accepted, new, old) for new, old in zip(trial, self.state, strict=True))
            self.coef = _pick(xp, accepted, coef, self.coef)
            self.now = _each(lambda new, old: _pick(xp, accepted, new, old), then, self.now)
        self.pull = self.problem.weighted_sum(self.now.weights)

    def any_below(self, log_risk: Array) -> bool:
        """Whether the log-risk of a problem is below its entry of this array (k,)."""
        return bool(namespace(log_risk).any(self.now.log_risk < log_risk))

    def iterate(self) -> Iterate:
        """Where the problems are."""
        return Iterate(self.coef, self.now, self.pull, self.rule.speed(self.velocity), self.step / self.first_step)

    def demand(self, share: Array) -> None:
        """From now on accept a trial if it brings this share (k,) of the decrease that its slope promises."""
        self.demanded = share

    def select(self, rows: np.ndarray) -> Self:
        """The path of the problems at these indices."""
        self.problem, self.rule = self.problem.select(rows), self.rule.select(rows)
        self.state = tuple(array[rows] for array in self.state)
        self.now = _each(lambda array: array[rows], self.now)
        for name in ("step", "first_step", "coef", "pull", "velocity", "demanded"):
            setattr(self, name, getattr(self, name)[rows])
        return self


def _pick(xp: Any, accepted: Array, new: Array, old: Array) -> Array:
    """The new rows where the trial was accepted, the old ones elsewhere."""
    if accepted.shape[0] == 1:
        return new if bool(accepted[0]) else old
    return xp.where(accepted[:, None] if new.ndim == 2 else accepted, new, old)


def _each(function: Callable[..., Array], *evaluations: Evaluation) -> Evaluation:
    """The function of each field."""
    return Evaluation(*(function(*(getattr(e, f.name) for e in evaluations)) for f in fields(Evaluation)))
