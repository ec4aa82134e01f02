"""A store behind Sentinels: brokers follow the promoted primary, slaves read from its replicas."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from helpers import BrokerClient, Connect, StartBroker, eventually, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader
from rmq_redis.store.embedded import EmbeddedServer, SentinelServer
from rmq_redis.store.redis.functions import LIBRARY_NAME

LONG_S = 60.0
SERVERS = {"repl-diskless-sync-delay": "0", "repl-diskless-load": "swapdb"}


class Watched:
    """A primary, a replica and three Sentinels."""

    def __init__(self, directory: Path, embedded_server: EmbeddedServer) -> None:
        self.primary = EmbeddedServer(directory / "primary", settings=SERVERS)
        self.primary.start()
        self.replica = EmbeddedServer(
            directory / "replica", settings=SERVERS | {"replicaof 127.0.0.1": str(self.primary.port)}
        )
        self.replica.start()
        self.sentinels = [
            SentinelServer(directory / f"sentinel-{i}", {"main": self.primary.port}, quorum=2, down_after_ms=1000)
            for i in range(3)
        ]
        for sentinel in self.sentinels:
            sentinel.start()

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{s.port}' for s in self.sentinels)}/main/0"

    def ask(self, *command: str) -> object:
        with redis.Redis(port=self.sentinels[0].port) as client:
            return client.execute_command(*command)

    def is_ready(self) -> bool:
        """Whether a failover would work: all see one another, and the replica follows."""
        with redis.Redis(port=self.sentinels[0].port) as client, redis.Redis.from_url(self.primary.url) as primary:
            state = client.sentinel_master("main")
            primary.set("probe", 1)
            return state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 and primary.wait(1, 500) == 1

    def close(self) -> None:
        for server in (*self.sentinels, self.primary, self.replica):
            if server.pid:
                os.kill(server.pid, signal.SIGCONT)
            server.kill()


@pytest.fixture
async def watched(tmp_path: Path, embedded_server: EmbeddedServer) -> Iterator[Watched]:
    made = Watched(tmp_path, embedded_server)
    try:
        await eventually(made.is_ready, timeout_s=LONG_S)
        yield made
    finally:
        made.close()


async def takes(client: BrokerClient, body: bytes) -> bool:
    return (await client.ask(send_request("T", body))).code == 0


async def reads_from(broker: Broker, *, replica: bool) -> bool:
    connection = broker.parts.state.queue_store._reads.connection
    return connection is not None and connection.is_primary is not replica


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_brokers_follow_a_promoted_replica(
    watched: Watched, start_broker: StartBroker, connect: Connect, how: signal.Signals
) -> None:
    master = await start_broker(store=watched.url, broker_role="SYNC_MASTER", sync_timeout_s=1.0, lease_s=3.0)
    slave = await start_broker(store=watched.url, broker_id=1, failover=False, lease_s=3.0)
    client, reader = connect(master), connect(slave)
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 1, 1, 6)))
    await client.send("T", "a", "b")
    assert await reads_from(master, replica=False)
    assert await reads_from(slave, replica=True)
    await eventually(lambda: pulled(reader, ["a", "b"]))
    before = master.parts.state.queue_store.epoch
    os.kill(watched.primary.pid, how)
    fresh = connect(master)
    await eventually(lambda: takes_again(fresh), "sends go on", timeout_s=LONG_S)
    stored = await fresh.pull_all_patiently("T")
    assert stored[:2] == ["a", "b"]
    assert "c" in stored
    await eventually(lambda: reads_from(master, replica=False), timeout_s=LONG_S)
    await eventually(lambda: pulled(reader, stored), "the slave reads on", timeout_s=LONG_S)
    assert master.parts.state.queue_store.epoch >= before
    with redis.Redis.from_url(watched.replica.url) as promoted:
        assert promoted.info("replication")["role"] == "master"
        assert LIBRARY_NAME.encode() in str(promoted.function_list()).encode()


async def takes_again(client: BrokerClient) -> bool:
    return (await client.ask(send_request("T", b"c"), timeout_s=30.0)).code in (0, 10, 11, 12)


async def pulled(client: BrokerClient, bodies: list[str]) -> bool:
    pulled = await client.pull("T", 0)
    return pulled.bodies == bodies


async def test_brokers_follow_a_failover_started_by_an_operator(
    watched: Watched, start_broker: StartBroker, connect: Connect
) -> None:
    """The old primary stays and is a replica now: it refuses writes, and the broker looks for its successor."""
    master = await start_broker(store=watched.url)
    client = connect(master)
    await client.send("T", "a")
    watched.ask("SENTINEL", "FAILOVER", "main")
    key = master.parts.state.queue_store.keys.queue("T", 0)

    async def is_there() -> bool:
        try:
            with redis.Redis.from_url(watched.replica.url) as promoted:
                before = promoted.xlen(key)
                return (
                    promoted.info("replication")["role"] == "master"
                    and await takes(client, b"b")
                    and promoted.xlen(key) > before
                )
        except redis.ConnectionError:  # Sentinel closes all connections of a server that it changes
            return False

    await eventually(is_there, "it writes to the new primary", timeout_s=LONG_S)
    stored = await client.pull_all_patiently("T")
    assert stored[0] == "a"
    assert set(stored[1:]) == {"b"}


async def test_broker_leaves_a_primary_replaced_while_it_hung(
    watched: Watched, start_broker: StartBroker, connect: Connect
) -> None:
    """It still takes writes when it wakes up, until the Sentinels make it a replica; these would be lost."""
    master = await start_broker(store=watched.url, lease_s=600.0)  # never given up for not answering
    client = connect(master)
    await client.send("T", "a")
    os.kill(watched.primary.pid, signal.SIGSTOP)

    def is_promoted() -> bool:
        try:
            with redis.Redis.from_url(watched.replica.url) as promoted:
                return promoted.info("replication")["role"] == "master"
        except redis.ConnectionError:
            return False

    await eventually(is_promoted, timeout_s=LONG_S)
    old = master.parts.state.queue_store._writes.connection
    await eventually(
        lambda: master.parts.state.queue_store._writes.connection not in (None, old),
        "it went to the new one",
        timeout_s=LONG_S,
    )
    os.kill(watched.primary.pid, signal.SIGCONT)
    await eventually(lambda: takes(client, b"b"), timeout_s=LONG_S)
    with redis.Redis.from_url(watched.replica.url) as promoted:
        assert promoted.xlen(master.parts.state.queue_store.keys.queue("T", 0)) >= 2
