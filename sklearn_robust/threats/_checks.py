"""What is refused: what is no threat, and a threat that lacks what a solver needs."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from sklearn_robust._array_api import Array, like
from sklearn_robust._documentation import see
from sklearn_robust.threats._ball import LpBall, check_scale, is_ball
from sklearn_robust.threats._interface import ConicThreat, KinkedThreat, ProximalThreat, Threat
from sklearn_robust.threats._members import Nothing, bind, is_by_class, is_per_sample


def radius_of(threat: Any) -> float:
    """The radius of a threat: `eps` of an l_q ball, 0 of {0}, and 1 of another set, which stands
    for itself.
    """
    if isinstance(threat, Nothing):
        return 0.0
    return float(threat.eps) if isinstance(threat, LpBall) else 1.0


def require_ball(
    threat: Any, solver: str, remedy: str = "use an LpBall, or steepest_descent"
) -> LpBall:
    """The threat, where it is an l_q ball; an error that names the solver where it is not."""
    if not is_ball(threat):
        raise ValueError(
            f"{_capital(solver)} serves l_q balls only, got threat={_name(threat)}: {remedy}."
            f" {see('guide/adversaries')}"
        )
    return threat


# what to turn to where a threat lacks the methods of a protocol
_REMEDY: dict[type, str] = {
    ProximalThreat: "write it, as `worst` alone gives margins but no certificate",
    KinkedThreat: "write them, or use steepest_descent in LpNorm(2)",
    ConicThreat: "write it, or use steepest_descent",
}


def offers(threat: Any, protocol: type) -> bool:
    """Whether the threat has all methods of a protocol."""
    return not _missing(threat, protocol)


def require(threat: Any, protocol: type, solver: str) -> None:
    """Raise where the threat lacks a method of the protocol that the solver needs.

    Parameters
    ----------
    threat : Threat
    protocol : ProximalThreat, KinkedThreat or ConicThreat
    solver : str
        What needs it, as the subject of a sentence: "the accelerated solver".

    Raises
    ------
    ValueError
        In one sentence: the threat, the methods that it lacks, the solver that needs them, and the
        remedy.
    """
    missing = _missing(threat, protocol)
    if missing:
        raise ValueError(
            f"{_capital(solver)} needs {' and '.join(missing)} of a threat, which "
            f"threat={_name(threat)} does not offer: {_REMEDY[protocol]}."
            f" {see('guide/adversaries')}"
        )


def _missing(threat: Any, protocol: type) -> list[str]:
    """The methods of the protocol that the threat lacks."""
    methods = [
        name
        for part in reversed(protocol.__mro__)
        if part not in (object, Protocol)
        for name in vars(part)
        if not name.startswith("_")
    ]
    return [name for name in methods if not hasattr(threat, name)]


def _capital(subject: str) -> str:
    """The subject at the head of a sentence; names of functions and parameters stay as they are."""
    named = "_" in subject.split()[0] or "=" in subject
    return subject if named else subject[0].upper() + subject[1:]


def _name(threat: Any) -> str:
    """The threat in a message: the name of its class, unless it is a ball or no threat at all."""
    named = _is_threat(threat) and not is_ball(threat)
    return type(threat).__name__ if named else repr(threat)


def _is_threat(value: Any) -> bool:
    """Whether the value is an object with the methods of a threat, and not its class."""
    return not isinstance(value, type) and offers(value, Threat)


def unit_threat(threat: Any, one: Array) -> tuple[Threat, float]:
    """The set for radius 1, on vectors such as `one`, of shape (1, d), and the radius.

    A ball is split into its unit ball and its radius; another threat has radius 1 as it stands.
    """
    if not is_ball(threat):
        check_threat(threat, one)
        return threat, 1.0
    if threat.scale is None:
        return LpBall(threat.q, 1.0), threat.eps
    scale = like(one, check_scale(threat.scale, "scale"))
    if scale.shape[0] != one.shape[1]:
        raise ValueError(
            f"scale must hold a number for each of the {one.shape[1]} features, got "
            f"{scale.shape[0]}."
        )
    return LpBall(threat.q, 1.0, scale), threat.eps


def check_is_threat(threat: Any) -> None:
    """Refuse what lacks the methods of a threat, whatever the vectors."""
    if not _is_threat(threat):
        lacking = "" if isinstance(threat, type) else " and ".join(_missing(threat, Threat))
        raise ValueError(
            f"threat must be an LpBall or an object with `symmetric` and `worst(v)`, got "
            f"{threat!r}{lacking and f', which lacks {lacking}'}: for an l_q ball use "
            f"LpBall(q, eps)."
            f" {see('guide/adversaries')}"
        )


def bound_threat(threat: Any, n_features: int, names: Any = None, classes: Any = None) -> Any:
    """The threat on so many features, of these names, and for these classes; what is no such
    threat is refused.
    """
    check_is_threat(threat)
    bound = bind(threat, n_features, names, classes)
    if not (is_per_sample(bound) or is_by_class(bound)):
        _check_shape(bound, np.ones((1, n_features)))
    return bound


def check_threat(threat: Any, one: Array) -> None:
    """Refuse what is no symmetric threat on vectors such as `one`, of shape (1, d)."""
    check_is_threat(threat)
    if not threat.symmetric:
        raise ValueError(
            f"threat must be symmetric, with -delta for every delta, got threat={_name(threat)} of "
            f"symmetric={threat.symmetric!r}: use the smallest symmetric set that holds it."
            f" {see('guide/adversaries')}"
        )
    _check_shape(threat, one)


def _check_shape(threat: Any, one: Array) -> None:
    """Refuse a threat that does not serve vectors such as `one`, of shape (1, d)."""
    try:
        worst = threat.worst(one)
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"threat={_name(threat)} must serve vectors of the {one.shape[1]} features of X, and "
            f"its `worst` raises {type(error).__name__} on them: {error}. Use a threat on "
            "that many features."
        ) from error
    shape = getattr(worst, "shape", None)
    if shape != one.shape:
        raise ValueError(
            f"threat.worst must return an array of the shape of its argument, {tuple(one.shape)}, "
            f"got {shape and tuple(shape)} of threat={_name(threat)}: give it the {one.shape[1]} "
            f"features of X."
        )


def check_sample_radius(sample_radius: Any, n_samples: int) -> np.ndarray | None:
    """The factor on the set of each of n samples, finite numbers >= 0; None where all have 1."""
    if sample_radius is None:
        return None
    from sklearn.utils import column_or_1d  # workers spare its memory

    try:
        factors = np.asarray(column_or_1d(sample_radius), dtype=np.float64)
        valid = len(factors) == n_samples
        valid &= bool(((factors >= 0) & (factors < math.inf)).all())
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"sample_radius must hold a finite number >= 0 for each of the {n_samples} samples, "
            f"the factor on its set of perturbations, got {sample_radius!r}. Use 1 for the set as "
            f"it stands, and 0 for a sample that is not attacked."
        )
    return factors
