"""Retention through real processes: kill -9 in the middle of trimming, and an endless load on a store with a bound."""

from __future__ import annotations

import asyncio
from pathlib import Path

import redis
from helpers import eventually
from processes import broker, namesrv

from rmq_redis import AsyncAdmin, AsyncProducer, AsyncPullConsumer, AsyncPushConsumer, Message, MessageExt, SendResult
from rmq_redis.errors import RmqError
from rmq_redis.model import ConsumeFromWhere, MessageQueue, PullStatus
from rmq_redis.store.embedded import EmbeddedServer

SENDERS = 20
KEPT = 1000

LOAD_S = 500.0
"""Deadline of what needs a load of 64 MB, on a busy machine."""


class Load:
    """Senders that go on until they are told to stop; what was acknowledged, by its place."""

    def __init__(self, producer: AsyncProducer, topic: str, padding: int = 0) -> None:
        self.acknowledged: dict[tuple[int, int], str] = {}
        self.failed = 0
        self._producer = producer
        self._topic = topic
        self._padding = "x" * padding
        self._going = True
        self._tasks = [asyncio.create_task(self._send(number)) for number in range(SENDERS)]

    async def _send(self, number: int) -> None:
        count = 0
        while self._going:
            body = f"{number}-{count}-{self._padding}"
            count += 1
            try:
                result: SendResult = await self._producer.send(Message(self._topic, body), timeout_s=2.0)
            except RmqError:
                self.failed += 1
                await asyncio.sleep(0.01)
            else:
                self.acknowledged[result.queue.queue_id, result.queue_offset] = body

    async def stop(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)


async def kept_messages(namesrv_addr: str, topic: str) -> dict[MessageQueue, dict[int, str]]:
    """What is left, by queue and offset, read by pulls from the min offset on; checks that no offset is missing."""
    found: dict[MessageQueue, dict[int, str]] = {}
    async with AsyncPullConsumer("reader", namesrv_addr) as consumer:
        for queue in await consumer.fetch_subscribe_message_queues(topic):
            bodies: dict[int, str] = {}
            offset, end = await consumer.min_offset(queue), await consumer.max_offset(queue)
            low = offset
            if low:
                moved = await consumer.pull(queue, "*", 0, 10)
                assert (moved.status, moved.next_begin_offset) == (PullStatus.OFFSET_ILLEGAL, low)
            while offset < end:
                result = await consumer.pull(queue, "*", offset, 500)
                assert result.status is PullStatus.FOUND
                bodies |= {message.queue_offset: message.text() for message in result.messages}
                offset = result.next_begin_offset
            assert list(bodies) == list(range(low, end)), "offsets have a gap"
            found[queue] = bodies
    return found


async def test_broker_killed_while_trimming_loses_only_trimmed_messages(tmp_path: Path) -> None:
    """A group that committed and went away does not hold anything back, either."""
    topic = "trimmed"
    options = ("--retention-period-s", "0.005")
    with (
        EmbeddedServer(tmp_path / "store") as store,
        namesrv(store.url, tmp_path) as names,
        redis.Redis.from_url(store.url) as server,
    ):
        master = broker(store.url, names.address, tmp_path, "--port", "0", *options).wait_until_serving()
        try:
            async with AsyncAdmin(names.address) as admin:
                await admin.create_topic(topic, queue_nums=4, attributes=f"+reserve.count={KEPT}")
                await admin.wait_for_route(topic)
            async with AsyncProducer(
                "trim-producer", names.address, poll_name_server_interval_s=0.5, retry_times_when_send_failed=5
            ) as producer:
                load = Load(producer, topic)
                server.hset(f"rmq:{{broker-a}}:offsets:idle:{topic}", mapping={"0": 1, "1": 1})
                server.sadd("rmq:{broker-a}:consumed", f"idle:{topic}")
                for _ in range(4):
                    low = trimmed(server, topic)
                    await eventually(lambda low=low: trimmed(server, topic) > low + 1500, "trimming goes on")
                    master.kill()
                    master = broker(store.url, names.address, tmp_path, "--port", master.port, *options)
                    await asyncio.to_thread(master.wait_until_serving)
                await load.stop()
            await eventually(lambda: entries(server, topic) == KEPT, "as many are left as are to be kept")
            kept = await kept_messages(names.address, topic)
        finally:
            master.kill()
    low = {queue.queue_id: min(bodies, default=None) for queue, bodies in kept.items()}
    stored = {(queue.queue_id, offset): body for queue, bodies in kept.items() for offset, body in bodies.items()}
    assert len(stored) == KEPT
    still_there = {place: body for place, body in load.acknowledged.items() if place in stored}
    assert all(stored[place] == body for place, body in still_there.items())
    for (queue_id, offset), body in load.acknowledged.items():
        if (queue_id, offset) not in stored:
            first = low[queue_id]
            assert first is None or offset < first, f"{body} was acknowledged, is not below the min offset, and gone"
    assert len(still_there) > KEPT // 2


def trimmed(server: redis.Redis, topic: str) -> int:
    """How many entries were removed from the topic's streams."""
    total = 0
    for key in server.keys(f"rmq:{{broker-a}}:queue:{topic}:*"):
        info = server.xinfo_stream(key)
        total += int(info["last-generated-id"].partition(b"-")[2]) - info["length"]
    return total


def entries(server: redis.Redis, topic: str) -> int:
    return sum(server.xlen(key) for key in server.keys(f"rmq:{{broker-a}}:queue:{topic}:*"))


async def test_endless_load_stays_in_maxmemory_and_slow_group_skips_ahead(tmp_path: Path) -> None:
    topic = "endless"
    maxmemory = 32 << 20
    received: list[MessageExt] = []
    gate = asyncio.Event()

    async def take(message: MessageExt) -> None:
        received.append(message)
        await gate.wait()

    settings = {"maxmemory": str(maxmemory), "maxmemory-policy": "noeviction"}
    with (
        EmbeddedServer(tmp_path / "registry") as registry,
        EmbeddedServer(tmp_path / "store", settings=settings) as store,
        namesrv(registry.url, tmp_path) as names,
        broker(store.url, names.address, tmp_path, "--port", "0"),
        redis.Redis.from_url(store.url) as server,
    ):
        async with AsyncAdmin(names.address) as admin:
            await admin.create_topic(topic, queue_nums=1)
            await admin.wait_for_route(topic)
        consumer = AsyncPushConsumer(
            "slow-group",
            names.address,
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            pull_threshold_for_queue=50,
        )
        consumer.subscribe(topic, "*", take)
        async with consumer, AsyncProducer("endless-producer", names.address) as producer:
            load = Load(producer, topic, padding=5000)
            most = 0

            def enough() -> bool:
                nonlocal most
                info = server.info("memory")
                most = max(most, info["used_memory"] - info["mem_not_counted_for_evict"])
                return trimmed(server, topic) * 5000 > 2 * maxmemory

            await eventually(enough, "twice as much as fits was removed", LOAD_S)
            assert most <= maxmemory
            await load.stop()
            low = trimmed(server, topic)
            before = len(received)
            assert before <= 100
            gate.set()
            last = max(offset for _, offset in load.acknowledged)
            await eventually(lambda: received[-1].queue_offset >= last, "the slow group caught up", LOAD_S)
        kept = await kept_messages(names.address, topic)
    # What it had pulled before, then what is left: in between the broker sent it to the min offset.
    offsets = [message.queue_offset for message in received]
    (bodies,) = kept.values()
    first = min(bodies)  # it may have moved on since the group was sent to it
    assert min(offset for offset in offsets[before:] if offset >= low) <= first + 1000
    there = {offset: body for (_, offset), body in load.acknowledged.items() if offset >= first}
    assert there
    assert {offset: bodies.get(offset) for offset in there} == there
