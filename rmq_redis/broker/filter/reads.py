"""Reads for pulls with a filter: about as many records as will be delivered, and a bound on the work in one turn.

After a few reads, the share of records that pass an expression is known. Apache's broker looks at 800 entries of 20
bytes for every pull. Reading 800 records here could move a hundred times the bytes that are delivered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from ...remoting.connection import Connection
from ..budget import Budget
from ..consume.hold import HeldPull
from .subscription import MessageFilter

MAX_SCAN_NUMS = 800
"""Records that one pull reads at most. Source: 800 * 20 bytes of consume queue in RocketMQ."""
_LEAST_SCAN_NUMS = 32
"""RocketMQ's default ``pullBatchSize``: reading fewer saves little against the round trip."""
READS_AT_ONCE = 4
"""Filtered reads of one connection at a time. Without this bound, a client that sends hundreds of pulls with an
expensive expression would delay the answers to all other clients."""
LOOKS_PER_CLOCK = 8
"""Records to filter between two checks of the ``Budget``."""
_WEIGHT = 0.3
"""Weight of the newest read in the running average: after 7 reads, they make up 92 % of it."""


def scan_nums(wanted: int, message_filter: MessageFilter) -> int:
    """How many records to read so that about ``wanted`` of them pass."""
    return max(wanted, min(max(int(wanted / message_filter.share), _LEAST_SCAN_NUMS), MAX_SCAN_NUMS))


def learn(message_filter: MessageFilter, passed: int, looked_at: int) -> None:
    """Updates the share of records that pass; the newest reads count most."""
    share = max(passed, 0.5) / looked_at
    message_filter.share += _WEIGHT * (min(share, 1.0) - message_filter.share)


class FilteredReads:
    """Starts filtered reads, a few of each connection at a time."""

    def __init__(self, read: Callable[[HeldPull], None]) -> None:
        """
        Args:
            read: begins a read; ``done`` must be called once for each when it has ended.
        """
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._running: dict[Connection, int] = {}
        self._waiting: dict[Connection, deque[HeldPull]] = {}

    def start(self, pull: HeldPull) -> None:
        """Reads for a pull, now or when others of its connection have ended."""
        running = self._running.get(pull.connection, 0)
        if running < READS_AT_ONCE:
            self._running[pull.connection] = running + 1
            self._read(pull)
        else:
            self._waiting.setdefault(pull.connection, deque()).append(pull)

    def done(self, connection: Connection) -> None:
        """A read of a connection has ended; the next one begins in another turn of the event loop."""
        waiting = self._waiting.get(connection)
        while waiting:
            pull = waiting.popleft()
            if not waiting:
                del self._waiting[connection]
            if not connection.closed:
                self._loop.call_soon(self._read, pull)
                return
        running = self._running.pop(connection) - 1
        if running:
            self._running[connection] = running


def choose(pull: HeldPull, offsets: Sequence[int], records: list[bytes]) -> tuple[list[int], list[bytes], int]:
    """Records that pass a pull's filter, within its limits and a budget, and the offset after the last tested one."""
    assert pull.filter
    matches = pull.filter.matches
    passed: list[bytes] = []
    passed_offsets: list[int] = []
    size = 0
    end = offsets[-1] + 1
    looked_at = len(records)
    budget = Budget()
    for index, (offset, record) in enumerate(zip(offsets, records, strict=True)):
        if not index % LOOKS_PER_CLOCK and budget.is_over():
            end, looked_at = offset, index
            break
        if matches(record):
            if passed and (len(passed) >= pull.max_msg_nums or size + len(record) > pull.max_bytes):
                end, looked_at = offset, index
                break
            passed.append(record)
            passed_offsets.append(offset)
            size += len(record)
    learn(pull.filter, len(passed), looked_at)
    return passed_offsets, passed, end
