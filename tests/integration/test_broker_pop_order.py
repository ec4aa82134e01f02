"""POP in order: one batch of a queue at a time, what is not acknowledged again, and whatever else ends a batch."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import BrokerClient, Connect, StartBroker, eventually

from rmq_redis.broker.broker import Broker
from rmq_redis.client.consume.simple import received
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import StoreError
from rmq_redis.model import PROPERTY_POP_CK, MessageExt
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.admin import (
    CreateTopicRequestHeader,
    DeleteSubscriptionGroupRequestHeader,
    TopicRequestHeader,
)
from rmq_redis.protocol.headers.offsets import (
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    ResetOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from rmq_redis.protocol.headers.pop import (
    AckMessageRequestHeader,
    ChangeInvisibleTimeRequestHeader,
    ChangeInvisibleTimeResponseHeader,
    NotificationRequestHeader,
    NotificationResponseHeader,
    PollingInfoRequestHeader,
    PollingInfoResponseHeader,
    PopMessageRequestHeader,
    PopMessageResponseHeader,
)
from rmq_redis.protocol.pop import ORDER_REVIVE_QID, BatchAck, PopHandle, encode_batch_acks, parse_handle
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.store.group.pop_order import PopOrderStore
from rmq_redis.store.redis.connection import StoreConnection
from rmq_redis.store.redis.opening import open_connection
from rmq_redis.store.redis.reconnecting import Store as Reads

LONG_MS = 60_000


def pop_request(
    *, nums: int = 32, invisible_ms: int = LONG_MS, poll_ms: int = 0, order: bool = True, **fields: Any
) -> RemotingCommand:
    values: dict[str, Any] = {"queue_id": -1, "consumer_group": "G", "topic": "T"}
    header = PopMessageRequestHeader(
        max_msg_nums=nums, invisible_time=invisible_ms, poll_time=poll_ms, order=order, **(values | fields)
    )
    return request(RequestCode.POP_MESSAGE, header)


async def pop(client: BrokerClient, **options: Any) -> list[MessageExt]:
    """The messages as a client gets them; nothing when there are none."""
    answer = await client.ask(pop_request(**options), 30.0)
    if answer.code == ResponseCode.POLLING_TIMEOUT:
        return []
    assert answer.code == ResponseCode.SUCCESS, answer.remark
    return received(answer, "T", "broker-a")


async def pop_some(client: BrokerClient, **options: Any) -> list[MessageExt]:
    """Pops until there is something."""
    while not (messages := await pop(client, poll_ms=10_000, **options)):
        pass
    return messages


def tried(messages: list[MessageExt]) -> list[tuple[str, int]]:
    return [(message.text(), message.reconsume_times) for message in messages]


def handle_of(message: MessageExt) -> PopHandle:
    return parse_handle(message.properties[PROPERTY_POP_CK])


def ack_request(handle: PopHandle, **changes: Any) -> RemotingCommand:
    values: dict[str, Any] = {
        "consumer_group": "G",
        "topic": "T",
        "queue_id": handle.queue_id,
        "extra_info": handle.text(),
        "offset": handle.queue_offset,
    }
    return request(RequestCode.ACK_MESSAGE, AckMessageRequestHeader(**(values | changes)))


async def ack(client: BrokerClient, *messages: MessageExt) -> None:
    for message in messages:
        await client.ok(ack_request(handle_of(message)))


def change_request(handle: PopHandle, invisible_ms: int) -> RemotingCommand:
    header = ChangeInvisibleTimeRequestHeader(
        consumer_group="G",
        topic="T",
        queue_id=handle.queue_id,
        extra_info=handle.text(),
        offset=handle.queue_offset,
        invisible_time=invisible_ms,
    )
    return request(RequestCode.CHANGE_MESSAGE_INVISIBLETIME, header)


async def change(client: BrokerClient, message: MessageExt, invisible_ms: int) -> ChangeInvisibleTimeResponseHeader:
    answer = await client.ok(change_request(handle_of(message), invisible_ms))
    return answer.header(ChangeInvisibleTimeResponseHeader)


async def committed(client: BrokerClient, queue_id: int = 0) -> int:
    header = QueryConsumerOffsetRequestHeader("G", "T", queue_id)
    return (await client.ok(request(RequestCode.QUERY_CONSUMER_OFFSET, header))).header(OffsetResponseHeader).offset


class Store:
    """What Redis has of the broker group."""

    def __init__(self, server: EmbeddedServer, key_prefix: str) -> None:
        self.redis = redis.Redis.from_url(server.url)
        self.base = f"{key_prefix}:{{broker-a}}:"

    def ordered(self) -> dict[str, str]:
        return {field.decode(): text.decode() for field, text in self.redis.hgetall(f"{self.base}ordered").items()}

    def pending(self, topic: str = "T", queue_id: int = 0) -> int:
        return sum(group["pending"] for group in self.redis.xinfo_groups(f"{self.base}queue:{topic}:{queue_id}"))

    def hidden(self) -> int:
        return int(self.redis.zcard(f"{self.base}popped"))

    def offset(self, queue_id: int = 0) -> int:
        return int(self.redis.hget(f"{self.base}offsets:G:T", str(queue_id)) or -1)


@pytest.fixture
def store(embedded_server: EmbeddedServer, key_prefix: str) -> Any:
    store = Store(embedded_server, key_prefix)
    yield store
    store.redis.close()


async def until_held(client: BrokerClient, nums: int = 1) -> None:
    polling = request(RequestCode.POLLING_INFO, PollingInfoRequestHeader("G", "T", -1))

    async def held() -> bool:
        return (await client.ok(polling)).header(PollingInfoResponseHeader).polling_num == nums

    await eventually(held)


async def test_next_batch_waits_until_the_last_is_acknowledged(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abcdef")
    answer = await client.ask(pop_request(nums=3))
    header = answer.header(PopMessageResponseHeader)
    assert (header.revive_qid, header.start_offset_info, header.msg_offset_info) == (
        ORDER_REVIVE_QID,
        "0 0 0",
        "0 0 0,1,2",
    )
    assert header.order_count_info == "0 0 0"
    a, b, c = received(answer, "T", "broker-a")
    assert [m.text() for m in (a, b, c)] == ["a", "b", "c"]
    assert (await pop(client), await committed(client), store.pending()) == ([], 0, 3)
    for message, offset in ((b, 0), (a, 2)):
        await ack(client, message)
        assert (await pop(client), await committed(client), store.offset()) == ([], offset, offset)
    await ack(client, c, c)  # whoever lost the answer asks again
    assert (await committed(client), store.offset(), store.pending(), store.ordered()) == (3, 3, 0, {})
    assert [message.text() for message in await pop(client)] == ["d", "e", "f"]


async def test_blocked_queue_does_not_block_others(client: BrokerClient) -> None:
    for queue_id in range(3):
        await client.send("T", f"a{queue_id}", f"b{queue_id}", queue_id=queue_id)
    first = await pop(client, queue_id=1)
    assert [message.text() for message in first] == ["a1", "b1"]
    rest = await client.ask(pop_request(nums=1))
    assert rest.header(PopMessageResponseHeader).rest_num == 2  # of the queues of which nothing is out
    others = received(rest, "T", "broker-a") + await pop(client)
    assert {message.queue_id for message in others} == {0, 2}
    assert await pop(client) == []
    await ack(client, *first)
    await client.send("T", "c1", queue_id=1)
    assert [message.text() for message in await pop(client)] == ["c1"]


async def test_only_unacknowledged_messages_are_redelivered_in_order(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abcde")
    a, b, _, d = await pop(client, nums=4, invisible_ms=150)
    await ack(client, b, d)
    again = await pop_some(client)
    assert tried(again) == [("a", 1), ("c", 1)]
    assert await pop(client) == []
    await ack(client, a)  # of the first try: too late
    assert await pop(client) == []
    await ack(client, *again)
    assert (await committed(client), store.pending()) == (4, 0)
    assert tried(await pop(client)) == [("e", 0)]
    assert "%RETRY%G_T" not in (await client.get(RequestCode.GET_ALL_TOPIC_CONFIG))["topicConfigTable"]


async def test_partial_redelivery_keeps_the_rest_for_later(client: BrokerClient) -> None:
    await client.send("T", *"abcd")
    _, b, _ = await pop(client, nums=3, invisible_ms=1)
    (again,) = await pop_some(client, nums=1)
    assert tried([again]) == [("a", 1)]
    await ack(client, b)  # with nobody now: the ack belongs to the first try
    assert await pop(client) == []
    await ack(client, again)
    answer = await client.ask(pop_request())
    assert answer.header(PopMessageResponseHeader).order_count_info == "0 qo0%1 1;0 qo0%2 1;0 0 1"
    b, c = received(answer, "T", "broker-a")
    assert tried([b, c]) == [("b", 1), ("c", 1)]
    await ack(client, c, b)
    assert tried(await pop(client)) == [("d", 0)]


async def test_full_response_does_not_touch_other_queues(client: BrokerClient, store: Store) -> None:
    for queue_id in range(2):
        await client.send("T", f"a{queue_id}", queue_id=queue_id)
    first = await pop(client, invisible_ms=1)
    await eventually(lambda: time.time() * 1000 > handle_of(first[0]).visible_ms)
    (again,) = await pop(client, nums=1)
    (other,) = [message for message in first if message.queue_id != again.queue_id]
    await ack(client, other)  # nobody has it again
    assert await pop(client) == []
    await ack(client, again)
    assert store.ordered() == {}


async def test_late_ack_counts_until_the_message_is_redelivered(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    (a,) = await pop(client, nums=1, invisible_ms=1)
    await eventually(lambda: time.time() * 1000 > handle_of(a).visible_ms)
    await ack(client, a)
    assert tried(await pop(client)) == [("b", 0)]


async def test_changed_invisible_time_blocks_the_queue_until_it_expires(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abc")
    a, b = await pop(client, nums=2, invisible_ms=200)
    times = await change(client, b, LONG_MS)
    handle = handle_of(b)
    assert (times.pop_time, times.revive_qid) == (handle.pop_time_ms, ORDER_REVIVE_QID)
    assert times.invisible_time >= LONG_MS
    await eventually(lambda: time.time() * 1000 > handle.visible_ms)
    assert await pop(client) == []
    await ack(client, a)
    assert (await pop(client), await committed(client)) == ([], 1)
    waiting = asyncio.create_task(pop(client, poll_ms=20_000))
    await until_held(client)
    await change(client, b, 0)
    (b_again,) = await waiting
    assert tried([b_again]) == [("b", 1)]
    assert (await client.ask(change_request(handle, LONG_MS))).code == ResponseCode.NO_MESSAGE
    await ack(client, b_again)
    assert (await client.ask(change_request(handle_of(b_again), LONG_MS))).code == ResponseCode.NO_MESSAGE


async def test_message_made_visible_waits_for_the_rest_of_its_batch(client: BrokerClient) -> None:
    await client.send("T", *"abc")
    a, b = await pop(client, nums=2)
    await change(client, a, 0)
    assert await pop(client) == []
    await ack(client, b)
    assert tried(await pop(client)) == [("a", 1)]


async def test_ack_wakes_one_of_two_waiting_consumers(client: BrokerClient, connect: Connect) -> None:
    await client.send("T", *"ab")
    (a,) = await pop(client, nums=1)
    waiting = {asyncio.create_task(pop(client, nums=1, poll_ms=20_000)) for _ in range(2)}
    await until_held(client, 2)
    await ack(client, a)
    (done,), waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (b,) = await done
    assert b.text() == "b"
    await client.send("T", "c")
    await until_held(client, 1)
    await ack(client, b)
    assert tried(await waiting.pop()) == [("c", 0)]


async def test_expired_invisible_time_wakes_a_waiting_consumer(client: BrokerClient) -> None:
    await client.send("T", "a")
    waits = asyncio.create_task(pop(client, poll_ms=20_000, queue_id=1))  # nothing for it: it is not woken
    await pop(client, invisible_ms=300)
    waiting = [asyncio.create_task(pop(client, poll_ms=20_000)) for _ in range(2)]
    (done,), rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (again,) = await done
    assert tried([again]) == [("a", 1)]
    await ack(client, again)
    await client.send("T", "b")
    assert tried(await rest.pop()) == [("b", 0)]
    await client.send("T", "c", queue_id=1)
    assert tried(await waits) == [("c", 0)]


async def test_request_with_a_lost_response_gets_the_same_messages(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abc")
    a, b = await pop(client, nums=2, attempt_id="one; 1")
    assert await pop(client, attempt_id="other") == await pop(client) == []
    again = await pop(client, nums=2, attempt_id="one; 1", invisible_ms=2 * LONG_MS)
    assert tried(again) == [("a", 0), ("b", 0)]
    assert handle_of(again[0]).visible_ms > handle_of(a).visible_ms + LONG_MS / 2
    await ack(client, b, again[0])  # handles of both answers hold
    assert await committed(client) == 2
    assert tried(await pop(client, attempt_id="one; 1")) == [("c", 0)]


async def test_smaller_repeated_request_leaves_the_rest_for_the_next(client: BrokerClient) -> None:
    await client.send("T", *"abc")
    await pop(client, attempt_id="one")
    (a,) = await pop(client, nums=1, attempt_id="one")
    assert tried([a]) == [("a", 0)]
    assert await pop(client) == []
    await ack(client, a)
    assert tried(await pop(client)) == [("b", 1), ("c", 1)]


async def test_dead_letter_is_logged_after_it_is_stored(
    client: BrokerClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = json.dumps({"groupName": "G", "retryMaxTimes": 0}).encode()
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=config))
    await client.send("T", *"ab")
    logged_before: list[int] = []
    give = PopOrderStore.pop

    def logged() -> list[str]:
        return [record.getMessage() for record in caplog.records if "becomes a dead letter" in record.getMessage()]

    async def note(self: PopOrderStore, group: str, steps: Any, dead_letters: Any) -> Any:
        if dead_letters is not None:
            logged_before.append(len(logged()))
        return await give(self, group, steps, dead_letters)

    monkeypatch.setattr(PopOrderStore, "pop", note)
    await pop(client, nums=1, invisible_ms=1)
    assert tried(await pop_some(client)) == [("b", 0)]
    assert (logged_before, len(logged())) == ([0], 1)


async def test_queue_continues_after_a_message_becomes_a_dead_letter(client: BrokerClient, store: Store) -> None:
    config = json.dumps({"groupName": "G", "retryMaxTimes": 1}).encode()
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=config))
    await client.send("T", *"abc")
    await pop(client, nums=2, invisible_ms=1)
    again = await pop_some(client, nums=1, invisible_ms=1)
    assert tried(again) == [("a", 1)]
    assert tried(await pop_some(client)) == [("b", 1)]  # "a" had its tries
    (dead,) = (await client.pull("%DLQ%G", 0)).messages
    assert (dead.text(), dead.reconsume_times, dead.properties["DLQ_ORIGIN_TOPIC"]) == ("a", 2, "T")
    assert dead.properties["DLQ_ORIGIN_MESSAGE_ID"] == again[0].msg_id
    assert (await committed(client), store.pending()) == (1, 1)


async def test_several_messages_become_dead_letters_at_once(client: BrokerClient, store: Store) -> None:
    config = json.dumps({"groupName": "G", "retryMaxTimes": 0}).encode()
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=config))
    for queue_id in range(2):
        await client.send("T", *(f"{text}{queue_id}" for text in "abc"), queue_id=queue_id)
    assert len(await pop(client, invisible_ms=1)) == 6
    notification = NotificationRequestHeader("G", "T", -1, 20_000, order=True)
    assert (await client.ok(request(RequestCode.NOTIFICATION, notification))).header(NotificationResponseHeader).has_msg
    assert await eventually(lambda: all_dead(client)) == ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert (store.ordered(), store.pending(), await committed(client)) == ({}, 0, 3)
    assert (await client.pull("%DLQ%G", 6)).code == ResponseCode.PULL_NOT_FOUND


async def all_dead(client: BrokerClient) -> list[str]:
    await pop(client)
    found = sorted(await client.pull_all("%DLQ%G")) if (await client.pull("%DLQ%G", 0)).code == 0 else []
    return found if len(found) == 6 else []


async def test_message_is_retried_on_if_dead_letters_are_not_allowed(client: BrokerClient) -> None:
    config = json.dumps({"groupName": "G", "retryMaxTimes": 0}).encode()
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=config))
    header = CreateTopicRequestHeader("%DLQ%G", 1, 1, 4)
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, header))
    await client.send("T", "a")
    await pop(client, invisible_ms=1)
    (a,) = await pop_some(client)
    assert tried([a]) == [("a", 1)]
    await ack(client, a)


async def test_outstanding_batch_survives_a_broker_restart(
    start_broker: StartBroker, connect: Connect, store: Store
) -> None:
    broker = await start_broker()
    client = connect(broker)
    await client.send("T", *"abcde")
    a, b, c, d = await pop(client, nums=4, invisible_ms=1000)
    await ack(client, a, c)
    await client.close()
    await broker.close()
    client = connect(await start_broker())
    await ack(client, b)
    assert await committed(client) == 3
    waiting = asyncio.create_task(pop_some(client))
    (again,) = await waiting
    assert tried([again]) == [("d", 1)]
    assert handle_of(again).pop_time_ms > handle_of(d).visible_ms - 2
    await ack(client, again)
    assert tried(await pop(client)) == [("e", 0)]


async def test_new_master_continues_with_the_outstanding_batch(start_broker: StartBroker, connect: Connect) -> None:
    first = await start_broker(lease_s=1.0)
    second = await start_broker(broker_id=1, lease_s=1.0)
    client, new = connect(first), connect(second)
    await client.send("T", *"abc")
    a, b = await pop(client, nums=2)
    await ack(client, a)
    await first.close()
    await eventually(lambda: serves(new))
    await ack(new, b)
    assert tried(await pop(new)) == [("c", 0)]


async def serves(client: BrokerClient) -> bool:
    return (await client.ask(pop_request())).code == ResponseCode.POLLING_TIMEOUT


async def test_setting_an_offset_ends_the_batch(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abcd")
    batch = await pop(client, nums=3)
    await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, 1)))
    again = await pop(client, nums=2)
    assert tried(again) == [("b", 0), ("c", 0)]
    await ack(client, *batch)
    assert await committed(client) == 1
    reset = ResetOffsetRequestHeader("T", "G", 0)
    await client.ok(request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, reset))
    await ack(client, *again)
    assert await committed(client) == 0
    last = await pop(client)
    assert tried(last) == [(text, 0) for text in "abcd"]
    await ack(client, *last)
    assert (await committed(client), store.pending(), store.ordered()) == (4, 0, {})


async def test_setting_the_same_offset_again_keeps_the_batch(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abc")
    a, b = await pop(client, nums=2)
    for offset in (2, 0):
        header = UpdateConsumerOffsetRequestHeader("G", "T", 0, offset)
        await client.oneway(request(RequestCode.UPDATE_CONSUMER_OFFSET, header))
    await ack(client, a)
    assert (await committed(client), await pop(client)) == (1, [])
    await ack(client, b)
    assert tried(await pop(client)) == [("c", 0)]
    await eventually(lambda: store.offset() == 2)


async def test_unordered_pop_waits_until_the_batch_ends(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abc")
    a, _ = await pop(client, nums=2, invisible_ms=1500)
    notify = request(RequestCode.NOTIFICATION, NotificationRequestHeader("G", "T", -1, 1))
    assert not (await client.ok(notify)).header(NotificationResponseHeader).has_msg
    assert await pop(client, order=False) == []
    await ack(client, a)
    waiting = asyncio.create_task(pop_some(client, order=False))
    (c,) = await waiting  # the queue goes on behind the batch
    assert tried([c]) == [("c", 0)]
    (b,) = await pop_some(client, order=False)
    assert tried([b]) == [("b", 1)]  # through the retry topic
    assert handle_of(b).mark == "1"
    assert (store.ordered(), store.hidden()) == ({}, 2)
    for message, topic in ((b, "%RETRY%G_T"), (c, "T")):
        await client.ok(ack_request(handle_of(message), topic=topic))
    assert (store.hidden(), store.pending(), store.pending("%RETRY%G_T")) == (0, 0, 0)


async def test_ordered_pop_continues_behind_unordered_messages(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abc")
    (a,) = await pop(client, nums=1, order=False)
    b, c = await pop(client)
    assert (b.text(), c.text()) == ("b", "c")
    await ack(client, b)
    assert await committed(client) == 2
    await client.ok(change_request(handle_of(a), 0))
    assert await pop(client) == []
    (a,) = await pop_some(client, order=False)  # from the retry topic, at which only unordered ones look
    assert tried([a]) == [("a", 1)]


async def test_filters_advance_the_offset(client: BrokerClient, store: Store) -> None:
    for number in range(8):
        await client.send("T", f"m{number}", tags="even" if number % 2 == 0 else "odd")
    popped = await pop(client, exp="odd", exp_type="TAG", nums=2, invisible_ms=1)
    assert tried(popped) == [("m1", 0), ("m3", 0)]
    assert await committed(client) == 1
    again = await pop_some(client, exp="odd", exp_type="TAG", nums=2)
    assert tried(again) == [("m1", 1), ("m3", 1)]
    await ack(client, *again)
    assert await committed(client) == 5  # the next that it wants
    last = await pop(client, exp="TAGS = 'odd'", exp_type="SQL92")
    assert tried(last) == [("m5", 0), ("m7", 0)]
    await ack(client, *last)
    assert (await pop(client, exp="odd", exp_type="TAG"), await committed(client)) == ([], 8)
    assert (store.pending(), store.ordered()) == (0, {})


async def test_messages_excluded_by_a_changed_filter_are_done(client: BrokerClient, store: Store) -> None:
    await client.send("T", "a", tags="A")
    await client.send("T", "b", tags="B")
    await pop(client, invisible_ms=1)
    (b,) = await pop_some(client, exp="B", exp_type="TAG")
    assert tried([b]) == [("b", 1)]
    assert (await committed(client), store.pending()) == (1, 1)


async def test_removed_messages_are_skipped(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abcd")
    await pop(client, nums=3, invisible_ms=1)
    store.redis.xtrim(f"{store.base}queue:T:0", minid="0-3", approximate=False)
    (c,) = await pop_some(client)
    assert tried([c]) == [("c", 1)]
    await ack(client, c)
    assert tried(await pop(client)) == [("d", 0)]
    await eventually(lambda: store.pending() == 1)


async def test_recreated_topic_has_no_outstanding_batch(client: BrokerClient, store: Store) -> None:
    await client.send("T", "old", "older")
    old = await pop(client)
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    assert store.ordered() == {}
    await client.send("T", "new")
    (new,) = await pop(client)
    assert tried([new]) == [("new", 0)]
    assert (await client.ask(ack_request(handle_of(old[0])))).code == ResponseCode.NO_MESSAGE
    assert store.pending() == 1
    await ack(client, new)
    assert (await committed(client), await pop(client)) == (3, [])


async def test_deleted_group_has_no_outstanding_batch(client: BrokerClient, store: Store) -> None:
    await client.send("T", "a", "b")
    await pop(client)
    header = DeleteSubscriptionGroupRequestHeader("G", True)
    await client.ok(request(RequestCode.DELETE_SUBSCRIPTIONGROUP, header))
    assert store.ordered() == {}
    again = await pop(client)
    assert tried(again) == [("a", 0), ("b", 0)]
    await ack(client, *again)
    assert await committed(client) == 2


async def test_batch_of_acks_ends_the_batch(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abcd")
    batch = await pop(client, nums=3)
    handle = handle_of(batch[0])
    times = handle.pop_time_ms, handle.invisible_time_ms

    async def acks(*offsets: int) -> int:
        item = BatchAck("G", "T", "0", 0, 0, ORDER_REVIVE_QID, *times, offsets)
        body = encode_batch_acks("broker-a", [item])
        return (await client.ask(request(RequestCode.BATCH_ACK_MESSAGE, body=body))).code

    assert await acks(0, 2, 1000) == 0
    assert (await committed(client), store.pending()) == (1, 1)
    assert await acks(1, 3) == ResponseCode.MESSAGE_ILLEGAL  # it never got the last
    assert await acks(1) == 0
    assert await committed(client) == 3


async def test_invalid_handles_are_refused(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    (a,) = await pop(client, nums=1)
    handle = handle_of(a)
    for changes, code in (
        ({"topic": "unknown"}, ResponseCode.TOPIC_NOT_EXIST),
        ({"queue_id": 9}, ResponseCode.MESSAGE_ILLEGAL),
        ({"offset": 1}, ResponseCode.MESSAGE_ILLEGAL),
        ({"offset": 7}, ResponseCode.NO_MESSAGE),
    ):
        assert (await client.ask(ack_request(handle, **changes))).code == code
    assert await pop(client) == []


async def test_ordered_notification_reports_receivable_messages(client: BrokerClient) -> None:
    async def has_msg(poll_ms: int = 1, **fields: Any) -> bool:
        header = NotificationRequestHeader("G", "T", -1, poll_ms, order=True, **fields)
        answer = await client.ask(request(RequestCode.NOTIFICATION, header), 30.0)
        return answer.header(NotificationResponseHeader).has_msg

    await client.send("T", "a", "b")
    assert await has_msg()
    (a,) = await pop(client, nums=1, attempt_id="mine")
    assert not await has_msg()
    assert await has_msg(attempt_id="mine")
    waiting = asyncio.create_task(has_msg(20_000))
    await until_held(client)
    await ack(client, a)
    assert await waiting


class Cut:
    """Has the connection to the store break right after a function was called: it ran, and nobody hears of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = ""
        execute, call = StoreConnection.execute_function, StoreConnection.call_function

        async def execute_function(connection: StoreConnection, name: str, *args: Any) -> Any:
            answer = await execute(connection, name, *args)
            if name == self.name:
                self.name = ""
                raise StoreError("cut")
            return answer

        def call_function(connection: StoreConnection, reply: Any, name: str, *args: Any) -> None:
            if name == self.name:
                self.name = ""
                call(connection, lambda answer: reply(StoreError("cut")), name, *args)
            else:
                call(connection, reply, name, *args)

        monkeypatch.setattr(StoreConnection, "execute_function", execute_function)
        monkeypatch.setattr(StoreConnection, "call_function", call_function)


async def test_pop_with_unknown_outcome_keeps_the_order(
    client: BrokerClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.send("T", *"abc")
    cut = Cut(monkeypatch)
    cut.name = "pop_order"
    assert (await client.ask(pop_request(nums=2, attempt_id="lost", invisible_ms=LONG_MS))).code != 0
    assert await pop(client) == await pop(client, order=False) == []
    a, b = await pop(client, attempt_id="lost")
    assert tried([a, b]) == [("a", 0), ("b", 0)]
    cut.name = "ack_order"
    assert (await client.ask(ack_request(handle_of(a)))).code != 0
    assert (await pop(client), await committed(client)) == ([], 1)
    cut.name = "change_order"
    assert (await client.ask(change_request(handle_of(b), 0))).code != 0
    (b,) = await pop(client)
    assert tried([b]) == [("b", 1)]
    cut.name = "ack_order"
    assert (await client.ask(ack_request(handle_of(b)))).code != 0
    assert tried(await pop(client)) == [("c", 0)]
    assert store.pending() == 1


async def test_batch_changed_by_another_master_is_detected(client: BrokerClient, broker: Broker, store: Store) -> None:
    """As after a failover that this broker has not heard of the end of: what it thinks is out is not what there is."""
    await client.send("T", *"abc")
    await pop(client, invisible_ms=1)
    text = store.ordered()["G:T:0"]
    head, *messages = text.split(";")
    store.redis.hset(f"{store.base}ordered", "G:T:0", ";".join((head, *messages[1:])))
    store.redis.hset(f"{store.base}offsets:G:T", "0", 1)
    assert tried(await pop_some(client)) == [("b", 1), ("c", 1)]
    assert await committed(client) == 1


async def test_lagging_replica_loses_no_messages(
    client: BrokerClient,
    broker: Broker,
    store: Store,
    embedded_server: EmbeddedServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a failover the writes may be at the new primary while the reads are still at the old one."""
    with EmbeddedServer(tmp_path / "behind", settings={"appendonly": "no"}) as behind:
        old = await open_connection(behind.url)
        await old.execute("REPLICAOF", "127.0.0.1", embedded_server.port)

        async def has_copied() -> bool:
            try:
                return bool(await old.execute("EXISTS", f"{store.base}epoch"))
            except StoreError:  # LOADING, while it reads what the primary sent
                return False

        await eventually(has_copied, "the other server has what there is")
        await old.execute("REPLICAOF", "NO", "ONE")
        await client.send("T", "a", "b")
        await pop(client, invisible_ms=200)
        await pop(client, consumer_group="H", order=False, invisible_ms=200)
        right, broker.parts.state.queue_store._reads = broker.parts.state.queue_store._reads, Reads(behind.url, "reads")
        try:
            await broker.parts.state.queue_store._reads.start()
            start_ms = time.time() * 1000
            await eventually(lambda: time.time() * 1000 > start_ms + 400)
            answer = await client.ask(pop_request())
            assert (answer.code, "is behind" in caplog.text) == (ResponseCode.SERVICE_NOT_AVAILABLE, True)
            assert store.hidden() == 2
        finally:
            await broker.parts.state.queue_store._reads.close()
            broker.parts.state.queue_store._reads = right
            old.close()
    assert tried(await pop_some(client)) == [("a", 1), ("b", 1)]
    again: list[MessageExt] = []
    while len(again) < 2:
        again += await pop_some(client, consumer_group="H", order=False)
    assert sorted(tried(again)) == [("a", 1), ("b", 1)]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"nums": 33}, ResponseCode.INVALID_PARAMETER),
        ({"invisible_ms": 0}, ResponseCode.INVALID_PARAMETER),
        ({"queue_id": 8}, ResponseCode.INVALID_PARAMETER),
        ({"topic": "unknown"}, ResponseCode.TOPIC_NOT_EXIST),
        ({"consumer_group": "bad group"}, ResponseCode.INVALID_PARAMETER),
        ({"born_time": 1}, ResponseCode.POLLING_TIMEOUT),
    ],
)
async def test_invalid_ordered_pop_requests_are_refused(
    client: BrokerClient, changes: dict[str, Any], code: int
) -> None:
    await client.send("T", "m")
    assert (await client.ask(pop_request(**changes))).code == code
