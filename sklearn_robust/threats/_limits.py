r"""Limits of the data: the perturbations that keep every feature of a sample in its range.

`clip=(low, high)` asks for :math:`low \le x + \delta \le high`. The set of a sample is then that of
the threat, cut by the box :math:`low - x \le \delta \le high - x`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._array_api import Array
from sklearn_robust._documentation import see
from sklearn_robust._rays import ray_length
from sklearn_robust.threats._available import available_if
from sklearn_robust.threats._cones import ball_rows, box_rows, stacked
from sklearn_robust.threats._decisions import decide, rows_of
from sklearn_robust.threats._interface import ConicSet

_FIRST_FEATURES = 16  # features that are sorted, where they use up an l_1 ball
_BLOCK_ROWS = 1000  # samples that are checked at a time


def check_limits(clip: Any) -> Any:
    """A pair (low, high) of numbers or arrays (d,) with low <= high, as floats; or None."""
    if clip is None:
        return None
    try:
        low, high = (np.asarray(end, dtype=np.float64) for end in clip)
        valid = low.ndim <= 1 and high.ndim <= 1 and bool((low <= high).all())
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"clip must be None or a pair (low, high) of numbers, or of arrays with one for each "
            f"feature, with low <= high, got {clip!r}."
        )
    return tuple(float(end) if end.ndim == 0 else end for end in (low, high))


def bound_limits(clip: Any, n_features: int) -> Any:
    """The limits, where they are numbers or on so many features."""
    for end in clip or ():
        if np.ndim(end) and len(end) != n_features:
            raise ValueError(
                f"clip must hold numbers, or one for each of the {n_features} features of X, got "
                f"{len(end)}."
            )
    return clip


def room(X: np.ndarray, clip: Any) -> tuple[np.ndarray, np.ndarray]:
    """low - x <= 0 and high - x >= 0, of the shape of X; 0 where a feature has no value (NaN).

    Rounded so that x plus either stays within the limits.
    """
    low, high = clip
    below, above = low - X, high - X
    known = _inside_limits(X, clip)
    if known is not None:
        below, above = np.where(known, below, 0.0), np.where(known, above, 0.0)
    beyond = X + below < low
    if beyond.any():
        below[beyond] = np.nextafter(below[beyond], 0)
    beyond = X + above > high
    if beyond.any():
        above[beyond] = np.nextafter(above[beyond], 0)
    return below, above


def _inside_limits(X: np.ndarray, clip: Any) -> np.ndarray | None:
    """Refuse samples (n, d) outside of the limits; the entries that have a value, where some have
    none.
    """
    low, high = clip
    axis = None if np.ndim(low) == np.ndim(high) == 0 else 0
    least, most = X.min(axis=axis, initial=math.inf), X.max(axis=axis, initial=-math.inf)
    if np.all(least >= low) and np.all(most <= high):
        return None
    known: np.ndarray = ~np.isnan(X)
    outside = known & ((low - X > 0) | (high - X < 0))
    if outside.any():
        value = X[outside][0]
        raise ValueError(
            f"clip must hold every sample before it is perturbed, but X holds {value:g}. Widen "
            f"clip={clip!r}, or scale X."
            f" {see('guide/budgets')}"
        )
    return known


def without_limits(threat: Any, X: Any) -> Any:
    """A ball or box without its limits, which hold all samples.

    Parameters
    ----------
    threat : LpBall or Box
        Bound, and of one class.
    X : array or sparse array of shape (n, d)

    Returns
    -------
    LpBall or Box

    Raises
    ------
    ValueError
        If a sample lies outside of the limits.
    """
    if threat.clip is None:
        return threat
    for at in range(0, X.shape[0], _BLOCK_ROWS):
        _inside_limits(dense(X[at : at + _BLOCK_ROWS]), threat.clip)
    return replace(threat, clip=None)


def dense(X: Any) -> np.ndarray:
    """A dense array of floats of samples (n, d), or of one sample (d,)."""
    return np.asarray(X.toarray() if sparse.issparse(X) else X, dtype=np.float64)


class CappedBall:
    r"""The l_q balls of n samples, each cut by its box: :math:`\|\delta / s\|_q \le \epsilon` and
    :math:`l \le \delta \le u`, with q < inf.

    With :math:`g_j = s_j |v_j|` and the room :math:`r_j` of the feature in the direction of
    :math:`v_j`, in units of :math:`s_j`, the worst point is :math:`\delta_j = s_j \min(\tau
    g_j^{1/(q-1)}, r_j)` with the level :math:`\tau` at which its norm is :math:`\epsilon`, if the
    box alone does not hold it below. For q = 1 the features of largest :math:`g_j` are filled
    first.

    Parameters
    ----------
    q : float in [1, inf)
    eps : float or array of shape (n,)
    scale : array of shape (d,), or None
    lower, upper : arrays of shape (n, d) or (d,), <= 0 and >= 0
    """

    symmetric = False
    convex = solid = True
    per_sample = by_class = False

    def __init__(self, q: float, eps: Any, scale: Any, lower: Any, upper: Any) -> None:
        self.q, self.eps = q, eps
        self.scale = scale
        self.lower, self.upper = lower, upper

    def within(self, lower: Any, upper: Any) -> CappedBall:
        """The set in a box."""
        lower, upper = np.maximum(lower, self.lower), np.minimum(upper, self.upper)
        return CappedBall(self.q, self.eps, self.scale, lower, upper)

    def support(self, v: Array) -> Array:
        """The largest <v, .>: (d,) or (..., n, d) -> (..., n)."""
        if self.q == 1:
            gain, move, eps = self._rooms(v)
            if gain.shape[-1] > _FIRST_FEATURES:
                first = np.argpartition(-gain, _FIRST_FEATURES, axis=-1)[..., :_FIRST_FEATURES]
                rooms = _taken(move, first)
                if (rooms.sum(axis=-1, keepdims=True) >= eps).all():  # they use up eps
                    gain, move = _taken(gain, first), rooms
            order = np.argsort(-gain, axis=-1)
            moved, gain = _in_order(_taken(move, order), eps), _taken(gain, order)
        else:
            gain, moved = self._filled(v)
        found: Array = np.einsum("...j,...j->...", np.broadcast_to(gain, moved.shape), moved)
        return found

    def worst(self, v: Array) -> Array:
        """A point that attains it: (d,) or (..., n, d) -> (..., n, d)."""
        _, moved = self._filled(v)
        found: Array = np.sign(v) * (moved if self.scale is None else self.scale * moved)
        return np.clip(found, self.lower, self.upper)

    def _has_cones(self) -> bool:
        return self.q in (1, 2) and np.ndim(self.lower) == 1

    @available_if(_has_cones)
    def conic(self) -> ConicSet:
        """The set of one sample in cones: a row for each limit within the reach of the ball."""
        scale = np.ones(len(self.lower)) if self.scale is None else np.asarray(self.scale)
        reach = float(self.eps) * scale
        lower = np.where(np.asarray(self.lower) > -reach, self.lower, -np.inf)
        upper = np.where(np.asarray(self.upper) < reach, self.upper, np.inf)
        return stacked([ball_rows(self.q, float(self.eps), scale), box_rows(lower, upper)])

    def _room(self, v: Array) -> Array:
        """The room of each feature in the direction of v."""
        return np.where(v > 0, self.upper, -np.asarray(self.lower))

    def _rooms(self, v: Array) -> tuple[Array, Array, Array]:
        """The gain of each feature for a unit of its scale, its room, in these, and the radii."""
        scale = np.ones(v.shape[-1]) if self.scale is None else self.scale
        gain = scale * np.abs(v)
        move = self._room(v)
        with np.errstate(over="ignore"):  # limits far away for a small scale
            move = np.where(gain > 0, move / np.where(scale > 0, scale, 1.0), 0.0)
        eps = np.broadcast_to(
            np.asarray(self.eps, dtype=np.float64)[..., None], (*move.shape[:-1], 1)
        )
        return gain, move, eps

    def _filled(self, v: Array) -> tuple[Array, Array]:
        """The gain of each feature for a unit of its scale, and how far it moves, in these."""
        gain, move, eps = self._rooms(v)
        if self.q == 1:
            order = np.argsort(-gain, axis=-1, kind="stable")
            back = np.argsort(order, axis=-1, kind="stable")
            return gain, _taken(_in_order(_taken(move, order), eps), back)
        largest = np.max(gain, axis=-1, keepdims=True)
        share = gain / np.where(largest > 0, largest, 1.0)
        rate = share ** (1 / (self.q - 1))
        unit = np.where(eps > 0, eps, 1.0)
        level = ray_length(rate**self.q, (np.minimum(move, unit) / unit) ** self.q)
        return gain, np.where(eps > 0, np.minimum(move, unit * level ** (1 / self.q) * rate), 0.0)


class LimitedBalls(CappedBall):
    """The l_q balls of n samples, each within the limits of the data.

    The rooms of the features are computed where they are asked for.

    Parameters
    ----------
    q, eps, scale
        As for `CappedBall`.
    X : ndarray of shape (n, d), or (d,) for one sample
    limits : pair (low, high)
    """

    def __init__(self, q: float, eps: Any, scale: Any, X: np.ndarray, limits: Any) -> None:
        self.q, self.eps = q, eps
        self.scale = scale
        self.X, self.limits = X, limits

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return room(self.X, self.limits)

    @property
    def lower(self) -> np.ndarray:
        """The room below, of the shape of X."""
        return self._bounds[0]

    @property
    def upper(self) -> np.ndarray:
        """The room above, of the shape of X."""
        return self._bounds[1]

    def _room(self, v: Array) -> Array:
        low, high = self.limits
        move = np.where(v > 0, high - self.X, self.X - low)
        # samples outside of the limits, or without a value
        return move if np.min(move, initial=0.0) >= 0 else super()._room(v)

    def reaches(
        self, v: np.ndarray, values: np.ndarray, which: np.ndarray | None = None
    ) -> np.ndarray:
        """Whether the support functions are at least numbers; see `threats.reaches`."""
        reached, open_ = decide(self.q, self.X, v, self.limits, self.eps, self.scale, values, which)
        if open_.any():
            eps = np.broadcast_to(self.eps, len(open_))[open_]
            rest = LimitedBalls(self.q, eps, self.scale, self.X[open_], self.limits)
            own = v if which is None else v[which]
            reached[open_] = rest.support(rows_of(own, open_)) >= values[open_]
        return reached


def _in_order(move: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """How far each feature moves, where eps is used up by one after the other."""
    caps = np.minimum(move, eps)
    before = np.cumsum(caps, axis=-1) - caps
    return np.clip(eps - before, 0.0, caps)


def _taken(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The entries of each row in an order, that of all rows or its own."""
    if order.ndim == 1:
        return values[..., order]
    places = np.broadcast_to(order, (*values.shape[:-1], order.shape[-1]))
    return np.take_along_axis(values, places, axis=-1)
