"""Which Redis server to connect to: a URL names one, or Sentinels or a Redis Cluster that know it.

| URL | the primary | replicas |
|---|---|---|
| ``redis://[user:password@]host:port/db``, ``rediss://…`` (TLS), ``unix:///path?db=0`` | that server | none |
| ``redis+sentinel://[user:password@]host:port,host:port/service[/db]`` (``rediss+sentinel``: TLS) | Sentinels | same |
| ``redis+cluster://[user:password@]host:port,host:port`` (``rediss+cluster``: TLS) | owner of the key's slot | its |

User, password and TLS files that a URL does not have come from the environment: ``<PREFIX>_USERNAME``, ``_PASSWORD``,
``_CA_CERTS``, ``_CERTFILE``, ``_KEYFILE``; the prefix is ``RMQ_REDIS_STORE`` or ``RMQ_REDIS_REGISTRY``. Sentinels have
their own user and password: ``?sentinel_username=…&sentinel_password=…``.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any, Protocol
from urllib.parse import unquote

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from ...errors import ConfigError, StoreError
from .url import read_url, redact, server_text

STORE_VARIABLES = "RMQ_REDIS_STORE"
REGISTRY_VARIABLES = "RMQ_REDIS_REGISTRY"
_FROM_ENVIRONMENT = {
    "username": "USERNAME",
    "password": "PASSWORD",
    "ssl_ca_certs": "CA_CERTS",
    "ssl_certfile": "CERTFILE",
    "ssl_keyfile": "KEYFILE",
}
_ASK_TIMEOUT_S = 1.0
"""A Sentinel or node that answers later is skipped: the next one knows the same."""
_SENTINEL_PORT = 26379
"""Source: ``sentinel.conf``."""
_REDIS_PORT = 6379
"""Source: ``redis.conf``."""

Parameters = dict[str, Any]
"""What one connection needs, by redis-py's names: host, port or path, db, username, password, ssl, ssl_….
``readonly``: a replica of a Redis Cluster, which needs READONLY before it serves reads."""


class Locator(Protocol):
    """Finds the servers of one store. Both methods raise StoreError when nobody knows."""

    shown: str
    """For messages and logs, without the password."""
    finds: bool
    """Whether it may find another server the next time; a server it calls primary must be one."""

    async def primary(self) -> Parameters: ...

    async def replica(self) -> Parameters:
        """A server to read from; the primary when there is no replica."""


def locator(url: str, tag: str = "", variables: str = STORE_VARIABLES) -> Locator:
    """What a URL stands for.

    Args:
        tag: hash tag of the keys that are meant, for Redis Cluster.

    Raises:
        ConfigError: not a URL of the kinds above.
    """
    kind = read_url(url).kind
    if kind == "sentinel":
        return _Sentinels(url, variables)
    if kind == "cluster":
        return _Cluster(url, tag, variables)
    return _Direct(url, variables)


def parse_store_url(url: str) -> Parameters:
    """Connection parameters of a URL of one server.

    Raises:
        ConfigError: not a redis://, rediss:// or unix:// URL.
    """
    found = read_url(url)
    try:
        if found.kind:
            raise ValueError
        parameters = dict(parse_url(url))
    except ValueError:  # its text may have a part of the password
        raise ConfigError(f"{found.shown!r} is not the URL of one Redis server: redis://host:port/db") from None
    parameters.pop("connection_class", None)
    if found.base == "rediss":
        parameters["ssl"] = True
    return parameters


def from_environment(parameters: Parameters, variables: str) -> Parameters:
    """The parameters, with what the environment has of those that are missing."""
    added = {
        name: os.environ[f"{variables}_{suffix}"]
        for name, suffix in _FROM_ENVIRONMENT.items()
        if not parameters.get(name) and os.environ.get(f"{variables}_{suffix}")
    }
    if not parameters.get("ssl"):
        added = {name: value for name, value in added.items() if not name.startswith("ssl_")}
    return parameters | added


class _Direct:
    finds = False

    def __init__(self, url: str, variables: str) -> None:
        self.shown = redact(url)
        self._parameters = from_environment(parse_store_url(url), variables)

    async def primary(self) -> Parameters:
        return self._parameters

    async def replica(self) -> Parameters:
        return self._parameters


class _Nodes:
    """What URLs with several servers have in common.

    Attributes:
        nodes: host and port of each.
        path: what follows them, split at its slashes.
        parameters: user, password and TLS of the servers with data.
        options: the query.
    """

    def __init__(self, url: str, default_port: int, variables: str) -> None:
        found = read_url(url)
        self.options = found.options
        self.shown = found.shown
        self.nodes: list[tuple[str, int]] = []
        for node in found.hosts.split(","):
            host, colon, port = node.rpartition(":")
            if not colon or node.endswith("]"):
                host, port = node, str(default_port)
            if not host or not 0 < int(port) < 65536:
                raise ConfigError(f"store {self.shown!r}: {node!r} is not host:port")
            self.nodes.append((host.strip("[]"), int(port)))
        self.path = [part for part in found.path.split("/") if part]
        parameters: Parameters = {name: value for name, value in self.options.items() if name.startswith("ssl_")}
        if found.base == "rediss":
            parameters["ssl"] = True
        if found.username:
            parameters["username"] = unquote(found.username)
        if found.password:
            parameters["password"] = unquote(found.password)
        self.parameters = from_environment(parameters, variables)


def sentinels(url: str, variables: str) -> tuple[Sentinel, str, Parameters]:
    """(redis-py's Sentinel client, service, parameters of its servers) of a ``redis+sentinel://`` URL.

    Raises:
        ConfigError: it cannot be read; the text says why.
    """
    nodes = _Nodes(url, _SENTINEL_PORT, variables)
    service, db = (*nodes.path, "0")[:2] if nodes.path else ("", "")
    if not db.isdecimal() or len(nodes.path) > 2:
        raise ConfigError(f"store {nodes.shown!r} is not redis+sentinel://host:port,host:port/service/db")
    tls = {name: value for name, value in nodes.parameters.items() if name.startswith("ssl")}
    own = {name: nodes.options.get(f"sentinel_{name}") for name in ("username", "password")}
    settings: Parameters = {
        "socket_timeout": _ASK_TIMEOUT_S,
        "socket_connect_timeout": _ASK_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    client = Sentinel(nodes.nodes, sentinel_kwargs=settings | tls | own)  # type: ignore[no-untyped-call]
    return client, service, nodes.parameters | {"db": int(db)}


class _Sentinels:
    finds = True

    def __init__(self, url: str, variables: str) -> None:
        self._url = url
        self._variables = variables
        self.shown = redact(url)
        sentinels(url, variables)  # refuses now what cannot be read

    async def primary(self) -> Parameters:
        """What the Sentinel with the newest configuration says: an unreachable one may still name the old primary."""
        client, service, parameters = sentinels(self._url, self._variables)
        try:
            answers = await asyncio.gather(
                *(sentinel.sentinel_master(service) for sentinel in client.sentinels), return_exceptions=True
            )
        finally:
            await _close(client)
        states: list[dict[str, Any]] = [answer for answer in answers if isinstance(answer, dict)]
        if not states:
            raise StoreError(f"no Sentinel of {self.shown} knows the primary: {server_text(answers[0]) or 'no answer'}")
        newest = max(states, key=lambda state: int(state["config-epoch"]))
        return parameters | {"host": newest["ip"], "port": int(newest["port"])}

    async def replica(self) -> Parameters:
        client, service, parameters = sentinels(self._url, self._variables)
        try:
            found = await client.discover_slaves(service)
            host, port = random.choice(found) if found else await client.discover_master(service)
        except (RedisError, OSError) as error:
            raise StoreError(f"no Sentinel of {self.shown} knows a replica: {server_text(error)}") from None
        finally:
            await _close(client)
        return parameters | {"host": host, "port": port}


async def _close(client: Sentinel) -> None:
    for sentinel in client.sentinels:
        try:
            await sentinel.aclose()
        except (RedisError, OSError):
            pass


class _Cluster:
    """Queries one node at a time, each time another one: a node that is cut off, or slept, still names the old primary.

    Which of two is the newer says the owner's configuration epoch, which every promotion and every move of a slot makes
    the largest of the cluster. Nodes that the URL does not name are learned from those that it does.
    """

    finds = True

    def __init__(self, url: str, tag: str, variables: str) -> None:
        nodes = _Nodes(url, _REDIS_PORT, variables)
        if nodes.path and nodes.path != ["0"]:
            raise ConfigError(f"store {nodes.shown!r}: a Redis Cluster has database 0 only")
        self.shown = nodes.shown
        self._parameters = nodes.parameters
        self._named = tuple(nodes.nodes)
        self._nodes = nodes.nodes
        self._slot = key_slot(tag.encode())
        self._owner = ""
        self._epoch = 0

    async def primary(self) -> Parameters:
        (host, port), *_ = await self._servers()
        return self._parameters | {"host": host, "port": port}

    async def replica(self) -> Parameters:
        primary, *replicas = await self._servers()
        host, port = random.choice(replicas) if replicas else primary
        return self._parameters | {"host": host, "port": port, "readonly": bool(replicas)}

    async def _servers(self) -> list[tuple[str, int]]:
        """The slot's primary, then its replicas, as the first node knows them that answers and is not behind."""
        failures: list[str] = []
        nodes = self._nodes
        self._nodes = [*nodes[1:], nodes[0]]
        for node in nodes:
            try:
                ranges, epochs = await self._ask(*node)
            except (RedisError, OSError) as error:
                failures.append(f"{node[0]}:{node[1]}: {server_text(error)}")
                continue
            owner, servers = _servers_of(ranges, self._slot, node[0])
            epoch = epochs.get(owner, 0)
            if not servers:
                failures.append(f"{node[0]}:{node[1]}: nobody owns slot {self._slot}")
            elif epoch < self._epoch and owner != self._owner:
                failures.append(f"{node[0]}:{node[1]}: knows only {servers[0][0]}:{servers[0][1]}, which was replaced")
            else:
                self._owner, self._epoch = owner, max(epoch, self._epoch)
                self._learn(ranges, node[0])
                return servers
        raise StoreError(f"no node of {self.shown} helps: {'; '.join(failures)}")

    async def _ask(self, host: str, port: int) -> tuple[Any, dict[str, int]]:
        """CLUSTER SLOTS, and the configuration epochs of all nodes by their ids."""
        client: Redis = Redis(
            host=host,
            port=port,
            socket_timeout=_ASK_TIMEOUT_S,
            socket_connect_timeout=_ASK_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            **self._parameters,
        )
        try:
            ranges = await client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            nodes = await client.execute_command("CLUSTER NODES")  # type: ignore[no-untyped-call]
        finally:
            await client.aclose()
        return ranges, {node["node_id"]: int(node["epoch"]) for node in nodes.values()}

    def _learn(self, ranges: Any, asked_host: str) -> None:
        there = {
            (host.decode() if host else asked_host, port) for _, _, *servers in ranges for host, port, *_ in servers
        }
        known = set(self._nodes)
        self._nodes = [node for node in self._nodes if node in there or node in self._named] + sorted(there - known)


def _servers_of(answer: Any, slot: int, asked_host: str) -> tuple[str, list[tuple[str, int]]]:
    """Id of a slot's owner, and its servers, from CLUSTER SLOTS: ranges with the primary and the replicas.

    Each of these is [host, port, id, ...]. Nobody owns it: "" and none.
    """
    for first, last, *servers in answer:
        if first <= slot <= last:
            return servers[0][2].decode(), [(host.decode() if host else asked_host, port) for host, port, *_ in servers]
    return "", []
