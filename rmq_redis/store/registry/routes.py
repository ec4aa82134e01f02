"""The NameServers' registry in Redis: which brokers live, which topics each group has, KV config.

Any number of NameServers share one registry. Everything about a broker expires by itself; only KV config stays. Names
are percent-encoded in keys (``a:b`` is ``a%3Ab``), so that a key can be taken apart at its colons.

| key | type | TTL | holds |
|---|---|---|---|
| ``<prefix>:ns:<cluster>:broker:<brokerName>:<brokerId>`` | string | broker expiry | LiveBroker as JSON |
| ``<prefix>:ns:<cluster>:topics:<brokerName>`` | hash | broker expiry | topic -> QueueData as JSON; ``#revision`` |
| ``<prefix>:ns:brokers`` | sorted set | - | ``<cluster>:<brokerName>:<brokerId>`` by expiry (Redis time, s) |
| ``<prefix>:ns:kv:<namespace>`` | hash | - | key -> value |
| ``<prefix>:ns:kv`` | set | - | namespaces that were ever used |
| ``<prefix>:ns:events`` | channel | | RegistryEvent as JSON |
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, WatchError

from ...errors import ConfigError, StoreError
from ..keys import check_key_prefix
from ..redis.locate import REGISTRY_VARIABLES, Parameters, from_environment, parse_store_url, sentinels
from ..redis.url import read_url, server_text, without_credentials
from .entries import (
    REVISION_FIELD,
    GroupKey,
    GroupSnapshot,
    GroupWrite,
    LiveBroker,
    RegistryEvent,
    decode_event,
    decode_topics,
    encode_broker,
    encode_event,
    encode_name,
    encode_queue,
    index_member,
    index_members,
    live_brokers,
)

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 16
"""Each lost race means that another NameServer wrote: with a handful of them, so many in a row do not happen."""
_TIMEOUT_S = 2.0
"""Of connecting and of each command, which usually takes less than 1 ms."""


# --- keys --------------------------------------------------------------------------------------------------------


def broker_key(prefix: str, cluster: str, broker_name: str, broker_id: int) -> str:
    """String, TTL = broker expiry: one live broker."""
    return f"{prefix}:ns:{encode_name(cluster)}:broker:{encode_name(broker_name)}:{broker_id}"


def topics_key(prefix: str, cluster: str, broker_name: str) -> str:
    """Hash, TTL = broker expiry: the topics of one broker group."""
    return f"{prefix}:ns:{encode_name(cluster)}:topics:{encode_name(broker_name)}"


def brokers_index_key(prefix: str) -> str:
    """Sorted set: all live brokers by the time at which they expire."""
    return f"{prefix}:ns:brokers"


def kv_key(prefix: str, namespace: str) -> str:
    """Hash: KV config of one namespace."""
    return f"{prefix}:ns:kv:{encode_name(namespace)}"


def kv_index_key(prefix: str) -> str:
    """Set: the namespaces."""
    return f"{prefix}:ns:kv"


def events_channel(prefix: str) -> str:
    """Pub/sub channel on which NameServers notify each other of changes."""
    return f"{prefix}:ns:events"


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreError(f"registry: {server_text(error) or type(error).__name__}") from error


class RouteStore:
    """The registry. Every method raises StoreError when Redis cannot be reached or refuses.

    Attributes:
        instance: this process's name in events.
        address: of the registry, for log lines, without credentials.
    """

    def __init__(self, redis: Redis, *, prefix: str = "rmq", broker_expiry_s: float = 120.0, address: str = "") -> None:
        check_key_prefix(prefix)
        self._redis = redis
        self._prefix = prefix
        self._revisions = 0
        self._warned = False
        self.broker_expiry_s = broker_expiry_s
        self.address = address
        self.instance = uuid.uuid4().hex[:12]

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "rmq", broker_expiry_s: float = 120.0) -> RouteStore:
        """A registry at a URL of one server, or of Sentinels that know it (``store.locate``); nothing is opened yet.

        Raises:
            ConfigError: not such a URL.
        """
        settings: Parameters = {
            "socket_timeout": _TIMEOUT_S,
            "socket_connect_timeout": _TIMEOUT_S,
            "health_check_interval": 15,
            "retry": Retry(NoBackoff(), 0),
        }
        try:
            kind = read_url(url).kind
        except ConfigError as error:
            raise ConfigError(f"registry: {error}") from None
        if kind == "sentinel":
            client, service, parameters = sentinels(url, REGISTRY_VARIABLES)
            redis = client.master_for(service, **settings, **parameters)
        elif kind == "cluster":
            raise ConfigError(
                f"registry: {without_credentials(url)!r}: the registry is one small Redis, not a Redis Cluster; use "
                "redis:// or redis+sentinel://"
            )
        else:
            try:
                given = parse_store_url(url)
            except ConfigError as error:
                raise ConfigError(f"registry: {error}") from None
            added = from_environment(given, REGISTRY_VARIABLES)
            redis = Redis.from_url(url, **settings, **{name: added[name] for name in added.keys() - given.keys()})
        return cls(redis, prefix=prefix, broker_expiry_s=broker_expiry_s, address=without_credentials(url))

    async def close(self) -> None:
        """Closes the connections."""
        try:
            await self._redis.aclose()
        except (RedisError, OSError) as error:
            logger.debug("registry %s: closing: %s", self.address, error)

    async def drop_idle_connections(self) -> None:
        """After an error: a connection that Redis closed unseen would fail once more when it is used again."""
        try:
            await self._redis.connection_pool.disconnect(inuse_connections=False)
        except (RedisError, OSError) as error:
            logger.debug("registry %s: closing idle connections: %s", self.address, error)

    # --- brokers and topics --------------------------------------------------------------------------------------

    async def load(self, known_revisions: Mapping[GroupKey, str]) -> dict[GroupKey, GroupSnapshot]:
        """Everything about brokers; what expired is removed from the index first.

        Args:
            known_revisions: topics of these revisions are not read again.
        """
        with _store_errors():
            index = brokers_index_key(self._prefix)
            # A second later than the key, so that no clock difference removes a member before its key.
            await self._redis.zremrangebyscore(index, "-inf", f"({await self._time_s() - 1:f}")
            members = index_members(await self._call(self._redis.zrange(index, 0, -1)))
            keys = list(members)
            if not keys:
                return {}
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.mget([broker_key(self._prefix, *key, broker_id) for key in keys for broker_id in members[key]])
                for key in keys:
                    pipe.hget(topics_key(self._prefix, *key), REVISION_FIELD)
                values, *revisions = await pipe.execute()
            brokers = live_brokers(values)
            snapshots: dict[GroupKey, GroupSnapshot] = {}
            for key, raw_revision in zip(keys, revisions, strict=True):
                if key not in brokers:
                    continue
                revision = raw_revision.decode() if raw_revision else ""
                topics = None
                if revision and revision != known_revisions.get(key):
                    raw = await self._call(self._redis.hgetall(topics_key(self._prefix, *key)))
                    revision, topics = decode_topics(key, raw)
                snapshots[key] = GroupSnapshot(brokers[key], revision, topics)
            return snapshots

    async def update_group(
        self, key: GroupKey, known_revision: str, decide: Callable[[GroupSnapshot], GroupWrite | None]
    ) -> str:
        """Reads a group and writes what ``decide`` returns, unless another NameServer wrote in between: then again.

        Args:
            decide: called again with the group as it is by then if another NameServer was faster.

        Returns:
            The revision of the topics afterwards.
        """
        index, topics = brokers_index_key(self._prefix), topics_key(self._prefix, *key)
        with _store_errors():
            for _ in range(_MAX_ATTEMPTS):
                pipe: Any  # redis-py types its pipeline as half untyped
                async with self._redis.pipeline(transaction=True) as pipe:
                    ids = index_members(await self._call(self._redis.zrange(index, 0, -1))).get(key, [])
                    # Adding a member touches the topics' TTL, so watching that key covers unknown members.
                    await pipe.watch(topics, *(broker_key(self._prefix, *key, broker_id) for broker_id in ids))
                    snapshot = await self._read_group(pipe, key, ids, known_revision)
                    write = decide(snapshot)
                    if write is None:
                        return snapshot.revision
                    now_s = await self._time_s()
                    pipe.multi()
                    revision = self._queue_write(pipe, key, snapshot, write, now_s)
                    try:
                        await pipe.execute()
                    except WatchError:
                        continue
                await self._notify(write.event(self.instance, key))
                return revision
        raise StoreError(
            f"registry: group {key.broker_name} was changed by other NameServers {_MAX_ATTEMPTS} times in a row"
        )

    async def _read_group(self, pipe: Any, key: GroupKey, ids: list[int], known_revision: str) -> GroupSnapshot:
        values = await pipe.mget([broker_key(self._prefix, *key, broker_id) for broker_id in ids]) if ids else []
        brokers = live_brokers(values).get(key, {})
        if not brokers:
            return GroupSnapshot()
        raw_revision = await pipe.hget(topics_key(self._prefix, *key), REVISION_FIELD)
        revision, topics = raw_revision.decode() if raw_revision else "", None
        if revision and revision != known_revision:
            revision, topics = decode_topics(key, await pipe.hgetall(topics_key(self._prefix, *key)))
        return GroupSnapshot(brokers, revision, topics)

    def _queue_write(self, pipe: Any, key: GroupKey, snapshot: GroupSnapshot, write: GroupWrite, now_s: float) -> str:
        topics, revision = topics_key(self._prefix, *key), snapshot.revision
        left = set(snapshot.brokers)
        for broker_id, address in write.removed.items():
            holder = snapshot.brokers.get(broker_id)
            if holder and holder.broker_addr == address:
                pipe.delete(broker_key(self._prefix, *key, broker_id))
                pipe.zrem(brokers_index_key(self._prefix), index_member(key, broker_id))
                left.discard(broker_id)
        for broker, ttl_ms in write.brokers:
            self._queue_broker(pipe, broker, ttl_ms, now_s)
            left.add(broker.broker_id)
        if not left:
            pipe.delete(topics)
            revision = ""
        else:
            if write.rewrite or not snapshot.brokers:  # the latter: left by a group that expired just now
                pipe.delete(topics)
            if write.rewrite or write.topics or write.deleted_topics:
                self._revisions += 1
                revision = f"{self.instance}-{self._revisions}"
                fields: dict[str, str | bytes] = {REVISION_FIELD: revision}
                for topic, queue in write.topics.items():
                    fields[topic] = encode_queue(queue)
                pipe.hset(topics, mapping=fields)
                if write.deleted_topics:
                    pipe.hdel(topics, *write.deleted_topics)
            _queue_expiry(pipe, topics, self._expiry_ms)
        return revision

    async def refresh(self, brokers: Iterable[tuple[LiveBroker, int]]) -> set[GroupKey]:
        """Writes live entries that did not change, with the ms that they have left, and extends their topics' TTL.

        Returns:
            The groups whose topics the registry has lost.
        """
        entries = list(brokers)
        if not entries:
            return set()
        with _store_errors():
            now_s = await self._time_s()
            async with self._redis.pipeline(transaction=True) as pipe:
                for broker, ttl_ms in entries:
                    self._queue_broker(pipe, broker, ttl_ms, now_s)
                    _queue_expiry(pipe, topics_key(self._prefix, *broker.group), self._expiry_ms)
                for broker, _ in entries:
                    pipe.exists(topics_key(self._prefix, *broker.group))
                found = (await pipe.execute())[-len(entries) :]
        return {broker.group for (broker, _), exists in zip(entries, found, strict=True) if not exists}

    def _queue_broker(self, pipe: Any, broker: LiveBroker, ttl_ms: int, now_s: float) -> None:
        key = broker_key(self._prefix, *broker.group, broker.broker_id)
        pipe.set(key, encode_broker(broker), keepttl=True)
        _queue_expiry(pipe, key, ttl_ms)
        member = index_member(broker.group, broker.broker_id)
        pipe.zadd(brokers_index_key(self._prefix), {member: now_s + ttl_ms / 1000}, gt=True)

    @property
    def _expiry_ms(self) -> int:
        return max(1, int(self.broker_expiry_s * 1000))

    async def _time_s(self) -> float:
        """Redis' clock: the one that all NameServers of a registry have in common."""
        seconds, microseconds = await self._call(self._redis.time())
        return float(seconds) + float(microseconds) / 1e6

    # --- KV config -----------------------------------------------------------------------------------------------

    async def load_kv(self) -> dict[str, dict[str, str]]:
        """All KV config: namespace -> key -> value; empty namespaces are left out."""
        with _store_errors():
            names = await self._call(self._redis.smembers(kv_index_key(self._prefix)))
            table: dict[str, dict[str, str]] = {}
            for namespace in sorted(name.decode() for name in names):
                items = await self._call(self._redis.hgetall(kv_key(self._prefix, namespace)))
                if items:
                    table[namespace] = {key.decode(): value.decode() for key, value in items.items()}
            return table

    async def put_kv(self, namespace: str, key: str, value: str) -> None:
        """Sets one entry and notifies the other NameServers."""
        with _store_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.sadd(kv_index_key(self._prefix), namespace)
                pipe.hset(kv_key(self._prefix, namespace), key, value)
                await pipe.execute()
            await self._notify(RegistryEvent(sender=self.instance, kind="kv"))

    async def delete_kv(self, namespace: str, key: str) -> None:
        """Removes one entry, if it exists, and notifies the other NameServers."""
        with _store_errors():
            await self._call(self._redis.hdel(kv_key(self._prefix, namespace), key))
            await self._notify(RegistryEvent(sender=self.instance, kind="kv"))

    # --- events --------------------------------------------------------------------------------------------------

    async def _notify(self, event: RegistryEvent) -> None:
        """Notifies the other NameServers. If the Redis user may not publish, their next sweep finds the change."""
        try:
            await self._call(self._redis.publish(events_channel(self._prefix), encode_event(event)))
        except NoPermissionError as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "registry %s: PUBLISH is refused, so other NameServers learn of changes up to a sweep later: %s",
                    self.address,
                    error,
                )

    async def events(self) -> AsyncGenerator[RegistryEvent | None, None]:
        """Notifications of other NameServers, without end; None first, when the subscription is active."""
        with _store_errors():
            async with self._redis.pubsub() as pubsub:
                await pubsub.subscribe(events_channel(self._prefix))
                while True:
                    message = await pubsub.get_message(timeout=5.0)
                    if message is None:
                        continue
                    if message["type"] == "subscribe":
                        yield None
                    elif message["type"] == "message":
                        event = decode_event(message["data"])
                        if event and event.sender != self.instance:
                            yield event

    @staticmethod
    async def _call(command: Any) -> Any:
        return await cast(Awaitable[Any], command)  # redis-py types its asyncio commands as "value or awaitable"


def _queue_expiry(pipe: Any, key: str, ttl_ms: int) -> None:
    """Sets or extends a TTL, never shortens it: another NameServer may have heard of the broker later."""
    pipe.pexpire(key, ttl_ms, nx=True)
    pipe.pexpire(key, ttl_ms, gt=True)
