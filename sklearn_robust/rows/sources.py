"""Data as blocks of samples that are read one after the other, and the checks of a block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from sklearn_robust.rows.arrays import ArrayRows, DenseRows, SparseRows


class Block(NamedTuple):
    """Consecutive samples of a source.

    Attributes
    ----------
    X : array, scipy.sparse array or frame of shape (m, d)
    y : array of shape (m,)
    sample_weight : array of shape (m,) or None
    name : str
        Where the block comes from, for messages.
    """

    X: Any
    y: Any
    sample_weight: Any = None
    name: str = ""

    @property
    def rows(self) -> ArrayRows:
        """The products with X, in float32 or float64."""
        X = self.X.tocsr() if sparse.issparse(self.X) else np.asarray(self.X)
        if X.ndim != 2 or X.dtype.kind not in "biuf":
            raise ValueError(
                f"X of {self.name} must be a table of numbers, got shape {X.shape} and dtype "
                f"{X.dtype}. Encode categories and texts as numbers first."
            )
        single = np.result_type(X.dtype, np.float32) == np.float32
        X = X.astype(np.float32 if single else np.float64, copy=False)
        return SparseRows(X) if sparse.issparse(X) else DenseRows(X)

    @property
    def labels(self) -> np.ndarray:
        """The labels, of which none is missing; equal ones of type object are one object."""
        y = np.asarray(self.y)
        if y.shape != (self.X.shape[0],):
            raise ValueError(
                f"y of {self.name} must have one label for each of its {self.X.shape[0]} rows, got "
                f"shape {y.shape}."
            )
        distinct = [y[:1].tolist()[0]]
        if y.dtype == object:
            distinct = list(dict.fromkeys(y.tolist()))
            one = {label: label for label in distinct}
            y = np.array([one[label] for label in y.tolist()] + [None], dtype=object)[:-1]
        if (y.dtype.kind == "f" and not np.isfinite(y).all()) or any(
            label is None or label != label for label in distinct
        ):
            raise ValueError(f"y of {self.name} has missing labels: leave their rows out.")
        check_one_kind(distinct[0], distinct, self.name)
        return y

    @property
    def weights(self) -> np.ndarray | None:
        """The weights, finite and at least 0."""
        if self.sample_weight is None:
            return None
        weight = np.asarray(self.sample_weight)
        fits = weight.shape == (self.X.shape[0],) and weight.dtype.kind in "biuf"
        if not fits or not np.all((weight >= 0) & (weight < math.inf)):
            raise ValueError(
                f"sample_weight of {self.name} must hold a finite number >= 0 for each of its "
                f"{self.X.shape[0]} rows, got {weight!r}."
            )
        return weight.astype(np.float64)

    def check_finite(self) -> None:
        """Refuse nan and infinity in X, with the first place of one."""
        X: Any = self.rows.X
        entries = X.data if sparse.issparse(X) else X
        finite = np.isfinite(entries)
        if finite.all():
            return
        first = tuple(np.argwhere(~finite)[0])
        if sparse.issparse(X):
            row, column = np.searchsorted(X.indptr, first[0], side="right") - 1, X.indices[first[0]]
        else:
            row, column = first
        raise ValueError(
            f"X of {self.name} holds {entries[first]} in its row {row}, column {column} (counted "
            f"from 0). Impute such entries, or leave the row out."
        )


def check_one_kind(first: Any, labels: Iterable[Any], name: str) -> None:
    """Refuse numbers and texts side by side as labels."""
    for label in labels:
        if isinstance(label, str) != isinstance(first, str):
            raise ValueError(
                f"y of {name} holds {label!r} beside {first!r}: use numbers alone, or texts."
            )


class RowSource(Protocol):
    """Data that can be read again and again, a block of samples at a time."""

    def blocks(self) -> Iterable[Any]:
        """The samples in the same order each time: a `Block`, or a tuple (X, y) or (X, y,
        sample_weight), at a time.
        """
        ...


def named_blocks(source: RowSource) -> Iterator[Block]:
    """The blocks of a source that have samples, each with a name."""
    stop = 0
    for place, item in enumerate(source.blocks()):
        block = item if isinstance(item, Block) else Block(*item)
        start, stop = stop, stop + block.X.shape[0]
        if stop > start:
            name = block.name or f"block {place} (rows {start} to {stop - 1})"
            yield block._replace(name=name)
