"""One way to the array namespace, for NumPy arrays and torch tensors, and to a float."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import array_api_compat
import numpy as np

Array = Any  # a NumPy array or a torch tensor


def namespace(*arrays: Array) -> Any:
    """The array-API namespace; NumPy's own, which needs no wrapper, for NumPy arrays and floats."""
    if isinstance(arrays[0], (np.ndarray, np.generic, float)):
        return np
    return array_api_compat.array_namespace(*arrays)


def to_numpy(x: Array) -> np.ndarray:
    """A NumPy view, or copy from another device, of an array."""
    return x if isinstance(x, np.ndarray) else x.detach().cpu().numpy()


def at_least_tiny(x: Array) -> Array:
    """x, and the smallest normal number where it is smaller: what a logarithm or a quotient
    needs.
    """
    xp = namespace(x)
    return xp.maximum(x, xp.full_like(x, xp.finfo(x.dtype).tiny))


def like(x: Array, values: np.ndarray) -> Array:
    """The values as an array of the kind, type and device of x."""
    if isinstance(x, np.ndarray):
        return values.astype(x.dtype, copy=False)
    return namespace(x).asarray(values, dtype=x.dtype, device=x.device)


def as_float(value: Any) -> float:
    """A real number as a float; nan for a boolean, a number too large for a float, and whatever is
    no number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
