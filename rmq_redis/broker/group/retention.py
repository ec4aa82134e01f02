"""Retention: removes old or excess messages from the front of the queues, whether or not groups have consumed them.

Source: RocketMQ 5.3 ``DefaultMessageStore.CleanCommitLogService`` (``fileReservedTime``, the three disk ratios). It
removes files of one commit log. Here every queue is a stream of its own, so each topic can have its own limits.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence

import msgspec

from ...background import Every
from ...config import BrokerConfig
from ...errors import InvalidParameterError, StoreRefusedError
from ...model import DLQ_PREFIX, RETRY_PREFIX
from ...store.group.queue import Queue
from ...store.group.queues import QueueStore
from ...store.group.retention import RetentionStore, StoreMemory
from ...store.group.session import NO_LIMIT
from .topics import Topic, TopicTable

logger = logging.getLogger(__name__)

RESERVE_TIME = "reserve.time"
RESERVE_BYTES = "reserve.bytes"
RESERVE_COUNT = "reserve.count"

_STEP = 500
"""Messages removed by one call: some 10 to 50 microseconds of Redis's time."""
_STEP_PAUSE_S = 0.001
"""Lets appends reach Redis between two steps."""
_STEPS_AT_ONCE = 64
"""Steps between two looks at the memory."""
_MAX_SLACK_MS = 60_000
"""Messages may be kept longer than their time by 1 % of it, but at most by this."""
_RETRY_S = 1.0
"""Pause after an error of the store, unless the period is shorter."""
_GROWTH = 1.5
"""Memory of Redis per byte of a record, with half-full nodes and the allocator's size classes."""
_UNITS_MS = {"": 3_600_000, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNITS_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_NUMBER = re.compile(r"(\d+)([a-z]?)")


class RetentionPolicy(msgspec.Struct, frozen=True):
    """How much a topic keeps in this broker group. 0: no such limit."""

    age_ms: int = 0
    max_bytes: int = 0
    max_msg_nums: int = 0


def retention_policy(default: RetentionPolicy, attributes: Mapping[str, str]) -> RetentionPolicy:
    """A topic's policy: its attributes, the default where it has none or -1.

    ``reserve.time`` is a number of hours, or of the unit that follows it (``90m``, ``7d``; s, m, h, d),
    ``reserve.bytes`` a number of bytes (``512m``; k, m, g), ``reserve.count`` a number of messages.

    Raises:
        InvalidParameterError: a malformed attribute.
    """
    if not attributes:
        return default
    age_ms = _attribute(attributes, RESERVE_TIME, _UNITS_MS, "hours, or a number and one of s, m, h, d")
    max_bytes = _attribute(attributes, RESERVE_BYTES, _UNITS_BYTES, "bytes, or a number and one of k, m, g")
    max_msg_nums = _attribute(attributes, RESERVE_COUNT, {"": 1}, "messages")
    return RetentionPolicy(
        default.age_ms if age_ms is None else age_ms,
        default.max_bytes if max_bytes is None else max_bytes,
        default.max_msg_nums if max_msg_nums is None else max_msg_nums,
    )


def _attribute(attributes: Mapping[str, str], name: str, units: Mapping[str, int], expected: str) -> int | None:
    text = attributes.get(name)
    if text is None or text.strip() == "-1":
        return None
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is None or match[2] not in units or len(match[1]) > 15:
        raise InvalidParameterError(
            f"topic attribute {name}={text[:40]!r}: expected {expected}; 0 for no limit, -1 for the broker's setting"
        )
    return int(match[1]) * units[match[2]]


class RetentionService:
    """Checks all queues regularly and removes messages beyond their limits. Runs on the group's master.

    Attributes:
        memory: the store's memory at the last look; None before the first.
        max_bytes: the memory that may be used, 0: no limit.
    """

    def __init__(self, config: BrokerConfig, topics: TopicTable, queue_store: QueueStore) -> None:
        self._config = config
        self._topics = topics
        self._queue_store = queue_store
        self._store = RetentionStore(queue_store)
        self._default = RetentionPolicy(
            int(config.file_reserved_time_h * 3_600_000), config.topic_max_bytes, config.topic_max_msg_nums
        )
        # Retries and dead letters have no default limits of number and size.
        self._default_of_groups = RetentionPolicy(self._default.age_ms)
        self._loop = Every(config.retention_period_s, self._keep, "retention", at_once=True, retry_s=_RETRY_S)
        self._warned = False
        self._refused = False
        self.memory: StoreMemory | None = None
        self.max_bytes = 0
        queue_store.on_alarm = self._loop.wake

    def start(self) -> None:
        """Starts the checks."""
        self._loop.start()

    def look_now(self) -> None:
        """Starts a check now, before ``retention_period_s`` has passed."""
        self._loop.wake()

    async def close(self) -> None:
        await self._loop.close()
        self._queue_store.put_limit = self._queue_store.put_alarm = NO_LIMIT

    async def _keep(self) -> None:
        await self._keep_memory_if_known()
        for topic in list(self._topics.topics.values()):
            if self._loop.is_woken:
                break  # memory first
            await self._keep_policy(topic)
            await asyncio.sleep(0)

    # --- a topic's own limits --------------------------------------------------------------------------------------

    def policy(self, topic: Topic) -> RetentionPolicy:
        """A topic's policy. %RETRY% and %DLQ% topics have no default count and bytes."""
        of_group = topic.config.topic_name.startswith((RETRY_PREFIX, DLQ_PREFIX))
        default = self._default_of_groups if of_group else self._default
        try:
            return retention_policy(default, topic.config.attributes)
        except InvalidParameterError as error:  # another program stored it: keep too much rather than too little
            logger.error("retention of topic %s: %s; it keeps everything", topic.config.topic_name, error)
            return RetentionPolicy()

    async def _keep_policy(self, topic: Topic) -> None:
        policy = self.policy(topic)
        if policy.age_ms:
            now_ms = int(time.time() * 1000)
            for queue in topic.queues:
                await self._expire(queue, now_ms, policy.age_ms)
        if policy.max_msg_nums:
            queues = _not_empty(topic.queues)
            excess = sum(queue.max_offset - queue.min_offset for queue in queues) - policy.max_msg_nums
            await self._trim_oldest(queues, dict.fromkeys(queues, 1.0), excess)
        if policy.max_bytes:
            queues = _not_empty(topic.queues)
            usage = await self._store.usage(queues)
            await self._trim_oldest(queues, _bytes_per_message(queues, usage), sum(usage) - policy.max_bytes)

    async def _expire(self, queue: Queue, now_ms: int, age_ms: int) -> None:
        """Removes messages older than ``age_ms``, but not one at a time: each search costs some reads."""
        oldest_ms = await self._store.oldest_ms(queue)
        if not oldest_ms or oldest_ms > now_ms - age_ms - min(age_ms // 100, _MAX_SLACK_MS):
            return
        first_kept = await self._queue_store.search_by_timestamp(queue, now_ms - age_ms)
        removed = first_kept - queue.min_offset
        while queue.min_offset < first_kept:
            before = queue.min_offset
            await self._store.trim(queue, min(first_kept, before + _STEP))
            if queue.min_offset == before:
                return  # its topic is deleted
            await asyncio.sleep(_STEP_PAUSE_S)
        logger.debug("retention: removed %d messages of %s that were too old", removed, queue.mq)

    async def _trim_oldest(
        self, queues: Sequence[Queue], weights: Mapping[Queue, float], excess: float, max_steps: int | None = None
    ) -> None:
        """Removes the oldest messages of some queues, until they amount to ``excess`` bytes."""
        if excess <= 0:
            return
        heap = [(await self._store.oldest_ms(queue), number, queue) for number, queue in enumerate(queues)]
        heapq.heapify(heap)
        steps = 0
        while excess > 0 and heap and (max_steps is None or steps < max_steps):
            _, number, queue = heap[0]
            weight = max(weights[queue], 1e-9)
            before = queue.min_offset
            # At most this queue's part: its next messages may be younger than those of other queues.
            nums = min(_STEP, math.ceil(excess / weight / len(heap)))
            await self._store.trim(queue, min(queue.max_offset, before + nums))
            steps += 1
            excess -= (queue.min_offset - before) * weight
            oldest_ms = await self._store.oldest_ms(queue)
            if queue.min_offset == before or not oldest_ms:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (oldest_ms, number, queue))
            await asyncio.sleep(_STEP_PAUSE_S)

    # --- the memory of the store -----------------------------------------------------------------------------------

    async def _keep_memory_if_known(self) -> None:
        try:
            await self._keep_memory()
        except StoreRefusedError as error:
            self.memory, self.max_bytes = None, 0
            self._queue_store.put_limit = self._queue_store.put_alarm = NO_LIMIT
            if not self._refused:
                self._refused = True
                logger.warning(
                    "retention: INFO is refused, so the store is not kept below store_max_used_ratio of its memory; "
                    "limits of age, number and bytes of a topic hold: %s",
                    error,
                )

    async def _keep_memory(self) -> None:
        """Keeps the store's memory under ``store_max_used_ratio``; near the maximum, sends are refused."""
        while True:
            memory = await self._look()
            excess = memory.data_bytes - int(self.max_bytes * self._config.store_max_used_ratio)
            if not self.max_bytes or excess <= 0:
                self._warned = False
                return
            if not self._config.clean_file_forcibly_enable:
                self._warn(memory, "clean_file_forcibly_enable is off")
                return
            queues = [queue for topic in self._topics.topics.values() for queue in _not_empty(topic.queues)]
            usage = await self._store.usage(queues)
            if sum(usage) < excess:
                self._warn(memory, f"all messages together take {sum(usage):,} bytes, so removing them would not do")
                return
            logger.info(
                "retention: the store uses %d of %d bytes, the oldest messages are removed",
                memory.data_bytes,
                self.max_bytes,
            )
            await self._trim_oldest(queues, _bytes_per_message(queues, usage), excess, _STEPS_AT_ONCE)

    def _warn(self, memory: StoreMemory, why: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "retention: the store uses %d of %d bytes and nothing is removed: %s; sends are refused at %.0f %%",
                memory.data_bytes,
                self.max_bytes,
                why,
                100 * self._config.store_warning_level_ratio,
            )

    async def _look(self) -> StoreMemory:
        """Measures the memory, and sets how many bytes may be appended until the next measurement."""
        store = self._queue_store
        put_bytes = store.put_bytes
        self.memory = memory = await self._store.memory()
        self.max_bytes = self._config.store_max_bytes or memory.max_bytes
        if not self.max_bytes:
            store.put_limit = store.put_alarm = NO_LIMIT
            return memory
        was_full = store.full
        room = max(0, int((self.max_bytes * self._config.store_warning_level_ratio - memory.used_bytes) / _GROWTH))
        store.put_limit = put_bytes + room
        store.put_alarm = put_bytes + room // 2 if room else NO_LIMIT
        if store.full and not was_full:
            logger.warning(
                "retention: the store uses %d of %d bytes: sends are refused", memory.used_bytes, self.max_bytes
            )
        elif was_full and not store.full:
            logger.info(
                "retention: the store uses %d of %d bytes: sends are accepted", memory.used_bytes, self.max_bytes
            )
        return memory

    async def usage(self, queues: Sequence[Queue]) -> list[int]:
        """Memory of each queue in bytes. Raises StoreError."""
        return await self._store.usage(queues)

    async def learn_oldest(self, queue: Queue) -> None:
        """Reads when the first message of a queue was stored, unless that is known. Raises StoreError."""
        await self._store.oldest_ms(queue)

    def oldest_ms(self) -> int:
        """Store time of the oldest message of all queues at the last check; 0 if there was none."""
        times = [
            queue.oldest_ms
            for topic in self._topics.topics.values()
            for queue in topic.queues
            if queue.oldest_ms and queue.min_offset < queue.max_offset
        ]
        return min(times, default=0)


def _not_empty(queues: Sequence[Queue]) -> list[Queue]:
    return [queue for queue in queues if queue.min_offset < queue.max_offset]


def _bytes_per_message(queues: Sequence[Queue], usage: Sequence[int]) -> dict[Queue, float]:
    return {
        queue: size / max(1, queue.max_offset - queue.min_offset) for queue, size in zip(queues, usage, strict=True)
    }
