"""A client's heartbeat. Source: RocketMQ 5.3 ``HeartbeatData``."""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import RemoteProtocolError
from ..headers.base import loads_lenient


class SubscriptionData(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One topic of a group's subscription. ``sub_version`` is the ms (or ns) time at which it was made."""

    topic: str
    sub_string: str = "*"
    tags_set: list[str] = []
    code_set: list[int] = []
    sub_version: int = 0
    expression_type: str = "TAG"
    class_filter_mode: bool = False


class ConsumerData(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One consumer group of a client."""

    group_name: str
    consume_type: str = "CONSUME_PASSIVELY"
    message_model: str = "CLUSTERING"
    consume_from_where: str = "CONSUME_FROM_LAST_OFFSET"
    subscription_data_set: list[SubscriptionData] = []
    unit_mode: bool = False


class ProducerData(msgspec.Struct, frozen=True, rename="camel"):
    group_name: str


class HeartbeatData(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Body of HEART_BEAT: the groups that a client is a member of."""

    client_id: str = msgspec.field(name="clientID")
    producer_data_set: list[ProducerData] = []
    consumer_data_set: list[ConsumerData] = []
    heartbeat_fingerprint: int = 0
    without_sub: bool = False


_CONSUME_TYPES = ("CONSUME_ACTIVELY", "CONSUME_PASSIVELY", "CONSUME_POP")
_MESSAGE_MODELS = ("BROADCASTING", "CLUSTERING")
_CONSUME_FROM = (
    "CONSUME_FROM_LAST_OFFSET",
    "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
    "CONSUME_FROM_MIN_OFFSET",
    "CONSUME_FROM_MAX_OFFSET",
    "CONSUME_FROM_FIRST_OFFSET",
    "CONSUME_FROM_TIMESTAMP",
)


def _enum_name(value: Any, names: tuple[str, ...], default: str) -> str:
    """An enumeration as name or as ordinal (client-cpp writes numbers)."""
    if isinstance(value, bool) or value is None:
        return default
    text = str(value)
    if text.isdecimal():
        index = int(text) if len(text) < 4 else len(names)
        return names[index] if index < len(names) else default
    return text


def decode_heartbeat(data: bytes) -> HeartbeatData:
    """A heartbeat as any client writes it: enumerations as names or ordinals, missing lists, numbers as text, the list
    of subscriptions under either of its two names.

    Raises:
        RemoteProtocolError: no client id, or not a heartbeat at all.
    """
    value = loads_lenient(data)
    if not isinstance(value, dict) or not value.get("clientID"):
        raise RemoteProtocolError("heartbeat: no clientID")
    try:
        consumers = [_consumer_data(item) for item in value.get("consumerDataSet") or []]
        producers = [ProducerData(str(item["groupName"])) for item in value.get("producerDataSet") or []]
        return HeartbeatData(
            client_id=str(value["clientID"]),
            producer_data_set=producers,
            consumer_data_set=consumers,
            heartbeat_fingerprint=int(value.get("heartbeatFingerprint") or 0),
            without_sub=value.get("withoutSub") in (True, "true"),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RemoteProtocolError(f"malformed heartbeat: {error!r}") from None


def _consumer_data(item: dict[str, Any]) -> ConsumerData:
    subscriptions = item.get("subscriptionDataSet") or item.get("subscriptionData") or []
    return ConsumerData(
        group_name=str(item["groupName"]),
        consume_type=_enum_name(item.get("consumeType"), _CONSUME_TYPES, "CONSUME_PASSIVELY"),
        message_model=_enum_name(item.get("messageModel"), _MESSAGE_MODELS, "CLUSTERING"),
        consume_from_where=_enum_name(item.get("consumeFromWhere"), _CONSUME_FROM, "CONSUME_FROM_LAST_OFFSET"),
        subscription_data_set=[subscription_data(subscription) for subscription in subscriptions],
        unit_mode=item.get("unitMode") in (True, "true"),
    )


def subscription_data(item: dict[str, Any]) -> SubscriptionData:
    """One subscription as any client writes it."""
    return SubscriptionData(
        topic=str(item["topic"]),
        sub_string=str(item.get("subString") or "*"),
        tags_set=[str(tag) for tag in item.get("tagsSet") or []],
        code_set=[int(code) for code in item.get("codeSet") or []],
        sub_version=int(item.get("subVersion") or 0),
        expression_type=str(item.get("expressionType") or "TAG"),
        class_filter_mode=item.get("classFilterMode") in (True, "true"),
    )
