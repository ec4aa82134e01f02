"""A Redis Cluster of embedded servers, each shard with or without a replica."""

from __future__ import annotations

from pathlib import Path

import redis
from redis.crc import key_slot

from rmq_redis.store.embedded import EmbeddedServer, free_port

SHARDS = 3
SLOTS = 16384


class Shards:
    """Primaries that share the slots evenly, and their replicas (``replicas``: one of each, or none).

    Args:
        full_coverage: Redis' default: while a slot has no primary, no shard takes anything.
    """

    def __init__(self, directory: Path, *, with_replicas: bool = False, full_coverage: bool = True) -> None:
        self._settings = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": "5000",
            "cluster-require-full-coverage": "yes" if full_coverage else "no",
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
        }
        self.servers = [self._server(directory / f"shard-{i}") for i in range(SHARDS)]
        self.replicas = [self._server(directory / f"replica-{i}") for i in range(SHARDS if with_replicas else 0)]
        for server in self.all_servers:
            server.start()
        bounds = [SLOTS * i // SHARDS for i in range(SHARDS + 1)]
        first = self.servers[0]
        for server in self.all_servers:
            with redis.Redis.from_url(server.url) as client:
                if server in self.servers:
                    i = self.servers.index(server)
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
                port = first._settings["cluster-port"]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, port)

    def _server(self, directory: Path) -> EmbeddedServer:
        return EmbeddedServer(directory, settings=self._settings | {"cluster-port": str(free_port())})

    @property
    def all_servers(self) -> list[EmbeddedServer]:
        return [*self.servers, *self.replicas]

    def is_ready(self) -> bool:
        """Whether all know one another and every replica follows its primary; tells the replicas whom to follow."""
        for server in self.all_servers:
            with redis.Redis.from_url(server.url) as client:
                state = client.execute_command("CLUSTER INFO")
            if state["cluster_state"] != "ok" or state["cluster_known_nodes"] != str(len(self.all_servers)):
                return False
        return all(self._follows(*pair) for pair in zip(self.replicas, self.servers, strict=False))

    def _follows(self, replica: EmbeddedServer, primary: EmbeddedServer) -> bool:
        with redis.Redis.from_url(replica.url) as copy, redis.Redis.from_url(primary.url) as original:
            if self.role(replica) == "master":
                copy.execute_command("CLUSTER", "REPLICATE", original.execute_command("CLUSTER MYID"))
            return bool(copy.info("replication").get("master_link_status") == "up")

    @staticmethod
    def role(server: EmbeddedServer) -> str:
        """master or slave."""
        with redis.Redis.from_url(server.url) as client:
            return str(client.info("replication")["role"])

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

    def kill(self) -> None:
        for server in self.all_servers:
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
