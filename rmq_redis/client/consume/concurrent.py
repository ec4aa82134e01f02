"""Messages are handled in any order, many at a time."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...background import Every
from ...errors import MessageDecodeError
from ...model import DEFAULT_MAX_RECONSUME_TIMES, DELAY_LEVELS_S, ConsumeResult, MessageExt
from .give_back import FIRST_RETRY_LEVEL, Retries
from .handler import Handler, is_success
from .process_queue import ProcessQueue
from .push_settings import PushSettings
from .service import ConsumeService, failure_of

logger = logging.getLogger(__name__)

LOCAL_RETRY_S = 5.0
"""A message that could not be given back to a broker is handled again here after this long."""
_MESSAGES_PER_TURN = 16
"""Messages that a worker handles without waiting before others get a turn of the event loop."""
_LOOKS_PER_TIMEOUT = 10
"""A handler that hangs is found at most this part of its timeout late."""


class ConcurrentService(ConsumeService):
    """Messages of all queues side by side. A message whose handler fails goes back to its broker.

    Args:
        process_queues: the queues that the consumer has now.
    """

    def __init__(
        self,
        settings: PushSettings,
        handler_of: Callable[[str], Handler | None],
        retries: Retries,
        process_queues: Callable[[], Iterable[ProcessQueue]],
    ) -> None:
        super().__init__(settings, handler_of, retries)
        self._handing_back: set[asyncio.Future[None]] = set()
        limit = settings.max_reconsume_times
        self._limit = DEFAULT_MAX_RECONSUME_TIMES if limit is None else limit
        self._ready: deque[tuple[ProcessQueue, MessageExt]] = deque()
        self._timeout_s = settings.consume_timeout_s
        self._gives_stuck_back = settings.is_clustering
        self._process_queues = process_queues
        self._watch = Every(
            self._timeout_s / _LOOKS_PER_TIMEOUT,
            self._give_stuck_back,
            f"{self._name}: looking for handlers that hang",
        )
        self._seen: dict[ProcessQueue, tuple[int, float]] = {}

    def _attempt_text(self, reconsume_times: int) -> str:
        attempt = f"attempt {reconsume_times + 1} of {self._limit + 1}"
        if reconsume_times >= self._limit:
            return f"{attempt}, it becomes a dead letter"
        level = min(FIRST_RETRY_LEVEL + reconsume_times, len(DELAY_LEVELS_S))
        return f"{attempt}, next in {DELAY_LEVELS_S[level - 1]} s unless its group is configured otherwise"

    def start(self) -> None:
        super().start()
        if self._gives_stuck_back:
            self._watch.start()

    async def stop(self, timeout_s: float) -> bool:
        await self._watch.close()
        return await super().stop(timeout_s)

    async def _give_stuck_back(self) -> None:
        """Gives the oldest message of a queue back whose handler takes too long.

        Looking now and then costs a message nothing. Source: ConsumeMessageConcurrentlyService.cleanExpireMsg.
        """
        now = asyncio.get_running_loop().time()
        before, self._seen = self._seen, {}
        for process_queue in list(self._process_queues()):
            oldest = process_queue.commit_offset()
            message = process_queue.pending.get(oldest)
            if message is None:
                continue
            offset, since = before.get(process_queue, (-1, now))
            if offset != oldest or self._is_ready(process_queue, oldest):
                since = now
            self._seen[process_queue] = (oldest, since)
            if now - since < self._timeout_s:
                continue
            logger.warning(
                "%s: the handler of %s of %s does not end within %g s; the message is given back",
                self._name,
                message.msg_id,
                message.queue,
                self._timeout_s,
            )
            if await self._retries.give_back(message):
                process_queue.done(message)

    def _is_ready(self, process_queue: ProcessQueue, offset: int) -> bool:
        """Whether the message still waits for a worker, which is none of its handler's fault."""
        return any(queue is process_queue and message.queue_offset == offset for queue, message in self._ready)

    def submit(self, process_queue: ProcessQueue, messages: Sequence[MessageExt]) -> None:
        self._ready.extend(zip(itertools.repeat(process_queue), messages))
        if self._idle:
            self._wake_one()

    async def _work(self) -> None:
        ready, handler_of = self._ready, self._handler_of
        worker = self._new_worker()
        turn = 0
        message: MessageExt | None
        while not self.stopping:
            if not ready:
                message = None  # an idle worker would keep its last message, which may be large
                await self._wait_for_work(worker)
                continue
            process_queue, message = ready.popleft()
            if ready and self._idle:
                self._wake_one()  # it wakes the next: nobody is woken for what this one does without a pause
            if process_queue.dropped:
                continue
            handler = handler_of(message.topic)
            if message.body_error:
                await self._failed(process_queue, message, MessageDecodeError(message.body_error))
            elif handler and handler.is_async:
                outcome: Any
                try:
                    outcome = await handler.function(message)
                except (Exception, asyncio.CancelledError) as error:
                    outcome = failure_of(error)
                if outcome is None or outcome is True or outcome == ConsumeResult.SUCCESS:
                    process_queue.done(message)
                else:
                    await self._failed(process_queue, message, outcome)
                turn += 1
                if not turn % _MESSAGES_PER_TURN:
                    await asyncio.sleep(0)
            elif handler:
                await self._work_in_thread(handler, process_queue, message)
            else:
                await self._failed(process_queue, message, LookupError(f"no handler for topic {message.topic!r}"))

    async def _work_in_thread(self, handler: Handler, process_queue: ProcessQueue, message: MessageExt) -> None:
        ready = self._ready
        queues, messages = [process_queue], [message]
        for _ in range(handler.chunk_size - 1):
            if not ready or ready[0][1].body_error or self._handler_of(ready[0][1].topic) is not handler:
                break
            process_queue, message = ready.popleft()
            if not process_queue.dropped:
                queues.append(process_queue)
                messages.append(message)
        outcomes = await self._in_thread(handler, messages, False)
        for process_queue, message, outcome in zip(queues, messages, outcomes, strict=False):  # fewer: it was closed
            if is_success(outcome):
                process_queue.done(message)
            else:
                await self._failed(process_queue, message, outcome)

    async def _failed(self, process_queue: ProcessQueue, message: MessageExt, outcome: Any) -> None:
        self._logfailure_of(message, outcome)
        if process_queue.dropped:  # never committed: the queue's new owner receives the message
            return
        if message.queue_offset not in process_queue.pending:  # it took too long and was given back
            return
        await self._hand_back(process_queue, message)

    async def _hand_back(self, process_queue: ProcessQueue, message: MessageExt) -> None:
        """Gives a message back; one that was tried here since it was pulled is sent with its count instead.

        While no broker takes it, it is tried here, as often as its limit allows; then it only waits for a broker.
        """
        was_tried_here = process_queue.pending.get(message.queue_offset) is not message
        if await (self._retries.give_up if was_tried_here else self._retries.give_back)(message):
            process_queue.done(message)
            return
        loop = asyncio.get_running_loop()
        if message.reconsume_times < self._limit:
            again = message.rewritten(reconsume_times=message.reconsume_times + 1)
            loop.call_later(LOCAL_RETRY_S, self._again, process_queue, again)
        else:
            copy = message.rewritten()  # another object: it counts as tried here
            loop.call_later(LOCAL_RETRY_S, self._hand_back_later, process_queue, copy)

    def _hand_back_later(self, process_queue: ProcessQueue, message: MessageExt) -> None:
        if not self.stopping and not process_queue.dropped and message.queue_offset in process_queue.pending:
            task = asyncio.ensure_future(self._hand_back(process_queue, message))
            self._handing_back.add(task)
            task.add_done_callback(self._handing_back.discard)

    def _again(self, process_queue: ProcessQueue, message: MessageExt) -> None:
        if not self.stopping and not process_queue.dropped and message.queue_offset in process_queue.pending:
            self.submit(process_queue, [message])
