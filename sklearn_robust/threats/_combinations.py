"""How sets combine: union, sum, and a set for some classes only."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sklearn_robust._array_api import Array
from sklearn_robust.threats._available import available_if
from sklearn_robust.threats._ball import LpBall
from sklearn_robust.threats._cones import hull_of, program_of, sum_of
from sklearn_robust.threats._interface import ConicSet, Threat
from sklearn_robust.threats._members import (
    Nothing,
    at,
    bind,
    columns_of,
    is_by_class,
    is_convex,
    is_per_sample,
    is_solid,
    of_class,
    support,
)
from sklearn_robust.threats._mixin import ThreatMixin


class Composite(ThreatMixin):
    """A set that is made of other ones."""

    _is_associative = True  # whether one of the same kind among the parts gives way to its parts

    def __init__(self, threats: Iterable[Threat]) -> None:
        parts: list[Any] = []
        for threat in threats:
            # a | b | c is one union of three
            nested = type(threat) is type(self) and self._is_associative
            parts += threat.threats if nested else [threat]  # type: ignore[attr-defined]
        self.threats = parts
        lacking = [part for part in parts if not hasattr(part, "symmetric")]
        if lacking or not parts:
            raise ValueError(
                f"{type(self).__name__} combines threats, objects with `symmetric` and `worst(v)`, "
                f"got {lacking[0] if lacking else parts!r}."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.threats!r})"

    def _of(self, parts: Sequence[Any]) -> Any:
        """The same combination of other parts."""
        return type(self)(parts)

    @property
    def symmetric(self) -> bool:
        return all(part.symmetric for part in self.threats)

    @property
    def convex(self) -> bool:
        return all(is_convex(part) for part in self.threats)

    @property
    def solid(self) -> bool:
        return all(is_solid(part) for part in self.threats)

    @property
    def per_sample(self) -> bool:
        return any(is_per_sample(part) for part in self.threats)

    @property
    def by_class(self) -> bool:
        return any(is_by_class(part) for part in self.threats)

    @property
    def columns(self) -> np.ndarray:
        return np.unique(np.concatenate([columns_of(part) for part in self.threats]))

    def bind(self, n_features: int, names: Any = None, classes: Any = None) -> Any:
        """The combination of the parts on so many features."""
        bound = (bind(part, n_features, names, classes) for part in self.threats)
        return self._of([with_cones(part, n_features) for part in bound])

    def of_class(self, label: Any) -> Any:
        """The combination of the parts' sets for the samples of a class."""
        if not self.by_class:
            return self
        return self._of([of_class(part, label) for part in self.threats])

    def at(self, X: Any, radius: Any = 1.0) -> Any:
        """The combination of the parts' sets for n samples."""
        return self._of([at(part, X, radius) for part in self.threats])


def with_cones(threat: Any, n_features: int) -> Any:
    """The threat, and an l_q ball with a scale, which tells its cones the number of features."""
    if isinstance(threat, LpBall) and threat.scale is None:
        return replace(threat, scale=np.ones(n_features))
    return threat


def _all_have_cones(threat: Composite) -> bool:
    return all(hasattr(part, "conic") for part in threat.threats)


class Union(Composite):
    r"""The threat :math:`U_1 \cup U_2 \cup \dots`: the adversary picks one of the sets; `a | b`.

    .. math:: \sigma(v) = \max_k \sigma_k(v).

    A linear classifier sees its hull.

    Parameters
    ----------
    threats : sequence of Threat

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import LpBall
    >>> either = LpBall(np.inf, 0.1) | LpBall(1, 0.3)
    >>> either.support(np.array([[1.0, 1.0, 1.0, 1.0], [4.0, 0.0, 0.0, 0.0]]))
    array([0.4, 1.2])
    """

    @property
    def convex(self) -> bool:
        return False

    def support(self, v: Array) -> Array:
        """The largest of the support functions."""
        return np.max(self._supports(v), axis=0)

    def worst(self, v: Array) -> Array:
        """The worst point of the set that has the largest support."""
        best = np.argmax(self._supports(v), axis=0)
        points = np.broadcast_arrays(*(part.worst(v) for part in self.threats))
        return np.select([best[..., None] == k for k in range(len(points))], points)

    def alternatives(self) -> list[Any]:
        """The sets, and those of unions in them."""
        return [one for part in self.threats for one in alternatives(part)]

    def _supports(self, v: Array) -> Array:
        return np.stack(np.broadcast_arrays(*(support(part, v) for part in self.threats)))

    @available_if(_all_have_cones)
    def conic(self) -> ConicSet:
        r"""The hull in cones: :math:`x = \sum_k x_k` with :math:`E_k x_k + F_k s_k \le_K \theta_k
        h_k`, :math:`\theta \ge 0`, :math:`\sum_k \theta_k = 1`.
        """
        return hull_of([ConicSet(*part.conic()) for part in self.threats])


class Sum(Composite):
    r"""The threat :math:`U_1 + U_2 + \dots = \{\delta_1 + \delta_2 + \dots\}`: the adversary uses
    all of the sets; `a + b`.

    .. math:: \sigma(v) = \sum_k \sigma_k(v).

    On different features, numbers that move and categories that change, it is both at once.

    Parameters
    ----------
    threats : sequence of Threat

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import LpBall
    >>> both = LpBall(np.inf, 0.1) + LpBall(1, 0.3)
    >>> both.support(np.array([1.0, 2.0, -3.0]))
    np.float64(1.5)
    """

    def support(self, v: Array) -> Array:
        """The sum of the support functions."""
        return sum(support(part, v) for part in self.threats)

    def worst(self, v: Array) -> Array:
        """The sum of the worst points."""
        points = [part.worst(v) for part in self.threats]
        if all(np.isfinite(point).all() for point in points):
            return sum(points)
        free = np.any([np.isinf(point) for point in np.broadcast_arrays(*points)], axis=0)
        finite = sum(np.where(np.isinf(point), 0.0, point) for point in points)
        return np.where(free, np.copysign(np.inf, v), finite)

    def alternatives(self) -> list[Any]:
        """Sums without unions, of which the set is the union."""
        return [Sum(parts) for parts in itertools.product(*map(alternatives, self.threats))]

    @available_if(_all_have_cones)
    def conic(self) -> ConicSet:
        r"""The sum in cones: :math:`x = \sum_k x_k`, each :math:`x_k` in its set."""
        return sum_of([ConicSet(*part.conic()) for part in self.threats])

    def program(self) -> tuple[ConicSet, np.ndarray]:
        """The sum in cones and integers."""
        programs = [program_of(part) for part in self.threats]
        rows = sum_of([found for found, _ in programs])
        integer = [np.zeros(rows.E.shape[1] * (len(programs) - 1), dtype=bool)]
        return rows, np.concatenate(integer + [whole for _, whole in programs])


class ByClass(Composite):
    r"""The threat that attacks samples of some classes only; `threat.only(classes)`.

    .. math:: U_y = U \text{ for } y \text{ among the classes, and } \{0\} \text{ for the others.}

    Parameters
    ----------
    threat : Threat
    classes : label or list of labels
        The classes whose samples attack: malware does, benign software does not.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import LpBall
    >>> threat = LpBall(np.inf, 0.1).only("malware")
    >>> threat.of_class("malware").support(np.ones(3)).round(6)
    np.float64(0.3)
    >>> threat.of_class("benign").support(np.ones(3))
    np.float64(0.0)
    """

    _is_associative = False

    def __init__(self, threat: Any, classes: Any) -> None:
        super().__init__([threat])
        several = isinstance(classes, (list, tuple, set, frozenset, np.ndarray))
        self.classes = list(classes) if several else [classes]
        self._n_features: int | None = None  # known once the threat is bound

    def __repr__(self) -> str:
        return f"{self.threats[0]!r}.only({self.classes!r})"

    def _of(self, parts: Sequence[Any], n_features: int | None = None) -> ByClass:
        found = ByClass(parts[0], self.classes)
        found._n_features = self._n_features if n_features is None else n_features
        return found

    @property
    def by_class(self) -> bool:
        return True

    def bind(self, n_features: int, names: Any = None, classes: Any = None) -> Any:
        """The threat on so many features, where all classes that it names are there."""
        unknown = [] if classes is None else [one for one in self.classes if one not in classes]
        if unknown:
            raise ValueError(
                f"only({self.classes!r}) names the class {unknown[0]!r}, which the data do not "
                f"have: their classes are {list(classes)}."
            )
        return self._of([bind(self.threats[0], n_features, names, classes)], n_features)

    def of_class(self, label: Any) -> Any:
        """The threat where the class is one of those named, and {0} elsewhere."""
        threat = self.threats[0]
        if label in self.classes:
            return of_class(threat, label)
        return replace(threat, eps=0.0) if isinstance(threat, LpBall) else Nothing(self._n_features)

    def worst(self, v: Array) -> Array:
        """Refused: each class has a worst point of its own, that of `of_class(label)`."""
        raise ValueError(
            "The set differs from class to class, and has no worst point of its own: use "
            "of_class(label)."
        )

    support = worst


def alternatives(threat: Any) -> list[Any]:
    """Sets without unions, of which the threat is the union."""
    found: list[Any] = threat.alternatives() if hasattr(threat, "alternatives") else [threat]
    return found
