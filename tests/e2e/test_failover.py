"""The master of a group is killed or paused: a slave goes on as master, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import BrokerClient, eventually, send_request
from load import Load, all_messages, check, sent_one
from processes import RoleProcess, broker, namesrv

from rmq_redis import AsyncAdmin, AsyncProducer, AsyncPushConsumer, MessageExt
from rmq_redis.errors import RmqError
from rmq_redis.model import ConsumeFromWhere
from rmq_redis.store.embedded import EmbeddedServer

LEASE = ("--lease-s", "1")
TIMEOUT_S = 120.0


class Group:
    """A NameServer, and a master and a slave on one store."""

    def __init__(self, store: EmbeddedServer, names: RoleProcess, directory: Path) -> None:
        self.store = store
        self.names = names.address
        self._directory = directory
        self.master = self.start("--id", "0")
        self.slave = self.start("--id", "1")

    def start(self, *options: str, port: str = "0") -> RoleProcess:
        process = broker(self.store.url, self.names, self._directory, "--port", port, *LEASE, *options)
        return process.wait_until_serving()

    async def addresses(self, admin: AsyncAdmin, topic: str) -> dict[int, str]:
        """brokerId -> address in the route of a topic."""
        try:
            route = await admin.topic_route(topic)
        except RmqError:
            return {}
        return route.broker_datas[0].broker_addrs


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    with EmbeddedServer(tmp_path / "store") as store, namesrv(store.url, tmp_path) as names:
        made = Group(store, names, tmp_path)
        try:
            yield made
        finally:
            for process in (made.master, made.slave):
                process.kill()


async def test_killed_master_is_replaced_and_returns_as_a_slave(group: Group) -> None:
    topic = "takeover"
    received: set[str] = set()

    async def take(message: MessageExt) -> None:
        received.add(message.text())

    consumer = AsyncPushConsumer(
        "takeover-group", group.names, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    )
    consumer.subscribe(topic, "*", take)
    async with (
        AsyncAdmin(group.names) as admin,
        AsyncProducer("takeover-producer", group.names, retry_times_when_send_failed=5) as producer,
    ):
        await eventually(lambda: sent_one(producer, topic), "the first send")
        load = Load(producer, topic)
        async with consumer:
            await eventually(lambda: len(load.acknowledged) > 300, "sends go on", TIMEOUT_S)
            for _ in range(2):  # the second time it is the slave of the beginning that dies
                before = len(load.acknowledged)
                killed, other = group.master, group.slave
                killed.kill()
                await eventually(
                    lambda other=other: is_master(group, admin, topic, other), "the slave is the master", TIMEOUT_S
                )
                await eventually(lambda before=before: len(load.acknowledged) > before + 300, "sends go on", TIMEOUT_S)
                back = group.start("--id", "0", port=killed.port)
                both = {0: other.address, 1: back.address}
                await eventually(lambda both=both: route_is(group, admin, topic, both), "it is a slave now", TIMEOUT_S)
                group.master, group.slave = other, back
            await load.stop()
            await eventually(lambda: set(load.acknowledged) <= received, "all of it is consumed", TIMEOUT_S)
        check(load, await all_messages(group.names, topic))


async def is_master(group: Group, admin: AsyncAdmin, topic: str, process: RoleProcess) -> bool:
    return (await group.addresses(admin, topic)).get(0) == process.address


async def route_is(group: Group, admin: AsyncAdmin, topic: str, wanted: dict[int, str]) -> bool:
    return await group.addresses(admin, topic) == wanted


async def test_late_writes_of_a_paused_master_are_rejected(group: Group) -> None:
    topic = "paused"
    async with (
        AsyncAdmin(group.names) as admin,
        AsyncProducer("paused-producer", group.names, retry_times_when_send_failed=0) as producer,
    ):
        await eventually(lambda: sent_one(producer, topic), "the first send")
        old = BrokerClient(group.master.address)
        await old.send(topic, "before")
        group.master.process.send_signal(signal.SIGSTOP)
        late = [asyncio.ensure_future(old.ask(send_request(topic, b"late-%d" % n), 120.0)) for n in range(200)]
        try:
            await eventually(lambda: is_master(group, admin, topic, group.slave), "the slave is the master", TIMEOUT_S)
            await eventually(lambda: sent_one(producer, topic), "sends go on", TIMEOUT_S)
        finally:
            group.master.process.send_signal(signal.SIGCONT)
        answers = await asyncio.gather(*late, return_exceptions=True)
        codes = {answer.code for answer in answers if not isinstance(answer, BaseException)}
        assert codes <= {14}, "a late write was acknowledged"
        both = {0: group.slave.address, 1: group.master.address}
        await eventually(lambda: route_is(group, admin, topic, both), "the paused one is a slave now", TIMEOUT_S)
        assert group.master.process.poll() is None
        await eventually(lambda: sent_one(producer, topic), "sends go on", TIMEOUT_S)
        texts = [message.text() for message in (await all_messages(group.names, topic)).values()]
        assert not [text for text in texts if text.startswith("late")]
        assert texts.count("before") == 1
        group.master, group.slave = group.slave, group.master
        await old.close()


async def test_consumers_of_the_old_master_get_the_new_masters_messages(group: Group) -> None:
    """A consumer that stays with the old master, a slave now, misses nothing."""
    topic = "stays"
    async with AsyncAdmin(group.names) as admin, AsyncProducer("stays-producer", group.names) as producer:
        await eventually(lambda: sent_one(producer, topic), "the first send")
        group.master.process.send_signal(signal.SIGSTOP)
        try:
            await eventually(lambda: is_master(group, admin, topic, group.slave), "the slave is the master", TIMEOUT_S)
            await eventually(lambda: sent_one(producer, topic), "sends go on", TIMEOUT_S)
        finally:
            group.master.process.send_signal(signal.SIGCONT)
        both = {0: group.slave.address, 1: group.master.address}
        await eventually(lambda: route_is(group, admin, topic, both), "the paused one is a slave now", TIMEOUT_S)
        stored = await all_messages(group.names, topic)
        old = BrokerClient(group.master.address)
        seen = 0
        for queue_id in {queue for queue, _ in stored}:
            seen += len(await old.pull_all(topic, queue_id=queue_id))
        await old.close()
        assert seen == len(stored) >= 2
