"""Background tasks that outlive their errors: every loop of the package is one of these."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from .errors import RmqError

logger = logging.getLogger(__name__)

_MAX_BACKOFF_S = 5.0
"""Few tracebacks in the log, and what is due at a time of its own is not much later once the bug's cause is gone."""
_CANCEL_AGAIN_S = 0.1
"""A step can lose its cancellation to an error of its own, and wait on: it is cancelled until it ends."""

T = TypeVar("T")

Step = Callable[[], Awaitable[float | None]]
"""One turn of a loop. Returns the seconds until the next turn; None: the loop's period."""


class Every:
    """Repeats a step in the background until it is closed.

    A step that raises ends its turn only. An ``RmqError`` (a store or a peer that is unreachable) is logged once, and
    again when its text changes; the next turn comes after the period, or sooner with ``retry_s``. Any other error is a
    bug: it is logged with its traceback, and the pause doubles with each one in a row, up to 5 s or a longer period.
    """

    def __init__(
        self,
        period_s: float,
        step: Step,
        name: str,
        *,
        at_once: bool = False,
        retry_s: float | None = None,
        backs_off: bool = True,
    ) -> None:
        """
        Args:
            period_s: pause between two turns in seconds, more than 0.
            step: awaited once per turn.
            name: what the loop does, for the log, as in ``"broker broker-a: registering"``.
            at_once: whether the first turn comes without a pause.
            retry_s: pause after an ``RmqError``, which ``wake`` does not shorten; doubles with each one in a row, up to
                the period. None: the period, which ``wake`` ends.
            backs_off: whether bugs in a row lengthen the pause. A lease, for example, must be renewed in any case.
        """
        self._period_s = period_s
        self._step = step
        self._name = name
        self._at_once = at_once
        self._first_retry_s = self._retry_s = period_s if retry_s is None else min(retry_s, period_s)
        self._has_retry_pause = retry_s is not None
        self._backs_off = backs_off
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._complaint = ""
        self._bug_pause_s = period_s
        self._has_failed = False

    def start(self) -> None:
        """Begins, unless it runs already."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    def wake(self) -> None:
        """Has the next turn come now, or after the current one; not before the end of a ``retry_s`` pause."""
        self._wake.set()

    @property
    def is_woken(self) -> bool:
        """Whether ``wake`` was called since the current turn began."""
        return self._wake.is_set()

    def cancel(self) -> None:
        """Ends the loop without waiting for it."""
        task, self._task = self._task, None
        if task:
            task.cancel()

    async def close(self) -> None:
        """Ends the loop and waits for it; called by its own step, it ends after that. It may be started again.

        The step is cancelled until it ends: it awaits a write that must be complete with ``finish``.
        """
        task, self._task = self._task, None
        if task is None or task is asyncio.current_task():
            return
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_CANCEL_AGAIN_S)

    async def _run(self) -> None:
        pause_s = 0.0 if self._at_once else self._period_s
        while self._task is asyncio.current_task():
            await self._pause(pause_s)
            pause_s = await self._turn()

    async def _pause(self, pause_s: float) -> None:
        if pause_s <= 0 or (self._has_failed and self._has_retry_pause):
            await asyncio.sleep(pause_s)
        else:
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._wake.clear()

    async def _turn(self) -> float:
        """One step; returns the seconds until the next."""
        try:
            pause_s = await self._step()
        except RmqError as error:
            level = logging.DEBUG if str(error) == self._complaint else logging.WARNING
            pause_s, self._retry_s = self._retry_s, min(2 * self._retry_s, self._period_s)
            logger.log(level, "%s failed, next attempt in %g s: %s", self._name, pause_s, error)
            self._complaint, self._has_failed = str(error), True
            return pause_s
        except Exception:
            pause_s, self._has_failed = self._bug_pause_s, True
            if self._backs_off:
                self._bug_pause_s = min(2 * pause_s, max(_MAX_BACKOFF_S, self._period_s))
            logger.exception("%s failed, next attempt in %g s", self._name, pause_s)
            return pause_s
        self._complaint, self._has_failed = "", False
        self._retry_s, self._bug_pause_s = self._first_retry_s, self._period_s
        return self._period_s if pause_s is None else pause_s


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Waits for ``work`` through any number of cancellations; the caller is cancelled when it has ended."""
    task = asyncio.get_running_loop().create_task(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation:
        with contextlib.suppress(Exception):  # the cancellation matters more to the caller
            task.result()
        raise cancellation
    return task.result()


def every(period_s: float, step: Step, name: str, *, at_once: bool = False) -> Every:
    """A started ``Every``; needs a running event loop."""
    loop = Every(period_s, step, name, at_once=at_once)
    loop.start()
    return loop
