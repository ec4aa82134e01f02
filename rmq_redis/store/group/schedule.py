"""Messages that must appear later: a sorted set of ids by due time, a hash of their records, and a hash to recall them.

The record says which queue a message belongs to. A move adds the entry and removes the message in one server-side
function, so a crash neither loses nor duplicates a message; a recall removes it in another, so a message is either
delivered or recalled.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from ...errors import StoreError
from ...protocol.record import QUEUE_ID, store_timestamp_position
from ..redis.connection import Arg
from .queue import Queue
from .queues import QueueStore
from .turn import TurnBatch

Scheduled = Callable[["Held | None", "StoreError | None", Any], None]
"""Called once per message with (where it is, error, the caller's argument); without the first if it is not stored."""

MAX_DUE_BYTES = 4 * 1024 * 1024
"""Bytes of records read at once, approximately; always at least one record."""


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
        record: empty when it was removed by hand.
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


class _Waiting(NamedTuple):
    """A message that waits for the end of the turn; see ``ScheduleStore.add``."""

    due_ms: int
    id: bytes
    record: bytes
    recall_key: str
    done: Scheduled
    arg: Any


class ScheduleStore:
    """Messages of one broker group that appear later. Those of one turn of the event loop are written in one call."""

    def __init__(self, queue_store: QueueStore) -> None:
        self._store = queue_store
        keys = queue_store.keys
        self._keys = [keys.scheduled, keys.scheduled_records, keys.recallable]
        self._numbers = count(1)
        self._batch = TurnBatch(queue_store, "schedule", self._encode, self._answer)

    def add(self, record: bytes, due_ms: int, recall_key: str, done: Scheduled, arg: Any) -> None:
        """Keeps a finished record until it is due.

        Args:
            due_ms: ms since 1970. What is due in the same ms appears in the order of the calls.
            recall_key: by which ``recall`` finds it; one that waits with the same key and content is not kept twice.
                "": nobody may recall it, and it is always kept.
            done: called once Redis has it.
        """
        self._batch.add(_Waiting(due_ms, self.next_id(), record, recall_key, done, arg), len(record))

    def next_id(self) -> bytes:
        """Epoch and number (8 bytes each): never the same id twice, and later ones sort behind."""
        return self._store.epoch.to_bytes(8, "big") + next(self._numbers).to_bytes(8, "big")

    def _encode(self, waiting: list[_Waiting]) -> tuple[list[bytes], list[Arg]]:
        args: list[Arg] = []
        for item in waiting:
            args += (item.due_ms, item.id, item.record, item.recall_key)
        return self._keys, args

    @staticmethod
    def _answer(item: _Waiting, answer: Any, error: StoreError | None) -> None:
        if answer is None:
            held = None
        elif answer:
            first_id, first_ms, queue_id = answer
            held = Held(number_of(first_id), int.from_bytes(queue_id, "big"), int(float(first_ms)), True)
        else:
            held = Held(number_of(item.id), int.from_bytes(item.record[QUEUE_ID], "big"), item.due_ms, False)
        item.done(held, error, item.arg)

    async def due(self, now_ms: int, limit: int) -> tuple[int | None, list[Due]]:
        """When the earliest message is due (None: there is none), and what is due at ``now_ms``, earliest first.

        Args:
            limit: largest number of messages; fewer when they are large.

        Raises:
            StoreError: the store is unavailable.
        """
        first, *found = await self._store.current().execute_function(
            "due", self._keys[:2], [now_ms, limit, MAX_DUE_BYTES]
        )
        due = [Due(message_id, record) for message_id, record in zip(found[::2], found[1::2], strict=True)]
        return int(float(first)) if first else None, due

    async def move(self, moves: list[Move], now_ms: int) -> int:
        """Moves messages to their queues, stored at ``now_ms``; how many were still there. Raises StoreError."""
        queues = list(dict.fromkeys(move.queue for move in moves if move.queue))
        positions: dict[Queue | None, int] = {None: 0}
        positions |= {queue: index for index, queue in enumerate(queues, len(self._keys) + 2)}
        args: list[Arg] = [now_ms.to_bytes(8, "big")]
        args += (queue.known_end for queue in queues)
        for due, recall_key, queue in moves:
            args += (positions[queue], due.id, recall_key)
        ids = await self._store.call("move_due", [*self._keys, *(queue.key for queue in queues)], args)
        arrived: dict[Queue, tuple[int, list[bytes]]] = {}
        for move, entry_id in zip(moves, ids, strict=True):
            if entry_id and move.queue:
                first, records = arrived.setdefault(move.queue, (int(entry_id[2:]) - 1, []))
                records.append(stored_record(move.due.record, now_ms))
        for queue, (first, records) in arrived.items():
            self._store.arrived(queue, first, records)
        return sum(len(records) for _, records in arrived.values())

    async def recall(self, recall_key: str) -> int:
        """Removes every message that was added with this key; returns the number of messages.

        Raises:
            StoreUnconfirmedError: they were removed, but the broker's mode could not be confirmed.
            StoreError: the store is unavailable.
        """
        recalled = int(await self._store.call("recall", self._keys, [recall_key]))
        if recalled:
            await self._store.confirmed()
        return recalled


def number_of(message_id: bytes) -> int:
    """The number in an id."""
    return int.from_bytes(message_id[8:], "big")


def stored_record(record: bytes, now_ms: int) -> bytes:
    """The record as the function stores it: with the time of the move as store time."""
    position = store_timestamp_position(record)
    return b"".join((record[:position], now_ms.to_bytes(8, "big"), record[position + 8 :]))
