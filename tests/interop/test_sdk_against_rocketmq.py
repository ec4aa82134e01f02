"""Our SDK, with the same tests, against a real Apache RocketMQ and against a cluster of ours.

[apache] is the NameServer of RMQ_INTEROP_NAMESRV if that is set, else one that is started where RMQ_INTEROP_JAVA=1.
Topics and groups get new names in every run.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from interop_support import Cluster

from rmq_redis import (
    Admin,
    AsyncAdmin,
    AsyncProducer,
    AsyncPullConsumer,
    AsyncPushConsumer,
    AsyncSimpleConsumer,
    AsyncTransactionProducer,
    LocalTransactionState,
    Message,
    MessageExt,
    MessageQueue,
    Producer,
    PullStatus,
    PushConsumer,
    ReplyTimeoutError,
    ResponseError,
    RouteNotFoundError,
    SendStatus,
    reply_to,
)
from rmq_redis.client.admin.dead_letters import RESEND_GROUP, DeadLetters, origin_topic
from rmq_redis.errors import QueryNotFoundError, SubscriptionParseFailedError

pytestmark = [pytest.mark.interop, pytest.mark.timeout(900)]  # the first test may fetch and start Apache's servers

FIRST = "CONSUME_FROM_FIRST_OFFSET"
_numbers = itertools.count()


def unique(name: str) -> str:
    return f"{name}-{time.time_ns() // 1000:x}-{next(_numbers)}"


@pytest.fixture(scope="module", params=["apache", "rmq-redis"])
def namesrv(request: pytest.FixtureRequest) -> str:
    if request.param == "apache":
        address: str = request.getfixturevalue("apache_namesrv_addr")
        return address
    cluster: Cluster = request.getfixturevalue("cluster")
    if cluster.is_external:
        pytest.skip("RMQ_INTEROP_NAMESRV takes the place of the cluster of ours; [apache] uses it")
    return cluster.namesrv_addr


@pytest.fixture
async def admin(namesrv: str) -> AsyncIterator[AsyncAdmin]:
    async with AsyncAdmin(namesrv) as client:
        yield client


@pytest.fixture
async def producer(namesrv: str) -> AsyncIterator[AsyncProducer]:
    async with AsyncProducer("sdk-interop", namesrv) as client:
        yield client


@pytest.fixture
async def topic(admin: AsyncAdmin) -> AsyncIterator[str]:
    name = unique("sdk")
    await admin.create_topic(name, queue_nums=4)
    await admin.wait_for_route(name)
    yield name
    await admin.delete_topic(name)


class Collector:
    """A handler that keeps what it gets and tells when there is enough."""

    def __init__(self) -> None:
        self.messages: list[MessageExt] = []
        self._changed = asyncio.Event()

    async def __call__(self, message: MessageExt) -> None:
        self.messages.append(message)
        self._changed.set()

    async def wait(self, count: int, timeout_s: float = 30.0) -> list[MessageExt]:
        async with asyncio.timeout(timeout_s):
            while len(self.messages) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.messages

    @property
    def bodies(self) -> Counter[bytes]:
        return Counter(message.body for message in self.messages)


async def test_sent_messages_are_consumed(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    message = Message(topic, "Grüße 你好", tags="TagA", keys=["k1", "k2"], properties={"color": "grün"}, flag=7)
    result = await producer.send(message)
    assert result.status is SendStatus.SEND_OK
    assert result.attempts == 1
    collector = Collector()
    consumer = AsyncPushConsumer(unique("group"), namesrv, consume_from_where=FIRST)
    consumer.subscribe(topic, "*", collector)
    async with consumer:
        (received,) = await collector.wait(1)
    assert (received.text(), received.tags, received.keys, received.flag) == ("Grüße 你好", "TagA", "k1 k2", 7)
    assert received.properties["color"] == "grün"
    assert (received.msg_id, received.offset_msg_id) == (result.msg_id, result.offset_msg_id)
    assert (received.queue, received.queue_offset) == (result.queue, result.queue_offset)


async def test_first_send_creates_the_topic(producer: AsyncProducer, admin: AsyncAdmin) -> None:
    name = unique("auto")
    try:
        await producer.send(Message(name, b"first"))
        assert len((await admin.wait_for_route(name)).queue_datas) >= 1
    finally:
        await admin.delete_topic(name)


async def test_batch_oneway_and_compressed_messages_are_consumed(
    producer: AsyncProducer, topic: str, namesrv: str
) -> None:
    batch = await producer.send_batch([Message(topic, f"item {index}", tags="B") for index in range(10)])
    assert len(batch.msg_id.split(",")) == len(batch.offset_msg_id.split(",")) == 10
    await producer.send_oneway(Message(topic, b"oneway"))
    large = bytes(range(256)) * 64
    await producer.send(Message(topic, large))
    collector = Collector()
    consumer = AsyncPushConsumer(unique("group"), namesrv, consume_from_where=FIRST)
    consumer.subscribe(topic, "*", collector)
    async with consumer:
        messages = await collector.wait(12)
    assert collector.bodies == Counter([f"item {index}".encode() for index in range(10)] + [b"oneway", large])
    assert {message.msg_id for message in messages if message.tags == "B"} == set(batch.msg_id.split(","))


async def test_concurrent_sends_have_unique_ids_and_offsets(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    await producer.send(Message(topic, b"first"))
    messages = [Message(topic, f"body {n}", tags=f"tag{n % 3}", keys=[f"key{n}"], flag=n) for n in range(200)]
    keyed = [producer.send(message, key=f"k{number % 5}") for number, message in enumerate(messages[100:])]
    results = await asyncio.gather(*map(producer.send, messages[:100]), *keyed)
    collector = Collector()
    consumer = AsyncPushConsumer(unique("group"), namesrv, consume_from_where=FIRST)
    consumer.subscribe(topic, "*", collector)
    async with consumer:
        received = {message.text(): message for message in await collector.wait(201)}
    for number, (message, result) in enumerate(zip(messages, results, strict=True)):
        found = received[f"body {number}"]
        assert (found.tags, found.keys, found.flag) == (message.tags, f"key{number}", number)
        assert (found.msg_id, found.offset_msg_id) == (result.msg_id, result.offset_msg_id)
        assert (found.queue, found.queue_offset) == (result.queue, result.queue_offset)
        assert (result.status, result.attempts) == (SendStatus.SEND_OK, 1)
        if number >= 100:
            assert found.properties["__SHARDINGKEY"] == f"k{number % 5}"
    for key in range(5):
        offsets = [result.queue_offset for result in results[100 + key :: 5]]
        assert offsets == sorted(offsets)


async def test_messages_are_filtered_by_tags(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    for tag in ("A", "B", "C", ""):
        for number in range(5):
            await producer.send(Message(topic, f"{tag}{number}", tags=tag))
    collector = Collector()
    consumer = AsyncPushConsumer(unique("group"), namesrv, consume_from_where=FIRST)
    consumer.subscribe(topic, " A || C ", collector)
    async with consumer:
        await collector.wait(10)
    assert collector.bodies == Counter(f"{tag}{number}".encode() for tag in "AC" for number in range(5))


async def test_messages_are_filtered_by_a_condition_on_properties(
    producer: AsyncProducer, topic: str, namesrv: str
) -> None:
    for price in range(20):
        properties = {"price": str(price)} if price % 5 else {}
        await producer.send(Message(topic, b"%d" % price, tags="A" if price % 2 else "B", properties=properties))
    collector = Collector()
    consumer = AsyncPushConsumer(unique("group"), namesrv, consume_from_where=FIRST)
    consumer.subscribe(topic, "price >= 10 AND TAGS = 'A'", collector, expression_type="SQL92")
    async with consumer:
        await collector.wait(4)
    assert collector.bodies == Counter([b"11", b"13", b"17", b"19"])
    consumer = AsyncPushConsumer(unique("group"), namesrv)
    consumer.subscribe(topic, "price >= ", collector, expression_type="SQL92")
    with pytest.raises(SubscriptionParseFailedError):
        async with consumer:
            pass


async def test_messages_are_found_by_key_and_id(
    admin: AsyncAdmin, producer: AsyncProducer, topic: str, namesrv: str
) -> None:
    before_ms = int(time.time() * 1000) - 60_000
    sent = [await producer.send(Message(topic, b"%d" % number, keys=["all", f"n{number}"])) for number in range(5)]
    wanted = sent[3]
    for message in (
        await admin.view_message(wanted.offset_msg_id),
        await admin.view_message(wanted.offset_msg_id, topic),
        await found_by_key(admin, topic, wanted.msg_id),
        await admin.message_at(wanted.queue, wanted.queue_offset),
    ):
        assert (message.body, message.msg_id, message.offset_msg_id) == (b"3", wanted.msg_id, wanted.offset_msg_id)
    assert [m.body for m in await admin.query_message(topic, "n3", begin_ms=before_ms)] == [b"3"]
    assert len(await admin.query_message(topic, "all")) == 5
    assert len(await admin.query_message(topic, "all", max_num=2)) == 2
    assert await admin.query_message(topic, "all", end_ms=before_ms) == []
    with pytest.raises(QueryNotFoundError):
        await admin.message_at(wanted.queue, 1000)
    with pytest.raises(QueryNotFoundError):
        await admin.view_message(wanted.msg_id[:-4] + "FFFF", topic)


async def found_by_key(admin: AsyncAdmin, topic: str, msg_id: str) -> MessageExt:
    """By the producer's id; an Apache broker builds its index a moment after the send."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await admin.view_message(msg_id, topic)
            except QueryNotFoundError:
                await asyncio.sleep(0.1)


async def test_group_is_reset_while_it_consumes(
    admin: AsyncAdmin, producer: AsyncProducer, topic: str, namesrv: str
) -> None:
    bodies = [b"%d" % number for number in range(12)]
    for body in bodies:
        await producer.send(Message(topic, body))
    group = unique("group")
    await admin.create_group(group)
    collector = Collector()
    consumer = AsyncPushConsumer(group, namesrv, consume_from_where=FIRST, persist_consumer_offset_interval_s=0.1)
    consumer.subscribe(topic, "*", collector)
    async with consumer:
        await collector.wait(12)
        moved = await admin.reset_offset(group, topic, 0)
        assert sorted(moved.values()) == [0, 0, 0, 0]
        await collector.wait(24, timeout_s=60)  # Apache's brokers tell a pull only when it comes
    assert collector.bodies == Counter(bodies * 2)
    stats = await admin.consume_stats(group, topic)
    assert sum(offset.consumer_offset for offset in stats.values()) == 12
    moved = await admin.reset_offset(group, topic, 0)  # nobody is online
    assert sum(moved.values()) == 0
    again = Collector()
    consumer = AsyncPushConsumer(group, namesrv)
    consumer.subscribe(topic, "*", again)
    async with consumer:
        await again.wait(12)
    assert again.bodies == Counter(bodies)


async def test_two_consumers_share_the_queues(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    group = unique("group")
    first, second = Collector(), Collector()
    consumers = [AsyncPushConsumer(group, namesrv, consume_from_where=FIRST) for _ in range(2)]
    consumers[0].subscribe(topic, "*", first)
    consumers[1].subscribe(topic, "*", second)

    def shares() -> list[int]:
        return [len([queue for queue in consumer.assignment if queue.topic == topic]) for consumer in consumers]

    async with consumers[0], consumers[1], asyncio.timeout(30):
        while shares() != [2, 2]:
            await asyncio.sleep(0.05)
        for number in range(40):
            await producer.send(Message(topic, f"{number}"))
        while len(first.messages) + len(second.messages) < 40:
            await asyncio.sleep(0.01)
        assert first.bodies + second.bodies == Counter(f"{number}".encode() for number in range(40))
        assert first.messages
        assert second.messages
        await consumers[1].close()
        while shares()[0] != 4:
            await asyncio.sleep(0.05)


async def test_restarted_consumer_resumes_at_its_offset(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    group = unique("group")
    for number in range(10):
        await producer.send(Message(topic, f"{number}"))
    before = Collector()
    consumer = AsyncPushConsumer(group, namesrv, consume_from_where=FIRST)
    consumer.subscribe(topic, "*", before)
    async with consumer:
        await before.wait(10)
    for number in range(10, 20):
        await producer.send(Message(topic, f"{number}"))
    after = Collector()
    consumer = AsyncPushConsumer(group, namesrv, consume_from_where=FIRST)
    consumer.subscribe(topic, "*", after)
    async with consumer:
        await after.wait(10)
    assert after.bodies == Counter(f"{number}".encode() for number in range(10, 20))


async def test_keys_keep_their_order(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    keys = [f"order-{number}" for number in range(20)]
    for step in range(10):
        await asyncio.gather(*(producer.send(Message(topic, f"{key}/{step}"), key=key) for key in keys))
    collector = Collector()
    consumer = AsyncPushConsumer(unique("group"), namesrv, consume_from_where=FIRST, orderly=True)
    failed: set[bytes] = set()

    async def handle(message: MessageExt) -> bool:
        if message.body == b"order-3/5" and message.body not in failed:
            failed.add(message.body)
            return False
        await asyncio.sleep(0)
        await collector(message)
        return True

    consumer.subscribe(topic, "*", handle)
    async with consumer:
        messages = await collector.wait(200)
    for key in keys:
        steps = [message.text() for message in messages if message.properties["__SHARDINGKEY"] == key]
        assert steps == [f"{key}/{step}" for step in range(10)]


async def test_broadcasting_member_resumes_at_its_offset(
    producer: AsyncProducer, topic: str, namesrv: str, tmp_path: Path
) -> None:
    group, everything = unique("group"), Counter[bytes]()
    collectors = [Collector(), Collector()]

    def member(index: int) -> AsyncPushConsumer:
        consumer = AsyncPushConsumer(
            group,
            namesrv,
            message_model="BROADCASTING",
            instance_name=f"member-{index}",
            offset_store_path=str(tmp_path),
        )
        consumer.subscribe(topic, "*", collectors[index])
        return consumer

    for part in range(3):
        bodies = [f"{part}/{number}".encode() for number in range(20)]
        everything.update(bodies)
        if part:  # while the members are away; those of part 0 come while they are there
            await asyncio.gather(*(producer.send(Message(topic, body)) for body in bodies))
        async with member(0), member(1):
            if not part:
                await asyncio.gather(*(producer.send(Message(topic, body)) for body in bodies))
            await asyncio.gather(*(collector.wait(everything.total()) for collector in collectors))
    assert [collector.bodies for collector in collectors] == [everything, everything]


async def test_failed_message_is_redelivered(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    result = await producer.send(Message(topic, b"fails once", tags="T", keys="K"))
    seen: list[MessageExt] = []
    again = asyncio.Event()
    consumer = AsyncPushConsumer(unique("group"), namesrv, consume_from_where=FIRST)

    @consumer.handler(topic, "T")
    async def handle(message: MessageExt) -> None:
        seen.append(message)
        if message.reconsume_times == 0:
            raise ValueError("not now")
        again.set()

    async with consumer, asyncio.timeout(40):
        await again.wait()
    assert [message.reconsume_times for message in seen] == [0, 1]
    assert {(message.topic, message.msg_id, message.body, message.keys) for message in seen} == {
        (topic, result.msg_id, b"fails once", "K")
    }


async def test_dead_letters_are_read_and_resent(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    """One further try, which the consumer asks for; then the dead letter goes back to its topic."""
    group = unique("group")
    result = await producer.send(Message(topic, b"hopeless", tags="T", keys="K", properties={"a": "b"}, flag=3))
    tries: list[int] = []
    consumer = AsyncPushConsumer(group, namesrv, consume_from_where=FIRST, max_reconsume_times=1)

    @consumer.handler(topic, "T")
    async def handle(message: MessageExt) -> bool:
        tries.append(message.reconsume_times)
        return "ORIGIN_MESSAGE_ID" in message.properties and message.reconsume_times == 0  # once it was sent again

    async with consumer, AsyncPullConsumer(RESEND_GROUP, namesrv) as reader, asyncio.timeout(90):
        letters = DeadLetters(reader, group)
        while not (dead := [message for queue in await letters.queues() async for message in letters.read(queue)]):
            await asyncio.sleep(0.1)
        assert tries == [0, 1]
        (letter,) = dead
        assert (origin_topic(letter), letter.msg_id, letter.body, letter.keys) == (
            topic,
            result.msg_id,
            b"hopeless",
            "K",
        )
        assert (letter.reconsume_times, letter.properties["ORIGIN_MESSAGE_ID"]) == (2, result.offset_msg_id)
        sent = [message.msg_id async for message, _ in letters.resend(producer)]
        assert sent == [result.msg_id]
        assert [message async for message, _ in letters.resend(producer)] == []
        while len(tries) < 3:
            await asyncio.sleep(0.05)
    assert tries == [0, 1, 0]


async def test_orderly_consumer_sends_poison_messages_to_the_dlq(
    producer: AsyncProducer, topic: str, namesrv: str
) -> None:
    group = unique("group")
    for text in ("bad", "good"):
        await producer.send(Message(topic, text), key="one queue")
    seen: list[tuple[str, int]] = []
    done = asyncio.Event()
    consumer = AsyncPushConsumer(
        group,
        namesrv,
        consume_from_where=FIRST,
        orderly=True,
        max_reconsume_times=2,
        suspend_current_queue_time_s=0.05,
    )

    @consumer.handler(topic)
    async def handle(message: MessageExt) -> bool:
        seen.append((message.text(), message.reconsume_times))
        if message.body == b"good":
            done.set()
        return message.body == b"good"

    async with consumer, AsyncPullConsumer(RESEND_GROUP, namesrv) as reader, asyncio.timeout(60):
        await done.wait()
        letters = DeadLetters(reader, group)
        while not (dead := [message for queue in await letters.queues() async for message in letters.read(queue)]):
            await asyncio.sleep(0.1)
    assert seen == [("bad", 0), ("bad", 1), ("bad", 2), ("good", 0)]
    assert [(message.text(), message.reconsume_times, origin_topic(message)) for message in dead] == [("bad", 3, topic)]


async def test_delayed_messages_are_delivered_unless_recalled(
    producer: AsyncProducer, topic: str, namesrv: str
) -> None:
    collector = Collector()
    consumer = AsyncPushConsumer(unique("group"), namesrv, consume_from_where=FIRST)
    consumer.subscribe(topic, "*", collector)
    async with consumer:
        now_ms = int(time.time() * 1000)
        await producer.send(Message(topic, "level 1").with_delay_level(1))
        recalled = await producer.send(Message(topic, "recalled").with_deliver_at_ms(now_ms + 5000))
        await producer.send(Message(topic, "2.5 s").with_delay_s(2.5))
        await producer.send(Message(topic, "6 s").with_deliver_at_ms(now_ms + 6000))
        assert await producer.recall(topic, recalled.recall_handle) == recalled.msg_id
        messages = await collector.wait(3, 60.0)
    earliest_ms = {"level 1": 1000, "2.5 s": 1000, "6 s": 4900}  # Apache rounds timers down to a second, and one less
    assert {message.text() for message in messages} == earliest_ms.keys()
    for message in messages:
        assert message.store_timestamp_ms >= now_ms + earliest_ms[message.text()]


class Decisions:
    """Does in a local transaction what the message's body says; commits what it is asked about."""

    def __init__(self) -> None:
        self.asked: list[MessageExt] = []

    async def execute_local_transaction(self, message: Message, arg: dict[str, LocalTransactionState]) -> object:
        return arg[message.keys] if isinstance(message.keys, str) else None

    def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        self.asked.append(message)
        return LocalTransactionState.COMMIT_MESSAGE


async def test_transactions_are_committed_rolled_back_and_checked_back(topic: str, namesrv: str) -> None:
    """Committed, rolled back, and one that the broker asks about (Apache's looks every transactionCheckInterval)."""
    states = {
        "roll": LocalTransactionState.ROLLBACK_MESSAGE,
        "ask": LocalTransactionState.UNKNOW,
        "commit": LocalTransactionState.COMMIT_MESSAGE,
    }
    listener, collector = Decisions(), Collector()
    consumer = AsyncPushConsumer(unique("group"), namesrv, consume_from_where=FIRST)
    consumer.subscribe(topic, "A", collector)
    async with AsyncTransactionProducer(unique("group"), listener, namesrv) as producer, consumer:
        results = {}
        for key in states:
            message = Message(topic, f"body of {key}", tags="A", keys=key)
            results[key] = await producer.send_message_in_transaction(message, states)
        assert {key: result.local_transaction_state for key, result in results.items()} == states
        messages = await collector.wait(2, timeout_s=120.0)
        async with asyncio.timeout(30):  # what was rolled back is not asked about
            while not listener.asked:
                await asyncio.sleep(0.1)
    assert {message.keys: (message.text(), message.msg_id) for message in messages} == {
        key: (f"body of {key}", results[key].msg_id) for key in ("ask", "commit")
    }
    assert {(message.topic, message.keys, message.transaction_id) for message in listener.asked} == {
        (topic, "ask", results["ask"].transaction_id)
    }


async def test_request_gets_its_reply(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    """Both ways to reply: what a replier returns, and a message that is sent by hand."""
    group = unique("group")
    consumer = AsyncPushConsumer(group, namesrv, consume_from_where=FIRST)

    @consumer.replier(topic, "returned")
    async def handle(message: MessageExt) -> Message:
        return Message("", f"reply to {message.text()}", properties={"answered by": group})

    async with consumer, AsyncProducer("sdk-interop-requests", namesrv) as asking:
        for number in range(8):
            reply = await asking.request(Message(topic, f"{number}", tags="returned"), timeout_s=30.0)
            assert reply.text() == f"reply to {number}"
            assert (reply.properties["answered by"], reply.properties["MSG_TYPE"]) == (group, "reply")
        large = bytes(range(256)) * 64
        other = AsyncPushConsumer(unique("group"), namesrv, consume_from_where=FIRST)

        @other.handler(topic, "by hand")
        async def answer(message: MessageExt) -> None:
            await producer.send(reply_to(message, large))

        async with other:
            assert (await asking.request(Message(topic, b"?", tags="by hand"), timeout_s=30.0)).body == large
        with pytest.raises(ReplyTimeoutError):
            await asking.request(Message(topic, b"?", tags="nobody"), timeout_s=1.0)
        changes = {"REPLY_TO_CLIENT": "not-here", "CLUSTER": reply.topic.removesuffix("_REPLY_TOPIC")}
        orphan = msgspec.structs.replace(reply, properties={**reply.properties, **changes})
        with pytest.raises(ResponseError, match="not-here"):
            await producer.send(reply_to(orphan, b"nobody is there"))


async def polled(consumer: AsyncPullConsumer, count: int) -> list[str]:
    texts: list[str] = []
    async with asyncio.timeout(20):
        while len(texts) < count:
            texts += [message.text() for message in await consumer.poll(5.0)]
    return texts


async def pulled(consumer: AsyncPullConsumer, queue: MessageQueue, expression: str, max_nums: int) -> list[str]:
    """All that is in a queue; a pull may bring fewer than it asks for."""
    texts: list[str] = []
    offset, end = 0, 1
    while offset < end:
        result = await consumer.pull(queue, expression, offset, max_nums)
        assert result.status in (PullStatus.FOUND, PullStatus.NO_MATCHED_MSG)
        assert len(result.messages) <= max_nums
        assert result.next_begin_offset > offset
        texts += [message.text() for message in result.messages]
        offset, end = result.next_begin_offset, result.max_offset
    return texts


async def test_pull_consumer_reads_filters_and_commits(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    before_ms = int(time.time() * 1000) - 1000
    async with AsyncPullConsumer(unique("group"), namesrv) as consumer:
        queues = await consumer.fetch_subscribe_message_queues(topic)
        assert len(queues) == 4
        queue = queues[1]
        for number in range(6):
            await producer.send(Message(topic, f"{number}", tags="even" if number % 2 == 0 else "odd"), queue=queue)
        assert await consumer.min_offset(queue) == 0
        async with asyncio.timeout(10):  # Apache brokers index a message some ms after they have acknowledged it
            while await consumer.max_offset(queue) != 6:
                await asyncio.sleep(0.02)
        assert await consumer.search_offset(queue, before_ms) == 0
        assert await pulled(consumer, queue, "*", 4) == ["0", "1", "2", "3", "4", "5"]
        assert await pulled(consumer, queue, "odd", 32) == ["1", "3", "5"]
        assert (await consumer.pull(queue, "*", 6)).status is PullStatus.NO_NEW_MSG
        assert (await consumer.pull(queue, "*", 100)).status is PullStatus.OFFSET_ILLEGAL
        blocked = asyncio.create_task(consumer.pull(queue, "*", 6, block_if_not_found=True))
        await producer.send(Message(topic, "late"), queue=queue)
        async with asyncio.timeout(10):
            assert [message.text() for message in (await blocked).messages] == ["late"]
        await consumer.update_consume_offset(queue, 5)
        assert await consumer.committed(queue) == 5
        consumer.assign([queue])
        assert await polled(consumer, 2) == ["5", "late"]
        consumer.seek(queue, 0)
        assert len(await polled(consumer, 7)) == 7
        await consumer.commit()
        assert await consumer.committed(queue) == 7


async def received(consumer: AsyncSimpleConsumer, count: int, invisible_s: float, nums: int = 4) -> list[MessageExt]:
    """``count`` messages, from as many calls as it takes; none of them is acknowledged."""
    messages: list[MessageExt] = []
    async with asyncio.timeout(90):  # Apache's broker looks for what has become visible every few seconds
        while len(messages) < count:
            messages += await consumer.receive(nums, invisible_s, 5.0)
    return messages


async def test_simple_consumers_acknowledge_single_messages(producer: AsyncProducer, topic: str, namesrv: str) -> None:
    group = unique("group")
    first, second = AsyncSimpleConsumer(group, namesrv), AsyncSimpleConsumer(group, namesrv)
    for consumer in (first, second):
        consumer.subscribe(topic, "A")
    async with first, second:
        for number in range(24):
            await producer.send(Message(topic, f"{number}", tags="A" if number % 2 else "B", keys=f"k{number}"))
        mine = await received(first, 4, 300.0)
        yours = await received(second, 12 - len(mine), 300.0)
        messages = {message.text(): message for message in (*mine, *yours)}
        assert sorted(messages, key=int) == [f"{number}" for number in range(1, 24, 2)]
        late = messages.pop("7")
        await first.ack(messages.values())
        await second.change_invisible_duration(late, 2.0)
        (again,) = await received(second, 1, 300.0)
        assert (again.text(), again.topic, again.tags, again.keys) == ("7", topic, "A", "k7")
        assert (late.reconsume_times, again.reconsume_times) == (0, 1)
        assert again.msg_id == late.msg_id
        await second.ack(again)
        await producer.send(Message(topic, "last", tags="A"))
        (last,) = await received(first, 1, 300.0)
        assert last.text() == "last"
        await first.ack(last)


async def test_fifo_consumers_get_one_batch_per_queue_at_a_time(
    producer: AsyncProducer, topic: str, namesrv: str
) -> None:
    group = unique("group")
    first, second = (AsyncSimpleConsumer(group, namesrv, fifo=True) for _ in range(2))
    for consumer in (first, second):
        consumer.subscribe(topic)
    async with first, second:
        queue = (await producer.publish_queues(topic))[0]
        for text in "abcd":
            await producer.send(Message(topic, text), queue=queue)
        batch: list[MessageExt] = []
        async with asyncio.timeout(30):
            while not batch:
                batch = await first.receive(3, 300.0, 5.0)
        assert [(message.text(), message.reconsume_times) for message in batch] == [("a", 0), ("b", 0), ("c", 0)]
        assert await second.receive(4, 300.0, 0.2) == []
        a, b, c = batch
        await first.ack(a)
        await first.change_invisible_duration(c, 1.0)
        assert await second.receive(4, 300.0, 1.5) == []  # b holds the queue
        await first.change_invisible_duration(b, 1.0)
        again = await received(second, 2, 300.0, nums=2)
        assert [(message.text(), message.reconsume_times) for message in again] == [("b", 1), ("c", 1)]
        assert [message.msg_id for message in again] == [b.msg_id, c.msg_id]
        await first.ack(c)  # of the first try: changes nothing
        assert await first.receive(4, 300.0, 0.2) == []
        await second.ack(again)
        (d,) = await received(first, 1, 300.0)
        assert (d.text(), d.reconsume_times) == ("d", 0)
        await first.ack(d)


async def test_admin_manages_topics_and_groups(admin: AsyncAdmin, producer: AsyncProducer, namesrv: str) -> None:
    name, group = unique("admin"), unique("group")
    info = await admin.cluster_info()
    (cluster,) = info.clusters
    addresses = await admin.create_topic(name, queue_nums=3, cluster=cluster)
    assert addresses == await admin.master_addresses(cluster)
    route = await admin.wait_for_route(name)
    assert [(queue.read_queue_nums, queue.write_queue_nums, queue.perm) for queue in route.queue_datas] == [(3, 3, 6)]
    assert name in await admin.topic_list()
    assert (await admin.topic_config(name)).write_queue_nums == 3
    result = await producer.send(Message(name, b"seen", tags="A"))
    viewed = await admin.view_message(result.offset_msg_id)
    assert (viewed.body, viewed.msg_id, viewed.topic) == (b"seen", result.msg_id, name)
    async with asyncio.timeout(10):
        while (await admin.topic_stats(name))[result.queue].max_offset != 1:
            await asyncio.sleep(0.02)
    assert len(await admin.topic_stats(name)) == 3
    assert await admin.search_offset(result.queue, 0) == 0
    await admin.create_group(group)
    collector = Collector()
    consumer = AsyncPushConsumer(group, namesrv, consume_from_where=FIRST)
    consumer.subscribe(name, "A", collector)
    async with consumer:
        await collector.wait(1)
        connections = await admin.consumer_connections(group)
        assert [connection.client_id for connection in connections.connections] == [consumer.client_id]
        assert connections.subscriptions[name].sub_string == "A"
    consumed = await admin.consume_stats(group, name)
    assert sum(offset.diff for offset in consumed.values()) == 0
    await admin.delete_group(group)
    await admin.put_kv_config("SDK_TEST", name, "value")
    assert await admin.get_kv_config("SDK_TEST", name) == "value"
    assert (await admin.kv_config("SDK_TEST"))[name] == "value"
    await admin.delete_kv_config("SDK_TEST", name)
    assert await admin.get_kv_config("SDK_TEST", name) is None
    await admin.delete_topic(name)
    with pytest.raises(RouteNotFoundError):
        await admin.topic_route(name)


async def test_admin_refuses_an_unknown_cluster_and_a_system_topic(admin: AsyncAdmin) -> None:
    with pytest.raises(RouteNotFoundError):
        await admin.create_topic(unique("nowhere"), cluster="no-such-cluster")
    with pytest.raises(ResponseError):
        await admin.create_topic("TBW102")


def test_blocking_clients_send_and_consume(namesrv: str) -> None:
    name, group = unique("sync"), unique("group")
    bodies: list[str] = []
    enough = threading.Event()

    def handle(message: MessageExt) -> None:
        bodies.append(message.text())
        if len(bodies) == 51:
            enough.set()

    with Producer("sdk-interop-sync", namesrv) as producer:
        producer.send(Message(name, "first"))
        futures = [producer.send_async(Message(name, f"{number}")) for number in range(50)]
        assert all(future.result(10).status is SendStatus.SEND_OK for future in futures)
        consumer = PushConsumer(group, namesrv, consume_from_where=FIRST)
        consumer.subscribe(name, "*", handle)
        with consumer:
            assert enough.wait(30)
    assert Counter(bodies) == Counter(["first", *(f"{number}" for number in range(50))])
    with Admin(namesrv) as admin:
        admin.delete_topic(name)
