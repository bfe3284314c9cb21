"""Checks of the parameters that users set, with messages that name the parameter, its value and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from sklearn_robust.norms import LpNorm
from sklearn_robust.threats import _is_finite, check_scale


def check_exponent(value: Any, name: str) -> float:
    """A norm's exponent in [1, inf], as a float."""
    try:
        return LpNorm(value).p
    except (ValueError, OverflowError) as error:
        message = f"{name} must be a real number in [1, inf], got {value!r}. Use numpy.inf for the maximum norm."
        raise ValueError(message) from error


def check_choice(value: Any, name: str, choices: Iterable[Any]) -> None:
    """One of a few values."""
    choices = list(choices)
    value = bool(value) if isinstance(value, np.bool_) else value  # a search over an array of booleans sets these
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.")


def check_number(value: Any, name: str, *, low: float, strict: bool = False, integer: bool = False) -> None:
    """A finite number above (or at) a lower end."""
    kind: Any = Integral if integer else Real
    word = "an integer" if integer else "a finite number"
    inside = (
        isinstance(value, kind)
        and not isinstance(value, bool)
        and (low < value if strict else low <= value)
        and _is_finite(value)
    )
    if not inside:
        raise ValueError(f"{name} must be {word} {'>' if strict else '>='} {low:g}, got {value!r}.")


def read_scale(scale: Any, n_features: int, feature_names: Any = None) -> np.ndarray | None:
    """The scale of each feature, of shape (n_features,); from a dict by name, where features that it leaves out have 1."""
    if scale is None:
        return None
    if isinstance(scale, Mapping):
        if feature_names is None:
            raise ValueError(
                f"scale={scale!r} names features, but X has no feature names. Use a frame with named columns, or an array of "
                f"shape ({n_features},)."
            )
        names = list(feature_names)
        unknown = [name for name in scale if name not in names]
        if unknown:
            raise ValueError(f"scale names features that X does not have: {unknown}. Its features are {names}.")
        scale = [scale.get(name, 1.0) for name in names]
    values = check_scale(scale, "scale")
    if len(values) != n_features:
        raise ValueError(f"scale must hold a number for each of the {n_features} features, got {len(values)}.")
    return values


def check_device(device: Any) -> None:
    """None, or a device that torch can compute on here."""
    if device is None:
        return
    try:
        import torch
    except ImportError as error:
        message = f'device={device!r} needs PyTorch: pip install "sklearn-robust[torch]". Or use device=None, for NumPy.'
        raise ImportError(message) from error
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise ValueError(
            f"device={device!r} is not available: {str(error).splitlines()[0]}. Use device=None for NumPy, 'cpu', or an "
            "accelerator that torch finds on this machine, such as 'cuda'."
        ) from error
