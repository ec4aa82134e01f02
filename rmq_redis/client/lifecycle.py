"""What starts and closes can be used with ``async with``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from ..errors import ClientError


class AsyncLifecycle(ABC):
    """``async with`` for a class with ``start`` and ``close``."""

    @abstractmethod
    async def start(self) -> None:
        """Makes it ready."""

    @abstractmethod
    async def close(self) -> None:
        """Ends it; a second call does nothing."""

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except ClientError:  # used wrongly (started before): not ours to close
            raise
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
