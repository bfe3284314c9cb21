"""What the adversary may do: move each sample anywhere in an l_q ball of radius eps, some features
further than others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj, is_torch_array

from sklearn_robust._array_api import Array, as_float, like, namespace, to_numpy
from sklearn_robust.norms import LpNorm
from sklearn_robust.scaled_norms import ScaledNorm, WeightedNorm


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

    def reachable(self, x: Array) -> Array:
        """x with zero in place of the features that the adversary cannot touch."""
        return x if self.scale is None else namespace(x).where(self.scale > 0, x, 0 * x)

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
