"""What ordered POPs have delivered: at most one batch of a queue and group, as one field of a hash.

The field ``<group>:<topic>:<queueId>`` exists until all of the batch is acknowledged. Its value is one text, so
that one function call changes it together with the group's offset and its pending entries:

    <next offset> <pop time> <attempt>;<offset> <visible again at> <deliveries>;...

The offset of the group is the first one in the text. If the group has another offset, it was reset, and the batch is
void. Times in ms since 1970.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import StoreError
from ..redis.connection import Arg, settle
from .offsets import OffsetStore
from .queue import Queue
from .queues import QueueStore

NO_ATTEMPT = "-"

Key = tuple[str, Queue]
"""(group, queue)"""


def attempt_of(attempt_id: str | None) -> str:
    """A client's attemptId as a short hash, so that it may contain any character."""
    return hashlib.blake2b(attempt_id.encode(), digest_size=8).hexdigest() if attempt_id else NO_ATTEMPT


@dataclass(frozen=True, slots=True)
class Given:
    """One message that is not acknowledged.

    Attributes:
        visible_ms: a client holds it until then; 0: none does, and it is kept for the next POP.
        times: number of deliveries.
    """

    queue_offset: int
    visible_ms: int
    times: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What a group received of a queue in order and has not acknowledged.

    Attributes:
        next_offset: where the group goes on after the batch.
        pop_ms: when it was delivered; with the queue it identifies a batch, and handles carry it.
        attempt: of the request that got it.
        messages: at least one, ascending.
    """

    next_offset: int
    pop_ms: int
    attempt: str
    messages: tuple[Given, ...]

    @property
    def first_offset(self) -> int:
        return self.messages[0].queue_offset

    @property
    def until_ms(self) -> int:
        """When the last of its messages is visible again."""
        return max(message.visible_ms for message in self.messages)

    def text(self) -> str:
        head = f"{self.next_offset} {self.pop_ms} {self.attempt}"
        return ";".join((head, *(f"{m.queue_offset} {m.visible_ms} {m.times}" for m in self.messages)))

    @classmethod
    def of(cls, data: bytes) -> Batch:
        head, *rest = data.decode().split(";")
        next_offset, pop_ms, attempt = head.split(" ")
        messages = (Given(*map(int, message.split(" "))) for message in rest)
        return cls(int(next_offset), int(pop_ms), attempt, tuple(messages))


@dataclass(frozen=True, slots=True)
class Step:
    """What a POP makes of one queue.

    Attributes:
        before: the batch when the step was planned; the step is not done if it changed since.
        batch: the batch afterwards; None: none.
        offset: the group's offset afterwards.
        next_offset: end of the delivered messages, for the Redis consumer group.
        given, ended: offsets that become pending there, and that stop being pending.
        dead: records for the dead letter topic, of messages in ``ended``.
    """

    queue: Queue
    before: Batch | None
    batch: Batch | None
    offset: int
    next_offset: int
    given: Sequence[int] = ()
    ended: Sequence[int] = ()
    dead: Sequence[bytes] = ()


class PopOrderStore:
    """Batches of one broker group: in memory, and in Redis, where every change is made first.

    Everything raises StoreError when the store is unavailable or this master is fenced off. The change may have
    happened or not, and the state in Redis is read before the next look at the queue.
    """

    def __init__(self, queue_store: QueueStore, offsets: OffsetStore) -> None:
        self._store = queue_store
        self._keys = queue_store.keys
        self._offsets = offsets
        self._loop = asyncio.get_running_loop()
        self._batches: dict[Key, Batch | None] = {}
        self.on_batch: Callable[[Key, Batch], None] = lambda key, batch: None
        """Called with each batch that is new or changed."""

    @property
    def batches(self) -> Mapping[Key, Batch | None]:
        """What is delivered and not acknowledged; None: unknown until ``refresh``."""
        return self._batches

    def holds(self, key: Key) -> Batch | None:
        """The batch of a queue, if it still holds: None when there is none, or another offset was set."""
        batch = self._batches.get(key)
        if batch and self.offset_of(key) != batch.first_offset:
            return None
        return batch

    def offset_of(self, key: Key) -> int | None:
        """The offset that the group has in a queue, as this broker knows it."""
        queue = key[1]
        return self._offsets.get(key[0], queue.topic, queue.queue_id)

    @staticmethod
    def _field(key: Key) -> str:
        queue = key[1]
        return f"{key[0]}:{queue.topic}:{queue.queue_id}"

    def _put_batch(self, key: Key, batch: Batch | None) -> None:
        if batch:
            self._batches[key] = batch
            self.on_batch(key, batch)
        else:
            self._batches.pop(key, None)

    def _learn(self, key: Key, text: bytes, offset: bytes | None) -> None:
        """Redis has this batch of a queue and this offset of the group, unless a newer one is not written yet."""
        self._put_batch(key, Batch.of(text) if text else None)
        queue = key[1]
        if offset and self._offsets.is_written(key[0], queue.topic, queue.queue_id):
            self._offsets.written(key[0], queue.topic, queue.queue_id, int(offset))

    async def load(self) -> None:
        """Reads all batches."""
        answer = await self._store.current().execute("HGETALL", self._keys.ordered)
        self._batches.clear()
        for field, text in zip(answer[::2], answer[1::2], strict=True):
            group, topic, queue_id = field.decode().split(":")
            queue = self._store.queues.get((topic, int(queue_id)))
            if queue:
                self._batches[group, queue] = Batch.of(text)

    def forget(self) -> None:
        """Drops everything: another process is the master now and has the batches."""
        self._batches.clear()

    def forget_queue(self, queue: Queue) -> None:
        """The queue was deleted, in Redis too."""
        for key in [key for key in self._batches if key[1] is queue]:
            del self._batches[key]

    async def refresh(self, keys: Sequence[Key]) -> None:
        """Reads the unknown batches of some queues."""
        connection = self._store.current()
        answers = await asyncio.gather(
            *(connection.execute("HGET", self._keys.ordered, self._field(key)) for key in keys),
            *(
                connection.execute("HGET", self._keys.offsets(group, queue.topic), queue.queue_id)
                for group, queue in keys
            ),
        )
        for key, text, offset in zip(keys, answers[: len(keys)], answers[len(keys) :], strict=True):
            if self._batches.get(key) is None:
                self._learn(key, text or b"", offset)

    async def _call(self, name: str, keys: list[bytes], args: list[Arg], changed: Sequence[Key]) -> Any:
        self._store.current()  # if the store is unreachable, nothing changes
        try:
            return await self._store.call(name, [self._keys.ordered, *keys], args)
        except BaseException:
            self._batches.update(dict.fromkeys(changed))
            raise

    async def pop(self, group: str, steps: Sequence[Step], dead_letters: Queue | None) -> list[bool]:
        """Delivers messages and ends others. Returns False for each queue whose batch in Redis is not the expected one.

        Args:
            dead_letters: where the records in ``dead`` go.
        """
        keys, args = self._encode(group, steps, dead_letters)
        changed = [(group, step.queue) for step in steps]
        set_before = [self._set_here(key) for key in changed]
        for step in steps:
            self._offsets.written(group, step.queue.topic, step.queue.queue_id, step.offset)
            self._offsets.end_reset(group, step.queue.topic, step.queue.queue_id)
        try:
            answer = await self._call("pop_order", keys, args, changed)
        except BaseException:
            for key, step, offset in zip(changed, steps, set_before, strict=True):
                self._put_back(key, step, offset)
            raise
        for key, step, offset, (done, *rest) in zip(changed, steps, set_before, answer, strict=True):
            if done:
                self._put_batch(key, step.batch)
                if rest and dead_letters:
                    self._store.arrived(dead_letters, int(rest[0][2:]) - len(step.dead), list(step.dead))
            else:
                self._put_back(key, step, offset)
                self._learn(key, *rest)
        return [bool(done) for done, *_ in answer]

    def _encode(self, group: str, steps: Sequence[Step], dead_letters: Queue | None) -> tuple[list[bytes], list[Arg]]:
        """Keys and arguments of ``pop_order``."""
        keys = [self._keys.consumed]
        args: list[Arg] = [group, len(steps), dead_letters.known_end if dead_letters else 0]
        for step in steps:
            queue = step.queue
            keys += (queue.key, self._keys.offsets(group, queue.topic))
            args += (f"{group}:{queue.topic}", queue.queue_id, step.before.text() if step.before else "")
            args += (step.batch.text() if step.batch else "", step.offset, step.next_offset)
            for offsets in (step.given, step.ended):
                args.append(len(offsets))
                args += (offset + 1 for offset in offsets)
            args += (len(step.dead), *step.dead)
        if dead_letters:
            keys.append(dead_letters.key)
        return keys, args

    def _set_here(self, key: Key) -> int | None:
        """The group's offset if it is not written yet."""
        queue = key[1]
        written = self._offsets.is_written(key[0], queue.topic, queue.queue_id)
        return None if written else self.offset_of(key)

    def _put_back(self, key: Key, step: Step, offset: int | None) -> None:
        """Has an offset that was not written yet written again, unless another was set meanwhile."""
        if offset is not None and self.offset_of(key) == step.offset:
            self._offsets.commit(key[0], key[1].topic, key[1].queue_id, offset)

    async def end(self, key: Key, *, visible_ms: int | None = None) -> None:
        """Ends a batch.

        Args:
            visible_ms: when its messages are redelivered through the group's retry topic; the group continues behind
                the batch. None: they are dropped, because another offset was set.
        """
        batch = self._batches.get(key)
        if batch is None:
            return
        group, queue = key
        keys = [self._keys.popped, queue.key, self._keys.offsets(group, queue.topic)]
        args: list[Arg] = [self._field(key), batch.text(), group, queue.queue_id]
        args += ("", "") if visible_ms is None else (batch.next_offset, visible_ms)
        args += (message.queue_offset + 1 for message in batch.messages)
        text, offset = await self._call("end_order", keys, args, [key])
        self._learn(key, text, None if not text and visible_ms is None else offset)

    async def ack(self, key: Key, pop_ms: int, offsets: Sequence[int]) -> None:
        """Ends messages of a batch, if that is the one delivered at ``pop_ms``."""
        group, queue = key
        keys = [self._keys.ordered, queue.key, self._keys.offsets(group, queue.topic)]
        args: list[Arg] = [self._field(key), group, queue.queue_id, pop_ms, *offsets]
        self._store.current()  # if the store is unreachable, nothing changes
        future: asyncio.Future[None] = self._loop.create_future()

        def answered(answer: Any, late: StoreError | None = None) -> None:
            error = answer if isinstance(answer, StoreError) else None
            if error:
                self._batches[key] = None
            else:
                text, offset = answer
                if offset and self.holds(key):  # were the same one to be written again, it is too old now
                    self._offsets.written(group, queue.topic, queue.queue_id, int(offset))
                self._learn(key, text, offset)
            settle(future, None, error or late)

        self._store.send(answered, "ack_order", keys, args)
        await future

    async def change(self, key: Key, pop_ms: int, queue_offset: int, visible_ms: int) -> bool:
        """Hides a message until another time; False if it was not delivered at ``pop_ms``, or is acknowledged."""
        text, done = await self._call("change_order", [], [self._field(key), pop_ms, queue_offset, visible_ms], [key])
        self._learn(key, text, None)
        return bool(done)
