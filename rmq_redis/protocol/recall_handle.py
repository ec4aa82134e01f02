"""The handle by which a message that waits for its time is recalled: text that only brokers make.

URL-safe base64 of ``v1 <topic> <brokerName> <due time in ms> <UNIQ_KEY>``.

Source: RocketMQ 5.3 ``RecallMessageHandle``.
"""

from __future__ import annotations

import base64
from typing import NamedTuple

from ..errors import RemoteProtocolError

_VERSION = "v1"


class RecallHandle(NamedTuple):
    """What a handle says. ``deliver_ms`` is when the message is due, in ms since 1970."""

    topic: str
    broker_name: str
    deliver_ms: int
    unique_key: str


def encode_recall_handle(handle: RecallHandle) -> str:
    """The handle as text. Topic and broker name have no blanks."""
    return base64.urlsafe_b64encode(" ".join((_VERSION, *map(str, handle))).encode()).decode()


def decode_recall_handle(text: str) -> RecallHandle:
    """What a handle says.

    Raises:
        RemoteProtocolError: not a handle; the text shows what came.
    """
    try:
        version, topic, broker_name, deliver_ms, unique_key = base64.urlsafe_b64decode(text).decode().split(" ", 4)
        if version != _VERSION or not deliver_ms.isdecimal() or len(deliver_ms) > 18:
            raise ValueError
        return RecallHandle(topic, broker_name, int(deliver_ms), unique_key)
    except ValueError:
        raise RemoteProtocolError(f"recall handle is invalid: {text[:100]!r}") from None
