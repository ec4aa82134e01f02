"""Typed bodies: their exact JSON, and lenient reading."""

from __future__ import annotations

import pytest

from rmq_redis.errors import InvalidParameterError, RemoteProtocolError
from rmq_redis.model import MessageQueue
from rmq_redis.protocol.bodies.base import Body, dumps
from rmq_redis.protocol.bodies.broker import HaStatus, OldestMessage, ReplicaRuntimeInfo, runtime_info
from rmq_redis.protocol.bodies.clients import (
    Assignments,
    ClientConnection,
    ConsumerConnection,
    LockedQueues,
    ProcessQueueInfo,
    ProducerInfo,
    RequestModeChange,
)
from rmq_redis.protocol.bodies.java_properties import camel_case, decode_java_properties, encode_java_properties
from rmq_redis.protocol.bodies.progress import (
    ConsumeOffset,
    ConsumerOffsetTable,
    ConsumeStats,
    ConsumeTimeSpans,
    QueueEntries,
    QueueEntry,
    QueueTimeSpan,
    ResetOffsets,
    TopicOffset,
    TopicStats,
)
from rmq_redis.protocol.bodies.topics import BrokerMemberGroup, BrokerMembers, KvTable, TopicConfigList, TopicList

Q0 = MessageQueue("T", "a", 0)
Q0_JSON = '{"brokerName":"a","queueId":0,"topic":"T"}'
GOLDEN: list[tuple[Body, str]] = [
    (
        TopicStats(offset_table={Q0: TopicOffset(min_offset=1, max_offset=5, store_bytes=7)}, topic_put_tps=0.5),
        '{"offsetTable":{%s:{"lastUpdateTimestamp":0,"maxOffset":5,"minOffset":1,"storeBytes":7}},'
        '"topicPutTps":0.5}'.replace("%s", Q0_JSON),
    ),
    (
        ConsumeStats(offset_table={Q0: ConsumeOffset(5, 3, 9, 4)}),
        '{"consumeTps":0.0,"offsetTable":'
        '{%s:{"brokerOffset":5,"consumerOffset":3,"lastTimestamp":9,"pullOffset":4}}}'.replace("%s", Q0_JSON),
    ),
    (
        ConsumeTimeSpans(
            [QueueTimeSpan(message_queue=Q0, min_time_stamp=1, max_time_stamp=2, consume_time_stamp=3, delay_time=4)]
        ),
        '{"consumeTimeSpanSet":[{"messageQueue":%s,"minTimeStamp":1,"maxTimeStamp":2,"consumeTimeStamp":3,'
        '"delayTime":4}]}'.replace("%s", Q0_JSON),
    ),
    (ResetOffsets({Q0: 3}), '{"offsetTable":{%s:3}}'.replace("%s", Q0_JSON)),
    (
        ConsumerOffsetTable(offset_table={"T@G": {0: 1}}),
        '{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":0},"offsetTable":{"T@G":{0:1}}}',
    ),
    (
        QueueEntries(
            max_queue_index=2,
            min_queue_index=1,
            queue_data=[QueueEntry(physic_offset=1, physic_size=2, tags_code=3, eval=True)],
        ),
        '{"maxQueueIndex":2,"minQueueIndex":1,'
        '"queueData":[{"physicOffset":1,"physicSize":2,"tagsCode":3,"eval":true}]}',
    ),
    (
        ConsumerConnection(connection_set=[ClientConnection(client_addr="h:1", client_id="c", version=3)]),
        '{"connectionSet":[{"clientAddr":"h:1","clientId":"c","language":"","version":3}],"consumeFromWhere":"",'
        '"consumeType":"","messageModel":"","warnings":[],"subscriptionTable":{}}',
    ),
    (
        ProducerInfo(client_id="c", language="JAVA", last_update_timestamp=1, remote_ip="h:1", version=2),
        '{"clientId":"c","language":"JAVA","lastUpdateTimestamp":1,"remoteIP":"h:1","version":2}',
    ),
    (LockedQueues([Q0]), '{"lockOKMQSet":[%s]}'.replace("%s", Q0_JSON)),
    (Assignments(), "{}"),
    (
        ProcessQueueInfo(
            cached_msg_count=1,
            cached_msg_max_offset=2,
            cached_msg_min_offset=3,
            cached_msg_size_in_mib=4,
            commit_offset=5,
            dropped=False,
            last_pull_timestamp=6,
            locked=True,
        ),
        '{"cachedMsgCount":1,"cachedMsgMaxOffset":2,"cachedMsgMinOffset":3,"cachedMsgSizeInMiB":4,"commitOffset":5,'
        '"droped":false,"lastConsumeTimestamp":0,"lastLockTimestamp":0,"lastPullTimestamp":6,"locked":true,'
        '"transactionMsgCount":0,"transactionMsgMaxOffset":0,"transactionMsgMinOffset":0,"tryUnlockTimes":0}',
    ),
    (
        BrokerMemberGroup(BrokerMembers(broker_addrs={0: "h:1"}, broker_name="a", cluster="c")),
        '{"brokerMemberGroup":{"brokerAddrs":{0:"h:1"},"brokerName":"a","cluster":"c"}}',
    ),
    (TopicList(broker_addr="h:1", topic_list=["a"]), '{"brokerAddr":"h:1","topicList":["a"]}'),
    (TopicList(topic_list=["a"]), '{"topicList":["a"]}'),
    (
        HaStatus(
            ha_client_runtime_info=ReplicaRuntimeInfo(
                activated=True,
                last_read_timestamp=1,
                last_write_timestamp=1,
                master_addr="h:1",
                master_flush_offset=2,
                max_offset=2,
                transferred_byte_in_second=3,
            ),
            master=False,
        ),
        '{"haClientRuntimeInfo":{"activated":true,"lastReadTimestamp":1,"lastWriteTimestamp":1,"masterAddr":"h:1",'
        '"masterFlushOffset":2,"maxOffset":2,"transferredByteInSecond":3},"haConnectionInfo":[],'
        '"inSyncSlaveNums":0,"master":false,"masterCommitLogMaxOffset":0}',
    ),
]


@pytest.mark.parametrize(("body", "text"), GOLDEN, ids=lambda value: type(value).__name__)
def test_body_is_encoded_as_these_bytes(body: Body, text: str) -> None:
    assert dumps(body).decode() == text


@pytest.mark.parametrize("body", [body for body, _ in GOLDEN[:5]], ids=lambda body: type(body).__name__)
def test_body_is_decoded_from_its_own_bytes(body: Body) -> None:
    assert type(body).decode(dumps(body)) == body


def test_nulls_and_an_empty_body_count_as_absent() -> None:
    assert TopicList.decode(b'{"topicList":null}') == TopicList.decode(b"") == TopicList()


def test_runtime_info_is_text_with_a_value_for_every_key() -> None:
    table = runtime_info(OldestMessage(5)).table
    assert (table["earliestMessageTimeStamp"], table["scheduleMessageOffset_18"]) == ("5", "0,0")


def test_table_values_become_text() -> None:
    assert KvTable.decode(b'{"table":{"a":1,"b":"x"}}').table == {"a": "1", "b": "x"}


def test_reset_offsets_are_read_as_table_and_as_list() -> None:
    as_list = f'{{"offsetTable":[{Q0_JSON[:-1]},"offset":4}}]}}'
    assert ResetOffsets.decode(as_list.encode()) == ResetOffsets({Q0: 4})
    with pytest.raises(RemoteProtocolError):
        ResetOffsets.decode(b'{"offsetTable":{"text":4}}')


def test_consumer_connections_of_any_broker_are_read() -> None:
    text = '{"connectionSet":[{"clientId":"c"}],"subscriptionTable":{"T":{"topic":"T","subString":null}}}'
    body = ConsumerConnection.decode(text.encode())
    assert body.connection_set == [ClientConnection(client_id="c")]
    assert body.subscription_table["T"].sub_string == "*"
    with pytest.raises(RemoteProtocolError):
        ConsumerConnection.decode(b'{"subscriptionTable":{"T":{}}}')


def test_lists_and_modes_that_are_missing_are_invalid_parameters() -> None:
    with pytest.raises(InvalidParameterError):
        TopicConfigList.decode(b"{}")
    with pytest.raises(InvalidParameterError):
        RequestModeChange.decode(b'{"topic":"T","consumerGroup":"G","mode":"PUSH"}')


def test_java_properties_round_trip() -> None:
    assert decode_java_properties(b"# c\n" + encode_java_properties({"a": "1", "b": "x=y"})) == {"a": "1", "b": "x=y"}
    assert camel_case("max_held_pulls") == "maxHeldPulls"
