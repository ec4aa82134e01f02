"""Request-reply over messages: a producer that waits for the answer to its message, and the consumer that gives it.

Source: RocketMQ 5.3 ``DefaultMQProducerImpl.request``, ``MessageUtil.createReplyMessage``,
``ClientRemotingProcessor.receiveReplyMessage``.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from ...codes import MessageSysFlag, RequestCode
from ...errors import (
    ClientError,
    MessageIllegalLocallyError,
    RemoteProtocolError,
    ReplyTimeoutError,
    RmqError,
    response_error,
)
from ...model import (
    PROPERTY_CLUSTER,
    PROPERTY_CORRELATION_ID,
    PROPERTY_MESSAGE_TTL,
    PROPERTY_MESSAGE_TYPE,
    PROPERTY_REPLY_TO_CLIENT,
    SEND_STATUS_BY_CODE,
    Message,
    MessageExt,
    MessageQueue,
    SendResult,
    reply_topic,
)
from ...protocol.command import RemotingCommand, response
from ...protocol.compression import decompress_body
from ...protocol.headers.send import ReplyMessageRequestHeader
from ...protocol.properties import decode_properties
from ...remoting.connection import Connection, ResponseFuture
from ..consume.handler import Handler, MessageHandler
from ..core.instance import MQClientInstance
from .outgoing import MessageEncoder, Outgoing
from .topic import QueueTarget

logger = logging.getLogger(__name__)

_REPLY_GROUP = "CLIENT_INNER_PRODUCER"
"""Producer group of all replies. Source: RocketMQ 5.3 MixAll.CLIENT_INNER_PRODUCER_GROUP."""


def reply_to(request: MessageExt, answer: bytes | str | Message) -> Message:
    """The message that answers a request, to be sent by any producer (``producer.send(reply_to(message, b"..."))``).

    Args:
        answer: the body, or a message whose topic does not matter.

    Raises:
        MessageIllegalLocallyError: the message is no request, or its broker did not say of which cluster it is.
    """
    properties = {PROPERTY_MESSAGE_TYPE: "reply"}
    for name in (PROPERTY_CORRELATION_ID, PROPERTY_REPLY_TO_CLIENT, PROPERTY_MESSAGE_TTL):
        value = request.properties.get(name)
        if value is not None:
            properties[name] = value
        elif name != PROPERTY_MESSAGE_TTL:
            raise MessageIllegalLocallyError(
                f"message {request.msg_id} of topic {request.topic} is no request: it has no property {name}"
            )
    cluster = request.properties.get(PROPERTY_CLUSTER)
    if cluster is None:
        raise MessageIllegalLocallyError(
            f"request {request.msg_id} cannot be answered: it has no property {PROPERTY_CLUSTER}"
        )
    if not isinstance(answer, Message):
        answer = Message("", answer)
    return msgspec.structs.replace(answer, topic=reply_topic(cluster), properties={**answer.properties, **properties})


class Requests:
    """A producer's requests that wait for their replies."""

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance
        self._waiting: dict[str, asyncio.Future[MessageExt]] = {}
        instance.processors[RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT] = self._arrived

    async def ask(
        self,
        message: Message,
        addresses: Iterable[str],
        timeout_s: float,
        send: Callable[[Message, float], Awaitable[SendResult]],
    ) -> MessageExt:
        """Sends a request by ``send(message, timeout_s)`` and waits for its reply.

        Args:
            addresses: the brokers that it may go to; they must know this client before the reply comes.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        await self._instance.introduce(addresses, timeout_s / 2)
        correlation_id = str(uuid.uuid4())
        properties = {
            PROPERTY_CORRELATION_ID: correlation_id,
            PROPERTY_REPLY_TO_CLIENT: self._instance.client_id,
            PROPERTY_MESSAGE_TTL: str(int(timeout_s * 1000)),
        }
        asked = msgspec.structs.replace(message, properties={**message.properties, **properties})
        reply: asyncio.Future[MessageExt] = loop.create_future()
        self._waiting[correlation_id] = reply
        try:
            try:
                await send(asked, max(deadline - loop.time(), 0.001))
            except RmqError:
                if reply.done():  # then it was stored after all
                    return reply.result()
                raise
            async with asyncio.timeout_at(deadline):
                return await reply
        except TimeoutError:
            raise ReplyTimeoutError(
                f"the request to topic {message.topic!r} is stored, but no reply came in {timeout_s:g} s"
            ) from None
        finally:
            del self._waiting[correlation_id]
            reply.cancel()

    def close(self) -> None:
        """Fails what waits."""
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(ClientError("the producer was closed before the reply came"))

    def _arrived(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(ReplyMessageRequestHeader)
        properties = decode_properties(header.properties or "")
        reply = self._waiting.get(properties.get(PROPERTY_CORRELATION_ID, ""))
        if reply is None or reply.done():
            logger.warning("%s: a reply that nobody waits for (any more): %s", self._instance.client_id, properties)
            return response(command)
        try:
            max_bytes = self._instance.config.max_decompressed_bytes
            reply.set_result(_message(header, properties, bytes(command.body), max_bytes))
        except RemoteProtocolError as error:
            reply.set_exception(error)
            raise
        return response(command)


def _message(header: ReplyMessageRequestHeader, properties: dict[str, str], body: bytes, max_bytes: int) -> MessageExt:
    if header.sys_flag & MessageSysFlag.COMPRESSED:
        body = decompress_body(body, header.sys_flag, max_bytes)
    return MessageExt(
        topic=header.topic,
        body=body,
        properties={**properties, "ARRIVE_TIME": str(int(time.time() * 1000))},
        flag=header.flag,
        queue_id=header.queue_id,
        queue_offset=0,
        commit_log_offset=0,
        sys_flag=header.sys_flag,
        born_timestamp_ms=header.born_timestamp,
        born_host=header.born_host.removeprefix("/"),  # as Java writes a socket address
        store_timestamp_ms=header.store_timestamp,
        store_host=header.store_host.removeprefix("/"),
        reconsume_times=header.reconsume_times or 0,
        prepared_transaction_offset=0,
        store_size=0,
        broker_name=header.broker_name or "",
    )


class Replier:
    """Sends what a consumer's handlers return as replies; ``call`` runs a handler."""

    def __init__(
        self, instance: MQClientInstance, group: str, call: Callable[[Handler, MessageExt], Awaitable[Any]]
    ) -> None:
        self._instance = instance
        self._group = group
        self._call = call
        self._encoder = MessageEncoder(instance)

    def handler(self, function: Callable[[MessageExt], Any]) -> MessageHandler:
        """A handler that sends what ``function`` returns, if that is bytes, str or a Message."""
        handler = Handler(function)

        async def handle(message: MessageExt) -> Any:
            outcome = await self._call(handler, message)
            if isinstance(outcome, bytes | str | Message):
                await self._reply(message, outcome)
                return None
            return outcome

        return handle

    async def _reply(self, message: MessageExt, answer: bytes | str | Message) -> None:
        """Sends a reply once, to the broker that the request came from, as its requester is connected there.

        A reply that cannot be delivered is logged and no more: the requester has gone, or will run into its timeout.
        """
        if PROPERTY_REPLY_TO_CLIENT not in message.properties:
            logger.warning(
                "group %s: %s of %s is no request: the reply is dropped", self._group, message.msg_id, message.queue
            )
            return
        reply = reply_to(message, answer)
        config = self._instance.config
        out = self._encoder.message((reply,), None)
        if config.compress_over_bytes and len(out.body) >= config.compress_over_bytes:
            await out.compress()
        address = self._instance.routes.master_address(message.broker_name) or message.store_host
        queue = MessageQueue(reply.topic, message.broker_name, 0)
        target = QueueTarget(_REPLY_GROUP, queue, address, RequestCode.SEND_REPLY_MESSAGE_V2)
        try:
            connection = await self._instance.remoting.connect(address)
            answered = await self._send(connection, out, target, config.send_timeout_s)
            if answered.code not in SEND_STATUS_BY_CODE:
                raise response_error(answered.code, answered.remark, address)
        except RmqError as error:
            logger.warning("group %s: the reply to %s was not delivered: %s", self._group, message.msg_id, error)

    @staticmethod
    def _send(connection: Connection, out: Outgoing, target: QueueTarget, timeout_s: float) -> ResponseFuture:
        loop = asyncio.get_running_loop()
        answered: ResponseFuture = loop.create_future()
        opaque = connection.next_opaque()
        connection.send_request(out.frame(target.head, opaque), opaque, loop.time() + timeout_s, answered)
        return answered
