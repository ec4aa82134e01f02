"""AsyncTransactionProducer against fake brokers: what it sends, when it decides, and what it answers when asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from client_fakes import HOST, FakeBroker, cluster, sends, until

from rmq_redis.client.produce import transaction as transaction_module
from rmq_redis.client.produce.transaction import AsyncTransactionProducer
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import MessageIllegalLocallyError, RequestTimeoutError, RmqError
from rmq_redis.model import LocalTransactionState, Message, MessageExt, SendStatus
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.clients import ConsumerGroupRequestHeader
from rmq_redis.protocol.headers.transaction import CheckTransactionStateRequestHeader, EndTransactionRequestHeader
from rmq_redis.protocol.ids import parse_offset_msg_id
from rmq_redis.protocol.properties import decode_properties
from rmq_redis.protocol.record import RecordHead, encode_record

COMMIT, ROLLBACK = LocalTransactionState.COMMIT_MESSAGE, LocalTransactionState.ROLLBACK_MESSAGE
UNKNOW = LocalTransactionState.UNKNOW


class Listener:
    """Answers with what it was given; an exception is raised."""

    def __init__(self, outcome: Any = COMMIT, checked: Any = COMMIT) -> None:
        self.outcome = outcome
        self.checked = checked
        self.executed: list[tuple[Message, Any]] = []
        self.asked: list[MessageExt] = []
        self.threads: set[str] = set()

    def _answer(self, outcome: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def execute_local_transaction(self, message: Message, arg: Any) -> Any:
        self.executed.append((message, arg))
        return self._answer(self.outcome)

    def check_local_transaction(self, message: MessageExt) -> Any:
        self.asked.append(message)
        return self._answer(self.checked)


class AsyncListener(Listener):
    async def execute_local_transaction(self, message: Message, arg: Any) -> Any:
        await asyncio.sleep(0)
        return super().execute_local_transaction(message, arg)

    async def check_local_transaction(self, message: MessageExt) -> Any:
        await asyncio.sleep(0)
        return super().check_local_transaction(message)


async def decision(broker: FakeBroker, count: int = 1) -> tuple[EndTransactionRequestHeader, RemotingCommand]:
    """The newest END_TRANSACTION, when so many have arrived."""
    commands = await until(lambda: (found := broker.of(RequestCode.END_TRANSACTION))[count - 1 :] and found)
    assert len(commands) == count
    return commands[-1].header(EndTransactionRequestHeader), commands[-1]


async def test_half_message_and_commit_are_encoded_as_in_rocketmq() -> None:
    listener = Listener()
    async with cluster() as fake, AsyncTransactionProducer("PG", listener, config=fake.config()) as producer:
        message = Message("T", "body", tags="A", keys="K", properties={"DELAY": "3", "TIMER_DELAY_MS": "9", "a": "b"})
        result = await producer.send_message_in_transaction(message, {"arg": 1})
        (header,) = sends(fake.broker)
        assert header.sys_flag == 4
        assert decode_properties(header.properties or "") == {
            "a": "b",
            "TRAN_MSG": "true",
            "PGROUP": "PG",
            "UNIQ_KEY": result.msg_id,
            "KEYS": "K",
            "TAGS": "A",
            "WAIT": "true",
        }
        ((executed, arg),) = listener.executed
        assert (executed.transaction_id, executed.body, executed.tags, arg) == (result.msg_id, b"body", "A", {"arg": 1})
        assert message.properties == {"DELAY": "3", "TIMER_DELAY_MS": "9", "a": "b"}  # may be sent again
        end, command = await decision(fake.broker)
        assert command.is_oneway
        assert command.remark is None
        assert end == EndTransactionRequestHeader(
            producer_group="PG",
            tran_state_table_offset=result.queue_offset,
            commit_log_offset=parse_offset_msg_id(result.offset_msg_id)[1],
            commit_or_rollback=8,
            from_transaction_check=False,
            msg_id=result.msg_id,
            transaction_id="",
            topic="T",
            broker_name="broker-a",
        )
        assert (result.status, result.local_transaction_state, result.error) == (SendStatus.SEND_OK, COMMIT, None)


@pytest.mark.parametrize("kind", [Listener, AsyncListener])
@pytest.mark.parametrize(
    ("outcome", "state", "number"),
    [
        (COMMIT, COMMIT, 8),
        (ROLLBACK, ROLLBACK, 12),
        ("ROLLBACK_MESSAGE", ROLLBACK, 12),
        (UNKNOW, UNKNOW, 0),
        (None, UNKNOW, 0),
        (True, UNKNOW, 0),
        (ValueError("no money"), UNKNOW, 0),
    ],
)
async def test_listener_decides_the_transaction(
    kind: type[Listener], outcome: Any, state: LocalTransactionState, number: int
) -> None:
    listener = kind(outcome)
    async with cluster() as fake, AsyncTransactionProducer("PG", listener, config=fake.config()) as producer:
        result = await producer.send_message_in_transaction(Message("T", b"x"))
        assert result.local_transaction_state is state
        end, command = await decision(fake.broker)
        assert end.commit_or_rollback == number
        if outcome is True:
            assert isinstance(result.error, TypeError)
        else:
            assert result.error is (outcome if isinstance(outcome, Exception) else None)
        assert (command.remark is not None) == (result.error is not None)
        in_the_loop = listener.threads == {threading.current_thread().name}
        assert in_the_loop == (kind is AsyncListener)


@pytest.mark.parametrize(
    "code", [ResponseCode.FLUSH_DISK_TIMEOUT, ResponseCode.FLUSH_SLAVE_TIMEOUT, ResponseCode.SLAVE_NOT_AVAILABLE]
)
async def test_unconfirmed_half_message_is_rolled_back(code: ResponseCode) -> None:
    listener = Listener()
    async with cluster() as fake, AsyncTransactionProducer("PG", listener, config=fake.config()) as producer:

        def stored_with(connection: Any, command: RemotingCommand) -> RemotingCommand:
            answer = fake.broker._send(connection, command)
            answer.code = code
            return answer

        fake.broker.answers[RequestCode.SEND_MESSAGE_V2].append(stored_with)
        result = await producer.send_message_in_transaction(Message("T", b"x"))
        assert (result.status.value, result.local_transaction_state) == (code.name, ROLLBACK)
        assert (await decision(fake.broker))[0].commit_or_rollback == 12
        assert listener.executed == []


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda broker: broker.answers[RequestCode.SEND_MESSAGE_V2].append(ResponseCode.MESSAGE_ILLEGAL), RmqError),
        (lambda broker: broker.answers[RequestCode.SEND_MESSAGE_V2].append(lambda *_: None), RequestTimeoutError),
    ],
)
async def test_failed_half_message_runs_no_local_transaction(
    break_it: Callable[[FakeBroker], Any], error: type[Exception]
) -> None:
    listener = Listener()
    async with cluster() as fake, AsyncTransactionProducer("PG", listener, config=fake.config()) as producer:
        break_it(fake.broker)
        with pytest.raises(error):
            await producer.send_message_in_transaction(Message("T", b"x"), timeout_s=0.3)
        with pytest.raises(MessageIllegalLocallyError):
            await producer.send_message_in_transaction(Message("T", b""))
        assert (listener.executed, fake.broker.of(RequestCode.END_TRANSACTION)) == ([], [])


async def test_refused_half_message_is_sent_to_another_broker() -> None:
    listener = Listener()
    async with (
        cluster("broker-a", "broker-b") as fake,
        AsyncTransactionProducer("PG", listener, config=fake.config()) as producer,
    ):
        fake.brokers[0].answers[RequestCode.SEND_MESSAGE_V2] += [ResponseCode.SERVICE_NOT_AVAILABLE] * 9
        results = [await producer.send_message_in_transaction(Message("T", b"x")) for _ in range(4)]
        assert {result.queue.broker_name for result in results} == {"broker-b"}
        assert max(result.attempts for result in results) == 2
        await decision(fake.brokers[1], 4)
        assert fake.brokers[0].of(RequestCode.END_TRANSACTION) == []
        assert len(listener.executed) == 4


async def test_lost_decision_is_not_an_error() -> None:
    class Breaks(Listener):
        async def execute_local_transaction(self, message: Message, arg: Any) -> Any:
            await fake.broker.stop()
            return COMMIT

    async with cluster() as fake, AsyncTransactionProducer("PG", Breaks(), config=fake.config()) as producer:
        result = await producer.send_message_in_transaction(Message("T", b"x"))
        assert result.local_transaction_state is COMMIT


def check(group: str = "PG", body: bytes = b"half", **changes: Any) -> RemotingCommand:
    record = encode_record(
        RecordHead(
            queue_id=1,
            flag=0,
            sys_flag=0,
            born_timestamp_ms=1,
            born_host=HOST,
            store_timestamp_ms=2,
            store_host=HOST,
            queue_offset=7,
            physical_offset=77,
        ),
        b"T",
        body,
        f"TRAN_MSG\x01true\x02PGROUP\x01{group}\x02UNIQ_KEY\x01A1\x02".encode(),
    )
    header = CheckTransactionStateRequestHeader(
        tran_state_table_offset=7,
        commit_log_offset=77,
        msg_id="A1",
        transaction_id="A1",
        topic="T",
        broker_name="broker-a",
    )
    return request(RequestCode.CHECK_TRANSACTION_STATE, header, record, oneway=True)


async def ask(broker: FakeBroker, command: RemotingCommand) -> None:
    """Asks the one client that is connected."""
    (connection,) = await until(lambda: broker.heartbeats and list(broker.server.connections))
    connection.write_command(command)


@pytest.mark.parametrize("kind", [Listener, AsyncListener])
@pytest.mark.parametrize(
    ("checked", "number"), [(COMMIT, 8), (ROLLBACK, 12), (UNKNOW, 0), (None, 0), (OSError("database away"), 0)]
)
async def test_producer_answers_a_check_back(kind: type[Listener], checked: Any, number: int) -> None:
    listener = kind(checked=checked)
    # Nothing sent yet: the topics say which brokers may ask.
    async with cluster() as fake, AsyncTransactionProducer("PG", listener, config=fake.config(), topics=["T"]):
        await ask(fake.broker, check())
        end, command = await decision(fake.broker)
        assert command.is_oneway
        assert end == EndTransactionRequestHeader(
            producer_group="PG",
            tran_state_table_offset=7,
            commit_log_offset=77,
            commit_or_rollback=number,
            from_transaction_check=True,
            msg_id="A1",
            transaction_id="A1",
            topic="T",
            broker_name="broker-a",
        )
        assert ("database away" in (command.remark or "")) == isinstance(checked, OSError)
        (message,) = listener.asked
        assert (message.transaction_id, message.text(), message.topic, message.queue_id) == ("A1", "half", "T", 1)
        assert fake.broker.heartbeats[-1]["producerDataSet"] == [{"groupName": "PG"}]


async def test_check_backs_for_other_producers_are_ignored() -> None:
    listener = Listener()
    async with cluster() as fake, AsyncTransactionProducer("PG", listener, config=fake.config(), topics=["T"]):
        await ask(fake.broker, check(group="other"))
        empty = CheckTransactionStateRequestHeader(tran_state_table_offset=1, commit_log_offset=1)
        await ask(fake.broker, request(RequestCode.CHECK_TRANSACTION_STATE, empty, oneway=True))
        await ask(fake.broker, check())
        await decision(fake.broker)
        assert len(listener.asked) == 1


async def test_excess_check_backs_are_left_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()

    class Waits(AsyncListener):
        async def check_local_transaction(self, message: MessageExt) -> Any:
            await go_on.wait()
            return COMMIT

    monkeypatch.setattr(transaction_module, "MAX_CHECKS", 2)
    async with cluster() as fake, AsyncTransactionProducer("PG", Waits(), config=fake.config(), topics=["T"]):
        for _ in range(3):
            await ask(fake.broker, check())
        (connection,) = fake.broker.server.connections
        await connection.invoke(  # its answer says that the three were read
            request(RequestCode.NOTIFY_CONSUMER_IDS_CHANGED, ConsumerGroupRequestHeader("G")), 5.0
        )
        go_on.set()
        await decision(fake.broker, 2)
        await ask(fake.broker, check())
        await decision(fake.broker, 3)


async def test_topics_without_a_route_are_retried() -> None:
    async with cluster() as fake:
        route = fake.name_server.topics.pop("T")
        async with AsyncTransactionProducer("PG", Listener(), config=fake.config(), topics=["T"]):
            await until(lambda: "T" in fake.name_server.asked)
            assert fake.broker.heartbeats == []
            fake.name_server.topics["T"] = route
            await until(lambda: fake.broker.heartbeats)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("in_child_task", [True, False])
async def test_listener_may_close_its_producer(plain: bool, in_child_task: bool) -> None:
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def close() -> None:
        await (asyncio.wait_for(producer.close(), 60) if in_child_task else producer.close())

    class Closes(AsyncListener):
        async def check_local_transaction(self, message: MessageExt) -> Any:
            try:
                await close()
            finally:
                closed.set()

    class ClosesInThread(Listener):
        def check_local_transaction(self, message: MessageExt) -> Any:
            asyncio.run_coroutine_threadsafe(close(), loop).result(60)
            loop.call_soon_threadsafe(closed.set)

    async with cluster() as fake:
        listener = ClosesInThread() if plain else Closes()
        producer = AsyncTransactionProducer("PG", listener, config=fake.config(), topics=["T"])
        await producer.start()
        await ask(fake.broker, check())
        await asyncio.wait_for(closed.wait(), 60)
        await until(lambda: not producer._instance.remoting.connections and not fake.broker.server.connections)
