"""One event loop in one daemon thread per process, for code without an event loop."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import ClientError
from . import forking

T = TypeVar("T")


class BackgroundLoop:
    """An event loop (uvloop where it is installed) in a daemon thread."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._run, name="rmq-redis-loop", daemon=True)
        self._thread.start()
        atexit.register(self._stop)
        forking.track(self)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _stop(self) -> None:
        if self.process_id == os.getpid():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=1.0)

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

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Runs a coroutine on the loop; does not wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call_soon(self, callback: Callable[[], Any]) -> None:
        """Has the loop call a function; does not wait for it."""
        self._loop.call_soon_threadsafe(callback)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop and waits for its result; an interrupt (Ctrl-C) cancels it.

        Raises:
            ClientError: called on the loop itself (in a coroutine handler), which would wait for itself for ever.
        """
        if self.is_current():
            coroutine.close()
            raise ClientError("a blocking call inside the event loop: use the Async class there")
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


_lock = threading.Lock()
_background: BackgroundLoop | None = None


def background_loop() -> BackgroundLoop:
    """This process's loop; a forked child gets its own."""
    global _background
    with _lock:
        if _background is None:
            _background = BackgroundLoop()
        return _background
