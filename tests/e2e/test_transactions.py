"""Transactions through processes: committed, rolled back, asked about; the broker or the producer killed in between."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from cli_support import environment, json_lines_of, result_of, run_cli
from helpers import eventually
from processes import RoleProcess, broker, namesrv

from rmq_redis import (
    AsyncPullConsumer,
    AsyncPushConsumer,
    AsyncTransactionProducer,
    LocalTransactionState,
    Message,
    MessageExt,
    TransactionProducer,
)
from rmq_redis.store.embedded import EmbeddedServer

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "order_payment_transaction.py"
TOPIC = "transactions"
SOON = ("--transaction-timeout-s", "1", "--transaction-check-interval-s", "1")
DEADLINE_S = 120.0
COMMIT, ROLLBACK = LocalTransactionState.COMMIT_MESSAGE, LocalTransactionState.ROLLBACK_MESSAGE
UNKNOW = LocalTransactionState.UNKNOW


class Cluster:
    """A store, a NameServer and a broker that asks soon; the broker may be killed."""

    def __init__(self, store: EmbeddedServer, names: RoleProcess, log_dir: Path) -> None:
        self.store = store
        self.names = names
        self._log_dir = log_dir
        self.master = broker(store.url, names.address, log_dir, "--port", "0", *SOON).wait_until_serving()

    @property
    def namesrv_addr(self) -> str:
        return self.names.address

    def kill_broker(self) -> None:
        self.master.kill()

    def restart_broker(self, *options: str) -> None:
        given = (self.store.url, self.names.address, self._log_dir)
        self.master = broker(*given, "--port", self.master.port, *SOON, *options).wait_until_serving()

    def undecided(self) -> int:
        with redis.Redis.from_url(self.store.url) as client:
            return int(client.hlen("rmq:{broker-a}:half"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with EmbeddedServer(tmp_path / "store") as store, namesrv(store.url, tmp_path) as names:
        running = Cluster(store, names, tmp_path)
        yield running
        if running.master.process.poll() is None:
            running.master.kill()


async def stored(namesrv_addr: str) -> list[str]:
    """All that consumers can see in the topic, read by pulls."""
    texts: list[str] = []
    async with AsyncPullConsumer("reader", namesrv_addr) as consumer:
        for queue in await consumer.fetch_subscribe_message_queues(TOPIC):
            offset = 0
            while offset < await consumer.max_offset(queue):
                result = await consumer.pull(queue, "*", offset, 100)
                texts += [message.text() for message in result.messages]
                offset = result.next_begin_offset
    return texts


class Listener:
    """Decides by the message's body: ``commit``, ``rollback``, or ``later``, which is committed when asked."""

    def __init__(self, namesrv_addr: str) -> None:
        self._namesrv_addr = namesrv_addr
        self.executed: list[tuple[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        self.seen_before: list[list[str]] = []

    async def execute_local_transaction(self, message: Message, arg: Any) -> LocalTransactionState:
        assert isinstance(message.body, bytes)
        self.executed.append((message.transaction_id, arg))
        self.seen_before.append(await stored(self._namesrv_addr))
        return {b"commit": COMMIT, b"rollback": ROLLBACK, b"later": UNKNOW}[message.body]

    def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        self.asked.append((message.transaction_id, message.text()))
        return COMMIT


async def test_discarded_transaction_is_checked_again_by_command(cluster: Cluster) -> None:
    """The producer cannot say when the broker asks; another can later, and somebody has it asked again."""
    cluster.kill_broker()
    cluster.restart_broker("--transaction-check-max", "1")
    listener = Listener(cluster.namesrv_addr)
    listener.check_local_transaction = lambda message: UNKNOW  # type: ignore[method-assign]
    async with AsyncTransactionProducer("PG", listener, cluster.namesrv_addr) as producer:
        await producer.send_message_in_transaction(Message(TOPIC, "later", tags="A"))
        await eventually(lambda: cluster.undecided() == 0, "it is given up", DEADLINE_S)
    cluster.kill_broker()
    cluster.restart_broker()
    env = {"RMQ_REDIS_NAMESRV_ADDR": cluster.namesrv_addr}
    (given_up,) = await asyncio.to_thread(
        json_lines_of, "consume", "TRANS_CHECK_MAX_TIME_TOPIC", "--max", "1", "--timeout", "60", **env
    )
    listener = Listener(cluster.namesrv_addr)
    async with AsyncTransactionProducer("PG", listener, cluster.namesrv_addr, topics=[TOPIC]):
        resume = "message", "resume-check", given_up["offset_msg_id"]
        printed = await asyncio.to_thread(result_of, *resume, **env)
        assert printed == f"{given_up['msg_id']}  checks resumed; producers of {TOPIC} are asked again\n"
        await eventually(lambda: cluster.undecided() == 0, "the listener commits it", DEADLINE_S)
    assert listener.asked[0] == (given_up["msg_id"], "later")
    assert await stored(cluster.namesrv_addr) == ["later"]
    wrong = await asyncio.to_thread(run_cli, "message", "resume-check", given_up["offset_msg_id"][:-2] + "7F", **env)
    assert (wrong.returncode, "no message of" in wrong.stderr) == (1, True), wrong.stderr


async def test_messages_are_committed_rolled_back_and_checked_back(cluster: Cluster) -> None:
    listener = Listener(cluster.namesrv_addr)
    received: list[MessageExt] = []

    async def handle(message: MessageExt) -> None:
        received.append(message)

    consumer = AsyncPushConsumer("G", cluster.namesrv_addr, consume_from_where="CONSUME_FROM_FIRST_OFFSET")
    consumer.subscribe(TOPIC, "A", handle)
    async with AsyncTransactionProducer("PG", listener, cluster.namesrv_addr) as producer, consumer:
        rolled_back = await producer.send_message_in_transaction(Message(TOPIC, "rollback", tags="A"), 1)
        later = await producer.send_message_in_transaction(Message(TOPIC, "later", tags="A"), 2)
        committed = await producer.send_message_in_transaction(Message(TOPIC, "commit", tags="A", keys="K"), 3)
        states = [result.local_transaction_state for result in (rolled_back, later, committed)]
        assert states == [ROLLBACK, UNKNOW, COMMIT]
        ids = [result.transaction_id for result in (rolled_back, later, committed)]
        assert listener.executed == [(ids[0], 1), (ids[1], 2), (ids[2], 3)]
        assert listener.seen_before == [[], [], []]  # no half message was to be seen
        await eventually(lambda: len(received) >= 2, "both committed messages arrive", DEADLINE_S)
        await eventually(lambda: cluster.undecided() == 0, "all are decided", DEADLINE_S)
    assert {message.text(): (message.msg_id, message.tags) for message in received} == {
        "later": (ids[1], "A"),
        "commit": (ids[2], "A"),
    }
    assert (ids[1], "later") in listener.asked
    assert ids[0] not in dict(listener.asked)
    assert Counter(await stored(cluster.namesrv_addr)) == {"later": 1, "commit": 1}


class KillsTheBroker:
    """Its local transaction is done, but the broker dies before it hears of it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.asked: list[str] = []

    def execute_local_transaction(self, message: Message, arg: Any) -> LocalTransactionState:
        self._cluster.kill_broker()
        return COMMIT

    def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        self.asked.append(message.transaction_id)
        return COMMIT


async def test_broker_killed_before_the_commit_checks_back_after_restart(cluster: Cluster) -> None:
    listener = KillsTheBroker(cluster)
    async with AsyncTransactionProducer(
        "PG", listener, cluster.namesrv_addr, heartbeat_broker_interval_s=1.0, poll_name_server_interval_s=0.5
    ) as producer:
        result = await producer.send_message_in_transaction(Message(TOPIC, "survives"))
        assert result.local_transaction_state is COMMIT
        assert cluster.undecided() == 1
        await asyncio.to_thread(cluster.restart_broker)
        assert cluster.undecided() == 1
        await eventually(lambda: cluster.undecided() == 0, "it asks, and the message is decided", DEADLINE_S)
    assert set(listener.asked) == {result.transaction_id}
    assert await stored(cluster.namesrv_addr) == ["survives"]


PRODUCER = """
import sys, time
from rmq_redis import Message, TransactionProducer

class Hangs:
    def execute_local_transaction(self, message, arg):
        print(message.transaction_id, flush=True)
        time.sleep(600)
    def check_local_transaction(self, message):
        raise AssertionError("nobody asks it")

with TransactionProducer("PG", Hangs(), sys.argv[1]) as producer:
    producer.send_message_in_transaction(Message(sys.argv[2], "orphan"))
"""


async def test_check_back_goes_to_another_producer_when_one_is_killed(cluster: Cluster) -> None:
    def begin_and_die() -> str:
        process = subprocess.Popen(
            [sys.executable, "-c", PRODUCER, cluster.namesrv_addr, TOPIC],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert process.stdout is not None
        try:
            return process.stdout.readline().strip()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    transaction_id = await asyncio.to_thread(begin_and_die)
    assert len(transaction_id) == 32
    assert cluster.undecided() == 1
    assert await stored(cluster.namesrv_addr) == []
    listener = Listener(cluster.namesrv_addr)
    async with AsyncTransactionProducer("PG", listener, cluster.namesrv_addr, topics=[TOPIC]):
        await eventually(lambda: cluster.undecided() == 0, "the other member is asked", DEADLINE_S)
    assert set(listener.asked) == {(transaction_id, "orphan")}
    assert await stored(cluster.namesrv_addr) == ["orphan"]


def test_transactions_work_without_an_event_loop(cluster: Cluster) -> None:
    class Plain:
        def execute_local_transaction(self, message: Message, arg: Any) -> LocalTransactionState:
            return COMMIT if arg else ROLLBACK

        def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
            raise AssertionError("all are decided")

    with TransactionProducer("PG", Plain(), cluster.namesrv_addr) as producer:
        for number in range(10):
            result = producer.send_message_in_transaction(Message(TOPIC, f"{number}"), number % 2)
            assert result.local_transaction_state is (COMMIT if number % 2 else ROLLBACK)
        plain = producer.send(Message(TOPIC, "plain"))
        assert plain.transaction_id == ""
    texts = asyncio.run(stored(cluster.namesrv_addr))
    assert sorted(texts) == ["1", "3", "5", "7", "9", "plain"]


def test_example_runs(cluster: Cluster, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment(RMQ_REDIS_NAMESRV_ADDR=cluster.namesrv_addr),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for wanted in ("order-1: COMMIT_MESSAGE", "order-2: ROLLBACK_MESSAGE", "order-3: UNKNOW"):
        assert wanted in lines
    assert "order-3: the broker asks, the database says yes" in lines
    assert {line for line in lines if line.endswith(": paid")} == {"order-1: paid", "order-3: paid"}
    with closing(sqlite3.connect(tmp_path / "orders.db")) as database:
        assert database.execute("SELECT * FROM payments ORDER BY order_id").fetchall() == [
            ("order-1", 1999),
            ("order-3", 4500),
        ]
