"""The largest margin for any p and q as a cone program, with second-order cones for exponent 2 and power cones for the rest."""

from __future__ import annotations

from sklearn_robust.certificates import Point
from sklearn_robust.separators._conic import solve_margin_program
from sklearn_robust.separators._margin_program import MarginProgram


def solve_cone_program(program: MarginProgram) -> Point:
    """Solve with clarabel.

    Parameters
    ----------
    program : MarginProgram

    Returns
    -------
    Point

    Raises
    ------
    SolverFailure
        If clarabel ends without a solution.
    """
    return solve_margin_program(program, quadratic=False)
