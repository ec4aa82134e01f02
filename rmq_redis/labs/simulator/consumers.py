"""Shares of queues after every change of a consumer group's members, or of the queues."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

import pluggy

from ...errors import ConfigError
from ...model import MessageQueue
from ...plugins.guards import shares_error
from ...plugins.hookspecs import AllocateStrategy, ClientContext
from ...plugins.manager import offers, pick
from .cluster import Cluster
from .figures import Change, ConsumerFigures
from .problems import Problems
from .virtual import VirtualClock, run_from


def simulate_allocation(
    cluster: Cluster, allocate_strategy: str, manager: pluggy.PluginManager, clock: VirtualClock
) -> list[ConsumerFigures]:
    """The shares of each consumer group. A strategy that fails, or is unknown, is told in the result."""
    groups = list(dict.fromkeys(consumers.group for consumers in cluster.consumers))
    figures: list[ConsumerFigures] = []
    for group in groups:
        with run_from(cluster.seed, clock):
            simulation = _Simulation(cluster, group, allocate_strategy, manager, clock)
            try:
                simulation.run()
            except ConfigError as error:
                simulation.figures.problem = f"no consumer starts: {error}"
            figures.append(simulation.figures)
    return figures


def moves(before: Mapping[MessageQueue, str], after: Mapping[MessageQueue, str]) -> int:
    """Queues that have another owner than before; new ones do not count."""
    return sum(after[queue] != owner for queue, owner in before.items() if queue in after)


def least_moves(before: Mapping[MessageQueue, str], mq_all: Sequence[MessageQueue], cid_all: Sequence[str]) -> int:
    """How many queues must get another owner so that all members have the same number, or one more.

    Each member can keep what it has up to the even share; as many may keep one more as there are larger shares.
    """
    there = set(mq_all)
    had = Counter(owner for queue, owner in before.items() if queue in there)
    size, extra = divmod(len(mq_all), len(cid_all))
    kept = sum(min(had[cid], size) for cid in cid_all) + min(extra, sum(had[cid] > size for cid in cid_all))
    return had.total() - kept


class _Simulation:
    def __init__(
        self,
        cluster: Cluster,
        group: str,
        allocate_strategy: str,
        manager: pluggy.PluginManager,
        clock: VirtualClock,
    ) -> None:
        self._cluster = cluster
        self._group = group
        self._name = allocate_strategy
        self._manager = manager
        self._clock = clock
        self._random = random.Random(f"members {group} {cluster.seed}")  # alike for every strategy
        self._zones = {broker.name: broker.zone for broker in cluster.brokers}
        self._there = {broker.name for broker in cluster.brokers} - cluster.added_later()
        self._members: dict[str, AllocateStrategy] = {}
        self._joined = 0
        self._owners: dict[MessageQueue, str] = {}
        self.figures = ConsumerFigures(allocate_strategy, group)

    def run(self) -> None:
        """The shares in the beginning and after each change. Raises ConfigError as a consumer would that is made."""
        for consumers in self._cluster.consumers:
            if consumers.group == self._group:
                self._join(consumers.number, consumers.zone)
        self._share("beginning")
        for at, events in groupby(self._cluster.timeline, lambda event: event.at):
            self._clock.now = at
            texts: list[str] = []
            for event in events:
                if event.event in ("add", "remove"):
                    self._there ^= {event.group}
                elif event.event == "join" and event.group == self._group:
                    self._join(event.number, event.zone)
                elif event.event == "leave" and event.group == self._group:
                    for cid in self._random.sample(sorted(self._members), min(event.number, len(self._members))):
                        del self._members[cid]
                else:
                    continue
                texts.append(event.text)
            if texts:
                self._share(", ".join(texts))

    def _join(self, number: int, zone: str) -> None:
        """Members with client ids as the SDK makes them, in no order that tells who came first."""
        context = ClientContext(
            self._cluster.client_config(zone), lambda name: self._zones.get(name, ""), self._clock.monotonic
        )
        for _ in range(number):
            self._joined += 1
            machine = self._random.getrandbits(16)
            cid = f"10.0.{machine >> 8}.{machine & 255}@{self._joined}#1" + (f"@{zone}" if zone else "")
            offered = offers("register_allocate_strategies", self._manager, context=context)
            self._members[cid] = pick("allocate_strategy", self._name, offered).value

    def _share(self, what: str) -> None:
        mq_all = [
            MessageQueue(self._cluster.topic, broker.name, index)
            for broker in self._cluster.brokers
            if broker.name in self._there
            for index in range(broker.queues)
        ]
        cid_all = sorted(self._members)
        change = Change(self._clock.now, what, len(cid_all), len(mq_all))
        self.figures.changes.append(change)
        if not cid_all or not mq_all:
            self._owners = {}
            return
        shares, change.problem = self._ask(mq_all, cid_all)
        if change.problem:
            return
        sizes = [len(share) for share in shares.values()]
        change.most, change.fewest = max(sizes), min(sizes)
        owners = {queue: cid for cid, share in shares.items() for queue in share}
        if self._owners:
            change.moved = moves(self._owners, owners)
            change.least_moves = least_moves(self._owners, mq_all, cid_all)
        self._owners = owners

    def _ask(self, mq_all: list[MessageQueue], cid_all: list[str]) -> tuple[dict[str, list[MessageQueue]], str]:
        """Every member asks its own strategy, with lists of its own: (shares, what is wrong with them)."""
        shares: dict[str, list[MessageQueue]] = {}
        problems = Problems()
        for cid in cid_all:
            try:
                shares[cid] = list(self._members[cid](self._group, cid, list(mq_all), list(cid_all)))
            except Exception as error:
                problems.raised(error)
        if problems.count:
            return {}, f"{problems.first} ({problems.count:,} of {len(cid_all):,} members)"
        try:
            return shares, shares_error(shares, mq_all)
        except TypeError as error:  # a queue with something in it that cannot be hashed
            return {}, f"returned what is no list of queues: {error}"
