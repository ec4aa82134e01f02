"""One-way sends that are lost: nobody is answered, so they are counted and logged here."""

from __future__ import annotations

import asyncio
import logging

logger = logging.getLogger(__name__)

_LOG_PERIOD_S = 10.0


class OnewayDrops:
    """Counts one-way messages that were not stored, and logs them at most once in ``_LOG_PERIOD_S``.

    Attributes:
        total: since start.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._logged = 0
        self._next_log_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._last = ""
        self.total = 0

    def add(self, topic: str, error: Exception) -> None:
        """A one-way message to a topic was dropped for this reason."""
        self.total += 1
        self._last = f"the last one to topic {topic}: {error}"
        if self._timer is None:
            self._timer = self._loop.call_at(self._next_log_s, self._log)

    def _log(self) -> None:
        self._timer = None
        self._next_log_s = self._loop.time() + _LOG_PERIOD_S
        dropped = self.total - self._logged
        logger.warning("%d one-way messages were dropped (%d since start); %s", dropped, self.total, self._last)
        self._logged = self.total
