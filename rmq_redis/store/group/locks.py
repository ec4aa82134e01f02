"""Queue locks of orderly consumers: in memory, and written to the store before they are granted.

A lock must outlive the process that gave it out: the first member that reaches a broker's successor would otherwise get
the queues of those that are still on their way, and with them messages that these have at a handler.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import NamedTuple

from ...errors import StoreError
from ..redis.connection import Arg
from .session import GroupSession

logger = logging.getLogger(__name__)


class LockKey(NamedTuple):
    """What is locked: a queue, for one consumer group."""

    group: str
    topic: str
    queue_id: int


class Lock(NamedTuple):
    """``granted_s``: event-loop time at which it was granted or renewed last."""

    client_id: str
    granted_s: float


class LockStore:
    """The locks of one broker group. A lock that was not renewed for ``expiry_s`` seconds is free."""

    def __init__(self, session: GroupSession, expiry_s: float) -> None:
        self._session = session
        self._expiry_s = expiry_s
        self._loop = asyncio.get_running_loop()
        self._locks: dict[LockKey, Lock] = {}

    async def load(self) -> None:
        """Reads the locks that this master's predecessor gave out; removes those that are over. Raises StoreError."""
        connection, role = self._session.current_read(), self._session.role
        answer = await connection.execute("HGETALL", self._session.keys.locks)
        if self._session.role != role:  # what a slave asked for is too old for a master
            return
        now_s, now_ms = self._loop.time(), time.time() * 1000
        self._locks = {}
        for field, value in zip(answer[::2], answer[1::2], strict=True):
            try:
                group, topic, queue_id = field.decode().split(":")
                granted_ms, _, client_id = value.decode().partition(":")
                age_s = max(0.0, (now_ms - int(granted_ms)) / 1000)  # the clock that wrote it may be ahead of this one
                self._locks[LockKey(group, topic, int(queue_id))] = Lock(client_id, now_s - age_s)
            except ValueError:
                name = self._session.keys.locks.decode()
                logger.error("hash %s field %r is damaged, ignored: %r", name, field, value)
        over = [key for key, lock in self._locks.items() if lock.granted_s < now_s - self._expiry_s]
        if over:
            for key in over:
                del self._locks[key]
            await self._write(over, b"")

    async def lock(self, client_id: str, keys: Iterable[LockKey]) -> list[LockKey]:
        """Grants what is free or held by this client already; returns what was granted.

        Raises:
            StoreError: the store did not take it; nothing is granted.
        """
        now = self._loop.time()
        before: dict[LockKey, Lock | None] = {}
        lock = Lock(client_id, now)
        for key in keys:
            held = self._locks.get(key)
            if held is None or held.client_id == client_id or held.granted_s < now - self._expiry_s:
                before.setdefault(key, held)
                self._locks[key] = lock  # at once: who asks meanwhile does not get it
        if before:
            try:
                await self._write(before, b"%d:%b" % (time.time() * 1000, client_id.encode()))
            except StoreError:
                for key, held in before.items():
                    if self._locks.get(key) is lock:
                        self._put_back(key, held)
                raise
        return list(before)

    def _put_back(self, key: LockKey, held: Lock | None) -> None:
        if held is None:
            del self._locks[key]
        else:
            self._locks[key] = held

    async def unlock(self, client_id: str, keys: Iterable[LockKey]) -> None:
        """Frees those that this client holds. Raises StoreError: they are free here, and expire in the store."""
        mine = [key for key in keys if (held := self._locks.get(key)) and held.client_id == client_id]
        for key in mine:
            del self._locks[key]
        if mine:
            await self._write(mine, b"")

    async def write_all(self) -> None:
        """Writes the locks to a store that has lost them. Raises StoreError."""
        by_value: dict[bytes, list[LockKey]] = {}
        now_s, now_ms = self._loop.time(), time.time() * 1000
        for key, lock in self._locks.items():
            granted_ms = now_ms - (now_s - lock.granted_s) * 1000
            by_value.setdefault(b"%d:%b" % (granted_ms, lock.client_id.encode()), []).append(key)
        for value, keys in by_value.items():
            await self._write(keys, value)

    async def _write(self, keys: Iterable[LockKey], value: bytes) -> None:
        args: list[Arg] = [value]
        args += (f"{key.group}:{key.topic}:{key.queue_id}" for key in keys)
        await self._session.call("put_locks", [self._session.keys.locks], args)
