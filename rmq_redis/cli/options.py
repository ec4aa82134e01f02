"""Options of the commands: settings have environment variables; those of the servers come from their configuration."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from ..config import DEFAULT_NAMESRV_PORT, BrokerConfig, ClientConfig, NameServerConfig, env_name
from .terminal import is_text

C = TypeVar("C")


SETTINGS = frozenset(
    {"log_level", *(field.name for kind in (NameServerConfig, BrokerConfig, ClientConfig) for field in fields(kind))}
)
"""What the environment may set. Everything else belongs to one call: ``--yes`` from there would be an accident."""


def option(*flags: str, help: str, setting: str | None = None, **more: Any) -> Any:
    """A ``typer.Option``; that of a setting also has its environment variable.

    Args:
        flags: as typer's: ``--data-dir``, ``--json``. One that is named as a setting is that setting.
        setting: name of the setting, where it is another than the flag's: ``namesrv_addr`` for ``--namesrv``. Only such
            a variable is shown in the help; the others follow the rule that the help of ``rmq-redis`` states.
    """
    flag_name = flags[0].partition("/")[0].lstrip("-").replace("-", "_")
    name = setting or flag_name
    variable = env_name(name) if name in SETTINGS else None
    more.setdefault("callback", _checked_text)
    return typer.Option(*flags, help=help, envvar=variable, show_envvar=name != flag_name, **more)


def _checked_text(value: Any) -> Any:
    """The value of an option or argument. Raises BadParameter for bytes of the command line that are no text."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, str) and not is_text(item):
            raise typer.BadParameter(f"{item!r} is not UTF-8 text")
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
    """A ``typer.Argument`` without a default in its help, whose text is checked."""
    more.setdefault("callback", _checked_text)
    return typer.Argument(help=help, show_default=False, **more)


group_name = _name_checker("group")


def topic_argument(help: str) -> Any:
    """The name of a topic; one that no broker would take is refused at once."""
    return argument(help=help, callback=_name_checker("topic"))


def group_argument(help: str) -> Any:
    """As ``topic_argument``, for a consumer group."""
    return argument(help=help, callback=group_name)


def flag(*flags: str, help: str, **more: Any) -> Any:
    """An ``option`` that is given or not: its help has no ``<bool>``, which would read as if a value followed."""
    return option(*flags, help=help, metavar="", **more)


def setting_help(config_type: Any, name: str) -> str:
    """The help text of one setting."""
    field = next(field for field in dataclasses.fields(config_type) if field.name == name)
    text: str = field.metadata["help"]
    return text


Namesrv = Annotated[
    str,
    option(
        "--namesrv",
        "-n",
        help=setting_help(ClientConfig, "namesrv_addr"),
        setting="namesrv_addr",
        metavar="ADDRS",
    ),
]
DEFAULT_NAMESRV = f"127.0.0.1:{DEFAULT_NAMESRV_PORT}"
TIME_HELP = "a time: 2026-11-25T06:00[:00][+08:00], 20261125060000, or milliseconds since 1970"
Json = Annotated[bool, flag("--json", help="Print JSON.")]
Cluster = Annotated[str | None, option("--cluster", help="Only in this cluster.", show_default="in all")]
LogLevel = Annotated[
    str, option("--log-level", help="debug, info, warning or error: what goes to stderr.", metavar="LEVEL")
]


def time_ms(text: str, option_name: str) -> int:
    """A time as the user writes it, in milliseconds since 1970; without a zone it is this machine's.

    Raises:
        typer.BadParameter: none of the ways to write one.
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


def _boolean(name: str, text: str) -> bool:
    """A setting that is on or off is given as in the environment: its pair of flags would be too long for a screen."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise typer.BadParameter(f"{text!r} is neither true nor false", param_hint="--" + name.replace("_", "-"))


def config_options(
    config_type: type[C], aliases: Mapping[str, tuple[str, ...]], log_level: str = "info", *, is_group: bool = False
) -> Callable[[Callable[[C, str], None]], Callable[..., None]]:
    """Makes a command function ``(config, log_level)`` into one with an option for every setting of ``config_type``.

    Args:
        aliases: further flags by setting name. These settings stand first in the help; the others are "tuning".
        is_group: there are subcommands; the function is for a call without one.
    """

    def decorate(command: Callable[[C, str], None]) -> Callable[..., None]:
        def run_with_options(**values: Any) -> None:
            context = values.pop("context", None)
            if context is not None and context.invoked_subcommand is not None:
                return
            level = values.pop("log_level")
            for name in booleans:
                values[name] = _boolean(name, values[name])
            command(config_type(**values), level)

        annotations: dict[str, Any] = {"log_level": LogLevel}
        context_parameter: list[inspect.Parameter] = []
        if is_group:
            context_parameter.append(
                inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
            )
        defaults: dict[str, Any] = {"log_level": log_level}
        hints = get_type_hints(config_type)
        booleans = [name for name, kind in hints.items() if kind is bool]
        for field in dataclasses.fields(config_type):  # type: ignore[arg-type]
            flag = "--" + field.name.replace("_", "-")
            flags = (*aliases.get(field.name, ()), flag)
            is_boolean = field.name in booleans
            information = option(
                *flags,
                help=field.metadata["help"],
                setting=field.name,
                show_default=field.default != "",
                metavar="true|false" if is_boolean else None,
                rich_help_panel=None if field.name in aliases else "Tuning",
            )
            kind: Any = str if is_boolean else hints[field.name]
            annotations[field.name] = Annotated[kind, information]
            defaults[field.name] = str(field.default).lower() if is_boolean else field.default
        names = [*aliases, "log_level", *(name for name in annotations if name not in (*aliases, "log_level"))]
        run_with_options.__name__ = command.__name__
        run_with_options.__doc__ = command.__doc__
        run_with_options.__annotations__ = annotations | ({"context": typer.Context} if is_group else {})
        run_with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                *context_parameter,
                *(
                    inspect.Parameter(
                        name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotations[name]
                    )
                    for name in names
                ),
            ]
        )
        return run_with_options

    return decorate
