"""rmq-redis demo: everything arrives, in order, whatever happens to one NameServer."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cli_support import CliProcess, alive, run_cli, wait_until


def result(demo: CliProcess) -> dict[str, Any]:
    """The JSON object that it ends with; it must succeed and leave nothing behind."""
    demo.descendants()
    code = demo.wait()
    assert code == 0, (demo.lines, demo.error_lines)
    wait_until(lambda: not alive(demo.descendants()), "every process is gone")
    found: dict[str, Any] = json.loads(demo.lines[-1])
    return found


def assert_complete(found: dict[str, Any], events: int, keys: int) -> None:
    assert found["ok"] is True
    assert (found["events"], found["sent"], found["received"]) == (events, events, events)
    assert (found["keys"], found["keys_out_of_order"]) == (keys, 0)
    assert sum(found["messages_per_broker"].values()) == events
    assert set(found["messages_per_broker"]) == {"broker-a", "broker-b"}
    for name, queues in found["messages_per_queue"].items():
        assert sum(queues.values()) == found["messages_per_broker"][name]
    assert 0 < found["e2e_p50_ms"] <= found["e2e_p99_ms"]


def test_demo_handles_all_events_in_order_and_prints_a_table() -> None:
    with CliProcess("demo", "--rate", "0") as demo:
        demo.wait_until_ready()
        demo.descendants()
        assert demo.wait() == 0, (demo.lines, demo.error_lines)
        rows = dict(line.rsplit(maxsplit=1) for line in demo.lines if len(line.split()) > 1)
        assert rows["sent"] == rows["received"] == "9,820"
        assert rows["orders"] == "2,000"
        assert rows["orders out of order"] == "0"
        assert demo.lines[-1] == "every event arrived, and the events of all orders were handled in order"
        wait_until(lambda: not alive(demo.descendants()), "every process is gone")


@pytest.mark.parametrize("number", [1, 2])
def test_demo_succeeds_when_a_namesrv_is_killed_meanwhile(number: int) -> None:
    with CliProcess("demo", "--json", "--rate", "4000") as demo:
        wait_until(lambda: any(line.startswith("producer") for line in demo.error_lines), "the producer runs")
        wait_until(lambda: any(line.startswith("sent") for line in demo.error_lines), "messages are on their way")
        os.kill(pid_of(demo, f"namesrv-{number}"), signal.SIGKILL)
        assert_complete(result(demo), 9820, 2000)
        assert any("has ended (killed by SIGKILL); the others continue" in line for line in demo.error_lines)


def test_demo_succeeds_when_a_namesrv_is_killed_before_sending(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text("".join(f'{{"order_id": "o{number % 10}"}}\n' for number in range(100)))
    with CliProcess("demo", "--json", "--file", str(events), "--pause-after-ready") as demo:
        wait_until(lambda: any(line.startswith("ready") for line in demo.error_lines), "the cluster is ready")
        os.kill(pid_of(demo, "namesrv-1"), signal.SIGKILL)
        assert demo.process.stdin is not None
        demo.process.stdin.write("go on\n")
        demo.process.stdin.flush()
        assert_complete(result(demo), 100, 10)


def pid_of(demo: CliProcess, name: str) -> int:
    line = next(line for line in demo.error_lines if line.startswith(name))
    return int(line.split()[-1])


def test_events_of_a_given_file_are_checked_by_line_number(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    rows = [json.dumps({"customer": f"k{number % 37}", "seq": -number, "n": number}) for number in range(500)]
    events.write_text("\n\n".join(rows))
    with CliProcess("demo", "--json", "--rate", "0", "--file", str(events), "--key-field", "customer") as demo:
        assert_complete(result(demo), 500, 37)


def test_invalid_file_is_a_one_line_error(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text('{"customer": "a"}\n{"client": "b"}\n')
    refused = run_cli("demo", "--file", str(events), "--key-field", "customer")
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert line.startswith(f"error: {events}, line 2: no field 'customer' (its fields are client)")


def test_demo_stopped_early_leaves_nothing_behind() -> None:
    with CliProcess("demo", "--rate", "100") as demo:
        demo.wait_for_line("producer")
        demo.signal(signal.SIGINT)
        assert demo.wait() == 1
        wait_until(lambda: not alive(demo.descendants()), "every process is gone")
