"""PushConsumer: ``AsyncPushConsumer`` without an event loop."""

from __future__ import annotations

import functools
import queue
from collections.abc import Callable
from typing import Any, TypeVar, Unpack

from ...config import ClientConfig
from ...model import MessageQueue
from ...runtime import force_exit, on_stop_signals, wait_for_item
from ..consume.handler import MessageHandler
from ..consume.push import AsyncPushConsumer
from ..core.settings import PushConsumerOptions
from ..core.values import NO_VALUE, Serializer, Undecodable, typed_handler
from .facade import Facade
from .loop import background_loop

F = TypeVar("F", bound=Callable[..., Any])


class PushConsumer(Facade[AsyncPushConsumer]):
    """``AsyncPushConsumer`` for code without an event loop: plain functions as handlers run in threads."""

    def __init__(
        self,
        group: str,
        namesrv_addr: str | None = None,
        *,
        config: ClientConfig | None = None,
        **options: Unpack[PushConsumerOptions],
    ) -> None:
        super().__init__(functools.partial(AsyncPushConsumer, group, namesrv_addr, config=config, **options))
        self._started = False
        self._end: queue.SimpleQueue[None] = queue.SimpleQueue()  # a signal's handler may put into it at any point

    @property
    def client_id(self) -> str:
        """As ``AsyncPushConsumer.client_id``."""
        return self._async.client_id

    @property
    def assignment(self) -> list[MessageQueue]:
        """As ``AsyncPushConsumer.assignment``."""
        return self._async.assignment

    def subscribe(
        self,
        topic: str,
        expression: str = "*",
        handler: MessageHandler | None = None,
        *,
        expression_type: str = "TAG",
    ) -> None:
        """As ``AsyncPushConsumer.subscribe``."""

        async def subscribe() -> None:
            self._async.subscribe(topic, expression, handler, expression_type=expression_type)

        if self._started:
            self._run(subscribe())
        else:  # works without a loop, also at import time
            self._async.subscribe(topic, expression, handler, expression_type=expression_type)

    def handler(
        self,
        topic: str,
        tags: str = "*",
        *,
        expression_type: str = "TAG",
        value: Any = NO_VALUE,
        default: str | Serializer = "json",
        on_undecodable: Undecodable | None = None,
    ) -> Callable[[F], F]:
        """As ``AsyncPushConsumer.handler``."""

        def decorate(function: F) -> F:
            handle: MessageHandler = function
            if value is not NO_VALUE:
                handle = typed_handler(function, value, default=default, on_undecodable=on_undecodable)
            self.subscribe(topic, tags, handle, expression_type=expression_type)
            return function

        return decorate

    def replier(self, topic: str, tags: str = "*", *, expression_type: str = "TAG") -> Callable[[F], F]:
        """As ``AsyncPushConsumer.replier``."""

        def decorate(function: F) -> F:
            self.subscribe(topic, tags, self._async.replies.handler(function), expression_type=expression_type)
            return function

        return decorate

    def unsubscribe(self, topic: str) -> None:
        """As ``AsyncPushConsumer.unsubscribe``."""

        async def unsubscribe() -> None:
            self._async.unsubscribe(topic)

        self._run(unsubscribe())

    def start(self) -> None:
        """As ``AsyncPushConsumer.start``."""
        super().start()
        self._started = True

    def close(self) -> None:
        """As ``AsyncPushConsumer.close``; ends ``run_forever``."""
        if self._twin.is_inherited:
            return
        loop = background_loop()
        if loop.is_current():  # a coroutine handler
            self._async.stop_handing_out()
            loop.submit(self._async.close())
        else:
            super().close()
        self._end.put(None)

    def run_forever(self) -> None:
        """Starts unless started, consumes until SIGTERM, Ctrl-C or ``close``, then closes.

        A second signal ends the process at once (exit code 130). Signals are seen in the main thread only, and a signal
        that the program handles itself is left to it.
        """
        self._twin.check_process()
        asked = False

        def stop() -> None:
            nonlocal asked
            if asked:
                force_exit()
            asked = True
            self._end.put(None)

        with on_stop_signals(stop):
            try:
                if not self._started:
                    self.start()
                wait_for_item(self._end)
            except KeyboardInterrupt:  # the program handles signals itself
                pass
            finally:
                self.close()
