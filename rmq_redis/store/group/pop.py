"""Messages that POP handed out: pending in a Redis consumer group, and hidden until a time in a sorted set.

The consumer group of a stream has the name of the RocketMQ group, so ``XINFO GROUPS`` and ``XPENDING`` show an operator
what is out. Redis knows how long ago an entry was delivered and not until when it is hidden, so that time is the score
of a member ``<group>:<topic>:<queueId>:<n>`` for entry ``0-n``. The two change together, in one function call, and so
does the offset of the group: a crash neither loses a message nor hands an acknowledged one out again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...errors import StoreError
from ..redis.connection import Arg, settle
from .queue import Queue
from .queues import QueueStore
from .turn import TurnBatch


@dataclass(frozen=True, slots=True)
class Share:
    """What one POP takes from one queue: ``offsets`` become hidden, and the group goes on at ``next_offset``."""

    queue: Queue
    offsets: Sequence[int]
    next_offset: int


@dataclass(frozen=True, slots=True)
class Hidden:
    """One message that a group received and that is hidden from it until ``visible_ms`` (ms since 1970)."""

    group: str
    topic: str
    queue_id: int
    queue_offset: int
    visible_ms: int

    @property
    def member(self) -> str:
        return f"{self.group}:{self.topic}:{self.queue_id}:{self.queue_offset + 1}"

    @classmethod
    def of(cls, member: bytes, score: bytes) -> Hidden:
        group, topic, queue_id, sequence = member.decode().split(":")
        return cls(group, topic, int(queue_id), int(sequence) - 1, int(float(score)))


@dataclass(frozen=True, slots=True)
class Revival:
    """What becomes of an expired hidden message: a record in another queue, or nothing (``target`` None).

    Attributes:
        source: the queue it was read from; None if that was deleted.
    """

    hidden: Hidden
    source: Queue | None
    target: Queue | None
    record: bytes


class _Ack(NamedTuple):
    """An acknowledgement that waits for the end of the turn."""

    hidden: Hidden
    queue: Queue
    future: asyncio.Future[bool]


class PopStore:
    """Hidden messages of one broker group.

    Everything raises StoreError when the store is unavailable or this master is fenced off.
    """

    def __init__(self, queue_store: QueueStore) -> None:
        self._store = queue_store
        self._keys = queue_store.keys
        self._loop = asyncio.get_running_loop()
        self._acks = TurnBatch(queue_store, "pop_ack", self._encode_acks, self._answer_ack)

    async def pop(self, group: str, shares: Sequence[Share], visible_ms: int) -> list[list[int]]:
        """Hides messages from a group and moves its offsets on; returns for each share the offsets that are there."""
        keys = [self._keys.popped, self._keys.consumed]
        args: list[Arg] = [group, visible_ms]
        for share in shares:
            queue = share.queue
            keys += (share.queue.key, self._keys.offsets(group, queue.topic))
            args += (f"{group}:{queue.topic}", queue.queue_id, share.next_offset, len(share.offsets))
            args += (offset + 1 for offset in share.offsets)
        answer = await self._store.call("pop", keys, args)
        return [[int(entry[2:]) - 1 for entry in claimed] for claimed in answer]

    def ack(self, hidden: Hidden, queue: Queue) -> asyncio.Future[bool]:
        """Ends a message, together with all others of this turn of the event loop; False if it is no longer hidden."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._acks.add(_Ack(hidden, queue, future))
        return future

    def _encode_acks(self, acks: list[_Ack]) -> tuple[list[bytes], list[Arg]]:
        keys = [self._keys.popped]
        numbers: dict[Queue, int] = {}
        args: list[Arg] = []
        for hidden, queue, _ in acks:
            if queue not in numbers:
                keys.append(queue.key)
                numbers[queue] = len(keys) + 1
            args += (numbers[queue], hidden.group, hidden.queue_offset + 1, hidden.member, hidden.visible_ms)
        return keys, args

    @staticmethod
    def _answer_ack(ack: _Ack, answer: Any, error: StoreError | None) -> None:
        settle(ack.future, bool(answer), error)

    async def change(self, hidden: Hidden, visible_ms: int) -> bool:
        """Hides a message until another time; False if it is no longer hidden until ``hidden.visible_ms``."""
        args: list[Arg] = [hidden.member, hidden.visible_ms, visible_ms]
        return bool(await self._store.call("pop_change", [self._keys.popped], args))

    async def next_visible_ms(self) -> int | None:
        """When the next message is visible again, or None when none is hidden."""
        answer = await self._store.current().execute("ZRANGE", self._keys.popped, 0, 0, "WITHSCORES")
        return int(float(answer[1])) if answer else None

    async def due(self, now_ms: int, limit: int) -> list[Hidden]:
        """Hidden messages that expired by ``now_ms``, earliest first, at most ``limit``."""
        answer = await self._store.current().execute(
            "ZRANGEBYSCORE", self._keys.popped, "-inf", now_ms, "WITHSCORES", "LIMIT", 0, limit
        )
        return [Hidden.of(member, score) for member, score in zip(answer[::2], answer[1::2], strict=True)]

    async def revive(self, revivals: Sequence[Revival]) -> list[Revival]:
        """Ends hidden messages and adds what becomes of them; returns those that got an entry of their own."""
        keys = [self._keys.popped]
        numbers: dict[Queue | None, int] = {None: 0}
        args: list[Arg] = []
        for revival in revivals:
            for queue in (revival.source, revival.target):
                if queue and queue not in numbers:
                    keys.append(queue.key)
                    numbers[queue] = len(keys) + 1
            hidden = revival.hidden
            args += (numbers[revival.source], hidden.group, hidden.queue_offset + 1, hidden.member, hidden.visible_ms)
            args += (numbers[revival.target], revival.record, revival.target.known_end if revival.target else 0)
        answer = await self._store.call("pop_revive", keys, args)
        arrived: dict[Queue, tuple[int, list[bytes]]] = {}
        added: list[Revival] = []
        for revival, entry in zip(revivals, answer, strict=True):
            if entry and revival.target:
                added.append(revival)
                arrived.setdefault(revival.target, (int(entry[2:]) - 1, []))[1].append(revival.record)
        for queue, (first, records) in arrived.items():
            self._store.arrived(queue, first, records)
        return added
