"""Sums over chunks of data that lie on a cluster, by dask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn_robust.distributed.chunks import Chunk
from sklearn_robust.rows import Block, named_blocks
from sklearn_robust.rows.reduction import S

_FAN_IN = 8  # sums that one task adds


class LostClusterError(ConnectionError):
    """The scheduler does not answer any more, or the computation was cancelled.

    Attributes
    ----------
    model : estimator or None
        From a fit that had begun to iterate: the estimator with its last predictor and
        ``warm_start=True``. After ``error.model.set_params(client=...)`` its `fit` goes on.
    """

    model: Any = None


def current_client(client: Any = None) -> Any:
    """The client, or the current one where it is None.

    Raises
    ------
    ImportError
        If distributed is not installed.
    ValueError
        If there is no client.
    """
    try:
        from distributed import get_client
    except ImportError as error:
        raise ImportError(
            'sklearn_robust.distributed needs dask: pip install "sklearn-robust[dask]".'
        ) from error
    if client is not None:
        return client
    try:
        return get_client()
    except ValueError as error:
        raise ValueError(
            "client=None needs a current client, and there is none. Start one: "
            "client = distributed.Client(), or Client(address of a scheduler)."
        ) from error


@dataclass(frozen=True)
class DaskReduction:
    """Chunks that dask computes where they lie.

    Every sum is a graph of one task a chunk and of tasks that add up to eight sums. A task depends
    on its chunk and on the function alone: a worker that is lost costs the tasks that it had done.
    One sum comes to this process.

    Parameters
    ----------
    client : distributed.Client
    chunks : sequence of Chunk
    """

    client: Any
    chunks: Sequence[Chunk]

    def total(self, function: Callable[[Block], S]) -> S:
        """The sum of a function of each block of each chunk."""
        import dask

        shared = dask.delayed(function, traverse=False)
        total_of = dask.delayed(_total_of_chunk, pure=False)
        parts = [total_of(shared, chunk.value, chunk.name) for chunk in self.chunks]
        add = dask.delayed(_added, pure=False)
        while len(parts) > 1:
            parts = [add(parts[i : i + _FAN_IN]) for i in range(0, len(parts), _FAN_IN)]
        total = self._result(parts[0])
        if total is None:
            raise ValueError("X must hold at least one sample, and all of its chunks are empty.")
        return total

    def _result(self, delayed: Any) -> Any:
        """The value of a delayed sum, or an error that says what to do."""
        from distributed import CancelledError, KilledWorker
        from distributed.comm.core import CommClosedError

        try:
            future = self.client.compute(delayed)
            return future.result()
        except KilledWorker as error:
            raise MemoryError(
                f"Several workers died one after the other in the task {error.task}, mostly for "
                f"lack of memory. Use smaller chunks, fewer threads a worker, or workers with more "
                f"memory."
            ) from error
        except (TimeoutError, CancelledError, CommClosedError, OSError) as error:
            if _is_of_chunk(error):
                raise
            raise LostClusterError(
                f"The scheduler of {self.client!r} does not answer any more "
                f"({type(error).__name__}: {error}). Start a cluster, and pass its client."
            ) from error


def _total_of_chunk(function: Callable[[Block], S], value: Any, name: str) -> S | None:
    """The sum of a function over the blocks of a chunk; None where it has no samples."""
    total: S | None = None
    try:
        for block in blocks_of(value, name):
            part = function(block)
            total = part if total is None else total + part
    except Exception as error:
        raise _named(error, name) from error
    return total


def blocks_of(value: Any, name: str) -> Iterator[Block]:
    """The blocks of a source, or the one of arrays."""
    if isinstance(value, Block):
        if value.X.shape[0] > 0:
            yield value
        return
    for block in named_blocks(value):
        yield block if name in block.name else block._replace(name=f"{block.name} of {name}")


def _named(error: Exception, name: str) -> Exception:
    """The same error, whose message names the chunk."""
    message = str(error) if name in str(error) else f"{name}: {error}"
    try:
        named = type(error)(message)
    except TypeError:
        named = RuntimeError(f"{name}: {type(error).__name__}: {error}")
    named.of_chunk = name  # type: ignore[attr-defined]
    return named


def _is_of_chunk(error: BaseException) -> bool:
    return hasattr(error, "of_chunk")


def _added(parts: Sequence[S | None]) -> S | None:
    """The sum of those that are not None."""
    total: S | None = None
    for part in parts:
        if part is not None:
            total = part if total is None else total + part
    return total
