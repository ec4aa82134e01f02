"""The demo at work: a cluster, a topic, two consumers, a producer, and what they report."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ...client.admin.admin import AsyncAdmin
from ...localcluster.child import Child, ChildError
from ...localcluster.cluster import Cluster, ClusterSpec, process_line
from ...runtime import Stopped, stop_signals, unless_stopped
from .report import Result, Tally
from .view import View
from .worker import WorkerSettings

QUEUES_PER_BROKER = 4
"""A multiple of ``CONSUMERS``: each gets the same number."""
BROKERS = 2
"""The fewest that show a send moving to another broker."""
CONSUMERS = 2
"""The fewest that share queues."""
_ASSIGN_TIMEOUT_S = 30.0
_STALL_TIMEOUT_S = 40.0
_STOP_TIMEOUT_S = 15.0
_LINE_LIMIT_BYTES = 16 * 1024 * 1024


async def run_demo(view: View, directory: Path, settings: WorkerSettings, events: int, pause: bool) -> Result | None:
    """Starts everything, sends, consumes, stops everything; None when it was interrupted.

    Args:
        directory: for data and logs.
        settings: of the workers, except for the NameServers, which are started here.
        events: how many events there are in the file.
        pause: wait for a line on standard input when the cluster is ready.
    """
    # A NameServer that dies is not started again: that one of two is enough is a part of what is shown.
    spec = ClusterSpec(data_dir=directory, brokers=BROKERS, log_level=settings.log_level, restart=("store", "broker"))
    cluster = Cluster(spec, view.say)
    tally = Tally(events)
    view.say(f"{events:,} events of {settings.path}")

    async def work() -> Result:
        await cluster.start()
        view.say(f"ready {cluster.namesrv_addr}")
        if pause:
            await _line_of_stdin()
        await _create_topic(cluster, settings.topic)
        addressed = msgspec.structs.replace(settings, namesrv_addr=cluster.namesrv_addr)
        async with Workers(addressed, cluster, view.say) as workers:
            await workers.start_consumers(tally)
            await workers.start_producer(tally)
            with view.progress(tally):
                await workers.wait_until_done(tally)
        return tally.result()

    with stop_signals(on_second=cluster.kill) as stop:
        try:
            return await unless_stopped(stop, work())
        except Stopped:
            view.say("stopping")
            return None
        finally:
            await cluster.stop()


async def _line_of_stdin() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.readline()
    transport.close()


async def _create_topic(cluster: Cluster, topic: str) -> None:
    async with AsyncAdmin(cluster.namesrv_addr) as admin:
        await admin.create_topic(topic, queue_nums=QUEUES_PER_BROKER)
        async with asyncio.timeout(_ASSIGN_TIMEOUT_S):
            while len((await admin.wait_for_route(topic)).queue_datas) < BROKERS:
                await asyncio.sleep(0.02)


class Workers:
    """The producer process and the consumer processes."""

    def __init__(self, settings: WorkerSettings, cluster: Cluster, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._cluster = cluster
        self._say = say
        self._assigned: dict[str, list[str]] = {}
        self._changed = asyncio.Event()
        self._consumers: list[Child] = []
        self._producer: Child | None = None
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Workers:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stop()

    async def _start(self, role: str, name: str, listen: Callable[[dict[str, Any]], None]) -> Child:
        child = Child(name, self._cluster.log_dir / f"{name}.log")
        settings = msgspec.json.encode(self._settings).decode()
        await child.start("rmq_redis.cli.demo.worker", role, settings, line_limit_bytes=_LINE_LIMIT_BYTES)
        self._say(process_line(name, "", child.pid))
        self._readers.append(asyncio.create_task(self._read(child, listen)))
        return child

    async def _read(self, child: Child, listen: Callable[[dict[str, Any]], None]) -> None:
        while line := await child.stdout.readline():
            listen(json.loads(line))
            self._changed.set()

    async def start_consumers(self, tally: Tally) -> None:
        """Starts them, and waits until they have shared the queues: a move later would only repeat messages."""

        def listener(name: str) -> Callable[[dict[str, Any]], None]:
            def listen(what: dict[str, Any]) -> None:
                if "assigned" in what:
                    self._assigned[name] = what["assigned"]
                tally.consumer_said(what)

            return listen

        for number in range(1, CONSUMERS + 1):
            name = f"consumer-{number}"
            self._consumers.append(await self._start("consumer", name, listener(name)))
        try:
            async with asyncio.timeout(_ASSIGN_TIMEOUT_S):
                while not self._all_assigned():
                    self._check_alive()
                    await self._wait_for_news()
        except TimeoutError:
            shares = {name: len(queues) for name, queues in self._assigned.items()}
            self._say(f"the consumers did not share the queues in {_ASSIGN_TIMEOUT_S:g} s ({shares}); going on")

    def _all_assigned(self) -> bool:
        shares = list(self._assigned.values())
        queues = [queue for share in shares for queue in share]
        return (
            len(shares) == CONSUMERS and all(shares) and len(queues) == len(set(queues)) == BROKERS * QUEUES_PER_BROKER
        )

    async def start_producer(self, tally: Tally) -> None:
        self._producer = await self._start("producer", "producer", tally.producer_said)

    async def wait_until_done(self, tally: Tally) -> None:
        """Waits until every event was handled, or nothing has moved for a long time."""
        before, since = (-1, -1), time.monotonic()
        while not (tally.complete and tally.sent == tally.events):
            self._check_alive()
            if (tally.sent, tally.received) != before:
                before, since = (tally.sent, tally.received), time.monotonic()
            elif time.monotonic() - since > _STALL_TIMEOUT_S:
                self._say(f"nothing has moved for {_STALL_TIMEOUT_S:g} s; giving up")
                break
            await self._wait_for_news()
        with contextlib.suppress(ChildError):
            await self._stop()  # with what they say at the end: an event may have been handled twice

    async def _wait_for_news(self) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(0.5):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _check_alive(self) -> None:
        for consumer in list(self._consumers):
            if not consumer.running:
                ended = f"{consumer.name} (pid {consumer.pid}) has ended ({consumer.ended_how()})"
                self._say(f"{ended}; the other continues")
                self._consumers.remove(consumer)
        if not self._consumers:
            raise ChildError("no consumer is left")
        producer = self._producer
        if producer is not None and not producer.running and producer.process and producer.process.returncode != 0:
            raise ChildError(f"the producer has ended ({producer.ended_how()})")

    async def _stop(self) -> None:
        children = [*self._consumers, *([self._producer] if self._producer else [])]
        for child in children:
            child.terminate()
        await asyncio.gather(*(child.wait_or_kill(_STOP_TIMEOUT_S) for child in children))
        if self._readers:
            _, late = await asyncio.wait(self._readers, timeout=2.0)
            for reader in late:
                reader.cancel()
        self._readers.clear()
        for child in children:
            await child.stop(0.0)  # it has ended; this closes what is left of it
