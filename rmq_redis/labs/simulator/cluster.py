"""The description of a cluster: its groups, its clients, and what happens to them when."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import msgspec

from ...config import ClientConfig
from ...errors import ConfigError

MAX_SENDS = 5_000_000
"""As many sends are simulated for one strategy; they are held in memory for the percentiles."""
DEFAULT_SENDS = 120_000


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A broker group, or ``number`` of them, named ``name-1``, ``name-2``, ...

    Attributes:
        queues: writable and readable queues of the topic in each.
        zone: the zone that it registers, "" for none.
        weight: its weight for the load balancer WEIGHTED.
        latency_ms: median of a send's way there and back, without waiting for other sends.
        spread: sigma of the log-normal distribution around it; 0 is constant, 0.5 makes the 99th percentile 3.2 times
            the median.
        capacity: messages/s that it stores, one after the other; what comes faster waits.
        longest_wait_s: a send that would wait for longer is refused as busy after this time
            (``BrokerConfig.wait_time_in_send_queue_s``).
    """

    name: str
    number: int = 1
    queues: int = 4
    zone: str = ""
    weight: float = 1.0
    latency_ms: float = 1.0
    spread: float = 0.5
    capacity: float = 1000.0
    longest_wait_s: float = 0.2


class Producers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``number`` producers that each send ``rate`` messages/s, at random times (Poisson).

    Attributes:
        zone: their ``ClientConfig.zone``.
        keys: how many sharding keys they use; 0: none.
        key_skew: 0: all keys alike; else the k-th key comes 1 / k ** key_skew times as often as the first (Zipf).
        tags, properties: of every message.
    """

    number: int = 1
    rate: float = 10.0
    zone: str = ""
    keys: int = 0
    key_skew: float = 0.0
    tags: str = ""
    properties: dict[str, str] = {}


class Consumers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``number`` members of a consumer group; several entries may have one group."""

    group: str = "consumers"
    number: int = 1
    zone: str = ""


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something that happens ``at`` seconds after the beginning.

    Attributes:
        event: ``slow`` (latency times ``factor``, capacity divided by it), ``fail`` (refuses connections), ``hang``
            (does not answer), ``recover`` (from all of these); ``add`` and ``remove`` (to and from the route; a group
            that is added first is not there in the beginning); ``join`` and ``leave`` (of consumers).
        group: name of the broker group, for ``join`` and ``leave`` of the consumer group.
        number: how many consumers join or leave; which leave is drawn by lot.
        zone: of the consumers that join.
    """

    at: float
    event: Literal["slow", "fail", "hang", "recover", "add", "remove", "join", "leave"]
    group: str
    factor: float = 10.0
    number: int = 1
    zone: str = ""

    @property
    def text(self) -> str:
        """As the tables show it."""
        if self.event in ("join", "leave"):
            return f"{self.number} {self.event if self.number > 1 else self.event + 's'}"
        return f"{self.group} x{self.factor:g} slower" if self.event == "slow" else f"{self.event} {self.group}"


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is simulated.

    Attributes:
        seed: all random numbers come from it.
        zone_latency_ms: added to a send between two zones.
        client: settings of all clients (``ClientConfig``); ``zone`` is that of each.
        load_balancers, allocate_strategies: names of strategies, where the command line has none.
    """

    groups: list[Group]
    duration_s: float = 60.0
    seed: int = 1
    topic: str = "simulated"
    zone_latency_ms: float = 2.0
    client: dict[str, Any] = {}
    producers: list[Producers] = []
    consumers: list[Consumers] = []
    events: list[Event] = []
    load_balancers: list[str] = []
    allocate_strategies: list[str] = []

    @property
    def brokers(self) -> list[Group]:
        """Every group by itself, sorted by name."""
        single = [
            msgspec.structs.replace(group, name=f"{group.name}-{index}" if group.number > 1 else group.name, number=1)
            for group in self.groups
            for index in range(1, group.number + 1)
        ]
        return sorted(single, key=lambda group: group.name)

    @property
    def rate(self) -> float:
        """Messages/s of all producers."""
        return sum(producers.number * producers.rate for producers in self.producers)

    @property
    def timeline(self) -> list[Event]:
        """The events in their order."""
        return sorted(self.events, key=lambda event: event.at)

    def added_later(self) -> set[str]:
        """Names of the groups that are not there in the beginning."""
        first: dict[str, str] = {}
        for event in self.timeline:
            if event.event in ("add", "remove"):
                first.setdefault(event.group, event.event)
        return {name for name, what in first.items() if what == "add"}

    def client_config(self, zone: str) -> ClientConfig:
        """The settings of a client in a zone; the groups' weights count unless ``broker_weights`` is given."""
        settings = dict(self.client)
        if zone:
            settings["zone"] = zone
        weights = [f"{group.name}={group.weight:g}" for group in self.brokers if group.weight != 1]
        settings.setdefault("broker_weights", ";".join(weights))
        return msgspec.convert(settings, ClientConfig)


def load_cluster(path: Path) -> Cluster:
    """The cluster that a TOML or JSON file describes.

    Raises:
        ConfigError: it cannot be read, or says something that cannot be; the text names it.
    """
    try:
        text = path.read_text()
        described = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        cluster = msgspec.convert(described, Cluster)
    except OSError as error:
        raise ConfigError(f"scenario {path}: {error.strerror}") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"scenario {path}: {error}") from error
    return checked(cluster, f"scenario {path}")


def with_options(cluster: Cluster, name: str, **values: Any) -> Cluster:
    """The cluster with other values. Raises ConfigError with what cannot be."""
    return checked(msgspec.structs.replace(cluster, **values), name)


def checked(cluster: Cluster, name: str = "cluster") -> Cluster:
    """The cluster, if it can be simulated. Raises ConfigError with what cannot be."""
    problem = _problem(cluster)
    if problem:
        raise ConfigError(f"{name}: {problem}")
    return cluster


def _problem(cluster: Cluster) -> str:
    try:
        cluster.client_config("")
    except msgspec.ValidationError as error:
        return f"client: {error}"
    unknown = set(cluster.client) - {field.name for field in fields(ClientConfig)}
    if unknown:
        return f"client has unknown settings: {', '.join(sorted(unknown))}"
    for group in cluster.groups:
        if group.number < 1 or min(group.capacity, group.latency_ms, group.longest_wait_s) <= 0:
            return f"group {group.name}: number, capacity, latency_ms and longest_wait_s must be above 0"
        if min(group.queues, group.spread) < 0:
            return f"group {group.name}: queues and spread must be 0 or more"
        if not 0 <= group.weight < float("inf"):
            return f"group {group.name}: weight={group.weight:g} is not 0 or more"
    names = [group.name for group in cluster.brokers]
    if len(set(names)) < len(names):
        return f"two groups have the name {next(name for name in names if names.count(name) > 1)}"
    if not set(names) - cluster.added_later() or not any(group.queues for group in cluster.groups):
        return "there is no group with a queue in the beginning"
    for producers in cluster.producers:
        if producers.number < 0 or producers.rate < 0 or producers.keys < 0:
            return "producers: number, rate and keys must be 0 or more"
    if any(consumers.number < 0 for consumers in cluster.consumers):
        return "consumers: number must be 0 or more"
    if cluster.duration_s <= 0:
        return f"duration_s={cluster.duration_s:g} is not above 0"
    sends = cluster.rate * cluster.duration_s
    if sends > MAX_SENDS:
        return f"{sends:,.0f} sends are more than {MAX_SENDS:,} for one strategy; lower the rate or the duration"
    return _event_problem(cluster, set(names))


def _event_problem(cluster: Cluster, names: set[str]) -> str:
    consumer_groups = {consumers.group for consumers in cluster.consumers}
    for event in cluster.timeline:
        what = f"event {event.event} at {event.at:g}"
        if not 0 <= event.at <= cluster.duration_s:
            return f"{what}: it is not within duration_s={cluster.duration_s:g}"
        if event.factor <= 0 or event.number < 1:
            return f"{what}: factor and number must be above 0"
        known = consumer_groups if event.event in ("join", "leave") else names
        if event.group not in known:
            return f"{what}: there is no group {event.group!r}"
    present = names - cluster.added_later()
    for event in cluster.timeline:
        if event.event in ("add", "remove"):
            if (event.group in present) is (event.event == "add"):
                return f"event {event.event} at {event.at:g}: {event.group} is {'not ' * (event.event != 'add')}there"
            present ^= {event.group}
    return ""


def default_cluster(
    brokers: int = 4,
    queues: int = 4,
    producers: int = 20,
    consumers: int = 10,
    *,
    zones: int = 2,
    rate: float | None = None,
    capacity: float = 1000.0,
    keys: int = 0,
    key_skew: float = 1.0,
    duration_s: float = 60.0,
    seed: int = 1,
    events: bool = True,
    client: Mapping[str, Any] | None = None,
) -> Cluster:
    """A cluster of equal groups in equal zones, with some trouble on the way.

    Args:
        rate: messages/s of all producers together; by default 60 % of what the groups can take, but not more than
            makes ``DEFAULT_SENDS`` sends.
        zones: how many zones groups and clients are in by turns; 0: nobody has one.
        events: a group becomes ten times as slow and recovers, another one hangs and recovers, consumers leave and
            join, a group is added.

    Raises:
        ConfigError: a number that cannot be.
    """
    if min(brokers, queues) < 1 or min(producers, consumers, zones, keys) < 0:
        raise ConfigError("brokers and queues must be at least 1, producers, consumers, zones and keys at least 0")
    if duration_s <= 0:
        raise ConfigError(f"duration_s={duration_s:g} is not above 0")
    if rate is None:
        rate = min(0.6 * brokers * capacity, DEFAULT_SENDS / duration_s)
    names = [f"broker-{index:0{len(str(brokers + 1))}d}" for index in range(1, brokers + 2)]
    zone_names = [f"zone-{index}" for index in range(1, zones + 1)] or [""]
    groups = [
        Group(name=name, queues=queues, zone=zone_names[index % len(zone_names)], capacity=capacity)
        for index, name in enumerate(names[: brokers + events])
    ]
    return checked(
        Cluster(
            groups=groups,
            duration_s=duration_s,
            seed=seed,
            client=dict(client or {}),
            producers=[
                Producers(number=number, rate=rate / producers, zone=zone, keys=keys, key_skew=key_skew)
                for zone, number in _dealt(producers, zone_names).items()
            ],
            consumers=[Consumers(number=number, zone=zone) for zone, number in _dealt(consumers, zone_names).items()],
            events=_default_events(names, consumers, duration_s, zone_names) if events else [],
        )
    )


def _dealt(number: int, zone_names: list[str]) -> dict[str, int]:
    shares = {zone: len(range(index, number, len(zone_names))) for index, zone in enumerate(zone_names)}
    return {zone: share for zone, share in shares.items() if share}


def _default_events(names: list[str], consumers: int, duration_s: float, zone_names: list[str]) -> list[Event]:
    def at(part: float) -> float:
        return round(part * duration_s, 3)

    events = [Event(at=at(0.85), event="add", group=names[-1])]
    if len(names) > 2:
        events += [
            Event(at=at(0.2), event="slow", group=names[1]),
            Event(at=at(0.4), event="recover", group=names[1]),
            Event(at=at(0.55), event="hang", group=names[0]),
            Event(at=at(0.7), event="recover", group=names[0]),
        ]
    if consumers > 1:
        some = max(consumers // 10, 1)
        events += [
            Event(at=at(0.25), event="leave", group="consumers", number=1),
            Event(at=at(0.5), event="join", group="consumers", number=1, zone=zone_names[0]),
            Event(at=at(0.75), event="join", group="consumers", number=some, zone=zone_names[-1]),
        ]
    return events
