"""Resets that hold against online members, and what tools ask about groups (commands.md 10 and 11)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis as redis_py
from helpers import (
    BrokerClient,
    Connect,
    RawPeer,
    StartBroker,
    eventually,
    heartbeat_request,
    pull_request,
)

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.model import MessageQueue
from rmq_redis.protocol.bodies.base import dumps, loads
from rmq_redis.protocol.command import RemotingCommand, request, response
from rmq_redis.protocol.group_config import SubscriptionGroupConfig
from rmq_redis.protocol.headers.admin import (
    BrokerConsumeStatsRequestHeader,
    CreateTopicRequestHeader,
    DeleteSubscriptionGroupRequestHeader,
    TopicGroupRequestHeader,
)
from rmq_redis.protocol.headers.clients import ConsumerClientRequestHeader, ConsumerStatusRequestHeader
from rmq_redis.protocol.headers.offsets import (
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    ResetOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from rmq_redis.protocol.headers.pop import PopMessageRequestHeader
from rmq_redis.protocol.headers.query import QueryConsumeQueueRequestHeader
from rmq_redis.protocol.record import decode_records
from rmq_redis.store.embedded import EmbeddedServer

FOUND, NO_NEW, MOVED = 0, 19, 21
TO_END = -1


async def put_topic(client: BrokerClient, topic: str, queues: int = 1) -> None:
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader(topic, queues, queues, 6)))


async def put_group(client: BrokerClient, group: str) -> None:
    body = dumps(SubscriptionGroupConfig(group_name=group))
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=body))


async def with_messages(client: BrokerClient, count: int = 10) -> None:
    await put_topic(client, "T")
    await put_group(client, "G")
    for number in range(count):
        await client.send("T", str(number))


def reset_request(timestamp: int = 0, **fields: Any) -> RemotingCommand:
    header = ResetOffsetRequestHeader(**({"topic": "T", "group": "G", "timestamp": timestamp} | fields))
    return request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, header)


async def reset(client: BrokerClient, timestamp: int = 0, **fields: Any) -> dict[MessageQueue, int]:
    table: dict[MessageQueue, int] = loads((await client.ok(reset_request(timestamp, **fields))).body)["offsetTable"]
    return table


async def commit(client: BrokerClient, offset: int, queue_id: int = 0) -> None:
    header = UpdateConsumerOffsetRequestHeader("G", "T", queue_id, offset)
    await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, header))


async def committed(client: BrokerClient, queue_id: int = 0) -> int:
    header = QueryConsumerOffsetRequestHeader("G", "T", queue_id, False)
    return (await client.ok(request(RequestCode.QUERY_CONSUMER_OFFSET, header))).header(OffsetResponseHeader).offset


async def moved_to(client: BrokerClient, offset: int) -> int | None:
    """Where a pull from ``offset`` is sent; None when it is not."""
    pulled = await client.pull("T", offset)
    return pulled.header.next_begin_offset if pulled.code == MOVED else None


# --- resets ----------------------------------------------------------------------------------------------------------


async def test_reset_moves_the_next_pull_and_blocks_commits(client: BrokerClient) -> None:
    await with_messages(client)
    await commit(client, 8)
    assert await reset(client) == {MessageQueue("T", "broker-a", 0): 0}
    assert await committed(client) == 0
    await commit(client, 9)  # by a member that does not know yet
    assert (await client.pull("T", 9, commit=9)).outcome == (MOVED, 0)
    assert await committed(client) == 0
    pulled = await client.pull("T", 0)
    assert pulled.bodies == [str(number) for number in range(10)]
    await commit(client, 3)
    assert await committed(client) == 3
    assert (await client.pull("T", 3)).code == FOUND


async def test_reset_ends_only_with_a_pull_at_the_new_offset(client: BrokerClient) -> None:
    await with_messages(client)
    await reset(client, TO_END)
    assert [await moved_to(client, 3), await moved_to(client, 4)] == [10, 10]  # the first answer may have got lost
    assert await moved_to(client, 10) is None
    assert await moved_to(client, 3) is None


async def test_reset_ends_for_a_member_that_keeps_ignoring_it(client: BrokerClient) -> None:
    await with_messages(client)
    await reset(client, TO_END)
    answers = [await moved_to(client, 3) for _ in range(20)]
    assert answers[0] == 10
    assert answers[-1] is None


async def test_reset_does_not_affect_other_groups_and_topics(client: BrokerClient) -> None:
    await with_messages(client)
    await put_group(client, "H")
    await client.send("U", "x", "y")
    await reset(client, TO_END)
    assert (await client.pull("T", 3, group="H")).code == FOUND
    assert (await client.pull("U", 1)).code == FOUND


async def test_reset_ends_a_held_pull_at_once(broker: Broker, client: BrokerClient) -> None:
    await with_messages(client)
    await put_group(client, "H")
    pulls = [client.pull_later("T", 10), client.pull_later("T", 10, group="H")]
    await eventually(lambda: broker.parts.pulls.hold.count == 2)
    await reset(client)
    assert (await pulls[0]).outcome == (MOVED, 0)
    assert not pulls[1].done()
    await client.send("T", "new")
    assert (await pulls[1]).bodies == ["new"]


async def test_held_pull_at_the_new_offset_keeps_waiting_or_is_answered(broker: Broker, client: BrokerClient) -> None:
    await with_messages(client)
    pull = client.pull_later("T", 10)
    await eventually(lambda: broker.parts.pulls.hold.count == 1)
    await reset(client, TO_END)
    await client.send("T", "new")
    assert (await pull).bodies == ["new"]
    assert await moved_to(client, 3) is None


async def test_reset_survives_a_broker_restart(
    start_broker: StartBroker, connect: Connect, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    async def start_successor() -> Broker:
        """A second master over the same store, as after kill -9: nothing of the first one's memory is in it."""
        with redis_py.Redis.from_url(embedded_server.url) as redis:
            redis.delete(f"{key_prefix}:{{broker-a}}:lease")
        return await start_broker()

    broker = await start_broker()
    client = connect(broker)
    await with_messages(client)
    await commit(client, 8)
    await reset(client)
    await commit(client, 9)
    successor = connect(await start_successor())
    assert await committed(successor) == 0
    await commit(successor, 9)
    assert (await moved_to(successor, 9), await committed(successor)) == (0, 0)
    assert (await successor.pull("T", 0)).code == FOUND
    await commit(successor, 4)
    field = f"{key_prefix}:{{broker-a}}:offset-resets"
    with redis_py.Redis.from_url(embedded_server.url) as redis:
        await eventually(lambda: not redis.exists(field))  # written with the next flush
    third = connect(await start_successor())
    assert await moved_to(third, 5) is None
    assert await committed(third) == 4


async def test_reset_to_a_time_moves_only_backwards(client: BrokerClient) -> None:
    await with_messages(client, 4)
    stored = [m.store_timestamp_ms for m in decode_records((await client.ok(pull_request("T", 0))).body)]
    later = stored[-1] + 60_000
    await commit(client, 2)
    assert await reset(client, later, is_force=False) == {MessageQueue("T", "broker-a", 0): 2}
    assert await reset(client, stored[0], is_force=False) == {MessageQueue("T", "broker-a", 0): 0}
    assert await reset(client, later) == {MessageQueue("T", "broker-a", 0): 4}
    assert await reset(client, stored[-1]) == {MessageQueue("T", "broker-a", 0): stored.index(stored[-1])}


async def test_one_queue_is_reset_to_an_offset(client: BrokerClient) -> None:
    await put_topic(client, "T", 2)
    await put_group(client, "G")
    await client.send("T", "a", "b", "c", queue_id=1)
    assert await reset(client, queue_id=1, offset=2) == {MessageQueue("T", "broker-a", 1): 2}
    assert await reset(client, TO_END, queue_id=1) == {MessageQueue("T", "broker-a", 1): 3}
    assert await reset(client) == {MessageQueue("T", "broker-a", 0): 0, MessageQueue("T", "broker-a", 1): 0}
    for wrong in ({"queue_id": 2}, {"queue_id": 1, "offset": 4}, {"queue_id": 1, "offset": -2}):
        assert (await client.ask(reset_request(**wrong))).code == 29


async def test_one_queue_is_reset_forward_without_force(client: BrokerClient) -> None:
    await with_messages(client)
    for offset in (3, 5, 2, 9):  # as resetOffsetByQueueId of mqadmin: a commit, then 222 with isForce false
        await commit(client, offset)
        assert await reset(client, queue_id=0, offset=offset, is_force=False) == {
            MessageQueue("T", "broker-a", 0): offset
        }
        assert await committed(client) == offset
    assert await moved_to(client, 0) == 9
    assert await reset(client, TO_END, queue_id=0, is_force=False) == {MessageQueue("T", "broker-a", 0): 10}


async def test_commit_during_a_reset_is_ignored_and_reported(client: BrokerClient) -> None:
    await with_messages(client)
    await reset(client, queue_id=0, offset=3)
    header = UpdateConsumerOffsetRequestHeader("G", "T", 0, 7)
    answer = await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, header))
    assert answer.remark == "Offset has been previously reset"
    assert await committed(client) == 3


async def test_last_of_two_pending_resets_wins(client: BrokerClient) -> None:
    await with_messages(client)
    await commit(client, 8)
    await reset(client, queue_id=0, offset=3)
    assert await moved_to(client, 8) == 3
    await reset(client, queue_id=0, offset=5)
    await commit(client, 3)  # by a member that heard the first and drops the queue
    assert await moved_to(client, 3) == 5
    assert (await client.pull("T", 5)).code == FOUND
    await commit(client, 6)
    assert await committed(client) == 6


async def test_last_reset_wins_over_concurrent_commits(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    await with_messages(client)
    asked = []
    for offset in (1, 9, 4, 7):
        asked += [client.ask(reset_request(queue_id=0, offset=offset)) for _ in range(2)]
        asked.append(
            client.ask(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, 2)))
        )
    await asyncio.gather(*asked)
    assert await committed(client) == 7
    with redis_py.Redis.from_url(embedded_server.url) as redis:
        stored = f"{key_prefix}:{{broker-a}}:offsets:G:T"
        await eventually(lambda: redis.hget(stored, "0") == b"7")


@pytest.mark.parametrize("order", [False, True])
async def test_reset_is_not_undone_by_a_concurrent_pop(
    broker: Broker, client: BrokerClient, monkeypatch: pytest.MonkeyPatch, order: bool
) -> None:
    await with_messages(client)
    read_records = broker.parts.state.queue_store.read_records
    reads = 0

    async def reset_meanwhile(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        answer = await read_records(*args)
        if reads == 1:
            await reset(client, queue_id=0, offset=6)
        return answer

    monkeypatch.setattr(broker.parts.state.queue_store, "read_records", reset_meanwhile)
    header = PopMessageRequestHeader("G", "T", 0, 2, 60_000, 5_000, int(time.time() * 1000), order=order)
    answer = await client.ok(request(RequestCode.POP_MESSAGE, header))
    assert [message.text() for message in decode_records(answer.body)] == ["6", "7"]
    assert await moved_to(client, 0) is None  # taking from there ends the reset


async def test_reset_of_unknown_topic_or_group_is_an_error(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker()
    client = connect(broker)
    await with_messages(client)
    assert (await client.ask(reset_request(topic="none"))).code == 17
    assert (await client.ask(reset_request(group="none"))).code == 26


async def test_deleting_a_group_ends_its_reset(broker: Broker, client: BrokerClient) -> None:
    await with_messages(client)
    await reset(client, TO_END)
    header = DeleteSubscriptionGroupRequestHeader("G", True)
    await client.ok(request(RequestCode.DELETE_SUBSCRIPTIONGROUP, header))
    await put_group(client, "G")
    assert await moved_to(client, 3) is None


# --- members ---------------------------------------------------------------------------------------------------------


class Member:
    """A consumer that answers what the broker asks with what the test says, or not at all."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer

    @classmethod
    async def join(cls, broker: Broker, client_id: str, group: str = "G") -> Member:
        peer = await RawPeer.connect(broker.port)
        await peer.send(heartbeat_request(client_id, group, {"T": "TagA"}))
        while (await peer.receive()).code == RequestCode.NOTIFY_CONSUMER_IDS_CHANGED:
            pass
        return cls(peer)

    async def asked(self) -> RemotingCommand:
        while (command := await self.peer.receive()).code == RequestCode.NOTIFY_CONSUMER_IDS_CHANGED:
            pass
        return command

    async def answer(self, body: bytes, code: int = 0, remark: str | None = None) -> RemotingCommand:
        command = await self.asked()
        await self.peer.send(response(command, code, body=body, remark=remark))
        return command


def running_info(client_id: str, group: str = "G") -> RemotingCommand:
    command = request(RequestCode.GET_CONSUMER_RUNNING_INFO, ConsumerClientRequestHeader(group, client_id))
    command.fields["jstackEnable"] = "true"  # type: ignore[index,call-overload]
    return command


async def test_running_info_is_forwarded_from_the_member(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")
    members = {name: await Member.join(broker, name) for name in ("one", "two")}
    asking = asyncio.create_task(client.ask(running_info("two")))
    asked = await members["two"].answer(b'{"mqTable":{}}')
    assert asked.ext_fields == {"consumerGroup": "G", "clientId": "two", "jstackEnable": "true"}
    assert (await asking).body == b'{"mqTable":{}}'
    asking = asyncio.create_task(client.ask(running_info("one")))
    await members["one"].answer(b"", 1, "not today")
    assert ((await asking).code, (await asking).remark) == (1, "not today")


async def test_running_info_of_an_absent_member_is_an_error(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")
    member = await Member.join(broker, "one")
    for command in (running_info("two"), running_info("one", "H")):
        answer = await client.ask(command)
        assert answer.code == 1
        assert "is not online" in (answer.remark or "")
    asking = asyncio.create_task(client.ask(running_info("one")))
    await member.asked()
    await member.peer.close()
    assert (await asking).code == 1


async def test_direct_consumption_delivers_a_message_to_one_member(broker: Broker, client: BrokerClient) -> None:
    await with_messages(client, 3)
    member = await Member.join(broker, "one")
    [wanted] = [m for m in decode_records((await client.ok(pull_request("T", 0))).body) if m.body == b"1"]
    header = ConsumerClientRequestHeader("G", "one", wanted.offset_msg_id, "T")
    asking = asyncio.create_task(client.ask(request(RequestCode.CONSUME_MESSAGE_DIRECTLY, header)))
    asked = await member.answer(b'{"consumeResult":"CR_SUCCESS"}')
    assert [m.body for m in decode_records(asked.body)] == [b"1"]
    assert asked.ext_fields["brokerName"] == "broker-a"
    assert (await asking).body == b'{"consumeResult":"CR_SUCCESS"}'
    missing = wanted.offset_msg_id[:-1] + "F"
    for wrong in (missing, "nonsense", ""):
        header = ConsumerClientRequestHeader("G", "one", wrong, "T")
        assert (await client.ask(request(RequestCode.CONSUME_MESSAGE_DIRECTLY, header))).code == 1


async def test_status_is_returned_for_all_members_or_for_one(broker: Broker, client: BrokerClient) -> None:
    await put_topic(client, "T")
    members = {name: await Member.join(broker, name) for name in ("one", "two")}
    queue = MessageQueue("T", "broker-a", 0)

    async def ask(client_addr: str | None = None) -> Any:
        header = ConsumerStatusRequestHeader("T", "G", client_addr)
        return await client.get(RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, header)

    asking = asyncio.create_task(ask())
    await members["one"].answer(dumps({"messageQueueTable": {queue: 7}}))
    await members["two"].answer(b"nonsense")
    assert await asking == {"consumerTable": {"one": {queue: 7}, "two": {}}}
    asking = asyncio.create_task(ask("two"))
    asked = await members["two"].answer(dumps({"messageQueueTable": {queue: 8}}))
    assert (asked.code, asked.ext_fields) == (221, {"topic": "T", "group": "G"})
    assert await asking == {"consumerTable": {"two": {queue: 8}}}
    for group, client_addr in (("H", None), ("G", "three")):
        header = ConsumerStatusRequestHeader("T", group, client_addr)
        assert (await client.ask(request(RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, header))).code == 206


# --- inspection ------------------------------------------------------------------------------------------------------


async def test_subscription_of_a_group_is_returned(client: BrokerClient) -> None:
    header = TopicGroupRequestHeader("T", "G")
    offline = await client.get(RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER, header)
    assert offline == {"group": "G", "topic": "T"}
    await client.ok(heartbeat_request("one", "G", {"T": "TagA"}))
    online = await client.get(RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER, header)
    assert online["subscriptionData"]["subString"] == "TagA"


async def test_connected_producers_are_listed(client: BrokerClient) -> None:
    await client.ok(heartbeat_request("one", producer_group="P"))
    data = (await client.get(RequestCode.GET_ALL_PRODUCER_INFO))["data"]
    [producer] = data["P"]
    assert (producer["clientId"], producer["language"]) == ("one", "PYTHON")
    assert producer["remoteIP"].startswith("127.0.0.1:")
    assert producer["lastUpdateTimestamp"] > 0


async def test_queue_entries_are_listed_with_filter_results(client: BrokerClient) -> None:
    for body, tags in (("a", "TagA"), ("b", "TagB"), ("c", "")):
        await client.send("T", body, tags=tags)

    async def entries(index: int, count: int, group: str | None = None) -> Any:
        header = QueryConsumeQueueRequestHeader("T", 0, index, count, group)
        return await client.get(RequestCode.QUERY_CONSUME_QUEUE, header)

    found = await entries(0, 10)
    assert (found["minQueueIndex"], found["maxQueueIndex"]) == (0, 3)
    records = decode_records((await client.ok(pull_request("T", 0))).body)
    assert [entry["physicOffset"] for entry in found["queueData"]] == [m.commit_log_offset for m in records]
    assert [entry["tagsCode"] for entry in found["queueData"]] == [2598919, 2598920, 0]
    assert len((await entries(1, 1))["queueData"]) == 1
    assert (await entries(3, 5))["queueData"] == (await entries(0, -1))["queueData"] == []
    assert (await entries(0, 3, "G"))["filterData"] == "G@T is not online!"
    await client.ok(heartbeat_request("one", "G", {"T": "TagB"}))
    found = await entries(0, 3, "G")
    assert found["subscriptionData"]["subString"] == "TagB"
    assert [entry["eval"] for entry in found["queueData"]] == [False, True, False]
    header = QueryConsumeQueueRequestHeader("T", 99, 0, 1)
    assert (await client.ask(request(RequestCode.QUERY_CONSUME_QUEUE, header))).code == 1


async def test_time_span_and_progress_of_groups_are_returned(client: BrokerClient) -> None:
    await with_messages(client, 3)
    await put_topic(client, "empty")
    await commit(client, 2)
    stored = [m.store_timestamp_ms for m in decode_records((await client.ok(pull_request("T", 0))).body)]
    header = TopicGroupRequestHeader("T", "G")
    [span] = (await client.get(RequestCode.QUERY_CONSUME_TIME_SPAN, header))["consumeTimeSpanSet"]
    assert span["messageQueue"] == {"brokerName": "broker-a", "queueId": 0, "topic": "T"}
    assert [span[name] for name in ("minTimeStamp", "maxTimeStamp", "consumeTimeStamp")] == [
        stored[0],
        stored[2],
        stored[1],
    ]
    assert span["delayTime"] >= 0
    header = TopicGroupRequestHeader("empty", "G")
    [span] = (await client.get(RequestCode.QUERY_CONSUME_TIME_SPAN, header))["consumeTimeSpanSet"]
    assert (span["minTimeStamp"], span["maxTimeStamp"], span["delayTime"]) == (-1, -1, 0)
    header = TopicGroupRequestHeader("none", "G")
    assert (await client.ask(request(RequestCode.QUERY_CONSUME_TIME_SPAN, header))).code == 17

    async def stats(is_order: bool) -> Any:
        header = BrokerConsumeStatsRequestHeader(is_order)
        return await client.get(RequestCode.GET_BROKER_CONSUME_STATS, header)

    found = await stats(False)
    assert found["totalDiff"] == 1
    [of_group] = [groups["G"] for groups in found["consumeStatsList"] if "G" in groups]
    [progress] = [item["offsetTable"][MessageQueue("T", "broker-a", 0)] for item in of_group]
    assert (progress["brokerOffset"], progress["consumerOffset"], progress["lastTimestamp"]) == (3, 2, stored[1])
    assert (await stats(True))["totalDiff"] == 0


@pytest.mark.parametrize("code", [222, 223, 303, 307, 309, 321, 345])
async def test_requests_without_required_fields_are_refused(client: BrokerClient, code: int) -> None:
    assert (await client.ask(request(code, body=b"nonsense"))).code == 1
