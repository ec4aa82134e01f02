"""What a send, a transaction, a pull and a handler return, and the modes of consuming."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum

import msgspec

from ..codes import ResponseCode
from .messages import MessageExt, MessageQueue

DEFAULT_MAX_RECONSUME_TIMES = 16
"""Further tries of a message before it becomes a dead letter. Source: ``SubscriptionGroupConfig.retryMaxTimes``."""


class SendStatus(StrEnum):
    """All of these mean stored; the last three, that a flush or a replica did not confirm in time."""

    SEND_OK = "SEND_OK"
    FLUSH_DISK_TIMEOUT = "FLUSH_DISK_TIMEOUT"
    FLUSH_SLAVE_TIMEOUT = "FLUSH_SLAVE_TIMEOUT"
    SLAVE_NOT_AVAILABLE = "SLAVE_NOT_AVAILABLE"


SEND_STATUS_BY_CODE: Mapping[int, SendStatus] = {
    ResponseCode.SUCCESS: SendStatus.SEND_OK,
    ResponseCode.FLUSH_DISK_TIMEOUT: SendStatus.FLUSH_DISK_TIMEOUT,
    ResponseCode.FLUSH_SLAVE_TIMEOUT: SendStatus.FLUSH_SLAVE_TIMEOUT,
    ResponseCode.SLAVE_NOT_AVAILABLE: SendStatus.SLAVE_NOT_AVAILABLE,
}


class SendResult(msgspec.Struct, frozen=True):
    """Where a message went.

    Attributes:
        msg_id: the client's id (UNIQ_KEY); of a batch, all of them joined by commas.
        offset_msg_id: the broker's id; of a batch, all of them joined by commas.
        queue_offset: offset of the message in ``queue``; of a batch, of its first message.
        attempts: how often it was sent; above 1, an earlier attempt whose answer was lost may have stored it too.
        recall_handle: of a message that is delivered later: by which ``recall`` takes it back; "" when it cannot.
    """

    status: SendStatus
    msg_id: str
    offset_msg_id: str
    queue: MessageQueue
    queue_offset: int
    transaction_id: str = ""
    attempts: int = 1
    recall_handle: str = ""


class LocalTransactionState(StrEnum):
    """How a local transaction ended. UNKNOW (RocketMQ's spelling) decides nothing: the broker asks later."""

    COMMIT_MESSAGE = "COMMIT_MESSAGE"
    ROLLBACK_MESSAGE = "ROLLBACK_MESSAGE"
    UNKNOW = "UNKNOW"


class TransactionSendResult(SendResult, frozen=True):
    """Where a half message went, and what became of its local transaction.

    Attributes:
        error: what the listener raised; the state is UNKNOW then.
    """

    local_transaction_state: LocalTransactionState = LocalTransactionState.UNKNOW
    error: BaseException | None = None


class PullStatus(IntEnum):
    """What a pull found; its numbers are the codes of the answer."""

    FOUND = ResponseCode.SUCCESS
    NO_NEW_MSG = ResponseCode.PULL_NOT_FOUND
    NO_MATCHED_MSG = ResponseCode.PULL_RETRY_IMMEDIATELY
    OFFSET_ILLEGAL = ResponseCode.PULL_OFFSET_MOVED

    def __str__(self) -> str:
        return self.name


class PullResult(msgspec.Struct, frozen=True):
    """Answer to one pull. ``next_begin_offset`` is where to go on, also when there is no message."""

    status: PullStatus
    next_begin_offset: int
    min_offset: int
    max_offset: int
    messages: list[MessageExt]
    suggest_which_broker_id: int = 0


class MessageModel(StrEnum):
    """Whether the members of a group share the messages of a topic, or each gets all of them."""

    BROADCASTING = "BROADCASTING"
    CLUSTERING = "CLUSTERING"


class ConsumeType(StrEnum):
    CONSUME_ACTIVELY = "CONSUME_ACTIVELY"
    CONSUME_PASSIVELY = "CONSUME_PASSIVELY"
    CONSUME_POP = "CONSUME_POP"


class ConsumeResult(StrEnum):
    """What a message handler answers. None and True mean SUCCESS; False and an exception mean LATER."""

    SUCCESS = "CONSUME_SUCCESS"
    LATER = "RECONSUME_LATER"


class ConsumeFromWhere(StrEnum):
    """Where a consumer group that has no offset yet begins in a queue."""

    CONSUME_FROM_LAST_OFFSET = "CONSUME_FROM_LAST_OFFSET"
    CONSUME_FROM_FIRST_OFFSET = "CONSUME_FROM_FIRST_OFFSET"
    CONSUME_FROM_TIMESTAMP = "CONSUME_FROM_TIMESTAMP"
