"""Calls of broker interceptors at sends and deliveries. Without interceptors nothing is called."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..config import BrokerConfig
from ..errors import ResponseError, StoreError
from ..plugins.manager import named_objects
from ..protocol.command import RemotingCommand
from ..remoting.connection import Connection
from ..remoting.plugins import request_of
from ..store.group.queue import Queue

logger = logging.getLogger(__name__)

_Methods = Sequence[Callable[..., Any]]


class AppendHooks:
    """Calls ``before_append`` and ``after_append`` of all interceptors."""

    def __init__(self, befores: _Methods, afters: _Methods) -> None:
        self._befores = befores
        self._afters = afters

    def before(self, connection: Connection, command: RemotingCommand) -> None:
        """Raises the ResponseError of an interceptor that refuses the send; its other errors are logged."""
        if not self._befores:
            return
        request = request_of(connection, command)
        for method in self._befores:
            try:
                method(request)
            except ResponseError:
                raise
            except Exception:
                logger.exception("before_append failed; the message goes on (topic %s)", request.topic)

    def after(self, queue: Queue, queue_offset: int, msg_nums: int, error: StoreError | None) -> None:
        """The store has answered a send of ``msg_nums`` messages."""
        for method in self._afters:
            try:
                method(queue.mq, queue_offset, msg_nums, error)
            except Exception:
                logger.exception("after_append failed (%s offset %d)", queue.mq, queue_offset)


class DeliveryHooks:
    """Calls ``before_delivery`` of all interceptors."""

    def __init__(self, methods: _Methods) -> None:
        self._methods = methods

    def withheld(self, queue: Queue, group: str, offsets: Sequence[int], records: Sequence[bytes]) -> set[int]:
        """The offsets that a group does not get, though they pass its filter; they count as consumed."""
        found: set[int] = set()
        for method in self._methods:
            try:
                found.update(method(queue.mq, group, offsets, records) or ())
            except Exception:
                logger.exception("before_delivery failed (%s, group %s)", queue.mq, group)
        return found


class Hooks(NamedTuple):
    """None where no interceptor has such a method."""

    append: AppendHooks | None
    delivery: DeliveryHooks | None


def load_hooks(config: BrokerConfig) -> Hooks:
    """The hooks of ``config.broker_interceptors``. Raises ConfigError for a name that no plugin offers."""
    names = config.broker_interceptors
    objects = named_objects("register_broker_interceptors", "broker_interceptors", names, config=config)

    def methods(name: str) -> list[Callable[..., Any]]:
        return [getattr(obj, name) for _, obj in objects if callable(getattr(obj, name, None))]

    befores, afters, deliveries = methods("before_append"), methods("after_append"), methods("before_delivery")
    return Hooks(
        AppendHooks(befores, afters) if befores or afters else None,
        DeliveryHooks(deliveries) if deliveries else None,
    )
