"""Topic and group configurations in Redis, and the numbers of queues."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis as redis_py

from rmq_redis.errors import StoreError, StoreFencedError
from rmq_redis.model import MessageQueue, TopicConfig
from rmq_redis.protocol.group_config import SubscriptionGroupConfig
from rmq_redis.store.group.config import ConfigStore, StoredTopic
from rmq_redis.store.group.offsets import OffsetStore
from rmq_redis.store.group.pop import PopStore, Share
from rmq_redis.store.group.queues import QueueStore
from rmq_redis.store.group.session import StoreSettings
from rmq_redis.store.keys import GroupKeys


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
def redis(store_url: str) -> redis_py.Redis:
    return redis_py.Redis.from_url(store_url, protocol=2)


def topic(name: str, read: int, write: int) -> TopicConfig:
    return TopicConfig(topic_name=name, read_queue_nums=read, write_queue_nums=write, attributes={"a": "标签"})


async def test_every_queue_gets_a_unique_number(queue_store: QueueStore) -> None:
    configs = ConfigStore(queue_store)
    a = await configs.put_topic(topic("A", 2, 4), ())
    b = await configs.put_topic(topic("B", 3, 1), ())
    assert a.queue_numbers == (0, 1, 2, 3)
    assert b.queue_numbers == (4, 5, 6)


async def test_changed_queue_count_keeps_existing_numbers(queue_store: QueueStore) -> None:
    configs = ConfigStore(queue_store)
    first = await configs.put_topic(topic("A", 2, 2), ())
    await configs.put_topic(topic("B", 1, 1), ())
    grown = await configs.put_topic(topic("A", 4, 4), first.queue_numbers)
    assert grown.queue_numbers == (0, 1, 3, 4)
    shrunk = await configs.put_topic(topic("A", 1, 1), grown.queue_numbers)
    assert shrunk.queue_numbers == (0, 1, 3, 4)
    assert (await configs.load_topics())["A"] == StoredTopic(topic("A", 1, 1), (0, 1, 3, 4))


async def test_topics_and_groups_are_read_back_and_changes_are_counted(queue_store: QueueStore) -> None:
    configs = ConfigStore(queue_store)
    assert await configs.version() == 0
    assert await configs.load_topics() == {}
    assert await configs.load_groups() == {}
    stored = await configs.put_topic(topic("A", 1, 2), ())
    group = SubscriptionGroupConfig(group_name="G", retry_max_times=3, consume_enable=False)
    await configs.put_group(group)
    assert await configs.version() == 2
    assert await configs.load_topics() == {"A": stored}
    assert await configs.load_groups() == {"G": group}


async def test_removing_a_topic_removes_its_queues_and_the_offsets_in_it(
    queue_store: QueueStore, redis: redis_py.Redis, key_prefix: str
) -> None:
    configs = ConfigStore(queue_store)
    offsets = OffsetStore(queue_store, 3600)
    for name in ("A", "B"):
        stored = await configs.put_topic(topic(name, 2, 2), ())
        await queue_store.open_queues(
            [(MessageQueue(name, "broker-a", i), number) for i, number in enumerate(stored.queue_numbers)]
        )
        redis.xadd(queue_store.keys.queue(name, 1), {"m": "x"}, id="0-1")
        offsets.commit("G", name, 1, 1)
    await offsets.flush()
    await configs.remove_topics(["A"], [queue_store.queues["A", i] for i in range(2)], [("G", "A")])
    assert set(await configs.load_topics()) == {"B"}
    found: list[bytes] = list(redis.keys(f"{key_prefix}:*"))  # type: ignore[arg-type]
    left = {key.decode().removeprefix(f"{key_prefix}:{{broker-a}}:") for key in found}
    assert left == {"epoch", "topics", "version", "queue-numbers", "queue:B:1", "offsets:G:B", "consumed", "retired"}
    again = await configs.put_topic(topic("A", 2, 2), ())
    assert (again.first_offset, (await configs.load_topics())["A"].first_offset) == (1, 1)
    assert [redis.xinfo_stream(queue_store.keys.queue("A", i))["last-generated-id"] for i in range(2)] == [b"0-1"] * 2
    assert redis.smembers(queue_store.keys.consumed) == {b"G:B"}
    assert await configs.version() == 4
    redis.close()


async def test_removing_topics_and_groups_removes_their_popped_messages(
    queue_store: QueueStore, redis: redis_py.Redis
) -> None:
    configs, pops = ConfigStore(queue_store), PopStore(queue_store)
    messages = 600  # more than the function looks at in one go
    for name in ("A", "R", "B"):
        stored = await configs.put_topic(topic(name, 1, 1), ())
        await queue_store.open_queues([(MessageQueue(name, "broker-a", 0), stored.queue_numbers[0])])
        queue = queue_store.queues[name, 0]
        for number in range(messages):
            redis.xadd(queue.key, {"m": "x"}, id=f"0-{number + 1}")
        for group in ("G", "H"):
            hidden = await pops.pop(group, [Share(queue, range(messages), messages)], 1 << 50)
            assert hidden == [list(range(messages))]
    assert redis.zcard(queue_store.keys.popped) == 6 * messages
    pairs = [("G", "A"), ("H", "A"), ("G", "R"), ("H", "R")]
    await configs.remove_topics(["A", "R"], [queue_store.queues[name, 0] for name in ("A", "R")], pairs)
    assert set(await configs.load_topics()) == {"B"}
    left = {member.rpartition(b":")[0] for member in redis.zrange(queue_store.keys.popped, 0, -1)}
    assert left == {b"G:B:0", b"H:B:0"}
    assert redis.zcard(queue_store.keys.popped) == 2 * messages
    assert redis.smembers(queue_store.keys.consumed) == {b"G:B", b"H:B"}
    for name in ("A", "R"):
        assert not redis.exists(queue_store.keys.queue(name, 0), queue_store.keys.offsets("G", name))
    redis.close()


async def test_removing_a_group_removes_the_named_offsets(queue_store: QueueStore, redis: redis_py.Redis) -> None:
    configs = ConfigStore(queue_store)
    offsets = OffsetStore(queue_store, 3600)
    await configs.put_group(SubscriptionGroupConfig(group_name="G"))
    for name in ("A", "B"):
        offsets.commit("G", name, 0, 1)
    await offsets.flush()
    await configs.remove_group("G", ["A"])
    assert await configs.load_groups() == {}
    assert not redis.exists(queue_store.keys.offsets("G", "A"))
    assert redis.hgetall(queue_store.keys.offsets("G", "B")) == {b"0": b"1"}
    redis.close()


async def test_a_fenced_master_changes_nothing(queue_store: QueueStore, store_url: str, key_prefix: str) -> None:
    configs = ConfigStore(queue_store)
    stored = await configs.put_topic(topic("A", 1, 1), ())
    newer = await open_queue_store(store_url, key_prefix)
    with pytest.raises(StoreFencedError):
        await configs.put_topic(topic("A", 1, 1), stored.queue_numbers)
    with pytest.raises(StoreFencedError):
        await configs.put_group(SubscriptionGroupConfig(group_name="G"))
    with pytest.raises(StoreFencedError):
        await configs.remove_topics(["A"], [], [])
    assert set(await ConfigStore(newer).load_topics()) == {"A"}
    assert await configs.version() == 1
    await newer.close()


@pytest.mark.parametrize(
    "value", ["{", "[]", '{"topicName":"A","perm":"x"}', '{"queueNumbers":["x"]}', '{"queueNumbers":5}']
)
async def test_a_damaged_topic_is_a_store_error_that_names_it(
    queue_store: QueueStore, redis: redis_py.Redis, value: str
) -> None:
    redis.hset(queue_store.keys.topics, "BadTopic", value)
    with pytest.raises(StoreError, match="BadTopic"):
        await ConfigStore(queue_store).load_topics()
    redis.close()


@pytest.mark.parametrize("value", ["{", "5", '{"groupName":[]}'])
async def test_a_damaged_group_is_a_store_error_that_names_it(
    queue_store: QueueStore, redis: redis_py.Redis, value: str
) -> None:
    redis.hset(queue_store.keys.groups, "BadGroup", value)
    with pytest.raises(StoreError, match="BadGroup"):
        await ConfigStore(queue_store).load_groups()
    redis.close()
