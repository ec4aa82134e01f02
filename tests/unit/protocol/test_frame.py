"""Frames: golden bytes of remoting.md section 14, arbitrary splits, limits, what real clients write."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from helpers import json_frame
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import ROUTE_ANSWER, ROUTE_ANSWER_BODY, ROUTE_BINARY, ROUTE_JSON, SEND, SEND_ANSWER

from rmq_redis.codes import LanguageCode
from rmq_redis.errors import LocalProtocolError, RemoteProtocolError
from rmq_redis.protocol.command import RemotingCommand, SerializeType, request, response
from rmq_redis.protocol.frame import MAX_FRAME_BYTES, CommandDecoder, encode_command, encode_frame, take_command

ERROR_HEADER = (
    b'{"code":17,"flag":1,"language":"JAVA","opaque":8,'
    b'"remark":"No topic route info in name server for the topic: X","serializeTypeCurrentRPC":"JSON","version":409}'
)
SEND_FIELDS = {
    "a": "PG",
    "b": "TopicTest",
    "c": "TBW102",
    "d": "4",
    "e": "3",
    "f": "0",
    "g": "1700000000000",
    "h": "0",
    "i": "TAGS\x01TagA\x02UNIQ_KEY\x010A000007303918B4AAC2018F3A1B0000\x02WAIT\x01true\x02",
    "j": "0",
    "k": "false",
    "l": "0",
    "m": "false",
    "n": "broker-a",
}


def java(code: int, opaque: int, **rest: Any) -> RemotingCommand:
    return RemotingCommand(code=code, opaque=opaque, language=LanguageCode.JAVA, version=409, **rest)


GOLDEN = [
    pytest.param(java(105, 7, fields={"topic": "TopicTest"}), ROUTE_JSON, 139, id="route-json"),
    pytest.param(
        java(105, 7, fields={"topic": "TopicTest"}, serialize_type=SerializeType.ROCKETMQ),
        ROUTE_BINARY,
        49,
        id="route-binary",
    ),
    pytest.param(java(0, 7, flag=1, body=ROUTE_ANSWER_BODY), ROUTE_ANSWER, 354, id="route-answer"),
    pytest.param(
        java(17, 8, flag=1, remark="No topic route info in name server for the topic: X"),
        (4 + len(ERROR_HEADER)).to_bytes(4, "big") + len(ERROR_HEADER).to_bytes(4, "big") + ERROR_HEADER,
        8 + len(ERROR_HEADER),
        id="error",
    ),
    pytest.param(java(310, 9, fields=SEND_FIELDS, body=b"hello"), SEND, 368, id="send"),
    pytest.param(
        java(
            0,
            9,
            flag=1,
            fields={
                "MSG_REGION": "DefaultRegion",
                "TRACE_ON": "true",
                "msgId": "0A00000500002A9F000000000001E240",
                "queueId": "3",
                "queueOffset": "42",
            },
        ),
        SEND_ANSWER,
        240,
        id="send-answer",
    ),
]


def same(left: RemotingCommand | None, right: RemotingCommand) -> bool:
    """Equal, with the header fields compared as text."""
    assert left is not None
    left.ext_fields, right.ext_fields  # noqa: B018  (raw JSON becomes a dict)
    for command in (left, right):
        command.fields = command.fields or None
    return left == right


def decode(frame: bytes) -> RemotingCommand:
    buffer = bytearray(frame)
    command = take_command(buffer)
    assert command is not None
    assert not buffer
    return command


# --- golden bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "frame", "size"), GOLDEN)
def test_golden_frame_is_encoded_to_the_byte(command: RemotingCommand, frame: bytes, size: int) -> None:
    assert len(frame) == size
    assert encode_command(command) == frame


@pytest.mark.parametrize(("command", "frame", "size"), GOLDEN)
def test_golden_frame_is_decoded(command: RemotingCommand, frame: bytes, size: int) -> None:
    assert same(decode(frame), command)


@pytest.mark.parametrize(("command", "frame", "size"), GOLDEN)
def test_take_command_accepts_one_byte_at_a_time(command: RemotingCommand, frame: bytes, size: int) -> None:
    buffer = bytearray()
    for byte in frame:
        assert take_command(buffer) is None
        buffer.append(byte)
    assert same(take_command(buffer), command)
    assert not buffer


@pytest.mark.parametrize(("command", "frame", "size"), GOLDEN)
def test_decoder_accepts_one_byte_at_a_time(command: RemotingCommand, frame: bytes, size: int) -> None:
    decoder = CommandDecoder()
    commands: list[RemotingCommand] = []
    for index, byte in enumerate(frame):
        assert not commands
        assert decoder.pending_bytes == index
        decoder.feed(bytes([byte]), commands)
    assert len(commands) == 1
    assert same(commands[0], command)
    assert decoder.pending_bytes == 0


@given(st.lists(st.sampled_from([p.values for p in GOLDEN]), max_size=6), st.data())
def test_decoder_returns_the_same_commands_for_every_split(
    goldens: list[tuple[RemotingCommand, bytes, int]], data: st.DataObject
) -> None:
    stream = b"".join(frame for _, frame, _ in goldens)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder = CommandDecoder()
    commands: list[RemotingCommand] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.feed(stream[start:end], commands)
    assert len(commands) == len(goldens)
    assert all(same(command, golden) for command, (golden, _, _) in zip(commands, goldens, strict=True))
    assert decoder.pending_bytes == 0


# --- round trips -----------------------------------------------------------------------------------------------------

INT32 = st.integers(-(2**31), 2**31 - 1)
TEXT = st.text(max_size=40)
SOME_TEXT = st.text(min_size=1, max_size=40)


@given(
    code=INT32,
    opaque=INT32,
    flag=INT32,
    version=INT32,
    language=st.sampled_from([int(code) for code in LanguageCode]),
    remark=st.none() | TEXT,
    fields=st.none() | st.dictionaries(TEXT, TEXT, max_size=6),
    body=st.binary(max_size=100),
)
def test_json_command_survives_the_wire(**attributes: Any) -> None:
    command = RemotingCommand(**attributes)
    assert same(decode(encode_command(command)), command)


@given(
    code=st.integers(-(2**15), 2**15 - 1),
    opaque=INT32,
    flag=INT32,
    version=st.integers(-(2**15), 2**15 - 1),
    language=st.sampled_from([int(code) for code in LanguageCode]),
    remark=st.none() | SOME_TEXT,
    fields=st.none() | st.dictionaries(SOME_TEXT, SOME_TEXT, max_size=6),
    body=st.binary(max_size=100),
)
def test_binary_command_survives_the_wire(**attributes: Any) -> None:
    command = RemotingCommand(**attributes, serialize_type=SerializeType.ROCKETMQ)
    assert same(decode(encode_command(command)), command)


def test_binary_header_without_remark_and_fields_has_21_bytes() -> None:
    assert len(encode_command(RemotingCommand(code=34, serialize_type=SerializeType.ROCKETMQ))) == 8 + 21


def test_binary_empty_texts_read_as_absent() -> None:
    command = RemotingCommand(code=1, remark="", fields={"a": "", "b": "x"}, serialize_type=SerializeType.ROCKETMQ)
    decoded = decode(encode_command(command))
    assert decoded.remark is None
    assert decoded.ext_fields == {"b": "x"}


def test_binary_repeated_key_last_one_wins() -> None:
    entry = bytes.fromhex("0001 61 00000001")
    fields = entry + b"1" + entry + b"2"
    header = bytes.fromhex("0069 00 0199 00000007 00000000 00000000") + len(fields).to_bytes(4, "big") + fields
    frame = (4 + len(header)).to_bytes(4, "big") + b"\1" + len(header).to_bytes(3, "big") + header
    assert decode(frame).ext_fields == {"a": "2"}


def test_optional_keys_are_left_out_and_never_null() -> None:
    header = json.loads(encode_command(RemotingCommand(code=1))[8:])
    assert "remark" not in header
    assert "extFields" not in header
    assert header["language"] == "PYTHON"


def test_response_repeats_opaque_and_serialization() -> None:
    asked = RemotingCommand(code=105, opaque=0, serialize_type=SerializeType.ROCKETMQ)
    answer = response(asked, 17, remark="no")
    assert (answer.opaque, answer.flag, answer.code, answer.serialize_type) == (0, 1, 17, SerializeType.ROCKETMQ)
    assert answer.is_response
    assert not answer.is_oneway


def test_oneway_request_has_flag_2() -> None:
    assert request(15, oneway=True).flag == 2
    assert request(15, oneway=True).is_oneway


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [-(2**31), -1, 0, 3, MAX_FRAME_BYTES - 3, 2**31 - 1])
def test_impossible_frame_length_is_refused(length: int) -> None:
    prefix = length.to_bytes(4, "big", signed=True)
    with pytest.raises(RemoteProtocolError):
        take_command(bytearray(prefix))
    with pytest.raises(RemoteProtocolError):
        CommandDecoder().feed(prefix, [])


@pytest.mark.parametrize("length", [4, MAX_FRAME_BYTES - 4])
def test_incomplete_frame_of_legal_length_is_awaited(length: int) -> None:
    prefix = length.to_bytes(4, "big")
    assert take_command(bytearray(prefix)) is None
    decoder = CommandDecoder()
    decoder.feed(prefix, [])
    assert decoder.pending_bytes == 4


def test_decoder_holds_received_not_claimed_bytes() -> None:
    decoder = CommandDecoder()
    claim = (MAX_FRAME_BYTES - 4).to_bytes(4, "big")
    tracemalloc.start()
    try:
        decoder.feed(claim + b"\0" * 100, [])
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert decoder.pending_bytes == 104


def test_largest_frame_is_accepted_and_one_byte_more_refused() -> None:
    header = b'{"code":1}'
    body = bytes(MAX_FRAME_BYTES - 8 - len(header))
    frame = encode_frame(header, body)
    assert len(frame) == MAX_FRAME_BYTES
    assert len(decode(frame).body) == len(body)
    with pytest.raises(LocalProtocolError):
        encode_frame(header, body + b"x")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(bytes.fromhex("00000004 00000001"), id="header-longer-than-frame"),
        pytest.param(bytes.fromhex("00000004 00ffffff"), id="header-16-MiB"),
        pytest.param(bytes.fromhex("00000006 02000002") + b"{}", id="unknown-serialize-type"),
        pytest.param(json_frame(b""), id="empty-header"),
        pytest.param(json_frame(b"{}"), id="no-code"),
        pytest.param(json_frame(b"[]"), id="header-no-object"),
        pytest.param(json_frame(b'{"code":2147483648}'), id="code-beyond-int32"),
        pytest.param(json_frame(b'{"code":1,"opaque":-2147483649}'), id="opaque-beyond-int32"),
        pytest.param(json_frame(b'{"code":"x"}'), id="code-no-number"),
        pytest.param(json_frame(b'{"code":1,"remark":"\xff"}'), id="invalid-utf8"),
        pytest.param(json_frame(b'{"code":1'), id="truncated-json"),
        pytest.param(json_frame(b'{"code":1,"extFields":' + b"[" * 100_000), id="deep"),
        pytest.param(json_frame(b'{"code":1' + b"0" * 5000 + b"}"), id="huge-number"),
        pytest.param(bytes.fromhex("00000018 01000014") + bytes(20), id="binary-20-bytes"),
        pytest.param(bytes.fromhex("00000019 01000015") + bytes(13) + b"\x7f\xff\xff\xff" + bytes(4), id="remark-2GiB"),
        pytest.param(bytes.fromhex("00000019 01000015") + bytes(13) + b"\xff\xff\xff\xff" + bytes(4), id="remark-neg"),
        pytest.param(bytes.fromhex("00000019 01000015") + bytes(17) + b"\x7f\xff\xff\xff", id="fields-2GiB"),
        pytest.param(bytes.fromhex("0000001a 01000016") + bytes(17) + b"\0\0\0\1" + b"x", id="fields-cut"),
        pytest.param(
            bytes.fromhex("00000020 0100001c") + bytes(17) + b"\0\0\0\7" + b"\0\1\xff\0\0\0\0", id="key-no-utf8"
        ),
    ],
)
def test_malformed_frame_is_a_protocol_error(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        take_command(bytearray(frame))


def test_commands_before_a_broken_frame_are_delivered() -> None:
    commands: list[RemotingCommand] = []
    with pytest.raises(RemoteProtocolError):
        CommandDecoder().feed(ROUTE_JSON + ROUTE_BINARY + b"\xff\xff\xff\xff", commands)
    assert [command.opaque for command in commands] == [7, 7]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(RemotingCommand(code=200050, serialize_type=SerializeType.ROCKETMQ), id="code-beyond-int16"),
        pytest.param(RemotingCommand(code=1, version=40000, serialize_type=SerializeType.ROCKETMQ), id="version"),
        pytest.param(RemotingCommand(code=1, opaque=2**31, serialize_type=SerializeType.ROCKETMQ), id="opaque"),
        pytest.param(
            RemotingCommand(code=1, fields={"k" * 40000: "v"}, serialize_type=SerializeType.ROCKETMQ), id="key-length"
        ),
        pytest.param(
            RemotingCommand(code=1, fields={"k": "\ud800"}, serialize_type=SerializeType.ROCKETMQ), id="surrogate"
        ),
        pytest.param(RemotingCommand(code=1, fields={"k": "\ud800"}), id="json-surrogate"),
        pytest.param(RemotingCommand(code=1, fields={"\ud800": "k"}), id="json-surrogate-key"),
        pytest.param(RemotingCommand(code=1, remark="\udfff"), id="json-surrogate-remark"),
        pytest.param(RemotingCommand(code=1, body=bytes(MAX_FRAME_BYTES)), id="too-large"),
        pytest.param(RemotingCommand(code=1, fields={"k": "x" * MAX_FRAME_BYTES}), id="header-too-large"),
    ],
)
def test_unencodable_command_is_a_local_protocol_error(command: RemotingCommand) -> None:
    with pytest.raises(LocalProtocolError):
        encode_command(command)


# --- what real clients write (clients.md 1-4) ------------------------------------------------------------------------


def test_ext_fields_may_mix_strings_numbers_booleans_and_nulls() -> None:
    command = decode(json_frame(b'{"code":310,"extFields":{"a":"x","e":0,"k":false,"m":true,"n":null,"f":1.5}}'))
    assert command.ext_fields == {"a": "x", "e": "0", "k": "false", "m": "true", "f": "1.5"}


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        (b'"PYTHON"', LanguageCode.PYTHON),
        (b"3", LanguageCode.PYTHON),
        (b'"CPP"', LanguageCode.CPP),
        (b'"KLINGON"', LanguageCode.OTHER),
        (b"null", LanguageCode.OTHER),
    ],
)
def test_language_may_be_a_name_a_number_or_unknown(language: bytes, expected: LanguageCode) -> None:
    assert decode(json_frame(b'{"code":105,"language":%b}' % language)).language == expected


@pytest.mark.parametrize("fields", [b"", b',"extFields":{}', b',"extFields":null'])
def test_ext_fields_may_be_missing_empty_or_null(fields: bytes) -> None:
    assert decode(json_frame(b'{"code":34%b}' % fields)).ext_fields == {}


def test_empty_remark_nulls_and_unknown_keys_are_accepted() -> None:
    command = decode(json_frame(b'{"code":0,"flag":1,"remark":"","version":null,"hashCode":[1,{"a":2}]}'))
    assert command.remark == ""
    assert command.version == 0


def test_header_may_end_with_a_newline_that_counts() -> None:
    command = decode(json_frame(b'{"code":34,"extFields":{"AccessKey":"","Signature":""}}\n', b"{}\n"))
    assert command.ext_fields == {"AccessKey": "", "Signature": ""}
    assert command.body == b"{}\n"


def test_raw_control_characters_inside_strings_are_accepted() -> None:
    command = decode(json_frame(b'{"code":10,"extFields":{"properties":"TAGS\x01A\x02"}}'))
    assert command.ext_fields == {"properties": "TAGS\x01A\x02"}


def test_numbers_may_be_text_in_the_outer_header() -> None:
    command = decode(json_frame(b'{"code":"105","opaque":"7","flag":"0","version":"409"}'))
    assert (command.code, command.opaque, command.version) == (105, 7, 409)


def test_half_a_surrogate_pair_in_a_remark_is_replaced() -> None:
    """It is only shown: no reason to close the connection, and no reason to break the log."""
    command = decode(json_frame(rb'{"code":1,"flag":1,"remark":"x\ud800"}'))
    assert command.remark == "x?"


@pytest.mark.parametrize("fields", [rb'{"topic":"\ud800"}', rb'{"\ud800":"x"}'])
def test_half_a_surrogate_pair_in_the_fields_is_a_protocol_error(fields: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(json_frame(b'{"code":105,"extFields":%b}' % fields))
