"""Requests and replies through processes: each gets its own answer, also when the broker is killed in between."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import CliProcess, environment, up
from processes import broker, namesrv

from rmq_redis import (
    Admin,
    AsyncProducer,
    AsyncPushConsumer,
    Message,
    MessageExt,
    Producer,
    PushConsumer,
    ReplyTimeoutError,
    RmqError,
    reply_to,
)
from rmq_redis.store.embedded import EmbeddedServer

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "request_reply.py"
TOPIC = "requests"
FIRST = "CONSUME_FROM_FIRST_OFFSET"
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def namesrv_addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two broker groups: a reply must find the one at which its requester is."""
    with up(tmp_path_factory.mktemp("up"), brokers=2) as cluster:
        assert isinstance(cluster, CliProcess)
        address = cluster.wait_until_ready()
        with Admin(address) as admin:
            for topic in (TOPIC, "by-hand", "silence", "plain"):
                admin.create_topic(topic)
                admin.wait_for_route(topic)
        yield address


async def test_each_request_gets_its_own_reply(namesrv_addr: str) -> None:
    consumer = AsyncPushConsumer("repliers", namesrv_addr, consume_from_where=FIRST)

    @consumer.replier(TOPIC, "A")
    async def handle(message: MessageExt) -> Message | str | bytes:
        text = message.text()
        if text.startswith("large"):
            return b"large " * 100_000  # compressed on its way
        if text.startswith("message"):
            return Message("", f"reply to {text}", tags="T", keys="K", properties={"colour": "grün"}, flag=5)
        return f"reply to {text}"

    async with (
        consumer,
        AsyncProducer("askers", namesrv_addr) as producer,
        AsyncProducer("others", namesrv_addr) as other,
    ):
        replies = await asyncio.gather(
            *(
                (producer, other)[number % 2].request(Message(TOPIC, f"{number}", tags="A"), timeout_s=30.0)
                for number in range(100)
            )
        )
        assert [reply.text() for reply in replies] == [f"reply to {number}" for number in range(100)]
        assert len({reply.broker_name or reply.store_host for reply in replies}) == 2
        assert (await producer.request(Message(TOPIC, "large", tags="A"), timeout_s=30.0)).body == b"large " * 100_000
        reply = await producer.request(Message(TOPIC, "message", tags="A"), key="k", timeout_s=30.0)
        assert (reply.text(), reply.tags, reply.keys, reply.flag) == ("reply to message", "T", "K", 5)
        assert (reply.properties["colour"], reply.properties["MSG_TYPE"]) == ("grün", "reply")
        assert reply.topic == "DefaultCluster_REPLY_TOPIC"


async def test_ordinary_handler_can_send_the_reply(namesrv_addr: str) -> None:
    """As Java programs do it: an ordinary handler sends ``reply_to(message, body)`` with a producer of its own."""
    consumer = AsyncPushConsumer("by-hand", namesrv_addr, consume_from_where=FIRST)
    async with AsyncProducer("by-hand-replies", namesrv_addr) as replying:

        @consumer.handler("by-hand")
        async def handle(message: MessageExt) -> None:
            await replying.send(reply_to(message, message.text().upper()))

        async with consumer, AsyncProducer("by-hand-asks", namesrv_addr) as producer:
            for text in ("a", "b", "c", "d"):
                assert (await producer.request(Message("by-hand", text), timeout_s=30.0)).text() == text.upper()


async def test_request_without_a_reply_times_out(namesrv_addr: str) -> None:
    seen = asyncio.Event()
    consumer = AsyncPushConsumer("silent", namesrv_addr, consume_from_where=FIRST)

    @consumer.replier("silence")
    async def handle(message: MessageExt) -> None:
        seen.set()

    async with AsyncProducer("askers", namesrv_addr) as producer:
        with pytest.raises(ReplyTimeoutError, match="is stored, but no reply came in 1 s"):
            await producer.request(Message("silence", "anybody?"), timeout_s=1.0)
        async with consumer, asyncio.timeout(DEADLINE_S):
            await seen.wait()


def test_request_and_reply_work_without_an_event_loop(namesrv_addr: str) -> None:
    threads: set[str] = set()
    consumer = PushConsumer("plain", namesrv_addr, consume_from_where=FIRST)

    @consumer.replier("plain")
    def handle(message: MessageExt) -> str:
        threads.add(threading.current_thread().name)
        return message.text()[::-1]

    with consumer, Producer("plain-askers", namesrv_addr) as producer:
        assert producer.request(Message("plain", "abc"), timeout_s=30.0).text() == "cba"
    assert "rmq-redis-loop" not in threads


async def test_requests_continue_after_the_broker_was_killed(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "store") as store, namesrv(store.url, tmp_path) as names:
        master = broker(store.url, names.address, tmp_path, "--port", "0").wait_until_serving()
        try:
            consumer = AsyncPushConsumer("repliers", names.address, consume_from_where=FIRST)

            @consumer.replier(TOPIC)
            async def handle(message: MessageExt) -> str:
                return f"reply to {message.text()}"

            async with consumer, AsyncProducer("askers", names.address) as producer:
                reply = await producer.request(Message(TOPIC, "before"), timeout_s=30.0)
                assert reply.text() == "reply to before"
                master.kill()
                with pytest.raises(RmqError):
                    await producer.request(Message(TOPIC, "while it is away"), timeout_s=1.0)
                master = broker(store.url, names.address, tmp_path, "--port", master.port)
                await asyncio.to_thread(master.wait_until_serving)
                async with asyncio.timeout(DEADLINE_S):
                    while True:
                        try:
                            reply = await producer.request(Message(TOPIC, "after"), timeout_s=5.0)
                            break
                        except RmqError:
                            await asyncio.sleep(0.1)
                assert reply.text() == "reply to after"
        finally:
            if master.process.poll() is None:
                master.kill()


def test_example_runs(namesrv_addr: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment(RMQ_REDIS_NAMESRV_ADDR=namesrv_addr),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["tea: 4.20", "coffee: 3.80"]
    assert lines[2].startswith("gold: the request to topic 'example-prices' is stored, but no reply came in 1 s")
