"""Sends while the only broker group of a cluster restarts: they wait for a route within their timeout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from helpers import eventually

from rmq_redis import (
    AsyncAdmin,
    AsyncProducer,
    AsyncTransactionProducer,
    LocalTransactionState,
    Message,
    MessageExt,
    MessageQueue,
    Producer,
    SendResult,
)
from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.config import BrokerConfig, NameServerConfig
from rmq_redis.errors import ResponseError, RmqError, RouteNotFoundError
from rmq_redis.model import DataVersion
from rmq_redis.nameserver.nameserver import NameServer
from rmq_redis.protocol.bodies.registration import TopicConfigTable, encode_register_body
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.registration import RegisterBrokerRequestHeader
from rmq_redis.remoting.client import RemotingClient
from rmq_redis.store.embedded import EmbeddedServer

LONG_S = 60.0
"""Sends have this long, restarts take as long as the machine needs."""


class Group:
    """A cluster of one NameServer and one broker group."""

    def __init__(self, server: EmbeddedServer, prefix: str) -> None:
        self._server, self._prefix = server, prefix
        self._listen: dict[str, Any] = {"listen_host": "127.0.0.1", "listen_port": 0, "key_prefix": prefix}
        self.namesrv = NameServer(NameServerConfig(registry=server.url, **self._listen))
        self.broker: Broker | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.namesrv.port}"

    async def start(self) -> None:
        self.broker = Broker(
            BrokerConfig(
                store=self._server.url,
                namesrv_addr=self.address,
                advertised_host="127.0.0.1",
                lease_s=1.0,
                **self._listen,
            )
        )
        await self.broker.start()

    async def stop(self) -> None:
        if self.broker is not None:
            broker, self.broker = self.broker, None
            await broker.close()


@pytest.fixture
async def group(embedded_server: EmbeddedServer, key_prefix: str) -> AsyncIterator[Group]:
    group = Group(embedded_server, key_prefix)
    await group.namesrv.start()
    await group.start()
    yield group
    await group.stop()
    await group.namesrv.close()


class Decides:
    async def execute_local_transaction(self, message: Message, arg: Any) -> LocalTransactionState:
        return LocalTransactionState.COMMIT_MESSAGE

    async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        return LocalTransactionState.COMMIT_MESSAGE


QUEUE = MessageQueue("t", "broker-a", 1)
Sends = Callable[[AsyncTransactionProducer], Awaitable[Any]]
SENDS: dict[str, Sends] = {
    "any queue": lambda producer: producer.send(Message("t", "x")),
    "key": lambda producer: producer.send(Message("t", "x"), key="k"),
    "queue": lambda producer: producer.send(Message("t", "x"), queue=QUEUE),
    "batch": lambda producer: producer.send_batch([Message("t", "x"), Message("t", "y")]),
    "batch to a queue": lambda producer: producer.send_batch([Message("t", "x")], queue=QUEUE),
    "oneway": lambda producer: producer.send_oneway(Message("t", "x")),
    "transaction": lambda producer: producer.send_message_in_transaction(Message("t", "x")),
}


@pytest.mark.parametrize("name", SENDS)
async def test_send_waits_until_the_group_is_back(name: str, group: Group) -> None:
    async with AsyncTransactionProducer("g", Decides(), group.address, send_timeout_s=LONG_S) as producer:
        await producer.send(Message("t", "first"))
        await group.stop()
        sending = asyncio.ensure_future(SENDS[name](producer))
        await eventually(lambda: bool(producer._publish._avoided) or sending.done())  # an attempt has failed
        assert not sending.done()
        await group.start()
        await asyncio.wait_for(sending, LONG_S)


async def test_new_producer_waits_for_brokers_to_start(group: Group) -> None:
    await group.stop()
    async with AsyncProducer("g", group.address, send_timeout_s=LONG_S) as producer:
        sending = asyncio.ensure_future(producer.send(Message("brand-new", "x")))
        await asyncio.sleep(0)
        await group.start()
        assert (await asyncio.wait_for(sending, LONG_S)).queue.broker_name == "broker-a"


async def test_blocking_producer_waits_for_brokers_to_start(group: Group) -> None:
    with Producer("g", group.address, send_timeout_s=LONG_S) as producer:
        await asyncio.to_thread(producer.send, Message("t", "first"))
        await group.stop()
        sending = asyncio.ensure_future(asyncio.to_thread(producer.send, Message("t", "x")))
        future = producer.send_async(Message("t", "y"))
        await asyncio.sleep(0)
        await group.start()
        assert isinstance(await asyncio.wait_for(sending, LONG_S), SendResult)
        assert isinstance(await asyncio.wait_for(asyncio.wrap_future(future), LONG_S), SendResult)
        await asyncio.to_thread(producer.close)


async def test_rolling_restarts_under_load_fail_no_send(group: Group) -> None:
    sent = 0
    stop = False

    async def send(producer: AsyncProducer) -> None:
        nonlocal sent
        while not stop:
            await producer.send(Message("t", "x"))
            sent += 1

    async with AsyncProducer("g", group.address, send_timeout_s=LONG_S) as producer:
        tasks = [asyncio.ensure_future(send(producer)) for _ in range(8)]
        for _ in range(3):
            before = sent
            await eventually(lambda before=before: sent > before + 50)  # type: ignore[misc]
            await group.stop()
            await group.start()
        stop = True
        await asyncio.gather(*tasks)


async def test_send_timeout_raises_the_last_cause(group: Group) -> None:
    async with AsyncProducer("g", group.address) as producer:
        await producer.send(Message("t", "first"))
        await group.stop()
        with pytest.raises(RmqError, match=r"cannot connect to|no queue that can be written|is away"):
            await producer.send(Message("t", "x"), timeout_s=0.3)


@pytest.mark.parametrize(
    "queue",
    [MessageQueue("t", "broker-a", 99), MessageQueue("t", "never-seen", 0), MessageQueue("other", "broker-a", 0)],
)
async def test_invalid_queue_is_an_error_at_once(queue: MessageQueue, group: Group) -> None:
    async with AsyncProducer("g", group.address, send_timeout_s=LONG_S) as producer:
        with pytest.raises(RouteNotFoundError):
            await asyncio.wait_for(producer.send(Message("t", "x"), queue=queue), 30)


async def test_topic_that_cannot_be_created_is_an_error_at_once(
    embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    group = Group(embedded_server, key_prefix)
    group._listen["auto_create_topic_enable"] = False
    await group.namesrv.start()
    await group.start()
    try:
        async with AsyncProducer("g", group.address, send_timeout_s=LONG_S) as producer:
            with pytest.raises(RouteNotFoundError, match="create the topic first"):
                await asyncio.wait_for(producer.send(Message("nobody-made-it", "x")), 30)
    finally:
        await group.stop()
        await group.namesrv.close()


async def test_replaced_broker_notices_at_once(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    assert group.broker is not None
    epoch = group.broker.parts.state.queue_store.epoch

    def registration(state_version: int) -> RemotingCommand:
        header = RegisterBrokerRequestHeader("broker-a", "127.0.0.1:1", "DefaultCluster", 0)
        body = encode_register_body(TopicConfigTable({}, DataVersion(state_version=state_version)))
        return request(RequestCode.REGISTER_BROKER, header, body)

    intruder = RemotingClient()
    try:
        with pytest.raises(ResponseError, match="stateVersion"):
            await intruder.call(group.address, registration(1 << 62))
        await intruder.call(group.address, registration(epoch - 1))  # not newer: nothing changes
        async with AsyncAdmin(group.address) as admin:
            assert await admin.master_addresses() == [group.broker.address]
            await intruder.call(group.address, registration(epoch + 1))
            assert await admin.master_addresses() == ["127.0.0.1:1"]
        await eventually(
            lambda: any("shows 127.0.0.1:1 as the master" in record.getMessage() for record in caplog.records)
        )
    finally:
        await intruder.close()
