"""Order in the middle of rebalances: orderly consumers join, leave and are killed while a producer sends by key."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from cli_support import DEADLINE_S, environment, wait_until
from processes import broker, namesrv

from rmq_redis import Admin, Message, Producer
from rmq_redis.store.embedded import EmbeddedServer

WORKER = Path(__file__).parent / "ordered_worker.py"
LOCK_EXPIRY_S = 6.0
KEYS = [f"key-{number}" for number in range(12)]
QUEUES = 6


class Members:
    """Consumer processes, and what they noted."""

    def __init__(self, namesrv_addr: str, topic: str, directory: Path) -> None:
        self._arguments = [namesrv_addr, topic, "ordered-group"]
        self._path = directory / "handled.jsonl"
        self._path.touch()
        self._log = (directory / "members.log").open("ab")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def join(self, name: str) -> None:
        command = [sys.executable, str(WORKER), *self._arguments, name, str(self._path)]
        self.processes[name] = subprocess.Popen(command, stderr=self._log, env=environment())
        before = len(self.events(name))
        wait_until(lambda: len(self.events(name)) > before, f"{name} handles messages")

    def leave(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        assert process.wait(DEADLINE_S) == 0

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait(DEADLINE_S)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        text = self._path.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [event for event in map(json.loads, lines) if not name or event["consumer"] == name]

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(DEADLINE_S)
        self._log.close()


@contextlib.contextmanager
def endless_sends(namesrv_addr: str, topic: str) -> Iterator[dict[str, int]]:
    """Sends 0, 1, 2, ... by each key until the context ends; how many of each key were sent."""
    sent = dict.fromkeys(KEYS, 0)
    stop = threading.Event()
    failures: list[BaseException] = []

    def send() -> None:
        try:
            with Producer("ordered-producer", namesrv_addr) as producer:
                while not stop.wait(0.02):
                    for key in KEYS:
                        producer.send(Message(topic, str(sent[key]), keys=key), key=key)
                        sent[key] += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_no_queue_has_two_owners_and_keys_stay_in_order(embedded_server: EmbeddedServer, tmp_path: Path) -> None:
    prefix, topic = f"t{uuid.uuid4().hex[:12]}", f"ordered-{uuid.uuid4().hex[:8]}"
    with (
        namesrv(embedded_server.url, tmp_path, key_prefix=prefix) as name_server,
        broker(
            embedded_server.url,
            name_server.address,
            tmp_path,
            "--port",
            "0",
            "--lock-expiry-s",
            str(LOCK_EXPIRY_S),
            key_prefix=prefix,
        ),
    ):
        with Admin(name_server.address) as admin:
            wait_until(admin.master_addresses, "a broker is registered")
            admin.create_topic(topic, read_queue_nums=QUEUES, write_queue_nums=QUEUES)
            admin.wait_for_route(topic)
        members = Members(name_server.address, topic, tmp_path)
        try:
            with endless_sends(name_server.address, topic) as sent:
                members.join("a")
                members.join("b")
                members.join("c")
                members.leave("a")
                seen = len(members.events())
                wait_until(lambda: len(members.events()) > seen + 200, "the others go on")
                members.kill("c")
                members.join("d")
                members.leave("b")
                members.join("e")

            def all_handled() -> bool:
                done = {(event["key"], event["seq"]) for event in members.events() if event["event"] == "end"}
                return len(done) == sum(sent.values())

            wait_until(all_handled, "everything that was sent is handled")
            for name in list(members.processes):
                members.leave(name)
            check_order(members.events(), killed={"c"})
        finally:
            members.end()


def check_order(events: list[dict[str, Any]], killed: set[str]) -> None:
    by_queue: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event["at"]):
        by_queue[event["queue"]].append(event)
    assert len(by_queue) > 1
    owners = {event["consumer"] for event in events}
    assert owners == {"a", "b", "c", "d", "e"}
    for queue, stream in by_queue.items():
        handling: dict[str, Any] | None = None
        previous: dict[str, Any] | None = None
        first_ends: dict[str, list[int]] = defaultdict(list)
        for event in stream:
            if event["event"] == "start":
                died = handling is not None and handling["consumer"] in killed - {event["consumer"]}
                assert handling is None or died, f"{queue}: {event} begins while {handling} is handled"
                if previous is not None and previous["consumer"] == event["consumer"]:
                    assert event["offset"] == previous["offset"] + 1, f"{queue}: {event} after {previous}"
                elif previous is not None:  # another owner: goes on there, or, after a kill, at an older commit
                    assert event["offset"] <= previous["offset"] + 1, f"{queue}: {event} after {previous}"
                    if previous["consumer"] not in killed:
                        assert event["offset"] == previous["offset"] + 1, f"{queue}: {event} after {previous}"
                handling = previous = event
            else:
                assert handling is not None
                assert (handling["consumer"], handling["offset"]) == (event["consumer"], event["offset"])
                handling = None
                if event["seq"] not in first_ends[event["key"]]:
                    first_ends[event["key"]].append(event["seq"])
        for key, sequence in first_ends.items():
            assert all(later == earlier + 1 for earlier, later in pairwise(sequence)), f"{key}: {sequence}"
            assert sequence[0] == 0
