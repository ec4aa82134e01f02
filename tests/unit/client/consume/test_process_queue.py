"""What may be committed, and when pulling pauses."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmq_redis.client.consume.process_queue import ProcessQueue
from rmq_redis.model import MessageExt, MessageQueue

QUEUE = MessageQueue("T", "broker-a", 0)


def message(offset: int, size: int = 100) -> MessageExt:
    return MessageExt("T", b"x", {}, 0, 0, offset, offset, 0, 0, "1.1.1.1:1", 0, "1.1.1.1:1", 0, 0, size, "broker-a")


@given(
    gaps=st.lists(st.integers(1, 5), min_size=1, max_size=60),
    start=st.integers(0, 10**12),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_smallest_unfinished_offset_is_committed(gaps: list[int], start: int, batch: int, seed: int) -> None:
    """Whatever is pulled and finished in whatever order: nothing unfinished is ever below the committed offset."""
    order = random.Random(seed)
    queue = ProcessQueue(QUEUE, start, None)
    offsets = [start + sum(gaps[: index + 1]) for index in range(len(gaps))]
    unfinished: dict[int, MessageExt] = {}
    committed = queue.commit_offset()
    while offsets or unfinished:
        if offsets and (not unfinished or order.random() < 0.5):
            taken, offsets = offsets[:batch], offsets[batch:]
            messages = [message(offset) for offset in taken]
            queue.next_offset = taken[-1] + 1
            queue.put(messages)
            unfinished.update(zip(taken, messages, strict=True))
        else:
            queue.done(unfinished.pop(order.choice(list(unfinished))))
        now = queue.commit_offset()
        assert now == min(unfinished, default=queue.next_offset)
        assert now >= committed
        assert queue.bytes == 100 * len(unfinished)
        committed = now
    assert queue.commit_offset() == queue.next_offset


def test_empty_queue_commits_its_initial_offset() -> None:
    assert ProcessQueue(QUEUE, 42, None).commit_offset() == 42


def test_message_done_twice_is_counted_once() -> None:
    queue = ProcessQueue(QUEUE, 0, None)
    first = message(0)
    queue.put([first])
    queue.next_offset = 1
    queue.done(first)
    queue.done(first)
    assert (queue.bytes, queue.commit_offset()) == (0, 1)


def filled(count: int, step: int = 1, **limits: int) -> tuple[ProcessQueue, list[MessageExt]]:
    queue = ProcessQueue(QUEUE, 0, None, **limits)
    messages = [message(index * step) for index in range(count)]
    queue.put(messages)
    queue.next_offset = count * step
    return queue, messages


async def test_pulling_waits_at_the_message_count_limit() -> None:
    queue, messages = filled(10, max_count=10)
    waiting = asyncio.create_task(queue.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done(messages[3])
    await waiting
    assert queue.has_room()


async def test_pulling_waits_at_the_byte_limit() -> None:
    queue, messages = filled(10, max_bytes=950)
    waiting = asyncio.create_task(queue.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done(messages[9])
    await waiting


async def test_pulling_waits_at_the_offset_span_limit() -> None:
    queue, messages = filled(30, step=100, max_span=2000)
    waiting = asyncio.create_task(queue.wait_for_room())
    for finished in messages[1:]:
        queue.done(finished)
        await asyncio.sleep(0)
    assert not waiting.done()
    queue.done(messages[0])
    await waiting
    assert filled(30, step=100, max_span=None)[0].has_room()  # type: ignore[arg-type]


async def test_dropped_queue_does_not_wait() -> None:
    queue, _ = filled(10, max_count=10)
    waiting = asyncio.create_task(queue.wait_for_room())
    await asyncio.sleep(0)
    queue.drop()
    await waiting
    assert queue.dropped


async def test_wait_idle_returns_when_the_handler_ends() -> None:
    queue = ProcessQueue(QUEUE, 0, None)
    assert await queue.wait_idle(0.0)
    queue.running = True
    assert not await queue.wait_idle(0.01)
    waiting = asyncio.create_task(queue.wait_idle(5.0))
    await asyncio.sleep(0)
    queue.handled()
    assert await waiting


@pytest.mark.parametrize("orderly", [False, True])
def test_orderly_queue_has_no_offset_span_limit(orderly: bool) -> None:
    queue = ProcessQueue(QUEUE, 0, None, max_span=None if orderly else 2000)
    queue.put([message(0), message(5000)])
    assert queue.has_room() is orderly
