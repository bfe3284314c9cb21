"""The largest robust margin of a problem: which solver to ask, and what its answer proves on the
user's own data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import norm as sparse_norm

from sklearn_robust.certificates import Certified, Point, cancelling_weights, certify
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.scaled_norms import WeightedNorm
from sklearn_robust.separators import (
    interior_point,
    linear_program,
    nearest_point,
    semismooth_newton,
)
from sklearn_robust.separators._max_margin_form import (
    MaxMarginForm,
    SolverFailure,
    Vector,
)
from sklearn_robust.separators.cone_program import solve_cone_program, solve_quadratic_program
from sklearn_robust.separators.interior_point import solve_interior_point
from sklearn_robust.separators.linear_program import solve_linear_program
from sklearn_robust.separators.nearest_point import solve_nearest_point
from sklearn_robust.separators.refinement import EXACT, refined
from sklearn_robust.separators.semismooth_newton import solve_semismooth_newton
from sklearn_robust.separators.working_sets import (
    solve_on_column_sets,
    solve_on_row_sets,
    suits_column_sets,
    suits_row_sets,
)
from sklearn_robust.threats import LpBall

DEFAULT_TOL = 1e-8  # certified relative gap of a separator

# bound, over the largest ||z_i||_p*, below which data without a positive margin so far are hardly
# separable
_NOTHING = 1e-12
_MAX_RATIOS = 30  # of Dinkelbach's method, which converges superlinearly
_MAX_RATIO_ENTRIES = 100_000  # entries up to which it may refine other answers
_SLOW_RATIO = 0.01  # of tol: the relative growth of the ratio that ends it
# share of a coordinate of Z^T a in its terms below which weights may be moved to make it 0
_CANCELLING = 1e-6
_BEYOND_RATIO = (0.5 * DEFAULT_TOL, 1e-6, 1e-4)


def largest_margin(
    problem: RobustProblem, norm: LpNorm, tol: float, *, start: Vector | None = None
) -> Certified:
    """Ask one solver after another, refine, and stop at a certified gap of tol, or where the margin
    is as good as zero.

    `start` are weights of shape (n,) that may be near those of the answer.

    Raises
    ------
    RuntimeError
        If every solver failed.
    """
    program = scaled_program(problem, norm)
    answer, failures = None, []
    for engine in _ENGINES:
        if not engine.suits(program):
            continue
        try:
            point = engine.solve(program, tol, start)
        except SolverFailure as failure:
            failures.append(f"{engine.name}: {failure}")
            continue
        answer = refined_answer(problem, norm, program, point, engine.name, tol).merged(answer)
        hopeless = answer.margin <= 0 and answer.bound <= _NOTHING * largest_row(problem, norm)
        # nothing proves more than rounding allows
        if hopeless or answer.gap - answer.rounding <= tol:
            break
    if answer is None:
        raise RuntimeError(
            f"No solver returned an answer ({'; '.join(failures)}). Rescale the features of X."
        )
    return answer


def largest_distance(problem: RobustProblem, tol: float) -> Certified:
    """eps*: the largest ||s w||_q* margin without adversary; inf where features of scale 0 alone
    separate.
    """
    plain = replace(problem, threat=LpBall(problem.threat.q, 1.0), radius=np.zeros(1))
    scale = problem.threat.scale
    if scale is None:
        answer = _largest_plain_distance(plain, tol)
    elif scale.all():  # the same in units of the scales
        answer = _largest_plain_distance(replace(plain, X=_over(plain.X, scale)), tol)
        answer = proven(
            plain,
            problem.threat.dual_norm,
            Point(answer.coef / scale, answer.weights),
            answer.solver,
        )
    else:
        answer = _largest_plain_distance(plain, tol)
        if answer.margin <= 0:  # separable for no scale
            return answer
        untouched = np.flatnonzero(scale == 0)
        alone = _largest_plain_distance(replace(plain, X=plain.X[:, untouched]), tol)
        if alone.margin > 0:
            coef = np.zeros_like(scale)
            coef[untouched] = alone.coef
            return replace(alone, coef=coef, margin=math.inf, bound=math.inf)
        return _largest_ratio(problem, answer, tol)
    small = plain.X.shape[0] * plain.X.shape[1] <= _MAX_RATIO_ENTRIES
    return (
        _largest_ratio(problem, answer, tol)
        if answer.margin > 0 and answer.gap > tol and small
        else answer
    )


def _largest_ratio(problem: RobustProblem, start: Certified, tol: float) -> Certified:
    """eps* as the largest ratio of margin and ||s w||_q*, by Dinkelbach's method from a separating
    predictor.

    The predictor of largest robust margin at the ratio of the last one has a larger ratio, until
    the weights that come with it prove that none does. That margin is taken with every feature in
    its own unit and max |w_j| = 1: features of scale 0, and of sizes far apart, are as well behaved
    as others there.
    """
    units = _column_sizes(problem)
    scale = np.ones_like(units) if problem.threat.scale is None else problem.threat.scale
    fixed = np.flatnonzero(scale == 0)
    clean = replace(problem, threat=LpBall(problem.threat.q, 1.0), radius=np.zeros(1))
    norm = problem.threat.dual_norm
    inner = replace(
        problem, X=_over(problem.X, units), threat=LpBall(problem.threat.q, 1.0, scale / units)
    )

    def at_radius(eps: float) -> Certified:
        found = largest_margin(replace(inner, radius=np.array([eps])), LpNorm(math.inf), tol)
        return cancelled(found.coef / units, found.weights, f"{found.solver}, largest ratio")

    def cancelled(coef: Vector, weights: Vector, solver: str) -> Certified:
        """What a predictor and the better of the weights and of those proves that cancel what is
        small but for them.
        """
        point = proven(clean, norm, Point(coef, cancelling_weights(clean, weights, fixed)), solver)
        share = np.abs(clean.weighted_sum(weights[None])[0]) <= _CANCELLING * (
            weights @ abs(clean.X)
        )
        small = np.union1d(fixed, np.flatnonzero(share))
        return proven(
            clean, norm, Point(coef, cancelling_weights(clean, weights, small)), solver
        ).merged(point)

    best = cancelled(start.coef, start.weights, start.solver)
    for _ in range(_MAX_RATIOS):
        last, best = best, at_radius(best.margin).merged(best)
        if best.gap <= tol or best.margin <= last.margin * (1 + _SLOW_RATIO * tol):
            break
    for beyond in _BEYOND_RATIO:  # weights that prove that nothing withstands a little more
        if best.gap > tol:
            best = best.merged(at_radius(best.margin * (1 + beyond)))
    return best


def _column_sizes(problem: RobustProblem) -> Vector:
    """The 2-norm of each feature, centred where an intercept absorbs it; 1 for a feature that is
    constant then.
    """
    X = problem.X
    if sparse.issparse(X):
        units = sparse_norm(X, axis=0)
    else:
        units = np.linalg.norm(X - X.mean(axis=0) if problem.fit_intercept else X, axis=0)
    return np.where(units > 0, units, 1.0)


def _over(X: Any, units: Vector) -> Any:
    """The columns of X over these units."""
    return sparse.csr_array(X / units) if sparse.issparse(X) else X / units


def _largest_plain_distance(clean: RobustProblem, tol: float) -> Certified:
    """The largest margin without adversary in the norm q*; a linear program has the last word where
    it is 0.

    Whether data are linearly separable does not depend on the norm, and a vertex proves that they
    are not up to rounding.
    """
    norm = LpNorm(clean.threat.q).dual
    answer = largest_margin(clean, norm, tol)
    if answer.margin > 0:
        return answer
    # with every feature in its own unit: a small one may separate what large ones do not
    units = _column_sizes(clean)
    X = (
        clean.X - clean.X.mean(axis=0)
        if clean.fit_intercept and not sparse.issparse(clean.X)
        else clean.X
    )
    scaled = replace(clean, X=_over(X, units))
    try:
        vertex = solve_linear_program(scaled_program(scaled, LpNorm(math.inf)))
    except SolverFailure:
        return answer
    vertex = Point(vertex.coef / units, vertex.weights)
    found = refined_answer(clean, norm, scaled_program(clean, norm), vertex, "linear program", tol)
    best = found.merged(answer)
    if best.margin <= 0 and _imbalance(clean, found.weights) < _imbalance(clean, best.weights):
        best = replace(best, weights=found.weights, bound=found.bound)
    return best


def _imbalance(problem: RobustProblem, weights: Vector) -> float:
    """The largest coordinate of Z^T a relative to the terms that it sums: rounding if a proves that
    nothing separates.
    """
    terms = weights @ abs(problem.X)
    weighted_sum = np.abs(problem.weighted_sum(weights[None])[0])
    return float(np.max(weighted_sum / np.where(terms > 0, terms, 1.0)))


def refined_answer(
    problem: RobustProblem,
    norm: LpNorm,
    program: MaxMarginForm,
    point: Point,
    solver: str,
    tol: float,
) -> Certified:
    """What a solver's point proves after Newton steps from it; `program` is the scaled program of
    the problem.
    """
    answer = proven(problem, norm, point, solver)
    if answer.gap - answer.rounding <= EXACT:
        return answer
    point, helped = refined(program, point, tol)
    return proven(problem, norm, point, f"{solver} + refinement") if helped else answer


def proven(
    problem: RobustProblem, norm: LpNorm | WeightedNorm, point: Point, solver: str
) -> Certified:
    """What a direction, with its best intercept, and weights, made feasible, prove on the user's
    data.
    """
    return certify(problem, norm, point.coef[None], point.weights[None], extended=True).single(
        solver
    )


def largest_row(problem: RobustProblem, norm: LpNorm) -> float:
    """The largest p*-norm of a sample: no margin can exceed it, and rounding is relative to it."""
    if not sparse.issparse(problem.X):
        return float(norm.dual.value(problem.X).max())
    entries = abs(problem.X)
    largest = float(entries.max())
    if norm.dual.p == math.inf or largest == 0:
        return largest
    return float(
        largest * (entries / largest).power(norm.dual.p).sum(axis=1).max() ** (1 / norm.dual.p)
    )


def scaled_program(problem: RobustProblem, norm: LpNorm) -> MaxMarginForm:
    """The problem as solvers like it: in units of the rows' root mean square, and centred where
    that changes nothing.
    """
    problem, _ = problem.simplified().standardised()
    threat, y = problem.threat, problem.y[0]
    eps, dual_q = float(problem.radius[0]), threat.dual_norm.p
    rows = (
        sparse.csr_array(sparse.diags_array(y) @ problem.X)
        if sparse.issparse(problem.X)
        else y[:, None] * problem.X
    )
    labels = y if problem.fit_intercept else None
    if threat.scale is not None and eps > 0:
        return MaxMarginForm(rows, labels, norm.p, dual_q, eps, scale=threat.scale)
    if math.isclose(norm.p, dual_q, rel_tol=1e-12):
        return MaxMarginForm(rows, labels, norm.p, dual_q, 0.0, shift=eps)
    return MaxMarginForm(rows, labels, norm.p, dual_q, eps)


def _some_out_of_reach(program: MaxMarginForm) -> bool:
    return program.scale is not None and not program.scale.all()


def solve_out_of_reach(program: MaxMarginForm) -> Point:
    """The separator that uses only features of scale 0: the answer where the adversary is strong
    enough to spoil the others.
    """
    reach = np.flatnonzero(program.scale == 0)
    alone = replace(program, rows=program.rows[:, reach], eps=0.0, scale=None)
    point, _ = refined(alone, solve_interior_point(alone), DEFAULT_TOL)
    coef = np.zeros(program.rows.shape[1])
    coef[reach] = point.coef
    return Point(coef, point.weights)


class Engine(NamedTuple):
    """A solver of margin programs: name, programs that it suits, and its call with a tolerance and
    weights to start from.
    """

    name: str
    suits: Callable[[MaxMarginForm], bool]
    solve: Callable[[MaxMarginForm, float, Vector | None], Point]


# in the order in which they are asked: those of this library, fastest first, then the general ones
# of HiGHS and clarabel
_ENGINES = [
    Engine(
        "semismooth Newton",
        semismooth_newton.suits,
        lambda program, tol, start: solve_semismooth_newton(program, tol, start),
    ),
    Engine("nearest point", nearest_point.suits, lambda program, *_: solve_nearest_point(program)),
    Engine("row sets", suits_row_sets, lambda program, tol, _: solve_on_row_sets(program, tol)),
    Engine(
        "column sets", suits_column_sets, lambda program, tol, _: solve_on_column_sets(program, tol)
    ),
    Engine(
        "interior point",
        interior_point.suits,
        lambda program, tol, _: solve_interior_point(program, tol),
    ),
    Engine(
        "features out of reach", _some_out_of_reach, lambda program, *_: solve_out_of_reach(program)
    ),
    Engine(
        "linear program", linear_program.suits, lambda program, *_: solve_linear_program(program)
    ),
    Engine(
        "quadratic program",
        lambda program: program.p == 2,
        lambda program, *_: solve_quadratic_program(program),
    ),
    Engine("cone program", lambda program: True, lambda program, *_: solve_cone_program(program)),
]
