"""Who is the master of a group: the lease, a slave that takes over, a master that comes back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import pytest
from helpers import (
    BrokerClient,
    Connect,
    FakeNameServer,
    StartBroker,
    drop_all_packets,
    eventually,
    heartbeat_request,
    send_request,
)

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.errors import StoreError
from rmq_redis.protocol.bodies.registration import TopicConfigTable
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader
from rmq_redis.protocol.headers.offsets import (
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    QueueOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from rmq_redis.protocol.headers.registration import RegisterBrokerRequestHeader
from rmq_redis.store.group.lease import LeaseStore
from rmq_redis.store.redis.connection import StoreConnection

SHORT_S = 1.0
LONG_S = 600.0


def registered_ids(fake_namesrv: FakeNameServer, broker: Broker) -> list[int]:
    """The ids under which a broker registered, in their order, repetitions left out."""
    headers = [command.header(RegisterBrokerRequestHeader) for command in fake_namesrv.registrations]
    ids = [header.broker_id for header in headers if header.broker_addr == broker.address]
    return [broker_id for i, broker_id in enumerate(ids) if i == 0 or ids[i - 1] != broker_id]


async def dies(broker: Broker) -> None:
    """What kill -9 is for the others: no answer any more, and the lease is not given back."""
    await broker.parts.leadership.stop()
    broker._office.slave_id = 99
    broker._office.step_down()  # close() leaves the lease of another as it is
    await broker.close()


async def takes_messages(client: BrokerClient) -> bool:
    return (await client.ask(send_request("T", b"probe", queue_id=1))).code == 0


async def test_slave_takes_over_with_everything_the_master_stored(
    start_broker: StartBroker, connect: Connect, fake_namesrv: FakeNameServer
) -> None:
    first = await start_broker(lease_s=SHORT_S)
    second = await start_broker(broker_id=1, lease_s=SHORT_S)
    old, new = connect(first), connect(second)
    await old.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 2, 2, 6)))
    await old.ok(heartbeat_request("id", "G", {"T": "*"}))
    await old.send("T", "a", "b")
    await old.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, 1)))
    await old.send("T", "later", properties="TIMER_DELAY_SEC\x012\x02")
    assert second.broker_id == 1
    assert (await new.ask(send_request("T"))).code == 14
    waiting = new.pull_later("T", 2)
    await dies(first)
    await eventually(lambda: takes_messages(new), "the slave takes messages")
    assert second.broker_id == 0
    assert (await new.send("T", "c"))[0].queue_offset == 2
    assert (await waiting).bodies == ["c"]
    assert await new.pull_all("T") == ["a", "b", "c"]
    query = request(RequestCode.QUERY_CONSUMER_OFFSET, QueryConsumerOffsetRequestHeader("G", "T", 0))
    assert (await new.ok(query)).header(OffsetResponseHeader).offset == 1
    await eventually(lambda: pulled(new, ["a", "b", "c", "later"]), "what was due later comes")
    await eventually(lambda: registered_ids(fake_namesrv, second) == [1, 0])


async def pulled(client: BrokerClient, bodies: list[str]) -> bool:
    return await client.pull_all("T") == bodies


async def test_returning_master_is_a_slave_and_can_take_over_again(
    start_broker: StartBroker, connect: Connect, fake_namesrv: FakeNameServer
) -> None:
    first = await start_broker(lease_s=SHORT_S)
    second = await start_broker(broker_id=1, lease_s=SHORT_S)
    await connect(first).send("T", "a")
    await dies(first)
    await eventually(lambda: second.broker_id == 0 and not second.parts.state.queue_store.reads_only)
    back = await start_broker(lease_s=SHORT_S)
    assert back.broker_id == 1, "the id that the new master left"
    client = connect(back)
    assert (await client.ask(send_request("T"))).code == 14
    assert await client.pull_all("T") == ["a"]
    await second.close()  # gives the lease back
    await eventually(lambda: takes_messages(client))
    await eventually(lambda: registered_ids(fake_namesrv, back) == [1, 0])


async def test_fenced_master_steps_down_and_drops_its_clients(
    start_broker: StartBroker, connect: Connect, fake_namesrv: FakeNameServer
) -> None:
    first = await start_broker(lease_s=SHORT_S)
    second = await start_broker(broker_id=1, lease_s=SHORT_S)
    old, new = connect(first), connect(second)
    await old.send("T", "a")
    await first.parts.leadership.stop()  # as if it did not run: the lease expires
    await eventually(lambda: registered_ids(fake_namesrv, second) == [1, 0])  # so it takes messages
    assert (await old.ask(send_request("T", b"lost"))).code == 14
    await first.parts.leadership.start()
    await eventually(lambda: registered_ids(fake_namesrv, first) == [0, 1])
    assert first.broker_id == 1
    assert (await connect(first).ask(send_request("T", b"lost"))).code == 14
    assert (await new.send("T", "b"))[0].queue_offset == 1
    assert await connect(first).pull_all("T") == ["a", "b"]


async def test_without_failover_slave_stays_slave_and_second_master_waits(
    start_broker: StartBroker, connect: Connect
) -> None:
    first = await start_broker(lease_s=SHORT_S)
    slave = await start_broker(broker_id=1, lease_s=SHORT_S, failover=False)
    waiting = await start_broker(lease_s=SHORT_S, failover=False)
    await connect(first).send("T", "a")
    assert (await connect(waiting).ask(send_request("T"))).code == 14
    await dies(first)
    client = connect(waiting)
    await eventually(lambda: takes_messages(client))
    assert (waiting.broker_id, slave.broker_id) == (0, 1)


async def test_slave_that_starts_first_leaves_the_group_to_the_master(start_broker: StartBroker) -> None:
    slave = await start_broker(broker_id=1, lease_s=LONG_S)
    master = await start_broker(lease_s=LONG_S)
    assert (master.broker_id, slave.broker_id) == (0, 1)


async def test_slave_answers_as_slave_until_the_masters_state_is_loaded(
    start_broker: StartBroker, connect: Connect
) -> None:
    """Clients ask at any time, also while it takes over: what it has not read yet is not "none"."""
    first = await start_broker(lease_s=SHORT_S)
    second = await start_broker(broker_id=1, lease_s=SHORT_S)
    old, new = connect(first), connect(second)
    await old.send("T", "a", "b", "c", "d")
    await old.ok(heartbeat_request("id", "G", {"T": "*"}))
    await eventually(lambda: "T" in second.parts.state.topics.topics)
    await old.send("T", "e")
    await first.parts.retention._store.trim(
        first.parts.state.queue_store.queues["T", 0], 1
    )  # the queue is not young any more
    await old.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, 3)))
    reached, go_on = asyncio.Event(), asyncio.Event()
    load_ends = second.parts.state.queue_store.load_ends

    async def slow() -> None:
        reached.set()
        await go_on.wait()
        await load_ends()

    second.parts.state.queue_store.load_ends = slow  # type: ignore[method-assign]
    await dies(first)
    await reached.wait()
    query = request(RequestCode.QUERY_CONSUMER_OFFSET, QueryConsumerOffsetRequestHeader("G", "T", 0))
    try:
        assert (await new.ok(query)).header(OffsetResponseHeader).offset == 3
        bound = request(RequestCode.GET_MAX_OFFSET, QueueOffsetRequestHeader("T", 0))
        assert (await new.ok(bound)).header(OffsetResponseHeader).offset == 5
        assert (await new.pull("T", 4)).bodies == ["e"]
        assert (await new.pull("T", 5)).outcome == (19, 5), "not sent back to where it looked last"
        assert (await new.ask(send_request("T", b"x"))).code == 14
    finally:
        go_on.set()
    await eventually(lambda: takes_messages(new))
    assert (await new.ok(query)).header(OffsetResponseHeader).offset == 3


async def test_bug_does_not_stop_the_registration(start_broker: StartBroker, fake_namesrv: FakeNameServer) -> None:
    """Without it the broker falls out of the routes."""
    broker = await start_broker(register_period_s=0.05)
    registration, failed = broker.parts.registration, [0]
    table = registration._table

    def wrong() -> TopicConfigTable:
        failed[0] += 1
        if failed[0] == 1:
            raise ValueError("a mistake")
        return table()

    registration._table = wrong  # type: ignore[method-assign]
    await eventually(lambda: failed[0])
    before = len(fake_namesrv.registrations)
    await eventually(lambda: len(fake_namesrv.registrations) > before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can throw away one connection's packets")
@pytest.mark.parametrize("step", ["take", "renew", "load"])
async def test_takeover_reconnects_when_store_stops_answering(
    start_broker: StartBroker, connect: Connect, step: str
) -> None:
    """The answer never comes, though what was asked for may have been done."""
    first = await start_broker(lease_s=SHORT_S)
    await connect(first).send("T", "a")
    second = await start_broker(broker_id=1, lease_s=SHORT_S)
    store, lease = second.parts.state.queue_store, second.parts.leadership._lease
    silenced: list[str] = []

    def silence(owner: object, name: str, only_as_master: bool) -> None:
        right = getattr(owner, name)

        async def silent(*args: object) -> object:
            if not silenced and (second.broker_id == 0 or not only_as_master):
                silenced.append(name)
                for connection in (store.current(), store.current_read()):
                    assert connection._transport is not None
                    drop_all_packets(connection._transport.get_extra_info("socket"))
            return await right(*args)

        setattr(owner, name, silent)

    if step == "take":
        silence(lease, "take", False)
    elif step == "renew":
        silence(lease, "renew", True)
        load_ends = store.load_ends

        async def slow() -> None:  # so long that the lease has to be renewed meanwhile
            if not silenced:
                await eventually(lambda: silenced)
            await load_ends()

        store.load_ends = slow  # type: ignore[method-assign]
    else:
        silence(second.parts.state.offsets, "load", True)
    await dies(first)
    new = connect(second)
    await eventually(lambda: takes_messages(new))
    assert silenced
    assert await new.pull_all("T") == ["a"]


async def test_topics_and_groups_lost_in_a_failover_are_rewritten(start_broker: StartBroker, connect: Connect) -> None:
    """A new primary that lacks them takes the topic's messages all the same, and its queues' numbers stay theirs."""
    first = await start_broker(lease_s=SHORT_S)
    client = connect(first)
    store, keys = first.parts.state.queue_store, first.parts.state.queue_store.keys
    connection = store.current()
    before = {key: await connection.execute("GET", key) for key in (keys.version, keys.queue_numbers)}
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 2, 2, 6)))
    await client.ok(heartbeat_request("id", "G", {"T": "*"}))
    for key, value in before.items():
        await connection.execute("SET", key, value)
    await connection.execute("HDEL", keys.topics, "T", "%RETRY%G")
    await connection.execute("HDEL", keys.groups, "G")
    store.reconnect()
    await eventually(lambda: store.available and store.current() is not connection)
    await client.send("T", "a", queue_id=1)
    await client.send("Other", "b")
    numbers = [number for topic in first.parts.state.topics.topics.values() for number in topic.queue_numbers]
    assert len(numbers) == len(set(numbers))
    await first.close()
    second = await start_broker()
    assert "G" in second.parts.state.topics.groups
    pulled = await connect(second).pull("T", 0, queue_id=1)
    assert pulled.bodies == ["a"]


async def test_configured_master_does_not_take_a_slave_id_at_start(
    start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[str] = []
    claim = LeaseStore.claim_slave_id

    async def noted(lease: LeaseStore) -> tuple[int, str]:
        claimed.append(lease.address)
        return await claim(lease)

    monkeypatch.setattr(LeaseStore, "claim_slave_id", noted)
    first = await start_broker()
    assert claimed == []
    second = await start_broker()
    assert (first.broker_id, second.broker_id) == (0, 1)
    assert set(claimed) == {second.address}


async def test_running_master_takes_its_lost_lease_before_others(start_broker: StartBroker, connect: Connect) -> None:
    """The new primary lacks the lease and the last message, whose offset only the master knows to be used."""
    first = await start_broker(lease_s=LONG_S)
    second = await start_broker(broker_id=1, lease_s=LONG_S)
    client = connect(first)
    await client.send("T", "a")
    store, looks = first.parts.state.queue_store, 0
    connection = store.current()
    key = store.keys.queue("T", 0)
    behind = await connection.execute("DUMP", key)
    await client.send("T", "lost")
    lease, gate = second.parts.leadership._lease, asyncio.Event()
    claim = lease.claim_slave_id

    async def counted() -> tuple[int, str]:
        nonlocal looks
        result = await claim()
        looks += 1
        return result

    lease.claim_slave_id = counted  # type: ignore[method-assign]
    await eventually(lambda: looks, "the slave sees that there is a master")
    for side in (store._writes, store._reads):

        async def held(right: Callable[[], Awaitable[StoreConnection]] = side._open) -> StoreConnection:
            await gate.wait()
            return await right()

        side._open = held  # type: ignore[method-assign]
    await connection.execute("RESTORE", key, 0, behind, "REPLACE")
    await connection.execute("DEL", store.keys.lease)
    store.reconnect()
    second.parts.state.queue_store.reconnect()
    looks = 0
    await eventually(lambda: looks >= 3, "the slave sees that there is none")
    assert second.broker_id == 1
    gate.set()
    await eventually(lambda: store.available)
    assert (await client.send("T", "b"))[0].queue_offset == 2
    assert await client.pull_all("T") == ["a", "b"]
    assert (first.broker_id, second.broker_id) == (0, 1)


async def test_slave_with_broken_connection_takes_over_from_a_dead_master(
    start_broker: StartBroker, connect: Connect
) -> None:
    first = await start_broker(lease_s=SHORT_S)
    second = await start_broker(broker_id=1, lease_s=SHORT_S)
    await connect(first).send("T", "a")
    await eventually(lambda: second.parts.leadership._master, "the slave sees that there is a master")
    await dies(first)
    second.parts.state.queue_store.reconnect()
    new = connect(second)
    await eventually(lambda: takes_messages(new))
    assert await new.pull_all("T") == ["a"]


async def test_broker_stops_even_if_a_store_error_replaces_cancellation(start_broker: StartBroker) -> None:
    """redis-py closes the connection of a command that is cancelled, and an error of that replaces the cancellation."""
    broker = await start_broker()
    asked = asyncio.Event()

    async def failing() -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise StoreError("the connection broke while it was closed") from None

    broker.parts.state.queue_store.follow_primary = failing  # type: ignore[method-assign]
    await asked.wait()
    before = asyncio.all_tasks()
    await broker.close()
    assert any("looking for the primary" in task.get_name() for task in before)
    assert not [task for task in before & asyncio.all_tasks() if broker.config.broker_name in task.get_name()]
