"""CONSUMER_SEND_MSG_BACK (36): a message that could not be handled comes again later, or goes to the dead letters.

Source: RocketMQ 5.3 ``AbstractSendMessageProcessor.consumerSendMsgBack``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any, NamedTuple

from ..codes import RequestCode
from ..errors import (
    ResponseError,
    ServiceNotAvailableError,
    StoreError,
)
from ..model import PROPERTY_RETRY_TOPIC, MessageExt
from ..protocol.body import SubscriptionGroupConfig
from ..protocol.command import RemotingCommand, response
from ..protocol.header import ConsumerSendMsgBackRequestHeader
from ..protocol.message import decode_records
from ..remoting.connection import Connection
from ..remoting.server import Processor
from ..store.queue import Queue, deliver, split_physical_offset
from ..store.queue_store import QueueStore
from .redelivery import again, log_dead_letter
from .schedule import ScheduleService, delay_of_level
from .statistics import BrokerStatistics
from .topics import TopicTable, max_reconsume_times, retry_topic

logger = logging.getLogger(__name__)

_FIRST_RETRY_LEVEL = 3
_REPEATED_WITHIN_S = 60.0
"""A consumer repeats a request whose answer was lost within seconds; a connection that died is noticed within 30 s."""
_MAX_TAKEN = 10_000


_Request = tuple[int, str, int, int]
"""(epoch, group, physical offset, delay level); of another epoch, the copy may have been lost with a failover."""


class _Taken(NamedTuple):
    """A message that was taken back, or is just being.

    Attributes:
        at_s: since when, of ``time.monotonic``.
        until_ms: its copy is on its way until then (ms since 1970); later, the same message is a replayed one.
        stored: done when the store has the copy.
    """

    at_s: float
    until_ms: int
    stored: asyncio.Future[None]


class SendBackProcessor:
    """Takes back what consumers could not handle. ``refuse`` as in ``SendProcessor``."""

    def __init__(
        self,
        topics: TopicTable,
        queue_store: QueueStore,
        schedule: ScheduleService,
        store_host: bytes,
        statistics: BrokerStatistics,
    ) -> None:
        self._topics = topics
        self._queue_store = queue_store
        self._schedule = schedule
        self._store_host = store_host
        self._statistics = statistics
        self._taken: dict[_Request, _Taken] = {}
        self.refuse: str | None = None

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.CONSUMER_SEND_MSG_BACK: self._send_back}

    async def _send_back(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(ConsumerSendMsgBackRequestHeader)
        if self.refuse is not None:
            raise ServiceNotAvailableError(self.refuse)
        group = self._topics.group(header.group) or await self._topics.ensure_group(header.group)
        if group.retry_queue_nums <= 0:
            return response(command)
        message = await self._find(header.offset)
        max_times = max_reconsume_times(group, command.version, header.max_reconsume_times)
        due_ms = None
        if message.reconsume_times < max_times and header.delay_level >= 0:
            delay_ms = None if header.delay_level else group.retry_delay_ms(message.reconsume_times)
            if delay_ms is None:
                delay_ms = delay_of_level(header.delay_level or _FIRST_RETRY_LEVEL + message.reconsume_times)
            due_ms = int(time.time() * 1000) + delay_ms
        key = self._queue_store.epoch, header.group, header.offset, header.delay_level
        if (taken := self._taken_before(key)) is not None:
            await asyncio.shield(taken.stored)
            return response(command)
        await self._take(key, group, message, due_ms)
        self._statistics.sent_back(header.group, message.properties.get(PROPERTY_RETRY_TOPIC) or message.topic)
        return response(command)

    async def _take(
        self, key: _Request, group: SubscriptionGroupConfig, message: MessageExt, due_ms: int | None
    ) -> None:
        """Stores the copy of a message: in the retry topic, or with the dead letters if ``due_ms`` is None."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        until_ms = int((time.time() + _REPEATED_WITHIN_S) * 1000) if due_ms is None else due_ms
        self._taken[key] = _Taken(time.monotonic(), until_ms, stored)
        try:
            if due_ms is None:
                await self.to_dead_letters(group.group_name, message)
            else:
                await self._retry(group, message, due_ms)
        except BaseException as error:
            self._taken.pop(key, None)
            stored.set_exception(error if isinstance(error, Exception) else ServiceNotAvailableError("try again"))
            stored.exception()  # nobody else may be waiting for it
            raise
        stored.set_result(None)

    def _taken_before(self, key: _Request) -> _Taken | None:
        """What was made of the same request if its copy is still on its way: the answer to that request was lost.

        A copy that was delivered counts no more: the message was replayed (an offset was reset), and needs another one.
        """
        taken = self._taken
        oldest_s = time.monotonic() - _REPEATED_WITHIN_S
        while taken and (len(taken) > _MAX_TAKEN or next(iter(taken.values())).at_s < oldest_s):
            del taken[next(iter(taken))]
        before = taken.get(key)
        if before is not None and before.stored.done() and before.until_ms <= time.time() * 1000:
            del taken[key]
            return None
        return before

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
        try:
            record = again(message, topic, random.randrange(group.retry_queue_nums), self._store_host)
        except ResponseError as error:  # without its topic's name a retry would reach no handler
            logger.error("group %s: message %s cannot be retried: %s", group.group_name, message.msg_id, error)
            await self.to_dead_letters(group.group_name, message)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._schedule.add(record, due_ms, _resolve, future)
        await future

    async def to_dead_letters(self, group: str, message: MessageExt) -> None:
        """Stores a message in ``%DLQ%group``. Raises NoPermissionError, StoreError."""
        topic = await self._topics.ensure_dead_letter_topic(group)
        try:
            record = again(message, topic.config.topic_name, 0, self._store_host, dead=True)
        except ResponseError:
            record = again(message, topic.config.topic_name, 0, self._store_host, bare=True)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue_store.append(topic.queues[0], [record], len(record), _resolve_append, future)
        await future
        log_dead_letter(group, message)


def _resolve(error: StoreError | None, future: asyncio.Future[None]) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _resolve_append(queue: Queue, queue_offset: int, error: StoreError | None, future: Any) -> None:
    _resolve(error, future)
