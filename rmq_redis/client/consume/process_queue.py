"""ProcessQueue: the messages of one queue between their pull and the end of their handling."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from ...errors import ConfigError
from ...model import MASTER_ID, MessageExt, MessageQueue


class PullThresholds:
    """How much of a queue may be pulled and not finished. A topic's limit is shared evenly by the queues held of it.

    Source: RocketMQ 5.3 ``RebalancePushImpl.messageQueueChanged``.
    """

    def __init__(self, for_queue: tuple[int, int], for_topic: tuple[int, int], max_span: int | None) -> None:
        """
        Args:
            for_queue, for_topic: messages and bytes; -1 for no limit of a topic.

        Raises:
            ConfigError: a limit that is not at least 1.
        """
        for name, values, none in (("queue", for_queue, 1), ("topic", for_topic, -1)):
            for kind, value in zip(("", "bytes_"), values, strict=True):
                if value < 1 and value != none:
                    raise ConfigError(f"pull_threshold_{kind}for_{name}={value} is not at least 1")
        self._for_queue, self._bytes_for_queue = for_queue
        self._for_topic, self._bytes_for_topic = for_topic
        self._max_span = max_span

    def process_queue(self, queue: MessageQueue, next_offset: int, committed_offset: int | None) -> ProcessQueue:
        """A new queue with the limits of one queue."""
        return ProcessQueue(
            queue,
            next_offset,
            committed_offset,
            max_count=self._for_queue,
            max_bytes=self._bytes_for_queue,
            max_span=self._max_span,
        )

    def share(self, topic: str, held: Iterable[ProcessQueue]) -> None:
        """After a queue of a topic came or went: its queues among ``held`` share the topic's limits."""
        if self._for_topic < 0 and self._bytes_for_topic < 0:
            return
        queues = [process_queue for process_queue in held if process_queue.queue.topic == topic]
        for process_queue in queues:
            process_queue.limit(
                self._for_queue if self._for_topic < 0 else max(1, self._for_topic // len(queues)),
                self._bytes_for_queue if self._bytes_for_topic < 0 else max(1, self._bytes_for_topic // len(queues)),
            )


class ProcessQueue:
    """One queue that this consumer has: what was pulled and is not finished, and how far it got.

    Attributes:
        next_offset: where the next pull begins.
        committed_offset: what the broker has; None when it has nothing of this group.
        pending: pulled and not finished, by offset.
        waiting: in an orderly consumer, pulled and not finished, in the queue's order.
        dropped: this consumer does not have the queue any more; what is still handled does not count.
        pulling: a pull is under way. outdated: it was made with a subscription that has been replaced.
        retry_s: the pause after the last pull, if it had no answer; else 0.
        locked_until: orderly: event-loop time until which the broker's lock is ours.
    """

    __slots__ = (
        "_idle_waiter",
        "_max_bytes",
        "_max_count",
        "_max_span",
        "_order",
        "_room_waiter",
        "bytes",
        "committed_offset",
        "dropped",
        "last_pull_s",
        "locked_until",
        "next_offset",
        "outdated",
        "pending",
        "pulling",
        "queue",
        "read_from",
        "retry_s",
        "running",
        "scheduled",
        "task",
        "waiting",
    )

    def __init__(
        self,
        queue: MessageQueue,
        next_offset: int,
        committed_offset: int | None,
        *,
        max_count: int = 1000,
        max_bytes: int = 100 * 1024 * 1024,
        max_span: int | None = 2000,
    ) -> None:
        """
        Args:
            max_count, max_bytes, max_span: beyond any of these nothing more is pulled; the span is the distance of the
                oldest unfinished offset to the newest, None: any.
        """
        self.queue = queue
        self.next_offset = next_offset
        self.committed_offset = committed_offset
        self.pending: dict[int, MessageExt] = {}
        self.waiting: deque[MessageExt] = deque()
        self.bytes = 0
        self.dropped = False
        self.pulling = False
        self.outdated = False
        self.running = False
        self.scheduled = False
        self.locked_until = 0.0
        self.read_from = MASTER_ID
        self.last_pull_s = 0.0
        self.retry_s = 0.0
        self.task: asyncio.Task[None] | None = None
        self._order: deque[int] = deque()
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._max_span = max_span
        self._room_waiter: asyncio.Future[None] | None = None
        self._idle_waiter: asyncio.Future[None] | None = None

    def put(self, messages: Sequence[MessageExt]) -> None:
        """Takes pulled messages in."""
        pending, order = self.pending, self._order
        for message in messages:
            offset = message.queue_offset
            pending[offset] = message
            order.append(offset)
            size, body_size = message.store_size, len(message.body)
            self.bytes += size if size > body_size else body_size  # the body may have been decompressed

    def done(self, message: MessageExt) -> None:
        """A message is finished: its offset need not be kept back any more."""
        if self.pending.pop(message.queue_offset, None):
            size, body_size = message.store_size, len(message.body)
            self.bytes -= size if size > body_size else body_size
            if self._room_waiter and self.has_room():
                self._wake_puller()

    def commit_offset(self) -> int:
        """The offset that may be committed: the smallest that is not finished, or the next one to pull."""
        order, pending = self._order, self.pending
        while order and order[0] not in pending:
            order.popleft()
        return order[0] if order else self.next_offset

    # --- flow control --------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether more may be pulled."""
        if len(self.pending) >= self._max_count or self.bytes >= self._max_bytes:
            return False
        if self._max_span is None or not self.pending:
            return True
        return self._order[-1] - self.commit_offset() <= self._max_span

    @property
    def room_bytes(self) -> int:
        """Bytes that may still be pulled; at least 1."""
        return max(self._max_bytes - self.bytes, 1)

    def limit(self, max_count: int, max_bytes: int) -> None:
        """Sets other limits."""
        self._max_count = max_count
        self._max_bytes = max_bytes
        if self.has_room():
            self._wake_puller()

    async def wait_for_room(self) -> None:
        """Returns when more may be pulled, or the queue is dropped."""
        while not self.dropped and not self.has_room():
            self._room_waiter = asyncio.get_running_loop().create_future()
            try:
                await self._room_waiter
            finally:
                self._room_waiter = None

    def _wake_puller(self) -> None:
        if self._room_waiter and not self._room_waiter.done():
            self._room_waiter.set_result(None)

    # --- handling ------------------------------------------------------------------------------------------------

    def pull_again(self) -> None:
        """Ends the pull that is under way, if any: its subscription has been replaced."""
        if self.pulling and self.task:
            self.outdated = True
            self.task.cancel()

    def drop(self) -> None:
        """This consumer gives the queue up: no more pulls, and nothing more is handed to the handler."""
        self.dropped = True
        self.waiting.clear()
        if self.task:
            self.task.cancel()
        self._wake_puller()

    def handled(self) -> None:
        """An orderly consumer's handler is through with this queue for the moment."""
        self.running = False
        if self._idle_waiter and not self._idle_waiter.done():
            self._idle_waiter.set_result(None)

    async def wait_idle(self, timeout_s: float) -> bool:
        """Waits until no handler of an orderly consumer has a message of this queue; False after ``timeout_s``."""
        if not self.running:
            return True
        self._idle_waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle_waiter
        except TimeoutError:
            return False
        finally:
            self._idle_waiter = None
        return True
