"""Addresses and ports of this machine."""

from __future__ import annotations

import socket


def port_is_free(host: str, port: int) -> bool:
    """Whether one can listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def own_address() -> str:
    """The address of this machine that others reach it by; 127.0.0.1 when it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only looks the way up
            address: str = probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"
        return address
