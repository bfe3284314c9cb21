r"""The separator of least 2-norm of several classes by cuts, where the sets of the samples make too
large a program.

**Cuts.** A worst perturbation :math:`\delta_{ik}` at some W is a point of the set, and so the
margin of the pair (i, k) is at most linear: :math:`\langle w_{y_i} - w_k, x_i + \delta_{ik} \rangle
+ b_{y_i} - b_k`. Of the cuts c that are known the largest margin at :math:`\|W\|_2 \le 1` is the
norm of the nearest point to 0,

.. math:: \min \tfrac12 \Big\| \sum_c a_c (e_{y_c} - e_{k_c}) v_c^T \Big\|_2^2 \quad
    \text{subject to} \quad a \ge 0, \; \sum_c a_c = 1, \; \sum_c a_c (e_{y_c} - e_{k_c}) = 0,

a quadratic program in the weights of the cuts. W is the point; the pairs that it violates give new
cuts, at their worst perturbations.

**Certificate.** Those of a pair combine to one perturbation in its set, and the pair weights bound
every margin (`_joint_sets`).

Notes
-----
J. E. Kelley, The cutting-plane method for solving convex programs, Journal of SIAM 8 (1960).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import sparse

from sklearn_robust._clarabel import SolverFailure, run_clarabel
from sklearn_robust._joint_sets import JointSets
from sklearn_robust._pair_programs import n_pair_entries
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import predictor
from sklearn_robust.norms import LpNorm, Norm

# entries of the pairs of a sample and a rival, and features, from which cuts come first: a cone
# program of so many takes about a minute
_FEWEST_ENTRIES = 40_000
_MOST_ROUNDS = 40
_MOST_CUTS = 2_000  # cuts of one program; its time grows with their cube
_NEW_CUTS = 400  # cuts of one round, at most
_IDLE_ROUNDS = 3  # without weight, after which a cut is dropped
_IDLE = 1e-8  # weight of a cut, relative to the largest, up to which it is without
_TOL = 1e-13
_NEAR = 1e-12  # lack of margin, relative to the bound, from which a pair gives a cut
_VANISHING = 1e-7  # bound, relative to the first, at which nothing separates


def serves(problem: JointProblem, norm: Norm) -> bool:
    """Whether cuts are the faster way to the separator."""
    return (
        isinstance(norm, LpNorm)
        and norm.p == 2
        and isinstance(problem.adversary, JointSets)
        and problem.fit_intercept
        and n_pair_entries(problem) > _FEWEST_ENTRIES
    )


def points_by_cuts(problem: JointProblem) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The predictors W (K, d) of more and more cuts, and the weights (K, n) and perturbations
    (K, n, d) that prove a bound on the margin.
    """
    K, y = problem.n_classes, problem.y
    X = np.asarray(problem.X)
    centre = X.mean(axis=0)
    cuts = _Cuts(X - centre, y, K)
    coef = np.stack([X[y == k].mean(axis=0) for k in range(K)])
    bound = math.inf
    pairs = (np.arange(K)[:, None] != y) & (problem.log_weight > -math.inf)
    first = math.inf
    for _ in range(_MOST_ROUNDS):
        margins = margins_of(problem, coef)
        short = np.flatnonzero(pairs & (margins < (1 - _NEAR) * bound))
        if not len(short):
            return
        worst = short[np.argsort(margins.ravel()[short])][:_NEW_CUTS]
        rivals, samples = np.unravel_index(worst, pairs.shape)
        assert isinstance(problem.adversary, JointSets)
        delta = float(problem.radius) * problem.adversary.perturbations(coef)
        cuts.add(rivals, samples, delta[rivals, samples])
        if len(cuts.samples) > _MOST_CUTS:
            return
        try:
            coef = cuts.nearest_point(first if math.isfinite(first) else 1.0)
        except SolverFailure:
            return
        bound = float(np.linalg.norm(coef))
        first = bound if first == math.inf else first
        if bound <= _VANISHING * first:
            return
        yield coef, *cuts.proof()
        cuts.drop_idle()


def margins_of(problem: JointProblem, coef: np.ndarray) -> np.ndarray:
    """The margin of each rival and sample, (K, n), of the predictor W at norm 1 with its best
    intercepts.
    """
    coef, intercept = predictor(problem, coef)
    scores = np.asarray(problem.X @ coef.T) + intercept
    own = scores[np.arange(len(scores)), problem.y]
    margins: np.ndarray = own - scores.T - problem.penalties(coef)
    return margins / (float(np.linalg.norm(coef)) or 1.0)


class _Cuts:
    """Pairs of a sample and a rival with perturbations of the sample, and their weights."""

    def __init__(self, X: np.ndarray, y: np.ndarray, n_classes: int) -> None:
        self.X, self.y = X, y
        self.n_classes = n_classes
        self.rivals = np.empty(0, dtype=int)
        self.samples, self.idle = self.rivals, self.rivals
        self.delta = np.empty((0, X.shape[1]))
        self.weights = np.empty(0)

    def add(self, rivals: np.ndarray, samples: np.ndarray, delta: np.ndarray) -> None:
        """New cuts, that `nearest_point` weighs."""
        self.rivals = np.append(self.rivals, rivals)
        self.samples = np.append(self.samples, samples)
        self.delta = np.vstack([self.delta, delta])
        self.idle = np.append(self.idle, np.zeros(len(rivals), dtype=int))

    def nearest_point(self, unit: float) -> np.ndarray:
        """The nearest point (K, d) to 0, whose weights are kept; a unit of its size helps."""
        m, K = len(self.samples), self.n_classes
        rows, low = self.X[self.samples] + self.delta, self.y[self.samples]
        ends = np.zeros((K, m))
        ends[low, np.arange(m)] = 1.0
        ends[self.rivals, np.arange(m)] -= 1.0
        gram = (rows @ rows.T) * (ends.T @ ends) / unit**2
        # the balance of one class follows from the others
        A = np.vstack([np.ones((1, m)), ends[1:], -np.eye(m)])
        b = np.append(1.0, np.zeros(K - 1 + m))
        cones = [("zero", K), ("nonnegative", m)]
        a, _, _ = run_clarabel(
            sparse.csc_array(np.triu(gram)), np.zeros(m), sparse.csc_array(A), b, cones, _TOL
        )
        a = np.maximum(a, 0)
        self.weights = a / a.sum()
        point: np.ndarray = (ends * self.weights) @ rows
        return point

    def proof(self) -> tuple[np.ndarray, np.ndarray]:
        """The weights (K, n) of the pairs, and their mean perturbations (K, n, d)."""
        shape = self.n_classes, len(self.y)
        at = np.ravel_multi_index((self.rivals, self.samples), shape)
        weights = np.bincount(at, weights=self.weights, minlength=math.prod(shape))
        share = self.weights / np.where(weights > 0, weights, 1.0)[at]
        delta = np.zeros((math.prod(shape), self.X.shape[1]))
        np.add.at(delta, at, share[:, None] * self.delta)
        return weights.reshape(shape), delta.reshape(*shape, -1)

    def drop_idle(self) -> None:
        """Leave out the cuts that have been without weight for some rounds."""
        without = self.weights <= _IDLE * self.weights.max()
        self.idle = np.where(without, self.idle + 1, 0)
        kept = self.idle < _IDLE_ROUNDS
        self.rivals, self.samples, self.idle = (
            part[kept] for part in (self.rivals, self.samples, self.idle)
        )
        self.delta = self.delta[kept]
