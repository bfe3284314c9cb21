r"""Newton systems of the joint risk with the cones of the pair norms: the Hessian of the risk plus
:math:`B^T \Theta B`, solved by conjugate gradients.

The preconditioner is one dense Cholesky factor of an estimate of the Hessian plus the exact
:math:`\Theta`: the cones change at every step, the Hessian hardly does, so its estimate serves for
many steps.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from sklearn_robust.solvers._joint_cones import Scaling
from sklearn_robust.solvers._joint_model import Direction, JointModel, RiskPoint, add_gram
from sklearn_robust.solvers._joint_start import PairDifferences

_MAX_PRODUCTS = 60  # conjugate gradients in one system
_RENEW = 9  # products from which the next system has a new estimate of the Hessian
_RIDGES = (0.0, 1e-13, 1e-10, 1e-7)  # shares of the diagonal that are added until a factor exists


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
        self._estimate: np.ndarray | None = None
        K, d1 = model.problem.n_classes, model.problem.n_features + 1
        self._places = np.arange(K * d1).reshape(K, d1)
        self._pairs = K * d1 + np.arange(len(model.low))

    def factorise(self, at: RiskPoint, scaling: Scaling | None) -> bool:
        """Prepare the systems at a point; whether a factor exists."""
        self._at, self._theta = at, scaling
        while True:
            renewed = self._estimate is None
            if self._estimate is None:
                self._estimate = self.model.hessian_estimate(at)
            self._cholesky = self._factor(scaling, self._gauge(at))
            if self._cholesky is not None or renewed:
                return self._cholesky is not None
            self._estimate = None

    def solve(self, right: Direction) -> Direction:
        """The Newton step for a right-hand side."""
        at, cholesky = self._at, self._cholesky
        assert cholesky is not None
        step, products = self._conjugate_gradients(
            at, self._theta, self._gauge(at), cholesky, right
        )
        if products >= _RENEW:
            self._estimate = None
        return step

    def _gauge(self, at: RiskPoint) -> float:
        """The curvature given to the common shift of all classes, which changes no margin."""
        return float(at.class_sums.sum()) / self.model.problem.n_classes

    def _matrix(self, scaling: Scaling | None, gauge: float) -> np.ndarray:
        """The upper triangle of the Newton matrix."""
        estimate = self._estimate
        assert estimate is not None
        matrix = estimate.copy()
        places = self._places
        matrix[places[:, None, :], places[None, :, :]] += gauge
        if scaling is not None:
            self._add_cones(matrix, scaling)
        return matrix

    def _factor(self, scaling: Scaling | None, gauge: float) -> tuple[np.ndarray, bool] | None:
        """The Cholesky factor of the Newton matrix; None where it is not positive definite."""
        for ridge in _RIDGES:
            matrix = self._matrix(scaling, gauge)
            np.fill_diagonal(matrix, (1 + ridge) * np.diag(matrix))
            try:
                # the upper triangle as the lower one of a Fortran array: nothing is copied
                return cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
            except LinAlgError:
                continue
        return None

    def _add_cones(self, matrix: np.ndarray, scaling: Scaling) -> None:
        r"""Add :math:`B^T \Theta B` to the upper triangle of a matrix in the unknowns."""
        difference = self.differences
        low, high = self.model.low, self.model.high
        places, pairs = self._places[:, difference.columns], self._pairs
        K, r = places.shape
        weighted = scaling.diagonal * difference.scale**2
        laplacian = np.zeros((K, K, r))
        laplacian[low, high] = laplacian[high, low] = -weighted
        classes = np.arange(K)
        laplacian[classes, classes] = -laplacian.sum(axis=1)
        matrix[places[:, None, :], places[None, :, :]] += laplacian
        matrix[pairs, pairs] += scaling.of_pair
        coupling = scaling.coupling * difference.scale
        if coupling.any():
            for ends, sign in ((low, 1.0), (high, -1.0)):
                matrix[places[ends], pairs[:, None]] += sign * coupling
                matrix[pairs[:, None], places[ends]] += sign * coupling
        if scaling.row_of_pair.any():
            rows = np.zeros((len(pairs), len(matrix)))
            along = scaling.row * difference.scale
            at = np.arange(len(pairs))[:, None]
            rows[at, places[low]] = along
            rows[at, places[high]] = -along
            rows[at[:, 0], pairs] = scaling.row_of_pair
            add_gram(matrix, rows, 1.0)

    def _product(
        self, at: RiskPoint, scaling: Scaling | None, gauge: float, step: Direction
    ) -> Direction:
        """The Newton matrix times a step, exactly."""
        product = self.model.hessian_product(at, step)
        coef = product.coef + gauge * step.coef.sum(axis=0)
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
        gauge: float,
        factor: tuple[np.ndarray, bool],
        right: Direction,
    ) -> tuple[Direction, int]:
        """The solution and the number of products."""
        shape, size = right.coef.shape, right.coef.size

        def precondition(direction: Direction) -> Direction:
            flat = cho_solve(factor, direction.flat(), check_finite=False)
            return Direction(flat[:size].reshape(shape), flat[size:])

        step = Direction(np.zeros(shape), np.zeros(len(right.pairs)))
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
