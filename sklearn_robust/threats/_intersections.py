"""Intersections of sets: in closed form, or by programs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._array_api import Array
from sklearn_robust.threats._available import available_if
from sklearn_robust.threats._ball import Balls, LpBall
from sklearn_robust.threats._boxes import Box
from sklearn_robust.threats._combinations import Composite, Union, alternatives
from sklearn_robust.threats._cones import intersected
from sklearn_robust.threats._interface import ConicSet
from sklearn_robust.threats._members import (
    EachSample,
    Scaled,
    at,
    is_convex,
    is_solid,
    support,
)
from sklearn_robust.threats._mixin import ThreatMixin
from sklearn_robust.threats._programs import Program


class Intersection(Composite):
    r"""The threat :math:`U_1 \cap U_2 \cap \dots`: what all of the sets allow; `a & b`.

    .. math:: \sigma(v) = \min_{t_1 + t_2 + \dots = v} \sigma_1(t_1) + \sigma_2(t_2) + \dots

    for convex sets. A box, or an l_inf ball, with another box, an l_q ball, a budget or categories
    has a closed form. Other worst points are solutions of programs over cones, linear where the
    sets are polyhedral; counted changes are integers in them, and a sample whose set is its own has
    a program of its own.

    Parameters
    ----------
    threats : sequence of Threat
        Sets with `conic`, or a union, sum or intersection of such.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import Box, FeatureBudget, LpBall
    >>> both = LpBall(np.inf, 0.1) & LpBall(1, 0.15)
    >>> both.bind(3).support(np.array([3.0, 2.0, 1.0])).round(6)
    np.float64(0.4)
    >>> grows = FeatureBudget(2, eps=1.0) & Box(0, [1.0, 1.0, 0.5])  # at most two, and only up
    >>> grows.support(np.array([-3.0, 2.0, 1.0]))
    np.float64(2.5)
    """

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold what was given, not what was computed from it."""
        return {name: value for name, value in vars(self).items() if name != "simplified"}

    @cached_property
    def simplified(self) -> Any:
        """The same set in closed form, or as programs; a union where there are unions in it."""
        if self.per_sample:
            raise ValueError(
                "An intersection with limits, flips or categories is another set for each sample, "
                "and has no worst point of its own: use at(X)."
            )
        sets = []
        for parts in itertools.product(*map(alternatives, self.threats)):
            whole = _merged(parts)
            sets.append(whole[0] if len(whole) == 1 else ProgramSet(whole))
        return sets[0] if len(sets) == 1 else Union(sets)

    def at(self, X: Any, radius: Any = 1.0) -> Any:
        """The intersections of n samples: closed forms, or one for each sample."""
        if np.ndim(X) == 1:
            return Intersection([at(part, X, radius) for part in self.threats]).simplified
        choices = list(itertools.product(*map(alternatives, self.threats)))
        if len(choices) > 1:
            return Union([Intersection(parts).at(X, radius) for parts in choices])
        whole = _merged([at(part, X, radius) for part in self.threats])
        if len(whole) == 1:
            return whole[0]
        if not self.per_sample:
            return Scaled(self, radius)
        rows = X.tocsr() if sparse.issparse(X) else X
        radii = np.broadcast_to(radius, rows.shape[0])
        return EachSample([self.at(_row(rows, i), radius) for i, radius in enumerate(radii)])

    def support(self, v: Array) -> Array:
        """The largest <v, .>: (..., d) -> (...)."""
        return support(self.simplified, v)

    def worst(self, v: Array) -> Array:
        """A point of the set that attains it, infinite along a ray: (..., d) -> (..., d)."""
        found: Array = self.simplified.worst(v)
        return found

    def _has_cones(self) -> bool:
        return not self.per_sample and hasattr(self.simplified, "conic")

    @available_if(_has_cones)
    def conic(self) -> ConicSet:
        """The set in cones: the rows of all, where they are convex."""
        found: ConicSet = self.simplified.conic()
        return found

    def program(self) -> tuple[ConicSet, np.ndarray]:
        """The set in cones and integers."""
        return intersected(_merged(self.threats))

    def alternatives(self) -> list[Any]:
        """Intersections without unions, of which the set is the union."""
        choices = itertools.product(*map(alternatives, self.threats))
        return [Intersection(parts) for parts in choices]


class ProgramSet(ThreatMixin):
    """An intersection without a closed form: each worst point is the solution of a program."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.symmetric = all(part.symmetric for part in parts)
        self.convex = all(is_convex(part) for part in parts)
        self.solid = all(is_solid(part) for part in parts)

    def program(self) -> tuple[ConicSet, np.ndarray]:
        """The set in cones and integers."""
        return self._program

    @cached_property
    def _program(self) -> tuple[ConicSet, np.ndarray]:
        return intersected(self.parts)

    @cached_property
    def _worst_points(self) -> Program:
        return Program(*self._program)

    def _is_convex(self) -> bool:
        return bool(self.convex) and all(hasattr(part, "conic") for part in self.parts)

    @available_if(_is_convex)
    def conic(self) -> ConicSet:
        """The set in cones."""
        return self.program()[0]

    def support(self, v: Array) -> Array:
        """The largest <v, .>: (..., d) -> (...)."""
        return self._solved(v)[1]

    def worst(self, v: Array) -> Array:
        """A point of the set that attains it, infinite along a ray: (..., d) -> (..., d)."""
        return self._solved(v)[0]

    def _solved(self, v: Array) -> tuple[Array, Array]:
        bounded = any(_is_bounded(part, v.shape[-1]) for part in self.parts)
        rows = v.reshape(-1, v.shape[-1])
        found = [self._worst_points.worst(row, bounded=bounded) for row in rows]
        points = np.array([point for point, _ in found]).reshape(v.shape)
        return points, np.array([value for _, value in found]).reshape(v.shape[:-1])


def _is_bounded(threat: Any, d: int) -> bool:
    """Whether the set has no ray: one would show in a direction that is orthogonal to none, or in
    the opposite one.
    """
    generic = np.cos(np.arange(1.0, d + 1))
    return bool(np.isfinite([support(threat, generic), support(threat, -generic)]).all())


def _merged(parts: Sequence[Any]) -> list[Any]:
    """The parts, with boxes taken into one, and into another set that has a closed form with it."""
    parts = [_as_box(part) for part in parts]
    boxes = [part for part in parts if isinstance(part, Box)]
    others = [part for part in parts if not isinstance(part, Box)]
    if not boxes:
        return others
    box = boxes[0]
    for other in boxes[1:]:
        box = box.within(other.lower, other.upper)
    if len(others) == 1 and hasattr(others[0], "within"):
        return [others[0].within(box.lower, box.upper)]
    return [*others, box]


def _as_box(part: Any) -> Any:
    """An l_inf ball on so many features, or one of each sample, as a box."""
    ball = part.threat if isinstance(part, Balls) else part
    is_box = isinstance(ball, LpBall) and ball.q == math.inf and ball.scale is not None
    return part.within(-math.inf, math.inf) if is_box else part


def _row(X: Any, i: int) -> np.ndarray:
    row = X[[i]]
    return np.asarray(row.toarray() if sparse.issparse(row) else row)[0]
