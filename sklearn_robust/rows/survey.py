"""What the first reading of data finds: their form, and sums over classes and columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy.sparse import issparse

from sklearn_robust.rows.arrays import SparseRows, most_sparse_gram_columns
from sklearn_robust.rows.sources import Block, check_one_kind


@dataclass(frozen=True)
class Survey:
    """The form and the sums of the samples of some blocks; those of more blocks add up.

    Attributes
    ----------
    name : str
        The first block, for messages.
    n, n_features : int
    dtype : dtype
        float32 or float64.
    is_sparse : bool
    feature_names : ndarray of shape (n_features,) or None
    n_terms : int
        The most entries of a row.
    n_entries : int
        Entries, without the zeros that sparse rows leave out.
    largest, square_sum : float
        The largest entry in size, and the sum of ||x_i||^2.
    column_sum : ndarray of shape (n_features,)
    labels : ndarray of shape (K,)
        The distinct labels, in order.
    counts : ndarray of shape (K,)
        The samples of positive weight with each label.
    weights : ndarray of shape (K,)
        The sum of the sample weights with each label.
    is_weighted : bool
        Whether the blocks have sample weights.
    """

    name: str
    n: int
    n_features: int
    dtype: Any
    is_sparse: bool
    feature_names: np.ndarray | None
    n_terms: int
    n_entries: int
    largest: float
    square_sum: float
    column_sum: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    is_weighted: bool

    @classmethod
    def of(cls, block: Block) -> Self:
        """The survey of one block, which is checked."""
        rows = block.rows
        block.check_finite()
        y, weight = block.labels, block.weights
        labels, index = np.unique(y, return_inverse=True)
        ones = np.ones(len(y))
        weight_or_one = ones if weight is None else weight
        return cls(
            name=block.name,
            n=len(y),
            n_features=rows.shape[1],
            dtype=rows.dtype,
            is_sparse=isinstance(rows, SparseRows),
            feature_names=_names_of_frame(block.X),
            n_terms=rows.n_terms,
            n_entries=int(rows.entries.size),
            largest=rows.largest,
            square_sum=rows.square_sum(),
            column_sum=rows.weighted_sum(ones[None])[0],
            labels=labels,
            counts=np.bincount(index, weight_or_one > 0, len(labels)),
            weights=np.bincount(index, weight_or_one, len(labels)),
            is_weighted=weight is not None,
        )

    def __add__(self, other: Survey) -> Survey:
        """The survey of the blocks of both.

        Raises
        ------
        ValueError
            If the blocks of the other are not like these.
        """
        self._check_alike(other)
        labels, index = np.unique(np.concatenate([self.labels, other.labels]), return_inverse=True)
        counts = np.concatenate([self.counts, other.counts])
        weights = np.concatenate([self.weights, other.weights])
        return replace(
            self,
            n=self.n + other.n,
            n_terms=max(self.n_terms, other.n_terms),
            n_entries=self.n_entries + other.n_entries,
            largest=max(self.largest, other.largest),
            square_sum=self.square_sum + other.square_sum,
            column_sum=self.column_sum + other.column_sum,
            labels=labels,
            counts=np.bincount(index, counts, len(labels)),
            weights=np.bincount(index, weights, len(labels)),
        )

    def _check_alike(self, other: Survey) -> None:
        """Refuse another number of columns, another type, names, or weights on one side alone."""
        kinds = {True: "a sparse array", False: "a dense array"}
        names = [None if x.feature_names is None else list(x.feature_names) for x in (other, self)]
        forms = {
            "features": (other.n_features, self.n_features),
            "dtype": (other.dtype, self.dtype),
            "kind": (kinds[other.is_sparse], kinds[self.is_sparse]),
            "feature names": names,
        }
        for what, (there, here) in forms.items():
            if there != here:
                raise ValueError(
                    f"X of {other.name} must be like the blocks before it, got {what} {there} "
                    f"after {here}. Convert the data to one form, or leave the block out."
                )
        if self.is_weighted != other.is_weighted:
            raise ValueError(
                f"{other.name} has {'a' if other.is_weighted else 'no'} sample_weight, unlike the "
                f"blocks before it: give all blocks weights, or none."
            )
        check_one_kind(self.labels.tolist()[0], other.labels.tolist()[:1], other.name)

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean of the rows; zero of sparse rows, which are not centred."""
        mean = self.column_sum / self.n
        return np.zeros_like(mean) if self.is_sparse else mean

    @property
    def most_gram_columns(self) -> int | None:
        """Any number of dense rows; of sparse ones as many as their entries afford."""
        return most_sparse_gram_columns(self.n_entries) if self.is_sparse else None


def _names_of_frame(X: Any) -> np.ndarray | None:
    """The names of the columns of a frame; None of arrays."""
    if isinstance(X, np.ndarray) or issparse(X):
        return None
    from sklearn.utils.validation import _get_feature_names  # workers with arrays spare its memory

    names: np.ndarray | None = _get_feature_names(X)
    return names
