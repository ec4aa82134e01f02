"""App: the producer, the consumers and the resources of a service as one object that starts and stops as a whole."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, Unpack

import pluggy

from ..config import ClientConfig, unknown_name
from ..errors import ClientError, ConfigError
from ..runtime import first_of, force_exit, run, stop_signals
from .consume.push import AsyncPushConsumer
from .consume.service import ConsumeService
from .core.closing import Closing
from .core.instance import check_group, client_config
from .core.lifecycle import AsyncLifecycle
from .core.settings import ClientSettings, ConsumeOptions, hints_of
from .core.values import NO_VALUE, Serializer, serializer_of, typed_handler
from .produce.producer import AsyncProducer

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@dataclasses.dataclass
class _Subscription:
    topic: str
    tags: str
    expression_type: str
    function: Callable[..., Any]
    handler: Callable[..., Any]


@dataclasses.dataclass
class _Group:
    options: ConsumeOptions
    subscriptions: list[_Subscription] = dataclasses.field(default_factory=list)


class App(AsyncLifecycle):
    """A service: handlers by decorator, a producer, and what is to be done at its start and end.

    ``rmq-redis run module:app`` runs it, ``async with app`` does in a test or in a program with a loop of its own.
    It can be started once.

    Args:
        name: group of the producer, and of the consumers that name no other.
        namesrv_addr: NameServers, ``host:port;host:port``.
        config: all settings; ``namesrv_addr`` and ``settings`` override it.
        settings: single fields of ``ClientConfig``.
        serializer: ``json``, ``msgpack`` or an object, of ``producer.send_value``, and of values without a content
            type.
        interceptors: of the producer and of all consumers, see ``rmq_redis.plugins.interceptors``.
        plugins: plugin manager; default: built-in and installed plugins.

    Raises:
        ConfigError: a setting that cannot be used.
    """

    def __init__(
        self,
        name: str,
        namesrv_addr: str | None = None,
        *,
        config: ClientConfig | None = None,
        serializer: str | Serializer = "json",
        interceptors: Sequence[object] = (),
        plugins: pluggy.PluginManager | None = None,
        **settings: Unpack[ClientSettings],
    ) -> None:
        check_group(name, "consumer")
        self.name = name
        self.config = client_config(namesrv_addr, config, settings, type(self))
        self._serializer = serializer_of(serializer)
        self._interceptors = interceptors
        self._plugins = plugins
        self._groups: dict[str, _Group] = {}
        self._startup: list[Callable[[], Any]] = []
        self._shutdown: list[Callable[[], Any]] = []
        self._producer: AsyncProducer | None = None
        self._consumers: list[AsyncPushConsumer] = []
        self._services: list[ConsumeService] = []
        self._shutdown_due = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process_id = 0
        self._thread_id = 0
        self._closing = Closing(f"app {name}", self._close)

    # --- what it is made of ----------------------------------------------------------------------------------------

    def consumer(
        self,
        topic: str,
        *,
        group: str | None = None,
        tags: str = "*",
        expression_type: str = "TAG",
        value: Any = NO_VALUE,
        on_undecodable: Callable[..., Any] | None = None,
        **options: Unpack[ConsumeOptions],
    ) -> Callable[[F], F]:
        """Decorator: the function handles the messages of a topic, or the values in them.

        Args:
            group: consumer group; default: the app's name. One group is one consumer, so its handlers have the same
                options and different topics.
            tags: as for ``AsyncPushConsumer.subscribe``.
            expression_type: as for ``AsyncPushConsumer.subscribe``.
            value: type of the values: the function gets ``(value)`` or ``(value, message)``; without it ``(message)``.
            on_undecodable: ``on_undecodable(message, error)`` for bodies that are no such value; its result counts as
                the handler's. Default: such a message fails, comes again, and ends in the dead letters.
            options: of ``AsyncPushConsumer``: orderly, message_model, concurrency, max_reconsume_times, ...

        Raises:
            ConfigError: an option that cannot be used, or that contradicts another handler of the group.
        """

        def decorate(function: F) -> F:
            name = group or self.name
            known = hints_of(ConsumeOptions)
            for option in options:
                if option not in known:
                    raise unknown_name(
                        f"handler {_name(function)} of topic {topic!r}: there is no option", option, known
                    )
            AsyncPushConsumer(name, config=self.config, plugins=self._plugins, **options)  # wrong ones: here, now
            entry = self._groups.setdefault(name, _Group(options))
            if entry.options != options:
                first = entry.subscriptions[0]
                raise ConfigError(
                    f"group {name!r}: {_name(function)} has the options {options}, {_name(first.function)} has "
                    f"{entry.options}; give one of them a group of its own (group=...)"
                )
            for other in entry.subscriptions:
                if other.topic == topic:
                    raise ConfigError(
                        f"group {name!r}: {_name(function)} and {_name(other.function)} both handle topic {topic!r}; "
                        "give one of them a group of its own (group=...)"
                    )
            handler: Callable[..., Any] = function
            if value is not NO_VALUE:
                handler = typed_handler(function, value, default=self._serializer, on_undecodable=on_undecodable)
            entry.subscriptions.append(_Subscription(topic, tags, expression_type, function, handler))
            return function

        return decorate

    def on_startup(self, function: F) -> F:
        """Decorator: called after the producer was started, before the consumers are; plain or a coroutine function."""
        self._startup.append(function)
        return function

    def on_shutdown(self, function: F) -> F:
        """Decorator: called when the consumers have ended, the last one first; also when the start failed."""
        self._shutdown.append(function)
        return function

    @property
    def producer(self) -> AsyncProducer:
        """The app's producer, there while the app runs.

        Raises:
            ClientError: it does not.
        """
        if self._producer is None:
            raise ClientError(f"app {self.name!r} does not run: its producer is there from on_startup to on_shutdown")
        return self._producer

    def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """For plain handlers, which run in threads: runs a coroutine in the app's loop and waits for its result.

        ``app.wait_for(app.producer.send(message))``

        Raises:
            ClientError: the app does not run, or this is its event loop: ``await`` there.
        """
        inside = threading.get_ident() == self._thread_id  # not get_running_loop: green threads share it
        if self._loop is None or inside:
            coroutine.close()
            raise ClientError(
                f"app {self.name!r}: " + ("await it: this is the event loop" if inside else "it does not run")
            )
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # --- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the producer, calls the startup functions, starts the consumers.

        Raises:
            ClientError: started before. Others as the consumers, and what a startup function raises.
        """
        if self._loop is not None:
            raise ClientError(f"app {self.name!r} was started before")
        self._loop = asyncio.get_running_loop()
        self._process_id = os.getpid()
        self._thread_id = threading.get_ident()
        producer = AsyncProducer(
            self.name,
            config=self.config,
            serializer=self._serializer,
            interceptors=self._interceptors,
            plugins=self._plugins,
        )
        await producer.start()
        self._producer = producer
        self._shutdown_due = True
        for function in self._startup:
            await _call(function)
        for name, group in self._groups.items():
            consumer = AsyncPushConsumer(
                name, config=self.config, interceptors=self._interceptors, plugins=self._plugins, **group.options
            )
            for subscription in group.subscriptions:
                consumer.subscribe(
                    subscription.topic,
                    subscription.tags,
                    subscription.handler,
                    expression_type=subscription.expression_type,
                )
            self._consumers.append(consumer)
            self._services.append(consumer.service)
            await consumer.start()
        logger.info("app %s: runs, %d consumer groups", self.name, len(self._consumers))

    async def close(self) -> None:
        """Consumers stop to pull, wait for running handlers, commit, leave; then the shutdown functions, the producer.

        A shutdown function that raises is logged. Called in a handler it returns at once, and the app closes when that
        handler has ended. A second call waits for the first. In a forked child this does nothing.
        """
        if self._process_id not in (0, os.getpid()):
            return
        for consumer in self._consumers:
            consumer.stop_handing_out()
        await self._closing.close(self._services)

    async def _close(self) -> None:
        consumers, self._consumers = self._consumers, []
        for outcome in await asyncio.gather(*(consumer.close() for consumer in consumers), return_exceptions=True):
            if isinstance(outcome, BaseException):
                logger.error("app %s: a consumer did not close in order", self.name, exc_info=outcome)
        if self._shutdown_due:
            self._shutdown_due = False
            for function in reversed(self._shutdown):
                try:
                    await _call(function)
                except Exception:
                    logger.exception("app %s: %s failed", self.name, _name(function))
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.close()
            logger.info("app %s: stopped", self.name)

    async def serve(self, ready: Callable[[], None] | None = None) -> None:
        """Runs until SIGTERM, Ctrl-C or ``close``, then closes in order; a second signal ends the process at once.

        Args:
            ready: called when everything runs.
        """
        with stop_signals(on_second=force_exit) as stop:
            async with self:
                if ready is not None:
                    ready()
                await first_of(stop, self._closing.begun)
                logger.info("app %s: stopping, running handlers are waited for", self.name)

    def run(self) -> None:
        """As ``serve``, for a program without an event loop: ``if __name__ == "__main__": app.run()``."""
        run(self.serve())


async def _call(function: Callable[[], Any]) -> None:
    outcome = function()
    if inspect.isawaitable(outcome):
        await outcome


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
