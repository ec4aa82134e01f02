"""What the clients of a run saw, one JSON array a line, each line written before anything else is done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import msgspec


class Acked(NamedTuple):
    """A send that was answered.

    Attributes:
        sender: who sent it; one sender waits for each answer before its next send.
        status: of the answer: SEND_OK, or stored but not confirmed.
    """

    sender: str
    body: str
    broker_name: str
    queue_id: int
    queue_offset: int
    status: str


class Failed(NamedTuple):
    """A send without an answer that says stored. It may be stored all the same."""

    sender: str
    body: str
    error: str


class Delivered(NamedTuple):
    """A message that a consumer got."""

    consumer: str
    body: str
    broker_name: str
    queue_id: int
    queue_offset: int


Event = Acked | Failed | Delivered
_KINDS: dict[str, type[Event]] = {"acked": Acked, "failed": Failed, "delivered": Delivered}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_encode = msgspec.json.Encoder().encode


class HistoryWriter:
    """Appends to a file of its own."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def write(self, event: Event) -> None:
        self._file.write(_encode([_NAMES[type(event)], *event]) + b"\n")

    def close(self) -> None:
        self._file.close()


class HistoryReader:
    """Reads the files of a directory as they grow."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self.events: list[Event] = []

    def read(self) -> Iterable[Event]:
        """What is new, in the order of each file; also added to ``events``."""
        new: list[Event] = []
        for path in sorted(self._directory.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            end = data.rfind(b"\n") + 1  # the rest is being written, or its writer was killed
            self._read[path] = self._read.get(path, 0) + end
            for line in data[:end].splitlines():
                kind, *fields = json.loads(line)
                new.append(_KINDS[kind](*fields))
        self.events += new
        return new
