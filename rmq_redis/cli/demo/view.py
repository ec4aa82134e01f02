"""How the demo looks: live progress at a terminal, plain lines elsewhere, a table or a JSON object at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..output import number, print_json
from .report import Result, Tally, percentile_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN_PERIOD_S = 1.0
"""One line per second is readable in a log."""
_LIVE_PERIOD_S = 0.1
"""Looks continuous to the eye."""
_RECENT_EVENTS = 1000
"""Half a second at the default rate: the median follows what happens now."""


class View:
    """With ``json``, stdout gets the result alone and everything else goes to stderr."""

    def __init__(self, json: bool) -> None:
        self._json = json
        self.console = Console(stderr=json, highlight=False, markup=False)

    def say(self, line: str) -> None:
        """A line, above the progress bars if they are there."""
        self.console.print(line, soft_wrap=True)

    @contextmanager
    def progress(self, tally: Tally) -> Iterator[None]:
        """Shows how the tally grows, while the context lasts."""
        ended = threading.Event()
        show = self._live if self.console.is_terminal else self._plain
        thread = threading.Thread(target=show, args=(tally, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _plain(self, tally: Tally, ended: threading.Event) -> None:
        over = False
        while not over:
            over = ended.wait(_PLAIN_PERIOD_S)
            p50 = percentile_ms(tally.e2e_ns[-_RECENT_EVENTS:], 50)
            counts = f"sent {tally.sent_for_sure:,} of {tally.events:,}, received {tally.received:,}"
            self.say(f"{counts}, end to end {p50:.1f} ms")

    def _live(self, tally: Tally, ended: threading.Event) -> None:
        columns = (
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>8}/s"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, auto_refresh=False, expand=True) as progress:
            bars = [
                (progress.add_task("sent", total=tally.events, rate="0"), lambda: tally.sent_for_sure),
                (progress.add_task("received", total=tally.events, rate="0"), lambda: tally.received),
            ]
            self._draw(progress, bars, ended)

    def _draw(
        self, progress: Progress, bars: Sequence[tuple[TaskID, Callable[[], int]]], ended: threading.Event
    ) -> None:
        began = time.monotonic()
        over = False
        while not over:
            over = ended.wait(_LIVE_PERIOD_S)
            for bar, count in bars:
                rate = number(count() / (time.monotonic() - began))
                progress.update(bar, completed=count(), rate=rate)
            progress.refresh()

    def show(self, result: Result, keys: str, rate: float) -> None:
        """The end. ``keys``: what the events are sharded by, as a plural."""
        if self._json:
            print_json(result.as_dict())
            return
        paced = f" (paced by --rate {rate:g})" if rate else ""
        good, bad = "green", "bold red"
        rows = [
            ("sent", f"{result.sent:,}", "" if result.sent == result.events else bad),
            ("received", f"{result.received:,}", good if result.received == result.events else bad),
            ("duplicates", f"{result.duplicates:,}", ""),
            (keys, f"{result.keys:,}", ""),
            (f"{keys} out of order", f"{result.keys_out_of_order:,}", bad if result.keys_out_of_order else good),
            ("throughput", f"{number(result.throughput_per_s)} events/s{paced}", ""),
            ("end to end, p50", f"{result.e2e_p50_ms:.2f} ms", ""),
            ("end to end, p99", f"{result.e2e_p99_ms:.2f} ms", ""),
        ]
        if result.repeated_sends:
            rows.insert(1, ("sent again", f"{result.repeated_sends:,}", ""))
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for label, text, style in rows:
            table.add_row(label, text, style=style)
        self.console.print()
        self.console.print(table)
        self.console.print()
        self.console.print(_queue_table(result))
        self.console.print()
        if result.ok:
            self.console.print(f"every event arrived, and the events of all {keys} were handled in order", style=good)
        elif result.received < result.events:
            self.console.print(f"{result.events - result.received:,} events did not arrive", style=bad)
        else:
            self.console.print(f"{result.keys_out_of_order:,} {keys} were handled out of order", style=bad)


def _queue_table(result: Result) -> Table:
    queue_ids = sorted({int(queue) for queues in result.messages_per_queue.values() for queue in queues})
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("messages")
    for queue_id in queue_ids:
        table.add_column(f"queue {queue_id}", justify="right")
    table.add_column("total", justify="right")
    for name, queues in result.messages_per_queue.items():
        counts = [f"{queues.get(str(queue_id), 0):,}" for queue_id in queue_ids]
        table.add_row(name, *counts, f"{result.messages_per_broker[name]:,}")
    return table
