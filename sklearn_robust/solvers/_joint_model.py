r"""The joint risk of several classes as a function of scores and pair penalties: value, weights,
and the Hessian, exact in products and approximate in a matrix.

With soft margins :math:`\mu_i`, the rivals' shares :math:`\pi_i`, weights :math:`a_i` and
curvatures :math:`c_i` of the loss and :math:`r_i = e_{y_i} - \pi_i`, the risk has in the scores of
a sample the gradient :math:`-a_i r_i` and the Hessian

.. math:: c_i r_i r_i^T + a_i (\operatorname{diag} \pi_i - \pi_i \pi_i^T).

The pair penalty :math:`t_{y k}` adds to the score of class k for the samples of class y, so that
its coefficient acts as one more intercept of these samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.linalg.blas import dsyrk
from scipy.sparse.csgraph import connected_components

from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import MarginLoss, is_exponential
from sklearn_robust.rows import (
    GramRows,
    Rows,
    mean_square,
)

# rows that a Gram matrix is estimated from, for each of the K d unknowns, where there are more:
# the estimate serves as a preconditioner only
ROWS_PER_UNKNOWN = 4
_BLOCK_ENTRIES = 2**18  # entries of rows spread over the classes that exist at a time
_ROUNDING = 1e-14  # rounding of a sum over samples, relative to the sizes of its terms


@dataclass(frozen=True)
class Direction:
    """A step in the unknowns, or a gradient by them.

    Attributes
    ----------
    coef : ndarray of shape (K, d + 1)
        Coefficients in units of the data, and the intercept.
    pairs : ndarray of shape (P,)
        Norms of the differences of the pairs of classes; P = 0 where there is no adversary.
    """

    coef: np.ndarray
    pairs: np.ndarray

    def __add__(self, other: Direction) -> Direction:
        return Direction(self.coef + other.coef, self.pairs + other.pairs)

    def __mul__(self, factor: float) -> Direction:
        return Direction(factor * self.coef, factor * self.pairs)

    def dot(self, other: Direction) -> float:
        """The inner product."""
        return float(np.vdot(self.coef, other.coef) + self.pairs @ other.pairs)

    def flat(self) -> np.ndarray:
        """The unknowns in one array, (K (d + 1) + P,)."""
        return np.concatenate([self.coef.ravel(), self.pairs])


class Units(NamedTuple):
    """The units of the data: features less a centre (d,), over a unit."""

    unit: float
    centre: np.ndarray

    @classmethod
    def of(cls, rows: Rows, *, centred: bool) -> Units:
        """Those of all rows; they are centred where an intercept absorbs it."""
        n_features = rows.shape[1]
        square = mean_square(rows, centred=centred) / n_features
        centre = rows.mean() if centred and isinstance(rows, GramRows) else np.zeros(n_features)
        return cls(math.sqrt(square) if square > 0 else 1.0, centre)


@dataclass
class RiskWeights:
    """The weights of the samples at a point: the slopes of the risk by its margins.

    Attributes
    ----------
    log_risk : float
    weights : ndarray of shape (K, n) or None
        The weights of the pairs of a sample and a rival, 0 at the class of a sample; None where
        they are not held.
    of_sample, curvature : ndarray of shape (n,)
        The weight of each sample and its curvature.
    smallest_margin : float
        The smallest soft margin; a positive one proves that the data are separable.
    """

    log_risk: float
    weights: np.ndarray | None
    of_sample: np.ndarray
    curvature: np.ndarray
    smallest_margin: float

    @property
    def share_of_weight(self) -> np.ndarray:
        """The inverse of the weight of each sample, (n,); 0 where that is 0."""
        used = self.of_sample >= np.finfo(float).tiny  # the inverse of less is infinite
        return np.where(used, 1 / np.where(used, self.of_sample, 1.0), 0.0)


@dataclass
class RiskPoint(RiskWeights):
    """The risk at one point: the logistic risk itself, the logarithm of the exponential risk.

    Attributes
    ----------
    coef : ndarray of shape (K, d + 1)
    pairs : ndarray of shape (P,)
        The norms that it was taken at.
    value : float
    class_sums : ndarray of shape (K, K)
        The sums of the weights over the samples of each class.
    gradient : Direction
    """

    coef: np.ndarray
    pairs: np.ndarray
    value: float
    class_sums: np.ndarray
    gradient: Direction

    def release(self) -> RiskPoint:
        """Give back the memory of weights that are held."""
        self.weights = None
        return self


class Derivatives:
    """Derivatives by the unknowns from those by the rivals' scores, a block of samples at a time.

    Attributes
    ----------
    class_sums : ndarray of shape (K, K)
    """

    def __init__(self, model: JointModel) -> None:
        K, d = model.problem.n_classes, model.problem.n_features
        self.model = model
        self.class_sums = np.zeros((K, K))
        self._total = np.zeros((K, 1))
        self._of_rows = np.zeros((K, d))
        self._size = 0.0

    def add(self, by_rival: np.ndarray, at: slice, rows: Rows) -> None:
        """Add those of a block (K, m), whose entries at the true class are not read."""
        problem = self.model.problem
        own = problem.y[at], np.arange(by_rival.shape[1])
        by_rival[own] = 0.0
        problem.add_class_sums(self.class_sums, by_rival, at)
        by_rival[own] = -by_rival.sum(axis=0)
        self._total += by_rival.sum(axis=1, keepdims=True)
        self._of_rows += rows.weighted_sum(by_rival)
        self._size += float(np.abs(by_rival).sum())
        by_rival[own] = 0.0

    def scale(self, factor: float) -> None:
        """Multiply what was added so far."""
        for sums in (self.class_sums, self._total, self._of_rows):
            sums *= factor
        self._size *= factor

    def direction(self) -> Direction:
        """The sums over all blocks."""
        model = self.model
        of_rows = self._of_rows - self._total * model.centre
        # a constant feature leaves rounding, along which nothing would stop a step
        rounding = _ROUNDING * self._size * np.abs(model.centre)
        of_rows = np.where(np.abs(of_rows) > rounding, of_rows, 0.0) / model.unit
        total = self._total if model.problem.fit_intercept else np.zeros_like(self._total)
        between = (self.class_sums + self.class_sums.T)[model.low, model.high]
        return Direction(np.concatenate([of_rows, total], axis=1), model.radius * between)


class JointModel:
    r"""The risk of a joint problem in units of the data.

    Features are centred where an intercept absorbs it, and divided by the root mean square of an
    entry.

    Parameters
    ----------
    problem : JointProblem
        In double arithmetic.
    loss : MarginLoss
    left_out : ndarray of bool of shape (K, n), optional
        Pairs of a sample and a rival that the risk does not judge; none by default.
    units : Units, optional
        By default those of the rows.

    Attributes
    ----------
    unit : float
    centre : ndarray of shape (d,)
    radius : float
        In units of the data.
    low, high : ndarray of int of shape (P,)
        The classes of the pairs that are judged; none where there is no adversary.
    pair_places : ndarray of int of shape (P,)
        Their places among all pairs.
    log_weight : ndarray of shape (n,)
        -inf for samples that are left out altogether, too.
    used : ndarray of bool of shape (n,)
        Whether a sample has weight.
    """

    def __init__(
        self,
        problem: JointProblem,
        loss: MarginLoss,
        left_out: np.ndarray | None = None,
        units: Units | None = None,
    ) -> None:
        self.problem = problem
        self.loss = loss
        self.left_out = left_out
        self.logarithmic = is_exponential(loss)
        self.units = units or Units.of(problem.rows, centred=problem.fit_intercept)
        self.unit, self.centre = self.units
        self.radius = problem.radius / self.unit
        self.log_weight = problem.log_weight
        judged = np.ones((problem.n_classes, problem.n_classes), dtype=bool)
        if left_out is not None:
            others = np.arange(problem.n_classes)[:, None] != problem.y
            kept = np.any(others & ~left_out, axis=0)
            self.log_weight = np.where(kept, problem.log_weight, -math.inf)
            counts = problem.class_sums((others & ~left_out & (self.log_weight > -math.inf)) * 1.0)
            judged = counts + counts.T > 0
        self._judged = judged
        self.used = self.log_weight > -math.inf
        low, high = problem.pairs
        self.pair_places = np.flatnonzero(judged[low, high]) if self.radius > 0 else np.arange(0)
        self.low, self.high = low[self.pair_places], high[self.pair_places]

    @cached_property
    def joined(self) -> np.ndarray:
        """1 for two classes that pairs which are judged join, directly or by others, (K, K): a
        common shift of them changes no margin.
        """
        parts = connected_components(sparse.csr_array(self._judged), directed=False)[1]
        return (parts[:, None] == parts).astype(float)

    # -- units

    def blocks(self) -> Iterator[tuple[slice, Rows]]:
        """The samples, and their rows, a block at a time."""
        return self.problem.row_blocks()

    def scores(self, coef: np.ndarray, rows: Rows) -> np.ndarray:
        """Scores with the intercepts of a block of rows, (K, d + 1) -> (K, m)."""
        of_rows = coef[:, :-1] / self.unit
        scores: np.ndarray = rows.scores(of_rows)
        scores += (coef[:, -1] - of_rows @ self.centre)[:, None]
        return scores

    def predictor(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients and intercepts of sum 0, in the units of the rows."""
        W = coef[:, :-1] / self.unit
        W = W - W.mean(axis=0)
        b = coef[:, -1] - W @ self.centre
        return W, (b - b.mean() if self.problem.fit_intercept else np.zeros(len(b)))

    def from_predictor(self, W: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The coefficients (K, d + 1) of a predictor."""
        return np.concatenate([self.unit * W, (b + W @ self.centre)[:, None]], axis=1)

    # -- value, gradient, products with the Hessian

    def at(self, coef: np.ndarray, pairs: np.ndarray, *, hold: bool = False) -> RiskPoint:
        """The risk at coefficients (K, d + 1) and norms of the pairs (P,), with its gradient.

        Products with the Hessian take the weights of the point, (K, n). It has them with `hold`;
        otherwise those of a block of samples are gone with the block.
        """
        n = len(self.problem.y)
        sums = Derivatives(self)
        soft_margins, of_sample = np.empty(n), np.zeros(n)
        weights = np.empty((self.problem.n_classes, n)) if hold else None
        log_risks: list[tuple[slice, float]] = []
        total = -math.inf  # the log-risk of the blocks so far, which the sums are relative to
        for at, rows, shares, of_block in self._shares(coef, pairs):
            soft_margins[at] = of_block
            if weights is not None:
                weights[:, at] = shares
            if not self.used[at].any():
                continue
            log_risk, of_sample[at] = self.loss.log_risk_and_weights(of_block, self.log_weight[at])
            if log_risk == -math.inf:
                of_sample[at] = 0.0
                continue
            log_risks.append((at, float(log_risk)))
            last, total = total, float(np.logaddexp(total, log_risk))
            sums.scale(math.exp(last - total))
            shares *= math.exp(log_risk - total) * of_sample[at]
            sums.add(shares, at, rows)
        for at, log_risk in log_risks:
            of_sample[at] *= math.exp(log_risk - total)
        found = self._risk_weights(total, of_sample, soft_margins, weights)
        value = self.value_of(found.log_risk)
        if not self.logarithmic:
            sums.scale(value)
        return RiskPoint(
            **vars(found),
            coef=coef,
            pairs=pairs,
            value=value,
            class_sums=sums.class_sums,
            gradient=sums.direction(),
        )

    def value_of(self, log_risk: float) -> float:
        """The logistic risk itself, or the logarithm of the exponential risk."""
        return log_risk if self.logarithmic else math.exp(log_risk)

    def weights_at(self, coef: np.ndarray, pairs: np.ndarray) -> RiskWeights:
        """The weights at coefficients (K, d + 1) and norms of the pairs (P,)."""
        n = len(self.problem.y)
        weights, soft_margins = np.empty((self.problem.n_classes, n)), np.empty(n)
        for at, _, shares, of_block in self._shares(coef, pairs):
            weights[:, at], soft_margins[at] = shares, of_block
        log_risk, of_sample = self.loss.log_risk_and_weights(soft_margins, self.log_weight)
        return self._risk_weights(float(log_risk), of_sample, soft_margins, weights)

    def _risk_weights(
        self,
        log_risk: float,
        of_sample: np.ndarray,
        soft_margins: np.ndarray,
        shares: np.ndarray | None,
    ) -> RiskWeights:
        """The weights of a loss at soft margins (n,), and shares of the rivals (K, n), in the place
        of these, or without those of the rivals.
        """
        curvature = self.loss.curvature(soft_margins, of_sample)
        if not self.logarithmic:
            value = math.exp(log_risk)
            of_sample, curvature = value * of_sample, value * curvature
        if shares is not None:
            for at, _ in self.problem.blocks():
                shares[:, at] *= of_sample[at]
        smallest = float(soft_margins[self.used].min())
        return RiskWeights(log_risk, shares, of_sample, curvature, smallest)

    def log_risk(self, coef: np.ndarray, pairs: np.ndarray) -> float:
        """The log-risk alone."""
        soft_margins = np.empty(len(self.problem.y))
        for at, _, _, of_block in self._shares(coef, pairs):
            soft_margins[at] = of_block
        return float(self.loss.log_risk_and_weights(soft_margins, self.log_weight)[0])

    def weight_blocks(self, point: RiskPoint) -> Iterator[tuple[slice, np.ndarray]]:
        """The weights at a point (K, m), a block at a time, which may be written to."""
        if point.weights is None:
            for at, _, shares, _ in self._shares(point.coef, point.pairs):
                shares *= point.of_sample[at]
                yield at, shares
            return
        for at, _ in self.blocks():
            yield at, point.weights[:, at].copy()

    def derivatives(self, weights: np.ndarray) -> Direction:
        """The derivatives by the unknowns that weights (K, n) make."""
        sums = Derivatives(self)
        for at, rows in self.blocks():
            sums.add(weights[:, at], at, rows)
        return sums.direction()

    def move_weights(self, weights: np.ndarray, theta: np.ndarray) -> None:
        r"""Multiply weights (K, n) by :math:`\max(1 + (\theta_k - \theta_{y_i}) \cdot x_i, 0)`."""
        for at, rows in self.blocks():
            change = self.scores(theta, rows)
            change -= change[self.problem.y[at], np.arange(change.shape[1])]
            weights[:, at] *= np.maximum(1 + change, 0.0)

    def hessian_product(self, at: RiskPoint, step: Direction) -> Direction:
        """The Hessian at a point times a step."""
        assert at.weights is not None
        penalties = self._penalties(step.pairs)
        inverse = at.share_of_weight
        ratio = at.curvature * inverse
        sums = Derivatives(self)
        for block, rows in self.blocks():
            change, own = self.scores(step.coef, rows), self.problem.y[block]
            change += penalties.take(own, axis=1)
            weights = at.weights[:, block]
            mean = np.einsum("ki,ki->i", weights, change) * inverse[block]
            against = change[own, np.arange(len(own))] - mean
            change -= mean + ratio[block] * against
            change *= weights
            sums.add(change, block, rows)
        product = sums.direction()
        if self.logarithmic:  # the change of the factor 1 / L
            gradient = at.gradient
            product = product + gradient * -gradient.dot(step)
        return product

    def _shares(
        self, coef: np.ndarray, pairs: np.ndarray
    ) -> Iterator[tuple[slice, Rows, np.ndarray, np.ndarray]]:
        """The rows, the rivals' shares (K, m), of sum 1, and the soft margins (m,), a block at a
        time.
        """
        penalties = self._penalties(pairs)
        for at, rows in self.blocks():
            shares, own = self.scores(coef, rows), self.problem.y[at]
            places = np.arange(len(own))
            correct = shares[own, places]
            shares += penalties.take(own, axis=1)
            shares[own, places] = -math.inf
            if self.left_out is not None:
                shares[:, ~self.used[at]] = 0.0  # samples without weight have any margin
                shares[self.left_out[:, at] & self.used[at]] = -math.inf
            largest = shares.max(axis=0)
            shares -= largest
            np.exp(shares, out=shares)
            total = shares.sum(axis=0)
            shares /= total
            yield at, rows, shares, correct - largest - np.log(total)

    def _penalties(self, pairs: np.ndarray) -> np.ndarray:
        """The symmetric penalties (K, K) of the norms of the pairs (P,)."""
        K = self.problem.n_classes
        penalties = np.zeros((K, K))
        penalties[self.low, self.high] = penalties[self.high, self.low] = self.radius * pairs
        return penalties

    # -- the Hessian as a matrix, from a sample of rows

    @cached_property
    def pair_index(self) -> np.ndarray:
        """The place of each pair among the unknowns t, (K, K); P on the diagonal."""
        K, P = self.problem.n_classes, len(self.low)
        index = np.full((K, K), P)
        index[self.low, self.high] = index[self.high, self.low] = np.arange(P)
        return index

    def hessian_estimate(self, at: RiskPoint, features: np.ndarray) -> np.ndarray:
        """The upper triangle of the Hessian at a point from a sample of rows, (N, N) with N = K (f
        + 1) + P, in the coefficients of f features, the intercepts and the norms of the pairs; what
        is below the diagonal is arbitrary.

        Rows are drawn systematically in proportion to their weight, and weighted by its inverse.
        """
        size = self.problem.n_classes * (len(features) + 1)
        chosen, factor = self._sample(at.of_sample, ROWS_PER_UNKNOWN * size)
        matrix = self.curvature_estimate(at, features, chosen, factor)
        if self.logarithmic and len(chosen) == len(self.problem.y):
            # a sample of rows could make it indefinite; without it conjugate gradients take one
            # more step
            self.remove_square(matrix, at, features)
        return matrix

    def remove_square(self, matrix: np.ndarray, at: RiskPoint, features: np.ndarray) -> None:
        """Subtract the square of the gradient from a matrix: the Hessian of the logarithm does."""
        columns = np.append(features, self.problem.n_features)
        gradient = Direction(at.gradient.coef[:, columns], at.gradient.pairs).flat()
        matrix -= np.outer(gradient, gradient)

    def curvature_estimate(
        self, at: RiskWeights, features: np.ndarray, chosen: np.ndarray, factor: np.ndarray
    ) -> np.ndarray:
        """The same of these rows, times a factor each, without the change of the factor 1 / L."""
        columns = np.append(features, self.problem.n_features)
        K, d1 = self.problem.n_classes, len(columns)
        P, size = len(self.low), K * d1
        coefs = np.zeros((K, d1, K, d1))
        by_pair = np.zeros((size, P + 1))  # the last column is that of no pair, c with itself
        pairs = np.zeros((P + 1, P + 1))
        for c in range(K):
            mine = self.problem.y[chosen] == c
            if not mine.any():
                continue
            X = self.features(chosen[mine])
            X = X if d1 == X.shape[1] else X[:, columns]
            by_own = self.radius * self._add_class(coefs, at, c, X, chosen[mine], factor[mine])
            places = self.pair_index[c]
            by_pair[:, places] += by_own.reshape(size, K)
            pairs[places[:, None], places] += self.radius * by_own[:, -1]
        matrix = np.zeros((size + P, size + P))
        matrix[:size, :size] = coefs.reshape(size, size)
        matrix[:size, size:] = by_pair[:, :P]
        matrix[size:, size:] = pairs[:P, :P]
        if not self.problem.fit_intercept:
            intercepts = np.arange(d1 - 1, size, d1)
            matrix[intercepts] = 0.0
            matrix[:, intercepts] = 0.0
            matrix[intercepts, intercepts] = 1.0
        return matrix

    def hessian_blocks(self, at: RiskPoint) -> np.ndarray:
        """The blocks of the Hessian at a point in the coefficients of one feature, (d, K, K); of
        the risk without its logarithm.
        """
        assert at.weights is not None
        K, d = self.problem.n_classes, self.problem.n_features
        blocks = np.zeros((d, K * K))
        length = max(1, _BLOCK_ENTRIES // max(K * K, d))
        inverse = at.share_of_weight
        for start in range(0, len(self.problem.y), length):
            rows = np.arange(start, min(start + length, len(self.problem.y)))
            shares = (at.weights[:, rows] * inverse[rows]).T
            weight = at.of_sample[rows]
            curvature = at.curvature[rows]
            against = -shares
            against[np.arange(len(rows)), self.problem.y[rows]] = 1.0
            of_scores = curvature[:, None, None] * against[:, :, None] * against[:, None, :]
            of_scores -= weight[:, None, None] * shares[:, :, None] * shares[:, None, :]
            of_scores[:, np.arange(K), np.arange(K)] += weight[:, None] * shares
            blocks += (self.features(rows)[:, :-1] ** 2).T @ of_scores.reshape(len(rows), K * K)
        return blocks.reshape(d, K, K)

    def _sample(self, of_sample: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows, and the factor of the weight of each."""
        n = len(of_sample)
        if n <= most:
            return np.arange(n), np.ones(n)
        # half by weight, half evenly: no factor exceeds twice that of an even sample
        share = 0.5 * of_sample / of_sample.sum() + 0.5 / n
        edges = np.cumsum(share)
        chosen = np.searchsorted(edges, edges[-1] * (np.arange(most) + 0.5) / most)
        return chosen, 1 / (most * share[chosen])

    def _add_class(
        self,
        coefs: np.ndarray,
        at: RiskWeights,
        c: int,
        X: np.ndarray,
        rows: np.ndarray,
        factor: np.ndarray,
    ) -> np.ndarray:
        """Add the upper triangle of the Hessian that rows of class c make, of features X (m, f + 1)
        with a column of ones, to one in coefficients, (K, f + 1, K, f + 1); all of its columns of
        intercepts, (K, f + 1, K).
        """
        K, d1 = coefs.shape[:2]
        before = coefs[..., -1].copy()
        assert at.weights is not None
        shares = (at.weights[:, rows] * at.share_of_weight[rows]).T
        weight = factor * at.of_sample[rows]
        curvature = np.minimum(factor * at.curvature[rows], weight)  # the preconditioner is >= 0
        _add_star_gram(coefs, X, curvature[:, None] * shares, c)
        beyond = weight - curvature
        if not beyond.any():
            columns: np.ndarray = coefs[..., -1] - before
            return columns
        # (a_i - c_i) (diag pi_i - pi_i pi_i^T): the curvature among the rivals
        spread = (shares[:, :, None] * X[:, None, :]).reshape(len(rows), K * d1)
        own = ((X * beyond[:, None]).T @ spread).reshape(d1, K, d1)
        classes = np.arange(K)
        coefs[classes, :, classes, :] += own.transpose(1, 0, 2)
        columns = coefs[..., -1] - before
        spread *= np.sqrt(beyond)[:, None]
        columns -= (spread.T @ spread[:, d1 - 1 :: d1]).reshape(K, d1, K)
        add_gram(coefs.reshape(K * d1, K * d1), spread, -1.0)
        return columns

    def pair_gram(self, weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
        r"""The Gram matrix :math:`\sum_{ik} a_{ik} (e_k - e_{y_i}) (e_k - e_{y_i})^T \otimes x_i
        x_i^T` on f columns, of which the last feature is 1, (K f, K f).
        """
        K, f = len(weights), len(columns)
        gram = np.zeros((K, f, K, f))
        length = max(1, _BLOCK_ENTRIES // (K * f))
        whole: Any = self.problem.rows  # arrays, or rows in blocks
        for at, block in whole.row_blocks():
            for c in range(K):
                members = np.flatnonzero((self.problem.y[at] == c) & self.used[at])
                for start in range(0, len(members), length):
                    rows = members[start : start + length]
                    features = self._features_of(block.take(rows))[:, columns]
                    _add_star_gram(gram, features, weights[:, at.start + rows].T, c)
        return gram.reshape(K * f, K * f)

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Rows in units of the data with a column of ones, (m, d + 1)."""
        whole: Any = self.problem.rows
        return self._features_of(whole.take(rows))

    def _features_of(self, X: np.ndarray) -> np.ndarray:
        """The same of rows (m, d) of the data."""
        features = np.empty((len(X), X.shape[1] + 1))
        np.subtract(X, self.centre, out=features[:, :-1])
        features[:, :-1] /= self.unit
        features[:, -1] = 1.0
        return features


def add_gram(matrix: np.ndarray, rows: np.ndarray, factor: float) -> None:
    """Add a multiple of R^T R to the upper triangle of a matrix (f, f), for R of shape (m, f)."""
    dsyrk(factor, rows.T, beta=1.0, c=matrix.T, lower=1, overwrite_c=1)


def _add_star_gram(gram: np.ndarray, X: np.ndarray, weights: np.ndarray, c: int) -> None:
    """Add the Gram matrix of rows (m, f) of class c, whose rivals have weights (m, K), to one of
    shape (K, f, K, f).
    """
    (m, f), K = X.shape, weights.shape[1]
    spread = (weights[:, :, None] * X[:, None, :]).reshape(m, K * f)
    of_rival = (X.T @ spread).reshape(f, K, f)
    classes = np.arange(K)
    gram[classes, :, classes, :] += of_rival.transpose(1, 0, 2)
    gram[c, :, c] += of_rival.sum(axis=1)
    gram[c] -= of_rival
    gram[:, :, c] -= of_rival.transpose(1, 0, 2)
