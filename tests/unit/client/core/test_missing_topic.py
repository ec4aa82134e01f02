"""Consumers that start before their topic, or their servers, exist: they find it about a second after it appears."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually

from rmq_redis import (
    App,
    AsyncAdmin,
    AsyncProducer,
    AsyncPullConsumer,
    AsyncPushConsumer,
    AsyncSimpleConsumer,
    Message,
    MessageExt,
)
from rmq_redis.client.core import instance as instances
from rmq_redis.client.core import route
from rmq_redis.errors import RouteNotFoundError
from rmq_redis.testing import running_cluster

NEVER: dict[str, Any] = {"poll_name_server_interval_s": 3600.0, "rebalance_interval_s": 3600.0}
"""Without regular looks, only the search for what is missing finds a topic."""


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "MIN_REFRESH_INTERVAL_S", 0.02)
    monkeypatch.setattr(instances, "MIN_HEARTBEAT_INTERVAL_S", 0.02)


async def looks(routes: route.RouteTable, topic: str, count: int) -> None:
    """Waits until the NameServer was asked ``count`` times for a topic."""
    asked = 0
    ask = routes.name_servers.route

    async def counted(name: str) -> Any:
        nonlocal asked
        asked += name == topic
        return await ask(name)

    routes.name_servers.route = counted  # type: ignore[method-assign]
    await eventually(lambda: asked >= count)


@pytest.mark.parametrize("options", [{}, {"orderly": True}, {"message_model": "BROADCASTING"}], ids=str)
async def test_push_consumer_finds_a_topic_that_appears(options: dict[str, Any], tmp_path: Path) -> None:
    got: list[str] = []

    async def handle(message: MessageExt) -> None:
        got.append(message.text())

    async with running_cluster() as namesrv_addr, AsyncProducer("p", namesrv_addr) as producer:
        consumer = AsyncPushConsumer(
            "g",
            namesrv_addr,
            consume_from_where="CONSUME_FROM_FIRST_OFFSET",
            offset_store_path=str(tmp_path),
            **NEVER,
            **options,
        )
        consumer.subscribe("late", "*", handle)
        async with consumer:
            await looks(consumer._instance.routes, "late", 8)  # so often that a pause that doubles would show
            await producer.send(Message("late", "hello"))
            await eventually(lambda: got == ["hello"])
            consumer.subscribe("later-still", "*", handle)
            await looks(consumer._instance.routes, "later-still", 8)
            await producer.send(Message("later-still", "again"))
            await eventually(lambda: got == ["hello", "again"])


async def test_app_finds_a_topic_that_appears() -> None:
    got: list[Any] = []
    async with running_cluster() as namesrv_addr:
        app = App("shop", namesrv_addr, **NEVER)

        @app.consumer("late", consume_from_where="CONSUME_FROM_FIRST_OFFSET")
        async def handle(message: MessageExt) -> None:
            got.append(message.text())

        async with app, AsyncProducer("p", namesrv_addr) as producer:
            await producer.send(Message("late", "hello"))
            await eventually(lambda: got == ["hello"])


async def test_simple_consumer_waits_for_a_topic_that_appears() -> None:
    async with (
        running_cluster() as namesrv_addr,
        AsyncProducer("p", namesrv_addr) as producer,
        AsyncSimpleConsumer("g", namesrv_addr, **NEVER) as consumer,
    ):
        consumer.subscribe("late")
        receiving = asyncio.ensure_future(consumer.receive(await_duration_s=60.0))
        await looks(consumer._instance.routes, "late", 8)
        await producer.send(Message("late", "hello"))
        assert [message.text() for message in await receiving] == ["hello"]


async def test_simple_consumer_finds_a_topic_while_waiting_for_another() -> None:
    async with (
        running_cluster(topics=["known"]) as namesrv_addr,
        AsyncProducer("p", namesrv_addr) as producer,
        AsyncSimpleConsumer("g", namesrv_addr, **NEVER) as consumer,
    ):
        consumer.subscribe("known")
        consumer.subscribe("late")
        receiving = asyncio.ensure_future(consumer.receive(await_duration_s=600.0))
        await looks(consumer._instance.routes, "late", 8)
        await producer.send(Message("late", "hello"))
        assert [message.text() for message in await asyncio.wait_for(receiving, 10.0)] == ["hello"]


async def test_receive_error_names_the_missing_topic() -> None:
    async with running_cluster() as namesrv_addr, AsyncSimpleConsumer("g", namesrv_addr) as consumer:
        consumer.subscribe("nowhere")
        with pytest.raises(RouteNotFoundError, match="nowhere"):
            await consumer.receive(await_duration_s=0.1)


async def test_pull_consumer_looks_up_a_missing_topic_each_time() -> None:
    async with (
        running_cluster() as namesrv_addr,
        AsyncAdmin(namesrv_addr) as admin,
        AsyncPullConsumer("g", namesrv_addr, **NEVER) as consumer,
    ):
        with pytest.raises(RouteNotFoundError):
            await consumer.fetch_subscribe_message_queues("late")
        await admin.create_topic("late")
        assert await consumer.fetch_subscribe_message_queues("late")


async def test_unsubscribed_missing_topic_is_not_looked_up() -> None:
    async def handle(message: MessageExt) -> None:
        raise AssertionError(message)

    async with running_cluster(topics=["known"]) as namesrv_addr:
        consumer = AsyncPushConsumer("g", namesrv_addr, **NEVER)
        consumer.subscribe("known", "*", handle)
        consumer.subscribe("late", "*", handle)
        async with consumer:
            routes = consumer._instance.routes
            await eventually(lambda: "late" in routes._missing)
            consumer.unsubscribe("late")
            await eventually(lambda: "late" not in routes._missing)
            assert "late" not in routes._timers
            assert "late" not in routes._asking


async def test_consumer_that_starts_before_its_nameserver_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str] = []

    async def handle(message: MessageExt) -> None:
        got.append(message.text())

    async with running_cluster(topics=["known"]) as namesrv_addr, AsyncProducer("p", namesrv_addr) as producer:
        await producer.send(Message("known", "hello"))
        consumer = AsyncPushConsumer("g", namesrv_addr, consume_from_where="CONSUME_FROM_FIRST_OFFSET", **NEVER)
        consumer.subscribe("known", "*", handle)
        refused = 0

        async def refuse(self: Any, name: str) -> Any:
            nonlocal refused
            refused += 1
            raise ConnectionRefused

        with monkeypatch.context() as patch:
            patch.setattr(route.NameServers, "route", refuse)
            await consumer.start()
            await eventually(lambda: refused >= 16)
        try:
            await eventually(lambda: got == ["hello"])
        finally:
            await consumer.close()


class ConnectionRefused(route.RemotingError):
    """As of a NameServer that is not there yet."""


async def test_running_cluster_has_its_topics_from_the_start() -> None:
    async with running_cluster(topics=["a", "b"]) as namesrv_addr, AsyncAdmin(namesrv_addr) as admin:
        assert {"a", "b"} <= set(await admin.topic_list())
