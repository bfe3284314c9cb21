r"""Newton systems of the joint risk with the cones of the pair norms: the Hessian of the risk plus
:math:`B^T \Theta B`, solved by conjugate gradients.

The preconditioner is an estimate of the Hessian plus the exact :math:`\Theta`: the cones change at
every step, the Hessian hardly does, so its estimate serves for many steps.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import LinAlgError

from sklearn_robust.solvers._joint_cones import Scaling
from sklearn_robust.solvers._joint_model import Direction, JointModel, RiskPoint
from sklearn_robust.solvers._joint_preconditioner import HessianEstimate, Preconditioner
from sklearn_robust.solvers._joint_start import PairDifferences

MOST_DENSE = 3000  # unknowns of the dense factor at most; of more it would outweigh all else

_MAX_PRODUCTS = 60  # conjugate gradients in one system
# products from which the next system has a new estimate of the Hessian, at least, and relative to
# those of the first system of an estimate that has features in blocks
_RENEW, _MORE_PRODUCTS = 9, 1.5
# and as a share of the products that cost as much as a new estimate; the work on a score besides
# its product, in features
_SHARE_OF_ESTIMATE, _WORK_ON_SCORE = 0.2, 600


class NewtonSystems:
    """The systems of one run.

    Parameters
    ----------
    model : JointModel
    differences : PairDifferences
    precision : float
        The residual of a system, relative, in the norm of the inverse factor.
    """

    def __init__(self, model: JointModel, differences: PairDifferences, precision: float) -> None:
        self.model = model
        self.precision = precision
        self.differences = differences
        self._estimate: HessianEstimate | None = None
        self._renew_from = 0.0

    def factorise(self, at: RiskPoint, scaling: Scaling | None) -> bool:
        """Prepare the systems at a point; whether a factor exists."""
        self._at, self._theta = at, scaling
        gauge = self._gauge(at)
        while True:
            renewed = self._estimate is None
            if self._estimate is None:
                self._estimate = HessianEstimate(
                    self.model, self.differences, at, scaling, gauge, MOST_DENSE
                )
                self._renew_from = 0.0
            try:
                self._preconditioner = Preconditioner(self._estimate, scaling, gauge)
            except LinAlgError:
                if renewed:
                    return False
                self._estimate = None
            else:
                return True

    def solve(self, right: Direction) -> Direction:
        """The Newton step for a right-hand side."""
        at, estimate = self._at, self._estimate
        step, products = self._conjugate_gradients(at, self._theta, self._gauge(at), right)
        if estimate is not None and not self._renew_from:
            several = _MORE_PRODUCTS * products if len(estimate.others) else 0.0
            share = _SHARE_OF_ESTIMATE * self._products_of(estimate)
            self._renew_from = max(_RENEW, several, min(share, _MAX_PRODUCTS))
        if products >= self._renew_from:
            self._estimate = None
        return step

    def _products_of(self, estimate: HessianEstimate) -> float:
        """The products with the Hessian that cost as much as an estimate of it."""
        problem = self.model.problem
        of_product = 4 * problem.n_classes * (problem.n_features + _WORK_ON_SCORE)
        return float(estimate.places.size**2 / of_product)

    def _gauge(self, at: RiskPoint) -> np.ndarray:
        """The curvature given to the common shift of classes that are joined, (K, K)."""
        return float(at.class_sums.sum()) / self.model.problem.n_classes * self.model.joined

    def _product(
        self, at: RiskPoint, scaling: Scaling | None, gauge: np.ndarray, step: Direction
    ) -> Direction:
        """The Newton matrix times a step, exactly."""
        product = self.model.hessian_product(at, step)
        coef = product.coef + gauge @ step.coef
        pairs = product.pairs
        if scaling is not None:
            difference = self.differences
            by_difference, by_pair = scaling.product(difference.of(step.coef), step.pairs)
            coef = coef + difference.adjoint(by_difference, coef.shape)
            pairs = pairs + by_pair
        if not self.model.problem.fit_intercept:
            coef[:, -1] = 0.0
        return Direction(coef, pairs)

    def _conjugate_gradients(
        self,
        at: RiskPoint,
        scaling: Scaling | None,
        gauge: np.ndarray,
        right: Direction,
    ) -> tuple[Direction, int]:
        """The solution and the number of products."""
        precondition = self._preconditioner.solve
        step = right * 0.0
        residual = right
        ahead = search = precondition(residual)
        energy = first = residual.dot(ahead)
        for products in range(1, _MAX_PRODUCTS + 1):
            product = self._product(at, scaling, gauge, search)
            curvature = search.dot(product)
            if not (curvature > 0 and math.isfinite(curvature)):
                return step if products > 1 else search, products
            length = energy / curvature
            step = step + search * length
            residual = residual + product * -length
            ahead = precondition(residual)
            new = residual.dot(ahead)
            if not new > self.precision**2 * first:
                break
            search = ahead + search * (new / energy)
            energy = new
        return step, products
