"""The values that the roles exchange: messages, queues, results, routes. Frozen where they are shared.

Everything here is plain data without a network, a clock or Redis: ``msgspec.Struct`` classes, because a consumer
makes one ``MessageExt`` per message, and these are built in C.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import IntEnum, StrEnum
from typing import Self, TypedDict, Unpack

import msgspec

from .codes import Perm, ResponseCode
from .durations import LAST_MS, as_seconds, as_timestamp_ms
from .errors import MessageIllegalLocallyError
from .hosts import offset_msg_id

DEFAULT_TOPIC = "TBW102"
"""The template topic from which brokers create topics on first use (RocketMQ ``AUTO_CREATE_TOPIC_KEY_TOPIC``)."""
MAX_QUEUE_NUMS = 1024
"""Queues that a topic may have in one broker group."""
DEFAULT_QUEUE_NUMS = 4
"""Read and write queues that an automatically created topic gets in each broker group."""
RETRY_PREFIX = "%RETRY%"
DLQ_PREFIX = "%DLQ%"
ORDER_TOPIC_CONFIG = "ORDER_TOPIC_CONFIG"
"""KV namespace of the NameServer: topic -> its queues, ``broker-a:4;broker-b:4``, if order counts."""
MASTER_ID = 0
MAX_TOPIC_LENGTH = 127
MAX_RETRY_TOPIC_LENGTH = 255
"""Of ``%RETRY%`` and ``%DLQ%`` topics: POP's ``%RETRY%<group>_<topic>`` fits whatever the two names are."""
MAX_GROUP_LENGTH = 120
MAX_PROPERTIES_BYTES = 32767
DELAY_LEVELS_S = (1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
"""Seconds of the delay levels 1 to 18. Source: ``messageDelayLevel``."""
MAX_DELAY_LEVEL = len(DELAY_LEVELS_S)
DEFAULT_MAX_RECONSUME_TIMES = 16
"""Further tries of a message before it becomes a dead letter. Source: ``SubscriptionGroupConfig.retryMaxTimes``."""
DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024

PROPERTY_KEYS = "KEYS"
KEY_SEPARATOR = " "
"""Between the keys of one message. Source: ``MessageConst.KEY_SEPARATOR``."""
PROPERTY_TAGS = "TAGS"
PROPERTY_UNIQ_KEY = "UNIQ_KEY"
PROPERTY_WAIT = "WAIT"
PROPERTY_DELAY = "DELAY"
PROPERTY_TIMER_DELAY_SEC = "TIMER_DELAY_SEC"
PROPERTY_TIMER_DELAY_MS = "TIMER_DELAY_MS"
PROPERTY_TIMER_DELIVER_MS = "TIMER_DELIVER_MS"
LATER_PROPERTIES = (PROPERTY_DELAY, PROPERTY_TIMER_DELAY_SEC, PROPERTY_TIMER_DELAY_MS, PROPERTY_TIMER_DELIVER_MS)
"""What asks for a later delivery; the first of them that a message has counts."""
PROPERTY_RETRY_TOPIC = "RETRY_TOPIC"
PROPERTY_ORIGIN_MESSAGE_ID = "ORIGIN_MESSAGE_ID"
PROPERTY_RETRY_OFFSET = "RETRY_OFFSET"
"""Physical offset of what failed, in what a consumer sends to the retry topic itself; the broker takes it out."""
PROPERTY_RECONSUME_TIME = "RECONSUME_TIME"
PROPERTY_MAX_RECONSUME_TIMES = "MAX_RECONSUME_TIMES"
PROPERTY_DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC"
PROPERTY_DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID"
PROPERTY_POP_CK = "POP_CK"
PROPERTY_TRANSACTION_PREPARED = "TRAN_MSG"
PROPERTY_PRODUCER_GROUP = "PGROUP"
PROPERTY_CLUSTER = "CLUSTER"
PROPERTY_MESSAGE_TYPE = "MSG_TYPE"
PROPERTY_CORRELATION_ID = "CORRELATION_ID"
PROPERTY_REPLY_TO_CLIENT = "REPLY_TO_CLIENT"
PROPERTY_MESSAGE_TTL = "TTL"
PROPERTY_REGION = "MSG_REGION"
PROPERTY_TRACE_ON = "TRACE_ON"
PROPERTY_CHECK_IMMUNITY_TIME = "CHECK_IMMUNITY_TIME_IN_SECONDS"
PROPERTY_TRANSACTION_CHECK_TIMES = "TRANSACTION_CHECK_TIMES"
PROPERTY_TRANSACTION_ID = "__transactionId__"
PROPERTY_FIRST_POP_TIME = "1ST_POP_TIME"
PROPERTY_CONSUME_START_TIME = "CONSUME_START_TIME"
PROPERTY_MIN_OFFSET = "MIN_OFFSET"
PROPERTY_MAX_OFFSET = "MAX_OFFSET"
PROPERTY_SHARDING_KEY = "__SHARDINGKEY"
PROPERTY_CONTENT_TYPE = "contentType"
"""Media type of the body, as Spring's clients set it, too."""

_NAME = re.compile(r"[%|a-zA-Z0-9_-]+\Z")

TRANS_CHECK_MAX_TIME_TOPIC = "TRANS_CHECK_MAX_TIME_TOPIC"
"""Half messages that were given up."""
PROPERTY_REAL_TOPIC = "REAL_TOPIC"
PROPERTY_REAL_QUEUE_ID = "REAL_QID"

SYSTEM_TOPICS_NOT_WRITABLE = frozenset(
    {
        "SCHEDULE_TOPIC_XXXX",
        "RMQ_SYS_TRANS_HALF_TOPIC",
        "RMQ_SYS_TRANS_OP_HALF_TOPIC",
        TRANS_CHECK_MAX_TIME_TOPIC,
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
    }
)
"""Topics that clients may not send to. Source: ``TopicValidator.NOT_ALLOWED_SEND_TOPIC_SET``."""

SYSTEM_TOPICS = SYSTEM_TOPICS_NOT_WRITABLE | {"TBW102", "BenchmarkTest", "RMQ_SYS_TRACE_TOPIC", "CHECKPOINT_TOPIC"}
"""Topics that nobody creates or deletes by hand; with them everything that begins with ``rmq_sys_``."""


def is_system_topic(topic: str) -> bool:
    """Whether RocketMQ reserves this topic name."""
    return topic in SYSTEM_TOPICS or topic.startswith("rmq_sys_")


def reply_topic(cluster: str) -> str:
    """The topic of replies in a cluster. Source: ``MixAll.getReplyTopic``."""
    return f"{cluster}_REPLY_TOPIC"


def topic_name_error(topic: str) -> str | None:
    """What is wrong with a topic name, or None.

    Letters, digits, ``_``, ``-``, ``%`` and ``|``, at most 127 characters, 255 for ``%RETRY%`` and ``%DLQ%``
    topics. Source: ``TopicValidator.validateTopic``.
    """
    if not isinstance(topic, str):
        return f"the topic must be str, not {topic!r:.80}"
    if not topic or not topic.strip():
        return "the topic is empty"
    if not _NAME.match(topic):
        return f"the topic {topic[:140]!r} may only have letters, digits and the characters _ - % |"
    limit = MAX_RETRY_TOPIC_LENGTH if topic.startswith((RETRY_PREFIX, DLQ_PREFIX)) else MAX_TOPIC_LENGTH
    if len(topic) > limit:
        return f"the topic has {len(topic)} characters, at most {limit} are allowed: {topic[:140]!r}"
    return None


def group_name_error(group: str) -> str | None:
    """What is wrong with a producer or consumer group name, or None (the same characters, 1 to 120 of them)."""
    if not isinstance(group, str):
        return f"the group must be str, not {group!r:.80}"
    if not group or not group.strip():
        return "the group is empty"
    if not _NAME.match(group):
        return f"the group {group[:140]!r} may only have letters, digits and the characters _ - % |"
    if len(group) > MAX_GROUP_LENGTH:
        return f"the group has {len(group)} characters, at most {MAX_GROUP_LENGTH} are allowed: {group[:140]!r}"
    return None


def _joined(keys: Iterable[str]) -> str:
    try:
        return KEY_SEPARATOR.join(keys)
    except TypeError:
        raise MessageIllegalLocallyError(f"keys must be str or a list of str, not {keys!r:.80}") from None


class MessageQueue(msgspec.Struct, frozen=True, order=True, rename="camel"):
    """One queue of a topic in one broker group. Sorts by topic, then broker name, then queue id, as RocketMQ does."""

    topic: str
    broker_name: str
    queue_id: int

    def __str__(self) -> str:
        return f"queue {self.queue_id} of {self.topic} on {self.broker_name}"


def split_keys(text: str) -> list[str]:
    """The business keys in a ``KEYS`` property. Only U+0020 separates them: a tab or U+00A0 is part of a key."""
    return [key for key in text.split(KEY_SEPARATOR) if key]


_OF_A_DELAY = frozenset({*LATER_PROPERTIES, PROPERTY_REAL_TOPIC, PROPERTY_REAL_QUEUE_ID})
"""A message that was delivered late has these; one that is sent on with them is not delayed a second time."""


class Message(msgspec.Struct, kw_only=False):
    """A message to be sent.

    Attributes:
        topic: where it goes.
        body: 1 byte to 4 MiB; a ``str`` is sent as UTF-8.
        tags: one tag (the plural is RocketMQ's), by which consumers can filter; "" for none.
        keys: business keys, by which the message can be looked up; several are joined by blanks.
        properties: any further string pairs; keys and values may not contain U+0001 or U+0002.
        flag: a number of the user's own (32 bits, signed), handed to consumers as it is.

    Raises:
        MessageIllegalLocallyError: a topic, keys or properties of another type. The rest is checked by the send.
    """

    topic: str
    body: bytes | str
    tags: str = ""
    keys: str | list[str] = ""
    properties: dict[str, str] = msgspec.field(default_factory=dict)
    flag: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.body, str):
            try:
                self.body = self.body.encode()
            except UnicodeEncodeError as error:
                raise MessageIllegalLocallyError(f"the body cannot be written as UTF-8: {error}") from None
        if not isinstance(self.keys, str):
            self.keys = _joined(self.keys)
        if not isinstance(self.topic, str):
            raise MessageIllegalLocallyError(f"the topic must be str, not {self.topic!r:.80}")
        if not isinstance(self.properties, dict):
            raise MessageIllegalLocallyError(f"properties must be a dict, not {self.properties!r:.80}")

    def with_delay_level(self, level: int) -> Self:
        """Has the message delivered after the time of a delay level, 1 to 18 (1 s to 2 h); returns the message.

        Raises:
            MessageIllegalLocallyError: no level from 1 to 18.
        """
        if not isinstance(level, int) or isinstance(level, bool) or not 1 <= level <= MAX_DELAY_LEVEL:
            raise MessageIllegalLocallyError(f"delay level {level!r:.80}, expected 1 to {MAX_DELAY_LEVEL}")
        return self._later(PROPERTY_DELAY, level)

    def with_delay_s(self, delay_s: float | timedelta) -> Self:
        """Has the message delivered ``delay_s`` seconds (to the ms) after a broker took it; returns the message.

        Args:
            delay_s: a number of seconds, or a ``timedelta``. What brokers allow is set there (3 days by default).

        Raises:
            MessageIllegalLocallyError: not above 0, not finite, or no duration.
        """
        try:
            seconds = as_seconds(delay_s)
        except ValueError as error:
            raise MessageIllegalLocallyError(f"delay: {error}") from None
        if not 0 < seconds <= LAST_MS / 1000:
            raise MessageIllegalLocallyError(f"delay of {delay_s} s, expected more than 0 and a finite number")
        return self._later(PROPERTY_TIMER_DELAY_MS, max(round(seconds * 1000), 1))

    def with_deliver_at_ms(self, deliver_ms: float) -> Self:
        """Has the message delivered at a time, in ms since 1970, at once if that is past; returns the message.

        Raises:
            MessageIllegalLocallyError: not in the years 1970 to 9999, or no number.
        """
        try:
            return self._later(PROPERTY_TIMER_DELIVER_MS, as_timestamp_ms(deliver_ms))
        except ValueError as error:
            raise MessageIllegalLocallyError(f"delivery time: {error}") from None

    def _later(self, name: str, value: int) -> Self:
        kept = {key: text for key, text in self.properties.items() if key not in _OF_A_DELAY}
        self.properties = kept | {name: str(value)}
        return self

    @property
    def transaction_id(self) -> str:
        """In ``execute_local_transaction``: what identifies the transaction, also when a broker asks about it."""
        return self.properties.get(PROPERTY_UNIQ_KEY, "")


class MessageChanges(TypedDict, total=False):
    """The fields of a ``MessageExt`` that ``rewritten`` can change."""

    topic: str
    body: bytes
    properties: dict[str, str]
    queue_id: int
    queue_offset: int
    commit_log_offset: int
    sys_flag: int
    store_timestamp_ms: int
    store_host: str
    reconsume_times: int
    prepared_transaction_offset: int
    broker_name: str
    body_error: str | None


class MessageExt(msgspec.Struct, frozen=True):
    """A message as a consumer gets it: what was sent, and what the broker knows about it.

    Times are milliseconds since 1970; hosts are ``ip:port``. ``body_error`` says why a compressed body could not be
    decompressed (too large, damaged, not zlib); the body is then as it is stored.
    """

    topic: str
    body: bytes
    properties: dict[str, str]
    flag: int
    queue_id: int
    queue_offset: int
    commit_log_offset: int
    sys_flag: int
    born_timestamp_ms: int
    born_host: str
    store_timestamp_ms: int
    store_host: str
    reconsume_times: int
    prepared_transaction_offset: int
    store_size: int
    broker_name: str = ""
    body_error: str | None = None

    @property
    def tags(self) -> str:
        """Its one tag (the plural is RocketMQ's); "" for none."""
        return self.properties.get(PROPERTY_TAGS, "")

    @property
    def keys(self) -> str:
        """Its business keys, joined by blanks; "" for none."""
        return self.properties.get(PROPERTY_KEYS, "")

    @property
    def msg_id(self) -> str:
        """The id that the producer gave (UNIQ_KEY); without one, the broker's ``offset_msg_id``."""
        return self.properties.get(PROPERTY_UNIQ_KEY) or self.offset_msg_id

    @property
    def offset_msg_id(self) -> str:
        """The broker's id: its address and the message's address in its store, as upper-case hex."""
        return offset_msg_id(self.store_host, self.commit_log_offset)

    @property
    def transaction_id(self) -> str:
        """What identifies the transaction that the message was sent in: the same as its ``msg_id``."""
        return self.msg_id

    @property
    def queue(self) -> MessageQueue:
        """Where it is."""
        return MessageQueue(self.topic, self.broker_name, self.queue_id)

    def rewritten(self, **changes: Unpack[MessageChanges]) -> Self:
        """A copy with some fields changed, as for storing the message again or returning it under another topic."""
        return msgspec.structs.replace(self, **changes)

    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.body.decode()


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


class BrokerData(msgspec.Struct, frozen=True):
    """The addresses of one broker group. Key 0 is the master."""

    cluster: str
    broker_name: str
    broker_addrs: dict[int, str]
    zone_name: str = ""


class QueueData(msgspec.Struct, frozen=True):
    """How many queues of a topic one broker group has, and what may be done with them (``Perm`` bits)."""

    broker_name: str
    read_queue_nums: int
    write_queue_nums: int
    perm: int
    topic_sys_flag: int = 0


class TopicRouteData(msgspec.Struct, frozen=True):
    """Where the queues of a topic are."""

    broker_datas: list[BrokerData]
    queue_datas: list[QueueData]
    order_topic_conf: str | None = None

    def addresses_of(self, broker_name: str) -> dict[int, str]:
        """brokerId -> ``host:port`` of one group; empty for an unknown one."""
        for broker in self.broker_datas:
            if broker.broker_name == broker_name:
                return broker.broker_addrs
        return {}


def subscribe_queues(topic: str, route: TopicRouteData) -> list[MessageQueue]:
    """The queues that can be read, sorted. Source: MQClientInstance.topicRouteData2TopicSubscribeInfo."""
    return sorted(
        MessageQueue(topic, data.broker_name, queue_id)
        for data in route.queue_datas
        if data.perm & Perm.READ
        for queue_id in range(data.read_queue_nums)
    )


class TopicConfig(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a broker group knows of a topic. ``perm`` is made of ``Perm`` bits."""

    topic_name: str
    read_queue_nums: int = DEFAULT_QUEUE_NUMS
    write_queue_nums: int = DEFAULT_QUEUE_NUMS
    perm: int = int(Perm.READ | Perm.WRITE)
    topic_filter_type: str = "SINGLE_TAG"
    topic_sys_flag: int = 0
    order: bool = False
    attributes: dict[str, str] = {}


class DataVersion(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Tells whether a broker's topic table changed: greater counter, newer table."""

    counter: int = 0
    state_version: int = 0
    timestamp: int = 0
