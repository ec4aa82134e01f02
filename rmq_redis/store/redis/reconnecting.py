"""A connection that is reopened when it breaks, to the server that is the right one by then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ...errors import StoreError
from .connection import StoreConnection
from .locate import Locator, locator
from .opening import connect

logger = logging.getLogger(__name__)

_RETRY_FIRST_S = 0.05
"""A server that only closed the connection is there again at once."""
_RETRY_MOST_S = 1.0
"""After an outage, sends work again within about 1 s."""
_SHORT_LIFE_S = 30.0
"""A limit of the server closes a busy connection within seconds; a failover or restart comes far less often."""
_LOSSES_TO_HINT = 3
"""Number of consecutive connections shorter than ``_SHORT_LIFE_S`` after which a hint is logged."""


async def _nothing(connection: StoreConnection) -> None:
    pass


class Store:
    """A connection that is reopened whenever it breaks, with a growing pause, to the server that is right by then.

    Attributes:
        connection: the open connection, or None while there is none.
    """

    def __init__(
        self,
        url: str | Locator,
        name: str,
        on_open: Callable[[StoreConnection], Awaitable[None]] = _nothing,
        *,
        from_replica: bool = False,
    ) -> None:
        """
        Args:
            from_replica: connects to a replica if the locator knows one.
            name: of the connection, for the log.
            on_open: awaited with each new connection before it is used; if it raises StoreError, another one is opened.
        """
        self._locator = locator(url) if isinstance(url, str) else url
        self._from_replica = from_replica
        self._place: tuple[Any, Any] = ("", 0)
        self._name = name
        self._on_open = on_open
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._complaint = ""
        self._opened_s = 0.0
        self._short_lived = 0
        self.connection: StoreConnection | None = None

    async def start(self) -> None:
        """Opens the first connection; may be called again after ``close``. Raises StoreError."""
        self._closing = False
        self.connection = await self._open()
        self._opened_s = asyncio.get_running_loop().time()

    def start_later(self) -> None:
        """Opens the first connection in the background, as soon as the server is reachable."""
        self._task = asyncio.get_running_loop().create_task(self._reopen())

    async def _open(self) -> StoreConnection:
        find = self._locator.replica if self._from_replica else self._locator.primary
        parameters = await find()
        connection = await connect(parameters, self._locator.shown, self._lost)
        self._place = parameters.get("host"), parameters.get("port")
        if self._locator.finds and not (connection.is_primary or self._from_replica):
            connection.abort()
            raise StoreError(f"the primary of {self._locator.shown} is a replica now; looking for its successor")
        try:
            await self._on_open(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _lost(self, connection: StoreConnection) -> None:
        if self.connection is not connection:
            return
        self.connection = None
        if not self._closing:
            self._count_loss()
            logger.warning("%s: lost the store at %s, reconnecting", self._name, self._locator.shown)
            self._task = asyncio.get_running_loop().create_task(self._reopen())

    def _count_loss(self) -> None:
        """A server that closes connections again and again does so by a limit of its own, which its log names."""
        lived_s = asyncio.get_running_loop().time() - self._opened_s
        self._short_lived = self._short_lived + 1 if lived_s < _SHORT_LIFE_S else 0
        if self._short_lived and self._short_lived % _LOSSES_TO_HINT == 0:
            logger.error(
                "%s: the store at %s closed %d connections in a row within %g s; see its log: perhaps "
                "client-output-buffer-limit is too small for what is read at once, or timeout, or a proxy cuts them",
                self._name,
                self._locator.shown,
                self._short_lived,
                _SHORT_LIFE_S,
            )

    def _complain(self, error: StoreError) -> None:
        """Logs why the store is unreachable: each reason once, until it is back."""
        text = str(error)
        level = logging.DEBUG if text == self._complaint else logging.WARNING
        self._complaint = text
        logger.log(level, "%s: %s", self._name, text)

    async def _reopen(self) -> None:
        pause_s = _RETRY_FIRST_S
        while not self._closing:
            try:
                connection = await self._open()
            except StoreError as error:
                self._complain(error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _RETRY_MOST_S)
                continue
            except Exception:  # a bug must not end the only task that reconnects
                logger.exception("%s: reconnecting failed", self._name)
                await asyncio.sleep(_RETRY_MOST_S)
                continue
            if self.connection:  # ``read_from`` was faster
                connection.close()
                return
            if connection.closed:
                continue
            self.connection = connection
            self._opened_s = asyncio.get_running_loop().time()
            self._complaint = ""
            logger.info("%s: the store at %s is back", self._name, self._locator.shown)
            return

    async def read_from(self, *, replica: bool) -> None:
        """Switches to a replica, or to the primary. Raises StoreError; then nothing changed."""
        if self._from_replica == replica:
            return
        self._from_replica = replica
        if not self._locator.finds and await self._locator.primary() == await self._locator.replica():
            return
        try:
            connection = await self._open()
        except StoreError:
            self._from_replica = not replica
            raise
        old, self.connection = self.connection, connection
        if old:
            old.close()

    async def follow(self) -> None:
        """Reconnects if another server is the primary by now, even if the old one still accepts writes.

        Raises StoreError if the primary is unknown.
        """
        if self._locator.finds and not self._from_replica and self.connection:
            parameters = await self._locator.primary()
            place = parameters.get("host"), parameters.get("port")
            if place != self._place and not self._from_replica:
                logger.warning("%s: %s:%s is the primary now", self._name, *place)
                self.reconnect()

    def reconnect(self) -> None:
        """Drops the connection, if there is one; a new one is opened in the background."""
        if self.connection:
            self.connection.abort()

    def current(self) -> StoreConnection:
        """The open connection. Raises StoreError while there is none."""
        if self.connection is None:
            raise StoreError(f"the store at {self._locator.shown} cannot be reached")
        return self.connection

    async def close(self) -> None:
        self._closing = True
        if self._task:
            self._task.cancel()
        if self.connection:
            self.connection.close()
            self.connection = None
