"""What several tests need: waiting for a condition, golden bytes, a raw TCP peer, a NameServer that only says yes."""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import json
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.model import TopicRouteData
from rmq_redis.protocol.bodies.base import loads
from rmq_redis.protocol.bodies.route import encode_route
from rmq_redis.protocol.command import RemotingCommand, request, response
from rmq_redis.protocol.frame import CommandDecoder, encode_command
from rmq_redis.protocol.headers.base import Header
from rmq_redis.protocol.headers.pull import PullMessageRequestHeader, PullMessageResponseHeader
from rmq_redis.protocol.headers.route import GetRouteInfoRequestHeader
from rmq_redis.protocol.headers.send import (
    SendMessageRequestHeader,
    SendMessageRequestHeaderV2,
    SendMessageResponseHeader,
)
from rmq_redis.protocol.record import decode_records
from rmq_redis.remoting.client import RemotingClient
from rmq_redis.remoting.connection import Connection
from rmq_redis.remoting.dispatch import Processor
from rmq_redis.remoting.server import RemotingServer

DEADLINE_S = 120.0
"""Until a condition that must come true is given up. Only a failing test waits this long."""
MODEL_EXAMPLES = int(os.environ.get("RMQ_MODEL_EXAMPLES", "4"))
"""Random sequences that each test against a model tries; ``make models`` tries many."""


async def eventually(condition: Callable[[], Any], what: str = "", timeout_s: float = DEADLINE_S) -> Any:
    """Polls ``condition`` (plain or async) until it returns something true, and returns that."""
    deadline = time.monotonic() + timeout_s
    while True:
        value: Any = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout_s:g} s: {what or inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.005)


def json_frame(header: dict[str, Any] | bytes, body: bytes = b"") -> bytes:
    """A frame with a JSON header, made without the code under test; ``header`` as bytes goes out as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return (4 + len(text) + len(body)).to_bytes(4, "big") + len(text).to_bytes(4, "big") + text + body


_SO_ATTACH_FILTER = 26  # of Linux; Python does not have it


def drop_all_packets(receiver: socket.socket) -> None:
    """What comes for this socket is thrown away unseen, by a filter of one instruction (return 0). Linux only."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    receiver.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


class RawPeer:
    """A TCP client that writes bytes and reads commands, and does neither unless told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = CommandDecoder()
        self._commands: list[RemotingCommand] = []

    @classmethod
    async def connect(cls, port: int, *, limit: int = 1 << 16) -> RawPeer:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=limit))

    async def send(self, data: bytes | RemotingCommand) -> None:
        self.writer.write(data if isinstance(data, bytes) else encode_command(data))
        await self.writer.drain()

    async def receive(self, timeout_s: float = DEADLINE_S) -> RemotingCommand:
        """The next command of the server. Raises EOFError when it closed the connection instead."""
        async with asyncio.timeout(timeout_s):
            while not self._commands:
                data = await self.reader.read(1 << 20)
                if not data:
                    raise EOFError
                self._decoder.feed(data, self._commands)
        return self._commands.pop(0)

    async def is_closed_by_server(self, timeout_s: float = DEADLINE_S) -> bool:
        """Whether the server closes the connection, whatever it sends before that."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self.reader.read(1 << 20):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


class FakeNameServer:
    """Answers REGISTER_BROKER and UNREGISTER_BROKER with success and remembers them; has the routes it is given."""

    def __init__(self) -> None:
        self.registrations: list[RemotingCommand] = []
        self.unregistrations: list[RemotingCommand] = []
        self.routes: dict[str, TopicRouteData] = {}
        """What it answers to GET_ROUTEINFO_BY_TOPIC."""
        processors: dict[int, Processor] = {
            RequestCode.REGISTER_BROKER: self._register,
            RequestCode.UNREGISTER_BROKER: self._unregister,
            RequestCode.GET_ROUTEINFO_BY_TOPIC: self._route,
        }
        self._server = RemotingServer(processors)

    def _register(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self.registrations.append(command)
        return response(command)

    def _unregister(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self.unregistrations.append(command)
        return response(command)

    def _route(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        route = self.routes.get(command.header(GetRouteInfoRequestHeader).topic)
        if route is None:
            return response(command, ResponseCode.TOPIC_NOT_EXIST, remark="no route")
        return response(command, body=encode_route(route, standard_json=True))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.port}"

    async def start(self) -> None:
        await self._server.start("127.0.0.1", 0)

    async def close(self) -> None:
        await self._server.close()


# --- requests to a broker --------------------------------------------------------------------------------------------

UNIQ_KEY = "0A000007303918B4AAC2018F3A1B0000"


def send_request(
    topic: str,
    body: bytes = b"hello",
    *,
    queue_id: int = 0,
    tags: str = "",
    properties: str | None = None,
    code: int = RequestCode.SEND_MESSAGE_V2,
    **fields: Any,
) -> RemotingCommand:
    """A send in the header form of its code; ``fields`` are further header fields."""
    if properties is None:
        properties = f"UNIQ_KEY\x01{UNIQ_KEY}\x02" + (f"TAGS\x01{tags}\x02" if tags else "")
    is_v1 = code in (RequestCode.SEND_MESSAGE, RequestCode.SEND_REPLY_MESSAGE)
    kind = SendMessageRequestHeader if is_v1 else SendMessageRequestHeaderV2
    values: dict[str, Any] = {
        "producer_group": "PG",
        "topic": topic,
        "default_topic": "TBW102",
        "default_topic_queue_nums": 4,
        "queue_id": queue_id,
        "sys_flag": 0,
        "born_timestamp": 1700000000000,
        "flag": 0,
        "properties": properties,
    }
    return request(code, kind(**(values | fields)), body)


def pull_request(
    topic: str,
    offset: int,
    *,
    group: str = "G",
    queue_id: int = 0,
    max_msg_nums: int = 32,
    subscription: str | None = "*",
    suspend_ms: int = 0,
    commit: int | None = None,
    **fields: Any,
) -> RemotingCommand:
    """A pull; without ``subscription`` the broker must know it from a heartbeat."""
    sys_flag = (4 if subscription is not None else 0) | (2 if suspend_ms else 0) | (1 if commit is not None else 0)
    values: dict[str, Any] = {
        "consumer_group": group,
        "topic": topic,
        "queue_id": queue_id,
        "queue_offset": offset,
        "max_msg_nums": max_msg_nums,
        "sys_flag": sys_flag,
        "commit_offset": commit or 0,
        "suspend_timeout_millis": suspend_ms,
        "subscription": subscription,
        "expression_type": None if subscription is None else "TAG",
    }
    return request(RequestCode.PULL_MESSAGE, PullMessageRequestHeader(**(values | fields)))


def heartbeat_request(
    client_id: str,
    group: str | None = None,
    subscriptions: dict[str, str] | None = None,
    *,
    producer_group: str | None = None,
    sub_version: int = 1,
    expression_type: str = "TAG",
    **consumer: Any,
) -> RemotingCommand:
    """A heartbeat as Java writes it: ``subscriptions`` is topic -> expression."""
    data: dict[str, Any] = {"clientID": client_id, "producerDataSet": [], "consumerDataSet": []}
    if producer_group is not None:
        data["producerDataSet"] = [{"groupName": producer_group}]
    if group is not None:
        subscribed = [
            {"topic": topic, "subString": tags, "subVersion": sub_version, "expressionType": expression_type}
            for topic, tags in (subscriptions or {}).items()
        ]
        data["consumerDataSet"] = [
            {
                "groupName": group,
                "consumeType": "CONSUME_PASSIVELY",
                "messageModel": "CLUSTERING",
                "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
                "subscriptionDataSet": subscribed,
            }
            | consumer
        ]
    return request(RequestCode.HEART_BEAT, body=json.dumps(data).encode())


class BrokerClient:
    """Asks one broker over one connection, and remembers what the broker asked."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.notified: list[RemotingCommand] = []
        self._client = RemotingClient({RequestCode.NOTIFY_CONSUMER_IDS_CHANGED: self._notify})

    def _notify(self, connection: Connection, command: RemotingCommand) -> None:
        self.notified.append(command)

    async def ask(self, command: RemotingCommand, timeout_s: float = DEADLINE_S) -> RemotingCommand:
        """The response, whatever its code."""
        return await self._client.invoke(self.address, command, timeout_s)

    async def ok(self, command: RemotingCommand) -> RemotingCommand:
        """The response, which must be SUCCESS."""
        return await self._client.call(self.address, command, DEADLINE_S)

    async def oneway(self, command: RemotingCommand) -> None:
        await self._client.invoke_oneway(self.address, command)

    async def get(self, code: int, header: Header | None = None, body: bytes = b"") -> Any:
        """The JSON body of a successful response."""
        return loads((await self.ok(request(code, header, body))).body)

    async def send(self, topic: str, *bodies: str, **options: Any) -> list[SendMessageResponseHeader]:
        """Sends messages, one after the other."""
        answers = [await self.ok(send_request(topic, body.encode(), **options)) for body in bodies]
        return [answer.header(SendMessageResponseHeader) for answer in answers]

    async def pull(self, topic: str, offset: int, **options: Any) -> Pulled:
        return Pulled(await self.ask(pull_request(topic, offset, **options)))

    async def pull_all(self, topic: str, **options: Any) -> list[str]:
        """Bodies of a queue from offset 0 to its end, in as many pulls as it takes."""
        return await self.pull_all_from(topic, 0, **options)

    async def pull_all_from(self, topic: str, offset: int, **options: Any) -> list[str]:
        """Bodies of a queue from an offset to its end."""
        bodies: list[str] = []
        while (pulled := await self.pull(topic, offset, **options)).code == ResponseCode.SUCCESS:
            bodies += pulled.bodies
            offset = pulled.header.next_begin_offset
        assert pulled.code == ResponseCode.PULL_NOT_FOUND
        return bodies

    async def pull_all_patiently(self, topic: str) -> list[str]:
        """As ``pull_all``, from a broker whose connections to the store may still break."""

        async def answered() -> bool:
            while (pulled := await self.pull(topic, sum(map(len, pages)))).code == ResponseCode.SUCCESS:
                pages.append(pulled.bodies)
            assert pulled.code in (ResponseCode.PULL_NOT_FOUND, ResponseCode.SERVICE_NOT_AVAILABLE)
            return pulled.code == ResponseCode.PULL_NOT_FOUND

        pages: list[list[str]] = []
        await eventually(answered, "the broker reads from the store again")
        return [body for page in pages for body in page]

    def pull_later(self, topic: str, offset: int, **options: Any) -> asyncio.Task[Pulled]:
        """A pull that may wait at the broker."""
        return asyncio.get_running_loop().create_task(self.pull(topic, offset, suspend_ms=30_000, **options))

    async def close(self) -> None:
        await self._client.close()


class Pulled:
    """The answer to a pull."""

    def __init__(self, answer: RemotingCommand) -> None:
        self.code = answer.code
        self.remark = answer.remark
        self.answer = answer
        self.messages = decode_records(answer.body)
        self.bodies = [message.text() for message in self.messages]

    @property
    def header(self) -> PullMessageResponseHeader:
        return self.answer.header(PullMessageResponseHeader)

    @property
    def outcome(self) -> tuple[int, int]:
        """(code, nextBeginOffset)"""
        return self.code, self.header.next_begin_offset


StartBroker = Callable[..., Awaitable[Broker]]
"""Starts a broker with settings of its own (fixture ``start_broker``)."""
Connect = Callable[[Broker], BrokerClient]
"""Makes a client of a broker (fixture ``connect``)."""
