"""Pulling: codes and next offsets, limits, filters, long polling, commits (commands.md 4, messages.md 10 and 12)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis as redis_py
from helpers import (
    BrokerClient,
    Connect,
    Pulled,
    StartBroker,
    eventually,
    heartbeat_request,
    pull_request,
    send_request,
)

from rmq_redis.broker.broker import Broker
from rmq_redis.broker.consume.hold import HeldPull
from rmq_redis.codes import RequestCode
from rmq_redis.errors import ConfigError, RequestTimeoutError
from rmq_redis.protocol.batch import encode_batch_item
from rmq_redis.protocol.bodies.base import dumps
from rmq_redis.protocol.command import SerializeType, request
from rmq_redis.protocol.group_config import SubscriptionGroupConfig
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader, TopicRequestHeader
from rmq_redis.protocol.headers.offsets import OffsetResponseHeader, QueryConsumerOffsetRequestHeader
from rmq_redis.protocol.headers.pull import PullMessageResponseHeader
from rmq_redis.protocol.properties import encode_properties
from rmq_redis.protocol.record import decode_records
from rmq_redis.store.embedded import EmbeddedServer

FOUND, NO_NEW, NO_MATCH, MOVED = 0, 19, 20, 21


async def put_topic(client: BrokerClient, topic: str, read: int = 1, write: int = 1, perm: int = 6) -> None:
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader(topic, read, write, perm)))


async def put_group(client: BrokerClient, group: str, **settings: Any) -> None:
    config = SubscriptionGroupConfig(group_name=group, **settings)
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=dumps(config)))


async def committed(client: BrokerClient, group: str, topic: str, queue_id: int = 0) -> int | None:
    """The committed offset; None when there is none."""
    header = QueryConsumerOffsetRequestHeader(group, topic, queue_id, False)
    answer = await client.ask(request(RequestCode.QUERY_CONSUMER_OFFSET, header))
    return None if answer.code == 22 else answer.header(OffsetResponseHeader).offset


def waiting(broker: Broker) -> int:
    """How many pulls wait at the broker."""
    return broker.parts.pulls.hold.count


async def held(broker: Broker, *pulls: asyncio.Task[Pulled]) -> None:
    """Waits until the broker holds these pulls."""
    await eventually(lambda: waiting(broker) == len(pulls))
    assert not any(pull.done() for pull in pulls)


# --- codes and next offsets ------------------------------------------------------------------------------------------


async def test_pull_delivers_messages_from_its_offset_on(client: BrokerClient) -> None:
    await client.send("T", *"abcde")
    pulled = await client.pull("T", 1)
    assert pulled.outcome == (FOUND, 5)
    assert pulled.remark == "FOUND"
    assert pulled.bodies == list("bcde")
    assert [m.queue_offset for m in pulled.messages] == [1, 2, 3, 4]
    assert pulled.header == PullMessageResponseHeader(0, 5, 0, 5)


@pytest.mark.parametrize(
    ("sent", "offset", "code", "next_offset"),
    [
        pytest.param(0, 0, NO_NEW, 0, id="empty"),
        pytest.param(0, 5, MOVED, 0, id="empty-beyond"),
        pytest.param(0, -1, MOVED, 0, id="empty-negative"),
        pytest.param(3, 3, NO_NEW, 3, id="at-max"),
        pytest.param(3, 4, MOVED, 0, id="beyond-max"),
        pytest.param(3, 2**62, MOVED, 0, id="far-beyond-max"),
        pytest.param(3, -1, MOVED, 0, id="negative"),
        pytest.param(3, 2, FOUND, 3, id="last"),
    ],
)
@pytest.mark.parametrize("serialize_type", list(SerializeType))
async def test_pull_returns_the_code_and_next_offset_of_its_position(
    client: BrokerClient, serialize_type: SerializeType, sent: int, offset: int, code: int, next_offset: int
) -> None:
    await put_topic(client, "T")
    await client.send("T", *"abc"[:sent])
    command = pull_request("T", offset)
    command.serialize_type = serialize_type
    pulled = Pulled(await client.ask(command))
    assert pulled.outcome == (code, next_offset)
    assert pulled.answer.serialize_type == serialize_type
    # The four numbers are in every answer.
    assert pulled.header == PullMessageResponseHeader(0, next_offset, 0, sent)
    assert bool(pulled.answer.body) == (code == FOUND)


async def trimmed(
    start_broker: StartBroker, connect: Connect, embedded_server: EmbeddedServer, key_prefix: str, keep: int
) -> BrokerClient:
    """A client of a broker whose queue had five messages of which the last ``keep`` are left."""
    broker = await start_broker()
    await connect(broker).send("T", *"abcde")
    await broker.close()
    with redis_py.Redis.from_url(embedded_server.url) as redis:
        redis.xtrim(f"{key_prefix}:{{broker-a}}:queue:T:0", maxlen=keep, approximate=False)
    return connect(await start_broker())


async def test_pull_below_a_trimmed_queue_returns_its_min_offset(
    start_broker: StartBroker, connect: Connect, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    client = await trimmed(start_broker, connect, embedded_server, key_prefix, 3)
    for offset in (0, 1, -7):
        pulled = await client.pull("T", offset)
        assert pulled.outcome == (MOVED, 2)
        assert pulled.header == PullMessageResponseHeader(0, 2, 2, 5)
    assert (await client.pull("T", 2)).messages[0].text() == "c"
    assert (await client.pull("T", 5)).outcome == (NO_NEW, 5)


async def test_pull_from_an_emptied_queue_continues_at_its_end(
    start_broker: StartBroker, connect: Connect, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    client = await trimmed(start_broker, connect, embedded_server, key_prefix, 0)
    assert (await client.pull("T", 0)).outcome == (MOVED, 5)
    assert (await client.pull("T", 5)).outcome == (NO_NEW, 5)
    assert (await client.pull("T", 6)).outcome == (MOVED, 5)
    assert (await client.send("T", "f"))[0].queue_offset == 5


async def test_messages_removed_by_hand_are_skipped(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    await client.send("T", *"abcdef")
    with redis_py.Redis.from_url(embedded_server.url) as redis:
        redis.xdel(f"{key_prefix}:{{broker-a}}:queue:T:0", "0-1", "0-3", "0-6")
    pulled = await client.pull("T", 0)
    assert (pulled.bodies, pulled.outcome) == (["b", "d", "e"], (FOUND, 5))
    assert [m.queue_offset for m in pulled.messages] == [1, 3, 4]
    assert (await client.pull("T", 5)).outcome == (NO_MATCH, 6)
    assert (await client.pull("T", 6)).outcome == (NO_NEW, 6)


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "delivered"), [(1, 1), (3, 3), (100, 10), (0, 1), (-5, 1)])
async def test_pull_returns_at_most_max_msg_nums_and_at_least_one(
    client: BrokerClient, asked: int, delivered: int
) -> None:
    await client.send("T", *"abcdefghij")
    pulled = await client.pull("T", 0, max_msg_nums=asked)
    assert len(pulled.messages) == delivered
    assert pulled.header.next_begin_offset == delivered


async def test_broker_limits_the_size_of_a_pull(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(max_pull_msg_nums=3, max_pull_bytes=2000))
    await client.send("T", *"abcdefghij")
    assert (await client.pull("T", 0)).bodies == ["a", "b", "c"]
    for i in range(4):
        await client.send("Big", str(i) * 900)
    assert len((await client.pull("Big", 0)).messages) == 1
    assert (await client.pull_all("Big")) == [str(i) * 900 for i in range(4)]


@pytest.mark.parametrize("subscription", ["*", "TagA"])
async def test_pull_bytes_are_limited_but_one_message_is_always_sent(client: BrokerClient, subscription: str) -> None:
    sizes = [10, 5000, 20, 300_000, 30, 40, 2000]
    for size in sizes:
        await client.send("T", "x" * size, tags="TagA")
    for limit in (1, 100, 3000, 6000, 2**31 - 1, 0, -1):
        seen: list[int] = []
        while len(seen) < len(sizes):
            pulled = await client.pull("T", len(seen), max_msg_bytes=limit, subscription=subscription)
            assert pulled.code == FOUND
            assert pulled.header.next_begin_offset == len(seen) + len(pulled.messages)
            if len(pulled.messages) > 1:
                assert len(pulled.answer.body) <= (limit if limit > 0 else 256 * 1024)
            seen += [len(message.body) for message in pulled.messages]
        assert seen == sizes


async def test_one_pull_returns_all_messages_below_the_limits(client: BrokerClient) -> None:
    await client.ok(send_request("T", encode_batch_item(b"x" * 100, b"") * 500, batch=True))
    assert len((await client.pull("T", 0, max_msg_nums=500)).messages) == 500


# --- filters ---------------------------------------------------------------------------------------------------------

TAGGED = {"a": "TagA", "b": "TagB", "c": "TagA", "d": "", "e": "标签", "f": "TagC"}


@pytest.mark.parametrize(
    ("expression", "expected", "next_offset"),
    [
        ("*", "abcdef", 6),
        ("", "abcdef", 6),
        (None, "abcdef", 6),
        ("TagA", "ac", 6),
        ("TagA || TagB", "abc", 6),
        ("  TagB||TagC  ", "bf", 6),
        ("标签", "e", 6),
        ("TagA || *", "abcdef", 6),
        ("TagA||", "ac", 6),
        ("nothing", "", 6),
    ],
)
@pytest.mark.parametrize("from_heartbeat", [False, True])
async def test_next_offset_is_behind_the_messages_filtered_by_tags(
    client: BrokerClient, expression: str | None, expected: str, next_offset: int, from_heartbeat: bool
) -> None:
    for body, tags in TAGGED.items():
        await client.send("T", body, tags=tags)
    if from_heartbeat:
        await client.ok(heartbeat_request("id", "G", {"T": expression or ""}))
        pulled = await client.pull("T", 0, subscription=None)
    else:
        pulled = await client.pull("T", 0, subscription=expression, sys_flag=4)
    assert "".join(pulled.bodies) == expected
    assert pulled.outcome == (FOUND if expected else NO_MATCH, next_offset)


async def test_tags_with_equal_hashes_pass_the_broker(client: BrokerClient) -> None:
    await client.send("T", "x", tags="Aa")
    await client.send("T", "y", tags="BB")
    assert (await client.pull("T", 0, subscription="Aa")).bodies == ["x", "y"]


async def test_filter_without_a_match_advances_in_steps(client: BrokerClient) -> None:
    items = encode_batch_item(b"x", b"TAGS\x01TagA\x02") * 999 + encode_batch_item(b"y", b"TAGS\x01TagB\x02")
    await client.ok(send_request("T", items, batch=True))
    offset, steps = 0, []
    while not (pulled := await client.pull("T", offset, subscription="TagB")).bodies:
        assert pulled.code == NO_MATCH
        steps.append(pulled.header.next_begin_offset - offset)
        offset = pulled.header.next_begin_offset
    assert pulled.bodies == ["y"]
    assert steps[:-1] == sorted(steps[:-1])  # the fewer pass, the more are looked at
    assert max(steps) <= 800


async def test_filtered_pull_continues_after_the_last_delivered_message(client: BrokerClient) -> None:
    for body in "aXbXcXd":
        await client.send("T", body, tags="TagA" if body != "X" else "TagB")
    pulled = await client.pull("T", 0, subscription="TagA", max_msg_nums=2)
    assert pulled.bodies == ["a", "b"]
    assert pulled.header.next_begin_offset in (3, 4)  # nothing that matches lies between
    rest = await client.pull("T", pulled.header.next_begin_offset, subscription="TagA")
    assert rest.bodies == ["c", "d"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("TRUE", "abcd"),
        ("price > 9.0", "bc"),
        ("price > 9", "b"),  # a whole number is compared with whole numbers only
        ("price > 9 AND region = '杭州'", "b"),
        ("price IS NULL OR price < 5.5", "ad"),
        ("TAGS IN ('TagA', 'TagB') AND price BETWEEN 1 AND 10", "ab"),
        ("nothing = 1", ""),
    ],
)
@pytest.mark.parametrize("from_heartbeat", [False, True])
async def test_sql92_condition_filters_by_properties(
    client: BrokerClient, expression: str, expected: str, from_heartbeat: bool
) -> None:
    for body, properties in {
        "a": {"TAGS": "TagA", "price": "1"},
        "b": {"TAGS": "TagB", "price": "10", "region": "杭州"},
        "c": {"TAGS": "TagC", "price": "99.5"},
        "d": {"TAGS": "TagD"},
    }.items():
        await client.send("T", body, properties=encode_properties(properties))
    if from_heartbeat:
        await client.ok(heartbeat_request("id", "G", {"T": expression}, expression_type="SQL92"))
        pulled = await client.pull("T", 0, subscription=None)
    else:
        pulled = await client.pull("T", 0, subscription=expression, expression_type="SQL92")
    assert "".join(pulled.bodies) == expected
    assert pulled.outcome == (FOUND if expected else NO_MATCH, 4)


async def test_held_pull_with_a_condition_wakes_for_a_match(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")
    pull = client.pull_later("T", 0, subscription="price > 9", expression_type="SQL92")
    await held(broker, pull)
    await client.send("T", "cheap", properties=encode_properties({"price": "1"}))
    await client.send("T", "none")
    assert waiting(broker) == 1
    await client.send("T", "dear", properties=encode_properties({"price": "10"}))
    assert (await pull).bodies == ["dear"]


async def test_retry_topics_are_not_filtered(client: BrokerClient) -> None:
    await client.send("%RETRY%G", "a", tags="TagB")
    assert (await client.pull("%RETRY%G", 0, subscription="TagA")).bodies == ["a"]


async def test_pull_without_any_subscription_fails_with_24(client: BrokerClient) -> None:
    await client.send("T", "a")
    assert (await client.pull("T", 0, subscription=None)).code == 24
    await client.ok(heartbeat_request("id", "G", {"Other": "*"}))
    assert (await client.pull("T", 0, subscription=None)).code == 24


async def test_pull_newer_than_heartbeat_is_delivered_unfiltered(client: BrokerClient) -> None:
    await client.send("T", "a", tags="TagA")
    await client.ok(heartbeat_request("id", "G", {"T": "TagZ"}, sub_version=5))
    assert (await client.pull("T", 0, subscription=None, sub_version=5)).code == NO_MATCH
    assert (await client.pull("T", 0, subscription=None, sub_version=6)).bodies == ["a"]
    await client.ok(heartbeat_request("id", "G", {"T": "TagZ"}, sub_version=6))
    assert (await client.pull("T", 0, subscription=None, sub_version=6)).code == NO_MATCH


async def test_changed_expression_ends_held_pulls_at_their_offset(
    broker: Broker, client: BrokerClient, connect: Connect
) -> None:
    await client.send("T", "a0", tags="TagA")
    await client.ok(heartbeat_request("id", "G", {"T": "TagA"}, sub_version=5))
    await client.ok(heartbeat_request("other", "H", {"T": "TagA"}, sub_version=5))
    old = asyncio.create_task(client.pull("T", 1, subscription=None, sub_version=5, suspend_ms=60_000))
    own = asyncio.create_task(connect(broker).pull("T", 1, subscription="TagA", suspend_ms=60_000))
    foreign = asyncio.create_task(
        connect(broker).pull("T", 1, group="H", subscription=None, sub_version=5, suspend_ms=60_000)
    )
    await held(broker, old, own, foreign)
    member = connect(broker)
    await member.ok(heartbeat_request("id", "G", {"T": "TagA"}, sub_version=6))  # a new version of the same expression
    await held(broker, old, own, foreign)
    await member.ok(heartbeat_request("id", "G", {"T": "TagC"}, sub_version=7))
    assert (await old).outcome == (NO_MATCH, 1)
    await held(broker, own, foreign)
    await member.send("T", "c", tags="TagC")
    await member.send("T", "a1", tags="TagA")
    assert (await member.pull("T", 1, subscription=None, sub_version=7)).bodies == ["c"]
    assert (await own).bodies == (await foreign).bodies == ["a1"]


async def test_resubscribed_topic_ends_pulls_held_with_the_old_expression(
    broker: Broker, client: BrokerClient, connect: Connect
) -> None:
    await client.send("T", "a0", tags="TagA")
    await client.send("Other", "o")
    await client.ok(heartbeat_request("id", "G", {"T": "TagA", "Other": "*"}, sub_version=5))
    old = asyncio.create_task(client.pull("T", 1, subscription=None, sub_version=5, suspend_ms=60_000))
    await held(broker, old)
    member = connect(broker)
    await member.ok(heartbeat_request("id", "G", {"Other": "*"}, sub_version=6))  # unsubscribed
    await held(broker, old)
    await member.ok(heartbeat_request("id", "G", {"T": "TagC", "Other": "*"}, sub_version=7))
    assert (await old).outcome == (NO_MATCH, 1)


async def test_sql_pull_newer_than_heartbeat_fails_with_25(client: BrokerClient) -> None:
    """Clients do not check SQL92 conditions again, so only the heartbeat's condition will do."""
    await client.send("T", "a", tags="TagA")
    await client.ok(heartbeat_request("id", "G", {"T": "TagA"}, sub_version=5))
    pulled = await client.pull("T", 0, subscription=None, sub_version=6, expression_type="SQL92")
    assert pulled.code == 25


async def test_older_heartbeat_does_not_replace_a_newer_subscription(client: BrokerClient) -> None:
    await client.send("T", "a", tags="TagA")
    await client.ok(heartbeat_request("id", "G", {"T": "TagA"}, sub_version=5))
    await client.ok(heartbeat_request("id", "G", {"T": "TagB"}, sub_version=4))
    assert (await client.pull("T", 0, subscription=None)).code == FOUND


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ["||", " || "])
async def test_expression_without_a_tag_fails_with_23(client: BrokerClient, expression: str) -> None:
    await put_topic(client, "T")
    assert (await client.pull("T", 0, subscription=expression)).code == 23


async def test_malformed_condition_fails_with_23_and_its_position(client: BrokerClient) -> None:
    await put_topic(client, "T")
    pulled = await client.pull("T", 0, subscription="a >", expression_type="SQL92")
    assert pulled.code == 23
    assert "the expression ends too early at character 4" in (pulled.remark or "")
    await client.ok(heartbeat_request("id", "G", {"T": "a >"}, expression_type="SQL92"))  # as Apache's brokers do
    assert (await client.pull("T", 0, subscription=None)).code == 23


async def test_unknown_expression_type_fails_with_1_and_is_named(client: BrokerClient) -> None:
    await put_topic(client, "T")
    pulled = await client.pull("T", 0, subscription="a > 1", expression_type="CLASS")
    assert pulled.code == 1
    assert "'CLASS'" in (pulled.remark or "")


async def test_pull_of_an_unknown_topic_fails_with_17(client: BrokerClient) -> None:
    assert (await client.pull("Nonesuch", 0)).code == 17


@pytest.mark.parametrize(("queue_id", "code"), [(0, NO_NEW), (1, NO_NEW), (2, 29), (3, 29), (4, 29), (-1, 29)])
async def test_unreadable_queue_id_fails_with_29(client: BrokerClient, queue_id: int, code: int) -> None:
    await put_topic(client, "T", read=2, write=4)
    assert (await client.pull("T", 0, queue_id=queue_id)).code == code


@pytest.mark.parametrize(("perm", "code"), [(6, NO_NEW), (4, NO_NEW), (2, 16), (0, 16)])
async def test_unreadable_topic_fails_with_16(client: BrokerClient, perm: int, code: int) -> None:
    await put_topic(client, "T", perm=perm)
    assert (await client.pull("T", 0)).code == code


async def test_group_with_consuming_disabled_fails_with_16(client: BrokerClient) -> None:
    await put_topic(client, "T")
    await put_group(client, "G", consume_enable=False)
    assert (await client.pull("T", 0)).code == 16
    await put_group(client, "G", consume_enable=True)
    assert (await client.pull("T", 0)).code == NO_NEW


async def test_broadcasting_disabled_for_the_group_fails_with_16(client: BrokerClient) -> None:
    await put_topic(client, "T")
    await put_group(client, "G", consume_broadcast_enable=False)
    await client.ok(heartbeat_request("id", "G", {"T": "*"}, messageModel="BROADCASTING"))
    assert (await client.pull("T", 0, subscription=None)).code == 16
    await client.ok(heartbeat_request("id", "G", {"T": "*"}, messageModel="CLUSTERING"))
    assert (await client.pull("T", 0, subscription=None)).code == NO_NEW


async def test_unknown_group_fails_with_26_without_automatic_creation(
    start_broker: StartBroker, connect: Connect
) -> None:
    client = connect(await start_broker(auto_create_subscription_group=False))
    await put_topic(client, "T")
    assert (await client.pull("T", 0)).code == 26
    await put_group(client, "G")
    assert (await client.pull("T", 0)).code == NO_NEW


@pytest.mark.parametrize("group", ["", "a b", "a:b", "x" * 121])
async def test_illegal_group_name_fails_with_29(client: BrokerClient, group: str) -> None:
    await put_topic(client, "T")
    assert (await client.pull("T", 0, group=group)).code == 29


# --- long polling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serialize_type", list(SerializeType))
async def test_held_pull_gets_the_next_message(
    broker: Broker, client: BrokerClient, connect: Connect, serialize_type: SerializeType
) -> None:
    await client.send("T", "old")
    command = pull_request("T", 1, suspend_ms=30_000)
    command.serialize_type = serialize_type
    answer = asyncio.ensure_future(client.ask(command))
    await eventually(lambda: waiting(broker) == 1)
    # The same connection is not held up.
    assert (await client.pull("T", 0)).bodies == ["old"]
    await connect(broker).send("T", "new")
    pulled = Pulled(await answer)
    assert (pulled.bodies, pulled.outcome) == (["new"], (FOUND, 2))
    assert pulled.messages[0].queue_offset == 1
    assert pulled.messages[0].offset_msg_id.endswith(f"{1:010X}")
    assert waiting(broker) == 0


async def test_message_wakes_every_held_pull_of_its_queue_only(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T", 2, 2)
    here = [client.pull_later("T", 0, group=f"G{i}") for i in range(3)]
    other = client.pull_later("T", 0, queue_id=1)
    await held(broker, *here, other)
    await client.send("T", "x")
    assert [pulled.bodies for pulled in await asyncio.gather(*here)] == [["x"]] * 3
    assert not other.done()
    assert waiting(broker) == 1
    await client.send("T", "y", queue_id=1)
    assert (await other).bodies == ["y"]


async def test_held_pull_woken_by_a_batch_keeps_its_limits(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")
    two = client.pull_later("T", 0, max_msg_nums=2)
    few_bytes = client.pull_later("T", 0, group="H", max_msg_bytes=1)
    await held(broker, two, few_bytes)
    await client.ok(send_request("T", encode_batch_item(b"x", b"UNIQ_KEY\x01a\x02") * 5, batch=True))
    assert (await two).outcome == (FOUND, 2)
    assert (await few_bytes).outcome == (FOUND, 1)


async def test_filtered_message_does_not_wake_a_held_pull(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")
    pull = client.pull_later("T", 0, subscription="TagA")
    await held(broker, pull)
    await client.send("T", "no", "no", tags="TagB")
    await client.send("T", "no")
    await held(broker, pull)
    await client.send("T", "yes", tags="TagA")
    pulled = await pull
    assert (pulled.bodies, pulled.outcome) == (["yes"], (FOUND, 4))


async def test_held_pull_ends_without_a_message_when_it_times_out(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")
    pulled = await client.pull("T", 0, suspend_ms=50)
    assert pulled.outcome == (NO_NEW, 0)
    assert waiting(broker) == 0
    # What came but did not match is skipped at the end.
    pull = asyncio.ensure_future(client.pull("T", 0, suspend_ms=600, subscription="TagA"))
    await eventually(lambda: waiting(broker) == 1)
    await client.send("T", "no", tags="TagB")
    assert (await pull).outcome == (NO_MATCH, 1)


async def test_pull_is_held_only_with_suspend_flag_and_timeout(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")
    assert (await client.pull("T", 0)).code == NO_NEW
    assert (await client.pull("T", 0, sys_flag=4 | 2, suspend_timeout_millis=0)).code == NO_NEW
    assert (await client.pull("T", 0, sys_flag=4, suspend_timeout_millis=30_000)).code == NO_NEW
    assert waiting(broker) == 0


async def test_pull_is_held_only_if_there_is_no_new_message(broker: Broker, client: BrokerClient) -> None:
    await client.send("T", "a", tags="TagB")
    assert (await client.pull("T", 5, suspend_ms=30_000)).outcome == (MOVED, 0)
    assert (await client.pull("T", 0, suspend_ms=30_000, subscription="TagA")).outcome == (NO_MATCH, 1)
    assert waiting(broker) == 0


async def test_pulls_of_a_closed_connection_are_dropped(broker: Broker, client: BrokerClient, connect: Connect) -> None:
    await put_topic(client, "T")
    other = connect(broker)
    pull = other.pull_later("T", 0)
    await held(broker, pull)
    await other.close()
    await asyncio.gather(pull, return_exceptions=True)
    await eventually(lambda: waiting(broker) == 0)
    await client.send("T", "a")
    assert (await client.pull("T", 0)).bodies == ["a"]


async def test_number_of_held_pulls_is_limited(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(max_held_pulls=2)
    client = connect(broker)
    await put_topic(client, "T")
    pulls = [client.pull_later("T", 0) for _ in range(2)]
    await held(broker, *pulls)
    assert (await client.pull("T", 0, suspend_ms=30_000)).code == NO_NEW
    await client.send("T", "a")
    await asyncio.gather(*pulls)
    pull = client.pull_later("T", 1)
    await held(broker, pull)
    pull.cancel()


async def test_deleting_a_topic_ends_its_held_pulls(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")
    pull = client.pull_later("T", 0)
    await held(broker, pull)
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    assert (await pull).code in (NO_NEW, 17)
    assert waiting(broker) == 0
    assert (await client.pull("T", 0)).code == 17


async def test_stopping_broker_answers_held_pulls(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker()
    client = connect(broker)
    await put_topic(client, "T")
    pull = client.pull_later("T", 0)
    await held(broker, pull)
    await broker.close()
    assert (await pull).code == NO_NEW


async def test_many_waiting_consumers_each_get_every_message(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")

    async def consume(group: str) -> list[str]:
        seen: list[str] = []
        while len(seen) < 100:
            pulled = await client.pull("T", len(seen), group=group, suspend_ms=30_000)
            assert pulled.code in (FOUND, NO_NEW)
            seen += pulled.bodies
        return seen

    consumers = [asyncio.ensure_future(consume(f"G{i}")) for i in range(5)]
    await eventually(lambda: waiting(broker) == 5)
    sent = [str(i) for i in range(100)]
    await asyncio.gather(*(client.send("T", body) for body in sent))
    for seen in await asyncio.gather(*consumers):
        assert sorted(seen, key=int) == sent


# --- commits ---------------------------------------------------------------------------------------------------------


async def test_pull_with_commit_flag_commits_on_arrival(broker: Broker, client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    await client.pull("T", 0, commit=1)
    assert await committed(client, "G", "T") == 1
    await client.pull("T", 0, commit_offset=2)  # without the flag the number means nothing
    assert await committed(client, "G", "T") == 1
    pull = client.pull_later("T", 2, commit=2)
    await held(broker, pull)
    assert await committed(client, "G", "T") == 2


async def test_held_pull_does_not_commit_again_when_woken(broker: Broker, client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    pull = client.pull_later("T", 2, commit=2)
    await held(broker, pull)
    await client.pull("T", 0, commit=1)  # moved back meanwhile
    await client.send("T", "c")
    await pull
    assert await committed(client, "G", "T") == 1


async def test_negative_commit_offset_is_ignored(client: BrokerClient) -> None:
    await client.send("T", "a")
    await client.pull("T", 0, commit=-1)
    assert await committed(client, "G", "T") is None


async def test_refused_pull_commits_nothing(client: BrokerClient) -> None:
    await client.send("T", "a")
    await client.pull("T", 0, commit=1, subscription="||")
    assert await committed(client, "G", "T") is None


async def test_lite_pull_works_like_a_pull(client: BrokerClient) -> None:
    await client.send("T", "a")
    command = pull_request("T", 0)
    command.code = RequestCode.LITE_PULL_MESSAGE
    assert [m.text() for m in decode_records((await client.ok(command)).body)] == ["a"]


async def test_abandoned_pull_does_not_affect_others(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")
    with pytest.raises(RequestTimeoutError):
        await client.ask(pull_request("T", 0, suspend_ms=30_000), timeout_s=0.05)
    await eventually(lambda: waiting(broker) == 1)
    await client.send("T", "a")
    assert (await client.pull("T", 0)).bodies == ["a"]


async def test_pull_with_an_unsendable_response_does_not_block_others(broker: Broker, client: BrokerClient) -> None:
    await client.send("T", "a")
    execute, failed = broker.parts.pulls.hold._execute, [0]

    def wrong(pull: HeldPull) -> None:
        failed[0] += 1
        if failed[0] == 1:
            raise ValueError("a mistake")
        execute(pull)

    broker.parts.pulls.hold._execute = wrong
    lost = asyncio.create_task(client.pull("T", 1, suspend_ms=1))
    await eventually(lambda: failed[0])
    assert (await client.pull("T", 1, suspend_ms=1)).outcome == (19, 1)
    lost.cancel()


async def test_pull_response_fits_into_a_frame(start_broker: StartBroker, connect: Connect) -> None:
    """Otherwise the client could not take it, and would come again for the same messages."""
    with pytest.raises(ConfigError, match="max_pull_bytes is 8388609; 1 to 8388608"):
        await start_broker(max_pull_bytes=8 * 1024 * 1024 + 1)
    client = connect(await start_broker(max_pull_bytes=8 * 1024 * 1024))
    for _ in range(5):
        await client.ok(send_request("T", b"x" * 4_000_000))
    offset = 0
    while offset < 5:
        pulled = await client.pull("T", offset)
        assert pulled.code == 0
        offset = pulled.header.next_begin_offset
