"""What the adversary may do: move each sample anywhere in an l_q ball of radius eps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

from array_api_compat import is_array_api_obj

from sklearn_robust._array_api import Array
from sklearn_robust.norms import LpNorm


@dataclass(frozen=True)
class LpBall:
    r"""The threat :math:`\{\delta : \|\delta\|_q \le \epsilon\}`, and what it does to a linear predictor.

    For w and a sample (x, y) with y in {-1, +1} the worst case has a closed form, with q* the dual exponent:
    :math:`\min_{\|\delta\|_q \le \epsilon} y \langle w, x + \delta\rangle = y \langle w, x\rangle - \epsilon \|w\|_{q^*}`.

    Parameters
    ----------
    q : float
        Exponent of the perturbation's norm, in [1, inf].
    eps : float or array of shape (k,)
        Radius, >= 0, in the units of the features; an array holds one radius for each of k problems.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import LpBall
    >>> LpBall(np.inf, 0.1).penalty(np.array([1.0, -2.0]))
    np.float64(0.30000000000000004)
    """

    q: float
    eps: Any  # float or array

    def __post_init__(self) -> None:
        object.__setattr__(self, "q", LpNorm(self.q).p)
        if not is_array_api_obj(self.eps) or isinstance(self.eps, Real):
            object.__setattr__(self, "eps", check_radius(self.eps, "eps"))

    @cached_property
    def norm(self) -> LpNorm:
        """The norm that bounds the perturbation."""
        return LpNorm(self.q)

    @cached_property
    def dual_norm(self) -> LpNorm:
        """The norm of w that measures the damage: exponent q*."""
        return self.norm.dual

    def penalty(self, coef: Array) -> Array:
        """The margin that the adversary takes, eps ||w||_q*.

        Parameters
        ----------
        coef : array of shape (..., d)

        Returns
        -------
        array of shape (...)
        """
        return self.eps * self.dual_norm.value(coef)

    def perturbation(self, coef: Array) -> Array:
        r"""The perturbation of size eps that raises <w, x> most; a sample of label y is attacked by -y times it.

        It is the same for every x and does not depend on the scale of w. q = inf: eps sign(w); q = 2: eps w / ||w||_2;
        q = 1: all of eps on the largest entries of w.

        Parameters
        ----------
        coef : array of shape (..., d)

        Returns
        -------
        array of shape (..., d)
        """
        eps = self.eps[..., None] if is_array_api_obj(self.eps) and self.eps.ndim else self.eps
        return eps * self.norm.steepest_direction(coef)


def check_radius(eps: float, name: str) -> float:
    """Validate a radius given by a user under the parameter `name`; returns it as a float."""
    if isinstance(eps, bool) or not isinstance(eps, Real) or not 0 <= eps < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {eps!r}. Use {name}=0 for training without an adversary.")
    return float(eps)
