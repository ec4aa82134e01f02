"""Filters of subscriptions: by tags or by an SQL92 condition."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ...errors import ResponseError, SubscriptionParseFailedError
from ...protocol.properties import tags_code
from ...protocol.record import QUEUE_OFFSET_POSITION

TAG = "TAG"
SQL92 = "SQL92"


FIRST_SHARE = 0.25
"""A filter's ``share`` before the first read."""


class MessageFilter(Protocol):
    """Decides whether a subscription gets a stored record. None instead of a filter: it gets all.

    Attributes:
        share: the share of the records tested lately that passed, above 0 to 1; see ``reads``.
    """

    share: float

    def matches(self, record: bytes) -> bool:
        """Whether the stored record passes. Raises nothing."""
        ...


class TagFilter:
    """Passes tags by hash code, as RocketMQ's brokers do; clients then compare the tags themselves."""

    __slots__ = ("_codes", "share")

    def __init__(self, tags: list[str]) -> None:
        # stored records have the code in place of the queue offset: see ``store.group.queue``
        self.share = FIRST_SHARE
        self._codes = frozenset(tags_code(tag).to_bytes(8, "big", signed=True) for tag in tags)

    def matches(self, record: bytes) -> bool:
        return record[QUEUE_OFFSET_POSITION : QUEUE_OFFSET_POSITION + 8] in self._codes


MAX_TAG_EXPRESSION_LENGTH = 16 * 1024
"""Characters of a tag expression; one of SQL92 has a bound of its own."""

_MAX_CACHED = 1000
"""Filters; with the next bound, of characters, it bounds the cache's memory: clients can make up expressions."""
_MAX_CACHED_LENGTH = 1024 * 1024
"""1 MiB for all expressions: a few of the longest, or a thousand of the usual ones."""


class _Refused(NamedTuple):
    """Why an expression is refused. The error itself is not kept: its traceback would hold the whole request."""

    reason: str


class _Cache:
    """Filters by type and expression, up to a number of filters and a total length of expressions."""

    def __init__(self) -> None:
        self.filters: dict[tuple[str, str], MessageFilter | _Refused | None] = {}
        self._length = 0

    def put(self, key: tuple[str, str], made: MessageFilter | _Refused | None) -> None:
        self._length += len(key[1])
        if len(self.filters) >= _MAX_CACHED or self._length > _MAX_CACHED_LENGTH:
            self.filters.clear()
            self._length = len(key[1])
        self.filters[key] = made


_cache = _Cache()


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
    text = expression or ""
    if kind == TAG and len(text) > MAX_TAG_EXPRESSION_LENGTH:
        raise SubscriptionParseFailedError(
            f"the tag expression has {len(text)} characters, at most {MAX_TAG_EXPRESSION_LENGTH} are allowed"
        )
    key = (kind, text)
    if key not in _cache.filters:
        try:
            made: MessageFilter | _Refused | None = _make(*key)
        except SubscriptionParseFailedError as error:  # refuse a client's repeated requests as cheaply
            made = _Refused(error.remark)
        _cache.put(key, made)
    known = _cache.filters[key]
    if isinstance(known, _Refused):
        raise SubscriptionParseFailedError(known.reason)
    return known


def _make(kind: str, expression: str) -> MessageFilter | None:
    if kind == SQL92:
        from .sql import compile_sql

        return compile_sql(expression)
    if kind != TAG:
        raise ResponseError(f"the broker does not filter by {kind[:20]!r}; it knows TAG and SQL92")
    tags = [tag for tag in (part.strip() for part in expression.split("||")) if tag]
    if not tags:
        raise SubscriptionParseFailedError(f"the tag expression {expression[:80]!r} names no tag; use * or A || B")
    return None if "*" in tags else TagFilter(tags)
