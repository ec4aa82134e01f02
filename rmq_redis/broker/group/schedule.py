"""Scheduled messages: delay levels, delivery times, and the moves to their queues when they are due.

Source: RocketMQ 5.3 ``ScheduleMessageService`` (levels), ``HookUtils`` and ``TimerMessageStore`` (timers).
"""

from __future__ import annotations

import logging

from ...errors import MessageIllegalError, RemoteProtocolError, ResponseError, StoreError
from ...model import (
    DELAY_LEVELS_S,
    LATER_PROPERTIES,
    PROPERTY_DELAY,
    PROPERTY_REAL_QUEUE_ID,
    PROPERTY_REAL_TOPIC,
    PROPERTY_TIMER_DELAY_MS,
    PROPERTY_TIMER_DELAY_SEC,
    PROPERTY_TIMER_DELIVER_MS,
    RETRY_PREFIX,
)
from ...protocol.properties import find_property, remove_property
from ...protocol.record import decode_records
from ...store.group.schedule import Due, Held, Move, Scheduled, ScheduleStore
from .auto_creation import AutoCreation
from .due_loop import DueLoop
from .topics import TopicTable

logger = logging.getLogger(__name__)

MAX_TIMER_DELAY_S = 3 * 24 * 3600
"""How far ahead a timer may be. Source: ``timerMaxDelaySec``."""
_TIMERS = ((PROPERTY_TIMER_DELAY_SEC, 1000), (PROPERTY_TIMER_DELAY_MS, 1), (PROPERTY_TIMER_DELIVER_MS, 0))
_MOVE_AT_ONCE = 256
"""Messages of one function call, during which Redis does nothing else."""


def delay_of_level(level: int) -> int:
    """Delay of a level in ms; levels above 18 count as 18."""
    return DELAY_LEVELS_S[min(level, len(DELAY_LEVELS_S)) - 1] * 1000


def take_due_ms(text: str, now_ms: int, topic: str) -> tuple[str, int]:
    """Property string as it is stored, and when the message is due (ms; 0: now).

    DELAY (a level) takes precedence over the timer properties. A waiting message keeps them, as with Apache's brokers,
    and gets the properties of its real queue (``with_real_queue``). A message that has these was scheduled before: if
    a consumer sends it on with its properties, it is not delayed again. In a retry topic only DELAY counts.

    Raises:
        MessageIllegalError: a level or time is not a number, or more than three days ahead.
    """
    was_delayed = find_property(text, PROPERTY_REAL_TOPIC) is not None
    if was_delayed:
        is_retry = topic.startswith(RETRY_PREFIX)
        for name in (PROPERTY_REAL_TOPIC, PROPERTY_REAL_QUEUE_ID, *LATER_PROPERTIES[is_retry:]):
            text = remove_property(text, name)
    due_ms = 0
    level = _number(text, PROPERTY_DELAY)
    if level > 0:
        due_ms = now_ms + delay_of_level(level)
        for name, _ in _TIMERS:
            text = remove_property(text, name)
    else:
        for name, unit in _TIMERS:
            value = _number(text, name)
            if value > 0:
                due_ms = now_ms + value * unit if unit else value
                break
    if due_ms > now_ms + MAX_TIMER_DELAY_S * 1000:
        raise MessageIllegalError(f"due in {(due_ms - now_ms) // 1000} s, at most {MAX_TIMER_DELAY_S} s are allowed")
    return text, due_ms if due_ms > now_ms else 0


def with_real_queue(text: str, topic: str, queue_id: int, room: int) -> str:
    """Properties of a waiting message with its real queue added, if that takes at most ``room`` bytes more."""
    added = f"{PROPERTY_REAL_TOPIC}\x01{topic}\x02{PROPERTY_REAL_QUEUE_ID}\x01{queue_id}\x02"
    return text + added if len(added) <= room else text


def _number(text: str, name: str) -> int:
    value = find_property(text, name)
    if not value:
        return 0
    try:
        return int(value) if len(value) < 20 else int("x")
    except ValueError:
        raise MessageIllegalError(f"{name}={value[:30]!r} is not a number") from None


class ScheduleService:
    """Keeps records until they are due, then moves them to their queues. One timer for all of them."""

    def __init__(self, store: ScheduleStore, topics: TopicTable, auto_creation: AutoCreation) -> None:
        self._store = store
        self._topics = topics
        self._auto_creation = auto_creation
        self._due = DueLoop(self._move_due, "scheduled messages: moving what is due")

    def start(self) -> None:
        """Starts to move messages that are due, beginning now."""
        self._due.start()

    async def close(self) -> None:
        await self._due.close()

    def add(self, record: bytes, due_ms: int, done: Scheduled, arg: object, *, recall_key: str = "") -> None:
        """Keeps a finished record of a message until it is due; see ``ScheduleStore.add``."""

        def added(held: Held | None, error: StoreError | None, argument: object) -> None:
            self.look_at(due_ms)
            done(held, error, argument)

        self._store.add(record, due_ms, recall_key, added, arg)

    def look_at(self, due_ms: int) -> None:
        """Makes it look at that time, unless it looks earlier."""
        self._due.look_at(due_ms)

    async def recall(self, topic: str, unique_key: str) -> bool:
        """Removes a waiting message; False if there is none, or none any more. Raises StoreError."""
        return await self._store.recall(recall_key(topic, unique_key)) > 0

    async def _move_due(self, now_ms: int) -> int | None:
        next_due_ms, due = await self._store.due(now_ms, _MOVE_AT_ONCE)
        if not due:
            return next_due_ms
        await self._store.move([await self._move_of(message) for message in due], now_ms)
        return 0

    async def _move_of(self, due: Due) -> Move:
        """Where a due message goes; nowhere if its topic was deleted or its record is damaged. Raises StoreError."""
        try:
            message = decode_records(due.record, decompress=False)[0]
            topic = self._topics.topics.get(message.topic)
            if topic is None:
                topic = await self._auto_creation.topic_for_send(message.topic, "", 1)
        except (ResponseError, RemoteProtocolError, IndexError) as error:
            logger.error("a message that is due now has no queue and is dropped: %s", error)
            return Move(due, "", None)
        queue = topic.queues[min(message.queue_id, topic.queue_nums - 1)]
        return Move(due, recall_key(message.topic, message.msg_id), queue)


def recall_key(topic: str, unique_key: str) -> str:
    """The key of a waiting message; "" for a retry, which cannot be recalled.

    Source: ``TimerMessageStore.buildDeleteKey``.
    """
    return "" if topic.startswith(RETRY_PREFIX) else f"{topic}+{unique_key}"
