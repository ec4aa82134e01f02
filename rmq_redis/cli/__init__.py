"""The command ``rmq-redis``. One file per noun; a command loads its own file only.

A file has either a function or a ``typer.Typer`` named ``app``. Commands import what they need when they run, see
``lazy.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from copy import copy
from importlib import import_module
from typing import Annotated

import typer

from .output import fail, say
from .plugin_options import add_local, add_plugin_commands, load_plugins, take_plugin_options
from .terminal import decode_arguments, prepare_streams

_PANELS = {
    "Start here": ("up", "demo"),
    "Messages, topics, groups": (
        "send",
        "consume",
        "recall",
        "run",
        "message",
        "topic",
        "group",
        "offset",
        "dlq",
    ),
    "Servers": ("namesrv", "broker"),
    "Plugins and measurements": ("plugin", "plugins", "simulate", "bench", "chaos"),
}
"""The commands in the order of the help."""
_MODULES = {"demo": "demo.command", "namesrv": "nameserver", "plugins": "plugin"}
"""The file of a command that has another name."""
_HIDDEN = ("plugins",)
"""Accepted, but not in the help."""
COMMANDS = tuple(name for names in _PANELS.values() for name in names)


def create_app(names: Sequence[str] = COMMANDS, subcommand: str = "") -> typer.Typer:
    """The command line with these commands.

    Args:
        names: commands to load, any of ``COMMANDS``.
        subcommand: load only this one of each group that has it. It saves the time to build the others.
    """
    app = typer.Typer(
        name="rmq-redis",
        help="RocketMQ's message model on Redis: NameServer, brokers and command line tools.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog="Every setting is also an environment variable: RMQ_REDIS_ and its name in capitals.")(_root)
    for panel, members in _PANELS.items():
        for name in members:
            if name in names:
                _add_command(app, name, panel, subcommand)
    return app


def _add_command(app: typer.Typer, name: str, panel: str, subcommand: str) -> None:
    module = import_module(f"{__name__}.{_MODULES.get(name, name)}")
    group: typer.Typer | None = getattr(module, "app", None)
    if not group:
        app.command(rich_help_panel=panel)(getattr(module, name))
        return
    only = [command for command in group.registered_commands if command.name == subcommand]
    if only:
        group = copy(group)  # others may still need the whole group
        group.registered_commands = only
    app.add_typer(group, name=name, rich_help_panel=panel, hidden=name in _HIDDEN)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__  # reads the metadata of the package

        say(f"rmq-redis {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.", metavar="")
    ] = False,
    plugins: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            help="Load a plugin that is not installed: MODULE, MODULE:OBJECT or FILE.py. Allowed after commands, too.",
            metavar="SPEC",
            show_default=False,
        ),
    ] = None,
) -> None:
    add_local(plugins or [])


def _app_for(arguments: list[str]) -> typer.Typer:
    """The command line with what these arguments need: one command, or all of them and those of plugins."""
    first, second = (*arguments, "", "")[:2]
    if first in COMMANDS:
        return create_app([first], second)
    if first == "--version":
        return create_app([])
    app = create_app()
    word = next((argument for argument in arguments if not argument.startswith("-")), "")
    if word not in COMMANDS and _has_plugins():
        add_plugin_commands(app)
    return app


def _has_plugins() -> bool:
    from importlib.metadata import entry_points

    return bool(os.environ.get("RMQ_REDIS_PLUGIN") or entry_points(group="rmq_redis"))


def main() -> None:
    """Entry point of ``rmq-redis`` and ``python -m rmq_redis``."""
    try:
        prepare_streams()
        arguments = take_plugin_options(decode_arguments(sys.argv[1:]))
        if len(arguments) < len(sys.argv) - 1:
            load_plugins()
        sys.argv[1:] = arguments
        _app_for(arguments)()
    except Exception as error:
        fail(error)
