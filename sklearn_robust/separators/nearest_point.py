r"""The separator of largest l_2 margin as the nearest point of a convex hull, by SciPy's non-negative least squares.

The dual of the program with p = 2 and no adversary looks for the point of the convex hull of the signed rows that is nearest to
the origin. With weights of any sum,

.. math:: \min_{l \ge 0} \; \|Z^T l\|_2^2 + \big(\textstyle\sum_i l_i - 1\big)^2,

has the same solution up to scale: on the ray of weights t a, a in the simplex, the least value is an increasing function of
:math:`\|Z^T a\|_2`. The active-set method of Lawson and Hanson ends exactly, after about as many steps as rows carry weight.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from sklearn_robust.separators._margin_program import MarginProgram, PrimalDual, SolverFailure


def solve_nearest_point(program: MarginProgram) -> PrimalDual:
    """Solve with SciPy.

    Parameters
    ----------
    program : MarginProgram
        With p = 2, no adversary and no intercept. Sparse rows are made dense.

    Returns
    -------
    PrimalDual

    Raises
    ------
    SolverFailure
        If the active sets do not settle.
    """
    rows = program.dense().rows
    n, d = rows.shape
    try:
        weights, _ = nnls(np.vstack([rows.T, np.ones(n)]), np.append(np.zeros(d), 1.0))
    except RuntimeError as error:
        raise SolverFailure(f"non-negative least squares: {error}") from error
    return PrimalDual(weights @ rows, weights)
