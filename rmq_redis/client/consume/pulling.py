"""The pull loop of one queue: long polls, one after the other, as fast as the handlers take the messages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence

import msgspec

from ...codes import PullSysFlag
from ...errors import (
    ClientError,
    ConnectionClosedError,
    FlowControlError,
    GoAwayError,
    RemotingConnectError,
    RequestTimeoutError,
    RmqError,
    RouteNotFoundError,
    ServiceNotAvailableError,
)
from ...model import PROPERTY_RETRY_TOPIC, PROPERTY_TAGS, RETRY_PREFIX, MessageExt, PullResult, PullStatus
from ...plugins.hookspecs import ReadSelector
from ...protocol.bodies.heartbeat import SubscriptionData
from ...protocol.headers.pull import PullMessageRequestHeader
from ...protocol.properties import tags_code
from ..core.instance import MQClientInstance
from .process_queue import ProcessQueue

logger = logging.getLogger(__name__)

SUSPEND_TIMEOUT_MS = 15_000
PULL_TIMEOUT_S = 30.0
RETRY_AFTER_ERROR_S = 3.0
_FIRST_RETRY_S = 0.1
_FLOW_CONTROL_S = 0.02
_LOCK_CHECK_S = 0.2
_NO_ANSWER = (
    RemotingConnectError,
    ConnectionClosedError,
    RequestTimeoutError,
    RouteNotFoundError,
    ServiceNotAvailableError,
    GoAwayError,
)


EXPRESSION_TYPES = ("TAG", "SQL92")


_last_version = 0


def _next_version() -> int:
    """Time in ms, as every client does it, but growing: brokers ignore a subscription that is not newer."""
    global _last_version
    _last_version = max(_last_version + 1, int(time.time() * 1000))
    return _last_version


def make_subscription(topic: str, expression: str = "*", expression_type: str = "TAG") -> SubscriptionData:
    """A subscription as heartbeats and pulls carry it: ``*``, ``TagA || TagB``, or an SQL92 expression.

    Raises:
        ClientError: no such type of expression, or the expression is no text.
    """
    if expression_type not in EXPRESSION_TYPES:
        raise ClientError(f"expression_type={expression_type!r} is unknown; there are: {', '.join(EXPRESSION_TYPES)}")
    if not isinstance(expression, str):
        raise ClientError(f"subscription of topic {topic!r}: the expression must be str, not {expression!r:.80}")
    expression = expression.strip() or "*"
    tags: list[str] = []
    if expression_type == "TAG" and expression != "*":
        tags = list(dict.fromkeys(tag.strip() for tag in expression.split("||") if tag.strip()))
        if "*" in tags or not tags:
            tags, expression = [], "*"
    return SubscriptionData(
        topic=topic,
        sub_string=expression,
        tags_set=tags,
        code_set=[tags_code(tag) for tag in tags],
        sub_version=_next_version(),
        expression_type=expression_type,
    )


def matching(messages: list[MessageExt], tags: Collection[str]) -> list[MessageExt]:
    """The messages with one of the tags; brokers compare only hashes. No tags: all of them."""
    if not tags:
        return messages
    return [message for message in messages if message.properties.get(PROPERTY_TAGS) in tags]


def restore_topics(messages: list[MessageExt]) -> list[MessageExt]:
    """Messages of a retry topic under the topic that they had before."""
    restored = []
    for message in messages:
        topic = message.properties.get(PROPERTY_RETRY_TOPIC)
        restored.append(msgspec.structs.replace(message, topic=topic) if topic else message)
    return restored


class Puller:
    """Pulls the queues of one consumer.

    Args:
        subscription_of: topic -> subscription; None when it is not subscribed any more.
        submit: takes the messages to be handled.
        offset_moved: the broker says that the offset is outside of the queue, and where to go on instead.
        may_pull: orderly: whether the queue is locked.
        read_selector: chooses the broker of a group to read from; None: the one that it suggested.
        commits: whether pulls carry the offset to be committed (CLUSTERING).
    """

    def __init__(
        self,
        instance: MQClientInstance,
        group: str,
        *,
        batch_size: int,
        commits: bool,
        subscription_of: Callable[[str], SubscriptionData | None],
        submit: Callable[[ProcessQueue, Sequence[MessageExt]], None],
        offset_moved: Callable[[ProcessQueue, int], None],
        may_pull: Callable[[ProcessQueue], bool] | None = None,
        read_selector: ReadSelector | None = None,
    ) -> None:
        self._instance = instance
        self._group = group
        self._batch_size = batch_size
        self._commits = commits
        self._subscription_of = subscription_of
        self._submit = submit
        self._offset_moved = offset_moved
        self._may_pull = may_pull
        self._read_selector = read_selector

    async def run(self, process_queue: ProcessQueue) -> None:
        """Pulls until the queue is dropped."""
        queue = process_queue.queue
        retry_s = 0.0
        idle_s = 0.0
        loop = asyncio.get_running_loop()
        while not process_queue.dropped:
            if not process_queue.has_room():
                await process_queue.wait_for_room()
                continue
            if self._may_pull is not None and not self._may_pull(process_queue):
                await asyncio.sleep(_LOCK_CHECK_S)
                continue
            subscription = self._subscription_of(queue.topic)
            if subscription is None:  # until the next rebalance drops the queue, or it is subscribed once more
                await asyncio.sleep(_LOCK_CHECK_S)
                continue
            began = loop.time()
            offset = process_queue.next_offset
            try:
                result = await self._pull_current(process_queue, subscription)
                if result is None:
                    continue
            except FlowControlError:
                await asyncio.sleep(_FLOW_CONTROL_S)
                continue
            except _NO_ANSWER as error:
                retry_s = min(max(2 * retry_s, _FIRST_RETRY_S), RETRY_AFTER_ERROR_S)
                logger.info("%s: pull failed, again in %g s: %s", queue, retry_s, error)
                self._instance.routes.refresh_soon(queue.topic)
                await asyncio.sleep(retry_s)
                continue
            except RmqError as error:
                logger.warning("%s: pull failed, again in %g s: %s", queue, RETRY_AFTER_ERROR_S, error)
                self._instance.routes.refresh_soon(queue.topic)
                await asyncio.sleep(RETRY_AFTER_ERROR_S)
                continue
            except Exception:  # a mistake of ours must not end the only task that pulls the queue
                logger.exception("%s: pull failed, again in %g s", queue, RETRY_AFTER_ERROR_S)
                await asyncio.sleep(RETRY_AFTER_ERROR_S)
                continue
            retry_s = 0.0
            if process_queue.dropped:
                return
            if result.status is PullStatus.OFFSET_ILLEGAL:
                self._offset_moved(process_queue, result.next_begin_offset)
                return
            process_queue.next_offset = result.next_begin_offset
            if result.messages:
                self._take(process_queue, subscription, result.messages)
            has_moved = result.next_begin_offset > offset
            del result  # the next pull may take long, and must not keep the messages of this one
            if has_moved or loop.time() - began > 0.5:
                idle_s = 0.0
            else:  # an answer at once that brings nothing (a slave without its master): do not spin
                idle_s = min(max(2 * idle_s, 0.01), 1.0)
                await asyncio.sleep(idle_s)

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
        if self._read_selector is not None and queue.broker_name in routes.brokers:
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
