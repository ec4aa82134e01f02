"""POPs in order: a group holds at most one batch of a queue, until all of it is acknowledged or its time expires.

Source: RocketMQ 5.3 ``ConsumerOrderInfoManager``, ``PopMessageProcessor``, ``AckMessageProcessor.ackOrderly``,
``ChangeInvisibleTimeProcessor``. Apache's broker redelivers everything from the first
unacknowledged message on, with acknowledged and new messages; here only unacknowledged messages are redelivered, unless
``pop_order_redeliver_acknowledged`` selects Apache's way. In Apache's system only a proxy counts the tries; here a
message goes to the dead letters after the group's ``retryMaxTimes``, like other popped messages.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from ...errors import MessageIllegalError, ResponseError
from ...model import DLQ_PREFIX
from ...protocol.record import decode_records
from ...store.group.pop_order import NO_ATTEMPT, Batch, Given, Key, Step
from ...store.group.queue import Queue, deliver
from ..group.redelivery import again, failed_of_copy, log_dead_letter
from ..group.state import GroupState
from .hold import PopHold
from .steps import Look, begin, next_step, step_from_first
from .take import PopRequest, Room, Screen, Taken

logger = logging.getLogger(__name__)


def _now_ms() -> int:
    return int(time.time() * 1000)


class PopOrder:
    """Delivers batches, takes acknowledgements, and wakes the requests that wait for a queue when its batch ends."""

    def __init__(self, state: GroupState, hold: PopHold, hidden_until: Callable[[int], None]) -> None:
        """``hidden_until``: called when messages of a batch become hidden ones of unordered POPs."""
        self._config = state.config
        self._topics = state.topics
        self._auto_creation = state.auto_creation
        self._queue_store = state.queue_store
        self._store = state.batches
        self._hold = hold
        self._address = state.address
        self._hidden_until = hidden_until
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._running = False
        self.batches = state.batches.batches
        state.batches.on_batch = self._arm

    def start(self) -> None:
        """The broker became the master: starts the timers of all batches."""
        self._running = True
        for key, batch in list(self.batches.items()):
            if batch:
                self._arm(key, batch)

    async def close(self) -> None:
        self._running = False
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._store.forget()

    # --- expiry ------------------------------------------------------------------------------------------------------

    def _arm(self, key: Key, batch: Batch) -> None:
        """Sets the timer of a queue to the end of its batch, unless it is earlier; the timer checks again then."""
        if not self._running:
            return
        when = self._loop.time() + max(batch.until_ms - _now_ms(), 0) / 1000 + 0.001
        timer = self._timers.get(key)
        if timer:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timers[key] = self._loop.call_at(when, self._over, key)

    def _over(self, key: Key) -> None:
        del self._timers[key]
        batch = self.batches.get(key)
        if batch is None:
            return
        if batch.until_ms > _now_ms():
            self._arm(key, batch)
        else:
            self._hold.wake(*key)

    def _wake_if_free(self, key: Key) -> None:
        batch = self.batches.get(key)
        if batch is None or batch.until_ms <= _now_ms():
            self._hold.wake(*key)

    def ready(self, request: PopRequest, queue: Queue) -> bool:
        """Whether a POP should read a queue with a batch: the batch expired, is unknown or invalid after a reset, or
        the request that got it is repeated.
        """
        batch = self._store.holds((request.group, queue))
        return batch is None or batch.until_ms <= _now_ms() or _repeats(request, batch)

    def may_take(self, request: PopRequest, queue: Queue) -> bool:
        """Whether a request in order may get the batch of a settled queue."""
        return bool(self._store.holds((request.group, queue))) and self.ready(request, queue)

    async def settle(self, request: PopRequest, queues: Iterable[Queue]) -> None:
        """Prepares a group's queues for a POP: reads unknown batches and ends invalid ones.

        An unordered request also ends an expired batch: its messages are then redelivered through the group's retry
        topic, like hidden messages that expired.
        """
        keys = [(request.group, queue) for queue in queues if (request.group, queue) in self.batches]
        unknown = [key for key in keys if self.batches[key] is None]
        if unknown:
            await self._store.refresh(unknown)
        for key in keys:
            batch = self.batches.get(key)
            if batch is None:
                continue
            if self._store.holds(key) is None:
                await self._store.end(key)
            elif not request.order and batch.until_ms <= (now_ms := _now_ms()):
                await self._store.end(key, visible_ms=now_ms)
                self._hidden_until(now_ms)

    # --- delivery ----------------------------------------------------------------------------------------------------

    async def take(
        self, request: PopRequest, chosen: Sequence[tuple[Queue, int]], screen: Screen | None
    ) -> list[Taken]:
        """Takes messages from queues without a batch or with an expired one; ``chosen``: (queue, group's offset)."""
        batches = [self._store.holds((request.group, queue)) for queue, _ in chosen]
        set_before = {queue: self._store.offset_of((request.group, queue)) for queue, _ in chosen}
        lost = next((batch for batch in batches if batch and _repeats(request, batch)), None)
        if lost:  # the messages that this request got before, and nothing else
            kept = [
                (queue, batch)
                for (queue, _), batch in zip(chosen, batches, strict=True)
                if batch and batch.attempt == lost.attempt and batch.pop_ms == lost.pop_ms
            ]
            return await self._take_again(request, kept, set_before)
        pop_ms = max([_now_ms(), *(batch.pop_ms + 1 for batch in batches if batch)])
        looks = await asyncio.gather(
            *(
                self._look(request, queue, position, batch)
                for (queue, position), batch in zip(chosen, batches, strict=True)
            )
        )
        dead_letters = await self._dead_letters(request.group) if any(look.dead for look in looks) else None
        room = Room(request.max_nums, self._config.max_pull_bytes)
        steps: list[Step] = []
        found: list[dict[int, bytes]] = []
        for look in looks:
            if look.batch is None:
                step, wanted = begin(request, look, pop_ms, room, screen)
            else:
                dead = look.dead if dead_letters else frozenset()  # else they are redelivered once more
                step, wanted = self._go_on(request, look, look.batch, dead, pop_ms, room, screen)
            if step:
                steps.append(step)
                found.append(wanted)
        if not steps:
            return []
        return await self._give(request, steps, found, dead_letters, set_before)

    async def _look(self, request: PopRequest, queue: Queue, position: int, batch: Batch | None) -> Look:
        if batch is None:
            offsets, records = await self._queue_store.read_records(queue, position, request.scan_nums(queue))
            return Look(queue, position, None, offsets, records, frozenset())
        if self._config.pop_order_redeliver_acknowledged:
            offsets, records = await self._queue_store.read_records(queue, position, request.scan_nums(queue))
        else:
            offsets, records = await self._read(queue, batch.messages[: request.max_nums])
        dead = self._dead(request.group, batch.messages[: request.max_nums]).intersection(offsets)
        return Look(queue, position, batch, offsets, records, frozenset(dead))

    def _go_on(
        self,
        request: PopRequest,
        look: Look,
        batch: Batch,
        dead: frozenset[int],
        pop_ms: int,
        room: Room,
        screen: Screen | None,
    ) -> tuple[Step | None, dict[int, bytes]]:
        """The step of a queue whose batch expired; None if other queues have filled the answer."""
        queue, offsets = look.queue, look.offsets
        alive = [(o, r) for o, r in zip(offsets, look.records, strict=True) if o not in dead]
        wanted, looked_at = room.choose(request, queue, [o for o, _ in alive], [r for _, r in alive], screen)
        left = [offset for offset, _ in alive[looked_at:]]
        letters = [
            self._letter(request.group, queue, offset, record, batch)
            for offset, record in zip(offsets, look.records, strict=True)
            if offset in dead
        ]
        if self._config.pop_order_redeliver_acknowledged:
            end = left[0] if left else offsets[-1] + 1 if offsets else max(queue.min_offset, look.position)
            step = step_from_first(request, queue, batch, pop_ms, wanted, end, letters)
        else:
            step = next_step(request, queue, batch, pop_ms, wanted, set(left), letters)
        return (step if step.given or step.ended else None), wanted

    async def _read(self, queue: Queue, messages: Sequence[Given]) -> tuple[list[int], list[bytes]]:
        """Offsets and records of the messages that still exist."""
        found = await asyncio.gather(*(self._queue_store.read_records(queue, m.queue_offset, 1) for m in messages))
        there = [
            (m.queue_offset, records[0])
            for m, (at, records) in zip(messages, found, strict=True)
            if at and at[0] == m.queue_offset
        ]
        return [offset for offset, _ in there], [record for _, record in there]

    def _dead(self, group: str, messages: Sequence[Given]) -> set[int]:
        """Offsets of messages that were delivered as often as the group allows."""
        config = self._topics.group(group)
        return {m.queue_offset for m in messages if config and m.times > config.retry_max_times}

    async def _dead_letters(self, group: str) -> Queue | None:
        try:
            return (await self._auto_creation.ensure_dead_letter_topic(group)).queues[0]
        except ResponseError as error:  # it does not allow writing, for example
            logger.error("group %s: messages cannot go to the dead letters now: %s", group, error)
            return None

    def _letter(self, group: str, queue: Queue, offset: int, record: bytes, batch: Batch) -> bytes:
        """The record of a dead letter; its reconsumeTimes is the number of retries."""
        times = next(message.times for message in batch.messages if message.queue_offset == offset)
        message = decode_records(bytes(deliver(queue, [record], [offset])), decompress=False)[0]
        topic = f"{DLQ_PREFIX}{group}"
        tried = message.rewritten(reconsume_times=times - 1)
        try:
            return again(tried, topic, 0, self._address, dead=True)
        except ResponseError:
            return again(tried, topic, 0, self._address, bare=True)

    async def _take_again(
        self, request: PopRequest, kept: Sequence[tuple[Queue, Batch]], set_before: Mapping[Queue, int | None]
    ) -> list[Taken]:
        """Repeats a delivery whose answer was lost. The invisible time starts again; this does not count as a try.

        If the request wants fewer messages this time, the rest is kept for the next POP.
        """
        visible_ms = _now_ms() + request.invisible_ms
        steps: list[Step] = []
        found: list[dict[int, bytes]] = []
        room = request.max_nums
        for queue, batch in kept:
            out = [message for message in batch.messages if message.visible_ms][:room]
            if not out:
                break
            room -= len(out)
            asked = {message.queue_offset for message in out}
            offsets, records = await self._read(queue, out)
            there = dict(zip(offsets, records, strict=True))
            ended = sorted(asked - there.keys())
            messages = tuple(
                Given(m.queue_offset, visible_ms if m.queue_offset in there else 0, m.times)
                for m in batch.messages
                if m.queue_offset not in ended
            )
            new = Batch(batch.next_offset, batch.pop_ms, batch.attempt, messages) if messages else None
            first = batch.next_offset if new is None else new.first_offset
            steps.append(Step(queue, batch, new, first, batch.next_offset, offsets, ended))
            found.append(there)
        return await self._give(request, steps, found, None, set_before) if steps else []

    async def _give(
        self,
        request: PopRequest,
        steps: list[Step],
        found: list[dict[int, bytes]],
        dead_letters: Queue | None,
        set_before: Mapping[Queue, int | None],
    ) -> list[Taken]:
        """Executes the steps, except those of queues whose offset was reset since they were read."""
        group = request.group
        holding = [self._store.offset_of((group, step.queue)) == set_before[step.queue] for step in steps]
        steps = [step for step, holds in zip(steps, holding, strict=True) if holds]
        found = [wanted for wanted, holds in zip(found, holding, strict=True) if holds]
        if not steps:
            return []
        done = await self._store.pop(group, steps, dead_letters)
        for record in (record for step, ok in zip(steps, done, strict=True) if ok for record in step.dead):
            log_dead_letter(failed_of_copy(group, record))
        return [
            Taken(step.queue, list(wanted), list(wanted.values()), step.batch)
            for step, wanted, ok in zip(steps, found, done, strict=True)
            if ok and wanted
        ]

    # --- acknowledging ---------------------------------------------------------------------------------------------

    async def ack(self, group: str, queue: Queue, pop_ms: int, offsets: Sequence[int]) -> None:
        """Acknowledges messages. Changes nothing if repeated, or if the batch was redelivered meanwhile.

        Raises:
            MessageIllegalError: an offset behind the batch.
        """
        key = (group, queue)
        batch = self.batches.get(key)
        if batch and batch.pop_ms == pop_ms and max(offsets) >= batch.next_offset:
            raise MessageIllegalError(
                f"offset {max(offsets)} of {queue.mq}: group {group!r} has got those before {batch.next_offset}"
            )
        try:
            await self._store.ack(key, pop_ms, offsets)
        finally:
            self._wake_if_free(key)

    async def change(self, group: str, queue: Queue, pop_ms: int, offset: int, visible_ms: int) -> bool:
        """Changes until when a message is hidden; False if it was not delivered at ``pop_ms`` or is acknowledged."""
        key = (group, queue)
        try:
            return await self._store.change(key, pop_ms, offset, visible_ms)
        finally:
            self._wake_if_free(key)


def _repeats(request: PopRequest, batch: Batch) -> bool:
    return request.attempt != NO_ATTEMPT and batch.attempt == request.attempt and batch.until_ms > _now_ms()
