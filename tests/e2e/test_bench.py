"""``rmq-redis bench`` runs to its end and reports what it promises. What the figures are is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys

FIGURES = (
    "send_acked_per_s",
    "send_batch_per_s",
    "consume_per_s",
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


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "rmq_redis", "bench", "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


def test_one_json_object_with_every_figure() -> None:
    result = json.loads(run("--json"))
    assert {name: result[name] > 0 for name in FIGURES} == dict.fromkeys(FIGURES, True)


def test_a_table_for_people() -> None:
    table = run()
    for text in ("acknowledged", "batches", "consumed", "end to end", "XADD", "XRANGE"):
        assert text in table
