"""Threads for the user's plain functions: daemons, so that a function that hangs does not keep the process alive."""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")

_Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


_EXIT_WAIT_S = 0.5
"""Enough for a call that prints; a program's end must not hang on a longer one."""
_executors: weakref.WeakSet[DaemonThreadExecutor] = weakref.WeakSet()


def _at_exit() -> None:
    """A moment for the calls that run: a daemon thread that is stopped while it prints would abort the interpreter."""
    executors = list(_executors)
    for executor in executors:
        executor.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + _EXIT_WAIT_S
    for executor in executors:
        executor.join(deadline)


atexit.register(_at_exit)


class DaemonThreadExecutor(Executor):
    """As ``ThreadPoolExecutor``, but the interpreter's exit does not wait for its threads.

    Args:
        max_workers: threads at most; each is started when all others are busy.
        name: first part of the threads' names.
        initializer: called in every new thread.
    """

    def __init__(self, max_workers: int, name: str, initializer: Callable[[], None] | None = None) -> None:
        self._max_workers = max_workers
        self._name = name
        self._initializer = initializer
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = _Count()
        self._lock = threading.Lock()
        self._shutdown = False
        weakref.finalize(self, self._calls.put, None).atexit = False
        _executors.add(self)

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Calls ``function`` in a thread. Raises RuntimeError after ``shutdown``."""
        with self._lock:
            if self._shutdown:
                raise RuntimeError("cannot submit a call after shutdown")
            future: Future[T] = Future()
            self._calls.put((future, function, args, kwargs))
            if self._unfinished.add(1) > len(self._threads) < self._max_workers:
                thread = threading.Thread(
                    target=_work,
                    args=(self._calls, self._unfinished, self._initializer),
                    name=f"{self._name}_{len(self._threads)}",
                    daemon=True,
                )
                self._threads.append(thread)
                thread.start()
            return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads when they have done what was submitted, or without the calls that have not begun."""
        with self._lock:
            self._shutdown = True
            if cancel_futures:
                with contextlib.suppress(queue.Empty):
                    while (call := self._calls.get_nowait()) is not None:
                        call[0].cancel()
            self._calls.put(None)
        if wait:
            self.join(None)

    def join(self, deadline: float | None) -> None:
        """Waits until the threads have ended, or until a time of ``time.monotonic``."""
        for thread in self._threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))


class _Count:
    """Calls that are submitted and not finished."""

    def __init__(self) -> None:
        self._value = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> int:
        with self._lock:
            self._value += number
            return self._value


def _work(calls: queue.SimpleQueue[_Call | None], unfinished: _Count, initializer: Callable[[], None] | None) -> None:
    if initializer is not None:
        initializer()
    while True:
        call = calls.get()
        if call is None:
            calls.put(None)  # for the next thread
            return
        future, function, args, kwargs = call
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(function(*args, **kwargs))
        except BaseException as error:  # SystemExit, too, must reach whoever waits
            future.set_exception(error)
        finally:
            unfinished.add(-1)
        del call, future, function, args, kwargs
