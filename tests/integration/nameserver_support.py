"""NameServers and hand-made brokers and clients for tests of the NameServer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest
import redis

from rmq_redis.codes import RequestCode as Code
from rmq_redis.config import NameServerConfig
from rmq_redis.errors import ResponseError, TopicNotExistError
from rmq_redis.model import DataVersion, TopicConfig
from rmq_redis.nameserver.nameserver import NameServer
from rmq_redis.protocol.bodies.base import loads
from rmq_redis.protocol.bodies.registration import TopicConfigTable, encode_register_body
from rmq_redis.protocol.bodies.route import decode_route
from rmq_redis.protocol.command import RemotingCommand
from rmq_redis.remoting.client import RemotingClient
from rmq_redis.store.embedded import EmbeddedServer

NEVER_S = 3600.0
"""A sweep that does not come: what a test sees then was not the sweeper's work."""


async def until(condition: Callable[[], object], what: str, timeout_s: float = 60.0):
    """Polls a condition (plain or async; errors that a client gets count as "not yet") until it holds."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = condition()
            if asyncio.iscoroutine(last):
                last = await last
            if last:
                return last
        except ResponseError as error:
            last = error
        await asyncio.sleep(0.01)
    pytest.fail(f"not within {timeout_s:g} s: {what} (last: {last!r})")


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def registry(shared_server):
    """An empty registry."""
    with redis.Redis(port=shared_server.port) as client:
        client.flushall()
    return shared_server


@pytest.fixture
def own_registry(tmp_path):
    """A registry that the test may kill."""
    server = EmbeddedServer(tmp_path / "first")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def start_nameserver():
    """Starts NameServers; all are closed at the end."""
    servers: list[NameServer] = []

    async def start(registry, **settings) -> NameServer:
        defaults = {"listen_host": "127.0.0.1", "listen_port": 0, "registry": registry.url}
        server = NameServer(NameServerConfig(**(defaults | settings)))
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.close()


class Peer:
    """A broker or a client: one connection per NameServer."""

    def __init__(self) -> None:
        self.remoting = RemotingClient()

    async def call(self, server: NameServer, code: int, body: bytes = b"", *, version: int = 479, **fields):
        fields = {key: str(value) for key, value in fields.items()}
        command = RemotingCommand(code=code, fields=fields, body=body, version=version)
        return await self.remoting.call(f"127.0.0.1:{server.port}", command)

    async def json(self, server: NameServer, code: int, **fields):
        return json.loads((await self.call(server, code, **fields)).body)

    async def json_body(self, server: NameServer, code: int, **fields):
        """As ``json``, of a body that need not be strict JSON."""
        return loads((await self.call(server, code, **fields)).body)

    async def route(self, server: NameServer, topic: str = "T", **options):
        """The route, or None."""
        try:
            answer = await self.call(server, Code.GET_ROUTEINFO_BY_TOPIC, topic=topic, **options)
        except TopicNotExistError:
            return None
        return decode_route(answer.body)

    def hang_up(self, server: NameServer) -> None:
        self.remoting.disconnect(f"127.0.0.1:{server.port}")

    def connected_to(self, server: NameServer) -> bool:
        connection = self.remoting.connections.get(f"127.0.0.1:{server.port}")
        return connection is not None and not connection.closed


class Broker(Peer):
    def __init__(self, name="broker-a", broker_id=0, port=10911, *, cluster="C"):
        super().__init__()
        self.name, self.broker_id, self.cluster = name, broker_id, cluster
        self.addr = f"10.0.0.1:{port}"
        self.version = DataVersion(counter=1, timestamp=1_700_000_000_000)

    @property
    def header(self):
        return {
            "brokerName": self.name,
            "brokerAddr": self.addr,
            "clusterName": self.cluster,
            "brokerId": self.broker_id,
        }

    async def register(self, server, *topics, queues=4, perm=6, flag=0, body=None, **options):
        if body is None:
            table = {
                topic: TopicConfig(
                    topic_name=topic, read_queue_nums=queues, write_queue_nums=queues, perm=perm, topic_sys_flag=flag
                )
                for topic in topics
            }
            body = encode_register_body(TopicConfigTable(table, self.version))
        ha_port = int(self.addr.rpartition(":")[2]) + 1
        fields = self.header | {"haServerAddr": f"10.0.0.1:{ha_port}"} | options
        return await self.call(server, Code.REGISTER_BROKER, body, **fields)


@pytest.fixture
async def peers():
    """Makes brokers and clients whose connections are closed at the end."""
    made: list[Peer] = []

    def make(kind=Peer, *args, **options):
        made.append(kind(*args, **options))
        return made[-1]

    yield make
    for peer in made:
        await peer.remoting.close()


def keys_of(registry) -> dict[str, int]:
    """Keys of the registry and their TTL in ms."""
    with redis.Redis(port=registry.port) as client:
        return {key.decode(): client.pttl(key) for key in client.keys("*")}


def addresses(route):
    return {broker.broker_name: dict(broker.broker_addrs) for broker in route.broker_datas} if route else {}


async def addresses_are(client, server, expected, topic="T"):
    return addresses(await client.route(server, topic)) == expected
