"""The simulator's sends: small cases worked by hand, and strategies that go wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from rmq_redis.client.produce import delivery, topic
from rmq_redis.hookspecs import ClientContext, QueueSelector, hookimpl
from rmq_redis.labs.simulator import producers
from rmq_redis.labs.simulator.cluster import Cluster, Event, Group, Producers
from rmq_redis.labs.simulator.figures import ProducerFigures, percentile
from rmq_redis.labs.simulator.producers import simulate_sends
from rmq_redis.labs.simulator.virtual import VirtualClock
from rmq_redis.model import Message, MessageQueue
from rmq_redis.plugins import Plugins, create_plugin_manager

A = Group(name="a", latency_ms=2.0, spread=0.0, capacity=1e6)
B = Group(name="b", latency_ms=2.0, spread=0.0, capacity=1e6)


def cluster(*groups: Group, number: int = 1, rate: float = 100.0, **values: Any) -> Cluster:
    settings: dict[str, Any] = {"duration_s": 10.0, "producers": [Producers(number=number, rate=rate)]}
    return Cluster(groups=list(groups), **(settings | values))


def run(described: Cluster, name: str = "ROUND_ROBIN", *plugins: object) -> ProducerFigures:
    return simulate_sends(described, name, create_plugin_manager(plugins=plugins), VirtualClock())


def by_name(figures: ProducerFigures) -> dict[str, int]:
    return {broker.name: broker.stored for broker in figures.brokers}


def test_simulator_constants_equal_those_of_the_producer() -> None:
    assert producers.AVOID_BROKER_S == delivery.AVOID_BROKER_S
    assert producers.AVOID_BUSY_BROKER_S == delivery.AVOID_BUSY_BROKER_S
    assert producers.RETRY_PAUSE_S == topic.RETRY_PAUSE_S
    assert producers.LEAST_ATTEMPT_S == delivery.LEAST_ATTEMPT_S


def test_percentile_is_the_value_that_share_does_not_exceed() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert [percentile(values, part) for part in (0.0, 0.25, 0.5, 0.51, 0.99, 1.0)] == [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]
    assert percentile([], 0.5) == 0.0


def test_round_robin_is_even_and_idle_latency_is_that_of_the_group() -> None:
    figures = run(cluster(A, B))
    stored = by_name(figures)
    assert 900 < sum(stored.values()) < 1100  # Poisson: 1000 and three times its square root
    assert abs(stored["a"] - stored["b"]) <= 4  # at most one group's queues ahead
    assert figures.latencies()[0] == pytest.approx(2.001, abs=1e-6)
    assert (figures.failed, figures.retries, figures.problem) == (0, 0, "")
    assert figures.balance == pytest.approx(1.0, abs=0.01)
    assert sum(sum(broker.sent_over_time) for broker in figures.brokers) == sum(stored.values())


def test_group_above_its_capacity_refuses_sends_as_busy() -> None:
    full = Group(name="a", spread=0.0, capacity=10.0, longest_wait_s=0.25)
    figures = run(cluster(full, client={"retry_times_when_send_failed": 0}))
    stored = by_name(figures)["a"]
    assert 95 <= stored <= 104  # 10 s at 10/s, and what waits at the end: up to 0.25 s of it and the one in front
    assert figures.failed == len(figures.latencies()) - stored
    assert figures.latencies()[-1] <= 1 + 100 + 250 + 100


def test_unreachable_group_costs_retries_but_no_messages() -> None:
    down = [Event(at=2.0, event="fail", group="a"), Event(at=4.0, event="recover", group="a")]
    figures = run(cluster(A, B, number=5, rate=50.0, events=down))
    assert figures.failed == 0
    assert figures.retries >= 5  # each producer notices once in five seconds, with what was on its way
    assert figures.retries < 30
    assert by_name(figures)["a"] < by_name(figures)["b"]
    both = [*down, Event(at=2.0, event="fail", group="b")]
    lost = run(cluster(A, B, number=5, rate=50.0, events=both)).failed
    assert 400 < lost < 600  # two seconds of 250/s, Poisson; b stays away, so a has all afterwards


def test_send_to_a_hanging_group_times_out() -> None:
    hang = [Event(at=2.0, event="hang", group="a"), Event(at=3.0, event="recover", group="a")]
    figures = run(cluster(A, B, rate=50.0, events=hang))
    assert figures.latencies()[-1] == pytest.approx(3000.0)
    assert figures.failed == sum(latency == pytest.approx(3000.0) for latency in figures.latencies())
    assert 15 < figures.failed < 35  # one second of half of the sends
    short = run(cluster(A, B, rate=50.0, events=hang, client={"send_timeout_s": 0.5}))
    assert short.latencies()[-1] == pytest.approx(500.0)
    assert short.failed < figures.failed


def test_send_in_flight_when_a_group_hangs_gets_no_response() -> None:
    far = [Group(name=name, latency_ms=500.0, spread=0.0, capacity=1e6) for name in ("a", "b")]
    hang = [Event(at=2.0, event="hang", group="a"), Event(at=3.0, event="recover", group="a")]
    failed = run(cluster(*far, number=20, rate=20.0, events=hang)).failed
    assert 250 < failed < 350  # what began from 1.5 s to 3 s, half of 400/s
    breaks = [Event(at=2.0, event="fail", group="a"), Event(at=3.0, event="recover", group="a")]
    figures = run(cluster(*far, number=20, rate=20.0, events=breaks))
    assert figures.failed == 0
    assert figures.retries > 80  # what was on its way for half a second


def test_latency_aware_avoids_the_slow_group_and_shortens_the_tail() -> None:
    slow = [Event(at=1.0, event="slow", group="a", factor=50.0)]
    others = Group(name="other", number=3, latency_ms=2.0, spread=0.0, capacity=1e6)
    described = cluster(A, others, number=5, rate=50.0, events=slow)
    even, aware = (run(described, name) for name in ("ROUND_ROBIN", "LATENCY_AWARE"))
    assert by_name(even)["a"] == pytest.approx(by_name(even)["other-1"], rel=0.05)
    assert by_name(aware)["a"] < by_name(even)["a"] / 2
    assert percentile(aware.latencies(), 0.9) < percentile(even.latencies(), 0.9)
    assert aware.balance > even.balance


def test_producers_notice_added_and_removed_groups_by_the_route() -> None:
    events = [Event(at=2.0, event="add", group="b"), Event(at=8.0, event="remove", group="a")]
    described = cluster(A, B, number=4, rate=50.0, events=events, client={"poll_name_server_interval_s": 2.0})
    a, b = run(described).brokers
    assert sum(b.sent_over_time[:12]) == 0  # buckets of a sixth of a second: not before the second second
    assert sum(b.sent_over_time[24:]) > 0  # all have asked since then
    assert (a.present_s, b.present_s) == (8.0, 8.0)
    late = a.sent_over_time[48:]
    assert sum(late) <= 4 * 2  # each producer learns it from its first failure
    assert run(described).failed == 0
    many = cluster(A, B, number=100, rate=10.0, events=events[:1], client=described.client)
    _, new = run(many).brokers
    soon, later = sum(new.sent_over_time[12:15]), sum(new.sent_over_time[24:27])
    assert 0 < soon < later / 2  # half a second after the change a quarter of the producers know at most


def test_keys_stay_with_their_queue_until_the_route_changes() -> None:
    keyed = [Producers(rate=100.0, keys=20, key_skew=1.0)]
    even = run(cluster(A, B, producers=keyed), "ROUND_ROBIN")  # a key goes by HASH then
    assert (even.keyed, even.keys_moved) == (len(even.latencies()), 0)
    added = cluster(A, B, producers=keyed, events=[Event(at=5.0, event="add", group="b")])
    settings = {"poll_name_server_interval_s": 0.1}
    fast = cluster(A, B, producers=keyed, events=added.events, client=settings)
    by_hash, on_ring = (run(fast, name).keys_moved for name in ("HASH", "CONSISTENT_HASH"))
    assert 0 < on_ring <= 20
    assert 0 < by_hash <= 20


def test_same_zone_avoids_the_latency_of_other_zones() -> None:
    groups = [Group(name="e", zone="east", spread=0.0), Group(name="w", zone="west", spread=0.0)]
    clients = [Producers(zone="west", rate=50.0)]
    near = run(cluster(*groups, producers=clients), "SAME_ZONE")
    assert by_name(near)["e"] == 0
    assert near.other_zone == 0
    far = run(cluster(*groups, producers=clients, zone_latency_ms=40.0))
    assert far.other_zone == by_name(far)["e"] > 0
    assert percentile(far.latencies(), 0.99) >= 42.0
    nowhere = run(cluster(*groups), "SAME_ZONE")
    assert nowhere.problem.startswith("no producer starts: load_balancer SAME_ZONE needs zone=")
    assert nowhere.latencies() == []


def test_weighted_follows_the_weights_of_the_groups() -> None:
    heavy = Group(name="b", latency_ms=2.0, spread=0.0, capacity=1e6, weight=3.0)
    stored = by_name(run(cluster(A, heavy), "WEIGHTED"))
    assert stored["b"] == pytest.approx(3 * stored["a"], abs=4)


def test_many_weighted_producers_do_not_run_in_step() -> None:
    many = Group(name="a", number=20, latency_ms=2.0, spread=0.0, capacity=1e6)
    figures = run(cluster(many, number=200, rate=0.5), "WEIGHTED")
    first_second = [sum(broker.sent_over_time[:6]) for broker in figures.brokers]
    assert max(first_second) < 20  # 100 sends to 20 groups


# --- strategies of plugins ---------------------------------------------------------------------------------------


class Offering:
    """A plugin with one load balancer, MINE."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    @hookimpl
    def register_queue_selectors(self, context: ClientContext) -> Mapping[str, Callable[[], QueueSelector]]:
        return {"MINE": self.make}


def raising(queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
    raise ZeroDivisionError("division by zero")


def inventing(queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
    return MessageQueue(message.topic, "nowhere", 0)


async def asynchronous(queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
    return queues[0]


@pytest.mark.parametrize(
    ("selector", "problem"),
    [
        (raising, "raised ZeroDivisionError: division by zero ("),
        (inventing, "chose MessageQueue(topic='simulated', broker_name='nowhere', queue_id=0), which is not one of"),
        (asynchronous, "chose <coroutine"),
    ],
)
def test_failing_selector_is_reported_and_round_robin_decides(selector: Any, problem: str) -> None:
    figures = run(cluster(A, B), "mine", Offering(lambda: selector))
    assert figures.problem.startswith(problem)
    sends = len(figures.latencies())
    assert f"({sends:,} times in {sends:,} sends; ROUND_ROBIN decided instead)" in figures.problem
    assert figures.failed == 0


def test_error_in_feedback_is_reported() -> None:
    class Bad:
        def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
            return queues[0]

        def report(self, queue: MessageQueue, latency_s: float, error: BaseException | None) -> None:
            raise KeyError("x")

    assert run(cluster(A), "MINE", Offering(Bad)).problem.startswith("raised KeyError in report: 'x'")


def test_failing_selector_factory_is_reported() -> None:
    assert "no producer starts: plugin" in run(cluster(A), "MINE", Offering(lambda: 1 // 0)).problem
    assert "made 7, no selector" in run(cluster(A), "MINE", Offering(lambda: 7)).problem


def test_plugin_sees_virtual_time_and_seeded_random_numbers() -> None:
    seen: list[tuple[float, float, float]] = []

    def selector(queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        seen.append((time.monotonic(), time.time(), random.random()))
        return queues[0]

    functions = [time.monotonic, time.time, time.perf_counter, time.monotonic_ns, time.time_ns, time.perf_counter_ns]
    state = random.getstate()
    run(cluster(A), "MINE", Offering(lambda: selector))
    first = list(seen)
    seen.clear()
    run(cluster(A), "MINE", Offering(lambda: selector))
    assert seen == first
    span_s = first[-1][0] - first[0][0]
    assert 9.0 < span_s < 10.0
    assert first[-1][1] - first[0][1] == pytest.approx(span_s)
    assert random.getstate() == state
    assert functions == [
        time.monotonic,
        time.time,
        time.perf_counter,
        time.monotonic_ns,
        time.time_ns,
        time.perf_counter_ns,
    ]


def test_every_strategy_gets_the_same_sends() -> None:
    manager: Plugins = create_plugin_manager()
    described = cluster(A, B, number=3)
    counts = {len(simulate_sends(described, name, manager, VirtualClock()).latencies()) for name in ("HASH", "RANDOM")}
    assert len(counts) == 1
    other = cluster(A, B, number=3, seed=2)
    assert run(other).latencies() != run(described).latencies()
    assert run(described, "LATENCY_AWARE") == run(described, "LATENCY_AWARE")
