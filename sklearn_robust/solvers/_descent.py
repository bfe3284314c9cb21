"""The loop that every path shares: move, certify now and then, stop each problem on its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import numpy as np

from sklearn_robust._array_api import Array, namespace, to_numpy
from sklearn_robust.certificates import (
    certify,
    log_risk_bound,
    over_size,
    relative_gap,
    repaired_weights,
)
from sklearn_robust.losses import MarginLoss
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.solvers._geometry import Geometry
from sklearn_robust.solvers.solution import (
    Monitor,
    Recorder,
    Solution,
    problem_to_numpy,
    stack_solutions,
)
from sklearn_robust.threats import inside, reachable

_CHECK_EVERY = 10  # iterations between certificates at first
# later a tenth of the iterations so far: a path that converges slowly is certified rarely
_CHECK_SHARE = 10
# iteration of the first attempt to prove that the data are not separable; later ones at its doubles
_PROVE_FIRST = 64
_NUDGE = 1.1  # ||Z^T a||_q over eps up to which it is made
# iterations after which it is made in any case: it costs as much as a thousand of them
_PATIENCE = 4000
# the adaptive step, relative to the first, below which rounding alone refuses steps
_STALLED = 1e-12
SHRINK = 0.7  # of the adaptive step after a refused trial

# the parameters of the k problems under way; the first axis of each array is the problem
State = tuple[Array, ...]


@dataclass
class Iterate:
    """Where the problems under way are, for certificates: the first axis is the problem.

    Attributes
    ----------
    coef : array of shape (k, d)
    now : Evaluation
        At `coef`.
    weighted_sum : array of shape (k, d)
        Z^T a.
    subgradient_norm : array of shape (k,)
        Dual norm of the last subgradient that a step followed.
    step : array of shape (k,)
        Step size, relative to the first.
    """

    coef: Array
    now: Evaluation
    weighted_sum: Array
    subgradient_norm: Array
    step: Array


class Path(Protocol):
    """Problems under way."""

    problem: RobustProblem

    def advance(self) -> None:
        """One trial step of every problem, accepted if it descends enough."""
        ...

    def any_below(self, log_risk: Array) -> bool:
        """Whether the log-risk of a problem is at most its entry of this array (k,)."""
        ...

    def iterate(self) -> Iterate:
        """Where the problems are; what has gathered in rounding may end here."""
        ...

    def view(self) -> tuple[Array, Evaluation]:
        """The coefficients and the loss at them, for a record: nothing of the path changes."""
        ...

    def require_decrease(self, share: Array) -> None:
        """From now on accept a trial if it brings this share (k,) of the decrease that its slope
        promises.
        """
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
    monitors : sequence of Monitor
    """

    max_iter: int
    loss_tol: float
    tol: float
    stop_if_not_separable: bool
    record_every: int
    monitors: Sequence[Monitor] = ()


def follow(
    path: Path,
    loss: MarginLoss,
    geometry: Geometry,
    stopping: Stopping,
    ids: np.ndarray | None = None,
) -> Solution:
    """Follow a path to the end of each of its problems.

    Certificates are taken every 10 iterations at first, later every tenth of the iterations so far.
    A record at another iteration takes the bound that is known by then, and changes none of what
    follows. With loss_tol = 0, where the limit itself is wanted, a step must bring the share 1 -
    min(1/2, gap) of the decrease that its slope promises, gap the certified one: it may waste no
    more than what is still open. Otherwise it must bring half.

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
            if run.recorder.asked_for(iteration):
                run.show(iteration, *path.view())
                if run.stopped:
                    break
            continue
        check_at = min(iteration + max(_CHECK_EVERY, iteration // _CHECK_SHARE), stopping.max_iter)
        running = run.check(iteration, path.iterate())
        if len(running) == 0:
            break
        if len(running) < path.problem.n_problems:
            path = path.select(running)
        if run.stopped:
            break
        path.require_decrease(run.sufficient_decrease)
    return run.finish(k, path.iterate() if run.under_way else None, iteration)


@dataclass
class _Problem:
    """What is known of a problem under way.

    Attributes
    ----------
    id : int
        Its place in the solution.
    done_below : float
        Log-risk below which it is done.
    prove_below : float
        Speed times size below which a proof of the risk is tried.
    proof : array of shape (n,)
        The weights that prove the least bound on its margin so far.
    sufficient_decrease : float
        Share of the predicted_decrease decrease that a step must bring.
    """

    id: int
    done_below: float
    prove_below: float
    proof: Array
    sufficient_decrease: float = 0.5


class _Run:
    """Certificates and stopping of the problems under way; a finished problem leaves the batch.

    The figures of all problems are computed together, what follows from them problem by problem.
    """

    def __init__(
        self,
        problem: RobustProblem,
        geometry: Geometry,
        loss: MarginLoss,
        stopping: Stopping,
        ids: np.ndarray,
    ) -> None:
        xp = namespace(problem.y)
        self.problem, self.geometry, self.loss, self.stopping = problem, geometry, loss, stopping
        self.recorder = Recorder(stopping.record_every, stopping.monitors)
        self.stopped = False  # by a monitor
        log_loss_tol = math.log(stopping.loss_tol) if stopping.loss_tol > 0 else -math.inf
        self.done_below = log_loss_tol - problem.log_total_weight
        starts = zip(
            ids.tolist(), self.done_below.tolist(), xp.exp(problem.log_weight), strict=True
        )
        self.under_way = [_Problem(i, below, stopping.tol, weights) for i, below, weights in starts]
        self.bounds = np.full(problem.n_problems, math.inf)  # the least on each margin so far
        # iteration at which a proof is tried for all that do not separate
        self.prove_next = _PROVE_FIRST
        self.finished: dict[int, Solution] = {}

    @property
    def sufficient_decrease(self) -> Array:
        """Share (k,) of the predicted_decrease decrease that a step must bring."""
        xp = namespace(self.done_below)
        return xp.asarray(
            [state.sufficient_decrease for state in self.under_way], dtype=self.done_below.dtype
        )

    def check(self, iteration: int, at: Iterate) -> np.ndarray:
        """Certify, store what is finished, and return the indices of the problems that go on."""
        now = at.now
        direction = at.weighted_sum / namespace(at.coef).sum(now.weights, axis=-1, keepdims=True)
        bounds = _in_double(self.geometry.distance(self.problem, direction))
        # weights of a risk of zero are no feasible ones
        tighter = (bounds < self.bounds) & (_in_double(now.log_risk) > -math.inf)
        self.bounds = np.where(tighter, bounds, self.bounds)
        sizes, margins = self._sizes_and_margins(at.coef, now)
        gaps = relative_gap(margins, self.bounds)
        near = [False] * len(self.under_way)
        if iteration >= self.prove_next:
            self.prove_next *= 2
            near = self._near(iteration, at)
        separates = (margins > 0) & (self.bounds > 0)
        figures = (
            x.tolist()
            for x in (tighter, separates, gaps, sizes, now.log_risk, at.subgradient_norm, at.step)
        )
        running = []
        for i, (state, new, separate, gap, size, log_risk, subgradient_norm, step) in enumerate(
            zip(self.under_way, *figures, strict=True)
        ):
            if new:
                state.proof = now.weights[i]
            if self.stopping.loss_tol == 0:
                state.sufficient_decrease = 1 - min(gap, 0.5)
            done = log_risk < state.done_below or gap <= self.stopping.tol
            stalled = step < _STALLED or subgradient_norm == 0 or log_risk == -math.inf
            ended = done or stalled
            # the product says nothing at w = 0
            close = size > 0 and subgradient_norm * size <= state.prove_below
            if not separate and not done and (close or stalled or near[i]):
                risk_gap, proof = self._risk_gap(i, now)
                proven = bool(np.isfinite(proof).all())
                done = risk_gap <= self.stopping.tol
                ended = ended or done or (proven and self.stopping.stop_if_not_separable)
                # closer next time; without any proof, only when the next round of attempts is due
                state.prove_below *= 0.3 if proven else 0.0
            if ended:
                self._store(i, at, iteration, converged=done)
            else:
                running.append(i)
        last = len(running) < len(self.under_way) or iteration == self.stopping.max_iter
        if last or self.recorder.due(iteration):
            self._record(iteration, at.coef, now, margins, last=last)
        rows = np.array(running, dtype=int)
        if len(rows) < len(self.under_way):
            self.problem, self.geometry = self.problem.select(rows), self.geometry.select(rows)
            self.under_way, self.done_below = (
                [self.under_way[i] for i in running],
                self.done_below[rows],
            )
            self.bounds = self.bounds[rows]
        return rows

    def show(self, iteration: int, coef: Array, now: Evaluation) -> None:
        """Record an iteration between certificates; what the run knows does not change."""
        self._record(iteration, coef, now, self._sizes_and_margins(coef, now)[1])

    def _sizes_and_margins(self, coef: Array, now: Evaluation) -> tuple[np.ndarray, np.ndarray]:
        """The size of each predictor and its margin, without the charge for rounding."""
        xp = namespace(coef)
        smallest = xp.min(
            xp.where(self.problem.log_weight > -math.inf, now.margins, math.inf), axis=-1
        )
        sizes = _in_double(self.geometry.size(coef))
        return sizes, over_size(_in_double(smallest), sizes)

    def _record(
        self,
        iteration: int,
        coef: Array,
        now: Evaluation,
        margins: np.ndarray,
        *,
        last: bool = False,
    ) -> None:
        self.stopped = self.recorder(
            iteration,
            np.array([state.id for state in self.under_way]),
            coef,
            now.intercept,
            last=last,
            log_risk=now.log_risk,
            margin=margins,
            margin_bound=self.bounds.copy(),
            gap=relative_gap(margins, self.bounds),
        )

    def finish(self, k: int, at: Iterate | None, iteration: int) -> Solution:
        """All solutions in order; what is still under way has not converged."""
        if at is not None:
            for i, near in enumerate(self._near(iteration, at)):
                self._store(i, at, iteration, converged=False, provable=near)
        return stack_solutions([self.finished[i] for i in range(k)], self.recorder.history(k))

    def _near(self, iteration: int, at: Iterate) -> list[bool]:
        """Whether a proof that the data are not separable may be near, and worth its price."""
        threat = self.problem.threat
        total_weight = namespace(at.coef).sum(at.now.weights, axis=-1)
        near = inside(
            threat,
            reachable(threat, at.weighted_sum),
            _NUDGE * self.problem.radius * total_weight,
        )
        return [True] * len(self.under_way) if iteration > _PATIENCE else near.tolist()

    def _risk_gap(self, i: int, now: Evaluation) -> tuple[float, Array]:
        """The certified relative gap of the risk of problem i, inf without a proof of
        non-separability, and that proof.
        """
        one = problem_to_numpy(self.problem.select(slice(i, i + 1)))
        proof = repaired_weights(one, to_numpy(now.weights[i : i + 1]))
        excess = float(now.log_risk[i]) - log_risk_bound(one, self.loss, proof)[0]
        return float(-np.expm1(-excess)), proof

    def _store(
        self, i: int, at: Iterate, iteration: int, *, converged: bool, provable: bool = True
    ) -> None:
        xp = namespace(at.coef)
        row = slice(i, i + 1)
        one, norm = self.problem.select(row), self.geometry.norms[i]
        coef, intercept = at.coef[row], at.now.intercept[row]
        proven = certify(one, norm, coef, self.under_way[i].proof[None], intercept)
        solution = Solution(
            coef=coef,
            intercept=intercept,
            weights=proven.weights,
            log_risk=at.now.log_risk[row],
            margin=proven.margin,
            margin_bound=proven.bound,
            gap=proven.gap,
            separable=[True],
            converged=np.array([converged]),
            n_iter=np.array([iteration]),
        )
        if not bool(proven.margin[0] > 0):
            solution.separable = [None]
            gap, proof = self._risk_gap(i, at.now) if provable else (math.inf, None)
            if proof is not None and np.isfinite(proof).all():
                solution.separable = [False]
                solution.margin_bound = xp.zeros_like(solution.margin_bound)
                solution.gap = xp.full_like(solution.gap, gap)
                solution.weights = xp.asarray(proof, dtype=coef.dtype)
        self.finished[self.under_way[i].id] = solution


def _in_double(x: Array) -> np.ndarray:
    return to_numpy(x).astype(np.float64, copy=False)


class Rule(Protocol):
    """What makes one path differ from another: its parameters and its step."""

    def coef(self, state: State) -> Array:
        """The linear predictors (k, d) that the parameters stand for."""
        ...

    def propose(
        self,
        problem: RobustProblem,
        state: State,
        coef: Array,
        now: Evaluation,
        weighted_sum: Array,
        step: Array,
    ) -> tuple[State, Array]:
        """The parameters after a step of this size (k,), and the subgradient (k, d) of the log-risk
        that it follows.
        """
        ...

    def select(self, rows: np.ndarray) -> Self:
        """The rule for the problems at these indices."""
        ...

    def subgradient_norm(self, subgradient: Array) -> Array:
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
        Factor on the step after an accepted trial; a refused one shrinks it by 0.7. None keeps the
        step constant and accepts every trial.
    """

    def __init__(
        self,
        problem: RobustProblem,
        loss: MarginLoss,
        rule: Rule,
        state: State,
        step: Array,
        growth: float | None,
    ) -> None:
        self.problem, self.loss, self.rule, self.growth = problem, loss, rule, growth
        self.state, self.step, self.first_step = state, step, step
        self.coef = rule.coef(state)
        self.now = problem.evaluate(loss, self.coef)
        self.weighted_sum = problem.weighted_sum(self.now.weights)
        self.subgradient = namespace(step).zeros_like(self.coef)
        self.sufficient_decrease = namespace(step).full_like(step, 0.5)

    def advance(self) -> None:
        """One trial step of every problem, accepted if it descends enough."""
        xp = namespace(self.coef)
        trial, self.subgradient = self.rule.propose(
            self.problem, self.state, self.coef, self.now, self.weighted_sum, self.step
        )
        coef = self.rule.coef(trial)
        then = self.problem.evaluate(self.loss, coef, near=self.now.intercept)
        if self.growth is None:
            self.state, self.coef, self.now = trial, coef, then
        else:
            predicted_decrease = xp.sum(self.subgradient * (self.coef - coef), axis=-1)
            accepted = (
                then.log_risk <= self.now.log_risk - self.sufficient_decrease * predicted_decrease
            )
            self.step = xp.where(accepted, self.growth * self.step, SHRINK * self.step)
            self.state = tuple(
                _pick(xp, accepted, new, old) for new, old in zip(trial, self.state, strict=True)
            )
            self.coef = _pick(xp, accepted, coef, self.coef)
            self.now = _each(lambda new, old: _pick(xp, accepted, new, old), then, self.now)
        self.weighted_sum = self.problem.weighted_sum(self.now.weights)

    def any_below(self, log_risk: Array) -> bool:
        """Whether the log-risk of a problem is at most its entry of this array (k,)."""
        return bool(namespace(log_risk).any(self.now.log_risk <= log_risk))

    def iterate(self) -> Iterate:
        """Where the problems are."""
        return Iterate(
            self.coef,
            self.now,
            self.weighted_sum,
            self.rule.subgradient_norm(self.subgradient),
            self.step / self.first_step,
        )

    def view(self) -> tuple[Array, Evaluation]:
        """The coefficients and the loss at them, for a record: nothing of the path changes."""
        return self.coef, self.now

    def require_decrease(self, share: Array) -> None:
        """From now on accept a trial if it brings this share (k,) of the decrease that its slope
        promises.
        """
        self.sufficient_decrease = share

    def select(self, rows: np.ndarray) -> Self:
        """The path of the problems at these indices."""
        self.problem, self.rule = self.problem.select(rows), self.rule.select(rows)
        self.state = tuple(array[rows] for array in self.state)
        self.now = _each(lambda array: array[rows], self.now)
        for name in (
            "step",
            "first_step",
            "coef",
            "weighted_sum",
            "subgradient",
            "sufficient_decrease",
        ):
            setattr(self, name, getattr(self, name)[rows])
        return self


def _pick(xp: Any, accepted: Array, new: Array, old: Array) -> Array:
    """The new rows where the trial was accepted, the old ones elsewhere."""
    if accepted.shape[0] == 1:
        return new if bool(accepted[0]) else old
    return xp.where(accepted[:, None] if new.ndim == 2 else accepted, new, old)


def _each(function: Callable[..., Array], *evaluations: Evaluation) -> Evaluation:
    """The function of each field."""
    return Evaluation(
        *(function(*(getattr(e, f.name) for e in evaluations)) for f in fields(Evaluation))
    )
