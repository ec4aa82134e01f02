"""AsyncPullConsumer against fake brokers."""

from __future__ import annotations

import asyncio

import pytest
from client_fakes import cluster, until

from rmq_redis.client.consume.pull import AsyncPullConsumer
from rmq_redis.codes import PullSysFlag, RequestCode
from rmq_redis.errors import ClientError, RemotingError, RouteNotFoundError, SystemBusyError
from rmq_redis.model import MessageQueue, PullStatus
from rmq_redis.protocol.headers.pull import PullMessageRequestHeader


def bodies(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def test_pull_returns_messages_status_and_offsets() -> None:
    async with cluster() as fake, AsyncPullConsumer("G", config=fake.config()) as consumer:
        queues = await consumer.fetch_subscribe_message_queues("T")
        assert queues == [fake.queue(0), fake.queue(1)]
        queue = queues[1]
        fake.broker.put("T", 1, *bodies(5))
        result = await consumer.pull(queue, "*", 1, 3)
        assert result.status is PullStatus.FOUND
        assert [message.text() for message in result.messages] == ["1", "2", "3"]
        assert (result.next_begin_offset, result.min_offset, result.max_offset) == (4, 0, 5)
        assert (await consumer.pull(queue, "*", 5)).status is PullStatus.NO_NEW_MSG
        moved = await consumer.pull(queue, "*", 50)
        assert (moved.status, moved.next_begin_offset) == (PullStatus.OFFSET_ILLEGAL, 5)
        assert (await consumer.min_offset(queue), await consumer.max_offset(queue)) == (0, 5)
        assert await consumer.search_offset(queue, 0) == 0
        assert await consumer.committed(queue) is None
        await consumer.update_consume_offset(queue, 4)
        assert await consumer.committed(queue) == 4
        pulls = [command.header(PullMessageRequestHeader) for command in fake.broker.of(RequestCode.PULL_MESSAGE)]
        assert {pull.sys_flag for pull in pulls} == {PullSysFlag.SUBSCRIPTION}


async def test_tags_are_compared_as_text() -> None:
    async with cluster() as fake, AsyncPullConsumer("G", config=fake.config()) as consumer:
        for tag in ("Aa", "BB"):
            fake.broker.put("T", 0, tag.encode(), properties=f"TAGS\x01{tag}\x02")
        result = await consumer.pull(fake.queue(0), "BB")
        assert [message.text() for message in result.messages] == ["BB"]
        assert result.next_begin_offset == 2


async def test_blocking_pull_waits_for_a_message() -> None:
    async with cluster() as fake, AsyncPullConsumer("G", config=fake.config()) as consumer:
        waiting = asyncio.create_task(consumer.pull(fake.queue(0), "*", 0, block_if_not_found=True))
        await until(lambda: fake.broker.of(RequestCode.PULL_MESSAGE))
        fake.broker.put("T", 0, b"x")
        assert [message.text() for message in (await waiting).messages] == ["x"]


async def test_poll_reads_all_assigned_queues_in_order() -> None:
    async with cluster() as fake, AsyncPullConsumer("G", config=fake.config()) as consumer:
        fake.broker.hold_s = 0.05
        with pytest.raises(ClientError, match="no queue is assigned"):
            await consumer.poll()
        for queue_id in range(2):
            fake.broker.put("T", queue_id, *bodies(50))
        fake.broker.offsets["G", "T", 1] = 20
        consumer.assign([fake.queue(0), fake.queue(1)])
        seen: dict[int, list[int]] = {0: [], 1: []}
        while sum(map(len, seen.values())) < 80:
            for message in await consumer.poll(5.0, 7):
                seen[message.queue_id].append(int(message.body))
        assert seen == {0: list(range(50)), 1: list(range(20, 50))}
        assert await consumer.poll(0.01) == []
        assert consumer.position(fake.queue(0)) == 50
        await consumer.commit()
        assert fake.broker.offsets["G", "T", 0] == fake.broker.offsets["G", "T", 1] == 50
        consumer.seek(fake.queue(0), 48)
        assert [message.text() for message in await consumer.poll(5.0)] == ["48", "49"]
        consumer.assign([fake.queue(1)])
        assert consumer.assignment == [fake.queue(1)]
        with pytest.raises(ClientError, match="not assigned"):
            consumer.seek(fake.queue(0), 0)


async def test_iteration_returns_messages_of_assigned_queues() -> None:
    async with cluster() as fake, AsyncPullConsumer("G", config=fake.config()) as consumer:
        fake.broker.put("T", 0, *bodies(3))
        consumer.assign([fake.queue(0)])
        seen = []
        async for message in consumer:
            seen.append(message.text())
            if len(seen) == 3:
                break
        assert seen == ["0", "1", "2"]


async def test_invalid_calls_raise_clear_errors() -> None:
    async with cluster() as fake:
        consumer = AsyncPullConsumer("G", config=fake.config())
        with pytest.raises(ClientError, match="not started"):
            await consumer.pull(fake.queue(0))
        async with consumer:
            with pytest.raises(RouteNotFoundError):
                await consumer.fetch_subscribe_message_queues("unknown")
            with pytest.raises(RouteNotFoundError):
                await consumer.pull(MessageQueue("T", "no-such-broker", 0))
            fake.broker.answers[RequestCode.PULL_MESSAGE] = [2]
            with pytest.raises(SystemBusyError):
                await consumer.pull(fake.queue(0))
            consumer.assign([fake.queue(0), fake.queue(1)])
            fake.broker.put("T", 1, b"x")
            fake.broker.answers[RequestCode.PULL_MESSAGE] = [2]
            outcomes = []
            for _ in range(2):
                try:
                    outcomes.append([message.text() for message in await consumer.poll(5.0)])
                except SystemBusyError:
                    outcomes.append(["busy"])
            assert sorted(outcomes) == [["busy"], ["x"]]
            await fake.broker.stop()
            with pytest.raises(RemotingError):
                await consumer.max_offset(fake.queue(0))
            await fake.broker.start()
        with pytest.raises(ClientError, match="closed"):
            await consumer.poll()
