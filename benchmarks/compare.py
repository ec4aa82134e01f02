"""rmq-redis beside other message systems, in one run: ``python benchmarks/compare.py``.

Measures the systems of ``peers.py`` that are installed for this Python and on this machine, one server at a time, in
interleaved rounds with ours and with XADD alone. Systems that are missing are skipped, with the reason.

    python -m pip install nats-py 'faststream[redis]' aio-pika celery packaging taskiq taskiq-redis 'dramatiq[redis]'
    python benchmarks/compare.py --write        # the table and the plot of docs/performance.md
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peers
from pages import bars, write_part, write_plot
from peers import PEERS, Peer

from rmq_redis.labs.benchmark import limits
from rmq_redis.labs.benchmark.load_process import LoadProcess, run_loads
from rmq_redis.labs.benchmark.worker import DEADLINE_S, Figures, LoadSettings
from rmq_redis.runtime import run
from rmq_redis.store.embedded import EmbeddedServer

PART = "compare.py"
PLOT = "peers.svg"
LIMIT = "XADD alone"
COLUMNS = {
    "produce/s": "produced per second",
    "consume/s": "consumed per second",
    "e2e p50 ms": "end to end at 500/s, p50, ms",
    "e2e p99 ms": "end to end at 500/s, p99, ms",
    "sequential p50 ms": "one send after the other, p50, ms",
}
PLOTTED = ("produce/s", "consume/s")


async def measure_peer(name: str, seconds: float, count: int, paced: int, report: Callable[[str], None]) -> Figures:
    """One round of a system. A measurement that fails is reported, and missing."""
    peer = PEERS[name]
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="rmq-redis-compare-") as directory:
        async with peer.server(Path(directory)) as address:

            async def loads(*names: str, **changes: Any) -> Figures:
                settings = LoadSettings(
                    namesrv_addr=address,
                    topic=f"compare-{time.monotonic_ns()}",
                    group="group",
                    seconds=seconds,
                    warm_up_s=seconds / 2,
                    in_flight=peer.in_flight,
                    option=name,
                    **changes,
                )
                async with asyncio.timeout(DEADLINE_S):
                    return (await run_loads(*(LoadProcess(load, settings, peers.COMMAND) for load in names)))[0]

            try:
                produced = await loads("produce")
                figures["produce/s"] = produced["per_s"]
                if not peer.consumes:
                    return figures | {"sequential p50 ms": (await loads("sequential"))["p50_ms"]}
                # At a tenth of its rate, the slowest is not waited for longer than the others.
                backlog = min(count, max(100, int(produced["per_s"] * seconds)))
                figures["consume/s"] = (await loads("consume", count=backlog))["per_s"]
                if peer.messages == 1:
                    figures["sequential p50 ms"] = (await loads("sequential"))["p50_ms"]
                    way = await loads("paced-consumer", "paced-producer", count=paced)
                    figures |= {"e2e p50 ms": way["p50_ms"], "e2e p99 ms": way["p99_ms"]}
            except Exception as error:  # the others are measured all the same
                report(f"{name}: failed: {error!r}")
    return figures


def measure_limit(seconds: float) -> Figures:
    with tempfile.TemporaryDirectory(prefix="rmq-redis-compare-") as directory, EmbeddedServer(directory) as server:
        return {"produce/s": limits.xadd(server.url, 256, seconds)}


async def measure(names: list[str], rounds: int, scale: tuple[float, int, int]) -> dict[str, dict[str, float]]:
    """Medians by system and column."""
    values: dict[str, dict[str, list[float]]] = {name: {} for name in (LIMIT, *names)}

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    for number in range(1, rounds + 1):
        for name, columns in values.items():
            if name == LIMIT:
                figures = await asyncio.to_thread(measure_limit, scale[0])
            else:
                try:
                    figures = await measure_peer(name, *scale, report)
                except Exception as error:  # its server did not start
                    report(f"{name}: failed: {error!r}")
                    figures = {}
            report(f"round {number} of {rounds}: {name}: " + ", ".join(f"{k} {v:,.4g}" for k, v in figures.items()))
            for column, value in figures.items():
                columns.setdefault(column, []).append(value)
    return {
        name: {column: statistics.median(found) for column, found in columns.items()}
        for name, columns in values.items()
    }


def table(result: Mapping[str, Mapping[str, float]]) -> str:
    """The result as Markdown."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, columns in result.items():
        cells = [
            "–" if column not in columns else f"{columns[column]:,.0f}" if "/s" in column else f"{columns[column]:.2f}"
            for column in COLUMNS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(result: Mapping[str, Mapping[str, float]], skipped: Mapping[str, str], rounds: int) -> str:
    """What is written to the page."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    lines = [
        f"Measured on {today} with {os.cpu_count()} CPUs, Python {platform.python_version()}, bodies of 256 bytes; "
        f"median of {rounds} interleaved rounds; one server at a time.",
        "",
        table(result),
        "",
        f"![Rates of the systems]({PLOT})",
        "",
        *(f"Not measured: {name} ({reason})." for name, reason in skipped.items()),
    ]
    return "\n".join(lines)


def missing(names: list[str]) -> dict[str, str]:
    """Systems that cannot be measured, with the reason."""
    reasons: dict[str, str] = {}
    for name in names:
        peer: type[Peer] = PEERS[name]
        if reason := peer.missing():
            reasons[name] = reason
    return reasons


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default="", help="names, separated by semicolons; default: all that are installed")
    parser.add_argument("--rounds", type=int, default=2, help="number of rounds")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--count", type=int, default=100_000, help="most messages that a consumer finds")
    parser.add_argument("--paced", type=int, default=1500, help="messages of the measurement at 500 per second")
    parser.add_argument("--json", type=Path, help="write the medians to this file as well")
    parser.add_argument("--write", action="store_true", help="write table and plot to docs/")
    given = parser.parse_args()
    names = [name.strip() for name in given.peers.split(";") if name.strip()] or list(PEERS)
    if unknown := [name for name in names if name not in PEERS]:
        parser.error(f"no system {'; '.join(unknown)}; there are {'; '.join(PEERS)}")
    skipped = missing(names)
    for name, reason in skipped.items():
        print(f"skipped: {name}: {reason}", file=sys.stderr)
    present = [name for name in names if name not in skipped]
    result = await measure(present, given.rounds, (given.seconds, given.count, given.paced))
    print(table(result))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    if given.write:
        rates = {name: columns for name, columns in result.items() if name != LIMIT}
        write_plot(PLOT, bars(rates, {column: COLUMNS[column] for column in PLOTTED}))
        write_part(PART, section(result, skipped, given.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(run(main()))
