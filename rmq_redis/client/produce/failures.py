"""Which failures of a send are worth another attempt, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import tenacity

from ...codes import ResponseCode
from ...errors import RemotingConnectError, RemotingError, ResponseError, RouteNotFoundError

RETRIABLE_CODES = frozenset(
    {
        ResponseCode.SYSTEM_ERROR,
        ResponseCode.SYSTEM_BUSY,
        ResponseCode.SERVICE_NOT_AVAILABLE,
        ResponseCode.NO_PERMISSION,
        ResponseCode.TOPIC_NOT_EXIST,
        ResponseCode.NO_BUYER_ID,
        ResponseCode.NOT_IN_CURRENT_UNIT,
        ResponseCode.GO_AWAY,
    }
)
"""Answers after which a send is tried again on another broker. Source: DefaultMQProducer.retryResponseCodes."""
AWAY_CODES = (ResponseCode.SERVICE_NOT_AVAILABLE, ResponseCode.GO_AWAY)
"""Answers of a broker that restarts, or is not the master now."""


def is_retriable(error: BaseException) -> bool:
    """Whether another broker, or the same one later, might take the message."""
    if isinstance(error, ResponseError):
        return error.code in RETRIABLE_CODES
    return isinstance(error, RemotingError | RouteNotFoundError)


def is_away(error: BaseException) -> bool:
    """Whether a broker is unreachable, or is not the master now: another one will be in a moment."""
    if isinstance(error, ResponseError):
        return error.code in AWAY_CODES
    return isinstance(error, RemotingConnectError | RouteNotFoundError)


class StopAtDeadline(tenacity.stop.stop_base):
    """No further attempt after a time of the event loop's clock."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(self, _state: tenacity.RetryCallState) -> bool:
        return asyncio.get_running_loop().time() >= self._deadline


class StopWhen(tenacity.stop.stop_base):
    """No further attempt once a condition holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def __call__(self, _state: tenacity.RetryCallState) -> bool:
        return self._condition()
