"""A process that runs one load: ``main`` reads its settings as JSON on standard input and prints one JSON object.

A load that has warmed up calls ``begin``: that prints ``ready``, and returns when a line comes on standard input. So
several processes begin at the same time, and neither imports nor the first connections are measured.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Figures = dict[str, float]
"""What a load reports: ``per_s``; ``p50_ms`` and ``p99_ms``; ``client_us``, ``broker_us`` and ``redis_us``: the
CPU time of each process per message."""

DEADLINE_S = 120.0
"""Ends a load whose messages do not arrive; the slowest one takes a tenth of it."""


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """What a load is told.

    Attributes:
        seconds: length of a load without an end of its own, after ``warm_up_s``.
        in_flight: calls that wait for their answer at any time.
        count: messages of a load that ends by itself.
        rate: messages per second of a paced load.
        pids: processes whose CPU time is measured as well: ``{"broker": 123, "redis": 124}``.
        option: what else the load has to know.
    """

    namesrv_addr: str
    store_url: str = ""
    topic: str = ""
    group: str = ""
    body_bytes: int = 256
    seconds: float = 3.0
    warm_up_s: float = 1.0
    in_flight: int = 100
    batch: int = 100
    count: int = 0
    rate: float = 500.0
    pids: dict[str, int] = field(default_factory=dict)
    option: str = ""


Load = Callable[[LoadSettings], Awaitable[Figures]]


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0..1) of the sorted values lie; 0.0 of none."""
    if not sorted_values:
        return 0.0
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def latencies(times_ms: list[float]) -> Figures:
    """The percentiles of times in ms."""
    times_ms.sort()
    return {"p50_ms": percentile(times_ms, 0.5), "p99_ms": percentile(times_ms, 0.99)}


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its threads so far, in steps of 10 ms; 0.0 where /proc does not report it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # Fields 14 and 15, user and system time; the name, field 2, is in parentheses and may hold spaces.
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class Meter:
    """Time and CPU time from ``start`` to ``stop``."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._cpu_s: dict[str, float] = {}
        self._started_s = 0.0

    def _read(self) -> dict[str, float]:
        return {"client": time.process_time()} | {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def start(self) -> None:
        self._cpu_s = self._read()
        self._started_s = time.perf_counter()

    def stop(self, count: int) -> Figures:
        """The rate of ``count`` messages since the start, and what each cost."""
        seconds = time.perf_counter() - self._started_s
        spent = {name: value - self._cpu_s[name] for name, value in self._read().items()}
        costs = {f"{name}_us": value / max(count, 1) * 1e6 for name, value in spent.items()}
        return {"count": count, "seconds": seconds, "per_s": count / seconds} | costs


def begin() -> None:
    """Reports that this load is warm, and waits for its turn. Call it in a thread if an event loop has to go on."""
    gc.collect()
    print("ready", flush=True)
    sys.stdin.readline()


async def begin_load() -> None:
    """``begin`` for a load in an event loop."""
    await asyncio.to_thread(begin)


async def closed_loop(settings: LoadSettings, call: Callable[[], Awaitable[object]], messages: int = 1) -> Figures:
    """Runs a call of ``messages`` messages again and again, ``in_flight`` at any time, for ``seconds``."""
    loop = asyncio.get_running_loop()
    done = 0

    async def keep_calling(until_s: float) -> None:
        nonlocal done
        while loop.time() < until_s:
            await call()
            done += messages

    async def load(seconds: float) -> None:
        until_s = loop.time() + seconds
        await asyncio.gather(*(keep_calling(until_s) for _ in range(settings.in_flight)))

    await load(settings.warm_up_s)
    await begin_load()
    done = 0
    meter = Meter(settings.pids)
    meter.start()
    await load(settings.seconds)
    return meter.stop(done)


def main(loads: Mapping[str, Load]) -> None:
    """Runs the load that the first argument names."""
    from ...runtime import run

    settings = LoadSettings(**json.loads(sys.stdin.readline()))

    async def load() -> Figures:
        return await loads[sys.argv[1]](settings)

    print(json.dumps(run(load())), flush=True)
