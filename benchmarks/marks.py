"""Every speed mark of rmq-redis, measured in one run: ``python benchmarks/marks.py``.

A cluster of its own (a NameServer, one broker, the embedded store with its append-only file, everysec), default
settings, 256-byte bodies, loads in processes of their own. Each round measures the limit, XADD by redis-benchmark over
one connection in pipelines of 100, and then every step in turn; a row shows the median of the rounds. A share is the
median of each round's share. Rates of two runs cannot be compared on a machine that does anything else.

    python benchmarks/marks.py --list
    python benchmarks/marks.py --rows sends,batches,push-coroutine --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import loads
import peers
import redis.asyncio
from pages import write_part
from peers import Nats

from rmq_redis import AsyncAdmin, AsyncProducer, Message
from rmq_redis.labs.benchmark import limits
from rmq_redis.labs.benchmark.load_process import BenchmarkError, LoadProcess, run_loads
from rmq_redis.labs.benchmark.measure import COSTS, Target, target_of
from rmq_redis.labs.benchmark.worker import Figures, LoadSettings
from rmq_redis.localcluster.cluster import Cluster, ClusterSpec
from rmq_redis.runtime import run
from rmq_redis.store.embedded import EmbeddedServer

MANY_CONNECTIONS = 1000
TAG = "paid"
NATS = "NATS JetStream"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: number of rounds; the median counts.
        seconds: length of a measurement without an end of its own.
        backlog: messages that a consumer finds.
        pop_backlog: the same for a consumer that acknowledges them one by one.
        paced: messages of the measurement at 500 per second.
        stored: messages whose memory is measured.
        connections: the larger number of connections.
    """

    rounds: int = 3
    seconds: float = 2.0
    backlog: int = 200_000
    pop_backlog: int = 40_000
    paced: int = 2000
    stored: int = 50_000
    connections: int = MANY_CONNECTIONS


QUICK = Scale(rounds=1, seconds=0.3, backlog=4000, pop_backlog=1000, paced=100, stored=2000, connections=20)
"""Shows that everything runs; its figures mean nothing."""


class Lab:
    """The cluster, and what the steps of one round share."""

    def __init__(self, target: Target, admin: AsyncAdmin, scale: Scale) -> None:
        self.target = target
        self.scale = scale
        self._admin = admin
        self._topics = 0
        self._backlogs: dict[str, str] = {}

    def settings(self, topic: str = "", **changes: Any) -> LoadSettings:
        """Settings of a load against the cluster."""
        given: dict[str, Any] = {
            "namesrv_addr": self.target.namesrv_addr,
            "store_url": self.target.store_url,
            "topic": topic,
            "group": f"group-{time.monotonic_ns()}",
            "seconds": self.scale.seconds,
            "warm_up_s": self.scale.seconds / 2,
            "pids": self.target.pids,
        }
        return LoadSettings(**given | changes)

    @contextlib.asynccontextmanager
    async def topic(self, **options: Any) -> AsyncIterator[str]:
        """A new topic, deleted at the end."""
        self._topics += 1
        name = f"marks-{os.getpid()}-{self._topics}"
        await self._admin.create_topic(name, **options)
        try:
            yield name
        finally:
            await self._admin.delete_topic(name)

    async def run(self, load: str, **changes: Any) -> Figures:
        """One load on a topic of its own."""
        async with self.topic() as topic:
            (figures,) = await run_loads(process(load, self.settings(topic, **changes)))
            return figures

    async def backlog(self, count: int, tag: str = "") -> str:
        """A topic with stored messages, which the steps of this round share."""
        kind = f"{count}{tag}"
        if kind not in self._backlogs:
            self._topics += 1
            topic = self._backlogs[kind] = f"marks-{os.getpid()}-{self._topics}"
            await self._admin.create_topic(topic)
            await run_loads(process("fill", self.settings(topic, count=count, option=tag)))
        return self._backlogs[kind]

    async def drop_backlogs(self) -> None:
        """Deletes the topics of this round."""
        for topic in self._backlogs.values():
            await self._admin.delete_topic(topic)
        self._backlogs.clear()


def process(load: str, settings: LoadSettings) -> LoadProcess:
    """A load of ``loads.py`` in a process of its own."""
    return LoadProcess(load, settings, loads.COMMAND)


@contextlib.asynccontextmanager
async def own_lab(scale: Scale, store: str = "", brokers: int = 1) -> AsyncIterator[Lab]:
    """A cluster and a lab that measures it."""
    with tempfile.TemporaryDirectory(prefix="rmq-redis-marks-") as directory:
        spec = ClusterSpec(
            data_dir=Path(directory),
            namesrvs=1,
            brokers=brokers,
            slaves=0,
            store=store,
            log_level="warning",
            restart=(),
        )
        async with Cluster(spec) as cluster, AsyncAdmin(cluster.namesrv_addr) as admin:
            yield Lab(target_of(cluster), admin, scale)


# --- steps: what is measured in each round ---------------------------------------------------------------------------

Step = Callable[[Lab], Awaitable[Figures]]


def xadd(body_bytes: int) -> Step:
    async def step(lab: Lab) -> Figures:
        rate = await asyncio.to_thread(limits.xadd, lab.target.store_url, body_bytes, lab.scale.seconds)
        return {"per_s": rate}

    return step


def load(name: str, **changes: Any) -> Step:
    """A load of producers on a topic of its own."""
    return lambda lab: lab.run(name, **changes)


def consumer(name: str, option: str = "") -> Step:
    """A load that consumes the backlog; an option that is a tag has a backlog with this tag."""

    async def step(lab: Lab) -> Figures:
        count = lab.scale.pop_backlog if name.startswith("pop-") else lab.scale.backlog
        topic = await lab.backlog(count, option if option == TAG else "")
        (figures,) = await run_loads(process(name, lab.settings(topic, count=count, option=option)))
        return figures

    return step


async def both_at_once(lab: Lab) -> Figures:
    async with lab.topic() as topic:
        settings = lab.settings(topic)
        consumed, sent = await run_loads(process("stamped-consumer", settings), process("stamped-producer", settings))
    slower = min(consumed, sent, key=lambda figures: figures["per_s"])
    return {name: consumed[name] for name in ("p50_ms", "p99_ms")} | {
        "per_s": slower["per_s"],
        "client_us": sent["client_us"] + consumed["client_us"],
        "broker_us": consumed["broker_us"],
        "redis_us": consumed["redis_us"],
    }


async def end_to_end(lab: Lab) -> Figures:
    async with lab.topic() as topic:
        settings = lab.settings(topic, count=lab.scale.paced)
        way, _ = await run_loads(process("stamped-consumer", settings), process("stamped-producer", settings))
    return {name: way[name] for name in ("p50_ms", "p99_ms")}


async def nats_end_to_end(lab: Lab) -> Figures:
    """The same through NATS JetStream and nats-py."""
    if reason := Nats.missing():
        raise BenchmarkError(reason)
    with tempfile.TemporaryDirectory(prefix="rmq-redis-marks-") as directory:
        async with Nats.server(Path(directory)) as address:
            given: dict[str, Any] = {"namesrv_addr": address, "option": NATS, "pids": {}}
            settings = lab.settings("marks", count=lab.scale.paced, **given)
            consumer = LoadProcess("paced-consumer", settings, peers.COMMAND)
            return (await run_loads(consumer, LoadProcess("paced-producer", settings, peers.COMMAND)))[0]


async def sequential(lab: Lab) -> Figures:
    return await lab.run("latency", count=max(100, int(1000 * lab.scale.seconds)))


async def request_reply(lab: Lab) -> Figures:
    async with lab.topic() as topic:
        settings = lab.settings(topic)
        replier = process("replier", settings)
        try:
            await replier.warm()
            (figures,) = await run_loads(process("requests", settings))
        finally:
            await replier.kill()
    return figures


async def many_connections(lab: Lab) -> Figures:
    return await lab.run("send-over-connections", option=str(lab.scale.connections))


async def memory(lab: Lab) -> Figures:
    """Memory of the store per message, beside that of entries with the body alone; in a store of their own."""
    count = lab.scale.stored
    body = b"x" * 256
    async with (
        own_lab(lab.scale) as own,
        redis.asyncio.Redis.from_url(own.target.store_url) as store,
        own.topic() as topic,
        AsyncProducer("bench", own.target.namesrv_addr) as producer,
    ):
        for queue in await producer.publish_queues(topic):  # its keys exist
            await producer.send(Message(topic, body), queue=queue)
        empty = (await store.info("memory"))["used_memory_dataset"]
        left = iter(range(count))

        async def keep_sending() -> None:
            for _ in left:
                await producer.send(Message(topic, body))

        await asyncio.gather(*(keep_sending() for _ in range(100)))
        ours = (await store.info("memory"))["used_memory_dataset"] - empty
        for _ in range(0, count, 100):
            pipeline = store.pipeline(transaction=False)
            for _ in range(100):
                pipeline.xadd("plain", {b"m": body})
            await pipeline.execute()
        plain = await store.memory_usage("plain", samples=0)
    return {"bytes": ours / count, "plain_bytes": plain / count}


def confirmed(**environ: str) -> Step:
    """Sends to a cluster of its own whose broker confirms more, beside one with the same store that does not."""

    async def step(lab: Lab) -> Figures:
        with tempfile.TemporaryDirectory(prefix="rmq-redis-marks-") as directory, contextlib.ExitStack() as servers:
            store = servers.enter_context(EmbeddedServer(Path(directory, "store")))
            if environ.get("RMQ_REDIS_BROKER_ROLE") == "SYNC_MASTER":
                replica = {"replicaof 127.0.0.1": str(store.port)}
                servers.enter_context(EmbeddedServer(Path(directory, "replica"), settings=replica))
            rates: list[Figures] = []
            for changes in ({}, environ):
                with changed_environ(changes):
                    async with own_lab(lab.scale, store.url) as own:
                        rates.append(await own.run("send", pids=own.target.pids | {"redis": store.pid}))
        plain, sure = rates
        return sure | {"share": sure["per_s"] / plain["per_s"]}

    return step


@contextlib.contextmanager
def changed_environ(changes: Mapping[str, str]) -> Any:
    """Sets environment variables that the processes started meanwhile inherit."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


LIMIT = "xadd"
STEPS: dict[str, Step] = {
    LIMIT: xadd(256),
    "raw-redis": load("raw-redis"),
    "sends": load("send"),
    "sends-keyed": load("send-keyed"),
    "sequential": sequential,
    "sync-one": load("send-sync"),
    "sync-threads": load("send-threads", in_flight=16),
    "sync-async": load("send-futures"),
    "batches": load("send-batch", in_flight=8),
    "push-coroutine": consumer("consume", "coroutine"),
    "push-plain": consumer("consume", "plain"),
    "push-app": consumer("consume-app"),
    "push-orderly": consumer("consume-orderly"),
    "push-tag": consumer("consume-tag", TAG),
    "push-sql": consumer("consume-sql", TAG),
    "both": both_at_once,
    "e2e": end_to_end,
    "e2e-nats": nats_end_to_end,
    "pop-async": consumer("pop-async"),
    "pop-sync": consumer("pop-sync"),
    "transactions": load("transactions"),
    "delayed": load("send-delayed"),
    "request-reply": request_reply,
    "xadd-4k": xadd(4096),
    "body-4k": load("send-random", body_bytes=4096),
    "xadd-64k": xadd(65_536),
    "body-64k": load("send-random", body_bytes=65_536, in_flight=32),
    "xadd-1m": xadd(1 << 20),
    "body-1m": load("send-random", body_bytes=1 << 20, in_flight=8),
    "connection": load("send-over-connections", option="1"),
    "connections": many_connections,
    "memory": memory,
    "sync-master": confirmed(RMQ_REDIS_BROKER_ROLE="SYNC_MASTER"),
    "sync-flush": confirmed(RMQ_REDIS_FLUSH_DISK_TYPE="SYNC_FLUSH"),
}


# --- rows: what is judged --------------------------------------------------------------------------------------------

Round = Mapping[str, Figures]
"""The figures of one round, by step."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One mark.

    Attributes:
        steps: what it needs of a round; the first one's CPU times are shown.
        value: the judged figure of one round.
        mark: what the value has to reach, or must not exceed if ``at_most``.
        form: how a value is written: ``%``, ``/s``, ``ms``, ``×`` or ``bytes``.
    """

    work: str
    steps: tuple[str, ...]
    value: Callable[[Round], float]
    mark: float
    form: str
    at_most: bool = False

    def passed(self, value: float) -> bool:
        return value <= self.mark if self.at_most else value >= self.mark


def share(step: str, of: str, mark: float, work: str) -> Row:
    """The rate of a step has to be a share of the rate of another."""
    return Row(work=work, steps=(step, of), value=lambda r: r[step]["per_s"] / r[of]["per_s"], mark=mark, form="%")


def rate(step: str, mark: float, work: str) -> Row:
    return Row(work=work, steps=(step,), value=lambda r: r[step]["per_s"], mark=mark, form="/s")


def time_of(step: str, figure: str, mark: float, work: str) -> Row:
    return Row(work=work, steps=(step,), value=lambda r: r[step][figure], mark=mark, form="ms", at_most=True)


ROWS: dict[str, Row] = {
    "sends": share("sends", LIMIT, 0.40, "AsyncProducer.send, 100 in flight, of XADD"),
    "sends-raw": share("sends", "raw-redis", 1.0, "the same, of redis-py in batches of 100"),
    "sends-keyed": share("sends-keyed", LIMIT, 0.30, "the same with tag, key and sharding key, of XADD"),
    "sync-one": Row(
        work="Producer.send, one thread: p50, of AsyncProducer's",
        steps=("sync-one", "sequential"),
        value=lambda r: r["sync-one"]["p50_ms"] / r["sequential"]["p50_ms"],
        mark=1.4,
        form="×",
        at_most=True,
    ),
    "sync-threads": rate("sync-threads", 25_000, "Producer.send, 16 threads"),
    "sync-async": rate("sync-async", 40_000, "Producer.send_async, 100 in flight"),
    "batches": share("batches", LIMIT, 0.55, "batches of 100, 8 in flight, of XADD"),
    "push-coroutine": rate("push-coroutine", 110_000, "push consumer, coroutine"),
    "push-plain": rate("push-plain", 110_000, "push consumer, plain function"),
    "push-app": rate("push-app", 110_000, "App"),
    "push-orderly": rate("push-orderly", 110_000, "push consumer, orderly"),
    "push-tag": share("push-tag", "push-coroutine", 0.80, "push consumer with a tag filter, of none"),
    "push-sql": share("push-sql", "push-coroutine", 0.60, "push consumer with SQL92, of none"),
    "both": rate("both", 50_000, "sends and consumer at once, the slower"),
    "both-p99": time_of("both", "p99_ms", 50.0, "the same, p99 from send to handler"),
    "e2e": time_of("e2e", "p50_ms", 0.4, "from send to handler at 500/s, p50"),
    "e2e-p99": Row(
        work="the same, p99, of NATS JetStream's",
        steps=("e2e", "e2e-nats"),
        value=lambda r: r["e2e"]["p99_ms"] / r["e2e-nats"]["p99_ms"],
        mark=1.0,
        form="×",
        at_most=True,
    ),
    "pop-async": rate("pop-async", 40_000, "AsyncSimpleConsumer, 8 loops"),
    "pop-sync": rate("pop-sync", 15_000, "SimpleConsumer, one thread"),
    "transactions": rate("transactions", 15_000, "transactions, 100 in flight"),
    "delayed": rate("delayed", 30_000, "delayed sends, 100 in flight"),
    "request-reply": time_of("request-reply", "p50_ms", 0.6, "request and reply, p50"),
    "body-4k": share("body-4k", "xadd-4k", 0.5, "random bodies of 4 KB, 100 in flight, of XADD"),
    "body-64k": share("body-64k", "xadd-64k", 0.5, "random bodies of 64 KB, 32 in flight, of XADD"),
    "body-1m": share("body-1m", "xadd-1m", 0.5, "random bodies of 1 MB, 8 in flight, of XADD"),
    "connections": Row(
        work="broker's CPU time per send, 1,000 connections, of one",
        steps=("connections", "connection"),
        value=lambda r: r["connections"]["broker_us"] / max(r["connection"]["broker_us"], 0.01),
        mark=1.5,
        form="×",
        at_most=True,
    ),
    "memory": Row(
        work="memory of the store per message",
        steps=("memory",),
        value=lambda r: r["memory"]["bytes"],
        mark=420,
        form="bytes",
        at_most=True,
    ),
    "sync-master": Row(
        work="SYNC_MASTER, of ASYNC_MASTER",
        steps=("sync-master",),
        value=lambda r: r["sync-master"]["share"],
        mark=0.8,
        form="%",
    ),
    "sync-flush": Row(
        work="SYNC_FLUSH, of ASYNC_FLUSH",
        steps=("sync-flush",),
        value=lambda r: r["sync-flush"]["share"],
        mark=0.8,
        form="%",
    ),
}


OPTIONAL = {"e2e-p99"}
"""Needs a server and a client that are not ours."""


def written(value: float, form: str) -> str:
    """A value as its row writes it."""
    if form == "%":
        return f"{value:.1%}"
    if form == "/s":
        return f"{value:,.0f}/s"
    return f"{value:.2f} {form}" if value < 100 else f"{value:.0f} {form}"


async def measure(lab: Lab, names: Sequence[str], report: Callable[[str], None]) -> list[dict[str, Figures]]:
    """Runs the steps of the rows, round by round. A step that fails is reported, and missing in its round."""
    needed = {LIMIT, *(step for name in names for step in ROWS[name].steps)}
    rounds: list[dict[str, Figures]] = []
    for number in range(1, lab.scale.rounds + 1):
        figures: dict[str, Figures] = {}
        for name, step in STEPS.items():
            if name not in needed:
                continue
            try:
                figures[name] = await step(lab)
                text = ", ".join(f"{key} {value:,.5g}" for key, value in figures[name].items())
            except Exception as error:  # one row must not cost the others
                text = f"failed: {type(error).__name__}: {error}"
            report(f"round {number} of {lab.scale.rounds}: {name}: {text}")
        await lab.drop_backlogs()
        rounds.append(figures)
    return rounds


def judge(rounds: Sequence[Round], names: Sequence[str]) -> list[dict[str, Any]]:
    """A dict per row: medians of the rounds that have all its steps. A row without such a round has no value."""
    judged: list[dict[str, Any]] = []
    for name in names:
        row = ROWS[name]
        whole = [figures for figures in rounds if all(step in figures for step in row.steps)]
        result: dict[str, Any] = {"row": name, "work": row.work, "mark": row.mark, "at_most": row.at_most}
        if whole:
            value = statistics.median(row.value(figures) for figures in whole)
            first = [figures[row.steps[0]] for figures in whole]
            details = {key: statistics.median(one.get(key, 0.0) for one in first) for key in first[0]}
            result |= {"value": value, "passed": row.passed(value), "figures": details}
        judged.append(result)
    return judged


def print_marks(judged: Sequence[Mapping[str, Any]], limit_per_s: float) -> None:
    """Prints the table."""
    print(f"{'row':<15} {'measured':>12} {'mark':>13}      {'rate':>11}  {'CPU, µs*':>18}  what is measured")
    for result in judged:
        row = ROWS[result["row"]]
        mark = f"{'≤' if row.at_most else '≥'} {written(row.mark, row.form)}"
        value, speed, costs, verdict = texts(result)
        print(f"{result['row']:<15} {value:>12} {mark:>13} {verdict:<4} {speed:>11}  {costs:>18}  {row.work}")
    passed = sum(bool(result.get("passed")) for result in judged)
    print(f"{passed} of {len(judged)} marks reached. XADD alone: {limit_per_s:,.0f}/s, median of the rounds.")
    print("* CPU time per message: client + broker + store.")


def markdown(judged: Sequence[Mapping[str, Any]], limit_per_s: float, scale: Scale) -> str:
    """The table for the page."""
    lines = [
        f"{datetime.datetime.now(tz=datetime.UTC).date()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"median of {scale.rounds} rounds. XADD alone: {limit_per_s:,.0f}/s.",
        "",
        "| row | what is measured | rate | result | mark | | CPU per message, µs: client + broker + Redis |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in judged:
        row = ROWS[result["row"]]
        mark = f"{'≤' if row.at_most else '≥'} {written(row.mark, row.form)}"
        value, speed, costs, verdict = texts(result)
        lines.append(f"| `{result['row']}` | {row.work} | {speed} | {value} | {mark} | {verdict} | {costs} |")
    return "\n".join(lines)


def texts(result: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Value, rate, CPU times and verdict of a row, as both tables write them."""
    if "value" not in result:
        return "no result", "", "", ""
    figures = result["figures"]
    speed = f"{figures['per_s']:,.0f}/s" if "per_s" in figures else ""
    costs = " + ".join(f"{figures[name]:.3g}" for name in COSTS) if all(name in figures for name in COSTS) else ""
    return written(result["value"], ROWS[result["row"]].form), speed, costs, "pass" if result["passed"] else "FAIL"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="", help="names of rows, separated by commas; default: all")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--rounds", type=int, default=0, help="number of rounds; default: 3")
    parser.add_argument("--seconds", type=float, default=0.0, help="length of each measurement; default: 2")
    parser.add_argument("--quick", action="store_true", help="one short round, as a check")
    parser.add_argument("--json", type=Path, help="write rows and rounds to this file as well")
    parser.add_argument("--write", action="store_true", help="write the table to docs/performance.md")
    given = parser.parse_args()
    if given.list:
        for name, row in ROWS.items():
            print(f"{name:<15} {row.work}")
        return 0
    names = [name for name in given.rows.split(",") if name] or list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no row {', '.join(unknown)}; see --list")
    scale = QUICK if given.quick else Scale()
    chosen = {name: value for name in ("rounds", "seconds") if (value := getattr(given, name))}
    scale = dataclasses.replace(scale, **chosen)
    async with own_lab(scale) as lab:
        rounds = await measure(lab, names, lambda line: print(line, file=sys.stderr, flush=True))
    judged = judge(rounds, names)
    limit_per_s = statistics.median(figures[LIMIT]["per_s"] for figures in rounds)
    if given.json:
        given.json.write_text(json.dumps({"rows": judged, "rounds": rounds}, indent=1) + "\n")
    print_marks(judged, limit_per_s)
    if given.write:
        write_part("marks.py", markdown(judged, limit_per_s, scale))
    measured = {result["row"] for result in judged if "value" in result}
    return 0 if measured >= set(names) - OPTIONAL else 1


if __name__ == "__main__":
    sys.exit(run(main()))
