"""Deprecated path of ``rmq_redis.plugins.guards``."""

import warnings

from .plugins.guards import (
    GuardedAllocation,
    GuardedReadSelector,
    GuardedRouteFilter,
    GuardedSelector,
    allocation_error,
    shares_error,
)

__all__ = [
    "GuardedAllocation",
    "GuardedReadSelector",
    "GuardedRouteFilter",
    "GuardedSelector",
    "allocation_error",
    "shares_error",
]

warnings.warn("rmq_redis.guards has moved to rmq_redis.plugins.guards", DeprecationWarning, stacklevel=2)
