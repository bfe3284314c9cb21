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
    q: float,
    X: np.ndarray,
    v: np.ndarray,
    limits: Any,
    size: Any,
    scale: Any,
    values: np.ndarray,
    which: np.ndarray | None = None,
) -> Decision:
    """Whether the worst cases of l_q balls within limits reach numbers.

    Parameters
    ----------
    q : float
    X : array of shape (n, d)
        Within the limits.
    v : array of shape (d,) or (m, d)
    limits : pair (low, high)
    size : float or array
        The radii, (n,); for q = inf the reach of each feature, that broadcasts to v, or to X with a
        direction for each sample.
    scale : array of shape (d,), or None
        Not for q = inf.
    values : array of shape (n,)
    which : int array of shape (n,), optional
        The direction of each sample, where there are several; its own by default.

    Returns
    -------
    reached, open : bool arrays of shape (n,)
        Samples that reach their number, and those that the bounds do not decide.
    """
    nothing = np.zeros(len(X), dtype=bool)
    if q not in (1, 2, math.inf):
        return nothing, ~nothing
    v = v if scale is None else np.where(np.asarray(scale) > 0, v, 0.0)
    if v.ndim > 1 and which is None:
        which = np.arange(len(X))
    bound = np.where(v > 0, limits[1], np.where(v < 0, limits[0], 0.0))
    # entries without a value, limits without end and what overflows are left open
    with np.errstate(all="ignore"):
        largest = np.max(np.abs(v), axis=-1, initial=0.0)
        largest = np.where(largest > 0, largest, 1.0)
        v = v / largest[..., None]
        values = values / _of(largest, which)
        if q == math.inf:
            return _in_box(X, v, bound, np.asarray(size), values, which)
        unit = 1.0 if scale is None else np.max(scale, initial=0.0) or 1.0
        scale = np.ones(X.shape[1]) if scale is None else np.where(scale > 0, scale / unit, 1.0)
        if np.any((v != 0) & (scale * np.abs(v) < _SMALLEST)):
            return nothing, ~nothing
        eps = np.broadcast_to(np.asarray(size, dtype=np.float64) * unit, len(X))
        in_ball = _in_l1_ball if q == 1 else _in_l2_ball
        reached, left = in_ball(X, v, bound, scale, eps, values, which)
    trivial = (eps == 0) | (values <= 0)
    return np.where(trivial, values <= 0, reached), left & ~trivial


def _in_box(
    X: np.ndarray,
    v: np.ndarray,
    bound: np.ndarray,
    reach: np.ndarray,
    values: np.ndarray,
    which: np.ndarray | None,
) -> Decision:
    r"""Whether :math:`\sum_j |v_j| \min(r_j, \text{reach}_j)` is at least a number.

    As :math:`\min(\text{high} - x, u) = \text{high} - \max(x, \text{high} - u)`, it is a linear
    function of the sample held between bounds.
    """
    low = np.where(v > 0, bound - reach, -math.inf)
    high = np.where(v > 0, math.inf, bound + reach)
    most, terms = _dot(bound, v), _dot(np.abs(bound), np.abs(v))
    held = np.clip(X, _of(low, which), _of(high, which))
    gain = _of(most, which) - _dot(held, _of(v, which))
    return _compared(gain, gain, values, _of(terms, which) + np.abs(gain))


def _in_l1_ball(
    X: np.ndarray,
    v: np.ndarray,
    bound: np.ndarray,
    scale: np.ndarray,
    eps: np.ndarray,
    values: np.ndarray,
    which: np.ndarray | None,
) -> Decision:
    r"""The same of the ball :math:`\sum_j |\delta_j| / s_j \le \epsilon`.

    The features of largest :math:`s_j |v_j|` are filled first, some at a time: what is left of the
    ball gains no more than the slope of the last one. Of many directions only some features are
    sorted, and filled.
    """
    slopes, d = scale * np.abs(v), X.shape[1]
    if v.ndim == 1:
        order = np.argsort(-slopes, kind="stable")
    else:
        order = np.argpartition(-slopes, min(_MOST, d) - 1, axis=1)[:, :_MOST]
        place = np.argsort(-np.take_along_axis(slopes, order, axis=1), axis=1)
        order = np.take_along_axis(order, place, axis=1)
    # the features of each direction in this order
    slopes, per_unit, bound = (
        np.take_along_axis(one, order, axis=-1) for one in (slopes, np.sign(v) / scale, bound)
    )
    reached, rest = np.zeros(len(X), dtype=bool), np.arange(len(X))
    used, gained = np.zeros(len(X)), np.zeros(len(X))
    steepest = np.broadcast_to(_of(slopes[..., 0], which), len(X))
    count, stop = _FIRST, 0
    while stop < order.shape[-1] and len(rest):
        start, stop = stop, stop + count
        at, slope, unit, end = (
            _of(one[..., start:stop], which, rest) for one in (order, slopes, per_unit, bound)
        )
        room = (end - X[rest[:, None], at]) * unit
        ends = np.minimum(used[:, None] + np.cumsum(room, axis=1), eps[rest, None])
        gained = gained + _dot(np.diff(ends, prepend=used[:, None]), slope)
        used = ends[:, -1]
        most = gained + (eps[rest] - used) * (slope[..., -1] if stop < d else 0.0)
        yes, open_ = _compared(gained, most, values[rest], steepest[rest] * used)
        reached[rest[yes]] = True
        rest, used = rest[open_], used[open_]
        gained, count = gained[open_], 2 * count
    left = np.zeros(len(X), dtype=bool)
    left[rest] = True
    return reached, left


def _in_l2_ball(
    X: np.ndarray,
    v: np.ndarray,
    bound: np.ndarray,
    scale: np.ndarray,
    eps: np.ndarray,
    values: np.ndarray,
    which: np.ndarray | None,
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
    squares = (scale * v) ** 2
    per_level = 1 / (np.where(squares > 0, scale * (scale * v), 1.0) * largest)
    reached, rest = np.zeros(len(X), dtype=bool), np.arange(len(X))
    # levels at which features are stopped; none is before the first one
    caps = _of(bound, which) - X
    caps *= _of(per_level, which)
    level = eps / np.sqrt(_of(squares.sum(axis=-1), which))
    for k in range(_MAX_LEVELS):
        weights = _of(squares, which, rest)
        points = np.minimum(caps, level[:, None])
        gain = _dot(points, weights)
        share = _dot(np.multiply(points, points, out=points), weights) / eps**2
        most = gain + eps**2 * (1 - share) / (2 * level)
        yes, open_ = _compared(gain, most, values, gain + eps**2 / level)
        reached[rest[yes]] = True
        if k == 0:  # the limits alone may hold the gain below the number
            whole = _dot(caps, weights)
            open_ &= ~(whole + _SURE * (whole + np.abs(values)) <= values)
        rest, caps = rest[open_], caps[open_]
        if not len(rest):
            break
        eps, values = eps[open_], values[open_]
        level = (level / np.sqrt(share))[open_]
    left = np.zeros(len(X), dtype=bool)
    left[rest] = True
    return reached, left


def rows_of(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Some rows of an array (n, d); the one row, or number, of all."""
    return values[chosen] if values.ndim == 2 else values


def _of(values: np.ndarray, which: np.ndarray | None, chosen: Any = slice(None)) -> np.ndarray:
    """What chosen samples have of the values of each direction, (m, ..); those of the one direction
    of all, where there are none to choose from.
    """
    return values if which is None else values[which[chosen]]


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
