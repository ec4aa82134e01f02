"""The offsets of a broadcasting consumer, in a file of this machine.

``<offset_store_path>/<client id>/<group>/offsets.json``; the version before it is ``offsets.json.bak``. A lock file
keeps two consumers from one directory.

Source: RocketMQ's LocalFileOffsetStore; the client id of its broadcasting consumers is ``ip@DEFAULT``, too.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import msgspec

from ...data_dir import expand_user, user_data_dir
from ...errors import ClientError, ConfigError
from ...file_lock import try_lock
from ...model import MessageQueue
from ..core import forking

logger = logging.getLogger(__name__)

DEFAULT_INSTANCE = "DEFAULT"
MAX_INSTANCES = 1000
_NOT_IN_NAMES = r'[/\\:*?"<>|]' if os.name == "nt" else "/"


class _Entry(msgspec.Struct, rename="camel"):
    topic: str
    broker_name: str
    queue_id: int
    offset: int


class _File(msgspec.Struct):
    offsets: list[_Entry]


def store_path(setting: str) -> Path:
    """The directory of the setting; ``offsets`` in ``user_data_dir`` without one. Raises ConfigError."""
    if setting:
        return expand_user(setting, "offset_store_path")
    return user_data_dir("offset_store_path") / "offsets"


class LocalOffsets:
    """The directory of one consumer, which is ours until ``close``.

    Attributes:
        client_id: the id that goes with the directory, the same after a restart.
    """

    def __init__(self, client_id: str, directory: Path, lock: int) -> None:
        self.client_id = client_id
        self._file = directory / "offsets.json"
        self._backup = directory / "offsets.json.bak"
        self._lock = lock
        forking.track(self)

    def load(self) -> dict[MessageQueue, int]:
        """What was saved last; the version before when that cannot be read; empty for a new consumer."""
        for path in (self._file, self._backup):
            try:
                found = msgspec.json.decode(path.read_bytes(), type=_File)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, msgspec.MsgspecError) as error:
                logger.warning("offsets in %s cannot be read, trying the version before: %s", path, error)
                continue
            return {MessageQueue(e.topic, e.broker_name, e.queue_id): e.offset for e in found.offsets}
        return {}

    def save(self, offsets: dict[MessageQueue, int]) -> None:
        """Replaces the file; a crash at any point leaves it or the version before.

        Raises:
            OSError: it cannot be written.
        """
        entries = [_Entry(q.topic, q.broker_name, q.queue_id, offset) for q, offset in sorted(offsets.items())]
        new = self._file.with_suffix(".json.new")
        with new.open("wb") as out:
            out.write(msgspec.json.format(msgspec.json.encode(_File(entries))))
            out.flush()
            os.fsync(out.fileno())
        if self._file.exists():
            self._file.replace(self._backup)
        new.replace(self._file)

    def forked(self) -> None:
        """In a forked child: the lock is the parent's, and ends with the parent's descriptor alone."""
        if self._lock >= 0:
            forking.detach(self._lock)

    def close(self) -> None:
        """Leaves the directory to the next consumer."""
        os.close(self._lock)
        self._lock = -1


def claim(root: Path, client_ip: str, instance_name: str, group: str) -> LocalOffsets:
    """Takes a directory for a consumer.

    Args:
        instance_name: "" for DEFAULT, or if that runs already on this machine, DEFAULT-2, DEFAULT-3, ...

    Raises:
        ClientError: a consumer of that instance name and group runs already.
        ConfigError: the directory cannot be written.
    """
    for number in range(1, MAX_INSTANCES):
        name = instance_name or (DEFAULT_INSTANCE if number == 1 else f"{DEFAULT_INSTANCE}-{number}")
        client_id = f"{client_ip}@{name}"
        directory = root / re.sub(_NOT_IN_NAMES, "_", client_id) / group
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(
                f"the offsets of a broadcasting consumer cannot be kept in {directory} ({error.strerror}): "
                "set offset_store_path to a directory that can be written"
            ) from None
        if not try_lock(lock):
            os.close(lock)
            if instance_name:
                raise ClientError(
                    f"a broadcasting consumer of group {group!r} with instance_name={instance_name!r} runs already on "
                    "this machine: give each its own instance_name, or none"
                ) from None
            continue
        return LocalOffsets(client_id, directory, lock)
    raise ClientError(f"{MAX_INSTANCES} broadcasting consumers of group {group!r} run on this machine already")
