"""Which queue of its topic a message goes to."""

from __future__ import annotations

import msgspec
import pluggy

from ...errors import ClientError, MessageIllegalLocallyError, RouteNotFoundError
from ...model import Message, MessageQueue
from ...plugins.guards import GuardedSelector
from ...plugins.hookspecs import ClientContext, QueueSelector
from ...plugins.manager import queue_selector
from .topic import PublishTopic, QueueAwayError, QueueTarget


class Destination(msgspec.Struct, frozen=True):
    """Where a caller wants a message to go."""

    queue: MessageQueue | None = None
    key: str | None = None
    selector: QueueSelector | None = None


ANYWHERE = Destination()
"""The load balancer chooses."""


def destination(
    queue: MessageQueue | None = None, key: str | None = None, selector: QueueSelector | None = None
) -> Destination:
    """``ANYWHERE``, unless something is given."""
    return ANYWHERE if queue is None and key is None and selector is None else Destination(queue, key, selector)


class QueueChoice:
    """Chooses by the caller's destination, else by the load balancer.

    Attributes:
        select: the load balancer. It may want to hear of each attempt by its methods ``sending`` and ``report``.
        per_turn: whether a choice holds for what follows in a turn of the event loop and fits into the same request.
        by_key: whether it spreads messages by their keys, so that a strict topic's message stays with its queue.
    """

    def __init__(self, plugins: pluggy.PluginManager, context: ClientContext) -> None:
        self.select = queue_selector(context.config.load_balancer, plugins, context)
        self.by_key = bool(getattr(self.select, "by_key", False))
        self.per_turn = bool(getattr(self.select, "per_turn", False))
        self._select_by_key = self.select if self.by_key else queue_selector("HASH", plugins, context)

    def target(self, topic: PublishTopic, message: Message, where: Destination) -> QueueTarget:
        """Where a message goes now.

        Raises:
            QueueAwayError: it must go to a queue that cannot be written now.
            RouteNotFoundError: the given queue is of another topic.
            MessageIllegalLocallyError: the sharding key is no str.
            ClientError: something else was given than a queue, or a function that chooses one.
        """
        if where is ANYWHERE and not (topic.is_strict and self.by_key and message.keys):
            chosen = self.select(topic.active, message, None)
            return topic.targets.get(chosen) or self._instead(topic, message, None, chosen)
        if where.queue is not None:
            return _given(topic, message, where.queue, "queue")
        key, selector = where.key, where.selector
        if key is not None and not isinstance(key, str):
            raise MessageIllegalLocallyError(f"the sharding key must be str, not {key!r:.80}")
        if selector is not None:
            if not callable(selector):
                raise ClientError(f"selector={selector!r:.80} is not a function")
            return _given(topic, message, selector(topic.ordered, message, key), "the selector's result")
        select = self.select if key is None else self._select_by_key
        chosen = select(topic.ordered, message, key)
        target = topic.targets.get(chosen)
        if target is None and topic.is_strict and chosen in topic.ordered:
            raise QueueAwayError(chosen)
        return target or self._instead(topic, message, key, chosen)

    def _instead(self, topic: PublishTopic, message: Message, key: str | None, chosen: MessageQueue) -> QueueTarget:
        """Where a message goes whose queue, chosen by a plugin, does not exist."""
        guard = self.select if key is None else self._select_by_key
        assert isinstance(guard, GuardedSelector), chosen
        return topic.targets[guard.fall_back(topic.active, message, key, chosen)]


def _given(topic: PublishTopic, message: Message, queue: object, given: str) -> QueueTarget:
    if not isinstance(queue, MessageQueue):
        raise ClientError(f"{given} must be a MessageQueue, not {queue!r:.80}")
    target = topic.targets.get(queue)
    if target is None:
        if queue.topic != message.topic:
            raise RouteNotFoundError(f"{queue} is no queue of topic {message.topic!r}, which the message is for")
        raise QueueAwayError(queue)
    return target
