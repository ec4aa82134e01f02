"""``rmq-redis run`` and the examples of applications, as processes against a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import DEADLINE_S, CliProcess, alive, environment, run_cli, up, wait_until

from rmq_redis import Admin, Message, Producer
from rmq_redis.store.embedded import EmbeddedServer

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
APP = """
import json, os, time
from rmq_redis import App

app = App("run-test")

def note(**what):
    with open(os.environ["NOTES"], "a") as out:
        out.write(json.dumps({"pid": os.getpid(), **what}) + "\\n")

@app.on_startup
async def begin():
    note(event="startup")

@app.on_shutdown
def end():
    note(event="shutdown")

@app.consumer("run-test", consume_from_where="CONSUME_FROM_FIRST_OFFSET", await_termination_s=60.0)
def handle(message):
    note(event="began", body=message.text())
    while os.path.exists(os.environ["NOTES"] + ".hold"):
        time.sleep(0.01)
    note(event="handled", body=message.text())
"""


@pytest.fixture(scope="module")
def namesrv_addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with up(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster.wait_until_ready()


class Running:
    """``rmq-redis run`` of ``APP`` in a directory of its own."""

    def __init__(self, directory: Path, namesrv_addr: str, *options: str) -> None:
        self.notes_path = directory / "notes"
        self.hold = directory / "notes.hold"
        (directory / "shop.py").write_text(APP)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rmq_redis", "run", "shop:app", "--namesrv", namesrv_addr, *options],
            cwd=directory,
            env=environment(NOTES=str(self.notes_path), PYTHONPATH=os.pathsep.join(sys.path)),
            stdout=subprocess.DEVNULL,
        )

    def notes(self, event: str) -> list[dict[str, object]]:
        text = self.notes_path.read_text() if self.notes_path.exists() else ""
        return [note for note in map(json.loads, text.splitlines()) if note["event"] == event]

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)


def send(namesrv_addr: str, *bodies: str) -> None:
    with Producer("run-test-producer", namesrv_addr) as producer:
        for body in bodies:
            producer.send(Message("run-test", body))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_waits_for_the_handler_commits_and_unregisters(
    tmp_path: Path, namesrv_addr: str, number: signal.Signals
) -> None:
    with Running(tmp_path, namesrv_addr) as running:
        wait_until(lambda: running.notes("startup"), "it runs")
        running.hold.touch()
        send(namesrv_addr, f"body-{number}")
        wait_until(lambda: running.notes("began"), "the handler runs")
        running.process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(0.5)
        assert running.notes("handled") == []
        running.hold.unlink()
        assert running.process.wait(DEADLINE_S) == 0
        assert len(running.notes("handled")) == len(running.notes("shutdown")) == 1
        with Admin(namesrv_addr) as admin:
            progress = admin.consume_stats("run-test", "run-test").values()
            assert [offset for offset in progress if offset.broker_offset != offset.consumer_offset] == []


def test_second_signal_forces_the_exit(tmp_path: Path, namesrv_addr: str) -> None:
    with Running(tmp_path, namesrv_addr) as running:
        wait_until(lambda: running.notes("startup"), "it runs")
        running.hold.touch()
        send(namesrv_addr, "never")
        wait_until(lambda: running.notes("began"), "the handler runs")
        running.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(0.5)
        running.process.terminate()
        assert running.process.wait(DEADLINE_S) == 130
        assert running.notes("handled") == []


def test_workers_share_the_messages_and_stop_together(tmp_path: Path, namesrv_addr: str) -> None:
    with Running(tmp_path, namesrv_addr, "--workers", "2") as running:
        wait_until(lambda: len(running.notes("startup")) == 2, "both run")
        pids = {int(str(note["pid"])) for note in running.notes("startup")}

        def both_handle() -> bool:
            send(namesrv_addr, *(f"w{n}" for n in range(8)))
            return {note["pid"] for note in running.notes("handled")} == pids

        wait_until(both_handle, "both workers handle messages")
        running.process.terminate()
        assert running.process.wait(DEADLINE_S) == 0
        assert len(running.notes("shutdown")) == 2
        assert alive(pids) == []


def test_killed_worker_ends_all_workers(tmp_path: Path, namesrv_addr: str) -> None:
    with Running(tmp_path, namesrv_addr, "--workers", "2") as running:
        wait_until(lambda: len(running.notes("startup")) == 2, "both run")
        os.kill(int(str(running.notes("startup")[0]["pid"])), signal.SIGKILL)
        assert running.process.wait(DEADLINE_S) != 0
        assert len(running.notes("shutdown")) == 1


def test_invalid_target_is_a_one_line_error() -> None:
    done = run_cli("run", "no_such_module_at_all:app")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no module 'no_such_module_at_all' in ")
    assert len(done.stderr.splitlines()) == 1


def test_application_examples_run(namesrv_addr: str, embedded_server: EmbeddedServer) -> None:
    with CliProcess("run", "examples.app:app", RMQ_REDIS_NAMESRV_ADDR=namesrv_addr) as app:
        app.wait_for_line("order 7: 19.99 EUR")
        app.signal(signal.SIGTERM)
        assert app.wait() == 0
    done = subprocess.run(
        [sys.executable, EXAMPLES / "idempotent.py"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment(RMQ_REDIS_NAMESRV_ADDR=namesrv_addr, REDIS_URL=embedded_server.url),
        check=True,
    )
    assert sorted(done.stdout.splitlines()) == ["billed order-7", "delivered order-7", "delivered order-7"]
