"""How close to their time messages come while many others wait: ``python benchmarks/timers.py``, prints JSON.

A cluster of its own (NameServer, one broker, the embedded Valkey). ``--waiting`` timers that are due in an hour or
later are loaded first; then ``--rate`` timers fall due in every second of ``--seconds``, one after the other, and a
consumer in this process notes when it has each.
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

from rmq_redis import AsyncProducer, AsyncPushConsumer, ConsumeFromWhere, Message, MessageExt
from rmq_redis.labs.benchmark.worker import percentile
from rmq_redis.localcluster.cluster import Cluster, ClusterSpec
from rmq_redis.runtime import run

TOPIC = "timers"
IN_FLIGHT = 100
LEAD_S = 5.0
"""The first measured timer is due so many seconds after the last of them was sent, as far as that can be foreseen."""
HOUR_MS = 3_600_000


async def send_all(producer: AsyncProducer, due_times_ms: list[int], body: bytes) -> float:
    """Sends a timer for each time, ``IN_FLIGHT`` at once; sends a second."""
    left = iter(due_times_ms)

    async def keep_sending() -> None:
        for due_ms in left:
            await producer.send(Message(TOPIC, b"%d %b" % (due_ms, body)).with_deliver_at_ms(due_ms))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as senders:
        for _ in range(IN_FLIGHT):
            senders.create_task(keep_sending())
    return len(due_times_ms) / (time.perf_counter() - began)


async def measure(cluster: Cluster, waiting: int, rate: int, seconds: float, body_bytes: int) -> dict[str, Any]:
    """Loads, waits, and gives the figures; times in ms."""
    late_ms: list[float] = []
    moved_late_ms: list[int] = []
    count = int(rate * seconds)
    complete = asyncio.Event()

    async def note(message: MessageExt) -> None:
        due_ms = int(message.body.split()[0])
        late_ms.append(time.time() * 1000 - due_ms)
        moved_late_ms.append(message.store_timestamp_ms - due_ms)
        if len(late_ms) == count:
            complete.set()

    consumer = AsyncPushConsumer(
        "timers", cluster.namesrv_addr, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    )
    consumer.subscribe(TOPIC, "*", note)
    async with (
        AsyncProducer("timers", cluster.namesrv_addr) as producer,
        redis.asyncio.Redis.from_url(cluster.store_url) as store,
    ):
        body = b"x" * body_bytes
        now_ms = int(time.time() * 1000)
        empty_bytes = (await store.info("memory"))["used_memory"]
        sends_per_s = await send_all(
            producer, [now_ms + HOUR_MS + number * HOUR_MS // waiting for number in range(waiting)], body
        )
        waiting_bytes = (await store.info("memory"))["used_memory"] - empty_bytes
        first_ms = time.time() * 1000 + (LEAD_S + count / sends_per_s) * 1000
        async with consumer:
            await send_all(producer, [int(first_ms + number * 1000 / rate) for number in range(count)], body)
            lead_s = first_ms / 1000 - time.time()
            await complete.wait()
    late_ms.sort()
    moved_late_ms.sort()
    return {
        "waiting": waiting,
        "due_per_s": rate,
        "measured": count,
        "lead_s": round(lead_s, 3),
        "delivered_late_ms": _figures(late_ms),
        "moved_late_ms": _figures(moved_late_ms),
        "timer_sends_per_s": round(sends_per_s),
        "store_bytes_per_timer": round(waiting_bytes / waiting),
        "body_bytes": body_bytes,
    }


def _figures(values: list[Any]) -> dict[str, float]:
    return {name: round(percentile(values, share), 3) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, default=100_000, help="timers that wait all the time")
    parser.add_argument("--rate", type=int, default=500, help="timers that fall due in a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they fall due")
    parser.add_argument("--body-bytes", type=int, default=256, help="size of a message body")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmq-redis-timers-") as directory:
        spec = ClusterSpec(data_dir=Path(directory), namesrvs=1, brokers=1, slaves=0, log_level="warning", restart=())
        async with Cluster(spec) as cluster:
            print(json.dumps(await measure(cluster, given.waiting, given.rate, given.seconds, given.body_bytes)))


if __name__ == "__main__":
    run(main())
