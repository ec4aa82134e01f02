"""What the demo concludes from its workers' reports, and how it shows that."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rmq_redis.cli.demo.report import Result, Tally, check_file, percentile_ms
from rmq_redis.cli.demo.view import View
from rmq_redis.errors import ConfigError

MS = 1_000_000


def handled(line: int, key: str, seq: int, at_ms: int, queue: str = "broker-a", queue_id: int = 0) -> list[Any]:
    """A consumer's report of one event that was sent a millisecond before it was handled."""
    return [line, key, seq, queue, queue_id, at_ms * MS, (at_ms - 1) * MS]


def tally_of(*reports: list[Any], events: int | None = None) -> Tally:
    tally = Tally(len(reports) if events is None else events)
    tally.producer_said({"sent": tally.events, "repeated": 0, "first_ns": 0})
    for report in reports:
        tally.consumer_said({"handled": [report]})
    return tally


def test_events_in_order_are_ok() -> None:
    result = tally_of(
        handled(1, "a", 1, 1), handled(2, "b", 1, 2, "broker-b", 3), handled(3, "a", 2, 3), handled(4, "b", 2, 2000)
    ).result()
    assert result.ok
    assert (result.received, result.duplicates, result.keys, result.keys_out_of_order) == (4, 0, 2, 0)
    assert result.messages_per_queue == {"broker-a": {"0": 3}, "broker-b": {"3": 1}}
    assert result.messages_per_broker == {"broker-a": 3, "broker-b": 1}
    assert (result.seconds, result.throughput_per_s) == (2.0, 2.0)
    assert (result.e2e_p50_ms, result.e2e_p99_ms) == (1.0, 1.0)


def test_order_is_that_of_handling_not_of_reporting() -> None:
    later_told_first = tally_of(handled(2, "a", 2, 20), handled(1, "a", 1, 10)).result()
    assert later_told_first.ok
    handled_backwards = tally_of(handled(1, "a", 1, 20), handled(2, "a", 2, 10), handled(3, "b", 1, 1)).result()
    assert not handled_backwards.ok
    assert handled_backwards.keys_out_of_order == 1


def test_duplicates_are_counted_but_not_out_of_order() -> None:
    result = tally_of(handled(1, "a", 1, 1), handled(2, "a", 2, 2), handled(1, "a", 1, 3), events=2).result()
    assert result.ok
    assert (result.received, result.duplicates, result.keys_out_of_order) == (2, 1, 0)
    assert result.messages_per_broker == {"broker-a": 2}


def test_missing_event_is_not_ok() -> None:
    tally = tally_of(handled(1, "a", 1, 1), events=2)
    assert not tally.complete
    assert not tally.result().ok


def test_run_without_events_has_a_result() -> None:
    result = Tally(5).result()
    assert not result.ok
    assert (result.seconds, result.throughput_per_s, result.e2e_p50_ms) == (0.0, 0.0, 0.0)


def test_percentiles_are_taken_from_the_nearest_rank() -> None:
    values = [number * MS for number in range(1, 101)]
    assert [percentile_ms(values, percent) for percent in (1, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile_ms([7 * MS], 99) == 7.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"k": 1}\n{"k": \n', "line 2: not JSON"),
        ('{"k": 1}\n\n{"other": 1, "x": 2}\n', "line 3: no field 'k' (its fields are other, x)"),
        ('{"k": null}', "line 1: no field 'k'"),
        ("[1]", "it is no object"),
        ("\n\n", "has no events"),
    ],
)
def test_invalid_file_error_names_the_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "events"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_file(path, "k")


def test_empty_lines_of_a_file_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text('{"k": 0}\n\n{"k": "b"}')
    assert check_file(path, "k") == 2


def shown(result: Result, width: int) -> str:
    view = View(json=False)
    view.console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    view.show(result, "orders", 2000)
    return view.console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_table_fits_the_terminal_and_shows_the_result(width: int) -> None:
    reports = [handled(n, "a", n, n, f"broker-{'ab'[n % 2]}", n % 4) for n in range(1, 2001)]
    good, bad = shown(tally_of(*reports).result(), width), shown(tally_of(*reports, events=2003).result(), width)
    assert all(len(line) <= width for line in good.splitlines())
    assert "every event arrived, and the events of all orders were handled in order" in " ".join(good.split())
    assert "3 events did not arrive" in bad
    disorder = shown(tally_of(handled(1, "a", 2, 1), handled(2, "a", 1, 2)).result(), width)
    assert "1 orders were handled out of order" in disorder


def test_json_goes_to_stdout_and_everything_else_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    view = View(json=True)
    tally = tally_of(handled(1, "a", 1, 1))
    view.say("a line")
    with view.progress(tally):
        pass
    view.show(tally.result(), "orders", 0)
    out, error = capsys.readouterr()
    assert json.loads(out)["ok"] is True
    assert error.splitlines() == ["a line", "sent 1 of 1, received 1, end to end 1.0 ms"]
