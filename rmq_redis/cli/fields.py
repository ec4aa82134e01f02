"""Messages and send results as JSON objects."""

from __future__ import annotations

import base64
from typing import Any

from ..model import MessageExt, SendResult


def message_fields(message: MessageExt) -> dict[str, Any]:
    """A message as JSON; a body that is not UTF-8 is base64 in ``body_base64``."""
    try:
        body = {"body": message.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(message.body).decode()}
    return {
        "topic": message.topic,
        "broker_name": message.broker_name,
        "queue_id": message.queue_id,
        "queue_offset": message.queue_offset,
        "msg_id": message.msg_id,
        "offset_msg_id": message.offset_msg_id,
        "tags": message.tags,
        "keys": message.keys,
        "properties": message.properties,
        "born_timestamp_ms": message.born_timestamp_ms,
        "store_timestamp_ms": message.store_timestamp_ms,
        "reconsume_times": message.reconsume_times,
        **({"body_error": message.body_error} if message.body_error else {}),
        **body,
    }


def send_result(result: SendResult) -> dict[str, Any]:
    """A ``SendResult`` as JSON."""
    return {
        "status": str(result.status),
        "msg_id": result.msg_id,
        "offset_msg_id": result.offset_msg_id,
        "topic": result.queue.topic,
        "broker_name": result.queue.broker_name,
        "queue_id": result.queue.queue_id,
        "queue_offset": result.queue_offset,
        "attempts": result.attempts,
        "recall_handle": result.recall_handle,
    }
