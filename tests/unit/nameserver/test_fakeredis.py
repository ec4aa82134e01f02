"""The registry over fakeredis: what plain Redis commands must do, and a NameServer that needs no server process."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from rmq_redis.codes import RequestCode
from rmq_redis.config import NameServerConfig
from rmq_redis.errors import ConfigError, RemoteProtocolError, StoreError
from rmq_redis.model import DataVersion, QueueData, TopicConfig
from rmq_redis.nameserver.nameserver import NameServer
from rmq_redis.protocol.bodies.registration import TopicConfigTable, encode_register_body
from rmq_redis.protocol.bodies.route import decode_route
from rmq_redis.protocol.command import RemotingCommand
from rmq_redis.remoting.client import RemotingClient
from rmq_redis.store.redis.url import without_credentials
from rmq_redis.store.registry.entries import GroupKey, GroupWrite, LiveBroker, check_storable
from rmq_redis.store.registry.routes import RouteStore

A = GroupKey("C", "broker-a")
MASTER = LiveBroker(cluster="C", broker_name="broker-a", broker_id=0, broker_addr="10.0.0.1:10911")
SLAVE = LiveBroker(cluster="C", broker_name="broker-a", broker_id=1, broker_addr="10.0.0.2:10911")
QUEUE = QueueData("broker-a", 4, 4, 6)


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
async def redis(server):
    client = FakeAsyncRedis(server=server)
    yield client
    await client.aclose()


@pytest.fixture
async def store(server):
    route_store = RouteStore(FakeAsyncRedis(server=server), broker_expiry_s=60.0)
    yield route_store
    await route_store.close()


async def write(store, *entries, known_revision="", **changes):
    return await store.update_group(
        A, known_revision, lambda snapshot: GroupWrite(brokers=[(entry, 60_000) for entry in entries], **changes)
    )


async def test_written_group_is_loaded(store):
    revision = await write(store, MASTER, SLAVE, topics={"T": QUEUE}, rewrite=True)
    loaded = await store.load({})
    assert loaded[A].brokers == {0: MASTER, 1: SLAVE}
    assert loaded[A].topics == {"T": QUEUE}
    assert loaded[A].revision == revision != ""
    assert (await store.load({A: revision}))[A].topics is None
    assert await store.load({A: "another"}) == loaded


async def test_every_change_of_topics_has_a_new_revision(store):
    seen = {
        await write(store, MASTER, topics={"T": QUEUE}, rewrite=True),
        await write(store, topics={"U": QUEUE}),
        await write(store, deleted_topics=["T"]),
    }
    assert len(seen) == 3
    assert (await store.load({}))[A].topics == {"U": QUEUE}
    assert await write(store, SLAVE) in seen, "an entry alone does not change them"


async def test_removal_compares_the_address(store, redis):
    await write(store, MASTER, SLAVE, topics={"T": QUEUE}, rewrite=True)
    await write(store, removed={0: "10.9.9.9:1"})
    assert set((await store.load({}))[A].brokers) == {0, 1}
    await write(store, removed={0: MASTER.broker_addr})
    assert set((await store.load({}))[A].brokers) == {1}
    assert await write(store, removed={1: SLAVE.broker_addr}) == ""
    assert await redis.keys("*") == []


async def test_refresh_extends_entries_and_returns_lost_ones(store, redis):
    await write(store, MASTER, topics={"T": QUEUE}, rewrite=True)
    topics_key, broker_key = "rmq:ns:C:topics:broker-a", "rmq:ns:C:broker:broker-a:0"
    await redis.pexpire(topics_key, 5_000)
    assert await store.refresh([(MASTER, 50_000)]) == set()
    assert 5_000 < await redis.pttl(topics_key) <= 60_000
    assert 50_000 < await redis.pttl(broker_key) <= 60_000, "extended, never shortened"
    await redis.pexpire(broker_key, 5_000)
    await store.refresh([(MASTER, 50_000)])
    assert 5_000 < await redis.pttl(broker_key) <= 50_000
    await redis.delete(topics_key)
    assert await store.refresh([(MASTER, 60_000), (SLAVE, 60_000)]) == {A}


async def test_new_group_does_not_inherit_topics_of_an_expired_one(store, redis):
    await write(store, MASTER, topics={"Old": QUEUE}, rewrite=True)
    await redis.delete("rmq:ns:C:broker:broker-a:0")
    assert await store.load({}) == {}
    seen = []
    await store.update_group(A, "", lambda snapshot: seen.append(snapshot) or GroupWrite(brokers=[(SLAVE, 60_000)]))
    assert (seen[0].brokers, seen[0].revision, seen[0].topics) == ({}, "", None)
    assert (await store.load({}))[A].topics is None


async def test_conflicting_write_is_repeated_on_the_new_state(store, server):
    await write(store, MASTER, topics={"T": QUEUE}, rewrite=True)
    seen = []

    async def another_name_server():
        other = RouteStore(FakeAsyncRedis(server=server))
        await write(other, topics={"U": QUEUE})
        await other.close()

    def decide(snapshot):
        seen.append(sorted(snapshot.topics))
        if len(seen) == 1:  # between our reading and our writing; in a thread, for this loop is busy with us
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, another_name_server()).result()
        return GroupWrite(deleted_topics=["T"])

    await store.update_group(A, "", decide)
    assert seen == [["T"], ["T", "U"]]
    assert (await store.load({}))[A].topics == {"U": QUEUE}


async def test_kv_entries_are_stored_and_deleted(store):
    assert await store.load_kv() == {}
    await store.put_kv("a:b", "ä", "1")
    await store.put_kv("n", "k", "")
    assert await store.load_kv() == {"a:b": {"ä": "1"}, "n": {"k": ""}}
    await store.delete_kv("n", "k")
    await store.delete_kv("nope", "k")
    assert await store.load_kv() == {"a:b": {"ä": "1"}}


async def test_unreachable_registry_is_a_store_error(store, server):
    server.connected = False
    for call in (
        store.load({}),
        store.load_kv(),
        store.put_kv("n", "k", "v"),
        store.refresh([(MASTER, 1)]),
        write(store),
    ):
        with pytest.raises(StoreError, match="registry"):
            await call


def test_passwords_of_urls_are_not_shown():
    assert without_credentials("redis://user:secret@host:6379/1?password=secret") == "redis://host:6379/1"
    with pytest.raises(ConfigError) as raised:
        RouteStore.from_url("http://user:secret@host")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("value", ["\ud800", 10**5000], ids=["surrogate", "endless"])
def test_unstorable_value_is_a_remote_protocol_error(value):
    with pytest.raises(RemoteProtocolError):
        check_storable((value,))


async def test_name_server_works_over_fakeredis(server):
    config = NameServerConfig(listen_host="127.0.0.1", listen_port=0)
    first = NameServer(config, store=RouteStore(FakeAsyncRedis(server=server)))
    await first.start()
    remoting = RemotingClient()
    table = TopicConfigTable({"T": TopicConfig(topic_name="T")}, DataVersion(counter=1))
    header = {"brokerName": "broker-a", "brokerAddr": "10.0.0.1:10911", "clusterName": "C", "brokerId": "0"}
    await remoting.call(
        f"127.0.0.1:{first.port}", RemotingCommand(code=103, fields=header, body=encode_register_body(table))
    )
    await first.close()

    second = NameServer(config, store=RouteStore(FakeAsyncRedis(server=server)))
    await second.start()
    answer = await remoting.call(f"127.0.0.1:{second.port}", RemotingCommand(code=105, fields={"topic": "T"}))
    assert decode_route(answer.body).broker_datas[0].broker_addrs == {0: "10.0.0.1:10911"}
    await remoting.close()
    await second.close()


async def test_heartbeat_while_the_registry_is_offline_is_kept(server, redis):
    name_server = NameServer(
        NameServerConfig(listen_host="127.0.0.1", listen_port=0, sweep_period_s=3600),
        store=RouteStore(FakeAsyncRedis(server=server)),
    )
    await name_server.start()
    remoting = RemotingClient()
    header = {"brokerName": "broker-a", "brokerAddr": "10.0.0.1:10911", "clusterName": "C", "brokerId": "0"}
    key = "rmq:ns:C:broker:broker-a:0"

    async def ttl_is_above_5_s():
        return await redis.pttl(key) > 5_000

    async def call(code):
        await remoting.call(f"127.0.0.1:{name_server.port}", RemotingCommand(code=code, fields=header))

    await call(RequestCode.REGISTER_BROKER)
    await eventually(ttl_is_above_5_s)
    await redis.pexpire(key, 5_000)
    server.connected = False
    await call(RequestCode.BROKER_HEARTBEAT)
    await eventually(lambda: name_server._registry.up is False)
    server.connected = True
    await eventually(ttl_is_above_5_s)
    await remoting.close()
    await name_server.close()


async def eventually(condition):
    async with asyncio.timeout(120):
        while True:
            value = condition()
            if await value if asyncio.iscoroutine(value) else value:
                return
            await asyncio.sleep(0.01)
