r"""The minimiser of the joint robust risk against a box of each sample, by smoothing, certified.

With :math:`v = w_k - w_l` a sample of class l loses :math:`u_i \cdot v^+ + l_i \cdot v^-` against
k. Newton's method minimises the risk with

.. math:: v^\pm \approx \tfrac12 \big(\sqrt{v^2 + h^2} \pm v\big)

for smaller and smaller h. The derivative of the penalty is a point of the box, :math:`\delta_{ik} =
\theta u_i - (1 - \theta) l_i` with :math:`\theta = (1 + v / \sqrt{v^2 + h^2}) / 2`. The clean risk
of these data bounds the robust risk (`_clean_risk`), up to the price of the smoothing,

.. math:: \sum_{ik} a_{ik} \frac{u_i + l_i}{2} \cdot \frac{h^2}{\sqrt{v^2 + h^2}}.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_robust._adversaries import Boxes
from sklearn_robust._joint_sets import JointSets
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import entropy_bound
from sklearn_robust.losses import MarginLoss
from sklearn_robust.solvers._clean_risk import PerturbedRows, lower_along

_FIRST = 0.1  # h at the start, in units of 1 over the features
_SHRINK = 0.1  # factor on h from one stage to the next
_STAGES = 14
_MOST_STEPS = 300  # Newton steps of all stages
_DECREASE = 1e-2  # predicted decrease at which a stage ends, relative to the price of its smoothing
_PRICE = 1e-8  # the price, in the log-risk, at which the bound is sought
_HIDDEN = 1e-13  # predicted decrease that rounding hides
_PROOFS = 20  # attempts at the bound, a Newton step apart
_SPREADS = 3  # times that what is left of a weighted sum is spread over the pairs
_PRICES = 2.0  # times the price of the smoothing: the gap at which the search for a bound ends
# classes times samples times features at most: some arrays of so many perturbations exist
_MOST_PERTURBED = 10_000_000


def serves(problem: JointProblem) -> bool:
    """Whether the samples have boxes with ends, and not too many."""
    sets = problem.adversary
    if not isinstance(sets, JointSets):
        return False
    entries = problem.n_classes * problem.X.shape[0] * problem.n_features
    return entries <= _MOST_PERTURBED and all(
        isinstance(one, Boxes)
        and bool(np.isfinite(one.positive).all() and np.isfinite(one.negative).all())
        for one in sets.adversaries
    )


def minimise(
    problem: JointProblem, loss: MarginLoss
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """The minimiser of the joint robust risk against the boxes of the samples.

    Parameters
    ----------
    problem : JointProblem
        In double arithmetic, one that `serves` says yes to.
    loss : MarginLoss

    Returns
    -------
    coef : ndarray of shape (K, d)
        One of the predictors that separate, where the data are separable and one was met.
    weights : ndarray of shape (K, n) or None
        They prove the bound; None where nothing is proven.
    bound : float
        A lower bound on the log-risk of every predictor; -inf if nothing is proven.
    """
    width = _FIRST / _units(problem)
    run = _Run(problem, loss, np.zeros((problem.n_classes, problem.n_features)))
    for _ in range(_STAGES):
        if not run.descend(width):
            return run.coef, None, -math.inf
        if run.price <= _PRICE:
            break
        width = _SHRINK * width
    weights, bound = run.bound()
    return run.coef, weights, bound


class _Run:
    """Coefficients on their way down, with what is known there."""

    def __init__(self, problem: JointProblem, loss: MarginLoss, coef: np.ndarray) -> None:
        self.problem, self.loss = problem, loss
        self.coef = coef
        self.n_steps, self.price = 0, math.inf

    def descend(self, width: np.ndarray) -> bool:
        """Minimise the risk with a smoothing; whether it has a minimiser that was found."""
        self.sets = _SmoothedBoxes.of(self.problem, width)
        sets: Any = self.sets  # as a problem asks for them
        self.smoothed = replace(self.problem, adversary=sets, radius=1.0)
        self.now = self.smoothed.evaluate(self.loss, self.coef)
        while True:
            if float(self.now.margins.min()) > 0:
                return False
            self.price = self.sets.price(self.coef, self.now.weights)
            step, decrease = self._newton_step()
            if step is None or self.n_steps == _MOST_STEPS:
                return False
            if decrease <= _DECREASE * self.price or not self._move(step):
                return True
            self.n_steps += 1

    def _newton_step(self) -> tuple[np.ndarray | None, float]:
        """The step of Newton's method, and the decrease of the risk that it predicts, twice."""
        weights = self.now.weights
        rows = PerturbedRows(self.smoothed, self.sets.members, self.sets.perturbations(self.coef))
        step = rows.newton_step(self.loss, self.now, self.sets.curvatures(self.coef, weights))
        if step is None:
            return None, 0.0
        return step, float(np.vdot(step, rows.weighted_sum(rows.X, weights)))

    def _move(self, step: np.ndarray) -> bool:
        """Go along a step, if this lowers the risk."""
        moved = lower_along(self.smoothed, self.loss, self.coef, step, self.now)
        if moved is not None:
            self.coef, self.now = moved
        return moved is not None

    def bound(self) -> tuple[np.ndarray | None, float]:
        """The weights that prove a bound on the log-risk, and the bound; None and -inf where none
        do.
        """
        best: tuple[np.ndarray | None, float] = None, -math.inf
        for _ in range(_PROOFS):
            weights = self.problem.balanced(self.now.weights)
            delta = self.sets.cancelling(self.problem, self.coef, weights)
            if PerturbedRows(self.smoothed, self.sets.members, delta).cancel(weights):
                bound = entropy_bound(self.problem, self.loss, weights)
                if bound > best[1]:
                    best = weights, bound
                if float(self.now.log_risk) - bound <= _PRICES * self.price:
                    break
            step, decrease = self._newton_step()
            if step is None:
                break
            if decrease > _HIDDEN:
                if not self._move(step):
                    break
                continue
            self.coef = self.coef + step
            self.now = self.smoothed.evaluate(self.loss, self.coef, near=self.now.intercept)
        return best


def _units(problem: JointProblem) -> np.ndarray:
    """The size of each feature, (d,)."""
    X = problem.X.toarray() if hasattr(problem.X, "toarray") else problem.X
    units: np.ndarray = np.std(X, axis=0)
    units[units == 0] = 1.0
    return units


_OfClass = tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _SmoothedBoxes:
    """Boxes whose penalties are smoothed in the differences of classes, by widths (d,).

    Attributes
    ----------
    members : tuple of ndarray
        The samples of each class.
    above, below : tuple of ndarray of shape (m, d)
        u and l of these samples.
    width : ndarray of shape (d,)
        h.
    """

    members: tuple[np.ndarray, ...]
    above: tuple[np.ndarray, ...]
    below: tuple[np.ndarray, ...]
    width: np.ndarray

    @classmethod
    def of(cls, problem: JointProblem, width: np.ndarray) -> _SmoothedBoxes:
        """Those of the samples of a problem, at its radius."""
        sets, radius = problem.adversary, problem.radius
        assert isinstance(sets, JointSets)
        boxes = [one for one in sets.adversaries if isinstance(one, Boxes)]
        return cls(
            sets.members,
            tuple(radius * one.positive for one in boxes),
            tuple(radius * one.negative for one in boxes),
            width,
        )

    def _classes(self, coef: np.ndarray) -> Iterator[_OfClass]:
        """The place of each class, v (K, d), its smoothed size, and the boxes of its samples."""
        for low, (rows, above, below) in enumerate(
            zip(self.members, self.above, self.below, strict=True)
        ):
            v = coef - coef[low]
            yield low, rows, v, np.hypot(v, self.width), above, below

    def penalties(self, coef: np.ndarray) -> np.ndarray:
        """The smoothed penalty of each sample for each rival: (K, d) -> (K, n)."""
        total = np.zeros((len(coef), sum(len(rows) for rows in self.members)))
        for _, rows, v, size, above, below in self._classes(coef):
            total[:, rows] = 0.5 * ((size + v) @ above.T + (size - v) @ below.T)
        return total

    def perturbations(self, coef: np.ndarray) -> np.ndarray:
        """The derivative of the penalties, a point of each box: (K, d) -> (K, n, d)."""
        return self._points(self._shares(coef))

    def _shares(self, coef: np.ndarray) -> np.ndarray:
        """The share of the way from -l to u, by class and rival: (K, d) -> (K, K, d)."""
        return np.stack([0.5 * (1 + v / size) for _, _, v, size, _, _ in self._classes(coef)])

    def _points(self, shares: np.ndarray) -> np.ndarray:
        """The points of the boxes at shares (K, K, d), of shape (K, n, d)."""
        n = sum(len(rows) for rows in self.members)
        delta = np.zeros((len(shares), n, shares.shape[-1]))
        for share, rows, above, below in zip(
            shares, self.members, self.above, self.below, strict=True
        ):
            delta[:, rows] = share[:, None] * (above + below) - below
        return delta

    def cancelling(
        self, problem: JointProblem, coef: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        r"""Points of the boxes, near the derivative of the penalties, at which the weighted sum of
        the perturbed rows is nearer to 0.

        What is left of it, R (K, d), goes over pairs of classes in proportion to their room c
        :math:`= \theta (1 - \theta) \sum_i a_{ik} (u_i + l_i)`: by :math:`c_{lk} (u_l - u_k)` with
        the potentials :math:`L_c u = -R`, L_c the Laplacian of c.
        """
        shares = self._shares(coef)
        whole = np.stack(
            [
                weights[:, rows] @ (above + below)
                for rows, above, below in zip(self.members, self.above, self.below, strict=True)
            ]
        )
        for _ in range(_SPREADS):
            delta = self._points(shares)
            rows = PerturbedRows(problem, self.members, delta)
            left = rows.weighted_sum(rows.X, weights)
            room = shares * (1 - shares)
            between = (room * whole + (room * whole).transpose(1, 0, 2)).transpose(2, 0, 1)
            largest = between.max(axis=(1, 2), keepdims=True)
            between = between / np.where(largest > 0, largest, 1.0)
            laplacian = -between
            laplacian[:, range(len(coef)), range(len(coef))] = between.sum(axis=2)
            u = -np.einsum("jlk,kj->lj", np.linalg.pinv(laplacian, hermitian=True), left)
            flow = (u[:, None] - u) / np.where(largest > 0, largest, 1.0).ravel()
            shares = np.clip(shares + room * flow, 0.0, 1.0)
        return self._points(shares)

    def price(self, coef: np.ndarray, weights: np.ndarray) -> float:
        """What the smoothing costs at weights (K, n)."""
        total = 0.0
        for _, rows, _, size, above, below in self._classes(coef):
            half = 0.5 * (weights[:, rows] @ (above + below))
            total += float(np.sum(half * (self.width / size) * self.width))
        return total

    def curvatures(self, coef: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The curvature of the penalties in each entry of w_k - w_l, at weights (K, n): (K, K, d)
        by class and rival.
        """
        curvatures = np.zeros((len(coef), *coef.shape))
        for low, rows, _, size, above, below in self._classes(coef):
            half = 0.5 * (weights[:, rows] @ (above + below))
            curvatures[low] = half * (self.width / size) ** 2 / size
        return curvatures
