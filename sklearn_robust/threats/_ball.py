"""The l_q ball, whose radius may differ from feature to feature."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
from array_api_compat import is_array_api_obj, is_torch_array

from sklearn_robust._array_api import Array, as_float, like, namespace, to_numpy
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.scaled_norms import ScaledNorm, WeightedNorm
from sklearn_robust.threats._available import available_if
from sklearn_robust.threats._boxes import Box, LimitedBoxes
from sklearn_robust.threats._cones import ball_rows
from sklearn_robust.threats._interface import ConicSet
from sklearn_robust.threats._limits import (
    CappedBall,
    LimitedBalls,
    bound_limits,
    check_limits,
    dense,
)
from sklearn_robust.threats._members import Scaled, call_of, per_feature
from sklearn_robust.threats._mixin import ThreatMixin

_NEAR = 10  # times the excess over the radius: how far from a face an entry is still on it


@dataclass(frozen=True, repr=False)
class LpBall(ThreatMixin):
    r"""The threat :math:`\{\delta : \|\delta / s\|_q \le \epsilon\}`, and what it does to a linear
    predictor.

    For w and a sample (x, y) with y in {-1, +1} the worst case has a closed form, with q* the dual
    exponent: :math:`\min_{\|\delta / s\|_q \le \epsilon} y \langle w, x + \delta\rangle = y \langle
    w, x\rangle - \epsilon \|s w\|_{q^*}`.

    Parameters
    ----------
    q : float
        Exponent of the perturbation's norm, in [1, inf].
    eps : float or dict {label: float}
        Radius, >= 0, in the units of the features; or that of each class, 0 for one that does not
        attack.
    scale : array of shape (d,) or dict {feature name: float}, optional
        The scale s_j >= 0 of each feature: how far the adversary can move it, relative to the
        others. A feature of scale 0 is out of its reach: :math:`\delta_j = 0`. Every feature has 1
        by default, as one that a dict does not name.
    clip : pair (low, high) of numbers or arrays of shape (d,), optional
        Limits of the data: x + delta stays inside. The set is then one for each sample, that of
        `at(X)`, and `certified_radius` measures the norm of delta, not the limits.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import LpBall
    >>> LpBall(np.inf, 0.5).penalty(np.array([1.0, -2.0]))
    np.float64(1.5)
    >>> LpBall(np.inf, 0.5, scale=[1.0, 0.0]).penalty(np.array([1.0, -2.0]))
    np.float64(0.5)

    One class attacks:

    >>> threat = LpBall(np.inf, {"malware": 0.3, "benign": 0.0})
    >>> threat.of_class("malware").penalty(np.array([1.0, -2.0])).round(3)
    np.float64(0.9)

    Limits cut the ball around each sample. Two pixels become brighter by up to 0.3 in the 2-norm,
    and at most 1: the second has room for 0.1, and the first takes what is left of the ball.

    >>> images = LpBall(2, 0.3, clip=(0, 1)).at(np.array([[0.2, 0.9]]))
    >>> images.worst(np.array([1.0, 1.0])).round(3)
    array([[0.283, 0.1  ]])
    """

    q: float
    eps: Any  # float, or a dict of floats by class
    scale: Any = None  # array, or a dict of floats by feature name
    clip: Any = None

    convex = solid = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "q", LpNorm(self.q).p)
        if isinstance(self.eps, Mapping):
            radii = {label: check_radius(eps, f"eps[{label!r}]") for label, eps in self.eps.items()}
            object.__setattr__(self, "eps", radii)
        else:
            object.__setattr__(self, "eps", check_radius(self.eps, "eps"))
        object.__setattr__(self, "clip", check_limits(self.clip))
        if isinstance(self.scale, Mapping):
            check_scale(list(self.scale.values()), "scale")
        elif self.scale is not None:
            checked = check_scale(self.scale, "scale")
            object.__setattr__(self, "scale", _of_type(self.scale, checked))

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold what was given, not what was computed from it."""
        return {"q": self.q, "eps": self.eps, "scale": self.scale, "clip": self.clip}

    def __repr__(self) -> str:
        return call_of(self, q=self.q, eps=self.eps, scale=self.scale, clip=self.clip)

    @property
    def symmetric(self) -> bool:
        return self.clip is None

    @property
    def per_sample(self) -> bool:
        return self.clip is not None

    @property
    def by_class(self) -> bool:
        return isinstance(self.eps, dict)

    @property
    def columns(self) -> np.ndarray:
        if self.clip is None:
            return super().columns
        assert self.scale is not None, "without a scale the number of features is not known"
        return np.flatnonzero(self.scale)

    def bind(self, n_features: int, names: Any = None, classes: Any = None) -> LpBall:
        """The ball with an array for a scale by name, where its scale is on so many features and
        its radii are those of the classes.
        """
        scale = self.scale
        if isinstance(scale, Mapping):
            rest = per_feature(dict.fromkeys(scale, 1.0), n_features, names, "scale")
            scale = per_feature(scale, n_features, names, "scale") + (1 - rest)
        elif scale is not None and len(scale) != n_features:
            raise ValueError(
                f"scale must hold a number for each of the {n_features} features, got {len(scale)}."
            )
        if self.by_class and classes is not None and set(self.eps) != set(classes):
            raise ValueError(
                f"eps must hold a radius for each class, {list(classes)}, got those of "
                f"{list(self.eps)}. Use 0 for a class that does not attack."
            )
        bound_limits(self.clip, n_features)
        return self if scale is self.scale else replace(self, scale=scale)

    def of_class(self, label: Any) -> LpBall:
        """The ball of the radius of a class."""
        return replace(self, eps=self.eps[label]) if self.by_class else self

    def at(self, X: Any, radius: Any = 1.0) -> Any:
        """The balls of n samples: of eps times the radius, in the limits."""
        if self.clip is None:
            return Balls(self, radius) if np.ndim(radius) else replace(self, eps=self.eps * radius)
        return Balls(replace(self, clip=None), radius).limited(dense(X), self.clip)

    def within(self, lower: Any, upper: Any) -> Any:
        """The part of the ball in a box."""
        return Balls(self, 1.0).within(lower, upper)

    @cached_property
    def norm(self) -> LpNorm | ScaledNorm:
        """The norm that bounds the perturbation, ||delta / scale||_q."""
        return LpNorm(self.q) if self.scale is None else ScaledNorm(self.q, self.scale)

    @cached_property
    def dual_norm(self) -> LpNorm | WeightedNorm:
        """The norm of w that measures the damage, ||scale w||_q*."""
        return self.norm.dual

    def simplified(self) -> tuple[LpBall, Any]:
        """The same threat without a scale where all features have the same, and that scale."""
        if self.scale is None or bool((self.scale != self.scale[0]).any()):
            return self, 1.0
        return replace(self, scale=None), self.scale[0]

    def mapped(self, function: Callable[[Array], Array]) -> LpBall:
        """The threat with the function of its scale: on another device, or of another type."""
        return self if self.scale is None else replace(self, scale=function(self.scale))

    def penalty(self, coef: Array) -> Array:
        """The margin that the adversary takes, eps ||scale w||_q*.

        Parameters
        ----------
        coef : array of shape (..., d)

        Returns
        -------
        array of shape (...)
        """
        self._refuse_limits()
        return self.eps * self.dual_norm.value(coef)

    def perturbation(self, coef: Array) -> Array:
        r"""The perturbation of size eps that raises <w, x> most; a sample of label y is attacked by
        -y times it.

        It is the same for every x and does not depend on the size of w. q = inf: eps sign(w); q =
        2: eps w / ||w||_2; q = 1: all of eps on the largest entries of w. With a scale s it is s
        times the one for s w.

        Parameters
        ----------
        coef : array of shape (..., d)

        Returns
        -------
        array of shape (..., d)
        """
        self._refuse_limits()
        return self.eps * self.norm.steepest_direction(coef)

    def _refuse_limits(self) -> None:
        """Refuse one answer for all samples where limits make another set of each."""
        if self.clip is not None:
            raise ValueError(
                "A ball with limits is another set for each sample, and has no worst point of its "
                "own: use at(X)."
            )

    # the same under the names of the interface: the support function of the ball, and its gradient
    support = penalty  # type: ignore[assignment]
    worst = perturbation  # type: ignore[assignment]

    def gauge(self, x: Array) -> Array:
        """The least r with x in r times the ball, ||x / scale||_q / eps: (..., d) -> (...)."""
        size = self.norm.value(x)
        if self.eps > 0:
            return size / self.eps
        xp = namespace(x)
        return xp.where(size > 0, xp.full_like(size, math.inf), xp.zeros_like(size))

    def reach(self) -> float:
        """The largest entry in size of a point of the ball, eps times the largest scale."""
        return self.eps * (1.0 if self.scale is None else float(self.scale.max()))

    def reachable(self, x: Array) -> Array:
        """x with zero in place of the features that the adversary cannot touch."""
        return x if self.scale is None else namespace(x).where(self.scale > 0, x, 0 * x)

    def inside(self, x: Array, radius: Array | float = 1.0, room: Array | float = 0.0) -> Array:
        """Whether radius times the ball holds a point within `room` of x in each coordinate:
        (..., d), (...), (..., d) -> bool of shape (...).
        """
        xp = namespace(x)
        sizes = xp.abs(x) - room
        return self.norm.value(xp.maximum(sizes, xp.zeros_like(sizes))) <= self.eps * radius

    def project(self, x: Array, radius: Array | float = 1.0) -> Array:
        """The Euclidean projection on radius times the ball; radius is a number or (...)."""
        return self.norm.project(x, self.eps * radius)

    def inner_point(self, x: np.ndarray, radius: float) -> np.ndarray:
        """x moved straight towards the centre to the boundary, of one x (d,), with zero for
        features that the adversary cannot touch.
        """
        movable, size = self.reachable(x), self.norm.value(self.reachable(x))
        return movable * min(self.eps * radius / size if size > 0 else 1.0, 1.0)

    def face(self, x: np.ndarray, radius: float) -> tuple[Any, np.ndarray]:
        """Linear functions of one x (d,) that hold its norm at the radius while its pattern stays,
        and the change each needs; see `LpNorm.face`.
        """
        bound = self.eps * radius
        excess = max(self.norm.value(self.reachable(x)) - bound, 0.0)
        return self.norm.face(x, bound, near=_NEAR * excess)

    def residual(self, g: Array, radius: Array | float, norm: Any) -> Array:
        """g minus the nearest point, in an l_p norm, of radius times the ball; see `LpNorm`."""
        return self.norm.residual(g, self.eps * radius, norm)

    def min_norm_subgradient(self, w: Array, g: Array, radius: Array | float, norm: Any) -> Array:
        r"""The element of :math:`g + \text{radius}\,\epsilon\,\partial \|s w\|_{q^*}` that is least
        in an l_p norm; see `LpNorm`.
        """
        return self.dual_norm.min_norm_subgradient(w, g, self.eps * radius, norm)

    def stop_at_kinks(self, w: Array, moved: Array) -> Array:
        """`moved`, stopped at the kinks of ||scale w||_q*: (..., d), (..., d) -> (..., d).

        q = inf: a coordinate that would change its sign stops at zero. q = 1: a coordinate that
        would overtake the largest stops level with it. Other q have no kink but w = 0. A feature
        that the adversary cannot touch has none.
        """
        xp, scale = namespace(w), self.scale
        if self.q == math.inf:
            crosses = w * moved < 0
            if scale is not None:
                crosses = crosses & (scale > 0)
            return xp.where(crosses, xp.zeros_like(moved), moved)
        if self.q > 1:
            return moved
        if scale is None:
            return _below_largest(xp, w, moved)
        unit = xp.where(scale > 0, scale, xp.ones_like(scale))
        return xp.where(scale > 0, _below_largest(xp, scale * w, scale * moved) / unit, moved)

    def descent_direction(self, w: Array, subgradient: Array, taken: Array, norm: Any) -> Array:
        r"""The direction of unit norm in which the log-risk falls fastest, up to sign; see
        `descent_direction`.

        Where the penalty has a kink the steepest direction of the subgradient is not unique for p =
        1 and inf, and not all descend. The one that does is a subgradient of the norm of the ball
        at `taken`. The kinks are w = 0 with 1 < q < inf, and with scales, which break the symmetry
        of ties, also the ties of q = 1.
        """
        xp = namespace(w)
        direction = norm.steepest_direction(subgradient)
        scale = self.scale
        unique = self.q == math.inf or (self.q == 1 and scale is None)
        if unique or 1 < norm.p < math.inf:
            return direction
        if self.q > 1:
            first = -self.dual_norm.steepest_direction(taken)
            at_kink = self.dual_norm.value(w) == 0
        else:  # the ties grow together
            unit = xp.where(scale > 0, scale, xp.ones_like(scale))
            first = -xp.sign(taken) / unit
            at_kink = xp.any(taken != 0, axis=-1)
        if not bool(xp.any(at_kink)):
            return direction
        first = _normalised(norm, first)
        # as steep, and the adversary takes nothing there
        free = xp.where(first == 0, direction, xp.zeros_like(first))
        if norm.p == 1:
            some = xp.any(free != 0, axis=-1, keepdims=True)
            first = xp.where(some, _normalised(norm, free), first)
        else:
            first = first + free
        return xp.where(at_kink[..., None], first, direction)

    def _has_cones(self) -> bool:
        return self.q in (1, 2, math.inf) and self.scale is not None

    @available_if(_has_cones)
    def conic(self) -> ConicSet:
        r"""The ball in cones, for q in {1, 2, inf} and with a scale, which tells the number of
        features.

        With the features that can be moved,

        =======  ==============================================================
        q = inf  :math:`\pm x_j \le \epsilon s_j`
        q = 2    :math:`\|x / s\|_2 \le \epsilon`, a second-order cone
        q = 1    :math:`\pm x_j \le u_j`, :math:`\sum_j u_j / s_j \le \epsilon`
        =======  ==============================================================

        and x_j = 0 for the others.
        """
        return ball_rows(self.q, self.eps, to_numpy(self.scale).astype(np.float64))


class Balls(Scaled):
    """An l_q ball times the radius of each of n samples."""

    def within(self, lower: Any, upper: Any) -> Any:
        """The part of the balls in boxes."""
        ball, eps = self.threat, np.asarray(self.radius) * self.threat.eps
        if ball.q < math.inf:
            return CappedBall(ball.q, eps, ball.scale, lower, upper)
        reach = self._reach()
        return Box._of(np.maximum(-reach, lower), np.minimum(reach, upper))

    def limited(self, X: np.ndarray, clip: Any) -> Any:
        """The part of the balls in the limits of the samples."""
        if self.threat.q < math.inf:
            eps = np.asarray(self.radius) * self.threat.eps
            return LimitedBalls(self.threat.q, eps, self.threat.scale, X, clip)
        reach = self._reach()
        return LimitedBoxes(-reach, reach, X, clip)

    def _reach(self) -> Any:
        """How far each feature moves, at q = inf."""
        eps = np.asarray(self.radius * self.threat.eps)[..., None]
        return eps * (1.0 if self.threat.scale is None else self.threat.scale)


def is_ball(threat: Any) -> TypeGuard[LpBall]:
    """Whether the threat is an l_q ball of one radius and without limits."""
    return isinstance(threat, LpBall) and not (threat.per_sample or threat.by_class)


def _below_largest(xp: Any, w: Array, moved: Array) -> Array:
    """No coordinate overtakes the largest within one step; those that reach it end exactly
    level.
    """
    before, after = xp.abs(w), xp.abs(moved)
    size = xp.max(before, axis=-1, keepdims=True)
    top = before >= size * (1 - 16 * xp.finfo(w.dtype).eps)
    level = xp.max(xp.where(top, after, xp.zeros_like(after)), axis=-1, keepdims=True)
    below = xp.where(top, xp.zeros_like(after), xp.minimum(after, xp.maximum(level, before)))
    stop = xp.maximum(level, xp.max(below, axis=-1, keepdims=True))
    near = after >= level * (1 - 64 * xp.finfo(w.dtype).eps)
    after = xp.where(top, xp.where(near, stop, after), below)
    return xp.where(size > 0, xp.sign(moved) * after, moved)


def _normalised(norm: Norm, x: Array) -> Array:
    """x over its norm; zero where x is."""
    xp, size = namespace(x), norm.value(x)[..., None]
    return x / xp.where(size > 0, size, xp.ones_like(size))


def _of_type(given: Any, checked: np.ndarray) -> Array:
    """The checked values in the floating type, and on the device, of the given ones."""
    if is_torch_array(given):
        return like(given, checked)
    kept = isinstance(given, np.ndarray) and given.dtype.kind == "f"
    return checked.astype(given.dtype) if kept else checked


def check_radius(eps: Any, name: str) -> float:
    """Validate a radius given by a user under the parameter `name`; returns it as a float."""
    radius = as_float(eps)
    if not 0 <= radius < math.inf:
        raise ValueError(
            f"{name} must be a finite number >= 0, got {eps!r}. Use {name}=0 for training without "
            f"an adversary."
        )
    return radius


def check_scale(scale: Any, name: str) -> np.ndarray:
    """Validate a scale for each feature, given by a user under the parameter `name`; returns it as
    float64.
    """
    try:
        given = np.asarray(to_numpy(scale) if is_array_api_obj(scale) else scale)
        kind = given.dtype.kind
        if kind not in "biufO" or (
            kind == "O" and any(isinstance(value, (str, bytes)) for value in given.flat)
        ):
            raise TypeError("A string, a complex number or a date is no scale.")
        values = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name} must hold a number >= 0 for each feature, got {scale!r}."
        ) from error
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            f"{name} must hold a number >= 0 for each feature, got an array of shape "
            f"{values.shape}. To move every feature "
            "alike leave it out, and set eps."
        )
    bad = np.flatnonzero(~((values >= 0) & (values < math.inf)))
    if len(bad):
        raise ValueError(
            f"{name} must hold finite numbers >= 0, got {values[bad[0]]:g} for feature {bad[0]}. "
            f"Use 0 for a feature that the "
            "adversary cannot touch."
        )
    return values
