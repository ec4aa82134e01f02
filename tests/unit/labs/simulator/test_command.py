"""``rmq-redis simulate``: one result for a seed, in every process; scenarios that cannot be; the picture."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from rmq_redis.cli import create_app
from rmq_redis.errors import ConfigError
from rmq_redis.labs.simulator import cluster as described
from rmq_redis.labs.simulator.cluster import default_cluster, load_cluster
from rmq_redis.labs.simulator.report import as_json, describe, simulate, tables
from rmq_redis.plugins import create_plugin_manager

app = create_app()

ROOT = Path(__file__).parents[4]
EXAMPLE = ROOT / "examples/simulation.toml"
SMALL = ["--duration", "5", "--rate", "300", "--producers", "5", "--consumers", "6"]


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["simulate", *arguments])
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_seed_gives_the_same_result_in_every_process() -> None:
    names = "ROUND_ROBIN,RANDOM,HASH,CONSISTENT_HASH,LATENCY_FAULT_TOLERANT,LATENCY_AWARE,SAME_ZONE,WEIGHTED"
    shares = "AVG,AVG_BY_CIRCLE,CONSISTENT_HASH,MACHINE_ROOM_NEARBY,STICKY"
    arguments = [*SMALL, "--json", "--sharding-keys", "10", "--load-balancer", names, "--allocate-strategy", shares]
    here = command(*arguments)
    assert command(*arguments, "--seed", "1") == here
    there = subprocess.run(
        [sys.executable, "-m", "rmq_redis", "simulate", *arguments],
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        text=True,
        timeout=300,
    )
    assert there.stdout == here
    assert command(*arguments, "--seed", "2") != here
    found = json.loads(here)
    assert [row["name"] for row in found["load_balancers"]] == names.split(",")
    assert [row["name"] for row in found["allocate_strategies"]] == shares.split(",")
    assert {row["problem"] for row in found["load_balancers"]} == {""}
    assert {change["problem"] for row in found["allocate_strategies"] for change in row["changes"]} == {""}
    assert len({row["sends"] for row in found["load_balancers"]}) == 1
    for row in found["load_balancers"]:
        assert sum(group["stored"] for group in row["groups"]) == row["sends"] - row["failed"]
        assert sum(part["sends"] for part in row["over_time"]) == row["sends"]
        assert row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"] <= row["max_ms"]


def test_table_has_a_row_for_each_strategy() -> None:
    shown = command(*SMALL, "--load-balancer", "round-robin;random", "--load-balancer", "hash", "--quiet")
    rows = [line.split() for line in shown.splitlines() if line.startswith(("round-robin", "random", "hash"))]
    assert [row[0] for row in rows] == ["round-robin", "random", "hash"] * 2  # sends, then latencies
    assert all(row[2] == "0" for row in rows[:3])  # nothing fails in a quiet cluster
    assert shown.startswith(
        "4 groups with 16 queues, 5 producers with 300 messages/s (8% of the capacity), 6 consumers"
    )


def test_example_runs() -> None:
    found = json.loads(command("--scenario", str(EXAMPLE), "--load-balancer", "SAME_ZONE", "--json"))
    (same_zone,) = found["load_balancers"]
    assert same_zone["sends"] > 70_000
    assert same_zone["other_zone"] < same_zone["sends"] / 50
    assert {row["name"] for row in found["allocate_strategies"]} == {
        "AVG",
        "CONSISTENT_HASH",
        "STICKY",
        "STICKY_EVEN",
    }
    assert [change["at_s"] for change in found["allocate_strategies"][0]["changes"]] == [0, 15, 25, 45, 50]


def test_failing_strategy_of_a_file_is_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "from rmq_redis import hookimpl\n\n\n"
        "def broken(*arguments):\n    raise LookupError('not [today]')\n\n\n"
        "@hookimpl\ndef register_queue_selectors():\n    return {'BROKEN': lambda: broken}\n\n\n"
        "@hookimpl\ndef register_allocate_strategies():\n    return {'BROKEN': broken}\n"
    )
    names = ["--load-balancer", "broken", "--allocate-strategy", "broken"]
    found = subprocess.run(
        [sys.executable, "-m", "rmq_redis", "simulate", "--plugin", str(tmp_path / "broken.py"), *SMALL, *names],
        capture_output=True,
        check=False,
        env=os.environ | {"COLUMNS": "300"},
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout.count("raised LookupError: not [today]") == 1 + 5  # the sends, and each change


def test_unknown_strategy_error_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean LATENCY_AWARE"):
        command(*SMALL, "--load-balancer", "latency-awar")
    with pytest.raises(ConfigError, match="did you mean STICKY"):
        command(*SMALL, "--allocate-strategy", "stiky")


def test_scenario_excludes_options_of_the_cluster() -> None:
    with pytest.raises(ConfigError, match="without --brokers, --quiet"):
        command("--scenario", str(EXAMPLE), "--brokers", "3", "--quiet")
    with pytest.raises(ConfigError, match="event leave at 25: it is not within duration_s=20"):
        command("--scenario", str(EXAMPLE), "--duration", "20")
    with pytest.raises(ConfigError, match="nothing to simulate"):
        command("--producers", "0", "--consumers", "0")
    with pytest.raises(ConfigError, match="6,000,000 sends are more than 5,000,000"):
        command("--rate", "100000", "--duration", "60")


GROUPS = [{"name": "a"}, {"name": "b"}]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"groups": []}, "no group with a queue"),
        ({"groups": [{"name": "a", "queues": 0}]}, "no group with a queue"),
        ({"groups": [{"name": "a"}, {"name": "a"}]}, "two groups have the name a"),
        ({"groups": [{"name": "a", "capacity": 0}]}, "group a: number, capacity"),
        ({"groups": [{"name": "a", "spread": -1}]}, "group a: queues and spread"),
        ({"groups": [{"name": "a", "weight": -1}]}, "weight=-1"),
        ({"groups": [{"name": "a", "capcity": 1}]}, "unknown field `capcity`"),
        ({"duration_s": 0}, "duration_s=0"),
        ({"client": {"colour": "red"}}, "client has unknown settings: colour"),
        ({"client": {"send_timeout_s": "long"}}, "client: Expected `float`"),
        ({"producers": [{"rate": -1}]}, "producers: number, rate and keys"),
        ({"consumers": [{"number": -1}]}, "consumers: number"),
        ({"events": [{"at": 1, "event": "explode", "group": "a"}]}, "explode"),
        ({"events": [{"at": 99, "event": "slow", "group": "a"}]}, "not within duration_s=60"),
        ({"events": [{"at": 1, "event": "slow", "group": "x"}]}, "event slow at 1: there is no group 'x'"),
        ({"events": [{"at": 1, "event": "join", "group": "a"}]}, "event join at 1: there is no group 'a'"),
        ({"events": [{"at": 1, "event": "slow", "group": "a", "factor": 0}]}, "factor and number"),
        (
            {"events": [{"at": 1, "event": "remove", "group": "a"}, {"at": 2, "event": "remove", "group": "a"}]},
            "event remove at 2: a is not there",
        ),
        (
            {"events": [{"at": 1, "event": "add", "group": "a"}, {"at": 2, "event": "add", "group": "a"}]},
            "event add at 2: a is there",
        ),
    ],
)
def test_invalid_scenario_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps({"groups": GROUPS} | changes))
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        load_cluster(path)
    assert str(path) in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("seed = ")
    (tmp_path / "latin.toml").write_bytes(b"topic = '\xe9'")
    for name in ("bad.toml", "latin.toml", "none.toml"):
        with pytest.raises(ConfigError, match=name):
            load_cluster(tmp_path / name)


@pytest.mark.parametrize(("brokers", "queues", "duration_s"), [(0, 4, 1.0), (1, 0, 1.0), (1, 1, 0.0)])
def test_invalid_default_clusters_are_refused(brokers: int, queues: int, duration_s: float) -> None:
    with pytest.raises(ConfigError):
        default_cluster(brokers, queues, duration_s=duration_s)


def test_small_clusters_are_simulated() -> None:
    manager = create_plugin_manager()
    for brokers, clients in ((1, 1), (2, 2), (3, 1)):
        small = default_cluster(brokers, 1, clients, clients, duration_s=3.0, rate=50.0, zones=0)
        report = simulate(small, ["LATENCY_AWARE"], ["STICKY"], manager)
        shown = tables(report)
        assert [title for title, _, _ in shown[:2]] == ["", ""]
        assert shown[-1][0] == "all changes"
        assert all({len(row) for row in rows} == {len(columns)} for _, columns, rows in shown)
        assert as_json(report)["load_balancers"][0]["problem"] == ""


def test_every_field_of_a_scenario_is_documented() -> None:
    page = (ROOT / "docs/simulator.md").read_text()
    for kind in (described.Cluster, described.Group, described.Producers, described.Consumers, described.Event):
        missing = [field.name for field in msgspec.structs.fields(kind) if f"`{field.name}`" not in page]
        assert missing == [], kind


def test_plot_is_written_as_png_and_svg(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.png"
    shown = command(*SMALL, "--plot", str(plot), "--brokers", "14")
    assert "LATENCY_AWARE" in shown
    assert plot.read_bytes().startswith(b"\x89PNG")
    command(*SMALL, "--plot", str(plot.with_suffix(".svg")), "--producers", "0")
    assert "queues moved by each change" in plot.with_suffix(".svg").read_text()
    with pytest.raises(ConfigError, match="must end in"):
        command(*SMALL, "--plot", str(tmp_path / "plot.txt"))
    with pytest.raises(ConfigError, match="there is no directory"):
        command(*SMALL, "--plot", str(tmp_path / "none/plot.png"))


def test_plot_without_matplotlib_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'rmq-redis[simulate]'")):
        command(*SMALL, "--plot", str(tmp_path / "p.png"))


def test_tables_fit_into_80_columns_with_the_longest_names() -> None:
    larger = default_cluster(30, 32, 500, 300, duration_s=0.5, rate=1_000.0)
    report = simulate(larger, ["LATENCY_FAULT_TOLERANT"], ["MACHINE_ROOM_NEARBY"], create_plugin_manager())
    assert describe(report)
    for title, columns, rows in tables(report):
        cells = [[column.removeprefix("<") for column in columns], *rows]
        assert sum(max(map(len, column)) + 2 for column in zip(*cells, strict=True)) <= 80
        assert len(title) <= 80
