"""``rmq-redis plugin``: list installed plugins, create a plugin package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import BrokerConfig, ClientConfig, NameServerConfig
from . import lazy
from .options import Json, argument, option
from .output import print_json, say

app = typer.Typer(help="List plugins, and create a new one.", no_args_is_help=True)


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
"""Hook to the setting that chooses one of the hook's offers by name."""


@app.command("list")
def list_plugins(json: Json = False) -> None:
    """List the plugins: origin, version, hooks, and their offers for each setting."""
    manager = lazy.installed_plugins()
    offered = _offers(manager)
    found = [
        _fields(name, plugin, manager, offered.get(name, {}))
        for name, plugin in manager.list_name_plugin()
        if plugin is not None
    ]
    if json:
        print_json(found)
        return
    for item in found:
        say(f"{item['name']}  ({' '.join(filter(None, [item['origin'], item['version']]))})")
        say(f"    hooks: {', '.join(item['hooks'])}")
        for setting, names in item["offers"].items():
            say(f"    {setting}: {', '.join(names)}")


def _offers(manager: Any) -> dict[str, dict[str, list[str]]]:
    """Names that each plugin offers, by setting."""
    context = lazy.ClientContext(ClientConfig(), lambda broker_name: "")
    offered: dict[str, dict[str, list[str]]] = {}
    for hook, setting in PICKED_BY.items():
        config: Any = NameServerConfig() if hook == "register_route_filters" else BrokerConfig()
        found = lazy.offers(hook, manager, context=context, config=config, role="broker")
        for offer in found.values():
            offered.setdefault(offer.plugin_name, {}).setdefault(setting, []).append(offer.name)
    return offered


def _fields(name: str, plugin: Any, manager: Any, offers: dict[str, list[str]]) -> dict[str, Any]:
    origin = manager.origin(name)
    mine = {caller.name for caller in manager.get_hookcallers(plugin) or []}
    hooks = sorted(hook for hook in mine if hook.startswith(("register_", "role_")))
    return {"name": name, "origin": origin.source, "version": origin.version, "hooks": hooks, "offers": offers}


@app.command("new")
def new(
    name: Annotated[str, argument(help="Name of the package.")],
    directory: Annotated[
        Path | None, option("--directory", "-d", help="Directory of the package.", show_default="./NAME")
    ] = None,
) -> None:
    """Create a plugin package: a working load balancer with tests, pyproject.toml and README."""
    for path in lazy.write_plugin(name, directory or Path(name)):
        say(str(path))
