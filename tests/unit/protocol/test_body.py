"""JSON bodies: fastjson's habits, routes in both forms, registrations, heartbeats of every client."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import HEARTBEAT_JAVA, REGISTER_PLAIN, REGISTER_UNPACKED, ROUTE_BARE

from rmq_redis.errors import RemoteProtocolError
from rmq_redis.model import BrokerData, DataVersion, MessageQueue, QueueData, TopicConfig, TopicRouteData
from rmq_redis.protocol.bodies.base import decode_queue_set, decode_struct, dumps, loads, object_body
from rmq_redis.protocol.bodies.heartbeat import (
    ConsumerData,
    HeartbeatData,
    ProducerData,
    SubscriptionData,
    decode_heartbeat,
)
from rmq_redis.protocol.bodies.registration import TopicConfigTable, decode_register_body, encode_register_body
from rmq_redis.protocol.bodies.route import (
    ClusterInfo,
    decode_cluster_info,
    decode_route,
    encode_cluster_info,
    encode_route,
)
from rmq_redis.protocol.group_config import SubscriptionGroupConfig

TEXT = st.text(max_size=15)
QUEUES = st.builds(MessageQueue, TEXT, TEXT, st.integers(-(2**31), 2**31 - 1))
Q0 = MessageQueue("T", "broker-a", 0)

# --- fastjson --------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=4)
        | st.dictionaries(st.integers(-(2**40), 2**40), inner, max_size=4)
        | st.dictionaries(QUEUES, inner, max_size=3)
    ),
    max_leaves=20,
)


def without_nulls(value: Any) -> Any:
    """Nulls inside objects are not written."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


@given(VALUES)
def test_bare_int_and_queue_keys_round_trip(value: Any) -> None:
    assert loads(dumps(value)) == without_nulls(value)


def test_bare_integer_keys() -> None:
    assert dumps({0: "a", 1: "b"}) == b'{0:"a",1:"b"}'
    assert loads(b'{0:"a",-1:"b"}') == {0: "a", -1: "b"}


def test_quoted_integer_keys_are_strict_json() -> None:
    assert dumps({0: "a"}, quote_keys=True) == b'{"0":"a"}'


def test_message_queue_keys_are_objects_in_fastjsons_order() -> None:
    text = b'{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"maxOffset":5}}}'
    assert dumps({"offsetTable": {Q0: {"maxOffset": 5}}}) == text
    assert loads(text) == {"offsetTable": {Q0: {"maxOffset": 5}}}


def test_object_key_other_than_a_queue_becomes_its_pairs() -> None:
    assert loads(b'{{"b":1,"a":"x"}:2}') == {(("a", "x"), ("b", "1")): 2}


def test_queues_as_values_and_structs_use_wire_names() -> None:
    assert dumps({"lockOKMQSet": [Q0]}) == b'{"lockOKMQSet":[{"brokerName":"broker-a","queueId":0,"topic":"T"}]}'
    assert json.loads(dumps(TopicConfig(topic_name="T")))["topicName"] == "T"


def test_non_ascii_is_escaped() -> None:
    assert dumps("标签") == b'"\\u6807\\u7b7e"'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a" : [ 1 , 2 ] , 0 : null }', {"a": [1, 2], 0: None}),
        (b' {0:"x"} \n', {0: "x"}),
        (b'{0:"tab\there"}', {0: "tab\there"}),
        (b"{}", {}),
        (b"[]", []),
    ],
)
def test_blanks_and_raw_control_characters_are_accepted(text: bytes, value: object) -> None:
    assert loads(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{",
        b"[",
        b"{0",
        b"{0:",
        b"{0:1",
        b"{0:1,}",
        b"[1,]",
        b"[1 2]",
        b"{0 1}",
        b"{,}",
        b'{"a":1}}',
        b"{[1]:2}",
        b"{1.5:2}",
        b"nul",
        b"NaN",
        b"{0:NaN}",
        b"{0:Infinity}",
        b"{0:+1}",
        b'{0:"\\u12"}',
        b'{0:"x}',
        b"\xff",
        b'{0:"\xff"}',
        b"{0:" * 40 + b"1" + b"}" * 40,
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"{0:" * 50_000,
        b"{" * 100_000,
        b"{0:1" + b"0" * 5000 + b"}",
        b"1" + b"0" * 5000,
    ],
    ids=lambda text: repr(text[:12]) + str(len(text)),
)
def test_malformed_json_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        loads(text)


def test_object_body_takes_objects_only_and_empty_for_no_body() -> None:
    assert object_body(b"") == {}
    assert object_body(b'{"a":1}') == {"a": 1}
    for text in (b"[]", b"1", b"null"):
        with pytest.raises(RemoteProtocolError):
            object_body(text)


# --- routes ----------------------------------------------------------------------------------------------------------

ROUTE = TopicRouteData(
    [BrokerData("DefaultCluster", "broker-a", {0: "10.0.0.5:10911", 1: "10.0.0.6:10911"})],
    [QueueData("broker-a", 4, 4, 6)],
)


def test_golden_route_with_bare_keys_for_old_clients() -> None:
    assert encode_route(ROUTE, standard_json=False) == ROUTE_BARE
    assert decode_route(ROUTE_BARE) == ROUTE


def test_golden_route_in_standard_json_for_new_clients() -> None:
    text = encode_route(ROUTE, standard_json=True)
    assert text == ROUTE_BARE.replace(b"{0:", b'{"0":').replace(b",1:", b',"1":')
    assert decode_route(text) == ROUTE
    json.loads(text)


def test_broker_ids_are_written_in_order() -> None:
    route = TopicRouteData([BrokerData("c", "b", {2: "z", 0: "x", 1: "y"})], [])
    assert b'{0:"x",1:"y",2:"z"}' in encode_route(route, standard_json=False)


def test_old_form_is_a_python_literal() -> None:
    """pyrocketmq parses it with ``ast.literal_eval``: no true, false or null may be in it."""
    text = encode_route(ROUTE, standard_json=False)
    assert eval(text, {"__builtins__": {}})["brokerDatas"][0]["brokerAddrs"][0] == "10.0.0.5:10911"


@pytest.mark.parametrize("name", ["topicSysFlag", "topicSynFlag"])
def test_route_of_5x_with_more_fields_and_of_4x_with_its_misspelt_one(name: str) -> None:
    value: dict[str, Any] = {
        "brokerDatas": [
            {
                "brokerAddrs": {"0": "h:1"},
                "brokerName": "b",
                "cluster": "c",
                "enableActingMaster": False,
                "zoneName": None,
            }
        ],
        "filterServerTable": {},
        "orderTopicConf": "b:4",
        "queueDatas": [{"brokerName": "b", "perm": "6", "readQueueNums": 8, "writeQueueNums": 4, name: 1}],
        "topicQueueMappingByBroker": None,
    }
    route = decode_route(json.dumps(value).encode())
    assert route == TopicRouteData([BrokerData("c", "b", {0: "h:1"})], [QueueData("b", 8, 4, 6, 1)], "b:4")


ROUTES = st.builds(
    TopicRouteData,
    st.lists(st.builds(BrokerData, TEXT, TEXT, st.dictionaries(st.integers(0, 2**40), TEXT, max_size=3)), max_size=3),
    st.lists(st.builds(QueueData, TEXT, *[st.integers(0, 100)] * 4), max_size=3),
    st.none() | TEXT,
)


@given(ROUTES, st.booleans())
def test_routes_survive(route: TopicRouteData, standard: bool) -> None:
    assert decode_route(encode_route(route, standard_json=standard)) == route


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b'{"brokerDatas":[1]}',
        b'{"brokerDatas":[{}]}',
        b'{"brokerDatas":[{"brokerName":"b","brokerAddrs":{"x":"y"}}]}',
        b'{"brokerDatas":[{"brokerName":"b","brokerAddrs":[1]}]}',
        b'{"queueDatas":[{"brokerName":"b"}]}',
        b'{"queueDatas":5}',
        b'{"queueDatas":[{"brokerName":"b","readQueueNums":1e999,"writeQueueNums":1,"perm":6}]}',
        b'{"queueDatas":[{"brokerName":"b","readQueueNums":[],"writeQueueNums":1,"perm":6}]}',
    ],
)
def test_malformed_route_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_route(text)


def test_golden_cluster_info_has_bare_keys() -> None:
    text = (
        b'{"brokerAddrTable":{"broker-a":{"brokerAddrs":{0:"10.0.0.5:10911"},"brokerName":"broker-a",'
        b'"cluster":"DefaultCluster"}},"clusterAddrTable":{"DefaultCluster":["broker-a"]}}'
    )
    info = ClusterInfo(
        {"broker-a": BrokerData("DefaultCluster", "broker-a", {0: "10.0.0.5:10911"})}, {"DefaultCluster": ["broker-a"]}
    )
    assert encode_cluster_info(info) == text
    assert decode_cluster_info(text) == info


# --- registration ----------------------------------------------------------------------------------------------------

TABLE = TopicConfigTable(
    {"TopicTest": TopicConfig(topic_name="TopicTest")}, DataVersion(counter=1, timestamp=1700000000000)
)


def test_golden_register_body_and_its_crc() -> None:
    assert len(REGISTER_PLAIN) == 309
    assert zlib.crc32(REGISTER_PLAIN) & 0x7FFFFFFF == 480313814
    assert decode_register_body(REGISTER_PLAIN, sender_version=479) == TABLE


def test_own_register_body_has_the_same_content() -> None:
    assert json.loads(encode_register_body(TABLE)) == json.loads(REGISTER_PLAIN)


def test_golden_compressed_register_body() -> None:
    assert len(REGISTER_UNPACKED) == 107
    assert decode_register_body(zlib.compress(REGISTER_UNPACKED), sender_version=479) == TABLE


def test_compressed_register_body_of_4x_has_five_tokens_and_no_mappings() -> None:
    plain = REGISTER_UNPACKED[:-4].replace(b"\0\0\0\x1d", b"\0\0\0\x1a").replace(b" {}", b"")
    assert decode_register_body(zlib.compress(plain), sender_version=409) == TABLE


def test_bare_wrapper_counts_before_version_37_only() -> None:
    wrapper = json.dumps(json.loads(REGISTER_PLAIN)["topicConfigSerializeWrapper"]).encode()
    assert decode_register_body(wrapper, sender_version=36) == TABLE
    with pytest.raises(RemoteProtocolError, match="topicConfigSerializeWrapper"):
        decode_register_body(wrapper, sender_version=37)


def test_register_body_of_4x_is_read_without_newer_fields() -> None:
    config = {"topicName": "T", "readQueueNums": 1, "writeQueueNums": "2", "perm": 6, "attributes": None}
    body = {"topicConfigSerializeWrapper": {"dataVersion": {"counter": 3}, "topicConfigTable": {"T": config}}}
    table = decode_register_body(json.dumps(body).encode(), sender_version=300)
    assert table.topic_config_table == {"T": TopicConfig(topic_name="T", read_queue_nums=1, write_queue_nums=2)}
    assert table.data_version == DataVersion(counter=3)


def test_empty_register_body_has_no_topics() -> None:
    assert decode_register_body(b"", sender_version=479) == TopicConfigTable({})


CONFIGS = st.builds(
    TopicConfig,
    topic_name=TEXT,
    read_queue_nums=st.integers(0, 2**31),
    write_queue_nums=st.integers(0, 2**31),
    perm=st.integers(0, 15),
    topic_sys_flag=st.integers(0, 9),
    order=st.booleans(),
    attributes=st.dictionaries(TEXT, TEXT, max_size=3),
)


@given(
    st.lists(CONFIGS, max_size=4),
    st.builds(DataVersion, counter=st.integers(0, 2**40), timestamp=st.integers(0, 2**60)),
)
def test_register_bodies_survive(configs: list[TopicConfig], version: DataVersion) -> None:
    table = TopicConfigTable({config.topic_name: config for config in configs}, version)
    assert decode_register_body(encode_register_body(table), sender_version=479) == table


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        REGISTER_UNPACKED[:50],
        REGISTER_UNPACKED[:70],
        b"\x7f\xff\xff\xff" + REGISTER_UNPACKED[4:],
        b"\xff\xff\xff\xff" + REGISTER_UNPACKED[4:],
        REGISTER_UNPACKED[:60] + b"\x7f\xff\xff\xff" + REGISTER_UNPACKED[64:],
        REGISTER_UNPACKED.replace(b"TopicTest 4", b"TopicTest x"),
        REGISTER_UNPACKED.replace(b"TopicTest 4", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff4"),
        REGISTER_UNPACKED.replace(b" 4 4 6 SINGLE_TAG {}", b"_" * 20),
        REGISTER_UNPACKED.replace(b'{"counter"', b'["counter"'),
    ],
)
def test_damaged_compressed_register_body_is_a_protocol_error(plain: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_register_body(zlib.compress(plain), sender_version=479)


def test_register_body_that_is_a_zip_bomb_is_refused_and_bounded() -> None:
    bomb = zlib.compress(bytes(70 * 1024 * 1024), 9)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decode_register_body(bomb, sender_version=479)
        assert tracemalloc.get_traced_memory()[1] < 160 * 1024 * 1024
    finally:
        tracemalloc.stop()


# --- heartbeats ------------------------------------------------------------------------------------------------------

HEARTBEAT = HeartbeatData(
    client_id="10.0.0.7@1234#1",
    producer_data_set=[ProducerData("PG")],
    consumer_data_set=[
        ConsumerData(
            group_name="G",
            subscription_data_set=[
                SubscriptionData(
                    topic="TopicTest",
                    sub_string="TagA",
                    tags_set=["TagA"],
                    code_set=[2598919],
                    sub_version=1700000000000,
                ),
                SubscriptionData(topic="%RETRY%G", sub_version=1700000000000),
            ],
        )
    ],
)


def test_golden_heartbeat_of_java() -> None:
    assert decode_heartbeat(HEARTBEAT_JAVA) == HEARTBEAT


def test_heartbeat_of_client_cpp_is_read_with_its_deviations() -> None:
    text = (
        b'{"clientID":"id","consumerDataSet":[{"consumeFromWhere":4,"consumeType":1,"groupName":"G","messageModel":1,'
        b'"subscriptionDataSet":[{"subString":"*","subVersion":"1700000000000","topic":"T"}]}]}\n'
    )
    (consumer,) = decode_heartbeat(text).consumer_data_set
    assert (consumer.consume_type, consumer.message_model) == ("CONSUME_PASSIVELY", "CLUSTERING")
    assert consumer.consume_from_where == "CONSUME_FROM_FIRST_OFFSET"
    assert consumer.subscription_data_set == [SubscriptionData(topic="T", sub_version=1700000000000)]


@pytest.mark.parametrize(
    ("ordinal", "name"),
    [
        (0, "CONSUME_FROM_LAST_OFFSET"),
        (4, "CONSUME_FROM_FIRST_OFFSET"),
        (5, "CONSUME_FROM_TIMESTAMP"),
        (99, "CONSUME_FROM_LAST_OFFSET"),
        (10**30, "CONSUME_FROM_LAST_OFFSET"),
        (None, "CONSUME_FROM_LAST_OFFSET"),
    ],
)
def test_consume_from_where_by_ordinal(ordinal: int | None, name: str) -> None:
    text = json.dumps({"clientID": "x", "consumerDataSet": [{"groupName": "G", "consumeFromWhere": ordinal}]})
    assert decode_heartbeat(text.encode()).consumer_data_set[0].consume_from_where == name


def test_broadcasting_is_ordinal_0() -> None:
    text = b'{"clientID":"x","consumerDataSet":[{"groupName":"G","messageModel":0,"consumeType":0}]}'
    (consumer,) = decode_heartbeat(text).consumer_data_set
    assert (consumer.message_model, consumer.consume_type) == ("BROADCASTING", "CONSUME_ACTIVELY")


def test_heartbeat_of_go_has_codes_as_text() -> None:
    text = HEARTBEAT_JAVA.replace(b"[2598919]", b'["2598919"]')
    assert decode_heartbeat(text) == HEARTBEAT


def test_heartbeat_of_pyrocketmq_calls_the_list_subscription_data() -> None:
    text = HEARTBEAT_JAVA.replace(b"subscriptionDataSet", b"subscriptionData")
    assert decode_heartbeat(text) == HEARTBEAT


def test_heartbeat_of_4x_lacks_fingerprint_and_without_sub() -> None:
    text = HEARTBEAT_JAVA.replace(b'"heartbeatFingerprint":0,', b"").replace(b',"withoutSub":false', b"")
    assert decode_heartbeat(text) == HEARTBEAT


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"clientID":""}',
        b'{"clientID":"x","consumerDataSet":5}',
        b'{"clientID":"x","consumerDataSet":[5]}',
        b'{"clientID":"x","consumerDataSet":[{}]}',
        b'{"clientID":"x","producerDataSet":[{}]}',
        b'{"clientID":"x","producerDataSet":{"a":1}}',
        b'{"clientID":"x","heartbeatFingerprint":"y"}',
        b'{"clientID":"x","heartbeatFingerprint":1e999}',
        b'{"clientID":"x","heartbeatFingerprint":NaN}',
        b'{"clientID":"x","consumerDataSet":[{"groupName":"G","subscriptionDataSet":[{}]}]}',
        b'{"clientID":"x","consumerDataSet":[{"groupName":"G","subscriptionDataSet":[{"topic":"T","subVersion":"z"}]}]}',
        b'{"clientID":"x","consumerDataSet":[{"groupName":"G","subscriptionDataSet":[{"topic":"T","codeSet":[[]]}]}]}',
    ],
)
def test_malformed_heartbeat_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_heartbeat(text)


SUBSCRIPTIONS = st.builds(
    SubscriptionData,
    topic=TEXT,
    sub_string=st.text(min_size=1, max_size=10),
    tags_set=st.lists(TEXT, max_size=2),
    code_set=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2),
    sub_version=st.integers(0, 2**63),
    class_filter_mode=st.booleans(),
)
HEARTBEATS = st.builds(
    HeartbeatData,
    client_id=st.text(min_size=1, max_size=20),
    producer_data_set=st.lists(st.builds(ProducerData, TEXT), max_size=2),
    consumer_data_set=st.lists(
        st.builds(
            ConsumerData,
            group_name=TEXT,
            message_model=st.sampled_from(["BROADCASTING", "CLUSTERING"]),
            subscription_data_set=st.lists(SUBSCRIPTIONS, max_size=2),
            unit_mode=st.booleans(),
        ),
        max_size=2,
    ),
    heartbeat_fingerprint=st.integers(-(2**31), 2**31 - 1),
    without_sub=st.booleans(),
)


@given(HEARTBEATS)
def test_heartbeats_survive(heartbeat: HeartbeatData) -> None:
    assert decode_heartbeat(dumps(heartbeat)) == heartbeat


# --- the rest --------------------------------------------------------------------------------------------------------


def test_partial_group_config_is_filled_with_defaults() -> None:
    config = decode_struct(b'{"groupName":"G","retryMaxTimes":"3","attributes":null,"zzz":1}', SubscriptionGroupConfig)
    assert config == SubscriptionGroupConfig(group_name="G", retry_max_times=3)


def test_group_config_has_the_defaults_of_rocketmq() -> None:
    assert json.loads(dumps(SubscriptionGroupConfig(group_name="G"))) == {
        "attributes": {},
        "brokerId": 0,
        "consumeBroadcastEnable": True,
        "consumeEnable": True,
        "consumeFromMinEnable": True,
        "consumeMessageOrderly": False,
        "consumeTimeoutMinute": 15,
        "groupName": "G",
        "groupRetryPolicy": {"type": "CUSTOMIZED"},
        "groupSysFlag": 0,
        "notifyConsumerIdsChangedEnable": True,
        "retryMaxTimes": 16,
        "retryQueueNums": 1,
        "whichBrokerWhenConsumeSlowly": 1,
    }


@pytest.mark.parametrize("text", [b"{}", b"[]", b'{"groupName":5,"retryMaxTimes":"x"}', b'{"groupName":[]}'])
def test_malformed_group_config_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_struct(text, SubscriptionGroupConfig)


def test_queue_set_is_read_with_text_numbers_and_more_fields() -> None:
    value = loads(b'[{"brokerName":"broker-a","queueId":"0","topic":"T","x":1}]')
    assert decode_queue_set(value) == [Q0]
    assert decode_queue_set(None) == []
    bads: list[Any] = [5, [5], [{}], [{"topic": "T", "brokerName": "b", "queueId": "x"}], {"a": 1}]
    for bad in bads:
        with pytest.raises(RemoteProtocolError):
            decode_queue_set(bad)
