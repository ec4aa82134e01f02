"""Headers about the clients of a broker, and of what brokers ask them."""

from __future__ import annotations

import msgspec

from .base import Header


class UnregisterClientRequestHeader(Header):
    client_id: str = msgspec.field(name="clientID")
    producer_group: str | None = None
    consumer_group: str | None = None


class ConsumerGroupRequestHeader(Header):
    """GET_CONSUMER_LIST_BY_GROUP, NOTIFY_CONSUMER_IDS_CHANGED, GET_CONSUMER_CONNECTION_LIST."""

    consumer_group: str


class ProducerGroupRequestHeader(Header):
    producer_group: str


class ConsumerRequestHeader(Header):
    """What brokers ask a consumer: 220 and 221 name its ``group``, 307 and 309 its ``consumer_group``."""

    consumer_group: str = ""
    group: str = ""
    topic: str = ""
    broker_name: str = ""


class ConsumerClientRequestHeader(Header):
    """GET_CONSUMER_RUNNING_INFO and CONSUME_MESSAGE_DIRECTLY."""

    consumer_group: str
    client_id: str
    msg_id: str | None = None
    topic: str | None = None


class ConsumerStatusRequestHeader(Header):
    """INVOKE_BROKER_TO_GET_CONSUMER_STATUS, and what the broker asks clients. ``client_addr``: only this client id."""

    topic: str
    group: str
    client_addr: str | None = None
