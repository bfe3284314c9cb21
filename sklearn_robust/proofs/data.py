"""The data that a certificate is about, as the checker reads them from a file."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.utils.validation import check_array

from sklearn_robust._documentation import see
from sklearn_robust._parameters import refuse_lazy
from sklearn_robust.check import label
from sklearn_robust.joint import JointProblem
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import BlockRows

_MOST_ENTRIES = 20_000_000  # entries of rows in blocks: an exact integer takes about 40 bytes


@dataclass(frozen=True)
class LabelledData:
    """Rows in float64 with their labels and weights.

    Attributes
    ----------
    X : ndarray of shape (n, d)
    y : int array of shape (n,)
        Index of each sample's class in `classes`.
    classes : list of str
        The labels as text, in the order of `numpy.unique(y)`.
    values : ndarray of shape (K,)
        The labels themselves.
    sample_weight : ndarray of shape (n,)

    Examples
    --------
    >>> from sklearn_robust.proofs import LabelledData
    >>> data = LabelledData.of([[1.0], [2.0]], [1.0, 0.0])
    >>> data.labels, data.digest[:8]
    (['1', '0'], 'd07aad98')
    """

    X: np.ndarray
    y: np.ndarray
    classes: list[str]
    values: np.ndarray
    sample_weight: np.ndarray

    @classmethod
    def of(cls, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """The data of arrays, frames, sparse arrays or rows in blocks, which are read into memory.

        Parameters
        ----------
        X : array-like or sparse array of shape (n, d), or BlockRows
        y : array-like of shape (n,)
            None for rows in blocks, which hold labels and weights.
        sample_weight : array-like of shape (n,), optional
        classes : array-like, optional
            The labels in the order of a predictor; by default those of y, sorted.

        Returns
        -------
        LabelledData

        Raises
        ------
        ValueError
            If two labels have one text, as 1 and "1.0" have, or the blocks hold too many entries.
        """
        if isinstance(X, BlockRows):
            y = X.y if y is None else y
            sample_weight = X.sample_weight if sample_weight is None else sample_weight
            X = in_memory(X)
        refuse_lazy(X=X, y=y, sample_weight=sample_weight)
        X = check_array(X, accept_sparse=True, dtype=np.float64)
        X = X.toarray() if sparse.issparse(X) else X
        names, index = np.unique(np.asarray(y), return_inverse=True)
        if classes is not None:
            index = np.searchsorted(classes, np.asarray(y))
            names = np.asarray(classes)
        texts = [label(str(name)) for name in names]
        if len(set(texts)) < len(texts):
            raise ValueError(
                f"y must hold labels that differ as text for a certificate, "
                f"got {names.tolist()!r}. "
                "Rename them."
            )
        weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
        return cls(X, index, texts, names, weight)

    @cached_property
    def rows(self) -> list[list[float]]:
        """The rows as lists of floats."""
        rows: list[list[float]] = self.X.tolist()
        return rows

    @cached_property
    def labels(self) -> list[str]:
        """The text of each sample's label."""
        return [self.classes[index] for index in self.y]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of "n d" and a line feed, then, for each row, of its values as little-endian
        float64 without -0.0, its label as UTF-8, and a line feed.
        """
        found = hashlib.sha256("{} {}\n".format(*self.X.shape).encode())
        for row, name in zip(self.X.astype("<f8") + 0.0, self.labels, strict=True):
            found.update(row.tobytes() + f"{name}\n".encode())
        return found.hexdigest()

    def problem(
        self, threat: Any, fit_intercept: bool, sample_radius: Any = None
    ) -> RobustProblem | JointProblem:
        """The problem of the samples of positive weight."""
        used = self.sample_weight > 0
        given: dict[str, Any] = {
            "threat": threat,
            "fit_intercept": fit_intercept,
            "sample_weight": self.sample_weight[used],
            "sample_radius": None if sample_radius is None else np.asarray(sample_radius)[used],
        }
        labels = self.values.tolist()
        if len(labels) > 2:
            return JointProblem.from_data(self.X[used], self.y[used], labels=labels, **given)
        return RobustProblem.from_data(
            self.X[used],
            np.where(self.y[used] == 1, 1.0, -1.0),
            classes=labels,
            **given,
        )


def in_memory(rows: BlockRows) -> np.ndarray:
    """The rows of all blocks, where they are not too many.

    Parameters
    ----------
    rows : BlockRows

    Returns
    -------
    ndarray of shape (n, d)

    Raises
    ------
    ValueError
        If they hold more entries than exact integers have room in memory.
    """
    if math.prod(rows.shape) > _MOST_ENTRIES:
        raise ValueError(
            f"A certificate holds each entry as an exact integer: at most {_MOST_ENTRIES} "
            f"entries, got rows of shape {rows.shape}. Certify a sample of the rows."
            f" {see('guide/proofs')}"
        )
    return rows.take(np.arange(rows.shape[0]))
