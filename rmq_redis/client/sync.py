"""Deprecated path of ``rmq_redis.client.blocking``."""

import warnings

from .blocking.facades import Producer, PullConsumer, PushConsumer
from .blocking.loop import background_loop

__all__ = ["Producer", "PullConsumer", "PushConsumer", "background_loop"]

warnings.warn("rmq_redis.client.sync has moved to rmq_redis.client.blocking", DeprecationWarning, stacklevel=2)
