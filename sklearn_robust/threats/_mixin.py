"""The operators of sets, and the members that a set has by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sklearn_robust._array_api import Array, namespace
from sklearn_robust.threats._interface import Threat
from sklearn_robust.threats._members import Scaled


class ThreatMixin:
    r"""Operators of sets, and the members that a set of perturbations has by default.

    ===================  ======================================================
    ``a | b``            what a or b allows
    ``a + b``            a perturbation of a plus one of b
    ``a & b``            what both allow
    ``a.only(classes)``  a for samples of these classes, nothing for the others
    ===================  ======================================================

    A set of one's own that inherits them needs `symmetric` and `worst`, as every threat.

    Attributes
    ----------
    symmetric : bool
        Whether -delta is in the set with delta.
    convex : bool
        Whether the set is convex: budgets of features, categories and unions are not. A linear
        classifier sees the hull; perturbed samples are in the set itself.
    solid : bool
        Whether a perturbation stays in the set when entries of it are put to zero, as for features
        without a value.
    per_sample : bool
        Whether the set depends on the sample, as limits and categories do: `at` gives each.
    by_class : bool
        Whether it depends on the class of the sample: `of_class` gives each.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import Box, ThreatMixin
    >>> class Together(ThreatMixin):  # all features by the same amount, at most 1
    ...     symmetric = True
    ...     def worst(self, v):
    ...         return np.ones_like(v) * np.sign(v.sum(axis=-1))[..., None]
    >>> (Together() + Box(-0.5, 0.0)).support(np.array([3.0, -1.0]))
    np.float64(2.5)
    """

    symmetric: Any = False
    convex: Any = True
    solid: Any = False
    per_sample: Any = False
    by_class: Any = False

    @property
    def columns(self) -> np.ndarray:
        """The features of a sample on which its set depends."""
        return np.empty(0, dtype=np.intp)

    if TYPE_CHECKING:  # declared, not there: a set without one is refused by name

        def worst(self, v: Array) -> Array:
            """A point of the set where <v, .> is largest: (..., d) -> (..., d)."""

    def support(self, v: Array) -> Array:
        """The largest <v, .> on the set: (..., d) -> (...)."""
        return namespace(v).sum(v * self.worst(v), axis=-1)

    def at(self, X: Any, radius: Any = 1.0) -> Any:
        """The sets of n samples, each at a radius; see `threats.at`."""
        return Scaled(self, radius)

    def of_class(self, label: Any) -> Any:
        """The set of the samples of a class."""
        return self

    def bind(self, n_features: int, names: Any = None, classes: Any = None) -> Any:
        """The threat on so many features, with columns in place of names; see `threats.bind`."""
        return self

    # what combines sets inherits from this class, and is imported where it is used

    def only(self, classes: Any) -> Any:
        """The set for samples of these classes, a label or a list of labels, and {0} for the
        others.
        """
        from sklearn_robust.threats._combinations import ByClass

        return ByClass(self, classes)

    def __or__(self, other: Threat) -> Any:
        from sklearn_robust.threats._combinations import Union

        return Union([self, other])

    def __add__(self, other: Threat) -> Any:
        from sklearn_robust.threats._combinations import Sum

        return Sum([self, other])

    def __and__(self, other: Threat) -> Any:
        from sklearn_robust.threats._intersections import Intersection

        return Intersection([self, other])
