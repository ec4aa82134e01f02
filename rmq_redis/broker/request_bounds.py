"""What a request may hold at most: parsing its body is work of one turn of the event loop, whatever comes after it."""

from __future__ import annotations

import msgspec

from ..codes import RequestCode
from ..protocol.command import RemotingCommand

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of a request whose body is JSON."""
MAX_BODY_VALUES = 60_000
"""Values and lists of such a body: a heartbeat of 1,000 groups, or 5,000 topics of one request, have fewer."""
_MAX_LENIENT_VALUES = 2000
"""Of a body that is not standard JSON (bare keys, as old clients write them), which takes a slower parser."""
_SMALL_BYTES = 4096
"""A body up to this size cannot hold many values."""
_MESSAGE_BODIES = frozenset(
    {
        RequestCode.SEND_MESSAGE,
        RequestCode.SEND_MESSAGE_V2,
        RequestCode.SEND_BATCH_MESSAGE,
        RequestCode.SEND_REPLY_MESSAGE,
        RequestCode.SEND_REPLY_MESSAGE_V2,
    }
)


def refusal(command: RemotingCommand) -> str | None:
    """Why a request is too large to be parsed; None if it is not. Bodies of messages have bounds of their own."""
    body = command.body
    if len(body) <= _SMALL_BYTES or command.code in _MESSAGE_BODIES:
        return None
    if len(body) > MAX_BODY_BYTES:
        return f"the body of request {command.code} has {len(body)} bytes, at most {MAX_BODY_BYTES} are taken; split it"
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > MAX_BODY_VALUES:
        return f"the body of request {command.code} has {values} values, at most {MAX_BODY_VALUES} are taken; split it"
    if values > _MAX_LENIENT_VALUES or len(body) > 64 * 1024:
        try:
            msgspec.json.decode(body, type=msgspec.Raw)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return f"the body of request {command.code} has {values} values and is not standard JSON: {error}"
    return None
