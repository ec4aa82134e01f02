"""AsyncAdmin against fake servers: what it asks whom. What real brokers answer is tested in tests/interop."""

from __future__ import annotations

from typing import Any

import pytest
from client_fakes import FakeBroker, cluster, creations

from rmq_redis.client.admin.admin import AsyncAdmin
from rmq_redis.codes import RequestCode
from rmq_redis.errors import RemoteProtocolError, RouteNotFoundError, TopicNotExistError
from rmq_redis.protocol.bodies.base import dumps
from rmq_redis.protocol.bodies.progress import ConsumeOffset, TopicOffset
from rmq_redis.protocol.command import response


def answering(broker: FakeBroker, code: int, body: Any) -> None:
    broker.answers[code].append(lambda _connection, command: response(command, body=dumps(body)))


async def test_topics_are_created_on_every_master() -> None:
    async with cluster("broker-a", "broker-b", "broker-b") as fake, AsyncAdmin(config=fake.config()) as admin:
        fake.brokers[2].broker_id = 1
        addresses = await admin.create_topic("new", queue_nums=3, write_queue_nums=2, perm=4, order=True)
        assert addresses == [fake.brokers[0].address, fake.brokers[1].address]
        (header,) = creations(fake.brokers[0])
        assert (header.topic, header.read_queue_nums, header.write_queue_nums) == ("new", 3, 2)
        assert (header.perm, header.order, header.default_topic) == (4, True, "TBW102")
        assert len(creations(fake.brokers[1])) == 1
        assert not creations(fake.brokers[2])
        assert fake.name_server.kv == {("ORDER_TOPIC_CONFIG", "new"): "broker-a:2;broker-b:2"}
        await admin.create_topic("new", broker_addr=fake.brokers[1].address)
        assert (len(creations(fake.brokers[0])), len(creations(fake.brokers[1]))) == (1, 2)
        with pytest.raises(RouteNotFoundError, match="no cluster 'x'; there are: c"):
            await admin.create_topic("new", cluster="x")


async def test_deleting_a_topic_calls_brokers_and_name_server() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncAdmin(config=fake.config()) as admin:
        await admin.delete_topic("T", cluster="c")
        for broker in fake.brokers:
            (command,) = broker.of(RequestCode.DELETE_TOPIC_IN_BROKER)
            assert command.ext_fields["topic"] == "T"
        (command,) = fake.name_server.requests
        assert command.ext_fields == {"topic": "T", "clusterName": "c"}
        with pytest.raises(RouteNotFoundError):
            await admin.topic_route("T")
        with pytest.raises(RouteNotFoundError):
            await admin.wait_for_route("T", timeout_s=0.05)


async def test_topic_config_is_read_from_new_and_old_brokers() -> None:
    async with cluster() as fake, AsyncAdmin(config=fake.config()) as admin:
        config = {"topicName": "T", "readQueueNums": 7, "writeQueueNums": 6, "perm": 6, "attributes": None}
        answering(fake.broker, RequestCode.GET_TOPIC_CONFIG, config)
        assert (await admin.topic_config("T")).read_queue_nums == 7
        fake.broker.unsupported.add(RequestCode.GET_TOPIC_CONFIG)
        for _ in range(2):
            answering(fake.broker, RequestCode.GET_ALL_TOPIC_CONFIG, {"topicConfigTable": {"T": config}})
        assert (await admin.topic_config("T")).write_queue_nums == 6
        with pytest.raises(TopicNotExistError):
            await admin.topic_config("U", broker_addr=fake.broker.address)


async def test_stats_of_all_brokers_are_merged() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncAdmin(config=fake.config()) as admin:
        for index, broker in enumerate(fake.brokers):
            table = {fake.queue(0, broker=index): {"minOffset": 1, "maxOffset": 5 + index, "lastUpdateTimestamp": 9}}
            answering(broker, RequestCode.GET_TOPIC_STATS_INFO, {"offsetTable": table})
        assert await admin.topic_stats("T") == {
            fake.queue(0): TopicOffset(min_offset=1, max_offset=5, last_update_timestamp=9),
            fake.queue(0, broker=1): TopicOffset(min_offset=1, max_offset=6, last_update_timestamp=9),
        }
        for _ in range(2):
            answering(fake.brokers[0], RequestCode.GET_TOPIC_STATS_INFO, {"offsetTable": {"text": {}}})
        with pytest.raises(RemoteProtocolError):
            await admin.topic_stats("T")
    assert ConsumeOffset(10, 7).diff == 3


async def test_update_changes_only_given_fields_on_brokers_with_the_topic() -> None:
    async with cluster("broker-a", "broker-b") as fake, AsyncAdmin(config=fake.config()) as admin:
        known = {"topicName": "T", "readQueueNums": 7, "writeQueueNums": 6, "perm": 4, "order": True}
        answering(fake.brokers[0], RequestCode.GET_TOPIC_CONFIG, known)
        fake.brokers[1].unsupported.add(RequestCode.GET_TOPIC_CONFIG)
        for _ in range(2):
            answering(fake.brokers[1], RequestCode.GET_ALL_TOPIC_CONFIG, {"topicConfigTable": {}})
        changed = await admin.update_topic("T", perm=6, attributes="+reserve.time=1")
        assert changed == [fake.brokers[0].address]
        fields = fake.brokers[0].of(RequestCode.UPDATE_AND_CREATE_TOPIC)[0].ext_fields
        wanted = {"readQueueNums": "7", "writeQueueNums": "6", "perm": "6", "order": "true"}
        assert fields | wanted | {"attributes": "+reserve.time=1"} == fields
        assert not fake.brokers[1].of(RequestCode.UPDATE_AND_CREATE_TOPIC)
        fake.brokers[0].unsupported.add(RequestCode.GET_TOPIC_CONFIG)
        answering(fake.brokers[0], RequestCode.GET_ALL_TOPIC_CONFIG, {"topicConfigTable": {}})
        with pytest.raises(TopicNotExistError, match="no broker has the topic 'U'"):
            await admin.update_topic("U")
