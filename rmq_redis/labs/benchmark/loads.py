"""The loads of ``rmq-redis bench``: ``python -m rmq_redis.labs.benchmark.loads NAME``, see ``worker``.

Every client has its default settings, except that consumers begin at the first offset, and every message is a new one.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
import time

from ...client.blocking.producer import Producer
from ...client.consume.push import AsyncPushConsumer
from ...client.produce.producer import AsyncProducer
from ...model import Message, MessageExt
from . import worker
from .worker import DEADLINE_S, Figures, Load, LoadSettings, Meter, begin, begin_load, closed_loop, latencies

FROM_FIRST = "CONSUME_FROM_FIRST_OFFSET"
STAMP = struct.Struct(">q")
"""Time of a send in ns since 1970, at the beginning of a body; 0 in a message of the warm-up."""


async def send(settings: LoadSettings) -> Figures:
    """Individually acknowledged sends."""
    body = b"x" * settings.body_bytes
    async with AsyncProducer("bench", settings.namesrv_addr) as producer:
        return await closed_loop(settings, lambda: producer.send(Message(settings.topic, body)))


async def send_batch(settings: LoadSettings) -> Figures:
    """Batches of ``batch`` messages."""
    body = b"x" * settings.body_bytes
    async with AsyncProducer("bench", settings.namesrv_addr) as producer:

        async def call() -> None:
            await producer.send_batch([Message(settings.topic, body) for _ in range(settings.batch)])

        return await closed_loop(settings, call, settings.batch)


async def send_sync(settings: LoadSettings) -> Figures:
    """``Producer.send`` in a loop of one thread, which has no event loop."""
    return await asyncio.to_thread(_send_sync, settings)


def _send_sync(settings: LoadSettings) -> Figures:
    body = b"x" * settings.body_bytes
    with Producer("bench", settings.namesrv_addr) as producer:
        until_s = time.perf_counter() + settings.warm_up_s
        while time.perf_counter() < until_s:
            producer.send(Message(settings.topic, body))
        begin()
        times_ms: list[float] = []
        meter = Meter(settings.pids)
        meter.start()
        until_s = time.perf_counter() + settings.seconds
        while (started_s := time.perf_counter()) < until_s:
            producer.send(Message(settings.topic, body))
            times_ms.append((time.perf_counter() - started_s) * 1000)
        return meter.stop(len(times_ms)) | latencies(times_ms)


async def latency(settings: LoadSettings) -> Figures:
    """``AsyncProducer.send``, one after the other."""
    body = b"x" * settings.body_bytes
    async with AsyncProducer("bench", settings.namesrv_addr) as producer:
        for _ in range(200):  # every queue was used, every code path is warm
            await producer.send(Message(settings.topic, body))
        await begin_load()
        times_ms: list[float] = []
        for _ in range(settings.count):
            started_s = time.perf_counter()
            await producer.send(Message(settings.topic, body))
            times_ms.append((time.perf_counter() - started_s) * 1000)
        return latencies(times_ms)


class Arrivals:
    """Counts messages in handlers, also of several threads, and measures from the first of them to the last."""

    def __init__(self, settings: LoadSettings) -> None:
        self._wanted = settings.count
        self._number = itertools.count(1)
        self._meter = Meter(settings.pids)
        self._loop = asyncio.get_running_loop()
        self._complete: asyncio.Future[Figures] = self._loop.create_future()

    async def coroutine(self, _message: MessageExt) -> None:
        self.arrived()

    def plain(self, _message: MessageExt) -> None:
        self.arrived()

    def arrived(self, _body: bytes = b"") -> None:
        number = next(self._number)
        if number == 1:
            self._meter.start()
        if number == self._wanted:
            self._loop.call_soon_threadsafe(self._complete.set_result, self._meter.stop(number))

    async def figures(self) -> Figures:
        """Waits for the last message."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._complete


async def consume(settings: LoadSettings) -> Figures:
    """``count`` messages that are stored already; ``option``: ``coroutine`` or ``plain``, the kind of the handler."""
    arrivals = Arrivals(settings)
    consumer = AsyncPushConsumer(settings.group, settings.namesrv_addr, consume_from_where=FROM_FIRST)
    consumer.subscribe(settings.topic, "*", getattr(arrivals, settings.option or "coroutine"))
    await begin_load()
    async with consumer:
        return await arrivals.figures()


async def stamped_consumer(settings: LoadSettings) -> Figures:
    """Consumes messages with the times of their sends, for ``seconds`` or until it has ``count``."""
    times_ms: list[float] = []
    meter = Meter(settings.pids)
    complete = asyncio.Event()
    wanted = settings.count or float("inf")

    async def handler(message: MessageExt) -> None:
        (sent_ns,) = STAMP.unpack_from(message.body)
        if sent_ns:
            times_ms.append((time.time_ns() - sent_ns) / 1e6)
            if len(times_ms) >= wanted:
                complete.set()

    consumer = AsyncPushConsumer(settings.group, settings.namesrv_addr, consume_from_where=FROM_FIRST)
    consumer.subscribe(settings.topic, "*", handler)
    async with consumer:
        await begin_load()
        if not settings.count:  # with a count nothing was sent before, and the first of them may be here already
            times_ms.clear()
        meter.start()
        if settings.count:
            async with asyncio.timeout(settings.count / settings.rate + DEADLINE_S):
                await complete.wait()
        else:
            await asyncio.sleep(settings.seconds)
        return meter.stop(len(times_ms)) | latencies(times_ms)


async def stamped_producer(settings: LoadSettings) -> Figures:
    """Sends while a ``stamped_consumer`` consumes: ``count`` messages at ``rate``, or ``in_flight`` for ``seconds``."""
    filler = b"x" * (settings.body_bytes - STAMP.size)
    loop = asyncio.get_running_loop()
    async with AsyncProducer("bench", settings.namesrv_addr) as producer:
        warm_up = Message(settings.topic, STAMP.pack(0) + filler)
        for queue in await producer.publish_queues(settings.topic):
            for _ in range(25):  # the consumer's first pulls of each queue are over
                await producer.send(warm_up, queue=queue)

        async def send_stamped() -> None:
            await producer.send(Message(settings.topic, STAMP.pack(time.time_ns()) + filler))

        if not settings.count:
            return await closed_loop(settings, send_stamped)
        await begin_load()
        started_s = loop.time()
        for index in range(settings.count):
            pause_s = started_s + index / settings.rate - loop.time()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            await send_stamped()
        return {"count": settings.count, "seconds": loop.time() - started_s}


LOADS: dict[str, Load] = {
    "send": send,
    "send-batch": send_batch,
    "send-sync": send_sync,
    "latency": latency,
    "consume": consume,
    "stamped-consumer": stamped_consumer,
    "stamped-producer": stamped_producer,
}


if __name__ == "__main__":
    worker.main(LOADS)
