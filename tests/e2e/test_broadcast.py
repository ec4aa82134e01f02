"""Broadcasting members as processes: each gets everything, also what came while it was away, killed or stopped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import DEADLINE_S, environment, up, wait_until

from rmq_redis import Admin, Message, Producer

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "broadcast.py"
MEMBER = """
import sys
from rmq_redis import PushConsumer

namesrv, name, offsets, path = sys.argv[1:]
consumer = PushConsumer("broadcast-group", namesrv, message_model="BROADCASTING", instance_name=name,
    offset_store_path=offsets, persist_consumer_offset_interval_s=0.1)

@consumer.handler("broadcast")
def handle(message):
    with open(path, "a") as out:
        out.write(message.text() + chr(10))

consumer.start()
print("started", flush=True)
consumer.run_forever()
"""


@pytest.fixture(scope="module")
def namesrv_addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with up(tmp_path_factory.mktemp("cluster"), brokers=2) as cluster:
        yield cluster.wait_until_ready()


class Member:
    def __init__(self, namesrv_addr: str, name: str, directory: Path) -> None:
        self._path = directory / name
        self.offsets = directory / "offsets"
        self._command = [sys.executable, "-c", MEMBER, namesrv_addr, name, str(self.offsets), str(self._path)]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, env=environment())
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"

    def end(self, *, kill: bool) -> None:
        if self.process is None:
            return
        if kill:
            self.process.kill()
        else:
            self.process.send_signal(2)
        code = self.process.wait(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        assert kill or code == 0

    @property
    def got(self) -> list[str]:
        return self._path.read_text().splitlines() if self._path.exists() else []


def test_each_member_gets_everything_and_resumes_after_restart(tmp_path: Path, namesrv_addr: str) -> None:
    with Admin(namesrv_addr) as admin:
        admin.create_topic("broadcast")
        admin.wait_for_route("broadcast")
    stopped, killed = (Member(namesrv_addr, name, tmp_path) for name in ("stopped", "killed"))
    everything: set[str] = set()
    try:
        with Producer("broadcast-producer", namesrv_addr) as producer:

            def send(first: int) -> None:
                for number in range(first, first + 40):
                    producer.send(Message("broadcast", str(number)))
                    everything.add(str(number))

            stopped.start()
            killed.start()
            send(0)
            wait_until(lambda: set(stopped.got) == set(killed.got) == everything, "both get everything")
            stopped.end(kill=False)
            killed.end(kill=True)
            send(100)
            stopped.start()
            killed.start()
            send(200)
            wait_until(lambda: set(stopped.got) == set(killed.got) == everything, "nothing is lost over the restart")
            assert len(stopped.got) == len(everything), "one that stopped in order gets nothing twice"
            stopped.end(kill=False)
            for path in tmp_path.glob("offsets/*@stopped/broadcast-group/offsets.json"):
                path.write_bytes(b"damaged")
            stopped.start()
            send(300)
            wait_until(lambda: set(stopped.got) == set(killed.got) == everything, "nothing is lost with the file")
    finally:
        stopped.end(kill=True)
        killed.end(kill=True)


def test_example_runs(namesrv_addr: str) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, EXAMPLE],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env=environment(RMQ_REDIS_NAMESRV_ADDR=namesrv_addr),
            check=True,
        )
        assert sorted(done.stdout.splitlines()) == [
            "member-1: colour=blue",
            "member-1: colour=red",
            "member-2: colour=blue",
            "member-2: colour=red",
        ]
