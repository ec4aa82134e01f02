"""A load of sends with a record of what was acknowledged, and the look at what is stored afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter

import redis

from rmq_redis import AsyncProducer, AsyncPullConsumer, Message, MessageExt, SendResult
from rmq_redis.errors import RmqError
from rmq_redis.model import PullStatus

SENDERS = 20


class Load:
    """Senders that go on until they are told to stop, and what they were told."""

    def __init__(self, producer: AsyncProducer, topic: str) -> None:
        self.acknowledged: dict[str, SendResult] = {}
        self.unanswered: set[str] = set()
        self._producer = producer
        self._topic = topic
        self._going = True
        self._tasks = [asyncio.create_task(self._send(number)) for number in range(SENDERS)]

    async def _send(self, number: int) -> None:
        count = 0
        while self._going:
            body = f"{number}-{count}"
            count += 1
            try:
                self.acknowledged[body] = await self._producer.send(Message(self._topic, body), timeout_s=2.0)
            except RmqError:
                self.unanswered.add(body)
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)


async def all_messages(namesrv_addr: str, topic: str) -> dict[tuple[int, int], MessageExt]:
    """Everything in a topic, by (queue id, queue offset), read by pulls."""
    found: dict[tuple[int, int], MessageExt] = {}
    async with AsyncPullConsumer("reader", namesrv_addr) as consumer:
        for queue in await consumer.fetch_subscribe_message_queues(topic):
            offset, end = 0, await consumer.max_offset(queue)
            assert await consumer.min_offset(queue) == 0
            while offset < end:
                result = await consumer.pull(queue, "*", offset, 500)
                assert result.status is PullStatus.FOUND
                for message in result.messages:
                    found[queue.queue_id, message.queue_offset] = message
                offset = result.next_begin_offset
    return found


async def more_than(seen: int, namesrv_addr: str, topic: str, count: int) -> int:
    """How many messages the topic has, if more than ``seen`` or all of them; 0 when nobody can tell."""
    try:
        stored = len(await all_messages(namesrv_addr, topic))
    except RmqError:  # the broker is not registered again yet
        return 0
    return stored if stored > min(seen, count) else 0


async def sent_one(producer: AsyncProducer, topic: str) -> bool:
    try:
        await producer.send(Message(topic, "first"))
    except RmqError:
        return False
    return True


def check(load: Load, stored: dict[tuple[int, int], MessageExt]) -> None:
    times = Counter(message.text() for message in stored.values())
    for body, result in load.acknowledged.items():
        message = stored[result.queue.queue_id, result.queue_offset]
        assert message.text() == body, "an acknowledged message is not where its answer said"
        assert message.msg_id == result.msg_id
    repeated = {body for body, count in times.items() if count > 1 and body != "first"}
    retried = {body for body, result in load.acknowledged.items() if result.attempts > 1} | load.unanswered
    assert repeated <= retried, "a message is there twice though its producer sent it once"
    queues = {queue_id for queue_id, _ in stored}
    for queue_id in queues:
        offsets = sorted(offset for queue, offset in stored if queue == queue_id)
        assert offsets == list(range(len(offsets))), "offsets have a gap"
    print(
        f"acknowledged {len(load.acknowledged)}, stored {len(stored)}, twice {len(repeated)}, "
        f"sent more than once {len(retried)}, never answered {len(load.unanswered)}"
    )


def check_streams(client: redis.Redis, topic: str, stored: dict[tuple[int, int], MessageExt]) -> None:
    """What an operator sees: plain streams whose IDs are 0-1 ... 0-n, n being the queue's max offset."""
    for queue_id in {queue_id for queue_id, _ in stored}:
        count = sum(1 for queue, _ in stored if queue == queue_id)
        key = f"rmq:{{broker-a}}:queue:{topic}:{queue_id}"
        assert client.type(key) == b"stream"
        ids = [entry_id for entry_id, _ in client.xrange(key)]
        assert ids == [b"0-%d" % number for number in range(1, count + 1)]
