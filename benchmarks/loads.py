"""The loads of ``marks.py``, ``compare.py`` and ``curves.py`` beside those of ``rmq-redis bench``: ``loads.py NAME``.

Clients have their default settings, except that consumers begin at the first offset. A message is what a program
sends: a new ``Message`` each time.
"""

from __future__ import annotations

import asyncio
import collections
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis

from rmq_redis import (
    App,
    AsyncProducer,
    AsyncPushConsumer,
    AsyncSimpleConsumer,
    AsyncTransactionProducer,
    LocalTransactionState,
    Message,
    MessageExt,
    Producer,
    SimpleConsumer,
)
from rmq_redis.labs.benchmark import loads, worker
from rmq_redis.labs.benchmark.loads import FROM_FIRST, Arrivals
from rmq_redis.labs.benchmark.worker import Figures, LoadSettings, Meter, begin, begin_load, closed_loop, latencies

COMMAND = (sys.executable, __file__)
KEYS = 1000
"""Different sharding keys."""
HOUR_S = 3600
POP_MESSAGES = 32
"""What one POP gives at most."""
POP_LOOPS = 8
"""Loops of receiving and acknowledging in the consumer with an event loop."""


def timed_loop(settings: LoadSettings, call: Callable[[], object]) -> Figures:
    """Calls again and again in this thread: for ``warm_up_s``, then for ``seconds``."""
    times_ms: list[float] = []

    def load(seconds: float) -> None:
        until_s = time.perf_counter() + seconds
        while (started_s := time.perf_counter()) < until_s:
            call()
            times_ms.append((time.perf_counter() - started_s) * 1000)

    load(settings.warm_up_s)
    begin()
    times_ms.clear()
    meter = Meter(settings.pids)
    meter.start()
    load(settings.seconds)
    return meter.stop(len(times_ms)) | latencies(times_ms)


# --- producers -------------------------------------------------------------------------------------------------------


async def send_keyed(settings: LoadSettings) -> Figures:
    """As ``send``, with a tag, a key and a sharding key."""
    body = b"x" * settings.body_bytes
    number = 0
    async with AsyncProducer("bench", settings.namesrv_addr) as producer:

        async def call() -> None:
            nonlocal number
            number += 1
            message = Message(settings.topic, body, tags="paid", keys=[f"order-{number}"])
            await producer.send(message, key=f"customer-{number % KEYS}")

        return await closed_loop(settings, call)


async def send_random(settings: LoadSettings) -> Figures:
    """As ``send``, with bodies of random bytes, which do not compress."""
    bodies = [os.urandom(settings.body_bytes) for _ in range(8)]
    turn = 0
    async with AsyncProducer("bench", settings.namesrv_addr) as producer:

        async def call() -> None:
            nonlocal turn
            turn += 1
            await producer.send(Message(settings.topic, bodies[turn % len(bodies)]))

        return await closed_loop(settings, call)


async def send_delayed(settings: LoadSettings) -> Figures:
    """As ``send``, due in an hour."""
    body = b"x" * settings.body_bytes
    async with AsyncProducer("bench", settings.namesrv_addr) as producer:
        return await closed_loop(settings, lambda: producer.send(Message(settings.topic, body).with_delay_s(HOUR_S)))


async def send_over_connections(settings: LoadSettings) -> Figures:
    """As ``send``, by ``option`` producers in turn, each with a connection of its own."""
    body = b"x" * settings.body_bytes
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    producers = [
        AsyncProducer("bench", settings.namesrv_addr, instance_name=f"bench-{number}")
        for number in range(int(settings.option))
    ]
    turn = 0

    async def call() -> None:
        nonlocal turn
        turn += 1
        await producers[turn % len(producers)].send(Message(settings.topic, body))

    try:
        for producer in producers:
            await producer.start()
            await producer.send(Message(settings.topic, body))
        return await closed_loop(settings, call)
    finally:
        for producer in producers:
            await producer.close()


async def send_threads(settings: LoadSettings) -> Figures:
    """``Producer.send`` in loops of ``in_flight`` threads that share the producer."""
    return await asyncio.to_thread(_send_threads, settings)


def _send_threads(settings: LoadSettings) -> Figures:
    body = b"x" * settings.body_bytes
    counts = [0] * settings.in_flight

    def keep_sending(index: int, until_s: float) -> None:
        while time.perf_counter() < until_s:
            producer.send(Message(settings.topic, body))
            counts[index] += 1

    def load(seconds: float) -> None:
        until_s = time.perf_counter() + seconds
        threads = [threading.Thread(target=keep_sending, args=(index, until_s)) for index in range(len(counts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with Producer("bench", settings.namesrv_addr) as producer:
        load(settings.warm_up_s)
        begin()
        counts[:] = [0] * len(counts)
        meter = Meter(settings.pids)
        meter.start()
        load(settings.seconds)
        return meter.stop(sum(counts))


async def send_futures(settings: LoadSettings) -> Figures:
    """``Producer.send_async`` in one thread, which waits for the oldest future while ``in_flight`` are out."""
    return await asyncio.to_thread(_send_futures, settings)


def _send_futures(settings: LoadSettings) -> Figures:
    body = b"x" * settings.body_bytes
    waiting: collections.deque[Any] = collections.deque()
    with Producer("bench", settings.namesrv_addr) as producer:

        def call() -> None:
            if len(waiting) >= settings.in_flight:
                waiting.popleft().result()
            waiting.append(producer.send_async(Message(settings.topic, body)))

        figures = timed_loop(settings, call)
        for future in waiting:
            future.result()
        return {name: value for name, value in figures.items() if not name.endswith("_ms")}


class _AlwaysCommit:
    """A local transaction without work."""

    async def execute_local_transaction(self, _message: Message, _arg: object) -> LocalTransactionState:
        return LocalTransactionState.COMMIT_MESSAGE

    async def check_local_transaction(self, _message: MessageExt) -> LocalTransactionState:
        return LocalTransactionState.COMMIT_MESSAGE


async def transactions(settings: LoadSettings) -> Figures:
    """Half messages that are committed at once."""
    body = b"x" * settings.body_bytes
    async with AsyncTransactionProducer("bench-tx", _AlwaysCommit(), settings.namesrv_addr) as producer:
        return await closed_loop(settings, lambda: producer.send_message_in_transaction(Message(settings.topic, body)))


async def requests(settings: LoadSettings) -> Figures:
    """Requests to ``replier``, one after the other."""
    body = b"x" * settings.body_bytes
    async with AsyncProducer("bench", settings.namesrv_addr) as producer:
        for _ in range(50):  # the replier's first pulls are over
            await producer.request(Message(settings.topic, body))
        await begin_load()
        times_ms: list[float] = []
        until_s = time.perf_counter() + settings.seconds
        while (started_s := time.perf_counter()) < until_s:
            await producer.request(Message(settings.topic, body))
            times_ms.append((time.perf_counter() - started_s) * 1000)
        return latencies(times_ms)


async def replier(settings: LoadSettings) -> Figures:
    """Answers the requests of ``requests`` from the time that it is warm."""
    consumer = AsyncPushConsumer(settings.group, settings.namesrv_addr, consume_from_where=FROM_FIRST)

    @consumer.replier(settings.topic)
    async def answer(message: MessageExt) -> bytes:
        return message.body

    async with consumer:
        await begin_load()
    return {}


# --- consumers -------------------------------------------------------------------------------------------------------


async def fill(settings: LoadSettings) -> Figures:
    """Stores ``count`` messages for consumers, in batches; ``option``: their tag, then they have a property as well."""
    body = b"x" * settings.body_bytes
    tag = settings.option
    left = iter(range(0, settings.count, settings.batch))
    async with AsyncProducer("bench", settings.namesrv_addr) as producer:

        def message() -> Message:
            return Message(settings.topic, body, tags=tag, properties={"price": "10"} if tag else {})

        async def keep_sending(starts: Iterator[int]) -> None:
            for start in starts:
                size = min(settings.batch, settings.count - start)
                await producer.send_batch([message() for _ in range(size)])

        await begin_load()
        await asyncio.gather(*(keep_sending(left) for _ in range(4)))
        return {"count": settings.count}


async def consume_orderly(settings: LoadSettings) -> Figures:
    """As ``consume``, in order."""
    return await _consume(settings, "*", orderly=True)


async def consume_tag(settings: LoadSettings) -> Figures:
    """As ``consume``, with a tag filter that every message matches."""
    return await _consume(settings, settings.option)


async def consume_sql(settings: LoadSettings) -> Figures:
    """As ``consume``, with a condition that every message matches."""
    return await _consume(settings, "price > 5", "SQL92")


async def _consume(settings: LoadSettings, expression: str, kind: str = "TAG", *, orderly: bool = False) -> Figures:
    arrivals = Arrivals(settings)
    consumer = AsyncPushConsumer(settings.group, settings.namesrv_addr, consume_from_where=FROM_FIRST, orderly=orderly)
    consumer.subscribe(settings.topic, expression, arrivals.coroutine, expression_type=kind)
    await begin_load()
    async with consumer:
        return await arrivals.figures()


async def consume_app(settings: LoadSettings) -> Figures:
    """As ``consume``, by an ``App``."""
    arrivals = Arrivals(settings)
    app = App(settings.group, settings.namesrv_addr)
    app.consumer(settings.topic, consume_from_where=FROM_FIRST)(arrivals.coroutine)
    await begin_load()
    async with app:
        return await arrivals.figures()


async def pop_async(settings: LoadSettings) -> Figures:
    """``AsyncSimpleConsumer``: loops that receive 32 messages and acknowledge them."""
    arrivals = Arrivals(settings)
    async with AsyncSimpleConsumer(settings.group, settings.namesrv_addr) as consumer:
        consumer.subscribe(settings.topic)

        async def keep_receiving() -> None:
            while messages := await consumer.receive(POP_MESSAGES, await_duration_s=1.0):
                for _ in messages:
                    arrivals.arrived()
                await consumer.ack(messages)

        await begin_load()
        loops = [asyncio.create_task(keep_receiving()) for _ in range(POP_LOOPS)]
        try:
            return await arrivals.figures()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)


async def pop_sync(settings: LoadSettings) -> Figures:
    """``SimpleConsumer``: one thread that receives 32 messages and acknowledges them."""
    return await asyncio.to_thread(_pop_sync, settings)


def _pop_sync(settings: LoadSettings) -> Figures:
    received = 0
    with SimpleConsumer(settings.group, settings.namesrv_addr) as consumer:
        consumer.subscribe(settings.topic)
        begin()
        meter = Meter(settings.pids)
        meter.start()
        while received < settings.count:
            messages = consumer.receive(POP_MESSAGES, await_duration_s=10.0)
            consumer.ack(messages)
            received += len(messages)
        return meter.stop(received)


# --- others ----------------------------------------------------------------------------------------------------------


async def raw_redis(settings: LoadSettings) -> Figures:
    """redis-py without rmq-redis: XADD in pipelines of ``batch``, one after the other."""
    return await asyncio.to_thread(_raw_redis, settings)


def _raw_redis(settings: LoadSettings) -> Figures:
    body = b"x" * settings.body_bytes
    with redis.Redis.from_url(settings.store_url) as store:

        def call() -> None:
            pipeline = store.pipeline(transaction=False)
            for _ in range(settings.batch):
                pipeline.xadd(settings.topic, {b"m": body})
            pipeline.execute()

        try:
            figures = timed_loop(settings, call)
        finally:
            store.delete(settings.topic)
    return {
        name: value * settings.batch if name == "per_s" else value / settings.batch
        for name, value in figures.items()
        if name.endswith(("per_s", "_us"))
    }


LOADS = loads.LOADS | {
    "send-keyed": send_keyed,
    "send-random": send_random,
    "send-delayed": send_delayed,
    "send-over-connections": send_over_connections,
    "send-threads": send_threads,
    "send-futures": send_futures,
    "transactions": transactions,
    "requests": requests,
    "replier": replier,
    "fill": fill,
    "consume-orderly": consume_orderly,
    "consume-tag": consume_tag,
    "consume-sql": consume_sql,
    "consume-app": consume_app,
    "pop-async": pop_async,
    "pop-sync": pop_sync,
    "raw-redis": raw_redis,
}


if __name__ == "__main__":
    worker.main(LOADS)
