"""``close`` once, from wherever it is called: inside a handler it returns at once, elsewhere when all has ended."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class Worker:
    """A worker's mark in its context, by which a call knows that it is made inside a handler.

    Tasks that a handler starts, and calls from its thread into the event loop, inherit the context.

    Attributes:
        service: the worker's ``ConsumeService``.
        busy: a handler runs now. A task that a handler started long ago does not count as inside.
    """

    __slots__ = ("busy", "service")

    def __init__(self, service: object, busy: bool = False) -> None:
        self.service = service
        self.busy = busy

    def enter(self) -> None:
        """Marks the current context."""
        _worker.set(self)


_worker: contextvars.ContextVar[Worker | None] = contextvars.ContextVar("rmq_redis_worker", default=None)


def inside_handler(services: Collection[object]) -> bool:
    """Whether the caller is, or is awaited by, a handler of one of these services."""
    worker = _worker.get()
    return worker is not None and worker.busy and worker.service in services


class Closing:
    """The end of an object, which happens once.

    Args:
        name: for the log.
        end: ends the object.

    Attributes:
        begun: set with the first call of ``close``.
    """

    def __init__(self, name: str, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._name = name
        self._end = end
        self._task: asyncio.Task[None] | None = None
        self.begun = asyncio.Event()

    async def close(self, services: Collection[object]) -> None:
        """Has the object ended, and waits for it, unless a handler of ``services`` calls: that one is waited for."""
        inside = inside_handler(services)
        task = self._task
        if task is None:
            self.begun.set()
            context = contextvars.copy_context()
            context.run(_worker.set, None)
            task = self._task = asyncio.get_running_loop().create_task(self._end(), context=context)
            if inside:
                task.add_done_callback(self._ended)
        if not inside and not task.done():
            await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s: close, called in a handler, failed", self._name, exc_info=task.exception())
