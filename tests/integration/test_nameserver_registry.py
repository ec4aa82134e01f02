"""What several NameServers and their registry do when something dies, over a real Valkey."""

from __future__ import annotations

import asyncio
import logging

import nameserver_support
import pytest
import redis
from nameserver_support import NEVER_S, Broker, addresses, addresses_are, keys_of, until

from rmq_redis.codes import RequestCode as Code
from rmq_redis.errors import ServiceNotAvailableError
from rmq_redis.store.embedded import EmbeddedServer, free_port
from rmq_redis.store.registry.entries import GroupKey

shared_server, registry = nameserver_support.shared_server, nameserver_support.registry
start_nameserver, peers = nameserver_support.start_nameserver, nameserver_support.peers
own_registry = nameserver_support.own_registry

BROKER_KEY, TOPICS_KEY = "rmq:ns:C:broker:broker-a:0", "rmq:ns:C:topics:broker-a"
BROKER_A = {"broker-a": {0: "10.0.0.1:10911"}}


async def test_registry_entries_expire(registry, start_nameserver, peers):
    server, broker = await start_nameserver(registry, broker_expiry_s=60.0), peers(Broker)
    await broker.register(server, "T", "U")
    await until(lambda: BROKER_KEY in keys_of(registry), "the broker is written")
    ttls = keys_of(registry)
    assert 0 < ttls[BROKER_KEY] <= 60_000
    assert 0 < ttls[TOPICS_KEY] <= 60_000
    assert {key for key, ttl in ttls.items() if ttl == -1} == {"rmq:ns:brokers"}
    with redis.Redis(port=registry.port, decode_responses=True) as client:
        assert sorted(client.hkeys(TOPICS_KEY)) == ["#revision", "T", "U"]
        assert client.zrange("rmq:ns:brokers", 0, -1) == ["C:broker-a:0"]


async def test_shorter_timeout_of_a_broker_is_its_ttl(registry, start_nameserver, peers):
    server = await start_nameserver(registry, broker_expiry_s=60.0)
    await peers(Broker).register(server, "T", heartbeatTimeoutMillis=10_000)
    ttls = await until(lambda: BROKER_KEY in keys_of(registry) and keys_of(registry), "the broker is written")
    assert 0 < ttls[BROKER_KEY] <= 10_000


async def test_names_with_colons_are_kept_apart(registry, start_nameserver, peers):
    first = await start_nameserver(registry)
    names = [("c:d", "a"), ("c", "d:a"), ("%3A", "ü b"), ("kv", "broker:x:0")]
    for port, (cluster, name) in enumerate(names, 1):
        await peers(Broker, name, 0, port, cluster=cluster).register(first, "T")
    await until(lambda: len([key for key in keys_of(registry) if ":broker:" in key]) == len(names), "all are written")
    second = await start_nameserver(registry)
    client = peers()
    expected = {name: {0: f"10.0.0.1:{port}"} for port, (_, name) in enumerate(names, 1)}
    assert addresses(await client.route(second)) == expected
    clusters = (await client.json_body(second, Code.GET_BROKER_CLUSTER_INFO))["clusterAddrTable"]
    assert clusters == {cluster: [name] for cluster, name in names}


# --- several NameServers -----------------------------------------------------------------------------------------


async def test_two_name_servers_return_the_same(registry, start_nameserver, peers):
    first, second = await start_nameserver(registry), await start_nameserver(registry)
    client = peers()
    await peers(Broker, "broker-c", 0, 1).register(second, "T", "C")
    await peers(Broker, "broker-a", 2, 2).register(first)
    await peers(Broker, "broker-b", 0, 3).register(first, "T", "B")
    await peers(Broker, "broker-a", 0, 4).register(second, "A", "T")
    await peers(Broker, "broker-a", 1, 5).register(first)
    questions = [
        *((Code.GET_ROUTEINFO_BY_TOPIC, {"topic": topic, "version": v}) for topic in "TABC" for v in (1, 479)),
        (Code.GET_BROKER_CLUSTER_INFO, {}),
        (Code.GET_ALL_TOPIC_LIST_FROM_NAMESERVER, {}),
        (Code.GET_SYSTEM_TOPIC_LIST_FROM_NS, {}),
        (Code.GET_BROKER_MEMBER_GROUP, {"clusterName": "C", "brokerName": "broker-a"}),
    ]

    async def alike():
        for code, fields in questions:
            one, other = [await client.call(server, code, **fields) for server in (first, second)]
            if one.body != other.body:
                return False
        return len(addresses(await client.route(first))) == 3

    await until(alike, "both have heard of everything and answer the same bytes")
    third = await start_nameserver(registry)
    for code, fields in questions:
        assert (await client.call(third, code, **fields)).body == (await client.call(first, code, **fields)).body


async def test_closed_connection_removes_the_broker_on_both_at_once(registry, start_nameserver, peers):
    first = await start_nameserver(registry, sweep_period_s=NEVER_S)
    second = await start_nameserver(registry, sweep_period_s=NEVER_S)
    broker, slave, client = peers(Broker), peers(Broker, broker_id=1, port=2), peers()
    for server in (first, second):
        await slave.register(server)
    await broker.register(first, "T")
    both = {"broker-a": {0: "10.0.0.1:10911", 1: "10.0.0.1:2"}}
    await until(lambda: addresses_are(client, second, both), "the other one learns it")
    broker.hang_up(first)
    for server in (first, second):
        await until(lambda server=server: addresses_are(client, server, {"broker-a": {1: "10.0.0.1:2"}}), "dropped")
    assert BROKER_KEY not in keys_of(registry)
    assert TOPICS_KEY in keys_of(registry), "the slave still has the topics"


async def test_killed_broker_is_removed_on_both_name_servers(registry, start_nameserver, peers):
    first = await start_nameserver(registry, sweep_period_s=NEVER_S)
    second = await start_nameserver(registry, sweep_period_s=NEVER_S)
    broker, client = peers(Broker), peers()
    for server in (first, second):
        await broker.register(server, "T")
    await until(lambda: BROKER_KEY in keys_of(registry), "written")
    for connection in list(broker.remoting.connections.values()):
        connection.abort()
    for server in (first, second):
        await until(lambda server=server: addresses_are(client, server, {}), "dropped")
    await until(lambda: not [key for key in keys_of(registry) if key != "rmq:ns:brokers"], "its keys are gone")
    for server in (first, second):
        assert await client.route(server) is None


async def test_broker_that_lost_one_name_server_is_restored(registry, start_nameserver, peers):
    first = await start_nameserver(registry, sweep_period_s=NEVER_S)
    second = await start_nameserver(registry, sweep_period_s=NEVER_S)
    broker, client = peers(Broker), peers()
    for server in (first, second):
        await broker.register(server, "T")
    await until(lambda: BROKER_KEY in keys_of(registry), "written")
    with redis.Redis(port=registry.port) as spy, spy.pubsub() as events:
        events.subscribe("rmq:ns:events")
        broker.hang_up(first)

        def removal_was_published():
            message = events.get_message(timeout=0.01)
            return message and message["type"] == "message" and b'"removed"' in message["data"]

        await until(removal_was_published, "the first one drops it and says so")
    await until(lambda: addresses_are(client, first, BROKER_A), "and learns it again from the second")
    assert addresses(await client.route(second)) == BROKER_A
    await until(lambda: {BROKER_KEY, TOPICS_KEY} <= set(keys_of(registry)), "its keys are back")
    broker.hang_up(second)
    for server in (first, second):
        await until(lambda server=server: addresses_are(client, server, {}), "now it is gone")


async def test_closing_an_older_connection_removes_no_broker(registry, start_nameserver, peers):
    server = await start_nameserver(registry, sweep_period_s=NEVER_S)
    broker, same_again, client = peers(Broker), peers(Broker), peers()
    await broker.register(server, "T")
    await same_again.register(server, "T")
    broker.hang_up(server)
    await until(lambda: len(server._server.connections) == 1, "the server has seen the end")
    assert addresses(await client.route(server)) == BROKER_A
    same_again.hang_up(server)
    await until(lambda: addresses_are(client, server, {}), "the newer connection counts")


async def test_promoted_slave_is_master_on_both_name_servers(registry, start_nameserver, peers):
    first = await start_nameserver(registry, sweep_period_s=NEVER_S)
    second = await start_nameserver(registry, sweep_period_s=NEVER_S)
    master, slave, client = peers(Broker), peers(Broker, broker_id=1, port=2), peers()
    for server in (first, second):
        await master.register(server, "T")
        await slave.register(server)
    for server in (first, second):
        master.hang_up(server)
    for server in (first, second):
        await until(lambda server=server: addresses_are(client, server, {"broker-a": {1: "10.0.0.1:2"}}), "slave alone")
    slave.broker_id = 0
    await slave.register(first, "T")
    for server in (first, second):
        await until(lambda server=server: addresses_are(client, server, {"broker-a": {0: "10.0.0.1:2"}}), "took over")
    await slave.register(second, "T")
    await until(lambda: "rmq:ns:C:broker:broker-a:1" not in keys_of(registry), "the old id is gone")


# --- silence -----------------------------------------------------------------------------------------------------


async def test_silent_broker_expires_on_both(registry, start_nameserver, peers):
    settings = {"broker_expiry_s": 1.0, "sweep_period_s": 0.1}
    first, second = await start_nameserver(registry, **settings), await start_nameserver(registry, **settings)
    broker, client = peers(Broker), peers()

    async def known_to_both():
        await broker.register(first, "T")
        return await addresses_are(client, second, BROKER_A)

    await until(known_to_both, "the other one learns it")
    for server in (first, second):
        await until(lambda server=server: addresses_are(client, server, {}), "expired")
    await until(lambda: keys_of(registry) == {}, "the index is swept too")
    assert broker.connected_to(first)


async def test_broker_registered_at_one_name_server_stays_on_the_other(registry, start_nameserver, peers):
    first = await start_nameserver(registry, broker_expiry_s=1.0, sweep_period_s=0.05)
    second = await start_nameserver(registry, broker_expiry_s=60.0, sweep_period_s=0.05)
    broker, client = peers(Broker), peers()
    await broker.register(first, "T")
    await broker.register(second, "T")

    def only_learned():
        member = first._table.member(GroupKey("C", "broker-a"), 0)
        return member is not None and member.source is None

    await until(only_learned, "the first one has not heard it for too long itself")
    for _ in range(10):
        assert addresses(await client.route(first)) == BROKER_A
        await asyncio.sleep(0.05)
    assert broker.connected_to(first)


# --- restarts ----------------------------------------------------------------------------------------------------


async def test_restarted_name_server_has_routes_before_any_heartbeat(registry, start_nameserver, peers):
    first = await start_nameserver(registry)
    broker, client = peers(Broker), peers()
    await broker.register(first, "T")
    await client.call(first, Code.PUT_KV_CONFIG, namespace="N", key="k", value="v")
    await first.close()  # its end of the broker's connection closes: the broker is not dropped
    assert not broker.connected_to(first)
    second = await start_nameserver(registry)
    assert addresses(await client.route(second)) == BROKER_A
    assert (await client.call(second, Code.GET_KV_CONFIG, namespace="N", key="k")).ext_fields == {"value": "v"}


async def test_last_changes_are_written_at_close(registry, start_nameserver, peers):
    server = await start_nameserver(registry)
    for port in range(1, 30):
        await peers(Broker, f"broker-{port}", 0, port).register(server, "T")
    await server.close()
    assert len([key for key in keys_of(registry) if ":broker:" in key]) == 29


async def test_heartbeat_after_restart_binds_broker_to_its_connection(registry, start_nameserver, peers):
    first = await start_nameserver(registry)
    broker, client = peers(Broker), peers()
    await broker.register(first, "T")
    await first.close()
    second = await start_nameserver(registry, sweep_period_s=NEVER_S)
    await broker.call(second, Code.BROKER_HEARTBEAT, **broker.header)
    assert addresses(await client.route(second)) == BROKER_A
    broker.hang_up(second)
    await until(lambda: addresses_are(client, second, {}), "dropped at once")


# --- the registry is away ----------------------------------------------------------------------------------------


async def test_routes_are_restored_to_an_empty_registry(own_registry, tmp_path, start_nameserver, peers, caplog):
    caplog.set_level(logging.INFO, "rmq_redis.nameserver")
    first, second = await start_nameserver(own_registry), await start_nameserver(own_registry)
    broker, other, client = peers(Broker), peers(Broker, "broker-b", 0, 2), peers()
    await broker.register(first, "T")
    await other.register(second, "T")
    everything = BROKER_A | {"broker-b": {0: "10.0.0.1:2"}}
    for server in (first, second):
        await until(lambda server=server: addresses_are(client, server, everything), "known to both")

    def lines(text):
        return [record for record in caplog.records if text in record.getMessage()]

    own_registry.kill()
    await until(lambda: len(lines("not available")) == 2, "both notice")
    for server in (first, second):
        assert addresses(await client.route(server)) == everything
    late = peers(Broker, "broker-c", 0, 3)
    assert (await late.register(first, "T", "Late")).code == 0
    assert await client.route(first, "Late")
    with pytest.raises(ServiceNotAvailableError):
        await client.call(first, Code.PUT_KV_CONFIG, namespace="N", key="k", value="v")

    successor = EmbeddedServer(tmp_path / "second", port=own_registry.port)
    successor.start()
    try:
        brokers = {f"rmq:ns:C:broker:broker-{name}:0" for name in "abc"}
        topics = {f"rmq:ns:C:topics:broker-{name}" for name in "abc"}
        await until(lambda: brokers | topics <= set(keys_of(successor)), "all is written again, nobody spoke")
        everything |= {"broker-c": {0: "10.0.0.1:3"}}
        for server in (first, second):
            await until(lambda server=server: addresses_are(client, server, everything), "in step again")
        await client.call(first, Code.PUT_KV_CONFIG, namespace="N", key="k", value="v")
        await until(lambda: client.call(second, Code.GET_KV_CONFIG, namespace="N", key="k"), "events flow again")
        assert len(lines("not available")) == 2, "one warning of each"
        assert len(lines("available again")) == 2, "one line of each"
        assert {record.levelname for record in lines("not available")} == {"WARNING"}
        assert {record.levelname for record in lines("available again")} == {"INFO"}
    finally:
        successor.kill()


async def test_without_registry_silent_brokers_expire_and_learned_stay(own_registry, start_nameserver, peers):
    settings = {"broker_expiry_s": 3.0, "sweep_period_s": 0.1}
    first, second = await start_nameserver(own_registry, **settings), await start_nameserver(own_registry, **settings)
    broker, client = peers(Broker), peers()

    async def known_to_both():
        await broker.register(first, "T")
        return await addresses_are(client, second, BROKER_A)

    await until(known_to_both, "the other one learns it")
    own_registry.kill()
    await until(lambda: addresses_are(client, first, {}), "silent for too long")
    assert addresses(await client.route(second)) == BROKER_A, "it cannot know"
    own_registry.start()
    await until(lambda: addresses_are(client, second, {}), "now it does")


async def test_broker_removed_while_registry_is_offline_stays_removed(own_registry, start_nameserver, peers):
    first, second = await start_nameserver(own_registry), await start_nameserver(own_registry)
    broker, client = peers(Broker), peers()
    await broker.register(first, "T", "U")
    await until(lambda: addresses_are(client, second, BROKER_A), "the other one learns it")
    other = peers(Broker, "broker-b", 0, 2)
    await other.register(first, "T", "U")
    await until(lambda: "rmq:ns:C:broker:broker-b:0" in keys_of(own_registry), "written")
    with redis.Redis(port=own_registry.port) as client_of_registry:
        client_of_registry.bgrewriteaof()
        await until(lambda: not client_of_registry.info("persistence")["aof_rewrite_in_progress"], "on disk")
    own_registry.kill()
    broker.hang_up(first)
    await until(lambda: addresses_are(client, first, {"broker-b": {0: "10.0.0.1:2"}}), "dropped")
    await client.call(first, Code.DELETE_TOPIC_IN_NAMESRV, topic="U")
    own_registry.start()
    assert BROKER_KEY in keys_of(own_registry), "the registry has kept what it had"
    await until(lambda: BROKER_KEY not in keys_of(own_registry), "the removal was not forgotten")
    for server in (first, second):
        await until(lambda server=server: addresses_are(client, server, {"broker-b": {0: "10.0.0.1:2"}}), "gone")
        await until(lambda server=server: addresses_are(client, server, {}, "U"), "nor the topic")


async def test_name_server_starts_without_a_registry(tmp_path, start_nameserver, peers, caplog):
    server_of_registry = EmbeddedServer(tmp_path, port=free_port())
    caplog.set_level(logging.INFO, "rmq_redis.nameserver")
    server, broker, client = await start_nameserver(server_of_registry), peers(Broker), peers()
    assert "not available" in caplog.text
    await broker.register(server, "T")
    assert addresses(await client.route(server)) == BROKER_A
    server_of_registry.start()
    try:
        await until(lambda: {BROKER_KEY, TOPICS_KEY} <= set(keys_of(server_of_registry)), "written when it comes up")
        assert "available again" in caplog.text
    finally:
        server_of_registry.kill()


async def test_frozen_registry_delays_no_response(own_registry, start_nameserver, peers, caplog):
    import os
    import signal

    caplog.set_level(logging.INFO, "rmq_redis.nameserver")
    server, broker, client = await start_nameserver(own_registry), peers(Broker), peers()
    os.kill(own_registry.pid, signal.SIGSTOP)
    try:
        await broker.register(server, "T")
        assert addresses(await client.route(server)) == BROKER_A
        await until(lambda: "not available" in caplog.text, "it is noticed", timeout_s=30)
        assert addresses(await client.route(server)) == BROKER_A
    finally:
        os.kill(own_registry.pid, signal.SIGCONT)
    await until(lambda: BROKER_KEY in keys_of(own_registry), "written when it goes on", timeout_s=30)


# --- healing -----------------------------------------------------------------------------------------------------


async def test_sweep_repairs_missed_events(registry, start_nameserver, peers):
    first = await start_nameserver(registry, sweep_period_s=0.1)
    broker, client = peers(Broker), peers()
    await broker.register(first, "T")
    await until(lambda: {BROKER_KEY, TOPICS_KEY} <= set(keys_of(registry)), "written")
    second = await start_nameserver(registry, sweep_period_s=0.1)
    with redis.Redis(port=registry.port) as client_of_registry:
        client_of_registry.flushall()
        await until(lambda: {BROKER_KEY, TOPICS_KEY} <= set(keys_of(registry)), "said again by who hears the broker")
        client_of_registry.delete("rmq:ns:brokers")
        await until(lambda: "rmq:ns:brokers" in keys_of(registry), "the index too")
        client_of_registry.hdel(TOPICS_KEY, "T")
        client_of_registry.hset(TOPICS_KEY, "#revision", "by hand")
        for server in (first, second):
            await until(lambda server=server: addresses_are(client, server, {}), "the registry's topics count")
        await first.close()
        client_of_registry.flushall()

    async def no_brokers():
        return (await client.json_body(second, Code.GET_BROKER_CLUSTER_INFO))["brokerAddrTable"] == {}

    await until(no_brokers, "nobody hears the broker any more")


async def test_topics_lost_by_the_registry_are_rewritten_at_next_heartbeat(registry, start_nameserver, peers):
    server, broker = await start_nameserver(registry, sweep_period_s=NEVER_S), peers(Broker)
    await broker.register(server, "T")
    await until(lambda: TOPICS_KEY in keys_of(registry), "written")
    with redis.Redis(port=registry.port) as client_of_registry:
        client_of_registry.delete(TOPICS_KEY)
        await broker.call(server, Code.BROKER_HEARTBEAT, **broker.header)
        await until(lambda: client_of_registry.hexists(TOPICS_KEY, "T"), "written again")


async def test_malformed_registry_entries_are_ignored(registry, start_nameserver, peers):
    first = await start_nameserver(registry, sweep_period_s=0.1)
    broker, client = peers(Broker), peers()
    await broker.register(first, "T")
    await until(lambda: {BROKER_KEY, TOPICS_KEY} <= set(keys_of(registry)), "written")
    with redis.Redis(port=registry.port) as client_of_registry:
        client_of_registry.zadd(
            "rmq:ns:brokers", {"rubbish": 9e12, "C:x:0": 9e12, "C:y:zero": 9e12, b"\xff:\xff:1": 9e12}
        )
        client_of_registry.set("rmq:ns:C:broker:x:0", b"\xff not JSON")
        client_of_registry.hset(TOPICS_KEY, "Odd", "{}")
        client_of_registry.hset(TOPICS_KEY, "#revision", "by hand")
        client_of_registry.publish("rmq:ns:events", b"\xff")
        client_of_registry.publish("rmq:ns:events", b"{}")
    second = await start_nameserver(registry)
    for server in (first, second):
        assert addresses(await client.route(server)) == BROKER_A
        assert await client.route(server, "Odd") is None
    await peers(Broker, "broker-b", 0, 2).register(first, "New")
    await until(lambda: client.route(second, "New"), "events are still heard")
