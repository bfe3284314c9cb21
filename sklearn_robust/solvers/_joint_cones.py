r"""The cones of the pair norms in the interior point: :math:`t_{lk} \ge \|D_{lk}\|_{q^*}` for the
scaled differences :math:`D_{lk} = s (w_l - w_k)`, with multipliers :math:`(\lambda_{lk},
\delta_{lk})`, :math:`\|\delta_{lk}\|_q \le \lambda_{lk}`.

A Newton step of the condition that slack times multiplier be :math:`\mu_{lk}` leaves new
multipliers that are affine in the step:

.. math:: (\delta, -\lambda)^+ = f + \Theta\, (dD, dt),

with a force f and a positive semidefinite :math:`\Theta`, the sum of a diagonal in D, a coupling of
each entry of D with t, a multiple of t and one rank-one term. One :math:`\mu` for each pair keeps
pairs of small weight from large slacks.

=======  ===================  ================================================================
q        cone                 slacks
=======  ===================  ================================================================
inf      of the 1-norm        :math:`t_{j} \pm D_j` for each feature, :math:`t = \sum_j t_j`
1        of the max-norm      :math:`t \pm D_j`
2        of the 2-norm        the second-order cone, in Nesterov and Todd's scaling
=======  ===================  ================================================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

_SHARE_TO_BOUNDARY = 0.95  # share of the step to the boundary of a cone that is taken
_WIDEST_SHARE = 0.4  # q = 1: slack at the start, as a share of max |D| / d, beyond which many small
# entries would carry all of the multiplier
_MAX_BISECTIONS = 60


@dataclass(frozen=True)
class Scaling:
    r"""The force and :math:`\Theta` of all P pairs.

    Attributes
    ----------
    diagonal : ndarray of shape (P, d)
    coupling : ndarray of shape (P, d)
        Between D and t.
    of_pair : ndarray of shape (P,)
        The multiple of t.
    row, row_of_pair : ndarray of shape (P, d), (P,)
        The rank-one term is the outer product of (row, row_of_pair).
    force, force_of_pair : ndarray of shape (P, d), (P,)
    """

    diagonal: np.ndarray
    coupling: np.ndarray
    of_pair: np.ndarray
    row: np.ndarray
    row_of_pair: np.ndarray
    force: np.ndarray
    force_of_pair: np.ndarray

    def product(self, dD: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r""":math:`\Theta` times (dD, dt)."""
        along = _dot(self.row, dD) + self.row_of_pair * dt
        by_difference = self.diagonal * dD + self.coupling * dt[:, None] + along[:, None] * self.row
        by_pair = _dot(self.coupling, dD) + self.of_pair * dt + along * self.row_of_pair
        return by_difference, by_pair


class PairCones(ABC):
    """The slacks and multipliers of all pairs, which an interior point moves.

    Attributes
    ----------
    D : ndarray of shape (P, d)
    t : ndarray of shape (P,)
    """

    D: np.ndarray
    t: np.ndarray

    @abstractmethod
    def __init__(self, D: np.ndarray, lam: np.ndarray, smoothing: float) -> None:
        r"""Start from the differences and the :math:`\lambda` of the pairs, with slacks of about
        the smoothing.
        """

    @property
    @abstractmethod
    def multipliers(self) -> tuple[np.ndarray, np.ndarray]:
        r""":math:`\delta` (P, d) and :math:`\lambda` (P,)."""

    @property
    @abstractmethod
    def degree(self) -> int:
        r"""The number of products in a pair: they sum to degree times :math:`\mu`."""

    @abstractmethod
    def scaling(self, mu: np.ndarray) -> Scaling:
        r"""The force and :math:`\Theta` for the products :math:`\mu` (P,)."""

    def corrected(self, dD: np.ndarray, dt: np.ndarray) -> Scaling | None:
        """The last scaling with a force that allows for the products of the changes of slacks and
        multipliers along a step; None where the cones have none.
        """
        return None

    @abstractmethod
    def lengths(self, dD: np.ndarray, dt: np.ndarray) -> tuple[float, float]:
        """The shares, at most 1, of a step of slacks and of multipliers that the cones allow, for
        the force of the last scaling.
        """

    @abstractmethod
    def move(self, dD: np.ndarray, dt: np.ndarray, share: float = 1.0) -> float:
        """Take this share of the step that the cones allow; the share of the primal step that was
        taken.
        """

    def products(self) -> np.ndarray:
        r"""The sum of slacks times multipliers of each pair, :math:`t \lambda - \langle D,
        \delta\rangle`.
        """
        delta, lam = self.multipliers
        return self.t * lam - _dot(self.D, delta)


class _LinearCones(PairCones):
    """Cones of linear inequalities: slacks above and below D, each with a multiplier.

    Attributes
    ----------
    upper, lower : ndarray of shape (P, d)
        The multipliers of t - D >= 0 and of t + D >= 0, with t for each entry where it has its own.
    """

    upper: np.ndarray
    lower: np.ndarray

    @abstractmethod
    def _ceiling(self) -> np.ndarray:
        """What bounds |D|, (P, d) or (P, 1)."""

    @property
    def degree(self) -> int:
        return 2 * self.D.shape[1]

    @abstractmethod
    def _ceiling_change(self, dD: np.ndarray, dt: np.ndarray) -> np.ndarray:
        """The change of the ceiling along a step."""

    @abstractmethod
    def _scaling(self) -> Scaling:
        """The scaling from quotients and targets."""

    def scaling(self, mu: np.ndarray) -> Scaling:
        ceiling = self._ceiling()
        self._mu = mu[:, None]
        self._above, self._below = ceiling - self.D, ceiling + self.D
        self._ratio_above, self._ratio_below = self.upper / self._above, self.lower / self._below
        self._target_above, self._target_below = self._mu / self._above, self._mu / self._below
        return self._scaling()

    def corrected(self, dD: np.ndarray, dt: np.ndarray) -> Scaling:
        above, below, d_upper, d_lower = self._changes(dD, dt)
        self._target_above = (self._mu - above * d_upper) / self._above
        self._target_below = (self._mu - below * d_lower) / self._below
        return self._scaling()

    def lengths(self, dD: np.ndarray, dt: np.ndarray) -> tuple[float, float]:
        above, below, d_upper, d_lower = self._changes(dD, dt)
        primal = min(_to_zero(self._above, above), _to_zero(self._below, below))
        dual = min(_to_zero(self.upper, d_upper), _to_zero(self.lower, d_lower))
        return primal, dual

    def move(self, dD: np.ndarray, dt: np.ndarray, share: float = 1.0) -> float:
        primal, dual = (share * length for length in self.lengths(dD, dt))
        _, _, d_upper, d_lower = self._changes(dD, dt)
        self.upper = self.upper + dual * d_upper
        self.lower = self.lower + dual * d_lower
        self._raise(primal * self._ceiling_change(dD, dt))
        self.D = self.D + primal * dD
        return primal

    @abstractmethod
    def _raise(self, change: np.ndarray) -> None:
        """Change the ceiling."""

    def _changes(self, dD: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, ...]:
        """Changes of the slacks above and below, and of their multipliers."""
        change = self._ceiling_change(dD, dt)
        above, below = change - dD, change + dD
        d_upper = self._target_above - self._ratio_above * above - self.upper
        d_lower = self._target_below - self._ratio_below * below - self.lower
        return above, below, d_upper, d_lower


class OneNormCones(_LinearCones):
    r"""q = inf: :math:`t = \sum_j t_j`, :math:`t_j \ge |D_j|`."""

    def __init__(self, D: np.ndarray, lam: np.ndarray, smoothing: float) -> None:
        half = 0.5 * smoothing
        self.D = D
        self.entries = half + np.sqrt(half**2 + D**2)
        self.t = self.entries.sum(axis=1)
        mu = half * lam
        self.upper = mu[:, None] / (self.entries - D)
        self.lower = mu[:, None] / (self.entries + D)

    def _ceiling(self) -> np.ndarray:
        return self.entries

    @property
    def multipliers(self) -> tuple[np.ndarray, np.ndarray]:
        return self.upper - self.lower, (self.upper + self.lower)[:, 0]

    def _scaling(self) -> Scaling:
        r"""The entries :math:`t_j` eliminated."""
        total = self._ratio_above + self._ratio_below
        self._total = total
        slope = (self._ratio_above - self._ratio_below) / total
        self._slope = slope
        self._sigma = (1 / total).sum(axis=1)
        both = self._target_above + self._target_below
        self._lam = (both / total).sum(axis=1) / self._sigma
        root = np.sqrt(self._sigma)
        return Scaling(
            4 * self._ratio_above * self._ratio_below / total,
            np.zeros_like(total),
            np.zeros_like(root),
            slope / root[:, None],
            -1 / root,
            self._target_above - self._target_below + slope * (self._lam[:, None] - both),
            -self._lam,
        )

    def _ceiling_change(self, dD: np.ndarray, dt: np.ndarray) -> np.ndarray:
        lam = self._lam + (_dot(self._slope, dD) - dt) / self._sigma
        both = self._target_above + self._target_below
        change: np.ndarray = (both - lam[:, None]) / self._total + self._slope * dD
        return change

    def _raise(self, change: np.ndarray) -> None:
        self.entries = self.entries + change
        self.t = self.entries.sum(axis=1)


class MaxNormCones(_LinearCones):
    r"""q = 1: :math:`t \ge |D_j|` for all j."""

    def __init__(self, D: np.ndarray, lam: np.ndarray, smoothing: float) -> None:
        self.D = D
        largest = np.abs(D).max(axis=1)
        widest = np.where(largest > 0, _WIDEST_SHARE * largest / D.shape[1], smoothing)
        mu = 0.5 * lam * np.minimum(smoothing, widest)
        # sum_j 2 t / (t^2 - D_j^2) = lam / mu, decreasing in t, by bisection
        wanted = lam / mu
        low = largest
        high = largest + 2 * D.shape[1] / wanted
        for _ in range(_MAX_BISECTIONS):
            middle = 0.5 * (low + high)
            gap = np.maximum(middle[:, None] - np.abs(D), np.finfo(float).tiny)
            sums = (1 / gap + 1 / (middle[:, None] + np.abs(D))).sum(axis=1)
            low, high = np.where(sums > wanted, middle, low), np.where(sums > wanted, high, middle)
        self.t = high
        self.upper = mu[:, None] / (high[:, None] - D)
        self.lower = mu[:, None] / (high[:, None] + D)

    def _ceiling(self) -> np.ndarray:
        return self.t[:, None]

    @property
    def multipliers(self) -> tuple[np.ndarray, np.ndarray]:
        return self.upper - self.lower, (self.upper + self.lower).sum(axis=1)

    def _scaling(self) -> Scaling:
        total = self._ratio_above + self._ratio_below
        zero = np.zeros_like(self.t)
        return Scaling(
            total,
            self._ratio_below - self._ratio_above,
            total.sum(axis=1),
            np.zeros_like(total),
            zero,
            self._target_above - self._target_below,
            -(self._target_above + self._target_below).sum(axis=1),
        )

    def _ceiling_change(self, dD: np.ndarray, dt: np.ndarray) -> np.ndarray:
        return dt[:, None]

    def _raise(self, change: np.ndarray) -> None:
        self.t = self.t + change[:, 0]


class TwoNormCones(PairCones):
    r"""q = 2: the second-order cone, with the scaling point w of slack (t, D) and multiplier
    :math:`(\lambda, -\delta)`: :math:`\Theta = (2 v v^T - J) / \eta^2`, v = J w, J = diag(1, -I).
    """

    degree = 1

    def __init__(self, D: np.ndarray, lam: np.ndarray, smoothing: float) -> None:
        half = 0.5 * smoothing
        self.D = D
        self.t = half + np.sqrt(half**2 + _dot(D, D))
        self._lam = lam
        self._delta = lam[:, None] * D / self.t[:, None]

    @property
    def multipliers(self) -> tuple[np.ndarray, np.ndarray]:
        return self._delta, self._lam

    def scaling(self, mu: np.ndarray) -> Scaling:
        slack, dual = _determinant(self.t, self.D), _determinant(self._lam, self._delta)
        a, b = np.sqrt(slack), np.sqrt(dual)
        t, D = self.t / a, self.D / a[:, None]
        lam, delta = self._lam / b, self._delta / b[:, None]
        # the slack's direction (t, D) plus J times the multiplier's (lam, -delta), over its size
        gamma = np.sqrt(0.5 * (1 + t * lam - _dot(D, delta)))
        point, point_D = 0.5 * (t + lam) / gamma, 0.5 * (D + delta) / gamma[:, None]
        inverse = b / a  # 1 / eta^2
        root = np.sqrt(2 * inverse)
        self._last = Scaling(
            np.broadcast_to(inverse[:, None], self.D.shape),
            np.zeros_like(self.D),
            -inverse,
            -point_D * root[:, None],
            point * root,
            (mu / slack)[:, None] * self.D,
            -mu * self.t / slack,
        )
        return self._last

    def lengths(self, dD: np.ndarray, dt: np.ndarray) -> tuple[float, float]:
        d_delta, d_lam = self._changes(dD, dt)
        primal = _to_cone(self.t, self.D, dt, dD)
        return primal, _to_cone(self._lam, self._delta, d_lam, d_delta)

    def move(self, dD: np.ndarray, dt: np.ndarray, share: float = 1.0) -> float:
        primal, dual = (share * length for length in self.lengths(dD, dt))
        d_delta, d_lam = self._changes(dD, dt)
        self.D, self.t = self.D + primal * dD, self.t + primal * dt
        self._delta, self._lam = self._delta + dual * d_delta, self._lam + dual * d_lam
        return primal

    def _changes(self, dD: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Changes of the multipliers along a step."""
        by_difference, by_pair = self._last.product(dD, dt)
        d_delta = self._last.force + by_difference - self._delta
        return d_delta, -(self._last.force_of_pair + by_pair) - self._lam


CONES: dict[float, type[PairCones]] = {
    1.0: MaxNormCones,
    2.0: TwoNormCones,
    math.inf: OneNormCones,
}


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The inner products of rows, (P, d), (P, d) -> (P,)."""
    products: np.ndarray = np.einsum("pd,pd->p", a, b)
    return products


def _to_zero(values: np.ndarray, changes: np.ndarray) -> float:
    """The share of a step, at most 1, that keeps positive values from zero."""
    fastest = float(np.max(-changes / values, initial=0.0))
    return min(1.0, _SHARE_TO_BOUNDARY / fastest) if fastest > 0 else 1.0


def _determinant(t: np.ndarray, D: np.ndarray) -> np.ndarray:
    """t^2 - |D|^2, as a product of its factors."""
    size = np.sqrt(_dot(D, D))
    return (t - size) * (t + size)


def _to_cone(t: np.ndarray, D: np.ndarray, dt: np.ndarray, dD: np.ndarray) -> float:
    r"""The share of a step, at most 1, that keeps (t, D) inside the second-order cones.

    The boundary is the least positive root of :math:`c + 2 b x + a x^2`, the determinant along the
    step; where it has none, or only negative ones, the step never reaches it.
    """
    a = dt**2 - _dot(dD, dD)
    b = t * dt - _dot(D, dD)
    c = _determinant(t, D)
    discriminant = b**2 - a * c
    root = np.sqrt(np.maximum(discriminant, 0.0))
    # c / (-b + root) is the least positive root wherever one exists, without cancellation
    below = -b + root
    meets = (discriminant >= 0) & (below > 0)
    length = np.where(meets, c / np.where(meets, below, 1.0), math.inf)
    return min(1.0, _SHARE_TO_BOUNDARY * float(length.min(initial=math.inf)))
