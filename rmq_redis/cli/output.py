"""Output of commands: JSON, tables, and errors as one line with a hint."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

from ..errors import (
    ConfigError,
    LocalProtocolError,
    MessageIllegalLocallyError,
    RemotingConnectError,
    RemotingError,
    RmqError,
    RouteNotFoundError,
    ServiceNotAvailableError,
    StoreError,
    TopicNotExistError,
)
from . import lazy
from .terminal import is_terminal, is_utf8, visible, visible_lines

EXIT_ERROR = 1
EXIT_USAGE = 2
"""An argument, a setting or an input file is invalid."""
EXIT_UNCONFIRMED = 3
"""Messages are stored, but not confirmed as the broker requires."""
EXIT_STOPPED = 130
"""Ctrl-C before the work was done; shells use the same code."""


def say(text: str = "") -> None:
    """Prints lines on stdout. On a terminal, control characters become escapes."""
    print(visible_lines(text) if is_terminal(sys.stdout) else text, flush=True)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Prints one JSON value on stdout; on one line without ``indent``."""
    ascii_only = not is_utf8(sys.stdout)
    say(json.dumps(value, ensure_ascii=ascii_only, default=_jsonable, indent=indent))


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    import msgspec

    return msgspec.to_builtins(value)


def print_table(columns: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Prints a plain table. Columns whose name begins with < are aligned left.

    If the screen is too narrow, each row becomes a block with one line per column, so that no value is broken.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    names = [column.removeprefix("<") for column in columns]
    for name, column in zip(names, columns, strict=True):
        table.add_column(name, justify="left" if column.startswith("<") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # a program may read it: fold no line
    if Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width:
        console.print(table)
        return
    width = max(map(len, names))
    for position, row in enumerate(rows):
        if position:
            say()
        for name, cell in zip(names, row, strict=True):
            if cell:
                say(f"{name:<{width}}  {visible(cell)}")


def local_time(timestamp_ms: int) -> str:
    """Formats a time in ms since 1970 as local time; 0 and less are "-"."""
    return f"{datetime.fromtimestamp(timestamp_ms / 1000):%Y-%m-%d %H:%M:%S}" if timestamp_ms > 0 else "-"


def number(value: float) -> str:
    """Formats a figure with about three digits: 12,345 / 12.3 / 0.47."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def note(text: str) -> None:
    """Prints a line on stderr, for a person; results go to stdout."""
    print(visible_lines(text) if is_terminal(sys.stderr) else text, file=sys.stderr, flush=True)


def _is_one_way_pipe(file: int) -> bool:
    """A socket is not: a remote shell's is our stdin, too, and may be readable for that reason."""
    try:
        from fcntl import F_GETFL, fcntl
    except ImportError:  # Windows: the next write fails instead
        return False
    return stat.S_ISFIFO(os.fstat(file).st_mode) and fcntl(file, F_GETFL) & os.O_ACCMODE == os.O_WRONLY


@contextmanager
def on_reader_gone(call: Callable[[], None]) -> Iterator[None]:
    """Calls once as soon as the reader of our stdout (a pipe) exits; a write would fail only at the next line."""
    try:
        out = sys.stdout.fileno()
        one_way_pipe = _is_one_way_pipe(out)
    except (OSError, ValueError):  # not a file
        one_way_pipe = False
    if not one_way_pipe:
        yield
        return
    loop = lazy.asyncio.get_running_loop()

    def closed() -> None:
        loop.remove_reader(out)
        call()

    loop.add_reader(out, closed)  # only the exit of the reader makes the write end "readable"
    try:
        yield
    finally:
        loop.remove_reader(out)


def what_next(error: Exception) -> str:
    """A hint what the user can do about an error; "" if the text of the error says it."""
    text = str(error)
    if isinstance(error, ConfigError):
        return ""
    if isinstance(error, RemotingError) and "NameServer" in text:
        return "start a cluster with `rmq-redis up`, or give an address: --namesrv host:port (RMQ_REDIS_NAMESRV_ADDR)"
    if isinstance(error, (RouteNotFoundError, TopicNotExistError)):
        if "topic" not in text:  # it names the existing brokers or clusters
            return ""
        return "see `rmq-redis topic list`, or create it with `rmq-redis topic create TOPIC`"
    if isinstance(error, StoreError) and "refused the connection" in text:
        return "check user, password, certificates and database number of --store or --registry"
    if isinstance(error, StoreError):
        return "is Redis running there, version 7.0 or newer? check --store or --registry, and the log of Redis"
    if isinstance(error, RemotingConnectError):
        return "is that server running? `rmq-redis topic route TOPIC` shows the brokers of a topic"
    if isinstance(error, ServiceNotAvailableError):
        return "the broker is stopping or its store is unreachable: try again in a moment, or look at its log"
    return "try again" if isinstance(error, RmqError) and error.retriable else ""


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def _missing_package(error: ModuleNotFoundError) -> ConfigError:
    """Another Python than the one that rmq-redis was installed for runs it, or the installation is incomplete."""
    return ConfigError(
        f"the package {error.name!r} is not installed for Python {platform.python_version()}, which runs this command; "
        f"install rmq-redis there: {sys.executable} -m pip install rmq-redis"
    )


class InputError(RmqError):
    """An input file that cannot be read."""


_WRONG_INPUT = (ConfigError, InputError, LocalProtocolError, MessageIllegalLocallyError)


def fail(error: Exception) -> NoReturn:
    """Exits with one line on stderr; exit code 2 if the input is invalid, else 1."""
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("rmq_redis"):
        error = _missing_package(error)
    if isinstance(error, RmqError):
        text = one_line(str(error)) or type(error).__name__
    elif isinstance(error, OSError):
        text = one_line(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    else:
        text = one_line(f"internal error: {type(error).__name__}: {error}")
    text = "; ".join([text, *(one_line(remark) for remark in getattr(error, "__notes__", ()))])
    hint = what_next(error)
    if not isinstance(error, (RmqError, OSError)):
        hint = "please report it; RMQ_REDIS_LOG_LEVEL=debug shows the traceback"
    note(f"error: {text}{f' ({hint})' if hint else ''}")
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger(__name__).debug("traceback", exc_info=error)
    sys.exit(EXIT_USAGE if isinstance(error, _WRONG_INPUT) else EXIT_ERROR)
