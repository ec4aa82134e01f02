"""CONSUMER_SEND_MSG_BACK (36): a message that could not be handled comes again later, or goes to the dead letters.

Source: RocketMQ 5.3 ``AbstractSendMessageProcessor.consumerSendMsgBack``.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from ..codes import RequestCode
from ..errors import (
    LocalProtocolError,
    ResponseError,
    ServiceNotAvailableError,
    StoreError,
    SubscriptionGroupNotExistError,
)
from ..hosts import offset_msg_id, pack_host
from ..model import (
    PROPERTY_DELAY,
    PROPERTY_DLQ_ORIGIN_MESSAGE_ID,
    PROPERTY_DLQ_ORIGIN_TOPIC,
    PROPERTY_ORIGIN_MESSAGE_ID,
    PROPERTY_RETRY_TOPIC,
    MessageExt,
)
from ..protocol.body import SubscriptionGroupConfig
from ..protocol.command import RemotingCommand, response
from ..protocol.header import ConsumerSendMsgBackRequestHeader
from ..protocol.message import decode_records, encode_properties, encode_record, tags_code
from ..remoting.connection import Connection
from ..remoting.server import Processor
from ..store.queue_store import Queue, QueueStore, deliver, split_physical_offset
from .schedule import ScheduleService, delay_of_level
from .topics import TopicTable, max_reconsume_times, retry_topic

_FIRST_RETRY_LEVEL = 3


class SendBackProcessor:
    """Takes back what consumers could not handle. ``refuse`` as in ``SendProcessor``."""

    def __init__(
        self, topics: TopicTable, queue_store: QueueStore, schedule: ScheduleService, store_host: bytes
    ) -> None:
        self._topics = topics
        self._queue_store = queue_store
        self._schedule = schedule
        self._store_host = store_host
        self.refuse: str | None = None

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.CONSUMER_SEND_MSG_BACK: self._send_back}

    async def _send_back(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(ConsumerSendMsgBackRequestHeader)
        if self.refuse is not None:
            raise ServiceNotAvailableError(self.refuse)
        group = self._topics.group(header.group)
        if group is None:
            raise SubscriptionGroupNotExistError(f"the consumer group {header.group!r} does not exist on this broker")
        if group.retry_queue_nums <= 0:
            return response(command)
        message = await self._find(header.offset)
        max_times = max_reconsume_times(group, command.version, header.max_reconsume_times)
        if message.reconsume_times >= max_times or header.delay_level < 0:
            await self.to_dead_letters(header.group, message)
        else:
            delay_ms = None if header.delay_level else group.retry_delay_ms(message.reconsume_times)
            if delay_ms is None:
                delay_ms = delay_of_level(header.delay_level or _FIRST_RETRY_LEVEL + message.reconsume_times)
            await self._retry(group, message, int(time.time() * 1000) + delay_ms)
        return response(command)

    async def _find(self, physical_offset: int) -> MessageExt:
        number, queue_offset = split_physical_offset(physical_offset)
        queue = self._queue_store.queues_by_number.get(number) if physical_offset >= 0 else None
        found = None if queue is None else await self._queue_store.read_one(queue, queue_offset)
        if queue is None or found is None or found[0] != queue_offset:
            raise ResponseError(f"no message at physical offset {physical_offset} on this broker")
        return decode_records(bytes(deliver(queue, [found[1]], [queue_offset])), decompress=False)[0]

    async def _retry(self, group: SubscriptionGroupConfig, message: MessageExt, due_ms: int) -> None:
        await self._topics.ensure_group(group.group_name)
        topic = retry_topic(group.group_name, group.retry_queue_nums).topic_name
        record = self._record(topic, random.randrange(group.retry_queue_nums), message)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._schedule.add(record, due_ms, _resolve, future)
        await future

    async def to_dead_letters(self, group: str, message: MessageExt) -> None:
        """Stores a message in ``%DLQ%group``. Raises NoPermissionError, StoreError."""
        topic = await self._topics.ensure_dead_letter_topic(group)
        message.properties.setdefault(
            PROPERTY_DLQ_ORIGIN_TOPIC, message.properties.get(PROPERTY_RETRY_TOPIC) or message.topic
        )
        message.properties.setdefault(PROPERTY_DLQ_ORIGIN_MESSAGE_ID, message.msg_id)
        record = self._record(topic.config.topic_name, 0, message)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue_store.append(topic.queues[0], [record], len(record), _resolve_append, future)
        await future

    def _record(self, topic: str, queue_id: int, message: MessageExt) -> bytes:
        """The message again, under another topic: one consumption more, its origin kept."""
        properties = dict(message.properties)
        properties.setdefault(PROPERTY_RETRY_TOPIC, message.topic)
        properties.setdefault(PROPERTY_ORIGIN_MESSAGE_ID, offset_msg_id(message.store_host, message.commit_log_offset))
        properties.pop(PROPERTY_DELAY, None)
        try:
            return encode_record(
                topic=topic.encode(),
                body=message.body,
                properties=encode_properties(properties).encode(),
                queue_id=queue_id,
                flag=message.flag,
                sys_flag=message.sys_flag,
                born_timestamp_ms=message.born_timestamp_ms,
                born_host=pack_host(message.born_host),
                store_timestamp_ms=int(time.time() * 1000),
                store_host=self._store_host,
                reconsume_times=message.reconsume_times + 1,
                queue_offset=tags_code(message.tags),
            )
        except LocalProtocolError as error:
            raise ResponseError(f"the message cannot be sent back: {error}") from None


def _resolve(error: StoreError | None, future: asyncio.Future[None]) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _resolve_append(queue: Queue, queue_offset: int, error: StoreError | None, future: Any) -> None:
    _resolve(error, future)
