"""Headers of the NameServer's table of keys and values."""

from __future__ import annotations

from .base import Header


class KvConfigRequestHeader(Header):
    """PUT_KV_CONFIG, GET_KV_CONFIG, DELETE_KV_CONFIG (the latter two without ``value``)."""

    namespace: str
    key: str
    value: str | None = None


class KvConfigResponseHeader(Header):
    value: str | None = None


class KvListRequestHeader(Header):
    namespace: str
