"""Message ids: the broker's (where a message is stored) and the producer's (UNIQ_KEY).

Source: RocketMQ 5.3 ``MessageDecoder.decodeMessageId``, ``MessageClientIDSetter``.
"""

from __future__ import annotations

import time

from ..errors import RemoteProtocolError
from ..hosts import unpack_host


def parse_offset_msg_id(message_id: str) -> tuple[str, int]:
    """(``ip:port`` of the broker, physical offset) of an offset message id.

    Raises:
        RemoteProtocolError: not 32 or 56 hex digits, or the port in it cannot be one: a producer's id looks the same.
    """
    try:
        data = bytes.fromhex(message_id)
    except ValueError:
        data = b""
    if len(data) not in (16, 28) or len(message_id) not in (32, 56):
        raise RemoteProtocolError(f"{message_id[:80]!r} is not an offset message id (32 or 56 hex digits)")
    if (port := int.from_bytes(data[-12:-8], "big")) > 65535:
        raise RemoteProtocolError(f"{message_id!r} is not an offset message id (it would have the port {port})")
    return unpack_host(data[:-8]), int.from_bytes(data[-8:], "big", signed=True)


class UniqKeyGenerator:
    """Makes UNIQ_KEY, the client's message id: ip, process, salt, ms since the month began, counter; upper-case hex.

    Not thread-safe: one per event loop. Within one millisecond 65,536 ids differ by the counter alone.
    Source: ``MessageClientIDSetter``; 4.x tools compute the time of a message from it, so the format is kept.
    """

    def __init__(self, ip: bytes, process_id: int, salt: bytes, clock: object = None) -> None:
        """
        Args:
            ip: 4 or 16 bytes.
            salt: 4 bytes that tell two generators of one process apart.
        """
        self._prefix = (ip + (process_id & 0xFFFF).to_bytes(2, "big") + salt).hex().upper()
        self._counter = 0
        self._month_start_ms = 0
        self._next_month_ms = 0

    def next(self, now_ms: int) -> str:
        """The next id, for a message made at ``now_ms``."""
        if not self._month_start_ms <= now_ms < self._next_month_ms:
            self._set_month(now_ms)
        self._counter = counter = (self._counter + 1) & 0xFFFF
        return "%s%08X%04X" % (self._prefix, now_ms - self._month_start_ms, counter)  # noqa: UP031  (half the time)

    def _set_month(self, now_ms: int) -> None:
        local = time.localtime(now_ms / 1000)
        self._month_start_ms = int(time.mktime((local.tm_year, local.tm_mon, 1, 0, 0, 0, 0, 0, -1)) * 1000)
        year, month = (local.tm_year + 1, 1) if local.tm_mon == 12 else (local.tm_year, local.tm_mon + 1)
        self._next_month_ms = int(time.mktime((year, month, 1, 0, 0, 0, 0, 0, -1)) * 1000)


def unique_key_time_ms(key: str, now_ms: int) -> int | None:
    """When a UNIQ_KEY was made, in ms: the month before this one if it would lie in the future. None: no such key.

    The key counts from the beginning of the month in its maker's time zone, which is taken to be ours.
    """
    if len(key) not in (32, 56):
        return None
    try:
        since_month_ms = int(key[-12:-4], 16)
        int(key, 16)
    except ValueError:
        return None
    local = time.localtime(now_ms / 1000)
    year, month = local.tm_year, local.tm_mon
    made_ms = int(time.mktime((year, month, 1, 0, 0, 0, 0, 0, -1)) * 1000) + since_month_ms
    if made_ms > now_ms + 3_600_000:
        year, month = (year - 1, 12) if month == 1 else (year, month - 1)
        made_ms = int(time.mktime((year, month, 1, 0, 0, 0, 0, 0, -1)) * 1000) + since_month_ms
    return made_ms
