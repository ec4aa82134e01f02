"""``rmq-redis simulate``: what strategies do to a described cluster, before they do it to a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Json, option
from .output import number, print_json, print_table


def simulate(
    scenario_path: Annotated[Path, typer.Argument(metavar="SCENARIO", help="A .toml or .json file.")],
    load_balancers: Annotated[
        list[str] | None, option("--load-balancer", help="May be repeated, to compare.", metavar="NAME")
    ] = None,
    allocate_strategies: Annotated[
        list[str] | None, option("--allocate-strategy", help="May be repeated, to compare.", metavar="NAME")
    ] = None,
    seed: Annotated[int | None, option("--seed", help="Instead of the scenario's.", show_default=False)] = None,
    plot: Annotated[Path | None, option("--plot", help="Write a PNG, too.", metavar="FILE", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Run load balancers and allocate strategies against a described cluster, offline: balance, movement, tail latency.

    The same scenario and seed give the same figures. Default: what is configured, ROUND_ROBIN and AVG.
    """
    import dataclasses

    from ..config import ClientConfig, from_env
    from ..errors import ConfigError
    from ..simulator.plot import write_png
    from ..simulator.scenario import read_scenario
    from ..simulator.sends import simulate_sends
    from ..simulator.shares import simulate_shares

    scenario = read_scenario(scenario_path)
    if seed is not None:
        scenario.seed = seed
    base = from_env(ClientConfig)
    try:
        config = dataclasses.replace(base, **scenario.settings)
    except TypeError as error:
        raise ConfigError(f"scenario {scenario_path}: settings: {error}") from None
    sends = [simulate_sends(scenario, name, config) for name in load_balancers or [config.load_balancer]]
    shares = [simulate_shares(scenario, name, config) for name in allocate_strategies or [config.allocate_strategy]]
    if plot is not None:
        write_png(plot, scenario, sends, shares)
    figures: list[dict[str, Any]] = [
        {
            "load_balancer": report.load_balancer,
            "stored": len(report.latencies_ms),
            "failed": report.failed,
            "retried": report.retried,
            "p50_ms": round(report.percentile_ms(0.5), 3),
            "p99_ms": round(report.percentile_ms(0.99), 3),
            "p999_ms": round(report.percentile_ms(0.999), 3),
            "max_ms": round(report.percentile_ms(1.0), 3),
            "imbalance": round(report.imbalance, 3),
        }
        for report in sends
    ]
    if json:
        changes = [dataclasses.asdict(report) for reports in shares for report in reports]
        print_json({"sends": figures, "shares": changes})
        return
    print_table(
        ["LOAD BALANCER", "STORED", "FAILED", "RETRIED", "P50 ms", "P99 ms", "P99.9 ms", "MAX ms", "BUSIEST / MEAN"],
        [tuple(value if isinstance(value, str) else number(value) for value in row.values()) for row in figures],
    )
    print()
    print_table(
        ["ALLOCATE STRATEGY", "AT s", "MEMBERS", "QUEUES EACH", "MOVED", "MUST MOVE", "PROBLEM"],
        [
            (
                report.allocate_strategy,
                number(report.at_s),
                number(report.members) + ("" if report.asked == report.members else f" ({report.asked} asked)"),
                f"{report.least}-{report.most}",
                "" if report.moved is None else number(report.moved),
                "" if report.moved is None else number(report.must_move),
                report.problem,
            )
            for reports in shares
            for report in reports
        ],
    )
