"""Gives pulled messages to the handlers: N workers for a whole consumer, no task per message.

``concurrent.py`` hands messages out in any order; ``orderly.py`` hands a queue's messages out one after the
other. Coroutine handlers run in the event loop; plain functions run in threads, several messages per crossing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import MessageDecodeError
from ...model import ConsumeResult, MessageExt
from ..core.closing import Worker
from ..core.threads import DaemonThreadExecutor
from .give_back import Retries
from .handler import Handler, is_success
from .process_queue import ProcessQueue
from .push_settings import PushSettings

logger = logging.getLogger(__name__)

_CANCEL_TIMEOUT_S = 1.0
"""For handlers that were cancelled: what they clean up."""


class ConsumeService(ABC):
    """Workers that hand messages to handlers.

    Args:
        handler_of: topic -> handler; None for a topic that is not subscribed (any more).
        retries: what becomes of a message whose handler failed.
    """

    def __init__(self, settings: PushSettings, handler_of: Callable[[str], Handler | None], retries: Retries) -> None:
        self._name = settings.group
        self._concurrency = settings.concurrency
        self._handler_of = handler_of
        self._retries = retries
        self._workers: list[asyncio.Task[None]] = []
        self._idle: list[asyncio.Future[None]] = []
        self._pool: DaemonThreadExecutor | None = None
        self.stopping = False
        """No more messages are handed out; set by ``close``."""
        self.cut_off = False
        """Handlers did not end in time and were cancelled: those in threads may still be at work."""

    def start(self) -> None:
        """Starts the workers in the running event loop."""
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(self._work()) for _ in range(self._concurrency)]

    async def stop(self, timeout_s: float) -> bool:
        """Hands out no more messages and waits for the handlers that run; False when some had to be cancelled."""
        self.stopping = True
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)
        late: set[asyncio.Task[None]] = set()
        if self._workers:
            _, late = await asyncio.wait(self._workers, timeout=timeout_s)
            self.cut_off = bool(late)
            for worker in late:
                worker.cancel()
            if late:
                logger.warning("%s: %d handlers did not end within %g s", self._name, len(late), timeout_s)
                await asyncio.wait(late, timeout=_CANCEL_TIMEOUT_S)
        if self._pool:
            # Not waited for: that would stop the event loop, and a thread that a broker asked for may need it.
            self._pool.shutdown(wait=False, cancel_futures=True)
        return not late

    @abstractmethod
    def submit(self, process_queue: ProcessQueue, messages: Sequence[MessageExt]) -> None:
        """Hands messages that were pulled to the workers."""

    @abstractmethod
    async def _work(self) -> None: ...

    async def handle_one(self, message: MessageExt) -> Any:
        """Handles one message now, outside of any queue; the handler's result, or its exception."""
        handler = self._handler_of(message.topic)
        if handler is None:
            return LookupError(f"no handler for topic {message.topic!r}")
        if message.body_error:
            return MessageDecodeError(message.body_error)
        if not handler.is_async:
            return (await self._in_thread(handler, [message], False))[0]
        try:
            return await handler.function(message)
        except (Exception, asyncio.CancelledError) as error:
            return failure_of(error)

    async def call(self, handler: Handler, message: MessageExt) -> Any:
        """A handler's result for one message; raises what it raises."""
        if handler.is_async:
            return await handler.function(message)
        outcome = (await self._in_thread(handler, [message], False))[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def _in_thread(self, handler: Handler, messages: Sequence[MessageExt], stop_at_failure: bool) -> list[Any]:
        if self._pool is None:
            mark = Worker(self, busy=True).enter  # these threads run nothing but handlers
            self._pool = DaemonThreadExecutor(self._concurrency, f"rmq-{self._name}", mark)
        outcomes = await asyncio.get_running_loop().run_in_executor(
            self._pool, handler.run_in_thread, messages, stop_at_failure, lambda: self.stopping
        )
        for index, outcome in enumerate(outcomes):
            if not is_success(outcome) and inspect.isawaitable(outcome):  # a plain function that returned a coroutine
                try:
                    outcomes[index] = await outcome
                except (Exception, asyncio.CancelledError) as error:
                    outcomes[index] = failure_of(error)
        return outcomes

    async def _wait_for_work(self, worker: Worker) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        worker.busy = False
        await waiter
        worker.busy = True

    def _new_worker(self) -> Worker:
        worker = Worker(self, busy=True)
        worker.enter()
        return worker

    def _wake_one(self) -> None:
        idle = self._idle
        while idle:
            waiter = idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _logfailure_of(self, message: MessageExt, outcome: Any) -> None:
        if message.body_error:
            which = f"{message.msg_id} of {message.queue}, attempt {message.reconsume_times + 1}"
            logger.warning("%s: not handled, goes to the retries: %s, %s", self._name, message.body_error, which)
            return
        which = f"{message.msg_id} of {message.queue}, {self._attempt_text(message.reconsume_times)}"
        if isinstance(outcome, MessageDecodeError):
            logger.warning("%s: not handled: %s, %s", self._name, outcome, which)
        elif isinstance(outcome, BaseException):
            logger.warning("%s: handler failed for %s", self._name, which, exc_info=outcome)
        elif outcome is not False and outcome != ConsumeResult.LATER:
            logger.error(
                "%s: handler returned %r, which is no ConsumeResult: taken as LATER: %s", self._name, outcome, which
            )
        else:
            logger.debug("%s: handler wants it later: %s", self._name, which)

    @abstractmethod
    def _attempt_text(self, reconsume_times: int) -> str:
        """Which attempt of a message failed, and what comes next."""


def failure_of(error: BaseException) -> BaseException:
    """What a handler raised, as its outcome; raises it again when it is this task that is being cancelled."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
        raise error
    return error
