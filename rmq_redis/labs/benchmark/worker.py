"""The processes that ``rmq-redis bench`` measures with: each runs one load and prints one JSON object.

``python -m rmq_redis.labs.benchmark.worker MODE`` with its settings as JSON on standard input. A worker that has warmed
up prints ``ready``, and begins when it reads a line.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

from ...client.consume.push import AsyncPushConsumer
from ...client.produce.producer import AsyncProducer
from ...errors import RmqError
from ...model import ConsumeFromWhere, Message, MessageExt

_STAMP = struct.Struct(">q")


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0..1) of the sorted values lie; 0.0 of none."""
    if not sorted_values:
        return 0.0
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


async def _begin() -> None:
    """Says that this worker is warm and waits for the word to begin."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def _send(settings: dict[str, Any]) -> dict[str, Any]:
    """Individually acknowledged sends, ``in_flight`` of them at any time, for ``seconds``."""
    body = b"x" * settings["body_bytes"]
    loop = asyncio.get_running_loop()
    async with AsyncProducer("bench-producer", settings["namesrv_addr"]) as producer:
        sent = failed = 0
        message = Message(settings["topic"], body)

        async def keep_sending(until_s: float) -> None:
            nonlocal sent, failed
            while loop.time() < until_s:
                try:
                    await producer.send(message)
                    sent += 1
                except RmqError:
                    failed += 1

        async def load(seconds: float) -> float:
            started = loop.time()
            await asyncio.gather(*(keep_sending(started + seconds) for _ in range(settings["in_flight"])))
            return loop.time() - started

        await load(settings["warm_up_s"])
        await _begin()
        sent = failed = 0
        cpu = time.process_time()
        elapsed = await load(settings["seconds"])
        cpu = time.process_time() - cpu
        return {"count": sent, "failed": failed, "seconds": elapsed, "cpu_us": cpu / max(sent, 1) * 1e6}


async def _send_batch(settings: dict[str, Any]) -> dict[str, Any]:
    """Batches of ``batch`` messages, ``in_flight`` batches at any time, for ``seconds``."""
    body = b"x" * settings["body_bytes"]
    loop = asyncio.get_running_loop()
    async with AsyncProducer("bench-producer", settings["namesrv_addr"]) as producer:
        batch = [Message(settings["topic"], body) for _ in range(settings["batch"])]
        sent = 0

        async def keep_sending(until_s: float) -> None:
            nonlocal sent
            while loop.time() < until_s:
                await producer.send_batch(batch)
                sent += len(batch)

        async def load(seconds: float) -> float:
            started = loop.time()
            await asyncio.gather(*(keep_sending(started + seconds) for _ in range(settings["in_flight"])))
            return loop.time() - started

        await load(settings["warm_up_s"])
        await _begin()
        sent = 0
        cpu = time.process_time()
        elapsed = await load(settings["seconds"])
        cpu = time.process_time() - cpu
        return {"count": sent, "failed": 0, "seconds": elapsed, "cpu_us": cpu / max(sent, 1) * 1e6}


async def _latency(settings: dict[str, Any]) -> dict[str, Any]:
    """One send after the other; the time of each in ms."""
    body = b"x" * settings["body_bytes"]
    async with AsyncProducer("bench-producer", settings["namesrv_addr"]) as producer:
        message = Message(settings["topic"], body)
        for _ in range(200):
            await producer.send(message)
        await _begin()
        times: list[float] = []
        for _ in range(settings["count"]):
            started = time.perf_counter()
            await producer.send(message)
            times.append((time.perf_counter() - started) * 1000)
        times.sort()
        return {"p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99), "count": len(times)}


async def _consume(settings: dict[str, Any]) -> dict[str, Any]:
    """Takes ``count`` messages that are there already, and commits."""
    received = 0
    first_s = last_s = 0.0
    done = asyncio.Event()
    wanted: int = settings["count"]

    async def handler(message: MessageExt) -> None:
        nonlocal received, first_s, last_s
        if not received:
            first_s = time.perf_counter()
        received += 1
        if received >= wanted:
            last_s = time.perf_counter()
            done.set()

    consumer = AsyncPushConsumer(
        settings["group"],
        settings["namesrv_addr"],
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        pull_batch_size=settings["pull_batch_size"],
    )
    consumer.subscribe(settings["topic"], "*", handler)
    await _begin()
    cpu = time.process_time()
    async with consumer:
        async with asyncio.timeout(120):
            await done.wait()
    cpu = time.process_time() - cpu
    return {"count": received, "seconds": last_s - first_s, "cpu_us": cpu / max(received, 1) * 1e6}


async def _e2e_consumer(settings: dict[str, Any]) -> dict[str, Any]:
    """Takes ``count`` messages whose bodies begin with the time they were sent; the way of each in ms."""
    times: list[float] = []
    done = asyncio.Event()
    wanted: int = settings["count"]

    async def handler(message: MessageExt) -> None:
        (sent_ns,) = _STAMP.unpack_from(message.body)
        if sent_ns:  # 0: a warm-up message
            times.append((time.time_ns() - sent_ns) / 1e6)
            if len(times) >= wanted:
                done.set()

    consumer = AsyncPushConsumer(
        settings["group"],
        settings["namesrv_addr"],
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
    )
    consumer.subscribe(settings["topic"], "*", handler)
    async with consumer:
        await _begin()
        async with asyncio.timeout(wanted / settings["rate"] + 60):
            await done.wait()
    times.sort()
    return {"p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99), "count": len(times)}


async def _e2e_producer(settings: dict[str, Any]) -> dict[str, Any]:
    """Sends ``count`` messages at ``rate`` a second, evenly, each with its time."""
    filler = b"x" * (settings["body_bytes"] - _STAMP.size)
    loop = asyncio.get_running_loop()
    async with AsyncProducer("bench-producer", settings["namesrv_addr"]) as producer:
        topic = settings["topic"]
        for queue in await producer.publish_queues(topic):
            for _ in range(25):
                await producer.send(Message(topic, _STAMP.pack(0) + filler), queue=queue)
        await _begin()
        started = loop.time()
        for index in range(settings["count"]):
            pause = started + index / settings["rate"] - loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
            await producer.send(Message(topic, _STAMP.pack(time.time_ns()) + filler))
        return {"count": settings["count"], "seconds": loop.time() - started}


_MODES = {
    "send": _send,
    "send-batch": _send_batch,
    "latency": _latency,
    "consume": _consume,
    "e2e-consumer": _e2e_consumer,
    "e2e-producer": _e2e_producer,
}


def main() -> None:
    """Runs the mode named by the first argument."""
    from ...runtime import run

    settings = json.loads(sys.stdin.readline())
    print(json.dumps(run(_MODES[sys.argv[1]](settings))), flush=True)


if __name__ == "__main__":
    main()
