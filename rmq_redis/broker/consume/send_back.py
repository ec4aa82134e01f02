"""CONSUMER_SEND_MSG_BACK (36): a failed message is redelivered later, or becomes a dead letter.

Source: RocketMQ 5.3 ``AbstractSendMessageProcessor.consumerSendMsgBack``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

from ...codes import RequestCode
from ...errors import ResponseError, StoreError
from ...model import PROPERTY_RETRY_TOPIC, RETRY_PREFIX, MessageExt
from ...protocol.command import RemotingCommand, response
from ...protocol.group_config import SubscriptionGroupConfig
from ...protocol.headers.send import ConsumerSendMsgBackRequestHeader
from ...protocol.record import decode_records
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...store.group.queue import deliver, split_physical_offset
from ...store.group.schedule import Held
from ..group.redelivery import GiveBacks, again, failed_of, max_reconsume_times
from ..group.schedule import delay_of_level
from ..group.state import GroupState
from ..statistics import BrokerStatistics

logger = logging.getLogger(__name__)

_FIRST_RETRY_LEVEL = 3
"""Delay level of the first retry: 10 s. Source: ``AbstractSendMessageProcessor`` (3 + reconsumeTimes)."""


class SendBackProcessor:
    """Accepts messages that consumers could not handle."""

    def __init__(self, state: GroupState, give_backs: GiveBacks, statistics: BrokerStatistics) -> None:
        self._office = state.office
        self._topics = state.topics
        self._auto_creation = state.auto_creation
        self._queue_store = state.queue_store
        self._give_backs = give_backs
        self._address = state.address
        self._statistics = statistics

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.CONSUMER_SEND_MSG_BACK: self._send_back}

    async def _send_back(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(ConsumerSendMsgBackRequestHeader)
        self._office.require_master()
        group = self._topics.group(header.group) or await self._auto_creation.ensure_group(header.group)
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
        if due_ms is None:
            held = await self._to_dead_letters(header.group, message)
        else:
            held = await self._retry(group, message, due_ms)
        if not held.is_repeat:
            self._statistics.sent_back(header.group, message.properties.get(PROPERTY_RETRY_TOPIC) or message.topic)
        return response(command)

    async def _find(self, physical_offset: int) -> MessageExt:
        number, queue_offset = split_physical_offset(physical_offset)
        queue = self._queue_store.queues_by_number.get(number) if physical_offset >= 0 else None
        found = None if queue is None else await self._queue_store.read_one(queue, queue_offset)
        if queue is None or found is None or found[0] != queue_offset:
            raise ResponseError(f"no message at physical offset {physical_offset} on this broker")
        return decode_records(bytes(deliver(queue, [found[1]], [queue_offset])), decompress=False)[0]

    async def _retry(self, group: SubscriptionGroupConfig, message: MessageExt, due_ms: int) -> Held:
        await self._auto_creation.ensure_group(group.group_name)
        topic = RETRY_PREFIX + group.group_name
        try:
            record = again(message, topic, random.randrange(group.retry_queue_nums), self._address)
        except ResponseError as error:  # without its topic's name a retry would reach no handler
            logger.error("group %s: message %s cannot be retried: %s", group.group_name, message.msg_id, error)
            return await self._to_dead_letters(group.group_name, message)
        future: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        self._give_backs.retry(failed_of(group.group_name, message), record, due_ms, _resolve, future)
        return await future

    async def _to_dead_letters(self, group: str, message: MessageExt) -> Held:
        """Stores a message in ``%DLQ%group``. Raises NoPermissionError, StoreError."""
        topic = await self._auto_creation.ensure_dead_letter_topic(group)
        try:
            record = again(message, topic.config.topic_name, 0, self._address, dead=True)
        except ResponseError:
            record = again(message, topic.config.topic_name, 0, self._address, bare=True)
        future: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        self._give_backs.dead(failed_of(group, message), record, topic.queues[0], _resolve, future)
        return await future


def _resolve(held: Held | None, error: StoreError | None, future: asyncio.Future[Held]) -> None:
    if future.done():
        return
    if held and not error:
        future.set_result(held)
    else:
        future.set_exception(error or StoreError("not stored"))
