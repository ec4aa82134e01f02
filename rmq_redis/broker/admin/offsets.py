"""Consumer offsets, and the bounds of queues: codes 14, 15, 29, 30, 31, 32, and 33 (a message by its address)."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable

from ...codes import RequestCode
from ...errors import InvalidParameterError, QueryNotFoundError, ResponseError, ServiceNotAvailableError, StoreError
from ...model import group_name_error
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.offsets import (
    EarliestMsgStoretimeResponseHeader,
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    QueueOffsetRequestHeader,
    SearchOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from ...protocol.headers.query import ViewMessageRequestHeader
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...store.group.queue import Queue, deliver, split_physical_offset
from ...store.group.queues import QueueStore
from ..group.state import GroupState

logger = logging.getLogger(__name__)

_MEMORY_SHARE = 0.4
"""A queue that still begins at 0 and is at most this part of the machine's memory counts as young: a group that is new
to it starts at 0. Source: ``accessMessageInMemoryMaxRatio``, ``ConsumerManageProcessor``."""

_MOST_COUNTED_BYTES = 4096
"""A few large messages do not make a queue old."""


class OffsetProcessor:
    """Answers from the offsets in memory (master) or from Redis (slave)."""

    def __init__(self, state: GroupState) -> None:
        self._office = state.office
        self._topics = state.topics
        self._queue_store = state.queue_store
        self._offsets = state.offsets
        self._young_bytes = _MEMORY_SHARE * _memory_bytes()

    def processors(self) -> dict[int, Processor]:
        return {
            RequestCode.QUERY_CONSUMER_OFFSET: self._query,
            RequestCode.UPDATE_CONSUMER_OFFSET: self._update,
            RequestCode.SEARCH_OFFSET_BY_TIMESTAMP: self._search,
            RequestCode.GET_MAX_OFFSET: self._max,
            RequestCode.GET_MIN_OFFSET: self._min,
            RequestCode.GET_EARLIEST_MSG_STORETIME: self._earliest,
            RequestCode.VIEW_MESSAGE_BY_ID: self._view,
        }

    async def _query(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(QueryConsumerOffsetRequestHeader)
        if not self._office.is_master:
            await self._offsets.load()
        offset = self._offsets.get(header.consumer_group, header.topic, header.queue_id)
        if offset is None:
            queue = await self._queue(header.topic, header.queue_id)
            if queue is None or header.set_zero_if_not_found is False or not self._is_young(queue):
                raise QueryNotFoundError(
                    f"the group {header.consumer_group!r} has no offset in {header.topic!r} queue {header.queue_id}"
                )
            offset = queue.first_offset
        return response(command, header=OffsetResponseHeader(offset))

    def _is_young(self, queue: Queue) -> bool:
        size = (queue.max_offset - queue.min_offset) * min(queue.size_hint, _MOST_COUNTED_BYTES)
        return queue.is_complete and size <= self._young_bytes

    def _update(self, connection: Connection, command: RemotingCommand) -> Awaitable[RemotingCommand] | None:
        header = command.header(UpdateConsumerOffsetRequestHeader)
        if not self._office.is_master:
            return None if command.is_oneway else self._done(command)
        if error := group_name_error(header.consumer_group):  # "a:b" would be the key of another group's offsets
            raise InvalidParameterError(error)
        topic = self._topics.topics.get(header.topic)
        if topic and not 0 <= header.queue_id < max(len(topic.queues), 1):
            raise InvalidParameterError(f"queueId {header.queue_id} of topic {header.topic!r}")
        remark = None
        if topic:
            if self._offsets.is_reset(header.consumer_group, header.topic, header.queue_id):
                remark = "Offset has been previously reset"  # the text of Apache's brokers; the commit is ignored
            self._offsets.commit(header.consumer_group, header.topic, header.queue_id, header.commit_offset)
        return None if command.is_oneway else self._flushed(command, remark)

    async def _flushed(self, command: RemotingCommand, remark: str | None) -> RemotingCommand:
        await self._offsets.flush()
        return response(command, remark=remark)

    async def _done(self, command: RemotingCommand) -> RemotingCommand:
        return response(command)

    async def _queue(self, topic: str, queue_id: int) -> Queue | None:
        queue = self._queue_store.queues.get((topic, queue_id))
        if queue and not self._office.is_master:
            await self._queue_store.refresh([queue])
        return queue

    async def _max(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(QueueOffsetRequestHeader)
        queue = await self._queue(header.topic, header.queue_id)
        return response(command, header=OffsetResponseHeader(queue.max_offset if queue else 0))

    async def _min(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(QueueOffsetRequestHeader)
        queue = await self._queue(header.topic, header.queue_id)
        return response(command, header=OffsetResponseHeader(queue.min_offset if queue else 0))

    async def _search(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(SearchOffsetRequestHeader)
        queue = await self._queue(header.topic, header.queue_id)
        if queue is None:
            return response(command, header=OffsetResponseHeader(0))
        upper = (header.boundary_type or "").lower() == "upper"
        offset = await self._queue_store.search_by_timestamp(queue, header.timestamp, upper=upper)
        return response(command, header=OffsetResponseHeader(offset))

    async def _earliest(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(QueueOffsetRequestHeader)
        queue = await self._queue(header.topic, header.queue_id)
        stored_ms = -1 if queue is None else await self._queue_store.store_timestamp_ms(queue, queue.min_offset)
        return response(command, header=EarliestMsgStoretimeResponseHeader(stored_ms))

    async def _view(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(ViewMessageRequestHeader)
        return response(command, body=await message_at(self._queue_store, header.offset))


async def message_at(queue_store: QueueStore, physical_offset: int) -> bytes:
    """The record of the message at a physical offset, as it goes to a client.

    Raises:
        ResponseError: there is none.
        ServiceNotAvailableError: the store is unavailable.
    """
    number, queue_offset = split_physical_offset(physical_offset)
    queue = queue_store.queues_by_number.get(number) if physical_offset >= 0 else None
    try:
        found = None if queue is None else await queue_store.read_one(queue, queue_offset)
    except StoreError as error:
        logger.warning("physical offset %d: %s", physical_offset, error)
        raise ServiceNotAvailableError("the store is not available; the broker's log says why") from None
    if queue is None or found is None or found[0] != queue_offset:
        raise ResponseError(f"no message at physical offset {physical_offset} on this broker")
    return bytes(deliver(queue, [found[1]], [queue_offset]))


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 4 << 30
