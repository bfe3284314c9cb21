r"""Whether a robust separator exists, by linear programs over worst points.

Against sets whose worst points are corners, finitely many rows :math:`(e_{y_i} - e_k) (x_i +
\delta)^T` decide. A linear program finds the predictor :math:`|W_{kj}| \le 1` of largest margin on
the rows so far; the worst points against it are new rows; where there are none it separates best.
Its multipliers are weights of samples at convex combinations of corners. Where the margin is 0 they
cancel, :math:`\sum_{ik} a_{ik} (e_{y_i} - e_k) (x_i + \delta_{ik})^T = 0` up to rounding: a proof
that nothing separates where the sets of two classes touch, which programs over cones leave open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from sklearn_robust._adversaries import Slots
from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_programs import Vector, score_differences, unit_differences
from sklearn_robust._conic_sets import TERM_ROUNDING
from sklearn_robust._highs import run_highs
from sklearn_robust.joint import JointProblem
from sklearn_robust.problems import RobustProblem

_MOST_ROUNDS = 100
_MOST_ENTRIES = 2_000_000  # entries of the rows of a program at most
_NEW = 1e-9  # margin below the least so far, in units of the data, from which a row is new


class Decision(NamedTuple):
    """A predictor that separates, or weights (K, n) that prove that none does; neither where this
    is open.
    """

    coef: Vector | None = None
    weights: Vector | None = None


def decide_by_worst_points(problem: JointProblem) -> Decision:
    """Whether a robust separator exists.

    Parameters
    ----------
    problem : JointProblem
        In float64, on an array, with `JointSets`.
    """
    adversary: Any = problem.adversary  # or the sets of two classes
    K = problem.n_classes
    X = problem.X.toarray() if sparse.issparse(problem.X) else problem.X
    unit = np.sqrt(np.mean(X**2, axis=0))
    unit[unit == 0] = 1.0
    pairs = (np.arange(K) != problem.y[:, None]) & (problem.log_weight > -math.inf)[:, None]
    samples, rivals = np.nonzero(pairs)
    delta = np.zeros((K, *X.shape))
    owner = np.zeros(0, dtype=int)
    blocks: list[Any] = []
    new = np.arange(len(samples))
    for _ in range(_MOST_ROUNDS):
        points = X[samples[new]] + delta[rivals[new], samples[new]]
        blocks.append(_rows(problem, points / unit, samples[new], rivals[new]))
        owner = np.concatenate([owner, new])
        rows = sparse.vstack(blocks, format="csr")
        if rows.nnz > _MOST_ENTRIES:
            break
        found = _largest_margin(rows, K * X.shape[1])
        if found is None:
            break
        x, a = found
        coef = x[: K * X.shape[1]].reshape(K, -1) / unit
        delta = problem.radius * adversary.perturbations(coef)
        if not np.isfinite(delta).all():
            break
        points = X[samples] + delta[rivals, samples]
        ahead = _rows(problem, points / unit, samples, rivals) @ x[:-1]
        new = np.flatnonzero(ahead < x[-1] - _NEW)
        if len(new):
            continue
        if x[-1] > _NEW:
            return Decision(coef=coef)
        cancels = np.abs(rows.T @ a) <= TERM_ROUNDING * (abs(rows).T @ a)
        if not cancels.all():
            break
        weights = np.zeros((K, len(X)))
        np.add.at(weights, (rivals[owner], samples[owner]), a)
        return Decision(weights=weights)
    return Decision()


@dataclass(frozen=True)
class _OfTwo:
    """The sets of samples with labels y (n,) in {-1, +1} as those of classes 0 and 1."""

    adversary: Any
    y: Vector

    def perturbations(self, coef: Vector) -> Vector:
        """The worst perturbation of each sample for each rival: (2, d) -> (2, n, d)."""
        moved = -self.y[:, None] * self.adversary.perturbations(coef[1] - coef[0])
        return np.stack([moved, moved])


def as_joint(problem: RobustProblem) -> JointProblem:
    """A problem of two classes as one of several, for `decide_by_worst_points`."""
    y, everyone = problem.y[0], np.ones(problem.y.shape[1])
    adversary = problem.adversary or Slots.by_sample(problem.threat, everyone)
    return JointProblem(
        problem.X,
        (y > 0).astype(np.int64),
        2,
        problem.threat,
        float(problem.radius[0]),
        problem.log_weight[0],
        float(problem.log_total_weight[0]),
        problem.fit_intercept,
        _OfTwo(adversary, y),  # type: ignore[arg-type]
    )


def _rows(problem: JointProblem, points: Vector, samples: Any, rivals: Any) -> Any:
    """The rows of pairs in W, row by row, and in the intercepts, of which that of class 0 is 0."""
    K, m = problem.n_classes, len(points)
    classes = problem.y[samples]
    parts = [score_differences(points, np.arange(m), classes, rivals, K)]
    if problem.fit_intercept:
        parts.append(unit_differences(classes, rivals, K)[:, 1:])
    return sparse.csr_array(sparse.hstack(parts))


def _largest_margin(rows: sparse.csr_array, n_bounded: int) -> tuple[Vector, Vector] | None:
    """The coefficients of largest margin on the rows, and the margin; the weights of the rows."""
    m, n = rows.shape
    c = np.zeros(n + 1)
    c[-1] = -1.0
    bounds = np.full((n + 1, 2), [-np.inf, np.inf])
    bounds[:n_bounded] = -1.0, 1.0
    try:
        result = run_highs(
            {
                "c": c,
                "A_ub": sparse.hstack([-rows, sparse.csr_array(np.ones((m, 1)))], format="csr"),
                "b_ub": np.zeros(m),
                "bounds": bounds,
            }
        )
    except SolverFailure:
        return None
    weights = np.maximum(-np.asarray(result.ineqlin.marginals), 0)
    return np.asarray(result.x), weights / weights.sum()
