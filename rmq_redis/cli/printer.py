"""Prints the messages of a topic."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from ..client.admin.admin import AsyncAdmin
from ..client.consume.push import AsyncPushConsumer
from ..errors import ClientError, RouteNotFoundError
from ..model import MessageExt
from ..runtime import Stopped, stop_signals, unless_stopped
from .fields import message_fields
from .output import note, on_reader_gone, print_json
from .terminal import is_terminal, visible, visible_lines


class Printer:
    """One call of ``consume``."""

    def __init__(self, topic: str, most: int | None, timeout_s: float | None, *, verbose: bool, json: bool) -> None:
        """
        Args:
            most: stop after this many messages; None: no limit.
            timeout_s: stop after this many seconds without a message; None: never.
        """
        self._topic = topic
        self._most = most
        self._timeout_s = timeout_s
        self._verbose = verbose
        self._write = self._write_json if json else self._write_text
        self._is_raw = not is_terminal(sys.stdout)
        self._received = 0
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._output_error: Exception | None = None

    async def consume(self, group: str, subscription: tuple[str, str], namesrv: str, settings: dict[str, Any]) -> int:
        """Consumes until a stop signal, a limit, or the end of our output's reader; returns the number of messages.

        Raises:
            ClientError: standard output cannot be written.
        """
        await self._look_for_topic(namesrv)
        # Orderly: the messages of a queue come one after the other, and a refused message is not sent back.
        consumer = AsyncPushConsumer(
            group, namesrv, orderly=True, concurrency=1, poll_name_server_interval_s=1.0, **settings
        )
        expression, expression_type = subscription
        consumer.subscribe(self._topic, expression, self._handle, expression_type=expression_type)
        with stop_signals() as stop, on_reader_gone(lambda: self._cannot_write(BrokenPipeError())):
            async with consumer:
                try:
                    await unless_stopped(stop, unless_stopped(self._enough, self._until_quiet()))
                except Stopped:
                    pass
        self._check_output()
        return self._received

    async def _look_for_topic(self, namesrv: str) -> None:
        """Raises if no NameServer answers: a consumer would wait for one. Notes that the topic does not exist."""
        async with AsyncAdmin(namesrv) as admin:
            try:
                await admin.topic_route(self._topic)
            except RouteNotFoundError:
                note(f"topic {self._topic!r} does not exist yet; waiting for it")

    async def _handle(self, message: MessageExt) -> bool:
        if self._enough.is_set():
            return False  # the next member of the group gets it
        try:
            self._write(message)
        except (OSError, ValueError) as error:
            self._cannot_write(error)
            return False
        self._received += 1
        self._arrived.set()
        if self._received == self._most:
            self._enough.set()
        return True

    async def _until_quiet(self) -> None:
        while True:
            self._arrived.clear()
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _cannot_write(self, error: Exception) -> None:
        self._output_error = self._output_error or error
        self._enough.set()

    def _check_output(self) -> None:
        if isinstance(self._output_error, BrokenPipeError):  # no reader: print nothing more, not even at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        elif self._output_error:
            raise ClientError(f"cannot write to standard output: {self._output_error}")

    def _write_json(self, message: MessageExt) -> None:
        print_json(message_fields(message))

    def _write_text(self, message: MessageExt) -> None:
        out = sys.stdout.buffer
        if self._verbose:
            labels = "".join(f" {visible(text)}" for text in (message.tags, message.keys) if text)
            place = f"{message.broker_name}/{message.queue_id}@{message.queue_offset}{labels}: "
            out.write(place.encode(sys.stdout.encoding, "backslashreplace"))
        out.write(message.body if self._is_raw else _shown(message.body))
        out.write(b"\n")
        out.flush()


def _shown(body: bytes) -> bytes:
    """A body for a terminal: control characters become escapes."""
    return visible_lines(body.decode(errors="backslashreplace")).encode(sys.stdout.encoding, "backslashreplace")
