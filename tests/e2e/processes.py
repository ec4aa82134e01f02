"""Roles as processes of their own, which a test may kill."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

START_DEADLINE_S = 120.0
_LISTENING = re.compile(r"listening on (\S+:\d+)")


class RoleProcess:
    """``python -m rmq_redis ROLE OPTIONS``, started; ``address`` is where it listens."""

    def __init__(self, role: str, *options: str, log: Path) -> None:
        self._log = log
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RMQ_REDIS_")}
        with log.open("ab") as log_file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rmq_redis", role, *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
                env=environ,
            )
        self.address = ""
        self._serving = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            match = _LISTENING.search(line)
            if match:
                self.address = match[1]
                self._serving.set()
        self._serving.set()

    def wait_until_serving(self) -> Self:
        self._serving.wait(START_DEADLINE_S)
        if not self.address:
            raise AssertionError(f"did not start (exit code {self.process.poll()}):\n{self._log.read_text()[-3000:]}")
        return self

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self._end()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self._end()

    def _end(self) -> int:
        code = self.process.wait(30)
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self.wait_until_serving()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        elif self.process.stdout is not None and not self.process.stdout.closed:
            self._end()


def namesrv(registry: str, log_dir: Path, *options: str, key_prefix: str = "rmq") -> RoleProcess:
    """A NameServer process on a port of its own."""
    given = ("--registry", registry, "--host", "127.0.0.1", "--port", "0", "--key-prefix", key_prefix)
    return RoleProcess("namesrv", *given, *options, log=log_dir / "namesrv.log")


def broker(store: str, namesrv_addr: str, log_dir: Path, *options: str, key_prefix: str = "rmq") -> RoleProcess:
    """A broker process on 127.0.0.1; give ``--port`` to restart one where it was."""
    given = ("--store", store, "--namesrv", namesrv_addr, "--host", "127.0.0.1", "--key-prefix", key_prefix)
    return RoleProcess("broker", *given, *options, log=log_dir / "broker.log")
