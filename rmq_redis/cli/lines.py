"""The lines of a file or of standard input, as they come."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

from ..errors import MessageIllegalLocallyError
from ..model import DEFAULT_MAX_MESSAGE_BYTES

_READ_BYTES = 64 * 1024


async def read_lines(file: int, max_line_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> AsyncIterator[list[bytes]]:
    """The lines of an open file, without their ends: as soon as some are there, all that are there.

    Args:
        file: descriptor, which is left open.
        max_line_bytes: bound of a line whose end was not read yet. One that is longer and whole is returned.

    Raises:
        OSError: it cannot be read.
        MessageIllegalLocallyError: a line goes on beyond ``max_line_bytes``; the lines before it were returned.
    """
    begun: list[bytes] = []  # of a line whose end was not read yet
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
            raise MessageIllegalLocallyError(f"a line has more than {max_line_bytes} bytes, the largest message body")
    if any(begun):
        yield [b"".join(begun)]


async def _read(file: int) -> bytes:
    """What is there, b"" at the end.

    In a thread: a terminal or a pipe may say nothing for hours, and meanwhile what was read is to be sent. A daemon:
    one that waits for ever does not hold up the end of the process.
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
        with suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
            loop.call_soon_threadsafe(settle, chunk, error)

    threading.Thread(target=work, name="read-lines", daemon=True).start()
    return await answer
