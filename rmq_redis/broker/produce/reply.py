"""SEND_REPLY_MESSAGE (324), SEND_REPLY_MESSAGE_V2 (325): a reply goes straight to the requesting client (326).

Source: RocketMQ 5.3 ``ReplyMessageProcessor``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from functools import partial

from ...codes import Perm, RequestCode, ResponseCode
from ...errors import (
    BrokerSystemError,
    InvalidParameterError,
    LocalProtocolError,
    MessageIllegalError,
    NoPermissionError,
    RemotingError,
    StoreError,
    StoreUnconfirmedError,
)
from ...hosts import offset_msg_id, pack_host
from ...model import MAX_PROPERTIES_BYTES, PROPERTY_REPLY_TO_CLIENT, PROPERTY_TAGS, SYSTEM_TOPICS_NOT_WRITABLE
from ...protocol.command import RemotingCommand, request, response
from ...protocol.headers.send import (
    ReplyMessageRequestHeader,
    SendMessageRequestHeader,
    SendMessageRequestHeaderV2,
    SendMessageResponseHeader,
)
from ...protocol.properties import find_property, tags_code
from ...protocol.record import RecordHead, encode_record
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...store.group.queue import Queue
from ..group.clients import ClientManager
from ..group.state import GroupState
from ..group.topics import Topic
from .records import REGION

logger = logging.getLogger(__name__)

PUSH_TIMEOUT_S = 10.0
"""Time for the requester to take a reply. Source: ``Broker2Client.callClient``."""

Header = SendMessageRequestHeader | SendMessageRequestHeaderV2


class ReplyProcessor:
    """Forwards replies to the clients that wait for them."""

    def __init__(self, state: GroupState, clients: ClientManager) -> None:
        self._config = state.config
        self._office = state.office
        self._topics = state.topics
        self._auto_creation = state.auto_creation
        self._queue_store = state.queue_store
        self._clients = clients
        self._broker_addr = state.address

    def processors(self) -> dict[int, Processor]:
        return {
            RequestCode.SEND_REPLY_MESSAGE: partial(self._reply, SendMessageRequestHeader),
            RequestCode.SEND_REPLY_MESSAGE_V2: partial(self._reply, SendMessageRequestHeaderV2),
        }

    async def _reply(
        self, header_type: type[Header], connection: Connection, command: RemotingCommand
    ) -> RemotingCommand:
        header: Header = command.header(header_type)
        self._office.require_master()
        topic = await self._topic(header)
        if header.queue_id < 0:
            header.queue_id = random.randrange(max(topic.config.write_queue_nums, 1))
        elif header.queue_id >= topic.queue_nums:
            raise InvalidParameterError(
                f"queueId {header.queue_id} of topic {header.topic!r}, which has {topic.queue_nums} queues"
            )
        if len(command.body) > self._config.max_message_bytes:
            raise MessageIllegalError(
                f"the reply's body has {len(command.body)} bytes, at most {self._config.max_message_bytes} are allowed"
            )
        now_ms = int(time.time() * 1000)
        failure = await self._push(connection, header, command.body, now_ms)
        message_id, queue_offset = "0", 0  # clients parse a number
        if self._config.store_reply_message_enable:
            queue = topic.queues[header.queue_id]
            queue_offset = await self._append(queue, connection, header, command.body, now_ms)
            message_id = offset_msg_id(self._broker_addr, queue.physical_offset(queue_offset))
        if failure:
            raise BrokerSystemError(failure)
        fields = SendMessageResponseHeader(message_id, header.queue_id, queue_offset, region=REGION, trace_on="true")
        return response(command, ResponseCode.SUCCESS, fields)

    async def _topic(self, header: Header) -> Topic:
        topic = self._topics.topics.get(header.topic)
        if header.topic in SYSTEM_TOPICS_NOT_WRITABLE:
            raise NoPermissionError(f"clients may not send to the system topic {header.topic!r}")
        if topic is None:
            topic = await self._auto_creation.topic_for_send(
                header.topic, header.default_topic, header.default_topic_queue_nums
            )
        if not topic.config.perm & Perm.WRITE:
            raise NoPermissionError(f"the topic {header.topic!r} does not allow writing (perm {topic.config.perm})")
        return topic

    async def _push(self, connection: Connection, header: Header, body: bytes, now_ms: int) -> str | None:
        """Forwards a reply to its requester; returns the problem, or None."""
        text = header.properties or ""
        client_id = find_property(text, PROPERTY_REPLY_TO_CLIENT)
        if client_id is None:
            return "reply message properties[REPLY_TO_CLIENT] is null"
        requester = self._clients.find_producer(client_id)
        if requester is None:
            return f"push reply message fail, channel of <{client_id}> not found."
        if text and text[-1] != "\x02":
            text += "\x02"
        pushed = ReplyMessageRequestHeader(
            producer_group=header.producer_group,
            topic=header.topic,
            default_topic=header.default_topic,
            default_topic_queue_nums=header.default_topic_queue_nums,
            queue_id=header.queue_id,
            sys_flag=header.sys_flag,
            born_timestamp=header.born_timestamp,
            flag=header.flag,
            properties=f"{text}PUSH_REPLY_TIME\x01{now_ms}\x02",
            reconsume_times=header.reconsume_times,
            unit_mode=header.unit_mode,
            born_host=connection.remote_address,
            store_host=self._broker_addr,
            store_timestamp=now_ms,
        )
        try:
            answer = await requester.invoke(
                request(RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT, pushed, body), PUSH_TIMEOUT_S
            )
        except (RemotingError, LocalProtocolError) as error:
            logger.warning("reply to %s: %s", client_id, error)
            return f"push reply message to {client_id} fail: {error}"
        if answer.code != ResponseCode.SUCCESS:
            logger.warning("reply to %s: it answered %d: %s", client_id, answer.code, answer.remark)
            return f"push reply message to {client_id} fail: it answered {answer.code} ({answer.remark})"
        return None

    async def _append(self, queue: Queue, connection: Connection, header: Header, body: bytes, now_ms: int) -> int:
        """Stores a reply in its topic; returns its queue offset. Raises StoreError or MessageIllegalError."""
        properties = (header.properties or "").encode()
        if not body or len(properties) > MAX_PROPERTIES_BYTES:
            raise MessageIllegalError(
                f"a reply of {len(body)} bytes with {len(properties)} bytes of properties cannot be stored"
            )
        head = RecordHead(
            header.queue_id,
            header.flag,
            header.sys_flag,
            header.born_timestamp,
            connection.remote_host,
            now_ms,
            pack_host(self._broker_addr),
            header.reconsume_times or 0,
            queue_offset=tags_code(find_property(header.properties or "", PROPERTY_TAGS)),
        )
        record = encode_record(head, header.topic.encode(), body, properties)
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def done(_queue: Queue, queue_offset: int, error: StoreError | None, _arg: None) -> None:
            if stored.done():
                return
            if error is None or isinstance(error, StoreUnconfirmedError):  # stored, confirmed or not
                stored.set_result(queue_offset)
            else:
                stored.set_exception(error)

        self._queue_store.append(queue, [record], len(record), done, None)
        return await stored
