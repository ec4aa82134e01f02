"""A store that loses what it had behind a living master: no offset is given out twice, no new message is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import BrokerClient, Connect, StartBroker, eventually, pull_request, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode
from rmq_redis.errors import RemotingError
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader, TopicRequestHeader
from rmq_redis.protocol.headers.offsets import QueryConsumerOffsetRequestHeader, UpdateConsumerOffsetRequestHeader
from rmq_redis.store.embedded import EmbeddedServer

SHORT_S = 0.5
LOST = "the store has lost data"


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """A server of the test's own, without persistence."""
    server = EmbeddedServer(tmp_path / "own", settings={"appendonly": "no"})
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def master(start_broker: StartBroker, server: EmbeddedServer) -> Broker:
    return await start_broker(store=server.url, lease_s=SHORT_S)


def dump(server: EmbeddedServer, base: str) -> dict[bytes, tuple[bytes, int]]:
    with redis.Redis.from_url(server.url) as client:
        return {key: (client.dump(key), max(client.pttl(key), 0)) for key in client.keys(f"{base}*")}  # type: ignore[union-attr,misc]


def restore(server: EmbeddedServer, snapshot: dict[bytes, tuple[bytes, int]]) -> None:
    with redis.Redis.from_url(server.url) as client:
        pipeline = client.pipeline()
        pipeline.flushall()
        for key, (value, ttl_ms) in snapshot.items():
            pipeline.restore(key, ttl_ms, value)
        pipeline.execute()


async def send_patiently(client: BrokerClient, body: str) -> int:
    """Sends until it is acknowledged; its offset."""

    async def sent() -> list[int]:
        try:
            answer = await client.ask(send_request("T", body.encode()))
        except (OSError, RemotingError):  # it stepped down for a moment
            return []
        return [] if answer.code else [int((answer.ext_fields or {})["queueOffset"])]

    return (await eventually(sent))[0]


Loss = Callable[[EmbeddedServer, Broker], Awaitable[None]]


async def flush(server: EmbeddedServer, broker: Broker) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()


async def lose_the_epoch(server: EmbeddedServer, broker: Broker) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.delete(broker.parts.state.queue_store.keys.epoch)


async def restart_empty(server: EmbeddedServer, broker: Broker) -> None:
    server.kill()
    server.start()


async def evict_the_stream(server: EmbeddedServer, broker: Broker) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.delete(broker.parts.state.queue_store.keys.queue("T", 0))


@pytest.mark.parametrize("loss", [flush, lose_the_epoch, restart_empty, evict_the_stream])
async def test_offsets_continue_and_members_get_new_messages(
    loss: Loss, master: Broker, server: EmbeddedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(master)
    await client.send("T", *"abc")
    await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, 3)))
    waiting = asyncio.create_task(client.ask(pull_request("T", 3, suspend_ms=60_000), 60.0))
    await eventually(lambda: master.parts.pulls.hold.count == 1)
    await loss(server, master)
    assert await send_patiently(client, "d") == 3
    assert (await waiting).code in (0, 20)  # or told to pull once more
    assert (await client.pull("T", 3)).bodies == ["d"]
    query = request(RequestCode.QUERY_CONSUMER_OFFSET, QueryConsumerOffsetRequestHeader("G", "T", 0))
    assert int(((await client.ok(query)).ext_fields or {})["offset"]) == 3
    with redis.Redis.from_url(server.url) as store:

        def written() -> bool:
            return store.hget(master.parts.state.queue_store.keys.offsets("G", "T"), "0") == b"3"

        await eventually(written)
    assert "lost" in caplog.text
    assert master.broker_id == 0


@pytest.mark.parametrize("is_older_epoch", [False, True])
async def test_older_snapshot_reuses_no_offset(
    is_older_epoch: bool,
    start_broker: StartBroker,
    server: EmbeddedServer,
    connect: Connect,
    key_prefix: str,
) -> None:
    master = await start_broker(store=server.url, lease_s=SHORT_S)
    client = connect(master)
    await client.send("T", *"ab")
    snapshot = dump(server, key_prefix)
    if is_older_epoch:
        await master.close()
        master = await start_broker(store=server.url, lease_s=SHORT_S)
        client = connect(master)
    await client.send("T", *"cde")
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("Later", 1, 1, 6)))
    restore(server, snapshot)
    assert await send_patiently(client, "f") == 5
    assert [(await client.pull("T", offset)).bodies[:1] for offset in range(2)] == [["a"], ["b"]]
    assert (await client.pull("T", 5)).bodies == ["f"]
    if is_older_epoch:
        assert (await client.pull("Later", 0)).code == 19
        await master.close()
        client = connect(await start_broker(store=server.url, lease_s=SHORT_S))
        assert (await client.pull("Later", 0)).code == 19


async def test_stream_lost_under_load_reuses_no_offset(
    master: Broker, server: EmbeddedServer, connect: Connect
) -> None:
    client = connect(master)
    await client.send("T", "first")
    offsets: dict[int, str] = {}

    async def send(body: str) -> None:
        offset = await send_patiently(client, body)
        assert offset not in offsets, (offset, body, offsets[offset])
        offsets[offset] = body

    for round_number in range(10):
        sends = [asyncio.create_task(send(f"{round_number}-{number}")) for number in range(200)]
        await asyncio.sleep(0)
        await evict_the_stream(server, master)
        await asyncio.gather(*sends)
    assert len(offsets) == 2000


async def test_pull_of_lost_messages_moves_to_the_new_beginning(
    master: Broker, server: EmbeddedServer, connect: Connect
) -> None:
    """Nobody sends: the loss is found by the pull itself."""
    client = connect(master)
    await client.send("T", *"abc")
    await evict_the_stream(server, master)

    async def moved() -> bool:
        return (await client.ask(pull_request("T", 1))).code == 21

    await eventually(moved)
    assert (await client.pull("T", 1)).outcome == (21, 3)
    assert await send_patiently(client, "d") == 3


async def test_delayed_message_of_a_lost_queue_is_stored_behind_its_end(
    master: Broker, server: EmbeddedServer, connect: Connect
) -> None:
    client = connect(master)
    await client.send("T", *"abc")
    await client.send("T", "later", properties="UNIQ_KEY\x01A1\x02TIMER_DELAY_MS\x01300\x02")
    await evict_the_stream(server, master)

    async def delivered() -> list[str]:
        return (await client.pull("T", 3)).bodies

    assert await eventually(delivered) == ["later"]


async def test_flushed_store_moves_members_to_start_after_master_restart(
    start_broker: StartBroker, server: EmbeddedServer, connect: Connect
) -> None:
    """Nobody knows the old offsets any more: a member beyond the end gets all that there is."""
    first = await start_broker(store=server.url, lease_s=SHORT_S)
    await connect(first).send("T", *"abc")
    await first.close()
    await flush(server, first)
    client = connect(await start_broker(store=server.url, lease_s=SHORT_S))
    await client.send("T", "new")
    assert (await client.pull("T", 3)).outcome == (21, 0)
    await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, 1)))
    assert (await client.pull("T", 3)).outcome == (21, 1)


@pytest.mark.parametrize("name", ["topics", "groups", "version", "queue_numbers", "consumed"])
async def test_evicted_broker_key_is_rewritten(
    name: str,
    master: Broker,
    start_broker: StartBroker,
    server: EmbeddedServer,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = connect(master)
    await client.send("T", *"abc")
    await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, 2)))
    assert (await client.pull("T", 2)).bodies == ["c"]
    keys = master.parts.state.queue_store.keys
    key: bytes = getattr(keys, name)
    with redis.Redis.from_url(server.url) as store:
        await eventually(lambda: store.hget(keys.offsets("G", "T"), "0") == b"2")
        known = store.dump(key)
        store.delete(key)
        await eventually(lambda: store.exists(key) == 1)
        if name in ("topics", "groups", "consumed"):
            assert store.dump(key) == known
    assert "lost" in caplog.text
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("Later", 4, 4, 6)))
    numbers = [queue.number for queue in master.parts.state.queue_store.queues.values()]
    assert len(numbers) == len(set(numbers)) == len(master.parts.state.queue_store.queues_by_number)
    caplog.clear()
    for _ in range(3):  # once is enough
        await master.parts.leadership._look_as_master()
    assert "lost" not in caplog.text
    await master.close()
    client = connect(await start_broker(store=server.url, lease_s=SHORT_S))
    assert await client.pull_all("T") == ["a", "b", "c"]
    query = request(RequestCode.QUERY_CONSUMER_OFFSET, QueryConsumerOffsetRequestHeader("G", "T", 0))
    assert int(((await client.ok(query)).ext_fields or {})["offset"]) == 2


async def test_evicted_offsets_of_an_idle_group_are_rewritten(
    master: Broker, server: EmbeddedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(master)
    await client.send("T", *"abc")
    await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("G", "T", 0, 2)))
    key = master.parts.state.queue_store.keys.offsets("G", "T")
    with redis.Redis.from_url(server.url) as store:
        await eventually(lambda: store.hget(key, "0") == b"2")
        store.delete(key)
        await eventually(lambda: store.hget(key, "0") == b"2")
    assert key.decode() in caplog.text


async def test_queue_numbers_are_not_reused_before_the_loss_is_noticed(
    start_broker: StartBroker, server: EmbeddedServer, connect: Connect
) -> None:
    master = await start_broker(store=server.url, lease_s=60)
    client = connect(master)
    await client.send("T", "a")
    with redis.Redis.from_url(server.url) as store:
        store.delete(master.parts.state.queue_store.keys.queue_numbers)
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("Later", 4, 4, 6)))
    numbers = [queue.number for queue in master.parts.state.queue_store.queues.values()]
    assert len(numbers) == len(set(numbers)) == len(master.parts.state.queue_store.queues_by_number)


async def test_stream_lost_while_offline_continues_behind_consumed_offsets(
    start_broker: StartBroker, server: EmbeddedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    first = await start_broker(store=server.url, lease_s=SHORT_S)
    client = connect(first)
    await client.send("T", *"abc")
    await client.send("T", "x", queue_id=1)
    for queue_id, offset in enumerate((3, 2**40)):  # the second is somebody's error, and moves nothing
        header = UpdateConsumerOffsetRequestHeader("G", "T", queue_id, offset)
        await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, header))
    await first.close()
    await evict_the_stream(server, first)
    client = connect(await start_broker(store=server.url, lease_s=SHORT_S))
    assert "lost messages" in caplog.text
    assert await send_patiently(client, "d") == 3
    assert (await client.pull("T", 3)).bodies == ["d"]
    assert (await client.send("T", "y", queue_id=1))[0].queue_offset == 1


async def test_recreated_topic_starts_behind_its_old_end_after_a_flush(
    master: Broker, server: EmbeddedServer, connect: Connect
) -> None:
    client = connect(master)
    await client.send("T", *"abc")
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    epoch = master.parts.state.queue_store.epoch
    await flush(server, master)
    await eventually(lambda: master.parts.state.queue_store.epoch > epoch)
    assert await send_patiently(client, "new") == 3


async def test_slave_does_not_take_a_flushed_store_from_a_running_master(
    master: Broker, start_broker: StartBroker, server: EmbeddedServer, connect: Connect
) -> None:
    slave = await start_broker(store=server.url, lease_s=SHORT_S, broker_id=1)
    client = connect(master)
    await client.send("T", *"abc")
    for number in range(3):
        await flush(server, master)
        assert await send_patiently(client, f"d{number}") == 3 + number
    assert (master.broker_id, slave.broker_id) == (0, 1)


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
        ({"maxmemory-policy": "volatile-ttl"}, "maxmemory-policy is volatile-ttl"),
        ({"appendonly": "no"}, "no persistence"),
        ({"appendonly": "no", "save": "3600 1"}, "appendonly is no: a restart loses what came after the last snapshot"),
        ({}, ""),
    ],
)
async def test_store_that_can_lose_messages_is_warned_about_at_start(
    settings: dict[str, str],
    warning: str,
    tmp_path: Path,
    start_broker: StartBroker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = EmbeddedServer(tmp_path / "own", settings=settings)
    server.start()
    try:
        broker = await start_broker(store=server.url)
        found = [record.getMessage() for record in caplog.records if "the store: " in record.getMessage()]
        assert len(found) == bool(warning), found
        assert warning in "".join(found)
        await broker.close()
    finally:
        server.kill()


async def test_recreated_topic_starts_behind_its_old_end_after_restart(
    start_broker: StartBroker, server: EmbeddedServer, connect: Connect
) -> None:
    broker = await start_broker(store=server.url, lease_s=SHORT_S)
    client = connect(broker)
    await client.send("T", *"abc")
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    await broker.close()
    client = connect(await start_broker(store=server.url, lease_s=SHORT_S))
    assert await send_patiently(client, "new") == 3
    answer = await client.ok(
        request(RequestCode.QUERY_CONSUMER_OFFSET, QueryConsumerOffsetRequestHeader("new-group", "T", 0))
    )
    assert int((answer.ext_fields or {})["offset"]) == 3  # complete, so a new group reads it from its beginning
