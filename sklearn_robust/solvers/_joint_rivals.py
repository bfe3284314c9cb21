r"""The exponential joint risk of the nearest rivals of each sample, for many classes.

Few classes of a thousand are near a sample. The other pairs of a sample and a rival have a margin
so large that they weigh nothing; the risk leaves them out, and with them most pairs of classes:

.. math:: \log L = \log \sum_{(i,k) \in R} s_i e^{-m_{ik}}.

Weights of the pairs in R prove what they prove for all pairs: the others weigh zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import Exponential
from sklearn_robust.solvers._joint_model import Direction, JointModel, RiskPoint

_NEAREST = 30  # rivals of a sample that are taken at a time


def nearest_rivals(problem: JointProblem, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """The rivals of least margin of each sample of weight, (K, n): coefficients (K, d), (K,)."""
    K = problem.n_classes
    near = np.zeros((K, len(problem.y)), dtype=bool)
    penalties = problem.penalties(coef)
    for at, rows in problem.row_blocks():
        places = np.arange(at.stop - at.start)
        losses = problem.losses(rows.scores(coef), penalties, intercept, at, places)
        block = near[:, at]
        if K - 1 <= _NEAREST:
            block[:] = True
        else:
            largest = np.argpartition(losses, K - _NEAREST, axis=0)[K - _NEAREST :]
            np.put_along_axis(block, largest, True, axis=0)
        block[problem.y[at], places] = False
    near[:, problem.log_weight == -math.inf] = False
    return near


class RivalModel(JointModel):
    """The exponential risk of some pairs of a sample and a rival; see `JointModel`.

    Parameters
    ----------
    whole : JointModel
        The risk of all pairs.
    near : ndarray of bool of shape (K, n)
        The pairs that the risk judges.
    """

    def __init__(self, whole: JointModel, near: np.ndarray) -> None:
        super().__init__(whole.problem, Exponential(), left_out=~near, units=whole.units)
        self._samples, self._rivals = np.nonzero(near.T)
        self._own = self.problem.y[self._samples]

    def at(self, coef: np.ndarray, pairs: np.ndarray, *, hold: bool = False) -> RiskPoint:
        """The risk at coefficients (K, d + 1) and norms of the pairs (P,), with its gradient."""
        log_risk, weights = self._log_risk_and_weights(coef, pairs)
        K = self.problem.n_classes
        of_sample = np.bincount(self._samples, weights, len(self.problem.y))
        class_sums = np.bincount(self._own * K + self._rivals, weights, K * K).reshape(K, K)
        of_rows = np.zeros((K, self.problem.n_features))
        blocks = zip(self._spread(weights), self.blocks(), strict=True)
        for (at, block), (_, rows) in blocks:
            block[self.problem.y[at], np.arange(block.shape[1])] = -of_sample[at]
            of_rows += rows.weighted_sum(block)
        total = (class_sums.sum(axis=0) - class_sums.sum(axis=1))[:, None]
        of_rows = (of_rows - total * self.centre) / self.unit
        if not self.problem.fit_intercept:
            total = np.zeros_like(total)
        between = class_sums[self.low, self.high] + class_sums[self.high, self.low]
        smallest = np.maximum(of_sample[self.used], np.finfo(float).tiny)
        soft_margins = self.log_weight[self.used] - np.log(smallest) - log_risk
        return RiskPoint(
            log_risk=log_risk,
            weights=None,
            of_sample=of_sample,
            curvature=of_sample,
            smallest_margin=float(soft_margins.min()),
            coef=coef,
            pairs=pairs,
            value=log_risk,
            class_sums=class_sums,
            gradient=Direction(np.concatenate([of_rows, total], axis=1), self.radius * between),
        )

    def weight_blocks(self, point: RiskPoint) -> Iterator[tuple[slice, np.ndarray]]:
        """The weights at a point (K, m), a block at a time, which may be written to."""
        yield from self._spread(self._log_risk_and_weights(point.coef, point.pairs)[1])

    def _log_risk_and_weights(
        self, coef: np.ndarray, pairs: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """The log-risk, and the weights of the pairs that are judged."""
        penalties = self._penalties(pairs)
        exponents = penalties[self._rivals, self._own] + self.log_weight[self._samples]
        for at, rows in self.blocks():
            judged, samples = self._in(at)
            scores = self.scores(coef, rows)
            exponents[judged] += scores[self._rivals[judged], samples]
            exponents[judged] -= scores[self._own[judged], samples]
        largest = float(exponents.max())
        weights = np.exp(exponents - largest)
        total = float(weights.sum())
        return largest + math.log(total), weights / total

    def _spread(self, weights: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """The weights of the pairs that are judged as arrays (K, m), a block of samples each."""
        for at, _ in self.blocks():
            judged, samples = self._in(at)
            block = np.zeros((self.problem.n_classes, at.stop - at.start))
            block[self._rivals[judged], samples] = weights[judged]
            yield at, block

    def _in(self, at: slice) -> tuple[slice, np.ndarray]:
        """The pairs of a block of samples, and the places of their samples in it."""
        judged = slice(*np.searchsorted(self._samples, [at.start, at.stop]))
        return judged, self._samples[judged] - at.start
