"""A send without a coroutine, of which only its sender knows: for the callers of other threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import RmqError
from ...model import SendResult
from .bursts import Sender
from .failures import is_retriable
from .outgoing import Outgoing
from .topic import QueueTarget

if TYPE_CHECKING:
    from .delivery import Delivery


class Begun:
    """Gets the result of the first attempt. Only if that fails in a way that may pass, further ones run in a task."""

    __slots__ = ("_delivery", "_out", "_sender", "_target")

    def __init__(self, delivery: Delivery, out: Outgoing, target: QueueTarget, sender: Sender) -> None:
        self._delivery = delivery
        self._out = out
        self._target = target
        self._sender = sender

    def done(self) -> bool:
        """Whether nobody waits any more."""
        return self._sender.done()

    def set_result(self, result: SendResult) -> None:
        """The message is stored."""
        self._sender.set_result(result)

    def set_exception(self, exception: BaseException) -> None:
        """The first attempt failed."""
        if isinstance(exception, RmqError) and is_retriable(exception):
            delivery = self._delivery
            delivery.spawn(self._sender, delivery.repeat(self._out, self._target, delivery.ask, exception))
        else:
            self._sender.set_exception(exception)
