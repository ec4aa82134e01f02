"""Message records, batches, property strings, tag hashes and message ids (messages.md sections 1-7, 10)."""

from __future__ import annotations

import random
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import BATCH_ITEM, RECORD

from rmq_redis.errors import LocalProtocolError, RemoteProtocolError
from rmq_redis.hosts import offset_msg_id, pack_host, unpack_host
from rmq_redis.model import MessageExt
from rmq_redis.protocol.batch import batch_to_records, decode_batch, encode_batch_item
from rmq_redis.protocol.compression import decompress_body
from rmq_redis.protocol.ids import UniqKeyGenerator, parse_offset_msg_id
from rmq_redis.protocol.properties import (
    decode_properties,
    encode_properties,
    find_property,
    remove_property,
    tags_code,
)
from rmq_redis.protocol.record import (
    RecordHead,
    decode_records,
    encode_message,
    encode_record,
    record_properties_start,
    store_timestamp_position,
)

UNIQ_KEY = "0A000007303918B4AAC2018F3A1B0000"
RECORD_FIELDS: dict[str, Any] = {
    "topic": b"TopicTest",
    "body": b"hello",
    "properties": f"KEYS\x01k1\x02TAGS\x01TagA\x02UNIQ_KEY\x01{UNIQ_KEY}\x02WAIT\x01true\x02".encode(),
    "queue_id": 3,
    "flag": 0,
    "sys_flag": 0,
    "born_timestamp_ms": 1700000000000,
    "born_host": bytes.fromhex("0a0000070000c3cb"),
    "store_timestamp_ms": 1700000000005,
    "store_host": bytes.fromhex("0a00000500002a9f"),
    "queue_offset": 42,
    "physical_offset": 123456,
}
OFFSET_MSG_ID = "0A00000500002A9F000000000001E240"

# --- records ---------------------------------------------------------------------------------------------------------


def record_of(topic: bytes, body: bytes, properties: bytes, **head: Any) -> bytes:
    return encode_record(RecordHead(**head), topic, body, properties)


def test_golden_record_is_encoded_to_the_byte() -> None:
    assert len(RECORD) == 175
    assert record_of(**RECORD_FIELDS) == RECORD


def test_decoded_record_is_encoded_again_to_the_byte() -> None:
    (message,) = decode_records(RECORD)
    assert encode_message(message) == RECORD


def test_rewritten_message_keeps_what_is_not_changed() -> None:
    (message,) = decode_records(RECORD)
    (read,) = decode_records(encode_message(message.rewritten(queue_id=5, properties={"A": "b"})))
    assert (read.queue_id, read.properties) == (5, {"A": "b"})
    assert (read.topic, read.body, read.msg_id) == (message.topic, message.body, OFFSET_MSG_ID)


def test_golden_record_is_decoded() -> None:
    (message,) = decode_records(RECORD, broker_name="broker-a")
    assert message == MessageExt(
        topic="TopicTest",
        body=b"hello",
        properties={"KEYS": "k1", "TAGS": "TagA", "UNIQ_KEY": UNIQ_KEY, "WAIT": "true"},
        flag=0,
        queue_id=3,
        queue_offset=42,
        commit_log_offset=123456,
        sys_flag=0,
        born_timestamp_ms=1700000000000,
        born_host="10.0.0.7:50123",
        store_timestamp_ms=1700000000005,
        store_host="10.0.0.5:10911",
        reconsume_times=0,
        prepared_transaction_offset=0,
        store_size=175,
        broker_name="broker-a",
    )
    assert message.msg_id == UNIQ_KEY
    assert message.offset_msg_id == OFFSET_MSG_ID
    assert (message.tags, message.keys, message.text()) == ("TagA", "k1", "hello")


def test_version_2_record_with_two_byte_topic_length_is_read() -> None:
    topic_length = RECORD.index(b"\x09TopicTest")
    record = b"\0\0\0\xb0\xda\xa3\x20\xab" + RECORD[8:topic_length] + b"\x00\x09" + RECORD[topic_length + 1 :]
    (message,) = decode_records(record)
    assert message.topic == "TopicTest"
    assert message.properties["WAIT"] == "true"


def test_golden_record_of_a_topic_above_127_bytes_is_of_version_2() -> None:
    topic = b"t" * 128
    topic_length = RECORD.index(b"\x09TopicTest")
    golden = (175 + 1 + 119).to_bytes(4, "big") + b"\xda\xa3\x20\xab" + RECORD[8:topic_length]
    golden += b"\x00\x80" + topic + RECORD[topic_length + 10 :]
    assert record_of(**(RECORD_FIELDS | {"topic": topic})) == golden


@pytest.mark.parametrize("length", [1, 119, 120, 126, 127, 128, 129, 254, 255])
@pytest.mark.parametrize("born_host", ["10.0.0.7:50123", "[::1]:50123"])
@pytest.mark.parametrize("store_host", ["10.0.0.5:10911", "[::2]:10911"])
def test_topics_of_every_length_survive_and_properties_are_found(length: int, born_host: str, store_host: str) -> None:
    hosts = {"born_host": pack_host(born_host), "store_host": pack_host(store_host)}
    record = record_of(**(RECORD_FIELDS | hosts | {"topic": b"t" * length}))
    assert record[4:8].hex() == ("daa320a7" if length <= 127 else "daa320ab")
    first, second = decode_records(record * 2)
    assert first == second
    assert (first.topic, first.body, first.born_host, first.store_host) == (
        "t" * length,
        b"hello",
        born_host,
        store_host,
    )
    assert record[record_properties_start(record) :] == RECORD_FIELDS["properties"]
    position = store_timestamp_position(record)
    assert int.from_bytes(record[position : position + 8], "big") == RECORD_FIELDS["store_timestamp_ms"]


@pytest.mark.parametrize("topic", [b"%RETRY%" + b"t" * 120, b"%RETRY%" + b"t" * 121, b"%RETRY%" + b"t" * 248])
@pytest.mark.parametrize("born_host", ["10.0.0.7:50123", "[::1]:50123"])
def test_batches_to_long_topics_become_the_records_of_their_items(topic: bytes, born_host: str) -> None:
    properties = RECORD_FIELDS["properties"]
    fields = {name: RECORD_FIELDS[name] for name in ("queue_id", "sys_flag", "born_timestamp_ms", "store_timestamp_ms")}
    fields |= {"flag": 0, "born_host": pack_host(born_host), "store_host": RECORD_FIELDS["store_host"]}
    made = batch_to_records(
        encode_batch_item(b"a", properties) + encode_batch_item(b"b", properties),
        RecordHead(**fields),
        topic,
        change=lambda properties: (0, properties),
        change_all=False,
        suffix=b"",
    )
    assert made == [record_of(body=body, topic=topic, properties=properties, **fields) for body in (b"a", b"b")]


TEXT = st.text(max_size=30)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
PORT = st.integers(0, 65535)
HOST = st.one_of(
    st.builds("{}:{}".format, st.ip_addresses(v=4), PORT), st.builds("[{}]:{}".format, st.ip_addresses(v=6), PORT)
)
PAIR_TEXT = st.text(st.characters(exclude_characters="\x01\x02", exclude_categories=["Cs"]), min_size=1, max_size=20)
PROPERTIES = st.dictionaries(PAIR_TEXT, PAIR_TEXT, max_size=5)


@st.composite
def records(draw: st.DrawFn) -> tuple[bytes, MessageExt]:
    """A record and the message that it is, sys_flag without the compression bit and the bits that we set ourselves."""
    topic = draw(st.one_of(st.text(max_size=31), st.text("ab", min_size=120, max_size=255)))
    properties = draw(PROPERTIES)
    body = draw(st.binary(max_size=50))
    born_host, store_host = draw(HOST), draw(HOST)
    flag, queue_id, reconsume_times = draw(INT32), draw(INT32), draw(INT32)
    offset, physical, born, stored, prepared = (draw(INT64) for _ in range(5))
    sys_flag = draw(INT32) & ~1
    record = encode_record(
        RecordHead(
            queue_id=queue_id,
            flag=flag,
            sys_flag=sys_flag,
            born_timestamp_ms=born,
            born_host=pack_host(born_host),
            store_timestamp_ms=stored,
            store_host=pack_host(store_host),
            reconsume_times=reconsume_times,
            prepared_transaction_offset=prepared,
            queue_offset=offset,
            physical_offset=physical,
        ),
        topic.encode(),
        body,
        encode_properties(properties).encode(),
    )
    expected_flag = sys_flag & ~0x30
    expected_flag |= (0x10 if born_host[0] == "[" else 0) | (0x20 if store_host[0] == "[" else 0)
    message = MessageExt(
        topic,
        body,
        properties,
        flag,
        queue_id,
        offset,
        physical,
        expected_flag,
        born,
        born_host,
        stored,
        store_host,
        reconsume_times,
        prepared,
        len(record),
    )
    return record, message


@given(st.lists(records(), max_size=4))
def test_records_back_to_back_survive(items: list[tuple[bytes, MessageExt]]) -> None:
    assert decode_records(b"".join(record for record, _ in items)) == [message for _, message in items]


@given(records())
def test_record_size_is_91_or_92_plus_contents_and_12_per_ipv6_host(item: tuple[bytes, MessageExt]) -> None:
    record, message = item
    properties = encode_properties(message.properties).encode()
    v6 = bin(message.sys_flag & 0x30).count("1")
    fixed = 91 if len(message.topic.encode()) <= 127 else 92
    assert len(record) == fixed + len(message.body) + len(message.topic.encode()) + len(properties) + 12 * v6
    assert int.from_bytes(record[:4], "big") == len(record)
    assert int.from_bytes(record[8:12], "big") == zlib.crc32(message.body) & 0x7FFFFFFF
    assert record[record_properties_start(record) :] == properties


@pytest.mark.parametrize(
    "change",
    [
        {"topic": b"t" * 256},
        {"properties": b"p" * 32768},
        {"queue_id": 2**31},
        {"flag": -(2**31) - 1},
        {"sys_flag": 2**31},
        {"queue_offset": 2**63},
        {"born_timestamp_ms": 2**63},
        {"store_timestamp_ms": -(2**63) - 1},
        {"reconsume_times": 2**31},
        {"prepared_transaction_offset": 2**63},
    ],
    ids=str,
)
def test_a_record_that_cannot_be_encoded_is_a_local_error(change: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        record_of(**(RECORD_FIELDS | change))


@pytest.mark.parametrize("change", [{"topic": b"t" * 255}, {"properties": b"p" * 32767}], ids=["topic", "properties"])
def test_a_record_at_its_limits_survives(change: dict[str, bytes]) -> None:
    (message,) = decode_records(record_of(**(RECORD_FIELDS | change)))
    assert message.topic == (RECORD_FIELDS | change)["topic"].decode()


@pytest.mark.parametrize("size", range(len(RECORD)))
def test_a_truncated_record_is_an_error(size: int) -> None:
    if size:
        with pytest.raises(RemoteProtocolError):
            decode_records(RECORD[:size])
    with pytest.raises(RemoteProtocolError):
        decode_records(RECORD + RECORD[: size or 1])


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, "7fffffff"),
        (0, "00000000"),
        (0, "ffffffff"),
        (4, "cbd43194"),
        (84, "7fffffff"),
        (84, "ffffffff"),
        (84, "80000000"),
        (93, "7f"),
        (103, "7fff"),
        (103, "0045"),
    ],
)
def test_oversized_length_is_an_error_and_allocates_nothing(position: int, value: str) -> None:
    data = bytes.fromhex(value)
    record = RECORD[:position] + data + RECORD[position + len(data) :]
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decode_records(record)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_negative_body_length_does_not_loop_the_decoder() -> None:
    """Made so that a record of 0 bytes would fit its own fields: a reader that believes it never ends."""
    first = record_of(**(RECORD_FIELDS | {"properties": b"A\x01b\x02\0\0\0"}))
    trap = bytes.fromhex("00000000 daa320a7") + RECORD[8:84] + (-91).to_bytes(4, "big", signed=True)
    with pytest.raises(RemoteProtocolError):
        decode_records(first + trap)


def test_invalid_utf8_in_topic_or_properties_is_an_error() -> None:
    for change in ({"topic": b"\xff"}, {"properties": b"A\x01\xff\x02"}):
        with pytest.raises(RemoteProtocolError):
            decode_records(record_of(**(RECORD_FIELDS | change)))


# --- compressed bodies -----------------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.sampled_from([1, 0x301]), st.integers(0, 9))
def test_zlib_bodies_are_unpacked_when_asked(body: bytes, sys_flag: int, level: int) -> None:
    packed = zlib.compress(body, level)
    record = record_of(**(RECORD_FIELDS | {"body": packed, "sys_flag": sys_flag}))
    assert decode_records(record)[0].body == body
    assert decode_records(record, decompress=False)[0].body == packed


def test_body_of_exactly_the_limit_is_unpacked_and_one_byte_more_is_not() -> None:
    packed = zlib.compress(b"x" * 1000)
    assert decompress_body(packed, 1, 1000) == b"x" * 1000
    with pytest.raises(RemoteProtocolError, match="999"):
        decompress_body(packed, 1, 999)


def test_zip_bomb_is_refused_without_unpacking_it() -> None:
    bomb = zlib.compress(bytes(64 * 1024 * 1024))
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decompress_body(bomb, 1, 1024 * 1024)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sys_flag", [0x101, 0x201, 0x401, 0x701])
def test_other_compressions_are_refused_by_name(sys_flag: int) -> None:
    with pytest.raises(RemoteProtocolError, match="only zlib"):
        decompress_body(b"x", sys_flag)


@pytest.mark.parametrize("body", [b"", b"x", zlib.compress(b"hello")[:-1], zlib.compress(b"hello")[:5]])
def test_damaged_compressed_body_is_an_error(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decompress_body(body, 1)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_golden_batch_item() -> None:
    assert len(BATCH_ITEM) == 39
    assert encode_batch_item(b"hello", b"UNIQ_KEY\x01A1\x02") == BATCH_ITEM
    assert decode_batch(BATCH_ITEM) == [(0, b"hello", b"UNIQ_KEY\x01A1\x02")]


@given(st.lists(st.tuples(INT32, st.binary(max_size=40), st.binary(max_size=40)), min_size=1, max_size=8))
def test_batches_survive(items: list[tuple[int, bytes, bytes]]) -> None:
    assert decode_batch(b"".join(encode_batch_item(body, p, flag) for flag, body, p in items)) == items


@pytest.mark.parametrize("size", range(len(BATCH_ITEM)))
def test_a_truncated_batch_is_an_error(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_batch(BATCH_ITEM[:size])


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, "7fffffff"), (0, "00000000"), (0, "ffffffd9"), (16, "7fffffff"), (16, "ffffffff"), (25, "ffff"), (25, "000b")],
)
def test_oversized_batch_length_is_an_error(position: int, value: str) -> None:
    data = bytes.fromhex(value)
    with pytest.raises(RemoteProtocolError):
        decode_batch(BATCH_ITEM[:position] + data + BATCH_ITEM[position + len(data) :])


def test_batch_item_with_too_long_properties_is_a_local_error() -> None:
    with pytest.raises(LocalProtocolError):
        encode_batch_item(b"x", b"p" * 32768)


HEAD_FIELDS: dict[str, Any] = {
    "queue_id": 3,
    "sys_flag": 0,
    "born_timestamp_ms": 1700000000000,
    "store_timestamp_ms": 1700000000005,
    "store_host": bytes.fromhex("0a00000500002a9f"),
}
GOOD_PROPERTIES = b"UNIQ_KEY\x01A1\x02"
ITEM_PROPERTIES = st.sampled_from(
    [b"", b"A\x01b\x02", GOOD_PROPERTIES, b"UNIQ_KEY\x01A1", "UNIQ_KEY\x01标\x02".encode()]
)


@given(
    st.lists(st.tuples(INT32, st.binary(min_size=1, max_size=30), ITEM_PROPERTIES), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([bytes.fromhex("0a0000070000c3cb"), bytes(15) + b"\1\0\0\xc3\xcb"]),
)
def test_batch_is_encoded_as_the_records_of_its_items(
    items: list[tuple[int, bytes, bytes]], change_all: bool, born_host: bytes
) -> None:
    def change(properties: bytes) -> tuple[int, bytes]:
        return 7, b"changed\x01" + properties

    data = b"".join(encode_batch_item(body, properties, flag) for flag, body, properties in items)
    suffix = b"CLUSTER\x01c\x02"
    made = batch_to_records(
        data,
        RecordHead(flag=0, born_host=born_host, **HEAD_FIELDS),
        b"TopicTest",
        change=change,
        change_all=change_all,
        suffix=suffix,
    )
    expected = []
    for flag, body, properties in items:
        is_good = properties == GOOD_PROPERTIES and not change_all
        code, stored = (0, properties) if is_good else change(properties)
        expected.append(
            record_of(
                **HEAD_FIELDS,
                topic=b"TopicTest",
                body=body,
                flag=flag,
                born_host=born_host,
                properties=stored + suffix,
                queue_offset=code,
            )
        )
    assert made == expected


@given(
    st.binary(max_size=60)
    | st.builds(lambda at, more: BATCH_ITEM[:at] + more + BATCH_ITEM[at:], st.integers(0, 39), st.binary())
)
def test_batch_is_refused_if_one_of_its_items_is(data: bytes) -> None:
    try:
        items = decode_batch(data)
    except RemoteProtocolError:
        items = []
    is_good = bool(items) and all(body for _, body, _ in items)
    try:
        head = RecordHead(flag=0, born_host=bytes(8), **HEAD_FIELDS)
        made = batch_to_records(data, head, b"TopicTest", change=lambda p: (0, p), change_all=False, suffix=b"")
    except RemoteProtocolError:
        assert not is_good
    else:
        assert is_good
        assert len(made) == len(items)


# --- properties ------------------------------------------------------------------------------------------------------


def test_golden_property_string() -> None:
    assert encode_properties({"KEYS": "k1", "TAGS": "TagA"}) == "KEYS\x01k1\x02TAGS\x01TagA\x02"


@given(PROPERTIES)
def test_properties_survive_with_and_without_the_last_separator(properties: dict[str, str]) -> None:
    text = encode_properties(properties)
    assert decode_properties(text) == properties
    assert decode_properties(text.removesuffix("\x02")) == properties


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\x02\x02", {}),
        ("A", {}),
        ("A\x01", {}),
        ("A\x01\x02B\x01x\x02", {"B": "x"}),
        ("A\x01x\x01y\x02", {"A": "x\x01y"}),
        ("A\x01x\x02A\x01y\x02", {"A": "y"}),
        ("\x01x\x02", {"": "x"}),
    ],
)
def test_malformed_properties_are_dropped_and_values_keep_separators(text: str, expected: dict[str, str]) -> None:
    assert decode_properties(text) == expected


def test_empty_values_are_not_written() -> None:
    assert encode_properties({"A": "", "B": "x"}) == "B\x01x\x02"


@pytest.mark.parametrize(
    "properties", [{"a\x01": "b"}, {"a": "b\x01"}, {"a\x02": "b"}, {"a": "b\x02"}, {"a": "\x01\x02"}, {"": "x"}]
)
def test_separators_in_properties_and_empty_names_are_local_errors(properties: dict[str, str]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_properties(properties)


def test_property_injection_by_a_value_is_a_local_error() -> None:
    with pytest.raises(LocalProtocolError):
        encode_properties({"a": "b\x02DELAY\x013"})


NAMES = st.sampled_from(["A", "B", "AA", "BA"])
PAIRS = st.lists(st.tuples(NAMES, st.text("AB\x01", min_size=1, max_size=4)), max_size=5)


@given(PAIRS, st.booleans(), NAMES)
def test_find_and_remove_agree_with_decoding(pairs: list[tuple[str, str]], ends: bool, name: str) -> None:
    text = "\x02".join(f"{key}\x01{value}" for key, value in pairs) + ("\x02" if ends and pairs else "")
    properties = decode_properties(text)
    assert find_property(text, name) == properties.get(name)
    properties.pop(name, None)
    assert decode_properties(remove_property(text, name)) == properties


# --- tags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ("TagA", 2598919),
        ("TagB", 2598920),
        ("标签", 857175),
        ("", 0),
        (None, 0),
        ("a", 97),
        ("polygenelubricants", -2147483648),
        ("😀", 31 * 0xD83D + 0xDE00),
    ],
)
def test_tag_hash_is_javas_string_hash_code(tags: str | None, code: int) -> None:
    assert tags_code(tags) == code


@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])))
def test_tag_hash_follows_its_definition(tags: str) -> None:
    value = sum(ord(c) * 31 ** (len(tags) - 1 - i) for i, c in enumerate(tags)) % 2**32
    assert tags_code(tags) == (value - 2**32 if value >= 2**31 else value)


# --- ids -------------------------------------------------------------------------------------------------------------


def test_golden_offset_msg_id() -> None:
    assert offset_msg_id("10.0.0.5:10911", 123456) == OFFSET_MSG_ID
    assert parse_offset_msg_id(OFFSET_MSG_ID) == ("10.0.0.5:10911", 123456)
    assert parse_offset_msg_id(OFFSET_MSG_ID.lower()) == ("10.0.0.5:10911", 123456)
    with pytest.raises(RemoteProtocolError, match="the port 670849916"):  # a producer's id, which looks the same
        parse_offset_msg_id("7F00000127FC5B7C40A47D7CE7E90001")


@given(HOST, INT64)
def test_offset_msg_id_survives(host: str, offset: int) -> None:
    message_id = offset_msg_id(host, offset)
    assert len(message_id) == (56 if host[0] == "[" else 32)
    assert parse_offset_msg_id(message_id) == (host, offset)
    assert unpack_host(pack_host(host)) == host


@pytest.mark.parametrize(
    "text", ["", "x" * 32, OFFSET_MSG_ID[:-1], OFFSET_MSG_ID + "00", " " + OFFSET_MSG_ID, "标签" * 16]
)
def test_malformed_offset_msg_id_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_offset_msg_id(text)


@pytest.mark.parametrize("host", ["", "10.0.0.1", "localhost:1", "10.0.0.1:x", "10.0.0.1:99999999999", "[::1]", ":1"])
def test_malformed_ip_and_port_are_a_local_error(host: str) -> None:
    with pytest.raises(LocalProtocolError):
        pack_host(host)


def test_uniq_key_has_javas_format() -> None:
    keys = UniqKeyGenerator(bytes([10, 0, 0, 7]), 0x13039, b"\x18\xb4\xaa\xc2")
    now_ms = int(time.time() * 1000)
    key = keys.next(now_ms)
    assert key.startswith("0A000007303918B4AAC2")
    assert len(key) == 32
    local = time.localtime(now_ms / 1000)
    month_ms = int(time.mktime((local.tm_year, local.tm_mon, 1, 0, 0, 0, 0, 0, -1)) * 1000)
    assert int(key[20:28], 16) == now_ms - month_ms


@pytest.mark.parametrize("month", range(1, 13))
def test_uniq_key_counts_its_time_from_the_local_month_start(month: int) -> None:
    keys = UniqKeyGenerator(bytes(4), 1, bytes(4))
    start_ms = int(time.mktime((2024, month, 1, 0, 0, 0, 0, 0, -1)) * 1000)
    assert int(keys.next(start_ms)[20:28], 16) == 0
    assert int(keys.next(start_ms + 86_400_000 * 20)[20:28], 16) == 86_400_000 * 20
    last = keys.next(start_ms - 1)  # the clock was set back into the month before
    assert int(last[20:28], 16) > 27 * 86_400_000 - 3_600_000


def test_uniq_keys_of_one_millisecond_differ() -> None:
    keys = UniqKeyGenerator(random.randbytes(16), 1, bytes(4))
    made = {keys.next(1_700_000_000_000) for _ in range(65536)}
    assert len(made) == 65536
    assert {len(key) for key in made} == {56}
