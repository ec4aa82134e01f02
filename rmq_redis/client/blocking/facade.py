"""What the blocking clients have in common: each runs its asynchronous twin on one event loop in one daemon thread.

They have no logic of their own. Arguments, results and errors are those of the twin.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar

from ...errors import ClientError, RmqError
from ..core import forking
from ..core.lifecycle import AsyncClient, refuse_pickle
from .loop import background_loop

T = TypeVar("T")
A = TypeVar("A", bound=AsyncClient)

_AS = re.compile(r"As ``(Async\w+)\.(\w+)``")


class Facade(Generic[A]):
    """Base of the blocking clients. ``help`` shows the twin's text behind "As ``AsyncX.y``"."""

    def __init_subclass__(cls) -> None:
        names = vars(sys.modules[cls.__module__])
        twin = names.get(f"Async{cls.__name__}")
        if twin:
            cls.__signature__ = inspect.signature(twin)  # type: ignore[attr-defined]
            cls.__doc__ = f"{cls.__doc__}\n\nAs ``{twin.__name__}``:\n\n{inspect.getdoc(twin)}"
        for method in vars(cls).values():
            found = _AS.match(getattr(method, "__doc__", None) or "")
            if found:
                method.__doc__ += "\n\n" + (inspect.getdoc(getattr(names[found[1]], found[2])) or "")

    def __init__(self, make: Callable[..., A]) -> None:
        # ``make`` makes the asynchronous twin; it takes further settings as keyword arguments.
        self._make = make
        self._twin = make()

    @property
    def _async(self) -> A:
        return self._twin

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            self._twin.check_process()
            loop = background_loop()
        except RmqError:
            coroutine.close()
            raise
        return loop.run(coroutine)

    def start(self) -> None:
        """As the asynchronous ``start``."""
        self._run(self._twin.start())

    def close(self) -> None:
        """As the asynchronous ``close``; in a forked child that inherited it, does nothing."""
        if not self._twin.is_inherited:
            self._run(self._twin.close())

    def __reduce__(self) -> NoReturn:
        refuse_pickle(self)

    def __enter__(self) -> Self:
        try:
            self.start()
        except ClientError:  # used wrongly (started before): not ours to close
            raise
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _RenewLock:
    """Lets one thread at a time renew a client. In a forked child it is free, whoever had it in the parent."""

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        self.lock = threading.Lock()
        forking.track(self)


_renewing = _RenewLock()


class Renewed(Facade[A]):
    """Reconnects in a forked child: the first call there creates a client with its own connections.

    With an ``instance_name``, the child's client has that name and the process id.
    """

    @property
    def _async(self) -> A:
        return self._renew() if self._twin.is_inherited else self._twin

    def start(self) -> None:
        """As the asynchronous ``start``."""
        if self._twin.is_inherited:
            self._renew()
        else:
            super().start()

    def _renew(self) -> A:
        with _renewing.lock:
            if self._twin.is_inherited:
                name = self._twin.config.instance_name
                twin = self._make(instance_name=f"{name}-{os.getpid()}") if name else self._make()
                background_loop().run(twin.start())
                self._twin = twin
            return self._twin
