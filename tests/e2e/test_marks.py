"""``marks.py``, ``compare.py`` and ``curves.py`` of benchmarks/ measure what they name. The figures are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_support import environment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment()).stdout


def test_every_row_has_a_name_and_a_description() -> None:
    rows = dict(line.split(maxsplit=1) for line in run("marks.py", "--list").splitlines())
    assert {"sends", "sync-one", "push-orderly", "both-p99", "pop-sync", "connections", "memory"} <= set(rows)


def test_chosen_rows_are_measured_and_compared_with_targets(tmp_path: Path) -> None:
    names = ["sends", "sync-async", "push-tag", "pop-async", "transactions", "request-reply", "connections", "memory"]
    output = run("marks.py", "--quick", "--rows", ",".join(names), "--json", str(tmp_path / "marks.json"))
    for name in names:
        [line] = [line for line in output.splitlines() if line.startswith(f"{name} ")]
        assert " pass " in line or " FAIL " in line
    rows = json.loads((tmp_path / "marks.json").read_text())["rows"]
    assert [row["row"] for row in rows if row["value"] > 0] == names
    sends = rows[0]["figures"]
    assert sends["client_us"] > 0
    assert sends["broker_us"] > 0


def test_systems_are_compared_in_one_table(tmp_path: Path) -> None:
    names = ["ours", "redis-py, batches of 100"]
    short = ["--rounds", "1", "--seconds", "0.3", "--count", "2000", "--paced", "50"]
    output = run("compare.py", "--peers", ";".join(names), *short, "--json", str(tmp_path / "figures.json"))
    result = json.loads((tmp_path / "figures.json").read_text())
    for name in ["XADD alone", *names]:
        assert f"| {name} |" in output
        assert result[name]["produce/s"] > 0
    assert result["ours"]["e2e p50 ms"] > 0
    assert result["ours"]["sequential p50 ms"] > 0


def test_curves_are_measured_at_several_points() -> None:
    output = run("curves.py", "--quick", "--curves", "queues,groups")
    for title in ("sends/s, by queues", "consumed/s in all, by groups"):
        [line] = [line for line in output.splitlines() if title in line]
        assert " 1: " in line


def test_plots_are_svg_and_replace_their_part_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pages  # type: ignore[import-not-found]

    rates = {"A & B": {"produce": 10.0}, "C": {"produce": 5.0, "consume": 20.0}}
    for svg in (pages.bars(rates, {"produce": "sent", "consume": "had"}), pages.curves({"x < y": {1: 2.0, 100: 4.0}})):
        assert ElementTree.fromstring(svg).tag.endswith("svg")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- t: begin -->\nold\n<!-- t: end -->\nafter\n")
    pages.write_part("t", "new", page)
    assert page.read_text() == "before\n<!-- t: begin -->\nnew\n<!-- t: end -->\nafter\n"
    with pytest.raises(ValueError, match="no part"):
        pages.write_part("other", "new", page)
