"""``rmq-redis bench``: the speed of a cluster on this machine, compared with that of its store."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import lazy
from .option_groups import with_option_groups
from .options import Json, flag, option
from .output import note, print_json
from .posix import require_posix

if TYPE_CHECKING:
    from ..labs.benchmark.measure import BenchmarkSettings


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured, and how long."""

    rounds: Annotated[int, option("--rounds", min=1, metavar="N", help="Number of rounds; the median is reported.")] = 3
    seconds: Annotated[
        float, option("--seconds", min=0.2, metavar="S", help="Length of each measurement in seconds.")
    ] = 3.0
    body_bytes: Annotated[int, option("--body-bytes", min=16, metavar="N", help="Size of a message body.")] = 256
    in_flight: Annotated[
        int, option("--in-flight", min=1, metavar="N", help="Number of unanswered sends at any time.")
    ] = 100


@with_option_groups
def bench(
    *,
    options: BenchOptions,
    quick: Annotated[bool, flag("--quick", help="Run one short round, as a check.")] = False,
    json: Json = False,
) -> None:
    """Start a cluster and measure its speed with default settings, beside the store's own.

    Sends, batches, consumers, both at the same time, and latencies, from processes of their own. Clients and servers
    have the settings that users get who change nothing.
    """
    require_posix("bench")
    settings = lazy.BenchmarkSettings(**dataclasses.asdict(options))
    if quick:
        settings = dataclasses.replace(
            settings, rounds=1, seconds=0.5, consume_count=20_000, latency_count=300, e2e_count=250
        )
    result = lazy.run(_bench(settings))
    if json:
        print_json(result)
    else:
        _print_table(result)


async def _bench(settings: BenchmarkSettings) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rmq-redis-bench-") as directory:
        spec = lazy.ClusterSpec(
            data_dir=Path(directory), namesrvs=1, brokers=1, slaves=0, log_level="warning", restart=()
        )
        note("starting a cluster")
        async with lazy.Cluster(spec) as cluster:
            return await lazy.measure(cluster, settings, note)


def _print_table(result: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD  # a screen of --json needs none
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="rmq-redis with default settings",
        title_justify="left",
        caption=_caption(result),
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0, 0, 0),
    )
    table.add_column("measured", no_wrap=True)
    for name in ("result", "of limit", "target", "CPU, µs"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in _measured_rows(result):
        table.add_row(*row)
    table.add_section()
    table.add_row("XADD alone, pipelines of 100", f"{result['limit_xadd_per_s']:,.0f} /s", "100%")
    table.add_row("XRANGE COUNT 100 alone", f"{result['limit_xrange_per_s']:,.0f} /s", "100%")
    Console().print(table)


def _measured_rows(result: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    ok = lazy.reached(result)
    marks = lazy.MARKS

    def target(name: str, text: str) -> str:
        return f"[green]{text} ✓[/]" if ok[name] else f"[red]{text} ✗[/]"

    def rate(name: str, label: str, mark: str = "") -> tuple[str, str, str, str, str]:
        share = f"{result[f'{name}_share']:.1%}" if f"{name}_share" in result else ""
        costs = [result.get(f"{name}_{process}_us", 0.0) for process in ("client", "broker", "redis")]
        return label, f"{result[f'{name}_per_s']:,.0f} /s", share, mark, "+".join(f"{cost:.0f}" for cost in costs)

    def latency(name: str, label: str) -> tuple[str, str, str, str, str]:
        p50, p99 = result[f"{name}_p50_ms"], result[f"{name}_p99_ms"]
        mark = f"{name}_p50_ms"
        return label, f"{p50:.2f}/{p99:.2f} ms", "", target(mark, f"≤ {marks[mark]} ms"), ""

    share = target("send_acked_share", f"≥ {marks['send_acked_share']:.0%}")
    yield rate("send_acked", f"sends, {result['in_flight']} in flight", share)
    share = target("send_batch_share", f"≥ {marks['send_batch_share']:.0%}")
    yield rate("send_batch", f"batches of {result['batch']}", share)
    yield rate("send_sync", "Producer.send, one thread")
    yield rate("consume", "coroutine consumer", target("consume_per_s", f"≥ {marks['consume_per_s']:,.0f}"))
    yield rate("consume_plain", "plain function consumer")
    label, rate_text, *_ = rate("both", "sends and consumer at once")
    yield label, rate_text, "", "", ""
    yield latency("send", "one send at a time, p50/p99")
    yield latency("e2e", "end to end at 500/s, p50/p99")


def _caption(result: dict[str, Any]) -> str:
    return (
        f"{result['body_bytes']}-byte messages, AOF everysec, one broker, {result['cpus']} CPUs, "
        f"Python {result['python']}, median of {result['rounds']}; limits by {result['limit_tool']}; "
        "CPU: client + broker + Redis, per message"
    )
