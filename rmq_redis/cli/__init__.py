"""The command ``rmq-redis``. One file per noun; commands import what they need when they run, see ``lazy.py``."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from . import (
    bench,
    broker,
    chaos,
    consume,
    dlq,
    group,
    message,
    nameserver,
    offset,
    plugin,
    recall,
    run,
    send,
    simulate,
    topic,
    up,
)
from .demo.command import demo
from .output import fail, say
from .terminal import decode_arguments, prepare_streams

app = typer.Typer(
    name="rmq-redis",
    help="RocketMQ's message model on Redis: NameServer, brokers and command line tools.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__  # reads the metadata of the package

        say(f"rmq-redis {__version__}")
        raise typer.Exit


@app.callback(epilog="Every setting is also an environment variable: RMQ_REDIS_ and its name in capitals.")
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
    plugin.add_local(plugins or [])


app.command(rich_help_panel="Start here")(up.up)
app.command(rich_help_panel="Start here")(demo)
app.command(rich_help_panel="Messages, topics, groups")(send.send)
app.command(rich_help_panel="Messages, topics, groups")(consume.consume)
app.command(rich_help_panel="Messages, topics, groups")(recall.recall)
app.command(rich_help_panel="Messages, topics, groups")(run.run)
app.add_typer(message.app, name="message", rich_help_panel="Messages, topics, groups")
app.add_typer(topic.app, name="topic", rich_help_panel="Messages, topics, groups")
app.add_typer(group.app, name="group", rich_help_panel="Messages, topics, groups")
app.add_typer(offset.app, name="offset", rich_help_panel="Messages, topics, groups")
app.add_typer(dlq.app, name="dlq", rich_help_panel="Messages, topics, groups")
app.command(rich_help_panel="Servers")(nameserver.namesrv)
app.add_typer(broker.app, name="broker", rich_help_panel="Servers")
app.add_typer(plugin.app, name="plugin", rich_help_panel="Plugins and measurements")
app.add_typer(plugin.app, name="plugins", hidden=True)
app.command(rich_help_panel="Plugins and measurements")(simulate.simulate)
app.command(rich_help_panel="Plugins and measurements")(bench.bench)
app.command(rich_help_panel="Plugins and measurements")(chaos.chaos)


def _is_own_command(arguments: list[str]) -> bool:
    """Whether the command is one of this package, so that no plugin has to be loaded to find it."""
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    names = {info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands}
    return word in names | {info.name for info in app.registered_groups} or "--version" in arguments


def _has_plugins() -> bool:
    from importlib.metadata import entry_points

    return bool(os.environ.get("RMQ_REDIS_PLUGIN") or entry_points(group="rmq_redis"))


def main() -> None:
    """Entry point of ``rmq-redis`` and ``python -m rmq_redis``."""
    try:
        prepare_streams()
        arguments = plugin.take_plugin_options(decode_arguments(sys.argv[1:]))
        if len(arguments) < len(sys.argv) - 1:
            plugin.load_plugins()
        sys.argv[1:] = arguments
        if not _is_own_command(sys.argv[1:]) and _has_plugins():
            plugin.add_plugin_commands(app)
        app()
    except Exception as error:
        fail(error)
