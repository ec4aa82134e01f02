"""A run: load, faults in random order from a seed, and the verdict."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import signal
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...client.admin.admin import AsyncAdmin
from ...client.produce.producer import AsyncProducer
from ...errors import RmqError
from ...model import MASTER_ID, Message, MessageQueue, SendStatus
from .checker import Verdict, check
from .history import Acked, HistoryReader, HistoryWriter
from .worker import acked
from .world import RedisTarget, Target, World, eventually

TOPIC = "chaos"
QUEUES = 4
_READY_TIMEOUT_S = 60.0
"""A start takes a few seconds; a loaded CI machine is several times slower."""
_RECOVERY_TIMEOUT_S = 90.0
"""Far above a Sentinel failover plus a lease: only a group that stays broken reaches it."""
_DRAIN_TIMEOUT_S = 90.0
"""After this long without progress, the messages that are missing count as lost."""
_PROBE_TIMEOUT_S = 2.0
"""Above ``SYNC_TIMEOUT_S`` of the brokers, so that a send that is stored but unconfirmed gets its answer."""
_PROBE_PAUSE_S = 0.05
"""Bounds the error of the measured recovery time."""
_LOOK_PERIOD_S = 0.2
"""Each look reads the histories, which are files."""


@dataclass(frozen=True, kw_only=True)
class ChaosSettings:
    """What a run does.

    Attributes:
        seconds, faults: it ends when so much time is over, or so many faults were injected, whichever comes first.
        both: probability that a second fault comes while the first one lasts.
        strict_order: all senders have a sharding key, which must keep its queue.
    """

    directory: Path
    seed: int
    seconds: float
    faults: int = 1_000_000
    groups: int = 2
    producers: int = 2
    consumers: int = 2
    broker_role: str = "SYNC_MASTER"
    both: float = 0.25
    strict_order: bool = False


@dataclass
class ChaosResult:
    """What came of it.

    Attributes:
        faults: how often each kind was injected.
        recovery_s: by kind, seconds from the end of each fault until every group took a message again.
    """

    verdict: Verdict = field(default_factory=Verdict)
    faults: Counter[str] = field(default_factory=Counter)
    recovery_s: dict[str, list[float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "faults": dict(sorted(self.faults.items())),
            "recovery_s": {kind: [round(took, 3) for took in all_] for kind, all_ in sorted(self.recovery_s.items())},
            **dataclasses.asdict(self.verdict),
            "violations": self.verdict.violations,
        }

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"faults {self.faults.total()}"]
        for kind, count in sorted(self.faults.items()):
            took = self.recovery_s.get(kind, [0.0])
            lines.append(
                f"  {kind:<24} {count:>4}   taking messages again after {statistics.median(took):.1f} s (median), "
                f"{max(took):.1f} s (longest)"
            )
        return lines + self.verdict.lines()


class Chaos:
    """One run."""

    def __init__(self, settings: ChaosSettings, report: Callable[[str], None]) -> None:
        """
        Args:
            report: gets a line for people about every fault.
        """
        self._settings = settings
        self._report = report
        self._random = random.Random(settings.seed)
        self._result = ChaosResult()
        self._probes = 0

    async def run(self) -> ChaosResult:
        """Runs it.

        Raises:
            RmqError: the cluster did not start, or did not take messages again after a fault.
        """
        settings = self._settings
        self._report(f"seed {settings.seed}, {settings.broker_role}, in {settings.directory}")
        async with World(
            settings.directory, groups=settings.groups, broker_role=settings.broker_role, report=self._report
        ) as world:
            writer = HistoryWriter(world.history_dir / "probe.jsonl")
            async with (
                AsyncAdmin(world.namesrv_addr) as admin,
                AsyncProducer("chaos-probe", world.namesrv_addr, poll_name_server_interval_s=1.0) as probe,
            ):
                self._report("creating the topic, sending the first messages")
                await eventually(lambda: self._topic_is_there(admin), _READY_TIMEOUT_S, "the topic on every group")
                await self._probe_all(world, probe, writer)
                mode = "send-in-order" if settings.strict_order else "send"
                senders = [await world.add_worker(mode, f"p{i}", TOPIC) for i in range(settings.producers)]
                for i in range(settings.consumers):
                    await world.add_worker("consume", f"c{i}", TOPIC)
                self._report(f"load runs: {settings.producers} producers, {settings.consumers} consumers")
                await self._faults(world, admin, probe, writer)
            self._report("faults are over: stopping the producers, waiting for all messages to be delivered")
            for sender in senders:
                await sender.stop(30.0)
            reader = HistoryReader(world.history_dir)
            await self._drain(reader)
            self._report(f"checking {len(reader.events):,} records")
            self._result.verdict = check(reader.events, keyed=_is_keyed if settings.strict_order else None)
            self._report("stopping the cluster")
        return self._result

    async def _topic_is_there(self, admin: AsyncAdmin) -> bool:
        try:
            return (
                len(await admin.create_topic(TOPIC, queue_nums=QUEUES, order=self._settings.strict_order))
                == self._settings.groups
            )
        except RmqError:
            return False

    # --- faults ------------------------------------------------------------------------------------------------------

    async def _faults(self, world: World, admin: AsyncAdmin, probe: AsyncProducer, writer: HistoryWriter) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.seconds
        while loop.time() < until and self._result.faults.total() < self._settings.faults:
            await asyncio.sleep(self._random.uniform(0.2, 1.5))
            first, second = await self._choose(world, admin), await self._choose(world, admin)
            chosen = [first]
            # At most one at a time in a group: what it must survive is the loss of any one.
            if self._random.random() < self._settings.both and not _same_group(world, first[0], second[0]):
                chosen.append(second)
            kinds = await asyncio.gather(*(self._inject(target, role) for target, role in chosen))
            took = await self._probe_all(world, probe, writer)
            for kind in kinds:
                self._result.recovery_s.setdefault(kind, []).append(took)

    async def _choose(self, world: World, admin: AsyncAdmin) -> tuple[Target, str]:
        """A role, and then a target that has it now: masters and primaries are as often hit as the many others."""
        roles = [(target, await self._role_of(world, admin, target)) for target in world.targets()]
        role = self._random.choice(sorted({role for _, role in roles}))
        return self._random.choice([choice for choice in roles if choice[1] == role])

    async def _inject(self, target: Target, role: str) -> str:
        """One fault from its beginning to its end; returns its kind."""
        name, fault = self._random.choice(_FAULTS)
        seconds = self._random.uniform(0.5, 6.0)
        kind = f"{name} {role}"
        self._result.faults[kind] += 1
        self._report(f"fault {self._result.faults.total()}: {name} {target.label} ({role}) for {seconds:.1f} s")
        await fault(target, seconds)
        return kind

    @staticmethod
    async def _role_of(world: World, admin: AsyncAdmin, target: Target) -> str:
        """What a target is now: brokers and Redis servers change places."""
        if isinstance(target, RedisTarget):
            if target is world.registry:
                return "registry"
            return {"master": "Redis primary", "slave": "Redis replica"}.get(await target.role(), "Redis")
        if target in world.namesrvs:
            return "NameServer"
        try:
            groups = (await admin.topic_route(TOPIC)).broker_datas
        except RmqError:
            return "broker"
        masters = {group.broker_addrs.get(MASTER_ID) for group in groups}
        return "master" if target.address in masters else "slave"

    async def _probe_all(self, world: World, probe: AsyncProducer, writer: HistoryWriter) -> float:
        """Waits until every group takes a message, confirmed as its mode asks for; returns the seconds."""

        async def probe_one(broker_name: str) -> None:
            await eventually(
                lambda: self._probe(broker_name, probe, writer), _RECOVERY_TIMEOUT_S, f"{broker_name} takes messages"
            )

        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(probe_one(group.name) for group in world.groups))
        return asyncio.get_running_loop().time() - began

    async def _probe(self, broker_name: str, probe: AsyncProducer, writer: HistoryWriter) -> bool:
        self._probes += 1
        body = f"probe-{self._probes}"
        try:
            queue = MessageQueue(TOPIC, broker_name, 0)
            result = await probe.send(Message(TOPIC, body), queue=queue, timeout_s=_PROBE_TIMEOUT_S)
        except RmqError:
            await asyncio.sleep(_PROBE_PAUSE_S)
            return False
        writer.write(acked(f"probe-{broker_name}", body, result))
        return result.status is SendStatus.SEND_OK

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _drain(self, reader: HistoryReader) -> None:
        """Waits until everything acknowledged is delivered, or nothing more comes."""
        loop = asyncio.get_running_loop()
        waiting: set[str] = set()
        got: set[str] = set()
        progress_at = loop.time()
        while loop.time() - progress_at <= _DRAIN_TIMEOUT_S:
            for event in reader.read():
                progress_at = loop.time()
                (waiting if isinstance(event, Acked) else got).add(event.body)
            if waiting <= got:
                return
            await asyncio.sleep(_LOOK_PERIOD_S)


def _is_keyed(sender: str) -> bool:
    return not sender.startswith("probe-")


def _same_group(world: World, one: Target, other: Target) -> bool:
    """Whether they are the same, or parts of one broker group."""
    groups = [{id(target) for target in (*group.brokers, *group.redis)} for group in world.groups]
    return one is other or any(id(one) in group and id(other) in group for group in groups)


async def _kill(target: Target, seconds: float) -> None:
    await target.kill()
    await asyncio.sleep(seconds)
    await target.start()


async def _restart(target: Target, seconds: float) -> None:
    await target.stop()
    await asyncio.sleep(seconds / 4)
    await target.start()


async def _pause(target: Target, seconds: float) -> None:
    os.kill(target.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(target.pid, signal.SIGCONT)


async def _partition(target: Target, seconds: float) -> None:
    target.proxy.cut()
    try:
        await asyncio.sleep(seconds)
    finally:
        target.proxy.heal()


_FAULTS: list[tuple[str, Callable[[Target, float], Awaitable[None]]]] = [
    ("kill -9", _kill),
    ("pause", _pause),
    ("partition", _partition),
    ("restart", _restart),
]
