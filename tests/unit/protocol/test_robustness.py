"""Whatever bytes come: every decoder returns or raises ProtocolError, soon, and allocates no more than what came."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from helpers import json_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_samples import (
    BATCH_ITEM,
    HEADER_TYPES,
    HEARTBEAT_JAVA,
    RECORD,
    REGISTER_PLAIN,
    REGISTER_UNPACKED,
    ROUTE_ANSWER,
    ROUTE_BARE,
    ROUTE_BINARY,
    ROUTE_JSON,
    SEND,
    SEND_ANSWER,
)

from rmq_redis.errors import LocalProtocolError, ProtocolError
from rmq_redis.model import DataVersion
from rmq_redis.protocol.batch import decode_batch
from rmq_redis.protocol.bodies.base import decode_queue_set, decode_struct, dumps, loads, object_body
from rmq_redis.protocol.bodies.heartbeat import decode_heartbeat
from rmq_redis.protocol.bodies.registration import decode_register_body, decode_topic_table, topic_config
from rmq_redis.protocol.bodies.route import decode_cluster_info, decode_route
from rmq_redis.protocol.command import RemotingCommand
from rmq_redis.protocol.compression import decompress_body
from rmq_redis.protocol.frame import CommandDecoder, decode_command, encode_command, take_command
from rmq_redis.protocol.group_config import SubscriptionGroupConfig
from rmq_redis.protocol.headers.base import decode_header, fields_of_json, loads_lenient
from rmq_redis.protocol.properties import decode_properties
from rmq_redis.protocol.record import decode_records

COMPRESSED_RECORD = RECORD[:36] + b"\0\0\0\1" + RECORD[40:]
CLUSTER = (
    b'{"brokerAddrTable":{"b":{"brokerAddrs":{0:"h:1"},"brokerName":"b","cluster":"c"}},"clusterAddrTable":{"c":["b"]}}'
)
QUEUE_SET = b'[{"brokerName":"broker-a","queueId":0,"topic":"T"}]'
GROUP = b'{"groupName":"G","retryMaxTimes":3,"attributes":{"a":"b"}}'
OFFSETS = b'{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"maxOffset":5}}}'

EVIL_VALUES = [
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"{0:" * 50_000,
    b"{" * 100_000,
    b"[" * 300 + b"]" * 300,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b"1" + b"0" * 5000,
    b"-1" + b"0" * 5000,
    b"1e999",
    b"-1e999",
    b"1e-999",
    b"0.1e+999999999999",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    rb'"\ud800"',
    rb'"\udfff\ud800"',
    rb'{"\ud800":"\ud800"}',
    b'"\xff"',
    b'"\x00"',
    b'"\xed\xa0\x80"',
    b'"',
    b'"\\',
    b'"\\u',
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"0",
    b"-1",
    b"1.5",
    b'{"a":null}',
    b"[null]",
    b"[[]]",
    b"[{}]",
    b'{"":{"":{}}}',
    b"{0:0}",
    b"{null:0,true:1}",
    b'{{"a":[]}:0}',
    b"\xef\xbb\xbf{}",
    "\u0665".encode(),
    b"",
]


def all_headers(command: RemotingCommand) -> None:
    for kind in HEADER_TYPES:
        fields = command.fields
        quietly(command.header, kind)
        command.fields = fields
    quietly(lambda: command.ext_fields)
    for kind in HEADER_TYPES:
        quietly(command.header, kind)


def quietly(function: Callable[..., Any], *args: Any) -> Any:
    """The result, or None when the function raised what it may raise."""
    try:
        return function(*args)
    except ProtocolError:
        return None


def through_take_command(data: bytes) -> None:
    buffer = bytearray(data)
    while (command := quietly(take_command, buffer)) is not None:
        all_headers(command)


def through_decoder(data: bytes) -> None:
    for step in (len(data) or 1, 7):
        decoder = CommandDecoder()
        commands: list[RemotingCommand] = []
        try:
            for start in range(0, min(len(data), 4096), step):
                decoder.feed(data[start : start + step], commands)
                assert decoder.pending_bytes <= len(data)
        except ProtocolError:
            pass
        for command in commands:
            all_headers(command)


def as_frame(data: bytes) -> None:
    """The bytes as the content of a frame of the right length."""
    frame = len(data).to_bytes(4, "big") + data
    if len(data) >= 4:
        quietly(decode_command, frame, 0, len(frame))


def as_json_header(data: bytes) -> None:
    command = quietly(take_command, bytearray(json_frame(data)))
    if command is not None:
        all_headers(command)


def as_ext_fields(data: bytes) -> None:
    as_json_header(b'{"code":10,"extFields":%b}' % data)


def as_header_value(data: bytes) -> None:
    for name in (b"code", b"opaque", b"flag", b"version", b"language", b"remark"):
        as_json_header(b'{"code":10,"%b":%b}' % (name, data))
    for kind in HEADER_TYPES:
        for field in kind.__struct_encode_fields__:
            quietly(decode_header, kind, b'{"%b":%b}' % (field.encode(), data))


def as_parsed(data: bytes) -> None:
    value = quietly(loads, data)
    for parsed in (value, quietly(loads_lenient, data)):
        quietly(decode_queue_set, parsed)
        quietly(topic_config, parsed)
        quietly(topic_config, parsed, "T")
        if isinstance(parsed, dict):
            quietly(decode_topic_table, parsed)


def register(data: bytes) -> None:
    for version in (0, 479):
        try:
            decode_register_body(data, sender_version=version)
            decode_register_body(zlib.compress(data), sender_version=version)
        except ProtocolError:
            pass


def through_records(data: bytes) -> None:
    quietly(decode_records, data)
    quietly(lambda: decode_records(data, decompress=False))


def through_decompress(data: bytes) -> None:
    for sys_flag in (1, 0x101, 0x301, -1):
        quietly(decompress_body, data, sys_flag, 100_000)


def through_properties(data: bytes) -> None:
    decode_properties(data.decode("utf-8", "replace"))
    decode_properties(data.decode("utf-8", "surrogateescape"))


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "take_command": through_take_command,
    "CommandDecoder": through_decoder,
    "decode_command": as_frame,
    "json header": as_json_header,
    "extFields": as_ext_fields,
    "fields_of_json": lambda data: quietly(fields_of_json, data),
    "records": through_records,
    "batch": lambda data: quietly(decode_batch, data),
    "properties": through_properties,
    "decompress": through_decompress,
    "loads": lambda data: quietly(loads, data),
    "object_body": lambda data: quietly(object_body, data),
    "route": lambda data: quietly(decode_route, data),
    "cluster_info": lambda data: quietly(decode_cluster_info, data),
    "register_body": register,
    "heartbeat": lambda data: quietly(decode_heartbeat, data),
    "group config": lambda data: quietly(decode_struct, data, SubscriptionGroupConfig),
    "data version": lambda data: quietly(decode_struct, data, DataVersion),
    "parsed": as_parsed,
}
SAMPLES: dict[str, list[bytes]] = {
    "take_command": [ROUTE_JSON, ROUTE_BINARY, ROUTE_ANSWER, SEND, SEND_ANSWER, ROUTE_JSON + ROUTE_BINARY],
    "decode_command": [frame[4:] for frame in (ROUTE_JSON, ROUTE_BINARY, SEND)],
    "json header": [ROUTE_JSON[8:], SEND[8:-5]],
    "extFields": [b'{"a":"PG","b":"T","d":4,"e":3,"k":false,"topic":"T"}'],
    "records": [RECORD, COMPRESSED_RECORD, RECORD + RECORD],
    "batch": [BATCH_ITEM, BATCH_ITEM * 2],
    "properties": [b"KEYS\x01k1\x02TAGS\x01TagA\x02"],
    "decompress": [zlib.compress(b"hello" * 20), zlib.compress(bytes(1_000_000))],
    "route": [ROUTE_BARE, ROUTE_BARE.replace(b"{0:", b'{"0":').replace(b",1:", b',"1":')],
    "cluster_info": [CLUSTER],
    "register_body": [REGISTER_PLAIN, REGISTER_UNPACKED, zlib.compress(REGISTER_UNPACKED)],
    "heartbeat": [HEARTBEAT_JAVA],
    "group config": [GROUP],
    "data version": [b'{"counter":1,"stateVersion":0,"timestamp":1700000000000}'],
    "parsed": [QUEUE_SET, REGISTER_PLAIN, b'{"topicName":"T","perm":6}', OFFSETS],
}
SAMPLES["CommandDecoder"] = SAMPLES["take_command"]
SAMPLES["fields_of_json"] = SAMPLES["extFields"]
SAMPLES["loads"] = [ROUTE_BARE, OFFSETS, HEARTBEAT_JAVA]
SAMPLES["object_body"] = SAMPLES["loads"]
JSON_DECODERS = [
    "json header",
    "extFields",
    "fields_of_json",
    "loads",
    "object_body",
    "route",
    "cluster_info",
    "register_body",
    "heartbeat",
    "group config",
    "data version",
    "parsed",
]


@st.composite
def damaged(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A good sample after a few bit flips, cuts, insertions and overwritten lengths."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "int32", "int16", "delete"]))
        if kind == "flip" and data:
            data[position] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[position:]
        elif kind == "delete":
            del data[position : position + draw(st.integers(1, 8))]
        elif kind == "insert":
            data[position:position] = draw(st.binary(min_size=1, max_size=8))
        else:
            size = 4 if kind == "int32" else 2
            bound = 1 << (8 * size - 1)
            value = draw(st.sampled_from([-bound, -1, 0, 1, bound - 1]) | st.integers(-300, 300))
            data[position : position + size] = value.to_bytes(size, "big", signed=True)
    return bytes(data)


@pytest.mark.parametrize("name", DECODERS)
def test_arbitrary_bytes(name: str) -> None:
    @settings(max_examples=60)
    @given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda data: len(data).to_bytes(4, "big") + data))
    def decode(data: bytes) -> None:
        DECODERS[name](data)

    decode()


@pytest.mark.parametrize("name", DECODERS)
def test_damaged_golden_bytes(name: str) -> None:
    @settings(max_examples=150)
    @given(damaged(SAMPLES[name]))
    def decode(data: bytes) -> None:
        DECODERS[name](data)

    decode()


@pytest.mark.parametrize("name", DECODERS)
def test_every_truncation_and_every_flipped_bit_of_the_first_sample(name: str) -> None:
    sample = SAMPLES[name][0]
    decode = DECODERS[name]
    for size in range(len(sample)):
        decode(sample[:size])
    if name in ("take_command", "CommandDecoder", "json header"):  # all 50 header types each time: fewer bits
        positions = range(0, len(sample) * 8, 11)
    else:
        positions = range(len(sample) * 8)
    for bit in positions:
        damaged_sample = bytearray(sample)
        damaged_sample[bit >> 3] ^= 1 << (bit & 7)
        decode(bytes(damaged_sample))


@pytest.mark.parametrize("evil", EVIL_VALUES, ids=lambda evil: repr(evil[:14]) + str(len(evil)))
@pytest.mark.parametrize("name", JSON_DECODERS)
def test_evil_json(name: str, evil: bytes) -> None:
    DECODERS[name](evil)
    DECODERS[name](b'{"a":%b}' % evil)
    DECODERS[name](b"{%b:1}" % evil)


@pytest.mark.parametrize("evil", EVIL_VALUES, ids=lambda evil: repr(evil[:14]) + str(len(evil)))
def test_evil_values_of_header_fields(evil: bytes) -> None:
    as_header_value(evil)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "\ud800", "null", "1", "x" * 300, "\x01"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def replaced(value: Any, path: list[int], by: Any) -> Any:
    """``value`` with the node at ``path`` (each step a child number, wrapping around) replaced."""
    if not path or not isinstance(value, dict | list) or not value:
        return by
    if isinstance(value, list):
        index = path[0] % len(value)
        return [replaced(item, path[1:], by) if i == index else item for i, item in enumerate(value)]
    key = list(value)[path[0] % len(value)]
    return {k: replaced(item, path[1:], by) if k == key else item for k, item in value.items()}


@pytest.mark.parametrize("name", [name for name in JSON_DECODERS if name != "loads"])
def test_right_shape_with_a_wrong_value_somewhere(name: str) -> None:
    samples = [loads(sample) for sample in SAMPLES[name] if sample[:1] in b"{["]
    samples = [json.loads(dumps(sample, quote_keys=True)) for sample in samples if sample != loads(OFFSETS)]

    @settings(max_examples=150)
    @given(st.sampled_from(samples), st.lists(st.integers(0, 30), max_size=6), JSON)
    def decode(sample: Any, path: list[int], value: Any) -> None:
        DECODERS[name](json.dumps(replaced(sample, path, value)).encode("utf-8", "surrogatepass"))

    decode()


@pytest.mark.parametrize("depth", [20, 31, 32, 33, 200, 900, 950, 980, 1000, 2000])
@pytest.mark.parametrize("name", JSON_DECODERS)
def test_nesting_around_the_interpreters_limits(name: str, depth: int) -> None:
    for nested in (b"[" * depth + b"]" * depth, b'{"topic":' * depth + b"1" + b"}" * depth):
        for sample in (
            b'{"clientID":%b}',
            b'{"clientID":"x","producerDataSet":[{"groupName":%b}]}',
            b'{"clientID":"x","consumerDataSet":[{"groupName":"G","consumeType":%b}]}',
            b'{"brokerDatas":[{"brokerName":%b,"cluster":%b}]}',
            b'{"clusterAddrTable":{"a":%b}}',
            b'{"topicConfigSerializeWrapper":{"topicConfigTable":{"T":%b}}}',
            b'{"a":%b,0:1}',
        ):
            DECODERS[name](sample.replace(b"%b", nested))


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(b"\x00\xff\xff\xfc\x00\xff\xff\xf8", id="frame"),
        pytest.param(bytes.fromhex("00000019 01000015") + bytes(13) + b"\x7f\xff\xff\xff" + bytes(4), id="remark"),
    ],
)
def test_frame_allocates_received_not_claimed_bytes(prefix: bytes) -> None:
    tracemalloc.start()
    try:
        through_take_command(prefix)
        through_decoder(prefix)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "plain",
    [
        b"\0\0\0\2{}" + b"\x7f\xff\xff\xff",
        b"\0\0\0\2{}" + b"\x7f\xff\xff\xff" + b"\x7f\xff\xff\xff",
        b"\x7f\xff\xff\xff{}",
        b"\0\0\0\2{}" + b"\x7f\xff\xff\xff" + bytes(1000),
    ],
)
def test_compressed_registration_allocates_received_not_claimed_bytes(plain: bytes) -> None:
    data = zlib.compress(plain)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode_register_body(data, sender_version=479)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


ANY_TEXT = st.text(st.characters(), max_size=10) | st.sampled_from(["\ud800", "x" * 40000])
COMMANDS = st.builds(
    RemotingCommand,
    code=st.integers(),
    opaque=st.integers(),
    flag=st.integers(),
    language=st.integers(-10, 300),
    version=st.integers(),
    remark=st.none() | ANY_TEXT,
    fields=st.none() | st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3),
    body=st.binary(max_size=5),
    serialize_type=st.sampled_from([0, 1]),
)


@given(COMMANDS)
def test_encoding_any_command_works_or_is_a_local_error(command: RemotingCommand) -> None:
    try:
        frame = encode_command(command)
    except LocalProtocolError:
        return
    through_take_command(frame)
