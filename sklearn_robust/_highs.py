"""Linear programs, as HiGHS solves them."""

from __future__ import annotations

from typing import Any

import scipy

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._interrupts import interruptible

# Feasibility tolerances of HiGHS, tried in turn: the least that it accepts, and its default for
# programs on which it cycles with the first.
_HIGHS_TOLS = (1e-10, 1e-7)
# Simplex iterations at most, for each row and column, and in all programs. Most programs take about
# one for each, small ones near eps* a hundred, in a fraction of a second.
_SIMPLEX_ITER_PER_LINE = 20
_LEAST_SIMPLEX_ITER = 20_000


def run_highs(arguments: dict[str, Any]) -> Any:
    """SciPy's result of a linear program, given by the arguments of `linprog`.

    Raises
    ------
    SolverFailure
        If HiGHS ends without a solution, or reaches its limit of iterations.
    """
    arguments = dict(arguments)
    max_iter = max(_LEAST_SIMPLEX_ITER, _SIMPLEX_ITER_PER_LINE * sum(arguments["A_ub"].shape))
    for tolerance in _HIGHS_TOLS:
        arguments["options"] = {
            "primal_feasibility_tolerance": tolerance,
            "dual_feasibility_tolerance": tolerance,
            "maxiter": max_iter,
        }
        result = interruptible(lambda _: scipy.optimize.linprog(**arguments, method="highs"))
        if result.x is not None:
            return result
    raise SolverFailure(f"HiGHS: {result.message}")
