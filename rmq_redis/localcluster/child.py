"""A process that we started: what it says first, its log, its end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from ..child_guard import end_with_parent
from ..errors import RmqError

_POLL_PERIOD_S = 0.02
"""Short beside the time that an interpreter needs to start or stop."""
_START_TIMEOUT_S = 30.0
"""A server starts in 1 s; a machine with many more processes than CPUs needs far longer."""
_LISTENING = re.compile(rb"listening on (\S+):(\d+) pid (\d+)")
_MAX_LOG_BYTES = 10 * 1024 * 1024
"""A log is started anew with the process, beyond this size: data directories of `up` are kept for years."""


class ChildError(RmqError):
    """A process of ours did not start."""


class Child:
    """One process that runs a module of this package with this interpreter.

    It ends with this process, even if this one is killed, and does not see the Ctrl-C of the terminal: call ``stop``.

    Attributes:
        name: what we call it in output, and the name of its log file.
        environ: environment variables that it gets beside ours. What is secret goes here: arguments are public.
        inherited_fds: file descriptors of this process that stay open in the child.
        stdout: what it prints; there once it was started.
    """

    def __init__(self, name: str, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self.environ: dict[str, str] = {}
        self.inherited_fds: tuple[int, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None
        self.stdout: asyncio.StreamReader
        self._transport: asyncio.ReadTransport | None = None
        self._log_read = 0
        self._last_line = ""

    @property
    def pid(self) -> int:
        """Process id; 0 before the start."""
        return self.process.pid if self.process is not None else 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    async def start(self, module: str, *arguments: str, line_limit_bytes: int = 64 * 1024) -> None:
        """Starts ``python -m module arguments``."""
        self.process = self._spawn([sys.executable, "-m", module, *arguments])
        self.stdout = asyncio.StreamReader(limit=line_limit_bytes)
        if self._transport is not None:
            self._transport.close()
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self.stdout), self.process.stdout
        )

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        too_long = self.log_path.exists() and self.log_path.stat().st_size > _MAX_LOG_BYTES
        with self.log_path.open("wb" if too_long else "ab") as log:
            self._log_read = log.tell()
            self._last_line = ""
            # In this thread, not in another: the child would die with the thread that made it.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | self.environ,
                preexec_fn=end_with_parent(),  # noqa: PLW1509  (it makes system calls only)
                pass_fds=self.inherited_fds,
                start_new_session=True,
            )

    async def listening_port(self) -> int:
        """Waits for the line that says that it serves.

        Raises:
            ChildError: it ended or said nothing in time; the text has what it wrote to its log.
        """
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while line := await self.stdout.readline():
                    found = _LISTENING.search(line)
                    if found is not None:
                        return int(found[2])
        except TimeoutError:
            self.kill()
            raise ChildError(
                f"{self.name} did not start in {_START_TIMEOUT_S:g} s; its log is {self.log_path}"
            ) from None
        await self.wait()
        raise ChildError(f"{self.name} did not start: {self.last_words()}")

    async def wait(self) -> int:
        """Waits for its end; returns its exit code (negative: the signal that ended it)."""
        assert self.process is not None
        while (code := self.process.poll()) is None:
            await asyncio.sleep(_POLL_PERIOD_S)
        return code

    def ended_how(self) -> str:
        """For people: how it ended."""
        code = self.process.poll() if self.process is not None else None
        if code is None:
            return "runs"
        if code >= 0:
            return f"exit code {code}: {self.last_words()}" if code else "exit code 0"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"

    def new_log_lines(self) -> list[str]:
        """The whole lines of its log that were not returned before."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(self._log_read)
                text = log.read(_MAX_LOG_BYTES)
        except OSError:
            return []
        end = text.rfind(b"\n") + 1
        self._log_read += end
        lines = text[:end].decode(errors="replace").splitlines()
        self._last_line = next((line for line in reversed(lines) if line.strip()), self._last_line)
        return lines

    def last_words(self) -> str:
        """The error that it ended with: the last line it logged since it started."""
        self.new_log_lines()
        return self._last_line.removeprefix("error: ") or f"its log says nothing ({self.log_path})"

    def kill(self) -> None:
        """kill -9."""
        if self.running and self.process is not None:
            self.process.kill()

    def terminate(self) -> None:
        """SIGTERM."""
        if self.running and self.process is not None:
            self.process.terminate()

    async def wait_or_kill(self, timeout_s: float) -> bool:
        """Waits for its end, and ends it with kill -9 after ``timeout_s`` seconds; False when it came to that."""
        if self.process is None:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()
            return False
        return True

    async def stop(self, timeout_s: float) -> bool:
        """SIGTERM, and kill -9 after ``timeout_s`` seconds; returns whether it stopped by itself."""
        self.terminate()
        by_itself = await self.wait_or_kill(timeout_s)
        if self._transport is not None:
            self._transport.close()
        return by_itself


def has_ended(pid: int) -> bool:
    """Whether our own child with this id has ended; it stays to be waited for."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
