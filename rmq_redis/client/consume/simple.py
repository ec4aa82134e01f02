"""AsyncSimpleConsumer: messages one by one, acknowledged one by one (POP)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Literal, Unpack

from ...codes import RequestCode, ResponseCode
from ...config import ClientConfig, choice
from ...errors import ClientError, RemoteProtocolError, RemotingError, RmqError, RouteNotFoundError, response_error
from ...model import (
    PROPERTY_POP_CK,
    RETRY_PREFIX,
    ConsumeFromWhere,
    ConsumeType,
    MessageExt,
    MessageModel,
    subscribe_queues,
)
from ...protocol.bodies.heartbeat import ConsumerData, SubscriptionData
from ...protocol.command import RemotingCommand, request, response
from ...protocol.headers.pop import (
    AckMessageRequestHeader,
    ChangeInvisibleTimeRequestHeader,
    ChangeInvisibleTimeResponseHeader,
    NotificationRequestHeader,
    NotificationResponseHeader,
    PopMessageRequestHeader,
    PopMessageResponseHeader,
)
from ...protocol.pop import (
    NORMAL,
    RETRY,
    RETRY_V2,
    PopHandle,
    parse_handle,
    parse_offset_info,
    parse_order_count_info,
    real_topic,
)
from ...protocol.record import decode_records
from ..core.arguments import seconds_of
from ..core.instance import MQClientInstance, check_group, client_config
from ..core.lifecycle import AsyncClient
from ..core.route import MIN_REFRESH_INTERVAL_S
from ..core.settings import ClientSettings, SimpleConsumerOptions, check_types
from .subscriptions import check_topic_name, make_subscription

logger = logging.getLogger(__name__)

MAX_MESSAGE_NUMS = 32
"""What brokers give with one POP."""
_ANSWER_TIMEOUT_S = 10.0
_ASK_FOR_S = 15.0
"""A question occupies a place at the broker for this long, even after ``receive`` returned."""
_PAUSE_S = 1.0
"""Pause after a failure or a full broker: at most one question per second and target."""
_NOTHING = frozenset({ResponseCode.PULL_NOT_FOUND, ResponseCode.POLLING_TIMEOUT, ResponseCode.POLLING_FULL})

Target = tuple[str, str]
"""(topic, broker name)"""


class AsyncSimpleConsumer(AsyncClient):
    """Receives messages that are hidden from the rest of the group until they are acknowledged or their time is over.

    No queue belongs to a member, so any number of members share even one queue, and a slow message holds nobody up.
    Order is not kept, unless ``fifo``. Needs POP: rmq-redis, or Apache RocketMQ 5. An async context manager, or call
    ``start`` and ``close``.

    Args:
        group: consumer group.
        namesrv_addr: NameServers, ``host:port;host:port``.
        config: all settings; ``namesrv_addr`` and ``settings`` come on top of it.
        consume_from_where: where the group begins in a queue that is new to it: first or last offset.
        fifo: in order: of a queue the group has no more than what one ``receive`` gave, until all of it is acknowledged
            or its time is over; then what is not acknowledged comes again from the same queue. All members of a group
            ask for the same.
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
        consume_from_where: ConsumeFromWhere | str = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        fifo: bool = False,
        **settings: Unpack[ClientSettings],
    ) -> None:
        check_types(SimpleConsumerOptions, locals())
        check_group(group, "consumer")
        self.group = group
        self.config = client_config(namesrv_addr, config, settings, type(self))
        where = choice(ConsumeFromWhere, "consume_from_where", consume_from_where)
        self._from_last = where == ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
        self.fifo = fifo
        self._unanswered: dict[Target, str] = {}
        self._instance = MQClientInstance(self.config)
        self._subscriptions: dict[str, SubscriptionData] = {}
        self._asking: dict[Target, asyncio.Task[bool]] = {}
        self._turn = 0
        self._routes_changed = asyncio.Event()  # a new one with each change, so that none is missed
        self._running = False

    async def start(self) -> None:
        """Makes the consumer ready. Raises ClientError when it was started before."""
        await self._instance.start()
        routes = self._instance.routes
        routes.wanted.append(lambda: self._subscriptions)
        routes.on_topic_change.append(self._topic_changed)
        self._instance.register_consumer(self.group, self)
        self._running = True

    def _topic_changed(self, _topic: str) -> None:
        changed, self._routes_changed = self._routes_changed, asyncio.Event()
        changed.set()

    async def close(self) -> None:
        """Leaves the group and closes the connections; what is not acknowledged comes to others when its time is over.

        A second call does nothing.
        """
        if self.is_inherited:
            return
        self._running = False
        for task in self._asking.values():
            task.cancel()
        self._asking.clear()
        await self._instance.close()

    # --- subscriptions -------------------------------------------------------------------------------------------

    def subscribe(self, topic: str, expression: str = "*", *, expression_type: str = "TAG") -> None:
        """Has ``receive`` look at a topic. A second call for a topic replaces the first.

        A ``receive`` that waits meanwhile goes on with the new expression as soon as the broker knows of it.

        Args:
            expression: ``*`` or tags, ``TagA || TagB``; with ``expression_type="SQL92"`` a condition on properties.

        Raises:
            ClientError: the topic name is illegal.
        """
        self.check_process()
        check_topic_name(topic)
        self._subscriptions[topic] = make_subscription(topic, expression, expression_type)
        if self._running:
            self._instance.heartbeat_soon()

    def unsubscribe(self, topic: str) -> None:
        """``receive`` does not look at the topic any more. What was received can still be acknowledged."""
        self.check_process()
        if self._subscriptions.pop(topic, None) is not None and self._running:
            self._instance.heartbeat_soon()

    @property
    def client_id(self) -> str:
        """The id under which brokers know this consumer; empty before ``start``."""
        return self._instance.client_id

    # --- receiving -----------------------------------------------------------------------------------------------

    async def receive(
        self,
        max_message_num: int = 16,
        invisible_duration_s: float | timedelta = 30.0,
        await_duration_s: float | timedelta = 20.0,
    ) -> list[MessageExt]:
        """Some messages of the subscribed topics; empty when none came within ``await_duration_s``.

        They are hidden from the group for ``invisible_duration_s``. A message that is not acknowledged by then is
        delivered again, with ``reconsume_times`` one higher, and after the group's ``retryMaxTimes`` goes to the
        dead-letter topic.

        Args:
            max_message_num: 1 to 32.
            invisible_duration_s: seconds, or a ``timedelta``, for which the messages are hidden.
            await_duration_s: seconds, or a ``timedelta``, to wait for the first message.

        Raises:
            ClientError: not started, nothing subscribed, an argument out of range, or closed meanwhile.
            RouteNotFoundError: no NameServer knew a broker for any of the topics in that time.
            RemotingError, ResponseError: no broker gave an answer that can be used.
        """
        self._check_running()
        if not isinstance(max_message_num, int) or not 1 <= max_message_num <= MAX_MESSAGE_NUMS:
            raise ClientError(f"max_message_num={max_message_num!r:.80} is not 1..{MAX_MESSAGE_NUMS}")
        invisible_ms = _milliseconds("invisible_duration_s", invisible_duration_s)
        if invisible_ms == 0:
            raise ClientError("invisible_duration_s must be above 0: the messages would come again at once")
        if not self._subscriptions:
            raise ClientError(f"consumer group {self.group!r} has no subscription: subscribe first")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds_of("await_duration_s", await_duration_s)
        while True:
            changed = self._routes_changed
            targets = await self._targets_until(deadline)
            # A POP that waits cannot be given up: not while a topic may appear.
            alone = len(targets) == 1 and all(topic in self._instance.routes.routes for topic in self._subscriptions)
            # Not longer: another broker group may have the topic by then.
            wait_s = min(max(deadline - loop.time(), 0.0), _ASK_FOR_S) if alone else 0.0
            messages = await self._receive_from(targets, max_message_num, invisible_ms, wait_s)
            if messages or loop.time() >= deadline:
                return messages
            if not alone:
                await self._wait_for_one(targets, changed, deadline - loop.time())

    async def _targets_until(self, deadline: float) -> list[Target]:
        """As ``_targets``. While there is none, it looks again every second and with each change of the routes."""
        loop = asyncio.get_running_loop()
        while True:
            changed = self._routes_changed
            try:
                return await self._targets()
            except (RouteNotFoundError, RemotingError):
                wait_s = min(deadline - loop.time(), MIN_REFRESH_INTERVAL_S)
                if wait_s <= 0:
                    raise
            for topic in self._subscriptions:
                self._instance.routes.refresh_soon(topic)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            self._check_running()

    async def _targets(self) -> list[Target]:
        """Where to look, beginning somewhere else each time."""
        routes = self._instance.routes
        found: list[Target] = []
        failure: RmqError | None = None
        for topic in self._subscriptions:
            try:
                queues = subscribe_queues(topic, await routes.get(topic))
            except RmqError as error:
                failure = error
                continue
            names = dict.fromkeys(queue.broker_name for queue in queues)
            found += [(topic, name) for name in names if routes.master_address(name) is not None]
        if not found:
            raise failure or RouteNotFoundError(f"no master of a broker group has {', '.join(self._subscriptions)} now")
        self._turn += 1
        first = self._turn % len(found)
        return found[first:] + found[:first]

    async def _receive_from(
        self, targets: Sequence[Target], max_nums: int, invisible_ms: int, wait_s: float
    ) -> list[MessageExt]:
        failure: RmqError | None = None
        answered = False
        for target in targets:
            try:
                messages = await self._pop(target, max_nums, invisible_ms, wait_s)
            except RmqError as error:
                logger.info("group %s: broker %s: %s", self.group, target[1], error)
                self._instance.routes.refresh_soon(target[0])
                failure = error
                continue
            answered = True
            if messages:
                return messages
        if failure is not None and not answered:
            self._check_running()  # closed meanwhile: that is why
            raise failure
        return []

    async def _pop(self, target: Target, max_nums: int, invisible_ms: int, wait_s: float) -> list[MessageExt]:
        topic, broker_name = target
        subscription = self._subscriptions.get(topic)
        if subscription is None:
            return []
        header = PopMessageRequestHeader(
            self.group,
            topic,
            -1,
            max_nums,
            invisible_ms,
            int(wait_s * 1000),
            int(time.time() * 1000),
            1 if self._from_last else 0,
            subscription.expression_type,
            subscription.sub_string,
            self.fifo,
        )
        if self.fifo:
            # What a request took whose answer is lost would hold its queue up: it is asked for again, by the same id.
            header.attempt_id = self._unanswered.pop(target, None) or os.urandom(8).hex()
        command = request(RequestCode.POP_MESSAGE, header)
        address = await self._address(topic, broker_name)
        try:
            answer = await self._instance.remoting.invoke(address, command, wait_s + _ANSWER_TIMEOUT_S)
        except RemotingError:
            if header.attempt_id is not None:
                self._unanswered[target] = header.attempt_id
            raise
        if answer.code in _NOTHING:
            return []
        if answer.code != ResponseCode.SUCCESS:
            raise response_error(answer.code, answer.remark, broker_name)
        messages = received(
            answer, topic, broker_name, functools.partial(self._instance.broker.decode, broker_name=broker_name)
        )
        if not subscription.tags_set:
            return messages
        # Brokers compare hashes of tags: what only looks alike is done with.
        wanted = [message for message in messages if message.tags in subscription.tags_set]
        if len(wanted) < len(messages):
            await self.ack([message for message in messages if message.tags not in subscription.tags_set])
        return wanted

    async def _wait_for_one(self, targets: Sequence[Target], changed: asyncio.Event, wait_s: float) -> None:
        """Until a broker has something, the routes change, or the time is over. Takes nothing anywhere."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        change = loop.create_task(changed.wait())
        try:
            await self._wait_for_news(targets, change, deadline)
        finally:
            change.cancel()

    async def _wait_for_news(
        self, targets: Sequence[Target], change: asyncio.Task[Literal[True]], deadline: float
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # What is asked already goes on: a question that is given up would stay with its broker all the same.
            for target in targets:
                if target not in self._asking:
                    self._asking[target] = loop.create_task(self._ask(target))
            asking = [change, *(self._asking[target] for target in targets)]
            await asyncio.wait(asking, timeout=max(deadline - loop.time(), 0.0), return_when=asyncio.FIRST_COMPLETED)
            self._check_running()
            found = change.done()
            for target in targets:
                if self._asking[target].done():
                    found |= self._asking.pop(target).result()
            if found or loop.time() >= deadline:
                return

    async def _ask(self, target: Target) -> bool:
        """Whether it is time to look again: the broker has something, or cannot say."""
        topic, broker_name = target
        now_ms = int(time.time() * 1000)
        header = NotificationRequestHeader(self.group, topic, -1, int(_ASK_FOR_S * 1000), now_ms, order=self.fifo)
        try:
            command = request(RequestCode.NOTIFICATION, header)
            address = await self._address(topic, broker_name)
            answer = await self._instance.remoting.call(address, command, _ASK_FOR_S + _ANSWER_TIMEOUT_S)
        except RmqError as error:
            logger.info("group %s: broker %s: %s", self.group, broker_name, error)
            self._instance.routes.refresh_soon(topic)
            await asyncio.sleep(_PAUSE_S)
            return True
        told = answer.header(NotificationResponseHeader)
        if told.polling_full:
            await asyncio.sleep(_PAUSE_S)
        return told.has_msg

    async def _address(self, topic: str, broker_name: str) -> str:
        """Address of a group's master; the route is asked for once more when it shows none."""
        self._check_running()
        routes = self._instance.routes
        address = routes.master_address(broker_name)
        if address is None:
            await routes.refresh(topic)
            address = routes.master_address(broker_name)
        if address is None:
            raise RouteNotFoundError(f"the routes show no master of broker {broker_name}")
        return address

    def _check_running(self) -> None:
        self.check_process()
        if not self._running:
            raise ClientError(f"consumer {self.group!r} is not started, or closed")

    # --- acknowledging -------------------------------------------------------------------------------------------

    async def ack(self, messages: MessageExt | Iterable[MessageExt]) -> None:
        """Acknowledges messages: they do not come again.

        Too late, when the invisible time is over, it changes nothing and is no error: the message comes again.
        In order, it is too late when the message was given out again.

        Raises:
            ClientError: a message that was not received by a simple consumer.
            RouteNotFoundError, RemotingError, ResponseError: one was not acknowledged; asking again does no harm.
        """
        if isinstance(messages, MessageExt):
            await self._ack(messages)
        else:
            await asyncio.gather(*(self._ack(message) for message in messages))

    async def _ack(self, message: MessageExt) -> None:
        handle = _handle_of(message)
        header = AckMessageRequestHeader(
            self.group,
            real_topic(self.group, message.topic, handle.mark),
            handle.queue_id,
            handle.text(),
            handle.queue_offset,
        )
        await self._call(message, handle, request(RequestCode.ACK_MESSAGE, header))

    async def change_invisible_duration(self, message: MessageExt, invisible_duration_s: float | timedelta) -> None:
        """Hides a message for ``invisible_duration_s`` seconds from now on; 0 gives it back at once.

        In order, that holds its queue for so long; what else was received from the queue holds it, too.

        The message keeps what is needed to acknowledge it afterwards.

        Raises:
            ClientError: not received by a simple consumer.
            ResponseError: its time was over, or it was acknowledged (NoMessageError of rmq-redis).
            RouteNotFoundError, RemotingError: no answer.
        """
        handle = _handle_of(message)
        header = ChangeInvisibleTimeRequestHeader(
            self.group,
            real_topic(self.group, message.topic, handle.mark),
            handle.queue_id,
            handle.text(),
            handle.queue_offset,
            _milliseconds("invisible_duration_s", invisible_duration_s),
        )
        answer = await self._call(message, handle, request(RequestCode.CHANGE_MESSAGE_INVISIBLETIME, header))
        times = answer.header(ChangeInvisibleTimeResponseHeader)
        message.properties[PROPERTY_POP_CK] = PopHandle(
            handle.start_offset,
            times.pop_time,
            times.invisible_time,
            times.revive_qid,
            handle.mark,
            handle.broker_name,
            handle.queue_id,
            handle.queue_offset,
        ).text()

    async def _call(self, message: MessageExt, handle: PopHandle, command: RemotingCommand) -> RemotingCommand:
        address = await self._address(message.topic, handle.broker_name)
        return await self._instance.remoting.call(address, command, self.config.request_timeout_s)

    # --- for the instance ----------------------------------------------------------------------------------------

    def consumer_data(self) -> ConsumerData:
        """This group's part of the heartbeat."""
        return ConsumerData(
            group_name=self.group,
            consume_type=ConsumeType.CONSUME_POP,
            message_model=MessageModel.CLUSTERING,
            subscription_data_set=list(self._subscriptions.values()),
        )

    def rebalance_now(self) -> None:
        """No queue belongs to a member."""

    async def handle_request(self, command: RemotingCommand) -> RemotingCommand | None:
        """A simple consumer has nothing to tell."""
        return response(
            command, ResponseCode.REQUEST_CODE_NOT_SUPPORTED, remark="a simple consumer does not answer this"
        )


def received(
    answer: RemotingCommand, topic: str, broker_name: str, decode: Callable[[bytes], list[MessageExt]] = decode_records
) -> list[MessageExt]:
    """The messages of a POP's answer under the topic that was asked for, each with its handle (POP_CK).

    Source: ``MQClientAPIImpl.processPopResponse``. Raises RemoteProtocolError.
    """
    header = answer.header(PopMessageResponseHeader)
    starts = parse_offset_info(header.start_offset_info)
    counts = parse_order_count_info(header.order_count_info)
    messages: list[MessageExt] = []
    for message in decode(answer.body):
        times = message.reconsume_times
        if PROPERTY_POP_CK not in message.properties:
            mark = _mark_of(message.topic)
            start = starts.get((mark, message.queue_id)) or [message.queue_offset]
            message.properties[PROPERTY_POP_CK] = PopHandle(
                start[0],
                header.pop_time,
                header.invisible_time,
                header.revive_qid,
                mark,
                broker_name,
                message.queue_id,
                message.queue_offset,
            ).text()
            if counts:
                of_queue = counts.get((mark, message.queue_id, None), 0)
                times = counts.get((mark, message.queue_id, message.queue_offset), of_queue) or times
        messages.append(message.rewritten(topic=topic, broker_name=broker_name, reconsume_times=times))
    return messages


def _mark_of(topic: str) -> str:
    if not topic.startswith(RETRY_PREFIX):
        return NORMAL
    return RETRY_V2 if "+" in topic else RETRY


def _handle_of(message: MessageExt) -> PopHandle:
    text = message.properties.get(PROPERTY_POP_CK)
    if text is None:
        raise ClientError(f"message {message.msg_id} was not received by a simple consumer: it has no POP_CK")
    try:
        return parse_handle(text)
    except RemoteProtocolError as error:
        raise ClientError(f"message {message.msg_id}: {error}") from None


def _milliseconds(name: str, duration: float | timedelta) -> int:
    seconds = seconds_of(name, duration)
    if not 0 <= seconds <= 3 * 24 * 3600:
        raise ClientError(f"{name}={seconds} is not 0 s to 3 days")
    return max(1, round(seconds * 1000)) if seconds else 0
