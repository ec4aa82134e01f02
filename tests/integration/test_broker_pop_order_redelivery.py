"""POP in order with ``pop_order_redeliver_acknowledged``: a redelivery begins at the first unacknowledged message."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import BrokerClient, Connect, StartBroker, eventually
from test_broker_pop_order import Store, ack, committed, pop, pop_some, store, tried

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.protocol.bodies.base import dumps
from rmq_redis.protocol.command import request
from rmq_redis.protocol.group_config import SubscriptionGroupConfig

__all__ = ["store"]


@pytest.fixture
async def broker(start_broker: StartBroker) -> Broker:
    return await start_broker(pop_order_redeliver_acknowledged=True)


@pytest.fixture
def client(connect: Connect, broker: Broker) -> BrokerClient:
    return connect(broker)


async def test_redelivery_includes_acknowledged_and_new_messages(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abcde")
    a, b, _, d = await pop(client, nums=4, invisible_ms=150)
    await ack(client, a, d)
    assert await committed(client) == 1
    again = await pop_some(client)
    assert tried(again) == [("b", 1), ("c", 1), ("d", 1), ("e", 0)]
    await ack(client, b)  # of the first delivery: too late
    assert await pop(client) == []
    await ack(client, *again)
    assert (await committed(client), store.pending(), store.ordered()) == (5, 0, {})


async def test_fully_acknowledged_batch_is_not_redelivered(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"ab")
    await ack(client, *await pop(client, invisible_ms=150))
    assert await pop(client, poll_ms=500) == []
    assert (await committed(client), store.pending()) == (2, 0)


async def test_smaller_redelivery_leaves_the_rest_for_the_next_receive(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"abcd")
    _, b, _, _ = await pop(client, invisible_ms=150)
    await ack(client, b)
    first = await pop_some(client, nums=2)
    assert tried(first) == [("a", 1), ("b", 1)]
    assert await pop(client) == []
    await ack(client, *first)
    rest = await pop(client)
    assert [message.text() for message in rest] == ["c", "d"]
    await ack(client, *rest)
    assert (await committed(client), store.pending()) == (4, 0)


async def test_filtered_and_removed_messages_end_with_the_batch(client: BrokerClient, store: Store) -> None:
    await client.send("T", *"ab", tags="A")
    await client.send("T", "c", tags="B")
    assert len(await pop(client, invisible_ms=1)) == 3

    async def redelivered() -> Any:
        return await pop(client, exp="B", exp_type="TAG", invisible_ms=150)

    (c,) = await eventually(redelivered)
    assert tried([c]) == [("c", 1)]
    await ack(client, c)
    assert (await committed(client), store.pending()) == (3, 0)


async def test_queue_continues_after_the_first_becomes_a_dead_letter(client: BrokerClient, store: Store) -> None:
    config = SubscriptionGroupConfig(group_name="G", retry_max_times=1)
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=dumps(config)))
    await client.send("T", *"abc")
    for times in range(2):
        a, *others = await pop_some(client, invisible_ms=150)
        assert tried([a]) == [("a", times)]
        await ack(client, *others)  # every time: an acknowledged message does not die with the one before it
    rest = await pop_some(client)
    assert [message.text() for message in rest] == ["b", "c"]
    assert await client.pull_all("%DLQ%G") == ["a"]
    await ack(client, *rest)
    assert (await committed(client), store.pending()) == (3, 0)
