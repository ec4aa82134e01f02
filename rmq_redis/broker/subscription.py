"""Which messages a pull wants: the filter of a subscription, by tags or by an SQL92 condition."""

from __future__ import annotations

from typing import Protocol

from ..errors import ResponseError, SubscriptionParseFailedError
from ..protocol.message import QUEUE_OFFSET_POSITION, tags_code

TAG = "TAG"
SQL92 = "SQL92"


class MessageFilter(Protocol):
    """Says of a stored record whether a subscription wants it. Everything is wanted where there is no filter (None)."""

    def matches(self, record: bytes) -> bool:
        """Whether the stored record passes. Raises nothing."""
        ...


class TagFilter:
    """Passes tags by hash code, as RocketMQ's brokers do; clients compare the tags themselves again."""

    __slots__ = ("_codes",)

    def __init__(self, tags: list[str]) -> None:
        # as stored records carry them in place of the queue offset: see store.queue_store
        self._codes = frozenset(tags_code(tag).to_bytes(8, "big", signed=True) for tag in tags)

    def matches(self, record: bytes) -> bool:
        return record[QUEUE_OFFSET_POSITION : QUEUE_OFFSET_POSITION + 8] in self._codes


_cache: dict[tuple[str, str], MessageFilter | SubscriptionParseFailedError | None] = {}
_MAX_CACHED = 1000


def message_filter(expression: str | None, expression_type: str | None = TAG) -> MessageFilter | None:
    """The filter of a subscription; made once per expression.

    Args:
        expression: of TAG: ``*`` or empty for everything, else tags separated by ``||``. Of SQL92: a condition.
        expression_type: None and empty mean TAG.

    Raises:
        SubscriptionParseFailedError: no tag between the separators, or no valid SQL92 condition.
        ResponseError: an expression type that is not known.
    """
    kind = expression_type or TAG
    if kind == TAG and (expression is None or expression in ("", "*")):
        return None
    key = (kind, expression or "")
    if key not in _cache:
        try:
            made: MessageFilter | SubscriptionParseFailedError | None = _make(*key)
        except SubscriptionParseFailedError as error:  # a client that asks again and again is refused as cheaply
            made = error
        if len(_cache) >= _MAX_CACHED:
            _cache.clear()
        _cache[key] = made
    known = _cache[key]
    if isinstance(known, SubscriptionParseFailedError):
        raise SubscriptionParseFailedError(known.remark)
    return known


def _make(kind: str, expression: str) -> MessageFilter | None:
    if kind == SQL92:
        from .sql_filter import compile_sql

        return compile_sql(expression)
    if kind != TAG:
        raise ResponseError(f"the broker does not filter by {kind[:20]!r}; it knows TAG and SQL92")
    tags = [tag for tag in (part.strip() for part in expression.split("||")) if tag]
    if not tags:
        raise SubscriptionParseFailedError(f"the tag expression {expression[:80]!r} names no tag; use * or A || B")
    return None if "*" in tags else TagFilter(tags)
