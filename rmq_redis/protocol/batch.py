"""The body of a batch: its messages back to back, and what a broker makes of them.

Item, big-endian: totalSize i32 | magic i32 | bodyCRC i32 | flag i32 | bodyLength i32 | body | propertiesLength i16 |
properties. Source: RocketMQ 5.3 ``MessageDecoder.encodeMessage``.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable

from ..errors import LocalProtocolError, RemoteProtocolError
from ..model import MAX_PROPERTIES_BYTES
from .record import RecordHead, middle_of_head, properties_too_long, topic_head

_HEAD = struct.Struct(">iiiii")
_FRONT = struct.Struct(">iiiiiqq")
"""What differs between the records of a batch: all before sysFlag."""


def encode_batch_item(body: bytes, properties: bytes, flag: int = 0) -> bytes:
    """One message of a batch body.

    Raises:
        LocalProtocolError: properties above 32767 bytes.
    """
    if len(properties) > MAX_PROPERTIES_BYTES:
        raise properties_too_long(len(properties))
    size = 22 + len(body) + len(properties)
    return b"%b%b%b%b" % (
        _HEAD.pack(size, 0, 0, flag, len(body)),
        body,
        len(properties).to_bytes(2, "big"),
        properties,
    )


def decode_batch(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """(flag, body, property bytes) of every item of a batch body.

    Raises:
        RemoteProtocolError: empty, or an item that does not fit its own lengths.
    """
    items: list[tuple[int, bytes, bytes]] = []
    position, end = 0, len(data)
    try:
        while position < end:
            size, _magic, _crc, flag, body_length = _HEAD.unpack_from(data, position)
            body_end, item_end = position + 20 + body_length, position + size
            properties_size = data[body_end] << 8 | data[body_end + 1]
            if body_length < 0 or item_end > end or body_end + 2 + properties_size != item_end:
                raise _mismatch(position, size, body_length)
            items.append((flag, data[position + 20 : body_end], data[body_end + 2 : item_end]))
            position = item_end
    except (struct.error, IndexError) as error:
        raise RemoteProtocolError(f"batch item at byte {position} is malformed: {error}") from None
    if not items:
        raise RemoteProtocolError("a batch without messages")
    return items


def _mismatch(position: int, size: int, body_length: int) -> RemoteProtocolError:
    what = "is empty" if body_length == 0 else f"announces {size} bytes, which do not match its fields"
    return RemoteProtocolError(f"batch item at byte {position} {what}")


def batch_to_records(
    data: bytes,
    head: RecordHead,
    topic: bytes,
    *,
    change: Callable[[bytes], tuple[int, bytes]],
    change_all: bool,
    code_of: Callable[[bytes], int] | None = None,
    suffix: bytes,
    max_nums: int = sys.maxsize,
) -> list[bytes]:
    """The items of a batch body as message records, in one pass: a batch has hundreds of them.

    Args:
        head: what the records share; each has the flag and the queueOffset of its own item.
        change: property bytes -> (value in place of queueOffset, properties to store). Called for items without
            UNIQ_KEY, without a separator at the end or with other than ASCII, and with ``change_all`` for all.
        code_of: property bytes -> value in place of queueOffset, for the others.
        suffix: property bytes put behind every item's own.

    Raises:
        RemoteProtocolError: empty, an item with an empty body, or one that does not fit its own lengths.
        LocalProtocolError: topic above 255 bytes, properties above 32767 bytes, or more than ``max_nums`` items.
    """
    records: list[bytes] = []
    magic, topic_part = topic_head(topic)
    middle = middle_of_head(head)
    fixed_size = _FRONT.size + len(middle) + 4 + len(topic_part) + 2
    pack, unpack, crc32, queue_id = _FRONT.pack, _HEAD.unpack_from, zlib.crc32, head.queue_id
    position, end, suffix_size = 0, len(data), len(suffix)
    try:
        while position < end:
            if len(records) >= max_nums:
                raise LocalProtocolError(f"the batch has more than {max_nums} messages (max_batch_msg_nums)")
            size, _magic, _crc, flag, body_length = unpack(data, position)
            body_end, item_end = position + 20 + body_length, position + size
            own_size = data[body_end] << 8 | data[body_end + 1]
            if body_length <= 0 or item_end > end or body_end + 2 + own_size != item_end:
                raise _mismatch(position, size, body_length)
            properties, offset = data[body_end + 2 : item_end], 0
            has_key = properties.startswith(b"UNIQ_KEY\x01") or b"\x02UNIQ_KEY\x01" in properties
            # Other than ASCII must be UTF-8, or no consumer could read the record.
            if change_all or not has_key or properties[-1] != 2 or not properties.isascii():
                offset, properties = change(properties)
            elif code_of:
                offset = code_of(properties)
            properties_size = len(properties) + suffix_size
            if properties_size > MAX_PROPERTIES_BYTES:
                raise properties_too_long(properties_size)
            crc = crc32(data[position + 20 : body_end]) & 0x7FFFFFFF
            front = pack(fixed_size + body_length + properties_size, magic, crc, queue_id, flag, offset, 0)
            body = data[position + 16 : body_end]  # with its length, as both formats have it
            size_part = properties_size.to_bytes(2, "big")
            records.append(b"".join((front, middle, body, topic_part, size_part, properties, suffix)))
            position = item_end
    except (struct.error, IndexError) as error:
        raise RemoteProtocolError(f"batch item at byte {position} is malformed: {error}") from None
    if not records:
        raise RemoteProtocolError("a batch without messages")
    return records
