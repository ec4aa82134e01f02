"""The session of a broker group at its Redis: connections, keys, epoch, and the one way to call a fenced function."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ...errors import StoreError, StoreFencedError, StoreFullError
from ..keys import GroupKeys
from ..redis.confirm import Confirmation, ConfirmedReply
from ..redis.connection import Arg, StoreConnection
from ..redis.locate import Locator, locator
from ..redis.reconnecting import Store

logger = logging.getLogger(__name__)

NO_LIMIT = 1 << 62


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    """Where the store is, and what a write waits for.

    Attributes:
        reads_only: does not take the group over; ``begin_writing`` may come later.
        replica_url: where a slave reads; "": a replica that ``url`` knows of, or the primary.
        replicas, flush, confirm_timeout_s: what an append waits for, see ``Confirmation``.
        max_wait_s, busy_s: how long a slow store may keep appends waiting, see ``AppendWindow``.
    """

    url: str
    reads_only: bool = False
    replica_url: str = ""
    replicas: int = 0
    flush: bool = False
    confirm_timeout_s: float = 2.0
    max_wait_s: float = 0.2
    busy_s: float = 1.0


class _Either:
    """A primary and a replica with URLs of their own."""

    finds = False

    def __init__(self, primary: Locator, replica: Locator) -> None:
        self.primary = primary.primary
        self.replica = replica.primary
        self.shown = f"{primary.shown}, replica {replica.shown}"


class GroupSession:
    """Reads and writes as one member of a broker group; what another master has fenced off is reported here.

    Two connections: a large read must not delay an append.
    """

    def __init__(
        self,
        settings: StoreSettings,
        keys: GroupKeys,
        *,
        on_fenced: Callable[[StoreFencedError], None],
        on_reloaded: Callable[[StoreConnection], Awaitable[None]],
    ) -> None:
        """
        Args:
            on_fenced: called once per epoch when another master has taken the group over.
            on_reloaded: awaited after a lost connection with the new one, when it was read again how far the queues
                reach, and before anything else is written. May raise StoreError to have all of it tried again.
        """
        self.settings = settings
        self.keys = keys
        self._on_fenced = on_fenced
        self._on_reloaded = on_reloaded
        self._fenced = settings.reads_only
        self._confirmation: Confirmation | None = None
        primary = locator(settings.url, keys.tag)
        reads: Locator = primary
        if settings.replica_url:
            reads = _Either(primary, locator(settings.replica_url, keys.tag))
        self._writes = Store(primary, "broker store", self._write_connection_opened)
        self._reads = Store(reads, "broker store (reads)", from_replica=settings.reads_only)
        self._epoch = b"0"
        self._loop = asyncio.get_running_loop()
        self.pending_bytes = 0
        """Bytes of records that wait for the store's answer."""
        self.put_bytes = 0
        """Bytes of records sent to Redis since start."""
        self.put_limit = NO_LIMIT
        """``put_bytes`` at which appends are refused, until the memory was looked at again."""
        self.put_alarm = NO_LIMIT
        """``put_bytes`` at which ``on_alarm`` is called, once."""
        self.on_alarm: Callable[[], None] = _nothing
        """Called when ``put_alarm`` is reached, or Redis reports that it is out of memory."""
        self.reads_only = settings.reads_only
        """Whether this process does not know by itself how far queues and offsets reach: it is a slave, or not yet done
        with taking over. ``lead`` ends that."""

    # --- role ------------------------------------------------------------------------------------------------------

    @property
    def role(self) -> tuple[bytes, bool]:
        """Changes with every step from slave to master and back: what was read in an earlier role is outdated."""
        return self._epoch, self.reads_only

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def begin_writing(self, epoch: int) -> None:
        """From now on everything is written with this epoch, which the caller took."""
        self._epoch = b"%d" % epoch
        self._fenced = False

    def lead(self) -> None:
        """Everything in the store is read, and only this process writes: memory counts from now on."""
        self.reads_only = False

    def end_writing(self) -> None:
        """Nothing more is written: another process is the group's master."""
        self._epoch = b"0"
        self._fenced = self.reads_only = True

    @property
    def available(self) -> bool:
        """Whether appends are taken: the store is reachable, not fenced, and has memory left."""
        return self._writes.connection is not None and not self._fenced and self.put_bytes < self.put_limit

    @property
    def full(self) -> bool:
        """Whether no memory is left for appends."""
        return self.put_bytes >= self.put_limit

    # --- connections -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects; a writer takes the group over with a new epoch, even from another writer.

        Raises:
            StoreError: the server to read from is unreachable; a writer's: the primary.
        """
        await self._reads.start()
        try:
            await self._writes.start()
        except StoreError as error:
            if not self.reads_only:
                raise
            logger.warning("broker store: reads only, until the primary is reachable: %s", error)
            self._writes.start_later()
        if not self.reads_only:
            self.begin_writing(await self.current().execute("INCR", self.keys.epoch))
            self.lead()

    async def close(self) -> None:
        await self._writes.close()
        await self._reads.close()

    async def read_from(self, *, replica: bool) -> None:
        """Reads from a replica (a slave), or the primary (a master). Raises StoreError; then nothing changed."""
        await self._reads.read_from(replica=replica)

    def current(self) -> StoreConnection:
        """The connection for writes. Raises StoreError while the store is unreachable."""
        return self._writes.current()

    def current_read(self) -> StoreConnection:
        """The connection for reads. Raises StoreError while the store is unreachable."""
        return self._reads.current()

    async def ping_writes(self) -> None:
        """Returns when the store answers on the connection for writes. Raises StoreError."""
        await self.current().execute("PING")

    async def ping_reads(self) -> None:
        """Returns when the store answers on the connection for reads. Raises StoreError."""
        await self.current_read().execute("PING")

    async def follow_primary(self) -> None:
        """Reconnects to another server if that is the primary by now. Raises StoreError when the primary is unknown."""
        await self._writes.follow()
        await self._reads.follow()

    def reconnect(self) -> None:
        """Drops connections that do not answer; new ones are opened in the background."""
        self._writes.reconnect()
        self._reads.reconnect()

    async def _write_connection_opened(self, connection: StoreConnection) -> None:
        wanted = self.settings
        if wanted.replicas or wanted.flush:
            timeout_ms = max(1, int(wanted.confirm_timeout_s * 1000))
            self._confirmation = Confirmation(
                connection, replicas=wanted.replicas, flush=wanted.flush, timeout_ms=timeout_ms
            )
        if not self._fenced:
            await self._reopened(connection)

    async def _reopened(self, connection: StoreConnection) -> None:
        """Called with each new connection while this process writes. Raises StoreError to have another one opened."""
        await self._on_reloaded(connection)

    # --- calls -----------------------------------------------------------------------------------------------------

    async def call(self, name: str, keys: list[bytes], args: list[Arg]) -> Any:
        """Calls a fenced function of ``store.redis.functions``; the group's epoch is put before keys and arguments.

        Raises:
            StoreFencedError: another master has the group; ``on_fenced`` was called.
            StoreFullError: the server is out of memory; ``on_alarm`` was called.
            StoreError: the store is unreachable, or refused the call.
        """
        try:
            return await self.call_over(self.current(), name, keys, args)
        except StoreError as error:
            self._report(error)
            raise

    def call_over(
        self, connection: StoreConnection, name: str, keys: list[bytes], args: list[Arg]
    ) -> asyncio.Future[Any]:
        """As ``call`` on a connection that is being opened: the caller looks after errors."""
        return connection.execute_function(name, [self.keys.epoch, *keys], [self._epoch, *args])

    def send(self, reply: ConfirmedReply, name: str, keys: list[bytes], args: list[Arg]) -> None:
        """As ``call``, in the order of the calls; a success is reported once it is confirmed as the modes require."""

        def answered(answer: Any, late: StoreError | None = None) -> None:
            if isinstance(answer, StoreError):
                self._report(answer)
            reply(answer, late)

        connection = self._writes.connection
        if connection is None:
            answered(StoreError("the store cannot be reached"))
            return
        keys, args = [self.keys.epoch, *keys], [self._epoch, *args]
        if self._confirmation is None:
            connection.call_function(answered, name, keys, args)
        else:
            self._confirmation.call_function(answered, name, keys, args)

    async def confirmed(self) -> None:
        """Returns when all that was written so far is confirmed as the modes require. Raises StoreError."""
        if self._confirmation is not None:
            await self._confirmation.wait()

    def _report(self, error: StoreError) -> None:
        if isinstance(error, StoreFencedError) and not self._fenced:
            self._fenced = True
            self._on_fenced(error)
        elif isinstance(error, StoreFullError):
            self.on_alarm()

    async def wait_until_answered(self, timeout_s: float) -> bool:
        """Waits until every record has its answer; False when that takes longer than ``timeout_s`` seconds."""
        deadline = self._loop.time() + timeout_s
        while self.pending_bytes and self._loop.time() < deadline:
            await asyncio.sleep(0.005)  # at shutdown only: no event on the path of every append
        return not self.pending_bytes
