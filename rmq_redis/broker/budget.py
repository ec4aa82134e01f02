"""Time for filters in one turn of the event loop, which serves every client."""

from __future__ import annotations

import time

_BUDGET_S = 0.005
"""Every client waits meanwhile, so 5 ms."""


class Budget:
    """Time for applying filters, from the first call on. Records that are left wait for another turn."""

    __slots__ = ("_until_s",)

    def __init__(self) -> None:
        self._until_s = 0.0

    def is_over(self) -> bool:
        """Whether the time is used up; False at the first call."""
        now_s = time.monotonic()
        if not self._until_s:
            self._until_s = now_s + _BUDGET_S
        return now_s > self._until_s
