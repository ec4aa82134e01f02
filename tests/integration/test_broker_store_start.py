"""Servers that are not up yet, passwords that change, connections that are cut: what the broker does and logs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from helpers import Connect, StartBroker, eventually, send_request

from rmq_redis.errors import StoreError
from rmq_redis.store.embedded import EmbeddedServer, free_port


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "own")
    server.start()
    yield server
    server.kill()


def logged(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("broker_id", [0, 1])
async def test_starting_broker_waits_for_its_store(
    broker_id: int, tmp_path: Path, start_broker: StartBroker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    starting = asyncio.create_task(start_broker(store=f"redis://127.0.0.1:{port}/0", broker_id=broker_id))
    await eventually(lambda: logged(caplog, "waits for its store: cannot reach the store") >= 2)
    server = EmbeddedServer(tmp_path / "late", port=port)
    server.start()
    try:
        broker = await asyncio.wait_for(starting, 30)
        if broker_id == 0:
            client = connect(broker)
            await client.send("T", "a")
            with redis.Redis.from_url(server.url) as admin:  # and the connection that came late comes back, too
                admin.client_kill_filter(_type="normal", skipme=True)

            async def sent() -> bool:
                return (await client.ask(send_request("T", b"b"))).code == 0

            await eventually(sent)
        await broker.close()
    finally:
        server.kill()


async def test_wrong_password_fails_the_start_at_once(server: EmbeddedServer, start_broker: StartBroker) -> None:
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("requirepass", "right")
    with pytest.raises(StoreError, match="refused the connection: WRONGPASS"):
        await start_broker(store=f"redis://:wrong@127.0.0.1:{server.port}/0")
    with pytest.raises(StoreError, match="refused the connection: NOAUTH"):
        await start_broker(store=server.url)


async def test_rotated_password_is_named_in_the_log(
    server: EmbeddedServer, start_broker: StartBroker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("requirepass", "old")
        broker = await start_broker(store=f"redis://:old@127.0.0.1:{server.port}/0")
        client = connect(broker)
        await client.send("T", "a")
        admin.config_set("requirepass", "new")
        admin.client_kill_filter(_type="normal", skipme=True)
        await eventually(lambda: logged(caplog, "WRONGPASS") > 0)
    with redis.Redis.from_url(f"redis://:new@127.0.0.1:{server.port}/0") as admin:
        admin.config_set("requirepass", "old")

        async def sent() -> bool:
            return (await client.ask(send_request("T", b"b"))).code == 0

        await eventually(sent)
    assert logged(caplog, "WRONGPASS") <= 2  # once for each of the two connections
    assert not logged(caplog, ":old@")


async def test_repeatedly_closed_connections_are_logged_with_a_hint(
    server: EmbeddedServer, start_broker: StartBroker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await start_broker(store=server.url)
    client = connect(broker)
    await client.send("T", *["x" * 100_000] * 40)
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("client-output-buffer-limit", "normal 16384 0 0")

    async def hinted() -> bool:
        await asyncio.gather(*(client.pull("T", 0) for _ in range(8)), return_exceptions=True)
        return logged(caplog, "client-output-buffer-limit") > 0

    await eventually(hinted)
