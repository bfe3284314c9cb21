r"""The solution of Newton's equations of the interior-point method at one iterate.

Eliminating x (n <= d) or a (n > d) from `Equations` leaves a positive definite system of size
min(n, d), the core; the scalars are a border of at most five columns.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dgetrf, dgetrs, dpotrf, dpotrs

from sklearn_robust.separators._max_margin_form import Vector
from sklearn_robust.separators._standard_form import CapBound, Equations, StandardForm, Unknowns

# Share of the smallest diagonal entry: rows that together add less than it to the matrix are left
# out of the factor, and iterative refinement corrects for them.
_LIGHT_ROWS = 1e-3
# Share of each pivot that is added to it, so that rounding leaves all of them positive: they span
# many orders of magnitude.
_PIVOT_RIDGE = 1e-14


class NewtonSystem:
    """The equations at one iterate, factorised.

    Parameters
    ----------
    form : StandardForm
    equations : Equations
    refine : bool
        Whether the elimination of the scalars is refined.

    Raises
    ------
    scipy.linalg.LinAlgError
        If the matrix is not positive definite up to rounding.
    """

    def __init__(self, form: StandardForm, equations: Equations, *, refine: bool = True) -> None:
        self.form = form
        self.equations = equations
        self.coupled = any(isinstance(bound, CapBound) for bound in form.bounds)
        self.eliminates_x = form.rows.shape[0] <= form.rows.shape[1]
        self._invert_blocks()
        self._factorise()
        self._eliminate_scalars(refine)

    def _invert_blocks(self) -> None:
        """P^-1 in its 2 x 2 blocks, and H = S P^-1 S^T of w = S x, both diagonal."""
        P, k = self.equations.P, self.equations.coupling
        if self.form.split:
            total, determinant = P.sum(axis=0), P.prod(axis=0) + k * P.sum(axis=0)
            self.inverse: Vector = (P[::-1] + k) / determinant
            self.crossed: Vector = -k / determinant
            self.H: Vector = (total + 4 * k) / determinant
        else:
            self.inverse = 1 / P
            self.H = self.inverse[0]

    def _factorise(self) -> None:
        """The Cholesky factor of the core: Z H Z^T + E, or Z^T E^-1 Z + H^-1."""
        form = self.form
        if self.eliminates_x:
            weighted = np.multiply(form.rows, np.sqrt(self.H), out=form.workspace)
            diagonal = self.equations.E
        else:
            weighted, diagonal = self._weighted_rows(), 1 / self.H
        core = dsyrk(1.0, weighted.T, trans=self.eliminates_x, lower=1)
        pivots = np.einsum("ii->i", core)
        pivots += diagonal
        pivots *= 1 + _PIVOT_RIDGE
        self.core, info = dpotrf(core, lower=1, overwrite_a=1, clean=0)
        if info != 0:
            raise LinAlgError("the core is not positive definite")

    def _weighted_rows(self) -> Vector:
        """E^-1/2 Z without rows whose terms in Z^T E^-1 Z are small beside H^-1.

        Iterative refinement corrects for the rows left out.
        """
        rows, workspace = self.form.rows, self.form.workspace
        weight = 1 / self.equations.E
        part = weight * self.form.squares
        rising = np.sort(part)
        n_light = int(np.searchsorted(np.cumsum(rising), _LIGHT_ROWS * np.min(1 / self.H)))
        heavy = np.flatnonzero(part >= rising[min(n_light, len(part) - 1)])
        if len(heavy) == len(rows):
            return np.multiply(rows, np.sqrt(weight)[:, None], out=workspace)
        weighted = np.take(rows, heavy, axis=0, out=workspace[: len(heavy)], mode="clip")
        weighted *= np.sqrt(weight[heavy])[:, None]
        return weighted

    def _eliminate_scalars(self, refine: bool) -> None:
        """The solution for each column of the border, and the Schur complement's LU factors."""
        rows, signs = self.form.rows, self.form.signs
        border = self.form.border
        B, C = self.equations.B, self.equations.C
        self.border_a = self._solve_core(signs @ self._apply_inverse(B), border.T, refine=refine)
        pushed = signs[:, None] * (self.border_a @ rows)[:, None, :]
        self.border_x = -self._apply_inverse(B + pushed).reshape(len(C), -1)
        self.flat_B = B.reshape(len(C), -1)
        left = C + self.flat_B @ self.border_x.T + border.T @ self.border_a.T
        *self.schur, info = dgetrf(left)
        if info != 0:
            raise LinAlgError("the border is singular")

    def _apply_inverse(self, f: Vector) -> Vector:
        """P^-1 f, of shape (..., parts, d)."""
        direct = self.inverse * f
        return direct + self.crossed * f[..., ::-1, :] if self.coupled else direct

    def _solve_core(self, w: Vector, h: Vector, *, refine: bool) -> Vector:
        """The a with Z (w + H Z^T a) + E a = h."""
        rows, E = self.form.rows, self.equations.E
        if self.eliminates_x:
            a = self._core_inverse(h - w @ rows.T)
            if not refine:
                return a
            return a + self._core_inverse(h - (w + self.H * (a @ rows)) @ rows.T - E * a)
        step = self._core_inverse(w / self.H + (h / E) @ rows)
        a = (h - step @ rows.T) / E
        if not refine:
            return a
        w, h = w - step + self.H * (a @ rows), h - step @ rows.T - E * a
        return a + (h - self._core_inverse(w / self.H + (h / E) @ rows) @ rows.T) / E

    def _core_inverse(self, b: Vector) -> Vector:
        return dpotrs(self.core, b.T, lower=1)[0].T

    def _solve_once(self, right: Unknowns, *, refine: bool) -> Unknowns:
        rows, signs = self.form.rows, self.form.signs
        border = self.form.border
        x = self._apply_inverse(right.coordinates)
        a = self._solve_core(signs @ x, right.weights, refine=refine)
        x = x + self._apply_inverse(signs[:, None] * (a @ rows))
        left = right.scalars - self.flat_B @ x.ravel() + a @ border
        t: Vector = dgetrs(*self.schur, left)[0]
        return Unknowns(x + (t @ self.border_x).reshape(x.shape), a - t @ self.border_a, t)

    def _residual(self, right: Unknowns, solution: Unknowns) -> Unknowns:
        """The residual of a solution: the right side less the equations' left side."""
        rows, signs = self.form.rows, self.form.signs
        border, equations = self.form.border, self.equations
        x, a, t = solution
        in_x = (
            right.coordinates
            - equations.P * x
            - equations.coupling * x.sum(axis=0)
            + signs[:, None] * (a @ rows)
            - (t @ self.flat_B).reshape(x.shape)
        )
        in_a = right.weights - rows @ (signs @ x) - equations.E * a - border @ t
        in_t = right.scalars - self.flat_B @ x.ravel() + a @ border - equations.C @ t
        return Unknowns(in_x, in_a, in_t)

    def solve(self, right: Unknowns, refinements: int) -> Unknowns:
        """The solution, refined.

        Raises
        ------
        scipy.linalg.LinAlgError
            If the residual of the margins' equations is no smaller than without a step: rounding
            dominates.
        """
        refine = not self.eliminates_x
        solution = self._solve_once(right, refine=refine and refinements > 0)
        for _ in range(refinements):
            residual = self._residual(right, solution)
            if not np.abs(residual.weights).max() <= np.abs(right.weights).max():
                raise LinAlgError("refinement diverges")
            solution = solution.plus(self._solve_once(residual, refine=refine))
        return solution
