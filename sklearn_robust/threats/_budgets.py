"""Budgets: at most so many features change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._array_api import Array
from sklearn_robust.threats._available import available_if
from sklearn_robust.threats._interface import ConicSet
from sklearn_robust.threats._limits import dense
from sklearn_robust.threats._members import call_of, check_numbers, per_feature, times
from sklearn_robust.threats._mixin import ThreatMixin


@dataclass(frozen=True, eq=False, repr=False)
class FeatureBudget(ThreatMixin):
    r"""The threat that changes at most k features, each by at most :math:`\epsilon_j`; or that
    flips at most k features of 0 and 1.

    .. math:: \sigma(v) = \text{sum of the k largest } \epsilon_j |v_j|.

    A linear classifier sees the hull of the set, :math:`|\delta_j| \le \epsilon_j` and
    :math:`\sum_j |\delta_j| / \epsilon_j \le k`: with k = 1 an l_1 ball, with k = d an l_inf ball.
    Perturbed samples are in the set itself: no more than k of their features change.

    With `binary=True` a feature can only flip, from 0 to 1 or from 1 to 0, so that the set depends
    on the sample: :math:`\delta_j \in \{0, 1 - 2 x_j\}`, and :math:`\sigma_x(v)` is the sum of the
    k largest positive :math:`(1 - 2 x_j) v_j`, exactly, with no relaxation.

    Parameters
    ----------
    n_features : int
        The number k of features that may change at a time.
    eps : float, array-like of shape (d,) or dict {feature name: float}, default=1.0
        How far each may move. Features that a dict does not name stay as they are. With binary=True
        every feature of eps > 0 may flip.
    binary : bool, default=False

    Notes
    -----
    :math:`\sigma` is the D-norm of [1]_. `certified_radius` counts the factor on eps, and with
    binary=True the factor on the number of flips: the least number that changes the decision, over
    k.

    References
    ----------
    .. [1] D. Bertsimas, D. Pachamanova, M. Sim. Robust linear optimization under general norms.
       Operations Research Letters 32, 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import FeatureBudget
    >>> v = np.array([3.0, -1.0, 2.0])
    >>> FeatureBudget(2, eps=0.5).support(v), FeatureBudget(2, eps=0.5).worst(v)
    (np.float64(2.5), array([0.5, 0. , 0.5]))

    The first sample can gain its first feature, which the second has already:

    >>> FeatureBudget(1, binary=True).at(np.array([[0, 1, 0], [1, 1, 0]])).worst(v)
    array([[1., 0., 0.],
           [0., 0., 1.]])
    """

    n_features: int
    eps: Any = 1.0
    binary: bool = False

    convex = False

    def __post_init__(self) -> None:
        number = self.n_features
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
            raise ValueError(
                f"n_features must be an integer >= 0, the number of features that may change, got "
                f"{number!r}."
            )
        object.__setattr__(self, "eps", check_numbers(self.eps, "eps", 1, finite=True))

    def __repr__(self) -> str:
        binary = self.binary or None
        return call_of(self, n_features=self.n_features, eps=self.eps, binary=binary)

    @property
    def symmetric(self) -> bool:
        return not self.binary

    @property
    def solid(self) -> bool:
        return not self.binary

    @property
    def per_sample(self) -> bool:
        return self.binary

    @property
    def columns(self) -> np.ndarray:
        return np.flatnonzero(np.asarray(self.eps) > 0) if self.binary else super().columns

    def bind(self, n_features: int, names: Any = None, classes: Any = None) -> FeatureBudget:
        """The budget with an array of n_features radii."""
        return replace(self, eps=per_feature(self.eps, n_features, names, "eps"))

    def at(self, X: Any, radius: Any = 1.0) -> Budget:
        """The budgets of n samples: with eps times the radius, or as many flips."""
        if not self.binary:
            return self._set(radius)
        X, able = dense(X), np.asarray(self.eps) > 0
        bad = able & ~np.isnan(X) & (X != 0) & (X != 1)
        if bad.any():
            raise ValueError(
                f"binary=True is for features of 0 and 1, but X holds {X[bad][0]:g} in feature "
                f"{np.argwhere(bad)[0][-1]}. Give eps=0 to the features that are not, or "
                f"binary=False."
            )
        flip = np.where(able & ~np.isnan(X), 1 - 2 * X, 0.0)
        count = np.floor(np.minimum(np.asarray(radius) * self.n_features, X.shape[-1]))
        return Budget(count, np.minimum(flip, 0), np.maximum(flip, 0), whole=True)

    def _set(self, radius: Any = 1.0) -> Budget:
        """The set, where it is one for all samples."""
        if self.binary:
            raise ValueError(
                "A budget of flips is another set for each sample, and has no worst point of its "
                "own: use at(X)."
            )
        radius = np.asarray(radius)[..., None] if np.ndim(radius) else radius
        eps = times(radius, self.eps)
        return Budget(self.n_features, -eps, eps)

    def within(self, lower: Any, upper: Any) -> Budget:
        """The part of the set in a box."""
        return self._set().within(lower, upper)

    def support(self, v: Array) -> Array:
        """The largest <v, .>: (..., d) -> (...)."""
        return self._set().support(v)

    def worst(self, v: Array) -> Array:
        """A point of the set that attains it: (..., d) -> (..., d)."""
        return self._set().worst(v)

    def project(self, x: Array, radius: Any = 1.0) -> Array:
        r"""The point nearest to x of radius times the hull; radius is a number or (...).

        With :math:`e_j` the radius of a feature it is :math:`\min((|x_j| - t / e_j)_+, e_j)` with
        the least t >= 0 for which :math:`\sum_j |\delta_j| / e_j \le k`.
        """
        radius = np.asarray(radius, dtype=np.float64)[..., None]
        eps = np.broadcast_to(radius * self.eps, x.shape)
        able = eps > 0
        unit = np.where(able, eps, 1.0)
        a = np.where(able, np.abs(x), 0.0)
        # the sum falls in t with slope 1 / e_j^2 between the t at which entry j leaves its bound
        # and that at which it is 0
        ends = np.concatenate([np.maximum((a - unit) * unit, 0), a * unit], axis=-1)
        slopes = np.concatenate([-(able / unit**2), able / unit**2], axis=-1)
        order = np.argsort(ends, axis=-1)
        ends = np.take_along_axis(ends, order, axis=-1)
        slopes = np.cumsum(np.take_along_axis(slopes, order, axis=-1), axis=-1)
        start = np.sum(np.minimum(a, eps) / unit, axis=-1, keepdims=True)
        steps = np.diff(ends, axis=-1) * slopes[..., :-1]
        totals = np.concatenate([start, start + np.cumsum(steps, axis=-1)], axis=-1)
        # where the sum stays at k the next slope is 0, up to rounding
        beyond = totals > self.n_features + 64 * np.finfo(float).eps * x.shape[-1]
        at = np.maximum(np.sum(beyond, axis=-1, keepdims=True) - 1, 0)
        total, slope, t = (np.take_along_axis(x, at, axis=-1) for x in (totals, slopes, ends))
        excess = np.where(beyond.any(axis=-1, keepdims=True), total - self.n_features, 0.0)
        t = np.where(excess > 0, t + excess / np.where(slope < 0, -slope, np.inf), 0.0)
        moved = np.where(able, np.clip(a - t / unit, 0, eps), 0.0)
        # rounding of t leaves no more than the budget
        spent = np.sum(moved / unit, axis=-1, keepdims=True)
        over = spent > self.n_features
        moved *= np.where(over, self.n_features / np.where(over, spent, 1.0), 1.0)
        return np.sign(x) * moved

    def _has_cones(self) -> bool:
        return not self.binary and np.ndim(self.eps) == 1

    @available_if(_has_cones)
    def conic(self) -> ConicSet:
        """The hull in cones."""
        return self._set().conic()

    @available_if(_has_cones)
    def program(self) -> tuple[ConicSet, np.ndarray]:
        """The set in cones and integers."""
        return self._set().program()


class Budget:
    """Sets of n samples, or one set: at most so many features move, each between two bounds.

    Parameters
    ----------
    count : int or array of shape (n,)
    lower, upper : arrays of shape (n, d) or (d,), <= 0 and >= 0
    whole : bool
        Whether a feature moves to a bound that is not zero, or not at all.
    """

    convex = symmetric = False
    per_sample = by_class = False

    def __init__(self, count: Any, lower: Any, upper: Any, *, whole: bool = False) -> None:
        self.count, self.whole = count, whole
        self.lower, self.upper = lower, upper
        self.solid = not whole

    def within(self, lower: Any, upper: Any) -> Budget:
        """The part of the sets in a box."""
        if not self.whole:
            return Budget(self.count, np.maximum(self.lower, lower), np.minimum(self.upper, upper))
        held = (self.lower >= lower) & (self.upper <= upper)
        ends = (np.where(held, end, 0.0) for end in (self.lower, self.upper))
        return Budget(self.count, *ends, whole=True)

    def support(self, v: Array) -> Array:
        """The sum of the largest gains: (d,) or (..., n, d) -> (..., n)."""
        return largest_sum(self._gains(v), self.count)

    def worst(self, v: Array) -> Array:
        """The features of the largest gains at their bounds: (d,) or (..., n, d) -> (..., n, d)."""
        gains = self._gains(v)
        chosen = are_largest(gains, self.count) & (gains > 0)
        return np.where(chosen, np.where(v > 0, self.upper, self.lower), 0.0)

    def _gains(self, v: Array) -> Array:
        return v * np.where(v > 0, self.upper, np.where(v < 0, self.lower, 0.0))

    def program(self) -> tuple[ConicSet, np.ndarray]:
        """One set in cones, with an integer z_j in {0, 1} for each feature that may move: l_j z_j
        <= delta_j <= u_j z_j, sum z_j <= count.
        """
        d = len(self.lower)
        unit = sparse.eye_array(d, format="csr")
        free = np.flatnonzero(self.lower < self.upper)
        still = np.flatnonzero(self.lower == self.upper)
        n = len(free)
        one, moved = sparse.eye_array(n, format="csr"), unit[free]
        upper, lower = (sparse.diags_array(end[free]) for end in (self.upper, self.lower))
        nothing, none = sparse.csr_array((n, d)), np.zeros(n)
        count = float(self.count)
        E: list[Any] = [moved, -moved, nothing, sparse.csr_array((1, d)), unit[still]]
        F: list[Any] = [-upper, lower, one, np.ones((1, n)), sparse.csr_array((d - n, n))]
        h: list[Any] = [none, none, np.ones(n), [count], np.zeros(d - n)]
        cones = [("nonnegative", 3 * n + 1), ("zero", d - n)]
        if self.whole:
            E.append(moved)
            F.append(-(upper + lower))
            h.append(none)
            cones.append(("zero", n))
        rows = ConicSet(
            sparse.vstack(E, format="csr"), sparse.vstack(F, format="csr"), np.concatenate(h), cones
        )
        return rows, np.ones(n, dtype=bool)

    def conic(self) -> ConicSet:
        """The hull of one set in cones."""
        return self.program()[0]


def largest_sum(gains: Array, count: Any) -> Array:
    """The sum of the largest gains >= 0, as many as count, a number or one for each row: (..., n,
    m) -> (..., n).
    """
    m = gains.shape[-1]
    if np.ndim(count) == 0:
        k = int(min(count, m))
        largest = gains if k == m else np.partition(gains, m - k - 1, axis=-1)[..., m - k :]
        return np.sum(largest, axis=-1)
    ordered = -np.sort(-gains, axis=-1)
    return np.sum(np.where(np.arange(m) < np.asarray(count)[..., None], ordered, 0.0), axis=-1)


def are_largest(gains: Array, count: Any) -> Array:
    """Which gains are the largest, as many as count: (..., n, m) -> bool of the same shape."""
    rank = np.argsort(np.argsort(-gains, axis=-1, kind="stable"), axis=-1, kind="stable")
    return rank < np.asarray(count)[..., None]
