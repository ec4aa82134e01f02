"""The built-in strategies: RocketMQ's results, even and stable shares; selectors that learn from what they are told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmq_redis.config import ClientConfig
from rmq_redis.errors import ConfigError
from rmq_redis.hookspecs import ClientContext
from rmq_redis.model import Message, MessageQueue
from rmq_redis.plugins import allocate_strategy, create_plugin_manager, offers, queue_selector, read_selector
from rmq_redis.plugins.defaults.queues import LatencyAware, LatencyFaultTolerant

MESSAGE = Message("T", b"x")
ZONES = {"broker-0": "east", "broker-1": "west", "broker-2": "west"}
CIDS = ["10.0.0.7@1", "10.0.0.7@2", "10.0.0.8@1"]


def context(**options: Any) -> ClientContext:
    return ClientContext(ClientConfig(**options), lambda name: ZONES.get(name, ""))


def queues(count: int, brokers: int = 3) -> list[MessageQueue]:
    return sorted(MessageQueue("T", f"broker-{index % brokers}", index // brokers) for index in range(count))


def share_ids(name: str, count: int, cids: list[str], **options: Any) -> list[list[int]]:
    strategy = allocate_strategy(name, create_plugin_manager(), context(**options))
    mq_all = [MessageQueue("TopicTest", "broker-a", index) for index in range(count)]
    return [[queue.queue_id for queue in strategy("G", cid, mq_all, cids)] for cid in cids]


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("AVG", [[0, 1, 2], [3, 4, 5], [6, 7]]),
        ("AVG_BY_CIRCLE", [[0, 3, 6], [1, 4, 7], [2, 5]]),
        ("CONSISTENT_HASH", [[0, 2], [3, 4], [1, 5, 6, 7]]),  # by Java's MD5
    ],
)
def test_eight_queues_for_three_consumers_are_shared_as_in_java(name: str, shares: list[list[int]]) -> None:
    assert share_ids(name, 8, CIDS) == shares


def test_machine_room_shares_only_the_queues_of_its_rooms() -> None:
    mq_all = [MessageQueue("T", name, i) for name in ("far@b", "near@a", "none", "x@y@z") for i in range(4)]
    strategy = allocate_strategy("MACHINE_ROOM", create_plugin_manager(), context(machine_rooms="near;x"))
    shares = [[(q.broker_name, q.queue_id) for q in strategy("G", cid, mq_all, CIDS)] for cid in CIDS]
    assert shares == [[("near@a", 0), ("near@a", 3)], [("near@a", 1)], [("near@a", 2)]]
    assert strategy("G", "stranger", mq_all, CIDS) == []


def test_machine_room_nearby_shares_rooms_without_members_among_all() -> None:
    mq_all = [MessageQueue("T", name, i) for name in ("broker-0", "broker-1", "north@c") for i in range(4)]
    cids = ["ip@1@east", "ip@2@west", "ip@3@west"]
    strategy = allocate_strategy("machine-room-nearby", create_plugin_manager(), context())
    shares = [[(q.broker_name, q.queue_id) for q in strategy("G", cid, mq_all, cids)] for cid in cids]
    assert shares == [
        [*(("broker-0", i) for i in range(4)), ("north@c", 0), ("north@c", 1)],
        [("broker-1", 0), ("broker-1", 1), ("north@c", 2)],
        [("broker-1", 2), ("broker-1", 3), ("north@c", 3)],
    ]
    with pytest.raises(ConfigError, match="consumer ip@4 has no room"):
        strategy("G", "ip@1@east", mq_all, [*cids, "ip@4"])
    with pytest.raises(ConfigError, match="broker nowhere has no room"):
        strategy("G", "ip@1@east", [MessageQueue("T", "nowhere", 0)], cids)


def test_config_assigns_listed_queues_and_shares_others_evenly() -> None:
    assert share_ids("CONFIG", 4, CIDS[:2], allocate_queues="TopicTest:broker-a:3,1") == [[3, 1], [3, 1]]
    assert share_ids("CONFIG", 4, CIDS[:2], allocate_queues="Other:broker-a:0") == [[0, 1], [2, 3]]
    with pytest.raises(ConfigError, match="'T:0' is not topic:brokerName"):
        share_ids("CONFIG", 4, CIDS, allocate_queues="T:0")


MEMBERS = st.integers(0, 9).flatmap(lambda size: st.sets(st.integers(0, 10**6), min_size=1, max_size=8 if size else 50))
"""The numbers of a group's members: a plugin manager each takes time, so one group in ten may be large."""


@pytest.mark.parametrize("name", ["CONSISTENT_HASH", "STICKY", "STICKY_EVEN", "MACHINE_ROOM_NEARBY-AVG_BY_CIRCLE"])
@given(mq_count=st.integers(1, 60), numbers=MEMBERS)
@settings(deadline=None, max_examples=60)
def test_all_members_agree_on_one_consumer_per_queue(name: str, mq_count: int, numbers: set[int]) -> None:
    mq_all = queues(mq_count)
    cids = sorted(f"10.0.0.{n % 7}@{n}@{'east' if n % 2 else 'west'}" for n in numbers)
    shares: list[list[MessageQueue]] = []
    for cid in cids:  # a manager each, as if each were a process of its own
        strategy = allocate_strategy(name, create_plugin_manager(), context())
        shares.append(list(strategy("G", cid, list(mq_all), list(cids))))
        assert list(strategy("G", "stranger", mq_all, cids)) == []
    assert Counter(queue for share in shares for queue in share) == Counter(mq_all)
    if name == "STICKY_EVEN":
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def owners(name: str, mq_all: list[MessageQueue], group: list[str]) -> dict[MessageQueue, str]:
    strategy = allocate_strategy(name, create_plugin_manager())
    return {queue: cid for cid in group for queue in strategy("G", cid, mq_all, group)}


@given(
    mq_count=st.integers(1, 60),
    staying=st.sets(st.integers(0, 10**6), min_size=1, max_size=20),
    leaving=st.sets(st.integers(10**6 + 1, 2 * 10**6), max_size=5),
    joining=st.sets(st.integers(2 * 10**6 + 1, 3 * 10**6), max_size=5),
)
@settings(deadline=None, max_examples=200)
def test_sticky_moves_only_queues_of_leaving_and_joining_members(
    mq_count: int, staying: set[int], leaving: set[int], joining: set[int]
) -> None:
    mq_all = queues(mq_count, 8)
    old, stayed, new = (sorted(f"10.0.0.1@{n}" for n in numbers) for numbers in (leaving, staying, joining))
    before, after = owners("STICKY", mq_all, sorted(old + stayed)), owners("STICKY", mq_all, sorted(stayed + new))
    for queue in mq_all:
        assert before[queue] == after[queue] or before[queue] in old or after[queue] in new


@given(mq_count=st.integers(1, 20), added=st.integers(1, 8), members=st.integers(1, 8))
@settings(deadline=None, max_examples=15)
def test_sticky_ranks_the_members_of_a_queue_in_one_order(mq_count: int, added: int, members: int) -> None:
    """Alone with any one of the others, the owner of a queue owns it, too: there is one order per queue."""
    mq_all = queues(mq_count + added, 5)
    cids = [f"10.0.0.1@{n}" for n in range(members)]
    of_two = {frozenset({a, b}): owners("STICKY", mq_all, sorted({a, b})) for a in cids for b in cids if a <= b}
    for queue, owner in owners("STICKY", mq_all, cids).items():
        assert all(of_two[frozenset({owner, cid})][queue] == owner for cid in cids)


@pytest.mark.parametrize(
    ("mq_count", "members", "most"), [(8, 2, 1.25), (8, 4, 1.7), (16, 4, 1.5), (64, 5, 1.3), (240, 100, 2.6)]
)
def test_largest_share_of_sticky_stays_below_its_limit(mq_count: int, members: int, most: float) -> None:
    """The largest share to the mean one, on average over groups, is below what independent hashes give (and stays)."""
    mq_all = queues(mq_count, 4)
    groups = [sorted(f"10.{n}.{member}.1@{member * 7919 + n}" for member in range(members)) for n in range(20)]
    largest = [max(Counter(owners("STICKY", mq_all, group).values()).values()) for group in groups]
    assert sum(largest) / len(largest) <= most * mq_count / members


@pytest.mark.parametrize(("mq_count", "members"), [(16, 3), (64, 5), (300, 20), (400, 40)])
def test_sticky_strategies_move_few_queues_per_member_change(mq_count: int, members: int) -> None:
    mq_all = queues(mq_count, 8)
    cids = sorted(f"10.0.{index}.1@{index * 7919}" for index in range(members))

    def moved(name: str) -> int:
        before = owners(name, mq_all, cids)
        total = 0
        for index in range(0, members, max(members // 5, 1)):
            for group in (cids[:index] + cids[index + 1 :], sorted([*cids, f"new@{index}"])):
                after = owners(name, mq_all, group)
                total += sum(before[queue] != after[queue] for queue in mq_all)
        return total

    changes = 2 * len(range(0, members, max(members // 5, 1)))
    assert moved("STICKY") <= changes * 1.5 * (mq_count / members)
    assert moved("STICKY") < moved("STICKY_EVEN") < moved("AVG")
    assert moved("STICKY_EVEN") <= changes * 4 * (mq_count / members)


# --- selectors ---------------------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_latency_fault_tolerance_isolates_by_latency_class() -> None:
    clock = Clock()
    mq_all = queues(6)
    for latency_s, isolated_s in [(0.549, 0), (0.55, 2), (1.8, 5), (3.0, 6), (5.0, 10), (15.0, 30)]:
        selector = LatencyFaultTolerant(clock)
        selector.report(mq_all[0], latency_s, None)
        clock.now += isolated_s - 0.001 if isolated_s else 0
        used = {selector(mq_all, MESSAGE, None).broker_name for _ in range(12)}
        assert ("broker-0" in used) == (not isolated_s), latency_s
        clock.now += 0.002
        assert len({selector(mq_all, MESSAGE, None) for _ in range(12)}) == 6
    selector = LatencyFaultTolerant(clock)
    selector.report(mq_all[0], 0.001, ConnectionError())  # as 10 s
    clock.now += 9.9
    assert "broker-0" not in {selector(mq_all, MESSAGE, None).broker_name for _ in range(12)}
    for queue in mq_all:
        selector.report(queue, 20.0, None)
    assert len({selector(mq_all, MESSAGE, None) for _ in range(12)}) == 6  # nobody is left: all are


def test_latency_aware_avoids_slow_and_busy_brokers_and_returns() -> None:
    clock = Clock()
    mq_all = queues(6)
    selector = LatencyAware(clock)

    def shares(count: int = 600) -> Counter[str]:
        return Counter(selector(mq_all, MESSAGE, None).broker_name for _ in range(count))

    for queue in mq_all:
        selector.sending(queue)
        selector.report(queue, 0.5 if queue.broker_name == "broker-0" else 0.005, None)
    assert shares()["broker-0"] < 120  # only when both choices are of it: one in nine
    for queue in mq_all:
        if queue.broker_name == "broker-1":
            for _ in range(500):
                selector.sending(queue)
    counted = shares()
    assert counted["broker-2"] > counted["broker-1"]
    clock.now += 60
    assert shares()["broker-0"] > 120  # its latency is long ago
    selector.sending(mq_all[0])
    selector.report(mq_all[0], 0.001, ConnectionError())
    assert shares()["broker-0"] < 120


def test_same_zone_prefers_its_zone_and_uses_all_if_it_is_empty() -> None:
    mq_all = queues(6)
    for zone, expected in [("west", {"broker-1", "broker-2"}), ("south", {"broker-0", "broker-1", "broker-2"})]:
        selector = queue_selector("same-zone", create_plugin_manager(), context(zone=zone))
        assert {selector(mq_all, MESSAGE, None).broker_name for _ in range(12)} == expected
    with pytest.raises(ConfigError, match="needs zone"):
        queue_selector("SAME_ZONE", create_plugin_manager(), context())


def test_weighted_sends_in_proportion_to_the_weights() -> None:
    mq_all = queues(6)
    selector = queue_selector("WEIGHTED", create_plugin_manager(), context(broker_weights="broker-0=3;broker-2=0"))
    picked = Counter(selector(mq_all, MESSAGE, None) for _ in range(400))
    assert sorted(picked.values()) == [50, 50, 150, 150]
    with pytest.raises(ConfigError, match="'broker-0=-1' is not"):
        queue_selector("WEIGHTED", create_plugin_manager(), context(broker_weights="broker-0=-1"))


def test_weighted_warms_up_a_new_group() -> None:
    from rmq_redis.plugins.defaults.queues import Weighted

    clock = Clock()
    selector = Weighted({}, 100.0, clock)

    def share() -> int:
        return Counter(selector(after, MESSAGE, None).broker_name for _ in range(1100))["broker-1"]

    after = queues(2, 1)
    selector(after, MESSAGE, None)
    after = queues(4, 2)
    assert 90 <= share() <= 110
    clock.now += 50
    assert 350 <= share() <= 380
    clock.now += 60
    assert 540 <= share() <= 560


def test_consistent_hash_moves_few_keys() -> None:
    selector = queue_selector("CONSISTENT_HASH", create_plugin_manager())
    before, after = queues(12), queues(12)[:-1]
    keys = [f"order-{number}" for number in range(2000)]
    first = {key: selector(before, MESSAGE, key) for key in keys}
    second = {key: selector(after, MESSAGE, key) for key in keys}
    assert all(first[key] == second[key] for key in keys if first[key] in after)
    assert len(set(first.values())) == 12
    assert {selector(after, MESSAGE, None) for _ in after} == set(after)


def test_read_selectors_choose_master_or_slave_first() -> None:
    queue = MessageQueue("T", "b", 1)
    addresses = {0: "m:1", 1: "s:1", 3: "t:1"}
    assert read_selector("suggested", create_plugin_manager()) is None
    master, slave = (read_selector(name, create_plugin_manager()) for name in ("MASTER_FIRST", "SLAVE_FIRST"))
    assert master is not None
    assert slave is not None
    assert (master(queue, addresses, 3), slave(queue, addresses, 0), slave(queue, {0: "m:1"}, 0)) == (0, 3, 0)


def test_strategy_names_are_unique() -> None:
    for hook in ("register_queue_selectors", "register_allocate_strategies"):
        assert offers(hook, create_plugin_manager(), context=context())
