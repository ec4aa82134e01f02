"""A proxy that leads living connections to another server, which knows neither functions nor data nor login."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from helpers import Connect, StartBroker, eventually, send_request

from rmq_redis.store.embedded import EmbeddedServer


class SwitchingProxy:
    """Passes bytes on to ``port``; ``switch`` changes the server behind connections that stay open."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._backends: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._left: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        self._server.close()
        for client, backend in self._backends.items():
            client.close()
            backend.close()
        for backend in self._left:
            backend.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, client: asyncio.StreamWriter) -> None:
        reader, self._backends[client] = await asyncio.open_connection("127.0.0.1", self._target)

        async def pass_back() -> None:
            while data := await reader.read(65536):
                client.write(data)

        task = asyncio.create_task(pass_back())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accepted(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await self._connect(client)
        while data := await reader.read(65536):
            self._backends[client].write(data)
        self._backends.pop(client).close()
        client.close()

    async def switch(self, port: int) -> None:
        """What is under way at the server before is still answered from there."""
        self._target = port
        for client, backend in list(self._backends.items()):
            self._left.append(backend)
            await self._connect(client)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    first, second = EmbeddedServer(tmp_path / "first"), EmbeddedServer(tmp_path / "second")
    first.start()
    second.start()
    yield first, second
    first.kill()
    second.kill()


@pytest.fixture
async def proxy(servers: tuple[EmbeddedServer, EmbeddedServer]) -> AsyncIterator[SwitchingProxy]:
    proxy = SwitchingProxy(servers[0].port)
    yield proxy
    await proxy.close()


@pytest.mark.parametrize("password", ["", "secret"])
async def test_broker_continues_on_a_new_server_behind_a_kept_connection(
    password: str,
    servers: tuple[EmbeddedServer, EmbeddedServer],
    proxy: SwitchingProxy,
    start_broker: StartBroker,
    connect: Connect,
) -> None:
    port = await proxy.start()
    if password:
        for server in servers:
            with redis.Redis.from_url(server.url) as admin:
                admin.config_set("requirepass", password)
    login = f":{password}@" if password else ""
    broker = await start_broker(store=f"redis://{login}127.0.0.1:{port}/0", lease_s=0.5)
    client = connect(broker)
    await client.send("T", *"abc")
    connections = proxy.accepted
    await proxy.switch(servers[1].port)

    async def sent() -> list[int]:
        answer = await client.ask(send_request("T", b"d"))
        return [] if answer.code else [int((answer.ext_fields or {})["queueOffset"])]

    assert await eventually(sent) == [3]
    assert (await client.pull("T", 3)).bodies == ["d"]
    assert password or proxy.accepted == connections
    assert broker.broker_id == 0
