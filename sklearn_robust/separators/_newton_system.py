r"""The solution of Newton's equations of the interior-point method at one iterate.

Eliminating x (n <= d) or a (n > d) from `Equations` leaves a positive definite system of size
min(n, d), the core; the scalars are a border of at most five columns.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError
from scipy.linalg.blas import dsyrk, ssyrk
from scipy.linalg.lapack import dgetrf, dgetrs, dpotrf, dpotrs, spotrf, spotrs

from sklearn_robust.separators._max_margin_form import Vector
from sklearn_robust.separators._standard_form import Equations, StandardForm, Unknowns

# Share of the smallest diagonal entry: rows that each add less than it to the matrix are left out
# of the factor. The iterates' residuals, which are computed anew, correct for them.
_LIGHT_ROWS = 1e-3
# Share of each pivot that is added to it, so that rounding leaves all of them positive: they span
# many orders of magnitude. In single precision it is larger.
_PIVOT_RIDGE, _SINGLE_RIDGE = 1e-14, 1e-6


class NewtonSystem:
    """The equations at one iterate, factorised, with the predictor as their first solution.

    Parameters
    ----------
    form : StandardForm
    equations : Equations
    rough : bool
        Whether single precision suffices for the matrix.

    Attributes
    ----------
    predictor : Unknowns

    Raises
    ------
    scipy.linalg.LinAlgError
        If the matrix is not positive definite up to rounding.
    """

    def __init__(self, form: StandardForm, equations: Equations, *, rough: bool = False) -> None:
        self.form = form
        self.equations = equations
        self.eliminates_x = form.rows.shape[0] <= form.rows.shape[1]
        self.inverse = 1 / equations.P
        # w = S x of the coordinates: S P^-1 S^T is diagonal
        self.H: Vector = self.inverse.sum(axis=0)
        single = rough and form.single is not None and self._factorise(form.single)
        if not (single or self._factorise(form.rows)):
            raise LinAlgError("the core is not positive definite")
        self._eliminate_scalars()

    def _factorise(self, rows: Vector) -> bool:
        """The Cholesky factor of the core, Z H Z^T + E, or Z^T E^-1 Z + H^-1, in the precision of
        the rows; False where it has none.
        """
        double = rows.dtype == np.float64
        syrk, potrf, self.potrs = (dsyrk, dpotrf, dpotrs) if double else (ssyrk, spotrf, spotrs)
        if self.eliminates_x:
            weighted, diagonal = rows * np.sqrt(self.H).astype(rows.dtype), self.equations.E
        else:
            weighted, diagonal = self._weighted_rows(rows), 1 / self.H
        core = syrk(1.0, weighted.T, trans=self.eliminates_x, lower=1)
        core.reshape(-1, order="A")[:: len(core) + 1] += diagonal
        core.reshape(-1, order="A")[:: len(core) + 1] *= 1 + (
            _PIVOT_RIDGE if double else _SINGLE_RIDGE
        )
        self.core, info = potrf(core, lower=1, overwrite_a=1, clean=0)
        return bool(info == 0)

    def _weighted_rows(self, rows: Vector) -> Vector:
        """E^-1/2 Z without rows whose terms in Z^T E^-1 Z are small beside H^-1."""
        weight = 1 / self.equations.E
        heavy = weight * self.form.squares > _LIGHT_ROWS / self.H.max()
        root = np.sqrt(weight).astype(rows.dtype)[:, None]
        if heavy.all():
            return rows * root
        places = np.flatnonzero(heavy)
        return rows.take(places, axis=0) * root[places]

    def _eliminate_scalars(self) -> None:
        """The predictor, with the solution for each column of the border in the same product."""
        form, (f, h, g) = self.form, self.equations.right
        B = self.equations.B
        x, a = self._solve_core(
            np.concatenate([f[None], B]), np.concatenate([h[None], form.border.T])
        )
        self.border_x, self.border_a = x[1:].reshape(len(B), -1), a[1:]
        self.flat_B = B.reshape(len(B), -1)
        left = self.equations.C - self.flat_B @ self.border_x.T + form.border.T @ self.border_a.T
        *self.schur, info = dgetrf(left)
        if info != 0:
            raise LinAlgError("the border is singular")
        self.predictor = self._with_scalars(x[0], a[0], g)

    def _solve_core(self, f: Vector, h: Vector) -> tuple[Vector, Vector]:
        """The x and a of right sides (k, parts, d) and (k, n) where the scalars do not move."""
        rows, signs = self.form.rows, self.form.signs
        E = self.equations.E
        x = self.inverse * f
        w = x[:, 0] - x[:, 1] if len(signs) == 2 else x[:, 0]
        if self.eliminates_x:
            a = self._core_inverse(h - w @ rows.T)
            weighted_sum = a @ rows
        else:
            moved = self._core_inverse(w / self.H + (h / E) @ rows)
            a = (h - moved @ rows.T) / E
            weighted_sum = (moved - w) / self.H
        return x + self.inverse * (signs[:, None] * weighted_sum[:, None]), a

    def _core_inverse(self, b: Vector) -> Vector:
        return self.potrs(self.core, b.T, lower=1)[0].T.astype(np.float64, copy=False)

    def _with_scalars(self, x: Vector, a: Vector, g: Vector) -> Unknowns:
        """The solution with scalars, from the x and a without."""
        left = g - self.flat_B @ x.ravel() + a @ self.form.border
        t: Vector = dgetrs(*self.schur, left)[0]
        return Unknowns(x - (t @ self.border_x).reshape(x.shape), a - t @ self.border_a, t)

    def solve(self, right: Unknowns) -> Unknowns:
        """The solution for another right side."""
        f, h, g = right
        x, a = self._solve_core(f[None], h[None])
        return self._with_scalars(x[0], a[0], g)

    def refined(self, right: Unknowns, solution: Unknowns) -> Unknowns:
        """The solution after one step of iterative refinement.

        Raises
        ------
        scipy.linalg.LinAlgError
            If the residual of the margins' equations is no smaller than without a solution:
            rounding dominates.
        """
        residual = self._residual(right, solution)
        if not np.abs(residual.weights).max() <= np.abs(right.weights).max():
            raise LinAlgError("refinement diverges")
        return solution.plus(self.solve(residual))

    def _residual(self, right: Unknowns, solution: Unknowns) -> Unknowns:
        """The residual of a solution: the right side less the equations' left side."""
        rows, signs = self.form.rows, self.form.signs
        border, equations = self.form.border, self.equations
        x, a, t = solution
        in_x = (
            right.coordinates
            - equations.P * x
            + signs[:, None] * (a @ rows)
            - (t @ self.flat_B).reshape(x.shape)
        )
        in_a = right.weights - rows @ (signs @ x) - equations.E * a - border @ t
        in_t = right.scalars - self.flat_B @ x.ravel() + a @ border - equations.C @ t
        return Unknowns(in_x, in_a, in_t)
