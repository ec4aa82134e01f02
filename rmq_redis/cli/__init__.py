"""The command ``rmq-redis``. One file per noun; a command imports what it needs when it runs, so that help is quick."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Annotated

import typer

from . import broker, chaos, dlq, group, lookup, message, nameserver, offset, plugin, run, simulate, topic, up
from .demo.command import demo
from .terminal import decode_arguments, prepare_streams

app = typer.Typer(
    name="rmq-redis",
    help="RocketMQ's message model on Redis streams: NameServer, brokers, and tools for them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__
        from .output import say

        say(f"rmq-redis {__version__}")
        raise typer.Exit


@app.callback(epilog="Settings can also be environment variables: RMQ_REDIS_ and their name in capitals.")
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.", metavar="")
    ] = False,
    plugins: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            help="Load a plugin that is not installed: MODULE, MODULE:OBJECT, FILE.py. Anywhere on the line.",
            metavar="SPEC",
            show_default=False,
        ),
    ] = None,
) -> None:
    plugin.add_local(plugins or [])


app.command(rich_help_panel="Start here")(up.up)
app.command(rich_help_panel="Start here")(demo)
app.command(rich_help_panel="Messages, topics, groups")(message.send)
app.command(rich_help_panel="Messages, topics, groups")(message.consume)
app.command(rich_help_panel="Messages, topics, groups")(message.recall)
app.command(rich_help_panel="Messages, topics, groups")(run.run)
app.add_typer(lookup.app, name="message", rich_help_panel="Messages, topics, groups")
app.add_typer(topic.app, name="topic", rich_help_panel="Messages, topics, groups")
app.add_typer(group.app, name="group", rich_help_panel="Messages, topics, groups")
app.add_typer(offset.app, name="offset", rich_help_panel="Messages, topics, groups")
app.add_typer(dlq.app, name="dlq", rich_help_panel="Messages, topics, groups")
app.command(rich_help_panel="Servers")(nameserver.namesrv)
app.add_typer(broker.app, name="broker", rich_help_panel="Servers")
app.add_typer(plugin.app, name="plugin", rich_help_panel="Plugins and measurements")
app.add_typer(plugin.app, name="plugins", hidden=True)
app.command(rich_help_panel="Plugins and measurements")(simulate.simulate)
if importlib.util.find_spec(f"{__name__}.bench") is not None:
    app.command("bench", rich_help_panel="Plugins and measurements")(
        importlib.import_module(f"{__name__}.bench").bench_app
    )
app.command(rich_help_panel="Plugins and measurements")(chaos.chaos)


def _is_own_command(arguments: list[str]) -> bool:
    """Whether the line asks for a command of ours, so that nobody's plugins need to be loaded to know what it means."""
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
        from .output import fail

        fail(error)
