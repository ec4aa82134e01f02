"""Interceptors of producers and consumers, against fake brokers."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from client_fakes import cluster, sends, until

from rmq_redis.client.consume.push import AsyncPushConsumer
from rmq_redis.client.produce.producer import AsyncProducer
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import ConfigError, MessageRefusedError, ResponseError
from rmq_redis.model import Message, MessageExt
from rmq_redis.protocol.batch import decode_batch
from rmq_redis.protocol.headers.send import SendMessageRequestHeaderV2
from rmq_redis.protocol.properties import decode_properties


class Recorder:
    """Notes every call; the methods of ``failing`` raise."""

    def __init__(self, name: str = "a", log: list[Any] | None = None, failing: tuple[str, ...] = ()) -> None:
        self.name = name
        self.log: list[Any] = [] if log is None else log
        self.failing = failing

    def _note(self, call: str, *values: Any) -> None:
        self.log.append((self.name, call, *values))
        if call in self.failing:
            raise ValueError(f"{call} is broken")

    def before_send(self, message: Message) -> None:
        self._note("before_send", message.body)

    async def after_send(self, message: Message, result: Any, error: BaseException | None) -> None:
        self._note("after_send", message.body, result and result.status.value, type(error).__name__ if error else None)

    async def before_handle(self, message: MessageExt) -> None:
        self._note("before_handle", message.body)

    def after_handle(self, message: MessageExt, result: Any, error: BaseException | None) -> None:
        self._note("after_handle", message.body, result, type(error).__name__ if error else None)


class Tagging:
    def before_send(self, message: Message) -> Message:
        if message.body == b"secret":
            raise MessageRefusedError("secrets are not sent")
        return msgspec.structs.replace(message, properties={**message.properties, "trace": "7"})


async def test_send_passes_all_interceptors_in_order_and_back() -> None:
    log: list[Any] = []
    async with cluster() as fake:
        config = fake.config()
        interceptors = [Recorder("a", log), Tagging(), Recorder("b", log)]
        async with AsyncProducer("PG", config=config, interceptors=interceptors) as producer:
            await producer.send(Message("T", "x"))
            await producer.send_oneway(Message("T", "y"))
            await until(lambda: len(sends(fake.broker)) == 2)
        assert [decode_properties(header.properties or "")["trace"] for header in sends(fake.broker)] == ["7", "7"]
    assert log == [
        ("a", "before_send", b"x"),
        ("b", "before_send", b"x"),
        ("b", "after_send", b"x", "SEND_OK", None),
        ("a", "after_send", b"x", "SEND_OK", None),
        ("a", "before_send", b"y"),
        ("b", "before_send", b"y"),
        ("b", "after_send", b"y", None, None),
        ("a", "after_send", b"y", None, None),
    ]


async def test_refused_message_is_not_sent_and_reported_to_interceptors() -> None:
    log: list[Any] = []
    async with cluster() as fake:
        interceptors = [Recorder("a", log), Tagging(), Recorder("b", log)]
        async with AsyncProducer("PG", config=fake.config(), interceptors=interceptors) as producer:
            with pytest.raises(MessageRefusedError, match="secrets are not sent"):
                await producer.send(Message("T", "secret"))
            with pytest.raises(MessageRefusedError):
                await producer.send_batch([Message("T", "x"), Message("T", "secret")])
        assert sends(fake.broker) == []
    assert log[:2] == [("a", "before_send", b"secret"), ("a", "after_send", b"secret", None, "MessageRefusedError")]
    assert ("b", "after_send", b"x", None, "MessageRefusedError") in log[2:]


async def test_every_message_of_a_batch_is_intercepted() -> None:
    recorder = Recorder()
    async with cluster() as fake:
        async with AsyncProducer("PG", config=fake.config(), interceptors=[recorder, Tagging()]) as producer:
            await producer.send_batch([Message("T", "x"), Message("T", "y")])
        (command,) = fake.broker.of(RequestCode.SEND_BATCH_MESSAGE)
        assert command.header(SendMessageRequestHeaderV2).batch
        properties = [decode_properties(text.decode()) for _flag, _body, text in decode_batch(command.body)]
        assert [found["trace"] for found in properties] == ["7", "7"]
    assert [entry[1:3] for entry in recorder.log] == [
        ("before_send", b"x"),
        ("before_send", b"y"),
        ("after_send", b"y"),
        ("after_send", b"x"),
    ]


async def test_observer_that_raises_is_logged_and_the_message_sent(caplog: pytest.LogCaptureFixture) -> None:
    broken = Recorder(failing=("before_send", "after_send", "before_handle", "after_handle"))
    handled: list[bytes] = []
    async with cluster() as fake:
        async with AsyncProducer("PG", config=fake.config(), interceptors=[broken]) as producer:
            result = await producer.send(Message("T", "x"))
            assert result.queue_offset == 0
        fake.broker.put("T", 1, b"y")
        consumer = AsyncPushConsumer(
            "G", config=fake.config(), consume_from_where="CONSUME_FROM_FIRST_OFFSET", interceptors=[broken]
        )
        consumer.subscribe("T", "*", lambda message: handled.append(message.body))
        async with consumer:
            await until(lambda: b"y" in handled)
            await until(lambda: ("a", "after_handle", b"y", None, None) in broken.log)
        assert fake.broker.of(RequestCode.CONSUMER_SEND_MSG_BACK) == []
    errors = {record.getMessage().split(" of ")[0] for record in caplog.records if record.levelno == logging.ERROR}
    assert errors == {"before_send", "after_send", "before_handle", "after_handle"}


async def test_failed_send_reports_its_error_to_interceptors() -> None:
    recorder = Recorder()
    async with cluster() as fake:
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2] = [ResponseCode.MESSAGE_ILLEGAL]
        async with AsyncProducer("PG", config=fake.config(), interceptors=[recorder]) as producer:
            with pytest.raises(ResponseError):
                await producer.send(Message("T", "x"))
    assert recorder.log[-1] == ("a", "after_send", b"x", None, "MessageIllegalError")


@pytest.mark.parametrize("orderly", [False, True])
@pytest.mark.parametrize("model", ["CLUSTERING", "BROADCASTING"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_every_kind_of_handler_is_intercepted(orderly: bool, model: str, is_async: bool) -> None:
    log: list[Any] = []

    class Around:
        async def around_handle(self, message: MessageExt, call_next: Any) -> Any:
            if message.body == b"skip":
                return None
            log.append("in")
            try:
                return await call_next(msgspec.structs.replace(message, body=message.body.upper()))
            finally:
                log.append("out")

    def handle(message: MessageExt) -> None:
        log.append(message.body)

    async def handle_async(message: MessageExt) -> None:
        log.append(message.body)

    async with cluster() as fake:
        recorder = Recorder("a", log)
        consumer = AsyncPushConsumer(
            "G",
            config=fake.config(),
            consume_from_where="CONSUME_FROM_FIRST_OFFSET",
            orderly=orderly,
            message_model=model,
            concurrency=1,
            interceptors=[recorder, Around()],
        )
        consumer.subscribe("T", "*", handle_async if is_async else handle)
        fake.broker.put("T", 0, b"skip", b"x")
        async with consumer:
            await until(lambda: ("a", "after_handle", b"x", None, None) in log)
    assert log == [
        ("a", "before_handle", b"skip"),
        ("a", "after_handle", b"skip", None, None),
        ("a", "before_handle", b"x"),
        "in",
        b"X",
        "out",
        ("a", "after_handle", b"x", None, None),
    ]


async def test_failing_handler_is_observed_and_its_message_sent_back() -> None:
    recorder = Recorder()

    def handle(_message: MessageExt) -> None:
        raise KeyError("no")

    async with cluster() as fake:
        consumer = AsyncPushConsumer(
            "G", config=fake.config(), consume_from_where="CONSUME_FROM_FIRST_OFFSET", interceptors=[recorder]
        )
        consumer.subscribe("T", "*", handle)
        fake.broker.put("T", 0, b"x")
        async with consumer:
            await until(lambda: fake.broker.of(RequestCode.CONSUMER_SEND_MSG_BACK))
    assert recorder.log == [("a", "before_handle", b"x"), ("a", "after_handle", b"x", None, "KeyError")]


@pytest.mark.parametrize("wrong", [object(), Recorder, "before_send"])
def test_invalid_interceptor_is_refused_at_once(wrong: object) -> None:
    with pytest.raises(ConfigError, match="is no interceptor"):
        AsyncProducer("PG", "127.0.0.1:1", interceptors=[wrong])
    with pytest.raises(ConfigError, match="is no interceptor"):
        AsyncPushConsumer("G", "127.0.0.1:1", interceptors=[wrong])


def test_without_interceptors_no_hook_is_called() -> None:
    producer = AsyncProducer("PG", "127.0.0.1:1", interceptors=[])
    assert producer._deliver == producer._delivery.deliver
