"""Settings of the roles: one dataclass each. Precedence: argument or flag, then environment, then default.

The environment variable of a setting is ``RMQ_REDIS_`` and its name in capitals: ``RMQ_REDIS_NAMESRV_ADDR``. Units
end the names (``_s`` seconds, ``_bytes``).
"""

from __future__ import annotations

from .addresses import DEFAULT_NAMESRV_PORT, parse_addresses
from .broker import DEFAULT_BROKER_PORT, DEFAULT_CLUSTER, LARGEST_PAYLOAD_BYTES, VIP_PORT_DISTANCE, BrokerConfig
from .client import ClientConfig
from .nameserver import NameServerConfig
from .values import ENV_PREFIX, check_settings, check_value, choice, env_name, from_env, setting, unknown_name

__all__ = [
    "DEFAULT_BROKER_PORT",
    "DEFAULT_CLUSTER",
    "DEFAULT_NAMESRV_PORT",
    "ENV_PREFIX",
    "LARGEST_PAYLOAD_BYTES",
    "VIP_PORT_DISTANCE",
    "BrokerConfig",
    "ClientConfig",
    "NameServerConfig",
    "check_settings",
    "check_value",
    "choice",
    "env_name",
    "from_env",
    "parse_addresses",
    "setting",
    "unknown_name",
]
