"""Settings of a NameServer."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from .addresses import DEFAULT_NAMESRV_PORT
from .values import setting


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
