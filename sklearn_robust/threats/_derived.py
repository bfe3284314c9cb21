"""What follows from the methods that a threat offers, where it has no closed form of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sklearn_robust._array_api import Array, namespace
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.scaled_norms import ScaledNorm, WeightedNorm
from sklearn_robust.splitting import split
from sklearn_robust.threats._ball import is_ball
from sklearn_robust.threats._interface import KinkedThreat, Threat
from sklearn_robust.threats._members import support

_UNIT_VECTOR_ENTRIES = 2**18  # entries of the unit vectors that are formed at a time: 2 megabytes
_MAX_GAUGE = 100  # hyperplanes that bound a gauge; a polytope of few facets needs few
_EQUAL = 64  # machine epsilons: two numbers that differ by less, relative to the larger, are equal


def support_sizes(threat: Threat, v: Array) -> Array:
    r"""The sum of the sizes of the terms of the support function, :math:`\sum_j |v_j \delta_j|`,
    with which its rounding scales: (..., d) -> (...).
    """
    if hasattr(threat, "support"):
        return threat.support(v)
    xp = namespace(v)
    return xp.sum(xp.abs(v * threat.worst(v)), axis=-1)


def reach(threat: Any, like: Array) -> float:
    r"""The largest entry in size of a perturbation, :math:`\max_j \sigma(e_j)`, of a symmetric
    threat on vectors such as `like`, of shape (1, d).
    """
    if hasattr(threat, "reach"):
        return float(threat.reach())
    return float(namespace(like).max(feature_reach(threat, like)))


def feature_reach(threat: Any, like: Array) -> Array:
    r"""How far each feature can be moved, :math:`\sigma(e_j)` of shape (d,), of a symmetric threat
    on vectors such as `like`, of shape (1, d).
    """
    xp, d = namespace(like), like.shape[-1]
    rows = max(1, _UNIT_VECTOR_ENTRIES // d)
    kind = {"dtype": like.dtype, "device": like.device}
    blocks = (xp.eye(min(rows, d - k), d, k=k, **kind) for k in range(0, d, rows))
    return xp.concat([support(threat, block) for block in blocks])


def gauge(threat: Any, x: Array) -> Array:
    r"""The least r with :math:`x \in r U`, inf where there is none: (..., d) -> (...).

    Without a closed form the hyperplanes that separate x from its projections bound it from below:
    with v = x - P_r(x), :math:`r \leftarrow \langle v, x \rangle / \sigma(v)`, until x is within
    rounding of r U.
    """
    if hasattr(threat, "gauge"):
        return threat.gauge(x)
    xp = namespace(x)
    level = xp.zeros_like(x[..., 0])
    for _ in range(_MAX_GAUGE):
        finite = xp.isfinite(level)
        normal = x - threat.project(x, xp.where(finite, level, xp.zeros_like(level)))
        beyond = xp.abs(normal) > _EQUAL * xp.finfo(x.dtype).eps * xp.abs(x)
        size = support(threat, normal)
        bound = xp.sum(normal * x, axis=-1) / xp.where(size > 0, size, xp.ones_like(size))
        bound = xp.where(size > 0, xp.maximum(bound, level), xp.full_like(level, math.inf))
        moved = xp.where(xp.any(beyond, axis=-1) & finite, bound, level)
        if bool(xp.all(moved == level)):
            break
        level = moved
    return level


def reachable(threat: Any, x: Array) -> Array:
    """x with zero in place of the features that the threat never moves, if it can tell."""
    return threat.reachable(x) if hasattr(threat, "reachable") else x


def inside(threat: Any, x: Array, radius: Array | float = 1.0, room: Array | float = 0.0) -> Array:
    r"""Whether :math:`\text{radius} \cdot U` holds a point within `room` of x in each coordinate.

    Without a closed form the point tried is the projection of x, so that the answer may be no where
    another point is near enough.

    Parameters
    ----------
    threat : ProximalThreat
    x : array of shape (..., d)
    radius : float or array of shape (...)
    room : float or array of shape (..., d), >= 0

    Returns
    -------
    array of bool of shape (...)
    """
    if hasattr(threat, "inside"):
        return threat.inside(x, radius, room)
    xp = namespace(x)
    return xp.all(xp.abs(x - threat.project(x, radius)) <= room, axis=-1)


def inner_point(threat: Any, x: np.ndarray, radius: float) -> np.ndarray:
    r"""A point of :math:`\text{radius} \cdot U` near x, of shape (d,): its projection, or the one
    that the threat names.
    """
    if hasattr(threat, "inner_point"):
        return threat.inner_point(x, radius)
    return threat.project(x, radius)


def face(threat: Any, x: np.ndarray, radius: float, met: Any = None) -> tuple[Any, np.ndarray]:
    r"""Linear functions of x that hold it in :math:`\text{radius} \cdot U` near where it is, and
    the change that each needs.

    Without a closed form they are the hyperplane with the normal v that separates x from its
    projection, :math:`\langle v, x \rangle \le \text{radius}\,\sigma(v)`, and those met before.

    Parameters
    ----------
    threat : ProximalThreat
    x : ndarray of shape (d,)
    radius : float
    met : array or scipy.sparse array, optional
        The rows at the points x before, where one is moved into the set step by step.

    Returns
    -------
    rows : array or scipy.sparse array of shape (m, d)
    change : ndarray of shape (m,)
    """
    if hasattr(threat, "face"):
        return threat.face(x, radius)
    normal = x - threat.project(x, radius)
    size = np.linalg.norm(normal)
    row = normal[None] / (size if size > 0 else 1.0)
    rows = row if met is None else np.concatenate([met, row])
    return rows, np.minimum(radius * support(threat, rows) - rows @ x, 0)


def residual(threat: Any, g: Array, radius: Array | float, norm: Norm) -> Array:
    r"""g minus the point of :math:`\text{radius} \cdot U` that is nearest to g in `norm`.

    In the 2-norm that point is the projection. In another one it is a closed form of the threat, if
    it has one for norms of this library, and else found by splitting.

    Parameters
    ----------
    threat : ProximalThreat
    g : array of shape (..., d)
    radius : float or array of shape (...), >= 0
    norm : Norm
        The norm that measures the distance.

    Returns
    -------
    array of shape (..., d)
    """
    if hasattr(threat, "residual") and has_exponent(norm):
        return threat.residual(g, radius, norm)
    if norm == LpNorm(2):
        return g - threat.project(g, radius)
    return split(lambda x: threat.project(x, radius), g, norm)[0]


def steepest_subgradient(
    threat: KinkedThreat, w: Array, g: Array, radius: Array | float, norm: Norm
) -> tuple[Array, Array]:
    r"""The element of :math:`g + \text{radius}\,\partial \sigma(w)` that is least in the dual norm,
    and the direction of unit norm in which the function with these subgradients rises fastest.

    In a norm that is not of this library both come from splitting on the face
    :math:`\text{radius}\,\partial \sigma(w)`: at a kink not every steepest direction of the least
    subgradient descends, and the normal of the face does. The projection of x on the face is x plus
    the element of least 2-norm of the face moved by -x.

    Parameters
    ----------
    threat : KinkedThreat
    w : array of shape (k, d)
        The point.
    g : array of shape (k, d)
        Gradient of the smooth part there.
    radius : float or array of shape (k,), >= 0
    norm : Norm
        The geometry, in which directions are measured.

    Returns
    -------
    subgradient, direction : arrays of shape (k, d)
    """
    if has_exponent(norm):
        subgradient = threat.min_norm_subgradient(w, g, radius, norm.dual)
        return subgradient, descent_direction(threat, w, subgradient, subgradient - g, norm)

    def project(x: Array) -> Array:
        # g + delta is g minus the point -delta: the set is the face with its sign changed
        return x - threat.min_norm_subgradient(w, x, radius, LpNorm(2))

    return split(project, g, norm.dual)


def descent_direction(threat: Any, w: Array, subgradient: Array, taken: Array, norm: Norm) -> Array:
    r"""The direction of unit l_p norm in which the log-risk falls fastest, up to sign, given its
    subgradient of least dual norm.

    `taken` is the part of the subgradient that comes from the penalty, an element of
    :math:`\text{radius}\,\partial \sigma(w)`. A threat whose method `descent_direction` knows
    better at kinks is asked.
    """
    if hasattr(threat, "descent_direction"):
        return threat.descent_direction(w, subgradient, taken, norm)
    return norm.steepest_direction(subgradient)


def takes_proximal_steps(threat: Any, norm: Norm) -> bool:
    """Whether steepest descent in this norm takes proximal steps, which need the projection alone.

    They exist for the 2-norm. An l_q ball with q < inf has few kinks and steps along its
    subgradient.
    """
    return norm == LpNorm(2) and not (is_ball(threat) and threat.q < math.inf)


def mapped(threat: Any, function: Callable[[Array], Array]) -> Any:
    """The threat with the function of its arrays; itself where it has no such method."""
    return threat.mapped(function) if hasattr(threat, "mapped") else threat


def has_exponent(norm: Norm) -> bool:
    """Whether the norm is an l_p norm, with or without scales, for which closed forms exist."""
    return isinstance(norm, (LpNorm, ScaledNorm, WeightedNorm))


def rounds_powers(threat: Any, norm: Norm) -> bool:
    """Whether an exponent other than 1, 2 and inf, itself rounded, enters norms of this problem."""
    exponents = {getattr(part, "p", 2.0) for part in (norm, getattr(threat, "norm", norm))}
    return not exponents <= {1, 2, math.inf}
