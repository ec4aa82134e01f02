"""Makes the members of a new group look for its retry topic when the first retry arrives.

A Java client queries routes when it starts and then every 30 s, and rebalances every 20 s. At its group's first
heartbeat the retry topic is still being created, so the client may learn of it late and pull from it later still. A
notification (NOTIFY_CONSUMER_IDS_CHANGED) makes it rebalance at once with the routes that it knows by then.
"""

from __future__ import annotations

import asyncio

from ...model import RETRY_PREFIX
from ...store.group.offsets import OffsetStore
from ...store.group.queue import Queue
from .clients import ClientManager

_PERIOD_S = 2.0
"""Pause between two notices."""
_MOST_NOTICES = 30
"""Longer than a client needs to query routes (30 s) and to rebalance (20 s)."""


class RetryNotice:
    """Notifies members while their retry queue has messages and none of them has ever pulled from it."""

    def __init__(self, clients: ClientManager, offsets: OffsetStore) -> None:
        self._clients = clients
        self._offsets = offsets
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Queue, asyncio.TimerHandle] = {}

    def on_new_records(self, queue: Queue) -> None:
        """A queue has new messages. To be called for all queues; only those of retry topics cost time."""
        topic = queue.topic
        if topic.startswith(RETRY_PREFIX) and not queue.held and queue not in self._timers:
            self._notify(queue, topic.removeprefix(RETRY_PREFIX), _MOST_NOTICES)

    def _notify(self, queue: Queue, group: str, left: int) -> None:
        self._timers.pop(queue, None)
        if self._offsets.has_pulled(group, queue.topic, queue.queue_id):
            return
        if left and self._clients.notify(group):
            self._timers[queue] = self._loop.call_later(_PERIOD_S, self._notify, queue, group, left - 1)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
