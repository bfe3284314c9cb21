"""Ctrl-C during solvers of compiled libraries, which do not return to Python before they end."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import TypeVar
from weakref import WeakSet

Result = TypeVar("Result")

# seconds that the main thread waits before it looks for Ctrl-C, where waiting is not interrupted by
# it
_SLICE = 0.2
_GRACE = 2  # seconds that the end of the process waits for a solver that nobody waits for any more

_threads: WeakSet[threading.Thread] = WeakSet()


def interruptible(compute: Callable[[threading.Event], Result]) -> Result:
    """What `compute` returns, from a thread of its own, so that the main thread hears Ctrl-C.

    Parameters
    ----------
    compute : callable
        A function of an event, which is set once nobody waits for the result. A solver that can be
        stopped polls the event; any other runs on until its own limit, so it must have one.

    Returns
    -------
    object
    """
    abandoned = threading.Event()
    # Python hears Ctrl-C in the main thread only
    if threading.current_thread() is not threading.main_thread():
        return compute(abandoned)
    result: Future[Result] = Future()

    def work() -> None:
        try:
            result.set_result(compute(abandoned))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True)
    try:
        thread.start()
    except RuntimeError:  # there are no threads, as in a browser
        return compute(abandoned)
    _threads.add(thread)
    try:
        while not result.done():
            wait([result], timeout=_SLICE)
        return result.result()
    finally:
        abandoned.set()


@atexit.register
def _end_threads() -> None:
    """Python must not end while a solver returns to it: the process would abort."""
    for thread in list(_threads):
        thread.join(_GRACE)
