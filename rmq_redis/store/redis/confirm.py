"""Synchronous replication (WAIT) and synchronous flush (WAITAOF) of what was written over a connection.

At most one question is on its way. What is written meanwhile waits for the next one, so a burst of batches costs one
WAIT each round trip and not one a batch; never one a message. The wait for its turn counts: each batch is answered
within its own timeout, or those that came just after a question would wait twice as long as their producer expects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ...codes import ResponseCode
from ...errors import StoreError, StoreRefusedError, StoreUnconfirmedError
from .connection import Arg, StoreConnection, settle

logger = logging.getLogger(__name__)

_GRAIN_S = 0.05
"""Batches whose timeouts are this close are reported together: Redis ends a WAIT no more exactly."""

Confirmed = Callable[["StoreError | None"], None]


class ConfirmedReply(Protocol):
    """Gets an answer as a ``Reply`` does, and ``late`` if the write is stored but not confirmed."""

    def __call__(self, answer: Any, late: StoreError | None = None, /) -> None: ...


@dataclass(slots=True)
class _Question:
    """One WAIT, WAITAOF, or both.

    Attributes:
        covered: what was written before it, in order, with the loop time by which it must be reported.
        failure: why it is not known to be on disk.
        is_late: whether the disk was only too slow.
    """

    covered: list[tuple[float, Confirmed]]
    timeout_ms: int
    failure: StoreError | None = None
    is_late: bool = False


class Confirmation:
    """Confirms that what was written over one connection to a primary is where it must be (WAIT, WAITAOF)."""

    def __init__(self, connection: StoreConnection, *, replicas: int, flush: bool, timeout_ms: int) -> None:
        """
        Args:
            replicas: number of replicas that must have it; 0: none.
            flush: whether the primary must have it on disk.
            timeout_ms: of replicas and disk each, from the call on.
        """
        self._connection = connection
        self._replicas = replicas
        self._flush = flush
        self._timeout_ms = timeout_ms
        self._short: bool | None = None
        """Fewer replicas are connected than required; checked before each WAIT, which would only time out.
        None: not checked yet; a replica that was just promoted has none."""
        self._next: list[tuple[float, Confirmed]] = []
        """What waits for the next WAIT, in order, with the loop time by which it must be reported."""
        self._loop = asyncio.get_running_loop()
        self._asking = False
        self._warned = False

    def after(self, confirmed: Confirmed) -> None:
        """Calls ``confirmed`` when all that was sent over the connection so far is confirmed.

        With None, with a StoreUnconfirmedError when it is stored and not (known to be) where it must be, or with
        another StoreError when the connection broke.
        """
        self._next.append((self._loop.time() + self._timeout_ms / 1000, confirmed))
        if not self._asking:
            self._ask()

    def call_function(self, reply: ConfirmedReply, name: str, keys: list[bytes], args: list[Arg]) -> None:
        """As ``StoreConnection.call_function``, but ``reply`` is called once the answer is confirmed, or failed."""
        stored: list[Any] = []
        is_late = False

        def answered(answer: Any) -> None:
            if isinstance(answer, StoreError):
                reply(answer)
                return
            stored.append(answer)
            if is_late:
                self.after(confirmed)

        def confirmed(error: StoreError | None) -> None:
            nonlocal is_late
            if not stored:  # it failed; or the library was lost, and the call was repeated behind this question
                is_late = True
                return
            if error is None or isinstance(error, StoreUnconfirmedError):
                reply(stored[0], error)
            else:
                reply(error)

        self._connection.call_function(answered, name, keys, args)
        self.after(confirmed)

    async def wait(self) -> None:
        """Returns when all that was sent so far is confirmed. Raises StoreError."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def confirmed(error: StoreError | None) -> None:
            settle(future, None, error)

        self.after(confirmed)
        await future

    def _ask(self) -> None:
        self._asking = True
        covered, self._next = self._next, []
        timeout_ms = max(1, int((covered[0][0] - self._loop.time()) * 1000))
        question = _Question(covered, timeout_ms)
        if self._flush:
            self._connection.call(partial(self._flushed, question), "WAITAOF", 1, 0, timeout_ms)
        if self._replicas and self._short is False:
            self._wait_for_replicas(question)
        elif self._replicas:
            self._connection.call(partial(self._counted, question), "ROLE")

    def _flushed(self, question: _Question, answer: Any) -> None:
        question.failure = self._judge_flush(answer)
        question.is_late = bool(question.failure) and not isinstance(answer, StoreError)
        if not self._replicas:
            self._finish(question, question.failure, is_late=question.is_late)

    def _counted(self, question: _Question, role: Any) -> None:
        too_few = self._too_few(role)
        if too_few:
            self._finish(question, too_few)
        else:
            self._wait_for_replicas(question)

    def _wait_for_replicas(self, question: _Question) -> None:
        self._connection.call(partial(self._replicated, question), "WAIT", self._replicas, question.timeout_ms)

    def _replicated(self, question: _Question, answer: Any) -> None:
        if isinstance(answer, StoreRefusedError):
            self._finish(question, self._cannot_wait(answer))
        elif isinstance(answer, StoreError):
            self._finish(question, answer)
        elif answer >= self._replicas:
            self._finish(question, question.failure, is_late=question.is_late)
        else:
            self._connection.call(partial(self._explain, question), "ROLE")

    def _explain(self, question: _Question, role: Any) -> None:
        too_few = self._too_few(role)
        self._finish(question, too_few or self._late(), is_late=too_few is None)

    def _judge_flush(self, answer: Any) -> StoreError | None:
        if isinstance(answer, StoreError):
            if self._connection.closed:
                return answer
            return StoreUnconfirmedError(
                f"stored; the store cannot say whether it is on disk: {answer} (SYNC_FLUSH needs WAITAOF, that is "
                "Redis 7.2 or Valkey, with appendonly yes)",
                ResponseCode.FLUSH_DISK_TIMEOUT,
            )
        if answer[0] >= 1:
            return None
        return StoreUnconfirmedError(
            f"stored; not known to be on disk after {self._timeout_ms} ms", ResponseCode.FLUSH_DISK_TIMEOUT
        )

    def _too_few(self, role: Any) -> StoreError | None:
        """What ROLE says: that too few replicas are connected, or None."""
        if isinstance(role, StoreRefusedError):
            if self._short is not False:
                logger.warning(
                    "store: ROLE is refused, so every send waits for WAIT while no replica is there: %s", role
                )
            self._short = False
            return None
        if isinstance(role, StoreError):
            return role
        connected = len(role[2]) if len(role) > 2 and isinstance(role[2], list) else 0
        before, self._short = self._short or False, connected < self._replicas
        if self._short != before:
            logger.warning("store: %d replicas are connected, %d are required", connected, self._replicas)
        if not self._short:
            return None
        return StoreUnconfirmedError(
            f"stored; {connected} replicas are connected, {self._replicas} are required",
            ResponseCode.SLAVE_NOT_AVAILABLE,
        )

    def _cannot_wait(self, refusal: StoreError) -> StoreError:
        if not self._warned:
            logger.error("store: WAIT is refused; SYNC_MASTER cannot confirm that replicas have a message: %s", refusal)
            self._warned = True
        return StoreUnconfirmedError(
            f"stored; SYNC_MASTER needs the command WAIT, which the store refuses: {refusal}",
            ResponseCode.SLAVE_NOT_AVAILABLE,
        )

    def _late(self) -> StoreError:
        return StoreUnconfirmedError(
            f"stored; fewer than {self._replicas} replicas had it after {self._timeout_ms} ms",
            ResponseCode.FLUSH_SLAVE_TIMEOUT,
        )

    def _finish(self, question: _Question, failure: StoreError | None, *, is_late: bool = False) -> None:
        """Reports the outcome; if it is only late, to those that timed out: the others wait for the next WAIT."""
        self._asking = False
        covered = question.covered
        if is_late:
            now = self._loop.time() + _GRAIN_S
            due = next((i for i, (deadline, _) in enumerate(covered) if i and deadline > now), len(covered))
            self._next[:0] = covered[due:]
            covered = covered[:due]
        for _, confirmed in covered:
            confirmed(failure)
        if self._next and not self._asking:
            self._ask()
