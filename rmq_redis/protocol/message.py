"""The binary message record, batches, the property string and message ids.

Record, big-endian (IPv4 hosts; each IPv6 host is 12 bytes longer):

    0 totalSize i32 | 4 magic i32 | 8 bodyCRC i32 | 12 queueId i32 | 16 flag i32 | 20 queueOffset i64 |
    28 physicalOffset i64 | 36 sysFlag i32 | 40 bornTimestamp i64 | 48 bornHost 8 | 56 storeTimestamp i64 |
    64 storeHost 8 | 72 reconsumeTimes i32 | 76 preparedTransactionOffset i64 | 84 bodyLength i32 | body |
    topicLength i8 (i16 in version V2) | topic | propertiesLength i16 | properties

Source: RocketMQ 5.3 ``MessageDecoder``, ``MessageExtEncoder``, ``MessageClientIDSetter``.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterable, Mapping

from ..errors import LocalProtocolError, RemoteProtocolError
from ..hosts import offset_msg_id, pack_host, unpack_host  # noqa: F401  (they belong to this page's vocabulary)
from ..model import MAX_PROPERTIES_BYTES, MAX_RETRY_TOPIC_LENGTH, MAX_TOPIC_LENGTH, MessageExt
from .compression import Decompressor, decompress_body

MAGIC_V1 = -626843481
MAGIC_V2 = -626843477
"""Records with a two-byte topic length: those of topics above 127 bytes. Source: ``MessageVersion``."""
_LAST_OF_MAGIC_V2 = MAGIC_V2 & 0xFF
NAME_VALUE_SEPARATOR = "\x01"
PROPERTY_SEPARATOR = "\x02"
QUEUE_ID = slice(12, 16)
"""Where queueId stands in a record, big-endian."""
QUEUE_OFFSET_POSITION = 20
"""Where queueOffset and physicalOffset stand in a record: 16 bytes that are known only after the append."""
BODY_LENGTH_POSITION = 84

OFFSETS = struct.Struct(">qq")
_HEAD_V4 = struct.Struct(">iiiiiqqiq4siq4siiqi")
_HEAD_V4_HOSTS = struct.Struct(">iiiiiqqiq8sq8siqi")
"""The same bytes with each host as a whole."""
_HEAD_SIZE = 88
_FIRST = struct.Struct(">iiiiiqqiq")
_BORN_HOST_V6 = 0x10
_STORE_HOST_V6 = 0x20
_BATCH_HEAD = struct.Struct(">iiiii")

assert _HEAD_V4.size == _HEAD_SIZE


# --- properties --------------------------------------------------------------------------------------------------


def encode_properties(properties: Mapping[str, str]) -> str:
    """Pairs as ``key \\x01 value \\x02 ...``. Pairs with an empty value are left out, as every reader drops them.

    Raises:
        LocalProtocolError: a key or value contains one of the separators, or a key is empty.
    """
    text = "".join([f"{key}\x01{value}\x02" for key, value in properties.items() if value])
    if text.count("\x01") != text.count("\x02") or text.count("\x01") != sum(1 for v in properties.values() if v):
        bad = next(k for k, v in properties.items() if "\x01" in k + v or "\x02" in k + v)
        raise LocalProtocolError(f"property {bad!r} contains U+0001 or U+0002, the separators of the property string")
    if "" in properties:
        raise LocalProtocolError("a property has an empty name")
    return text


def encode_properties_within(properties: Mapping[str, str], max_bytes: int, droppable: Iterable[str]) -> str:
    """As ``encode_properties``, in at most ``max_bytes`` of UTF-8 if leaving out ``droppable`` ones does it.

    Args:
        droppable: names in the order in which they are left out, only as many as it takes.
    """
    text = encode_properties(properties)
    left = dict(properties)
    for name in droppable:
        if len(text.encode()) <= max_bytes:
            break
        if left.pop(name, None) is not None:
            text = encode_properties(left)
    return text


def decode_properties(text: str) -> dict[str, str]:
    """The property string as a dict. What is not a pair is dropped, as every RocketMQ client does."""
    properties: dict[str, str] = {}
    for pair in text.split(PROPERTY_SEPARATOR):
        key, separator, value = pair.partition(NAME_VALUE_SEPARATOR)
        if separator and value:
            properties[key] = value
    return properties


def find_property(text: str, key: str) -> str | None:
    """One property's value without parsing the others; the last one wins, as in ``decode_properties``."""
    marker = key + NAME_VALUE_SEPARATOR
    position = text.rfind(marker)
    while position > 0 and text[position - 1] != PROPERTY_SEPARATOR:
        position = text.rfind(marker, 0, position)
    if position < 0:
        return None
    start = position + len(marker)
    end = text.find(PROPERTY_SEPARATOR, start)
    return text[start:] if end < 0 else text[start:end]


def remove_property(text: str, key: str) -> str:
    """The property string without ``key``."""
    marker = key + NAME_VALUE_SEPARATOR
    if marker not in text:
        return text
    return "".join(
        [pair + PROPERTY_SEPARATOR for pair in text.split(PROPERTY_SEPARATOR) if pair and not pair.startswith(marker)]
    )


def tags_code(tags: str | None) -> int:
    """Java's ``String.hashCode`` of a tag, signed 32 bit; 0 without one. Brokers filter by it."""
    if not tags:
        return 0
    value = 0
    for unit in _utf16_units(tags):
        value = (31 * value + unit) & 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def _utf16_units(text: str) -> Iterable[int]:
    if text.isascii():
        return text.encode()
    data = text.encode("utf-16-be", "surrogatepass")
    return (unit for (unit,) in struct.iter_unpack(">H", data))


# --- addresses and ids -------------------------------------------------------------------------------------------


def parse_offset_msg_id(message_id: str) -> tuple[str, int]:
    """(``ip:port`` of the broker, physical offset) of an offset message id.

    Raises:
        RemoteProtocolError: not 32 or 56 hex digits, or the port in it cannot be one: a producer's id looks the same.
    """
    try:
        data = bytes.fromhex(message_id)
    except ValueError:
        data = b""
    if len(data) not in (16, 28) or len(message_id) not in (32, 56):
        raise RemoteProtocolError(f"{message_id[:80]!r} is not an offset message id (32 or 56 hex digits)")
    if (port := int.from_bytes(data[-12:-8], "big")) > 65535:
        raise RemoteProtocolError(f"{message_id!r} is not an offset message id (it would have the port {port})")
    return unpack_host(data[:-8]), int.from_bytes(data[-8:], "big", signed=True)


class UniqKeyGenerator:
    """Makes UNIQ_KEY, the client's message id: ip, process, salt, ms since the month began, counter; upper-case hex.

    Not thread-safe: one per event loop. Within one millisecond 65,536 ids differ by the counter alone.
    Source: ``MessageClientIDSetter``; 4.x tools compute the time of a message from it, so the format is kept.
    """

    def __init__(self, ip: bytes, process_id: int, salt: bytes, clock: object = None) -> None:
        """
        Args:
            ip: 4 or 16 bytes.
            salt: 4 bytes that tell two generators of one process apart.
        """
        self._prefix = (ip + (process_id & 0xFFFF).to_bytes(2, "big") + salt).hex().upper()
        self._counter = 0
        self._month_start_ms = 0
        self._next_month_ms = 0

    def next(self, now_ms: int) -> str:
        """The next id, for a message made at ``now_ms``."""
        if not self._month_start_ms <= now_ms < self._next_month_ms:
            self._set_month(now_ms)
        self._counter = counter = (self._counter + 1) & 0xFFFF
        return "%s%08X%04X" % (self._prefix, now_ms - self._month_start_ms, counter)  # noqa: UP031  (half the time)

    def _set_month(self, now_ms: int) -> None:
        local = time.localtime(now_ms / 1000)
        self._month_start_ms = int(time.mktime((local.tm_year, local.tm_mon, 1, 0, 0, 0, 0, 0, -1)) * 1000)
        year, month = (local.tm_year + 1, 1) if local.tm_mon == 12 else (local.tm_year, local.tm_mon + 1)
        self._next_month_ms = int(time.mktime((year, month, 1, 0, 0, 0, 0, 0, -1)) * 1000)


def unique_key_time_ms(key: str, now_ms: int) -> int | None:
    """When a UNIQ_KEY was made, in ms: the month before this one if it would lie in the future. None: no such key.

    The key counts from the beginning of the month in its maker's time zone, which is taken to be ours.
    """
    if len(key) not in (32, 56):
        return None
    try:
        since_month_ms = int(key[-12:-4], 16)
        int(key, 16)
    except ValueError:
        return None
    local = time.localtime(now_ms / 1000)
    year, month = local.tm_year, local.tm_mon
    made_ms = int(time.mktime((year, month, 1, 0, 0, 0, 0, 0, -1)) * 1000) + since_month_ms
    if made_ms > now_ms + 3_600_000:
        year, month = (year - 1, 12) if month == 1 else (year, month - 1)
        made_ms = int(time.mktime((year, month, 1, 0, 0, 0, 0, 0, -1)) * 1000) + since_month_ms
    return made_ms


# --- records -----------------------------------------------------------------------------------------------------


def encode_record(
    *,
    topic: bytes,
    body: bytes,
    properties: bytes,
    queue_id: int,
    flag: int,
    sys_flag: int,
    born_timestamp_ms: int,
    born_host: bytes,
    store_timestamp_ms: int,
    store_host: bytes,
    reconsume_times: int = 0,
    prepared_transaction_offset: int = 0,
    queue_offset: int = 0,
    physical_offset: int = 0,
) -> bytes:
    """One message record. ``born_host`` and ``store_host`` are packed hosts; the IPv6 bits of ``sys_flag`` follow them.

    A topic above 127 bytes, the retry topic of POP for long names, makes it a record of version V2.

    Raises:
        LocalProtocolError: topic above 255 bytes, properties above 32767 bytes, or a number out of range.
    """
    if len(topic) <= MAX_TOPIC_LENGTH:
        magic, topic_length = MAGIC_V1, _BYTES[len(topic)]
    else:
        magic, topic_length = MAGIC_V2, _long_topic_length(topic)
    if len(properties) > MAX_PROPERTIES_BYTES:
        raise LocalProtocolError(f"properties of {len(properties)} bytes, at most {MAX_PROPERTIES_BYTES} are allowed")
    sys_flag &= ~(_BORN_HOST_V6 | _STORE_HOST_V6)
    try:
        if len(born_host) == 8 and len(store_host) == 8:
            head = _HEAD_V4_HOSTS.pack(
                90 + len(topic_length) + len(body) + len(topic) + len(properties),
                magic,
                zlib.crc32(body) & 0x7FFFFFFF,
                queue_id,
                flag,
                queue_offset,
                physical_offset,
                sys_flag,
                born_timestamp_ms,
                born_host,
                store_timestamp_ms,
                store_host,
                reconsume_times,
                prepared_transaction_offset,
                len(body),
            )
            return b"".join((head, body, topic_length, topic, len(properties).to_bytes(2, "big"), properties))
    except struct.error as error:
        raise LocalProtocolError(f"message cannot be encoded: {error}") from None
    if len(born_host) == 20:
        sys_flag |= _BORN_HOST_V6
    if len(store_host) == 20:
        sys_flag |= _STORE_HOST_V6
    size = 74 + len(born_host) + len(store_host) + len(body) + len(topic_length) + len(topic) + len(properties)
    try:
        return b"".join(
            (
                _FIRST.pack(
                    size,
                    magic,
                    zlib.crc32(body) & 0x7FFFFFFF,
                    queue_id,
                    flag,
                    queue_offset,
                    physical_offset,
                    sys_flag,
                    born_timestamp_ms,
                ),
                born_host,
                store_timestamp_ms.to_bytes(8, "big", signed=True),
                store_host,
                _TAIL.pack(reconsume_times, prepared_transaction_offset, len(body)),
                body,
                topic_length,
                topic,
                len(properties).to_bytes(2, "big"),
                properties,
            )
        )
    except (struct.error, OverflowError) as error:
        raise LocalProtocolError(f"message cannot be encoded: {error}") from None


def _long_topic_length(topic: bytes) -> bytes:
    """The length of a topic above 127 bytes, as a record of version V2 has it."""
    if len(topic) > MAX_RETRY_TOPIC_LENGTH:
        raise LocalProtocolError(f"topic of {len(topic)} bytes, at most {MAX_RETRY_TOPIC_LENGTH} fit into a record")
    return len(topic).to_bytes(2, "big")


_TAIL = struct.Struct(">iqi")
_BYTES = [bytes((value,)) for value in range(256)]


def store_timestamp_position(record: bytes, start: int = 0) -> int:
    """Where the store time (ms, 8 bytes) of the record at ``start`` stands: behind the born host."""
    return start + (68 if record[start + 39] & _BORN_HOST_V6 else 56)


def record_properties_start(record: bytes) -> int:
    """Position of a record's property string (after its length). For records that we made ourselves."""
    sys_flag = int.from_bytes(record[36:40], "big")
    position = BODY_LENGTH_POSITION
    if sys_flag & _BORN_HOST_V6:
        position += 12
    if sys_flag & _STORE_HOST_V6:
        position += 12
    position += 4 + int.from_bytes(record[position : position + 4], "big")
    if record[7] == _LAST_OF_MAGIC_V2:
        return position + 2 + int.from_bytes(record[position : position + 2], "big") + 2
    return position + 1 + record[position] + 2


def decode_records(
    data: bytes,
    *,
    decompress: bool = True,
    broker_name: str = "",
    read_body: bool = True,
    decompressor: Decompressor | None = None,
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
    host_cache: dict[bytes, str] = {}
    unpack = _HEAD_V4.unpack_from
    try:
        while position < end:
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
                _born_ip,
                _born_port,
                store_ms,
                _store_ip,
                _store_port,
                reconsume_times,
                prepared_offset,
                body_length,
            ) = unpack(data, position)
            if sys_flag & (_BORN_HOST_V6 | _STORE_HOST_V6):
                (born_host, store_ms, store_host, reconsume_times, prepared_offset, body_length, body_start) = (
                    _decode_v6(data, position, sys_flag)
                )
            else:
                key = data[position + 48 : position + 56]
                born_host = host_cache.get(key) or host_cache.setdefault(key, unpack_host(key))
                key = data[position + 64 : position + 72]
                store_host = host_cache.get(key) or host_cache.setdefault(key, unpack_host(key))
                body_start = position + _HEAD_SIZE
            body_end = body_start + body_length
            record_end = position + size
            if magic == MAGIC_V1:
                topic_start = body_end + 1
                topic_end = topic_start + data[body_end]
            elif magic == MAGIC_V2:
                topic_start = body_end + 2
                topic_end = topic_start + int.from_bytes(data[body_end:topic_start], "big")
            else:
                raise RemoteProtocolError(f"record at byte {position} has magic {magic}")
            properties_start = topic_end + 2
            properties_end = properties_start + int.from_bytes(data[topic_end:properties_start], "big")
            if body_length < 0 or properties_end != record_end or record_end > end:
                raise RemoteProtocolError(f"record at byte {position}: {size} bytes announced do not match its fields")
            body = data[body_start:body_end]
            body_error = None
            if sys_flag & 1 and decompress:
                if decompressor is None:
                    body = decompress_body(body, sys_flag)
                else:
                    body, body_error = decompressor.read(body, sys_flag)
                    if decompressor.left_bytes < 0 and messages:
                        decompressor.is_cut = True
                        break
            text = data[properties_start:properties_end].decode()
            properties = {}
            for pair in text.split("\x02"):
                name, separator, value = pair.partition("\x01")
                if separator and value:
                    properties[name] = value
            messages.append(
                MessageExt(
                    data[topic_start:topic_end].decode(),
                    body,
                    properties,
                    flag,
                    queue_id,
                    queue_offset,
                    physical_offset,
                    sys_flag,
                    born_ms,
                    born_host,
                    store_ms,
                    store_host,
                    reconsume_times,
                    prepared_offset,
                    size,
                    broker_name,
                    body_error,
                )
            )
            position = record_end
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"record at byte {position} is malformed: {error}") from None
    return messages


def _decode_v6(data: bytes, start: int, sys_flag: int) -> tuple[str, int, str, int, int, int, int]:
    born_end = start + 48 + (20 if sys_flag & _BORN_HOST_V6 else 8)
    store_start = born_end + 8
    store_end = store_start + (20 if sys_flag & _STORE_HOST_V6 else 8)
    reconsume_times, prepared_offset, body_length = _TAIL.unpack_from(data, store_end)
    return (
        unpack_host(data[start + 48 : born_end]),
        int.from_bytes(data[born_end:store_start], "big", signed=True),
        unpack_host(data[store_start:store_end]),
        reconsume_times,
        prepared_offset,
        body_length,
        store_end + 16,
    )


# --- batches -----------------------------------------------------------------------------------------------------


def encode_batch_item(body: bytes, properties: bytes, flag: int = 0) -> bytes:
    """One message of a batch body.

    Raises:
        LocalProtocolError: properties above 32767 bytes.
    """
    if len(properties) > MAX_PROPERTIES_BYTES:
        raise LocalProtocolError(f"properties of {len(properties)} bytes, at most {MAX_PROPERTIES_BYTES} are allowed")
    size = 22 + len(body) + len(properties)
    return b"%b%b%b%b" % (
        _BATCH_HEAD.pack(size, 0, 0, flag, len(body)),
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
    unpack = _BATCH_HEAD.unpack_from
    try:
        while position < end:
            size, _magic, _crc, flag, body_length = unpack(data, position)
            body_end = position + 20 + body_length
            properties_start = body_end + 2
            item_end = position + size
            if (
                body_length < 0
                or item_end > end
                or properties_start + int.from_bytes(data[body_end:properties_start], "big") != item_end
            ):
                raise RemoteProtocolError(
                    f"batch item at byte {position}: {size} bytes announced do not match its fields"
                )
            items.append((flag, data[position + 20 : body_end], data[properties_start:item_end]))
            position = item_end
    except struct.error as error:
        raise RemoteProtocolError(f"batch item at byte {position} is malformed: {error}") from None
    if not items:
        raise RemoteProtocolError("a batch without messages")
    return items


def batch_to_records(
    data: bytes,
    *,
    topic: bytes,
    queue_id: int,
    sys_flag: int,
    born_timestamp_ms: int,
    born_host: bytes,
    store_timestamp_ms: int,
    store_host: bytes,
    change: Callable[[bytes], tuple[int, bytes]],
    change_all: bool,
    suffix: bytes,
    max_nums: int = 1 << 31,
) -> list[bytes]:
    """The items of a batch body as message records, in one pass: a batch has hundreds of them.

    Args:
        change: gets an item's property bytes, returns what stands in place of its queueOffset and the properties to
            store. Called for items without UNIQ_KEY, without a separator at the end or with other than ASCII, and with
            ``change_all`` for all.
        suffix: property bytes put behind every item's own.

    Raises:
        RemoteProtocolError: empty, an item with an empty body, or one that does not fit its own lengths.
        LocalProtocolError: topic above 255 bytes, properties above 32767 bytes, or more than ``max_nums`` items.
    """
    is_v4 = len(born_host) == 8 and len(store_host) == 8
    records: list[bytes] = []
    position, end = 0, len(data)
    unpack, pack, crc32 = _BATCH_HEAD.unpack_from, _HEAD_V4_HOSTS.pack, zlib.crc32
    if len(topic) <= MAX_TOPIC_LENGTH:
        magic, topic_part = MAGIC_V1, _BYTES[len(topic)] + topic
    else:
        magic, topic_part = MAGIC_V2, _long_topic_length(topic) + topic
    fixed_size = 90 + len(topic_part)
    suffix_size = len(suffix)
    try:
        while position < end:
            if len(records) >= max_nums:
                raise LocalProtocolError(f"the batch has more than {max_nums} messages (max_batch_msg_nums)")
            size, _magic, _crc, flag, body_length = unpack(data, position)
            body_end = position + 20 + body_length
            properties_start = body_end + 2
            item_end = position + size
            if (
                body_length <= 0
                or item_end > end
                or properties_start + (data[body_end] << 8 | data[body_end + 1]) != item_end
            ):
                what = "is empty" if body_length == 0 else f"announces {size} bytes, which do not match its fields"
                raise RemoteProtocolError(f"batch item at byte {position} {what}")
            body = data[position + 20 : body_end]
            properties = data[properties_start:item_end]
            offset = 0
            if (
                change_all
                or not (properties.startswith(b"UNIQ_KEY\x01") or b"\x02UNIQ_KEY\x01" in properties)
                or properties[-1] != 2
                or not properties.isascii()  # must be UTF-8, or no consumer could read the record
            ):
                offset, properties = change(properties)
            if not is_v4:
                records.append(
                    encode_record(
                        topic=topic,
                        body=body,
                        properties=properties + suffix,
                        queue_id=queue_id,
                        flag=flag,
                        sys_flag=sys_flag,
                        born_timestamp_ms=born_timestamp_ms,
                        born_host=born_host,
                        store_timestamp_ms=store_timestamp_ms,
                        store_host=store_host,
                        queue_offset=offset,
                    )
                )
                position = item_end
                continue
            properties_size = len(properties) + suffix_size
            if properties_size > MAX_PROPERTIES_BYTES:
                raise LocalProtocolError(
                    f"properties of {properties_size} bytes, at most {MAX_PROPERTIES_BYTES} are allowed"
                )
            head = pack(
                fixed_size + body_length + properties_size,
                magic,
                crc32(body) & 0x7FFFFFFF,
                queue_id,
                flag,
                offset,
                0,
                sys_flag,
                born_timestamp_ms,
                born_host,
                store_timestamp_ms,
                store_host,
                0,
                0,
                body_length,
            )
            records.append(b"".join((head, body, topic_part, properties_size.to_bytes(2, "big"), properties, suffix)))
            position = item_end
    except (struct.error, IndexError) as error:
        raise RemoteProtocolError(f"batch item at byte {position} is malformed: {error}") from None
    if not records:
        raise RemoteProtocolError("a batch without messages")
    return records
