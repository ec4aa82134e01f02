"""A request with much work leaves the event loop to others in between, or is refused."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from helpers import Connect, StartBroker, eventually, heartbeat_request

from rmq_redis.broker.group import registration
from rmq_redis.broker.group.heartbeat_bounds import MAX_SUBSCRIPTIONS
from rmq_redis.broker.group.queue_locks import MAX_LOCKED_QUEUES
from rmq_redis.broker.request_bounds import MAX_BODY_BYTES, MAX_BODY_VALUES, refusal
from rmq_redis.codes import RequestCode
from rmq_redis.errors import RemoteProtocolError
from rmq_redis.model import MessageQueue, TopicConfig
from rmq_redis.protocol.bodies.base import dumps
from rmq_redis.protocol.bodies.registration import TopicConfigTable, encode_register_body
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.frame import decode_command, encode_command
from rmq_redis.protocol.headers.admin import (
    BrokerConsumeStatsRequestHeader,
    ConsumeStatsRequestHeader,
    CreateTopicRequestHeader,
    TopicGroupRequestHeader,
    TopicRequestHeader,
)
from rmq_redis.protocol.headers.base import Header
from rmq_redis.protocol.headers.offsets import QueueOffsetRequestHeader, UpdateConsumerOffsetRequestHeader
from rmq_redis.remoting import turn
from rmq_redis.remoting.turn import dumps_in_turns

QUEUES = 1000


@pytest.mark.parametrize(
    ("code", "header"),
    [
        (RequestCode.GET_TOPIC_STATS_INFO, TopicRequestHeader("wide")),
        (RequestCode.GET_CONSUME_STATS, ConsumeStatsRequestHeader("G", topic="wide")),
        (RequestCode.GET_CONSUME_STATS, ConsumeStatsRequestHeader("G", topic_list="wide;" * 1000)),
        (RequestCode.GET_BROKER_CONSUME_STATS, BrokerConsumeStatsRequestHeader(is_order=False)),
        (RequestCode.QUERY_CONSUME_TIME_SPAN, TopicGroupRequestHeader("wide", "G")),
        (RequestCode.GET_ALL_TOPIC_CONFIG, None),
        (RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG, None),
        (RequestCode.GET_ALL_CONSUMER_OFFSET, None),
        (RequestCode.GET_ALL_PRODUCER_INFO, None),
    ],
    ids=lambda value: value.name if isinstance(value, RequestCode) else "",
)
async def test_short_request_is_served_during_a_long_one(
    code: RequestCode, header: Header | None, start_broker: StartBroker, connect: Connect, monkeypatch: Any
) -> None:
    broker = await start_broker()
    long, short = connect(broker), connect(broker)
    await long.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("wide", QUEUES, QUEUES, 6)))
    await short.ok(heartbeat_request("c", "G", {"wide": "*"}))
    await short.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "wide", 0, 0)))
    for number in range(QUEUES):  # in memory only: what is written is not what is tested
        monkeypatch.setitem(broker.parts.state.topics.topics, f"T{number}", broker.parts.state.topics.topics["wide"])
        monkeypatch.setitem(broker.parts.state.topics.groups, f"G{number}", broker.parts.state.topics.groups["G"])
        monkeypatch.setitem(broker.parts.state.offsets.table(), ("G", f"T{number}"), {0: 1})
        monkeypatch.setitem(broker.parts.clients.producer_groups, f"G{number}", {})
    monkeypatch.setattr(turn, "TURN_S", 0.0)
    order: list[str] = []

    async def ask(name: str, client: Any, command: RemotingCommand) -> None:
        await client.ok(command)
        order.append(name)

    question = request(RequestCode.GET_MAX_OFFSET, QueueOffsetRequestHeader("wide", 0))
    await asyncio.gather(ask("long", long, request(code, header)), ask("short", short, question))
    assert order == ["short", "long"]


async def test_registration_of_many_topics_is_encoded_off_the_event_loop(
    start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = await start_broker()
    threads: list[int] = []

    def encode(table: TopicConfigTable) -> list[bytes]:
        threads.append(threading.get_ident())
        return [encode_register_body(table)]

    monkeypatch.setattr(registration, "registration_bodies", encode)
    monkeypatch.setattr(registration, "_MAX_TOPICS_IN_LOOP", 0)
    await broker.parts.registration.register_now(10.0)
    await eventually(lambda: threads)
    assert threading.get_ident() not in threads


async def test_topic_named_many_times_is_looked_up_once(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker()
    client = connect(broker)
    await client.send("T", "x")
    await client.ok(heartbeat_request("c", "G", {"T": "*"}))
    looked: list[int] = []
    get = broker.parts.state.offsets.get
    broker.parts.state.offsets.get = lambda *key: (looked.append(1), get(*key))[1]  # type: ignore[method-assign]
    found = await client.get(RequestCode.GET_CONSUME_STATS, ConsumeStatsRequestHeader("G", topic_list="T;" * 10_000))
    assert len(found["offsetTable"]) == len(looked) == 4


def lock_request(code: RequestCode, nums: int) -> RemotingCommand:
    queues = [{"topic": "T", "brokerName": "broker-a", "queueId": queue_id} for queue_id in range(nums)]
    return request(code, body=json.dumps({"consumerGroup": "G", "clientId": "c", "mqSet": queues}).encode())


@pytest.mark.parametrize("code", [RequestCode.LOCK_BATCH_MQ, RequestCode.UNLOCK_BATCH_MQ])
async def test_lock_of_too_many_queues_is_refused(
    code: RequestCode, start_broker: StartBroker, connect: Connect
) -> None:
    client = connect(await start_broker())
    answer = await client.ask(lock_request(code, MAX_LOCKED_QUEUES + 1))
    assert answer.code == 29
    assert f"at most {MAX_LOCKED_QUEUES}" in (answer.remark or "")
    assert (await client.ask(lock_request(code, MAX_LOCKED_QUEUES))).code == 0


async def test_heartbeat_with_too_many_subscriptions_is_refused(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker())
    per_group = MAX_SUBSCRIPTIONS // 8
    groups = [
        {
            "groupName": f"G{number}",
            "subscriptionDataSet": [{"topic": f"T{n}", "subString": "*"} for n in range(per_group)],
        }
        for number in range(9)
    ]
    command = request(RequestCode.HEART_BEAT)
    for nums, code in ((9, 29), (8, 0)):
        body = {"clientID": "c", "producerDataSet": [], "consumerDataSet": groups[:nums]}
        command.body = json.dumps(body).encode()
        assert (await client.ask(command)).code == code


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a":"' + b"x" * MAX_BODY_BYTES + b'"}', "bytes"),
        (b"[" + b"[]," * (MAX_BODY_VALUES // 2) + b"[]]", "values"),
        (b"{1:[" + b"{1:1}," * 5000 + b"1]}", "not standard JSON"),
        (b"{1:1" + b" " * 100_000 + b"}", "not standard JSON"),
    ],
    ids=["long", "many values", "bare keys", "blanks"],
)
async def test_expensive_body_is_refused_before_parsing(
    body: bytes, reason: str, start_broker: StartBroker, connect: Connect
) -> None:
    client = connect(await start_broker())
    for code in (RequestCode.HEART_BEAT, RequestCode.LOCK_BATCH_MQ, RequestCode.UPDATE_AND_CREATE_TOPIC_LIST):
        answer = await client.ask(request(code, body=body))
        assert answer.code == 29
        assert reason in (answer.remark or "")


def test_bodies_of_messages_and_large_clients_are_accepted() -> None:
    assert refusal(request(RequestCode.SEND_MESSAGE_V2, body=b"," * 1_000_000)) is None
    subscription = {"topic": "T", "subString": "*", "codeSet": [], "tagsSet": [], "expressionType": "TAG", "v": 1}
    group = {"groupName": "G", "subscriptionDataSet": [subscription] * 4}
    body = json.dumps({"clientID": "c", "consumerDataSet": [group] * 1000}).encode()
    assert refusal(request(RequestCode.HEART_BEAT, body=body)) is None


def test_oversized_headers_are_refused() -> None:
    for fields, serialize_type in (({"a": "x" * 2_000_000}, 0), ({f"k{n}": "v" for n in range(2000)}, 1)):
        command = request(RequestCode.GET_MAX_OFFSET)
        command.fields = fields
        command.serialize_type = serialize_type  # type: ignore[assignment]
        frame = encode_command(command)
        with pytest.raises(RemoteProtocolError, match=r"at most|more than"):
            decode_command(frame, 0, len(frame))


async def test_response_encoded_in_turns_is_the_same_json() -> None:
    value = {
        "none": None,
        "empty": {},
        "table": {MessageQueue("T", "b", 1): {"offset": 1}, MessageQueue("T", "b", 2): {}},
        "numbers": {0: 5, 1: None, 2: 7},
        "list": [{"a": 1}, [], "é"],
        "config": TopicConfig(topic_name="T"),
        "text": "x",
    }
    assert await dumps_in_turns(value) == dumps(value)
