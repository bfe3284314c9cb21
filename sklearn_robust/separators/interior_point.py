r"""A dense primal-dual interior-point method for the max-margin form, for every p and q.

It is Mehrotra's predictor and corrector on the form of `_standard_form`, with the linear algebra of
`_newton_system`: one weighted symmetric product and one Cholesky factor of size min(n, d) an
iteration. The program is feasible and bounded at every eps, also beyond eps*, where its solution is
w = 0: no case is special. Every iterate is certified, and the best one is returned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError

from sklearn_robust.certificates import Certified, Point
from sklearn_robust.separators._max_margin_form import MaxMarginForm, SolverFailure, Vector
from sklearn_robust.separators._newton_system import NewtonSystem
from sklearn_robust.separators._standard_form import StandardForm, State
from sklearn_robust.separators.refinement import refined

_MAX_DENSE = 30_000_000  # entries of the dense rows up to which the method serves: 240 megabytes

# Iterations
_MAX_ITERATES = 80  # most programs take 10 to 20
_FIRST_CERTIFICATE = 4  # the first iterate that is certified: earlier ones have no margin
# consecutive certificates without a smaller gap, after which the method ends: rounding allows no
# smaller one
_MAX_MISSED_CERTIFICATES = 10

# Certified relative gaps between which the linear systems are refined once. Above both they are not
# refined as long as each certificate improves on the last; below both they are refined twice.
_EARLY = 1e-1
_LATE = 1e-3

# Active-set refinement, which ends the method where an iterate shows the face of the solution
_RIPE = 1e-4  # certified relative gap at which it is first tried
_RIPER = 1e-2  # factor on the gap for the next attempt

# Share of the way to the boundary that a step goes: the cautious one where the centring parameter
# sigma is above _MUCH_CENTRING, for the predictor is poor then.
_TO_BOUNDARY = 0.9995
_CAUTIOUS = 0.99
_MUCH_CENTRING = 0.01
# Least relative decrease of a slack at a full step that lengths are divided by: none is infinite.
_LEAST_RATE = 1e-300


def suits(program: MaxMarginForm) -> bool:
    """Whether the rows fit in memory as a dense array."""
    return math.prod(program.rows.shape) <= _MAX_DENSE


@dataclass
class _Best:
    """The iterate of least certified gap, or of least bound before any has a gap."""

    point: Point | None = None
    gap: float = math.inf
    bound: float = math.inf
    misses: int = 0  # certificates since then
    ripe: float = _RIPE  # gap below which active-set refinement is tried

    def offer(self, point: Point, certified: Certified) -> None:
        self.misses += 1
        reached = certified.gap
        if reached < self.gap or (self.gap == math.inf and certified.bound <= self.bound):
            self.point, self.gap = point, reached
            self.bound, self.misses = certified.bound, 0

    def ended(self, tol: float) -> bool:
        return self.gap <= tol or self.bound == 0 or self.misses == _MAX_MISSED_CERTIFICATES

    @property
    def refinements(self) -> int:
        """How often the next linear systems are refined."""
        if _EARLY < self.gap < math.inf and self.misses == 0:
            return 0
        return 1 if self.gap > _LATE else 2


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
    # `program.rows` over `form.rows`
    unit = form.unit * math.sqrt(program.rows.shape[1])
    state, best = form.start(), _Best()
    for iteration in range(_MAX_ITERATES):
        weights = state.multipliers[form.margins]
        coef, weighted_sum = form.signs @ state.coordinates, weights @ form.rows
        scores = form.rows @ coef
        if iteration >= _FIRST_CERTIFICATE:
            point = Point(coef, weights)
            best.offer(point, program.certify(point, unit * scores, unit * weighted_sum))
            if best.ended(tol):
                break
            if best.gap <= best.ripe and best.misses == 0:
                end, _ = refined(program, point, tol, sure=True)
                if end.gap <= tol:
                    return end
                best.ripe = _RIPER * best.gap
        # beyond the precision of float64 an iterate may overflow: the best one is then known
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            try:
                state = _step(form, state, scores, weighted_sum, best.refinements)
            except LinAlgError:
                break
        if not all(np.isfinite(part).all() for part in state):
            break
    if best.point is None:
        raise SolverFailure("interior point: no finite iterate")
    return best.point


def _step(
    form: StandardForm, state: State, scores: Vector, weighted_sum: Vector, refinements: int
) -> State:
    """The next iterate, by Mehrotra's predictor and corrector."""
    equations = form.equations(state, scores, weighted_sum)
    system = NewtonSystem(form, equations, refine=refinements > 0)
    products = state.slacks * state.multipliers

    def direction(target: Vector, refinements: int) -> State:
        right = form.right_side(equations, target, state)
        return form.step(system.solve(right, refinements), target, state)

    predictor = direction(-products, 0)
    # sigma: the cube of the ratio of the complementarity after and before the predictor's step
    primal, dual = (min(1.0, length) for length in _lengths_to_boundary(form, state, predictor))
    slacks = state.slacks + primal * predictor.slacks
    left = slacks @ (state.multipliers + dual * predictor.multipliers)
    complementarity = products.sum()
    centring = min(1.0, (left / complementarity) ** 3)

    # s z + ds z + s dz = sigma mu - ds_predictor dz_predictor
    mu = complementarity / form.n_pairs
    target = centring * mu - products - predictor.slacks * predictor.multipliers
    step = direction(target, refinements)
    share = _CAUTIOUS if centring > _MUCH_CENTRING else _TO_BOUNDARY
    primal, dual = (min(1.0, share * length) for length in _lengths_to_boundary(form, state, step))
    return State(
        state.coordinates + primal * step.coordinates,
        state.slacks + primal * step.slacks,
        state.multipliers + dual * step.multipliers,
        state.scalars + np.where(form.dual_scalars, dual, primal) * step.scalars,
    )


def _lengths_to_boundary(form: StandardForm, state: State, step: State) -> tuple[float, float]:
    """The lengths of the primal and the dual step at which a positive entry reaches zero."""
    primal = float(np.max(-step.slacks / state.slacks))
    if form.radius is not None:
        primal = max(primal, -step.scalars[form.radius] / state.scalars[form.radius])
    dual = float(np.max(-step.multipliers / state.multipliers))
    if not form.linear:
        primal = dual = max(primal, dual)
    return 1 / max(primal, _LEAST_RATE), 1 / max(dual, _LEAST_RATE)
