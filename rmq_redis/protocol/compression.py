"""Compressed bodies, decompressed within bounds: the sender claims what a body becomes."""

from __future__ import annotations

import sys
import zlib

from ..errors import RemoteProtocolError

MAX_DECOMPRESSED_BYTES = 16 * 1024 * 1024
"""Default bound of one body: four times what producers send by default."""
_OTHER_KINDS = {0x100: "LZ4", 0x200: "ZSTD"}


def decompress_body(body: bytes, sys_flag: int, max_bytes: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """Decompresses a body that its producer compressed; never more than one byte beyond ``max_bytes``.

    Raises:
        RemoteProtocolError: damaged, larger than ``max_bytes``, or LZ4/ZSTD (producers use these only when told).
    """
    kind = sys_flag & 0x700
    if kind not in (0, 0x300):
        name = _OTHER_KINDS.get(kind, f"type {kind:#x}")
        raise RemoteProtocolError(f"body compressed with {name}, only zlib is supported")
    decompressor = zlib.decompressobj()
    try:
        result = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RemoteProtocolError(f"compressed body is damaged: {error}") from None
    if len(result) > max_bytes:
        raise RemoteProtocolError(
            f"body of {len(body)} bytes decompresses to more than max_decompressed_bytes={max_bytes}"
        )
    if not decompressor.eof:
        raise RemoteProtocolError("compressed body is truncated")
    return result


class Decompressor:
    """Decompresses the bodies of one answer; what cannot be decompressed stays as it is, with the reason.

    Attributes:
        left_bytes: what remains of the bytes that all bodies together may become; below 0: no more should be read.
        is_cut: the rest of the answer was not read, because there was no more room.
    """

    __slots__ = ("_max_bytes", "is_cut", "left_bytes")

    def __init__(self, max_bytes: int, total_bytes: int = sys.maxsize) -> None:
        """
        Args:
            max_bytes: of one body, the setting ``max_decompressed_bytes``.
            total_bytes: of all bodies of the answer. The first is decompressed anyway.
        """
        self._max_bytes = max_bytes
        self.left_bytes = total_bytes
        self.is_cut = False

    def read(self, body: bytes, sys_flag: int) -> tuple[bytes, str | None]:
        """The body, decompressed or as it is, and in that case why."""
        try:
            plain = decompress_body(body, sys_flag, self._max_bytes)
        except RemoteProtocolError as error:
            return body, str(error)
        self.left_bytes -= len(plain)
        return plain, None
