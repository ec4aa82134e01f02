"""One event loop in one daemon thread per process, for code without an event loop."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ...errors import ClientError
from ...runtime import new_event_loop
from ..core import forking
from ..core.instance import clients_of

T = TypeVar("T")

_END_TIMEOUT_S = 1.0
"""The longest that clients which were not closed may hold up the interpreter's exit."""


class BackgroundLoop:
    """An event loop in a daemon thread; with gevent or eventlet, in a green thread.

    Raises:
        ConfigError: as ``new_event_loop``.
    """

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self._ending = False
        self._posted: deque[tuple[contextvars.Context, Callable[..., object], tuple[object, ...]]] = deque()
        self._is_woken = False
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._run, name="rmq-redis-loop", daemon=True)
        self._thread.start()
        atexit.register(self._stop)
        forking.track(self)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _stop(self) -> None:
        """At the interpreter's exit, for clients that were not closed: what is open then would be complained about."""
        if self.process_id == os.getpid():
            self._ending = True
            self.submit(self._end())
            self._thread.join(_END_TIMEOUT_S)

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_END_TIMEOUT_S / 2)
        for client in clients_of(self._loop):
            await client.remoting.close()
        await asyncio.sleep(0)  # a transport needs a turn to close
        self._loop.stop()

    def forked(self) -> None:
        """In a child, where the thread does not exist: the next ``background_loop`` is a new one."""
        global _background, _lock
        _background = None
        _lock = threading.Lock()  # another thread of the parent may have held it
        forking.keep(self._loop)
        forking.detach_loop(self._loop)

    def is_current(self) -> bool:
        """Whether the caller runs in the loop."""
        return threading.current_thread() is self._thread

    def check_not_current(self) -> None:
        """Raises ClientError in the loop itself (in a coroutine handler), which would wait for itself."""
        if self.is_current():
            raise ClientError("a blocking call inside the event loop: use the Async class there")

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Runs a coroutine on the loop; does not wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Has the loop call a function, in the caller's context; does not wait for it. The function must not raise.

        The loop is woken once for all that is posted until it comes to it.
        """
        self._posted.append((contextvars.copy_context(), function, arguments))
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._call_posted)

    def _call_posted(self) -> None:
        self._is_woken = False  # first: what is posted from now on wakes the loop again
        posted = self._posted
        for _ in range(len(posted)):
            context, function, arguments = posted.popleft()
            context.run(function, *arguments)

    def wait(self, future: concurrent.futures.Future[T]) -> T:
        """The result of what runs on the loop; an interrupt (Ctrl-C) cancels it."""
        try:
            return future.result()
        except BaseException:
            future.cancel()
            if self._ending and threading.current_thread().daemon:
                threading.Event().wait()  # the interpreter ends: this thread does so with it, and without a traceback
            raise

    def call_soon(self, callback: Callable[[], Any]) -> None:
        """Has the loop call a function; does not wait for it."""
        self._loop.call_soon_threadsafe(callback)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop and waits for its result; an interrupt (Ctrl-C) cancels it.

        Raises:
            ClientError: as ``check_not_current``.
        """
        if self.is_current():
            coroutine.close()
        self.check_not_current()
        return self.wait(self.submit(coroutine))


_lock = threading.Lock()
_background: BackgroundLoop | None = None


def background_loop() -> BackgroundLoop:
    """This process's loop; a forked child gets its own."""
    global _background
    with _lock:
        if _background is None:
            _background = BackgroundLoop()
        return _background
