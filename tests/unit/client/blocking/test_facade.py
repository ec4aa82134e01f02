"""The synchronous facade: the same, from threads without an event loop."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from client_fakes import FakeCluster, sent_messages, threaded_cluster

import rmq_redis
from rmq_redis import Admin, Message, MessageExt, Producer, PullConsumer, PushConsumer
from rmq_redis.client.blocking.loop import background_loop
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import (
    ClientError,
    ConfigError,
    MessageIllegalError,
    MessageIllegalLocallyError,
    RouteNotFoundError,
    SystemBusyError,
)

FIRST = "CONSUME_FROM_FIRST_OFFSET"


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with threaded_cluster() as running:
        yield running


def test_blocking_clients_send_and_consume(fake: FakeCluster) -> None:
    seen: list[str] = []
    enough = threading.Event()
    consumer = PushConsumer("G", fake.namesrv_addr, consume_from_where=FIRST)

    @consumer.handler("T", tags="A")
    def handle(message: MessageExt) -> None:
        seen.append(message.text())
        if len(seen) == 31:
            enough.set()

    with Producer("PG", config=fake.config()) as producer, consumer:
        assert len(consumer.assignment) == 3
        assert producer.send(Message("T", "one", tags="A")).attempts == 1
        futures = [producer.send_async(Message("T", f"{n}", tags="A"), key="k") for n in range(20)]
        assert {future.result(10).queue for future in futures} == {producer.publish_queues("T")[1]}
        producer.send_batch([Message("T", f"b{n}", tags="A") for n in range(9)])
        producer.send_oneway(Message("T", "oneway", tags="A"))
        assert enough.wait(10)
    assert sorted(seen) == sorted(["one", "oneway", *(f"{n}" for n in range(20)), *(f"b{n}" for n in range(9))])


def test_blocking_clients_raise_the_same_errors(fake: FakeCluster) -> None:
    with pytest.raises(ConfigError):
        Producer("a b")
    with Producer("PG", config=fake.config()) as producer:
        with pytest.raises(MessageIllegalLocallyError):
            producer.send(Message("T", b""))
        with pytest.raises(RouteNotFoundError):
            producer.send_async(Message("unknown", b"x")).result(10)
    with pytest.raises(ClientError, match="closed"):
        producer.send(Message("T", b"x"))


def test_unawaited_sends_share_requests_and_keep_their_order(fake: FakeCluster) -> None:
    with Producer("PG", config=fake.config()) as producer:
        producer.send(Message("T", b"first"), key="k")
        loop = background_loop()
        go_on = threading.Event()
        loop.call_soon(go_on.wait)  # the loop is busy while the sends come
        futures = [producer.send_async(Message("T", f"{number}"), key="k") for number in range(20)]
        go_on.set()
        offsets = [future.result(10).queue_offset for future in futures]
        assert offsets == list(range(1, 21))
        assert len(fake.broker.of(RequestCode.SEND_BATCH_MESSAGE)) == 1


def test_failed_send_is_retried_and_finally_raises(fake: FakeCluster) -> None:
    with Producer("PG", config=fake.config()) as producer:
        producer.send(Message("T", b"first"))
        answers = fake.broker.answers[RequestCode.SEND_MESSAGE_V2]
        answers += [ResponseCode.SYSTEM_BUSY]
        assert producer.send(Message("T", b"x")).attempts == 2
        answers += [ResponseCode.SYSTEM_BUSY] * 3
        with pytest.raises(SystemBusyError):
            producer.send(Message("T", b"x"))
        answers += [ResponseCode.MESSAGE_ILLEGAL]
        with pytest.raises(MessageIllegalError):
            producer.send_async(Message("T", b"x")).result(10)
        assert not answers


def test_large_body_is_compressed_as_by_the_async_producer(fake: FakeCluster) -> None:
    with Producer("PG", config=fake.config()) as producer:
        for _ in range(2):  # the second one finds topic and connection there
            producer.send(Message("T", b"x" * 10_000))
        assert max(len(command.body) for command in fake.broker.of(RequestCode.SEND_MESSAGE_V2)) < 1000


def test_cancelled_send_does_not_affect_other_results(fake: FakeCluster) -> None:
    with Producer("PG", config=fake.config()) as producer:
        producer.send(Message("T", b"first"))
        go_on = threading.Event()
        background_loop().call_soon(go_on.wait)
        futures = [producer.send_async(Message("T", b"%d" % number), key="k") for number in range(3)]
        assert futures[1].cancel()
        go_on.set()
        assert [futures[index].result(10).attempts for index in (0, 2)] == [1, 1]
        assert b"1" not in [body for _, body in sent_messages(fake.broker)]


def test_blocking_pull_consumer_pulls_and_commits(fake: FakeCluster) -> None:
    fake.broker.hold_s = 0.05
    with Producer("PG", config=fake.config()) as producer, PullConsumer("G", config=fake.config()) as consumer:
        queue = consumer.fetch_subscribe_message_queues("T")[0]
        for number in range(4):
            producer.send(Message("T", f"{number}"), queue=queue)
        assert len(consumer.pull(queue, "*", 1, 2).messages) == 2
        assert (consumer.min_offset(queue), consumer.max_offset(queue)) == (0, 4)
        assert consumer.search_offset(queue, 0) == 0
        consumer.update_consume_offset(queue, 1)
        assert consumer.committed(queue) == 1
        consumer.assign([queue])
        assert consumer.assignment == [queue]
        assert [message.text() for message in consumer.poll(5.0)] == ["1", "2", "3"]
        assert consumer.position(queue) == 4
        consumer.commit()
        assert consumer.committed(queue) == 4
        consumer.seek(queue, 3)
        for message in consumer:
            assert message.text() == "3"
            break


def test_blocking_admin_manages_topics(fake: FakeCluster) -> None:
    with Admin(config=fake.config()) as admin:
        assert list(admin.cluster_info().clusters) == ["c"]
        assert admin.create_topic("new") == admin.master_addresses() == [fake.broker.address]
        assert admin.topic_route("T").queue_datas[0].read_queue_nums == 2
        assert admin.max_offset(fake.queue(0)) == 0
        admin.delete_topic("T")


def test_run_forever_returns_when_the_consumer_is_closed(fake: FakeCluster) -> None:
    consumer = PushConsumer("G", fake.namesrv_addr, consume_from_where=FIRST)
    consumer.subscribe("T", "*", lambda message: arrived.set())
    arrived = threading.Event()
    fake.broker.put("T", 0, b"x")
    thread = threading.Thread(target=consumer.run_forever)
    thread.start()
    assert arrived.wait(10)
    consumer.unsubscribe("T")
    consumer.subscribe("T", "*", lambda message: None)
    consumer.close()
    thread.join(10)
    assert not thread.is_alive()


def test_blocking_call_inside_the_event_loop_is_refused(fake: FakeCluster) -> None:
    producer = Producer("PG", config=fake.config())

    async def inside() -> None:
        with pytest.raises(ClientError, match="inside the event loop"):
            producer.send(Message("T", b"x"))

    background_loop().run(inside())


def test_interrupt_ends_run_forever(fake: FakeCluster) -> None:
    program = f"""
import signal, threading, os
from rmq_redis import PushConsumer
consumer = PushConsumer("G", "{fake.namesrv_addr}", consume_from_where="{FIRST}")
consumer.subscribe("T", "*", lambda message: os.kill(os.getpid(), signal.SIGINT))
consumer.run_forever()
print("closed", flush=True)
"""
    fake.broker.put("T", 0, b"x")
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert (result.stdout, result.returncode) == ("closed\n", 0), result.stderr
    assert any(command.ext_fields.get("consumerGroup") == "G" for command in fake.broker.of(35))


# --- the package -------------------------------------------------------------------------------------------------


def test_every_public_name_is_exported() -> None:
    for name in rmq_redis.__all__:
        assert getattr(rmq_redis, name) is not None
    assert set(rmq_redis.__all__) <= set(dir(rmq_redis))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rmq_redis.nothing  # noqa: B018


def test_import_loads_only_required_modules() -> None:
    program = (
        "import sys, rmq_redis; assert 'asyncio' not in sys.modules and 'msgspec' not in sys.modules; "
        "rmq_redis.Producer; assert 'redis' not in sys.modules and 'rmq_redis.store' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_help_equals_that_of_the_asynchronous_class() -> None:
    for method in (Producer.send, Admin.create_topic, PullConsumer.pull, rmq_redis.SimpleConsumer.receive):
        first, _, rest = (method.__doc__ or "").partition("\n\n")
        assert first.startswith("As ``Async")
        assert "Raises:" in rest or "Returns:" in rest or "Args:" in rest


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize(
    "program",
    [
        'with Producer("PG", addr) as producer: producer.send(Message("T", "x"))',
        'producer = Producer("PG", addr); producer.start(); producer.send(Message("T", "x"))',
        'producer = Producer("PG", addr); producer.start(); [producer.send_async(Message("T", "x")) for _ in "12345"]',
        'consumer = PushConsumer("G", addr); consumer.subscribe("T", "*", print); consumer.start()',
        'consumer = PullConsumer("G", addr); consumer.start(); consumer.assign([MessageQueue("T", "broker-a", 0)]); '
        "consumer.poll(0)",
        'consumer = PullConsumer("G", addr); consumer.start(); consumer.assign([MessageQueue("T", "broker-a", 0)]); '
        "import threading, time; threading.Thread(target=consumer.poll, args=(60,), daemon=True).start(); "
        "[time.sleep(0.01) for _ in iter(lambda: bool(consumer._async._polls), True)]",
    ],
)
def test_program_exits_without_warnings(fake: FakeCluster, program: str, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    head = 'import sys\nsys.modules["uvloop"] = None\n' if loop == "asyncio" else "import sys\n"
    text = head + f"from rmq_redis import *\naddr = sys.argv[1]\n{program}\n"
    result = subprocess.run(
        [sys.executable, "-W", "default", "-c", text, fake.namesrv_addr],  # not -X dev: asyncio would report slow turns
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


_TWINS = [
    (getattr(rmq_redis, name.removeprefix("Async")), getattr(rmq_redis, name))
    for name in rmq_redis.__all__
    if name.startswith("Async")
]


@pytest.mark.parametrize(("kind", "twin"), _TWINS)
def test_class_has_the_signatures_and_help_of_its_async_twin(kind: type, twin: type) -> None:
    assert inspect.signature(kind) == inspect.signature(twin)
    assert inspect.getdoc(twin) in (inspect.getdoc(kind) or "")
    compared = 0
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        other = getattr(twin, name, None)
        if name.startswith("_") or other is None:
            continue
        assert inspect.signature(method).parameters == inspect.signature(other).parameters, name
        assert method.__doc__, name
        compared += 1
    assert compared > 2
    hidden = {name for name, _ in inspect.getmembers(twin, inspect.iscoroutinefunction) if not name.startswith("_")}
    assert hidden <= {*vars(kind), *dir(kind)} | {"handle_request", "set_offset"}
