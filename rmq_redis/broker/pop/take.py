"""A POP request, and the messages that it takes from a queue; for ordered and unordered POPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...remoting.connection import Connection
from ...store.group.pop_order import NO_ATTEMPT, Batch
from ...store.group.queue import Queue
from ..budget import Budget
from ..filter.reads import LOOKS_PER_CLOCK, learn, scan_nums
from ..filter.subscription import MessageFilter

MAX_SCAN_BYTES = 8 * 1024 * 1024
"""Bytes that one read of a queue may return: half of the largest frame."""

Screen = Callable[[Queue, str, Sequence[int], Sequence[bytes]], set[int]]
"""Returns the offsets that a group does not get although they pass its filter; they count as consumed."""


@dataclass(frozen=True, slots=True)
class PopRequest:
    """A POP request.

    Attributes:
        topics: the topic, and the group's retry topic for it; in order only the topic.
        attempt: identifies a request that is repeated because its answer was lost.
    """

    connection: Connection
    group: str
    topics: tuple[str, ...]
    queue_id: int
    max_nums: int
    invisible_ms: int
    from_max: bool
    filter: MessageFilter | None
    order: bool = False
    attempt: str = NO_ATTEMPT

    def scan_nums(self, queue: Queue) -> int:
        """Number of records that one read of a queue requests."""
        wanted = self.max_nums if self.filter is None else scan_nums(self.max_nums, self.filter)
        return queue.read_nums(wanted, MAX_SCAN_BYTES)


@dataclass(frozen=True, slots=True)
class Taken:
    """Messages taken from one queue for the client.

    Attributes:
        batch: the queue's batch now; only of a POP in order.
    """

    queue: Queue
    offsets: list[int]
    records: list[bytes]
    batch: Batch | None = None


class Room:
    """Space left in an answer, and time left for filters. The first message always fits."""

    __slots__ = ("_budget", "bytes", "empty", "nums")

    def __init__(self, nums: int, max_bytes: int) -> None:
        self.nums = nums
        self.bytes = max_bytes
        self.empty = True
        self._budget = Budget()

    def choose(
        self, request: PopRequest, queue: Queue, offsets: Sequence[int], records: Sequence[bytes], screen: Screen | None
    ) -> tuple[dict[int, bytes], int]:
        """The records that pass the filter and fit, by offset, and the number of records tested."""
        wanted: dict[int, bytes] = {}
        withheld = screen(queue, request.group, offsets, records) if screen else ()
        looked_at = 0
        for offset, record in zip(offsets, records, strict=True):
            if request.filter and not looked_at % LOOKS_PER_CLOCK and self._budget.is_over():
                break
            if offset not in withheld and (request.filter is None or request.filter.matches(record)):
                if self.nums <= 0 or (self.bytes < len(record) and not self.empty):
                    break
                wanted[offset] = record
                self.nums -= 1
                self.bytes -= len(record)
                self.empty = False
            looked_at += 1
        if request.filter and looked_at:
            learn(request.filter, len(wanted), looked_at)
        return wanted, looked_at


def next_after(queue: Queue, position: int, offsets: Sequence[int], looked_at: int) -> int:
    """The group's next offset after ``looked_at`` of ``offsets``, which begin at ``position`` or behind it."""
    if not offsets:
        return queue.min_offset  # the records were removed meanwhile
    return offsets[looked_at - 1] + 1 if looked_at else position
