"""Children end with their parent, however that ends and whatever they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from rmq_redis import child_guard
from rmq_redis.child_guard import end_with_parent, guard_pid

_CHILD = """
import ctypes, signal, sys, time
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 0)  # the kernel sends no signal, as on other systems
{setup}
print("up", flush=True)
time.sleep(600)
"""
_PARENT = """
import subprocess, sys, time
from rmq_redis.child_guard import end_with_parent, guard_pid
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, preexec_fn=end_with_parent(float(sys.argv[2]))
)
child.stdout.readline()
{then}
print(child.pid, guard_pid(), flush=True)
time.sleep(600)
"""
_FORKS = """
import os
if os.fork() == 0:
    time.sleep(600)
"""


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("setup", "then", "drain_s"),
    [
        ("", "", 60.0),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "", 0.1),
        ("", "import os, signal; os.kill(child.pid, signal.SIGSTOP)", 60.0),
        ("", _FORKS, 60.0),
    ],
    ids=["idle", "ignores SIGTERM", "paused", "parent was forked"],
)
def test_child_of_a_killed_parent_ends(setup: str, then: str, drain_s: float) -> None:
    arguments = [_PARENT.format(then=then), _CHILD.format(setup=setup), str(drain_s)]
    with subprocess.Popen([sys.executable, "-c", *arguments], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child, guard = map(int, parent.stdout.readline().split())
        forked = [process for process in psutil.Process(parent.pid).children() if process.pid not in (child, guard)]
        try:
            assert _is_running(child)
            parent.kill()
            parent.wait()
            _wait(lambda: not _is_running(child), "the child ends")
            _wait(lambda: not _is_running(guard), "the guard ends")
        finally:
            for process in forked:
                process.kill()


def test_child_ends_if_its_parent_ended_before_the_guard_started() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    read, write = os.pipe()  # stays open: a forked copy of the parent can hold it
    try:
        os.write(write, b"%d 60\n" % child.pid)
        command = [sys.executable, "-I", "-S", child_guard.__file__, "0"]  # no process's parent is 0: it has ended
        subprocess.run(command, stdin=read, check=True, timeout=60)
        assert child.wait(60) == -signal.SIGTERM
    finally:
        os.close(read)
        os.close(write)
        child.kill()
        child.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a signal at the end of the parent")
def test_child_ends_if_its_parent_and_guard_are_killed() -> None:
    child_program = "import time; print('up', flush=True); time.sleep(600)"
    arguments = [_PARENT.format(then=""), child_program, "60"]
    with subprocess.Popen([sys.executable, "-c", *arguments], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child, guard = map(int, parent.stdout.readline().split())
        os.kill(guard, signal.SIGKILL)
        parent.kill()
        _wait(lambda: not _is_running(child), "the child ends")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a signal at the end of the parent")
def test_child_ends_if_its_parent_ended_before_requesting_the_signal() -> None:
    program = """
import os, time
from rmq_redis.child_guard import end_with_parent
bind = end_with_parent()
read, write = os.pipe()
if os.fork() == 0:
    middle = os.getpid()
    if os.fork() == 0:
        while os.getppid() == middle:
            time.sleep(0.01)
        bind()
        os.write(write, b"goes on")
    os._exit(0)
os.close(write)
while chunk := os.read(read, 100):
    print(chunk.decode())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == ""


def test_killed_guard_is_replaced() -> None:
    end_with_parent()
    first = guard_pid()
    assert first
    os.kill(first, signal.SIGKILL)
    _wait(lambda: not guard_pid(), "its end is noticed")
    end_with_parent()
    assert guard_pid() not in (0, first)


def test_guard_ends_when_its_parent_exits() -> None:
    program = "from rmq_redis.child_guard import end_with_parent, guard_pid; end_with_parent(); print(guard_pid())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    _wait(lambda: not _is_running(int(done.stdout)), "the guard ends")
    assert done.stderr == ""
