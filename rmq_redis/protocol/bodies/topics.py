"""Bodies about topics and consumer groups. Source: RocketMQ 5.3 ``remoting/protocol/body``."""

from __future__ import annotations

from typing import Any, Self

from ...errors import InvalidParameterError
from ...model import DataVersion, TopicConfig
from ..group_config import SubscriptionGroupConfig
from ..headers.base import without_nulls
from .base import Body, convert, object_body
from .registration import topic_config


class TopicList(Body, frozen=True, kw_only=True):
    """Answer to every request for names of topics. ``broker_addr``: a broker to ask for its own system topics."""

    broker_addr: str | None = None
    topic_list: list[str] = []


class GroupList(Body, frozen=True):
    """Answer to QUERY_TOPIC_CONSUME_BY_WHO."""

    group_list: list[str] = []


class SubscriptionGroupTable(Body, frozen=True, kw_only=True):
    """Answer to GET_ALL_SUBSCRIPTIONGROUP_CONFIG."""

    data_version: DataVersion = DataVersion()
    forbidden_table: dict[str, Any] = {}
    subscription_group_table: dict[str, SubscriptionGroupConfig] = {}


class TopicConfigList(Body, frozen=True):
    """Body of UPDATE_AND_CREATE_TOPIC_LIST."""

    topic_config_list: list[TopicConfig]

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises InvalidParameterError: there is no list; RemoteProtocolError: an item is no topic config."""
        return cls([topic_config(item) for item in _list_in(data, "topicConfigList")])


class GroupConfigList(Body, frozen=True):
    """Body of UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST."""

    group_config_list: list[SubscriptionGroupConfig]

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises InvalidParameterError: there is no list; RemoteProtocolError: an item is no group config."""
        items = [without_nulls(item) if isinstance(item, dict) else item for item in _list_in(data, "groupConfigList")]
        return cls([convert(item, SubscriptionGroupConfig) for item in items])


class KvTable(Body, frozen=True):
    """Answers that are a table of texts: GET_KVLIST_BY_NAMESPACE, REGISTER_BROKER, GET_BROKER_RUNTIME_INFO."""

    table: dict[str, str]

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The table; values that are no text become it. Raises RemoteProtocolError."""
        table = convert(object_body(data).get("table") or {}, dict[str, Any])
        return cls({name: str(value) for name, value in table.items()})


class BrokerMembers(Body, frozen=True, kw_only=True):
    """A broker group: its addresses by broker id."""

    broker_addrs: dict[int, str]
    broker_name: str
    cluster: str


class BrokerMemberGroup(Body, frozen=True):
    """Answer to GET_BROKER_MEMBER_GROUP."""

    broker_member_group: BrokerMembers


def _list_in(data: bytes, name: str) -> list[Any]:
    items = object_body(data).get(name)
    if not isinstance(items, list):
        raise InvalidParameterError(f"{name} is missing")
    return items
