r"""Steepest descent on the joint robust risk of several classes, in an entrywise p-norm.

The subdifferential of the log-risk at W is :math:`-G + \sum_{l<k} (e_l - e_k) \delta_{lk}^T` with
:math:`\delta_{lk} \in \text{radius}\,A_{lk}\,\partial \sigma(w_l - w_k)`. Where two classes agree
the pair's penalty has a kink, and a step follows the element of least dual norm, which is known for
l_q balls:

========  ==========================================================================================
q = inf   A kink wherever classes agree on a feature. Each feature is a total-variation proximal
          point over its groups of tied classes, least in every p-norm
          (`sklearn_robust.total_variation`).
1<q<inf   A kink where two classes agree on all features. From W = 0 the path leaves by a step of
          the 2-norm; at any other kink a path with p != 2 ends.
========  ==========================================================================================

For p = 2 the step is the proximal step :math:`W \leftarrow \operatorname{prox}(W + \eta G)` of the
penalty, which needs no subgradient: for q = inf and up to 12 classes in closed form, otherwise by
projections that start from the perturbations of the step before. Any other step keeps the order of
the classes on each feature for q = inf: classes that would pass each other end level (isotonic
regression), and are tied from then on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.optimize import isotonic_regression

from sklearn_robust._array_api import Array, to_numpy
from sklearn_robust.certificates import Certified
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import (
    by_cuts,
    certify,
    entropy_bound,
    feasibility,
    feature_capacities,
    flow,
    nearest_perturbations,
    pair_capacities,
    pair_perturbations,
    repaired_weights,
)
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.problems import Evaluation
from sklearn_robust.solvers._descent import DescentRun, Iterate, Stopping, follow
from sklearn_robust.solvers._geometry import Geometry
from sklearn_robust.solvers._rule_path import RulePath, State
from sklearn_robust.solvers.solution import Monitor, Solution
from sklearn_robust.solvers.steepest import STEEPEST_GROWTH, paper_step
from sklearn_robust.threats import ProximalThreat, is_ball, require
from sklearn_robust.total_variation import MAX_CLASSES, total_variation_prox

# largest share of its capacity that a cut or a pair carries, from which weights are near a proof
_NEAR_PROOF = 1.1
_PROJECTIONS = 20  # in a proximal step, which starts from the perturbations of the step before


def joint_steepest_descent(
    problem: JointProblem,
    loss: MarginLoss,
    norm: Norm,
    *,
    step_size: float | str = "adaptive",
    max_iter: int = 50_000,
    loss_tol: float = 1e-3,
    tol: float = 1e-3,
    stop_if_not_separable: bool = False,
    coef_init: Array | None = None,
    record_every: int = 0,
    monitors: Sequence[Monitor] = (),
) -> Solution:
    r"""Follow the path of steepest descent of the joint robust risk.

    Parameters
    ----------
    problem : JointProblem
        On NumPy or scipy.sparse data or rows of one's own. For p = 2 the threat has a projection;
        otherwise it is an l_q ball with 1 < q < inf, or with q = inf and at most 12 classes.
    loss : MarginLoss
    norm : Norm
        The entrywise geometry p, on the K d coefficients.
    step_size, max_iter, loss_tol, tol, stop_if_not_separable, record_every, monitors
        As in `steepest_descent`. "paper" is 1 / B^2, :math:`B = \max |x_{ij}| + \epsilon`.
    coef_init : array of shape (K, d), optional
        Start; zero by default.

    Returns
    -------
    Solution
        With k = 1 and arrays (1, K, d), (1, K) and (1, K, n) as coefficients, intercepts and
        weights.

    Raises
    ------
    ValueError
        If the threat is another.
    """
    require_steps(problem, norm)
    flat: Any = Flat(problem)
    coef = np.zeros((1, flat.n_features)) if coef_init is None else coef_init.reshape(1, -1)
    coef = coef.astype(problem.log_weight.dtype)
    step = (
        paper_step(problem.rows, problem.threat, np.full(1, problem.radius))
        if isinstance(step_size, str)
        else np.full(1, step_size)
    ).astype(coef.dtype)
    stopping = Stopping(max_iter, loss_tol, tol, stop_if_not_separable, record_every, monitors)
    growth = STEEPEST_GROWTH if step_size == "adaptive" else None
    geometry = Geometry((norm,))
    # perturbations of the pairs, in units of their capacities, for proximal steps by projections
    n_pairs = 0 if by_cuts(problem) or norm != LpNorm(2) else len(problem.pairs[0])
    taken = np.zeros((1, n_pairs, problem.n_features))
    # a trial step may raise the risk beyond all numbers, and is evaluated anew then
    with np.errstate(over="ignore", invalid="ignore"):
        path = RulePath(flat, loss, _JointRule(geometry), (coef, taken), step, growth)
        return follow(path, JointRun(flat, stopping, loss, geometry))


def require_steps(problem: JointProblem, norm: Norm) -> None:
    """Refuse a threat without what a step in this norm needs."""
    threat = problem.threat
    if norm == LpNorm(2):
        require(threat, ProximalThreat, "steepest descent on several classes jointly")
        return
    if by_cuts(problem) or (is_ball(threat) and 1 < threat.q < math.inf):
        return
    raise ValueError(
        f"Steepest descent on several classes jointly in {norm!r} serves l_q balls with 1 < q < "
        f"inf, and q = inf with at most {MAX_CLASSES} classes, got threat={threat!r} and "
        f"{problem.n_classes} classes: use LpNorm(2), or minimise the risk."
    )


@dataclass(frozen=True)
class Flat:
    """A joint problem as one problem (k = 1) of K d coefficients, as the loop of paths takes it."""

    joint: JointProblem

    n_problems = 1

    @property
    def n_features(self) -> int:
        return self.joint.n_classes * self.joint.n_features

    @property
    def y(self) -> Array:
        return self.joint.log_weight[None]

    @property
    def log_weight(self) -> Array:
        return self.joint.log_weight[None]

    @property
    def log_total_weight(self) -> Array:
        return np.full(1, self.joint.log_total_weight)

    def select(self, rows: Any) -> Flat:
        return self

    def matrix(self, coef: Array) -> Array:
        """The coefficients as (K, d)."""
        return coef.reshape(self.joint.n_classes, -1)

    def evaluate(self, loss: MarginLoss, coef: Array, *, near: Array | None = None) -> Evaluation:
        start = None if near is None else near[0]
        now = self.joint.evaluate(loss, self.matrix(coef), near=start)
        return Evaluation(
            now.intercept[None],
            now.margins[None],
            np.asarray(now.log_risk)[None],
            now.weights[None],
        )

    def weighted_sum(self, weights: Array) -> Array:
        return self.joint.weighted_sum(weights[0]).reshape(1, -1)


@dataclass(frozen=True)
class _JointRule:
    """Steps along the steepest direction in the norm, stopped at the kinks of the penalty."""

    geometry: Geometry

    def coef(self, state: State) -> Array:
        return state[0]

    def propose(
        self,
        problem: Any,
        state: State,
        coef: Array,
        now: Evaluation,
        weighted_sum: Array,
        step: Array,
    ) -> tuple[State, Array]:
        joint, norm = problem.joint, self.geometry.norms[0]
        W, G = problem.matrix(coef), problem.matrix(weighted_sum)
        capacities = pair_capacities(joint, now.weights[0])
        size = float(step[0])
        taken = state[1][0]
        if norm == LpNorm(2):
            moved, taken = proximal_step(joint, W + size * G, size * capacities, taken)
            subgradient = (W - moved) / size
        else:
            subgradient = least_subgradient(joint, W, G, capacities)
            # from W = 0 with q < inf the least element in the 2-norm descends in the 2-norm
            leaving = not by_cuts(joint) and not W.any()
            direction = (LpNorm(2) if leaving else norm).steepest_direction(subgradient.ravel())
            length = size * norm.dual.value(subgradient.ravel())
            moved = W - length * direction.reshape(W.shape)
            if by_cuts(joint):
                moved = stopped_at_ties(joint, W, moved)
        moved = moved.astype(coef.dtype, copy=False)
        subgradient = subgradient.astype(coef.dtype, copy=False).reshape(1, -1)
        return (moved.reshape(1, -1), taken[None]), subgradient

    def select(self, rows: np.ndarray) -> Self:
        return self

    def subgradient_norm(self, subgradient: Array) -> Array:
        return self.geometry.subgradient_norm(subgradient)


def proximal_step(
    problem: JointProblem, ahead: np.ndarray, capacities: np.ndarray, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""The proximal point of :math:`\sum_{l<k} c_{lk}\,\sigma(u_l - u_k)` at (K, d), and the
    multiples of the unit set's points that the pairs take there.

    By Moreau's identity it is what the nearest flow leaves. The projections start from those
    `taken` (K(K-1)/2, d) at a step before; for q = inf and up to 12 classes they are not needed.
    """
    if by_cuts(problem):
        return total_variation_prox(ahead, feature_capacities(problem, capacities)), taken
    moved = nearest_perturbations(
        problem, ahead, capacities, capacities[:, None] * taken, max_iter=_PROJECTIONS
    )
    positive = np.where(capacities > 0, capacities, 1.0)[:, None]
    return ahead - flow(moved, problem.n_classes), moved / positive


def least_subgradient(
    problem: JointProblem, coef: np.ndarray, weighted_sum: np.ndarray, capacities: np.ndarray
) -> np.ndarray:
    r"""The least element (K, d) of :math:`-G + \sum_{l<k} (e_l - e_k) \delta_{lk}^T`,
    :math:`\delta_{lk} \in c_{lk}\,\partial \sigma(w_l - w_k)`.

    Parameters
    ----------
    problem : JointProblem
    coef : ndarray of shape (K, d)
    weighted_sum : ndarray of shape (K, d)
        G.
    capacities : ndarray of shape (K(K-1)/2,)
        radius times A_lk.

    Returns
    -------
    ndarray of shape (K, d)
        Least in every entrywise p-norm for q = inf; in the 2-norm otherwise.
    """
    n_classes = problem.n_classes
    fixed = capacities[:, None] * pair_perturbations(problem, coef)
    left = weighted_sum - flow(fixed, n_classes)
    if by_cuts(problem):
        tied = problem.pair_differences(coef) == 0
        return -total_variation_prox(left, feature_capacities(problem, capacities), tied)
    tied_pairs = ~np.any(problem.pair_differences(coef), axis=1)
    if not tied_pairs.any():
        return -left
    free = nearest_perturbations(problem, left, np.where(tied_pairs, capacities, 0.0))
    return flow(free, n_classes) - left


def stopped_at_ties(problem: JointProblem, coef: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """The moved coefficients (K, d), with classes that would pass each other on a feature level."""
    before, after = problem.pair_differences(coef), problem.pair_differences(moved)
    crossed = before * after < 0
    if problem.threat.scale is not None:
        crossed &= to_numpy(problem.threat.scale) > 0
    moved = moved.copy()
    for j in np.flatnonzero(crossed.any(axis=0)):
        order = np.lexsort((moved[:, j], coef[:, j]))
        moved[order, j] = isotonic_regression(moved[order, j]).x
    return moved


class JointRun(DescentRun):
    """The path of the joint risk with the certificates of several classes."""

    problem: Any  # Flat

    def _tighten(self, at: Iterate) -> None:
        """Keep the least bound D(a) on the margin, and its weights."""
        joint, weights = self.problem.joint, at.now.weights[0]
        total = float(weights.sum())
        if not total > 0 or not np.isfinite(at.now.log_risk[0]):
            return
        capacities = pair_capacities(joint, weights)
        W, G = self.problem.matrix(at.coef), self.problem.matrix(at.weighted_sum)
        if by_cuts(joint):
            lefts = [total_variation_prox(G, feature_capacities(joint, capacities))]
        else:
            moved = [capacities[:, None] * pair_perturbations(joint, W)]
            if not (is_ball(joint.threat) and joint.threat.q > 1):
                # several perturbations are worst for a predictor
                moved.append(
                    nearest_perturbations(joint, G, capacities, moved[0], max_iter=_PROJECTIONS)
                )
            lefts = [G - flow(taken, joint.n_classes) for taken in moved]
        dual = self.geometry.norms[0].dual
        bound = min(float(dual.value(left.ravel())) for left in lefts) / total
        if bound < self.bounds[0]:
            self.bounds[0] = bound
            self.proofs = at.now.weights.copy()

    def near_proof(self, iteration: int, at: Any) -> np.ndarray:
        """Whether the capacities of the pairs would nearly do."""
        if iteration > self.patience:
            return np.ones(1, dtype=bool)
        joint = self.problem.joint
        weights = joint.balanced(at.weights[0])
        start = pair_perturbations(joint, self.problem.matrix(at.coef))
        return np.full(1, feasibility(joint, weights, start).ratio <= _NEAR_PROOF)

    def _proven(self, i: int, at: Iterate) -> Certified:
        """The predictor with what its least bound proves."""
        W = self.problem.matrix(at.coef)
        norm = self.geometry.norms[0]
        proven = certify(self.problem.joint, norm, W, self.proofs[0], at.intercept[0])
        return replace(
            proven,
            coef=proven.coef[None],
            weights=proven.weights[None],
            intercept=proven.intercept[None],
            margin=np.full(1, proven.margin),
            bound=np.full(1, proven.bound),
        )

    def _risk_gap(self, i: int, now: Evaluation) -> tuple[float, Array | None]:
        """The certified relative gap of the risk, and the weights (1, K, n) that prove it.

        They are inf and None without a proof that the data are not separable.
        """
        joint = self.problem.joint
        weights = repaired_weights(joint, to_numpy(now.weights[0]).astype(np.float64))
        if not np.isfinite(weights).all():
            return math.inf, None
        excess = float(now.log_risk[0]) - entropy_bound(joint, self.loss, weights)
        return float(-np.expm1(-excess)), weights[None]
