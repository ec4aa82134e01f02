"""Trimming and measuring, on every kind of server."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from rmq_redis.errors import StoreFencedError
from rmq_redis.model import MessageQueue
from rmq_redis.protocol.record import RecordHead, encode_record
from rmq_redis.store.group.queue import Queue
from rmq_redis.store.group.queues import QueueStore
from rmq_redis.store.group.retention import RetentionStore
from rmq_redis.store.group.session import StoreSettings
from rmq_redis.store.keys import GroupKeys


def record(stored_ms: int, *, ipv6: bool = False, size: int = 10) -> bytes:
    host = bytes(20 if ipv6 else 8)
    return encode_record(
        RecordHead(
            queue_id=0,
            flag=0,
            sys_flag=0x10 if ipv6 else 0,
            born_timestamp_ms=1,
            born_host=host,
            store_timestamp_ms=stored_ms,
            store_host=bytes(8),
            queue_offset=0,
        ),
        b"T",
        b"x" * size,
        b"",
    )


async def opened(url: str, prefix: str, records: list[bytes]) -> tuple[QueueStore, Queue]:
    store = QueueStore(
        StoreSettings(url=url), GroupKeys(prefix, "b"), on_new_records=lambda *_: None, on_fenced=lambda _: None
    )
    await store.start()
    key = store.keys.queue("T", 0)
    for item in records:
        await store.current().execute("XADD", key, "0-*", "m", item)
    await store.open_queues([(MessageQueue("T", "b", 0), 0)])
    return store, store.queues["T", 0]


async def test_trim_stops_at_the_offset_and_returns_the_first_left(store_url: str, key_prefix: str) -> None:
    store, queue = await opened(store_url, key_prefix, [record(100 + i, ipv6=i == 4) for i in range(10)])
    retention = RetentionStore(store)
    try:
        assert await retention.oldest_ms(queue) == 100
        for offset, oldest_ms in ((3, 103), (4, 104), (4, 104), (2, 104), (9, 109)):
            await retention.trim(queue, offset)
            assert (queue.min_offset, queue.oldest_ms) == (max(offset, queue.min_offset), oldest_ms)
            found = await store.read_one(queue, 0)
            assert found is not None
            assert found[0] == queue.min_offset
        await retention.trim(queue, 10)
        assert (queue.min_offset, queue.max_offset, queue.oldest_ms) == (10, 10, 0)
        assert await retention.oldest_ms(queue) == 0
        queue.min_offset = queue.max_offset = 0
        await store.refresh([queue])
        assert (queue.min_offset, queue.max_offset) == (10, 10)
    finally:
        await store.close()


async def test_trim_removes_pending_entries_of_groups(store_url: str, key_prefix: str) -> None:
    store, queue = await opened(store_url, key_prefix, [record(1) for _ in range(1200)])
    try:
        async with Redis.from_url(store_url) as server:
            for group in ("a", "b"):
                await server.xgroup_create(queue.key, group, "0")
            await server.xreadgroup("a", "one", {queue.key: ">"}, count=1190)
            await server.xreadgroup("b", "one", {queue.key: ">"}, count=5)
            await RetentionStore(store).trim(queue, 1180)
            assert [(await server.xpending(queue.key, group))["pending"] for group in ("a", "b")] == [10, 0]
    finally:
        await store.close()


async def test_trim_ignores_an_unknown_queue(store_url: str, key_prefix: str) -> None:
    store, queue = await opened(store_url, key_prefix, [record(1), record(2)])
    try:
        store.forget_queues("T")
        await RetentionStore(store).trim(queue, 2)
        assert await store.read_one(queue, 0) is not None
    finally:
        await store.close()


async def test_fenced_master_trims_nothing(store_url: str, key_prefix: str) -> None:
    store, queue = await opened(store_url, key_prefix, [record(1), record(2)])
    newer, _ = await opened(store_url, key_prefix, [])
    try:
        with pytest.raises(StoreFencedError):
            await RetentionStore(store).trim(queue, 1)
        assert (await newer.read_one(queue, 0) or (None,))[0] == 0
    finally:
        await newer.close()
        await store.close()


@pytest.mark.parametrize("store_url", ["valkey", "eval", "redis"], indirect=True)
async def test_measures_queues_and_the_server(store_url: str, key_prefix: str) -> None:
    store, queue = await opened(store_url, key_prefix, [record(1, size=1000) for _ in range(500)])
    try:
        retention = RetentionStore(store)
        missing = Queue(MessageQueue("X", "b", 0), 1, store.keys.queue("X", 0))
        size, nothing = await retention.usage([queue, missing])
        assert 500_000 < size < 1_000_000
        assert nothing == 0
        memory = await retention.memory()
        assert memory.used_bytes >= memory.data_bytes > size
        assert memory.max_bytes == 0
    finally:
        await store.close()
