"""A broker whose store goes away: refused with a clear code, nothing acknowledged is lost, and it goes on by itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers import BrokerClient, StartBroker, eventually, heartbeat_request, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.errors import ConfigError
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader
from rmq_redis.protocol.headers.offsets import (
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from rmq_redis.protocol.headers.send import SendMessageResponseHeader
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.store.redis.connection import StoreConnection
from rmq_redis.store.redis.opening import open_connection
from rmq_redis.store.redis.reconnecting import Store


@pytest.fixture
async def own_server(tmp_path: Path, embedded_server: EmbeddedServer) -> AsyncIterator[EmbeddedServer]:
    """A store that a test may kill; it loses nothing that it confirmed."""
    server = EmbeddedServer(tmp_path / "valkey", settings={"appendfsync": "always"})
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def broker(own_server: EmbeddedServer, start_broker: StartBroker) -> Broker:
    return await start_broker(store=own_server.url, stop_timeout_s=0.3)


def commit(offset: int) -> RemotingCommand:
    return request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, offset))


async def test_broker_without_its_store_refuses_with_14_until_it_is_back(
    client: BrokerClient, broker: Broker, own_server: EmbeddedServer
) -> None:
    await client.send("T", "a", "b")
    await client.ok(commit(1))
    pull = client.pull_later("T", 2)
    await eventually(lambda: broker.parts.pulls.hold.count == 1)
    own_server.kill()
    await eventually(lambda: not broker.parts.state.queue_store.available)
    answers = [
        await client.ask(command)
        for command in (
            send_request("T", b"x"),
            send_request("New", b"x"),
            commit(2),
            request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("U", 1, 1, 6)),
            heartbeat_request("id", "NewGroup", {"T": "*"}),
        )
    ]
    assert [answer.code for answer in answers] == [14] * 5
    assert (await client.pull("T", 0)).code == 14
    # What needs no store is answered: offsets are in memory, and the held pull goes on waiting.
    query = request(RequestCode.QUERY_CONSUMER_OFFSET, QueryConsumerOffsetRequestHeader("G", "T", 0))
    assert (await client.ok(query)).header(OffsetResponseHeader).offset == 2
    assert not pull.done()
    own_server.start()
    await eventually(lambda: broker.parts.state.queue_store.available)
    assert (await client.send("T", "c"))[0].queue_offset == 2
    assert (await pull).bodies == ["c"]
    await eventually(lambda: broker.parts.state.queue_store._reads.connection is not None)
    assert await client.pull_all("T") == ["a", "b", "c"]
    await client.ok(commit(3))
    await client.send("New", "x")


async def test_confirmed_messages_survive_kills_of_the_store(
    client: BrokerClient, broker: Broker, own_server: EmbeddedServer
) -> None:
    await client.send("T", "first")
    acknowledged: dict[int, str] = {}
    stop = False

    async def produce(name: str) -> None:
        i = 0
        while not stop:
            i += 1
            answer = await client.ask(send_request("T", f"{name}{i}".encode()))
            if answer.code == 0:
                acknowledged[answer.header(SendMessageResponseHeader).queue_offset] = f"{name}{i}"
            else:
                assert answer.code == 14
                await asyncio.sleep(0.01)

    producers = [asyncio.ensure_future(produce(name)) for name in "abc"]
    for _ in range(3):
        enough = len(acknowledged) + 50
        await eventually(lambda: len(acknowledged) >= enough)  # noqa: B023
        own_server.kill()
        await eventually(lambda: not broker.parts.state.queue_store.available)
        own_server.start()
    await eventually(lambda: broker.parts.state.queue_store.available)
    stop = True
    await asyncio.gather(*producers)
    stored = await client.pull_all_patiently("T")
    assert {offset: stored[offset] for offset in acknowledged} == acknowledged
    # Offsets have no gap: unacknowledged ones may be there, none is missing.
    assert len(stored) == broker.parts.state.queue_store.queues["T", 0].max_offset


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_close_ends_without_a_store(
    client: BrokerClient, broker: Broker, own_server: EmbeddedServer, how: signal.Signals
) -> None:
    await client.send("T", "a")
    await client.oneway(commit(1))
    query = request(RequestCode.QUERY_CONSUMER_OFFSET, QueryConsumerOffsetRequestHeader("G", "T", 0))

    async def is_committed() -> bool:
        return (await client.ok(query)).header(OffsetResponseHeader).offset == 1

    await eventually(is_committed)
    os.kill(own_server.pid, how)
    await client.oneway(send_request("T", b"never answered"))
    async with asyncio.timeout(120):
        await broker.close()


async def test_broker_that_failed_to_start_can_be_closed(start_broker: StartBroker, broker: Broker) -> None:
    with pytest.raises(TimeoutError):  # it waits for its store until somebody ends it
        async with asyncio.timeout(0.5):
            await start_broker(store="redis://127.0.0.1:1/0")
    with pytest.raises(ConfigError, match="another port"):
        await start_broker(broker_name="broker-b", listen_port=broker.port)


async def test_lagging_replica_makes_no_reader_skip_messages(
    client: BrokerClient, broker: Broker, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    """After a failover the writes may be at the new primary while the reads are still at the old one."""
    await client.send("T", "a", "b")
    with EmbeddedServer(tmp_path / "behind", settings={"appendonly": "no"}) as behind:
        old = await open_connection(behind.url)
        await old.execute("REPLICAOF", "127.0.0.1", own_server.port)
        key = broker.parts.state.queue_store.queues["T", 0].key
        await eventually(lambda: has_entries(old, key, 2), "the other server has the messages so far")
        await old.execute("REPLICAOF", "NO", "ONE")
        await client.send("T", "c", "d")
        right, broker.parts.state.queue_store._reads = broker.parts.state.queue_store._reads, Store(behind.url, "reads")
        try:
            await broker.parts.state.queue_store._reads.start()
            assert (await client.pull("T", 0)).bodies == ["a", "b"], "what is there is given"
            late = await client.pull("T", 2)
            assert late.code == 14, "the next messages are there, though not at this server"
            held = client.pull_later("T", 4)
            await eventually(lambda: broker.parts.pulls.hold.count == 1)
            await client.send("T", "e")
            assert (await held).bodies == ["e"], "what was just written needs no read"
        finally:
            await broker.parts.state.queue_store._reads.close()
            broker.parts.state.queue_store._reads = right
            old.close()
    assert (await client.pull("T", 2)).bodies == ["c", "d", "e"]


async def has_entries(connection: StoreConnection, key: bytes, count: int) -> bool:
    return bool(await connection.execute("XLEN", key) == count)
