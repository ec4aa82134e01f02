"""The store's memory under an endless load: ``python benchmarks/retention.py``, prints JSON.

A cluster of its own (NameServer, one broker, the embedded Valkey with ``maxmemory`` and ``noeviction``).
``--in-flight`` sends are on their way for ``--seconds``; meanwhile the server's memory is read every 50 ms. Sends a
second are counted apart for the time before the first message was removed and after it: their difference is what
trimming costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import redis.asyncio

from rmq_redis import AsyncAdmin, AsyncProducer, Message
from rmq_redis.errors import RmqError
from rmq_redis.labs.benchmark.worker import percentile
from rmq_redis.localcluster.cluster import Cluster, ClusterSpec
from rmq_redis.runtime import run

TOPIC = "endless"
SAMPLE_S = 0.05


class Load:
    """Sends without end, until ``stop``."""

    def __init__(self, producer: AsyncProducer, in_flight: int, body_bytes: int) -> None:
        self.sent = 0
        self.refused: dict[str, int] = {}
        self.latencies_ms: list[float] = []
        self._going = True
        self._producer = producer
        self._body = b"x" * body_bytes
        self._tasks = [asyncio.create_task(self._keep_sending()) for _ in range(in_flight)]

    async def _keep_sending(self) -> None:
        while self._going:
            began = time.perf_counter()
            try:
                await self._producer.send(Message(TOPIC, self._body))
            except RmqError as error:
                name = type(error).__name__
                self.refused[name] = self.refused.get(name, 0) + 1
                await asyncio.sleep(0.01)
            else:
                self.sent += 1
                self.latencies_ms.append((time.perf_counter() - began) * 1000)

    async def stop(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)


async def measure(cluster: Cluster, max_bytes: int, in_flight: int, seconds: float, body_bytes: int) -> dict[str, Any]:
    """Sends for some time and gives the figures."""
    samples: list[int] = []
    async with (
        AsyncAdmin(cluster.namesrv_addr) as admin,
        AsyncProducer(
            "endless", cluster.namesrv_addr, retry_times_when_send_failed=0, compress_over_bytes=0
        ) as producer,
        redis.asyncio.Redis.from_url(cluster.store_url) as store,
    ):
        await store.config_set("maxmemory-policy", "noeviction")
        await store.config_set("maxmemory", max_bytes)
        await admin.create_topic(TOPIC, queue_nums=4)
        await admin.wait_for_route(TOPIC)
        queue = next(iter(await admin.topic_stats(TOPIC)))
        await producer.send(Message(TOPIC, b"first"), queue=queue)
        key = f"rmq:{{{queue.broker_name}}}:queue:{TOPIC}:{queue.queue_id}"

        async def has_trimmed() -> bool:
            info = await store.xinfo_stream(key)
            return int(info["last-generated-id"].partition(b"-")[2]) > info["length"]

        load = Load(producer, in_flight, body_bytes)
        began = time.perf_counter()
        first_trim: tuple[float, int] | None = None
        while (now := time.perf_counter()) - began < seconds:
            info = await store.info("memory")
            samples.append(info["used_memory"] - info["mem_not_counted_for_evict"])
            if first_trim is None and await has_trimmed():
                first_trim = now - began, load.sent
            await asyncio.sleep(SAMPLE_S)
        elapsed, sent = time.perf_counter() - began, load.sent
        await load.stop()
        stats = (await admin.topic_stats(TOPIC)).values()
    before_s, before = first_trim or (elapsed, sent)
    return {
        "seconds": round(elapsed, 1),
        "body_bytes": body_bytes,
        "max_bytes": max_bytes,
        "sent": load.sent,
        "sent_bodies_bytes": load.sent * body_bytes,
        "refused": load.refused,
        "kept": sum(offset.max_offset - offset.min_offset for offset in stats),
        "removed": sum(offset.min_offset for offset in stats),
        "memory_samples": len(samples),
        "memory_most_bytes": max(samples),
        "memory_most_share": round(max(samples) / max_bytes, 3),
        "memory_least_bytes_once_trimming": min(samples[int(before_s / elapsed * len(samples)) :], default=0),
        "first_removed_after_s": round(before_s, 2),
        "sends_per_s_before": round(before / before_s),
        "sends_per_s_once_trimming": round((sent - before) / (elapsed - before_s)) if elapsed > before_s else None,
        "latency_ms": {f"p{p}": round(percentile(sorted(load.latencies_ms), p / 100), 3) for p in (50, 99)},
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it is loaded")
    parser.add_argument("--max-megabytes", type=int, default=128, help="maxmemory of the store")
    parser.add_argument("--in-flight", type=int, default=100, help="sends that wait for their answer at any time")
    parser.add_argument("--body-bytes", type=int, default=256, help="size of a message body")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmq-redis-retention-") as directory:
        spec = ClusterSpec(data_dir=Path(directory), namesrvs=1, brokers=1, slaves=0, log_level="warning", restart=())
        async with Cluster(spec) as cluster:
            figures = await measure(
                cluster, given.max_megabytes << 20, given.in_flight, given.seconds, given.body_bytes
            )
            print(json.dumps(figures))


if __name__ == "__main__":
    run(main())
