"""The simulator: the same figures for the same seed, and what they must show."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rmq_redis.cli import app
from rmq_redis.config import ClientConfig
from rmq_redis.errors import ConfigError
from rmq_redis.simulator.scenario import Scenario, read_scenario
from rmq_redis.simulator.sends import simulate_sends
from rmq_redis.simulator.shares import simulate_shares

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples/simulation.toml"
SMALL = {
    "duration_s": 5.0,
    "brokers": [{"count": 3, "name": "fast", "capacity": 1000.0}, {"name": "slow", "latency_ms": 50.0}],
    "producers": {"count": 5, "rate": 400.0},
}


def scenario(tmp_path: Path, **changes: Any) -> Scenario:
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps(SMALL | changes))
    return read_scenario(path)


def test_a_seed_gives_one_report_and_leaves_random_alone(tmp_path: Path) -> None:
    described = scenario(tmp_path)
    state = random.getstate()
    first, second = (simulate_sends(described, "LATENCY_AWARE", ClientConfig()) for _ in range(2))
    assert random.getstate() == state
    assert first == second
    assert len(first.latencies_ms) == 2000
    assert first.per_broker.total() == 2000
    assert simulate_sends(scenario(tmp_path, seed=2), "LATENCY_AWARE", ClientConfig()) != first


def test_latency_aware_sends_less_to_the_slow_broker(tmp_path: Path) -> None:
    described = scenario(tmp_path)
    even, aware = (simulate_sends(described, name, ClientConfig()) for name in ("ROUND_ROBIN", "LATENCY_AWARE"))
    assert even.per_broker["slow-0"] == pytest.approx(500, abs=20)
    assert aware.per_broker["slow-0"] < 300
    assert aware.percentile_ms(0.9) < even.percentile_ms(0.9)
    assert even.imbalance == pytest.approx(1.0, abs=0.05)


def test_a_broker_that_is_down_costs_retries_and_no_message(tmp_path: Path) -> None:
    fault = {"broker": "fast-1", "from_s": 1.0, "to_s": 4.0, "down": True}
    report = simulate_sends(scenario(tmp_path, faults=[fault]), "ROUND_ROBIN", ClientConfig())
    assert report.failed == 0
    assert 5 <= report.retried < 60  # each producer notices, once in five seconds
    assert report.per_broker["fast-1"] < report.per_broker["fast-0"]
    alone = scenario(tmp_path, brokers=[{"name": "fast", "count": 2}], faults=[fault, fault | {"broker": "fast-0"}])
    assert simulate_sends(alone, "ROUND_ROBIN", ClientConfig()).failed > 500


def test_a_full_broker_answers_late_or_not_at_all(tmp_path: Path) -> None:
    report = simulate_sends(
        scenario(tmp_path, brokers=[{"capacity": 100.0}], retries=0, timeout_ms=500.0), "RANDOM", ClientConfig()
    )
    assert report.failed > 1000
    assert max(report.latencies_ms) <= 500.0


def test_keys_go_by_hash_and_zones_count(tmp_path: Path) -> None:
    one_key = scenario(tmp_path, producers={"count": 2, "rate": 100.0, "keys": 1})
    assert sorted(simulate_sends(one_key, "ROUND_ROBIN", ClientConfig()).per_broker.values())[-1] == 500
    zones = scenario(tmp_path, brokers=[{"name": "e", "zone": "east"}, {"name": "w", "zone": "west"}])
    report = simulate_sends(zones, "SAME_ZONE", ClientConfig(zone="west"))
    assert report.per_broker["e-0"] == 0


def test_shares_and_what_moves(tmp_path: Path) -> None:
    described = scenario(tmp_path, queues_per_broker=10, changes=[{"at_s": 1.0, "join": 1}, {"at_s": 2.0, "leave": 1}])
    reports = {name: simulate_shares(described, name, ClientConfig()) for name in ("AVG", "STICKY")}
    assert [(r.members, r.least, r.most, r.problem) for r in reports["AVG"]] == [
        (4, 10, 10, ""),
        (5, 8, 8, ""),
        (4, 10, 10, ""),
    ]
    assert [r.must_move for r in reports["AVG"]] == [0, 8, 8]
    sticky, even = (sum(report.moved or 0 for report in reports[name]) for name in ("STICKY", "AVG"))
    assert 16 <= sticky < even
    config = ClientConfig(allocate_queues="T:fast-0:0")
    assert simulate_shares(described, "CONFIG", config)[0].problem == "fast-0:0 has 4 owners"


def test_a_large_group_is_sampled(tmp_path: Path) -> None:
    described = scenario(tmp_path, brokers=[{"count": 1000}], queues_per_broker=8, consumers={"count": 900})
    (report,) = simulate_shares(described, "AVG", ClientConfig())
    assert (report.queues, report.members, report.problem) == (8000, 900, "")
    assert report.asked < 900
    assert (report.least, report.most) == (8, 9)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"brokers": []}, "0 broker groups"),
        ({"brokers": [{"count": 1001}]}, "1001 broker groups"),
        ({"producers": {"count": 10_001}}, "clients; up to 10000"),
        ({"brokers": [{"capacity": 0.0}]}, "capacity must be above 0"),
        ({"faults": [{"broker": "x", "from_s": 0.0, "to_s": 1.0}]}, "fault of broker 'x'"),
        ({"faults": [{"broker": "slow-0", "from_s": 1.0, "to_s": 1.0}]}, "from_s must be before to_s"),
        ({"changes": [{"at_s": 1.0, "leave": 4}]}, "0 consumers are left"),
        ({"sed": 1}, "unknown field `sed`"),
        ({"duration_s": 0.0}, "must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        scenario(tmp_path, **changes)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("seed = ")
    for name in ("bad.toml", "none.toml"):
        with pytest.raises(ConfigError, match=name):
            read_scenario(tmp_path / name)


def test_the_command_prints_and_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.png"
    options = ["--load-balancer", "RANDOM", "--allocate-strategy", "STICKY", "--plot", str(plot)]
    result = CliRunner().invoke(app, ["simulate", str(EXAMPLE), *options])
    assert result.exit_code == 0, result.output
    assert "RANDOM" in result.output
    assert "STICKY" in result.output
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_json_and_a_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SMALL))
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "s.json"), "--json", "--seed", "3"])
    found = json.loads(result.output)
    assert found["sends"][0]["stored"] == 2000
    assert found["shares"][0]["members"] == 4
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    failed = CliRunner().invoke(app, ["simulate", str(tmp_path / "s.json"), "--plot", str(tmp_path / "p.png")])
    assert isinstance(failed.exception, ConfigError)
    assert "rmq-redis[simulate]" in str(failed.exception)
