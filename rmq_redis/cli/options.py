"""Options and arguments that several commands have. Only settings can also be environment variables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any

import typer

from ..config import DEFAULT_NAMESRV_PORT, BrokerConfig, ClientConfig, NameServerConfig, env_name
from .terminal import is_text

SETTINGS = frozenset(
    {"log_level", *(field.name for kind in (NameServerConfig, BrokerConfig, ClientConfig) for field in fields(kind))}
)
"""What the environment may set. Other options belong to one call; ``--yes`` in the environment would be an accident."""


def option(*flags: str, help: str, setting: str | None = None, **more: Any) -> Any:
    """A ``typer.Option``; if it is a setting, it also has the setting's environment variable.

    Args:
        flags: as typer's: ``--data-dir``, ``--json``. A flag that has the name of a setting is that setting.
        setting: name of the setting, if the flag has another name: ``namesrv_addr`` for ``--namesrv``. Only then does
            the help show the variable; the other variables follow the rule in the help of ``rmq-redis``.
    """
    flag_name = flags[0].partition("/")[0].lstrip("-").replace("-", "_")
    name = setting or flag_name
    variable = env_name(name) if name in SETTINGS else None
    more.setdefault("callback", _checked_text)
    return typer.Option(*flags, help=help, envvar=variable, show_envvar=name != flag_name, **more)


def _checked_text(value: Any) -> Any:
    """Returns the value of an option or argument. Raises BadParameter if it has bytes that are not UTF-8."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, str) and not is_text(item):
            raise typer.BadParameter(f"{item!r}: use UTF-8 text")
    return value


def _name_checker(kind: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        from .. import model

        problem = model.topic_name_error(name) if kind == "topic" else model.group_name_error(name)
        if problem is not None:
            raise typer.BadParameter(problem)
        return name

    return check


def argument(*, help: str, **more: Any) -> Any:
    """A ``typer.Argument`` that must be UTF-8 text; its help shows no default."""
    more.setdefault("callback", _checked_text)
    return typer.Argument(help=help, show_default=False, **more)


group_name = _name_checker("group")


def topic_argument(help: str) -> Any:
    """The name of a topic; an invalid name is refused before any server is contacted."""
    return argument(help=help, callback=_name_checker("topic"))


def group_argument(help: str) -> Any:
    """As ``topic_argument``, for a consumer group."""
    return argument(help=help, callback=group_name)


def flag(*flags: str, help: str, **more: Any) -> Any:
    """An ``option`` without a value. Its help has no ``<bool>``, which would look like one."""
    return option(*flags, help=help, metavar="", **more)


Namesrv = Annotated[
    str,
    option(
        "--namesrv",
        "-n",
        help="NameServers: host:port;host:port.",
        setting="namesrv_addr",
        metavar="ADDRS",
    ),
]
DEFAULT_NAMESRV = f"127.0.0.1:{DEFAULT_NAMESRV_PORT}"
TIME_HELP = "a time: 2026-11-25T06:00[:00][+08:00], 20261125060000, or milliseconds since 1970"
Json = Annotated[bool, flag("--json", help="Print JSON.")]
Cluster = Annotated[str | None, option("--cluster", help="Only in this cluster.", show_default="all clusters")]
LogLevel = Annotated[
    str, option("--log-level", help="Log level on stderr: debug, info, warning or error.", metavar="LEVEL")
]


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Options of every command that talks to a cluster."""

    namesrv: Namesrv = DEFAULT_NAMESRV
    log_level: LogLevel = "error"


def time_ms(text: str, option_name: str) -> int:
    """Converts a time of the command line to milliseconds since 1970; without a zone, it is local time.

    Raises:
        typer.BadParameter: it has none of the formats in ``TIME_HELP``.
    """
    try:
        if text.isdigit() and len(text) == 13:
            return int(text)
        if text.isdigit() and len(text) == 14:  # as RocketMQ's consumeTimestamp; fromisoformat does not know it
            text = f"{text[:8]}T{text[8:]}"
        elif text.isdigit() and len(text) != 8:
            raise ValueError
        found = round(datetime.fromisoformat(text).astimezone().timestamp() * 1000)
        if found <= 0:
            raise ValueError
        return found
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(f"{text!r} is not {TIME_HELP}", param_hint=option_name) from None
