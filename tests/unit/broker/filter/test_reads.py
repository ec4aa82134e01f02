"""How many records a filtered pull reads, and how much work one connection gets in a turn of the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import Any, cast

import pytest

from rmq_redis.broker.budget import Budget
from rmq_redis.broker.consume.hold import HeldPull, PullHold
from rmq_redis.broker.filter.reads import MAX_SCAN_NUMS, READS_AT_ONCE, FilteredReads, choose, learn, scan_nums
from rmq_redis.broker.filter.subscription import MAX_TAG_EXPRESSION_LENGTH, SQL92, _Cache, message_filter
from rmq_redis.broker.pop.take import PopRequest, Room
from rmq_redis.errors import SubscriptionParseFailedError
from rmq_redis.model import MessageQueue
from rmq_redis.protocol.command import request
from rmq_redis.remoting.connection import Connection
from rmq_redis.store.group.queue import Queue


class Filter:
    """Passes records that begin with ``y``."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.share = 0.25
        self.looks = 0
        self._cost_s = cost_s

    def matches(self, record: bytes) -> bool:
        self.looks += 1
        until = time.monotonic() + self._cost_s
        while time.monotonic() < until:
            pass
        return record.startswith(b"y")


class FakeConnection:
    closed = False


def pull_of(connection: Any, message_filter: Any, max_msg_nums: int = 32, queue: Any = None) -> HeldPull:
    return HeldPull(connection, request(11), queue, 0, max_msg_nums, 1 << 20, message_filter, 0.0, "G")


@pytest.mark.parametrize(
    ("one_in", "least", "most"), [(1, 32, 40), (10, 250, 400), (1000, MAX_SCAN_NUMS, MAX_SCAN_NUMS)]
)
def test_scan_size_adapts_to_the_share_that_passes(one_in: int, least: int, most: int) -> None:
    message_filter = Filter()
    assert scan_nums(32, message_filter) == 128
    records = [b"y" if number % one_in == 0 else b"n" for number in range(20_000)]
    position = 0
    while position < 10_000:
        nums = scan_nums(32, message_filter)
        _, _, position = choose(
            pull_of(FakeConnection(), message_filter),
            range(position, position + nums),
            records[position : position + nums],
        )
    assert least <= scan_nums(32, message_filter) <= most


def test_share_stays_between_0_and_1() -> None:
    message_filter = Filter()
    for passed, looked_at in [(0, 800)] * 50 + [(32, 32)] * 50 + [(0, 1)] * 50:
        learn(message_filter, passed, looked_at)
        assert 0 < message_filter.share <= 1
        assert 32 <= scan_nums(32, message_filter) <= MAX_SCAN_NUMS
        assert scan_nums(1024, message_filter) == 1024


def test_expensive_filter_ends_early_and_loses_nothing() -> None:
    message_filter = Filter(cost_s=0.001)
    records = [b"y%d" % number for number in range(500)]
    got: list[bytes] = []
    position, pulls = 0, 0
    while position < len(records):
        offsets = range(position, len(records))
        passed_offsets, passed, position = choose(
            pull_of(FakeConnection(), message_filter, 1024), offsets, records[position:]
        )
        assert [records[offset] for offset in passed_offsets] == passed
        got += passed
        pulls += 1
    assert got == records
    assert pulls > 1


async def test_concurrent_reads_of_a_connection_are_limited() -> None:
    started: list[HeldPull] = []
    reads = FilteredReads(started.append)
    greedy, modest, gone = (cast(Connection, FakeConnection()) for _ in range(3))
    pulls = [pull_of(greedy, Filter()) for _ in range(50)]
    for pull in pulls:
        reads.start(pull)
    assert len(started) == READS_AT_ONCE
    reads.start(pull_of(modest, Filter()))
    assert started[-1].connection is modest  # it does not wait for the others' reads
    reads.done(modest)
    for _ in pulls:
        reads.done(greedy)
        await asyncio.sleep(0)
    assert [pull for pull in started if pull.connection is greedy] == pulls
    for _ in range(6):
        reads.start(pull_of(gone, Filter()))
    gone.closed = True
    for _ in range(READS_AT_ONCE):
        reads.done(gone)
    assert reads._running == {}
    assert reads._waiting == {}


def test_tag_expression_length_and_filter_cache_are_limited() -> None:
    assert message_filter("a || " * 3000) is not None
    with pytest.raises(SubscriptionParseFailedError, match="16385 characters"):
        message_filter("a" * (MAX_TAG_EXPRESSION_LENGTH + 1))
    cache = _Cache()
    for number in range(5000):
        cache.put(("TAG", f"{number}" + "x" * 10_000), None)
        assert sum(len(text) for _, text in cache.filters) <= 1024 * 1024 + 20_000
    for number in range(5000):
        cache.put(("TAG", f"{number}"), None)
        assert len(cache.filters) <= 1000


def test_refused_expression_that_is_cached_keeps_no_request_in_memory() -> None:
    class Request:
        """A request of many megabytes."""

    def ask(number: int) -> weakref.ref[Request]:
        received = Request()
        with pytest.raises(SubscriptionParseFailedError):
            message_filter(f"a = = {number}", SQL92)
        return weakref.ref(received)

    requests = [ask(number) for number in range(3)]
    gc.collect()
    assert [received() for received in requests] == [None, None, None]


def test_held_pulls_share_filter_results_within_a_budget() -> None:
    queue = Queue(MessageQueue("T", "b", 0), 0, b"key")
    hold = PullHold(lambda _: None, max_held=1000)
    shared = Filter()
    for _ in range(100):
        hold.hold(pull_of(FakeConnection(), shared, queue=queue))
    assert hold.take_matching(queue, 0, [b"n", b"n"], Budget()) == []
    assert shared.looks == 2
    filters = [Filter(cost_s=0.002) for _ in range(50)]
    expensive = [pull_of(FakeConnection(), message_filter, queue=queue) for message_filter in filters]
    for pull in expensive:
        hold.hold(pull)
    woken = hold.take_matching(queue, 0, [b"n"], Budget())
    assert sum(message_filter.looks for message_filter in filters) < 10
    assert woken  # they read on their own, a few of a connection at a time
    assert [pull.filter for pull in woken] == [f for f in filters if not f.looks]
    assert hold.count == 150 - len(woken)


def test_pop_with_expensive_filter_ends_early_and_loses_nothing() -> None:
    queues = [Queue(MessageQueue("T", "b", number), number, b"key") for number in range(20)]
    left = {queue: [b"y", b"n"] * 30 for queue in queues}
    message_filter = Filter(cost_s=0.001)
    pop = PopRequest(cast(Connection, FakeConnection()), "G", ("T",), -1, 10_000, 1000, False, message_filter)
    got, rounds = 0, 0
    while any(left.values()):
        room, before = Room(10_000, 1 << 30), message_filter.looks
        for queue in queues:
            records = left[queue]
            wanted, looked_at = room.choose(pop, queue, range(len(records)), records, None)
            left[queue] = records[looked_at:]
            got += len(wanted)
        rounds += 1
        assert 0 < message_filter.looks - before < 100
    assert got == 20 * 30
    assert rounds > 10
