"""The built-in ways to choose a message's queue, as an ordinary plugin."""

from __future__ import annotations

import random
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from ...errors import ConfigError
from ...model import Message, MessageQueue
from ..hookspecs import ClientContext, QueueSelector, hookimpl

LATENCY_MAX_MS = (50, 100, 550, 1800, 3000, 5000, 15000)
NOT_AVAILABLE_DURATION_MS = (0, 0, 2000, 5000, 6000, 10000, 30000)
"""A broker whose send took at least the first is passed over for the second. Source: MQFaultStrategy."""
_FAILED_COUNTS_AS_MS = 10_000
"""Source: ``MQFaultStrategy.updateFaultItem``, for an isolated broker."""
_HALF_LIFE_S = 2.0
"""A latency that nothing new is heard of counts half as much after this long: a slow broker is tried again."""
_AVERAGE_OVER_S = 1.0
"""An earlier latency counts half after this long: one slow send is forgotten soon, a slow broker is not."""
_LEAST_LATENCY_S = 0.000_05
"""Below it, differences between brokers are noise, and only the sends in flight count."""
_FAILED_COUNTS_AS_S = 1.0
"""A broker that fails at once would otherwise be the fastest."""
_WARM_UP_FROM = 0.1
"""A tenth of the weight: a new broker must get some messages to become warm."""
_RING_POINTS = 64
"""Of each queue: the shares of keys then differ by about an eighth."""


class RoundRobin:
    """One queue after the other, per topic, from a random start ("ROUND_ROBIN")."""

    per_turn = True

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        topic = message.topic
        index = self._next.get(topic)
        if index is None:
            index = random.randrange(len(queues))
        self._next[topic] = index + 1
        return queues[index % len(queues)]


class RandomQueue:
    """Any queue ("RANDOM")."""

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        return random.choice(queues)


class HashOfKey(RoundRobin):
    """The same key, the same queue, as long as the number of queues does not change ("HASH").

    The key is the sharding key of the send, else the message's ``keys``; a message without any goes round robin. The
    hash is Java's, so that a Java producer's ``SelectMessageQueueByHash`` picks the same queue for the same string.
    """

    by_key = True
    per_turn = False

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        text = _key_text(message, key)
        if text is None:
            return super().__call__(queues, message, key)
        return queues[abs(java_string_hash(text)) % len(queues)]


class ConsistentHashOfKey(RoundRobin):
    """The same key, the same queue; when queues come or go, few keys move ("CONSISTENT_HASH"). The key as for HASH."""

    by_key = True
    per_turn = False

    def __init__(self) -> None:
        super().__init__()
        self._rings: dict[str, tuple[Sequence[MessageQueue], list[int], list[MessageQueue]]] = {}

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        text = _key_text(message, key)
        if text is None:
            return super().__call__(queues, message, key)
        ring = self._rings.get(message.topic)
        if ring is None or ring[0] is not queues:
            ring = self._rings[message.topic] = (queues, *_ring_of(queues))
        return ring[2][bisect_left(ring[1], _spread(text)) % len(ring[1])]


def _key_text(message: Message, key: str | None) -> str | None:
    """The sharding key of a send, else the message's keys; None: it has neither. An empty sharding key is one."""
    if key is None:
        return str(message.keys) or None
    return key


def _spread(text: str) -> int:
    """A hash whose every bit depends on all of the text, the same in every process."""
    value = java_string_hash(text) & 0xFFFFFFFF
    value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ value >> 16


def _ring_of(queues: Sequence[MessageQueue]) -> tuple[list[int], list[MessageQueue]]:
    owners = {
        _spread(f"{point}#{queue.topic}#{queue.broker_name}#{queue.queue_id}"): queue
        for queue in queues
        for point in range(_RING_POINTS)
    }
    points = sorted(owners)
    return points, [owners[point] for point in points]


class LatencyFaultTolerant(RoundRobin):
    """Round robin without brokers that were slow or failed, for times by latency class ("LATENCY_FAULT_TOLERANT").

    Source: MQFaultStrategy with ``sendLatencyFaultEnable``, LatencyFaultToleranceImpl.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._until: dict[str, float] = {}

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        queue = super().__call__(queues, message, key)
        if not self._until or self._is_available(queue.broker_name):
            return queue
        for _ in range(len(queues) - 1):
            queue = super().__call__(queues, message, key)
            if self._is_available(queue.broker_name):
                return queue
        return super().__call__(queues, message, key)

    def _is_available(self, broker_name: str) -> bool:
        until = self._until.get(broker_name)
        if until is None:
            return True
        if self._clock() < until:
            return False
        del self._until[broker_name]
        return True

    def report(self, queue: MessageQueue, latency_s: float, error: BaseException | None) -> None:
        latency_ms = latency_s * 1000 if error is None else _FAILED_COUNTS_AS_MS
        for limit, duration in zip(reversed(LATENCY_MAX_MS), reversed(NOT_AVAILABLE_DURATION_MS), strict=True):
            if latency_ms >= limit:
                if duration:
                    until = self._clock() + duration / 1000
                    self._until[queue.broker_name] = max(until, self._until.get(queue.broker_name, until))
                return


class _Load:
    """What is known of one broker."""

    __slots__ = ("in_flight", "latency_s", "seen_at")

    def __init__(self) -> None:
        self.in_flight = 0
        self.latency_s = 0.0
        self.seen_at = 0.0


class LatencyAware:
    """The better of two random queues: less (average latency x sends in flight) of its broker ("LATENCY_AWARE").

    The average is a moving one, over about a second. A broker that nothing is known of counts as quick, and an old
    latency counts less and less, so that brokers that became quick again are noticed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loads: dict[str, _Load] = {}

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        count = len(queues)
        one = queues[int(random.random() * count)]
        other = queues[int(random.random() * count)]
        if one.broker_name == other.broker_name:
            return one
        now = self._clock()
        return one if self._cost(one.broker_name, now) <= self._cost(other.broker_name, now) else other

    def _cost(self, broker_name: str, now: float) -> float:
        load = self._loads.get(broker_name)
        if load is None:
            return 0.0
        latency_s: float = load.latency_s * 0.5 ** ((now - load.seen_at) / _HALF_LIFE_S)
        return max(latency_s, _LEAST_LATENCY_S) * (load.in_flight + 1)

    def sending(self, queue: MessageQueue) -> None:
        load = self._loads.get(queue.broker_name)
        if load is None:
            load = self._loads[queue.broker_name] = _Load()
        load.in_flight += 1

    def report(self, queue: MessageQueue, latency_s: float, error: BaseException | None) -> None:
        load = self._loads[queue.broker_name]
        load.in_flight -= 1
        if error:
            latency_s = max(latency_s, _FAILED_COUNTS_AS_S)
        now = self._clock()
        if load.seen_at:
            old: float = 0.5 ** ((now - load.seen_at) / _AVERAGE_OVER_S)
            latency_s = old * load.latency_s + (1 - old) * latency_s if error is None else latency_s
        load.latency_s, load.seen_at = latency_s, now


class SameZone(RoundRobin):
    """Round robin over the queues of brokers of the producer's zone, over all where it has none ("SAME_ZONE").

    Raises:
        ConfigError: the producer's ``zone`` is not set.
    """

    def __init__(self, context: ClientContext) -> None:
        super().__init__()
        if not context.config.zone:
            raise ConfigError("load_balancer SAME_ZONE needs zone=... (RMQ_REDIS_ZONE), the zone of this producer")
        self._context = context
        self._near: dict[str, tuple[Sequence[MessageQueue], Sequence[MessageQueue]]] = {}

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        near = self._near.get(message.topic)
        if near is None or near[0] is not queues:
            zone, zone_of = self._context.config.zone, self._context.zone_of
            mine = [queue for queue in queues if zone_of(queue.broker_name) == zone]
            near = self._near[message.topic] = (queues, mine or queues)
        return super().__call__(near[1], message, key)


class Weighted:
    """Broker groups in proportion to their weights, smoothly; within a group round robin ("WEIGHTED").

    ``broker_weights`` gives the weights, 1 where it names none; 0 takes none of the messages while another can. With
    ``broker_warm_up_s`` a group that appears later begins with a tenth of its weight and has all of it after that time.
    """

    def __init__(self, weights: Mapping[str, float], warm_up_s: float, clock: Callable[[], float] = time.monotonic):
        self._weights = weights
        self._warm_up_s = warm_up_s
        self._clock = clock
        self._topics: dict[str, tuple[Sequence[MessageQueue], dict[str, list[MessageQueue]]]] = {}
        self._balance: dict[tuple[str, str], float] = {}
        self._next: dict[tuple[str, str], int] = {}
        self._appeared: dict[str, float] = {}
        self._warming = False

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        topic = message.topic
        known = self._topics.get(topic)
        if known is None or known[0] is not queues:
            known = self._learn(topic, queues)
        groups = known[1]
        total, best, most = 0.0, "", float("-inf")
        for name in groups:
            weight = self._weight(name)
            total += weight
            balance = self._balance[topic, name] = self._balance.get((topic, name), 0.0) + weight
            if weight and balance > most:
                best, most = name, balance
        if not best:
            best = random.choice(list(groups))
        self._balance[topic, best] -= total
        turn = self._next[topic, best] = self._next.get((topic, best), -1) + 1
        return groups[best][turn % len(groups[best])]

    def _learn(
        self, topic: str, queues: Sequence[MessageQueue]
    ) -> tuple[Sequence[MessageQueue], dict[str, list[MessageQueue]]]:
        groups: dict[str, list[MessageQueue]] = {}
        for queue in queues:
            groups.setdefault(queue.broker_name, []).append(queue)
        begin = self._clock() if self._appeared else float("-inf")  # those of the beginning are warm
        for name in groups:
            self._appeared.setdefault(name, begin)
        self._warming = self._warm_up_s > 0
        if topic not in self._topics:  # a random start, else many new producers would go to the groups in step
            total = sum(map(self._weight, groups))
            self._balance |= {(topic, name): random.random() * total for name in groups}
        known = self._topics[topic] = (queues, groups)
        return known

    def _weight(self, name: str) -> float:
        weight = self._weights.get(name, 1.0)
        if self._warming:
            age_s = self._clock() - self._appeared[name]
            if age_s < self._warm_up_s:
                weight *= max(age_s / self._warm_up_s, _WARM_UP_FROM)
        return weight


def parse_weights(text: str) -> dict[str, float]:
    """Weights as ``broker-a=3;broker-b=0.5``.

    Raises:
        ConfigError: it is written in another way, or a weight is negative.
    """
    weights: dict[str, float] = {}
    for part in filter(None, text.split(";")):
        name, _, number = part.rpartition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            weights[name.strip()] = -1.0
        if not name.strip() or not 0 <= weights[name.strip()] < float("inf"):
            raise ConfigError(f"broker_weights: {part!r} is not brokerName=WEIGHT, with a weight of 0 or more")
    return weights


def java_string_hash(text: str) -> int:
    """Java's ``String.hashCode``, signed 32 bit."""
    value = 0
    if text.isascii():
        for byte in text.encode():
            value = 31 * value + byte
    else:
        for (unit,) in struct.iter_unpack(">H", text.encode("utf-16-be", "surrogatepass")):
            value = 31 * value + unit & 0xFFFFFFFF
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


@hookimpl
def register_queue_selectors(context: ClientContext) -> Mapping[str, Callable[[], QueueSelector]]:
    config = context.config
    return {
        "ROUND_ROBIN": RoundRobin,
        "RANDOM": RandomQueue,
        "HASH": HashOfKey,
        "CONSISTENT_HASH": ConsistentHashOfKey,
        "LATENCY_FAULT_TOLERANT": lambda: LatencyFaultTolerant(context.clock),
        "LATENCY_AWARE": lambda: LatencyAware(context.clock),
        "SAME_ZONE": lambda: SameZone(context),
        "WEIGHTED": lambda: Weighted(parse_weights(config.broker_weights), config.broker_warm_up_s, context.clock),
    }
