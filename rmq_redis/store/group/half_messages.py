"""Prepared (half) messages of transactions: invisible records that a commit turns into an entry of their queue.

A half message has a number, which stands for its place in RocketMQ's half topic. Deciding it, and adding it to its
queue, is one server-side function call: it is decided once, whatever repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...errors import StoreError
from ...protocol.record import QUEUE_ID
from ..redis.connection import Arg
from .queue import MAX_QUEUE_NUMBER, QUEUE_NUMBER_SHIFT, Queue
from .queues import QueueStore
from .turn import TurnBatch

HALF_QUEUE_NUMBER = MAX_QUEUE_NUMBER - 1
"""Stands for the half topic in physical offsets."""

Prepared = Callable[[int, int, "StoreError | None", Any], None]
"""Called once per half message with (its number, its queue id, error, the caller's argument).

Those of a send that was repeated are the first one's.
"""


def half_physical_offset(number: int) -> int:
    """The physical offset of a half message."""
    return HALF_QUEUE_NUMBER << QUEUE_NUMBER_SHIFT | number


def half_key(producer_group: str, topic: str, unique_key: str) -> str:
    """By which a half message that is sent once more is recognised."""
    return f"{producer_group}+{topic}+{unique_key}"


class _Waiting(NamedTuple):
    """A half message that waits for the end of the turn; see ``HalfStore.prepare``."""

    check_ms: int
    record: bytes
    key: str
    done: Prepared
    arg: Any


class HalfStore:
    """Half messages of one broker group. Those that come in one turn of the event loop go to Redis in one call.

    Everything but ``prepare`` raises StoreError when the store is unavailable or this master is fenced off.
    """

    def __init__(self, queue_store: QueueStore) -> None:
        self._store = queue_store
        keys = queue_store.keys
        self._half = keys.half
        self._checks = keys.half_checks
        self._counts = keys.half_counts
        self._half_keys = keys.half_keys
        self._prepare_keys = [keys.half, keys.half_checks, keys.half_numbers, keys.half_keys]
        self._batch = TurnBatch(queue_store, "prepare", self._encode, self._answer)

    def prepare(self, record: bytes, check_ms: int, key: str, done: Prepared, arg: Any) -> None:
        """Stores a half message, to be checked at ``check_ms``; ``done`` is called once Redis has it.

        Args:
            key: ``half_key``; one that is held with the same key and content is not kept twice. "": it always is.
        """
        self._batch.add(_Waiting(check_ms, record, key, done, arg), len(record))

    def _encode(self, waiting: list[_Waiting]) -> tuple[list[bytes], list[Arg]]:
        args: list[Arg] = []
        for item in waiting:
            args += (item.check_ms, item.record, item.key)
        return self._prepare_keys, args

    @staticmethod
    def _answer(item: _Waiting, answer: Any, error: StoreError | None) -> None:
        if answer is None:
            item.done(-1, -1, error, item.arg)
        else:
            number, queue_id = answer
            item.done(int(number), int.from_bytes(queue_id or item.record[QUEUE_ID], "big"), error, item.arg)

    async def get(self, number: int) -> bytes | None:
        """The record of an undecided half message, or None."""
        answer: bytes | None = await self._store.current().execute("HGET", self._half, number)
        return answer

    async def end(self, number: int, key: str = "", queue: Queue | None = None, record: bytes = b"") -> bool:
        """Decides a half message: with a queue, ``record`` becomes an entry of it. False: it was decided already.

        Args:
            key: ``half_key``, by which it is not recognised any more.
        """
        keys = [self._half, self._checks, self._counts, self._half_keys]
        if queue is None:
            return bool(await self._store.call("end_half", keys, [number, key]))
        entry_id = await self._store.call("end_half", [*keys, queue.key], [number, key, record, queue.known_end])
        if not entry_id:
            return False
        self._store.arrived(queue, int(entry_id[2:]) - 1, [record])
        await self._store.confirmed()
        return True

    async def due_for_check(self, now_ms: int, limit: int) -> list[int]:
        """Numbers of half messages that are due for a check."""
        answer = await self._store.current().execute("ZRANGEBYSCORE", self._checks, "-inf", now_ms, "LIMIT", 0, limit)
        return [int(number) for number in answer]

    async def checked(self, number: int, now_ms: int, pause_ms: int, longest_pause_ms: int) -> int:
        """Notes a check; returns how many there were, or 0 when the message is decided.

        The next one is due ``pause_ms`` after the first check, and twice as long after each further one, up to
        ``longest_pause_ms``.
        """
        args: list[Arg] = [number, now_ms, pause_ms, longest_pause_ms]
        return int(await self._store.call("checked_half", [self._checks, self._counts], args))
