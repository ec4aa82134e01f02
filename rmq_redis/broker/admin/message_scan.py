"""The order in which a queue is searched for a key: outward from an offset, in growing steps."""

from __future__ import annotations

from typing import NamedTuple

_FIRST_STEP_NUMS = 1024
"""Small, as most messages are found near the centre or the end."""
_LARGEST_STEP_NUMS = 16_384
"""The three directions take turns; a larger step in one would delay the others."""


class Window(NamedTuple):
    """Offsets of a queue, the end excluded."""

    first: int
    end: int


class OutwardScan:
    """Scans a queue from ``centre`` in both directions, and from its end back, as most queries are for new messages.

    Args:
        window: the part that is always searched completely, as there may be several copies of the message.
    """

    def __init__(self, reach: Window, centre: int, window: Window) -> None:
        self._reach = reach
        self._window = window
        self._low = self._high = min(max(centre, reach.first), reach.end)
        self._tail = reach.end
        self._step = _FIRST_STEP_NUMS
        self.looked_at = 0
        """Messages searched so far, including the windows returned last."""

    @property
    def is_window_done(self) -> bool:
        """Whether the whole window was searched."""
        low, high = max(self._window.first, self._reach.first), min(self._window.end, self._reach.end)
        return self._low <= low and (self._high >= high or self._high >= self._tail)

    def next(self, limit: int) -> list[Window]:
        """The next windows to search: at most three, with at most ``limit`` messages in all; empty at the end."""
        step, self._step = self._step, min(2 * self._step, _LARGEST_STEP_NUMS)
        parts: list[Window] = []
        for part in (self._above, self._below, self._newest):
            size = min(step, limit)
            if size > 0 and (chosen := part(size)):
                parts.append(chosen)
                limit -= chosen.end - chosen.first
                self.looked_at += chosen.end - chosen.first
        return parts

    def _above(self, size: int) -> Window | None:
        first, self._high = self._high, min(self._high + size, self._tail)
        return Window(first, self._high) if first < self._high else None

    def _below(self, size: int) -> Window | None:
        end, self._low = self._low, max(self._low - size, self._reach.first)
        return Window(self._low, end) if self._low < end else None

    def _newest(self, size: int) -> Window | None:
        end, self._tail = self._tail, max(self._tail - size, self._high)
        return Window(self._tail, end) if self._tail < end else None
