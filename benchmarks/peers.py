"""Other message systems as ``compare.py`` measures them: a server each, and a client that sends and consumes.

A client runs in a load process, ``peers.py LOAD`` with the peer's name as ``option``. Each is used as its own manual
shows, with acknowledged sends and acknowledged messages, and with what it stores on disk where it does that by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from rmq_redis import AsyncProducer, AsyncPushConsumer, Message, MessageExt
from rmq_redis.child_guard import end_with_parent
from rmq_redis.errors import RmqError
from rmq_redis.labs.benchmark import worker
from rmq_redis.labs.benchmark.loads import FROM_FIRST, STAMP, Arrivals
from rmq_redis.labs.benchmark.worker import (
    DEADLINE_S,
    Figures,
    LoadSettings,
    begin_load,
    closed_loop,
    latencies,
)
from rmq_redis.localcluster.cluster import Cluster, ClusterSpec
from rmq_redis.store.embedded import EmbeddedServer, free_port

COMMAND = (sys.executable, __file__)
START_S = 60.0
WARM_SENDS = 20_000
Handler = Callable[[bytes], None]


class Peer:
    """A client of one system. ``send`` returns when the message is stored; ``consume`` calls back for each message.

    Attributes:
        messages: messages that one ``send`` stores.
        in_flight: sends at a time for the greatest rate.
        consumes: whether consuming is measured as well.
    """

    packages: tuple[str, ...] = ()
    program = ""
    messages = 1
    in_flight = 100
    consumes = True

    def __init__(self, address: str, topic: str) -> None:
        self.address = address
        self.topic = topic

    async def open(self) -> None:
        """Connects."""

    async def send(self, body: bytes) -> None:
        raise NotImplementedError

    async def consume(self, handler: Handler) -> None:
        """Begins to consume, in the background."""
        raise NotImplementedError

    async def close(self) -> None:
        """Ends consuming and disconnects."""

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be measured here; "" if it can."""
        for package in cls.packages:
            if importlib.util.find_spec(package.partition(".")[0]) is None:
                return f"the package {package} is not installed"
        return "" if not cls.program or shutil.which(cls.program) else f"{cls.program} is not installed"

    @classmethod
    @contextlib.asynccontextmanager
    async def server(cls, directory: Path) -> AsyncIterator[str]:
        """Runs its server; yields the address. Default: a Redis of its own, AOF everysec."""
        with EmbeddedServer(directory) as server:
            yield server.url


@contextlib.contextmanager
def process(command: list[str], port: int, log: Path, **environ: str) -> Iterator[None]:
    """A server process that listens on ``port``; it is stopped at the end, and ends with this process."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ | environ,
            preexec_fn=end_with_parent(),  # noqa: PLW1509 (what the package does as well)
            start_new_session=True,
        )
    try:
        deadline_s = time.monotonic() + START_S
        while not listens(port):
            if started.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.1)
        yield
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def write(path: Path, text: str) -> None:
    path.write_text(text)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def warm(namesrv_addr: str) -> None:
    """Waits until a broker of this NameServer accepts messages, then sends enough to warm up the JVM."""
    async with AsyncProducer("compare", namesrv_addr) as producer, asyncio.timeout(START_S):
        while True:
            try:
                await producer.send(Message("warm", b"x"))
                break
            except RmqError:
                await asyncio.sleep(0.2)
        left = iter(range(WARM_SENDS))

        async def keep_sending() -> None:
            for _ in left:
                await producer.send(Message("warm", b"x" * 256))

        await asyncio.gather(*(keep_sending() for _ in range(100)))


class Ours(Peer):
    """AsyncProducer and AsyncPushConsumer with default settings."""

    @classmethod
    @contextlib.asynccontextmanager
    async def server(cls, directory: Path) -> AsyncIterator[str]:
        spec = ClusterSpec(data_dir=directory, namesrvs=1, brokers=1, slaves=0, log_level="warning", restart=())
        async with Cluster(spec) as cluster:
            yield cluster.namesrv_addr

    async def open(self) -> None:
        self.producer = AsyncProducer("compare", self.address)
        self.consumer: AsyncPushConsumer | None = None
        await self.producer.start()

    async def send(self, body: bytes) -> None:
        await self.producer.send(Message(self.topic, body))

    async def consume(self, handler: Handler) -> None:
        async def handle(message: MessageExt) -> None:
            handler(message.body)

        self.consumer = AsyncPushConsumer(f"{self.topic}-group", self.address, consume_from_where=FROM_FIRST)
        self.consumer.subscribe(self.topic, "*", handle)
        await self.consumer.start()

    async def close(self) -> None:
        if self.consumer is not None:
            await self.consumer.close()
        await self.producer.close()


class OursInBatches(Ours):
    """The same in batches of 100, 8 at a time."""

    messages = 100
    in_flight = 8

    async def send(self, body: bytes) -> None:
        await self.producer.send_batch([Message(self.topic, body) for _ in range(self.messages)])


class Apache(Ours):
    """Apache RocketMQ's NameServer and broker, through our SDK. RMQ_BENCH_ROCKETMQ_LIB: the directory of its jars."""

    program = "java"

    @classmethod
    def missing(cls) -> str:
        lib = os.environ.get("RMQ_BENCH_ROCKETMQ_LIB", "")
        return super().missing() or ("" if lib else "RMQ_BENCH_ROCKETMQ_LIB does not name the directory of its jars")

    @classmethod
    @contextlib.asynccontextmanager
    async def server(cls, directory: Path) -> AsyncIterator[str]:
        name_port, port = free_port(), free_port()
        write(directory / "namesrv.conf", f"listenPort={name_port}\n")
        write(
            directory / "broker.conf",
            f"brokerClusterName=DefaultCluster\nbrokerName=broker-a\nbrokerId=0\nbrokerIP1=127.0.0.1\nlistenPort={port}\n"
            f"storePathRootDir={directory}/store\nflushDiskType=ASYNC_FLUSH\nmappedFileSizeCommitLog=67108864\n"
            "autoCreateTopicEnable=true\nautoCreateSubscriptionGroup=true\n",
        )
        java = [
            "java",
            "--add-opens=java.base/java.nio=ALL-UNNAMED",
            "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
        ]
        java += [f"-Duser.home={directory}", "-cp", f"{os.environ['RMQ_BENCH_ROCKETMQ_LIB']}/*"]
        package = "org.apache.rocketmq"
        home = {"ROCKETMQ_HOME": str(directory)}
        names = [
            *java[:1],
            "-Xmx256m",
            *java[1:],
            f"{package}.namesrv.NamesrvStartup",
            "-c",
            f"{directory}/namesrv.conf",
        ]
        broker = [*java[:1], "-Xms1g", "-Xmx1g", *java[1:], f"{package}.broker.BrokerStartup"]
        broker += ["-n", f"127.0.0.1:{name_port}", "-c", f"{directory}/broker.conf"]
        with (
            process(names, name_port, directory / "namesrv.log", **home),
            process(broker, port, directory / "broker.log", **home),
        ):
            await warm(f"127.0.0.1:{name_port}")
            yield f"127.0.0.1:{name_port}"


class ApacheInBatches(Apache, OursInBatches):
    """The same in batches of 100, 8 at a time."""


class RawRedis(Peer):
    """redis-py: XADD in pipelines of 100, one at a time; XREADGROUP and XACK of 100."""

    messages = 100
    in_flight = 1

    async def open(self) -> None:
        import redis.asyncio

        self.redis = redis.asyncio.Redis.from_url(self.address)
        self.task: asyncio.Task[None] | None = None
        self.closing = False

    async def send(self, body: bytes) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for _ in range(self.messages):
            pipeline.xadd(self.topic, {b"m": body})
        await pipeline.execute()

    async def consume(self, handler: Handler) -> None:
        await self.redis.xgroup_create(self.topic, "group", "0", mkstream=True)

        async def keep_reading() -> None:
            while not self.closing:
                answer = await self.redis.xreadgroup("group", "me", {self.topic: ">"}, count=100, block=1000)
                for _, entries in answer:
                    for _, fields in entries:
                        handler(fields[b"m"])
                    await self.redis.xack(self.topic, "group", *(entry for entry, _ in entries))

        self.task = asyncio.create_task(keep_reading())

    async def close(self) -> None:
        self.closing = True  # redis-py may swallow a cancellation; a read ends after a second
        if self.task:
            await asyncio.wait([self.task])
        await self.redis.aclose()


class RawRedisSingly(RawRedis):
    """The same with single XADDs, for latencies."""

    messages = 1
    in_flight = 100

    async def send(self, body: bytes) -> None:
        await self.redis.xadd(self.topic, {b"m": body})


class Nats(Peer):
    """NATS JetStream with a file store, through nats-py; each publish waits for its acknowledgement."""

    packages = ("nats",)
    program = "nats-server"

    @classmethod
    @contextlib.asynccontextmanager
    async def server(cls, directory: Path) -> AsyncIterator[str]:
        port = free_port()
        command = ["nats-server", "-js", "-sd", str(directory), "-a", "127.0.0.1", "-p", str(port)]
        with process(command, port, directory / "log"):
            yield f"nats://127.0.0.1:{port}"

    async def open(self) -> None:
        import nats

        self.nats = await nats.connect(self.address)
        self.stream = self.nats.jetstream()
        await self.stream.add_stream(name=self.topic, subjects=[self.topic])

    async def send(self, body: bytes) -> None:
        await self.stream.publish(self.topic, body)

    async def consume(self, handler: Handler) -> None:
        async def handle(message: Any) -> None:
            handler(message.data)
            await message.ack()

        await self.stream.subscribe(self.topic, durable="group", cb=handle, manual_ack=True)

    async def close(self) -> None:
        await self.nats.close()


class FastStream(Peer):
    """FastStream on a Redis stream, with a consumer group: a handler call and an XACK per message."""

    packages = ("faststream", "redis")

    async def open(self) -> None:
        import logging

        from faststream.redis import RedisBroker

        self.broker = RedisBroker(self.address, logger=None, log_level=logging.CRITICAL)
        await self.broker.connect()

    async def send(self, body: bytes) -> None:
        await self.broker.publish(body, stream=self.topic)

    async def consume(self, handler: Handler) -> None:
        from faststream.redis import StreamSub

        stream = StreamSub(self.topic, group="group", consumer="me", last_id=">", max_records=100)

        async def handle(body: bytes) -> None:
            handler(body)

        await self.broker._connection.xgroup_create(self.topic, "group", "0", mkstream=True)
        self.broker.subscriber(stream=stream)(handle)
        await self.broker.start()

    async def close(self) -> None:
        await self.broker.stop()


class RabbitMQ(Peer):
    """A durable queue and persistent messages with publisher confirms, through aio-pika."""

    packages = ("aio_pika",)
    program = "/usr/lib/rabbitmq/bin/rabbitmq-server"

    @classmethod
    @contextlib.asynccontextmanager
    async def server(cls, directory: Path) -> AsyncIterator[str]:
        port, names, dist = free_port(), free_port(), free_port()
        environ = {
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"compare{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_MNESIA_BASE": str(directory),
            "RABBITMQ_LOG_BASE": str(directory),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "HOME": str(directory),
        }
        epmd = [shutil.which("epmd") or "epmd", "-port", str(names), "-address", "127.0.0.1"]
        with (
            process(epmd, names, directory / "epmd.log"),
            process([cls.program], port, directory / "server.log", **environ),
        ):
            yield f"amqp://guest:guest@127.0.0.1:{port}/"

    async def open(self) -> None:
        import aio_pika

        self.connection = await aio_pika.connect(self.address)
        self.channel = await self.connection.channel(publisher_confirms=True)
        await self.channel.set_qos(prefetch_count=100)
        self.queue = await self.channel.declare_queue(self.topic, durable=True)
        self.exchange = self.channel.default_exchange

    async def send(self, body: bytes) -> None:
        import aio_pika

        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self.exchange.publish(message, routing_key=self.topic)

    async def consume(self, handler: Handler) -> None:
        async def handle(message: Any) -> None:
            handler(message.body)
            await message.ack()

        await self.queue.consume(handle)

    async def close(self) -> None:
        await self.connection.close()


class _TaskQueue(Peer):
    """A task queue without an event loop: one thread sends, the library's own worker consumes."""

    in_flight = 1

    async def send(self, body: bytes) -> None:
        self.call(body.hex())  # tasks travel as JSON

    def call(self, text: str) -> None:
        raise NotImplementedError


class Celery(_TaskQueue):
    """Celery on Redis, results ignored. Its worker wants a main thread of its own, so only sends are measured."""

    packages = ("celery", "redis", "packaging")
    consumes = False

    async def open(self) -> None:
        import celery

        app = celery.Celery(broker=self.address, set_as_current=False)
        app.conf.update(task_ignore_result=True, task_default_queue=self.topic)
        self.signature = app.signature("compare")

    def call(self, text: str) -> None:
        self.signature.delay(text)


class Dramatiq(_TaskQueue):
    """dramatiq on Redis, one worker with eight threads, its default."""

    packages = ("dramatiq", "redis")

    async def open(self) -> None:
        import dramatiq
        from dramatiq.brokers.redis import RedisBroker

        self.broker = RedisBroker(url=self.address)
        self.handler: Handler = bytes.__len__

        def compare(text: str) -> None:
            self.handler(bytes.fromhex(text))

        self.actor = dramatiq.actor(compare, broker=self.broker, queue_name=self.topic)
        self.worker: Any = None

    def call(self, text: str) -> None:
        self.actor.send(text)

    async def consume(self, handler: Handler) -> None:
        import dramatiq

        self.handler = handler
        self.worker = dramatiq.Worker(self.broker, worker_threads=8)
        self.worker.start()

    async def close(self) -> None:
        if self.worker:
            await asyncio.to_thread(self.worker.stop)
        self.broker.close()


class Taskiq(Peer):
    """taskiq on a Redis stream, results not kept, its receiver in this process."""

    packages = ("taskiq", "taskiq_redis")

    async def open(self) -> None:
        from taskiq_redis import RedisStreamBroker

        self.broker = RedisStreamBroker(url=self.address, queue_name=self.topic, consumer_group_name="group")
        self.handler: Handler = bytes.__len__
        self.receiving: asyncio.Task[None] | None = None
        self.finish = asyncio.Event()

        async def compare(text: str) -> None:
            self.handler(bytes.fromhex(text))

        self.task = self.broker.task(task_name="compare")(compare)
        await self.broker.startup()

    async def send(self, body: bytes) -> None:
        await self.task.kiq(body.hex())

    async def consume(self, handler: Handler) -> None:
        from taskiq.receiver import Receiver

        self.handler = handler
        self.receiving = asyncio.create_task(Receiver(self.broker, max_async_tasks=100).listen(self.finish))

    async def close(self) -> None:
        self.finish.set()
        if self.receiving:
            await asyncio.wait([self.receiving], timeout=3.0)  # it acknowledges what its tasks have finished
            self.receiving.cancel()
        await self.broker.shutdown()


PEERS: dict[str, type[Peer]] = {
    "ours": Ours,
    "ours, batches of 100": OursInBatches,
    "redis-py, batches of 100": RawRedis,
    "redis-py, singly": RawRedisSingly,
    "NATS JetStream": Nats,
    "FastStream on Redis streams": FastStream,
    "RabbitMQ and aio-pika": RabbitMQ,
    "taskiq on Redis streams": Taskiq,
    "Celery on Redis": Celery,
    "dramatiq on Redis": Dramatiq,
    "Apache RocketMQ": Apache,
    "Apache RocketMQ, batches of 100": ApacheInBatches,
}


# --- loads -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def opened(settings: LoadSettings) -> AsyncIterator[Peer]:
    peer = PEERS[settings.option](settings.namesrv_addr, settings.topic)
    await peer.open()
    try:
        yield peer
    finally:
        await peer.close()


async def produce(settings: LoadSettings) -> Figures:
    """Acknowledged sends."""
    body = b"x" * settings.body_bytes
    async with opened(settings) as peer:
        return await closed_loop(settings, lambda: peer.send(body), peer.messages)


async def consume(settings: LoadSettings) -> Figures:
    """Stores ``count`` messages first, then consumes them."""
    body = b"x" * settings.body_bytes
    async with opened(settings) as peer:
        left = iter(range(0, settings.count, peer.messages))

        async def keep_sending() -> None:
            for _ in left:
                await peer.send(body)

        await asyncio.gather(*(keep_sending() for _ in range(peer.in_flight)))
    async with opened(settings) as peer:
        arrivals = Arrivals(settings)
        await begin_load()
        await peer.consume(arrivals.arrived)
        return await arrivals.figures()


async def sequential(settings: LoadSettings) -> Figures:
    """One send after the other."""
    body = b"x" * settings.body_bytes
    times_ms: list[float] = []
    async with opened(settings) as peer:
        for _ in range(100):  # warm
            await peer.send(body)
        await begin_load()
        until_s = time.perf_counter() + settings.seconds
        while (started_s := time.perf_counter()) < until_s:
            await peer.send(body)
            times_ms.append((time.perf_counter() - started_s) * 1000)
    return latencies(times_ms)


async def paced_consumer(settings: LoadSettings) -> Figures:
    """Consumes ``count`` messages of ``paced_producer`` and measures from send to handler."""
    times_ms: list[float] = []
    complete = asyncio.Event()
    loop = asyncio.get_running_loop()

    def handler(body: bytes) -> None:
        (sent_ns,) = STAMP.unpack_from(body)
        if sent_ns:
            times_ms.append((time.time_ns() - sent_ns) / 1e6)
            if len(times_ms) == settings.count:
                loop.call_soon_threadsafe(complete.set)

    async with opened(settings) as peer:
        await peer.send(STAMP.pack(0) + b"x" * settings.body_bytes)  # topic or stream exist
        await peer.consume(handler)
        await begin_load()
        async with asyncio.timeout(settings.count / settings.rate + DEADLINE_S):
            await complete.wait()
    return latencies(times_ms)


async def paced_producer(settings: LoadSettings) -> Figures:
    """Sends ``count`` messages at ``rate`` per second, each with its time."""
    filler = b"x" * (settings.body_bytes - STAMP.size)
    loop = asyncio.get_running_loop()
    async with opened(settings) as peer:
        for _ in range(100):  # warm; 0: not measured
            await peer.send(STAMP.pack(0) + filler)
        await begin_load()
        started_s = loop.time()
        for index in range(settings.count):
            pause_s = started_s + index / settings.rate - loop.time()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            await peer.send(STAMP.pack(time.time_ns()) + filler)
    return {"count": settings.count}


LOADS = {
    "produce": produce,
    "consume": consume,
    "sequential": sequential,
    "paced-consumer": paced_consumer,
    "paced-producer": paced_producer,
}


if __name__ == "__main__":
    worker.main(LOADS)
