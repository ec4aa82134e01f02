"""The SDK in a process in which gevent or eventlet has replaced threads and sockets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from client_fakes import FakeCluster, threaded_cluster

PATCH = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all(); from gevent import spawn, sleep",
    "eventlet": "import eventlet; eventlet.monkey_patch(); from eventlet import spawn, sleep",
}
HEAD = """
import os, signal, sys, threading, time
from rmq_redis import *
addr = sys.argv[1]
FIRST = "CONSUME_FROM_FIRST_OFFSET"
turns = 0
def count():
    global turns
    while True:
        turns += 1
        sleep(0.001)
"""


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with threaded_cluster() as running:
        yield running


@pytest.fixture(params=list(PATCH))
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    found = subprocess.run([sys.executable, "-c", PATCH[name]], capture_output=True, check=False, timeout=300)
    if found.returncode:
        pytest.skip(f"{name} is not installed")
    return name


def run(fake: FakeCluster, patch: str, program: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", patch + HEAD + program, fake.namesrv_addr],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.stderr, result.returncode) == ("", 0), result.stdout
    return result.stdout.splitlines()


def test_producers_and_consumers_work_beside_green_threads(fake: FakeCluster, library: str) -> None:
    lines = run(
        fake,
        PATCH[library],
        """
spawn(count)
got = []
consumer = PushConsumer("G", addr, consume_from_where=FIRST, concurrency=3)
def handle(message):
    time.sleep(0.001)
    got.append(message.text())
    if len(got) == 30:
        os.kill(os.getpid(), signal.SIGTERM)
consumer.subscribe("T", "*", handle)
with Producer("PG", addr) as producer:
    for number in range(10):
        producer.send(Message("T", f"{number}"))
    senders = [threading.Thread(target=producer.send, args=(Message("T", "t" * 70_000),)) for _ in range(10)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    for future in [producer.send_async(Message("T", "a")) for _ in range(10)]:
        future.result()
    consumer.run_forever()
print(len(got), turns > 1)
""",
    )
    assert lines == ["30 True"]
    assert fake.broker.offsets["G", "T", 0] + fake.broker.offsets["G", "T", 1] == 30


def test_app_runs_beside_green_threads(fake: FakeCluster, library: str) -> None:
    fake.broker.put("T", 0, b"0", b"1", b"2")
    lines = run(
        fake,
        PATCH[library],
        """
spawn(count)
app = App("G", addr)
got = []
@app.consumer("T", consume_from_where=FIRST, orderly=True)
def handle(message):
    time.sleep(0.001)
    if message.text() != "sent":
        app.wait_for(app.producer.send(Message("T", "sent")))
    got.append(message.text())
    if len(got) == 6:
        app.wait_for(app.close())
app.run()
print(sorted(got), turns > 1)
""",
    )
    assert lines == ["['0', '1', '2', 'sent', 'sent', 'sent'] True"]


def test_client_restarts_in_a_child_with_green_threads(fake: FakeCluster, library: str) -> None:
    lines = run(
        fake,
        PATCH[library],
        """
producer = Producer("PG", addr)
producer.start()
producer.send(Message("T", "parent"))
pid = os.fork()
if pid == 0:
    print(producer.send(Message("T", "child"), timeout_s=60).attempts, flush=True)
    producer.close()
    sleep(0.05)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(producer.send(Message("T", "parent"), timeout_s=60).attempts)
producer.close()
""",
    )
    assert lines == ["1", "1"]


def test_threads_without_select_are_refused_with_a_clear_error(fake: FakeCluster) -> None:
    pytest.importorskip("gevent")
    lines = run(
        fake,
        "import gevent.monkey; gevent.monkey.patch_all(select=False); from gevent import sleep",
        """
for client in (Producer("PG", addr), Admin(addr)):
    try:
        client.start()
    except ConfigError as error:
        print(error)
""",
    )
    assert len(lines) == 2
    assert lines[0] == (
        "gevent has replaced threads, but not select: the event loop would stop all green threads. Patch both (for "
        "example gevent.monkey.patch_all()), or neither"
    )
