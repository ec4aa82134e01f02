"""Consumer offsets and the bounds of queues: codes 14, 15, 29, 30, 31, 32, 33 (commands.md sections 5 and 6)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py
from helpers import BrokerClient, Connect, StartBroker, eventually

from rmq_redis.codes import RequestCode
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader
from rmq_redis.protocol.headers.offsets import (
    EarliestMsgStoretimeResponseHeader,
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    QueueOffsetRequestHeader,
    SearchOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from rmq_redis.protocol.headers.query import ViewMessageRequestHeader
from rmq_redis.protocol.record import decode_records
from rmq_redis.store.embedded import EmbeddedServer


async def query(client: BrokerClient, group: str = "G", topic: str = "T", queue_id: int = 0, **more: Any) -> int | str:
    """The committed offset, or ``code <n>``."""
    header = QueryConsumerOffsetRequestHeader(group, topic, queue_id, **more)
    answer = await client.ask(request(RequestCode.QUERY_CONSUMER_OFFSET, header))
    return answer.header(OffsetResponseHeader).offset if answer.code == 0 else f"code {answer.code}"


def update(offset: int, group: str = "G", topic: str = "T", queue_id: int = 0) -> RemotingCommand:
    header = UpdateConsumerOffsetRequestHeader(group, topic, queue_id, offset)
    return request(RequestCode.UPDATE_CONSUMER_OFFSET, header)


async def bound(client: BrokerClient, code: int, topic: str = "T", queue_id: int = 0) -> int:
    return (
        (await client.ok(request(code, QueueOffsetRequestHeader(topic, queue_id)))).header(OffsetResponseHeader).offset
    )


async def search(client: BrokerClient, timestamp: int, boundary: str | None = None, topic: str = "T") -> int:
    header = SearchOffsetRequestHeader(topic, 0, timestamp, boundary)
    answer = await client.ok(request(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, header))
    return answer.header(OffsetResponseHeader).offset


# --- 14 and 15 -------------------------------------------------------------------------------------------------------


async def test_commit_is_confirmed_and_visible_at_once(client: BrokerClient) -> None:
    await client.send("T", "a")
    await client.ok(update(7))
    assert await query(client) == 7
    await client.ok(update(3))  # may move backwards
    assert await query(client) == 3
    assert await query(client, queue_id=1) == 0
    assert await query(client, group="H") == 0


async def test_oneway_commit_is_stored(client: BrokerClient) -> None:
    await client.send("T", "a")
    await client.oneway(update(5))
    await eventually(lambda: _is(query(client), 5))


async def _is(value: Any, expected: object) -> bool:
    return bool((await value) == expected)


@pytest.mark.parametrize("oneway", [False, True])
async def test_commit_of_minus_one_is_ignored(client: BrokerClient, oneway: bool) -> None:
    """ali-ons commits -1 when it has no offset yet."""
    await client.send("T", "a")
    for offset in (-1, -(2**63)):
        if oneway:
            await client.oneway(update(offset))
        else:
            await client.ok(update(offset))
        assert await query(client, set_zero_if_not_found=False) == "code 22"
    await client.ok(update(4))
    await client.ok(update(-1))
    assert await query(client) == 4


async def test_commit_is_in_redis_before_its_response(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    await client.send("T", "a")
    await client.ok(update(1))
    with redis_py.Redis.from_url(embedded_server.url, decode_responses=True) as redis:
        assert redis.hgetall(f"{key_prefix}:{{broker-a}}:offsets:G:T") == {"0": "1"}


async def test_commits_survive_a_restart(start_broker: StartBroker, connect: Connect) -> None:
    first = await start_broker(offset_flush_period_s=3600.0)
    client = connect(first)
    await client.send("T", "a")
    await client.oneway(update(9))
    await eventually(lambda: _is(query(client), 9))
    await first.close()
    assert await query(connect(await start_broker())) == 9


async def test_new_group_starts_at_0_only_in_a_complete_queue(client: BrokerClient) -> None:
    await client.send("T", "a")
    assert await query(client) == 0
    assert await query(client, set_zero_if_not_found=True) == 0
    assert await query(client, set_zero_if_not_found=False) == "code 22"
    assert await query(client, topic="Nonesuch") == "code 22"
    assert await query(client, queue_id=99) == "code 22"


async def test_new_group_of_a_trimmed_queue_gets_22(
    start_broker: StartBroker, connect: Connect, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    first = await start_broker()
    await connect(first).send("T", "a", "b")
    await first.close()
    with redis_py.Redis.from_url(embedded_server.url) as redis:
        redis.xtrim(f"{key_prefix}:{{broker-a}}:queue:T:0", maxlen=1, approximate=False)
    client = connect(await start_broker())
    assert await query(client) == "code 22"
    assert await bound(client, RequestCode.GET_MIN_OFFSET) == 1
    assert await bound(client, RequestCode.GET_MAX_OFFSET) == 2


async def test_commits_to_an_unknown_topic_are_ignored(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    await client.ok(update(5, topic="Nonesuch"))
    assert await query(client, topic="Nonesuch") == "code 22"
    with redis_py.Redis.from_url(embedded_server.url) as redis:
        assert not redis.keys(f"{key_prefix}:*offsets*")


@pytest.mark.parametrize("queue_id", [-1, 4, 2**31 - 1])
async def test_commit_to_a_queue_outside_the_topic_is_refused_with_29(client: BrokerClient, queue_id: int) -> None:
    await client.send("T", "a")
    assert (await client.ask(update(1, queue_id=queue_id))).code == 29


@pytest.mark.parametrize("group", ["", "a b", "a:b", "标签", "x" * 300])
async def test_illegal_group_name_is_refused_with_29_and_not_stored(client: BrokerClient, group: str) -> None:
    """``a:b`` would be kept as the offsets of another group."""
    await client.send("T", "a")
    assert (await client.ask(update(1, group=group))).code == 29
    assert (await client.get(RequestCode.GET_ALL_CONSUMER_OFFSET))["offsetTable"] == {}


# --- 30, 31, 32 ------------------------------------------------------------------------------------------------------


async def test_min_and_max_offset_of_a_queue_are_returned(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    assert await bound(client, RequestCode.GET_MAX_OFFSET) == 2
    assert await bound(client, RequestCode.GET_MIN_OFFSET) == 0
    assert await bound(client, RequestCode.GET_MAX_OFFSET, queue_id=1) == 0


@pytest.mark.parametrize("code", [RequestCode.GET_MAX_OFFSET, RequestCode.GET_MIN_OFFSET])
@pytest.mark.parametrize(("topic", "queue_id"), [("Nonesuch", 0), ("T", 99), ("T", -1)])
async def test_min_and_max_offset_of_an_unknown_queue_are_0(
    client: BrokerClient, code: int, topic: str, queue_id: int
) -> None:
    await client.send("T", "a")
    assert await bound(client, code, topic, queue_id) == 0


async def test_earliest_store_time_is_the_first_messages_or_minus_1(client: BrokerClient) -> None:
    await client.send("T", "a", "b")

    async def earliest(topic: str, queue_id: int) -> int:
        header = QueueOffsetRequestHeader(topic, queue_id)
        answer = await client.ok(request(RequestCode.GET_EARLIEST_MSG_STORETIME, header))
        return answer.header(EarliestMsgStoretimeResponseHeader).timestamp

    assert await earliest("T", 0) == (await client.pull("T", 0)).messages[0].store_timestamp_ms
    assert await earliest("T", 1) == -1
    assert await earliest("Nonesuch", 0) == -1


# --- 29 --------------------------------------------------------------------------------------------------------------


async def test_search_by_time_returns_the_first_offset_at_that_time(
    client: BrokerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([2_000_000_000.001, 2_000_000_000.001, 2_000_000_000.003])
    monkeypatch.setattr("rmq_redis.broker.produce.send.time", SimpleNamespace(time=lambda: next(clock)))
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 1, 1, 6)))
    await client.send("T", "a", "b", "c")
    base = 2_000_000_000_000
    for boundary in (None, "lower", "LOWER", "anything"):
        assert [await search(client, base + ms, boundary) for ms in range(5)] == [0, 0, 2, 2, 3]
    for boundary in ("upper", "UPPER"):
        assert [await search(client, base + ms, boundary) for ms in range(5)] == [0, 1, 1, 2, 2]
    assert await search(client, 0) == 0
    assert await search(client, -(2**63)) == 0
    assert await search(client, 2**63 - 1) == 3


async def test_search_in_an_unknown_or_empty_queue_returns_0(client: BrokerClient) -> None:
    assert await search(client, 1, topic="Nonesuch") == 0
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 1, 1, 6)))
    assert await search(client, 1) == 0
    assert await search(client, 1, "upper") == 0


# --- 33 --------------------------------------------------------------------------------------------------------------


def view(offset: int) -> RemotingCommand:
    return request(RequestCode.VIEW_MESSAGE_BY_ID, ViewMessageRequestHeader(offset))


async def test_message_is_found_by_its_id(client: BrokerClient) -> None:
    sent = await client.send("T", "a", "b", queue_id=3)
    offset = int(sent[1].msg_id[-16:], 16)
    (message,) = decode_records((await client.ok(view(offset))).body)
    assert message == (await client.pull("T", 1, queue_id=3)).messages[0]
    assert message.text() == "b"


async def test_physical_offset_without_a_message_is_an_error(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    sent = await client.send("T", "a", "b")
    first = int(sent[0].msg_id[-16:], 16)
    with redis_py.Redis.from_url(embedded_server.url) as redis:
        redis.xdel(f"{key_prefix}:{{broker-a}}:queue:T:0", "0-1")
    for offset in (first, first + 2, -1, -(2**63), 2**63 - 1, 5_000_000 << 40):
        answer = await client.ask(view(offset))
        assert answer.code == 1
        assert str(offset) in (answer.remark or "")
    assert (await client.ask(view(first + 1))).code == 0


async def test_concurrent_commits_are_all_stored(client: BrokerClient) -> None:
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 8, 8, 6)))
    await asyncio.gather(
        *(client.ok(update(offset, f"G{g}", queue_id=q)) for offset in (1, 2, 3) for g in range(5) for q in range(8))
    )
    table = (await client.get(RequestCode.GET_ALL_CONSUMER_OFFSET))["offsetTable"]
    assert table == {f"T@G{g}": dict.fromkeys(range(8), 3) for g in range(5)}
