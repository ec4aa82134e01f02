"""Runs the loads of ``worker`` against a cluster and puts their figures beside what its store can do."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...child_guard import end_with_parent
from ...client.admin.admin import AsyncAdmin
from ...errors import RmqError
from . import limits

MARKS = {
    "send_acked_share": 0.15,
    "send_batch_share": 0.35,
    "consume_share": 0.25,
    "consume_per_s": 60_000.0,
    "send_p50_ms": 0.4,
    "e2e_p50_ms": 0.8,
}
"""First marks: shares of the store's own rate, or absolute figures. Consuming has to reach one of its two."""


class BenchmarkError(RmqError):
    """A load did not run to its end."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What to measure.

    Attributes:
        rounds: how often limits, sends, batches and consuming are measured in turn; medians are reported.
        seconds: length of each of these measurements.
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
    queue_nums: int = 4
    pull_batch_size: int = 256


class _Worker:
    """One load in a process of its own."""

    def __init__(self, mode: str, settings: dict[str, Any]) -> None:
        self._mode = mode
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None

    async def warm(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rmq_redis.labs.benchmark.worker",
            self._mode,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=end_with_parent(),
        )
        await self._say(json.dumps(self._settings))
        await self._line()

    async def run(self) -> dict[str, Any]:
        """Lets it begin; its figures."""
        await self._say("go")
        result: dict[str, Any] = json.loads(await self._line())
        assert self._process is not None
        await self._process.wait()
        return result

    async def _say(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def _line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the {self._mode} load ended early, with exit code {await self._process.wait()}")
        return line

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def _run(mode: str, settings: dict[str, Any]) -> dict[str, Any]:
    worker = _Worker(mode, settings)
    try:
        await worker.warm()
        return await worker.run()
    finally:
        await worker.kill()


async def measure(
    namesrv_addr: str,
    store_url: str,
    settings: BenchmarkSettings,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures a cluster whose store is ``store_url``.

    Returns:
        One flat dict: rates per second, times in ms, shares of the store's own rates.

    Raises:
        RmqError: a load failed; nothing is reported then.
    """
    async with AsyncAdmin(namesrv_addr) as admin:
        return await _Measurement(admin, namesrv_addr, store_url, settings, report).run()


class _Measurement:
    def __init__(
        self,
        admin: AsyncAdmin,
        namesrv_addr: str,
        store_url: str,
        settings: BenchmarkSettings,
        report: Callable[[str], None],
    ) -> None:
        self._admin = admin
        self._store_url = store_url
        self._settings = settings
        self._report = report
        self._base = {
            "namesrv_addr": namesrv_addr,
            "body_bytes": settings.body_bytes,
            "warm_up_s": min(1.0, settings.seconds / 2),
            "seconds": settings.seconds,
            "batch": settings.batch,
            "rate": settings.e2e_rate,
            "pull_batch_size": settings.pull_batch_size,
        }
        self._number = 0

    async def _topic(self) -> str:
        self._number += 1
        name = f"bench-{os.getpid()}-{self._number}"
        nums = self._settings.queue_nums
        await self._admin.create_topic(name, read_queue_nums=nums, write_queue_nums=nums)
        return name

    async def run(self) -> dict[str, Any]:
        settings = self._settings
        rounds: dict[str, list[float]] = {}
        tool = ""
        for number in range(1, settings.rounds + 1):
            figures, tool = await self._round(f"round {number} of {settings.rounds}")
            for name, value in figures.items():
                rounds.setdefault(name, []).append(value)
            self._report(
                f"round {number} of {settings.rounds}: "
                + ", ".join(f"{name.removesuffix('_per_s')} {value:,.0f}/s" for name, value in figures.items())
            )
        result: dict[str, Any] = {name: round(statistics.median(values), 1) for name, values in rounds.items()}
        result |= await self._latencies()
        result["send_acked_share"] = round(result["send_acked_per_s"] / result["limit_xadd_per_s"], 4)
        result["send_batch_share"] = round(result["send_batch_per_s"] / result["limit_xadd_per_s"], 4)
        result["consume_share"] = round(result["consume_per_s"] / result["limit_xrange_per_s"], 4)
        result |= {
            "limit_tool": os.path.basename(tool),
            "body_bytes": settings.body_bytes,
            "in_flight": settings.in_flight,
            "batch": settings.batch,
            "rounds": settings.rounds,
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        }
        return result

    async def _round(self, label: str) -> tuple[dict[str, float], str]:
        settings = self._settings
        self._report(f"{label}: the store alone")
        xadd, xrange, tool = await asyncio.to_thread(
            limits.measure, self._store_url, settings.body_bytes, min(settings.seconds, 2.0)
        )
        self._report(f"{label}: sends")
        topic = await self._topic()
        sent = await _run("send", self._base | {"topic": topic, "in_flight": settings.in_flight})
        if sent["failed"]:
            raise BenchmarkError(f"{sent['failed']} sends failed; nothing about speed can be said")
        await self._admin.delete_topic(topic)
        self._report(f"{label}: batches")
        topic = await self._topic()
        batched = await _run("send-batch", self._base | {"topic": topic, "in_flight": settings.batches_in_flight})
        count = int(min(batched["count"], settings.consume_count))
        self._report(f"{label}: consuming {count:,} messages")
        consumed = await _run("consume", self._base | {"topic": topic, "group": f"{topic}-group", "count": count})
        await self._admin.delete_topic(topic)
        figures = {
            "limit_xadd_per_s": xadd,
            "limit_xrange_per_s": xrange,
            "send_acked_per_s": sent["count"] / sent["seconds"],
            "send_batch_per_s": batched["count"] / batched["seconds"],
            "consume_per_s": consumed["count"] / consumed["seconds"],
        }
        return figures, tool

    async def _latencies(self) -> dict[str, float]:
        settings = self._settings
        self._report("latency of single sends")
        topic = await self._topic()
        send = await _run("latency", self._base | {"topic": topic, "count": settings.latency_count})
        await self._admin.delete_topic(topic)
        self._report("latency from end to end")
        topic = await self._topic()
        load = self._base | {"topic": topic, "group": f"{topic}-group", "count": settings.e2e_count}
        consumer, producer = _Worker("e2e-consumer", load), _Worker("e2e-producer", load)
        try:
            await consumer.warm()
            await producer.warm()
            way = (await asyncio.gather(consumer.run(), producer.run()))[0]
        finally:
            await consumer.kill()
            await producer.kill()
        await self._admin.delete_topic(topic)
        return {
            "send_p50_ms": round(send["p50_ms"], 3),
            "send_p99_ms": round(send["p99_ms"], 3),
            "e2e_p50_ms": round(way["p50_ms"], 3),
            "e2e_p99_ms": round(way["p99_ms"], 3),
        }


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
