"""One queue as a broker knows it, and its offsets: as numbers, as stream entries, as addresses of messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...errors import StoreError
from ...model import MessageQueue
from ...protocol.frame import MAX_FRAME_BYTES
from ...protocol.record import OFFSETS, QUEUE_OFFSET_POSITION
from .counters import Counter

QUEUE_NUMBER_SHIFT = 40
"""physical offset = queue number << 40 | queue offset: an address that leads back to the message without an index."""
MAX_QUEUE_NUMBER = (1 << (63 - QUEUE_NUMBER_SHIFT)) - 1
_MASK = (1 << QUEUE_NUMBER_SHIFT) - 1
_FIRST_SIZE_HINT = 256 * 1024
"""As much as one pull may return by default: before it knows any record, it reads one, which may be large."""
MAX_READ_BYTES = 64 * 1024 * 1024
"""What one read may bring at the very most, should all its records be as large as the largest."""

Appended = Callable[["Queue", int, "StoreError | None", Any], None]
"""Called once per append with (queue, queue offset of its first record, error, the caller's argument).

A StoreUnconfirmedError comes with an offset: the records are stored.
"""


class Queue:
    """One queue as this broker knows it.

    Attributes:
        mq: the queue as clients know it.
        key: its stream in Redis.
        number: the queue's number in physical offsets.
        first_offset: where it began: all its messages are there while ``min_offset`` is not above.
        min_offset: offset of the first message still there; equal to ``max_offset`` when empty.
        oldest_ms: when the message at ``min_offset`` was stored; 0 when it was not read yet or there is none.
        max_offset: offset that the next message will get.
        sent_end: the same once everything that is on its way to Redis is there; never smaller.
        size_hint: bytes of a large record of late; a read requests as many as should fit.
        largest: bytes of the largest record there may be; a read never requests more than ``MAX_READ_BYTES`` by it.
        held: pulls that wait for a message, kept by ``broker.pull_hold``.
        puts: what was stored in it since this process knows it; None: nothing.
    """

    __slots__ = (
        "first_offset",
        "held",
        "key",
        "largest",
        "max_offset",
        "min_offset",
        "mq",
        "number",
        "oldest_ms",
        "puts",
        "queue_id",
        "sent_end",
        "size_hint",
        "topic",
    )

    def __init__(self, mq: MessageQueue, number: int, key: bytes) -> None:
        self.mq = mq
        self.topic = mq.topic
        self.queue_id = mq.queue_id
        self.number = number
        self.key = key
        self.first_offset = 0
        self.min_offset = 0
        self.max_offset = 0
        self.sent_end = 0
        self.oldest_ms = 0
        self.size_hint = _FIRST_SIZE_HINT
        self.largest = MAX_FRAME_BYTES // 2
        self.held: list[Any] = []
        self.puts: Counter | None = None

    @property
    def known_end(self) -> int:
        """The offset behind everything that is stored or on its way, as far as this process knows."""
        return self.sent_end if self.sent_end > self.max_offset else self.max_offset

    @property
    def is_complete(self) -> bool:
        """Whether nothing was removed from its beginning."""
        return self.min_offset <= self.first_offset

    def begin_behind(self, offset: int) -> None:
        """All messages are lost, and the next one gets ``offset``: no offset is used twice."""
        self.first_offset = self.min_offset = self.max_offset = self.sent_end = offset
        self.oldest_ms = 0

    def read_nums(self, wanted: int, max_bytes: int) -> int:
        """How many of ``wanted`` records one read should request, to return about ``max_bytes``; at least 1."""
        return max(1, min(wanted, max_bytes // max(self.size_hint, 1), MAX_READ_BYTES // max(self.largest, 1)))

    def physical_offset(self, queue_offset: int) -> int:
        return self.number << QUEUE_NUMBER_SHIFT | queue_offset


def split_physical_offset(physical_offset: int) -> tuple[int, int]:
    """(queue number, queue offset) of a physical offset."""
    return physical_offset >> QUEUE_NUMBER_SHIFT, physical_offset & _MASK


def entry_id(queue_offset: int) -> bytes:
    """Stream entry of a message. RocketMQ counts from 0 and Redis refuses 0-0, so offset k is entry 0-<k+1>."""
    return b"0-%d" % (queue_offset + 1)


def queue_offset_of(entry: bytes) -> int:
    """Queue offset of a stream entry ID ``0-<n>``."""
    return int(entry[2:]) - 1


def deliver(queue: Queue, records: Sequence[bytes], offsets: Sequence[int]) -> bytearray:
    """Stored records as they go to a client: back to back, each with its queueOffset and physicalOffset."""
    body = bytearray().join(records)
    position = QUEUE_OFFSET_POSITION
    base = queue.number << QUEUE_NUMBER_SHIFT
    pack_into = OFFSETS.pack_into
    for record, offset in zip(records, offsets, strict=True):
        pack_into(body, position, offset, base | offset)
        position += len(record)
    return body
