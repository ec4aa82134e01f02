"""Plugins in a broker, a NameServer and clients of this process: what is picked by name takes effect, and only that."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import BrokerClient, Connect, StartBroker, eventually, send_request

from rmq_redis import AsyncProducer, AsyncPushConsumer, Message
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.config import NameServerConfig
from rmq_redis.errors import ConfigError, NoPermissionError
from rmq_redis.nameserver.nameserver import NameServer
from rmq_redis.plugins import PLUGIN_VARIABLE, installed_plugins
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.pop import PopMessageRequestHeader
from rmq_redis.protocol.record import decode_records
from rmq_redis.store.embedded import EmbeddedServer

PLUGIN = """
from rmq_redis import hookimpl
from rmq_redis.errors import MessageIllegalError, NoPermissionError
from rmq_redis.model import TopicRouteData

seen = []


class Interceptor:
    def before_append(self, request):
        if request.topic == "closed":
            raise MessageIllegalError("nothing may go there")
        if request.topic == "buggy":
            raise ValueError("a bug")

    def after_append(self, queue, queue_offset, count, error):
        seen.append(("stored", queue.topic, queue_offset, count, error))

    def before_delivery(self, queue, group, queue_offsets, records):
        return [offset for offset in queue_offsets if offset % 2]


class Sink:
    def record(self, role, name, values):
        seen.append(("metrics", role, dict(values)))


def authorizer(request):
    if request.fields.get("AccessKey") == "bug":
        raise ValueError("a bug")
    if request.topic == "secret":
        raise NoPermissionError("not you")


@hookimpl
def register_broker_interceptors():
    return {"ODD": Interceptor}


@hookimpl
def register_authorizers(role):
    return {"DOOR": lambda: authorizer}


@hookimpl
def register_metrics_sinks():
    return {"LIST": Sink}


@hookimpl
def register_queue_selectors():
    return {"LAST": lambda: lambda queues, message, key: queues[-1], "BAD": lambda: lambda *_: 7}


@hookimpl
def register_route_filters():
    return {"ONE_QUEUE": lambda: lambda request, route: TopicRouteData(
        route.broker_datas, [type(q)(q.broker_name, 1, 1, q.perm, q.topic_sys_flag) for q in route.queue_datas])}


@hookimpl
def register_interceptors():
    class Stamp:
        def before_send(self, message):
            return Message(message.topic, b"stamped " + bytes(message.body))

    from rmq_redis import Message
    return {"STAMP": Stamp}


@hookimpl
def role_started(role, name):
    if name == "unwelcome":
        raise ValueError("go away")
    seen.append(("started", role, name))


@hookimpl
def role_stopping(role, name):
    seen.append(("stopping", role, name))
"""

Seen = Callable[[], list[Any]]


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Seen]:
    """Makes the plugin known to this process; what it saw."""
    (tmp_path / "an_odd_plugin.py").write_text(PLUGIN)
    monkeypatch.setenv(PLUGIN_VARIABLE, "an_odd_plugin")
    monkeypatch.syspath_prepend(tmp_path)
    installed_plugins.cache_clear()
    yield lambda: list(importlib.import_module("an_odd_plugin").seen)  # type: ignore[misc]
    installed_plugins.cache_clear()


@pytest.fixture
async def name_server(embedded_server: EmbeddedServer, key_prefix: str) -> AsyncIterator[Callable[..., Any]]:
    started: list[NameServer] = []

    async def start(**settings: Any) -> str:
        config = NameServerConfig(
            listen_host="127.0.0.1", listen_port=0, registry=embedded_server.url, key_prefix=key_prefix, **settings
        )
        started.append(NameServer(config))
        await started[-1].start()
        return f"127.0.0.1:{started[-1].port}"

    yield start
    for server in started:
        await server.close()


async def test_broker_interceptors_refuse_observe_and_filter(
    seen: Seen, start_broker: StartBroker, connect: Connect
) -> None:
    client: BrokerClient = connect(await start_broker(broker_interceptors="odd"))
    refused = await client.ask(send_request("closed", b"x"))
    assert (refused.code, refused.remark) == (ResponseCode.MESSAGE_ILLEGAL, "nothing may go there")
    await client.ok(send_request("buggy", b"x"))
    for number in range(4):
        await client.ok(send_request("T", b"%d" % number))
    assert [event for event in seen() if event[:2] == ("stored", "T")] == [
        ("stored", "T", n, 1, None) for n in range(4)
    ]
    pulled = await client.pull("T", 0)
    assert [message.body for message in pulled.messages] == [b"0", b"2"]
    assert (await client.pull("T", 3)).messages == []
    header = PopMessageRequestHeader("H", "T", -1, 32, 60_000, 0)
    popped = await client.ok(request(RequestCode.POP_MESSAGE, header))
    assert [message.body for message in decode_records(popped.body)] == [b"0", b"2"]
    assert (await client.ask(request(RequestCode.POP_MESSAGE, header))).code == ResponseCode.POLLING_TIMEOUT


async def test_authorizer_that_raises_refuses(seen: Seen, start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(authorizer="door"))
    await client.ok(send_request("T", b"x"))
    refused = await client.ask(send_request("secret", b"x"))
    assert (refused.code, refused.remark) == (NoPermissionError.code, "not you")
    request = send_request("T", b"x")
    request.fields = {**request.ext_fields, "AccessKey": "bug"}
    assert (await client.ask(request)).code == NoPermissionError.code


async def test_metrics_sink_gets_metrics_and_role_changes(
    seen: Seen, start_broker: StartBroker, connect: Connect
) -> None:
    broker = await start_broker(metrics_sink="list", metrics_period_s=0.02)
    await connect(broker).ok(send_request("T", b"x"))

    def counted() -> bool:
        return any(event[0] == "metrics" and event[2].get("requests_send_message_v2_total") for event in seen())

    await eventually(counted)
    assert ("started", "broker", "broker-a") in seen()
    await broker.close()
    assert seen()[-2][:2] == ("stopping", "broker")
    assert seen()[-1][0] == "metrics"


async def test_plugins_are_selected_by_name(
    seen: Seen, start_broker: StartBroker, name_server: Callable[..., Any]
) -> None:
    address = await name_server()
    one_queue = await name_server(route_filter="ONE_QUEUE")
    await start_broker(namesrv_addr=f"{address};{one_queue}", default_topic_queue_nums=4)
    async with AsyncProducer("P", address, load_balancer="last", plugin_interceptors="stamp") as producer:
        results = [await producer.send(Message("T", b"x")) for _ in range(3)]
        assert {result.queue.queue_id for result in results} == {3}
    bodies: list[bytes] = []
    consumer = AsyncPushConsumer("G", address, consume_from_where="CONSUME_FROM_FIRST_OFFSET")
    consumer.subscribe("T", handler=lambda message: bodies.append(message.body))
    async with consumer:
        await eventually(lambda: len(bodies) == 3)
    assert bodies == [b"stamped x"] * 3
    assert ("started", "consumer", "G") in seen()
    async with AsyncProducer("P", one_queue, load_balancer="bad") as producer:  # chooses what is no queue at all
        assert {(await producer.send(Message("T", b"y"))).queue.queue_id for _ in range(4)} == {0}
    unwelcome = AsyncProducer("unwelcome", address)
    with pytest.raises(ConfigError, match="role_started: ValueError: go away"):
        await unwelcome.start()


async def test_zone_mode_returns_broker_groups_of_the_own_zone(
    start_broker: StartBroker, name_server: Callable[..., Any]
) -> None:
    address = await name_server()
    for name, zone in (("broker-a", "east"), ("broker-b", "west")):
        await start_broker(namesrv_addr=address, broker_name=name, zone=zone)
    async with AsyncProducer("P", address) as everywhere:
        await eventually(lambda: _brokers(everywhere, 2))
    async with AsyncProducer("P", address, zone="west", zone_mode=True) as producer:
        assert {(await producer.send(Message("T", b"x"))).queue.broker_name for _ in range(4)} == {"broker-b"}
        assert producer.client_id.endswith("@west")
    async with AsyncProducer("P", address, zone="east", load_balancer="SAME_ZONE") as producer:
        assert {(await producer.send(Message("U", b"x"))).queue.broker_name for _ in range(4)} == {"broker-a"}


async def _brokers(producer: AsyncProducer, count: int) -> bool:
    return len({queue.broker_name for queue in await producer.publish_queues("TBW102")}) == count


@pytest.mark.parametrize("load_balancer", ["LATENCY_AWARE", "LATENCY_FAULT_TOLERANT", "WEIGHTED", "CONSISTENT_HASH"])
async def test_producer_sends_with_every_load_balancer(
    load_balancer: str, start_broker: StartBroker, name_server: Callable[..., Any]
) -> None:
    address = await name_server()
    await start_broker(namesrv_addr=address)
    async with AsyncProducer("P", address, load_balancer=load_balancer) as producer:
        for number in range(8):
            assert (await producer.send(Message("T", b"x"), key="k" if number % 2 else None)).msg_id
        loads = getattr(producer._choice.select, "_loads", {})
        assert all(load.in_flight == 0 for load in loads.values())
        assert bool(loads) == (load_balancer == "LATENCY_AWARE")
