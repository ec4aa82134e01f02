"""Through real processes: a stopped store, topics of every permission, groups that are switched off."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import BrokerClient, eventually, heartbeat_request, pull_request, send_request
from processes import RoleProcess, broker, namesrv

from rmq_redis import AsyncAdmin, AsyncProducer, AsyncPullConsumer, AsyncPushConsumer, Message, MessageExt
from rmq_redis.codes import ResponseCode
from rmq_redis.errors import MessageIllegalError, NoPermissionError, RmqError, SystemBusyError
from rmq_redis.model import ConsumeFromWhere, MessageQueue
from rmq_redis.store.embedded import EmbeddedServer


class Cluster:
    def __init__(self, store: EmbeddedServer, names: RoleProcess, master: RoleProcess) -> None:
        self.store = store
        self.namesrv_addr = names.address
        self.broker_addr = master.address


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    path = tmp_path_factory.mktemp("flow")
    options = ("--port", "0", "--lease-s", "60", "--max-message-bytes", "2000")
    with (
        EmbeddedServer(path / "registry") as registry,
        EmbeddedServer(path / "store") as store,
        namesrv(registry.url, path) as names,
        broker(store.url, names.address, path, *options) as master,
    ):
        yield Cluster(store, names, master)
        os.kill(store.pid, signal.SIGCONT)


async def test_producer_gets_busy_while_the_store_is_stopped(cluster: Cluster) -> None:
    async with AsyncProducer("busy", cluster.namesrv_addr, retry_times_when_send_failed=0) as producer:
        await eventually(lambda: sent(producer, "Busy"), "the first send")
        os.kill(cluster.store.pid, signal.SIGSTOP)
        errors: list[RmqError] = []

        async def send_one() -> None:
            try:
                await producer.send(Message("Busy", "x"), timeout_s=30.0)
            except RmqError as error:
                errors.append(error)

        tasks: list[asyncio.Task[None]] = []

        def busy() -> bool:
            tasks.append(asyncio.create_task(send_one()))
            return any("[REJECTREQUEST]" in str(error) for error in errors)

        await eventually(busy, "sends are refused")
        assert all(isinstance(error, SystemBusyError) and error.retriable for error in errors)
        assert any("[TIMEOUT_CLEAN_QUEUE]" in str(error) for error in errors)
        os.kill(cluster.store.pid, signal.SIGCONT)
        await asyncio.gather(*tasks)
        await producer.send(Message("Busy", "goes on"))
    async with AsyncAdmin(cluster.namesrv_addr) as admin:
        stored = sum(offset.max_offset for offset in (await admin.topic_stats("Busy")).values())
    assert stored == 1 + len(tasks) - len(errors) + 1  # the first, those that were taken, the last


async def test_producer_uses_the_other_group_while_one_store_is_stopped(tmp_path: Path) -> None:
    topic = "Two"
    with (
        EmbeddedServer(tmp_path / "registry") as registry,
        EmbeddedServer(tmp_path / "a") as store_a,
        EmbeddedServer(tmp_path / "b") as store_b,
        namesrv(registry.url, tmp_path) as names,
        broker(store_a.url, names.address, tmp_path, "--port", "0", "--lease-s", "60", "--name", "broker-a"),
        broker(store_b.url, names.address, tmp_path, "--port", "0", "--lease-s", "60", "--name", "broker-b"),
    ):
        async with AsyncAdmin(names.address) as admin:
            await eventually(lambda: both_are_registered(admin), "both are registered")
            await admin.create_topic(topic, queue_nums=2)
            await eventually(lambda: has_both(admin, topic), "both are in the route")
        async with AsyncProducer("two", names.address) as producer:
            used = {(await producer.send(Message(topic, "x"))).queue.broker_name for _ in range(8)}
            assert used == {"broker-a", "broker-b"}
            os.kill(store_a.pid, signal.SIGSTOP)
            try:
                in_a_row = 0

                async def goes_on() -> bool:
                    nonlocal in_a_row
                    try:
                        result = await producer.send(Message(topic, "x"))
                    except RmqError:  # it was on its way to the store when that stopped: nobody knows
                        in_a_row = 0
                    else:
                        assert result.queue.broker_name == "broker-b"
                        in_a_row += 1
                    return in_a_row >= 20

                await eventually(goes_on, "sends go to the other group")
            finally:
                os.kill(store_a.pid, signal.SIGCONT)
            await eventually(lambda: uses(producer, topic, "broker-a"), "the first group is used again")


async def both_are_registered(admin: AsyncAdmin) -> bool:
    return len((await admin.cluster_info()).brokers) == 2


async def has_both(admin: AsyncAdmin, topic: str) -> bool:
    return len((await admin.topic_route(topic)).queue_datas) == 2


async def uses(producer: AsyncProducer, topic: str, broker_name: str) -> bool:
    return (await producer.send(Message(topic, "x"))).queue.broker_name == broker_name


async def sent(producer: AsyncProducer, topic: str) -> bool:
    try:
        await producer.send(Message(topic, "first"))
    except RmqError:
        return False
    return True


@pytest.mark.parametrize("perm", [6, 4, 2, 0])
async def test_topic_permission_controls_sending_and_consuming(cluster: Cluster, perm: int) -> None:
    topic = f"Perm{perm}"
    client = BrokerClient(cluster.broker_addr)
    async with AsyncAdmin(cluster.namesrv_addr) as admin:
        await admin.create_topic(topic, queue_nums=1)
        await admin.wait_for_route(topic)
        await client.send(topic, "a")
        await admin.update_topic(topic, perm=perm)
        await eventually(lambda: routed(admin, topic, perm), "the route shows it")
    try:
        write = await client.ask(send_request(topic, b"b"))
        read = await client.ask(pull_request(topic, 0, group="perm"))
    finally:
        await client.close()
    refused = ResponseCode.NO_PERMISSION
    assert write.code == (ResponseCode.SUCCESS if perm & 2 else refused)
    assert read.code == (ResponseCode.SUCCESS if perm & 4 else refused)
    # The SDK: what the route forbids is not even tried, and what the broker refuses has a class.
    async with (
        AsyncProducer("perm", cluster.namesrv_addr, retry_times_when_send_failed=1) as producer,
        AsyncPullConsumer("perm", cluster.namesrv_addr) as consumer,
    ):
        if perm & 2:
            assert (await producer.send(Message(topic, "c"))).queue.topic == topic
        else:
            with pytest.raises(RmqError):
                await producer.send(Message(topic, "c"))
        queue = MessageQueue(topic, "broker-a", 0)
        if perm & 4:
            assert (await consumer.pull(queue, "*", 0, 1)).messages[0].text() == "a"
        elif perm:
            with pytest.raises(NoPermissionError):
                await consumer.pull(queue, "*", 0, 1)


async def routed(admin: AsyncAdmin, topic: str, perm: int) -> bool:
    return [data.perm & 6 for data in (await admin.topic_route(topic)).queue_datas] == [perm]


async def test_message_above_the_broker_limit_is_refused(cluster: Cluster) -> None:
    async with AsyncProducer("large", cluster.namesrv_addr, compress_over_bytes=0) as producer:
        await eventually(lambda: sent(producer, "Large"), "the first send")
        with pytest.raises(MessageIllegalError, match="2001 bytes, at most 2000"):
            await producer.send(Message("Large", "x" * 2001))
        await producer.send(Message("Large", "x" * 2000))


async def test_consuming_is_disabled_and_enabled_for_a_group(cluster: Cluster) -> None:
    topic, group = "Switch", "switched"
    received: list[str] = []

    async def take(message: MessageExt) -> None:
        received.append(message.text())

    async with AsyncAdmin(cluster.namesrv_addr) as admin, AsyncProducer("switch", cluster.namesrv_addr) as producer:
        await admin.create_topic(topic, queue_nums=1)
        await admin.wait_for_route(topic)
        await admin.create_group(group)
        consumer = AsyncPushConsumer(
            group, cluster.namesrv_addr, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
        )
        consumer.subscribe(topic, "*", take)
        async with consumer, AsyncPullConsumer(group, cluster.namesrv_addr) as other:
            await producer.send(Message(topic, "one"))
            await eventually(lambda: received == ["one"])
            await admin.create_group(group, consume_enable=False)
            with pytest.raises(NoPermissionError, match="consuming is disabled"):
                await other.pull(MessageQueue(topic, "broker-a", 0), "*", 0, 1)
            # A pull that waited at the broker before may still bring one message; from then on there is none.
            await producer.send(Message(topic, "two"))
            await admin.create_group(group, consume_enable=True)
            await producer.send(Message(topic, "three"))
            await eventually(lambda: received == ["one", "two", "three"])


async def test_broadcasting_is_disabled_for_a_group(cluster: Cluster) -> None:
    client = BrokerClient(cluster.broker_addr)
    try:
        async with AsyncAdmin(cluster.namesrv_addr) as admin:
            await admin.create_group("casting", consume_broadcast_enable=False)
        await client.send("Cast", "a", queue_id=0)
        await client.ok(heartbeat_request("id", "casting", {"Cast": "*"}, messageModel="BROADCASTING"))
        for subscription in ("*", None):
            answer = await client.ask(pull_request("Cast", 0, group="casting", subscription=subscription))
            assert answer.code == ResponseCode.NO_PERMISSION
            assert "broadcasting is disabled" in (answer.remark or "")
        await client.ok(heartbeat_request("id", "clustering", {"Cast": "*"}))
        assert (await client.pull("Cast", 0, group="clustering")).bodies == ["a"]
    finally:
        await client.close()
