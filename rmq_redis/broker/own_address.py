"""The address at which other machines reach this one."""

from __future__ import annotations

import socket

from ..errors import ConfigError


def own_ip(peer: str) -> str:
    """The address from which this machine connects to ``host:port``. Raises ConfigError if there is none."""
    host, _, port = peer.rpartition(":")
    try:
        infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = infos[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            ip: str = probe.getsockname()[0]
            return f"[{ip}]" if ":" in ip else ip
    except OSError as error:
        raise ConfigError(
            f"cannot find the address of this machine that reaches {peer} ({error}); set advertised_host"
        ) from None
