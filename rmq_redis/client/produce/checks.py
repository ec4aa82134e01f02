"""What a producer refuses before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import MessageIllegalLocallyError, RemoteProtocolError
from ...model import SYSTEM_TOPICS_NOT_WRITABLE, Message, MessageExt, topic_name_error
from ...protocol.recall_handle import RecallHandle, decode_recall_handle


def check_topic(topic: str) -> None:
    """Raises MessageIllegalLocallyError for a topic that nobody can send to."""
    problem = topic_name_error(topic)
    if problem is None and topic in SYSTEM_TOPICS_NOT_WRITABLE:
        problem = f"the topic {topic} is reserved: clients may not send to it"
    if problem is not None:
        raise MessageIllegalLocallyError(problem)


def check_flag(flag: object) -> None:
    """Raises MessageIllegalLocallyError for a flag that is no signed 32-bit number."""
    if not isinstance(flag, int) or not -0x80000000 <= flag <= 0x7FFFFFFF:
        raise MessageIllegalLocallyError(f"flag={flag!r:.80} is not an int of 32 bits (-2147483648 to 2147483647)")


def check_message(message: object) -> None:
    """Raises MessageIllegalLocallyError for what is no message."""
    if not isinstance(message, Message | MessageExt):  # what was consumed may be sent on
        raise MessageIllegalLocallyError(f"a message must be a Message, not {message!r:.80}; use Message(topic, body)")


def check_messages(messages: object) -> None:
    """Raises MessageIllegalLocallyError for a batch that is empty, or has something that is no message."""
    if not isinstance(messages, Sequence):
        raise MessageIllegalLocallyError(f"a batch must be a list of messages, not {messages!r:.80}")
    if not messages:
        raise MessageIllegalLocallyError("a batch needs at least one message")
    for message in messages:
        if not isinstance(message, Message):
            raise MessageIllegalLocallyError(f"a batch must be a list of messages, this one has {message!r:.80}")


def check_handle(topic: str, text: str) -> RecallHandle:
    """What a recall handle says. Raises MessageIllegalLocallyError for what is none, or one of another topic."""
    if not isinstance(text, str):
        raise MessageIllegalLocallyError(f"recall_handle must be str (SendResult.recall_handle), not {text!r:.80}")
    try:
        handle = decode_recall_handle(text)
    except RemoteProtocolError as error:
        raise MessageIllegalLocallyError(str(error)) from None
    if handle.topic != topic:
        raise MessageIllegalLocallyError(f"the recall handle is of topic {handle.topic!r}, not {topic!r}")
    return handle


def check_body(body: object, max_bytes: int) -> None:
    """Raises MessageIllegalLocallyError for a body that is empty, too large or no bytes."""
    if not isinstance(body, bytes):
        raise MessageIllegalLocallyError(f"the body must be bytes or str, not {type(body).__name__}")
    if not body:
        raise MessageIllegalLocallyError("the body is empty")
    if len(body) > max_bytes:
        raise MessageIllegalLocallyError(f"the body has {len(body)} bytes, at most {max_bytes} are allowed")
