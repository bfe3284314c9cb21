r"""The separator of largest robust l_2 margin as the nearest points of two hulls, by SciPy's nnls.

The dual of the max-margin form with p = 2 and q = 1 is the least distance of the convex hull of the
signed rows from the adversary's ball, the hull of the points :math:`\pm \epsilon s_j e_j`; without
adversary from the origin. With weights of any sum,

.. math:: \min_{l, m \ge 0} \; \|Z^T l - \epsilon \, s (m^+ - m^-)\|_2^2 + \big(\textstyle\sum_i
   l_i - 1\big)^2 \quad \text{s.t.} \quad \sum_i l_i = \sum_j m^+_j + m^-_j,

has the same solution up to scale: on the ray of weights t a, a in the simplex, the least value is
an increasing function of the distance. An intercept adds the condition :math:`\sum_i y_i l_i = 0`.
Conditions are least squares of large weight. The active-set method of Lawson and Hanson ends
exactly, after about as many steps as weights are positive. At most d + 2 rows have weight, so it
runs on sets of rows: the rows with weight, and the rows that lie nearest along the last direction.
From set to set the distance falls, so that no set recurs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import nnls

from sklearn_robust.certificates import Point
from sklearn_robust.separators._max_margin_form import MaxMarginForm, SolverFailure, Vector

# Features up to which it serves, without and with the ball, which has two points a feature.
_NNLS_COLUMNS, _BALL_COLUMNS = 100, 64
# Rows, or rows for each feature, up to which it serves with conditions. With few it is up to 8
# times faster than the interior-point method; with many slower, and slow to tell that classes
# overlap.
_FEW_ROWS, _ROW_RATIO = 200, 10
_MAX_ROW_SETS = 100  # most programs take less than 10
_NEAR_ROWS = 3  # rows in a set beside those with weight, relative to d: the nearest ones
_CONDITION_WEIGHT = 1e5  # rows have size 1: a condition is missed by its multiplier over the square
# How much nearer than the plane a row may lie, for rows of size 1 and w of size 1: rounding.
_PLANE_ROUNDING = 1e-13


def suits(program: MaxMarginForm) -> bool:
    """Whether features are few, p = 2, and q = 1 or no adversary; with either q = 1 or an intercept
    also the rows.
    """
    n, d = program.rows.shape
    attacked = program.eps > 0
    few = d <= (_BALL_COLUMNS if attacked else _NNLS_COLUMNS)
    if attacked or program.labels is not None:
        few = few and n <= max(_FEW_ROWS, _ROW_RATIO * d)
    return few and program.p == 2 and (not attacked or program.dual_q == math.inf)


def solve_nearest_point(program: MaxMarginForm) -> Point:
    """Solve with SciPy.

    Parameters
    ----------
    program : MaxMarginForm
        With p = 2, and dual_q = inf or no adversary. Dense or sparse.

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
    centre = sum(members / members.sum() for members in program.classes) @ program.rows
    scores, count = program.rows @ centre, (2 * d + 20) // len(program.classes)
    first = [
        members[np.argsort(scores[members], kind="stable")[:count]]
        for members in map(np.flatnonzero, program.classes)
    ]
    chosen, least = np.sort(np.concatenate(first)), math.inf
    for _ in range(_MAX_ROW_SETS):
        coef, found = _nearest_points(program, chosen)
        distance = float(np.linalg.norm(coef) / found.sum())
        if distance >= least:  # by rounding: the last points are as near
            break
        least, point = distance, Point(coef, np.zeros(n))
        point.weights[chosen] = found
        scores = program.rows @ coef
        # the least score, in each class, of the rows that carry weight
        for members in program.classes:
            scores[members] -= scores[members & (point.weights > 0)].min(initial=math.inf)
        violated = scores < -_PLANE_ROUNDING * np.linalg.norm(coef)
        violated[chosen] = False
        if not violated.any():
            break
        nearest = np.argsort(scores, kind="stable")[: _NEAR_ROWS * d]
        chosen = np.union1d(chosen[found > 0], nearest)
    return point


def _nearest_points(program: MaxMarginForm, chosen: NDArray[np.intp]) -> tuple[Vector, Vector]:
    """The difference of the nearest points, and the weights l, of these rows alone."""
    rows, labels = program.rows[chosen], program.labels
    rows = rows.toarray() if sparse.issparse(rows) else rows
    n, d = rows.shape
    if program.eps > 0:
        reach = np.diag(
            np.full(d, program.eps) if program.scale is None else program.eps * program.scale
        )
        rows = np.vstack([rows, -reach, reach])
    of_rows = np.arange(len(rows)) < n
    conditions = [] if labels is None else [np.append(labels[chosen], np.zeros(len(rows) - n))]
    conditions += [np.where(of_rows, 1.0, -1.0)] if program.eps > 0 else []
    terms = np.vstack([*(_CONDITION_WEIGHT * terms for terms in conditions), rows.T, of_rows])
    try:
        weights = nnls(terms, np.append(np.zeros(len(terms) - 1), 1.0))[0]
    except RuntimeError as error:
        raise SolverFailure(f"non-negative least squares: {error}") from error
    return weights @ rows, weights[:n]
