"""A pipelining Redis connection: hiredis on an asyncio protocol, answers by callback.

redis-py borrows a connection for each command until its answer is there, so commands of one loop turn cannot follow
each other on one connection in order. The broker's appends must; that, and a third of the time per call, is why the
broker has this page of its own. ``locate`` finds the server, ``opening`` logs in, ``reconnecting`` opens a new
connection when one breaks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import hiredis

from ...errors import StoreError, StoreFencedError, StoreFullError, StoreLostError, StoreRefusedError
from .functions import READ_ONLY, function_name, library, script
from .url import server_text

logger = logging.getLogger(__name__)

T = TypeVar("T")

Arg = bytes | str | int
Reply = Callable[[Any], None]
"""Gets the answer: what the command returns, or a ``StoreError``."""

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
    """One connection to one Redis server; opened by ``connect`` of ``opening``, closed for good when it breaks."""

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
        except Exception:  # one caller's error must not cost the others their responses
            logger.exception("store: the handler of an answer failed")

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        waiting, self._waiting = self._waiting, deque()
        error = StoreError(f"the connection to the store was lost{f' ({exc})' if exc else ''}")
        for reply in waiting:
            self._answer(reply, error)
        for call in self._take_postponed():
            self._answer(call.reply, error)
        if self._on_lost:
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
        if self._transport and not self._transport.is_closing():
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Closes at once; what waits for an answer fails."""
        if self._transport:
            self._transport.abort()


_NOT_ENOUGH = object()


def settle(future: asyncio.Future[T], result: T, error: StoreError | None) -> None:
    """Ends a future with its error if there is one, else with its result; a cancelled one stays cancelled."""
    if future.done():
        return
    if error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _resolver(future: asyncio.Future[Any]) -> Reply:
    def resolve(answer: Any) -> None:
        settle(future, answer, answer if isinstance(answer, StoreError) else None)

    return resolve
