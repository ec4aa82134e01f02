"""What a consumer subscribes to, and which messages match."""

from __future__ import annotations

import time
from collections.abc import Collection

from ...errors import ClientError
from ...model import PROPERTY_RETRY_TOPIC, PROPERTY_TAGS, MessageExt, topic_name_error
from ...protocol.bodies.heartbeat import SubscriptionData
from ...protocol.properties import tags_code

EXPRESSION_TYPES = ("TAG", "SQL92")

_last_version = 0
"""Of the subscription that was made last in this process."""


def _next_version() -> int:
    """Time in ms, as every client does it, but growing: brokers ignore a subscription that is not newer."""
    global _last_version
    _last_version = max(_last_version + 1, int(time.time() * 1000))
    return _last_version


def check_topic_name(topic: str) -> None:
    """Raises ClientError for a topic name that brokers would refuse."""
    problem = topic_name_error(topic)
    if problem:
        raise ClientError(problem)


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
        restored.append(message.rewritten(topic=topic) if topic else message)
    return restored
