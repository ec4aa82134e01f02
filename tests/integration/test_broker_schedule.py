"""Messages that are delivered later, messages that consumers give back, and dead letters."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis
from helpers import BrokerClient, Connect, StartBroker, eventually, heartbeat_request, send_request
from msgspec import to_builtins

from rmq_redis.broker.group.schedule import delay_of_level, take_due_ms
from rmq_redis.codes import RequestCode
from rmq_redis.errors import MessageIllegalError, StoreError
from rmq_redis.model import DELAY_LEVELS_S, MAX_PROPERTIES_BYTES, Message
from rmq_redis.protocol.bodies.base import dumps
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.group_config import SubscriptionGroupConfig
from rmq_redis.protocol.headers.admin import GroupRequestHeader, TopicRequestHeader
from rmq_redis.protocol.headers.send import ConsumerSendMsgBackRequestHeader, SendMessageResponseHeader
from rmq_redis.protocol.properties import encode_properties
from rmq_redis.protocol.record import decode_records
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.store.group.give_backs import GiveBackStore

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "due_ms"),
    [
        ("", 0),
        ("DELAY\x010\x02", 0),
        ("DELAY\x011\x02", NOW_MS + 1000),
        ("DELAY\x0118\x02", NOW_MS + 7_200_000),
        ("DELAY\x0199\x02", NOW_MS + 7_200_000),
        ("TIMER_DELAY_SEC\x012\x02", NOW_MS + 2000),
        ("TIMER_DELAY_MS\x0115\x02", NOW_MS + 15),
        (f"TIMER_DELIVER_MS\x01{NOW_MS + 7}\x02", NOW_MS + 7),
        (f"TIMER_DELIVER_MS\x01{NOW_MS - 7}\x02", 0),
        ("TIMER_DELAY_MS\x0115\x02TIMER_DELAY_SEC\x012\x02", NOW_MS + 2000),
        ("TIMER_DELAY_SEC\x012\x02DELAY\x013\x02", NOW_MS + 10_000),
        ("MY_DELAY\x013\x02", 0),
    ],
)
def test_due_time_is_computed_from_the_properties(text: str, due_ms: int) -> None:
    rest, due = take_due_ms("KEYS\x01k\x02" + text, NOW_MS, "T")
    assert due == due_ms
    assert rest == "KEYS\x01k\x02" + text.replace("TIMER_DELAY_SEC\x012\x02DELAY", "DELAY")  # a level is alone


@pytest.mark.parametrize(
    ("topic", "text", "rest", "due_ms"),
    [
        ("T", "REAL_TOPIC\x01T\x02REAL_QID\x010\x02DELAY\x013\x02K\x01v\x02", "K\x01v\x02", 0),
        ("T", "REAL_TOPIC\x01T\x02REAL_QID\x010\x02TIMER_DELAY_MS\x019\x02K\x01v\x02", "K\x01v\x02", 0),
        ("%RETRY%G", "REAL_TOPIC\x01T\x02TIMER_DELAY_MS\x019\x02K\x01v\x02", "K\x01v\x02", 0),
        ("%RETRY%G", "REAL_TOPIC\x01T\x02TIMER_DELAY_MS\x019\x02DELAY\x013\x02", "DELAY\x013\x02", NOW_MS + 10_000),
    ],
)
def test_delivered_delayed_message_is_not_delayed_again(topic: str, text: str, rest: str, due_ms: int) -> None:
    assert take_due_ms(text, NOW_MS, topic) == (rest, due_ms)


@pytest.mark.parametrize(
    "text",
    [
        "DELAY\x01x\x02",
        "TIMER_DELAY_SEC\x011.5\x02",
        "TIMER_DELAY_SEC\x01259201\x02",
        f"TIMER_DELAY_MS\x01{10**30}\x02",
    ],
)
def test_invalid_delivery_time_is_refused(text: str) -> None:
    with pytest.raises(MessageIllegalError):
        take_due_ms(text, NOW_MS, "T")


def test_delay_levels_equal_those_of_rocketmq() -> None:
    assert len(DELAY_LEVELS_S) == 18
    assert [delay_of_level(level) for level in (1, 2, 3, 14, 18, 40)] == [
        1000,
        5000,
        10_000,
        600_000,
        7_200_000,
        7_200_000,
    ]


async def test_timer_message_is_delivered_when_due_and_not_before(client: BrokerClient) -> None:
    await client.send("T", "now")
    due_ms = int(time.time() * 1000) + 400
    properties = f"UNIQ_KEY\x01A1\x02TAGS\x01TagA\x02TIMER_DELIVER_MS\x01{due_ms}\x02"
    answer = await client.ok(send_request("T", b"later", properties=properties))
    assert answer.header(SendMessageResponseHeader).queue_id == 0
    waiting = client.pull_later("T", 1, subscription="TagA")
    message = (await waiting).messages[0]
    assert (message.text(), message.queue_offset, message.tags, message.msg_id) == ("later", 1, "TagA", "A1")
    assert message.store_timestamp_ms >= due_ms
    properties_of_the_delay = {
        name: message.properties.get(name) for name in ("TIMER_DELIVER_MS", "REAL_TOPIC", "REAL_QID")
    }
    assert properties_of_the_delay == {"TIMER_DELIVER_MS": str(due_ms), "REAL_TOPIC": "T", "REAL_QID": "0"}


async def test_forwarded_or_failed_delayed_message_is_not_delayed_twice(client: BrokerClient) -> None:
    await client.ok(send_request("T", b"later", properties="UNIQ_KEY\x01A1\x02DELAY\x011\x02"))
    message = (await client.pull_later("T", 0)).messages[0]
    assert (message.properties["DELAY"], message.properties["REAL_TOPIC"]) == ("1", "T")
    await client.ok(send_request("T", b"sent on", properties=encode_properties(message.properties)))
    await client.ok(send_request("T", b"behind"))
    assert await client.pull_all("T") == ["later", "sent on", "behind"]
    await client.ok(heartbeat_request("c", "G", {"T": "*"}))
    await client.ok(send_back(message, level=1))
    retried = (await client.pull_later("%RETRY%G", 0)).messages[0]
    assert (retried.text(), retried.reconsume_times) == ("later", 1)


async def test_message_without_room_in_its_properties_is_delayed(client: BrokerClient) -> None:
    text = "UNIQ_KEY\x01A1\x02TIMER_DELAY_MS\x0130\x02P\x01"
    text += "x" * (MAX_PROPERTIES_BYTES - 130 - len(text)) + "\x02"
    await client.ok(send_request("T", b"later", properties=text))
    message = (await client.pull_later("T", 0)).messages[0]
    assert message.properties["TIMER_DELAY_MS"] == "30"


async def test_sdk_delays_a_message_again_only_if_requested(client: BrokerClient) -> None:
    received = {"DELAY": "3", "REAL_TOPIC": "T", "REAL_QID": "0", "mine": "1"}
    assert Message("T", "x", properties=received).with_delay_s(1).properties == {"TIMER_DELAY_MS": "1000", "mine": "1"}


async def test_delayed_message_is_invisible_and_survives_a_restart(
    start_broker: StartBroker, connect: Connect, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    first = await start_broker()
    client = connect(first)
    await client.send("T", "now")
    for number in range(20):
        await client.ok(send_request("T", b"%d" % number, properties="TIMER_DELAY_MS\x01600\x02"))
    with redis.Redis.from_url(embedded_server.url) as store:
        records = store.hvals(f"{key_prefix}:{{broker-a}}:scheduled-records")
    assert sorted(int(decode_records(record)[0].body) for record in records) == list(range(20))
    assert await client.pull_all("T") == ["now"]
    await first.close()
    second = connect(await start_broker())
    bodies: list[str] = await eventually(lambda: all_of(second, 21), "everything that was due")
    assert sorted(bodies[1:], key=int) == [str(number) for number in range(20)]


async def test_delayed_message_of_a_deleted_topic_blocks_no_others(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    due_ms = int(time.time() * 1000) + 300
    properties = f"TIMER_DELIVER_MS\x01{due_ms}\x02"
    await client.ok(send_request("Gone", b"nowhere", properties=properties))
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("Gone")))
    await client.send("T", "now")
    await client.ok(send_request("T", b"later", properties=properties))
    key = f"{key_prefix}:{{broker-a}}:scheduled"
    with redis.Redis.from_url(embedded_server.url) as store:
        store.hset(f"{key}-records", mapping={b"empty": b"", b"short": b"12345678", b"long": b"x" * 200})
        store.zadd(key, {b"gone": 1.0, b"": 1.0, b"empty": 1.0, b"short": 1.0, b"long": 1.0})
        assert await eventually(lambda: all_of(client, 2)) == ["now", "later"]
        await eventually(lambda: not store.exists(key, f"{key}-records"), "nothing is left of what has no queue")


async def all_of(client: BrokerClient, count: int) -> list[str]:
    bodies = await client.pull_all("T")
    return bodies if len(bodies) >= count else []


# --- given back ------------------------------------------------------------------------------------------------------


def send_back(message: Any, level: int = 0, *, group: str = "G", **fields: Any) -> RemotingCommand:
    header = ConsumerSendMsgBackRequestHeader(message.commit_log_offset, group, level, **fields)
    return request(RequestCode.CONSUMER_SEND_MSG_BACK, header)


async def sent_and_pulled(client: BrokerClient) -> Any:
    await client.ok(heartbeat_request("c1", "G", {"T": "*"}))
    properties = "UNIQ_KEY\x01A1\x02KEYS\x01k\x02TAGS\x01TagA\x02a\x01b\x02"
    await client.ok(send_request("T", b"hello", properties=properties))
    return (await client.pull("T", 0)).messages[0]


async def test_message_sent_back_is_redelivered_by_the_retry_topic(client: BrokerClient) -> None:
    message = await sent_and_pulled(client)
    began_ms = int(time.time() * 1000)
    await client.ok(send_back(message, level=1))
    again = (await client.pull_later("%RETRY%G", 0)).messages[0]
    assert again.store_timestamp_ms >= began_ms + 1000
    assert (again.topic, again.text(), again.reconsume_times) == ("%RETRY%G", "hello", 1)
    assert again.properties["RETRY_TOPIC"] == "T"
    assert again.properties["ORIGIN_MESSAGE_ID"] == message.offset_msg_id
    assert (again.msg_id, again.keys, again.tags, again.properties["a"]) == ("A1", "k", "TagA", "b")
    assert (again.born_timestamp_ms, again.born_host) == (message.born_timestamp_ms, message.born_host)
    # The second time: the origin stays that of the first.
    await client.ok(send_back(again, level=1))
    third = (await client.pull_later("%RETRY%G", 1)).messages[0]
    assert third.reconsume_times == 2
    assert third.properties["RETRY_TOPIC"] == "T"
    assert third.properties["ORIGIN_MESSAGE_ID"] == message.offset_msg_id


async def test_first_retry_is_due_after_ten_seconds(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    message = await sent_and_pulled(client)
    before_ms = int(time.time() * 1000)
    await client.ok(send_back(message))
    after_ms = int(time.time() * 1000)
    with redis.Redis.from_url(embedded_server.url) as store:
        ((_, due_ms),) = store.zrange(f"{key_prefix}:{{broker-a}}:scheduled", 0, -1, withscores=True)
    assert before_ms + 10_000 <= due_ms <= after_ms + 10_000


@pytest.mark.parametrize(("level", "fields"), [(-1, {}), (0, {"max_reconsume_times": 0})], ids=["asked", "exhausted"])
async def test_message_sent_back_after_the_last_retry_is_a_dead_letter(
    client: BrokerClient, level: int, fields: dict[str, Any]
) -> None:
    message = await sent_and_pulled(client)
    await client.ok(send_back(message, level=level, **fields))
    dead = (await client.pull("%DLQ%G", 0)).messages[0]
    assert (dead.text(), dead.properties["RETRY_TOPIC"], dead.keys) == ("hello", "T", "k")
    assert dead.properties["ORIGIN_MESSAGE_ID"] == message.offset_msg_id
    assert (dead.properties["DLQ_ORIGIN_TOPIC"], dead.properties["DLQ_ORIGIN_MESSAGE_ID"]) == ("T", "A1")
    assert (dead.reconsume_times, dead.msg_id, dead.tags, dead.properties["a"]) == (1, "A1", "TagA", "b")


@pytest.mark.parametrize("limit", [0, 1, 2])
async def test_group_config_sets_the_number_of_retries(client: BrokerClient, limit: int) -> None:
    body = dumps(to_builtins(SubscriptionGroupConfig(group_name="G", retry_max_times=limit)))
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=body))
    message = await sent_and_pulled(client)
    for times in range(limit):
        await client.ok(send_back(message, level=1))
        message = (await client.pull_later("%RETRY%G", times)).messages[0]
    await client.ok(send_back(message, level=1))
    dead = (await client.pull("%DLQ%G", 0)).messages[0]
    assert (dead.reconsume_times, dead.properties["DLQ_ORIGIN_TOPIC"]) == (limit + 1, "T")


EXPONENTIAL = {"type": "EXPONENTIAL", "exponentialRetryPolicy": {"initial": 100, "max": 350, "multiplier": 2}}
CUSTOMIZED = {"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": [1, 2, 110, 220]}}


@pytest.mark.parametrize(
    ("policy", "delays_ms"),
    [(EXPONENTIAL, [100, 200, 350, 350]), (CUSTOMIZED, [110, 220, 220]), ({"type": "EXPONENTIAL"}, [10_000, 30_000])],
    ids=["exponential", "customized", "levels"],
)
async def test_group_retry_policy_sets_the_retry_delays(
    client: BrokerClient,
    embedded_server: EmbeddedServer,
    key_prefix: str,
    policy: dict[str, Any],
    delays_ms: list[int],
) -> None:
    await client.ok(
        request(
            RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
            body=dumps({"groupName": "G", "groupRetryPolicy": policy}),
        )
    )
    kept = await client.get(RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG, GroupRequestHeader("G"))
    assert kept["groupRetryPolicy"] == policy
    message = await sent_and_pulled(client)
    with redis.Redis.from_url(embedded_server.url) as store:
        for times, delay_ms in enumerate(delays_ms):
            before_ms = int(time.time() * 1000)
            await client.ok(send_back(message))
            after_ms = int(time.time() * 1000)
            if delay_ms >= 10_000:
                due_ms = store.zrange(f"{key_prefix}:{{broker-a}}:scheduled", -1, -1, withscores=True)[0][1]
                assert before_ms + delay_ms <= due_ms <= after_ms + delay_ms
                store.delete(*(f"{key_prefix}:{{broker-a}}:{name}" for name in ("scheduled", "scheduled-records")))
                await client.ok(send_back(message, level=1))
            message = (await client.pull_later("%RETRY%G", times)).messages[0]
            assert message.reconsume_times == times + 1
            if delay_ms < 10_000:
                assert message.store_timestamp_ms >= before_ms + delay_ms


@pytest.mark.parametrize("wrong", [-1, 10**12])
async def test_invalid_retry_policy_is_refused(client: BrokerClient, wrong: int) -> None:
    policy = {"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": [1, wrong]}}
    body = dumps({"groupName": "G", "groupRetryPolicy": policy})
    answer = await client.ask(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=body))
    assert (answer.code, str(wrong) in (answer.remark or "")) == (29, True)


@pytest.mark.parametrize(("times", "topic"), [(16, "%RETRY%G"), (17, "%DLQ%G")])
async def test_retry_resent_by_the_client_becomes_a_dead_letter_at_limit(
    client: BrokerClient, times: int, topic: str
) -> None:
    await sent_and_pulled(client)
    properties = "RETRY_TOPIC\x01T\x02DELAY\x010\x02UNIQ_KEY\x01A1"
    await client.ok(send_request("%RETRY%G", b"again", properties=properties, reconsume_times=times))
    (message,) = (await client.pull(topic, 0)).messages
    assert (message.text(), message.reconsume_times, message.msg_id) == ("again", times, "A1")
    assert message.properties.get("DLQ_ORIGIN_TOPIC") == ("T" if topic == "%DLQ%G" else None)
    assert message.properties.get("DLQ_ORIGIN_MESSAGE_ID") == ("A1" if topic == "%DLQ%G" else None)


@pytest.mark.parametrize("may_create", [True, False])
async def test_send_back_creates_an_unknown_group_if_allowed(
    start_broker: StartBroker, connect: Connect, may_create: bool
) -> None:
    client = connect(await start_broker(auto_create_subscription_group=may_create))
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=b'{"groupName":"G"}'))
    message = await sent_and_pulled(client)
    answer = await client.ask(send_back(message, 1, group="new"))
    assert answer.code == (0 if may_create else 26)
    if may_create:

        async def retried() -> list[str]:
            return (await client.pull("%RETRY%new", 0)).bodies

        assert await eventually(retried) == ["hello"]


async def test_invalid_send_backs_are_refused(client: BrokerClient) -> None:
    message = await sent_and_pulled(client)
    header = ConsumerSendMsgBackRequestHeader(message.commit_log_offset + 5, "G", 0)
    assert (await client.ask(request(RequestCode.CONSUMER_SEND_MSG_BACK, header))).code == 1
    header = ConsumerSendMsgBackRequestHeader(-1, "G", 0)
    assert (await client.ask(request(RequestCode.CONSUMER_SEND_MSG_BACK, header))).code == 1


# --- messages at a limit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["T", "T" * 127])
async def test_message_with_full_properties_is_retried_and_dead_lettered(
    topic: str, client: BrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The longest properties that are accepted, found by asking."""
    await client.ok(heartbeat_request("c", "G", {topic: "*"}))
    low, high = 30_000, MAX_PROPERTIES_BYTES

    def poison(room: int) -> RemotingCommand:
        return send_request(topic, b"poison", properties="UNIQ_KEY\x01A1\x02P\x01" + "x" * room + "\x02")

    while high - low > 1:
        middle = (low + high) // 2
        if (await client.ask(poison(middle))).code == 0:
            low = middle
        else:
            high = middle
    refused = await client.ask(poison(high))
    assert (refused.code, "are allowed for this topic" in (refused.remark or "")) == (13, True)
    offset = (await client.ok(poison(low))).header(SendMessageResponseHeader).queue_offset
    message = (await client.pull(topic, offset)).messages[0]
    await client.ok(send_back(message, level=1))
    retried = (await client.pull_later("%RETRY%G", 0)).messages[0]
    assert (retried.text(), retried.reconsume_times, retried.properties["RETRY_TOPIC"]) == ("poison", 1, topic)
    await client.ok(send_back(retried, level=-1))
    assert (await client.pull("%DLQ%G", 0)).messages[0].text() == "poison"
    assert any("becomes a dead letter" in record.getMessage() for record in caplog.records)


async def test_retry_sent_by_the_client_at_properties_limit_is_stored(client: BrokerClient) -> None:
    await client.ok(heartbeat_request("c", "G", {"T": "*"}))
    text = "UNIQ_KEY\x01A1\x02RETRY_TOPIC\x01T\x02DELAY\x011\x02P\x01"
    text += "x" * (MAX_PROPERTIES_BYTES - len(text) - 1) + "\x02"
    await client.ok(send_request("%RETRY%G", b"poison", properties=text, reconsume_times=1))
    assert (await client.pull_later("%RETRY%G", 0)).messages[0].text() == "poison"


async def test_message_sent_back_again_after_lost_response_is_retried_once(client: BrokerClient) -> None:
    message = await sent_and_pulled(client)
    for _ in range(3):
        await client.ok(send_back(message, level=-1))
    await client.ok(send_back(message, level=-1, group="Other"))  # another group has its own
    assert len(await client.pull_all("%DLQ%G")) == 1
    assert len(await client.pull_all("%DLQ%Other")) == 1


async def test_message_sent_back_twice_at_once_is_one_dead_letter(client: BrokerClient) -> None:
    message = await sent_and_pulled(client)
    await asyncio.gather(*(client.ok(send_back(message, level=-1)) for _ in range(3)))
    assert len(await client.pull_all("%DLQ%G")) == 1


async def test_message_sent_back_after_its_retry_was_delivered_is_retried(client: BrokerClient) -> None:
    """As after an offset reset: the retry is consumed, so a confirmation without a copy would lose the message."""
    message = await sent_and_pulled(client)
    for times in range(2):
        await client.ok(send_back(message, level=1))
        await client.ok(send_back(message, level=1))
        assert (await client.pull_later("%RETRY%G", times)).messages[0].text() == "hello"
    assert await client.pull_all("%RETRY%G") == ["hello"] * 2


async def test_failed_send_back_succeeds_when_repeated(client: BrokerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    message = await sent_and_pulled(client)

    def fail(self: GiveBackStore, failed: Any, record: bytes, queue: Any, done: Any, arg: Any) -> None:
        done(None, StoreError("no store"), arg)

    with monkeypatch.context() as patch:
        patch.setattr(GiveBackStore, "dead", fail)
        assert (await client.ask(send_back(message, level=-1))).code != 0
    await client.ok(send_back(message, level=-1))
    assert len(await client.pull_all("%DLQ%G")) == 1
