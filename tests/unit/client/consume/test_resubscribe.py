"""An expression that changes while pulls are under way: nothing that matches the new one is stepped over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually

from rmq_redis import (
    AsyncAdmin,
    AsyncProducer,
    AsyncPullConsumer,
    AsyncPushConsumer,
    AsyncSimpleConsumer,
    Message,
    MessageExt,
)
from rmq_redis.client.consume.subscriptions import make_subscription
from rmq_redis.testing import running_cluster

TAG = ("TAG", "A", "C")
SQL = ("SQL92", "TAGS = 'A'", "TAGS = 'C'")
MANY = 24


async def send(producer: AsyncProducer, tag: str, count: int) -> None:
    for number in range(count):
        await producer.send(Message("t", f"{tag}{number}", tags=tag))


async def hold_pulls(consumer: AsyncPushConsumer) -> None:
    """Waits until the consumer has a pull under way for every queue of the topic."""
    await eventually(lambda: sum(pq.pulling for pq in consumer.process_queues if pq.queue.topic == "t") == 4)


def replace(consumer: AsyncPushConsumer, kind: str, expression: str, handler: Callable[[MessageExt], Any]) -> None:
    consumer.subscribe("t", expression, handler, expression_type=kind)


def unsubscribe_first(
    consumer: AsyncPushConsumer, kind: str, expression: str, handler: Callable[[MessageExt], Any]
) -> None:
    consumer.unsubscribe("t")
    replace(consumer, kind, expression, handler)


@pytest.mark.parametrize("change", [replace, unsubscribe_first])
@pytest.mark.parametrize(("kind", "before", "after"), [TAG, SQL])
@pytest.mark.parametrize("options", [{}, {"orderly": True}, {"message_model": "BROADCASTING"}], ids=str)
async def test_new_expression_takes_effect_at_once(
    change: Callable[..., None], kind: str, before: str, after: str, options: dict[str, Any], tmp_path: Path
) -> None:
    got: list[str] = []

    async def handle(message: MessageExt) -> None:
        got.append(message.text())

    async with running_cluster() as namesrv_addr, AsyncProducer("p", namesrv_addr) as producer:
        await send(producer, "A", 4)
        consumer = AsyncPushConsumer(
            "g",
            namesrv_addr,
            consume_from_where="CONSUME_FROM_FIRST_OFFSET",
            offset_store_path=str(tmp_path),
            **options,
        )
        consumer.subscribe("t", before, handle, expression_type=kind)
        async with consumer:
            await eventually(lambda: len(got) == 4)
            await hold_pulls(consumer)
            got.clear()
            change(consumer, kind, after, handle)
            for number in range(MANY):  # those with A end a pull that is held with the old expression
                await producer.send(Message("t", f"C{number}", tags="C"))
                await producer.send(Message("t", f"A{number}", tags="A"))
            await eventually(lambda: len(got) >= MANY)
            assert sorted(got) == sorted(f"C{number}" for number in range(MANY))


async def test_resubscribed_topic_is_pulled_again() -> None:
    got: list[str] = []

    async def handle(message: MessageExt) -> None:
        got.append(message.text())

    async with running_cluster() as namesrv_addr, AsyncProducer("p", namesrv_addr) as producer:
        await send(producer, "A", 4)
        consumer = AsyncPushConsumer("g", namesrv_addr, consume_from_where="CONSUME_FROM_FIRST_OFFSET")
        consumer.subscribe("u", "*", handle)
        consumer.subscribe("t", "A", handle)
        async with consumer:
            await eventually(lambda: len(got) == 4)
            consumer.unsubscribe("t")
            await eventually(lambda: not any(queue.topic == "t" for queue in consumer.assignment))
            await send(producer, "B", 4)
            consumer.subscribe("t", "B", handle)
            await eventually(lambda: sorted(got[4:]) == ["B0", "B1", "B2", "B3"])


async def test_assign_with_another_expression_keeps_the_position() -> None:
    async with (
        running_cluster() as namesrv_addr,
        AsyncProducer("p", namesrv_addr) as producer,
        AsyncPullConsumer("g", namesrv_addr) as consumer,
    ):
        await send(producer, "A", 4)
        queues = await consumer.fetch_subscribe_message_queues("t")
        consumer.assign(queues, "A")
        got: list[str] = []
        while len(got) < 4:
            got += [message.text() for message in await consumer.poll()]
        assert await consumer.poll(0.0) == []  # pulls of every queue are under way with the old expression
        consumer.assign(queues, "C")
        await send(producer, "C", MANY)
        await send(producer, "A", MANY)
        del got[:]
        while len(got) < MANY:
            got += [message.text() for message in await consumer.poll()]
        assert sorted(got) == sorted(f"C{number}" for number in range(MANY))


def test_later_subscription_has_a_larger_version(monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_subscription("t", "A")
    monkeypatch.setattr("rmq_redis.client.consume.pulling.time.time", lambda: 1.0)  # the clock was set back
    assert first.sub_version < make_subscription("t", "C").sub_version


@pytest.mark.parametrize(("kind", "before", "after"), [TAG, SQL])
async def test_waiting_receive_continues_with_the_new_expression(kind: str, before: str, after: str) -> None:
    async with (
        running_cluster() as namesrv_addr,
        AsyncProducer("p", namesrv_addr) as producer,
        AsyncSimpleConsumer("g", namesrv_addr) as consumer,
        AsyncAdmin(namesrv_addr) as admin,
    ):
        await send(producer, "A", 1)
        consumer.subscribe("t", before, expression_type=kind)
        await consumer.ack(await consumer.receive(1, 30, 10))
        receiving = asyncio.create_task(consumer.receive(1, 30, 30))

        async def told(expression: str) -> bool:
            return (await admin.consumer_connections("g")).subscriptions["t"].sub_string == expression

        await asyncio.sleep(0.2)  # it waits at the broker by now, or asks anew with the new expression
        consumer.subscribe("t", after, expression_type=kind)
        await eventually(lambda: told(after))
        await send(producer, "C", 1)
        assert [message.text() for message in await receiving] == ["C0"]
