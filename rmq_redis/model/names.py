"""Topics and groups: which names are legal, and which ones RocketMQ reserves."""

from __future__ import annotations

import re

DEFAULT_TOPIC = "TBW102"
"""The template topic from which brokers create topics on first use (RocketMQ ``AUTO_CREATE_TOPIC_KEY_TOPIC``)."""
RETRY_PREFIX = "%RETRY%"
DLQ_PREFIX = "%DLQ%"
ORDER_TOPIC_CONFIG = "ORDER_TOPIC_CONFIG"
"""KV namespace of the NameServer: topic -> its queues, ``broker-a:4;broker-b:4``, if order counts."""
MAX_TOPIC_LENGTH = 127
"""A record's topic length is one signed byte. Source: ``TopicValidator.TOPIC_MAX_LENGTH``."""
MAX_RETRY_TOPIC_LENGTH = 255
"""Of ``%RETRY%`` and ``%DLQ%`` topics: POP's ``%RETRY%<group>_<topic>`` fits whatever the two names are."""
MAX_GROUP_LENGTH = 120
"""A name of 127 characters with ``%RETRY%`` before it, as topics may have."""
_NAME = re.compile(r"[%|a-zA-Z0-9_-]+\Z")
TRANS_CHECK_MAX_TIME_TOPIC = "TRANS_CHECK_MAX_TIME_TOPIC"
"""Half messages that were given up."""
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
