"""POPs that wait for a message, by topic and group."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from ...remoting.connection import Connection
from ...store.group.queue import Queue


class Waiter:
    """A waiting POP.

    Attributes:
        group: consumer group.
        topics: the topic, and the group's retry topic for it.
        queue_id: a queue of the topic; -1 for all.
        is_outdated: whether the group has another expression for the topic now.
    """

    __slots__ = ("connection", "future", "group", "is_outdated", "queue_id", "topics")

    def __init__(self, connection: Connection, group: str, topics: tuple[str, ...], queue_id: int) -> None:
        self.connection = connection
        self.group = group
        self.topics = topics
        self.queue_id = queue_id
        self.is_outdated = False
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wants(self, queue: Queue) -> bool:
        """Whether it waits for messages of the queue."""
        topic = queue.topic
        return self.queue_id < 0 or topic != self.topics[0] or queue.queue_id == self.queue_id


class PopHold:
    """Keeps waiting POPs. A message wakes one POP of each group, which wakes the next one if it leaves messages."""

    def __init__(self, max_held: int) -> None:
        self._max_held = max_held
        self._count = 0
        self._topics: dict[str, dict[str, deque[Waiter]]] = {}
        self._waiting: dict[Connection, set[Waiter]] = {}

    @property
    def count(self) -> int:
        """Number of waiting POPs."""
        return self._count

    def count_of(self, group: str, topic: str, queue_id: int) -> int:
        """Number of a group's POPs that wait for messages of a topic's queue (-1: of any queue)."""
        waiting = self._topics.get(topic, {}).get(group, ())
        return sum(queue_id < 0 or waiter.queue_id in (-1, queue_id) for waiter in waiting)

    async def wait(self, waiter: Waiter, timeout_s: float) -> bool:
        """Waits for a message until the timeout; returns False at once if too many POPs wait already."""
        if self._count >= self._max_held:
            return False
        self._count += 1
        self._waiting.setdefault(waiter.connection, set()).add(waiter)
        for topic in waiter.topics:
            self._topics.setdefault(topic, {}).setdefault(waiter.group, deque()).append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.future
        except TimeoutError:
            pass
        finally:
            self._remove(waiter)
        return True

    def _remove(self, waiter: Waiter) -> None:
        self._count -= 1
        mine = self._waiting[waiter.connection]
        mine.discard(waiter)
        if not mine:
            del self._waiting[waiter.connection]
        for topic in waiter.topics:
            groups = self._topics.get(topic, {})
            waiting = groups.get(waiter.group)
            if waiting is None:
                continue
            if waiter in waiting:
                waiting.remove(waiter)
            if not waiting:
                del groups[waiter.group]
                if not groups:
                    del self._topics[topic]

    def on_new_records(self, queue: Queue) -> None:
        """Wakes one waiter of each group that waits for messages of the queue."""
        groups = self._topics.get(queue.topic)
        if groups:
            for waiting in groups.values():
                self._wake_first(waiting, queue)

    def wake(self, group: str, queue: Queue) -> None:
        """Wakes one waiter of a group for messages in a queue."""
        waiting = self._topics.get(queue.topic, {}).get(group)
        if waiting:
            self._wake_first(waiting, queue)

    @staticmethod
    def _wake_first(waiting: Iterable[Waiter], queue: Queue) -> None:
        for waiter in waiting:
            if not waiter.future.done() and not waiter.connection.closed and waiter.wants(queue):
                waiter.future.set_result(None)
                return

    def expression_changed(self, group: str, topic: str) -> None:
        """Wakes all waiters of a group for a topic: their old filter would skip messages that match the new one."""
        for waiter in self._topics.get(topic, {}).get(group, ()):
            if not waiter.future.done():
                waiter.is_outdated = True
                waiter.future.set_result(None)

    def wake_all(self) -> None:
        """Wakes every waiter, because the broker stops or is not the master any more."""
        for connection in self._waiting:
            self.connection_closed(connection)

    def connection_closed(self, connection: Connection) -> None:
        """Wakes the waiters of a connection."""
        for waiter in self._waiting.get(connection, ()):
            if not waiter.future.done():
                waiter.future.set_result(None)
