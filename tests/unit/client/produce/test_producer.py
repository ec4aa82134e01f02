"""AsyncProducer against fake brokers: what it sends, and what it does when that fails."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from typing import Any

import pytest
import tenacity
from client_fakes import FakeBroker, cluster, sends, sent_messages, until, without_ids
from hypothesis import given, settings
from hypothesis import strategies as st

from rmq_redis.client.produce.outgoing import Outgoing
from rmq_redis.client.produce.producer import AsyncProducer
from rmq_redis.client.produce.topic import QueueTarget
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import (
    ClientError,
    ConfigError,
    ConnectionClosedError,
    InvalidParameterError,
    MessageIllegalError,
    MessageIllegalLocallyError,
    NoPermissionError,
    RemotingConnectError,
    RemotingError,
    RequestTimeoutError,
    RouteNotFoundError,
    SystemBusyError,
)
from rmq_redis.model import Message, MessageQueue, SendStatus
from rmq_redis.protocol.frame import CommandDecoder
from rmq_redis.protocol.headers.send import SendMessageRequestHeaderV2
from rmq_redis.protocol.properties import decode_properties


def only_send(broker: FakeBroker) -> SendMessageRequestHeaderV2:
    (header,) = sends(broker)
    return header


async def test_message_is_encoded_with_all_its_fields() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        message = Message("T", "body", tags="A", keys=["k1", "k2"], properties={"colour": "grün\n"}, flag=5)
        result = await producer.send(message)
        header = only_send(fake.broker)
        assert (header.producer_group, header.topic, header.default_topic) == ("PG", "T", "TBW102")
        assert (header.default_topic_queue_nums, header.flag, header.sys_flag) == (4, 5, 0)
        assert (header.batch, header.unit_mode, header.reconsume_times, header.broker_name) == (
            False,
            False,
            0,
            "broker-a",
        )
        assert decode_properties(header.properties or "") == {
            "colour": "grün\n",
            "KEYS": "k1 k2",
            "TAGS": "A",
            "UNIQ_KEY": result.msg_id,
            "WAIT": "true",
        }
        (command,) = fake.broker.of(RequestCode.SEND_MESSAGE_V2)
        assert command.body == b"body"
        assert all(isinstance(value, str) for value in command.ext_fields.values())
        assert result.status is SendStatus.SEND_OK
        assert result.queue == MessageQueue("T", "broker-a", header.queue_id)
        assert (result.queue_offset, result.attempts, len(result.offset_msg_id)) == (0, 1, 32)


async def test_plain_message_has_the_properties_of_one_with_tags() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        plain = await producer.send(Message("T", b"x"))
        header = only_send(fake.broker)
        assert header.properties == f"UNIQ_KEY\x01{plain.msg_id}\x02WAIT\x01true\x02"
        assert len(plain.msg_id) == 32


@given(
    group=st.text("abc%|_-", min_size=1, max_size=20),
    topic=st.text("abc%|_-", min_size=1, max_size=20),
    broker_name=st.text(min_size=1, max_size=20),
    properties=st.text(max_size=50),
    flag=st.integers(-(2**31), 2**31 - 1),
)
@settings(deadline=None)
def test_header_template_accepts_any_text(group: str, topic: str, broker_name: str, properties: str, flag: int) -> None:
    try:
        broker_name.encode(), properties.encode()
    except UnicodeEncodeError:
        return
    target = QueueTarget(group, MessageQueue(topic, broker_name, 3), "127.0.0.1:1")
    for head, code, oneway in (
        (target.head, RequestCode.SEND_MESSAGE_V2, False),
        (target.oneway_head, RequestCode.SEND_MESSAGE_V2, True),
        (target.batch_head, RequestCode.SEND_BATCH_MESSAGE, False),
    ):
        commands: list[Any] = []
        out = Outgoing(topic, flag, 1700000000000, properties, b"body", "", sys_flag=1)
        CommandDecoder().feed(out.frame(head, 77), commands)
        (command,) = commands
        assert (command.code, command.opaque, command.is_oneway, command.body) == (code, 77, oneway, b"body")
        fields = command.header(SendMessageRequestHeaderV2)
        assert (fields.producer_group, fields.topic, fields.broker_name) == (group, topic, broker_name)
        assert (fields.properties, fields.flag, fields.queue_id) == (properties, flag, 3)
        assert (fields.sys_flag, fields.born_timestamp) == (1, 1700000000000)


async def test_messages_are_spread_round_robin_over_all_queues() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncProducer("PG", config=fake.config()) as producer:
        queues = [(await producer.send(Message("T", b"x"))).queue for _ in range(8)]
        assert Counter(queues) == dict.fromkeys(await producer.publish_queues("T"), 2)
        assert queues[:4] == queues[4:]


async def test_key_always_selects_the_same_queue() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncProducer("PG", config=fake.config()) as producer:
        queues = await producer.publish_queues("T")
        # Java's hashCode of these is 2598919, 857175, -2147483648 and 0; SelectMessageQueueByHash takes abs(hash % 4).
        for key, expected in (("TagA", 3), ("标签", 3), ("polygenelubricants", 0), ("", 0)):
            results = [await producer.send(Message("T", b"x"), key=key) for _ in range(3)]
            assert {result.queue for result in results} == {queues[expected]}
        headers = sends(fake.brokers[0]) + sends(fake.brokers[1])
        keys = {decode_properties(header.properties or "").get("__SHARDINGKEY") for header in headers}
        assert keys == {"TagA", "标签", "polygenelubricants", None}


async def test_non_string_key_is_refused() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        with pytest.raises(MessageIllegalLocallyError, match="sharding key must be str, not 7"):
            await producer.send(Message("T", b"x"), key=7)  # type: ignore[arg-type]
        assert sends(fake.broker) == []


async def test_queue_and_selector_determine_the_queue() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncProducer("PG", config=fake.config()) as producer:
        wanted = fake.queue(1, broker=1)
        assert (await producer.send(Message("T", b"x"), queue=wanted)).queue == wanted
        seen: list[Any] = []

        def last(queues: Any, message: Message, key: str | None) -> MessageQueue:
            seen.append((len(queues), message.body, key))
            return queues[-1]

        assert (await producer.send(Message("T", b"y"), selector=last, key="k")).queue == wanted
        assert seen == [(4, b"y", "k")]
        with pytest.raises(RouteNotFoundError, match="not a queue"):
            await producer.send(Message("T", b"x"), queue=MessageQueue("T", "broker-a", 9))


def broken(name: str, **changes: Any) -> Any:
    fields: dict[str, Any] = {"topic": "T", "body": b"x", **changes}
    return pytest.param(Message(**fields), id=name)


@pytest.mark.parametrize(
    "message",
    [
        broken("no topic", topic=""),
        broken("topic characters", topic="a b"),
        broken("topic length", topic="t" * 128),
        broken("reserved topic", topic="SCHEDULE_TOPIC_XXXX"),
        broken("empty body", body=b""),
        broken("large body", body=b"x" * 1001),
        broken("separator in a value", properties={"a": "b\x01"}),
        broken("separator in a key", properties={"a\x02": "b"}),
        broken("separator in tags", tags="a\x02"),
        broken("separator in keys", keys="a\x01b"),
        broken("empty property name", properties={"": "b"}),
        broken("long properties", properties={"a": "ü" * 20000}),
        broken("lone surrogate", properties={"a": "\ud800"}),
    ],
)
async def test_invalid_messages_are_refused_before_sending(message: Message) -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(max_message_bytes=1000)) as producer:
        for send in (producer.send, producer.send_oneway):
            with pytest.raises(MessageIllegalLocallyError):
                await send(message)
        with pytest.raises(MessageIllegalLocallyError):
            await producer.send_batch([message])
        assert not fake.broker.requests


async def test_large_bodies_are_compressed_if_they_shrink() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(compress_over_bytes=100)) as producer:
        await producer.send(Message("T", b"x" * 99))
        await producer.send(Message("T", b"x" * 100))
        await producer.send(Message("T", zlib.compress(bytes(range(256)), 9)))  # does not get smaller
        large = b"y" * 300_000
        await producer.send(Message("T", large))  # compressed in a thread
        headers, commands = sends(fake.broker), fake.broker.of(RequestCode.SEND_MESSAGE_V2)
        assert [header.sys_flag for header in headers] == [0, 1, 0, 1]
        assert zlib.decompress(commands[1].body) == b"x" * 100
        assert zlib.decompress(commands[3].body) == large


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ResponseCode.FLUSH_DISK_TIMEOUT, SendStatus.FLUSH_DISK_TIMEOUT),
        (ResponseCode.SLAVE_NOT_AVAILABLE, SendStatus.SLAVE_NOT_AVAILABLE),
        (ResponseCode.FLUSH_SLAVE_TIMEOUT, SendStatus.FLUSH_SLAVE_TIMEOUT),
    ],
)
async def test_stored_without_confirmation_is_a_success(code: ResponseCode, status: SendStatus) -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        broker = fake.broker

        def stored(connection: Any, command: Any) -> Any:
            answer = broker._send(connection, command)
            answer.code = int(code)
            return answer

        broker.answers[RequestCode.SEND_MESSAGE_V2].append(stored)
        result = await producer.send(Message("T", b"x"))
        assert (result.status, result.attempts, result.queue_offset) == (status, 1, 0)


# --- failures ----------------------------------------------------------------------------------------------------


async def test_first_attempt_runs_without_tenacity(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("tenacity was used")

    monkeypatch.setattr(tenacity, "AsyncRetrying", forbidden)
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await producer.send(Message("T", b"x"))
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2].append(int(ResponseCode.SYSTEM_BUSY))
        with pytest.raises(AssertionError, match="tenacity"):
            await producer.send(Message("T", b"x"))


@pytest.mark.parametrize("code", [1, 2, 14, 16, 17, 204, 205, 1500])
async def test_retriable_error_is_retried_on_another_broker(code: int) -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncProducer("PG", config=fake.config()) as producer:
        for broker in fake.brokers:
            broker.answers[RequestCode.SEND_MESSAGE_V2].append(code)
        result = await producer.send(Message("T", b"x"))
        assert result.attempts == 3
        names = [header.broker_name for broker in fake.brokers for header in sends(broker)]
        assert sorted(names) in (["broker-a", "broker-a", "broker-b"], ["broker-a", "broker-b", "broker-b"])
        ids = {decode_properties(h.properties or "")["UNIQ_KEY"] for broker in fake.brokers for h in sends(broker)}
        assert ids == {result.msg_id}  # one message, whatever the number of attempts


@pytest.mark.parametrize(("code", "error"), [(13, MessageIllegalError), (29, InvalidParameterError)])
async def test_other_errors_are_not_retried(code: int, error: type[Exception]) -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncProducer("PG", config=fake.config()) as producer:
        for broker in fake.brokers:
            broker.answers[RequestCode.SEND_MESSAGE_V2] = [code]
        with pytest.raises(error):
            await producer.send(Message("T", b"x"))
        assert sum(len(sends(broker)) for broker in fake.brokers) == 1


async def test_last_error_is_raised_with_a_note() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2] = [14, 2, 16]
        with pytest.raises(NoPermissionError) as caught:
            await producer.send(Message("T", b"x"))
        assert len(sends(fake.broker)) == 3
        (note,) = caught.value.__notes__
        assert "attempt 3" in note
        assert "SERVICE_NOT_AVAILABLE" in note


async def test_retries_can_be_disabled() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(retry_times_when_send_failed=0)) as producer:
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2] = [2]
        with pytest.raises(SystemBusyError):
            await producer.send(Message("T", b"x"))
        assert len(sends(fake.broker)) == 1


async def test_retried_keyed_send_stays_on_its_queue() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncProducer("PG", config=fake.config()) as producer:
        queue = (await producer.send(Message("T", b"x"), key="k")).queue
        broker = next(broker for broker in fake.brokers if broker.name == queue.broker_name)
        broker.answers[RequestCode.SEND_MESSAGE_V2] = [2, 2]
        result = await producer.send(Message("T", b"y"), key="k")
        assert (result.queue, result.attempts) == (queue, 3)
        broker.answers[RequestCode.SEND_MESSAGE_V2] = [2, 2, 2]
        with pytest.raises(SystemBusyError):
            await producer.send(Message("T", b"y"), queue=queue)
        assert {header.queue_id for header in sends(broker)} == {queue.queue_id}


async def test_unreachable_broker_is_avoided() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncProducer("PG", config=fake.config()) as producer:
        for _ in range(4):
            await producer.send(Message("T", b"x"))
        await fake.brokers[0].stop()
        results = [await producer.send(Message("T", b"x")) for _ in range(8)]
        assert {result.queue.broker_name for result in results} == {"broker-b"}
        assert [result.attempts for result in results if result.attempts > 1] in ([], [2])  # known after the first
        with pytest.raises(RemotingConnectError):  # a key does not move to another broker
            await producer.send(Message("T", b"x"), key="", timeout_s=0.3)


async def test_restarted_broker_is_found_by_a_retry() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(send_timeout_s=10.0)) as producer:
        await producer.send(Message("T", b"x"))
        port = fake.broker.port
        await fake.broker.stop()
        sending = asyncio.create_task(producer.send(Message("T", b"y")))
        await asyncio.sleep(0)
        await fake.broker.start(port)
        result = await sending
        assert result.attempts > 1


async def test_moved_broker_is_found_through_the_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmq_redis.client.core.route.MIN_REFRESH_INTERVAL_S", 0.01)
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(send_timeout_s=10.0)) as producer:
        await producer.send(Message("T", b"x"))
        await fake.broker.stop()
        await fake.broker.start()  # another port
        result = await producer.send(Message("T", b"y"))
        assert result.attempts > 1


async def test_send_without_a_response_times_out() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await producer.send(Message("T", b"x"))
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2] = [lambda *_: asyncio.sleep(60)] * 3
        with pytest.raises(RequestTimeoutError):
            await producer.send(Message("T", b"x"), timeout_s=0.05)
        assert len(sends(fake.broker)) == 2  # the time is used up: no further attempt


async def test_send_is_retried_after_a_lost_connection() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:

        def hang_up(connection: Any, _command: Any) -> None:
            connection.abort()

        fake.broker.answers[RequestCode.SEND_MESSAGE_V2] = [hang_up]
        assert (await producer.send(Message("T", b"x"))).attempts == 2
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2] = [hang_up] * 3
        with pytest.raises(ConnectionClosedError):
            await producer.send(Message("T", b"x"))


async def test_missing_route_and_permission_are_errors() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        with pytest.raises(RouteNotFoundError, match="create the topic first"):
            await producer.send(Message("unknown", b"x"))
        fake.name_server.topics["readonly"] = {"broker-a": 1}
        fake.name_server.perms["readonly", "broker-a"] = 4
        with pytest.raises(RouteNotFoundError, match="no queue that can be written"):
            await producer.send(Message("readonly", b"x"))
        fake.name_server.topics["TBW102"] = {"broker-a": 8}
        assert (await producer.send(Message("unknown", b"x"))).queue.queue_id in range(4)


async def test_producer_follows_route_changes() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(poll_name_server_interval_s=0.01)) as producer:
        assert len(await producer.publish_queues("T")) == 2
        fake.name_server.topics["T"]["broker-a"] = 5
        await until(lambda: len(producer._publish.topics["T"].queues) == 5)
        fake.name_server.perms["T", "broker-a"] = 4
        await until(lambda: "T" not in producer._publish.topics)


async def test_producer_can_send_only_between_start_and_close() -> None:
    async with cluster() as fake:
        producer = AsyncProducer("PG", fake.namesrv_addr)
        with pytest.raises(ClientError, match="not started"):
            await producer.send(Message("T", b"x"))
        await producer.start()
        with pytest.raises(ClientError, match="twice"):
            await producer.start()
        await producer.send(Message("T", b"x"))
        await until(lambda: fake.broker.heartbeats)
        assert fake.broker.heartbeats[-1]["producerDataSet"] == [{"groupName": "PG"}]
        assert fake.broker.heartbeats[-1]["clientID"] == producer.client_id
        await producer.close()
        await producer.close()
        (left,) = fake.broker.of(RequestCode.UNREGISTER_CLIENT)
        assert left.ext_fields == {"clientID": producer.client_id, "producerGroup": "PG"}
        with pytest.raises(ClientError, match="closed"):
            await producer.send(Message("T", b"x"))


async def test_sends_in_flight_fail_when_the_producer_closes() -> None:
    async with cluster() as fake:
        producer = AsyncProducer("PG", fake.namesrv_addr)
        await producer.start()
        await producer.send(Message("T", b"x"))
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2] = [lambda *_: asyncio.sleep(60)]
        sending = asyncio.create_task(producer.send(Message("T", b"y")))
        await until(lambda: len(sends(fake.broker)) == 2)
        await producer.close()
        with pytest.raises((RemotingError, ClientError)):
            await sending


def test_invalid_settings_are_refused() -> None:
    for arguments in (
        {"group": ""},
        {"group": "a b"},
        {"group": "DEFAULT_PRODUCER"},
        {"group": "G", "namesrv_addr": "nowhere:port"},
        {"group": "G", "load_balancer": "NOPE"},
        {"group": "G", "no_such_setting": 1},
    ):
        with pytest.raises(ConfigError):
            AsyncProducer(**arguments)  # type: ignore[arg-type]


# --- batches and oneway ------------------------------------------------------------------------------------------


async def test_batch_is_sent_in_one_request() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        result = await producer.send_batch([Message("T", f"m{n}", tags=f"t{n}", flag=n) for n in range(3)])
        (command,) = fake.broker.of(RequestCode.SEND_BATCH_MESSAGE)
        header = command.header(SendMessageRequestHeaderV2)
        assert header.batch
        assert without_ids(header.properties) == ""
        ids = result.msg_id.split(",")
        assert len(set(ids)) == len(result.offset_msg_id.split(",")) == 3
        stored = fake.broker.queues["T", header.queue_id]
        from rmq_redis.protocol.record import decode_records

        messages = decode_records(b"".join(stored))
        assert [(m.text(), m.tags, m.flag, m.msg_id) for m in messages] == [
            (f"m{n}", f"t{n}", n, ids[n]) for n in range(3)
        ]


async def test_invalid_batches_are_refused() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config(max_message_bytes=1000)) as producer:
        for messages, why in (
            ([], "at least one"),
            ([Message("T", b"x"), Message("U", b"x")], "one topic"),
            ([Message("T", b"x", properties={"DELAY": "1"})], "delayed"),
            ([Message("T", b"x", properties={"TIMER_DELAY_SEC": "1"})], "delayed"),
            ([Message("T", b"x" * 500)] * 3, "several parts"),
            ([Message("%RETRY%G", b"x")], "retry topic"),
        ):
            with pytest.raises(MessageIllegalLocallyError, match=why):
                await producer.send_batch(messages)
        assert not fake.broker.of(RequestCode.SEND_BATCH_MESSAGE)


async def test_failed_batch_is_retried() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncProducer("PG", config=fake.config()) as producer:
        for broker in fake.brokers:
            broker.answers[RequestCode.SEND_BATCH_MESSAGE] = [14]
        result = await producer.send_batch([Message("T", b"x")])
        assert result.attempts == 3


async def test_oneway_send_requests_no_response() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        for number in range(200):
            await producer.send_oneway(Message("T", f"{number}"), key="k")
        await until(lambda: len(sends(fake.broker)) == 200)
        assert all(command.is_oneway for command in fake.broker.of(RequestCode.SEND_MESSAGE_V2))
        bodies = [command.body for command in fake.broker.of(RequestCode.SEND_MESSAGE_V2)]
        assert bodies == [f"{number}".encode() for number in range(200)]


async def test_sends_of_one_caller_keep_their_order() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:

        async def send(key: str) -> None:
            for number in range(20):
                await producer.send(Message("T", f"{key}{number}"), key=key)

        await asyncio.gather(*(send(key) for key in "abcdefgh"))
        bodies = [body.decode() for _, body in sent_messages(fake.broker)]
        for key in "abcdefgh":
            assert [body for body in bodies if body[0] == key] == [f"{key}{number}" for number in range(20)]
