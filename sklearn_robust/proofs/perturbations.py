r"""Perturbations of the pairs of classes as integers, exactly within their balls.

In the units of the weighted sum G the perturbation of classes l < k obeys :math:`\|\delta_{lk} /
s\|_q \le \epsilon A_{lk}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

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
from sklearn_robust.check import BITS, integers, norm
from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import LpNorm
from sklearn_robust.proofs.data import exponent_name
from sklearn_robust.proofs.weights import ExactWeights
from sklearn_robust.threats import LpBall, residual
from sklearn_robust.total_variation import total_variation_prox

_SHRINKAGES = 50  # factors 1 - 2^(m - 52), m = 0, 1, .., that bring a point into its ball


@dataclass(frozen=True)
class ExactBalls:
    """The balls of the pairs of classes for given weights.

    Attributes
    ----------
    ball : LpBall
    weights : ExactWeights
    """

    ball: LpBall
    weights: ExactWeights

    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of classes l < k."""
        return list(combinations(range(len(self.weights.data.classes)), 2))

    def room(self, pair: tuple[int, int]) -> Fraction:
        r""":math:`\epsilon A_{lk}` in the units of the perturbations."""
        return Fraction(self.ball.eps) * self.weights.between[pair] * 2**self.weights.top

    def scales(self) -> tuple[list[int], int]:
        """The scales as integers and their binary places."""
        scale = self.ball.scale
        values = np.ones(self.weights.data.X.shape[1]) if scale is None else np.asarray(scale)
        return integers(values.astype(np.float64).tolist())

    def holds(self, delta: Any, pair: tuple[int, int]) -> bool:
        """Whether integers (d,) lie in the ball of a pair, quotients by the scale rounded up."""
        scale, places = self.scales()
        moved = list(zip(delta, scale, strict=True))
        if any(x and not s for x, s in moved):
            return False
        sizes = [-(-abs(x) * 2 ** (BITS + places) // s) if s else 0 for x, s in moved]
        size = norm(sizes, exponent_name(self.ball.q))[1]
        return bool(size <= self.room(pair) * 2**BITS)

    def into(self, delta: np.ndarray, pair: tuple[int, int]) -> np.ndarray:
        """The integers (d,), brought into the ball of a pair: cut off for q = inf, else shrunk."""
        scale, places = self.scales()
        delta = np.where(np.array(scale, dtype=object) > 0, delta, 0)
        if np.isinf(self.ball.q):
            room = self.room(pair)
            most = [int(room * s // 2**places) for s in scale]
            return np.array([max(-m, min(m, x)) for x, m in zip(delta, most, strict=True)], object)
        unit = 2**52
        for m in range(_SHRINKAGES):
            if self.holds(delta, pair):
                return delta
            delta = np.array([_cut(x * (unit - 2**m), unit) for x in delta], dtype=object)
        return np.zeros_like(delta)


def nearest_to_sum(
    problem: Any, norm: LpNorm, balls: ExactBalls, coef: np.ndarray
) -> list[np.ndarray]:
    """Perturbations of each pair whose flow leaves nearly the least dual norm of G."""
    G, unit = balls.weights.weighted_sum, balls.weights.places + balls.weights.top
    if isinstance(problem, JointProblem):
        found = _best_of_pairs(problem, norm, balls, coef)
        moved = [_integers(delta, unit) for delta in found]
    else:
        g = _floats(G[1], unit)[None]
        between = _floats(balls.weights.between[0, 1:], balls.weights.places)
        radius = problem.radius * between
        left = residual(problem.threat, g, radius, norm.dual)[0]
        # where nothing is left the perturbation is the sum itself
        moved = [np.where(left == 0, -G[1], _integers(left - g[0], unit))]
    return [balls.into(delta, pair) for pair, delta in zip(balls.pairs(), moved, strict=True)]


def equal_to_sum(problem: Any, balls: ExactBalls, coef: np.ndarray) -> list[np.ndarray] | None:
    """Perturbations of each pair whose flow is G exactly; None where they leave their balls."""
    G, unit = balls.weights.weighted_sum, balls.weights.places + balls.weights.top
    moved = [np.zeros(G.shape[1], dtype=object) for _ in balls.pairs()]
    if isinstance(problem, JointProblem):
        sums = _float_sums(problem, balls)
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
        moved = [_integers(delta, unit) for delta in found_moves]
    _carry(G - _flow(moved, balls.pairs(), G), moved, balls)
    inside = all(balls.holds(x, pair) for pair, x in zip(balls.pairs(), moved, strict=True))
    return moved if inside else None


def _carry(left: np.ndarray, moved: list[np.ndarray], balls: ExactBalls) -> None:
    """Add what rounding leaves of G, (K, d), to perturbations, along the pairs of most weight that
    join the classes.
    """
    pairs, between = balls.pairs(), balls.weights.between
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
    problem: JointProblem, norm: LpNorm, balls: ExactBalls, coef: np.ndarray
) -> np.ndarray:
    """Perturbations (K(K-1)/2, d) that leave nearly the least dual norm: by the search, and where
    cuts know what is left, by that.
    """
    sums = _float_sums(problem, balls)
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
        left = sums.weighted_sum - _flow(list(inner), balls.pairs(), sums.weighted_sum)
        return float(norm.dual.value(left.ravel()))

    return min(found, key=size)


def _float_sums(problem: JointProblem, balls: ExactBalls) -> WeightedSums:
    """The weighted sum and capacities of exact weights, in floating point."""
    weights = balls.weights
    G = _floats(weights.weighted_sum, weights.places + weights.top)
    between = np.array([weights.between[pair] for pair in balls.pairs()], dtype=object)
    return WeightedSums(G, np.abs(G), problem.radius * _floats(between, weights.places))


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
