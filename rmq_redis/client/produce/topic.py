"""The queues that a producer's messages go to: of each topic, those of now. They are waited for while brokers restart.

A send must cost a few microseconds, so what the frames of one queue have in common is made once, as a template.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import msgspec

from ...codes import CURRENT_VERSION, Perm, RequestCode
from ...errors import RemotingError, RequestTimeoutError, RmqError, RouteNotFoundError
from ...model import DEFAULT_QUEUE_NUMS, DEFAULT_TOPIC, RETRY_PREFIX, MessageQueue, reply_topic
from ..core.route import RouteTable, publish_queues

RETRY_PAUSE_S = 0.05
"""Before another attempt at the same broker; longer with each further one."""
MOST_PAUSE_S = 0.5

_encode_json = msgspec.json.Encoder().encode


class QueueAwayError(RouteNotFoundError):
    """The queue that a message must go to cannot be written now. ``queue``: which."""

    def __init__(self, queue: MessageQueue) -> None:
        super().__init__(f"{queue} is not a queue that messages can go to now: its broker has no master, or lost it")
        self.queue = queue

    def __reduce__(self) -> tuple[type[QueueAwayError], tuple[MessageQueue]]:
        return type(self), (self.queue,)


class QueueTarget:
    """Where messages for one queue go, and the constant parts of their frames.

    ``head % (sys_flag, born_timestamp_ms, flag, properties_json, opaque)`` is the header of a request.

    Attributes:
        alone_until: time of the event loop's clock until which every message goes in a request of its own.
    """

    __slots__ = ("address", "alone_until", "batch_head", "head", "oneway_head", "queue")

    def __init__(
        self, group: str, queue: MessageQueue, address: str, code: RequestCode = RequestCode.SEND_MESSAGE_V2
    ) -> None:
        self.queue = queue
        self.address = address
        takes_batches = code == RequestCode.SEND_MESSAGE_V2 and not queue.topic.startswith(RETRY_PREFIX)
        self.alone_until = 0.0 if takes_batches else float("inf")
        self.head = _head_template(group, queue, code, batch=False, oneway=False)
        self.oneway_head = _head_template(group, queue, code, batch=False, oneway=True)
        self.batch_head = _head_template(group, queue, RequestCode.SEND_BATCH_MESSAGE, batch=True, oneway=False)


def _head_template(group: str, queue: MessageQueue, code: RequestCode, *, batch: bool, oneway: bool) -> bytes:
    def text(value: str) -> bytes:
        return _encode_json(value).replace(b"%", b"%%")

    return b"".join(
        (
            b'{"code":%d,"extFields":{"a":%b,"b":%b' % (code, text(group), text(queue.topic)),
            b',"c":%b,"d":"%d"' % (text(DEFAULT_TOPIC), DEFAULT_QUEUE_NUMS),
            b',"e":"%d","f":"%%d","g":"%%d","h":"%%d","i":%%b,"j":"0","k":"false"' % queue.queue_id,
            b',"m":"%b","n":%b}' % (b"true" if batch else b"false", text(queue.broker_name)),
            b',"flag":%d,"language":"PYTHON","opaque":%%d' % (2 if oneway else 0),
            b',"serializeTypeCurrentRPC":"JSON","version":%d}' % CURRENT_VERSION,
        )
    )


class PublishTopic:
    """The queues that a topic's messages may go to now.

    Attributes:
        queues: those that can be written now.
        active: of these, those of brokers that are not passed over.
        ordered: those that sharding keys are spread over. In strict order it has queues that cannot be written now.
        is_strict: whether a key keeps its queue while that cannot be written.
    """

    __slots__ = ("active", "is_strict", "ordered", "queues", "targets")

    def __init__(
        self,
        group: str,
        queues: list[MessageQueue],
        addresses: dict[str, str],
        code: RequestCode,
        ordered: list[MessageQueue] | None,
    ) -> None:
        self.queues = queues
        self.is_strict = ordered is not None
        self.ordered = queues if ordered is None else ordered
        self.active = queues
        self.targets = {queue: QueueTarget(group, queue, addresses[queue.broker_name], code) for queue in queues}

    def avoid(self, broker_names: Collection[str]) -> None:
        self.active = [queue for queue in self.queues if queue.broker_name not in broker_names] or self.queues


def make_topic(
    group: str, name: str, routes: RouteTable, ordered: list[MessageQueue] | None = None
) -> PublishTopic | None:
    """The queues of a topic by the routes known now; None when there is none that can be written.

    Args:
        ordered: in strict order, all queues that keys are spread over.
    """
    route = routes.routes.get(name) or routes.default_routes.get(name)
    if route is None:
        return None
    addresses: dict[str, str] = {}
    queues: list[MessageQueue] = []
    for queue in publish_queues(name, route):
        address = routes.master_address(queue.broker_name)
        if address is not None:
            addresses[queue.broker_name] = address
            queues.append(queue)
    if not queues:
        return None
    # All that goes to a cluster's reply topic is a reply. Java looks at every message's MSG_TYPE instead.
    is_reply = any(name == reply_topic(broker.cluster) for broker in route.broker_datas)
    code = RequestCode.SEND_REPLY_MESSAGE_V2 if is_reply else RequestCode.SEND_MESSAGE_V2
    return PublishTopic(group, queues, addresses, code, ordered)


class _Pauses:
    """Pauses between looks at something that will appear: each is twice as long as the one before."""

    def __init__(self) -> None:
        self.next_s = RETRY_PAUSE_S

    async def pause(self) -> None:
        await asyncio.sleep(self.next_s)
        self.next_s = min(2 * self.next_s, MOST_PAUSE_S)


class PublishTopics:
    """The topics that a producer has sent to.

    Attributes:
        topics: by name, those with a queue that can be written now. The fast path of a send looks here first.
    """

    def __init__(self, group: str, *, strict_order: bool = False) -> None:
        """
        Args:
            strict_order: every topic is in strict order, not only those with an order configuration.
        """
        self._group = group
        self._strict_order = strict_order
        self._queue_nums: dict[str, dict[str, int]] = {}
        self._routes: RouteTable
        self._avoided: dict[str, asyncio.TimerHandle] = {}
        self.topics: dict[str, PublishTopic] = {}

    def start(self, routes: RouteTable) -> None:
        """Takes the routes of an instance that has started, and notices when they change."""
        self._routes = routes
        routes.on_topic_change.append(self._topic_changed)
        routes.on_broker_change.append(self._brokers_changed)

    def close(self) -> None:
        """Ends what runs in the background."""
        for timer in self._avoided.values():
            timer.cancel()
        self._avoided.clear()

    # --- looking up ------------------------------------------------------------------------------------------------

    async def find(self, name: str, timeout_s: float) -> PublishTopic:
        """A topic's queues. While its brokers are away, or no NameServer answers, it waits.

        Raises:
            RouteNotFoundError: at once, if brokers are there and nobody knows the topic; else after ``timeout_s``.
            RemotingError: no NameServer answered in time.
        """
        failure: RmqError | None = None
        try:
            async with asyncio.timeout(timeout_s):
                pauses = _Pauses()
                while True:
                    try:
                        return await self._look_up(name)
                    except (RouteNotFoundError, RemotingError) as error:
                        if not await self._may_appear(name, error):
                            raise
                        failure = error
                    self._routes.refresh_soon(name)
                    await pauses.pause()
        except TimeoutError:
            if failure is not None:
                raise failure from None
            raise RequestTimeoutError(f"no NameServer gave the route of topic {name!r} in {timeout_s:g} s") from None

    async def _look_up(self, name: str) -> PublishTopic:
        if self._strict_order:  # a topic that the first send creates has other queues than its key was spread over
            await self._routes.get(name)
        else:
            await self._routes.get_for_publish(name)
        topic = self._make(name)
        if topic is None:
            raise RouteNotFoundError(
                f"topic {name!r} has no queue that can be written now: no broker of its route is a master and allows it"
            )
        self.topics[name] = topic
        return topic

    async def _may_appear(self, name: str, error: RmqError) -> bool:
        """Whether a topic without a route is worth waiting for: it had one, or there is no broker at all."""
        routes = self._routes
        if isinstance(error, RemotingError) or name in routes.routes or name in routes.default_routes:
            return True
        return not await routes.name_servers.know_brokers()

    async def wait_for(self, queue: MessageQueue, timeout_s: float) -> QueueTarget:
        """A queue that a message must go to. While its broker group is away, it waits.

        Raises:
            RouteNotFoundError: at once, if the group is there without that queue, or was never there; else after
                ``timeout_s``.
            RemotingError: no NameServer answered in time.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        pauses = _Pauses()
        while True:
            topic = self.topics.get(queue.topic)
            if topic is None:
                remaining_s = deadline - asyncio.get_running_loop().time()
                topic = await self.find(queue.topic, max(remaining_s, 0.001))
            target = topic.targets.get(queue)
            if target is not None:
                return target
            is_away = self._routes.master_address(queue.broker_name) is None
            known = queue.broker_name in self._routes.seen_brokers or (topic.is_strict and queue in topic.ordered)
            if not (is_away and known) or asyncio.get_running_loop().time() + pauses.next_s > deadline:
                raise QueueAwayError(queue)
            self._routes.refresh_soon(queue.topic)
            await pauses.pause()

    # --- changes ---------------------------------------------------------------------------------------------------

    def _make(self, name: str) -> PublishTopic | None:
        topic = make_topic(self._group, name, self._routes, self._ordered(name))
        if topic is not None:
            topic.avoid(self._avoided)
        return topic

    def _ordered(self, name: str) -> list[MessageQueue] | None:
        """All queues that the keys of a topic in strict order are spread over; None for other topics.

        By its order configuration, else by all routes so far: a group that is gone from the route keeps its queues,
        one that may not be written (it is drained) gives its keys to others.
        """
        route = self._routes.routes.get(name)
        if route is None:
            return None
        if route.order_topic_conf:
            return publish_queues(name, route) or None
        if not self._strict_order:
            return None
        known = self._queue_nums.setdefault(name, {})
        for data in route.queue_datas:
            known[data.broker_name] = data.write_queue_nums if data.perm & Perm.WRITE else 0
        return sorted(
            MessageQueue(name, broker, queue_id) for broker, nums in known.items() for queue_id in range(nums)
        )

    def _topic_changed(self, name: str) -> None:
        if name in self.topics:
            topic = self._make(name)
            if topic is None:
                del self.topics[name]
            else:
                self.topics[name] = topic

    def _brokers_changed(self) -> None:
        for name in list(self.topics):
            self._topic_changed(name)

    def avoid(self, broker_name: str, seconds: float) -> None:
        """Passes a broker group over for a while, as far as there are others."""
        if broker_name not in self._avoided:
            loop = asyncio.get_running_loop()
            self._avoided[broker_name] = loop.call_later(seconds, self._use_again, broker_name)
            for topic in self.topics.values():
                topic.avoid(self._avoided)

    def _use_again(self, broker_name: str) -> None:
        self._avoided.pop(broker_name, None)
        for topic in self.topics.values():
            topic.avoid(self._avoided)
