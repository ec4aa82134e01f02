"""AsyncProducer: sends messages."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Unpack

import pluggy
import tenacity

from ...codes import ResponseCode
from ...config import ClientConfig
from ...errors import (
    ClientError,
    ConfigError,
    MessageIllegalLocallyError,
    RemotingConnectError,
    RemotingError,
    RequestTimeoutError,
    ResponseError,
    RmqError,
    RouteNotFoundError,
)
from ...model import Message, MessageExt, MessageQueue, SendResult, SendStatus
from ...plugins.guards import GuardedSelector
from ...plugins.hookspecs import ClientContext, QueueSelector
from ...plugins.interceptors import SEND_METHODS
from ...plugins.manager import installed_plugins, named_objects, notify_roles
from ...plugins.manager import queue_selector as named_selector
from ...protocol.frame import encode_frame
from ...protocol.header import SendMessageResponseHeader
from ...protocol.message import UniqKeyGenerator
from ...remoting.connection import Connection
from ..core.instance import MQClientInstance, check_group, client_config
from ..core.intercept import SendChain, check_interceptors
from ..core.lifecycle import AsyncClient
from ..core.settings import ClientSettings
from ..core.values import Serializer, ValueSender, serializer_of
from .attempt import PublishTopic, Send, StopAtDeadline, StopWhen, is_away, is_retriable, result_of
from .publish_topics import MOST_PAUSE_S, RETRY_PAUSE_S, PublishTopics, QueueAwayError
from .request_reply import Requests
from .sending import (
    QueueTarget,
    check_body,
    check_flag,
    check_handle,
    check_messages,
    check_timeout,
    check_topic,
    compress_large,
    encode_batch,
    encode_json,
    property_text,
)

logger = logging.getLogger(__name__)

AVOID_BROKER_S = 5.0
"""How long the queues of a broker that could not be reached are passed over, if there are others."""
AVOID_BUSY_BROKER_S = 1.0
_BATCH_PROPERTIES = b'"WAIT\\u0001true\\u0002"'
_LEAST_ATTEMPT_S = 0.005
_ONEWAYS_PER_TURN = 64


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
        context = ClientContext(self.config, self._instance.zone_of)
        self._select = named_selector(self.config.load_balancer, self._plugins, context)
        self._by_key = bool(getattr(self._select, "by_key", False))
        self._select_by_key = self._select if self._by_key else named_selector("HASH", self._plugins, context)
        self._sending = getattr(self._select, "sending", None)
        self._report = getattr(self._select, "report", None)
        self._measures = self._sending is not None or self._report is not None
        self._publish = PublishTopics(group, strict_order=self.config.strict_order)
        self._topics = self._publish.topics
        self._connections: dict[str, Connection] = {}
        self._timeout_s = self.config.send_timeout_s
        self._max_bytes = self.config.max_message_bytes
        self._compress_over_bytes = self.config.compress_over_bytes or self._max_bytes + 1
        self._oneways = 0
        self._running = False
        self._unique_keys: UniqKeyGenerator
        self._serializer = serializer_of(serializer)
        named = named_objects(
            "register_interceptors",
            "plugin_interceptors",
            self.config.plugin_interceptors,
            self._plugins,
            context=context,
        )
        self._intercept(check_interceptors([*(offered for _, offered in named), *interceptors], SEND_METHODS))

    def _intercept(self, interceptors: Sequence[object]) -> None:
        """Has the sends of this object go through interceptors, so that without any they cost nothing."""
        if interceptors:
            chain = SendChain(interceptors)
            self.send = chain.one(self.send)  # type: ignore[method-assign]
            self.send_oneway = chain.one(self.send_oneway)  # type: ignore[method-assign]
            self.send_batch = chain.many(self.send_batch)  # type: ignore[method-assign]

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
        self._unique_keys = self._instance.unique_keys
        self._connections = self._instance.remoting.connections
        self._publish.start(self._instance.routes)
        self._instance.register_producer(self.group)
        self._running = True
        try:
            notify_roles("role_started", "producer", self.group, self.config, self._plugins)
        except ConfigError:
            await self.close()
            raise

    async def close(self) -> None:
        """Leaves the group and closes the connections. Sends in flight fail. A second call does nothing."""
        if self.is_inherited:
            return
        if self._running:
            try:
                notify_roles("role_stopping", "producer", self.group, self.config, self._plugins)
            except ConfigError as error:
                logger.error("producer %s: %s", self.group, error)
        self._running = False
        self._topics.clear()
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
        timeout_s: float | None = None,
    ) -> SendResult:
        """Sends a message and waits until a broker has stored it.

        A send that fails in a way that may pass is repeated at once, on another broker if there is one, up to
        ``retry_times_when_send_failed`` times and within the timeout; one with ``queue``, ``key`` or ``selector`` stays
        with its queue. Attempts at brokers that restart, or have no master, do not count: a send waits for one of them
        if no other has the topic. After a retry a message may be stored twice (``SendResult.attempts``).

        Args:
            queue: the queue to send to.
            key: sharding key: messages of one key go to one queue and are consumed in the order of their sends. While a
                broker group is away its keys go to others, unless ``strict_order`` (or the topic's) says to wait.
            selector: chooses the queue: ``selector(queues, message, key)``.
            timeout_s: seconds for all attempts together; default ``send_timeout_s``.

        Raises:
            MessageIllegalLocallyError: no broker would take the message.
            RouteNotFoundError: no NameServer knows a broker for the topic; after the timeout while brokers restart.
            ResponseError: the broker refused it.
            RemotingError: no NameServer or no broker answered; the message may or may not be stored.
            ClientError: not started, or closed.
        """
        if timeout_s is not None:
            check_timeout(timeout_s)
        topic = self._topics.get(message.topic)
        if topic is None:
            topic = await self._find_topic(message.topic, timeout_s)
        fixed = queue is not None or key is not None or selector is not None or (topic.is_strict and self._by_key)
        if fixed:
            target, timeout_s = await self._target_for(topic, message, queue, key, selector, timeout_s)
        else:
            chosen = self._select(topic.active, message, None)
            target = topic.targets.get(chosen) or self._instead(topic, message, None, chosen)
        body: Any = message.body
        if type(body) is not bytes or not 0 < len(body) <= self._max_bytes:
            check_body(body, self._max_bytes)
        if message.flag != 0:
            check_flag(message.flag)
        sys_flag = 0
        if len(body) >= self._compress_over_bytes:
            body, sys_flag = await compress_large(body)
        born_ms = int(time.time() * 1000)
        message_id = self._unique_keys.next(born_ms)
        if message.tags or message.keys or message.properties or key is not None:
            text, message_id = property_text(message, key, message_id)
            properties = encode_json(text)
        else:
            properties = b'"UNIQ_KEY\\u0001%b\\u0002WAIT\\u0001true\\u0002"' % message_id.encode()
        try:
            if self._measures:
                deadline = self._deadline(timeout_s, born_ms)
                return await self._attempt(
                    Send(
                        message.topic,
                        False,
                        fixed,
                        sys_flag,
                        born_ms,
                        message.flag,
                        properties,
                        body,
                        message_id,
                        deadline,
                    ),
                    target,
                    1,
                )
            connection = self._connections.get(target.address) or await self._connect(target, timeout_s, fixed)
            opaque = connection.next_opaque()
            head = target.head % (sys_flag, born_ms, message.flag, properties, opaque)
            answer = await connection.send_request(
                encode_frame(head, body), opaque, self._timeout_s if timeout_s is None else timeout_s
            )
            if answer.code == 0:
                fields = answer.header(SendMessageResponseHeader)
                if fields.queue_id == target.queue.queue_id:
                    return SendResult(
                        SendStatus.SEND_OK,
                        message_id,
                        fields.msg_id,
                        target.queue,
                        fields.queue_offset,
                        fields.transaction_id or "",
                        1,
                        fields.recall_handle or "",
                    )
            return result_of(answer, target, message_id, 1)
        except RmqError as failure:
            error = failure
        deadline = self._deadline(timeout_s, born_ms)
        again = Send(
            message.topic, False, fixed, sys_flag, born_ms, message.flag, properties, body, message_id, deadline
        )
        return await self._send_again(again, target, error)

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
            As ``send``, as far as it is noticed before the message leaves.
        """
        topic = self._topics.get(message.topic) or await self._find_topic(message.topic, None)
        target, _ = await self._target_for(topic, message, queue, key, selector, None)
        check_body(message.body, self._max_bytes)
        check_flag(message.flag)
        body: Any = message.body
        sys_flag = 0
        if len(body) >= self._compress_over_bytes:
            body, sys_flag = await compress_large(body)
        born_ms = int(time.time() * 1000)
        text, _ = property_text(message, key, self._unique_keys.next(born_ms))
        connection = self._connections.get(target.address)
        if connection is None:
            fixed = queue is not None or key is not None or selector is not None
            target, connection = await self._connect_for_oneway(message.topic, fixed, born_ms, target)
        head = target.oneway_head % (sys_flag, born_ms, message.flag, encode_json(text), connection.next_opaque())
        connection.write(encode_frame(head, body))
        await connection.drain()
        self._oneways += 1
        if not self._oneways % _ONEWAYS_PER_TURN:
            await asyncio.sleep(0)  # nothing else here waits: without this a loop of sends would never reach the socket

    async def send_batch(
        self,
        messages: Sequence[Message],
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> SendResult:
        """Sends several messages of one topic to one queue in one request; they are stored all together or not at all.

        Nothing is compressed and nothing is split. The ids in the result are joined by commas, in the messages' order.

        Raises:
            MessageIllegalLocallyError: empty, several topics, a delayed message, or more than ``max_message_bytes``.
            Others as ``send``.
        """
        born_ms = int(time.time() * 1000)
        check_messages(messages)
        if timeout_s is not None:
            check_timeout(timeout_s)
        name = messages[0].topic
        topic = self._topics.get(name) or await self._find_topic(name, timeout_s)
        body, ids = encode_batch(messages, key, self._unique_keys, born_ms, self._max_bytes)
        target, timeout_s = await self._target_for(topic, messages[0], queue, key, None, timeout_s)
        if timeout_s is not None:
            born_ms = int(time.time() * 1000)
        # No UNIQ_KEY of the batch: brokers up to 5.3 append these properties to every message's own, and it would win.
        send = Send(
            name,
            True,
            queue is not None or key is not None,
            0,
            born_ms,
            0,
            _BATCH_PROPERTIES,
            body,
            ",".join(ids),
            self._deadline(timeout_s, born_ms),
        )
        try:
            return await self._attempt(send, target, 1)
        except RmqError as error:
            failure = error
        return await self._send_again(send, target, failure)

    async def recall(self, topic: str, recall_handle: str, *, timeout_s: float | None = None) -> str:
        """Takes a message that waits for its time back, before it is due; returns its id (``SendResult.msg_id``).

        Args:
            recall_handle: ``SendResult.recall_handle``.

        Raises:
            MessageIllegalLocallyError: not a handle, or one of another topic.
            ResponseError: the broker refused, with ILLEGAL_OPERATION (604) when the message is due or was recalled.
            Others as ``send``, without an attempt to repeat it.
        """
        if timeout_s is not None:
            check_timeout(timeout_s)
        handle = check_handle(topic, recall_handle)
        await self._find_topic(topic, timeout_s)
        address = self._instance.routes.master_address(handle.broker_name)
        if address is None:
            raise RouteNotFoundError(f"no master of broker {handle.broker_name!r}, which has the message, is known now")
        timeout_s = timeout_s or self._timeout_s
        return await self._instance.broker.recall_message(address, self.group, topic, recall_handle, timeout_s)

    async def request(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float = 3.0,
    ) -> MessageExt:
        """Sends a message, and waits for the reply that a consumer gives to it (``AsyncPushConsumer.replier``).

        Args:
            timeout_s: seconds for all of it: send, handling, reply.
            Others as ``send``.

        Raises:
            ReplyTimeoutError: the request is stored, but no reply came in time; it may have been handled.
            Others as ``send``.
        """
        self.check_process()
        check_timeout(timeout_s)
        topic = self._topics.get(message.topic) or await self._find_topic(message.topic, timeout_s)
        targets = [topic.targets.get(to) for to in (topic.active if queue is None else [queue])]
        addresses = {target.address for target in targets if target is not None}

        def send(asked: Message, remaining_s: float) -> Awaitable[SendResult]:
            return self.send(asked, queue=queue, key=key, selector=selector, timeout_s=remaining_s)

        return await self._requests.ask(message, addresses, timeout_s, send)

    # --- choosing ------------------------------------------------------------------------------------------------

    async def publish_queues(self, topic: str) -> list[MessageQueue]:
        """The queues of a topic that can be written now, sorted. Raises as ``send``."""
        self.check_process()
        found = self._topics.get(topic) or await self._find_topic(topic, None)
        return list(found.queues)

    def _choose(
        self,
        topic: PublishTopic,
        message: Message,
        queue: MessageQueue | None,
        key: str | None,
        selector: QueueSelector | None,
    ) -> QueueTarget:
        if queue is None:
            if key is not None and not isinstance(key, str):
                raise MessageIllegalLocallyError(f"the sharding key must be str, not {key!r:.80}")
            if selector is not None:
                if not callable(selector):
                    raise ClientError(f"selector={selector!r:.80} is not a function")
                queue = selector(topic.ordered, message, key)
            else:
                if key is not None:
                    chosen = self._select_by_key(topic.ordered, message, key)
                elif topic.is_strict and self._by_key and message.keys:
                    chosen = self._select(topic.ordered, message, None)
                else:
                    chosen = self._select(topic.active, message, None)
                target = topic.targets.get(chosen)
                if target is None and topic.is_strict and chosen in topic.ordered:
                    raise QueueAwayError(chosen)
                return target or self._instead(topic, message, key, chosen)
        if not isinstance(queue, MessageQueue):
            given = "queue" if selector is None else "the selector's result"
            raise ClientError(f"{given} must be a MessageQueue, not {queue!r:.80}")
        target = topic.targets.get(queue)
        if target is None:
            if queue.topic != message.topic:
                raise RouteNotFoundError(f"{queue} is no queue of topic {message.topic!r}, which the message is for")
            raise QueueAwayError(queue)
        return target

    def _instead(self, topic: PublishTopic, message: Message, key: str | None, chosen: MessageQueue) -> QueueTarget:
        """Where a message goes whose queue, chosen by a plugin, does not exist."""
        guard = self._select if key is None else self._select_by_key
        assert isinstance(guard, GuardedSelector), chosen
        return topic.targets[guard.fall_back(topic.active, message, key, chosen)]

    async def _find_topic(self, name: str, timeout_s: float | None) -> PublishTopic:
        self.check_process()
        if not self._running:
            raise ClientError(f"producer {self.group!r} is not started, or closed")
        check_topic(name)
        return await self._publish.find(name, self._timeout_s if timeout_s is None else timeout_s)

    async def _target_for(
        self,
        topic: PublishTopic,
        message: Message,
        queue: MessageQueue | None,
        key: str | None,
        selector: QueueSelector | None,
        timeout_s: float | None,
    ) -> tuple[QueueTarget, float | None]:
        """As ``_choose``, and the seconds left for the send; a queue that cannot be written now is waited for."""
        try:
            return self._choose(topic, message, queue, key, selector), timeout_s
        except QueueAwayError as error:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + (self._timeout_s if timeout_s is None else timeout_s)
            target = await self._publish.wait_for(error.queue, deadline - loop.time())
            return target, max(deadline - loop.time(), 0.001)

    # --- attempts ------------------------------------------------------------------------------------------------

    def _deadline(self, timeout_s: float | None, born_ms: int) -> float:
        """Loop time at which a send that began at ``born_ms`` has used its time."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        spent_s = min(max(time.time() - born_ms / 1000, 0.0), timeout_s)  # the clock may have been set meanwhile
        return asyncio.get_running_loop().time() + timeout_s - spent_s

    async def _connect(self, target: QueueTarget, timeout_s: float | None, fixed: bool) -> Connection:
        """Opens the connection. A send that may go elsewhere leaves time for that."""
        self.check_process()
        if not self._running:
            raise ClientError(f"producer {self.group!r} is not started, or closed")
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        if not fixed:
            timeout_s /= 1 + max(self.config.retry_times_when_send_failed, 0)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._instance.remoting.connect(target.address)
        except TimeoutError:
            raise RemotingConnectError(f"cannot connect to {target.address}: no answer in {timeout_s:g} s") from None

    async def _connect_for_oneway(
        self, topic: str, fixed: bool, born_ms: int, target: QueueTarget
    ) -> tuple[QueueTarget, Connection]:
        """Nothing was sent yet, so a broker that is away is waited for, or another one is taken."""
        send = Send(topic, False, fixed, 0, born_ms, 0, b"", b"", "", self._deadline(None, born_ms))
        attempts = 1
        while True:
            try:
                remaining_s = max(send.deadline - asyncio.get_running_loop().time(), 0.001)
                return target, await self._connect(target, remaining_s, fixed)
            except RemotingConnectError as error:
                self._note_failure(topic, target, error)
                target, _ = await self._next_target(send, target, error, attempts)
                attempts += 1

    async def _attempt(self, send: Send, target: QueueTarget, attempt: int) -> SendResult:
        if not self._measures:
            return await self._attempt_once(send, target, attempt)
        loop = asyncio.get_running_loop()
        began = loop.time()
        failure: BaseException | None = None
        if self._sending is not None:
            self._sending(target.queue)
        try:
            return await self._attempt_once(send, target, attempt)
        except BaseException as error:
            failure = error
            raise
        finally:
            if self._report is not None:
                self._report(target.queue, loop.time() - began, failure)

    async def _attempt_once(self, send: Send, target: QueueTarget, attempt: int) -> SendResult:
        remaining_s = send.deadline - asyncio.get_running_loop().time()
        if remaining_s <= 0:
            raise RequestTimeoutError(f"sending to {target.address}: the time is used up")
        connection = self._connections.get(target.address) or await self._connect(target, remaining_s, send.fixed)
        opaque = connection.next_opaque()
        template = target.batch_head if send.batch else target.head
        head = template % (send.sys_flag, send.born_ms, send.flag, send.properties, opaque)
        remaining_s = max(send.deadline - asyncio.get_running_loop().time(), 0.001)
        answer = await connection.send_request(encode_frame(head, send.body), opaque, remaining_s)
        return result_of(answer, target, send.message_id, attempt)

    async def _send_again(self, send: Send, target: QueueTarget, error: RmqError) -> SendResult:
        """Further attempts after ``error``, which the first one ended with; raises the last attempt's error."""
        if not is_retriable(error):
            raise error
        self._note_failure(send.topic, target, error)
        retries = self.config.retry_times_when_send_failed
        attempts = 1
        counted = 0  # of these, those at brokers that were there
        first = error

        async def attempt() -> SendResult:
            nonlocal target, attempts, counted, error
            target, error = await self._next_target(send, target, error, attempts)
            attempts += 1
            try:
                return await self._attempt(send, target, attempts)
            except RmqError as failure:
                error = failure
                counted += not is_away(failure)
                if is_retriable(failure):
                    self._note_failure(send.topic, target, failure)
                raise

        if retries <= 0 or asyncio.get_running_loop().time() >= send.deadline:
            raise error
        policy = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_retriable),
            stop=StopWhen(lambda: counted >= retries) | StopAtDeadline(send.deadline - _LEAST_ATTEMPT_S),
            sleep=asyncio.sleep,
            reraise=True,
        )
        try:
            return await policy(attempt)
        except RmqError as last:
            if attempts > 1:
                last.add_note(
                    f"attempt {attempts} of sending to topic {send.topic!r}; the first one failed with: {first}"
                )
            raise

    async def _next_target(
        self, send: Send, failed: QueueTarget, error: RmqError, attempts: int
    ) -> tuple[QueueTarget, RmqError]:
        """Where the next attempt goes, and the error so far: the broker's, until the routes show that it is away.

        With nowhere else to go it pauses first, and waits until the broker group has a master again.

        Raises:
            ``error``, when there is not enough time for another attempt.
        """
        loop = asyncio.get_running_loop()
        pause_s = min(RETRY_PAUSE_S * 4 ** min(attempts - 1, 3), MOST_PAUSE_S)
        while True:
            target: QueueTarget | None = None
            try:
                target = await self._target_of_retry(send, failed)
            except (RouteNotFoundError, RemotingError) as failure:
                error = failure
                self._instance.routes.refresh_soon(send.topic)
            if target is None or target.queue.broker_name == failed.queue.broker_name:
                await asyncio.sleep(min(pause_s, max(send.deadline - loop.time(), 0.0)))
            if send.deadline - loop.time() < _LEAST_ATTEMPT_S:
                raise error
            if target is not None:
                return target, error

    async def _target_of_retry(self, send: Send, failed: QueueTarget) -> QueueTarget:
        topic = self._topics.get(send.topic)
        if topic is None:
            remaining_s = send.deadline - asyncio.get_running_loop().time()
            topic = await self._find_topic(send.topic, max(remaining_s, 0.001))
        if send.fixed:
            target = topic.targets.get(failed.queue)
            if target is None:
                raise QueueAwayError(failed.queue)
            return target
        broker_name = failed.queue.broker_name
        others = [queue for queue in topic.active if queue.broker_name != broker_name]
        others = others or [queue for queue in topic.queues if queue.broker_name != broker_name] or topic.queues
        return topic.targets[random.choice(others)]

    def _note_failure(self, name: str, target: QueueTarget, error: RmqError) -> None:
        """Passes the broker over for a while if that makes sense, and has the route looked up."""
        broker_name = target.queue.broker_name
        logger.debug("send to %s at %s failed: %s", target.queue, target.address, error)
        if not self._running:
            return
        self._instance.routes.refresh_soon(name)
        code = error.code if isinstance(error, ResponseError) else None
        if isinstance(error, RemotingError) or code in (ResponseCode.SERVICE_NOT_AVAILABLE, ResponseCode.GO_AWAY):
            seconds = AVOID_BROKER_S
        elif code == ResponseCode.SYSTEM_BUSY:
            seconds = AVOID_BUSY_BROKER_S
        else:
            return
        self._publish.avoid(broker_name, seconds)
