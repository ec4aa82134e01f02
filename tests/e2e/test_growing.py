"""A cluster grows and shrinks while it works: a group is added, another drained and removed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import redis
from cli_support import CliProcess, json_of, result_of, run_cli, up
from helpers import eventually
from load import Load, sent_one
from processes import broker, namesrv

from rmq_redis import AsyncAdmin, AsyncProducer, AsyncPushConsumer, Message, MessageExt
from rmq_redis.errors import RmqError
from rmq_redis.model import ConsumeFromWhere
from rmq_redis.store.embedded import EmbeddedServer

TIMEOUT_S = 120.0


async def test_group_is_added_and_another_drained_without_restarts(tmp_path: Path) -> None:
    topic = "growing"
    received: set[str] = set()
    slow = asyncio.Event()

    async def take(message: MessageExt) -> None:
        if message.broker_name == "broker-a":
            await slow.wait()
        received.add(message.text())

    with (
        EmbeddedServer(tmp_path / "store-1") as first,
        EmbeddedServer(tmp_path / "store-2") as second,
        namesrv(first.url, tmp_path) as names,
        namesrv(first.url, tmp_path) as other_names,
        broker(
            first.url, f"{names.address};{other_names.address}", tmp_path, "--port", "0", "--register-period-s", "1"
        ) as old,
    ):
        addresses = f"{names.address};{other_names.address}"
        consumer = AsyncPushConsumer(
            "growing-group",
            addresses,
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            poll_name_server_interval_s=0.3,
            rebalance_interval_s=0.5,
        )
        consumer.subscribe(topic, "*", take)
        async with (
            AsyncAdmin(addresses) as admin,
            AsyncProducer("growing-producer", addresses, poll_name_server_interval_s=0.3) as producer,
        ):
            await eventually(lambda: sent_one(producer, topic), "the first send")
            load = Load(producer, topic)
            async with consumer:
                with broker(second.url, addresses, tmp_path, "--port", "0", "--name", "broker-b"):
                    await eventually(lambda: on_both(admin, topic), "the topic on both groups", TIMEOUT_S)
                    await eventually(lambda: sent_to(load, "broker-b") > 100, "the new group gets messages", TIMEOUT_S)
                    later = Message(topic, "later", properties={"TIMER_DELAY_MS": "1500"})
                    queues = await producer.publish_queues(topic)
                    await producer.send(later, queue=next(q for q in queues if q.broker_name == "broker-a"))
                    drain = CliProcess("broker", "drain", "broker-a", "--timeout", "100", "-n", addresses)
                    with drain:
                        await asyncio.to_thread(drain.wait_for_line, "broker-a: left: ")
                        await eventually(lambda: stays(load), "no more messages go to the old group", TIMEOUT_S)
                        await admin.create_topic("another")  # the broker registers anew, with other topics
                        assert await perms(admin, topic) == {"broker-a": 4, "broker-b": 6}
                        assert await perms(admin, "another") == {"broker-a": 4, "broker-b": 6}
                        slow.set()
                        await asyncio.to_thread(drain.wait_for_line, "broker-a: nothing is left")
                        assert await asyncio.to_thread(drain.wait) == 0
                    assert await asyncio.to_thread(old.stop) == 0
                    before = len(load.acknowledged)
                    await eventually(lambda: len(load.acknowledged) > before + 100, "sends go on", TIMEOUT_S)
                    await load.stop()
                    await eventually(lambda: set(load.acknowledged) <= received, "all is consumed", TIMEOUT_S)
                    assert "later" in received
        with redis.Redis.from_url(first.url) as one, redis.Redis.from_url(second.url) as two:
            assert one.keys(f"rmq:{{broker-a}}:queue:{topic}:*")
            assert not one.keys(f"rmq:{{broker-b}}:queue:{topic}:*")
            assert two.keys(f"rmq:{{broker-b}}:queue:{topic}:*")


async def on_both(admin: AsyncAdmin, topic: str) -> bool:
    try:
        return len(await admin.create_topic(topic)) == 2
    except RmqError:
        return False


def sent_to(load: Load, broker_name: str) -> int:
    return sum(result.queue.broker_name == broker_name for result in load.acknowledged.values())


async def stays(load: Load) -> bool:
    """Whether a while passes with sends, and none of them to the old group."""
    before, all_before = sent_to(load, "broker-a"), len(load.acknowledged)
    await eventually(lambda: len(load.acknowledged) > all_before + 200, "sends go on", TIMEOUT_S)
    return sent_to(load, "broker-a") == before


async def perms(admin: AsyncAdmin, topic: str) -> dict[str, int]:
    return {queue.broker_name: queue.perm for queue in (await admin.topic_route(topic)).queue_datas}


def test_draining_is_undone_and_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    with up(tmp_path) as cluster:
        addresses = cluster.wait_until_ready()
        result_of("topic", "create", "T", "-n", addresses)
        assert "nothing is left" in result_of("broker", "drain", "broker-a", "--timeout", "30", "-n", addresses)
        refused = run_cli("send", "T", "x", "-n", addresses)
        assert refused.returncode == 1
        assert "can be written again" in result_of("broker", "drain", "broker-a", "--undo", "-n", addresses)
        result_of("send", "T", "x", "-n", addresses)
        unknown = run_cli("broker", "drain", "nobody", "-n", addresses)
        assert unknown.returncode == 1
        assert "broker-a" in unknown.stderr


def test_broker_groups_use_separate_stores(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "one") as one, EmbeddedServer(tmp_path / "two") as two:
        stores = ("--store", one.url, "--store", two.url)
        with up(tmp_path / "data", *stores, brokers=2) as cluster:
            addresses = cluster.wait_until_ready()
            result_of("topic", "create", "T", "-n", addresses)
            assert len(json_of("topic", "route", "T", "-n", addresses)["brokers"]) == 2
            for url, mine, other in ((one.url, "broker-a", "broker-b"), (two.url, "broker-b", "broker-a")):
                with redis.Redis.from_url(url) as client:
                    assert client.keys(f"rmq:{{{mine}}}:*")
                    assert not client.keys(f"rmq:{{{other}}}:*")
