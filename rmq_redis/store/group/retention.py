"""Removing the oldest messages of queues, and how much memory queues and server take."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from ...errors import StoreRefusedError
from ...protocol.record import store_timestamp_position
from ..redis.server_info import server_info
from .queue import Queue
from .queues import QueueStore

logger = logging.getLogger(__name__)

_SAMPLES = 32
"""Entries that are measured per queue: messages of one topic have similar sizes."""
_ENTRY_BYTES = 16
"""What a stream entry of one field takes besides its value; measured with Valkey 9 and Redis 7, 256-byte values."""
_QUEUES_AT_ONCE = 100
"""Queues that one call measures; the server answers no other client meanwhile."""
_NOT_COUNTED = "mem_not_counted_for_evict"


class StoreMemory(msgspec.Struct, frozen=True):
    """Memory of the store's server.

    Attributes:
        used_bytes: what counts against its ``maxmemory``.
        data_bytes: that without the buffers of its connections, which come and go.
        max_bytes: its ``maxmemory``; 0: none.
        system_bytes: memory of its machine.
    """

    used_bytes: int
    data_bytes: int
    max_bytes: int
    system_bytes: int = 0


def memory_of(info: Mapping[str, str]) -> StoreMemory:
    """The memory that INFO memory shows."""
    used = int(info.get("used_memory", 0)) - int(info.get(_NOT_COUNTED, 0))
    data = used - int(info.get("mem_clients_normal", 0))
    return StoreMemory(used, data, int(info.get("maxmemory", 0)), int(info.get("total_system_memory", 0)))


class RetentionStore:
    """Everything raises StoreError when the store is unavailable or this master is fenced off."""

    def __init__(self, queue_store: QueueStore) -> None:
        self._store = queue_store
        self._estimates = False

    async def trim(self, queue: Queue, queue_offset: int) -> None:
        """Removes a queue's messages before an offset, in one step; its ``min_offset`` moves on.

        Entries are removed exactly up to there, so what is left has no gap.
        """
        if self._store.queues.get((queue.topic, queue.queue_id)) is not queue:
            return  # deleted; another of its name may have its key
        first, head = await self._store.call("trim", [queue.key], [queue_offset + 1])
        if first:
            queue.min_offset = max(queue.min_offset, int(first) - 1)
            position = store_timestamp_position(head)
            queue.oldest_ms = int.from_bytes(head[position : position + 8], "big")
        else:
            queue.min_offset = max(queue.min_offset, queue_offset)
            queue.oldest_ms = 0

    async def oldest_ms(self, queue: Queue) -> int:
        """When the first message of a queue was stored (ms since 1970); 0 for an empty queue."""
        if queue.min_offset >= queue.max_offset:
            return 0
        if not queue.oldest_ms:
            queue.oldest_ms = max(0, await self._store.store_timestamp_ms(queue, queue.min_offset))
        return queue.oldest_ms

    async def usage(self, queues: Sequence[Queue]) -> list[int]:
        """Bytes of memory that each queue takes.

        The server measures its oldest nodes, knows how many nodes there are, and multiplies (``MEMORY USAGE``): nothing
        is counted on the way of a send, and the figure is there after a restart.
        """
        if not self._estimates:
            try:
                return await self._measure(queues)
            except StoreRefusedError as error:
                self._estimates = True
                logger.warning(
                    "retention: MEMORY USAGE is refused; a queue's memory is estimated by %d of its messages: %s",
                    2 * _SAMPLES,
                    error,
                )
        return [await self._estimate(queue) for queue in queues]

    async def _measure(self, queues: Sequence[Queue]) -> list[int]:
        result: list[int] = []
        for start in range(0, len(queues), _QUEUES_AT_ONCE):
            keys = [queue.key for queue in queues[start : start + _QUEUES_AT_ONCE]]
            result += await self._store.current_read().execute_function("memory_usage", keys, [_SAMPLES])
        return result

    async def _estimate(self, queue: Queue) -> int:
        """Bytes of a queue by the average of its oldest and newest messages."""
        ends = {queue.min_offset, max(queue.max_offset - _SAMPLES, queue.min_offset)}
        sizes = [
            len(record) + _ENTRY_BYTES
            for offset in ends
            for record in (await self._store.read_records(queue, offset, _SAMPLES))[1]
        ]
        return sum(sizes) * (queue.max_offset - queue.min_offset) // max(len(sizes), 1)

    async def memory(self) -> StoreMemory:
        """The server's memory now."""
        return memory_of(await server_info(self._store.current(), "memory"))
