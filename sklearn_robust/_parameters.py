"""Checks of the parameters that users set, with messages that name the parameter, its value and the
remedy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from sklearn_robust._array_api import as_float
from sklearn_robust._extras import missing
from sklearn_robust.norms import LpNorm
from sklearn_robust.threats import check_radius, check_scale

Check = Callable[[Any, str], Any]  # refuses a value, given with the name of its parameter

_IN_MEMORY = {  # by where a class is defined: what takes its objects, or brings them into memory
    "dask": "sklearn_robust.distributed, which reads its chunks, or {name}.compute()",
    "dask_expr": "sklearn_robust.distributed, which reads its chunks, or {name}.compute()",
    "distributed": "{name}.result()",
    "polars.lazyframe": "{name}.collect()",
    "pyspark": "{name}.toPandas()",
    "torch.utils.data": (
        "one tensor of all samples, such as torch.cat([batch for batch, _ in loader])"
    ),
}


def refuse_lazy(**data: Any) -> None:
    """Refuse dask collections, lazy frames, loaders, row sources, iterators and paths, which would
    be loaded whole or misread.
    """
    for name, value in data.items():
        homes = [f"{cls.__module__}." for cls in type(value).__mro__]
        found = [
            way
            for home, way in _IN_MEMORY.items()
            if any(where.startswith(f"{home}.") for where in homes)
        ]
        if found:
            remedy = found[0].format(name=name)
        elif isinstance(value, (str, bytes, os.PathLike)):
            remedy = (
                f"what the file holds, by numpy.load({name}), pandas.read_csv({name}) or another "
                f"reader"
            )
        elif isinstance(value, Iterator):
            remedy = f"list({name})"
        elif hasattr(value, "map_blocks"):  # see `rows.BlockRows`
            remedy = (
                f"RobustLinearClassifier().fit({name}), which reads rows by blocks, or an array"
            )
        elif hasattr(value, "weighted_sum"):  # see `rows.Rows`
            remedy = (
                f"sklearn_robust.problems.RobustProblem.from_data({name}, ...) with "
                f"minimise_robust_risk or steepest_descent, which take rows that offer products"
            )
        elif callable(getattr(value, "blocks", None)):  # see `rows.RowSource`
            remedy = f"sklearn_robust.rows.BlockRows({name}), which reads it block by block"
        else:
            continue
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise TypeError(
            f"{name} must be an array or a frame in memory, got a {kind}. Use {remedy}."
        )


def check_exponent(value: Any, name: str) -> float:
    """A norm's exponent in [1, inf], as a float."""
    try:
        return LpNorm(value).p
    except (ValueError, OverflowError) as error:
        message = (
            f"{name} must be a real number in [1, inf], got {value!r}. Use numpy.inf for the "
            f"maximum norm."
        )
        raise ValueError(message) from error


def check_sample_weight(weight: Any, X: Any, dtype: Any = None) -> np.ndarray:
    """Weights as scikit-learn reads them: one a sample, finite, >= 0; not all zero, which its
    version 1.8 allows. None stands for ones.
    """
    from sklearn.utils.validation import _check_sample_weight  # workers spare its memory

    read = _check_sample_weight(weight, X, dtype=dtype, ensure_non_negative=True)
    if not read.any():
        raise ValueError(
            "sample_weight must hold at least one non-zero number, got zeros alone. Use None for "
            "weights that are all alike."
        )
    return read


def check_choice(value: Any, name: str, choices: Iterable[Any]) -> None:
    """One of a few values."""
    choices = list(choices)
    # a search over an array of booleans sets these
    value = bool(value) if isinstance(value, np.bool_) else value
    if not any(
        value is choice or (isinstance(value, str) and value == choice) for choice in choices
    ):
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.")


def check_number(
    value: Any, name: str, *, low: float, strict: bool = False, integer: bool = False
) -> None:
    """A finite number above (or at) a lower end."""
    kind: Any = Integral if integer else Real
    word = "an integer" if integer else "a finite number"
    number = as_float(value)  # nan, which no comparison holds for, unless it is a number
    if not (
        isinstance(value, kind)
        and (low < number if strict else low <= number)
        and number < math.inf
    ):
        raise ValueError(f"{name} must be {word} {'>' if strict else '>='} {low:g}, got {value!r}.")


def check_parameters(estimator: Any, checks: Mapping[str, Check]) -> None:
    """Refuse the first parameter of an estimator that is out of its range.

    Parameters
    ----------
    estimator : object
    checks : dict of str to callable
        For each parameter a function of its value and its name, which raises.
    """
    for name, check in checks.items():
        check(getattr(estimator, name), name)


def check_exponents(values: Any, name: str) -> list[float]:
    """One or several exponents in [1, inf], in the order given."""
    return [check_exponent(value, name) for value in one_or_several(values, name)]


def check_radii(values: Any, name: str) -> list[float]:
    """One or several radii >= 0, in the order given."""
    return [check_radius(value, name) for value in one_or_several(values, name)]


def one_or_several(values: Any, name: str) -> list[Any]:
    """A number or a name alone, or those of a sequence."""
    if isinstance(values, Real | str):
        return [values]
    found = list(values) if np.iterable(values) else []
    if not found:
        raise ValueError(
            f"{name} must be a number or a non-empty sequence of numbers, got {values!r}."
        )
    return found


def read_scale(scale: Any, n_features: int, feature_names: Any = None) -> np.ndarray | None:
    """The scale of each feature, of shape (n_features,); from a dict by name, where features that
    it leaves out have 1.
    """
    if scale is None:
        return None
    if isinstance(scale, Mapping):
        if feature_names is None:
            raise ValueError(
                f"scale={scale!r} names features, but X has no feature names. Use a frame with "
                f"named columns, or an array of "
                f"shape ({n_features},)."
            )
        names = list(feature_names)
        unknown = [name for name in scale if name not in names]
        if unknown:
            raise ValueError(
                f"scale names features that X does not have: {unknown}. Its features are {names}."
            )
        scale = [scale.get(name, 1.0) for name in names]
    values = check_scale(scale, "scale")
    if len(values) != n_features:
        raise ValueError(
            f"scale must hold a number for each of the {n_features} features, got {len(values)}."
        )
    return values


def is_training(scale: Any) -> bool:
    """Whether the scale of training is asked for."""
    return isinstance(scale, str) and scale == "training"


def class_index(y: Any, classes: np.ndarray) -> np.ndarray:
    """Index of each label in the classes of a fit; -1 for labels never seen, which are always
    wrong.
    """
    from sklearn.utils import assert_all_finite, column_or_1d  # workers spare its memory

    refuse_lazy(y=y)
    y = column_or_1d(y)
    classes = np.asarray(classes)
    if y.dtype.kind == classes.dtype.kind != "O":  # compared as they are
        assert_all_finite(y, input_name="y")
        order = np.argsort(classes)
        above = np.searchsorted(classes, y, sorter=order)
        place = order[np.minimum(above, len(classes) - 1)]
        return np.where(classes[place] == y, place, -1)
    labels, known = y.tolist(), classes.tolist()
    kinds = [kind for kind in (str, Real) if isinstance(known[0], kind)]
    kind = kinds[0] if kinds else type(known[0])
    for label in labels:
        if not isinstance(label, kind):
            raise ValueError(
                f"y must hold labels of the type that was seen in fit, such as {known[0]!r}, got "
                f"{label!r}."
            )
    assert_all_finite(y, input_name="y")
    position = {label: k for k, label in enumerate(known)}
    return np.array([position.get(label, -1) for label in labels], dtype=np.int64)


def seen_class_index(y: Any, classes: np.ndarray) -> np.ndarray:
    """Index of each label in the classes of a fit, where each must be one of them."""
    index = class_index(y, classes)
    if np.any(index < 0):
        unseen = sorted(set(np.ravel(y)[index < 0].tolist()), key=str)
        raise ValueError(
            f"y holds labels that were not seen in fit: {unseen}. Those seen are "
            f"{np.asarray(classes).tolist()}."
        )
    return index


def check_device(device: Any) -> None:
    """None, or a device that torch can compute on here."""
    if device is None:
        return
    try:
        import torch
    except ImportError as error:
        raise missing(f"device={device!r}", "torch") from error
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise ValueError(
            f"device={device!r} is not available: {str(error).splitlines()[0]}. Use device=None, "
            f"'cpu', or an "
            "accelerator that torch finds on this machine, such as 'cuda'."
        ) from error
