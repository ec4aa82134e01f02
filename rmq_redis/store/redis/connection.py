"""A pipelining Redis connection: hiredis on an asyncio protocol, answers by callback.

redis-py borrows a connection for each command until its answer is there, so commands of one loop turn cannot follow
each other on one connection in order. The broker's appends must; that, and a third of the time per call, is why the
broker has this page of its own. Where to connect is in ``store.locate``.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import hiredis

from ...errors import StoreError, StoreFencedError, StoreFullError, StoreLostError, StoreRefusedError
from .functions import LIBRARY_NAME, READ_ONLY, function_name, library, script
from .locate import Locator, Parameters, locator
from .url import server_text

logger = logging.getLogger(__name__)

Arg = bytes | str | int
Reply = Callable[[Any], None]
"""Gets the answer: what the command returns, or a ``StoreError``."""

_CONNECT_TIMEOUT_S = 5.0
_RETRY_FIRST_S = 0.05
_RETRY_MOST_S = 1.0
_SHORT_LIFE_S = 30.0
_LOSSES_TO_HINT = 3
"""So many connections in a row that lived shorter than ``_SHORT_LIFE_S`` are no accident."""
_REFUSALS = ("unknown command", "unknown subcommand", "ACL failure in script", "can't run this command")
"""What Redis and Valkey say of a command that is missing, or that a user may not run from a function."""
_LOAD_ATTEMPTS = 3
"""A call fails if its function is missing this often: somebody else keeps removing the library."""
WRITE_AT_ONCE_BYTES = 4096
"""Above this, uvloop writes to the socket at once and not at the end of the loop turn."""


class _LibraryLostError(StoreError):
    """The server does not have the function (any more), so nothing was done."""


@dataclass(frozen=True, slots=True)
class _FunctionCall:
    """One call of a function, to be made once more if the server has lost the library."""

    reply: Reply
    name: str
    keys: list[bytes]
    args: list[Arg]
    attempt: int = 1


class StoreConnection(asyncio.Protocol):
    """One connection to one Redis server; opened by ``connect``, closed for good when it breaks."""

    def __init__(self, on_lost: Callable[[StoreConnection], None] | None = None) -> None:
        self._reader = hiredis.Reader(notEnoughData=_NOT_ENOUGH)
        self._waiting: deque[Reply] = deque()
        self._transport: asyncio.Transport | None = None
        self._on_lost = on_lost
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._failed: list[_FunctionCall] = []
        self._postponed: list[_FunctionCall] = []
        """While the library is loaded once more: the calls that failed without it, and those that came later."""
        self.uses_functions = True
        self.is_primary = False
        """Whether the server took writes when the connection was opened."""
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own
        self._transport.set_write_buffer_limits(high=WRITE_AT_ONCE_BYTES)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        waiting = self._waiting
        try:
            while (reply := reader.gets()) is not _NOT_ENOUGH:
                if isinstance(reply, hiredis.ReplyError):
                    reply = self._error(str(reply))
                self._answer(waiting.popleft(), reply)
        except (hiredis.ProtocolError, IndexError) as error:
            logger.error("store: the server's answer cannot be understood: %s", error)
            self.close()

    def _error(self, answer: str) -> StoreError:
        text = server_text(answer)
        if text.startswith("FENCED"):
            return StoreFencedError(text)
        if text.startswith("LOST"):
            return StoreLostError(text)
        if text.startswith("OOM"):
            return StoreFullError(f"Redis is out of memory (maxmemory): {text}")
        if text.startswith(("WRONGPASS", "NOAUTH")):
            self._loop.call_soon(self.abort)  # a password that was rotated, a proxy that switched: log in once more
            return StoreRefusedError(text)
        if text.startswith("NOPERM") or any(part in text for part in _REFUSALS):
            return StoreRefusedError(text)
        if text.startswith("ERR Function not found"):
            return _LibraryLostError(text)
        if text.startswith("MOVED") or (self.is_primary and text.startswith("READONLY")):
            # The keys are elsewhere, or it is a replica now: look for the right server, after the answers that are here
            self._loop.call_soon(self.abort)
        return StoreError(text)

    @staticmethod
    def _answer(callback: Reply, reply: Any) -> None:
        try:
            callback(reply)
        except Exception:  # one caller's mistake must not cost the others their answers
            logger.exception("store: the handler of an answer failed")

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        waiting, self._waiting = self._waiting, deque()
        error = StoreError(f"the connection to the store was lost{f' ({exc})' if exc else ''}")
        for reply in waiting:
            self._answer(reply, error)
        for call in self._take_postponed():
            self._answer(call.reply, error)
        if self._on_lost is not None:
            self._on_lost(self)

    def call(self, reply: Reply, *args: Arg) -> None:
        """Sends a command; ``reply`` is called with its answer, in the order of the calls. Never raises."""
        if self.closed:
            reply(StoreError("the connection to the store is closed"))
            return
        packed = hiredis.pack_command(args)  # type: ignore[arg-type]
        self._waiting.append(reply)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        if len(packed) > WRITE_AT_ONCE_BYTES:
            self._flush()

    def call_function(self, reply: Reply, name: str, keys: list[bytes], args: list[Arg]) -> None:
        """As ``call``, for a function of ``store.redis.functions``.

        If another client has removed the library, it is loaded once more and the call is repeated, in its place among
        the other calls of functions.
        """
        self._call_function(_FunctionCall(reply, name, keys, args))

    def _call_function(self, call: _FunctionCall) -> None:
        if self._failed:
            self._postponed.append(call)
            return
        name, keys, args = call.name, call.keys, call.args
        if not self.uses_functions:
            self.call(call.reply, "EVAL", script(name), len(keys), *keys, *args)
            return

        def answered(answer: Any) -> None:
            if isinstance(answer, _LibraryLostError) and call.attempt < _LOAD_ATTEMPTS and not self.closed:
                self._load_library_for(replace(call, attempt=call.attempt + 1))
            else:
                call.reply(answer)

        command = "FCALL_RO" if name in READ_ONLY else "FCALL"
        self.call(answered, command, function_name(name), len(keys), *keys, *args)

    def _load_library_for(self, call: _FunctionCall) -> None:
        """Later calls wait behind this one: what several group commits append keeps its order."""
        self._failed.append(call)
        if len(self._failed) == 1:
            logger.warning("store: another client removed the function library (FUNCTION DELETE or FLUSH); loading it")
            self.call(self._library_loaded, "FUNCTION", "LOAD", "REPLACE", library())

    def _take_postponed(self) -> list[_FunctionCall]:
        calls = self._failed + self._postponed
        self._failed, self._postponed = [], []
        return calls

    def _library_loaded(self, answer: Any) -> None:
        calls = self._take_postponed()
        if isinstance(answer, StoreFullError | StoreRefusedError):
            self.uses_functions = False  # a full server takes no library: EVAL does the same
        elif isinstance(answer, StoreError):
            for call in calls:
                self._answer(call.reply, answer)
            return
        for call in calls:
            self._call_function(call)

    def execute(self, *args: Arg) -> asyncio.Future[Any]:
        """Sends a command; the future gets its answer or fails with ``StoreError``."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.call(_resolver(future), *args)
        return future

    def execute_function(self, name: str, keys: list[bytes], args: list[Arg]) -> asyncio.Future[Any]:
        """As ``execute``, for a function of ``store.redis.functions``."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.call_function(_resolver(future), name, keys, args)
        return future

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is None or self._transport.is_closing() or not out:
            return
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Closes at once; what waits for an answer fails."""
        if self._transport is not None:
            self._transport.abort()


_NOT_ENOUGH = object()


def _resolver(future: asyncio.Future[Any]) -> Reply:
    def resolve(answer: Any) -> None:
        if future.done():
            return
        if isinstance(answer, StoreError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    return resolve


async def open_connection(url: str, on_lost: Callable[[StoreConnection], None] | None = None) -> StoreConnection:
    """Connects to the (primary) server that a URL stands for, authenticates, selects the database, loads the functions.

    Raises:
        StoreError: no server there, or it refused one of these steps.
    """
    where = locator(url)
    return await _connect(await where.primary(), where.shown, on_lost)


async def _connect(
    parameters: Parameters, shown: str, on_lost: Callable[[StoreConnection], None] | None
) -> StoreConnection:
    loop = asyncio.get_running_loop()
    host, port = parameters.get("host", "localhost"), parameters.get("port", 6379)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            if parameters.get("path"):
                _, connection = await loop.create_unix_connection(lambda: StoreConnection(on_lost), parameters["path"])
            else:
                _, connection = await loop.create_connection(
                    lambda: StoreConnection(on_lost), host, port, ssl=_tls(parameters)
                )
            try:
                await _greet(connection, parameters)
            except StoreError as error:
                raise type(error)(f"the store at {shown} refused the connection: {error}") from None
    except ssl.SSLError as error:
        raise StoreRefusedError(f"the store at {shown}: TLS failed: {error}") from None
    except (OSError, TimeoutError) as error:
        where = parameters.get("path") or f"{host}:{port}"
        raise StoreError(f"cannot reach the store at {shown} ({where}): {str(error) or 'no answer in time'}") from None
    return connection


async def _greet(connection: StoreConnection, parameters: dict[str, Any]) -> None:
    try:
        if parameters.get("password"):
            user = [parameters["username"]] if parameters.get("username") else []
            await connection.execute("AUTH", *user, parameters["password"])
        else:  # of a password that is missing a server says NOAUTH; of a text as long as the library, nothing so clear
            await connection.execute("PING")
        if parameters.get("db"):
            await connection.execute("SELECT", parameters["db"])
        if parameters.get("readonly"):
            await connection.execute("READONLY")
        try:
            await connection.execute("FUNCTION", "LOAD", "REPLACE", library())
            connection.is_primary = True
        except StoreFullError:  # a full server takes no library: it has this one already, or EVAL does the same
            known = await connection.execute("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY_NAME)
            connection.uses_functions = bool(known)
            connection.is_primary = True
        except StoreRefusedError as error:
            connection.uses_functions = False  # EVAL does the same
            connection.is_primary = True
            if "unknown command" not in str(error):
                logger.warning("store: FUNCTION is refused, EVAL is used instead, which costs more: %s", error)
        except StoreError as error:
            text = str(error).lower()
            if "readonly" not in text and "read only" not in text:
                raise  # else it is a replica, which has them from its primary
    except BaseException:  # also when a server that says nothing was given up
        connection.close()
        raise


def _tls(parameters: Parameters) -> ssl.SSLContext | None:
    if not parameters.get("ssl"):
        return None
    try:
        context = ssl.create_default_context(cafile=parameters.get("ssl_ca_certs"))
        if parameters.get("ssl_certfile"):
            context.load_cert_chain(parameters["ssl_certfile"], parameters.get("ssl_keyfile"))
    except OSError as error:
        raise StoreError(f"the TLS files of the store cannot be used: {error}") from None
    if parameters.get("ssl_cert_reqs") in ("none", "optional"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif str(parameters.get("ssl_check_hostname", True)).lower() in ("false", "0", "no"):
        context.check_hostname = False
    return context


class Store:
    """A connection that comes back: reopened with a growing pause whenever it breaks, to the server that is right then.

    Attributes:
        connection: the open connection, or None while there is none.
    """

    def __init__(
        self,
        url: str | Locator,
        name: str,
        on_open: Callable[[StoreConnection], Any] | None = None,
        *,
        from_replica: bool = False,
    ) -> None:
        """
        Args:
            from_replica: connects to a replica if the locator knows one.
            name: what the log calls it.
            on_open: awaited with each new connection before it is used; may raise StoreError to have it tried again.
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
        """Opens the first connection; may be called once more after ``close``. Raises StoreError when that fails."""
        self._closing = False
        self.connection = await self._open()
        self._opened_s = asyncio.get_running_loop().time()

    def start_later(self) -> None:
        """Opens the first connection in the background, as soon as that can be done."""
        self._task = asyncio.get_running_loop().create_task(self._reopen())

    async def _open(self) -> StoreConnection:
        find = self._locator.replica if self._from_replica else self._locator.primary
        parameters = await find()
        connection = await _connect(parameters, self._locator.shown, self._lost)
        self._place = parameters.get("host"), parameters.get("port")
        if self._locator.finds and not (connection.is_primary or self._from_replica):
            connection.abort()
            raise StoreError(f"the primary of {self._locator.shown} is a replica now; looking for its successor")
        if self._on_open is not None:
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
        """Logs why the store cannot be had: each reason once, until it is back."""
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
            except Exception:  # a mistake of ours must not end the only task that reconnects
                logger.exception("%s: reconnecting failed", self._name)
                await asyncio.sleep(_RETRY_MOST_S)
                continue
            if self.connection is not None:  # somebody else was faster
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
        """Goes on with a connection to a replica, or to the primary. Raises StoreError; then nothing changed."""
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
        if old is not None:
            old.close()

    async def follow(self) -> None:
        """Reconnects when another server is the primary by now, though the old one still takes what we write.

        Raises StoreError when nobody knows the primary.
        """
        if self._locator.finds and not self._from_replica and self.connection is not None:
            parameters = await self._locator.primary()
            place = parameters.get("host"), parameters.get("port")
            if place != self._place and not self._from_replica:
                logger.warning("%s: %s:%s is the primary now", self._name, *place)
                self.reconnect()

    def reconnect(self) -> None:
        """Gives the connection up, if there is one; a new one is opened in the background."""
        if self.connection is not None:
            self.connection.abort()

    def current(self) -> StoreConnection:
        """The open connection. Raises StoreError while there is none."""
        if self.connection is None:
            raise StoreError(f"the store at {self._locator.shown} cannot be reached")
        return self.connection

    async def close(self) -> None:
        self._closing = True
        if self._task is not None:
            self._task.cancel()
        if self.connection is not None:
            self.connection.close()
            self.connection = None
