r"""The quadratic model of a joint risk around a point, and its minimiser under the cones of the
norms of the pairs, for which no sample is needed.

With the gradient g and a Hessian H at a point, the model is :math:`R + \langle g, s \rangle +
\tfrac12 \langle s, H s \rangle` in the steps s of coefficients and norms; the cones are the
problem's own.
"""

from __future__ import annotations

import math

import numpy as np

from sklearn_robust.solvers._joint_interior_point import InteriorPoint
from sklearn_robust.solvers._joint_model import Direction, JointModel, RiskPoint
from sklearn_robust.solvers._joint_run import JointRun, size_of
from sklearn_robust.solvers.solution import Monitoring

# The interior point holds products and bias to 0.01 and 0.05 of its tolerance: this multiple of the
# gap asked for leaves most of it to the weights, and makes them strictly feasible for the bound.
_LOOSER = 4.0
_ENDS = 0.1  # share of that tolerance to which the model is minimised
_MOST_STEPS = 100  # steps of the interior point on one model


class QuadraticModel(JointModel):
    """All that the interior point asks of a risk, of its model around a point.

    Parameters
    ----------
    model : JointModel
        The risk.
    around : RiskPoint
    hessian : ndarray of shape (N, N)
        In coefficients, intercepts and the norms of the pairs; the lower triangle is not read.
    """

    def __init__(self, model: JointModel, around: RiskPoint, hessian: np.ndarray) -> None:
        super().__init__(model.problem, model.loss, units=model.units)
        self.around = around
        self.hessian = np.triu(hessian) + np.triu(hessian, 1).T

    def at(self, coef: np.ndarray, pairs: np.ndarray, *, hold: bool = False) -> RiskPoint:
        around = self.around
        step = Direction(coef - around.coef, pairs - around.pairs)
        change = self._product(step)
        value = around.value + around.gradient.dot(step) + 0.5 * step.dot(change)
        nothing = np.empty(0)
        return RiskPoint(
            log_risk=value if self.logarithmic else math.log(max(value, np.finfo(float).tiny)),
            weights=None,
            of_sample=nothing,
            curvature=nothing,
            smallest_margin=-math.inf,
            coef=coef,
            pairs=pairs,
            value=value,
            class_sums=around.class_sums,
            gradient=around.gradient + change,
        )

    def hessian_product(self, at: RiskPoint, step: Direction) -> Direction:
        return self._product(step)

    def hessian_estimate(self, at: RiskPoint, features: np.ndarray) -> np.ndarray:
        return self.hessian.copy()

    def _product(self, step: Direction) -> Direction:
        product, shape = self.hessian @ step.flat(), step.coef.shape
        return Direction(product[: step.coef.size].reshape(shape), product[step.coef.size :])


class ModelMinimisation(JointRun):
    """The minimiser of a quadratic model of a risk, to a share of a certified gap of that risk.

    Parameters
    ----------
    model : QuadraticModel
    tol : float

    Attributes
    ----------
    end : RiskPoint
        The model there.
    slopes : ndarray of shape (P, r)
        Flows of the pairs over their capacities there.
    """

    precision = 1e-10  # a product is cheap
    starts_centred = True

    def __init__(self, model: QuadraticModel, tol: float) -> None:
        super().__init__(model, _LOOSER * tol, Monitoring(0, ()))
        self.coef = model.around.coef
        InteriorPoint(self, _MOST_STEPS).minimise()

    def ends(self, at: RiskPoint, slopes: np.ndarray) -> bool:
        self.end, self.slopes = at, slopes
        left = 0.0  # without an adversary one step is the minimiser
        if slopes.size:
            along = np.einsum("pr,pr->p", slopes, self.differences.of(self.coef))
            left = float(at.gradient.pairs @ (at.pairs - along))
        return self.n_iter > 0 and left <= _ENDS * self.tol * size_of(at)

    def recedes(self) -> bool:
        return False
