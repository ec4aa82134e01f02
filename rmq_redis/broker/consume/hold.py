"""Pulls that wait for a message (long polling)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from ...background import Every
from ...protocol.command import RemotingCommand
from ...remoting.connection import Connection
from ...store.group.queue import Queue
from ..budget import Budget
from ..filter.subscription import MessageFilter

_SCAN_PERIOD_S = 0.5
"""How late a pull may time out. Source: ``PullRequestHoldService``, which looks every 5 s."""


class HeldPull(msgspec.Struct, eq=False):
    """A pull that is answered when a message arrives or it times out.

    Attributes:
        deadline_s: event-loop time at which it is answered without a message.
    """

    connection: Connection
    command: RemotingCommand
    queue: Queue
    queue_offset: int
    max_msg_nums: int
    max_bytes: int
    filter: MessageFilter | None
    deadline_s: float
    consumer_group: str


class PullHold:
    """Keeps held pulls on their queues, without a task or timer per pull."""

    def __init__(self, execute: Callable[[HeldPull], None], max_held: int) -> None:
        """
        Args:
            execute: answers a pull now, without holding it again.
        """
        self._execute = execute
        self._max_held = max_held
        self._queues: dict[Queue, None] = {}
        self._count = 0
        self._is_closed = False
        self._expired: deque[HeldPull] = deque()
        self._expiring = Every(_SCAN_PERIOD_S, self._expire, "answering pulls that waited long enough")

    def start(self) -> None:
        self._expiring.start()

    @property
    def count(self) -> int:
        """Number of waiting pulls."""
        return self._count

    def queues(self) -> list[Queue]:
        """Queues on which pulls wait."""
        return list(self._queues)

    def hold(self, pull: HeldPull) -> bool:
        """Holds a pull; False if too many wait already, or after ``close``."""
        if self._count >= self._max_held or self._is_closed:
            return False
        pull.queue.held.append(pull)
        self._queues[pull.queue] = None
        self._count += 1
        return True

    def _release(self, queue: Queue, keep: list[HeldPull]) -> None:
        self._count += len(keep) - len(queue.held)
        queue.held = keep
        if not keep:
            self._queues.pop(queue, None)

    def take_matching(
        self, queue: Queue, first_offset: int, records: Sequence[bytes], budget: Budget
    ) -> list[HeldPull]:
        """Releases and returns the pulls that new records wake: at least one record passes their filter.

        Each filter is applied once. When the budget is used up, the other pulls are woken, too.
        """
        woken: list[HeldPull] = []
        keep: list[HeldPull] = []
        last = first_offset + len(records)
        passes: dict[MessageFilter, bool] = {}
        for pull in queue.held:
            if pull.connection.closed:
                continue
            if pull.queue_offset >= last:
                keep.append(pull)
                continue
            if pull.filter and pull.filter not in passes:
                passes[pull.filter] = budget.is_over() or any(map(pull.filter.matches, records))
            if pull.filter is None or passes[pull.filter]:
                woken.append(pull)
            else:
                keep.append(pull)
        self._release(queue, keep)
        return woken

    def take_of_group(self, queue: Queue, group: str) -> list[HeldPull]:
        """Releases and returns the pulls of one consumer group that wait on a queue."""
        taken: list[HeldPull] = []
        keep: list[HeldPull] = []
        for pull in queue.held:
            (taken if pull.consumer_group == group else keep).append(pull)
        self._release(queue, keep)
        return [pull for pull in taken if not pull.connection.closed]

    def wake(self, queue: Queue) -> None:
        """Executes every pull that waits on a queue."""
        pulls = queue.held
        self._release(queue, [])
        for pull in pulls:
            if not pull.connection.closed:
                self._execute(pull)

    def wake_all(self) -> None:
        """Executes every waiting pull."""
        for queue in self.queues():
            self.wake(queue)

    async def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        for queue in self.queues():
            expired = [p for p in queue.held if p.deadline_s <= now or p.connection.closed]
            if expired:
                self._release(queue, [p for p in queue.held if p.deadline_s > now and not p.connection.closed])
                self._expired += expired
        while self._expired:  # an error ends this turn; the next turn goes on behind that pull
            pull = self._expired.popleft()
            if not pull.connection.closed:
                self._execute(pull)

    def close(self) -> None:
        """Executes every waiting pull; later ones are not held."""
        self._is_closed = True
        self.wake_all()
        self._expiring.cancel()
