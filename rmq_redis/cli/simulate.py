"""``rmq-redis simulate``: load balancers and allocate strategies on a simulated cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import ConfigError
from . import lazy
from .option_groups import with_option_groups
from .options import Json, flag, option
from .output import note, print_json, print_table, say

if TYPE_CHECKING:
    from ..labs.simulator.cluster import Cluster
    from ..labs.simulator.report import Report

_DEFAULT_LOAD_BALANCERS = ["ROUND_ROBIN", "LATENCY_FAULT_TOLERANT", "LATENCY_AWARE"]
_DEFAULT_ALLOCATE_STRATEGIES = ["AVG", "STICKY", "STICKY_EVEN"]


@dataclass(frozen=True, kw_only=True)
class StrategyOptions:
    """The strategies to compare."""

    load_balancer: Annotated[
        list[str] | None,
        option("--load-balancer", help="NAME or NAME,NAME; may be repeated.", metavar="NAMES", show_default=False),
    ] = None
    allocate_strategy: Annotated[
        list[str] | None,
        option("--allocate-strategy", help="NAME or NAME,NAME; may be repeated.", metavar="NAMES", show_default=False),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """The cluster, unless a scenario describes it; the fields are the parameters of ``default_cluster``."""

    brokers: Annotated[int | None, option("--brokers", help="Number of broker groups.", show_default="4")] = None
    queues: Annotated[int | None, option("--queues", help="Queues per broker group.", show_default="4")] = None
    producers: Annotated[int | None, option("--producers", help="Number of producers.", show_default="20")] = None
    consumers: Annotated[int | None, option("--consumers", help="Number of consumers.", show_default="10")] = None
    rate: Annotated[
        float | None,
        option(
            "--rate",
            help="Messages/s of all producers together.",
            show_default="60 % of the capacity of all groups, at most 120,000 messages",
        ),
    ] = None
    capacity: Annotated[
        float | None, option("--capacity", help="Messages/s that one broker group can store.", show_default="1000")
    ] = None
    keys: Annotated[
        int | None, option("--sharding-keys", help="Number of sharding keys; 0: none.", show_default="0")
    ] = None
    zones: Annotated[int | None, option("--zones", help="Number of zones; 0: none.", show_default="2")] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What repeats a run."""

    seed: Annotated[int | None, option("--seed", help="Seed of all random numbers.", show_default="1")] = None
    duration_s: Annotated[float | None, option("--duration", help="Simulated seconds.", show_default="60")] = None


@with_option_groups
def simulate(
    *,
    scenario: Annotated[
        Path | None,
        option("--scenario", help="TOML or JSON file that describes the cluster.", show_default=False),
    ] = None,
    strategies: StrategyOptions,
    repeat: RunOptions,
    json: Json = False,
    plot: Annotated[
        Path | None, option("--plot", help="Also draw FILE.png, .svg or .pdf.", metavar="FILE", show_default=False)
    ] = None,
    shape: ShapeOptions,
    quiet: Annotated[
        bool, flag("--quiet", help="No slow group, no hanging group, and no members that join or leave.")
    ] = False,
) -> None:
    """Compare load balancers and allocate strategies on a simulated cluster: balance, moved queues, tail latency.

    The same cluster and seed give the same result. Default strategies: those of the scenario; without them,
    ROUND_ROBIN, LATENCY_FAULT_TOLERANT and LATENCY_AWARE, and AVG, STICKY and STICKY_EVEN.
    """
    cluster = _described(scenario, _given(shape), quiet, _given(repeat))
    if plot is not None:
        lazy.check_plot(plot)
    found = _simulate(cluster, strategies)
    if plot is not None:
        lazy.draw(found, plot)
        note(f"wrote {plot}")
    if json:
        print_json(lazy.report.as_json(found))
    else:
        _show(found)


def _given(options: ShapeOptions | RunOptions) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if value is not None}


def _described(scenario: Path | None, shape: dict[str, Any], quiet: bool, repeat: dict[str, Any]) -> Cluster:
    """Raises ConfigError for options that exclude each other, and for a scenario that cannot be read."""
    if scenario is None:
        return lazy.default_cluster(events=not quiet, **shape, **repeat)
    if shape or quiet:
        options = ", ".join(map(_flag, [*shape, *["quiet"] * quiet]))
        raise ConfigError(f"--scenario describes the cluster; give it without {options}")
    cluster = lazy.load_cluster(scenario)
    return lazy.with_options(cluster, f"scenario {scenario}", **repeat)


def _simulate(cluster: Cluster, strategies: StrategyOptions) -> Report:
    clock = lazy.VirtualClock()
    with lazy.virtual_time(clock):
        return lazy.report.simulate(
            cluster,
            _names(strategies.load_balancer) or cluster.load_balancers or _DEFAULT_LOAD_BALANCERS,
            _names(strategies.allocate_strategy) or cluster.allocate_strategies or _DEFAULT_ALLOCATE_STRATEGIES,
            lazy.installed_plugins(),
            clock,
            progress=lambda text: note(f"{text} ..."),
        )


def _show(found: Report) -> None:
    report = lazy.report
    say(report.describe(found))
    for title, columns, rows in report.tables(found):
        say()
        if title:
            say(title)
        print_table(columns, rows)
    for problem in report.problems(found):
        say(f"problem: {problem}")


def _flag(name: str) -> str:
    return "--sharding-keys" if name == "keys" else f"--{name}"


def _names(given: list[str] | None) -> list[str]:
    return [name for text in given or [] for name in text.replace(",", ";").replace(" ", "").split(";") if name]
