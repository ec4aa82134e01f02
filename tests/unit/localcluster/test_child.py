"""Processes that we start: their first words, their log, their end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rmq_redis.errors import ConfigError
from rmq_redis.localcluster.addresses import own_address, port_is_free
from rmq_redis.localcluster.child import Child, ChildError, has_ended
from rmq_redis.localcluster.cluster import Cluster, ClusterSpec, Role
from rmq_redis.runtime import Stopped, serve, stop_signals, unless_stopped
from rmq_redis.store.embedded import free_port


@pytest.fixture
async def child(tmp_path: Path) -> AsyncIterator[Child]:
    started = Child("child", tmp_path / "logs" / "child.log")
    yield started
    await started.stop(0.0)


async def test_start_failure_is_reported_with_the_childs_own_error(child: Child) -> None:
    await child.start("rmq_redis", "broker")
    with pytest.raises(ChildError, match="child did not start: a broker needs a store"):
        await child.listening_port()
    assert "exit code 2: a broker needs a store" in child.ended_how()
    assert not child.running


async def test_killed_child_reports_its_signal(child: Child) -> None:
    await child.start("http.server", "0", "--bind", "127.0.0.1")
    assert child.running
    assert child.ended_how() == "runs"
    assert not has_ended(child.pid)
    child.kill()
    assert await child.wait() == -signal.SIGKILL
    assert child.ended_how() == "killed by SIGKILL"
    assert has_ended(child.pid)


async def test_child_that_ignores_sigterm_is_killed(child: Child, tmp_path: Path) -> None:
    program = tmp_path / "stubborn_program.py"
    program.write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)\n"
    )
    environment, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH", ""), str(tmp_path)
    try:
        await child.start("stubborn_program")
    finally:
        os.environ["PYTHONPATH"] = environment
    assert await child.stdout.readline() == b"up\n"
    assert await child.stop(0.05) is False
    assert child.ended_how() == "killed by SIGKILL"


def test_log_is_read_line_by_line_and_only_once(tmp_path: Path) -> None:
    child = Child("child", tmp_path / "log")
    assert child.new_log_lines() == []
    assert "its log says nothing" in child.last_words()
    (tmp_path / "log").write_text("one\ntwo\nthr")
    assert child.new_log_lines() == ["one", "two"]
    with (tmp_path / "log").open("a") as log:
        log.write("ee\n\n")
    assert child.new_log_lines() == ["three", ""]
    assert child.last_words() == "three"


async def test_port_in_use_is_detected(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert not port_is_free("127.0.0.1", port)
    cluster = Cluster(ClusterSpec(data_dir=tmp_path, namesrv_port=port))
    with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use"):
        await cluster.start()
    server.close()
    await server.wait_closed()
    assert port_is_free("127.0.0.1", free_port())


def test_advertised_address_is_never_the_wildcard(tmp_path: Path) -> None:
    assert own_address() not in ("", "0.0.0.0")
    cluster = Cluster(ClusterSpec(data_dir=tmp_path, host="0.0.0.0", advertised_host="10.1.2.3"))
    assert cluster._role("namesrv", "namesrv-1", [], 9876).address == "10.1.2.3:9876"


async def test_stopped_work_is_cancelled_and_cleaned_up() -> None:
    stop, tidied = asyncio.Event(), []

    async def work() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            tidied.append(True)

    asyncio.get_running_loop().call_soon(stop.set)
    with pytest.raises(Stopped):
        await unless_stopped(stop, work())
    assert tidied == [True]


async def test_finished_work_returns_its_result_or_raises() -> None:
    async def divide(by: int) -> int:
        return 6 // by

    assert await unless_stopped(asyncio.Event(), divide(2)) == 3
    with pytest.raises(ZeroDivisionError):
        await unless_stopped(asyncio.Event(), divide(0))


async def test_second_signal_calls_its_callback() -> None:
    hurry = asyncio.Event()
    with stop_signals(on_second=hurry.set) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        assert not hurry.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        await hurry.wait()


class FakeServer:
    port = 4711

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def close(self) -> None:
        self.calls.append("close")


async def test_serve_returns_0_on_a_signal(capsys: pytest.CaptureFixture[str]) -> None:
    server = FakeServer()
    asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGTERM)
    assert await serve(server, lambda: "namesrv", "127.0.0.1") == 0
    assert server.calls == ["start", "close"]
    assert capsys.readouterr().out == f"namesrv listening on 127.0.0.1:4711 pid {os.getpid()}\n"


class RecordedRole(Role):
    """A role that keeps what it would have been started with."""

    started: tuple[str, ...] = ()

    async def start(self, *arguments: str) -> None:
        self.started = arguments

    async def listening_port(self, timeout_s: float = 0.0) -> int:
        return self.port


async def test_broker_uses_no_port_of_another_for_its_vip_channel(tmp_path: Path) -> None:
    roles = [
        RecordedRole("broker", f"broker {port}", tmp_path / str(port), [], "127.0.0.1", port)
        for port in (10911, 10912, 10913, 0)
    ]
    for role in roles:
        await role.launch(roles)
    switched_off = [role.port for role in roles if "--fast-listen-port" in role.started]
    assert switched_off == [10913]  # 10911 is the first one's


@pytest.mark.parametrize("broker_port_is_fixed", [False, True])
async def test_port_taken_after_the_check_is_replaced_or_reported(
    broker_port_is_fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        answers = [True]  # free at the check, then taken by the listener
        monkeypatch.setattr(
            "rmq_redis.localcluster.cluster.port_is_free",
            lambda host, port: answers.pop() if answers else port_is_free(host, port),
        )
        spec = ClusterSpec(
            data_dir=tmp_path,
            namesrvs=1,
            brokers=1,
            slaves=0,
            broker_port=taken if broker_port_is_fixed else None,
            default_broker_port=taken,
        )
        cluster = Cluster(spec, lines.append)
        try:
            if broker_port_is_fixed:
                with pytest.raises(ConfigError, match=rf"port {taken} on .* is in use; .* --broker-port"):
                    await cluster.start()
                return
            await cluster.start()
            assert f"port {taken} is in use: broker-a master takes another" in lines
            assert cluster.brokers[0].port not in (0, taken)
        finally:
            await cluster.stop()
