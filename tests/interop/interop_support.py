"""Starts the drivers of foreign clients and reads what they print; asks a cluster for topics with frames built here."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]

HERE = Path(__file__).parent
DEADLINE_S = 60.0
INSTALL_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Cluster:
    namesrv_addr: str
    is_external: bool
    """True: a NameServer named by RMQ_INTEROP_NAMESRV, perhaps Apache's, which differs from ours where it is unkind."""


# ---- the few admin requests that every scenario needs, independent of the code under test


class RemotingError(Exception):
    def __init__(self, code: int, remark: str) -> None:
        super().__init__(f"code {code}: {remark}")
        self.code = code


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionError(f"closed after {len(data)} of {size} bytes")
        data += chunk
    return data


def remoting_call(address: str, code: int, fields: Mapping[str, str]) -> bytes:
    """Sends one JSON request and returns the body of its response."""
    host, port = address.rsplit(":", 1)
    header = json.dumps(
        {"code": code, "flag": 0, "language": "JAVA", "opaque": 1, "version": 479, "extFields": dict(fields)}
    ).encode()
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(struct.pack(">ii", 4 + len(header), len(header)) + header)
        (length,) = struct.unpack(">i", _read_exactly(connection, 4))
        frame = _read_exactly(connection, length)
    header_length = struct.unpack(">I", frame[:4])[0] & 0xFFFFFF
    response = json.loads(frame[4 : 4 + header_length])
    if response["code"] != 0:
        raise RemotingError(response["code"], response.get("remark", ""))
    return frame[4 + header_length :]


def parse_fastjson(body: bytes) -> Any:
    """JSON that may have bare integers as keys: {0:"127.0.0.1:10911"}."""
    return json.loads(re.sub(r"([{,])(\d+):", r'\1"\2":', body.decode()))


def master_addresses(cluster: Cluster) -> dict[str, str]:
    brokers = parse_fastjson(remoting_call(cluster.namesrv_addr, 106, {}))["brokerAddrTable"]
    return {
        name: broker["brokerAddrs"]["0"] for name, broker in sorted(brokers.items()) if "0" in broker["brokerAddrs"]
    }


def has_route(cluster: Cluster, topic: str) -> bool:
    try:
        body = remoting_call(cluster.namesrv_addr, 105, {"topic": topic, "acceptStandardJsonOnly": "true"})
    except RemotingError as error:
        if error.code == 17:
            return False
        raise
    return bool(parse_fastjson(body)["queueDatas"])


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(0.05)


def unique_name(prefix: str) -> str:
    return f"interop_{prefix}_{uuid.uuid4().hex[:10]}"


def create_topic(cluster: Cluster, queues: int = 4, topic: str | None = None) -> str:
    """Creates a topic on every master, as mqadmin does (106, 17, 105), and waits until it has a route."""
    topic = topic or unique_name("topic")
    for address in master_addresses(cluster).values():
        fields = {
            "topic": topic,
            "defaultTopic": "TBW102",
            "readQueueNums": str(queues),
            "writeQueueNums": str(queues),
            "perm": "6",
            "topicFilterType": "SINGLE_TAG",
            "topicSysFlag": "0",
            "order": "false",
        }
        remoting_call(address, 17, fields)
    wait_until(lambda: has_route(cluster, topic), f"route of {topic}")
    return topic


# ---- drivers


class ClientUnavailableError(Exception):
    """The foreign client cannot be had here; the message says why. Tests skip on it."""


def cache_dir() -> Path:
    return Path(tempfile.gettempdir()) / "rmq-redis-interop"


def require_program(*names: str) -> None:
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise ClientUnavailableError(f"not installed: {', '.join(missing)}")


def install(name: str, commands: Sequence[Sequence[str]], cwd: Path | None = None) -> None:
    for command in commands:
        try:
            result = subprocess.run(
                command,
                check=False,
                cwd=cwd,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise ClientUnavailableError(f"{name}: {command[0]} took more than {INSTALL_TIMEOUT_S:.0f} s") from None
        if result.returncode != 0:
            output = (result.stdout + result.stderr).strip()[-2000:]
            raise ClientUnavailableError(f"{name}: {command[0]} ended with {result.returncode}: {output}")


def prepared_dir(name: str, build: Callable[[Path], None]) -> Path:
    """A copy of tests/interop/<name>, built once per content outside the work tree."""
    source = HERE / name
    digest = hashlib.sha256()
    for path in sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes() + b"\0")
    target = cache_dir() / f"{name}-{digest.hexdigest()[:16]}"
    if target.is_dir():
        return target
    cache_dir().mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache_dir()))
    try:
        shutil.copytree(source, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        build(scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another test process was faster
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


class DriverProcess:
    """A running driver. Collects the JSON lines it prints, each with `received_s`, the monotonic time it was read."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._command = command
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._at_end = False
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in kill)
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._stderr, text=True, env=env
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "garbage", "line": line}
            event["received_s"] = time.monotonic()
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()
        with self._changed:
            self._at_end = True
            self._changed.notify_all()

    def __enter__(self) -> DriverProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def ended(self) -> bool:
        return self._at_end

    def events(self, name: str | None = None) -> list[Event]:
        with self._changed:
            return [event for event in self._events if name is None or event["event"] == name]

    def messages(self) -> list[Event]:
        return self.events("message")

    def bodies(self) -> list[str]:
        return [message["body"] for message in self.messages()]

    def queues(self) -> set[str]:
        """The message queues the consumer said last that it has."""
        reported = self.events("queues")
        return set(reported[-1]["queues"]) if reported else set()

    def report(self) -> str:
        self._stderr.seek(0)
        events = "\n".join(json.dumps(event, ensure_ascii=False)[:300] for event in self.events()[-15:])
        return (
            f"{' '.join(self._command)}\nexit status {self._process.poll()}, {len(self.events())} events, the last:\n"
            f"{events}\nstderr:\n{self._stderr.read()[-3000:]}"
        )

    def wait_for(self, condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Waits for a condition, which may also look at other drivers; this one must not end before it holds."""
        end = time.monotonic() + deadline_s
        while not condition():
            if self._at_end and not condition():
                raise AssertionError(f"the driver ended before: {what}\n{self.report()}")
            if time.monotonic() > end:
                raise AssertionError(f"not within {deadline_s:.0f} s: {what}\n{self.report()}")
            with self._changed:
                self._changed.wait(0.05)

    def wait_for_bodies(self, wanted: set[str], deadline_s: float = DEADLINE_S) -> None:
        self.wait_for(lambda: wanted <= set(self.bodies()), f"{len(wanted)} messages received", deadline_s)

    def wait_for_end(self, deadline_s: float = DEADLINE_S) -> list[Event]:
        """Waits until the driver has ended by itself, having printed `stopped`, with exit status 0."""
        try:
            status = self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {deadline_s:.0f} s\n{self.report()}") from None
        self._reader.join(5)
        assert status == 0, f"exit status {status}\n{self.report()}"
        assert not self.events("garbage"), self.report()
        return self.events()

    def stop(self, deadline_s: float = DEADLINE_S) -> list[Event]:
        """Asks a consumer to commit and leave; it must do so by itself."""
        self._process.send_signal(signal.SIGTERM)
        events = self.wait_for_end(deadline_s)
        assert [event["event"] for event in events[-1:]] == ["stopped"], self.report()
        return events

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()


@dataclass(frozen=True)
class Driver:
    """How to call the driver of one foreign client."""

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    consumer_options: Mapping[str, str] = field(default_factory=dict)
    """Given to every `consume`."""

    def start(self, cluster: Cluster, action: str, **options: object) -> DriverProcess:
        command = [*self.command, cluster.namesrv_addr, action]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        # The C locale would make Java and Node read non-ASCII arguments as something else.
        return DriverProcess(command, {**os.environ, "LC_ALL": "C.UTF-8", **self.env})

    def run(self, cluster: Cluster, action: str, **options: object) -> list[Event]:
        deadline_s = float(os.environ.get("RMQ_INTEROP_RUN_DEADLINE_S", "180"))
        with self.start(cluster, action, **options) as process:
            return process.wait_for_end(deadline_s)

    def produce(self, cluster: Cluster, topic: str, count: int, **options: object) -> list[Event]:
        """Returns the `sent` events, one for each message; there is exactly one and every status is good."""
        events = [e for e in self.run(cluster, "produce", topic=topic, count=count, **options) if e["event"] == "sent"]
        assert len(events) == count, events
        assert all(event.get("status", "SEND_OK") in ("SEND_OK", "OK") for event in events), events
        return events

    def consume(self, cluster: Cluster, topic: str, group: str, **options: object) -> DriverProcess:
        return self.start(cluster, "consume", topic=topic, group=group, **{**self.consumer_options, **options})
