"""Requests and replies of the SDK against fake brokers."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import msgspec
import pytest
from client_fakes import HOST, FakeBroker, cluster, sends, sent_messages, until

from rmq_redis.client.consume.push import AsyncPushConsumer
from rmq_redis.client.produce.producer import AsyncProducer
from rmq_redis.client.produce.request_reply import reply_to
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import (
    ClientError,
    MessageIllegalError,
    MessageIllegalLocallyError,
    ReplyTimeoutError,
    RequestTimeoutError,
)
from rmq_redis.model import Message, MessageExt
from rmq_redis.protocol.command import RemotingCommand, request, response
from rmq_redis.protocol.headers.send import (
    ReplyMessageRequestHeader,
    SendMessageRequestHeaderV2,
    SendMessageResponseHeader,
)
from rmq_redis.protocol.properties import decode_properties, encode_properties
from rmq_redis.protocol.record import RecordHead, decode_records, encode_record

FIRST = "CONSUME_FROM_FIRST_OFFSET"
ASKED = {"CORRELATION_ID": "c-1", "REPLY_TO_CLIENT": "p1", "TTL": "3000", "CLUSTER": "c", "UNIQ_KEY": "Q1"}


def asked_message(**changes: str | None) -> MessageExt:
    """A request as a consumer gets it; a property that is changed to None is missing."""
    properties = {name: value for name, value in (ASKED | changes).items() if value is not None}
    record = encode_record(
        RecordHead(
            queue_id=0,
            flag=0,
            sys_flag=0,
            born_timestamp_ms=1,
            born_host=HOST,
            store_timestamp_ms=2,
            store_host=HOST,
        ),
        b"T",
        b"question",
        encode_properties(properties).encode(),
    )
    return decode_records(record, broker_name="broker-a")[0]


@pytest.mark.parametrize("answer", [b"answer", "answer", Message("anything", "answer")])
def test_reply_names_its_requester(answer: bytes | str | Message) -> None:
    reply = reply_to(asked_message(), answer)
    assert (reply.topic, reply.body) == ("c_REPLY_TOPIC", b"answer")
    assert reply.properties == {
        "MSG_TYPE": "reply",
        "CORRELATION_ID": "c-1",
        "REPLY_TO_CLIENT": "p1",
        "TTL": "3000",
    }


def test_reply_keeps_the_properties_of_its_message() -> None:
    answer = Message("", "answer", tags="T", keys="K", properties={"a": "b", "CORRELATION_ID": "wrong"}, flag=3)
    reply = reply_to(asked_message(TTL=None), answer)
    assert (reply.tags, reply.keys, reply.flag) == ("T", "K", 3)
    assert reply.properties == {"a": "b", "MSG_TYPE": "reply", "CORRELATION_ID": "c-1", "REPLY_TO_CLIENT": "p1"}
    assert answer.topic == ""


@pytest.mark.parametrize("missing", ["CORRELATION_ID", "REPLY_TO_CLIENT", "CLUSTER"])
def test_message_that_is_no_request_cannot_be_replied_to(missing: str) -> None:
    with pytest.raises(MessageIllegalLocallyError, match=f"Q1 .*{missing}"):
        reply_to(asked_message(**{missing: None}), b"answer")


async def push(
    broker: FakeBroker, properties: dict[str, str], body: bytes = b"answer", **fields: Any
) -> RemotingCommand:
    """Pushes a reply to the one client that is connected; its answer."""
    values: dict[str, Any] = {
        "producer_group": "PG",
        "topic": "c_REPLY_TOPIC",
        "default_topic": "TBW102",
        "default_topic_queue_nums": 4,
        "queue_id": 0,
        "sys_flag": 0,
        "born_timestamp": 1,
        "flag": 7,
        "properties": encode_properties(properties),
        "born_host": "/10.0.0.1:5000",
        "store_host": "10.0.0.2:10911",
        "store_timestamp": 2,
    }
    (connection,) = broker.server.connections
    command = request(RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT, ReplyMessageRequestHeader(**(values | fields)), body)
    return await connection.invoke(command, 5.0)


async def asked(broker: FakeBroker) -> dict[str, str]:
    """The properties of the newest request that arrived."""
    headers = await until(lambda: sends(broker))
    return decode_properties(headers[-1].properties or "")


async def test_request_and_reply_are_encoded_as_in_rocketmq() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        message = Message("T", b"question", tags="A", properties={"a": "b"})
        waiting = asyncio.ensure_future(producer.request(message, timeout_s=5.0))
        properties = await asked(fake.broker)
        assert fake.broker.heartbeats[0]["producerDataSet"] == [{"groupName": "PG"}]  # before the request
        assert (properties["REPLY_TO_CLIENT"], properties["TTL"]) == (producer.client_id, "5000")
        assert (properties["a"], properties["TAGS"]) == ("b", "A")
        assert message.properties == {"a": "b"}
        wrong = await push(fake.broker, {"CORRELATION_ID": "of somebody else"})
        assert wrong.code == 0
        assert not waiting.done()
        reply = {"CORRELATION_ID": properties["CORRELATION_ID"], "TAGS": "X", "PUSH_REPLY_TIME": "3"}
        compressed = zlib.compress(b"answer")
        assert (await push(fake.broker, reply, compressed, sys_flag=1)).code == 0
        message_ext = await waiting
        assert (message_ext.body, message_ext.tags, message_ext.flag) == (b"answer", "X", 7)
        assert (message_ext.topic, message_ext.born_host) == ("c_REPLY_TOPIC", "10.0.0.1:5000")
        assert message_ext.properties["ARRIVE_TIME"].isdecimal()
        assert (await push(fake.broker, reply)).code == 0  # once more: nobody waits any more


async def test_concurrent_requests_have_unique_ids() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        waiting = [asyncio.ensure_future(producer.request(Message("T", b"x"), timeout_s=5.0)) for _ in range(10)]
        messages = await until(lambda: (found := sent_messages(fake.broker))[9:] and found)
        ids = [properties["CORRELATION_ID"] for properties, _ in messages]
        assert len(set(ids)) == 10
        for number, correlation_id in enumerate(ids):
            await push(fake.broker, {"CORRELATION_ID": correlation_id}, b"%d" % number)
        assert sorted([(await reply).body for reply in waiting]) == [b"%d" % number for number in range(10)]


async def test_request_without_a_reply_times_out() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        with pytest.raises(ReplyTimeoutError, match="topic 'T' is stored"):
            await producer.request(Message("T", b"x"), timeout_s=0.2)
        assert issubclass(ReplyTimeoutError, RequestTimeoutError)


async def test_request_raises_the_error_of_its_send() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2].append(ResponseCode.MESSAGE_ILLEGAL)
        with pytest.raises(MessageIllegalError):
            await producer.request(Message("T", b"x"))
        with pytest.raises(MessageIllegalLocallyError):
            await producer.request(Message("T", b""))


async def test_reply_is_accepted_if_the_send_response_was_lost() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2].append(lambda *_: None)
        waiting = asyncio.ensure_future(producer.request(Message("T", b"x"), timeout_s=0.5))
        properties = await asked(fake.broker)
        await push(fake.broker, {"CORRELATION_ID": properties["CORRELATION_ID"]})
        assert (await waiting).body == b"answer"


async def test_close_ends_waiting_requests() -> None:
    async with cluster() as fake:
        producer = AsyncProducer("PG", config=fake.config())
        await producer.start()
        waiting = asyncio.ensure_future(producer.request(Message("T", b"x"), timeout_s=30.0))
        await asked(fake.broker)
        await asyncio.sleep(0)
        await producer.close()
        with pytest.raises(Exception, match="closed") as caught:
            await waiting
        assert isinstance(caught.value, ClientError) or "closed the connection" in str(caught.value)


async def test_message_to_the_reply_topic_is_sent_as_a_reply() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        fake.name_server.topics["c_REPLY_TOPIC"] = {"broker-a": 1}
        fake.name_server.topics["other_REPLY_TOPIC"] = {"broker-a": 1}
        replies: list[SendMessageRequestHeaderV2] = []

        def take(_connection: Any, command: RemotingCommand) -> RemotingCommand:
            replies.append(command.header(SendMessageRequestHeaderV2))
            return response(command, 0, SendMessageResponseHeader("0", 0, 0))

        fake.broker.answers[RequestCode.SEND_REPLY_MESSAGE_V2].append(take)
        result = await producer.send(reply_to(asked_message(), b"answer"))
        assert (result.offset_msg_id, result.queue_offset) == ("0", 0)
        assert decode_properties(replies[0].properties or "")["REPLY_TO_CLIENT"] == "p1"
        await producer.send(Message("other_REPLY_TOPIC", b"plain"))
        assert [header.topic for header in sends(fake.broker)] == ["other_REPLY_TOPIC"]


@pytest.mark.parametrize("failing", [False, True])
async def test_reply_of_a_replier_is_sent_once(failing: bool) -> None:
    async with cluster() as fake:
        properties = encode_properties(ASKED)
        fake.broker.put("T", 0, b"str", b"bytes", b"message", b"none", b"empty", properties=properties)
        fake.broker.put("T", 1, b"no request", properties="UNIQ_KEY\x01Q2\x02")
        if failing:  # the requester has gone: that is no reason to handle the request again
            fake.broker.answers[RequestCode.SEND_REPLY_MESSAGE_V2] += [ResponseCode.SYSTEM_ERROR] * 9
        consumer = AsyncPushConsumer("G", config=fake.config(), consume_from_where=FIRST)
        handled: list[str] = []

        @consumer.replier("T")
        async def handle(message: MessageExt) -> Any:
            handled.append(message.text())
            return {"str": "grün", "bytes": b"b", "message": Message("", "m", tags="X"), "none": None}.get(
                message.text(), "unasked" if message.text() == "no request" else b""
            )

        async with consumer:
            await until(lambda: len(handled) >= 6 and fake.broker.of(RequestCode.CONSUMER_SEND_MSG_BACK))
            commands = fake.broker.of(RequestCode.SEND_REPLY_MESSAGE_V2)
        assert sorted(command.body for command in commands) == [b"b", "grün".encode(), b"m"]
        assert len(fake.broker.of(RequestCode.CONSUMER_SEND_MSG_BACK)) == 1  # the empty reply is a mistake
        header = next(command for command in commands if command.body == b"m").header(SendMessageRequestHeaderV2)
        assert (header.topic, header.queue_id, header.producer_group) == ("c_REPLY_TOPIC", 0, "CLIENT_INNER_PRODUCER")
        sent = decode_properties(header.properties or "")
        assert len(sent.pop("UNIQ_KEY")) == 32
        assert sent == {
            "MSG_TYPE": "reply",
            "CORRELATION_ID": "c-1",
            "REPLY_TO_CLIENT": "p1",
            "TTL": "3000",
            "TAGS": "X",
            "WAIT": "true",
        }


async def test_plain_replier_runs_in_a_thread_and_may_fail() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"fails", b"works", properties=encode_properties(ASKED))
        consumer = AsyncPushConsumer("G", config=fake.config(), consume_from_where=FIRST)

        @consumer.replier("T")
        def handle(message: MessageExt) -> str:
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            if message.text() == "fails":
                raise ValueError("not now")
            return "done"

        async with consumer:
            await until(lambda: fake.broker.of(RequestCode.CONSUMER_SEND_MSG_BACK))
            (command,) = await until(lambda: fake.broker.of(RequestCode.SEND_REPLY_MESSAGE_V2))
        assert command.body == b"done"


def test_creating_a_reply_does_not_change_the_given_message() -> None:
    answer = Message("x", b"y")
    before = msgspec.structs.replace(answer)
    reply_to(asked_message(), answer)
    assert answer == before
