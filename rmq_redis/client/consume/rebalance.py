"""Which queues are mine: every member of a group computes its own share from the same two lists.

Source: RebalanceImpl, RebalanceService, RebalanceLockManager's client side.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable

from ...background import Every
from ...errors import RemotingError, RequestCodeNotSupportedError, ResponseError, RmqError, RouteNotFoundError
from ...model import MessageModel, MessageQueue, subscribe_queues
from ...plugins.hookspecs import AllocateStrategy
from ..core.instance import MQClientInstance
from .process_queue import ProcessQueue

logger = logging.getLogger(__name__)

MIN_REBALANCE_INTERVAL_S = 0.1
"""What changes within this time costs one rebalance."""
LOCK_RENEW_INTERVAL_S = 20.0
"""Source: ConsumeMessageOrderlyService, ``rocketmq.client.rebalance.lockInterval``."""
LOCK_LIVE_S = 30.0
"""A lock counts as lost this long after it was granted or renewed last. Source: ProcessQueue."""


class Rebalancer:
    """Computes this consumer's queues: every ``rebalance_interval_s``, and when ``now`` is called.

    Args:
        topics: the topics subscribed at the moment.
        apply: takes a topic and its queues that are this consumer's from now on; False: something is still missing,
            try again soon.
    """

    def __init__(
        self,
        instance: MQClientInstance,
        group: str,
        strategy: AllocateStrategy,
        message_model: MessageModel,
        topics: Callable[[], Collection[str]],
        apply: Callable[[str, list[MessageQueue]], Awaitable[bool]],
    ) -> None:
        self._instance = instance
        self._group = group
        self._strategy = strategy
        self._message_model = message_model
        self._topics = topics
        self._apply = apply
        self._unsettled = 0
        self._interval_s = instance.config.rebalance_interval_s
        self.loop = Every(self._interval_s, self._turn, f"group {group}: rebalance", at_once=True)

    def now(self) -> None:
        """Has a rebalance done at once."""
        self._unsettled = 0  # what changed may settle it: begin with short pauses
        self.loop.wake()

    async def _turn(self) -> float:
        """One rebalance; the seconds until the next, fewer while a topic could not be settled."""
        self._unsettled = 0 if await self.once() else self._unsettled + 1
        await asyncio.sleep(MIN_REBALANCE_INTERVAL_S)
        if not self._unsettled:
            return self._interval_s
        return min(self._interval_s, 2.0 ** min(self._unsettled - 1, 10))

    async def once(self) -> bool:
        """One rebalance of all topics; False when a topic could not be settled and should be tried again soon."""
        settled = True
        for topic in list(self._topics()):
            try:
                queues = await self.assigned(topic)
                if queues is not None:
                    settled &= await self._apply(topic, queues)
                else:
                    settled = False
            except RouteNotFoundError as error:
                logger.debug("group %s: %s", self._group, error)
                settled = False
            except RmqError as error:
                logger.warning("group %s: rebalance of topic %s failed: %s", self._group, topic, error)
                settled = False
            except Exception:  # a bug must not end the only task that finds queues
                logger.exception("group %s: rebalance of topic %s failed", self._group, topic)
                settled = False
        return settled

    async def assigned(self, topic: str) -> list[MessageQueue] | None:
        """This consumer's queues of a topic; None when that cannot be told now and nothing should change.

        Raises:
            RouteNotFoundError: the topic does not exist yet.
            RemotingError, ResponseError: a server did not answer, or with an error.
        """
        route = await self._instance.routes.get(topic)
        mq_all = subscribe_queues(topic, route)
        if not mq_all:
            return None
        if self._message_model == MessageModel.BROADCASTING:
            return mq_all
        names = [broker.broker_name for broker in route.broker_datas]
        cid_all = sorted(await self._consumer_ids(topic, names))
        if not cid_all:
            return None
        mine = list(self._strategy(self._group, self._instance.client_id, mq_all, cid_all))
        strange = set(mine) - set(mq_all)
        if strange:
            logger.error("group %s: the allocate strategy invents queues, ignored: %s", self._group, sorted(strange))
            mine = [queue for queue in mine if queue not in strange]
        return mine

    async def _consumer_ids(self, topic: str, broker_names: list[str]) -> list[str]:
        """The group's members as one broker that has the topic knows them; another one is asked when it fails."""
        instance = self._instance
        random.shuffle(broker_names)
        failure: RemotingError | ResponseError | None = None
        for broker_name in broker_names:
            address = instance.routes.any_address(broker_name)
            if address is None:
                continue
            try:
                ids = await self._ids_at(address)
                if instance.client_id not in ids:  # it does not know us (yet, or any more): introduce ourselves
                    await instance.heartbeat()
                    ids = await self._ids_at(address)
            except (RemotingError, ResponseError) as error:
                failure = error
                instance.routes.refresh_soon(topic)
                continue
            return ids
        if failure:
            raise failure
        return []

    async def _ids_at(self, address: str) -> list[str]:
        try:
            return await self._instance.broker.consumer_ids(address, self._group)
        except ResponseError as error:  # how brokers say that there are none
            logger.debug("group %s: %s has no members of it: %s", self._group, address, error)
            return []


class NoLocks:
    """In the place of ``QueueLocks`` for a consumer that needs none: every queue counts as locked."""

    def __init__(self) -> None:
        self.asked: set[MessageQueue] = set()

    def is_locked(self, _process_queue: ProcessQueue) -> bool:
        return True

    async def lock(self, queues: Iterable[MessageQueue]) -> set[MessageQueue]:
        return set(queues)

    async def unlock(self, queues: Iterable[MessageQueue]) -> None:
        pass

    async def renew(self, process_queues: Iterable[ProcessQueue]) -> list[ProcessQueue]:
        return []


class QueueLocks:
    """The brokers' locks on the queues of an orderly consumer: at most one consumer handles a queue at a time.

    A broker that does not know locks is believed once and not asked again; then only the rebalance keeps two
    consumers from one queue.

    Attributes:
        asked: queues of which this client may have the lock: granted, or the answer is not there (yet).
    """

    def __init__(self, instance: MQClientInstance, group: str) -> None:
        self._instance = instance
        self._group = group
        self._without_locks: set[str] = set()
        self.asked: set[MessageQueue] = set()

    def is_locked(self, process_queue: ProcessQueue) -> bool:
        """Whether messages of the queue may be handled now."""
        return asyncio.get_running_loop().time() < process_queue.locked_until

    async def lock(self, queues: Iterable[MessageQueue]) -> set[MessageQueue]:
        """Locks, or renews the locks of, queues; those that this client has the lock of now."""
        by_broker: dict[str, list[MessageQueue]] = defaultdict(list)
        for queue in queues:
            by_broker[queue.broker_name].append(queue)
        locked: set[MessageQueue] = set()
        for broker_name, wanted in by_broker.items():
            locked |= await self._lock_at(broker_name, wanted)
        return locked

    async def _lock_at(self, broker_name: str, queues: list[MessageQueue]) -> set[MessageQueue]:
        if broker_name in self._without_locks:
            return set(queues)
        address = self._instance.routes.master_address(broker_name)
        if address is None:
            raise RouteNotFoundError(f"the route shows no master of {broker_name}: its queues cannot be locked")
        self.asked.update(queues)
        try:
            locked = await self._instance.broker.lock(address, self._group, self._instance.client_id, queues)
            self.asked -= set(queues) - locked
            return locked
        except RequestCodeNotSupportedError:
            logger.warning("broker %s knows no queue locks: group %s goes on without", broker_name, self._group)
            self._without_locks.add(broker_name)
            return set(queues)

    async def unlock(self, queues: Iterable[MessageQueue]) -> None:
        """Gives locks back; a failure is logged, the broker's lock expires by itself."""
        by_broker: dict[str, list[MessageQueue]] = defaultdict(list)
        for queue in queues:
            by_broker[queue.broker_name].append(queue)
        for broker_name, held in by_broker.items():
            address = self._instance.routes.master_address(broker_name)
            if address is None or broker_name in self._without_locks:
                continue
            self.asked.difference_update(held)
            try:
                await self._instance.broker.unlock(address, self._group, self._instance.client_id, held)
            except (RemotingError, ResponseError) as error:
                logger.info("group %s: queues at %s not unlocked: %s", self._group, broker_name, error)

    async def renew(self, process_queues: Iterable[ProcessQueue]) -> list[ProcessQueue]:
        """Renews the locks of these queues; returns those that somebody else has now.

        When a broker cannot be asked its queues keep their locks until ``LOCK_LIVE_S`` are over.
        """
        by_broker: dict[str, list[ProcessQueue]] = defaultdict(list)
        for process_queue in process_queues:
            by_broker[process_queue.queue.broker_name].append(process_queue)
        lost: list[ProcessQueue] = []
        for broker_name, held in by_broker.items():
            asked_at = asyncio.get_running_loop().time()
            try:
                locked = await self._lock_at(broker_name, [process_queue.queue for process_queue in held])
            except RmqError as error:
                logger.warning("group %s: locks at %s not renewed: %s", self._group, broker_name, error)
                continue
            for process_queue in held:
                if process_queue.queue in locked:
                    process_queue.locked_until = asked_at + LOCK_LIVE_S
                else:
                    lost.append(process_queue)
        return lost


AnyLocks = QueueLocks | NoLocks
