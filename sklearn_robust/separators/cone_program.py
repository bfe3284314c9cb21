r"""The largest margin as a cone program, for p = 2 as a quadratic one, by clarabel.

The cone program has second-order cones for exponent 2 and power cones for the rest. For p = 2 the
minimiser of :math:`\tfrac12 \|w\|_2^2 - \gamma` has the same direction, and in both the multipliers
of the margins sum to 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_robust._conic_programs import ConicProgram, scaled_identity
from sklearn_robust.certificates import Point
from sklearn_robust.separators._max_margin_form import MaxMarginForm, Vector


def solve_cone_program(program: MaxMarginForm) -> Point:
    """Solve with clarabel, for any p and q.

    Parameters
    ----------
    program : MaxMarginForm

    Returns
    -------
    Point

    Raises
    ------
    SolverFailure
        If clarabel ends without a solution.
    """
    conic, w, n = _with_margins(program)
    unit = conic.columns.take(1)
    conic.add_rows([("zero", 1)], [(unit, np.ones((1, 1)))], -np.ones(1))
    _bound_norm(conic, w, unit, program.p)
    x, z = conic.solve()
    return Point(x[w], z[:n])


def solve_quadratic_program(program: MaxMarginForm) -> Point:
    """Solve with clarabel, for p = 2; with q other than 1 and inf the adversary's norm is a cone.

    Parameters
    ----------
    program : MaxMarginForm
        With p = 2.

    Returns
    -------
    Point

    Raises
    ------
    SolverFailure
        If clarabel ends without a solution.
    """
    conic, w, n = _with_margins(program)
    conic.square = w
    x, z = conic.solve()
    return Point(x[w], z[:n])


def _with_margins(program: MaxMarginForm) -> tuple[ConicProgram, slice, int]:
    """The program that maximises the smallest of n margins, without a bound on w; w, and n."""
    n, d = program.rows.shape
    conic = ConicProgram()
    w, gamma = conic.columns.take(d), conic.columns.take(1)
    margins: list[tuple[slice, Any]] = [(w, program.rows), (gamma, -np.ones((n, 1)))]
    if program.labels is not None:
        margins.append((conic.columns.take(1), program.labels[:, None]))
    if program.eps > 0:
        s = conic.columns.take(1)
        margins.append((s, np.full((n, 1), -program.eps)))
    conic.add_rows([("nonnegative", n)], margins, np.zeros(n))
    if program.eps > 0:
        _bound_norm(conic, w, s, program.dual_q, program.scale)
    conic.linear[gamma.start] = -1.0
    return conic, w, n


def _bound_norm(
    conic: ConicProgram, w: slice, tau: slice, r: float, scale: Vector | None = None
) -> None:
    """Add ||scale w||_r <= tau."""
    conic.add_norms(w, scaled_identity(w.stop - w.start, scale), tau, r)
