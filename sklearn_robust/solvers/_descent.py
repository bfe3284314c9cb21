"""The loop that all paths share: move, certify at intervals, end each problem on its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from sklearn_robust._array_api import Array, like, namespace, to_numpy
from sklearn_robust.certificates import (
    Certified,
    Point,
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
    Monitoring,
    Solution,
    problem_to_numpy,
    risk_gap,
    stack_solutions,
)
from sklearn_robust.threats import inside, reachable

# Iterations between certificates: 10 at first, later a tenth of those so far. A path that converges
# slowly is certified rarely.
_CHECK_EVERY = 10
_CHECK_SHARE = 10

# Attempts to prove that the data are not separable: one costs as much as a thousand iterations
# ||Z^T a||_q over eps times the total weight, up to which the weights may be near a proof
_NEAR_PROOF = 1.1
# factor on the subgradient norm times the size of w, between one attempt and the next
_NEXT_PROOF = 0.3

_STALLED = 1e-12  # step, relative to the first, below which a problem ends: rounding refuses steps

# Whether a path reaches its goal in time is judged from this iteration on, by the iterations since
# it was judged last, each time after this factor on the iterations.
_FIRST_OUTLOOK, _NEXT_OUTLOOK = 50, 1.3
_SETTLED = 2.0  # growth of the step since then up to which steps are settled: w grows no faster
_LARGE_MARGIN = 1e6  # at which a loss is below every goal
# The power of the iterations by which the gap may fall: most gaps fall with the first.
_HOPED_POWER = 2.0


@dataclass
class Iterate:
    """The iterates of the problems under way, for certificates: the first axis is the problem.

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

    @property
    def intercept(self) -> Array:
        """The best intercept for these coefficients, of shape (k,)."""
        return self.now.intercept

    @property
    def weights(self) -> Array:
        """Derivatives of -log_risk by the margins, of shape (k, n)."""
        return self.now.weights


class Path(Protocol):
    """Problems under way."""

    problem: RobustProblem

    def advance(self) -> None:
        """One iteration of every problem."""
        ...

    def iterate(self) -> Any:
        """The iterates of the problems, for certificates; rounding errors may be removed here."""
        ...

    def select(self, rows: np.ndarray) -> Self:
        """The path of the problems at these indices."""
        ...


class DescentPath(Path, Protocol):
    """Problems whose risk descends: an iteration is a trial step, accepted if it descends."""

    def iterate(self) -> Iterate:
        """The iterates of the problems; rounding errors may be removed here."""
        ...

    def any_below(self, log_risk: Array) -> bool:
        """Whether the log-risk of a problem is at most its entry of this array (k,)."""
        ...

    def view(self) -> tuple[Array, Evaluation]:
        """The coefficients and the loss at them, for a record: nothing of the path changes."""
        ...

    def require_decrease(self, share: Array) -> None:
        """From now on accept a trial if it brings this share (k,) of the predicted decrease."""
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
    gives_up : bool
        End a problem whose loss and gap fall too slowly to reach their goals within max_iter.
    """

    max_iter: int
    loss_tol: float
    tol: float
    stop_if_not_separable: bool
    record_every: int
    monitors: Sequence[Monitor] = ()
    gives_up: bool = False


P = TypeVar("P", bound=Path)


def follow(path: P, run: Run[P]) -> Solution:
    """Move all problems until each has ended, or a monitor or the limit of iterations stops them.

    Parameters
    ----------
    path : Path
        The problems, with their steps.
    run : Run
        The certificates on the way, and the end of each problem.

    Returns
    -------
    Solution
    """
    for iteration in range(1, run.stopping.max_iter + 1):
        path.advance()
        if run.certifies(iteration, path):
            running = run.check(iteration, path.iterate())
            if len(running) == 0:
                break
            if len(running) < path.problem.n_problems:
                path = path.select(running)
            run.tune(path)
        elif run.monitoring.asked_for(iteration):
            run.show(iteration, path)
        if run.stopped:
            break
    return run.finish(iteration, path)


class Run(ABC, Generic[P]):
    """Certificates, verdicts and records of k problems under way; an ended one leaves the batch.

    A subclass defines the certified numbers (`figures`), the problems that end (`verdicts`) and
    their solutions (`solution`).

    Parameters
    ----------
    problem : RobustProblem
    stopping : Stopping
    ids : ndarray of shape (k,), optional
        The place of each problem in the solution; their order by default.
    """

    # iteration at which a first proof is tried that the data are not separable; later ones follow
    # at its doubles
    first_proof: ClassVar[int]
    # iterations from which a proof is tried even where the weights are not near one
    patience: ClassVar[int]

    def __init__(
        self, problem: RobustProblem, stopping: Stopping, ids: np.ndarray | None = None
    ) -> None:
        self.problem = problem
        self.stopping = stopping
        self.ids = np.arange(problem.n_problems) if ids is None else ids
        self.monitoring = Monitoring(stopping.record_every, stopping.monitors)
        self.stopped = False  # by a monitor
        self.next_proof = self.first_proof
        self.finished: dict[int, Solution] = {}

    def certifies(self, iteration: int, path: P) -> bool:
        """Whether certificates are taken at this iteration."""
        return True

    @abstractmethod
    def figures(self, at: Any) -> dict[str, Array]:
        """The certified numbers of each problem, (k,) each, by the names of the record."""

    @abstractmethod
    def verdicts(
        self, iteration: int, at: Any, figures: dict[str, Array]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whether each problem ends here, and whether it has converged: bool of shape (k,)."""

    @abstractmethod
    def solution(self, i: int, iteration: int, at: Any, converged: bool | None) -> Solution:
        """The solution of problem i; `converged` is None where it has not come to an end."""

    def tune(self, path: P) -> None:
        """Adapt the next steps of the path to the certificates."""

    def show(self, iteration: int, path: P) -> None:
        """Record an iteration without certificates; bounds and verdicts do not change."""

    def check(self, iteration: int, at: Any) -> np.ndarray:
        """Certify, store what has ended, and return the indices of the problems that go on."""
        figures = self.figures(at)
        ended, converged = self.verdicts(iteration, at, figures)
        for i in np.flatnonzero(ended).tolist():
            self.finished[int(self.ids[i])] = self.solution(i, iteration, at, bool(converged[i]))
        last = bool(ended.any()) or iteration == self.stopping.max_iter
        if last or self.monitoring.due(iteration):
            self.report(iteration, at, figures, last=last)
        running = np.flatnonzero(~ended)
        if len(running) < len(ended):
            self.keep(running)
        return running

    def report(
        self, iteration: int, at: Any, figures: dict[str, Array], *, last: bool = False
    ) -> None:
        """Record the figures, and show them and the predictors to the monitors."""
        self.stopped = self.monitoring(
            iteration, self.ids, at.coef, at.intercept, last=last, **figures
        )

    def keep(self, rows: np.ndarray) -> None:
        """Go on with the problems at these indices."""
        self.problem = self.problem.select(rows)
        self.ids = self.ids[rows]

    def proof_due(self, iteration: int) -> bool:
        """Whether the next attempt to prove non-separability is due; each waits twice as long."""
        if iteration < self.next_proof:
            return False
        self.next_proof *= 2
        return True

    def near_proof(self, iteration: int, at: Any) -> np.ndarray:
        """Whether an attempt at a proof is worth its time, for each problem: bool of shape (k,)."""
        if iteration > self.patience:
            return np.ones(len(self.ids), dtype=bool)
        threat = self.problem.threat
        total_weight = namespace(at.coef).sum(at.weights, axis=-1)
        radius = _NEAR_PROOF * self.problem.radius * total_weight
        return to_numpy(inside(threat, reachable(threat, at.weighted_sum), radius))

    def finish(self, iteration: int, path: P) -> Solution:
        """All solutions in order; problems that are still under way have not converged."""
        if len(self.ids):
            at = path.iterate()
            for i, name in enumerate(self.ids.tolist()):
                self.finished[name] = self.solution(i, iteration, at, None)
        k = len(self.finished)
        return stack_solutions([self.finished[i] for i in range(k)], self.monitoring.history(k))


class DescentRun(Run[DescentPath]):
    """The run of a descent path, certified by its margin or, without a separator, by its risk.

    Certificates are taken every 10 iterations at first, later every tenth of the iterations so far.
    A record at another iteration takes the best bound so far, and changes no later iterate. A step
    must bring half of its predicted decrease. With loss_tol = 0, where the path goes on to its
    limit, the sufficient-decrease fraction is 1 - min(1/2, gap), with the certified gap: the step
    may lose no more than the share that is still open.

    Parameters
    ----------
    problem, stopping, ids
        As in `Run`.
    loss : MarginLoss
    geometry : Geometry
        The norms in which margins and gaps are certified.
    """

    first_proof = 64
    patience = 4000

    def __init__(
        self,
        problem: RobustProblem,
        stopping: Stopping,
        loss: MarginLoss,
        geometry: Geometry,
        ids: np.ndarray | None = None,
    ) -> None:
        super().__init__(problem, stopping, ids)
        k = problem.n_problems
        self.loss = loss
        self.geometry = geometry
        self.check_at = 1
        log_loss_tol = math.log(stopping.loss_tol) if stopping.loss_tol > 0 else -math.inf
        # log-risk below which a problem is done
        self.done_below = log_loss_tol - problem.log_total_weight
        # subgradient norm times size below which a proof of the risk is tried
        self.prove_below = np.full(k, stopping.tol)
        # the least bound on each margin so far, and the weights that prove it
        self.bounds = np.full(k, math.inf)
        self.proofs = namespace(problem.y).exp(problem.log_weight)
        # share of the predicted decrease that a step must bring
        self.sufficient_decrease = np.full(k, 0.5)
        # iteration, sizes of w and steps when the outlook was judged last
        self.outlook_at = 0
        self.last_size, self.last_step = np.zeros(k), np.ones(k)
        # log-weight of the lightest sample
        xp, log_weight = namespace(problem.y), problem.log_weight
        used = xp.where(log_weight > -math.inf, log_weight, xp.zeros_like(log_weight))
        self.lightest = xp.min(used, axis=-1)

    def certifies(self, iteration: int, path: DescentPath) -> bool:
        """Certificates are due at intervals, and where the log-risk of a problem is low enough."""
        if iteration < self.check_at and not path.any_below(self.done_below):
            return False
        pause = max(_CHECK_EVERY, iteration // _CHECK_SHARE)
        self.check_at = min(iteration + pause, self.stopping.max_iter)
        return True

    def tune(self, path: DescentPath) -> None:
        """Set the share of its predicted decrease that a step must bring."""
        path.require_decrease(like(self.done_below, self.sufficient_decrease))

    def show(self, iteration: int, path: DescentPath) -> None:
        """Record an iteration between certificates; bounds and verdicts do not change."""
        coef, now = path.view()
        self.report(iteration, Point(coef, now.weights, now.intercept), self._figures(coef, now))

    def figures(self, at: Iterate) -> dict[str, Array]:
        """Margins, and the least bounds so far."""
        self._tighten(at)
        return self._figures(at.coef, at.now)

    def _tighten(self, at: Iterate) -> None:
        """Keep the least bound D(a) on each margin, and its weights."""
        direction = at.weighted_sum / namespace(at.coef).sum(at.now.weights, axis=-1, keepdims=True)
        bounds = _in_double(self.geometry.distance(self.problem, direction))
        # where the risk is zero the weights are not feasible
        tighter = (bounds < self.bounds) & (_in_double(at.now.log_risk) > -math.inf)
        self.bounds = np.where(tighter, bounds, self.bounds)
        rows = np.flatnonzero(tighter)
        self.proofs[rows] = at.now.weights[rows]

    def _figures(self, coef: Array, now: Evaluation) -> dict[str, Array]:
        """The figures of these coefficients; margins are without the charge for rounding."""
        xp = namespace(coef)
        used = self.problem.log_weight > -math.inf
        smallest = xp.min(xp.where(used, now.margins, math.inf), axis=-1)
        margins = over_size(_in_double(smallest), _in_double(self.geometry.size(coef)))
        return {
            "log_risk": now.log_risk,
            "margin": margins,
            "margin_bound": self.bounds.copy(),
            "gap": relative_gap(margins, self.bounds),
        }

    def verdicts(
        self, iteration: int, at: Iterate, figures: dict[str, Array]
    ) -> tuple[np.ndarray, np.ndarray]:
        """A problem ends by its loss or gap, where its step stalls, or at a proof.

        The proof shows that its data are not robustly separable.
        """
        now, gap = at.now, figures["gap"]
        tol = self.stopping.tol
        log_risk, slope, step = (
            _in_double(x) for x in (now.log_risk, at.subgradient_norm, at.step)
        )
        if self.stopping.loss_tol == 0:
            self.sufficient_decrease = 1 - np.minimum(gap, 0.5)
        done = (log_risk < _in_double(self.done_below)) | (gap <= tol)
        stalled = (step < _STALLED) | (slope == 0) | (log_risk == -math.inf)
        ended = done | stalled
        next_outlook = max(_FIRST_OUTLOOK, _NEXT_OUTLOOK * self.outlook_at)
        if self.stopping.gives_up and iteration >= next_outlook:
            ended |= self._hopeless(iteration, _in_double(self.geometry.size(at.coef)), gap, step)
        proof_due = self.proof_due(iteration)
        undecided = ~done & ~((figures["margin"] > 0) & (self.bounds > 0))
        if not undecided.any():
            return ended, done
        # the log-risk is within slope * size of its minimum; at w = 0 the product is 0 and no bound
        size = _in_double(self.geometry.size(at.coef))
        likely = stalled | ((size > 0) & (slope * size <= self.prove_below))
        if proof_due:
            likely |= self.near_proof(iteration, at)
        for i in np.flatnonzero(likely & undecided).tolist():
            risk_gap, proof = self._risk_gap(i, now)
            done[i] = risk_gap <= tol
            ended[i] |= done[i] or (proof is not None and self.stopping.stop_if_not_separable)
            # a smaller product before the next attempt; without any proof, not before one is due
            self.prove_below[i] *= 0.0 if proof is None else _NEXT_PROOF
        return ended, done

    def _hopeless(
        self, iteration: int, size: np.ndarray, gap: np.ndarray, step: np.ndarray
    ) -> np.ndarray:
        """Whether neither the loss nor the gap of a problem is on its way to its goal: bool of
        shape (k,). The first time is only noted.

        No margin exceeds D(a) ||w||_p, and ||w||_p grows no faster than since the last time: so
        much less the loss of the sample of least margin cannot become.
        """
        noted, max_iter = self.outlook_at, self.stopping.max_iter
        growth = (size - self.last_size) / (iteration - noted)
        settled = step <= _SETTLED * self.last_step
        self.outlook_at = iteration
        self.last_size, self.last_step = size, step
        margin = self.bounds * (size + growth * (max_iter - iteration))
        margin = like(self.lightest, np.minimum(margin, _LARGE_MARGIN))
        least, _ = self.loss.log_risk_and_weights(margin[:, None], self.lightest[:, None])
        hoped_gap = gap * (iteration / max_iter) ** _HOPED_POWER
        late = to_numpy(least > self.done_below) & (hoped_gap > self.stopping.tol)
        return (noted > 0) & settled & late

    def keep(self, rows: np.ndarray) -> None:
        """Go on with the problems at these indices."""
        super().keep(rows)
        self.geometry = self.geometry.select(rows)
        for name in (
            "done_below",
            "prove_below",
            "bounds",
            "proofs",
            "sufficient_decrease",
            "lightest",
            "last_size",
            "last_step",
        ):
            setattr(self, name, getattr(self, name)[rows])

    def solution(self, i: int, iteration: int, at: Iterate, converged: bool | None) -> Solution:
        """Problem i certified by its least bound, or with the proof that it is not separable."""
        proven = self._proven(i, at)
        separable = True if bool(proven.margin[0] > 0) else None
        solution = Solution.of(
            proven,
            at.now.log_risk[i : i + 1],
            separable=separable,
            converged=bool(converged),
            n_iter=iteration,
        )
        # where a path is given up the exact separator decides
        left_open = converged is None or (self.stopping.gives_up and not converged)
        if separable or (left_open and not self.near_proof(iteration, at)[i]):
            return solution
        gap, proof = self._risk_gap(i, at.now)
        if proof is None:
            return solution
        return solution.not_separable(gap, proof, converged=bool(converged))

    def _proven(self, i: int, at: Iterate) -> Certified:
        """The predictor of problem i with its least bound."""
        row = slice(i, i + 1)
        return certify(
            self.problem.select(row),
            self.geometry.norms[i],
            at.coef[row],
            self.proofs[row],
            at.intercept[row],
        )

    def _risk_gap(self, i: int, now: Evaluation) -> tuple[float, Array | None]:
        """The certified relative gap of the risk of problem i, and the weights (1, n) that prove
        it.

        They are inf and None without a proof that the data are not separable.
        """
        one = problem_to_numpy(self.problem.select(slice(i, i + 1)))
        proof = repaired_weights(one, to_numpy(now.weights[i : i + 1]))
        if not np.isfinite(proof).all():
            return math.inf, None
        bound = float(log_risk_bound(one, self.loss, proof)[0])
        return risk_gap(bound, float(now.log_risk[i])), like(now.weights, proof)


def _in_double(x: Array) -> np.ndarray:
    return to_numpy(x).astype(np.float64, copy=False)
