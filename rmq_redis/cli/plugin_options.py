"""The option ``--plugin`` of every command, and the commands that plugins add."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import ConfigError
from . import lazy

if TYPE_CHECKING:
    import typer


def take_plugin_options(arguments: list[str]) -> list[str]:
    """The arguments without ``--plugin SPEC``, which may be anywhere. They count for children, too.

    Raises:
        ConfigError: SPEC is missing.
    """
    rest: list[str] = []
    specs: list[str] = []
    items = iter(arguments)
    for item in items:
        if item == "--":
            rest += [item, *items]
        elif item.startswith("--plugin="):
            specs.append(item.partition("=")[2])
        elif item == "--plugin":
            specs += [next(items, "")]
        else:
            rest.append(item)
    add_local(specs)
    return rest


def add_local(specs: list[str]) -> None:
    """Adds plugins to those that clients and servers load. Raises ConfigError for an empty name."""
    if "" in specs:
        raise ConfigError("--plugin needs a value: MODULE, MODULE:OBJECT or FILE.py")
    if specs:
        known = os.environ.get("RMQ_REDIS_PLUGIN", "")
        os.environ["RMQ_REDIS_PLUGIN"] = ";".join(filter(None, [known, *specs]))


def load_plugins() -> None:
    """Loads all plugins now, so that a missing plugin is an error with every command.

    Raises:
        ConfigError: a plugin cannot be loaded.
    """
    lazy.installed_plugins.cache_clear()
    lazy.installed_plugins()


def add_plugin_commands(root: typer.Typer) -> None:
    """Adds the commands of plugins. Raises ConfigError with the name of a plugin that fails."""
    for implementation in lazy.installed_plugins().hook.register_commands.get_hookimpls():
        try:
            implementation.function(*[root for _ in implementation.argnames])
        except Exception as error:
            raise ConfigError(f"plugin {implementation.plugin_name}: register_commands: {error}") from error
