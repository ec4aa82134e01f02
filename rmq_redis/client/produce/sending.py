"""A message as the frame of SEND_MESSAGE_V2, quickly: what a queue's frames have in common is made once.

One send must cost a few microseconds, so the header is formatted text instead of an encoded dict.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Sequence

import msgspec

from ...codes import CURRENT_VERSION, MessageSysFlag, RequestCode
from ...errors import ClientError, LocalProtocolError, MessageIllegalLocallyError, RemoteProtocolError
from ...model import (
    DEFAULT_QUEUE_NUMS,
    DEFAULT_TOPIC,
    LATER_PROPERTIES,
    MAX_PROPERTIES_BYTES,
    PROPERTY_KEYS,
    PROPERTY_SHARDING_KEY,
    PROPERTY_TAGS,
    PROPERTY_UNIQ_KEY,
    PROPERTY_WAIT,
    RETRY_PREFIX,
    SYSTEM_TOPICS_NOT_WRITABLE,
    Message,
    MessageQueue,
    topic_name_error,
)
from ...protocol.message import UniqKeyGenerator, encode_batch_item, encode_properties
from ...protocol.recall_handle import RecallHandle, decode_recall_handle

COMPRESSION_LEVEL = 5
_COMPRESS_IN_THREAD_BYTES = 128 * 1024
_PROBES, _PROBE_BYTES = 4, 1024
_WORTHWHILE = 0.97
_LATER_PROPERTIES = frozenset(LATER_PROPERTIES)
_MAX_CHARACTERS_OF_PROPERTIES = MAX_PROPERTIES_BYTES // 4  # fewer cannot be too many bytes

encode_json = msgspec.json.Encoder().encode


class QueueTarget:
    """Where messages for one queue go, and the constant parts of their frames.

    ``head % (sys_flag, born_timestamp_ms, flag, properties_json, opaque)`` is the header of a request.
    """

    __slots__ = ("address", "batch_head", "head", "oneway_head", "queue")

    def __init__(
        self, group: str, queue: MessageQueue, address: str, code: RequestCode = RequestCode.SEND_MESSAGE_V2
    ) -> None:
        self.queue = queue
        self.address = address
        self.head = _head_template(group, queue, code, batch=False, oneway=False)
        self.oneway_head = _head_template(group, queue, code, batch=False, oneway=True)
        self.batch_head = _head_template(group, queue, RequestCode.SEND_BATCH_MESSAGE, batch=True, oneway=False)


def _head_template(group: str, queue: MessageQueue, code: RequestCode, *, batch: bool, oneway: bool) -> bytes:
    def text(value: str) -> bytes:
        return encode_json(value).replace(b"%", b"%%")

    return b"".join(
        (
            b'{"code":%d,"extFields":{"a":%b,"b":%b' % (code, text(group), text(queue.topic)),
            b',"c":%b,"d":"%d"' % (text(DEFAULT_TOPIC), DEFAULT_QUEUE_NUMS),
            b',"e":"%d","f":"%%d","g":"%%d","h":"%%d","i":%%b,"j":"0","k":"false"' % queue.queue_id,
            b',"m":"%b","n":%b}' % (b"true" if batch else b"false", text(queue.broker_name)),
            b',"flag":%d,"language":"PYTHON","opaque":%%d' % (2 if oneway else 0),
            b',"serializeTypeCurrentRPC":"JSON","version":%d}' % CURRENT_VERSION,
        )
    )


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


def check_timeout(timeout_s: object) -> None:
    """Raises ClientError for a ``timeout_s`` that is no number of seconds."""
    if not isinstance(timeout_s, int | float) or math.isnan(timeout_s):
        raise ClientError(f"timeout_s={timeout_s!r:.80} is not a number of seconds")


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


def property_text(message: Message, key: str | None, unique_key: str) -> tuple[str, str]:
    """(property string, message id) of a message that has properties, tags, keys or a sharding key.

    A UNIQ_KEY or WAIT among the message's own properties is kept.

    Raises:
        MessageIllegalLocallyError: a separator in a name or value, an empty name, or too many bytes.
    """
    properties = dict(message.properties)
    if message.keys:
        properties[PROPERTY_KEYS] = str(message.keys)
    if message.tags:
        properties[PROPERTY_TAGS] = message.tags
    if key is not None:
        properties[PROPERTY_SHARDING_KEY] = key
    properties.setdefault(PROPERTY_UNIQ_KEY, unique_key)
    properties.setdefault(PROPERTY_WAIT, "true")
    try:
        "".join(properties)  # raises TypeError for a name or value that is no str; encode_properties writes anything
        "".join(properties.values())
        text = encode_properties(properties)
    except LocalProtocolError as error:
        raise MessageIllegalLocallyError(str(error)) from None
    except TypeError:
        name, value = next((name, value) for name, value in properties.items() if not _are_texts(name, value))
        if not isinstance(name, str):
            raise MessageIllegalLocallyError(f"the name of a property must be str, not {name!r:.80}") from None
        shown = "tags (one tag)" if name == PROPERTY_TAGS else f"property {name!r}"
        raise MessageIllegalLocallyError(f"{shown} must be str, not {value!r:.80}") from None
    if len(text) > _MAX_CHARACTERS_OF_PROPERTIES or not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise MessageIllegalLocallyError(f"a property cannot be written as UTF-8: {error}") from None
        if size > MAX_PROPERTIES_BYTES:
            raise MessageIllegalLocallyError(f"the properties have {size} bytes, at most {MAX_PROPERTIES_BYTES} fit")
    return text, properties[PROPERTY_UNIQ_KEY]


def _are_texts(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


def _may_shrink(body: bytes) -> bool:
    """Whether a few pieces of a body shrink. Of images, archives and encrypted data nothing does, and zlib takes 2 ms
    for 64 KiB to find out.
    """
    if len(body) <= _PROBES * _PROBE_BYTES:
        return True
    step = (len(body) - _PROBE_BYTES) // (_PROBES - 1)
    sample = b"".join(body[start : start + _PROBE_BYTES] for start in range(0, len(body) - _PROBE_BYTES + 1, step))
    return len(zlib.compress(sample, 1)) < _WORTHWHILE * len(sample)


def compress(body: bytes) -> tuple[bytes, int]:
    """(body, sysFlag), compressed when that makes it smaller. Type bits 0: every version reads that as zlib."""
    if not _may_shrink(body):
        return body, 0
    smaller = zlib.compress(body, COMPRESSION_LEVEL)
    return (smaller, int(MessageSysFlag.COMPRESSED)) if len(smaller) < len(body) else (body, 0)


async def compress_large(body: bytes) -> tuple[bytes, int]:
    """As ``compress``; what takes long is done in a thread."""
    return await asyncio.to_thread(compress, body) if len(body) >= _COMPRESS_IN_THREAD_BYTES else compress(body)


def encode_batch(
    messages: Sequence[Message], key: str | None, unique_keys: UniqKeyGenerator, now_ms: int, max_bytes: int
) -> tuple[bytes, list[str]]:
    """(batch body, message ids).

    Raises:
        MessageIllegalLocallyError: several topics, a delayed message, a %RETRY% topic, or too many bytes.
    """
    topic = messages[0].topic
    if topic.startswith(RETRY_PREFIX):
        raise MessageIllegalLocallyError(f"a batch cannot go to a retry topic ({topic})")
    items: list[bytes] = []
    ids: list[str] = []
    size = 0
    for message in messages:
        if message.topic != topic:
            raise MessageIllegalLocallyError(f"a batch has one topic, this one has {topic!r} and {message.topic!r}")
        if message.properties and not _LATER_PROPERTIES.isdisjoint(message.properties):
            raise MessageIllegalLocallyError("a delayed message cannot be part of a batch")
        check_body(message.body, max_bytes)
        if message.flag != 0:
            check_flag(message.flag)
        message_id = unique_keys.next(now_ms)
        if message.tags or message.keys or message.properties or key is not None:
            text, message_id = property_text(message, key, message_id)
            properties = text.encode()
        else:
            properties = b"UNIQ_KEY\x01%b\x02WAIT\x01true\x02" % message_id.encode()
        assert isinstance(message.body, bytes)
        item = encode_batch_item(message.body, properties, message.flag)
        size += len(item)
        if size > max_bytes:
            raise MessageIllegalLocallyError(
                f"the batch has more than {max_bytes} bytes (after {len(items)} of {len(messages)} messages): "
                "send it in several parts"
            )
        items.append(item)
        ids.append(message_id)
    return b"".join(items), ids
