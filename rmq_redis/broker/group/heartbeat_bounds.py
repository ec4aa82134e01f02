"""What a heartbeat may contain. No client needs more, and more would cost the other clients memory and time."""

from __future__ import annotations

from ...errors import InvalidParameterError
from ...model import group_name_error, topic_name_error
from ...protocol.bodies.heartbeat import HeartbeatData
from ..filter.subscription import MAX_TAG_EXPRESSION_LENGTH

MAX_GROUPS = 1000
"""Groups of one connection, producers and consumers together; and subscriptions of one group."""
MAX_MEMBERS = 10_000
"""Client ids of one connection, each counted once for every group that it is in."""
MAX_SUBSCRIPTIONS = 4096
"""Subscriptions of all groups of one heartbeat."""
MAX_CLIENT_ID_LENGTH = 255
"""Characters; an id is ``ip@instanceName``, sometimes with a unit name."""
MAX_EXPRESSIONS_LENGTH = 256 * 1024
"""Characters of all expressions of one heartbeat; every heartbeat compares them."""


def check_heartbeat(heartbeat: HeartbeatData) -> None:
    """Raises InvalidParameterError for a heartbeat with more, or longer, or other names than any client has."""
    if not heartbeat.client_id or len(heartbeat.client_id) > MAX_CLIENT_ID_LENGTH:
        raise InvalidParameterError(
            f"the client id has {len(heartbeat.client_id)} characters, expected 1 to {MAX_CLIENT_ID_LENGTH}"
        )
    consumers = heartbeat.consumer_data_set
    nums = len(consumers) + len(heartbeat.producer_data_set)
    nums = max(nums, *(len(consumer.subscription_data_set) for consumer in consumers), 0)
    if nums > MAX_GROUPS:
        raise InvalidParameterError(
            f"a heartbeat with {nums} groups or subscriptions; at most {MAX_GROUPS} are allowed"
        )
    nums = sum(len(consumer.subscription_data_set) for consumer in consumers)
    if nums > MAX_SUBSCRIPTIONS:
        raise InvalidParameterError(f"a heartbeat with {nums} subscriptions; at most {MAX_SUBSCRIPTIONS} are allowed")
    names = [data.group_name for data in consumers] + [data.group_name for data in heartbeat.producer_data_set]
    for problem in filter(None, map(group_name_error, names)):
        raise InvalidParameterError(problem)
    total = sum(len(data.sub_string) for consumer in consumers for data in consumer.subscription_data_set)
    if total > MAX_EXPRESSIONS_LENGTH:
        raise InvalidParameterError(
            f"the expressions of a heartbeat have {total} characters, at most {MAX_EXPRESSIONS_LENGTH} are allowed"
        )
    for consumer in consumers:
        for subscription in consumer.subscription_data_set:
            error = topic_name_error(subscription.topic)
            length = len(subscription.sub_string)
            if not error and length > MAX_TAG_EXPRESSION_LENGTH:
                error = f"the expression has {length} characters, at most {MAX_TAG_EXPRESSION_LENGTH} are allowed"
            if error:
                raise InvalidParameterError(error)
