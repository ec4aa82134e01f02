"""The sorted set of what is due later, on every kind of server: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rmq_redis.errors import StoreFencedError
from rmq_redis.hosts import pack_host
from rmq_redis.model import MessageQueue
from rmq_redis.protocol.message import decode_records, encode_record
from rmq_redis.store.keys import GroupKeys
from rmq_redis.store.queue_store import Queue, QueueStore, deliver
from rmq_redis.store.schedule_store import ScheduleStore


def record(body: str, born_host: str = "10.0.0.7:50123") -> bytes:
    return encode_record(
        topic=b"T",
        body=body.encode(),
        properties=b"",
        queue_id=0,
        flag=0,
        sys_flag=0,
        born_timestamp_ms=1,
        born_host=pack_host(born_host),
        store_timestamp_ms=2,
        store_host=pack_host("10.0.0.5:10911"),
    )


async def add(store: ScheduleStore, body: str, due_ms: int, **options: str) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: Exception | None, arg: object) -> None:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    store.add(record(body, **options), due_ms, done, None)
    await future


@pytest.fixture
async def queue_store(store_url: str, key_prefix: str) -> AsyncIterator[QueueStore]:
    store = QueueStore(
        store_url,
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


async def test_due_messages_move_once_in_order_of_their_time(queue_store: QueueStore) -> None:
    schedule = ScheduleStore(queue_store)
    queue = queue_store.queues["T", 0]
    await asyncio.gather(add(schedule, "c", 30), add(schedule, "a", 10), add(schedule, "b", 20), add(schedule, "z", 99))
    assert await schedule.next_due_ms() == 10
    members = await schedule.due(30, 10)
    moves = [(queue, member) for member in members]
    assert await schedule.move(moves, 77) == 3
    assert await schedule.move(moves, 78) == 0
    assert await read(queue_store, queue) == [("a", 77), ("b", 77), ("c", 77)]
    assert queue.max_offset == 3
    assert await schedule.next_due_ms() == 99
    assert queue_store.pending_bytes == 0


async def test_equal_messages_of_one_time_are_all_kept(queue_store: QueueStore) -> None:
    schedule = ScheduleStore(queue_store)
    await asyncio.gather(*(add(schedule, "same", 10) for _ in range(50)))
    assert len(await schedule.due(10, 100)) == 50


async def test_the_store_time_stands_elsewhere_behind_an_ipv6_host(queue_store: QueueStore) -> None:
    schedule = ScheduleStore(queue_store)
    queue = queue_store.queues["T", 0]
    await add(schedule, "v6", 10, born_host="[2001:db8::7]:50123")
    (member,) = await schedule.due(10, 1)
    await schedule.move([(queue, member)], 1_700_000_000_000)
    assert await read(queue_store, queue) == [("v6", 1_700_000_000_000)]
    assert await queue_store.store_timestamp_ms(queue, 0) == 1_700_000_000_000


async def test_an_older_master_moves_nothing(queue_store: QueueStore, store_url: str, key_prefix: str) -> None:
    schedule = ScheduleStore(queue_store)
    queue = queue_store.queues["T", 0]
    await add(schedule, "a", 10)
    members = await schedule.due(10, 1)
    successor = QueueStore(
        store_url,
        GroupKeys(key_prefix, "broker-a"),
        on_new_records=lambda queue, first, records: None,
        on_fenced=lambda error: None,
    )
    await successor.start()
    with pytest.raises(StoreFencedError):
        await schedule.move([(queue, members[0])], 11)
    with pytest.raises(StoreFencedError):
        await add(schedule, "b", 10)
    assert await ScheduleStore(successor).due(10, 10) == members
    await successor.close()
