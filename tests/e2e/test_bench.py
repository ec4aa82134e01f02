"""``rmq-redis bench`` runs to its end and reports what it promises. What the figures are is nobody's business here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from cli_support import environment

FIGURES = (
    "send_acked_per_s",
    "send_batch_per_s",
    "send_sync_per_s",
    "consume_per_s",
    "consume_plain_per_s",
    "both_per_s",
    "send_acked_client_us",
    "send_acked_broker_us",
    "send_acked_redis_us",
    "send_p50_ms",
    "send_p99_ms",
    "e2e_p50_ms",
    "e2e_p99_ms",
    "limit_xadd_per_s",
    "limit_xrange_per_s",
    "send_acked_share",
    "send_batch_share",
    "consume_share",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rmq_redis", "bench", "--quick", *arguments]
    environ = environment(COLUMNS="80")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environ)
    assert done.returncode == 0, done.stderr
    return done


def test_benchmark_prints_one_json_object_with_every_figure() -> None:
    result = json.loads(run("--json").stdout)
    assert {name: result[name] > 0 for name in FIGURES} == dict.fromkeys(FIGURES, True)


def test_benchmark_table_and_phase_lines_fit_into_80_columns() -> None:
    done = run()
    for text in ("default settings", "in flight", "batches", "consumer", "end to end", "XADD", "XRANGE"):
        assert text in done.stdout
    for phase in ("the store alone", "AsyncProducer.send", "Producer.send", "coroutine handler", "plain function"):
        assert re.search(rf"^round 1 of 1: .*{phase}", done.stderr, re.MULTILINE)
    assert max(map(len, [*done.stdout.splitlines(), *done.stderr.splitlines()])) <= 80


def test_filter_benchmark_prints_a_figure_for_every_match_ratio() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "filters.py"
    command = [sys.executable, str(script), "--rounds", "1", "--count", "2000", "--bodies", "16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    for beginning in ("no filter ", "all ", "1 in 10 ", "1 in 1,000 ", "random bodies of 64 KB, compression "):
        [line] = [line for line in done.stdout.splitlines() if line.startswith(beginning)]
        assert re.search(r" [1-9][\d,]* ", line)
