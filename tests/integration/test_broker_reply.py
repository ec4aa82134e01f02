"""Replies: pushed to the client that asked, and answered as RocketMQ does when that cannot be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers import BrokerClient, Connect, StartBroker, eventually, heartbeat_request, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.broker.produce import reply as reply_module
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.protocol.command import RemotingCommand, request, response
from rmq_redis.protocol.headers.admin import TopicRequestHeader
from rmq_redis.protocol.headers.send import ReplyMessageRequestHeader, SendMessageResponseHeader
from rmq_redis.protocol.ids import parse_offset_msg_id
from rmq_redis.protocol.properties import decode_properties
from rmq_redis.remoting.connection import Connection

TOPIC = "DefaultCluster_REPLY_TOPIC"


class Requester(BrokerClient):
    """A client with a producer heartbeat that notes the replies, and answers them with ``code`` (None: not at all)."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.replies: list[RemotingCommand] = []
        self.code: int | None = ResponseCode.SUCCESS
        self._client._dispatcher.processors = {RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT: self._arrived}

    def _arrived(self, connection: Connection, command: RemotingCommand) -> RemotingCommand | None:
        self.replies.append(command)
        return None if self.code is None else response(command, self.code, remark="as told")

    async def introduce(self, client_id: str = "p1") -> None:
        await self.ok(heartbeat_request(client_id, producer_group="PG"))


def reply(to: str | None = "p1", body: bytes = b"answer", *, topic: str = TOPIC, **options: Any) -> RemotingCommand:
    properties = "MSG_TYPE\x01reply\x02CORRELATION_ID\x01c-1\x02TTL\x013000\x02UNIQ_KEY\x01R1\x02"
    if to is not None:
        properties += f"REPLY_TO_CLIENT\x01{to}\x02"
    given = {"code": RequestCode.SEND_REPLY_MESSAGE_V2, "properties": properties} | options
    return send_request(topic, body, **given)


@pytest.fixture
async def requester(broker: Broker) -> Any:
    client = Requester(broker.address)
    await client.introduce()
    yield client
    await client.close()


@pytest.mark.parametrize("code", [RequestCode.SEND_REPLY_MESSAGE, RequestCode.SEND_REPLY_MESSAGE_V2])
async def test_reply_reaches_the_requesting_client(client: BrokerClient, requester: Requester, code: int) -> None:
    answer = await client.ok(reply(code=code, flag=7, queue_id=-1))
    header = answer.header(SendMessageResponseHeader)
    assert (header.msg_id, header.queue_id, header.queue_offset) == ("0", 0, 0)
    assert (header.region, header.trace_on) == ("DefaultRegion", "true")
    (pushed,) = requester.replies
    assert (pushed.body, pushed.is_oneway) == (b"answer", False)
    fields = pushed.header(ReplyMessageRequestHeader)
    assert (fields.producer_group, fields.topic, fields.queue_id, fields.flag) == ("PG", TOPIC, 0, 7)
    assert (fields.born_timestamp, fields.store_host) == (1700000000000, client.address)
    assert fields.born_host.startswith("127.0.0.1:")
    properties = decode_properties(fields.properties or "")
    assert properties.pop("PUSH_REPLY_TIME") == str(fields.store_timestamp)
    assert properties == {
        "MSG_TYPE": "reply",
        "CORRELATION_ID": "c-1",
        "TTL": "3000",
        "UNIQ_KEY": "R1",
        "REPLY_TO_CLIENT": "p1",
    }
    assert await client.pull_all(TOPIC) == []  # not stored, unless wanted


async def test_undeliverable_reply_is_refused_with_the_reason(
    client: BrokerClient, requester: Requester, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = await client.ask(reply("p2"))
    assert (nobody.code, nobody.remark) == (1, "push reply message fail, channel of <p2> not found.")
    unnamed = await client.ask(reply(None))
    assert (unnamed.code, unnamed.remark) == (1, "reply message properties[REPLY_TO_CLIENT] is null")
    requester.code = ResponseCode.SYSTEM_ERROR
    refused = await client.ask(reply())
    assert refused.code == 1
    assert "as told" in (refused.remark or "")
    monkeypatch.setattr(reply_module, "PUSH_TIMEOUT_S", 0.05)
    requester.code = None
    silent = await client.ask(reply())
    assert silent.code == 1
    assert "push reply message to p1 fail" in (silent.remark or "")
    await requester.close()

    async def gone() -> bool:
        return "not found" in ((await client.ask(reply())).remark or "")

    await eventually(gone)


async def test_newest_connection_of_a_client_gets_its_replies(
    client: BrokerClient, requester: Requester, broker: Broker
) -> None:
    newer = Requester(broker.address)
    try:
        await newer.introduce()
        await client.ok(reply())
        assert (len(requester.replies), len(newer.replies)) == (0, 1)
        connections = len(broker._server.connections)  # type: ignore[union-attr]
        await requester.close()
        await eventually(lambda: len(broker._server.connections) < connections)  # type: ignore[union-attr]
        await client.ok(reply())
        assert len(newer.replies) == 2
    finally:
        await newer.close()


async def test_concurrent_replies_do_not_wait_for_each_other(client: BrokerClient, requester: Requester) -> None:
    requester.code = None
    stuck = asyncio.ensure_future(client.ask(reply()))
    await eventually(lambda: requester.replies)
    requester.code = ResponseCode.SUCCESS
    answers = await asyncio.gather(*(client.ask(reply(body=b"%d" % number)) for number in range(20)))
    assert {answer.code for answer in answers} == {0}
    assert sorted(int(command.body) for command in requester.replies[1:]) == list(range(20))
    assert not stuck.done()
    stuck.cancel()


async def test_replies_are_stored_if_configured(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(store_reply_message_enable=True)
    client, requester = connect(broker), Requester(broker.address)
    try:
        await requester.introduce()
        answer = (await client.ok(reply())).header(SendMessageResponseHeader)
        message = (await client.pull(TOPIC, 0)).messages[0]
        assert (message.text(), message.msg_id, message.queue_offset) == ("answer", "R1", answer.queue_offset)
        assert message.commit_log_offset == parse_offset_msg_id(answer.msg_id)[1]
        assert (await client.ask(reply("p2", b"to nobody"))).code == 1
        assert await client.pull_all(TOPIC) == ["answer", "to nobody"]  # as Apache's broker has it
    finally:
        await requester.close()


async def test_invalid_replies_are_refused(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(max_message_bytes=100)
    client = connect(broker)
    for command, code in (
        (reply(queue_id=5), 29),
        (reply(topic="TRANS_CHECK_MAX_TIME_TOPIC"), 16),
        (reply(topic="illegal topic"), 29),
        (reply(body=b"x" * 101), 13),
    ):
        assert (await client.ask(command)).code == code
    deleted = await client.ask(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader(TOPIC)))
    assert deleted.code != 0  # a system topic
    slave = connect(await start_broker(broker_id=1))
    assert (await slave.ask(reply())).code == 14
