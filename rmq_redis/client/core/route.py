"""Routes: which broker has the queues of a topic. Asked of a NameServer, kept, refreshed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from ...codes import Perm, RequestCode, ResponseCode
from ...errors import (
    RemotingError,
    RequestTimeoutError,
    ResponseError,
    RmqError,
    RouteNotFoundError,
    TopicNotExistError,
    response_error,
)
from ...model import DEFAULT_QUEUE_NUMS, DEFAULT_TOPIC, MASTER_ID, BrokerData, MessageQueue, QueueData, TopicRouteData
from ...protocol.bodies.route import decode_cluster_info, decode_route
from ...protocol.command import RemotingCommand, request
from ...protocol.headers.route import GetRouteInfoRequestHeader
from ...remoting.client import RemotingClient
from ...remoting.hedge import MOST_PATIENCE_S, call_one_of

logger = logging.getLogger(__name__)

MIN_REFRESH_INTERVAL_S = 1.0
"""A topic's route is asked for at most this often because of failures."""


class NameServers:
    """Calls to a list of NameServers: the one that answered last first, those that were silent last."""

    def __init__(
        self, remoting: RemotingClient, addresses: Sequence[str], timeout_s: float, *, zone: str | None = None
    ) -> None:
        """
        Args:
            zone: asks for routes that show the broker groups of this zone only.
        """
        self._zone = zone
        self.addresses = list(addresses)
        random.shuffle(self.addresses)
        self._remoting = remoting
        self._timeout_s = timeout_s

    async def call(self, command: RemotingCommand) -> RemotingCommand:
        """The first response to a request that only reads. A NameServer that hangs costs a fraction of the time.

        Raises:
            RemotingError: none answered; the text says of each why.
            ResponseError: the answer's code is not SUCCESS.
        """
        address, answer, late = await call_one_of(self._remoting, self.addresses, command, self._timeout_s)
        if late:
            logger.info("NameServer %s is asked from now on: %s", address, "; ".join(late.values()))
            self.addresses.sort(key=late.__contains__)
        if answer.code != ResponseCode.SUCCESS:
            raise response_error(answer.code, answer.remark, address)
        return answer

    async def call_all(self, make_command: Callable[[], RemotingCommand]) -> RemotingCommand:
        """Calls every NameServer, for what each keeps for itself; a response.

        Those that cannot be reached, or are silent for a moment longer than the others, are logged: they must not
        keep an operator from working with those that live.

        Raises:
            RemotingError: none could be reached.
            ResponseError: one of them refused; the others were called all the same.
        """
        calls = {
            asyncio.ensure_future(self._remoting.call(address, make_command(), self._timeout_s)): address
            for address in self.addresses
        }
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(calls, timeout=self._timeout_s if _none_answered(calls) else MOST_PATIENCE_S)
        answer: RemotingCommand | None = None
        failure: RmqError | None = None
        for task, address in calls.items():
            if not task.done():
                task.cancel()
                logger.warning("NameServer %s did not answer a change: it may not have it", address)
            elif isinstance(error := task.exception(), ResponseError):
                raise error
            elif isinstance(error, RmqError):
                failure = error
                logger.warning("NameServer %s did not get a change: %s", address, error)
            else:
                answer = task.result()
        if answer is None:
            raise failure or RequestTimeoutError(f"no NameServer answers ({', '.join(self.addresses)})")
        return answer

    async def know_brokers(self) -> bool:
        """Whether a broker is registered at all. Raises as ``call``."""
        answer = await self.call(request(RequestCode.GET_BROKER_CLUSTER_INFO))
        return bool(decode_cluster_info(answer.body).brokers)

    async def route(self, topic: str) -> TopicRouteData | None:
        """A topic's route, None when the NameServer does not know the topic. Raises as ``call``."""
        header = GetRouteInfoRequestHeader(topic=topic, accept_standard_json_only=True)
        if self._zone:
            header.zone_name, header.zone_mode = self._zone, "true"
        try:
            answer = await self.call(request(RequestCode.GET_ROUTEINFO_BY_TOPIC, header))
        except TopicNotExistError:
            return None
        return decode_route(answer.body)


def _none_answered(calls: Iterable[asyncio.Future[RemotingCommand]]) -> bool:
    return not any(call.done() and not call.cancelled() and call.exception() is None for call in calls)


def publish_queues(topic: str, route: TopicRouteData) -> list[MessageQueue]:
    """The queues that can be written: broker groups with a master and write permission; sorted.

    With an order configuration (``broker-a:4;broker-b:4``) exactly the queues that it names.
    Source: MQClientInstance.topicRouteData2TopicPublishInfo.
    """
    if route.order_topic_conf:
        queues = []
        for item in route.order_topic_conf.split(";"):
            name, _, count = item.strip().partition(":")
            if name and count.isdecimal():
                queues += [MessageQueue(topic, name, queue_id) for queue_id in range(int(count))]
        return sorted(queues)
    masters = {broker.broker_name for broker in route.broker_datas if MASTER_ID in broker.broker_addrs}
    return sorted(
        MessageQueue(topic, data.broker_name, queue_id)
        for data in route.queue_datas
        if data.perm & Perm.WRITE and data.broker_name in masters
        for queue_id in range(data.write_queue_nums)
    )


def _from_default_topic(route: TopicRouteData) -> TopicRouteData:
    """The route that a topic will probably have once a broker creates it from the default topic."""
    return TopicRouteData(
        route.broker_datas,
        [
            msgspec.structs.replace(
                data,
                read_queue_nums=min(DEFAULT_QUEUE_NUMS, data.read_queue_nums),
                write_queue_nums=min(DEFAULT_QUEUE_NUMS, data.read_queue_nums),
            )
            for data in route.queue_datas
        ],
    )


def _sorted_route(route: TopicRouteData) -> TopicRouteData:
    def broker_key(broker: BrokerData) -> str:
        return broker.broker_name

    def queue_key(queue: QueueData) -> str:
        return queue.broker_name

    return TopicRouteData(
        sorted(route.broker_datas, key=broker_key), sorted(route.queue_datas, key=queue_key), route.order_topic_conf
    )


class RouteTable:
    """The routes of the topics in use, and with them the addresses of the brokers.

    ``on_topic_change`` functions are called with the topic when its route is new or another, ``on_broker_change``
    functions when a broker address appeared or went.
    """

    def __init__(self, name_servers: NameServers) -> None:
        self.name_servers = name_servers
        self.routes: dict[str, TopicRouteData] = {}
        self.default_routes: dict[str, TopicRouteData] = {}
        """Topics that no NameServer knows yet: guessed from the default topic's route."""
        self.brokers: dict[str, dict[int, str]] = {}
        """Broker name -> brokerId -> address, of all routes."""
        self.seen_brokers: set[str] = set()
        """Names of all broker groups that any route has ever shown."""
        self.zones: dict[str, str] = {}
        """Broker name -> zone, of the broker groups that have registered one."""
        self.on_topic_change: list[Callable[[str], None]] = []
        self.on_broker_change: list[Callable[[], None]] = []
        self.wanted: list[Callable[[], Collection[str]]] = []
        """Each returns the topics that somebody consumes: one without a route is looked up every second."""
        self._missing: set[str] = set()
        self._asking: dict[str, asyncio.Task[TopicRouteData | None]] = {}
        self._asked_at: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    # --- asking --------------------------------------------------------------------------------------------------

    async def get(self, topic: str) -> TopicRouteData:
        """The route known, or else the NameServer's.

        Raises:
            RouteNotFoundError: the NameServer does not know the topic.
            RemotingError, ResponseError: no NameServer gave an answer.
        """
        route = self.routes.get(topic) or await self.refresh(topic)
        if route is None:
            raise RouteNotFoundError(f"no NameServer knows a route of topic {topic!r}: create it or send to it first")
        return route

    async def get_for_publish(self, topic: str) -> TopicRouteData:
        """As ``get``, but a topic that nobody knows gets the route of the default topic TBW102: the broker that the
        first message goes to creates it. Source: MQClientInstance.updateTopicRouteInfoFromNameServer.
        """
        route = self.routes.get(topic) or self.default_routes.get(topic) or await self.refresh(topic)
        if route is not None:
            return route
        default = await self.name_servers.route(DEFAULT_TOPIC)
        if default is None:
            raise RouteNotFoundError(
                f"no NameServer knows a route of topic {topic!r}, and no broker creates topics by itself "
                f"(there is no route of {DEFAULT_TOPIC}): create the topic first"
            )
        route = _from_default_topic(_sorted_route(default))
        if topic not in self.routes:
            self.default_routes[topic] = route
            self._changed(topic)
        return route

    async def refresh(self, topic: str) -> TopicRouteData | None:
        """Asks the NameServer now. A topic that it does not know keeps its old route; None when there is none.

        Raises:
            RemotingError, ResponseError: no NameServer gave an answer.
        """
        task = self._asking.get(topic)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(topic))
            self._asking[topic] = task
            task.add_done_callback(lambda done: self._asked(topic, done))
        return await asyncio.shield(task)

    def _asked(self, topic: str, task: asyncio.Task[TopicRouteData | None]) -> None:
        self._asking.pop(topic, None)
        if not task.cancelled():
            task.exception()  # seen by those who wait; nobody may
        self._keep_looking(topic)

    def _keep_looking(self, topic: str) -> None:
        if topic in self.routes or not any(topic in topics() for topics in self.wanted):
            self._missing.discard(topic)
            return
        if topic not in self._missing and not self._closed:
            self._missing.add(topic)
            logger.info("topic %s: no NameServer knows it; looked up every %g s", topic, MIN_REFRESH_INTERVAL_S)
        self.refresh_soon(topic)

    async def _ask(self, topic: str) -> TopicRouteData | None:
        self._asked_at[topic] = asyncio.get_running_loop().time()
        route = await self.name_servers.route(topic)
        if route is None:
            return self.routes.get(topic)
        route = _sorted_route(route)
        if self.routes.get(topic) != route:
            logger.debug("topic %s: route is %s", topic, route)
            self.routes[topic] = route
            self.default_routes.pop(topic, None)
            self._changed(topic)
        return route

    def _changed(self, topic: str) -> None:
        newest = self.routes.get(topic) or self.default_routes[topic]
        addresses = dict(self.brokers)
        for broker in newest.broker_datas:
            addresses[broker.broker_name] = broker.broker_addrs
            self.seen_brokers.add(broker.broker_name)
            self.zones[broker.broker_name] = broker.zone_name
        named = {
            broker.broker_name
            for route in (*self.routes.values(), *self.default_routes.values())
            for broker in route.broker_datas
        }
        addresses = {name: by_id for name, by_id in addresses.items() if name in named}
        brokers_changed = addresses != self.brokers
        self.brokers = addresses
        for callback in list(self.on_topic_change):
            callback(topic)
        if brokers_changed:
            for notify in list(self.on_broker_change):
                notify()

    def refresh_soon(self, topic: str) -> None:
        """Asks in the background, because something failed; at most once in ``MIN_REFRESH_INTERVAL_S``."""
        if self._closed or topic in self._timers or topic in self._asking:
            return
        loop = asyncio.get_running_loop()
        due = self._asked_at.get(topic, 0.0) + MIN_REFRESH_INTERVAL_S
        self._timers[topic] = loop.call_at(max(due, loop.time()), self._refresh_now, topic)

    def _refresh_now(self, topic: str) -> None:
        self._timers.pop(topic, None)
        if self._closed or topic in self._asking:
            return
        task = asyncio.get_running_loop().create_task(self._ask(topic))
        self._asking[topic] = task
        task.add_done_callback(lambda done: self._asked(topic, done))

    async def refresh_all(self) -> None:
        """Asks for every topic in use; a failure is logged and the old route stays."""
        for topic in {*self.routes, *self.default_routes}:
            try:
                await self.refresh(topic)
            except (RemotingError, ResponseError) as error:
                logger.warning("route of topic %s cannot be refreshed, the old one stays: %s", topic, error)
                if isinstance(error, RemotingError):
                    return  # the other topics would wait for the same NameServers
            except RmqError as error:
                logger.warning("route of topic %s cannot be refreshed, the old one stays: %s", topic, error)

    def close(self) -> None:
        """Ends what runs in the background."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        for task in list(self._asking.values()):
            task.cancel()

    def abandon(self) -> None:
        """Forgets routes and tasks as they are: in a forked child they belong to the parent's event loop."""
        self._closed = True
        for table in (self.routes, self.default_routes, self._asking, self._timers):
            table.clear()

    # --- addresses -----------------------------------------------------------------------------------------------

    def master_address(self, broker_name: str) -> str | None:
        """Address of a group's master, None when the routes show none."""
        return self.brokers.get(broker_name, {}).get(MASTER_ID)

    def find_broker_address_in_subscribe(self, broker_name: str, broker_id: int) -> tuple[str, bool] | None:
        """(address, whether it is a slave) for reading from the broker ``broker_id`` of a group.

        A slave that is missing is replaced by the next id, then by any broker of the group; None when the routes show
        none. Source: MQClientInstance.findBrokerAddressInSubscribe.
        """
        addresses = self.brokers.get(broker_name)
        if not addresses:
            return None
        address = addresses.get(broker_id)
        if address is not None:
            return address, broker_id != MASTER_ID
        if broker_id != MASTER_ID and (broker_id + 1) in addresses:
            return addresses[broker_id + 1], True
        any_id = min(addresses)
        return addresses[any_id], any_id != MASTER_ID

    def any_address(self, broker_name: str) -> str | None:
        """The master's address, or of another broker of the group when the routes show no master."""
        found = self.find_broker_address_in_subscribe(broker_name, MASTER_ID)
        return found[0] if found else None

    def addresses(self, *, masters_only: bool) -> list[str]:
        """Every broker address of the routes in use, once."""
        return sorted(
            {
                address
                for by_id in self.brokers.values()
                for broker_id, address in by_id.items()
                if broker_id == MASTER_ID or not masters_only
            }
        )
