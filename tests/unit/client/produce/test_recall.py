"""Messages for later: what a message asks for, and what a producer does with a recall handle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from client_fakes import cluster, sends, without_ids

from rmq_redis.client.produce.producer import AsyncProducer
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import ClientError, MessageIllegalLocallyError, ResponseError, RouteNotFoundError
from rmq_redis.model import Message
from rmq_redis.protocol.command import response
from rmq_redis.protocol.headers.send import (
    RecallMessageRequestHeader,
    RecallMessageResponseHeader,
    SendMessageRequestHeaderV2,
    SendMessageResponseHeader,
)
from rmq_redis.protocol.recall_handle import RecallHandle, encode_recall_handle

HANDLE = encode_recall_handle(RecallHandle("T", "broker-b", 1_700_000_000_000, "A1"))


def test_recall_handle_equals_that_of_rocketmq() -> None:
    assert HANDLE == "djEgVCBicm9rZXItYiAxNzAwMDAwMDAwMDAwIEEx"  # v1 T broker-b 1700000000000 A1


@pytest.mark.parametrize(
    ("change", "properties"),
    [
        (lambda message: message.with_delay_level(18), {"DELAY": "18"}),
        (lambda message: message.with_delay_s(0.25), {"TIMER_DELAY_MS": "250"}),
        (lambda message: message.with_delay_s(1e-9), {"TIMER_DELAY_MS": "1"}),
        (lambda message: message.with_deliver_at_ms(17), {"TIMER_DELIVER_MS": "17"}),
        (lambda message: message.with_deliver_at_ms(17).with_delay_level(1), {"DELAY": "1"}),
        (lambda message: message.with_delay_level(1).with_delay_s(2), {"TIMER_DELAY_MS": "2000"}),
    ],
)
def test_delay_settings_become_message_properties(
    change: Callable[[Message], Message], properties: dict[str, str]
) -> None:
    given = {"a": "b"}
    message = Message("T", "x", properties=given)
    assert change(message) is message
    assert message.properties == {"a": "b", **properties}
    assert given == {"a": "b"}


@pytest.mark.parametrize("level", [0, 19, -1])
def test_invalid_delay_levels_are_refused(level: int) -> None:
    with pytest.raises(ValueError, match=str(level)):
        Message("T", "x").with_delay_level(level)


@pytest.mark.parametrize("delay_s", [0, -1.5, float("nan")])
def test_invalid_delays_are_refused(delay_s: float) -> None:
    with pytest.raises(ValueError, match=str(delay_s)):
        Message("T", "x").with_delay_s(delay_s)


async def test_delayed_send_returns_its_recall_handle() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:

        def scheduled(_connection: object, command: object) -> object:
            queue_id = command.header(SendMessageRequestHeaderV2).queue_id  # type: ignore[attr-defined]
            return response(command, 0, SendMessageResponseHeader("ID", queue_id, 7, recall_handle=HANDLE))  # type: ignore[arg-type]

        fake.broker.answers[RequestCode.SEND_MESSAGE_V2] += [scheduled, ResponseCode.SYSTEM_ERROR, scheduled]
        message = Message("T", "x").with_delay_s(5)
        assert (await producer.send(message)).recall_handle == HANDLE
        repeated = await producer.send(message)
        assert (repeated.recall_handle, repeated.attempts) == (HANDLE, 2)
        assert (await producer.send(Message("T", "x"))).recall_handle == ""
        assert without_ids(sends(fake.broker)[0].properties) == "TIMER_DELAY_MS\x015000\x02"


async def test_recall_is_sent_to_the_broker_of_the_handle() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncProducer("PG", config=fake.config()) as producer:
        fake.brokers[1].answers[RequestCode.RECALL_MESSAGE] += [
            lambda _connection, command: response(command, 0, RecallMessageResponseHeader("A1")),
            ResponseCode.ILLEGAL_OPERATION,
        ]
        assert await producer.recall("T", HANDLE) == "A1"
        (command,) = fake.brokers[1].of(RequestCode.RECALL_MESSAGE)
        header = command.header(RecallMessageRequestHeader)
        assert (header.topic, header.recall_handle, header.producer_group) == ("T", HANDLE, "PG")
        with pytest.raises(ResponseError) as refused:
            await producer.recall("T", HANDLE)
        assert refused.value.code == ResponseCode.ILLEGAL_OPERATION
        assert fake.brokers[0].of(RequestCode.RECALL_MESSAGE) == []


async def test_invalid_recalls_are_refused() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        for topic, handle in (("T", "nothing"), ("T", ""), ("T2", HANDLE)):
            with pytest.raises(MessageIllegalLocallyError):
                await producer.recall(topic, handle)
        with pytest.raises(RouteNotFoundError, match="broker-b"):
            await producer.recall("T", HANDLE)
    with pytest.raises(ClientError):
        await producer.recall("T", HANDLE)
