"""A request repeated after a lost answer is recognised in the store; what only looks like a repeat is taken."""

from __future__ import annotations

import asyncio
import time
import zlib
from dataclasses import dataclass
from typing import Any

import pytest
from helpers import BrokerClient, Connect, StartBroker, eventually, heartbeat_request, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import MessageSysFlag, RequestCode
from rmq_redis.model import MessageExt
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader
from rmq_redis.protocol.headers.send import (
    ConsumerSendMsgBackRequestHeader,
    RecallMessageRequestHeader,
    SendMessageResponseHeader,
)
from rmq_redis.protocol.headers.transaction import EndTransactionRequestHeader
from rmq_redis.protocol.ids import parse_offset_msg_id
from rmq_redis.protocol.properties import encode_properties
from rmq_redis.store.group.give_backs import MARK_S

HALF = "TRAN_MSG\x01true\x02PGROUP\x01PG\x02UNIQ_KEY\x01A1\x02"
COMMIT, ROLLBACK = 8, 12


async def answer_of(client: BrokerClient, command: RemotingCommand) -> SendMessageResponseHeader:
    return (await client.ok(command)).header(SendMessageResponseHeader)


@dataclass
class Stored:
    """How much the store holds of each kind."""

    scheduled: int
    half: int

    @classmethod
    async def of(cls, broker: Broker) -> Stored:
        store = broker.parts.state.queue_store
        read = store.current().execute
        counts = [await read("ZCARD", store.keys.scheduled), await read("HLEN", store.keys.half)]
        assert counts == [await read("HLEN", store.keys.scheduled_records), await read("ZCARD", store.keys.half_checks)]
        return cls(*counts)


# --- delayed messages ------------------------------------------------------------------------------------------------


def delayed(body: str = "later", *, queue_id: int = 0, key: str = "A1", more: str = "") -> RemotingCommand:
    properties = f"UNIQ_KEY\x01{key}\x02TIMER_DELAY_SEC\x013600\x02{more}"
    return send_request("T", body.encode(), queue_id=queue_id, properties=properties)


async def create_topic(client: BrokerClient) -> None:
    """Queues whose ids have one and two digits."""
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 16, 16, 6)))


@pytest.mark.parametrize("queue_id", [0, 9, 10, 15], ids=lambda queue_id: f"queue {queue_id}")
async def test_repeated_delayed_send_returns_the_first_result(
    client: BrokerClient, broker: Broker, queue_id: int
) -> None:
    await create_topic(client)
    first = await answer_of(client, delayed(queue_id=9))
    second = await answer_of(client, delayed(queue_id=queue_id))
    assert first == second
    assert (second.queue_id, await Stored.of(broker)) == (9, Stored(1, 0))
    recall = RecallMessageRequestHeader("T", second.recall_handle or "", "PG")
    await client.ok(request(RequestCode.RECALL_MESSAGE, recall))
    assert await Stored.of(broker) == Stored(0, 0)


async def test_delayed_sends_repeated_in_one_turn_are_recognised(client: BrokerClient, broker: Broker) -> None:
    await create_topic(client)
    oneway = delayed(queue_id=12)
    oneway.flag |= 2
    await client.oneway(oneway)
    answers = await asyncio.gather(*(answer_of(client, delayed(queue_id=queue_id)) for queue_id in range(5)))
    assert {(answer.queue_id, answer.queue_offset) for answer in answers} == {(12, answers[0].queue_offset)}
    assert await Stored.of(broker) == Stored(1, 0)


@pytest.mark.parametrize(
    "other",
    [
        delayed("other"),
        delayed("LATER"),
        delayed(key="A2"),
        delayed(more="TAGS\x01x\x02"),
        delayed(more="DELAY\x0118\x02"),
    ],
    ids=["body", "body of equal length", "key", "tag", "delay"],
)
async def test_different_delayed_message_is_not_a_repeat(
    client: BrokerClient, broker: Broker, other: RemotingCommand
) -> None:
    await client.ok(delayed())
    await client.ok(other)
    assert await Stored.of(broker) == Stored(2, 0)


async def test_delayed_message_is_stored_again_after_the_first_delivery(client: BrokerClient) -> None:
    command = send_request("T", b"soon", properties="UNIQ_KEY\x01A1\x02TIMER_DELAY_MS\x0150\x02")
    for offset in range(2):
        await client.ok(command)
        assert (await client.pull_later("T", offset)).bodies == ["soon"]


# --- half messages ---------------------------------------------------------------------------------------------------


def half(body: str = "half", *, queue_id: int = 1, properties: str = HALF, topic: str = "T") -> RemotingCommand:
    return send_request(topic, body.encode(), queue_id=queue_id, properties=properties, sys_flag=4)


def end(sent: SendMessageResponseHeader, decision: int) -> RemotingCommand:
    offset = parse_offset_msg_id(sent.msg_id)[1]
    header = EndTransactionRequestHeader("PG", sent.queue_offset, offset, decision, transaction_id=sent.transaction_id)
    return request(RequestCode.END_TRANSACTION, header)


@pytest.mark.parametrize("decided", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("decision", [COMMIT, ROLLBACK], ids=["commit", "rollback"])
async def test_decision_on_either_response_ends_a_repeated_half_message(
    client: BrokerClient, broker: Broker, decision: int, decided: int
) -> None:
    answers = [await answer_of(client, half(queue_id=queue_id)) for queue_id in (1, 2)]
    assert answers[0] == answers[1]
    await client.ok(end(answers[decided], decision))
    assert (await client.ask(end(answers[1 - decided], decision))).code == 1
    bodies = [await client.pull_all("T", queue_id=queue_id) for queue_id in (1, 2)]
    assert bodies == ([["half"], []] if decision == COMMIT else [[], []])
    store = broker.parts.state.queue_store
    assert await store.current().execute("EXISTS", store.keys.half_keys) == 0
    again = await answer_of(client, half())  # the first is not held any more
    assert again.queue_offset != answers[0].queue_offset


async def test_half_messages_repeated_in_one_turn_are_recognised(client: BrokerClient, broker: Broker) -> None:
    answers = await asyncio.gather(*(answer_of(client, half()) for _ in range(5)))
    assert len({answer.msg_id for answer in answers}) == 1
    assert await Stored.of(broker) == Stored(0, 1)


@pytest.mark.parametrize(
    "other",
    [
        half("other"),
        half("HALF"),
        half(topic="T2"),
        half(properties=HALF.replace("PG", "P2")),
        half(properties=HALF.replace("A1", "A2")),
        half(properties=HALF + "TAGS\x01x\x02"),
    ],
    ids=["body", "body of equal length", "topic", "producer group", "key", "tag"],
)
async def test_different_half_message_is_not_a_repeat(
    client: BrokerClient, broker: Broker, other: RemotingCommand
) -> None:
    first, second = await answer_of(client, half()), await answer_of(client, other)
    assert second.queue_offset == first.queue_offset + 1
    assert await Stored.of(broker) == Stored(0, 2)


async def test_half_messages_without_a_key_are_all_stored(client: BrokerClient, broker: Broker) -> None:
    for _ in range(2):
        await client.ok(half(properties="TRAN_MSG\x01true\x02PGROUP\x01PG\x02"))
    assert await Stored.of(broker) == Stored(0, 2)


async def test_repeated_half_message_is_checked_back_once(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(transaction_timeout_s=0.1, transaction_check_interval_s=3600)
    client = connect(broker)
    for _ in range(3):
        await client.ok(half())
    counts = broker.parts.state.queue_store.keys.half_counts

    async def asked() -> Any:
        return await broker.parts.state.queue_store.current().execute("HVALS", counts)

    assert await eventually(asked) == [b"1"]


# --- given back ------------------------------------------------------------------------------------------------------


async def failed_message(client: BrokerClient, body: bytes = b"poison", **options: Any) -> MessageExt:
    """A message of topic T, as group G pulled it."""
    await client.ok(heartbeat_request("c1", "G", {"T": "*"}))
    sent = await answer_of(client, send_request("T", body, properties="UNIQ_KEY\x01A1\x02TAGS\x01x\x02", **options))
    return (await client.pull("T", sent.queue_offset)).messages[0]


def given_back(message: MessageExt, level: int = 18, **fields: Any) -> RemotingCommand:
    header = ConsumerSendMsgBackRequestHeader(message.commit_log_offset, "G", level, **fields)
    return request(RequestCode.CONSUMER_SEND_MSG_BACK, header)


def sent_instead(message: MessageExt, *, max_reconsume_times: int = 16, offset: int | None = None) -> RemotingCommand:
    """What a consumer sends to the retry topic if it cannot give the message back; Java's do not say the offset."""
    properties = message.properties | {"RETRY_TOPIC": "T", "ORIGIN_MESSAGE_ID": message.msg_id, "DELAY": "18"}
    if offset is not None:
        properties["RETRY_OFFSET"] = str(offset)
    return send_request(
        "%RETRY%G",
        message.body,
        properties=encode_properties(properties),
        reconsume_times=message.reconsume_times + 1,
        max_reconsume_times=max_reconsume_times,
    )


WAYS = [(0, 0), (0, 1), (1, 0), (1, 1)]
WAY_IDS = ["back, back", "back, sent", "sent, back", "sent, sent"]


@pytest.mark.parametrize("body", [b"poison", b"p" * 5000], ids=["plain", "compressed"])
@pytest.mark.parametrize("ways", WAYS, ids=WAY_IDS)
async def test_message_sent_back_twice_is_retried_once(
    client: BrokerClient, broker: Broker, ways: tuple[int, int], body: bytes
) -> None:
    is_large = len(body) > 4096
    stored = zlib.compress(body) if is_large else body
    message = await failed_message(client, stored, sys_flag=int(MessageSysFlag.COMPRESSED) if is_large else 0)
    assert message.body == body
    for way in ways:
        await client.ok(sent_instead(message) if way else given_back(message))
    assert await Stored.of(broker) == Stored(1, 0)


@pytest.mark.parametrize("ways", WAYS, ids=WAY_IDS)
async def test_message_sent_back_twice_is_one_dead_letter(client: BrokerClient, ways: tuple[int, int]) -> None:
    message = await failed_message(client)
    for way in ways:
        back = given_back(message, max_reconsume_times=0)
        answer = await client.ok(sent_instead(message, max_reconsume_times=0) if way else back)
        if way:
            header = answer.header(SendMessageResponseHeader)
            assert (header.queue_id, header.queue_offset) == (0, 0)
    assert await client.pull_all("%DLQ%G") == ["poison"]


async def test_dead_letter_is_not_retried_by_the_other_send_back_request(client: BrokerClient, broker: Broker) -> None:
    message = await failed_message(client)
    await client.ok(given_back(message, -1))
    await client.ok(sent_instead(message))
    assert await Stored.of(broker) == Stored(0, 0)
    await client.ok(given_back(message, -1))
    assert await client.pull_all("%DLQ%G") == ["poison"]


async def test_replayed_message_is_retried_again_by_either_send_back(client: BrokerClient) -> None:
    """As after an offset reset, when its first retry is delivered."""
    message = await failed_message(client)
    for times, command in enumerate([given_back(message, 1), given_back(message, 1)]):
        await client.ok(command)
        assert (await client.pull_later("%RETRY%G", times)).bodies == ["poison"]


async def test_two_messages_with_one_key_are_both_retried(client: BrokerClient, broker: Broker) -> None:
    """A producer that sent one message object twice, or a send that was stored twice."""
    first, second = await failed_message(client), await failed_message(client)
    await client.ok(given_back(first))
    await client.ok(given_back(second))
    assert await Stored.of(broker) == Stored(2, 0)
    other = await failed_message(client, b"another body")
    await client.ok(sent_instead(other))
    assert await Stored.of(broker) == Stored(3, 0)


async def test_resent_dead_letter_that_fails_is_a_new_dead_letter(client: BrokerClient) -> None:
    for _ in range(2):  # the second one has the key, the body and the count of the first, at another offset
        message = await failed_message(client)
        await client.ok(given_back(message, max_reconsume_times=0))
        await client.ok(sent_instead(message, max_reconsume_times=0, offset=message.commit_log_offset))
    assert await client.pull_all("%DLQ%G") == ["poison"] * 2
    letters = (await client.pull("%DLQ%G", 0)).messages
    assert all("RETRY_OFFSET" not in letter.properties for letter in letters)


async def test_message_becomes_a_dead_letter_again_if_the_first_is_gone(client: BrokerClient, broker: Broker) -> None:
    message = await failed_message(client)
    await client.ok(given_back(message, -1))
    store = broker.parts.state.queue_store
    await store.current().execute("XTRIM", store.keys.queue("%DLQ%G", 0), "MAXLEN", 0)
    await client.ok(given_back(message, -1))
    assert (await client.pull("%DLQ%G", 1)).bodies == ["poison"]


async def test_send_back_marks_expire(client: BrokerClient, broker: Broker) -> None:
    message = await failed_message(client)
    await client.ok(given_back(message, 1))
    read = broker.parts.state.queue_store.current().execute
    mark = broker.parts.state.queue_store.keys.given_back("G", "T", 1, "A1")
    assert MARK_S < await read("TTL", mark) <= MARK_S + 1
    due_ms = int(time.time() * 1000) + 1000
    await client.pull_later("%RETRY%G", 0)
    await client.ok(given_back(message, -1))
    assert time.time() * 1000 >= due_ms - 1000
    assert 0 < await read("TTL", mark) <= MARK_S


async def test_dead_letter_is_logged_once_after_it_is_stored(
    client: BrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    message = await failed_message(client)
    for command in (given_back(message, -1), given_back(message, -1), sent_instead(message, max_reconsume_times=0)):
        await client.ok(command)
    logged = [record.getMessage() for record in caplog.records if "becomes a dead letter" in record.getMessage()]
    assert logged == ["group G: message A1 of topic T failed 1 times and becomes a dead letter (%DLQ%G)"]
