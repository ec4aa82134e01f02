"""The function library disappears on a live connection: it is loaded once more, and nothing is refused or reordered."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as redis_async
from helpers import BrokerClient, Connect, eventually, send_request
from test_broker_sync import replica, sync_master

from rmq_redis.broker.broker import Broker
from rmq_redis.errors import StoreError
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.store.redis.functions import LIBRARY_NAME
from rmq_redis.store.redis.opening import open_connection

__all__ = ["replica", "sync_master"]

REMOVALS = ["FUNCTION DELETE " + LIBRARY_NAME, "FUNCTION FLUSH", "FUNCTION FLUSH ASYNC", "SCRIPT FLUSH"]


async def remove(server: EmbeddedServer, command: str) -> None:
    async with redis_async.Redis.from_url(server.url) as client:
        await client.execute_command(*command.split())


@pytest.mark.parametrize("command", REMOVALS)
async def test_broker_reloads_a_removed_function_library(
    command: str, client: BrokerClient, embedded_server: EmbeddedServer
) -> None:
    await client.send("T", "a")
    await remove(embedded_server, command)
    await client.send("T", "b")
    await remove(embedded_server, command)
    assert await client.pull_all("T") == ["a", "b"]
    await client.send("T", "later", properties="UNIQ_KEY\x01A1\x02TIMER_DELAY_MS\x0120\x02")

    async def delivered() -> bool:
        return await client.pull_all("T") == ["a", "b", "later"]

    await remove(embedded_server, command)
    await eventually(delivered)


async def test_sends_in_flight_keep_their_order(client: BrokerClient, embedded_server: EmbeddedServer) -> None:
    await client.send("T", "first")
    bodies = [f"m{number:04}" for number in range(600)]
    sends = []
    for start in range(0, 600, 100):
        if start % 200 == 0:
            await remove(embedded_server, "FUNCTION FLUSH")
        sends += [
            asyncio.create_task(client.ok(send_request("T", body.encode()))) for body in bodies[start : start + 100]
        ]
    await asyncio.gather(*sends)
    assert await client.pull_all("T") == ["first", *bodies]


async def test_confirmed_sends_succeed_after_library_removal(
    sync_master: Broker, connect: Connect, embedded_server: EmbeddedServer
) -> None:
    """The question whether replicas have it is answered before the repeated append, so it is asked once more."""
    client = connect(sync_master)
    await client.send("T", "a")
    await remove(embedded_server, "FUNCTION FLUSH")
    await asyncio.gather(*(client.send("T", body) for body in "bcdef"))
    assert await client.pull_all("T") == list("abcdef")


async def test_user_without_permission_to_load_uses_eval(embedded_server: EmbeddedServer, key_prefix: str) -> None:
    async with redis_async.Redis.from_url(embedded_server.url) as admin:
        user = f"user-{key_prefix}"
        await admin.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all")
        connection = await open_connection(f"redis://{user}:secret@127.0.0.1:{embedded_server.port}/0")
        try:
            assert await connection.execute_function("queue_info", [b"none"], []) == [0, 0]
            await admin.execute_command("ACL", "SETUSER", user, "-function")
            await admin.execute_command("FUNCTION", "FLUSH")
            calls = [connection.execute_function("queue_info", [b"none"], []) for _ in range(3)]
            assert await asyncio.gather(*calls) == [[0, 0]] * 3
            await admin.execute_command("ACL", "SETUSER", user, "-eval")
            with pytest.raises(StoreError, match="NOPERM"):
                await connection.execute_function("queue_info", [b"none"], [])
        finally:
            connection.close()
            await admin.execute_command("ACL", "DELUSER", user)


async def test_connection_lost_while_loading_fails_waiting_calls(embedded_server: EmbeddedServer) -> None:
    connection = await open_connection(embedded_server.url)
    await remove(embedded_server, "FUNCTION FLUSH")
    answers: list[object] = []
    connection.call_function(answers.append, "queue_info", [b"none"], [])
    await eventually(lambda: bool(connection._failed or answers))
    if not answers:
        connection.abort()
        await eventually(lambda: bool(answers))
        assert isinstance(answers[0], StoreError)
    connection.close()
    await asyncio.sleep(0)
