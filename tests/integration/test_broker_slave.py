"""A slave broker on the same store: reads, and refuses what only the master may do (messages.md section 13)."""

from __future__ import annotations

import asyncio

import pytest
from helpers import BrokerClient, Connect, FakeNameServer, StartBroker, eventually, heartbeat_request, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.errors import StoreError
from rmq_redis.protocol.bodies.base import dumps, loads
from rmq_redis.protocol.command import request
from rmq_redis.protocol.group_config import SubscriptionGroupConfig
from rmq_redis.protocol.headers.admin import (
    ConsumeStatsRequestHeader,
    CreateTopicRequestHeader,
    DeleteSubscriptionGroupRequestHeader,
    TopicRequestHeader,
)
from rmq_redis.protocol.headers.clients import ConsumerGroupRequestHeader
from rmq_redis.protocol.headers.offsets import (
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    QueueOffsetRequestHeader,
    ResetOffsetRequestHeader,
    SearchOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from rmq_redis.protocol.headers.query import ViewMessageRequestHeader
from rmq_redis.protocol.record import decode_records
from rmq_redis.store.embedded import EmbeddedServer, free_port


@pytest.fixture
async def slave_broker(broker: Broker, client: BrokerClient, start_broker: StartBroker) -> Broker:
    """Slave 1 of the group of ``broker``, which has the topic T with the messages a, b, c, and the group G."""
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 2, 2, 6)))
    await client.ok(
        request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=dumps(SubscriptionGroupConfig(group_name="G")))
    )
    await client.send("T", "a", "b", "c")
    return await start_broker(broker_id=1, failover=False)


@pytest.fixture
def slave(slave_broker: Broker, connect: Connect) -> BrokerClient:
    return connect(slave_broker)


async def test_slave_registers_with_its_id(slave_broker: Broker, fake_namesrv: FakeNameServer) -> None:
    def of_slave() -> list[dict[str, str]]:
        fields = [command.ext_fields for command in fake_namesrv.registrations]
        return [item for item in fields if item["brokerId"] == "1"]

    await eventually(of_slave)
    assert of_slave()[0]["brokerAddr"] == slave_broker.address
    assert of_slave()[0]["brokerName"] == "broker-a"


async def test_slave_refuses_sends_with_14_and_does_not_affect_master(
    client: BrokerClient, slave: BrokerClient
) -> None:
    for command in (send_request("T"), send_request("New"), send_request("T", queue_id=99)):
        answer = await slave.ask(command)
        assert answer.code == 14
        assert "slave" in (answer.remark or "")
    assert (await client.send("T", "d"))[0].queue_offset == 3


async def test_slave_delivers_old_and_new_messages(client: BrokerClient, slave: BrokerClient) -> None:
    assert await slave.pull_all("T") == ["a", "b", "c"]
    await client.send("T", "d")
    pulled = await slave.pull("T", 3)
    assert (pulled.bodies, pulled.outcome) == (["d"], (0, 4))
    assert (pulled.header.min_offset, pulled.header.max_offset) == (0, 4)
    # The record is the master's, addresses included.
    assert pulled.messages == (await client.pull("T", 3)).messages


async def test_filters_work_on_a_slave(client: BrokerClient, slave: BrokerClient) -> None:
    await client.send("T", "x", tags="TagA", queue_id=1)
    assert (await slave.pull("T", 0, queue_id=1, subscription="TagA")).bodies == ["x"]
    assert (await slave.pull("T", 0, queue_id=1, subscription="TagB")).outcome == (20, 1)
    await slave.ok(heartbeat_request("id", "G", {"T": "TagA"}))
    assert (await slave.pull("T", 0, queue_id=1, subscription=None)).bodies == ["x"]


@pytest.mark.parametrize("offset", [-1, 4, 100])
async def test_slave_returns_20_instead_of_21_and_moves_no_offset(slave: BrokerClient, offset: int) -> None:
    pulled = await slave.pull("T", offset, suspend_ms=30_000)
    assert pulled.outcome == (20, offset)
    assert pulled.header.suggest_which_broker_id == 0


async def test_slave_wakes_held_pulls(client: BrokerClient, slave: BrokerClient, slave_broker: Broker) -> None:
    pull = slave.pull_later("T", 3)
    empty = slave.pull_later("T", 0, queue_id=1)
    await eventually(lambda: slave_broker.parts.pulls.hold.count == 2)
    await client.send("T", "d")
    assert (await pull).outcome == (0, 4)
    assert not empty.done()
    await client.send("T", "e", queue_id=1)
    assert (await empty).bodies == ["e"]
    assert (await slave.pull("T", 4, suspend_ms=20)).outcome == (19, 4)


async def test_slave_does_not_commit(client: BrokerClient, slave: BrokerClient) -> None:
    await slave.pull("T", 0, commit=2)
    header = UpdateConsumerOffsetRequestHeader("G", "T", 0, 2)
    await slave.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, header))
    await slave.oneway(request(RequestCode.UPDATE_CONSUMER_OFFSET, header))
    for asked in (slave, client):
        query = QueryConsumerOffsetRequestHeader("G", "T", 0, False)
        assert (await asked.ask(request(RequestCode.QUERY_CONSUMER_OFFSET, query))).code == 22


async def test_slave_knows_the_masters_offsets_and_bounds(client: BrokerClient, slave: BrokerClient) -> None:
    async def offset(code: int, header: object) -> int:
        answer = await slave.ok(request(code, header))  # type: ignore[arg-type]
        return answer.header(OffsetResponseHeader).offset

    for committed in (1, 2):
        await client.ok(
            request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, committed))
        )
        query = QueryConsumerOffsetRequestHeader("G", "T", 0)
        assert await offset(RequestCode.QUERY_CONSUMER_OFFSET, query) == committed
    await client.send("T", "d")
    assert await offset(RequestCode.GET_MAX_OFFSET, QueueOffsetRequestHeader("T", 0)) == 4
    assert await offset(RequestCode.GET_MIN_OFFSET, QueueOffsetRequestHeader("T", 0)) == 0
    assert await offset(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, SearchOffsetRequestHeader("T", 0, 2**50)) == 4
    stats = await slave.get(RequestCode.GET_CONSUME_STATS, ConsumeStatsRequestHeader("G", "T"))
    assert [item["brokerOffset"] - item["consumerOffset"] for item in stats["offsetTable"].values()] == [2, 0]


async def test_slave_finds_a_message_of_the_master_by_its_id(client: BrokerClient, slave: BrokerClient) -> None:
    sent = (await client.send("T", "d"))[0]
    view = ViewMessageRequestHeader(int(sent.msg_id[-16:], 16))
    answer = await slave.ok(request(RequestCode.VIEW_MESSAGE_BY_ID, view))
    assert decode_records(answer.body)[0].text() == "d"


async def test_slave_refuses_changes_of_topics_and_groups(slave: BrokerClient) -> None:
    for command in (
        request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("New", 1, 1, 6)),
        request(RequestCode.UPDATE_AND_CREATE_TOPIC_LIST, body=b'{"topicConfigList":[]}'),
        request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=b'{"groupName":"H"}'),
        request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, body=b'{"groupConfigList":[]}'),
        request(RequestCode.DELETE_SUBSCRIPTIONGROUP, DeleteSubscriptionGroupRequestHeader("G")),
    ):
        assert (await slave.ask(command)).code == 16
    # Tools ask slaves too when they delete a topic; a slave says yes and follows its master.
    await slave.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    assert await slave.pull_all("T") == ["a", "b", "c"]


async def test_slave_follows_the_masters_topics(client: BrokerClient, slave: BrokerClient) -> None:
    await client.send("New", "x")

    async def code() -> int:
        return (await slave.pull("New", 0)).code

    async def is_found() -> bool:
        return await code() == 0

    async def is_gone() -> bool:
        return await code() == 17

    await eventually(is_found)
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("New")))
    await eventually(is_gone)


async def test_slave_follows_a_recreated_topic(client: BrokerClient, slave: BrokerClient) -> None:
    assert await slave.pull_all("T") == ["a", "b", "c"]
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 2, 2, 6)))
    await client.send("T", "new")

    async def agrees() -> bool:
        pulled = await slave.pull("T", 3)  # it goes on behind the end of the one that was deleted
        return pulled.code == 0 and pulled.messages == (await client.pull("T", 3)).messages

    await eventually(agrees)
    assert await slave.pull_all_from("T", 3) == ["new"]


async def test_slave_redirects_pulls_of_a_reset_group_to_the_master(client: BrokerClient, slave: BrokerClient) -> None:
    assert (await slave.pull("T", 0)).code == 0
    header = ResetOffsetRequestHeader("T", "G", -1)
    await client.ok(request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, header))

    async def sent_away() -> bool:
        pulled = await slave.pull("T", 1)
        return pulled.outcome == (20, 1) and pulled.header.suggest_which_broker_id == 0

    await eventually(sent_away)
    assert (await slave.pull("T", 1, group="other")).code == 0
    assert (await client.pull("T", 1)).outcome == (21, 3)
    assert (await client.pull("T", 3)).code == 19  # that ends the reset

    async def serves() -> bool:
        return (await slave.pull("T", 1)).code == 0

    await eventually(serves)


async def test_consumers_are_members_on_the_slave_too(client: BrokerClient, slave: BrokerClient) -> None:
    await slave.ok(heartbeat_request("id", "G", {"T": "*"}))
    answer = await slave.ok(request(RequestCode.GET_CONSUMER_LIST_BY_GROUP, ConsumerGroupRequestHeader("G")))
    assert loads(answer.body)["consumerIdList"] == ["id"]


async def test_slave_serves_reads_without_its_master(broker: Broker, client: BrokerClient, slave: BrokerClient) -> None:
    await broker.close()
    assert await slave.pull_all("T") == ["a", "b", "c"]
    assert (await slave.ask(send_request("T"))).code == 14
    query = QueryConsumerOffsetRequestHeader("G", "T", 0)
    assert (await slave.ok(request(RequestCode.QUERY_CONSUMER_OFFSET, query))).header(OffsetResponseHeader).offset == 0


async def test_stopping_slave_changes_nothing_in_the_store(
    client: BrokerClient, slave: BrokerClient, slave_broker: Broker
) -> None:
    pull = slave.pull_later("T", 3)
    await eventually(lambda: slave_broker.parts.pulls.hold.count == 1)
    await slave_broker.close()
    assert (await asyncio.gather(pull, return_exceptions=True))[0] is not None
    assert (await client.send("T", "d"))[0].queue_offset == 3


async def test_lagging_consumer_is_redirected_to_a_slave_and_back(start_broker: StartBroker, connect: Connect) -> None:
    settings = {"slave_read_enable": True, "slave_read_behind_bytes": 10_000, "failover": False}
    master, slave = await start_broker(**settings), await start_broker(broker_id=1, **settings)
    await connect(master).ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 1, 1, 6)))
    await connect(master).send("T", *("x" * 1000 for _ in range(30)))
    for broker in (slave, master):
        client = connect(broker)

        async def suggested(offset: int, client: BrokerClient = client) -> int:
            pulled = await client.pull("T", offset, max_msg_nums=1)
            return pulled.header.suggest_which_broker_id

        await eventually(lambda client=client: found(client), "the topic is there")
        assert await suggested(1) == 1
        assert await suggested(27) == 0
        assert await suggested(30) == 0, "nothing is left"


async def found(client: BrokerClient) -> bool:
    return (await client.pull("T", 0)).code == 0


async def test_overloaded_master_redirects_consumers_to_a_slave(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(slave_read_enable=True)
    client = connect(broker)
    await client.send("T", "a")
    assert (await client.pull("T", 0)).header.suggest_which_broker_id == 0
    broker.parts.state.queue_store.pending_bytes += broker.config.max_pending_append_bytes
    assert (await client.pull("T", 0)).header.suggest_which_broker_id == 1
    broker.parts.state.queue_store.pending_bytes -= broker.config.max_pending_append_bytes


async def test_slave_serves_reads_while_the_primary_is_unreachable(
    client: BrokerClient, start_broker: StartBroker, connect: Connect, embedded_server: EmbeddedServer
) -> None:
    await client.send("T", "a", "b")
    away = f"redis://127.0.0.1:{free_port()}/0"
    slave = connect(await start_broker(broker_id=1, store=away, store_replica=embedded_server.url))
    assert await slave.pull_all("T") == ["a", "b"]
    assert (await slave.ask(send_request("T"))).code == 14
    with pytest.raises(StoreError, match="cannot"):
        await start_broker(store=away, store_replica=embedded_server.url)


async def test_bug_does_not_stop_a_slave_following_its_master(
    client: BrokerClient, slave: BrokerClient, slave_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slave that follows no more knows no new topic and wakes no pull, without a word."""
    failed: set[str] = set()

    def once_wrong(target: object, name: str) -> None:
        right = getattr(target, name)

        async def wrong(*args: object) -> object:
            if name in failed:
                return await right(*args)
            failed.add(name)
            raise KeyError("a mistake")

        monkeypatch.setattr(target, name, wrong)

    once_wrong(slave_broker.parts.state.topics, "reload")
    once_wrong(slave_broker.parts.pulls, "poll_for_held")
    await eventually(lambda: failed == {"reload", "poll_for_held"})
    await client.send("New", "a")
    await eventually(lambda: "New" in slave_broker.parts.state.topics.topics)
    waiting = slave.pull_later("New", 1)
    await eventually(lambda: slave_broker.parts.pulls.hold.count == 1)
    await client.send("New", "b")
    assert (await waiting).bodies == ["b"]
