"""The locks of a cluster's data directory: one cluster at a time, and none beside the remains of another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import IO

from ..errors import ConfigError
from ..file_lock import try_lock

_CHECK_PERIOD_S = 0.02
"""A start waits hardly longer than the processes of the earlier run."""


class DataDirLock:
    """Two locks, of two files. ``lock`` ends with the process that runs the cluster.

    ``processes.lock`` is inherited by all processes of the cluster and ends with the last of them: after a kill -9 of
    the first, they need a moment to stop, and two servers on one append-only file would spoil it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._own: IO[str] | None = None
        self._processes: IO[str] | None = None

    @property
    def inherited_fds(self) -> tuple[int, ...]:
        """File descriptors that the cluster's processes inherit; empty while the lock is not taken."""
        return () if self._processes is None else (self._processes.fileno(),)

    async def take(self, timeout_s: float) -> None:
        """Makes the directory if it is missing, and takes both locks.

        Args:
            timeout_s: how long the processes of an earlier run may take to stop, seconds.

        Raises:
            ConfigError: another cluster uses the directory, or it cannot be used at all.
        """
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._own = (self._data_dir / "lock").open("a+")
            self._processes = (self._data_dir / "processes.lock").open("a")
        except OSError as error:
            self.release()
            raise ConfigError(
                f"the data directory {self._data_dir} cannot be used: {error.strerror}; try --data-dir"
            ) from None
        if not try_lock(self._own.fileno()):
            self._own.seek(0)
            pid = self._own.read().strip()
            self.release()
            raise ConfigError(
                f"another cluster (process {pid}) runs on the data directory {self._data_dir}; stop it, or give this "
                "one another --data-dir"
            )
        self._own.truncate(0)
        self._own.write(f"{os.getpid()}\n")
        self._own.flush()
        deadline = time.monotonic() + timeout_s
        while not try_lock(self._processes.fileno()):
            if time.monotonic() > deadline:
                self.release()
                raise ConfigError(
                    f"processes of an earlier run still use the data directory {self._data_dir} after {timeout_s:g} s; "
                    "stop them first"
                )
            await asyncio.sleep(_CHECK_PERIOD_S)

    def release(self) -> None:
        """Gives both up. A second call does nothing."""
        for lock in (self._own, self._processes):
            if lock is not None:
                with contextlib.suppress(OSError):
                    lock.close()
        self._own = self._processes = None
