"""Connections to servers by address, and calls over them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping

from ..codes import ResponseCode
from ..errors import RemotingConnectError, RmqError, response_error
from ..protocol.command import RemotingCommand
from ..protocol.frame import MAX_FRAME_BYTES
from .connection import Connection
from .dispatch import Dispatcher, Processor

logger = logging.getLogger(__name__)

UNACKNOWLEDGED_S = 20.0
"""A connection on which the peer's machine acknowledges nothing for so long is closed (where the system can, as Linux).

Otherwise one that died without a word, or a firewall that forgot the connection, would be written to for a quarter of
an hour, although a new connection works. A peer that is only slow does acknowledge."""


class RemotingClient:
    """Keeps one connection per server address. Requests of servers go to ``processors``, as in a server."""

    def __init__(
        self,
        processors: Mapping[int, Processor] | None = None,
        *,
        connect_timeout_s: float = 3.0,
        on_close: Callable[[str], None] | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        """
        Args:
            on_close: called with the address when a connection that was open is gone.
        """
        self._dispatcher = Dispatcher(processors or {})
        self._connect_timeout_s = connect_timeout_s
        self._on_close = on_close
        self._max_frame_bytes = max_frame_bytes
        self._connecting: dict[str, asyncio.Task[Connection]] = {}
        self._closed = False
        self._refusal: RmqError | None = None
        self.connections: dict[str, Connection] = {}
        """Open connections by address; the fast path of a caller looks here first."""

    async def connect(self, address: str) -> Connection:
        """The connection to ``host:port``, opened if need be. Callers at the same time share one attempt.

        Raises:
            RemotingConnectError: refused, unreachable, or not within the connect timeout. Others as ``abandon`` says.
        """
        connection = self.connections.get(address)
        if connection is not None and not connection.closed:
            return connection
        if self._refusal is not None:
            raise self._refusal
        if self._closed:
            raise RemotingConnectError(f"cannot connect to {address}: this client is closed")
        task = self._connecting.get(address)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._open(address))
            self._connecting[address] = task
            task.add_done_callback(lambda done: self._opened(address, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._closed and task.cancelled():  # the attempt was cancelled, not its caller
                raise RemotingConnectError(f"cannot connect to {address}: this client is closed") from None
            raise

    def _opened(self, address: str, task: asyncio.Task[Connection]) -> None:
        self._connecting.pop(address, None)
        if not task.cancelled():
            task.exception()  # seen by those who wait; nobody may

    async def _open(self, address: str) -> Connection:
        host, separator, port = address.rpartition(":")
        if not separator or not port.isdecimal():
            raise RemotingConnectError(f"address {address!r} is not host:port")

        def closed(connection: Connection) -> None:
            if self.connections.get(address) is connection:
                del self.connections[address]
                if self._on_close is not None and not self._closed:
                    self._on_close(address)

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                transport, connection = await loop.create_connection(
                    lambda: Connection(self._dispatcher.handle, on_close=closed, max_frame_bytes=self._max_frame_bytes),
                    host.strip("[]"),
                    int(port),
                )
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                peer: socket.socket = transport.get_extra_info("socket")
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNACKNOWLEDGED_S * 1000))
        except TimeoutError:
            raise RemotingConnectError(
                f"cannot connect to {address}: no answer in {self._connect_timeout_s:g} s"
            ) from None
        except (OSError, OverflowError, UnicodeError) as error:
            raise RemotingConnectError(f"cannot connect to {address}: {error}") from None
        if self._closed:
            connection.close()
            raise RemotingConnectError(f"cannot connect to {address}: this client is closed")
        self.connections[address] = connection
        return connection

    async def invoke(self, address: str, command: RemotingCommand, timeout_s: float = 3.0) -> RemotingCommand:
        """Sends a request and returns its response, whatever its code.

        Raises:
            RemotingError: no connection, no answer in ``timeout_s`` seconds, or the connection closed meanwhile.
        """
        connection = self.connections.get(address) or await self.connect(address)
        return await connection.invoke(command, timeout_s)

    async def call(self, address: str, command: RemotingCommand, timeout_s: float = 3.0) -> RemotingCommand:
        """As ``invoke``, and raises the ``ResponseError`` of any code other than SUCCESS."""
        answer = await self.invoke(address, command, timeout_s)
        if answer.code != ResponseCode.SUCCESS:
            raise response_error(answer.code, answer.remark, address)
        return answer

    async def invoke_oneway(self, address: str, command: RemotingCommand) -> None:
        """Sends a request that is not answered. Raises RemotingError when there is no connection."""
        connection = self.connections.get(address) or await self.connect(address)
        command.opaque = connection.next_opaque()
        command.flag |= 2
        connection.write_command(command)

    def disconnect(self, address: str) -> None:
        """Closes the connection to one address, if there is one."""
        connection = self.connections.pop(address, None)
        if connection is not None:
            connection.close()

    def abandon(self, reason: RmqError) -> list[Connection]:
        """Forgets all connections as they are, and has every further call raise ``reason``; returns them."""
        self._refusal = reason
        self._closed = True
        connections = list(self.connections.values())
        self.connections.clear()
        return connections

    async def close(self) -> None:
        """Sends what is queued and closes every connection."""
        self._closed = True
        for task in list(self._connecting.values()):
            task.cancel()
        connections, self.connections = list(self.connections.values()), {}
        for connection in connections:
            connection.close()
        await asyncio.sleep(0)
