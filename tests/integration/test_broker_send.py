"""Sending: what is stored, what the answer says, automatic creation, and every refusal (commands.md section 3)."""

from __future__ import annotations

import asyncio
import json
import zlib
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py
from helpers import UNIQ_KEY, BrokerClient, Connect, FakeNameServer, RawPeer, StartBroker, eventually, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.config import BrokerConfig
from rmq_redis.errors import ConfigError
from rmq_redis.hosts import offset_msg_id
from rmq_redis.protocol.batch import encode_batch_item
from rmq_redis.protocol.bodies.base import loads
from rmq_redis.protocol.bodies.registration import decode_register_body
from rmq_redis.protocol.command import RemotingCommand, SerializeType, request
from rmq_redis.protocol.frame import encode_command
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader, TopicRequestHeader
from rmq_redis.protocol.headers.send import SendMessageResponseHeader
from rmq_redis.protocol.ids import parse_offset_msg_id
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.store.group.queue import split_physical_offset

SEND_CODES = [RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE]


async def topic_config(client: BrokerClient, topic: str) -> Any:
    return await client.get(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader(topic))


# --- what is stored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", SEND_CODES)
@pytest.mark.parametrize("serialize_type", list(SerializeType))
async def test_send_response_tells_queue_and_offset_of_the_stored_message(
    broker: Broker, client: BrokerClient, code: int, serialize_type: SerializeType
) -> None:
    for expected_offset in range(2):
        command = send_request(
            "T",
            "标签".encode(),
            queue_id=2,
            code=code,
            properties=f"KEYS\x01k\x02TAGS\x01TagA\x02UNIQ_KEY\x01{UNIQ_KEY}\x02WAIT\x01true\x02",
            flag=5,
            reconsume_times=0,
            max_reconsume_times=0,
        )
        command.serialize_type = serialize_type
        answer = await client.ok(command)
        assert answer.serialize_type == serialize_type
        header = answer.header(SendMessageResponseHeader)
        assert (header.queue_id, header.queue_offset) == (2, expected_offset)
        assert (header.region, header.trace_on) == ("DefaultRegion", "true")
    (_, message) = (await client.pull("T", 0, queue_id=2)).messages
    assert (message.topic, message.body, message.flag) == ("T", "标签".encode(), 5)
    assert (message.queue_id, message.queue_offset) == (2, 1)
    assert message.properties == {
        "KEYS": "k",
        "TAGS": "TagA",
        "UNIQ_KEY": UNIQ_KEY,
        "WAIT": "true",
        "CLUSTER": "DefaultCluster",
        "MSG_REGION": "DefaultRegion",
        "TRACE_ON": "true",
    }
    assert message.born_timestamp_ms == 1700000000000
    assert message.store_timestamp_ms > message.born_timestamp_ms
    assert message.store_host == broker.address
    assert message.born_host.startswith("127.0.0.1:")
    assert message.offset_msg_id == header.msg_id
    assert parse_offset_msg_id(header.msg_id)[0] == broker.address
    assert message.reconsume_times == 0


async def test_offsets_are_contiguous_with_many_sends_in_flight(client: BrokerClient) -> None:
    await client.send("T", "first")
    answers = await asyncio.gather(*(client.ok(send_request("T", b"m%d" % i, queue_id=i % 4)) for i in range(400)))
    headers = [answer.header(SendMessageResponseHeader) for answer in answers]
    for queue_id in range(4):
        offsets = [header.queue_offset for header in headers if header.queue_id == queue_id]
        assert offsets == list(range(queue_id == 0, 100 + (queue_id == 0)))
    assert len({header.msg_id for header in headers}) == 400


async def test_compressed_body_is_stored_unchanged(client: BrokerClient) -> None:
    body = zlib.compress(b"x" * 10_000)
    await client.ok(send_request("T", body, sys_flag=1))
    (message,) = (await client.pull("T", 0)).messages
    assert message.body == b"x" * 10_000
    assert message.sys_flag == 1


async def test_broker_sets_the_host_bits_of_the_sys_flag(client: BrokerClient) -> None:
    await client.ok(send_request("T", sys_flag=0x30))
    await client.ok(send_request("T", encode_batch_item(b"a", b""), sys_flag=0x30, batch=True))
    assert [message.sys_flag for message in (await client.pull("T", 0)).messages] == [0, 0]


async def test_message_without_unique_key_gets_one(client: BrokerClient) -> None:
    for properties in (None, "", "A\x01b", "MY_UNIQ_KEY\x01x\x02"):
        await client.ok(send_request("T", properties=properties or ""))
    messages = (await client.pull("T", 0)).messages
    keys = [message.properties["UNIQ_KEY"] for message in messages]
    assert {len(key) for key in keys} == {32}
    assert len(set(keys)) == 4
    assert messages[2].properties["A"] == "b"


async def test_properties_reserved_for_the_broker_are_replaced(client: BrokerClient) -> None:
    forged = "POP_CK\x01x\x02MSG_REGION\x01Mars\x02TRACE_ON\x01no\x02CLUSTER\x01Other\x02A\x01b\x02"
    await client.ok(send_request("T", properties=forged))
    await client.ok(send_request("T", encode_batch_item(b"b", forged.encode()), batch=True))
    for message in (await client.pull("T", 0)).messages:
        del message.properties["UNIQ_KEY"]
        assert message.properties == {
            "CLUSTER": "DefaultCluster",
            "MSG_REGION": "DefaultRegion",
            "TRACE_ON": "true",
            "A": "b",
        }


async def test_negative_queue_id_lets_the_broker_choose(client: BrokerClient) -> None:
    headers = await client.send("T", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", queue_id=-1)
    assert {header.queue_id for header in headers} == {0, 1, 2, 3}


async def test_oneway_sends_are_stored_without_a_response(client: BrokerClient) -> None:
    await client.send("T", "first")
    for i in range(3):
        await client.oneway(send_request("T", b"m%d" % i))
    await client.oneway(send_request("T", b""))  # refused, and not answered either
    header = (await client.send("T", "last"))[0]
    assert header.queue_offset == 4
    assert (await client.pull("T", 1)).bodies == ["m0", "m1", "m2", "last"]


async def test_body_at_the_limit_is_stored(client: BrokerClient) -> None:
    await client.ok(send_request("T", bytes(4 * 1024 * 1024)))
    assert len((await client.pull("T", 0)).messages[0].body) == 4 * 1024 * 1024


async def test_store_times_never_decrease(client: BrokerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await client.send("T", "a")
    clock = iter([2_000_000_000.0, 1_999_999_000.0, 2_000_000_001.0])
    monkeypatch.setattr("rmq_redis.broker.produce.send.time", SimpleNamespace(time=lambda: next(clock)))
    await client.send("T", "b", "c", "d")
    times = [message.store_timestamp_ms for message in (await client.pull("T", 1)).messages]
    assert times == [2_000_000_000_000, 2_000_000_000_000, 2_000_000_001_000]


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", SEND_CODES)
@pytest.mark.parametrize("serialize_type", list(SerializeType))
async def test_batch_is_stored_as_messages_with_consecutive_offsets(
    broker: Broker, client: BrokerClient, code: int, serialize_type: SerializeType
) -> None:
    await client.send("T", "before")
    items = [
        encode_batch_item(b"a", b"UNIQ_KEY\x01A1\x02TAGS\x01TagA\x02", 1),
        encode_batch_item(b"b", "UNIQ_KEY\x01A2\x02标\x01签".encode(), 2),
        encode_batch_item(b"c", b"", 3),
    ]
    command = send_request("T", b"".join(items), code=code, batch=True, properties="UNIQ_KEY\x01WHOLE\x02")
    command.serialize_type = serialize_type
    header = (await client.ok(command)).header(SendMessageResponseHeader)
    assert header.queue_offset == 1
    pulled = await client.pull("T", 1)
    assert pulled.bodies == ["a", "b", "c"]
    assert [m.queue_offset for m in pulled.messages] == [1, 2, 3]
    assert [m.flag for m in pulled.messages] == [1, 2, 3]
    assert header.msg_id.split(",") == [m.offset_msg_id for m in pulled.messages]
    assert [m.properties["UNIQ_KEY"] for m in pulled.messages[:2]] == ["A1", "A2"]
    assert len(pulled.messages[2].properties["UNIQ_KEY"]) == 32
    assert pulled.messages[1].properties["标"] == "签"
    assert pulled.messages[0].tags == "TagA"
    assert (await client.pull("T", 0, subscription="TagA")).bodies == ["a"]


@pytest.mark.parametrize(
    ("properties", "tags"),
    [
        (b"TAGS\x01A\x02UNIQ_KEY\x011\x02", "A"),
        (b"UNIQ_KEY\x011\x02TAGS\x01A\x02WAIT\x01true\x02", "A"),
        (b"UNIQ_KEY\x011\x02MYTAGS\x01B\x02TAGS\x01A\x02", "A"),
        (b"UNIQ_KEY\x011\x02MYTAGS\x01A\x02", ""),
        (b"UNIQ_KEY\x011\x02", ""),
    ],
    ids=["first", "last but one", "after a name that ends so", "only a name that ends so", "none"],
)
async def test_message_of_a_batch_is_found_by_its_tags(client: BrokerClient, properties: bytes, tags: str) -> None:
    other = encode_batch_item(b"other", b"UNIQ_KEY\x012\x02TAGS\x01B\x02")
    await client.ok(send_request("T", encode_batch_item(b"a", properties) + other, batch=True))
    pulled = await client.pull("T", 0)
    assert [message.tags for message in pulled.messages] == [tags, "B"]
    assert (await client.pull("T", 0, subscription="B")).bodies == ["other"]
    assert (await client.pull("T", 0, subscription="A || B")).bodies == (["a", "other"] if tags else ["other"])


async def test_batch_marked_by_m_1_of_client_cpp_is_recognised(client: BrokerClient) -> None:
    command = send_request("T", encode_batch_item(b"a", b"UNIQ_KEY\x01A\x02") * 2)
    command.ext_fields["m"] = "1"
    assert len((await client.ok(command)).header(SendMessageResponseHeader).msg_id.split(",")) == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"no batch", 13, id="garbage"),
        pytest.param(encode_batch_item(b"a", b"")[:-1], 13, id="truncated"),
        pytest.param(encode_batch_item(b"a", b"") + encode_batch_item(b"", b""), 13, id="empty-item"),
        pytest.param(encode_batch_item(b"a", b"DELAY\x013\x02"), 13, id="delay"),
        pytest.param(encode_batch_item(b"a", b"TIMER_DELAY_SEC\x013\x02"), 13, id="timer"),
        pytest.param(encode_batch_item(b"a", b"TRAN_MSG\x01true\x02"), 16, id="transaction"),
        pytest.param(encode_batch_item(b"a", b"A\x01\xff\x02"), 13, id="invalid-utf8"),
        pytest.param(encode_batch_item(b"a", b"UNIQ_KEY\x01\xff\x02"), 13, id="invalid-utf8-with-key"),
        pytest.param(encode_batch_item(b"a", b"A\x01" + b"x" * 32760 + b"\x02"), 13, id="properties"),
    ],
)
async def test_invalid_batch_is_refused_as_a_whole(client: BrokerClient, body: bytes, code: int) -> None:
    await client.send("T", "before")
    good = encode_batch_item(b"good", b"UNIQ_KEY\x01A1\x02")
    answer = await client.ask(send_request("T", good + body, batch=True))
    assert answer.code == code, answer.remark
    assert (await client.pull("T", 0)).bodies == ["before"]


async def test_batch_to_a_retry_topic_is_refused(client: BrokerClient) -> None:
    answer = await client.ask(send_request("%RETRY%G", encode_batch_item(b"a", b""), batch=True))
    assert answer.code == 13


# --- automatic creation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "created"), [(4, 4), (1, 1), (16, 8), (0, 1), (-3, 1)])
async def test_new_topic_has_at_most_the_queues_of_its_template(
    client: BrokerClient, fake_namesrv: FakeNameServer, wanted: int, created: int
) -> None:
    await client.ok(send_request("New", default_topic_queue_nums=wanted))
    config = await topic_config(client, "New")
    assert (config["readQueueNums"], config["writeQueueNums"], config["perm"]) == (created, created, 6)
    # The NameServer heard of it before the answer.
    table = decode_register_body(fake_namesrv.registrations[-1].body, sender_version=479).topic_config_table
    assert table["New"].write_queue_nums == created


@pytest.mark.parametrize("nums", [1, 2, 4, 8, 16])
async def test_default_topic_queue_nums_applies_to_the_first_send(
    start_broker: StartBroker, connect: Connect, nums: int
) -> None:
    asked = connect(await start_broker(default_topic_queue_nums=nums))
    await asked.ok(send_request("New"))
    assert (await topic_config(asked, "New"))["writeQueueNums"] == nums
    await asked.ok(send_request("Asked", default_topic_queue_nums=3))
    assert (await topic_config(asked, "Asked"))["writeQueueNums"] == min(3, nums)
    # Clients choose among the first 4 queues of the template: none of these may be missing in the topic.
    assert min(4, (await topic_config(asked, "TBW102"))["writeQueueNums"]) <= nums


@pytest.mark.parametrize("nums", [0, -1, 1025])
def test_default_topic_queue_nums_out_of_range_is_refused(nums: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 1024"):
        Broker(BrokerConfig(store="redis://h:1/0", default_topic_queue_nums=nums))


async def test_template_topic_keeps_its_inherit_bit(client: BrokerClient) -> None:
    await client.send("New", "x")
    assert (await topic_config(client, "TBW102"))["perm"] == 7
    assert (await topic_config(client, "TBW102"))["writeQueueNums"] == 8


async def test_concurrent_first_sends_create_the_topic_once(client: BrokerClient) -> None:
    version = (await client.get(RequestCode.GET_ALL_TOPIC_CONFIG))["dataVersion"]["counter"]
    await asyncio.gather(*(client.ok(send_request("New", b"%d" % i)) for i in range(50)))
    assert (await client.get(RequestCode.GET_ALL_TOPIC_CONFIG))["dataVersion"]["counter"] == version + 1
    assert len((await client.pull("New", 0, max_msg_nums=100)).messages) == 50


async def test_new_retry_topic_has_one_queue(client: BrokerClient) -> None:
    await client.send("%RETRY%SomeGroup", "x")
    config = await topic_config(client, "%RETRY%SomeGroup")
    assert (config["readQueueNums"], config["writeQueueNums"], config["perm"]) == (1, 1, 6)


@pytest.mark.parametrize("template", ["nonesuch", "SELF_TEST_TOPIC", ""])
async def test_topic_is_not_created_without_an_inheritable_template(client: BrokerClient, template: str) -> None:
    answer = await client.ask(send_request("New", default_topic=template))
    assert answer.code == 17
    assert "'New'" in (answer.remark or "")
    assert (await client.ask(request(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader("New")))).code == 17


async def test_automatic_topic_creation_can_be_disabled(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(auto_create_topic_enable=False))
    assert (await client.ask(send_request("New"))).code == 17
    assert (await client.ask(request(RequestCode.GET_TOPIC_CONFIG, TopicRequestHeader("TBW102")))).code == 17
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("New", 1, 1, 6)))
    await client.send("New", "x")


async def test_retry_topic_of_a_group_that_may_not_be_created_is_refused(
    start_broker: StartBroker, connect: Connect
) -> None:
    client = connect(await start_broker(auto_create_subscription_group=False))
    assert (await client.ask(send_request("%RETRY%G"))).code == 26


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["", " ", "a b", "a/b", "标签", "a:b", "{a}", "a\nb", "x" * 128])
async def test_illegal_topic_name_is_refused_with_29(client: BrokerClient, topic: str) -> None:
    answer = await client.ask(send_request(topic))
    assert answer.code == 29, answer.remark
    topics = await client.get(RequestCode.GET_ALL_TOPIC_CONFIG)
    assert topic not in topics["topicConfigTable"]


async def test_longest_topic_name_is_accepted(client: BrokerClient) -> None:
    await client.send("x" * 127, "a")
    assert (await client.pull("x" * 127, 0)).bodies == ["a"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"queue_id": 4}, 29, id="queue-id"),
        pytest.param({"body": b""}, 13, id="empty"),
        pytest.param({"body": bytes(4 * 1024 * 1024 + 1)}, 13, id="too-large"),
        pytest.param({"properties": "A\x01" + "x" * 32766 + "\x02"}, 13, id="properties"),
        pytest.param({"properties": "A\x01" + "标" * 10920 + "\x02"}, 13, id="properties-in-bytes"),
        pytest.param({"sys_flag": 4}, 16, id="transaction-flag"),
    ],
)
async def test_invalid_message_is_refused_and_not_stored(
    client: BrokerClient, changes: dict[str, Any], code: int
) -> None:
    await client.send("T", "before")
    answer = await client.ask(send_request("T", **changes))
    assert answer.code == code, answer.remark
    assert answer.remark
    assert (await client.pull("T", 0)).bodies == ["before"]


@pytest.mark.parametrize("properties", ["DELAY\x010\x02", "X_DELAY\x013\x02", "WAIT\x01true\x02"])
async def test_delay_properties_without_a_delay_are_accepted(client: BrokerClient, properties: str) -> None:
    await client.ok(send_request("T", properties=properties))
    assert (await client.pull("T", 0)).bodies == ["hello"]  # now, and not later


@pytest.mark.parametrize(
    "topic", ["SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC", "SELF_TEST_TOPIC", "OFFSET_MOVED_EVENT"]
)
async def test_system_topics_are_refused_with_16_and_not_created(client: BrokerClient, topic: str) -> None:
    before = (await client.get(RequestCode.GET_ALL_TOPIC_CONFIG))["topicConfigTable"].keys()
    assert (await client.ask(send_request(topic))).code == 16
    assert (await client.get(RequestCode.GET_ALL_TOPIC_CONFIG))["topicConfigTable"].keys() == before


@pytest.mark.parametrize(("perm", "code"), [(6, 0), (2, 0), (4, 16), (0, 16)])
async def test_topic_without_write_permission_is_refused_with_16(client: BrokerClient, perm: int, code: int) -> None:
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 1, 1, perm)))
    assert (await client.ask(send_request("T"))).code == code


async def test_sends_to_removed_queues_are_refused(client: BrokerClient) -> None:
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 4, 4, 6)))
    await client.send("T", "x", queue_id=3)
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 4, 2, 6)))
    await client.send("T", "x", queue_id=3)  # still readable, so RocketMQ takes it
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 2, 2, 6)))
    assert (await client.ask(send_request("T", queue_id=3))).code == 29
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 4, 4, 6)))
    assert len((await client.pull("T", 0, queue_id=3)).messages) == 2


@pytest.mark.parametrize("field", list("abcdefgh"))
async def test_missing_required_field_fails_with_1_and_is_named(client: BrokerClient, field: str) -> None:
    command = send_request("T")
    del command.ext_fields[field]
    answer = await client.ask(command)
    assert answer.code == 1
    assert f"`{field}`" in (answer.remark or "")


async def test_sends_are_refused_as_busy_if_too_many_wait_for_the_store(
    start_broker: StartBroker, connect: Connect
) -> None:
    client = connect(await start_broker(max_pending_append_bytes=100))
    await client.send("T", "x")
    answers = await asyncio.gather(*(client.ask(send_request("T", bytes(1000))) for _ in range(100)))
    assert {answer.code for answer in answers} == {0, 2}
    assert any("REJECTREQUEST" in (answer.remark or "") for answer in answers)
    await client.send("T", "and then it goes on")


async def test_message_size_limit_is_configurable(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(max_message_bytes=10))
    await client.send("T", "0123456789")
    assert (await client.ask(send_request("T", b"0123456789a"))).code == 13


# --- the store -------------------------------------------------------------------------------------------------------


async def test_physical_offset_is_an_address_into_a_plain_stream(
    client: BrokerClient, broker: Broker, key_prefix: str, embedded_server: EmbeddedServer
) -> None:
    header = (await client.send("T", "a", "b", queue_id=1))[1]
    with redis_py.Redis.from_url(embedded_server.url, protocol=2) as redis:
        assert [entry for entry, _ in redis.xrange(f"{key_prefix}:{{broker-a}}:queue:T:1")] == [b"0-1", b"0-2"]
        stored = loads(redis.hget(f"{key_prefix}:{{broker-a}}:topics", "T"))
    number, offset = split_physical_offset(int(header.msg_id[-16:], 16))
    assert offset == 1
    assert stored["queueNumbers"][1] == number
    assert offset_msg_id(broker.address, int(header.msg_id[-16:], 16)) == header.msg_id


async def test_restarted_broker_continues_the_offsets(start_broker: StartBroker, connect: Connect) -> None:
    first = await start_broker()
    await connect(first).send("T", "a", "b")
    await first.close()
    client = connect(await start_broker())
    assert (await client.send("T", "c"))[0].queue_offset == 2
    assert await client.pull_all("T") == ["a", "b", "c"]


async def test_close_answers_accepted_sends_and_refuses_later_ones(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker()
    client = connect(broker)
    await client.send("T", "a")
    sends = [asyncio.ensure_future(client.ask(send_request("T", b"m%d" % i))) for i in range(50)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(broker.close())
    results = await asyncio.gather(*sends, return_exceptions=True)
    await closing
    assert all(isinstance(result, RemotingCommand) and result.code in (0, 14) for result in results)
    accepted = sum(result.code == 0 for result in results if isinstance(result, RemotingCommand))
    again = connect(await start_broker())
    assert len(await again.pull_all("T")) == 1 + accepted


async def test_broker_registers_at_start_and_unregisters_at_close(
    start_broker: StartBroker, fake_namesrv: FakeNameServer
) -> None:
    broker = await start_broker(zone="z1")
    await eventually(lambda: fake_namesrv.registrations)
    fields = fake_namesrv.registrations[0].ext_fields
    assert fields["brokerName"] == "broker-a"
    assert fields["brokerAddr"] == broker.address
    assert (fields["clusterName"], fields["brokerId"], fields["__ZONE_NAME"]) == ("DefaultCluster", "0", "z1")
    table = json.loads(fake_namesrv.registrations[0].body)["topicConfigSerializeWrapper"]["topicConfigTable"]
    assert {"TBW102", "broker-a", "DefaultCluster", "SELF_TEST_TOPIC", "RMQ_SYS_TRACE_TOPIC"} <= table.keys()
    await broker.close()
    assert fake_namesrv.unregistrations[0].ext_fields["brokerAddr"] == broker.address


async def test_sends_during_topic_creation_are_stored_in_order(broker: Broker, client: BrokerClient) -> None:
    peer = await RawPeer.connect(broker.port)
    frames = []
    for number in range(60):
        command = send_request("New", b"%d" % number)
        command.opaque = number
        frames.append(encode_command(command))
    for start in range(0, 60, 20):
        await peer.send(b"".join(frames[start : start + 20]))
    answers = [await peer.receive() for _ in frames]
    assert {answer.code for answer in answers} == {0}
    assert await client.pull_all("New") == [str(number) for number in range(60)]
    await peer.close()


async def test_failed_topic_creation_refuses_all_waiting_sends(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(auto_create_topic_enable=False)
    client = connect(broker)
    answers = await asyncio.gather(*(client.ask(send_request("New")) for _ in range(5)))
    assert [answer.code for answer in answers] == [17] * 5


async def test_batch_of_too_many_messages_is_refused(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(max_batch_msg_nums=100)
    client = connect(broker)
    item = encode_batch_item(b"x", b"")
    await client.ok(send_request("T", item * 100, batch=True))
    refused = await client.ask(send_request("T", item * 101, batch=True))
    assert (refused.code, "more than 100 messages" in (refused.remark or "")) == (13, True)
    assert len(await client.pull_all("T")) == 100
