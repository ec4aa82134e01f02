"""The queues of a broker group as Redis streams: group commit, reading, offsets.

A queue is one stream and the queue offset is the stream's own sequence number: entries are added as ``0-*``, so Redis
hands out 0-1, 0-2, ...; queue offset k is entry 0-<k+1>. The entry's one field ``m`` holds the message in its wire
encoding. Two numbers of a record are known only after the append, queueOffset and physicalOffset; they are written into
the copy that leaves (``deliver``). In the stored record their place carries the tag's hash code, which filters need.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ...errors import StoreError, StoreFencedError, StoreFullError
from ...model import MessageQueue
from ...protocol.record import store_timestamp_position
from ..keys import GroupKeys
from ..redis.confirm import Confirmation, ConfirmedReply
from ..redis.connection import Arg, Store, StoreConnection
from ..redis.locate import Locator, locator
from ..redis.window import AppendWindow
from .counters import AppendTimes, Counter
from .queue import Appended, Queue, entry_id, queue_offset_of

logger = logging.getLogger(__name__)

COMMIT_RECORDS = 32
"""So many appends do not wait for the end of the loop turn: Redis begins while the broker reads the rest of a burst,
instead of one resting while the other works."""

_MOST_LOST = 1 << 32
"""No queue in memory loses more messages: a committed offset further behind its end is somebody's error."""
_LOGGED_QUEUES = 8
"""A store that lost everything may concern thousands of queues: the log names this many."""
NO_LIMIT = 1 << 62
_LOST_MARK = ord("_")
"""In the place of an ID's "-": the stream had disappeared; see ``append`` in ``store/redis/functions/queues.lua``."""

NewRecords = Callable[["Queue", int, list[bytes]], None]
ReadDone = Callable[[list[int], list[bytes], "StoreError | None"], None]
_Batch = list[tuple["Queue", list[bytes], list[tuple[int, Appended, Any]]]]
_Commit = tuple[_Batch, list[bytes], list[Arg], float]
"""(what is appended, keys, arguments, event-loop time at which it was handed over)"""


def _nothing() -> None:
    pass


def _log_lost(queue: Queue, end: int) -> None:
    logger.error(
        "%s: the store lost messages (evicted, deleted, flushed, restored, or not replicated); those that are left end "
        "before offset %d, where new messages go on",
        queue.mq,
        end,
    )


class _Either:
    """A primary and a replica with URLs of their own."""

    finds = False

    def __init__(self, primary: Locator, replica: Locator) -> None:
        self.primary = primary.primary
        self.replica = replica.primary
        self.shown = f"{primary.shown}, replica {replica.shown}"


class QueueStore:
    """Reads and writes queues. All appends of one turn of the event loop go to Redis in one function call.

    Two connections: a large read must not stand before an append.
    """

    def __init__(
        self,
        url: str,
        keys: GroupKeys,
        *,
        on_new_records: NewRecords,
        on_fenced: Callable[[StoreFencedError], None],
        on_reloaded: Callable[[StoreConnection], Awaitable[None]] | None = None,
        reads_only: bool = False,
        replica_url: str = "",
        replicas: int = 0,
        flush: bool = False,
        confirm_timeout_s: float = 2.0,
        max_wait_s: float = 0.2,
        busy_s: float = 1.0,
    ) -> None:
        """
        Args:
            on_new_records: called after each group commit, per queue with (queue, first offset, its records).
            on_fenced: called once when another master has taken the group over.
            reads_only: does not take the group over; ``begin_writing`` may come later.
            replica_url: where a slave reads; "": a replica that ``url`` knows of, or the primary.
            replicas, flush, confirm_timeout_s: what an append waits for, see ``Confirmation``.
            max_wait_s, busy_s: how long a slow store may keep appends waiting, see ``AppendWindow``.
            on_reloaded: awaited after a lost connection with the new one, when it was read again how far the queues
                reach, and before anything else is written. May raise StoreError to have all of it tried again.
        """
        self.keys = keys
        self._on_new_records = on_new_records
        self._on_fenced = on_fenced
        self._on_reloaded = on_reloaded
        self._fenced = reads_only
        self._replicas = replicas
        self._flush = flush
        self._confirm_timeout_ms = max(1, int(confirm_timeout_s * 1000))
        self._confirmation: Confirmation | None = None
        primary = locator(url, keys.tag)
        self._writes = Store(primary, "broker store", self._write_connection_opened)
        replica = locator(replica_url, keys.tag) if replica_url else primary
        self._reads = Store(
            _Either(primary, replica) if replica_url else primary, "broker store (reads)", from_replica=reads_only
        )
        self.window = AppendWindow(self._send, self._refuse, max_wait_s=max_wait_s, busy_s=busy_s)
        if replicas or flush:
            self.window.allow_pauses(confirm_timeout_s * (bool(replicas) + flush))
        self._dirty: list[Queue] = []
        self._uncommitted = 0
        self._patient = True
        self._epoch = b"0"
        self._recovery: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.queues: dict[tuple[str, int], Queue] = {}
        self.queues_by_number: dict[int, Queue] = {}
        self.pending_bytes = 0
        """Bytes of records handed to ``append`` whose answer is not there."""
        self.put_bytes = 0
        """Bytes of records given to Redis since start."""
        self.put_limit = NO_LIMIT
        """``put_bytes`` from which on nothing is taken, until somebody has looked how much memory there is."""
        self.put_alarm = NO_LIMIT
        """``put_bytes`` at which ``on_alarm`` is called, once."""
        self.on_alarm: Callable[[], None] = _nothing
        """Called when ``put_alarm`` is reached, or Redis says that it is out of memory."""
        self.puts = Counter()
        """All records appended since start."""
        self.append_times = AppendTimes()
        self.reads_only = reads_only
        """Whether this process does not know by itself how far queues and offsets reach: it is a slave, or not yet done
        with taking over. ``lead`` ends that."""

    @property
    def role(self) -> tuple[bytes, bool]:
        """Changes with every step from slave to master and back: what was asked for before it does not count after."""
        return self._epoch, self.reads_only

    @property
    def put_total(self) -> int:
        """Records appended since start."""
        return self.puts.nums

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    async def start(self) -> None:
        """Connects; a writer takes the group over with a new epoch, whoever has it.

        Raises:
            StoreError: the server to read from is away; a writer's: the primary.
        """
        await self._reads.start()
        try:
            await self._writes.start()
        except StoreError as error:
            if not self.reads_only:
                raise
            logger.warning("broker store: reads only, until the primary is there: %s", error)
            self._writes.start_later()
        if not self.reads_only:
            self.begin_writing(await self.current().execute("INCR", self.keys.epoch))
            self.lead()

    async def read_from(self, *, replica: bool) -> None:
        """Reads from a replica (a slave), or the primary (a master). Raises StoreError; then nothing changed."""
        await self._reads.read_from(replica=replica)

    def begin_writing(self, epoch: int) -> None:
        """From now on everything is written with this epoch, which the caller took."""
        self._epoch = b"%d" % epoch
        self._fenced = False

    def lead(self) -> None:
        """All that the store has is read, and what comes is written by us: memory counts from now on."""
        self.reads_only = False

    def end_writing(self) -> None:
        """Nothing more is written: another process is the group's master."""
        self._epoch = b"0"
        self._fenced = self.reads_only = True

    async def close(self) -> None:
        await self._writes.close()
        await self._reads.close()

    def current(self) -> StoreConnection:
        """The connection for writes. Raises StoreError while the store is away."""
        return self._writes.current()

    def current_read(self) -> StoreConnection:
        """The connection for reads. Raises StoreError while the store is away."""
        return self._reads.current()

    async def ping_writes(self) -> None:
        """Returns when the store answers on the connection for writes. Raises StoreError."""
        await self.current().execute("PING")

    async def ping_reads(self) -> None:
        """Returns when the store answers on the connection for reads. Raises StoreError."""
        await self.current_read().execute("PING")

    async def follow_primary(self) -> None:
        """Goes on at another server when that is the primary by now. Raises StoreError when nobody knows."""
        await self._writes.follow()
        await self._reads.follow()

    def reconnect(self) -> None:
        """Gives up connections that do not answer; new ones are opened in the background."""
        self._writes.reconnect()
        self._reads.reconnect()

    @property
    def fenced(self) -> bool:
        """Whether nothing is written because another master has the group."""
        return self._fenced

    @property
    def available(self) -> bool:
        """Whether appends are taken: the store is there, ours, and has memory left."""
        return self._writes.connection is not None and not self._fenced and self.put_bytes < self.put_limit

    @property
    def full(self) -> bool:
        """Whether no memory is left for appends."""
        return self.put_bytes >= self.put_limit

    async def _write_connection_opened(self, connection: StoreConnection) -> None:
        if self._replicas or self._flush:
            self._confirmation = Confirmation(
                connection, replicas=self._replicas, flush=self._flush, timeout_ms=self._confirm_timeout_ms
            )
        # What was in flight when the last connection broke may have been stored or not: ask.
        if self.queues and not self._fenced:
            await self._load_ends(connection)
            if self._on_reloaded is not None:
                await self._on_reloaded(connection)

    async def load_ends(self) -> None:
        """Reads how far all queues reach, for a master that begins to write. Raises StoreError."""
        if self.queues:
            await self._load_ends(self.current())

    async def _load_ends(self, connection: StoreConnection, queues: Sequence[Queue] = ()) -> None:
        """Reads how far the queues (default: all) reach. An end never goes back, or an offset would be given out twice.

        It would go back after a Redis failover that lost what was not replicated, a flush, or an older snapshot:
        consumers are past the messages that were lost and would miss those that take their place. So the offsets stay
        used.
        """
        queues = list(queues or self.queues.values())
        known = [queue.max_offset for queue in queues]
        await self._load_info(list(queues), connection)
        lost = [(queue, before) for queue, before in zip(queues, known, strict=True) if queue.max_offset < before]
        await self._raise_ends(connection, lost)

    async def go_on_behind(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Raises the ends of queues that groups have consumed further than they reach. Raises StoreError.

        Their streams were lost while no broker ran; members would miss what takes the place of the lost messages.

        Args:
            offsets: by (topic, queue id), the largest offset committed. One that is absurd moves nothing.
        """
        lost = [
            (queue, offset)
            for key, offset in offsets.items()
            if (queue := self.queues.get(key)) is not None and 0 < offset - queue.max_offset <= _MOST_LOST
        ]
        await self._raise_ends(self.current(), lost)

    async def _raise_ends(self, connection: StoreConnection, lost: Sequence[tuple[Queue, int]]) -> None:
        if not lost:
            return
        for queue, before in lost[:_LOGGED_QUEUES]:
            _log_lost(queue, before)
        if len(lost) > _LOGGED_QUEUES:
            logger.error("the store lost messages of %d further queues", len(lost) - _LOGGED_QUEUES)
        for queue, before in lost:
            if queue.min_offset == queue.max_offset:
                queue.begin_behind(before)
            queue.max_offset = before
        keys = [self.keys.epoch, *(queue.key for queue, _ in lost)]
        args: list[Arg] = [self._epoch, *(before for _, before in lost)]
        try:
            await connection.execute_function("raise_ends", keys, args)
        except StoreFencedError as error:  # the lease is looked after elsewhere, and then the ends are read again
            logger.debug("the ends of queues are not raised: %s", error)

    # --- which queues there are ------------------------------------------------------------------------------------

    async def open_queues(self, queues: Sequence[tuple[MessageQueue, int]]) -> None:
        """Makes queues known by (queue, number) and reads how far they reach. Known ones are left as they are."""
        opened: list[Queue] = []
        for queue, number in queues:
            if not self._is_known(queue, number):
                opened.append(Queue(queue, number, self.keys.queue(queue.topic, queue.queue_id)))
        if opened:
            await self._load_info(opened, self.current_read())
        for item in opened:
            if not self._is_known(item.mq, item.number):
                old = self.queues.get((item.topic, item.queue_id))
                if old is not None:  # its topic was deleted and made again
                    self.queues_by_number.pop(old.number, None)
                self.queues[item.topic, item.queue_id] = item
                self.queues_by_number[item.number] = item

    def _is_known(self, queue: MessageQueue, number: int) -> bool:
        known = self.queues.get((queue.topic, queue.queue_id))
        return known is not None and known.number == number

    def forget_queues(self, topic: str) -> list[Queue]:
        """Drops the queues of a deleted topic from memory and returns them."""
        gone = [queue for (name, _), queue in self.queues.items() if name == topic]
        for queue in gone:
            del self.queues[queue.topic, queue.queue_id]
            self.queues_by_number.pop(queue.number, None)
        return gone

    async def _load_info(self, queues: list[Queue], connection: StoreConnection) -> None:
        role = self.role
        for start in range(0, len(queues), 1000):
            some = queues[start : start + 1000]
            answer = await connection.execute_function("queue_info", [queue.key for queue in some], [])
            if self.role != role:  # what a slave asked for is too old for a master
                return
            for queue, first, last in zip(some, answer[::2], answer[1::2], strict=True):
                min_offset = int(first) - 1 if first else int(last)
                if min_offset != queue.min_offset:
                    queue.oldest_ms = 0
                queue.max_offset = int(last)
                queue.min_offset = min_offset

    async def refresh(self, queues: list[Queue]) -> None:
        """Reads again how far the queues reach (for slaves, whose queues grow without them). Raises StoreError."""
        if queues:
            await self._load_info(queues, self.current_read())

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
        if patient != self._patient and self._dirty and self.window.holds:
            self._commit()  # what is refused later must take nothing with it that is kept
        if not queue.waiting:
            if not self._dirty:
                self._loop.call_soon(self._commit)
            self._dirty.append(queue)
        queue.records += records
        queue.waiting.append((len(records), done, arg))
        self.pending_bytes += size
        self.put_bytes += size
        self._uncommitted += len(records)
        self._patient &= patient
        if self._uncommitted >= COMMIT_RECORDS:
            self._commit()

    def _commit(self) -> None:
        queues, self._dirty = self._dirty, []
        if not queues:
            return
        self._uncommitted = 0
        patient, self._patient = self._patient, True
        if self.put_bytes >= self.put_alarm:
            self.put_alarm = NO_LIMIT
            self.on_alarm()
        keys: list[bytes] = [self.keys.epoch]
        args: list[Arg] = [self._epoch]
        batch: _Batch = []
        for queue in queues:
            records, queue.records = queue.records, []
            waiting, queue.waiting = queue.waiting, []
            keys.append(queue.key)
            args += (len(records), 0)
            batch.append((queue, records, waiting))
        for _, records, _ in batch:
            args += records
        self.window.offer((batch, keys, args, self._loop.time()), patient=patient)

    def _send(self, commit: _Commit) -> None:
        batch, keys, args, began_s = commit

        def committed(answer: Any, late: StoreError | None = None) -> None:
            self.window.answered()
            self._committed(batch, answer, late, began_s)

        connection = self._writes.connection
        if connection is None or self._fenced:
            committed(StoreError("the store cannot be reached"))
            return
        position = 2
        for queue, records, _ in batch:
            args[position] = end = queue.known_end
            queue.sent_end = end + len(records)
            position += 2
        self.call_confirmed(connection, committed, "append", keys, args)

    def _refuse(self, commit: _Commit, error: StoreError) -> None:
        self._committed(commit[0], error, None, commit[3])

    def call_confirmed(
        self, connection: StoreConnection, reply: ConfirmedReply, name: str, keys: list[bytes], args: list[Arg]
    ) -> None:
        """As ``connection.call_function``; a success is told once it is confirmed as the modes ask for."""
        if self._confirmation is None:
            connection.call_function(reply, name, keys, args)
        else:
            self._confirmation.call_function(reply, name, keys, args)

    async def confirmed(self) -> None:
        """Returns when all that was written so far is confirmed as the modes ask for. Raises StoreError."""
        if self._confirmation is not None:
            await self._confirmation.wait()

    def _committed(self, batch: _Batch, answer: Any, late: StoreError | None, began_s: float) -> None:
        error = answer if isinstance(answer, StoreError) else None
        ms = int((self._loop.time() - began_s) * 1000)
        times = sum(len(waiting) for _, _, waiting in batch)
        if error is None:
            self.append_times.add(ms, times)
        else:
            self.append_times.failed += times
            self.report(error)
        for index, (queue, records, waiting) in enumerate(batch):
            self.pending_bytes -= sum(map(len, records))
            if error is not None:
                first = offset = -1
                queue.sent_end = queue.max_offset
            else:
                first = offset = int(answer[index][2:]) - len(records)
                if answer[index][1] == _LOST_MARK:
                    _log_lost(queue, first)
                    self._recover_soon(queue)
            for count, done, arg in waiting:
                try:
                    done(queue, offset, error or late, arg)
                except Exception:  # one caller's mistake must not cost the others their answers
                    logger.exception("%s: the handler of an append's answer failed", queue.mq)
                if error is None:
                    offset += count
            if error is None:
                self.arrived(queue, first, records, ms, len(waiting))

    def arrived(self, queue: Queue, first_offset: int, records: list[bytes], ms: int = 0, times: int = 1) -> None:
        """Notes that Redis has new records of a queue, consecutive from ``first_offset`` on, and wakes who waits.

        Args:
            ms, times: for the statistics: how long it took, and how many appends it was.
        """
        queue.max_offset = max(queue.max_offset, first_offset + len(records))
        largest = max(map(len, records))
        if largest > queue.size_hint or first_offset == 0:  # the queue's first: nothing in it is larger
            queue.size_hint = largest
        queue.largest = largest if first_offset == 0 else max(queue.largest, largest)
        self._count(queue, records, ms, times)
        try:
            self._on_new_records(queue, first_offset, records)
        except Exception:  # whoever waits for messages must not cost their senders the answers
            logger.exception("%s: waking those who wait for messages failed", queue.mq)

    def _count(self, queue: Queue, records: list[bytes], ms: int, times: int) -> None:
        size = sum(map(len, records))
        if queue.puts is None:
            queue.puts = Counter()
        queue.puts.add(len(records), size, ms * times, times)
        self.puts.add(len(records), size, ms * times, times)

    def report(self, error: StoreError) -> None:
        """Tells the broker, once per epoch, that it is fenced off; every time, that the store is full."""
        if isinstance(error, StoreFencedError) and not self._fenced:
            self._fenced = True
            self._on_fenced(error)
        elif isinstance(error, StoreFullError):
            self.on_alarm()

    async def wait_until_answered(self, timeout_s: float) -> bool:
        """Waits until every append has its answer; False when that takes longer than ``timeout_s`` seconds."""
        deadline = self._loop.time() + timeout_s
        while self.pending_bytes and self._loop.time() < deadline:
            await asyncio.sleep(0.005)  # at shutdown only: no event on the path of every append
        return not self.pending_bytes

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
        """Nothing where messages should be: they were removed, unless the server that was asked lacks them.

        After a failover a connection may still be at the old primary, or at a replica that is behind: whoever went on
        at ``end`` then would miss what the primary has. If the primary lacks them, too, they are lost.
        """

        def told(answer: Any) -> None:
            error = answer if isinstance(answer, StoreError) else None
            if error is None and int(answer[1]) < end:
                error = StoreError(f"the server to read from is behind: {queue.mq} ends at {answer[1]}, not {end}")
                self._recover_soon(queue)
            done([], [], error)

        connection.call_function(told, "queue_info", [queue.key], [])

    def _recover_soon(self, queue: Queue) -> None:
        if not self.reads_only and self._recovery is None:
            self._recovery = self._loop.create_task(self._recover(queue))

    async def _recover(self, queue: Queue) -> None:
        """Reads what is left of a queue; one whose stream has disappeared begins again behind the lost messages."""
        try:
            await self._load_ends(self.current(), [queue])
        except StoreError as error:
            logger.debug("%s: its end is not read: %s", queue.mq, error)
        finally:
            self._recovery = None

    async def read_records(self, queue: Queue, queue_offset: int, count: int) -> tuple[Sequence[int], list[bytes]]:
        """As ``read``: (offsets, stored records), at most ``count``; empty at the end. Raises StoreError."""
        future: asyncio.Future[tuple[Sequence[int], list[bytes]]] = self._loop.create_future()

        def done(offsets: Sequence[int], records: list[bytes], error: StoreError | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result((offsets, records))

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
