"""The texts of POP: handles (POP_CK, extraInfo), the offsets of an answer, batches of acknowledgements.

Source: RocketMQ 5.3 ``ExtraInfoUtil``, ``KeyBuilder``, ``BatchAck``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import RemoteProtocolError
from ..model import RETRY_PREFIX
from .bodies.base import dumps, loads

NORMAL, RETRY, RETRY_V2 = "0", "1", "2"
"""Marks of the topic that a message was taken from."""
ORDER_REVIVE_QID = 999
"""reviveQid of what was given out in order. Source: ``KeyBuilder.POP_ORDER_REVIVE_QUEUE``."""
MAX_BATCH_ACKS = 4096  # bounds the work of one request; clients send one entry for each POP
_MAX_BITS_BYTES = 1024
"""Of one bit set, so 8192 offsets: a POP returns at most 32 messages, but a filter leaves gaps between them."""


def pop_retry_topic(group: str, topic: str, mark: str = RETRY) -> str:
    """The topic through which a group gets again what it did not acknowledge."""
    return f"{RETRY_PREFIX}{group}{'_' if mark == RETRY else '+'}{topic}"


def real_topic(group: str, topic: str, mark: str) -> str:
    """The topic that a message of ``topic`` was taken from. Raises RemoteProtocolError for an unknown mark."""
    if mark == NORMAL:
        return topic
    if mark in (RETRY, RETRY_V2):
        return pop_retry_topic(group, topic, mark)
    raise RemoteProtocolError(f"POP handle: retry mark {mark[:20]!r}, expected 0, 1 or 2")


@dataclass(frozen=True, slots=True)
class PopHandle:
    """What a client gives back to acknowledge a message, blank-separated on the wire.

    Attributes:
        start_offset: the first offset that this POP took from the queue.
        pop_time_ms, invisible_time_ms: the message is hidden until their sum.
        mark: which topic it was taken from.
    """

    start_offset: int
    pop_time_ms: int
    invisible_time_ms: int
    revive_qid: int
    mark: str
    broker_name: str
    queue_id: int
    queue_offset: int

    @property
    def visible_ms(self) -> int:
        """When the message can be taken again (ms since 1970)."""
        return self.pop_time_ms + self.invisible_time_ms

    @property
    def order(self) -> bool:
        """Whether it was given out in order."""
        return self.revive_qid == ORDER_REVIVE_QID

    def text(self) -> str:
        return (
            f"{self.start_offset} {self.pop_time_ms} {self.invisible_time_ms} {self.revive_qid} {self.mark} "
            f"{self.broker_name} {self.queue_id} {self.queue_offset}"
        )


def parse_handle(text: str) -> PopHandle:
    """A handle from its text. Raises RemoteProtocolError."""
    parts = text.split(" ")
    if len(parts) != 8:
        raise RemoteProtocolError(f"POP handle {text[:120]!r} has {len(parts)} parts, expected 8")
    try:
        return PopHandle(
            int(parts[0]),
            int(parts[1]),
            int(parts[2]),
            int(parts[3]),
            parts[4],
            parts[5],
            int(parts[6]),
            int(parts[7]),
        )
    except ValueError:
        raise RemoteProtocolError(f"POP handle {text[:120]!r} has a part that is no number") from None


OffsetInfo = dict[tuple[str, int], list[int]]
"""(mark, queue id) -> offsets"""


def offset_info(items: Sequence[tuple[str, int, Sequence[int]]]) -> str:
    """startOffsetInfo and msgOffsetInfo: ``mark queueId o1,o2;...``."""
    return ";".join(f"{mark} {queue_id} {','.join(map(str, offsets))}" for mark, queue_id, offsets in items)


def parse_offset_info(text: str | None) -> OffsetInfo:
    """startOffsetInfo and msgOffsetInfo by (mark, queue id). Raises RemoteProtocolError."""
    found: OffsetInfo = {}
    for item in (text or "").split(";"):
        if not item:
            continue
        parts = item.split(" ")
        try:
            mark, queue_id, offsets = parts
            key = mark, int(queue_id)
            if key in found:
                raise RemoteProtocolError(f"POP offsets name queue {queue_id} twice: {item[:80]!r}")
            found[key] = [int(offset) for offset in offsets.split(",")]
        except ValueError:
            raise RemoteProtocolError(f"POP offsets {item[:80]!r} are not 'mark queueId o1,o2'") from None
    return found


OrderCounts = dict[tuple[str, int, int | None], int]
"""(mark, queue id, offset or None for all others of the queue) -> how often a message was given out before"""


def order_count_info(counts: OrderCounts) -> str:
    """orderCountInfo: ``mark qo<queueId>%<offset> count;mark queueId count;...``."""
    return ";".join(
        f"{mark} {queue_id if offset is None else f'qo{queue_id}%{offset}'} {count}"
        for (mark, queue_id, offset), count in counts.items()
    )


def parse_order_count_info(text: str | None) -> OrderCounts:
    """Counts of an orderCountInfo. Raises RemoteProtocolError."""
    counts: OrderCounts = {}
    for item in (text or "").split(";"):
        if not item:
            continue
        try:
            mark, place, count = item.split(" ")
            queue_id, _, offset = place.removeprefix("qo").partition("%")
            counts[mark, int(queue_id), int(offset) if offset else None] = int(count)
        except ValueError:
            raise RemoteProtocolError(f"POP counts {item[:80]!r} are not 'mark queue count'") from None
    return counts


class BatchAck(msgspec.Struct, frozen=True):
    """Acknowledgements of one queue that share their times: ``start_offset`` and the offsets from there on."""

    group: str
    topic: str
    mark: str
    start_offset: int
    queue_id: int
    revive_qid: int
    pop_time_ms: int
    invisible_time_ms: int
    offsets: tuple[int, ...]


def encode_batch_acks(broker_name: str, acks: Sequence[BatchAck]) -> bytes:
    """Body of BATCH_ACK_MESSAGE."""
    items = [
        {
            "c": ack.group,
            "t": ack.topic,
            "r": ack.mark,
            "so": ack.start_offset,
            "q": ack.queue_id,
            "rq": ack.revive_qid,
            "pt": ack.pop_time_ms,
            "it": ack.invisible_time_ms,
            "b": _bits([offset - ack.start_offset for offset in ack.offsets]),
        }
        for ack in acks
    ]
    return dumps({"brokerName": broker_name, "acks": items})


def _bits(numbers: Sequence[int]) -> str:
    """Numbers as the little-endian bit set that ``java.util.BitSet`` writes, in base64."""
    bits = 0
    for number in numbers:
        bits |= 1 << number
    return base64.b64encode(bits.to_bytes((bits.bit_length() + 7) // 8, "little")).decode()


def decode_batch_acks(data: bytes) -> list[BatchAck]:
    """Acknowledgements of a BATCH_ACK_MESSAGE body. Raises RemoteProtocolError."""
    body = loads(data)
    items = body.get("acks") if isinstance(body, dict) else None
    if not isinstance(items, list) or len(items) > MAX_BATCH_ACKS:
        raise RemoteProtocolError(f"batch of acknowledgements: acks must be a list of at most {MAX_BATCH_ACKS}")
    return [_batch_ack(item) for item in items]


def _batch_ack(item: Any) -> BatchAck:
    try:
        text = item["b"]
        if len(text) > _MAX_BITS_BYTES * 4 // 3 + 4:
            raise RemoteProtocolError(f"batch of acknowledgements: a bit set of {len(text)} characters")
        raw = base64.b64decode(text, validate=True)
        start = int(item["so"])
        offsets = tuple(start + i * 8 + bit for i, byte in enumerate(raw) for bit in range(8) if byte >> bit & 1)
        return BatchAck(
            str(item["c"]),
            str(item["t"]),
            str(item.get("r") or NORMAL),
            start,
            int(item["q"]),
            int(item["rq"]),
            int(item["pt"]),
            int(item["it"]),
            offsets,
        )
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise RemoteProtocolError(f"batch of acknowledgements: an entry cannot be read ({error!r:.120})") from None
