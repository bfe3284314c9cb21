r"""Norms with a scale for every feature: the ball of an adversary who may move some features
further than others.

:math:`\|x / s\|_q` bounds the perturbation and :math:`\|s w\|_{q^*}` measures its damage; each is
the other's dual. A feature of scale 0 cannot be moved: the first is infinite where :math:`x_j \ne 0
= s_j`, the second is a seminorm that does not see it. Both have the methods of `norms.LpNorm` that
threats use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._array_api import Array, at_least_tiny, namespace
from sklearn_robust.norms import (
    LpNorm,
    cap_level,
    column,
    enough_left,
    power_split,
    shave_level,
    unit_rows,
)

_STEEPEST = 1e100  # rate of a feature beside the others from which it is never capped


@dataclass(frozen=True, eq=False)
class ScaledNorm:
    r"""The norm :math:`\|x / s\|_q`, with :math:`0 / 0 = 0`: infinite where a feature of scale 0 is
    not zero.

    Parameters
    ----------
    p : float
        Exponent, in [1, inf]; called q in the formulas here, where it bounds a perturbation.
    scale : array of shape (d,), >= 0

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.scaled_norms import ScaledNorm
    >>> norm = ScaledNorm(np.inf, np.array([1.0, 4.0, 0.0]))
    >>> norm.value(np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]))
    array([ 1., inf])
    >>> norm.dual.value(np.array([1.0, 1.0, 1.0]))
    np.float64(5.0)
    """

    p: float
    scale: Array

    @cached_property
    def plain(self) -> LpNorm:
        """The norm of x / scale."""
        return LpNorm(self.p)

    @cached_property
    def dual(self) -> WeightedNorm:
        """The norm ||scale w|| with the dual exponent."""
        return WeightedNorm(self.plain.dual.p, self.scale)

    def at(self, columns: Any) -> ScaledNorm:
        """The norm of vectors that have only these features."""
        return ScaledNorm(self.p, self.scale[columns])

    def value(self, x: Array) -> Array:
        """The norm of x along its last axis: (..., d) -> (...)."""
        xp = namespace(x)
        movable, s = self._movable(xp)
        size = self.plain.value(xp.where(movable, x / s, xp.zeros_like(x)))
        return xp.where(xp.any(~movable & (x != 0), axis=-1), xp.full_like(size, math.inf), size)

    def steepest_direction(self, g: Array) -> Array:
        """A point of the unit ball at which <u, g> is largest, scale u with u that of the plain
        norm at scale g.

        Parameters
        ----------
        g : array of shape (..., d)

        Returns
        -------
        array of shape (..., d)
        """
        return self.scale * self.plain.steepest_direction(self.scale * g)

    def project(self, x: Array, radius: Array | float = 1.0) -> Array:
        """The Euclidean projection of x on the ball of the given radius: a number, or an array of
        shape (...).
        """
        return x - self.residual(x, radius, LpNorm(2))

    def residual(self, g: Array, radius: Array | float, norm: LpNorm) -> Array:
        r"""g minus the nearest point of the ball, :math:`g - \delta` with
        :math:`\delta \in \arg\min_{\|\delta / s\|_q \le \text{radius}} \|g -
        \delta\|_{\text{norm}}`.

        With a = \|g\| the residual is, coordinate by coordinate (q the exponent of this ball, r
        that of `norm`),

        ================  ========================================================================
        q = inf           (a - radius s)_+
        r = inf           min(a, t) at \|\|(a - t)_+ / s\|\|_q = radius, t >= a_j where s_j = 0
        q = 1, r > 1      min(a, t s^(-1/(r-1))) with \|\|(a - that) / s\|\|_1 = radius
        q = r = 1         a - b, b bought in the order of falling s at the price 1 / s
        r = 1             a - min(a, t s^(q*)) with \|\|min(a, t s^(q*)) / s\|\|_q = radius
        otherwise         a - b with (a - b)^(r-1) = mu b^(q-1) / s^q, \|\|b / s\|\|_q = radius
        ================  ========================================================================

        and a where s = 0. They are the stationarity conditions of a convex problem that is
        separable but for one multiplier.

        Parameters
        ----------
        g : array of shape (..., d)
        radius : float or array of shape (...), >= 0
        norm : LpNorm
            The norm that measures the distance.

        Returns
        -------
        array of shape (..., d)
        """
        xp = namespace(g)
        a, radius = xp.abs(g), column(radius, g)
        q, r = self.p, norm.p
        nothing = xp.zeros_like(g)
        movable, s = self._movable(xp)
        if not bool(xp.any(movable)):
            return g
        ratio = xp.where(movable, a / s, nothing)
        if q == math.inf:
            left = xp.maximum(a - radius * s, nothing)
        elif r == math.inf or (q == 1 and r > 1):
            rate = _cap_rate(xp, s, r)
            never = xp.full_like(a, -math.inf)
            level = shave_level(xp.where(movable, ratio, never), radius, q, rate / s)
            fixed = nothing[..., :1]
            if r == math.inf:
                fixed = xp.max(xp.where(movable, nothing, a), axis=-1, keepdims=True)
            left = xp.minimum(a, xp.maximum(level, fixed) * rate)
        elif q == 1:
            left = a - s * _greedy(xp, ratio, s, radius)
        elif r == 1:
            rate = (s / xp.max(s)) ** (1 / (q - 1))
            rate = at_least_tiny(xp.maximum(rate, xp.full_like(rate, 1 / _STEEPEST)))
            left = a - s * xp.minimum(ratio, rate * cap_level(ratio, radius, q, rate))
        else:
            left = power_split(xp.where(movable, a, nothing), radius, q, r, s)
        return xp.sign(g) * enough_left(self, a, xp.where(movable, left, a), radius)

    def face(self, x: np.ndarray, radius: float, near: float) -> tuple[Any, np.ndarray]:
        """Linear functions of one x (d,) that hold its norm at the radius, as those of
        `LpNorm.face` for x / scale, and zero for the features that cannot be moved.
        """
        movable, fixed = np.flatnonzero(self.scale > 0), np.flatnonzero(self.scale == 0)
        ratios = unit_rows(movable, 1 / self.scale[movable], len(x))
        rows, change = self.plain.face(ratios @ x, radius, near)
        zeroed = unit_rows(fixed, np.ones(len(fixed)), len(x))
        rows = sparse.vstack([sparse.csr_array(rows) @ ratios, zeroed], format="csr")
        return rows, np.append(change, -x[fixed])

    def _movable(self, xp: Any) -> tuple[Array, Array]:
        """Which features can be moved, and the scale with 1 for the others."""
        movable = self.scale > 0
        return movable, xp.where(movable, self.scale, xp.ones_like(self.scale))


@dataclass(frozen=True, eq=False)
class WeightedNorm:
    r"""The seminorm :math:`\|s w\|_p`; a norm where no weight s is 0. The dual of `ScaledNorm`.

    Parameters
    ----------
    p : float
        Exponent, in [1, inf].
    scale : array of shape (d,), >= 0

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.scaled_norms import WeightedNorm
    >>> WeightedNorm(2, np.array([1.0, 2.0, 0.0])).value(np.array([3.0, 2.0, 9.0]))
    np.float64(5.0)
    """

    p: float
    scale: Array

    @cached_property
    def plain(self) -> LpNorm:
        """The norm of scale w."""
        return LpNorm(self.p)

    @cached_property
    def dual(self) -> ScaledNorm:
        """The norm ||x / scale|| with the dual exponent."""
        return ScaledNorm(self.plain.dual.p, self.scale)

    def at(self, columns: Any) -> WeightedNorm:
        """The norm of vectors that have only these features."""
        return WeightedNorm(self.p, self.scale[columns])

    def value(self, w: Array) -> Array:
        """The norm of w along its last axis: (..., d) -> (...)."""
        return self.plain.value(self.scale * w)

    def steepest_direction(self, g: Array) -> Array:
        """A subgradient at g of the dual norm; zero for features of scale 0, which no bounded point
        can move.

        Parameters
        ----------
        g : array of shape (..., d)

        Returns
        -------
        array of shape (..., d)
        """
        xp = namespace(g)
        movable, s = self.dual._movable(xp)
        return xp.where(
            movable,
            self.plain.steepest_direction(xp.where(movable, g / s, xp.zeros_like(g))) / s,
            0 * g,
        )

    def project(self, w: Array, radius: Array | float = 1.0) -> Array:
        """The Euclidean projection of w on the ball of the given radius, a number or (...).

        The ball bounds the features of positive scale as that of `ScaledNorm` at 1 / scale does; a
        feature of scale 0 is free.
        """
        xp = namespace(w)
        movable, s = self.dual._movable(xp)
        bounded = xp.where(movable, w, xp.zeros_like(w))
        return w - ScaledNorm(self.p, 1 / s).residual(bounded, radius, LpNorm(2))

    def prox(self, w: Array, scale: Array | float = 1.0) -> Array:
        r"""The point :math:`\arg\min_u \tfrac12 \|u - w\|_2^2 + \text{scale} \|s u\|_p`; scale is a
        number or (...).
        """
        return self.dual.residual(w, scale, LpNorm(2))

    def min_norm_subgradient(self, w: Array, g: Array, scale: Array | float, norm: LpNorm) -> Array:
        r"""The element of :math:`g + \text{scale}\,\partial\|s w\|_p` that is least in `norm`, as
        that of `LpNorm`.

        Parameters
        ----------
        w, g : array of shape (..., d)
            The point, and the gradient of the smooth part there.
        scale : float or array of shape (...), >= 0
        norm : LpNorm

        Returns
        -------
        array of shape (..., d)
        """
        xp = namespace(w, g)
        scale, nothing = column(scale, g), xp.zeros_like(g)
        if self.p == 1:
            soft = xp.sign(g) * xp.maximum(xp.abs(g) - scale * self.scale, nothing)
            return xp.where(w == 0, soft, g + scale * self.scale * xp.sign(w))
        sizes = xp.abs(self.scale * w)
        size = xp.max(sizes, axis=-1, keepdims=True)
        if self.p == math.inf:
            tied = (sizes >= size * (1 - 16 * xp.finfo(w.dtype).eps)) & (self.scale > 0)
            growth = xp.where(tied, -g * xp.sign(w), nothing)
            smooth = xp.where(
                tied,
                -xp.sign(w) * _levelled(xp, growth, tied, self.dual._movable(xp)[1], scale, norm.p),
                g,
            )
        else:
            smooth = g + scale * self.dual.steepest_direction(w)
        if bool(xp.all(size > 0)):
            return smooth
        return xp.where(size > 0, smooth, self.dual.residual(g, scale[..., 0], norm))


def _cap_rate(xp: Any, s: Array, r: float) -> Array:
    """s^(-1/(r-1)) of positive scales, up to a factor; 1 for r = inf."""
    if r == math.inf:
        return xp.ones_like(s)
    steepness = -xp.log(s / xp.max(s)) / (r - 1)
    return xp.exp(xp.minimum(steepness, xp.full_like(steepness, math.log(_STEEPEST))))


def _greedy(xp: Any, room: Array, s: Array, budget: Array) -> Array:
    """Spend the budget (..., 1) on the coordinates of largest s first, each up to its room (...,
    d).
    """
    order = xp.broadcast_to(xp.argsort(-s), room.shape)
    room = xp.take_along_axis(room, order, axis=-1)
    before = xp.cumulative_sum(room, axis=-1) - room
    spent = xp.minimum(room, xp.maximum(budget - before, xp.zeros_like(room)))
    return xp.take_along_axis(spent, xp.argsort(order, axis=-1), axis=-1)


def _levelled(xp: Any, growth: Array, tied: Array, s: Array, budget: Array, r: float) -> Array:
    """The least v in the r-norm with v = growth - s spent on the tied entries, spent >= 0 of sum
    budget (..., 1).
    """
    if r > 1:
        rate = _cap_rate(xp, s, r)
        level = shave_level(
            xp.where(tied, growth / s, xp.full_like(growth, -math.inf)), budget, 1.0, rate / s
        )
        return xp.minimum(growth, level * rate)
    nothing = xp.zeros_like(growth)
    spent = _greedy(xp, xp.where(tied, xp.maximum(growth, nothing) / s, nothing), s, budget)
    # the rest of the budget, when no entry is left to shrink, costs least where the scale is least
    left = budget - xp.sum(spent, axis=-1, keepdims=True)
    cheapest = xp.argmin(xp.where(tied, s, xp.full_like(growth, math.inf)), axis=-1)[..., None]
    places = xp.arange(growth.shape[-1], device=growth.device) == cheapest
    return growth - s * (spent + xp.where(places, left, nothing))
