"""A TCP proxy that can be cut: what a partition of the network is to those behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


class Proxy:
    """Forwards connections to a port of this machine, and holds everything back while it is cut.

    Nothing is lost by a cut, as TCP repeats what did not arrive: it comes when the cut ends, if both ends still wait.

    Attributes:
        port: where it listens, once started.
        target_port: where connections go.
    """

    def __init__(self, target_port: int = 0) -> None:
        self.port = 0
        self.target_port = target_port
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """From now on nothing gets through."""
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        target: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            target_reader, target = await asyncio.open_connection("127.0.0.1", self.target_port)
            await self._both(self._copy(reader, target), self._copy(target_reader, writer))
        except OSError:
            pass  # nobody listens there: the same to the caller
        except asyncio.CancelledError:
            pass  # close(); asyncio's streams log a cancelled handler as an error
        finally:
            self._tasks.discard(task)
            for end in (writer, target):
                if end is not None:
                    end.transport.abort()

    @staticmethod
    async def _both(*copies: Coroutine[object, object, None]) -> None:
        tasks = [asyncio.ensure_future(copy) for copy in copies]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(256 * 1024):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        await self._open.wait()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
