"""How speed changes as things grow: ``python benchmarks/curves.py``.

Size of bodies, queues of a topic, backlog, groups, connections, brokers: a table of points each, and with ``--write``
the tables and the plots of docs/performance.md. Default settings, 256-byte bodies, the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from marks import QUICK, Lab, Scale, own_lab, process
from pages import curves, write_part, write_plot

from rmq_redis.labs.benchmark import limits
from rmq_redis.labs.benchmark.load_process import run_loads
from rmq_redis.runtime import run

PART = "curves.py"
PLOT = "curves.svg"


@dataclass(frozen=True)
class Curve:
    """What grows, what is measured at each point, and the points."""

    title: str
    measure: Callable[[Lab, int], Awaitable[float]]
    points: tuple[int, ...]


async def of_size(lab: Lab, size: int) -> float:
    """Share of XADD of the same size, in percent."""
    limit = await asyncio.to_thread(limits.xadd, lab.target.store_url, size, lab.scale.seconds)
    in_flight = max(8, min(100, (2 << 20) // size))
    return 100 * (await lab.run("send-random", body_bytes=size, in_flight=in_flight))["per_s"] / limit


async def of_queues(lab: Lab, queues: int) -> float:
    """Sends per second, 100 in flight."""
    async with lab.topic(queue_nums=queues) as topic:
        (figures,) = await run_loads(process("send", lab.settings(topic)))
    return figures["per_s"]


async def of_backlog(lab: Lab, count: int) -> float:
    """Messages that a push consumer consumes per second."""
    async with lab.topic() as topic:
        await run_loads(process("fill", lab.settings(topic, count=count)))
        (figures,) = await run_loads(process("consume", lab.settings(topic, count=count)))
    return figures["per_s"]


async def of_groups(lab: Lab, groups: int) -> float:
    """Messages per second of all the groups that consume one topic at the same time."""
    count = lab.scale.backlog // 2
    topic = await lab.backlog(count)
    found = await run_loads(*(process("consume", lab.settings(topic, count=count)) for _ in range(groups)))
    return groups * count / max(figures["seconds"] for figures in found)


async def of_connections(lab: Lab, connections: int) -> float:
    """CPU time of the broker per send, in µs."""
    return (await lab.run("send-over-connections", option=str(connections)))["broker_us"]


async def of_brokers(lab: Lab, brokers: int) -> float:
    """Sends per second to a topic on all brokers, which share one store."""
    async with own_lab(lab.scale, brokers=brokers) as own:
        return (await own.run("send"))["per_s"]


CURVES = {
    "size": Curve("share of XADD in %, by body bytes", of_size, (256, 4096, 65_536, 1 << 20)),
    "queues": Curve("sends/s, by queues", of_queues, (1, 4, 16, 64, 256)),
    "backlog": Curve("consumed/s, by backlog", of_backlog, (10_000, 50_000, 250_000)),
    "groups": Curve("consumed/s in all, by groups", of_groups, (1, 2, 4, 8)),
    "connections": Curve("broker's CPU µs per send, by connections", of_connections, (1, 10, 100, 1000)),
    "brokers": Curve("sends/s, by brokers", of_brokers, (1, 2, 4)),
}


async def measure(lab: Lab, names: Sequence[str]) -> dict[str, dict[float, float]]:
    """Medians, by title and point."""
    values: dict[str, dict[float, list[float]]] = {CURVES[name].title: {} for name in names}
    for number in range(1, lab.scale.rounds + 1):
        for name in names:
            curve = CURVES[name]
            for point in curve.points if lab.scale.seconds > QUICK.seconds else curve.points[:2]:
                value = await curve.measure(lab, point)
                values[curve.title].setdefault(point, []).append(value)
                line = f"round {number} of {lab.scale.rounds}: {curve.title}: {point:,}: {value:,.4g}"
                print(line, file=sys.stderr, flush=True)
        await lab.drop_backlogs()
    return {
        title: {point: statistics.median(found) for point, found in points.items()} for title, points in values.items()
    }


def text_of(result: dict[str, dict[float, float]]) -> str:
    """The points as a Markdown table."""
    lines = ["| measured | points |", "|---|---|"]
    for title, points in result.items():
        lines.append(f"| {title} | " + ", ".join(f"{point:,}: {value:,.4g}" for point, value in points.items()) + " |")
    return "\n".join(lines)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", default="", help=f"of {', '.join(CURVES)}, separated by commas; default: all")
    parser.add_argument("--rounds", type=int, default=0, help="number of rounds; default: 3")
    parser.add_argument("--quick", action="store_true", help="two points each, as a check")
    parser.add_argument("--write", action="store_true", help="write tables and plots to docs/")
    given = parser.parse_args()
    names = [name for name in given.curves.split(",") if name] or list(CURVES)
    if unknown := [name for name in names if name not in CURVES]:
        parser.error(f"no curve {', '.join(unknown)}; there are {', '.join(CURVES)}")
    scale = QUICK if given.quick else Scale()
    async with own_lab(dataclasses.replace(scale, rounds=given.rounds or scale.rounds)) as lab:
        result = await measure(lab, names)
    print(text_of(result))
    if given.write:
        write_plot(PLOT, curves(result))
        write_part(PART, text_of(result) + f"\n\n![Speed as things grow]({PLOT})")
    return 0


if __name__ == "__main__":
    sys.exit(run(main()))
