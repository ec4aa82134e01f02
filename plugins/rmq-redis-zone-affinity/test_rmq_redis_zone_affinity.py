from __future__ import annotations

import pytest
import rmq_redis_zone_affinity as plugin

from rmq_redis import Message, MessageQueue
from rmq_redis.config import ClientConfig, NameServerConfig
from rmq_redis.errors import ConfigError
from rmq_redis.hookspecs import ClientContext, RouteRequest
from rmq_redis.model import BrokerData, QueueData, TopicRouteData
from rmq_redis.plugins import create_plugin_manager, queue_selector, route_filter

QUEUES = [MessageQueue("T", f"broker-{name}", number) for name in "abc" for number in range(2)]
ZONES = {"broker-a": "east", "broker-b": "east", "broker-c": "west"}
MESSAGE = Message("T", b"x")


def context(zone: str) -> ClientContext:
    return ClientContext(ClientConfig(zone=zone), lambda name: ZONES[name])


def brokers(select: plugin.ZoneAffinity, count: int = 12) -> set[str]:
    return {select(QUEUES, MESSAGE, None).broker_name for _ in range(count)}


def test_it_stays_in_the_zone_and_goes_round_what_failed() -> None:
    now = [0.0]
    select = plugin.ZoneAffinity(context("east"), lambda: now[0])
    assert brokers(select) == {"broker-a", "broker-b"}
    select.report(QUEUES[0], 0.1, ConnectionError())
    assert brokers(select) == {"broker-b"}
    select.report(QUEUES[2], 0.1, ConnectionError())
    assert brokers(select) == {"broker-c"}
    now[0] = plugin.AVOID_S + 1
    assert brokers(select) == {"broker-a", "broker-b"}
    assert brokers(plugin.ZoneAffinity(context("nowhere"))) == {"broker-a", "broker-b", "broker-c"}


def test_names_and_their_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = create_plugin_manager(plugins=(plugin,))
    assert queue_selector("zone-affinity", manager, context("west"))(QUEUES, MESSAGE, None).broker_name == "broker-c"
    with pytest.raises(ConfigError, match="needs the producer's zone"):
        queue_selector("ZONE_AFFINITY", manager, context(""))
    for wrong in ("10.0.0.0/8", "ten=east"):
        with pytest.raises(ConfigError, match="ZONE_AFFINITY_NETWORKS"):
            plugin.ZoneOfNetwork(wrong)


def test_routes_by_network_and_by_what_the_client_says() -> None:
    route = TopicRouteData(
        [BrokerData("c", name, {0: "h:1"}, zone) for name, zone in ZONES.items()],
        [QueueData(name, 4, 4, 6, 0) for name in ZONES],
    )
    shown = plugin.ZoneOfNetwork("10.1.0.0/16=west;10.2.0.0/16=south")

    def names(address: str, **fields: str) -> list[str]:
        answer = shown(RouteRequest("T", address, fields), route)
        assert [b.broker_name for b in answer.broker_datas] == [q.broker_name for q in answer.queue_datas]
        return [broker.broker_name for broker in answer.broker_datas]

    assert names("10.1.2.3:99") == ["broker-c"]
    assert names("10.1.2.3:99", __ZONE_NAME="east") == ["broker-a", "broker-b"]
    assert names("10.2.0.1:99") == names("192.168.0.1:99") == list(ZONES)  # no broker there, no such network
    assert NameServerConfig().route_filter == "ZONE"
    assert route_filter(NameServerConfig()) is not None
