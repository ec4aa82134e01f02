"""compose.yaml without a container engine: its commands run as they stand, with ports and directories of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from cli_support import wait_until

from rmq_redis.errors import ConfigError
from rmq_redis.store.embedded import find_server_binary, free_port

FILE = Path(__file__).parents[2] / "compose.yaml"
SERVICE_KEYS = {
    "build",
    "command",
    "depends_on",
    "entrypoint",
    "environment",
    "healthcheck",
    "image",
    "network_mode",
    "restart",
    "volumes",
}
_PORT = re.compile(r"(?<![\d.])(?:64|98|109|264)\d\d(?!\d)")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def test_compose_file_is_valid_and_complete(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        assert service.keys() <= SERVICE_KEYS, name
        assert ("image" in service, service["network_mode"]) == (True, "host"), name
        assert set(service.get("depends_on", ())) <= services.keys(), name
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in compose["volumes"], name
        for waited in service["depends_on"].values() if isinstance(service.get("depends_on"), dict) else ():
            assert waited["condition"] in ("service_healthy", "service_started")
    roles = [service["command"].split()[0] for service in services.values() if isinstance(service["command"], str)]
    assert {role: roles.count(role) for role in ("namesrv", "broker", "valkey-server")} == {
        "namesrv": 2,
        "broker": 4,
        "valkey-server": 4,
    }
    assert sum(name.startswith("sentinel-") for name in services) == 3


class Project:
    """The services as processes: what ``docker compose up`` would start, in the order that it would."""

    def __init__(self, compose: dict[str, Any], directory: Path) -> None:
        self._services: dict[str, dict[str, Any]] = compose["services"]
        self._directory = directory
        self._ports: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[str] = set()
        self._bin = directory / "bin"
        self._bin.mkdir()
        (self._bin / "valkey-server").symlink_to(find_server_binary())
        self._script("rmq-redis", f'exec "{sys.executable}" -m rmq_redis "$@"')

    def _script(self, name: str, text: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def _port(self, match: re.Match[str]) -> str:
        return self._ports.setdefault(match[0], str(free_port()))

    def local(self, text: str) -> str:
        """A text of the file with ports of our own, and ``$$`` as compose reads it."""
        return _PORT.sub(self._port, text).replace("$$", "$")

    def start_all(self) -> None:
        waiting = dict(self._services)
        while waiting:
            for name, service in list(waiting.items()):
                if not set(service.get("depends_on", ())) & waiting.keys():
                    self.start(name)
                    if "healthcheck" in service:
                        wait_until(lambda service=service: self._is_healthy(service), f"{name} is healthy")
                    del waiting[name]

    def _is_healthy(self, service: dict[str, Any]) -> bool:
        command = service["healthcheck"]["test"]
        assert command[:2] == ["CMD", "valkey-cli"]
        try:
            with redis.Redis(port=int(self.local(command[command.index("-p") + 1]))) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def start(self, name: str) -> None:
        self._stopped.discard(name)
        service = self._services[name]
        command = service["command"]
        arguments = command.split() if isinstance(command, str) else list(command)
        if "build" in service:
            arguments = [*service.get("entrypoint", ["rmq-redis"]), *arguments]
        data = self._directory / name
        data.mkdir(exist_ok=True)
        arguments = [self.local(argument).replace("/data", str(data)) for argument in arguments]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("RMQ_REDIS_")}
        environ["PATH"] = f"{self._bin}:{environ['PATH']}"
        environ["RMQ_REDIS_FAST_LISTEN_PORT"] = "0"  # two of the ports that were chosen here may be two apart
        environ |= {key: self.local(value) for key, value in service.get("environment", {}).items()}
        with (self._directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
            )

    def restart_what_ended(self) -> None:
        """``restart: unless-stopped``: what ended by itself, because the others were not there yet, begins again."""
        for name, process in list(self.processes.items()):
            if process.poll() is not None and name not in self._stopped:
                assert self._services[name]["restart"] == "unless-stopped"
                self.start(name)

    def log(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text(errors="replace")

    def is_watched(self) -> bool:
        """Whether every Sentinel knows the others and the replicas: before that it has nothing that it could promote.

        A Sentinel asks a primary for its replicas every ten seconds only.
        """
        for name in (name for name in self._services if name.startswith("sentinel-")):
            with redis.Redis(port=int(self.local(self._services[name]["environment"]["PORT"]))) as client:
                for state in client.sentinel_masters().values():
                    if (state["num-other-sentinels"], state["num-slaves"]) != (2, 1):
                        return False
        return True

    def logs_of_sentinels(self) -> str:
        return "\n".join(f"{name}:\n{self.log(name)}" for name in self._services if name.startswith("sentinel-"))

    def kill(self, name: str) -> None:
        self._stopped.add(name)
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait(30)

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)


@pytest.fixture
def project(compose: dict[str, Any], tmp_path: Path) -> Iterator[Project]:
    if shutil.which("sh") is None:
        pytest.skip("no sh")
    try:
        project = Project(compose, tmp_path)
    except ConfigError as error:
        pytest.skip(str(error))
    yield project
    project.close()
    print(project.logs_of_sentinels())  # shown when the test failed


def test_compose_cluster_survives_the_loss_of_master_and_primary(project: Project) -> None:
    project.start_all()

    def greetings() -> int:
        project.restart_what_ended()
        return project.log("example-consumer").count("hello at")

    def goes_on(what: str) -> None:
        before = greetings()
        wait_until(lambda: greetings() > before + 1, f"greetings go on after {what}")

    goes_on("the start")
    wait_until(project.is_watched, "the Sentinels know one another and the replicas")
    project.kill("broker-a")
    wait_until(lambda: "takes the group over" in project.log("broker-a-slave"), "the slave takes the group over")
    project.kill("store-b")
    replica = redis.Redis(port=int(project.local("6404")))
    with replica:
        # A Sentinel that was held up for two seconds does nothing for thirty (TILT), and a failed vote costs twenty.
        wait_until(lambda: replica.info("replication")["role"] == "master", "Sentinels promote the replica", 150)
    goes_on("a master and a primary died")
    project.start("broker-a")
    project.start("store-b")
    goes_on("they came back")
