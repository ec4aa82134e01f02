"""Retention at a broker: by age, count and bytes, its own and its slaves' view, restart, and a store that is full."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from helpers import BrokerClient, Connect, StartBroker, eventually, pull_request, send_request

from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import StoreFencedError
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader, TopicRequestHeader
from rmq_redis.protocol.headers.offsets import (
    EarliestMsgStoretimeResponseHeader,
    OffsetResponseHeader,
    QueueOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from rmq_redis.store.embedded import EmbeddedServer

FAST = {"retention_period_s": 0.02}


async def create(client: BrokerClient, topic: str, attributes: str | None = None, queues: int = 1) -> None:
    header = CreateTopicRequestHeader(topic, queues, queues, 6, attributes=attributes)
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, header))


async def bound(client: BrokerClient, code: int, topic: str = "T", queue_id: int = 0) -> int:
    answer = await client.ok(request(code, QueueOffsetRequestHeader(topic, queue_id)))
    return answer.header(OffsetResponseHeader).offset


async def min_offset(client: BrokerClient, topic: str = "T", queue_id: int = 0) -> int:
    return await bound(client, RequestCode.GET_MIN_OFFSET, topic, queue_id)


async def stats(client: BrokerClient, topic: str = "T") -> list[dict[str, Any]]:
    table = await client.get(RequestCode.GET_TOPIC_STATS_INFO, TopicRequestHeader(topic))
    return list(table["offsetTable"].values())


# --- age ------------------------------------------------------------------------------------------------------------


async def test_expired_messages_are_removed_even_if_unread(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(**FAST))
    await create(client, "T")
    await client.send("T", "a", "b", "c")
    await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, UpdateConsumerOffsetRequestHeader("idle", "T", 0, 1)))
    assert await client.pull_all("T", group="idle") == ["a", "b", "c"]
    await create(client, "T", "+reserve.time=1s")
    await eventually(lambda: all_gone(client), "all are too old")
    await create(client, "T", "-reserve.time")
    pulled = await client.pull("T", 1, group="idle")
    assert pulled.outcome == (ResponseCode.PULL_OFFSET_MOVED, 3)
    assert (pulled.header.min_offset, pulled.header.max_offset) == (3, 3)
    assert (await client.send("T", "d"))[0].queue_offset == 3  # offsets go on where they were
    assert (await client.pull("T", 3, group="idle")).bodies == ["d"]


async def all_gone(client: BrokerClient) -> bool:
    return await min_offset(client) == await bound(client, RequestCode.GET_MAX_OFFSET)


async def test_only_expired_messages_are_removed(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(**FAST))
    await create(client, "T", "+reserve.time=2s")
    await client.send("T", *(f"old{number}" for number in range(700)))
    answer = await client.ok(request(RequestCode.GET_EARLIEST_MSG_STORETIME, QueueOffsetRequestHeader("T", 0)))
    first_ms = answer.header(EarliestMsgStoretimeResponseHeader).timestamp

    async def send_until_trimmed() -> bool:
        await client.send("T", "new")
        return await min_offset(client) > 0

    await eventually(send_until_trimmed)
    pulled = await client.pull("T", 0)
    assert pulled.code == ResponseCode.PULL_OFFSET_MOVED
    low = pulled.header.next_begin_offset
    newest = (await client.pull("T", low)).messages[0].store_timestamp_ms
    assert low <= 700 or newest >= first_ms
    # No gap behind the new beginning.
    offsets = []
    while (pulled := await client.pull("T", low)).code != ResponseCode.PULL_NOT_FOUND:
        if pulled.code == ResponseCode.SUCCESS:
            offsets += [message.queue_offset for message in pulled.messages]
        low = pulled.header.next_begin_offset
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))


async def test_retry_dlq_and_system_topics_expire_by_age_too(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(file_reserved_time_h=1 / 3600, topic_max_msg_nums=1, **FAST)
    client = connect(broker)
    for topic in ("%RETRY%G", "%DLQ%G"):
        await broker.parts.state.auto_creation.ensure_group("G")
        await broker.parts.state.auto_creation.ensure_dead_letter_topic("G")
        await client.send(topic, "a", "b", "c")
    policy = broker.parts.retention.policy
    assert policy(broker.parts.state.topics.topics["%DLQ%G"]) == policy(broker.parts.state.topics.topics["%RETRY%G"])
    assert policy(broker.parts.state.topics.topics["%DLQ%G"]).max_msg_nums == 0
    await client.send("RMQ_SYS_TRACE_TOPIC", "trace")
    for topic, end in (("%RETRY%G", 3), ("%DLQ%G", 3), ("RMQ_SYS_TRACE_TOPIC", 1)):
        await eventually(lambda topic=topic, end=end: has_min(client, topic, end))


async def has_min(client: BrokerClient, topic: str, offset: int) -> bool:
    return await min_offset(client, topic) == offset


# --- count and bytes ------------------------------------------------------------------------------------------------


async def test_topic_keeps_the_newest_n_messages_of_all_its_queues(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(**FAST))
    await create(client, "T", queues=2)
    await client.send("T", *map(str, range(1200)), queue_id=0)
    await client.send("T", *map(str, range(100)), queue_id=1)
    await create(client, "T", "+reserve.count=600", queues=2)
    await eventually(lambda: has_min(client, "T", 700))
    assert [(queue["minOffset"], queue["maxOffset"]) for queue in await stats(client)] == [(700, 1200), (0, 100)]
    await create(client, "T", "-reserve.count", queues=2)
    await client.send("T", "more")
    assert await min_offset(client) == 700


async def test_topic_keeps_at_most_n_bytes(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(**FAST))
    limit = 300_000
    await create(client, "T", f"+reserve.bytes={limit}")
    body = b"x" * 1000
    for _ in range(10):
        await asyncio.gather(*(client.ok(send_request("T", body)) for _ in range(100)))

    async def within() -> bool:
        return (await stats(client))[0]["storeBytes"] <= limit

    await eventually(within)
    queue = (await stats(client))[0]
    assert 0.5 * limit < queue["storeBytes"]
    kept = queue["maxOffset"] - queue["minOffset"]
    assert queue["maxOffset"] == 1000
    assert 100 < kept < 300
    # A message larger than everything may be: it goes at the next look, and the broker with it on.
    await client.ok(send_request("T", b"y" * 1_000_000))
    await eventually(lambda: has_min(client, "T", 1001))
    assert (await client.send("T", "z"))[0].queue_offset == 1001


async def test_estimated_size_is_close_to_the_real_size(
    client: BrokerClient, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    """Small messages first, large ones later: the estimate comes from the oldest."""
    for size in (50, 300, 3000):
        for _ in range(5):
            await asyncio.gather(*(client.ok(send_request("T", b"x" * size)) for _ in range(200)))
        (queue,) = [queue for queue in await stats(client) if queue["maxOffset"]]
        async with redis.asyncio.Redis.from_url(embedded_server.url) as server:
            key = f"{key_prefix}:{{broker-a}}:queue:T:0"
            exact = await server.memory_usage(key, samples=0)
        assert exact / 2 < queue["storeBytes"] < exact * 2


@pytest.mark.parametrize(
    "attributes", ["+reserve.time=soon", "+reserve.bytes=12x", "+reserve.count=5k", "+reserve.count=-2"]
)
async def test_invalid_retention_attribute_is_refused(client: BrokerClient, attributes: str) -> None:
    header = CreateTopicRequestHeader("T", 1, 1, 6, attributes=attributes)
    answer = await client.ask(request(RequestCode.UPDATE_AND_CREATE_TOPIC, header))
    assert answer.code == ResponseCode.INVALID_PARAMETER
    assert attributes[1:].partition("=")[0] in (answer.remark or "")


# --- who sees it ----------------------------------------------------------------------------------------------------


async def test_queue_bounds_survive_a_restart_even_of_an_empty_queue(
    start_broker: StartBroker, connect: Connect
) -> None:
    first = await start_broker(**FAST)
    client = connect(first)
    await create(client, "T", "+reserve.count=10")
    await create(client, "E", "+reserve.time=1s")
    await client.send("T", *map(str, range(25)))
    await client.send("E", "a", "b")
    await eventually(lambda: has_min(client, "T", 15))
    await eventually(lambda: has_min(client, "E", 2))
    await first.close()
    again = connect(await start_broker())
    assert (await min_offset(again, "T"), await bound(again, RequestCode.GET_MAX_OFFSET, "T")) == (15, 25)
    assert (await min_offset(again, "E"), await bound(again, RequestCode.GET_MAX_OFFSET, "E")) == (2, 2)
    assert (await again.pull("E", 0)).outcome == (ResponseCode.PULL_OFFSET_MOVED, 2)
    assert (await again.pull("T", 3)).outcome == (ResponseCode.PULL_OFFSET_MOVED, 15)
    assert await again.pull_all_from("T", 15) == [str(number) for number in range(15, 25)]
    assert (await again.send("E", "c"))[0].queue_offset == 2


async def test_slave_follows_the_trimmed_min_offset(start_broker: StartBroker, connect: Connect) -> None:
    client = connect(await start_broker(**FAST))
    slave = connect(await start_broker(broker_id=1))
    await create(client, "T")
    await client.send("T", *map(str, range(20)))
    assert (await slave.pull("T", 0)).header.min_offset == 0
    await create(client, "T", "+reserve.count=5")
    await eventually(lambda: has_min(client, "T", 15))
    assert await min_offset(slave, "T") == 15
    assert await slave.pull_all_from("T", 15) == [str(number) for number in range(15, 20)]
    # Only the master moves an offset: a slave has its client ask there.
    pulled = await slave.pull("T", 3)
    assert pulled.outcome == (ResponseCode.PULL_RETRY_IMMEDIATELY, 3)
    assert pulled.header.suggest_which_broker_id == 0
    assert (await stats(slave))[0] == (await stats(client))[0]


async def test_pending_entries_of_stream_groups_are_removed_with_messages(
    start_broker: StartBroker, connect: Connect, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    client = connect(await start_broker(**FAST))
    await create(client, "T")
    await client.send("T", *map(str, range(1300)))
    key = f"{key_prefix}:{{broker-a}}:queue:T:0"
    async with redis.asyncio.Redis.from_url(embedded_server.url) as server:
        await server.xgroup_create(key, "pop", "0")
        await server.xreadgroup("pop", "consumer", {key: ">"}, count=1250)
        await create(client, "T", "+reserve.count=100")
        await eventually(lambda: has_min(client, "T", 1200))
        assert (await server.xpending(key, "pop"))["pending"] == 50


async def test_recreated_topic_is_not_trimmed_by_old_offsets(start_broker: StartBroker, connect: Connect) -> None:
    broker = await start_broker(retention_period_s=1000)
    client = connect(broker)
    await client.send("T", "a", "b")
    old = broker.parts.state.topics.topics["T"].queues[0]
    await client.ok(request(RequestCode.DELETE_TOPIC_IN_BROKER, TopicRequestHeader("T")))
    await client.send("T", "c")
    await broker.parts.retention._store.trim(old, 3)
    assert await client.pull_all_from("T", 2) == ["c"]


async def test_fenced_master_trims_nothing(
    start_broker: StartBroker, connect: Connect, embedded_server: EmbeddedServer, key_prefix: str
) -> None:
    broker = await start_broker(retention_period_s=1000)
    await connect(broker).send("T", "a", "b")
    async with redis.asyncio.Redis.from_url(embedded_server.url) as server:
        await server.incr(f"{key_prefix}:{{broker-a}}:epoch")
        with pytest.raises(StoreFencedError):
            await broker.parts.retention._store.trim(broker.parts.state.topics.topics["T"].queues[0], 1)
        assert await server.xlen(f"{key_prefix}:{{broker-a}}:queue:T:0") == 2


async def test_slave_continues_trimming_after_takeover(start_broker: StartBroker, connect: Connect) -> None:
    master = await start_broker(**FAST)
    client = connect(master)
    await create(client, "T", "+reserve.count=10")
    await client.send("T", *map(str, range(20)))
    await eventually(lambda: has_min(client, "T", 10))
    slave = await start_broker(broker_id=1, **FAST)
    other = connect(slave)
    await master.close()

    async def took() -> bool:
        return (await other.ask(send_request("T", b"20"))).code == 0

    await eventually(took, "the slave is the master")
    await other.send("T", *map(str, range(21, 25)))
    await eventually(lambda: has_min(other, "T", 15))
    assert await other.pull_all_from("T", 15) == [str(number) for number in range(15, 25)]


async def test_queue_bounds_survive_a_store_crash_and_an_aof_rewrite(
    start_broker: StartBroker, connect: Connect, tmp_path: Path
) -> None:
    """kill -9 of the store, once with the file as it grew and once rewritten: a queue trimmed empty keeps its end."""
    with EmbeddedServer(tmp_path / "own", settings={"appendfsync": "always"}) as server:
        broker = await start_broker(store=server.url, lease_s=60.0, **FAST)
        client = connect(broker)
        await create(client, "T", "+reserve.count=4")
        await create(client, "E", "+reserve.time=1s")
        await client.send("T", *map(str, range(10)))
        await client.send("E", "a", "b", "c")
        await eventually(lambda: has_min(client, "T", 6))
        await eventually(lambda: has_min(client, "E", 3))
        for rewritten in (False, True):
            if rewritten:
                async with redis.asyncio.Redis.from_url(server.url) as connection:
                    await connection.bgrewriteaof()

                    async def done() -> bool:
                        info = await connection.info("persistence")
                        return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]

                    await eventually(done)
            server.kill()
            await eventually(lambda: not broker.parts.state.queue_store.available)
            await asyncio.to_thread(server.start)
            await eventually(lambda: broker.parts.state.queue_store.available)
            assert (await min_offset(client), await bound(client, RequestCode.GET_MAX_OFFSET)) == (6, 10)
            assert (await min_offset(client, "E"), await bound(client, RequestCode.GET_MAX_OFFSET, "E")) == (3, 3)
            assert await client.pull_all_from("T", 6) == ["6", "7", "8", "9"]
        assert (await client.send("E", "d"))[0].queue_offset == 3
        await broker.close()


@pytest.mark.parametrize("code", [RequestCode.DELETE_EXPIRED_COMMITLOG, RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE])
async def test_cleanup_request_trims_at_once(start_broker: StartBroker, connect: Connect, code: int) -> None:
    broker = await start_broker(retention_period_s=1000)
    client, slave = connect(broker), connect(await start_broker(broker_id=1))
    await create(client, "T", "+reserve.count=2")
    await client.send("T", *map(str, range(5)))
    await slave.ok(request(code))

    async def asked() -> bool:
        await client.ok(request(code))
        return await min_offset(client) == 3

    await eventually(asked)


# --- the memory of the store ----------------------------------------------------------------------------------------


@pytest.fixture
async def small_store(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server of its own that refuses writes above 24 MB."""
    settings = {"appendonly": "no", "maxmemory": "24mb", "maxmemory-policy": "noeviction"}
    with EmbeddedServer(tmp_path / "small", settings=settings) as server:
        yield server


async def load(client: BrokerClient, rounds: int, body: bytes) -> list[int]:
    """Sends in rounds of 50; returns the codes of the answers."""
    codes = []
    for _ in range(rounds):
        answers = await asyncio.gather(*(client.ask(send_request("T", body)) for _ in range(50)))
        codes += [answer.code for answer in answers]
    return codes


async def used_memory(server: EmbeddedServer) -> int:
    async with redis.asyncio.Redis.from_url(server.url) as connection:
        used: int = (await connection.info("memory"))["used_memory"]
        return used


async def test_endless_load_stays_within_the_memory_of_the_store(
    start_broker: StartBroker, connect: Connect, small_store: EmbeddedServer
) -> None:
    """Five times as much as fits: the oldest go, what was acknowledged last is there, and Redis never ran out."""
    broker = await start_broker(store=small_store.url)
    client = connect(broker)
    await create(client, "T")
    codes = []
    most = 0
    for _ in range(12):
        codes += await load(client, 20, b"x" * 10_000)
        most = max(most, await used_memory(small_store))
    assert most <= 24 << 20
    taken = codes.count(0)
    assert taken > 6000
    assert set(codes) <= {0, ResponseCode.SERVICE_NOT_AVAILABLE}
    low, high = await min_offset(client), await bound(client, RequestCode.GET_MAX_OFFSET)
    assert high == taken
    assert 0 < low < high
    offsets: list[int] = []
    while (pulled := await client.pull("T", low)).code != ResponseCode.PULL_NOT_FOUND:
        if pulled.code == ResponseCode.PULL_OFFSET_MOVED:  # a last step came between
            offsets = []
        offsets += [message.queue_offset for message in pulled.messages]
        low = pulled.header.next_begin_offset
    assert offsets == list(range(offsets[0], high))
    assert offsets[0] < high - 500


async def test_without_forced_cleanup_sends_are_refused_and_reads_continue(
    start_broker: StartBroker, connect: Connect, small_store: EmbeddedServer
) -> None:
    broker = await start_broker(store=small_store.url, clean_file_forcibly_enable=False, **FAST)
    client = connect(broker)
    await create(client, "T")

    async def refused() -> bool:
        return set(await load(client, 1, b"x" * 10_000)) == {ResponseCode.SERVICE_NOT_AVAILABLE}

    async def refused_as_full() -> bool:
        answer = await client.ask(send_request("T", b"one more"))
        return answer.code == ResponseCode.SERVICE_NOT_AVAILABLE and "full" in (answer.remark or "")

    await eventually(refused)
    await eventually(refused_as_full)
    end = await bound(client, RequestCode.GET_MAX_OFFSET)
    assert await min_offset(client) == 0
    assert len(await client.pull_all_from("T", 0)) == end

    async def told() -> Any:
        await load(client, 1, b"x" * 10_000)  # the buffers of the reads above are gone again
        table = (await client.get(RequestCode.GET_BROKER_RUNTIME_INFO))["table"]
        return table if table["storeFull"] == "true" else None

    table = await eventually(told)
    assert 0.7 < float(table["commitLogDiskRatio"]) < 1.0
    assert int(table["earliestMessageTimeStamp"]) > 0
    # Room again, by an operator's hand: sends are taken without a restart.
    await create(client, "T", "+reserve.count=10")
    await eventually(lambda: takes(client))


@pytest.mark.parametrize("properties", ["TIMER_DELAY_SEC\x01100\x02", "TRAN_MSG\x01true\x02PGROUP\x01PG\x02"])
async def test_delayed_and_half_messages_count_toward_the_memory_limit(
    start_broker: StartBroker, connect: Connect, tmp_path: Path, properties: str
) -> None:
    """Timers and half messages cannot be trimmed: they are refused in time, also between two looks."""
    with EmbeddedServer(tmp_path / "unbounded", settings={"appendonly": "no"}) as server:
        bound_bytes = await used_memory(server) + (8 << 20)
        broker = await start_broker(store=server.url, store_max_bytes=bound_bytes, retention_period_s=1000)
        client = connect(broker)
        await client.send("T", "kept")
        await eventually(lambda: broker.parts.retention.memory)
        codes: set[int] = set()

        async def refused() -> bool:
            commands = [send_request("T", b"x" * 10_000, properties=properties) for _ in range(50)]
            answers = await asyncio.gather(*(client.ask(command) for command in commands))
            codes.update(answer.code for answer in answers)
            return {answer.code for answer in answers} == {ResponseCode.SERVICE_NOT_AVAILABLE}

        await eventually(refused)
        assert codes == {ResponseCode.SUCCESS, ResponseCode.SERVICE_NOT_AVAILABLE}
        assert await used_memory(server) <= bound_bytes
        assert await client.pull_all("T") == ["kept"]
        await broker.close()


async def takes(client: BrokerClient) -> bool:
    return (await client.ask(send_request("T", b"x"))).code == ResponseCode.SUCCESS


async def test_full_redis_refuses_sends_with_14_while_reads_continue(
    start_broker: StartBroker, connect: Connect, small_store: EmbeddedServer
) -> None:
    """Somebody else filled the server: what we have cannot make room, so nothing is thrown away for it."""
    broker = await start_broker(store=small_store.url, **FAST)
    client = connect(broker)
    await create(client, "T")
    await client.send("T", *map(str, range(20)))
    async with redis.asyncio.Redis.from_url(small_store.url) as server:
        for number in range(40):
            try:
                await server.set(f"other:{number}", b"x" * (1 << 20))
            except redis.ResponseError:
                break
        await server.config_set("maxmemory", "2mb")
        answer = await client.ask(send_request("T", b"refused"))
        assert answer.code == ResponseCode.SERVICE_NOT_AVAILABLE
        assert await client.pull_all("T") == [str(number) for number in range(20)]
        header = UpdateConsumerOffsetRequestHeader("G", "T", 0, 7)
        await client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, header))
        assert await server.hget(f"{broker.config.key_prefix}:{{broker-a}}:offsets:G:T", "0") == b"7"
        await broker.parts.retention._store.trim(broker.parts.state.topics.topics["T"].queues[0], 5)
        assert await min_offset(client) == 5
        # A broker that starts at the full server serves what is there.
        await broker.close()
        broker = await start_broker(store=small_store.url, **FAST)
        client = connect(broker)
        assert (await client.ask(pull_request("T", 5))).code == ResponseCode.SUCCESS
        assert (await client.ask(send_request("T", b"refused"))).code == ResponseCode.SERVICE_NOT_AVAILABLE
        await server.config_set("maxmemory", "100mb")
        await eventually(lambda: takes(client))
    assert (await client.pull("T", 20)).bodies == ["x"]
