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
"""More bytes than a process can write."""


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
    """A primary and a replica with a URL each."""

    finds = False

    def __init__(self, primary: Locator, replica: Locator) -> None:
        self.primary = primary.primary
        self.replica = replica.primary
        self.shown = f"{primary.shown}, replica {replica.shown}"


def _locators(settings: StoreSettings, tag: str) -> tuple[Locator, Locator]:
    """Where to write and where to read."""
    primary = locator(settings.url, tag)
    if not settings.replica_url:
        return primary, primary
    return primary, _Either(primary, locator(settings.replica_url, tag))


class GroupSession:
    """Reads and writes as one member of a broker group, and reports that another master has fenced it off.

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
            on_reloaded: awaited with the connection that replaces a lost one, after the ends of the queues were read
                again and before anything else is written. If it raises StoreError, all of it is tried again.
        """
        self.settings = settings
        self.keys = keys
        self._on_fenced = on_fenced
        self._on_reloaded = on_reloaded
        self._fenced = settings.reads_only
        self._confirmation: Confirmation | None = None
        writes, reads = _locators(settings, keys.tag)
        self._writes = Store(writes, "broker store", self._write_connection_opened)
        self._reads = Store(reads, "broker store (reads)", from_replica=settings.reads_only)
        self._epoch = b"0"
        self._loop = asyncio.get_running_loop()
        self.pending_bytes = 0
        """Bytes of records that wait for the store's answer."""
        self.put_bytes = 0
        """Bytes of records sent to Redis since start."""
        self.put_limit = NO_LIMIT
        """``put_bytes`` at which appends are refused, until the memory is measured again."""
        self.put_alarm = NO_LIMIT
        """``put_bytes`` at which ``on_alarm`` is called, once."""
        self.on_alarm: Callable[[], None] = _nothing
        """Called when ``put_alarm`` is reached, or Redis reports that it is out of memory."""
        self.reads_only = settings.reads_only
        """Whether this process must read from the store how far queues and offsets reach: it is a slave, or its
        takeover has not ended. ``lead`` ends that."""

    # --- role ------------------------------------------------------------------------------------------------------

    @property
    def role(self) -> tuple[bytes, bool]:
        """Changes with every step from slave to master and back; what was read in an earlier role is outdated."""
        return self._epoch, self.reads_only

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def begin_writing(self, epoch: int) -> None:
        """From now on, writes carry this epoch, which the caller took."""
        self._epoch = b"%d" % epoch
        self._fenced = False

    def lead(self) -> None:
        """Everything in the store was read, and only this process writes: its memory is right from now on."""
        self.reads_only = False

    def end_writing(self) -> None:
        """Stops writing: another process is the group's master."""
        self._epoch = b"0"
        self._fenced = self.reads_only = True

    @property
    def available(self) -> bool:
        """Whether appends are accepted: the store is reachable, not fenced, and has memory left."""
        return bool(self._writes.connection) and not self._fenced and self.put_bytes < self.put_limit

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
        """Waits for a response of the store on the connection for writes. Raises StoreError."""
        await self.current().execute("PING")

    async def ping_reads(self) -> None:
        """Waits for a response of the store on the connection for reads. Raises StoreError."""
        await self.current_read().execute("PING")

    async def follow_primary(self) -> None:
        """Reconnects if another server is the primary by now. Raises StoreError if the primary is unknown."""
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
        """Called with each new connection while this process writes. If it raises StoreError, another one is opened."""
        await self._on_reloaded(connection)

    # --- calls -----------------------------------------------------------------------------------------------------

    async def call(self, name: str, keys: list[bytes], args: list[Arg]) -> Any:
        """Calls a fenced function of ``store.redis.functions``, with the group's epoch before the keys and arguments.

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
        """As ``call``, on a connection that is being opened; the caller handles errors."""
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
        """Waits until all writes so far are confirmed as the modes require. Raises StoreError."""
        if self._confirmation:
            await self._confirmation.wait()

    def _report(self, error: StoreError) -> None:
        if isinstance(error, StoreFencedError) and not self._fenced:
            self._fenced = True
            self._on_fenced(error)
        elif isinstance(error, StoreFullError):
            self.on_alarm()

    async def wait_until_answered(self, timeout_s: float) -> bool:
        """Waits until every record has its response; False if that takes longer than ``timeout_s`` seconds."""
        deadline = self._loop.time() + timeout_s
        while self.pending_bytes and self._loop.time() < deadline:
            await asyncio.sleep(0.005)  # at shutdown only: no event on the path of every append
        return not self.pending_bytes
