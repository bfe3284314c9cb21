"""Linear images of a set, and the ellipsoid of a covariance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._array_api import Array, like
from sklearn_robust.threats._available import available_if
from sklearn_robust.threats._ball import LpBall, check_radius
from sklearn_robust.threats._combinations import alternatives, with_cones
from sklearn_robust.threats._cones import program_of
from sklearn_robust.threats._interface import ConicSet, Threat
from sklearn_robust.threats._members import (
    at,
    bind,
    call_of,
    check_width,
    is_by_class,
    is_convex,
    is_per_sample,
    of_class,
    positions,
    support,
)
from sklearn_robust.threats._mixin import ThreatMixin


class LinearImage(ThreatMixin):
    r"""The threat :math:`\{M u : u \in U\}`: a set of m numbers that move the features together.

    .. math:: \sigma(v) = \sigma_U(M^T v).

    Factors behind the features, principal components, low rank: a column of M for each.

    Parameters
    ----------
    threat : Threat
        The set U of vectors of length m, the same for all samples.
    matrix : array of shape (d, m)
        M, in the units of the features.
    features : sequence of int or str, optional
        The features that the rows of M move, where they are not all: by name or position. Others
        stay as they are.

    Examples
    --------
    The first two features move together, by at most 0.5, and the third alone:

    >>> import numpy as np
    >>> from sklearn_robust.threats import LinearImage, LpBall
    >>> threat = LinearImage(LpBall(np.inf, 0.5), [[1, 0], [1, 0], [0, 1]])
    >>> threat.support(np.array([1.0, -1.0, 2.0])), threat.worst(np.array([1.0, 1.0, 0.0]))
    (np.float64(1.0), array([0.5, 0.5, 0. ]))
    """

    def __init__(self, threat: Threat, matrix: Any, features: Sequence[Any] | None = None) -> None:
        dense = matrix.toarray() if sparse.issparse(matrix) else matrix
        found = np.asarray(dense, dtype=np.float64)
        if found.ndim != 2 or found.size == 0 or not np.isfinite(found).all():
            raise ValueError(
                f"matrix must be a finite matrix of shape (d, m), with a row for each feature, got "
                f"{matrix!r}."
            )
        if is_per_sample(threat):
            raise ValueError(
                f"LinearImage needs a threat that is the same for all samples, got {threat!r}: "
                f"leave limits and categories to other sets, and combine them by & or +."
            )
        if features is not None and len(features) != len(found):
            raise ValueError(
                f"features must name one feature for each of the {len(found)} rows, got "
                f"{len(features)}."
            )
        self.threat, self.matrix = threat, found
        self.features = features

    def __repr__(self) -> str:
        return call_of(self, threat=self.threat, matrix=self.matrix)

    @property
    def symmetric(self) -> bool:
        return bool(self.threat.symmetric)

    @property
    def convex(self) -> bool:
        return is_convex(self.threat)

    @property
    def by_class(self) -> bool:
        return is_by_class(self.threat)

    def _of(self, threat: Any) -> LinearImage:
        return LinearImage(threat, self.matrix, self.features)

    def bind(self, n_features: int, names: Any = None, classes: Any = None) -> LinearImage:
        """The image in so many features."""
        m = self.matrix.shape[1]
        threat = with_cones(bind(self.threat, m, None, classes), m)
        return LinearImage(threat, spread_rows(self.matrix, self.features, n_features, names))

    def of_class(self, label: Any) -> Any:
        """The image of the set of a class."""
        return self._of(of_class(self.threat, label)) if self.by_class else self

    def at(self, X: Any, radius: Any = 1.0) -> Any:
        """The images of n samples."""
        return self._of(at(self.threat, X, radius))

    def alternatives(self) -> list[Any]:
        """Images of sets without unions, of which the set is the union."""
        return [self._of(one) for one in alternatives(self.threat)]

    def support(self, v: Array) -> Array:
        """The largest <v, .>: (..., d) -> (...)."""
        return support(self.threat, v @ like(v, self.matrix))

    def worst(self, v: Array) -> Array:
        """A point that attains it, infinite along a ray: (..., d) -> (..., d)."""
        matrix = like(v, self.matrix)
        point = self.threat.worst(v @ matrix)
        if not isinstance(point, np.ndarray) or np.isfinite(point).all():
            return point @ matrix.T
        ray = np.where(np.isinf(point), np.sign(point), 0.0) @ matrix.T
        finite = np.where(np.isinf(point), 0.0, point) @ matrix.T
        return np.where(ray == 0, finite, np.copysign(np.inf, ray))

    def _has_cones(self) -> bool:
        return hasattr(self.threat, "conic")

    @available_if(_has_cones)
    def conic(self) -> ConicSet:
        """The image in cones: x = M u with u in U."""
        return self._image(ConicSet(*self.threat.conic()))  # type: ignore[attr-defined]

    def program(self) -> tuple[ConicSet, np.ndarray]:
        """The image in cones and integers."""
        rows, integer = program_of(self.threat)
        return self._image(rows), np.append(np.zeros(self.matrix.shape[1], dtype=bool), integer)

    def _image(self, rows: ConicSet) -> ConicSet:
        d = len(self.matrix)
        E = sparse.vstack([sparse.eye_array(d), sparse.csr_array((len(rows.h), d))], format="csr")
        F = sparse.block_array(
            [
                [sparse.csr_array(-self.matrix), None],
                [sparse.csr_array(rows.E), sparse.csr_array(rows.F)],
            ],
            format="csr",
        )
        h = np.append(np.zeros(d), rows.h)
        return ConicSet(E, F, h, [("zero", d), *rows.cones])


class Ellipsoid(LinearImage):
    r"""The threat :math:`\{\delta : \delta^T \Sigma^{-1} \delta \le r^2\}`: noise that is
    correlated.

    .. math:: \sigma(v) = r \sqrt{v^T \Sigma v}.

    A classifier that is right on it is right with probability :math:`\Phi(r)` for Gaussian noise of
    this covariance, sample by sample, and for any noise of it with :math:`r^2 / (1 + r^2)` [1]_.
    Directions in which the covariance is 0 do not move.

    Parameters
    ----------
    covariance : array of shape (d, d)
        :math:`\Sigma`, symmetric and positive semidefinite.
    radius : float, default=1.0
        r, in standard deviations.
    features : sequence of int or str, optional
        The features that it is of, where they are not all: by name or position.

    References
    ----------
    .. [1] P. Shivaswamy, C. Bhattacharyya, A. Smola. Second order cone programming approaches for
       handling missing and uncertain data. JMLR 7, 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import Ellipsoid
    >>> threat = Ellipsoid([[1.0, 0.9], [0.9, 1.0]], radius=2.0)
    >>> threat.support(np.array([[1.0, 1.0], [1.0, -1.0]])).round(3)
    array([3.899, 0.894])
    """

    def __init__(
        self, covariance: Any, radius: float = 1.0, features: Sequence[Any] | None = None
    ) -> None:
        found = np.asarray(covariance, dtype=np.float64)
        square = found.ndim == 2 and found.shape[0] == found.shape[1] > 0
        if not square or not np.isfinite(found).all() or not np.allclose(found, found.T):
            raise ValueError(
                f"covariance must be a symmetric, finite matrix of shape (d, d), got "
                f"{covariance!r}."
            )
        values, axes = np.linalg.eigh((found + found.T) / 2)
        rounding = len(values) * np.finfo(float).eps * max(float(np.abs(values).max()), 0.0)
        if values[0] < -1e3 * rounding:
            raise ValueError(
                f"covariance must be positive semidefinite, got one with the eigenvalue "
                f"{values[0]:.3g}. Use numpy.cov of the data, or a shrunk estimate."
            )
        deviations = np.sqrt(np.where(values > rounding, values, 0.0))
        self.covariance, self.radius = found, check_radius(radius, "radius")
        super().__init__(LpBall(2, self.radius, deviations), axes, features)

    def __repr__(self) -> str:
        return call_of(self, covariance=self.covariance, radius=self.radius)

    def _of(self, threat: Any) -> LinearImage:
        return LinearImage(threat, self.matrix, self.features)

    def bind(self, n_features: int, names: Any = None, classes: Any = None) -> Ellipsoid:
        """The ellipsoid in so many features."""
        if self.features is None:
            check_width(len(self.covariance), n_features, "covariance")
            return self
        spread = spread_rows(self.covariance, self.features, n_features, names)
        return Ellipsoid(spread_rows(spread.T, self.features, n_features, names).T, self.radius)

    def project(self, x: Array, radius: Array | float = 1.0) -> Array:
        """The point of radius times the ellipsoid that is nearest to x; radius is a number or
        (...).
        """
        axes = like(x, self.matrix)  # orthonormal
        return self.threat.project(x @ axes, radius) @ axes.T  # type: ignore[attr-defined]


def spread_rows(
    matrix: np.ndarray, features: Any, n_features: int, names: Any, parameter: str = "matrix"
) -> np.ndarray:
    """The rows of a matrix at their features, and zero rows for the others."""
    if features is None:
        check_width(len(matrix), n_features, parameter)
        return matrix
    spread = np.zeros((n_features, matrix.shape[1]))
    spread[positions(features, n_features, names, "features")] = matrix
    return spread
