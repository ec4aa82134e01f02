"""Runs loads in processes of their own, so that no load shares its interpreter with what measures it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Sequence

from ...child_guard import end_with_parent
from ...errors import RmqError
from .worker import Figures, LoadSettings

COMMAND = (sys.executable, "-m", "rmq_redis.labs.benchmark.loads")
"""Runs the loads of this package; the name of one follows."""


class BenchmarkError(RmqError):
    """A load did not run to its end."""


class LoadProcess:
    """One load in a process of its own. It ends with this process."""

    def __init__(self, name: str, settings: LoadSettings, command: Sequence[str] = COMMAND) -> None:
        self._name = name
        self._settings = settings
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def warm(self) -> None:
        """Starts it, and returns when it has warmed up. Raises BenchmarkError."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            self._name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=end_with_parent(),
        )
        await self._write(json.dumps(dataclasses.asdict(self._settings)))
        await self._line()

    async def run(self) -> Figures:
        """Lets it begin, and returns its figures. Raises BenchmarkError."""
        await self._write("go")
        figures: Figures = json.loads(await self._line())
        assert self._process is not None
        await self._process.wait()
        return figures

    async def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def _line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the load {self._name} ended early, with exit code {await self._process.wait()}")
        return line

    async def kill(self) -> None:
        """Ends it if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def run_loads(*loads: LoadProcess) -> list[Figures]:
    """Warms loads up one after the other, lets them begin together, and returns their figures.

    Raises:
        BenchmarkError: one of them failed; all were ended.
    """
    try:
        for load in loads:
            await load.warm()
        return await asyncio.gather(*(load.run() for load in loads))
    finally:
        await asyncio.gather(*(load.kill() for load in loads))
