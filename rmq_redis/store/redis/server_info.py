"""What the Redis server says about itself (INFO, CONFIG): its replication, and whether it can lose messages."""

from __future__ import annotations

from typing import NamedTuple

from ...errors import StoreError
from .connection import StoreConnection


class Replica(NamedTuple):
    """A replica as its primary sees it. ``offset``: bytes of the replication stream that it confirmed."""

    address: str
    is_online: bool
    offset: int
    lag_s: int


class Replication(NamedTuple):
    """Redis' replication as one server sees it.

    Attributes:
        offset: bytes of the replication stream that this server has.
        replicas: those connected to it.
        primary: address of its own primary; "" for a primary.
        is_link_up: whether a replica is connected to its primary.
        last_io_s: seconds since a replica last heard from its primary; -1 for a primary.
        bytes_per_s: what it sends to replicas, or receives from its primary; 0 before Redis 7, which does not say it.
    """

    offset: int
    replicas: tuple[Replica, ...]
    primary: str
    is_link_up: bool
    last_io_s: int
    bytes_per_s: int


async def server_info(connection: StoreConnection, section: str) -> dict[str, str]:
    """The fields of a section of INFO. Raises StoreError, also for a user without permission."""
    answer: bytes = await connection.execute("INFO", section)
    return dict(line.split(":", 1) for line in answer.decode(errors="replace").splitlines() if ":" in line)


async def replication(connection: StoreConnection) -> Replication:
    """The state of replication. Raises StoreError."""
    info, stats = await server_info(connection, "replication"), await server_info(connection, "stats")
    is_replica = info.get("role") == "slave"
    direction = "input" if is_replica else "output"
    return Replication(
        offset=int(info.get("slave_repl_offset" if is_replica else "master_repl_offset", 0)),
        replicas=tuple(_replica(value) for name, value in info.items() if name.startswith("slave") and "ip=" in value),
        primary=f"{info['master_host']}:{info['master_port']}" if is_replica else "",
        is_link_up=info.get("master_link_status") == "up",
        last_io_s=int(info.get("master_last_io_seconds_ago", -1)),
        bytes_per_s=int(float(stats.get(f"instantaneous_{direction}_repl_kbps", 0)) * 1024),
    )


def _replica(text: str) -> Replica:
    """A line ``ip=10.0.0.2,port=6379,state=online,offset=42,lag=0``."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    address = f"{fields.get('ip', '')}:{fields.get('port', '')}"
    return Replica(address, fields.get("state") == "online", int(fields.get("offset", 0)), int(fields.get("lag", -1)))


async def durability_warnings(connection: StoreConnection) -> list[str]:
    """Settings of the server by which it can lose messages that were acknowledged; one sentence each.

    Raises:
        StoreError: the server does not answer INFO, or the user may not run it.
    """
    warnings = []
    policy = (await server_info(connection, "memory")).get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        warnings.append(
            f"maxmemory-policy is {policy}: when memory is full, Redis evicts messages, offsets or the lease; "
            "set maxmemory-policy noeviction"
        )
    if (await server_info(connection, "persistence")).get("aof_enabled") == "0":
        try:
            answer = await connection.execute("CONFIG", "GET", "save")
        except StoreError:  # managed servers refuse CONFIG
            answer = [b"save", b"?"]
        if len(answer) < 2 or not answer[1]:
            warnings.append("no persistence (appendonly no, no save points): a restart loses all; set appendonly yes")
        else:
            warnings.append("appendonly is no: a restart loses what came after the last snapshot; set appendonly yes")
    return warnings
