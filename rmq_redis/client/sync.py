"""Deprecated path of ``rmq_redis.client.blocking``."""

import warnings

from .blocking.loop import background_loop
from .blocking.producer import Producer
from .blocking.pull import PullConsumer
from .blocking.push import PushConsumer

__all__ = ["Producer", "PullConsumer", "PushConsumer", "background_loop"]

warnings.warn("rmq_redis.client.sync has moved to rmq_redis.client.blocking", DeprecationWarning, stacklevel=2)
