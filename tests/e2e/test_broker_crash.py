"""kill -9 of a broker master in the middle of a load, then restart: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest
import redis
from helpers import eventually
from load import Load, all_messages, check, check_streams, more_than, sent_one
from processes import broker, namesrv

from rmq_redis import AsyncAdmin, AsyncProducer, AsyncPushConsumer, Message, MessageExt
from rmq_redis.model import ConsumeFromWhere
from rmq_redis.store.embedded import EmbeddedServer


@pytest.mark.parametrize("kills", [3])
async def test_killed_master_loses_no_confirmed_messages(tmp_path: Path, kills: int) -> None:
    topic = "crash"
    with (
        EmbeddedServer(tmp_path / "store") as store,
        namesrv(store.url, tmp_path) as names,
    ):
        master = broker(store.url, names.address, tmp_path, "--port", "0").wait_until_serving()
        try:
            async with AsyncProducer(
                "crash-producer", names.address, poll_name_server_interval_s=0.5, retry_times_when_send_failed=5
            ) as producer:
                await eventually(lambda: sent_one(producer, topic), "the first send")
                load = Load(producer, topic)
                for _ in range(kills):
                    before = len(load.acknowledged)
                    await eventually(lambda before=before: len(load.acknowledged) > before + 500, "sends go on")
                    master.kill()
                    master = broker(store.url, names.address, tmp_path, "--port", master.port)
                    await asyncio.to_thread(master.wait_until_serving)
                before = len(load.acknowledged)
                await eventually(lambda: len(load.acknowledged) > before + 500, "sends go on after the last restart")
                await load.stop()
            stored = await all_messages(names.address, topic)
        finally:
            master.kill()
        check(load, stored)
        with redis.Redis.from_url(store.url) as client:
            check_streams(client, topic, stored)


async def test_terminated_broker_answers_accepted_requests(tmp_path: Path) -> None:
    """SIGTERM in the middle of a load: exit code 0, and no send that was accepted stays without its answer."""
    topic = "graceful"
    with (
        EmbeddedServer(tmp_path / "store") as store,
        namesrv(store.url, tmp_path) as names,
        broker(store.url, names.address, tmp_path, "--port", "0") as master,
    ):
        async with AsyncProducer("graceful-producer", names.address, retry_times_when_send_failed=0) as producer:
            await eventually(lambda: sent_one(producer, topic), "the first send")
            load = Load(producer, topic)
            await eventually(lambda: len(load.acknowledged) > 500, "sends go on")
            code = await asyncio.to_thread(master.stop)
            await load.stop()
        assert code == 0
        with broker(store.url, names.address, tmp_path, "--port", "0"):
            stored = await all_messages(names.address, topic)
    bodies = {message.text() for message in stored.values()} - {"first"}
    assert bodies == set(load.acknowledged), "a message was stored and its producer told otherwise"


async def test_offsets_survive_a_killed_master(tmp_path: Path) -> None:
    """A group that consumed and committed goes on behind what it consumed."""
    topic, group = "offsets", "offsets-group"
    received: list[str] = []

    def consumer(namesrv_addr: str) -> AsyncPushConsumer:
        made = AsyncPushConsumer(group, namesrv_addr, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
        made.subscribe(topic, "*", take)
        return made

    async def take(message: MessageExt) -> None:
        received.append(message.text())

    with (
        EmbeddedServer(tmp_path / "store") as store,
        namesrv(store.url, tmp_path) as names,
    ):
        master = broker(store.url, names.address, tmp_path, "--port", "0").wait_until_serving()
        try:
            async with AsyncProducer("offsets-producer", names.address) as producer:
                await eventually(lambda: sent_one(producer, topic), "the first send")
                for number in range(200):
                    await producer.send(Message(topic, f"a{number}"))
                async with consumer(names.address):
                    await eventually(lambda: len(received) >= 201, "everything is consumed")
                master.kill()
                master = broker(store.url, names.address, tmp_path, "--port", master.port).wait_until_serving()
                received.clear()
                async with consumer(names.address):
                    await eventually(lambda: sent_one(producer, topic), "sends go on")
                    await eventually(lambda: received, "the new message")
            assert set(received) == {"first"}
        finally:
            master.kill()


async def test_killed_master_neither_loses_nor_duplicates_delayed_messages(tmp_path: Path) -> None:
    """The broker dies again and again while timers come due."""
    topic, count = "timers", 400
    with (
        EmbeddedServer(tmp_path / "store") as store,
        namesrv(store.url, tmp_path) as names,
    ):
        master = broker(store.url, names.address, tmp_path, "--port", "0").wait_until_serving()
        try:
            async with AsyncProducer("timer-producer", names.address) as producer:
                await eventually(lambda: sent_one(producer, topic), "the first send")
                due_ms = int(time.time() * 1000) + 1000
                for number in range(count):
                    properties = {"TIMER_DELIVER_MS": str(due_ms + 5 * number)}
                    result = await producer.send(Message(topic, f"t{number}", properties=properties))
                    assert result.attempts == 1
            seen = 1
            for _ in range(3):
                master.kill()
                master = broker(store.url, names.address, tmp_path, "--port", master.port).wait_until_serving()
                seen = await eventually(lambda seen=seen: more_than(seen, names.address, topic, count), "some come due")
            await eventually(lambda: more_than(count, names.address, topic, count), "all came due")
            stored = await all_messages(names.address, topic)
        finally:
            master.kill()
    assert Counter(message.text() for message in stored.values() if message.text() != "first") == {
        f"t{number}": 1 for number in range(count)
    }


async def test_killed_store_loses_no_confirmed_messages(tmp_path: Path) -> None:
    """kill -9 of the Redis server under a load, then restart on its data: the broker goes on by itself."""
    topic = "store-crash"
    with (
        EmbeddedServer(tmp_path / "registry") as registry,
        EmbeddedServer(tmp_path / "store") as store,
        namesrv(registry.url, tmp_path) as names,
        broker(store.url, names.address, tmp_path, "--port", "0"),
    ):
        async with AsyncProducer("store-crash-producer", names.address) as producer:
            await eventually(lambda: sent_one(producer, topic), "the first send")
            load = Load(producer, topic)
            for _ in range(2):
                before = len(load.acknowledged)
                await eventually(lambda before=before: len(load.acknowledged) > before + 300, "sends go on")
                store.kill()
                refused = len(load.unanswered)
                await eventually(lambda refused=refused: len(load.unanswered) > refused, "sends are refused")
                await asyncio.to_thread(store.start)
            before = len(load.acknowledged)
            await eventually(lambda: len(load.acknowledged) > before + 300, "sends go on after the restart")
            await load.stop()
        stored = await all_messages(names.address, topic)
        check(load, stored)
        with redis.Redis.from_url(store.url) as client:
            check_streams(client, topic, stored)


async def test_consumers_read_from_a_slave_while_the_master_is_offline(tmp_path: Path) -> None:
    topic = "slave-read"
    received: set[str] = set()

    async def take(message: MessageExt) -> None:
        received.add(message.text())

    with (
        EmbeddedServer(tmp_path / "store") as store,
        namesrv(store.url, tmp_path) as names,
        broker(store.url, names.address, tmp_path, "--port", "0") as master,
        broker(store.url, names.address, tmp_path, "--port", "0", "--id", "1", "--failover", "false"),
    ):
        async with AsyncProducer("slave-read-producer", names.address) as producer:
            await eventually(lambda: sent_one(producer, topic), "the first send")
            for number in range(100):
                await producer.send(Message(topic, f"m{number}"))
        master.kill()
        async with AsyncAdmin(names.address) as admin:
            await eventually(lambda: only_slave(admin, topic), "the master is gone from the route")
        consumer = AsyncPushConsumer(
            "slave-read-group", names.address, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
        )
        consumer.subscribe(topic, "*", take)
        async with consumer:
            await eventually(lambda: len(received) == 101, "everything is read from the slave")
    assert received == {"first", *(f"m{number}" for number in range(100))}


async def only_slave(admin: AsyncAdmin, topic: str) -> bool:
    route = await admin.topic_route(topic)
    return [list(group.broker_addrs) for group in route.broker_datas] == [[1]]
