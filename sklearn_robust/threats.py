r"""What the adversary may do: the interface of a set of perturbations, and the l_q ball.

A threat is a convex set U that holds 0; every sample x may become x + delta with delta in U. What
it takes from the margin of a predictor w is the support function

.. math:: \sigma(w) = \max_{\delta \in U} \langle w, \delta \rangle.

`Threat` is all that a set must offer. The other protocols are optional, and a solver names the one
that it needs by `require`. The functions of this module compute what a set leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, TypeGuard

import numpy as np
from array_api_compat import is_array_api_obj, is_torch_array
from scipy import sparse
from sklearn.utils.metaestimators import available_if

from sklearn_robust._array_api import Array, as_float, like, namespace, to_numpy
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.scaled_norms import ScaledNorm, WeightedNorm
from sklearn_robust.splitting import nearest_residual

_BLOCK_ENTRIES = 2**18  # of a matrix of unit vectors that is formed at a time
_MAX_GAUGE = 100  # hyperplanes that bound a gauge; a polytope of few facets needs few
_NEAR = 10  # times the excess over the radius: how far from a face an entry is still on it
_EQUAL = 64  # machine epsilons: two numbers that differ by less, relative to the larger, are equal


class Threat(Protocol):
    r"""A convex set U of perturbations that holds 0.

    Arrays are (..., d), NumPy or torch; every leading index is a vector of its own.

    A set that has them may offer closed forms in place of the functions of the same names in this
    module: `support`, `gauge`, `residual`, `inside`, `reachable`; and `mapped(function)`, the set
    with the function of its arrays, without which its arrays must serve every dtype and device.
    """

    @property
    def symmetric(self) -> bool:
        """Whether -delta is in U with delta."""
        ...

    def worst(self, v: Array, /) -> Array:
        r"""A point of :math:`\arg\max_{\delta \in U} \langle v, \delta \rangle`: (..., d) -> (...,
        d).
        """
        ...


class ProximalThreat(Threat, Protocol):
    """A threat with a Euclidean projection: certificates, proximal steps, acceleration."""

    def project(self, x: Array, radius: Array | float = 1.0, /) -> Array:
        r"""The point of :math:`\text{radius} \cdot U` nearest to x in the 2-norm.

        x is (..., d), radius a number or (...) >= 0.
        """
        ...


class KinkedThreat(ProximalThreat, Protocol):
    r"""A threat that knows where its support function has kinks: steepest descent in norms other
    than the 2-norm, which stalls at kinks otherwise.
    """

    def min_norm_subgradient(
        self, w: Array, g: Array, radius: Array | float, norm: Any, /
    ) -> Array:
        r"""The element of :math:`g + \text{radius}\,\partial \sigma(w)` that is least in `norm`.

        w and g are (..., d), radius a number or (...). `norm` is one of this library's; for another
        one `threats.min_norm_subgradient` asks for `LpNorm(2)` and splits.
        """
        ...

    def stop_at_kinks(self, w: Array, moved: Array, /) -> Array:
        r"""`moved`, or where the way from w to it first meets a kink of :math:`\sigma` that it
        would jump over, coordinate by coordinate: (..., d), (..., d) -> (..., d).
        """
        ...


class ConicSet(NamedTuple):
    r"""The set :math:`\{x : \exists s,\ h - E x - F s \in K\}`, K a product of cones.

    Attributes
    ----------
    E : array or scipy.sparse array of shape (m, d)
    F : array or scipy.sparse array of shape (m, number of s)
    h : ndarray of shape (m,)
    cones : sequence of (kind, size)
        In the order of the rows. The kinds are "zero", "nonnegative" and "second_order"; the first
        entry of a second-order cone bounds the 2-norm of the others.
    """

    E: Any
    F: Any
    h: np.ndarray
    cones: Sequence[tuple[str, int]]


class ConicThreat(Threat, Protocol):
    """A threat described by cones: Newton's method with a cone program as its step."""

    def conic(self) -> ConicSet | tuple[Any, Any, np.ndarray, Sequence[tuple[str, int]]]:
        """The set as a `ConicSet`, or a tuple of its four parts."""
        ...


def support(threat: Threat, v: Array) -> Array:
    r""":math:`\sigma(v) = \langle v, \text{worst}(v) \rangle`: (..., d) -> (...)."""
    if hasattr(threat, "support"):
        return threat.support(v)
    return namespace(v).sum(v * threat.worst(v), axis=-1)


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
    xp, d = namespace(like), like.shape[-1]
    rows = max(1, _BLOCK_ENTRIES // d)
    return max(
        float(
            xp.max(
                support(
                    threat, xp.eye(min(rows, d - k), d, k=k, dtype=like.dtype, device=like.device)
                )
            )
        )
        for k in range(0, d, rows)
    )


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
    return nearest_residual(lambda x: threat.project(x, radius), g, norm)


def min_norm_subgradient(
    threat: KinkedThreat, w: Array, g: Array, radius: Array | float, norm: Norm
) -> Array:
    r"""The element of :math:`g + \text{radius}\,\partial \sigma(w)` that is least in `norm`.

    In a norm that is not of this library it is found by splitting: the projection of x on the face
    :math:`\text{radius}\,\partial \sigma(w)` is x plus the element of least 2-norm of that face
    moved by -x.
    """
    if has_exponent(norm):
        return threat.min_norm_subgradient(w, g, radius, norm)

    def project(x: Array) -> Array:
        # the set of the points -delta, delta on the face: g + delta is g minus such a point
        return x - threat.min_norm_subgradient(w, x, radius, LpNorm(2))

    return nearest_residual(project, g, norm)


def descent_direction(threat: Any, w: Array, subgradient: Array, taken: Array, norm: Norm) -> Array:
    r"""The direction of unit norm in which the log-risk falls fastest, up to sign, given its
    subgradient of least dual norm.

    `taken` is the part of the subgradient that comes from the penalty, an element of
    :math:`\text{radius}\,\partial \sigma(w)`. A threat whose method `descent_direction` knows
    better at kinks is asked.
    """
    if hasattr(threat, "descent_direction") and has_exponent(norm):
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


def is_ball(threat: Any) -> TypeGuard[LpBall]:
    """Whether the threat is an l_q ball of this library."""
    return isinstance(threat, LpBall)


def require_ball(threat: Any, solver: str) -> LpBall:
    """The threat, where it is an l_q ball; an error that names the solver where it is not."""
    if not is_ball(threat):
        raise ValueError(
            f"{_capital(solver)} serves l_q balls only, got threat={_name(threat)}: use an LpBall, "
            f"or steepest_descent."
        )
    return threat


# what to turn to where a threat lacks the methods of a protocol
_REMEDY: dict[type, str] = {
    ProximalThreat: "write it, as `worst` alone gives margins but no certificate",
    KinkedThreat: "write them, or use steepest_descent in LpNorm(2)",
    ConicThreat: "write it, or use steepest_descent",
}


def offers(threat: Any, protocol: type) -> bool:
    """Whether the threat has all methods of a protocol."""
    return not _missing(threat, protocol)


def require(threat: Any, protocol: type, solver: str) -> None:
    """Raise where the threat lacks a method of the protocol that the solver needs.

    Parameters
    ----------
    threat : Threat
    protocol : ProximalThreat, KinkedThreat or ConicThreat
    solver : str
        What needs it, as the subject of a sentence: "the accelerated solver".

    Raises
    ------
    ValueError
        In one sentence: the threat, the methods that it lacks, the solver that needs them, and the
        remedy.
    """
    missing = _missing(threat, protocol)
    if missing:
        raise ValueError(
            f"{_capital(solver)} needs {' and '.join(missing)} of a threat, which "
            f"threat={_name(threat)} does not offer: {_REMEDY[protocol]}."
        )


def _missing(threat: Any, protocol: type) -> list[str]:
    """The methods of the protocol that the threat lacks."""
    methods = [
        name
        for part in reversed(protocol.__mro__)
        if part not in (object, Protocol)
        for name in vars(part)
        if not name.startswith("_")
    ]
    return [name for name in methods if not hasattr(threat, name)]


def _capital(subject: str) -> str:
    """The subject at the head of a sentence; names of functions stay as they are."""
    return subject if "_" in subject.split()[0] else subject[0].upper() + subject[1:]


def _name(threat: Any) -> str:
    """The threat in a message."""
    return repr(threat) if is_ball(threat) else type(threat).__name__


def unit_threat(threat: Any, one: Array) -> tuple[Threat, float]:
    """The set for radius 1, on vectors such as `one`, of shape (1, d), and the radius.

    A ball is split into its unit ball and its radius; another threat has radius 1 as it stands.
    """
    if not is_ball(threat):
        check_threat(threat, one)
        return threat, 1.0
    if threat.scale is None:
        return LpBall(threat.q, 1.0), threat.eps
    scale = like(one, check_scale(threat.scale, "scale"))
    if scale.shape[0] != one.shape[1]:
        raise ValueError(
            f"scale must hold a number for each of the {one.shape[1]} features, got "
            f"{scale.shape[0]}."
        )
    return LpBall(threat.q, 1.0, scale), threat.eps


def check_threat(threat: Any, one: Array) -> None:
    """Refuse what is no symmetric threat on vectors such as `one`, of shape (1, d)."""
    if isinstance(threat, type) or not offers(threat, Threat):
        raise ValueError(
            f"threat must be an LpBall or an object with `symmetric` and `worst(v)`, got "
            f"{threat!r}: for an l_q ball use LpBall(q, eps)."
        )
    if not threat.symmetric:
        raise ValueError(
            f"threat must be symmetric, with -delta for every delta, got threat={_name(threat)} of "
            f"symmetric={threat.symmetric!r}: use the smallest symmetric set that holds it."
        )
    shape = getattr(threat.worst(one), "shape", None)
    if shape != one.shape:
        raise ValueError(
            f"threat.worst must return an array of the shape of its argument, {tuple(one.shape)}, "
            f"got {shape and tuple(shape)} of threat={_name(threat)}: give it the {one.shape[1]} "
            f"features of X."
        )


@dataclass(frozen=True)
class LpBall:
    r"""The threat :math:`\{\delta : \|\delta / s\|_q \le \epsilon\}`, and what it does to a linear
    predictor.

    For w and a sample (x, y) with y in {-1, +1} the worst case has a closed form, with q* the dual
    exponent: :math:`\min_{\|\delta / s\|_q \le \epsilon} y \langle w, x + \delta\rangle = y \langle
    w, x\rangle - \epsilon \|s w\|_{q^*}`.

    Parameters
    ----------
    q : float
        Exponent of the perturbation's norm, in [1, inf].
    eps : float
        Radius, >= 0, in the units of the features.
    scale : array of shape (d,), optional
        The scale s_j >= 0 of each feature: how far the adversary can move it, relative to the
        others. A feature of scale 0 is out of its reach: :math:`\delta_j = 0`. Every feature has 1
        by default.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import LpBall
    >>> LpBall(np.inf, 0.5).penalty(np.array([1.0, -2.0]))
    np.float64(1.5)
    >>> LpBall(np.inf, 0.5, scale=[1.0, 0.0]).penalty(np.array([1.0, -2.0]))
    np.float64(0.5)
    """

    q: float
    eps: float
    scale: Any = None  # array

    symmetric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "q", LpNorm(self.q).p)
        object.__setattr__(self, "eps", check_radius(self.eps, "eps"))
        if self.scale is not None:
            checked = check_scale(self.scale, "scale")
            object.__setattr__(self, "scale", _of_type(self.scale, checked))

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold q, eps and scale, not what was computed from them."""
        return {"q": self.q, "eps": self.eps, "scale": self.scale}

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
        return self.eps * self.norm.steepest_direction(coef)

    # the same under the names of the interface: the support function of the ball, and its gradient
    support = penalty
    worst = perturbation

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

    @available_if(_has_cones)  # type: ignore[untyped-decorator]
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
        scale = to_numpy(self.scale).astype(np.float64)
        rows = sparse.eye_array(len(scale), format="csr")
        free, fixed = np.flatnonzero(scale > 0), np.flatnonzero(scale == 0)
        moved, s, n = rows[free], scale[free], len(free)
        nothing = np.zeros(n)
        if self.q == math.inf:
            E, F = sparse.vstack([moved, -moved]), sparse.csr_array((2 * n, 0))
            h, cone = self.eps * np.concatenate([s, s]), ("nonnegative", 2 * n)
        elif self.q == 2:
            E = sparse.vstack(
                [sparse.csr_array((1, len(scale))), sparse.diags_array(1 / s) @ moved]
            )
            F = sparse.csr_array((n + 1, 0))
            h, cone = np.append(self.eps, nothing), ("second_order", n + 1)
        else:
            bound = sparse.eye_array(n)
            E = sparse.vstack([moved, -moved, sparse.csr_array((1, len(scale)))])
            F = sparse.vstack([-bound, -bound, sparse.csr_array(1 / s[None])])
            h, cone = np.concatenate([nothing, nothing, [self.eps]]), ("nonnegative", 2 * n + 1)
        if len(fixed) == 0:
            return ConicSet(E, F, h, [cone])
        F = sparse.vstack([F, sparse.csr_array((len(fixed), F.shape[1]))])
        h = np.append(h, np.zeros(len(fixed)))
        return ConicSet(sparse.vstack([E, rows[fixed]]), F, h, [cone, ("zero", len(fixed))])


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


def check_radius(eps: float, name: str) -> float:
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
