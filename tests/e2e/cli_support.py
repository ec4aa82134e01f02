"""The command line as a process of its own, and what becomes of the processes that it starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

DEADLINE_S = 120.0
"""Until something that must happen is given up. Only a failing test waits this long."""
_PROCESS_LINE = re.compile(r"^(\S+(?: master| slave \d+)?) +(\S*) +pid (\d+)$")


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """Polls until the condition is true, and returns what it returned."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.01)
    return value


def environment(**variables: str) -> dict[str, str]:
    """Ours without the settings of whoever runs the tests, and with ``variables``."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RMQ_REDIS_")}
    return mine | {"COLUMNS": "100", "NO_COLOR": "1"} | variables


def run_cli(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "rmq_redis", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment(**variables),
        check=False,
    )


def result_of(*arguments: str, stdin: str = "", **variables: str) -> str:
    """What a command printed; it must succeed."""
    done = run_cli(*arguments, stdin=stdin, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def json_of(*arguments: str, **variables: str) -> Any:
    """The JSON value that a command printed."""
    return json.loads(result_of(*arguments, "--json", **variables))


def json_lines_of(*arguments: str, **variables: str) -> list[Any]:
    """The JSON values that a command printed, one a line."""
    return [json.loads(line) for line in result_of(*arguments, "--json", **variables).splitlines()]


def alive(pids: Iterable[int]) -> list[int]:
    """Those that run. A zombie does not."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            pass
    return found


class CliProcess:
    """``python -m rmq_redis ARGUMENTS`` in the background; its lines are collected as they come.

    Leaving the context kills it, and whatever it started.
    """

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rmq_redis", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**variables),
        )
        self.lines: list[str] = []
        self.error_lines: list[str] = []
        self._pids: set[int] = set()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.error_lines))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))

    def wait_for_line(self, beginning: str, *, after: int = 0) -> str:
        """The first line, from number ``after`` on, that begins so."""

        def found() -> str | None:
            line = next((line for line in self.lines[after:] if line.startswith(beginning)), None)
            if line is None and self.process.poll() is not None:
                self._join()
                raise AssertionError(f"it ended without a line {beginning!r}: {self.lines}, {self.error_lines}")
            return line

        line: str = wait_until(found, f"a line {beginning!r} in {self.lines}, {self.error_lines}")
        return line

    def wait_until_ready(self) -> str:
        """The NameServers' addresses."""
        return self.wait_for_line("ready ").removeprefix("ready ")

    def processes(self) -> dict[str, tuple[str, int]]:
        """Name -> address and process id, of the newest line of each."""
        matches = filter(None, map(_PROCESS_LINE.match, list(self.lines)))
        return {match[1]: (match[2], int(match[3])) for match in matches}

    def pid_of(self, name: str) -> int:
        return self.processes()[name][1]

    def descendants(self) -> list[int]:
        """Everything that it started, now or before."""
        try:
            self._pids |= {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}
        except psutil.NoSuchProcess:
            pass
        return sorted(self._pids)

    def signal(self, number: int) -> None:
        self.descendants()
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait(DEADLINE_S)
        self._join()
        return code

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pids = self.descendants()
        if self.process.poll() is None:
            self.process.kill()
        for pid in alive(pids):
            try:
                psutil.Process(pid).kill()
            except psutil.NoSuchProcess:
                pass
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def up(
    data_dir: Path, *options: str, namesrvs: int = 1, brokers: int = 1, slaves: int = 0, **variables: str
) -> CliProcess:
    """``rmq-redis up`` on ports that the system chooses."""
    numbers = ["--namesrvs", str(namesrvs), "--brokers", str(brokers), "--slaves", str(slaves)]
    ports = ["--namesrv-port", "0", "--broker-port", "0"]
    return CliProcess("up", *numbers, *ports, "--data-dir", str(data_dir), *options, **variables)
