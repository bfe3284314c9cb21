r"""The max-margin form for the interior-point method: coordinates, complementary pairs, scalars.

With :math:`w = u - v`, :math:`x = (u, v) \ge 0` and both norms taken of x,

.. math:: \max \; \gamma \quad \text{s.t.} \quad z_i \cdot (u - v) + y_i b - \epsilon s - \gamma =
   \sigma_i, \quad
   \|x\|_p \le 1, \quad \|x\|_{q^*} \le s, \quad x, \sigma \ge 0.

At a solution no coordinate has both u and v, so the norms are those of w. For p = 2 the objective
:math:`\gamma - \tfrac12 \|x\|_2^2` takes the place of the first bound; where no norm has a kink, w
is not split. The rows are divided by their root mean square and by sqrt(d), and norms are power
means, so that coordinates, margins and scalars are all of order 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklearn_robust._conic_programs import Places
from sklearn_robust.norms import LpNorm
from sklearn_robust.separators._max_margin_form import MaxMarginForm, Vector

# The place of gamma among the scalars; b and s follow where they are free, then the multipliers of
# power bounds.
GAMMA = 0


class State(NamedTuple):
    """An iterate, or a step from one.

    Attributes
    ----------
    coordinates : ndarray of shape (2, d), u and v, or of shape (1, d) where w is not split
    slacks, multipliers : ndarray of shape (n_pairs,)
        Positive, complementary at a solution: coordinates (where they are split) and their reduced
        costs, the sigma_i and the weights a_i, the slacks of the bounds and their multipliers.
    scalars : ndarray of shape (n_scalars,)
    """

    coordinates: Vector
    slacks: Vector
    multipliers: Vector
    scalars: Vector


class Unknowns(NamedTuple):
    """A solution of Newton's equations, or their right side."""

    coordinates: Vector  # (parts, d)
    weights: Vector  # (n,)
    scalars: Vector  # (n_scalars,)

    def plus(self, other: Unknowns) -> Unknowns:
        return Unknowns(*(one + more for one, more in zip(self, other, strict=True)))


@dataclass
class Equations:
    r"""Newton's equations at one iterate, without their solution.

    .. math:: P \Delta x - J^T \Delta a + B^T \Delta t = -r_x, \quad J \Delta x + E \Delta a + G
       \Delta t = -r_a, \quad B \Delta x - G^T \Delta a + C \Delta t = -r_t,

    with J = (Z, -Z), E diagonal, and P diagonal but for a coupling of each u_j with v_j.
    """

    residual: Unknowns  # r_x, r_a, r_t
    P: Vector  # (parts, d): the diagonal of P without the coupling
    coupling: Vector  # (d,), which stands in all four places of the block of (u_j, v_j)
    E: Vector  # (n,)
    B: Vector  # (n_scalars, parts, d)
    C: Vector  # (n_scalars, n_scalars)


@dataclass(frozen=True)
class _Bound:
    """A norm of s x that is at most t."""

    pairs: slice  # its slacks and their multipliers
    scale: Vector  # (d,): s
    radius: int | None  # the place of the scalar t; None where t = 1

    def t(self, state: State) -> float:
        return 1.0 if self.radius is None else float(state.scalars[self.radius])


@dataclass(frozen=True)
class CapBound(_Bound):
    """s_j (u_j + v_j) <= t for each feature: the maximum norm, with a pair for each feature."""

    linear = True
    inside = 0.25  # size at which all coordinates meet the bound

    def start(self, size: float, state: State) -> None:
        """Slacks and multipliers at a point whose coordinates all have this size."""
        if self.radius is not None:
            state.scalars[self.radius] = 4 * size
        state.slacks[self.pairs] = 0.5 * self.t(state)
        state.multipliers[self.pairs] = 1 / len(self.scale)

    def assemble(self, equations: Equations, state: State) -> None:
        """Add the bound's terms to the equations, its pairs eliminated."""
        multiplier = state.multipliers[self.pairs]
        stiffness = multiplier / state.slacks[self.pairs]
        in_x, _, in_t = equations.residual
        in_x += self.scale * multiplier
        equations.coupling += self.scale**2 * stiffness
        if self.radius is not None:
            in_t[self.radius] -= multiplier.sum()
            equations.B[self.radius] -= self.scale * stiffness
            equations.C[self.radius, self.radius] += stiffness.sum()

    def aim(self, right: Unknowns, target: Vector, state: State) -> None:
        """Add to the right side the terms that change the bound's products by `target`."""
        force = self._force(target, state)
        right.coordinates[:] -= self.scale * force
        if self.radius is not None:
            right.scalars[self.radius] += force.sum()

    def recover(self, step: Unknowns, target: Vector, state: State) -> Vector:
        """The step of the multipliers."""
        growth = self.scale * step.coordinates.sum(axis=0)
        if self.radius is not None:
            growth = growth - step.scalars[self.radius]
        stiffness = state.multipliers[self.pairs] / state.slacks[self.pairs]
        return self._force(target, state) + stiffness * growth

    def _force(self, target: Vector, state: State) -> Vector:
        """The step of the multipliers if neither coordinates nor radius moved."""
        slack, multiplier = state.slacks[self.pairs], state.multipliers[self.pairs]
        residual = self.t(state) - self.scale * state.coordinates.sum(axis=0) - slack
        return multiplier / slack * (target[self.pairs] / multiplier - residual)


@dataclass(frozen=True)
class PowerBound(_Bound):
    r"""M_e(s x) <= t, the power mean over d features: :math:`\sum_j (s_j x_j)^e / d \le t^e`.

    With the perspective :math:`F = \sum_j (s_j x_j)^e / (d e t^{e-1}) - t / e` it reads F + slack =
    0. The multiplier of its one pair is a scalar of the equations.
    """

    exponent: float
    multiplier: int  # the place of the scalar

    @property
    def linear(self) -> bool:
        return self.exponent == 1

    @property
    def inside(self) -> float:
        """Coordinates of this size meet the bound."""
        return 1.0 if self.radius is not None else 0.5 * 0.5 ** (1 / self.exponent)

    def start(self, size: float, state: State) -> None:
        """Slack and multiplier at a point whose coordinates all have this size."""
        if self.radius is not None:
            state.scalars[self.radius] = 2 * size * 2 ** (1 / self.exponent)
        state.slacks[self.pairs] = 0.5 * self.t(state)
        state.scalars[self.multiplier] = 1.0

    def assemble(self, equations: Equations, state: State) -> None:
        """Add the bound's terms to the equations."""
        e, at = self.exponent, self.multiplier
        t, tau = self.t(state), state.scalars[at]
        x, slack = state.coordinates, state.slacks[self.pairs][0]
        d, curved = len(self.scale), e > 1
        # the derivatives of F by x and by t
        by_x = self.scale * (self.scale * x / t) ** (e - 1) / d
        mean = float(np.vdot(by_x, x)) / t
        by_t = -((e - 1) * mean + 1) / e
        in_x, _, in_t = equations.residual
        in_x += tau * by_x
        in_t[at] += t * (mean - 1) / e + slack
        equations.B[at] = by_x
        equations.C[at, at] = -slack / tau
        if curved:
            equations.P += tau * (e - 1) * by_x / x
        if self.radius is None:
            return
        in_t[self.radius] += tau * by_t
        equations.C[self.radius, at] += by_t
        equations.C[at, self.radius] += by_t
        if curved:
            equations.B[self.radius] -= tau * (e - 1) * by_x / t
            equations.C[self.radius, self.radius] += tau * (e - 1) * mean / t

    def aim(self, right: Unknowns, target: Vector, state: State) -> None:
        """Add to the right side the term that changes the bound's product by `target`."""
        right.scalars[self.multiplier] -= target[self.pairs][0] / state.scalars[self.multiplier]

    def recover(self, step: Unknowns, target: Vector, state: State) -> Vector:
        """The step of the multiplier."""
        return step.scalars[self.multiplier : self.multiplier + 1]


@dataclass(frozen=True)
class StandardForm:
    """The parts of the program that stay fixed, and where each lies."""

    rows: Vector  # (n, d), C-contiguous
    border: Vector  # (n, n_scalars): the margins' derivatives by the scalars
    signs: Vector  # (1, -1) where w = signs @ x is split into u and v, otherwise (1,)
    quadratic: bool  # whether the objective has - ||x||^2 / 2
    bounds: tuple[CapBound | PowerBound, ...]
    coordinates: slice  # the pairs of the coordinates with their reduced costs; none without split
    margins: slice  # the pairs (sigma_i, a_i)
    n_pairs: int
    radius: int | None  # the place of the scalar s
    dual_scalars: NDArray[np.bool_]  # (n_scalars,): those that are multipliers of power bounds
    squares: Vector  # (n,): the squared 2-norms of the rows
    workspace: Vector  # (n, d): room for weighted rows
    unit: float  # a row of `rows` is a row of the program over unit * sqrt(d)

    @classmethod
    def of(cls, program: MaxMarginForm) -> StandardForm:
        n, d = program.rows.shape
        unit = float(np.linalg.norm(program.rows)) / math.sqrt(n) or 1.0
        attacked, quadratic = bool(program.eps > 0), program.p == 2
        split = attacked or not quadratic

        pairs, scalars = Places(), Places()
        coordinates = pairs.take(2 * d if split else 0)
        margins = pairs.take(n)
        gamma = scalars.take_one()
        intercept = None if program.labels is None else scalars.take_one()
        radius = scalars.take_one() if attacked else None
        n_primal = scalars.size

        def bound(exponent: float, scale: Vector, radius: int | None) -> CapBound | PowerBound:
            if exponent == math.inf:
                return CapBound(pairs.take(d), scale, radius)
            return PowerBound(pairs.take(1), scale, radius, exponent, scalars.take_one())

        # scales of power mean 1, or of maximum 1, in a bound; the mean goes into eps
        scale = np.ones(d) if program.scale is None else program.scale
        mean = float(LpNorm(program.dual_q).value(scale)) / d ** (1 / program.dual_q)
        bounds = [] if quadratic else [bound(program.p, np.ones(d), None)]
        if attacked:
            bounds.append(bound(program.dual_q, scale / mean, radius))

        border = np.zeros((n, scalars.size))
        border[:, gamma] = -1
        if intercept is not None:
            border[:, intercept] = program.labels
        if radius is not None:
            border[:, radius] = -program.eps * mean * d ** (1 / program.dual_q - 0.5) / unit
        rows = np.ascontiguousarray(program.rows) / (unit * math.sqrt(d))
        return cls(
            rows=rows,
            border=border,
            signs=np.array([1.0, -1.0]) if split else np.ones(1),
            quadratic=quadratic,
            bounds=tuple(bounds),
            coordinates=coordinates,
            margins=margins,
            n_pairs=pairs.size,
            radius=radius,
            dual_scalars=np.arange(scalars.size) >= n_primal,
            squares=(rows**2).sum(axis=1),
            workspace=np.empty_like(rows),
            unit=unit,
        )

    @property
    def split(self) -> bool:
        return len(self.signs) == 2

    @property
    def linear(self) -> bool:
        """Whether it is a linear program, where primal and dual may take steps of unlike length."""
        return not self.quadratic and all(bound.linear for bound in self.bounds)

    def start(self) -> State:
        """A point inside every bound, with weights and reduced costs of the size of their means."""
        n, d = self.rows.shape
        size = self.bounds[0].inside if self.bounds else 0.0
        state = State(
            np.full((len(self.signs), d), size),
            np.ones(self.n_pairs),
            np.ones(self.n_pairs),
            np.zeros(self.border.shape[1]),
        )
        state.slacks[self.coordinates] = size
        state.multipliers[self.coordinates] = 1 / d
        state.multipliers[self.margins] = 1 / n
        for bound in self.bounds:
            bound.start(size, state)
        return state

    def equations(self, state: State, scores: Vector, weighted_sum: Vector) -> Equations:
        """Newton's equations at an iterate, from its scores Z w and the weighted sum Z^T a.

        The residual of stationarity in x, of the margins' definition, and of stationarity in the
        scalars, with the contributions of the objective, the coordinates' pairs and the bounds.
        """
        x, scalars = state.coordinates, state.scalars
        d, m = x.shape[1], len(scalars)
        weights, margins = state.multipliers[self.margins], state.slacks[self.margins]
        in_t = -(weights @ self.border)
        in_t[GAMMA] -= 1
        residual = Unknowns(
            -self.signs[:, None] * weighted_sum, scores + self.border @ scalars - margins, in_t
        )
        equations = Equations(
            residual,
            P=np.zeros_like(x),
            coupling=np.zeros(d),
            E=margins / weights,
            B=np.zeros((m, *x.shape)),
            C=np.zeros((m, m)),
        )
        if self.split:
            reduced = state.multipliers[self.coordinates].reshape(x.shape)
            residual.coordinates[:] -= reduced
            equations.P += reduced / x
        if self.quadratic:
            residual.coordinates[:] += x / d
            equations.P += 1 / d
        for bound in self.bounds:
            bound.assemble(equations, state)
        return equations

    def right_side(self, equations: Equations, target: Vector, state: State) -> Unknowns:
        """A right side whose solution changes slacks * multipliers by `target`, to first order."""
        right = Unknowns(*(-part for part in equations.residual))
        if self.split:
            part = target[self.coordinates] / state.slacks[self.coordinates]
            right.coordinates[:] += part.reshape(right.coordinates.shape)
        right.weights[:] += target[self.margins] / state.multipliers[self.margins]
        for bound in self.bounds:
            bound.aim(right, target, state)
        return right

    def step(self, solution: Unknowns, target: Vector, state: State) -> State:
        """The step of an iterate, its pairs included, from the solution of the equations."""
        slacks, multipliers = state.slacks, state.multipliers
        dual, at = np.empty_like(multipliers), self.coordinates
        x = solution.coordinates.ravel()
        if self.split:
            dual[at] = (target[at] - multipliers[at] * x) / slacks[at]
        dual[self.margins] = solution.weights
        for bound in self.bounds:
            dual[bound.pairs] = bound.recover(solution, target, state)
        primal = (target - slacks * dual) / multipliers
        if self.split:
            primal[at] = x
        return State(solution.coordinates, primal, dual, solution.scalars)
