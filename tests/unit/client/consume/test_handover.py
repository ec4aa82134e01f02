"""An orderly queue that goes from one member to another, against a fake broker: not in two hands, nothing repeated."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from client_fakes import FakeCluster, cluster, until

from rmq_redis.client.consume.push import AsyncPushConsumer
from rmq_redis.codes import RequestCode
from rmq_redis.model import MessageExt
from rmq_redis.protocol.command import RemotingCommand
from rmq_redis.remoting.connection import Connection


class Member:
    """An orderly consumer whose handler can be stopped in the middle of a message."""

    def __init__(self, fake: FakeCluster, name: str, is_async: bool, **options: Any) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.consumer = AsyncPushConsumer(
            "G",
            config=fake.config(rebalance_interval_s=0.05),
            consume_from_where="CONSUME_FROM_FIRST_OFFSET",
            orderly=True,
            instance_name=name,
            **options,
        )
        self.consumer.subscribe("T", "*", self._coroutine if is_async else self._plain)

    def _plain(self, message: MessageExt) -> None:
        self.began.append(message.text())
        self.go_on.wait(30)
        self.ended.append(message.text())

    async def _coroutine(self, message: MessageExt) -> None:
        self.began.append(message.text())
        while not self.go_on.is_set():
            await asyncio.sleep(0.002)
        self.ended.append(message.text())

    def holds(self, fake: FakeCluster, queue_id: int) -> bool:
        return fake.broker.locks.get(("G", "T", queue_id)) == self.consumer.client_id


@pytest.mark.parametrize("is_async", [False, True])
async def test_lock_is_held_until_the_handler_ends(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmq_redis.client.consume.held_queues.LOCK_RENEW_INTERVAL_S", 0.02)
    monkeypatch.setattr("rmq_redis.client.consume.held_queues._RELEASE_TIMEOUT_S", 0.05)
    async with cluster() as fake:
        first, second = Member(fake, "a", is_async), Member(fake, "b", is_async)
        async with first.consumer:
            await until(lambda: len(first.consumer.assignment) == 3)
            first.go_on.clear()
            fake.broker.put("T", 1, b"x")  # the queue that the second member will be given
            await until(lambda: first.began == ["x"])
            fake.broker.put("T", 1, b"y")
            async with second.consumer:
                await until(lambda: fake.queue(1) not in first.consumer.assignment)
                locks = len(fake.broker.of(RequestCode.LOCK_BATCH_MQ))
                await until(lambda: len(fake.broker.of(RequestCode.LOCK_BATCH_MQ)) > locks + 10)
                assert first.holds(fake, 1)
                assert fake.queue(1) not in second.consumer.assignment
                assert second.began == []
                first.go_on.set()
                await until(lambda: second.ended == ["y"])
                assert second.holds(fake, 1)
            assert first.ended == ["x"], "what ended after the queue was given up is committed, and not handled twice"
            assert fake.broker.offsets["G", "T", 1] == 2


async def test_handler_that_outlives_close_keeps_its_lock() -> None:
    async with cluster() as fake:
        member = Member(fake, "a", False, await_termination_s=0.05)
        async with member.consumer:
            await until(lambda: len(member.consumer.assignment) == 3)
            member.go_on.clear()
            fake.broker.put("T", 0, b"x")
            await until(lambda: member.began == ["x"])
        assert member.ended == []
        assert member.holds(fake, 0)
        member.go_on.set()
        await until(lambda: member.ended == ["x"])


async def test_orderly_close_releases_the_locks() -> None:
    async with cluster() as fake:
        member = Member(fake, "a", True)
        async with member.consumer:
            await until(lambda: len(member.consumer.assignment) == 3)
            assert member.holds(fake, 0)
        assert fake.broker.locks == {}


async def test_close_keeps_the_lock_of_a_running_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is being given up already when the consumer is closed; its handler, in a thread, outlives that."""
    monkeypatch.setattr("rmq_redis.client.consume.held_queues.LOCK_RENEW_INTERVAL_S", 0.02)
    async with cluster() as fake:
        first, second = Member(fake, "a", False, await_termination_s=0.05), Member(fake, "b", False)
        async with first.consumer:
            await until(lambda: len(first.consumer.assignment) == 3)
            first.go_on.clear()
            fake.broker.put("T", 1, b"x")
            await until(lambda: first.began == ["x"])
            await second.consumer.start()
            await until(lambda: fake.queue(1) not in first.consumer.assignment)
        assert first.ended == []
        assert first.holds(fake, 1)
        locks = len(fake.broker.of(RequestCode.LOCK_BATCH_MQ))
        await until(lambda: len(fake.broker.of(RequestCode.LOCK_BATCH_MQ)) > locks + 3)
        assert second.began == []
        first.go_on.set()
        await second.consumer.close()
        await until(lambda: first.ended == ["x"])


async def test_locks_are_renewed_while_close_waits_for_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmq_redis.client.consume.held_queues.LOCK_RENEW_INTERVAL_S", 0.02)
    async with cluster() as fake:
        member = Member(fake, "a", False, await_termination_s=30.0)
        async with member.consumer:
            await until(lambda: len(member.consumer.assignment) == 3)
            member.go_on.clear()
            fake.broker.put("T", 0, b"x")
            await until(lambda: member.began == ["x"])
            closing = asyncio.create_task(member.consumer.close())
            await until(lambda: member.consumer.service.stopping)
            locks = len(fake.broker.of(RequestCode.LOCK_BATCH_MQ))
            try:
                await until(lambda: len(fake.broker.of(RequestCode.LOCK_BATCH_MQ)) > locks + 3)
            finally:
                member.go_on.set()
            await closing
        assert not member.holds(fake, 0)


async def test_locks_of_queues_that_failed_to_start_are_released() -> None:
    """They would keep the queue from everybody until they expire."""
    async with cluster() as fake:
        fake.broker.answers[RequestCode.QUERY_CONSUMER_OFFSET] = [1] * 100
        member = Member(fake, "a", True)
        async with member.consumer:
            await until(lambda: len(fake.broker.answers[RequestCode.QUERY_CONSUMER_OFFSET]) < 90)
            assert not member.consumer.assignment
            await until(lambda: not fake.broker.locks)
            fake.broker.answers[RequestCode.QUERY_CONSUMER_OFFSET].clear()
            await until(lambda: len(member.consumer.assignment) == 3)
        assert not fake.broker.locks


async def test_locks_granted_during_close_are_released() -> None:
    async with cluster() as fake:
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def late(connection: Connection, command: RemotingCommand) -> RemotingCommand:
            reached.set()
            await go_on.wait()
            return fake.broker._query_offset(connection, command)

        member = Member(fake, "a", True)
        fake.broker.answers[RequestCode.QUERY_CONSUMER_OFFSET] = [late] * 3
        starting = asyncio.create_task(member.consumer.start())
        await reached.wait()
        starting.cancel()
        await asyncio.wait([starting])
        assert fake.broker.locks
        await member.consumer.close()
        go_on.set()
        assert not fake.broker.locks
