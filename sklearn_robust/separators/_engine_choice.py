"""Engine choice: the solver of the largest robust margin, and the certificate of its answer.

Answers are certified on the user's own data. All engines here serve l_q balls only, of radius eps
and with scales.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import sparse

from sklearn_robust.certificates import Certified, Point, certify
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows
from sklearn_robust.scaled_norms import WeightedNorm
from sklearn_robust.separators import (
    interior_point,
    linear_program,
    nearest_point,
    semismooth_newton,
)
from sklearn_robust.separators._max_margin_form import MaxMarginForm, SolverFailure, Vector
from sklearn_robust.separators._newton_proof import cancelling_newton_weights, cancels
from sklearn_robust.separators.cone_program import solve_cone_program, solve_quadratic_program
from sklearn_robust.separators.interior_point import solve_interior_point
from sklearn_robust.separators.linear_program import solve_linear_program
from sklearn_robust.separators.nearest_point import solve_nearest_point
from sklearn_robust.separators.refinement import refined
from sklearn_robust.separators.semismooth_newton import solve_semismooth_newton
from sklearn_robust.separators.working_sets import (
    solve_on_column_sets,
    solve_on_row_sets,
    suits_column_sets,
    suits_row_sets,
)

DEFAULT_TOL = 1e-8  # certified relative gap of a separator
_EXACT_GAP = 1e-10  # that of an exact engine's point, up to which it needs no refinement

# Bound on the margin, relative to the largest p*-norm of a sample, that is zero up to rounding: no
# later engine would find a margin either.
_ZERO_BOUND = 1e-12


def maximise_margin(
    problem: RobustProblem, norm: LpNorm, tol: float, *, start: Vector | None = None
) -> Certified:
    """The predictor of largest robust margin in a norm, from the first engines that suit.

    One engine after another solves the problem, and its answer is refined and certified, until the
    certified gap is at most tol, or the margin is zero up to rounding. The better predictor and the
    better weights of all answers are kept. Where rows are many, or are read in blocks, the engines
    solve the problem on sets of rows first, or only.

    Parameters
    ----------
    problem : RobustProblem
        A single one, k = 1.
    norm : LpNorm
    tol : float
    start : ndarray of shape (n,), optional
        Weights that may be near those of the answer.

    Raises
    ------
    RuntimeError
        If every engine failed.
    """
    assert problem.adversary is None  # engines and sets of rows have one penalty for all samples
    if not suits_row_sets(problem):
        return maximise_rows(problem, norm, tol, start=start)
    found = solve_on_row_sets(problem, norm, tol, lambda part, gap: maximise_rows(part, norm, gap))
    best = certify_point(problem, norm, found, "row sets")
    if isinstance(problem.rows, BlockRows) or _is_settled(problem, norm, best, tol):
        return best
    return maximise_rows(problem, norm, tol, start=start).merged(best)


def maximise_rows(
    problem: RobustProblem, norm: LpNorm, tol: float, *, start: Vector | None = None
) -> Certified:
    """The same for data in memory, on all rows at once."""
    program = MaxMarginForm.of(problem, norm)
    best, failures = None, []
    tried = False
    for engine in _ENGINES:
        if not engine.suits(program):
            continue
        try:
            point = engine.solve(program, tol, start)
        except SolverFailure as failure:
            failures.append(f"{engine.name}: {failure}")
            continue
        except ImportError:  # the fallback needs clarabel
            if best is None:
                raise
            break
        if engine.exact:
            best = certify_point(problem, norm, point, engine.name).merged(best)
            if best.gap <= min(tol, _EXACT_GAP):
                break
        best = certify_refined(problem, norm, program, point, engine.name, tol).merged(best)
        may_overlap = best.margin <= 0 and interior_point.suits(program)
        if may_overlap and not tried and not cancels(problem, best.weights):
            tried = True
            weights = cancelling_newton_weights(program)
            if weights is not None:
                proof = certify_point(problem, norm, Point(best.coef, weights), best.solver)
                return replace(best, weights=proof.weights, bound=proof.bound)
        if _is_settled(problem, norm, best, tol):
            break
    if best is None:
        raise RuntimeError(
            f"No solver returned an answer ({'; '.join(failures)}). Rescale the features of X."
        )
    return best


def _is_settled(problem: RobustProblem, norm: LpNorm, best: Certified, tol: float) -> bool:
    """Whether the gap is reached, or the margin is zero up to rounding."""
    # no answer proves a smaller gap than rounding allows
    if best.gap - best.rounding <= tol:
        return True
    return best.margin <= 0 and best.bound <= _ZERO_BOUND * largest_sample_norm(problem, norm)


def certify_refined(
    problem: RobustProblem,
    norm: LpNorm,
    program: MaxMarginForm,
    point: Point,
    solver: str,
    tol: float,
) -> Certified:
    """An engine's point, certified after active-set refinement on the max-margin form `program`."""
    if isinstance(problem.rows, BlockRows):
        return certify_point(problem, norm, point, solver)
    best, helped = refined(program, point, tol)
    if not helped:
        return certify_point(problem, norm, point, solver)
    return certify_point(problem, norm, best, f"{solver} + refinement")


def certify_point(
    problem: RobustProblem, norm: LpNorm | WeightedNorm, point: Point, solver: str
) -> Certified:
    """A direction and weights, certified on the user's data.

    The direction has its best intercept, and the weights are made feasible.
    """
    extended = not isinstance(problem.rows, BlockRows)
    return certify(problem, norm, point.coef[None], point.weights[None], extended=extended).single(
        solver
    )


def largest_sample_norm(problem: RobustProblem, norm: LpNorm) -> float:
    """The largest p*-norm of a sample: no margin can exceed it, and rounding is relative to it."""
    dual = norm.dual
    if isinstance(problem.rows, BlockRows):
        blocks = (replace(problem, X=rows.X) for _, rows in problem.rows.row_blocks())
        return max(largest_sample_norm(block, norm) for block in blocks)
    if not sparse.issparse(problem.X):
        return float(dual.value(problem.X).max())
    entries = abs(problem.X)
    largest = float(entries.max())
    if np.isinf(dual.p) or largest == 0:
        return largest
    sums = (entries / largest).power(dual.p).sum(axis=1)
    return float(largest * sums.max() ** (1 / dual.p))


def _some_out_of_reach(program: MaxMarginForm) -> bool:
    """Whether some features have scale 0."""
    return program.scale is not None and not program.scale.all()


def solve_out_of_reach(program: MaxMarginForm) -> Point:
    """The separator of the features of scale 0 alone.

    It is the answer where the radius is so large that the others are of no use.
    """
    reach = np.flatnonzero(program.scale == 0)
    alone = replace(program, rows=program.rows[:, reach], eps=0.0, scale=None)
    point, _ = refined(alone, solve_interior_point(alone), DEFAULT_TOL)
    coef = np.zeros(program.rows.shape[1])
    coef[reach] = point.coef
    return Point(coef, point.weights)


class Engine(NamedTuple):
    """A solver of max-margin forms.

    Attributes
    ----------
    name : str
    suits : callable
        Whether the engine serves a form.
    solve : callable
        The point of a form, for a tolerance and weights to start from.
    exact : bool
        Whether points are exact up to rounding, so that refinement rarely helps.
    """

    name: str
    suits: Callable[[MaxMarginForm], bool]
    solve: Callable[[MaxMarginForm, float, Vector | None], Point]
    exact: bool = False


# in the order in which they are tried: the engines of this library, fastest first, then HiGHS and
# clarabel
_ENGINES = [
    Engine(
        "semismooth Newton",
        semismooth_newton.suits,
        lambda program, tol, start: solve_semismooth_newton(program, tol, start),
        exact=True,
    ),
    Engine(
        "nearest point",
        nearest_point.suits,
        lambda program, *_: solve_nearest_point(program),
        exact=True,
    ),
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
