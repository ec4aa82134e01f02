"""Committed consumer offsets: in memory, written behind in one function call per flush."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from ...errors import StoreError
from ..redis.connection import Arg, StoreConnection
from .session import GroupSession

logger = logging.getLogger(__name__)

GroupTopic = tuple[str, str]

_KEYS_AT_ONCE = 500
"""Keys of one EXISTS: less than 1 ms in which the server answers no other client."""
_KEYS_A_LOOK = 5000
"""Keys per call: ten round trips, far less than a lease."""
_LOGGED_KEYS = 8
"""A store that lost everything may have had thousands of keys: the log names this many."""


def _log_missing(keys: Sequence[bytes]) -> None:
    logger.error(
        "the store lost %d keys with committed offsets (evicted or deleted), they are written again: %s",
        len(keys),
        ", ".join(key.decode() for key in keys[:_LOGGED_KEYS]),
    )


class OffsetStore:
    """Offsets by (group, topic) and queue id; an offset is the next one to consume.

    A commit changes memory at once and Redis within ``flush_period_s`` seconds. A crash in between loses that much
    progress, never a message: it is delivered again.
    """

    def __init__(self, session: GroupSession, flush_period_s: float) -> None:
        self._session = session
        self._flush_period_s = flush_period_s
        self._offsets: dict[GroupTopic, dict[int, int]] = {}
        self._dirty: dict[GroupTopic, dict[int, int]] = {}
        self.resets: dict[GroupTopic, dict[int, int]] = {}
        """Offsets that were reset and that the group's members have not gone to yet; what they commit is ignored."""
        self._ended_resets: list[str] = []
        self._pulled: dict[GroupTopic, dict[int, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Future[None] | None = None
        self._looked_at = 0
        self._loop = asyncio.get_running_loop()

    async def load(self) -> None:
        """Reads all offsets of this group; what was committed here and is not written yet wins. Raises StoreError."""
        connection, role = self._session.current_read(), self._session.role
        members = [member.decode() for member in await connection.execute("SMEMBERS", self._session.keys.consumed)]
        pairs = [(group, topic) for group, _, topic in (member.partition(":") for member in members)]
        answers = await asyncio.gather(
            *(connection.execute("HGETALL", self._session.keys.offsets(group, topic)) for group, topic in pairs)
        )
        offsets: dict[GroupTopic, dict[int, int]] = {}
        for pair, answer in zip(pairs, answers, strict=True):
            offsets[pair] = {int(k): int(v) for k, v in zip(answer[::2], answer[1::2], strict=True)}
        resets = await self._read_resets(connection)
        if self._session.role != role:  # what a slave asked for is too old for a master
            return
        for pair, dirty in self._dirty.items():
            offsets.setdefault(pair, {}).update(dirty)
        self._offsets, self.resets = offsets, resets

    async def load_resets(self) -> None:
        """Reads the resets that members have not gone to yet, for a slave that serves pulls. Raises StoreError."""
        connection, role = self._session.current_read(), self._session.role
        resets = await self._read_resets(connection)
        if self._session.role == role:
            self.resets = resets

    async def _read_resets(self, connection: StoreConnection) -> dict[GroupTopic, dict[int, int]]:
        answer = await connection.execute("HGETALL", self._session.keys.offset_resets)
        resets: dict[GroupTopic, dict[int, int]] = {}
        for field, value in zip(answer[::2], answer[1::2], strict=True):
            if field.decode() not in self._ended_resets:
                group, topic, queue_id = field.decode().split(":")
                resets.setdefault((group, topic), {})[int(queue_id)] = int(value)
        return resets

    def get(self, group: str, topic: str, queue_id: int) -> int | None:
        """The committed offset, or None."""
        queues = self._offsets.get((group, topic))
        return None if queues is None else queues.get(queue_id)

    def note_pull(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """A member of the group requested messages from ``offset`` on."""
        queues = self._pulled.get((group, topic))
        if queues is None:
            queues = self._pulled[group, topic] = {}
        queues[queue_id] = offset

    def pulled(self, group: str, topic: str, queue_id: int) -> int:
        """The offset of the group's last pull from a queue; 0 for none since this process started."""
        return self._pulled.get((group, topic), {}).get(queue_id, 0)

    def has_pulled(self, group: str, topic: str, queue_id: int) -> bool:
        """Whether the group has pulled from a queue since this process started, or since a reset."""
        return queue_id in self._pulled.get((group, topic), ())

    def is_reset(self, group: str, topic: str, queue_id: int) -> bool:
        """Whether an offset was reset and the group's members have not gone to it yet."""
        return bool(self.resets) and queue_id in self.resets.get((group, topic), ())

    def commit(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Sets an offset. A negative one is a client's "I have none yet" and is ignored; so is one before a reset."""
        pair = (group, topic)
        if offset < 0 or self.is_reset(group, topic, queue_id):
            return
        self._set(pair, queue_id, offset)

    def _set(self, pair: GroupTopic, queue_id: int, offset: int) -> None:
        queues = self._offsets.get(pair)
        if queues is None:
            queues = self._offsets[pair] = {}
        elif queues.get(queue_id) == offset:
            return
        queues[queue_id] = offset
        self._dirty.setdefault(pair, {})[queue_id] = offset
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._flush_period_s, self._start_flush)

    async def reset(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Sets offsets (queue id -> offset) that hold against the group's members until these have gone to them.

        It is written when this returns, and survives a crash. Raises StoreError: then it may or may not be.
        """
        pair = (group, topic)
        names = self._session.keys
        keys = [names.consumed, names.offsets(group, topic), names.offset_resets]
        args: list[Arg] = [f"{group}:{topic}"]
        for queue_id, offset in offsets.items():
            args += (queue_id, offset)
        await self._session.call("reset_offsets", keys, args)
        # Members may have committed meanwhile, also to Redis: our offsets are written once more with the next flush.
        self.resets.setdefault(pair, {}).update(offsets)
        known = self._offsets.setdefault(pair, {})
        for queue_id, offset in offsets.items():
            field = f"{group}:{topic}:{queue_id}"
            if field in self._ended_resets:
                self._ended_resets.remove(field)
            known.pop(queue_id, None)
            self._pulled.get(pair, {}).pop(queue_id, None)
            self._set(pair, queue_id, offset)

    def end_reset(self, group: str, topic: str, queue_id: int) -> None:
        """The group's members have gone to a reset offset: what they commit counts again."""
        pair = (group, topic)
        queues = self.resets.get(pair)
        if queues is None or queues.pop(queue_id, None) is None:
            return
        if not queues:
            del self.resets[pair]
        self._ended_resets.append(f"{group}:{topic}:{queue_id}")
        self._flush_soon()

    def written(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Sets an offset that the caller's next call writes to the store: no older one may follow it."""
        pair = (group, topic)
        self._offsets.setdefault(pair, {})[queue_id] = offset
        dirty = self._dirty.get(pair)
        if dirty:
            dirty.pop(queue_id, None)
            if not dirty:
                del self._dirty[pair]

    def is_written(self, group: str, topic: str, queue_id: int) -> bool:
        """Whether the last commit is in the store, or on its way."""
        return queue_id not in self._dirty.get((group, topic), ())

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
        for queue_id in list(self.resets.get(pair, ())):
            self.end_reset(*pair, queue_id)
        self._dirty.pop(pair, None)
        self._pulled.pop(pair, None)
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
        """Writes what was committed. Raises StoreError; then it is kept and written in the next period."""
        dirty, self._dirty = self._dirty, {}
        if dirty:
            await self._write(dirty)
        if self._ended_resets:
            await self._write_ended_resets()

    def write_all_soon(self) -> None:
        """Writes every offset again: after a failover of the store, the new server may lack the last of them."""
        for pair, queues in self._offsets.items():
            self._dirty[pair] = queues | self._dirty.get(pair, {})
        self._flush_soon()

    async def write_all(self) -> None:
        """Writes every offset and every reset to a store that has lost them. Raises StoreError."""
        self.write_all_soon()
        for (group, topic), offsets in list(self.resets.items()):
            await self.reset(group, topic, dict(offsets))
        await self.flush()

    async def write_what_is_missing(self) -> None:
        """Writes the offsets whose keys have disappeared from the store (evicted, deleted). Raises StoreError.

        One call checks ``_KEYS_A_LOOK`` keys, the next one those behind them: the lease is renewed between calls.
        """
        connection, keys = self._session.current(), self._session.keys
        pairs = [pair for pair, queues in self._offsets.items() if queues and pair not in self._dirty]
        if pairs and not await connection.execute("EXISTS", keys.consumed):
            _log_missing([keys.consumed])
            self.write_all_soon()
            return
        first = self._looked_at if self._looked_at < len(pairs) else 0
        self._looked_at = first + _KEYS_A_LOOK
        pairs = pairs[first : self._looked_at]
        for start in range(0, len(pairs), _KEYS_AT_ONCE):
            some = pairs[start : start + _KEYS_AT_ONCE]
            if await connection.execute("EXISTS", *(keys.offsets(*pair) for pair in some)) < len(some):
                await self._write_missing(connection, some)

    async def _write_missing(self, connection: StoreConnection, pairs: list[GroupTopic]) -> None:
        keys = self._session.keys
        found = await asyncio.gather(*(connection.execute("EXISTS", keys.offsets(*pair)) for pair in pairs))
        missing = [
            pair for pair, is_there in zip(pairs, found, strict=True) if not is_there and self._offsets.get(pair)
        ]
        if missing:  # else they were removed with their topic or group meanwhile
            _log_missing([keys.offsets(*pair) for pair in missing])
            for pair in missing:
                self._dirty[pair] = self._offsets[pair] | self._dirty.get(pair, {})
            self._flush_soon()

    def ends(self) -> dict[tuple[str, int], int]:
        """By (topic, queue id), the largest offset that a group committed."""
        ends: dict[tuple[str, int], int] = {}
        for (_, topic), queues in self._offsets.items():
            for queue_id, offset in queues.items():
                ends[topic, queue_id] = max(offset, ends.get((topic, queue_id), 0))
        return ends

    async def _write_ended_resets(self) -> None:
        ended, self._ended_resets = self._ended_resets, []
        try:
            await self._session.call("end_resets", [self._session.keys.offset_resets], list(ended))
        except StoreError:
            self._ended_resets += ended
            self._flush_again()
            raise

    def _flush_again(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(max(self._flush_period_s, 0.5), self._start_flush)

    async def _write(self, dirty: dict[GroupTopic, dict[int, int]]) -> None:
        keys = [self._session.keys.consumed]
        args: list[Arg] = []
        for (group, topic), queues in dirty.items():
            keys.append(self._session.keys.offsets(group, topic))
            args += (f"{group}:{topic}", len(queues))
            for queue_id, offset in queues.items():
                args += (queue_id, offset)
        try:
            await self._session.call("commit_offsets", keys, args)
        except StoreError:
            for pair, queues in dirty.items():
                known = self._offsets.get(pair, {})
                newest = {queue_id: known[queue_id] for queue_id in queues if queue_id in known}
                if newest:
                    self._dirty[pair] = newest | self._dirty.get(pair, {})
            self._flush_again()
            raise

    def abandon(self) -> None:
        """Drops what is not written yet: another process is the master now and has the commits of its clients."""
        self._dirty.clear()
        self._ended_resets.clear()
        self._cancel_timer()

    async def close(self) -> None:
        """Writes what is left."""
        self._cancel_timer()
        if self._flushing:
            await self._flushing
        await self._flush_quietly()
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
