"""Compressing a body if that makes it smaller."""

from __future__ import annotations

import asyncio
import zlib

from ...codes import MessageSysFlag

COMPRESSION_LEVEL = 5
"""Source: RocketMQ 5.3 DefaultMQProducerImpl.zipCompressLevel."""
_IN_THREAD_BYTES = 128 * 1024
"""From this size on zlib takes more than a millisecond, during which the event loop must not wait."""
_PROBES, _PROBE_BYTES = 4, 1024
_WORTHWHILE = 0.97
"""A body is compressed only if its sample shrinks below this part of its size."""


def _may_shrink(body: bytes) -> bool:
    """Whether a few pieces of a body shrink. Of images, archives and encrypted data nothing does, and zlib takes 2 ms
    for 64 KiB to find out.
    """
    if len(body) <= _PROBES * _PROBE_BYTES:
        return True
    step = (len(body) - _PROBE_BYTES) // (_PROBES - 1)
    sample = b"".join(body[start : start + _PROBE_BYTES] for start in range(0, len(body) - _PROBE_BYTES + 1, step))
    return len(zlib.compress(sample, 1)) < _WORTHWHILE * len(sample)


def compress(body: bytes) -> tuple[bytes, int]:
    """(body, sysFlag), compressed when that makes it smaller. Type bits 0: every version reads that as zlib."""
    if not _may_shrink(body):
        return body, 0
    smaller = zlib.compress(body, COMPRESSION_LEVEL)
    return (smaller, int(MessageSysFlag.COMPRESSED)) if len(smaller) < len(body) else (body, 0)


async def compress_large(body: bytes) -> tuple[bytes, int]:
    """As ``compress``; what takes long is done in a thread."""
    return await asyncio.to_thread(compress, body) if len(body) >= _IN_THREAD_BYTES else compress(body)
