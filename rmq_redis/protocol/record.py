"""The binary message record.

Record, big-endian (a host has 8 bytes, or 20 if it is IPv6):

    0 totalSize i32 | 4 magic i32 | 8 bodyCRC i32 | 12 queueId i32 | 16 flag i32 | 20 queueOffset i64 |
    28 physicalOffset i64 | 36 sysFlag i32 | 40 bornTimestamp i64 | 48 bornHost 8 | 56 storeTimestamp i64 |
    64 storeHost 8 | 72 reconsumeTimes i32 | 76 preparedTransactionOffset i64 | 84 bodyLength i32 | body |
    topicLength i8 (i16 in version V2) | topic | propertiesLength i16 | properties

Source: RocketMQ 5.3 ``MessageDecoder``, ``MessageExtEncoder``.
"""

from __future__ import annotations

import struct
import zlib

import msgspec

from ..codes import MessageSysFlag
from ..errors import LocalProtocolError, RemoteProtocolError
from ..hosts import pack_host, unpack_host
from ..model import MAX_PROPERTIES_BYTES, MAX_RETRY_TOPIC_LENGTH, MAX_TOPIC_LENGTH, MessageExt
from .compression import Decompressor, decompress_body
from .properties import decode_properties, encode_properties

MAGIC_V1 = -626843481
MAGIC_V2 = -626843477
"""Records with a two-byte topic length: those of topics above 127 bytes. Source: ``MessageVersion``."""
QUEUE_ID = slice(12, 16)
"""Where queueId stands in a record, big-endian."""
QUEUE_OFFSET_POSITION = 20
"""Where queueOffset and physicalOffset stand in a record: 16 bytes that are known only after the append."""
BODY_LENGTH_POSITION = 84
"""Where bodyLength stands in a record with IPv4 hosts."""
OFFSETS = struct.Struct(">qq")

_LAST_OF_MAGIC_V2 = MAGIC_V2 & 0xFF
_LAST_OF_SYS_FLAG = 39  # position of the byte with the bits of the hosts
_COMPRESSED = int(MessageSysFlag.COMPRESSED)
_BORN_HOST_V6 = int(MessageSysFlag.BORN_HOST_V6)
_STORE_HOST_V6 = int(MessageSysFlag.STORE_HOST_V6)
_HOSTS_V6 = _BORN_HOST_V6 | _STORE_HOST_V6
_HEADS = {
    bits: struct.Struct(f">iiiiiqqiq{20 if bits & _BORN_HOST_V6 else 8}sq{20 if bits & _STORE_HOST_V6 else 8}siqi")
    for bits in (0, _BORN_HOST_V6, _STORE_HOST_V6, _HOSTS_V6)
}
"""All before the body, by the kinds of its hosts."""
_NO_HOSTS = ~_HOSTS_V6
_LAYOUTS = {
    2 * (20 if bits & _BORN_HOST_V6 else 8) + (20 if bits & _STORE_HOST_V6 else 8): (head.pack, head.size, bits)
    for bits, head in _HEADS.items()
}
"""(pack, size of the head, bits of ``sys_flag``) by the sizes of the hosts, the born host's counted twice."""
_BYTES = [bytes((value,)) for value in range(256)]


class RecordHead(msgspec.Struct, gc=False):
    """The fields of a record that stand before its body.

    Attributes:
        sys_flag: without effect in its IPv6 bits, which follow the hosts.
        born_host: as ``pack_host`` returns it, and so is ``store_host``.
        queue_offset: before the append, the hash code of the tag.
    """

    queue_id: int
    flag: int
    sys_flag: int
    born_timestamp_ms: int
    born_host: bytes
    store_timestamp_ms: int
    store_host: bytes
    reconsume_times: int = 0
    prepared_transaction_offset: int = 0
    queue_offset: int = 0
    physical_offset: int = 0


def encode_record(head: RecordHead, topic: bytes, body: bytes, properties: bytes) -> bytes:
    """One message record; of version V2 if the topic is above 127 bytes, as POP's retry topic is for long names.

    Raises:
        LocalProtocolError: topic above 255 bytes, properties above 32767 bytes, or a number out of range.
    """
    if len(topic) <= MAX_TOPIC_LENGTH:  # without a call: one for each message
        magic, topic_part = MAGIC_V1, _BYTES[len(topic)] + topic
    else:
        magic, topic_part = topic_head(topic)
    if len(properties) > MAX_PROPERTIES_BYTES:
        raise properties_too_long(len(properties))
    pack, head_size, host_bits = _LAYOUTS[2 * len(head.born_host) + len(head.store_host)]
    try:
        packed = pack(
            head_size + len(body) + len(topic_part) + 2 + len(properties),
            magic,
            zlib.crc32(body) & 0x7FFFFFFF,
            head.queue_id,
            head.flag,
            head.queue_offset,
            head.physical_offset,
            head.sys_flag & _NO_HOSTS | host_bits,
            head.born_timestamp_ms,
            head.born_host,
            head.store_timestamp_ms,
            head.store_host,
            head.reconsume_times,
            head.prepared_transaction_offset,
            len(body),
        )
    except struct.error as error:
        raise LocalProtocolError(f"message cannot be encoded: {error}") from None
    return b"".join((packed, body, topic_part, len(properties).to_bytes(2, "big"), properties))


def encode_message(message: MessageExt) -> bytes:
    """The record of a message. Raises as ``encode_record``."""
    head = RecordHead(
        message.queue_id,
        message.flag,
        message.sys_flag,
        message.born_timestamp_ms,
        pack_host(message.born_host),
        message.store_timestamp_ms,
        pack_host(message.store_host),
        message.reconsume_times,
        message.prepared_transaction_offset,
        message.queue_offset,
        message.commit_log_offset,
    )
    return encode_record(head, message.topic.encode(), message.body, encode_properties(message.properties).encode())


def middle_of_head(head: RecordHead) -> bytes:
    """The bytes of a record from sysFlag to preparedTransactionOffset, which the messages of a batch share."""
    pack, _, host_bits = _LAYOUTS[2 * len(head.born_host) + len(head.store_host)]
    when_where = (head.born_timestamp_ms, head.born_host, head.store_timestamp_ms, head.store_host)
    return pack(0, 0, 0, 0, 0, 0, 0, head.sys_flag & _NO_HOSTS | host_bits, *when_where, 0, 0, 0)[36:-4]


def topic_head(topic: bytes) -> tuple[int, bytes]:
    """(magic, the topic behind its length). Raises LocalProtocolError: topic above 255 bytes."""
    if len(topic) <= MAX_TOPIC_LENGTH:
        return MAGIC_V1, _BYTES[len(topic)] + topic
    if len(topic) > MAX_RETRY_TOPIC_LENGTH:
        raise LocalProtocolError(f"topic of {len(topic)} bytes, at most {MAX_RETRY_TOPIC_LENGTH} fit into a record")
    return MAGIC_V2, len(topic).to_bytes(2, "big") + topic


def properties_too_long(size: int) -> LocalProtocolError:
    """The error for properties above 32767 bytes."""
    return LocalProtocolError(f"properties of {size} bytes, at most {MAX_PROPERTIES_BYTES} are allowed")


def store_timestamp_position(record: bytes, start: int = 0) -> int:
    """Where the store time (ms, 8 bytes) of the record at ``start`` stands: behind the born host."""
    return start + (68 if record[start + _LAST_OF_SYS_FLAG] & _BORN_HOST_V6 else 56)


def record_properties_start(record: bytes) -> int:
    """Position of a record's property string (after its length). For records that we made ourselves."""
    body_start = _HEADS[record[_LAST_OF_SYS_FLAG] & _HOSTS_V6].size
    position = body_start + int.from_bytes(record[body_start - 4 : body_start], "big")
    if record[7] == _LAST_OF_MAGIC_V2:
        return position + 2 + int.from_bytes(record[position : position + 2], "big") + 2
    return position + 1 + record[position] + 2


def decode_records(
    data: bytes, *, decompress: bool = True, broker_name: str = "", decompressor: Decompressor | None = None
) -> list[MessageExt]:
    """All message records in ``data``, back to back.

    Args:
        decompress: unpack bodies that the producer compressed (zlib; others raise).
        broker_name: set on every message, as the record does not have it.
        decompressor: unpacks the bodies within its bounds. None of them raises: a message has ``body_error`` instead.
            Records beyond its ``left_bytes`` are not returned; there is always one.

    Raises:
        RemoteProtocolError: a record that does not fit its own lengths, or a body that cannot be decompressed.
    """
    messages: list[MessageExt] = []
    position, end = 0, len(data)
    hosts: dict[bytes, str] = {}
    try:
        while position < end:
            message = _decode_record(data, position, hosts, broker_name)
            position += message.store_size
            if message.sys_flag & _COMPRESSED and decompress:
                message = _decompressed(message, decompressor)
                if decompressor and decompressor.left_bytes < 0 and messages:
                    decompressor.is_cut = True
                    break
            messages.append(message)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"record at byte {position} is malformed: {error}") from None
    return messages


def _decode_record(data: bytes, start: int, hosts: dict[bytes, str], broker_name: str) -> MessageExt:
    head = _HEADS[data[start + _LAST_OF_SYS_FLAG] & _HOSTS_V6]
    (
        size,
        magic,
        _crc,
        queue_id,
        flag,
        queue_offset,
        physical_offset,
        sys_flag,
        born_ms,
        born_host,
        store_ms,
        store_host,
        reconsume_times,
        prepared_offset,
        body_length,
    ) = head.unpack_from(data, start)
    body_start, end = start + head.size, start + size
    body_end = body_start + body_length
    if magic == MAGIC_V1:
        topic_start = body_end + 1
        topic_end = topic_start + data[body_end]
    else:
        topic_start, topic_end = _long_topic(data, start, magic, body_end)
    properties_start = topic_end + 2
    properties_end = properties_start + int.from_bytes(data[topic_end:properties_start], "big")
    if body_length < 0 or properties_end != end or end > len(data):
        raise RemoteProtocolError(f"record at byte {start}: {size} bytes announced do not match its fields")
    return MessageExt(
        data[topic_start:topic_end].decode(),
        data[body_start:body_end],
        decode_properties(data[properties_start:end].decode()),
        flag,
        queue_id,
        queue_offset,
        physical_offset,
        sys_flag,
        born_ms,
        hosts.get(born_host) or hosts.setdefault(born_host, unpack_host(born_host)),
        store_ms,
        hosts.get(store_host) or hosts.setdefault(store_host, unpack_host(store_host)),
        reconsume_times,
        prepared_offset,
        size,
        broker_name,
    )


def _long_topic(data: bytes, start: int, magic: int, position: int) -> tuple[int, int]:
    """(start, end) of the topic of a V2 record. Raises RemoteProtocolError: another version."""
    if magic != MAGIC_V2:
        raise RemoteProtocolError(f"record at byte {start} has magic {magic}")
    topic_start = position + 2
    return topic_start, topic_start + int.from_bytes(data[position:topic_start], "big")


def _decompressed(message: MessageExt, decompressor: Decompressor | None) -> MessageExt:
    if decompressor is None:
        return message.rewritten(body=decompress_body(message.body, message.sys_flag))
    body, error = decompressor.read(message.body, message.sys_flag)
    return message.rewritten(body=body, body_error=error)
