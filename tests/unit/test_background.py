"""Loops in the background."""

from __future__ import annotations

import asyncio
import logging

import pytest
from helpers import eventually

from rmq_redis.background import Every, every, finish
from rmq_redis.errors import StoreError

LONG_S = 3600.0


class Steps:
    """A step that does what it is told, turn by turn, and counts."""

    def __init__(self, *outcomes: Exception | float | None) -> None:
        self.outcomes = list(outcomes)
        self.turns = 0

    async def __call__(self) -> float | None:
        self.turns += 1
        outcome = self.outcomes.pop(0) if self.outcomes else LONG_S
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_step_repeats_after_its_period() -> None:
    step = Steps(None, None)
    loop = every(0.001, step, "test")
    await eventually(lambda: step.turns == 3)
    await loop.close()


async def test_step_sets_the_pause_and_wake_ends_it() -> None:
    step = Steps()
    loop = every(LONG_S, step, "test", at_once=True)
    await eventually(lambda: step.turns == 1)
    loop.wake()
    await eventually(lambda: step.turns == 2)
    await loop.close()


async def test_wake_during_a_step_causes_another_one() -> None:
    turns = 0
    release = asyncio.Event()

    async def step() -> None:
        nonlocal turns
        turns += 1
        await release.wait()

    loop = every(LONG_S, step, "test", at_once=True)
    await eventually(lambda: turns == 1)
    loop.wake()
    release.set()
    await eventually(lambda: turns == 2)
    await loop.close()


async def test_repeated_expected_error_is_a_warning_once(caplog: pytest.LogCaptureFixture) -> None:
    step = Steps(StoreError("away"), StoreError("away"), StoreError("refused"))
    with caplog.at_level(logging.DEBUG, "rmq_redis.background"):
        loop = every(0.001, step, "group broker-a: trimming")
        await eventually(lambda: step.turns == 4)
        await loop.close()
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "DEBUG", "WARNING"]
    assert caplog.messages[0] == "group broker-a: trimming failed, next attempt in 0.001 s: away"


async def test_bug_is_logged_with_its_traceback_and_the_pause_doubles(caplog: pytest.LogCaptureFixture) -> None:
    step = Steps(KeyError("a"), KeyError("b"), KeyError("c"))
    loop = every(0.001, step, "test")
    await eventually(lambda: step.turns == 4)
    await loop.close()
    assert [record.exc_info is not None for record in caplog.records] == [True] * 3
    pauses = [message.split("next attempt in ")[1].split(" s")[0] for message in caplog.messages]
    assert pauses == ["0.001", "0.002", "0.004"]


async def test_close_waits_for_the_step_and_start_restarts() -> None:
    ended = False
    started = asyncio.Event()

    async def step() -> None:
        nonlocal ended
        started.set()
        try:
            await asyncio.sleep(LONG_S)
        finally:
            await asyncio.sleep(0)
            ended = True

    loop = Every(0.001, step, "test", at_once=True)
    loop.start()
    await started.wait()
    await loop.close()
    assert ended
    started.clear()
    loop.start()
    await started.wait()
    await loop.close()


async def test_close_cancels_again_if_an_error_replaces_the_cancellation() -> None:
    started = asyncio.Event()

    async def step() -> None:
        started.set()
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            raise StoreError("lost while cancelled") from None

    loop = every(LONG_S, step, "close is cancelled again", at_once=True)
    await started.wait()
    await loop.close()
    assert "close is cancelled again" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_close_waits_for_work_that_must_finish() -> None:
    started = asyncio.Event()
    written: list[str] = []

    async def write() -> None:
        started.set()
        await asyncio.sleep(0.25)  # close cancels twice meanwhile
        written.append("offsets")

    async def step() -> None:
        await finish(write())
        written.append("after the cancellation")

    loop = every(LONG_S, step, "test", at_once=True)
    await started.wait()
    await loop.close()
    assert written == ["offsets"]


async def test_finish_returns_the_result_or_raises_the_error() -> None:
    async def result() -> int:
        return 7

    async def fail() -> None:
        raise StoreError("away")

    assert await finish(result()) == 7
    with pytest.raises(StoreError, match="away"):
        await finish(fail())


async def test_close_inside_a_step_makes_it_the_last() -> None:
    loop: Every
    turns = 0

    async def step() -> float:
        nonlocal turns
        turns += 1
        await loop.close()
        return 0.0

    loop = every(LONG_S, step, "test", at_once=True)
    await eventually(lambda: turns == 1)
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "test"] or [None]
    if task is not None:
        await task
    assert turns == 1


async def test_retry_pause_doubles_up_to_the_period_and_wake_does_not_shorten_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    step = Steps(StoreError("a"), StoreError("b"), StoreError("c"), StoreError("d"), None, StoreError("e"))
    loop = Every(0.004, step, "test", at_once=True, retry_s=0.001)
    loop.start()
    loop.wake()
    await eventually(lambda: step.turns == 7)
    await loop.close()
    pauses = [message.partition("attempt in ")[2].partition(" s")[0] for message in caplog.messages]
    assert pauses == ["0.001", "0.002", "0.004", "0.004", "0.001"]


async def test_bugs_do_not_lengthen_the_pause_of_a_required_loop(caplog: pytest.LogCaptureFixture) -> None:
    step = Steps(KeyError("a"), KeyError("b"), KeyError("c"))
    loop = Every(0.001, step, "test", backs_off=False)
    loop.start()
    await eventually(lambda: step.turns == 4)
    await loop.close()
    assert [message.partition(", ")[2] for message in caplog.messages] == ["next attempt in 0.001 s"] * 3


async def test_loop_survives_thousands_of_bugs_in_a_row(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmq_redis.background._MAX_BACKOFF_S", 0.0)
    step = Steps(*[KeyError("a")] * 1100)
    with caplog.at_level(logging.CRITICAL, "rmq_redis.background"):
        loop = every(1e-6, step, "test", at_once=True)
        await eventually(lambda: step.turns == 1101)
        await loop.close()


async def test_pause_after_bugs_is_at_most_five_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_sleep(self: Every, pause_s: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(Every, "_pause", no_sleep)
    step = Steps(*[KeyError("a")] * 6)
    loop = every(0.5, step, "test")
    await eventually(lambda: step.turns >= 7)
    await loop.close()
    pauses = [message.partition("attempt in ")[2] for message in caplog.messages]
    assert pauses == ["0.5 s", "1 s", "2 s", "4 s", "5 s", "5 s"]
