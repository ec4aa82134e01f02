"""A user's handler: how it is called, and what its result means."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

from ...model import ConsumeResult, MessageExt

MessageHandler = Callable[[MessageExt], Any]
"""A function or coroutine function. None, True, SUCCESS: done. False, LATER, an exception: again later."""

_MAX_CHUNK = 64
_CHUNK_TARGET_S = 0.002
"""Work for one crossing to a thread, which itself costs some 50 µs."""


class Handler:
    """A user's handler, and how to call it."""

    __slots__ = ("average_s", "function", "is_async")

    def __init__(self, function: MessageHandler) -> None:
        call = getattr(function, "__call__", None)  # noqa: B004  (an object with an async __call__)
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
        self.average_s = _CHUNK_TARGET_S

    @property
    def chunk_size(self) -> int:
        """How many messages to take to a thread at once: about 2 ms of work, so that slow handlers run side by side."""
        return max(1, min(_MAX_CHUNK, int(_CHUNK_TARGET_S / max(self.average_s, 1e-6))))

    def run_in_thread(
        self, messages: Sequence[MessageExt], stop_at_failure: bool, is_stopping: Callable[[], bool]
    ) -> list[Any]:
        """Handles messages one after the other, until the service stops or, if wanted, up to the first failure.

        Returns:
            A result or exception of each message that was handled, at least of the first.
        """
        outcomes: list[Any] = []
        began = time.perf_counter()
        function = self.function
        for message in messages:
            if outcomes and is_stopping():
                break
            try:
                outcome = function(message)
            except Exception as error:
                outcome = error
            outcomes.append(outcome)
            if stop_at_failure and not is_success(outcome):
                break
        self.average_s += 0.2 * ((time.perf_counter() - began) / len(outcomes) - self.average_s)
        return outcomes


def is_success(outcome: Any) -> bool:
    """Whether a handler's result means that the message is done."""
    return outcome is None or outcome is True or outcome == ConsumeResult.SUCCESS


def takes_one(handler: Callable[..., Any]) -> bool:
    """Whether it can be called with a message, as far as its signature says."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # some that are written in C have none
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True
