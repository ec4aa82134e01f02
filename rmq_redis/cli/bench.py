"""``rmq-redis bench``: how fast this system is on this machine, beside what its store can do."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from .options import Json, flag, option
from .output import note, print_json
from .posix import require_posix


def bench_app(
    rounds: Annotated[
        int, option("--rounds", min=1, metavar="N", help="Number of rounds; the median is reported.")
    ] = 3,
    seconds: Annotated[
        float, option("--seconds", min=0.2, metavar="S", help="Length of each measurement in seconds.")
    ] = 3.0,
    body_bytes: Annotated[int, option("--body-bytes", min=16, metavar="N", help="Size of a message body.")] = 256,
    in_flight: Annotated[
        int, option("--in-flight", min=1, metavar="N", help="Sends that wait for their answer at any time.")
    ] = 100,
    quick: Annotated[bool, flag("--quick", help="One short round, to see that it works.")] = False,
    json_: Json = False,
) -> None:
    """Measure a cluster of its own: sends, batches, consuming, latencies, and the store's own rates beside them."""
    require_posix("bench")
    from ..labs.benchmark.measure import BenchmarkSettings
    from ..runtime import run

    settings = BenchmarkSettings(rounds=rounds, seconds=seconds, body_bytes=body_bytes, in_flight=in_flight)
    if quick:
        settings = BenchmarkSettings(
            rounds=1,
            seconds=0.5,
            body_bytes=body_bytes,
            in_flight=in_flight,
            consume_count=20_000,
            latency_count=300,
            e2e_count=250,
        )
    result = run(_bench(settings))
    if json_:
        print_json(result)
    else:
        _print_table(result)


async def _bench(settings: Any) -> dict[str, Any]:
    from ..labs.benchmark.measure import measure
    from ..localcluster.cluster import Cluster, ClusterSpec

    with tempfile.TemporaryDirectory(prefix="rmq-redis-bench-") as directory:
        spec = ClusterSpec(data_dir=Path(directory), namesrvs=1, brokers=1, slaves=0, log_level="warning", restart=())
        note("starting a cluster")
        async with Cluster(spec) as cluster:
            return await measure(cluster.namesrv_addr, cluster.store_url, settings, note)


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..labs.benchmark.measure import MARKS, reached

    ok = reached(result)
    table = Table(title="rmq-redis on this machine", caption=_caption(result))
    for name, justify in (
        ("measured", "left"),
        ("figure", "right"),
        ("of the store's own", "right"),
        ("mark", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]

    def mark(name: str, text: str) -> str:
        return f"[green]{text} ✓[/]" if ok[name] else f"[red]{text} ✗[/]"

    per_s = "{:,.0f} /s".format
    share = "{:.1%}".format
    table.add_row(
        f"sends, each acknowledged, {result['in_flight']} in flight",
        per_s(result["send_acked_per_s"]),
        share(result["send_acked_share"]),
        mark("send_acked_share", f"≥ {MARKS['send_acked_share']:.0%}"),
    )
    table.add_row(
        f"sends in batches of {result['batch']}",
        per_s(result["send_batch_per_s"]),
        share(result["send_batch_share"]),
        mark("send_batch_share", f"≥ {MARKS['send_batch_share']:.0%}"),
    )
    table.add_row(
        "consumed and committed",
        per_s(result["consume_per_s"]),
        share(result["consume_share"]),
        mark("consume_per_s", f"≥ {MARKS['consume_per_s']:,.0f} or {MARKS['consume_share']:.0%}"),
    )
    table.add_row(
        "one send after the other, p50 / p99",
        f"{result['send_p50_ms']:.3f} / {result['send_p99_ms']:.3f} ms",
        "",
        mark("send_p50_ms", f"p50 ≤ {MARKS['send_p50_ms']} ms"),
    )
    table.add_row(
        "end to end at 500/s, p50 / p99",
        f"{result['e2e_p50_ms']:.3f} / {result['e2e_p99_ms']:.3f} ms",
        "",
        mark("e2e_p50_ms", f"p50 ≤ {MARKS['e2e_p50_ms']} ms"),
    )
    table.add_section()
    table.add_row("the store alone: XADD, pipelines of 100", per_s(result["limit_xadd_per_s"]), "100%", "")
    table.add_row("the store alone: XRANGE COUNT 100", per_s(result["limit_xrange_per_s"]), "100%", "")
    Console().print(table)


def _caption(result: dict[str, Any]) -> str:
    return (
        f"{result['body_bytes']}-byte messages, AOF everysec, one broker, {result['cpus']} CPUs, "
        f"Python {result['python']}, median of {result['rounds']}; store measured by {result['limit_tool']}"
    )
