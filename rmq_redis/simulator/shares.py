"""Simulated consumers: who gets which queues, and how many queues move when members come and go."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pluggy

from ..config import ClientConfig
from ..hookspecs import ClientContext
from ..model import MessageQueue
from ..plugins import offers, pick
from .scenario import Scenario

MOST_PAIRS = 4_000_000
"""Members x queues up to which every member is asked; of larger groups a part."""


@dataclass(frozen=True)
class ShareReport:
    """One membership.

    Attributes:
        asked: members whose shares were computed: all, or a sample of a large group.
        least, most: queues of the members with the fewest and the most of them.
        moved: queues that have another owner than before, of those whose owners are known both times; None at first.
        must_move: the fewest that could, with even shares.
        problem: what is wrong with the shares; "" if every queue has one owner (unknown for a sample).
    """

    allocate_strategy: str
    at_s: float
    members: int
    asked: int
    queues: int
    least: int
    most: int
    moved: int | None
    must_move: int
    problem: str


def simulate_shares(
    scenario: Scenario, allocate_strategy: str, config: ClientConfig, manager: pluggy.PluginManager | None = None
) -> list[ShareReport]:
    """The shares at the beginning and after every change; the same for the same seed.

    Raises:
        ConfigError: no such strategy.
    """
    chance = random.Random(scenario.seed)
    kinds = scenario.broker_names()
    context = ClientContext(config, lambda name: kinds[name].zone if name in kinds else "")
    offered = offers("register_allocate_strategies", manager, context=context)
    strategy = pick("allocate_strategy", allocate_strategy, offered).value
    queues = sorted(MessageQueue("T", name, i) for name in kinds for i in range(scenario.queues_per_broker))
    zones = scenario.consumers.zones
    born = 0

    def member() -> str:
        nonlocal born
        born += 1
        zone = f"@{zones[born % len(zones)]}" if zones else ""
        return f"10.0.{chance.randrange(256)}.{chance.randrange(256)}@{chance.randrange(1 << 22)}#{born}{zone}"

    members = [member() for _ in range(scenario.consumers.count)]
    reports: list[ShareReport] = []
    before: dict[MessageQueue, str] | None = None
    old_count = len(members)
    for change in [None, *sorted(scenario.changes, key=lambda change: change.at_s)]:
        if change is not None:
            for _ in range(change.leave):
                members.remove(chance.choice(members))
            members += [member() for _ in range(change.join)]
        cids = sorted(members)
        asked = cids if len(cids) * len(queues) <= MOST_PAIRS else cids[:: -(-len(cids) * len(queues) // MOST_PAIRS)]
        owners: Counter[MessageQueue] = Counter()
        owner: dict[MessageQueue, str] = {}
        sizes = []
        for cid in asked:
            share = list(strategy("simulated", cid, list(queues), list(cids)))
            sizes.append(len(share))
            owners.update(share)
            owner.update(dict.fromkeys(share, cid))
        moved = None
        if before is not None:
            known = set(cids) if len(asked) == len(cids) else set(asked)
            moved = sum(cid != before[queue] for queue, cid in owner.items() if queue in before and cid in known)
        reports.append(
            ShareReport(
                allocate_strategy,
                0.0 if change is None else change.at_s,
                len(cids),
                len(asked),
                len(queues),
                min(sizes),
                max(sizes),
                moved,
                0 if change is None else _must_move(len(queues), old_count, change.join, change.leave),
                _problem(owners, queues, len(asked) == len(cids)),
            )
        )
        before, old_count = owner, len(cids)
    return reports


def _must_move(queues: int, members: int, join: int, leave: int) -> int:
    """The queues of those who leave, or the shares of those who come, whichever is more; shares rounded down."""
    after = members + join - leave
    return max(leave * (queues // members), join * (queues // after))


def _problem(owners: Counter[MessageQueue], queues: list[MessageQueue], complete: bool) -> str:
    known = set(queues)
    for queue, count in owners.items():
        if queue not in known:
            return f"{queue.broker_name}:{queue.queue_id} does not exist"
        if count > 1:
            return f"{queue.broker_name}:{queue.queue_id} has {count} owners"
    missing = len(queues) - len(owners)
    return f"{missing} queues have no owner" if complete and missing else ""
