"""Reads the lines of a file or of standard input as they arrive."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

from ..errors import MessageIllegalLocallyError
from ..model import DEFAULT_MAX_MESSAGE_BYTES

_READ_BYTES = 64 * 1024
"""The capacity of a pipe on Linux."""


async def read_lines(file: int, max_line_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> AsyncIterator[list[bytes]]:
    """Yields the lines of an open file, without line ends: always all that have arrived, at least one.

    Args:
        file: descriptor; it stays open.
        max_line_bytes: limit of a line whose end has not arrived. A longer line that is complete is yielded.

    Raises:
        OSError: the file cannot be read.
        MessageIllegalLocallyError: a line exceeds ``max_line_bytes``; the lines before it were yielded.
    """
    begun: list[bytes] = []  # parts of a line whose end has not arrived
    size = 0
    while chunk := await _read(file):
        *lines, last = chunk.split(b"\n")
        if lines:
            yield [b"".join([*begun, lines[0]]), *lines[1:]]
            begun.clear()
            size = 0
        begun.append(last)
        size += len(last)
        if size > max_line_bytes:
            raise MessageIllegalLocallyError(
                f"a line has more than {max_line_bytes} bytes, the limit of a message body"
            )
    if any(begun):
        yield [b"".join(begun)]


async def _read(file: int) -> bytes:
    """Bytes that have arrived, b"" at the end of the file.

    It reads in a thread, because a terminal or a pipe may block for hours while messages are being sent. The thread is
    a daemon, so that it does not delay the end of the process.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    def settle(chunk: bytes, error: OSError | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(chunk)
        else:
            answer.set_exception(error)

    def work() -> None:
        chunk, error = b"", None
        try:
            chunk = os.read(file, _READ_BYTES)
        except OSError as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed; nobody waits
            loop.call_soon_threadsafe(settle, chunk, error)

    threading.Thread(target=work, name="read-lines", daemon=True).start()
    return await answer
