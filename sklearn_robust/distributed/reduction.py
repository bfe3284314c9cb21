"""Sums over chunks of data that lie on a cluster, by dask."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from sklearn_robust._documentation import see
from sklearn_robust._extras import missing
from sklearn_robust.distributed.chunks import Chunk, blocks_of
from sklearn_robust.rows import Block
from sklearn_robust.rows.arrays import slices
from sklearn_robust.rows.reduction import S

_FAN_IN = 2  # sums that one task adds: a worker holds few of them at a time
_TASKS_A_THREAD = 8  # tasks for each thread that many sources share


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
            f" {see('guide/larger_than_one_machine')}"
        ) from error


@dataclass(frozen=True)
class DaskReduction:
    """Chunks that dask computes where they lie.

    Every sum is a graph of one task a chunk and of tasks that add two sums; where there are many
    row sources a task reads several, one after the other. A task depends on its chunks and on the
    function alone: a worker that is lost costs the tasks that it had done. One sum comes to this
    process.

    Parameters
    ----------
    client : distributed.Client
    chunks : sequence of Chunk
    """

    client: Any
    chunks: Sequence[Chunk]

    @cached_property
    def _graph(self) -> tuple[dict[Any, Any], list[_Group]]:
        """The tasks that make the chunks, and the chunks of each task of a sum."""
        from dask.base import optimize

        names = [chunk.name for chunk in self.chunks]
        if all(chunk.is_source for chunk in self.chunks):
            sources = [chunk.value for chunk in self.chunks]
            length = math.ceil(len(sources) / (_TASKS_A_THREAD * self._n_threads()))
            cuts = slices(len(sources), length)
            return {}, [_Group(sources[at], names[at]) for at in cuts]
        values = optimize(*(chunk.value for chunk in self.chunks))
        tasks = {key: task for value in values for key, task in value.__dask_graph__().items()}
        return tasks, [_Group([v.key], [name]) for v, name in zip(values, names, strict=True)]

    def _n_threads(self) -> int:
        """The threads of the cluster; 1 of one that does not answer, which its next sum reports."""
        from distributed.comm.core import CommClosedError

        try:
            return max(1, sum(self.client.nthreads().values()))
        except (TimeoutError, CommClosedError, OSError):
            return 1

    def total(self, function: Callable[[Block], S]) -> S:
        """The sum of a function of each block of each chunk."""
        tasks, groups = self._graph
        sweep = uuid.uuid4().hex
        tasks = tasks | {f"function-{sweep}": function}
        level = [f"sum-{sweep}-{i}" for i in range(len(groups))]
        for key, group in zip(level, groups, strict=True):
            tasks[key] = (_total_of_chunks, f"function-{sweep}", group.values, group.names)
        while len(level) > 1:
            summands = [level[i : i + _FAN_IN] for i in range(0, len(level), _FAN_IN)]
            level = [f"{keys[0]}+" for keys in summands]
            tasks |= {key: (_added, keys) for key, keys in zip(level, summands, strict=True)}
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
                f" {see('guide/larger_than_one_machine')}"
            ) from error
        except (TimeoutError, CancelledError, CommClosedError, OSError) as error:
            if future is not None and future.status == "error":
                raise  # by a task
            raise LostClusterError(
                f"{self.client!r} gives no answer any more ({type(error).__name__}: {error}): its "
                f"scheduler is lost, or data were that came from this process and were on a lost "
                f"worker only. Start a cluster, and pass its client; read data on the workers."
                f" {see('guide/larger_than_one_machine')}"
            ) from error


class _Group(NamedTuple):
    """Chunks that one task sums over: their row sources or keys, and their names."""

    values: list[Any]
    names: list[str]


def _total_of_chunks(
    function: Callable[[Block], S], values: Sequence[Any], names: Sequence[str]
) -> S | None:
    """The sum of a function over the blocks of some chunks; None where they have no samples."""
    total: S | None = None
    for value, name in zip(values, names, strict=True):
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
