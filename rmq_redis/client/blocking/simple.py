"""SimpleConsumer: ``AsyncSimpleConsumer`` without an event loop."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import timedelta
from typing import Unpack

from ...config import ClientConfig
from ...model import MessageExt
from ..consume.simple import AsyncSimpleConsumer
from ..core.settings import SimpleConsumerOptions
from .facade import Facade


class SimpleConsumer(Facade[AsyncSimpleConsumer]):
    """``AsyncSimpleConsumer`` for code without an event loop."""

    def __init__(
        self,
        group: str,
        namesrv_addr: str | None = None,
        *,
        config: ClientConfig | None = None,
        **options: Unpack[SimpleConsumerOptions],
    ) -> None:
        super().__init__(functools.partial(AsyncSimpleConsumer, group, namesrv_addr, config=config, **options))

    def subscribe(self, topic: str, expression: str = "*", *, expression_type: str = "TAG") -> None:
        """As ``AsyncSimpleConsumer.subscribe``."""

        async def subscribe() -> None:
            self._async.subscribe(topic, expression, expression_type=expression_type)

        self._run(subscribe())

    def unsubscribe(self, topic: str) -> None:
        """As ``AsyncSimpleConsumer.unsubscribe``."""

        async def unsubscribe() -> None:
            self._async.unsubscribe(topic)

        self._run(unsubscribe())

    def receive(
        self,
        max_message_num: int = 16,
        invisible_duration_s: float | timedelta = 30.0,
        await_duration_s: float | timedelta = 20.0,
    ) -> list[MessageExt]:
        """As ``AsyncSimpleConsumer.receive``."""
        return self._run(self._async.receive(max_message_num, invisible_duration_s, await_duration_s))

    def ack(self, messages: MessageExt | Iterable[MessageExt]) -> None:
        """As ``AsyncSimpleConsumer.ack``."""
        self._run(self._async.ack(messages))

    def change_invisible_duration(self, message: MessageExt, invisible_duration_s: float | timedelta) -> None:
        """As ``AsyncSimpleConsumer.change_invisible_duration``."""
        self._run(self._async.change_invisible_duration(message, invisible_duration_s))
