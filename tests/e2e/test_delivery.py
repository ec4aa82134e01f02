"""Messages that come later, come again, and dead letters: examples and commands as processes of their own."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cli_support import DEADLINE_S, environment, json_lines_of, json_of, result_of, run_cli, up, wait_until
from helpers import eventually
from load import all_messages, more_than, sent_one
from processes import RoleProcess, broker, namesrv

from rmq_redis import (
    AsyncProducer,
    AsyncPullConsumer,
    AsyncPushConsumer,
    ConsumeFromWhere,
    Message,
    MessageExt,
    PushConsumer,
)
from rmq_redis.store.embedded import EmbeddedServer

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def namesrv_addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of its own for the tests that do not kill anything."""
    with up(tmp_path_factory.mktemp("up")) as cluster:
        yield cluster.wait_until_ready()


def run_example(name: str, namesrv_addr: str) -> str:
    """What an example printed; it must succeed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment(RMQ_REDIS_NAMESRV_ADDR=namesrv_addr),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_of_delayed_messages_runs(namesrv_addr: str) -> None:
    lines = run_example("delayed.py", namesrv_addr).splitlines()
    assert lines[0] == "recalled True"
    assert lines[1].startswith("recalled once only: recall failed")
    arrived = {re.sub(r": stored when it was due, here -?\d+ ms later$", "", line) for line in lines[2:]}
    assert arrived == {"in 1.5 s", "at a time", "level 1, which is 1 s"}


def test_delayed_message_is_sent_and_recalled_by_commands(namesrv_addr: str) -> None:
    given = ("--namesrv", namesrv_addr)
    text = result_of("send", "later", "in an hour", "--delay", "3600", *given)
    msg_id, handle = text.split()[0], text.split()[-1]
    assert result_of("recall", "later", handle, *given) == f"{msg_id}  recalled\n"
    refused = run_cli("recall", "later", handle, *given)
    assert (refused.returncode, "recalled before" in refused.stderr) == (1, True)
    soon = json_of("send", "later", "soon", "--delay-level", "1", *given)
    assert soon["recall_handle"]
    (arrived,) = json_lines_of("consume", "later", "--max", "1", *given)
    assert (arrived["body"], arrived["msg_id"]) == ("soon", soon["msg_id"])


async def consume_failing(namesrv_addr: str, group: str, topic: str, count: int) -> None:
    """Has a group fail at ``count`` messages of a topic."""
    failed: list[str] = []

    async def fail(message: MessageExt) -> bool:
        failed.append(message.text())
        return False

    consumer = AsyncPushConsumer(group, namesrv_addr, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)
    consumer.subscribe(topic, "*", fail)
    async with consumer:
        await eventually(lambda: len(failed) >= count, "the messages fail", DEADLINE_S)


async def test_dead_letters_are_listed_and_resent(namesrv_addr: str) -> None:
    topic, group = "dead-orders", "dead-billing"
    given = ("--namesrv", namesrv_addr)
    changed = json_of("group", "set", group, "--retry-max-times", "0", *given)
    assert {item["retry_max_times"] for item in changed} == {0}
    for number in range(3):
        result_of("send", topic, f"order {number}", "--tags", "paid", "--keys", f"k{number}", "-p", "a=b", *given)
    await consume_failing(namesrv_addr, group, topic, 3)

    listed = await eventually(lambda: three(json_lines_of("dlq", "list", group, *given)), "dead letters", DEADLINE_S)
    by_body = {item["body"]: item for item in listed}
    assert by_body.keys() == {"order 0", "order 1", "order 2"}
    first = by_body["order 0"]
    assert (first["topic"], first["origin_topic"], first["tags"], first["keys"]) == (
        f"%DLQ%{group}",
        topic,
        "paid",
        "k0",
    )
    assert (first["reconsume_times"], first["resent"], len(first["origin_message_id"])) == (1, False, 32)
    assert f"{topic}  retries 1  {first['msg_id']}  keys k0" in result_of("dlq", "list", group, *given)

    chosen = by_body["order 1"]["msg_id"]
    (sent,) = json_lines_of("dlq", "resend", group, "--msg-id", chosen, *given)
    assert (sent["msg_id"], sent["topic"]) == (chosen, topic)
    missing = run_cli("dlq", "resend", group, "--msg-id", "unknown", *given)
    assert (missing.returncode, "unknown" in missing.stderr) == (1, True)
    assert run_cli("dlq", "resend", group, "--all", *given).returncode == 2
    would = json_lines_of("dlq", "resend", group, "--all", "--dry-run", *given)
    assert {item["origin_topic"] for item in would} == {topic}
    sent_again = json_lines_of("dlq", "resend", group, "--all", "--yes", *given)
    assert len(sent_again) == len(would)
    assert sent_again
    assert "sent 0 dead letters" in result_of("dlq", "resend", group, "--all", "--yes", *given)
    assert all(item["resent"] for item in json_lines_of("dlq", "list", group, *given))

    async def stored() -> list[MessageExt]:
        found: list[MessageExt] = []
        async with AsyncPullConsumer("dead-reader", namesrv_addr) as consumer:
            for queue in await consumer.fetch_subscribe_message_queues(topic):
                found += (await consumer.pull(queue, "*", 0, 32)).messages
        return found

    copies = [message for message in await stored() if "ORIGIN_MESSAGE_ID" in message.properties]
    assert len(copies) == 1 + len(sent_again)
    assert {message.text() for message in copies} == {"order 0", "order 1", "order 2"}
    for message in copies:
        origin = by_body[message.text()]
        assert (message.msg_id, message.tags, message.keys) == (origin["msg_id"], "paid", origin["keys"])
        assert (message.properties["a"], message.reconsume_times) == ("b", 0)
        assert message.properties["ORIGIN_MESSAGE_ID"] == origin["origin_message_id"]


def three(items: list[Any]) -> list[Any]:
    return items if len(items) == 3 else []


def test_group_without_dead_letters_is_reported(namesrv_addr: str) -> None:
    done = run_cli("dlq", "list", "nobody", "--namesrv", namesrv_addr)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "group nobody has no dead letters\n")


def test_groups_are_listed_shown_changed_and_deleted(namesrv_addr: str) -> None:
    given = ("--namesrv", namesrv_addr)
    unknown = run_cli("group", "show", "tried", *given)
    assert (unknown.returncode, "tried" in unknown.stderr) == (1, True)
    result_of("group", "set", "tried", "--retry-delays", "0.5,2,7", "--no-broadcast", *given)
    for item in json_of("group", "set", "tried", "--retry-max-times", "5", "--no-consume", *given):
        assert item["retry_delays_ms"] == [500, 2000, 7000, 7000, 7000]  # what was not given stays
        assert (item["consume_enable"], item["consume_broadcast_enable"], item["retry_queue_nums"]) == (False, False, 1)
    too_many = run_cli("group", "set", "tried", "--retry-queues", "2000", *given)
    assert (too_many.returncode, "2000: give at most 1024" in too_many.stderr) == (2, True)
    assert "0.5 s, 2 s, 7 s, 7 s, 7 s" in result_of("group", "show", "tried", *given)
    back = json_of("group", "set", "tried", "--retry-delays", "levels", "--consume", *given)
    assert {(item["retry_delays_ms"], item["consume_enable"]) for item in back} == {(None, True)}
    assert "tried" in json_of("group", "list", *given)
    result_of("group", "delete", "tried", "--yes", *given)
    again = run_cli("group", "delete", "tried", "--yes", *given)
    assert (again.returncode, "consumer group 'tried' does not exist" in again.stderr) == (1, True)
    assert "group 'tried' has not consumed any message" in run_cli("offset", "show", "tried", *given).stderr
    assert "tried" not in result_of("group", "list", "--all", *given).split()


def test_members_with_different_subscriptions_are_shown(namesrv_addr: str) -> None:
    given = ("--namesrv", namesrv_addr)
    result_of("topic", "create", "watched", *given)
    members = []
    for tags in ("A", "B"):
        consumer = PushConsumer("watchers", namesrv_addr)
        consumer.subscribe("watched", tags, lambda message: None)
        members.append(consumer)
    with members[0], members[1]:
        wait_until(
            lambda: "warning: its members subscribe differently" in run_cli("group", "show", "watchers", *given).stderr,
            "the group's members are compared",
        )
        for item in json_of("group", "show", "watchers", *given):
            (warning,) = item["warnings"]
            assert "watched TAG A" in warning
    assert run_cli("group", "show", "watchers", *given).stderr == ""


def test_example_of_retries_and_dead_letters_runs(namesrv_addr: str) -> None:
    assert run_example("retry_dead_letters.py", namesrv_addr).splitlines()[:4] == [
        "order 7: delivery 1",
        "order 7: delivery 2",
        "order 7: delivery 3",
        "dead letter: order 7 of payments, keys order-7",
    ]


# --- kill -9 while messages fall due ---------------------------------------------------------------------------------

BURST = 10_000
BURSTS = 20
"""Bursts until one is hit in the middle. The first almost always is; a machine that stalls may miss it."""


async def send_burst(producer: AsyncProducer, topic: str, name: str, lead_s: float) -> float:
    """``BURST`` messages that are all due in ``lead_s``; the seconds that it took to send them."""
    began = time.monotonic()
    due_ms = int((time.time() + lead_s) * 1000)
    numbers = iter(range(BURST))

    async def keep_sending() -> None:
        for number in numbers:
            message = Message(topic, f"{name}-{number}").with_deliver_at_ms(due_ms)
            assert (await producer.send(message, timeout_s=DEADLINE_S)).attempts == 1

    await asyncio.gather(*(keep_sending() for _ in range(50)))
    return time.monotonic() - began


class BurstTest:
    """Bursts of timers at one broker, until a kill has hit one in the middle."""

    def __init__(self, names: RoleProcess, store: EmbeddedServer) -> None:
        self._namesrv_addr = names.address
        self._store = store
        self._expected: Counter[str] = Counter()
        self.topic = "burst"

    def moved(self) -> int:
        """How many messages are in their queues."""
        with redis.Redis.from_url(self._store.url) as client:
            keys = [f"rmq:{{broker-a}}:queue:{self.topic}:{queue_id}" for queue_id in range(4)]
            return sum(int(client.xlen(key)) for key in keys)

    async def run(self, kill: Callable[[], int], restart: Callable[[], None]) -> None:
        """``kill`` returns how many messages were in their queues then."""
        async with AsyncProducer("burst-producer", self._namesrv_addr, poll_name_server_interval_s=0.5) as producer:
            lead_s = 4.0
            for burst in range(BURSTS):
                await eventually(lambda: sent_one(producer, self.topic), "sends are taken", DEADLINE_S)
                before = self.moved()
                took_s = await send_burst(producer, self.topic, f"burst {burst}", lead_s)
                lead_s = max(lead_s, 1.5 * took_s)  # on a busy machine the first are due before the last are sent
                self._expected.update(f"burst {burst}-{number}" for number in range(BURST))
                await eventually(lambda before=before: self.moved() > before, "the burst begins", DEADLINE_S)
                hit = kill() < before + BURST
                await asyncio.to_thread(restart)
                complete = before + BURST
                await eventually(lambda complete=complete: self.moved() >= complete, "all came", DEADLINE_S)
                if hit:
                    break
        assert hit, f"{BURSTS} bursts were over before the kill"
        await eventually(lambda: more_than(complete - 1, self._namesrv_addr, self.topic, complete), "", DEADLINE_S)
        stored = Counter(message.text() for message in (await all_messages(self._namesrv_addr, self.topic)).values())
        del stored["first"]
        assert stored == self._expected
        with redis.Redis.from_url(self._store.url) as client:
            assert client.keys("rmq:{broker-a}:scheduled*") + client.keys("*:recallable") == []


async def test_broker_killed_in_a_burst_neither_loses_nor_duplicates(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "store") as store, namesrv(store.url, tmp_path) as names:
        master = broker(store.url, names.address, tmp_path, "--port", "0").wait_until_serving()
        try:
            test = BurstTest(names, store)

            def kill() -> int:
                master.kill()
                return test.moved()

            def restart() -> None:
                nonlocal master
                master = broker(store.url, names.address, tmp_path, "--port", master.port).wait_until_serving()

            await test.run(kill, restart)
        finally:
            master.kill()


async def test_store_killed_in_a_burst_neither_loses_nor_duplicates(tmp_path: Path) -> None:
    with (
        EmbeddedServer(tmp_path / "registry") as registry,
        EmbeddedServer(tmp_path / "store", settings={"appendfsync": "always"}) as store,
        namesrv(registry.url, tmp_path) as names,
        broker(store.url, names.address, tmp_path, "--port", "0"),
    ):
        test = BurstTest(names, store)

        def kill() -> int:
            moved = test.moved()
            store.kill()
            return moved

        await test.run(kill, store.start)
