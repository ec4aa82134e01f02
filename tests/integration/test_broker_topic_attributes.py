"""Topic attributes: validated as Apache's broker does (code 1), kept, and changed by + and -."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import BrokerClient, Connect, StartBroker

from rmq_redis.codes import RequestCode
from rmq_redis.protocol.bodies.base import dumps
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader, TopicRequestHeader


def put(attributes: str, topic: str = "T") -> RemotingCommand:
    header = CreateTopicRequestHeader(topic, 1, 1, 6, attributes=attributes)
    return request(RequestCode.UPDATE_AND_CREATE_TOPIC, header)


def put_list(*attributes: dict[str, str]) -> RemotingCommand:
    items = [{"topicName": f"T{number}", "attributes": each} for number, each in enumerate(attributes)]
    return request(RequestCode.UPDATE_AND_CREATE_TOPIC_LIST, body=dumps({"topicConfigList": items}))


async def attributes_of(client: BrokerClient, topic: str = "T") -> dict[str, str]:
    config = await client.get(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader(topic))
    found: dict[str, str] = config["attributes"]
    return found


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ("+message.type=NONSENSE", "NONSENSE"),
        ("+message.type=normal", "normal"),
        ("+message.type=", "message.type"),
        ("+nosuch.attr=1", "nosuch.attr"),
        ("+queue.type=BatchCQ", "BatchCQ"),
        ("+queue.type=x", "SimpleCQ"),
        ("+cleanup.policy=COMPACTION", "COMPACTION"),
        ("+cleanup.policy=x", "DELETE"),
        ("-message.type", "message.type"),
        ("+message.type=FIFO,-message.type", "message.type"),
        ("+message.type=FIFO,+nosuch=1", "nosuch"),
    ],
)
async def test_attributes_that_apache_refuses_fail_with_1(client: BrokerClient, attributes: str, named: str) -> None:
    answer = await client.ask(put(attributes))
    assert answer.code == 1
    assert named in (answer.remark or "")
    assert (await client.ask(request(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader("T")))).code == 17


@pytest.mark.parametrize("text", ["message.type=FIFO", "+message.type", "+=FIFO", "-", "+a=1,+a=2", "~a=1"])
async def test_malformed_attribute_change_is_refused_with_29(client: BrokerClient, text: str) -> None:
    assert (await client.ask(put(text))).code == 29


async def test_message_type_is_stored_and_can_be_changed(client: BrokerClient) -> None:
    for value in ("NORMAL", "FIFO", "DELAY", "TRANSACTION", "UNSPECIFIED"):
        await client.ok(put(f"+message.type={value}"))
        assert await attributes_of(client) == {"message.type": value}
    await client.send("T", "a normal message")  # as Apache's broker, which leaves the check to its proxy
    assert (await client.ask(put("+message.type=NONSENSE"))).code == 1
    assert await attributes_of(client) == {"message.type": "UNSPECIFIED"}
    await client.ok(put("-message.type"))
    assert await attributes_of(client) == {}


async def test_message_type_mixed_must_be_enabled(
    client: BrokerClient, start_broker: StartBroker, connect: Connect
) -> None:
    answer = await client.ask(put("+message.type=MIXED"))
    assert (answer.code, "enable_mixed_message_type" in (answer.remark or "")) == (29, True)
    mixed = connect(await start_broker(broker_name="broker-m", enable_mixed_message_type=True))
    await mixed.ok(put("+message.type=MIXED"))
    assert await attributes_of(mixed) == {"message.type": "MIXED"}


async def test_queue_type_is_set_only_at_creation(client: BrokerClient) -> None:
    await client.ok(put("+queue.type=SimpleCQ,+cleanup.policy=DELETE"))
    await client.ok(put("+queue.type=SimpleCQ"))  # the same again
    assert (await client.ask(put("-queue.type"))).code == 1
    await client.ok(put("", "U"))
    assert (await client.ask(put("+queue.type=SimpleCQ", "U"))).code == 1
    assert await attributes_of(client, "U") == {}


async def test_invalid_topic_list_is_refused_as_a_whole(client: BrokerClient) -> None:
    good: dict[str, str] = {"+message.type": "FIFO"}
    bad: list[dict[str, Any]] = [{"+message.type": "x"}, {"+nosuch": "1"}, {"message.type": "FIFO"}, {"": "x"}]
    for each in bad:
        assert (await client.ask(put_list(good, each))).code == 1
        assert (await client.ask(request(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader("T0")))).code == 17
    await client.ok(put_list(good, {}))
    assert await attributes_of(client, "T0") == {"message.type": "FIFO"}
    await client.ok(put_list({"-message.type": ""}))
    assert await attributes_of(client, "T0") == {}
