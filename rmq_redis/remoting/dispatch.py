"""Answers requests: the processor of each request code, and the response for each error. Servers and clients use it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ..codes import ResponseCode
from ..errors import InvalidParameterError, LocalProtocolError, ResponseError, RmqError, StoreError
from ..protocol.command import RemotingCommand, response
from .connection import Connection
from .inbound import TASK_BYTES, InboundBytes

logger = logging.getLogger(__name__)

Processor = Callable[[Connection, RemotingCommand], RemotingCommand | Awaitable[RemotingCommand | None] | None]
"""Answers a request: returns the response, or an awaitable of it, or None if it answers by itself.

A ``ResponseError`` that it raises becomes the response; any other exception becomes SYSTEM_ERROR and is logged.
"""


class Dispatcher:
    """Passes each request to the processor of its code; without one, the answer is code 3, as in Apache RocketMQ.

    Attributes:
        processors: by request code; None: every request is answered with SYSTEM_BUSY (2), because we are starting.
    """

    def __init__(
        self,
        processors: Mapping[int, Processor] | None,
        *,
        refusal: Callable[[RemotingCommand], str | None] = lambda command: None,
        inbound: InboundBytes | None = None,
    ) -> None:
        """
        Args:
            refusal: why a request is refused (code 29, INVALID_PARAMETER); None: it is processed.
            inbound: counts the requests that tasks handle.
        """
        self.processors = processors
        self._refusal = refusal
        self._inbound = inbound
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, connection: Connection, command: RemotingCommand) -> None:
        """Processes one request of a connection."""
        if self.processors is None:
            busy = response(command, ResponseCode.SYSTEM_BUSY, remark="[STARTING] try again in a moment")
            send_answer(connection, command, busy)
            return
        processor = self.processors.get(command.code)
        if processor is None:
            remark = f" request type {command.code} not supported"
            send_answer(connection, command, response(command, ResponseCode.REQUEST_CODE_NOT_SUPPORTED, remark=remark))
            return
        reason = self._refusal(command)
        if reason is not None:
            send_answer(connection, command, response(command, InvalidParameterError.code, remark=reason))
            return
        try:
            answer = processor(connection, command)
        except Exception as error:
            send_answer(connection, command, error_response(command, error))
            return
        if answer is None:
            return
        if isinstance(answer, RemotingCommand):
            send_answer(connection, command, answer)
            return
        task = asyncio.get_running_loop().create_task(finish(connection, command, answer))
        self._tasks.add(task)
        if self._inbound:
            self._inbound.add(TASK_BYTES)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._inbound:
            self._inbound.release(TASK_BYTES)

    async def close(self, timeout_s: float) -> None:
        """Waits for the requests that tasks handle, and cancels them after ``timeout_s`` seconds."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()


async def finish(connection: Connection, command: RemotingCommand, answer: Awaitable[RemotingCommand | None]) -> None:
    """Waits for an answer, which may fail, and sends it."""
    try:
        result = await answer
    except Exception as error:
        result = error_response(command, error)
    if result is not None:
        send_answer(connection, command, result)


def send_answer(connection: Connection, command: RemotingCommand, answer: RemotingCommand) -> None:
    """Sends the response to a request; an error instead when it cannot be encoded."""
    if command.flag & 2:  # oneway: never answered, not even with an error
        return
    try:
        connection.write_command(answer)
    except LocalProtocolError as error:
        logger.error("%s: answer to %d cannot be sent: %s", connection.remote_address, command.code, error)
        connection.write_command(response(command, ResponseCode.SYSTEM_ERROR, remark=str(error)))


def error_response(command: RemotingCommand, error: Exception) -> RemotingCommand:
    """The response for an error. It reveals nothing of our internals."""
    if isinstance(error, ResponseError):
        return response(command, error.code, remark=error.remark)
    if isinstance(error, StoreError):
        return response(command, error.code, remark=_store_remark(command, error))
    if isinstance(error, RmqError):
        return response(command, ResponseCode.SYSTEM_ERROR, remark=str(error))
    logger.error("request %d failed", command.code, exc_info=error)
    return response(command, ResponseCode.SYSTEM_ERROR, remark="internal error; the server's log has the details")


def _store_remark(command: RemotingCommand, error: StoreError) -> str:
    if not error.public_reason:
        return str(error)
    logger.warning("request %d: store: %s", command.code, error)
    return f"the store is not available: {error.public_reason}"


def processors_of(*groups: Any) -> dict[int, Processor]:
    """Merges the ``processors()`` of several objects. Registering two processors for one code is a bug."""
    merged: dict[int, Processor] = {}
    for group in groups:
        for code, processor in group.processors().items():
            assert code not in merged, code
            merged[int(code)] = processor
    return merged
