"""Handling a message once: a mark in Redis, with a time to live, for what was handled.

At-least-once delivery hands a message out again after a crash, a rebalance or a lost answer. ``idempotent`` puts a mark
around a handler in two phases: while it runs, a lease that belongs to this call alone and is renewed; when it is done,
"done" for ``ttl_s``. A handler that fails gives its lease back at once; one that dies, when the lease ends.

Redis is imported with the first message, so that the SDK goes without it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from .client.core import forking
from .errors import ConfigError
from .model import ConsumeResult, MessageExt

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
RENEWAL = "rmq-redis-idempotent-renewal"
"""Name of the task that renews a running call's claim."""

_DONE = b"done"
_POLL_S = 0.02
"""How late a call may notice that another one with its key has ended; 50 GETs per second cost Redis nothing."""
_RENEWALS_PER_LEASE = 3
"""Two renewals may be lost before the claim expires."""
_BEGIN = """
local mark = redis.call('GET', KEYS[1])
if mark then return mark end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
_FINISH = """
local mark = redis.call('GET', KEYS[1])
if mark and mark ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], 'done', 'PX', ARGV[2])
return 1
"""
# Only the call's own claim: a renewal that arrives after the end of the claim must not restore it.
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


def _message_id(argument: Any) -> str:
    if not isinstance(argument, MessageExt):
        raise ConfigError(
            f"idempotent: the handler's last argument is a {type(argument).__name__}, no message: give key=, or have "
            "the handler take (value, message)"
        )
    return argument.msg_id


def idempotent(
    url: str,
    *,
    key: Callable[[Any], str] = _message_id,
    ttl_s: float = 24 * 3600.0,
    lease_s: float = 60.0,
    wait_s: float = 0.0,
    name: str | None = None,
) -> Callable[[F], F]:
    """Decorator of a handler (plain or a coroutine function): what it has handled it is not called for again.

    Args:
        url: Redis URL, ``redis://host:port/db``; any Redis or Valkey, it need not be the broker's.
        key: what counts as the same: gets the handler's last argument, the message as a rule. Default: the message id
            that the producer gave, which retries keep; a business key also catches what was sent twice.
        ttl_s: seconds for which a handled key is remembered.
        lease_s: what a redelivery after a crash has to wait at most. It is renewed three times in that time while the
            handler runs; a call that cannot do so (Redis is away, its process or event loop stands still) for so many
            seconds does not keep others from the message any more, which is logged.
        wait_s: while another call handles the key, wait so many seconds for its outcome before LATER is returned.
        name: keeps the marks of different handlers apart; default: the handler's module and name.

    Raises:
        ConfigError: a time that is not above 0. Errors of Redis are raised by the handler: the message comes again.
    """
    if not (ttl_s > 0 and lease_s > 0 and wait_s >= 0):
        raise ConfigError(f"idempotent: ttl_s={ttl_s}, lease_s={lease_s} must be above 0, wait_s={wait_s} not below")

    def decorate(function: F) -> F:
        prefix = f"rmq:idempotent:{name or f'{function.__module__}.{function.__qualname__}'}:"
        marks = _Marks(url, int(ttl_s * 1000) or 1, int(lease_s * 1000) or 1)
        guard = _Guard(marks, lambda value: prefix + key(value), wait_s)
        guarded = _guarded_async if inspect.iscoroutinefunction(function) else _guarded
        return guarded(function, guard)  # type: ignore[return-value]

    return decorate


@dataclass(frozen=True)
class _Guard:
    """What one handler is guarded with. ``key``: the Redis key of the handler's last argument."""

    marks: _Marks
    key: Callable[[Any], str]
    wait_s: float


def _guarded_async(function: Callable[..., Any], guard: _Guard) -> Callable[..., Any]:
    @functools.wraps(function)
    async def handle_async(*arguments: Any) -> Any:
        full_key, token = guard.key(arguments[-1]), uuid.uuid4().hex
        deadline = time.monotonic() + guard.wait_s
        while (mark := await guard.marks.call_async(_BEGIN, full_key, token, guard.marks.lease_ms)) != token.encode():
            if mark == _DONE:
                logger.debug("%s was handled before", full_key)
                return None
            if time.monotonic() >= deadline:
                return ConsumeResult.LATER
            await asyncio.sleep(_POLL_S)
        succeeded = False
        ended = asyncio.Event()
        renewal = asyncio.create_task(guard.marks.renew(full_key, token, ended), name=RENEWAL)
        try:
            outcome = await function(*arguments)
            succeeded = _is_success(outcome)
        finally:
            ended.set()
            if not succeeded:
                await guard.marks.call_async(_RELEASE, full_key, token)
        if succeeded:
            guard.marks.check(await guard.marks.call_async(_FINISH, full_key, token, guard.marks.ttl_ms), full_key)
        await renewal
        return outcome

    return handle_async


def _guarded(function: Callable[..., Any], guard: _Guard) -> Callable[..., Any]:
    @functools.wraps(function)
    def handle(*arguments: Any) -> Any:
        full_key, token = guard.key(arguments[-1]), uuid.uuid4().hex
        deadline = time.monotonic() + guard.wait_s
        while (mark := guard.marks.call(_BEGIN, full_key, token, guard.marks.lease_ms)) != token.encode():
            if mark == _DONE:
                logger.debug("%s was handled before", full_key)
                return None
            if time.monotonic() >= deadline:
                return ConsumeResult.LATER
            time.sleep(_POLL_S)
        succeeded = False
        end_renewal = guard.marks.renew_in_background(full_key, token)
        try:
            outcome = function(*arguments)
            succeeded = _is_success(outcome)
        finally:
            end_renewal()
            if not succeeded:
                guard.marks.call(_RELEASE, full_key, token)
        if succeeded:
            guard.marks.check(guard.marks.call(_FINISH, full_key, token, guard.marks.ttl_ms), full_key)
        return outcome

    return handle


def _is_success(outcome: Any) -> bool:
    return outcome is None or outcome is True or outcome == ConsumeResult.SUCCESS


class _Marks:
    """The marks of one handler: a Redis client per process for threads, and one per event loop."""

    def __init__(self, url: str, ttl_ms: int, lease_ms: int) -> None:
        self.ttl_ms = ttl_ms
        self.lease_ms = lease_ms
        self._url = url
        self._lock = threading.Lock()
        self._client: Any = None
        self._client_pid = 0
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()
        forking.track(self)

    def forked(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def call(self, script: str, key: str, *arguments: str | int) -> Any:
        with self._lock:
            if self._client is None or self._client_pid != os.getpid():
                self._client, self._client_pid = _redis().Redis.from_url(self._url), os.getpid()
        return self._client.eval(script, 1, key, *arguments)

    async def call_async(self, script: str, key: str, *arguments: str | int) -> Any:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = _redis().asyncio.Redis.from_url(self._url)
        return await client.eval(script, 1, key, *arguments)

    async def renew(self, key: str, token: str, ended: asyncio.Event) -> None:
        """Keeps the claim that ``token`` has on a key until it is ended, or lost."""
        while True:
            try:
                async with asyncio.timeout(self.lease_ms / 1000 / _RENEWALS_PER_LEASE):
                    await ended.wait()
                return
            except TimeoutError:
                pass
            try:
                renewed = await self.call_async(_RENEW, key, token, self.lease_ms)
            except Exception as error:  # whatever it is: until the lease runs out there is a next time
                logger.warning("%s: the claim cannot be renewed while its handler runs: %s", key, error)
                continue
            if not renewed:
                if not ended.is_set():
                    logger.warning(
                        "%s: the claim was lost while its handler runs: another call may handle the message, too. "
                        "It was not renewed for %g s, or somebody removed it",
                        key,
                        self.lease_ms / 1000,
                    )
                return

    def renew_in_background(self, key: str, token: str) -> Callable[[], None]:
        """As ``renew``, for a handler that has no event loop; returns what ends it."""
        from .client.blocking.loop import background_loop

        loop, ended = background_loop(), asyncio.Event()

        async def renew() -> None:
            task = asyncio.current_task()
            assert task
            task.set_name(RENEWAL)
            await self.renew(key, token, ended)

        loop.submit(renew())
        return lambda: loop.call_soon(ended.set)

    @staticmethod
    def check(finished: Any, key: str) -> None:
        if not finished:
            logger.warning(
                "%s: the handler lost its claim, and another call has the key: the message may be handled twice", key
            )


def _redis() -> Any:
    import redis
    import redis.asyncio

    return redis
