"""Interceptors, under the name that plugins import. See ``rmq_redis.plugins.interceptors``."""

from __future__ import annotations

from .plugins.interceptors import (
    HANDLE_METHODS,
    SEND_METHODS,
    CallNext,
    HandleInterceptor,
    SendInterceptor,
)

__all__ = [
    "HANDLE_METHODS",
    "SEND_METHODS",
    "CallNext",
    "HandleInterceptor",
    "SendInterceptor",
]
