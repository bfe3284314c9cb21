"""The max-margin form: the program that every exact solver here takes.

It reads the exponent q and the scales of the threat, and so serves l_q balls only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import norm as sparse_norm

from sklearn_robust._clarabel import SolverFailure as SolverFailure
from sklearn_robust.certificates import Certified, Point, best_intercept, over_size
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem, feasible_weights
from sklearn_robust.scaled_norms import WeightedNorm
from sklearn_robust.threats import require_ball

Vector = NDArray[np.float64]

SOLVER = "an exact separator"  # the name, in messages, of the solvers that serve l_q balls only

# Difference of the classes' weights, relative to the total weight, up to which they are equal.
_BALANCE = 2e-14


@dataclass(frozen=True)
class MaxMarginForm:
    r"""Maximise :math:`\gamma` with :math:`z_i \cdot w + y_i b - \epsilon \|s w\|_{q^*} \ge
    \gamma`, :math:`\|w\|_p \le 1`.

    It is feasible and bounded whatever the data: at :math:`\epsilon \ge \epsilon^*` its solution is
    w = 0. The multipliers of its n rows are the weights of the simplex that bound the margin.

    Attributes
    ----------
    rows : ndarray or scipy.sparse.csr_array of shape (n, d)
        The signed rows z_i.
    labels : ndarray of shape (n,) or None
        The labels y_i where the intercept b is free; None fixes b = 0.
    p : float
        Norm of the margin, in [1, inf].
    dual_q : float
        The exponent q*; unused where eps = 0.
    eps : float
    shift : float
        Where p = q* the adversary lowers every margin of a unit vector by its radius: eps is then 0
        and the radius stands here.
    scale : ndarray of shape (d,) or None
        The s_j >= 0, not all of them equal; None is 1.
    """

    rows: Any
    labels: Vector | None
    p: float
    dual_q: float
    eps: float
    shift: float = 0.0
    scale: Vector | None = None

    @classmethod
    def of(cls, problem: RobustProblem, norm: LpNorm) -> MaxMarginForm:
        """The form of a single problem with an l_q ball.

        Its rows are in units of their root mean square, and centred where an intercept absorbs
        that.
        """
        require_ball(problem.threat, SOLVER)
        problem, _ = problem.simplified().standardised()
        labels, eps = problem.y[0], float(problem.radius[0])
        if sparse.issparse(problem.X):
            rows = sparse.csr_array(sparse.diags_array(labels) @ problem.X)
        else:
            rows = problem.X  # a copy, in units of its own
            rows *= labels[:, None]
        dual_q, shift = problem.threat.dual_norm.p, 0.0
        scale = problem.threat.scale if eps > 0 else None
        if lowers_all_alike(problem, norm):
            eps, shift = 0.0, eps
        return cls(
            rows, labels if problem.fit_intercept else None, norm.p, dual_q, eps, shift, scale
        )

    @cached_property
    def norm(self) -> LpNorm:
        """The norm of the margin."""
        return LpNorm(self.p)

    @cached_property
    def penalty_norm(self) -> LpNorm | WeightedNorm:
        """The norm by which the adversary lowers margins, ||s w||_q*."""
        return LpNorm(self.dual_q) if self.scale is None else WeightedNorm(self.dual_q, self.scale)

    @property
    def soft_threshold(self) -> bool:
        """Whether w is a soft threshold of Z^T a: p = 2, and q = inf without scales or eps = 0."""
        return self.scale is None and self.p == 2 and (self.eps == 0 or self.dual_q == 1)

    @cached_property
    def classes(self) -> tuple[Any, ...]:
        """Masks of rows whose weights have a given sum: each class, or all without intercept."""
        if self.labels is None:
            return (np.full(self.rows.shape[0], True),)
        return self.labels > 0, self.labels < 0

    def dense(self) -> MaxMarginForm:
        """The same program with its rows as an ndarray."""
        return replace(self, rows=self.rows.toarray()) if sparse.issparse(self.rows) else self

    def levelled(self, scores: Vector) -> Vector:
        """The scores with the best intercept."""
        if self.labels is None:
            return scores
        return scores + self.labels * best_intercept(scores, self.classes)[0]

    def certify(
        self, point: Point, scores: Vector | None = None, weighted_sum: Vector | None = None
    ) -> Certified:
        """A point, certified on the form's own rows without a charge for rounding.

        `certificates.certify` charges the rounding of the answers that are returned.

        Parameters
        ----------
        point : Point
            Coefficients and weights of any scale; the intercept is the best one.
        scores : ndarray of shape (n,), optional
            Rows times coef, where they are known.
        weighted_sum : ndarray of shape (d,), optional
            Weights times rows, where they are known. The weights are then positive.
        """
        norm, weights = self.norm, point.weights
        scores = self.rows @ point.coef if scores is None else scores
        shares = [float(weights[members].sum()) for members in self.classes]
        total = sum(shares)
        # weights give a bound only where each class has half of their sum
        if weighted_sum is None or abs(len(shares) * shares[0] - total) > _BALANCE * total:
            weights, total = feasible_weights(weights, self.classes), 1.0
            weighted_sum = self.rows.T @ weights
        intercept, smallest = best_intercept(scores, self.classes)
        margin = (
            over_size(
                smallest - self.eps * self.penalty_norm.value(point.coef), norm.value(point.coef)
            )
            - self.shift
        )
        bound = (
            norm.dual.value(
                self.penalty_norm.dual.residual(weighted_sum / total, self.eps, norm.dual)
            )
            - self.shift
        )
        return Certified(
            point.coef,
            weights / total,
            intercept,
            margin=float(margin),
            bound=max(0.0, float(bound)),
        )


def lowers_all_alike(problem: RobustProblem, norm: LpNorm) -> bool:
    """Whether the adversary lowers every margin of a unit vector by its radius: p = q*, and the
    features have one scale.
    """
    threat = problem.simplified().threat
    return threat.scale is None and math.isclose(norm.p, threat.dual_norm.p, rel_tol=1e-12)


def column_sizes(X: Any, *, centred: bool) -> Vector:
    """The 2-norm of each feature, less its mean where X is dense and centred; 1 where it is 0."""
    if sparse.issparse(X):
        units = sparse_norm(X, axis=0)
    else:
        units = np.linalg.norm(X - X.mean(axis=0) if centred else X, axis=0)
    return np.where(units > 0, units, 1.0)


def over_columns(X: Any, units: Vector) -> Any:
    """The columns of X over these units."""
    return sparse.csr_array(X / units) if sparse.issparse(X) else X / units
