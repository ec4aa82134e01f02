"""Runtime information (28), statistics (315), the state of replication (907), and codes without a meaning here."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from helpers import BrokerClient, Connect, StartBroker, eventually

from rmq_redis.broker.admin.runtime_info import format_runtime, readable_bytes
from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.protocol.bodies.base import dumps, loads
from rmq_redis.protocol.command import request
from rmq_redis.protocol.group_config import SubscriptionGroupConfig
from rmq_redis.protocol.headers.admin import (
    DeleteSubscriptionGroupRequestHeader,
    TopicRequestHeader,
    ViewBrokerStatsDataRequestHeader,
)
from rmq_redis.protocol.headers.pop import AckMessageRequestHeader, PopMessageRequestHeader, PopMessageResponseHeader
from rmq_redis.protocol.headers.send import ConsumerSendMsgBackRequestHeader
from rmq_redis.store.embedded import EmbeddedServer

KEYS_OF_5_3 = (
    "bootTimestamp runtime putMessageEntireTimeMax putMessageTimesTotal putMessageFailedTimes putMessageSizeTotal "
    "putMessageDistributeTime putMessageAverageSize dispatchMaxBuffer getMessageEntireTimeMax putTps getFoundTps "
    "getMissTps getTotalTps getTransferredTps putLatency99 putLatency999 commitLogDiskRatio consumeQueueDiskRatio "
    "commitLogMinOffset commitLogMaxOffset scheduleMessageOffset_1 scheduleMessageOffset_18 brokerActive "
    "brokerVersionDesc brokerVersion msgPutTotalYesterdayMorning msgPutTotalTodayMorning msgPutTotalTodayNow "
    "msgGetTotalYesterdayMorning msgGetTotalTodayMorning msgGetTotalTodayNow dispatchBehindBytes "
    "pageCacheLockTimeMills earliestMessageTimeStamp startAcceptSendRequestTimeStamp timerReadBehind "
    "timerOffsetBehind timerCongestNum timerEnqueueTps timerDequeueTps remainTransientStoreBufferNumbs "
    "remainHowManyDataToFlush commitLogDirCapacity sendThreadPoolQueueSize sendThreadPoolQueueCapacity "
    "pullThreadPoolQueueSize pullThreadPoolQueueCapacity litePullThreadPoolQueueSize "
    "litePullThreadPoolQueueCapacity queryThreadPoolQueueSize queryThreadPoolQueueCapacity ackThreadPoolQueueSize "
    "ackThreadPoolQueueCapacity sendThreadPoolQueueHeadWaitTimeMills pullThreadPoolQueueHeadWaitTimeMills "
    "queryThreadPoolQueueHeadWaitTimeMills litePullThreadPoolQueueHeadWaitTimeMills "
    "ackThreadPoolQueueHeadWaitTimeMills EndTransactionQueueSize EndTransactionThreadPoolQueueCapacity "
)


async def runtime_info(client: BrokerClient) -> dict[str, str]:
    table: dict[str, str] = (await client.get(RequestCode.GET_BROKER_RUNTIME_INFO))["table"]
    return table


async def stats(client: BrokerClient, name: str, key: str) -> dict[str, Any] | None:
    """The minute, hour and day of a statistic; None when there is none (code 1, as Apache answers)."""
    header = ViewBrokerStatsDataRequestHeader(name, key)
    answer = await client.ask(request(RequestCode.VIEW_BROKER_STATS_DATA, header))
    if answer.code == 1:
        assert f"The stats <{name}> <{key}> not exist" == answer.remark
        return None
    assert answer.code == 0
    data: dict[str, Any] = loads(answer.body)
    assert data.keys() == {"statsMinute", "statsHour", "statsDay"}
    return data


async def sums(client: BrokerClient, name: str, key: str) -> list[int]:
    """Its sums of the last minute, hour and day."""
    data = await stats(client, name, key)
    assert data is not None, (name, key)
    return [data[window]["sum"] for window in ("statsMinute", "statsHour", "statsDay")]


# --- runtime information ---------------------------------------------------------------------------------------------


async def test_runtime_info_has_every_key_of_5_3_as_text(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    table = await runtime_info(client)
    assert set(KEYS_OF_5_3.split()) <= table.keys()
    assert all(isinstance(value, str) and value for value in table.values())


async def test_runtime_info_can_be_parsed_by_exporters(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    await client.pull("T", 0)
    table = await runtime_info(client)
    for name in ("putTps", "getFoundTps", "getMissTps", "getTotalTps", "getTransferredTps"):
        assert len([float(text) for text in table[name].split(" ")]) == 3
    for pair in table["putMessageDistributeTime"].split():
        name, _, count = pair.partition(":")
        assert name.startswith("[")
        assert int(count) >= 0
    assert re.fullmatch(r"Total : [\d.]+ [KMGTP]?i?B, Free : [\d.]+ [KMGTP]?i?B\.", table["commitLogDirCapacity"])
    assert float(table["remainHowManyDataToFlush"].split(" ")[0]) == 0
    assert re.fullmatch(r"\[ \d+ days, \d+ hours, \d+ minutes, \d+ seconds \]", table["runtime"])


async def test_runtime_info_counts_sends_and_pulls(client: BrokerClient) -> None:
    await client.send("T", "a", "bb", "ccc")
    pulled = await client.pull("T", 0)
    await client.pull("T", 99)
    table = await runtime_info(client)
    assert (table["msgPutTotalTodayNow"], table["msgGetTotalTodayNow"]) == ("3", "3")
    assert (table["putMessageTimesTotal"], table["putMessageFailedTimes"]) == ("3", "0")
    size = sum(message.store_size for message in pulled.messages)
    assert int(table["putMessageSizeTotal"]) == size
    assert float(table["putMessageAverageSize"]) == size / 3
    counts = [int(pair.rpartition(":")[2]) for pair in table["putMessageDistributeTime"].split()]
    assert sum(counts) in (0, 3)  # 0: the minute ended just now
    for name in ("getFoundTps", "getMissTps", "getTotalTps"):
        assert float(table[name].split()[2]) > 0
    assert int(table["commitLogMaxOffset"]) - int(table["commitLogMinOffset"]) == size


async def test_popped_messages_count_as_delivered(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    header = PopMessageRequestHeader("G", "T", -1, 32, 60_000, 0, int(time.time() * 1000), 0)
    await client.ok(request(RequestCode.POP_MESSAGE, header))
    assert (await runtime_info(client))["msgGetTotalTodayNow"] == "2"


async def test_earliest_message_is_the_same_on_master_and_slave(
    client: BrokerClient, start_broker: StartBroker, connect: Connect
) -> None:
    before_ms = int(time.time() * 1000)
    slave = connect(await start_broker(broker_id=1, failover=False))
    for each in (client, slave):  # no message: tools show the distance from now
        assert int((await runtime_info(each))["earliestMessageTimeStamp"]) >= before_ms
    await client.send("T", "a")
    await client.send("U", "b")
    stored_ms = (await client.pull("T", 0)).messages[0].store_timestamp_ms
    late = connect(await start_broker(broker_id=2, failover=False))
    for each in (client, late):
        table = await runtime_info(each)
        assert table["earliestMessageTimeStamp"] == str(stored_ms)
        assert int(table["storeUsedBytes"]) > 0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (1 << 60, "1024.0 PiB")]
)
def test_bytes_are_formatted_as_tools_read_them(count: int, text: str) -> None:
    assert readable_bytes(count) == text


def test_run_time_is_formatted_as_by_apache() -> None:
    assert format_runtime(2 * 86400 + 3 * 3600 + 4 * 60 + 5) == "[ 2 days, 3 hours, 4 minutes, 5 seconds ]"


# --- statistics ------------------------------------------------------------------------------------------------------


async def test_puts_are_counted_by_topic_queue_and_broker(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    await client.send("T", "c", queue_id=1)
    await client.send("U", "d")
    assert await sums(client, "TOPIC_PUT_NUMS", "T") == [3, 3, 3]
    assert await sums(client, "QUEUE_PUT_NUMS", "T@0") == [2, 2, 2]
    assert await sums(client, "QUEUE_PUT_NUMS", "T@1") == [1, 1, 1]
    assert await sums(client, "BROKER_PUT_NUMS", "DefaultCluster") == [4, 4, 4]
    records = (await client.pull("T", 0)).messages + (await client.pull("T", 0, queue_id=1)).messages
    size = sum(message.store_size for message in records)
    assert (await sums(client, "TOPIC_PUT_SIZE", "T"))[0] == size
    data = await stats(client, "TOPIC_PUT_SIZE", "T")
    assert data is not None
    assert data["statsMinute"]["avgpt"] == size / 3
    assert data["statsMinute"]["tps"] > 0
    assert await stats(client, "TOPIC_PUT_LATENCY", "0@T") is not None


async def test_gets_are_counted_by_group_queue_and_broker(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    await client.pull("T", 0, group="G1")
    await client.pull("T", 1, group="G1")
    await client.pull("T", 0, group="G2")
    assert (await sums(client, "GROUP_GET_NUMS", "T@G1"))[0] == 3
    assert (await sums(client, "GROUP_GET_NUMS", "T@G2"))[0] == 2
    assert (await sums(client, "QUEUE_GET_NUMS", "T@0@G1"))[0] == 3
    assert (await sums(client, "BROKER_GET_NUMS", "DefaultCluster"))[0] == 5
    sizes = [(await sums(client, "GROUP_GET_SIZE", f"T@{group}"))[0] for group in ("G1", "G2")]
    assert sizes[0] * 2 == sizes[1] * 3
    assert await stats(client, "GROUP_GET_LATENCY", "0@T@G1") is not None
    assert await stats(client, "GROUP_GET_LATENCY", "T@G1") is not None


async def test_held_pull_is_counted(broker: Broker, client: BrokerClient) -> None:
    await client.send("T", "a")
    pull = client.pull_later("T", 1, group="G")
    await eventually(lambda: broker.parts.pulls.hold.count == 1)
    await client.send("T", "b")
    await pull
    assert (await sums(client, "GROUP_GET_NUMS", "T@G"))[0] == 1


async def test_pop_acks_and_send_backs_are_counted(broker: Broker, client: BrokerClient) -> None:
    sent = await client.send("T", "a", "b")
    header = PopMessageRequestHeader("G", "T", 0, 1, 60_000, 0, int(time.time() * 1000), 0)
    popped = (await client.ok(request(RequestCode.POP_MESSAGE, header))).header(PopMessageResponseHeader)
    extra = f"0 {popped.pop_time} {popped.invisible_time} 0 0 broker-a 0 0"
    await client.ok(request(RequestCode.ACK_MESSAGE, AckMessageRequestHeader("G", "T", 0, extra, 0)))
    assert (await sums(client, "GROUP_GET_NUMS", "T@G"))[0] == 1
    assert (await sums(client, "GROUP_CK_NUMS", "T@G"))[0] == 1
    assert (await sums(client, "GROUP_ACK_NUMS", "T@G"))[0] == 1
    assert (await sums(client, "BROKER_ACK_NUMS", "DefaultCluster"))[0] == 1
    back = ConsumerSendMsgBackRequestHeader(int(sent[0].msg_id[16:], 16), "G", 3)
    await client.ok(request(RequestCode.CONSUMER_SEND_MSG_BACK, back))
    assert (await sums(client, "SNDBCK_PUT_NUMS", "T@G"))[0] == 1


async def test_acks_of_an_unknown_group_leave_no_statistics(broker: Broker, client: BrokerClient) -> None:
    await client.send("T", "a")
    now_ms = int(time.time() * 1000)
    for number in range(20):
        header = AckMessageRequestHeader(f"nobody-{number}", "T", 0, f"0 {now_ms} 60000 0 0 broker-a 0 0", 0)
        await client.ok(request(RequestCode.ACK_MESSAGE, header))
    assert not broker.parts.statistics._acks
    assert await stats(client, "GROUP_ACK_NUMS", "T@nobody-1") is None


async def test_statistics_without_system_topics_exclude_them(client: BrokerClient) -> None:
    await client.send("T", "a")
    await client.send("broker-a", "b")
    await client.pull("T", 0)
    await client.pull("broker-a", 0)
    assert (await sums(client, "BROKER_PUT_NUMS", "DefaultCluster"))[0] == 2
    assert (await sums(client, "BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC", "DefaultCluster"))[0] == 1
    assert (await sums(client, "BROKER_GET_NUMS", "DefaultCluster"))[0] == 2
    assert (await sums(client, "BROKER_GET_NUMS_WITHOUT_SYSTEM_TOPIC", "DefaultCluster"))[0] == 1


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("TOPIC_PUT_NUMS", "nobody"),
        ("TOPIC_PUT_NUMS", ""),
        ("QUEUE_PUT_NUMS", "T@x"),
        ("QUEUE_PUT_NUMS", "T@99"),
        ("GROUP_GET_NUMS", "T"),
        ("QUEUE_GET_NUMS", "T@0@nobody"),
        ("BROKER_PUT_NUMS", "OtherCluster"),
        ("NO_SUCH_STATS", "T"),
    ],
)
async def test_statistic_without_any_count_does_not_exist(client: BrokerClient, name: str, key: str) -> None:
    await client.send("T", "a")
    assert await stats(client, name, key) is None


async def test_recreated_topic_or_group_counts_from_0(client: BrokerClient) -> None:
    await client.send("T", "a", "b")
    await client.pull("T", 0, group="G")
    await client.ok(
        request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=dumps(SubscriptionGroupConfig(group_name="G")))
    )
    await client.ok(request(RequestCode.DELETE_SUBSCRIPTIONGROUP, DeleteSubscriptionGroupRequestHeader("G")))
    assert await stats(client, "GROUP_GET_NUMS", "T@G") is None
    await client.pull("T", 0, group="H")
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    assert await stats(client, "TOPIC_PUT_NUMS", "T") is None
    assert await stats(client, "GROUP_GET_NUMS", "T@H") is None
    await client.send("T", "c")
    assert (await sums(client, "TOPIC_PUT_NUMS", "T"))[0] == 1


# --- replication, and what has no meaning here -----------------------------------------------------------------------


async def test_ha_status_is_that_of_redis_replication(
    embedded_server: EmbeddedServer,
    tmp_path: Any,
    client: BrokerClient,
    start_broker: StartBroker,
    connect: Connect,
) -> None:
    async def status(each: BrokerClient) -> dict[str, Any]:
        data: dict[str, Any] = await each.get(RequestCode.GET_BROKER_HA_STATUS)
        return data

    alone = await status(client)
    assert alone["master"] is True
    assert alone["haConnectionInfo"] == []
    replica = EmbeddedServer(tmp_path, settings={"replicaof": f"127.0.0.1 {embedded_server.port}"})
    replica.start()
    try:

        async def in_sync() -> dict[str, Any] | None:
            data = await status(client)
            return data if data["inSyncSlaveNums"] == 1 else None

        found = await eventually(in_sync)
        (only,) = found["haConnectionInfo"]
        assert only["addr"] == f"127.0.0.1:{replica.port}"
        assert only["slaveAckOffset"] <= found["masterCommitLogMaxOffset"]
        assert only["diff"] == found["masterCommitLogMaxOffset"] - only["slaveAckOffset"]
        slave = connect(await start_broker(broker_id=1, failover=False, store_replica=replica.url))

        async def linked() -> dict[str, Any] | None:
            data = await status(slave)
            return data if data["haClientRuntimeInfo"]["activated"] else None

        data = await eventually(linked)
        assert data["master"] is False
        assert data["haClientRuntimeInfo"]["masterAddr"] == f"127.0.0.1:{embedded_server.port}"
        assert data["haClientRuntimeInfo"]["maxOffset"] > 0
    finally:
        replica.stop()


@pytest.mark.parametrize("code", [513, 908, 2001, 2002, 2003, 2004])
async def test_unsupported_requests_fail_with_3_and_a_reason(client: BrokerClient, code: int) -> None:
    answer = await client.ask(request(code))
    assert answer.code == 3
    assert len(answer.remark or "") > 30


async def test_cleaning_unused_topics_succeeds_and_removes_nothing(client: BrokerClient) -> None:
    await client.send("T", "a")
    await client.ok(request(RequestCode.CLEAN_UNUSED_TOPIC))
    assert (await client.pull("T", 0)).bodies == ["a"]


@pytest.mark.parametrize("queue_id", ["9" * 5000, "-1", "x", ""])
async def test_statistic_of_an_absurd_queue_id_does_not_exist(queue_id: str, client: BrokerClient) -> None:
    await client.send("T", "a")
    for name, key in (("QUEUE_PUT_NUMS", f"T@{queue_id}"), ("QUEUE_GET_NUMS", f"T@{queue_id}@G")):
        answer = await client.ask(
            request(RequestCode.VIEW_BROKER_STATS_DATA, ViewBrokerStatsDataRequestHeader(name, key))
        )
        assert (answer.code, (answer.remark or "").endswith("not exist")) == (1, True)
