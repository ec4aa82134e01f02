"""The cluster that a simulation describes: TOML or JSON, read into plain values."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ConfigError

MAX_BROKERS = 1_000
MAX_CLIENTS = 10_000


class Brokers(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Broker groups that are alike: ``<name>-0``, ``<name>-1``, ..."""

    count: int = 1
    name: str = "broker"
    zone: str = ""
    latency_ms: float = 2.0
    """Median time of a send without waiting."""
    spread: float = 0.4
    """Sigma of the latency's logarithm: 0 is always the median."""
    capacity: float = 5000.0
    """Sends a second; more wait."""


class Fault(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A time in which a broker group is down, or slow."""

    broker: str
    from_s: float
    to_s: float
    down: bool = False
    slow: float = 1.0
    """Factor of its latency."""


class Producers(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Producers; ``rate`` is what all send together, a second."""

    count: int = 10
    rate: float = 1000.0
    keys: int = 0
    """Messages have one of so many sharding keys; 0: none."""


class Consumers(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The members of a group at the beginning; ``zones`` are given to them in turn."""

    count: int = 4
    zones: list[str] = []


class Change(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Consumers come and go."""

    at_s: float
    join: int = 0
    leave: int = 0


class Scenario(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A cluster, its clients, and what happens to them."""

    brokers: list[Brokers]
    seed: int = 1
    duration_s: float = 60.0
    queues_per_broker: int = 4
    timeout_ms: float = 3000.0
    retries: int = 2
    faults: list[Fault] = []
    producers: Producers = msgspec.field(default_factory=Producers)
    consumers: Consumers = msgspec.field(default_factory=Consumers)
    changes: list[Change] = []
    settings: dict[str, Any] = {}
    """Settings of the clients: ``zone``, ``broker_weights``, ..."""

    def broker_names(self) -> dict[str, Brokers]:
        """Every broker group by name."""
        return {f"{kind.name}-{index}": kind for kind in self.brokers for index in range(kind.count)}


def read_scenario(path: Path) -> Scenario:
    """Reads a ``.toml`` or ``.json`` file.

    Raises:
        ConfigError: it cannot be read, or describes what cannot be.
    """
    try:
        data = json.loads(path.read_text()) if path.suffix == ".json" else tomllib.loads(path.read_text())
        scenario = msgspec.convert(data, Scenario)
    except (OSError, ValueError) as error:
        raise ConfigError(f"scenario {path}: {error}") from None
    problem = _problem(scenario)
    if problem:
        raise ConfigError(f"scenario {path}: {problem}")
    return scenario


def _problem(scenario: Scenario) -> str:
    names = scenario.broker_names()
    brokers = sum(max(kind.count, 0) for kind in scenario.brokers)
    joins = sum(change.join for change in scenario.changes)
    clients = scenario.producers.count + scenario.consumers.count + joins
    if not 1 <= brokers <= MAX_BROKERS or len(names) != brokers:
        return f"{brokers} broker groups with {len(names)} different names; 1 to {MAX_BROKERS} are possible"
    if clients > MAX_CLIENTS or min(scenario.producers.count, scenario.consumers.count) < 1:
        return f"{clients} clients; up to {MAX_CLIENTS}, at least one producer and one consumer, are possible"
    for kind in scenario.brokers:
        if not (kind.latency_ms > 0 and kind.capacity > 0 and kind.spread >= 0):
            return f"brokers {kind.name}: latency_ms and capacity must be above 0, spread not below"
    if not (scenario.duration_s > 0 and scenario.producers.rate > 0 and 1 <= scenario.queues_per_broker <= 1024):
        return "duration_s and rate must be above 0, queues_per_broker 1 to 1024"
    for fault in scenario.faults:
        if fault.broker not in names:
            return f"fault of broker {fault.broker!r}, which is none of the scenario's"
        if not 0 <= fault.from_s < fault.to_s or fault.slow <= 0:
            return f"fault of broker {fault.broker}: from_s must be before to_s, slow above 0"
    members = scenario.consumers.count
    for change in sorted(scenario.changes, key=lambda change: change.at_s):
        members += change.join - change.leave
        if members < 1 or min(change.join, change.leave) < 0:
            return f"at {change.at_s:g} s {members} consumers are left"
    return ""
