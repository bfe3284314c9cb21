r"""The separator of largest l_2 margin as the nearest point of a convex hull, by SciPy's nnls.

The dual of the max-margin form with p = 2 and no adversary is the point of the convex hull of the
signed rows that is nearest to the origin. With weights of any sum,

.. math:: \min_{l \ge 0} \; \|Z^T l\|_2^2 + \big(\textstyle\sum_i l_i - 1\big)^2,

has the same solution up to scale: on the ray of weights t a, a in the simplex, the least value is
an increasing function of :math:`\|Z^T a\|_2`. The active-set method of Lawson and Hanson ends
exactly, after about as many steps as rows carry weight. At most d + 1 rows do, so it runs on sets
of rows: the rows with weight, and the rows that lie nearer to the origin than the plane through the
nearest point. From set to set the distance falls, so that no set recurs.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse
from scipy.optimize import nnls

from sklearn_robust.certificates import Point
from sklearn_robust.separators._max_margin_form import MaxMarginForm, SolverFailure, Vector

# Features up to which it is faster than the interior-point method: 1.3 times at this number, on
# separable data.
_NNLS_COLUMNS = 128
_MAX_ROW_SETS = 100  # most programs take less than 10
# Share of the plane's distance to the origin by which a row may lie nearer: rounding.
_PLANE_ROUNDING = 1e-13


def suits(program: MaxMarginForm) -> bool:
    """Whether features are few, without adversary and intercept, and p = 2.

    Dense rows that are no more than the features are left to the semismooth Newton method.
    """
    n, d = program.rows.shape
    plain = program.soft_threshold and program.eps == 0 and program.labels is None
    return plain and d <= _NNLS_COLUMNS and (n > d or sparse.issparse(program.rows))


def solve_nearest_point(program: MaxMarginForm) -> Point:
    """Solve with SciPy.

    Parameters
    ----------
    program : MaxMarginForm
        With p = 2, no adversary and no intercept. Dense or sparse.

    Returns
    -------
    Point
        Exact up to rounding, or the best that the rounds reached.

    Raises
    ------
    SolverFailure
        If the active sets do not settle.
    """
    n, d = program.rows.shape
    nearest = np.argsort(program.rows @ (np.ones(n) @ program.rows), kind="stable")
    chosen, least = nearest[: 2 * d + 20], math.inf
    for _ in range(_MAX_ROW_SETS):
        rows = program.rows[chosen]
        rows = rows.toarray() if sparse.issparse(rows) else rows
        found = _nearest_point_weights(rows)
        coef, total = found @ rows, found.sum()
        distance = float(np.linalg.norm(coef)) / total
        if distance >= least:  # by rounding: the last point is as near
            break
        least, point = distance, Point(coef, np.zeros(n))
        point.weights[chosen] = found
        scores, level = program.rows @ coef, coef @ coef / total
        violated = np.flatnonzero(scores < (1 - _PLANE_ROUNDING) * level)
        violated = violated[np.argsort(scores[violated], kind="stable")[: 2 * d]]
        if np.isin(violated, chosen).all():
            break
        chosen = np.union1d(chosen[found > 0], violated)
    return point


def _nearest_point_weights(rows: Vector) -> Vector:
    """The weights l for these rows alone."""
    n, d = rows.shape
    try:
        return nnls(np.vstack([rows.T, np.ones(n)]), np.append(np.zeros(d), 1.0))[0]
    except RuntimeError as error:
        raise SolverFailure(f"non-negative least squares: {error}") from error
