"""Addresses of NameServers, as users write them."""

from __future__ import annotations

import re

from ..errors import ConfigError
from .values import env_name

DEFAULT_NAMESRV_PORT = 9876
"""Source: ``NettyServerConfig.listenPort`` as ``NamesrvStartup`` sets it."""
_MAX_PORT = 65_535
"""TCP has 16 bits for a port."""

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
        if not _HOST.fullmatch(host) or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= _MAX_PORT:
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
