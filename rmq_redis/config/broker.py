"""Settings of a broker."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..model import MAX_QUEUE_NUMS, topic_name_error
from .addresses import parse_addresses
from .values import setting

DEFAULT_BROKER_PORT = 10911
"""Source: ``NettyServerConfig.listenPort`` as ``BrokerStartup`` sets it."""
VIP_PORT_DISTANCE = 2
"""Old Java clients send to ``listen_port - 2``. Source: ``MixAll.brokerVIPChannel``."""
DEFAULT_CLUSTER = "DefaultCluster"
LARGEST_PAYLOAD_BYTES = 8 * 1024 * 1024
"""Half of the largest frame (``protocol.frame.MAX_FRAME_BYTES``): the rest is left for headers and records."""


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
