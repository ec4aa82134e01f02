"""Settings of a client."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..errors import ConfigError
from .values import check_settings, setting

_MAY_BE_ZERO = ("retry_times_when_send_failed", "broker_warm_up_s", "compress_over_bytes", "linger_ms")


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
    coalesce_sends: bool = setting(
        True, "send what a turn of the event loop has for one queue in one request; each send has its own result"
    )
    linger_ms: float = setting(0.0, "milliseconds that a send waits for others to the same queue")
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

    def check(self) -> None:
        """Raises ConfigError for a value of another type than its setting's, or a number out of its range."""
        check_settings(ClientConfig, vars(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _MAY_BE_ZERO:
                if value < 0:
                    raise ConfigError(f"{field.name} is {value}; it must be at least 0 (default: {field.default})")
            elif isinstance(field.default, float) and not value > 0:
                raise ConfigError(f"{field.name} is {value}; it must be above 0 (default: {field.default})")
            elif type(field.default) is int and value < 1:
                raise ConfigError(f"{field.name} is {value}; it must be at least 1 (default: {field.default})")
