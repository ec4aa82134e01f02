"""Warnings about what clients can cause as often as they like: counted always, logged now and then."""

from __future__ import annotations

import asyncio
import logging

_LOG_PERIOD_S = 10.0
"""A log that many clients trigger stays readable, and an operator who watches it sees a cause within seconds."""


class CountedWarning:
    """Counts events of one kind, and logs them at most once in ``_LOG_PERIOD_S``: the first one at once.

    Attributes:
        total: since start.
    """

    def __init__(self, logger: logging.Logger, text: str) -> None:
        """
        Args:
            text: the log line, a format for three values: how many since the last line (%d), how many since start
                (%d), and what was said of the last one (%s).
        """
        self._logger = logger
        self._text = text
        self._logged = 0
        self._next_log_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._last = ""
        self.total = 0

    def add(self, what: str) -> None:
        """Counts one event. Needs a running event loop."""
        self.total += 1
        self._last = what
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._next_log_s, self._log)

    def _log(self) -> None:
        self._timer = None
        self._next_log_s = asyncio.get_running_loop().time() + _LOG_PERIOD_S
        self._logger.warning(self._text, self.total - self._logged, self.total, self._last)
        self._logged = self.total
