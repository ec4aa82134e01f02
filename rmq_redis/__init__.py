"""RocketMQ's message model for Python teams, with Redis as the only stateful part.

The names below are the public ones. They are imported on first use, so that ``import rmq_redis`` is quick and a
producer never loads what only servers need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.admin.admin import AsyncAdmin
    from .client.app import App
    from .client.blocking.admin import Admin
    from .client.blocking.producer import Producer
    from .client.blocking.pull import PullConsumer
    from .client.blocking.push import PushConsumer
    from .client.blocking.simple import SimpleConsumer
    from .client.blocking.transaction import TransactionProducer
    from .client.consume.pull import AsyncPullConsumer
    from .client.consume.push import AsyncPushConsumer
    from .client.consume.simple import AsyncSimpleConsumer
    from .client.core.values import decode_value, value_message
    from .client.produce.producer import AsyncProducer
    from .client.produce.request_reply import reply_to
    from .client.produce.transaction import AsyncTransactionProducer, TransactionListener
    from .config import ClientConfig
    from .errors import (
        ClientError,
        ConfigError,
        ConnectionClosedError,
        MessageDecodeError,
        MessageIllegalLocallyError,
        MessageRefusedError,
        RemotingConnectError,
        RemotingError,
        ReplyTimeoutError,
        RequestTimeoutError,
        ResponseError,
        RmqError,
        RouteNotFoundError,
    )
    from .model import (
        ConsumeFromWhere,
        ConsumeResult,
        LocalTransactionState,
        Message,
        MessageExt,
        MessageModel,
        MessageQueue,
        PullResult,
        PullStatus,
        SendResult,
        SendStatus,
        TransactionSendResult,
    )
    from .plugins.hookspecs import hookimpl
    from .runtime import stop_signals

__all__ = [
    "Admin",
    "App",
    "AsyncAdmin",
    "AsyncProducer",
    "AsyncPullConsumer",
    "AsyncPushConsumer",
    "AsyncSimpleConsumer",
    "AsyncTransactionProducer",
    "ClientConfig",
    "ClientError",
    "ConfigError",
    "ConnectionClosedError",
    "ConsumeFromWhere",
    "ConsumeResult",
    "LocalTransactionState",
    "Message",
    "MessageDecodeError",
    "MessageExt",
    "MessageIllegalLocallyError",
    "MessageModel",
    "MessageQueue",
    "MessageRefusedError",
    "Producer",
    "PullConsumer",
    "PullResult",
    "PullStatus",
    "PushConsumer",
    "RemotingConnectError",
    "RemotingError",
    "ReplyTimeoutError",
    "RequestTimeoutError",
    "ResponseError",
    "RmqError",
    "RouteNotFoundError",
    "SendResult",
    "SendStatus",
    "SimpleConsumer",
    "TransactionListener",
    "TransactionProducer",
    "TransactionSendResult",
    "__version__",
    "decode_value",
    "hookimpl",
    "reply_to",
    "stop_signals",
    "value_message",
]

_MODULES = {
    ".client.admin.admin": ("AsyncAdmin",),
    ".client.app": ("App",),
    ".client.consume.push": ("AsyncPushConsumer",),
    ".client.produce.producer": ("AsyncProducer",),
    ".client.consume.pull": ("AsyncPullConsumer",),
    ".client.produce.request_reply": ("reply_to",),
    ".client.consume.simple": ("AsyncSimpleConsumer",),
    ".client.blocking.producer": ("Producer",),
    ".client.blocking.push": ("PushConsumer",),
    ".client.blocking.pull": ("PullConsumer",),
    ".client.blocking.admin": ("Admin",),
    ".client.blocking.simple": ("SimpleConsumer",),
    ".client.blocking.transaction": ("TransactionProducer",),
    ".client.produce.transaction": ("AsyncTransactionProducer", "TransactionListener"),
    ".client.core.values": ("decode_value", "value_message"),
    ".config": ("ClientConfig",),
    ".plugins.hookspecs": ("hookimpl",),
    ".model": (
        "ConsumeFromWhere",
        "ConsumeResult",
        "LocalTransactionState",
        "Message",
        "MessageExt",
        "MessageModel",
        "MessageQueue",
        "PullResult",
        "PullStatus",
        "SendResult",
        "SendStatus",
        "TransactionSendResult",
    ),
    ".runtime": ("stop_signals",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in __all__:
        value = getattr(import_module(_HOME.get(name, ".errors"), __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rmq-redis")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"
