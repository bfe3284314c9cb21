r"""Steepest descent on the joint robust risk of several classes, in a norm of the coefficients.

Closed-form steps are for l_q balls with q = inf; other threats need a projection.

The subdifferential of the log-risk at W is :math:`-G + \sum_{l<k} (e_l - e_k) \delta_{lk}^T` with
:math:`\delta_{lk} \in c_{lk}\,\partial \sigma(w_l - w_k)`, :math:`c_{lk} = \text{radius}\,A_{lk}`.
Where two classes agree the pair's penalty has a kink, for q = inf on each feature.

**q = inf, up to 12 classes, an l_p norm.** The element of least dual norm has a closed form: each
feature is a total-variation proximal point over its groups of tied classes, least in every p-norm
(`sklearn_robust.total_variation`). For p = 2 the step is the proximal step :math:`W \leftarrow
\operatorname{prox}(W + \eta G)` of the penalty. Any other step keeps the order of the classes on
each feature: classes that would pass each other end level (isotonic regression), and are tied from
then on.

For p = 1 a single coordinate of K d is steepest. With loss_tol = 0, where the path goes on to its
limit, those that nearly are move with it: the direction, as the step, may lose no more than the
share that is still open.

**Otherwise** the step minimises the model of the log-risk that keeps the pair penalties,

.. math:: \min_{\|D\| \le \rho} -\langle G, D \rangle + \sum_{l<k} c_{lk}\,\sigma(w_l - w_k + d_l -
    d_k), \quad \rho = \eta\,\|v\|_*,

with v the subgradient of the perturbations of the step before (`sklearn_robust._joint_saddle`). It
is the steepest descent step of the norm :math:`\|\cdot\|` that takes the penalty at its end: right
at every kink, and the plain step away from them, where it costs no iteration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy

from sklearn_robust._array_api import Array, like, namespace, to_numpy
from sklearn_robust._joint_flows import (
    best_perturbations,
    exact_by_cuts,
    feasibility_of_sums,
    feature_capacities,
    over_capacities,
    weighted_sums,
)
from sklearn_robust._joint_saddle import StepModel, flow, nearly_steepest
from sklearn_robust.certificates import Certified
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import (
    certify,
    entropy_bound,
    pair_perturbations,
    repaired_weights,
)
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.problems import Evaluation
from sklearn_robust.solvers._descent import DescentRun, Iterate, Stopping, follow
from sklearn_robust.solvers._geometry import Geometry
from sklearn_robust.solvers._rule_path import RulePath, State
from sklearn_robust.solvers.solution import Monitor, Solution, risk_gap
from sklearn_robust.solvers.steepest import STEEPEST_GROWTH, paper_step
from sklearn_robust.threats import ProximalThreat, mapped, require
from sklearn_robust.total_variation import total_variation_prox

# largest share of its capacity that a cut or a pair carries, from which weights are near a proof
_NEAR_PROOF = 1.1
# share of the largest decrease of its model that a step may lack, and iterations for it
_STEP_TOL, _STEP_ITERATIONS = 1e-2, 200
# relative gap of the perturbations of a bound on the way, and iterations for them
_BOUND_TOL, _BOUND_ITERATIONS = 1e-4, 100


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
    keep_weights: bool = True,
) -> Solution:
    r"""Follow the path of steepest descent of the joint robust risk.

    Parameters
    ----------
    problem : JointProblem
        On NumPy, torch or scipy.sparse data or rows of one's own, with a threat that has a
        projection. On torch tensors the products with X and the weights stay on their device; the
        steps, of K d numbers, and the certificates are NumPy's.
    loss : MarginLoss
    norm : Norm
        The geometry, on the K d coefficients: `LpNorm`, `SchattenNorm` of K rows, or a norm of
        one's own.
    step_size, max_iter, loss_tol, tol, stop_if_not_separable, record_every, monitors
        As in `steepest_descent`. "paper" is 1 / B^2, :math:`B = \max |x_{ij}| + \epsilon`.
    coef_init : array of shape (K, d), optional
        Start; zero by default.
    keep_weights : bool, default=True
        Whether the solution has the weights that prove it, which may be larger than the data.

    Returns
    -------
    Solution
        With k = 1 and arrays (1, K, d), (1, K) and (1, K, n) or (1, K, 0) as coefficients,
        intercepts and weights.

    Raises
    ------
    ValueError
        If the threat has no projection.
    """
    problem.require_one_set("Steepest descent on several classes jointly")
    require(problem.threat, ProximalThreat, "steepest descent on several classes jointly")
    flat: Any = Flat(problem)
    given = np.zeros(flat.n_features) if coef_init is None else to_numpy(coef_init)
    coef = like(problem.log_weight, given.reshape(1, -1))
    one = namespace(coef).ones_like(coef[:, 0])
    step = (
        paper_step(problem.rows, problem.threat, problem.radius * one)
        if isinstance(step_size, str)
        else step_size * one
    )
    stopping = Stopping(max_iter, loss_tol, tol, stop_if_not_separable, record_every, monitors)
    growth = STEEPEST_GROWTH if step_size == "adaptive" else None
    geometry = Geometry((norm,))
    n_pairs = 0 if exact_by_cuts(problem, norm) else len(problem.pairs[0])
    # a trial step may raise the risk beyond all numbers, and is evaluated anew then
    with np.errstate(over="ignore", invalid="ignore"):
        # the perturbations of the pairs, in units of their capacities, from which a step starts
        state = [coef, np.zeros((1, n_pairs, problem.n_features))]
        path = RulePath(flat, loss, _JointRule(geometry), tuple(state), step, growth)
        state.clear()  # they may be as large as the data
        run = JointRun(flat, stopping, loss, geometry)
        run.keep_weights = keep_weights
        return follow(path, run)


@dataclass(frozen=True)
class PointWeights:
    """The weights of the loss at a point of a path, of which the steps need sums alone.

    Attributes
    ----------
    problem : JointProblem
    loss : MarginLoss
    coef : array of shape (K, d)
    intercept : array of shape (K,)
    weighted_sum : array of shape (K, d)
        G.
    class_sums : ndarray of shape (K, K)
        In float64.
    """

    problem: JointProblem
    loss: MarginLoss
    coef: Array
    intercept: Array
    weighted_sum: Array
    class_sums: np.ndarray

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self.class_sums.sum())

    @property
    def capacities(self) -> np.ndarray:
        """radius times A_lk for the pairs l < k."""
        between: np.ndarray = (self.class_sums + self.class_sums.T)[self.problem.pairs]
        return self.problem.radius * between

    def array(self) -> Array:
        """The weights (K, n), computed anew: they may be larger than the data."""
        return self.problem.evaluate(self.loss, self.coef, self.intercept).weights


@dataclass(frozen=True)
class Flat:
    """A joint problem as one problem (k = 1) of K d coefficients, as the loop of paths takes it."""

    joint: JointProblem

    n_problems = 1

    @cached_property
    def host(self) -> JointProblem:
        """The joint problem on NumPy or scipy.sparse arrays."""
        joint = self.joint
        if isinstance(joint.y, np.ndarray):
            return joint
        X, y, log_weight = (to_numpy(array) for array in (joint.X, joint.y, joint.log_weight))
        threat = mapped(joint.threat, to_numpy)
        return replace(joint, X=X, y=y, log_weight=log_weight, threat=threat)

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
        return like(self.log_weight, np.full(1, self.joint.log_total_weight))

    def select(self, rows: Any) -> Flat:
        return self

    def matrix(self, coef: Array) -> Array:
        """The coefficients as (K, d)."""
        return coef.reshape(self.joint.n_classes, -1)

    def evaluate(self, loss: MarginLoss, coef: Array, *, near: Array | None = None) -> Evaluation:
        start = None if near is None else near[0]
        matrix = self.matrix(coef)
        now = self.joint.evaluate(loss, matrix, near=start)
        weights = PointWeights(
            self.joint,
            loss,
            matrix,
            now.intercept,
            self.joint.weighted_sum(now.weights),
            _in_double(self.joint.class_sums(now.weights)),
        )
        return Evaluation(
            now.intercept[None],
            now.margins[None],
            namespace(coef).asarray(now.log_risk, device=coef.device)[None],
            weights,
        )

    def weighted_sum(self, weights: PointWeights) -> Array:
        return weights.weighted_sum.reshape(1, -1)


@dataclass(frozen=True)
class _JointRule:
    """Steps along the steepest direction in the norm, stopped at the kinks of the penalty.

    Attributes
    ----------
    geometry : Geometry
    slack : float
        Share of the largest decrease that a direction may lack; positive for p = 1 alone.
    """

    geometry: Geometry
    slack: float = 0.0

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
        joint, norm = problem.host, self.geometry.norms[0]
        W, G = (_in_double(problem.matrix(x)) for x in (coef, weighted_sum))
        capacities = now.weights.capacities
        size, taken = float(step[0]), state[1][0]
        if not exact_by_cuts(joint, norm):
            moved, subgradient, taken = model_step(
                joint, norm, W, G, capacities, size, taken, self.slack
            )
        elif norm == LpNorm(2):
            moved = total_variation_prox(W + size * G, feature_capacities(joint, size * capacities))
            subgradient = (W - moved) / size
        else:
            subgradient = least_subgradient(joint, W, G, capacities)
            length = size * float(norm.dual.value(subgradient.ravel()))
            direction = nearly_steepest(norm, subgradient, self.slack)
            moved = stopped_at_ties(joint, W, W - length * direction)
        moved, subgradient = (like(coef, array.reshape(1, -1)) for array in (moved, subgradient))
        return (moved, taken[None]), subgradient

    def select(self, rows: np.ndarray) -> Self:
        return self

    def subgradient_norm(self, subgradient: Array) -> Array:
        return self.geometry.subgradient_norm(subgradient)


def model_step(
    problem: JointProblem,
    norm: Norm,
    coef: np.ndarray,
    weighted_sum: np.ndarray,
    capacities: np.ndarray,
    size: float,
    taken: np.ndarray,
    slack: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""The step that brings nearly the largest decrease of the model of the log-risk.

    Parameters
    ----------
    problem : JointProblem
    norm : Norm
    coef, weighted_sum : ndarray of shape (K, d)
        W and G.
    capacities : ndarray of shape (K(K-1)/2,)
        radius times A_lk.
    size : float
        :math:`\eta`.
    taken : ndarray of shape (K(K-1)/2, d)
        Multiples of the unit set's points that the pairs took at the step before.
    slack : float, default=0
        Share of the largest decrease that the step may lack.

    Returns
    -------
    moved : ndarray of shape (K, d)
        The coefficients after the step.
    subgradient : ndarray of shape (K, d)
        Its product with the step is at most the decrease of the model.
    taken : ndarray of shape (K(K-1)/2, d)
        What the pairs take now.
    """
    start = capacities[:, None] * taken
    left = weighted_sum - flow(start, problem.n_classes)
    length = size * float(norm.dual.value(left.ravel()))
    model = StepModel(problem, norm, coef, weighted_sum, capacities, length, slack)
    found = model.best(start, tol=max(_STEP_TOL, slack), max_iter=_STEP_ITERATIONS)
    taken = over_capacities(found.perturbations, capacities)
    if model.is_flat(found):  # W minimises the risk
        return coef, np.zeros_like(coef), taken
    left, step = model.left(found.perturbations), found.step
    decrease = float(np.vdot(left, step))
    if found.value < 0 < decrease:
        # where the perturbations are not the worst ones after the step the model falls less
        left = left * min(1.0, -found.value / decrease)
    else:
        # no decrease was found at this length: the step is refused, and a shorter one follows
        step = model.longest(left)
    return coef + step, -left, taken


def least_subgradient(
    problem: JointProblem, coef: np.ndarray, weighted_sum: np.ndarray, capacities: np.ndarray
) -> np.ndarray:
    r"""The least element (K, d) of :math:`-G + \sum_{l<k} (e_l - e_k) \delta_{lk}^T`,
    :math:`\delta_{lk} \in c_{lk}\,\partial \sigma(w_l - w_k)`.

    Parameters
    ----------
    problem : JointProblem
        Against the ball q = inf, with at most 12 classes.
    coef : ndarray of shape (K, d)
    weighted_sum : ndarray of shape (K, d)
        G.
    capacities : ndarray of shape (K(K-1)/2,)
        radius times A_lk.

    Returns
    -------
    ndarray of shape (K, d)
        Least in every l_p norm.
    """
    fixed = capacities[:, None] * pair_perturbations(problem, coef)
    left = weighted_sum - flow(fixed, problem.n_classes)
    tied = problem.pair_differences(coef) == 0
    return -total_variation_prox(left, feature_capacities(problem, capacities), tied)


def stopped_at_ties(problem: JointProblem, coef: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """The moved coefficients (K, d), with classes that would pass each other on a feature level."""
    before, after = problem.pair_differences(coef), problem.pair_differences(moved)
    crossed = before * after < 0
    if problem.threat.scale is not None:
        crossed &= to_numpy(problem.threat.scale) > 0
    moved = moved.copy()
    for j in np.flatnonzero(crossed.any(axis=0)):
        order = np.lexsort((moved[:, j], coef[:, j]))
        moved[order, j] = scipy.optimize.isotonic_regression(moved[order, j]).x
    return moved


class JointRun(DescentRun):
    """The path of the joint risk with the certificates of several classes.

    Attributes
    ----------
    keep_weights : bool
        Whether solutions have the weights that prove them.
    """

    problem: Any  # Flat
    keep_weights = True

    def tune(self, path: Any) -> None:
        """Set the share of its predicted decrease that a step must bring, and for p = 1 on the way
        to the limit the share that its direction may lack.
        """
        super().tune(path)
        to_limit = self.stopping.loss_tol == 0 and self.geometry.norms[0] == LpNorm(1)
        if to_limit and isinstance(path.rule, _JointRule):
            path.rule = replace(path.rule, slack=1 - float(self.sufficient_decrease[0]))

    def keep(self, rows: np.ndarray) -> None:
        """Go on with the one problem, or end."""
        self.ids = self.ids[rows]

    def _tighten(self, at: Iterate) -> None:
        """Keep the least bound D(a) on the margin, and the weights that prove it."""
        joint, weights = self.problem.host, at.now.weights
        total = weights.total
        if not total > 0 or not math.isfinite(at.now.log_risk[0]):
            return
        capacities = weights.capacities
        norm = self.geometry.norms[0]
        W, G = (_in_double(self.problem.matrix(x)) for x in (at.coef, at.weighted_sum))
        if exact_by_cuts(joint, norm):
            left = total_variation_prox(G, feature_capacities(joint, capacities))
        else:
            start = capacities[:, None] * pair_perturbations(joint, W)
            taken = best_perturbations(
                joint, norm, G, capacities, start, W, tol=_BOUND_TOL, max_iter=_BOUND_ITERATIONS
            )
            left = G - flow(taken, joint.n_classes)
        bound = float(norm.dual.value(left.ravel())) / total
        if bound < self.bounds[0]:
            self.bounds[0] = bound
            self.proofs = weights

    def near_proof(self, iteration: int, at: Any) -> np.ndarray:
        """Whether the capacities of the pairs would nearly do."""
        if iteration > self.patience:
            return np.ones(1, dtype=bool)
        joint = self.problem.host
        balanced = joint.balanced(to_numpy(at.weights.array()), overwrite=True)
        sums = weighted_sums(joint, balanced)
        del balanced
        start = pair_perturbations(joint, to_numpy(self.problem.matrix(at.coef)))
        return np.full(1, feasibility_of_sums(joint, sums, start).ratio <= _NEAR_PROOF)

    def _proven(self, i: int, at: Iterate) -> Certified:
        """The predictor with what its least bound proves."""
        W, intercept = (to_numpy(x) for x in (self.problem.matrix(at.coef), at.intercept[0]))
        proof = self.proofs if self.bounds[0] < math.inf else at.weights
        norm = self.geometry.norms[0]
        proven = certify(
            self.problem.host,
            norm,
            W,
            lambda: to_numpy(proof.array()),
            intercept,
            keep_weights=self.keep_weights,
        )
        coef, weights, intercept, margin, bound = (
            like(at.coef, np.asarray(array)[None])
            for array in (W, proven.weights, intercept, proven.margin, proven.bound)
        )
        return replace(
            proven, coef=coef, weights=weights, intercept=intercept, margin=margin, bound=bound
        )

    def _risk_gap(self, i: int, now: Evaluation) -> tuple[float, Array | None]:
        """The certified relative gap of the risk, and the weights (1, K, n) that prove it.

        They are inf and None without a proof that the data are not separable.
        """
        joint = self.problem.host
        weights = repaired_weights(joint, _in_double(now.weights.array()), overwrite=True)
        if not np.isfinite(weights).all():
            return math.inf, None
        gap = risk_gap(entropy_bound(joint, self.loss, weights), float(now.log_risk[0]))
        weights = weights if self.keep_weights else weights[:, :0].copy()
        return gap, like(now.log_risk, weights[None])


def _in_double(x: Array) -> np.ndarray:
    return to_numpy(x).astype(np.float64, copy=False)
