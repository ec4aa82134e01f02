"""Puts the broker interceptors that plugins offer around sends and deliveries, once, when the broker starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..codes import RequestCode, ResponseCode
from ..config import BrokerConfig
from ..errors import ResponseError, StoreError
from ..plugins.manager import named_objects
from ..protocol.command import RemotingCommand
from ..remoting.connection import Connection
from ..remoting.dispatch import Processor
from ..remoting.plugins import request_of
from ..store.group.queue import Queue
from .consume.hold import HeldPull

logger = logging.getLogger(__name__)

Screen = Callable[[Queue, str, Sequence[int], Sequence[bytes]], set[int]]
"""(queue, group, offsets, records): the offsets that the group does not get."""
SEND_CODES = (RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE)


class BrokerInterceptors:
    """Puts broker interceptors around a broker's sends and pulls."""

    def __init__(self, config: BrokerConfig) -> None:
        self._objects = named_objects(
            "register_broker_interceptors", "broker_interceptors", config.broker_interceptors, config=config
        )

    def _methods(self, name: str) -> list[Callable[..., Any]]:
        return [getattr(obj, name) for _, obj in self._objects if callable(getattr(obj, name, None))]

    def wrap(self, processors: dict[int, Processor]) -> dict[int, Processor]:
        """The processors with ``before_append`` in front of those that take messages in."""
        befores = self._methods("before_append")
        if not befores:
            return processors

        def intercepted(processor: Processor) -> Processor:
            def before(connection: Connection, command: RemotingCommand) -> Any:
                request = request_of(connection, command)
                for method in befores:
                    try:
                        method(request)
                    except ResponseError:
                        raise
                    except Exception:
                        logger.exception("before_append failed; the message goes on (topic %s)", request.topic)
                return processor(connection, command)

            return before

        return {code: intercepted(p) if code in SEND_CODES else p for code, p in processors.items()}

    def attach(self, sends: Any, pulls: Any, pops: Any) -> None:
        """Has ``after_append`` and ``before_delivery`` called; where nobody has them nothing changes."""
        afters, deliveries = self._methods("after_append"), self._methods("before_delivery")
        if afters:
            sends._stored = _observed(afters, sends._stored)
        if deliveries:
            screen = _screen(deliveries)
            pulls._deliver = _screened(screen, pulls._deliver, pulls._answer)
            pops.screen = screen


def _observed(methods: Sequence[Callable[..., Any]], stored: Callable[..., None]) -> Callable[..., None]:
    def after(queue: Any, queue_offset: int, error: StoreError | None, arg: Any) -> None:
        stored(queue, queue_offset, error, arg)
        for method in methods:
            try:
                method(queue.mq, queue_offset, arg[2], error)
            except Exception:
                logger.exception("after_append failed (%s offset %d)", queue.mq, queue_offset)

    return after


def _screen(methods: Sequence[Callable[..., Any]]) -> Screen:
    def withheld(queue: Queue, group: str, offsets: Sequence[int], records: Sequence[bytes]) -> set[int]:
        found: set[int] = set()
        for method in methods:
            try:
                found.update(method(queue.mq, group, offsets, records) or ())
            except Exception:
                logger.exception("before_delivery failed (%s, group %s)", queue.mq, group)
        return found

    return withheld


def _screened(screen: Screen, deliver: Callable[..., None], answer: Callable[..., None]) -> Callable[..., None]:
    def before(pull: HeldPull, offsets: Sequence[int], records: list[bytes], ms: int = 0) -> None:
        withheld = screen(pull.queue, pull.consumer_group, offsets, records)
        if withheld:
            kept = [(o, r) for o, r in zip(offsets, records, strict=True) if o not in withheld]
            if not kept:
                answer(pull, ResponseCode.PULL_RETRY_IMMEDIATELY, offsets[-1] + 1)
                return
            offsets, records = [o for o, _ in kept], [r for _, r in kept]
        deliver(pull, offsets, records, ms)

    return before
