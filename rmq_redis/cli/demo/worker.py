"""The demo's producer and consumers: ``python -m rmq_redis.cli.demo.worker producer|consumer SETTINGS``.

A worker is an ordinary user of the SDK. It tells the demo what it does in JSON lines on stdout, a few a second:

| line | from | |
|---|---|---|
| ``{"assigned": ["broker-a/0", ...]}`` | consumer | its queues, whenever they change |
| ``{"handled": [[line, key, seq, broker_name, queue_id, handled_ns, sent_ns], ...]}`` | consumer | events, in order |
| ``{"sent": n, "repeated": n, "first_ns": t}`` | producer | how many are stored; how many had to be sent again |
| ``{"done": true}`` | producer | that was all |

Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
import tenacity

from ...background import every
from ...client.consume.push import AsyncPushConsumer
from ...client.produce.producer import AsyncProducer
from ...errors import RmqError
from ...model import ConsumeFromWhere, Message, MessageExt, MessageQueue, SendResult
from ...plugins.defaults.queues import HashOfKey
from ...runtime import run, setup_logging, stop_signals

TELL_PERIOD_S = 0.1
"""As often as the live view draws."""
SENDS_IN_FLIGHT = 100
ROUTE_PERIOD_S = 1.0
"""Routes are looked up this often, so that a broker that died and came back is used again soon."""
_GIVE_UP_S = 30.0
_PAUSE_S = 0.1
"""A broker that returns is used again without a visible delay."""

LINE, SENT_NS = "DEMO_LINE", "DEMO_SENT_NS"


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told.

    Attributes:
        path: JSON-lines file; only the producer reads it.
        key_field: field of an event that it is sharded by.
        seq_field: field that numbers the events of one key; None: the line number does.
        rate: events per second; 0: as fast as it goes.
    """

    namesrv_addr: str
    topic: str
    group: str
    path: str
    key_field: str
    seq_field: str | None
    rate: float
    log_level: str


def tell(**what: Any) -> None:
    """A line for the demo."""
    sys.stdout.write(json.dumps(what, separators=(",", ":")) + "\n")
    sys.stdout.flush()


async def consume(settings: WorkerSettings) -> None:
    """Consumes until SIGTERM."""
    handled: list[list[Any]] = []

    async def handle(message: MessageExt) -> None:
        event = json.loads(message.body)
        line = int(message.properties[LINE])
        seq = event[settings.seq_field] if settings.seq_field else line
        sent_ns = int(message.properties[SENT_NS])
        key = str(event[settings.key_field])
        handled.append([line, key, seq, message.broker_name, message.queue_id, time.monotonic_ns(), sent_ns])

    consumer = AsyncPushConsumer(
        settings.group,
        settings.namesrv_addr,
        orderly=True,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        poll_name_server_interval_s=ROUTE_PERIOD_S,
    )
    consumer.subscribe(settings.topic, "*", handle)
    assigned: list[str] = []

    async def report() -> None:
        nonlocal assigned
        queues = (queue for queue in consumer.assignment if queue.topic == settings.topic)
        names = [f"{queue.broker_name}/{queue.queue_id}" for queue in queues]
        if names != assigned:
            assigned = names
            tell(assigned=names)
        flush()

    def flush() -> None:
        if handled:
            tell(handled=handled)
            handled.clear()

    with stop_signals() as stop:
        async with consumer:
            reporting = every(TELL_PERIOD_S, report, "demo consumer: reporting", at_once=True)
            await stop.wait()
            await reporting.close()
        flush()


def events(settings: WorkerSettings) -> Iterator[tuple[int, bytes, str]]:
    """Line number, text and key of every event of the file."""
    with open(settings.path, "rb") as lines:
        for line, row in enumerate(lines, 1):
            text = row.strip()
            if text:
                yield line, text, str(json.loads(text)[settings.key_field])


class Producing:
    """Sends every line of the file; an event is sent when the one before it of the same key is stored."""

    def __init__(self, settings: WorkerSettings, producer: AsyncProducer, queues: Sequence[MessageQueue]) -> None:
        self._settings = settings
        self._producer = producer
        self._queues = queues
        # Not send(key=...), which shares the keys among the queues that are there now: the demo promises that an order
        # stays in its queue even while a broker is unreachable.
        self._choose = HashOfKey()
        self._newest: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(SENDS_IN_FLIGHT)
        self._first_ns = time.monotonic_ns()
        self._sent = self._repeated = 0

    async def run(self) -> None:
        """Returns when all events are stored. Raises the RmqError of one that could not be."""
        async with asyncio.TaskGroup() as tasks:
            for line, text, key in events(self._settings):
                await self._keep_rate(line)
                await self._room.acquire()
                self._newest[key] = task = tasks.create_task(self._send(line, text, key, self._newest.get(key)))
                task.add_done_callback(partial(self._finished, key))

    async def report(self) -> None:
        """Tells the demo how far it is."""
        tell(sent=self._sent, repeated=self._repeated, first_ns=self._first_ns)

    async def _keep_rate(self, line: int) -> None:
        rate = self._settings.rate
        if rate and (ahead_s := self._first_ns / 1e9 + line / rate - time.monotonic()) > 0.001:
            await asyncio.sleep(ahead_s)

    async def _send(self, line: int, text: bytes, key: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        properties = {LINE: str(line), SENT_NS: str(time.monotonic_ns())}
        message = Message(self._settings.topic, text, properties=properties)
        queue = self._choose(self._queues, message, key)
        policy = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_broker_away),
            stop=tenacity.stop_after_delay(_GIVE_UP_S),
            wait=tenacity.wait_fixed(_PAUSE_S),
            before_sleep=self._count_repeat,
            sleep=asyncio.sleep,
            reraise=True,
        )
        result: SendResult = await policy(self._producer.send, message, queue=queue)
        self._sent += 1
        self._repeated += result.attempts > 1

    def _count_repeat(self, _state: tenacity.RetryCallState) -> None:
        self._repeated += 1

    def _finished(self, key: str, task: asyncio.Task[None]) -> None:
        self._room.release()
        if self._newest.get(key) is task:
            del self._newest[key]


def is_broker_away(error: BaseException) -> bool:
    """Whether the queue's broker may take the event in a moment."""
    return isinstance(error, RmqError) and error.retriable


async def produce(settings: WorkerSettings) -> None:
    """Sends every line of the file, and reports meanwhile."""
    producer = AsyncProducer("demo-producer", settings.namesrv_addr, poll_name_server_interval_s=ROUTE_PERIOD_S)
    async with producer:
        producing = Producing(settings, producer, await producer.publish_queues(settings.topic))
        reporting = every(TELL_PERIOD_S, producing.report, "demo producer: reporting", at_once=True)
        try:
            await producing.run()
        finally:
            await reporting.close()
    await producing.report()
    tell(done=True)


def main() -> None:
    role, text = sys.argv[1:]
    settings = msgspec.json.decode(text, type=WorkerSettings)
    setup_logging(settings.log_level)
    try:
        run(produce(settings) if role == "producer" else consume(settings))
    except* RmqError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
