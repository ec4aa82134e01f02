"""``rmq-redis chaos``: a cluster under random faults, and a check of what it acknowledged."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..data_dir import expand_user
from . import lazy
from .option_groups import with_option_groups
from .options import Json, flag, option
from .output import EXIT_ERROR, note, print_json, say
from .posix import require_posix

if TYPE_CHECKING:
    from ..labs.chaos.run import ChaosSettings


@dataclass(frozen=True, kw_only=True)
class ChaosOptions:
    """The cluster and its faults."""

    minutes: Annotated[float, option("--minutes", min=0.1, metavar="N", help="Inject faults for N minutes.")] = 5.0
    seed: Annotated[
        int | None,
        option("--seed", metavar="S", help="Repeat the faults of an earlier run.", show_default="random"),
    ] = None
    faults: Annotated[int, option("--faults", min=1, metavar="N", help="Stop after N faults.")] = 1_000_000
    groups: Annotated[int, option("--brokers", min=1, max=8, metavar="N", help="Number of broker groups.")] = 2
    broker_role: Annotated[
        str, option("--broker-role", metavar="ROLE", help="SYNC_MASTER, or ASYNC_MASTER, which can lose messages.")
    ] = "SYNC_MASTER"
    data_dir: Annotated[
        Path | None,
        option(
            "--data-dir",
            metavar="DIR",
            help="New directory for data, logs and the history.",
            file_okay=False,
            show_default="a temporary directory",
        ),
    ] = None
    strict_order: Annotated[
        bool, flag("--strict-order", help="Give each producer a sharding key with a fixed queue.")
    ] = False

    def settings(self, temporary: Path) -> ChaosSettings:
        return lazy.ChaosSettings(
            directory=expand_user(self.data_dir or temporary / "run", "--data-dir").absolute(),
            seed=random.randrange(1 << 32) if self.seed is None else self.seed,
            seconds=self.minutes * 60,
            faults=self.faults,
            groups=self.groups,
            broker_role=self.broker_role,
            strict_order=self.strict_order,
        )


@with_option_groups
def chaos(*, options: ChaosOptions, json: Json = False) -> None:
    """Start a cluster, inject faults, and check that no acknowledged message was lost.

    The cluster has two NameServers and several broker groups. Each group has a master and a slave, on a Redis primary
    and replica behind three Sentinels. Faults: kill -9, pauses, restarts and partitions of any process. Producers and
    consumers record what they see; at the end, the records are checked.

    Prints one line per phase and fault; with --json, on stderr. Exit code 1: a message was lost, was delivered out of
    order, or shares its offset with another.
    """
    require_posix("chaos")
    lazy.setup_logging("error")
    with tempfile.TemporaryDirectory(prefix="rmq-redis-chaos-") as temporary:
        sys.exit(lazy.run(_chaos(options.settings(Path(temporary)), json)))


async def _chaos(settings: ChaosSettings, json: bool) -> int:
    began = time.monotonic()

    def report(line: str) -> None:
        (note if json else say)(f"{time.monotonic() - began:7.1f}  {line}")

    result = await lazy.Chaos(settings, report).run()
    if json:
        seconds = round(time.monotonic() - began, 1)
        print_json({"seed": settings.seed, "broker_role": settings.broker_role, "seconds": seconds, **result.as_json()})
    else:
        for line in result.lines():
            say(line)
    return EXIT_ERROR if result.verdict.violations else 0
