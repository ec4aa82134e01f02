"""Builds the plugin manager and asks it for what plugins offer by name.

Hooks are asked when a client or server starts; after that what was picked is called, not the hook.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

from ..config import ENV_PREFIX, NameServerConfig
from ..errors import ConfigError
from . import hookspecs
from .defaults import (
    allocate as default_allocate_strategies,
)
from .defaults import (
    queues as default_queue_selectors,
)
from .defaults import (
    read as default_read_selectors,
)
from .defaults import (
    routes as default_route_filters,
)
from .guards import GuardedAllocation, GuardedReadSelector, GuardedRouteFilter, GuardedSelector
from .hookspecs import PROJECT_NAME, AllocateStrategy, ClientContext, QueueSelector, ReadSelector, RouteFilter

DEFAULT_PLUGINS = (
    default_allocate_strategies,
    default_queue_selectors,
    default_read_selectors,
    default_route_filters,
)
"""The built-in plugins, registered the same way as anybody's."""
PLUGIN_VARIABLE = ENV_PREFIX + "PLUGIN"
"""The environment variable with plugins that are not installed: ``module:object;file.py:object``."""


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from: ``built-in``, ``package NAME``, ``--plugin SPEC`` or ``code``; and its version."""

    source: str
    version: str = ""


class Plugins(pluggy.PluginManager):
    """The plugin manager, which knows where each plugin comes from."""

    def __init__(self) -> None:
        super().__init__(PROJECT_NAME)
        self.add_hookspecs(hookspecs)
        self.origins: dict[str, Origin] = {}

    def add(self, plugin: object, name: str | None, origin: Origin) -> None:
        """Registers a plugin.

        Raises:
            ConfigError: one of its hooks does not fit its specification, or it is there already.
        """
        shown = str(name or getattr(plugin, "__name__", type(plugin).__qualname__))
        if name is None and not self.has_plugin(shown):
            name = shown
        try:
            registered = self.register(plugin, name)
        except Exception as error:
            raise ConfigError(f"plugin {shown} ({origin.source}) cannot be used: {error}") from error
        if registered:
            self.origins[registered] = origin

    def origin(self, plugin_name: str) -> Origin:
        return self.origins.get(plugin_name, Origin("code"))


def create_plugin_manager(
    *, installed: bool = False, plugins: tuple[object, ...] = (), local: Iterable[str] = ()
) -> Plugins:
    """A plugin manager with the built-in plugins.

    Args:
        installed: also load what installed packages offer through the entry point group ``rmq_redis``.
        plugins: further plugins (modules or objects).
        local: further plugins as ``module``, ``module:object``, ``file.py`` or ``file.py:object``.

    Raises:
        ConfigError: a plugin cannot be loaded, or implements a hook that does not exist (a misspelt one).
    """
    manager = Plugins()
    for plugin in DEFAULT_PLUGINS:
        manager.add(plugin, plugin.__name__.rpartition(".")[2], Origin("built-in", _own_version()))
    for given in plugins:
        manager.add(given, None, Origin("code"))
    # Plugins given by name are loaded first: they win over an installed, perhaps older, package of the same name.
    named = [(spec, _loaded(spec, functools.partial(load_object, spec))) for spec in local]
    if installed:
        modules = {_module_of(spec) for spec, _ in named}
        for point in sorted(importlib.metadata.entry_points(group=PROJECT_NAME)):
            if not modules.isdisjoint({point.module, point.name.replace("-", "_")}):
                continue
            package = f"package {point.dist.name}" if point.dist else "package"
            manager.add(_loaded(f"{point.name} ({package})", point.load), point.name, Origin(package, _version(point)))
    for spec, found in named:
        manager.add(found, spec, Origin(f"--plugin {spec}"))
    _check_pending(manager)
    return manager


def _check_pending(manager: Plugins) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        name = manager.get_name(error.plugin)
        text = str(error).partition(" in plugin ")[0]
        known = [hook for hook, caller in vars(manager.hook).items() if getattr(caller, "spec", None)]
        nearest = difflib.get_close_matches(text.removeprefix("unknown hook ").strip("'"), known, 1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ConfigError(f"plugin {name} cannot be used: {text}{hint}") from error


def _loaded(name: str, load: Callable[[], object]) -> object:
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"plugin {name} cannot be loaded: {type(error).__name__}: {error}") from error


def _version(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.version if point.dist else ""


def _own_version() -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("rmq-redis")
    return ""


def _module_of(spec: str) -> str:
    where = spec.partition(":")[0]
    return Path(where).stem if where.endswith(".py") else where


def load_object(spec: str) -> object:
    """A module, or an object in it: ``module``, ``module:object``, ``file.py``, ``file.py:object``.

    Modules are also looked for in the current directory. Raises what the import raises.
    """
    where, _, attribute = spec.partition(":")
    if where.endswith(".py"):
        path = Path(where).resolve()
        found = importlib.util.spec_from_file_location(path.stem, path)
        if found is None or found.loader is None or not path.is_file():
            raise ConfigError(f"there is no file {path}")
        module = importlib.util.module_from_spec(found)
        sys.modules.setdefault(path.stem, module)
        found.loader.exec_module(module)
    else:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        module = importlib.import_module(where)
    plugin: object = module
    for name in filter(None, attribute.split(".")):
        plugin = getattr(plugin, name)
    return plugin() if isinstance(plugin, type) else plugin


@functools.cache
def installed_plugins() -> Plugins:
    """The plugin manager that clients and servers use by default: built-in and installed plugins and those of
    ``RMQ_REDIS_PLUGIN``, loaded once per process."""
    local = [spec for spec in os.environ.get(PLUGIN_VARIABLE, "").split(";") if spec]
    return create_plugin_manager(installed=True, local=local)


# --- by name -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """Something that a plugin offers."""

    name: str
    value: Any
    plugin_name: str
    is_builtin: bool

    def made(self) -> Any:
        """What the maker makes. Raises ConfigError with the plugin's name."""
        return _asked(self.plugin_name, self.value, f"{self.name} cannot be made")


def _asked(plugin_name: str, function: Callable[..., Any], what: str, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"plugin {plugin_name}: {what}: {type(error).__name__}: {error}") from error


def same_name(name: str) -> str:
    """How names are compared."""
    return name.upper().replace("-", "_")


def offers(hook: str, manager: pluggy.PluginManager | None = None, **arguments: Any) -> dict[str, Offer]:
    """All that plugins offer through a ``register_*`` hook, by name.

    Raises:
        ConfigError: a plugin raises, answers something else than a mapping, or two plugins offer one name.
    """
    manager = manager or installed_plugins()
    found: dict[str, Offer] = {}
    taken: dict[str, str] = {}
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        plugin_name = implementation.plugin_name
        given = [arguments[name] for name in implementation.argnames]
        offered = _asked(plugin_name, implementation.function, hook, *given)
        if not isinstance(offered, Mapping):
            raise ConfigError(f"plugin {plugin_name}: {hook} returned {offered!r}, expected a mapping of names")
        is_builtin = implementation.plugin in DEFAULT_PLUGINS
        for name, value in offered.items():
            if same_name(name) in taken:
                raise ConfigError(
                    f"plugins {taken[same_name(name)]} and {plugin_name} both offer {name!r}; remove one of them"
                )
            if not callable(value):
                raise ConfigError(f"plugin {plugin_name}: {hook} offers {name!r} as {value!r}, which is not callable")
            found[name] = Offer(name, value, plugin_name, is_builtin)
            taken[same_name(name)] = plugin_name
    return found


def pick(setting: str, name: str, offered: Mapping[str, Offer]) -> Offer:
    """The offer of a name.

    Raises:
        ConfigError: no plugin offers it; the text lists the known names and the nearest.
    """
    by_name = {same_name(known): offer for known, offer in offered.items()}
    offer = by_name.get(same_name(name))
    if offer:
        return offer
    nearest = difflib.get_close_matches(same_name(name), by_name, 1, 0.5)
    hint = f"did you mean {by_name[nearest[0]].name}? " if nearest else ""
    known = ", ".join(sorted(offered)) or "none"
    raise ConfigError(f"{setting}={name!r} is unknown; {hint}there are: {known}")


def _no_context() -> ClientContext:
    from ..config import ClientConfig

    return ClientContext(ClientConfig(), lambda broker_name: "")


def allocate_strategy(
    name: str, manager: pluggy.PluginManager | None = None, context: ClientContext | None = None
) -> AllocateStrategy:
    """The strategy of that name; a plugin's is guarded (``guards``).

    Raises:
        ConfigError: nobody offers it (the text lists what there is), or two plugins do.
    """
    offered = offers("register_allocate_strategies", manager, context=context or _no_context())
    offer = pick("allocate_strategy", name, offered)
    strategy: AllocateStrategy = offer.value
    return strategy if offer.is_builtin else GuardedAllocation(offer.name, offer.plugin_name, strategy)


def queue_selector(
    name: str, manager: pluggy.PluginManager | None = None, context: ClientContext | None = None
) -> QueueSelector:
    """A new selector of that name; a plugin's is guarded (``guards``). Raises ConfigError as ``allocate_strategy``."""
    offered = offers("register_queue_selectors", manager, context=context or _no_context())
    offer = pick("load_balancer", name, offered)
    selector: QueueSelector = offer.made()
    if not callable(selector):
        raise ConfigError(f"plugin {offer.plugin_name}: the maker of {offer.name} made {selector!r}, no selector")
    return selector if offer.is_builtin else GuardedSelector(offer.name, offer.plugin_name, selector)


def read_selector(
    name: str, manager: pluggy.PluginManager | None = None, context: ClientContext | None = None
) -> ReadSelector | None:
    """A new selector of that name, None for SUGGESTED. Raises ConfigError as ``allocate_strategy``."""
    if same_name(name) == "SUGGESTED":
        return None
    offered = offers("register_read_selectors", manager, context=context or _no_context())
    offer = pick("read_selector", name, offered)
    selector: ReadSelector = offer.made()
    return selector if offer.is_builtin else GuardedReadSelector(offer.name, offer.plugin_name, selector)


def route_filter(config: NameServerConfig) -> RouteFilter | None:
    """A new filter of the name ``route_filter``; None for none. Raises ConfigError as ``allocate_strategy``."""
    for offer, made in named_objects("register_route_filters", "route_filter", config.route_filter, config=config):
        chosen: RouteFilter = made if offer.is_builtin else GuardedRouteFilter(offer.name, offer.plugin_name, made)
        return chosen
    return None


def named_objects(
    hook: str, setting: str, names: str, manager: pluggy.PluginManager | None = None, **arguments: Any
) -> list[tuple[Offer, Any]]:
    """New objects of the names in ``names`` (separated by ``;``), in their order, each with its offer."""
    wanted = [name for name in names.replace(",", ";").replace(" ", "").split(";") if name]
    if not wanted:
        return []
    offered = offers(hook, manager, **arguments)
    picked = [pick(setting, name, offered) for name in wanted]
    return [(offer, offer.made()) for offer in picked]


def notify_roles(hook: str, role: str, name: str, config: Any, manager: pluggy.PluginManager | None = None) -> None:
    """Calls ``role_started`` or ``role_stopping`` of every plugin.

    Raises:
        ConfigError: a plugin raised; it is named. The others were called all the same.
    """
    manager = manager or installed_plugins()
    arguments = {"role": role, "name": name, "config": config}
    failure: ConfigError | None = None
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        try:
            implementation.function(*[arguments[key] for key in implementation.argnames])
        except Exception as error:
            failure = ConfigError(f"plugin {implementation.plugin_name}: {hook}: {type(error).__name__}: {error}")
            failure.__cause__ = error
    if failure:
        raise failure
