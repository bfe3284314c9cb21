r"""The quadratic model of the log-risk around a predictor: its gradient and Hessian.

In the margins the log-risk has gradient -a and, nearly, Hessian C = diag(c) - theta a a^T. The
margins change by :math:`\delta = Z u + y \beta - \nu r`, where w moves by u, the intercept by beta
and the penalty :math:`\epsilon \|w\|_{q^*}` by nu, and r are the factors of the samples on the
radius. The model is :math:`-a \cdot \delta + \tfrac12 \delta^T C \delta`: the norm in it is exact.

At its minimiser (`_model_minimiser`) the weights :math:`a' = a - C \delta` obey :math:`\|Z^T a'\|_q
\le \epsilon \sum_i r_i a'_i` and :math:`y \cdot a' = 0`: they are dual feasible. So each Newton
step brings the weights that certify it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from sklearn_robust.rows import GramRows
from sklearn_robust.solvers._newton_rules import curvature_ratio, theta_of_ratio


@dataclass(frozen=True)
class Gradient:
    """Minus the gradient of the log-risk at weights a: by w, minus that by the penalty, and by b.

    Attributes
    ----------
    weighted_sum : ndarray of shape (d,)
        Z^T a.
    total_weight : float
        The sum of a, in terms of the samples' factors r on the radius: r . a.
    label_sum : float
        y . a, the label-weighted sum.
    """

    weighted_sum: np.ndarray
    total_weight: float
    label_sum: float

    def mixed(self, factor: float, other: Gradient, other_factor: float) -> Gradient:
        """The gradient of the samples of both, each times a factor: relative to another risk."""
        return _mixed(self, factor, other, other_factor)

    def slope(self, coef: np.ndarray, intercept: float, penalty: float) -> float:
        """a . delta, where coefficients, intercept and penalty change by these amounts."""
        change = self.weighted_sum @ coef + self.label_sum * intercept
        return float(change - self.total_weight * penalty)


@dataclass(frozen=True)
class CurvatureSums:
    r"""The sums over samples of which a Hessian is made, at curvatures c and weights a.

    Z has the signed rows, centred, on f columns; C = diag(c), and r holds the samples' factors on
    the radius.

    Attributes
    ----------
    gram : ndarray of shape (f, f)
        Z^T C Z.
    by_label, by_penalty : ndarray of shape (f,)
        Z^T C y and Z^T C r.
    total, label_penalty, penalty_total : float
        y^T C y, which is the sum of c, y^T C r and r^T C r.
    ratio : float
        The sum of :math:`a_i^2 / c_i`.
    """

    gram: np.ndarray
    by_label: np.ndarray
    by_penalty: np.ndarray
    total: float
    label_penalty: float
    penalty_total: float
    ratio: float

    def mixed(self, factor: float, other: CurvatureSums, other_factor: float) -> CurvatureSums:
        """The sums over the samples of both, each times a factor: relative to another risk."""
        return _mixed(self, factor, other, other_factor)

    @classmethod
    def of(
        cls,
        rows: GramRows,
        columns: np.ndarray | slice,
        centre: np.ndarray,
        y: np.ndarray,
        r: np.ndarray | float,
        c: np.ndarray,
        a: np.ndarray,
        *,
        exact: bool,
    ) -> CurvatureSums:
        """The sums over rows with labels y and factors r, or one factor for all.

        `centre` (f,) is subtracted from the rows; `exact` asks for double precision however long it
        takes.
        """
        yr = y * r
        gram, by_label, by_penalty = rows.weighted_gram(columns, centre, c, yr, exact=exact)
        return cls(
            gram,
            by_label,
            by_penalty,
            float(c.sum()),
            float(c @ yr),
            float(c @ yr**2),
            curvature_ratio(c, a),
        )


Sums = TypeVar("Sums", Gradient, CurvatureSums)


def _mixed(sums: Sums, factor: float, others: Sums, other_factor: float) -> Sums:
    """Every sum times a factor, plus the other of its name times another, with one more array: a
    Gram matrix may take as much memory as a block of rows.
    """
    mixed = {}
    for name, other in vars(others).items():
        mixed[name] = factor * getattr(sums, name)
        mixed[name] += other_factor * other
    return type(sums)(**mixed)


@dataclass(frozen=True)
class Curvature:
    """The Hessian of the log-risk by some columns' coefficients, the intercept and the penalty.

    In the margins it is C = diag(c) - theta a a^T.

    Attributes
    ----------
    theta : float
    columns : ndarray of shape (f,) or slice
        The columns of X that it covers.
    coef : ndarray of shape (f, f)
        Z^T C Z on these columns, with the intercept's row centred out.
    penalty : ndarray of shape (f,)
        Z^T C r, r the samples' factors on the radius.
    total : float
        r^T C r.
    label_row : ndarray of shape (f + 1,)
        y^T C (Z, r) over y^T C y: how far the best intercept moves back when the coefficients and
        the penalty move; zero without an intercept.
    label_curvature : float
        y^T C y; inf without an intercept, and where it has no curvature: it then stays.
    """

    theta: float
    columns: np.ndarray | slice
    coef: np.ndarray
    penalty: np.ndarray
    total: float
    label_row: np.ndarray
    label_curvature: float


def curvature(
    sums: CurvatureSums,
    gradient: Gradient,
    columns: np.ndarray | slice,
    centre: np.ndarray,
    *,
    fit_intercept: bool,
) -> Curvature:
    """The Hessian at weights with this gradient, of its sums on f columns.

    `centre` (f,) was subtracted from the rows, which an intercept absorbs: no digits are lost to a
    large mean.
    """
    total_weight, label_sum = gradient.total_weight, gradient.label_sum
    theta = theta_of_ratio(sums.ratio)
    # Z^T C (Z, y, r) and r^T C r = those with diag(c), less theta times products of Z^T a, y.a, r.a
    weighted_sum = gradient.weighted_sum[columns] - label_sum * centre
    gram = sums.gram - np.outer(theta * weighted_sum, weighted_sum)
    by_penalty = sums.by_penalty - theta * total_weight * weighted_sum
    total = sums.penalty_total - theta * total_weight**2
    label_row = np.zeros(len(weighted_sum) + 1)
    label_curvature = sums.total - theta * label_sum**2
    if not fit_intercept or label_curvature <= 0:
        return Curvature(
            theta, columns, gram, by_penalty, total, label_row, label_curvature=math.inf
        )
    # the intercept eliminated: the Schur complement of y^T C y
    label_row[:-1] = sums.by_label - theta * label_sum * weighted_sum
    label_row[-1] = sums.label_penalty - theta * label_sum * total_weight
    label_row /= label_curvature
    gram -= np.outer(label_curvature * label_row[:-1], label_row[:-1])
    by_penalty -= label_curvature * label_row[-1] * label_row[:-1]
    total -= label_curvature * label_row[-1] ** 2
    label_row[:-1] += centre
    return Curvature(theta, columns, gram, by_penalty, total, label_row, label_curvature)
