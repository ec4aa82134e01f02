"""Builds the parts of a push consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...plugins.hookspecs import ReadSelector
from ...protocol.bodies.heartbeat import SubscriptionData
from ..core.instance import MQClientInstance
from .concurrent import ConcurrentService
from .give_back import NoRetries, RetrySender
from .handler import Handler
from .offsets import OffsetStore
from .orderly import OrderlyService
from .process_queue import ProcessQueue
from .pulling import Puller
from .push_settings import PushSettings
from .rebalance import AnyLocks, NoLocks, QueueLocks
from .service import ConsumeService


@dataclass(frozen=True, kw_only=True)
class PushParts:
    """What a push consumer is made of.

    Attributes:
        subscriptions: by topic, those of the moment.
        handlers: by topic.
    """

    instance: MQClientInstance
    settings: PushSettings
    subscriptions: dict[str, SubscriptionData]
    handlers: dict[str, Handler]
    offsets: OffsetStore
    locks: AnyLocks
    service: ConsumeService
    puller: Puller


def assemble(
    instance: MQClientInstance,
    settings: PushSettings,
    read_selector: ReadSelector | None,
    process_queues: Callable[[], Iterable[ProcessQueue]],
) -> PushParts:
    """The parts, none of which has started.

    Args:
        process_queues: the queues that the consumer has now.
    """
    subscriptions: dict[str, SubscriptionData] = {}
    handlers: dict[str, Handler] = {}
    locks = QueueLocks(instance, settings.group) if settings.holds_locks else NoLocks()
    retries = (
        RetrySender(instance, settings.group, settings.max_reconsume_times) if settings.is_clustering else NoRetries()
    )
    service: ConsumeService
    if settings.orderly:
        service = OrderlyService(settings, handlers.get, retries, locks)
    else:
        service = ConcurrentService(settings, handlers.get, retries, process_queues)
    return PushParts(
        instance=instance,
        settings=settings,
        subscriptions=subscriptions,
        handlers=handlers,
        offsets=OffsetStore(
            instance,
            settings.group,
            message_model=settings.message_model,
            consume_from_where=settings.consume_from_where,
            consume_timestamp_ms=settings.consume_timestamp_ms,
        ),
        locks=locks,
        service=service,
        puller=Puller(instance, settings, subscriptions.get, service.submit, locks, read_selector),
    )
