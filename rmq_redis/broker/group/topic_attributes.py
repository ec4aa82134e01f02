"""Topic attributes: their names and values, and how UPDATE_AND_CREATE_TOPIC (17, 18) changes them.

Source: RocketMQ 5.3 ``TopicAttributes``, ``AttributeParser``, ``AttributeUtil``. ``reserve.bytes`` and
``reserve.count`` are additions (``retention``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...errors import InvalidParameterError, ResponseError
from .retention import RESERVE_BYTES, RESERVE_COUNT, RESERVE_TIME, RetentionPolicy, retention_policy

QUEUE_TYPE = "queue.type"
CLEANUP_POLICY = "cleanup.policy"
MESSAGE_TYPE = "message.type"
MIXED = "MIXED"


class Attribute(NamedTuple):
    """An attribute with a fixed set of values.

    Attributes:
        values: the supported ones.
        unsupported: values of RocketMQ that this broker does not support.
        is_changeable: whether it can be set or changed after the topic's creation.
    """

    values: frozenset[str]
    unsupported: frozenset[str] = frozenset()
    is_changeable: bool = True


_ATTRIBUTES = {
    QUEUE_TYPE: Attribute(frozenset({"SimpleCQ"}), frozenset({"BatchCQ"}), is_changeable=False),
    CLEANUP_POLICY: Attribute(frozenset({"DELETE"}), frozenset({"COMPACTION"}), is_changeable=False),
    MESSAGE_TYPE: Attribute(frozenset({"UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION", MIXED})),
}
_RETENTION = frozenset({RESERVE_TIME, RESERVE_BYTES, RESERVE_COUNT})


def parse_changes(text: str | None) -> dict[str, str]:
    """The changes of ``+name=value,-name`` by ``+name`` and ``-name``.

    Raises:
        InvalidParameterError: a malformed entry, or a name twice.
    """
    changes: dict[str, str] = {}
    for part in (text or "").split(","):
        entry = part.strip()
        key, separator, value = entry.partition("=")
        if not entry:
            continue
        if entry[0] not in "+-" or (entry[0] == "+") != bool(separator) or not key[1:]:
            raise InvalidParameterError(f"attribute change {entry[:80]!r} is neither +name=value nor -name")
        if key in changes:
            raise InvalidParameterError(f"attribute change {entry[:80]!r}: the name is there twice")
        changes[key] = value
    return changes


def altered(known: Mapping[str, str] | None, changes: Mapping[str, str], *, allow_mixed: bool) -> dict[str, str]:
    """A topic's attributes after changes by ``+name`` and ``-name``.

    Args:
        known: its present attributes; None for a topic that is being created.
        allow_mixed: whether ``message.type=MIXED`` is allowed.

    Raises:
        ResponseError: SYSTEM_ERROR, as Apache's broker answers: an unknown attribute, an illegal value, an attribute
            that cannot be changed any more, or a removal of one that is not set.
        InvalidParameterError: ``MIXED``, or a malformed retention attribute.
    """
    result = dict(known or {})
    names = [key[1:] for key in changes]
    for key, value in changes.items():
        name = key[1:]
        if names.count(name) > 1:
            raise ResponseError(f"topic attribute {name!r:.80}: changed twice in one request")
        if key[:1] == "+":
            _check(name, value, result, is_new=known is None, allow_mixed=allow_mixed)
            result[name] = value
        elif key[:1] == "-" and name in result:
            _check_changeable(name)
            del result[name]
        else:
            raise ResponseError(f"topic attribute {key!r:.80}: expected +name, or -name of one that the topic has")
    retention_policy(RetentionPolicy(), result)
    return result


def _check(name: str, value: str, known: Mapping[str, str], *, is_new: bool, allow_mixed: bool) -> None:
    attribute = _ATTRIBUTES.get(name)
    if attribute is None:
        if name not in _RETENTION:
            there_are = ", ".join(sorted({*_ATTRIBUTES, *_RETENTION}))
            raise ResponseError(f"topic attribute {name!r:.80} is unknown; there are: {there_are}")
        return
    if value in attribute.unsupported:
        raise ResponseError(f"topic attribute {name}={value} is not supported")
    if value not in attribute.values:
        raise ResponseError(
            f"topic attribute {name}={value!r:.80}; expected one of {', '.join(sorted(attribute.values))}"
        )
    if value == MIXED and not allow_mixed:
        raise InvalidParameterError("MIXED message type is not supported; enable_mixed_message_type allows it")
    if not is_new and known.get(name) != value:
        _check_changeable(name)


def _check_changeable(name: str) -> None:
    attribute = _ATTRIBUTES.get(name)
    if attribute and not attribute.is_changeable:
        raise ResponseError(f"topic attribute {name} can only be set when the topic is created")
