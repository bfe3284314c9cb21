"""Programs over cones, as clarabel solves them, and the failure of a solver."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._documentation import see
from sklearn_robust._interrupts import interruptible

Cone = tuple[str, float]


class SolverFailure(RuntimeError):
    """A solver that ended without an answer; the message holds its status."""


def n_rows(kind: str, parameter: float) -> int:
    """The rows of a cone; see `run_clarabel`."""
    if kind in ("power", "exponential"):
        return 3
    size = int(parameter)
    return size * (size + 1) // 2 if kind == "semidefinite" else size


def run_clarabel(
    P: Any, q: np.ndarray, A: Any, b: np.ndarray, cones: Sequence[Cone], tol: float, **settings: Any
) -> tuple[np.ndarray, np.ndarray, str]:
    """The x that minimises x.P x / 2 + q.x with b - A x in the cones; its multipliers and status.

    Parameters
    ----------
    P, A : scipy.sparse array
        P is the upper triangle of a symmetric matrix.
    q, b : ndarray
    cones : sequence of (kind, parameter)
        In the order of the rows: "zero", "nonnegative" or "second_order" and the number of its
        rows, "power", of three rows, and its exponent, "exponential" of three rows (u, v, w), v
        exp(u / v) <= w, and any number but 0, or "semidefinite" and the order of its
        matrices, whose upper triangles are its rows, column by column, with entries off the
        diagonal times the root of 2.
    tol : float
        Gaps and residuals to reach, absolute and relative.
    **settings
        Further ones of clarabel.

    Raises
    ------
    SolverFailure
        If the answer is not finite.
    ImportError
        If clarabel is missing.
    """
    try:
        import clarabel
    except ImportError as error:
        raise ImportError(
            "This answer is that of a program over cones, which needs clarabel: pip install "
            f"clarabel. {see('install')}"
        ) from error

    kinds = {
        "zero": clarabel.ZeroConeT,
        "nonnegative": clarabel.NonnegativeConeT,
        "second_order": clarabel.SecondOrderConeT,
        "power": clarabel.PowerConeT,
        "exponential": lambda _: clarabel.ExponentialConeT(),
        "semidefinite": clarabel.PSDTriangleConeT,
    }
    options = clarabel.DefaultSettings()
    options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = tol
    for name, value in {"verbose": False, **settings}.items():
        setattr(options, name, value)
    blocks = [kinds[kind](parameter) for kind, parameter in cones if parameter]
    data = sparse.csc_array(P), q, sparse.csc_array(A), b, blocks, options

    def solve(abandoned: Event) -> Any:
        solver = clarabel.DefaultSolver(*data)
        solver.set_termination_callback(lambda _: abandoned.is_set())
        return solver.solve()

    solution = interruptible(solve)
    x, z = np.asarray(solution.x), np.asarray(solution.z)
    status = str(solution.status)
    if not (np.isfinite(x).all() and np.isfinite(z).all()):
        raise SolverFailure(f"clarabel: {status}")
    return x, z, status
