"""Socket addresses as message records and message ids hold them: 4 or 16 bytes of IP address, 4 bytes of port."""

from __future__ import annotations

import ipaddress

from .errors import LocalProtocolError


def pack_host(host: str) -> bytes:
    """``ip:port`` (IPv6 in brackets) as 8 or 20 bytes.

    Raises:
        LocalProtocolError: not an IP address and a port.
    """
    ip, separator, port = host.rpartition(":")
    try:
        if not separator:
            raise ValueError("no port")
        return ipaddress.ip_address(ip.strip("[]")).packed + int(port).to_bytes(4, "big", signed=True)
    except (ValueError, OverflowError) as error:
        raise LocalProtocolError(f"address {host!r} is not ip:port ({error})") from None


def unpack_host(data: bytes) -> str:
    """8 or 20 bytes as ``ip:port``."""
    address = ipaddress.ip_address(data[:-4])
    port = int.from_bytes(data[-4:], "big", signed=True)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def offset_msg_id(store_host: str, physical_offset: int) -> str:
    """The broker's message id: 32 (IPv4) or 56 (IPv6) upper-case hex digits."""
    return (pack_host(store_host) + physical_offset.to_bytes(8, "big", signed=True)).hex().upper()
