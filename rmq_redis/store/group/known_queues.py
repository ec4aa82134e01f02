"""Which queues a broker group has, and how far they reach."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ...errors import StoreError, StoreFencedError
from ...model import MessageQueue
from ..keys import GroupKeys
from ..redis.connection import StoreConnection
from .queue import Queue
from .session import GroupSession, StoreSettings

logger = logging.getLogger(__name__)

_MOST_LOST = 1 << 32
"""No queue in memory loses more messages: a committed offset further behind its end is an error of its sender."""
_LOGGED_QUEUES = 8
"""A store that lost everything may concern thousands of queues: the log names this many."""
_QUEUES_AT_ONCE = 1000
"""Queues that one call looks at; the server answers nobody else meanwhile."""


def log_lost(queue: Queue, end: int) -> None:
    logger.error(
        "%s: the store lost messages (evicted, deleted, flushed, restored, or not replicated); those that are left end "
        "before offset %d, where new messages go on",
        queue.mq,
        end,
    )


class KnownQueues(GroupSession):
    """The session of a broker group with the queues that this process knows."""

    def __init__(
        self,
        settings: StoreSettings,
        keys: GroupKeys,
        *,
        on_fenced: Callable[[StoreFencedError], None],
        on_reloaded: Callable[[StoreConnection], Awaitable[None]],
    ) -> None:
        super().__init__(settings, keys, on_fenced=on_fenced, on_reloaded=on_reloaded)
        self.queues: dict[tuple[str, int], Queue] = {}
        self.queues_by_number: dict[int, Queue] = {}
        self._recovery: asyncio.Task[None] | None = None

    async def open_queues(self, queues: Sequence[tuple[MessageQueue, int]]) -> None:
        """Adds queues by (queue, number) and reads how far they reach. Known ones stay as they are."""
        opened: list[Queue] = []
        for queue, number in queues:
            if not self._is_known(queue, number):
                opened.append(Queue(queue, number, self.keys.queue(queue.topic, queue.queue_id)))
        if opened:
            await self._load_info(opened, self.current_read())
        for item in opened:
            if not self._is_known(item.mq, item.number):
                old = self.queues.get((item.topic, item.queue_id))
                if old:  # its topic was deleted and created again
                    self.queues_by_number.pop(old.number, None)
                self.queues[item.topic, item.queue_id] = item
                self.queues_by_number[item.number] = item

    def _is_known(self, queue: MessageQueue, number: int) -> bool:
        known = self.queues.get((queue.topic, queue.queue_id))
        return known is not None and known.number == number

    def forget_queues(self, topic: str) -> list[Queue]:
        """Drops the queues of a deleted topic from memory and returns them."""
        gone = [queue for (name, _), queue in self.queues.items() if name == topic]
        for queue in gone:
            del self.queues[queue.topic, queue.queue_id]
            self.queues_by_number.pop(queue.number, None)
        return gone

    async def _load_info(self, queues: list[Queue], connection: StoreConnection) -> None:
        role = self.role
        for start in range(0, len(queues), _QUEUES_AT_ONCE):
            some = queues[start : start + _QUEUES_AT_ONCE]
            answer = await connection.execute_function("queue_info", [queue.key for queue in some], [])
            if self.role != role:  # what a slave read is too old for a master
                return
            for queue, first, last in zip(some, answer[::2], answer[1::2], strict=True):
                min_offset = int(first) - 1 if first else int(last)
                if min_offset != queue.min_offset:
                    queue.oldest_ms = 0
                queue.max_offset = int(last)
                queue.min_offset = min_offset

    async def refresh(self, queues: list[Queue]) -> None:
        """Reads again how far the queues reach (for slaves, whose queues grow without them). Raises StoreError."""
        if queues:
            await self._load_info(queues, self.current_read())

    # --- how far they reach ----------------------------------------------------------------------------------------

    async def _reopened(self, connection: StoreConnection) -> None:
        # What was in flight when the last connection broke may have been stored or not: read it.
        if self.queues:
            await self._load_ends(connection)
            await super()._reopened(connection)

    async def load_ends(self) -> None:
        """Reads how far all queues reach, for a master that begins to write. Raises StoreError."""
        if self.queues:
            await self._load_ends(self.current())

    async def _load_ends(self, connection: StoreConnection, queues: Sequence[Queue] = ()) -> None:
        """Reads how far the queues (default: all) reach. An end never goes back, or an offset would be used twice.

        It would go back after a Redis failover that lost what was not replicated, a flush, or an older snapshot:
        consumers are past the lost messages and would miss new ones at the same offsets. So the offsets stay used.
        """
        queues = list(queues or self.queues.values())
        known = [queue.max_offset for queue in queues]
        await self._load_info(list(queues), connection)
        lost = [(queue, before) for queue, before in zip(queues, known, strict=True) if queue.max_offset < before]
        await self._raise_ends(connection, lost)

    async def go_on_behind(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Raises the ends of queues in which a group has consumed beyond the end. Raises StoreError.

        Their streams were lost while no broker ran; consumers would miss new messages at the offsets of the lost ones.

        Args:
            offsets: by (topic, queue id), the largest committed offset; an absurd one is ignored.
        """
        lost = [
            (queue, offset)
            for key, offset in offsets.items()
            if (queue := self.queues.get(key)) and 0 < offset - queue.max_offset <= _MOST_LOST
        ]
        await self._raise_ends(self.current(), lost)

    async def _raise_ends(self, connection: StoreConnection, lost: Sequence[tuple[Queue, int]]) -> None:
        if not lost:
            return
        for queue, before in lost[:_LOGGED_QUEUES]:
            log_lost(queue, before)
        if len(lost) > _LOGGED_QUEUES:
            logger.error("the store lost messages of %d further queues", len(lost) - _LOGGED_QUEUES)
        for queue, before in lost:
            if queue.min_offset == queue.max_offset:
                queue.begin_behind(before)
            queue.max_offset = before
        try:
            await self.call_over(
                connection, "raise_ends", [queue.key for queue, _ in lost], [before for _, before in lost]
            )
        except StoreFencedError as error:  # leadership handles the loss of the lease, and reads the ends again
            logger.debug("the ends of queues are not raised: %s", error)

    def recover_soon(self, queue: Queue) -> None:
        if not self.reads_only and self._recovery is None:
            self._recovery = self._loop.create_task(self._recover(queue))

    async def _recover(self, queue: Queue) -> None:
        """Reads how far a queue reaches; if its stream has disappeared, it continues behind the lost messages."""
        try:
            await self._load_ends(self.current(), [queue])
        except StoreError as error:
            logger.debug("%s: its end is not read: %s", queue.mq, error)
        finally:
            self._recovery = None
