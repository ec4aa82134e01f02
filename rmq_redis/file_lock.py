"""Exclusive locks of files among the processes of a machine: flock, or what Windows has."""

from __future__ import annotations

import logging
import os
import sys

logger = logging.getLogger(__name__)


def try_lock(descriptor: int) -> bool:
    """Takes the lock of an open file; False if another process has it. It ends with the descriptor.

    On a system without file locks this logs a warning and returns True.
    """
    try:
        if sys.platform == "win32":
            return _try_lock_windows(descriptor)
        import fcntl
    except ImportError:
        logger.warning("this system has no file locks: give every consumer of this machine its own instance_name")
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _try_lock_windows(descriptor: int) -> bool:
    if sys.platform != "win32":
        raise ImportError
    import msvcrt

    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True
