r"""The preconditioner of the Newton systems of the joint risk: an estimate of the Hessian plus the
exact :math:`\Theta` of the cones.

Its unknowns are the coefficients x of the features in a dense matrix, with the intercepts and the
norms of the pairs, and those z of the other features, which have a block :math:`B_j` of all classes
each. The rank-one terms of the pairs, rows :math:`(R, S)` in (x, z), join the two:

.. math:: \begin{pmatrix} M + R^T R & R^T S \\ S^T R & B + S^T S \end{pmatrix}.

With z eliminated the dense matrix is :math:`M + R^T Z^{-1} R`, :math:`Z = I + S B^{-1} S^T`.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular

from sklearn_robust.solvers._joint_cones import Scaling
from sklearn_robust.solvers._joint_model import Direction, JointModel, RiskPoint, add_gram
from sklearn_robust.solvers._joint_start import PairDifferences

_RIDGES = (0.0, 1e-13, 1e-10, 1e-7)  # shares of the diagonal that are added until a factor exists
_BLOCK_RIDGE = (
    1e-12  # share of the mean diagonal that makes the block of a constant feature regular
)
# share that the Hessian of the risk has in the block of a feature, summed over the classes, from
# which the feature is in the dense matrix
_LEAST_SHARE = 0.05


class HessianEstimate:
    """The Hessian at a point, dense in some features, and in blocks in the others.

    Parameters
    ----------
    model : JointModel
    differences : PairDifferences
    at : RiskPoint
    scaling : Scaling or None
        The cones; None where there is no adversary.
    gauge : ndarray of shape (K, K)
        The curvature given to the common shift of classes that are joined.
    most : int
        Unknowns of the dense matrix at most.
    """

    def __init__(
        self,
        model: JointModel,
        differences: PairDifferences,
        at: RiskPoint,
        scaling: Scaling | None,
        gauge: np.ndarray,
        most: int,
    ) -> None:
        K, d = model.problem.n_classes, model.problem.n_features
        self.model, self.differences = model, differences
        self.features, self.others = np.arange(d), np.arange(0)
        self.curvature = np.zeros((0, K, K))
        if K * (d + 1) + len(model.low) > most:
            curvature = model.hessian_blocks(at)
            inverse = np.linalg.inv(self.blocks(curvature, self.features, scaling, gauge))
            share = np.einsum("jkl,jlk->j", inverse, curvature)
            n_dense = max(0, (most - len(model.low)) // K - 1)
            n_dense = min(n_dense, int(np.count_nonzero(share > _LEAST_SHARE)))
            order = np.argsort(-share, kind="stable")
            self.features, self.others = np.sort(order[:n_dense]), np.sort(order[n_dense:])
            self.curvature = curvature[self.others]
        self.matrix = model.hessian_estimate(at, self.features)
        self.places = np.arange(K * (len(self.features) + 1)).reshape(K, -1)
        self.pairs = self.places.size + np.arange(len(model.low))

    def blocks(
        self,
        curvature: np.ndarray,
        features: np.ndarray,
        scaling: Scaling | None,
        gauge: np.ndarray,
    ) -> np.ndarray:
        """The blocks (m, K, K) of features with the cones, from those of the Hessian."""
        blocks = curvature + gauge
        if scaling is not None:
            diagonal = self.on_features(scaling.diagonal, features, power=2)
            blocks += _laplacian(self.model, diagonal).transpose(2, 0, 1)
        K = blocks.shape[1]
        blocks[:, np.arange(K), np.arange(K)] += _BLOCK_RIDGE * np.diag(gauge)
        return blocks

    def on_features(self, by_column: np.ndarray, features: np.ndarray, power: int) -> np.ndarray:
        """An array (P, r) over the features in reach, times a power of their scale, on given
        features, (P, m).
        """
        whole = np.zeros((len(by_column), self.model.problem.n_features))
        whole[:, self.differences.columns] = by_column * self.differences.scale**power
        of_features: np.ndarray = whole[:, features]
        return of_features


class Preconditioner:
    """The factors of an estimate of the Hessian plus the cones.

    Parameters
    ----------
    estimate : HessianEstimate
    scaling : Scaling or None
    gauge : ndarray of shape (K, K)

    Raises
    ------
    LinAlgError
        If the matrix is not positive definite.
    """

    def __init__(
        self, estimate: HessianEstimate, scaling: Scaling | None, gauge: np.ndarray
    ) -> None:
        self.estimate = estimate
        self._rows: np.ndarray | None = None
        if scaling is not None and scaling.row_of_pair.any():
            self._rows = self._dense_rows(scaling)
        self._has_others = len(estimate.others) > 0
        if self._has_others:
            self._eliminate_others(scaling, gauge)
        self._factor = self._factorise(scaling, gauge)

    def _dense_rows(self, scaling: Scaling) -> np.ndarray:
        """The rank-one terms in the unknowns of the dense matrix, (P, N)."""
        estimate, model = self.estimate, self.estimate.model
        rows = np.zeros((len(estimate.pairs), len(estimate.matrix)))
        along = estimate.on_features(scaling.row, estimate.features, power=1)
        at = np.arange(len(estimate.pairs))[:, None]
        places = estimate.places[:, :-1]
        rows[at, places[model.low]] = along
        rows[at, places[model.high]] = -along
        rows[at[:, 0], estimate.pairs] = scaling.row_of_pair
        return rows

    def _eliminate_others(self, scaling: Scaling | None, gauge: np.ndarray) -> None:
        """The inverse blocks of the features outside the dense matrix, and what joins them."""
        estimate, model = self.estimate, self.estimate.model
        blocks = estimate.blocks(estimate.curvature, estimate.others, scaling, gauge)
        self._inverse = np.linalg.inv(blocks)
        if self._rows is None or scaling is None:
            return
        along = estimate.on_features(scaling.row, estimate.others, power=1)
        P, m = along.shape
        joining = np.zeros((m, model.problem.n_classes, P))
        pairs = np.arange(P)
        joining[:, model.low, pairs] = along.T
        joining[:, model.high, pairs] = -along.T
        self._joining = joining.reshape(-1, P)
        self._moved = (self._inverse @ joining).reshape(-1, P)
        coupled = np.eye(P) + self._joining.T @ self._moved
        self._root = np.linalg.cholesky(coupled)
        self._rows = solve_triangular(self._root, self._rows, lower=True, check_finite=False)

    def _factorise(self, scaling: Scaling | None, gauge: np.ndarray) -> tuple[np.ndarray, bool]:
        """The Cholesky factor of the dense matrix."""
        for ridge in _RIDGES:
            matrix = self._matrix(scaling, gauge)
            np.fill_diagonal(matrix, (1 + ridge) * np.diag(matrix))
            try:
                # the upper triangle as the lower one of a Fortran array: nothing is copied
                factor: tuple[np.ndarray, bool] = cho_factor(
                    matrix.T, lower=True, overwrite_a=True, check_finite=False
                )
                return factor
            except LinAlgError:
                continue
        raise LinAlgError("The Newton matrix is not positive definite.")

    def _matrix(self, scaling: Scaling | None, gauge: np.ndarray) -> np.ndarray:
        """The upper triangle of the dense matrix."""
        estimate = self.estimate
        matrix, places = estimate.matrix.copy(), estimate.places
        matrix[places[:, None, :], places[None, :, :]] += gauge[:, :, None]
        if scaling is not None:
            self._add_cones(matrix, scaling)
        return matrix

    def _add_cones(self, matrix: np.ndarray, scaling: Scaling) -> None:
        r"""Add :math:`\Theta` to the upper triangle of a matrix in the dense unknowns."""
        estimate, model = self.estimate, self.estimate.model
        places, pairs = estimate.places[:, :-1], estimate.pairs
        features = estimate.features
        diagonal = estimate.on_features(scaling.diagonal, features, power=2)
        matrix[places[:, None, :], places[None, :, :]] += _laplacian(model, diagonal)
        matrix[pairs, pairs] += scaling.of_pair
        coupling = estimate.on_features(scaling.coupling, features, power=1)
        if coupling.any():
            for ends, sign in ((model.low, 1.0), (model.high, -1.0)):
                matrix[places[ends], pairs[:, None]] += sign * coupling
                matrix[pairs[:, None], places[ends]] += sign * coupling
        if self._rows is not None:
            add_gram(matrix, self._rows, 1.0)

    def solve(self, right: Direction) -> Direction:
        """The inverse of the matrix times a direction."""
        estimate = self.estimate
        K, d1 = right.coef.shape
        columns = np.append(estimate.features, d1 - 1)
        flat = Direction(right.coef[:, columns], right.pairs).flat()
        of_others = sent = None
        if self._has_others:
            of_others = np.einsum("jkl,lj->jk", self._inverse, right.coef[:, estimate.others])
            if self._rows is not None:
                sent = self._joining.T @ of_others.ravel()
                sent = solve_triangular(self._root, sent, lower=True, check_finite=False)
                flat -= sent @ self._rows
        flat = cho_solve(self._factor, flat, check_finite=False)
        coef = np.zeros((K, d1))
        coef[:, columns] = flat[: estimate.places.size].reshape(K, -1)
        if of_others is not None:
            if sent is not None and self._rows is not None:
                along = solve_triangular(
                    self._root, self._rows @ flat + sent, lower=True, trans="T", check_finite=False
                )
                of_others -= (self._moved @ along).reshape(of_others.shape)
            coef[:, estimate.others] = of_others.T
        return Direction(coef, flat[estimate.places.size :])


def _laplacian(model: JointModel, weights: np.ndarray) -> np.ndarray:
    """The Laplacian matrices of the graphs of classes with weights (P, m), (K, K, m)."""
    K = model.problem.n_classes
    laplacian = np.zeros((K, K, weights.shape[1]))
    laplacian[model.low, model.high] = laplacian[model.high, model.low] = -weights
    classes = np.arange(K)
    laplacian[classes, classes] = -laplacian.sum(axis=1)
    return laplacian
