"""A request is repeated because the broker was killed before its answer came: what the first one stored counts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from helpers import BrokerClient, eventually, heartbeat_request, send_request
from processes import RoleProcess, broker, namesrv

from rmq_redis.codes import RequestCode
from rmq_redis.model import MessageExt
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.send import (
    ConsumerSendMsgBackRequestHeader,
    RecallMessageRequestHeader,
    SendMessageResponseHeader,
)
from rmq_redis.protocol.headers.transaction import EndTransactionRequestHeader
from rmq_redis.protocol.ids import parse_offset_msg_id
from rmq_redis.protocol.properties import encode_properties
from rmq_redis.store.embedded import EmbeddedServer

HALF = "TRAN_MSG\x01true\x02PGROUP\x01PG\x02UNIQ_KEY\x01A1\x02"
COMMIT = 8
TIMEOUT_S = 120.0


class Group:
    """A NameServer and a master, which ``kill_master`` replaces: by itself, or by its slave."""

    def __init__(self, store: EmbeddedServer, names: RoleProcess, directory: Path, *, has_slave: bool) -> None:
        self.store = store
        self._names = names.address
        self._directory = directory
        self._master = self._start("--id", "0", "--port", "0")
        self._slave = self._start("--id", "1", "--port", "0") if has_slave else None

    def _start(self, *options: str) -> RoleProcess:
        process = broker(self.store.url, self._names, self._directory, "--lease-s", "1", *options)
        return process.wait_until_serving()

    def client(self) -> BrokerClient:
        """Of the master that there is now."""
        return BrokerClient(self._master.address)

    async def kill_master(self) -> BrokerClient:
        """kill -9; a client of the next master, which takes writes."""
        self._master.kill()
        if self._slave is not None:
            self._master, self._slave = self._slave, None
        else:
            self._master = self._start("--id", "0", "--port", self._master.port)
        client = self.client()

        async def takes() -> bool:
            return (await client.ask(send_request("other"))).code == 0

        await eventually(takes, "the next master takes messages", TIMEOUT_S)
        return client

    def close(self) -> None:
        for process in filter(None, (self._master, self._slave)):
            process.kill()


@pytest.fixture(params=["restart", "slave"])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Group]:
    with EmbeddedServer(tmp_path / "store") as store, namesrv(store.url, tmp_path) as names:
        made = Group(store, names, tmp_path, has_slave=request.param == "slave")
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
async def client(group: Group) -> AsyncIterator[BrokerClient]:
    made = group.client()
    yield made
    await made.close()


def end(sent: SendMessageResponseHeader) -> RemotingCommand:
    offset = parse_offset_msg_id(sent.msg_id)[1]
    return request(RequestCode.END_TRANSACTION, EndTransactionRequestHeader("PG", sent.queue_offset, offset, COMMIT))


async def test_half_message_repeated_after_kill_is_committed_once(group: Group, client: BrokerClient) -> None:
    command = send_request("T", b"half", queue_id=1, properties=HALF, sys_flag=4)
    first = (await client.ok(command)).header(SendMessageResponseHeader)
    successor = await group.kill_master()
    try:
        command = send_request("T", b"half", queue_id=2, properties=HALF, sys_flag=4)
        second = (await successor.ok(command)).header(SendMessageResponseHeader)
        assert (second.queue_id, second.queue_offset, second.transaction_id) == (1, first.queue_offset, "A1")
        await successor.ok(end(second))
        assert (await successor.ask(end(first))).code == 1
        assert [await successor.pull_all("T", queue_id=queue_id) for queue_id in (1, 2)] == [["half"], []]
    finally:
        await successor.close()


async def test_delayed_send_repeated_after_kill_returns_the_first_result(group: Group, client: BrokerClient) -> None:
    due_ms = int(time.time() * 1000) + 3_600_000
    properties = f"UNIQ_KEY\x01A1\x02TIMER_DELIVER_MS\x01{due_ms}\x02"
    answers = [(await client.ok(send_request("T", b"later", queue_id=3, properties=properties)))]
    successor = await group.kill_master()
    try:
        answers.append(await successor.ok(send_request("T", b"later", properties=properties)))
        first, second = (answer.header(SendMessageResponseHeader) for answer in answers)
        assert (second.queue_id, second.queue_offset) == (3, first.queue_offset)
        assert second.recall_handle == first.recall_handle
        recall = RecallMessageRequestHeader("T", second.recall_handle or "", "PG")
        await successor.ok(request(RequestCode.RECALL_MESSAGE, recall))
        with redis.Redis.from_url(group.store.url) as store:
            assert not store.exists("rmq:{broker-a}:scheduled", "rmq:{broker-a}:scheduled-records")
    finally:
        await successor.close()


def give_back(message: MessageExt, level: int) -> RemotingCommand:
    header = ConsumerSendMsgBackRequestHeader(message.commit_log_offset, "G", level)
    return request(RequestCode.CONSUMER_SEND_MSG_BACK, header)


def sent_instead(message: MessageExt, reconsume_times: int, max_reconsume_times: int) -> RemotingCommand:
    """What a consumer sends to the retry topic if it cannot give the message back."""
    properties = message.properties | {"RETRY_TOPIC": "T", "ORIGIN_MESSAGE_ID": message.msg_id, "DELAY": "18"}
    return send_request(
        "%RETRY%G",
        message.body,
        properties=encode_properties(properties),
        reconsume_times=reconsume_times,
        max_reconsume_times=max_reconsume_times,
    )


@pytest.mark.parametrize("way", ["given back", "sent"])
async def test_message_sent_back_again_after_kill_is_one_dead_letter(
    group: Group, client: BrokerClient, way: str
) -> None:
    await client.ok(heartbeat_request("c1", "G", {"T": "*"}))
    await client.ok(send_request("T", b"poison", properties="UNIQ_KEY\x01A1\x02"))
    message = (await client.pull("T", 0)).messages[0]
    await client.ok(give_back(message, -1))
    successor = await group.kill_master()
    try:
        await successor.ok(give_back(message, -1) if way == "given back" else sent_instead(message, 1, 0))
        assert await successor.pull_all("%DLQ%G") == ["poison"]
    finally:
        await successor.close()


@pytest.mark.parametrize("way", ["given back", "sent"])
async def test_message_sent_back_again_after_kill_is_one_retry(group: Group, client: BrokerClient, way: str) -> None:
    await client.ok(heartbeat_request("c1", "G", {"T": "*"}))
    await client.ok(send_request("T", b"poison", properties="UNIQ_KEY\x01A1\x02"))
    message = (await client.pull("T", 0)).messages[0]
    await client.ok(give_back(message, 18))
    successor = await group.kill_master()
    try:
        await successor.ok(give_back(message, 18) if way == "given back" else sent_instead(message, 1, 16))
        with redis.Redis.from_url(group.store.url) as store:
            assert store.zcard("rmq:{broker-a}:scheduled") == 1
            assert store.hlen("rmq:{broker-a}:scheduled-records") == 1
    finally:
        await successor.close()
