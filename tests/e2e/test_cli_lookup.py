"""message and offset: finding messages and moving groups, through processes."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cli_support import CliProcess, json_lines_of, json_of, result_of, run_cli, up, wait_until

from rmq_redis import Admin, Message, Producer
from rmq_redis.protocol.ids import UniqKeyGenerator


@pytest.fixture(scope="module")
def namesrv_addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with up(tmp_path_factory.mktemp("cluster"), brokers=2) as cluster:
        yield cluster.wait_until_ready()


@pytest.fixture
def env(namesrv_addr: str) -> dict[str, str]:
    return {"RMQ_REDIS_NAMESRV_ADDR": namesrv_addr}


@pytest.fixture
def topic(env: dict[str, str]) -> str:
    name = f"t{uuid.uuid4().hex[:10]}"
    result_of("topic", "create", name, "--queues", "1", **env)
    return name


def send(topic: str, body: str, env: dict[str, str], *labels: str) -> dict[str, Any]:
    sent: dict[str, Any] = json_of("send", topic, body, *labels, **env)
    return sent


def test_message_is_shown_by_either_id_and_by_queue_and_offset(topic: str, env: dict[str, str]) -> None:
    send(topic, "before", env, "--sharding-key", "k")
    sent = send(topic, "grüße", env, "--sharding-key", "k", "--tags", "TagA", "--keys", "order-7", "--property", "a=b")
    for arguments in (
        ("show", sent["msg_id"], "-t", topic),
        ("show", sent["offset_msg_id"], "-t", topic),
        ("show", sent["offset_msg_id"]),
        ("at", topic, sent["broker_name"], str(sent["queue_id"]), str(sent["queue_offset"])),
    ):
        found = json_of("message", *arguments, **env)
        for name in ("topic", "broker_name", "queue_id", "queue_offset", "msg_id", "offset_msg_id"):
            assert found[name] == sent[name]
        assert (found["body"], found["tags"], found["keys"]) == ("grüße", "TagA", "order-7")
    lines = result_of("message", *arguments, **env).splitlines()
    assert lines[-2:] == ["body, 7 bytes:", "grüße"]
    assert {f"msg_id: {sent['msg_id']}", "property a: b", "property TAGS: TagA"} <= set(lines)


@pytest.mark.parametrize("shift_s", [-3 * 3600, 3 * 3600], ids=["behind", "ahead"])
def test_message_of_a_producer_with_a_wrong_clock_is_found(
    topic: str, env: dict[str, str], namesrv_addr: str, shift_s: int
) -> None:
    """By CLI and SDK, in a topic, and in the retry topic and the dead letters of a group."""
    keys = UniqKeyGenerator(b"\x0a\x00\x00\x07", 1, uuid.uuid4().bytes[:4])
    group = f"g{uuid.uuid4().hex[:10]}"
    with Producer("lookup-clock", namesrv_addr) as producer, Admin(namesrv_addr) as admin:
        for name in (topic, f"%RETRY%{group}", f"%DLQ%{group}"):
            admin.create_topic(name, queue_nums=1)
            key = keys.next(int(time.time() * 1000) + shift_s * 1000)
            sent = producer.send(Message(name, "found", keys="order-9", properties={"UNIQ_KEY": key}))
            assert sent.msg_id == key
            assert json_of("message", "show", key, "-t", name, **env)["body"] == "found"
            [queried] = json_lines_of("message", "query", name, "--key", "order-9", **env)
            assert queried["msg_id"] == key
            assert admin.view_message(key, name).text() == "found"
            assert [message.text() for message in admin.query_by_unique_key(name, key)] == ["found"]


def test_binary_body_is_shown_in_hex(topic: str, env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "binary"
    file.write_bytes(b"\xff\x00\xfe" + b"x" * 300 + b"\n")
    result_of("send", topic, "--file", str(file), "--sharding-key", "k", **env)
    [queue] = [queue for queue in json_of("topic", "show", topic, **env)["queues"] if queue["messages"]]
    out = result_of("message", "at", topic, queue["broker_name"], "0", "0", **env)
    assert "00000000  ff 00 fe 78 78" in out
    assert out.endswith("... 47 more bytes; --json prints all as base64\n")


def test_missing_message_is_reported(topic: str, env: dict[str, str]) -> None:
    sent = send(topic, "x", env, "--sharding-key", "k")
    other = sent["msg_id"][:-1] + ("0" if sent["msg_id"][-1] != "0" else "1")
    for arguments, text in (
        (("show", other, "-t", topic), f"no message of '{topic}' has the id '{other}'"),
        (
            ("at", topic, sent["broker_name"], "0", "99"),
            f"queue 0 of {topic} on {sent['broker_name']} has no message at offset 99; it has 0 to 0",
        ),
        (("at", topic, "broker-x", "0", "0"), "is not on broker 'broker-x' but on broker-a, broker-b"),
    ):
        done = run_cli("message", *arguments, **env)
        assert done.returncode == 1
        assert text in done.stderr
    nothing = run_cli("message", "query", topic, "--key", "none", **env)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr == f"no message of topic {topic!r} has the key 'none'\n"


def test_malformed_id_is_a_usage_error(env: dict[str, str]) -> None:
    done = run_cli("message", "show", "nonsense", **env)
    assert done.returncode == 2
    assert "offset message id" in " ".join(done.stderr.replace("│", " ").split())


def test_msg_id_without_its_topic_is_an_error_that_asks_for_it(topic: str, env: dict[str, str]) -> None:
    done = run_cli("message", "show", send(topic, "x", env)["msg_id"], **env)
    assert done.returncode in (1, 2)  # it may look like a broker's id, of an address where no broker is
    assert "give the topic, too: -t TOPIC" in " ".join(done.stderr.replace("│", " ").split())


def test_messages_are_found_by_key_and_time_range(topic: str, env: dict[str, str]) -> None:
    for number in range(3):
        send(topic, f"old {number}", env, "--keys", f"order-7 part-{number}")
    [last] = json_lines_of("message", "query", topic, "--key", "part-2", **env)
    wait_until(lambda: time.time() * 1000 > last["store_timestamp_ms"] + 1000, "the clock goes on")
    middle = datetime.now(UTC).isoformat()
    send(topic, "new", env, "--keys", "order-7")
    send(topic, "other", env, "--keys", "order-70")

    def bodies(*options: str) -> list[str]:
        return [found["body"] for found in json_lines_of("message", "query", topic, "-k", "order-7", *options, **env)]

    assert bodies() == ["old 0", "old 1", "old 2", "new"]
    assert bodies("--begin", middle) == ["new"]
    assert bodies("--end", middle) == ["old 0", "old 1", "old 2"]
    assert bodies("--max", "2") == ["old 2", "new"]


def test_group_without_members_is_reset(topic: str, env: dict[str, str]) -> None:
    def read(most: int) -> list[str]:
        return result_of("consume", topic, "-g", topic, "--max", str(most), "--timeout", "30", **env).splitlines()

    for body in ("1", "2", "3"):
        sent = send(topic, body, env, "--sharding-key", "k")
    assert read(2) == ["1", "2"]
    [row] = [row for row in json_of("offset", "show", topic, "-t", topic, **env) if row["max_offset"]]
    assert (row["committed_offset"], row["max_offset"], row["lag"]) == (2, 3, 1)
    assert row["last_consumed_timestamp_ms"] > 0
    done = run_cli("offset", "show", topic, **env)
    assert done.stderr == f"lag of {topic}: 1 messages\n"
    assert "committed" in done.stdout
    moved = json_of("offset", "reset", topic, topic, "--to", "first", "--yes", **env)
    assert {row["offset"] for row in moved} == {0}
    assert read(3) == ["1", "2", "3"]
    moved = json_of("offset", "reset", topic, topic, "--to", str(sent_ms(sent, topic, env)), "--yes", **env)
    assert [row["offset"] for row in moved if row["broker_name"] == sent["broker_name"]] == [2]
    assert read(1) == ["3"]
    json_of("offset", "reset", topic, topic, "--to", "first", "--yes", **env)
    would = json_of("offset", "reset", topic, topic, "--to", "last", "--dry-run", **env)
    assert sum(row["offset"] for row in would) == 3
    would = json_of("offset", "reset", topic, topic, "--to", "last", "--dry-run", "--only-back", **env)
    assert sum(row["offset"] for row in would) == 0
    [row] = [row for row in json_of("offset", "show", topic, "--topic", topic, **env) if row["max_offset"]]
    assert row["lag"] == 3
    assert "new offset" in result_of("offset", "reset", topic, topic, "--to", "last", "--yes", **env)
    send(topic, "4", env, "--sharding-key", "k")
    assert read(1) == ["4"]
    back = json_of("offset", "reset", topic, topic, "--to", "last", "--only-back", "--yes", **env)
    assert sum(row["offset"] for row in back) == 4
    wrong = run_cli("offset", "reset", topic, topic, "--to", "yesterday", "--yes", **env)
    assert (wrong.returncode, "'yesterday' is not a time" in wrong.stderr) == (2, True)
    unknown = run_cli("offset", "reset", "nobody", topic, "--to", "first", "--yes", **env)
    assert (unknown.returncode, "'nobody' does not exist" in unknown.stderr) == (1, True)


def sent_ms(sent: dict[str, Any], topic: str, env: dict[str, str]) -> int:
    found = json_of("message", "show", sent["offset_msg_id"], "-t", topic, **env)
    time_ms: int = found["store_timestamp_ms"]
    return time_ms


def test_group_with_a_consuming_member_is_reset_back_and_forth(topic: str, env: dict[str, str]) -> None:
    bodies = [str(number) for number in range(20)]
    result_of("send", topic, "--sharding-key", "k", stdin="\n".join(bodies) + "\n", **env)
    with (
        Admin(env["RMQ_REDIS_NAMESRV_ADDR"]) as admin,
        CliProcess("consume", topic, "-g", topic, **env) as consumer,
    ):

        def committed() -> int:
            return sum(offset.consumer_offset for offset in admin.consume_stats(topic, topic).values())

        wait_until(lambda: consumer.lines == bodies, "all of it once")
        wait_until(lambda: committed() == 20, "it is committed")
        result_of("offset", "reset", topic, topic, "--to", "first", "--yes", **env)
        wait_until(lambda: consumer.lines == bodies * 2, "all of it again")
        wait_until(lambda: committed() == 20, "it is committed again")
        result_of("offset", "reset", topic, topic, "--to", "last", "--yes", **env)
        send(topic, "new", env, "--sharding-key", "k")
        consumer.wait_for_line("new")
        assert consumer.lines == [*bodies * 2, "new"]


def test_reset_survives_a_broker_restart_and_moves_a_stopped_member(tmp_path: Path) -> None:
    bodies = [str(number) for number in range(20)]
    with up(tmp_path) as cluster:
        env = {"RMQ_REDIS_NAMESRV_ADDR": cluster.wait_until_ready()}
        result_of("topic", "create", "far", "--queues", "1", **env)
        result_of("send", "far", "--sharding-key", "k", stdin="\n".join(bodies) + "\n", **env)
        with CliProcess("consume", "far", "-g", "readers", **env) as consumer:
            wait_until(lambda: consumer.lines == bodies, "all of it once")
            consumer.signal(signal.SIGSTOP)  # it cannot hear of the reset, and commits what it read when it goes on
            result_of("offset", "reset", "readers", "far", "--to", "first", "--yes", **env)
            pid = cluster.pid_of("broker-a master")
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: cluster.pid_of("broker-a master") != pid, "the broker runs again")
            consumer.signal(signal.SIGCONT)
            wait_until(lambda: consumer.lines == bodies * 2, "all of it again")
