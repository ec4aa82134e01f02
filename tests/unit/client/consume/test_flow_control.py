"""A consumer's thresholds of a topic, and what it does when a broker tells it to slow down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from client_fakes import cluster, until

from rmq_redis import AsyncPushConsumer, MessageExt
from rmq_redis.client.consume.process_queue import ProcessQueue, PullThresholds
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import ConfigError
from rmq_redis.model import ConsumeFromWhere, MessageQueue


def consumer_of(fake: Any, handler: Any, **settings: Any) -> AsyncPushConsumer:
    consumer = AsyncPushConsumer(
        "G", config=fake.config(), consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, **settings
    )
    consumer.subscribe("T", "*", handler)
    return consumer


async def test_queues_of_a_topic_share_its_threshold() -> None:
    async with cluster() as fake:
        for queue_id in range(2):
            fake.broker.put("T", queue_id, *(b"%d" % number for number in range(200)))
        gate = asyncio.Event()
        handled = 0

        async def handle(message: MessageExt) -> None:
            nonlocal handled
            await gate.wait()
            handled += 1

        settings = {"pull_batch_size": 10, "pull_threshold_for_topic": 40, "pull_threshold_for_queue": 500}
        async with consumer_of(fake, handle, **settings) as consumer:

            def of_topic() -> list[ProcessQueue]:
                return [queue for queue in consumer.process_queues if queue.queue.topic == "T"]

            def full() -> bool:
                return sum(not queue.has_room() for queue in of_topic()) == 2

            await until(full)
            share = 40 // len(of_topic())
            assert all(len(queue.pending) < share + 10 for queue in of_topic())
            gate.set()
            await until(lambda: handled == 400)


def test_threshold_shares_follow_the_number_of_queues() -> None:
    thresholds = PullThresholds((1000, 10_000), (90, 900), None)
    held = [thresholds.process_queue(MessageQueue("T", "b", number), 0, None) for number in range(4)]
    other = thresholds.process_queue(MessageQueue("U", "b", 0), 0, None)

    def limits(queue: ProcessQueue) -> tuple[int, int]:
        return queue._max_count, queue._max_bytes

    assert limits(held[0]) == (1000, 10_000)
    for count, expected in ((4, (22, 225)), (3, (30, 300)), (1, (90, 900))):
        thresholds.share("T", [*held[:count], other])
        assert {limits(queue) for queue in held[:count]} == {expected}
    assert limits(other) == (1000, 10_000)
    PullThresholds((1000, 10_000), (2, -1), None).share("T", held)
    assert {limits(queue) for queue in held} == {(1, 10_000)}
    PullThresholds((7, 8), (-1, -1), None).share("T", held)
    assert {limits(queue) for queue in held} == {(1, 10_000)}  # without a limit of the topic nothing is touched


async def test_larger_share_wakes_a_queue_that_waits_for_room() -> None:
    queue = ProcessQueue(MessageQueue("T", "b", 0), 0, None, max_count=1)
    queue.put([MessageExt("T", b"x", {}, 0, 0, 0, 0, 0, 0, "1.1.1.1:1", 0, "1.1.1.1:1", 0, 0, 100, "b")])
    waiting = asyncio.ensure_future(queue.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.limit(2, 1000)
    await asyncio.wait_for(waiting, 10)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("pull_threshold_for_queue", 0),
        ("pull_threshold_bytes_for_queue", -1),
        ("pull_threshold_for_topic", 0),
        ("pull_threshold_bytes_for_topic", -2),
    ],
)
async def test_threshold_below_1_is_refused(setting: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{setting}={value} is not at least 1"):
        AsyncPushConsumer("G", **{setting: value})  # type: ignore[arg-type]


async def test_flow_control_from_a_broker_only_delays_the_pull() -> None:
    async with cluster() as fake:
        received: list[bytes] = []

        async def handle(message: MessageExt) -> None:
            received.append(message.body)

        fake.broker.answers[RequestCode.PULL_MESSAGE] += [ResponseCode.FLOW_CONTROL] * 3
        bodies = [b"%d" % number for number in range(20)]
        fake.broker.put("T", 0, *bodies)
        async with consumer_of(fake, handle) as consumer:
            await until(lambda: len(received) == 20)
            assert not fake.broker.answers[RequestCode.PULL_MESSAGE]
            assert all(not queue.dropped for queue in consumer.process_queues)
        assert sorted(received) == sorted(bodies)
