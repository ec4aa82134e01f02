"""Simulated producers: which broker each message goes to, and how long it takes there."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pluggy

from ..config import ClientConfig
from ..errors import RemotingConnectError, RequestTimeoutError
from ..hookspecs import ClientContext, QueueSelector
from ..model import Message, MessageQueue
from ..plugins import queue_selector
from .scenario import Scenario

AVOID_BROKER_S = 5.0  # as client.producer
_REFUSED_S = 0.001


@dataclass
class SendReport:
    """What came of the sends.

    Attributes:
        latencies_ms: of each message that was stored, with its retries; in the order of the ends.
        ended_s: when each of these ended.
        failed: messages that no attempt stored.
        retried: further attempts.
        per_broker: messages stored, by broker group; all are in it.
    """

    load_balancer: str
    latencies_ms: list[float] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)
    failed: int = 0
    retried: int = 0
    per_broker: Counter[str] = field(default_factory=Counter)

    def percentile_ms(self, share: float) -> float:
        """The latency that ``share`` (0..1) of the messages do not exceed; 0 when there are none."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(math.ceil(share * len(ordered)), len(ordered)) - 1] if ordered else 0.0

    @property
    def imbalance(self) -> float:
        """The busiest broker group's messages, as a multiple of the average."""
        counts = self.per_broker.values()
        return max(counts) * len(counts) / max(sum(counts), 1)


class _Producer:
    """One producer: its selector, and the brokers that it passes over."""

    def __init__(self, select: QueueSelector, queues: list[MessageQueue]) -> None:
        self.select = select
        self.sending: Callable[..., None] | None = getattr(select, "sending", None)
        self.report: Callable[..., None] | None = getattr(select, "report", None)
        self.by_key = bool(getattr(select, "by_key", False))
        self.all = self.active = queues
        self.avoided: dict[str, float] = {}

    def avoid(self, broker_name: str, until: float) -> None:
        self.avoided.setdefault(broker_name, until)
        self._refresh()

    def forget(self, now: float) -> None:
        if any(until <= now for until in self.avoided.values()):
            self.avoided = {name: until for name, until in self.avoided.items() if until > now}
            self._refresh()

    def _refresh(self) -> None:
        self.active = [queue for queue in self.all if queue.broker_name not in self.avoided] or self.all


def simulate_sends(
    scenario: Scenario, load_balancer: str, config: ClientConfig, manager: pluggy.PluginManager | None = None
) -> SendReport:
    """Runs the scenario's sends. The same seed gives the same report; the global ``random`` is left as it was.

    Raises:
        ConfigError: no such load balancer, or it cannot be made.
    """
    state = random.getstate()
    random.seed(scenario.seed)
    try:
        return _run(scenario, load_balancer, config, manager)
    finally:
        random.setstate(state)


def _run(
    scenario: Scenario, load_balancer: str, config: ClientConfig, manager: pluggy.PluginManager | None
) -> SendReport:
    chance = random.Random(scenario.seed)
    now = 0.0
    kinds = scenario.broker_names()
    queues = sorted(MessageQueue("T", name, i) for name in kinds for i in range(scenario.queues_per_broker))
    context = ClientContext(config, lambda name: kinds[name].zone if name in kinds else "", lambda: now)
    by_hash = queue_selector("HASH", manager, context)
    producers = [
        _Producer(queue_selector(load_balancer, manager, context), queues) for _ in range(scenario.producers.count)
    ]
    faults = {
        name: [fault for fault in scenario.faults if fault.broker == name]
        for name in {fault.broker for fault in scenario.faults}
    }
    free_at = dict.fromkeys(kinds, 0.0)
    report = SendReport(load_balancer, per_broker=Counter(dict.fromkeys(kinds, 0)))
    timeout_s = scenario.timeout_ms / 1000
    total = max(int(scenario.duration_s * scenario.producers.rate), 1)
    # (end of an attempt, number, producer, queue, begin of the attempt, of the message, attempts, error)
    events: list[tuple[float, int, int, MessageQueue, float, float, int, Exception | None]] = []
    number = started = 0
    next_start = chance.expovariate(scenario.producers.rate)
    message = Message("T", b"x")

    def attempt(index: int, queue: MessageQueue, began: float, attempts: int) -> None:
        nonlocal number
        producer, name = producers[index], queue.broker_name
        kind = kinds[name]
        factor, down = 1.0, False
        for fault in faults.get(name, ()):
            if fault.from_s <= now < fault.to_s:
                factor, down = factor * fault.slow, down or fault.down
        error: Exception | None = None
        if down:
            took, error = _REFUSED_S, RemotingConnectError(f"{name} is down")
        else:
            free_at[name] = max(free_at[name], now) + factor / kind.capacity
            took = free_at[name] - now + factor * kind.latency_ms / 1000 * math.exp(chance.gauss(0.0, kind.spread))
            left = timeout_s - (now - began)
            if took > left:
                took, error = max(left, 0.0), RequestTimeoutError(f"{name} did not answer in time")
        if producer.sending is not None:
            producer.sending(queue)
        number += 1
        heapq.heappush(events, (now + took, number, index, queue, now, began, attempts, error))

    while events or started < total:
        if started < total and (not events or next_start <= events[0][0]):
            now = next_start
            next_start = now + chance.expovariate(scenario.producers.rate)
            started += 1
            index = chance.randrange(len(producers))
            producer = producers[index]
            if producer.avoided:
                producer.forget(now)
            key = f"key-{chance.randrange(scenario.producers.keys)}" if scenario.producers.keys else None
            if key is None or producer.by_key:
                queue = producer.select(producer.all if key is not None else producer.active, message, key)
            else:
                queue = by_hash(producer.all, message, key)
            if queue.broker_name not in kinds:
                queue = producer.active[0]  # a plugin's invention; the SDK lets the default one decide
            attempt(index, queue, now, 1)
            continue
        now, _, index, ended, sent, began, attempts, error = heapq.heappop(events)
        producer = producers[index]
        if producer.report is not None:
            producer.report(ended, now - sent, error)
        if error is None:
            report.per_broker[ended.broker_name] += 1
            report.latencies_ms.append((now - began) * 1000)
            report.ended_s.append(now)
            continue
        producer.avoid(ended.broker_name, now + AVOID_BROKER_S)
        if attempts > scenario.retries or now - began >= timeout_s:
            report.failed += 1
            continue
        report.retried += 1
        others = [queue for queue in producer.active if queue.broker_name != ended.broker_name] or producer.all
        attempt(index, chance.choice(others), began, attempts + 1)
    return report
