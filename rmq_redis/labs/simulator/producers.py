"""Sends on a virtual clock: producers with a load balancer each, groups that take one message after the other."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from itertools import accumulate, count
from typing import Any

import pluggy

from ...codes import ResponseCode
from ...errors import ConfigError, RemotingConnectError, RequestTimeoutError, RmqError, response_error
from ...model import Message, MessageQueue
from ...plugins.defaults.queues import HashOfKey, RoundRobin
from ...plugins.hookspecs import ClientContext, QueueSelector
from ...plugins.manager import offers, pick
from .cluster import Cluster, Event, Group, Producers
from .figures import BUCKETS, BrokerFigures, ProducerFigures
from .problems import Problems
from .virtual import VirtualClock, run_from

# What a producer does after a failure. The values are those of client.produce, whose import would bring asyncio.
AVOID_BROKER_S = 5.0
"""Source: ``client.produce.delivery``."""
AVOID_BUSY_BROKER_S = 1.0
"""Source: ``client.produce.delivery``."""
RETRY_PAUSE_S = 0.05
"""Source: ``client.produce.topic``."""
LEAST_ATTEMPT_S = 0.005
"""Source: ``client.produce.delivery``."""

_EVENT, _ARRIVAL, _ANSWER, _AGAIN = range(4)
_NO_CONNECTION = RemotingConnectError("the simulated group refuses connections")
_BUSY = response_error(ResponseCode.SYSTEM_BUSY, "the simulated group has too much to do", "")
_NO_ANSWER = RequestTimeoutError("the simulated group did not answer in time")


def simulate_sends(
    cluster: Cluster, load_balancer: str, manager: pluggy.PluginManager, clock: VirtualClock
) -> ProducerFigures:
    """What becomes of the cluster's sends with a load balancer. One that fails, or is unknown, is told in the result.

    As in production ROUND_ROBIN decides where a selector fails.
    """
    with run_from(cluster.seed, clock):
        simulation = _Simulation(cluster, load_balancer, clock)
        try:
            classes = [
                _Class(described, simulation.make_producers(described, manager), cluster.topic)
                for described in cluster.producers
            ]
        except ConfigError as error:
            simulation.figures.problem = f"no producer starts: {error}"
        else:
            simulation.run(classes)
        return simulation.figures


class _Broker:
    """A group as a server with one line of waiting messages."""

    __slots__ = (
        "busy_until",
        "figures",
        "in_flight",
        "is_there",
        "latency_s",
        "longest_wait_s",
        "service_s",
        "since",
        "slower",
        "spread",
        "state",
    )

    def __init__(self, group: Group, is_there: bool) -> None:
        self.figures = BrokerFigures(group.name, group.zone)
        self.is_there = is_there
        self.since = 0.0
        self.state = "up"
        self.slower = 1.0
        self.latency_s = group.latency_ms / 1000
        self.spread = group.spread
        self.service_s = 1 / group.capacity
        self.longest_wait_s = group.longest_wait_s
        self.busy_until = 0.0
        self.in_flight: dict[_Send, None] = {}  # in order: a set's would differ from process to process


class _Producer:
    """A producer: its selector, and what it knows of the route."""

    __slots__ = ("avoided", "phase_s", "report", "route", "select", "select_by_key", "sending", "zone")

    def __init__(self, zone: str, selector: QueueSelector, phase_s: float) -> None:
        self.zone = zone
        self.select = selector
        self.select_by_key: QueueSelector = selector if getattr(selector, "by_key", False) else HashOfKey()
        self.sending: Any = getattr(selector, "sending", None)
        self.report: Any = getattr(selector, "report", None)
        self.phase_s = phase_s
        self.route = 0
        self.avoided: dict[str, float] = {}


class _Class:
    """Producers of one entry; their sends together are one Poisson process."""

    def __init__(self, described: Producers, producers: list[_Producer], topic: str) -> None:
        self.producers = producers
        self.rate = described.rate * len(producers)
        self.message = Message(topic, b"x", described.tags, properties=dict(described.properties))
        self.keys = [f"key-{index}" for index in range(described.keys)]
        self.key_weights = list(accumulate((rank + 1) ** -described.key_skew for rank in range(described.keys)))
        self.queue_of_key: dict[str, MessageQueue] = {}


class _Send:
    __slots__ = ("attempts", "began", "broker", "deadline", "key", "message", "producer", "queue", "started", "token")

    queue: MessageQueue
    broker: _Broker

    def __init__(self, producer: _Producer, message: Message, key: str | None, began: float, deadline: float) -> None:
        self.producer = producer
        self.message = message
        self.key = key
        self.began = began
        self.deadline = deadline
        self.attempts = 0
        self.token = 0
        self.started = began


class _Route:
    """The queues that can be written, from one change to the next."""

    def __init__(self, queues: list[MessageQueue]) -> None:
        self.queues = queues
        self.known = set(queues)
        self._active: dict[frozenset[str], list[MessageQueue]] = {}

    def active(self, avoided: dict[str, float]) -> list[MessageQueue]:
        """The queues of groups that are not avoided; the same list while these are the same."""
        if not avoided:
            return self.queues
        names = frozenset(avoided)
        queues = self._active.get(names)
        if queues is None:
            if len(self._active) > 1000:
                self._active.clear()
            queues = [queue for queue in self.queues if queue.broker_name not in names] or self.queues
            self._active[names] = queues
        return queues


class _Simulation:
    def __init__(self, cluster: Cluster, load_balancer: str, clock: VirtualClock) -> None:
        self._cluster = cluster
        self._load_balancer = load_balancer
        self._clock = clock
        self._random = random.Random(f"sends {cluster.seed}")
        self._arrivals = random.Random(f"arrivals {cluster.seed}")  # alike for every strategy
        self._config = cluster.client_config("")
        added_later = cluster.added_later()
        self._groups = cluster.brokers
        self._zones = {group.name: group.zone for group in self._groups}
        self._brokers = {group.name: _Broker(group, group.name not in added_later) for group in self._groups}
        self._routes = [self._route()]
        self._route_times = [0.0]
        self._heap: list[tuple[float, int, int, Any, Any]] = []
        self._sequence = count()
        self._fallback = RoundRobin()
        self._problems = Problems()
        self._sends = 0
        self._bucket_s = cluster.duration_s / BUCKETS
        self.figures = ProducerFigures(load_balancer, [broker.figures for broker in self._brokers.values()])

    def make_producers(self, described: Producers, manager: pluggy.PluginManager) -> list[_Producer]:
        """Producers, each with a selector of its own. Raises ConfigError as a producer would that is made."""
        config = self._cluster.client_config(described.zone)
        context = ClientContext(config, lambda name: self._zones.get(name, ""), self._clock.monotonic)
        made: list[_Producer] = []
        for _ in range(described.number):
            offered = offers("register_queue_selectors", manager, context=context)
            offer = pick("load_balancer", self._load_balancer, offered)
            selector = offer.made()
            if not callable(selector):
                raise ConfigError(
                    f"plugin {offer.plugin_name}: the maker of {offer.name} made {selector!r}, no selector"
                )
            phase_s = self._arrivals.random() * config.poll_name_server_interval_s
            made.append(_Producer(described.zone, selector, phase_s))
        return made

    def run(self, classes: list[_Class]) -> None:
        """All sends that begin within the duration, to their ends."""
        for event in self._cluster.timeline:
            if event.event not in ("join", "leave"):
                self._push(event.at, _EVENT, event)
        for members in classes:
            if members.rate > 0:
                self._push(self._arrivals.expovariate(members.rate), _ARRIVAL, members)
        heap, clock, duration_s = self._heap, self._clock, self._cluster.duration_s
        while heap:
            now, _, kind, subject, detail = heapq.heappop(heap)
            clock.now = now
            if kind == _ANSWER:
                if subject.token == detail[0]:  # else it was told that it failed
                    self._answered(subject, detail[1])
            elif kind == _ARRIVAL:
                if now < duration_s:
                    self._send(subject)
                    self._push(now + self._arrivals.expovariate(subject.rate), _ARRIVAL, subject)
            elif kind == _AGAIN:
                self._again(subject, detail)
            else:
                self._happen(subject)
        for broker in self._brokers.values():
            if broker.is_there:
                broker.figures.present_s += duration_s - broker.since
        if self._problems.count:
            self.figures.problem = (
                f"{self._problems.first} ({self._problems.count:,} times in {self._sends:,} sends; "
                "ROUND_ROBIN decided instead)"
            )

    def _push(self, at: float, kind: int, subject: Any, detail: Any = None) -> None:
        heapq.heappush(self._heap, (at, next(self._sequence), kind, subject, detail))

    # --- what happens to the cluster -----------------------------------------------------------------------------

    def _route(self) -> _Route:
        return _Route(
            [
                MessageQueue(self._cluster.topic, group.name, index)
                for group in self._groups
                if self._brokers[group.name].is_there
                for index in range(group.queues)
            ]
        )

    def _happen(self, event: Event) -> None:
        broker, now = self._brokers[event.group], self._clock.now
        if event.event == "recover":
            broker.state, broker.slower = "up", 1.0
        elif event.event == "slow":
            broker.slower = event.factor
        elif event.event in ("fail", "hang"):
            broker.state = event.event
            self._drop_in_flight(broker)
        else:
            broker.is_there = event.event == "add"
            if broker.is_there:
                broker.since = now
            else:
                broker.figures.present_s += now - broker.since
                self._drop_in_flight(broker)
            self._routes.append(self._route())
            self._route_times.append(now)

    def _drop_in_flight(self, broker: _Broker) -> None:
        """What is on its way fails: at once where connections break, at its deadline where nobody answers."""
        for send in broker.in_flight:
            send.token += 1
            if broker.state == "hang":
                self._push(send.deadline, _ANSWER, send, (send.token, _NO_ANSWER))
            else:
                self._push(self._clock.now, _ANSWER, send, (send.token, _NO_CONNECTION))
        broker.busy_until = self._clock.now

    # --- one send ------------------------------------------------------------------------------------------------

    def _send(self, members: _Class) -> None:
        now = self._clock.now
        producer = members.producers[int(self._arrivals.random() * len(members.producers))]
        key = None
        if members.keys:
            key = self._arrivals.choices(members.keys, cum_weights=members.key_weights)[0]
        send = _Send(producer, members.message, key, now, now + self._config.send_timeout_s)
        self._sends += 1
        if producer.route != len(self._routes) - 1:
            self._poll_route(producer, now)
        route = self._routes[producer.route]
        if key is None:
            queue = self._choose(producer.select, self._active(producer, route, now), route, send)
        else:
            queue = self._choose(producer.select_by_key, route.queues, route, send)
            self.figures.keyed += 1
            self.figures.keys_moved += members.queue_of_key.get(key, queue) != queue
            members.queue_of_key[key] = queue
        self._attempt(send, queue)

    def _poll_route(self, producer: _Producer, now: float) -> None:
        """Brings the producer to the route that it got with its last regular question."""
        interval_s = self._config.poll_name_server_interval_s
        asked_at = now - (now - producer.phase_s) % interval_s
        producer.route = max(producer.route, bisect_right(self._route_times, asked_at) - 1)

    def _active(self, producer: _Producer, route: _Route, now: float) -> list[MessageQueue]:
        if producer.avoided:
            for name in [name for name, until in producer.avoided.items() if until <= now]:
                del producer.avoided[name]
        return route.active(producer.avoided)

    def _choose(self, select: QueueSelector, queues: list[MessageQueue], route: _Route, send: _Send) -> MessageQueue:
        try:
            queue = select(queues, send.message, send.key)
        except Exception as error:
            self._problems.raised(error)
        else:
            if type(queue) is MessageQueue and queue in route.known:
                return queue
            if hasattr(queue, "close"):
                queue.close()  # a coroutine function's coroutine
            self._problems.add(f"chose {queue!r}, which is not one of the {len(queues)} queues given to it")
        return self._fallback(queues, send.message, send.key)

    def _attempt(self, send: _Send, queue: MessageQueue) -> None:
        now = self._clock.now
        broker = self._brokers[queue.broker_name]
        send.queue, send.broker, send.started = queue, broker, now
        send.attempts += 1
        send.token += 1
        producer = send.producer
        if producer.sending is not None:
            try:
                producer.sending(queue)
            except Exception as error:
                self._problems.raised(error, " in sending")
        figures = broker.figures
        figures.sent += 1
        figures.sent_over_time[min(int(now / self._bucket_s), BUCKETS - 1)] += 1
        way_s = broker.latency_s * broker.slower * self._random.lognormvariate(0.0, broker.spread)
        if producer.zone and figures.zone and producer.zone != figures.zone:
            self.figures.other_zone += 1
            way_s += self._cluster.zone_latency_ms / 1000
        answer_at = now + way_s
        error_or_none: RmqError | None = None
        if not broker.is_there or broker.state == "fail":
            error_or_none = _NO_CONNECTION
        elif broker.state == "hang":
            answer_at = send.deadline
        elif broker.busy_until - now > broker.longest_wait_s:
            answer_at += broker.longest_wait_s
            error_or_none = _BUSY
        else:
            broker.busy_until = max(broker.busy_until, now) + broker.service_s * broker.slower
            answer_at = broker.busy_until + way_s
        if answer_at >= send.deadline:
            answer_at, error_or_none = send.deadline, _NO_ANSWER
        broker.in_flight[send] = None
        self._push(answer_at, _ANSWER, send, (send.token, error_or_none))

    def _answered(self, send: _Send, error: Exception | None) -> None:
        now = self._clock.now
        producer = send.producer
        del send.broker.in_flight[send]
        if producer.report is not None:
            try:
                producer.report(send.queue, now - send.started, error)
            except Exception as failure:
                self._problems.raised(failure, " in report")
        if error is None:
            send.broker.figures.stored += 1
            self._end(send)
            return
        avoid_s = AVOID_BUSY_BROKER_S if error is _BUSY else AVOID_BROKER_S
        producer.avoided.setdefault(send.queue.broker_name, now + avoid_s)
        producer.route = len(self._routes) - 1  # a failure has the route looked up
        if send.attempts > self._config.retry_times_when_send_failed or now >= send.deadline:
            self._fail(send)
            return
        route = self._routes[producer.route]
        failed = send.queue
        if send.key is not None:
            if failed not in route.known:
                self._fail(send)
                return
            queue = failed
        else:
            active = self._active(producer, route, now)
            others = [queue for queue in active if queue.broker_name != failed.broker_name]
            if not others and active is not route.queues:
                others = [queue for queue in route.queues if queue.broker_name != failed.broker_name]
            queue = self._random.choice(others or route.queues)
        pause_s = 0.0
        if queue.broker_name == failed.broker_name:  # nowhere else to go
            pause_s = min(RETRY_PAUSE_S * 4 ** (send.attempts - 1), send.deadline - now)
        self._push(now + pause_s, _AGAIN, send, queue)

    def _again(self, send: _Send, queue: MessageQueue) -> None:
        if send.deadline - self._clock.now < LEAST_ATTEMPT_S:
            self._fail(send)
            return
        self.figures.retries += 1
        self._attempt(send, queue)

    def _fail(self, send: _Send) -> None:
        self.figures.failed += 1
        self._end(send)

    def _end(self, send: _Send) -> None:
        bucket = min(int(send.began / self._bucket_s), BUCKETS - 1)
        self.figures.latencies_over_time[bucket].append((self._clock.now - send.began) * 1000)
