"""Half messages on every kind of server: numbered, decided once, asked about ever less often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rmq_redis.errors import StoreError, StoreFencedError
from rmq_redis.model import MessageQueue
from rmq_redis.store.group.half_messages import HalfStore
from rmq_redis.store.group.queues import QueueStore
from rmq_redis.store.group.session import StoreSettings
from rmq_redis.store.keys import GroupKeys


def make_store(store_url: str, key_prefix: str) -> QueueStore:
    return QueueStore(
        StoreSettings(url=store_url),
        GroupKeys(key_prefix, "broker-a"),
        on_new_records=lambda queue, first, records: None,
        on_fenced=lambda error: None,
    )


@pytest.fixture
async def queue_store(store_url: str, key_prefix: str) -> AsyncIterator[QueueStore]:
    store = make_store(store_url, key_prefix)
    await store.start()
    await store.open_queues([(MessageQueue("T", "broker-a", 0), 3)])
    yield store
    await store.close()


async def prepare(store: HalfStore, *records: bytes, check_ms: int = 1000) -> list[int]:
    """The numbers of half messages that came in one turn of the loop."""
    futures: list[asyncio.Future[int]] = []

    def done(number: int, queue_id: int, error: StoreError | None, arg: Any) -> None:
        if error is None:
            arg.set_result(number)
        else:
            arg.set_exception(error)

    for record in records:
        futures.append(asyncio.get_running_loop().create_future())
        store.prepare(record, check_ms, "", done, futures[-1])
    return await asyncio.gather(*futures)


async def test_half_messages_of_one_turn_get_consecutive_numbers(queue_store: QueueStore) -> None:
    store = HalfStore(queue_store)
    records = [b"record %d" % index for index in range(20)]
    assert await prepare(store, b"first") == [0]
    assert await prepare(store, *records) == list(range(1, 21))
    assert [await store.get(number) for number in range(21)] == [b"first", *records]
    assert await store.get(21) is None
    assert queue_store.pending_bytes == 0
    assert sorted(await store.due_for_check(1000, 100)) == list(range(21))
    assert await store.due_for_check(999, 100) == []


async def test_a_decision_is_made_once(queue_store: QueueStore) -> None:
    store = HalfStore(queue_store)
    first, second = await prepare(store, b"x" * 100, b"y" * 100)
    queue = queue_store.queues["T", 0]
    assert await store.end(first, "", queue, b"z" * 100)
    assert not await store.end(first, "", queue, b"z" * 100)
    assert not await store.end(first)
    assert await store.end(second)
    assert not await store.end(second, "", queue, b"z" * 100)
    assert queue.max_offset == 1
    assert await store.due_for_check(1 << 50, 100) == []


async def test_pause_between_checks_doubles_up_to_a_limit(queue_store: QueueStore) -> None:
    store = HalfStore(queue_store)
    (number,) = await prepare(store, b"x", check_ms=0)
    now_ms = 1_700_000_000_000
    pauses = []
    for times in range(1, 8):
        assert await store.due_for_check(now_ms, 10) == [number]
        assert await store.checked(number, now_ms, 30_000, 240_000) == times
        due_ms = now_ms
        while not await store.due_for_check(due_ms, 1):
            due_ms += 10_000
        pauses.append((due_ms - now_ms) // 1000)
        now_ms = due_ms
    assert pauses == [30, 60, 120, 240, 240, 240, 240]
    await store.end(number)
    assert await store.checked(number, now_ms, 30_000, 240_000) == 0
    assert await store.due_for_check(1 << 50, 10) == []


async def test_fenced_master_prepares_no_half_messages(
    queue_store: QueueStore, store_url: str, key_prefix: str
) -> None:
    store = HalfStore(queue_store)
    (number,) = await prepare(store, b"x")
    successor = make_store(store_url, key_prefix)
    await successor.start()
    try:
        with pytest.raises(StoreFencedError):
            await prepare(store, b"y")
        with pytest.raises(StoreFencedError):
            await store.end(number)
        assert await HalfStore(successor).end(number)
    finally:
        await successor.close()


async def test_unavailable_store_fails_half_messages(queue_store: QueueStore) -> None:
    store = HalfStore(queue_store)
    await queue_store.close()
    with pytest.raises(StoreError):
        await prepare(store, b"x")
    assert queue_store.pending_bytes == 0
