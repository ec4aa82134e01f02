"""Finding single messages: by id, by key, by place. A part of ``AsyncAdmin``."""

from __future__ import annotations

import asyncio

from ...codes import PullSysFlag, RequestCode
from ...errors import QueryNotFoundError, RemoteProtocolError, ResponseError, RmqError
from ...model import (
    PROPERTY_REAL_TOPIC,
    PROPERTY_UNIQ_KEY,
    TRANS_CHECK_MAX_TIME_TOPIC,
    MessageExt,
    MessageQueue,
    PullStatus,
    split_keys,
)
from ...protocol.command import request
from ...protocol.headers.pull import PullMessageRequestHeader
from ...protocol.headers.query import QueryMessageRequestHeader
from ...protocol.headers.transaction import ResumeCheckHalfMessageRequestHeader
from ...protocol.ids import parse_offset_msg_id
from .calls import AdminCalls

TOOLS_GROUP = "TOOLS_CONSUMER"
"""The group that RocketMQ's own tools read with; it commits nothing."""
MAX_NUMS_BY_UNIQUE_KEY = 32
"""Copies of one message that a query returns at most. Source: MQAdminImpl.queryMessageByUniqKey."""
ANY_TIME_MS = (1 << 63) - 1
"""The largest time that the query's header (int64) can carry."""
_TIMEOUT_FACTOR = 3
"""Queries may take so many times longer than other requests. Source: MQAdminImpl.queryMessage."""


class MessageQueries(AdminCalls):
    """Methods of ``AsyncAdmin`` for single messages."""

    async def view_message(self, message_id: str, topic: str | None = None) -> MessageExt:
        """One message by its id.

        Args:
            message_id: a broker's id (``SendResult.offset_msg_id``), which leads to its place; with ``topic`` also the
                producer's id (``SendResult.msg_id``, the unique key).

        Raises:
            RemoteProtocolError: without ``topic``: not a broker's id.
            QueryNotFoundError: with ``topic``: no message has this id.
            ResponseError: without ``topic``: there is no message at that place.
        """
        if topic is None:
            return await self._view(*parse_offset_msg_id(message_id))
        # The two kinds of ids look the same. A broker's names its address, but another may be the group's master now.
        addresses = list((await self._brokers_of(topic)).values())
        try:
            address, physical_offset = parse_offset_msg_id(message_id)
        except RemoteProtocolError:
            address, physical_offset, addresses = "", 0, []
        if address in addresses and (message := await self._view_if_it_is(address, physical_offset, message_id)):
            return message
        if found := await self.query_by_unique_key(topic, message_id):
            return found[0]
        for address in addresses:
            if message := await self._view_if_it_is(address, physical_offset, message_id):
                return message
        raise QueryNotFoundError(f"no message of {topic!r} has the id {message_id!r}")

    async def resume_check_half_message(self, offset_msg_id: str) -> MessageExt:
        """Has the producers of a transaction that was given up asked again about it.

        Args:
            offset_msg_id: the broker's id of the message in ``TRANS_CHECK_MAX_TIME_TOPIC``.

        Returns:
            That message; it stays where it is.

        Raises:
            RemoteProtocolError: not a broker's id.
            QueryNotFoundError: there is no such message.
            ResponseError: its topic is gone, for example.
        """
        _, physical_offset = parse_offset_msg_id(offset_msg_id)
        for address in (await self._brokers_of(TRANS_CHECK_MAX_TIME_TOPIC)).values():
            message = await self._view_if_it_is(address, physical_offset, offset_msg_id)
            if message is not None and message.topic == TRANS_CHECK_MAX_TIME_TOPIC:
                topic = message.properties.get(PROPERTY_REAL_TOPIC, "")
                header = ResumeCheckHalfMessageRequestHeader(offset_msg_id, topic)
                broker = self._instance.broker
                command = request(RequestCode.RESUME_CHECK_HALF_MESSAGE, header)
                await broker.remoting.call(address, command, broker.timeout_s)
                return message
        raise QueryNotFoundError(f"no message of {TRANS_CHECK_MAX_TIME_TOPIC!r} has the id {offset_msg_id!r}")

    async def _view_if_it_is(self, address: str, physical_offset: int, offset_msg_id: str) -> MessageExt | None:
        try:
            message = await self._view(address, physical_offset)
        except (ResponseError, RemoteProtocolError):
            return None
        return message if message.offset_msg_id == offset_msg_id else None

    async def _view(self, address: str, physical_offset: int) -> MessageExt:
        message = await self._instance.broker.view_message(address, physical_offset)
        return message.rewritten(broker_name=await self._broker_name_at(address))

    async def _broker_name_at(self, address: str) -> str:
        """The broker group that has an address; "" if no NameServer says so. A record does not have it."""
        try:
            brokers = (await self.cluster_info()).brokers
        except RmqError:
            return ""
        return next((name for name, broker in brokers.items() if address in broker.broker_addrs.values()), "")

    async def query_message(
        self, topic: str, key: str, *, max_num: int = 32, begin_ms: int = 0, end_ms: int = ANY_TIME_MS
    ) -> list[MessageExt]:
        """The newest messages with a business key (one of ``keys``), oldest first; empty when there is none.

        Args:
            max_num: at most so many; each broker returns 64 at most.
            begin_ms, end_ms: stored within this time, ms since 1970.
        """
        found = await self._query(QueryMessageRequestHeader(topic, key, max_num, begin_ms, end_ms, "false"))
        return [message for message in found if key in split_keys(message.keys)][-max_num:]

    async def query_by_unique_key(
        self, topic: str, unique_key: str, *, begin_ms: int = 0, end_ms: int = ANY_TIME_MS
    ) -> list[MessageExt]:
        """The messages with a producer's id (``SendResult.msg_id``); several when a send was repeated."""
        header = QueryMessageRequestHeader(topic, unique_key, MAX_NUMS_BY_UNIQUE_KEY, begin_ms, end_ms, "true")
        return [
            message for message in await self._query(header) if message.properties.get(PROPERTY_UNIQ_KEY) == unique_key
        ]

    async def _query(self, header: QueryMessageRequestHeader) -> list[MessageExt]:
        """What all brokers of the topic find, by store time. Raises when one of them does not answer."""
        broker = self._instance.broker

        async def ask(name: str, address: str) -> list[MessageExt]:
            command = request(RequestCode.QUERY_MESSAGE, header)
            try:
                answer = await broker.remoting.call(address, command, broker.timeout_s * _TIMEOUT_FACTOR)
            except QueryNotFoundError:
                return []
            return broker.decode(answer.body, name)

        brokers = await self._brokers_of(header.topic)
        answers = await asyncio.gather(*(ask(name, address) for name, address in brokers.items()))
        found = [message for messages in answers for message in messages if message.topic == header.topic]
        return sorted(found, key=lambda message: message.store_timestamp_ms)

    async def message_at(self, queue: MessageQueue, offset: int) -> MessageExt:
        """The message at an offset of a queue.

        Raises:
            QueryNotFoundError: there is none; the text says from where to where the queue has messages.
            RouteNotFoundError: the topic has no such queue's broker.
        """
        brokers = await self._brokers_of(queue.topic)
        if queue.broker_name not in brokers:
            raise QueryNotFoundError(
                f"the topic {queue.topic!r} is not on broker {queue.broker_name!r} but on {', '.join(sorted(brokers))}"
            )
        header = PullMessageRequestHeader(
            TOOLS_GROUP, queue.topic, queue.queue_id, offset, 1, int(PullSysFlag.SUBSCRIPTION), 0, 0, 0, "*", "TAG"
        )
        broker = self._instance.broker
        result = await broker.pull(brokers[queue.broker_name], header, queue.broker_name, broker.timeout_s)
        if result.status is not PullStatus.FOUND or not result.messages or result.messages[0].queue_offset != offset:
            raise QueryNotFoundError(
                f"{queue} has no message at offset {offset}; it has {result.min_offset} to {result.max_offset - 1}"
                if result.max_offset > result.min_offset
                else f"{queue} has no message"
            )
        return result.messages[0]
