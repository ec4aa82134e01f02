"""Messages that must appear later: a sorted set of ids by due time, a hash of their records, and a hash to recall them.

The record says which queue a message belongs to. A move adds the entry and takes the message away in one server-side
function, so a crash neither loses nor doubles a message; a recall takes it away in another, so a message is either
delivered or recalled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from ...errors import StoreError
from ...protocol.record import QUEUE_ID, store_timestamp_position
from ..redis.connection import Arg
from .queue import Queue
from .queues import QueueStore

Scheduled = Callable[["Held | None", "StoreError | None", Any], None]
"""Called once per message with (where it is, error, the caller's argument); without the first if it is not stored."""

MAX_DUE_BYTES = 4 * 1024 * 1024
"""Records of about so many bytes are read at once; always at least one."""


class Held(NamedTuple):
    """Where a message is that was taken in; of a send that was repeated, where the first one is.

    Attributes:
        number: of this message among those of its master; a dead letter's queue offset.
        due_ms: when it is due (ms since 1970); 0 for a dead letter.
        is_repeat: it was stored by an earlier send, and not once more.
    """

    number: int
    queue_id: int
    due_ms: int
    is_repeat: bool


class Due(NamedTuple):
    """A message that is due.

    Attributes:
        record: empty when somebody took it away by hand.
    """

    id: bytes
    record: bytes


class Move(NamedTuple):
    """What becomes of a due message.

    Attributes:
        recall_key: what it was added with, or "".
        queue: where it goes; None: nowhere, it is dropped.
    """

    due: Due
    recall_key: str
    queue: Queue | None


class ScheduleStore:
    """Writes all messages of one event-loop turn in one call, as ``QueueStore`` does."""

    def __init__(self, queue_store: QueueStore) -> None:
        self._store = queue_store
        keys = queue_store.keys
        self._keys = [keys.epoch, keys.scheduled, keys.scheduled_records, keys.recallable]
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._waiting: list[tuple[int, bytes, bytes, str, Scheduled, Any]] = []

    def add(self, record: bytes, due_ms: int, recall_key: str, done: Scheduled, arg: Any) -> None:
        """Keeps a finished record until it is due.

        Args:
            due_ms: ms since 1970. What is due in the same ms appears in the order of the calls.
            recall_key: by which ``recall`` finds it; one that waits with the same key and content is not kept twice.
                "": nobody may recall it, and it is always kept.
            done: called once Redis has it.
        """
        if not self._waiting:
            self._loop.call_soon(self._commit)
        self._waiting.append((due_ms, self.next_id(), record, recall_key, done, arg))
        self._store.pending_bytes += len(record)
        self._store.put_bytes += len(record)

    def next_id(self) -> bytes:
        """Epoch and number (8 bytes each): never the same id twice, and later ones sort behind."""
        return self._store.epoch.to_bytes(8, "big") + next(self._numbers).to_bytes(8, "big")

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        args: list[Arg] = [b"%d" % self._store.epoch]
        for due_ms, message_id, record, recall_key, _, _ in waiting:
            args += (due_ms, message_id, record, recall_key)

        def committed(answer: Any, late: StoreError | None = None) -> None:
            error = answer if isinstance(answer, StoreError) else None
            if error is not None:
                self._store.report(error)
            for index, (due_ms, message_id, record, _, done, arg) in enumerate(waiting):
                self._store.pending_bytes -= len(record)
                if error is not None:
                    done(None, error, arg)
                elif answer[index]:
                    first_id, first_ms, queue_id = answer[index]
                    done(
                        Held(number_of(first_id), int.from_bytes(queue_id, "big"), int(float(first_ms)), True),
                        late,
                        arg,
                    )
                else:
                    queue_id = int.from_bytes(record[QUEUE_ID], "big")
                    done(Held(number_of(message_id), queue_id, due_ms, False), late, arg)

        try:
            connection = self._store.current()
        except StoreError as error:
            committed(error)
            return
        self._store.call_confirmed(connection, committed, "schedule", self._keys, args)

    async def due(self, now_ms: int, limit: int) -> tuple[int | None, list[Due]]:
        """When the earliest message is due (None: there is none), and what is due at ``now_ms``, earliest first.

        Args:
            limit: largest number of messages; fewer when they are large.

        Raises:
            StoreError: the store is away.
        """
        first, *found = await self._store.current().execute_function(
            "due", self._keys[1:3], [now_ms, limit, MAX_DUE_BYTES]
        )
        due = [Due(message_id, record) for message_id, record in zip(found[::2], found[1::2], strict=True)]
        return int(float(first)) if first else None, due

    async def move(self, moves: list[Move], now_ms: int) -> int:
        """Moves messages to their queues, stored at ``now_ms``; how many were still there. Raises StoreError."""
        queues = list(dict.fromkeys(move.queue for move in moves if move.queue is not None))
        positions: dict[Queue | None, int] = {None: 0}
        positions |= {queue: index for index, queue in enumerate(queues, len(self._keys) + 1)}
        args: list[Arg] = [b"%d" % self._store.epoch, now_ms.to_bytes(8, "big")]
        args += (queue.known_end for queue in queues)
        for due, recall_key, queue in moves:
            args += (positions[queue], due.id, recall_key)
        ids = await self._call("move_due", [*self._keys, *(queue.key for queue in queues)], args)
        arrived: dict[Queue, tuple[int, list[bytes]]] = {}
        for move, entry_id in zip(moves, ids, strict=True):
            if entry_id and move.queue is not None:
                first, records = arrived.setdefault(move.queue, (int(entry_id[2:]) - 1, []))
                records.append(stored_record(move.due.record, now_ms))
        for queue, (first, records) in arrived.items():
            self._store.arrived(queue, first, records)
        return sum(len(records) for _, records in arrived.values())

    async def recall(self, recall_key: str) -> int:
        """Takes away every message that was added with this key; returns how many there were.

        Raises:
            StoreUnconfirmedError: they were taken away, which is not (known to be) where the broker's mode asks for.
            StoreError: the store is away.
        """
        recalled = int(await self._call("recall", self._keys, [b"%d" % self._store.epoch, recall_key]))
        if recalled:
            await self._store.confirmed()
        return recalled

    async def _call(self, name: str, keys: list[bytes], args: list[Arg]) -> Any:
        try:
            return await self._store.current().execute_function(name, keys, args)
        except StoreError as error:
            self._store.report(error)
            raise


def number_of(message_id: bytes) -> int:
    """The number in an id."""
    return int.from_bytes(message_id[8:], "big")


def stored_record(record: bytes, now_ms: int) -> bytes:
    """The record as the function stores it: with the time of the move as store time."""
    position = store_timestamp_position(record)
    return b"".join((record[:position], now_ms.to_bytes(8, "big"), record[position + 8 :]))
