"""What an interceptor may have: pairs of calls before and after a send, and before, after and around a handler.

An interceptor is any object with some of the methods below; producers and push consumers take them as
``interceptors=[...]``, and a plugin may offer them. They are called in the order of the list before, and in the reverse
order after. Every method is a coroutine function or a plain one, which runs in the event loop and must not block.

``before_*`` and ``after_*`` observe: one that raises is logged and the message goes on, as it was. The exception is
``MessageRefusedError`` of ``before_send``: the message is not sent, and the caller gets that error. ``around_handle``
does not observe but is part of the handling: what it returns or raises is the handler's outcome.

Source: RocketMQ's ``SendMessageHook`` and ``ConsumeMessageHook``, which may not change anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ..model import Message, MessageExt, SendResult

SEND_METHODS = ("before_send", "after_send")
HANDLE_METHODS = ("before_handle", "after_handle", "around_handle")

CallNext = Callable[[MessageExt], Awaitable[Any]]
"""The next interceptor, or the handler itself: its result; raises what it raises."""


class SendInterceptor(Protocol):
    """Sees every message of a producer: single, oneway, in a batch, in a transaction, and requests."""

    def before_send(self, message: Message) -> Any:
        """Called with the message before anything is checked.

        Returns:
            The message to be sent instead (or an awaitable of it), or None for this one.

        Raises:
            MessageRefusedError: it must not be sent.
        """

    def after_send(self, message: Message, result: SendResult | None, error: BaseException | None) -> Any:
        """Called with the outcome, if ``before_send`` was called: ``result`` or ``error``; oneway has neither.

        Messages of a batch share its result; ``message`` is what was sent.
        """


class HandleInterceptor(Protocol):
    """Sees every delivery of a push consumer: first ones, retries, orderly, broadcast."""

    def before_handle(self, message: MessageExt) -> Any:
        """Called before the handler. Returns the message to be handled instead (decrypted, say), or None."""

    def after_handle(self, message: MessageExt, result: Any, error: BaseException | None) -> Any:
        """Called with what the handler returned, or raised; ``message`` is what it got."""

    async def around_handle(self, message: MessageExt, call_next: CallNext) -> Any:
        """Handles the message, as a rule by ``return await call_next(message)``.

        Returns:
            What a handler returns: without a call of ``call_next``, None takes the message as done.
        """
