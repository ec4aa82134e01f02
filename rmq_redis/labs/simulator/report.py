"""Runs the strategies and shows what they did, as rows of tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pluggy

from ...config import ClientConfig
from ...errors import ConfigError
from ...plugins.hookspecs import ClientContext
from ...plugins.manager import offers, pick
from .cluster import Cluster, checked
from .consumers import simulate_allocation
from .figures import BUCKETS, Change, ConsumerFigures, ProducerFigures, most_to_mean, percentile
from .producers import simulate_sends
from .virtual import VirtualClock

PERCENTILES = (0.5, 0.99, 0.999)

SEND_COLUMNS = ["<load balancer", "sends", "failed", "retries", "busiest/mean", "other zone"]
LATENCY_COLUMNS = ["<load balancer", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "keys moved"]
ALLOCATION_COLUMNS = ["<group", "<strategy", "each has", "most/mean", "moved", "least"]
Table = tuple[str, list[str], list[tuple[str, ...]]]
"""A title ("": none), the columns, and the rows. All are narrow enough for a screen of 80 columns."""


@dataclass(frozen=True)
class Report:
    """All that a run found out."""

    cluster: Cluster
    producers: list[ProducerFigures]
    consumers: list[ConsumerFigures]

    @property
    def load(self) -> float:
        """Sends to what all groups of the beginning can store."""
        later = self.cluster.added_later()
        capacity = sum(broker.capacity for broker in self.cluster.brokers if broker.name not in later)
        return self.cluster.rate / capacity


def simulate(
    cluster: Cluster,
    load_balancers: Sequence[str],
    allocate_strategies: Sequence[str],
    manager: pluggy.PluginManager,
    clock: VirtualClock | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Runs each strategy against the cluster; every one meets the same sends and the same changes.

    Args:
        manager: asked for the strategies.
        clock: one that ``virtual_time`` has, while plugins are imported.
        progress: told the name of each strategy before its run.

    Raises:
        ConfigError: the cluster cannot be, or nobody offers a strategy of that name (the text lists what there is).
    """
    checked(cluster)
    clock = clock or VirtualClock()
    context = ClientContext(ClientConfig(), lambda broker_name: "", clock.monotonic)
    asked = (
        ("load_balancer", "register_queue_selectors", load_balancers),
        ("allocate_strategy", "register_allocate_strategies", allocate_strategies),
    )
    for setting, hook, names in asked:
        offered = offers(hook, manager, context=context) if names else {}
        for name in names:
            pick(setting, name, offered)
    producers: list[ProducerFigures] = []
    consumers: list[ConsumerFigures] = []
    for name in load_balancers if cluster.rate else ():
        progress(f"load balancer {name}")
        producers.append(simulate_sends(cluster, name, manager, clock))
    for name in allocate_strategies if cluster.consumers else ():
        progress(f"allocate strategy {name}")
        consumers += simulate_allocation(cluster, name, manager, clock)
    if not producers and not consumers:
        raise ConfigError(
            "there is nothing to simulate: give producers and a load balancer, or consumers and a strategy"
        )
    return Report(cluster, producers, consumers)


# --- rows --------------------------------------------------------------------------------------------------------


def describe(report: Report) -> str:
    """What was simulated, in a line."""
    cluster = report.cluster
    brokers = cluster.brokers
    return (
        f"{len(brokers):,} groups with {sum(broker.queues for broker in brokers):,} queues, "
        f"{sum(entry.number for entry in cluster.producers):,} producers with {cluster.rate:,.0f} messages/s "
        f"({report.load:.0%} of the capacity), {sum(entry.number for entry in cluster.consumers):,} consumers, "
        f"{cluster.duration_s:g} s, seed {cluster.seed}"
    )


def tables(report: Report) -> list[Table]:
    """The report for people: what became of the sends, their latencies, and the shares after each change."""
    sends = [_send_row(figures) for figures in report.producers]
    latencies = [_latency_row(figures) for figures in report.producers]
    found: list[Table] = [("", SEND_COLUMNS, sends), ("", LATENCY_COLUMNS, latencies)] if sends else []
    for title, changes in _changes(report).items():
        found.append((title, ALLOCATION_COLUMNS, [_allocation_row(figures, change) for figures, change in changes]))
    if report.consumers:
        found.append(("all changes", ALLOCATION_COLUMNS, [_sums_row(figures) for figures in report.consumers]))
    return found


def problems(report: Report) -> list[str]:
    """What the strategies did wrong, each with the name of the strategy."""
    found = [f"{figures.name}: {figures.problem}" for figures in report.producers if figures.problem]
    for figures in report.consumers:
        found += [f"{figures.name}: {figures.problem}"] if figures.problem else []
        found += [
            f"{figures.name}, {change.at_s:g} s: {change.problem}" for change in figures.changes if change.problem
        ]
    return found


def _send_row(figures: ProducerFigures) -> tuple[str, ...]:
    count = len(figures.latencies())
    if not count:
        return (figures.name, *["-"] * (len(SEND_COLUMNS) - 1))
    return (
        figures.name,
        f"{count:,}",
        f"{figures.failed:,}",
        f"{figures.retries:,}",
        f"{figures.balance:.2f}",
        f"{figures.other_zone / sum(broker.sent for broker in figures.brokers):.0%}",
    )


def _latency_row(figures: ProducerFigures) -> tuple[str, ...]:
    latencies = figures.latencies()
    if not latencies:
        return (figures.name, *["-"] * (len(LATENCY_COLUMNS) - 1))
    return (
        figures.name,
        *(f"{percentile(latencies, part):,.1f}" for part in PERCENTILES),
        f"{latencies[-1]:,.1f}",
        f"{figures.keys_moved:,}" if figures.keyed else "-",
    )


def _changes(report: Report) -> dict[str, list[tuple[ConsumerFigures, Change]]]:
    """Each change in its turn, by its title, with the strategies that met it."""
    found: dict[str, list[tuple[ConsumerFigures, Change]]] = {}
    for number in range(max((len(figures.changes) for figures in report.consumers), default=0)):
        for figures in report.consumers:
            if number < len(figures.changes):
                change = figures.changes[number]
                title = f"{change.at_s:g} s  {change.what}: {change.members:,} members, {change.queues:,} queues"
                found.setdefault(title, []).append((figures, change))
    return found


def _sums(figures: ConsumerFigures) -> tuple[int, int]:
    return sum(change.moved for change in figures.changes), sum(change.least_moves for change in figures.changes)


def _sums_row(figures: ConsumerFigures) -> tuple[str, ...]:
    if figures.problem:
        return (figures.group, figures.name, *["-"] * 4)
    moved, least = _sums(figures)
    balance = f"{max(change.balance for change in figures.changes):.2f}"
    return (figures.group, figures.name, "", balance, f"{moved:,}", f"{least:,}")


def _allocation_row(figures: ConsumerFigures, change: Change) -> tuple[str, ...]:
    is_first = change is figures.changes[0]
    numbers = ["-"] * 4
    if not change.problem and change.members and change.queues:
        each = str(change.most) if change.most == change.fewest else f"{change.fewest}-{change.most}"
        numbers = [each, f"{change.balance:.2f}"]
        numbers += ["-", "-"] if is_first else [f"{change.moved:,}", f"{change.least_moves:,}"]
    return (figures.group, figures.name, *numbers)


# --- JSON --------------------------------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain values; the same for the same cluster and seed, byte for byte."""
    cluster = report.cluster
    return {
        "seed": cluster.seed,
        "duration_s": cluster.duration_s,
        "groups": len(cluster.brokers),
        "rate": round(cluster.rate, 3),
        "load": round(report.load, 4),
        "load_balancers": [_sends_json(figures, cluster.duration_s) for figures in report.producers],
        "allocate_strategies": [_allocation_json(figures) for figures in report.consumers],
    }


def _latency_json(latencies: list[float]) -> dict[str, float]:
    names = ("p50_ms", "p99_ms", "p999_ms")
    figures = {name: round(percentile(latencies, part), 3) for name, part in zip(names, PERCENTILES, strict=True)}
    return {**figures, "max_ms": round(latencies[-1], 3) if latencies else 0.0}


def _sends_json(figures: ProducerFigures, duration_s: float) -> dict[str, Any]:
    latencies = figures.latencies()
    brokers = [
        {"name": broker.name, "zone": broker.zone, "sent": broker.sent, "stored": broker.stored}
        for broker in figures.brokers
    ]
    over_time = [
        {"at_s": round(index * duration_s / BUCKETS, 3), "sends": len(bucket), **_latency_json(sorted(bucket))}
        for index, bucket in enumerate(figures.latencies_over_time)
    ]
    return {
        "name": figures.name,
        "sends": len(latencies),
        "failed": figures.failed,
        "retries": figures.retries,
        "balance": round(figures.balance, 4),
        "most_to_mean_sent": round(most_to_mean([float(broker.sent) for broker in figures.brokers]), 4),
        **_latency_json(latencies),
        "other_zone": figures.other_zone,
        "keys_moved": figures.keys_moved,
        "problem": figures.problem,
        "groups": brokers,
        "over_time": over_time,
    }


def _allocation_json(figures: ConsumerFigures) -> dict[str, Any]:
    moved, least = _sums(figures)
    return {
        "name": figures.name,
        "group": figures.group,
        "moved": moved,
        "least_moves": least,
        "balance": round(max((change.balance for change in figures.changes), default=0.0), 4),
        "problem": figures.problem,
        "changes": [{**asdict(change), "balance": round(change.balance, 4)} for change in figures.changes],
    }
