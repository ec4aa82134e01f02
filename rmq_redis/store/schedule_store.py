"""Messages that must appear later: a sorted set by due time, from which due ones move to their queue atomically.

A member is 8 unique bytes and the finished record of the message; the record says which queue it belongs to. A move
takes the member away and adds the entry in one server-side function, so a crash neither loses nor doubles a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from ..errors import StoreError
from ..protocol.message import store_timestamp_position
from .connection import Arg
from .queue_store import Queue, QueueStore

Scheduled = Callable[["StoreError | None", Any], None]
"""Called once per message with (error, the caller's argument)."""

_PREFIX_BYTES = 8


class ScheduleStore:
    """Writes all messages of one event-loop turn in one call, as ``QueueStore`` does."""

    def __init__(self, queue_store: QueueStore) -> None:
        self._store = queue_store
        self._key = queue_store.keys.scheduled
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._waiting: list[tuple[int, bytes, Scheduled, Any]] = []

    def add(self, record: bytes, due_ms: int, done: Scheduled, arg: Any) -> None:
        """Keeps a finished record until ``due_ms`` (ms since 1970); ``done`` is called once Redis has it."""
        if not self._waiting:
            self._loop.call_soon(self._commit)
        # Epoch and number: never the same member twice, or the second message would be lost in the set.
        prefix = ((self._store.epoch & 0xFFFFFF) << 40 | next(self._numbers) & 0xFFFFFFFFFF).to_bytes(8, "big")
        self._waiting.append((due_ms, prefix + record, done, arg))
        self._store.pending_bytes += len(record)

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        args: list[Arg] = [b"%d" % self._store.epoch]
        for due_ms, member, _, _ in waiting:
            args += (due_ms, member)

        def committed(answer: Any) -> None:
            error = answer if isinstance(answer, StoreError) else None
            if error is not None:
                self._store.report(error)
            for _, member, done, arg in waiting:
                self._store.pending_bytes -= len(member) - _PREFIX_BYTES
                done(error, arg)

        try:
            connection = self._store.current()
        except StoreError as error:
            committed(error)
            return
        connection.call_function(committed, "schedule", [self._store.keys.epoch, self._key], args)

    async def next_due_ms(self) -> int | None:
        """When the earliest message is due, or None when there is none. Raises StoreError."""
        answer = await self._store.current().execute("ZRANGE", self._key, 0, 0, "WITHSCORES")
        return int(float(answer[1])) if answer else None

    async def due(self, now_ms: int, limit: int) -> list[bytes]:
        """Members that are due at ``now_ms``, earliest first, at most ``limit``. Raises StoreError."""
        answer: list[bytes] = await self._store.current().execute(
            "ZRANGEBYSCORE", self._key, "-inf", now_ms, "LIMIT", 0, limit
        )
        return answer

    async def remove(self, members: list[bytes]) -> None:
        """Drops members whose queue is gone. Raises StoreError."""
        await self._store.current().execute("ZREM", self._key, *members)

    async def move(self, members: list[tuple[Queue, bytes]], now_ms: int) -> int:
        """Moves members to their queues, stored at ``now_ms``; returns how many were still there. Raises StoreError."""
        queues = list(dict.fromkeys(queue for queue, _ in members))
        keys = [self._store.keys.epoch, self._key, *(queue.key for queue in queues)]
        positions = {queue: index + 3 for index, queue in enumerate(queues)}
        args: list[Arg] = [b"%d" % self._store.epoch, now_ms.to_bytes(8, "big")]
        for queue, member in members:
            args += (positions[queue], member)
        try:
            ids = await self._store.current().execute_function("move_due", keys, args)
        except StoreError as error:
            self._store.report(error)
            raise
        arrived: dict[Queue, tuple[int, list[bytes]]] = {}
        for (queue, member), entry_id in zip(members, ids, strict=True):
            if entry_id:
                first, records = arrived.setdefault(queue, (int(entry_id[2:]) - 1, []))
                records.append(stored_record(member, now_ms))
        for queue, (first, records) in arrived.items():
            self._store.arrived(queue, first, records)
        return sum(len(records) for _, records in arrived.values())


def record_of(member: bytes) -> bytes:
    """The record in a member of the sorted set."""
    return member[_PREFIX_BYTES:]


def stored_record(member: bytes, now_ms: int) -> bytes:
    """The record as the function stores it: with the time of the move as store time."""
    position = store_timestamp_position(member, _PREFIX_BYTES)
    return b"".join((member[_PREFIX_BYTES:position], now_ms.to_bytes(8, "big"), member[position + 8 :]))
