"""A message encoded once, for as many attempts as its delivery needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ...errors import LocalProtocolError, MessageIllegalLocallyError
from ...model import (
    LATER_PROPERTIES,
    MAX_PROPERTIES_BYTES,
    PROPERTY_KEYS,
    PROPERTY_SHARDING_KEY,
    PROPERTY_TAGS,
    PROPERTY_TRANSACTION_PREPARED,
    PROPERTY_UNIQ_KEY,
    PROPERTY_WAIT,
    RETRY_PREFIX,
    Message,
)
from ...protocol.batch import encode_batch_item
from ...protocol.frame import encode_frame
from ...protocol.ids import UniqKeyGenerator
from ...protocol.properties import encode_properties
from ..core.instance import MQClientInstance
from .checks import check_body, check_flag
from .compression import compress_large

_BATCH_PROPERTIES = "WAIT\x01true\x02"
"""No UNIQ_KEY: brokers up to 5.3 append a batch's properties to those of each message, and it would win."""
_LATER_PROPERTIES = frozenset(LATER_PROPERTIES)
_ALONE = frozenset({*LATER_PROPERTIES, PROPERTY_TRANSACTION_PREPARED, PROPERTY_WAIT})
"""A message with one of these needs a request of its own."""
_MOST_JOINING_BYTES = 8192
"""Bytes of a body, above which a request of its own costs little beside it."""
_MAX_CHARACTERS_OF_PROPERTIES = MAX_PROPERTIES_BYTES // 4  # fewer cannot be too many bytes

_encode_json = msgspec.json.Encoder().encode


class Outgoing(msgspec.Struct, gc=False):
    """A message, or a batch, as every attempt sends it.

    Attributes:
        properties: the property string.
        message_id: the client's id; those of a batch are joined by commas.
        joins: whether it may go in one request with others, see ``bursts``.
        attempts: number of attempts so far.
        is_fixed: whether it must go to the queue chosen for the first attempt.
        timeout_s: seconds that all attempts have together.
        deadline: time of the event loop's clock at which no further attempt begins.
    """

    topic: str
    flag: int
    born_ms: int
    properties: str
    body: bytes
    message_id: str
    sys_flag: int = 0
    is_batch: bool = False
    joins: bool = False
    attempts: int = 1
    is_fixed: bool = False
    timeout_s: float = 0.0
    deadline: float = 0.0

    def frame(self, template: bytes, opaque: int) -> bytes:
        """The request's frame; ``template`` is one of the heads of a ``QueueTarget``."""
        head = template % (self.sys_flag, self.born_ms, self.flag, _encode_json(self.properties), opaque)
        return encode_frame(head, self.body)

    async def compress(self) -> None:
        """Compresses the body if that makes it smaller."""
        self.body, compressed = await compress_large(self.body)
        self.sys_flag |= compressed
        self.joins = self.joins and not compressed


Encode = Callable[[Sequence[Message], str | None], Outgoing]
"""Encodes the messages of one request, and a sharding key."""


class MessageEncoder:
    """Encodes the messages of one client."""

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance
        self._max_bytes = instance.config.max_message_bytes
        self._most_joining_bytes = _MOST_JOINING_BYTES if instance.config.coalesce_sends else -1

    def message(self, messages: Sequence[Message], key: str | None) -> Outgoing:
        """The only one of ``messages``.

        Raises:
            MessageIllegalLocallyError: no broker would store it.
        """
        message = messages[0]
        body: Any = message.body
        if type(body) is not bytes or not 0 < len(body) <= self._max_bytes:
            check_body(body, self._max_bytes)
        if message.flag != 0:
            check_flag(message.flag)
        born_ms = int(time.time() * 1000)
        text, message_id = property_text(message, key, self._instance.unique_keys.next(born_ms))
        joins = len(body) <= self._most_joining_bytes and (
            not message.properties or _ALONE.isdisjoint(message.properties)
        )
        return Outgoing(message.topic, message.flag, born_ms, text, body, message_id, joins=joins)

    def batch(self, messages: Sequence[Message], key: str | None) -> Outgoing:
        """All of ``messages`` in one request.

        Raises:
            MessageIllegalLocallyError: as ``encode_batch``.
        """
        born_ms = int(time.time() * 1000)
        body, ids = encode_batch(messages, key, self._instance.unique_keys, born_ms, self._max_bytes)
        return Outgoing(messages[0].topic, 0, born_ms, _BATCH_PROPERTIES, body, ",".join(ids), is_batch=True)


def joined(outs: Sequence[Outgoing]) -> Outgoing:
    """Messages of one topic that join, as one batch."""
    body = b"".join([encode_batch_item(out.body, out.properties.encode(), out.flag) for out in outs])
    first = outs[0]
    return Outgoing(first.topic, 0, first.born_ms, _BATCH_PROPERTIES, body, "", is_batch=True)


def property_text(message: Message, key: str | None, unique_key: str) -> tuple[str, str]:
    """(property string, message id) of a message. A UNIQ_KEY or WAIT among its own properties is kept.

    Raises:
        MessageIllegalLocallyError: a separator in a name or value, an empty name, or too many bytes.
    """
    if key is None and not (message.tags or message.keys or message.properties):
        return f"UNIQ_KEY\x01{unique_key}\x02WAIT\x01true\x02", unique_key
    properties = dict(message.properties)
    if message.keys:
        properties[PROPERTY_KEYS] = str(message.keys)
    if message.tags:
        properties[PROPERTY_TAGS] = message.tags
    if key is not None:
        properties[PROPERTY_SHARDING_KEY] = key
    properties.setdefault(PROPERTY_UNIQ_KEY, unique_key)
    properties.setdefault(PROPERTY_WAIT, "true")
    text = _encode_properties(properties)
    return text, properties[PROPERTY_UNIQ_KEY]


def _encode_properties(properties: dict[str, str]) -> str:
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
    return text


def _are_texts(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


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
        text, message_id = property_text(message, key, unique_keys.next(now_ms))
        assert isinstance(message.body, bytes)
        item = encode_batch_item(message.body, text.encode(), message.flag)
        size += len(item)
        if size > max_bytes:
            raise MessageIllegalLocallyError(
                f"the batch has more than {max_bytes} bytes (after {len(items)} of {len(messages)} messages): "
                "send it in several parts"
            )
        items.append(item)
        ids.append(message_id)
    return b"".join(items), ids
