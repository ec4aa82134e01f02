"""What plugins that do nothing cost a producer: ``python benchmarks/plugin_overhead.py``.

One producer with a plugin's load balancer, guarded, that does what the default one does, in an environment with further
plugins installed, against the same producer without any; interleaved, medians of the CPU time a send and of the sends a
second. Needs nothing: a cluster of one broker is started.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rmq_redis import AsyncProducer, Message, hookimpl
from rmq_redis.broker.broker import Broker
from rmq_redis.config import BrokerConfig, NameServerConfig
from rmq_redis.nameserver.nameserver import NameServer
from rmq_redis.plugins import create_plugin_manager
from rmq_redis.plugins.defaults.queues import RoundRobin
from rmq_redis.runtime import run
from rmq_redis.store.embedded import EmbeddedServer

IN_FLIGHT = 100
MESSAGE = Message("T", b"x" * 256)


class NoOp(RoundRobin):
    """A stranger's ROUND_ROBIN."""


NO_OP = SimpleNamespace(
    register_queue_selectors=hookimpl(lambda: {"NO_OP": NoOp}),
    register_interceptors=hookimpl(lambda: {}),
    role_started=hookimpl(lambda role: None),
    role_stopping=hookimpl(lambda role: None),
)


async def sends(producer: AsyncProducer, count: int) -> tuple[float, float]:
    """(sends a second, µs of CPU a send), all of this process: producer, NameServer and broker."""

    async def worker() -> None:
        for _ in range(count // IN_FLIGHT):
            await producer.send(MESSAGE)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return count / (time.perf_counter() - began), (time.process_time() - cpu) / count * 1e6


async def measure(rounds: int, count: int, url: str) -> None:
    name_server = NameServer(NameServerConfig(listen_host="127.0.0.1", listen_port=0, registry=url))
    await name_server.start()
    address = f"127.0.0.1:{name_server.port}"
    broker = Broker(BrokerConfig(listen_host="127.0.0.1", listen_port=0, store=url, namesrv_addr=address))
    await broker.start()
    kinds: dict[str, dict[str, Any]] = {
        "without": {"plugins": create_plugin_manager()},
        "no-op": {"plugins": create_plugin_manager(plugins=(NO_OP,)), "load_balancer": "NO_OP"},
    }
    producers = {name: AsyncProducer("bench", address, **options) for name, options in kinds.items()}
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in producers}
    for producer in producers.values():
        await producer.start()
        await sends(producer, count // 4)
    for index in range(rounds):
        for name in list(producers) if index % 2 else list(reversed(producers)):
            results[name].append(await sends(producers[name], count))
    for producer in producers.values():
        await producer.close()
    await broker.close()
    await name_server.close()
    medians = {name: tuple(map(statistics.median, zip(*values, strict=True))) for name, values in results.items()}
    for name, (rate, cpu) in medians.items():
        print(f"{name:<10} {rate:9,.0f} sends/s {cpu:7.2f} µs CPU a send")
    (rate, cpu), (plugin_rate, plugin_cpu) = medians["without"], medians["no-op"]
    print(f"a no-op plugin costs {100 * (1 - plugin_rate / rate):.2f} % of the throughput", end=", ")
    print(f"{100 * (plugin_cpu / cpu - 1):.2f} % of the CPU time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--count", type=int, default=2_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory))
        server.start()
        try:
            run(measure(arguments.rounds, arguments.count, server.url))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
