"""Committed offsets: in memory at once, in Redis soon, never negative, never lost by a failed write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis as redis_py
from helpers import eventually

from rmq_redis.errors import StoreError, StoreFencedError
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.store.group import offsets as offset_store
from rmq_redis.store.group.offsets import OffsetStore
from rmq_redis.store.group.queues import QueueStore
from rmq_redis.store.group.session import StoreSettings
from rmq_redis.store.keys import GroupKeys

NEVER_S = 3600.0


async def open_queue_store(url: str, prefix: str) -> QueueStore:
    store = QueueStore(
        StoreSettings(url=url),
        GroupKeys(prefix, "broker-a"),
        on_new_records=lambda *args: None,
        on_fenced=lambda error: None,
    )
    await store.start()
    return store


@pytest.fixture
async def queue_store(store_url: str, key_prefix: str) -> AsyncIterator[QueueStore]:
    store = await open_queue_store(store_url, key_prefix)
    yield store
    await store.close()


@pytest.fixture
def redis(store_url: str, queue_store: QueueStore) -> redis_py.Redis:
    return redis_py.Redis.from_url(store_url, protocol=2, decode_responses=True)


async def test_a_commit_is_seen_at_once_and_in_redis_after_a_flush(
    queue_store: QueueStore, redis: redis_py.Redis, key_prefix: str
) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    assert offsets.get("G", "T", 0) is None
    offsets.commit("G", "T", 0, 5)
    offsets.commit("G", "T", 1, 0)
    offsets.commit("G", "U", 0, 7)
    offsets.commit("H", "T", 0, 8)
    assert offsets.get("G", "T", 0) == 5
    key = f"{key_prefix}:{{broker-a}}:offsets:G:T"
    assert redis.hgetall(key) == {}
    await offsets.flush()
    assert redis.hgetall(key) == {"0": "5", "1": "0"}
    assert redis.smembers(f"{key_prefix}:{{broker-a}}:consumed") == {"G:T", "G:U", "H:T"}
    assert sorted(offsets.topics_of("G")) == ["T", "U"]
    assert sorted(offsets.groups_of("T")) == ["G", "H"]
    again = OffsetStore(queue_store, NEVER_S)
    await again.load()
    assert again.table() == {("G", "T"): {0: 5, 1: 0}, ("G", "U"): {0: 7}, ("H", "T"): {0: 8}}
    redis.close()


async def test_a_negative_offset_is_ignored(queue_store: QueueStore) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    offsets.commit("G", "T", 0, -1)
    assert offsets.get("G", "T", 0) is None
    offsets.commit("G", "T", 0, 3)
    offsets.commit("G", "T", 0, -1)
    assert offsets.get("G", "T", 0) == 3


async def test_an_offset_may_move_backwards(queue_store: QueueStore) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    offsets.commit("G", "T", 0, 9)
    await offsets.flush()
    offsets.commit("G", "T", 0, 2)
    await offsets.flush()
    await offsets.load()
    assert offsets.get("G", "T", 0) == 2


async def test_commits_are_written_by_themselves(queue_store: QueueStore, redis: redis_py.Redis) -> None:
    offsets = OffsetStore(queue_store, 0.01)
    for offset in range(20):
        offsets.commit("G", "T", 0, offset)
    await eventually(lambda: redis.hgetall(queue_store.keys.offsets("G", "T")) == {"0": "19"})
    offsets.commit("G", "T", 0, 20)
    await eventually(lambda: redis.hgetall(queue_store.keys.offsets("G", "T")) == {"0": "20"})
    await offsets.close()
    redis.close()


async def test_close_writes_what_is_left(queue_store: QueueStore, redis: redis_py.Redis) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    offsets.commit("G", "T", 3, 4)
    await offsets.close()
    assert redis.hgetall(queue_store.keys.offsets("G", "T")) == {"3": "4"}
    redis.close()


async def test_loading_keeps_what_is_committed_but_not_written(queue_store: QueueStore) -> None:
    first = OffsetStore(queue_store, NEVER_S)
    first.commit("G", "T", 0, 1)
    first.commit("G", "T", 1, 1)
    await first.flush()
    second = OffsetStore(queue_store, NEVER_S)
    second.commit("G", "T", 0, 7)
    second.commit("X", "Y", 0, 8)
    await second.load()
    assert second.table() == {("G", "T"): {0: 7, 1: 1}, ("X", "Y"): {0: 8}}


async def test_forgotten_offsets_are_not_written(queue_store: QueueStore, redis: redis_py.Redis) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    offsets.commit("G", "T", 0, 1)
    offsets.commit("G", "U", 0, 2)
    offsets.forget(("G", "T"))
    assert offsets.get("G", "T", 0) is None
    await offsets.flush()
    assert redis.hgetall(queue_store.keys.offsets("G", "T")) == {}
    assert redis.hgetall(queue_store.keys.offsets("G", "U")) == {"0": "2"}
    redis.close()


async def test_a_fenced_master_writes_no_offsets(queue_store: QueueStore, store_url: str, key_prefix: str) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    offsets.commit("G", "T", 0, 1)
    await offsets.flush()
    newer = await open_queue_store(store_url, key_prefix)
    offsets.commit("G", "T", 0, 2)
    with pytest.raises(StoreFencedError):
        await offsets.flush()
    theirs = OffsetStore(newer, NEVER_S)
    await theirs.load()
    assert theirs.get("G", "T", 0) == 1
    await offsets.close()
    await newer.close()


async def test_unwritten_offsets_are_written_after_reconnect(tmp_path: Path, embedded_server: EmbeddedServer) -> None:
    server = EmbeddedServer(tmp_path / "valkey", settings={"appendfsync": "always"})
    server.start()
    store = await open_queue_store(server.url, "t")
    offsets = OffsetStore(store, NEVER_S)
    offsets.commit("G", "T", 0, 1)
    offsets.commit("G", "T", 1, 1)
    server.kill()
    await eventually(lambda: not store.available)
    with pytest.raises(StoreError):
        await offsets.flush()
    offsets.commit("G", "T", 1, 2)  # newer than what failed
    server.start()
    await eventually(lambda: store.available and store._reads.connection is not None)
    await offsets.flush()
    again = OffsetStore(store, NEVER_S)
    await again.load()
    assert again.table() == {("G", "T"): {0: 1, 1: 2}}
    await offsets.close()
    await store.close()
    server.kill()


async def test_commit_during_a_failing_write_wins(
    queue_store: QueueStore, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    offsets.commit("G", "T", 0, 1)
    offsets.commit("G", "T", 1, 1)
    failing = asyncio.get_running_loop().create_future()
    with monkeypatch.context() as patched:
        patched.setattr(queue_store.current(), "execute_function", lambda *args: failing)
        flush = asyncio.ensure_future(offsets.flush())
        await asyncio.sleep(0)
        offsets.commit("G", "T", 0, 2)
        failing.set_exception(StoreError("lost"))
        with pytest.raises(StoreError):
            await flush
    await offsets.flush()
    assert redis.hgetall(queue_store.keys.offsets("G", "T")) == {"0": "2", "1": "1"}
    await offsets.close()
    redis.close()


async def test_close_waits_for_a_pending_write(queue_store: QueueStore, redis: redis_py.Redis) -> None:
    offsets = OffsetStore(queue_store, 0.0)
    offsets.commit("G", "T", 0, 1)
    await eventually(lambda: offsets._flushing is not None)
    await offsets.close()
    assert offsets._flushing is not None
    assert offsets._flushing.done()
    assert offsets._timer is None
    redis.close()


async def test_reset_is_written_at_once_and_holds_until_ended(queue_store: QueueStore, redis: redis_py.Redis) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    offsets.commit("G", "T", 0, 8)
    await offsets.reset("G", "T", {0: 3, 1: 4})
    assert redis.hgetall(queue_store.keys.offsets("G", "T")) == {"0": "3", "1": "4"}
    assert redis.hgetall(queue_store.keys.offset_resets) == {"G:T:0": "3", "G:T:1": "4"}
    offsets.commit("G", "T", 0, 9)
    assert offsets.get("G", "T", 0) == 3
    offsets.end_reset("G", "T", 0)
    offsets.end_reset("G", "T", 0)
    offsets.end_reset("other", "T", 0)
    offsets.commit("G", "T", 0, 5)
    await offsets.flush()
    again = OffsetStore(queue_store, NEVER_S)
    await again.load()
    assert again.table() == {("G", "T"): {0: 5, 1: 4}}
    assert again.resets == {("G", "T"): {1: 4}}
    again.forget(("G", "T"))
    await again.flush()
    assert redis.hgetall(queue_store.keys.offset_resets) == {}
    redis.close()


async def test_commit_written_during_a_reset_does_not_undo_it(queue_store: QueueStore, redis: redis_py.Redis) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    offsets.commit("G", "T", 0, 8)
    reset = asyncio.ensure_future(offsets.reset("G", "T", {0: 3}))
    await asyncio.sleep(0)
    await asyncio.gather(reset, offsets.flush())  # the old offset goes to the store after the new one
    await offsets.flush()
    assert redis.hgetall(queue_store.keys.offsets("G", "T")) == {"0": "3"}
    redis.close()


async def test_a_reset_that_the_store_refuses_changes_nothing(
    queue_store: QueueStore, store_url: str, key_prefix: str
) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    offsets.commit("G", "T", 0, 8)
    newer = await open_queue_store(store_url, key_prefix)
    with pytest.raises(StoreFencedError):
        await offsets.reset("G", "T", {0: 3})
    assert offsets.get("G", "T", 0) == 8
    assert offsets.resets == {}
    await newer.close()


async def test_unwritten_ends_of_resets_are_retried(
    queue_store: QueueStore, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets = OffsetStore(queue_store, NEVER_S)
    await offsets.reset("G", "T", {0: 3})
    await offsets.flush()
    offsets.end_reset("G", "T", 0)
    failing = asyncio.get_running_loop().create_future()
    failing.set_exception(StoreError("lost"))
    with monkeypatch.context() as patched:
        patched.setattr(queue_store.current(), "execute_function", lambda *args: failing)
        with pytest.raises(StoreError):
            await offsets.flush()
    assert redis.hgetall(queue_store.keys.offset_resets) == {"G:T:0": "3"}
    await offsets.flush()
    assert redis.hgetall(queue_store.keys.offset_resets) == {}
    await offsets.close()
    redis.close()


async def test_scan_for_missing_offsets_is_bounded_and_resumes(
    queue_store: QueueStore, redis: redis_py.Redis, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offset_store, "_KEYS_A_LOOK", 3)
    monkeypatch.setattr(offset_store, "_KEYS_AT_ONCE", 2)
    offsets = OffsetStore(queue_store, NEVER_S)
    keys = [f"{key_prefix}:{{broker-a}}:offsets:G{number}:T" for number in range(8)]
    for number in range(8):
        offsets.commit(f"G{number}", "T", 0, number)
    await offsets.flush()
    redis.delete(*keys)
    there: list[int] = []
    for _ in range(4):
        await offsets.write_what_is_missing()
        await offsets.flush()
        there.append(sum(redis.exists(key) for key in keys))
    assert there[0] == 3
    assert there == sorted(there)
    assert there[-1] == 8
    redis.delete(*keys)
    for _ in range(4):  # round again
        await offsets.write_what_is_missing()
        await offsets.flush()
    assert sum(redis.exists(key) for key in keys) == 8
