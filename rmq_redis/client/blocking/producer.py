"""Producer: ``AsyncProducer`` without an event loop."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Unpack

from ...config import ClientConfig
from ...model import Message, MessageExt, MessageQueue, SendResult
from ...plugins.hookspecs import QueueSelector
from ..core.settings import ProducerOptions
from ..produce.choice import destination
from ..produce.producer import AsyncProducer
from .facade import Renewed
from .loop import background_loop


class _Result(concurrent.futures.Future[SendResult]):
    """The result of a send, told by the loop. It may be cancelled by its own thread meanwhile."""

    def set_result(self, result: SendResult) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            super().set_exception(exception)


class Producer(Renewed[AsyncProducer]):
    """``AsyncProducer`` for code without an event loop. May be used by several threads, and after a fork."""

    def __init__(
        self,
        group: str,
        namesrv_addr: str | None = None,
        *,
        config: ClientConfig | None = None,
        **options: Unpack[ProducerOptions],
    ) -> None:
        super().__init__(functools.partial(AsyncProducer, group, namesrv_addr, config=config, **options))

    @property
    def client_id(self) -> str:
        """As ``AsyncProducer.client_id``."""
        return self._async.client_id

    def send(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float | timedelta | None = None,
    ) -> SendResult:
        """As ``AsyncProducer.send``."""
        twin = self._async
        twin.check_process()
        loop = background_loop()
        loop.check_not_current()
        result = _Result()
        loop.post(twin.begin_send, message, destination(queue, key, selector), timeout_s, result)
        return loop.wait(result)

    def send_async(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float | timedelta | None = None,
    ) -> concurrent.futures.Future[SendResult]:
        """As ``send``, without waiting: the future gets the result or the error."""
        result = _Result()
        where = destination(queue, key, selector)
        background_loop().post(self._async.begin_send, message, where, timeout_s, result)
        return result

    def send_oneway(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
    ) -> None:
        """As ``AsyncProducer.send_oneway``."""
        self._run(self._async.send_oneway(message, queue=queue, key=key, selector=selector))

    def send_batch(
        self,
        messages: Sequence[Message],
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        timeout_s: float | timedelta | None = None,
    ) -> SendResult:
        """As ``AsyncProducer.send_batch``."""
        return self._run(self._async.send_batch(messages, queue=queue, key=key, timeout_s=timeout_s))

    def send_value(
        self,
        topic: str,
        value: Any,
        *,
        tags: str = "",
        keys: str | Sequence[str] = "",
        properties: dict[str, str] | None = None,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float | timedelta | None = None,
    ) -> SendResult:
        """As ``AsyncProducer.send_value``."""
        return self._run(
            self._async.send_value(
                topic,
                value,
                tags=tags,
                keys=keys,
                properties=properties,
                queue=queue,
                key=key,
                selector=selector,
                timeout_s=timeout_s,
            )
        )

    def recall(self, topic: str, recall_handle: str, *, timeout_s: float | timedelta | None = None) -> str:
        """As ``AsyncProducer.recall``."""
        return self._run(self._async.recall(topic, recall_handle, timeout_s=timeout_s))

    def request(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float | timedelta = 3.0,
    ) -> MessageExt:
        """As ``AsyncProducer.request``."""
        return self._run(self._async.request(message, queue=queue, key=key, selector=selector, timeout_s=timeout_s))

    def publish_queues(self, topic: str) -> list[MessageQueue]:
        """As ``AsyncProducer.publish_queues``."""
        return self._run(self._async.publish_queues(topic))
