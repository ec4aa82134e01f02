"""Messages that a group could not handle: a retry that waits for its time, or a dead letter, and a mark of which.

The mark is written in the same call. A consumer that did not get the response and sends a message back once more gets
the first response, even from a broker that was restarted since, or from the slave that took over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ...errors import StoreError
from ...model import DLQ_PREFIX
from ...protocol.record import QUEUE_ID
from ..redis.connection import Arg
from .queue import Queue, queue_offset_of
from .queues import QueueStore
from .schedule import Held, Scheduled, ScheduleStore, number_of

MARK_S = 300
"""A mark stays this long behind the time of its retry, or of its dead letter. A consumer repeats a request within
seconds, or when its broker is back."""


class Failed(NamedTuple):
    """What a group could not handle; equal for both ways in which it may be sent back.

    Attributes:
        topic: where it was sent to first.
        reconsume_times: of the copy that is made of it.
        unique_key: UNIQ_KEY; "" if it has none: then it is known by its physical offset.
        physical_offset: None if a client sends it to the retry topic and does not say it.
    """

    group: str
    topic: str
    reconsume_times: int
    unique_key: str
    physical_offset: int | None


class GiveBackStore:
    """Takes back what consumers could not handle. ``done`` is called as by ``ScheduleStore.add``."""

    def __init__(self, queue_store: QueueStore, schedule: ScheduleStore) -> None:
        self._store = queue_store
        self._schedule = schedule

    def retry(self, failed: Failed, record: bytes, due_ms: int, done: Scheduled, arg: Any) -> None:
        """Keeps the finished record of a retry until ``due_ms``."""

        def place(where: bytes, queue_id: bytes) -> Held:
            return Held(_number(where), int.from_bytes(queue_id or record[QUEUE_ID], "big"), due_ms, bool(queue_id))

        lasting_ms = max(due_ms - int(time.time() * 1000), 0) + MARK_S * 1000
        args: list[Arg] = [due_ms, self._schedule.next_id(), record, _source(failed), lasting_ms, 0]
        self._call(failed, args, record, place, done, arg)

    def dead(self, failed: Failed, record: bytes, queue: Queue, done: Scheduled, arg: Any) -> None:
        """Adds the finished record of a dead letter to its queue."""

        def place(where: bytes, queue_id: bytes) -> Held:
            number = _number(where)
            if not queue_id:
                self._store.arrived(queue, number, [record])
            return Held(number, int.from_bytes(queue_id or record[QUEUE_ID], "big"), 0, bool(queue_id))

        args: list[Arg] = ["", "", record, _source(failed), MARK_S * 1000, queue.known_end]
        self._call(failed, args, record, place, done, arg)

    def _call(
        self,
        failed: Failed,
        args: list[Arg],
        record: bytes,
        place: Callable[[bytes, bytes], Held],
        done: Scheduled,
        arg: Any,
    ) -> None:
        store, keys = self._store, self._store.keys
        known_by = failed.unique_key or f"@{failed.physical_offset}"
        mark = keys.given_back(failed.group, failed.topic, failed.reconsume_times, known_by)

        def answered(answer: Any, late: StoreError | None = None) -> None:
            store.pending_bytes -= len(record)
            if isinstance(answer, StoreError):
                done(None, answer, arg)
            else:
                done(place(*answer), late, arg)

        store.pending_bytes += len(record)
        store.put_bytes += len(record)
        dead_letters = keys.queue(DLQ_PREFIX + failed.group, 0)
        store.send(answered, "give_back", [mark, keys.scheduled, keys.scheduled_records, dead_letters], args)


def _number(where: bytes) -> int:
    """Of a dead letter, the offset of its entry ``0-<n>``; of a retry, the number in its 16-byte id."""
    return queue_offset_of(where) if where.startswith(b"0-") else number_of(where)


def _source(failed: Failed) -> str:
    return "" if failed.physical_offset is None else str(failed.physical_offset)
