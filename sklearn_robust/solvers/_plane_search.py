r"""The least log-risk over the plane of a step d from coefficients w: of the predictors (u w + v d,
b).

Their margins are linear in u, v and b but for the penalty, :math:`m = u Z w + v Z d + b y - \rho
\|u w + v d\| r`, with the radius :math:`\rho` and the factors r of the samples on it: the search
needs no product with the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from sklearn_robust.losses import MarginLoss, log_risk_and_derivatives
from sklearn_robust.solvers import _newton_rules as rules

_STEPS = 20
_MOST_CHANGE = 1e3  # change of u or v in a step at most, relative to the larger
_SMALL_DECREASE = 0.03  # predicted decrease, as a share of that so far, that ends the search
_ROUNDING = 1e-22  # predicted decrease of the log-risk that is rounding of its gradient
_RIDGE = 1e-12  # share of itself by which the diagonal of its Hessian is raised

# at (u, v) the norm of u w + v d, its gradient (2,) and its Hessian (2, 2)
PlaneNorm = Callable[[float, float], tuple[float, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class PlanePoint:
    """A point theta = (u, v, b) of the plane, and the loss there.

    Attributes
    ----------
    theta : ndarray of shape (3,)
    size : float
        The norm of u w + v d.
    margins, weights, curvatures : ndarray of shape (n,)
    log_risk : float
    """

    theta: np.ndarray
    size: float
    margins: np.ndarray
    weights: np.ndarray
    curvatures: np.ndarray
    log_risk: float


class Plane:
    """The plane, whose basis changes from step to step, and the search over it.

    Attributes
    ----------
    loss : MarginLoss
    log_weight : ndarray of shape (n,)
    used : ndarray of shape (n,), bool, or slice
        Samples of positive weight.
    basis : ndarray of shape (4, n)
        Z w, Z d, the labels, and the factors of the samples on the radius.
    """

    def __init__(
        self,
        loss: MarginLoss,
        log_weight: np.ndarray,
        used: np.ndarray | slice,
        y: np.ndarray,
        factors: np.ndarray,
    ) -> None:
        self.loss = loss
        self.log_weight, self.used = log_weight, used
        self.basis = np.zeros((4, len(y)))
        self.basis[2], self.basis[3] = y, factors

    def evaluated(self, theta: np.ndarray, size: float, radius: float) -> PlanePoint:
        """The loss at theta, where the norm is `size`."""
        margins = np.append(theta, -radius * size) @ self.basis
        log_risk, weights, c = log_risk_and_derivatives(self.loss, margins, self.log_weight)
        return PlanePoint(theta, size, margins, weights, c, float(log_risk))

    def minimised(
        self,
        start: PlanePoint,
        norm: PlaneNorm,
        radius: float,
        *,
        ray: bool,
        step: bool,
        intercept: bool,
        bounded: bool = False,
        log_risk: float | None = None,
    ) -> PlanePoint:
        """Newton's method from a point, until it predicts little more.

        Little is a share of the decrease from log_risk, or rounding where that is None. The named
        variables move, v only as far as u where it is `bounded`.
        """
        free = np.flatnonzero([ray, step, intercept])
        found, decrease = start, math.inf
        theta = start.theta
        for _ in range(_STEPS):
            if found.theta is not theta:
                now = self.evaluated(theta, norm(theta[0], theta[1])[0], radius)
                if not now.log_risk <= found.log_risk + rounding_of(found.log_risk):
                    theta = 0.5 * (theta + found.theta)
                    continue
                surprise = abs(found.log_risk - now.log_risk - decrease)
                found = now
            else:
                surprise = math.inf
            gain = 0.0 if log_risk is None else log_risk - found.log_risk
            enough = max(_SMALL_DECREASE * gain, _ROUNDING)
            if surprise <= enough:
                break
            _, slope, curvature = norm(theta[0], theta[1])
            gradient, hessian = self._derivatives(found, radius * slope, radius * curvature)
            move = _newton_move(gradient, hessian, free)
            if bounded and theta[1] >= theta[0] and move[1] > move[0]:
                # along the side v = u
                side = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
                along = np.arange(len(free) - 1)
                move = _newton_move(side @ gradient, side @ hessian @ side.T, along) @ side
            decrease = 0.5 * float(gradient @ move)
            endless = decrease > rules.LONG_STEP_DECREASE and found.margins[self.used].min() > 0
            if endless or not decrease > enough:
                break
            furthest = _MOST_CHANGE * max(1.0, float(np.abs(theta[:2]).max()))
            share = min(1.0, furthest / (float(np.abs(move[:2]).max()) or 1.0))
            room, approach = theta[0] - theta[1], move[1] - move[0]
            if bounded and share * approach > room > 0:
                share = room / approach  # to the side
            decrease *= share * (2 - share)
            theta = theta + share * move
            theta[:2] = np.maximum(theta[:2], 0.0)  # beyond, linear norms are not norms
            if bounded:
                theta[1] = min(theta[1], theta[0])
        return found

    def _derivatives(
        self, found: PlanePoint, slope: np.ndarray, curvature: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Minus the gradient of the log-risk by theta, and the Hessian."""
        a = found.weights
        c = rules.curvatures(found.curvatures, found.margins, a)
        theta = rules.largest_theta(c, a)
        sums, products = self.basis @ a, (self.basis * c) @ self.basis.T
        products -= theta * np.outer(sums, sums)
        rates = np.eye(3, 4)  # the margins move with scores and labels, less the penalty
        rates[:2, 3] = -slope
        hessian = rates @ products @ rates.T
        hessian[:2, :2] += sums[3] * curvature
        return rates @ sums, hessian


def _newton_move(gradient: np.ndarray, hessian: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Newton's step in these variables, those along which the Hessian is not positive left out."""
    move = np.zeros(len(gradient))
    diagonal = np.diag(hessian)[free]
    free = free[diagonal > 0]
    if len(free):
        matrix = hessian[np.ix_(free, free)]
        matrix.flat[:: len(free) + 1] *= 1 + _RIDGE
        solved, info = lapack.dposv(matrix, gradient[free])[1:]
        if info == 0:
            move[free] = solved
    return move


def rounding_of(log_risk: float) -> float:
    """The rounding of a log-risk."""
    return 8 * float(np.finfo(float).eps) * (1 + abs(log_risk))


def linear(size: float, growth: float) -> PlaneNorm:
    """The norm u size + v growth at (u, v), with its gradient and Hessian."""

    def value(u: float, v: float) -> tuple[float, np.ndarray, np.ndarray]:
        return u * size + v * growth, np.array([size, growth]), np.zeros((2, 2))

    return value


def euclidean(coef: np.ndarray, step: np.ndarray) -> PlaneNorm:
    """The 2-norm of u coef + v step at (u, v), with its gradient and Hessian."""
    pair = np.stack([coef, step])
    products = pair @ pair.T

    def value(u: float, v: float) -> tuple[float, np.ndarray, np.ndarray]:
        at = products @ (u, v)
        square = float(at @ (u, v))
        if not square > 0:
            return 0.0, np.zeros(2), np.zeros((2, 2))
        size = math.sqrt(square)
        slope = at / size
        return size, slope, (products - np.outer(slope, slope)) / size

    return value
