r"""The largest margin as a cone program, for p = 2 as a quadratic one, by clarabel.

The cone program has second-order cones for exponent 2 and power cones for the rest. For p = 2 the
minimiser of :math:`\tfrac12 \|w\|_2^2 - \gamma` has the same direction, and in both the multipliers
of the margins sum to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._clarabel import Cone, SolverFailure, run_clarabel
from sklearn_robust.certificates import Point
from sklearn_robust.separators._max_margin_form import MaxMarginForm, Places, Vector

# Settings of clarabel
_CLARABEL = {
    # gaps and residuals to reach, absolute and relative; clarabel stops earlier where rounding ends
    # its progress, and the certificate decides
    "tol": 1e-12,
    # ridge on the linear systems; the default 1e-8 costs accuracy on features of unlike sizes
    "static_regularization_constant": 1e-12,
    "max_iter": 200,  # iterations; most programs take less than 50
    # share of the way to the boundary that a step goes; with the default 0.99 clarabel stalled far
    # from the solution on power cones
    "max_step_fraction": 0.9,
}


@dataclass
class ConicProgram:
    r"""Minimise :math:`\tfrac12 \sum_j P_j x_j^2 + c \cdot x` subject to :math:`A x + b` in a
    product of cones.

    Columns are placed in the order in which they are added; each block of rows names its columns.
    """

    columns: Places = field(default_factory=Places)
    linear: dict[int, float] = field(default_factory=dict)  # the entries of c
    square: slice | None = None  # the columns with P_j = 1; no others
    _blocks: list[tuple[list[tuple[slice, Any]], Vector]] = field(default_factory=list)
    _cones: list[Cone] = field(default_factory=list)

    def add_rows(self, cones: list[Cone], terms: list[tuple[slice, Any]], constant: Vector) -> None:
        """The rows sum_k matrix_k x[columns_k] + constant, in these cones."""
        self._blocks.append((terms, constant))
        self._cones += cones

    def solve(self) -> tuple[Vector, Vector]:
        """The solution x and the multipliers of the rows, at whatever precision clarabel reached.

        Raises
        ------
        SolverFailure
            If there is no finite answer, or one that clarabel declares infeasible.
        """
        A = -sparse.vstack([self._placed(terms) for terms, _ in self._blocks])
        b = np.concatenate([constant for _, constant in self._blocks])
        squares, c = np.zeros(self.columns.size), np.zeros(self.columns.size)
        if self.square is not None:
            squares[self.square] = 1
        c[list(self.linear)] = list(self.linear.values())
        P = sparse.diags_array(squares)
        x, z, status = run_clarabel(P, c, A, b, self._cones, **_CLARABEL)
        if "Infeasible" in status:
            raise SolverFailure(f"clarabel: {status}")
        return x, z

    def _placed(self, terms: list[tuple[slice, Any]]) -> Any:
        """A block of rows in all columns."""
        total: Any = 0
        for columns, matrix in terms:
            entry = sparse.coo_array(matrix)
            place = (entry.row, entry.col + columns.start)
            shape = (entry.shape[0], self.columns.size)
            total = total + sparse.csr_array((entry.data, place), shape=shape)
        return total


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
    """Add ||scale w||_r <= tau.

    It is linear for r in {1, inf}, a second-order cone for 2, else a power cone a coordinate.
    """
    d = w.stop - w.start
    scaled = sparse.eye_array(d, format="csr")
    if scale is not None:  # a feature of scale 0 needs no row
        scaled = sparse.csr_array(sparse.diags_array(scale))[np.flatnonzero(scale)]
        d = scaled.shape[0]
    identity, ones = sparse.eye_array(d), np.ones((d, 1))
    if r == math.inf:
        for sign in (1.0, -1.0):
            conic.add_rows([("nonnegative", d)], [(tau, ones), (w, sign * scaled)], np.zeros(d))
        return
    if r == 2:
        first, rest = np.eye(d + 1, 1), sparse.eye_array(d + 1, d, k=-1)
        conic.add_rows(
            [("second_order", d + 1)], [(tau, first), (w, rest @ scaled)], np.zeros(d + 1)
        )
        return
    t = conic.columns.take(d)
    if r == 1:
        for sign in (1.0, -1.0):
            conic.add_rows([("nonnegative", d)], [(t, identity), (w, sign * scaled)], np.zeros(d))
    else:  # |w_j| <= t_j^(1/r) tau^(1-1/r): with sum t_j <= tau this is sum |w_j|^r <= tau^r
        place = [sparse.kron(identity, np.eye(3, 1, -k)) for k in range(3)]
        conic.add_rows(
            [("power", 1 / r)] * d,
            [(t, place[0]), (tau, place[1] @ ones), (w, place[2] @ scaled)],
            np.zeros(3 * d),
        )
    conic.add_rows([("nonnegative", 1)], [(tau, np.ones((1, 1))), (t, -ones.T)], np.zeros(1))
