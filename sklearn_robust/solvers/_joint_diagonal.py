r"""Gradient descent in a diagonal network on the joint robust risk of several classes against an
l_q ball.

The network has :math:`W = U_+^L - U_-^L` with U of shape (K, d); for L = 2 W tends to the joint
robust separator of least entrywise 1-norm. Step sizes and updates are those of two classes
(`sklearn_robust.solvers.diagonal`). A step changes W by about :math:`-r s`, r the rates
:math:`L h (u_+^{2L-2} + u_-^{2L-2})` of its entries and s the
subgradient :math:`-G + \sum_{l<k} (e_l - e_k) \delta_{lk}^T` of the point where the step ends,

.. math:: \arg\min_V \tfrac12 \sum (V - W - r G)^2 / r + \sum_{l<k} c_{lk}\,\sigma(v_l - v_k),

with :math:`c_{lk}` the radius times :math:`A_{lk}`. For q = inf and up to 12 classes it is a
total-variation proximal point of each feature; otherwise the :math:`\delta_{lk}` are found by
projections, which start from the perturbations of W, and where two classes agree from
those of the step before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_robust._array_api import to_numpy
from sklearn_robust._joint_flows import by_cuts, feature_capacities
from sklearn_robust._joint_saddle import flow
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import pair_perturbations
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import Evaluation
from sklearn_robust.rows import largest_entry
from sklearn_robust.solvers._descent import Stopping, follow
from sklearn_robust.solvers._geometry import Geometry
from sklearn_robust.solvers._joint_descent import Flat, JointRun
from sklearn_robust.solvers._rule_path import RulePath, State
from sklearn_robust.solvers.diagonal import (
    DIAGONAL_GROWTH,
    FIRST_STEP,
    DiagonalDescent,
    inf_norm_subgradient,
)
from sklearn_robust.solvers.solution import Monitor, Solution
from sklearn_robust.threats import require_ball
from sklearn_robust.total_variation import total_variation_prox

_PROJECTIONS = 8  # in a step at most, which starts near the end
# change of the perturbations of a pair, relative to its capacity, below which a step needs no more
# projections: far below the changes between steps
_STILL = 1e-5


def joint_diagonal_descent(
    problem: JointProblem,
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
    r"""Train a diagonal network on several classes jointly, from the constant start init_scale /
    sqrt(2 K d).

    Parameters
    ----------
    problem : JointProblem
        On NumPy or scipy.sparse data or rows of one's own, with an l_q ball as the threat.
    loss : MarginLoss
    depth, init_scale, max_iter, loss_tol, tol, stop_if_not_separable, record_every, monitors
        As in `diagonal_descent`.

    Returns
    -------
    Solution
        With k = 1 and arrays (1, K, d), (1, K) and (1, K, n) as coefficients, intercepts and
        weights. The coefficients are the effective ones, W; margins and gaps are measured in the
        entrywise 1-norm.

    Raises
    ------
    ValueError
        If the threat is no l_q ball.

    Notes
    -----
    The 1-norm is that of Proposition 4.8 of Tsilivis et al. (2024), read for the K d entries of W:
    the margins depend on U through W alone.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.joint import JointProblem
    >>> from sklearn_robust.losses import LOSSES
    >>> from sklearn_robust.solvers import joint_diagonal_descent
    >>> X, y = np.array([[2.0, 0.0], [0.0, 2.0], [-2.0, -2.0]]), np.array([0, 1, 2])
    >>> problem = JointProblem.from_data(X, y, q=2, eps=0.5, fit_intercept=True)
    >>> found = joint_diagonal_descent(problem, LOSSES["exponential"], loss_tol=0, tol=0.05)
    >>> found.separable, bool(found.gap[0] <= 0.05)
    ([True], True)
    """
    require_ball(problem.threat, "the diagonal parametrisation")
    flat: Any = Flat(problem)
    dtype = problem.log_weight.dtype
    start = np.full((1, flat.n_features), init_scale / math.sqrt(2 * flat.n_features), dtype)
    n_pairs = 0 if by_cuts(problem) else len(problem.pairs[0])
    taken = np.zeros((1, n_pairs, problem.n_features))
    rule = _JointDiagonalDescent(depth, largest_entry(problem.rows))
    stopping = Stopping(max_iter, loss_tol, tol, stop_if_not_separable, record_every, monitors)
    step = np.full(1, FIRST_STEP, dtype)
    path = RulePath(flat, loss, rule, (start, start, taken), step, DIAGONAL_GROWTH)
    return follow(path, JointRun(flat, stopping, loss, Geometry((LpNorm(1),))))


@dataclass(frozen=True)
class _JointDiagonalDescent(DiagonalDescent):
    """Multiplicative steps on the two halves of the parameters (1, K d), and the perturbations of
    the pairs, in units of their capacities, for steps by projections.
    """

    def propose(
        self,
        problem: Any,
        state: State,
        coef: np.ndarray,
        now: Evaluation,
        weighted_sum: np.ndarray,
        step: np.ndarray,
    ) -> tuple[State, np.ndarray]:
        joint = problem.joint
        rate = self.rate(state, weighted_sum, step)
        W, G, rates = (
            problem.matrix(x).astype(np.float64)
            for x in (coef, weighted_sum, self.rates(state, rate))
        )
        capacities = now.weights.capacities
        ahead, taken = W + rates * G, state[2][0]
        if by_cuts(joint):
            ends = total_variation_prox(ahead, feature_capacities(joint, capacities), rates=rates)
            subgradient = (W - ends) / rates
        else:
            if 1 < joint.threat.q < math.inf:
                differ = joint.pair_differences(W).any(axis=1)[:, None]
                taken = np.where(differ, pair_perturbations(joint, W), taken)
            start = capacities[:, None] * taken
            moved = implicit_perturbations(joint, ahead, rates, capacities, start)
            taken = moved / np.where(capacities > 0, capacities, 1.0)[:, None]
            subgradient = flow(moved, joint.n_classes) - G
        subgradient = subgradient.astype(coef.dtype, copy=False).reshape(1, -1)
        return (*self.moved(state, rate, subgradient), taken[None]), subgradient


def implicit_perturbations(
    problem: JointProblem,
    ahead: np.ndarray,
    rates: np.ndarray,
    capacities: np.ndarray,
    start: np.ndarray,
    *,
    max_iter: int = _PROJECTIONS,
) -> np.ndarray:
    r"""Perturbations of the pairs that lessen :math:`\sum (V - r\,\Phi(\delta))^2 / r`, with the
    flow :math:`\Phi(\delta) = \sum_{l<k} (e_l - e_k) \delta_{lk}^T`, by accelerated projected
    gradient.

    Parameters
    ----------
    problem : JointProblem
        With an l_q ball.
    ahead : ndarray of shape (K, d)
        V, where a step without penalty would end.
    rates : ndarray of shape (K, d)
        r > 0.
    capacities : ndarray of shape (K(K-1)/2,)
        Factors of the unit ball for the pairs.
    start : ndarray of shape (K(K-1)/2, d)
        Perturbations within the capacities.
    max_iter : int, default=8
        Projections; fewer where the perturbations hardly move.

    Returns
    -------
    ndarray of shape (K(K-1)/2, d)
    """
    low, high = problem.pairs
    # K - 1 pairs share a class, which bounds the curvature by a diagonal
    curvature = (problem.n_classes - 1) * (rates[low] + rates[high])
    moved = ahead_of_moved = start
    momentum = 1.0
    for _ in range(max_iter):
        ends = ahead - rates * flow(ahead_of_moved, problem.n_classes)
        gradient = ends[high] - ends[low]
        new = _projected(problem.threat, ahead_of_moved, gradient, curvature, capacities)
        still = np.abs(new - moved).max(axis=1) <= _STILL * capacities
        # restart where the step turns back
        if np.vdot(curvature * (ahead_of_moved - new), new - moved) > 0:
            momentum = 1.0
        grown = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
        ahead_of_moved = new + (momentum - 1) / grown * (new - moved)
        moved, momentum = new, grown
        if still.all():
            break
    return moved


def _projected(
    threat: Any,
    perturbations: np.ndarray,
    gradient: np.ndarray,
    curvature: np.ndarray,
    capacities: np.ndarray,
) -> np.ndarray:
    r"""The point of the balls of these radii that minimises :math:`\langle g, \delta \rangle +
    \tfrac12 \sum c\,(\delta - \delta_0)^2`; for 1 < q < inf with the largest c of each pair.
    """
    scale = 1.0 if threat.scale is None else to_numpy(threat.scale)
    if threat.q == 1:
        reached = np.where(scale > 0, scale**2 * curvature, 1.0)
        target = scale * (curvature * perturbations - gradient)
        return scale * inf_norm_subgradient(target, reached, capacities)
    if threat.q == math.inf:
        reach = capacities[:, None] * scale
        return np.clip(perturbations - gradient / curvature, -reach, reach)
    largest = curvature.max(axis=1, keepdims=True)
    new: np.ndarray = threat.project(perturbations - gradient / largest, capacities)
    return new
