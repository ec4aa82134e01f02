"""The pipelining connection: answers in order, whatever happens to a call; connecting and its errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually

from rmq_redis.errors import StoreError
from rmq_redis.store.embedded import EmbeddedServer, find_server_binary, free_port
from rmq_redis.store.redis import opening
from rmq_redis.store.redis.connection import StoreConnection
from rmq_redis.store.redis.opening import open_connection
from rmq_redis.store.redis.reconnecting import Store


@pytest.fixture
async def connection(store_url: str) -> AsyncIterator[StoreConnection]:
    connection = await open_connection(store_url)
    yield connection
    connection.close()


async def test_replies_are_returned_in_the_order_of_calls(connection: StoreConnection, key_prefix: str) -> None:
    answers: list[Any] = []
    for i in range(100):
        connection.call(answers.append, "SET", f"{key_prefix}{i}", i)
        connection.call(answers.append, "GET", f"{key_prefix}{i}")
    await connection.execute("PING")
    assert answers[1::2] == [b"%d" % i for i in range(100)]


async def test_server_error_fails_only_its_own_call(connection: StoreConnection, key_prefix: str) -> None:
    await connection.execute("SET", key_prefix, "text")
    wrong = connection.execute("LPUSH", key_prefix, "x")
    right = connection.execute("GET", key_prefix)
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await wrong
    assert await right == b"text"


async def test_unencodable_call_does_not_shift_replies(connection: StoreConnection, key_prefix: str) -> None:
    answers: list[Any] = []
    for bad in ("\ud800", object()):
        with pytest.raises((UnicodeEncodeError, TypeError)):
            connection.call(answers.append, "GET", bad)  # type: ignore[arg-type]
    assert await connection.execute("ECHO", "mine") == b"mine"
    assert not answers


async def test_calls_on_a_lost_connection_fail(connection: StoreConnection) -> None:
    lost = connection.execute("PING")
    connection.close()
    connection._transport.abort()  # type: ignore[union-attr]
    with pytest.raises(StoreError):
        await lost
    with pytest.raises(StoreError):
        await connection.execute("PING")


async def test_cancelled_call_does_not_affect_others(connection: StoreConnection) -> None:
    given_up = connection.execute("ECHO", "a")
    given_up.cancel()
    assert await connection.execute("ECHO", "b") == b"b"


async def test_database_of_the_url_is_selected(embedded_server: EmbeddedServer, key_prefix: str) -> None:
    first = await open_connection(f"redis://127.0.0.1:{embedded_server.port}/0")
    second = await open_connection(f"redis://127.0.0.1:{embedded_server.port}/1")
    await first.execute("SET", key_prefix, "x")
    assert await second.execute("GET", key_prefix) is None
    first.close()
    second.close()


async def test_wrong_password_is_a_store_error(tmp_path: Path, embedded_server: EmbeddedServer) -> None:
    port = free_port()
    arguments = [str(find_server_binary()), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", "s3cret"]
    process = await asyncio.create_subprocess_exec(
        *arguments, "--dir", str(tmp_path), "--save", "", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        while b"Ready to accept" not in await process.stdout.readline():
            pass
        connection = await open_connection(f"redis://:s3cret@127.0.0.1:{port}/0")
        assert await connection.execute("PING") == "PONG" or await connection.execute("PING") == b"PONG"
        connection.close()
        for url in (f"redis://:wrong@127.0.0.1:{port}/0", f"redis://127.0.0.1:{port}/0"):
            with pytest.raises(StoreError, match=r"WRONGPASS|NOAUTH") as caught:
                await open_connection(url)
            assert "wrong@" not in str(caught.value)
    finally:
        process.terminate()
        await process.communicate()


async def test_unreachable_server_error_hides_the_password() -> None:
    with pytest.raises(StoreError, match="cannot reach the store") as caught:
        await Store(f"redis://user:s3cret@127.0.0.1:{free_port()}/0", "test").start()
    assert "s3cret" not in str(caught.value)


async def test_silent_server_times_out_and_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_CONNECT_TIMEOUT_S", 0.05)
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(StoreError, match="no answer in time"):
        await open_connection(f"redis://127.0.0.1:{port}/0")
    async with asyncio.timeout(120):
        await gone.wait()
    server.close()


async def test_server_without_redis_protocol_is_a_store_error() -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(StoreError):
        await open_connection(f"redis://127.0.0.1:{port}/0")
    server.close()


async def test_bug_in_a_callback_does_not_stop_reconnecting(embedded_server: EmbeddedServer) -> None:
    opened: list[StoreConnection] = []

    def on_open(connection: StoreConnection) -> Any:
        opened.append(connection)
        if len(opened) == 2:
            raise KeyError("a mistake")
        return asyncio.sleep(0)

    store = Store(embedded_server.url, "test", on_open)
    await store.start()
    store.reconnect()
    await eventually(lambda: len(opened) == 3 and store.connection is opened[2])
    await store.close()
