"""The `Solution` that every solver returns, the monitoring of solvers, and array conversions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from sklearn_robust._array_api import Array, namespace, to_numpy
from sklearn_robust.certificates import Certified, Point
from sklearn_robust.problems import RobustProblem


@dataclass(frozen=True, kw_only=True)
class Solution(Point):
    """Certified predictors of k problems: the points at which a solver ended.

    Attributes
    ----------
    coef : array of shape (k, d)
    intercept : array of shape (k,)
    weights : array of shape (k, n)
        Dual weights, of sum 1, that prove `margin_bound` (separable) or the bound on the risk (not
        separable).
    log_risk : array of shape (k,)
        Logarithm of the robust risk (the weighted mean of the losses).
    margin : array of shape (k,)
        Robust margin min_i m_i(w) / ||w||_p.
    margin_bound : array of shape (k,)
        No predictor has a larger margin; 0 where the data are proven not to be robustly separable.
    gap : array of shape (k,)
        Separable: 1 - margin / margin_bound. Not separable: 1 - (lower bound on the risk) / risk;
        inf if nothing is proven.
    separable : list of k of {True, False, None}
        True and False are proven, by the predictor and by the weights; None is undecided.
    converged : array of shape (k,)
        Whether a stopping criterion was met.
    n_iter : array of shape (k,)
    history : dict of str to array of shape (t, k)
        Recorded on request: iteration, log_risk, margin, margin_bound, gap.
    """

    log_risk: Array
    margin: Array
    margin_bound: Array
    gap: Array
    separable: list[bool | None]
    converged: Array
    n_iter: Array
    history: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        figures = f"margin={self.margin}, margin_bound={self.margin_bound}, gap={self.gap}"
        return f"Solution(separable={self.separable}, {figures}, n_iter={self.n_iter})"

    @classmethod
    def of(
        cls,
        proven: Certified,
        log_risk: Array,
        *,
        separable: bool | None,
        converged: bool,
        n_iter: int,
    ) -> Solution:
        """The solution of one problem, k = 1, from its certified point."""
        return cls(
            coef=proven.coef,
            intercept=proven.intercept,
            weights=proven.weights,
            log_risk=log_risk,
            margin=proven.margin,
            margin_bound=proven.bound,
            gap=proven.gap,
            separable=[separable],
            converged=np.array([converged]),
            n_iter=np.array([n_iter]),
        )

    def not_separable(
        self, gap: float, weights: Array | None = None, *, converged: bool
    ) -> Solution:
        """The same predictor of one problem that is proven not to be robustly separable.

        Its bound is 0, and its gap is that of the risk.
        """
        xp = namespace(self.coef)
        return replace(
            self,
            weights=self.weights if weights is None else weights,
            margin_bound=xp.zeros_like(self.margin_bound),
            gap=xp.full_like(self.gap, gap),
            separable=[False],
            converged=np.array([converged]),
        )

    def rows(self, rows: np.ndarray) -> Solution:
        """The solution of the problems at these indices, without history."""
        parts: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return Solution(**parts, separable=[self.separable[i] for i in rows])


# the fields of a solution that are arrays, the first axis the problem
_ARRAYS = [f.name for f in fields(Solution) if f.name not in ("separable", "history")]


_ROUNDING = 1e-13  # rounding of the logarithm of a bound


def risk_gap(log_bound: float, log_risk: float) -> float:
    """The relative gap 1 - (lower bound on the risk) / risk, from their logarithms; 1 without a
    bound.

    A bound that exceeds the risk by rounding leaves no gap; one that exceeds it by more is false,
    and shows as a negative gap.
    """
    excess = log_bound - log_risk
    return 0.0 if 0 < excess <= _ROUNDING else -math.expm1(min(excess, 1.0))


def problem_to_numpy(problem: RobustProblem) -> RobustProblem:
    """The same problem on NumPy (or scipy.sparse) arrays."""
    if isinstance(problem.y, np.ndarray):
        return problem
    return problem.mapped(
        to_numpy, problem.X if sparse.issparse(problem.X) else to_numpy(problem.X)
    )


def solution_to_numpy(solution: Solution) -> Solution:
    """The same solution on NumPy arrays."""
    changes: dict[str, Any] = {name: to_numpy(getattr(solution, name)) for name in _ARRAYS}
    return replace(solution, **changes)


def stack_solutions(
    solutions: Sequence[Solution], history: dict[str, Any] | None = None
) -> Solution:
    """One solution of k problems from solutions of some of them each, in order."""
    merged: dict[str, Any] = {}
    for name in _ARRAYS:
        parts = [getattr(solution, name) for solution in solutions]
        # the weights of one problem may be larger than the data: they are not copied
        merged[name] = parts[0] if len(parts) == 1 else namespace(parts[0]).concat(parts, axis=0)
    separable = [flag for solution in solutions for flag in solution.separable]
    return Solution(**merged, separable=separable, history=history or {})


class Monitor(Protocol):
    """Callback that receives the iterates of a solver."""

    # iterations between two calls; with 0 only where the solver certifies of its own accord
    every: int

    def __call__(self, iteration: int, ids: np.ndarray, figures: dict[str, Array]) -> bool:
        """Whether to stop the solver.

        `figures` are coef, intercept and the recorded figures of each problem under way.
        """
        ...


@dataclass
class _Schedule:
    """The iterations of a record: the first, then each multiple of `every`.

    Where `every` is 0, the next is due after another tenth of those so far.
    """

    every: int
    due_at: int = 0

    def passed(self, iteration: int) -> None:
        """Set the next iteration after this one."""
        every = self.every
        self.due_at = (
            every * (iteration // every + 1) if every else iteration + max(1, iteration // 10)
        )


class Monitoring:
    """The history and the monitors of a solver.

    The history holds figures of the problems under way, every so many iterations; nan once a
    problem has left the batch. Each monitor sees figures and predictors at iterations of its own.
    """

    def __init__(self, every: int, monitors: Sequence[Monitor] = ()) -> None:
        self.every, self.monitors = every, monitors
        self.rewind()
        self._rows: list[tuple[int, np.ndarray, dict[str, np.ndarray]]] = []

    def __call__(
        self,
        iteration: int,
        ids: np.ndarray,
        coef: Array,
        intercept: Array,
        *,
        last: bool = False,
        **figures: Array,
    ) -> bool:
        """Record and show an iteration where it is due; whether a monitor stops the solver.

        The monitors see the `last` iteration of a problem in any case.
        """
        if self.every and iteration >= self._history.due_at:
            self._history.passed(iteration)
            self._rows.append(
                (iteration, ids, {name: to_numpy(value).copy() for name, value in figures.items()})
            )
        stop = False
        for monitor, schedule in zip(self.monitors, self._schedules, strict=True):
            if last or iteration >= schedule.due_at:
                schedule.passed(iteration)
                stop |= monitor(iteration, ids, {"coef": coef, "intercept": intercept, **figures})
        return stop

    def due(self, iteration: int) -> bool:
        """Whether this iteration is recorded or shown."""
        return self.asked_for(iteration) or any(
            iteration >= schedule.due_at for schedule in self._schedules
        )

    def asked_for(self, iteration: int) -> bool:
        """Whether this iteration is due where the solver does not certify of its own accord."""
        return any(
            schedule.every and iteration >= schedule.due_at
            for schedule in (self._history, *self._schedules)
        )

    def rewind(self) -> None:
        """Begin at iteration 0 again, for the next of several problems solved one by one."""
        self._history = _Schedule(self.every)
        self._schedules = [_Schedule(monitor.every) for monitor in self.monitors]

    def history(self, k: int) -> dict[str, np.ndarray]:
        """Arrays of shape (t, k) by name, and "iteration" of shape (t,)."""
        if not self._rows:
            return {}
        iterations, times = np.unique([row[0] for row in self._rows], return_inverse=True)
        history = {"iteration": iterations}
        for name in self._rows[0][2]:
            history[name] = np.full((len(iterations), k), np.nan)
            for t, (_, ids, figures) in zip(times, self._rows, strict=True):
                history[name][t, ids] = figures[name]
        return history
