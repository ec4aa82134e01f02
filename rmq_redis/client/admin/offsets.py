"""Offsets of queues, and where groups are reset to. A part of ``AsyncAdmin``."""

from __future__ import annotations

from ...codes import RequestCode
from ...errors import ConsumerNotOnlineError
from ...model import MessageQueue, subscribe_queues
from ...protocol.bodies.progress import ResetOffsets
from ...protocol.command import request
from ...protocol.headers.offsets import ResetOffsetRequestHeader
from .topics import TopicAdmin


class OffsetAdmin(TopicAdmin):
    """Methods of ``AsyncAdmin`` for offsets."""

    async def reset_offset(
        self, group: str, topic: str, timestamp_ms: int, *, force: bool = True
    ) -> dict[MessageQueue, int]:
        """Has a group go on at the first message stored at or after a time, whether its members are online or not.

        Args:
            timestamp_ms: ms since 1970; 0: the first message, -1: what comes next.
            force: also where that skips messages; else no queue moves forwards.

        Returns:
            The new offsets.
        """
        header = ResetOffsetRequestHeader(topic, group, timestamp_ms, force)
        offsets: dict[MessageQueue, int] = {}
        for name, address in (await self._brokers_of(topic)).items():
            try:
                answer = await self._call(address, request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, header))
                offsets |= ResetOffsets.decode(answer.body).offset_table
            except ConsumerNotOnlineError:  # brokers before 5.2 tell the members, and there are none
                offsets |= await self._set_offsets(group, topic, name, address, header)
        return dict(sorted(offsets.items()))

    async def _set_offsets(
        self, group: str, topic: str, broker_name: str, address: str, header: ResetOffsetRequestHeader
    ) -> dict[MessageQueue, int]:
        broker = self._instance.broker
        offsets: dict[MessageQueue, int] = {}
        for queue in subscribe_queues(topic, await self.topic_route(topic)):
            if queue.broker_name != broker_name:
                continue
            if header.timestamp < 0:
                offset = await broker.max_offset(address, queue)
            else:
                offset = await broker.search_offset(address, queue, header.timestamp)
            committed = await broker.consumer_offset(address, group, queue, zero_if_young=False)
            if not header.is_force and committed is not None:
                offset = min(offset, committed)
            await broker.update_consumer_offset(address, group, queue, offset)
            offsets[queue] = offset
        return offsets

    async def reset_queue_offset(self, group: str, queue: MessageQueue, offset: int) -> None:
        """Has a group go on at an offset of one queue (brokers from 5.2 on)."""
        header = ResetOffsetRequestHeader(queue.topic, group, 0, True, queue.queue_id, offset)
        address = await self._address_of(queue)
        await self._call(address, request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, header))

    async def min_offset(self, queue: MessageQueue) -> int:
        """The offset of the oldest message that is there."""
        return await self._instance.broker.min_offset(await self._address_of(queue), queue)

    async def max_offset(self, queue: MessageQueue) -> int:
        """The offset that the next message will get."""
        return await self._instance.broker.max_offset(await self._address_of(queue), queue)

    async def search_offset(self, queue: MessageQueue, timestamp_ms: int) -> int:
        """The offset of the first message stored at or after ``timestamp_ms`` (ms since 1970)."""
        return await self._instance.broker.search_offset(await self._address_of(queue), queue, timestamp_ms)
