"""Our allocate strategies against Apache's Java classes, on random groups: any difference would double a queue."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from java_support import apache_jars, driver_or_skip

from rmq_redis.config import ClientConfig
from rmq_redis.hookspecs import ClientContext
from rmq_redis.model import MessageQueue
from rmq_redis.plugins import allocate_strategy, create_plugin_manager

pytestmark = pytest.mark.interop
ROUNDS = 60
NAMES = (
    "AVG",
    "AVG_BY_CIRCLE",
    "CONSISTENT_HASH",
    "MACHINE_ROOM",
    "MACHINE_ROOM_NEARBY-AVG",
    "MACHINE_ROOM_NEARBY-AVG_BY_CIRCLE",
    "MACHINE_ROOM_NEARBY-CONSISTENT_HASH",
)


def test_allocations_equal_those_of_apache() -> None:
    jars = driver_or_skip(apache_jars)
    chance = random.Random(20)
    context = ClientContext(ClientConfig(machine_rooms="east;west"), lambda name: "")
    strategies = {name: allocate_strategy(name, create_plugin_manager(), context) for name in NAMES}
    lines: list[str] = []
    ours: list[str] = []
    for _ in range(ROUNDS):
        rooms = ("east", "west", "south")
        brokers = [f"{chance.choice(rooms)}@b{index}" for index in range(chance.randint(1, 6))]
        mq_all = sorted(MessageQueue("T", name, i) for name in brokers for i in range(chance.randint(1, 8)))
        cids = sorted(
            f"10.0.0.{i}@{chance.randrange(9999)}@{chance.choice(rooms)}" for i in range(chance.randint(1, 9))
        )
        shown = ",".join(f"{queue.broker_name}:{queue.queue_id}" for queue in mq_all)
        for name, strategy in strategies.items():
            for cid in [*cids, "10.9.9.9@1@east"]:
                if name.startswith("MACHINE_ROOM_NEARBY") and cid not in cids:
                    continue  # Java's checks it, too, but for a room without consumers it fails
                lines.append("|".join((name, cid, ",".join(cids), shown)))
                ours.append(",".join(f"{q.broker_name}:{q.queue_id}" for q in strategy("G", cid, mq_all, cids)))
    done = subprocess.run(
        ["java", "-cp", f"{jars}/lib/*", str(Path(__file__).parent / "allocation/Shares.java")],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    theirs = done.stdout.splitlines()[-len(lines) :]  # its logging writes to stdout before
    assert len(theirs) == len(lines)
    assert [(line, mine) for line, mine, java in zip(lines, ours, theirs, strict=True) if mine != java] == []
