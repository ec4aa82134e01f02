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
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from ...client.consume.push import AsyncPushConsumer
from ...client.produce.producer import AsyncProducer
from ...errors import RmqError
from ...model import ConsumeFromWhere, Message, MessageExt
from ...plugins.defaults.queues import HashOfKey
from ...runtime import Stopped, run, setup_logging, stop_signals, unless_stopped

TELL_PERIOD_S = 0.1
SENDS_IN_FLIGHT = 100
ROUTE_PERIOD_S = 1.0
"""Routes are looked up this often, so that a broker that died and came back is used again soon."""
_GIVE_UP_S = 30.0
_PAUSE_S = 0.1

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
        while True:
            names = [
                f"{queue.broker_name}/{queue.queue_id}"
                for queue in consumer.assignment
                if queue.topic == settings.topic
            ]
            if names != assigned:
                assigned = names
                tell(assigned=names)
            flush()
            await asyncio.sleep(TELL_PERIOD_S)

    def flush() -> None:
        if handled:
            tell(handled=handled)
            handled.clear()

    with stop_signals() as stop:
        async with consumer:
            try:
                await unless_stopped(stop, report())
            except Stopped:
                pass
        flush()


def events(settings: WorkerSettings) -> Iterator[tuple[int, bytes, str]]:
    """Line number, text and key of every event of the file."""
    with open(settings.path, "rb") as lines:
        for line, row in enumerate(lines, 1):
            text = row.strip()
            if text:
                yield line, text, str(json.loads(text)[settings.key_field])


async def produce(settings: WorkerSettings) -> None:
    """Sends every line of the file; an event is sent when the one before it of the same key is stored."""
    sent = repeated = 0
    first_ns = time.monotonic_ns()
    newest: dict[str, asyncio.Task[None]] = {}
    room = asyncio.Semaphore(SENDS_IN_FLIGHT)

    async def send(line: int, text: bytes, key: str, before: asyncio.Task[None] | None) -> None:
        nonlocal sent, repeated
        if before is not None:
            await before
        deadline = time.monotonic() + _GIVE_UP_S
        properties = {LINE: str(line), SENT_NS: str(time.monotonic_ns())}
        message = Message(settings.topic, text, properties=properties)
        queue = choose(queues, message, key)
        while True:
            try:
                result = await producer.send(message, queue=queue)
                break
            except RmqError as error:  # the queue's broker is away
                if not error.retriable or time.monotonic() > deadline:
                    raise
                repeated += 1
                await asyncio.sleep(_PAUSE_S)
        sent += 1
        repeated += result.attempts > 1

    def finished(key: str, task: asyncio.Task[None]) -> None:
        room.release()
        if newest.get(key) is task:
            del newest[key]

    async def report() -> None:
        while True:
            tell(sent=sent, repeated=repeated, first_ns=first_ns)
            await asyncio.sleep(TELL_PERIOD_S)

    producer = AsyncProducer("demo-producer", settings.namesrv_addr, poll_name_server_interval_s=ROUTE_PERIOD_S)
    async with producer, asyncio.TaskGroup() as tasks:
        # Not send(key=...), which shares the keys among the queues that are there now: the demo promises that an order
        # stays in its queue also while a broker is away.
        queues = await producer.publish_queues(settings.topic)
        choose = HashOfKey()
        reporter = tasks.create_task(report())
        for line, text, key in events(settings):
            if settings.rate and (ahead_s := first_ns / 1e9 + line / settings.rate - time.monotonic()) > 0.001:
                await asyncio.sleep(ahead_s)
            await room.acquire()
            newest[key] = task = tasks.create_task(send(line, text, key, newest.get(key)))
            task.add_done_callback(partial(finished, key))
        while newest:
            await asyncio.wait(newest.values())
            await asyncio.sleep(0)
        reporter.cancel()
    tell(sent=sent, repeated=repeated, first_ns=first_ns)
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
