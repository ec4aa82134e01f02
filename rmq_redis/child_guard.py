"""Ends the child processes of a process that has ended, in any way: after kill -9 nothing else would stop them.

A process that starts its first child starts a guard with it: this file as a program, with a pipe. Every child writes
its process id to the pipe before it executes its own program, so none is missed. When the pipe ends, the guard sends
SIGTERM to the children that are left, and SIGKILL to those that have not stopped in time. That needs nothing of the
children, which may hang, be paused or be written by others. On Linux they also ask the kernel for SIGTERM, which covers
a guard that was killed too.

The program is started without this package and without site-packages: this module imports the standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

DRAIN_S = 10.0
_LOOK_PERIOD_S = 0.5
"""The end of the pipe reports the end of the parent at once; this look is for a pipe that a grandchild keeps open."""
_EXIT_WAIT_S = 1.0
_PR_SET_PDEATHSIG = 1
"""Source: ``linux/prctl.h``."""


class _Guard:
    """The guard of this process, and the pipe to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        command = [sys.executable, "-I", "-S", __file__, str(self.owner)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is not for it
        )
        assert self.process.stdin is not None
        self.pipe = self.process.stdin.fileno()

    @property
    def is_usable(self) -> bool:
        """Whether it runs and is this process's own, not one of the process that this one was forked from."""
        return self.owner == os.getpid() and self.process.poll() is None

    def close(self) -> None:
        """Lets it end: at once when no child is left."""
        if self.owner != os.getpid() or self.process.stdin is None:
            return
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_EXIT_WAIT_S)


_lock = threading.Lock()
_guard: _Guard | None = None
"""Replaced, never changed: a forked process and one whose guard was killed start another."""


def end_with_parent(drain_s: float = DRAIN_S) -> Callable[[], None] | None:
    """A ``preexec_fn`` for a child that must not outlive this process; None on Windows.

    Args:
        drain_s: seconds from the SIGTERM, which the child gets when this process has ended, to its SIGKILL.
    """
    if sys.platform == "win32":
        return None
    pipe = _running_guard().pipe
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def bind() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        with contextlib.suppress(OSError):  # the guard was killed
            os.write(pipe, b"%d %.3f\n" % (os.getpid(), drain_s))
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it ended before the call: there will be no signal
                os._exit(1)

    return bind


def guard_pid() -> int:
    """Process id of the guard of this process; 0 when it has none."""
    return _guard.process.pid if _guard is not None and _guard.is_usable else 0


def _running_guard() -> _Guard:
    global _guard
    with _lock:
        if _guard is None or not _guard.is_usable:
            _guard = _Guard()
            atexit.register(_guard.close)
        return _guard


# --- the guard's own program ------------------------------------------------------------------------------------------


class _Watched:
    """A child of the parent. A descriptor of the process, where the system has that, cannot mean a later one."""

    def __init__(self, pid: int, drain_s: float) -> None:
        self.pid = pid
        self.drain_s = drain_s
        self.descriptor = -1
        if sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):  # an old kernel, a Python made for one
                self.descriptor = os.pidfd_open(pid)

    @property
    def has_ended(self) -> bool:
        if self.descriptor >= 0:
            waiting = select.poll()
            waiting.register(self.descriptor, select.POLLIN)
            return bool(waiting.poll(0))
        return not self._send(0)

    def signal(self, *numbers: int) -> None:
        for number in numbers:
            self._send(number)

    def _send(self, number: int) -> bool:
        try:
            if sys.platform == "linux" and self.descriptor >= 0:
                signal.pidfd_send_signal(self.descriptor, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        except OSError:  # not ours any more
            return number == 0
        return True

    def forget(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _watch(parent: int) -> list[_Watched]:
    """Returns the children that are left when the parent has ended."""
    children: list[_Watched] = []
    rest = b""
    has_parent = True
    while has_parent:
        has_parent = os.getppid() == parent  # asked before the last look: children may have written just before its end
        while select.select([0], [], [], _LOOK_PERIOD_S if has_parent else 0.0)[0]:
            chunk = os.read(0, 65536)
            if not chunk:
                return _left(children)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                pid, drain_s = line.split()
                children.append(_Watched(int(pid), float(drain_s)))
        children = _left(children)  # the pipe alone does not tell: a forked copy of the parent can hold it open
    return _left(children)


def _left(children: list[_Watched]) -> list[_Watched]:
    left = []
    for child in children:
        if child.has_ended:
            child.forget()
        else:
            left.append(child)
    return left


def _end(children: list[_Watched]) -> None:
    """SIGTERM, and SIGKILL for each child whose time to stop is over."""
    began = time.monotonic()
    for child in children:
        child.signal(signal.SIGTERM, signal.SIGCONT)  # a paused process would keep the signal for later
    while children := _left(children):
        for child in children:
            if time.monotonic() - began >= child.drain_s:
                child.signal(signal.SIGKILL)
        time.sleep(0.02)


def _main(parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it ends with its parent, not before
        signal.signal(number, signal.SIG_IGN)
    _end(_watch(parent))


if __name__ == "__main__":
    _main(int(sys.argv[1]))
