r"""The largest margin for p = 2 as :math:`\min \tfrac12 \|w\|_2^2 - \gamma`; a quadratic program for q in {1, inf}.

With another q the adversary's norm is a cone, and the objective stays quadratic.
"""

from __future__ import annotations

from sklearn_robust.certificates import Point
from sklearn_robust.separators._conic import solve_margin_program
from sklearn_robust.separators._margin_program import MarginProgram


def solve_quadratic_program(program: MarginProgram) -> Point:
    """Solve with clarabel.

    Parameters
    ----------
    program : MarginProgram
        With p = 2.

    Returns
    -------
    Point

    Raises
    ------
    SolverFailure
        If clarabel ends without a solution.
    """
    return solve_margin_program(program, quadratic=True)
