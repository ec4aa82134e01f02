"""RECALL_MESSAGE: a message that waits for its time is taken away before it is due, or there is a clear error."""

from __future__ import annotations

import base64
import time

import pytest
import redis
from helpers import BrokerClient, Connect, StartBroker, eventually, heartbeat_request, send_request

from rmq_redis.codes import RequestCode
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.send import (
    RecallMessageRequestHeader,
    RecallMessageResponseHeader,
    SendMessageResponseHeader,
)
from rmq_redis.protocol.recall_handle import decode_recall_handle
from rmq_redis.store.embedded import EmbeddedServer

HOUR_MS = 3_600_000


def recall(topic: str, handle: str) -> RemotingCommand:
    return request(RequestCode.RECALL_MESSAGE, RecallMessageRequestHeader(topic, handle, "PG"))


async def schedule(client: BrokerClient, topic: str, properties: str) -> str:
    """Sends a message for later; its recall handle."""
    answer = await client.ok(send_request(topic, b"later", properties=properties))
    return answer.header(SendMessageResponseHeader).recall_handle or ""


def handle_of(topic: str, broker_name: str, deliver_ms: int, unique_key: str) -> str:
    return base64.urlsafe_b64encode(f"v1 {topic} {broker_name} {deliver_ms} {unique_key}".encode()).decode()


async def test_recalled_message_is_removed_and_never_delivered(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    due_ms = int(time.time() * 1000) + HOUR_MS
    handle = await schedule(client, "T", f"UNIQ_KEY\x01A1\x02TIMER_DELIVER_MS\x01{due_ms}\x02")
    assert handle == handle_of("T", "broker-a", due_ms, "A1")
    answer = await client.ok(recall("T", handle))
    assert answer.header(RecallMessageResponseHeader).msg_id == "A1"
    base = f"{key_prefix}:{{broker-a}}:"
    with redis.Redis.from_url(embedded_server.url) as store:
        assert not store.exists(f"{base}scheduled", f"{base}scheduled-records", f"{base}recallable")
    again = await client.ask(recall("T", handle))
    assert (again.code, "A1" in (again.remark or "")) == (604, True)


async def test_recall_removes_only_the_recalled_message(client: BrokerClient) -> None:
    later = "TIMER_DELAY_MS\x01300\x02"
    handles = [await schedule(client, "T", f"UNIQ_KEY\x01A{number}\x02{later}") for number in range(3)]
    await client.ok(recall("T", handles[1]))

    async def arrived() -> list[str]:
        messages = (await client.pull("T", 0)).messages
        return [message.msg_id for message in messages] if len(messages) == 2 else []

    assert await eventually(arrived) == ["A0", "A2"]
    late = await client.ask(recall("T", handles[0]))
    assert (late.code, "timestamp invalid" in (late.remark or "")) == (604, True)


async def test_recall_handle_names_a_message_with_a_broker_generated_id(client: BrokerClient) -> None:
    handle = decode_recall_handle(await schedule(client, "T", "DELAY\x0118\x02"))
    assert (handle.topic, handle.broker_name, len(handle.unique_key)) == ("T", "broker-a", 32)
    answer = await client.ok(recall("T", handle_of(*handle)))
    assert answer.header(RecallMessageResponseHeader).msg_id == handle.unique_key


async def test_immediate_messages_and_retries_have_no_recall_handle(client: BrokerClient) -> None:
    assert await schedule(client, "T", "TIMER_DELIVER_MS\x015\x02") == ""
    await client.ok(heartbeat_request("c1", "G", {"T": "*"}))
    assert await schedule(client, "%RETRY%G", "DELAY\x0118\x02") == ""


@pytest.mark.parametrize(
    ("topic", "handle", "code", "remark"),
    [
        ("T", "", 604, "invalid"),
        ("T", "!!!", 604, "invalid"),
        ("T", base64.urlsafe_b64encode(b"v2 T broker-a 1 A1").decode(), 604, "invalid"),
        ("T", base64.urlsafe_b64encode(b"v1 T broker-a A1").decode(), 604, "invalid"),
        ("T", base64.urlsafe_b64encode(b"v1 T broker-a soon A1").decode(), 604, "invalid"),
        ("T", base64.urlsafe_b64encode(b"\xff\xfe").decode(), 604, "invalid"),
        ("T", handle_of("T2", "broker-a", 10**13, "A1"), 604, "topic not match"),
        ("T", handle_of("T", "broker-b", 10**13, "A1"), 604, "broker service not available"),
        ("T", handle_of("T", "broker-a", 1, "A1"), 604, "timestamp invalid"),
        ("T", handle_of("T", "broker-a", 10**13, "A1"), 604, "no message A1"),
        ("Nowhere", handle_of("Nowhere", "broker-a", 10**13, "A1"), 17, "not exist"),
    ],
)
async def test_invalid_recalls_are_refused(
    client: BrokerClient, topic: str, handle: str, code: int, remark: str
) -> None:
    await client.send("T", "now")
    answer = await client.ask(recall(topic, handle))
    assert (answer.code, remark in (answer.remark or "")) == (code, True)


async def test_slave_refuses_recalls(start_broker: StartBroker, connect: Connect) -> None:
    master = connect(await start_broker())
    await master.send("T", "now")
    handle = await schedule(master, "T", "UNIQ_KEY\x01A1\x02DELAY\x0118\x02")
    slave = connect(await start_broker(broker_id=1))
    assert (await slave.ask(recall("T", handle))).code == 14
    await master.ok(recall("T", handle))


async def test_recall_without_replica_confirmation_is_reported(start_broker: StartBroker, connect: Connect) -> None:
    """SYNC_MASTER without a replica: SLAVE_NOT_AVAILABLE, as for a send; the message is gone nevertheless."""
    client = connect(await start_broker(broker_role="SYNC_MASTER"))
    due_ms = int(time.time() * 1000) + HOUR_MS
    answer = await client.ask(
        send_request("T", b"later", properties=f"UNIQ_KEY\x01A1\x02TIMER_DELIVER_MS\x01{due_ms}\x02")
    )
    assert answer.code == 11
    handle = answer.header(SendMessageResponseHeader).recall_handle or ""
    assert (await client.ask(recall("T", handle))).code == 11
    assert (await client.ask(recall("T", handle))).code == 604


async def test_recall_of_an_absent_message_succeeds_if_configured(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(recall_absent_succeeds=True))
    handle = await schedule(client, "T", "UNIQ_KEY\x01A1\x02DELAY\x0118\x02")
    for _ in range(2):
        answer = await client.ok(recall("T", handle))
        assert answer.header(RecallMessageResponseHeader).msg_id == "A1"
    due_ms = int(time.time() * 1000) + HOUR_MS
    await client.ok(recall("T", handle_of("T", "broker-a", due_ms, "never-sent")))
    assert (await client.ask(recall("T", handle_of("T", "broker-a", 5, "never-sent")))).code == 604


async def test_delayed_message_resent_after_lost_response_is_delivered_once(client: BrokerClient) -> None:
    later = "UNIQ_KEY\x01A1\x02TIMER_DELAY_MS\x01300\x02"
    for body in (b"same", b"same", b"other", b"same"):  # another body is another message, whatever its key
        await client.ok(send_request("T", body, properties=later))

    async def arrived() -> list[str]:
        bodies = await client.pull_all("T")
        return bodies if len(bodies) >= 2 else []

    assert sorted(await eventually(arrived)) == ["other", "same"]
    await client.ok(send_request("T", b"same", properties=later))  # the first was delivered: this is a new one

    async def arrived_again() -> bool:
        return sorted(await client.pull_all("T")) == ["other", "same", "same"]

    await eventually(arrived_again)


async def test_comparisons_with_delayed_messages_of_one_key_are_limited(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    """Each of them was compared with all that wait: 1,500 of 20 KB made one send cost 37 ms of Redis."""
    later = "UNIQ_KEY\x01A1\x02TIMER_DELAY_MS\x013600000\x02"
    bodies = [b"%d" % number for number in range(6)]
    for body in (*bodies, bodies[-1], bodies[2], bodies[1]):  # the last four of the key are compared
        await client.ok(send_request("T", body, properties=later))
    with redis.Redis.from_url(embedded_server.url) as store:
        assert store.zcard(f"{key_prefix}:{{broker-a}}:scheduled") == 7
