"""POP for names whose retry topic is above 127 bytes: its records have version V2, with a two-byte topic length."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from helpers import BrokerClient, Connect, StartBroker, eventually, send_request
from test_broker_pop import ack_request, change_request, pop, pop_request, pop_until

from rmq_redis import AsyncProducer, AsyncSimpleConsumer, Message, MessageExt
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.model import MAX_PROPERTIES_BYTES
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader, TopicRequestHeader
from rmq_redis.protocol.headers.query import QueryMessageRequestHeader, ViewMessageRequestHeader
from rmq_redis.protocol.ids import parse_offset_msg_id
from rmq_redis.protocol.pop import pop_retry_topic
from rmq_redis.protocol.record import decode_records
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.testing import running_cluster

V1, V2 = "daa320a7", "daa320ab"
LENGTHS = [(60, 59), (60, 60), (120, 1), (120, 127), (1, 127)]
"""Lengths of group and topic: the retry topic has 8 more than both, 127 to 255."""


def names(lengths: tuple[int, int]) -> dict[str, Any]:
    return {"group": "g" * lengths[0], "topic": "t" * lengths[1]}


def at(group: str, topic: str) -> dict[str, Any]:
    return {"consumer_group": group, "topic": topic}


@pytest.mark.parametrize("lengths", LENGTHS)
async def test_pop_redelivers_acknowledges_and_hides_with_long_names(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str, lengths: tuple[int, int]
) -> None:
    group, topic = names(lengths).values()
    retry_topic = pop_retry_topic(group, topic)
    assert len(retry_topic) == sum(lengths) + 8
    (sent,) = await client.send(topic, "m", tags="TagA")
    assert (await pop(client, invisible_ms=20, **names(lengths))).bodies == ["m"]
    ((again, handle),) = await pop_until(client, 1, **names(lengths))
    assert (again.text(), again.topic, again.tags, again.reconsume_times) == ("m", topic, "TagA", 1)
    assert again.properties["ORIGIN_MESSAGE_ID"] == sent.msg_id
    with redis.Redis.from_url(embedded_server.url) as store:
        entries = store.xrange(f"{key_prefix}:{{broker-a}}:queue:{retry_topic}:0")
    stored = entries[0][1][b"m"]
    assert stored[4:8].hex() == (V1 if len(retry_topic) <= 127 else V2)
    await client.ok(change_request(handle, 0, **at(group, retry_topic)))  # from the retry topic to itself
    ((again, handle),) = await pop_until(client, 1, **names(lengths))
    assert (again.text(), again.tags, again.reconsume_times) == ("m", "TagA", 2)
    await client.ok(ack_request(handle, **at(group, retry_topic)))
    assert (await pop(client, **names(lengths))).code == ResponseCode.POLLING_TIMEOUT


@pytest.mark.parametrize("lengths", [(60, 60), (120, 127)])
async def test_long_retry_topic_can_be_pulled_filtered_and_queried(
    client: BrokerClient, lengths: tuple[int, int]
) -> None:
    group, topic = names(lengths).values()
    retry_topic = pop_retry_topic(group, topic)
    properties = "KEYS\x01k\x02TAGS\x01TagA\x02UNIQ_KEY\x01U\x02n\x015\x02"
    await client.ok(send_request(topic, b"m", properties=properties))
    await pop(client, invisible_ms=20, **names(lengths))

    async def retried() -> bool:
        return (await client.ask(request(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader(retry_topic)))).code == 0

    await eventually(retried)

    async def pulled() -> list[Any]:
        answer = await client.pull(retry_topic, 0)
        return answer.messages if answer.code == 0 else []

    (message,) = await eventually(pulled)
    assert (message.topic, message.text(), message.properties["n"]) == (retry_topic, "m", "5")
    for key, unique in (("k", None), ("U", "true")):
        header = QueryMessageRequestHeader(retry_topic, key, 10, 0, 1 << 62, unique)
        (found,) = decode_records((await client.ok(request(RequestCode.QUERY_MESSAGE, header))).body)
        assert (found.topic, found.text()) == (retry_topic, "m")
    offset = parse_offset_msg_id(message.offset_msg_id)[1]
    answer = await client.ok(request(RequestCode.VIEW_MESSAGE_BY_ID, ViewMessageRequestHeader(offset)))
    assert decode_records(answer.body)[0].topic == retry_topic
    # A POP of the retry topic itself, as a filter by SQL reads its records' properties.
    answer = await client.ok(pop_request(group=group, topic=retry_topic, exp="n = 5", exp_type="SQL92"))
    assert [(each.topic, each.text()) for each in decode_records(answer.body)] == [(retry_topic, "m")]


async def test_messages_of_a_long_retry_topic_become_dead_letters(client: BrokerClient) -> None:
    group, topic = names((120, 127)).values()
    config = json.dumps({"groupName": group, "retryMaxTimes": 1}).encode()
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=config))
    await client.send(topic, "m")
    await pop(client, invisible_ms=20, group=group, topic=topic)
    await pop_until(client, 1, invisible_ms=20, group=group, topic=topic)

    async def dead() -> list[str]:
        name = f"%DLQ%{group}"
        return await client.pull_all(name) if (await client.pull(name, 0)).code == 0 else []

    assert await eventually(dead) == ["m"]
    message = (await client.pull(f"%DLQ%{group}", 0)).messages[0]
    assert message.properties["DLQ_ORIGIN_TOPIC"] == topic


async def test_long_retry_topics_survive_restart_and_end_with_their_topic(
    start_broker: StartBroker, connect: Connect
) -> None:
    group, topic = names((120, 127)).values()
    broker = await start_broker()
    client = connect(broker)
    await client.send(topic, "m")
    await pop(client, invisible_ms=20, group=group, topic=topic)
    ((_, handle),) = await pop_until(client, 1, group=group, topic=topic)
    await client.close()
    await broker.close()
    client = connect(await start_broker())
    retry_topic = pop_retry_topic(group, topic)
    await client.ok(change_request(handle, 0, **at(group, retry_topic)))
    ((again, _),) = await pop_until(client, 1, group=group, topic=topic)
    assert (again.text(), again.reconsume_times) == ("m", 2)
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader(topic)))
    gone = await client.ask(request(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader(retry_topic)))
    assert gone.code == ResponseCode.TOPIC_NOT_EXIST


async def test_long_names_are_allowed_only_for_retry_and_dlq_topics(client: BrokerClient) -> None:
    for topic in ("t" * 128, "%RETRY%" + "t" * 249, "%DLQ%" + "t" * 251):
        for command in (
            send_request(topic, b"m"),
            request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader(topic, 1, 1, 6)),
        ):
            answer = await client.ask(command)
            assert answer.code != ResponseCode.SUCCESS
            assert "at most" in (answer.remark or "")
    for topic in ("t" * 127, "%RETRY%" + "t" * 248, "%DLQ%" + "t" * 250):
        await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader(topic, 1, 1, 6)))
        await client.ok(send_request(topic, b"m"))
        assert (await client.pull(topic, 0)).bodies == ["m"]


@pytest.mark.parametrize("lengths", [(60, 60), (120, 127)])
async def test_message_at_the_properties_limit_is_retried_with_long_names(
    client: BrokerClient, lengths: tuple[int, int]
) -> None:
    text = "UNIQ_KEY\x01U\x02big\x01"
    properties = text + "x" * (MAX_PROPERTIES_BYTES - len(text) - 60) + "\x02"
    answer = await client.ask(send_request("t" * lengths[1], b"m", properties=properties))
    while answer.code != ResponseCode.SUCCESS:  # the broker adds properties of its own
        properties = properties[:-11] + "\x02"
        answer = await client.ask(send_request("t" * lengths[1], b"m", properties=properties))
    for times in (0, 1, 2):
        command = pop_request(invisible_ms=20, poll_ms=20_000, **names(lengths))
        while (popped := await client.ask(command, 30.0)).code != ResponseCode.SUCCESS:
            assert popped.code == ResponseCode.POLLING_TIMEOUT
            command = pop_request(invisible_ms=20, poll_ms=20_000, **names(lengths))
        (message,) = decode_records(popped.body)  # a retry with its retry topic: there is no room for a handle
        assert (message.text(), message.reconsume_times) == ("m", times)


@pytest.mark.parametrize("fifo", [False, True])
@pytest.mark.parametrize("lengths", [(60, 60), (120, 127)])
async def test_sdk_receives_retries_and_acknowledges_with_long_names(
    embedded_server: EmbeddedServer, key_prefix: str, lengths: tuple[int, int], fifo: bool
) -> None:
    group, topic = names(lengths).values()
    async with (
        running_cluster(store=embedded_server.url, topics=[topic], key_prefix=key_prefix) as namesrv_addr,
        AsyncProducer("p", namesrv_addr) as producer,
        AsyncSimpleConsumer(group, namesrv_addr, fifo=fifo) as consumer,
    ):
        consumer.subscribe(topic, "TagA")

        async def receive() -> MessageExt:
            while not (messages := await consumer.receive(1, 30, 10)):
                pass
            return messages[0]

        await producer.send(Message(topic, "m", tags="TagA"))
        for times in range(3):
            message = await receive()
            assert (message.topic, message.text(), message.reconsume_times) == (topic, "m", times)
            await consumer.change_invisible_duration(message, 0 if times < 2 else 20)
        await consumer.ack(message)
        await producer.send(Message(topic, "n", tags="TagA"))
        assert (await receive()).text() == "n"
