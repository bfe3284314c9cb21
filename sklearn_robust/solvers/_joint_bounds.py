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
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import (
    WeightedSums,
    by_cuts,
    entropy_bound,
    repaired,
    weighted_sums,
)
from sklearn_robust.losses import MarginLoss
from sklearn_robust.solvers._joint_model import JointModel
from sklearn_robust.solvers._joint_start import PairDifferences
from sklearn_robust.threats import gauge
from sklearn_robust.total_variation import class_sets

# rounding of a sum of terms, relative to their sizes
_SUM_ROUNDING = 64 * float(np.finfo(np.float64).eps)
_MOST_SHARE = 0.5  # largest share of an anchor in a combination
_CANCELS = 1e-2  # share of the sizes of its terms to which a sum must be small to be cancelled
_CANCELLATIONS = 2  # the second mends the rounding of the first
# pairs of classes whose weight vanishes: at most this share of the largest
_NEGLIGIBLE = 1e-6
# or at most this share, and below the next one by this difference of logarithms
_SMALL = 1e-2
_JUMP = 2.0
_CANCEL_RIDGE = 1e-13  # share of the diagonal that makes dependent features regular


@dataclass(frozen=True)
class _Candidate:
    """Balanced weights (K, n), the excess of each constraint, and the least slack of one relative
    to its capacity.
    """

    weights: np.ndarray
    excess: np.ndarray
    slack: float


class DualBounds:
    """The best lower bound on the log-risk so far, and the weights that prove it.

    Parameters
    ----------
    model : JointModel
    differences : PairDifferences

    Attributes
    ----------
    bound : float
        -inf while there is none.
    weights : ndarray of shape (K, n) or None
    """

    def __init__(self, model: JointModel, differences: PairDifferences) -> None:
        self.model = model
        self.problem: JointProblem = model.problem
        self.loss: MarginLoss = model.loss
        self.differences = differences
        self.bound = -math.inf
        self.weights: np.ndarray | None = None
        features = np.arange(self.problem.n_features)
        self._free = np.setdiff1d(features, differences.columns) if len(model.low) else features
        self._has_pairs = len(model.low) > 0 and len(differences.columns) > 0
        self._anchors: list[_Candidate] = []

    def update(self, weights: np.ndarray, slopes: np.ndarray) -> None:
        """Try weights (K, n), with flows of the pairs in proportion to slopes (P, r) of norm at
        most 1.
        """
        if self._improve(weights, slopes):
            return
        pruned = self._without_separated_pairs(weights)
        if pruned is not None:
            self._improve(pruned, slopes)

    def _improve(self, weights: np.ndarray, slopes: np.ndarray) -> bool:
        """Try weights, or a combination with an anchor; whether one of them is feasible."""
        now = self._candidate(weights, slopes)
        if now is None:
            return False
        if now.slack >= -_SUM_ROUNDING:
            self._try(now.weights)
            roomiest = max([now, *self._anchors], key=lambda anchor: anchor.slack)
            self._anchors = [now] if roomiest is now else [roomiest, now]
            return True
        tried = False
        for anchor in self._anchors:
            share = _share(now.excess, anchor.excess)
            if share <= _MOST_SHARE:
                self._try((1 - share) * now.weights + share * anchor.weights)
                tried = True
        return tried

    def _without_separated_pairs(self, weights: np.ndarray) -> np.ndarray | None:
        """The weights without those of pairs of classes whose weight vanishes beside the others';
        None where there are none.

        Classes whose margins can grow without end while the others' stay have no minimiser:
        in the limit their weights are 0, and at an iterate they are infeasible and negligible.
        """
        matrix = self.problem.pair_weights(weights)
        sizes = np.sort(matrix[self.problem.pairs])[::-1]
        if len(sizes) < 2 or not sizes[0] > 0:
            return None
        logs = np.log(np.maximum(sizes, np.finfo(float).tiny))
        jumps = np.where(sizes[1:] <= _SMALL * sizes[0], logs[:-1] - logs[1:], 0.0)
        negligible = sizes[1:] <= _NEGLIGIBLE * sizes[0]
        last = int(np.argmax(negligible if negligible.any() else jumps))
        if jumps[last] < _JUMP and not negligible.any():
            return None
        kept = matrix >= sizes[last]
        return weights * kept[self.problem.y].T

    def _try(self, weights: np.ndarray) -> None:
        bound = entropy_bound(self.problem, self.loss, weights)
        if bound > self.bound:
            self.bound, self.weights = bound, weights

    def _candidate(self, weights: np.ndarray, slopes: np.ndarray) -> _Candidate | None:
        """The weights made feasible, but for their excess; None where that fails."""
        try:
            weights = self.problem.balanced(weights)
        except LinAlgError:
            return None
        sums = weighted_sums(self.problem, weights)
        if len(self._free) and not self._cancels(sums, _SUM_ROUNDING):
            if not self._cancels(sums, _CANCELS):
                return None
            weights = self.problem.balanced(self._cancelling(weights))
            sums = weighted_sums(self.problem, weights)
            if not self._cancels(sums, _SUM_ROUNDING):
                return None
        if not self._has_pairs:
            return _Candidate(weights, np.zeros(0), 0.0)
        carried, capacity = self._cuts(sums) if by_cuts(self.problem) else self._flows(sums, slopes)
        excess = carried - capacity
        slack = float(np.min(-excess / np.where(capacity > 0, capacity, 1.0)))
        return _Candidate(weights, excess, slack)

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
        start = np.zeros((len(slopes), self.problem.n_features))
        start[:, self.differences.columns] = slopes * self.differences.scale
        found = repaired(self.problem, sums, start)
        if found.perturbations is None:
            return np.full(len(slopes), math.inf), sums.capacities
        return gauge(self.problem.threat, found.perturbations) * sums.capacities, sums.capacities

    # -- features out of reach

    def _cancels(self, sums: WeightedSums, share: float) -> bool:
        """Whether the weighted sum is this share of the sizes of its terms, out of reach."""
        left, sizes = np.abs(sums.weighted_sum[:, self._free]), sums.sizes[:, self._free]
        return bool(np.all(left <= share * sizes))

    def _cancelling(self, weights: np.ndarray) -> np.ndarray:
        """Weights near these whose weighted sum is rounding on the features out of reach, and
        which balance.
        """
        model, problem = self.model, self.problem
        columns = np.append(self._free, problem.n_features) if problem.fit_intercept else self._free
        gram = model.pair_gram(weights, columns)
        K, f = problem.n_classes, len(columns)
        places = np.arange(K * f).reshape(K, f)
        gram[places[:, None, :], places[None, :, :]] += np.trace(gram) / (K * K * f)
        np.fill_diagonal(gram, (1 + _CANCEL_RIDGE) * np.diag(gram))
        try:
            factor = cho_factor(gram, lower=True, check_finite=False)
        except LinAlgError:
            return weights
        weights, own = weights.copy(), np.arange(weights.shape[1])
        for _ in range(_CANCELLATIONS):
            left = model.gradient_of(weights.copy()).coef[:, columns]
            theta = np.zeros((K, problem.n_features + 1))
            theta[:, columns] = -cho_solve(factor, left.ravel()).reshape(K, f)
            change = model.scores(theta)
            change -= change[problem.y, own]
            weights *= np.maximum(1 + change, 0.0)
        return weights


def _share(excess: np.ndarray, of_anchor: np.ndarray) -> float:
    """The least share of an anchor that leaves no excess; inf where none does."""
    over = excess > 0
    if not np.all(of_anchor[over] < 0):
        return math.inf
    return float(np.max(excess[over] / (excess[over] - of_anchor[over]), initial=0.0))
