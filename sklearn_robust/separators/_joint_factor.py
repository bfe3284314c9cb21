r"""The critical factor on the sets of samples of several classes, and separators against the sets
themselves.

For a predictor W it is the largest factor at which W separates. By Dinkelbach's method: the
predictor of largest margin at a factor has a larger factor of its own, until there is none. The
weights of these programs, and of one just above the factor, bound it (`_pair_proofs`).

Where nothing separates at factor 1, weights of worst points prove it (`_worst_points`), or those at
the minimiser of a risk.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sklearn_robust._conic_programs import Vector
from sklearn_robust._conic_sets import TERM_ROUNDING
from sklearn_robust._documentation import see
from sklearn_robust._pair_groups import BoxGroup, ConeGroup
from sklearn_robust._pair_programs import PairProgram
from sklearn_robust._pair_proofs import least_multiple
from sklearn_robust.certificates import Certified
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import best_intercept, predictor
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.separators._joint_sets import TRIES, certified, maximise_margin
from sklearn_robust.separators._max_margin_form import column_sizes
from sklearn_robust.separators._worst_points import decide_by_worst_points
from sklearn_robust.separators.separator import NotSeparableError
from sklearn_robust.solvers import minimise_joint_risk

_HALVINGS = 60  # halvings of the bracket of a factor
_MOST_RATIOS = 30  # steps of Dinkelbach's method
_SLOW_RATIO = 1e-9  # relative growth of the factor up to which it ends
_LARGEST_FACTOR = 1e150  # sought at most, and 1 over it at least, for a predictor
# size of a coefficient, relative to the largest, that counts as 0
_TOUCHES = 1e-9
_HELD = 1e-9  # share of a direction that sets may move, from rounding, where they hold it
# near the factor multipliers are not unique: the smallest ridge ends early
_TRIES = TRIES[1:2]
_LEAST_FACTOR = 1e-9  # from which it starts where nothing separates at factor 1
# relative excess over the factor at which a proof is sought
_BEYOND = (5e-9, 1e-7, 1e-5, 1e-3, 0.1)
_MOST_COEFFICIENTS = 2_000  # up to which directions that no set moves are sought
_NORM = LpNorm(math.inf)
_SOLVER = "cone programs, largest ratio"


def separate_against_sets(problem: JointProblem, norm: Norm, tol: float) -> Certified:
    """The robust separator of least norm against the sets of the samples.

    Parameters
    ----------
    problem : JointProblem
        In float64, on an array, with `JointSets`.
    norm : Norm
    tol : float
        Certified relative gap of the margin to reach; the caller judges it.

    Raises
    ------
    NotSeparableError
        Where worst points or the minimiser of a risk prove that nothing separates.
    RuntimeError
        If the solver failed, or neither found a separator nor proved that there is none.
    """
    answer = maximise_margin(problem, norm, tol)
    if answer.margin > 0:
        return answer
    coef, proof = decide_by_worst_points(problem)
    if coef is not None:
        found = certified(problem, norm, coef, answer)
        if found.margin > 0:
            return found
    if proof is None:
        end = minimise_joint_risk(problem, LOSSES["exponential"])
        if end.separable:  # its predictor is robust, if not the one of least norm
            return certified(problem, norm, end.coef, answer)
        if end.separable is None:
            raise RuntimeError(
                f"The solvers neither found a robust separator for threat={problem.threat!r} nor "
                f"proved that there is none. Scale the features to similar sizes."
                f" {see('questions', 'separable_-is-none')}"
            )
        proof = end.weights
    threat = type(problem.threat).__name__
    factor = min(critical_factor(problem, bounded=False).margin, 1.0)
    raise NotSeparableError(1.0, factor, proof, problem.fit_intercept, threat=threat)


def critical_factor(problem: JointProblem, *, bounded: bool = True) -> Certified:
    """The critical factor on the sets, the largest below which a robust separator exists; with a
    bound, where it is to be bounded.

    Returns
    -------
    Certified
        `margin` and `bound` are factors: 0 where nothing separates, and inf where something does
        against every multiple. The predictor has a smallest margin of 1 without adversary.
    """
    unit = float(problem.radius)
    search, factor = _Search(problem, bounded), unit
    found = search.at_factor(factor)
    if found.margin <= 0:
        factor = search.without_sets() or _LEAST_FACTOR * unit
        if search.best.bound > 0:
            found = search.at_factor(factor)
    for _ in range(_MOST_RATIOS):
        if found.margin <= 0:
            break
        coef, endless = search.cleared(found.coef)
        ratio = math.inf if endless else _own_factor(problem, coef)
        search.take(replace(found, coef=coef, margin=ratio, bound=math.inf))
        if ratio == math.inf or ratio <= factor * (1 + _SLOW_RATIO):
            break
        factor = ratio
        try:
            found = search.at_factor(factor)
        except RuntimeError:  # the answer so far has its certified gap
            break
    if search.best.margin == math.inf:
        search.best = replace(search.best, bound=math.inf)
    elif bounded:
        search.bound_from_beyond()
    best = search.best
    coef, intercept = predictor(problem.at_radius(0.0), best.coef)
    margin, bound = best.margin / unit, best.bound / unit
    return replace(best, coef=coef, intercept=intercept, margin=margin, bound=bound)


class _Search:
    """The best predictor so far, and the best bound on the critical factor."""

    best: Certified

    def __init__(self, problem: JointProblem, bounded: bool) -> None:
        self.problem, self.bounded = problem, bounded
        self.used = problem.log_weight > -math.inf
        self.multiple = math.inf  # least multiple of the sets that the last program proves

    def at_factor(self, factor: float) -> Certified:
        """The predictor of largest margin at a factor; the bound that its weights prove is kept."""
        self.multiple = math.inf
        found = maximise_margin(
            self.problem.at_radius(factor), _NORM, _SLOW_RATIO, tries=_TRIES, callback=self._prove
        )
        proven = replace(found, margin=0.0, bound=factor * self.multiple, solver=_SOLVER)
        if self.multiple < math.inf:
            weights = np.zeros_like(found.weights)
            weights[:, self.used] = self.weights
            proven = replace(proven, weights=weights)
        self.take(proven)
        return found

    def _prove(self, program: PairProgram, weights: Vector, z: Vector) -> None:
        self.program = program
        if self.bounded:
            multiple, moved = least_multiple(program, weights, z)
            if multiple < self.multiple:
                self.multiple, self.weights = multiple, moved

    def without_sets(self) -> float:
        """Half the factor of a predictor that separates without adversary; where there is none the
        bound 0 is kept.
        """
        coef, weights = decide_by_worst_points(self.problem.at_radius(0.0))
        if weights is not None:
            self.take(replace(self.best, bound=0.0, weights=weights))
        return 0.0 if coef is None else 0.5 * _own_factor(self.problem, coef)

    def take(self, found: Certified) -> None:
        """Keep a predictor and a bound where they are better."""
        self.best = replace(found, solver=_SOLVER).merged(getattr(self, "best", None))

    def bound_from_beyond(self) -> None:
        """A bound from just above the factor, where there is none near it."""
        for beyond in _BEYOND:
            if self.best.margin == 0 or self.best.gap <= 2 * beyond:
                break
            try:
                self.at_factor((1 + beyond) * self.best.margin)
            except RuntimeError:
                continue

    def cleared(self, coef: Vector) -> tuple[Vector, bool]:
        """The coefficients without what is small beside the others, by features or in the
        directions in which sets move samples, where the predictor then separates and the sets take
        nothing; and whether this is so.
        """
        problem = self.problem
        coef = coef - coef.mean(axis=0)  # the differences alone count
        unit = column_sizes(problem.X, centred=problem.fit_intercept)
        sizes = np.abs(coef).max(axis=0) * unit
        by_features = np.where(sizes > _TOUCHES * sizes.max(), coef, 0.0)
        nothing = np.zeros((len(coef), len(problem.y)))
        for part in (by_features, self._unmoved(coef * unit, unit) / unit):
            left = np.abs(part).max(axis=0) * unit
            if left.max() <= _TOUCHES * sizes.max() or not _separates(problem, part, nothing):
                continue
            if _takes_nothing(problem, part):
                return part, True
        return coef, False

    def _unmoved(self, coef: Vector, unit: Vector) -> Vector:
        """The nearest coefficients (K, d) whose differences are orthogonal to all directions in
        which the sets of their classes move samples, in units of the features; 0 for very many.
        """
        K, d = coef.shape
        if K * d > _MOST_COEFFICIENTS:
            return np.zeros_like(coef)
        groups: list[ConeGroup | BoxGroup] = [*self.program.groups, *self.program.boxes]
        moves = np.zeros((K, K, d, d))
        with np.errstate(over="ignore", invalid="ignore"):
            for group in groups:
                held = unit[:, None] * group.directions / unit
                moves[group.low, group.high] += held.T @ held
        if not np.isfinite(moves).all():  # units too far apart
            return np.zeros_like(coef)
        moves += moves.transpose(1, 0, 2, 3)
        matrix = -moves.transpose(0, 2, 1, 3)
        for k in range(K):
            matrix[k, :, k] = -matrix[k].sum(axis=1)
        sizes, directions = np.linalg.eigh(matrix.reshape(K * d, K * d))
        free = directions[:, sizes <= _HELD * sizes[-1]]
        part: Vector = (free @ (free.T @ coef.ravel())).reshape(K, d)
        # what is rounding would be without limit along a feature without end
        return np.where(np.abs(part).max(axis=0) > TERM_ROUNDING * np.abs(part).max(), part, 0.0)


def _takes_nothing(problem: JointProblem, coef: Vector) -> bool:
    """Whether the penalties are 0, or rounding beside those of single features."""
    penalties, terms = problem.penalties(coef), problem.penalty_sizes(coef)
    if not np.isfinite(penalties).all():
        return False
    if np.all(penalties <= TERM_ROUNDING * terms):
        return True
    terms = np.zeros_like(penalties)
    for j in range(problem.n_features):
        alone = np.zeros_like(coef)
        alone[:, j] = coef[:, j]
        both = np.stack([problem.penalties(alone), problem.penalties(-alone)])
        terms += np.where(np.isfinite(both), both, 0.0).max(axis=0)
    return bool(np.all(penalties <= TERM_ROUNDING * terms))


def _separates(problem: JointProblem, coef: Vector, penalties: Vector) -> bool:
    """Whether all margins of a predictor with its best intercepts are positive."""
    margins = problem.pair_margins(coef, penalties)
    return bool((best_intercept(margins)[1] if problem.fit_intercept else margins.min()) > 0)


def _own_factor(problem: JointProblem, coef: Vector) -> float:
    """The largest factor at which a predictor that separates does so with its best intercepts, by
    bisection.
    """
    of_unit = problem.at_radius(1.0).penalties(coef)

    def separates(factor: float) -> bool:
        return _separates(problem, coef, factor * of_unit)

    low = high = 1.0
    while high < _LARGEST_FACTOR and separates(high):
        low, high = high, 2 * high
    while not separates(low):
        low, high = 0.5 * low, low
        if low * _LARGEST_FACTOR < 1:
            return 0.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if separates(middle) else (low, middle)
    return low
