"""PullConsumer: ``AsyncPullConsumer`` without an event loop."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Unpack

from ...config import ClientConfig
from ...errors import ClientError
from ...model import MessageExt, MessageQueue, PullResult
from ..consume.pull import BLOCK_TIMEOUT_S, AsyncPullConsumer
from ..core.settings import PullConsumerOptions
from .facade import Facade


class PullConsumer(Facade[AsyncPullConsumer]):
    """``AsyncPullConsumer`` for code without an event loop."""

    def __init__(
        self,
        group: str,
        namesrv_addr: str | None = None,
        *,
        config: ClientConfig | None = None,
        **options: Unpack[PullConsumerOptions],
    ) -> None:
        super().__init__(functools.partial(AsyncPullConsumer, group, namesrv_addr, config=config, **options))

    def fetch_subscribe_message_queues(self, topic: str) -> list[MessageQueue]:
        """As ``AsyncPullConsumer.fetch_subscribe_message_queues``."""
        return self._run(self._async.fetch_subscribe_message_queues(topic))

    def pull(
        self,
        queue: MessageQueue,
        expression: str = "*",
        offset: int = 0,
        max_nums: int = 32,
        *,
        block_if_not_found: bool = False,
        timeout_s: float | timedelta = BLOCK_TIMEOUT_S,
    ) -> PullResult:
        """As ``AsyncPullConsumer.pull``."""
        return self._run(
            self._async.pull(
                queue, expression, offset, max_nums, block_if_not_found=block_if_not_found, timeout_s=timeout_s
            )
        )

    def committed(self, queue: MessageQueue) -> int | None:
        """As ``AsyncPullConsumer.committed``."""
        return self._run(self._async.committed(queue))

    def update_consume_offset(self, queue: MessageQueue, offset: int) -> None:
        """As ``AsyncPullConsumer.update_consume_offset``."""
        self._run(self._async.update_consume_offset(queue, offset))

    def min_offset(self, queue: MessageQueue) -> int:
        """As ``AsyncPullConsumer.min_offset``."""
        return self._run(self._async.min_offset(queue))

    def max_offset(self, queue: MessageQueue) -> int:
        """As ``AsyncPullConsumer.max_offset``."""
        return self._run(self._async.max_offset(queue))

    def search_offset(self, queue: MessageQueue, timestamp_ms: int) -> int:
        """As ``AsyncPullConsumer.search_offset``."""
        return self._run(self._async.search_offset(queue, timestamp_ms))

    def assign(self, queues: Iterable[MessageQueue], expression: str = "*") -> None:
        """As ``AsyncPullConsumer.assign``."""

        async def assign() -> None:
            self._async.assign(queues, expression)

        self._run(assign())

    @property
    def assignment(self) -> list[MessageQueue]:
        """As ``AsyncPullConsumer.assignment``."""
        return self._async.assignment

    def seek(self, queue: MessageQueue, offset: int) -> None:
        """As ``AsyncPullConsumer.seek``."""

        async def seek() -> None:
            self._async.seek(queue, offset)

        self._run(seek())

    def position(self, queue: MessageQueue) -> int | None:
        """As ``AsyncPullConsumer.position``."""
        return self._async.position(queue)

    def poll(self, timeout_s: float | timedelta = 1.0, max_nums: int = 32) -> list[MessageExt]:
        """As ``AsyncPullConsumer.poll``."""
        return self._run(self._async.poll(timeout_s, max_nums))

    def commit(self) -> None:
        """As ``AsyncPullConsumer.commit``."""
        self._run(self._async.commit())

    def __iter__(self) -> Iterator[MessageExt]:
        """Messages of the assigned queues until another thread calls ``close``."""
        while self._async.is_running:
            try:
                messages = self.poll(timeout_s=5.0)
            except ClientError:
                if self._async.is_running:
                    raise
                return
            yield from messages
