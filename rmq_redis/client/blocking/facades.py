"""Producer, PushConsumer, PullConsumer, Admin: the same without an event loop.

No logic of its own: each runs its asynchronous twin on one event loop in one daemon thread per process. Arguments,
results and errors are those of the twin.
"""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar, Unpack

from ...config import ClientConfig
from ...errors import ClientError, RmqError
from ...model import Message, MessageExt, MessageQueue, PullResult, SendResult
from ...plugins.hookspecs import QueueSelector
from ...runtime import force_exit, on_stop_signals, wait_for_item
from ..consume.handler import MessageHandler
from ..consume.pull import BLOCK_TIMEOUT_S, AsyncPullConsumer
from ..consume.push import AsyncPushConsumer
from ..core.lifecycle import AsyncClient, refuse_pickle
from ..core.settings import ProducerOptions, PullConsumerOptions, PushConsumerOptions
from ..core.values import NO_VALUE, Serializer, Undecodable, typed_handler
from ..produce.producer import AsyncProducer
from .loop import background_loop

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A", bound=AsyncClient)


_AS = re.compile(r"As ``(Async\w+)\.(\w+)``")


_renewing = threading.Lock()


class _Facade(Generic[A]):
    """What they have in common. ``help`` shows beside "As ``AsyncX.y``" what that one says."""

    def __init_subclass__(cls) -> None:
        names = vars(sys.modules[cls.__module__])
        twin = names.get(f"Async{cls.__name__}")
        if twin is not None:
            cls.__signature__ = inspect.signature(twin)  # type: ignore[attr-defined]
            cls.__doc__ = f"{cls.__doc__}\n\nAs ``{twin.__name__}``:\n\n{inspect.getdoc(twin)}"
        for method in vars(cls).values():
            found = _AS.match(getattr(method, "__doc__", None) or "")
            if found is not None:
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


class Renewed(_Facade[A]):
    """Starts anew in a forked child: its first call there makes a client with connections of its own.

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
        with _renewing:
            if self._twin.is_inherited:
                name = self._twin.config.instance_name
                twin = self._make(instance_name=f"{name}-{os.getpid()}") if name else self._make()
                background_loop().run(twin.start())
                self._twin = twin
            return self._twin


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
        timeout_s: float | None = None,
    ) -> SendResult:
        """As ``AsyncProducer.send``."""
        return self._run(self._async.send(message, queue=queue, key=key, selector=selector, timeout_s=timeout_s))

    def send_async(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float | None = None,
    ) -> concurrent.futures.Future[SendResult]:
        """As ``send``, without waiting: the future gets the result or the error."""
        return background_loop().submit(
            self._async.send(message, queue=queue, key=key, selector=selector, timeout_s=timeout_s)
        )

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
        timeout_s: float | None = None,
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
        timeout_s: float | None = None,
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

    def recall(self, topic: str, recall_handle: str, *, timeout_s: float | None = None) -> str:
        """As ``AsyncProducer.recall``."""
        return self._run(self._async.recall(topic, recall_handle, timeout_s=timeout_s))

    def request(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float = 3.0,
    ) -> MessageExt:
        """As ``AsyncProducer.request``."""
        return self._run(self._async.request(message, queue=queue, key=key, selector=selector, timeout_s=timeout_s))

    def publish_queues(self, topic: str) -> list[MessageQueue]:
        """As ``AsyncProducer.publish_queues``."""
        return self._run(self._async.publish_queues(topic))


class PushConsumer(_Facade[AsyncPushConsumer]):
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


class PullConsumer(_Facade[AsyncPullConsumer]):
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
        timeout_s: float = BLOCK_TIMEOUT_S,
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
