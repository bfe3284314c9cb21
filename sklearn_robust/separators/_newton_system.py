r"""Newton's equations of the interior-point method at one iterate, and their solution.

For the coordinates x, the weights a and the scalars t they read

.. math:: P \Delta x - J^T \Delta a + B^T \Delta t = f, \quad J \Delta x + E \Delta a + G \Delta t =
h, \quad
   B \Delta x - G^T \Delta a + C \Delta t = g,

J = (Z, -Z), P a 2 x 2 block for every feature, E diagonal. What is left after eliminating x (n <=
d) or a (n > d) is positive definite of size min(n, d); the scalars are a border of at most five
columns.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dgetrf, dgetrs, dpotrf, dpotrs

from sklearn_robust.separators._max_margin_form import Vector
from sklearn_robust.separators._standard_form import GAMMA, StandardForm, State

_LIGHT = 1e-3  # share of a diagonal that is left to refinement
_RIDGE = 1e-14  # of each pivot: they span many orders of magnitude


class NewtonSystem:
    """The equations at one iterate, factorised.

    Parameters
    ----------
    program : StandardForm
    state : State
    scores : ndarray of shape (n,)
        Rows times difference of the coordinates.
    weighted_sum : ndarray of shape (d,)
        Weights times rows.
    refine : bool
        Whether the elimination of the scalars is refined.

    Raises
    ------
    scipy.linalg.LinAlgError
        If the matrix is not positive definite up to rounding.
    """

    def __init__(
        self,
        program: StandardForm,
        state: State,
        scores: Vector,
        weighted_sum: Vector,
        *,
        refine: bool = True,
    ) -> None:
        self.program, self.state = program, state
        x, scalars = state.coordinates, state.scalars
        d, m = program.rows.shape[1], len(scalars)
        weights = state.multipliers[program.margins]
        self.E = state.slacks[program.margins] / weights
        self.P = np.zeros_like(x)
        self.coupling: Vector | None = None  # of u_j and v_j by caps, on top of the diagonal P
        self.B, self.C = np.zeros((m, len(x))), np.zeros((m, m))
        # what the iterate lacks: of stationarity in x, of the margins' definition, of stationarity
        # in the scalars
        self.lack_x = program.spread(-weighted_sum)
        self.lack_margins = scores + program.border @ scalars - state.slacks[program.margins]
        self.lack_scalars = -(weights @ program.border)
        self.lack_scalars[GAMMA] -= 1
        self.lack_caps: dict[int, Vector] = {}
        if program.split:
            reduced = state.multipliers[program.coordinates]
            self.lack_x -= reduced
            self.P += reduced / x
        if program.quadratic:
            self.lack_x += x / d
            self.P += 1 / d
        for k, bound in enumerate(program.bounds):
            if bound.multiplier is None:
                self._add_caps(k)
            else:
                self._add_power(k)
        self._factorise(refine)

    def _add_caps(self, k: int) -> None:
        """t - s_j (u_j + v_j) = slack_j."""
        bound, state = self.program.bounds[k], self.state
        slack, multiplier = state.slacks[bound.pairs], state.multipliers[bound.pairs]
        stiffness, scale = multiplier / slack, bound.scale
        self.lack_caps[k] = (
            self.program.radius_of(bound, state)
            - self.program.total(scale * state.coordinates)
            - slack
        )
        self.lack_x += scale * np.tile(multiplier, 2)
        coupling = scale[: len(slack)] ** 2 * stiffness
        self.coupling = coupling if self.coupling is None else self.coupling + coupling
        if bound.radius is not None:
            self.lack_scalars[bound.radius] -= multiplier.sum()
            self.B[bound.radius] -= scale * np.tile(stiffness, 2)
            self.C[bound.radius, bound.radius] += stiffness.sum()

    def _add_power(self, k: int) -> None:
        r"""F(x, t) + slack = 0 with the perspective :math:`F = \sum_j (s_j x_j)^e / (d e t^{e-1}) -
        t / e`.
        """
        bound, state = self.program.bounds[k], self.state
        e, t, tau, j = (
            bound.exponent,
            self.program.radius_of(bound, state),
            state.scalars[bound.multiplier],
            bound.multiplier,
        )
        x, slack = state.coordinates, state.slacks[bound.pairs][0]
        d = self.program.rows.shape[1]
        scale = bound.scale[: len(x)]
        slope = scale / d if e == 1 else scale * (scale * x / t) ** (e - 1) / d
        mean = float(slope @ x) / t
        self.lack_x += tau * slope
        self.lack_scalars[j] += t * (mean - 1) / e + slack
        self.B[j] = slope
        self.C[j, j] = -slack / tau
        if e > 1:
            self.P += tau * (e - 1) * slope / x
        if bound.radius is not None:
            s, by_t = bound.radius, -((e - 1) * mean + 1) / e
            self.lack_scalars[s] += tau * by_t
            self.C[s, j] += by_t
            self.C[j, s] += by_t
            if e > 1:
                self.B[s] -= tau * (e - 1) * slope / t
                self.C[s, s] += tau * (e - 1) * mean / t

    def _factorise(self, refine: bool) -> None:
        """The inverse of P, the Cholesky factor of the core, and the Schur complement of the
        border.
        """
        program, rows = self.program, self.program.rows
        if program.split:
            d = rows.shape[1]
            u, v, k = (
                self.P[:d],
                self.P[d:],
                np.zeros(d) if self.coupling is None else self.coupling,
            )
            det = u * v + k * (u + v)
            self.inverse: Vector = np.concatenate([v + k, u + k]) / np.tile(det, 2)
            self.crossed: Vector = np.tile(-k / det, 2)
            self.H = (u + v + 4 * k) / det
        else:
            self.H = self.inverse = 1 / self.P
        self.dual = rows.shape[0] <= rows.shape[1]
        if self.dual:
            weighted, diagonal = np.multiply(rows, np.sqrt(self.H), out=program.workspace), self.E
        else:
            weighted, diagonal = self._weighted_rows(), 1 / self.H
        core = dsyrk(1.0, weighted.T, trans=self.dual, lower=1)
        pivots = np.einsum("ii->i", core)
        pivots += diagonal
        pivots *= 1 + _RIDGE
        self.core, info = dpotrf(core, lower=1, overwrite_a=1, clean=0)
        if info != 0:
            raise LinAlgError("the core is not positive definite")

        self.border_a = self._solve_core(
            program.difference(self._apply_inverse(self.B)), program.border.T, refine=refine
        )
        self.border_x = -self._apply_inverse(self.B + program.spread(self.border_a @ rows))
        *self.schur, info = dgetrf(
            self.C + self.B @ self.border_x.T + program.border.T @ self.border_a.T
        )
        if info != 0:
            raise LinAlgError("the border is singular")

    def _weighted_rows(self) -> Vector:
        """E^-1/2 Z without rows whose part in Z^T E^-1 Z is small beside H^-1: refinement makes up
        for what they would add.
        """
        rows, weight = self.program.rows, 1 / self.E
        part = np.sort(weight * self.program.squares)
        light = part[
            min(int(np.searchsorted(np.cumsum(part), _LIGHT * np.min(1 / self.H))), len(part) - 1)
        ]
        heavy = np.flatnonzero(weight * self.program.squares >= light)
        if len(heavy) == len(rows):
            return np.multiply(rows, np.sqrt(weight)[:, None], out=self.program.workspace)
        weighted = np.take(
            rows, heavy, axis=0, out=self.program.workspace[: len(heavy)], mode="clip"
        )
        weighted *= np.sqrt(weight[heavy])[:, None]
        return weighted

    def _apply_inverse(self, f: Vector) -> Vector:
        """P^-1 f, of shape (..., 2 d)."""
        if self.coupling is None:
            return self.inverse * f
        d = self.program.rows.shape[1]
        return self.inverse * f + self.crossed * np.concatenate([f[..., d:], f[..., :d]], axis=-1)

    def _solve_core(self, w: Vector, h: Vector, *, refine: bool) -> Vector:
        """The a with Z (w + H Z^T a) + E a = h."""
        rows = self.program.rows
        if self.dual:
            a = self._core_inverse(h - w @ rows.T)
            return (
                a + self._core_inverse(h - (w + self.H * (a @ rows)) @ rows.T - self.E * a)
                if refine
                else a
            )
        step = self._core_inverse(w / self.H + (h / self.E) @ rows)
        a = (h - step @ rows.T) / self.E
        if not refine:
            return a
        w, h = w - step + self.H * (a @ rows), h - step @ rows.T - self.E * a
        return a + (h - self._core_inverse(w / self.H + (h / self.E) @ rows) @ rows.T) / self.E

    def _core_inverse(self, b: Vector) -> Vector:
        return dpotrs(self.core, b.T, lower=1)[0].T

    def _solve_once(
        self, f: Vector, h: Vector, g: Vector, *, refine: bool
    ) -> tuple[Vector, Vector, Vector]:
        program = self.program
        x = self._apply_inverse(f)
        a = self._solve_core(program.difference(x), h, refine=refine)
        x = x + self._apply_inverse(program.spread(a @ program.rows))
        t: Vector = dgetrs(*self.schur, g - self.B @ x + a @ program.border)[0]
        return x + t @ self.border_x, a - t @ self.border_a, t

    def _solve(
        self, f: Vector, h: Vector, g: Vector, refinements: int
    ) -> tuple[Vector, Vector, Vector]:
        """The solution, refined.

        Raises
        ------
        scipy.linalg.LinAlgError
            If the margins' equations are met no better than without a step: the digits are used up.
        """
        program = self.program
        x, a, t = self._solve_once(f, h, g, refine=refinements > 0 and not self.dual)
        for _ in range(refinements):
            lack_h = h - program.rows @ program.difference(x) - self.E * a - program.border @ t
            if not np.abs(lack_h).max() <= np.abs(h).max():
                raise LinAlgError("refinement diverges")
            lack_f = f - self.P * x + program.spread(a @ program.rows) - t @ self.B
            if self.coupling is not None:
                lack_f -= np.tile(self.coupling * program.total(x), 2)
            more = self._solve_once(
                lack_f,
                lack_h,
                g - self.B @ x + a @ program.border - self.C @ t,
                refine=not self.dual,
            )
            x, a, t = x + more[0], a + more[1], t + more[2]
        return x, a, t

    def direction(self, target: Vector, refinements: int) -> State:
        """The step that takes slacks * multipliers to their value plus `target`, to first order."""
        program, state = self.program, self.state
        f, h, g = -self.lack_x, -self.lack_margins, -self.lack_scalars
        slacks, multipliers = state.slacks, state.multipliers
        if program.split:
            f += target[program.coordinates] / slacks[program.coordinates]
        h += target[program.margins] / multipliers[program.margins]
        pushes = {}
        for k, bound in enumerate(program.bounds):
            if bound.multiplier is not None:
                g[bound.multiplier] -= target[bound.pairs][0] / state.scalars[bound.multiplier]
                continue
            stiffness = multipliers[bound.pairs] / slacks[bound.pairs]
            pushes[k] = stiffness * (
                target[bound.pairs] / multipliers[bound.pairs] - self.lack_caps[k]
            )
            f -= bound.scale * np.tile(pushes[k], 2)
            if bound.radius is not None:
                g[bound.radius] += pushes[k].sum()
        x, a, t = self._solve(f, h, g, refinements)
        dual = np.empty_like(multipliers)
        if program.split:
            at = program.coordinates
            dual[at] = (target[at] - multipliers[at] * x) / slacks[at]
        dual[program.margins] = a
        for k, bound in enumerate(program.bounds):
            if bound.multiplier is not None:
                dual[bound.pairs] = t[bound.multiplier]
            else:
                growth = program.total(bound.scale * x) - (
                    0.0 if bound.radius is None else t[bound.radius]
                )
                dual[bound.pairs] = (
                    pushes[k] + multipliers[bound.pairs] / slacks[bound.pairs] * growth
                )
        primal = (target - slacks * dual) / multipliers
        if program.split:
            primal[program.coordinates] = x
        return State(x, primal, dual, t)
