"""What the NameServers' registry holds, as values and as JSON. See ``route_store``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from ...errors import RemoteProtocolError
from ...model import DataVersion, QueueData

logger = logging.getLogger(__name__)

REVISION_FIELD = "#revision"
"""Field of a topics hash that changes with it; ``#`` is in no topic name. Lets a NameServer skip what it knows."""


class GroupKey(NamedTuple):
    """A broker group."""

    cluster: str
    broker_name: str


class LiveBroker(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One registered broker.

    Attributes:
        registered_ms: wall clock of the NameServer that it registered with, ms since 1970.
        heartbeat_timeout_millis: the broker's own wish to be dropped sooner than after the usual expiry.
    """

    cluster: str
    broker_name: str
    broker_id: int
    broker_addr: str
    ha_server_addr: str = ""
    data_version: DataVersion = DataVersion()
    zone: str | None = None
    enable_acting_master: bool | None = None
    heartbeat_timeout_millis: int | None = None
    registered_ms: int = 0

    @property
    def group(self) -> GroupKey:
        return GroupKey(self.cluster, self.broker_name)


class GroupSnapshot(msgspec.Struct, frozen=True):
    """What the registry has of a group.

    Attributes:
        revision: of the topics; "" when the registry has none (or only leftovers of a removed group).
        topics: None when ``revision`` is the one that the reader knew.
    """

    brokers: dict[int, LiveBroker] = {}
    revision: str = ""
    topics: dict[str, QueueData] | None = None


class GroupWrite(msgspec.Struct):
    """A change of one group, made in one transaction.

    Attributes:
        brokers: live entries and the ms after which they expire.
        removed: brokerId -> address of entries to delete; those that the registry does not have are only announced.
        topics: queue data to set; with ``rewrite`` they are all that the group has.
        kind: what is published, one of RegistryEvent's.
    """

    brokers: list[tuple[LiveBroker, int]] = []
    removed: dict[int, str] = {}
    topics: dict[str, QueueData] = {}
    deleted_topics: list[str] = []
    rewrite: bool = False
    kind: str = "changed"

    def event(self, sender: str, key: GroupKey) -> RegistryEvent:
        """The notification for the other NameServers."""
        return RegistryEvent(
            sender=sender, kind=self.kind, cluster=key.cluster, broker_name=key.broker_name, removed=self.removed
        )


class RegistryEvent(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A notification between NameServers.

    ``kind``: ``changed``; ``removed`` (a connection closed; a NameServer that has another one objects);
    ``unregistered`` (by the broker itself); ``kv``.
    """

    sender: str
    kind: str
    cluster: str = ""
    broker_name: str = ""
    removed: dict[int, str] = {}


class _StoredQueueData(msgspec.Struct, rename="camel"):
    broker_name: str
    read_queue_nums: int
    write_queue_nums: int
    perm: int
    topic_sys_flag: int = 0


_encode = msgspec.json.Encoder().encode
_broker_decoder = msgspec.json.Decoder(LiveBroker)
_queue_decoder = msgspec.json.Decoder(_StoredQueueData)
_event_decoder = msgspec.json.Decoder(RegistryEvent)


def encode_name(name: str) -> str:
    """A cluster or broker name as part of a key: ``a:b`` becomes ``a%3Ab``."""
    return quote(name, safe="")


def encode_broker(broker: LiveBroker) -> bytes:
    return _encode(broker)


def encode_event(event: RegistryEvent) -> bytes:
    return _encode(event)


def encode_queue(queue: QueueData) -> bytes:
    return _encode(
        _StoredQueueData(
            queue.broker_name, queue.read_queue_nums, queue.write_queue_nums, queue.perm, queue.topic_sys_flag
        )
    )


def check_storable(value: object) -> None:
    """Raises RemoteProtocolError for what a peer may send and JSON cannot hold (lone surrogates, endless integers)."""
    try:
        _encode(value)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise RemoteProtocolError(f"a value cannot be stored: {error}") from None


def index_member(key: GroupKey, broker_id: int) -> str:
    """Member of the index of live brokers."""
    return f"{encode_name(key.cluster)}:{encode_name(key.broker_name)}:{broker_id}"


def index_members(raw: Iterable[bytes]) -> dict[GroupKey, list[int]]:
    """The index as brokerIds by group."""
    members: dict[GroupKey, list[int]] = {}
    for member in sorted(raw):
        parts = member.decode("utf-8", "replace").split(":")
        try:
            cluster, broker_name, broker_id = parts[0], parts[1], int(parts[2])
        except (IndexError, ValueError):
            logger.warning("registry: %r in the index of brokers is not a valid entry; ignored", member)
            continue
        members.setdefault(GroupKey(unquote(cluster), unquote(broker_name)), []).append(broker_id)
    return members


def live_brokers(values: Iterable[bytes | None]) -> dict[GroupKey, dict[int, LiveBroker]]:
    """Stored live entries by group and id; None (expired) and what cannot be read is left out."""
    brokers: dict[GroupKey, dict[int, LiveBroker]] = {}
    for value in values:
        if value is None:  # expired, the index does not know yet
            continue
        try:
            broker = _broker_decoder.decode(value)
        except (msgspec.MsgspecError, ValueError) as error:
            logger.warning("registry: a live entry cannot be read, ignored: %s", error)
            continue
        brokers.setdefault(broker.group, {})[broker.broker_id] = broker
    return brokers


def decode_topics(key: GroupKey, raw: Mapping[bytes, bytes]) -> tuple[str, dict[str, QueueData]]:
    """A topics hash as its revision ("" when it has none) and queue data."""
    topics: dict[str, QueueData] = {}
    revision = ""
    for field, value in raw.items():
        topic = field.decode("utf-8", "replace")
        if topic == REVISION_FIELD:
            revision = value.decode("utf-8", "replace")
            continue
        try:
            queue = _queue_decoder.decode(value)
        except (msgspec.MsgspecError, ValueError) as error:
            logger.warning("registry: topic %s of %s cannot be read, ignored: %s", topic, key.broker_name, error)
            continue
        topics[topic] = QueueData(
            key.broker_name, queue.read_queue_nums, queue.write_queue_nums, queue.perm, queue.topic_sys_flag
        )
    return revision, topics


def decode_event(data: bytes) -> RegistryEvent | None:
    """None: not readable (another version's)."""
    try:
        return _event_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        logger.warning("registry: an event cannot be read, ignored: %s", error)
        return None
