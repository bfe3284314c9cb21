"""The box: bounds of each feature, which may differ below and above, and may be infinite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sklearn_robust._array_api import Array, like, namespace
from sklearn_robust.threats._available import available_if
from sklearn_robust.threats._cones import box_rows
from sklearn_robust.threats._decisions import decide, rows_of
from sklearn_robust.threats._interface import ConicSet
from sklearn_robust.threats._limits import bound_limits, check_limits, dense, room
from sklearn_robust.threats._members import call_of, check_numbers, per_feature, times
from sklearn_robust.threats._mixin import ThreatMixin

_BLOCK_ENTRIES = 2**15  # entries of bounds that are computed at a time, in the cache


@dataclass(frozen=True, eq=False, repr=False)
class Box(ThreatMixin):
    r"""The threat :math:`\{\delta : l_j \le \delta_j \le u_j\}`: what each feature can lose and
    gain.

    .. math:: \sigma(v) = \sum_j u_j \max(v_j, 0) + l_j \min(v_j, 0).

    An infinite bound is a feature that can move without limit in that direction: a robust
    classifier has :math:`w_j \ge 0` or :math:`w_j \le 0` there. With both bounds zero a feature is
    out of reach.

    Parameters
    ----------
    lower, upper : float, array-like of shape (d,) or dict {feature name: float}
        :math:`l_j \le 0 \le u_j`, in the units of the features; -inf and inf are allowed. Features
        that a dict does not name have 0: they do not move in that direction.
    clip : pair (low, high) of numbers or arrays of shape (d,), optional
        Limits of the data: x + delta stays inside. The set is then one for each sample, and
        `certified_radius` counts the factor on the bounds, not on the limits.

    Notes
    -----
    The set is the interval uncertainty of [1]_. With upper = inf and lower = 0 for one class alone,
    ``Box(0, inf).only("malware")``, it is the adversary of the monotone classifiers of [2]_.

    References
    ----------
    .. [1] A. Ben-Tal, L. El Ghaoui, A. Nemirovski. Robust Optimization. Princeton University Press,
       2009.
    .. [2] I. Incer, M. Theodorides, S. Afroz, D. Wagner. Adversarially robust malware detection
       using monotonic classification. IWSPA 2018.

    Examples
    --------
    The first feature can only grow, the second moves by at most 0.1, the third not at all.

    >>> import numpy as np
    >>> from sklearn_robust.threats import Box
    >>> box = Box(lower=[0.0, -0.1, 0.0], upper=[np.inf, 0.1, 0.0])
    >>> box.support(np.array([[-2.0, 3.0, 1.0], [2.0, 3.0, 1.0]])).round(3)
    array([0.3, inf])

    A pixel of 0.95 has room for 0.05 only:

    >>> Box(-0.2, 0.2, clip=(0, 1)).at(np.array([[0.95, 0.5]])).support(np.array([1.0, 1.0]))
    array([0.25])
    """

    lower: Any
    upper: Any
    clip: Any = None

    convex = solid = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "lower", check_numbers(self.lower, "lower", -1))
        object.__setattr__(self, "upper", check_numbers(self.upper, "upper", 1))
        object.__setattr__(self, "clip", check_limits(self.clip))

    def __repr__(self) -> str:
        return call_of(self, lower=self.lower, upper=self.upper, clip=self.clip)

    @classmethod
    def _of(cls, lower: Any, upper: Any) -> Box:
        """The box of bounds that are known to be valid, without limits."""
        box = object.__new__(cls)
        for name, value in (("lower", lower), ("upper", upper), ("clip", None)):
            object.__setattr__(box, name, value)
        return box

    @property
    def symmetric(self) -> bool:
        if self.clip is not None or isinstance(self.lower, dict) or isinstance(self.upper, dict):
            same: Any = self.clip is None and self.lower == _opposite(self.upper)
        else:
            same = np.all(self.lower == -self.upper)
        return bool(same)

    @property
    def per_sample(self) -> bool:
        return self.clip is not None

    @property
    def columns(self) -> np.ndarray:
        if self.clip is None:
            return super().columns
        return np.flatnonzero((np.asarray(self.lower) < 0) | (np.asarray(self.upper) > 0))

    def bind(self, n_features: int, names: Any = None, classes: Any = None) -> Box:
        """The box with an array of n_features bounds on either side."""
        lower, upper = (
            per_feature(getattr(self, name), n_features, names, name) for name in ("lower", "upper")
        )
        return replace(self, lower=lower, upper=upper, clip=bound_limits(self.clip, n_features))

    def at(self, X: Any, radius: Any = 1.0) -> Box:
        """The boxes of n samples, with bounds of shape (n, d): those of the box times the radius,
        cut by the limits.
        """
        radius = np.asarray(radius)[..., None] if np.ndim(radius) else radius
        lower, upper = times(radius, self.lower), times(radius, self.upper)
        if self.clip is None:
            return Box._of(lower, upper)
        return LimitedBoxes(lower, upper, dense(X), self.clip)

    def within(self, lower: Any, upper: Any) -> Box:
        """The part of the box in another one."""
        return Box._of(np.maximum(self.lower, lower), np.minimum(self.upper, upper))

    def mapped(self, function: Callable[[Array], Array]) -> Box:
        """The box with the function of its bounds."""
        bounds = (function(end) if np.ndim(end) else end for end in (self.lower, self.upper))
        return self if self.clip is not None else Box._of(*bounds)

    def worst(self, v: Array) -> Array:
        """The corner that attains the worst case; infinite where it has no bound, and 0 where v is:
        (..., d) -> (..., d).
        """
        xp = namespace(v)
        lower, upper = self._as(v)
        return xp.where(v > 0, upper, xp.where(v < 0, lower, 0.0 * v))

    def support(self, v: Array) -> Array:
        """The largest <v, .>, inf where v points along an infinite bound: (..., d) -> (...)."""
        return namespace(v).sum(v * self.worst(v), axis=-1)

    def supports(self, V: np.ndarray) -> np.ndarray:
        """The support functions of the boxes of n samples in k directions: (k, d) -> (n, k)."""
        if np.ndim(self.lower) < 2:
            return np.stack([self.support(v) for v in V], axis=-1)
        with np.errstate(invalid="ignore"):
            found = self.upper @ np.maximum(V, 0).T + self.lower @ np.minimum(V, 0).T
        if not np.isfinite(found).all():  # bounds that are infinite
            found = np.stack([self.support(v) for v in V], axis=-1)
        return found

    def reach(self) -> float:
        """The largest entry in size of a point of the box."""
        return max(float(np.max(np.abs(end))) for end in (self.lower, self.upper))

    def project(self, x: Array, radius: Array | float = 1.0) -> Array:
        """The point of radius times the box that is nearest to x; radius is a number or (...)."""
        xp = namespace(x)
        lower, upper = self._times(x, radius)
        return xp.minimum(xp.maximum(x, lower), upper)

    def min_norm_subgradient(self, w: Array, g: Array, radius: Array | float, norm: Any) -> Array:
        r"""The element of :math:`g + \text{radius}\,\partial \sigma(w)` that is least, entry by
        entry, and so in every norm.
        """
        xp = namespace(w)
        lower, upper = self._times(w, radius)
        at_zero = g + xp.minimum(xp.maximum(-g, lower), upper)
        return xp.where(w > 0, g + upper, xp.where(w < 0, g + lower, at_zero))

    def stop_at_kinks(self, w: Array, moved: Array) -> Array:
        """`moved`, with entries that would change their sign stopped at zero."""
        xp = namespace(w)
        lower, upper = self._as(w)
        return xp.where((w * moved < 0) & (lower < upper), xp.zeros_like(moved), moved)

    def _as(self, v: Array) -> tuple[Array, Array]:
        """The bounds as arrays such as v."""
        if self.clip is not None:
            raise ValueError(
                "A box with limits is another set for each sample, and has no worst point of its "
                "own: use at(X)."
            )
        lower, upper = (
            end
            if hasattr(end, "device") and not isinstance(end, np.ndarray)
            else like(v, np.asarray(end))
            for end in (self.lower, self.upper)
        )
        return lower, upper

    def _times(self, x: Array, radius: Array | float) -> tuple[Array, Array]:
        factor: Any = radius
        if getattr(radius, "ndim", 0):
            factor = factor[..., None]
        lower, upper = self._as(x)
        return times(factor, lower), times(factor, upper)

    def _is_one_set(self) -> bool:
        return self.clip is None and np.ndim(self.lower) == np.ndim(self.upper) == 1

    @available_if(_is_one_set)
    def conic(self) -> ConicSet:
        """The box in cones: a row for each finite bound."""
        return box_rows(np.asarray(self.lower), np.asarray(self.upper))


class LimitedBoxes(Box):
    r"""The boxes of samples, cut by the limits of the data: :math:`\max(l, \text{low} - x) \le
    \delta \le \min(u, \text{high} - x)`.

    The bounds are computed where they are asked for. Scores ask for none: they need the support
    functions alone, and are exact but for rounding with rooms that are not yet rounded inwards.

    Parameters
    ----------
    reach_below, reach_above : float, or arrays of shape (d,) or (n, d)
        l <= 0 and u >= 0.
    X : ndarray of shape (n, d), or (d,) for one sample
    limits : pair (low, high)
    """

    reach_below: Any
    reach_above: Any
    X: np.ndarray
    limits: Any

    def __init__(self, reach_below: Any, reach_above: Any, X: np.ndarray, limits: Any) -> None:
        given = {"reach_below": reach_below, "reach_above": reach_above, "X": X, "limits": limits}
        vars(self).update(given, clip=None)

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        X = np.atleast_2d(self.X)
        lower, upper = np.empty(X.shape), np.empty(X.shape)
        size = max(1, _BLOCK_ENTRIES // X.shape[1])
        for first in range(0, len(X), size):
            rows = slice(first, first + size)
            below, above = room(X[rows], self.limits)
            np.maximum(_rows(self.reach_below, rows), below, out=lower[rows])
            np.minimum(_rows(self.reach_above, rows), above, out=upper[rows])
        return lower.reshape(self.X.shape), upper.reshape(self.X.shape)

    @property
    def lower(self) -> np.ndarray:
        """The bounds below, of the shape of X."""
        return self._bounds[0]

    @property
    def upper(self) -> np.ndarray:
        """The bounds above, of the shape of X."""
        return self._bounds[1]

    def supports(self, V: np.ndarray) -> np.ndarray:
        r"""The support functions in k directions: (k, d) -> (n, k).

        .. math:: \sum_j v_j^+ \min(u_j, \text{high}_j - x_j) + v_j^- \max(l_j, \text{low}_j - x_j).
        """
        low, high = self.limits
        with np.errstate(invalid="ignore"):  # an infinite bound times a weight of 0
            move = np.subtract(high, self.X)
            np.minimum(move, self.reach_above, out=move)
            inside = np.min(move, initial=0.0) >= 0
            total = move @ np.maximum(V, 0).T
            np.subtract(low, self.X, out=move)
            np.maximum(move, self.reach_below, out=move)
            inside &= np.max(move, initial=0.0) <= 0
            total += move @ np.minimum(V, 0).T
        # samples outside of the limits, without a value, or without a bound
        known = inside and np.isfinite(total).all()
        return total if known else super().supports(V)

    def reaches(
        self, v: np.ndarray, values: np.ndarray, which: np.ndarray | None = None
    ) -> np.ndarray:
        """Whether the support functions are at least numbers; see `threats.reaches`."""
        below, above = np.asarray(self.reach_below), np.asarray(self.reach_above)
        if which is not None and max(below.ndim, above.ndim) > 1:  # a reach of each sample
            v, which = v[which], None
        reach = np.where(v > 0, above, -below)
        reached, open_ = decide(np.inf, self.X, v, self.limits, reach, None, values, which)
        if open_.any():
            own = v if which is None else v[which]
            below, above = rows_of(below, open_), rows_of(above, open_)
            rest = LimitedBoxes(below, above, self.X[open_], self.limits)
            reached[open_] = rest.support(rows_of(own, open_)) >= values[open_]
        return reached


def _rows(bounds: Any, rows: slice) -> Any:
    """The bounds of some samples; those of all, where they are one."""
    return bounds[rows] if np.ndim(bounds) == 2 else bounds


def _opposite(value: Any) -> Any:
    return {name: -bound for name, bound in value.items()} if isinstance(value, dict) else -value
