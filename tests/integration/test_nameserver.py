"""NameServers in this process over a real Valkey, spoken to as brokers and clients do."""

from __future__ import annotations

import ast
import asyncio
import json
import random
import zlib

import nameserver_support
import pytest
import redis
from nameserver_support import NEVER_S, Broker, addresses, addresses_are, keys_of, until

from rmq_redis.codes import RequestCode as Code
from rmq_redis.config import NameServerConfig
from rmq_redis.errors import ConfigError, NoPermissionError, QueryNotFoundError, ResponseError, TopicNotExistError
from rmq_redis.nameserver.nameserver import NameServer
from rmq_redis.protocol.bodies.base import dumps
from rmq_redis.protocol.bodies.route import decode_cluster_info
from rmq_redis.protocol.command import RemotingCommand, SerializeType
from rmq_redis.protocol.frame import encode_command

shared_server, registry = nameserver_support.shared_server, nameserver_support.registry
start_nameserver, peers = nameserver_support.start_nameserver, nameserver_support.peers


# --- answers -----------------------------------------------------------------------------------------------------


async def test_route_is_returned_in_both_forms(registry, start_nameserver, peers):
    server, broker, slave, client = (
        await start_nameserver(registry),
        peers(Broker),
        peers(Broker, broker_id=1, port=2),
        peers(),
    )
    await broker.register(server, "T", "TBW102", enableActingMaster="false")
    await slave.register(server, "T")
    body = (await client.call(server, Code.GET_ROUTEINFO_BY_TOPIC, topic="T")).body
    assert json.loads(body) == {
        "brokerDatas": [
            {"brokerAddrs": {"0": "10.0.0.1:10911", "1": "10.0.0.1:2"}, "brokerName": "broker-a", "cluster": "C"}
        ],
        "filterServerTable": {},
        "queueDatas": [
            {"brokerName": "broker-a", "perm": 6, "readQueueNums": 4, "topicSysFlag": 0, "writeQueueNums": 4}
        ],
    }
    old = (await client.call(server, Code.GET_ROUTEINFO_BY_TOPIC, topic="T", version=400)).body
    assert b'{0:"10.0.0.1:10911",1:"10.0.0.1:2"}' in old
    for word in (b"true", b"false", b"null", b" "):
        assert word not in old
    assert ast.literal_eval(old.decode())["queueDatas"][0]["perm"] == 6
    asked = {"topic": "T", "acceptStandardJsonOnly": "true", "version": 1}
    assert (await client.call(server, Code.GET_ROUTEINFO_BY_TOPIC, **asked)).body == body
    assert (await client.call(server, Code.GET_ROUTEINFO_BY_TOPIC, topic="T", version=401)).body == body


async def test_unknown_topic_fails_with_17_and_the_remark_clients_expect(registry, start_nameserver, peers):
    server, client = await start_nameserver(registry), peers()
    with pytest.raises(TopicNotExistError, match="No topic route info in name server for the topic: Nope\n"):
        await client.call(server, Code.GET_ROUTEINFO_BY_TOPIC, topic="Nope")


async def test_clusters_and_topic_lists_are_returned(registry, start_nameserver, peers):
    server, client = await start_nameserver(registry), peers()
    await peers(Broker, "broker-b", 0, 3).register(server, "T", "OnlyB")
    await peers(Broker, "broker-a", 1, 2).register(server)
    await peers(Broker, "broker-a", 0, 1).register(server, "T", flag=3)
    await peers(Broker, "broker-x", 0, 4, cluster="D").register(server, "X", flag=2)
    info = await client.call(server, Code.GET_BROKER_CLUSTER_INFO)
    assert b'"brokerAddrs":{0:"10.0.0.1:1",1:"10.0.0.1:2"}' in info.body
    assert decode_cluster_info(info.body).clusters == {"C": ["broker-a", "broker-b"], "D": ["broker-x"]}

    async def topic_list(code, **fields):
        return (await client.json(server, code, **fields))["topicList"]

    assert await topic_list(Code.GET_ALL_TOPIC_LIST_FROM_NAMESERVER) == ["OnlyB", "T", "X"]
    assert await topic_list(Code.GET_TOPICS_BY_CLUSTER, cluster="C") == ["OnlyB", "T"]
    assert await topic_list(Code.GET_TOPICS_BY_CLUSTER, cluster="Nope") == []
    assert await topic_list(Code.GET_UNIT_TOPIC_LIST) == ["T"]
    assert await topic_list(Code.GET_HAS_UNIT_SUB_TOPIC_LIST) == ["T", "X"]
    assert await topic_list(Code.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST) == ["X"]
    system = await client.json(server, Code.GET_SYSTEM_TOPIC_LIST_FROM_NS)
    assert system == {"brokerAddr": "10.0.0.1:1", "topicList": ["C", "D", "broker-a", "broker-b", "broker-x"]}
    group = await client.call(server, Code.GET_BROKER_MEMBER_GROUP, clusterName="C", brokerName="broker-a")
    assert group.body == (
        b'{"brokerMemberGroup":{"brokerAddrs":{0:"10.0.0.1:1",1:"10.0.0.1:2"},"brokerName":"broker-a","cluster":"C"}}'
    )


async def test_empty_name_server_returns_empty_lists(registry, start_nameserver, peers):
    server, client = await start_nameserver(registry), peers()
    assert await client.json(server, Code.GET_ALL_TOPIC_LIST_FROM_NAMESERVER) == {"topicList": []}
    assert await client.json(server, Code.GET_SYSTEM_TOPIC_LIST_FROM_NS) == {"topicList": []}
    assert (await client.json(server, Code.GET_BROKER_CLUSTER_INFO))["clusterAddrTable"] == {}


async def test_unknown_code_fails_with_3_in_the_requests_serialization(registry, start_nameserver, peers):
    server, client = await start_nameserver(registry), peers()
    with pytest.raises(ResponseError, match="request type 999 not supported"):
        await client.call(server, 999)
    command = RemotingCommand(
        code=Code.GET_ROUTEINFO_BY_TOPIC, fields={"topic": "Nope"}, serialize_type=SerializeType.ROCKETMQ
    )
    answer = await client.remoting.invoke(f"127.0.0.1:{server.port}", command)
    assert (answer.code, answer.serialize_type) == (17, SerializeType.ROCKETMQ)


# --- registration ------------------------------------------------------------------------------------------------


async def test_slave_gets_its_masters_address_and_the_order_topics(registry, start_nameserver, peers):
    server, master, slave, client = (
        await start_nameserver(registry),
        peers(Broker),
        peers(Broker, broker_id=1, port=2),
        peers(),
    )
    alone = await slave.register(server)
    assert alone.ext_fields == {}
    assert alone.body == b""
    assert (await master.register(server, "T")).ext_fields == {}
    await client.call(server, Code.PUT_KV_CONFIG, namespace="ORDER_TOPIC_CONFIG", key="T", value="broker-a:4")
    answer = await slave.register(server)
    assert answer.ext_fields == {"masterAddr": "10.0.0.1:10911", "haServerAddr": "10.0.0.1:10912"}
    assert json.loads(answer.body) == {"table": {"T": "broker-a:4"}}


async def test_every_form_of_register_body_is_accepted(registry, start_nameserver, peers):
    server, client = await start_nameserver(registry), peers()

    def block(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    version = b'{"counter":1,"stateVersion":0,"timestamp":1700000000000}'
    compressed = zlib.compress(
        block(version) + (1).to_bytes(4, "big") + block(b"Z 4 8 6 SINGLE_TAG {}") + block(b"[]") + bytes(4)
    )
    crc = zlib.crc32(compressed) & 0x7FFFFFFF
    await peers(Broker, "z", port=1).register(server, body=compressed, compressed="false", bodyCrc32=crc)
    assert (await client.route(server, "Z")).queue_datas[0].write_queue_nums == 8
    bare = dumps({"dataVersion": {"counter": 1}, "topicConfigTable": {"Old": {"readQueueNums": 2, "perm": 6}}})
    await peers(Broker, "old", port=2).register(server, body=bare, version=36)
    assert (await client.route(server, "Old")).queue_datas[0].read_queue_nums == 2
    await peers(Broker, "none", port=3).register(server, body=b"")
    assert "none" in decode_cluster_info((await client.call(server, Code.GET_BROKER_CLUSTER_INFO)).body).brokers
    with pytest.raises(ResponseError, match="crc32 not match") as raised:
        await peers(Broker, "z", port=1).register(server, body=compressed, bodyCrc32=crc ^ 1)
    assert raised.value.code == 1


@pytest.mark.parametrize(
    ("header", "body", "remark"),
    [
        ({"brokerName": ""}, None, "broker_name is empty"),
        ({"brokerAddr": " "}, None, "broker_addr is empty"),
        ({"clusterName": ""}, None, "cluster_name is empty"),
        ({"brokerId": "-1"}, None, "brokerId -1 is negative"),
        ({"brokerId": "abc"}, None, "brokerId"),
        ({}, b"{", "malformed JSON"),
        ({}, b"[]", "must be a JSON object"),
        ({}, b"{}", "topicConfigSerializeWrapper"),
        ({}, b"\x78\x9cgarbage", "malformed compressed body"),
        ({}, b'{"topicConfigSerializeWrapper":{"topicConfigTable":{"T":7}}}', "'T' is not an object"),
        (
            {},
            b'{"topicConfigSerializeWrapper":{"dataVersion":{"counter":1%s}}}' % (b"0" * 5000),
            "cannot be stored|DataVersion|malformed",
        ),
        ({}, b'{"topicConfigSerializeWrapper":{"topicConfigTable":{"\\ud800":{}}}}', "stored|malformed"),
    ],
)
async def test_malformed_registration_fails_with_1_and_affects_no_other(
    registry, start_nameserver, peers, header, body, remark
):
    server, client = await start_nameserver(registry), peers()
    await peers(Broker, "good", port=9).register(server, "T")
    with pytest.raises(ResponseError, match=remark) as raised:
        await peers(Broker).register(server, "Bad", body=body, **header)
    assert raised.value.code == 1
    assert "Traceback" not in raised.value.remark
    assert addresses(await client.route(server)) == {"good": {0: "10.0.0.1:9"}}
    await until(lambda: "rmq:ns:C:broker:good:0" in keys_of(registry), "the good one is written")


async def test_missing_header_field_fails_with_1_and_is_named(registry, start_nameserver, peers):
    server, client = await start_nameserver(registry), peers()
    for code, field in [
        (Code.GET_ROUTEINFO_BY_TOPIC, "topic"),
        (Code.REGISTER_BROKER, "brokerName"),
        (Code.UNREGISTER_BROKER, "brokerName"),
        (Code.QUERY_DATA_VERSION, "brokerName"),
        (Code.PUT_KV_CONFIG, "namespace"),
        (Code.GET_TOPICS_BY_CLUSTER, "cluster"),
        (Code.WIPE_WRITE_PERM_OF_BROKER, "brokerName"),
        (Code.DELETE_TOPIC_IN_NAMESRV, "topic"),
    ]:
        with pytest.raises(ResponseError, match=field) as raised:
            await client.call(server, code)
        assert raised.value.code == 1


async def test_garbage_closes_only_its_own_connection(registry, start_nameserver, peers):
    server, client = await start_nameserver(registry), peers()
    await peers(Broker).register(server, "T")
    noise = random.Random(7)
    for _ in range(50):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(noise.randbytes(noise.randint(1, 400)))
        writer.write_eof()
        await reader.read()
        writer.close()
    for code in [*Code, 999]:
        frame = encode_command(RemotingCommand(code=code, fields={"topic": "\x00" * 9}, body=noise.randbytes(64)))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(frame)
        await reader.readexactly(4)
        writer.close()
    assert addresses(await client.route(server)) == {"broker-a": {0: "10.0.0.1:10911"}}


async def test_data_version_query_and_heartbeat_work(registry, start_nameserver, peers):
    server, broker = await start_nameserver(registry), peers(Broker)
    version = dumps(broker.version)
    answer = await broker.call(server, Code.QUERY_DATA_VERSION, version, **broker.header)
    assert (answer.ext_fields, answer.body) == ({"changed": "true"}, b"")
    await broker.register(server, "T")
    answer = await broker.call(server, Code.QUERY_DATA_VERSION, version, **broker.header)
    assert answer.ext_fields == {"changed": "false"}
    assert json.loads(answer.body) == json.loads(version)
    answer = await broker.call(server, Code.QUERY_DATA_VERSION, b'{"counter":2}', **broker.header)
    assert answer.ext_fields == {"changed": "true"}
    assert (await broker.call(server, Code.BROKER_HEARTBEAT, **broker.header)).code == 0


@pytest.mark.parametrize("code", [Code.BROKER_HEARTBEAT, Code.QUERY_DATA_VERSION, Code.REGISTER_BROKER])
async def test_registrations_and_heartbeats_extend_the_keys(registry, start_nameserver, peers, code):
    server, broker = await start_nameserver(registry, broker_expiry_s=60.0, sweep_period_s=NEVER_S), peers(Broker)
    await broker.register(server, "T")
    keys = {"rmq:ns:C:broker:broker-a:0", "rmq:ns:C:topics:broker-a"}
    await until(lambda: keys <= set(keys_of(registry)), "written")
    with redis.Redis(port=registry.port) as client:
        for key in keys:
            client.pexpire(key, 30_000)
    if code == Code.REGISTER_BROKER:
        await broker.register(server, "T")
    else:
        await broker.call(server, code, dumps(broker.version), **broker.header)
    await until(lambda: all(keys_of(registry)[key] > 30_000 for key in keys), "extended")


async def test_unregister_removes_the_broker(registry, start_nameserver, peers):
    first, second = await start_nameserver(registry), await start_nameserver(registry)
    broker, slave, client = peers(Broker), peers(Broker, broker_id=1, port=2), peers()
    for server in (first, second):
        await broker.register(server, "T")
        await slave.register(server)
    await broker.call(first, Code.UNREGISTER_BROKER, **(broker.header | {"brokerAddr": "10.9.9.9:1"}))
    assert addresses(await client.route(first)) == {"broker-a": {0: "10.0.0.1:10911", 1: "10.0.0.1:2"}}
    await broker.call(first, Code.UNREGISTER_BROKER, **broker.header)
    assert addresses(await client.route(first)) == {"broker-a": {1: "10.0.0.1:2"}}
    # The second still has a connection to it, but the broker itself said that it goes.
    await until(lambda: addresses_are(client, second, {"broker-a": {1: "10.0.0.1:2"}}), "the other one drops it too")
    await slave.call(first, Code.UNREGISTER_BROKER, **slave.header)
    assert await client.route(first) is None
    await until(lambda: not any(":broker" in key or ":topics" in key for key in keys_of(registry)), "no keys are left")


# --- topics, KV, settings ----------------------------------------------------------------------------------------


async def test_topic_changes_apply_on_every_name_server(registry, start_nameserver, peers):
    first, second = (
        await start_nameserver(registry, sweep_period_s=NEVER_S),
        await start_nameserver(registry, sweep_period_s=NEVER_S),
    )
    broker, client = peers(Broker), peers()
    await broker.register(first, "T", "U")
    await until(lambda: client.route(second, "U"), "the other one learns it")

    await client.call(first, Code.DELETE_TOPIC_IN_NAMESRV, topic="U", clusterName="Nope")
    assert await client.route(first, "U")
    await client.call(first, Code.DELETE_TOPIC_IN_NAMESRV, topic="U", clusterName="C")
    assert await client.route(first, "U") is None
    await until(lambda: addresses_are(client, second, {}, "U"), "deleted there too")

    body = dumps({"queueDatas": [{"brokerName": "broker-a", "readQueueNums": 2, "writeQueueNums": 2, "perm": 6}]})
    await client.call(first, Code.REGISTER_TOPIC_IN_NAMESRV, body, topic="Given")
    assert await client.route(first, "Given")
    await until(lambda: client.route(second, "Given"), "registered there too")

    async def perm(server):
        return (await client.route(server)).queue_datas[0].perm

    async def perm_is(server, value):
        return await perm(server) == value

    answer = await client.call(first, Code.WIPE_WRITE_PERM_OF_BROKER, brokerName="broker-a")
    assert answer.ext_fields == {"wipeTopicCount": "2"}
    assert await perm(first) == 4
    await until(lambda: perm_is(second, 4), "write-protected there too")
    answer = await client.call(second, Code.ADD_WRITE_PERM_OF_BROKER, brokerName="broker-a")
    assert answer.ext_fields == {"addTopicCount": "2"}
    await until(lambda: perm_is(first, 6), "and given back from there")


async def test_kv_config_is_stored_listed_and_deleted(registry, start_nameserver, peers):
    first = await start_nameserver(registry, sweep_period_s=NEVER_S)
    second = await start_nameserver(registry, order_message_enable=False, sweep_period_s=NEVER_S)
    client = peers()
    await peers(Broker).register(first, "T")
    entry = {"namespace": "ORDER_TOPIC_CONFIG", "key": "T"}
    with pytest.raises(QueryNotFoundError):
        await client.call(first, Code.GET_KV_CONFIG, **entry)
    with pytest.raises(QueryNotFoundError):
        await client.call(first, Code.GET_KVLIST_BY_NAMESPACE, namespace="ORDER_TOPIC_CONFIG")
    assert (await client.route(first)).order_topic_conf is None
    await client.call(first, Code.PUT_KV_CONFIG, value="broker-a:4", **entry)
    assert (await client.call(first, Code.GET_KV_CONFIG, **entry)).ext_fields == {"value": "broker-a:4"}
    assert (await client.route(first)).order_topic_conf == "broker-a:4"

    await until(lambda: client.call(second, Code.GET_KV_CONFIG, **entry), "the other one has it")
    assert await client.json(second, Code.GET_KVLIST_BY_NAMESPACE, namespace="ORDER_TOPIC_CONFIG") == {
        "table": {"T": "broker-a:4"}
    }
    await until(lambda: client.route(second), "the route is there")
    assert (await client.route(second)).order_topic_conf is None, "orderMessageEnable is off there"
    assert keys_of(registry)["rmq:ns:kv:ORDER_TOPIC_CONFIG"] == -1

    await client.call(second, Code.DELETE_KV_CONFIG, **entry)
    with pytest.raises(QueryNotFoundError):
        await client.call(second, Code.GET_KV_CONFIG, **entry)

    async def gone():
        return (await client.route(first)).order_topic_conf is None

    await until(gone, "the order is gone from the route of the first")
    with pytest.raises(ResponseError, match="no value") as raised:
        await client.call(first, Code.PUT_KV_CONFIG, **entry)
    assert raised.value.code == 1


async def test_settings_are_returned_and_updated(registry, start_nameserver, peers):
    server, client = await start_nameserver(registry, order_message_enable=False), peers()
    await peers(Broker).register(server, "T")
    await client.call(server, Code.PUT_KV_CONFIG, namespace="ORDER_TOPIC_CONFIG", key="T", value="broker-a:4")

    async def settings():
        text = (await client.call(server, Code.GET_NAMESRV_CONFIG)).body.decode()
        return dict(line.split("=", 1) for line in text.splitlines())

    before = await settings()
    assert before["orderMessageEnable"] == "false"
    assert before["scanNotActiveBrokerInterval"] == "10000"
    body = b"#comment\norderMessageEnable=true\nscanNotActiveBrokerInterval=5000\n"
    await client.call(server, Code.UPDATE_NAMESRV_CONFIG, body)
    assert await settings() == before | {"orderMessageEnable": "true", "scanNotActiveBrokerInterval": "5000"}
    assert (await client.route(server)).order_topic_conf == "broker-a:4"
    for text in (b"kvConfigPath=/etc/passwd", b"listenPort=1", b"nonsense=1"):
        with pytest.raises(NoPermissionError, match=text.split(b"=")[0].decode()):
            await client.call(server, Code.UPDATE_NAMESRV_CONFIG, b"orderMessageEnable=false\n" + text)
    for text in (b"scanNotActiveBrokerInterval=0", b"orderMessageEnable=perhaps", b"junk", b"\xff"):
        with pytest.raises(ResponseError) as raised:
            await client.call(server, Code.UPDATE_NAMESRV_CONFIG, text)
        assert raised.value.code == 1
    assert (await settings())["orderMessageEnable"] == "true", "all or nothing"


def test_name_server_needs_a_registry_and_valid_periods():
    with pytest.raises(ConfigError, match="registry is not set"):
        NameServer(NameServerConfig())
    with pytest.raises(ConfigError, match=r"registry: '\*\*\*' is not a Redis URL"):
        NameServer(NameServerConfig(registry="http://user:secret@x"))
    with pytest.raises(ConfigError, match="sweep_period_s is 0"):
        NameServer(NameServerConfig(registry="redis://x", sweep_period_s=0))
