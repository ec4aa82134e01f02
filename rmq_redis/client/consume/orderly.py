"""The messages of a queue are handled one after the other."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import MessageDecodeError
from ...model import MessageExt
from .give_back import Retries
from .handler import Handler, is_success
from .process_queue import ProcessQueue
from .push_settings import PushSettings
from .rebalance import AnyLocks
from .service import ConsumeService, failure_of

logger = logging.getLogger(__name__)

_MESSAGES_PER_TURN = 16
"""Messages that a worker handles without waiting before others get a turn of the event loop."""


class OrderlyService(ConsumeService):
    """One message of a queue at a time, in the queue's order. A message whose handler fails holds its queue up.

    After ``max_reconsume_times`` retries, if that is set, a message goes to the dead letters. Every try raises its
    ``reconsume_times``.
    """

    def __init__(
        self,
        settings: PushSettings,
        handler_of: Callable[[str], Handler | None],
        retries: Retries,
        locks: AnyLocks,
    ) -> None:
        super().__init__(settings, handler_of, retries)
        self._ready: deque[ProcessQueue] = deque()
        self._is_locked = locks.is_locked
        self._suspend_s = settings.suspend_current_queue_time_s
        self._max_reconsume_times = settings.max_reconsume_times

    def _attempt_text(self, reconsume_times: int) -> str:
        limit = self._max_reconsume_times
        if limit is None:
            return f"attempt {reconsume_times + 1}, next in {self._suspend_s:g} s"
        after = "it becomes a dead letter" if reconsume_times >= limit else f"next in {self._suspend_s:g} s"
        return f"attempt {reconsume_times + 1} of {limit + 1}, {after}"

    def submit(self, process_queue: ProcessQueue, messages: Sequence[MessageExt]) -> None:
        process_queue.waiting.extend(messages)
        if not process_queue.scheduled:
            process_queue.scheduled = True
            self._schedule(process_queue)

    def _schedule(self, process_queue: ProcessQueue) -> None:
        self._ready.append(process_queue)
        if self._idle:
            self._wake_one()

    async def _work(self) -> None:
        ready = self._ready
        worker = self._new_worker()
        while not self.stopping:
            if not ready:
                await self._wait_for_work(worker)
                continue
            process_queue = ready.popleft()
            if ready and self._idle:
                self._wake_one()
            pause_s = 0.0
            process_queue.running = True
            try:
                pause_s = await self._handle_some(process_queue)
            finally:
                process_queue.handled()
            if process_queue.dropped or not process_queue.waiting:
                process_queue.scheduled = False
            elif pause_s:
                asyncio.get_running_loop().call_later(pause_s, self._schedule, process_queue)
            else:
                ready.append(process_queue)
                await asyncio.sleep(0)

    async def _handle_some(self, process_queue: ProcessQueue) -> float:
        """Handles messages of one queue for a while; returns the seconds until it wants to go on."""
        waiting = process_queue.waiting
        for _ in range(_MESSAGES_PER_TURN):
            if not waiting or process_queue.dropped or self.stopping:
                return 0.0
            if not self._is_locked(process_queue):
                return self._suspend_s
            message = waiting[0]
            chunk = [message]
            handler = self._handler_of(message.topic)
            if handler is None:
                outcomes: list[Any] = [LookupError(f"no handler for topic {message.topic!r}")]
            elif message.body_error:
                outcomes = [MessageDecodeError(message.body_error)]
            elif handler.is_async:
                try:
                    outcomes = [await handler.function(message)]
                except (Exception, asyncio.CancelledError) as error:
                    outcomes = [failure_of(error)]
            else:
                for following in itertools.islice(waiting, 1, handler.chunk_size):
                    if following.body_error or self._handler_of(following.topic) is not handler:
                        break
                    chunk.append(following)
                outcomes = await self._in_thread(handler, chunk, True)
            for message, outcome in zip(chunk, outcomes, strict=False):  # a failure or close ends the outcomes
                if process_queue.dropped:  # meanwhile: what was handled is not to be handled by the next owner
                    if not is_success(outcome):
                        self._logfailure_of(message, outcome)
                        return 0.0
                    process_queue.done(message)
                elif is_success(outcome) or await self._gave_up(process_queue, message, outcome):
                    waiting.popleft()
                    process_queue.done(message)
                else:
                    return self._suspend_s
        return 0.0

    async def _gave_up(self, process_queue: ProcessQueue, message: MessageExt, outcome: Any) -> bool:
        self._logfailure_of(message, outcome)
        if process_queue.dropped:
            return False
        # A body that cannot be decompressed stays so: no message of its queue need wait until it can.
        limit = 0 if message.body_error else self._max_reconsume_times
        while limit is not None and message.reconsume_times >= limit:
            if await self._retries.give_up(message):
                return not process_queue.dropped
            if self.stopping or process_queue.dropped:
                return False
            await asyncio.sleep(self._suspend_s)  # its tries are used up: it only waits for a broker
        if process_queue.waiting:
            process_queue.waiting[0] = message.rewritten(reconsume_times=message.reconsume_times + 1)
        return False
