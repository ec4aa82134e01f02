"""One socket that speaks remoting: requests and responses in both directions.

Used by servers and clients alike. Nothing here makes a task per frame: requests go to a plain callback, responses set a
future, and everything written in one turn of the event loop leaves in one system call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from ..errors import ConnectionClosedError, RemoteProtocolError, RequestTimeoutError
from ..hosts import pack_host
from ..protocol.command import RemotingCommand
from ..protocol.frame import MAX_FRAME_BYTES, CommandDecoder, encode_command
from .inbound import InboundBytes
from .turn import TURN_S

logger = logging.getLogger(__name__)

FLUSH_FRAMES = 32
"""So many frames do not wait for the end of the loop turn: the peer begins while we make the rest of a burst."""
WRITE_AT_ONCE_BYTES = 4096
"""Above this, uvloop writes to the socket at once and not at the end of the loop turn."""

RequestHandler = Callable[["Connection", RemotingCommand], None]
ResponseFuture = asyncio.Future[RemotingCommand]
T_contra = TypeVar("T_contra", contravariant=True)


class Receiver(Protocol[T_contra]):
    """Receives a result: a future, or an object like one."""

    def done(self) -> bool:
        """Whether the result is no longer needed."""

    def set_result(self, result: T_contra, /) -> None:
        """Called with the result."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Called if there is no result, or if it is unknown."""


class Connection(asyncio.Protocol):
    """One remoting connection.

    Attributes:
        remote_address: ``ip:port`` of the peer.
        remote_host: the peer packed as a message record holds it (4 or 16 bytes of address, 4 of port).
        closed: True once the socket is gone.
        last_active_s: event-loop time of the last bytes read.
        attachments: whatever a role keeps about the peer, by a key of its own.
    """

    def __init__(
        self,
        on_request: RequestHandler,
        *,
        on_open: Callable[[Connection], None] | None = None,
        on_close: Callable[[Connection], None] | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        is_server: bool = False,
        inbound: InboundBytes | None = None,
    ) -> None:
        """
        Args:
            is_server: stop reading requests while the peer does not read our answers. Only one end may do so: two
                that both wait for the other to read would wait for ever.
            inbound: counts what the server's connections hold; only with ``is_server``.
        """
        self._on_request = on_request
        self._on_open = on_open
        self._on_close = on_close
        self._inbound = inbound
        self._has_incomplete = False
        self._postponed_bytes = 0
        self._held_back = False
        self._decoder = CommandDecoder(max_frame_bytes, None if inbound is None else inbound.hold)
        self._max_frame_bytes = max_frame_bytes
        self._is_server = is_server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._pending: dict[int, tuple[Receiver[RemotingCommand], float]] = {}
        self._next_opaque = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._drained: asyncio.Future[None] | None = None
        self._postponed: list[RemotingCommand] = []
        self.closed = False
        self.remote_address = ""
        self.remote_host = b"\0" * 8
        self.last_active_s = 0.0
        self.attachments: dict[str, Any] = {}

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own
        transport.set_write_buffer_limits(high=WRITE_AT_ONCE_BYTES)
        self.last_active_s = self._loop.time()
        peer = transport.get_extra_info("peername")
        if peer:
            self.remote_address, self.remote_host = _peer(peer[0], peer[1])
        if self._on_open is not None:
            self._on_open(self)

    def data_received(self, data: bytes) -> None:
        inbound = self._inbound
        if inbound is None:
            self._receive(data)
            return
        added = inbound.added
        is_new = self._receive(data)
        size = self._decoder.pending_bytes
        if size or self._has_incomplete:
            self._has_incomplete = size > 0
            inbound.incomplete(self, size, is_new=is_new)
        if self._postponed:
            self._postponed_bytes += len(data)
            inbound.add(len(data))
        if inbound.added != added:
            inbound.added_by(self)

    def _receive(self, data: bytes) -> bool:
        """Hands on what ``data`` completes; whether that was anything."""
        self.last_active_s = self._loop.time()
        commands: list[RemotingCommand] = []
        broken = ""
        try:
            self._decoder.feed(data, commands)
        except RemoteProtocolError as error:
            broken = str(error)  # not the error: its traceback leads to this frame, a cycle with all that was received
        pending = self._pending
        requests: list[RemotingCommand] = []
        for command in commands:
            if command.flag & 1:
                entry = pending.pop(command.opaque, None)
                if entry is None:
                    logger.debug("%s: response to unknown request %d", self.remote_address, command.opaque)
                elif not entry[0].done():
                    entry[0].set_result(command)
            else:
                requests.append(command)
        if requests:
            self._take(requests)
        if broken:
            logger.warning("%s: closing the connection: %s", self.remote_address, broken)
            self.close()
        return bool(commands)

    def _take(self, requests: list[RemotingCommand]) -> None:
        """Hands requests on, for at most ``TURN_S``: the rest waits for the other connections of the event loop."""
        if self._postponed:
            self._postponed += requests
            return
        until_s = time.monotonic() + TURN_S
        for index, command in enumerate(requests, 1):
            self._on_request(self, command)
            if index < len(requests) and time.monotonic() > until_s and self._is_server:
                self._postponed = requests[index:]
                self._pause_reading()
                self._loop.call_soon(self._take_postponed)
                return

    def _take_postponed(self) -> None:
        requests, self._postponed = self._postponed, []
        if self.closed:
            return
        self._take(requests)
        if not self._postponed:
            self._release_postponed()
            self._resume_reading()

    def _release_postponed(self) -> None:
        if self._inbound is not None and self._postponed_bytes:
            size, self._postponed_bytes = self._postponed_bytes, 0
            self._inbound.release(size)

    def _pause_reading(self) -> None:
        if self._is_server and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        """Unless the peer does not read our answers, its last requests are not handed on yet, or it is held back."""
        transport = self._transport
        if self._drained is not None or self._postponed or self._held_back or not self._is_server:
            return
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    def hold_back(self) -> None:
        """Reads nothing more until ``go_on``: the server has reached ``max_inbound_bytes``."""
        self._held_back = True
        self._pause_reading()

    def go_on(self) -> None:
        """Ends ``hold_back``."""
        self._held_back = False
        self._resume_reading()

    def cut(self) -> None:
        """Frees an incomplete frame and closes at once."""
        self._decoder.discard()
        self._has_incomplete = False
        if self._inbound is not None:
            self._inbound.closed(self)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._decoder.discard()
        self._postponed.clear()
        self._release_postponed()
        if self._inbound is not None:
            self._inbound.closed(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, {}
        for future, _ in pending.values():
            if not future.done():
                future.set_exception(ConnectionClosedError(f"{self.remote_address} closed the connection"))
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._on_close is not None:
            self._on_close(self)

    def pause_writing(self) -> None:
        # A peer that asks without reading the answers: stop taking its requests, or its answers fill our memory.
        self._pause_reading()
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None
        self._resume_reading()

    # --- sending -------------------------------------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        """Queues a whole frame; all frames of this turn of the loop leave together. Dropped when the socket is gone."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(frame)
        if len(self._out) >= FLUSH_FRAMES:
            self.flush()

    def write_command(self, command: RemotingCommand) -> None:
        """Encodes and queues a command. Raises LocalProtocolError when it cannot be encoded."""
        self.write(encode_command(command, self._max_frame_bytes))

    def flush(self) -> None:
        """Hands what is queued to the socket."""
        out, self._out = self._out, []
        transport = self._transport
        if transport is None or transport.is_closing() or not out:
            return
        # Not writelines(): asyncio's own of Python 3.12 and 3.13.0 never says that the peer does not read.
        transport.write(out[0] if len(out) == 1 else b"".join(out))

    async def drain(self) -> None:
        """Waits until the peer has taken enough of what was written."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    def next_opaque(self) -> int:
        """The id of the next request on this connection."""
        self._next_opaque = opaque = (self._next_opaque + 1) & 0x7FFFFFFF
        return opaque

    def send_request(self, frame: bytes, opaque: int, deadline: float, receiver: Receiver[RemotingCommand]) -> None:
        """Queues an encoded request; the receiver gets the response, whatever its code.

        It gets a ``RequestTimeoutError`` at ``deadline``, a time of the event loop's clock, and a
        ``ConnectionClosedError`` if the socket closes.
        """
        if self.closed:
            receiver.set_exception(ConnectionClosedError(f"the connection to {self.remote_address} is closed"))
            return
        self._pending[opaque] = (receiver, deadline)
        if self._timer is None or deadline < self._timer_at - 0.001:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._expire)
        self.write(frame)

    def invoke(self, command: RemotingCommand, timeout_s: float) -> ResponseFuture:
        """Encodes and sends a request; see ``send_request``. Sets the command's opaque."""
        command.opaque = opaque = self.next_opaque()
        frame = encode_command(command, self._max_frame_bytes)
        future: ResponseFuture = self._loop.create_future()
        self.send_request(frame, opaque, self._loop.time() + timeout_s, future)
        return future

    def _expire(self) -> None:
        """Fails what is overdue and sets the timer to the next deadline: one timer for all requests in flight."""
        self._timer = None
        now = self._loop.time()
        overdue: list[int] = []
        earliest = float("inf")
        for opaque, (future, deadline) in self._pending.items():
            if deadline <= now or future.done():
                overdue.append(opaque)
            elif deadline < earliest:
                earliest = deadline
        for opaque in overdue:
            future, _ = self._pending.pop(opaque)
            if not future.done():
                future.set_exception(RequestTimeoutError(f"no answer from {self.remote_address} in time"))
        if earliest != float("inf"):
            self._timer_at = earliest
            self._timer = self._loop.call_at(earliest, self._expire)

    def fileno(self) -> int:
        """The socket's descriptor; -1 without one."""
        peer = None if self._transport is None else self._transport.get_extra_info("socket")
        return -1 if peer is None else int(peer.fileno())

    @property
    def is_closing(self) -> bool:
        """Whether ``close`` was called; what is queued may still be on its way."""
        return self._transport is not None and self._transport.is_closing()

    def close(self) -> None:
        """Sends what is queued, then closes."""
        self.flush()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """Closes at once, without sending what is queued."""
        if self._transport is not None:
            self._transport.abort()


def _peer(ip: str, port: int) -> tuple[str, bytes]:
    ip = ip.partition("%")[0]
    if ip.startswith("::ffff:") and "." in ip:
        ip = ip.removeprefix("::ffff:")
    address = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    return address, pack_host(address)
