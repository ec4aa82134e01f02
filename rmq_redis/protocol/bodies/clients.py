"""Bodies about the clients of a broker: connections, subscriptions, locks, and what a member says of itself.

Source: RocketMQ 5.3 ``ConsumerConnection``, ``ProducerTableInfo``, ``ConsumerRunningInfo``, ``ProcessQueueInfo``,
``ConsumeMessageDirectlyResult``, ``LockBatchRequestBody``, ``QueryAssignmentRequestBody``.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec

from ...errors import InvalidParameterError, RemoteProtocolError
from ...model import MessageQueue
from .base import Body, convert, decode_queue_set, object_body
from .heartbeat import SubscriptionData, subscription_data

# --- members ---------------------------------------------------------------------------------------------------------


class ClientConnection(Body, frozen=True, kw_only=True):
    """One client as a broker sees it."""

    client_addr: str = ""
    client_id: str
    language: str = ""
    version: int = 0


class ConsumerConnection(Body, frozen=True, kw_only=True):
    """Answer to GET_CONSUMER_CONNECTION_LIST.

    Attributes:
        warnings: what keeps the members from working together; other clients pass over it, Apache's brokers omit it.
    """

    connection_set: list[ClientConnection] = []
    consume_from_where: str = ""
    consume_type: str = ""
    message_model: str = ""
    warnings: list[str] = []
    subscription_table: dict[str, SubscriptionData] = {}

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Subscriptions as lenient as in a heartbeat. Raises RemoteProtocolError."""
        value = object_body(data)
        subscriptions = value.get("subscriptionTable") or {}
        try:
            return cls(
                connection_set=convert(value.get("connectionSet") or [], list[ClientConnection]),
                consume_from_where=str(value.get("consumeFromWhere") or ""),
                consume_type=str(value.get("consumeType") or ""),
                message_model=str(value.get("messageModel") or ""),
                warnings=[str(text) for text in value.get("warnings") or ()],
                subscription_table={topic: subscription_data(item) for topic, item in subscriptions.items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RemoteProtocolError(f"malformed consumer connections: {error!r}") from None


class ProducerConnection(Body, frozen=True):
    """Answer to GET_PRODUCER_CONNECTION_LIST."""

    connection_set: list[ClientConnection]


class ProducerInfo(Body, frozen=True, kw_only=True):
    """A producer; ``last_update_timestamp`` is the time (ms) of its last heartbeat."""

    client_id: str
    language: str
    last_update_timestamp: int
    remote_ip: str = msgspec.field(name="remoteIP")
    version: int


class ProducerTable(Body, frozen=True):
    """Answer to GET_ALL_PRODUCER_INFO: producers by group."""

    data: dict[str, list[ProducerInfo]]


class GroupSubscription(Body, frozen=True, kw_only=True):
    """Answer to QUERY_SUBSCRIPTION_BY_CONSUMER."""

    group: str
    topic: str
    subscription_data: SubscriptionData | None


class ConsumerIds(Body, frozen=True):
    """Answer to GET_CONSUMER_LIST_BY_GROUP."""

    consumer_id_list: list[str] = []


class ClientConfigCheck(Body, frozen=True, kw_only=True):
    """Body of CHECK_CLIENT_CONFIG. A broker reads no more than topic, expression and its type."""

    client_id: str
    group: str
    namespace: str = ""
    subscription_data: SubscriptionData | None = None

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The check as any client writes it. Raises RemoteProtocolError."""
        value = object_body(data)
        item = value.get("subscriptionData")
        subscription = None
        if isinstance(item, dict):
            subscription = SubscriptionData(
                topic=str(item.get("topic") or ""),
                sub_string=str(item.get("subString") or ""),
                expression_type=str(item.get("expressionType") or "TAG"),
            )
        return cls(
            client_id=str(value.get("clientId") or ""),
            group=str(value.get("group") or ""),
            subscription_data=subscription,
        )


# --- locks and assignments -------------------------------------------------------------------------------------------


class LockRequest(Body, frozen=True, kw_only=True):
    """Body of LOCK_BATCH_MQ and UNLOCK_BATCH_MQ."""

    client_id: str
    consumer_group: str
    mq_set: list[MessageQueue] = []


class LockedQueues(Body, frozen=True):
    """Answer to LOCK_BATCH_MQ: the queues that the client has the lock of."""

    locked: list[MessageQueue] = msgspec.field(name="lockOKMQSet")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError."""
        return cls(decode_queue_set(object_body(data).get("lockOKMQSet")))


class AssignmentQuery(Body, frozen=True, kw_only=True):
    """Body of QUERY_ASSIGNMENT."""

    topic: str
    consumer_group: str
    client_id: str
    message_model: str = "CLUSTERING"
    strategy_name: str = ""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError."""
        value = object_body(data)
        return cls(
            topic=_text(value, "topic"),
            consumer_group=_text(value, "consumerGroup"),
            client_id=_text(value, "clientId"),
            message_model=str(value.get("messageModel") or "CLUSTERING"),
            strategy_name=str(value.get("strategyName") or ""),
        )


class Assignment(Body, frozen=True, kw_only=True):
    """A queue, and whether it is to be pulled or popped from."""

    message_queue: MessageQueue
    mode: str


class Assignments(Body, frozen=True):
    """Answer to QUERY_ASSIGNMENT; without a list, the client keeps what it has."""

    message_queue_assignments: list[Assignment] | None = None


class RequestModeChange(Body, frozen=True, kw_only=True):
    """Body of SET_MESSAGE_REQUEST_MODE. ``mode`` is PULL or POP."""

    topic: str
    consumer_group: str
    mode: str
    pop_share_queue_num: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError: no topic or group; InvalidParameterError: another mode, or no number."""
        value = object_body(data)
        topic, group = _text(value, "topic"), _text(value, "consumerGroup")
        mode, nums = value.get("mode"), value.get("popShareQueueNum", 0)
        if mode not in REQUEST_MODES or not isinstance(nums, int):
            raise InvalidParameterError(f"mode {mode!r:.40} with popShareQueueNum {nums!r:.40}; expected PULL or POP")
        return cls(topic=topic, consumer_group=group, mode=str(mode), pop_share_queue_num=nums)


REQUEST_MODES = ("PULL", "POP")


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise RemoteProtocolError(f"assignment: {name} must be text, got {value!r:.40}")
    return value


# --- what a member says of itself ------------------------------------------------------------------------------------


class ProcessQueueInfo(Body, frozen=True, kw_only=True):
    """How far a member is in one queue."""

    cached_msg_count: int
    cached_msg_max_offset: int
    cached_msg_min_offset: int
    cached_msg_size_in_mib: int = msgspec.field(name="cachedMsgSizeInMiB")
    commit_offset: int
    dropped: bool = msgspec.field(name="droped")
    last_consume_timestamp: int = 0
    last_lock_timestamp: int = 0
    last_pull_timestamp: int
    locked: bool
    transaction_msg_count: int = 0
    transaction_msg_max_offset: int = 0
    transaction_msg_min_offset: int = 0
    try_unlock_times: int = 0


class ConsumerRunningInfo(Body, frozen=True, kw_only=True):
    """Answer to GET_CONSUMER_RUNNING_INFO."""

    mq_pop_table: dict[MessageQueue, Any] = {}
    mq_table: dict[MessageQueue, ProcessQueueInfo]
    properties: dict[str, str]
    status_table: dict[str, Any] = {}
    subscription_set: list[SubscriptionData]
    user_consumer_info: dict[str, str] = {}


class ConsumeDirectlyResult(Body, frozen=True, kw_only=True):
    """Answer to CONSUME_MESSAGE_DIRECTLY; ``consume_result`` is a name of Java's ``CMResult``."""

    auto_commit: bool = True
    consume_result: str
    order: bool
    remark: str | None
    spent_time_mills: int
