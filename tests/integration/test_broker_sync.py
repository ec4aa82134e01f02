"""SYNC_MASTER and SYNC_FLUSH: what a send is answered, on a real primary with a real replica."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from helpers import BrokerClient, Connect, StartBroker, eventually, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.errors import ConfigError
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader
from rmq_redis.protocol.headers.send import SendMessageResponseHeader
from rmq_redis.store.embedded import EmbeddedServer

QUEUE = "queue:T:0"


@pytest.fixture
def replica(tmp_path: Path, embedded_server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """A replica of the session's server; frozen or not, it goes with the test."""
    with redis.Redis.from_url(embedded_server.url) as client:
        client.config_set("repl-diskless-sync-delay", 0)
    server = EmbeddedServer(tmp_path / "replica", settings={"replicaof 127.0.0.1": str(embedded_server.port)})
    server.start()
    yield server
    if server.pid:
        os.kill(server.pid, signal.SIGCONT)
    server.kill()


@pytest.fixture
async def sync_master(
    start_broker: StartBroker, connect: Connect, replica: EmbeddedServer, embedded_server: EmbeddedServer
) -> Broker:
    with redis.Redis.from_url(embedded_server.url) as client:
        await eventually(lambda: is_online(client), "the replica follows")
    broker = await start_broker(broker_role="SYNC_MASTER", sync_timeout_s=2.0)
    await connect(broker).ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 1, 1, 6)))
    return broker


def is_online(client: redis.Redis) -> bool:
    client.set("probe", 1)
    return client.wait(1, 500) == 1


async def test_confirmed_send_is_on_the_replica(sync_master: Broker, connect: Connect, replica: EmbeddedServer) -> None:
    client = connect(sync_master)
    key = sync_master.parts.state.queue_store.keys.queue("T", 0)
    with redis.Redis.from_url(replica.url) as copy:
        for count in range(1, 20):
            assert (await client.send("T", "x"))[0].queue_offset == count - 1
            assert copy.xlen(key) == count


async def test_many_messages_share_one_wait(
    sync_master: Broker, connect: Connect, embedded_server: EmbeddedServer
) -> None:
    client = connect(sync_master)
    with redis.Redis.from_url(embedded_server.url) as store:

        def waits() -> int:
            return int(store.info("commandstats").get("cmdstat_wait", {}).get("calls", 0))

        before = waits()
        answers = await asyncio.gather(*(client.ok(send_request("T", b"%d" % i)) for i in range(400)))
        offsets = [answer.header(SendMessageResponseHeader).queue_offset for answer in answers]
        assert offsets == list(range(400))
        assert waits() - before < 100
    assert await client.pull_all("T") == [str(i) for i in range(400)]


async def test_late_or_missing_replica_is_reported_and_message_stored(
    sync_master: Broker, connect: Connect, replica: EmbeddedServer
) -> None:
    client = connect(sync_master)
    await client.send("T", "a")
    os.kill(replica.pid, signal.SIGSTOP)
    late = await client.ask(send_request("T", b"late"))
    assert late.code == 12
    assert late.header(SendMessageResponseHeader).queue_offset == 1
    os.kill(replica.pid, signal.SIGCONT)

    async def is_confirmed() -> bool:
        return (await client.ask(send_request("T", b"again"))).code == 0

    await eventually(is_confirmed)
    replica.kill()
    await eventually(lambda: code_is(client, 11), "no replica is connected")
    for delayed in (await client.ask(send_request("T", b"d", properties="DELAY\x0118\x02")),):
        assert delayed.code == 11
        assert delayed.header(SendMessageResponseHeader).queue_id == 0
    stored = await client.pull_all("T")
    assert stored[:2] == ["a", "late"]
    replica.start()
    await eventually(is_confirmed)


async def test_send_without_any_replica_does_not_wait(start_broker: StartBroker, connect: Connect) -> None:
    """Not even the first send: after a failover the promoted primary has none for a while."""
    broker = await start_broker(broker_role="SYNC_MASTER", sync_timeout_s=500.0, lease_s=600.0)
    assert (await connect(broker).ask(send_request("T"))).code == 11


async def code_is(client: BrokerClient, code: int) -> bool:
    return (await client.ask(send_request("T", b"x"))).code == code


async def test_sync_flush_confirms_only_with_an_append_only_file(
    start_broker: StartBroker, connect: Connect, tmp_path: Path, embedded_server: EmbeddedServer
) -> None:
    with EmbeddedServer(tmp_path / "aof") as with_log:
        broker = await start_broker(store=with_log.url, flush_disk_type="SYNC_FLUSH")
        await connect(broker).send("T", "a")
        await broker.close()
    broker = await start_broker(flush_disk_type="SYNC_FLUSH")  # the session's server has no append-only file
    answer = await connect(broker).ask(send_request("T"))
    assert answer.code == 10
    assert "appendonly" in answer.remark
    assert answer.header(SendMessageResponseHeader).queue_offset == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"broker_role": "SLAVE"}, "SYNC_MASTER"),
        ({"flush_disk_type": "x"}, "SYNC_FLUSH"),
        ({"in_sync_replicas": 0}, "at least 1"),
        ({"broker_role": "SYNC_MASTER", "lease_s": 1.0}, "lease_s"),
    ],
)
async def test_invalid_mode_is_a_config_error(
    start_broker: StartBroker, settings: dict[str, object], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        await start_broker(**settings)
