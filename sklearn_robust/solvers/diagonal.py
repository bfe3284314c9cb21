r"""Gradient descent in a diagonal network on the robust risk, against l_q balls.

The network :math:`f(x) = \langle u_+^L - u_-^L, x\rangle` is linear in x, so the worst case has a
closed form in :math:`w = u_+^L - u_-^L`; but gradient descent moves u, and for L = 2 w tends to the
robust separator of least 1-norm, since :math:`\min \tfrac12 \|u\|_2^2 = \tfrac12 \min \|w\|_1`
(Tsilivis et al. 2024, Proposition 4.8). Three rules make the discrete path follow the flow:

- the step on the log-risk is c over a bound on its curvature, which grows with the parameters,
  :math:`\eta = c / (L^2 B^2 (\|u_+\|_{2L-2}^{2L-2} + \|u_-\|_{2L-2}^{2L-2}) + L (L-1) \|g\|_\infty
  \max u^{L-2})`, B the largest entry of X and g = Z^T a; c adapts by backtracking;
- the update multiplies by exp(+-h), so that u stays positive and, for L = 2, u_+ u_- constant as in
  the flow: the sign of a coordinate can always come back;
- the subgradient of the penalty is the implicit one, of the point where the step ends: against q =
  inf the step lands on w_j = 0 where it can, against q = 1 on ties of the largest |w_j|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from sklearn_robust._array_api import Array, namespace
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.rows import largest_entry
from sklearn_robust.solvers._descent import DescentRun, Stopping, follow
from sklearn_robust.solvers._geometry import Geometry
from sklearn_robust.solvers._rule_path import RulePath, State
from sklearn_robust.solvers.solution import Monitor, Solution
from sklearn_robust.threats import require_ball

FIRST_STEP = 16.0  # c of the first step
# factor on c after an accepted trial; slow, since long steps early on cost margin at the end
DIAGONAL_GROWTH = 1.02
_LARGEST_CHANGE = 0.9  # h at most: no parameter changes by a larger factor than e^0.9 in a step


def diagonal_descent(
    problem: RobustProblem,
    loss: MarginLoss,
    *,
    depth: int = 2,
    init_scale: float = 1e-3,
    max_iter: int = 50_000,
    loss_tol: float = 1e-3,
    tol: float = 1e-3,
    stop_if_not_separable: bool = False,
    record_every: int = 0,
    monitors: Sequence[Monitor] = (),
) -> Solution:
    """Train a diagonal network from the constant start init_scale / sqrt(2 d).

    Parameters
    ----------
    problem : RobustProblem
        k problems; each stops on its own.
    loss : MarginLoss
    depth : int, >= 2
        The depth L of the network.
    init_scale : float
    max_iter, loss_tol, tol, stop_if_not_separable, record_every, monitors
        As in `steepest_descent`.

    Returns
    -------
    Solution
        The coefficients are the effective ones, w; margins and gaps are measured in the 1-norm.
    """
    problem.require_one_set("The diagonal parametrisation", one_radius=True)
    require_ball(problem.threat, "the diagonal parametrisation")
    xp, problem = namespace(problem.y), problem.simplified()
    start = xp.full_like(
        problem.weighted_sum(problem.y), init_scale / math.sqrt(2 * problem.n_features)
    )
    rule = DiagonalDescent(depth, largest_entry(problem.rows))
    stopping = Stopping(max_iter, loss_tol, tol, stop_if_not_separable, record_every, monitors)
    step = xp.full_like(problem.log_total_weight, FIRST_STEP)
    path = RulePath(problem, loss, rule, (start, start), step, DIAGONAL_GROWTH)
    geometry = Geometry((LpNorm(1),) * problem.n_problems)
    return follow(path, DescentRun(problem, stopping, loss, geometry))


@dataclass(frozen=True)
class DiagonalDescent:
    """Multiplicative steps on the two halves of the parameters."""

    depth: int
    largest_entry: float

    def coef(self, state: State) -> Array:
        return state[0] ** self.depth - state[1] ** self.depth

    def propose(
        self,
        problem: RobustProblem,
        state: State,
        coef: Array,
        now: Evaluation,
        weighted_sum: Array,
        step: Array,
    ) -> tuple[State, Array]:
        rate = self.rate(state, weighted_sum, step)
        subgradient = self._subgradient(problem, state, coef, now, weighted_sum, rate)
        return self.moved(state, rate, subgradient), subgradient

    def rate(self, state: State, weighted_sum: Array, step: Array) -> Array:
        """The logarithms of the parameters change by it for each unit of u^{L-2} g: (k, 1)."""
        xp, depth = namespace(step), self.depth
        up, down = state[:2]
        sizes = xp.sum(up ** (2 * depth - 2) + down ** (2 * depth - 2), axis=-1)
        largest = xp.max(xp.maximum(up, down), axis=-1)
        of_depth = (
            depth * (depth - 1) * xp.max(xp.abs(weighted_sum), axis=-1) * largest ** (depth - 2)
        )
        curvature = depth**2 * self.largest_entry**2 * sizes + of_depth
        return (depth * step / xp.where(curvature > 0, curvature, xp.ones_like(curvature)))[:, None]

    def moved(self, state: State, rate: Array, subgradient: Array) -> tuple[Array, Array]:
        """Both halves after a multiplicative step along the subgradient by w (k, d)."""
        xp, depth = namespace(subgradient), self.depth
        up, down = state[:2]
        raised = up * xp.exp(
            -xp.clip(rate * up ** (depth - 2) * subgradient, -_LARGEST_CHANGE, _LARGEST_CHANGE)
        )
        lowered = down * xp.exp(
            xp.clip(rate * down ** (depth - 2) * subgradient, -_LARGEST_CHANGE, _LARGEST_CHANGE)
        )
        return raised, lowered

    def rates(self, state: State, rate: Array) -> Array:
        """How far w falls in a step, for each unit of the subgradient: (k, d)."""
        power = 2 * self.depth - 2
        return self.depth * rate * (state[0] ** power + state[1] ** power)

    def select(self, rows: np.ndarray) -> Self:
        return self

    def subgradient_norm(self, subgradient: Array) -> Array:
        return LpNorm(1).dual.value(subgradient)

    def _subgradient(
        self,
        problem: RobustProblem,
        state: State,
        coef: Array,
        now: Evaluation,
        weighted_sum: Array,
        rate: Array,
    ) -> Array:
        """The subgradient by w: implicit for the 1-norm and the inf-norm, else of least 2-norm."""
        xp = namespace(coef)
        penalty_weight = problem.radius * xp.sum(now.weights, axis=-1)
        if problem.threat.q == 1:
            rates = self.rates(state, rate)
            rates = xp.maximum(rates, 1e-20 * xp.max(rates, axis=-1, keepdims=True))
            ahead, scale = coef + rates * weighted_sum, problem.threat.scale
            if scale is None:
                return -weighted_sum + inf_norm_subgradient(ahead, rates, penalty_weight)
            rates = xp.where(scale > 0, scale**2 * rates, xp.ones_like(rates))
            return -weighted_sum + scale * inf_norm_subgradient(
                scale * ahead, rates, penalty_weight
            )
        if problem.threat.q != math.inf:
            return problem.threat.dual_norm.min_norm_subgradient(
                coef, -weighted_sum, penalty_weight, LpNorm(2)
            )
        up, down = state
        # the subgradient at which both halves end equal, clipped to the subdifferential: the
        # interval of half-width penalty_weight around -weighted_sum
        landing = (up - down) / (rate * (up ** (self.depth - 1) + down ** (self.depth - 1)))
        penalty_weight = penalty_weight[:, None]
        if problem.threat.scale is not None:
            penalty_weight = penalty_weight * problem.threat.scale
        return xp.minimum(
            xp.maximum(landing, -weighted_sum - penalty_weight), -weighted_sum + penalty_weight
        )


def inf_norm_subgradient(ahead: Array, rates: Array, penalty_weight: Array) -> Array:
    r"""The penalty weight times a subgradient of the inf-norm at w' = ahead - rates s.

    This is the s with :math:`\|s\|_1` = penalty_weight that clips w' to [-t, t]. Where
    penalty_weight suffices to bring all of w' to zero, t = 0.
    """
    xp = namespace(ahead)
    size = xp.abs(ahead)
    order = xp.argsort(-size, axis=-1)
    sorted_size = xp.take_along_axis(size, order, axis=-1)
    inverse = xp.take_along_axis(1 / rates, order, axis=-1)
    levels = (
        xp.cumulative_sum(sorted_size * inverse, axis=-1) - penalty_weight[:, None]
    ) / xp.cumulative_sum(inverse, axis=-1)
    # the right level is the largest: those of fewer or more coordinates lie below it
    level = xp.max(xp.clip(levels, 0, None), axis=-1)[:, None]
    return xp.sign(ahead) * xp.clip(size - level, 0, None) / rates
