"""In which order the messages of a queue are looked at for a key: outward from a place, in steps that grow."""

from __future__ import annotations

from typing import NamedTuple

_FIRST_STEP_NUMS = 1024
"""Small, as what is looked for is mostly near the centre or the end."""
_LARGEST_STEP_NUMS = 16_384
"""The three directions take turns, so a larger step in one would delay what is found in another."""


class Window(NamedTuple):
    """Offsets of a queue, the end excluded."""

    first: int
    end: int


class OutwardScan:
    """Goes through a queue from ``centre`` to both sides, and from its end back: what is looked for is mostly new.

    Args:
        window: the part that is searched whole, though something was found in it: there may be several copies.
    """

    def __init__(self, reach: Window, centre: int, window: Window) -> None:
        self._reach = reach
        self._window = window
        self._low = self._high = min(max(centre, reach.first), reach.end)
        self._tail = reach.end
        self._step = _FIRST_STEP_NUMS
        self.looked_at = 0
        """Messages so far, counting the next ones."""

    @property
    def is_window_done(self) -> bool:
        """Whether all of the window was looked at."""
        low, high = max(self._window.first, self._reach.first), min(self._window.end, self._reach.end)
        return self._low <= low and (self._high >= high or self._high >= self._tail)

    def next(self, limit: int) -> list[Window]:
        """What to look at next: at most three parts, and at most ``limit`` messages; nothing is left if empty."""
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
