"""The interface of a set of perturbations: what each threat offers, and what it may offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from sklearn_robust._array_api import Array


class Threat(Protocol):
    r"""A convex set U of perturbations that holds 0.

    Arrays are (..., d), NumPy or torch; every leading index is a vector of its own.

    A set that has them may offer closed forms in place of the functions of the same names in
    `sklearn_robust.threats`: `support`, `reach`, `gauge`, `residual`, `inside`, `reachable`,
    `inner_point`, `face` and `descent_direction`; and `mapped(function)`, the set with the function
    of its arrays, without which its arrays must serve every dtype and device.
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

        w and g are (..., d), radius a number or (...). `norm` is one of this library's: for another
        one `threats.steepest_subgradient` asks for `LpNorm(2)`, and splits.
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
