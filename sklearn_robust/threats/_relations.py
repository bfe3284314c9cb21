"""Relations between features that a perturbed sample keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._array_api import Array
from sklearn_robust.threats._images import spread_rows
from sklearn_robust.threats._interface import ConicSet, Threat
from sklearn_robust.threats._intersections import Intersection
from sklearn_robust.threats._members import call_of, check_numbers
from sklearn_robust.threats._mixin import ThreatMixin


class Relations(Intersection):
    r"""The threat :math:`\{\delta \in U : A \delta \le b\}`: sums, ratios and orders that a changed
    sample keeps.

    .. math:: \sigma(v) = \min_{\lambda \ge 0} \; b^T \lambda + \sigma_U(v - A^T \lambda)

    for convex U. Each worst point is the solution of a program, linear where U is polyhedral.

    Parameters
    ----------
    threat : Threat
        The set U, with `conic`.
    A : array of shape (m, d)
        A row for each relation. Two rows, a and -a with b = 0, keep the sum :math:`\langle a, x
        \rangle`; a ratio :math:`x_1 \ge r x_2` that holds with equality is the row (-1, r).
    b : float or array of shape (m,), default=0.0
        How much each may grow, >= 0, so that delta = 0 keeps all relations.
    features : sequence of int or str, optional
        The features that the columns of A are of, where they are not all: by name or position.

    Notes
    -----
    `certified_radius` counts the factor on U and b.

    Examples
    --------
    Parts of a whole: what one feature gains the others lose.

    >>> import numpy as np
    >>> from sklearn_robust.threats import LpBall, Relations
    >>> threat = Relations(LpBall(np.inf, 0.1), [[1, 1, 1], [-1, -1, -1]]).bind(3)
    >>> delta = threat.worst(np.array([3.0, 1.0, 0.0]))
    >>> delta.round(6) + 0.0
    array([ 0.1,  0. , -0.1])
    """

    def __init__(
        self, threat: Threat, A: Any, b: Any = 0.0, features: Sequence[Any] | None = None
    ) -> None:
        self.threat, self.features = threat, features
        self.A, self.b = A, b
        super().__init__([threat, _HalfSpaces(A, b, features)])

    def __repr__(self) -> str:
        return call_of(self, threat=self.threat, A=self.A, b=self.b)

    def _of(self, parts: Sequence[Any]) -> Intersection:
        return Intersection(parts)


class _HalfSpaces(ThreatMixin):
    """The unbounded set A delta <= b, which an intersection cuts out of another set."""

    def __init__(self, A: Any, b: Any, features: Any) -> None:
        dense = A.toarray() if sparse.issparse(A) else A
        found = np.atleast_2d(np.asarray(dense, dtype=np.float64))
        if found.ndim != 2 or found.size == 0 or not np.isfinite(found).all():
            raise ValueError(
                f"A must be a finite matrix of shape (m, d), with a row for each relation, got "
                f"{A!r}."
            )
        room = check_numbers(b, "b", 1, finite=True)
        if isinstance(room, dict) or (np.ndim(room) and len(room) != len(found)):
            raise ValueError(
                f"b must be a number >= 0, or hold one for each of the {len(found)} rows of A, got "
                f"{b!r}."
            )
        if features is not None and len(features) != found.shape[1]:
            raise ValueError(
                f"features must name one feature for each of the {found.shape[1]} columns of A, "
                f"got {len(features)}."
            )
        self.A, self.b = found, np.broadcast_to(room, len(found))
        self.features = features

    def __repr__(self) -> str:
        return f"A delta <= b with {len(self.A)} rows"

    def bind(self, n_features: int, names: Any = None, classes: Any = None) -> _HalfSpaces:
        spread = spread_rows(self.A.T, self.features, n_features, names, "A").T
        return _HalfSpaces(spread, self.b, None)

    @property
    def symmetric(self) -> bool:
        """Whether every row has its opposite, with the same b."""
        rows = np.column_stack([self.A, self.b])
        opposite = np.column_stack([-self.A, self.b])
        return {tuple(row + 0.0) for row in rows} == {tuple(row + 0.0) for row in opposite}

    def support(self, v: Array) -> Array:
        """Infinite, but for v = 0: no bound is claimed."""
        return np.where(np.any(v != 0, axis=-1), np.inf, 0.0)

    def conic(self) -> ConicSet:
        """The rows of the relations."""
        m = len(self.A)
        nothing = sparse.csr_array((m, 0))
        return ConicSet(sparse.csr_array(self.A), nothing, np.array(self.b), [("nonnegative", m)])
