"""One-way sends that were not stored. They have no answer, so they are counted and logged here."""

from __future__ import annotations

import logging

from ...counted_warning import CountedWarning

logger = logging.getLogger(__name__)


class OnewayDrops(CountedWarning):
    """Counts one-way messages that were not stored."""

    def __init__(self) -> None:
        super().__init__(logger, "%d one-way messages were dropped (%d since start); %s")

    def drop(self, topic: str, error: Exception) -> None:
        """Counts a one-way message to a topic that was dropped because of ``error``."""
        self.add(f"the last one to topic {topic}: {error}")
