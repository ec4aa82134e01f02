"""What a clumsy or hostile client cannot make without bound: topics, groups, members, registrations."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from helpers import BrokerClient, Connect, RawPeer, StartBroker, eventually, heartbeat_request, send_request

from rmq_redis.broker.group import clients as client_manage
from rmq_redis.broker.group.heartbeat_bounds import MAX_GROUPS
from rmq_redis.broker.group.registration import registration_bodies
from rmq_redis.codes import RequestCode
from rmq_redis.model import DataVersion, TopicConfig
from rmq_redis.nameserver.routes import RouteTable
from rmq_redis.protocol.bodies.registration import TopicConfigTable, decode_register_body
from rmq_redis.protocol.command import request
from rmq_redis.protocol.frame import encode_command
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader
from rmq_redis.protocol.headers.clients import UnregisterClientRequestHeader
from rmq_redis.store.registry.entries import LiveBroker


def table_of(nums: int, version: DataVersion, queues: int = 4) -> TopicConfigTable:
    names = [f"topic-{number:06}" for number in range(nums)]
    return TopicConfigTable(
        {name: TopicConfig(topic_name=name, read_queue_nums=queues, write_queue_nums=queues) for name in names}, version
    )


@pytest.mark.parametrize("nums", [0, 1, 3000])
def test_oversized_registration_is_split_and_complete(nums: int) -> None:
    routes = RouteTable()

    def register(version: DataVersion, queues: int) -> None:
        for body in registration_bodies(table_of(nums, version, queues), max_bytes=20_000):
            assert len(body) <= 20_000
            table = decode_register_body(body, sender_version=479)
            broker = LiveBroker(
                cluster="c", broker_name="b", broker_id=0, broker_addr="127.0.0.1:1", data_version=table.data_version
            )
            assert routes.register(broker, table.topic_config_table, 0.0, object())

    register(DataVersion(counter=1, state_version=7, timestamp=1_700_000_000_000), 4)
    register(DataVersion(counter=2, state_version=7, timestamp=1_700_000_000_000), 8)  # every topic has changed
    for number in range(nums):
        route = routes.route(f"topic-{number:06}")
        assert route is not None
        assert [data.write_queue_nums for data in route.queue_datas] == [8]
    if nums:
        last = decode_register_body(
            registration_bodies(table_of(nums, DataVersion(counter=3, timestamp=9)), max_bytes=20_000)[-1],
            sender_version=479,
        )
        assert last.data_version == DataVersion(counter=3, timestamp=9)


async def test_automatic_topic_creation_is_limited_but_explicit_is_not(
    start_broker: StartBroker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await start_broker()
    there = sum(not name.startswith("%") for name in broker.parts.state.topics.topics)
    await broker.close()
    client = connect(await start_broker(max_auto_topics=there + 2))
    codes = [(await client.ask(send_request(f"T{number}", b"x"))).code for number in range(5)]
    assert codes == [0, 0, 17, 17, 17]
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T4", 1, 1, 6)))
    await client.send("T4", "by hand")
    assert sum("max_auto_topics is reached" in record.getMessage() for record in caplog.records) == 1


async def test_automatic_group_creation_is_limited(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(max_auto_groups=2))
    codes = [(await client.ask(heartbeat_request("c", f"G{number}", {"T": "*"}))).code for number in range(4)]
    assert codes == [0, 0, 26, 26]
    await client.ok(heartbeat_request("c", "G0", {"T": "*"}))


@pytest.mark.parametrize(
    "change",
    [
        {"clientID": "x" * 256},
        {"consumerDataSet": [{"groupName": f"G{number}"} for number in range(MAX_GROUPS + 1)]},
        {"producerDataSet": [{"groupName": f"G{number}"} for number in range(MAX_GROUPS + 1)]},
        {"producerDataSet": [{"groupName": "a b"}]},
        {"consumerDataSet": [{"groupName": "G" * 500}]},
        {"consumerDataSet": [{"groupName": "G", "subscriptionDataSet": [{"topic": "T", "subString": "a" * 20_000}]}]},
        {"consumerDataSet": [{"groupName": "G", "subscriptionDataSet": [{"topic": f"T{n}"} for n in range(1001)]}]},
        {
            "consumerDataSet": [
                {"groupName": "G", "subscriptionDataSet": [{"topic": f"T{n}", "subString": "a" * 9000}]}
                for n in range(30)
            ]
        },
        {"consumerDataSet": [{"groupName": "G", "subscriptionDataSet": [{"topic": "a b"}]}]},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_oversized_heartbeat_is_refused_and_creates_nothing(
    change: dict[str, Any], start_broker: StartBroker, connect: Connect
) -> None:
    broker = await start_broker()
    client = connect(broker)
    groups = set(broker.parts.state.topics.groups)
    command = heartbeat_request("c", None)
    command.body = json.dumps({"clientID": "c", "producerDataSet": [], "consumerDataSet": []} | change).encode()
    assert (await client.ask(command)).code == 29
    assert set(broker.parts.state.topics.groups) == groups
    assert not broker.parts.clients.consumer_groups
    assert not broker.parts.clients.producer_groups


async def test_disconnect_affects_only_groups_of_the_connection(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker()
    stays: BrokerClient = connect(broker)
    for number in range(50):
        await stays.ok(heartbeat_request("stays", f"G{number}", {"T": "*"}, producer_group=f"P{number}"))
    leaves = connect(broker)
    await leaves.ok(heartbeat_request("leaves", "G7", {"T": "*"}, producer_group="P7"))
    await leaves.ok(heartbeat_request("leaves", "own", {"T": "*"}, producer_group="own"))
    touched: list[str] = []

    class Watched(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            touched.append(key)
            return super().get(key, default)

        def items(self) -> Any:
            raise AssertionError("every group was looked at")

        values = items

    manager = broker.parts.clients
    consumers, producers = manager.consumer_groups, manager.producer_groups
    manager.consumer_groups, manager.producer_groups = Watched(consumers), Watched(producers)
    await leaves.close()
    await eventually(lambda: "own" not in manager.consumer_groups)
    assert set(touched) == {"G7", "own", "P7"}
    manager.consumer_groups, manager.producer_groups = (
        dict.copy(manager.consumer_groups),
        dict.copy(manager.producer_groups),
    )
    assert manager.consumer_groups["G7"].client_ids() == ["stays"]
    assert "own" not in manager.producer_groups


async def test_heartbeats_of_one_connection_share_one_limit(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker()
    client = connect(broker)

    def beat(first: int) -> Any:
        command = heartbeat_request("c", None)
        groups = [{"groupName": f"P{number}"} for number in range(first, first + 400)]
        command.body = json.dumps({"clientID": "c", "producerDataSet": groups, "consumerDataSet": []}).encode()
        return command

    assert [(await client.ask(beat(first))).code for first in (0, 400, 0, 800)] == [0, 0, 0, 29]
    assert len(broker.parts.clients.producer_groups) == 800


async def test_runtime_info_counts_connections_and_their_bytes(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(max_connections=2, max_inbound_bytes=64 * 1024 * 1024)
    client = connect(broker)
    assert await client.send("T", "a")
    half = await RawPeer.connect(broker.port)
    await half.send(encode_command(send_request("T", bytes(100_000)))[:50_000])
    refused = await RawPeer.connect(broker.port)
    assert await refused.is_closed_by_server()

    async def figures() -> list[str]:
        table = (await client.get(RequestCode.GET_BROKER_RUNTIME_INFO))["table"]
        names = ("connections", "connectionsRefusedTotal", "connectionsCutTotal", "inboundBytes")
        return [table[name] for name in names]

    await eventually(lambda: broker._server.inbound.total == 50_000)
    connections, refusals, cuts, held = await figures()
    assert (connections, refusals, cuts) == ("2", "1", "0")
    assert 50_000 <= int(held) < 60_000
    await half.close()
    await refused.close()


async def test_pipelined_heartbeats_of_new_groups_share_one_limit(
    start_broker: StartBroker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_manage, "MAX_GROUPS", 10)
    broker = await start_broker()
    client = connect(broker)

    def beat(first: int) -> Any:
        command = heartbeat_request("c", None)
        groups = [{"groupName": f"G{number}"} for number in range(first, first + 3)]
        command.body = json.dumps({"clientID": "c", "producerDataSet": [], "consumerDataSet": groups}).encode()
        return command

    answers = await asyncio.gather(*(client.ask(beat(first)) for first in range(0, 15, 3)))
    assert sorted(answer.code for answer in answers) == [0, 0, 0, 29, 29]
    assert len(broker.parts.clients.consumer_groups) == 9


async def test_client_ids_of_one_connection_are_limited_and_released(
    start_broker: StartBroker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_manage, "MAX_MEMBERS", 10)
    broker = await start_broker(client_expiry_s=3.0)
    manager, client = broker.parts.clients, connect(broker)
    beats = [heartbeat_request(f"c{number}", "G", {"T": "*"}, producer_group="P") for number in range(6)]
    assert [(await client.ask(beat)).code for beat in beats] == [0, 0, 0, 0, 0, 29]
    assert (await client.ask(beats[0])).code == 0  # an id that is known counts once
    header = UnregisterClientRequestHeader("c4", "P", "G")
    await client.ok(request(RequestCode.UNREGISTER_CLIENT, header))
    assert set(manager._producers) == {"c0", "c1", "c2", "c3"}
    # All expire in one sweep, which must outlive that.
    await eventually(lambda: not manager.consumer_groups and not manager._producers)
    await client.ok(beats[5])
    assert set(manager._producers) == {"c5"}
    await eventually(lambda: not manager.consumer_groups and not manager._producers)


@pytest.mark.parametrize("prefix", ["%RETRY%", "%DLQ%", "%"])
async def test_automatic_creation_of_topics_with_percent_signs_is_limited(
    prefix: str, start_broker: StartBroker, connect: Connect
) -> None:
    broker = await start_broker()
    there = sum(not name.startswith(("%RETRY%", "%DLQ%")) for name in broker.parts.state.topics.topics)
    await broker.close()
    client = connect(await start_broker(max_auto_topics=there + 2, max_auto_groups=2))
    codes = [(await client.ask(send_request(f"{prefix}T{number}", b"x"))).code for number in range(4)]
    assert codes == ([0, 0, 17, 17] if prefix == "%" else [0, 0, 26, 26])
