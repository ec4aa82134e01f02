"""What commands print: JSON, numbers, and errors as one line with what to do next."""

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
from .terminal import is_terminal, is_utf8, visible, visible_lines

EXIT_ERROR = 1
EXIT_USAGE = 2
"""An argument, a setting or an input file cannot be used."""
EXIT_UNCONFIRMED = 3
"""What was sent is stored, and not confirmed as its broker's mode asks."""
EXIT_STOPPED = 130
"""Ctrl-C before the work was done, as shells say it."""


def say(text: str = "") -> None:
    """Lines on stdout. At a terminal control characters are shown as escapes, and not obeyed."""
    print(visible_lines(text) if is_terminal(sys.stdout) else text, flush=True)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """One JSON value on stdout, on one line unless ``indent`` says otherwise."""
    ascii_only = not is_utf8(sys.stdout)  # JSON has escapes of its own, which every reader knows
    say(json.dumps(value, ensure_ascii=ascii_only, default=_jsonable, indent=indent))


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    import msgspec

    return msgspec.to_builtins(value)


def print_table(columns: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    """A plain table. Columns that begin with < are aligned to the left.

    Where the screen is too narrow for a row, each row becomes a block of lines, one for each column: no name is broken.
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
        console.width = 10_000  # lines that a program may read are not folded
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
    """A time in ms since 1970 as local time, "-" for none."""
    return f"{datetime.fromtimestamp(timestamp_ms / 1000):%Y-%m-%d %H:%M:%S}" if timestamp_ms > 0 else "-"


def number(value: float) -> str:
    """12,345 / 12.3 / 0.47."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def note(text: str) -> None:
    """A line for the person at the terminal, beside the result on stdout."""
    print(visible_lines(text) if is_terminal(sys.stderr) else text, file=sys.stderr, flush=True)


def _is_one_way_pipe(file: int) -> bool:
    """A socket is none: a remote shell's is our stdin as well, and may be readable for that reason."""
    try:
        from fcntl import F_GETFL, fcntl
    except ImportError:  # Windows: the next write will notice
        return False
    return stat.S_ISFIFO(os.fstat(file).st_mode) and fcntl(file, F_GETFL) & os.O_ACCMODE == os.O_WRONLY


@contextmanager
def on_reader_gone(call: Callable[[], None]) -> Iterator[None]:
    """Calls once, as soon as the reader of our stdout (a pipe) is gone; a write would notice only at the next line."""
    try:
        out = sys.stdout.fileno()
        one_way_pipe = _is_one_way_pipe(out)
    except (OSError, ValueError):  # no file at all
        one_way_pipe = False
    if not one_way_pipe:
        yield
        return
    import asyncio  # by now it is loaded; help must not load it

    loop = asyncio.get_running_loop()

    def closed() -> None:
        loop.remove_reader(out)
        call()

    loop.add_reader(out, closed)  # nothing ever comes from there, so "readable" says that the other end is gone
    try:
        yield
    finally:
        loop.remove_reader(out)


def what_next(error: Exception) -> str:
    """What somebody who sees this error can do; "" when its text says so already."""
    text = str(error)
    if isinstance(error, ConfigError):
        return ""
    if isinstance(error, RemotingError) and "NameServer" in text:
        return "start a cluster with `rmq-redis up`, or name one: --namesrv host:port (RMQ_REDIS_NAMESRV_ADDR)"
    if isinstance(error, (RouteNotFoundError, TopicNotExistError)):
        if "topic" not in text:  # it names the brokers or clusters that there are
            return ""
        return "look at `rmq-redis topic list`, or make it with `rmq-redis topic create TOPIC`"
    if isinstance(error, StoreError) and "refused the connection" in text:
        return "check user, password, certificates and database number of --store or --registry"
    if isinstance(error, StoreError):
        return "is that Redis running, version 7.0 or newer? check --store or --registry; its own log may say more"
    if isinstance(error, RemotingConnectError):
        return "is that server running? `rmq-redis topic route TOPIC` shows the brokers that clients are told"
    if isinstance(error, ServiceNotAvailableError):
        return "the broker is stopping or its store is away: try again in a moment, or look at its log"
    return "trying again may help" if isinstance(error, RmqError) and error.retriable else ""


def one_line(text: str) -> str:
    """The text without line breaks and stray blanks."""
    return " ".join(text.split())


def _missing_package(error: ModuleNotFoundError) -> ConfigError:
    """Something else than the Python that installed us runs us, or an installation is not whole."""
    return ConfigError(
        f"the package {error.name!r} is not installed for Python {platform.python_version()}, which runs this; install "
        f"rmq-redis with it: {sys.executable} -m pip install rmq-redis"
    )


class InputError(RmqError):
    """An input file that cannot be read."""


_WRONG_INPUT = (ConfigError, InputError, LocalProtocolError, MessageIllegalLocallyError)


def fail(error: Exception) -> NoReturn:
    """Ends the process with one clear line on stderr; exit code 2 if the input is wrong, else 1."""
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
        hint = "please report it; RMQ_REDIS_LOG_LEVEL=debug shows where it happened"
    note(f"error: {text}{f' ({hint})' if hint else ''}")
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger(__name__).debug("where it happened", exc_info=error)
    sys.exit(EXIT_USAGE if isinstance(error, _WRONG_INPUT) else EXIT_ERROR)
