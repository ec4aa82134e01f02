"""What the connections of a server have sent and still occupy: incomplete frames and requests in handling.

Small requests that are handled at once cost nothing here. Counted are, of every connection, what has arrived of an
incomplete frame, requests that wait for their turn, requests of at least ``LARGE_FRAME_BYTES`` as long as they exist,
and ``TASK_BYTES`` for each request that is handled by a task.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import weakref
from typing import TYPE_CHECKING

from ..counted_warning import CountedWarning
from ..errors import ConfigError
from ..protocol.command import RemotingCommand
from ..protocol.frame import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from .connection import Connection

logger = logging.getLogger(__name__)

TASK_BYTES = 1024
MIN_INBOUND_BYTES = 2 * MAX_FRAME_BYTES
"""Each half of the bound must let one frame through."""
STALLED_S = 1.0
"""While there is no room, a connection whose incomplete frame has not grown for this long is closed."""
SLOW_S = 10.0
"""While there is no room, so is one whose frame has not been completed in this time."""
_LOOK_PERIOD_S = 0.25


class _HeldFrame(weakref.ref[RemotingCommand]):
    __slots__ = ("size",)
    size: int


class _IncompleteFrame:
    """What has arrived of a frame. Times: since when it is read without a pause, and when bytes came last."""

    __slots__ = ("grown_s", "since_s", "size")

    def __init__(self, now: float) -> None:
        self.size = 0
        self.since_s = self.grown_s = now


class InboundBytes:
    """The bound of one server: half for incomplete frames, half for requests in handling.

    While incomplete frames take more than their half, those above an equal share of it are not read on, except for the
    oldest of them; those that are read and do not grow lose their connection. So a frame that never ends keeps nobody
    out, many large ones at a time are only slower, and small ones notice nothing. While requests take more than theirs,
    connections that send more of what counts are not read from: the server is about to finish what it has.

    Attributes:
        added: bytes of requests that were ever counted; a difference shows that something was.
        cuts: connections that were closed.
    """

    def __init__(self, max_bytes: int = sys.maxsize) -> None:
        """
        Raises:
            ConfigError: the bound is smaller than ``MIN_INBOUND_BYTES``.
        """
        if max_bytes < MIN_INBOUND_BYTES:
            raise ConfigError(f"max_inbound_bytes is {max_bytes}; it must be at least {MIN_INBOUND_BYTES} (2 frames)")
        self._max_bytes = max_bytes
        self._half = max_bytes // 2
        self._incomplete: dict[Connection, _IncompleteFrame] = {}  # the oldest first
        self._incomplete_bytes = 0
        self._first: Connection | None = None
        self._held: dict[int, _HeldFrame] = {}
        self._request_bytes = 0
        self._paused: dict[Connection, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.added = 0
        self.cuts = CountedWarning(logger, "%d connections with incomplete frames were closed (%d since start); %s")

    @property
    def total(self) -> int:
        """Bytes that are counted now."""
        return self._request_bytes + self._incomplete_bytes

    # --- requests in handling ------------------------------------------------------------------------------------

    def add(self, size: int) -> None:
        """Counts bytes of requests until ``release``."""
        self._request_bytes += size
        self.added += size

    def release(self, size: int) -> None:
        """Bytes of ``add`` are not held any more."""
        self._request_bytes -= size
        if self._paused:
            self._go_on()

    def hold(self, command: RemotingCommand, size: int) -> None:
        """Counts a large request for as long as anything refers to it."""
        frame = _HeldFrame(command, self._freed)
        frame.size = size
        self._held[id(frame)] = frame
        self.add(size)

    def _freed(self, frame: weakref.ref[RemotingCommand]) -> None:
        self.release(self._held.pop(id(frame)).size)

    def added_by(self, connection: Connection) -> None:
        """Reads no more of a connection that has added something, if that was too much."""
        if self._request_bytes > self._half:
            self._pause(connection)

    # --- incomplete frames ---------------------------------------------------------------------------------------

    def incomplete(self, connection: Connection, size: int, *, is_new: bool) -> None:
        """How much of an incomplete frame a connection has sent; 0: it has none.

        Args:
            is_new: it is another frame than that of the last call.
        """
        frame = self._incomplete.get(connection)
        before = 0
        if frame is not None:
            before = frame.size
            if is_new or not size:
                del self._incomplete[connection]
                frame = None
                if connection is self._first:
                    self._first = None
        if size:
            now = time.monotonic()
            if frame is None:
                frame = self._incomplete[connection] = _IncompleteFrame(now)
            frame.size, frame.grown_s = size, now
        self._incomplete_bytes += size - before
        if size < before:
            if self._paused:
                self._go_on()
        elif self._request_bytes > self._half:
            if size > self._share():
                self._pause(connection)
        elif self._incomplete_bytes > self._half:
            if size > self._share() and connection is not self._oldest_large():
                self._pause(connection)
            self._look_later()

    def _share(self) -> int:
        """So much of a frame is always read. All such frames together take half of what incomplete frames may."""
        return self._half // (2 * len(self._incomplete))

    def _oldest_large(self) -> Connection | None:
        """The one with the oldest frame above its share: it is read on, or all might wait for one another."""
        if self._first is None:
            share = self._share()
            self._first = next((peer for peer, frame in self._incomplete.items() if frame.size > share), None)
        return self._first

    def closed(self, connection: Connection) -> None:
        """A connection is closed: its incomplete frame is freed."""
        self._paused.pop(connection, None)
        self.incomplete(connection, 0, is_new=False)

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_PERIOD_S, self._look)

    def _look(self) -> None:
        """Closes connections whose frames do not get on, the oldest first, until the others have room."""
        self._timer = None
        now = time.monotonic()
        for connection, frame in list(self._incomplete.items()):
            if self._incomplete_bytes <= self._half:
                return
            if connection in self._paused or frame.size <= self._share():
                continue
            if now - frame.grown_s >= STALLED_S or now - frame.since_s >= SLOW_S:
                self._cut(connection, frame, now)
        if self._incomplete_bytes > self._half:
            self._look_later()

    def _cut(self, connection: Connection, frame: _IncompleteFrame, now: float) -> None:
        self.cuts.add(
            f"the last one, {connection.remote_address}, sent {frame.size} bytes of a frame in "
            f"{now - frame.since_s:.1f} s and nothing in the last {now - frame.grown_s:.1f} s, while "
            f"{len(self._incomplete)} incomplete frames took {self._incomplete_bytes} bytes, more than half of "
            f"max_inbound_bytes={self._max_bytes}"
        )
        connection.cut()

    # --- connections that are not read from ----------------------------------------------------------------------

    def _pause(self, connection: Connection) -> None:
        if connection not in self._paused:
            self._paused[connection] = None
            connection.hold_back()

    def _go_on(self) -> None:
        """Reads from those connections again for which there is room: all of them, or only the oldest frame's."""
        if self._request_bytes > self._half:
            return
        if self._incomplete_bytes <= self._half:
            released, self._paused = list(self._paused), {}
        else:
            oldest = self._oldest_large()
            if oldest is None or oldest not in self._paused:
                return
            released = [oldest]
            del self._paused[oldest]
        now = time.monotonic()
        for connection in released:
            frame = self._incomplete.get(connection)
            if frame is not None:
                frame.since_s = frame.grown_s = now
        # Later: this may run wherever the last reference to a request goes.
        asyncio.get_running_loop().call_soon(self._read_from, released)

    def _read_from(self, connections: list[Connection]) -> None:
        for connection in connections:
            if connection not in self._paused:  # once more, meanwhile
                connection.go_on()
