r"""Whether the worst case of a sample within limits reaches a number: decided by bounds.

Robust accuracy asks no more than this. In the direction v a feature gains :math:`|v_j|` for a unit,
up to its room :math:`r_j = |\text{bound}_j - x_j|`, where bound is the limit that v points to. With
one v for many samples bounds on the gain of most are cheaper than the gain itself.

What the bounds leave open, and numbers that are nearer than rounding, are for the gain itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_SURE = 1e-12  # share of what is compared that rounding may take
_SMALLEST = 1e-140  # slope relative to the largest, whose square is a number to rely on
_PARTS = 12  # numbers of features that are filled at once
_MAX_LEVELS = 8  # levels that are tried; three or four decide

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
    v : array of shape (d,), or (n, d), which is left open for q = 1
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
    if q not in (1, 2, math.inf) or (q == 1 and v.ndim > 1):
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

    The features of largest :math:`s_j |v_j|` are filled first. What the first k of them use of the
    ball and what they gain are linear functions of the sample: products of matrices for a few k.
    The gain is a concave function of what is used, which is interpolated, and bounded by its slope.
    """
    slopes = scale * np.abs(v)
    order = np.argsort(-slopes, kind="stable")
    counts = np.unique(np.geomspace(1, len(v), _PARTS).astype(int))
    filled = np.zeros((len(v), len(counts)))
    filled[order] = np.arange(len(v))[:, None] < counts
    weights = np.hstack([filled * (np.sign(v) / scale)[:, None], filled * v[:, None]])
    used, gained = np.hsplit(bound @ weights - X @ weights, 2)
    used, gained = (np.hstack([np.zeros((len(X), 1)), part]) for part in (used, gained))
    rows = np.arange(len(X))
    last = np.sum(used[:, 1:] <= eps[:, None], axis=1)  # the most features that the ball holds
    more = np.minimum(last + 1, len(counts))
    left, step = eps - used[rows, last], used[rows, more] - used[rows, last]
    share = np.divide(left, step, out=np.zeros_like(left), where=step > 0)
    least = gained[rows, last] + share * (gained[rows, more] - gained[rows, last])
    slope = np.append(slopes[order], 0.0)[np.append(0, counts)]
    most = gained[rows, last] + slope[last] * left
    terms = gained[rows, more]
    terms = terms + slopes[order[0]] * (np.sum(np.abs(bound) / scale) + used[rows, more])
    return _compared(least, most, values, terms)


def _in_l2_ball(
    X: np.ndarray,
    v: np.ndarray,
    bound: np.ndarray,
    scale: np.ndarray,
    eps: np.ndarray,
    values: np.ndarray,
) -> Decision:
    r"""The same of the ball :math:`\sum_j (\delta_j / s_j)^2 \le \epsilon^2`.

    The worst points of balls of all radii are :math:`|\delta_j| = \min(\tau s_j^2 |v_j|, r_j)`:
    with the level :math:`\tau` both their norm and their gain grow. A level with at most the radius
    and at least the number shows that the number is reached, one with at least the radius and less
    than the number that it is not. Between the two roots every level decides. Levels, caps and
    numbers are in units of the radius.
    """
    weights = (scale * v) ** 2
    # levels at which features are stopped; none is before the first one that is tried
    caps = (bound - X) / np.where(weights > 0, scale * (scale * v), 1.0) / eps[:, None]
    level = np.broadcast_to(1 / np.sqrt(weights.sum(axis=-1)), len(X))
    whole = _dot(bound, v) - _dot(X, v)  # the gain of the limits without a ball
    some = _compared(whole, whole, values, _dot(np.abs(bound), np.abs(v)) + np.abs(whole))
    reached, rest = np.zeros(len(X), dtype=bool), np.flatnonzero(some[0] | some[1])
    caps, level = caps[rest], level[rest]
    values = (values / eps)[rest]
    weights = rows_of(weights, rest)
    low, high = np.zeros(len(rest)), np.full(len(rest), math.inf)
    slopes = np.array([2.0, 1.0])[:, None]  # both logarithms grow so much with that of the level
    before: tuple[np.ndarray, np.ndarray] | None = None
    for _ in range(_MAX_LEVELS):
        points = np.minimum(caps, level[:, None])
        gain = _dot(points, weights)
        square = _dot(np.multiply(points, points, out=points), weights)
        sizes = np.stack([square, gain / values])  # 1 at the roots
        below, above = sizes <= 1 - _SURE, sizes >= 1 + _SURE
        yes, no = below[0] & above[1], above[0] & below[1]
        reached[rest[yes]] = True
        kept = ~(yes | no)
        rest = rest[kept]
        if len(rest) == 0:
            break
        caps, level, values, low, high = (part[kept] for part in (caps, level, values, low, high))
        weights = rows_of(weights, kept)
        logs, place = np.log(sizes[:, kept]), np.log(level)
        low, high = np.where(logs[0] < 0, level, low), np.where(logs[0] < 0, high, level)
        slope = slopes
        if before is not None:
            past_logs, past_place = before[0][:, kept], before[1][kept]
            slope = np.clip((logs - past_logs) / (place - past_place), 0.05, slopes)
        level = np.exp(place - np.mean(logs / slope, axis=0))
        middle = np.where(high < math.inf, (low + high) / 2, 2 * low)
        level = np.where((level > low) & (level < high), level, middle)
        before = logs, place
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
