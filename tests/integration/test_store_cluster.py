"""A store on a Redis Cluster of three shards: every group on one, different groups on different ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from helpers import Connect, StartBroker, eventually, send_request
from redis.crc import key_slot

from rmq_redis.codes import RequestCode
from rmq_redis.protocol.command import request
from rmq_redis.protocol.header import CreateTopicRequestHeader
from rmq_redis.store.embedded import EmbeddedServer, free_port

SHARDS = 3
SLOTS = 16384
LONG_S = 60.0


class Shards:
    """Three primaries that share the slots."""

    def __init__(self, directory: Path) -> None:
        self.servers = [
            EmbeddedServer(
                directory / f"shard-{i}",
                settings={
                    "cluster-enabled": "yes",
                    "cluster-port": str(free_port()),
                    "cluster-node-timeout": "5000",
                },
            )
            for i in range(SHARDS)
        ]
        for server in self.servers:
            server.start()
        bounds = [SLOTS * i // SHARDS for i in range(SHARDS + 1)]
        for i, server in enumerate(self.servers):
            with redis.Redis.from_url(server.url) as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
                first = self.servers[0]
                port = first._settings["cluster-port"]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, port)

    def is_ready(self) -> bool:
        states = []
        for server in self.servers:
            with redis.Redis.from_url(server.url) as client:
                states.append(client.execute_command("CLUSTER INFO"))
        return all(s["cluster_state"] == "ok" and s["cluster_known_nodes"] == str(SHARDS) for s in states)

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{server.port}' for server in self.servers)}"

    def all_keys(self) -> list[set[str]]:
        """All keys of each shard."""
        found = []
        for server in self.servers:
            with redis.Redis.from_url(server.url) as client:
                found.append({key.decode() for key in client.keys("*")})
        return found

    def move_slot(self, slot: int, source: int, target: int) -> None:
        """The slot with its keys, as resharding does it."""
        with (
            redis.Redis.from_url(self.servers[source].url) as old,
            redis.Redis.from_url(self.servers[target].url) as new,
        ):
            ids = [client.execute_command("CLUSTER MYID").decode() for client in (old, new)]
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
            while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                old.execute_command("MIGRATE", "127.0.0.1", self.servers[target].port, "", 0, 5000, "KEYS", *keys)
            for client in (new, old):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])


@pytest.fixture
async def shards(tmp_path: Path, embedded_server: EmbeddedServer) -> Iterator[Shards]:
    made = Shards(tmp_path)
    try:
        await eventually(made.is_ready, timeout_s=LONG_S)
        yield made
    finally:
        for server in made.servers:
            server.kill()


def names_by_shard() -> list[str]:
    """A broker name for each shard."""
    names: dict[int, str] = {}
    number = 0
    while len(names) < SHARDS:
        name = f"broker-{number}"
        names.setdefault(key_slot(name.encode()) * SHARDS // SLOTS, name)
        number += 1
    return [names[i] for i in range(SHARDS)]


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


async def test_a_group_follows_its_slot_to_another_shard(
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
    await eventually(lambda: broker._queue_store._reads.connection is not None)

    async def reads() -> bool:
        return (await client.pull("T", 0)).code == 0

    await eventually(reads, timeout_s=LONG_S)
    stored = await client.pull_all("T")
    assert stored[:50] == [f"m{i}" for i in range(50)]
    assert set(stored[50:]) == {"new"}
    assert any(f"{{{name}}}:queue:T" in key for key in shards.all_keys()[2])
