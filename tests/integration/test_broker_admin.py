"""What tools do: topics, groups, statistics, connections, settings (commands.md sections 9 and 10)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import redis as redis_py
from helpers import BrokerClient, Connect, FakeNameServer, StartBroker, eventually, heartbeat_request, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.errors import StoreError
from rmq_redis.model import MessageQueue, TopicConfig
from rmq_redis.protocol.bodies.base import dumps, loads
from rmq_redis.protocol.bodies.registration import decode_register_body
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.group_config import SubscriptionGroupConfig
from rmq_redis.protocol.headers.admin import (
    BrokerConsumeStatsRequestHeader,
    ConsumeStatsRequestHeader,
    CreateTopicRequestHeader,
    DeleteSubscriptionGroupRequestHeader,
    GroupRequestHeader,
    TopicRequestHeader,
)
from rmq_redis.protocol.headers.base import Header
from rmq_redis.protocol.headers.clients import ConsumerGroupRequestHeader, ProducerGroupRequestHeader
from rmq_redis.protocol.headers.offsets import ResetOffsetRequestHeader, UpdateConsumerOffsetRequestHeader
from rmq_redis.protocol.headers.registration import RegisterBrokerRequestHeader
from rmq_redis.store.embedded import EmbeddedServer, free_port

PUT_TOPIC = RequestCode.UPDATE_AND_CREATE_TOPIC
GET_TOPIC = RequestCode.GET_TOPIC_CONFIG


def put_topic(topic: str, read: int = 4, write: int = 4, perm: int = 6, **more: Any) -> RemotingCommand:
    return request(PUT_TOPIC, CreateTopicRequestHeader(topic, read, write, perm, **more))


def delete_topic(topic: str) -> RemotingCommand:
    return request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader(topic))


def put_group(group: str, **settings: Any) -> RemotingCommand:
    config = SubscriptionGroupConfig(group_name=group, **settings)
    return request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=dumps(config))


def commit(group: str, topic: str, queue_id: int, offset: int) -> RemotingCommand:
    header = UpdateConsumerOffsetRequestHeader(group, topic, queue_id, offset)
    return request(RequestCode.UPDATE_CONSUMER_OFFSET, header)


def queue(queue_id: int, topic: str = "T") -> MessageQueue:
    return MessageQueue(topic, "broker-a", queue_id)


async def code_of(client: BrokerClient, code: int, header: Header | None = None, body: bytes = b"") -> int:
    return (await client.ask(request(code, header, body))).code


# --- topics ----------------------------------------------------------------------------------------------------------


async def test_started_broker_is_registered_at_every_reachable_nameserver(
    start_broker: StartBroker, fake_namesrv: FakeNameServer
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    started = await start_broker(namesrv_addr=f"{nobody};{fake_namesrv.address}")
    (registration,) = fake_namesrv.registrations
    assert registration.header(RegisterBrokerRequestHeader).broker_addr == started.address


async def test_topic_is_created_and_registered_before_the_response(
    client: BrokerClient, fake_namesrv: FakeNameServer
) -> None:
    await client.ok(
        put_topic(
            "T", 2, 3, 4, topic_filter_type="MULTI_TAG", order=True, attributes="+message.type=FIFO,+reserve.count=7"
        )
    )
    assert await client.get(GET_TOPIC, TopicRequestHeader("T")) == {
        "attributes": {"message.type": "FIFO", "reserve.count": "7"},
        "order": True,
        "perm": 4,
        "readQueueNums": 2,
        "topicFilterType": "MULTI_TAG",
        "topicName": "T",
        "topicSysFlag": 0,
        "writeQueueNums": 3,
    }
    table = decode_register_body(fake_namesrv.registrations[-1].body, sender_version=479)
    assert table.topic_config_table["T"].write_queue_nums == 3
    assert table.data_version.counter == (await client.get(RequestCode.GET_ALL_TOPIC_CONFIG))["dataVersion"]["counter"]


async def test_changed_topic_keeps_its_messages(client: BrokerClient) -> None:
    await client.ok(put_topic("T", 1, 1, attributes="+reserve.count=9"))
    await client.send("T", "x")
    await client.ok(put_topic("T", 8, 8, attributes="-reserve.count,+message.type=DELAY"))
    config = await client.get(GET_TOPIC, TopicRequestHeader("T"))
    assert (config["readQueueNums"], config["attributes"]) == (8, {"message.type": "DELAY"})
    assert (await client.pull("T", 0)).bodies == ["x"]
    assert (await client.send("T", "y", queue_id=7))[0].queue_offset == 0


@pytest.mark.parametrize(
    ("topic", "changes"),
    [
        ("", {}),
        ("a b", {}),
        ("a:b", {}),
        ("x" * 128, {}),
        ("TBW102", {}),
        ("SCHEDULE_TOPIC_XXXX", {}),
        ("rmq_sys_anything", {}),
        ("broker-a", {}),
        ("DefaultCluster", {}),
        ("T", {"read": -1}),
        ("T", {"write": -1}),
        ("T", {"read": 0, "write": 0}),
        ("T", {"read": 2**31 - 1}),
        ("T", {"write": 100_000}),
        ("T", {"perm": 16}),
        ("T", {"perm": -1}),
        ("T", {"attributes": "nonsense"}),
        ("T", {"attributes": "+=x"}),
    ],
)
async def test_invalid_topic_is_refused_with_29(client: BrokerClient, topic: str, changes: dict[str, Any]) -> None:
    before = await client.get(RequestCode.GET_ALL_TOPIC_CONFIG)
    assert (await client.ask(put_topic(topic, **changes))).code == 29
    assert await client.get(RequestCode.GET_ALL_TOPIC_CONFIG) == before


async def test_topics_are_created_from_a_list(client: BrokerClient) -> None:
    configs = [TopicConfig(topic_name=f"T{i}", read_queue_nums=i, write_queue_nums=i) for i in (1, 2)]
    code = RequestCode.UPDATE_AND_CREATE_TOPIC_LIST
    await client.ok(request(code, body=dumps({"topicConfigList": configs})))
    table = (await client.get(RequestCode.GET_ALL_TOPIC_CONFIG))["topicConfigTable"]
    assert (table["T1"]["readQueueNums"], table["T2"]["readQueueNums"]) == (1, 2)
    assert await code_of(client, code, body=b'{"topicConfigList":[{"topicName":"a b"}]}') == 29
    for body in (b"", b"{}", b'{"topicConfigList":5}'):
        assert await code_of(client, code, body=body) == 29
    assert await code_of(client, code, body=b'{"topicConfigList":[{"perm":6}]}') == 1


async def test_recreated_topic_is_empty_and_starts_behind_its_old_end(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str, fake_namesrv: FakeNameServer
) -> None:
    await client.ok(put_topic("T", 2, 2))
    await client.ok(put_topic("Other", 1, 1))
    old = (await client.send("T", "a", "b"))[1]
    await client.send("Other", "x")
    await client.ok(commit("G", "T", 0, 2))
    await client.ok(commit("G", "Other", 0, 1))
    await client.ok(delete_topic("T"))
    assert await code_of(client, GET_TOPIC, TopicRequestHeader("T")) == 17
    table = decode_register_body(fake_namesrv.registrations[-1].body, sender_version=479).topic_config_table
    assert "T" not in table
    with redis_py.Redis.from_url(embedded_server.url, decode_responses=True) as redis:
        keys = redis.keys(f"{key_prefix}:*")
        assert not [key for key in keys if ":T:" in key or key.endswith(":T")]
        assert redis.smembers(f"{key_prefix}:{{broker-a}}:consumed") == {"G:Other"}
    await client.ok(put_topic("T", 2, 2))
    for queue_id in range(2):
        for offset in range(2):
            assert (await client.pull("T", offset, queue_id=queue_id)).outcome == (21, 2)
    new = (await client.send("T", "c"))[0]
    assert new.queue_offset == 2  # a member that is online and goes on at 2 gets it
    assert new.msg_id[-16:-10] != old.msg_id[-16:-10]  # another queue number: old ids lead nowhere
    assert (await client.pull("T", 2)).bodies == ["c"]
    assert (await client.get(RequestCode.GET_ALL_CONSUMER_OFFSET))["offsetTable"] == {"Other@G": {0: 1}}


async def test_topic_deleted_under_load_leaves_no_keys(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    """An append on its way must not bring the stream of a deleted queue back."""
    with redis_py.Redis.from_url(embedded_server.url, decode_responses=True) as redis:
        for _ in range(10):
            await client.ok(put_topic("T", 1, 1))
            sends = [
                asyncio.ensure_future(client.ask(send_request("T", b"%d" % i, default_topic="none"))) for i in range(90)
            ]
            deletion = asyncio.ensure_future(client.ok(delete_topic("T")))
            sends += [
                asyncio.ensure_future(client.ask(send_request("T", b"%d" % i, default_topic="none"))) for i in range(90)
            ]
            answers = await asyncio.gather(*sends)
            await deletion
            assert {answer.code for answer in answers} <= {0, 17}
            assert not redis.keys(f"{key_prefix}:*:queue:T:*")


async def test_append_of_the_same_turn_precedes_the_deletion(
    broker: Broker, client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    await client.ok(put_topic("T", 1, 1))
    appended: list[int] = []
    deletion = asyncio.ensure_future(broker.parts.state.topics.delete("T"))
    broker.parts.state.queue_store.append(
        broker.parts.state.queue_store.queues["T", 0],
        [b"x"],
        1,
        lambda queue, offset, error, arg: appended.append(offset),
        None,
    )
    await deletion
    assert appended == [0]
    with redis_py.Redis.from_url(embedded_server.url, decode_responses=True) as redis:
        assert not redis.keys(f"{key_prefix}:*:queue:T:*")


async def test_topic_remains_when_its_deletion_fails(
    broker: Broker, client: BrokerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*args: object) -> None:
        raise StoreError("the store is away")

    await client.ok(put_topic("T", 1, 1))
    await client.send("T", "a", "b")
    await client.ok(commit("G", "T", 0, 1))
    monkeypatch.setattr(broker.parts.state.topics._configs, "remove_topics", fails)
    assert (await client.ask(delete_topic("T"))).code == 14
    assert (await client.pull("T", 0)).bodies == ["a", "b"]
    assert (await client.get(RequestCode.GET_ALL_CONSUMER_OFFSET))["offsetTable"] == {"T@G": {0: 1}}


async def test_send_recreates_a_deleted_topic(client: BrokerClient) -> None:
    await client.send("T", "a")
    await client.ok(delete_topic("T"))
    assert (await client.send("T", "b"))[0].queue_offset == 1


async def test_queues_removed_from_a_topic_are_deleted_with_it(client: BrokerClient) -> None:
    await client.ok(put_topic("T", 4, 4))
    await client.send("T", "a", queue_id=3)
    await client.ok(put_topic("T", 1, 1))
    await client.ok(delete_topic("T"))
    await client.ok(put_topic("T", 4, 4))
    assert (await client.pull("T", 1, queue_id=3)).outcome == (19, 1)


async def test_deleting_unknown_topic_succeeds_and_system_topic_fails_with_29(client: BrokerClient) -> None:
    await client.ok(delete_topic("Nonesuch"))
    for topic in ("", " ", "TBW102", "SELF_TEST_TOPIC", "broker-a", "DefaultCluster", "rmq_sys_x"):
        assert (await client.ask(delete_topic(topic))).code == 29


async def test_topics_survive_a_restart(start_broker: StartBroker, connect: Connect) -> None:
    first = await start_broker()
    client = connect(first)
    await client.ok(put_topic("T", 3, 5, 4, attributes="+reserve.time=7d"))
    before = await client.get(RequestCode.GET_ALL_TOPIC_CONFIG)
    await first.close()
    after = await connect(await start_broker()).get(RequestCode.GET_ALL_TOPIC_CONFIG)
    assert after["topicConfigTable"] == before["topicConfigTable"]
    assert after["dataVersion"]["counter"] >= before["dataVersion"]["counter"]


async def test_every_change_increments_the_data_version(client: BrokerClient) -> None:
    seen: list[int] = []
    for command in (put_topic("T"), put_topic("T", 1, 1), put_group("G"), delete_topic("T")):
        await client.ok(command)
        seen.append((await client.get(RequestCode.GET_ALL_TOPIC_CONFIG))["dataVersion"]["counter"])
    assert seen == list(range(seen[0], seen[0] + 4))


# --- groups ----------------------------------------------------------------------------------------------------------


async def test_groups_are_created_changed_listed_and_deleted(client: BrokerClient) -> None:
    get = RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG
    assert await code_of(client, get, GroupRequestHeader("G")) == 26
    await client.ok(put_group("G", retry_max_times=3))
    assert (await client.get(get, GroupRequestHeader("G")))["retryMaxTimes"] == 3
    partial = b'{"groupName":"G","consumeEnable":false}'
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=partial))
    config = await client.get(get, GroupRequestHeader("G"))
    assert (config["consumeEnable"], config["retryMaxTimes"]) == (False, 16)
    groups = await client.get(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)
    assert groups["subscriptionGroupTable"] == {"G": config}
    assert groups["forbiddenTable"] == {}
    await client.ok(request(RequestCode.DELETE_SUBSCRIPTIONGROUP, DeleteSubscriptionGroupRequestHeader("G")))
    assert await code_of(client, get, GroupRequestHeader("G")) == 26
    await client.ok(request(RequestCode.DELETE_SUBSCRIPTIONGROUP, DeleteSubscriptionGroupRequestHeader("G")))


@pytest.mark.parametrize("clean", [False, True])
async def test_deleting_a_group_removes_its_offsets_if_requested(client: BrokerClient, clean: bool) -> None:
    await client.send("T", "a")
    await client.ok(commit("G", "T", 0, 1))
    await client.ok(commit("H", "T", 0, 1))
    await client.ok(request(RequestCode.DELETE_SUBSCRIPTIONGROUP, DeleteSubscriptionGroupRequestHeader("G", clean)))
    table = (await client.get(RequestCode.GET_ALL_CONSUMER_OFFSET))["offsetTable"]
    assert table == ({"T@H": {0: 1}} if clean else {"T@G": {0: 1}, "T@H": {0: 1}})


async def test_groups_are_created_from_a_list(client: BrokerClient) -> None:
    code = RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST
    await client.ok(request(code, body=b'{"groupConfigList":[{"groupName":"A"},{"groupName":"B"}]}'))
    table = (await client.get(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG))["subscriptionGroupTable"]
    assert set(table) == {"A", "B"}
    for body in (b"", b"{}", b'{"groupConfigList":5}'):
        assert await code_of(client, code, body=body) == 29


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"groupName":""}', 29),
        (b'{"groupName":"a b"}', 29),
        (b'{"groupName":"' + b"x" * 121 + b'"}', 29),
        (b'{"groupName":"G","retryQueueNums":100000000}', 29),
        (b'{"groupName":"G","retryQueueNums":-1}', 29),
        (b"{}", 1),
        (b"", 1),
        (b"[", 1),
        (b'{"groupName":"G","retryMaxTimes":"x"}', 1),
    ],
)
async def test_invalid_group_is_refused(client: BrokerClient, body: bytes, code: int) -> None:
    assert await code_of(client, RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=body) == code
    assert (await client.get(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG))["subscriptionGroupTable"] == {}


# --- inspection ------------------------------------------------------------------------------------------------------


async def test_topic_statistics_use_every_queue_as_an_object_key(client: BrokerClient) -> None:
    await client.ok(put_topic("T", 2, 3))
    await client.send("T", "a", "b", queue_id=1)
    answer = await client.ok(request(RequestCode.GET_TOPIC_STATS_INFO, TopicRequestHeader("T")))
    assert b'{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"lastUpdateTimestamp":0,' in answer.body
    stored_ms = (await client.pull("T", 1, queue_id=1)).messages[0].store_timestamp_ms
    body = loads(answer.body)
    sizes = [item.pop("storeBytes") for item in body["offsetTable"].values()]
    assert sizes[0] == sizes[2] == 0
    assert sizes[1] > 2 * 100
    assert body == {
        "offsetTable": {
            queue(0): {"lastUpdateTimestamp": 0, "maxOffset": 0, "minOffset": 0},
            queue(1): {"lastUpdateTimestamp": stored_ms, "maxOffset": 2, "minOffset": 0},
            queue(2): {"lastUpdateTimestamp": 0, "maxOffset": 0, "minOffset": 0},
        },
        "topicPutTps": body["topicPutTps"],
    }
    assert await code_of(client, RequestCode.GET_TOPIC_STATS_INFO, TopicRequestHeader("Nonesuch")) == 17


async def test_consume_statistics_report_offsets_and_lag(client: BrokerClient) -> None:
    await client.ok(put_topic("T", 2, 2))
    await client.ok(put_topic("U", 1, 1))
    await client.send("T", "a", "b", "c")
    await client.ok(commit("G", "T", 0, 2))
    await client.ok(commit("G", "U", 0, 0))

    async def stats(**header: Any) -> dict[MessageQueue, Any]:
        data = await client.get(RequestCode.GET_CONSUME_STATS, ConsumeStatsRequestHeader("G", **header))
        table: dict[MessageQueue, Any] = data["offsetTable"]
        return table

    second_ms = (await client.pull("T", 1)).messages[0].store_timestamp_ms
    table = await stats(topic="T")
    assert table == {
        queue(0): {"brokerOffset": 3, "consumerOffset": 2, "lastTimestamp": second_ms, "pullOffset": 2},
        queue(1): {"brokerOffset": 0, "consumerOffset": 0, "lastTimestamp": 0, "pullOffset": 0},
    }
    assert (await stats()).keys() == {queue(0), queue(1), queue(0, "U")}
    await client.ok(heartbeat_request("id", "G", {"T": "*"}))
    assert (await stats()).keys() == {queue(0), queue(1)}  # online, and U is not subscribed to any more
    assert (await stats(topic_list="T;U;Nonesuch")).keys() == {queue(0), queue(1), queue(0, "U")}
    assert await client.get(RequestCode.GET_CONSUME_STATS, ConsumeStatsRequestHeader("Nobody")) == {
        "consumeTps": 0.0,
        "offsetTable": {},
    }


async def test_pull_offset_is_that_of_the_last_pull(broker: Broker, client: BrokerClient) -> None:
    await client.ok(put_topic("T", 1, 1))
    await client.send("T", *"abcdefgh")
    await client.ok(commit("G", "T", 0, 2))

    async def progress() -> tuple[int, int]:
        data = await client.get(RequestCode.GET_CONSUME_STATS, ConsumeStatsRequestHeader("G", "T"))
        item = data["offsetTable"][queue(0)]
        return item["consumerOffset"], item["pullOffset"]

    assert await progress() == (2, 2)  # nothing was pulled yet
    await client.pull("T", 2, max_msg_nums=3)
    assert await progress() == (2, 2)
    await client.pull("T", 5)  # 2, 3 and 4 are being handled
    assert await progress() == (2, 5)
    waiting = client.pull_later("T", 8)
    await eventually(lambda: broker.parts.pulls.hold.count == 1)
    assert await progress() == (2, 8)
    total = await client.get(RequestCode.GET_BROKER_CONSUME_STATS, BrokerConsumeStatsRequestHeader(False))
    assert total["totalInflightDiff"] == 6
    await client.pull("T", 5, group="other")
    assert await progress() == (2, 8)
    await client.ok(commit("G", "T", 0, 8))
    assert await progress() == (8, 8)
    header = ResetOffsetRequestHeader("T", "G", 0)
    await client.ok(request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, header))
    await waiting
    assert await progress() == (0, 0)  # what was pulled before a reset is not in flight any more


async def test_rates_of_groups_and_topics_are_reported(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    await client.pull("T", 0)
    assert (await client.get(RequestCode.GET_CONSUME_STATS, ConsumeStatsRequestHeader("G", "T")))["consumeTps"] > 0
    assert (await client.get(RequestCode.GET_TOPIC_STATS_INFO, TopicRequestHeader("T")))["topicPutTps"] > 0


async def test_consumer_connections_are_listed(client: BrokerClient) -> None:
    header = ConsumerGroupRequestHeader("G")
    assert await code_of(client, RequestCode.GET_CONSUMER_CONNECTION_LIST, header) == 206
    beat = heartbeat_request("id", "G", {"T": "TagA"}, consumeFromWhere="CONSUME_FROM_TIMESTAMP")
    beat.version, beat.language = 409, 0
    await client.ok(beat)
    data = await client.get(RequestCode.GET_CONSUMER_CONNECTION_LIST, header)
    (connection,) = data["connectionSet"]
    assert connection.pop("clientAddr").startswith("127.0.0.1:")
    assert connection == {"clientId": "id", "language": "JAVA", "version": 409}
    assert data["consumeFromWhere"] == "CONSUME_FROM_TIMESTAMP"
    assert (data["consumeType"], data["messageModel"]) == ("CONSUME_PASSIVELY", "CLUSTERING")
    assert data["subscriptionTable"]["T"]["subString"] == "TagA"


async def test_producer_connections_of_an_unknown_group_are_an_error(client: BrokerClient) -> None:
    assert await code_of(client, RequestCode.GET_PRODUCER_CONNECTION_LIST, ProducerGroupRequestHeader("P")) == 1


async def test_groups_of_a_topic_and_topics_of_a_group_are_listed(client: BrokerClient) -> None:
    await client.send("T", "a")
    await client.ok(commit("Past", "T", 0, 1))
    await client.ok(heartbeat_request("id", "Present", {"T": "*", "U": "*"}))
    by_who = await client.get(RequestCode.QUERY_TOPIC_CONSUME_BY_WHO, TopicRequestHeader("T"))
    assert by_who == {"groupList": ["Past", "Present"]}
    topics = await client.get(RequestCode.QUERY_TOPICS_BY_CONSUMER, GroupRequestHeader("Present"))
    assert topics == {"topicList": ["T", "U"]}


async def test_system_topics_are_listed(client: BrokerClient) -> None:
    await client.send("T", "a")
    topics = (await client.get(RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER))["topicList"]
    assert {"TBW102", "broker-a", "DefaultCluster", "SELF_TEST_TOPIC"} <= set(topics)
    assert "T" not in topics


async def test_runtime_information_is_text_with_every_key_of_mqadmin(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    await client.pull("T", 0)
    table = (await client.get(RequestCode.GET_BROKER_RUNTIME_INFO))["table"]
    assert all(isinstance(value, str) for value in table.values())
    wanted = (
        "brokerVersionDesc putTps getTransferredTps sendThreadPoolQueueSize pullThreadPoolQueueSize "
        "ackThreadPoolQueueSize sendThreadPoolQueueHeadWaitTimeMills pullThreadPoolQueueHeadWaitTimeMills "
        "ackThreadPoolQueueHeadWaitTimeMills pageCacheLockTimeMills earliestMessageTimeStamp commitLogDiskRatio "
        "timerReadBehind timerOffsetBehind timerCongestNum timerEnqueueTps timerDequeueTps brokerActive "
        "msgPutTotalYesterdayMorning msgPutTotalTodayMorning msgPutTotalTodayNow msgGetTotalYesterdayMorning "
        "msgGetTotalTodayMorning msgGetTotalTodayNow"
    )
    assert set(wanted.split()) <= table.keys()
    for name in ("putTps", "getTransferredTps"):
        averages = [float(text) for text in table[name].split(" ")]
        assert len(averages) == 3
        assert all(average > 0 for average in averages)
    assert (table["msgPutTotalTodayNow"], table["msgGetTotalTodayNow"]) == ("2", "2")
    assert table["brokerActive"] == "true"


async def test_settings_are_read_only_and_shown_without_the_store(
    client: BrokerClient, embedded_server: EmbeddedServer
) -> None:
    answer = await client.ok(request(RequestCode.GET_BROKER_CONFIG))
    lines = dict(line.split("=", 1) for line in answer.body.decode().splitlines())
    assert lines["brokerName"] == "broker-a"
    assert lines["autoCreateTopicEnable"] == "true"
    assert str(embedded_server.port) not in answer.body.decode().replace(lines["namesrvAddr"], "")
    assert "counter" in json.loads(answer.ext_fields["version"])
    assert await code_of(client, RequestCode.UPDATE_BROKER_CONFIG, body=b"brokerName=x") == 16


@pytest.mark.parametrize(
    "code",
    [
        PUT_TOPIC,
        GET_TOPIC,
        RequestCode.DELETE_TOPIC_IN_BROKER,
        RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG,
        RequestCode.DELETE_SUBSCRIPTIONGROUP,
        RequestCode.GET_TOPIC_STATS_INFO,
        RequestCode.GET_CONSUME_STATS,
        RequestCode.GET_CONSUMER_CONNECTION_LIST,
        RequestCode.GET_PRODUCER_CONNECTION_LIST,
        RequestCode.QUERY_TOPIC_CONSUME_BY_WHO,
        RequestCode.QUERY_CONSUMER_OFFSET,
        RequestCode.GET_MAX_OFFSET,
        RequestCode.VIEW_MESSAGE_BY_ID,
        RequestCode.PULL_MESSAGE,
        RequestCode.GET_CONSUMER_LIST_BY_GROUP,
    ],
    ids=lambda code: code.name,
)
async def test_request_without_required_fields_fails_with_1_and_names_one(client: BrokerClient, code: int) -> None:
    answer = await client.ask(request(code))
    assert answer.code == 1
    assert "missing required field" in (answer.remark or "")
