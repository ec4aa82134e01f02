"""Back-pressure: appends that a slow store would keep waiting are held here, and refused before they were sent.

What went to Redis cannot be taken back: it may be stored any time later, so its sender is answered when Redis answers,
or never. Therefore nothing more is sent to a store that answers nothing, and what waits here too long is refused; that
is sure not to be stored. Source: RocketMQ 5.3 ``BrokerFastFailure``, ``isOSPageCacheBusy``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ...errors import StoreBusyError, StoreError

_STALL_S = 0.05
"""Seconds without a response from the store after which nothing more is sent to it until it answers."""
_TICK_S = 0.02
"""Finer than ``_STALL_S``, and coarse enough that 50 checks per second cost nothing."""

C = TypeVar("C")


class AppendWindow(Generic[C]):
    """Group commits on their way to the store: counted, and held back while it does not answer.

    Attributes:
        busy: the store has answered nothing for ``busy_s`` seconds though something is on its way.
    """

    def __init__(
        self, send: Callable[[C], None], refuse: Callable[[C, StoreError], None], *, max_wait_s: float, busy_s: float
    ) -> None:
        """
        Args:
            send: sends a commit; ``answered`` is to be called with its response.
            refuse: reports to a commit's senders that it was not sent.
            max_wait_s: seconds after which a held commit is refused.
        """
        self._send = send
        self._refuse = refuse
        self._max_wait_s = max_wait_s
        self._busy_s = busy_s
        self._stall_s = _STALL_S
        self._loop = asyncio.get_running_loop()
        self._in_flight = 0
        self._progress_s = 0.0
        self._held: deque[tuple[float, C, bool]] = deque()
        self._releasing = False
        self._timer: asyncio.TimerHandle | None = None
        self.busy = False

    def allow_pauses(self, seconds: float) -> None:
        """Pauses of the store that are in order (it waits for its replicas or its disk) do not count as slow."""
        self._stall_s = _STALL_S + seconds
        self._busy_s = max(self._busy_s, self._stall_s)

    @property
    def held(self) -> int:
        """How many commits are held."""
        return len(self._held)

    @property
    def holds(self) -> bool:
        """Whether a commit that is offered now is held."""
        if not self._in_flight:
            return False
        return bool(self._held) or self._loop.time() - self._progress_s > self._stall_s

    @property
    def head_wait_ms(self) -> int:
        """How long the first of them has been waiting."""
        return int((self._loop.time() - self._held[0][0]) * 1000) if self._held else 0

    def offer(self, commit: C, *, patient: bool = False) -> None:
        """Sends a commit, or holds it behind those that are held; a patient one for as long as it takes."""
        now = self._loop.time()
        if not self._in_flight:
            self._progress_s = now
        elif self.holds:
            self._held.append((now, commit, patient))
            if self._timer is None:
                self._timer = self._loop.call_later(_TICK_S, self._tick)
            return
        self._in_flight += 1
        self._send(commit)

    def answered(self) -> None:
        """A commit that was sent has its answer, whatever it is: the store lives, and gets what is held."""
        self._in_flight -= 1
        self._progress_s = self._loop.time()
        self.busy = False
        if self._held and not self._releasing:
            self._releasing = True
            try:
                while self._held:
                    self._in_flight += 1
                    self._send(self._held.popleft()[1])
            finally:
                self._releasing = False

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        late = [item for item in self._held if not item[2] and now - item[0] > self._max_wait_s]
        if late:
            self._held = deque(item for item in self._held if item[2] or now - item[0] <= self._max_wait_s)
        for began, commit, _ in late:
            self._refuse(
                commit,
                StoreBusyError(
                    "[TIMEOUT_CLEAN_QUEUE]broker busy, start flow control for a while, period in queue: "
                    f"{(now - began) * 1000:.0f}ms, size of queue: {len(self._held)}"
                ),
            )
        self.busy = self._in_flight > 0 and now - self._progress_s > self._busy_s
        if self._held or (self._in_flight and not self.busy):
            self._timer = self._loop.call_later(_TICK_S, self._tick)
