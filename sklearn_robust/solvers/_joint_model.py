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
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg.blas import dsyrk

from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import MarginLoss, is_exponential
from sklearn_robust.rows import GramRows, mean_square

# rows that a Gram matrix is estimated from, for each of the K d unknowns, where there are more:
# the estimate serves as a preconditioner only
_ROWS_PER_UNKNOWN = 4
_BLOCK_ENTRIES = 2**18  # entries of an array of classes and samples that exist at a time


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


@dataclass(frozen=True)
class RiskPoint:
    """The risk at one point: the logistic risk itself, the logarithm of the exponential risk.

    Attributes
    ----------
    value : float
    log_risk : float
    shares : ndarray of shape (K, n)
        The rivals' shares, of sum 1 over the rivals of a sample, 0 at its class.
    of_sample, curvature : ndarray of shape (n,)
        The weight of each sample and its curvature.
    smallest_margin : float
        The smallest soft margin; a positive one proves that the data are separable.
    pairs : ndarray of shape (P,)
        The norms that it was taken at.
    gradient : Direction
    """

    value: float
    log_risk: float
    shares: np.ndarray
    of_sample: np.ndarray
    curvature: np.ndarray
    smallest_margin: float
    pairs: np.ndarray
    gradient: Direction

    @property
    def weights(self) -> np.ndarray:
        """The weights of the pairs of a sample and a rival, (K, n)."""
        return self.shares * self.of_sample


class JointModel:
    r"""The risk of a joint problem in units of the data.

    Features are centred where an intercept absorbs it, and divided by the root mean square of an
    entry.

    Parameters
    ----------
    problem : JointProblem
        In double arithmetic.
    loss : MarginLoss

    Attributes
    ----------
    unit : float
    centre : ndarray of shape (d,)
    radius : float
        In units of the data.
    low, high : ndarray of int of shape (P,)
        The classes of the pairs; none where there is no adversary.
    """

    def __init__(self, problem: JointProblem, loss: MarginLoss) -> None:
        self.problem = problem
        self.loss = loss
        self.logarithmic = is_exponential(loss)
        rows = problem.rows
        square = mean_square(rows, centred=problem.fit_intercept) / problem.n_features
        self.unit = math.sqrt(square) if square > 0 else 1.0
        self.centre = np.zeros(problem.n_features)
        if problem.fit_intercept and isinstance(rows, GramRows):
            self.centre = rows.mean()
        self.radius = problem.radius / self.unit
        low, high = problem.pairs
        if self.radius == 0:
            low, high = low[:0], high[:0]
        self.low, self.high = low, high
        self.used = problem.log_weight > -math.inf

    # -- units

    def scores(self, coef: np.ndarray) -> np.ndarray:
        """Scores with the intercepts, (K, d + 1) -> (K, n)."""
        of_rows = coef[:, :-1] / self.unit
        scores: np.ndarray = self.problem.scores(of_rows)
        scores += (coef[:, -1] - of_rows @ self.centre)[:, None]
        return scores

    def weighted_sum(self, by_score: np.ndarray) -> np.ndarray:
        """The adjoint of `scores`, (K, n) -> (K, d + 1)."""
        total = by_score.sum(axis=1, keepdims=True)
        of_rows = self.problem.rows.weighted_sum(by_score) - total * self.centre
        if not self.problem.fit_intercept:
            total[:] = 0.0
        return np.concatenate([of_rows / self.unit, total], axis=1)

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

    def at(self, coef: np.ndarray, pairs: np.ndarray) -> RiskPoint:
        """The risk at coefficients (K, d + 1) and norms of the pairs (P,), with its gradient."""
        shares = self.scores(coef)
        soft_margins = self._shares(shares, pairs)
        log_risk, of_sample = self.loss.log_risk_and_weights(soft_margins, self.problem.log_weight)
        curvature = self.loss.curvature(soft_margins, of_sample)
        value = float(log_risk)
        if not self.logarithmic:
            value = math.exp(value)
            of_sample, curvature = value * of_sample, value * curvature
        weights = shares * of_sample
        gradient = self.gradient_of(weights)
        smallest = float(soft_margins[self.used].min())
        return RiskPoint(
            value, float(log_risk), shares, of_sample, curvature, smallest, pairs, gradient
        )

    def hessian_product(self, at: RiskPoint, step: Direction) -> Direction:
        """The Hessian at a point times a step."""
        change = self.scores(step.coef)
        y = self.problem.y
        penalties = self._penalties(step.pairs)
        for block in self._blocks():
            part, own = change[:, block], y[block]
            part += penalties[:, own]
            places = np.arange(len(own))
            shares = at.shares[:, block]
            mean = np.einsum("ki,ki->i", shares, part)
            against = part[own, places] - mean
            part -= mean
            part *= at.of_sample[block]
            part -= at.curvature[block] * against
            part *= shares
        product = self.gradient_of(change)
        if self.logarithmic:
            gradient = at.gradient
            product = product + gradient * -gradient.dot(step)
        return product

    def pair_weights(self, weights: np.ndarray) -> np.ndarray:
        """The weight between the classes of each pair, (K, n) -> (P,)."""
        matrix: np.ndarray = self.problem.pair_weights(weights)
        return matrix[self.low, self.high]

    def gradient_of(self, by_rival: np.ndarray) -> Direction:
        """Derivatives by the unknowns from those by the rivals' scores (K, n), whose entries at
        the true class this overwrites.
        """
        pairs = self.radius * self.pair_weights(by_rival) if len(self.low) else np.zeros(0)
        by_rival[self.problem.y, np.arange(by_rival.shape[1])] = -by_rival.sum(axis=0)
        return Direction(self.weighted_sum(by_rival), pairs)

    def _shares(self, scores: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """The soft margins (n,); the rivals' shares take the place of the scores (K, n)."""
        y, penalties = self.problem.y, self._penalties(pairs)
        soft_margins = np.empty(scores.shape[1])
        for block in self._blocks():
            part, own = scores[:, block], y[block]
            places = np.arange(len(own))
            correct = part[own, places]
            part += penalties[:, own]
            part[own, places] = -math.inf
            largest = part.max(axis=0)
            part -= largest
            np.exp(part, out=part)
            total = part.sum(axis=0)
            part /= total
            soft_margins[block] = correct - largest - np.log(total)
        return soft_margins

    def _penalties(self, pairs: np.ndarray) -> np.ndarray:
        """The symmetric penalties (K, K) of the norms of the pairs (P,)."""
        K = self.problem.n_classes
        penalties = np.zeros((K, K))
        penalties[self.low, self.high] = penalties[self.high, self.low] = self.radius * pairs
        return penalties

    def _blocks(self) -> list[slice]:
        n = len(self.problem.y)
        length = max(1, _BLOCK_ENTRIES // self.problem.n_classes)
        return [slice(start, min(start + length, n)) for start in range(0, n, length)]

    # -- the Hessian as a matrix, from a sample of rows

    @cached_property
    def pair_index(self) -> np.ndarray:
        """The place of each pair among the unknowns t, (K, K); P on the diagonal."""
        K, P = self.problem.n_classes, len(self.low)
        index = np.full((K, K), P)
        index[self.low, self.high] = index[self.high, self.low] = np.arange(P)
        return index

    def hessian_estimate(self, at: RiskPoint) -> np.ndarray:
        """The upper triangle of the Hessian at a point from a sample of rows, (N, N) with N = K (d
        + 1) + P; what is below the diagonal is arbitrary.

        Rows are drawn systematically in proportion to their weight, and weighted by its inverse.
        """
        K, d1 = at.gradient.coef.shape
        P, size = len(self.low), K * d1
        coefs = np.zeros((K, d1, K, d1))
        by_pair = np.zeros((size, P + 1))  # the last column is that of no pair, c with itself
        pairs = np.zeros((P + 1, P + 1))
        chosen, factor = self._sample(at.of_sample, _ROWS_PER_UNKNOWN * size)
        for c in range(K):
            mine = self.problem.y[chosen] == c
            if not mine.any():
                continue
            columns = self.radius * self._add_class(coefs, at, c, chosen[mine], factor[mine])
            places = self.pair_index[c]
            by_pair[:, places] += columns.reshape(size, K)
            pairs[places[:, None], places] += self.radius * columns[:, -1]
        matrix = np.zeros((size + P, size + P))
        matrix[:size, :size] = coefs.reshape(size, size)
        matrix[:size, size:] = by_pair[:, :P]
        matrix[size:, size:] = pairs[:P, :P]
        if not self.problem.fit_intercept:
            intercepts = np.arange(d1 - 1, size, d1)
            matrix[intercepts] = 0.0
            matrix[:, intercepts] = 0.0
            matrix[intercepts, intercepts] = 1.0
        if self.logarithmic and len(chosen) == len(self.problem.y):
            # a sample of rows could make it indefinite; without it conjugate gradients take one
            # more step
            gradient = at.gradient.flat()
            matrix -= np.outer(gradient, gradient)
        return matrix

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
        self, coefs: np.ndarray, at: RiskPoint, c: int, rows: np.ndarray, factor: np.ndarray
    ) -> np.ndarray:
        """Add the upper triangle of the Hessian that rows of class c make to one in coefficients,
        (K, d + 1, K, d + 1); all of its columns of intercepts, (K, d + 1, K).
        """
        K, d1 = coefs.shape[:2]
        before = coefs[..., -1].copy()
        X = self._features(rows)
        shares = at.shares[:, rows].T
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

    def _features(self, rows: np.ndarray) -> np.ndarray:
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
