"""What a server answers, and what it does not let a client do to it."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from helpers import RawPeer, eventually, json_frame

from rmq_redis.errors import (
    ConfigError,
    RemoteProtocolError,
    StoreError,
    StoreFencedError,
    StoreFullError,
    StoreLostError,
    SystemBusyError,
    TopicNotExistError,
)
from rmq_redis.protocol.command import RemotingCommand, SerializeType, request, response
from rmq_redis.protocol.headers.admin import TopicRequestHeader
from rmq_redis.remoting.client import RemotingClient
from rmq_redis.remoting.connection import Connection
from rmq_redis.remoting.dispatch import processors_of
from rmq_redis.remoting.server import RemotingServer

ServerMaker = Callable[..., Awaitable[RemotingServer]]


@pytest.fixture
async def start_server() -> AsyncIterator[ServerMaker]:
    servers: list[RemotingServer] = []

    async def start(processors: Any = None, **options: Any) -> RemotingServer:
        server = RemotingServer(processors, **options)
        await server.start("127.0.0.1", 0)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.close()


def echo(connection: Connection, command: RemotingCommand) -> RemotingCommand:
    return response(command, body=command.body)


async def asked(server: RemotingServer, command: RemotingCommand) -> RemotingCommand:
    peer = await RawPeer.connect(server.port)
    try:
        await peer.send(command)
        return await peer.receive()
    finally:
        await peer.close()


async def test_unknown_code_fails_with_3_and_the_remark_of_rocketmq(start_server: ServerMaker) -> None:
    server = await start_server({1: echo})
    answer = await asked(server, request(9999, opaque=0))
    assert (answer.code, answer.opaque, answer.flag) == (3, 0, 1)
    assert answer.remark == " request type 9999 not supported"


async def test_connection_stays_open_after_an_unknown_code(start_server: ServerMaker) -> None:
    server = await start_server({1: echo})
    peer = await RawPeer.connect(server.port)
    await peer.send(request(9999, opaque=1))
    await peer.send(request(1, body=b"x", opaque=2))
    assert [(await peer.receive()).code for _ in range(2)] == [3, 0]
    await peer.close()


@pytest.mark.parametrize("serialize_type", list(SerializeType))
async def test_responses_use_the_serialization_of_the_request(
    start_server: ServerMaker, serialize_type: SerializeType
) -> None:
    server = await start_server({1: echo})
    command = request(1, body=b"x", opaque=7)
    command.serialize_type = serialize_type
    answer = await asked(server, command)
    assert (answer.serialize_type, answer.opaque, answer.body) == (serialize_type, 7, b"x")


async def fails_later(connection: Connection, command: RemotingCommand) -> RemotingCommand:
    await asyncio.sleep(0)
    return fails(connection, command)


def fails(connection: Connection, command: RemotingCommand) -> RemotingCommand:
    raise {
        b"secret": KeyError("/root/password.txt"),
        b"topic": TopicNotExistError("no such topic"),
        b"busy": SystemBusyError("[REJECTREQUEST] later"),
        b"protocol": RemoteProtocolError("header X: field y is missing"),
        b"store": StoreError("the store at redis://u:***@10.1.2.3:6379/0 cannot be reached"),
        b"moved": StoreError("MOVED 3999 10.1.2.3:6379"),
        b"full": StoreFullError("Redis is out of memory (maxmemory): OOM command not allowed"),
        b"lost": StoreLostError("nothing is left at 10.1.2.3"),
        b"fenced": StoreFencedError("FENCED 12"),
    }[command.body]


NOT_AVAILABLE = "the store is not available: "


@pytest.mark.parametrize("processor", [fails, fails_later])
@pytest.mark.parametrize(
    ("body", "code", "remark"),
    [
        (b"topic", 17, "no such topic"),
        (b"busy", 2, "[REJECTREQUEST] later"),
        (b"protocol", 1, "header X: field y is missing"),
        (b"store", 14, NOT_AVAILABLE + "it cannot be reached or refused a command; the server's log says why"),
        (b"moved", 14, NOT_AVAILABLE + "it cannot be reached or refused a command; the server's log says why"),
        (b"full", 14, NOT_AVAILABLE + "Redis is out of memory (maxmemory)"),
        (b"lost", 14, NOT_AVAILABLE + "it has lost its data"),
        (b"fenced", 14, NOT_AVAILABLE + "another broker has taken this group over"),
        (b"secret", 1, "internal error; the server's log has the details"),
    ],
)
async def test_processor_exceptions_become_errors_without_internals(
    start_server: ServerMaker,
    caplog: pytest.LogCaptureFixture,
    processor: Any,
    body: bytes,
    code: int,
    remark: str,
) -> None:
    server = await start_server({1: processor})
    with caplog.at_level(logging.ERROR):
        answer = await asked(server, request(1, body=body))
    assert (answer.code, answer.remark, answer.body) == (code, remark, b"")
    assert ("password" in caplog.text) == (body == b"secret")


async def test_malformed_header_field_is_an_error_without_closing(start_server: ServerMaker) -> None:
    server = await start_server({1: lambda c, command: response(command, header=command.header(TopicRequestHeader))})
    peer = await RawPeer.connect(server.port)
    await peer.send(json_frame({"code": 1, "opaque": 5, "extFields": {}}))
    answer = await peer.receive()
    assert (answer.code, answer.opaque) == (1, 5)
    assert "topic" in (answer.remark or "")
    await peer.send(request(1, TopicRequestHeader("T")))
    assert (await peer.receive()).ext_fields == {"topic": "T"}
    await peer.close()


async def test_oneway_gets_no_response_not_even_an_error(start_server: ServerMaker) -> None:
    seen: list[int] = []

    def note(connection: Connection, command: RemotingCommand) -> RemotingCommand:
        seen.append(command.opaque)
        return response(command)

    server = await start_server({1: note, 2: fails, 3: fails_later})
    peer = await RawPeer.connect(server.port)
    for opaque, (code, body) in enumerate([(1, b""), (2, b"topic"), (2, b"secret"), (3, b"topic"), (9999, b"")]):
        await peer.send(request(code, body=body, opaque=opaque, oneway=True))
    await peer.send(request(1, opaque=99))
    assert (await peer.receive()).opaque == 99
    assert seen == [0, 99]
    await eventually(lambda: not server._dispatcher._tasks)
    await peer.close()


async def test_processor_may_respond_later_or_by_itself(start_server: ServerMaker) -> None:
    release = asyncio.Event()

    async def waits(connection: Connection, command: RemotingCommand) -> RemotingCommand:
        await release.wait()
        return response(command)

    def answers_itself(connection: Connection, command: RemotingCommand) -> None:
        connection.write_command(response(command, body=b"mine"))

    server = await start_server({1: waits, 2: echo, 3: answers_itself})
    peer = await RawPeer.connect(server.port)
    for code in (1, 2, 3):
        await peer.send(request(code, opaque=code))
    # The held request does not hold up those behind it.
    assert [(await peer.receive()).opaque for _ in range(2)] == [2, 3]
    release.set()
    assert (await peer.receive()).opaque == 1
    await peer.close()


async def test_unencodable_response_becomes_an_error(start_server: ServerMaker) -> None:
    server = await start_server({1: lambda c, command: response(command, body=bytes(20 * 1024 * 1024))})
    answer = await asked(server, request(1, opaque=4))
    assert (answer.code, answer.opaque) == (1, 4)
    assert "frame of" in (answer.remark or "")


async def test_server_without_processors_is_busy(start_server: ServerMaker) -> None:
    server = await start_server(None)
    assert (await asked(server, request(1))).code == 2
    server.set_processors({1: echo})
    assert (await asked(server, request(1))).code == 0


async def test_frames_before_a_malformed_one_are_processed(start_server: ServerMaker) -> None:
    server = await start_server({1: echo})
    peer = await RawPeer.connect(server.port)
    await peer.send(
        json_frame({"code": 1, "opaque": 1}, b"a") + json_frame({"code": 1, "opaque": 2}, b"b") + b"\xff" * 9
    )
    assert (await peer.receive()).body == b"a"
    assert (await peer.receive()).body == b"b"
    with pytest.raises(EOFError):
        await peer.receive()
    await eventually(lambda: not server.connections)
    await peer.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x00",
        b"\x7f\xff\xff\xff",
        json_frame(b"not json"),
        json_frame(b"[" * 100_000),
        struct.pack(">iI", 8, 5 << 24 | 4) + b"{}{}",
    ],
    ids=["http", "tls", "zero", "2GiB", "no-json", "deep", "type"],
)
async def test_garbage_closes_only_its_connection(start_server: ServerMaker, garbage: bytes) -> None:
    server = await start_server({1: echo})
    good = await RawPeer.connect(server.port)
    bad = await RawPeer.connect(server.port)
    await bad.send(garbage)
    assert await bad.is_closed_by_server()
    await good.send(request(1, body=b"still here"))
    assert (await good.receive()).body == b"still here"
    await bad.close()
    await good.close()


async def test_half_a_frame_is_closed_after_the_idle_timeout(start_server: ServerMaker) -> None:
    server = await start_server({1: echo}, idle_timeout_s=0.2)
    peer = await RawPeer.connect(server.port)
    await peer.send(json_frame({"code": 1})[:10])
    assert await peer.is_closed_by_server()
    await eventually(lambda: not server.connections)
    await peer.close()


async def test_active_connection_is_not_idle(start_server: ServerMaker) -> None:
    server = await start_server({1: echo}, idle_timeout_s=1.0)
    peer = await RawPeer.connect(server.port)
    silent = await RawPeer.connect(server.port)
    closed = asyncio.ensure_future(silent.is_closed_by_server())
    while not closed.done():
        await peer.send(request(1))
        assert (await peer.receive()).code == 0
        await asyncio.sleep(0.02)
    assert await closed
    await peer.close()
    await silent.close()


async def test_client_that_never_reads_is_paused_and_memory_is_bounded(start_server: ServerMaker) -> None:
    answered = 0
    body = bytes(16 * 1024)

    def answer_big(connection: Connection, command: RemotingCommand) -> RemotingCommand:
        nonlocal answered
        answered += 1
        return response(command, body=body)

    server = await start_server({1: answer_big, 2: echo})
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", server.port))

    frame = json_frame({"code": 1}, bytes(1000))

    async def ask_much() -> None:
        for _ in range(300):  # 20 MB of requests, more than sockets keep; 300 MiB of answers
            await loop.sock_sendall(sock, frame * 64)

    flood = asyncio.ensure_future(ask_much())

    async def serves_others_and_not_this_one() -> bool:
        before = answered
        for _ in range(20):
            assert (await asked(server, request(2, body=b"x"))).body == b"x"
        return 0 < before == answered

    await eventually(serves_others_and_not_this_one)
    (connection,) = (c for c in server.connections if c._drained is not None)
    assert connection._transport is not None
    # What one read of the socket brought (256 KiB at most) may be answered before reading stops.
    assert connection._transport.get_write_buffer_size() <= 262_144 / len(frame) * (len(body) + 200)
    assert not flood.done()
    flood.cancel()
    await asyncio.gather(flood, return_exceptions=True)
    sock.close()


async def test_client_that_never_reads_is_closed_after_idle_timeout(start_server: ServerMaker) -> None:
    """Its answers cannot be sent, so an orderly close would wait for ever."""
    body = bytes(1024 * 1024)
    server = await start_server({1: lambda c, command: response(command, body=body)}, idle_timeout_s=0.3)
    sock = socket.socket()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", server.port))
    await loop.sock_sendall(sock, json_frame({"code": 1}) * 40)
    await eventually(lambda: server.connections)
    await eventually(lambda: not server.connections)
    sock.close()


async def test_paused_client_that_reads_again_gets_every_response(start_server: ServerMaker) -> None:
    body = bytes(100_000)
    server = await start_server({1: lambda c, command: response(command, body=body)})
    peer = await RawPeer.connect(server.port)
    peer.writer.write(b"".join(json_frame({"code": 1, "opaque": i}) for i in range(300)))
    await eventually(lambda: any(c._drained is not None for c in server.connections))
    assert [(await peer.receive()).opaque for _ in range(300)] == list(range(300))
    await peer.close()


async def test_on_close_is_called_once_per_connection(start_server: ServerMaker) -> None:
    closed: list[Connection] = []
    server = await start_server({1: echo}, on_close=closed.append)
    peers = [await RawPeer.connect(server.port) for _ in range(3)]
    await eventually(lambda: len(server.connections) == 3)
    for peer in peers:
        peer.writer.transport.abort()
    await eventually(lambda: len(closed) == 3)
    assert not server.connections


async def test_close_sends_queued_data_and_waits_for_running_requests() -> None:
    server = RemotingServer(None)

    async def slow(connection: Connection, command: RemotingCommand) -> RemotingCommand:
        await asyncio.sleep(0.05)
        return response(command, body=b"slow")

    server.set_processors({1: slow})
    await server.start("127.0.0.1", 0)
    peer = await RawPeer.connect(server.port)
    await peer.send(request(1))
    await eventually(lambda: server._dispatcher._tasks)
    await server.close()
    assert (await peer.receive()).body == b"slow"
    with pytest.raises(EOFError):
        await peer.receive()
    with pytest.raises(OSError):
        await RawPeer.connect(server.port)
    await peer.close()


async def test_port_in_use_is_a_config_error_that_names_it(start_server: ServerMaker) -> None:
    server = await start_server({})
    with pytest.raises(ConfigError, match=f"127.0.0.1:{server.port}"):
        await RemotingServer({}).start("127.0.0.1", server.port)


async def test_remote_host_is_packed_for_records(start_server: ServerMaker) -> None:
    server = await start_server(
        {1: lambda c, command: response(command, body=c.remote_host + c.remote_address.encode())}
    )
    peer = await RawPeer.connect(server.port)
    await peer.send(request(1))
    body = (await peer.receive()).body
    ip, port = peer.writer.get_extra_info("sockname")
    assert body == socket.inet_aton(ip) + port.to_bytes(4, "big") + f"{ip}:{port}".encode()
    await peer.close()


def test_processors_of_merges_and_refuses_duplicate_codes() -> None:
    class Group:
        def __init__(self, *codes: int) -> None:
            self.codes = codes

        def processors(self) -> dict[int, Any]:
            return dict.fromkeys(self.codes, echo)

    assert set(processors_of(Group(1, 2), Group(3))) == {1, 2, 3}
    with pytest.raises(AssertionError):
        processors_of(Group(1), Group(1))


async def test_pipelining_connection_does_not_block_others() -> None:
    """500 pipelined requests of 1 ms each: another connection's request is answered before the last of them."""
    handled: list[str] = []

    def work(connection: Connection, command: RemotingCommand) -> RemotingCommand:
        handled.append(command.body.decode())
        until = time.monotonic() + 0.001
        while time.monotonic() < until:
            pass
        return response(command)

    server = RemotingServer({1: work})
    await server.start("127.0.0.1", 0)
    address = f"127.0.0.1:{server.port}"
    greedy, modest = RemotingClient(), RemotingClient()
    try:
        await asyncio.gather(greedy.connect(address), modest.connect(address))
        many = [
            asyncio.ensure_future(greedy.invoke(address, request(1, body=b"greedy %d" % n), 60.0)) for n in range(500)
        ]
        while not handled:
            await asyncio.sleep(0)
        await modest.invoke(address, request(1, body=b"modest"), 60.0)
        assert len(handled) < 400
        await asyncio.gather(*many)
        assert [text for text in handled if text != "modest"] == [f"greedy {n}" for n in range(500)]
    finally:
        await greedy.close()
        await modest.close()
        await server.close()
