"""Sums over chunks of data that lie on a cluster, by dask."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sklearn_robust._extras import missing
from sklearn_robust.distributed.chunks import Chunk, blocks_of
from sklearn_robust.rows import Block
from sklearn_robust.rows.reduction import S

_FAN_IN = 2  # sums that one task adds: a worker holds few of them at a time


class LostClusterError(ConnectionError):
    """The scheduler does not answer any more, or data without a recipe were lost with a worker.

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
        raise missing("sklearn_robust.distributed", "dask") from error
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

    Every sum is a graph of one task a chunk and of tasks that add two sums. A task depends
    on its chunk and on the function alone: a worker that is lost costs the tasks that it had done.
    One sum comes to this process.

    Parameters
    ----------
    client : distributed.Client
    chunks : sequence of Chunk
    """

    client: Any
    chunks: Sequence[Chunk]

    @cached_property
    def _graph(self) -> tuple[dict[Any, Any], list[Any]]:
        """The tasks that make the chunks, and the key of each chunk."""
        from dask.base import optimize

        values = optimize(*(chunk.value for chunk in self.chunks))
        tasks = {key: task for value in values for key, task in value.__dask_graph__().items()}
        return tasks, [value.key for value in values]

    def total(self, function: Callable[[Block], S]) -> S:
        """The sum of a function of each block of each chunk."""
        tasks, chunks = self._graph
        sweep = uuid.uuid4().hex
        tasks = tasks | {f"function-{sweep}": function}
        level = [f"sum-{sweep}-{i}" for i in range(len(chunks))]
        for key, value, chunk in zip(level, chunks, self.chunks, strict=True):
            tasks[key] = (_total_of_chunk, f"function-{sweep}", value, chunk.name)
        while len(level) > 1:
            groups = [level[i : i + _FAN_IN] for i in range(0, len(level), _FAN_IN)]
            level = [f"{group[0]}+" for group in groups]
            tasks |= {key: (_added, group) for key, group in zip(level, groups, strict=True)}
        total = self._result(tasks, level[0])
        if total is None:
            raise ValueError("X must hold at least one sample, and all of its chunks are empty.")
        return total

    def _result(self, tasks: dict[Any, Any], key: str) -> Any:
        """The value of a key of a graph, or an error that says what to do."""
        from distributed import CancelledError, KilledWorker
        from distributed.comm.core import CommClosedError

        future = None
        try:
            (future,) = self.client.get(tasks, [key], sync=False)
            return future.result()
        except KilledWorker as error:
            raise MemoryError(
                f"Several workers died one after the other in the task {error.task}, mostly for "
                f"lack of memory. Use smaller chunks, fewer threads a worker, or workers with more "
                f"memory."
            ) from error
        except (TimeoutError, CancelledError, CommClosedError, OSError) as error:
            if future is not None and future.status == "error":
                raise  # by a task
            raise LostClusterError(
                f"{self.client!r} gives no answer any more ({type(error).__name__}: {error}): its "
                f"scheduler is lost, or data were that came from this process and were on a lost "
                f"worker only. Start a cluster, and pass its client; read data on the workers."
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


def _named(error: Exception, name: str) -> Exception:
    """The same error, whose message names the chunk."""
    message = str(error) if name in str(error) else f"{name}: {error}"
    try:
        return type(error)(message)
    except TypeError:
        return RuntimeError(f"{name}: {type(error).__name__}: {error}")


def _added(parts: Sequence[S | None]) -> S | None:
    """The sum of those that are not None."""
    total: S | None = None
    for part in parts:
        if part is not None:
            total = part if total is None else total + part
    return total
