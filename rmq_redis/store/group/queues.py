"""The queues of a broker group as Redis streams: group commit and reading.

A queue is one stream and the queue offset is the stream's own sequence number: entries are added as ``0-*``, so Redis
hands out 0-1, 0-2, ...; queue offset k is entry 0-<k+1>. The entry's one field ``m`` holds the message in its wire
encoding. Two numbers of a record are known only after the append, queueOffset and physicalOffset; they are written into
the copy that leaves (``deliver``). In the stored record their place carries the tag's hash code, which filters need.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ...errors import StoreError, StoreFencedError
from ...protocol.record import store_timestamp_position
from ..keys import GroupKeys
from ..redis.connection import Arg, StoreConnection, settle
from ..redis.window import AppendWindow
from .counters import AppendTimes, Counter
from .known_queues import KnownQueues, log_lost
from .queue import Appended, Queue, entry_id, queue_offset_of
from .session import NO_LIMIT, StoreSettings
from .turn import Turn, TurnBatch

logger = logging.getLogger(__name__)

COMMIT_RECORDS = 32
"""Number of appends that are sent before the end of the loop turn: Redis begins while the broker reads the rest of a
burst, instead of one resting while the other works."""
_LOST_MARK = ord("_")
"""In the place of an ID's "-": the stream had disappeared; see ``append`` in ``store/redis/functions/queues.lua``."""

NewRecords = Callable[["Queue", int, list[bytes]], None]
ReadDone = Callable[[list[int], list[bytes], "StoreError | None"], None]


async def _nothing_to_reload(connection: StoreConnection) -> None:
    pass


class _Appends:
    """What one turn appends to one queue.

    Attributes:
        waiting: of each append the number of its records, whom to call, and the caller's argument.
    """

    __slots__ = ("queue", "records", "waiting")

    def __init__(self, queue: Queue, records: list[bytes], waiting: list[tuple[int, Appended, Any]]) -> None:
        self.queue = queue
        self.records = records
        self.waiting = waiting


class QueueStore(KnownQueues):
    """Reads and writes queues. All appends of one turn of the event loop go to Redis in one function call."""

    def __init__(
        self,
        settings: StoreSettings,
        keys: GroupKeys,
        *,
        on_new_records: NewRecords,
        on_fenced: Callable[[StoreFencedError], None],
        on_reloaded: Callable[[StoreConnection], Awaitable[None]] = _nothing_to_reload,
    ) -> None:
        """
        Args:
            on_new_records: called after each group commit, per queue with (queue, first offset, its records).
            on_fenced, on_reloaded: see ``GroupSession``.
        """
        super().__init__(settings, keys, on_fenced=on_fenced, on_reloaded=on_reloaded)
        self._on_new_records = on_new_records
        self._batch = TurnBatch(
            self, "append", self._encode_appends, self._appended, offer=self._offer, on_answered=self._turn_answered
        )
        self._turn: dict[Queue, _Appends] = {}
        self._turn_records = 0
        self._patient = True
        self._took_ms = 0
        self.window: AppendWindow[Turn[_Appends]] = AppendWindow(
            self._send_appends, self._refuse_appends, max_wait_s=settings.max_wait_s, busy_s=settings.busy_s
        )
        if settings.replicas or settings.flush:
            self.window.allow_pauses(settings.confirm_timeout_s * (bool(settings.replicas) + settings.flush))
        self.puts = Counter()
        """All records appended since start."""
        self.append_times = AppendTimes()

    @property
    def put_total(self) -> int:
        """Records appended since start."""
        return self.puts.nums

    # --- appending -------------------------------------------------------------------------------------------------

    def append(
        self, queue: Queue, records: list[bytes], size: int, done: Appended, arg: Any, *, patient: bool = False
    ) -> None:
        """Appends records to a queue, together and in order, with everything else of this turn of the loop.

        Args:
            size: bytes of the records.
            patient: nobody waits for the answer, so they wait for a slow store as long as it takes.
            done: called with the offset of the first record once Redis has them all, or with the error.
        """
        if patient != self._patient and self._turn and self.window.holds:
            self._batch.flush()  # what is refused later must take nothing with it that is kept
        nums = len(records)
        appends = self._turn.get(queue)
        if appends is None:
            appends = self._turn[queue] = _Appends(queue, [*records], [(nums, done, arg)])
            self._batch.add(appends, size)
        else:
            appends.records += records
            appends.waiting.append((nums, done, arg))
            self._batch.turn.size += size  # as ``add``, without a call
            self.pending_bytes += size
            self.put_bytes += size
        self._turn_records += nums
        self._patient &= patient
        if self._turn_records >= COMMIT_RECORDS:
            self._batch.flush()

    def _offer(self, turn: Turn[_Appends]) -> None:
        self._turn = {}
        self._turn_records = 0
        patient, self._patient = self._patient, True
        if self.put_bytes >= self.put_alarm:
            self.put_alarm = NO_LIMIT
            self.on_alarm()
        self.window.offer(turn, patient=patient)

    def _send_appends(self, turn: Turn[_Appends]) -> None:
        if self._fenced:
            error = StoreError("the store cannot be reached")
            self._turn_answered(turn, error)
            self._batch.refuse(turn, error)
        else:
            self._batch.send(turn)

    def _refuse_appends(self, turn: Turn[_Appends], error: StoreError) -> None:
        self._count_turn(turn, error)
        self._batch.refuse(turn, error)

    def _turn_answered(self, turn: Turn[_Appends], error: StoreError | None) -> None:
        self.window.answered()
        self._count_turn(turn, error)

    def _count_turn(self, turn: Turn[_Appends], error: StoreError | None) -> None:
        times = sum(len(appends.waiting) for appends in turn.items)
        if error is None:
            self._took_ms = int((self._loop.time() - turn.ended_s) * 1000)
            self.append_times.add(self._took_ms, times)
        else:
            self.append_times.failed += times

    @staticmethod
    def _encode_appends(turn: list[_Appends]) -> tuple[list[bytes], list[Arg]]:
        keys: list[bytes] = []
        args: list[Arg] = []
        for appends in turn:
            queue, nums = appends.queue, len(appends.records)
            end = queue.known_end
            queue.sent_end = end + nums
            keys.append(queue.key)
            args += (nums, end)
        for appends in turn:
            args += appends.records
        return keys, args

    def _appended(self, appends: _Appends, answer: bytes | None, error: StoreError | None) -> None:
        queue, records, waiting = appends.queue, appends.records, appends.waiting
        if answer is None:
            queue.sent_end = queue.max_offset
            first = -1
        else:
            first = int(answer[2:]) - len(records)
            if answer[1] == _LOST_MARK:
                log_lost(queue, first)
                self.recover_soon(queue)
        offset = first
        for count, done, arg in waiting:
            try:
                done(queue, offset, error, arg)
            except Exception:  # an error in one caller must not cost the others their answers
                logger.exception("%s: the handler of an append's answer failed", queue.mq)
            if answer:
                offset += count
        if answer:
            self.arrived(queue, first, records, self._took_ms, len(waiting))

    def arrived(self, queue: Queue, first_offset: int, records: list[bytes], ms: int = 0, times: int = 1) -> None:
        """Notes that Redis has new records of a queue, consecutive from ``first_offset`` on, and wakes who waits.

        Args:
            ms, times: for the statistics: how long it took, and how many appends it was.
        """
        end = first_offset + len(records)
        queue.max_offset = max(queue.max_offset, end)
        sizes = list(map(len, records))
        size, largest = sum(sizes), max(sizes)
        if largest > queue.size_hint or first_offset == 0:  # the queue's first: nothing in it is larger
            queue.size_hint = largest
        if largest > queue.largest or first_offset == 0:
            queue.largest = largest
        if queue.puts is None:
            queue.puts = Counter()
        queue.puts.add(len(records), size, ms * times, times)
        self.puts.add(len(records), size, ms * times, times)
        try:
            self._on_new_records(queue, first_offset, records)
        except Exception:  # an error of a waiting pull must not cost the senders their responses
            logger.exception("%s: waking the pulls that wait for messages failed", queue.mq)

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(
        self,
        queue: Queue,
        queue_offset: int,
        count: int,
        done: ReadDone,
    ) -> None:
        """Reads stored records from ``queue_offset`` on; ``done`` gets (offsets, records, error). Empty at the end."""
        connection = self._reads.connection
        if connection is None:
            done([], [], StoreError("the store cannot be reached"))
            return

        def answered(answer: Any) -> None:
            if isinstance(answer, StoreError):
                done([], [], answer)
                return
            if not answer:
                self._judge_nothing(connection, queue, end, done)
                return
            records = [fields[1] for _, fields in answer]
            first, last = queue_offset_of(answer[0][0]), queue_offset_of(answer[-1][0])
            offsets: Sequence[int] = range(first, last + 1)
            if last - first != len(records) - 1:  # somebody removed entries by hand
                offsets = [queue_offset_of(entry) for entry, _ in answer]
            largest = max(map(len, records))
            queue.size_hint = max(largest, queue.size_hint // 2)
            done(offsets, records, None)  # type: ignore[arg-type]

        # Up to what is known to be stored and no further: Redis may hold entries whose append is not answered yet.
        end = queue.max_offset
        connection.call(answered, b"XRANGE", queue.key, entry_id(queue_offset), entry_id(end - 1), b"COUNT", count)

    def _judge_nothing(self, connection: StoreConnection, queue: Queue, end: int, done: ReadDone) -> None:
        """Nothing where messages should be: they were removed, unless the queried server lacks them.

        After a failover a connection may still be at the old primary, or at a replica that is behind: a consumer that
        continued at ``end`` would miss what the primary has. If the primary lacks them, too, they are lost.
        """

        def told(answer: Any) -> None:
            error = answer if isinstance(answer, StoreError) else None
            if error is None and int(answer[1]) < end:
                error = StoreError(f"the server to read from is behind: {queue.mq} ends at {answer[1]}, not {end}")
                self.recover_soon(queue)
            done([], [], error)

        connection.call_function(told, "queue_info", [queue.key], [])

    async def read_records(self, queue: Queue, queue_offset: int, count: int) -> tuple[Sequence[int], list[bytes]]:
        """As ``read``: (offsets, stored records), at most ``count``; empty at the end. Raises StoreError."""
        future: asyncio.Future[tuple[Sequence[int], list[bytes]]] = self._loop.create_future()

        def done(offsets: Sequence[int], records: list[bytes], error: StoreError | None) -> None:
            settle(future, (offsets, records), error)

        self.read(queue, queue_offset, count, done)
        return await future

    async def read_one(self, queue: Queue, queue_offset: int) -> tuple[int, bytes] | None:
        """The first record at or after an offset as (offset, stored record), or None at the end. Raises StoreError."""
        answer = await self.current_read().execute(
            "XRANGE", queue.key, entry_id(max(queue_offset, 0)), b"+", b"COUNT", 1
        )
        return (queue_offset_of(answer[0][0]), answer[0][1][1]) if answer else None

    async def store_timestamp_ms(self, queue: Queue, queue_offset: int) -> int:
        """When the message at an offset (or the next after it) was stored; -1 when there is none."""
        found = await self.read_one(queue, queue_offset)
        if found is None:
            return -1
        position = store_timestamp_position(found[1])
        return int.from_bytes(found[1][position : position + 8], "big")

    async def search_by_timestamp(self, queue: Queue, timestamp_ms: int, *, upper: bool = False) -> int:
        """Offset by store time, by binary search.

        Returns:
            lower: the first message stored at or after ``timestamp_ms``; the max offset when all are older.
            upper: the last message stored at or before it; 0 when all are younger.
        """
        low, high = queue.min_offset, queue.max_offset
        while low < high:
            middle = (low + high) // 2
            stored_ms = await self.store_timestamp_ms(queue, middle)
            if stored_ms == -1 or stored_ms > timestamp_ms or (stored_ms == timestamp_ms and not upper):
                high = middle
            else:
                low = middle + 1
        if upper:
            return low - 1 if low > queue.min_offset else 0
        return low
