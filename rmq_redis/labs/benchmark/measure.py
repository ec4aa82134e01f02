"""Runs the loads of ``rmq-redis bench`` against a cluster and puts their figures beside what its store can do."""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...client.admin.admin import AsyncAdmin
from ...localcluster.cluster import Cluster
from . import limits
from .load_process import LoadProcess, run_loads
from .worker import Figures, LoadSettings

MARKS = {
    "send_acked_share": 0.15,
    "send_batch_share": 0.35,
    "consume_share": 0.25,
    "consume_per_s": 60_000.0,
    "send_p50_ms": 0.4,
    "e2e_p50_ms": 0.8,
}
"""First marks: shares of the store's own rate, or absolute figures. Consuming has to reach one of its two."""
COSTS = ("client_us", "broker_us", "redis_us")
"""CPU time of each process, in µs per message."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What to measure. All clients and servers have their default settings.

    Attributes:
        rounds: number of rounds; medians are reported.
        seconds: length of each measurement of a round.
        in_flight: sends that wait for their answer at any time.
        batches_in_flight: the same for batches.
    """

    rounds: int = 3
    seconds: float = 3.0
    body_bytes: int = 256
    in_flight: int = 100
    batch: int = 100
    batches_in_flight: int = 8
    consume_count: int = 200_000
    latency_count: int = 3000
    e2e_rate: float = 500.0
    e2e_count: int = 2500


@dataclass(frozen=True, kw_only=True)
class Target:
    """The cluster that is measured: its addresses, and the processes whose CPU time counts, by name."""

    namesrv_addr: str
    store_url: str
    pids: dict[str, int] = field(default_factory=dict)


def target_of(cluster: Cluster) -> Target:
    """What is measured of a cluster: the CPU time of its first broker and its embedded store."""
    pids = {"broker": cluster.brokers[0].pid}
    if cluster.embedded is not None:
        pids["redis"] = cluster.embedded.pid
    return Target(namesrv_addr=cluster.namesrv_addr, store_url=cluster.store_url, pids=pids)


async def measure(
    cluster: Cluster, settings: BenchmarkSettings, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measures a cluster of one broker.

    Returns:
        One flat dict: rates per second, times in ms, CPU times in µs per message, shares of the store's own rates.

    Raises:
        RmqError: a load failed; nothing is reported then.
    """
    async with AsyncAdmin(cluster.namesrv_addr) as admin:
        return await _Measurement(admin, target_of(cluster), settings, report).run()


class _Measurement:
    def __init__(
        self, admin: AsyncAdmin, target: Target, settings: BenchmarkSettings, report: Callable[[str], None]
    ) -> None:
        self._admin = admin
        self._target = target
        self._settings = settings
        self._report = report
        self._topics = 0
        self._values: dict[str, list[float]] = {}
        self._label = ""

    async def run(self) -> dict[str, Any]:
        settings = self._settings
        tool = ""
        for number in range(1, settings.rounds + 1):
            self._label = f"round {number} of {settings.rounds}"
            tool = await self._limits()
            await self._sends()
            await self._consuming()
            await self._both_at_once()
        self._label = "latencies"
        await self._latencies()
        result: dict[str, Any] = {name: round(statistics.median(values), 3) for name, values in self._values.items()}
        for name, limit in (("send_acked", "xadd"), ("send_batch", "xadd"), ("consume", "xrange")):
            result[f"{name}_share"] = round(result[f"{name}_per_s"] / result[f"limit_{limit}_per_s"], 4)
        return result | {
            "limit_tool": os.path.basename(tool),
            "body_bytes": settings.body_bytes,
            "in_flight": settings.in_flight,
            "batch": settings.batch,
            "rounds": settings.rounds,
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        }

    def _note(self, name: str, figures: Figures, text: str) -> None:
        for figure, value in figures.items():
            if figure.endswith(("_per_s", "_ms", "_us")) or figure == "per_s":
                self._values.setdefault(f"{name}_{figure}", []).append(value)
        self._report(f"{self._label}: {text:<38} {_figures_text(figures)}")

    def _load(self, topic: str, **changes: Any) -> LoadSettings:
        settings = self._settings
        given: dict[str, Any] = {
            "namesrv_addr": self._target.namesrv_addr,
            "topic": topic,
            "group": f"{topic}-group-{time.monotonic_ns()}",
            "body_bytes": settings.body_bytes,
            "seconds": settings.seconds,
            "warm_up_s": min(1.0, settings.seconds / 2),
            "in_flight": settings.in_flight,
            "batch": settings.batch,
            "rate": settings.e2e_rate,
            "pids": self._target.pids,
        }
        return LoadSettings(**given | changes)

    async def _topic(self) -> str:
        self._topics += 1
        name = f"bench-{os.getpid()}-{self._topics}"
        await self._admin.create_topic(name)
        return name

    async def _limits(self) -> str:
        settings = self._settings
        xadd, xrange, tool = await asyncio.to_thread(
            limits.measure, self._target.store_url, settings.body_bytes, min(settings.seconds, 2.0)
        )
        self._note("limit_xadd", {"per_s": xadd}, "the store alone, XADD")
        self._note("limit_xrange", {"per_s": xrange}, "the store alone, XRANGE")
        return tool

    async def _sends(self) -> None:
        for name, load, text in (
            ("send_acked", "send", "AsyncProducer.send, acknowledged"),
            ("send_sync", "send-sync", "Producer.send, one thread"),
        ):
            topic = await self._topic()
            (figures,) = await run_loads(LoadProcess(load, self._load(topic)))
            self._note(name, {key: value for key, value in figures.items() if key in ("per_s", *COSTS)}, text)
            await self._admin.delete_topic(topic)

    async def _consuming(self) -> None:
        settings = self._settings
        topic = await self._topic()
        (batched,) = await run_loads(LoadProcess("send-batch", self._load(topic, in_flight=settings.batches_in_flight)))
        self._note("send_batch", batched, "AsyncProducer.send_batch")
        count = int(min(batched["count"], settings.consume_count))
        for name, handler, text in (
            ("consume", "coroutine", "push consumer, coroutine handler"),
            ("consume_plain", "plain", "push consumer, plain function"),
        ):
            (figures,) = await run_loads(LoadProcess("consume", self._load(topic, count=count, option=handler)))
            self._note(name, figures, text)
        await self._admin.delete_topic(topic)

    async def _both_at_once(self) -> None:
        topic = await self._topic()
        load = self._load(topic)
        consumed, sent = await run_loads(LoadProcess("stamped-consumer", load), LoadProcess("stamped-producer", load))
        both = {"per_s": min(sent["per_s"], consumed["per_s"]), "p99_ms": consumed["p99_ms"]}
        self._note("both", both, "sends and consumer at the same time")
        await self._admin.delete_topic(topic)

    async def _latencies(self) -> None:
        settings = self._settings
        topic = await self._topic()
        (send,) = await run_loads(LoadProcess("latency", self._load(topic, count=settings.latency_count)))
        self._note("send", send, "one send after the other")
        await self._admin.delete_topic(topic)
        topic = await self._topic()
        load = self._load(topic, count=settings.e2e_count)
        way, _ = await run_loads(LoadProcess("stamped-consumer", load), LoadProcess("stamped-producer", load))
        self._note("e2e", {name: way[name] for name in ("p50_ms", "p99_ms")}, f"end to end at {settings.e2e_rate:g}/s")
        await self._admin.delete_topic(topic)


def _figures_text(figures: Figures) -> str:
    if "per_s" in figures:
        return f"{figures['per_s']:11,.0f} /s"
    return f"{figures['p50_ms']:.2f} / {figures['p99_ms']:.2f} ms"


def reached(result: dict[str, Any]) -> dict[str, bool]:
    """Which of the first marks a result reaches."""
    return {
        "send_acked_share": result["send_acked_share"] >= MARKS["send_acked_share"],
        "send_batch_share": result["send_batch_share"] >= MARKS["send_batch_share"],
        "consume_per_s": result["consume_per_s"] >= MARKS["consume_per_s"]
        or result["consume_share"] >= MARKS["consume_share"],
        "send_p50_ms": result["send_p50_ms"] <= MARKS["send_p50_ms"],
        "e2e_p50_ms": result["e2e_p50_ms"] <= MARKS["e2e_p50_ms"],
    }
