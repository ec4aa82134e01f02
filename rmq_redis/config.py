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
    key_prefix: str = setting("rmq", "prefix of every Redis key; braces and spaces are not allowed")
    broker_expiry_s: float = setting(
        120.0, "seconds without registration or heartbeat after which a broker is dropped; TTL of its keys"
    )
    sweep_period_s: float = setting(10.0, "seconds between sweeps for expired brokers")
    idle_timeout_s: float = setting(120.0, "seconds without traffic after which a connection is closed")
    max_connections: int = setting(15_000, "maximum number of connections; further ones are refused")
    max_inbound_bytes: int = setting(
        64 * 1024 * 1024,
        "maximum bytes of requests in memory, half for incomplete frames; beyond it, slow connections are closed",
    )
    order_message_enable: bool = setting(True, "include the topic's ORDER_TOPIC_CONFIG entry in routes")
    route_filter: str = setting("ZONE", "name of the filter applied to routes before they are returned; empty: none")
    authorizer: str = setting("", "name of the plugin's authorizer that checks every request")
    metrics_sink: str = setting("", "name of the plugin's sink that receives this server's metrics")
    metrics_period_s: float = setting(10.0, "seconds between calls of the metrics sink")

    def check(self) -> None:
        """Raises ConfigError for a value out of its range."""
        for name in ("broker_expiry_s", "sweep_period_s", "idle_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, it must be above 0")


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """Settings of ``rmq-redis broker``."""

    broker_name: str = setting("broker-a", "name of the broker group")
    broker_id: int = setting(0, "0: the group's master; 1 and up: slaves")
    cluster_name: str = setting(DEFAULT_CLUSTER, "name of the cluster that the group belongs to")
    listen_host: str = setting("0.0.0.0", "address to listen on")
    listen_port: int = setting(DEFAULT_BROKER_PORT, "port to listen on; 0 lets the system choose")
    fast_listen_port: int = setting(
        -1, "port for the VIP channel of old Java clients; -1: listen_port - 2 if free; 0: none"
    )
    advertised_host: str = setting(
        "", "IP address published to clients; default: the local address that reaches the NameServer"
    )
    advertised_port: int = setting(0, "port published to clients; default: the listening port")
    namesrv_addr: str = setting("127.0.0.1:9876", "NameServer addresses: host:port;host:port")
    store: str = setting("", "Redis URL of this group's store; required")
    store_replica: str = setting("", "Redis URL that a slave reads from; default: a replica that the store reports")
    key_prefix: str = setting("rmq", "prefix of every Redis key; braces and spaces are not allowed")
    register_period_s: float = setting(30.0, "seconds between registrations with each NameServer")
    failover: bool = setting(True, "let a slave take over when the master's lease expires")
    broker_role: str = setting(
        "ASYNC_MASTER", "ASYNC_MASTER, or SYNC_MASTER: confirm a send when in_sync_replicas have it (WAIT)"
    )
    flush_disk_type: str = setting(
        "ASYNC_FLUSH", "ASYNC_FLUSH, or SYNC_FLUSH: confirm a send when it is on disk (WAITAOF)"
    )
    in_sync_replicas: int = setting(1, "number of replicas that must have a message, with SYNC_MASTER")
    sync_timeout_s: float = setting(
        2.0, "timeout for replicas (SYNC_MASTER) and the disk (SYNC_FLUSH); must be less than lease_s"
    )
    lease_s: float = setting(5.0, "seconds after which a master's lease expires unless renewed")
    auto_create_topic_enable: bool = setting(True, "create unknown topics on the first send (template TBW102)")
    auto_create_subscription_group: bool = setting(True, "create unknown consumer groups on first use")
    max_auto_topics: int = setting(
        20_000, "maximum number of topics for automatic creation; beyond it, sends to unknown topics fail (code 17)"
    )
    max_auto_groups: int = setting(
        20_000,
        "maximum number of consumer groups for automatic creation; beyond it, unknown groups are rejected (code 26)",
    )
    default_topic_queue_nums: int = setting(
        4,
        "number of queues of an automatically created topic, unless the client requests a number other than 4",
    )
    enable_mixed_message_type: bool = setting(False, "allow topics with the attribute message.type=MIXED")
    max_message_bytes: int = setting(4 * 1024 * 1024, "maximum size of a message body, and of a batch's body")
    max_batch_msg_nums: int = setting(
        4096, "maximum number of messages in a batch; larger batches are rejected (code 13)"
    )
    max_pull_bytes: int = setting(
        256 * 1024, "maximum bytes of messages in a pull response; it holds at least one message"
    )
    max_pull_msg_nums: int = setting(1024, "maximum number of messages in a pull response")
    max_pending_append_bytes: int = setting(
        256 * 1024 * 1024, "maximum bytes of sends waiting for the store; beyond it, sends fail with SYSTEM_BUSY"
    )
    wait_time_in_send_queue_s: float = setting(
        0.2, "seconds that a send may wait for a slow store before it fails with SYSTEM_BUSY"
    )
    store_busy_timeout_s: float = setting(
        1.0, "seconds without a response from the store after which sends fail at once with SYSTEM_BUSY"
    )
    max_held_pulls: int = setting(100_000, "maximum number of held pulls (long polling)")
    client_expiry_s: float = setting(120.0, "seconds without a heartbeat after which a client is dropped")
    idle_timeout_s: float = setting(120.0, "seconds without traffic after which a connection is closed")
    max_connections: int = setting(15_000, "maximum number of connections; further ones are refused")
    max_inbound_bytes: int = setting(
        256 * 1024 * 1024,
        "maximum bytes of requests in memory, half for incomplete frames; beyond it, slow connections are closed",
    )
    lock_expiry_s: float = setting(60.0, "seconds after which a queue lock expires unless renewed")
    slave_read_enable: bool = setting(
        False, "redirect consumers to a slave if they are far behind or the master is overloaded"
    )
    slave_read_behind_bytes: int = setting(
        64 * 1024 * 1024, "bytes of lag in a queue above which a consumer is redirected to a slave"
    )
    slave_poll_period_s: float = setting(0.2, "seconds between a slave's checks for new messages for held pulls")
    offset_flush_period_s: float = setting(0.1, "seconds between writes of committed offsets to the store")
    transaction_timeout_s: float = setting(6.0, "seconds after which an unresolved transaction is first checked")
    transaction_check_interval_s: float = setting(
        30.0, "seconds between the first and the second check; doubles with each further check"
    )
    transaction_check_max_interval_s: float = setting(240.0, "maximum number of seconds between two checks")
    transaction_check_max: int = setting(
        15, "maximum number of checks; then the message goes to TRANS_CHECK_MAX_TIME_TOPIC"
    )
    reject_transaction_message: bool = setting(False, "reject transactional messages (code 16)")
    recall_absent_succeeds: bool = setting(False, "let the recall of an unknown message succeed, as in Apache RocketMQ")
    pop_order_redeliver_acknowledged: bool = setting(
        False, "ordered POP redelivers every message from the first unacknowledged one on, as Apache RocketMQ does"
    )
    store_reply_message_enable: bool = setting(False, "also store replies (request-reply) in the reply topic")
    file_reserved_time_h: float = setting(72.0, "hours for which messages are kept; 0: no limit")
    topic_max_msg_nums: int = setting(
        0, "maximum number of messages that a topic keeps in this broker group; 0: no limit"
    )
    topic_max_bytes: int = setting(0, "maximum memory of a topic's messages in this broker group; 0: no limit")
    retention_period_s: float = setting(1.0, "seconds between removals of expired messages")
    store_max_bytes: int = setting(0, "maximum memory of the store; 0: the server's maxmemory, if set")
    store_max_used_ratio: float = setting(
        0.75, "fraction of the maximum memory above which the oldest messages are removed"
    )
    store_warning_level_ratio: float = setting(0.9, "fraction of the maximum memory above which sends are rejected")
    clean_file_forcibly_enable: bool = setting(
        True, "remove messages before they expire if memory is above store_max_used_ratio"
    )
    stop_timeout_s: float = setting(5.0, "on SIGTERM, seconds to wait for the responses to accepted sends")
    zone: str = setting("", "zone of this broker, registered with the NameServers")
    broker_interceptors: str = setting("", "names of plugins' broker interceptors: name;name")
    authorizer: str = setting("", "name of the plugin's authorizer that checks every request")
    metrics_sink: str = setting("", "name of the plugin's sink that receives this server's metrics")
    metrics_period_s: float = setting(10.0, "seconds between calls of the metrics sink")

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

    namesrv_addr: str = setting("127.0.0.1:9876", "NameServer addresses: host:port;host:port")
    instance_name: str = setting("", "part of the client id; default: the process id and a number")
    client_ip: str = setting(
        "", "IP address reported to brokers; default: the local address that reaches the NameServer"
    )
    offset_store_path: str = setting(
        "", "directory for the offsets of broadcasting consumers; default: ~/.local/share/rmq-redis/offsets"
    )
    poll_name_server_interval_s: float = setting(30.0, "seconds between updates of the routes in use")
    heartbeat_broker_interval_s: float = setting(30.0, "seconds between heartbeats to every broker")
    persist_consumer_offset_interval_s: float = setting(5.0, "seconds between commits of consumer offsets")
    rebalance_interval_s: float = setting(20.0, "seconds between periodic rebalances; changes trigger further ones")
    connect_timeout_s: float = setting(3.0, "timeout of opening a connection")
    request_timeout_s: float = setting(3.0, "timeout of a request other than send and pull")
    send_timeout_s: float = setting(3.0, "timeout of a send, including its retries")
    retry_times_when_send_failed: int = setting(
        2, "maximum number of retries of a send, each on another broker if available"
    )
    max_message_bytes: int = setting(
        4 * 1024 * 1024, "maximum size of a message body; larger messages are rejected before sending"
    )
    load_balancer: str = setting("ROUND_ROBIN", "name of the strategy by which a producer chooses queues")
    strict_order: bool = setting(
        False, "keep a sharding key on its queue; while that queue is unavailable, its sends wait"
    )
    allocate_strategy: str = setting("AVG", "name of the strategy that allocates queues to the consumers of a group")
    read_selector: str = setting("SUGGESTED", "name of the strategy that selects the broker of a group to pull from")
    plugin_interceptors: str = setting("", "names of plugins' interceptors: name;name")
    zone: str = setting("", "zone of this client; used as the unit name in its client id")
    zone_mode: bool = setting(False, "use only the broker groups in this client's zone")
    broker_weights: str = setting("", "for load_balancer WEIGHTED: broker-a=3;broker-b=0.5; other groups: 1")
    broker_warm_up_s: float = setting(
        0.0, "for load_balancer WEIGHTED: seconds until a new broker group has its full weight"
    )
    machine_rooms: str = setting("", "for allocate_strategy MACHINE_ROOM: room;room")
    allocate_queues: str = setting("", "for allocate_strategy CONFIG: topic:brokerName:0,1,2;topic:...")
    max_decompressed_bytes: int = setting(
        16 * 1024 * 1024, "maximum size of a decompressed body; a message with a larger body is retried"
    )
    compress_over_bytes: int = setting(4096, "minimum size of a body to compress (zlib); 0: never compress")


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
