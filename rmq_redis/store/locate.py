"""Deprecated path of ``rmq_redis.store.redis.locate`` and ``rmq_redis.store.redis.url``."""

import warnings

from .redis.locate import locator, parse_store_url
from .redis.url import redact

__all__ = ["locator", "parse_store_url", "redact"]

warnings.warn(
    "rmq_redis.store.locate has moved to rmq_redis.store.redis.locate and rmq_redis.store.redis.url",
    DeprecationWarning,
    stacklevel=2,
)
