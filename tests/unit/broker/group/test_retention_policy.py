"""Retention policies: attributes, defaults, and what is chosen to go first."""

from __future__ import annotations

import asyncio
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq_redis.broker.group.retention import RetentionPolicy, RetentionService, retention_policy
from rmq_redis.broker.group.topics import Topic
from rmq_redis.config import BrokerConfig
from rmq_redis.errors import ConfigError, InvalidParameterError
from rmq_redis.model import MessageQueue, TopicConfig
from rmq_redis.store.group.config import StoredTopic
from rmq_redis.store.group.queue import Queue

DEFAULT = RetentionPolicy(72 * 3_600_000, 1000, 7)


@pytest.mark.parametrize(
    ("attributes", "policy"),
    [
        ({}, DEFAULT),
        ({"message.type": "NORMAL"}, DEFAULT),
        ({"reserve.time": "2"}, RetentionPolicy(7_200_000, 1000, 7)),
        ({"reserve.time": "2h"}, RetentionPolicy(7_200_000, 1000, 7)),
        ({"reserve.time": "90M"}, RetentionPolicy(5_400_000, 1000, 7)),
        ({"reserve.time": "7d"}, RetentionPolicy(604_800_000, 1000, 7)),
        ({"reserve.time": "1s"}, RetentionPolicy(1000, 1000, 7)),
        ({"reserve.time": "0"}, RetentionPolicy(0, 1000, 7)),
        ({"reserve.time": "-1", "reserve.bytes": "-1", "reserve.count": "-1"}, DEFAULT),
        ({"reserve.bytes": "512m"}, RetentionPolicy(DEFAULT.age_ms, 512 << 20, 7)),
        ({"reserve.bytes": "2G", "reserve.count": "5"}, RetentionPolicy(DEFAULT.age_ms, 2 << 30, 5)),
        ({"reserve.bytes": "0", "reserve.count": "0"}, RetentionPolicy(DEFAULT.age_ms, 0, 0)),
    ],
)
def test_topic_attributes_override_broker_retention_settings(
    attributes: dict[str, str], policy: RetentionPolicy
) -> None:
    assert retention_policy(DEFAULT, attributes) == policy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reserve.time", "1y"),
        ("reserve.time", "1.5"),
        ("reserve.time", ""),
        ("reserve.time", "9" * 16),
        ("reserve.bytes", "1t"),
        ("reserve.bytes", "-5"),
        ("reserve.count", "1k"),
        ("reserve.count", "many"),
    ],
)
def test_malformed_retention_attribute_is_refused_with_name_and_value(name: str, value: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"{name}='{value}"):
        retention_policy(DEFAULT, {name: value})


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"file_reserved_time_h": -1.0}, "file_reserved_time_h is -1"),
        ({"topic_max_bytes": -1}, "topic_max_bytes is -1"),
        ({"retention_period_s": 0.0}, "retention_period_s is 0"),
        ({"store_max_used_ratio": 0.9}, "store_max_used_ratio is 0.9 and store_warning_level_ratio 0.9"),
        ({"store_warning_level_ratio": 1.1}, "both between 0 and 1"),
    ],
)
def test_invalid_retention_settings_are_a_config_error(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        BrokerConfig(store="redis://h:1/0", **settings).check()


# --- which messages go ----------------------------------------------------------------------------------------------


class FakeStore:
    """Queues whose messages are a list of store times."""

    def __init__(self, times: dict[Queue, list[int]]) -> None:
        self.times = times
        self.removed: list[tuple[int, int]] = []
        self.steps: list[int] = []

    async def oldest_ms(self, queue: Queue) -> int:
        return self.times[queue][queue.min_offset] if queue.min_offset < queue.max_offset else 0

    async def trim(self, queue: Queue, queue_offset: int) -> None:
        assert queue.min_offset < queue_offset <= queue.max_offset
        self.steps.append(queue_offset - queue.min_offset)
        self.removed += [(self.times[queue][offset], queue.number) for offset in range(queue.min_offset, queue_offset)]
        queue.min_offset = queue_offset


def service(times: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> tuple[RetentionService, FakeStore, Topic]:
    queues = [Queue(MessageQueue("T", "b", number), number, b"") for number in range(len(times))]
    for queue, stored in zip(queues, times, strict=True):
        queue.max_offset = len(stored)
    store = FakeStore(dict(zip(queues, times, strict=True)))
    made = RetentionService(BrokerConfig(), cast(Any, SimpleNamespace(topics={})), cast(Any, SimpleNamespace()))
    monkeypatch.setattr(made, "_store", store)
    monkeypatch.setattr("rmq_redis.broker.group.retention._STEP_PAUSE_S", 0)
    config = TopicConfig(topic_name="T", read_queue_nums=len(times), write_queue_nums=len(times))
    return made, store, Topic(StoredTopic(config, tuple(range(len(times)))), queues)


@given(
    times=st.lists(st.lists(st.integers(1, 50), max_size=30).map(sorted), min_size=1, max_size=4),
    excess=st.integers(-3, 130),
)
def test_trim_removes_exactly_the_oldest_messages_of_all_queues(times: list[list[int]], excess: int) -> None:
    async def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            made, store, topic = service(times, patch)
            patch.setattr("rmq_redis.broker.group.retention._STEP", 1)
            queues = [queue for queue in topic.queues if queue.max_offset]
            await made._trim_oldest(queues, dict.fromkeys(queues, 1.0), excess)
            assert len(store.removed) == min(max(excess, 0), sum(map(len, times)))
            assert [stored for stored, _ in store.removed] == sorted(chain.from_iterable(times))[: len(store.removed)]

    asyncio.run(run())


async def test_trim_step_is_limited_and_removes_no_more_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, store, topic = service([list(range(1, 2001))], monkeypatch)
    (queue,) = topic.queues
    await made._trim_oldest([queue], {queue: 100.0}, 120_050)  # bytes: 1200.5 messages
    assert store.steps == [500, 500, 201]
    await made._trim_oldest([queue], {queue: 100.0}, 10**9, max_steps=1)
    assert store.steps[3:] == [500]


async def test_queues_of_equal_age_are_trimmed_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, topic = service([list(range(1, 401))] * 4, monkeypatch)
    await made._trim_oldest(topic.queues, dict.fromkeys(topic.queues, 1.0), 800)
    offsets = [queue.min_offset for queue in topic.queues]
    assert sum(offsets) == 800
    assert max(offsets) - min(offsets) <= 200  # the first step of one of them


def test_retry_and_dlq_topics_are_limited_by_age_only(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BrokerConfig(topic_max_bytes=5, topic_max_msg_nums=6, file_reserved_time_h=0.5)
    made = RetentionService(config, cast(Any, None), cast(Any, SimpleNamespace()))

    def policy(name: str, **attributes: str) -> RetentionPolicy:
        stored = StoredTopic(TopicConfig(topic_name=name, attributes=attributes), ())
        return made.policy(Topic(stored, []))

    assert policy("T") == RetentionPolicy(1_800_000, 5, 6)
    assert policy("%RETRY%G") == policy("%DLQ%G") == RetentionPolicy(1_800_000)
    assert policy("%DLQ%G", **{"reserve.count": "3"}) == RetentionPolicy(1_800_000, 0, 3)
    assert policy("T", **{"reserve.time": "broken"}) == RetentionPolicy()
