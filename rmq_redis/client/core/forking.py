"""What a fork copies is the parent's: the child's copies of sockets are given up, without a byte to them.

A socket and the epoll instance that watches it are shared by parent and child. A frame that the child writes goes into
the parent's connection, and a transport that the child drops takes the parent's socket off its event loop. So in the
child every descriptor of a started client is replaced, and every call raises ``ClientError``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from typing import Any, Protocol

from ...errors import ClientError
from ...runtime import green_threads


class Forkable(Protocol):
    """Has something that a forked child must not use."""

    def forked(self) -> None:
        """Called in the child, before anything else runs there. Must not raise."""


_tracked: weakref.WeakSet[Any] = weakref.WeakSet()
_kept: list[object] = []
"""In a child: what was inherited. Not dropped, so that no finalizer closes what is the parent's, too."""


def track(owner: Forkable) -> None:
    """Has ``forked`` called in every child that this process forks while ``owner`` exists."""
    _tracked.add(owner)


def tracked() -> list[object]:
    """The owners that exist."""
    return list(_tracked)


def keep(*inherited: object) -> None:
    """In a child: has no finalizer of these called before the process ends."""
    _kept.extend(inherited)


def _forked() -> None:
    owners = list(_tracked)
    _tracked.clear()
    for owner in owners:
        keep(owner)
        owner.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def inherited_error(process_id: int) -> ClientError:
    """What a call in a child raises for a client that process ``process_id`` started."""
    return ClientError(
        f"this client was started in process {process_id}, before a fork, and cannot be used in process {os.getpid()}: "
        "create and start a client in each process (gunicorn: post_fork; Celery: worker_process_init)"
    )


def detach(descriptor: int) -> None:
    """In a child: replaces a descriptor by a socket that nobody writes to. The parent's is not affected."""
    if descriptor < 0:
        return
    silent, other = socket.socketpair()
    silent.setblocking(False)
    os.dup2(silent.fileno(), descriptor, inheritable=False)
    silent.close()
    other.detach()  # stays open: an end without the other one reads as closed


def detach_loop(loop: asyncio.AbstractEventLoop) -> None:
    """In a child: cuts an event loop off from what it watches (epoll, kqueue), which is shared with the parent."""
    if green_threads():  # unlike a thread, a green thread goes on in the child
        _silence(loop)
        return
    of_uvloop = getattr(loop, "_get_backend_id", None)
    of_selector = getattr(getattr(loop, "_selector", None), "fileno", None)
    if of_uvloop is not None:
        detach(of_uvloop())
    elif of_selector is not None:
        detach(of_selector())
    for end in (getattr(loop, "_csock", None), getattr(loop, "_ssock", None)):
        if end is not None:
            detach(end.fileno())


def _silence(loop: Any) -> None:
    """Has asyncio's loop of a green thread do nothing more. It does not end, as its end would be seen by the new loop:
    what runs in a thread is noted once for all of its green threads.
    """
    loop._ready.clear()
    loop._scheduled.clear()
    loop.remove_reader(loop._ssock.fileno())
