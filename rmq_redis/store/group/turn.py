"""Batches by turn of the event loop: everything that arrives in one turn goes to Redis in one call of a function."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ...errors import StoreError
from ..redis.connection import Arg
from .session import GroupSession

logger = logging.getLogger(__name__)

T = TypeVar("T")

Encode = Callable[[list[T]], tuple[list[bytes], list[Arg]]]
"""Keys and arguments of the call for these items, without the group's epoch."""
Answer = Callable[[T, Any, "StoreError | None"], None]
"""Gets an item with its part of the function's answer (None: it failed), and the error.

A StoreUnconfirmedError comes with an answer: the item is stored.
"""


class Turn(Generic[T]):
    """The items of one turn.

    Attributes:
        size: bytes of their records.
        ended_s: event-loop time of the end of the turn.
    """

    __slots__ = ("ended_s", "items", "size")

    def __init__(self) -> None:
        self.items: list[T] = []
        self.size = 0
        self.ended_s = 0.0


def _nothing(turn: Turn[T], error: StoreError | None) -> None:
    pass


class TurnBatch(Generic[T]):
    """Collects the items of a turn, sends them in one call, and answers each; counts the bytes that are pending.

    The function answers with a list, one element an item.

    Attributes:
        turn: the items of this turn of the event loop.
    """

    def __init__(
        self,
        session: GroupSession,
        function: str,
        encode: Encode[T],
        answer: Answer[T],
        *,
        offer: Callable[[Turn[T]], None] | None = None,
        on_answered: Callable[[Turn[T], StoreError | None], None] = _nothing,
    ) -> None:
        """
        Args:
            offer: gets a turn instead of ``send``, and hands it to ``send`` or ``refuse`` when it likes.
            on_answered: called with a turn that was sent, before its items are answered, and the error if it failed.
        """
        self._session = session
        self._function = function
        self._encode = encode
        self._answer = answer
        self._offer = offer or self.send
        self._on_answered = on_answered
        self.turn: Turn[T] = Turn()
        self._loop = asyncio.get_running_loop()

    def add(self, item: T, size: int = 0) -> None:
        """Adds an item, whose records have ``size`` bytes."""
        turn, session = self.turn, self._session
        if not turn.items:
            self._loop.call_soon(self.flush)
        turn.items.append(item)
        turn.size += size
        session.pending_bytes += size
        session.put_bytes += size

    def flush(self) -> None:
        """Sends now what waits for the end of the turn."""
        if self.turn.items:
            turn, self.turn = self.turn, Turn()
            turn.ended_s = self._loop.time()
            self._offer(turn)

    def send(self, turn: Turn[T]) -> None:
        """Sends a turn."""

        def answered(answer: Any, late: StoreError | None = None) -> None:
            if isinstance(answer, StoreError):
                self._on_answered(turn, answer)
                self.refuse(turn, answer)
            else:
                self._on_answered(turn, None)
                self._answer_all(turn, answer, late)

        keys, args = self._encode(turn.items)
        self._session.send(answered, self._function, keys, args)

    def refuse(self, turn: Turn[T], error: StoreError) -> None:
        """Answers every item of a turn with an error."""
        self._answer_all(turn, [None] * len(turn.items), error)

    def _answer_all(self, turn: Turn[T], answers: list[Any], error: StoreError | None) -> None:
        self._session.pending_bytes -= turn.size
        tell = self._answer
        for item, answer in zip(turn.items, answers, strict=True):
            try:
                tell(item, answer, error)
            except Exception:  # an error in one caller must not cost the others of the turn their answers
                logger.exception("store: the handler of an answer to %s failed", self._function)
