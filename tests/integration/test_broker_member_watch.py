"""Members of one group that cannot work together: other subscriptions, or one client id twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import BrokerClient, Connect, StartBroker, eventually, heartbeat_request

from rmq_redis.broker.broker import Broker
from rmq_redis.broker.group import member_watch
from rmq_redis.codes import RequestCode
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.clients import ConsumerGroupRequestHeader


async def warnings(client: BrokerClient, group: str = "G") -> list[str]:
    header = ConsumerGroupRequestHeader(group)
    found: list[str] = (await client.get(RequestCode.GET_CONSUMER_CONNECTION_LIST, header))["warnings"]
    return found


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == member_watch.__name__]


async def beat(client: BrokerClient, client_id: str, subscriptions: dict[str, str], **fields: Any) -> None:
    await client.ok(heartbeat_request(client_id, "G", subscriptions, **fields))


async def test_members_with_different_subscriptions_are_logged(
    broker: Broker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = connect(broker), connect(broker), connect(broker)
    await beat(one, "one", {"T": "A", "U": "*"})
    assert await warnings(one) == []
    await beat(two, "two", {"T": "B", "U": "*"})
    await beat(three, "three", {"T": "B", "U": "*"})
    (warning,) = await warnings(one)
    assert "'one' and 0 more: 'T TAG A'" in warning
    assert "'three' and 1 more: 'T TAG B'" in warning
    assert "U" not in warning  # they agree there
    (line,) = logged(caplog)
    assert line.startswith("consumer group G: its members subscribe differently")
    await beat(one, "one", {"T": "B", "U": "*"}, sub_version=2)
    assert await warnings(one) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"T": "A || B"}, {"T": "B||A"}),
        ({"T": "*"}, {"T": ""}),
        ({"T": "A", "%RETRY%G": "*"}, {"T": "A"}),
        ({"T": "A", "U": "B"}, {"U": "B", "T": "A"}),
    ],
)
async def test_spelling_does_not_make_subscriptions_differ(
    broker: Broker, connect: Connect, first: dict[str, str], second: dict[str, str]
) -> None:
    one, two = connect(broker), connect(broker)
    await beat(one, "one", first)
    await beat(two, "two", second)
    assert await warnings(one) == []


@pytest.mark.parametrize(
    ("topics", "more"), [({"U": "*"}, {}), ({"T": "A", "U": "*"}, {}), ({"T": "A"}, {"expression_type": "SQL92"})]
)
async def test_topic_and_expression_type_make_subscriptions_differ(
    broker: Broker, connect: Connect, topics: dict[str, str], more: dict[str, str]
) -> None:
    one, two = connect(broker), connect(broker)
    await beat(one, "one", {"T": "A"})
    await beat(two, "two", topics, **more)
    assert len(await warnings(one)) == 1
    await two.close()
    await eventually(lambda: len(broker.parts.clients.consumer_groups["G"].members) == 1)
    assert await warnings(one) == []


async def test_heartbeat_without_subscriptions_does_not_differ(broker: Broker, connect: Connect) -> None:
    one, two = connect(broker), connect(broker)
    for client, name in ((one, "one"), (two, "two")):
        await beat(client, name, {"T": "A"})
    data = {"clientID": "one", "withoutSub": True, "consumerDataSet": [{"groupName": "G"}]}
    await one.ok(request(RequestCode.HEART_BEAT, body=json.dumps(data).encode()))
    assert await warnings(one) == []


async def test_two_active_clients_with_one_id_are_logged(
    broker: Broker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = connect(broker), connect(broker)
    await beat(one, "same", {"T": "*"})
    await beat(two, "same", {"T": "*"})
    await beat(two, "same", {"T": "*"})
    assert await warnings(one) == []  # so does a client that reconnected
    await beat(one, "same", {"T": "*"})
    (warning,) = await warnings(one)
    assert "have the client id 'same'" in warning
    assert logged(caplog) == [f"consumer group G: {warning}"]
    await two.close()
    await one.close()
    await eventually(lambda: "G" not in broker.parts.clients.consumer_groups)


async def test_members_with_different_message_models_are_logged(broker: Broker, connect: Connect) -> None:
    one, two = connect(broker), connect(broker)
    await beat(one, "one", {"T": "*"})
    await beat(two, "two", {"T": "*"}, messageModel="BROADCASTING")
    (warning,) = await warnings(one)
    assert "'two' 'BROADCASTING', 'one' 'CLUSTERING'" in warning


async def test_warning_is_one_line_for_any_heartbeat_content(
    broker: Broker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = connect(broker), connect(broker)
    await beat(one, "one", {"T": "*"})
    await beat(two, "t\nw\x1b[2Jo", {"T": "A\nB"}, messageModel="X\nY")
    lines = [*await warnings(one), *logged(caplog)]
    assert len(lines) >= 3
    assert not any("\n" in line or "\x1b" in line for line in lines)


async def test_two_active_producers_with_one_id_are_logged(
    broker: Broker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = connect(broker), connect(broker)
    for client in (one, one, two, two):
        await client.ok(heartbeat_request("same", producer_group="P"))
    assert logged(caplog) == []  # so does a client that reconnected
    for client in (one, two, one):
        await client.ok(heartbeat_request("same", producer_group="P"))
    (line,) = logged(caplog)
    assert "have the client id 'same'" in line


async def test_warnings_are_logged_once_a_minute(
    broker: Broker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = connect(broker), connect(broker)
    for _ in range(5):
        await beat(one, "same", {"T": "A"})
        await beat(two, "same", {"T": "B"})
    assert len(await warnings(one)) == 2
    assert len(logged(caplog)) == 1


async def test_no_state_is_kept_of_members_that_left(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(client_expiry_s=0.4)
    one, two, stays = connect(broker), connect(broker), connect(broker)
    for client in (one, two, one):
        await beat(client, "same", {"T": "*"})
    await beat(stays, "stays", {"T": "*"})
    watch = broker.parts.clients.consumer_groups["G"].watch
    assert set(watch._latest) == {"same", "stays"}
    await one.close()
    await two.close()

    async def only_one() -> bool:
        await beat(stays, "stays", {"T": "*"})
        watch = broker.parts.clients.consumer_groups["G"].watch
        return set(watch._latest) == {"stays"} and not watch._shared_ids

    await eventually(only_one)
    assert await warnings(stays) == []
