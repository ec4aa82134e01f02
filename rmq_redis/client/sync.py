"""Producer, PushConsumer, PullConsumer, Admin: the same without an event loop.

No logic of its own: each runs its asynchronous twin on one event loop in one daemon thread per process. Arguments,
results and errors are those of the twin.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import inspect
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from ..config import ClientConfig
from ..errors import ClientError
from ..hookspecs import QueueSelector
from ..model import (
    Message,
    MessageExt,
    MessageQueue,
    PullResult,
    SendResult,
)
from ..runtime import force_exit, on_stop_signals, wait_for_item
from .consume import MessageHandler
from .consumer import AsyncPushConsumer
from .producer import AsyncProducer
from .pull_consumer import BLOCK_TIMEOUT_S, AsyncPullConsumer
from .values import NO_VALUE, typed_handler

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


_AS = re.compile(r"As ``(Async\w+)\.(\w+)``")


class BackgroundLoop:
    """An event loop (uvloop where it is installed) in a daemon thread."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._run, name="rmq-redis-loop", daemon=True)
        self._thread.start()
        atexit.register(self._stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _stop(self) -> None:
        if self.process_id == os.getpid():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=1.0)

    def is_current(self) -> bool:
        """Whether the caller runs in the loop."""
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Runs a coroutine on the loop; does not wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call_soon(self, callback: Callable[[], Any]) -> None:
        """Has the loop call a function; does not wait for it."""
        self._loop.call_soon_threadsafe(callback)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop and waits for its result; an interrupt (Ctrl-C) cancels it.

        Raises:
            ClientError: called on the loop itself (in a coroutine handler), which would wait for itself for ever.
        """
        if self.is_current():
            coroutine.close()
            raise ClientError("a blocking call inside the event loop: use the Async class there")
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


_lock = threading.Lock()
_background: BackgroundLoop | None = None


def background_loop() -> BackgroundLoop:
    """This process's loop; a forked child gets its own."""
    global _background
    with _lock:
        if _background is None or _background.process_id != os.getpid():
            _background = BackgroundLoop()
        return _background


class _Facade:
    """What they have in common. ``help`` shows beside "As ``AsyncX.y``" what that one says."""

    def __init_subclass__(cls) -> None:
        names = vars(sys.modules[cls.__module__])
        for method in vars(cls).values():
            found = _AS.match(getattr(method, "__doc__", None) or "")
            if found is not None:
                method.__doc__ += "\n\n" + (inspect.getdoc(getattr(names[found[1]], found[2])) or "")

    def __init__(self, twin: Any) -> None:
        self._twin = twin

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return background_loop().run(coroutine)

    def start(self) -> None:
        """As the asynchronous ``start``."""
        self._run(self._twin.start())

    def close(self) -> None:
        """As the asynchronous ``close``."""
        self._run(self._twin.close())

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


class Producer(_Facade):
    """``AsyncProducer`` for code without an event loop. May be used by several threads."""

    def __init__(
        self, group: str, namesrv_addr: str | None = None, *, config: ClientConfig | None = None, **options: Any
    ) -> None:
        self._async = AsyncProducer(group, namesrv_addr, config=config, **options)
        super().__init__(self._async)

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

    def send_value(self, topic: str, value: Any, **options: Any) -> SendResult:
        """As ``AsyncProducer.send_value``."""
        return self._run(self._async.send_value(topic, value, **options))

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


class PushConsumer(_Facade):
    """``AsyncPushConsumer`` for code without an event loop: plain functions as handlers run in threads."""

    def __init__(
        self, group: str, namesrv_addr: str | None = None, *, config: ClientConfig | None = None, **options: Any
    ) -> None:
        self._async = AsyncPushConsumer(group, namesrv_addr, config=config, **options)
        self._started = False
        self._end: queue.SimpleQueue[None] = queue.SimpleQueue()  # a signal's handler may put into it at any point
        super().__init__(self._async)

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
        self, topic: str, tags: str = "*", *, expression_type: str = "TAG", value: Any = NO_VALUE, **decoding: Any
    ) -> Callable[[F], F]:
        """As ``AsyncPushConsumer.handler``."""

        def decorate(function: F) -> F:
            handle = function if value is NO_VALUE else typed_handler(function, value, **decoding)
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


class PullConsumer(_Facade):
    """``AsyncPullConsumer`` for code without an event loop."""

    def __init__(
        self, group: str, namesrv_addr: str | None = None, *, config: ClientConfig | None = None, **options: Any
    ) -> None:
        self._async = AsyncPullConsumer(group, namesrv_addr, config=config, **options)
        super().__init__(self._async)

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

    def poll(self, timeout_s: float = 1.0, max_nums: int = 32) -> list[MessageExt]:
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
