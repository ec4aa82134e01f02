"""How long filters may be applied in one turn of the event loop, which serves every client."""

from __future__ import annotations

import time

_BUDGET_S = 0.005
"""Every client waits while filters are applied."""


class Budget:
    """Time for applying filters; it begins with the first question. What is left over waits for another turn."""

    __slots__ = ("_until_s",)

    def __init__(self) -> None:
        self._until_s = 0.0

    def is_over(self) -> bool:
        """Whether the time is used up; the first answer is always no."""
        now_s = time.monotonic()
        if not self._until_s:
            self._until_s = now_s + _BUDGET_S
        return now_s > self._until_s
