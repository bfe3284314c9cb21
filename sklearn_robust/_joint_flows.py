r"""Flows of the pairs of classes: which perturbations carry a weighted sum, and how nearly.

Weights a of the rivals, of weighted sum G, prove that several classes are not robustly separable
where perturbations :math:`\delta_{lk} \in c_{lk} U` have the flow :math:`\sum_{l<k} (e_l - e_k)
\delta_{lk}^T = G`, with the capacities :math:`c_{lk} = \text{radius}\,A_{lk}`, A_lk the weight
between two classes and U the unit set of the threat. What an admissible flow leaves of G bounds the
margin (`sklearn_robust.joint_certificates`). For the l_q ball of q = inf and up to 12 classes cuts
decide whether there are such perturbations; otherwise they are sought by projections and repaired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sklearn_robust._array_api import Array, to_numpy
from sklearn_robust._joint_saddle import StepModel, affordable, flow
from sklearn_robust.certificates import sum_rounding
from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.threats import ProximalThreat, gauge, is_ball, offers, reachable
from sklearn_robust.total_variation import MAX_CLASSES, cut_excess

# share of the sizes of its terms to which a sum is rounding in a proof of non-separability
_SUM_ROUNDING = 64 * float(np.finfo(np.float64).eps)
# change of perturbations, relative to their capacity, that is rounding: half a machine epsilon
_STILL = 0.5 * float(np.finfo(np.float64).eps)
# relative gap of the perturbations of a bound, and iterations for them
_BOUND_TOL, _BOUND_STEPS = 1e-6, 500
_REPAIRS = 3  # rounds in which what is left of G is spread over the pairs
_SPREAD = 1e-3  # share of its capacity that a pair without room takes part with
_LAPLACIAN_ENTRIES = 2**16  # entries of Laplacian matrices that exist at a time


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

    def __add__(self, other: WeightedSums) -> WeightedSums:
        """Those of the samples of both."""
        return WeightedSums(
            self.weighted_sum + other.weighted_sum,
            self.sizes + other.sizes,
            self.capacities + other.capacities,
        )


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


def feature_capacities(problem: JointProblem, capacities: np.ndarray) -> np.ndarray:
    """The capacities of the pairs in each feature for q = inf, (K(K-1)/2, d), or (K(K-1)/2, 1)."""
    scale = problem.threat.scale
    return capacities[:, None] * (1.0 if scale is None else to_numpy(scale))


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
    ahead, momentum = moved.copy(), 1.0
    # arrays over pairs and features may be as large as the data: few of them, written to in turn
    for _ in range(affordable(max_iter, moved)):
        new = problem.pair_differences(target - flow(ahead, n_classes))
        new /= n_classes
        new += ahead
        for at in problem.pair_blocks():
            new[at] = problem.threat.project(new[at], capacities[at])
        change = new - moved
        ahead -= new
        # restart where the step turns back
        if np.vdot(ahead, change) > 0:
            momentum = 1.0
        still = np.all(np.maximum(change.max(axis=1), -change.min(axis=1)) <= _STILL * capacities)
        grown = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
        change *= (momentum - 1) / grown
        np.add(new, change, out=ahead)
        moved, momentum = new, grown
        if still:
            break
    return moved


def left_by(
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
    sizes = np.zeros((n_classes, perturbations.shape[1]))
    start = 0
    for c in range(n_classes - 1):
        stop = start + n_classes - 1 - c
        of_class = np.abs(perturbations[start:stop])
        sizes[c] += of_class.sum(axis=0)
        sizes[c + 1 :] += of_class
        start = stop
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
    threat = problem.threat
    return np.concatenate(
        [gauge(threat, reachable(threat, moved[at])) for at in problem.pair_blocks()]
    )


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
    return feasibility_of_sums(problem, sums, perturbations, search=search)


def feasibility_of_sums(
    problem: JointProblem,
    sums: WeightedSums,
    perturbations: np.ndarray | None = None,
    *,
    search: bool = False,
) -> Feasibility:
    """`feasibility` from the sums of the weights, which may be larger than the data."""
    if by_cuts(problem):
        return Feasibility(_largest_ratio(problem, sums))
    first = repaired(problem, sums, perturbations)
    if first.proven or not search or not offers(problem.threat, ProximalThreat):
        return first
    capacities = sums.capacities
    start = None if perturbations is None else capacities[:, None] * perturbations
    moved = nearest_perturbations(problem, sums.weighted_sum, capacities, start)
    moved = over_capacities(moved, capacities)
    second = repaired(problem, sums, moved)
    return second if second.ratio < first.ratio else first


def _largest_ratio(problem: JointProblem, sums: WeightedSums) -> float:
    """The largest ratio of a cut; 1 for cuts exceeded by no more than rounding."""
    capacities = feature_capacities(problem, sums.capacities)
    excess, ratio = cut_excess(sums.weighted_sum, capacities)
    room = _SUM_ROUNDING * sums.sizes.sum(axis=0)
    return float(np.max(np.where(excess <= room, np.minimum(ratio, 1.0), ratio)))


def repaired(
    problem: JointProblem, sums: WeightedSums, perturbations: np.ndarray | None = None
) -> Feasibility:
    """Perturbations whose flow is G, and how much of the pairs' capacities they take; see
    `feasibility`.
    """
    capacities, n_classes = sums.capacities, problem.n_classes
    if perturbations is None:
        moved = np.zeros((len(capacities), problem.n_features))
    else:
        moved = capacities[:, None] * reachable(problem.threat, perturbations)
    for _ in range(_REPAIRS):
        left = sums.weighted_sum - flow(moved, n_classes)
        room = _room(problem, capacities, moved)
        change = problem.pair_differences(_laplacian_solution(room, left))
        change *= room
        moved += reachable(problem.threat, change)
    left = np.abs(sums.weighted_sum - flow(moved, n_classes))
    terms = sums.sizes + n_classes * flow_sizes(moved, n_classes)
    # the rounding of a feature is that of all classes together
    if np.any(left > _SUM_ROUNDING * terms.sum(axis=0)):
        return Feasibility(math.inf)
    sizes = _gauge(problem, moved)
    ratios = np.where(sizes > 0, sizes, 0) / np.where(capacities > 0, capacities, 1)
    ratios = np.where((capacities == 0) & (sizes > 0), math.inf, ratios)
    return Feasibility(float(ratios.max()), over_capacities(moved, capacities))


def over_capacities(moved: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """Perturbations (K(K-1)/2, d) over the capacities of their pairs, 0 for pairs without any."""
    over: np.ndarray = moved / np.where(capacities > 0, capacities, 1.0)[:, None]
    over[~(capacities > 0)] = 0.0
    return over


def _room(problem: JointProblem, capacities: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """The capacities that are left, and a little more, (K(K-1)/2, d) for q = inf, otherwise
    (K(K-1)/2, 1).
    """
    threat = problem.threat
    if is_ball(threat) and threat.q == math.inf:
        room = np.abs(moved)
        np.subtract(feature_capacities(problem, capacities), room, out=room)
    else:
        room = (capacities - _gauge(problem, moved))[:, None]
    np.maximum(room, 0, out=room)
    room += _SPREAD * capacities[:, None]
    return room


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
