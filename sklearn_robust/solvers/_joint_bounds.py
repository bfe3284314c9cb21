r"""Lower bounds on the joint risk from the iterates of a solver: weights made feasible, and mixed
with earlier ones where they miss it by little.

Balanced weights prove a bound where flows of the pairs carry their weighted sum
(`sklearn_robust.joint_certificates`): one convex constraint, excess <= 0, for each set of classes
where cuts are enumerated, and for each pair otherwise. A convex combination with an anchor, earlier
weights that have slack where others have excess, is feasible.

Features out of the adversary's reach, all where there is none, must cancel in the weighted sum
altogether. The weights move for that by :math:`a_{ik} (\theta_k - \theta_{y_i}) \cdot x_i`, with
:math:`\theta` from the linear equations that say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from sklearn_robust._joint_flows import WeightedSums, by_cuts, repaired
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import entropy_bound_of_blocks
from sklearn_robust.losses import MarginLoss
from sklearn_robust.solvers._joint_model import Direction, JointModel, RiskPoint
from sklearn_robust.solvers._joint_start import PairDifferences
from sklearn_robust.threats import gauge
from sklearn_robust.total_variation import class_sets

# rounding of a sum of terms, relative to their sizes
_SUM_ROUNDING = 64 * float(np.finfo(np.float64).eps)
_MOST_SHARE = 0.5  # largest share of an anchor in a combination
_CANCELS = 1e-2  # share of the sizes of its terms to which a sum must be small to be cancelled
_NEGLIGIBLE_WEIGHTS = (1e-9, 1e-7, 1e-5)  # shares of the mean weight of a sample, in turn
_CANCELLATIONS = 2  # the second mends the rounding of the first
# pairs of classes whose weight vanishes: at most this share of the largest
_NEGLIGIBLE = 1e-6
# or at most this share, and below the next one by this difference of logarithms
_SMALL = 1e-2
_JUMP = 2.0
_CANCEL_RIDGE = 1e-13  # share of the diagonal that makes dependent features regular


Source = Any  # RiskPoint, or weights (K, n)


@dataclass(frozen=True)
class _Candidate:
    """Balanced weights: those of a point or an array (K, n), times a factor for each pair of the
    classes of a sample and of a rival.

    Attributes
    ----------
    source : RiskPoint or ndarray of shape (K, n), or what a subclass of `DualBounds` takes
    factors : ndarray of shape (K, K)
    excess : ndarray
        What each constraint is exceeded by; negative where it is met.
    slack : float
        The least of a constraint, relative to its capacity.
    """

    source: Source
    factors: np.ndarray
    excess: np.ndarray
    slack: float


Mixture = list[tuple[float, _Candidate]]  # shares, which sum to 1, and weights


class DualBounds:
    """The best lower bound on the log-risk so far, and the weights that prove it.

    Weights are kept as the points that they belong to, and computed for a block of samples at a
    time.

    Parameters
    ----------
    model : JointModel
    differences : PairDifferences

    Attributes
    ----------
    bound : float
        -inf while there is none.
    """

    def __init__(self, model: JointModel, differences: PairDifferences) -> None:
        self.model = model
        self.problem: JointProblem = model.problem
        self.loss: MarginLoss = model.loss
        self.differences = differences
        self.bound = -math.inf
        self._proof: Mixture = []
        features = np.arange(self.problem.n_features)
        self._free = np.setdiff1d(features, differences.columns) if len(model.low) else features
        self._has_pairs = len(model.low) > 0 and len(differences.columns) > 0
        self._anchors: list[_Candidate] = []

    @property
    def proven(self) -> bool:
        """Whether there is a bound."""
        return bool(self._proof)

    def weights(self) -> np.ndarray:
        """The weights (K, n) that prove the bound."""
        weights = np.zeros((self.problem.n_classes, len(self.problem.y)))
        for at, block in self._mixed(self._proof):
            weights[:, at] = block
        return weights

    def update(self, point: RiskPoint, slopes: np.ndarray) -> None:
        """Try the weights at a point, with flows of the pairs in proportion to slopes (P, r) of
        norm at most 1.
        """
        every_pair = np.ones_like(point.class_sums)
        if self._improve(point, every_pair, slopes):
            return
        kept = self._without_separated_pairs(point)
        if kept is not None:
            self._improve(point, kept, slopes)

    def _improve(self, point: RiskPoint, kept: np.ndarray, slopes: np.ndarray) -> bool:
        """Try weights on the pairs of classes (K, K) that are kept, or a combination with an
        anchor; whether one of them is feasible.
        """
        now = self._candidate(point, kept, slopes)
        if now is None:
            return False
        if now.slack >= -_SUM_ROUNDING:
            self._try([[(1.0, now)]])
            roomiest = max([now, *self._anchors], key=lambda anchor: anchor.slack)
            self._anchors = [now] if roomiest is now else [roomiest, now]
            return True
        shares = [(_share(now.excess, anchor.excess), anchor) for anchor in self._anchors]
        mixtures = [[(1 - s, now), (s, anchor)] for s, anchor in shares if s <= _MOST_SHARE]
        self._try(mixtures)
        return bool(mixtures)

    def _without_separated_pairs(self, point: RiskPoint) -> np.ndarray | None:
        """1 for the pairs of classes (K, K), 0 for those whose weight vanishes beside the others';
        None where there are none.

        Classes whose margins can grow without end while the others' stay have no minimiser:
        in the limit their weights are 0, and at an iterate they are infeasible and negligible.
        """
        matrix = point.class_sums + point.class_sums.T
        sizes = np.sort(matrix[self.problem.pairs])[::-1]
        if len(sizes) < 2 or not sizes[0] > 0:
            return None
        logs = np.log(np.maximum(sizes, np.finfo(float).tiny))
        jumps = np.where(sizes[1:] <= _SMALL * sizes[0], logs[:-1] - logs[1:], 0.0)
        negligible = sizes[1:] <= _NEGLIGIBLE * sizes[0]
        last = int(np.argmax(negligible if negligible.any() else jumps))
        if jumps[last] < _JUMP and not negligible.any():
            return None
        kept: np.ndarray = (matrix >= sizes[last]).astype(float)
        return kept

    def _try(self, mixtures: list[Mixture]) -> None:
        """Keep the best of these if it proves more than is known."""
        for mixture, bound in zip(mixtures, self._bounds_of(mixtures), strict=True):
            if bound > self.bound:
                self.bound, self._proof = bound, mixture

    def _candidate(
        self, point: RiskPoint, kept: np.ndarray, slopes: np.ndarray
    ) -> _Candidate | None:
        """The weights on the pairs that are kept, made feasible, but for their excess; None where
        that fails.
        """
        source: Source = point
        factors = self._balancing(kept * point.class_sums)
        if factors is None:
            return None
        factors = kept * factors
        sums = self._weighted_sums(source, factors)
        if len(self._free) and not self._cancels(sums, _SUM_ROUNDING):
            source = self._scaled_source(source, factors)
            if not self._cancels(sums, _CANCELS):
                source = self._without_negligible(source)
                if source is None:
                    return None
            source = self._cancelling(source)
            factors = self._balancing(self._class_sums(source))
            if factors is None:
                return None
            sums = self._weighted_sums(source, factors)
            if not self._cancels(sums, _SUM_ROUNDING):
                return None
        if not self._has_pairs:
            return _Candidate(source, factors, np.zeros(0), 0.0)
        return _Candidate(source, factors, *self._excess(sums, slopes))

    def _excess(self, sums: WeightedSums, slopes: np.ndarray) -> tuple[np.ndarray, float]:
        """What each constraint is exceeded by, and the least slack relative to a capacity."""
        carried, capacity = self._cuts(sums) if by_cuts(self.problem) else self._flows(sums, slopes)
        excess = carried - capacity
        return excess, float(np.min(-excess / np.where(capacity > 0, capacity, 1.0)))

    def _balancing(self, class_sums: np.ndarray) -> np.ndarray | None:
        """The factors that make weights with these class sums feasible."""
        try:
            return self.problem.balancing(class_sums)
        except LinAlgError:
            return None

    # -- weights, a block of samples at a time

    def _scaled(self, source: Source, factors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """The weights of a point or an array times the factors of their pairs of classes."""
        if isinstance(source, RiskPoint):
            blocks = self.model.weight_blocks(source)
        else:
            blocks = ((at, source[:, at].copy()) for at, _ in self.model.blocks())
        for at, block in blocks:
            block *= factors[self.problem.y[at]].T
            yield at, block

    def _mixed(self, mixture: Mixture) -> Iterator[tuple[slice, np.ndarray]]:
        """The combination of weights."""
        parts = [self._scaled(candidate.source, candidate.factors) for _, candidate in mixture]
        for blocks in zip(*parts, strict=True):
            at, total = blocks[0]
            total *= mixture[0][0]
            for (share, _), (_, block) in zip(mixture[1:], blocks[1:], strict=True):
                total += share * block
            yield at, total

    def _bounds_of(self, mixtures: list[Mixture]) -> list[float]:
        """The bounds that combinations of feasible weights prove."""
        return [
            entropy_bound_of_blocks(self.problem, self.loss, self._mixed(mixture))
            for mixture in mixtures
        ]

    def _scaled_source(self, source: Source, factors: np.ndarray) -> Source:
        """The scaled weights (K, n)."""
        weights = np.zeros((self.problem.n_classes, len(self.problem.y)))
        for at, block in self._scaled(source, factors):
            weights[:, at] = block
        return weights

    def _without_negligible(self, source: Source) -> Source | None:
        """Weights, in the place of these, with zero for those that are negligible, balanced and
        nearly cancelled out of reach; None where there are none.

        Weights vanish in the limit where margins grow without end, such as those of a category out
        of reach all of whose samples have one class: they have nothing to cancel them.
        """
        for share in _NEGLIGIBLE_WEIGHTS:
            source = self._cut(source, share)
            factors = self._balancing(self._class_sums(source))
            if factors is None:
                return None
            if self._cancels(self._weighted_sums(source, factors), _CANCELS):
                return self._scaled_source(source, factors)
        return None

    def _cut(self, source: Source, share: float) -> Source:
        """Weights (K, n), in their place, with zero for those below a share of a sample's mean."""
        source[source < share / len(self.problem.y)] = 0.0
        return source

    def _class_sums(self, source: Source) -> np.ndarray:
        """The class sums of weights (K, n)."""
        sums: np.ndarray = self.problem.class_sums(source)
        return sums

    def _weighted_sums(self, source: Source, factors: np.ndarray) -> WeightedSums:
        """What the scaled weights prove by."""
        problem, K = self.problem, self.problem.n_classes
        total, sizes = np.zeros((2, K, problem.n_features))
        class_sums = np.zeros((K, K))
        blocks = zip(self.model.blocks(), self._scaled(source, factors), strict=True)
        for (_, rows), (at, block) in blocks:
            problem.add_class_sums(class_sums, block, at)
            block[problem.y[at], np.arange(block.shape[1])] = -block.sum(axis=0)
            total -= rows.weighted_sum(block)
            sizes += rows.sum_sizes(block)
        between = (class_sums + class_sums.T)[problem.pairs]
        return WeightedSums(total, sizes, problem.radius * between)

    # -- constraints

    def _cuts(self, sums: WeightedSums) -> tuple[np.ndarray, np.ndarray]:
        """What each set of classes sends in the worst of the features, and its capacity."""
        members, crossing = (table[1:-1] for table in class_sets(self.problem.n_classes))
        columns, scale = self.differences.columns, self.differences.scale
        room = _SUM_ROUNDING * sums.sizes[:, columns].sum(axis=0)
        sent = (members @ sums.weighted_sum[:, columns] - room) / scale
        return sent.max(axis=1), crossing @ sums.capacities

    def _flows(self, sums: WeightedSums, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sizes of repaired flows of the pairs, and their capacities."""
        start = np.zeros((len(sums.capacities), self.problem.n_features))
        places = np.ix_(self.model.pair_places, self.differences.columns)
        start[places] = slopes * self.differences.scale
        found = repaired(self.problem, sums, start)
        if found.perturbations is None:
            return np.full(len(start), math.inf), sums.capacities
        return gauge(self.problem.threat, found.perturbations) * sums.capacities, sums.capacities

    # -- features out of reach

    def _cancels(self, sums: WeightedSums, share: float) -> bool:
        """Whether the weighted sum is this share of the sizes of its terms, out of reach."""
        left, sizes = np.abs(sums.weighted_sum[:, self._free]), sums.sizes[:, self._free]
        return bool(np.all(left <= share * sizes))

    def _cancelling(self, source: Source) -> Source:
        """Weights near these, in their place, whose weighted sum is rounding on the features out of
        reach, and which balance.
        """
        problem = self.problem
        columns = np.append(self._free, problem.n_features) if problem.fit_intercept else self._free
        gram = self._pair_gram(source, columns)
        K, f = problem.n_classes, len(columns)
        places = np.arange(K * f).reshape(K, f)
        gram[places[:, None, :], places[None, :, :]] += np.trace(gram) / (K * K * f)
        np.fill_diagonal(gram, (1 + _CANCEL_RIDGE) * np.diag(gram))
        try:
            factor = cho_factor(gram, lower=True, check_finite=False)
        except LinAlgError:
            return source
        for _ in range(_CANCELLATIONS):
            left = self._derivatives(source).coef[:, columns]
            theta = np.zeros((K, problem.n_features + 1))
            theta[:, columns] = -cho_solve(factor, left.ravel()).reshape(K, f)
            source = self._moved(source, theta)
        return source

    def _pair_gram(self, source: Source, columns: np.ndarray) -> np.ndarray:
        """The upper triangle of the Gram matrix of weights (K, n); see `JointModel.pair_gram`."""
        return self.model.pair_gram(source, columns)

    def _derivatives(self, source: Source) -> Direction:
        """The derivatives that weights (K, n) make."""
        return self.model.derivatives(source)

    def _moved(self, source: Source, theta: np.ndarray) -> Source:
        """Weights (K, n), in their place, after `JointModel.move_weights`."""
        self.model.move_weights(source, theta)
        return source


def _share(excess: np.ndarray, of_anchor: np.ndarray) -> float:
    """The least share of an anchor that leaves no excess; inf where none does."""
    over = excess > 0
    if not np.all(of_anchor[over] < 0):
        return math.inf
    return float(np.max(excess[over] / (excess[over] - of_anchor[over]), initial=0.0))
