"""The radius of an l_q ball, or the multiple of another threat, from which on a fit is constant."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy import sparse

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_programs import ConicProgram, scaled_identity, unit_differences
from sklearn_robust._joint_flows import by_cuts, over_capacities
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import feasibility
from sklearn_robust.losses import LOSSES, MarginLoss
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import balanced_weighted_sum
from sklearn_robust.summed import SummedJointProblem, SummedProblem
from sklearn_robust.threats import gauge, is_ball, reachable, support

# halvings at most of a bracket of the radius from which on several classes are constant
_BISECTIONS = 40
_RADIUS_TOL = 1e-4  # relative width of its bracket
_MOST_ENTRIES = 5000  # pairs of classes times features of the cone program at most


def constant_radii(
    problem: RobustProblem | JointProblem | SummedProblem | SummedJointProblem,
    loss: MarginLoss = LOSSES["exponential"],
) -> np.ndarray:
    r"""The least radius at which w = 0 minimises the risk of each problem, of shape (k,).

    Several classes are one problem, whose radius alone depends on the loss.

    At w = 0, with the best intercept, the weights :math:`a_i` are the sample weights, each class
    scaled to sum 1/2. With :math:`g = Z^T a`, zero is in the subdifferential if and only if g is in
    the radius times the threat: for a ball if :math:`\|g\|_q \le \epsilon`. Features that the
    adversary cannot touch are left out.
    """
    if isinstance(problem, JointProblem | SummedJointProblem):
        return np.full(1, _joint_constant_radius(problem, loss))
    if isinstance(problem, SummedProblem):
        weighted_sum = balanced_weighted_sum(problem)[None]
    else:
        problem = problem.in_double_arithmetic()
        weighted_sum = problem.weighted_sum(problem.class_shares())
    return gauge(problem.threat, reachable(problem.threat, weighted_sum))


def _joint_constant_radius(problem: JointProblem | SummedJointProblem, loss: MarginLoss) -> float:
    r"""The least radius at which W = 0 minimises the joint risk, or a certified one just above it.

    It is the least at which the weighted sum G of the weights at W = 0 is a flow of the pairs, in
    the features that the adversary can touch: exact where cuts decide that. Otherwise a cone
    program has it for balls of moderately many features, and bisection lowers the radius of a flow
    that is known.
    """
    if isinstance(problem, JointProblem):
        problem = problem.in_double_arithmetic()
    problem = problem.at_class_means()
    if is_ball(problem.threat) and problem.threat.scale is not None:
        columns = np.flatnonzero(problem.threat.scale)
        if not len(columns):
            return 0.0
        threat = replace(problem.threat, scale=problem.threat.scale[columns])
        problem = replace(problem, X=problem.X[:, columns], threat=threat)
    coef = np.zeros((problem.n_classes, problem.n_features))
    weights = problem.balanced(problem.evaluate(loss, coef).weights)
    unit = problem.at_radius(1.0)
    high = feasibility(unit, weights).ratio
    if by_cuts(problem) or not math.isfinite(high):
        return high
    low = 0.0
    if is_ball(problem.threat) and problem.n_features * len(problem.pairs[0]) <= _MOST_ENTRIES:
        low, reached = _least_flow(unit, weights)
        high = min(high, reached)
    for _ in range(_BISECTIONS):
        if high - low <= _RADIUS_TOL * high:
            break
        middle = 0.5 * (low + high)
        reached = middle * feasibility(problem.at_radius(middle), weights, search=True).ratio
        low, high = (low, reached) if reached <= middle else (middle, min(high, reached))
    return high


def _least_flow(problem: JointProblem, weights: np.ndarray) -> tuple[float, float]:
    r"""Bounds on the least radius at which G is a flow of the pairs, by a cone program.

    It is :math:`\max_W \langle G, W \rangle` subject to :math:`\sum_{l<k} A_{lk} \|w_l -
    w_k\|_{q^*} \le 1`, whose multipliers are the flow. 0 and inf where the solver fails.
    """
    K, d = problem.n_classes, problem.n_features
    low, high = problem.pairs
    G = problem.weighted_sum(weights)
    A = problem.pair_weights(weights)[low, high]
    conic = ConicProgram()
    w, tau = conic.columns.take(K * d), conic.columns.take(len(low))
    movable = scaled_identity(d, problem.threat.scale)
    rows = sparse.kron(unit_differences(low, high, K), movable, format="csr")
    flow_of = conic.add_norms(w, rows, tau, problem.threat.dual_norm.p)
    conic.add_rows([("nonnegative", 1)], [(tau, -A[None])], np.ones(1))
    conic.add_zero_sum(w, K)  # a common shift changes nothing
    conic.linear = dict(zip(range(w.start, w.stop), (-G).ravel().tolist(), strict=True))
    try:
        x, z = conic.solve(static_regularization_constant=1e-8)
    except SolverFailure:
        return 0.0, math.inf
    W = x[w].reshape(K, d)
    size = float(A @ support(problem.threat, problem.pair_differences(W)))
    least = float(np.vdot(G, W)) / size if size > 0 else 0.0
    moved = flow_of(z).reshape(len(low), -1) @ movable
    found = feasibility(problem, weights, over_capacities(moved, A))
    return max(least, 0.0), found.ratio
