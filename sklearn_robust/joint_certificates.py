r"""Proofs of how good an answer is for several classes trained jointly, from the answer alone.

For weights :math:`a_{ik} \ge 0` of the rivals, of sum 1 (with intercepts, the classes balance:
:math:`\sum_{i: y_i = l, k} a_{ik} = \sum_{i: y_i \ne l} a_{il}`), let :math:`G = \sum_{ik} a_{ik}
(e_{y_i} - e_k) x_i^T` and :math:`A_{lk}` the weight between classes l and k. The adversary of a
pair has perturbations :math:`\delta_{lk} \in A_{lk}\,\text{radius}\,U`, for a ball
:math:`\|\delta_{lk}\|_q \le \epsilon A_{lk}`, which take the **flow** :math:`\sum_{l<k} (e_l - e_k)
\delta_{lk}^T`.

**Margin.** The largest margin :math:`\gamma = \max_{\|W\| \le 1} \min_{ik} m_{ik}` in a norm of
the K d coefficients, entrywise or of the singular values, obeys

.. math:: \min_{ik} m_{ik} / \|W\| \;\le\; \gamma \;\le\; D(a) = \min_{\delta} \Big\| G -
    \sum_{l<k} (e_l - e_k) \delta_{lk}^T \Big\|_*,

and every admissible :math:`\delta` gives a bound.

**Risk.** D(a) = 0 proves that no robust separator exists. The same weights bound the risk from
below by Fenchel duality, with :math:`\beta_{ik} = a_{ik} / s_i`: the log of the exponential risk by
:math:`-\sum_{ik} a_{ik} \log \beta_{ik}`, the logistic risk by :math:`\sum_i s_i H(c \beta_i)` for
any scale c with :math:`c \sum_k \beta_{ik} \le 1`, H the entropy of :math:`(\beta_i, 1 - \sum_k
\beta_{ik})`.

**Perturbations.** For the l_q ball of q = inf, up to 12 classes and an l_p norm D(a) is exact:
features separate, and each is a distance to the flows of a graph
(`sklearn_robust.total_variation`). Otherwise perturbations of the pairs are needed, points of U
that start from those of the predictor, :math:`\arg\max_{\delta \in U} \langle w_l - w_k, \delta
\rangle`, or from a solver, and are brought near the least dual norm (`best_perturbations`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, lsmr

from sklearn_robust._array_api import Array, like, namespace, to_numpy
from sklearn_robust._joint_saddle import StepModel, affordable
from sklearn_robust._joint_saddle import flow as flow
from sklearn_robust.certificates import Certified, exponent_rounding, over_size, sum_rounding
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import Exponential, Logistic, MarginLoss, conjugate_bound
from sklearn_robust.norms import LpNorm, Norm, SchattenNorm
from sklearn_robust.threats import (
    ProximalThreat,
    gauge,
    is_ball,
    offers,
    reachable,
    support_sizes,
)
from sklearn_robust.total_variation import MAX_CLASSES, cut_excess, total_variation_prox

__all__ = [
    "Feasibility",
    "best_intercept",
    "certify",
    "feasibility",
    "log_risk_bound",
    "margin_bound",
    "pair_perturbations",
    "repaired_weights",
    "robust_margin",
]

# share of the sizes of its terms to which a sum is rounding in a proof of non-separability
_SUM_ROUNDING = 64 * float(np.finfo(np.float64).eps)
# change of perturbations, relative to their capacity, that is rounding: half a machine epsilon
_STILL = 0.5 * float(np.finfo(np.float64).eps)
# relative gap of the perturbations of a bound, and iterations for them
_BOUND_TOL, _BOUND_STEPS = 1e-6, 500
_REPAIRS = 3  # rounds in which what is left of G is spread over the pairs
_REPAIR_ROUNDS = 5  # changes of the weights until G is a flow
_INSIDE = 1e-12  # share of the capacities by which a change aims inside at least
_LITTLE = 1.2  # share of its capacity that a pair may carry for weights to be near a proof
_SOLVED = 1e-4  # relative accuracy of a change: the next one mends it
_SPREAD = 1e-3  # share of its capacity that a pair without room takes part with
_LAPLACIAN_ENTRIES = 2**18  # entries of Laplacian matrices that exist at a time
_WITH_ENTROPY = (Exponential, Logistic)  # losses whose bound takes the entropy of the rivals


@dataclass(frozen=True)
class WeightedSums:
    """What feasible weights prove by.

    Attributes
    ----------
    weighted_sum : ndarray of shape (K, d)
        G.
    sizes : ndarray of shape (K, d)
        The sums of the sizes of its terms.
    capacities : ndarray of shape (K(K-1)/2,)
        radius times A_lk for the pairs l < k.
    """

    weighted_sum: np.ndarray
    sizes: np.ndarray
    capacities: np.ndarray


def weighted_sums(problem: JointProblem, weights: Array) -> WeightedSums:
    """G, the sizes of its terms and the capacities of the pairs, in float64, of weights (K, n)."""
    return WeightedSums(
        to_numpy(problem.weighted_sum(weights)).astype(np.float64),
        to_numpy(problem.sizes(weights)).astype(np.float64),
        pair_capacities(problem, weights),
    )


def pair_capacities(problem: JointProblem, weights: Array) -> np.ndarray:
    """radius times A_lk for the pairs l < k, in float64: weights (K, n) -> (K(K-1)/2,)."""
    pairs = to_numpy(problem.pair_weights(weights))[problem.pairs]
    return problem.radius * pairs.astype(np.float64)


def by_cuts(problem: JointProblem) -> bool:
    """Whether proofs need no perturbations: for the ball q = inf and up to 12 classes."""
    threat = problem.threat
    return is_ball(threat) and threat.q == math.inf and problem.n_classes <= MAX_CLASSES


def exact_by_cuts(problem: JointProblem, norm: Norm) -> bool:
    """Whether cuts give the least dual norm that is left of G: in an l_p norm, where they need no
    perturbations.
    """
    return isinstance(norm, LpNorm) and by_cuts(problem)


def pair_perturbations(problem: JointProblem, coef: Array) -> np.ndarray:
    """The points of the unit set that the adversary of each pair takes, (K(K-1)/2, d)."""
    worst = problem.threat.worst(problem.pair_differences(coef))
    return to_numpy(worst).astype(np.float64)


# --- margin


def certify(
    problem: JointProblem,
    norm: Norm,
    coef: Array,
    weights: Array,
    intercept: Array | None = None,
    *,
    perturbations: np.ndarray | None = None,
) -> Certified:
    """What a predictor and weights prove, with all rounding charged; the weights are made feasible
    first.

    Parameters
    ----------
    problem : JointProblem
    norm : Norm
        The geometry in which the margin is measured, on the K d coefficients.
    coef : array of shape (K, d)
    weights : array of shape (K, n)
        Made feasible by `JointProblem.balanced`.
    intercept : array of shape (K,), optional
        Without it coef is a direction: the predictor has the best intercepts, and a smallest robust
        margin of 1 where that is positive.
    perturbations : ndarray of shape (K(K-1)/2, d), optional
        Points of the unit set for the pairs, from which the bound starts; by default those of coef.
        Not read for q = inf and up to 12 classes in an l_p norm.

    Returns
    -------
    Certified
        Arrays (K, d), (K, n) and (K,), with margin, bound and rounding as floats.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.joint import JointProblem
    >>> from sklearn_robust.joint_certificates import certify
    >>> from sklearn_robust.norms import LpNorm
    >>> X, y = np.array([[3.0, 1.0], [-3.0, 1.0]]), np.array([0, 1])
    >>> problem = JointProblem.from_data(X, y, q=2, eps=1.0, fit_intercept=False)
    >>> proven = certify(
    ...     problem, LpNorm(2), np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[0.0, 1], [1, 0]]))
    >>> round(proven.margin**2, 6), round(proven.bound**2, 6), proven.coef[0]
    (8.0, 8.0, array([0.25, 0.  ]))
    """
    if intercept is None:
        coef, intercept = _predictor(problem, coef)
    weights = problem.balanced(weights)
    margin, of_margin = _charged_margin(problem, norm, coef, intercept)
    if perturbations is None and not exact_by_cuts(problem, norm):
        perturbations = pair_perturbations(problem, coef)
    bound, of_bound = _charged_bound(problem, norm, weights, perturbations, coef)
    rounding = of_margin / (bound if bound > 0 else 1.0) + of_bound
    return Certified(coef, weights, intercept, margin=margin, bound=bound, rounding=rounding)


def best_intercept(pair_margins: np.ndarray) -> tuple[np.ndarray, float]:
    r"""The b of sum 0 that makes the smallest of :math:`M_{lk} + b_l - b_k` largest, and that
    smallest.

    It is the least mean of a cycle of classes (R. Karp, A characterization of the minimum cycle
    mean in a digraph, Discrete Mathematics 23, 1978), and b the lengths of shortest paths.

    Parameters
    ----------
    pair_margins : ndarray of shape (K, K)
        The smallest margins of the samples of class l against k; the diagonal is ignored.

    Returns
    -------
    intercept : ndarray of shape (K,)
    smallest : float
    """
    lengths = np.array(pair_margins, dtype=np.float64)
    np.fill_diagonal(lengths, math.inf)
    n_classes = len(lengths)
    walks = np.full((n_classes + 1, n_classes), math.inf)
    walks[0] = 0.0
    for steps in range(n_classes):
        walks[steps + 1] = np.min(walks[steps][:, None] + lengths, axis=0)
    remaining = n_classes - np.arange(n_classes)[:, None]
    smallest = float(np.min(np.max((walks[-1] - walks[:-1]) / remaining, axis=0)))
    potentials = np.zeros(n_classes)
    for _ in range(n_classes):
        reached = np.min(potentials[:, None] + lengths - smallest, axis=0)
        if np.all(reached >= potentials):
            break
        potentials = np.minimum(potentials, reached)
    intercept = potentials - potentials.mean()
    return intercept, float(np.min(lengths + intercept[:, None] - intercept))


def _predictor(problem: JointProblem, direction: Array) -> tuple[Array, Array]:
    """A direction (K, d) with its best intercepts, scaled to a smallest robust margin of 1 where it
    is positive and the quotient finite.
    """
    margins = problem.pair_margins(problem.scores(direction), problem.penalties(direction))
    if problem.fit_intercept:
        intercept, smallest = best_intercept(margins)
    else:
        intercept, smallest = np.zeros(len(margins)), float(margins.min())
    moved = like(direction, intercept)
    xp = namespace(direction)
    with np.errstate(over="ignore"):
        scaled = (direction / smallest, moved / smallest) if smallest > 0 else (direction, moved)
    finite = all(bool(xp.all(xp.isfinite(array))) for array in scaled)
    return scaled if finite else (direction, moved)


def robust_margin(problem: JointProblem, norm: Norm, coef: Array, intercept: Array) -> float:
    """min_ik m_ik / ||W||_p, less its rounding; -inf for W = 0."""
    return _charged_margin(problem, norm, coef, intercept)[0]


def _charged_margin(
    problem: JointProblem, norm: Norm, coef: Array, intercept: Array
) -> tuple[float, float]:
    """The margin less its rounding, and the rounding."""
    xp, size = namespace(coef), norm.value(coef.reshape(-1))
    if not float(size) > 0:
        return -math.inf, 0.0
    scores, penalties = problem.scores(coef), problem.penalties(coef)
    smallest = over_size(xp.min(problem.margins(scores, penalties, intercept)), size)
    low = _low_margins(problem, coef, scores, penalties, intercept)
    charged = over_size(xp.min(low), size)
    of_norm = _norm_rounding(problem, norm, problem.n_classes * problem.n_features, coef.dtype, xp)
    charged = charged - of_norm * xp.abs(charged)
    return float(charged), float(smallest - charged)


def _low_margins(
    problem: JointProblem, coef: Array, scores: Array, penalties: Array, intercept: Array
) -> Array:
    r"""The robust margins (n,) less their rounding, from the scores and penalties of coef.

    The scores of both classes of a pair are sums of terms of sizes at most :math:`\max_k |w_k|
    |x_i|`.
    """
    xp = namespace(coef)
    of_sum = sum_rounding(problem.n_terms, coef.dtype, xp)
    of_norm = _norm_rounding(problem, LpNorm(2), problem.n_features, coef.dtype, xp)
    penalties = penalties + (of_sum + of_norm) * problem.penalties(coef, support_sizes)
    sizes = problem.rows.score_sizes(xp.max(xp.abs(coef), axis=0)[None])[0]
    margins = problem.margins(scores, penalties, intercept)
    return margins - 2 * of_sum * (sizes + xp.max(xp.abs(intercept)))


def margin_bound(
    problem: JointProblem,
    norm: Norm,
    weights: Array,
    perturbations: np.ndarray | None = None,
) -> float:
    """D(a) plus its rounding, for feasible weights (K, n); see `certify`.

    Perturbations of the pairs, where they are needed, are found from the given ones, or from none.
    """
    return _charged_bound(problem, norm, weights, perturbations)[0]


def _charged_bound(
    problem: JointProblem,
    norm: Norm,
    weights: Array,
    perturbations: np.ndarray | None,
    coef: Array | None = None,
) -> tuple[float, float]:
    """D(a) plus its rounding, and the share of rounding in it."""
    sums, dual = weighted_sums(problem, weights), norm.dual
    n_samples, xp = weights.shape[1], namespace(weights)
    rounding = sum_rounding(n_samples, weights.dtype, xp)
    of_sum = rounding * sums.sizes
    # the exact capacities are at least the computed ones less their rounding
    sums = replace(sums, capacities=(1 - rounding) * sums.capacities)
    of_norm = _norm_rounding(problem, norm, problem.n_classes * problem.n_features, np.float64, np)
    bound, share = math.inf, 0.0
    for left, of_flow in _residuals(problem, norm, sums, perturbations, coef):
        charge = (of_sum + of_flow).reshape(-1)
        if isinstance(dual, SchattenNorm):  # not a norm of the sizes of the entries
            of_charge = float(dual.largest(charge))
            value = (float(dual.value(left.reshape(-1))) + of_charge) * (1 + of_norm)
        else:
            of_charge = float(dual.value(charge))
            value = float(dual.value(np.abs(left).reshape(-1) + charge)) * (1 + of_norm)
        if value < bound:
            bound = value
            share = min(1.0, of_charge / value + of_norm)
    return bound, share


def _residuals(
    problem: JointProblem,
    norm: Norm,
    sums: WeightedSums,
    perturbations: np.ndarray | None,
    coef: Array | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What admissible flows leave of G, (K, d), each with the size of its error.

    A flow that exceeds every cut by at most v is within v, class by class, of one that exceeds
    none: pairs of capacities larger by v / (K - 1) carry it.
    """
    tiny, n_classes = float(np.finfo(np.float64).eps), problem.n_classes
    if by_cuts(problem):
        capacities = feature_capacities(problem, sums.capacities)
        left = total_variation_prox(sums.weighted_sum, capacities)
        excess, _ = cut_excess(sums.weighted_sum - left, capacities)
        # cuts are sums of K terms of G and of K^2 capacities
        terms = np.abs(sums.weighted_sum).sum(axis=0) + capacities.sum(axis=0)
        yield left, np.maximum(excess, 0) + n_classes * tiny * terms
        if exact_by_cuts(problem, norm):
            return
    shape = (len(sums.capacities), problem.n_features)
    start = np.zeros(shape) if perturbations is None else perturbations
    moved = sums.capacities[:, None] * start
    yield _left_by(problem, sums, moved)
    if offers(problem.threat, ProximalThreat):
        goal = sums.weighted_sum, sums.capacities
        yield _left_by(problem, sums, best_perturbations(problem, norm, *goal, moved, coef))


def best_perturbations(
    problem: JointProblem,
    norm: Norm,
    weighted_sum: np.ndarray,
    capacities: np.ndarray,
    start: np.ndarray,
    coef: Array | None = None,
    *,
    tol: float = _BOUND_TOL,
    max_iter: int = _BOUND_STEPS,
) -> np.ndarray:
    """Perturbations of the pairs, within their capacities, whose flow leaves nearly the least dual
    norm of the weighted sum.

    Parameters
    ----------
    problem : JointProblem
        With a threat that has a projection.
    norm : Norm
        The geometry; what is left is measured in its dual norm.
    weighted_sum : ndarray of shape (K, d)
        G.
    capacities : ndarray of shape (K(K-1)/2,)
    start : ndarray of shape (K(K-1)/2, d)
        Perturbations within the capacities; where they are nearly right they stay.
    coef : array of shape (K, d), optional
        The predictor, which shows whether they are right.
    tol : float
        Gap, relative to the norm, at which the search ends.
    max_iter : int

    Returns
    -------
    ndarray of shape (K(K-1)/2, d)
    """
    origin = np.zeros_like(weighted_sum)
    model = StepModel(problem, norm, origin, weighted_sum, capacities, 1.0)
    step = None
    if coef is not None:
        direction = to_numpy(coef).astype(np.float64)
        size = float(norm.value(direction.ravel()))
        step = direction / size if size > 0 else None
    return model.best(start, step, tol=tol, max_iter=max_iter).perturbations


def _left_by(
    problem: JointProblem, sums: WeightedSums, moved: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What the flow of perturbations (K(K-1)/2, d), scaled back into their capacities, leaves of G,
    (K, d), and the size of its error.
    """
    n_classes = problem.n_classes
    inner = _shrunk(problem, sums.capacities, moved)
    sizes = flow_sizes(inner, n_classes) + np.abs(sums.weighted_sum)
    rounding = n_classes * float(np.finfo(np.float64).eps) * sizes
    return sums.weighted_sum - flow(inner, n_classes), rounding


def flow_sizes(perturbations: np.ndarray, n_classes: int) -> np.ndarray:
    r""":math:`\sum_k |\delta_{lk}|` of shape (K, d), the sizes of the terms of `flow`."""
    low, high = np.triu_indices(n_classes, 1)
    sizes = np.zeros((n_classes, perturbations.shape[1]))
    np.add.at(sizes, low, np.abs(perturbations))
    np.add.at(sizes, high, np.abs(perturbations))
    return sizes


def _shrunk(problem: JointProblem, capacities: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """The perturbations (K(K-1)/2, d) scaled back into capacities (K(K-1)/2,) times the unit set,
    beyond rounding.
    """
    sizes = _gauge(problem, moved) * (1 + sum_rounding(problem.n_features, np.float64))
    share = np.where(sizes > capacities, capacities / np.where(sizes > 0, sizes, 1.0), 1.0)
    return share[:, None] * reachable(problem.threat, moved)


def _gauge(problem: JointProblem, moved: np.ndarray) -> np.ndarray:
    """The gauge of each pair, (K(K-1)/2,), of the features that the adversary can move."""
    sizes: np.ndarray = gauge(problem.threat, reachable(problem.threat, moved))
    return sizes


def nearest_perturbations(
    problem: JointProblem,
    target: np.ndarray,
    capacities: np.ndarray,
    start: np.ndarray | None = None,
    *,
    max_iter: int = 200,
) -> np.ndarray:
    """Perturbations whose flow is nearer to a target in the 2-norm, by accelerated projected
    gradient; the Laplacian of the complete graph has norm K.

    Parameters
    ----------
    problem : JointProblem
        With a threat that has a projection.
    target : ndarray of shape (K, d)
        Columns of sum 0.
    capacities : ndarray of shape (K(K-1)/2,)
        Factors of the unit set for the pairs.
    start : ndarray of shape (K(K-1)/2, d), optional
        Zero by default.
    max_iter : int, default=200
        Projections; fewer where rounding alone moves the perturbations, or where the pairs of
        classes and the features are many.

    Returns
    -------
    ndarray of shape (K(K-1)/2, d)
    """
    moved = np.zeros((len(capacities), target.shape[1])) if start is None else start
    n_classes = problem.n_classes
    low, high = problem.pairs
    ahead, momentum = moved, 1.0
    for _ in range(affordable(max_iter, moved)):
        left = target - flow(ahead, n_classes)
        step = ahead + (left[low] - left[high]) / n_classes
        new = problem.threat.project(step, capacities)
        change = np.abs(new - moved).max(axis=1)
        # restart where the step turns back
        if np.vdot(ahead - new, new - moved) > 0:
            momentum = 1.0
        grown = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
        ahead = new + (momentum - 1) / grown * (new - moved)
        moved, momentum = new, grown
        if np.all(change <= _STILL * capacities):
            break
    return moved


# --- non-separability and risk


@dataclass(frozen=True)
class Feasibility:
    """How near weights are to a proof that the data are not robustly separable.

    Attributes
    ----------
    ratio : float
        The largest share of its capacity that a cut or a pair must carry; at most 1 is a proof, up
        to rounding.
    perturbations : ndarray of shape (K(K-1)/2, d) or None
        Multiples of the unit set's points that prove it, None where cuts do.
    """

    ratio: float
    perturbations: np.ndarray | None = None

    @property
    def proven(self) -> bool:
        """Whether no robust separator exists, up to rounding."""
        return self.ratio <= 1 + _SUM_ROUNDING


def feasibility(
    problem: JointProblem,
    weights: Array,
    perturbations: np.ndarray | None = None,
    *,
    search: bool = False,
) -> Feasibility:
    r"""Whether G is a flow of the pairs.

    For q = inf and up to 12 classes: :math:`|\sum_{l \in S} G_{lj}| \le \epsilon s_j \sum_{l \in S,
    k \notin S} A_{lk}` for all sets S of classes and features j. Otherwise the perturbations are
    repaired: what they leave of G, R, is spread over the pairs by :math:`c_{lk} (u_l - u_k)` with u
    the solution of :math:`L_c u = R` for the Laplacian of c, the room that is left to each pair.

    Parameters
    ----------
    problem : JointProblem
    weights : array of shape (K, n)
        Feasible.
    perturbations : ndarray of shape (K(K-1)/2, d), optional
        Points of the unit set for the pairs, from which the repair starts; those that are worst for
        the predictor of the weights are nearly right. Zero by default.
    search : bool, default=False
        Whether others are looked for, by projections, where the repair of these fails.

    Returns
    -------
    Feasibility
    """
    sums = weighted_sums(problem, weights)
    if by_cuts(problem):
        return Feasibility(_largest_ratio(problem, sums))
    first = repaired(problem, sums, perturbations)
    if first.proven or not search or not offers(problem.threat, ProximalThreat):
        return first
    shape = (len(sums.capacities), problem.n_features)
    start = np.zeros(shape) if perturbations is None else perturbations
    capacities = sums.capacities
    nearest = nearest_perturbations(
        problem, sums.weighted_sum, capacities, capacities[:, None] * start
    )
    second = repaired(problem, sums, _over(nearest, capacities))
    return second if second.ratio < first.ratio else first


def _largest_ratio(problem: JointProblem, sums: WeightedSums) -> float:
    """The largest ratio of a cut; 1 for cuts exceeded by no more than rounding."""
    capacities = feature_capacities(problem, sums.capacities)
    excess, ratio = cut_excess(sums.weighted_sum, capacities)
    room = _SUM_ROUNDING * sums.sizes.sum(axis=0)
    return float(np.max(np.where(excess <= room, np.minimum(ratio, 1.0), ratio)))


def feature_capacities(problem: JointProblem, capacities: np.ndarray) -> np.ndarray:
    """The capacities of the pairs in each feature for q = inf, (K(K-1)/2, d), or (K(K-1)/2, 1)."""
    scale = problem.threat.scale
    return capacities[:, None] * (1.0 if scale is None else to_numpy(scale))


def repaired(
    problem: JointProblem, sums: WeightedSums, perturbations: np.ndarray | None = None
) -> Feasibility:
    """Perturbations whose flow is G, and how much of the pairs' capacities they take; see
    `feasibility`.
    """
    capacities, n_classes = sums.capacities, problem.n_classes
    shape = (len(capacities), problem.n_features)
    unit = np.zeros(shape) if perturbations is None else perturbations
    moved = capacities[:, None] * reachable(problem.threat, unit)
    low, high = problem.pairs
    for _ in range(_REPAIRS):
        left = sums.weighted_sum - flow(moved, n_classes)
        room = np.maximum(_room(problem, capacities, moved), 0) + _SPREAD * capacities[:, None]
        u = _laplacian_solution(room, left)
        moved = moved + reachable(problem.threat, room * (u[low] - u[high]))
    left = np.abs(sums.weighted_sum - flow(moved, n_classes))
    terms = sums.sizes + n_classes * flow_sizes(moved, n_classes)
    # the rounding of a feature is that of all classes together
    if np.any(left > _SUM_ROUNDING * terms.sum(axis=0)):
        return Feasibility(math.inf)
    sizes = _gauge(problem, moved)
    ratios = np.where(sizes > 0, sizes, 0) / np.where(capacities > 0, capacities, 1)
    ratios = np.where((capacities == 0) & (sizes > 0), math.inf, ratios)
    return Feasibility(float(ratios.max()), _over(moved, capacities))


def _over(moved: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """Perturbations (K(K-1)/2, d) over the capacities of their pairs, 0 for pairs without any."""
    over: np.ndarray = np.where(
        capacities[:, None] > 0, moved / np.where(capacities > 0, capacities, 1.0)[:, None], 0.0
    )
    return over


def _room(problem: JointProblem, capacities: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """The capacities that are left, (K(K-1)/2, d) for q = inf, otherwise (K(K-1)/2, 1)."""
    threat = problem.threat
    if is_ball(threat) and threat.q == math.inf:
        return feature_capacities(problem, capacities) - np.abs(moved)
    return (capacities - _gauge(problem, moved))[:, None]


def _laplacian_solution(conductances: np.ndarray, left: np.ndarray) -> np.ndarray:
    """The u (K, d) of the Laplacian equations L u = left, with conductances (K(K-1)/2, d) or
    (K(K-1)/2, 1) of the pairs; some features at a time.
    """
    length = max(1, _LAPLACIAN_ENTRIES // len(left) ** 2)
    if conductances.shape[1] > length:
        blocks = [slice(at, at + length) for at in range(0, left.shape[1], length)]
        parts = [_laplacian_solution(conductances[:, at], left[:, at]) for at in blocks]
        return np.concatenate(parts, axis=1)
    n_classes, n_systems = len(left), conductances.shape[1]
    low, high = np.triu_indices(n_classes, 1)
    matrix = np.zeros((n_systems, n_classes, n_classes))
    matrix[:, low, high] = matrix[:, high, low] = -conductances.T
    diagonal = -matrix.sum(axis=2)
    # in units of the diagonal, with the null vector 1 made regular
    size = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))[:, :, None]
    unit = size / np.linalg.norm(size, axis=1, keepdims=True)
    matrix = matrix / (size * size.mT) + unit * unit.mT
    matrix += (1 + 4 * np.finfo(np.float64).eps) * np.eye(n_classes)
    goal = left[None] if n_systems == 1 else left.T[:, :, None]
    u = np.linalg.solve(matrix, goal / size) / size
    solution: np.ndarray = u[0] if n_systems == 1 else u[:, :, 0].T
    return solution


def repaired_weights(
    problem: JointProblem, weights: np.ndarray, perturbations: np.ndarray | None = None
) -> np.ndarray:
    r"""The weights moved the little that makes G a flow of the pairs; nan where that takes more
    than a little.

    Near the minimiser of the risk the weights violate this slightly. What the nearest flow leaves
    of G is cancelled by the change of least :math:`\sum_{ik} \delta_{ik}^2 / a_{ik}`, which keeps
    small weights small and the classes in balance.

    Parameters
    ----------
    problem : JointProblem
        On NumPy or scipy.sparse data or rows of one's own, with a threat that has a projection.
    weights : ndarray of shape (K, n)
        Made feasible by `JointProblem.balanced` first.
    perturbations : ndarray of shape (K(K-1)/2, d), optional
        See `feasibility`.

    Returns
    -------
    ndarray of shape (K, n)
    """
    for turn in range(_REPAIR_ROUNDS):
        weights = problem.balanced(weights)
        found = feasibility(problem, weights, perturbations, search=True)
        if found.proven:
            return weights
        if _LITTLE < found.ratio < math.inf:
            break
        sums = weighted_sums(problem, weights)
        # the capacities change with the weights: aim inside by what is exceeded, then by more
        inside = max(_INSIDE, (turn + 1) * (min(found.ratio, _LITTLE) - 1))
        capacities = (1 - inside) * sums.capacities
        left, perturbations = _beyond(problem, sums.weighted_sum, capacities, perturbations)
        weights = np.maximum(weights + _lightest_change(problem, weights, -left), 0)
    return np.full_like(weights, math.nan)


def _beyond(
    problem: JointProblem,
    target: np.ndarray,
    capacities: np.ndarray,
    perturbations: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """What the nearest flow within these capacities leaves of the target, and its perturbations in
    units of the capacities.
    """
    if by_cuts(problem):
        return total_variation_prox(target, feature_capacities(problem, capacities)), None
    start = None if perturbations is None else capacities[:, None] * perturbations
    moved = nearest_perturbations(problem, target, capacities, start)
    return target - flow(moved, problem.n_classes), _over(moved, capacities)


def _lightest_change(problem: JointProblem, weights: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The change of weights (K, n) that adds the goal (K, d) to G, leaves the balance of the
    classes, and has the least sum of squares over the weights; by lsmr.
    """
    (n_classes, n), d = weights.shape, problem.n_features
    root = np.sqrt(weights)
    own = np.arange(n)

    def matvec(x: np.ndarray) -> np.ndarray:
        change = root * x.reshape(n_classes, n)
        sums = problem.class_sums(change)
        balance = sums.sum(axis=1) - sums.sum(axis=0)
        if not problem.fit_intercept:
            balance = np.full(1, sums.sum())
        return np.concatenate([problem.weighted_sum(change).ravel(), balance])

    def rmatvec(v: np.ndarray) -> np.ndarray:
        scores = problem.scores(v[: n_classes * d].reshape(n_classes, d))
        if problem.fit_intercept:
            scores += v[n_classes * d :, None]
        differences = scores[problem.y, own] - scores
        if not problem.fit_intercept:
            differences += v[-1]
        return (root * differences).ravel()

    target = np.concatenate([goal.ravel(), np.zeros(n_classes if problem.fit_intercept else 1)])
    operator = LinearOperator(
        (len(target), root.size), matvec=matvec, rmatvec=rmatvec, dtype=np.float64
    )
    solved = lsmr(operator, target, atol=_SOLVED, btol=_SOLVED, conlim=0, maxiter=len(target))[0]
    change: np.ndarray = root * solved.reshape(n_classes, n)
    return change


def log_risk_bound(
    problem: JointProblem,
    loss: MarginLoss,
    weights: Array,
    perturbations: np.ndarray | None = None,
    *,
    search: bool = False,
) -> float:
    r"""A lower bound on the log-risk of every predictor; -inf where the weights prove none.

    With shares :math:`\pi_i` of the rivals in the weight :math:`a_i` of a sample it is the bound of
    two classes for the weights :math:`a_i`, to which :math:`c \sum_i a_i H(\pi_i)` is added.

    Parameters
    ----------
    problem : JointProblem
    loss : MarginLoss
        The exponential or the logistic loss; the bound of another is right but leaves out the
        entropy of the rivals.
    weights : array of shape (K, n)
        Feasible; see `JointProblem.balanced`.
    perturbations, search
        See `feasibility`.

    Returns
    -------
    float
    """
    if not feasibility(problem, weights, perturbations, search=search).proven:
        return -math.inf
    return entropy_bound(problem, loss, weights)


def entropy_bound(problem: JointProblem, loss: MarginLoss, weights: Array) -> float:
    """The bound of `log_risk_bound` for weights (K, n) whose G is a flow of the pairs."""
    return entropy_bound_of_blocks(
        problem, loss, ((at, weights[:, at]) for at, _ in problem.blocks())
    )


def entropy_bound_of_blocks(
    problem: JointProblem, loss: MarginLoss, blocks: Iterable[tuple[slice, Array]]
) -> float:
    """The same for weights (K, m) of a block of samples at a time."""
    of_sample = namespace(problem.log_weight).zeros_like(problem.log_weight)
    entropy = 0.0
    for at, block in blocks:
        xp = namespace(block)
        of_block = xp.sum(block, axis=0)
        of_sample[at] = of_block
        share = block / xp.where(of_block > 0, of_block, 1.0)
        logs = xp.log(xp.where(block > 0, share, 1.0))
        entropy -= float(xp.sum(block * logs))
    if type(loss) not in _WITH_ENTROPY:
        return conjugate_bound(loss, to_numpy(of_sample), to_numpy(problem.log_weight), entropy)
    bound = loss.log_risk_bound(  # type: ignore[call-arg]
        of_sample, problem.log_weight, entropy=entropy
    )
    return float(bound)


def _norm_rounding(problem: JointProblem, norm: Norm, n_entries: int, dtype: Any, xp: Any) -> float:
    """What rounding adds to a norm of so many entries at most, relative to it."""
    rounding = sum_rounding(n_entries, dtype, xp)
    return rounding + exponent_rounding(problem.threat, norm, n_entries)
