"""The sorted set of what is due later, on every kind of server: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmq_redis.errors import StoreError, StoreFencedError
from rmq_redis.hosts import pack_host
from rmq_redis.model import MessageQueue
from rmq_redis.protocol.record import RecordHead, decode_records, encode_record
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.store.group import schedule as schedule_store
from rmq_redis.store.group.queue import Queue, deliver
from rmq_redis.store.group.queues import QueueStore
from rmq_redis.store.group.schedule import Due, Held, Move, ScheduleStore
from rmq_redis.store.group.session import StoreSettings
from rmq_redis.store.keys import GroupKeys


def record(body: str, born_host: str = "10.0.0.7:50123") -> bytes:
    return encode_record(
        RecordHead(
            queue_id=0,
            flag=0,
            sys_flag=0,
            born_timestamp_ms=1,
            born_host=pack_host(born_host),
            store_timestamp_ms=2,
            store_host=pack_host("10.0.0.5:10911"),
        ),
        b"T",
        body.encode(),
        b"",
    )


async def add(store: ScheduleStore, body: str, due_ms: int, recall_key: str = "", **options: str) -> Held:
    future: asyncio.Future[Held] = asyncio.get_running_loop().create_future()

    def done(held: Held | None, error: Exception | None, arg: object) -> None:
        if error is None:
            assert held is not None
            future.set_result(held)
        else:
            future.set_exception(error)

    store.add(record(body, **options), due_ms, recall_key, done, None)
    return await future


@pytest.fixture
async def queue_store(store_url: str, key_prefix: str) -> AsyncIterator[QueueStore]:
    store = QueueStore(
        StoreSettings(url=store_url),
        GroupKeys(key_prefix, "broker-a"),
        on_new_records=lambda queue, first, records: None,
        on_fenced=lambda error: None,
    )
    await store.start()
    await store.open_queues([(MessageQueue("T", "broker-a", 0), 3)])
    yield store
    await store.close()


async def read(store: QueueStore, queue: Queue) -> list[tuple[str, int]]:
    future: asyncio.Future[list[tuple[str, int]]] = asyncio.get_running_loop().create_future()

    def done(offsets: list[int], records: list[bytes], error: Exception | None) -> None:
        messages = decode_records(bytes(deliver(queue, records, offsets)))
        future.set_result([(message.text(), message.store_timestamp_ms) for message in messages])

    store.read(queue, 0, 100, done)
    return await future


def moves_of(due: list[Due], queue: Queue | None, recall_key: str = "") -> list[Move]:
    return [Move(message, recall_key, queue) for message in due]


async def left(store: QueueStore) -> tuple[int, int, int]:
    """How much there is in the three keys."""
    keys = store.keys
    answers = [await store.current().execute("ZCARD", keys.scheduled)]
    answers += [await store.current().execute("HLEN", key) for key in (keys.scheduled_records, keys.recallable)]
    return answers[0], answers[1], answers[2]


async def test_due_messages_move_once_in_order_of_their_time(queue_store: QueueStore) -> None:
    schedule = ScheduleStore(queue_store)
    queue = queue_store.queues["T", 0]
    await asyncio.gather(add(schedule, "c", 30), add(schedule, "a", 10), add(schedule, "b", 20), add(schedule, "z", 99))
    assert await schedule.due(9, 10) == (10, [])
    next_ms, due = await schedule.due(30, 10)
    assert next_ms == 10
    assert await schedule.move(moves_of(due, queue), 77) == 3
    assert await schedule.move(moves_of(due, queue), 78) == 0
    assert await read(queue_store, queue) == [("a", 77), ("b", 77), ("c", 77)]
    assert queue.max_offset == 3
    assert await schedule.due(30, 10) == (99, [])
    assert queue_store.pending_bytes == 0
    assert await left(queue_store) == (1, 1, 0)


async def test_equal_messages_of_one_time_are_all_kept_in_their_order(queue_store: QueueStore) -> None:
    schedule = ScheduleStore(queue_store)
    queue = queue_store.queues["T", 0]
    await asyncio.gather(
        *(add(schedule, "same", 10) for _ in range(50)), *(add(schedule, str(i), 10) for i in range(9))
    )
    _, due = await schedule.due(10, 100)
    assert await schedule.move(moves_of(due, queue), 11) == 59
    assert [body for body, _ in await read(queue_store, queue)] == ["same"] * 50 + [str(i) for i in range(9)]


async def test_large_messages_are_read_a_few_at_a_time(
    queue_store: QueueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_store, "MAX_DUE_BYTES", 2 * len(record("x" * 100)))
    schedule = ScheduleStore(queue_store)
    for _ in range(5):
        await add(schedule, "x" * 100, 10)
    for expected in (2, 2, 1, 0):
        _, due = await schedule.due(10, 100)
        assert len(due) == expected
        await schedule.move(moves_of(due, None), 11)


async def test_store_time_is_written_behind_an_ipv6_host(queue_store: QueueStore) -> None:
    schedule = ScheduleStore(queue_store)
    queue = queue_store.queues["T", 0]
    await add(schedule, "v6", 10, born_host="[2001:db8::7]:50123")
    _, due = await schedule.due(10, 1)
    await schedule.move(moves_of(due, queue), 1_700_000_000_000)
    assert await read(queue_store, queue) == [("v6", 1_700_000_000_000)]
    assert await queue_store.store_timestamp_ms(queue, 0) == 1_700_000_000_000


async def test_a_message_is_recalled_or_delivered_and_never_both(queue_store: QueueStore) -> None:
    schedule = ScheduleStore(queue_store)
    queue = queue_store.queues["T", 0]
    await asyncio.gather(*(add(schedule, key, 10, recall_key=key) for key in ("a", "b", "c")))
    _, due = await schedule.due(10, 10)  # the mover has read them
    assert await schedule.recall("b") == 1
    assert await schedule.recall("b") == 0
    assert await schedule.move([Move(message, key, queue) for message, key in zip(due, "abc", strict=True)], 11) == 2
    assert await read(queue_store, queue) == [("a", 11), ("c", 11)]
    assert await schedule.recall("a") == 0
    assert await left(queue_store) == (0, 0, 0)


async def test_a_recall_takes_every_copy_of_a_send_that_was_repeated(queue_store: QueueStore) -> None:
    schedule = ScheduleStore(queue_store)
    queue = queue_store.queues["T", 0]
    for due_ms in (10, 20, 30):
        await add(schedule, f"at {due_ms}", due_ms, recall_key="K")
    await add(schedule, "other", 20, recall_key="L")
    _, due = await schedule.due(10, 10)
    assert await schedule.move(moves_of(due, queue, "K"), 11) == 1
    assert await schedule.recall("K") == 2
    assert await left(queue_store) == (1, 1, 1)
    _, due = await schedule.due(99, 10)
    assert await schedule.move(moves_of(due, queue, "L"), 12) == 1
    assert await read(queue_store, queue) == [("at 10", 11), ("other", 12)]
    assert await left(queue_store) == (0, 0, 0)


async def test_failed_move_leaves_the_message_in_the_schedule(queue_store: QueueStore) -> None:
    schedule = ScheduleStore(queue_store)
    queue = queue_store.queues["T", 0]
    await queue_store.current().execute("SET", queue.key, "no stream")
    await add(schedule, "a", 10, recall_key="K")
    _, due = await schedule.due(10, 1)
    with pytest.raises(StoreError):
        await schedule.move(moves_of(due, queue, "K"), 11)
    assert await left(queue_store) == (1, 1, 1)
    await queue_store.current().execute("DEL", queue.key)
    assert await schedule.move(moves_of(due, queue, "K"), 11) == 1
    assert await left(queue_store) == (0, 0, 0)


async def test_fenced_master_moves_and_recalls_nothing(
    queue_store: QueueStore, store_url: str, key_prefix: str
) -> None:
    schedule = ScheduleStore(queue_store)
    queue = queue_store.queues["T", 0]
    await add(schedule, "a", 10, recall_key="K")
    _, due = await schedule.due(10, 1)
    successor = QueueStore(
        StoreSettings(url=store_url),
        GroupKeys(key_prefix, "broker-a"),
        on_new_records=lambda queue, first, records: None,
        on_fenced=lambda error: None,
    )
    await successor.start()
    with pytest.raises(StoreFencedError):
        await schedule.move(moves_of(due, queue), 11)
    with pytest.raises(StoreFencedError):
        await schedule.recall("K")
    with pytest.raises(StoreFencedError):
        await add(schedule, "b", 10)
    assert (await ScheduleStore(successor).due(10, 10))[1] == due
    await successor.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9), st.sampled_from("kl")),
        st.tuples(st.just("recall"), st.just(0), st.sampled_from("kl")),
        st.tuples(st.just("move"), st.integers(0, 9), st.just("")),
        st.tuples(st.just("successor"), st.just(0), st.just("")),
    ),
    max_size=30,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_sequence_of_adds_recalls_and_moves_by_any_masters(
    embedded_server: EmbeddedServer, steps: list[tuple[str, int, str]]
) -> None:
    """Against a model: what is due moves in the order of its time, what is recalled does not, nothing is left over."""
    asyncio.run(check_sequence(embedded_server.url, steps))


async def check_sequence(url: str, steps: list[tuple[str, int, str]]) -> None:
    async def master() -> QueueStore:
        store = QueueStore(StoreSettings(url=url), keys, on_new_records=lambda *_: None, on_fenced=lambda error: None)
        await store.start()
        await store.open_queues([(MessageQueue("T", "broker-a", 0), 3)])
        stores.append(store)
        return store

    keys = GroupKeys(f"t{uuid.uuid4().hex[:12]}", "broker-a")
    stores: list[QueueStore] = []
    schedule = ScheduleStore(await master())
    waiting: list[tuple[int, int, str]] = []  # (due time, number, recall key), as they must come
    expected: list[str] = []
    try:
        for number, (step, due_ms, key) in enumerate([*steps, ("move", 9, "")]):
            if step == "add":
                await add(schedule, str(number), due_ms, recall_key=key)
                waiting.append((due_ms, number, key))
            elif step == "recall":
                recalled = [item for item in waiting if item[2] == key]
                assert await schedule.recall(key) == len(recalled)
                waiting = [item for item in waiting if item[2] != key]
            elif step == "successor":  # a new master; the old one is as good as killed
                schedule = ScheduleStore(await master())
            else:
                due = sorted(item for item in waiting if item[0] <= due_ms)
                waiting = [item for item in waiting if item[0] > due_ms]
                _, found = await schedule.due(due_ms, 100)
                recall_keys = [item[2] for item in due]
                moves = [
                    Move(message, recall_key, stores[-1].queues["T", 0])
                    for message, recall_key in zip(found, recall_keys, strict=True)
                ]
                if moves:
                    assert await schedule.move(moves, 99) == len(due)
                expected += [str(number) for _, number, _ in due]
            assert (await left(stores[-1]))[:2] == (len(waiting), len(waiting))
        assert [body for body, _ in await read(stores[-1], stores[-1].queues["T", 0])] == expected
        assert await left(stores[-1]) == (0, 0, 0)
    finally:
        for store in stores:
            await store.close()
