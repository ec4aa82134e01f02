"""QUERY_ASSIGNMENT and SET_MESSAGE_REQUEST_MODE: queues shared out by the broker."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import BrokerClient, Connect, FakeNameServer, StartBroker, eventually, heartbeat_request

from rmq_redis.broker.consume.assignment import share_for_pop
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.model import BrokerData, MessageQueue, QueueData, TopicRouteData
from rmq_redis.plugins.defaults.allocate import allocate_averagely
from rmq_redis.protocol.bodies.base import loads
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.admin import GroupRequestHeader

ROUTE = TopicRouteData(
    [BrokerData("C", "broker-a", {0: "127.0.0.1:1"}), BrokerData("C", "broker-b", {0: "127.0.0.1:2"})],
    [QueueData("broker-a", 4, 4, 6), QueueData("broker-b", 2, 2, 6)],
)


def query(client_id: str, **changes: Any) -> RemotingCommand:
    body = {
        "topic": "T",
        "consumerGroup": "G",
        "clientId": client_id,
        "strategyName": "AVG",
        "messageModel": "CLUSTERING",
    }
    return request(RequestCode.QUERY_ASSIGNMENT, body=json.dumps(body | changes).encode())


def set_mode(**changes: Any) -> RemotingCommand:
    body = {"topic": "T", "consumerGroup": "G", "mode": "POP", "popShareQueueNum": 0}
    return request(RequestCode.SET_MESSAGE_REQUEST_MODE, body=json.dumps(body | changes).encode())


def assigned(answer: RemotingCommand) -> list[tuple[str, int, str]]:
    return [
        (item["messageQueue"]["brokerName"], item["messageQueue"]["queueId"], item["mode"])
        for item in loads(answer.body)["messageQueueAssignments"]
    ]


@pytest.fixture
async def members(client: BrokerClient, connect: Connect, fake_namesrv: FakeNameServer) -> list[str]:
    """Two members of the group, and the route of the topic."""
    fake_namesrv.routes["T"] = ROUTE
    await client.send("T", "m")
    for name in ("c1", "c2"):
        await client.ok(heartbeat_request(name, "G", {"T": "*"}))
    await eventually(lambda: fake_namesrv.registrations)
    return ["c1", "c2"]


async def test_members_share_all_queues_of_the_route(client: BrokerClient, members: list[str]) -> None:
    first = [("broker-a", 0, "PULL"), ("broker-a", 1, "PULL"), ("broker-a", 2, "PULL")]
    second = [("broker-a", 3, "PULL"), ("broker-b", 0, "PULL"), ("broker-b", 1, "PULL")]
    assert [assigned(await client.ok(query(name))) for name in members] == [first, second]
    circle = assigned(await client.ok(query("c2", strategyName="AVG_BY_CIRCLE")))
    assert circle == [("broker-a", 1, "PULL"), ("broker-a", 3, "PULL"), ("broker-b", 1, "PULL")]
    assert len(assigned(await client.ok(query("c1", messageModel="BROADCASTING")))) == 6


async def test_pop_group_gets_all_queues_of_every_broker(client: BrokerClient, members: list[str]) -> None:
    await client.ok(set_mode())
    everything = [("broker-a", -1, "POP"), ("broker-b", -1, "POP")]
    assert [assigned(await client.ok(query(name))) for name in members] == [everything, everything]
    await client.ok(set_mode(mode="PULL"))
    assert len(assigned(await client.ok(query("c1")))) == 3


async def test_slave_returns_the_same_assignment_but_sets_no_mode(
    client: BrokerClient, members: list[str], start_broker: StartBroker, connect: Connect
) -> None:
    await client.ok(set_mode())
    slave = connect(await start_broker(broker_id=1))
    for name in members:
        await slave.ok(heartbeat_request(name, "G", {"T": "*"}))

    async def answer() -> RemotingCommand | None:
        answer = await slave.ask(query("c1"))  # it may not be connected to the NameServer yet
        return answer if answer.code == 0 else None

    assert assigned(await eventually(answer)) == [("broker-a", -1, "POP"), ("broker-b", -1, "POP")]
    assert (await slave.ask(set_mode())).code == ResponseCode.SERVICE_NOT_AVAILABLE


async def test_invalid_assignment_requests_are_refused(client: BrokerClient, members: list[str]) -> None:
    for command, code in (
        (query("c1", strategyName="NO"), ResponseCode.INVALID_PARAMETER),
        (query(""), ResponseCode.SYSTEM_ERROR),
        (set_mode(topic="%RETRY%G"), ResponseCode.NO_PERMISSION),
        (set_mode(topic="unknown"), ResponseCode.TOPIC_NOT_EXIST),
        (set_mode(consumerGroup="a:b"), ResponseCode.INVALID_PARAMETER),
        (set_mode(mode="PUSH"), ResponseCode.INVALID_PARAMETER),
    ):
        assert (await client.ask(command)).code == code
    assert loads((await client.ok(query("c1", topic="unknown"))).body) == {}
    assert loads((await client.ok(query("c1", consumerGroup="nobody"))).body) == {}


@pytest.mark.parametrize(("may_create", "code"), [(True, 0), (False, ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST)])
async def test_setting_a_mode_creates_the_group_if_allowed(
    start_broker: StartBroker, connect: Connect, may_create: bool, code: int
) -> None:
    client = connect(await start_broker(auto_create_subscription_group=may_create))
    await client.send("T", "m")
    assert (await client.ask(set_mode(consumerGroup="new"))).code == code
    answer = await client.ask(request(RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG, GroupRequestHeader("new")))
    assert answer.code == code


def test_queues_of_a_pop_group_are_shared_by_its_members() -> None:
    queues = [MessageQueue("T", "broker-a", i) for i in range(4)]
    cids = ["c1", "c2", "c3", "c4"]
    shares = {cid: share_for_pop(allocate_averagely, "G", cid, queues, cids, 1) for cid in cids}
    assert {cid: [q.queue_id for q in share] for cid, share in shares.items()} == {
        "c1": [0, 1],
        "c2": [1, 2],
        "c3": [2, 3],
        "c4": [3, 0],
    }
    many = [f"c{i}" for i in range(9)]
    assert [share_for_pop(allocate_averagely, "G", cid, queues, many, 1) for cid in many] == [
        [queues[i % 4]] for i in range(9)
    ]
    assert share_for_pop(allocate_averagely, "G", "nobody", queues, cids, 1) == []
