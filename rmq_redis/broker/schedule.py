"""Messages that are delivered later: delay levels, arbitrary delivery times, and the moves when they are due.

Source: RocketMQ 5.3 ``ScheduleMessageService`` (levels), ``HookUtils`` and ``TimerMessageStore`` (timers).
"""

from __future__ import annotations

import asyncio
import logging
import time

from ..errors import MessageIllegalError, RemoteProtocolError, ResponseError, StoreError
from ..protocol.message import decode_records, find_property, remove_property
from ..store.queue_store import Queue
from ..store.schedule_store import Scheduled, ScheduleStore, record_of
from .topics import TopicTable

logger = logging.getLogger(__name__)

DELAY_LEVELS_S = (1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
"""Seconds of the delay levels 1 to 18. Source: ``messageDelayLevel``."""
MAX_TIMER_DELAY_S = 3 * 24 * 3600
"""How far ahead a timer may be. Source: ``timerMaxDelaySec``."""
_TIMERS = (("TIMER_DELAY_SEC", 1000), ("TIMER_DELAY_MS", 1), ("TIMER_DELIVER_MS", 0))
_MOVE_AT_ONCE = 256
_LONGEST_SLEEP_S = 60.0
_RETRY_S = 0.5
_NEVER_MS = 1 << 62


def delay_of_level(level: int) -> int:
    """ms of a delay level; above 18 counts as 18."""
    return DELAY_LEVELS_S[min(level, len(DELAY_LEVELS_S)) - 1] * 1000


def take_due_ms(text: str, now_ms: int) -> tuple[str, int]:
    """Property string without what asks for a later delivery, and when the message is due (0: now).

    DELAY (a level) wins over the timer properties.

    Raises:
        MessageIllegalError: a level or time that is no number, or more than three days ahead.
    """
    due_ms = 0
    level = _number(text, "DELAY")
    if level > 0:
        due_ms = now_ms + delay_of_level(level)
    else:
        for name, unit in _TIMERS:
            value = _number(text, name)
            if value > 0:
                due_ms = now_ms + value * unit if unit else value
                break
    if due_ms > now_ms + MAX_TIMER_DELAY_S * 1000:
        raise MessageIllegalError(f"due in {(due_ms - now_ms) // 1000} s, at most {MAX_TIMER_DELAY_S} s are allowed")
    for name in ("DELAY", *(name for name, _ in _TIMERS)):
        text = remove_property(text, name)
    return text, due_ms if due_ms > now_ms else 0


def _number(text: str, name: str) -> int:
    value = find_property(text, name)
    if not value:
        return 0
    try:
        return int(value) if len(value) < 20 else int("x")
    except ValueError:
        raise MessageIllegalError(f"{name}={value[:30]!r} is not a number") from None


class ScheduleService:
    """Takes records that are due later, and moves them to their queues in time. One timer for all of them."""

    def __init__(self, store: ScheduleStore, topics: TopicTable) -> None:
        self._store = store
        self._topics = topics
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._next_due_ms = _NEVER_MS

    def start(self) -> None:
        """Begins to move what is due; it looks at once what there is."""
        self._task = self._loop.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def add(self, record: bytes, due_ms: int, done: Scheduled, arg: object) -> None:
        """Keeps a finished record of a message until it is due; see ``ScheduleStore.add``."""

        def added(error: StoreError | None, argument: object) -> None:
            if error is None and due_ms < self._next_due_ms:
                self._next_due_ms = due_ms
                self._wake.set()
            done(error, argument)

        self._store.add(record, due_ms, added, arg)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._next_due_ms = _NEVER_MS  # whatever is added while we look has us look again
            try:
                moved = await self._move_due()
                next_due_ms = await self._store.next_due_ms()
            except StoreError as error:
                logger.debug("scheduled messages: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            except Exception:  # a mistake of ours must not end all deliveries
                logger.exception("scheduled messages: moving what is due failed")
                await asyncio.sleep(_RETRY_S)
                continue
            if moved == _MOVE_AT_ONCE:
                continue
            now_ms = time.time() * 1000
            if not self._wake.is_set():
                self._next_due_ms = _NEVER_MS if next_due_ms is None else next_due_ms
            try:
                async with asyncio.timeout(min(max(self._next_due_ms - now_ms, 0) / 1000, _LONGEST_SLEEP_S)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _move_due(self) -> int:
        """Moves what is due now, up to a few hundred; returns how many were looked at."""
        now_ms = int(time.time() * 1000)
        members = await self._store.due(now_ms, _MOVE_AT_ONCE)
        found: list[tuple[Queue, bytes]] = []
        gone: list[bytes] = []
        for member in members:
            queue = await self._queue_of(member)
            if queue is None:
                gone.append(member)
            else:
                found.append((queue, member))
        if gone:
            await self._store.remove(gone)
        if found:
            await self._store.move(found, now_ms)
        return len(members)

    async def _queue_of(self, member: bytes) -> Queue | None:
        """Where a due message goes; None when there is nowhere: its topic is deleted, or the member damaged."""
        try:
            message = decode_records(record_of(member), decompress=False)[0]
            topic = self._topics.topics.get(message.topic)
            if topic is None:
                topic = await self._topics.create_on_send(message.topic, "", 1)
        except (ResponseError, RemoteProtocolError, IndexError) as error:
            logger.error("a message that is due now has no queue and is dropped: %s", error)
            return None
        return topic.queues[min(message.queue_id, topic.queue_nums - 1)]
