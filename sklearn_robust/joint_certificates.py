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
\rangle`, or from a solver, and are brought near the least dual norm (`_joint_flows`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, minres

from sklearn_robust._array_api import Array, like, namespace, to_numpy
from sklearn_robust._joint_flows import (
    Feasibility,
    WeightedSums,
    best_perturbations,
    by_cuts,
    exact_by_cuts,
    feasibility,
    feature_capacities,
    left_by,
    nearest_perturbations,
    over_capacities,
    pair_perturbations,
    weighted_sums,
)
from sklearn_robust._joint_saddle import flow
from sklearn_robust.certificates import Certified, exponent_rounding, over_size, sum_rounding
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import MarginLoss, conjugate_bound, takes_entropy
from sklearn_robust.norms import LpNorm, Norm, SchattenNorm
from sklearn_robust.rows import Rows
from sklearn_robust.threats import ProximalThreat, offers
from sklearn_robust.total_variation import cut_excess, total_variation_prox

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

_REPAIR_ROUNDS = 5  # changes of the weights until G is a flow
_INSIDE = 1e-12  # share of the capacities by which a change aims inside at least
_LITTLE = 1.2  # share of its capacity that a pair may carry for weights to be near a proof
_SOLVED = 1e-4  # relative accuracy of a change: the next one mends it


# --- margin


def certify(
    problem: JointProblem,
    norm: Norm,
    coef: Array,
    weights: Array | Callable[[], Array],
    intercept: Array | None = None,
    *,
    perturbations: np.ndarray | None = None,
    keep_weights: bool = True,
) -> Certified:
    """What a predictor and weights prove, with all rounding charged; the weights are made feasible
    first.

    Parameters
    ----------
    problem : JointProblem
    norm : Norm
        The geometry in which the margin is measured, on the K d coefficients.
    coef : array of shape (K, d)
    weights : array of shape (K, n), or a function that returns it
        Made feasible by `JointProblem.balanced`. A function is called twice, for weights that may
        be overwritten: they take no memory while the bound is found.
    intercept : array of shape (K,), optional
        Without it coef is a direction: the predictor has the best intercepts, and a smallest robust
        margin of 1 where that is positive.
    perturbations : ndarray of shape (K(K-1)/2, d), optional
        Points of the unit set for the pairs, from which the bound starts; by default those of coef.
        Not read for q = inf and up to 12 classes in an l_p norm.

    keep_weights : bool, default=True
        Whether the weights are returned, which may be larger than the data.

    Returns
    -------
    Certified
        Arrays (K, d), (K, n) or (K, 0), and (K,), with margin, bound and rounding as floats.

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
        coef, intercept = predictor(problem, coef)
    margin, of_margin = _charged_margin(problem, norm, coef, intercept)
    sums = weighted_sums(problem, _balanced(problem, weights))
    if perturbations is None and not exact_by_cuts(problem, norm):
        perturbations = pair_perturbations(problem, coef)
    bound, of_bound = _charged_bound(problem, norm, sums, perturbations, coef)
    del perturbations
    rounding = of_margin / (bound if bound > 0 else 1.0) + of_bound
    feasible = _balanced(problem, weights) if keep_weights else np.zeros((len(coef), 0))
    return Certified(coef, feasible, intercept, margin=margin, bound=bound, rounding=rounding)


def _balanced(problem: JointProblem, weights: Array | Callable[[], Array]) -> Array:
    """The weights, or those of a function, made feasible."""
    if callable(weights):
        return problem.balanced(weights(), overwrite=True)
    return problem.balanced(weights)


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
    if lengths.min() == -math.inf:  # a set without end takes all of a margin, whatever b is
        return np.zeros(n_classes), -math.inf
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


def predictor(problem: JointProblem, direction: Array) -> tuple[Array, Array]:
    """A direction (K, d) with its best intercepts, scaled to a smallest robust margin of 1 where it
    is positive and the quotient finite.
    """
    margins = problem.pair_margins(direction, problem.penalties(direction))
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
    penalties = problem.penalties(coef)
    smallest = over_size(xp.min(problem.robust_margins(coef, intercept, penalties)), size)
    low = _low_margins(problem, coef, penalties, intercept)
    charged = over_size(xp.min(low), size)
    if charged == -math.inf:
        return -math.inf, 0.0
    of_norm = _norm_rounding(problem, norm, problem.n_classes * problem.n_features, coef.dtype, xp)
    charged = charged - of_norm * xp.abs(charged)
    return float(charged), float(smallest - charged)


def _low_margins(problem: JointProblem, coef: Array, penalties: Array, intercept: Array) -> Array:
    r"""The robust margins (n,) less their rounding, from the penalties of coef.

    The scores of both classes of a pair are sums of terms of sizes at most :math:`\max_k |w_k|
    |x_i|`.
    """
    xp = namespace(coef)
    of_sum = sum_rounding(problem.n_terms, coef.dtype, xp)
    of_norm = _norm_rounding(problem, LpNorm(2), problem.n_features, coef.dtype, xp)
    penalties = penalties + (of_sum + of_norm) * problem.penalty_sizes(coef)
    sizes = problem.rows.score_sizes(xp.max(xp.abs(coef), axis=0)[None])[0]
    margins = problem.robust_margins(coef, intercept, penalties)
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
    return _charged_bound(problem, norm, weighted_sums(problem, weights), perturbations)[0]


def _charged_bound(
    problem: JointProblem,
    norm: Norm,
    sums: WeightedSums,
    perturbations: np.ndarray | None,
    coef: Array | None = None,
) -> tuple[float, float]:
    """D(a) plus its rounding, and the share of rounding in it."""
    log_weight, dual = problem.log_weight, norm.dual
    rounding = sum_rounding(len(log_weight), log_weight.dtype, namespace(log_weight))
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
    yield left_by(problem, sums, moved)
    if offers(problem.threat, ProximalThreat):
        goal = sums.weighted_sum, sums.capacities
        yield left_by(problem, sums, best_perturbations(problem, norm, *goal, moved, coef))


# --- non-separability and risk


def repaired_weights(
    problem: JointProblem,
    weights: np.ndarray,
    perturbations: np.ndarray | None = None,
    *,
    overwrite: bool = False,
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
    overwrite : bool, default=False
        Whether the weights may take the place of the given ones in memory.

    Returns
    -------
    ndarray of shape (K, n)
    """
    for turn in range(_REPAIR_ROUNDS):
        weights = problem.balanced(weights, overwrite=overwrite or turn > 0)
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
        _add_lightest_change(problem, weights, -left)
    weights.fill(math.nan)
    return weights


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
    return target - flow(moved, problem.n_classes), over_capacities(moved, capacities)


def _add_lightest_change(problem: JointProblem, weights: np.ndarray, goal: np.ndarray) -> None:
    r"""Change weights (K, n), in their place, so that G grows by the goal (K, d), the classes keep
    their balance, and the sum of squares of the changes over the weights is least.

    The change is :math:`a_{ik} (\theta_{y_i} - \theta_k) \cdot (x_i, 1)`; the linear equations in
    :math:`\theta`, (K, d + 1), are solved by minres, for they are singular: a common shift of all
    classes changes nothing. Without intercepts the sum of all weights is kept.
    """
    K, d = goal.shape
    size = K * (d + 1) if problem.fit_intercept else K * d + 1

    def changes(theta: np.ndarray) -> Iterator[tuple[slice, Rows, np.ndarray]]:
        """The changes (K, m) over the weights, a block of samples at a time."""
        coef, shift = theta[: K * d].reshape(K, d), theta[K * d :]
        for at, rows in problem.row_blocks():
            scores = rows.scores(coef)
            if problem.fit_intercept:
                scores += shift[:, None]
            change = scores[problem.y[at], np.arange(scores.shape[1])] - scores
            yield at, rows, change if problem.fit_intercept else change + shift

    def product(theta: np.ndarray) -> np.ndarray:
        """What the changes add to G and to the balance."""
        of_rows, sums = np.zeros((K, d)), np.zeros((K, K))
        for at, rows, change in changes(theta):
            change *= weights[:, at]
            problem.add_class_sums(sums, change, at)
            change[problem.y[at], np.arange(change.shape[1])] = -change.sum(axis=0)
            of_rows -= rows.weighted_sum(change)
        balance = sums.sum(axis=1) - sums.sum(axis=0)
        balance = balance if problem.fit_intercept else np.full(1, sums.sum())
        return np.concatenate([of_rows.ravel(), balance])

    target = np.concatenate([goal.ravel(), np.zeros(size - K * d)])
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    theta = minres(operator, target, rtol=_SOLVED, maxiter=size)[0]
    for at, _, change in changes(theta):
        weights[:, at] *= np.maximum(1 + change, 0)


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
        of_sample[at], of_block = entropy_of_rivals(block)
        entropy += of_block
    if not takes_entropy(loss):
        return conjugate_bound(loss, to_numpy(of_sample), to_numpy(problem.log_weight), entropy)
    bound = loss.log_risk_bound(  # type: ignore[call-arg]
        of_sample, problem.log_weight, entropy=entropy
    )
    return float(bound)


def entropy_of_rivals(weights: Array) -> tuple[Array, float]:
    r"""The weights of the samples, (m,), and :math:`\sum_i a_i H(\pi_i)`, of weights (K, m)."""
    xp = namespace(weights)
    of_sample = xp.sum(weights, axis=0)
    share = weights / xp.where(of_sample > 0, of_sample, 1.0)
    logs = xp.log(xp.where(weights > 0, share, 1.0))
    return of_sample, -float(xp.sum(weights * logs))


def _norm_rounding(problem: JointProblem, norm: Norm, n_entries: int, dtype: Any, xp: Any) -> float:
    """What rounding adds to a norm of so many entries at most, relative to it."""
    rounding = sum_rounding(n_entries, dtype, xp)
    return rounding + exponent_rounding(problem.threat, norm, n_entries)
