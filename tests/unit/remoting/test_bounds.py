"""What all clients of a server together may occupy: bytes of frames, and connections."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fake_transport import FakeTransport
from helpers import RawPeer, eventually, json_frame

from rmq_redis import ConfigError
from rmq_redis.config import BrokerConfig, NameServerConfig
from rmq_redis.protocol.command import RemotingCommand, request, response
from rmq_redis.protocol.frame import encode_command
from rmq_redis.remoting import inbound as inbound_module
from rmq_redis.remoting import server as server_module
from rmq_redis.remoting.connection import Connection
from rmq_redis.remoting.inbound import MIN_INBOUND_BYTES, TASK_BYTES, InboundBytes
from rmq_redis.remoting.server import RemotingServer

MB = 1_000_000
ECHO, WAIT = 1, 2

Serve = Callable[..., Awaitable[RemotingServer]]


def echo(connection: Connection, command: RemotingCommand) -> RemotingCommand:
    return response(command, body=command.body[:10])


@pytest.fixture
async def release() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def serve(release: asyncio.Event) -> AsyncIterator[Serve]:
    servers: list[RemotingServer] = []

    async def wait(connection: Connection, command: RemotingCommand) -> RemotingCommand:
        await release.wait()
        return response(command, body=command.body[:10])

    async def start(**bounds: int) -> RemotingServer:
        server = RemotingServer({ECHO: echo, WAIT: wait}, **bounds)
        servers.append(server)
        await server.start("127.0.0.1", 0)
        return server

    yield start
    release.set()
    for server in servers:
        await server.close()


async def is_served(peer: RawPeer, body: bytes = b"hello") -> bool:
    await peer.send(request(ECHO, body=body))
    return (await peer.receive()).body == body[:10]


class HalfFrame:
    """A client that sends the beginning of a 15 MB frame and then nothing, as far as the server reads it."""

    def __init__(self, peer: RawPeer, size: int) -> None:
        self.peer = peer
        self._sending = asyncio.ensure_future(peer.send(encode_command(request(ECHO, body=bytes(15 * MB)))[:size]))

    @classmethod
    async def connect(cls, server: RemotingServer, size: int) -> HalfFrame:
        return cls(await RawPeer.connect(server.port), size)

    async def is_cut(self) -> bool:
        await asyncio.wait([self._sending])
        return await self.peer.is_closed_by_server()

    async def close(self) -> None:
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await self.peer.close()


async def test_half_frames_above_their_total_limit_are_closed(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve(max_inbound_bytes=MIN_INBOUND_BYTES)
    small = await HalfFrame.connect(server, 1000)  # the oldest of all
    honest = await RawPeer.connect(server.port)
    hostile = [await HalfFrame.connect(server, 14 * MB) for _ in range(6)]
    largest = 0
    while server.inbound.cuts.total < 5:
        assert await is_served(honest)
        assert await is_served(honest, bytes(200_000))  # arrives in several reads
        largest = max(largest, server.inbound.total)
    assert MIN_INBOUND_BYTES // 2 < largest < MIN_INBOUND_BYTES
    left = [peer for peer in hostile if not peer._sending.done() or not peer.peer.reader.at_eof()]
    assert len(left) >= 1
    assert not small.peer.reader.at_eof()
    await eventually(lambda: "connections with incomplete frames were closed" in caplog.text)
    assert f"more than half of max_inbound_bytes={MIN_INBOUND_BYTES}" in caplog.text
    for peer in (small, honest, *hostile):
        await peer.close()
    await eventually(lambda: server.inbound.total == 0)


async def test_endless_frame_is_closed_and_complete_frames_are_served(serve: Serve) -> None:
    server = await serve(max_inbound_bytes=MIN_INBOUND_BYTES)
    stuck = await HalfFrame.connect(server, 9 * MB)
    await eventually(lambda: server.inbound.total == 9 * MB)
    frame = encode_command(request(ECHO, body=bytes(12 * MB)))
    peers = [await RawPeer.connect(server.port) for _ in range(6)]
    sending = [asyncio.ensure_future(peer.send(frame)) for peer in peers]
    for peer in peers:
        assert len((await peer.receive()).body) == 10
        assert server.inbound.total <= MIN_INBOUND_BYTES + 12 * MB
    assert await stuck.is_cut()
    assert server.inbound.cuts.total == 1
    await asyncio.gather(*sending)
    for peer in (stuck, *peers):
        await peer.close()


async def test_slow_frame_is_closed_while_others_wait(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound_module, "STALLED_S", 60.0)
    monkeypatch.setattr(inbound_module, "SLOW_S", 0.5)
    server = await serve(max_inbound_bytes=MIN_INBOUND_BYTES)
    slow = await HalfFrame.connect(server, 9 * MB)
    await eventually(lambda: server.inbound.total == 9 * MB)
    peer = await RawPeer.connect(server.port)
    sending = asyncio.ensure_future(peer.send(encode_command(request(ECHO, body=bytes(12 * MB)))))
    cut = asyncio.ensure_future(slow.is_cut())
    while not cut.done():
        if not slow.peer.writer.is_closing():
            slow.peer.writer.write(b"x")
        await asyncio.sleep(0.02)
    assert await cut
    assert len((await peer.receive()).body) == 10
    await sending
    await slow.close()
    await peer.close()


async def test_pending_requests_throttle_only_large_senders(serve: Serve, release: asyncio.Event) -> None:
    server = await serve(max_inbound_bytes=MIN_INBOUND_BYTES)
    honest = await RawPeer.connect(server.port)
    senders = [await RawPeer.connect(server.port) for _ in range(12)]
    data = encode_command(request(WAIT, body=bytes(4 * MB))) * 3
    sending = [asyncio.ensure_future(peer.send(data)) for peer in senders]  # 144 MB
    await eventually(lambda: server.inbound._request_bytes > MIN_INBOUND_BYTES // 2)
    for _ in range(50):
        assert await is_served(honest)
        assert server.inbound.total < MIN_INBOUND_BYTES + 8 * MB
    release.set()
    for peer in senders:
        for _ in range(3):
            assert len((await peer.receive()).body) == 10
    assert server.inbound.cuts.total == 0
    await asyncio.gather(*sending)
    await eventually(lambda: server.inbound.total == 0)
    for peer in (honest, *senders):
        await peer.close()


async def test_requests_waiting_in_tasks_are_counted_until_they_end(serve: Serve, release: asyncio.Event) -> None:
    server = await serve()
    peer = await RawPeer.connect(server.port)
    for _ in range(50):
        await peer.send(request(WAIT))
    await eventually(lambda: server.inbound.total == 50 * TASK_BYTES)
    release.set()
    await eventually(lambda: server.inbound.total == 0)
    await peer.close()


@pytest.mark.parametrize("seed", range(5))
async def test_byte_count_is_zero_after_any_split_and_any_close(seed: int) -> None:
    choose = random.Random(seed)
    inbound = InboundBytes()
    for _ in range(20):
        connection = Connection(lambda connection, command: None, is_server=True, inbound=inbound)
        connection.connection_made(FakeTransport())
        sizes = [choose.choice([0, 10, 4000, 5000, 70_000]) for _ in range(choose.randrange(1, 6))]
        data = b"".join(json_frame({"code": 1}, bytes(size)) for size in sizes)
        end = choose.choice([len(data), choose.randrange(len(data))])
        position = 0
        while position < end:
            step = choose.choice([1, 7, 3000, 50_000])
            connection.data_received(data[position : min(position + step, end)])
            position += step
            assert inbound.total == connection._decoder.pending_bytes
        connection.connection_lost(None)
        assert inbound.total == 0


async def test_postponed_requests_are_counted_until_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmq_redis.remoting.connection.TURN_S", -1.0)  # one request in each turn
    inbound, seen = InboundBytes(), []
    connection = Connection(lambda _, command: seen.append(command.opaque), is_server=True, inbound=inbound)
    transport: Any = FakeTransport()
    transport.pause_reading = transport.resume_reading = lambda: None
    connection.connection_made(transport)
    data = b"".join(json_frame({"code": 1, "opaque": number}) for number in range(4))
    connection.data_received(data)
    assert inbound.total == len(data)
    await eventually(lambda: len(seen) == 4)
    assert (seen, inbound.total) == ([0, 1, 2, 3], 0)
    connection.data_received(data)
    connection.connection_lost(None)
    assert inbound.total == 0


async def test_connections_above_the_limit_are_refused_until_one_closes(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(max_connections=3)
    peers = [await RawPeer.connect(server.port) for _ in range(3)]
    assert all([await is_served(peer) for peer in peers])
    for _ in range(2):
        refused = await RawPeer.connect(server.port)
        assert await refused.is_closed_by_server()
        await refused.close()
    assert server.figures()["connections_refused_total"] == 2
    assert all([await is_served(peer) for peer in peers])
    await eventually(lambda: "connections were refused" in caplog.text)
    assert "max_connections=3; the last one from 127.0.0.1:" in caplog.text
    await peers.pop().close()
    await eventually(lambda: len(server.connections) == 2)
    peers.append(await RawPeer.connect(server.port))
    assert await is_served(peers[-1])
    for peer in peers:
        await peer.close()


async def test_connections_leave_open_files_for_the_store(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "raise_open_files_limit", lambda: 65)
    with caplog.at_level(logging.INFO):
        server = await serve(max_connections=100)
    assert "at most 1 connections are accepted" in caplog.text
    peer = await RawPeer.connect(server.port)
    assert await is_served(peer)
    refused = await RawPeer.connect(server.port)
    assert await refused.is_closed_by_server()
    await peer.close()
    await refused.close()


@pytest.mark.parametrize("config", [BrokerConfig, NameServerConfig])
async def test_limits_below_their_minimum_are_refused(config: type) -> None:
    with pytest.raises(ConfigError, match="max_connections is 0; it must be at least 1"):
        server_of(config(max_connections=0, **ADDRESS[config]))
    with pytest.raises(ConfigError, match=f"max_inbound_bytes is 1000; it must be at least {MIN_INBOUND_BYTES}"):
        server_of(config(max_inbound_bytes=1000, **ADDRESS[config]))


ADDRESS = {BrokerConfig: {"store": "redis://127.0.0.1:1/0"}, NameServerConfig: {"registry": "redis://127.0.0.1:1/0"}}


def server_of(config: Any) -> object:
    from rmq_redis.broker.broker import Broker
    from rmq_redis.nameserver.nameserver import NameServer

    return Broker(config) if isinstance(config, BrokerConfig) else NameServer(config)
