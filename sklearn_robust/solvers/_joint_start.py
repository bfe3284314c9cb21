r"""Quasi-Newton descent on a smoothed joint risk: the start of the interior point, and the method
where it does not serve.

The penalty of each pair is replaced by a smooth one that differs by an amount in proportion to
:math:`\beta`: larger for l_q balls, smaller for other sets U of perturbations (Moreau):

=========  =====================================================================
q = 1      :math:`\beta \log \sum_j 2 \cosh(D_j / \beta)`
other q    :math:`\|e\|_{q^*}` with :math:`e_j = \sqrt{D_j^2 + \beta^2}`; for
           q = 2 one :math:`\beta^2` is added for all features together
other U    :math:`\max_{\delta \in U} \langle D, \delta \rangle - \tfrac12 c \|\delta\|_2^2`,
           :math:`c = \beta / \|(\sigma(e_1) .. \sigma(e_d))\|_2`, attained at the projection
           of D / c on U
=========  =====================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy

from sklearn_robust._conic_programs import unit_differences
from sklearn_robust.joint import JointProblem
from sklearn_robust.solvers._joint_model import JointModel, RiskPoint
from sklearn_robust.threats import feature_reach, gauge, is_ball, support

_LBFGS_MEMORY = 10  # pairs of differences that L-BFGS keeps
_BLOCK_ENTRIES = 2**15  # entries of the differences of a block of pairs, about
_PAIRS_OF_A_CLASS = 8  # pairs of a block for each class, at least
_ALL = slice(None)


def smoothed_norms(D: np.ndarray, dual_q: float, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """Smooth upper bounds (P,) of the dual norms of the rows of D (P, d), and their gradients."""
    if not D.size:
        return np.zeros(len(D)), np.zeros_like(D)
    if dual_q == math.inf:
        size = np.abs(D)
        largest = size.max(axis=1, keepdims=True)
        up = np.exp((size - largest) / smoothing)
        down = np.exp((-size - largest) / smoothing)
        total = (up + down).sum(axis=1, keepdims=True)
        norms = largest + smoothing * np.log(total)
        return norms[:, 0], np.sign(D) * (up - down) / total
    if dual_q == 2:
        norms = np.sqrt(np.einsum("pd,pd->p", D, D) + smoothing**2)
        return norms, D / norms[:, None]
    size = np.sqrt(D**2 + smoothing**2)
    if dual_q == 1:
        return size.sum(axis=1), D / size
    largest = size.max(axis=1, keepdims=True)
    powers = (size / largest) ** (dual_q - 1)
    total = np.einsum("pd,pd->p", powers, size / largest)
    norms = largest[:, 0] * total ** (1 / dual_q)
    slopes = powers * (D / size) / total[:, None] ** (1 - 1 / dual_q)
    return norms, slopes


class PairDifferences:
    """The differences D of the pairs of classes, scaled as a ball is, on the features that the
    adversary reaches.

    Parameters
    ----------
    model : JointModel

    Attributes
    ----------
    columns : ndarray of int of shape (r,)
        The features that the adversary reaches.
    scale : ndarray of shape (r,)
    incidence : sparse array of shape (P, K)
        1 and -1 at the classes of each pair.
    """

    def __init__(self, model: JointModel) -> None:
        self.model = model
        self.threat = model.problem.threat
        d = model.problem.n_features
        if is_ball(self.threat):
            scale = self.threat.scale
            reach = scale = np.ones(d) if scale is None else np.asarray(scale, float)
        else:
            reach, scale = feature_reach(self.threat, np.zeros((1, d))), np.ones(d)
        self.columns = np.flatnonzero(reach > 0)
        self.scale = scale[self.columns]
        self._size = float(np.linalg.norm(reach))
        self.incidence = unit_differences(model.low, model.high, model.problem.n_classes)

    def blocks(self) -> Iterator[slice]:
        """The pairs, as many at a time as have differences of moderate size, and no fewer than that
        the coefficients, which are scaled for each block, are little beside them.
        """
        n_pairs, n_columns = len(self.model.low), max(1, len(self.columns))
        length = max(_BLOCK_ENTRIES // n_columns, _PAIRS_OF_A_CLASS * self.model.problem.n_classes)
        return (slice(start, start + length) for start in range(0, n_pairs, length))

    def of(self, coef: np.ndarray, at: slice = _ALL) -> np.ndarray:
        """The differences of the pairs, or of a block of them, (K, d + 1) -> (P, r)."""
        scaled = coef[:, self.columns] * self.scale
        D = scaled.take(self.model.low[at], axis=0)
        D -= scaled.take(self.model.high[at], axis=0)
        return D

    def norms(self, coef: np.ndarray) -> np.ndarray:
        """The dual norms of the differences, (K, d + 1) -> (P,)."""
        norms = np.zeros(len(self.model.low))
        for at in self.blocks():
            D = self.of(coef, at)
            if is_ball(self.threat):
                norms[at] = np.linalg.norm(D, self.threat.dual_norm.p, axis=1)
            else:
                norms[at] = support(self.threat, self._on_all_features(D))
        return norms

    def smoothed(
        self, coef: np.ndarray, smoothing: float, at: slice = _ALL
    ) -> tuple[np.ndarray, np.ndarray]:
        """The smoothed penalties of the pairs, or of a block of them, (P,), and their gradients by
        the differences (P, r), multiples of points of the unit set: (K, d + 1) -> ...
        """
        D = self.of(coef, at)
        if is_ball(self.threat):
            return smoothed_norms(D, self.threat.dual_norm.p, smoothing)
        curvature = smoothing / self._size
        nearest = self._on_all_features(D / curvature)
        points = self.threat.project(nearest, np.ones(len(D)))[:, self.columns]
        products = np.einsum("pd,pd->p", D - 0.5 * curvature * points, points)
        return products, points

    def _on_all_features(self, D: np.ndarray) -> np.ndarray:
        """(P, r) -> (P, d)."""
        spread = np.zeros((len(D), self.model.problem.n_features))
        spread[:, self.columns] = D
        return spread

    def adjoint(
        self, by_difference: np.ndarray, shape: tuple[int, ...], at: slice = _ALL
    ) -> np.ndarray:
        """(P, r) -> (K, d + 1)."""
        coef = np.zeros(shape)
        coef[:, self.columns] = (self.incidence[at].T @ by_difference) * self.scale
        return coef


@dataclass(frozen=True)
class _Reaching:
    """A threat with a projection that can tell which features it moves, for proofs."""

    threat: Any  # ProximalThreat
    reached: np.ndarray

    symmetric = True

    def worst(self, v: np.ndarray) -> np.ndarray:
        """The perturbation that the threat takes."""
        return self.threat.worst(v)

    def support(self, v: np.ndarray) -> np.ndarray:
        """The support function of the threat."""
        return support(self.threat, v)

    def project(self, x: np.ndarray, radius: np.ndarray | float = 1.0) -> np.ndarray:
        """The projection on a multiple of the threat."""
        return self.threat.project(x, radius)

    def gauge(self, x: np.ndarray) -> np.ndarray:
        """The least multiple of the threat that holds x."""
        return gauge(self.threat, x)

    def reachable(self, x: np.ndarray) -> np.ndarray:
        """x with zero in place of the features that are never moved."""
        return np.where(self.reached, x, 0.0)


def with_reachable(problem: JointProblem) -> JointProblem:
    """The problem with a threat that can tell which features it moves."""
    if hasattr(problem.threat, "reachable"):
        return problem
    reached = feature_reach(problem.threat, np.zeros((1, problem.n_features))) > 0
    return replace(problem, threat=_Reaching(problem.threat, reached))


@dataclass(frozen=True)
class SmoothedRisk:
    """The risk with smoothed norms in place of the norms.

    Attributes
    ----------
    point : RiskPoint
    gradient : ndarray of shape (K, d + 1)
    """

    point: RiskPoint
    gradient: np.ndarray


def smoothed_risk(
    model: JointModel,
    differences: PairDifferences,
    coef: np.ndarray,
    smoothing: float,
    shrink: float = 0.0,
    *,
    hold: bool = False,
) -> SmoothedRisk:
    """The smoothed risk of coefficients (K, d + 1) at the radius times 1 - shrink; for `hold` see
    `JointModel.at`.
    """
    norms = np.zeros(len(model.low))
    for at in differences.blocks():
        norms[at] = differences.smoothed(coef, smoothing, at)[0]
    point = model.at(coef, (1 - shrink) * norms, hold=hold)
    gradient = point.gradient.coef.copy()
    for at in differences.blocks():
        slopes = differences.smoothed(coef, smoothing, at)[1]
        slopes *= (1 - shrink) * point.gradient.pairs[at, None]
        gradient += differences.adjoint(slopes, coef.shape, at)
    return SmoothedRisk(point, gradient)


def descend(
    model: JointModel,
    differences: PairDifferences,
    coef: np.ndarray,
    *,
    smoothing: float,
    shrink: float = 0.0,
    max_iter: int,
    stop: Callable[[np.ndarray, RiskPoint], bool],
    ridge: float = 0.0,
    gradient_tol: float = 0.0,
    memory: int = _LBFGS_MEMORY,
) -> tuple[np.ndarray, SmoothedRisk]:
    """L-BFGS on the smoothed risk at the radius times 1 - shrink.

    Parameters
    ----------
    model : JointModel
    differences : PairDifferences
    coef : ndarray of shape (K, d + 1)
        The start.
    smoothing : float
        In units of the scaled coefficients of the model.
    shrink : float
    max_iter : int
    stop : callable
        Called after each iteration with coefficients (K, d + 1) and the point; True ends the
        descent.
    ridge : float, default=0
        lambda, where lambda ||W||^2 / 2 is added to the risk.
    gradient_tol : float, default=0
        Largest entry of the gradient at which the descent ends.
    memory : int, default=10
        Pairs of differences that L-BFGS keeps.

    Returns
    -------
    coef : ndarray of shape (K, d + 1)
    smoothed : SmoothedRisk
        The smoothed risk there, without the ridge.
    """
    shape = coef.shape
    last: dict[bytes, RiskPoint] = {}

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        smoothed = smoothed_risk(model, differences, x.reshape(shape), smoothing, shrink)
        last.clear()
        last[x.tobytes()] = smoothed.point
        if not ridge:
            return smoothed.point.value, smoothed.gradient.ravel()
        W = x.reshape(shape)[:, :-1]
        gradient = smoothed.gradient.copy()
        gradient[:, :-1] += ridge * W
        return smoothed.point.value + 0.5 * ridge * float(np.vdot(W, W)), gradient.ravel()

    def after_iteration(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        x = intermediate_result.x
        point = last.get(x.tobytes())
        if point is not None and stop(x.reshape(shape), point):
            raise StopIteration

    x, _, _ = scipy.optimize.fmin_l_bfgs_b(
        objective,
        coef.ravel(),
        callback=after_iteration,
        maxiter=max_iter,
        maxfun=2 * max_iter,
        factr=10.0,
        pgtol=gradient_tol,
        m=memory,
    )
    end = x.reshape(shape)
    return end, smoothed_risk(model, differences, end, smoothing, shrink)
