"""``benchmarks/marks.py`` measures and judges its rows. The figures themselves are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cli_support import environment

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "marks.py"


def run(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment()).stdout


def test_every_row_has_a_name_and_what_it_measures() -> None:
    rows = dict(line.split(maxsplit=1) for line in run("--list").splitlines())
    assert {"sends", "sync-one", "push-orderly", "both-p99", "pop-sync", "connections", "memory"} <= set(rows)


def test_chosen_rows_are_measured_and_judged(tmp_path: Path) -> None:
    names = ["sends", "sync-async", "push-tag", "pop-async", "transactions", "request-reply", "connections", "memory"]
    output = run("--quick", "--rows", ",".join(names), "--json", str(tmp_path / "marks.json"))
    for name in names:
        [line] = [line for line in output.splitlines() if line.startswith(f"{name} ")]
        assert " pass " in line or " FAIL " in line
    rows = json.loads((tmp_path / "marks.json").read_text())["rows"]
    assert [row["row"] for row in rows if row["value"] > 0] == names
    sends = rows[0]["figures"]
    assert sends["client_us"] > 0
    assert sends["broker_us"] > 0
