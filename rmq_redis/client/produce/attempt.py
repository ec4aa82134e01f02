"""What a producer's send consists of: the queues of a topic, one send's parts, and how an answer is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import NamedTuple

import tenacity

from ...codes import RequestCode, ResponseCode
from ...errors import RemotingConnectError, RemotingError, ResponseError, RouteNotFoundError, response_error
from ...model import SEND_STATUS_BY_CODE, MessageQueue, SendResult, reply_topic
from ...protocol.command import RemotingCommand
from ...protocol.header import SendMessageResponseHeader
from ..core.route import RouteTable, publish_queues
from .sending import QueueTarget

RETRIABLE_CODES = frozenset(
    {
        ResponseCode.SYSTEM_ERROR,
        ResponseCode.SYSTEM_BUSY,
        ResponseCode.SERVICE_NOT_AVAILABLE,
        ResponseCode.NO_PERMISSION,
        ResponseCode.TOPIC_NOT_EXIST,
        ResponseCode.NO_BUYER_ID,
        ResponseCode.NOT_IN_CURRENT_UNIT,
        ResponseCode.GO_AWAY,
    }
)
"""Answers after which a send is tried again on another broker. Source: DefaultMQProducer.retryResponseCodes."""


class PublishTopic:
    """The queues that a topic's messages may go to now.

    Attributes:
        queues: those that can be written now.
        active: of these, those of brokers that are not passed over.
        ordered: those that sharding keys are spread over. In strict order it has queues that cannot be written now.
        is_strict: whether a key keeps its queue while that cannot be written.
    """

    __slots__ = ("active", "is_strict", "ordered", "queues", "targets")

    def __init__(
        self,
        group: str,
        queues: list[MessageQueue],
        addresses: dict[str, str],
        code: RequestCode,
        ordered: list[MessageQueue] | None,
    ) -> None:
        self.queues = queues
        self.is_strict = ordered is not None
        self.ordered = queues if ordered is None else ordered
        self.active = queues
        self.targets = {queue: QueueTarget(group, queue, addresses[queue.broker_name], code) for queue in queues}

    def avoid(self, broker_names: Collection[str]) -> None:
        self.active = [queue for queue in self.queues if queue.broker_name not in broker_names] or self.queues


def make_topic(
    group: str, name: str, routes: RouteTable, ordered: list[MessageQueue] | None = None
) -> PublishTopic | None:
    """The queues of a topic by the routes known now; None when there is none that can be written.

    Args:
        ordered: in strict order, all queues that keys are spread over.
    """
    route = routes.routes.get(name) or routes.default_routes.get(name)
    if route is None:
        return None
    addresses: dict[str, str] = {}
    queues: list[MessageQueue] = []
    for queue in publish_queues(name, route):
        address = routes.master_address(queue.broker_name)
        if address is not None:
            addresses[queue.broker_name] = address
            queues.append(queue)
    if not queues:
        return None
    # All that goes to a cluster's reply topic is a reply. Java looks at every message's MSG_TYPE instead.
    is_reply = any(name == reply_topic(broker.cluster) for broker in route.broker_datas)
    code = RequestCode.SEND_REPLY_MESSAGE_V2 if is_reply else RequestCode.SEND_MESSAGE_V2
    return PublishTopic(group, queues, addresses, code, ordered)


class Send(NamedTuple):
    """One send, encoded: what every attempt needs."""

    topic: str
    batch: bool
    fixed: bool
    sys_flag: int
    born_ms: int
    flag: int
    properties: bytes
    body: bytes
    message_id: str
    deadline: float


def is_retriable(error: BaseException) -> bool:
    """Whether another broker, or the same one later, might take the message."""
    if isinstance(error, ResponseError):
        return error.code in RETRIABLE_CODES
    return isinstance(error, RemotingError | RouteNotFoundError)


def is_away(error: BaseException) -> bool:
    """Whether a broker is not there, or is not the master now: another will be, in a moment."""
    if isinstance(error, ResponseError):
        return error.code in (ResponseCode.SERVICE_NOT_AVAILABLE, ResponseCode.GO_AWAY)
    return isinstance(error, RemotingConnectError | RouteNotFoundError)


def result_of(answer: RemotingCommand, target: QueueTarget, message_id: str, attempts: int) -> SendResult:
    """The result of an answer. Raises the ResponseError of a code that does not mean stored."""
    status = SEND_STATUS_BY_CODE.get(answer.code)
    if status is None:
        raise response_error(answer.code, answer.remark, target.address)
    fields = answer.header(SendMessageResponseHeader)
    queue = target.queue
    if fields.queue_id != queue.queue_id:  # the broker chose another one
        queue = MessageQueue(queue.topic, queue.broker_name, fields.queue_id)
    return SendResult(
        status,
        message_id,
        fields.msg_id,
        queue,
        fields.queue_offset,
        fields.transaction_id or "",
        attempts,
        fields.recall_handle or "",
    )


class StopAtDeadline(tenacity.stop.stop_base):
    """No further attempt after a time of the event loop's clock."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(self, _state: tenacity.RetryCallState) -> bool:
        return asyncio.get_running_loop().time() >= self._deadline


class StopWhen(tenacity.stop.stop_base):
    """No further attempt once a condition holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def __call__(self, _state: tenacity.RetryCallState) -> bool:
        return self._condition()
