r"""The minimiser of the robust risk where the data are not robustly separable.

Newton's method on the log-risk comes with the weights that certify it. For many columns, and rows
that offer products only, a quasi-Newton method comes first where q is 1 or 2; L-BFGS-B takes over
where both stop short. All three serve l_q balls; for any other conic set the step of Newton's
method is a cone program, and for samples with very many sets the whole problem is one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_robust._adversaries import Boxes, Slots
from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._own_sets import OwnSets
from sklearn_robust.certificates import over_size, repaired_weights, robust_margin
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers._risk_boxes import minimise_on_boxes, newton_on_boxes
from sklearn_robust.solvers._risk_columns import minimise_on_columns, spread, uses_few_columns
from sklearn_robust.solvers._risk_conic import conic_newton
from sklearn_robust.solvers._risk_lbfgs import lbfgs
from sklearn_robust.solvers._risk_newton import newton
from sklearn_robust.solvers._risk_programs import minimise_by_program, takes_program
from sklearn_robust.solvers._risk_quasi_newton import affordable_iterations, quasi_newton, serves
from sklearn_robust.solvers._risk_sample import sample_of, sample_tol
from sklearn_robust.solvers.solution import (
    Monitor,
    Monitoring,
    Solution,
    risk_gap,
    stack_solutions,
)
from sklearn_robust.threats import ProximalThreat, is_ball, offers

# Iterations of Newton's method after which L-BFGS-B continues; a few are usual.
_NEWTON_ITERATIONS = 200
_FEW_SAMPLES = 2  # samples of a set, on average, below which one program of all comes first


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
        k problems, on NumPy or scipy.sparse data, or on `Rows` of a kind of your own.
    loss : MarginLoss
    norm : LpNorm
        Only measures the margin that is reported: the minimiser does not depend on it.
    max_iter : int
        Iterations at most.
    tol : float
        Certified relative gap of the risk to reach.
    coef_init : ndarray of shape (k, d), optional
        Starts. By default problems that differ in their radius alone form a path: the largest
        radius starts at zero, and each smaller one at the minimiser of the radius before.
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
    # double arithmetic, so that the gap does not depend on the type of the data
    double = problem.simplified().in_double_arithmetic()
    monitoring = Monitoring(record_every, monitors)
    alike = _first_alike(double)
    solutions: dict[int, Solution] = {}
    last: dict[int, np.ndarray] = {}  # for each kind of problem the minimiser at the last radius
    stopped = False
    for i in np.argsort(-problem.radius, kind="stable").tolist():
        row = slice(i, i + 1)
        one = _OneProblem(
            double.select(row),
            loss,
            norm,
            proof=None if proof is None else proof[row],
            dtype=problem.y.dtype,
            tol=tol,
            max_iter=max_iter,
            record=_Record(monitoring, i),
        )
        if coef_init is not None:
            start = coef_init[row].astype(np.float64)
        else:
            start = last.get(alike[i], np.zeros((1, problem.n_features)))
        if stopped:
            solutions[i] = one.certified(start)
            continue
        monitoring.rewind()
        solutions[i], stopped = one.minimised(start)
        if solutions[i].separable[0] is not None:
            last[alike[i]] = solutions[i].coef.astype(np.float64)
    return stack_solutions(
        [solutions[i] for i in range(problem.n_problems)], monitoring.history(problem.n_problems)
    )


def _first_alike(problem: RobustProblem) -> list[int]:
    """For each problem the first one of the same labels and weights."""
    first: list[int] = []
    for i, (y, log_weight) in enumerate(zip(problem.y, problem.log_weight, strict=True)):
        same = (
            j
            for j in dict.fromkeys(first)
            if np.array_equal(problem.y[j], y) and np.array_equal(problem.log_weight[j], log_weight)
        )
        first.append(next(same, i))
    return first


class _Stopped(Exception):
    """A monitor has stopped the solver at this iteration."""

    def __init__(self, iteration: int, coef: np.ndarray) -> None:
        super().__init__()
        self.iteration, self.coef = iteration, coef


@dataclass(frozen=True)
class _Record:
    """The monitoring of problem i."""

    monitoring: Monitoring
    i: int

    def due(self, iteration: int) -> bool:
        """Whether this iteration is recorded or shown."""
        return self.monitoring.due(iteration)

    def __call__(self, iteration: int, state: Solution, *, last: bool = False) -> bool:
        """Record and show the figures of an iteration; whether a monitor stops the solver."""
        return self.monitoring(
            iteration,
            np.array([self.i]),
            state.coef,
            state.intercept,
            last=last,
            log_risk=state.log_risk,
            margin=state.margin,
            margin_bound=state.margin_bound,
            gap=state.gap,
        )


@dataclass(frozen=True)
class _RecordOfColumns:
    """The record of a problem on some of the columns, after so many iterations of others.

    What weights prove there they need not prove of all columns: certificates are of the whole.
    """

    whole: _OneProblem
    columns: np.ndarray
    before: int

    def due(self, iteration: int) -> bool:
        """Whether this iteration is recorded or shown."""
        return self.whole.record.due(self.before + iteration)

    def __call__(self, iteration: int, state: Solution, *, last: bool = False) -> bool:
        """Record and show the figures of an iteration; whether a monitor stops the solver."""
        whole = self.whole
        coef = spread(state.coef, self.columns, whole.problem.n_features)
        return whole.record(self.before + iteration, whole.certified(coef), last=last)


@dataclass(frozen=True)
class _OneProblem:
    """One problem in double arithmetic, and the criteria for its minimiser.

    Attributes
    ----------
    problem : RobustProblem
    loss : MarginLoss
    norm : LpNorm
        The norm in which the margin is measured.
    proof : ndarray of shape (1, n) or None
        Weights that prove that the problem is not robustly separable.
    dtype : dtype
        The type to which predictors are rounded.
    tol : float
        Certified relative gap of the risk to reach.
    max_iter : int
    record : _Record or _RecordOfColumns
    """

    problem: RobustProblem
    loss: MarginLoss
    norm: LpNorm
    proof: np.ndarray | None
    dtype: Any
    tol: float
    max_iter: int
    record: _Record | _RecordOfColumns

    def minimised(self, start: np.ndarray) -> tuple[Solution, bool]:
        """The solution, and whether a monitor has stopped the solver."""
        try:
            solution, coef, n_iter = self._search(start)
        except _Stopped as stop:
            stopped_at = np.array([stop.iteration])
            return replace(self.certified(stop.coef), n_iter=stopped_at), True
        if solution is None:
            solution = self.certified(coef)
        solution = replace(solution, converged=solution.gap <= self.tol, n_iter=np.array([n_iter]))
        return solution, self.record(n_iter, solution, last=True)

    def _search(self, start: np.ndarray) -> tuple[Solution | None, np.ndarray, int]:
        """The methods in turn: quasi-Newton, Newton's, L-BFGS-B, and Newton's again."""
        if isinstance(self.problem.adversary, Boxes):
            return self._search_on_boxes(start)
        if isinstance(self.problem.adversary, OwnSets):
            return self._search_by_program(start)
        solution: Solution | None = None
        coef, n_iter = start, 0
        program_first = self._has_many_sets and self._takes_program
        if program_first:
            found, coef, n_iter = self._search_by_program(start)
            if not self._proves_nothing(found):
                return found, coef, n_iter
        if self._against_ball and uses_few_columns(self.problem):
            solution, coef, n_iter = minimise_on_columns(
                self.problem,
                self.loss,
                start,
                max_iter=self.max_iter,
                solve=self._on_columns,
                certify=self.certified,
            )
            if solution is not None:
                return solution, coef, n_iter
        near: float | None = None
        if not coef.any():
            coef, near = self._sampled_start(coef)
        if self._against_ball and serves(self.problem):
            solution, coef, more = self._quasi_newton(coef, before=n_iter, near=near)
            n_iter += more
            near = near if more == 0 else None
        if solution is None and n_iter < self.max_iter:
            solution, coef, more = self._newton(coef, before=n_iter, near=near)
            n_iter += more
        if solution is None and n_iter < self.max_iter and self._against_ball:
            coef, more = lbfgs(
                self.problem,
                self.loss,
                coef,
                max_iter=self.max_iter - n_iter,
                record=self._record_from(n_iter),
            )
            n_iter += more
            solution, coef, more = self._newton(coef, before=n_iter)
            n_iter += more
        left = self._proves_nothing(solution) and n_iter < self.max_iter
        if left and self._takes_program and not program_first:
            found, reached, more = self._search_by_program(coef)
            if found is not None:
                return found, reached, n_iter + more
        return solution, coef, n_iter

    def _on_columns(
        self, part: RobustProblem, start: np.ndarray, columns: np.ndarray, before: int
    ) -> tuple[Solution | None, np.ndarray, int]:
        """The minimiser on some columns, from a start there, after so many iterations."""
        record = _RecordOfColumns(self, columns, before)
        one = replace(self, problem=part, max_iter=self.max_iter - before, record=record)
        try:
            return one._search(start)
        except _Stopped as stop:
            coef = spread(stop.coef, columns, self.problem.n_features)
            raise _Stopped(stop.iteration + before, coef) from None

    def _sampled_start(self, start: np.ndarray) -> tuple[np.ndarray, float | None]:
        """The minimiser of the risk of a sample of the rows and its intercept, where there is one
        that helps.
        """
        sample = sample_of(self.problem) if self._against_ball else None
        if sample is None:
            return start, None
        one = replace(
            self,
            problem=sample,
            proof=None,
            tol=sample_tol(sample, self.tol),
            max_iter=min(self.max_iter, _NEWTON_ITERATIONS),
            record=_Record(Monitoring(0), 0),
        )
        solution, coef, _ = one._search(start)
        if solution is None or solution.separable[0] is not False:
            return start, None
        return coef, float(solution.intercept[0])

    @staticmethod
    def _proves_nothing(solution: Solution | None) -> bool:
        return solution is None or solution.separable[0] is None

    @property
    def _has_many_sets(self) -> bool:
        """Whether the program of a Newton step is about as large as that of all samples."""
        adversary = self.problem.adversary
        if not isinstance(adversary, Slots):
            return False
        return _FEW_SAMPLES * len(adversary.slots) > self.problem.y.shape[1]

    @property
    def _takes_program(self) -> bool:
        """Whether one cone program of all samples serves the problem."""
        return isinstance(self.problem.adversary, Slots) and takes_program(
            JointProblem.of_two_classes(self.problem), self.loss
        )

    def _search_on_boxes(self, start: np.ndarray) -> tuple[Solution | None, np.ndarray, int]:
        """L-BFGS-B, and where it stops short Newton's method with a cone program as its step."""
        settings: dict[str, Any] = {"tol": self.tol, "certify": self.certified}
        solution, coef, n_iter = minimise_on_boxes(
            self.problem,
            self.loss,
            start,
            max_iter=self.max_iter,
            record=self._record_from(0),
            **settings,
        )
        if solution is not None or n_iter >= self.max_iter:
            return solution, coef, n_iter
        solution, coef, more = newton_on_boxes(
            self.problem,
            self.loss,
            coef,
            max_iter=min(self.max_iter - n_iter, _NEWTON_ITERATIONS),
            record=self._record_from(n_iter),
            **settings,
        )
        return solution, coef, n_iter + more

    def _search_by_program(self, start: np.ndarray) -> tuple[Solution | None, np.ndarray, int]:
        """One cone program of all samples, whose sets are too many for Newton's method."""
        joint = JointProblem.of_two_classes(self.problem)
        try:
            coef, weights, _ = minimise_by_program(joint, self.loss)
        except SolverFailure as failure:
            from sklearn.exceptions import ConvergenceWarning  # workers spare its memory

            warnings.warn(
                f"The cone program of the robust risk failed ({failure}). Standardise X.",
                ConvergenceWarning,
                stacklevel=2,
            )
            return None, start, 0
        coef = coef[1:] - coef[:1]
        of_samples = None if weights is None else weights.sum(axis=0)[None]
        return self.certified(coef, of_samples), coef, 1

    @property
    def _against_ball(self) -> bool:
        """Whether the samples have multiples of one l_q ball."""
        return self.problem.shares_set and is_ball(self.problem.threat)

    def _quasi_newton(
        self, start: np.ndarray, *, before: int, near: float | None
    ) -> tuple[Solution | None, np.ndarray, int]:
        """The quasi-Newton method, for no longer than Newton's method takes."""
        return quasi_newton(
            self.problem,
            self.loss,
            start,
            max_iter=int(min(self.max_iter - before, affordable_iterations(self.problem))),
            tol=self.tol,
            certify=self.certified,
            record=self._record_from(before),
            near=near,
        )

    def _newton(
        self, start: np.ndarray, *, before: int, near: float | None = None
    ) -> tuple[Solution | None, np.ndarray, int]:
        """Newton's method, after so many iterations of others."""
        settings: dict[str, Any] = {
            "max_iter": min(self.max_iter - before, _NEWTON_ITERATIONS),
            "tol": self.tol,
            "certify": self.certified,
            "record": self._record_from(before),
        }
        if self._against_ball:
            return newton(self.problem, self.loss, start, near=near, **settings)
        return conic_newton(self.problem, self.loss, start, **settings)

    def _record_from(self, before: int) -> Callable[..., None]:
        """The record of a solver that starts after so many iterations of others."""

        def record(iteration: int, coef: np.ndarray, weights: np.ndarray | None = None) -> None:
            iteration += before
            if self.record.due(iteration) and self.record(iteration, self.certified(coef, weights)):
                raise _Stopped(iteration, coef)

        return record

    def certified(
        self,
        coef: np.ndarray,
        weights: np.ndarray | None = None,
        near: float | None = None,
        bound: np.ndarray | None = None,
    ) -> Solution:
        """The predictor, rounded to the dtype, with its margin and its relative gap of the risk.

        The gap is 1 - (lower bound on the risk) / risk. `weights` (1, n) are dual feasible; without
        them those of the predictor are repaired. `near` is a guess of the intercept; `bound` (1,)
        the bound on the log-risk that the weights prove, where it is known.
        """
        problem, loss = self.problem, self.loss
        coef = coef.astype(self.dtype).astype(np.float64)
        now = problem.evaluate(loss, coef, near=None if near is None else np.array([near]))
        intercept, log_risk = now.intercept, now.log_risk
        found = now.weights
        used = np.where(problem.log_weight > -math.inf, now.margins, math.inf)
        margin = over_size(used.min(axis=-1), self.norm.value(coef))
        if margin[0] > 0:  # a proof of separability, if it withstands its rounding
            margin = robust_margin(problem, self.norm, coef, intercept, used)
        del now, used  # as long as the samples; a repair takes several more
        projects = problem.shares_set and offers(problem.threat, ProximalThreat)
        if weights is None and margin[0] <= 0 and projects:
            weights = repaired_weights(problem, found, self.proof)
        if weights is not None and np.isfinite(weights).all():
            if bound is None:
                scale = log_risk + np.log(found.sum(axis=-1))  # the best one at the minimiser
                bound = loss.log_risk_bound(weights, problem.log_weight, scale)
            gap = np.array([risk_gap(float(bound[0]), float(log_risk[0]))])
            separable: bool | None = False
        else:
            weights = problem.balanced(found)
            gap = np.full(1, np.inf)
            separable = True if margin[0] > 0 else None
        return Solution(
            coef=coef.astype(self.dtype),
            intercept=intercept.astype(self.dtype),
            weights=weights,
            log_risk=log_risk.astype(self.dtype),
            margin=margin.astype(self.dtype),
            margin_bound=np.full(1, 0.0 if separable is False else np.inf, dtype=self.dtype),
            gap=gap,
            separable=[separable],
            converged=np.array([False]),
            n_iter=np.array([0]),
        )
