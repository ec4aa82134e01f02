"""Header fields: every typed header through both serializations, and the typing rules of remoting.md section 7."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import HEADER_TYPES

from rmq_redis.errors import LocalProtocolError, RemoteProtocolError
from rmq_redis.protocol.command import SerializeType, request
from rmq_redis.protocol.frame import encode_command, take_command
from rmq_redis.protocol.headers.admin import TopicRequestHeader
from rmq_redis.protocol.headers.base import Header, Int32, Int64, decode_header, encode_header, fields_of_json
from rmq_redis.protocol.headers.clients import UnregisterClientRequestHeader
from rmq_redis.protocol.headers.offsets import QueryConsumerOffsetRequestHeader, SearchOffsetRequestHeader
from rmq_redis.protocol.headers.pull import PullMessageRequestHeader, PullMessageResponseHeader
from rmq_redis.protocol.headers.registration import RegisterBrokerRequestHeader
from rmq_redis.protocol.headers.route import GetRouteInfoRequestHeader
from rmq_redis.protocol.headers.send import (
    ConsumerSendMsgBackRequestHeader,
    SendMessageRequestHeader,
    SendMessageRequestHeaderV2,
    SendMessageResponseHeader,
)

TEXT = st.text(min_size=1, max_size=20)  # binary headers read an empty text as absent
STRATEGIES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    bool: st.booleans(),
    Int32: st.integers(-(2**31), 2**31 - 1),
    Int64: st.integers(-(2**63), 2**63 - 1),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    if hint in STRATEGIES:
        return STRATEGIES[hint]
    inner = next(option for option in hint.__args__ if option is not type(None))
    return st.none() | STRATEGIES[inner]


def instances(kind: type[Header]) -> st.SearchStrategy[Header]:
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: values_of(hints[name]) for name in kind.__struct_fields__})


def test_there_are_headers_to_test() -> None:
    assert len(HEADER_TYPES) > 30


@pytest.mark.parametrize("kind", HEADER_TYPES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("serialize_type", list(SerializeType), ids=lambda kind: kind.name)
def test_every_header_survives_the_wire(kind: type[Header], serialize_type: SerializeType) -> None:
    @given(instances(kind))
    def round_trip(header: Header) -> None:
        command = request(11, header)
        command.serialize_type = serialize_type
        decoded = take_command(bytearray(encode_command(command)))
        assert decoded is not None
        assert decoded.header(kind) == header
        # The same once the fields were looked at as text.
        decoded.ext_fields  # noqa: B018
        assert decoded.header(kind) == header

    round_trip()


@pytest.mark.parametrize("kind", HEADER_TYPES, ids=lambda kind: kind.__name__)
def test_fields_are_written_as_text_and_none_is_left_out(kind: type[Header]) -> None:
    @given(instances(kind))
    def encode(header: Header) -> None:
        fields = encode_header(header)
        assert all(isinstance(value, str) for value in fields.values())
        assert len(fields) == sum(getattr(header, name) is not None for name in kind.__struct_fields__)

    encode()


SEND_V1 = SendMessageRequestHeader
SEND_V2 = SendMessageRequestHeaderV2
GOLDEN = [
    pytest.param(
        SEND_V2("PG", "T", "TBW102", 4, 3, 0, 1700000000000, 0, "K\x01V\x02", 0, False, 0, True, "broker-a"),
        {
            "a": "PG",
            "b": "T",
            "c": "TBW102",
            "d": "4",
            "e": "3",
            "f": "0",
            "g": "1700000000000",
            "h": "0",
            "i": "K\x01V\x02",
            "j": "0",
            "k": "false",
            "l": "0",
            "m": "true",
            "n": "broker-a",
        },
        id="send-v2",
    ),
    pytest.param(
        SEND_V1("PG", "T", "TBW102", 4, -1, 8, 17, 5, "p", 1, True, 16, False),
        {
            "producerGroup": "PG",
            "topic": "T",
            "defaultTopic": "TBW102",
            "defaultTopicQueueNums": "4",
            "queueId": "-1",
            "sysFlag": "8",
            "bornTimestamp": "17",
            "flag": "5",
            "properties": "p",
            "reconsumeTimes": "1",
            "unitMode": "true",
            "maxReconsumeTimes": "16",
            "batch": "false",
        },
        id="send-v1",
    ),
    pytest.param(
        SendMessageResponseHeader("ID", 3, 42, None, "DefaultRegion", "true"),
        {"msgId": "ID", "queueId": "3", "queueOffset": "42", "MSG_REGION": "DefaultRegion", "TRACE_ON": "true"},
        id="send-answer",
    ),
    pytest.param(
        PullMessageRequestHeader("G", "T", 1, 2, 32, 7, 3, 15000, 9, "*", "TAG", 4),
        {
            "consumerGroup": "G",
            "topic": "T",
            "queueId": "1",
            "queueOffset": "2",
            "maxMsgNums": "32",
            "sysFlag": "7",
            "commitOffset": "3",
            "suspendTimeoutMillis": "15000",
            "subVersion": "9",
            "subscription": "*",
            "expressionType": "TAG",
            "maxMsgBytes": "4",
        },
        id="pull",
    ),
    pytest.param(
        PullMessageResponseHeader(0, 5, 1, 9),
        {"suggestWhichBrokerId": "0", "nextBeginOffset": "5", "minOffset": "1", "maxOffset": "9"},
        id="pull-answer",
    ),
    pytest.param(
        UnregisterClientRequestHeader("id", "PG", None),
        {"clientID": "id", "producerGroup": "PG"},
        id="unregister-client",
    ),
    pytest.param(
        RegisterBrokerRequestHeader("b", "1.2.3.4:5", "c", 0, "ha", 6000, False, True, 480313814, "z"),
        {
            "brokerName": "b",
            "brokerAddr": "1.2.3.4:5",
            "clusterName": "c",
            "brokerId": "0",
            "haServerAddr": "ha",
            "heartbeatTimeoutMillis": "6000",
            "enableActingMaster": "false",
            "compressed": "true",
            "bodyCrc32": "480313814",
            "__ZONE_NAME": "z",
        },
        id="register-broker",
    ),
    pytest.param(
        SearchOffsetRequestHeader("T", 0, 17, "LOWER"),
        {"topic": "T", "queueId": "0", "timestamp": "17", "boundaryType": "LOWER"},
        id="search-offset",
    ),
    pytest.param(
        QueryConsumerOffsetRequestHeader("G", "T", 0, False),
        {"consumerGroup": "G", "topic": "T", "queueId": "0", "setZeroIfNotFound": "false"},
        id="query-offset",
    ),
    pytest.param(
        ConsumerSendMsgBackRequestHeader(1 << 40, "G", 3, "ID", "T", False, 16),
        {
            "offset": "1099511627776",
            "group": "G",
            "delayLevel": "3",
            "originMsgId": "ID",
            "originTopic": "T",
            "unitMode": "false",
            "maxReconsumeTimes": "16",
        },
        id="send-back",
    ),
    pytest.param(GetRouteInfoRequestHeader("T", True), {"topic": "T", "acceptStandardJsonOnly": "true"}, id="route"),
]


@pytest.mark.parametrize(("header", "fields"), GOLDEN)
def test_wire_names(header: Header, fields: dict[str, str]) -> None:
    assert encode_header(header) == fields
    assert decode_header(type(header), fields) == header
    assert decode_header(type(header), json.dumps(fields).encode()) == header


PULL = {"consumerGroup": "G", "topic": "T", "queueId": 0, "queueOffset": "0", "maxMsgNums": 32, "sysFlag": "4"}
PULL |= {"commitOffset": 0, "suspendTimeoutMillis": "15000"}


def pull_header(**changes: Any) -> PullMessageRequestHeader:
    raw = json.dumps(PULL | changes).encode()
    header = decode_header(PullMessageRequestHeader, raw)
    # As text, where everything is a string already, the same must come out.
    assert decode_header(PullMessageRequestHeader, fields_of_json(raw)) == header
    return header


def test_numbers_and_text_may_be_mixed_in_one_header() -> None:
    header = pull_header()
    assert (header.queue_id, header.queue_offset, header.suspend_timeout_millis) == (0, 0, 15000)


def test_unknown_fields_and_acl_fields_are_ignored() -> None:
    header = pull_header(AccessKey="", OnsChannel="ALIYUN", Signature="", ns="x", nsd=True, nested=None)
    assert header.topic == "T"


def test_a_bare_number_is_text_for_a_text_field() -> None:
    assert pull_header(topic=5, consumerGroup=True).topic == "5"
    assert pull_header(consumerGroup=True).consumer_group == "true"


@pytest.mark.parametrize("text", ["null", "true", "0", "", "[]", "{}"])
def test_text_that_looks_like_json_stays_text(text: str) -> None:
    assert pull_header(topic=text, subscription=text).subscription == text


def send_flags(**fields: Any) -> SendMessageRequestHeaderV2:
    base = {"a": "G", "b": "T", "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": 1, "h": 0}
    raw = json.dumps(base | fields).encode()
    header = decode_header(SEND_V2, raw)
    assert decode_header(SEND_V2, fields_of_json(raw)) == header  # the way of a binary header
    return header


@pytest.mark.parametrize("value", ["true", "TRUE", "True", "1", True])
def test_booleans_that_are_true(value: object) -> None:
    """``1`` is what client-cpp writes; a Java broker reads it as false, reading it as true is kinder."""
    assert send_flags(m=value).batch is True


@pytest.mark.parametrize("value", ["false", "0", "yes", "", False, None])
def test_booleans_that_are_false(value: object) -> None:
    assert send_flags(m=value).batch is False


def test_ali_ons_send_without_m_and_n_is_no_batch() -> None:
    assert send_flags().batch is False
    assert send_flags().broker_name is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("queueId", "x"),
        ("queueId", "4.0"),
        ("queueId", ""),
        ("queueId", 2**31),
        ("queueId", "-2147483649"),
        ("queueOffset", str(2**63)),
        ("queueOffset", "1" + "0" * 5000),
        ("queueId", "NaN"),
        ("queueId", None),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_the_field(field: str, value: object) -> None:
    with pytest.raises(RemoteProtocolError, match=field):
        pull_header(**{field: value})


@pytest.mark.parametrize("missing", ["consumerGroup", "topic", "queueId", "queueOffset", "maxMsgNums", "sysFlag"])
def test_a_missing_required_field_is_an_error_that_names_it(missing: str) -> None:
    fields = {name: value for name, value in PULL.items() if name != missing}
    with pytest.raises(RemoteProtocolError, match=missing):
        decode_header(PullMessageRequestHeader, json.dumps(fields).encode())


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"5", b'{"a":{}}', b'{"a":[1]}', b"{", b'{"a":"\xff"}', b""])
def test_ext_fields_must_be_a_flat_object(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        fields_of_json(raw)


def test_nested_value_of_an_unknown_field_is_ignored() -> None:
    header = decode_header(TopicRequestHeader, b'{"topic":"T","x":{"y":[1]}}')
    assert header.topic == "T"


def test_empty_header_error_names_the_first_required_field() -> None:
    with pytest.raises(RemoteProtocolError, match="topic"):
        decode_header(TopicRequestHeader, None)


def test_a_value_without_text_form_is_a_local_error() -> None:
    header = TopicRequestHeader(b"T")  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="topic"):
        encode_header(header)
