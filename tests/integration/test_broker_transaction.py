"""Transactional messages: invisible until committed, decided once, asked about, given up at last."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers import BrokerClient, Connect, StartBroker, eventually, heartbeat_request, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.model import MessageExt
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.admin import TopicRequestHeader
from rmq_redis.protocol.headers.send import SendMessageResponseHeader
from rmq_redis.protocol.headers.transaction import (
    CheckTransactionStateRequestHeader,
    EndTransactionRequestHeader,
    ResumeCheckHalfMessageRequestHeader,
)
from rmq_redis.protocol.ids import parse_offset_msg_id
from rmq_redis.protocol.record import decode_records
from rmq_redis.remoting.connection import Connection

HALF = "TRAN_MSG\x01true\x02PGROUP\x01PG\x02UNIQ_KEY\x01A1\x02TAGS\x01TagA\x02"
COMMIT, ROLLBACK, UNKNOWN = 8, 12, 0


async def prepare(client: BrokerClient, body: str = "half", properties: str = HALF) -> SendMessageResponseHeader:
    answer = await client.ok(send_request("T", body.encode(), queue_id=1, properties=properties, sys_flag=4))
    return answer.header(SendMessageResponseHeader)


def end(sent: SendMessageResponseHeader, decision: int, *, group: str = "PG", **changes: Any) -> RemotingCommand:
    values: dict[str, Any] = {
        "producer_group": group,
        "tran_state_table_offset": sent.queue_offset,
        "commit_log_offset": parse_offset_msg_id(sent.msg_id)[1],
        "commit_or_rollback": decision,
        "msg_id": "A1",
    }
    return request(RequestCode.END_TRANSACTION, EndTransactionRequestHeader(**(values | changes)))


async def test_commit_makes_the_message_visible_once(client: BrokerClient) -> None:
    sent = await prepare(client)
    assert sent.transaction_id == "A1"
    assert await client.pull_all("T", queue_id=1) == []
    waiting = client.pull_later("T", 0, queue_id=1, subscription="TagA")
    await client.ok(end(sent, COMMIT))
    message = (await waiting).messages[0]
    assert (message.text(), message.msg_id, message.queue_offset) == ("half", "A1", 0)
    assert message.sys_flag & 0xC == 8
    assert message.prepared_transaction_offset == parse_offset_msg_id(sent.msg_id)[1]
    assert "TRAN_MSG" not in message.properties
    for decision in (COMMIT, ROLLBACK):
        assert (await client.ask(end(sent, decision))).code == 1
    assert await client.pull_all("T", queue_id=1) == ["half"]


async def test_rollback_removes_the_message(client: BrokerClient) -> None:
    sent = await prepare(client)
    await client.ok(end(sent, ROLLBACK))
    assert (await client.ask(end(sent, COMMIT))).code == 1
    assert await client.pull_all("T", queue_id=1) == []


async def test_unknown_state_decides_nothing(client: BrokerClient) -> None:
    sent = await prepare(client)
    await client.ok(end(sent, UNKNOWN))
    await client.ok(end(sent, COMMIT))
    assert await client.pull_all("T", queue_id=1) == ["half"]


@pytest.mark.parametrize(
    "changes",
    [{"group": "other"}, {"tran_state_table_offset": 99}, {"tran_state_table_offset": -1}, {"commit_log_offset": 7}],
)
async def test_mismatched_decision_is_refused(client: BrokerClient, changes: dict[str, Any]) -> None:
    sent = await prepare(client)
    assert (await client.ask(end(sent, COMMIT, **changes))).code == 1
    assert await client.pull_all("T", queue_id=1) == []
    await client.ok(end(sent, COMMIT))


async def test_decision_on_a_lost_half_message_affects_no_other(broker: Broker, client: BrokerClient) -> None:
    """A failover may lose the newest half messages and the count of their numbers, which are then given out again."""
    lost = await prepare(client)
    store, keys = broker.parts.state.queue_store, broker.parts.state.queue_store.keys
    await store.current().execute("DEL", keys.half, keys.half_checks, keys.half_numbers)
    sent = await prepare(client, "undecided", HALF.replace("A1", "B2"))
    assert sent.queue_offset == lost.queue_offset
    for ids in ({}, {"transaction_id": "A1"}, {"msg_id": None, "transaction_id": "A1"}):
        assert (await client.ask(end(lost, COMMIT, **ids))).code == 1
    assert await client.pull_all("T", queue_id=1) == []
    await client.ok(end(sent, COMMIT, msg_id=None, transaction_id="B2"))
    assert await client.pull_all("T", queue_id=1) == ["undecided"]


async def test_concurrent_half_messages_are_kept_apart(client: BrokerClient) -> None:
    sent = await asyncio.gather(*(prepare(client, f"half {index}") for index in range(50)))
    assert len({answer.queue_offset for answer in sent}) == len({answer.msg_id for answer in sent}) == 50
    await asyncio.gather(*(client.ok(end(answer, COMMIT)) for answer in sent[::2]))
    await asyncio.gather(*(client.ok(end(answer, ROLLBACK)) for answer in sent[1::2]))
    assert sorted(await client.pull_all("T", queue_id=1)) == sorted(f"half {index}" for index in range(0, 50, 2))


async def test_second_of_two_concurrent_decisions_is_refused(client: BrokerClient) -> None:
    committed = 0
    for number in range(10):
        sent = await prepare(client, f"half {number}")
        first, second = (COMMIT, ROLLBACK) if number % 2 else (ROLLBACK, COMMIT)
        answers = await asyncio.gather(client.ask(end(sent, first)), client.ask(end(sent, second)))
        assert sorted(answer.code for answer in answers) == [0, 1]
        committed += answers[0 if first == COMMIT else 1].code == 0
    assert len(await client.pull_all("T", queue_id=1)) == committed


async def test_property_with_a_similar_name_makes_no_half_message(client: BrokerClient) -> None:
    for text in ("MY_TRAN_MSG\x01true\x02", "TRAN_MSG\x01truely\x02", "TRAN_MSG\x01false\x02"):
        await client.ok(send_request("T", b"plain", queue_id=1, properties=text + "UNIQ_KEY\x01B1\x02"))
    assert await client.pull_all("T", queue_id=1) == ["plain"] * 3


async def test_transactions_can_be_disabled(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(reject_transaction_message=True))
    answer = await client.ask(send_request("T", queue_id=1, properties=HALF, sys_flag=4))
    assert (answer.code, "transactional" in (answer.remark or "")) == (16, True)
    await client.ok(send_request("T", b"plain", queue_id=1))
    assert await client.pull_all("T", queue_id=1) == ["plain"]


async def test_transaction_bits_without_the_property_are_refused(client: BrokerClient) -> None:
    assert (await client.ask(send_request("T", sys_flag=4))).code == 16


class Producer(BrokerClient):
    """A member of the producer group that notes what it is asked."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.asked: list[RemotingCommand] = []
        processors = {RequestCode.CHECK_TRANSACTION_STATE: self._check}
        self._client._dispatcher.processors = processors

    def _check(self, connection: Connection, command: RemotingCommand) -> None:
        self.asked.append(command)


async def test_undecided_messages_are_checked_with_the_producer_group(start_broker: StartBroker) -> None:
    broker = await start_broker(transaction_timeout_s=0.1, transaction_check_interval_s=0.1)
    producer = Producer(broker.address)
    try:
        await producer.ok(heartbeat_request("p1", producer_group="PG"))
        sent = await prepare(producer)
        asked = (await eventually(lambda: producer.asked))[0]
        header = asked.header(CheckTransactionStateRequestHeader)
        assert header.tran_state_table_offset == sent.queue_offset
        assert header.commit_log_offset == parse_offset_msg_id(sent.msg_id)[1]
        assert (header.msg_id, header.transaction_id) == ("A1", "A1")
        assert asked.is_oneway
        message = decode_records(asked.body)[0]
        assert (message.topic, message.queue_id, message.text()) == ("T", 1, "half")
        assert (message.queue_offset, message.commit_log_offset) == (sent.queue_offset, header.commit_log_offset)
        assert header.broker_name == "broker-a"
        await producer.ok(end(sent, COMMIT, from_transaction_check=True))
        assert await producer.pull_all("T", queue_id=1) == ["half"]
    finally:
        await producer.close()


async def test_producer_chooses_the_time_of_the_first_check(start_broker: StartBroker) -> None:
    broker = await start_broker(transaction_timeout_s=3600)
    producer = Producer(broker.address)
    try:
        await producer.ok(heartbeat_request("p1", producer_group="PG"))
        usual = await prepare(producer)
        sooner = await prepare(producer, properties=HALF + "CHECK_IMMUNITY_TIME_IN_SECONDS\x010\x02")
        asked = (await eventually(lambda: producer.asked))[0]
        header = asked.header(CheckTransactionStateRequestHeader)
        assert header.tran_state_table_offset == sooner.queue_offset != usual.queue_offset
    finally:
        await producer.close()


async def test_undecided_message_is_discarded_after_the_last_check(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(transaction_timeout_s=0.05, transaction_check_interval_s=0.05, transaction_check_max=1)
    client = connect(broker)
    sent = await prepare(client)

    async def given_up() -> list[MessageExt]:
        return (await client.pull("TRANS_CHECK_MAX_TIME_TOPIC", 0)).messages

    (message,) = await eventually(given_up)
    assert (message.text(), message.msg_id, message.tags) == ("half", "A1", "TagA")
    expected = {"REAL_TOPIC": "T", "REAL_QID": "1", "TRANSACTION_CHECK_TIMES": "1"}
    assert {name: message.properties[name] for name in expected} == expected
    assert (await client.ask(end(sent, COMMIT))).code == 1
    assert await client.pull_all("T", queue_id=1) == []


async def test_half_message_older_than_the_retention_is_discarded(start_broker: StartBroker, connect: Connect) -> None:
    settings = {"transaction_timeout_s": 0.05, "transaction_check_interval_s": 0.05, "transaction_check_max": 10**6}
    broker = await start_broker(file_reserved_time_h=1 / 3600, retention_period_s=1000, **settings)
    client = connect(broker)
    sent = await prepare(client)

    async def given_up() -> list[MessageExt]:
        return (await client.pull("TRANS_CHECK_MAX_TIME_TOPIC", 0)).messages

    (message,) = await eventually(given_up)
    assert message.properties["REAL_TOPIC"] == "T"
    assert (await client.ask(end(sent, COMMIT))).code == 1


async def test_half_message_with_full_properties_is_discarded_too(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(transaction_timeout_s=0.05, transaction_check_interval_s=0.05, transaction_check_max=1)
    client = connect(broker)
    added = "CLUSTER\x01DefaultCluster\x02MSG_REGION\x01DefaultRegion\x02TRACE_ON\x01true\x02"
    padding = 32767 - len(f"{HALF}{added}P\x01\x02")
    await prepare(client, properties=f"{HALF}P\x01{'x' * padding}\x02")

    async def given_up() -> list[MessageExt]:
        return (await client.pull("TRANS_CHECK_MAX_TIME_TOPIC", 0)).messages

    (message,) = await eventually(given_up)
    assert len(message.properties["P"]) == padding


def resume(msg_id: str | None) -> RemotingCommand:
    return request(RequestCode.RESUME_CHECK_HALF_MESSAGE, ResumeCheckHalfMessageRequestHeader(msg_id, "T"))


async def given_up_by(broker: Broker, client: BrokerClient, body: str = "half") -> MessageExt:
    """Has a broker give a half message up; as it is in TRANS_CHECK_MAX_TIME_TOPIC."""
    await prepare(client, body)

    async def given_up() -> list[MessageExt]:
        return (await client.pull("TRANS_CHECK_MAX_TIME_TOPIC", 0)).messages

    return (await eventually(given_up))[-1]


GIVE_UP_SOON = {"transaction_timeout_s": 0.05, "transaction_check_interval_s": 0.05, "transaction_check_max": 1}


async def test_discarded_message_can_be_checked_again(start_broker: StartBroker, connect: Connect) -> None:
    hasty = await start_broker(**GIVE_UP_SOON)
    given_up = await given_up_by(hasty, connect(hasty))
    await hasty.close()
    broker = await start_broker()
    producer = Producer(broker.address)
    try:
        await producer.ok(heartbeat_request("p1", producer_group="PG"))
        await producer.ok(resume(given_up.offset_msg_id))
        asked = (await eventually(lambda: producer.asked))[0]
        header = asked.header(CheckTransactionStateRequestHeader)
        assert (header.topic, header.msg_id, header.transaction_id) == ("T", "A1", "A1")
        (half,) = decode_records(asked.body)
        assert (half.text(), half.topic, half.queue_id, half.tags, half.sys_flag & 0xC) == ("half", "T", 1, "TagA", 0)
        assert half.properties["TRAN_MSG"] == "true"
        assert not {"REAL_TOPIC", "REAL_QID", "TRANSACTION_CHECK_TIMES"} & half.properties.keys()
        assert half.born_timestamp_ms == given_up.born_timestamp_ms
        decision = EndTransactionRequestHeader(
            producer_group="PG",
            tran_state_table_offset=header.tran_state_table_offset,
            commit_log_offset=header.commit_log_offset,
            commit_or_rollback=COMMIT,
            from_transaction_check=True,
        )
        await producer.ok(request(RequestCode.END_TRANSACTION, decision))
        assert await producer.pull_all("T", queue_id=1) == ["half"]
        assert await producer.pull_all("TRANS_CHECK_MAX_TIME_TOPIC") == ["half"]  # as in RocketMQ, it stays there
    finally:
        await producer.close()


async def test_message_checked_again_is_discarded_again(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(**GIVE_UP_SOON)
    client = connect(broker)
    first = await given_up_by(broker, client)
    await client.ok(resume(first.offset_msg_id))

    async def second() -> list[MessageExt]:
        return (await client.pull("TRANS_CHECK_MAX_TIME_TOPIC", 1)).messages

    (again,) = await eventually(second)
    assert again.body == first.body
    assert again.properties == first.properties  # TRANSACTION_CHECK_TIMES, too: it was counted anew
    assert again.store_timestamp_ms >= first.store_timestamp_ms


async def test_only_discarded_messages_can_be_checked_again(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(**GIVE_UP_SOON)
    client = connect(broker)
    (plain,) = await client.send("T", "plain")
    given_up = await given_up_by(broker, client)
    nowhere = given_up.offset_msg_id[:-2] + "7F"
    for msg_id, text in (
        (plain.msg_id, "not an expired half message"),
        (nowhere, "no message at physical offset"),
        ("A1", "not an offset message id"),
        (None, "not an offset message id"),
    ):
        answer = await client.ask(resume(msg_id))
        assert (answer.code, text in (answer.remark or "")) == (1, True), answer.remark
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    answer = await client.ask(resume(given_up.offset_msg_id))
    assert (answer.code, "'T'" in (answer.remark or "")) == (1, True)
    slave = connect(await start_broker(broker_id=1, failover=False))
    assert (await slave.ask(resume(given_up.offset_msg_id))).code == 14


async def test_half_messages_survive_a_broker_restart(start_broker: StartBroker, connect: Connect) -> None:
    first = await start_broker()
    sent = await prepare(connect(first))
    await first.close()
    client = connect(await start_broker())
    await client.ok(end(sent, COMMIT))
    assert await client.pull_all("T", queue_id=1) == ["half"]
