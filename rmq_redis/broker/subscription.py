"""Which messages a pull wants: tag filters by hash code."""

from __future__ import annotations

from ..errors import SubscriptionParseFailedError
from ..protocol.message import tags_code

TagFilter = frozenset[int] | None
"""Tag hash codes that pass, or None: everything does. Clients compare the tags themselves again (hashes collide)."""

_cache: dict[str, TagFilter] = {}
_MAX_CACHED = 10_000


def tag_filter(expression: str | None) -> TagFilter:
    """The filter of a TAG expression: ``*`` or empty for everything, else tags separated by ``||``.

    Raises:
        SubscriptionParseFailedError: no tag between the separators.
    """
    if expression is None or expression in ("", "*"):
        return None
    if expression in _cache:
        return _cache[expression]
    tags = [tag for tag in (part.strip() for part in expression.split("||")) if tag]
    if not tags:
        raise SubscriptionParseFailedError(f"the tag expression {expression[:80]!r} names no tag; use * or A || B")
    codes: TagFilter = None if "*" in tags else frozenset(tags_code(tag) for tag in tags)
    if len(_cache) >= _MAX_CACHED:
        _cache.clear()
    _cache[expression] = codes
    return codes
