"""Prepared (half) messages of transactions: invisible records that a commit turns into an entry of their queue.

A half message has a number, which stands for its place in RocketMQ's half topic. Deciding it, and adding it to its
queue, is one server-side function call: it is decided once, whatever repeats.
"""

from __future__ import annotations

from typing import Any

from ..errors import StoreError
from .connection import Arg
from .queue_store import MAX_QUEUE_NUMBER, QUEUE_NUMBER_SHIFT, Queue, QueueStore

HALF_QUEUE_NUMBER = MAX_QUEUE_NUMBER - 1
"""Stands for the half topic in physical offsets."""


def half_physical_offset(number: int) -> int:
    """The physical offset of a half message."""
    return HALF_QUEUE_NUMBER << QUEUE_NUMBER_SHIFT | number


class HalfStore:
    """Half messages of one broker group. Everything raises StoreError when the store is away or we are fenced off."""

    def __init__(self, queue_store: QueueStore) -> None:
        self._store = queue_store
        keys = queue_store.keys
        self._epoch_key = keys.epoch
        self._half = keys.half
        self._checks = keys.half_checks
        self._counts = keys.half_counts
        self._numbers = keys.half_numbers

    async def _call(self, name: str, keys: list[bytes], *args: Arg) -> Any:
        try:
            connection = self._store.current()
            return await connection.execute_function(name, [self._epoch_key, *keys], [b"%d" % self._store.epoch, *args])
        except StoreError as error:
            self._store.report(error)
            raise

    async def prepare(self, record: bytes, check_ms: int) -> int:
        """Keeps a half message, to be asked about at ``check_ms``; returns its number."""
        self._store.pending_bytes += len(record)
        try:
            return int(await self._call("prepare", [self._half, self._checks, self._numbers], check_ms, record))
        finally:
            self._store.pending_bytes -= len(record)

    async def get(self, number: int) -> bytes | None:
        """The record of an undecided half message, or None."""
        answer: bytes | None = await self._store.current().execute("HGET", self._half, number)
        return answer

    async def end(self, number: int, queue: Queue | None = None, record: bytes = b"") -> bool:
        """Decides a half message: with a queue, ``record`` becomes an entry of it. False: it was decided already."""
        keys = [self._half, self._checks, self._counts]
        if queue is None:
            return bool(await self._call("end_half", keys, number))
        entry_id = await self._call("end_half", [*keys, queue.key], number, record)
        if not entry_id:
            return False
        self._store.arrived(queue, int(entry_id[2:]) - 1, [record])
        return True

    async def due_for_check(self, now_ms: int, limit: int) -> list[int]:
        """Numbers of half messages that are to be asked about now."""
        answer = await self._store.current().execute("ZRANGEBYSCORE", self._checks, "-inf", now_ms, "LIMIT", 0, limit)
        return [int(number) for number in answer]

    async def checked(self, number: int, next_check_ms: int) -> int:
        """Notes a check and when the next is due; returns how many there were."""
        return int(await self._call("checked_half", [self._checks, self._counts], number, next_check_ms))
