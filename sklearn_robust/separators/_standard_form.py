r"""The max-margin form for the interior-point method: coordinates, complementary pairs, scalars.

With :math:`w = u - v`, :math:`x = (u, v) \ge 0` and both norms taken of x,

.. math:: \max \; \gamma \quad \text{s.t.} \quad z_i \cdot (u - v) + y_i b - \epsilon s - \gamma =
   \sigma_i, \quad
   \|x\|_p \le 1, \quad \|x\|_{q^*} \le s, \quad x, \sigma \ge 0.

At a solution no coordinate has both u and v, so the norms are those of w. For p = 2 the objective
:math:`\gamma - \tfrac12 \|x\|_2^2` takes the place of the first bound. Only sums of powers need the
split: without one x is w. The rows are divided by their root mean square and by sqrt(d), and norms
are power means, so that coordinates, margins and scalars are all of order 1.

Every iterate meets the linear equations: its slacks are computed from its coordinates and scalars.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklearn_robust._conic_programs import Places
from sklearn_robust.norms import LpNorm
from sklearn_robust.separators._max_margin_form import MaxMarginForm, Vector

# The place of gamma among the scalars; b and s follow where they are free, then the multipliers of
# power bounds.
GAMMA = 0
_SINGLE_ENTRIES = 50_000  # entries of the rows from which a copy in single precision pays
_LEAST_EPS = 1e-3  # sum of the multipliers of the caps of s at the start, at least
# Margin at the start over the bound that the start's weights prove, and the least margin at the
# start. A start further outside takes steps to come as near as the solution is.
_START_SHARE, _LEAST_START = 0.5, 0.05
_LEFT_SLACK = 0.1  # share of a slack as stepped that is left where the slack computed anew is less


class State(NamedTuple):
    """An iterate, or a step from one.

    Attributes
    ----------
    coordinates : ndarray of shape (2, d), u and v, or of shape (1, d) where w is not split
    scalars : ndarray of shape (n_primal,)
        gamma, b and s.
    slacks, multipliers : ndarray of shape (n_pairs,)
        Positive, complementary at a solution: coordinates (where they are split) and their reduced
        costs, the slacks of caps and their multipliers, the sigma_i and the weights a_i, the slacks
        of power bounds and their multipliers.
    """

    coordinates: Vector
    scalars: Vector
    slacks: Vector
    multipliers: Vector


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

    .. math:: P \Delta x - J^T \Delta a + B^T \Delta t = f, \quad J \Delta x + E \Delta a + G
       \Delta t = h, \quad B \Delta x - G^T \Delta a + C \Delta t = g,

    with J = (Z, -Z), and E and P diagonal.
    """

    right: Unknowns  # f, h, g of the predictor, whose target is that all products are zero
    P: Vector  # (parts, d)
    E: Vector  # (n,)
    B: Vector  # (n_scalars, parts, d)
    C: Vector  # (n_scalars, n_scalars)


@dataclass(frozen=True)
class CapBound:
    """s_j |w_j| <= t for each feature, the maximum norm, as s_j u_j <= t and s_j v_j <= t; for w
    that is not split as s_j w_j <= t and -s_j w_j <= t.
    """

    pairs: slice  # its 2 d slacks and their multipliers
    scale: Vector  # (2, d): s, with both signs where w is not split
    radius: int | None  # the place of the scalar t; None where t = 1
    split: bool

    inside = 0.5  # size at which all coordinates meet the bound

    def slacks(self, x: Vector, t: Vector) -> Vector:
        """t - s x of all pairs; of a step the same without the constant."""
        reach = 0.0 if self.radius is None else t[self.radius]
        slacks: Vector = (reach - self.scale * x).ravel()
        return slacks

    def assemble(self, equations: Equations, ratio: Vector) -> None:
        """Add the bound's terms to the equations, its pairs eliminated."""
        stiffness = self.scale * ratio[self.pairs].reshape(self.scale.shape)
        equations.P += self.gathered(self.scale * stiffness)
        if self.radius is not None:
            equations.B[self.radius] -= self.gathered(stiffness)
            equations.C[self.radius, self.radius] += ratio[self.pairs].sum()

    def aim(self, right: Unknowns, force: Vector) -> None:
        """Add to the right side the terms of a target, which is `force` times the slacks."""
        force = force[self.pairs].reshape(self.scale.shape)
        right.coordinates[:] -= self.gathered(self.scale * force)
        if self.radius is not None:
            right.scalars[self.radius] += force.sum()

    def gathered(self, terms: Vector) -> Vector:
        """Terms of the pairs (2, d), by coordinates."""
        return terms if self.split else terms.sum(axis=0, keepdims=True)


@dataclass(frozen=True)
class PowerBound:
    r"""M_e(s x) <= t, the power mean over d features: :math:`\sum_j (s_j x_j)^e / d \le t^e`.

    With the perspective :math:`F = \sum_j (s_j x_j)^e / (d e t^{e-1}) - t / e` it reads F + slack =
    0. The multiplier of its one pair is a scalar of the equations.
    """

    pair: int  # its slack and multiplier
    scale: Vector  # (d,): s
    radius: int | None  # the place of the scalar t; None where t = 1
    exponent: float
    multiplier: int  # the place of the scalar

    @property
    def inside(self) -> float:
        """Coordinates of this size meet the bound."""
        return 1.0 if self.radius is not None else 0.5 * 0.5 ** (1 / self.exponent)

    def start(self, size: float, state: State) -> None:
        """The slack at a point whose coordinates all have this size."""
        if self.radius is not None:
            state.scalars[self.radius] = 2 * size * 2 ** (1 / self.exponent)
        t = self.t(state)
        mean = 2 * float(np.mean((self.scale * size / t) ** self.exponent))
        state.slacks[self.pair] = t * (1 - mean) / self.exponent

    def t(self, state: State) -> float:
        return 1.0 if self.radius is None else float(state.scalars[self.radius])

    def assemble(self, equations: Equations, state: State) -> None:
        """Add the bound's terms to the equations and to the predictor's right side."""
        e, at = self.exponent, self.multiplier
        t, tau = self.t(state), float(state.multipliers[self.pair])
        x, slack = state.coordinates, float(state.slacks[self.pair])
        d, curved = len(self.scale), e > 1
        # the derivatives of F by x and by t
        by_x = self.scale / d * ((self.scale * x / t) ** (e - 1) if curved else np.ones_like(x))
        mean = float(np.vdot(by_x, x)) / t
        by_t = -((e - 1) * mean + 1) / e
        f, _, g = equations.right
        f -= tau * by_x
        g[at] -= t * (mean - 1) / e
        equations.B[at] = by_x
        equations.C[at, at] = -slack / tau
        if curved:
            equations.P += tau * (e - 1) * by_x / x
        if self.radius is None:
            return
        g[self.radius] -= tau * by_t
        equations.C[self.radius, at] += by_t
        equations.C[at, self.radius] += by_t
        if curved:
            equations.B[self.radius] -= tau * (e - 1) * by_x / t
            equations.C[self.radius, self.radius] += tau * (e - 1) * mean / t


@dataclass(frozen=True)
class StandardForm:
    """The parts of the program that stay fixed, and where each lies."""

    rows: Vector  # (n, d), C-contiguous
    border: Vector  # (n, n_scalars): the margins' derivatives by the scalars
    signs: Vector  # (1, -1) where w = signs @ x is split into u and v, otherwise (1,)
    quadratic: bool  # whether the objective has - ||x||^2 / 2
    caps: tuple[CapBound, ...]
    powers: tuple[PowerBound, ...]
    coordinates: slice  # the pairs of the coordinates with their reduced costs; none without split
    margins: slice  # the pairs (sigma_i, a_i)
    n_pairs: int
    n_primal: int  # scalars without the multipliers of power bounds
    radius: int | None  # the place of the scalar s
    start_weights: Vector  # (n,): positive, of sum 1, and of equal class sums with an intercept
    start_slack: float  # that of all margins at the start, at most 1
    squares: Vector  # (n,): the squared 2-norms of the rows
    single: Vector | None  # the rows in single precision, where they are large
    unit: float  # a row of `rows` is a row of the program over unit * sqrt(d)

    @classmethod
    def of(cls, program: MaxMarginForm) -> StandardForm:
        n, d = program.rows.shape
        unit = float(np.linalg.norm(program.rows)) / math.sqrt(n) or 1.0
        attacked, quadratic = bool(program.eps > 0), program.p == 2
        exponents = [] if quadratic else [program.p]
        exponents += [program.dual_q] if attacked else []
        split = any(exponent < math.inf for exponent in exponents)

        pairs, scalars = Places(), Places()
        coordinates = pairs.take(2 * d if split else 0)
        gamma = scalars.take_one()
        intercept = None if program.labels is None else scalars.take_one()
        radius = scalars.take_one() if attacked else None
        n_primal = scalars.size

        # scales of power mean 1, or of maximum 1, in a bound; the mean goes into eps
        scale, mean = np.ones(d), 1.0
        if program.scale is not None and attacked:
            mean = float(LpNorm(program.dual_q).value(program.scale)) / d ** (1 / program.dual_q)
            scale = program.scale / mean
        bounds: list[tuple[float, Vector, int | None]] = []
        bounds += [] if quadratic else [(program.p, np.ones(d), None)]
        bounds += [(program.dual_q, scale, radius)] if attacked else []
        both = np.array([[1.0], [1.0 if split else -1.0]])
        caps = tuple(
            CapBound(pairs.take(2 * d), both * s, place, split)
            for exponent, s, place in bounds
            if exponent == math.inf
        )
        margins = pairs.take(n)
        powers = tuple(
            PowerBound(pairs.take_one(), s, place, exponent, scalars.take_one())
            for exponent, s, place in bounds
            if exponent < math.inf
        )

        border = np.zeros((n, scalars.size))
        border[:, gamma] = -1
        if intercept is not None:
            border[:, intercept] = program.labels
        if radius is not None:
            border[:, radius] = -program.eps * mean * d ** (1 / program.dual_q - 0.5) / unit
        rows = np.ascontiguousarray(program.rows) / (unit * math.sqrt(d))
        weights = np.empty(n)
        for members in program.classes:
            weights[members] = 1 / (len(program.classes) * np.count_nonzero(members))
        dual = program.norm.dual
        left = program.penalty_norm.dual.residual(weights @ program.rows, program.eps, dual)
        # no margin is larger, in the units of the form
        bound = float(dual.value(left)) * d ** (1 / program.p - 0.5) / unit
        plain = all(exponent in (1, 2, math.inf) for exponent in exponents)
        return cls(
            rows=rows,
            border=border,
            signs=np.array([1.0, -1.0]) if split else np.ones(1),
            quadratic=quadratic,
            caps=caps,
            powers=powers,
            coordinates=coordinates,
            margins=margins,
            n_pairs=pairs.size,
            n_primal=n_primal,
            radius=radius,
            start_weights=weights,
            start_slack=min(1.0, max(_LEAST_START, _START_SHARE * bound)) if plain else 1.0,
            squares=np.einsum("ij,ij->i", rows, rows),
            single=rows.astype(np.float32) if rows.size >= _SINGLE_ENTRIES else None,
            unit=unit,
        )

    @property
    def split(self) -> bool:
        """Whether w is split."""
        return len(self.signs) == 2

    @property
    def linear(self) -> bool:
        """Whether it is a linear program, where primal and dual may take steps of unlike length."""
        return not self.quadratic and all(bound.exponent == 1 for bound in self.powers)

    def start(self) -> State:
        """A point inside every bound, with weights and reduced costs of the size of their means."""
        d = self.rows.shape[1]
        inside = [cap.inside for cap in self.caps] + [power.inside for power in self.powers]
        size = min(inside) if self.split else 0.0
        state = State(
            np.full((len(self.signs), d), size),
            np.zeros(self.n_primal),
            np.empty(self.n_pairs),
            np.full(self.n_pairs, self.start_slack / d),
        )
        state.multipliers[self.margins] = self.start_weights
        if self.radius is not None:
            state.scalars[self.radius] = 2 * size or 1.0
        for cap in self.caps:
            if cap.radius is not None:  # s is stationary
                eps = -float(self.border[0, cap.radius])
                state.multipliers[cap.pairs] = max(eps, _LEAST_EPS) / (2 * d)
        for bound in self.powers:
            bound.start(size, state)
            state.multipliers[bound.pair] = self.start_slack
        state.scalars[GAMMA] = -self.start_slack  # below all margins of w = 0
        if self.radius is not None:
            state.scalars[GAMMA] += self.border[0, self.radius] * state.scalars[self.radius]
        linear = self.linear_slacks(state.coordinates, state.scalars, np.zeros(len(self.rows)))
        state.slacks[: len(linear)] = linear
        return state

    def on_rows(self, rows: NDArray[np.intp], state: State) -> tuple[StandardForm, State]:
        """The form and the state of some rows alone; the others carry no weight."""
        first, n_left_out = self.margins.start, len(self.rows) - len(rows)
        margins = slice(first, first + len(rows))
        kept = np.concatenate(
            [np.arange(first), first + rows, np.arange(self.margins.stop, self.n_pairs)]
        )
        form = replace(
            self,
            rows=self.rows[rows],
            border=self.border[rows],
            powers=tuple(replace(power, pair=power.pair - n_left_out) for power in self.powers),
            margins=margins,
            n_pairs=len(kept),
            start_weights=self.start_weights[rows],
            squares=self.squares[rows],
            single=None if self.single is None else self.single[rows],
        )
        return form, state._replace(slacks=state.slacks[kept], multipliers=state.multipliers[kept])

    def linear_slacks(self, coordinates: Vector, scalars: Vector, scores: Vector) -> Vector:
        """The slacks of the linear bounds, which come before those of the power bounds."""
        parts = [coordinates.ravel()] if self.split else []
        for cap in self.caps:
            constant = 1.0 if cap.radius is None else 0.0
            parts.append(constant + cap.slacks(coordinates, scalars))
        parts.append(scores + self.border[:, : self.n_primal] @ scalars)
        return np.concatenate(parts)

    def settled(self, state: State, scores: Vector) -> State:
        """A state after a step, its linear slacks computed anew from its scores Z w.

        Where rounding is more than the slack, a share of it is left.
        """
        slacks = self.linear_slacks(state.coordinates, state.scalars, scores)
        linear = state.slacks[: len(slacks)]
        np.maximum(slacks, _LEFT_SLACK * linear, out=linear)
        return state

    def equations(self, state: State, weighted_sum: Vector) -> Equations:
        """Newton's equations at an iterate, from its weighted sum Z^T a.

        On the predictor's right side the multipliers of the linear bounds cancel.
        """
        x, _, slacks, multipliers = state
        d, m = x.shape[1], self.border.shape[1]
        weights = multipliers[self.margins]
        ratio = multipliers / slacks
        g = weights @ self.border
        g[GAMMA] += 1
        right = Unknowns(self.signs[:, None] * weighted_sum, -slacks[self.margins], g)
        equations = Equations(
            right,
            P=np.zeros_like(x),
            E=1 / ratio[self.margins],
            B=np.zeros((m, *x.shape)),
            C=np.zeros((m, m)),
        )
        if self.split:
            equations.P += ratio[self.coordinates].reshape(x.shape)
        if self.quadratic:
            right.coordinates[:] -= x / d
            equations.P += 1 / d
        for cap in self.caps:
            cap.assemble(equations, ratio)
        for power in self.powers:
            power.assemble(equations, state)
        return equations

    def right_side(self, target: Vector, state: State) -> Unknowns:
        """The right side of the step that changes slacks * multipliers by `target` more than the
        predictor does, to first order.
        """
        force = target / state.slacks
        right = Unknowns(
            np.zeros_like(state.coordinates),
            target[self.margins] / state.multipliers[self.margins],
            np.zeros(self.border.shape[1]),
        )
        if self.split:
            right.coordinates[:] = force[self.coordinates].reshape(right.coordinates.shape)
        for cap in self.caps:
            cap.aim(right, force)
        for power in self.powers:
            right.scalars[power.multiplier] = -target[power.pair] / state.multipliers[power.pair]
        return right

    def step(self, solution: Unknowns, target: Vector | float, state: State) -> State:
        """The step of an iterate, its pairs included, from the solution of the equations.

        Slacks * multipliers become `target`, to first order.
        """
        x, weights, t = solution
        _, _, slacks, multipliers = state
        primal, dual = np.empty_like(slacks), np.empty_like(slacks)
        if self.split:
            primal[self.coordinates] = x.ravel()
        for cap in self.caps:
            primal[cap.pairs] = cap.slacks(x, t)
        dual[self.margins] = weights
        for power in self.powers:
            dual[power.pair] = t[power.multiplier]
        # the primal steps of the first pairs are known, and the dual steps of the others
        first, others = slice(0, self.margins.start), slice(self.margins.start, None)
        products = target - slacks * multipliers
        dual[first] = (products[first] - multipliers[first] * primal[first]) / slacks[first]
        primal[others] = (products[others] - slacks[others] * dual[others]) / multipliers[others]
        return State(x, t[: self.n_primal], primal, dual)
