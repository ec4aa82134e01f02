"""rmq-redis up: ready when it says so, no process left behind, data that stays."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest
from cli_support import CliProcess, alive, json_lines_of, json_of, result_of, run_cli, up, wait_until
from redis import Redis

from rmq_redis.store.embedded import EmbeddedServer, free_port


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_up_starts_the_requested_cluster_and_leaves_nothing_behind(tmp_path: Path, stop_signal: signal.Signals) -> None:
    with up(tmp_path, namesrvs=2, brokers=2, slaves=1) as cluster:
        namesrv_addr = cluster.wait_until_ready()

        processes = cluster.processes()
        assert set(processes) == {
            "store",
            "namesrv-1",
            "namesrv-2",
            *(f"broker-{letter} {role}" for letter in "ab" for role in ("master", "slave 1")),
        }
        assert namesrv_addr == ";".join(processes[f"namesrv-{number}"][0] for number in (1, 2))
        [guard] = set(cluster.descendants()) - {pid for _, pid in processes.values()}
        assert "child_guard" in " ".join(psutil.Process(guard).cmdline())
        for address in namesrv_addr.split(";"):
            route = json_of("topic", "route", "TBW102", "--namesrv", address)
            shown = {broker["broker_name"]: broker["addresses"] for broker in route["brokers"]}
            assert shown == {
                name: {"0": processes[f"{name} master"][0], "1": processes[f"{name} slave 1"][0]}
                for name in ("broker-a", "broker-b")
            }

        cluster.signal(stop_signal)
        assert cluster.wait() == 0
        wait_until(lambda: not alive(cluster.descendants()), "every process is gone")
        assert cluster.error_lines == []


def test_restart_after_kill_on_other_ports_keeps_the_data(tmp_path: Path) -> None:
    with up(tmp_path, slaves=1) as cluster:
        namesrv_addr = cluster.wait_until_ready()
        result_of("send", "survivors", "one", "-n", namesrv_addr)
        cluster.signal(signal.SIGKILL)
        with up(tmp_path, slaves=1) as second:  # at once: the first one's server may still be going
            namesrv_addr = second.wait_until_ready()
            assert not alive(cluster.descendants())
            assert consumed("survivors", 1, namesrv_addr) == ["one"]


def test_restart_after_kill_on_the_same_ports_waits_for_the_new_brokers(tmp_path: Path) -> None:
    ports = ["--namesrv-port", str(free_port()), "--broker-port", str(free_port())]
    numbers = ["--namesrvs", "1", "--brokers", "1", "--slaves", "0"]
    with CliProcess("up", *numbers, *ports, "--data-dir", str(tmp_path)) as cluster:
        namesrv_addr = cluster.wait_until_ready()
        result_of("send", "survivors", "one", "-n", namesrv_addr)
        first = cluster.processes()
        os.kill(cluster.pid_of("broker-a master"), signal.SIGSTOP)  # it cannot answer SIGTERM
        cluster.signal(signal.SIGKILL)
        with CliProcess("up", *numbers, *ports, "--data-dir", str(tmp_path)) as second:
            assert second.wait_until_ready() == namesrv_addr
            assert not alive(cluster.descendants())
            assert second.processes()["broker-a master"][0] == first["broker-a master"][0]
            result_of("send", "survivors", "two", "-n", namesrv_addr)
            assert sorted(consumed("survivors", 2, namesrv_addr)) == ["one", "two"]


def test_restart_after_kill_shows_no_broker_of_a_larger_cluster(tmp_path: Path) -> None:
    with up(tmp_path, brokers=2, slaves=1) as cluster:
        cluster.wait_until_ready()
        cluster.signal(signal.SIGKILL)
        with up(tmp_path) as second:
            namesrv_addr = second.wait_until_ready()
            [broker] = json_of("topic", "route", "TBW102", "--namesrv", namesrv_addr)["brokers"]
            assert broker["broker_name"] == "broker-a"
            assert broker["addresses"] == {"0": second.processes()["broker-a master"][0]}


def test_data_and_offsets_survive_a_restart(tmp_path: Path) -> None:
    with up(tmp_path) as cluster:
        namesrv_addr = cluster.wait_until_ready()
        result_of("topic", "create", "kept", "--queues", "1", "-n", namesrv_addr)
        result_of("send", "kept", stdin="one\ntwo\n", RMQ_REDIS_NAMESRV_ADDR=namesrv_addr)
        assert consumed("kept", 1, namesrv_addr) == ["one"]
        cluster.signal(signal.SIGTERM)
        assert cluster.wait() == 0
    with up(tmp_path) as cluster:
        namesrv_addr = cluster.wait_until_ready()
        assert json_of("topic", "list", "-n", namesrv_addr) == ["kept"]
        assert consumed("kept", 1, namesrv_addr) == ["two"]


def consumed(topic: str, most: int, namesrv_addr: str) -> list[str]:
    found = json_lines_of("consume", topic, "--max", str(most), "--timeout", "30", "-n", namesrv_addr)
    return [message["body"] for message in found]


def test_killed_broker_and_namesrv_are_restarted_on_the_same_ports(tmp_path: Path) -> None:
    with up(tmp_path) as cluster:
        namesrv_addr = cluster.wait_until_ready()
        for name in ("broker-a master", "namesrv-1"):
            address, pid = cluster.processes()[name]
            seen = len(cluster.lines)
            os.kill(pid, signal.SIGKILL)
            assert f"(pid {pid}) has ended (killed by SIGKILL)" in cluster.wait_for_line(name, after=seen)
            cluster.wait_for_line(f"{name} ", after=seen)
            wait_until(lambda name=name, pid=pid: cluster.pid_of(name) != pid, f"{name} runs again")
            assert cluster.processes()[name][0] == address
        wait_until(lambda: run_cli("send", "again", "x", "-n", namesrv_addr).returncode == 0, "it takes messages again")
        cluster.signal(signal.SIGTERM)
        assert cluster.wait() == 0


def test_second_cluster_on_one_data_directory_is_refused(tmp_path: Path) -> None:
    with up(tmp_path) as cluster:
        cluster.wait_until_ready()
        second = run_cli("up", "--namesrv-port", "0", "--broker-port", "0", "--data-dir", str(tmp_path))
        assert second.returncode == 2
        [line] = second.stderr.splitlines()
        assert f"(process {cluster.process.pid})" in line
        assert "--data-dir" in line
        assert cluster.process.poll() is None


def test_port_in_use_is_a_one_line_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        for option in ("--namesrv-port", "--broker-port"):
            other = "--broker-port" if option == "--namesrv-port" else "--namesrv-port"
            refused = run_cli("up", option, port, other, "0", "--data-dir", str(tmp_path))
            assert refused.returncode == 2
            [line] = refused.stderr.splitlines()
            assert line.startswith(f"error: port {port} on 127.0.0.1 is in use")
            assert option in line


def test_brokers_use_other_ports_if_the_default_ones_are_in_use(tmp_path: Path) -> None:
    usual = 10911
    try:
        listener: socket.socket | None = socket.create_server(("127.0.0.1", usual))
    except OSError:
        listener = None  # somebody else's: as good
    arguments = ["--namesrvs", "1", "--namesrv-port", "0", "--brokers", "1", "--slaves", "0", "--data-dir"]
    try:
        with CliProcess("up", *arguments, str(tmp_path)) as cluster:
            cluster.wait_until_ready()
            assert f"port {usual} is in use: broker-a master takes another" in cluster.lines
            assert cluster.processes()["broker-a master"][0] != f"127.0.0.1:{usual}"
    finally:
        if listener is not None:
            listener.close()


def test_start_failure_of_a_role_is_reported_with_its_own_error(tmp_path: Path) -> None:
    with up(tmp_path, "--store", f"redis://127.0.0.1:{free_port()}/0") as cluster:
        assert cluster.wait() == 1
        assert len(cluster.error_lines) == 1
        assert "did not start" in cluster.error_lines[0]
        assert not alive(cluster.descendants())


def test_no_process_has_a_password_in_its_arguments_or_log(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "store") as server, Redis.from_url(server.url) as client:
        client.config_set("requirepass", "s3cret-word")
        url = f"redis://:s3cret-word@127.0.0.1:{server.port}/0"
        with up(tmp_path / "data", RMQ_REDIS_STORE=url, slaves=1) as cluster:
            namesrv_addr = cluster.wait_until_ready()
            for pid in [cluster.process.pid, *cluster.descendants()]:
                assert "s3cret" not in " ".join(psutil.Process(pid).cmdline())
            result_of("send", "orders", "hello", "--namesrv", namesrv_addr)
            cluster.signal(signal.SIGTERM)
            assert cluster.wait() == 0
        assert "s3cret" not in "".join([*cluster.lines, *cluster.error_lines])
        for log in (tmp_path / "data" / "logs").iterdir():
            assert "s3cret" not in log.read_text()
