"""Sends of one event-loop turn share a request, and each keeps the result of a single send."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from client_fakes import FakeBroker, cluster, sent_messages, until

from rmq_redis.client.produce.bursts import MAX_BYTES, MAX_NUMS, MAX_UNANSWERED
from rmq_redis.client.produce.producer import AsyncProducer
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import LocalProtocolError, MessageIllegalError, RemotingError, RequestTimeoutError
from rmq_redis.model import Message, MessageQueue, SendResult
from rmq_redis.protocol.batch import decode_batch
from rmq_redis.protocol.command import RemotingCommand, response
from rmq_redis.protocol.headers.send import SendMessageRequestHeaderV2
from rmq_redis.protocol.ids import parse_offset_msg_id
from rmq_redis.remoting.connection import Connection

ALONE, TOGETHER = RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE


async def connected(producer: AsyncProducer, topic: str = "T") -> None:
    """Has the producer know the topic and open its connections."""
    for queue in await producer.publish_queues(topic):
        await producer.send(Message(topic, b"first"), queue=queue)


def sizes(broker: FakeBroker) -> list[int]:
    """The number of messages of each request, in the order of arrival, without those of ``connected``."""
    commands = [command for command in broker.of(ALONE, TOGETHER) if command.body != b"first"]
    return [len(decode_batch(command.body)) if command.code == TOGETHER else 1 for command in commands]


def bodies(broker: FakeBroker) -> list[bytes]:
    return [body for _, body in sent_messages(broker) if body != b"first"]


async def test_sends_of_a_turn_share_a_request_with_separate_results() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        messages = [Message("T", b"%d" % number, tags=f"tag{number}", flag=number) for number in range(10)]
        results = await asyncio.gather(*(producer.send(message) for message in messages))
        assert sizes(fake.broker) == [10]
        queue = results[0].queue
        offsets = [result.queue_offset for result in results]
        assert offsets == list(range(offsets[0], offsets[0] + 10))
        (command,) = fake.broker.of(TOGETHER)
        assert [(flag, body) for flag, body, _ in decode_batch(command.body)] == [(n, b"%d" % n) for n in range(10)]
        for number, (result, (properties, body)) in enumerate(
            zip(results, sent_messages(fake.broker)[-10:], strict=True)
        ):
            assert body == b"%d" % number
            assert properties == {"UNIQ_KEY": result.msg_id, "TAGS": f"tag{number}", "WAIT": "true"}
            assert (result.queue, result.attempts, result.recall_handle) == (queue, 1, "")
            assert parse_offset_msg_id(result.offset_msg_id)[1] == queue.queue_id << 40 | result.queue_offset


async def test_large_turns_are_spread_evenly_over_the_queues() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(send_timeout_s=60)) as producer:
        await connected(producer)
        results = await asyncio.gather(*(producer.send(Message("T", b"x")) for _ in range(8 * MAX_NUMS)))
        nums = Counter(result.queue.queue_id for result in results)
        assert nums == {0: 4 * MAX_NUMS, 1: 4 * MAX_NUMS}
        assert sizes(fake.broker) == [MAX_NUMS] * 8


async def test_sequential_messages_use_all_queues_in_turn() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        queue_ids = [(await producer.send(Message("T", b"x"))).queue.queue_id for _ in range(4)]
        assert queue_ids in ([0, 1, 0, 1], [1, 0, 1, 0])


async def test_sends_to_a_busy_broker_gather_until_its_next_response() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        held: list[tuple[Connection, RemotingCommand]] = []
        fake.broker.answers[ALONE] = [lambda connection, command: held.append((connection, command))] * MAX_UNANSWERED
        queue = MessageQueue("T", "broker-a", 0)
        sending = []
        for number in range(MAX_UNANSWERED):  # each in a turn of its own
            sending.append(asyncio.ensure_future(producer.send(Message("T", b"%d" % number), queue=queue)))
            await until(lambda: len(held) == len(sending))
        for number in range(MAX_UNANSWERED, MAX_UNANSWERED + 3):
            sending.append(asyncio.ensure_future(producer.send(Message("T", b"%d" % number), queue=queue)))
            await asyncio.sleep(0)
        for connection, command in held:
            connection.write_command(fake.broker._send(connection, command))
        await asyncio.gather(*sending)
        assert sizes(fake.broker) == [1] * MAX_UNANSWERED + [3]
        assert bodies(fake.broker) == [b"%d" % number for number in range(MAX_UNANSWERED + 3)]


async def test_slow_broker_gets_further_sends() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        fake.broker.answers[ALONE] = [lambda _connection, _command: None] * 20
        sending = []
        for _number in range(MAX_UNANSWERED + 1):
            sending.append(asyncio.ensure_future(producer.send(Message("T", b"x"), key="k")))
            await until(lambda: len(sizes(fake.broker)) == len(sending))
        for task in sending:
            task.cancel()


async def test_burst_stays_far_below_the_size_limit_of_brokers() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(), compress_over_bytes=0) as producer:
        await connected(producer)
        await asyncio.gather(*(producer.send(Message("T", bytes(8000) + b"x")) for _ in range(20)))
        assert sizes(fake.broker) == [9, 9, 2]
        assert max(len(command.body) for command in fake.broker.of(TOGETHER)) < MAX_BYTES + 16_000


@pytest.mark.parametrize(
    "message",
    [
        Message("T", b"x" * 100_000),
        Message("T", b"x", properties={"DELAY": "3"}),
        Message("T", b"x", properties={"TIMER_DELIVER_MS": "1"}),
        Message("T", b"x", properties={"WAIT": "false"}),
        Message("T", b"x", properties={"TRAN_MSG": "true"}),
        Message("%RETRY%G", b"x"),
    ],
    ids=["large", "delay level", "deliver at a time", "no wait", "transaction", "retry topic"],
)
async def test_messages_not_allowed_in_a_batch_are_sent_alone(message: Message) -> None:
    async with cluster() as fake:
        fake.name_server.topics["%RETRY%G"] = fake.name_server.topics["T"]
        async with AsyncProducer("PG", config=fake.config()) as producer:
            await connected(producer, message.topic)
            await asyncio.gather(*(producer.send(message) for _ in range(3)))
            assert sizes(fake.broker) == [1, 1, 1]


async def test_message_sent_alone_keeps_the_order_of_its_key() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        later = {"DELAY": "3"}
        messages = [Message("T", b"%d" % n, properties=later if n in (3, 7) else {}) for n in range(10)]
        await asyncio.gather(*(producer.send(message, key="k") for message in messages))
        assert sizes(fake.broker) == [3, 1, 3, 1, 2]
        assert bodies(fake.broker) == [b"%d" % number for number in range(10)]


async def test_oneway_message_keeps_the_order_of_its_key() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        await asyncio.gather(
            producer.send(Message("T", b"0"), key="k"),
            producer.send_oneway(Message("T", b"1"), key="k"),
            producer.send(Message("T", b"2"), key="k"),
        )
        await until(lambda: len(bodies(fake.broker)) == 3)
        assert bodies(fake.broker) == [b"0", b"1", b"2"]


async def test_message_larger_than_a_frame_is_refused() -> None:
    settings: dict[str, Any] = {"max_message_bytes": 64 * 1024 * 1024, "compress_over_bytes": 0}
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(**settings)) as producer:
        await connected(producer)
        with pytest.raises(LocalProtocolError, match="bytes"):
            await producer.send(Message("T", bytes(17 * 1024 * 1024)))


async def test_send_cancelled_in_its_turn_is_not_sent() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        sending = [asyncio.ensure_future(producer.send(Message("T", b"%d" % number))) for number in range(4)]
        asyncio.get_running_loop().call_soon(sending[1].cancel)
        results = await asyncio.gather(*sending, return_exceptions=True)
        assert isinstance(results[1], asyncio.CancelledError)
        assert bodies(fake.broker) == [b"0", b"2", b"3"]
        assert [r.queue_offset for r in results if isinstance(r, SendResult)] == [1, 2, 3]


def refuse_with(*bad: bytes) -> Any:
    """A broker that refuses every request that has one of these bodies, alone or among others."""

    def answer(broker: FakeBroker) -> Any:
        def process(connection: Connection, command: RemotingCommand) -> RemotingCommand:
            header = command.header(SendMessageRequestHeaderV2)
            found = [body for _, body, _ in decode_batch(command.body)] if header.batch else [command.body]
            if any(body in bad for body in found):
                return response(command, ResponseCode.MESSAGE_ILLEGAL, remark="bad")
            return (broker._send_batch if header.batch else broker._send)(connection, command)

        return process

    return answer


async def test_refused_message_does_not_affect_others_of_its_burst() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        for code in (ALONE, TOGETHER):
            fake.broker.answers[code] = [refuse_with(b"3")(fake.broker)] * 10
        sending = (producer.send(Message("T", b"%d" % number), key="k") for number in range(6))
        results = await asyncio.gather(*sending, return_exceptions=True)
        assert isinstance(results[3], MessageIllegalError)
        stored = [result for result in results if isinstance(result, SendResult)]
        assert [result.queue_offset for result in stored] == [1, 2, 3, 4, 5]
        assert [result.attempts for result in stored] == [1] * 5


async def test_after_a_refused_burst_messages_are_sent_alone_for_a_while() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        fake.broker.unsupported.add(TOGETHER)

        async def send_three() -> None:
            await asyncio.gather(*(producer.send(Message("T", b"x"), key="k") for _ in range(3)))

        await send_three()
        await send_three()
        assert [command.code for command in fake.broker.of(ALONE, TOGETHER)][2:] == [TOGETHER] + [ALONE] * 6
        fake.broker.unsupported.clear()
        topic = producer._delivery._topics["T"]
        assert [target.alone_until > 0 for target in topic.targets.values()].count(True) == 1
        for target in topic.targets.values():
            target.alone_until = min(target.alone_until, 1.0)
        await send_three()
        assert sizes(fake.broker)[-1] == 3


async def test_each_message_of_a_failed_burst_is_retried() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        for broker in fake.brokers:
            broker.answers[TOGETHER] = [ResponseCode.SYSTEM_BUSY]
        results = await asyncio.gather(*(producer.send(Message("T", b"%d" % number)) for number in range(10)))
        assert [result.attempts for result in results] == [2] * 10
        first = next(broker for broker in fake.brokers if broker.of(TOGETHER))
        other = next(broker for broker in fake.brokers if broker is not first)
        assert {result.queue.broker_name for result in results} == {other.name}
        assert sorted(body for _, body in sent_messages(other) if body != b"first") == [b"%d" % n for n in range(10)]


async def test_each_sender_of_a_failed_burst_gets_a_separate_error() -> None:
    def close(connection: Connection, _command: RemotingCommand) -> None:
        connection.abort()

    once = {"retry_times_when_send_failed": 0}
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(**once)) as producer:
        await connected(producer)
        fake.broker.answers[TOGETHER] = [close]
        sending = (producer.send(Message("T", b"x")) for _ in range(3))
        errors = await asyncio.gather(*sending, return_exceptions=True)
        assert all(isinstance(error, RemotingError) for error in errors)
        assert len({id(error) for error in errors}) == 3


async def test_sends_with_different_timeouts_do_not_share_a_request() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        fake.broker.answers[ALONE] = [lambda _connection, _command: None] * 2
        sending = (producer.send(Message("T", b"x"), timeout_s=seconds) for seconds in (0.2, 60.0))
        short, long = (asyncio.ensure_future(send) for send in sending)
        with pytest.raises(RequestTimeoutError):
            await short
        assert not long.done()
        long.cancel()
        assert sizes(fake.broker)[:2] == [1, 1]


async def test_queue_chosen_by_the_broker_is_in_the_result() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await connected(producer)
        wanted = MessageQueue("T", "broker-a", 1)

        def elsewhere(connection: Connection, command: RemotingCommand) -> RemotingCommand:
            answer = fake.broker._send_batch(connection, command)
            answer.ext_fields["queueId"] = "2"
            return answer

        fake.broker.answers[TOGETHER] = [elsewhere]
        results = await asyncio.gather(*(producer.send(Message("T", b"x"), queue=wanted) for _ in range(2)))
        assert [result.queue.queue_id for result in results] == [2, 2]


async def test_without_coalesce_sends_every_message_is_sent_alone() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(), coalesce_sends=False) as producer:
        await connected(producer)
        await asyncio.gather(*(producer.send(Message("T", b"x")) for _ in range(5)))
        assert sizes(fake.broker) == [1] * 5


async def test_with_linger_ms_sends_of_several_turns_share_a_request() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(), linger_ms=500.0) as producer:
        await connected(producer)
        sending = []
        for _ in range(5):
            sending.append(asyncio.ensure_future(producer.send(Message("T", b"x"))))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not sizes(fake.broker)
        await until(lambda: sizes(fake.broker))
        await asyncio.gather(*sending)
        assert sizes(fake.broker) == [5]
