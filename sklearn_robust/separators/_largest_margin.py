"""The largest robust margin of a problem: which solver to ask, and what its answer proves on the user's own data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sklearn_robust.certificates import margin_bound, proves_separable, robust_margin
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators._margin_program import MarginProgram, PrimalDual, SolverFailure, Vector, best_intercept
from sklearn_robust.separators.cone_program import solve_cone_program
from sklearn_robust.separators.interior_point import solve_interior_point
from sklearn_robust.separators.linear_program import solve_linear_program
from sklearn_robust.separators.polish import newton_step
from sklearn_robust.separators.quadratic_program import solve_quadratic_program

_NOTHING = 1e-8  # bound, over the largest ||z_i||_p*, below which data without a positive margin so far are hardly separable
_POLISH_ROUNDS = 12
_PATIENCE = 3  # rounds of polish without a smaller gap

Solver = Callable[[MarginProgram], PrimalDual]


@dataclass(frozen=True)
class Answer:
    """A predictor and weights with the bounds they prove: margin <= largest margin <= bound.

    Attributes
    ----------
    coef : ndarray of shape (d,)
        With a smallest robust margin of 1 where that is positive.
    intercept : float
    weights : ndarray of shape (n,)
        Feasible: on the simplex, and of equal class sums with an intercept.
    margin : float
        Smallest robust margin over ||w||_p, -inf for w = 0; 0 where it is positive only by rounding.
    bound : float
    solver : str
        What the predictor came from.
    """

    coef: Vector
    intercept: float
    weights: Vector
    margin: float
    bound: float
    solver: str

    @property
    def gap(self) -> float:
        """Relative gap of the margin; inf where there is none."""
        return max(0.0, 1 - self.margin / self.bound) if self.margin > 0 and self.bound > 0 else math.inf

    def merged(self, other: Answer | None) -> Answer:
        """The better predictor with the better proof."""
        if other is None:
            return self
        primal = self if self.margin >= other.margin else other
        dual = self if self.bound <= other.bound else other
        return Answer(primal.coef, primal.intercept, dual.weights, primal.margin, dual.bound, primal.solver)


def default_tol(problem: RobustProblem, norm: LpNorm) -> float:
    """The gap that the kind of program can be expected to reach: 1e-8, or 1e-6 with cones."""
    program = scaled_program(problem, norm)
    return 1e-8 if _is_linear(program) or (norm.p == 2 and _has_linear_penalty(program)) else 1e-6


def largest_margin(problem: RobustProblem, norm: LpNorm, tol: float) -> Answer:
    """Ask one solver after another, polish, and stop at a certified gap of tol, or where the margin is as good as zero.

    Raises
    ------
    RuntimeError
        If every solver failed.
    """
    program = scaled_program(problem, norm)
    answer, failures = None, []
    for name, solve in _solvers(program):
        try:
            point = solve(program)
        except SolverFailure as failure:
            failures.append(f"{name}: {failure}")
            continue
        answer = polished(problem, norm, certify(problem, norm, point, name).merged(answer), tol)
        if answer.gap <= tol or (answer.margin <= 0 and answer.bound <= _NOTHING * largest_row(problem, norm)):
            break
    if answer is None:
        raise RuntimeError(f"No solver returned an answer ({'; '.join(failures)}). Rescale the features of X.")
    return answer


def certify(problem: RobustProblem, norm: LpNorm, point: PrimalDual, solver: str) -> Answer:
    """What a direction, with its best intercept, and weights, made feasible, prove."""
    coef, y = point.coef, problem.y[0]
    intercept = best_intercept(problem.signed_scores(coef[None])[0], y) if problem.fit_intercept else 0.0
    margin = float(robust_margin(problem, norm, coef[None], np.array([intercept]))[0])
    if proves_separable(problem, coef[None], np.array([intercept]))[0]:
        smallest = problem.margins(coef[None], np.array([intercept])).min()
        coef, intercept = coef / smallest, intercept / smallest
    else:
        margin = min(margin, 0.0)
    weights = np.maximum(point.weights, 0)
    for members in (y > 0, y < 0) if problem.fit_intercept else (np.full(y.shape, True),):
        if not weights[members].any():
            weights[members] = 1.0
    weights = problem.balanced(weights[None])
    return Answer(coef, float(intercept), weights[0], margin, float(margin_bound(problem, norm, weights)[0]), solver)


def polished(problem: RobustProblem, norm: LpNorm, answer: Answer, tol: float) -> Answer:
    """The best of the answer and of Newton steps from it, which end at a gap of tol or where they no longer help."""
    program, point, misses = scaled_program(problem, norm), answer, 0
    for _ in range(_POLISH_ROUNDS):
        if answer.gap <= tol or misses == _PATIENCE:
            break
        moved = newton_step(program, PrimalDual(point.coef, point.weights))
        if moved is None:
            break
        point = certify(problem, norm, moved, f"{answer.solver.removesuffix(' + polish')} + polish")
        misses = 0 if point.merged(answer).gap < answer.gap else misses + 1
        answer = point.merged(answer)
    return answer


def largest_row(problem: RobustProblem, norm: LpNorm) -> float:
    """The largest p*-norm of a sample: no margin can exceed it, and rounding is relative to it."""
    if not sparse.issparse(problem.X):
        return float(norm.dual.value(problem.X).max())
    entries = abs(problem.X)
    largest = float(entries.max())
    if norm.dual.p == math.inf or largest == 0:
        return largest
    return float(largest * (entries / largest).power(norm.dual.p).sum(axis=1).max() ** (1 / norm.dual.p))


def scaled_program(problem: RobustProblem, norm: LpNorm) -> MarginProgram:
    """The problem as solvers like it: in units of the rows' root mean square, and centred where that changes nothing."""
    problem, _ = problem.standardised()
    y, eps, dual_q = problem.y[0], float(problem.threat.eps[0]), problem.threat.dual_norm.p
    rows = sparse.csr_array(sparse.diags_array(y) @ problem.X) if sparse.issparse(problem.X) else y[:, None] * problem.X
    if math.isclose(norm.p, dual_q, rel_tol=1e-12):
        eps = 0.0  # the adversary then shifts every margin alike
    return MarginProgram(rows, y if problem.fit_intercept else None, norm.p, dual_q, eps)


def _has_linear_penalty(program: MarginProgram) -> bool:
    return program.eps == 0 or program.dual_q in (1, math.inf)


def _is_linear(program: MarginProgram) -> bool:
    return program.p in (1, math.inf) and _has_linear_penalty(program)


def _solvers(program: MarginProgram) -> list[tuple[str, Solver]]:
    """The dense engine, then the library's solver of the simplest program that fits, then the general one."""
    general: list[tuple[str, Solver]] = [("cone program", solve_cone_program)]
    if _is_linear(program):
        general.insert(0, ("linear program", solve_linear_program))
    elif program.p == 2:
        general.insert(0, ("quadratic program", solve_quadratic_program))
    if not sparse.issparse(program.rows):
        general.insert(0, ("interior point", solve_interior_point))
    return general
