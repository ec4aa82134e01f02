"""Routes: NameServers in turn, queues out of a route, the default topic, brokers' addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from client_fakes import FakeCluster, FakeNameServer, cluster, until

from rmq_redis.client.core import route as route_module
from rmq_redis.client.core.route import NameServers, RouteTable, publish_queues
from rmq_redis.codes import Perm
from rmq_redis.errors import RemotingConnectError, RouteNotFoundError
from rmq_redis.model import BrokerData, MessageQueue, QueueData, TopicRouteData, subscribe_queues
from rmq_redis.remoting.client import RemotingClient


def a_route(*queues: QueueData, masters: str = "ab", order: str | None = None) -> TopicRouteData:
    brokers = [
        BrokerData("c", f"broker-{letter}", {0 if letter in masters else 1: f"10.0.0.{number}:10911"})
        for number, letter in enumerate("ab", 1)
    ]
    return TopicRouteData(brokers, list(queues), order)


def ids(queues: list[MessageQueue]) -> list[tuple[str, int]]:
    return [(queue.broker_name[-1], queue.queue_id) for queue in queues]


def test_publish_queues_are_writable_queues_of_masters() -> None:
    route = a_route(
        QueueData("broker-b", 4, 2, int(Perm.READ | Perm.WRITE)), QueueData("broker-a", 4, 3, int(Perm.WRITE))
    )
    assert ids(publish_queues("T", route)) == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
    assert ids(subscribe_queues("T", route)) == [("b", 0), ("b", 1), ("b", 2), ("b", 3)]


def test_broker_without_master_is_read_but_not_written() -> None:
    route = a_route(QueueData("broker-a", 1, 1, 6), QueueData("broker-b", 1, 1, 6), masters="b")
    assert ids(publish_queues("T", route)) == [("b", 0)]
    assert ids(subscribe_queues("T", route)) == [("a", 0), ("b", 0)]


def test_order_configuration_defines_the_queues() -> None:
    route = a_route(QueueData("broker-a", 8, 8, 6), order="broker-b:1;broker-a:2;")
    assert ids(publish_queues("T", route)) == [("a", 0), ("a", 1), ("b", 0)]


@asynccontextmanager
async def table(*addresses: str) -> AsyncIterator[RouteTable]:
    remoting = RemotingClient(connect_timeout_s=1.0)
    routes = RouteTable(NameServers(remoting, addresses, 1.0))
    try:
        yield routes
    finally:
        routes.close()
        await remoting.close()


async def test_next_name_server_is_queried_when_one_is_unreachable() -> None:
    async with cluster() as fake:
        other = FakeNameServer(fake.brokers)
        other.topics = fake.name_server.topics
        await other.start()
        async with table(fake.namesrv_addr, other.address) as routes:
            routes.name_servers.addresses[:] = [fake.namesrv_addr, other.address]
            for _ in range(3):
                await routes.refresh("T")
            assert (len(fake.name_server.asked), len(other.asked)) == (3, 0)
            await fake.name_server.stop()
            for _ in range(3):
                await routes.refresh("T")
            assert len(other.asked) == 3
            await other.stop()
            with pytest.raises(RemotingConnectError, match=r"no NameServer answers .*;"):
                await routes.refresh("T")
            assert (await routes.get("T")).queue_datas  # what is known stays


async def test_waiting_callers_share_one_query() -> None:
    async with cluster() as fake, table(fake.namesrv_addr) as routes:
        await asyncio.gather(*(routes.get("T") for _ in range(20)))
        assert fake.name_server.asked == ["T"]


async def test_unknown_topic_uses_the_route_of_the_default_topic() -> None:
    async with cluster() as fake, table(fake.namesrv_addr) as routes:
        with pytest.raises(RouteNotFoundError, match="create the topic first"):
            await routes.get_for_publish("new")
        fake.name_server.topics["TBW102"] = {"broker-a": 8}
        route = await routes.get_for_publish("new")
        assert [(data.read_queue_nums, data.write_queue_nums) for data in route.queue_datas] == [(4, 4)]
        with pytest.raises(RouteNotFoundError, match="'new'"):  # a consumer takes real routes only
            await routes.get("new")
        fake.name_server.topics["new"] = {"broker-a": 6}
        await routes.refresh_all()
        assert (await routes.get_for_publish("new")).queue_datas[0].write_queue_nums == 6
        assert not routes.default_routes
        fake.name_server.topics["TBW102"] = {"broker-a": 3}
        assert (await routes.get_for_publish("small")).queue_datas[0].write_queue_nums == 3


async def test_deleted_topic_keeps_its_route() -> None:
    async with cluster() as fake, table(fake.namesrv_addr) as routes:
        before = await routes.get("T")
        del fake.name_server.topics["T"]
        assert await routes.refresh("T") == before


async def test_callbacks_report_changed_topics() -> None:
    async with cluster() as fake, table(fake.namesrv_addr) as routes:
        topics: list[str] = []
        brokers: list[int] = []
        routes.on_topic_change.append(topics.append)
        routes.on_broker_change.append(lambda: brokers.append(1))
        await routes.get("T")
        await routes.refresh("T")
        assert (topics, len(brokers)) == (["T"], 1)
        fake.name_server.topics["T"]["broker-a"] = 5
        await routes.refresh("T")
        assert (topics, len(brokers)) == (["T", "T"], 1)


async def test_refresh_soon_is_rate_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_module, "MIN_REFRESH_INTERVAL_S", 0.05)
    async with cluster() as fake, table(fake.namesrv_addr) as routes:
        await routes.get("T")
        for _ in range(100):
            routes.refresh_soon("T")
        await until(lambda: len(fake.name_server.asked) == 2)
        await until(lambda: not routes._asking)  # what it is told until the answer is here, the answer covers
        routes.refresh_soon("T")
        await until(lambda: len(fake.name_server.asked) == 3)


async def test_addresses_for_reading_prefer_the_given_broker_id() -> None:
    routes = RouteTable(NameServers(RemotingClient(), ["127.0.0.1:1"], 1.0))
    routes.brokers = {"a": {0: "m", 1: "s1", 3: "s3"}, "slaves": {2: "s"}}
    find = routes.find_broker_address_in_subscribe
    assert find("a", 0) == ("m", False)
    assert find("a", 1) == ("s1", True)
    assert find("a", 2) == ("s3", True)  # missing: the next id
    assert find("a", 7) == ("m", False)  # else any
    assert find("slaves", 0) == ("s", True)
    assert find("unknown", 0) is None
    assert routes.master_address("slaves") is None
    assert routes.any_address("slaves") == "s"
    assert routes.addresses(masters_only=True) == ["m"]
    assert routes.addresses(masters_only=False) == ["m", "s", "s1", "s3"]


async def test_brokers_without_a_route_are_removed() -> None:
    fake: FakeCluster
    async with cluster("broker-a", "broker-b") as fake, table(fake.namesrv_addr) as routes:
        await routes.get("T")
        assert set(routes.brokers) == {"broker-a", "broker-b"}
        del fake.name_server.topics["T"]["broker-b"]
        await routes.refresh("T")
        assert set(routes.brokers) == {"broker-a"}
