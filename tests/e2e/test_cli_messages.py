"""send, consume, topic and the examples, against one cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cli_support import DEADLINE_S, CliProcess, environment, json_lines_of, json_of, result_of, run_cli, up, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def namesrv_addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with up(tmp_path_factory.mktemp("cluster"), brokers=2) as cluster:
        yield cluster.wait_until_ready()


@pytest.fixture
def env(namesrv_addr: str) -> dict[str, str]:
    return {"RMQ_REDIS_NAMESRV_ADDR": namesrv_addr}


@pytest.fixture
def topic() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


def test_message_with_all_attributes_is_consumed_unchanged(topic: str, env: dict[str, str]) -> None:
    labels = ["--tags", "TagA", "--keys", "k1 k2", "--property", "a=b=c", "--property", "d="]
    sent = json_of("send", topic, "grüße", "--sharding-key", "shard", *labels, **env)
    assert sent["status"] == "SEND_OK"
    [got] = json_lines_of("consume", topic, "--max", "1", "--timeout", "30", **env)
    for name in ("topic", "broker_name", "queue_id", "queue_offset", "msg_id", "offset_msg_id"):
        assert got[name] == sent[name]
    assert (got["body"], got["tags"], got["keys"]) == ("grüße", "TagA", "k1 k2")
    assert got["properties"]["a"] == "b=c"


def test_lines_are_sent_as_messages_and_keep_the_order_of_their_key(
    topic: str, env: dict[str, str], tmp_path: Path
) -> None:
    lines = [f"line {number}" for number in range(200)]
    file = tmp_path / "lines"
    file.write_text("\n".join(lines) + "\n\n")
    done = run_cli("send", topic, "--file", str(file), "--sharding-key", "one", **env)
    assert done.returncode == 0
    assert done.stdout.startswith("sent 200 messages")
    assert done.stderr == "skipped 1 empty lines\n"
    out = result_of("consume", topic, "--max", "200", "--timeout", "30", **env)
    assert out.splitlines() == lines


def test_standard_input_without_a_key_is_spread_over_the_queues(topic: str, env: dict[str, str]) -> None:
    result_of("topic", "create", topic, "--queues", "2", **env)
    result_of("send", topic, stdin="".join(f"{number}\n" for number in range(40)), **env)
    shown = json_of("topic", "show", topic, **env)
    assert shown["messages"] == 40
    assert [(queue["broker_name"], queue["queue_id"], queue["messages"]) for queue in shown["queues"]] == [
        ("broker-a", 0, 10),
        ("broker-a", 1, 10),
        ("broker-b", 0, 10),
        ("broker-b", 1, 10),
    ]


def test_consume_commits_what_it_printed_and_resumes_there(topic: str, env: dict[str, str]) -> None:
    result_of("send", topic, "--sharding-key", "k", stdin="1\n2\n3\n4\n", **env)
    parts = [result_of("consume", topic, "-g", topic, "--max", "2", "--timeout", "30", **env) for _ in range(2)]
    assert parts == ["1\n2\n", "3\n4\n"]
    nothing = run_cli("consume", topic, "-g", topic, "--max", "1", "--timeout", "0.5", **env)
    assert (nothing.returncode, nothing.stdout) == (1, "")


def test_consume_filters_by_tags_and_shows_queues(topic: str, env: dict[str, str]) -> None:
    for tag in ("A", "B", "C"):
        result_of("send", topic, f"body {tag}", "--tags", tag, "--sharding-key", "k", **env)
    out = result_of("consume", topic, "--tags", "A || C", "--max", "2", "--timeout", "30", "-v", **env)
    assert [line.split(" ", 1)[1] for line in out.splitlines()] == ["A: body A", "C: body C"]


def test_consume_filters_by_a_condition_on_properties(topic: str, env: dict[str, str]) -> None:
    for price in ("5", "50", "none", "500"):
        labels = ["--property", f"price={price}"] if price != "none" else []
        result_of("send", topic, f"costs {price}", "--sharding-key", "k", *labels, **env)
    out = result_of("consume", topic, "--filter", "price > 9", "--max", "2", "--timeout", "30", **env)
    assert out == "costs 50\ncosts 500\n"
    wrong = run_cli("consume", topic, "--filter", "price >", "--max", "1", **env)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: SUBSCRIPTION_PARSE_FAILED (23)")
    assert "the expression ends too early at character 8" in wrong.stderr
    both = run_cli("consume", topic, "--filter", "price > 9", "--tags", "A", **env)
    assert both.returncode == 2


def test_consume_starts_at_the_first_or_next_message_or_at_a_time(topic: str, env: dict[str, str]) -> None:
    def read(group: str, where: str, most: int) -> list[str]:
        arguments = ["-g", group + topic, "--from", where, "--max", str(most), "--timeout", "30"]
        return result_of("consume", topic, *arguments, **env).splitlines()

    for body in ("1", "2"):
        result_of("send", topic, body, "--sharding-key", "k", **env)
    [old] = json_lines_of("consume", topic, "-g", f"look{topic}", "--max", "1", "--timeout", "30", **env)
    wait_until(lambda: time.time() * 1000 > old["store_timestamp_ms"] + 1000, "the clock goes on")
    middle = datetime.now(UTC)
    for body in ("3", "4"):
        result_of("send", topic, body, "--sharding-key", "k", **env)
    assert read("first", "first", 4) == ["1", "2", "3", "4"]
    assert read("iso", middle.isoformat(), 2) == ["3", "4"]
    assert read("ms", str(int(middle.timestamp() * 1000)), 2) == ["3", "4"]
    with CliProcess("consume", topic, "-g", "last" + topic, "--from", "last", **env) as consumer:
        wait_until(lambda: result_of("send", topic, "next", **env) and consumer.lines, "it reads what comes next")
        assert set(consumer.lines) == {"next"}
    wrong = run_cli("consume", topic, "--from", "yesterday", **env)
    assert (wrong.returncode, "'yesterday' is not a time" in wrong.stderr) == (2, True)


def test_removing_queues_with_messages_needs_force(topic: str, env: dict[str, str]) -> None:
    result_of("topic", "create", topic, "--queues", "6", **env)
    assert json_of("topic", "create", topic, **env)["queues"] == 6
    lines = "".join(f"{number}\n" for number in range(24))  # round robin: some in each queue
    result_of("send", topic, stdin=lines, **env)
    for command in ("create", "update"):
        done = run_cli("topic", command, topic, "--queues", "2", **env)
        assert (done.returncode, "give --force" in done.stderr) == (1, True)
    assert json_of("topic", "show", topic, **env)["messages"] == 24
    result_of("topic", "update", topic, "--queues", "2", "--force", **env)
    assert json_of("topic", "show", topic, **env)["messages"] == 8


def test_send_reads_a_pipe_line_by_line_until_ctrl_c(topic: str, env: dict[str, str]) -> None:
    with CliProcess("send", topic, "--json", **env) as sender:
        stdin = sender.process.stdin
        assert stdin is not None
        for number in range(1, 4):  # the pipe stays open: no line may wait for the next one
            stdin.write(f"line {number}\n")
            stdin.flush()
            wait_until(lambda sent=number: len(sender.lines) == sent, f"line {number} is sent")
        sender.signal(signal.SIGINT)
        assert sender.wait() == 130
        assert sender.error_lines == ["stopped after line 3: the lines after it were not sent"]
    assert len(json_lines_of("consume", topic, "--max", "3", "--timeout", "30", **env)) == 3


def test_consume_waits_for_a_topic_and_prints_until_ctrl_c(topic: str, env: dict[str, str]) -> None:
    with CliProcess("consume", topic, **env) as consumer:
        wait_until(lambda: consumer.error_lines, "it says that it waits")
        assert consumer.error_lines == [f"topic {topic!r} does not exist yet; waiting for it"]
        for body in ("first", "second"):
            result_of("send", topic, body, **env)
            consumer.wait_for_line(body)
        consumer.signal(signal.SIGINT)
        assert consumer.wait() == 0


def test_closed_pipe_ends_consume_quietly(topic: str, env: dict[str, str]) -> None:
    result_of("send", topic, stdin="x\n" * 100, **env)
    command = f"{sys.executable} -m rmq_redis consume {topic} | head -n 1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=DEADLINE_S, env=environment(**env), check=False
    )
    assert (done.stdout, done.stderr) == ("x\n", "")


@pytest.mark.parametrize("without_uvloop", [False, True])
def test_pipe_closed_after_the_last_message_ends_consume_quietly(
    topic: str, env: dict[str, str], tmp_path: Path, without_uvloop: bool
) -> None:
    result_of("send", topic, "only", **env)
    if without_uvloop:
        (tmp_path / "uvloop.py").write_text("raise ImportError")
    consumer = subprocess.Popen(
        [sys.executable, "-m", "rmq_redis", "consume", topic],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]), **env),
    )
    assert consumer.stdout is not None
    assert consumer.stderr is not None
    with consumer:
        try:
            assert consumer.stdout.readline() == b"only\n"
            consumer.stdout.close()  # no further message comes that could show it
            assert consumer.wait(DEADLINE_S) == 0
            assert consumer.stderr.read() == b""
        finally:
            consumer.kill()


def test_binary_body_is_shown_as_base64(topic: str, env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "binary"
    file.write_bytes(b"\xff\x00\xfe\n")
    result_of("send", topic, "--file", str(file), **env)
    [got] = json_lines_of("consume", topic, "--max", "1", "--timeout", "30", **env)
    assert got["body_base64"] == "/wD+"
    assert "body" not in got


def test_topics_are_created_shown_changed_and_deleted(topic: str, env: dict[str, str]) -> None:
    created = json_of("topic", "create", topic, "--queues", "3", "--perm", "r", **env)
    assert len(created["brokers"]) == 2
    assert topic in json_of("topic", "list", **env)
    assert "TBW102" not in json_of("topic", "list", **env)
    assert "TBW102" in json_of("topic", "list", "--all", **env)
    route = json_of("topic", "route", topic, **env)
    assert [
        (broker["broker_name"], broker["read_queue_nums"], broker["write_queue_nums"], broker["perm"])
        for broker in route["brokers"]
    ] == [("broker-a", 3, 3, "r"), ("broker-b", 3, 3, "r")]
    assert "broker-a" in result_of("topic", "route", topic, **env)
    assert "min offset" in result_of("topic", "show", topic, **env)
    assert run_cli("send", topic, "x", **env).returncode == 1
    assert run_cli("topic", "delete", topic, stdin="y\n", **env).returncode == 2
    assert "would be deleted with 0 messages" in result_of("topic", "delete", topic, "--dry-run", **env)
    assert result_of("topic", "delete", topic, "--yes", **env) == f"topic {topic}: deleted\n"
    assert topic not in json_of("topic", "list", **env)
    gone = run_cli("topic", "show", topic, **env)
    assert gone.returncode == 1
    assert gone.stderr.startswith(f"error: no NameServer knows a route of topic {topic!r}")


def test_examples_print_what_they_document(env: dict[str, str]) -> None:
    def run_example(name: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, EXAMPLES / name],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env=environment(**env),
            check=True,
        )
        return done.stdout.splitlines()

    assert len(run_example("producer.py")) == 3
    assert sorted(run_example("sql_filter.py")) == ["berlin 120", "berlin 80"]
    steps: dict[str, list[str]] = {}
    for line in run_example("ordered_events.py"):
        order, step = line.split()
        steps.setdefault(order, []).append(step)
    assert steps == {f"order-{number}": ["created", "paid", "shipped"] for number in (1, 2, 3)}
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "consumer.py"], stdout=subprocess.PIPE, text=True, env=environment(**env)
    ) as consumer:
        try:
            assert consumer.stdout is not None
            lines = sorted(consumer.stdout.readline() for _ in range(3))
            assert [line.split(" (")[0] for line in lines] == ["hello 0", "hello 1", "hello 2"]
            consumer.send_signal(signal.SIGINT)
            assert consumer.wait(DEADLINE_S) == 0
        finally:
            consumer.kill()


def test_json_output_of_send_is_one_object_per_line(topic: str, env: dict[str, str]) -> None:
    out = result_of("send", topic, "--json", "--sharding-key", "k", stdin="a\nb\n", **env)
    assert [json.loads(line)["queue_offset"] for line in out.splitlines()] == [0, 1]


def test_retention_is_set_shown_and_applied(topic: str, env: dict[str, str]) -> None:
    result_of("topic", "create", topic, "--queues", "1", "--retention-time", "7d", "--retention-count", "100", **env)
    result_of("send", topic, stdin="".join(f"{number}\n" for number in range(700)), **env)

    def shown() -> Any:
        return json_of("topic", "show", topic, **env)

    found = wait_until(lambda: (s := shown())["messages"] == 200 and s, "100 messages are left in each broker group")
    assert found["attributes"] == {"reserve.time": "7d", "reserve.count": "100"}
    assert all(queue["min_offset"] == queue["max_offset"] - 100 for queue in found["queues"])
    assert found["store_bytes"] == sum(queue["store_bytes"] for queue in found["queues"]) > 200 * 50
    result_of("topic", "update", topic, "--retention-count", "10", "--perm", "r", **env)
    found = wait_until(lambda: (s := shown())["messages"] == 20 and s, "10 messages are left in each broker group")
    assert found["attributes"] == {"reserve.time": "7d", "reserve.count": "10"}
    assert "attributes: reserve.count=10, reserve.time=7d" in result_of("topic", "show", topic, **env)
    wrong = run_cli("topic", "update", topic, "--retention-time", "soon", **env)
    assert wrong.returncode != 0
    assert "reserve.time='soon'" in wrong.stderr
