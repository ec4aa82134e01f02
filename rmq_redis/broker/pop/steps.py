"""The step that a POP in order takes at one queue: which messages it gets, and what is out of the queue then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...store.group.pop_order import Batch, Given, Step
from ...store.group.queue import Queue
from .take import PopRequest, Room, Screen, next_after


class Look(NamedTuple):
    """What was read of a queue: its next records, or those of the batch that is out.

    Attributes:
        position: the group's offset.
        dead: offsets of messages that were tried as often as the group allows.
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
    """The step of a queue of which nothing is out; None when the answer is full."""
    wanted, looked_at = room.choose(request, look.queue, look.offsets, look.records, screen)
    end = next_after(look.queue, look.position, look.offsets, looked_at)
    step = _first_step(request, look.queue, wanted, end, pop_ms) if end > look.position else None
    return step, wanted


def _first_step(request: PopRequest, queue: Queue, wanted: dict[int, bytes], end: int, pop_ms: int) -> Step:
    """The next messages of a queue of which nothing is out."""
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
    """An expired batch: some of it is redelivered, the rest waits or has ended."""
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
    """An expired batch, Apache's way: everything from its first message on is redelivered.

    Args:
        wanted: messages from the batch's first offset on: those of the batch, acknowledged ones among them, new ones.
        end: where the group goes on behind them. What the batch has behind it is read from there later.
    """
    if not wanted and not letters and end == batch.first_offset:  # other queues have filled the answer
        return Step(queue, batch, batch, batch.first_offset, batch.next_offset)
    times = dict.fromkeys(range(batch.first_offset, batch.next_offset), 1)  # an acknowledged one was delivered once
    times |= {message.queue_offset: message.times for message in batch.messages}
    messages = tuple(Given(offset, pop_ms + request.invisible_ms, times.get(offset, 0) + 1) for offset in wanted)
    new = Batch(end, pop_ms, request.attempt, messages) if messages else None
    ended = [message.queue_offset for message in batch.messages if message.queue_offset not in wanted]
    return Step(queue, batch, new, end if new is None else new.first_offset, end, list(wanted), ended, letters)
