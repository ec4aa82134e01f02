"""Bounds of a request's size: its body is parsed in one turn of the event loop, and all clients wait meanwhile."""

from __future__ import annotations

import msgspec

from ..codes import RequestCode
from ..protocol.command import RemotingCommand

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Largest JSON body."""
MAX_BODY_VALUES = 60_000
"""Values and lists of a JSON body; a heartbeat of 1,000 groups or a request with 5,000 topics has fewer."""
_MAX_LENIENT_VALUES = 2000
"""The same if the body is not standard JSON (bare keys, as from old clients): its parser is slower."""
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
    """Why a request is too large to be parsed, or None. Message bodies have bounds of their own."""
    body = command.body
    if len(body) <= _SMALL_BYTES or command.code in _MESSAGE_BODIES:
        return None
    if len(body) > MAX_BODY_BYTES:
        return (
            f"the body of request {command.code} has {len(body)} bytes, at most {MAX_BODY_BYTES} are allowed; split it"
        )
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > MAX_BODY_VALUES:
        return (
            f"the body of request {command.code} has {values} values, at most {MAX_BODY_VALUES} are allowed; split it"
        )
    if values > _MAX_LENIENT_VALUES or len(body) > 64 * 1024:
        try:
            msgspec.json.decode(body, type=msgspec.Raw)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return f"the body of request {command.code} has {values} values and is not standard JSON: {error}"
    return None
