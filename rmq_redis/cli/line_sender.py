"""Sends lines as messages, many at a time, and reports the results in the order of the lines."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from ..client.produce.producer import AsyncProducer
from ..config import ClientConfig, from_env
from ..errors import MessageIllegalLocallyError, RmqError
from ..model import Message, SendResult, SendStatus
from ..runtime import Stopped, stop_signals, unless_stopped
from .fields import send_result
from .lines import read_lines
from .output import note, number, print_json, say

if TYPE_CHECKING:
    from ..client.core.settings import ClientSettings

SENDS_IN_FLIGHT = 64
"""Enough to fill a connection to a broker in the same network; more would only hold more lines in memory."""


class LineSender:
    """One call of ``send``; with a sharding key one line at a time, because order matters then."""

    def __init__(self, message: Callable[[bytes], Message], key: str | None, json: bool) -> None:
        """
        Args:
            message: makes the message of a line.
            key: sharding key of all messages.
            json: print each result as JSON instead of the number of messages.
        """
        self._message = message
        self._key = key
        self._json = json
        self._in_flight: deque[tuple[int, asyncio.Task[SendResult]]] = deque()
        self._line = self._sent = self._empty = 0
        self._statuses: Counter[SendStatus] = Counter()

    async def send(
        self, file: int, group: str, namesrv: str, settings: ClientSettings
    ) -> tuple[Counter[SendStatus], bool]:
        """Sends the lines of an open file as they arrive. On Ctrl-C, messages in flight are finished.

        Returns:
            The number of messages per status, and whether Ctrl-C stopped it before the end of the file.
        """
        began = time.monotonic()
        if self._key is None:
            settings = {**settings, "coalesce_sends": False}  # sends in one request share a queue, lines go round all
        async with AsyncProducer(group, namesrv, **settings) as producer:
            with stop_signals() as stop:
                chunks = read_lines(file, from_env(ClientConfig).max_message_bytes)
                try:
                    while lines := await unless_stopped(stop, self._next_lines(chunks)):
                        await self._send_lines(producer, lines, stop)
                except Stopped:
                    pass
                except MessageIllegalLocallyError as error:  # a line that is being read or sent is too long
                    await self._finish(0)
                    if not getattr(error, "__notes__", ()):
                        error.add_note(f"line {self._line + 1}; {self._sent} messages were sent before it")
                    raise
                await self._finish(0)
        self._report(time.monotonic() - began, stop.is_set())
        return self._statuses, stop.is_set()

    async def _next_lines(self, chunks: AsyncIterator[list[bytes]]) -> list[bytes]:
        """Waits for lines and meanwhile reports results, which may raise; [] at the end."""
        reading = asyncio.ensure_future(anext(chunks, []))
        try:
            while self._in_flight and not reading.done():
                await asyncio.wait({reading, self._in_flight[0][1]}, return_when=asyncio.FIRST_COMPLETED)
                while self._in_flight and self._in_flight[0][1].done():
                    await self._finish(len(self._in_flight) - 1)
            return await reading
        finally:
            reading.cancel()

    async def _send_lines(self, producer: AsyncProducer, lines: list[bytes], stop: asyncio.Event) -> None:
        for line in lines:
            self._line += 1
            text = line.rstrip(b"\r")
            if not text:
                self._empty += 1
                continue
            task = asyncio.create_task(producer.send(self._message(text), key=self._key))
            self._in_flight.append((self._line, task))
            is_alone = self._key is not None or self._sent == 0  # the first message shows whether sending works
            await self._finish(0 if is_alone else SENDS_IN_FLIGHT)
            if stop.is_set():
                raise Stopped

    async def _finish(self, most: int) -> None:
        """Waits until at most ``most`` messages are in flight. Raises the error of the first that fails."""
        while len(self._in_flight) > most:
            line, task = self._in_flight.popleft()
            try:
                result = await task
            except RmqError as error:
                for _, other in self._in_flight:
                    other.cancel()
                error.add_note(f"line {line}; {self._sent} messages were sent before it")
                raise
            self._sent += 1
            self._statuses[result.status] += 1
            if self._json:
                print_json(send_result(result))

    def _report(self, seconds: float, stopped: bool) -> None:
        if not self._json:
            say(f"sent {self._sent:,} messages in {seconds:.2f} s ({number(self._sent / seconds)}/s)")
        if self._empty:
            note(f"skipped {self._empty} empty lines")
        if stopped:
            note(f"stopped after line {self._line}: the lines after it were not sent")
