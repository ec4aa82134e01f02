"""AsyncPullConsumer: reads queues at the caller's own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Unpack

import msgspec

from ...codes import PullSysFlag, ResponseCode
from ...config import ClientConfig, choice
from ...errors import ClientError, RouteNotFoundError
from ...model import ConsumeFromWhere, ConsumeType, MessageExt, MessageModel, MessageQueue, PullResult, subscribe_queues
from ...protocol.bodies.heartbeat import ConsumerData, SubscriptionData
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.pull import PullMessageRequestHeader
from ..core.arguments import seconds_of
from ..core.broker_api import log_undecoded
from ..core.instance import MQClientInstance, check_group, client_config
from ..core.lifecycle import AsyncClient
from ..core.settings import ClientSettings, PullConsumerOptions, check_types
from .offsets import OffsetStore
from .subscriptions import make_subscription, matching

BLOCK_TIMEOUT_S = 20.0
"""How long a blocking pull waits at the broker for a message."""
_ANSWER_TIMEOUT_S = 10.0
"""What a broker may take beyond the time that a pull waits there."""


class AsyncPullConsumer(AsyncClient):
    """Reads queues where and when the caller wants. An async context manager, or call ``start`` and ``close``.

    Two ways: ``pull`` with offsets that the caller keeps, or ``assign`` some queues and then ``poll``, ``seek`` and
    ``commit``. Nothing is shared among the members of the group by itself, and nothing is committed by itself.

    Args:
        group: consumer group that offsets are committed for.
        namesrv_addr: NameServers, ``host:port;host:port``.
        config: all settings; ``namesrv_addr`` and ``settings`` come on top of it.
        consume_from_where: where ``poll`` begins in a queue without a committed offset.
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
        **settings: Unpack[ClientSettings],
    ) -> None:
        check_types(PullConsumerOptions, locals())
        check_group(group, "consumer")
        self.group = group
        self.config = client_config(namesrv_addr, config, settings, type(self))
        where = choice(ConsumeFromWhere, "consume_from_where", consume_from_where)
        self._instance = MQClientInstance(self.config)
        self._offsets = OffsetStore(self._instance, group, consume_from_where=where)
        self._subscriptions: dict[tuple[str, str], SubscriptionData] = {}
        self._read_from: dict[MessageQueue, int] = {}
        self._expressions: dict[MessageQueue, str] = {}
        self._positions: dict[MessageQueue, int] = {}
        self._polls: dict[MessageQueue, asyncio.Task[PullResult]] = {}
        self._running = False

    async def start(self) -> None:
        """Makes the consumer ready. Raises ClientError when it was started before."""
        await self._instance.start()
        self._instance.register_consumer(self.group, self)
        self._running = True

    async def close(self) -> None:
        """Leaves the group and closes the connections; commits nothing. A second call does nothing."""
        if self.is_inherited:
            return
        self._running = False
        self.assign([])
        await self._instance.close()

    # --- queues and pulls ----------------------------------------------------------------------------------------

    async def fetch_subscribe_message_queues(self, topic: str) -> list[MessageQueue]:
        """The queues of a topic that can be read, sorted.

        Raises:
            RouteNotFoundError: nobody knows the topic.
            RemotingError, ResponseError: no NameServer gave an answer.
        """
        self._check_running()
        return subscribe_queues(topic, await self._instance.routes.get(topic))

    async def pull(
        self,
        queue: MessageQueue,
        expression: str = "*",
        offset: int = 0,
        max_nums: int = 32,
        *,
        block_if_not_found: bool = False,
        timeout_s: float | timedelta = BLOCK_TIMEOUT_S,
    ) -> PullResult:
        """One pull from ``offset`` on. Go on at the result's ``next_begin_offset``, whatever its status.

        Args:
            expression: ``*`` or tags, ``TagA || TagB``.
            max_nums: messages at most; a broker may give fewer.
            block_if_not_found: at the end of the queue, wait for a message.
            timeout_s: seconds, or a ``timedelta``, to wait for one.

        Raises:
            RouteNotFoundError: no broker for the queue.
            RemotingError: no answer. ResponseError: the broker refuses.
        """
        wait_s = seconds_of("timeout_s", timeout_s) if block_if_not_found else 0.0
        address, _ = await self._find(queue, self._read_from.get(queue, 0))
        subscription = self._subscription(queue.topic, expression)
        header = self._pull_header(queue, subscription, offset, max_nums, wait_s)
        try:
            result = await self._instance.broker.pull(address, header, queue.broker_name, _ANSWER_TIMEOUT_S + wait_s)
        except Exception:
            self._instance.routes.refresh_soon(queue.topic)
            raise
        self._read_from[queue] = result.suggest_which_broker_id
        log_undecoded(result.messages)
        if subscription.tags_set:
            result = msgspec.structs.replace(result, messages=matching(result.messages, subscription.tags_set))
        return result

    def _pull_header(
        self, queue: MessageQueue, subscription: SubscriptionData, offset: int, max_nums: int, wait_s: float
    ) -> PullMessageRequestHeader:
        flags = PullSysFlag.SUBSCRIPTION | (PullSysFlag.SUSPEND if wait_s else PullSysFlag(0))
        return PullMessageRequestHeader(
            self.group,
            queue.topic,
            queue.queue_id,
            offset,
            max_nums,
            int(flags),
            0,
            int(wait_s * 1000),
            subscription.sub_version,
            subscription.sub_string,
            subscription.expression_type,
        )

    def _subscription(self, topic: str, expression: str) -> SubscriptionData:
        subscription = self._subscriptions.get((topic, expression))
        if subscription is None:
            subscription = self._subscriptions[topic, expression] = make_subscription(topic, expression)
        return subscription

    async def _find(self, queue: MessageQueue, broker_id: int) -> tuple[str, bool]:
        self._check_running()
        routes = self._instance.routes
        await routes.get(queue.topic)
        found = routes.find_broker_address_in_subscribe(queue.broker_name, broker_id)
        if found is None:
            await routes.refresh(queue.topic)
            found = routes.find_broker_address_in_subscribe(queue.broker_name, broker_id)
        if found is None:
            raise RouteNotFoundError(f"the routes show no address of broker {queue.broker_name}")
        return found

    def _check_running(self) -> None:
        self.check_process()
        if not self._running:
            raise ClientError(f"consumer {self.group!r} is not started, or closed")

    # --- offsets -------------------------------------------------------------------------------------------------
    # All of these raise RouteNotFoundError, RemotingError or ResponseError, as pull does.

    async def committed(self, queue: MessageQueue) -> int | None:
        """The group's offset: the next to consume; None when nothing was committed."""
        await self._find(queue, 0)
        return await self._offsets.committed(queue)

    async def update_consume_offset(self, queue: MessageQueue, offset: int) -> None:
        """Commits ``offset``, the next to consume, and waits until the broker has it."""
        await self._find(queue, 0)
        await self._offsets.set(queue, offset)

    async def min_offset(self, queue: MessageQueue) -> int:
        """The offset of the oldest message that is there."""
        address, _ = await self._find(queue, 0)
        return await self._instance.broker.min_offset(address, queue)

    async def max_offset(self, queue: MessageQueue) -> int:
        """The offset that the next message will get."""
        address, _ = await self._find(queue, 0)
        return await self._instance.broker.max_offset(address, queue)

    async def search_offset(self, queue: MessageQueue, timestamp_ms: int) -> int:
        """The offset of the first message stored at or after ``timestamp_ms`` (ms since 1970)."""
        address, _ = await self._find(queue, 0)
        return await self._instance.broker.search_offset(address, queue, timestamp_ms)

    # --- assign and poll -----------------------------------------------------------------------------------------

    def assign(self, queues: Iterable[MessageQueue], expression: str = "*") -> None:
        """Has ``poll`` read these queues, and no others any more. Queues that stay keep their position."""
        self.check_process()
        wanted = dict.fromkeys(queues, expression)
        for queue in list(self._expressions):
            if wanted.get(queue) != self._expressions[queue]:
                self._cancel_poll(queue)
                if queue not in wanted:
                    self._positions.pop(queue, None)
        self._expressions = wanted

    @property
    def assignment(self) -> list[MessageQueue]:
        """The queues that ``poll`` reads, sorted."""
        return sorted(self._expressions)

    def seek(self, queue: MessageQueue, offset: int) -> None:
        """Has ``poll`` go on at ``offset``. Raises ClientError when the queue is not assigned."""
        self.check_process()
        if queue not in self._expressions:
            raise ClientError(f"{queue} is not assigned")
        self._cancel_poll(queue)
        self._positions[queue] = offset

    def position(self, queue: MessageQueue) -> int | None:
        """The offset of the next message that ``poll`` will give; None before the first poll of the queue."""
        return self._positions.get(queue)

    async def poll(self, timeout_s: float | timedelta = 1.0, max_nums: int = 32) -> list[MessageExt]:
        """Messages of the assigned queues, in order within each; empty when none came within ``timeout_s``.

        Raises:
            ClientError: no queue is assigned, or the consumer is closed meanwhile.
            RmqError: as ``pull``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds_of("timeout_s", timeout_s)
        while True:
            self._check_running()
            if not self._expressions:
                raise ClientError("no queue is assigned: call assign first")
            for queue in self._expressions:
                if queue not in self._polls:
                    self._polls[queue] = loop.create_task(self._poll_one(queue, max_nums))
            await asyncio.wait(
                self._polls.values(),
                timeout=max(deadline - loop.time(), 0.0),
                return_when=asyncio.FIRST_COMPLETED,
            )
            messages: list[MessageExt] = []
            for queue, task in list(self._polls.items()):
                if task.done():
                    if messages and task.exception() is not None:
                        continue  # raised by the next call
                    del self._polls[queue]
                    result = task.result()
                    self._positions[queue] = result.next_begin_offset
                    messages += result.messages
            if messages or loop.time() >= deadline:
                return messages

    async def _poll_one(self, queue: MessageQueue, max_nums: int) -> PullResult:
        offset = self._positions.get(queue)
        if offset is None:
            await self._find(queue, 0)
            offset, _ = await self._offsets.start_offset(queue)
            self._positions[queue] = offset
        return await self.pull(queue, self._expressions.get(queue, "*"), offset, max_nums, block_if_not_found=True)

    def _cancel_poll(self, queue: MessageQueue) -> None:
        task = self._polls.pop(queue, None)
        if task is not None:
            task.cancel()

    async def __aiter__(self) -> AsyncIterator[MessageExt]:
        """Messages of the assigned queues until ``close``."""
        while self._running:
            try:
                messages = await self.poll(timeout_s=5.0)
            except ClientError:
                if self._running:
                    raise
                return
            for message in messages:
                yield message

    @property
    def is_running(self) -> bool:
        """Whether it is started and not closed."""
        return self._running

    async def commit(self) -> None:
        """Commits the position of every assigned queue: all that ``poll`` returned counts as consumed."""
        for queue, offset in list(self._positions.items()):
            await self.update_consume_offset(queue, offset)

    # --- for the instance ----------------------------------------------------------------------------------------

    def consumer_data(self) -> ConsumerData:
        """This group's part of the heartbeat."""
        return ConsumerData(
            group_name=self.group,
            consume_type=ConsumeType.CONSUME_ACTIVELY,
            message_model=MessageModel.CLUSTERING,
            subscription_data_set=list({data.topic: data for data in self._subscriptions.values()}.values()),
        )

    def rebalance_now(self) -> None:
        """Nothing is shared by itself."""

    async def handle_request(self, command: RemotingCommand) -> RemotingCommand | None:
        """A consumer that pulls has nothing to tell."""
        return response(command, ResponseCode.REQUEST_CODE_NOT_SUPPORTED, remark="a pull consumer does not answer this")
