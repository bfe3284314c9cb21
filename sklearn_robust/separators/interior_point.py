r"""A dense primal-dual interior-point method for the max-margin form, for every p and q.

It is Mehrotra's predictor and corrector on the form of `_standard_form`, with the linear algebra of
`_newton_system`: one weighted symmetric product and one Cholesky factor of size min(n, d) an
iteration. The program is feasible and bounded at every eps, also beyond eps*, where its solution is
w = 0: no case is special. Complementarity over gamma estimates the gap; an iterate is certified
where that is small, and the best one is returned. Where its certified gap stays above the estimate,
a step of active-set refinement is tried from it.

A first attempt starts near the solution and leaves out rows that have much slack for their weight.
Where it does not reach the gap, a second one starts far outside and keeps all rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError

from sklearn_robust.certificates import Certified, Point
from sklearn_robust.separators._max_margin_form import MaxMarginForm, SolverFailure, Vector
from sklearn_robust.separators._newton_proof import cancelling_newton_weights
from sklearn_robust.separators._newton_system import NewtonSystem
from sklearn_robust.separators._standard_form import GAMMA, StandardForm, State
from sklearn_robust.separators.refinement import newton_step

_MAX_DENSE = 30_000_000  # entries of the dense rows up to which the method serves: 240 megabytes

# Iterations
_MAX_ITERATES = 80  # most programs take 10 to 20
# the first iterate without a margin that is certified; without adversary weights that cancel are
# sought once
_FIRST_PROOF = 5
# consecutive certificates without a smaller gap, after which the method ends: rounding allows no
# smaller one
_MAX_MISSED_CERTIFICATES = 6
# unknowns, at most, of the active-set steps from iterates that look solved, and are not; the first
# two are to cost no more than a step of the method
_FACE_UNKNOWNS = (400, 400, 6000, 6000)
# estimated gap from which the first of them often is the solution: where in all but so many pairs
# slack and multiplier, each relative to the largest, are this factor apart
_EARLY = 1e-4
_UNDECIDED_PAIRS, _APART = 1, 10.0
_NEAR = 10  # estimated over asked gap up to which an iterate is certified
# estimated gap, and complementarity for margins of order 1, down to which single precision suffices
# for the matrix
_ROUGH, _ROUGH_COMPLEMENTARITY = 1e-2, 1e-5
# Estimated gaps from which the rows of most weight for their slack alone stay, and their number
# relative to d, where there are _MANY_MORE times as many: those that carry weight at the solution
# are less than 1.7 d, and then 1.1 d, of the first in all cases that were looked at.
_CUTS = ((0.2, 2.0), (1e-2, 1.25))
_MANY_MORE = 1.3
# ratio of the estimated gaps after and before a step from which the next solution is refined
_STALLED = 0.3

# Share of the way to the boundary that a step goes: the cautious one where the centring parameter
# sigma is above _MUCH_CENTRING, for the predictor is poor then.
_TO_BOUNDARY = 0.9995
_CAUTIOUS = 0.99
_MUCH_CENTRING = 0.01


def suits(program: MaxMarginForm) -> bool:
    """Whether the rows fit in memory as a dense array."""
    return math.prod(program.rows.shape) <= _MAX_DENSE


@dataclass
class _Best:
    """The iterate of least certified gap, or of least bound before any has a gap."""

    point: Certified | None = None
    gap: float = math.inf
    bound: float = math.inf
    misses: int = 0  # certificates since then

    def offer(self, certified: Certified) -> None:
        self.misses += 1
        reached = certified.gap
        if reached < self.gap or (self.gap == math.inf and certified.bound <= self.bound):
            self.point, self.gap = certified, reached
            self.bound, self.misses = certified.bound, 0

    def ended(self, tol: float) -> bool:
        return self.gap <= tol or self.bound == 0 or self.misses == _MAX_MISSED_CERTIFICATES


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
        The iterate of least certified gap, a Certified, or where none had a margin, of least bound:
        a bound of zero proves that no robust separator exists.

    Raises
    ------
    SolverFailure
        If no iterate is finite.
    """
    program = program.dense()
    best = _iterates(program, tol, careful=False)
    if best.gap > tol and best.bound > 0:
        careful = _iterates(program, tol, careful=True).point
        best.point = careful.merged(best.point) if careful is not None else best.point
    if best.point is None:
        raise SolverFailure("interior point: no finite iterate")
    return best.point


def _iterates(program: MaxMarginForm, tol: float, *, careful: bool) -> _Best:
    """The best iterate: on all rows, and from a start far outside, where it is to be careful."""
    form = StandardForm.of(program)
    if careful:
        form = replace(form, start_slack=1.0)
    n, d = form.rows.shape
    # `program.rows` over `form.rows`
    unit = form.unit * math.sqrt(d)
    state, last = form.start(), math.inf
    best, face_steps = _Best(), 0
    weighted_sum, scores = form.start_weights @ form.rows, np.zeros(n)
    rows, cuts = np.arange(n), [] if careful else list(_CUTS)

    def certify() -> Certified:
        point = Point(form.signs @ state.coordinates, np.zeros(n))
        point.weights[rows] = state.multipliers[form.margins]
        known = unit * scores if len(rows) == n else program.rows @ point.coef
        certified = program.certify(point, known, unit * weighted_sum)
        best.offer(certified)
        return certified

    for iteration in range(_MAX_ITERATES):
        gamma = float(state.scalars[GAMMA])
        complementarity = float(state.slacks @ state.multipliers)
        estimate = complementarity / gamma if gamma > 0 else math.inf
        near = estimate <= _NEAR * tol
        if gamma <= 0 and iteration == _FIRST_PROOF and program.eps == 0:
            cancelling = cancelling_newton_weights(program)
            if cancelling is not None:
                coef = form.signs @ state.coordinates
                best.point, best.bound = program.certify(Point(coef, cancelling)), 0.0
                return best
        early = face_steps == 0 and estimate <= _EARLY and _knows_active_set(form, state)
        if near or early or (gamma <= 0 and iteration >= _FIRST_PROOF):
            certified = certify()
            if (near or early) and not best.ended(tol) and face_steps < len(_FACE_UNKNOWNS):
                # rounding may hold the certified gap far above the estimate, as next to eps*, where
                # the face is known all the same
                on_face = newton_step(program, certified, _FACE_UNKNOWNS[face_steps])
                face_steps += 1
                if on_face is not None:
                    best.offer(program.certify(on_face))
            if best.ended(tol):
                break
            if near and len(rows) < n and _misses_rows(program, certified, rows):
                break
        if cuts and estimate <= cuts[0][0]:
            kept = _kept(form, state, cuts.pop(0)[1])
            if len(kept) < len(rows):
                form, state = form.on_rows(kept, state)
                rows, weighted_sum = rows[kept], state.multipliers[form.margins] @ form.rows
        # beyond the precision of float64 an iterate may overflow: the best one is then known
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            try:
                late = near or _STALLED * last < estimate < _ROUGH
                rough = estimate > _ROUGH and complementarity > _ROUGH_COMPLEMENTARITY
                moved = _step(form, state, weighted_sum, rough=rough, refine=late)
            except LinAlgError:
                break
        if not math.isfinite(sum(float(part.sum()) for part in moved)):
            break
        scores = form.rows @ (form.signs @ moved.coordinates)
        weighted_sum = moved.multipliers[form.margins] @ form.rows
        state, last = form.settled(moved, scores), estimate
    if not best.ended(tol) and iteration:  # the last iterate may be the best one
        certify()
    return best


def _knows_active_set(form: StandardForm, state: State) -> bool:
    """Whether in nearly all pairs either the slack or the multiplier is much the larger one."""
    undecided = 0
    for pairs in (form.coordinates, form.margins, *(cap.pairs for cap in form.caps)):
        slacks, multipliers = state.slacks[pairs], state.multipliers[pairs]
        share = slacks * multipliers.max(initial=0), multipliers * slacks.max(initial=0)
        close = (share[0] < _APART * share[1]) & (share[1] < _APART * share[0])
        undecided += int(np.count_nonzero(close))
    return undecided <= _UNDECIDED_PAIRS


def _kept(form: StandardForm, state: State, share: float) -> NDArray[np.intp]:
    """The rows of most weight for their slack; all where they are not many more."""
    n, d = form.rows.shape
    count = int(share * d)
    if n < _MANY_MORE * count:
        return np.arange(n)
    ratio = state.slacks[form.margins] / state.multipliers[form.margins]
    return np.sort(np.argpartition(ratio, count)[:count])


def _misses_rows(program: MaxMarginForm, point: Certified, rows: NDArray[np.intp]) -> bool:
    """Whether, in a class, a row that was left out lies below all others."""
    left_out, scores = np.ones(len(point.weights), dtype=bool), program.rows @ point.coef
    left_out[rows] = False
    return any(
        scores[members & left_out].min(initial=math.inf)
        < scores[members & ~left_out].min(initial=math.inf)
        for members in program.classes
    )


def _step(
    form: StandardForm, state: State, weighted_sum: Vector, *, rough: bool, refine: bool
) -> State:
    """The next iterate, by Mehrotra's predictor and corrector, with its slacks still to be set."""
    equations = form.equations(state, weighted_sum)
    system = NewtonSystem(form, equations, rough=rough)
    predictor = form.step(system.predictor, 0.0, state)
    # sigma: the cube of the ratio of the complementarity after and before the predictor's step
    primal, dual = _lengths(form, state, predictor, 1.0)
    slacks = state.slacks + primal * predictor.slacks
    left = slacks @ (state.multipliers + dual * predictor.multipliers)
    complementarity = float(state.slacks @ state.multipliers)
    centring = min(1.0, float(left / complementarity)) ** 3

    # s z + ds z + s dz = sigma mu - ds_predictor dz_predictor
    mu = complementarity / form.n_pairs
    target = centring * mu - predictor.slacks * predictor.multipliers
    right = form.right_side(target, state)
    solution = system.predictor.plus(system.solve(right))
    if refine:
        solution = system.refined(equations.right.plus(right), solution)
    step = form.step(solution, target, state)
    share = _CAUTIOUS if centring > _MUCH_CENTRING else _TO_BOUNDARY
    primal, dual = _lengths(form, state, step, share)
    return State(
        state.coordinates + primal * step.coordinates,
        state.scalars + primal * step.scalars,
        state.slacks + primal * step.slacks,
        state.multipliers + dual * step.multipliers,
    )


def _lengths(form: StandardForm, state: State, step: State, share: float) -> tuple[float, float]:
    """The lengths, at most 1, of the primal and the dual step: this share of the way to where a
    positive entry reaches zero.
    """
    # the largest relative decreases of an entry at a full step
    primal = -float((step.slacks / state.slacks).min())
    if form.radius is not None:
        primal = max(primal, -float(step.scalars[form.radius] / state.scalars[form.radius]))
    dual = -float((step.multipliers / state.multipliers).min())
    if not form.linear:
        primal = dual = max(primal, dual)
    return share / max(primal, share), share / max(dual, share)
