"""Whatever one client sends, it hears of it or is cut off, and nobody else notices."""

from __future__ import annotations

import asyncio
import random
import resource
import sys

import pytest
from helpers import BrokerClient, Connect, RawPeer, StartBroker, eventually, json_frame, pull_request, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.protocol.command import request
from rmq_redis.protocol.frame import encode_command
from rmq_redis.protocol.headers.admin import TopicRequestHeader

ALL_CODES = sorted({int(code) for code in RequestCode} | {0, -1, 9, 2**31 - 1, -(2**31)})


async def is_served(client: BrokerClient) -> None:
    await client.send("Good", "x")
    assert (await client.pull("Good", 0)).code == 0


async def test_body_above_the_limit_is_refused_without_closing(client: BrokerClient, broker: Broker) -> None:
    answer = await client.ask(send_request("T", bytes(4 * 1024 * 1024 + 1)))
    assert answer.code == 13
    assert "4194304" in (answer.remark or "")
    await is_served(client)


async def test_frame_above_the_limit_closes_at_its_length_field(client: BrokerClient, broker: Broker) -> None:
    peer = await RawPeer.connect(broker.port)
    await peer.send((16 * 1024 * 1024).to_bytes(4, "big") + bytes(1000))
    assert await peer.is_closed_by_server()
    await peer.close()
    await is_served(client)


@pytest.mark.parametrize("seed", range(20))
async def test_garbage_closes_the_connection(client: BrokerClient, broker: Broker, seed: int) -> None:
    rng = random.Random(seed)
    garbage = rng.randbytes(rng.randrange(8, 5000))
    garbage = rng.choice([b"", b"\xff", b"\x00\x00\x00\x10"]) + garbage
    peer = await RawPeer.connect(broker.port)
    closing = asyncio.ensure_future(peer.is_closed_by_server())
    await peer.send(garbage)
    await is_served(client)
    peer.writer.write_eof()  # what was the begin of a frame will never be whole
    assert await closing
    await peer.close()
    await eventually(lambda: len(broker._server.connections) <= 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("code", [9999, 0, -1, RequestCode.POP_MESSAGE + 1000, 2**31 - 1])
async def test_unknown_code_is_refused_with_3(client: BrokerClient, code: int) -> None:
    answer = await client.ask(request(code))
    assert (answer.code, answer.remark) == (3, f" request type {code} not supported")
    await is_served(client)


async def test_half_a_frame_is_closed_after_the_idle_timeout(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(idle_timeout_s=0.3)
    peer = await RawPeer.connect(broker.port)
    await peer.send(encode_command(send_request("T"))[:50])
    closed = asyncio.ensure_future(peer.is_closed_by_server())
    await eventually(closed.done)
    assert closed.result()
    await is_served(connect(broker))
    await peer.close()


async def test_junk_for_every_code_is_no_internal_error(
    client: BrokerClient, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    headers = [
        b"{}",
        b'{"topic":"\\u0000","queueId":"-1","consumerGroup":"","group":"","b":"","a":""}',
        b'{"topic":5,"queueId":1e300,"consumerGroup":true,"perm":"x","clientID":null,"offset":-9}',
        b'{"topic":"T","queueId":"2147483647","consumerGroup":"G","commitOffset":"9223372036854775807",'
        b'"queueOffset":"-9223372036854775808","maxMsgNums":"-2147483648","sysFlag":"-1","offset":"1",'
        b'"suspendTimeoutMillis":"-1","subscription":"*","timestamp":"-1","consumerGroup":"G","group":"G"}',
    ]
    bodies = [b"", b"{}", b"[", b"null", b"\xff" * 50, b'{"clientID":"x","consumerDataSet":[{"groupName":[]}]}']
    peer = await RawPeer.connect(broker.port)
    for code in ALL_CODES:
        frames = [
            json_frame(b'{"code":%d,"opaque":%d,"extFields":%b}' % (code, i, fields), body)
            for i, (fields, body) in enumerate((fields, body) for fields in headers for body in bodies)
        ]
        await peer.send(b"".join(frames))
        answers = [await peer.receive() for _ in frames]
        assert {answer.opaque for answer in answers} == set(range(len(frames)))
        for answer in answers:
            assert "internal error" not in (answer.remark or ""), (code, answer.opaque)
    await peer.close()
    assert not [record for record in caplog.records if record.exc_info]
    await is_served(client)


async def test_damaged_requests_are_no_internal_error(
    client: BrokerClient, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(7)
    await client.send("T", *"abc")
    samples = [
        encode_command(command)
        for command in (
            send_request("T"),
            send_request("T", code=RequestCode.SEND_MESSAGE),
            pull_request("T", 0),
            request(RequestCode.GET_TOPIC_STATS_INFO, TopicRequestHeader("T")),
        )
    ]
    for _ in range(300):
        frame = bytearray(rng.choice(samples))
        for _ in range(rng.randrange(1, 5)):
            frame[rng.randrange(8, len(frame))] = rng.randrange(256)
        peer = await RawPeer.connect(broker.port)
        await peer.send(bytes(frame))
        peer.writer.write_eof()
        assert await peer.is_closed_by_server()
        await peer.close()
    assert not [record for record in caplog.records if record.exc_info]
    assert "internal error" not in caplog.text
    await is_served(client)


async def test_clients_that_disconnect_anywhere_do_not_affect_others(client: BrokerClient, broker: Broker) -> None:
    frame = encode_command(send_request("T", b"x" * 100)) + encode_command(pull_request("T", 0, suspend_ms=10_000))
    for size in range(0, len(frame), 7):
        peer = await RawPeer.connect(broker.port)
        peer.writer.write(frame[:size])
        peer.writer.transport.abort()
    await is_served(client)
    await eventually(lambda: len(broker._server.connections) == 1)  # type: ignore[union-attr]
    await eventually(lambda: broker.parts.pulls.hold.count == 0)


async def test_client_that_never_reads_does_not_affect_others(client: BrokerClient, broker: Broker) -> None:
    await client.ok(send_request("Big", bytes(1024 * 1024)))
    peer = await RawPeer.connect(broker.port, limit=1)
    peer.writer.write(encode_command(pull_request("Big", 0)) * 64)
    await is_served(client)

    def held_bytes() -> int:
        assert broker._server is not None
        sizes = [c._transport.get_write_buffer_size() for c in broker._server.connections if c._transport]
        return max(sizes, default=0)

    await eventually(lambda: held_bytes() > 1024 * 1024)
    for _ in range(20):
        await is_served(client)
    peer.writer.transport.abort()
    await eventually(lambda: held_bytes() < 1024 * 1024)


IDLE_CLIENTS = """
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
sockets = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
print("ready", flush=True)
sys.stdin.read()
"""


async def test_client_is_served_beside_thousands_of_idle_connections(client: BrokerClient, broker: Broker) -> None:
    """10,000 of them where the limit of open files allows, else as many as it does."""
    assert broker._server is not None
    wanted = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000)
    if wanted < 2000:
        pytest.skip(f"the limit of open files allows only {wanted} connections")
    await is_served(client)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        IDLE_CLIENTS,
        str(broker.port),
        str(wanted),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        await eventually(lambda: len(broker._server.connections) == wanted + 1)  # type: ignore[union-attr]
        await asyncio.gather(*(client.send("T", f"m{i}") for i in range(200)))
        assert len(await client.pull_all("T")) == 200
    finally:
        await process.communicate(b"")
    await eventually(lambda: len(broker._server.connections) == 1)  # type: ignore[union-attr]
    await is_served(client)
