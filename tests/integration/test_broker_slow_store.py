"""Back-pressure: a store that is stopped, paused, and goes on. What was refused is not stored, what was taken is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from helpers import BrokerClient, Connect, StartBroker, eventually, send_request

from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import StoreError, SystemBusyError
from rmq_redis.protocol.command import RemotingCommand
from rmq_redis.protocol.record import RecordHead, encode_record
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.store.group.queue import Queue


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server that may be stopped."""
    with EmbeddedServer(tmp_path / "own", settings={"appendonly": "no"}) as server:
        yield server
        os.kill(server.pid, signal.SIGCONT)


async def test_refused_sends_of_a_stopped_store_are_busy_and_not_stored(
    start_broker: StartBroker, connect: Connect, own_server: EmbeddedServer
) -> None:
    broker = await start_broker(store=own_server.url, lease_s=60.0, store_busy_timeout_s=0.5)
    client = connect(broker)
    await client.send("T", "before")
    os.kill(own_server.pid, signal.SIGSTOP)
    sends: dict[str, asyncio.Task[RemotingCommand]] = {}

    def answered(prefix: str) -> bool:
        """Sends one more; whether any answer begins so."""
        body = f"m{len(sends)}"
        sends[body] = asyncio.create_task(client.ask(send_request("T", body.encode()), timeout_s=60))
        return any((task.result().remark or "").startswith(prefix) for task in sends.values() if task.done())

    await eventually(lambda: answered("[TIMEOUT_CLEAN_QUEUE]"))
    await eventually(lambda: answered("[REJECTREQUEST]"))
    assert {task.result().code for task in sends.values() if task.done()} == {ResponseCode.SYSTEM_BUSY}
    table = (await client.get(RequestCode.GET_BROKER_RUNTIME_INFO))["table"]
    assert int(table["pendingAppendBytes"]) > 0
    os.kill(own_server.pid, signal.SIGCONT)
    answers = {body: await task for body, task in sends.items()}
    assert {answer.code for answer in answers.values()} == {ResponseCode.SYSTEM_BUSY, ResponseCode.SUCCESS}
    await client.send("T", "after")
    taken = [body for body, answer in answers.items() if answer.code == ResponseCode.SUCCESS]
    assert await client.pull_all("T") == ["before", *taken, "after"]


async def test_held_sends_continue_in_order_when_the_store_recovers(
    start_broker: StartBroker, connect: Connect, own_server: EmbeddedServer
) -> None:
    broker = await start_broker(
        store=own_server.url, lease_s=60.0, store_busy_timeout_s=60.0, wait_time_in_send_queue_s=60.0
    )
    client = connect(broker)
    await client.send("T", "before")
    async with redis.asyncio.Redis.from_url(own_server.url) as server:
        await server.client_pause(60_000, all=False)
        sends = []

        def held() -> bool:
            command = send_request("T", b"m%d" % len(sends))
            sends.append(asyncio.create_task(client.ask(command, timeout_s=60)))
            return broker.parts.state.queue_store.window.held >= 5

        await eventually(held)
        assert not any(task.done() for task in sends)
        await server.client_unpause()
    assert {answer.code for answer in await asyncio.gather(*sends)} == {ResponseCode.SUCCESS}
    assert await client.pull_all("T") == ["before", *(f"m{number}" for number in range(len(sends)))]


async def test_held_sends_fail_with_a_clear_error_if_the_store_dies(
    start_broker: StartBroker, connect: Connect, own_server: EmbeddedServer
) -> None:
    broker = await start_broker(store=own_server.url, lease_s=60.0, wait_time_in_send_queue_s=60.0)
    client = connect(broker)
    await client.send("T", "before")
    os.kill(own_server.pid, signal.SIGSTOP)
    sends = []

    def held() -> bool:
        sends.append(asyncio.create_task(client.ask(send_request("T", b"x"), timeout_s=60)))
        return broker.parts.state.queue_store.window.held >= 5

    await eventually(held)
    own_server.kill()
    assert {answer.code for answer in await asyncio.gather(*sends)} == {ResponseCode.SERVICE_NOT_AVAILABLE}
    assert broker.parts.state.queue_store.pending_bytes == 0
    own_server.start()


async def test_oneway_sends_wait_for_a_stopped_store_and_are_stored(
    start_broker: StartBroker, connect: Connect, own_server: EmbeddedServer
) -> None:
    broker = await start_broker(
        store=own_server.url, lease_s=60.0, store_busy_timeout_s=0.2, wait_time_in_send_queue_s=0.05
    )
    client = connect(broker)
    await client.send("T", "before")
    os.kill(own_server.pid, signal.SIGSTOP)
    bodies = [f"m{number}" for number in range(2000)]
    for start in range(0, len(bodies), 100):
        for body in bodies[start : start + 100]:
            await client.oneway(send_request("T", body.encode()))
        await asyncio.sleep(0.02)
    await eventually(lambda: broker.parts.state.queue_store.window.busy)
    for body in ("late1", "late2"):
        await client.oneway(send_request("T", body.encode()))
    refused = await client.ask(send_request("T", b"two-way"), timeout_s=60)
    assert refused.code == ResponseCode.SYSTEM_BUSY  # whose sender can try again
    os.kill(own_server.pid, signal.SIGCONT)

    async def arrived() -> bool:
        return await client.pull_all("T") == ["before", *bodies, "late1", "late2"]

    await eventually(arrived)
    assert (await client.get(RequestCode.GET_BROKER_RUNTIME_INFO))["table"]["onewayDropTotal"] == "0"


async def test_oneway_sends_are_kept_beside_refused_sends_of_their_turn(
    start_broker: StartBroker, connect: Connect, own_server: EmbeddedServer
) -> None:
    broker = await start_broker(store=own_server.url, lease_s=60.0, store_busy_timeout_s=60.0)
    client = connect(broker)
    await client.send("T", "before")
    queue = broker.parts.state.topics.topics["T"].queues[0]
    os.kill(own_server.pid, signal.SIGSTOP)
    first = asyncio.create_task(client.ask(send_request("T", b"on its way"), timeout_s=60))
    await eventually(lambda: broker.parts.state.queue_store.window.holds)
    answered: dict[bytes, StoreError | None] = {}

    def done(_: Queue, __: int, error: StoreError | None, body: bytes) -> None:
        answered[body] = error

    bodies = [b"oneway-1", b"twoway-1", b"oneway-2", b"twoway-2"]  # in one turn of the event loop
    for body in bodies:
        record = encode_record(
            RecordHead(
                queue_id=0,
                flag=0,
                sys_flag=0,
                born_timestamp_ms=1,
                born_host=bytes(8),
                store_timestamp_ms=1,
                store_host=bytes(8),
            ),
            b"T",
            body,
            b"",
        )
        broker.parts.state.queue_store.append(
            queue, [record], len(record), done, body, patient=body.startswith(b"oneway")
        )
    await eventually(lambda: {b"twoway-1", b"twoway-2"} <= set(answered))
    assert set(answered) == {b"twoway-1", b"twoway-2"}
    os.kill(own_server.pid, signal.SIGCONT)
    await first
    await eventually(lambda: len(answered) == 4)
    assert [body for body in bodies if answered[body] is None] == [b"oneway-1", b"oneway-2"]
    assert await client.pull_all("T") == ["before", "on its way", "oneway-1", "oneway-2"]


async def taken(client: BrokerClient, body: str) -> bool:
    """Whether the broker took a message; it refuses some until the store has caught up."""
    try:
        await client.send("T", body)
    except SystemBusyError:
        return False
    return True


async def test_dropped_oneway_sends_are_counted_and_logged_once(
    start_broker: StartBroker, connect: Connect, own_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await start_broker(store=own_server.url, lease_s=60.0, max_pending_append_bytes=20_000)
    client = connect(broker)
    await client.send("T", "before")
    os.kill(own_server.pid, signal.SIGSTOP)
    for _ in range(300):
        await client.oneway(send_request("T", b"x" * 1000))
    await client.oneway(send_request("a b", b"x"))  # and for any other reason

    async def dropped() -> int:
        return int((await client.get(RequestCode.GET_BROKER_RUNTIME_INFO))["table"]["onewayDropTotal"])

    async def counted() -> bool:
        return await dropped() >= 250

    await eventually(counted)
    os.kill(own_server.pid, signal.SIGCONT)
    await eventually(lambda: taken(client, "after"))
    stored = len(await client.pull_all("T")) - 2
    assert stored + await dropped() == 301
    assert stored > 0
    warnings = [
        record.getMessage() for record in caplog.records if "one-way messages were dropped" in record.getMessage()
    ]
    assert len(warnings) == 1
