"""The simulator's consumers: moves by hand and by trying all, and shares that cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq_redis.hookspecs import AllocateStrategy, ClientContext, hookimpl
from rmq_redis.labs.simulator.cluster import Cluster, Consumers, Event, Group
from rmq_redis.labs.simulator.consumers import least_moves, moves, simulate_allocation
from rmq_redis.labs.simulator.figures import Change, ConsumerFigures
from rmq_redis.labs.simulator.virtual import VirtualClock
from rmq_redis.model import MessageQueue
from rmq_redis.plugins import create_plugin_manager
from rmq_redis.plugins.defaults.allocate import allocate_averagely

QUEUES = [MessageQueue("T", "a", index) for index in range(6)]


def cluster(*events: Event, queues: int = 10, number: int = 4, **values: Any) -> Cluster:
    settings: dict[str, Any] = {
        "groups": [Group(name="a", queues=queues)],
        "consumers": [Consumers(group="g", number=number)],
        "duration_s": 10.0,
    }
    return Cluster(events=list(events), **(settings | values))


def run(described: Cluster, name: str, *plugins: object) -> ConsumerFigures:
    (figures,) = simulate_allocation(described, name, create_plugin_manager(plugins=plugins), VirtualClock())
    return figures


def averagely(*cids: str) -> dict[MessageQueue, str]:
    return {queue: cid for cid in cids for queue in allocate_averagely("g", cid, QUEUES, list(cids))}


@pytest.mark.parametrize(
    ("before", "after", "moved", "least"),
    [
        ("xyz", "xz", 2, 2),  # x01 y23 z45 -> x012 z345: only the queues of y
        ("xyz", "yz", 3, 2),  # y23 z45 -> y012 z345: 3, too, goes from y to z
        ("xy", "xyz", 3, 2),  # x012 y345 -> x01 y23 z45: 2 to y, 4 and 5 to z; z needs only two
        ("x", "xy", 3, 3),
        ("xyz", "xyz", 0, 0),
        ("xy", "zw", 6, 6),
    ],
)
def test_moves_of_avg_equal_those_counted_by_hand(before: str, after: str, moved: int, least: int) -> None:
    old, new = averagely(*before), averagely(*after)
    assert (moves(old, new), least_moves(old, QUEUES, list(after))) == (moved, least)


def test_new_and_lost_queues_are_not_counted_as_moved() -> None:
    old = dict.fromkeys(QUEUES[:3], "x")
    new = {QUEUES[2]: "x", QUEUES[3]: "y", QUEUES[4]: "x", QUEUES[5]: "y"}
    assert moves(old, new) == 0
    assert least_moves(old, QUEUES[2:], ["x", "y"]) == 0


@given(st.lists(st.sampled_from("xyzw"), min_size=1, max_size=6), st.sets(st.sampled_from("xyzv"), min_size=1))
def test_least_moves_equals_the_minimum_over_all_even_shares(owners: list[str], members: set[str]) -> None:
    queues = QUEUES[: len(owners)]
    old = dict(zip(queues, owners, strict=True))
    cids = sorted(members)
    sizes = {len(queues) // len(cids), -(-len(queues) // len(cids))}
    tried = (
        moves(old, dict(zip(queues, choice, strict=True)))
        for choice in product(cids, repeat=len(queues))
        if {choice.count(cid) for cid in cids} <= sizes
    )
    assert least_moves(old, queues, cids) == min(tried)


def test_shares_are_reported_after_each_change() -> None:
    events = [
        Event(at=1.0, event="join", group="g"),
        Event(at=2.0, event="leave", group="g", number=3),
        Event(at=3.0, event="add", group="b"),
        Event(at=3.0, event="join", group="g", number=2),
    ]
    described = cluster(*events, groups=[Group(name="a", queues=10), Group(name="b", queues=2)])
    changes = run(described, "avg").changes
    assert [(c.at_s, c.what, c.members, c.queues, c.fewest, c.most, c.problem) for c in changes] == [
        (0.0, "beginning", 4, 10, 2, 3, ""),
        (1.0, "1 joins", 5, 10, 2, 2, ""),
        (2.0, "3 leave", 2, 10, 5, 5, ""),
        (3.0, "add b, 2 join", 4, 12, 3, 3, ""),
    ]
    assert [change.least_moves for change in changes] == [0, 2, 6, 4]
    assert changes[0].balance == 1.2
    sticky, even = run(described, "STICKY"), run(described, "STICKY_EVEN")
    assert 12 <= sum(change.moved for change in even.changes) < sum(change.moved for change in changes)
    assert sum(change.moved for change in sticky.changes) < sum(change.moved for change in even.changes)
    assert run(described, "STICKY") == sticky


def test_all_members_may_leave_and_new_ones_join() -> None:
    events = [Event(at=1.0, event="leave", group="g", number=4), Event(at=2.0, event="join", group="g")]
    assert [(c.members, c.most, c.moved) for c in run(cluster(*events), "AVG").changes] == [
        (4, 3, 0),
        (0, 0, 0),
        (1, 10, 0),
    ]


def test_consumer_groups_and_zones_are_simulated() -> None:
    groups = [Group(name="e", zone="east", queues=4), Group(name="w", zone="west", queues=4)]
    members = [Consumers(group="g", number=2, zone="east"), Consumers(group="g", number=1, zone="west")]
    members.append(Consumers(group="h", number=3))
    found = simulate_allocation(
        cluster(groups=groups, consumers=members), "MACHINE_ROOM_NEARBY", create_plugin_manager(), VirtualClock()
    )
    near, nowhere = (figures.changes[0] for figures in found)
    assert (near.fewest, near.most, near.problem) == (2, 4, "")  # two share the east, one has the west
    assert "has no room" in nowhere.problem
    assert "(3 of 3 members)" in nowhere.problem


# --- strategies that go wrong ------------------------------------------------------------------------------------


class Offering:
    """A plugin with one strategy, MINE."""

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy

    @hookimpl
    def register_allocate_strategies(self, context: ClientContext) -> Mapping[str, AllocateStrategy]:
        return {"MINE": self.strategy}


def failing(group: str, cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]) -> Sequence[MessageQueue]:
    raise ValueError("no idea")


def everything(group: str, cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]) -> Sequence[MessageQueue]:
    return mq_all


def nothing(group: str, cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]) -> Sequence[MessageQueue]:
    return []


def inventing(group: str, cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]) -> Sequence[MessageQueue]:
    return [MessageQueue("T", "nowhere", 1)]


def taking(group: str, cid: str, mq_all: list[MessageQueue], cid_all: list[str]) -> Sequence[MessageQueue]:
    """Right, but it works in the lists that it was given."""
    share = list(allocate_averagely(group, cid, mq_all, cid_all))
    mq_all.clear()
    cid_all.clear()
    return share


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        (failing, "raised ValueError: no idea (4 of 4 members)"),
        (everything, "is given 4 times"),
        (nothing, "nobody gets"),
        (inventing, "on nowhere does not exist"),
        (lambda *_: 7, "raised TypeError"),
        (lambda *_: ["a"], "gets 'a', which is no queue"),
        (lambda *_: [[]], "gets [], which is no queue"),
        (taking, ""),
    ],
)
def test_invalid_shares_are_reported(strategy: Any, problem: str) -> None:
    figures = run(cluster(Event(at=1.0, event="join", group="g")), "mine", Offering(strategy))
    assert problem in figures.changes[0].problem
    assert bool(figures.changes[0].problem) is bool(problem)
    assert len(figures.changes) == 2


def test_movement_is_counted_from_the_last_valid_shares() -> None:
    def fails_with_five(
        group: str, cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> Sequence[MessageQueue]:
        return mq_all if len(cid_all) == 5 else allocate_averagely(group, cid, mq_all, cid_all)

    events = [Event(at=1.0, event="join", group="g"), Event(at=2.0, event="join", group="g", number=5)]
    figures = run(cluster(*events), "MINE", Offering(fails_with_five))
    first, broken, last = figures.changes
    assert (first.problem, last.problem) == ("", "")
    assert broken == Change(1.0, "1 joins", 5, 10, problem=broken.problem)
    assert last.moved >= last.least_moves > 0
