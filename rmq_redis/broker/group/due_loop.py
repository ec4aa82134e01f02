"""Work that is due at certain times: one timer for all of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from ...background import Every

_RETRY_S = 0.5
"""Pause after an error of the store."""
_LONGEST_SLEEP_S = 60.0
"""Bounds the delay if the clock is set back."""
_NEVER_MS = 1 << 62
"""Later than any real time."""

Act = Callable[[int], Awaitable[int | None]]
"""Does what is due at a time (ms), at most one batch. Returns when to look again (ms): 0 at once, None never."""


class DueLoop:
    """Calls ``act`` when something is due: at the time that its last turn returned, or that ``look_at`` named since."""

    def __init__(self, act: Act, name: str) -> None:
        """
        Args:
            name: what the loop does, for the log.
        """
        self._act = act
        self._loop = Every(_RETRY_S, self._step, name, at_once=True, retry_s=_RETRY_S)
        self._next_ms = _NEVER_MS

    def start(self) -> None:
        """Starts, with what is due already."""
        self._loop.start()

    async def close(self) -> None:
        await self._loop.close()

    def look_at(self, due_ms: int) -> None:
        """Makes it look at that time, unless it looks earlier."""
        if due_ms < self._next_ms:
            self._next_ms = due_ms
            self._loop.wake()

    async def _step(self) -> float:
        self._next_ms = _NEVER_MS  # whatever is added during this turn causes another one
        next_ms = await self._act(int(time.time() * 1000))
        if not self._loop.is_woken and next_ms is not None:
            self._next_ms = next_ms
        return min(max(self._next_ms - time.time() * 1000, 0) / 1000, _LONGEST_SLEEP_S)
