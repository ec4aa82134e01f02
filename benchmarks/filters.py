"""What a tag filter costs a consumer, and bodies that do not shrink a producer: ``python benchmarks/filters.py``.

Consume rates of messages that match, for every message, one in ten and one in 1,000, and the rate at which the queue is
passed, beside the same consumer without a filter. Then sends of 64 KB that compress badly (random bytes), with
compression on as by default, beside the same without. Interleaved rounds, medians; compare the ratios of one run only.
A cluster of one broker is started, with processes of its own for it and for Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from rmq_redis import AsyncProducer, AsyncPushConsumer, ConsumeFromWhere, Message, MessageExt
from rmq_redis.localcluster.cluster import Cluster, ClusterSpec
from rmq_redis.runtime import run

SHARES = {"all": 1, "1 in 10": 10, "1 in 1,000": 1000}
BATCH = 100
BIG_BODY_BYTES = 64 * 1024
SENDS_IN_FLIGHT = 16
DEADLINE_S = 300.0


async def fill(producer: AsyncProducer, topic: str, every: int, count: int) -> None:
    """Sends ``count`` messages of 256 bytes; each ``every``th one has the tag that is subscribed to."""
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        await producer.send_batch(
            [
                Message(topic, b"x" * 256, tags="wanted" if number % every == every - 1 else "other")
                for number in numbers
            ]
        )


async def consume(namesrv_addr: str, topic: str, group: str, expression: str, wanted: int) -> float:
    """Seconds from the start of a consumer of a group that is new until it has had ``wanted`` messages."""
    received = 0
    done = asyncio.Event()

    async def handle(message: MessageExt) -> None:
        nonlocal received
        received += 1
        if received >= wanted:
            done.set()

    consumer = AsyncPushConsumer(group, namesrv_addr, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
    consumer.subscribe(topic, expression, handle)
    began = time.perf_counter()
    async with consumer, asyncio.timeout(DEADLINE_S):
        await done.wait()
        return time.perf_counter() - began


async def send_big(producer: AsyncProducer, topic: str, count: int) -> float:
    """Sends a second of bodies of random bytes."""
    bodies = [os.urandom(BIG_BODY_BYTES) for _ in range(8)]

    async def worker(first: int) -> None:
        for number in range(first, count, SENDS_IN_FLIGHT):
            await producer.send(Message(topic, bodies[number % len(bodies)]))

    began = time.perf_counter()
    await asyncio.gather(*(worker(first) for first in range(SENDS_IN_FLIGHT)))
    return count / (time.perf_counter() - began)


async def measure_filters(namesrv_addr: str, rounds: int, count: int) -> None:
    async with AsyncProducer("bench", namesrv_addr) as producer:
        for name, every in SHARES.items():
            await fill(producer, f"filtered-{every}", every, count)
            print(f"stored: {count:,} messages, {name} with the tag", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in ("no filter", *SHARES)}
    for index in range(rounds):
        for name, values in seconds.items():
            every = SHARES.get(name, 1)
            expression = "wanted" if name in SHARES else "*"
            group = f"bench-{index}-{name.replace(' ', '-').replace(',', '')}"
            took_s = await consume(namesrv_addr, f"filtered-{every}", group, expression, count // every)
            values.append(took_s)
    base = count / statistics.median(seconds["no filter"])
    print(f"{'filter':<12} {'delivered/s':>12} {'passed/s':>12} {'passed, of no filter':>22}")
    for name, values in seconds.items():
        passed = count / statistics.median(values)
        print(f"{name:<12} {passed / SHARES.get(name, 1):12,.0f} {passed:12,.0f} {passed / base:22.2f}")


async def measure_bodies(namesrv_addr: str, rounds: int, count: int) -> None:
    rates: dict[str, list[float]] = {"compression": [], "no compression": []}
    options_of: dict[str, dict[str, int]] = {"compression": {}, "no compression": {"compress_over_bytes": 0}}
    for _ in range(rounds):
        for name, options in options_of.items():
            async with AsyncProducer("bench", namesrv_addr, **options) as producer:
                await send_big(producer, "big", 2 * SENDS_IN_FLIGHT)
                rates[name].append(await send_big(producer, "big", count))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"random bodies of 64 KB, {name:<15} {rate:9,.0f} sends/s")
    print(f"with compression, of none: {medians['compression'] / medians['no compression']:.2f}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=100_000, help="messages of each share of matches")
    parser.add_argument("--bodies", type=int, default=1000, help="sends of 64 KB in a round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmq-redis-filters-") as directory:
        spec = ClusterSpec(data_dir=Path(directory), namesrvs=1, brokers=1, slaves=0, log_level="warning", restart=())
        async with Cluster(spec) as cluster:
            await measure_filters(cluster.namesrv_addr, given.rounds, given.count)
            await measure_bodies(cluster.namesrv_addr, given.rounds, given.bodies)


if __name__ == "__main__":
    run(main())
