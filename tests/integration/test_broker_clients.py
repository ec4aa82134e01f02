"""Who is connected: heartbeats, membership, notifications, expiry, queue locks (commands.md 7, messages.md 9, 11)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from helpers import (
    BrokerClient,
    Connect,
    FakeNameServer,
    RawPeer,
    StartBroker,
    eventually,
    heartbeat_request,
)

from rmq_redis.broker.broker import Broker
from rmq_redis.broker.group import retry_notice
from rmq_redis.codes import RequestCode
from rmq_redis.model import MessageQueue
from rmq_redis.protocol.bodies.base import dumps, loads
from rmq_redis.protocol.bodies.registration import decode_register_body
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.group_config import SubscriptionGroupConfig
from rmq_redis.protocol.headers.admin import GroupRequestHeader, TopicRequestHeader
from rmq_redis.protocol.headers.clients import (
    ConsumerGroupRequestHeader,
    ProducerGroupRequestHeader,
    UnregisterClientRequestHeader,
)

CONSUMER_LIST = RequestCode.GET_CONSUMER_LIST_BY_GROUP


async def members(client: BrokerClient, group: str = "G") -> list[str] | int:
    """Client ids of a group, or the code of the error."""
    answer = await client.ask(request(CONSUMER_LIST, ConsumerGroupRequestHeader(group)))
    return loads(answer.body)["consumerIdList"] if answer.code == 0 else answer.code


def unregister(client_id: str, *, consumer: str | None = None, producer: str | None = None) -> RemotingCommand:
    return request(RequestCode.UNREGISTER_CLIENT, UnregisterClientRequestHeader(client_id, producer, consumer))


async def notified(client: BrokerClient, times: int) -> None:
    """Waits until a client was told ``times`` times that its group changed; the list is emptied."""
    await eventually(lambda: len(client.notified) >= times, f"{times} notifications")
    assert len(client.notified) == times
    for command in client.notified:
        assert command.code == RequestCode.NOTIFY_CONSUMER_IDS_CHANGED
        assert command.is_oneway
        assert command.ext_fields == {"consumerGroup": "G"}
    client.notified.clear()


async def not_notified(broker: Broker, *clients: BrokerClient) -> None:
    """What the broker wrote before this answer has arrived with it."""
    for client in clients:
        await client.ask(request(9999))
        assert not client.notified


# --- heartbeats ------------------------------------------------------------------------------------------------------


async def test_first_heartbeat_registers_group_and_retry_topic(
    client: BrokerClient, fake_namesrv: FakeNameServer
) -> None:
    answer = await client.ok(heartbeat_request("id", "G", {"T": "*", "%RETRY%G": "*"}))
    assert answer.version >= 401
    table = decode_register_body(fake_namesrv.registrations[-1].body, sender_version=479).topic_config_table
    retry = table["%RETRY%G"]
    assert (retry.read_queue_nums, retry.write_queue_nums, retry.perm) == (1, 1, 6)
    assert await client.get(RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG, GroupRequestHeader("G")) == loads(
        dumps(SubscriptionGroupConfig(group_name="G"))
    )


async def test_heartbeat_response_waits_for_retry_topic_registration(
    broker: Broker, client: BrokerClient, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = asyncio.Event()
    monkeypatch.setattr(broker.parts.state.topics, "_on_change", registered.wait)
    first = asyncio.create_task(client.ok(heartbeat_request("one", "G", {"T": "*"})))
    await eventually(lambda: "%RETRY%G" in broker.parts.state.topics.topics)
    second = asyncio.create_task(connect(broker).ok(heartbeat_request("two", "G", {"T": "*"})))
    other = connect(broker)
    await other.ok(heartbeat_request("three", producer_group="P"))  # who has nothing to do with it does not wait
    await eventually(lambda: len(broker._server.connections) == 3)  # type: ignore[union-attr]
    done, _ = await asyncio.wait([first, second], timeout=0.1)
    assert not done
    registered.set()
    await asyncio.gather(first, second)
    assert await members(client) == ["one", "two"]


async def test_members_that_do_not_pull_their_first_retry_are_notified(
    broker: Broker, client: BrokerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have asked for routes before the retry topic was there, and would rebalance some 20 s later."""
    monkeypatch.setattr(retry_notice, "_PERIOD_S", 0.02)
    await client.ok(heartbeat_request("one", "G", {"T": "*"}))
    await eventually(lambda: client.notified)
    client.notified.clear()
    await client.send("%RETRY%G", "first")
    await eventually(lambda: len(client.notified) >= 3)  # until somebody pulls
    assert client.notified[0].code == RequestCode.NOTIFY_CONSUMER_IDS_CHANGED
    assert (await client.pull("%RETRY%G", 0)).bodies == ["first"]
    await eventually(lambda: not broker.parts.retry_notice._timers)
    client.notified.clear()
    await client.send("%RETRY%G", "second")
    await not_notified(broker, client)


async def test_only_first_retries_of_online_groups_are_notified(broker: Broker, client: BrokerClient) -> None:
    await client.ok(heartbeat_request("one", "G", {"T": "*"}))
    await eventually(lambda: client.notified)
    client.notified.clear()
    await client.ok(heartbeat_request("two", "B", {"T": "*"}, messageModel="BROADCASTING"))
    for topic in ("T", "%RETRY%offline", "%RETRY%B"):
        await client.send(topic, "m")
    await not_notified(broker, client)
    assert not broker.parts.retry_notice._timers


async def test_retry_topic_has_the_queue_count_of_its_group(client: BrokerClient) -> None:
    config = SubscriptionGroupConfig(group_name="G", retry_queue_nums=3)
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=dumps(config)))
    await client.ok(heartbeat_request("id", "G", {"T": "*"}))
    topic = await client.get(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader("%RETRY%G"))
    assert topic["readQueueNums"] == 3


async def test_unknown_group_is_refused_without_automatic_creation(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(auto_create_subscription_group=False))
    assert (await client.ask(heartbeat_request("id", "G", {"T": "*"}))).code == 26
    assert await members(client) == 1


@pytest.mark.parametrize("group", ["", "a b", "a:b", "x" * 121, "标签"])
async def test_illegal_group_name_is_refused_with_29(client: BrokerClient, group: str) -> None:
    assert (await client.ask(heartbeat_request("id", group, {"T": "*"}))).code == 29


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b'{"clientID":"x","consumerDataSet":[{}]}', b"\xff"])
async def test_malformed_heartbeat_is_an_error_without_closing(client: BrokerClient, body: bytes) -> None:
    answer = await client.ask(request(RequestCode.HEART_BEAT, body=body))
    assert answer.code == 1
    assert answer.remark
    await client.ok(heartbeat_request("id", "G", {"T": "*"}))


async def test_connection_has_many_groups_and_client_id_many_connections(
    broker: Broker, client: BrokerClient, connect: Connect
) -> None:
    other = connect(broker)
    data = {
        "clientID": "ip@1",
        "consumerDataSet": [{"groupName": "G"}, {"groupName": "H"}],
        "producerDataSet": [{"groupName": "P"}, {"groupName": "CLIENT_INNER_PRODUCER"}],
    }
    await client.ok(request(RequestCode.HEART_BEAT, body=json.dumps(data).encode()))
    await other.ok(heartbeat_request("ip@1", "G", {"T": "*"}))
    assert await members(client) == ["ip@1"]
    assert await members(client, "H") == ["ip@1"]
    await other.close()
    await eventually(lambda: len(broker.parts.clients.consumer_groups["G"].members) == 1)
    assert await members(client) == ["ip@1"]


async def test_heartbeat_without_sub_keeps_the_subscriptions(client: BrokerClient) -> None:
    await client.send("T", "a")
    await client.ok(heartbeat_request("id", "G", {"T": "*"}))
    data = {"clientID": "id", "withoutSub": True, "consumerDataSet": [{"groupName": "G"}]}
    await client.ok(request(RequestCode.HEART_BEAT, body=json.dumps(data).encode()))
    assert (await client.pull("T", 0, subscription=None)).code == 0
    await client.ok(heartbeat_request("id", "G", {"U": "*"}))
    assert (await client.pull("T", 0, subscription=None)).code == 24


# --- 38 --------------------------------------------------------------------------------------------------------------


async def test_group_without_members_is_an_error_not_an_empty_list(client: BrokerClient) -> None:
    assert await members(client) == 1
    await client.ok(heartbeat_request("id", "G", {"T": "*"}))
    await client.ok(unregister("id", consumer="G"))
    assert await members(client) == 1


async def test_members_are_clients_with_an_open_connection(broker: Broker, connect: Connect) -> None:
    clients = [connect(broker) for _ in range(3)]
    for i, client in enumerate(clients):
        await client.ok(heartbeat_request(f"id-{i}", "G", {"T": "*"}))
    assert await members(clients[0]) == ["id-0", "id-1", "id-2"]
    await clients[1].close()
    await eventually(lambda: len(broker.parts.clients.consumer_groups["G"].members) == 2)
    assert await members(clients[0]) == ["id-0", "id-2"]
    assert await members(clients[0], "Other") == 1


# --- 40 --------------------------------------------------------------------------------------------------------------


async def test_members_are_notified_of_joins_leaves_and_disconnects(broker: Broker, connect: Connect) -> None:
    a, b, c, stranger = (connect(broker) for _ in range(4))
    await stranger.ok(heartbeat_request("s", "Other", {"T": "*"}))
    stranger.notified.clear()
    await a.ok(heartbeat_request("a", "G", {"T": "*"}))
    await notified(a, 1)
    await b.ok(heartbeat_request("b", "G", {"T": "*"}))
    await notified(a, 1)
    await notified(b, 1)
    await c.ok(heartbeat_request("c", "G", {"T": "*"}))
    for client in (a, b, c):
        await notified(client, 1)
    await a.ok(heartbeat_request("a", "G", {"T": "*"}))  # nothing new
    await not_notified(broker, a, b, c)
    await b.ok(unregister("b", consumer="G"))
    await notified(a, 1)
    await notified(c, 1)
    await not_notified(broker, b, stranger)
    await c.close()
    await notified(a, 1)
    await not_notified(broker, b, stranger)


async def test_members_are_notified_of_new_topics_not_of_new_expressions(broker: Broker, connect: Connect) -> None:
    a, b = connect(broker), connect(broker)
    for client, name in ((a, "a"), (b, "b")):
        await client.ok(heartbeat_request(name, "G", {"T": "*"}))
    await notified(a, 2)
    await notified(b, 1)
    await a.ok(heartbeat_request("a", "G", {"T": "TagA"}, sub_version=2))
    await not_notified(broker, a, b)
    await a.ok(heartbeat_request("a", "G", {"T": "TagA", "U": "*"}, sub_version=3))
    await notified(b, 1)


async def test_broadcasting_groups_are_not_notified(broker: Broker, connect: Connect) -> None:
    a, b = connect(broker), connect(broker)
    for client, name in ((a, "a"), (b, "b")):
        await client.ok(heartbeat_request(name, "G", {"T": "*"}, messageModel="BROADCASTING"))
    await not_notified(broker, a, b)


async def test_member_notifications_can_be_disabled(broker: Broker, connect: Connect) -> None:
    a, b = connect(broker), connect(broker)
    config = SubscriptionGroupConfig(group_name="G", notify_consumer_ids_changed_enable=False)
    await a.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=dumps(config)))
    for client, name in ((a, "a"), (b, "b")):
        await client.ok(heartbeat_request(name, "G", {"T": "*"}))
    await not_notified(broker, a, b)


# --- leaving ---------------------------------------------------------------------------------------------------------


async def test_unregister_is_idempotent_and_affects_no_other_client(broker: Broker, connect: Connect) -> None:
    a, b = connect(broker), connect(broker)
    await a.ok(heartbeat_request("a", "G", {"T": "*"}, producer_group="P"))
    await b.ok(heartbeat_request("b", "G", {"T": "*"}))
    await b.ok(unregister("a", consumer="G", producer="P"))  # not over its own connection
    assert await members(a) == ["a", "b"]
    for _ in range(2):
        await a.ok(unregister("a", consumer="G", producer="P"))
        assert await members(a) == ["b"]
    await a.ok(unregister("x", consumer="Nonesuch", producer="Nonesuch"))
    await a.ok(unregister("x"))


async def test_client_without_heartbeats_expires(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(client_expiry_s=0.4)
    silent, alive = connect(broker), connect(broker)
    await silent.ok(heartbeat_request("silent", "G", {"T": "*"}, producer_group="P"))

    async def only_alive() -> bool:
        await alive.ok(heartbeat_request("alive", "G", {"T": "*"}))
        return await members(alive) == ["alive"]

    await eventually(only_alive)
    producers = request(RequestCode.GET_PRODUCER_CONNECTION_LIST, ProducerGroupRequestHeader("P"))
    assert (await alive.ask(producers)).code == 1
    # The connection is still there, and a heartbeat brings the client back.
    await silent.ok(heartbeat_request("silent", "G", {"T": "*"}))
    assert "silent" in await members(silent)  # type: ignore[operator]


async def test_producers_are_registered_by_their_heartbeats(broker: Broker, connect: Connect) -> None:
    a, b = connect(broker), connect(broker)
    for client, name in ((a, "a"), (b, "b")):
        await client.ok(heartbeat_request(name, producer_group="P"))
    header = ProducerGroupRequestHeader("P")
    data = await a.get(RequestCode.GET_PRODUCER_CONNECTION_LIST, header)
    assert sorted(item["clientId"] for item in data["connectionSet"]) == ["a", "b"]
    assert {item["language"] for item in data["connectionSet"]} == {"PYTHON"}
    await b.close()

    async def one_left() -> bool:
        return len((await a.get(RequestCode.GET_PRODUCER_CONNECTION_LIST, header))["connectionSet"]) == 1

    await eventually(one_left)
    await a.ok(unregister("a", producer="P"))
    assert (await a.ask(request(RequestCode.GET_PRODUCER_CONNECTION_LIST, header))).code == 1


async def test_connection_lost_in_first_heartbeat_leaves_no_member(broker: Broker, client: BrokerClient) -> None:
    for i in range(10):
        peer = await RawPeer.connect(broker.port)
        await peer.send(heartbeat_request(f"id-{i}", f"G{i}", {"T": "*"}))
        peer.writer.transport.abort()
    await client.ok(heartbeat_request("mine", "G", {"T": "*"}))
    await eventually(lambda: list(broker.parts.clients.consumer_groups) == ["G"])


async def test_client_config_check_compiles_the_expression(client: BrokerClient) -> None:
    def check(subscription: Any) -> RemotingCommand:
        return request(RequestCode.CHECK_CLIENT_CONFIG, body=json.dumps({"subscriptionData": subscription}).encode())

    async def code_of(**subscription: Any) -> int:
        return (await client.ask(check({"topic": "T", **subscription}))).code

    assert await code_of(expressionType="TAG") == 0
    assert await code_of() == 0
    assert (await client.ask(check(None))).code == 0
    assert await code_of(expressionType="SQL92", subString="a > 1 AND b IS NULL") == 0
    for wrong in ("a >", "*", "", None, 5, ["a"]):
        assert await code_of(expressionType="SQL92", subString=wrong) == 23
    refused = await client.ask(check({"expressionType": "SQL92", "subString": "a > 1 AND b LIKE 'x'"}))
    assert "'LIKE' is not expected at character 13" in (refused.remark or "")
    for kind in ("CLASS", 5, {"a": 1}):
        assert await code_of(expressionType=kind, subString="a = 1") == 1


# --- locks -----------------------------------------------------------------------------------------------------------


def queues(*ids: int) -> list[MessageQueue]:
    return [MessageQueue("T", "broker-a", i) for i in ids]


async def lock(client: BrokerClient, client_id: str, *ids: int, group: str = "G") -> list[int]:
    """Asks for locks; returns the queue ids that were granted."""
    body = dumps({"clientId": client_id, "consumerGroup": group, "mqSet": queues(*ids)})
    data = await client.get(RequestCode.LOCK_BATCH_MQ, body=body)
    granted = data["lockOKMQSet"]
    assert all((item["topic"], item["brokerName"]) == ("T", "broker-a") for item in granted)
    return [item["queueId"] for item in granted]


async def unlock(client: BrokerClient, client_id: str, *ids: int) -> None:
    body = dumps({"clientId": client_id, "consumerGroup": "G", "mqSet": queues(*ids), "onlyThisBroker": False})
    await client.ok(request(RequestCode.UNLOCK_BATCH_MQ, body=body))


async def test_queue_is_locked_by_one_client_of_the_group(client: BrokerClient) -> None:
    assert await lock(client, "a", 0, 1) == [0, 1]
    assert await lock(client, "b", 0, 1, 2) == [2]
    assert await lock(client, "a", 0, 1, 2) == [0, 1]  # renewed
    assert await lock(client, "b", 0, group="Other") == [0]
    assert await lock(client, "b") == []


async def test_only_the_holder_releases_a_lock(client: BrokerClient) -> None:
    await lock(client, "a", 0, 1)
    await unlock(client, "b", 0, 1)
    assert await lock(client, "b", 0, 1) == []
    await unlock(client, "a", 0)
    assert await lock(client, "b", 0, 1) == [0]
    await unlock(client, "nobody", 5)


async def test_lock_expires_unless_renewed(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(lock_expiry_s=0.3))
    assert await lock(client, "a", 0, 1) == [0, 1]
    taken: set[int] = set()

    async def takes_over() -> bool:
        await lock(client, "a", 1)  # renews one of the two
        taken.update(await lock(client, "b", 0, 1))
        return 0 in taken

    await eventually(takes_over)
    assert taken == {0}
    assert await lock(client, "a", 0) == []


@pytest.mark.parametrize("code", [RequestCode.LOCK_BATCH_MQ, RequestCode.UNLOCK_BATCH_MQ])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"clientId":"a"}',
        b'{"clientId":"a","consumerGroup":5}',
        b'{"clientId":"a","consumerGroup":"G","mqSet":5}',
        b'{"clientId":"a","consumerGroup":"G","mqSet":[{"topic":"T"}]}',
    ],
)
async def test_malformed_lock_request_is_an_error(client: BrokerClient, code: int, body: bytes) -> None:
    assert (await client.ask(request(code, body=body))).code == 1


async def test_contenders_never_hold_a_lock_at_the_same_time(broker: Broker, connect: Connect) -> None:
    clients = {name: connect(broker) for name in "abc"}
    holders: dict[int, str] = {}

    async def contend(name: str, client: BrokerClient) -> None:
        for _ in range(20):
            for queue_id in await lock(client, name, 0, 1, 2):
                assert holders.setdefault(queue_id, name) == name
            for queue_id in [q for q, holder in holders.items() if holder == name]:
                del holders[queue_id]
                await unlock(client, name, queue_id)

    await asyncio.gather(*(contend(name, client) for name, client in clients.items()))


async def test_lock_survives_a_broker_restart(start_broker: StartBroker, connect: Connect) -> None:
    """The first member that reaches its successor must not get the queues of those that are still on their way."""
    first = await start_broker(lease_s=1.0)
    old = connect(first)
    assert await lock(old, "a", 0, 1) == [0, 1]
    assert await lock(old, "gone", 2) == [2]
    await unlock(old, "gone", 2)
    slave = await start_broker(broker_id=1, lease_s=1.0)
    client = connect(slave)
    body = dumps({"clientId": "b", "consumerGroup": "G", "mqSet": queues(0)})
    assert (await client.ask(request(RequestCode.LOCK_BATCH_MQ, body=body))).code == 14, "only the master knows them"
    await first.close()
    await eventually(lambda: slave.broker_id == 0 and not slave.parts.state.queue_store.reads_only)
    assert await lock(client, "b", 0, 1, 2) == [2]
    assert await lock(client, "a", 0, 1) == [0, 1]
    await unlock(client, "a", 1)
    assert await lock(client, "b", 0, 1) == [1]


async def test_expired_lock_is_free_after_a_broker_restart(start_broker: StartBroker, connect: Connect) -> None:
    first = await start_broker(lock_expiry_s=0.2)
    assert await lock(connect(first), "a", 0) == [0]
    await first.close()
    client = connect(await start_broker(lock_expiry_s=0.2))

    async def takes_over() -> bool:
        return await lock(client, "b", 0) == [0]

    await eventually(takes_over)


async def test_lock_is_not_granted_if_the_store_fails(broker: Broker, client: BrokerClient, connect: Connect) -> None:
    keys, store = broker.parts.state.queue_store.keys, broker.parts.state.queue_store
    assert await lock(client, "a", 0) == [0]
    await store.current().execute("SET", keys.locks, "no hash")
    body = dumps({"clientId": "a", "consumerGroup": "G", "mqSet": queues(0, 1)})
    assert (await client.ask(request(RequestCode.LOCK_BATCH_MQ, body=body))).code == 14
    await store.current().execute("DEL", keys.locks)
    assert await lock(client, "b", 0, 1) == [1], "what it had stays its own, what it did not get is free"


@pytest.mark.parametrize(("group", "topic"), [("G:x", "T"), ("G", "T:x")])
async def test_lock_with_illegal_name_is_refused_with_29(client: BrokerClient, group: str, topic: str) -> None:
    body = dumps({"clientId": "a", "consumerGroup": group, "mqSet": [MessageQueue(topic, "broker-a", 0)]})
    assert (await client.ask(request(RequestCode.LOCK_BATCH_MQ, body=body))).code == 29
