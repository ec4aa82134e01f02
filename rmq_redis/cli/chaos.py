"""``rmq-redis chaos``: a cluster under random faults, and whether anything acknowledged was lost."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..data_dir import expand_user
from .options import Json, flag, option
from .output import note, print_json, say
from .posix import require_posix

if TYPE_CHECKING:
    from ..labs.chaos.run import ChaosSettings


def chaos(
    minutes: Annotated[float, option("--minutes", min=0.1, metavar="N", help="How long faults are injected.")] = 5.0,
    seed: Annotated[
        int | None,
        option("--seed", metavar="S", help="Repeat the faults of an earlier run.", show_default="a new one"),
    ] = None,
    faults: Annotated[int, option("--faults", min=1, metavar="N", help="Stop after N faults.")] = 1_000_000,
    groups: Annotated[int, option("--brokers", min=1, max=8, metavar="N", help="Broker groups to start.")] = 2,
    broker_role: Annotated[
        str, option("--broker-role", metavar="ROLE", help="SYNC_MASTER, or ASYNC_MASTER to see what that can lose.")
    ] = "SYNC_MASTER",
    data_dir: Annotated[
        Path | None,
        option(
            "--data-dir",
            metavar="DIR",
            help="New directory for data, logs and the history.",
            file_okay=False,
            show_default="a temporary one",
        ),
    ] = None,
    strict_order: Annotated[
        bool, flag("--strict-order", help="Give every producer a sharding key, which must keep its queue.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a cluster of its own under faults: kill -9, pauses, restarts and partitions of everything in it.

    Two NameServers; broker groups of a master and a slave, each on a Redis primary and a replica behind three
    Sentinels; producers and consumers that record what they see. At the end their records are checked. Exit code 1:
    something was lost, out of order, or at an offset that was given out twice. Prints a line for each phase and fault,
    with --json on stderr.
    """
    require_posix("chaos")
    from ..labs.chaos.run import ChaosSettings
    from ..runtime import run, setup_logging

    setup_logging("error")
    with tempfile.TemporaryDirectory(prefix="rmq-redis-chaos-") as temporary:
        settings = ChaosSettings(
            directory=expand_user(data_dir or Path(temporary) / "run", "--data-dir").absolute(),
            seed=random.randrange(1 << 32) if seed is None else seed,
            seconds=minutes * 60,
            faults=faults,
            groups=groups,
            broker_role=broker_role,
            strict_order=strict_order,
        )
        sys.exit(run(_chaos(settings, json)))


async def _chaos(settings: ChaosSettings, json: bool) -> int:
    from ..labs.chaos.run import Chaos

    began = time.monotonic()

    def report(line: str) -> None:
        (note if json else say)(f"{time.monotonic() - began:7.1f}  {line}")

    result = await Chaos(settings, report).run()
    if json:
        seconds = round(time.monotonic() - began, 1)
        print_json({"seed": settings.seed, "broker_role": settings.broker_role, "seconds": seconds, **result.as_json()})
    else:
        for line in result.lines():
            say(line)
    return 1 if result.verdict.violations else 0
