"""Programs over cones: their columns and rows, the bounds of norms, and their solution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sklearn_robust._clarabel import Cone, SolverFailure, run_clarabel
from sklearn_robust._highs import run_highs

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]

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

# from the multipliers of all rows of a program to a part of them
MultipliersOf = Callable[[Vector], Vector]


@dataclass
class Places:
    """Consecutive places in an array: each call takes those after the last."""

    size: int = 0

    def take(self, count: int) -> slice:
        self.size += count
        return slice(self.size - count, self.size)

    def take_one(self) -> int:
        return self.take(1).start


@dataclass
class ConicProgram:
    r"""Minimise :math:`\tfrac12 \sum_j P_j x_j^2 + c \cdot x` subject to :math:`A x + b` in a
    product of cones.

    Columns are placed in the order in which they are added; each block of rows names its columns.
    """

    columns: Places = field(default_factory=Places)
    rows: Places = field(default_factory=Places)
    linear: dict[int, float] = field(default_factory=dict)  # the entries of c
    square: slice | None = None  # the columns with P_j > 0
    square_weight: float = 1.0  # that P_j
    cones: list[Cone] = field(default_factory=list)  # in the order of the rows
    _blocks: list[tuple[list[tuple[slice, Any]], Vector]] = field(default_factory=list)

    def add_rows(
        self, cones: list[Cone], terms: list[tuple[slice, Any]], constant: Vector
    ) -> slice:
        """The rows sum_k matrix_k x[columns_k] + constant, in these cones; their places."""
        self._blocks.append((terms, constant))
        self.cones += cones
        return self.rows.take(len(constant))

    def add_norms(self, w: slice, rows: Any, tau: slice, r: float) -> MultipliersOf:
        """Bounds on the r-norms of equal parts of the vector `rows @ w`, one for each tau.

        They are linear for r in {1, inf}, second-order cones for 2, else a power cone a coordinate.

        Parameters
        ----------
        w : slice
            Columns.
        rows : sparse array of shape (m d, len(w))
        tau : slice
            m columns.
        r : float

        Returns
        -------
        callable
            From the multipliers of all rows of the program to the subgradient (m d,) by which the
            norms enter the optimality conditions: of dual norm at most that of the multiplier of
            each tau.
        """
        n_norms = tau.stop - tau.start
        d = rows.shape[0] // n_norms
        size = n_norms * d
        identity = sparse.eye_array(size, format="csr")
        of_norm = sparse.kron(sparse.eye_array(n_norms), np.ones((d, 1)), format="csr")
        if r == math.inf:
            return self._add_absolute_values(w, rows, tau, of_norm)
        if r == 2:
            # the rows of each cone: tau, and then its part of the vector
            first = (d + 1) * np.arange(n_norms)
            rest = (first[:, None] + 1 + np.arange(d)).ravel()
            place_tau = _places(first, size + n_norms)
            place_w = _places(rest, size + n_norms)
            at = self.add_rows(
                [("second_order", d + 1)] * n_norms,
                [(tau, place_tau), (w, place_w @ rows)],
                np.zeros(size + n_norms),
            )
            return lambda z: -z[at][rest]
        t = self.columns.take(size)
        if r == 1:
            subgradient = self._add_absolute_values(w, rows, t, identity)
        else:
            # |w_j| <= t_j^(1/r) tau^(1-1/r): with sum t_j <= tau this is sum |w_j|^r <= tau^r
            place = [sparse.kron(identity, np.eye(3, 1, -k)) for k in range(3)]
            at = self.add_rows(
                [("power", 1 / r)] * size,
                [(t, place[0]), (tau, place[1] @ of_norm), (w, place[2] @ rows)],
                np.zeros(3 * size),
            )
            subgradient = lambda z: -z[at][2::3]  # noqa: E731
        self.add_rows(
            [("nonnegative", n_norms)],
            [(tau, sparse.eye_array(n_norms)), (t, -of_norm.T)],
            np.zeros(n_norms),
        )
        return subgradient

    def add_zero_sum(self, w: slice, n_rows: int) -> None:
        """The rows of the matrix (n_rows, n_columns) in w sum to zero."""
        n_columns = (w.stop - w.start) // n_rows
        total = sparse.kron(np.ones((1, n_rows)), sparse.eye_array(n_columns), format="csr")
        self.add_rows([("zero", n_columns)], [(w, total)], np.zeros(n_columns))

    def add_spectral_norm(self, w: slice, n_rows: int, tau: slice) -> None:
        """The bound of the largest singular value of the matrix (n_rows, n_columns) in w, row by
        row, by one column tau: [tau I, W; W^T, tau I] is positive semidefinite.
        """
        n_columns = (w.stop - w.start) // n_rows
        order = n_rows + n_columns
        size = order * (order + 1) // 2
        i, j = (place.ravel() for place in np.indices((n_rows, n_columns)))
        entries = math.sqrt(2) * _places(_in_triangle(i, n_rows + j), size)
        diagonal = _places(_in_triangle(np.arange(order), np.arange(order)), size)
        terms = [(w, entries), (tau, diagonal @ np.ones((order, 1)))]
        self.add_rows([("semidefinite", order)], terms, np.zeros(size))

    def add_nuclear_norm(self, w: slice, n_rows: int, tau: slice) -> None:
        r"""The bound of the sum of the singular values of the matrix (n_rows, n_columns) in w, row
        by row, by one column tau.

        It is the least :math:`\tfrac12 (\operatorname{tr} A + \sum_j t_j)` with [A, w_j; w_j^T,
        t_j] positive semidefinite for each column j.
        """
        n_columns = (w.stop - w.start) // n_rows
        i, j = np.nonzero(np.tri(n_rows, dtype=bool).T)
        of_matrix = self.columns.take(len(i))
        t = self.columns.take(n_columns)
        order, block = n_rows + 1, (n_rows + 1) * (n_rows + 2) // 2
        size = n_columns * block
        starts = block * np.arange(n_columns)[:, None]
        root = np.where(i == j, 1.0, math.sqrt(2))
        in_blocks = sparse.kron(
            np.ones((n_columns, 1)), _places(_in_triangle(i, j), block) @ sparse.diags_array(root)
        )
        rows = np.arange(n_rows)
        of_w = (starts + _in_triangle(rows, np.full(n_rows, n_rows))).T.ravel()
        of_t = (starts + block - 1).ravel()
        self.add_rows(
            [("semidefinite", order)] * n_columns,
            [
                (of_matrix, in_blocks),
                (w, math.sqrt(2) * _places(of_w, size)),
                (t, _places(of_t, size)),
            ],
            np.zeros(size),
        )
        trace = (i == j).astype(np.float64)[None]
        terms = [(tau, np.full((1, 1), 2.0)), (of_matrix, -trace), (t, -np.ones((1, n_columns)))]
        self.add_rows([("nonnegative", 1)], terms, np.zeros(1))

    def _add_absolute_values(self, w: slice, rows: Any, t: slice, of_t: Any) -> MultipliersOf:
        """The bounds |rows @ w| <= of_t @ t, coordinate by coordinate; see `add_norms`."""
        size = rows.shape[0]
        upper, lower = (
            self.add_rows([("nonnegative", size)], [(t, of_t), (w, sign * rows)], np.zeros(size))
            for sign in (1.0, -1.0)
        )
        return lambda z: z[lower] - z[upper]

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear program."""
        linear = all(kind in ("zero", "nonnegative") for kind, _ in self.cones)
        return linear and self.square is None

    def arrays(self) -> tuple[Vector, Vector, Any, Vector]:
        """The diagonal of P, c, and the A (sparse) and b of the rows A x + b."""
        A = sparse.vstack([self._placed(terms) for terms, _ in self._blocks], format="csr")
        b = np.concatenate([constant for _, constant in self._blocks])
        squares, c = np.zeros(self.columns.size), np.zeros(self.columns.size)
        if self.square is not None:
            squares[self.square] = self.square_weight
        c[list(self.linear)] = list(self.linear.values())
        return squares, c, A, b

    def solve(self, **settings: float) -> tuple[Vector, Vector]:
        """The solution x and the multipliers of the rows, at whatever precision clarabel reached,
        with settings of clarabel in place of the usual ones.

        Raises
        ------
        SolverFailure
            If there is no finite answer, or one that clarabel declares infeasible.
        """
        squares, c, A, b = self.arrays()
        P = sparse.diags_array(squares)
        x, z, status = run_clarabel(P, c, -A, b, self.cones, **{**_CLARABEL, **settings})
        if "Infeasible" in status:
            raise SolverFailure(f"clarabel: {status}")
        return x, z

    def solve_linear(self) -> tuple[Vector, Vector]:
        """The solution and the multipliers of the rows of a program that is linear, by HiGHS.

        Raises
        ------
        SolverFailure
            If HiGHS ends without a solution, or reaches its limit of iterations.
        """
        _, c, A, b = self.arrays()
        equal = np.concatenate([np.full(int(size), kind == "zero") for kind, size in self.cones])
        arguments = {"c": c, "A_ub": -A[~equal], "b_ub": b[~equal], "bounds": (None, None)}
        if equal.any():
            arguments |= {"A_eq": A[equal], "b_eq": -b[equal]}
        result = run_highs(arguments)
        z = np.empty(len(b))
        z[~equal] = -result.ineqlin.marginals
        z[equal] = result.eqlin.marginals
        return result.x, z

    def _placed(self, terms: list[tuple[slice, Any]]) -> Any:
        """A block of rows in all columns."""
        total: Any = 0
        for columns, matrix in terms:
            entry = sparse.coo_array(matrix)
            place = (entry.row, entry.col + columns.start)
            shape = (entry.shape[0], self.columns.size)
            total = total + sparse.csr_array((entry.data, place), shape=shape)
        return total


def scaled_identity(d: int, scale: Vector | None) -> Any:
    """The rows s_j e_j of the features that the adversary can move, (m, d) with m <= d."""
    if scale is None:
        return sparse.eye_array(d, format="csr")
    return sparse.csr_array(sparse.diags_array(scale))[np.flatnonzero(scale)]


def unit_rows(places: Indices, n_columns: int) -> Any:
    """The sparse array whose row i is the unit vector of places[i]."""
    rows = np.arange(len(places))
    return sparse.csr_array((np.ones(len(rows)), (rows, places)), shape=(len(rows), n_columns))


def unit_differences(first: Indices, second: Indices, n_columns: int) -> Any:
    """The sparse array whose row i is the unit vector of first[i] less that of second[i]."""
    return unit_rows(first, n_columns) - unit_rows(second, n_columns)


def score_differences(
    X: Any, samples: Indices, classes: Indices, rivals: Indices, n_classes: int
) -> Any:
    """The sparse array whose rows take <w_y - w_k, x_i> from W, row by row."""
    rows = sparse.csr_array(X)[samples]
    d = rows.shape[1]
    counts = np.diff(rows.indptr)
    shape = (len(samples), n_classes * d)
    own, other = (
        sparse.csr_array(
            (rows.data, rows.indices + d * np.repeat(which.astype(np.int64), counts), rows.indptr),
            shape=shape,
        )
        for which in (classes, rivals)
    )
    return own - other


def _in_triangle(i: Any, j: Any) -> Any:
    """The places of the entries i <= j in an upper triangle, column by column."""
    return j * (j + 1) // 2 + i


def _places(rows: Indices, n_rows: int) -> Any:
    """The sparse array (n_rows, m) whose column j is the unit vector of rows[j]."""
    return unit_rows(rows, n_rows).T
