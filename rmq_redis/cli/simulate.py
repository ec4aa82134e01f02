"""``rmq-redis simulate``: what strategies would do to a cluster, without one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from .options import Json, flag, option
from .output import note, print_json, print_table, say

_DEFAULT_LOAD_BALANCERS = ["ROUND_ROBIN", "LATENCY_FAULT_TOLERANT", "LATENCY_AWARE"]
_DEFAULT_ALLOCATE_STRATEGIES = ["AVG", "STICKY", "STICKY_EVEN"]


def simulate(
    scenario: Annotated[
        Path | None,
        option("--scenario", help="TOML or JSON file that describes the cluster.", show_default=False),
    ] = None,
    load_balancer: Annotated[
        list[str] | None,
        option("--load-balancer", help="Name, or name,name to compare; may be repeated.", metavar="NAMES"),
    ] = None,
    allocate_strategy: Annotated[
        list[str] | None,
        option("--allocate-strategy", help="Name, or name,name to compare; may be repeated.", metavar="NAMES"),
    ] = None,
    seed: Annotated[int | None, option("--seed", help="All random numbers come from it.", show_default="1")] = None,
    duration: Annotated[float | None, option("--duration", help="Simulated seconds.", show_default="60")] = None,
    json: Json = False,
    plot: Annotated[
        Path | None, option("--plot", help="Draw it, too: FILE.png (or .svg, .pdf).", show_default=False)
    ] = None,
    brokers: Annotated[int | None, option("--brokers", help="Broker groups.", show_default="4")] = None,
    queues: Annotated[int | None, option("--queues", help="Queues in each.", show_default="4")] = None,
    producers: Annotated[int | None, option("--producers", help="Producers.", show_default="20")] = None,
    consumers: Annotated[int | None, option("--consumers", help="Consumers.", show_default="10")] = None,
    rate: Annotated[
        float | None,
        option(
            "--rate", help="Messages/s of all producers; default: 60 % of what groups take, at most 120,000 in all."
        ),
    ] = None,
    capacity: Annotated[
        float | None, option("--capacity", help="Messages/s that one group takes.", show_default="1000")
    ] = None,
    keys: Annotated[int | None, option("--sharding-keys", help="Sharding keys; 0: none.", show_default="0")] = None,
    zones: Annotated[int | None, option("--zones", help="Zones; 0: none.", show_default="2")] = None,
    quiet: Annotated[
        bool, flag("--quiet", help="Without the slow and the hanging group, and those who come and go.")
    ] = False,
) -> None:
    """Run load balancers and allocate strategies against a described cluster, offline: balance, movement, tail latency.

    The same cluster and seed give the same result. Without --load-balancer and --allocate-strategy the scenario's are
    compared, else ROUND_ROBIN, LATENCY_FAULT_TOLERANT and LATENCY_AWARE, AVG, STICKY and STICKY_EVEN.
    """
    from ..errors import ConfigError
    from ..labs.simulator import report
    from ..labs.simulator.cluster import default_cluster, load_cluster, with_options
    from ..labs.simulator.virtual import VirtualClock, virtual_time
    from ..plugins.manager import installed_plugins

    shape = {
        "brokers": brokers,
        "queues": queues,
        "producers": producers,
        "consumers": consumers,
        "rate": rate,
        "capacity": capacity,
        "keys": keys,
        "zones": zones,
    }
    given: dict[str, Any] = {name: value for name, value in shape.items() if value is not None}
    times: dict[str, Any] = {
        name: value for name, value in (("seed", seed), ("duration_s", duration)) if value is not None
    }
    if scenario is None:
        cluster = default_cluster(events=not quiet, **given, **times)
    elif given or quiet:
        raise ConfigError(
            f"--scenario describes the cluster; leave out {', '.join(map(_flag, [*given, *['quiet'] * quiet]))}"
        )
    else:
        cluster = with_options(load_cluster(scenario), f"scenario {scenario}", **times)
    if plot is not None:
        from ..labs.simulator.plot import check_plot, draw

        check_plot(plot)
    clock = VirtualClock()
    with virtual_time(clock):
        found = report.simulate(
            cluster,
            _names(load_balancer) or cluster.load_balancers or _DEFAULT_LOAD_BALANCERS,
            _names(allocate_strategy) or cluster.allocate_strategies or _DEFAULT_ALLOCATE_STRATEGIES,
            installed_plugins(),
            clock,
            progress=lambda text: note(f"{text} ..."),
        )
    if plot is not None:
        draw(found, plot)
        note(f"wrote {plot}")
    if json:
        print_json(report.as_json(found))
        return
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
