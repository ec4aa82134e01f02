"""Names that commands import when they run: ``lazy.AsyncAdmin``. Help and completion load none of them.

Write a name in both lists below: the first is for the type checker, the second for Python.
"""

# ruff: noqa: PLC0414  ("X as X" exports a name)
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio as asyncio

    from ..broker.broker import Broker as Broker
    from ..child_guard import end_with_parent as end_with_parent
    from ..client.admin.admin import AsyncAdmin as AsyncAdmin
    from ..client.admin.dead_letters import RESEND_GROUP as RESEND_GROUP
    from ..client.admin.dead_letters import DeadLetters as DeadLetters
    from ..client.admin.dead_letters import ids_of as ids_of
    from ..client.admin.dead_letters import origin_topic as origin_topic
    from ..client.app import App as App
    from ..client.consume.pull import AsyncPullConsumer as AsyncPullConsumer
    from ..client.produce.producer import AsyncProducer as AsyncProducer
    from ..labs.benchmark.measure import MARKS as MARKS
    from ..labs.benchmark.measure import BenchmarkSettings as BenchmarkSettings
    from ..labs.benchmark.measure import measure as measure
    from ..labs.benchmark.measure import reached as reached
    from ..labs.chaos.run import Chaos as Chaos
    from ..labs.chaos.run import ChaosSettings as ChaosSettings
    from ..labs.simulator import report as report
    from ..labs.simulator.cluster import default_cluster as default_cluster
    from ..labs.simulator.cluster import load_cluster as load_cluster
    from ..labs.simulator.cluster import with_options as with_options
    from ..labs.simulator.plot import check_plot as check_plot
    from ..labs.simulator.plot import draw as draw
    from ..labs.simulator.virtual import VirtualClock as VirtualClock
    from ..labs.simulator.virtual import virtual_time as virtual_time
    from ..localcluster.cluster import Cluster as Cluster
    from ..localcluster.cluster import ClusterSpec as ClusterSpec
    from ..nameserver.nameserver import NameServer as NameServer
    from ..plugins.hookspecs import ClientContext as ClientContext
    from ..plugins.manager import installed_plugins as installed_plugins
    from ..plugins.manager import offers as offers
    from ..plugins.template import write_plugin as write_plugin
    from ..protocol.group_config import GroupRetryPolicy as GroupRetryPolicy
    from ..protocol.group_config import SubscriptionGroupConfig as SubscriptionGroupConfig
    from ..protocol.ids import parse_offset_msg_id as parse_offset_msg_id
    from ..runtime import Stopped as Stopped
    from ..runtime import run as run
    from ..runtime import serve as serve
    from ..runtime import setup_logging as setup_logging
    from ..runtime import stop_signals as stop_signals
    from ..runtime import unless_stopped as unless_stopped
    from ..store.redis.url import redact as redact
    from .demo.report import check_file as check_file
    from .demo.run import run_demo as run_demo
    from .demo.view import View as View
    from .demo.worker import WorkerSettings as WorkerSettings
    from .line_sender import LineSender as LineSender
    from .printer import Printer as Printer

_NAMES = {
    "..broker.broker": ("Broker",),
    "..child_guard": ("end_with_parent",),
    "..client.admin.admin": ("AsyncAdmin",),
    "..client.admin.dead_letters": ("DeadLetters", "RESEND_GROUP", "ids_of", "origin_topic"),
    "..client.app": ("App",),
    "..client.consume.pull": ("AsyncPullConsumer",),
    "..client.produce.producer": ("AsyncProducer",),
    "..labs.benchmark.measure": ("BenchmarkSettings", "MARKS", "measure", "reached"),
    "..labs.chaos.run": ("Chaos", "ChaosSettings"),
    "..labs.simulator.cluster": ("default_cluster", "load_cluster", "with_options"),
    "..labs.simulator.plot": ("check_plot", "draw"),
    "..labs.simulator.virtual": ("VirtualClock", "virtual_time"),
    "..localcluster.cluster": ("Cluster", "ClusterSpec"),
    "..nameserver.nameserver": ("NameServer",),
    "..plugins.hookspecs": ("ClientContext",),
    "..plugins.manager": ("installed_plugins", "offers"),
    "..plugins.template": ("write_plugin",),
    "..protocol.group_config": ("GroupRetryPolicy", "SubscriptionGroupConfig"),
    "..protocol.ids": ("parse_offset_msg_id",),
    "..runtime": ("Stopped", "run", "serve", "setup_logging", "stop_signals", "unless_stopped"),
    "..store.redis.url": ("redact",),
    ".demo.report": ("check_file",),
    ".demo.run": ("run_demo",),
    ".demo.view": ("View",),
    ".demo.worker": ("WorkerSettings",),
    ".line_sender": ("LineSender",),
    ".printer": ("Printer",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = {"asyncio": "asyncio", "report": "..labs.simulator.report"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = import_module(_MODULES[name], __package__)
    elif name in _HOME:
        value = getattr(import_module(_HOME[name], __package__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
