"""The members of a threat, with what a threat that leaves one out has in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sklearn_robust._array_api import Array, namespace
from sklearn_robust._documentation import see
from sklearn_robust.threats._available import available_if
from sklearn_robust.threats._cones import box_rows, scaled_cones
from sklearn_robust.threats._interface import ConicSet


def support(threat: Any, v: Array) -> Array:
    r""":math:`\sigma(v) = \langle v, \text{worst}(v) \rangle`: (..., d) -> (...)."""
    if hasattr(threat, "support"):
        return threat.support(v)
    return namespace(v).sum(v * threat.worst(v), axis=-1)


def supports(threat: Any, V: np.ndarray) -> np.ndarray:
    r"""The support functions of the sets of n samples in k directions: (k, d) -> (n, k)."""
    if hasattr(threat, "supports"):
        found: np.ndarray = threat.supports(V)
        return found
    return np.stack([support(threat, v) for v in V], axis=-1)


def reaches(
    threat: Any, v: np.ndarray, values: np.ndarray, which: np.ndarray | None = None
) -> np.ndarray:
    """Whether the support functions of the sets of n samples are at least numbers.

    Parameters
    ----------
    threat : object with `support`
        The sets of n samples.
    v : array of shape (d,) or (m, d)
    values : array of shape (n,)
    which : int array of shape (n,), optional
        The direction of each sample, where there are several; its own by default.

    Returns
    -------
    bool array of shape (n,)
    """
    if hasattr(threat, "reaches"):
        found: np.ndarray = threat.reaches(v, values, which)
        return found
    return np.asarray(support(threat, v if which is None else v[which]) >= values)


def is_per_sample(threat: Any) -> bool:
    """Whether the set depends on the sample: `at` gives that of each."""
    return bool(getattr(threat, "per_sample", False))


def is_by_class(threat: Any) -> bool:
    """Whether the set depends on the sample's class: `of_class` gives that of each."""
    return bool(getattr(threat, "by_class", False))


def is_convex(threat: Any) -> bool:
    """Whether the set is convex, as it is where it does not say otherwise."""
    return bool(getattr(threat, "convex", True))


def is_solid(threat: Any) -> bool:
    """Whether a perturbation stays in the set when entries of it are put to zero."""
    return bool(getattr(threat, "solid", False))


def columns_of(threat: Any) -> np.ndarray:
    """The features of a sample on which its set depends, of shape (m,)."""
    return np.asarray(getattr(threat, "columns", ()), dtype=np.intp)


def at(threat: Any, X: Any, radius: Any = 1.0) -> Any:
    """The sets of n samples, each at a radius.

    Parameters
    ----------
    threat : Threat
        Bound, and of one class.
    X : array of shape (n, d), or (d,) for one sample
    radius : float or array of shape (n,)
        The factor on the set. Limits of x + delta do not grow with it; of changes that are counted
        the number does, rounded down.

    Returns
    -------
    object with `support` and `worst`
        They take v of shape (d,) or (..., n, d), and return (..., n) and (..., n, d).
    """
    return threat.at(X, radius) if hasattr(threat, "at") else Scaled(threat, radius)


def of_class(threat: Any, label: Any) -> Any:
    """The set of the samples of a class."""
    return threat.of_class(label) if hasattr(threat, "of_class") else threat


def bind(threat: Any, n_features: int, names: Any = None, classes: Any = None) -> Any:
    """The threat on so many features, with columns in place of names.

    Parameters
    ----------
    threat : Threat
    n_features : int
    names : sequence of str, optional
        Names of the features, where they have names.
    classes : sequence, optional
        Labels of the classes, against which those of the threat are checked.

    Returns
    -------
    Threat

    Raises
    ------
    ValueError
        Where the threat is on another number of features, or names what is not there.
    """
    return threat.bind(n_features, names, classes) if hasattr(threat, "bind") else threat


def times(radius: Any, values: Any) -> Any:
    """Radii >= 0 times values that may be infinite, where 0 inf = 0."""
    if not isinstance(values, (np.ndarray, np.generic)) or np.isfinite(values).all():
        return radius * values
    radius = np.asarray(radius)
    return np.where(radius > 0, np.where(radius > 0, radius, 1.0) * values, 0.0)


def _has_cones(scaled: Scaled) -> bool:
    return np.ndim(scaled.radius) == 0 and hasattr(scaled.threat, "conic")


class Scaled:
    """A set times a radius >= 0: a number, or (n,) for the sets of n samples."""

    per_sample = by_class = False

    def __init__(self, threat: Any, radius: Any) -> None:
        self.threat, self.radius = threat, radius
        self.symmetric = threat.symmetric
        self.convex, self.solid = is_convex(threat), is_solid(threat)

    def support(self, v: Array) -> Array:
        """The radius times the support function: (d,) or (..., n, d) -> (..., n)."""
        return times(self.radius, support(self.threat, v))

    def worst(self, v: Array) -> Array:
        """The radius times the worst point."""
        radius = np.asarray(self.radius)[..., None] if np.ndim(self.radius) else self.radius
        return times(radius, self.threat.worst(v))

    @available_if(_has_cones)
    def conic(self) -> ConicSet:
        """The set in cones."""
        return scaled_cones(self.threat.conic(), self.radius)


def call_of(value: Any, **parameters: Any) -> str:
    """The call that makes a threat, without what is None, and with the ends only of long arrays."""
    with np.printoptions(threshold=8, edgeitems=2):
        given = [f"{name}={part!r}" for name, part in parameters.items() if part is not None]
    return f"{type(value).__name__}({' '.join(', '.join(given).split())})"


class Nothing:
    """The set {0}, on so many features where its cones are asked for."""

    symmetric = convex = solid = True
    per_sample = by_class = False

    def __init__(self, n_features: int | None = None) -> None:
        self.n_features = n_features

    def __repr__(self) -> str:
        return call_of(self, n_features=self.n_features)

    def at(self, X: Any, radius: Any = 1.0) -> Nothing:
        """{0} of each sample."""
        return self

    def within(self, lower: Any, upper: Any) -> Nothing:
        """{0}, which is in every box."""
        return self

    def support(self, v: Array) -> Array:
        """0."""
        return 0.0 * v[..., 0]

    def worst(self, v: Array) -> Array:
        """0."""
        return 0.0 * v

    def conic(self) -> ConicSet:
        """x = 0 in cones."""
        return box_rows(np.zeros(self.n_features or 0), np.zeros(self.n_features or 0))


class EachSample:
    """The sets of n samples, kept one by one."""

    symmetric = convex = solid = per_sample = by_class = False

    def __init__(self, sets: Sequence[Any]) -> None:
        self.sets = sets

    def support(self, v: Array) -> Array:
        """The support functions: (d,) or (..., n, d) -> (..., n)."""
        return self._each(support, v)

    def worst(self, v: Array) -> Array:
        """The worst points: (d,) or (..., n, d) -> (..., n, d)."""
        return self._each(lambda one, row: one.worst(row), v)

    def _each(self, function: Callable[[Any, Array], Array], v: Array) -> Array:
        v = np.broadcast_to(v, (*v.shape[:-2], len(self.sets), v.shape[-1]))
        found = [function(one, v[..., i, :]) for i, one in enumerate(self.sets)]
        return np.stack(found, axis=v.ndim - 2)


def positions(features: Iterable[Any], n_features: int, names: Any, parameter: str) -> np.ndarray:
    """The columns of features that the parameter gives by name or by position."""
    known = None if names is None else list(names)
    found = []
    for feature in features:
        named = isinstance(feature, str)
        if named and known is None:
            raise ValueError(
                f"{parameter} names the feature {feature!r}, but X has no feature names. Use a "
                f"frame with named columns, or positions."
                f" {see('guide/budgets')}"
            )
        if named and feature in known:  # type: ignore[operator]
            found.append(known.index(feature))  # type: ignore[union-attr]
        elif not named and isinstance(feature, (int, np.integer)) and 0 <= feature < n_features:
            found.append(int(feature))
        else:
            there = known if named else f"positions 0 to {n_features - 1}"
            raise ValueError(
                f"{parameter} names a feature that X does not have: {feature!r}. Its features are "
                f"{there}."
                f" {see('guide/budgets')}"
            )
    return np.array(found, dtype=np.intp)


def check_width(found: int, n_features: int, parameter: str) -> None:
    """Refuse a parameter that is on another number of features than X."""
    if found != n_features:
        raise ValueError(
            f"{parameter} must be on the {n_features} features of X, got {found}: give all of "
            f"them, or name those that it is on."
        )


def check_numbers(value: Any, name: str, sign: int, *, finite: bool = False) -> Any:
    """A number of one sign, an array (d,) of them, or a dict by the names of features; as floats.

    Parameters
    ----------
    value : float, array-like of shape (d,) or dict
    name : str
        The name of the parameter.
    sign : {-1, 1}
        What is not zero has this sign.
    finite : bool
        Whether infinite numbers are refused.
    """
    entries = list(value.values()) if isinstance(value, Mapping) else value
    try:
        given = np.asarray(entries, dtype=object)
        checked = np.asarray(given, dtype=np.float64)
        valid = checked.ndim <= 1 and bool((sign * checked >= 0).all())
        valid &= not any(isinstance(entry, (str, bytes, bool)) for entry in given.flat)
        valid &= not finite or bool(np.isfinite(checked).all())
    except (TypeError, ValueError):
        valid = False
    if not valid:
        side, inf = ("<= 0", "-numpy.inf") if sign < 0 else (">= 0", "numpy.inf")
        remedy = "" if finite else f", and {inf} for what has no bound"
        raise ValueError(
            f"{name} must be a{' finite' if finite else ''} number {side}, an array with one for "
            f"each feature, or a dict {{feature name: number}}, got {value!r}. Use 0 for what "
            f"cannot move{remedy}."
        )
    if isinstance(value, Mapping):
        return dict(zip(value, checked.tolist(), strict=True))
    return float(checked) if checked.ndim == 0 else checked


def per_feature(value: Any, n_features: int, names: Any, parameter: str) -> np.ndarray:
    """The numbers of so many features; 0 for those that a dict leaves out."""
    if isinstance(value, dict):
        numbers = np.zeros(n_features)
        numbers[positions(value, n_features, names, parameter)] = list(value.values())
        return numbers
    if np.ndim(value):
        check_width(len(value), n_features, parameter)
        return np.asarray(value)
    return np.full(n_features, value)
