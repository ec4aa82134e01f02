"""What a producer, and a terminal, is told when a message is stored and not where SYNC_MASTER or SYNC_FLUSH want it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from cli_support import run_cli
from helpers import eventually
from load import all_messages
from processes import broker, namesrv

from rmq_redis import AsyncProducer, Message, Producer, SendResult, SendStatus
from rmq_redis.store.embedded import EmbeddedServer

TOPIC = "status"
ROLES = {
    SendStatus.FLUSH_DISK_TIMEOUT: ("--flush-disk-type", "SYNC_FLUSH"),
    SendStatus.FLUSH_SLAVE_TIMEOUT: ("--broker-role", "SYNC_MASTER"),
    SendStatus.SLAVE_NOT_AVAILABLE: ("--broker-role", "SYNC_MASTER"),
}


@dataclass
class Group:
    """A broker process that waits for what it is told to; what it waits for can be taken away, and given back."""

    namesrv_addr: str
    take_away: Callable[[], None]
    give_back: Callable[[], None]


@pytest.fixture
def status(request: pytest.FixtureRequest) -> SendStatus:
    wanted: SendStatus = request.param
    return wanted


@pytest.fixture
def group(tmp_path: Path, status: SendStatus) -> Iterator[Group]:
    settings = {"repl-diskless-sync-delay": "0"}
    with EmbeddedServer(tmp_path / "store", settings=settings) as store:
        replica = EmbeddedServer(tmp_path / "replica", settings={"replicaof 127.0.0.1": str(store.port)})
        replica.start()
        client = redis.Redis.from_url(store.url)
        ways: dict[SendStatus, tuple[Callable[[], object], Callable[[], object]]] = {
            # With "no" the server leaves it to the system when the file is on disk: WAITAOF is never told.
            SendStatus.FLUSH_DISK_TIMEOUT: (
                lambda: client.config_set("appendfsync", "no"),
                lambda: client.config_set("appendfsync", "always"),
            ),
            SendStatus.FLUSH_SLAVE_TIMEOUT: (
                lambda: os.kill(replica.pid, signal.SIGSTOP),
                lambda: os.kill(replica.pid, signal.SIGCONT),
            ),
            SendStatus.SLAVE_NOT_AVAILABLE: (replica.kill, replica.start),
        }
        try:
            with (
                namesrv(store.url, tmp_path) as names,
                broker(store.url, names.address, tmp_path, "--port", "0", *ROLES[status]),
            ):
                yield Group(names.address, *ways[status])
        finally:
            if replica.pid:
                os.kill(replica.pid, signal.SIGCONT)
            replica.kill()
            client.close()


each = pytest.mark.parametrize("status", ROLES, indirect=True, ids=str)


@each
async def test_sdk_reports_stored_but_unconfirmed_messages(group: Group, status: SendStatus) -> None:
    """With the defaults of both sides: the broker answers before a producer gives up, so nothing is sent twice."""
    async with AsyncProducer("status-producer", group.namesrv_addr) as producer:
        sent: list[SendResult] = []

        async def confirmed() -> bool:
            sent.append(await producer.send(Message(TOPIC, f"before-{len(sent)}")))
            return sent[-1].status is SendStatus.SEND_OK

        await eventually(confirmed, "the broker is there, and what it waits for")
        before = len(sent)
        group.take_away()
        with Producer("status-sync-producer", group.namesrv_addr) as sync:

            async def late() -> bool:
                calls = (
                    producer.send(Message(TOPIC, "single")),
                    producer.send(Message(TOPIC, "keyed", tags="A", keys="k"), key="k"),
                    producer.send_batch([Message(TOPIC, f"batch-{i}") for i in range(3)]),
                    asyncio.to_thread(sync.send, Message(TOPIC, "sync single")),
                    asyncio.to_thread(sync.send_batch, [Message(TOPIC, f"sync batch-{i}") for i in range(3)]),
                )
                results = await asyncio.gather(*calls)
                sent.extend(results)
                return {result.status for result in results} == {status}

            # A replica that was killed a moment ago may have taken the first of them, or still be waited for.
            await eventually(late, f"all are {status}")
        group.give_back()
        await eventually(confirmed, "what it waits for is back")
    assert len(sent) > before
    assert {result.attempts for result in sent} == {1}
    stored = await all_messages(group.namesrv_addr, TOPIC)
    for result in sent:
        ids = result.msg_id.split(",")
        places = [(result.queue.queue_id, result.queue_offset + i) for i in range(len(ids))]
        assert [stored[place].msg_id for place in places] == ids
    assert len(stored) == sum(len(result.msg_id.split(",")) for result in sent), "something was stored twice"


@each
async def test_send_command_reports_missing_confirmation_and_exits_with_3(group: Group, status: SendStatus) -> None:
    env = {"RMQ_REDIS_NAMESRV_ADDR": group.namesrv_addr}

    async def has_code(code: int, *arguments: str, stdin: str = "") -> bool:
        nonlocal done
        done = await asyncio.to_thread(lambda: run_cli("send", TOPIC, *arguments, stdin=stdin, **env))
        return done.returncode == code

    done = run_cli("topic", "create", TOPIC, **env)
    await eventually(lambda: has_code(0, "confirmed"), "sends are confirmed")
    assert done.stderr == ""
    group.take_away()
    await eventually(lambda: has_code(3, "alone"), f"a send is {status}")
    assert f"  {TOPIC} broker-a queue " in done.stdout
    assert done.stderr.startswith(f"{status}: 1 of 1 stored, but ")
    assert await has_code(3, stdin="one\ntwo\nthree\n"), done.stderr
    assert done.stdout.startswith("sent 3 messages")
    assert done.stderr.startswith(f"{status}: 3 of 3 stored, but ")
    assert await has_code(3, "--json", stdin="one more\n"), done.stderr
    assert f'"status": "{status}"' in done.stdout
    group.give_back()
    await eventually(lambda: has_code(0, "confirmed again"), "sends are confirmed again")
    bodies = {message.text() for message in (await all_messages(group.namesrv_addr, TOPIC)).values()}
    assert bodies == {"confirmed", "alone", "one", "two", "three", "one more", "confirmed again"}
