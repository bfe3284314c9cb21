r"""Whether the worst case of a sample within limits reaches a number: decided by bounds.

Robust accuracy asks no more than this. In the direction v a feature gains :math:`|v_j|` for a unit,
up to its room :math:`r_j = |\text{bound}_j - x_j|`, where bound is the limit that v points to.
Bounds on the gain are cheaper than the gain itself, most of all with one v for many samples.

What the bounds leave open, and numbers that are nearer than rounding, are for the gain itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_SURE = 1e-12  # share of what is compared that rounding may take
_SMALLEST = 1e-140  # slope relative to the largest, whose square is a number to rely on
_FIRST = 8  # features that are filled at first; twice as many each time after
_MOST = 24  # features that are filled where each sample has a v of its own
_MAX_LEVELS = 8  # levels that are tried

Decision = tuple[np.ndarray, np.ndarray]


def decide(
    q: float, X: np.ndarray, v: np.ndarray, limits: Any, size: Any, scale: Any, values: np.ndarray
) -> Decision:
    """Whether the worst cases of l_q balls within limits reach numbers.

    Parameters
    ----------
    q : float
    X : array of shape (n, d)
        Within the limits.
    v : array of shape (d,) or (n, d)
    limits : pair (low, high)
    size : float or array
        The radii, (n,); for q = inf the reach of each feature, that broadcasts to (n, d).
    scale : array of shape (d,), or None
        Not for q = inf.
    values : array of shape (n,)

    Returns
    -------
    reached, open : bool arrays of shape (n,)
        Samples that reach their number, and those that the bounds do not decide.
    """
    nothing = np.zeros(len(X), dtype=bool)
    if q not in (1, 2, math.inf):
        return nothing, ~nothing
    v = v if scale is None else np.where(np.asarray(scale) > 0, v, 0.0)
    bound = np.where(v > 0, limits[1], np.where(v < 0, limits[0], 0.0))
    # entries without a value, limits without end and what overflows are left open
    with np.errstate(all="ignore"):
        largest = np.max(np.abs(v), axis=-1, keepdims=True, initial=0.0)
        v = v / np.where(largest > 0, largest, 1.0)
        values = values / np.where(largest > 0, largest, 1.0)[..., 0]
        if q == math.inf:
            return _in_box(X, v, bound, np.asarray(size), values)
        unit = 1.0 if scale is None else np.max(scale, initial=0.0) or 1.0
        scale = np.ones(X.shape[1]) if scale is None else np.where(scale > 0, scale / unit, 1.0)
        if np.any((v != 0) & (scale * np.abs(v) < _SMALLEST)):
            return nothing, ~nothing
        eps = np.broadcast_to(np.asarray(size, dtype=np.float64) * unit, len(X))
        in_ball = _in_l1_ball if q == 1 else _in_l2_ball
        reached, left = in_ball(X, v, bound, scale, eps, values)
    trivial = (eps == 0) | (values <= 0)
    return np.where(trivial, values <= 0, reached), left & ~trivial


def _in_box(
    X: np.ndarray, v: np.ndarray, bound: np.ndarray, reach: np.ndarray, values: np.ndarray
) -> Decision:
    r"""Whether :math:`\sum_j |v_j| \min(r_j, \text{reach}_j)` is at least a number.

    As :math:`\min(\text{high} - x, u) = \text{high} - \max(x, \text{high} - u)`, it is a linear
    function of the sample held between bounds.
    """
    low = np.where(v > 0, bound - reach, -math.inf)
    high = np.where(v > 0, math.inf, bound + reach)
    gain = _dot(bound, v) - _dot(np.clip(X, low, high), v)
    return _compared(gain, gain, values, _dot(np.abs(bound), np.abs(v)) + np.abs(gain))


def _in_l1_ball(
    X: np.ndarray,
    v: np.ndarray,
    bound: np.ndarray,
    scale: np.ndarray,
    eps: np.ndarray,
    values: np.ndarray,
) -> Decision:
    r"""The same of the ball :math:`\sum_j |\delta_j| / s_j \le \epsilon`.

    The features of largest :math:`s_j |v_j|` are filled first, some at a time: what is left of the
    ball gains no more than the slope of the last one. Where each sample has a v of its own only
    some features are sorted, and filled.
    """
    slopes, d = scale * np.abs(v), X.shape[1]
    if v.ndim == 1:
        order = np.argsort(-slopes, kind="stable")[None]
    else:
        order = np.argpartition(-slopes, min(_MOST, d) - 1, axis=1)[:, :_MOST]
        place = np.argsort(-np.take_along_axis(slopes, order, axis=1), axis=1)
        order = np.take_along_axis(order, place, axis=1)
    reached, rest = np.zeros(len(X), dtype=bool), np.arange(len(X))
    used, gained = np.zeros(len(X)), np.zeros(len(X))
    steepest = np.broadcast_to(np.max(slopes, axis=-1, initial=0.0), len(X))
    count, stop = _FIRST, 0
    while stop < order.shape[1] and len(rest):
        start, stop = stop, stop + count
        at = (order if v.ndim == 1 else order[rest])[:, start:stop]
        sign, slope = (_entries(one, rest, at) for one in (np.sign(v), slopes))
        room = (_entries(bound, rest, at) - X[rest[:, None], at]) * (sign / scale[at])
        ends = np.minimum(used[:, None] + np.cumsum(room, axis=1), eps[rest, None])
        gained = gained + np.sum(np.diff(ends, prepend=used[:, None]) * slope, axis=1)
        used = ends[:, -1]
        most = gained + (eps[rest] - used) * (slope[:, -1] if stop < d else 0.0)
        yes, open_ = _compared(gained, most, values[rest], steepest[rest] * used)
        reached[rest[yes]] = True
        rest, used = rest[open_], used[open_]
        gained, count = gained[open_], 2 * count
    left = np.zeros(len(X), dtype=bool)
    left[rest] = True
    return reached, left


def _entries(values: np.ndarray, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The entries of some rows of an array (n, d) in columns (m, c); of the one row of all."""
    return values[at] if values.ndim == 1 else values[rows[:, None], at]


def _in_l2_ball(
    X: np.ndarray,
    v: np.ndarray,
    bound: np.ndarray,
    scale: np.ndarray,
    eps: np.ndarray,
    values: np.ndarray,
) -> Decision:
    r"""The same of the ball :math:`\sum_j (\delta_j / s_j)^2 \le \epsilon^2`.

    The worst points of balls of all radii are :math:`|\delta_j| = \min(\tau s_j^2 |v_j|, r_j)`.
    Such a point of norm :math:`n \le \epsilon` gains no more than the ball does, and this no more
    than Lagrange's function,

    .. math:: g \le \max \langle v, \delta \rangle \le g + (\epsilon^2 - n^2) / (2 \tau),

    with equality at :math:`n = \epsilon`. The level :math:`\tau \epsilon / n` has no larger norm:
    the levels rise towards the last one. Levels and numbers are in units of the largest radius.
    """
    largest = np.max(eps, initial=0.0) or 1.0
    eps = np.where(eps >= _SMALLEST * largest, eps / largest, np.nan)
    values = values / largest
    weights = (scale * v) ** 2
    whole = (_dot(bound, v) - _dot(X, v)) / largest  # the gain of the limits without a ball
    terms = _dot(np.abs(bound), np.abs(v)) / largest + np.abs(whole)
    some = _compared(whole, whole, values, terms)
    reached, rest = np.zeros(len(X), dtype=bool), np.flatnonzero(some[0] | some[1])
    per_level = 1 / (np.where(weights > 0, scale * (scale * v), 1.0) * largest)
    # levels at which features are stopped; none is before the first one
    caps = (rows_of(bound, rest) - X[rest]) * rows_of(per_level, rest)
    weights, eps = rows_of(weights, rest), eps[rest]
    values = values[rest]
    level = eps / np.sqrt(weights.sum(axis=-1))
    for _ in range(_MAX_LEVELS):
        points = np.minimum(caps, level[:, None])
        gain = _dot(points, weights)
        share = _dot(np.multiply(points, points, out=points), weights) / eps**2
        most = gain + eps**2 * (1 - share) / (2 * level)
        yes, open_ = _compared(gain, most, values, gain + eps**2 / level)
        reached[rest[yes]] = True
        rest, caps = rest[open_], caps[open_]
        if not len(rest):
            break
        eps, values = eps[open_], values[open_]
        weights, level = rows_of(weights, open_), (level / np.sqrt(share))[open_]
    left = np.zeros(len(X), dtype=bool)
    left[rest] = True
    return reached, left


def rows_of(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Some rows of an array (n, d); the one row, or number, of all."""
    return values[chosen] if values.ndim == 2 else values


def _dot(x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """<x, v> of each row of x (n, d), or of the one (d,), with that of v or with the one v."""
    found: np.ndarray = x @ v if v.ndim == 1 else np.einsum("...j,...j->...", x, v)
    return found


def _compared(
    least: np.ndarray, most: np.ndarray, values: np.ndarray, terms: np.ndarray
) -> Decision:
    """Whether gains between two bounds reach the values; `terms` is the size of their terms."""
    rounding = _SURE * (terms + np.abs(values))
    reached = least >= values + rounding
    return reached, ~(reached | (most <= values - rounding))
