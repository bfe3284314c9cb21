"""The training data of a network: a table in memory, or what a torch Dataset or DataLoader brings.

Both give the class index and the weight of every sample, one row to look at, and batches of rows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from sklearn_robust.neural_network._inner_maximisation import Samples
from sklearn_robust.neural_network._robustness import as_labels

# From rows (m, d), class indices and weights (m,) to samples that the module takes.
MakeSamples = Callable[[np.ndarray, np.ndarray, np.ndarray], Samples]

_SURVEY_BATCH = 256  # samples of a Dataset that the first reading takes at a time


@dataclass(frozen=True)
class Table:
    """Rows in memory, of shape (n, d), their labels and positive weights.

    `shape` is that of one sample, and `index` the index of each one's class.
    """

    rows: np.ndarray
    labels: np.ndarray
    weight: np.ndarray
    shape: tuple[int, ...]
    index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def first(self) -> np.ndarray:
        """One row, of shape (1, d)."""
        return self.rows[:1]

    def weighted(self, labels: np.ndarray, factors: np.ndarray) -> Table:
        """The samples of positive weight, after that of each label is multiplied by a factor."""
        factor = factors[np.searchsorted(labels, self.labels)].astype(self.weight.dtype)
        data = replace(self, weight=self.weight * factor)
        return data if factor.all() else data.at(factor > 0)

    def with_classes(self, classes: np.ndarray) -> Table:
        """The same with the index of each label in the classes."""
        return replace(self, index=np.searchsorted(classes, self.labels))

    def at(self, places: Any) -> Table:
        """Some of the samples."""
        index = self.index[places] if len(self.index) else self.index
        return Table(self.rows[places], self.labels[places], self.weight[places], self.shape, index)

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows, class indices and weights, as many at a time as are in memory."""
        assert self.index is not None
        yield self.rows, self.index, self.weight

    def samples(self, make: MakeSamples) -> Samples:
        """The samples as the module takes them."""
        return make(self.rows, self.index, self.weight)


def is_loaded(X: Any) -> bool:
    """Whether the data come from a torch Dataset or DataLoader."""
    return isinstance(X, Dataset | DataLoader)


class LoadedData:
    """Samples that a Dataset or a DataLoader brings anew in every epoch.

    Its items are (x, y) or (x, y, sample_weight); all are read once when this is made, for labels,
    weights and shapes, which stay in memory.

    Parameters
    ----------
    source : torch.utils.data.Dataset or torch.utils.data.DataLoader
        A DataLoader has batches of its own.

    Attributes
    ----------
    shape : tuple of int
        The shape of one sample.
    first : array of shape (1, d)
        One row.
    labels, index, weight : arrays of shape (n,)
        The label of each sample, the index of its class in `classes`, and its positive weight.
    """

    def __init__(self, source: Any, batch_size: int | None = None) -> None:
        if isinstance(source, DataLoader) and batch_size is not None:
            raise ValueError(
                f"batch_size={batch_size!r} has no part where X is a DataLoader, which has batches "
                f"of its own. Use batch_size=None, or pass its data set, loader.dataset."
            )
        self.source = source
        labels, weights = [], []
        for place, batch in enumerate(self._loader(_SURVEY_BATCH)):
            x, y, weight = _read(batch, place)
            rows = _rows(x, place)
            if place == 0:
                self.shape, self.first = tuple(x.shape[1:]), rows[:1].copy()
            if tuple(x.shape[1:]) != self.shape or rows.dtype != self.first.dtype:
                raise ValueError(
                    f"Batch {place} of X must have samples of shape {self.shape} in "
                    f"{self.first.dtype} as the batches before it, got {tuple(x.shape[1:])} in "
                    f"{rows.dtype}."
                )
            labels.append(y)
            weights.append(weight)
        if not labels:
            raise ValueError(f"X must hold at least one sample, got {source!r} without any.")
        self.labels, self.weight = np.concatenate(labels), np.concatenate(weights)
        if not self.weight.any():
            raise ValueError(f"The sample_weight that {source!r} brings must not be all zero.")
        self._n_batches = len(labels)
        self._known = self.classes = np.unique(self.labels)
        self._factors = np.ones(len(self._known))
        self.index = np.searchsorted(self.classes, self.labels)
        self._keep(self.weight > 0)

    def _keep(self, used: np.ndarray) -> None:
        """Forget the other samples, which a DataLoader still brings."""
        if not used.all():
            self.labels, self.index, self.weight = (
                values[used] for values in (self.labels, self.index, self.weight)
            )
            if self._has_places:
                self.source = Subset(self.source, np.flatnonzero(used).tolist())

    def weighted(self, labels: np.ndarray, factors: np.ndarray) -> LoadedData:
        """The samples of positive weight, after that of each label is multiplied by a factor."""
        data = copy.copy(self)
        data._known, data._factors = labels, factors
        data.weight = self.weight * factors[np.searchsorted(labels, self.labels)]
        data._keep(data.weight > 0)
        return data

    def with_classes(self, classes: np.ndarray) -> LoadedData:
        """The same with the index of each label in the classes."""
        data = copy.copy(self)
        data.classes, data.index = classes, np.searchsorted(classes, self.labels)
        return data

    def at(self, places: Any) -> LoadedData:
        """Some of the samples of a Dataset."""
        if not self._has_places:
            raise ValueError(
                f"early_stopping=True holds out samples of a Dataset, got a "
                f"{type(self.source).__name__}, whose samples have no places. Pass a Dataset such "
                f"as loader.dataset, or use early_stopping=False."
            )
        data = copy.copy(self)
        data._keep(np.isin(np.arange(len(self.labels)), places))
        return data

    @property
    def _has_places(self) -> bool:
        """Whether a sample can be read by its place."""
        return not isinstance(self.source, DataLoader | IterableDataset)

    def samples(self, make: MakeSamples) -> LoadedSamples:
        """The samples as the module takes them."""
        return LoadedSamples(self, make)

    def batches(
        self, batch_size: int | None, generator: torch.Generator | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows, class indices and positive weights, a batch at a time."""
        for place, batch in enumerate(self._loader(batch_size or len(self.weight), generator)):
            x, labels, weight = _read(batch, place)
            used = weight > 0
            unknown = np.setdiff1d(labels[used], self._known)
            if len(unknown):
                raise ValueError(
                    f"Batch {place} of X brings labels that its first reading did not: "
                    f"{unknown.tolist()}. Give data that are the same at each reading."
                )
            rows, labels = _rows(x, place)[used], labels[used]
            weight = weight[used] * self._factors[np.searchsorted(self._known, labels)]
            used = weight > 0
            if used.any():
                yield rows[used], np.searchsorted(self.classes, labels[used]), weight[used]

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows, class indices and weights of all samples, as many at a time as are in memory."""
        return self.batches(_SURVEY_BATCH, None)

    def n_batches(self, batch_size: int | None) -> int:
        """How many batches an epoch has."""
        if isinstance(self.source, DataLoader):
            return self._n_batches
        return math.ceil(len(self.weight) / (batch_size or len(self.weight)))

    def _loader(self, batch_size: int, generator: torch.Generator | None = None) -> DataLoader:
        """Batches in the order of the data, or at random with a generator; a DataLoader has its
        own.
        """
        if isinstance(self.source, DataLoader):
            return self.source
        mixed = generator is not None and not isinstance(self.source, IterableDataset)
        return DataLoader(self.source, batch_size, shuffle=mixed, generator=generator)


class LoadedSamples:
    """`Samples` that are read a batch at a time.

    Parameters
    ----------
    data : LoadedData
    make : callable
        From rows, class indices and weights of a batch to `Samples`.
    """

    def __init__(self, data: LoadedData, make: MakeSamples) -> None:
        self.data = data
        self.make = make

    @property
    def total_weight(self) -> float:
        """The sum of the weights."""
        return float(self.data.weight.sum())

    def class_weight(self, n_classes: int) -> np.ndarray:
        """The total weight of each class, of shape (K,)."""
        return np.bincount(self.data.index, self.data.weight, n_classes)

    def mean(self, figure: Callable[[Tensor], Tensor]) -> float:
        """The weighted mean of a figure of each sample, in one reading."""
        parts = [(part.mean(figure), part.total_weight) for part in self.parts()]
        values, weights = np.array(parts).T
        return float(values @ weights / weights.sum())

    def n_batches(self, batch_size: int | None) -> int:
        """How many batches an epoch has."""
        return self.data.n_batches(batch_size)

    def parts(self) -> Iterator[Samples]:
        """All samples, as many at a time as are in memory."""
        for rows, index, weight in self.data.parts():
            yield self.make(rows, index, weight)

    def batches(
        self, batch_size: int | None, generator: torch.Generator, count: int | None = None
    ) -> Iterator[Samples]:
        """The batches of one reading.

        A DataLoader has its own; those of a Dataset are drawn by the generator.

        Raises
        ------
        ValueError
            If they are not as many as `count`.
        """
        n_batches = 0
        for rows, index, weight in self.data.batches(batch_size, generator):
            n_batches += 1
            yield self.make(rows, index, weight)
        if count not in (None, n_batches):
            raise ValueError(
                f"X must bring as many batches in every process, got {n_batches} in this one and "
                f"{count} in another. Give each process as many samples."
            )


def _read(batch: Any, place: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The samples, labels and weights of a batch."""
    if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
        raise ValueError(
            f"The items of X must be (x, y) or (x, y, sample_weight), batch {place} brings a "
            f"{type(batch).__name__}. Wrap the data in a torch.utils.data.Dataset of such pairs."
        )
    x = torch.as_tensor(batch[0])
    y = np.asarray(as_labels(batch[1]))
    weight = np.ones(len(x)) if len(batch) == 2 else np.asarray(batch[2], dtype=np.float64)
    if x.ndim < 2 or y.shape != (len(x),) or weight.shape != (len(x),):
        raise ValueError(
            f"Batch {place} of X must hold samples (m, ...) with a label and at most one weight "
            f"each, got shapes {tuple(x.shape)}, {y.shape} and {weight.shape}."
        )
    if not np.isfinite(weight).all() or weight.min(initial=0) < 0:
        wrong = weight[~(np.isfinite(weight) & (weight >= 0))][0]
        raise ValueError(
            f"sample_weight of batch {place} of X must be finite and >= 0, got {wrong:g}. Use 0 "
            "for samples to leave out."
        )
    return x, y, weight


def _rows(x: Tensor, place: int) -> np.ndarray:
    """Samples as rows in float32 or float64, without missing entries."""
    x = x.detach().cpu()
    x = x if x.dtype in (torch.float64, torch.float32) else x.float()
    return check_array(x.flatten(1).numpy(), dtype=None, input_name=f"batch {place} of X")
