"""What every process of ours does the same way: its event loop, its log, how it serves and how it stops."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from .errors import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")

FORCED_EXIT_CODE = 130
"""As shells report a process that Ctrl-C ended: 128 + SIGINT."""
LOG_LEVELS = ("debug", "info", "warning", "error")


class Server(Protocol):
    """A NameServer or a Broker."""

    port: int

    async def start(self) -> None:
        """Serves when it returns."""

    async def close(self) -> None:
        """Stops in order."""


class Stopped(Exception):  # noqa: N818  (no error: somebody asked for it)
    """SIGTERM or Ctrl-C came before the work was done."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on a loop of ``new_event_loop``."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop where that is installed, asyncio's own elsewhere, and where threads are green threads.

    uvloop waits in C: it would stop every green thread of gevent or eventlet, the one that started it included.

    Raises:
        ConfigError: threads are green threads, but ``select``, with which asyncio's loop waits, is not cooperative.
    """
    library = green_threads()
    if library:
        if not _is_patched(library, "select"):
            raise ConfigError(
                f"{library} has replaced threads, but not select: the event loop would stop all green threads. Patch "
                f"both (for example {_PATCH_ALL[library]}), or neither"
            )
        return asyncio.new_event_loop()
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


_PATCH_ALL = {"gevent": "gevent.monkey.patch_all()", "eventlet": "eventlet.monkey_patch()"}


def green_threads() -> str:
    """gevent or eventlet, if it has replaced threads in this process; "" otherwise."""
    return next((library for library in _PATCH_ALL if _is_patched(library, "thread")), "")


def _is_patched(library: str, module: str) -> bool:
    """Whether gevent or eventlet has replaced a module; looks only at what is imported already."""
    if library == "gevent":
        monkey = sys.modules.get("gevent.monkey")
        name = "threading" if module == "thread" else module
        return bool(monkey and monkey.is_module_patched(name))
    patcher = sys.modules.get("eventlet.patcher")
    return bool(patcher and patcher.is_monkey_patched(module))


class OneLineFormatter(logging.Formatter):
    """Writes a message as one line, whatever names a client has sent: they could forge whole lines of the log.

    Control characters and line separators become escapes (``\\n``, ``\\x1b``); tracebacks keep their lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        if not record.message.isprintable():
            record.message = "".join(
                character if character.isprintable() else character.encode("unicode_escape").decode()
                for character in record.message
            )
        return super().formatMessage(record)


def setup_logging(level: str) -> None:
    """One line per event on stderr: time, level, then the subject.

    Raises:
        ConfigError: no such level.
    """
    if level.lower() not in LOG_LEVELS:
        raise ConfigError(f"log level {level!r} is unknown; use one of {', '.join(LOG_LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


_SIGNAL_POLL_S = 0.2
"""How late Ctrl-C is noticed on Windows, where a signal does not end a wait."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals(on_second: Callable[[], None] | None = None) -> Iterator[asyncio.Event]:
    """In an event loop: an event that SIGTERM or Ctrl-C sets. Only the main thread sees signals.

    ::

        with stop_signals() as stop:
            while not stop.is_set():
                for message in await consumer.receive(): ...

    Args:
        on_second: called with each further signal: the user does not want to wait.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def received() -> None:
        if stop.is_set() and on_second:
            on_second()
        stop.set()

    added: list[signal.Signals] = []
    try:
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, received)
            added.append(number)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
        with on_stop_signals(lambda: loop.call_soon_threadsafe(received), replaces_own=True):
            yield stop
        return
    try:
        yield stop
    finally:
        for number in added:
            loop.remove_signal_handler(number)


@contextmanager
def on_stop_signals(received: Callable[[], object], *, replaces_own: bool = False) -> Iterator[None]:
    """Without an event loop: SIGTERM and Ctrl-C call ``received``, in the main thread, between any two instructions.

    In another thread, and for a signal that the program handles itself (unless ``replaces_own``), this does nothing.
    """
    replaced: dict[signal.Signals, Any] = {}
    try:
        for number in _STOP_SIGNALS:
            before = signal.getsignal(number)
            if replaces_own or before in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, lambda _number, _frame: received())
                replaced[number] = before
    except ValueError:  # not the main thread (which a comparison would not find among green threads)
        pass
    try:
        yield
    finally:
        for number, before in replaced.items():
            signal.signal(number, before)


def wait_for_item(items: queue.SimpleQueue[T]) -> T:
    """``items.get()`` that signals interrupt on every system."""
    while os.name == "nt":
        try:
            return items.get(timeout=_SIGNAL_POLL_S)
        except queue.Empty:
            continue
    return items.get()


def force_exit() -> None:
    """Ends the process at once, with exit code 130: what asks for it is a second signal."""
    logger.warning("asked to stop a second time: ending at once, unfinished messages are delivered again")
    logging.shutdown()
    os._exit(FORCED_EXIT_CODE)  # not sys.exit: nobody is waited for


async def first_of(*events: asyncio.Event) -> None:
    """Waits until one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when ``stop`` is set first.

    Raises:
        Stopped: it was set first.
    """
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Stopped
        return task.result()
    finally:
        waiting.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def serve(server: Server, name: Callable[[], str], host: str) -> int:
    """Starts a server, says so in one line on stdout, waits for SIGTERM or SIGINT, and closes it.

    Args:
        name: what the line begins with, asked when the server serves: ``<name> listening on <host>:<port> pid <pid>``.

    Returns:
        The process's exit code.
    """
    with stop_signals() as stop:
        try:
            await unless_stopped(stop, server.start())
            print(f"{name()} listening on {host}:{server.port} pid {os.getpid()}", flush=True)
            await stop.wait()
        except Stopped:
            pass
        finally:
            await server.close()
    return 0
