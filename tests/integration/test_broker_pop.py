"""POP: messages hidden one by one, acknowledged, hidden longer, and back again when nobody did."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
import redis
from helpers import BrokerClient, Connect, StartBroker, eventually, heartbeat_request, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import StoreError
from rmq_redis.model import MessageExt
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.admin import TopicRequestHeader
from rmq_redis.protocol.headers.offsets import OffsetResponseHeader, QueryConsumerOffsetRequestHeader
from rmq_redis.protocol.headers.pop import (
    AckMessageRequestHeader,
    ChangeInvisibleTimeRequestHeader,
    ChangeInvisibleTimeResponseHeader,
    NotificationRequestHeader,
    NotificationResponseHeader,
    PeekMessageRequestHeader,
    PollingInfoRequestHeader,
    PollingInfoResponseHeader,
    PopMessageRequestHeader,
    PopMessageResponseHeader,
)
from rmq_redis.protocol.pop import BatchAck, PopHandle, encode_batch_acks, parse_handle, parse_offset_info
from rmq_redis.protocol.record import decode_records
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.store.group.pop import PopStore
from rmq_redis.store.group.queue import Queue

LONG_MS = 60_000


class Popped:
    """The answer to a POP, with the handle of each message as a client makes it."""

    def __init__(self, answer: RemotingCommand) -> None:
        self.code = answer.code
        self.remark = answer.remark
        self.messages: list[MessageExt] = []
        self.handles: list[PopHandle] = []
        if answer.code == ResponseCode.SUCCESS:
            self.header = answer.header(PopMessageResponseHeader)
            self.messages = decode_records(answer.body)
            starts = parse_offset_info(self.header.start_offset_info)
            for message in self.messages:
                self.handles.append(self._handle(message, starts))

    def _handle(self, message: MessageExt, starts: dict[tuple[str, int], list[int]]) -> PopHandle:
        if "POP_CK" in message.properties:
            return parse_handle(message.properties["POP_CK"])
        start = starts["0", message.queue_id][0]
        times = self.header.pop_time, self.header.invisible_time
        return PopHandle(start, *times, 0, "0", "broker-a", message.queue_id, message.queue_offset)

    @property
    def bodies(self) -> list[str]:
        return [message.text() for message in self.messages]


def pop_request(
    *, group: str = "G", topic: str = "T", nums: int = 32, invisible_ms: int = LONG_MS, poll_ms: int = 0, **fields: Any
) -> RemotingCommand:
    values: dict[str, Any] = {"queue_id": -1, "born_time": int(time.time() * 1000)}
    header = PopMessageRequestHeader(
        consumer_group=group,
        topic=topic,
        max_msg_nums=nums,
        invisible_time=invisible_ms,
        poll_time=poll_ms,
        **(values | fields),
    )
    return request(RequestCode.POP_MESSAGE, header)


async def pop(client: BrokerClient, **options: Any) -> Popped:
    return Popped(await client.ask(pop_request(**options), 30.0))


def topic_of(handle: PopHandle) -> str:
    return "T" if handle.mark == "0" else "%RETRY%G_T"


def ack_request(handle: PopHandle, **changes: Any) -> RemotingCommand:
    values: dict[str, Any] = {
        "consumer_group": "G",
        "topic": topic_of(handle),
        "queue_id": handle.queue_id,
        "extra_info": handle.text(),
        "offset": handle.queue_offset,
    }
    return request(RequestCode.ACK_MESSAGE, AckMessageRequestHeader(**(values | changes)))


def change_request(handle: PopHandle, invisible_ms: int, **changes: Any) -> RemotingCommand:
    values: dict[str, Any] = {
        "consumer_group": "G",
        "topic": topic_of(handle),
        "queue_id": handle.queue_id,
        "extra_info": handle.text(),
        "offset": handle.queue_offset,
        "invisible_time": invisible_ms,
    }
    return request(RequestCode.CHANGE_MESSAGE_INVISIBLETIME, ChangeInvisibleTimeRequestHeader(**(values | changes)))


async def pop_until(client: BrokerClient, nums: int, **options: Any) -> list[tuple[MessageExt, PopHandle]]:
    """Pops until ``nums`` messages came."""
    found: list[tuple[MessageExt, PopHandle]] = []
    while len(found) < nums:
        popped = await pop(client, poll_ms=10_000, **options)
        assert popped.code in (ResponseCode.SUCCESS, ResponseCode.POLLING_TIMEOUT), popped.remark
        found += zip(popped.messages, popped.handles, strict=True)
    return found


def pending(server: EmbeddedServer, key_prefix: str) -> int:
    """How much is hidden, by the sorted set; and by the consumer groups of Redis, which must say the same."""
    base = f"{key_prefix}:{{broker-a}}:"
    with redis.Redis.from_url(server.url) as store:
        hidden = store.zcard(f"{base}popped")
        by_groups = 0
        for key in store.scan_iter(f"{base}queue:*"):
            by_groups += sum(group["pending"] for group in store.xinfo_groups(key))
        assert hidden == by_groups
        return int(hidden)


async def test_message_goes_to_one_member_until_acknowledged(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    for queue_id in range(4):
        await client.send("T", f"a{queue_id}", f"b{queue_id}", queue_id=queue_id)
    first = await pop(client, nums=5)
    second = await pop(client)
    assert len(first.messages) == 5
    assert first.header.rest_num == 3
    assert sorted(first.bodies + second.bodies) == sorted(f"{x}{i}" for x in "ab" for i in range(4))
    assert (await pop(client)).code == ResponseCode.POLLING_TIMEOUT
    assert pending(embedded_server, key_prefix) == 8
    for handle in first.handles + second.handles:
        assert (await client.ask(ack_request(handle))).code == 0
    assert pending(embedded_server, key_prefix) == 0
    assert (await client.ask(ack_request(first.handles[0]))).code == 0  # whoever lost the answer asks again


async def test_group_offset_advances_as_messages_are_delivered(client: BrokerClient) -> None:
    await client.send("T", "a", "b", "c")
    await pop(client, nums=2)
    header = QueryConsumerOffsetRequestHeader("G", "T", 0)
    answer = await client.ok(request(RequestCode.QUERY_CONSUMER_OFFSET, header))
    assert answer.header(OffsetResponseHeader).offset == 2


async def test_unacknowledged_message_is_redelivered_by_the_retry_topic(client: BrokerClient) -> None:
    sent = await client.send("T", "m", tags="TagA")
    first = await pop(client, invisible_ms=50)
    ((again, handle),) = await pop_until(client, 1)
    assert (again.text(), again.topic, again.reconsume_times) == ("m", "T", 1)
    assert (again.tags, again.msg_id) == ("TagA", first.messages[0].msg_id)
    assert again.properties["ORIGIN_MESSAGE_ID"] == sent[0].msg_id
    assert handle.mark == "1"
    assert (await client.ask(ack_request(first.handles[0]))).code == 0  # too late: changes nothing
    assert (await client.ask(ack_request(handle))).code == 0
    assert (await pop(client)).code == ResponseCode.POLLING_TIMEOUT


async def test_late_ack_does_not_end_the_redelivery(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    await client.send("T", "m")
    first = await pop(client, invisible_ms=50)
    await pop_until(client, 1)
    await client.ok(ack_request(first.handles[0]))
    assert pending(embedded_server, key_prefix) == 1


async def test_dead_letter_is_logged_after_it_is_stored(
    client: BrokerClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = json.dumps({"groupName": "G", "retryMaxTimes": 0}).encode()
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=config))
    await client.send("T", "m")
    logged_before: list[int] = []
    revive = PopStore.revive

    def logged() -> list[str]:
        return [record.getMessage() for record in caplog.records if "becomes a dead letter" in record.getMessage()]

    async def fail_first(self: PopStore, revivals: Any) -> Any:
        logged_before.append(len(logged()))
        if len(logged_before) == 1:
            raise StoreError("no store")
        return await revive(self, revivals)

    monkeypatch.setattr(PopStore, "revive", fail_first)
    await pop(client, invisible_ms=20)
    assert len(await eventually(logged)) == 1
    assert logged_before == [0, 0]
    assert await client.pull_all("%DLQ%G") == ["m"]


async def test_message_becomes_a_dead_letter_after_the_last_attempt(client: BrokerClient) -> None:
    await client.ok(
        request(
            RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
            body=json.dumps({"groupName": "G", "retryMaxTimes": 1}).encode(),
        )
    )
    await client.send("T", "m")
    await pop(client, invisible_ms=20)
    await pop_until(client, 1, invisible_ms=20)

    async def dead() -> list[str]:
        return await client.pull_all("%DLQ%G") if (await client.pull("%DLQ%G", 0)).code == 0 else []

    assert await eventually(dead) == ["m"]
    message = (await client.pull("%DLQ%G", 0)).messages[0]
    assert (message.properties["DLQ_ORIGIN_TOPIC"], message.reconsume_times) == ("T", 2)
    assert (await pop(client)).code == ResponseCode.POLLING_TIMEOUT


async def test_extending_invisible_time_invalidates_the_old_handle(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    await client.send("T", "m")
    popped = await pop(client, invisible_ms=2000)
    old = popped.handles[0]
    answer = await client.ok(change_request(old, LONG_MS))
    times = answer.header(ChangeInvisibleTimeResponseHeader)
    new = PopHandle(old.start_offset, times.pop_time, times.invisible_time, times.revive_qid, "0", "broker-a", 0, 0)
    assert new.visible_ms > old.visible_ms
    await client.ok(ack_request(old))
    assert pending(embedded_server, key_prefix) == 1
    assert (await client.ask(change_request(old, 10))).code == ResponseCode.NO_MESSAGE
    await client.ok(ack_request(new))
    assert pending(embedded_server, key_prefix) == 0


async def test_invisible_time_zero_redelivers_at_once(client: BrokerClient) -> None:
    await client.send("T", "m")
    popped = await pop(client)
    await client.ok(change_request(popped.handles[0], 0))
    ((again, _),) = await pop_until(client, 1)
    assert again.reconsume_times == 1


async def test_batch_of_acks_ends_every_message(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    await client.send("T", *"abcd")
    popped = await pop(client)
    times = popped.header.pop_time, popped.header.invisible_time
    ack = BatchAck("G", "T", "0", 0, 0, 0, *times, (0, 1, 3, 1000))
    await client.ok(request(RequestCode.BATCH_ACK_MESSAGE, body=encode_batch_acks("broker-a", [ack])))
    assert pending(embedded_server, key_prefix) == 1
    answer = await client.ask(request(RequestCode.BATCH_ACK_MESSAGE, body=b'{"acks":[{"b":"?"}]}'))
    assert (answer.code, "batch of acknowledgements" in (answer.remark or "")) == (1, True)


async def test_one_message_wakes_one_waiting_pop(client: BrokerClient, connect: Connect) -> None:
    await client.send("T", "first")
    await pop(client)
    waiting = [asyncio.create_task(pop(client, poll_ms=20_000)) for _ in range(3)]
    polling = request(RequestCode.POLLING_INFO, PollingInfoRequestHeader("G", "T", -1))

    async def held(nums: int) -> bool:
        return (await client.ok(polling)).header(PollingInfoResponseHeader).polling_num == nums

    await eventually(lambda: held(3))
    for left in (2, 1, 0):
        await client.send("T", f"m{left}", queue_id=left)
        await eventually(lambda left=left: held(left))
    assert sorted(p.bodies for p in await asyncio.gather(*waiting)) == [["m0"], ["m1"], ["m2"]]


async def test_two_groups_each_receive_everything(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    assert (await pop(client, group="G")).bodies == ["a", "b"]
    assert (await pop(client, group="H")).bodies == ["a", "b"]


async def test_filters_skip_messages_that_do_not_match(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    for number in range(10):
        await client.send("T", f"m{number}", tags="even" if number % 2 == 0 else "odd")
    popped = await pop(client, exp="even", exp_type="TAG", nums=3)
    assert popped.bodies == ["m0", "m2", "m4"]
    popped = await pop(client, exp="TAGS = 'even'", exp_type="SQL92")
    assert popped.bodies == ["m6", "m8"]
    assert (await pop(client, exp="even", exp_type="TAG")).code == ResponseCode.POLLING_TIMEOUT
    assert pending(embedded_server, key_prefix) == 5
    waiting = asyncio.create_task(pop(client, exp="even", exp_type="TAG", poll_ms=20_000))
    await client.send("T", "x", tags="odd")
    await client.send("T", "y", tags="even")
    assert (await waiting).bodies == ["y"]


async def test_peek_at_many_large_messages_fits_into_a_frame(client: BrokerClient) -> None:
    """A message is at most 4 MiB, a frame 16 MiB."""
    large = b"x" * 4_000_000
    for queue_id in range(4):
        for _ in range(2):
            await client.ok(send_request("T", large, queue_id=queue_id))
    answer = await client.ok(request(RequestCode.PEEK_MESSAGE, PeekMessageRequestHeader("G", "T", -1, 32)))
    peeked = decode_records(answer.body)
    assert peeked
    assert answer.header(PopMessageResponseHeader).rest_num == 8 - len(peeked)


async def test_peek_and_notification_do_not_hide_messages(client: BrokerClient) -> None:
    notification = request(RequestCode.NOTIFICATION, NotificationRequestHeader("G", "T", -1, 20_000))
    await client.send("T", "m")
    peek = request(RequestCode.PEEK_MESSAGE, PeekMessageRequestHeader("G", "T", 0, 10))
    assert [message.text() for message in decode_records((await client.ok(peek)).body)] == ["m"]
    assert (await client.ok(notification)).header(NotificationResponseHeader).has_msg
    assert (await pop(client)).bodies == ["m"]
    assert (await client.ask(peek)).code == ResponseCode.PULL_NOT_FOUND
    waiting = asyncio.create_task(client.ask(notification, 30.0))
    await client.send("T", "n")
    assert (await waiting).header(NotificationResponseHeader).has_msg
    assert (await pop(client)).bodies == ["n"]
    short = request(RequestCode.NOTIFICATION, NotificationRequestHeader("G", "T", -1, 1))
    assert not (await client.ok(short)).header(NotificationResponseHeader).has_msg


async def test_new_group_may_start_at_the_end(client: BrokerClient, start_broker: StartBroker) -> None:
    """Of a queue that is young all is read, as by pull consumers: nothing sent in between is missed."""
    await client.send("T", "a")
    assert (await pop(client, init_mode=1)).bodies == ["a"]


async def test_hidden_messages_survive_a_broker_restart(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker()
    client = connect(broker)
    await client.send("T", "a", "b", "c")
    popped = await pop(client, nums=2)
    await client.ok(ack_request(popped.handles[0]))
    await client.close()
    await broker.close()
    client = connect(await start_broker())
    assert (await pop(client)).bodies == ["c"]
    assert (await client.ask(change_request(popped.handles[1], 0))).code == 0
    ((again, handle),) = await pop_until(client, 1)
    assert again.text() == "b"
    await client.ok(ack_request(handle))


async def test_setting_an_offset_moves_the_next_pop(client: BrokerClient) -> None:
    from rmq_redis.protocol.headers.offsets import UpdateConsumerOffsetRequestHeader

    await client.send("T", "a", "b", "c")
    assert (await pop(client)).bodies == ["a", "b", "c"]
    await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, 1)))
    again = await pop(client)
    assert again.bodies == ["b", "c"]
    for handle in again.handles:
        await client.ok(ack_request(handle))


async def test_removed_messages_are_skipped(
    client: BrokerClient, broker: Broker, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    await client.send("T", *"abcd")
    await pop(client, nums=2, invisible_ms=200)
    with redis.Redis.from_url(embedded_server.url) as store:
        store.xtrim(f"{key_prefix}:{{broker-a}}:queue:T:0", minid="0-4", approximate=False)
    assert (await pop(client)).bodies == ["d"]
    await eventually(lambda: pending(embedded_server, key_prefix) == 1)  # a and b are dropped when their time is over


async def test_recreated_topic_ignores_hidden_messages_of_the_deleted_one(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    await client.send("T", "old")
    await pop(client, invisible_ms=300)
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    await client.send("T", "new")
    with redis.Redis.from_url(embedded_server.url) as store:
        await eventually(lambda: not store.zcard(f"{key_prefix}:{{broker-a}}:popped"))  # the time of "old" is over
    ((message, handle),) = await pop_until(client, 1)
    assert (message.text(), message.reconsume_times) == ("new", 0)
    await client.ok(ack_request(handle))
    assert (await pop(client)).code == ResponseCode.POLLING_TIMEOUT


async def retry(client: BrokerClient, group: str, topic: str) -> None:
    """Has a group pop a topic's one message, not acknowledge it, and pop it again from its retry topic."""
    assert (await pop(client, group=group, topic=topic, invisible_ms=1)).bodies == ["m"]
    ((again, handle),) = await pop_until(client, 1, group=group, topic=topic)
    assert (again.text(), handle.mark) == ("m", "1")


async def test_deleting_a_topic_deletes_its_pop_retry_topics(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    groups = ["G0", "G1"]
    for topic in ("T", "Other"):
        await client.send(topic, "m")
        for group in groups:
            await retry(client, group, topic)
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    base = f"{key_prefix}:{{broker-a}}:"
    with redis.Redis.from_url(embedded_server.url, decode_responses=True) as store:
        for group in groups:
            gone, stays = f"%RETRY%{group}_T", f"%RETRY%{group}_Other"
            assert await topic_code(client, gone) == ResponseCode.TOPIC_NOT_EXIST
            assert await topic_code(client, stays) == ResponseCode.SUCCESS
            assert not store.hexists(f"{base}topics", gone)
            assert not store.exists(f"{base}queue:{gone}:0", f"{base}offsets:{group}:{gone}")
            assert store.exists(f"{base}queue:{stays}:0", f"{base}offsets:{group}:{stays}") == 2
            assert not {f"{group}:T", f"{group}:{gone}"} & store.smembers(f"{base}consumed")
        hidden = {member.split(":")[1] for member in store.zrange(f"{base}popped", 0, -1)}
        assert hidden == {f"%RETRY%{group}_Other" for group in groups}
    await client.send("T", "new")
    for group in groups:  # nothing of the old topic comes back
        ((message, _),) = await pop_until(client, 1, group=group)
        assert message.text() == "new"


async def test_topic_deleted_during_a_redelivery_gets_no_retry_topic(
    broker: Broker,
    client: BrokerClient,
    embedded_server: EmbeddedServer,
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_one = broker.parts.state.queue_store.read_one
    deleted = asyncio.Event()

    async def delete_after_read(queue: Queue, queue_offset: int) -> tuple[int, bytes] | None:
        found = await read_one(queue, queue_offset)
        await broker.parts.state.topics.delete("T")
        deleted.set()
        return found

    monkeypatch.setattr(broker.parts.state.queue_store, "read_one", delete_after_read)
    await client.send("T", "m")
    await pop(client, invisible_ms=1)
    await asyncio.wait_for(deleted.wait(), 30.0)
    await client.send("Other", "m")
    await pop(client, topic="Other", invisible_ms=1)  # what is brought back after it was looked at after it
    monkeypatch.undo()
    await pop_until(client, 1, topic="Other")
    assert await topic_code(client, "%RETRY%G_T") == ResponseCode.TOPIC_NOT_EXIST
    with redis.Redis.from_url(embedded_server.url) as store:
        assert not store.exists(f"{key_prefix}:{{broker-a}}:queue:%RETRY%G_T:0")


async def topic_code(client: BrokerClient, topic: str) -> int:
    return (await client.ask(request(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader(topic)))).code


async def test_ambiguous_retry_topic_is_not_deleted(client: BrokerClient) -> None:
    """%RETRY%a_b_c: of group a and topic b_c, of a_b and c, or the retry topic of a group a_b_c."""
    await client.send("b_c", "m")
    await client.send("c", "m")
    await retry(client, "a", "b_c")
    assert (await pop(client, group="a_b", topic="c")).code == ResponseCode.SUCCESS
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("c")))
    assert await topic_code(client, "%RETRY%a_b_c") == ResponseCode.SUCCESS
    await client.ok(heartbeat_request("client", "a_b_c", {"b_c": "*"}))
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("b_c")))
    assert await topic_code(client, "%RETRY%a_b_c") == ResponseCode.SUCCESS


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"nums": 33}, ResponseCode.INVALID_PARAMETER),
        ({"nums": 0}, ResponseCode.INVALID_PARAMETER),
        ({"invisible_ms": 0}, ResponseCode.INVALID_PARAMETER),
        ({"queue_id": 4}, ResponseCode.INVALID_PARAMETER),
        ({"topic": "unknown"}, ResponseCode.TOPIC_NOT_EXIST),
        ({"group": "bad group"}, ResponseCode.INVALID_PARAMETER),
        ({"group": "g" * 121}, ResponseCode.INVALID_PARAMETER),
        ({"exp": "||", "exp_type": "TAG"}, ResponseCode.SUBSCRIPTION_PARSE_FAILED),
        ({"born_time": 1}, ResponseCode.POLLING_TIMEOUT),
    ],
)
async def test_invalid_pop_requests_are_refused(client: BrokerClient, changes: dict[str, Any], code: int) -> None:
    await client.send("T", "m")
    assert (await pop(client, **changes)).code == code


async def test_invalid_handles_are_refused(client: BrokerClient) -> None:
    await client.send("T", "m")
    handle = (await pop(client)).handles[0]
    for changes, code in (
        ({"topic": "unknown"}, ResponseCode.TOPIC_NOT_EXIST),
        ({"queue_id": 9}, ResponseCode.MESSAGE_ILLEGAL),
        ({"offset": 7}, ResponseCode.NO_MESSAGE),
        ({"extra_info": "x"}, ResponseCode.SYSTEM_ERROR),
    ):
        for command in (ack_request(handle, **changes), change_request(handle, 1000, **changes)):
            assert (await client.ask(command)).code == code


async def test_pop_is_refused_by_a_slave(start_broker: StartBroker, connect: Connect) -> None:
    master = await start_broker()
    await connect(master).send("T", "m")
    slave = connect(await start_broker(broker_id=1))
    await eventually(lambda: slave.pull("T", 0))
    assert (await pop(slave)).code == ResponseCode.SERVICE_NOT_AVAILABLE


async def test_pop_of_a_closed_connection_hides_no_message(client: BrokerClient, connect: Connect) -> None:
    await client.send("T", "first")
    await pop(client)
    gone = connect_of(client, connect)
    waiting = asyncio.create_task(pop(gone, poll_ms=20_000))
    polling = request(RequestCode.POLLING_INFO, PollingInfoRequestHeader("G", "T", -1))
    await eventually(lambda: held_by(client, polling))
    await gone.close()
    with pytest.raises(Exception, match="closed"):
        await waiting
    await client.ok(send_request("T", b"m"))
    assert (await pop(client, poll_ms=20_000)).bodies == ["m"]


def connect_of(client: BrokerClient, connect: Connect) -> BrokerClient:
    return BrokerClient(client.address)


async def held_by(client: BrokerClient, polling: RemotingCommand) -> bool:
    return (await client.ok(polling)).header(PollingInfoResponseHeader).polling_num > 0
