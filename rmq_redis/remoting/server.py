"""Accepts connections; ``dispatch.py`` answers their requests."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
from collections.abc import Callable, Mapping

from ..background import Every
from ..counted_warning import CountedWarning
from ..errors import ConfigError
from ..protocol.command import RemotingCommand
from ..protocol.frame import MAX_FRAME_BYTES
from .connection import Connection
from .dispatch import Dispatcher, Processor
from .inbound import InboundBytes

logger = logging.getLogger(__name__)

_OTHER_FILES = 64
"""Open files that connections leave for the store, NameServers and listening sockets."""
_SWEEP_PERIOD_S = 10.0
"""Idle connections are closed at most this long after their timeout, or a quarter of it if that is shorter."""
_END_S = 3.0
"""Requests that are being handled when a server closes may take this long."""


class RemotingServer:
    """Listening sockets with processors by request code.

    Connections that sent nothing for ``idle_timeout_s`` seconds are closed. A request without a processor is answered
    with code 3, as Apache RocketMQ does.

    Attributes:
        connections: those that are open.
        refused: connections that were closed at once because of ``max_connections``.
        inbound: the bytes that the connections hold, and those that were closed because of ``max_inbound_bytes``.
    """

    def __init__(
        self,
        processors: Mapping[int, Processor] | None,
        *,
        on_close: Callable[[Connection], None] | None = None,
        idle_timeout_s: float = 120.0,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        max_connections: int = sys.maxsize,
        max_inbound_bytes: int = sys.maxsize,
        refusal: Callable[[RemotingCommand], str | None] = lambda command: None,
    ) -> None:
        """
        Args:
            max_inbound_bytes: as ``InboundBytes`` explains.
            refusal: why a request is refused unread (code 29, INVALID_PARAMETER); None: it is taken.

        Raises:
            ConfigError: fewer than 1 connection, or bytes for fewer than 2 frames.
        """
        if max_connections < 1:
            raise ConfigError(f"max_connections is {max_connections}; it must be at least 1")
        self._max_connections = max_connections
        self.inbound = InboundBytes(max_inbound_bytes)
        self.refused = CountedWarning(
            logger, "%d connections were refused (%d since start): max_connections=" + f"{max_connections}; %s"
        )
        self._dispatcher = Dispatcher(processors, refusal=refusal, inbound=self.inbound)
        self._on_connection_closed = on_close
        self._idle_timeout_s = idle_timeout_s
        self._max_frame_bytes = max_frame_bytes
        self._servers: list[asyncio.Server] = []
        self._idle_sweep = Every(min(idle_timeout_s / 4, _SWEEP_PERIOD_S), self._close_idle, "closing idle connections")
        self.connections: set[Connection] = set()
        self._no_connections: asyncio.Event | None = None
        self.port = 0

    def set_processors(self, processors: Mapping[int, Processor]) -> None:
        """Sets the processors; until then, a server made with None answers that it is starting (code 2)."""
        self._dispatcher.processors = processors

    async def start(self, host: str, port: int) -> None:
        """Listens. Port 0 lets the system choose; ``port`` says which it was.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        self._leave_files(raise_open_files_limit())
        self.port = await self.listen_also(host, port)
        self._idle_sweep.start()

    def _leave_files(self, open_files: int | None) -> None:
        """Refuses connections before the system does: then the store could not be connected to any more, either."""
        if open_files is None or self._max_connections <= open_files - _OTHER_FILES:
            return
        self._max_connections = max(open_files - _OTHER_FILES, 1)
        logger.info(
            "at most %d connections are accepted, because this process may open %d files (ulimit -n)",
            self._max_connections,
            open_files,
        )

    async def listen_also(self, host: str, port: int) -> int:
        """Listens on one more port and returns it. Raises ConfigError as ``start``."""
        if not 0 <= port <= 65535:
            raise ConfigError(f"port {port} is not between 0 and 65535")
        try:
            server = await asyncio.get_running_loop().create_server(self._make_connection, host, port, backlog=4096)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {_why_not(error)}") from None
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def figures(self) -> dict[str, float]:
        """For a metrics sink: gauges, and counters since start."""
        return {
            "connections": len(self.connections),
            "connections_refused_total": self.refused.total,
            "connections_cut_total": self.inbound.cuts.total,
            "inbound_bytes": self.inbound.total,
        }

    def stop_accepting(self) -> None:
        """Closes the listening sockets; open connections go on."""
        for server in self._servers:
            server.close()

    def close_connections(self) -> None:
        """Closes every connection after sending what is queued; new ones are accepted."""
        for connection in list(self.connections):
            connection.close()

    async def close(self) -> None:
        """Stops listening, lets running requests end (at most 3 s), sends what is queued, closes every connection."""
        self.stop_accepting()
        self._idle_sweep.cancel()
        await self._dispatcher.close(_END_S)
        self.close_connections()
        try:
            async with asyncio.timeout(1.0):
                await self._all_closed()
        except TimeoutError:
            pass
        for connection in list(self.connections):
            connection.abort()

    def _make_connection(self) -> Connection:
        return Connection(
            self._dispatcher.handle,
            on_open=self._opened,
            on_close=self._closed,
            max_frame_bytes=self._max_frame_bytes,
            is_server=True,
            inbound=self.inbound,
        )

    def _opened(self, connection: Connection) -> None:
        if len(self.connections) >= self._max_connections:
            self.refused.add(f"the last one from {connection.remote_address}")
            connection.abort()
            return
        self.connections.add(connection)

    async def _all_closed(self) -> None:
        if self.connections:
            self._no_connections = asyncio.Event()
            await self._no_connections.wait()

    def _closed(self, connection: Connection) -> None:
        if connection not in self.connections:  # it was refused
            return
        self.connections.discard(connection)
        if self._no_connections is not None and not self.connections:
            self._no_connections.set()
        if self._on_connection_closed is not None:
            self._on_connection_closed(connection)

    async def _close_idle(self) -> None:
        oldest = asyncio.get_running_loop().time() - self._idle_timeout_s
        for connection in list(self.connections):
            if connection.last_active_s >= oldest:
                continue
            if connection.is_closing:  # its peer does not read: what is queued would never leave
                connection.abort()
            else:
                logger.info(
                    "%s: closing the connection, idle for %g s", connection.remote_address, self._idle_timeout_s
                )
                connection.close()


def _why_not(error: OSError) -> str:
    """Why an address cannot be listened on, and what to do. asyncio's own texts repeat the address."""
    if error.errno == errno.EADDRINUSE:
        return "it is in use; choose another port or stop what uses it"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; 0.0.0.0 stands for all that it has"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


def raise_open_files_limit() -> int | None:
    """Raises the soft limit of open files to the hard one: ten thousand idle clients are ten thousand files.

    Returns:
        The limit; None if there is none, or the system does not say.
    """
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:
            logger.info("the limit of open files stays at %d: %s", soft, error)
            hard = soft
    return None if hard == resource.RLIM_INFINITY else hard
