r"""Proofs of how good an answer is, from the answer alone.

**Margin.** For weights a of the simplex (with an intercept also :math:`\sum_i a_i y_i = 0`) and :math:`g = Z^T a`, the largest
robust margin :math:`\gamma = \max_{\|w\|_p \le 1} \min_i z_i \cdot w - \epsilon \|w\|_{q^*}` obeys

.. math:: \min_i m_i(w) / \|w\|_p \;\le\; \gamma \;\le\; D(a) = \min_{\|\delta\|_q \le \epsilon} \|g - \delta\|_{p^*},

with equality at the optimum. :math:`\|Z^T a\|_q \le \epsilon` proves that no robust separator exists.

**Risk.** Where none exists the risk has a minimiser; weights with :math:`\|Z^T a\|_q \le \epsilon \sum_i a_i` bound it from
below by Fenchel duality: :math:`-KL(a \| s)` bounds the log of the exponential risk, :math:`\sum_i s_i H(a_i / s_i)` the
logistic risk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator, lsmr

from sklearn_robust._array_api import Array, namespace
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem


@dataclass(frozen=True)
class MarginCertificate:
    """Lower and upper bound on the largest robust margin of each problem.

    Attributes
    ----------
    margin : array of shape (k,)
        min_i m_i(w) / ||w||_p of the predictor; positive if and only if it separates robustly.
    bound : array of shape (k,)
        D(a): no predictor has a larger margin. Zero is a proof that the data are not robustly separable.
    """

    margin: Array
    bound: Array

    @property
    def gap(self) -> Array:
        """Relative gap 1 - margin / bound; the predictor's margin is at least (1 - gap) times the largest."""
        xp = namespace(self.margin)
        positive = self.bound > 0
        gap = 1 - self.margin / xp.where(positive, self.bound, xp.ones_like(self.bound))
        return xp.where(positive, gap, xp.full_like(gap, math.inf))


def robust_margin(problem: RobustProblem, norm: LpNorm, coef: Array, intercept: Array) -> Array:
    """min_i m_i(w) / ||w||_p of each predictor, of shape (k,); -inf for w = 0."""
    xp = namespace(coef)
    size = norm.value(coef)
    smallest = xp.min(problem.margins(coef, intercept), axis=-1)
    return xp.where(size > 0, smallest / xp.where(size > 0, size, xp.ones_like(size)), xp.full_like(size, -math.inf))


def margin_bound(problem: RobustProblem, norm: LpNorm, weights: Array) -> Array:
    """D(a) of shape (k,): the distance, in the dual norm, from Z^T a to the threat's ball, for feasible weights (k, n)."""
    residual = problem.threat.norm.residual(problem.weighted_sum(weights), problem.threat.eps, norm.dual)
    return norm.dual.value(residual)


def margin_certificate(
    problem: RobustProblem, norm: LpNorm, coef: Array, intercept: Array, weights: Array
) -> MarginCertificate:
    """Both sides for predictors (k, d), (k,) and weights (k, n); the weights are made feasible first.

    Parameters
    ----------
    problem : RobustProblem
    norm : LpNorm
        The geometry p in which the margin is measured.
    coef : array of shape (k, d)
    intercept : array of shape (k,)
    weights : array of shape (k, n)
        Any non-negative weights; they are scaled to the simplex (per class with an intercept).

    Returns
    -------
    MarginCertificate
    """
    return MarginCertificate(
        margin=robust_margin(problem, norm, coef, intercept),
        bound=margin_bound(problem, norm, problem.balanced(weights)),
    )


def non_separability_slack(problem: RobustProblem, weights: Array) -> Array:
    """eps - ||Z^T a||_q of shape (k,), for feasible weights; >= 0 proves that no robust separator exists."""
    return problem.threat.eps - problem.threat.norm.value(problem.weighted_sum(weights))


def repaired_weights(problem: RobustProblem, weights: Array) -> Array:
    r"""The weights moved the little that makes :math:`\|Z^T a\|_q \le \epsilon` true; nan where that takes more than a little.

    Near the minimiser of the risk the weights violate the inequality slightly. The correction :math:`\delta` with
    :math:`Z^T (a + \delta)` on the ball, :math:`\sum_i \delta_i = 0` (in each class, with an intercept) and least
    :math:`\sum_i \delta_i^2 / a_i` keeps small weights small, so that a + delta stays non-negative.

    Parameters
    ----------
    problem : RobustProblem
        On NumPy or scipy.sparse data.
    weights : ndarray of shape (k, n)
        Non-negative; scaled to the simplex (per class with an intercept) first.

    Returns
    -------
    ndarray of shape (k, n)
        Each row proves that its problem is not robustly separable, or is nan.
    """
    weights = problem.balanced(weights)
    g = problem.weighted_sum(weights)
    size, eps = problem.threat.norm.value(g), problem.threat.eps
    repaired = weights.copy()
    for i in np.flatnonzero(size > eps).tolist():
        # a hair inside the ball, so that rounding does not decide
        target = g[i] * (eps[i] * (1 - 1e-12) / size[i])
        root = np.sqrt(weights[i])
        totals = np.stack([problem.y[i] > 0, problem.y[i] < 0] if problem.fit_intercept else [np.ones_like(root)])

        def columns(x: Array, i: int = i, root: Array = root, totals: Array = totals) -> Array:
            return np.concatenate([(root * problem.y[i] * x) @ problem.X, totals @ (root * x)])

        def rows(v: Array, i: int = i, root: Array = root, totals: Array = totals) -> Array:
            d = problem.n_features
            return root * (problem.y[i] * (problem.X @ v[:d]) + v[d:] @ totals)

        operator = LinearOperator((len(target) + len(totals), len(root)), matvec=columns, rmatvec=rows, dtype=root.dtype)
        change = np.concatenate([target - g[i], np.zeros(len(totals))])
        tiny = np.finfo(root.dtype).eps
        repaired[i] += root * lsmr(operator, change, atol=tiny, btol=tiny, conlim=0, maxiter=20 * len(change))[0]
    repaired = problem.balanced(repaired)  # negative entries are cut off: the check below decides whether that matters
    rounding = 64 * np.finfo(g.dtype).eps * problem.threat.norm.value(np.full_like(g, max(problem.X.max(), -problem.X.min())))
    feasible = non_separability_slack(problem, repaired) >= -rounding
    return np.where(feasible[:, None], repaired, np.nan)


def log_risk_bound(problem: RobustProblem, loss: MarginLoss, weights: Array) -> Array:
    """A lower bound on the log-risk of every predictor, of shape (k,), from `repaired_weights`; -inf where they are nan."""
    proven = np.isfinite(weights[:, 0])
    bound = loss.log_risk_bound(np.where(proven[:, None], weights, np.exp(problem.log_weight)), problem.log_weight)
    return np.where(proven, bound, -np.inf)
