"""Compressed bodies that become large: what they count for, and those above ``max_decompressed_bytes``."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from client_fakes import FakeCluster, cluster, until
from hypothesis import given
from hypothesis import strategies as st

from rmq_redis import (
    AsyncAdmin,
    AsyncProducer,
    AsyncPullConsumer,
    AsyncPushConsumer,
    AsyncSimpleConsumer,
    ConfigError,
    Message,
    MessageExt,
    MessageQueue,
)
from rmq_redis.cli.message import message_fields
from rmq_redis.client.admin.dead_letters import as_sent
from rmq_redis.client.core.values import decode_value
from rmq_redis.codes import MessageSysFlag, RequestCode, ResponseCode
from rmq_redis.errors import MessageDecodeError, MessageIllegalLocallyError, RemoteProtocolError
from rmq_redis.model import DLQ_PREFIX, ConsumeFromWhere
from rmq_redis.protocol.compression import decompress_body
from rmq_redis.protocol.headers.send import SendMessageRequestHeaderV2
from rmq_redis.testing import running_cluster

MB = 1_000_000
ZLIB, LZ4, ZSTD = 0x1, 0x101, 0x201
BOMB = zlib.compress(bytes(64 * MB), 9)  # 62 KB
TOO_LARGE = f"body of {len(BOMB)} bytes decompresses to more than max_decompressed_bytes={MB}"


def consumer_of(fake: FakeCluster, handler: Any, **settings: Any) -> AsyncPushConsumer:
    consumer = AsyncPushConsumer(
        "G", config=fake.config(), consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, **settings
    )
    consumer.subscribe("T", "*", handler)
    return consumer


def given_back(fake: FakeCluster) -> int:
    """How many messages went back to the broker: orderly consumers send them to the retry topic."""
    return len(fake.broker.of(RequestCode.CONSUMER_SEND_MSG_BACK) + fake.broker.of(RequestCode.SEND_MESSAGE_V2))


@given(st.binary(max_size=3000), st.integers(0, 9))
def test_decompression_limit_is_exact_for_any_body(body: bytes, level: int) -> None:
    packed = zlib.compress(body, level)
    assert decompress_body(packed, ZLIB, len(body)) == body
    if body:
        with pytest.raises(RemoteProtocolError, match=f"more than max_decompressed_bytes={len(body) - 1}"):
            decompress_body(packed, ZLIB, len(body) - 1)


@pytest.mark.parametrize("kind", ["async", "sync", "orderly", "sync orderly"])
async def test_push_consumer_sends_back_undecompressible_messages(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    handled: list[bytes] = []

    async def handle(message: MessageExt) -> None:
        handled.append(message.body)

    async with cluster() as fake:
        fake.broker.put("T", 0, b"a")
        fake.broker.put("T", 0, BOMB, sys_flag=ZLIB)
        fake.broker.put("T", 0, zlib.compress(b"b" * MB), sys_flag=ZLIB)
        fake.broker.put("T", 0, b"lz4", sys_flag=LZ4)
        fake.broker.put("T", 0, b"zstd", sys_flag=ZSTD)
        fake.broker.put("T", 0, b"not zlib", sys_flag=ZLIB)
        fake.broker.put("T", 0, b"c")
        handler = handled.append if kind.startswith("sync") else handle
        if kind.startswith("sync"):
            handler = lambda message: handled.append(message.body)  # noqa: E731
        settings = {"orderly": True} if "orderly" in kind else {}
        tracemalloc.start()
        try:
            async with consumer_of(fake, handler, max_decompressed_bytes=MB, **settings):
                await until(lambda: len(handled) == 3 and given_back(fake) >= 4)
            assert tracemalloc.get_traced_memory()[1] < 20 * MB
        finally:
            tracemalloc.stop()
    assert sorted(handled) == [b"a", b"b" * MB, b"c"]
    if "orderly" in kind:
        assert [body[:1] for body in handled] == [b"a", b"b", b"c"]
    assert TOO_LARGE in caplog.text
    assert "only zlib is supported" in caplog.text
    assert "attempt 1" in caplog.text


async def test_message_that_no_broker_takes_back_is_resent_unchanged() -> None:
    async with cluster() as fake:
        fake.broker.answers[RequestCode.CONSUMER_SEND_MSG_BACK] += [ResponseCode.SYSTEM_ERROR] * 3
        fake.broker.put("T", 0, BOMB, sys_flag=ZLIB)
        fake.broker.put("T", 0, b"lz4", sys_flag=LZ4)
        fake.broker.put("T", 0, zlib.compress(b"x" * 100_000), sys_flag=ZLIB)

        async def fail(_: MessageExt) -> bool:
            return False

        async with consumer_of(fake, fail, max_decompressed_bytes=MB):
            sent = await until(lambda: len(commands := fake.broker.of(RequestCode.SEND_MESSAGE_V2)) == 3 and commands)
    found = {(command.body, command.header(SendMessageRequestHeaderV2).sys_flag) for command in sent}
    assert (BOMB, ZLIB) in found
    assert (b"lz4", LZ4) in found
    (other,) = (command for command in sent if command.body not in (BOMB, b"lz4"))
    assert zlib.decompress(other.body) == b"x" * 100_000
    assert other.header(SendMessageRequestHeaderV2).sys_flag == MessageSysFlag.COMPRESSED


async def test_flow_control_counts_decompressed_sizes() -> None:
    gate = asyncio.Event()
    offsets: list[int] = []

    async def handle(message: MessageExt) -> None:
        await gate.wait()
        assert len(message.body) == MB
        offsets.append(message.queue_offset)

    async with cluster() as fake:
        fake.broker.put("T", 0, *[zlib.compress(bytes(MB), 9)] * 60, sys_flag=ZLIB)
        limit = {"pull_threshold_bytes_for_queue": 4 * MB, "pull_threshold_for_queue": 1000}
        async with consumer_of(fake, handle, **limit) as consumer:

            def queue() -> Any:
                return next((q for q in consumer.process_queues if q.queue.topic == "T" and q.pending), None)

            await until(lambda: queue() is not None and not queue().has_room())
            assert len(queue().pending) == 4
            assert queue().bytes == 4 * MB
            gate.set()
            await until(lambda: len(offsets) == 60)
            assert queue() is None
            assert {q.bytes for q in consumer.process_queues} == {0}
    assert sorted(offsets) == list(range(60))  # none twice, none left out


@pytest.mark.parametrize("kind", ["async", "sync", "orderly"])
async def test_consumer_releases_handled_messages(kind: str) -> None:
    handled = 0

    async def handle(message: MessageExt) -> None:
        nonlocal handled
        await asyncio.sleep(0.02)  # so that every worker has some
        handled += 1

    def handle_in_thread(message: MessageExt) -> None:
        nonlocal handled
        time.sleep(0.02)
        handled += 1

    async with cluster() as fake:
        fake.broker.put("T", 0, *[zlib.compress(bytes(MB), 9)] * 40, sys_flag=ZLIB)
        tracemalloc.start()
        try:
            handler = handle_in_thread if kind == "sync" else handle
            async with consumer_of(fake, handler, orderly=kind == "orderly"):
                await until(lambda: handled == 40)
                await until(lambda: tracemalloc.get_traced_memory()[0] < 3 * MB)
        finally:
            tracemalloc.stop()


async def test_pull_consumer_gets_undecompressible_body_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    async with cluster() as fake:
        queue = MessageQueue("T", "broker-a", 0)
        fake.broker.put("T", 0, b"a")
        fake.broker.put("T", 0, BOMB, sys_flag=ZLIB)
        fake.broker.put("T", 0, b"c")
        async with AsyncPullConsumer("G", config=fake.config(), max_decompressed_bytes=MB) as consumer:
            result = await consumer.pull(queue, "*", 0)
    assert [message.body for message in result.messages] == [b"a", BOMB, b"c"]
    assert [message.body_error for message in result.messages] == [None, TOO_LARGE, None]
    assert result.next_begin_offset == 3
    assert caplog.text.count(TOO_LARGE) == 1
    with pytest.raises(MessageDecodeError, match="max_decompressed_bytes"):
        decode_value(result.messages[1])
    assert message_fields(result.messages[1])["body_error"] == TOO_LARGE
    assert "body_error" not in message_fields(result.messages[0])


async def test_pulls_continue_where_the_room_for_bodies_ended() -> None:
    async with cluster() as fake:
        queue = MessageQueue("T", "broker-a", 0)
        fake.broker.put("T", 0, *[zlib.compress(bytes(MB), 9)] * 20, b"end", sys_flag=0)
        fake.broker.queues["T", 0].clear()
        fake.broker.put("T", 0, *[zlib.compress(bytes(MB), 9)] * 20, sys_flag=ZLIB)
        async with AsyncPullConsumer("G", config=fake.config(), max_decompressed_bytes=MB) as consumer:
            offset, seen = 0, []
            while offset < 20:
                result = await consumer.pull(queue, "*", offset)
                assert 1 <= len(result.messages) <= 4
                seen += [message.queue_offset for message in result.messages]
                offset = result.next_begin_offset
    assert seen == list(range(20))


async def test_message_too_large_when_decompressed_becomes_a_dead_letter(caplog: pytest.LogCaptureFixture) -> None:
    body = bytes(2 * MB)
    handled: list[bytes] = []

    async def handle(message: MessageExt) -> None:
        handled.append(message.body)

    small = {"max_decompressed_bytes": MB}
    async with (
        running_cluster(topics=["T"]) as namesrv,
        AsyncProducer("P", namesrv) as producer,
        AsyncSimpleConsumer("S", namesrv, **small) as simple,
        AsyncAdmin(namesrv, **small) as admin,
        AsyncAdmin(namesrv) as generous,
    ):
        sent = await producer.send(Message("T", body, keys="k"))
        simple.subscribe("T")
        (popped,) = await simple.receive(invisible_duration_s=60)
        assert popped.body_error is not None
        assert zlib.decompress(popped.body) == body
        await simple.ack(popped)
        (found,) = await admin.query_message("T", "k")
        viewed = await admin.view_message(sent.msg_id, "T")
        assert f"max_decompressed_bytes={MB}" in (found.body_error or "")
        assert viewed.body_error == found.body_error
        assert (await generous.view_message(sent.msg_id, "T")).body == body
        where = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
        consumer = AsyncPushConsumer("G", namesrv, consume_from_where=where, max_reconsume_times=0, **small)
        consumer.subscribe("T", "*", handle)
        async with consumer, AsyncPullConsumer("D", namesrv, **small) as reader:
            await producer.send(Message("T", b"fine"))

            async def dead() -> list[MessageExt]:
                try:
                    (queue,) = await reader.fetch_subscribe_message_queues(DLQ_PREFIX + "G")
                    return (await reader.pull(queue)).messages
                except Exception:
                    return []

            async with asyncio.timeout(120):
                while not (letters := await dead()):
                    await asyncio.sleep(0.05)
            await until(lambda: handled == [b"fine"])
        (letter,) = letters
        assert zlib.decompress(letter.body) == body
        with pytest.raises(MessageIllegalLocallyError, match="cannot be sent again: body of"):
            as_sent(letter)
    assert f"not handled, goes to the retries: body of {len(popped.body)} bytes decompresses" in caplog.text


def test_decompression_limit_below_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_decompressed_bytes is 0; it must be at least 1"):
        AsyncProducer("P", max_decompressed_bytes=0)
