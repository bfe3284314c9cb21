r"""The margin program in the form that the interior-point method takes: coordinates, complementary
pairs and a few scalars.

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

from sklearn_robust.norms import LpNorm
from sklearn_robust.separators._max_margin_form import MaxMarginForm, Vector

# the first scalar; b and s follow where they are free, then the multipliers of power bounds
GAMMA = 0


@dataclass(frozen=True)
class Bound:
    """M_e(s x) <= t, the power mean over d features: sum (s x)^e / d <= t^e, or s_j (u_j + v_j) <=
    t where e = inf.
    """

    exponent: float
    radius: int | None  # the scalar t; None where t = 1
    pairs: slice  # its slacks and their multipliers
    multiplier: int | None  # the scalar that is the multiplier of a power bound
    scale: Vector  # (2 d,), of u and of v


class State(NamedTuple):
    """An iterate.

    Attributes
    ----------
    coordinates : ndarray of shape (2 d,), u and then v, or of shape (d,) where w is not split
    slacks, multipliers : ndarray of shape (n_pairs,)
        Positive, complementary at a solution: coordinates (where they are split) and their reduced
        costs, the sigma_i and the weights a_i, the slacks of the bounds and their multipliers.
    scalars : ndarray of shape (n_scalars,)
    """

    coordinates: Vector
    slacks: Vector
    multipliers: Vector
    scalars: Vector


@dataclass(frozen=True)
class StandardForm:
    """The parts of the program that stay fixed, and where each lies."""

    rows: Vector  # (n, d), C-contiguous
    labels: Vector | None
    border: Vector  # (n, n_scalars): the margins' derivatives by the scalars
    split: bool
    quadratic: bool  # whether the objective has - ||x||^2 / 2
    bounds: tuple[Bound, ...]
    margins: slice  # the pairs (sigma_i, a_i)
    radius: int | None  # the scalar s
    n_pairs: int
    squares: Vector  # (n,): of the rows' 2-norms
    workspace: Vector  # of the shape of rows
    unit: float  # a row of `rows` is a row of the program over unit * sqrt(d)

    @classmethod
    def of(cls, program: MaxMarginForm) -> StandardForm:
        n, d = program.rows.shape
        unit = float(np.linalg.norm(program.rows)) / math.sqrt(n) or 1.0
        attacked, quadratic = bool(program.eps > 0), program.p == 2
        split = attacked or not quadratic
        n_scalars = 1 + (program.labels is not None)
        radius = n_scalars if attacked else None
        n_scalars += attacked
        margins = slice(2 * d * split, 2 * d * split + n)
        n_pairs, bounds = margins.stop, []
        ones, eps = np.ones(d), program.eps
        scale = ones
        if program.scale is not None:  # of power mean 1, or of maximum 1
            mean = float(LpNorm(program.dual_q).value(program.scale)) / d ** (1 / program.dual_q)
            scale, eps = program.scale / mean, eps * mean
        norms: list[tuple[float, int | None, Vector]] = (
            [] if quadratic else [(program.p, None, ones)]
        )
        norms += [(program.dual_q, radius, scale)] if attacked else []
        for exponent, t, s in norms:
            capped = exponent == math.inf
            pairs = slice(n_pairs, n_pairs + (d if capped else 1))
            bounds.append(Bound(exponent, t, pairs, None if capped else n_scalars, np.tile(s, 2)))
            n_pairs += d if capped else 1
            n_scalars += not capped
        border = np.zeros((n, n_scalars))
        border[:, GAMMA] = -1
        if program.labels is not None:
            border[:, 1] = program.labels
        if radius is not None:
            border[:, radius] = -eps * d ** (1 / program.dual_q - 0.5) / unit
        rows = np.ascontiguousarray(program.rows) / (unit * math.sqrt(d))
        return cls(
            rows,
            program.labels,
            border,
            split,
            quadratic,
            tuple(bounds),
            margins,
            radius,
            n_pairs,
            (rows**2).sum(axis=1),
            np.empty_like(rows),
            unit,
        )

    @property
    def coordinates(self) -> slice:
        """The pairs of the coordinates with their reduced costs; none where w is not split."""
        return slice(0, self.margins.start)

    @property
    def linear(self) -> bool:
        """Whether it is a linear program, where primal and dual may take steps of unlike length."""
        return not self.quadratic and all(bound.exponent in (1, math.inf) for bound in self.bounds)

    def difference(self, x: Vector) -> Vector:
        """The w = u - v of coordinates: (..., 2 d) -> (..., d)."""
        d = self.rows.shape[1]
        return x[..., :d] - x[..., d:] if self.split else x

    def total(self, x: Vector) -> Vector:
        """The u + v of coordinates, or anything else of this shape, that are split: (2 d,) ->
        (d,).
        """
        d = self.rows.shape[1]
        return x[:d] + x[d:]

    def spread(self, weighted_sum: Vector) -> Vector:
        """The transpose of `difference`: (..., d) -> (..., 2 d)."""
        return (
            np.concatenate([weighted_sum, -weighted_sum], axis=-1) if self.split else weighted_sum
        )

    def coef(self, state: State) -> Vector:
        """The w that an iterate stands for."""
        return self.difference(state.coordinates) / math.sqrt(self.rows.shape[1])

    def radius_of(self, bound: Bound, state: State) -> float:
        return 1.0 if bound.radius is None else float(state.scalars[bound.radius])

    def start(self) -> State:
        """A point inside every bound, with weights and reduced costs of the size that their sums
        ask for.
        """
        n, d = self.rows.shape
        size = 0.25 if self.bounds and self.bounds[0].exponent == math.inf else 1.0
        if self.bounds and self.bounds[0].radius is None and size == 1:
            size = 0.5 * 0.5 ** (1 / self.bounds[0].exponent)
        scalars = np.zeros(self.border.shape[1])
        slacks, multipliers = np.ones(self.n_pairs), np.ones(self.n_pairs)
        slacks[self.coordinates], multipliers[self.coordinates] = size, 1 / d
        multipliers[self.margins] = 1 / n
        for bound in self.bounds:
            if bound.radius is not None:
                scalars[bound.radius] = (
                    2 * size * 2 ** (1 / bound.exponent if bound.exponent < math.inf else 1)
                )
            t = 1.0 if bound.radius is None else scalars[bound.radius]
            slacks[bound.pairs] = 0.5 * t
            if bound.exponent == math.inf:
                multipliers[bound.pairs] = 1 / d
            else:
                scalars[bound.multiplier] = 1.0
        return State(
            np.full(2 * d if self.split else d, size if self.split else 0.0),
            slacks,
            multipliers,
            scalars,
        )
