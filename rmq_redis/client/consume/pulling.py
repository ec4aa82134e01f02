"""The pull loop of one queue: long polls, one after the other, as fast as the handlers take the messages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from ...codes import PullSysFlag
from ...errors import (
    ConnectionClosedError,
    FlowControlError,
    GoAwayError,
    RemotingConnectError,
    RequestTimeoutError,
    RmqError,
    RouteNotFoundError,
    ServiceNotAvailableError,
)
from ...model import RETRY_PREFIX, MessageExt, PullResult, PullStatus
from ...plugins.hookspecs import ReadSelector
from ...protocol.bodies.heartbeat import SubscriptionData
from ...protocol.headers.pull import PullMessageRequestHeader
from ..core.instance import MQClientInstance
from .process_queue import ProcessQueue
from .push_settings import PushSettings
from .rebalance import AnyLocks
from .subscriptions import matching, restore_topics

logger = logging.getLogger(__name__)

SUSPEND_TIMEOUT_MS = 15_000
"""How long a broker holds a pull without messages. Source: DefaultMQPushConsumerImpl.BROKER_SUSPEND_MAX_TIME_MILLIS."""
PULL_TIMEOUT_S = 30.0
"""Source: DefaultMQPushConsumerImpl.CONSUMER_TIMEOUT_MILLIS_WHEN_SUSPEND."""
RETRY_AFTER_ERROR_S = 3.0
"""Source: DefaultMQPushConsumerImpl.pullTimeDelayMillsWhenException."""
_FIRST_RETRY_S = 0.1
"""After a first pull without an answer; doubles up to ``RETRY_AFTER_ERROR_S``, so that a restart costs little."""
_FLOW_CONTROL_S = 0.02
"""Source: DefaultMQPushConsumerImpl.PULL_TIME_DELAY_MILLS_WHEN_BROKER_FLOW_CONTROL."""
_CHECK_S = 0.2
"""How late a queue is pulled that was locked or subscribed again."""
_LONG_PULL_S = 0.5
"""A pull without messages that took longer was held by its broker, as it should be."""
_NO_ANSWER = (
    RemotingConnectError,
    ConnectionClosedError,
    RequestTimeoutError,
    RouteNotFoundError,
    ServiceNotAvailableError,
    GoAwayError,
)

OffsetMoved = Callable[[ProcessQueue, int], None]
"""Called when the broker says that a queue does not have the offset, with the offset to go on at."""


class Puller:
    """Pulls the queues of one consumer.

    Args:
        subscription_of: topic -> subscription; None when it is not subscribed any more.
        submit: takes the messages to be handled.
        locks: a queue is pulled only while its lock is held.
        read_selector: chooses the broker of a group to read from; None: the one that it suggested.
    """

    def __init__(
        self,
        instance: MQClientInstance,
        settings: PushSettings,
        subscription_of: Callable[[str], SubscriptionData | None],
        submit: Callable[[ProcessQueue, Sequence[MessageExt]], None],
        locks: AnyLocks,
        read_selector: ReadSelector | None,
    ) -> None:
        self._instance = instance
        self._group = settings.group
        self._batch_size = settings.pull_batch_size
        self._commits = settings.is_clustering
        self._subscription_of = subscription_of
        self._submit = submit
        self._is_locked = locks.is_locked
        self._read_selector = read_selector

    async def run(self, process_queue: ProcessQueue, offset_moved: OffsetMoved) -> None:
        """Pulls until the queue is dropped, or its offset moved."""
        idle_s = 0.0
        loop = asyncio.get_running_loop()
        while not process_queue.dropped:
            if not process_queue.has_room():
                await process_queue.wait_for_room()
                continue
            subscription = self._subscription_of(process_queue.queue.topic)
            if not subscription or not self._is_locked(process_queue):
                await asyncio.sleep(_CHECK_S)  # until a rebalance drops it, it is subscribed again, or it is locked
                continue
            began, offset = loop.time(), process_queue.next_offset
            try:
                result = await self._pull_current(process_queue, subscription)
            except Exception as error:  # not even a bug may end the only task that pulls the queue
                await asyncio.sleep(self._pause_after(process_queue, error))
                continue
            if result is None:
                continue
            process_queue.retry_s = 0.0
            if process_queue.dropped:
                return
            if result.status is PullStatus.OFFSET_ILLEGAL:
                offset_moved(process_queue, result.next_begin_offset)
                return
            process_queue.next_offset = result.next_begin_offset
            if result.messages:
                self._take(process_queue, subscription, result.messages)
            has_moved = result.next_begin_offset > offset
            del result  # the next pull may take long, and must not keep the messages of this one
            if has_moved or loop.time() - began > _LONG_PULL_S:
                idle_s = 0.0
            else:  # an answer at once that brings nothing (a slave without its master): do not spin
                idle_s = min(max(2 * idle_s, 0.01), 1.0)
                await asyncio.sleep(idle_s)

    def _pause_after(self, process_queue: ProcessQueue, error: Exception) -> float:
        """The seconds until the next pull after one that failed, which is logged."""
        queue = process_queue.queue
        if isinstance(error, FlowControlError):
            return _FLOW_CONTROL_S
        if isinstance(error, _NO_ANSWER):
            process_queue.retry_s = min(max(2 * process_queue.retry_s, _FIRST_RETRY_S), RETRY_AFTER_ERROR_S)
            logger.info("%s: pull failed, again in %g s: %s", queue, process_queue.retry_s, error)
            self._instance.routes.refresh_soon(queue.topic)
            return process_queue.retry_s
        if isinstance(error, RmqError):
            logger.warning("%s: pull failed, again in %g s: %s", queue, RETRY_AFTER_ERROR_S, error)
            self._instance.routes.refresh_soon(queue.topic)
        else:
            logger.error("%s: pull failed, again in %g s", queue, RETRY_AFTER_ERROR_S, exc_info=error)
        return RETRY_AFTER_ERROR_S

    def _take(self, process_queue: ProcessQueue, subscription: SubscriptionData, messages: list[MessageExt]) -> None:
        messages = matching(messages, subscription.tags_set)
        if process_queue.queue.topic.startswith(RETRY_PREFIX):
            messages = restore_topics(messages)
        if messages:
            process_queue.put(messages)
            self._submit(process_queue, messages)

    async def _pull_current(self, process_queue: ProcessQueue, subscription: SubscriptionData) -> PullResult | None:
        """One pull; None if its subscription was replaced meanwhile.

        What such a pull stepped over may match the new subscription, so its result must not move the offset.
        """
        process_queue.pulling = True
        try:
            result = await self._pull(process_queue, subscription)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not process_queue.outdated or process_queue.dropped or task is None or task.uncancel() > 0:
                raise
            return None
        finally:
            process_queue.pulling = process_queue.outdated = False
        return result if self._subscription_of(process_queue.queue.topic) is subscription else None

    async def _pull(self, process_queue: ProcessQueue, subscription: SubscriptionData) -> PullResult:
        queue = process_queue.queue
        routes = self._instance.routes
        read_from = process_queue.read_from
        if self._read_selector and queue.broker_name in routes.brokers:
            read_from = self._read_selector(queue, routes.brokers[queue.broker_name], read_from)
        found = routes.find_broker_address_in_subscribe(queue.broker_name, read_from)
        if found is None:
            raise RouteNotFoundError(f"the routes show no address of broker {queue.broker_name}")
        address, is_slave = found
        sys_flag = int(PullSysFlag.SUSPEND | PullSysFlag.SUBSCRIPTION)
        commit_offset = 0
        if self._commits and not is_slave:
            offset = process_queue.commit_offset()
            if offset > 0 and offset != process_queue.committed_offset:
                sys_flag |= PullSysFlag.COMMIT_OFFSET
                commit_offset = offset
        header = PullMessageRequestHeader(
            self._group,
            queue.topic,
            queue.queue_id,
            process_queue.next_offset,
            self._batch_size,
            sys_flag,
            commit_offset,
            SUSPEND_TIMEOUT_MS,
            subscription.sub_version,
            subscription.sub_string,
            subscription.expression_type,
        )
        process_queue.last_pull_s = time.time()
        result = await self._instance.broker.pull(
            address, header, queue.broker_name, PULL_TIMEOUT_S, process_queue.room_bytes
        )
        if commit_offset:
            process_queue.committed_offset = commit_offset
        process_queue.read_from = result.suggest_which_broker_id
        return result
