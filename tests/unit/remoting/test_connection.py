"""Calls over one connection: answers, timeouts, loss, requests in both directions."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
from helpers import RawPeer, drop_all_packets, eventually

from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import (
    ConnectionClosedError,
    LocalProtocolError,
    RemotingConnectError,
    RequestTimeoutError,
    ResponseError,
    TopicNotExistError,
)
from rmq_redis.protocol.command import RemotingCommand, SerializeType, request, response
from rmq_redis.protocol.frame import CommandDecoder, encode_command
from rmq_redis.remoting.client import RemotingClient
from rmq_redis.remoting.connection import Connection
from rmq_redis.remoting.server import RemotingServer


class Script:
    """A TCP server that reads commands and does with them what a test says."""

    def __init__(self) -> None:
        self.received: list[RemotingCommand] = []
        self.writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        decoder = CommandDecoder()
        try:
            while data := await reader.read(65536):
                decoder.feed(data, self.received)
        except OSError:
            pass
        finally:
            writer.close()

    def send(self, command: RemotingCommand) -> None:
        self.writers[-1].write(encode_command(command))

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.close()


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    script = Script()
    yield script
    await script.close()


@pytest.fixture
async def client() -> AsyncIterator[RemotingClient]:
    client = RemotingClient()
    yield client
    await client.close()


async def test_responses_in_any_order_are_matched_to_their_requests(script: Script, client: RemotingClient) -> None:
    address = await script.start()
    calls = [asyncio.ensure_future(client.invoke(address, request(code), 10)) for code in (101, 102, 103)]
    await eventually(lambda: len(script.received) == 3)
    for command in reversed(script.received):
        script.send(response(command, body=b"%d" % command.code))
    answers = await asyncio.gather(*calls)
    assert [answer.body for answer in answers] == [b"101", b"102", b"103"]
    assert len({command.opaque for command in script.received}) == 3
    assert not client.connections[address]._pending


async def test_call_without_a_response_times_out_alone(script: Script, client: RemotingClient) -> None:
    address = await script.start()
    late = asyncio.ensure_future(client.invoke(address, request(1), 0.05))
    patient = asyncio.ensure_future(client.invoke(address, request(2), 30))
    with pytest.raises(RequestTimeoutError):
        await late
    assert not patient.done()
    await eventually(lambda: len(script.received) == 2)
    script.send(response(script.received[1]))
    assert (await patient).code == 0


async def test_calls_expire_in_the_order_of_their_deadlines_with_one_timer(
    script: Script, client: RemotingClient
) -> None:
    connection = await client.connect(await script.start())
    loop = asyncio.get_running_loop()
    timers = 0
    call_at = loop.call_at

    def counting(*args: object, **kwargs: object) -> asyncio.TimerHandle:
        nonlocal timers
        timers += 1
        return call_at(*args, **kwargs)  # type: ignore[arg-type]

    connection._loop = _Counting(loop, counting)  # type: ignore[assignment]
    order: list[int] = []
    calls = []
    for index, timeout_s in enumerate([0.2, 0.02, 0.1] + [0.3] * 100):
        call = connection.invoke(request(1), timeout_s)
        call.add_done_callback(lambda _, index=index: order.append(index))  # type: ignore[misc]
        calls.append(call)
    assert timers <= 2
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {RequestTimeoutError}
    assert order[:3] == [1, 2, 0]
    # Nothing is left that would keep answers or timers.
    assert not connection._pending
    assert connection._timer is None


class _Counting:
    """An event loop whose ``call_at`` is counted."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call_at: object) -> None:
        self._loop = loop
        self.call_at = call_at

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)


async def test_late_and_unknown_responses_are_dropped(script: Script, client: RemotingClient) -> None:
    address = await script.start()
    with pytest.raises(RequestTimeoutError):
        await client.invoke(address, request(1), 0.02)
    await eventually(lambda: script.received)
    script.send(response(script.received[0], body=b"late"))
    script.send(RemotingCommand(code=0, opaque=123456, flag=1, body=b"unknown"))
    call = asyncio.ensure_future(client.invoke(address, request(2), 10))
    await eventually(lambda: len(script.received) == 2)
    script.send(response(script.received[1], body=b"mine"))
    script.send(response(script.received[1], body=b"twice"))
    assert (await call).body == b"mine"


async def test_response_after_the_call_was_cancelled_is_dropped(script: Script, client: RemotingClient) -> None:
    address = await script.start()
    call = asyncio.ensure_future(client.invoke(address, request(1), 30))
    await eventually(lambda: script.received)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    script.send(response(script.received[0]))
    second = asyncio.ensure_future(client.invoke(address, request(2), 30))
    await eventually(lambda: len(script.received) == 2)
    script.send(response(script.received[1], body=b"x"))
    assert (await second).body == b"x"


async def test_lost_connection_fails_pending_calls_and_is_reopened(script: Script) -> None:
    address = await script.start()
    closed: list[str] = []
    client = RemotingClient(on_close=closed.append)
    calls = [asyncio.ensure_future(client.invoke(address, request(1), 30)) for _ in range(3)]
    await eventually(lambda: len(script.received) == 3)
    script.writers[0].transport.abort()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {ConnectionClosedError}
    assert closed == [address]
    assert address not in client.connections
    again = asyncio.ensure_future(client.invoke(address, request(2), 30))
    await eventually(lambda: len(script.received) == 4)
    script.send(response(script.received[3]))
    assert (await again).code == 0
    await client.close()
    assert closed == [address]  # we closed it ourselves: no news


async def test_call_on_a_closed_connection_fails_at_once(script: Script, client: RemotingClient) -> None:
    connection = await client.connect(await script.start())
    client.disconnect(connection.remote_address)
    await eventually(lambda: connection.closed)
    with pytest.raises(ConnectionClosedError):
        await connection.invoke(request(1), 30)
    connection.write(b"dropped")
    connection.close()
    connection.abort()
    await connection.drain()


async def test_concurrent_callers_share_one_connection_attempt(script: Script, client: RemotingClient) -> None:
    address = await script.start()
    connections = await asyncio.gather(*(client.connect(address) for _ in range(20)))
    assert len(set(connections)) == 1
    await eventually(lambda: script.writers)
    assert len(script.writers) == 1


async def test_cancelled_caller_does_not_cancel_the_shared_attempt(script: Script, client: RemotingClient) -> None:
    address = await script.start()
    first = asyncio.ensure_future(client.connect(address))
    second = asyncio.ensure_future(client.connect(address))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).remote_address == address


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:x", ":", "127.0.0.1:99999", "[::1]:1", ""])
async def test_unreachable_address_is_a_connect_error(client: RemotingClient, address: str) -> None:
    with pytest.raises(RemotingConnectError, match=r"address|connect"):
        await client.invoke(address, request(1), 1)
    assert not client._connecting


async def test_connecting_times_out() -> None:
    async def accepts_nothing(*args: object, **kwargs: object) -> None:
        await asyncio.sleep(60)

    client = RemotingClient(connect_timeout_s=0.02)
    loop = asyncio.get_running_loop()
    original = loop.create_connection
    try:
        loop.create_connection = accepts_nothing  # type: ignore[method-assign, assignment]
    except AttributeError:
        pytest.skip("this event loop's methods cannot be replaced")
    try:
        with pytest.raises(RemotingConnectError, match=r"no answer in 0\.02 s"):
            await client.connect("127.0.0.1:1")
    finally:
        loop.create_connection = original  # type: ignore[method-assign]


async def test_close_ends_attempts_with_a_connect_error(script: Script) -> None:
    client = RemotingClient()
    attempt = asyncio.ensure_future(client.connect(await script.start()))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(RemotingConnectError, match="closed"):
        await attempt
    with pytest.raises(RemotingConnectError, match="closed"):
        await client.connect("127.0.0.1:1")


async def test_call_raises_the_error_class_of_the_response_code(script: Script, client: RemotingClient) -> None:
    address = await script.start()
    for code, kind in ((17, TopicNotExistError), (9999, ResponseError)):
        call = asyncio.ensure_future(client.call(address, request(105), 10))
        await eventually(lambda: script.received)
        script.send(response(script.received.pop(), code, remark="why"))
        with pytest.raises(kind, match="why") as caught:
            await call
        assert (caught.value.code, caught.value.address) == (code, address)


async def test_oneway_has_flag_2_and_does_not_wait(script: Script, client: RemotingClient) -> None:
    address = await script.start()
    await client.invoke_oneway(address, request(15))
    await eventually(lambda: script.received)
    assert script.received[0].flag == 2
    assert not client.connections[address]._pending


async def test_unencodable_request_fails_alone(script: Script, client: RemotingClient) -> None:
    connection = await client.connect(await script.start())
    bad = RemotingCommand(code=200050, serialize_type=SerializeType.ROCKETMQ)
    with pytest.raises(LocalProtocolError):
        await connection.invoke(bad, 1)
    assert not connection._pending
    assert not connection.closed


async def test_opaque_wraps_within_int32(script: Script, client: RemotingClient) -> None:
    connection = await client.connect(await script.start())
    connection._next_opaque = 2**31 - 2
    assert [connection.next_opaque() for _ in range(3)] == [2**31 - 1, 0, 1]


async def test_malformed_response_closes_and_fails_pending_calls(script: Script, client: RemotingClient) -> None:
    address = await script.start()
    calls = [asyncio.ensure_future(client.invoke(address, request(1), 30)) for _ in range(2)]
    await eventually(lambda: len(script.received) == 2)
    script.writers[0].write(encode_command(response(script.received[0], body=b"good")) + b"\xff\xff\xff\xff")
    assert (await calls[0]).body == b"good"
    with pytest.raises(ConnectionClosedError):
        await calls[1]


async def test_server_calls_the_client_over_the_same_connection() -> None:
    asked: list[RemotingCommand] = []

    def notified(connection: Connection, command: RemotingCommand) -> RemotingCommand:
        asked.append(command)
        return response(command, body=b"client " + command.body)

    server = RemotingServer({34: lambda connection, command: response(command)})
    await server.start("127.0.0.1", 0)
    client = RemotingClient({int(RequestCode.NOTIFY_CONSUMER_IDS_CHANGED): notified})
    address = f"127.0.0.1:{server.port}"
    await client.call(address, request(34), 10)
    (connection,) = server.connections
    # The same opaque in both directions at once: the flag tells which table it belongs to.
    connection._next_opaque = client.connections[address]._next_opaque
    theirs = connection.invoke(request(40, body=b"x"), 10)
    ours = asyncio.ensure_future(client.call(address, request(34), 10))
    assert (await theirs).body == b"client x"
    assert (await ours).code == 0
    assert asked[0].opaque == client.connections[address]._next_opaque
    unknown = await connection.invoke(request(307), 10)
    assert unknown.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED
    await client.close()
    await server.close()


async def test_large_frames_in_both_directions_do_not_deadlock() -> None:
    """Both ends have more to write than sockets and buffers take: somebody must go on reading."""
    server = RemotingServer({1: lambda connection, command: response(command, body=command.body)})
    await server.start("127.0.0.1", 0)
    client = RemotingClient()
    address = f"127.0.0.1:{server.port}"
    body = bytes(1024 * 1024)
    connection = await client.connect(address)
    answers = await asyncio.gather(*(connection.invoke(request(1, body=body), 30) for _ in range(64)))
    assert {len(answer.body) for answer in answers} == {len(body)}
    await client.close()
    await server.close()


async def test_drain_waits_until_the_peer_reads() -> None:
    server = RemotingServer({1: lambda connection, command: None})
    await server.start("127.0.0.1", 0)
    peer = await RawPeer.connect(server.port)
    await peer.send(request(1))
    await eventually(lambda: server.connections)
    (connection,) = server.connections
    for _ in range(16):
        connection.write_command(request(40, body=bytes(1024 * 1024)))
    await eventually(lambda: connection._drained is not None)
    draining = asyncio.ensure_future(connection.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    for _ in range(16):
        await peer.receive()
    await draining
    await peer.close()
    await server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can throw away one connection's packets")
async def test_silently_disconnected_peer_is_reconnected(
    script: Script, client: RemotingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that died or a firewall that forgot: nothing arrives there any more, and no reset comes back."""
    monkeypatch.setattr("rmq_redis.remoting.client.UNACKNOWLEDGED_S", 0.1)
    address = await script.start()
    first = asyncio.ensure_future(client.invoke(address, request(1), 30))
    await eventually(lambda: script.received)
    script.send(response(script.received[0]))
    await first
    drop_all_packets(script.writers[0].get_extra_info("socket"))
    with pytest.raises(ConnectionClosedError):
        await client.invoke(address, request(2), 60)
    again = asyncio.ensure_future(client.invoke(address, request(3), 30))
    await eventually(lambda: len(script.received) == 2)
    script.send(response(script.received[1], body=b"x"))
    assert (await again).body == b"x"
