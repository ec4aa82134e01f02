"""AsyncPushConsumer: hands the messages of a group to handlers."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, Unpack

import pluggy

from ...config import ClientConfig
from ...errors import ClientError, ConfigError, ResponseError, RmqError
from ...model import (
    RETRY_PREFIX,
    ConsumeFromWhere,
    ConsumeType,
    MessageExt,
    MessageModel,
    MessageQueue,
)
from ...plugins.hookspecs import ClientContext, ReadSelector
from ...plugins.interceptors import HANDLE_METHODS
from ...plugins.manager import allocate_strategy as named_strategy
from ...plugins.manager import installed_plugins, notify_roles, read_selector
from ...protocol.bodies.heartbeat import ConsumerData, SubscriptionData
from ...protocol.command import RemotingCommand
from ...runtime import first_of, force_exit, stop_signals
from ..core.closing import Closing
from ..core.instance import MQClientInstance, client_config
from ..core.intercept import intercepted_handler, named_and_given
from ..core.lifecycle import AsyncClient
from ..core.settings import ClientSettings
from ..core.values import NO_VALUE, Serializer, Undecodable, typed_handler
from ..produce.request_reply import Replier
from .assembly import assemble
from .broker_requests import answer_broker
from .handler import Handler, MessageHandler, takes_one
from .held_queues import HeldQueues
from .process_queue import ProcessQueue
from .push_settings import PushSettings
from .rebalance import Rebalancer
from .subscriptions import check_topic_name, make_subscription

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


class AsyncPushConsumer(AsyncClient):
    """Consumes topics as a member of a group. Use it as an async context manager, or call ``start`` and ``close``.

    A handler gets one ``MessageExt``. It is a coroutine function, or a plain function, which runs in a thread. None,
    True or ``ConsumeResult.SUCCESS`` acknowledges the message. After False, ``ConsumeResult.LATER`` or an exception the
    message is redelivered (after 10 s, 30 s, 1 min, ...); after ``max_reconsume_times`` retries it goes to the
    dead-letter topic ``%DLQ%group``. Delivery is at least once: after a crash or a rebalance a message may be delivered
    twice.

    Args:
        group: consumer group. All its members must subscribe to the same topics with the same expressions.
        namesrv_addr: NameServers, ``host:port;host:port``.
        config: all settings; ``namesrv_addr`` and ``settings`` override it.
        consume_from_where: where the group begins in a queue without a committed offset.
        consume_timestamp_ms: for CONSUME_FROM_TIMESTAMP, ms since 1970; default: 30 minutes ago.
        concurrency: handlers that run at the same time.
        pull_batch_size: messages per pull, at most 1024; the broker may allow fewer (Apache brokers: 32).
        message_model: CLUSTERING: each message to one member; BROADCASTING: to every member, which keeps its offsets in
            a file (``offset_store_path``) and continues there after a restart.
        orderly: messages of one queue are handled one at a time, in order; a failed message blocks its queue.
        max_reconsume_times: retries before a message goes to the dead letters; default: the group's configuration (16
            unless changed), of an orderly consumer no limit.
        consume_timeout_s: a message that a handler does not finish within this time is redelivered (not if orderly).
        suspend_current_queue_time_s: orderly: pause before a failed message is handled again.
        pull_threshold_for_queue: a queue is not pulled while N of its messages are unfinished.
        pull_threshold_bytes_for_queue: the same for their bytes.
        pull_threshold_for_topic: limit shared by all queues of a topic in this consumer; -1: none.
        pull_threshold_bytes_for_topic: the same for their bytes.
        consume_max_span: a queue is not pulled while its oldest and newest unfinished messages are more than N offsets
            apart (not if orderly).
        await_termination_s: how long ``close`` waits for running handlers.
        plugins: plugin manager that looks up the names in settings (``allocate_strategy``, ``read_selector``,
            ``plugin_interceptors``); default: built-in and installed plugins.
        interceptors: objects with ``before_handle``, ``after_handle`` or ``around_handle``, see
            ``rmq_redis.plugins.interceptors``. With any, the messages of a plain function go to its thread one by one.
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
        consume_from_where: ConsumeFromWhere | str = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
        consume_timestamp_ms: int | None = None,
        concurrency: int = 20,
        pull_batch_size: int = 32,
        message_model: MessageModel | str = MessageModel.CLUSTERING,
        orderly: bool = False,
        max_reconsume_times: int | None = None,
        consume_timeout_s: float = 900.0,
        suspend_current_queue_time_s: float = 1.0,
        pull_threshold_for_queue: int = 1000,
        pull_threshold_bytes_for_queue: int = 100 * 1024 * 1024,
        pull_threshold_for_topic: int = -1,
        pull_threshold_bytes_for_topic: int = -1,
        consume_max_span: int = 2000,
        await_termination_s: float = 10.0,
        plugins: pluggy.PluginManager | None = None,
        interceptors: Sequence[object] = (),
        **settings: Unpack[ClientSettings],
    ) -> None:
        self._settings = PushSettings.of(locals())
        self.config = client_config(namesrv_addr, config, settings, type(self))
        self._plugins = plugins or installed_plugins()
        self._instance = MQClientInstance(self.config)
        context = ClientContext(self.config, self._instance.zone_of)
        self._interceptors = named_and_given(interceptors, HANDLE_METHODS, self._plugins, context)
        self._strategy = named_strategy(self.config.allocate_strategy, self._plugins, context)
        self._assemble(read_selector(self.config.read_selector, self._plugins, context))

    def _assemble(self, selector: ReadSelector | None) -> None:
        parts = assemble(self._instance, self._settings, selector, lambda: self.process_queues)
        self.group = self._settings.group
        self.consume_from_where = self._settings.consume_from_where
        self.message_model = self._settings.message_model
        self.orderly = self._settings.orderly
        self.concurrency = self._settings.concurrency
        self.offsets = parts.offsets
        self.service = parts.service
        self.replies = Replier(self._instance, self.group, self.service.call)
        self.started_at_ms = 0
        self._subscriptions = parts.subscriptions
        self._handlers = parts.handlers
        self._locks = parts.locks
        self._held = HeldQueues(parts, self.rebalance_now)
        self._running = False
        self._closing = Closing(f"consumer {self.group}", self._close)
        self._rebalancer: Rebalancer

    # --- subscriptions -------------------------------------------------------------------------------------------

    def subscribe(
        self,
        topic: str,
        expression: str = "*",
        handler: MessageHandler | None = None,
        *,
        expression_type: str = "TAG",
    ) -> None:
        """Has messages of a topic handed to ``handler``. A second call for a topic replaces the first.

        While the consumer runs, a new expression counts from the next message that was not pulled yet.

        Args:
            expression: ``*`` or tags, ``TagA || TagB``; with ``expression_type="SQL92"`` a condition on properties,
                which ``start`` has the brokers check.

        Raises:
            ClientError: no handler, or the topic name is illegal.
        """
        self.check_process()
        check_topic_name(topic)
        if not callable(handler):
            raise ClientError(f"subscription of topic {topic!r}: a handler is needed, not {handler!r}")
        if not takes_one(handler):
            raise ClientError(
                f"subscription of topic {topic!r}: the handler {handler!r} cannot be called with a message"
            )
        self._subscriptions[topic] = make_subscription(topic, expression, expression_type)
        entry = Handler(handler)
        if self._interceptors:
            entry = Handler(intercepted_handler(self._interceptors, functools.partial(self.service.call, entry)))
        self._handlers[topic] = entry
        for process_queue in self.process_queues:
            if process_queue.queue.topic == topic:
                process_queue.pull_again()
        self._subscriptions_changed()

    def handler(
        self,
        topic: str,
        tags: str = "*",
        *,
        expression_type: str = "TAG",
        value: Any = NO_VALUE,
        default: str | Serializer = "json",
        on_undecodable: Undecodable | None = None,
    ) -> Callable[[F], F]:
        """Decorator: ``subscribe`` with the function that follows.

        Args:
            value: a type: the function gets ``(value)`` or ``(value, message)``, the body decoded.
            default: serializer of bodies without a content type.
            on_undecodable: ``on_undecodable(message, error)`` for bodies that are no such value; its result counts as
                the handler's.
        """

        def decorate(function: F) -> F:
            handle: MessageHandler = function
            if value is not NO_VALUE:
                handle = typed_handler(function, value, default=default, on_undecodable=on_undecodable)
            self.subscribe(topic, tags, handle, expression_type=expression_type)
            return function

        return decorate

    def replier(self, topic: str, tags: str = "*", *, expression_type: str = "TAG") -> Callable[[F], F]:
        """Decorator: ``handler`` whose result, if it is bytes, str or a Message, is the reply to the message.

        For messages that were sent with ``AsyncProducer.request``. A reply that cannot be delivered is logged.
        """

        def decorate(function: F) -> F:
            self.subscribe(topic, tags, self.replies.handler(function), expression_type=expression_type)
            return function

        return decorate

    def unsubscribe(self, topic: str) -> None:
        """No more messages of a topic; those at a handler are finished."""
        self.check_process()
        self._handlers.pop(topic, None)
        if self._subscriptions.pop(topic, None):
            self._subscriptions_changed()

    def _subscriptions_changed(self) -> None:
        if self._running:
            self._instance.heartbeat_soon()
            self._rebalancer.now()

    @property
    def subscriptions(self) -> list[SubscriptionData]:
        """What is subscribed, the group's retry topic included."""
        return list(self._subscriptions.values())

    @property
    def assignment(self) -> list[MessageQueue]:
        """The queues that this consumer has now, sorted."""
        return self._held.assignment

    def decode(self, records: bytes, broker_name: str) -> list[MessageExt]:
        """Messages that a broker sent by itself; see ``BrokerApi.decode``."""
        return self._instance.broker.decode(records, broker_name)

    @property
    def process_queues(self) -> list[ProcessQueue]:
        """What was pulled and is not finished yet, of each queue that it has."""
        return self._held.all

    async def set_offset(self, queue: MessageQueue, offset: int) -> None:
        """Commits ``offset`` whatever was consumed; the next rebalance takes the queue from there."""
        await self._held.set_offset(queue, offset)

    @property
    def client_id(self) -> str:
        """The id under which brokers know this consumer; empty before ``start``."""
        return self._instance.client_id

    # --- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Joins the group and takes the first queues, as far as the servers answer; the rest follows by itself.

        Raises:
            ClientError: nothing subscribed, or started before.
            SubscriptionParseFailedError: a broker cannot understand an SQL92 expression.
            ResponseError: a broker does not filter by SQL92 (Apache's need ``enablePropertyFilter=true``).
        """
        if not self._subscriptions:
            raise ClientError(f"consumer group {self.group!r} has no subscription: subscribe before start")
        await self._instance.start()
        try:
            await self.offsets.open()
        except RmqError:
            await self._instance.close()
            raise
        self._begin()
        await self._look_up_routes()
        try:
            await self._instance.check_subscriptions(self.group, self.subscriptions)
        except ResponseError:
            await self.close()
            raise
        self._instance.register_consumer(self.group, self)
        await self._instance.heartbeat()
        await self._rebalancer.once()
        if self._closing.begun.is_set():  # by the handler of a first message
            return
        self._instance.routes.on_topic_change.append(self._topic_changed)
        self._rebalancer.loop.start()
        self._held.start()
        try:
            notify_roles("role_started", "consumer", self.group, self.config, self._plugins)
        except ConfigError:
            await self.close()
            raise

    def _begin(self) -> None:
        """From here on messages may be handled."""
        self.started_at_ms = int(time.time() * 1000)
        if self._settings.is_clustering:
            retry_topic = RETRY_PREFIX + self.group
            self._subscriptions[retry_topic] = make_subscription(retry_topic)
        self._rebalancer = Rebalancer(
            self._instance,
            self.group,
            self._strategy,
            self.message_model,
            self._held.topics,
            self._held.assign,
        )
        self._running = True
        self.service.start()

    async def _look_up_routes(self) -> None:
        routes = self._instance.routes
        routes.wanted.append(lambda: self._subscriptions)
        for topic in list(self._handlers):
            try:
                await routes.get(topic)
            except RmqError as error:
                logger.info("group %s: %s", self.group, error)

    async def run_forever(self) -> None:
        """Starts unless started, consumes until SIGTERM, Ctrl-C or ``close``, then closes.

        A second signal ends the process at once (exit code 130). Signals are seen in the main thread only.

        Raises:
            RmqError: as ``start``.
        """
        self.check_process()
        with stop_signals(on_second=force_exit) as stop:
            if not self.started_at_ms:
                await self.start()
            try:
                await first_of(stop, self._closing.begun)
            finally:
                await self.close()

    async def close(self) -> None:
        """Stops pulling, waits for running handlers (``await_termination_s``), commits, leaves the group.

        Called in a handler of this consumer it returns at once, and the consumer closes when that handler has ended.
        A second call waits for the first. In a forked child this does nothing.
        """
        if self.is_inherited:
            return
        self.stop_handing_out()
        await self._closing.close([self.service])

    def stop_handing_out(self) -> None:
        """The first step of ``close``: no handler is called any more, not even the one that calls this."""
        if self._running:
            self.service.stopping = True

    async def _close(self) -> None:
        if self._running:
            try:
                notify_roles("role_stopping", "consumer", self.group, self.config, self._plugins)
            except ConfigError as error:
                logger.error("consumer %s: %s", self.group, error)
            self._running = False
            self._held.stop_pulling()
            await self._rebalancer.loop.close()
            all_ended = await self.service.stop(self._settings.await_termination_s)
            await self._held.close(all_ended=all_ended)
        await self._instance.close()

    def _topic_changed(self, topic: str) -> None:
        if topic in self._subscriptions:
            self._rebalancer.now()

    # --- for the instance ----------------------------------------------------------------------------------------

    def consumer_data(self) -> ConsumerData:
        """This group's part of the heartbeat."""
        return ConsumerData(
            group_name=self.group,
            consume_type=ConsumeType.CONSUME_PASSIVELY,
            message_model=self.message_model,
            consume_from_where=self.consume_from_where,
            subscription_data_set=self.subscriptions,
        )

    def rebalance_now(self) -> None:
        """The group's members changed."""
        if self._running:
            self._rebalancer.now()

    async def handle_request(self, command: RemotingCommand) -> RemotingCommand | None:
        """Answers a request that a broker sends."""
        return await answer_broker(self, command)
