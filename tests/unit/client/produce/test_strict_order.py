"""Order by key: in strict order a key keeps its queue while that cannot be written, and its sends wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rmq_redis import AsyncAdmin, AsyncProducer, Message, MessageQueue
from rmq_redis.broker.broker import Broker
from rmq_redis.config import BrokerConfig
from rmq_redis.errors import RmqError, RouteNotFoundError
from rmq_redis.testing import fake_redis, running_cluster

KEYS = [f"key-{number}" for number in range(24)]
LONG_S = 60.0


class Second:
    """A second broker group, which comes and goes."""

    def __init__(self, namesrv_addr: str, store: str) -> None:
        self._config = BrokerConfig(
            broker_name="broker-b",
            namesrv_addr=namesrv_addr,
            store=store,
            listen_host="127.0.0.1",
            listen_port=0,
            advertised_host="127.0.0.1",
        )
        self.broker: Broker | None = None

    async def start(self) -> None:
        self.broker = Broker(self._config)
        await self.broker.start()

    async def stop(self) -> None:
        if self.broker is not None:
            broker, self.broker = self.broker, None
            await broker.close()


@asynccontextmanager
async def two_groups(*, order: bool) -> AsyncIterator[tuple[str, Second]]:
    """Two broker groups with a topic ``t``; the second one can be stopped and started."""
    with fake_redis() as store:
        async with running_cluster() as namesrv_addr, AsyncAdmin(namesrv_addr) as admin:
            second = Second(namesrv_addr, store)
            await second.start()
            try:
                while len(await admin.master_addresses()) < 2:
                    await asyncio.sleep(0.005)
                await admin.create_topic("t", order=order)
                await admin.wait_for_route("t")
                while len((await admin.topic_route("t")).queue_datas) < 2:
                    await asyncio.sleep(0.005)
                yield namesrv_addr, second
            finally:
                await second.stop()


async def queues_of(producer: AsyncProducer) -> dict[str, MessageQueue]:
    return {key: (await producer.send(Message("t", "x"), key=key)).queue for key in KEYS}


@pytest.mark.parametrize(("order", "settings"), [(True, {}), (False, {"strict_order": True})])
async def test_key_keeps_its_queue_while_its_broker_group_is_offline(order: bool, settings: dict[str, Any]) -> None:
    async with (
        two_groups(order=order) as (namesrv_addr, second),
        AsyncProducer("g", namesrv_addr, send_timeout_s=LONG_S, **settings) as producer,
    ):
        before = await queues_of(producer)
        assert {queue.broker_name for queue in before.values()} == {"broker-a", "broker-b"}
        await second.stop()
        for key, queue in before.items():
            if queue.broker_name == "broker-a":
                assert (await producer.send(Message("t", "x"), key=key)).queue == queue
        waiting = [key for key, queue in before.items() if queue.broker_name == "broker-b"]
        with pytest.raises(RmqError):
            await producer.send(Message("t", "x"), key=waiting[0], timeout_s=0.3)
        with pytest.raises(RmqError):
            await producer.send_batch([Message("t", "x")], key=waiting[0], timeout_s=0.3)
        sends = {key: asyncio.ensure_future(producer.send(Message("t", "x"), key=key)) for key in waiting}
        assert (await producer.send(Message("t", "without a key"))).queue.broker_name == "broker-a"
        await second.start()
        for key, send in sends.items():
            assert (await asyncio.wait_for(send, LONG_S)).queue == before[key]
        assert await queues_of(producer) == before


async def test_without_strict_order_a_key_changes_its_queue() -> None:
    async with (
        two_groups(order=False) as (namesrv_addr, second),
        AsyncProducer("g", namesrv_addr, send_timeout_s=LONG_S) as producer,
    ):
        before = await queues_of(producer)
        await second.stop()
        await producer._instance.routes.refresh("t")
        during = await queues_of(producer)
        assert before != during
        assert {queue.broker_name for queue in during.values()} == {"broker-a"}


async def test_producer_started_during_an_outage_knows_the_order_topic() -> None:
    async with two_groups(order=True) as (namesrv_addr, second):
        async with AsyncProducer("g", namesrv_addr, send_timeout_s=LONG_S) as producer:
            before = await queues_of(producer)
        await second.stop()
        async with AsyncProducer("g", namesrv_addr, send_timeout_s=LONG_S) as producer:
            away = next(key for key, queue in before.items() if queue.broker_name == "broker-b")
            here = next(key for key, queue in before.items() if queue.broker_name == "broker-a")
            assert (await producer.send(Message("t", "x"), key=here)).queue == before[here]
            with pytest.raises(RmqError):
                await producer.send(Message("t", "x"), key=away, timeout_s=0.3)


async def test_keys_of_a_by_key_load_balancer_and_a_selector_keep_their_queues() -> None:
    async with (
        two_groups(order=True) as (namesrv_addr, second),
        AsyncProducer("g", namesrv_addr, send_timeout_s=LONG_S, load_balancer="HASH") as producer,
    ):

        async def by_keys() -> dict[str, MessageQueue]:
            return {key: (await producer.send(Message("t", "x", keys=[key]))).queue for key in KEYS}

        before = await by_keys()
        await second.stop()
        sends = asyncio.ensure_future(by_keys())
        selected = asyncio.ensure_future(
            producer.send(Message("t", "x"), selector=lambda queues, message, key: queues[-1])
        )
        await asyncio.sleep(0)
        await second.start()
        assert await asyncio.wait_for(sends, LONG_S) == before
        assert (await asyncio.wait_for(selected, LONG_S)).queue == MessageQueue("t", "broker-b", 7)


async def test_drained_broker_group_hands_over_its_keys() -> None:
    async with (
        two_groups(order=False) as (namesrv_addr, second),
        AsyncAdmin(namesrv_addr) as admin,
        AsyncProducer("g", namesrv_addr, strict_order=True, send_timeout_s=LONG_S) as producer,
    ):
        await queues_of(producer)
        await admin.wipe_write_perm("broker-b")
        await producer._instance.routes.refresh("t")
        assert {queue.broker_name for queue in (await queues_of(producer)).values()} == {"broker-a"}
        await second.stop()
        assert {queue.broker_name for queue in (await queues_of(producer)).values()} == {"broker-a"}


async def test_strict_order_needs_an_existing_topic() -> None:
    async with running_cluster() as namesrv_addr, AsyncProducer("g", namesrv_addr, strict_order=True) as producer:
        with pytest.raises(RouteNotFoundError, match="create it"):
            await producer.send(Message("nowhere", "x"), key="k")


async def test_order_configuration_is_updated_and_deleted_with_its_topic() -> None:
    async with two_groups(order=True) as (namesrv_addr, _), AsyncAdmin(namesrv_addr) as admin:
        assert await admin.get_kv_config("ORDER_TOPIC_CONFIG", "t") == "broker-a:8;broker-b:8"
        address = (await admin.cluster_info()).brokers["broker-b"].broker_addrs[0]
        await admin.create_topic("t", queue_nums=6, order=True, broker_addr=address)
        assert await admin.get_kv_config("ORDER_TOPIC_CONFIG", "t") == "broker-a:8;broker-b:6"
        assert (await admin.topic_route("t")).order_topic_conf == "broker-a:8;broker-b:6"
        await admin.delete_topic("t")
        assert await admin.get_kv_config("ORDER_TOPIC_CONFIG", "t") is None
