"""Clients that were started before a fork: the child starts anew or is refused, and the parent goes on."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator

import pytest
from client_fakes import FakeCluster, sends, threaded_cluster

from rmq_redis.codes import RequestCode

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork"
)

HEAD = """
import asyncio, gc, os, sys, threading, time, multiprocessing
if sys.argv[2] == "asyncio":
    sys.modules["uvloop"] = None
from rmq_redis import *
addr = sys.argv[1]
FIRST = "CONSUME_FROM_FIRST_OFFSET"

def in_child(function):
    # what it prints, and how it ended: by os._exit, as multiprocessing does, or as a program ends
    for ending in (os._exit, sys.exit):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                function()
            except ClientError as error:
                print("refused:", "before a fork" in str(error))
            gc.collect()
            sys.stdout.flush()
            ending(0)
        assert os.waitpid(pid, 0)[1] == 0, function

def refused(*calls):
    for call in calls:
        try:
            call()
        except ClientError as error:
            assert "before a fork" in str(error), error
        else:
            print("not refused:", call)

async def refused_async(*coroutines):
    for coroutine in coroutines:
        try:
            await coroutine
        except ClientError as error:
            assert "before a fork" in str(error), error
        else:
            print("not refused:", coroutine)
"""


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with threaded_cluster() as running:
        yield running


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "uvloop":
        pytest.importorskip("uvloop")
    return name


def run(fake: FakeCluster, loop: str, program: str) -> list[str]:
    """The lines that a program prints; it must end in order and complain about nothing."""
    result = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", HEAD + program, fake.namesrv_addr, loop],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.stderr, result.returncode) == ("", 0), result.stdout
    return result.stdout.splitlines()


def test_producer_restarts_in_a_child(fake: FakeCluster, loop: str) -> None:
    lines = run(
        fake,
        loop,
        """
producer = Producer("PG", addr)
producer.start()
producer.send(Message("T", "parent"))
parent_id = producer.client_id
def child():
    assert producer.send(Message("T", "child"), timeout_s=60).attempts == 1
    assert producer.send_async(Message("T", "child"), timeout_s=60).result().attempts == 1
    assert producer.client_id != parent_id
    producer.close()
    try:
        producer.send(Message("T", "closed"))
    except ClientError as error:
        print(error)
in_child(child)
in_child(lambda: None)
in_child(producer.close)
in_child(lambda: globals().pop("producer"))
result = producer.send(Message("T", "parent"), timeout_s=60)
print(result.attempts, producer.client_id == parent_id)
producer.close()
in_child(lambda: producer.send(Message("T", "closed")))
""",
    )
    closed = "producer 'PG' is not started, or closed"
    assert lines == [closed, closed, "1 True", "refused: False", "refused: False"]
    assert len(sends(fake.broker)) == 6


def test_start_and_with_restart_the_client_in_a_child(fake: FakeCluster, loop: str) -> None:
    lines = run(
        fake,
        loop,
        """
producer, admin = Producer("PG", addr), Admin(addr)
producer.start()
admin.start()
def started():
    producer.start()
    print(producer.send(Message("T", "child"), timeout_s=60).attempts)
    try:
        producer.start()
    except ClientError as error:
        print(error)
    producer.close()
def used_with():
    with producer, admin:
        print(producer.send(Message("T", "child"), timeout_s=60).attempts, len(admin.master_addresses()))
in_child(started)
in_child(used_with)
print(producer.send(Message("T", "parent"), timeout_s=60).attempts)
admin.close()
producer.close()
""",
    )
    again = "started twice: a client is started once, and a closed one is not started again"
    assert lines == ["1", again, "1", again, "1 1", "1 1", "1"]
    assert len(sends(fake.broker)) == 5


def test_lock_held_at_the_fork_does_not_block_descendants(fake: FakeCluster, loop: str) -> None:
    lines = run(
        fake,
        loop,
        """
from rmq_redis.client.blocking import facade
producer = Producer("PG", addr)
producer.start()
def grandchild():
    print(producer.send(Message("T", "x"), timeout_s=60).attempts)
    producer.close()
def child():
    with facade._renewing.lock:  # another thread of the child starts a client anew
        in_child(grandchild)
with facade._renewing.lock:
    in_child(child)
producer.close()
""",
    )
    assert lines == ["1"] * 4


def test_multiprocessing_children_send_concurrently(fake: FakeCluster, loop: str) -> None:
    run(
        fake,
        loop,
        """
producer = Producer("PG", addr, instance_name="web")
admin = Admin(addr)
producer.start()
admin.start()
producer.send(Message("T", "parent"))
context = multiprocessing.get_context("fork")
def work(ids):
    for _ in range(20):
        assert producer.send(Message("T", os.urandom(50_000)), timeout_s=60).attempts == 1
    assert admin.max_offset(producer.publish_queues("T")[0]) > 0
    ids.put(producer.client_id)
ids = context.Queue()
children = [context.Process(target=work, args=(ids,)) for _ in range(3)]
for child in children:
    child.start()
for _ in range(20):
    assert producer.send(Message("T", "parent"), timeout_s=60).attempts == 1
found = {ids.get(timeout=300) for _ in children} | {producer.client_id}
assert len(found) == 4 and all("@web" in client_id for client_id in found), found
for child in children:
    child.join()
    assert child.exitcode == 0
admin.close()
producer.close()
""",
    )
    assert len(sends(fake.broker)) == 1 + 4 * 20


def test_transaction_producer_restarts_in_a_child(fake: FakeCluster, loop: str) -> None:
    lines = run(
        fake,
        loop,
        """
class Listener:
    def execute_local_transaction(self, message, arg):
        return LocalTransactionState.COMMIT_MESSAGE
    def check_local_transaction(self, message):
        return None
producer = TransactionProducer("PG", Listener(), addr)
producer.start()
def send():
    print(producer.send_message_in_transaction(Message("T", "x"), timeout_s=60).local_transaction_state, flush=True)
send()
in_child(send)
send()
producer.close()
""",
    )
    assert lines == ["COMMIT_MESSAGE"] * 4


def test_consumers_are_refused_in_a_child(fake: FakeCluster, loop: str) -> None:
    fake.broker.put("T", 0, b"0")
    lines = run(
        fake,
        loop,
        """
got, arrived = [], threading.Semaphore(0)
def handle(message):
    got.append(message.text())
    arrived.release()
push = PushConsumer("G", addr, consume_from_where=FIRST)
push.subscribe("T", "*", handle)
pull, simple = PullConsumer("G2", addr), SimpleConsumer("G3", addr)
simple.subscribe("T")
for consumer in (push, pull, simple):
    consumer.start()
assert arrived.acquire(timeout=300)
queue, = [queue for queue in pull.fetch_subscribe_message_queues("T") if queue.queue_id == 0]
pull.assign([queue])
message, = pull.poll(60)
def child():
    refused(
        push.start, push.run_forever, lambda: push.subscribe("T2", "*", handle), lambda: push.unsubscribe("T"),
        pull.start, lambda: pull.pull(queue), pull.poll, pull.commit, lambda: pull.seek(queue, 0),
        lambda: pull.assign([]), lambda: pull.fetch_subscribe_message_queues("T"), lambda: next(iter(pull)),
        lambda: pull.committed(queue), lambda: pull.max_offset(queue),
        simple.start, simple.receive, lambda: simple.ack(message), lambda: simple.subscribe("T2"),
        lambda: simple.change_invisible_duration(message, 1),
    )
    for consumer in (push, pull, simple):
        consumer.close()
in_child(child)
with Producer("PG", addr) as producer:
    producer.send(Message("T", "1"), queue=queue)
assert arrived.acquire(timeout=300)
assert [message.text() for message in pull.poll(60)] == ["1"]
for consumer in (push, pull, simple):
    consumer.close()
print(got)
""",
    )
    assert lines == ["['0', '1']"]
    assert fake.broker.offsets["G", "T", 0] == 2


def test_asyncio_clients_are_refused_in_a_child(fake: FakeCluster, loop: str) -> None:
    lines = run(
        fake,
        loop,
        """
async def main():
    producer, admin = AsyncProducer("PG", addr), AsyncAdmin(addr)
    push, pull, simple = AsyncPushConsumer("G", addr), AsyncPullConsumer("G2", addr), AsyncSimpleConsumer("G3", addr)
    app = App("A", addr)
    async def handle(message):
        pass
    push.subscribe("T", "*", handle)
    simple.subscribe("T")
    clients = [producer, admin, push, pull, simple, app]
    for client in clients:
        await client.start()
    await producer.send(Message("T", "parent"))
    queue, *_ = await pull.fetch_subscribe_message_queues("T")
    async def child():
        message = Message("T", "child")
        await refused_async(
            producer.send(message), producer.send_oneway(message), producer.send_batch([message]),
            producer.send(Message("T", bytes(100_000))), producer.request(message), producer.publish_queues("T"),
            producer.start(), app.producer.send(message),
            admin.topic_list(), admin.topic_route("T"), admin.max_offset(queue),
            push.run_forever(), push.start(),
            pull.pull(queue), pull.poll(), pull.committed(queue), pull.start(),
            simple.receive(), simple.start(),
        )
        refused(
            lambda: push.subscribe("T2", "*", handle), lambda: push.unsubscribe("T"), lambda: pull.assign([]),
            lambda: simple.subscribe("T2"), lambda: simple.unsubscribe("T"),
        )
        for client in clients:
            await client.close()
    pid = os.fork()
    if pid == 0:
        # As a program would: the parent's loop is left alone. A new one in a new thread, as run_forever does not nest.
        failed = []
        def work():
            try:
                asyncio.run(child())
            except BaseException as error:
                failed.append(error)
                print(repr(error), file=sys.stderr, flush=True)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        sys.stdout.flush()
        os._exit(bool(failed))
    assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
    assert (await producer.send(Message("T", "parent"), timeout_s=60)).attempts == 1
    print(len(await admin.master_addresses()))
    for client in clients:
        await client.close()
asyncio.run(main())
""",
    )
    assert lines == ["1"]
    assert len(sends(fake.broker)) == 2
    left = [tuple(sorted(command.ext_fields.items())) for command in fake.broker.of(RequestCode.UNREGISTER_CLIENT)]
    assert left
    assert len(set(left)) == len(left)  # the parent left its groups; the child did not do so before


def test_handler_may_fork(fake: FakeCluster, loop: str) -> None:
    fake.broker.put("T", 0, b"0", b"1")
    lines = run(
        fake,
        loop,
        """
context = multiprocessing.get_context("fork")
producer = Producer("PG", addr)
producer.start()
done = threading.Semaphore(0)
def work(text):
    producer.send(Message("T2", text), timeout_s=60)
    refused(lambda: consumer.subscribe("T", "*", handle))
    consumer.close()
def handle(message):
    child = context.Process(target=work, args=(message.text(),))
    child.start()
    child.join()
    print(child.exitcode, flush=True)
    done.release()
consumer = PushConsumer("G", addr, consume_from_where=FIRST, concurrency=1)
consumer.subscribe("T", "*", handle)
with consumer:
    assert done.acquire(timeout=300) and done.acquire(timeout=300)
producer.close()
""".replace("T2", "T"),
    )
    assert lines[:2] == ["0", "0"]
    assert fake.broker.offsets["G", "T", 0] >= 2


def test_child_does_not_hold_the_offset_directory_lock(fake: FakeCluster, loop: str, tmp_path: object) -> None:
    lines = run(
        fake,
        loop,
        f"""
def consumer():
    made = PushConsumer("G", addr, message_model="BROADCASTING", offset_store_path={str(tmp_path)!r})
    made.subscribe("T", "*", print)
    return made
with consumer() as first:
    before = first.client_id
    ready, end = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready[1], b"x")
        os.read(end[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
with consumer() as second:
    print(second.client_id == before)
os.write(end[1], b"x")
os.waitpid(pid, 0)
""",
    )
    assert lines == ["True"]
