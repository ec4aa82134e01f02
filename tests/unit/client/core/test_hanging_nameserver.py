"""A NameServer that hangs (it accepts connections and answers nothing) costs a fraction of the time, and once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from helpers import eventually

from rmq_redis import AsyncAdmin, AsyncProducer, AsyncPushConsumer, Message, MessageExt
from rmq_redis.errors import RemotingError
from rmq_redis.testing import running_cluster


class Hanging:
    """Accepts and reads. ``connections`` counts."""

    def __init__(self) -> None:
        self.connections = 0
        self.address = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while await reader.read(1 << 16):
            pass
        writer.close()


@asynccontextmanager
async def hanging_server() -> AsyncIterator[Hanging]:
    hanging = Hanging()
    server = await asyncio.start_server(hanging.handle, "127.0.0.1", 0)
    hanging.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield hanging
    finally:
        server.close()


async def send(addresses: str) -> None:
    """The whole time of a send is that of one silent NameServer: waiting for it alone would fail."""
    async with AsyncProducer("p", addresses, send_timeout_s=8.0, request_timeout_s=8.0) as producer:
        await producer.send(Message("t", "x"))
        asked: list[str] = []
        invoke = producer._instance.remoting.invoke

        async def noted(address: str, *args: Any) -> Any:
            asked.append(address)
            return await invoke(address, *args)

        producer._instance.remoting.invoke = noted  # type: ignore[method-assign]
        await producer._instance.routes.refresh("t")
        assert len(asked) == 1  # the silent one is remembered, and not asked first again


async def consume(addresses: str) -> None:
    got: list[str] = []

    async def handle(message: MessageExt) -> None:
        got.append(message.text())

    consumer = AsyncPushConsumer("g", addresses, consume_from_where="CONSUME_FROM_FIRST_OFFSET", request_timeout_s=8.0)
    consumer.subscribe("known", "*", handle)
    async with consumer:
        await eventually(lambda: got == ["hello"])


async def administrate(addresses: str) -> None:
    async with AsyncAdmin(addresses, request_timeout_s=8.0) as admin:
        await admin.create_topic("made")
        assert "made" in await admin.topic_list()
        await admin.put_kv_config("n", "k", "v")
        assert await admin.get_kv_config("n", "k") == "v"
        await admin.delete_topic("made")
        assert "made" not in await admin.topic_list()


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("work", [send, consume, administrate])
async def test_clients_work_beside_a_hanging_nameserver(
    work: Callable[[str], Coroutine[Any, Any, None]], position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmq_redis.client.core.route.random.shuffle", lambda addresses: None)
    async with hanging_server() as hanging, running_cluster() as living:
        async with AsyncProducer("setup", living) as producer:
            await producer.send(Message("known", "hello"))
        addresses = [living, living.replace("127.0.0.1", "localhost")]
        addresses.insert(position, hanging.address)
        async with asyncio.timeout(7.0 * 4):
            await work(";".join(addresses))
        if position == 0:
            assert hanging.connections > 0


async def test_error_names_every_silent_nameserver() -> None:
    async with (
        hanging_server() as one,
        hanging_server() as other,
        AsyncAdmin(f"{one.address};{other.address}", request_timeout_s=0.2) as admin,
    ):
        with pytest.raises(RemotingError, match="no NameServer answers") as caught:
            await admin.topic_list()
        assert one.address in str(caught.value)
        assert other.address in str(caught.value)
        with pytest.raises(RemotingError):
            await admin.put_kv_config("n", "k", "v")
