"""Settings of the roles: one dataclass each. Precedence: argument or flag, then environment, then default.

The environment variable of a setting is ``RMQ_REDIS_`` and its name in capitals: ``RMQ_REDIS_NAMESRV_ADDR``. Units
end the names (``_s`` seconds, ``_bytes``).
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar, get_args, get_type_hints

from .errors import ConfigError
from .model import MAX_QUEUE_NUMS, topic_name_error

ENV_PREFIX = "RMQ_REDIS_"
DEFAULT_NAMESRV_PORT = 9876
DEFAULT_BROKER_PORT = 10911
VIP_PORT_DISTANCE = 2
"""Old Java clients send to the port so far below a broker's own. Source: ``MixAll.brokerVIPChannel``."""
DEFAULT_CLUSTER = "DefaultCluster"
LARGEST_PAYLOAD_BYTES = 8 * 1024 * 1024
"""Half of the largest frame (``protocol.frame.MAX_FRAME_BYTES``): the rest is left for headers and records."""

C = TypeVar("C")
E = TypeVar("E", bound=StrEnum)


def setting(default: Any, help: str) -> Any:
    """A dataclass field with the text that the CLI and the docs show."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class NameServerConfig:
    """Settings of ``rmq-redis namesrv``."""

    listen_host: str = setting("0.0.0.0", "address to listen on")
    listen_port: int = setting(DEFAULT_NAMESRV_PORT, "port to listen on; 0 lets the system choose")
    registry: str = setting("", "Redis URL of the registry (redis://host:port/db); required")
    key_prefix: str = setting("rmq", "first part of every Redis key; no braces, no spaces")
    broker_expiry_s: float = setting(120.0, "a broker that was not heard of for this long is dropped; the keys' TTL")
    sweep_period_s: float = setting(10.0, "seconds between sweeps for expired brokers")
    idle_timeout_s: float = setting(120.0, "a connection silent for this long is closed")
    max_connections: int = setting(15_000, "connections beyond this are refused")
    max_inbound_bytes: int = setting(
        64 * 1024 * 1024, "requests that all connections may hold; half of it in incomplete frames, or some are cut"
    )
    order_message_enable: bool = setting(True, "routes carry the topic's ORDER_TOPIC_CONFIG entry")
    route_filter: str = setting("ZONE", "what each client is shown of a route, by name; empty: all")
    authorizer: str = setting("", "plugin's authorizer that every request must pass, by name")
    metrics_sink: str = setting("", "plugin's sink for this server's figures, by name")
    metrics_period_s: float = setting(10.0, "seconds between two calls of the metrics sink")

    def check(self) -> None:
        """Raises ConfigError for a value out of its range."""
        for name in ("broker_expiry_s", "sweep_period_s", "idle_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, it must be above 0")


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """Settings of ``rmq-redis broker``."""

    broker_name: str = setting("broker-a", "name of the broker group")
    broker_id: int = setting(0, "0 is the group's master, every other number a slave")
    cluster_name: str = setting(DEFAULT_CLUSTER, "cluster that the group belongs to")
    listen_host: str = setting("0.0.0.0", "address to listen on")
    listen_port: int = setting(DEFAULT_BROKER_PORT, "port to listen on; 0 lets the system choose")
    fast_listen_port: int = setting(
        -1, "port for the VIP channel of old Java clients; -1: listen_port - 2 if it is free, 0: none"
    )
    advertised_host: str = setting("", "IP address that clients are told; default: the one that reaches the NameServer")
    advertised_port: int = setting(0, "port that clients are told; default: the one it listens on")
    namesrv_addr: str = setting("127.0.0.1:9876", "NameServers: host:port;host:port")
    store: str = setting("", "Redis URL of this group's store; required")
    store_replica: str = setting("", "Redis URL that a slave reads from; default: a replica that the store knows of")
    key_prefix: str = setting("rmq", "first part of every Redis key; no braces, no spaces")
    register_period_s: float = setting(30.0, "seconds between registrations at each NameServer")
    failover: bool = setting(True, "a slave becomes the master when the master's lease expires")
    broker_role: str = setting("ASYNC_MASTER", "or SYNC_MASTER: a send is answered when replicas have it (WAIT)")
    flush_disk_type: str = setting("ASYNC_FLUSH", "or SYNC_FLUSH: a send is answered when it is on disk (WAITAOF)")
    in_sync_replicas: int = setting(1, "replicas that must have a message with SYNC_MASTER")
    sync_timeout_s: float = setting(2.0, "how long a replica or the disk may take; must be less than lease_s")
    lease_s: float = setting(5.0, "a master that does not renew its lease for this long can be replaced")
    auto_create_topic_enable: bool = setting(True, "create unknown topics on first send (template TBW102)")
    auto_create_subscription_group: bool = setting(True, "create unknown consumer groups on first use")
    max_auto_topics: int = setting(20_000, "topics from which on none is created automatically (code 17)")
    max_auto_groups: int = setting(20_000, "consumer groups from which on none is created automatically (code 26)")
    default_topic_queue_nums: int = setting(
        4,
        "queues of a topic that a first send creates, unless the client asks for another number than 4",
    )
    enable_mixed_message_type: bool = setting(False, "allow topics with the attribute message.type=MIXED")
    max_message_bytes: int = setting(4 * 1024 * 1024, "largest message body, and largest body of a batch")
    max_batch_msg_nums: int = setting(4096, "messages that one batch may have (code 13 above)")
    max_pull_bytes: int = setting(256 * 1024, "a pull's answer stops after this many bytes (one message at least)")
    max_pull_msg_nums: int = setting(1024, "a pull's answer has at most this many messages")
    max_pending_append_bytes: int = setting(256 * 1024 * 1024, "sends waiting for the store beyond this: SYSTEM_BUSY")
    wait_time_in_send_queue_s: float = setting(0.2, "sends that waited so long for a slow store: SYSTEM_BUSY")
    store_busy_timeout_s: float = setting(1.0, "a store that answers nothing for so long: SYSTEM_BUSY at once")
    max_held_pulls: int = setting(100_000, "pulls that may wait for a message at the same time")
    client_expiry_s: float = setting(120.0, "a client whose heartbeats stopped is dropped after this long")
    idle_timeout_s: float = setting(120.0, "a connection silent for this long is closed")
    max_connections: int = setting(15_000, "connections beyond this are refused")
    max_inbound_bytes: int = setting(
        256 * 1024 * 1024, "requests that all connections may hold; half of it in incomplete frames, or some are cut"
    )
    lock_expiry_s: float = setting(60.0, "a queue lock that was not renewed for this long is free again")
    slave_read_enable: bool = setting(False, "consumers that are far behind, or an overloaded master's, go to a slave")
    slave_read_behind_bytes: int = setting(64 * 1024 * 1024, "so much unread in a queue is far behind")
    slave_poll_period_s: float = setting(0.2, "how often a slave looks for new messages for pulls that wait")
    offset_flush_period_s: float = setting(0.1, "committed offsets are written to the store this often")
    transaction_timeout_s: float = setting(6.0, "an undecided transaction is asked about after this long")
    transaction_check_interval_s: float = setting(30.0, "seconds from the first question to the second; then doubled")
    transaction_check_max_interval_s: float = setting(240.0, "seconds between two questions at most")
    transaction_check_max: int = setting(15, "questions after which it goes to TRANS_CHECK_MAX_TIME_TOPIC")
    reject_transaction_message: bool = setting(False, "refuse transactional messages (code 16)")
    recall_absent_succeeds: bool = setting(False, "recalling an absent message succeeds, as with Apache's broker")
    pop_order_redeliver_acknowledged: bool = setting(
        False, "POP in order redelivers all from the first unacknowledged message on, as Apache's broker does"
    )
    store_reply_message_enable: bool = setting(False, "keep replies (request-reply) in the reply topic, too")
    file_reserved_time_h: float = setting(72.0, "hours after which messages are removed; 0: never")
    topic_max_msg_nums: int = setting(0, "messages that a topic keeps in this broker group; 0: no limit")
    topic_max_bytes: int = setting(0, "memory that a topic's messages take in this broker group; 0: no limit")
    retention_period_s: float = setting(1.0, "seconds between two looks for messages that are to be removed")
    store_max_bytes: int = setting(0, "memory that the store may use; 0: the server's maxmemory, if it has one")
    store_max_used_ratio: float = setting(0.75, "part of that memory above which the oldest messages are removed")
    store_warning_level_ratio: float = setting(0.9, "part of that memory above which sends are refused")
    clean_file_forcibly_enable: bool = setting(
        True, "false: above store_max_used_ratio nothing is removed before its time"
    )
    stop_timeout_s: float = setting(5.0, "on SIGTERM, how long accepted sends may take to be answered")
    zone: str = setting("", "zone name that is registered with the NameServers")
    broker_interceptors: str = setting("", "plugins' broker interceptors: name;name")
    authorizer: str = setting("", "plugin's authorizer that every request must pass, by name")
    metrics_sink: str = setting("", "plugin's sink for this server's figures, by name")
    metrics_period_s: float = setting(10.0, "seconds between two calls of the metrics sink")

    def check(self) -> None:
        """Raises ConfigError for a value that is missing or out of its range."""
        self._check_identity()
        self._check_sizes()
        self._check_durability()
        self._check_retention()

    def _check_identity(self) -> None:
        if not self.store:
            raise ConfigError("a broker needs a store: --store redis://host:port/db (or RMQ_REDIS_STORE)")
        if topic_name_error(self.broker_name) or topic_name_error(self.cluster_name):
            raise ConfigError(
                f"broker name {self.broker_name!r} and cluster name {self.cluster_name!r} may only have letters, "
                "digits and the characters _ - % |"
            )
        if self.broker_id < 0:
            raise ConfigError(f"broker id {self.broker_id} is negative; 0 is the master, 1 and up are slaves")
        parse_addresses(self.namesrv_addr)

    def _check_sizes(self) -> None:
        for name in ("max_message_bytes", "max_pull_bytes"):
            if not 0 < getattr(self, name) <= LARGEST_PAYLOAD_BYTES:
                raise ConfigError(f"{name} is {getattr(self, name)}; 1 to {LARGEST_PAYLOAD_BYTES} fit into a frame")
        if not 0 < self.default_topic_queue_nums <= MAX_QUEUE_NUMS:
            raise ConfigError(
                f"default_topic_queue_nums is {self.default_topic_queue_nums}; expected 1 to {MAX_QUEUE_NUMS}"
            )

    def _check_durability(self) -> None:
        if self.broker_role not in ("ASYNC_MASTER", "SYNC_MASTER"):
            raise ConfigError(f"broker_role is {self.broker_role!r}, expected ASYNC_MASTER or SYNC_MASTER")
        if self.flush_disk_type not in ("ASYNC_FLUSH", "SYNC_FLUSH"):
            raise ConfigError(f"flush_disk_type is {self.flush_disk_type!r}, expected ASYNC_FLUSH or SYNC_FLUSH")
        if self.in_sync_replicas < 1:
            raise ConfigError(f"in_sync_replicas is {self.in_sync_replicas}, it must be at least 1")
        is_sync = self.broker_role == "SYNC_MASTER" or self.flush_disk_type == "SYNC_FLUSH"
        if is_sync and not 0 < self.sync_timeout_s < self.lease_s:
            raise ConfigError(
                f"sync_timeout_s is {self.sync_timeout_s:g}; it must be above 0 and below lease_s "
                f"({self.lease_s:g}), or a slow replica would cost the lease"
            )
        for name in ("wait_time_in_send_queue_s", "store_busy_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name):g}; expected more than 0")

    def _check_retention(self) -> None:
        for name in ("file_reserved_time_h", "topic_max_msg_nums", "topic_max_bytes", "store_max_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 (no limit) or more")
        if self.retention_period_s <= 0:
            raise ConfigError(f"retention_period_s is {self.retention_period_s}; expected more than 0")
        if not 0 < self.store_max_used_ratio < self.store_warning_level_ratio <= 1:
            raise ConfigError(
                f"store_max_used_ratio is {self.store_max_used_ratio} and store_warning_level_ratio "
                f"{self.store_warning_level_ratio}; the first must be the smaller one, both between 0 and 1"
            )


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """Settings of producers, consumers and the admin client."""

    namesrv_addr: str = setting("127.0.0.1:9876", "NameServers: host:port;host:port")
    instance_name: str = setting("", "part of the client id; default: process id and a number")
    client_ip: str = setting("", "IP address shown to brokers; default: the one that reaches the NameServer")
    offset_store_path: str = setting(
        "", "directory of broadcasting consumers' offsets; default: ~/.local/share/rmq-redis/offsets"
    )
    poll_name_server_interval_s: float = setting(30.0, "seconds between refreshes of the routes in use")
    heartbeat_broker_interval_s: float = setting(30.0, "seconds between heartbeats to every broker")
    persist_consumer_offset_interval_s: float = setting(5.0, "seconds between commits of consumed offsets")
    rebalance_interval_s: float = setting(20.0, "seconds between rebalances, besides those that a change triggers")
    connect_timeout_s: float = setting(3.0, "time for opening a connection")
    request_timeout_s: float = setting(3.0, "time for one call other than send and pull")
    send_timeout_s: float = setting(3.0, "time for one send, all its retries included")
    retry_times_when_send_failed: int = setting(2, "further attempts, each on another broker if there is one")
    max_message_bytes: int = setting(4 * 1024 * 1024, "larger messages are refused before they are sent")
    load_balancer: str = setting("ROUND_ROBIN", "how a producer chooses queues, by name")
    strict_order: bool = setting(False, "a sharding key keeps its queue; sends wait while that cannot be written")
    allocate_strategy: str = setting("AVG", "how the consumers of a group share the queues, by name")
    read_selector: str = setting("SUGGESTED", "which broker of a group a consumer reads from, by name")
    plugin_interceptors: str = setting("", "interceptors that plugins offer: name;name")
    zone: str = setting("", "zone of this client; becomes the unit name in its client id")
    zone_mode: bool = setting(False, "ask NameServers for the broker groups of the own zone only")
    broker_weights: str = setting("", "for load_balancer WEIGHTED: broker-a=3;broker-b=0.5; others have 1")
    broker_warm_up_s: float = setting(0.0, "WEIGHTED: a group that appears has all of its weight after this long")
    machine_rooms: str = setting("", "for allocate_strategy MACHINE_ROOM: room;room")
    allocate_queues: str = setting("", "for allocate_strategy CONFIG: topic:brokerName:0,1,2;topic:...")
    max_decompressed_bytes: int = setting(
        16 * 1024 * 1024, "a compressed body that becomes larger is not decompressed: the message goes to the retries"
    )
    compress_over_bytes: int = setting(4096, "bodies at least this large are compressed (zlib); 0: never")


def env_name(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def check_settings(config_type: type, given: Mapping[str, Any], owner: type | None = None) -> None:
    """Raises ConfigError for a setting that ``config_type`` does not have, or a value of another type than its own.

    Args:
        owner: the class whose constructor takes the settings among options of its own.
    """
    hints = get_type_hints(config_type)
    for name, value in given.items():
        kind = hints.get(name)
        if kind is None:
            if owner is None:
                raise unknown_name(f"{config_type.__name__} has no setting", name, hints)
            known = [*hints, *inspect.signature(owner).parameters]
            raise unknown_name(f"{owner.__name__} has no option", name, known)
        check_value(name, value, kind)


def unknown_name(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a keyword argument that does not exist, with the nearest one that does."""
    nearest = difflib.get_close_matches(name, list(known), 1)
    return ConfigError(f"{what} {name!r}{f'; did you mean {nearest[0]}?' if nearest else ''}")


def check_value(name: str, value: object, kind: Any) -> None:
    """Raises ConfigError for a value of another type than ``kind``, which is checked if it is int, float, bool or str.

    Args:
        kind: also one with ``| None``.
    """
    kinds: tuple[type, ...] = get_args(kind) or (kind,)
    if not all(one in (int, float, bool, str, type(None)) for one in kinds):
        return
    if isinstance(value, bool) and bool not in kinds:
        fits = False
    else:
        fits = isinstance(value, (*kinds, int) if float in kinds else kinds)
    if not fits:
        wanted = " or ".join(_article(one) for one in kinds if one is not type(None))
        raise ConfigError(f"{name}={value!r:.80} is {_article(type(value))}, not {wanted}")
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{name}={value} is not a number")


def _article(kind: type) -> str:
    if kind is type(None):
        return "None"
    return f"a{'n' if kind.__name__[0] in 'aeiou' else ''} {kind.__name__}"


def choice(kind: type[E], setting: str, value: str) -> E:
    """The member of an enumeration that a setting names. Raises ConfigError, with those there are."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(kind)
        raise ConfigError(f"{setting}={value!r} is unknown; there are: {known}") from None


def from_env(config_type: type[C], environ: Mapping[str, str] | None = None, **given: Any) -> C:
    """A configuration from ``given`` (values of None count as not given), the environment and the defaults.

    Raises:
        ConfigError: a variable whose text is not of its setting's type; the text names it.
    """
    environ = os.environ if environ is None else environ
    hints = get_type_hints(config_type)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_type):  # type: ignore[arg-type]
        if given.get(field.name) is not None:
            values[field.name] = given.pop(field.name)
            continue
        given.pop(field.name, None)
        text = environ.get(env_name(field.name))
        if text is not None and text != "":
            values[field.name] = _parse(env_name(field.name), text, hints[field.name])
    if given:
        raise ConfigError(f"unknown settings of {config_type.__name__}: {', '.join(sorted(given))}")
    return config_type(**values)


def _parse(variable: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ConfigError(f"{variable}={text!r} is not a yes or no; use true or false")
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{variable}={text!r} is not a{'n' if kind is int else ''} {kind.__name__}") from None


_HOST = re.compile(r"\[[0-9A-Fa-f:.%]+\]|[\w-]+(?:\.[\w-]+)*\.?")


def parse_addresses(text: str) -> list[str]:
    """A NameServer list: ``host:port;host:port``.

    Commas and white space separate, too; a missing port is 9876; ``http://`` in front, as Java's client accepts it, and
    a slash at the end are dropped.

    Raises:
        ConfigError: empty, or an entry that is not host:port.
    """
    addresses: list[str] = []
    for part in re.split(r"[;,\s]+", text):
        if not part:
            continue
        bare = part.removeprefix("http://").removesuffix("/")
        host, separator, port = bare.rpartition(":")
        if not separator or bare.endswith("]"):
            host, port = bare, str(DEFAULT_NAMESRV_PORT)
        if not _HOST.fullmatch(host) or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            hint = f"; write [{bare}]:{DEFAULT_NAMESRV_PORT}" if bare.count(":") > 1 and "[" not in bare else ""
            raise ConfigError(f"NameServer address {part[:80]!r} is not host:port{hint}")
        address = f"{host}:{port}"
        if address not in addresses:
            addresses.append(address)
    if not addresses:
        raise ConfigError(
            f"no NameServer address; set namesrv_addr or {env_name('namesrv_addr')} to host:port;host:port"
        )
    return addresses
