"""A store on a Redis Cluster of three shards: every group on one, different groups on different ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cluster_support import SHARDS, Shards, names_by_shard
from helpers import Connect, StartBroker, eventually, send_request
from redis.crc import key_slot

from rmq_redis.codes import RequestCode
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader
from rmq_redis.store.embedded import EmbeddedServer

LONG_S = 60.0


@pytest.fixture
async def shards(tmp_path: Path, embedded_server: EmbeddedServer) -> AsyncIterator[Shards]:
    made = Shards(tmp_path)
    try:
        await eventually(made.is_ready, timeout_s=LONG_S)
        yield made
    finally:
        made.kill()


async def test_groups_are_on_different_shards(shards: Shards, start_broker: StartBroker, connect: Connect) -> None:
    for index, name in enumerate(names_by_shard()):
        broker = await start_broker(store=shards.url, broker_name=name)
        slave = await start_broker(store=shards.url, broker_name=name, broker_id=1, failover=False)
        client = connect(broker)
        await client.send("T", "a", "b", "c")
        await client.send("T", "later", properties="TIMER_DELAY_SEC\x011\x02")
        assert (await connect(slave).pull_all("T"))[:3] == ["a", "b", "c"]
        has_keys = [any(f"{{{name}}}" in key for key in keys) for keys in shards.all_keys()]
        assert has_keys == [shard == index for shard in range(SHARDS)]


async def test_group_follows_its_slot_to_another_shard(
    shards: Shards, start_broker: StartBroker, connect: Connect
) -> None:
    name = names_by_shard()[0]
    broker = await start_broker(store=shards.url, broker_name=name)
    client = connect(broker)
    await client.ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, CreateTopicRequestHeader("T", 1, 1, 6)))
    await client.send("T", *(f"m{i}" for i in range(50)))
    shards.move_slot(key_slot(name.encode()), 0, 2)

    async def goes_on() -> bool:
        return (await client.ask(send_request("T", b"new"))).code == 0

    await eventually(goes_on, timeout_s=LONG_S)
    stored = await client.pull_all_patiently("T")
    assert stored[:50] == [f"m{i}" for i in range(50)]
    assert set(stored[50:]) == {"new"}
    assert any(f"{{{name}}}:queue:T" in key for key in shards.all_keys()[2])
