"""What a linear function of a transformer's output is on the transformer's input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import singledispatch
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

Steps = list[tuple[str, Any]]


@singledispatch
def coef_on_input(transformer: Any, coef: np.ndarray) -> np.ndarray:
    r"""Coefficients on the input of an affine transformer, from those on its output.

    Behind :math:`T(x) = A x + c` the function :math:`\langle w, T(x)\rangle` has the coefficients
    :math:`A^T w`. With `space="input"` the metrics call this for each step of a pipeline. Register
    a transformer of your own with ``coef_on_input.register(YourTransformer)``.

    Parameters
    ----------
    transformer : fitted transformer
        Known are StandardScaler, MinMaxScaler, MaxAbsScaler and RobustScaler, PCA and TruncatedSVD,
        feature selection, SimpleImputer, ColumnTransformer, Pipeline, FrozenEstimator, a
        FunctionTransformer without function, and the encoders of categories OneHotEncoder,
        OrdinalEncoder and TargetEncoder.
    coef : ndarray of shape (n_functions, n_features_out)

    Returns
    -------
    ndarray of shape (n_functions, n_features_in)
        NaN in the columns that the adversary cannot move, as those that an encoder of categories
        reads.

    Raises
    ------
    TypeError
        If the transformer is not known to be affine.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator, TransformerMixin
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_robust.metrics import certified_radius, coef_on_input
    >>> class Doubled(TransformerMixin, BaseEstimator):
    ...     def fit(self, X, y=None):
    ...         return self
    ...     def transform(self, X):
    ...         return 2 * X
    >>> @coef_on_input.register(Doubled)
    ... def _(transformer, coef):
    ...     return 2 * coef
    >>> X, y = np.array([[-1.0, 0.0], [1.0, 0.0]]), [0, 1]
    >>> model = make_pipeline(Doubled(), LogisticRegression()).fit(X, y)
    >>> certified_radius(model, X, space="input").round(3)
    array([1., 1.])
    """
    raise _not_affine(transformer)


def _not_affine(transformer: Any, reason: str = "is not known to be affine") -> TypeError:
    return TypeError(
        f"{type(transformer).__name__} {reason}, so a threat on the input has no closed form "
        f"behind "
        "it. Use space='model', or transformers that sklearn_robust.metrics.coef_on_input knows. "
        "One "
        "of your own can be registered there."
    )


def flat(steps: Steps) -> Iterator[tuple[str, Any]]:
    """The transformers that predict uses, with those of nested pipelines in their place.

    Samplers act in fit alone.
    """
    for name, step in steps:
        if isinstance(step, Pipeline):
            yield from flat(step.steps)
        elif not (step is None or isinstance(step, str) or hasattr(step, "fit_resample")):
            yield name, step


def transformed(steps: Steps, X: Any) -> Any:
    """What the classifier behind the steps sees."""
    for _, transformer in steps:
        X = transformer.transform(X)
    return X


def coef_before(steps: Steps, coef: np.ndarray) -> np.ndarray:
    """Coefficients on the input of the first step, from those on the output of the last."""
    for name, transformer in reversed(steps):
        coef = _coef_on_input_of(name, transformer, coef)
    return coef


def _coef_on_input_of(name: str, transformer: Any, coef: np.ndarray) -> np.ndarray:
    try:
        return coef_on_input(transformer, coef)
    except TypeError as error:
        raise TypeError(f"Step {name!r}: {error}") from error


@coef_on_input.register
def _(transformer: Pipeline, coef: np.ndarray) -> np.ndarray:
    return coef_before(list(flat(transformer.steps)), coef)


@coef_on_input.register
def _(transformer: FrozenEstimator, coef: np.ndarray) -> np.ndarray:
    return coef_on_input(transformer.estimator, coef)


@coef_on_input.register
def _(transformer: ColumnTransformer, coef: np.ndarray) -> np.ndarray:
    total = np.zeros((len(coef), transformer.n_features_in_), dtype=coef.dtype)
    for name, step, _ in transformer.transformers_:
        columns = transformer._transformer_to_input_indices[name]
        part = coef[:, transformer.output_indices_[name]]
        if len(columns) and not isinstance(step, str):
            part = _coef_on_input_of(name, step, part)
        if part.shape[1]:  # none where the columns are dropped
            np.add.at(total.T, columns, part.T)
    return total


@coef_on_input.register
def _(transformer: StandardScaler, coef: np.ndarray) -> np.ndarray:
    return coef if transformer.scale_ is None else coef / transformer.scale_


@coef_on_input.register
def _(transformer: RobustScaler, coef: np.ndarray) -> np.ndarray:
    return coef / transformer.scale_ if transformer.with_scaling else coef


@coef_on_input.register
def _(transformer: MinMaxScaler, coef: np.ndarray) -> np.ndarray:
    if transformer.clip:
        raise _not_affine(transformer, "with clip=True is not affine")
    return coef * transformer.scale_


@coef_on_input.register
def _(transformer: MaxAbsScaler, coef: np.ndarray) -> np.ndarray:
    if getattr(transformer, "clip", False):
        raise _not_affine(transformer, "with clip=True is not affine")
    return coef / transformer.scale_


@coef_on_input.register
def _(transformer: PCA, coef: np.ndarray) -> np.ndarray:
    if transformer.whiten:
        deviation = np.sqrt(transformer.explained_variance_)
        coef = coef / np.maximum(deviation, np.finfo(deviation.dtype).eps)
    return coef @ transformer.components_


@coef_on_input.register
def _(transformer: TruncatedSVD, coef: np.ndarray) -> np.ndarray:
    return coef @ transformer.components_


@coef_on_input.register
def _(transformer: SelectorMixin, coef: np.ndarray) -> np.ndarray:
    return _spread(coef, transformer.get_support())


@coef_on_input.register
def _(transformer: FunctionTransformer, coef: np.ndarray) -> np.ndarray:
    if transformer.func is not None:
        raise _not_affine(transformer)
    return coef


@coef_on_input.register
def _(transformer: SimpleImputer, coef: np.ndarray) -> np.ndarray:
    kept = np.ones(transformer.n_features_in_, dtype=bool)
    if not transformer.keep_empty_features:  # a column that had no value in fit leaves the data
        kept = np.array([not is_missing(value) for value in transformer.statistics_])
    values = _spread(coef[:, : kept.sum()], kept)  # indicators come last, and do not move
    if not is_missing(transformer.missing_values) and np.any(np.nan_to_num(values) != 0):
        marker = f"with missing_values={transformer.missing_values!r}"
        raise _not_affine(transformer, f"{marker} takes a perturbed value for another: not affine")
    return values


@coef_on_input.register(OneHotEncoder)
@coef_on_input.register(OrdinalEncoder)
@coef_on_input.register(TargetEncoder)
def _(transformer: Any, coef: np.ndarray) -> np.ndarray:
    return np.full((len(coef), transformer.n_features_in_), math.nan, dtype=coef.dtype)


def _spread(coef: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The coefficients in the chosen columns, zero elsewhere."""
    spread = np.zeros((len(coef), len(chosen)), dtype=coef.dtype)
    spread[:, chosen] = coef
    return spread


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN or NA of pandas."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ == "NAType"


def missing_entries(X: Any, names: Any, used: np.ndarray) -> np.ndarray | None:
    """Which entries of X have no value, in the columns that are used.

    Parameters
    ----------
    X : array-like, sparse array or frame
    names : array of shape (d,) or None
        Names of the columns of X that are meant, where X is a frame.
    used : bool array of shape (d,)

    Returns
    -------
    bool array of shape (n, d), or None where all have one
    """
    if sparse.issparse(X):
        if not _is_missing(X.tocsr().data).any():
            return None
        X = X.toarray()
    if isinstance(X, np.ndarray) and X.dtype.kind == "f" and not np.isnan(X).any():
        return None
    columns = np.flatnonzero(used)
    parts = _columns(X, names, columns, len(used))
    found = [_is_missing(part) for part in parts]
    if not any(column.any() for column in found):
        return None
    missing = np.zeros((len(found[0]), len(used)), dtype=bool)
    missing[:, columns] = np.column_stack(found)
    return missing


def numeric_columns(X: Any, names: Any, used: np.ndarray) -> Any:
    """The numbers of X, of shape (n, d) and in the order of the names: NaN in the columns that are
    not used, and where there is no value.

    Parameters
    ----------
    X, names, used
        As in `missing_entries`.
    """
    if sparse.issparse(X):
        return X
    columns = np.flatnonzero(used)
    if isinstance(X, np.ndarray) and X.dtype.kind in "biuf" and len(columns) == X.shape[1]:
        return X
    parts = _columns(X, names, columns, len(used))
    numbers = np.full((_num_samples(X), len(used)), math.nan)
    for j, part in zip(columns, parts, strict=True):
        numbers[:, j] = [math.nan if is_missing(value) else value for value in part]
    return numbers


def _columns(X: Any, names: Any, columns: np.ndarray, n_features: int) -> list[np.ndarray]:
    """Columns of an array or a frame, in the order of the names."""
    if hasattr(X, "columns"):
        frame = list(X.columns)
        order = range(n_features) if names is None else [frame.index(name) for name in names]
        return [np.asarray(_safe_indexing(X, order[j], axis=1)) for j in columns]
    X = X if isinstance(X, np.ndarray) else np.asarray(X, dtype=object)
    return [X[:, j] for j in columns]


def _is_missing(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind != "O":
        return np.zeros(values.shape, dtype=bool)
    return np.array([is_missing(value) for value in values], dtype=bool)
