"""Deprecated path of ``rmq_redis.client.admin.dead_letters``."""

import warnings

from .admin.dead_letters import DeadLetters, as_sent, ids_of, origin_topic

__all__ = ["DeadLetters", "as_sent", "ids_of", "origin_topic"]

warnings.warn(
    "rmq_redis.client.dead_letters has moved to rmq_redis.client.admin.dead_letters", DeprecationWarning, stacklevel=2
)
