"""AsyncProducer: sends messages."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import Unpack

import pluggy

from ...config import ClientConfig
from ...errors import ConfigError, RouteNotFoundError
from ...model import Message, MessageExt, MessageQueue, SendResult
from ...plugins.hookspecs import ClientContext, QueueSelector
from ...plugins.interceptors import SEND_METHODS
from ...plugins.manager import installed_plugins, notify_roles
from ..core.arguments import seconds_of
from ..core.instance import MQClientInstance, check_group, client_config
from ..core.intercept import intercepted_send, named_and_given
from ..core.lifecycle import AsyncClient
from ..core.settings import ClientSettings
from ..core.values import Serializer, ValueSender, serializer_of
from .bursts import Sender
from .checks import check_handle, check_message, check_messages
from .choice import Destination, QueueChoice, destination
from .delivery import Delivery
from .outgoing import MessageEncoder
from .request_reply import Requests
from .topic import PublishTopics

logger = logging.getLogger(__name__)


class AsyncProducer(AsyncClient, ValueSender):
    """Sends messages. Use it as an async context manager, or call ``start`` and ``close``.

    Args:
        group: producer group, a name for the senders of one application.
        namesrv_addr: NameServers, ``host:port;host:port``.
        config: all settings; ``namesrv_addr`` and ``settings`` come on top of it.
        plugins: plugin manager to ask for what settings name (``load_balancer``, ``plugin_interceptors``);
            default: built-in and installed plugins.
        serializer: ``json``, ``msgpack`` or an object like them: what ``send_value`` writes.
        interceptors: objects with ``before_send`` and ``after_send``, see ``rmq_redis.plugins.interceptors``.
        settings: single fields of ``ClientConfig``.

    Raises:
        ConfigError: a setting that cannot be used.
    """

    def __init__(
        self,
        group: str,
        namesrv_addr: str | None = None,
        *,
        config: ClientConfig | None = None,
        plugins: pluggy.PluginManager | None = None,
        serializer: str | Serializer = "json",
        interceptors: Sequence[object] = (),
        **settings: Unpack[ClientSettings],
    ) -> None:
        check_group(group, "producer")
        self.group = group
        self.config = client_config(namesrv_addr, config, settings, type(self))
        self._instance = MQClientInstance(self.config)
        self._requests = Requests(self._instance)
        self._plugins = plugins or installed_plugins()
        self._serializer = serializer_of(serializer)
        context = ClientContext(self.config, self._instance.zone_of)
        self._publish = PublishTopics(group, strict_order=self.config.strict_order)
        self._choice = QueueChoice(self._plugins, context)
        self._encoder = MessageEncoder(self._instance)
        self._delivery = Delivery(group, self._instance, self._publish, self._choice)
        self._interceptors = named_and_given(interceptors, SEND_METHODS, self._plugins, context)
        self._deliver = intercepted_send(self._interceptors, self._delivery.deliver)

    @property
    def client_id(self) -> str:
        """The id under which brokers know this producer; empty before ``start``."""
        return self._instance.client_id

    async def start(self) -> None:
        """Makes the producer ready. Connections are opened by the first send.

        Raises:
            ClientError: started before.
        """
        await self._instance.start()
        self._publish.start(self._instance.routes)
        self._instance.register_producer(self.group)
        self._delivery.start()
        try:
            notify_roles("role_started", "producer", self.group, self.config, self._plugins)
        except ConfigError:
            await self.close()
            raise

    async def close(self) -> None:
        """Leaves the group and closes the connections. Sends in flight fail. A second call does nothing."""
        if self.is_inherited:
            return
        if self._delivery.is_running:
            try:
                notify_roles("role_stopping", "producer", self.group, self.config, self._plugins)
            except ConfigError as error:
                logger.error("producer %s: %s", self.group, error)
        self._delivery.close()
        self._requests.close()
        self._publish.close()
        await self._instance.close()

    # --- the public sends ----------------------------------------------------------------------------------------

    async def send(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float | timedelta | None = None,
    ) -> SendResult:
        """Sends a message and waits until a broker has stored it.

        A send that fails in a way that may pass is repeated at once, on another broker if there is one, up to
        ``retry_times_when_send_failed`` times and within the timeout; one with ``queue``, ``key`` or ``selector`` stays
        with its queue. Attempts at brokers that restart, or have no master, do not count: a send waits for one of them
        if no other has the topic. After a retry a message may be stored twice (``SendResult.attempts``).

        Args:
            queue: the queue to send to.
            key: sharding key: messages of one key go to one queue and are consumed in the order of their sends. While a
                broker group is offline, its keys go to other queues; with ``strict_order``, or a topic in order, the
                send waits.
            selector: chooses the queue: ``selector(queues, message, key)``.
            timeout_s: seconds, or a ``timedelta``, for all attempts together; default ``send_timeout_s``.

        Raises:
            MessageIllegalLocallyError: no broker would take the message.
            RouteNotFoundError: no NameServer knows a broker for the topic; after the timeout while brokers restart.
            ResponseError: the broker refused it.
            RemotingError: no NameServer or no broker answered; the message may or may not be stored.
            ClientError: not started, or closed.
        """
        where = destination(queue, key, selector)
        return await self._deliver((message,), self._encoder.message, self._delivery.ask, where, timeout_s)

    def begin_send(
        self, message: Message, where: Destination, timeout_s: float | timedelta | None, sender: Sender
    ) -> None:
        """Sends a message for a caller of another thread; ``sender`` gets the result, or what ``send`` would raise.

        Without a coroutine and a task, unless something has to be waited for before the message is written.
        """
        encode = self._encoder.message
        try:
            if not self._interceptors and self._delivery.begin(message, encode, where, timeout_s, sender):
                return
        except Exception as error:
            sender.set_exception(error)
            return
        sending = self._deliver((message,), encode, self._delivery.ask, where, timeout_s)
        self._delivery.spawn(sender, sending)

    async def send_oneway(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
    ) -> None:
        """Sends a message without waiting for an answer: it may be lost without notice. Never repeated.

        Raises:
            RmqError: as ``send``, for errors before the message is written to the connection.
        """
        where = destination(queue, key, selector)
        await self._deliver((message,), self._encoder.message, self._delivery.hand_over, where)

    async def send_batch(
        self,
        messages: Sequence[Message],
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        timeout_s: float | timedelta | None = None,
    ) -> SendResult:
        """Sends several messages of one topic to one queue in one request; they are stored all together or not at all.

        Nothing is compressed and nothing is split. The ids in the result are joined by commas, in the messages' order.

        Raises:
            MessageIllegalLocallyError: empty, several topics, a delayed message, or more than ``max_message_bytes``.
            RmqError: as ``send``.
        """
        check_messages(messages)
        where = destination(queue, key)
        return await self._deliver(messages, self._encoder.batch, self._delivery.ask, where, timeout_s)

    async def recall(self, topic: str, recall_handle: str, *, timeout_s: float | timedelta | None = None) -> str:
        """Takes a message that waits for its time back, before it is due; returns its id (``SendResult.msg_id``).

        Args:
            recall_handle: ``SendResult.recall_handle``.

        Raises:
            MessageIllegalLocallyError: not a handle, or one of another topic.
            ResponseError: the broker refused, with ILLEGAL_OPERATION (604) when the message is due or was recalled.
            RmqError: as ``send``; a recall is not retried.
        """
        seconds = seconds_of("timeout_s", timeout_s or self.config.send_timeout_s)
        handle = check_handle(topic, recall_handle)
        await self._delivery.topic(topic, seconds)
        address = self._instance.routes.master_address(handle.broker_name)
        if address is None:
            raise RouteNotFoundError(f"no master of broker {handle.broker_name!r}, which has the message, is known now")
        return await self._instance.broker.recall_message(address, self.group, topic, recall_handle, seconds)

    async def request(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float | timedelta = 3.0,
    ) -> MessageExt:
        """Sends a message, and waits for the reply that a consumer gives to it (``AsyncPushConsumer.replier``).

        Args:
            message: the request.
            queue: as for ``send``.
            key: as for ``send``.
            selector: as for ``send``.
            timeout_s: seconds, or a ``timedelta``, for the send, the handling and the reply together.

        Raises:
            ReplyTimeoutError: the request is stored, but no reply arrived in time; it may have been handled.
            RmqError: as ``send``.
        """
        check_message(message)
        timeout_s = seconds_of("timeout_s", timeout_s)
        topic = await self._delivery.topic(message.topic, timeout_s)
        targets = [topic.targets.get(to) for to in (topic.active if queue is None else [queue])]
        addresses = {target.address for target in targets if target is not None}

        def send(asked: Message, remaining_s: float) -> Awaitable[SendResult]:
            return self.send(asked, queue=queue, key=key, selector=selector, timeout_s=remaining_s)

        return await self._requests.ask(message, addresses, timeout_s, send)

    async def publish_queues(self, topic: str) -> list[MessageQueue]:
        """The queues of a topic that can be written now, sorted. Raises as ``send``."""
        return list((await self._delivery.topic(topic)).queues)
