"""The report as a picture. The only module that needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError
from .cluster import Cluster
from .figures import BUCKETS, BrokerFigures, ConsumerFigures, ProducerFigures, percentile
from .report import PERCENTILES, Report, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LINES = 12
"""``_COLOURS``, and two of them dashed; a chart with more lines is not readable."""
_COLOURS = (
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#6cc5b0",
    "#3ca951",
    "#ff8ab7",
    "#a463f2",
    "#97bbf5",
    "#9c6b4e",
    "#9498a0",
)


def check_plot(path: Path) -> None:
    """Raises ConfigError when nothing can be drawn to that file, before anything is simulated."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("--plot needs matplotlib: pip install 'rmq-redis[simulate]'") from None
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--plot {path}: the name must end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no directory {path.parent}")


def draw(report: Report, path: Path) -> None:
    """Draws sends per group and latencies over time for each load balancer, and the moves of each consumer group."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    balancers = [figures for figures in report.producers if any(figures.latencies_over_time)]
    groups = list(dict.fromkeys(figures.group for figures in report.consumers))
    rows = len(balancers) + len(groups)
    figure = Figure(figsize=(15, 0.8 + 3.3 * max(rows, 1)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(describe(report), fontsize=11)
    grid = figure.add_gridspec(max(rows, 1), 2)
    top_ms = _scale(balancers)
    top_sent = max((max(b.sent_over_time) for f in balancers for b in f.brokers), default=1) * 1.08
    for row, balancer in enumerate(balancers):
        sent = figure.add_subplot(grid[row, 0])
        _draw_sent(sent, balancer, report.cluster)
        sent.set_ylim(0, top_sent * BUCKETS / report.cluster.duration_s)
        latency = figure.add_subplot(grid[row, 1])
        _draw_latency(latency, balancer, report.cluster)
        latency.set_ylim(*top_ms)
    for row, group in enumerate(groups, len(balancers)):
        strategies = [figures for figures in report.consumers if figures.group == group and figures.changes]
        _draw_moves(figure.add_subplot(grid[row, 0]), group, strategies)
        _draw_shares(figure.add_subplot(grid[row, 1]), group, strategies)
    figure.savefig(path, dpi=110)


def _times(cluster: Cluster) -> list[float]:
    return [(index + 0.5) * cluster.duration_s / BUCKETS for index in range(BUCKETS)]


def _mark_events(axes: Axes, cluster: Cluster) -> None:
    seen: set[float] = set()
    for event in cluster.timeline:
        if event.event in ("join", "leave") or event.at in seen:
            continue
        seen.add(event.at)
        axes.axvline(event.at, color="#999999", linewidth=0.8, linestyle=":")
        axes.annotate(
            event.text,
            (event.at, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, -2),
            textcoords="offset points",
            rotation=90,
            fontsize=7,
            color="#666666",
            verticalalignment="top",
        )
    axes.set_xlim(0, cluster.duration_s)
    axes.set_xlabel("s")
    axes.grid(alpha=0.25)


def _draw_sent(axes: Axes, figures: ProducerFigures, cluster: Cluster) -> None:
    times = _times(cluster)
    bucket_s = cluster.duration_s / BUCKETS
    touched = {event.group for event in cluster.events if event.event not in ("join", "leave")}
    brokers = figures.brokers
    named = brokers if len(brokers) <= _MOST_LINES else [b for b in brokers if b.name in touched][:_MOST_LINES]
    rest = [broker for broker in brokers if broker not in named]
    if rest:
        _draw_band(axes, rest, times, bucket_s)
    for index, broker in enumerate(named):
        values = [sent / bucket_s for sent in broker.sent_over_time]
        colour = _COLOURS[index % len(_COLOURS)]
        style = "-" if index < len(_COLOURS) else "--"
        axes.plot(times, values, label=broker.name, color=colour, linestyle=style, linewidth=1.4)
    _mark_events(axes, cluster)
    axes.set_ylabel("attempts/s to a group")
    axes.set_title(f"{figures.name}: sends per group", fontsize=10, loc="left")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_band(axes: Axes, brokers: list[BrokerFigures], times: list[float], bucket_s: float) -> None:
    columns = [sorted(broker.sent_over_time[index] / bucket_s for broker in brokers) for index in range(BUCKETS)]
    axes.fill_between(
        times,
        [percentile(column, 0.05) for column in columns],
        [percentile(column, 0.95) for column in columns],
        color="#9498a0",
        alpha=0.35,
        label=f"{len(brokers):,} others: p5-p95",
    )
    axes.plot(times, [percentile(column, 0.5) for column in columns], color="#555555", label="their p50")


def _scale(balancers: list[ProducerFigures]) -> tuple[float, float]:
    """One scale of ms for all, so that the pictures can be compared."""
    latencies = [latency for figures in balancers for bucket in figures.latencies_over_time for latency in bucket]
    return (min(latencies) / 4, max(latencies) * 2) if latencies else (0.1, 1.0)


def _draw_latency(axes: Axes, figures: ProducerFigures, cluster: Cluster) -> None:
    buckets = [sorted(bucket) for bucket in figures.latencies_over_time]
    for part, colour in zip(PERCENTILES, ("#4269d0", "#efb118", "#ff725c"), strict=True):
        values = [percentile(bucket, part) if bucket else float("nan") for bucket in buckets]
        axes.plot(_times(cluster), values, label=f"p{part * 100:g}", color=colour, linewidth=1.4)
    axes.set_yscale("log")
    _mark_events(axes, cluster)
    axes.set_ylabel("ms until stored, or given up")
    failed = f", {figures.failed:,} failed" if figures.failed else ""
    axes.set_title(f"{figures.name}: latency of sends{failed}", fontsize=10, loc="left")
    axes.legend(fontsize=7, loc="lower right", ncols=len(PERCENTILES))


def _bars(axes: Axes, strategies: list[ConsumerFigures], values: list[list[float]]) -> list[list[float]]:
    """Bars side by side for each change; their places."""
    width = 0.8 / max(len(strategies), 1)
    places: list[list[float]] = []
    for index, (figures, heights) in enumerate(zip(strategies, values, strict=True)):
        places.append([change + (index + 0.5) * width - 0.4 for change in range(len(heights))])
        bars = axes.bar(places[-1], heights, width, label=figures.name, color=_COLOURS[index % len(_COLOURS)])
        if len(heights) * len(strategies) <= 40:
            axes.bar_label(bars, fmt="{:,.3g}" if max(heights, default=0) < 100 else "{:,.0f}", fontsize=7)
    return places


def _label_changes(axes: Axes, strategies: list[ConsumerFigures], begin: int) -> None:
    changes = max((figures.changes for figures in strategies), key=len, default=[])[begin:]
    axes.set_xticks(range(len(changes)), [f"{change.at_s:g} s\n{change.what}" for change in changes], fontsize=7)
    axes.margins(y=0.15)
    axes.grid(alpha=0.25, axis="y")
    axes.legend(fontsize=7)


def _draw_moves(axes: Axes, group: str, strategies: list[ConsumerFigures]) -> None:
    values = [[float(change.moved) for change in figures.changes[1:]] for figures in strategies]
    places = _bars(axes, strategies, values)
    half = 0.4 / max(len(strategies), 1)
    for index, (figures, at) in enumerate(zip(strategies, places, strict=True)):
        least = [change.least_moves for change in figures.changes[1:]]
        label = "least for even shares" if index == 0 else ""
        axes.hlines(least, [x - half for x in at], [x + half for x in at], colors="black", linewidth=2, label=label)
    _label_changes(axes, strategies, 1)
    axes.set_ylabel("queues with another owner")
    axes.set_title(f"{group}: queues moved by each change", fontsize=10, loc="left")


def _draw_shares(axes: Axes, group: str, strategies: list[ConsumerFigures]) -> None:
    values = [[change.balance for change in figures.changes] for figures in strategies]
    _bars(axes, strategies, values)
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle=":")
    _label_changes(axes, strategies, 0)
    axes.set_ylabel("most queues of a member / mean")
    axes.set_title(f"{group}: balance after each change", fontsize=10, loc="left")
