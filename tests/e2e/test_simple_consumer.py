"""Simple consumers (POP) through processes: several broker groups, kill -9, and random steps against a model."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from helpers import eventually
from processes import RoleProcess, broker, namesrv

from rmq_redis import AsyncProducer, AsyncSimpleConsumer, Message, MessageExt, MessageQueue, Producer, SimpleConsumer
from rmq_redis.errors import ClientError, RmqError
from rmq_redis.store.embedded import EmbeddedServer

EXAMPLES = Path(__file__).parents[2] / "examples"


class Cluster:
    """Two broker groups on one store, which are killed and come back where they were."""

    def __init__(self, store: EmbeddedServer, names: RoleProcess, log_dir: Path) -> None:
        self.store = store
        self.namesrv_addr = names.address
        self._log_dir = log_dir
        self.brokers = {name: self._start(name, "0").wait_until_serving() for name in ("broker-a", "broker-b")}

    def _start(self, name: str, port: str) -> RoleProcess:
        return broker(self.store.url, self.namesrv_addr, self._log_dir, "--name", name, "--port", port)

    def kill(self, name: str) -> None:
        self.brokers[name].kill()

    def restart(self, name: str) -> None:
        self.brokers[name] = self._start(name, self.brokers[name].port).wait_until_serving()

    def hidden(self) -> int:
        """How much is handed out and not acknowledged, in both groups."""
        with redis.Redis.from_url(self.store.url) as client:
            return sum(int(client.zcard(f"rmq:{{{name}}}:popped")) for name in self.brokers)

    def ordered(self) -> int:
        """Of how many queues something is out in order, in both groups."""
        with redis.Redis.from_url(self.store.url) as client:
            return sum(int(client.hlen(f"rmq:{{{name}}}:ordered")) for name in self.brokers)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    log_dir = tmp_path_factory.mktemp("simple")
    with EmbeddedServer(log_dir / "store") as store, namesrv(store.url, log_dir) as names:
        cluster = Cluster(store, names, log_dir)
        yield cluster
        for process in cluster.brokers.values():
            process.kill()


async def send_everywhere(producer: AsyncProducer, topic: str, bodies: list[str]) -> None:
    """To every queue of both groups in turn, once the route shows both."""

    async def both() -> bool:
        return {queue.broker_name for queue in await producer.publish_queues(topic)} == {"broker-a", "broker-b"}

    await eventually(both)
    queues = await producer.publish_queues(topic)
    for number, body in enumerate(bodies):
        await producer.send(Message(topic, body, tags="TagA"), queue=queues[number % len(queues)])


async def test_members_share_the_messages_of_both_broker_groups(cluster: Cluster) -> None:
    bodies = [f"m{number}" for number in range(80)]
    async with AsyncProducer("simple-producer", cluster.namesrv_addr) as producer:
        await send_everywhere(producer, "shared", bodies)
        received: list[str] = []

        async def work() -> None:
            async with AsyncSimpleConsumer("shared-group", cluster.namesrv_addr) as consumer:
                consumer.subscribe("shared", "TagA || TagB")
                while len(received) < len(bodies):
                    messages = await consumer.receive(5, invisible_duration_s=60, await_duration_s=1)
                    received.extend(message.text() for message in messages)
                    await consumer.ack(messages)

        await asyncio.gather(*(work() for _ in range(3)))
        assert sorted(received) == sorted(bodies)
        await eventually(lambda: cluster.hidden() == 0)


async def test_receive_waits_for_messages_of_any_broker(cluster: Cluster) -> None:
    async with (
        AsyncProducer("simple-producer", cluster.namesrv_addr) as producer,
        AsyncSimpleConsumer("waiting-group", cluster.namesrv_addr) as consumer,
    ):
        await send_everywhere(producer, "waiting", [str(number) for number in range(8)])
        consumer.subscribe("waiting")
        first: list[MessageExt] = []
        while len(first) < 8:
            first += await consumer.receive()
        await consumer.ack(first)
        for broker_name in ("broker-a", "broker-b", "broker-a"):
            receiving = asyncio.create_task(consumer.receive(await_duration_s=50))
            queues = await producer.publish_queues("waiting")
            await asyncio.sleep(0)
            [queue, *_] = [queue for queue in queues if queue.broker_name == broker_name]
            await producer.send(Message("waiting", broker_name), queue=queue)
            [message] = await receiving
            assert (message.text(), message.broker_name) == (broker_name, broker_name)
            await consumer.ack(message)
        assert await consumer.receive(await_duration_s=0.1) == []


async def test_broker_killed_between_receive_and_ack_loses_nothing(cluster: Cluster) -> None:
    async with (
        AsyncProducer("simple-producer", cluster.namesrv_addr) as producer,
        AsyncSimpleConsumer("killed-group", cluster.namesrv_addr) as consumer,
    ):
        await send_everywhere(producer, "killed", [f"m{number}" for number in range(8)])
        consumer.subscribe("killed")
        messages: list[MessageExt] = []
        while len(messages) < 8:
            messages += await consumer.receive(invisible_duration_s=60)
        for name in cluster.brokers:
            await asyncio.to_thread(cluster.kill, name)
            await asyncio.to_thread(cluster.restart, name)
        kept, given_back = messages[:4], messages[4:]
        await eventually(lambda: succeeds(consumer.ack(kept)))
        for message in given_back:
            await eventually(lambda message=message: succeeds(consumer.change_invisible_duration(message, 0)))
        again: list[MessageExt] = []
        while len(again) < 4:
            again += await consumer.receive(invisible_duration_s=60)
        assert sorted(m.text() for m in again) == sorted(m.text() for m in given_back)
        assert {message.reconsume_times for message in again} == {1}
        await consumer.ack(again)
        assert await consumer.receive(await_duration_s=0.2) == []


async def test_fifo_members_take_turns_in_order_while_brokers_die(cluster: Cluster) -> None:
    """No answer that is lost with a broker holds a queue up for the 600 s that its messages are hidden."""
    numbers = 12
    seen: dict[MessageQueue, list[int]] = {}
    held: dict[MessageQueue, int] = {}
    async with AsyncProducer("simple-producer", cluster.namesrv_addr) as producer:
        await send_everywhere(producer, "fifo", [])
        queues = await producer.publish_queues("fifo")
        for number in range(numbers):
            for queue in queues:
                await producer.send(Message("fifo", f"{number}"), queue=queue)
    total = numbers * len(queues)

    def count() -> int:
        return sum(map(len, seen.values()))

    async def work(member: int) -> None:
        settings = {"poll_name_server_interval_s": 0.5}
        async with AsyncSimpleConsumer("fifo-group", cluster.namesrv_addr, fifo=True, **settings) as consumer:
            consumer.subscribe("fifo")
            while count() < total:
                try:
                    messages = await consumer.receive(3, invisible_duration_s=600, await_duration_s=0.5)
                except RmqError:
                    await asyncio.sleep(0.05)
                    continue
                for message in messages:
                    assert held.setdefault(message.queue, member) == member, "a queue is with two"
                    assert message.reconsume_times == 0
                    seen.setdefault(message.queue, []).append(int(message.text()))
                await asyncio.sleep(0.01)  # the work
                for message in messages:
                    held.pop(message.queue, None)
                await eventually(lambda messages=messages: succeeds(consumer.ack(messages)))

    async def die() -> None:
        for name, some in (("broker-a", total // 4), ("broker-b", total // 2)):
            await eventually(lambda some=some: count() >= some)
            await asyncio.to_thread(cluster.kill, name)
            await asyncio.to_thread(cluster.restart, name)

    await asyncio.gather(die(), *(work(member) for member in range(3)))
    assert seen == {queue: list(range(numbers)) for queue in queues}
    assert cluster.ordered() == 0


async def test_fifo_redelivers_unacknowledged_messages_before_the_rest(cluster: Cluster) -> None:
    async with (
        AsyncProducer("simple-producer", cluster.namesrv_addr) as producer,
        AsyncSimpleConsumer("fifo-again", cluster.namesrv_addr, fifo=True) as consumer,
        AsyncSimpleConsumer("fifo-again", cluster.namesrv_addr, fifo=True) as other,
    ):
        await send_everywhere(producer, "fifo-again", [])
        queue = (await producer.publish_queues("fifo-again"))[0]
        for text in "abcd":
            await producer.send(Message("fifo-again", text), queue=queue)
        consumer.subscribe("fifo-again")
        other.subscribe("fifo-again")
        a, b, c = await consumer.receive(3, invisible_duration_s=60, await_duration_s=30)
        waiting = asyncio.create_task(other.receive(await_duration_s=50))
        await consumer.ack(b)
        await consumer.change_invisible_duration(a, 90)
        await consumer.change_invisible_duration(c, 0)
        await consumer.change_invisible_duration(a, 0)
        again = await waiting
        assert [(message.text(), message.reconsume_times) for message in again] == [("a", 1), ("c", 1)]
        await other.ack(again)
        (d,) = await consumer.receive(await_duration_s=50)
        assert (d.text(), d.reconsume_times) == ("d", 0)
        await consumer.ack(d)


async def both_registered(producer: AsyncProducer, topic: str) -> bool:
    """Whether sends to every queue of both groups are taken."""
    queues = await producer.publish_queues(topic)
    if {queue.broker_name for queue in queues} != {"broker-a", "broker-b"}:
        return False
    probes = [producer.send(Message("probe", "x"), queue=queue) for queue in await producer.publish_queues("probe")]
    return all(await asyncio.gather(*(succeeds(probe) for probe in probes)))


async def succeeds(call: object) -> bool:
    try:
        await call  # type: ignore[misc]
    except RmqError:
        return False
    return True


async def test_message_of_a_killed_consumer_is_delivered_to_another(cluster: Cluster) -> None:
    code = (
        "import sys, time\nfrom rmq_redis import SimpleConsumer\nconsumer = SimpleConsumer('dying', sys.argv[1])\n"
        "consumer.start()\nconsumer.subscribe('dying')\n"
        "print(consumer.receive(invisible_duration_s=1)[0].text(), flush=True)\ntime.sleep(600)"
    )
    async with (
        AsyncProducer("simple-producer", cluster.namesrv_addr) as producer,
        AsyncSimpleConsumer("dying", cluster.namesrv_addr) as consumer,
    ):
        await producer.send(Message("dying", "job"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, cluster.namesrv_addr, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"job\n"
        process.kill()
        await process.wait()
        consumer.subscribe("dying")
        [message] = await consumer.receive(await_duration_s=50)
        assert (message.text(), message.reconsume_times) == ("job", 1)
        await consumer.ack(message)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_random_steps_agree_with_the_model(cluster: Cluster, seed: int) -> None:
    """Nothing acknowledged comes again, everything else does, and nothing is with two at the same time."""
    random_ = random.Random(seed)
    topic, group = f"model{seed}", f"model-group{seed}"
    sent: set[str] = set()
    acknowledged: set[str] = set()
    held: dict[str, MessageExt] = {}
    async with (
        AsyncProducer("simple-producer", cluster.namesrv_addr) as producer,
        AsyncSimpleConsumer(group, cluster.namesrv_addr, poll_name_server_interval_s=0.5) as consumer,
    ):
        consumer.subscribe(topic)

        async def send() -> None:
            bodies = [f"{seed}-{len(sent) + number}" for number in range(random_.randint(1, 6))]
            await send_everywhere(producer, topic, bodies)
            sent.update(bodies)

        async def receive() -> None:
            for message in await consumer.receive(random_.randint(1, 4), 600, 0):
                body = message.text()
                assert body in sent
                assert body not in acknowledged, "acknowledged, and delivered again"
                assert body not in held, "with two at the same time"
                held[body] = message

        async def ack() -> None:
            for body in random_.sample(sorted(held), min(len(held), 2)):
                await consumer.ack(held.pop(body))
                acknowledged.add(body)

        async def give_back() -> None:
            for body in random_.sample(sorted(held), min(len(held), 1)):
                await consumer.change_invisible_duration(held.pop(body), 0)

        async def prolong() -> None:
            for body in random_.sample(sorted(held), min(len(held), 1)):
                await consumer.change_invisible_duration(held[body], 900)

        async def kill() -> None:
            name = random_.choice(["broker-a", "broker-b"])
            await asyncio.to_thread(cluster.kill, name)
            await asyncio.to_thread(cluster.restart, name)
            await eventually(lambda: both_registered(producer, topic))

        await send()
        steps = [send, receive, receive, receive, ack, ack, give_back, prolong]
        for number in range(60):
            await (kill if number % 20 == 19 else random_.choice(steps))()
        while acknowledged < sent:
            if not held:
                for message in await consumer.receive(32, 600, 5):
                    assert message.text() not in acknowledged
                    held[message.text()] = message
            await ack()
        assert await consumer.receive(await_duration_s=0.2) == []
    assert acknowledged == sent


def test_misuse_is_a_clear_error(cluster: Cluster) -> None:
    with SimpleConsumer("wrong", cluster.namesrv_addr) as consumer:
        with pytest.raises(ClientError, match="no subscription"):
            consumer.receive()
        with pytest.raises(ClientError, match="may only have"):
            consumer.subscribe("bad topic")
        consumer.subscribe("wrong")
        for arguments in ({"max_message_num": 33}, {"invisible_duration_s": 0}, {"invisible_duration_s": 1e9}):
            with pytest.raises(ClientError):
                consumer.receive(**arguments)
        with Producer("simple-producer", cluster.namesrv_addr) as producer:
            producer.send(Message("wrong", "m"))
        [message] = consumer.receive()
        consumer.ack(message)
        handle = message.properties.pop("POP_CK")
        with pytest.raises(ClientError, match="POP_CK"):
            consumer.ack(message)
        message.properties["POP_CK"] = handle + " 1"
        with pytest.raises(ClientError, match="9 parts"):
            consumer.ack(message)
    with pytest.raises(ClientError, match="not started, or closed"):
        consumer.receive()


def run_example(name: str, cluster: Cluster) -> list[str]:
    command = [sys.executable, EXAMPLES / name, cluster.namesrv_addr]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RMQ_REDIS_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environ)
    return done.stdout.splitlines()


def test_example_does_every_job_once(cluster: Cluster) -> None:
    assert Counter(run_example("simple_consumer.py", cluster)) == {f"job {number} done": 1 for number in range(3)}


def test_fifo_example_keeps_the_order_of_each_key(cluster: Cluster) -> None:
    lines = [line.split(" ") for line in run_example("fifo_consumer.py", cluster)]
    for order in ("order-1", "order-2"):
        assert [step for key, step in lines if key == order] == ["created", "paid", "shipped"]
