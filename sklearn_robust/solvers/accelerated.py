r"""The limit of the path, by accelerated gradient descent on the dual of the largest robust margin.

The margin's upper bound :math:`D(a) = \min_{\|\delta\|_q \le \epsilon} \|Z^T a - \delta\|_{p^*}` is
tight at its minimiser. For 1 < p <= 2 its square is smooth in the weights a of the samples, and its
gradient holds the primal predictor: :math:`\nabla \tfrac12 D^2(a) = Z w`, with w the steepest
direction in the p-norm of the residual of :math:`Z^T a` in the threat's set, scaled by D.
Nesterov's method over the simplex (two simplices, one a class, for a free intercept), with
backtracking and adaptive restart, therefore carries a certificate at every iteration: margin(w) <=
gamma <= D(a). For other p the two sides of the saddle point move in turns (`_saddle_path`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from sklearn_robust._array_api import Array, like, namespace, to_numpy
from sklearn_robust._documentation import see
from sklearn_robust.certificates import (
    best_intercept,
    certify,
    over_size,
    relative_gap,
    repaired_weights,
)
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import squared_norm_bound
from sklearn_robust.solvers._descent import Run, Stopping, follow
from sklearn_robust.solvers._saddle_path import SaddlePath, feasible_projection
from sklearn_robust.solvers.solution import Monitor, Solution, problem_to_numpy
from sklearn_robust.threats import ProximalThreat, has_exponent, require, residual

# Factor on the estimate of the curvature at each iteration; backtracking doubles it where a step is
# refused.
_CURVATURE_DECAY = 0.9


@dataclass
class _State:
    """The iterates of all problems, and their best points so far; the first axis is the problem.

    Attributes
    ----------
    weights : array of shape (k, n)
        Feasible.
    weighted_sum : array of shape (k, d)
        Z^T a of the weights.
    ahead : array of shape (k, n)
        Extrapolated weights.
    ahead_sum : array of shape (k, d)
        Z^T a of the extrapolated weights.
    momentum : array of shape (k,)
        Nesterov's t.
    curvature : array of shape (k,)
    coef : array of shape (k, d)
        The best predictor so far.
    intercept, margin : array of shape (k,)
        Its intercept and its margin.
    proof : array of shape (k, n)
        The best weights so far, or weights that prove the data not to be separable.
    bound : array of shape (k,)
        D(a) of the best weights.
    not_separable : array of bool of shape (k,)
        Whether `proof` proves it.
    """

    weights: Array
    weighted_sum: Array
    ahead: Array
    ahead_sum: Array
    momentum: Array
    curvature: Array
    coef: Array
    intercept: Array
    margin: Array
    proof: Array
    bound: Array
    not_separable: Array

    def rows(self, rows: np.ndarray) -> _State:
        """The state of the problems at these indices."""
        return _State(*(getattr(self, f.name)[rows] for f in fields(self)))


def accelerated_margin(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: LpNorm,
    *,
    max_iter: int = 10_000,
    tol: float = 1e-3,
    record_every: int = 0,
    monitors: Sequence[Monitor] = (),
) -> Solution:
    """The robust separator of largest margin in the p-norm, to a certified gap.

    Parameters
    ----------
    problem : RobustProblem
        k problems; each stops on its own.
    loss : MarginLoss
        Only evaluated for `log_risk`: the limit is the same for every loss with an exponential
        tail.
    norm : LpNorm
        The geometry p, in [1, inf].
    max_iter : int
        Iterations at most, of two products with X each (for 1 < p <= 2 one more where backtracking
        refuses a step).
    tol : float
        Certified relative gap of the margin to reach.
    record_every : int
        Record margin, bound and gap every so many iterations, for p = 1 and p > 2 every eighth and
        the last at most; 0 records nothing.
    monitors : sequence of Monitor, optional
        Shown predictors and figures at iterations of their choice. They change no iteration; each
        may stop the solver.

    Returns
    -------
    Solution
        Coefficients are scaled to a smallest robust margin of 1. A problem proven not to be
        robustly separable stops with `separable` False and has not converged: its risk has a
        minimiser, see `minimise_robust_risk`.

    Raises
    ------
    ValueError
        If the norm is not an l_p norm, or the threat has no Euclidean projection.
    """
    if not has_exponent(norm):
        raise ValueError(
            f"The accelerated solver needs a geometry p in [1, inf], got {type(norm).__name__}. "
            f"Use the solver 'steepest_descent' for the path of this geometry."
            f" {see('guide/solvers')}"
        )
    problem.require_one_set("The accelerated solver", one_radius=True)
    require(problem.threat, ProximalThreat, "the accelerated solver")
    problem = problem.simplified()
    stopping = Stopping(max_iter, 0.0, tol, True, record_every, monitors)
    path = _AscentPath(problem, norm) if 1 < norm.p <= 2 else SaddlePath(problem, norm)
    return follow(path, _AscentRun(problem, stopping, loss, norm))


class _AscentPath:
    """Problems under way; the methods are those of `_descent.Path`."""

    is_certified = True

    def __init__(self, problem: RobustProblem, norm: LpNorm) -> None:
        self.problem = problem
        self.norm = norm
        # an upper bound on the dual's curvature: above it only rounding refuses a step
        self.largest_curvature = (norm.dual.p - 1) * squared_norm_bound(problem.rows)
        self.state = _start(problem, norm, self.largest_curvature)

    def advance(self) -> None:
        """One step of the extrapolated weights of every problem."""
        self.state = _step(self.problem, self.norm, self.state, self.largest_curvature)

    def iterate(self) -> _State:
        """The iterates of the problems, with their certificates."""
        return self.state

    def select(self, rows: np.ndarray) -> Self:
        """The path of the problems at these indices."""
        self.problem = self.problem.select(rows)
        self.state = self.state.rows(rows)
        return self


class _AscentRun(Run[_AscentPath | SaddlePath]):
    """The run of the accelerated ascent, or of a saddle point, whose iterates carry certificates.

    A problem that is proven not to be separable ends without having converged.
    """

    first_proof = 16
    patience = 100

    def __init__(
        self, problem: RobustProblem, stopping: Stopping, loss: MarginLoss, norm: LpNorm
    ) -> None:
        super().__init__(problem, stopping)
        self.loss = loss
        self.norm = norm

    def certifies(self, iteration: int, path: _AscentPath | SaddlePath) -> bool:
        """Where the path has new certificates, and at the limit of iterations."""
        return path.is_certified or iteration == self.stopping.max_iter

    def figures(self, at: _State | SaddlePath) -> dict[str, Array]:
        """The best margins and bounds so far."""
        gap = relative_gap(at.margin, at.bound)
        return {"margin": at.margin, "margin_bound": at.bound, "gap": gap}

    def verdicts(
        self, iteration: int, at: _State | SaddlePath, figures: dict[str, Array]
    ) -> tuple[np.ndarray, np.ndarray]:
        """A problem ends where its gap is small enough, or its bound is zero or proven to be."""
        converged = to_numpy(figures["gap"] <= self.stopping.tol)
        likely = to_numpy(at.bound <= 0)
        ended = converged | likely
        # where the bound only tends to zero, repaired weights may prove that it is zero
        if self.proof_due(iteration):
            likely |= self.near_proof(iteration, at) & to_numpy(at.margin <= 0) & ~ended
        for i in np.flatnonzero(likely).tolist():
            one = problem_to_numpy(self.problem.select(slice(i, i + 1)))
            proof = repaired_weights(one, to_numpy(at.weights[i : i + 1]))
            if np.isfinite(proof).all():
                at.proof[i] = like(at.proof, proof[0])
                at.not_separable[i] = ended[i] = True
        return ended, converged

    def solution(
        self, i: int, iteration: int, at: _State | SaddlePath, converged: bool | None
    ) -> Solution:
        """The solution of problem i, scaled to a smallest margin of 1 and certified again."""
        row = slice(i, i + 1)
        one = self.problem.select(row)
        proven = certify(one, self.norm, at.coef[row], at.proof[row])
        margins = one.margins(proven.coef, proven.intercept)
        log_risk, _ = self.loss.log_risk_and_weights(margins, one.log_weight)
        reached = bool(proven.gap[0] - proven.rounding[0] <= self.stopping.tol)
        separable = True if bool(proven.margin[0] > 0) else None
        solution = Solution.of(
            proven, log_risk, separable=separable, converged=reached, n_iter=iteration
        )
        if bool(at.not_separable[i]):
            return solution.not_separable(math.inf, converged=False)
        return solution


def _start(problem: RobustProblem, norm: LpNorm, steepest: float) -> _State:
    xp, weights = namespace(problem.y), problem.class_shares()
    least = float(xp.finfo(weights.dtype).tiny)
    weighted_sum = problem.weighted_sum(weights)
    value, _ = _half_square(problem, norm, weighted_sum)
    zero = xp.zeros_like(weighted_sum[:, 0])
    return _State(
        weights=weights,
        weighted_sum=weighted_sum,
        ahead=weights,
        ahead_sum=weighted_sum,
        momentum=zero + 1,
        curvature=zero + min(1.0, max(steepest, least)),
        coef=xp.zeros_like(weighted_sum),
        intercept=zero,
        margin=zero - math.inf,
        proof=weights,
        bound=xp.sqrt(2 * value),
        not_separable=zero > 0,
    )


def _half_square(problem: RobustProblem, norm: LpNorm, weighted_sum: Array) -> tuple[Array, Array]:
    """D^2/2 (k,) and its derivative by the weighted sum Z^T a, the primal predictor (k, d)."""
    left = residual(problem.threat, weighted_sum, problem.radius, norm.dual)
    distance = norm.dual.value(left)
    return 0.5 * distance**2, distance[:, None] * norm.steepest_direction(left)


def _step(problem: RobustProblem, norm: LpNorm, state: _State, steepest: float) -> _State:
    """One step of Nesterov's method, with restart where the momentum points back.

    a+ = P(b - (Z w) / L) and b+ = a+ + beta (a+ - a), P the projection on the feasible weights, w
    the predictor at b and L the curvature.
    """
    xp = namespace(state.weights)
    value, coef = _half_square(problem, norm, state.ahead_sum)
    scores = problem.signed_scores(coef)
    intercept, smallest = best_intercept(scores, problem.classes)
    margin = over_size(smallest - problem.penalty(coef), norm.value(coef))
    better = margin > state.margin

    weights, weighted_sum, bound, curvature = _trial(problem, norm, state, value, scores, steepest)
    tighter = bound < state.bound

    forward = weights - state.weights
    restart = xp.sum((state.ahead - weights) * forward, axis=-1) > 0
    momentum = xp.where(restart, xp.ones_like(state.momentum), state.momentum)
    next_momentum = 0.5 * (1 + xp.sqrt(1 + 4 * momentum**2))
    beta = ((momentum - 1) / next_momentum)[:, None]
    return _State(
        weights=weights,
        weighted_sum=weighted_sum,
        ahead=weights + beta * forward,
        ahead_sum=weighted_sum + beta * (weighted_sum - state.weighted_sum),
        momentum=next_momentum,
        curvature=curvature,
        coef=xp.where(better[:, None], coef, state.coef),
        intercept=xp.where(better, intercept, state.intercept),
        margin=xp.where(better, margin, state.margin),
        proof=xp.where(tighter[:, None], weights, state.proof),
        bound=xp.where(tighter, bound, state.bound),
        not_separable=state.not_separable,
    )


def _trial(
    problem: RobustProblem,
    norm: LpNorm,
    state: _State,
    value: Array,
    scores: Array,
    steepest: float,
) -> tuple[Array, Array, Array, Array]:
    """The weights after a step, their weighted sum, their D(a), and the curvature L that allows it.

    It is accepted at D^2(a+)/2 <= D^2(b)/2 + <Z w, a+ - b> + L/2 ||a+ - b||^2.
    """
    xp = namespace(state.weights)
    # the distance is a difference, and known only to the rounding of its two terms
    distance = xp.sqrt(2 * value)
    rounding = (
        8 * xp.finfo(value.dtype).eps * distance * (norm.dual.value(state.ahead_sum) + distance)
    )
    curvature = _CURVATURE_DECAY * state.curvature
    while True:
        weights = feasible_projection(problem, state.ahead - scores / curvature[:, None])
        weighted_sum = problem.weighted_sum(weights)
        new_value, _ = _half_square(problem, norm, weighted_sum)
        move = weights - state.ahead
        model = (
            value + xp.sum(scores * move, axis=-1) + 0.5 * curvature * xp.sum(move * move, axis=-1)
        )
        refused = (new_value > model + rounding) & (curvature < steepest)
        if not bool(xp.any(refused)):
            return weights, weighted_sum, xp.sqrt(2 * new_value), curvature
        curvature = xp.where(refused, 2 * curvature, curvature)
