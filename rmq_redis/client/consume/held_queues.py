"""The queues that a push consumer has now: taken and released, their offsets committed, their locks renewed.

Source: RebalancePushImpl, ConsumeMessageOrderlyService.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from ...background import Every
from ...errors import RemotingError, ResponseError, RmqError
from ...model import MessageQueue
from .assembly import PushParts
from .process_queue import ProcessQueue
from .rebalance import LOCK_LIVE_S, LOCK_RENEW_INTERVAL_S

logger = logging.getLogger(__name__)

_RELEASE_TIMEOUT_S = 30.0
"""How long a released queue waits for its handler, until that is logged."""
_MOVES_APART_S = 10.0
"""A queue whose offset moves twice within this time is probably moved by every pull."""
_MOVED_AGAIN_PAUSE_S = 1.0
"""So that such a queue costs its broker little."""


class HeldQueues:
    """The queues of one push consumer.

    Args:
        rebalance: has the queues assigned again soon.
    """

    def __init__(self, parts: PushParts, rebalance: Callable[[], None]) -> None:
        self._instance = instance = parts.instance
        self._group = group = parts.settings.group
        self._settings = parts.settings
        self._subscriptions: Collection[str] = parts.subscriptions
        self._offsets = parts.offsets
        self._thresholds = parts.settings.thresholds()
        self._locks = parts.locks
        self._service = parts.service
        self._puller = parts.puller
        self._rebalance = rebalance
        self._queues: dict[MessageQueue, ProcessQueue] = {}
        self._releasing: dict[MessageQueue, asyncio.Task[None]] = {}
        self._finishing: set[ProcessQueue] = set()
        self._moved_at: dict[MessageQueue, float] = {}
        interval_s = instance.config.persist_consumer_offset_interval_s
        self._commits = Every(interval_s, self._commit_oneway, f"group {group}: committing offsets")
        self._renewals = Every(LOCK_RENEW_INTERVAL_S, self._renew_locks, f"group {group}: renewing locks")
        self._committing = asyncio.Lock()
        self._is_open = True

    @property
    def all(self) -> list[ProcessQueue]:
        """What was pulled and is not finished yet, of each queue."""
        return list(self._queues.values())

    @property
    def assignment(self) -> list[MessageQueue]:
        """The queues, sorted."""
        return sorted(self._queues)

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to commit offsets and to renew locks."""
        self._commits.start()
        if self._settings.holds_locks:
            self._renewals.start()

    def stop_pulling(self) -> None:
        """The first step of the end: nothing is pulled any more, and no queue is taken."""
        self._is_open = False
        for process_queue in self._queues.values():
            if process_queue.task:
                process_queue.task.cancel()

    async def close(self, *, all_ended: bool) -> None:
        """Commits, and gives all queues up.

        Args:
            all_ended: whether no handler runs any more. If one does, the locks are left to expire.
        """
        if self._releasing:
            await asyncio.wait(list(self._releasing.values()), timeout=_RELEASE_TIMEOUT_S)
        await self._renewals.close()  # not before: no other member may have a queue whose handler still runs
        held = self.all
        self._queues.clear()
        await self._commits.close()
        await self._commit_all(held)
        await self._offsets.close()
        for process_queue in held:
            process_queue.drop()
        if all_ended:
            await self._locks.unlock(list(self._locks.asked))

    # --- queues come and go --------------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """Subscribed topics, and those that are not any more but of which queues are held."""
        topics = set(self._subscriptions)
        for queue in list(self._queues):
            if queue.topic not in topics:
                self._release(queue)
        return sorted(topics)

    async def assign(self, topic: str, queues: list[MessageQueue]) -> bool:
        """Has exactly these queues of a topic from now on; returns False if some could not be taken yet."""
        mine = set(queues)
        given_up = [self._release(queue) for queue in list(self._queues) if queue.topic == topic and queue not in mine]
        if given_up:
            logger.info("group %s: gives up %d queues of topic %s", self._group, len(given_up), topic)
            await asyncio.wait(given_up, timeout=self._instance.config.request_timeout_s)
        new = sorted(queue for queue in mine if queue not in self._queues)
        settled = True
        startable = [queue for queue in new if queue not in self._releasing]
        settled &= len(startable) == len(new)
        locked_until = 0.0
        if startable and self._settings.holds_locks:
            locked_until = asyncio.get_running_loop().time() + LOCK_LIVE_S
            locked = await self._locks.lock(startable)
            settled &= len(locked) == len(startable)
            startable = [queue for queue in startable if queue in locked]
        started = await asyncio.gather(*(self._start_queue(queue, locked_until) for queue in startable))
        await self._locks.unlock([queue for queue in startable if queue not in self._queues])
        if any(started):
            await self._offsets.persist()
            logger.info("group %s: takes %d queues of topic %s", self._group, sum(started), topic)
        return settled and all(started)

    async def _start_queue(self, queue: MessageQueue, locked_until: float) -> bool:
        try:
            offset, committed = await self._offsets.start_offset(queue)
        except RmqError as error:
            logger.warning("group %s: %s not started, its offset is unknown: %s", self._group, queue, error)
            return False
        if not self._is_open or queue.topic not in self._subscriptions:
            return True
        if self._offsets.is_local and committed is None:  # where we began, if nothing comes before a crash
            await self._offsets.set(queue, offset)
        self._begin(self._thresholds.process_queue(queue, offset, committed), locked_until)
        return True

    def _begin(self, process_queue: ProcessQueue, locked_until: float) -> None:
        process_queue.locked_until = locked_until
        self._queues[process_queue.queue] = process_queue
        self._thresholds.share(process_queue.queue.topic, self._queues.values())
        process_queue.task = self._instance.spawn(self._puller.run(process_queue, self._offset_moved))

    def _release(self, queue: MessageQueue, *, commit: bool = True) -> asyncio.Task[None]:
        """Gives a queue up: nothing more is handed out, the offset is committed, the lock given back."""
        process_queue = self._queues.pop(queue)
        process_queue.drop()
        self._thresholds.share(queue.topic, self._queues.values())
        task = self._instance.spawn(self._finish_release(process_queue, commit))
        self._releasing[queue] = task
        task.add_done_callback(lambda _: self._releasing.pop(queue, None))
        return task

    async def _finish_release(self, process_queue: ProcessQueue, commit: bool) -> None:
        if self._settings.orderly:
            self._finishing.add(process_queue)  # its lock is renewed: nobody else may have the queue meanwhile
            while not await process_queue.wait_idle(_RELEASE_TIMEOUT_S):
                logger.warning(
                    "group %s: %s is to be given up, but its handler still runs", self._group, process_queue.queue
                )
            self._finishing.discard(process_queue)
        if commit:
            async with self._committing:
                await self._commit(process_queue)
            if not self._service.cut_off:
                await self._locks.unlock([process_queue.queue])

    def _offset_moved(self, process_queue: ProcessQueue, offset: int) -> None:
        """The broker's queue does not reach to our offset (any more), or the group's was reset: go on where it says."""
        queue = process_queue.queue
        logger.warning(
            "group %s: the broker sends %s from %d to %d", self._group, queue, process_queue.next_offset, offset
        )
        if self._queues.get(queue) is process_queue:
            self._instance.spawn(self._begin_again(process_queue, offset))

    async def _begin_again(self, process_queue: ProcessQueue, offset: int) -> None:
        queue = process_queue.queue
        now = asyncio.get_running_loop().time()
        again_soon = now - self._moved_at.get(queue, float("-inf")) < _MOVES_APART_S
        self._moved_at[queue] = now
        await self.set_offset(queue, offset)
        if again_soon:
            await asyncio.sleep(_MOVED_AGAIN_PAUSE_S)
        self._rebalance()

    async def set_offset(self, queue: MessageQueue, offset: int) -> None:
        """Commits ``offset`` whatever was consumed, and gives the queue up, to be taken again by the next rebalance."""
        if queue in self._queues:
            await self._release(queue, commit=False)
        try:
            await self._offsets.set(queue, offset)
        except RmqError as error:
            logger.warning("group %s: offset %d of %s not committed: %s", self._group, offset, queue, error)

    # --- commits and locks ---------------------------------------------------------------------------------------

    async def _commit(self, process_queue: ProcessQueue) -> bool:
        try:
            await self._offsets.commit(process_queue, oneway=False)
        except RmqError as error:
            logger.warning("group %s: offset of %s not committed: %s", self._group, process_queue.queue, error)
            return False
        return True

    async def _commit_all(self, process_queues: list[ProcessQueue]) -> None:
        """Topics side by side, a topic's queues one after the other: a group's first two commits for a topic, arriving
        at an Apache broker together, can lose one of them (ConsumerOffsetManager.commitOffset)."""
        by_topic: dict[str, list[ProcessQueue]] = {}
        for process_queue in process_queues:
            by_topic.setdefault(process_queue.queue.topic, []).append(process_queue)

        async def commit(queues: list[ProcessQueue]) -> None:
            silent: set[str] = set()
            for process_queue in queues:
                broker_name = process_queue.queue.broker_name
                if broker_name not in silent and not await self._commit(process_queue):
                    silent.add(broker_name)

        await asyncio.gather(*(commit(queues) for queues in by_topic.values()))

    async def _commit_oneway(self) -> None:
        for process_queue in self.all:
            if process_queue.dropped:  # while we waited; its last commit must stay the last
                continue
            try:
                await self._offsets.commit(process_queue, oneway=True)
            except (RemotingError, ResponseError) as error:
                logger.info("group %s: offset of %s not committed: %s", self._group, process_queue.queue, error)
            except RmqError as error:
                logger.debug("group %s: offset of %s not committed: %s", self._group, process_queue.queue, error)
            except Exception:  # an error of one queue must not keep the others from being committed
                logger.exception("group %s: offset of %s not committed", self._group, process_queue.queue)
        await self._offsets.persist()

    async def _renew_locks(self) -> None:
        for process_queue in await self._locks.renew([*self.all, *self._finishing]):
            logger.warning("group %s: lost the lock of %s", self._group, process_queue.queue)
            if self._queues.get(process_queue.queue) is process_queue:
                self._release(process_queue.queue, commit=False)
                self._rebalance()
