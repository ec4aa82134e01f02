"""What every process of ours does the same way: its event loop, its log, how it serves and how it stops."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from .errors import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")

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
    """Runs a coroutine on uvloop where that is installed, on asyncio's own loop elsewhere."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def setup_logging(level: str) -> None:
    """One line per event on stderr: time, level, then the subject.

    Raises:
        ConfigError: no such level.
    """
    if level.lower() not in LOG_LEVELS:
        raise ConfigError(f"log level {level!r} is unknown; use one of {', '.join(LOG_LEVELS)}")
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)


@contextmanager
def stop_signals(on_second: Callable[[], None] | None = None) -> Iterator[asyncio.Event]:
    """An event that SIGTERM or SIGINT sets. ``on_second`` is called when they come again: somebody is in a hurry."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def received() -> None:
        if stop.is_set() and on_second is not None:
            on_second()
        stop.set()

    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, received)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


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


async def serve(server: Server, name: str, host: str) -> int:
    """Starts a server, says so in one line on stdout, waits for SIGTERM or SIGINT, and closes it.

    Args:
        name: what the line begins with: ``<name> listening on <host>:<port> pid <pid>``.

    Returns:
        The process's exit code.
    """
    with stop_signals() as stop:
        try:
            await unless_stopped(stop, server.start())
            print(f"{name} listening on {host}:{server.port} pid {os.getpid()}", flush=True)
            await stop.wait()
        except Stopped:
            pass
        finally:
            await server.close()
    return 0
