"""The proxy that plays the network: through, cut, healed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rmq_redis.labs.chaos.proxy import Proxy
from rmq_redis.store.embedded import free_port


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def proxy(echo: int) -> AsyncIterator[Proxy]:
    made = Proxy(echo)
    await made.start()
    yield made
    await made.close()


async def test_cut_off_data_arrives_when_the_cut_is_healed(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    proxy.cut()
    writer.write(b"two")
    late_reader, late_writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    late_writer.write(b"late")
    waiting = [asyncio.ensure_future(r.readexactly(n)) for r, n in ((reader, 3), (late_reader, 4))]
    done, _ = await asyncio.wait(waiting, timeout=0.1)
    assert not done
    proxy.heal()
    assert await asyncio.gather(*waiting) == [b"two", b"late"]
    for end in (writer, late_writer):
        end.close()


async def test_unreachable_target_closes_the_connection(proxy: Proxy) -> None:
    proxy.target_port = free_port()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        assert await reader.read(1) == b""
    except ConnectionError:
        pass
    writer.close()


async def test_closing_one_end_closes_the_other(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.write_eof()
    try:
        assert await reader.read(1) == b""
    except ConnectionError:
        pass
    writer.close()
