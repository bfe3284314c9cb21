r"""A dense primal-dual interior-point method for the margin program, for every p and q.

Mehrotra's predictor and corrector on the form of `_standard_form`, with the linear algebra of
`_newton_system`: one weighted symmetric product and one Cholesky factor of size min(n, d) an
iteration. The program is feasible and bounded at every eps, also beyond eps*, where its solution is
w = 0: no case is special. Every iterate is certified, and the best one is returned.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import LinAlgError

from sklearn_robust.certificates import Point
from sklearn_robust.separators._max_margin_form import (
    MaxMarginForm,
    SolverFailure,
    Vector,
)
from sklearn_robust.separators._newton_system import NewtonSystem
from sklearn_robust.separators._standard_form import StandardForm, State
from sklearn_robust.separators.refinement import refined

_MAX_ITER = 80
_PATIENCE = 10  # iterations without a smaller gap
_FIRST_CERTIFICATE = 4  # earlier iterates have no margin
_EARLY = 1e-1  # gap above which the linear systems are not refined while all goes well
_LATE = 1e-3  # gap below which they are refined twice
_MAX_DENSE = 30_000_000  # entries of a dense program
_RIPE = 1e-4  # gap below which the face of the solution may be known
_RIPER = 1e-2  # of the gap at which it was not: the next attempt
# of the way to the boundary, with little and with much centring
_TO_BOUNDARY, _CAUTIOUS = 0.9995, 0.99
_MUCH_CENTRING = 0.01


def suits(program: MaxMarginForm) -> bool:
    """Any program whose rows fit in memory as a dense array."""
    return math.prod(program.rows.shape) <= _MAX_DENSE


def solve_interior_point(program: MaxMarginForm, tol: float = 1e-9) -> Point:
    """Solve to a certified relative gap of tol, or as far as rounding allows.

    Parameters
    ----------
    program : MaxMarginForm
        Sparse rows are made dense.
    tol : float

    Returns
    -------
    Point
        The iterate of least certified gap, or where none had a margin, of least bound: a bound of
        zero proves that no robust separator exists.

    Raises
    ------
    SolverFailure
        If no iterate is finite.
    """
    program = program.dense()
    form = StandardForm.of(program)
    scale = form.unit * math.sqrt(program.rows.shape[1])
    state, best, least, gap, misses, ripe = form.start(), None, math.inf, math.inf, 0, _RIPE
    for iteration in range(_MAX_ITER):
        weights = state.multipliers[form.margins]
        scores, weighted_sum = form.rows @ form.difference(state.coordinates), weights @ form.rows
        if iteration >= _FIRST_CERTIFICATE:
            point = Point(form.coef(state), weights)
            proven = program.certify(point, form.unit * scores, scale * weighted_sum)
            reached = proven.gap
            misses += 1
            if reached < gap or (gap == math.inf and proven.bound <= least):
                best, least, gap, misses = point, proven.bound, reached, 0
            if gap <= tol or least == 0 or misses == _PATIENCE:
                break
            if gap <= ripe and misses == 0:
                end, _ = refined(program, point, tol, sure=True)
                if end.gap <= tol:
                    return end
                ripe = _RIPER * gap
        # far beyond the precision of float64 nothing is finite any more: the best iterate is then
        # already known
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            try:
                easy = _EARLY < gap < math.inf and misses == 0
                state = _step(
                    form,
                    state,
                    scores,
                    weighted_sum,
                    refinements=0 if easy else 1 if gap > _LATE else 2,
                )
            except LinAlgError:
                break
        if not all(np.isfinite(part).all() for part in state):
            break
    if best is None:
        raise SolverFailure("interior point: no finite iterate")
    return best


def _step(
    form: StandardForm, state: State, scores: Vector, weighted_sum: Vector, refinements: int
) -> State:
    """Predictor and corrector from one iterate."""
    system = NewtonSystem(form, state, scores, weighted_sum, refine=refinements > 0)
    products = state.slacks * state.multipliers
    affine = system.direction(-products, refinements=0)
    primal, dual = (min(1.0, length) for length in _lengths(form, state, affine))
    left = (state.slacks + primal * affine.slacks) @ (state.multipliers + dual * affine.multipliers)
    total = products.sum()
    centring = min(1.0, (left / total) ** 3)
    target = centring * total / form.n_pairs - products - affine.slacks * affine.multipliers
    step = system.direction(target, refinements)
    share = _CAUTIOUS if centring > _MUCH_CENTRING else _TO_BOUNDARY
    primal, dual = (min(1.0, share * length) for length in _lengths(form, state, step))
    scalars = state.scalars + primal * step.scalars
    for bound in form.bounds:
        if bound.multiplier is not None:
            scalars[bound.multiplier] = (
                state.scalars[bound.multiplier] + dual * step.scalars[bound.multiplier]
            )
    return State(
        state.coordinates + primal * step.coordinates,
        state.slacks + primal * step.slacks,
        state.multipliers + dual * step.multipliers,
        scalars,
    )


def _lengths(form: StandardForm, state: State, step: State) -> tuple[float, float]:
    """How far the primal and the dual part may go until something positive reaches zero."""
    shrinking = float(np.max(-step.slacks / state.slacks))
    if form.radius is not None:
        shrinking = max(shrinking, -step.scalars[form.radius] / state.scalars[form.radius])
    fading = float(np.max(-step.multipliers / state.multipliers))
    if not form.linear:
        shrinking = fading = max(shrinking, fading)
    return 1 / max(shrinking, 1e-300), 1 / max(fading, 1e-300)
