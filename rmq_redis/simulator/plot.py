"""The reports of a simulation as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from .scenario import Scenario
from .sends import SendReport
from .shares import ShareReport

_SLICES = 60


def write_png(
    path: Path, scenario: Scenario, sends: Sequence[SendReport], shares: Sequence[Sequence[ShareReport]]
) -> None:
    """Writes the plot.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--plot needs matplotlib: pip install 'rmq-redis[simulate]'") from None
    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    latency, balance, size, moved = figure.subplots(2, 2).flat
    width = scenario.duration_s / _SLICES
    for report in sends:
        slices: dict[int, list[float]] = {}
        for ended_s, latency_ms in zip(report.ended_s, report.latencies_ms, strict=True):
            slices.setdefault(int(ended_s / width), []).append(latency_ms)
        times = sorted(index for index, values in slices.items() if index < _SLICES)
        tails = [sorted(slices[index])[int(0.99 * (len(slices[index]) - 1))] for index in times]
        latency.plot([index * width for index in times], tails, label=report.load_balancer)
        balance.plot(
            range(1, len(report.per_broker) + 1),
            sorted(report.per_broker.values(), reverse=True),
            ".-",
            label=report.load_balancer,
        )
    latency.set(title="99 % of the sends take at most", xlabel="time (s)", ylabel="ms", yscale="log")
    balance.set(title="messages per broker group", xlabel="broker groups, the busiest first", ylabel="messages")
    balance.set_ylim(bottom=0)
    for index, reports in enumerate(shares):
        name = reports[0].allocate_strategy
        times_s = [report.at_s for report in reports] + [scenario.duration_s]
        low = [report.least for report in reports] + [reports[-1].least]
        high = [report.most for report in reports] + [reports[-1].most]
        size.fill_between(times_s, low, high, step="post", alpha=0.35, label=name, color=f"C{index}")
        size.step(times_s, high, where="post", color=f"C{index}")
        size.step(times_s, low, where="post", color=f"C{index}")
        offset = (index - (len(shares) - 1) / 2) * 0.8 / len(shares)
        changes = reports[1:]
        moved.bar(
            [position + offset for position in range(len(changes))],
            [report.moved or 0 for report in changes],
            0.8 / len(shares),
            label=name,
        )
    size.set(title="queues of a consumer, fewest to most", xlabel="time (s)", ylabel="queues")
    size.set_ylim(bottom=0)
    first = shares[0][1:] if shares else []
    moved.set(title="queues that move at a change (line: that must)", ylabel="queues")
    moved.set_xticks(range(len(first)), [f"{report.at_s:g} s\n{report.members} members" for report in first])
    moved.plot(range(len(first)), [report.must_move for report in first], "k_", markersize=30)
    for axes in (latency, balance, size, moved):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    try:
        figure.savefig(path, dpi=100, format="png")
    except OSError as error:
        raise ConfigError(f"--plot: {error}") from None
