"""Plugins: the hooks they implement, how they are found and loaded, and the strategies that are built in."""

from __future__ import annotations

from .manager import (
    DEFAULT_PLUGINS,
    PLUGIN_VARIABLE,
    Offer,
    Origin,
    Plugins,
    allocate_strategy,
    create_plugin_manager,
    installed_plugins,
    load_object,
    named_objects,
    notify_roles,
    offers,
    pick,
    queue_selector,
    read_selector,
    route_filter,
    same_name,
)

__all__ = [
    "DEFAULT_PLUGINS",
    "PLUGIN_VARIABLE",
    "Offer",
    "Origin",
    "Plugins",
    "allocate_strategy",
    "create_plugin_manager",
    "installed_plugins",
    "load_object",
    "named_objects",
    "notify_roles",
    "offers",
    "pick",
    "queue_selector",
    "read_selector",
    "route_filter",
    "same_name",
]
