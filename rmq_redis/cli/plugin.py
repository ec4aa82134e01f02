"""``rmq-redis plugin``: what plugins there are, and the beginning of a new one; ``--plugin`` for local ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from .options import Json, argument, option
from .output import print_json, say

app = typer.Typer(help="List plugins and their strategies, begin a new one.", no_args_is_help=True)


def take_plugin_options(arguments: list[str]) -> list[str]:
    """The arguments without ``--plugin SPEC``, wherever it stands; they count here and in children.

    Raises:
        ConfigError: nothing is given.
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
    """Has the plugins loaded when a client or server asks for plugins. Raises ConfigError for an empty one."""
    if "" in specs:
        raise ConfigError("--plugin needs MODULE, MODULE:OBJECT or FILE.py behind it")
    if specs:
        known = os.environ.get("RMQ_REDIS_PLUGIN", "")
        os.environ["RMQ_REDIS_PLUGIN"] = ";".join(filter(None, [known, *specs]))


def load_plugins() -> None:
    """Loads all plugins now. Whoever names one wants to know that it is not there, whatever command follows.

    Raises:
        ConfigError: one cannot be loaded.
    """
    from ..plugins.manager import installed_plugins

    installed_plugins.cache_clear()  # what was loaded before knew nothing of those named now
    installed_plugins()


def add_plugin_commands(root: typer.Typer) -> None:
    """Has plugins add their commands. Raises ConfigError with the name of one that fails."""
    from ..plugins.manager import installed_plugins

    for implementation in installed_plugins().hook.register_commands.get_hookimpls():
        try:
            implementation.function(*[root for _ in implementation.argnames])
        except Exception as error:
            raise ConfigError(f"plugin {implementation.plugin_name}: register_commands: {error}") from error


PICKED_BY = {
    "register_queue_selectors": "load_balancer",
    "register_allocate_strategies": "allocate_strategy",
    "register_read_selectors": "read_selector",
    "register_interceptors": "plugin_interceptors",
    "register_route_filters": "route_filter",
    "register_broker_interceptors": "broker_interceptors",
    "register_authorizers": "authorizer",
    "register_metrics_sinks": "metrics_sink",
}
"""The setting that picks what a hook offers by name."""


@app.command("list")
def list_plugins(json: Json = False) -> None:
    """List the plugins: origin, version, hooks, and what each offers, by the setting that picks it."""
    from ..config import BrokerConfig, ClientConfig, NameServerConfig
    from ..plugins.hookspecs import ClientContext
    from ..plugins.manager import installed_plugins, offers

    manager = installed_plugins()
    context = ClientContext(ClientConfig(), lambda broker_name: "")
    offered: dict[str, dict[str, list[str]]] = {}
    hooks = sorted(name for name in vars(manager.hook) if name.startswith(("register_", "role_")))
    for hook, setting in PICKED_BY.items():
        config: Any = NameServerConfig() if hook == "register_route_filters" else BrokerConfig()
        for offer in offers(hook, manager, context=context, config=config, role="broker").values():
            offered.setdefault(offer.plugin_name, {}).setdefault(setting, []).append(offer.name)
    found: list[dict[str, Any]] = []
    for name, plugin in manager.list_name_plugin():
        if plugin is None:
            continue
        origin = manager.origin(name)
        mine = {caller.name for caller in manager.get_hookcallers(plugin) or []}
        found.append(
            {
                "name": name,
                "origin": origin.source,
                "version": origin.version,
                "hooks": [hook for hook in hooks if hook in mine],
                "offers": offered.get(name, {}),
            }
        )
    if json:
        print_json(found)
        return
    for item in found:
        say(f"{item['name']}  ({' '.join(filter(None, [item['origin'], item['version']]))})")
        say(f"    hooks: {', '.join(item['hooks'])}")
        for setting, names in item["offers"].items():
            say(f"    {setting}: {', '.join(names)}")


@app.command("new")
def new(
    name: Annotated[str, argument(help="Name of the package.")],
    directory: Annotated[
        Path | None, option("--directory", "-d", help="Where to write it; default: ./NAME.", show_default=False)
    ] = None,
) -> None:
    """Begin a plugin package: a load balancer that works, with its tests, pyproject.toml and README."""
    from ..plugins.template import write_plugin

    for path in write_plugin(name, directory or Path(name)):
        say(str(path))
