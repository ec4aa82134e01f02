"""RocketMQ's message model for Python teams, with Redis as the only stateful part.

The names below are the public ones. They are imported on first use, so that ``import rmq_redis`` is quick and a
producer never loads what only servers need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.admin import AsyncAdmin
    from .client.app import App
    from .client.consumer import AsyncPushConsumer
    from .client.producer import AsyncProducer
    from .client.pull_consumer import AsyncPullConsumer
    from .client.request_reply import reply_to
    from .client.simple_consumer import AsyncSimpleConsumer
    from .client.sync import Producer, PullConsumer, PushConsumer
    from .client.sync_admin import Admin
    from .client.sync_simple_consumer import SimpleConsumer
    from .client.sync_transaction import TransactionProducer
    from .client.transaction import AsyncTransactionProducer, TransactionListener
    from .client.values import decode_value, value_message
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
    from .hookspecs import hookimpl
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
    ".client.admin": ("AsyncAdmin",),
    ".client.app": ("App",),
    ".client.consumer": ("AsyncPushConsumer",),
    ".client.producer": ("AsyncProducer",),
    ".client.pull_consumer": ("AsyncPullConsumer",),
    ".client.request_reply": ("reply_to",),
    ".client.simple_consumer": ("AsyncSimpleConsumer",),
    ".client.sync": ("Producer", "PullConsumer", "PushConsumer"),
    ".client.sync_admin": ("Admin",),
    ".client.sync_simple_consumer": ("SimpleConsumer",),
    ".client.sync_transaction": ("TransactionProducer",),
    ".client.transaction": ("AsyncTransactionProducer", "TransactionListener"),
    ".client.values": ("decode_value", "value_message"),
    ".config": ("ClientConfig",),
    ".hookspecs": ("hookimpl",),
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
