r"""Perturbations of the pairs of classes as integers, exactly within their sets.

Samples of class l against k move by :math:`\delta_i`, those of k against l too. Their weighted sum
:math:`D_{lk} = \sum_i \pm a_i \delta_i` has :math:`\|D_{lk} / B_{lk}\|_q \le 1`, B the weighted sum
of the bounds of their sets: with one :math:`\theta`, :math:`\|\theta\|_q \le 1`, every
:math:`\delta_i = \theta b_i` is in its set.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Self

import numpy as np

from sklearn_robust._joint_flows import (
    WeightedSums,
    best_perturbations,
    by_cuts,
    feature_capacities,
    nearest_perturbations,
    over_capacities,
    pair_perturbations,
    repaired,
)
from sklearn_robust.check import BITS, Proof, norm
from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm
from sklearn_robust.proofs.weights import ExactWeights
from sklearn_robust.threats import FeatureBudget, LpBall, is_ball, residual
from sklearn_robust.total_variation import total_variation_prox

_SHRINKAGES = 50  # factors 1 - 2^(m - 52), m = 0, 1, .., that bring a point into its set
_SWEEPS, _STILL = 500, 1e-15  # sweeps of projections, and the relative change that ends them


@dataclass(frozen=True)
class PairSets:
    """The sets of the weighted perturbations of the pairs of classes.

    Attributes
    ----------
    q : str or int
        The norm, as in a certificate.
    weights : ExactWeights
    bounds : dict of (l, k) to (up, down)
        B, for each pair l < k with weight: lists of integers in units of 2^-(4 places).
    """

    q: Any
    weights: ExactWeights
    bounds: dict[tuple[int, int], list[list[int]]]

    @classmethod
    def of(cls, proof: Proof, weights: ExactWeights) -> Self:
        """Those of a certificate that the checker has read, for its weights."""
        bounds: dict[tuple[int, int], list[list[int]]] = {}
        for (i, k), a in weights.entries.items():
            j = proof.y[i]
            pair, ends = (min(j, k), max(j, k)), proof.ends(i)[:: 1 if j < k else -1]
            old = bounds.get(pair, [[0] * len(ends[0])] * 2)
            bounds[pair] = [
                [b + a * e for b, e in zip(*sides, strict=True)]
                for sides in zip(old, ends, strict=True)
            ]
        return cls(proof.q, weights, bounds)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of classes l < k."""
        return list(combinations(range(len(self.weights.data.classes)), 2))

    def _towards(self, delta: Any, pair: tuple[int, int]) -> list[int]:
        """The bound on the side of each entry of integers (d,); 0 for a pair without weight."""
        up, down = self.bounds.get(pair, [[0] * len(delta)] * 2)
        return [u if x > 0 else o for x, u, o in zip(delta, up, down, strict=True)]

    def size(self, delta: Any, pair: tuple[int, int]) -> Any:
        r""":math:`\|D / B\|_q` of integers (d,) in units of 2^-(2 places), rounded up; None where
        the set has no multiple that holds them.
        """
        bits = 2 * self.weights.places + BITS
        sides = list(zip(delta, self._towards(delta, pair), strict=True))
        if any(x and not b for x, b in sides):
            return None
        sizes = [-((-abs(x) << bits) // b) if x else 0 for x, b in sides]
        return norm(sizes, self.q)[1] / (1 << BITS)

    def holds(self, delta: Any, pair: tuple[int, int]) -> bool:
        """Whether integers (d,) are in the set of a pair."""
        size = self.size(delta, pair)
        return size is not None and bool(size <= 1)

    def into(self, delta: Any, pair: tuple[int, int]) -> np.ndarray:
        """The integers (d,), brought into the set of a pair: cut off for q = inf, else shrunk."""
        bits, bounds = 2 * self.weights.places, self._towards(delta, pair)
        if self.q == "inf":
            most = [b >> bits for b in bounds]
            return np.array([max(-m, min(m, x)) for x, m in zip(delta, most, strict=True)], object)
        delta = np.array([x if b else 0 for x, b in zip(delta, bounds, strict=True)], object)
        unit = 2**52
        for m in range(_SHRINKAGES):
            if self.holds(delta, pair):
                return delta
            delta = np.array([_cut(x * (unit - 2**m), unit) for x in delta], dtype=object)
        return np.zeros_like(delta)

    @cached_property
    def _floats_of_bounds(self) -> dict[tuple[int, int], np.ndarray]:
        """The bounds in floating point, (2, d) of each pair."""
        unit = 4 * self.weights.places
        return {
            pair: _floats(np.array(sides, dtype=object), unit)
            for pair, sides in self.bounds.items()
        }

    def threat_towards(self, direction: Any, pair: tuple[int, int], multiple: float = 1.0) -> Any:
        """A multiple of the set of a pair in floating point, in the orthant of a direction (d,)."""
        up, down = self._floats_of_bounds.get(pair, np.zeros((2, len(direction))))
        bounds = multiple * np.where(direction > 0, up, down)
        if isinstance(self.q, str):
            return LpBall(float(self.q), 1.0, bounds)
        return FeatureBudget(self.q, bounds)

    def nearest(self, goal: np.ndarray, pair: tuple[int, int], norm: LpNorm) -> np.ndarray:
        """The integers of the set that are nearly nearest to integers (d,) in a norm."""
        if self.q == "inf" or self.holds(goal, pair):
            return self.into(goal, pair)
        unit = 2 * self.weights.places
        values = _floats(goal, unit)
        left = residual(self.threat_towards(goal, pair), values[None], np.ones(1), norm)[0]
        return self.into(_integers(values - left, unit), pair)


def nearest_to_sum(
    problem: Any, norm: LpNorm, sets: PairSets, coef: np.ndarray
) -> list[np.ndarray]:
    """Weighted perturbations of each pair that leave nearly the least dual norm of G + F."""
    if isinstance(problem, JointProblem):
        unit = 2 * sets.weights.places
        if _flows_serve(problem):
            found = -_best_of_pairs(problem, norm, sets, coef)
        else:
            found = min(_of_own_sets(sets, coef), key=lambda of: _size_left(sets, of, norm))
        return [
            sets.into(_integers(delta, unit), pair)
            for delta, pair in zip(found, sets.pairs, strict=True)
        ]
    return [sets.nearest(-sets.weights.weighted_sum[0], (0, 1), norm.dual)]


def equal_to_sum(
    problem: Any, sets: PairSets, coef: np.ndarray, multiple: float = 1.0
) -> list[np.ndarray] | None:
    """Weighted perturbations of each pair with G + F = 0 exactly; None where none are found. They
    are looked for in multiples of their sets, and may be beyond these.
    """
    G = sets.weights.weighted_sum
    moved = [np.zeros(G.shape[1], dtype=object) for _ in sets.pairs]
    if isinstance(problem, JointProblem) and not _flows_serve(problem):
        near = _of_own_sets(sets, coef, multiple)[1]
        moved = [-_integers(delta, 2 * sets.weights.places) for delta in near]
    elif isinstance(problem, JointProblem):
        problem = problem.at_radius(multiple * problem.radius)
        sums = _float_sums(problem, sets.weights)
        start = pair_perturbations(problem, coef)
        found = repaired(problem, sums, start)
        if found.perturbations is None or found.ratio > 1:
            near = nearest_perturbations(
                problem, sums.weighted_sum, sums.capacities, sums.capacities[:, None] * start
            )
            found = repaired(problem, sums, over_capacities(near, sums.capacities))
        if found.perturbations is None:
            return None
        found_moves = sums.capacities[:, None] * found.perturbations
        moved = [_integers(delta, 2 * sets.weights.places) for delta in found_moves]
    _carry(G - _flow(moved, sets.pairs, G), moved, sets)
    return [-delta for delta in moved]


def _carry(left: np.ndarray, moved: list[np.ndarray], sets: PairSets) -> None:
    """Add what rounding leaves of G, (K, d), to perturbations, along the pairs of most weight that
    join the classes.
    """
    pairs, between = sets.pairs, sets.weights.between
    joined, path = {0}, []
    for _ in range(len(left) - 1):
        steps = [pair for pair in pairs if (pair[0] in joined) != (pair[1] in joined)]
        best = max(steps, key=between.__getitem__)
        path.append(best if best[0] in joined else best[::-1])
        joined |= set(best)
    for parent, child in reversed(path):  # each child has passed on what its own left
        pair = (min(parent, child), max(parent, child))
        change = left[child] if child < parent else -left[child]
        moved[pairs.index(pair)] = moved[pairs.index(pair)] + change
        left[parent] = left[parent] + left[child]


def _best_of_pairs(
    problem: JointProblem, norm: LpNorm, sets: PairSets, coef: np.ndarray
) -> np.ndarray:
    """Perturbations (K(K-1)/2, d) that leave nearly the least dual norm: by the search, and where
    cuts know what is left, by that.
    """
    sums = _float_sums(problem, sets.weights)
    start = pair_perturbations(problem, coef)
    worst = sums.capacities[:, None] * start
    found = [
        best_perturbations(
            problem, norm, sums.weighted_sum, sums.capacities, worst, coef, tol=1e-12
        )
    ]
    if by_cuts(problem):
        left = total_variation_prox(sums.weighted_sum, feature_capacities(problem, sums.capacities))
        goal = WeightedSums(sums.weighted_sum - left, sums.sizes, sums.capacities)
        carried = repaired(problem, goal, start)
        if carried.perturbations is not None:
            found.append(sums.capacities[:, None] * carried.perturbations)
        found.append(nearest_perturbations(problem, goal.weighted_sum, sums.capacities, worst))

    def size(moved: np.ndarray) -> float:
        inner = problem.threat.project(moved, sums.capacities)
        left = sums.weighted_sum - _flow(list(inner), sets.pairs, sums.weighted_sum)
        return float(norm.dual.value(left.ravel()))

    return min(found, key=size)


def _flows_serve(problem: JointProblem) -> bool:
    """Whether the samples share an l_q ball: flows of the pairs find its perturbations."""
    return problem.adversary is None and is_ball(problem.threat)


def _of_own_sets(
    sets: PairSets, coef: np.ndarray, multiple: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted perturbations (K(K-1)/2, d) where sets differ from sample to sample: the worst for
    a predictor (K, d), and those that leave the least 2-norm of G + F, by projections in turn.
    """
    G = _floats(sets.weights.weighted_sum, 2 * sets.weights.places)
    directions = [coef[k] - coef[j] for j, k in sets.pairs]
    worst = np.array(
        [
            sets.threat_towards(v, pair, multiple).worst(v)
            for v, pair in zip(directions, sets.pairs, strict=True)
        ]
    )
    moved, left = worst.copy(), G + _flow(list(worst), sets.pairs, G)
    for _ in range(_SWEEPS):
        before = moved.copy()
        for at, (j, k) in enumerate(sets.pairs):
            goal = moved[at] + (left[k] - left[j]) / 2
            found = sets.threat_towards(goal, (j, k), multiple).project(goal)
            left[j], left[k] = left[j] + found - moved[at], left[k] - found + moved[at]
            moved[at] = found
        if np.abs(moved - before).max() <= _STILL * np.abs(moved).max():
            break
    return worst, moved


def _size_left(sets: PairSets, moved: np.ndarray, norm: LpNorm) -> float:
    """The dual norm of G + F."""
    G = _floats(sets.weights.weighted_sum, 2 * sets.weights.places)
    return float(norm.dual.value((G + _flow(list(moved), sets.pairs, G)).ravel()))


def _float_sums(problem: JointProblem, weights: ExactWeights) -> WeightedSums:
    """The weighted sum and capacities of exact weights, in floating point."""
    G = _floats(weights.weighted_sum, 2 * weights.places)
    low, high = problem.pairs
    between = _floats(weights.between[low, high], weights.places)
    return WeightedSums(G, np.abs(G), problem.radius * between)


def _flow(moved: list[Any], pairs: list[tuple[int, int]], like: np.ndarray) -> np.ndarray:
    r""":math:`\sum_{l<k} (e_l - e_k) \delta_{lk}^T`, (K, d)."""
    total = np.zeros_like(like)
    for (low, high), delta in zip(pairs, moved, strict=True):
        total[low] = total[low] + delta
        total[high] = total[high] - delta
    return total


def _floats(integers: np.ndarray, places: int) -> np.ndarray:
    """The nearest floats to integers over 2^places."""
    unit = 2**places
    flat = [int(x) / unit for x in integers.ravel()]
    return np.array(flat, dtype=np.float64).reshape(integers.shape)


def _integers(values: np.ndarray, places: int) -> np.ndarray:
    """Floats times 2^places, cut off towards zero."""
    ratios = [float(x).as_integer_ratio() for x in values]
    return np.array([_cut(above << places, below) for above, below in ratios], dtype=object)


def _cut(x: int, unit: int) -> int:
    """The quotient x / unit, cut off towards zero."""
    return x // unit if x >= 0 else -(-x // unit)
