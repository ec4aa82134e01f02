"""Redis users with exactly the rights that docs/operations.md lists, and with less."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import BrokerClient, Connect, StartBroker, eventually, send_request

from rmq_redis import (
    AsyncAdmin,
    AsyncProducer,
    AsyncPushConsumer,
    AsyncSimpleConsumer,
    AsyncTransactionProducer,
    LocalTransactionState,
    Message,
    MessageExt,
)
from rmq_redis.broker.broker import Broker
from rmq_redis.config import BrokerConfig, NameServerConfig
from rmq_redis.nameserver.nameserver import NameServer
from rmq_redis.store.embedded import EmbeddedServer

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
OPTIONAL = ["info", "memory|usage", "config|get", "role", "wait", "waitaof"]


def acl_line(user: str) -> list[str]:
    """The words of the page's line for a user, after its name."""
    match = re.search(rf"^ACL SETUSER {user} (.*)$", PAGE.read_text(), re.MULTILINE)
    assert match is not None
    return match[1].split()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "own")
    server.start()
    yield server
    server.kill()


def set_users(server: EmbeddedServer, *without: str) -> None:
    with redis.Redis.from_url(server.url) as admin:
        for user in ("rmq-broker", "rmq-namesrv"):
            words = [word for word in acl_line(user) if word.removeprefix("+") not in without]
            admin.execute_command("ACL", "SETUSER", user, "reset", *words)
        admin.execute_command("ACL", "LOG", "RESET")


def refused(server: EmbeddedServer) -> set[str]:
    """Commands and keys that were refused to any user."""
    with redis.Redis.from_url(server.url) as admin:
        return {entry["object"] for entry in admin.acl_log()}


def url(server: EmbeddedServer, user: str) -> str:
    return f"redis://{user}:password@127.0.0.1:{server.port}/0"


class Decides:
    async def execute_local_transaction(self, message: Message, arg: Any) -> LocalTransactionState:
        return LocalTransactionState.COMMIT_MESSAGE

    async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        return LocalTransactionState.COMMIT_MESSAGE


async def use_everything(namesrv_addr: str) -> None:
    """One of each kind of what a broker keeps in its store."""
    got: list[str] = []

    async def handle(message: MessageExt) -> bool:
        got.append(message.text())
        return not (message.text() == "retried" and message.reconsume_times == 0)

    async with (
        AsyncProducer("p", namesrv_addr) as producer,
        AsyncTransactionProducer("tp", Decides(), namesrv_addr) as transactions,
        AsyncAdmin(namesrv_addr) as admin,
    ):
        await admin.create_topic("t")
        for number in range(50):
            await producer.send(Message("t", f"m{number}", keys=f"k{number}"), key=str(number % 4))
        await producer.send(Message("t", "retried"))
        await producer.send(Message("t", "later").with_delay_s(0.3))
        recalled = await producer.send(Message("t", "recalled").with_delay_s(60))
        await producer.recall("t", recalled.recall_handle or "")
        await transactions.send_message_in_transaction(Message("t", "committed"))
        assert len(await admin.query_message("t", "k7")) == 1
        consumer = AsyncPushConsumer(
            "g",
            namesrv_addr,
            orderly=True,
            suspend_current_queue_time_s=0.01,
            consume_from_where="CONSUME_FROM_FIRST_OFFSET",
        )
        consumer.subscribe("t", "*", handle)
        async with consumer:
            await eventually(lambda: {"later", "committed", "retried"} <= set(got))
        for fifo in (False, True):
            async with AsyncSimpleConsumer(f"pop{fifo}", namesrv_addr, fifo=fifo) as simple:
                simple.subscribe("t")
                await simple.receive(4, 1, 5)  # to be seen once more
                messages: list[MessageExt] = []
                while not messages:
                    messages = await simple.receive(4, 30, 5)
                await simple.change_invisible_duration(messages[0], 10)
                await simple.ack(messages)
        await admin.reset_offset("g", "t", 0)
        assert await admin.consume_stats("g", "t")
        await admin.delete_group("g")
        await admin.delete_topic("t")


@pytest.mark.parametrize("without", [(), *((name,) for name in OPTIONAL), tuple(OPTIONAL)], ids=str)
async def test_documented_acl_users_are_sufficient(
    without: tuple[str, ...], server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    set_users(server, *without)
    listen: dict[str, Any] = {"listen_host": "127.0.0.1", "listen_port": 0}
    namesrv = NameServer(NameServerConfig(registry=url(server, "rmq-namesrv"), sweep_period_s=0.2, **listen))
    await namesrv.start()
    address = f"127.0.0.1:{namesrv.port}"
    broker = Broker(
        BrokerConfig(
            store=url(server, "rmq-broker"),
            namesrv_addr=address,
            advertised_host="127.0.0.1",
            store_max_bytes=1 << 30,
            topic_max_bytes=1 << 20,
            retention_period_s=0.05,
            **listen,
        )
    )
    await broker.start()
    try:
        await use_everything(address)
    finally:
        await broker.close()
        await namesrv.close()
    assert {name.split("|")[0] for name in refused(server)} <= {name.split("|")[0] for name in without}
    warnings = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(warnings) == len(set(warnings))


async def test_retention_works_without_info_and_memory_usage(
    server: EmbeddedServer, start_broker: StartBroker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    set_users(server, "info", "memory|usage")
    broker = await start_broker(
        store=url(server, "rmq-broker"), key_prefix="rmq", topic_max_bytes=200_000, retention_period_s=0.02
    )
    client = connect(broker)
    body = "x" * 1000
    await client.send("T", *[body] * 600)

    async def trimmed() -> bool:
        queue = broker.parts.state.queue_store.queues["T", 0]
        return 0 < queue.max_offset - queue.min_offset < 250

    await eventually(trimmed)
    texts = [record.getMessage() for record in caplog.records]
    assert sum("MEMORY USAGE is refused" in text for text in texts) == 1
    assert sum("INFO is refused" in text for text in texts) == 1


async def test_estimated_memory_is_close_to_the_measured(
    server: EmbeddedServer, start_broker: StartBroker, connect: Connect
) -> None:
    broker = await start_broker(store=server.url)
    await connect(broker).send("T", *["x" * 300] * 1000)
    store, queue = broker.parts.retention._store, broker.parts.state.queue_store.queues["T", 0]
    (measured,) = await store._measure([queue])
    assert 0.7 < await store._estimate(queue) / measured < 1.4


async def test_sync_master_without_wait_reports_stored_but_unconfirmed(
    server: EmbeddedServer, start_broker: StartBroker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    set_users(server, "role", "wait")
    broker = await start_broker(store=url(server, "rmq-broker"), key_prefix="rmq", broker_role="SYNC_MASTER")
    client: BrokerClient = connect(broker)
    assert {(await client.ask(send_request("T", b"x"))).code for _ in range(3)} == {11}
    assert sum("WAIT is refused" in record.getMessage() for record in caplog.records) == 1


async def test_user_without_functions_uses_eval(
    server: EmbeddedServer, start_broker: StartBroker, connect: Connect
) -> None:
    set_users(server, "function|load", "function|list", "fcall", "fcall_ro")
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "rmq-broker", "+eval")
    client = connect(await start_broker(store=url(server, "rmq-broker"), key_prefix="rmq"))
    await client.send("T", "a")
    assert await client.pull_all("T") == ["a"]


async def test_registry_user_without_channels_still_shares_routes(
    server: EmbeddedServer, start_broker: StartBroker, caplog: pytest.LogCaptureFixture
) -> None:
    set_users(server, "&rmq:ns:*")
    config: dict[str, Any] = {"listen_host": "127.0.0.1", "listen_port": 0, "sweep_period_s": 0.1}
    servers = [NameServer(NameServerConfig(registry=url(server, "rmq-namesrv"), **config)) for _ in range(2)]
    for namesrv in servers:
        await namesrv.start()
    try:
        await start_broker(store=server.url, namesrv_addr=f"127.0.0.1:{servers[0].port}")
        async with AsyncAdmin(f"127.0.0.1:{servers[1].port}") as admin:

            async def known() -> bool:
                return bool((await admin.cluster_info()).brokers)

            await eventually(known)
    finally:
        await asyncio.gather(*(namesrv.close() for namesrv in servers))
    assert sum("PUBLISH is refused" in record.getMessage() for record in caplog.records) == 1
