"""What starts and closes can be used with ``async with``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import NoReturn, Self

from ...config import ClientConfig
from ...errors import ClientError
from .instance import MQClientInstance


def refuse_pickle(client: object) -> NoReturn:
    """Raises the TypeError of an object that belongs to one process."""
    raise TypeError(f"a {type(client).__name__} cannot be pickled or copied: create one in the process that uses it")


class AsyncLifecycle(ABC):
    """``async with`` for a class with ``start`` and ``close``."""

    @abstractmethod
    async def start(self) -> None:
        """Makes it ready."""

    @abstractmethod
    async def close(self) -> None:
        """Ends it; a second call does nothing."""

    def __reduce__(self) -> NoReturn:
        refuse_pickle(self)

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


class AsyncClient(AsyncLifecycle):
    """What has connections of its own."""

    config: ClientConfig
    _instance: MQClientInstance

    @property
    def is_inherited(self) -> bool:
        """Whether this process got it by a fork after its start: then it cannot be used."""
        return self._instance.is_inherited

    def check_process(self) -> None:
        """Raises ClientError if ``is_inherited``."""
        self._instance.check_process()
