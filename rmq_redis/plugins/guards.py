"""What stands between a plugin's strategy and a message: its errors and impossible results cost no message.

Where a strategy fails the default one decides, and the first failure is logged. Built-in strategies go without.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..model import Message, MessageQueue, TopicRouteData
from .defaults.allocate import allocate_averagely
from .defaults.queues import RoundRobin
from .hookspecs import AllocateStrategy, QueueSelector, ReadSelector, RouteFilter, RouteRequest

logger = logging.getLogger(__name__)


class _Complaint:
    """Logs the first failure of a strategy."""

    def __init__(self, name: str, plugin_name: str, instead: str) -> None:
        self._subject = f"{name} of plugin {plugin_name}"
        self._instead = instead
        self._made = False

    def __call__(self, why: str, error: BaseException | None = None) -> None:
        if not self._made:
            self._made = True
            logger.error(
                "%s %s; %s decides instead, now and whenever it fails again (not logged again)",
                self._subject,
                why,
                self._instead,
                exc_info=error,
            )


class GuardedSelector:
    """A producer's selector; ROUND_ROBIN decides when it fails."""

    def __init__(self, name: str, plugin_name: str, selector: QueueSelector) -> None:
        self._select = selector
        self._fallback = RoundRobin()
        self._complain = _Complaint(name, plugin_name, "ROUND_ROBIN")
        self.by_key = bool(getattr(selector, "by_key", False))
        self.per_turn = bool(getattr(selector, "per_turn", False))
        for method in ("sending", "report"):
            if callable(getattr(selector, method, None)):
                setattr(self, method, self._guarded(method, getattr(selector, method)))

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        try:
            queue = self._select(queues, message, key)
        except Exception as error:
            self._complain(f"raised {type(error).__name__}: {error}", error)
            return self._fallback(queues, message, key)
        if type(queue) is not MessageQueue:
            if hasattr(queue, "close"):
                queue.close()  # a coroutine function's coroutine
            return self.fall_back(queues, message, key, queue)
        return queue

    def fall_back(self, queues: Sequence[MessageQueue], message: Message, key: str | None, result: Any) -> MessageQueue:
        """The queue to use instead of an impossible ``result``."""
        self._complain(f"chose {result!r}, which is not one of the {len(queues)} queues given to it")
        return self._fallback(queues, message, key)

    def _guarded(self, name: str, method: Any) -> Any:
        def call(*arguments: Any) -> None:
            try:
                method(*arguments)
            except Exception as error:
                self._complain(f"raised {type(error).__name__} in {name}: {error}", error)

        return call


class GuardedReadSelector:
    """A consumer's choice of the broker to read from; the broker's suggestion counts when it fails."""

    def __init__(self, name: str, plugin_name: str, selector: ReadSelector) -> None:
        self._select = selector
        self._complain = _Complaint(name, plugin_name, "the broker's suggestion")

    def __call__(self, queue: MessageQueue, broker_addrs: Mapping[int, str], suggested_broker_id: int) -> int:
        try:
            broker_id = self._select(queue, broker_addrs, suggested_broker_id)
            if broker_id in broker_addrs:
                return broker_id
            self._complain(f"chose broker id {broker_id!r} of {queue.broker_name}, which has {sorted(broker_addrs)}")
        except Exception as error:
            self._complain(f"raised {type(error).__name__}: {error}", error)
        return suggested_broker_id


class GuardedRouteFilter:
    """A NameServer's route filter; the whole route is answered when it fails."""

    def __init__(self, name: str, plugin_name: str, route_filter: RouteFilter) -> None:
        self._filter = route_filter
        self._complain = _Complaint(name, plugin_name, "the whole route")

    def __call__(self, request: RouteRequest, route: TopicRouteData) -> TopicRouteData:
        try:
            result = self._filter(request, route)
        except Exception as error:
            self._complain(f"raised {type(error).__name__}: {error}", error)
            return route
        if isinstance(result, TopicRouteData):
            return result
        self._complain(f"returned {result!r}, which is no route")
        return route


class GuardedAllocation:
    """A consumer's allocate strategy; AVG decides when it fails.

    One member cannot see whether the others leave a queue out. So whenever the lists change the strategy is asked for
    every member, here: each queue must come exactly once. All members see the same, and fall back together.
    """

    def __init__(self, name: str, plugin_name: str, strategy: AllocateStrategy) -> None:
        self._strategy = strategy
        self._complain = _Complaint(name, plugin_name, "AVG")
        self._checked: dict[str, tuple[list[MessageQueue], list[str], bool]] = {}

    def __call__(
        self, consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
    ) -> Sequence[MessageQueue]:
        try:
            if current_cid not in cid_all or self._is_valid(consumer_group, mq_all, cid_all):
                return list(self._strategy(consumer_group, current_cid, mq_all, cid_all))
        except Exception as error:
            self._complain(f"raised {type(error).__name__}: {error}", error)
        return allocate_averagely(consumer_group, current_cid, mq_all, cid_all)

    def _is_valid(self, consumer_group: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]) -> bool:
        topic = mq_all[0].topic
        queues, cids = list(mq_all), list(cid_all)
        known = self._checked.get(topic)
        if known is None or known[:2] != (queues, cids):
            problem = allocation_error(self._strategy, consumer_group, queues, cids)
            if problem:
                self._complain(f"shares the queues of topic {topic} wrongly: {problem}")
            known = self._checked[topic] = (queues, cids, not problem)
        return known[2]


def allocation_error(
    strategy: AllocateStrategy, consumer_group: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
) -> str:
    """What is wrong with the shares of all members together; "" if every queue comes exactly once."""
    shares = {cid: strategy(consumer_group, cid, list(mq_all), list(cid_all)) for cid in cid_all}
    return shares_error(shares, mq_all)


def shares_error(shares: Mapping[str, Iterable[MessageQueue]], mq_all: Sequence[MessageQueue]) -> str:
    """What is wrong with the shares, by member; "" if every queue comes exactly once."""
    owners: Counter[MessageQueue] = Counter()
    for cid, given in shares.items():
        share = list(given)
        strange = [queue for queue in share if type(queue) is not MessageQueue]
        if strange:
            return f"{cid} gets {strange[0]!r}, which is no queue"
        owners.update(share)
    for queue in owners.keys() - set(mq_all):
        return f"{queue} does not exist"
    for queue in mq_all:
        if owners[queue] != 1:
            return f"{queue} is given {owners[queue]} times" if owners[queue] else f"nobody gets {queue}"
    return ""
