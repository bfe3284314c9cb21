r"""Newton's equations of the interior-point method at one iterate, and their solution.

For the coordinates x, the weights a and the scalars t they read

.. math:: P \Delta x - J^T \Delta a + B \Delta t = f, \quad J \Delta x + E \Delta a + G \Delta t = h, \quad
   B^T \Delta x - G^T \Delta a + C \Delta t = g,

J = (Z, -Z), P a 2 x 2 block for every feature, E diagonal. What is left after eliminating x (n <= d) or a (n > d) is positive
definite of size min(n, d); the scalars are a border of at most five columns.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, lu_factor, lu_solve
from scipy.linalg.blas import dsyrk

from sklearn_robust.separators._margin_program import Vector
from sklearn_robust.separators._split_program import GAMMA, SplitProgram, State

_RIDGE = 1e-14  # of each pivot: they span many orders of magnitude


class NewtonSystem:
    """The equations at one iterate, factorised.

    Parameters
    ----------
    program : SplitProgram
    state : State
    scores : ndarray of shape (n,)
        Rows times difference of the coordinates.
    pull : ndarray of shape (d,)
        Weights times rows.

    Raises
    ------
    scipy.linalg.LinAlgError
        If the matrix is not positive definite up to rounding.
    """

    def __init__(self, program: SplitProgram, state: State, scores: Vector, pull: Vector) -> None:
        self.program, self.state = program, state
        x, scalars = state.coordinates, state.scalars
        d, m = x.shape[1], len(scalars)
        weights = state.multipliers[program.margins]
        self.P = np.zeros_like(x)
        self.coupling: Vector | float = 0.0  # of u_j and v_j by caps, on top of the diagonal P
        self.B, self.C = np.zeros((m, *x.shape)), np.zeros((m, m))
        self.E = state.slacks[program.margins] / weights
        # what the iterate lacks: of stationarity in x, of the margins' definition, of stationarity in the scalars
        self.lack_x = program.spread(-pull)
        self.lack_margins = scores + program.border @ scalars - state.slacks[program.margins]
        self.lack_scalars = -(weights @ program.border)
        self.lack_scalars[GAMMA] -= 1
        self.lack_caps: dict[int, Vector] = {}
        if program.split:
            reduced = state.multipliers[program.coordinates].reshape(x.shape)
            self.lack_x -= reduced
            self.P += reduced / x
        if program.quadratic:
            self.lack_x += x / d
            self.P += 1 / d
        for k, bound in enumerate(program.bounds):
            if bound.exponent == math.inf:
                self._add_caps(k)
            else:
                self._add_power(k)
        self._factorise()

    def _add_caps(self, k: int) -> None:
        """t - u_j - v_j = slack_j."""
        bound, state = self.program.bounds[k], self.state
        slack, multiplier = state.slacks[bound.pairs], state.multipliers[bound.pairs]
        stiffness = multiplier / slack
        self.lack_caps[k] = self.program.radius_of(bound, state) - state.coordinates.sum(axis=0) - slack
        self.lack_x += multiplier
        self.coupling = self.coupling + stiffness
        if bound.radius is not None:
            self.lack_scalars[bound.radius] -= multiplier.sum()
            self.B[bound.radius] -= stiffness
            self.C[bound.radius, bound.radius] += stiffness.sum()

    def _add_power(self, k: int) -> None:
        r"""F(x, t) + slack = 0 with the perspective :math:`F = \sum_j x_j^e / (d e t^{e-1}) - t / e`."""
        bound, state = self.program.bounds[k], self.state
        e, t, tau, j = bound.exponent, self.program.radius_of(bound, state), state.scalars[bound.multiplier], bound.multiplier
        x = state.coordinates
        d = x.shape[1]
        slope = np.full_like(x, 1 / d) if e == 1 else (x / t) ** (e - 1) / d
        mean = float((slope * x).sum() / t)
        self.lack_x += tau * slope
        self.lack_scalars[j] += t * (mean - 1) / e + state.slacks[bound.pairs][0]
        self.B[j] = slope
        self.C[j, j] = -state.slacks[bound.pairs][0] / tau
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

    def _factorise(self) -> None:
        """The inverse of P, the Cholesky factor of the core, and the Schur complement of the border."""
        program, rows = self.program, self.program.rows
        if program.split:
            a, c, k = self.P[0], self.P[1], self.coupling
            det = a * c + k * (a + c)
            self.inverse: tuple[Vector, ...] = ((c + k) / det, -k / det, (a + k) / det)
            self.H = (a + c + 4 * k) / det
        else:
            self.inverse = (1 / self.P[0],)
            self.H = self.inverse[0]
        self.dual = rows.shape[0] <= rows.shape[1]
        if self.dual:
            core, diagonal = dsyrk(1.0, (rows * np.sqrt(self.H)).T, trans=1, lower=1), self.E
        else:
            core, diagonal = dsyrk(1.0, (rows * np.sqrt(1 / self.E)[:, None]).T, lower=1), 1 / self.H
        pivots = np.einsum("ii->i", core)
        pivots += diagonal
        pivots *= 1 + _RIDGE
        self.core = cho_factor(core, lower=True, overwrite_a=True, check_finite=False)

        self.border_a = self._solve_core(self._apply_inverse(self.B), program.border.T)
        self.border_x = -self._apply_inverse(self.B + program.spread(self.border_a @ rows))
        schur = self.C + np.tensordot(self.B, self.border_x, axes=([1, 2], [1, 2])) + program.border.T @ self.border_a.T
        self.schur = lu_factor(schur, check_finite=False)

    def _apply_inverse(self, f: Vector) -> Vector:
        """P^-1 f, of shape (..., 2, d)."""
        if not self.program.split:
            return f * self.inverse[0]
        first, cross, second = self.inverse
        u, v = f[..., 0, :], f[..., 1, :]
        return np.stack([first * u + cross * v, cross * u + second * v], axis=-2)

    def _solve_core(self, x: Vector, h: Vector) -> Vector:
        """The a with Z x + (Z H Z^T + E) a = h, for x = P^-1 f."""
        rows, w0 = self.program.rows, self.program.difference(x)
        w, a = self._core_once(w0, h)
        return a + self._core_once(w0 - w + self.H * (a @ rows), h - w @ rows.T - self.E * a)[1]

    def _core_once(self, w0: Vector, h: Vector) -> tuple[Vector, Vector]:
        rows = self.program.rows
        if self.dual:
            a = cho_solve(self.core, (h - w0 @ rows.T).T, check_finite=False).T
            return w0 + self.H * (a @ rows), a
        w = cho_solve(self.core, (w0 / self.H + (h / self.E) @ rows).T, check_finite=False).T
        return w, (h - w @ rows.T) / self.E

    def _solve_once(self, f: Vector, h: Vector, g: Vector) -> tuple[Vector, Vector, Vector]:
        program = self.program
        x = self._apply_inverse(f)
        a = self._solve_core(x, h)
        x = x + self._apply_inverse(program.spread(a @ program.rows))
        t = lu_solve(self.schur, g - np.tensordot(self.B, x, axes=2) + a @ program.border, check_finite=False)
        return x + np.tensordot(t, self.border_x, axes=1), a - t @ self.border_a, t

    def _solve(self, f: Vector, h: Vector, g: Vector, refinements: int) -> tuple[Vector, Vector, Vector]:
        """The solution, refined.

        Raises
        ------
        scipy.linalg.LinAlgError
            If refinement makes the margins' equations worse than they were without a step: the digits are used up.
        """
        program = self.program
        x, a, t = self._solve_once(f, h, g)
        for _ in range(refinements):
            coupled = self.coupling * x.sum(axis=0) if program.split else 0.0
            lack = h - program.rows @ program.difference(x) - self.E * a - program.border @ t
            if not np.abs(lack).max() <= np.abs(h).max():
                raise LinAlgError("refinement diverges")
            more = self._solve_once(
                f - self.P * x - coupled + program.spread(a @ program.rows) - np.tensordot(t, self.B, axes=1),
                lack,
                g - np.tensordot(self.B, x, axes=2) + a @ program.border - self.C @ t,
            )
            x, a, t = x + more[0], a + more[1], t + more[2]
        return x, a, t

    def direction(self, target: Vector, refinements: int) -> State:
        """The step that takes slacks * multipliers to their value plus `target`, to first order."""
        program, state = self.program, self.state
        f, h, g = -self.lack_x, -self.lack_margins, -self.lack_scalars
        slacks, multipliers = state.slacks, state.multipliers
        if program.split:
            f = f + (target[program.coordinates] / slacks[program.coordinates]).reshape(f.shape)
        h = h + target[program.margins] / multipliers[program.margins]
        pushes = {}
        for k, bound in enumerate(program.bounds):
            if bound.multiplier is not None:
                g[bound.multiplier] -= target[bound.pairs][0] / state.scalars[bound.multiplier]
                continue
            stiffness = multipliers[bound.pairs] / slacks[bound.pairs]
            pushes[k] = stiffness * (target[bound.pairs] / multipliers[bound.pairs] - self.lack_caps[k])
            f = f - pushes[k]
            if bound.radius is not None:
                g[bound.radius] += pushes[k].sum()
        x, a, t = self._solve(f, h, g, refinements)
        dual = np.empty_like(multipliers)
        if program.split:
            at = program.coordinates
            dual[at] = (target[at] - multipliers[at] * x.ravel()) / slacks[at]
        dual[program.margins] = a
        for k, bound in enumerate(program.bounds):
            if bound.multiplier is not None:
                dual[bound.pairs] = t[bound.multiplier]
            else:
                growth = x.sum(axis=0) - (0.0 if bound.radius is None else t[bound.radius])
                dual[bound.pairs] = pushes[k] + multipliers[bound.pairs] / slacks[bound.pairs] * growth
        primal = (target - slacks * dual) / multipliers
        if program.split:
            primal[program.coordinates] = x.ravel()
        return State(x, primal, dual, t)
