"""Builds the plugin manager and asks it for strategies by name.

Hooks are asked when a client starts; after that the chosen function is called, not the hook.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import pluggy

from . import default_allocate_strategies, default_queue_selectors, hookspecs
from .errors import ConfigError
from .hookspecs import PROJECT_NAME, AllocateStrategy, QueueSelector

DEFAULT_PLUGINS = (default_allocate_strategies, default_queue_selectors)
"""The built-in plugins, registered the same way as anybody's."""


def create_plugin_manager(*, installed: bool = False, plugins: tuple[object, ...] = ()) -> pluggy.PluginManager:
    """A plugin manager with the built-in plugins.

    Args:
        installed: also load what installed packages offer through the entry point group ``rmq_redis``.
        plugins: further plugins (modules or objects).

    Raises:
        ConfigError: a plugin cannot be loaded, or implements a hook that does not exist (a misspelt one).
    """
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(hookspecs)
    for plugin in (*DEFAULT_PLUGINS, *plugins):
        manager.register(plugin)
    try:
        if installed:
            manager.load_setuptools_entrypoints(PROJECT_NAME)
        manager.check_pending()
    except Exception as error:
        raise ConfigError(f"a plugin cannot be used: {error}") from error
    return manager


@functools.cache
def installed_plugins() -> pluggy.PluginManager:
    """The plugin manager that clients use by default: built-in and installed plugins, loaded once per process."""
    return create_plugin_manager(installed=True)


def allocate_strategy(name: str, manager: pluggy.PluginManager | None = None) -> AllocateStrategy:
    """The strategy of that name.

    Raises:
        ConfigError: nobody offers it (the text lists what there is), or two plugins do.
    """
    manager = manager or installed_plugins()
    offers = _offers(manager.hook.register_allocate_strategies.get_hookimpls())
    return cast(AllocateStrategy, _pick("allocate_strategy", name, offers))


def queue_selector(name: str, manager: pluggy.PluginManager | None = None) -> QueueSelector:
    """A new selector of that name. Raises ConfigError as ``allocate_strategy``."""
    manager = manager or installed_plugins()
    make: Callable[[], QueueSelector]
    make = _pick("queue_selector", name, _offers(manager.hook.register_queue_selectors.get_hookimpls()))
    return make()


def _offers(implementations: list[pluggy.HookImpl]) -> dict[str, Any]:
    offers: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for implementation in implementations:
        offered = cast(Mapping[str, Any], implementation.function())
        for name, strategy in offered.items():
            if name in offers:
                raise ConfigError(
                    f"plugins {owners[name]} and {implementation.plugin_name} both offer {name!r}; remove one of them"
                )
            offers[name], owners[name] = strategy, implementation.plugin_name
    return offers


def _pick(setting: str, name: str, offers: Mapping[str, Any]) -> Any:
    try:
        return offers[name]
    except KeyError:
        known = ", ".join(sorted(offers))
        raise ConfigError(f"{setting}={name!r} is unknown; there are: {known}") from None
