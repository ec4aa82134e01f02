"""Committed consumer offsets: in memory, written behind in one function call per flush."""

from __future__ import annotations

import asyncio
import logging

from ..errors import StoreError
from .connection import Arg
from .queue_store import QueueStore

logger = logging.getLogger(__name__)

GroupTopic = tuple[str, str]


class OffsetStore:
    """Offsets by (group, topic) and queue id; an offset is the next one to consume.

    A commit changes memory at once and Redis within ``flush_period_s`` seconds. A crash in between loses that much
    progress, never a message: it is delivered again.
    """

    def __init__(self, queue_store: QueueStore, flush_period_s: float) -> None:
        self._store = queue_store
        self._flush_period_s = flush_period_s
        self._offsets: dict[GroupTopic, dict[int, int]] = {}
        self._dirty: dict[GroupTopic, dict[int, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def load(self) -> None:
        """Reads all offsets of this group; what was committed here and is not written yet wins. Raises StoreError."""
        connection = self._store.current_read()
        members = [member.decode() for member in await connection.execute("SMEMBERS", self._store.keys.consumed)]
        pairs = [(group, topic) for group, _, topic in (member.partition(":") for member in members)]
        answers = await asyncio.gather(
            *(connection.execute("HGETALL", self._store.keys.offsets(group, topic)) for group, topic in pairs)
        )
        offsets: dict[GroupTopic, dict[int, int]] = {}
        for pair, answer in zip(pairs, answers, strict=True):
            offsets[pair] = {int(k): int(v) for k, v in zip(answer[::2], answer[1::2], strict=True)}
        for pair, dirty in self._dirty.items():
            offsets.setdefault(pair, {}).update(dirty)
        self._offsets = offsets

    def get(self, group: str, topic: str, queue_id: int) -> int | None:
        """The committed offset, or None."""
        queues = self._offsets.get((group, topic))
        return None if queues is None else queues.get(queue_id)

    def commit(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Sets an offset. A negative one is a client's "I have none yet" and is ignored."""
        if offset < 0:
            return
        pair = (group, topic)
        queues = self._offsets.get(pair)
        if queues is None:
            queues = self._offsets[pair] = {}
        elif queues.get(queue_id) == offset:
            return
        queues[queue_id] = offset
        self._dirty.setdefault(pair, {})[queue_id] = offset
        if self._timer is None:
            self._timer = self._loop.call_later(self._flush_period_s, self._start_flush)

    def topics_of(self, group: str) -> list[str]:
        """Topics in which a group has offsets."""
        return [topic for name, topic in self._offsets if name == group]

    def groups_of(self, topic: str) -> list[str]:
        """Groups that have offsets in a topic."""
        return [group for group, name in self._offsets if name == topic]

    def table(self) -> dict[GroupTopic, dict[int, int]]:
        """All offsets."""
        return self._offsets

    def forget(self, pair: GroupTopic) -> dict[int, int]:
        """Drops the offsets of a (group, topic) from memory and returns them."""
        self._dirty.pop(pair, None)
        return self._offsets.pop(pair, {})

    def _start_flush(self) -> None:
        self._timer = None
        self._flushing = self._loop.create_task(self._flush_quietly())

    async def _flush_quietly(self) -> None:
        try:
            await self.flush()
        except StoreError as error:
            logger.debug("committed offsets are not written yet: %s", error)

    async def flush(self) -> None:
        """Writes what was committed. Raises StoreError; it is then kept and tried again with the next period."""
        dirty, self._dirty = self._dirty, {}
        if not dirty:
            return
        keys = [self._store.keys.epoch, self._store.keys.consumed]
        args: list[Arg] = [b"%d" % self._store.epoch]
        for (group, topic), queues in dirty.items():
            keys.append(self._store.keys.offsets(group, topic))
            args += (f"{group}:{topic}", len(queues))
            for queue_id, offset in queues.items():
                args += (queue_id, offset)
        try:
            await self._store.current().execute_function("commit_offsets", keys, args)
        except StoreError as error:
            for pair, queues in dirty.items():
                if pair in self._offsets:
                    self._dirty[pair] = queues | self._dirty.get(pair, {})
            if self._timer is None:
                self._timer = self._loop.call_later(max(self._flush_period_s, 0.5), self._start_flush)
            self._store.report(error)
            raise

    def abandon(self) -> None:
        """Forgets what is not written yet: another process is the master now and has what its clients committed."""
        self._dirty.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def close(self) -> None:
        """Writes what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flushing is not None:
            await self._flushing
        await self._flush_quietly()
        if self._timer is not None:
            self._timer.cancel()
