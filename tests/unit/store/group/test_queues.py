"""Queues as streams: offsets, group commit, fencing, reconnecting, reading, searching by time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from helpers import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmq_redis.errors import StoreError, StoreFencedError
from rmq_redis.model import MessageQueue
from rmq_redis.protocol.record import RecordHead, decode_records, encode_record
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.store.group.queue import (
    MAX_QUEUE_NUMBER,
    Queue,
    deliver,
    entry_id,
    queue_offset_of,
    split_physical_offset,
)
from rmq_redis.store.group.queues import COMMIT_RECORDS, QueueStore
from rmq_redis.store.group.session import StoreSettings
from rmq_redis.store.keys import GroupKeys

NUMBERS = count(1)


def record(text: str, *, stored_ms: int = 1700000000000, tags_code: int = 0) -> bytes:
    """A stored record: the place of the offsets carries the tag's hash code."""
    return encode_record(
        RecordHead(
            queue_id=0,
            flag=0,
            sys_flag=0,
            born_timestamp_ms=1,
            born_host=bytes(8),
            store_timestamp_ms=stored_ms,
            store_host=bytes(8),
            queue_offset=tags_code,
        ),
        b"T",
        text.encode(),
        b"",
    )


class Recorder:
    """A queue store with what it called back."""

    def __init__(self, url: str, prefix: str, *, reads_only: bool = False) -> None:
        self.new_records: list[tuple[Queue, int, list[bytes]]] = []
        self.fenced: list[StoreFencedError] = []
        self.url = url
        self.store = QueueStore(
            StoreSettings(url=url, reads_only=reads_only),
            GroupKeys(prefix, "broker-a"),
            on_new_records=lambda *args: self.new_records.append(args),
            on_fenced=self.fenced.append,
        )

    async def queues(self, *names: str) -> list[Queue]:
        """Opens queues of the topic T, each with a number of its own."""
        await self.store.open_queues([(MessageQueue("T", "broker-a", int(name)), next(NUMBERS)) for name in names])
        return [self.store.queues["T", int(name)] for name in names]

    def append(self, queue: Queue, *texts: str, stored_ms: int = 1700000000000) -> asyncio.Future[int]:
        """Appends records; the future gets the offset of the first or the error."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def done(of: Queue, offset: int, error: StoreError | None, arg: Any) -> None:
            assert of is queue
            assert arg == texts
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(offset)

        records = [record(text, stored_ms=stored_ms) for text in texts]
        self.store.append(queue, records, sum(map(len, records)), done, texts)
        return future

    async def read(self, queue: Queue, offset: int, count: int = 100) -> tuple[list[int], list[bytes]]:
        future: asyncio.Future[tuple[list[int], list[bytes]]] = asyncio.get_running_loop().create_future()

        def done(offsets: list[int], records: list[bytes], error: StoreError | None) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result((list(offsets), records))

        self.store.read(queue, offset, count, done)
        return await future


OpenStore = Callable[..., Awaitable[Recorder]]


@pytest.fixture
async def open_store(store_url: str, key_prefix: str) -> AsyncIterator[OpenStore]:
    """Opens stores of one group: each takes it over from the one before."""
    opened: list[Recorder] = []

    async def open_(**options: Any) -> Recorder:
        recorder = Recorder(store_url, key_prefix, **options)
        await recorder.store.start()
        opened.append(recorder)
        return recorder

    yield open_
    for recorder in opened:
        await recorder.store.close()


def plain_redis(store: Recorder) -> redis_py.Redis:
    return redis_py.Redis.from_url(store.url, protocol=2)


def bodies(records: list[bytes]) -> list[str]:
    return [message.text() for message in decode_records(b"".join(records))]


# --- appending -------------------------------------------------------------------------------------------------------


async def test_offsets_are_dense_and_in_order_across_interleaved_queues(open_store: OpenStore) -> None:
    s = await open_store()
    queues = await s.queues("0", "1", "2")
    offsets = await asyncio.gather(*(s.append(queues[i % 3], f"m{i}") for i in range(120)))
    for q in range(3):
        assert offsets[q::3] == list(range(40))
        assert queues[q].max_offset == 40
        assert queues[q].min_offset == 0
        found, records = await s.read(queues[q], 0)
        assert found == list(range(40))
        assert bodies(records) == [f"m{i}" for i in range(q, 120, 3)]
    assert s.store.put_total == 120
    assert s.store.pending_bytes == 0


async def test_records_of_one_append_are_contiguous(open_store: OpenStore) -> None:
    s = await open_store()
    (queue,) = await s.queues("0")
    offsets = await asyncio.gather(s.append(queue, "a", "b", "c"), s.append(queue, "d"), s.append(queue, "e", "f"))
    assert list(offsets) == [0, 3, 4]
    assert bodies((await s.read(queue, 0))[1]) == list("abcdef")


async def test_appends_of_one_turn_of_the_loop_go_in_one_call(open_store: OpenStore) -> None:
    s = await open_store()
    queues = await s.queues("0", "1")
    connection = s.store.current()
    calls: list[str] = []
    call_function = connection.call_function

    def counting(reply: Any, name: str, keys: Any, args: Any) -> None:
        calls.append(name)
        call_function(reply, name, keys, args)

    connection.call_function = counting  # type: ignore[method-assign]
    await asyncio.gather(*(s.append(queues[i % 2], "x") for i in range(COMMIT_RECORDS - 1)))
    assert calls == ["append"]
    await asyncio.gather(*(s.append(queues[i % 2], "x") for i in range(3 * COMMIT_RECORDS)))
    assert len(calls) <= 4
    assert queues[0].max_offset + queues[1].max_offset == 4 * COMMIT_RECORDS - 1


async def test_failing_callback_does_not_affect_others_of_its_commit(open_store: OpenStore) -> None:
    s = await open_store()
    queues = await s.queues("0", "1")
    told = s.store._on_new_records

    def wrong_once(queue: Queue, first_offset: int, records: list[bytes]) -> None:
        told(queue, first_offset, records)
        if queue is queues[0]:
            raise ValueError("a mistake")

    def wrong(queue: Queue, offset: int, error: StoreError | None, arg: Any) -> None:
        raise ValueError("a mistake")

    s.store._on_new_records = wrong_once
    s.store.append(queues[0], [record("x")], len(record("x")), wrong, None)
    assert await asyncio.gather(s.append(queues[0], "a"), s.append(queues[1], "b")) == [1, 0]
    assert s.store.pending_bytes == 0
    assert [queue.max_offset for queue in queues] == [2, 1]


async def test_new_records_are_notified_once_per_queue(open_store: OpenStore) -> None:
    s = await open_store()
    a, b = await s.queues("0", "1")
    await s.append(a, "before")
    s.new_records.clear()
    await asyncio.gather(s.append(a, "1"), s.append(b, "2"), s.append(a, "3", "4"))
    assert [(queue, first, bodies(records)) for queue, first, records in s.new_records] == [
        (a, 1, ["1", "3", "4"]),
        (b, 0, ["2"]),
    ]


async def test_streams_are_readable_by_any_redis_client(open_store: OpenStore, key_prefix: str) -> None:
    s = await open_store()
    (queue,) = await s.queues("0")
    for i in range(5):
        await s.append(queue, f"m{i}")
    with plain_redis(s) as redis:
        key = f"{key_prefix}:{{broker-a}}:queue:T:0"
        entries = redis.xrange(key)
        assert [entry for entry, _ in entries] == [b"0-1", b"0-2", b"0-3", b"0-4", b"0-5"]
        assert all(set(fields) == {b"m"} for _, fields in entries)
        assert redis.xinfo_stream(key)["last-generated-id"] == b"0-5"
        assert queue.max_offset == 5
        assert bodies([fields[b"m"] for _, fields in entries]) == [f"m{i}" for i in range(5)]


async def test_large_and_binary_records_survive(open_store: OpenStore) -> None:
    s = await open_store()
    (queue,) = await s.queues("0")
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    data = bytes(range(256)) * 2048 + b"\r\n$5\r\n"
    s.store.append(queue, [data], len(data), lambda q, offset, error, arg: future.set_result(offset), None)
    assert await future == 0
    assert (await s.read(queue, 0))[1] == [data]


async def test_functions_are_used_where_the_server_has_them(open_store: OpenStore, store_url: str) -> None:
    s = await open_store()
    with plain_redis(s) as redis:
        try:
            has_functions = bool(redis.execute_command("FUNCTION", "LIST"))
        except redis_py.ResponseError:
            has_functions = False
    assert s.store.current().uses_functions == has_functions


# --- reopening and fencing -------------------------------------------------------------------------------------------


async def test_new_store_continues_after_the_last_offset(open_store: OpenStore) -> None:
    first = await open_store()
    (queue,) = await first.queues("0")
    await first.append(queue, "a", "b")
    await first.store.close()
    second = await open_store()
    (queue,) = await second.queues("0")
    assert (queue.min_offset, queue.max_offset) == (0, 2)
    assert await second.append(queue, "c") == 2
    assert second.store.epoch == first.store.epoch + 1


async def test_older_master_is_fenced_and_notified_once(open_store: OpenStore) -> None:
    old = await open_store()
    (old_queue,) = await old.queues("0")
    await old.append(old_queue, "a")
    new = await open_store()
    (new_queue,) = await new.queues("0")
    results = await asyncio.gather(old.append(old_queue, "x"), old.append(old_queue, "y", "z"), return_exceptions=True)
    assert {type(result) for result in results} == {StoreFencedError}
    with pytest.raises(StoreError):
        await old.append(old_queue, "later")
    assert len(old.fenced) == 1
    assert not old.store.available
    assert old.store.pending_bytes == 0
    assert await new.append(new_queue, "b") == 1
    assert bodies((await new.read(new_queue, 0))[1]) == ["a", "b"]
    assert not new.fenced


async def test_reader_does_not_take_over_the_group(open_store: OpenStore) -> None:
    writer = await open_store()
    (queue,) = await writer.queues("0")
    reader = await open_store(reads_only=True)
    (copy,) = await reader.queues("0")
    assert await writer.append(queue, "a") == 0
    assert copy.max_offset == 0
    await reader.store.refresh([copy])
    assert copy.max_offset == 1
    assert bodies((await reader.read(copy, 0))[1]) == ["a"]


async def test_groups_do_not_see_each_other(store_url: str, key_prefix: str) -> None:
    stores = [Recorder(store_url, f"{key_prefix}-{i}") for i in range(2)]
    for s in stores:
        await s.store.start()
        (queue,) = await s.queues("0")
        assert await s.append(queue, "x") == 0
    for s in stores:
        await s.store.close()


# --- reading ---------------------------------------------------------------------------------------------------------


async def test_read_starts_at_offset_and_stops_at_count_or_end(open_store: OpenStore) -> None:
    s = await open_store()
    (queue,) = await s.queues("0")
    await s.append(queue, *"abcdef")
    assert await s.read(queue, 2, 3) == ([2, 3, 4], (await s.read(queue, 0))[1][2:5])
    assert (await s.read(queue, 5, 10))[0] == [5]
    assert await s.read(queue, 6, 10) == ([], [])
    assert await s.read(queue, 10**12, 10) == ([], [])


async def test_entries_removed_by_hand_do_not_shift_offsets(open_store: OpenStore) -> None:
    s = await open_store()
    (queue,) = await s.queues("0")
    await s.append(queue, *"abcdefgh")
    with plain_redis(s) as redis:
        redis.xdel(queue.key, "0-1", "0-2", "0-5", "0-8")
    offsets, records = await s.read(queue, 0)
    assert offsets == [2, 3, 5, 6]
    assert bodies(records) == list("cdfg")
    messages = decode_records(bytes(deliver(queue, records, offsets)))
    assert [message.queue_offset for message in messages] == offsets
    assert [split_physical_offset(m.commit_log_offset) for m in messages] == [(queue.number, o) for o in offsets]
    assert (await s.read(queue, 4))[0] == [5, 6]
    assert await s.store.read_one(queue, 0) == (2, records[0])
    assert await s.store.read_one(queue, 7) is None
    await s.store.refresh([queue])
    assert (queue.min_offset, queue.max_offset) == (2, 8)
    assert await s.append(queue, "i") == 8


async def test_a_queue_emptied_by_hand_keeps_its_offsets(open_store: OpenStore) -> None:
    s = await open_store()
    (queue,) = await s.queues("0")
    await s.append(queue, *"abc")
    with plain_redis(s) as redis:
        redis.xtrim(queue.key, maxlen=0, approximate=False)
    await s.store.refresh([queue])
    assert (queue.min_offset, queue.max_offset) == (3, 3)
    assert await s.append(queue, "d") == 3


async def test_delivery_writes_offsets_into_a_copy_of_the_record(open_store: OpenStore) -> None:
    s = await open_store()
    (queue,) = await s.queues("0")
    await s.append(queue, *"abc")
    offsets, records = await s.read(queue, 1)
    before = list(records)
    messages = decode_records(bytes(deliver(queue, records, offsets)))
    assert [(m.text(), m.queue_offset, m.commit_log_offset) for m in messages] == [
        ("b", 1, queue.physical_offset(1)),
        ("c", 2, queue.physical_offset(2)),
    ]
    assert records == before


async def test_forgotten_queues_are_reopened(open_store: OpenStore) -> None:
    s = await open_store()
    (queue,) = await s.queues("0")
    await s.append(queue, "a")
    assert s.store.forget_queues("T") == [queue]
    assert not s.store.queues
    assert not s.store.queues_by_number
    (again,) = await s.queues("0")
    assert again is not queue
    assert again.max_offset == 1


async def test_queue_with_changed_number_is_reopened(open_store: OpenStore) -> None:
    """A slave sees a topic that was deleted and made again between two looks."""
    s = await open_store()
    (queue,) = await s.queues("0")
    same = MessageQueue("T", "broker-a", 0)
    await s.store.open_queues([(same, queue.number)])
    assert s.store.queues["T", 0] is queue
    await s.store.open_queues([(same, queue.number + 1000)])
    assert s.store.queues["T", 0].number == queue.number + 1000
    assert list(s.store.queues_by_number) == [queue.number + 1000]


# --- searching by time -----------------------------------------------------------------------------------------------

_topics = count()


@settings(
    max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(
    steps=st.lists(st.integers(0, 3), max_size=12),
    removed=st.integers(0, 4),
    asked=st.lists(st.integers(-2, 40), min_size=1, max_size=6),
)
async def test_search_by_timestamp_agrees_with_a_linear_search(
    open_store: OpenStore, steps: list[int], removed: int, asked: list[int]
) -> None:
    s = await open_store()
    number = next(_topics)
    await s.store.open_queues([(MessageQueue(f"S{number}", "broker-a", 0), next(NUMBERS))])
    queue = s.store.queues[f"S{number}", 0]
    times: list[int] = []
    for step in steps:
        times.append((times[-1] if times else 0) + step)
        await s.append(queue, "x", stored_ms=times[-1])
    removed = min(removed, len(times))
    if removed:
        with plain_redis(s) as redis:
            redis.xdel(queue.key, *(entry_id(offset) for offset in range(removed)))
        await s.store.refresh([queue])
    offsets = range(removed, len(times))
    for timestamp in asked:
        lower = next((o for o in offsets if times[o] >= timestamp), len(times))
        upper = next((o for o in reversed(offsets) if times[o] <= timestamp), 0)
        assert await s.store.search_by_timestamp(queue, timestamp) == lower
        assert await s.store.search_by_timestamp(queue, timestamp, upper=True) == upper


async def test_store_timestamp_is_that_of_the_message_or_the_next(open_store: OpenStore) -> None:
    s = await open_store()
    (queue,) = await s.queues("0")
    assert await s.store.store_timestamp_ms(queue, 0) == -1
    await s.append(queue, "a", stored_ms=111)
    await s.append(queue, "b", stored_ms=222)
    assert [await s.store.store_timestamp_ms(queue, offset) for offset in (-5, 0, 1, 2)] == [111, 111, 222, -1]


# --- addresses -------------------------------------------------------------------------------------------------------


@given(st.integers(0, MAX_QUEUE_NUMBER), st.integers(0, 2**40 - 1))
def test_a_physical_offset_leads_back_to_queue_and_offset(number: int, offset: int) -> None:
    physical = Queue(MessageQueue("T", "b", 0), number, b"k").physical_offset(offset)
    assert 0 <= physical < 2**63
    assert split_physical_offset(physical) == (number, offset)


@given(st.integers(0, 2**62))
def test_entry_ids_and_offsets_convert_both_ways(offset: int) -> None:
    assert entry_id(offset) == b"0-%d" % (offset + 1)
    assert queue_offset_of(entry_id(offset)) == offset


# --- a server that goes away -----------------------------------------------------------------------------------------


@pytest.fixture
async def own_server(tmp_path: Path, embedded_server: EmbeddedServer) -> AsyncIterator[EmbeddedServer]:
    """A server that a test may kill; it loses nothing that it confirmed."""
    server = EmbeddedServer(tmp_path / "valkey", settings={"appendfsync": "always"})
    server.start()
    yield server
    server.kill()


async def test_appends_continue_without_a_gap_after_server_restart(own_server: EmbeddedServer) -> None:
    s = Recorder(own_server.url, "t")
    await s.store.start()
    queues = await s.queues("0", "1")
    await asyncio.gather(*(s.append(queues[i % 2], f"m{i}") for i in range(10)))
    own_server.kill()
    await eventually(lambda: not s.store.available)
    with pytest.raises(StoreError):
        await s.append(queues[0], "lost")
    with pytest.raises(StoreError):
        s.store.current()
    assert s.store.pending_bytes == 0
    own_server.start()
    await eventually(lambda: s.store.available)
    assert queues[0].max_offset == 5
    assert await s.append(queues[0], "next") == 5
    await eventually(lambda: s.store._reads.connection is not None)
    assert bodies((await s.read(queues[0], 4))[1]) == ["m8", "next"]
    assert not s.fenced
    await s.store.close()


async def test_lost_replies_fail_and_offsets_are_read_again(own_server: EmbeddedServer) -> None:
    s = Recorder(own_server.url, "t")
    await s.store.start()
    (queue,) = await s.queues("0")
    await s.append(queue, "a")
    sent = [s.append(queue, f"m{i}") for i in range(20)]
    await asyncio.sleep(0)  # the commit is on its way
    s.store.current()._transport.abort()  # type: ignore[union-attr]
    results = await asyncio.gather(*sent, return_exceptions=True)
    assert all(isinstance(result, StoreError) for result in results)
    await eventually(lambda: s.store.available)
    with plain_redis(s) as redis:
        stored = redis.xlen(queue.key)
    assert queue.max_offset == stored  # all of the commit or nothing of it
    assert stored in (1, 21)
    assert await s.append(queue, "b") == stored
    await s.store.close()


async def test_master_fenced_while_disconnected_stays_fenced(own_server: EmbeddedServer) -> None:
    old, new = Recorder(own_server.url, "t"), Recorder(own_server.url, "t")
    await old.store.start()
    (queue,) = await old.queues("0")
    await old.append(queue, "a")
    await new.store.start()
    own_server.kill()
    await eventually(lambda: not old.store.available and not new.store.available)
    own_server.start()
    await eventually(lambda: old.store.available and new.store.available)
    with pytest.raises(StoreFencedError):
        await old.append(queue, "x")
    (queue,) = await new.queues("0")
    assert await new.append(queue, "b") == 1
    await old.store.close()
    await new.store.close()


async def test_offsets_of_lost_messages_are_not_reused(own_server: EmbeddedServer) -> None:
    """As after a failover to a replica that lacked the last writes: consumers are past them."""
    s = Recorder(own_server.url, "t")
    await s.store.start()
    queues = await s.queues("0", "1", "2")
    await s.append(queues[0], "a", "b", "c")
    await s.append(queues[1], "x")
    with plain_redis(s) as redis:
        redis.delete(queues[0].key, queues[1].key)
        redis.xadd(queues[0].key, {"m": b"a"}, "0-1")
    before = s.store.current()
    s.store.reconnect()
    await eventually(lambda: s.store._writes.connection not in (None, before))
    await eventually(lambda: s.store._reads.connection is not None)
    assert [queue.max_offset for queue in queues] == [3, 1, 0]
    assert [await s.append(queue, "new") for queue in queues] == [3, 1, 0]
    with plain_redis(s) as redis:
        assert [entry for entry, _ in redis.xrange(queues[0].key)] == [b"0-1", b"0-4"]
    assert (await s.read(queues[0], 1))[0] == [3]
    await s.store.close()
