"""The texts of POP against golden values, and round trips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq_redis.errors import RemoteProtocolError
from rmq_redis.protocol.bodies.base import loads
from rmq_redis.protocol.pop import (
    BatchAck,
    PopHandle,
    decode_batch_acks,
    encode_batch_acks,
    offset_info,
    order_count_info,
    parse_handle,
    parse_offset_info,
    parse_order_count_info,
    pop_retry_topic,
    real_topic,
)

TEXT = "100 1700000000000 60000 3 1 broker-a 0 109"
HANDLE = PopHandle(100, 1700000000000, 60000, 3, "1", "broker-a", 0, 109)


def test_handle_has_eight_parts() -> None:
    assert parse_handle(TEXT) == HANDLE
    assert HANDLE.text() == TEXT
    assert HANDLE.visible_ms == 1700000060000


def test_response_offsets_are_decoded() -> None:
    text = "0 3 100,102,109;1 0 7"
    found = {("0", 3): [100, 102, 109], ("1", 0): [7]}
    assert parse_offset_info(text) == found
    assert offset_info([(mark, queue_id, offsets) for (mark, queue_id), offsets in found.items()]) == text
    assert parse_offset_info(None) == parse_offset_info("") == {}


def test_in_order_response_counts_are_decoded() -> None:
    text = "0 qo3%100 2;0 qo3%101 1;0 3 0;1 0 4"
    counts = {("0", 3, 100): 2, ("0", 3, 101): 1, ("0", 3, None): 0, ("1", 0, None): 4}
    assert parse_order_count_info(text) == counts
    assert order_count_info(counts) == text
    assert parse_order_count_info(None) == parse_order_count_info("") == {}
    assert PopHandle(0, 1, 2, 999, "0", "b", 0, 0).order
    assert not HANDLE.order


@pytest.mark.parametrize("text", ["0 1", "0 x 1", "0 qo1%x 1", "0 1 a", "0 qo%1 1"])
def test_malformed_counts_are_an_error(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_order_count_info(text)


def test_a_batch_as_java_writes_it() -> None:
    """``CQI=`` is ``java.util.BitSet`` with bits 0, 3 and 9."""
    body = (
        b'{"acks":[{"b":"CQI=","c":"G","it":60000,"pt":1700000000000,"q":0,"r":"0","rq":3,"so":100,"t":"T"}],'
        b'"brokerName":"broker-a"}'
    )
    ack = BatchAck("G", "T", "0", 100, 0, 3, 1700000000000, 60000, (100, 103, 109))
    assert decode_batch_acks(body) == [ack]
    assert loads(encode_batch_acks("broker-a", [ack])) == loads(body)


@given(st.sets(st.integers(0, 2000), min_size=1))
def test_batch_acks_round_trip(numbers: set[int]) -> None:
    ack = BatchAck("G", "T", "1", 5, 1, 0, 1, 2, tuple(sorted(5 + number for number in numbers)))
    assert decode_batch_acks(encode_batch_acks("broker-a", [ack])) == [ack]


def test_topics_by_their_mark() -> None:
    assert pop_retry_topic("G", "T") == real_topic("G", "T", "1") == "%RETRY%G_T"
    assert real_topic("G", "T", "2") == "%RETRY%G+T"
    assert real_topic("G", "T", "0") == "T"


@pytest.mark.parametrize("text", ["", "1 2 3", "a 1 1 1 0 b 0 0", TEXT + " 1"])
def test_malformed_handle_is_an_error(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_handle(text)


@pytest.mark.parametrize("text", ["0 1", "0 x 1", "0 1 a", "0 1 1;0 1 2", "0 1 1 1"])
def test_malformed_offsets_are_an_error(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_offset_info(text)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b'{"acks":{}}',
        b'{"acks":[1]}',
        b'{"acks":[{}]}',
        b'{"acks":[{"b":"%","c":"G","it":1,"pt":1,"q":0,"rq":3,"so":1,"t":"T"}]}',
        b'{"acks":[{"b":7,"c":"G","it":1,"pt":1,"q":0,"rq":3,"so":1,"t":"T"}]}',
        b'{"acks":[{"b":"' + b"A" * 100_000 + b'","c":"G","it":1,"pt":1,"q":0,"rq":3,"so":1,"t":"T"}]}',
    ],
)
def test_malformed_batch_acks_are_an_error(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_batch_acks(body)


def test_an_unknown_mark() -> None:
    with pytest.raises(RemoteProtocolError):
        real_topic("G", "T", "3")
