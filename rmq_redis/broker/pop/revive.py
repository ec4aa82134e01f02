"""Redelivers popped messages that were not acknowledged in time: by the group's retry topic, or to the dead letters.

Source: RocketMQ 5.3 ``PopReviveService``. Apache's broker has no limit of tries; a proxy or client counts them.
"""

from __future__ import annotations

import logging
import time

from ...errors import ResponseError
from ...model import DLQ_PREFIX, RETRY_PREFIX, TopicConfig
from ...protocol.pop import pop_retry_topic
from ...protocol.record import decode_records
from ...store.group.pop import Hidden, PopStore, Revival
from ...store.group.queue import Queue, deliver
from ..group.due_loop import DueLoop
from ..group.redelivery import again, failed_of_copy, log_dead_letter
from ..group.state import GroupState

logger = logging.getLogger(__name__)

_REVIVE_AT_ONCE = 256
"""Messages of one function call, during which Redis does nothing else."""
_POSTPONE_MS = 10_000
"""Pause before the next attempt at a message that cannot be stored where it should go."""


class PopReviveService:
    """Moves hidden messages whose invisible time is over, atomically. One timer for all of them."""

    def __init__(self, state: GroupState, store: PopStore) -> None:
        self._store = store
        self._topics = state.topics
        self._auto_creation = state.auto_creation
        self._queue_store = state.queue_store
        self._address = state.address
        self._due = DueLoop(self._revive_due, "popped messages: redelivering unacknowledged messages")

    def start(self) -> None:
        """Starts, with messages whose time is over already."""
        self._due.start()

    async def close(self) -> None:
        await self._due.close()

    def hidden_until(self, visible_ms: int) -> None:
        """Makes it look at that time, unless it looks earlier."""
        self._due.look_at(visible_ms)

    async def _revive_due(self, now_ms: int) -> int | None:
        due = await self._store.due(now_ms, _REVIVE_AT_ONCE)
        if not due:
            return await self._store.next_visible_ms()
        await self._revive(due)
        return 0

    async def _revive(self, due: list[Hidden]) -> None:
        revivals: list[Revival] = []
        for hidden in due:
            try:
                revivals.append(await self._revival(hidden))
            except ResponseError as error:  # a dead-letter topic without write permission, for example
                logger.error("%s cannot be delivered again now: %s", hidden, error)
                await self._store.change(hidden, int(time.time() * 1000) + _POSTPONE_MS)
        if revivals:
            for revival in await self._store.revive(revivals):
                if revival.target and revival.target.topic.startswith(DLQ_PREFIX):
                    log_dead_letter(failed_of_copy(revival.hidden.group, revival.record))

    async def _revival(self, hidden: Hidden) -> Revival:
        """Where a message goes now: nowhere if it, its topic or its group was removed.

        Raises:
            StoreError: the store is unavailable, or the server to read from is behind.
            ResponseError: it cannot go where it should.
        """
        source = self._queue_store.queues.get((hidden.topic, hidden.queue_id))
        group = self._topics.group(hidden.group)
        if source is None or group is None:
            return Revival(hidden, source, None, b"")
        offsets, records = await self._queue_store.read_records(source, hidden.queue_offset, 1)
        is_deleted = hidden.topic not in self._topics.topics  # meanwhile: its retry topic must not come back
        if is_deleted or not offsets or offsets[0] != hidden.queue_offset:  # removed by retention
            return Revival(hidden, source, None, b"")
        plain = bytes(deliver(source, records, offsets))
        message = decode_records(plain, decompress=False)[0]
        dead = message.reconsume_times >= group.retry_max_times
        target = await self._target(hidden, dead)
        topic, queue_id = target.topic, target.queue_id
        try:
            record = again(message, topic, queue_id, self._address, dead=dead)
        except ResponseError:
            record = again(message, topic, queue_id, self._address, bare=True)
        return Revival(hidden, source, target, record)

    async def _target(self, hidden: Hidden, dead: bool) -> Queue:
        if dead:
            return (await self._auto_creation.ensure_dead_letter_topic(hidden.group)).queues[0]
        is_retry = hidden.topic.startswith(RETRY_PREFIX)
        name = hidden.topic if is_retry else pop_retry_topic(hidden.group, hidden.topic)
        if name not in self._topics.topics:
            await self._topics.put(TopicConfig(topic_name=name, read_queue_nums=1, write_queue_nums=1))
        return self._topics.topics[name].queues[0]
