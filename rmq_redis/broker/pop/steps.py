"""The step of a POP in order at one queue: the messages that it delivers, and the batch after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...store.group.pop_order import Batch, Given, Step
from ...store.group.queue import Queue
from .take import PopRequest, Room, Screen, next_after


class Look(NamedTuple):
    """Records that were read from a queue: the next ones, or those of its batch.

    Attributes:
        position: the group's offset.
        dead: offsets of messages that were delivered as often as the group allows.
    """

    queue: Queue
    position: int
    batch: Batch | None
    offsets: Sequence[int]
    records: Sequence[bytes]
    dead: frozenset[int]


def begin(
    request: PopRequest, look: Look, pop_ms: int, room: Room, screen: Screen | None
) -> tuple[Step | None, dict[int, bytes]]:
    """The step of a queue without a batch, and the records to deliver; the step is None if the answer is full."""
    wanted, looked_at = room.choose(request, look.queue, look.offsets, look.records, screen)
    end = next_after(look.queue, look.position, look.offsets, looked_at)
    step = _first_step(request, look.queue, wanted, end, pop_ms) if end > look.position else None
    return step, wanted


def _first_step(request: PopRequest, queue: Queue, wanted: dict[int, bytes], end: int, pop_ms: int) -> Step:
    """Delivers the next messages of a queue without a batch."""
    if not wanted:
        return Step(queue, None, None, end, end)
    messages = tuple(Given(offset, pop_ms + request.invisible_ms, 1) for offset in wanted)
    batch = Batch(end, pop_ms, request.attempt, messages)
    return Step(queue, None, batch, batch.first_offset, end, list(wanted))


def next_step(
    request: PopRequest,
    queue: Queue,
    batch: Batch,
    pop_ms: int,
    wanted: dict[int, bytes],
    left: set[int],
    letters: Sequence[bytes],
) -> Step:
    """Redelivers part of an expired batch; its other messages wait, or are removed from it."""
    asked = {message.queue_offset for message in batch.messages[: request.max_nums]}
    messages: list[Given] = []
    ended: list[int] = []
    for message in batch.messages:
        offset = message.queue_offset
        if offset in wanted:
            messages.append(Given(offset, pop_ms + request.invisible_ms, message.times + 1))
        elif offset in left or offset not in asked:
            messages.append(Given(offset, 0, message.times))
        else:  # removed by retention, rejected by a new filter, or dead
            ended.append(offset)
    new = Batch(batch.next_offset, pop_ms, request.attempt, tuple(messages)) if messages else None
    first = batch.next_offset if new is None else new.first_offset
    return Step(queue, batch, new, first, batch.next_offset, list(wanted), ended, letters)


def step_from_first(
    request: PopRequest,
    queue: Queue,
    batch: Batch,
    pop_ms: int,
    wanted: dict[int, bytes],
    end: int,
    letters: Sequence[bytes],
) -> Step:
    """Redelivers everything from the first message of an expired batch on, as Apache's broker does.

    Args:
        wanted: messages from the batch's first offset on, acknowledged and new ones included.
        end: the offset after them. The rest of the batch is read again from there later.
    """
    if not wanted and not letters and end == batch.first_offset:  # other queues have filled the answer
        return Step(queue, batch, batch, batch.first_offset, batch.next_offset)
    times = dict.fromkeys(range(batch.first_offset, batch.next_offset), 1)  # an acknowledged one was delivered once
    times |= {message.queue_offset: message.times for message in batch.messages}
    messages = tuple(Given(offset, pop_ms + request.invisible_ms, times.get(offset, 0) + 1) for offset in wanted)
    new = Batch(end, pop_ms, request.attempt, messages) if messages else None
    ended = [message.queue_offset for message in batch.messages if message.queue_offset not in wanted]
    return Step(queue, batch, new, end if new is None else new.first_offset, end, list(wanted), ended, letters)
