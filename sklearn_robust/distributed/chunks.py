"""Training data on a cluster as a list of chunks with names: arrays, frames, and sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_robust._documentation import see
from sklearn_robust.rows import Block, BlockRows, named_blocks


@dataclass(frozen=True)
class Chunk:
    """A part of the data.

    Attributes
    ----------
    name : str
        For messages.
    value : row source or dask Delayed
        The latter becomes a `Block` on a worker.
    """

    name: str
    value: Any

    @property
    def is_source(self) -> bool:
        """Whether the chunk is a row source, which is read a block at a time."""
        return not hasattr(self.value, "__dask_graph__")


def read_chunks(X: Any, y: Any = None, sample_weight: Any = None) -> list[Chunk]:
    """The chunks of training data.

    Parameters
    ----------
    X : dask array or frame, or list of row sources
        A row source has a method blocks() that yields (X, y) or (X, y, sample_weight).
    y, sample_weight : dask array or series, or None
        None for sources, which have labels and weights themselves.

    Raises
    ------
    TypeError
        If X is nothing of the kind.
    ValueError
        If y or sample_weight do not go with X.
    """
    if is_collection(X):
        return _chunks_of_collection(X, y, sample_weight)
    sources = [X] if hasattr(X, "blocks") else X
    if not isinstance(sources, Sequence) or not all(
        callable(getattr(source, "blocks", None)) for source in sources
    ):
        raise TypeError(
            f"X must be a dask array, a dask frame or a list of objects with a method blocks(), "
            f"got {type(X).__name__}. An array in memory is for the classes of sklearn_robust "
            f"itself."
            f" {see('guide/larger_than_one_machine')}"
        )
    for name, given in (("y", y), ("sample_weight", sample_weight)):
        if given is not None:
            raise ValueError(
                f"{name} must be left out where X is a list of sources, which hold labels and "
                f"weights, got a {type(given).__name__}."
                f" {see('guide/larger_than_one_machine')}"
            )
    if not sources:
        raise ValueError("X must hold at least one source, got an empty list.")
    sources = [source.source if isinstance(source, BlockRows) else source for source in sources]
    return [Chunk(f"source {i} ({source!r})", source) for i, source in enumerate(sources)]


def is_collection(X: Any) -> bool:
    """Whether X is a dask array or frame, of which each chunk has all columns."""
    return hasattr(X, "__dask_graph__") and hasattr(X, "to_delayed")


def blocks_of(value: Any, name: str) -> Iterator[Block]:
    """The blocks of a source, or the one of arrays, that have samples."""
    if isinstance(value, Block):
        if value.X.shape[0] > 0:
            yield value
        return
    for block in named_blocks(value):
        yield block if name in block.name else block._replace(name=f"{block.name} of {name}")


def map_rows(
    X: Any, function: Callable[[Block], np.ndarray], like: np.ndarray, y: Any = None
) -> Any:
    """The dask array of a function of each block, computed when it is asked for.

    Parameters
    ----------
    X : dask array or frame, or list of row sources
    function : callable
        Its result for a block of m rows has shape (m,) or (m, c).
    like : ndarray of shape (0,) or (0, c)
        An empty result, for shape and dtype.
    y : dask array or series, optional
        The labels of the blocks; those of a dask array or frame alone have None.
    """
    import dask.array as da
    from dask.delayed import delayed

    chunks = _X_chunks(X) if is_collection(X) and y is None else read_chunks(X, y)
    of_chunk = delayed(_map_chunk)
    lengths = X.chunks[0] if hasattr(X, "chunks") else [np.nan] * len(chunks)
    parts = [
        da.from_delayed(
            of_chunk(function, delayed(chunk.value, traverse=False), chunk.name, like),
            shape=(length, *like.shape[1:]),
            dtype=like.dtype,
            meta=like,
        )
        for chunk, length in zip(chunks, lengths, strict=True)
    ]
    return da.concatenate(parts, axis=0, allow_unknown_chunksizes=True)


def _map_chunk(
    function: Callable[[Block], np.ndarray], value: Any, name: str, like: np.ndarray
) -> np.ndarray:
    return np.concatenate([like, *map(function, blocks_of(value, name))])


def _X_chunks(X: Any) -> list[Chunk]:
    """The chunks of X alone."""
    from dask.delayed import delayed

    block = delayed(Block)
    return [
        Chunk(f"chunk {i} of X", block(part, None, None, f"chunk {i} of X"))
        for i, part in enumerate(_parts(X))
    ]


def _chunks_of_collection(X: Any, y: Any, sample_weight: Any) -> list[Chunk]:
    """The chunks of X, each with its labels and weights."""
    from dask.delayed import delayed

    if y is None:
        raise ValueError("y must hold the labels where X is a dask array or frame, got None.")
    columns = {"X": X, "y": y, "sample_weight": sample_weight}
    for name, column in columns.items():
        if column is not None and not is_collection(column):
            raise TypeError(
                f"{name} must be a dask array, frame or series like X, got "
                f"{type(column).__name__}. Use dask.array.from_array({name}, chunks=X.chunks[0])."
                f" {see('guide/larger_than_one_machine')}"
            )
    if hasattr(X, "chunks"):
        y, sample_weight = (_with_rows_of(X, column) for column in (y, sample_weight))
    X_parts, y_parts = _parts(X), _parts(y)
    weight_parts = [None] * len(X_parts) if sample_weight is None else _parts(sample_weight)
    for name, parts in (("y", y_parts), ("sample_weight", weight_parts)):
        if len(parts) != len(X_parts):
            raise ValueError(
                f"{name} must have the chunks of X, got {len(parts)} beside {len(X_parts)} of X. "
                f"Take both from one array or frame."
                f" {see('guide/larger_than_one_machine')}"
            )
    names = _names(X)
    block = delayed(Block)
    return [
        Chunk(name, block(*parts, name))
        for name, *parts in zip(names, X_parts, y_parts, weight_parts, strict=True)
    ]


def _with_rows_of(X: Any, column: Any) -> Any:
    """A dask array cut where X is, if the cuts are known."""
    if column is None or not hasattr(column, "chunks") or column.chunks[0] == X.chunks[0]:
        return column
    if np.isnan(column.shape[0]) or np.isnan(X.shape[0]):
        return column  # each chunk is checked
    if column.shape[0] != X.shape[0]:
        raise ValueError(
            f"y and sample_weight must have an entry for each of the {X.shape[0]} rows of X, got "
            f"{column.shape[0]}."
        )
    return column.rechunk((X.chunks[0],), method="tasks")


def _parts(collection: Any) -> list[Any]:
    """The chunks of rows, as dask's Delayed."""
    if hasattr(collection, "chunks") and collection.ndim == 2:
        collection = collection.rechunk({1: -1}, method="tasks")
    return list(np.ravel(np.asarray(collection.to_delayed(), dtype=object)))


def _names(X: Any) -> list[str]:
    """A name for each chunk, with its rows where they are known."""
    if not hasattr(X, "chunks"):
        return [f"partition {i} of X" for i in range(X.npartitions)]
    stops = np.cumsum(X.chunks[0])
    if np.isnan(stops).any():
        return [f"chunk {i} of X" for i in range(len(stops))]
    starts = [0, *stops[:-1].tolist()]
    return [
        f"chunk {i} of X (rows {start} to {stop - 1})"
        for i, (start, stop) in enumerate(zip(starts, stops.tolist(), strict=True))
    ]
